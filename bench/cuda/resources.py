"""What a kernel takes of a multiprocessor, read from the assembler's words (``--ptxas-options=-v``)."""

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
    """Static needs of one kernel on one architecture.

    Attributes
    ----------
    registers : int
        A thread.
    shared : int
        Bytes a block, without the dynamic part.
    stack : int
        Bytes a thread: arrays that did not fit registers, and what is spilt. In memory, and slow.
    spill_stores, spill_loads : int
        Bytes of registers moved to memory and back.
    barriers : int
        Named barriers of a block.
    """

    registers: int
    shared: int
    stack: int
    spill_stores: int
    spill_loads: int
    barriers: int

    @property
    def in_registers(self) -> bool:
        """Whether everything a thread holds is in registers: no stack, no spills."""
        return self.stack == self.spill_stores == self.spill_loads == 0


def parse(log: str) -> dict[str, Resources]:
    """Read a log.

    Parameters
    ----------
    log : str
        NVRTC's, with the assembler's part.

    Returns
    -------
    dict of str to Resources
        By entry point.

    Raises
    ------
    ValueError
        For a log in another form: a reading that finds nothing must not pass for "no spills".
    """
    found = {}
    for name, words in _ENTRY.findall(log):
        memory, used = _MEMORY.search(words), _USED.search(words)
        if memory is None or used is None:
            raise ValueError(f"the assembler's words on {name} are in no form known here:\n{words}")
        shared, barriers = _SHARED.search(used[2]), _BARRIERS.search(used[2])
        found[name] = Resources(
            registers=int(used[1]),
            shared=int(shared[1]) if shared else 0,
            stack=int(memory[1]),
            spill_stores=int(memory[2]),
            spill_loads=int(memory[3]),
            barriers=int(barriers[1]) if barriers else 0,
        )
    if not found:
        raise ValueError(f"no entry point in the assembler's words:\n{log}")
    return found
