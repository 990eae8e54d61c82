"""Rank and number of the processes of a launcher, read from the environment: no MPI is loaded.

Programs that a rank starts inherit its environment, and would take themselves for that rank. So `take_over` removes the
launcher's variables from it, once they have served.
"""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Mapping
from typing import NamedTuple

from capgpu.errors import CapgpuError

__all__ = ["Launch", "LaunchError", "check_connection", "launch", "take_over"]


class LaunchError(CapgpuError, RuntimeError):
    """Processes of one job cannot find one another."""


class Launch(NamedTuple):
    """The place of this process among those that were started with it.

    Attributes
    ----------
    launcher : str
        What started them, for messages.
    rank, size : int
        Number of this process, from 0, and of all.
    local_rank, local_size : int
        The same among the processes of this machine.
    variable : str
        The environment variable that says how many there are.
    """

    launcher: str
    rank: int
    size: int
    local_rank: int
    local_size: int
    variable: str = ""


#: The variables of each launcher: rank, size, rank and size on this machine. Those of Open MPI come before Slurm's,
#: which its processes inherit. Slurm sets the size of a step by srun alone, not in a batch script.
_VARIABLES = {
    "mpiexec of Open MPI": (
        "OMPI_COMM_WORLD_RANK",
        "OMPI_COMM_WORLD_SIZE",
        "OMPI_COMM_WORLD_LOCAL_RANK",
        "OMPI_COMM_WORLD_LOCAL_SIZE",
    ),
    "mpiexec of MPICH": ("PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID", "MPI_LOCALNRANKS"),
    "srun": ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID", ""),
}
#: What the names of further variables begin with by which a process finds its launcher.
_PREFIXES = ("PMI_", "PMIX_")

_taken_over: list[Launch | None] = []  # one entry, once the environment no longer says it


def launch(environment: Mapping[str, str] | None = None) -> Launch | None:
    """Return how this process was started, if a launcher of several processes did it.

    Parameters
    ----------
    environment : mapping of str to str, optional
        In place of the process's own environment.

    Returns
    -------
    Launch or None
        None for a process without a launcher, or the only one of it.

    Raises
    ------
    LaunchError
        For numbers that contradict each other.
    """
    if environment is None and _taken_over:
        return _taken_over[0]
    values = os.environ if environment is None else environment
    for launcher, (rank_name, size_name, local_rank_name, local_size_name) in _VARIABLES.items():
        rank, size = _number(values, rank_name), _number(values, size_name)
        if rank is None or size is None or size == 1:
            continue
        if rank >= size:
            raise LaunchError(f"{rank_name}: expected a number below {size_name}={size}, got {rank}.")
        local_rank = _number(values, local_rank_name)
        local_size = _slurm_local_size(values) if launcher == "srun" else _number(values, local_size_name)
        if launcher == "mpiexec of MPICH" and local_size is None:  # srun --mpi=pmi2 sets the first two alone
            local_rank, local_size = _number(values, "SLURM_LOCALID"), _slurm_local_size(values)
        if local_rank is None or local_size is None or local_rank >= local_size:
            local_rank, local_size = 0, 1
        return Launch(launcher, rank, size, local_rank, local_size, size_name)
    return None


def take_over(place: Launch | None) -> None:
    """Remember the place of this process, and remove the launcher's variables from the environment.

    Parameters
    ----------
    place : Launch or None
        What `launch` returns from now on: the place of a connected rank, or None for a process that works alone.
    """
    _taken_over[:] = [place]
    names = {name for names in _VARIABLES.values() for name in names if name}
    for name in [name for name in os.environ if name in names or name.startswith(_PREFIXES)]:
        del os.environ[name]


def check_connection(place: Launch) -> None:
    """Check that this process can speak to its launcher: the MPI library would print a trace of calls, and end it.

    Parameters
    ----------
    place : Launch
        This process, for the message.

    Raises
    ------
    LaunchError
        If the connection that the launcher names (``PMI_FD``) is closed.
    """
    descriptor = _number(os.environ, "PMI_FD")
    if descriptor is None:
        return
    try:
        with socket.socket(fileno=os.dup(descriptor)) as connection:
            is_open = connection.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT) != b""
    except BlockingIOError:  # nothing to read
        is_open = True
    except OSError:  # closed, or no socket
        is_open = False
    if not is_open:
        raise LaunchError(
            f"expected a process that {place.launcher} started, the first one in its place, got one that cannot reach "
            "it: it was started by such a process, as a notebook's kernel is, or after another command of the same "
            f"script. Start each command by {place.launcher.split()[0]} itself, or unset {place.variable} to run one "
            "process."
        )


def _number(values: Mapping[str, str], name: str) -> int | None:
    text = values.get(name, "")
    return int(text) if text.isascii() and text.isdigit() else None


def _slurm_local_size(values: Mapping[str, str]) -> int | None:
    """Return the processes on this machine: the list ``2(x3),1`` has their numbers by machine."""
    node = _number(values, "SLURM_NODEID")
    counts: list[int] = []
    for part in values.get("SLURM_STEP_TASKS_PER_NODE", "").split(","):
        match = re.fullmatch(r"(\d{1,6})(?:\(x(\d{1,6})\))?", part.strip())
        if match is None:
            return None
        counts += [int(match[1])] * int(match[2] or 1)
    return counts[node] if node is not None and node < len(counts) else None
