"""Parse the resources of kernels from the assembler's log (``--ptxas-options=-v``)."""

from __future__ import annotations

import re
from dataclasses import dataclass

__all__ = ["Resources", "parse"]

_ENTRY = re.compile(r"Compiling entry function '(\w+)' for 'sm_\w+'(.*?)(?=Compiling entry function|\Z)", re.S)
_MEMORY = re.compile(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads")
_USED = re.compile(r"Used (\d+) registers(.*)")
_SHARED = re.compile(r"(\d+) bytes smem")
_BARRIERS = re.compile(r"used (\d+) barriers")


@dataclass(frozen=True)
class Resources:
    """Static resources of one kernel on one architecture.

    Attributes
    ----------
    registers : int
        Registers per thread.
    shared : int
        Bytes of static shared memory per block.
    stack : int
        Bytes of local memory per thread: arrays that did not fit into registers, and spilled registers.
    spill_stores, spill_loads : int
        Bytes of registers stored to local memory and loaded back.
    barriers : int
        Named barriers per block.
    """

    registers: int
    shared: int
    stack: int
    spill_stores: int
    spill_loads: int
    barriers: int


def parse(log: str) -> dict[str, Resources]:
    """Parse a log.

    Parameters
    ----------
    log : str
        NVRTC's log, which includes the assembler's.

    Returns
    -------
    dict of str to Resources
        Resources by entry point.

    Raises
    ------
    ValueError
        If the log has another format: finding nothing must not be read as "no spills".
    """
    kernels = {}
    for name, entry in _ENTRY.findall(log):
        memory, used = _MEMORY.search(entry), _USED.search(entry)
        if memory is None or used is None:
            raise ValueError(f"{name}: the assembler's log has an unknown format:\n{entry}")
        shared, barriers = _SHARED.search(used[2]), _BARRIERS.search(used[2])
        kernels[name] = Resources(
            registers=int(used[1]),
            shared=int(shared[1]) if shared else 0,
            stack=int(memory[1]),
            spill_stores=int(memory[2]),
            spill_loads=int(memory[3]),
            barriers=int(barriers[1]) if barriers else 0,
        )
    if not kernels:
        raise ValueError(f"no entry point in the assembler's log:\n{log}")
    return kernels
