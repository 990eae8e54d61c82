"""The communicator of this process."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from capgpu.distributed.communicator import Communicator
from capgpu.distributed.launch import launch

__all__ = ["active_communicator", "communicator", "use_communicator"]

_current: Communicator | None = None


def communicator() -> Communicator:
    """Return the communicator of this process; the first call connects the ranks, and all of them have to make it.

    Returns
    -------
    Communicator
        Of a single rank, unless a launcher such as ``mpiexec`` or ``srun`` started several processes.

    Raises
    ------
    LaunchError
        If it did and they cannot find one another, run different versions of capgpu, or have environment variables that
        are refused.
    MissingExtraError
        If it did and mpi4py is not installed.

    Examples
    --------
    >>> from capgpu.distributed import communicator
    >>> communicator().rank, communicator().size  # of a process that was started alone
    (0, 1)
    """
    global _current
    if _current is None:
        place = launch()
        if place is None:
            _current = Communicator()
        else:
            from capgpu.distributed.mpi import MpiCommunicator

            ranks = _current = MpiCommunicator(place)
            ranks.check_alike()
    return _current


def active_communicator() -> Communicator | None:
    """Return the communicator of this process if there is one already.

    Returns
    -------
    Communicator or None
        None before the first call of `communicator`.
    """
    return _current


@contextmanager
def use_communicator(replacement: Communicator) -> Iterator[None]:
    """Use another communicator inside a block.

    Parameters
    ----------
    replacement : Communicator
        What `communicator` returns there.
    """
    global _current
    previous = _current
    _current = replacement
    try:
        yield
    finally:
        _current = previous
