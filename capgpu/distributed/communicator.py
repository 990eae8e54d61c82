"""The communicator: what ranks exchange data by. This one serves a single process; those of several derive from it."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any, NoReturn, Protocol

from capgpu.backend import Array
from capgpu.visible_text import visible

__all__ = ["ALONE", "Communicator", "Reduction"]


class Reduction(Protocol):
    """A sum over the ranks that was started."""

    def wait(self) -> None:
        """Wait until the array holds the sum. On a device, later work on the current stream waits, not the host."""


class _Done:
    def wait(self) -> None:
        pass


class Communicator:
    """The operations of one rank, which all ranks call in the same order.

    Attributes
    ----------
    rank, size : int
        Number of this rank, from 0, and of all ranks.
    local_rank, local_size : int
        The same among the ranks of this machine.
    """

    rank = 0
    size = 1
    local_rank = 0
    local_size = 1

    def start_all_reduce(self, array: Array, *, patient: bool = False) -> Reduction:
        """Start to replace an array by its sum over all ranks, which goes on beside other work.

        The order of additions depends on the number of ranks alone: the same values give the same bits, on every rank.

        Parameters
        ----------
        array : array
            Of the same shape and dtype on every rank; contiguous, in C's or in Fortran's order. Until the end of
            `Reduction.wait` nothing may read it or write into it.
        patient : bool
            Wait for ranks that are late for as long as they live; otherwise for ``CAPGPU_RANK_TIMEOUT`` seconds.

        Returns
        -------
        Reduction
            Whose method `wait` is to be called, in the order of the starts.
        """
        return _Done()

    def all_reduce(self, *arrays: Array) -> None:
        """Replace arrays by their sums over all ranks; see `start_all_reduce`.

        Parameters
        ----------
        *arrays : array
            The arrays.
        """
        for reduction in [self.start_all_reduce(array, patient=True) for array in arrays]:
            reduction.wait()

    def broadcast(self, *arrays: Array) -> None:
        """Replace arrays by those of rank 0.

        Parameters
        ----------
        *arrays : array
            Of the same shapes and dtypes on every rank; contiguous, in C's or in Fortran's order.
        """

    def barrier(self) -> None:
        """Wait until all ranks have called this."""

    def gather(self, value: Any) -> list[Any]:
        """Return the values of all ranks, on each of them.

        Parameters
        ----------
        value : object
            What JSON can hold; a tuple comes back as a list.

        Returns
        -------
        list
            The value of each rank.
        """
        return [value]

    def from_root(self, function: Callable[[], Any]) -> Any:
        """Call a function on rank 0 alone, such as one that reads or writes files, and return its result on all ranks.

        Parameters
        ----------
        function : callable
            Without arguments; it returns what JSON can hold.

        Returns
        -------
        object
            Its result.

        Raises
        ------
        Exception
            What the function raises; on other ranks than 0 an error of the same message.
        """
        return function()

    def failed_alike(self, message: str) -> bool:
        """Return whether all ranks have failed with the same message, so that one of them may print it.

        Parameters
        ----------
        message : str
            The message of the error that ends this rank.

        Returns
        -------
        bool
            False as well where another rank does not answer within two seconds.
        """
        return True

    def abort(self, message: str) -> NoReturn:
        """Print a message that names this rank, and end the processes of all ranks at once.

        Parameters
        ----------
        message : str
            The cause.
        """
        self.print_error(message)
        sys.exit(1)

    def print_error(self, message: str) -> None:
        """Print a line on standard error that names this rank.

        Parameters
        ----------
        message : str
            The line.
        """
        name = f"rank {self.rank} of {self.size}: " if self.size > 1 else ""
        print(visible(f"capgpu: {name}{message}"), file=sys.stderr, flush=True)


#: The communicator of a process that works alone.
ALONE = Communicator()
