"""Sums between devices by NCCL, one device a rank.

The collectives run on a stream of their own, in the order of their starts, beside the computation:

    current stream     gradient | record ready      more gradients ...      wait for done | update
    NCCL's stream                 wait for ready | all-reduce | record done

Neither stream makes the host wait. The ranks find one another by NCCL's unique id, which the other communicator sends.
"""

from __future__ import annotations

import logging
import warnings
from typing import TYPE_CHECKING, Any

from capgpu.backend import Array
from capgpu.errors import InvalidValueError

if TYPE_CHECKING:
    from capgpu.distributed.communicator import Communicator

__all__ = ["NcclCollectives", "open_nccl"]

logger = logging.getLogger("capgpu")

#: NCCL's names of dtypes.
_DTYPES = {
    "int8": "NCCL_INT8",
    "uint8": "NCCL_UINT8",
    "int32": "NCCL_INT32",
    "int64": "NCCL_INT64",
    "float16": "NCCL_FLOAT16",
    "float32": "NCCL_FLOAT32",
    "float64": "NCCL_FLOAT64",
    "bfloat16": "NCCL_BFLOAT16",
}


def open_nccl(communicator: Communicator) -> NcclCollectives | None:
    """Connect the devices of all ranks, which have to call this together.

    Parameters
    ----------
    communicator : Communicator
        Connects the ranks already.

    Returns
    -------
    NcclCollectives or None
        None where NCCL cannot serve the ranks: it is missing, or two of them have the same device. The reason is logged
        at INFO; sums then pass through the host's memory.
    """
    import socket

    import cupy

    runtime = cupy.cuda.runtime
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # CuPy warns where NCCL is missing; that is logged below
            import cupy.cuda.nccl as library

        version = library.get_version() if getattr(library, "available", True) else 0
    except (ImportError, AttributeError):
        version = 0
    bus_id = runtime.deviceGetPCIBusId(runtime.getDevice())
    places = communicator.gather([socket.gethostname(), bus_id, version])
    if not all(place[2] for place in places):
        reason = (
            "NCCL is missing. Install it with: pip install nvidia-nccl-cu13 (CUDA 13) or nvidia-nccl-cu12 (CUDA 12)"
        )
    elif len({(host, bus) for host, bus, _ in places}) < len(places):
        reason = f"{communicator.size} ranks have fewer devices: NCCL needs one a rank"
    else:
        return NcclCollectives(communicator)
    logger.info("sums between ranks pass through the host's memory: %s", reason)
    return None


class _Started:
    """A sum that was put on NCCL's stream."""

    def __init__(self, done: Any, array: Array) -> None:
        self._done, self._array = done, array  # the array's memory is not given away before `wait`

    def wait(self) -> None:
        """Make the current stream wait for the sum; the host does not wait."""
        import cupy

        cupy.cuda.get_current_stream().wait_event(self._done)
        self._array = None


class NcclCollectives:
    """Sums and copies between the current devices of all ranks.

    Parameters
    ----------
    communicator : Communicator
        Sends NCCL's unique id from rank 0 to the others.
    """

    def __init__(self, communicator: Communicator) -> None:
        import cupy
        import cupy.cuda.nccl

        self._nccl = cupy.cuda.nccl
        unique = bytes(communicator.from_root(lambda: list(self._nccl.get_unique_id())))  # JSON holds no bytes
        self._comm = self._nccl.NcclCommunicator(communicator.size, unique, communicator.rank)
        self._stream = cupy.cuda.Stream(non_blocking=True)
        self._new_event: Any = lambda: cupy.cuda.Event(disable_timing=True)

    def start_all_reduce(self, array: Array) -> _Started:
        """Start to replace an array by its sum over all ranks; see `Communicator.start_all_reduce`.

        Parameters
        ----------
        array : cupy.ndarray
            Contiguous, in C's or in Fortran's order.

        Returns
        -------
        Reduction
            The sum.

        Raises
        ------
        ValueError
            For an array that is not contiguous, or of a dtype that NCCL does not add.
        """
        address, count, dtype = self._described(array)
        self._begin()
        self._comm.allReduce(address, address, count, dtype, self._nccl.NCCL_SUM, self._stream.ptr)
        return _Started(self._stream.record(self._new_event()), array)

    def broadcast(self, array: Array) -> None:
        """Replace an array by that of rank 0; later work on the current stream waits for it.

        Parameters
        ----------
        array : cupy.ndarray
            As for `start_all_reduce`.
        """
        address, count, dtype = self._described(array)
        self._begin()
        self._comm.broadcast(address, address, count, dtype, 0, self._stream.ptr)
        _Started(self._stream.record(self._new_event()), array).wait()

    def _begin(self) -> None:
        """Make NCCL's stream wait for the work of the current one."""
        import cupy

        self._stream.wait_event(cupy.cuda.get_current_stream().record(self._new_event()))

    def _described(self, array: Any) -> tuple[int, int, int]:
        """Return address, number of values and NCCL's dtype of an array."""
        if not (array.flags.c_contiguous or array.flags.f_contiguous):
            raise InvalidValueError(f"array: expected contiguous memory, got strides {array.strides} of {array.shape}.")
        name = array.dtype.name
        if name not in _DTYPES:
            raise InvalidValueError(f"array: expected a dtype that NCCL adds, got {name}.")
        return array.data.ptr, array.size, getattr(self._nccl, _DTYPES[name])
