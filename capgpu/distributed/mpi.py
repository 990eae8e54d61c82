"""The communicator over MPI (mpi4py).

MPI moves data only inside of calls. Reductions that were started go on in a thread, which asks for their progress
every 0.1 ms; a rank that waits asks by itself, at first without pause: to notify a thread takes longer.
A lock lets one of them at a time into MPI. Among ranks of one machine that compute with one thread each, that
thread would only take time from the computation: there the rank that waits moves the data alone.

The same thread sends heartbeats (see `capgpu.distributed.heartbeat`).

Objects are exchanged as JSON, never as pickles.
"""

from __future__ import annotations

import atexit
import hashlib
import json
import os
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np

from capgpu import __version__
from capgpu.backend import Array, asarray, is_host_array, to_numpy
from capgpu.distributed.communicator import Communicator, Reduction
from capgpu.distributed.heartbeat import DEFAULT_TIMEOUT, Heartbeat, rank_timeout
from capgpu.distributed.launch import Launch, LaunchError, check_connection, take_over
from capgpu.distributed.start_limit import start_limit
from capgpu.errors import CapgpuError, InvalidValueError
from capgpu.optional_deps import require
from capgpu.threads import thread_count

if TYPE_CHECKING:
    from capgpu.kernels.cuda.nccl import NcclCollectives

__all__ = ["MpiCommunicator", "RootError"]

#: Seconds between two looks at reductions in progress, by the thread and by a rank that has waited for `_SPIN` seconds.
_POLL, _LATE_POLL, _SPIN = 1e-4, 5e-5, 2e-3
#: Seconds within which all ranks have to come to connect, or twice the timeout if that is longer.
_START_LIMIT = 60.0
#: Seconds that `failed_alike` waits for the others.
_FAILURE_WAIT = 2.0
#: Seconds between the last message and the end of the job. On a busy machine, MPICH's mpiexec ends before it has read a
#: message that comes right before: 2 of 25 were lost without this pause, none of 50 with it.
_OUTPUT_WAIT = 0.3
#: dtypes that MPI adds; others are added in float32.
_ADDED = "fdbhilqBHILQ"


class RootError(CapgpuError, RuntimeError):
    """What rank 0 did for all ranks failed there."""


class _Operation:
    """A collective operation that was started; `finish` is called once, when it is done."""

    def __init__(
        self, owner: MpiCommunicator, request: Any, buffer: Any, finish: Callable[[], None] | None, patient: bool
    ) -> None:
        self._owner, self._finish = owner, finish
        self.request, self.buffer, self.patient = request, buffer, patient
        self.done = False

    def wait(self) -> None:
        """Wait until the operation is done."""
        self._owner.complete(self)
        finish, self._finish, self.buffer = self._finish, None, None
        if finish is not None:
            finish()


class MpiCommunicator(Communicator):
    """The communicator of a process that an MPI launcher started; see `Communicator`.

    Parameters
    ----------
    place : Launch
        What the environment says of this process.

    Raises
    ------
    LaunchError
        If MPI finds another number of processes than the launcher started, which is then of another MPI, or if it has
        no support of threads.
    MissingExtraError
        If mpi4py is not installed.
    """

    def __init__(self, place: Launch) -> None:
        require("mpi4py", "mpi", f"Running as {place.size} processes ({place.launcher})")
        check_connection(place)
        self._problem, timeout, threads = "", DEFAULT_TIMEOUT, 1
        try:
            timeout, threads = rank_timeout(), thread_count()
        except CapgpuError as error:  # raised by `check_alike`: until all ranks are connected, they wait for this one
            self._problem = str(error)
        with start_limit(place, max(_START_LIMIT, 2 * timeout)):
            self._connect(place, timeout)
        take_over(place)  # after MPI has read them
        self._nccl: list[NcclCollectives | None] = []  # empty until an array of a device is exchanged
        self._pending: list[_Operation] = []
        self._started = 0
        self._in_background = self.local_size < self.size or threads > 1
        self._wake, self._closed = threading.Event(), False
        self._thread = threading.Thread(target=self._run, name="capgpu-mpi", daemon=True)
        self._thread.start()
        atexit.register(self.close)

    def _connect(self, place: Launch, timeout: float) -> None:
        """Find the other ranks."""
        MPI: Any = require("mpi4py.MPI", "mpi", f"Running as {place.size} processes ({place.launcher})")
        self._mpi = MPI
        world = MPI.COMM_WORLD
        if world.size != place.size:
            library = MPI.Get_library_version().split("\n")[0].strip()
            raise LaunchError(
                f"expected {place.size} processes, which {place.launcher} started, got {world.size} from mpi4py "
                f"({library}): the launcher belongs to another MPI. Use the mpiexec of that MPI (with the package "
                "mpich, the one beside Python), srun --mpi=pmi2, or install an mpi4py for the MPI of the launcher. In "
                f"a shell that was itself started by {place.launcher}, unset {place.variable} to run one process."
            )
        if MPI.Query_thread() < MPI.THREAD_SERIALIZED:
            raise LaunchError(
                "expected an MPI that several threads may call (MPI_THREAD_SERIALIZED), got one that only the main "
                "thread may call. Leave mpi4py.rc.thread_level as it is, or install another MPI."
            )
        self.rank, self.size = world.rank, world.size
        self._lock, self._aborts, self._aborting = threading.RLock(), threading.Lock(), False
        # failures and the end have communicators of their own: the others may be in the middle of other operations
        self._comm, self._failures, self._ends = world.Dup(), world.Dup(), world.Dup()
        machine = world.Split_type(MPI.COMM_TYPE_SHARED)
        self.local_rank, self.local_size = machine.rank, machine.size
        machine.Free()
        longest = np.array([timeout])  # a rank of a shorter one would miss the messages of the others
        world.Allreduce(MPI.IN_PLACE, longest, MPI.MAX)
        self._heartbeat = Heartbeat(world.Dup(), float(longest[0]))

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: rank {self.rank} of {self.size}>"

    def check_alike(self) -> None:
        """Check what the ranks run with; all of them call this, and all raise the same.

        Raises
        ------
        LaunchError
            If ranks run different versions of capgpu, or the environment variables of some are refused.
        """
        places = self.gather([__version__, self._problem])
        refused = [rank for rank, (_, problem) in enumerate(places) if problem]
        if refused:
            where = "" if len(refused) == self.size else f"rank {', '.join(map(str, refused))}: "
            raise LaunchError(where + places[refused[0]][1])
        for rank, (version, _) in enumerate(places):
            if version != places[0][0]:
                raise LaunchError(
                    f"expected the same version of capgpu on all ranks, got {version} on rank {rank} and "
                    f"{places[0][0]} on rank 0. Install the same one on all machines."
                )

    # progress

    def _run(self) -> None:
        """Make progress beside the main thread."""
        try:
            while not self._closed:
                self._progress()
                if self._pending and self._in_background:
                    time.sleep(_POLL)
                else:
                    self._wake.wait(self._heartbeat.interval)
                    self._wake.clear()
        except BaseException as error:  # without this thread, ranks would wait for one another forever
            self.abort(f"{type(error).__name__}: {error}")

    def _progress(self) -> None:
        """Test the operations in progress, and look after the heartbeats."""
        with self._lock:
            for operation in [*self._pending]:
                if operation.request.Test():
                    operation.done = True
                    self._pending.remove(operation)
            waiting = bool(self._pending)
            cause = self._heartbeat.beat(self._started, waiting=waiting)
        if cause:
            self.abort(cause)

    def _start(
        self,
        begin: Callable[[], Any],
        buffer: Any = None,
        finish: Callable[[], None] | None = None,
        *,
        patient: bool = True,
    ) -> _Operation:
        with self._lock:
            operation = _Operation(self, begin(), buffer, finish, patient)
            self._pending.append(operation)
            self._started += 1
        if self._in_background:
            self._wake.set()
        return operation

    def complete(self, operation: _Operation) -> None:
        """Wait for an operation, and end the job if others do not take part in time.

        Parameters
        ----------
        operation : object
            As from `start_all_reduce`.
        """
        begin = time.monotonic()
        while not operation.done:
            self._progress()
            waited = time.monotonic() - begin
            if waited > _SPIN and not operation.done:
                time.sleep(_LATE_POLL)
            if waited > self._heartbeat.timeout and not operation.patient and not operation.done:
                cause = self._heartbeat.laggard(self._started, waited)
                if cause:
                    self.abort(cause)

    # operations

    def start_all_reduce(self, array: Array, *, patient: bool = False) -> Reduction:
        """Start to replace an array by its sum over all ranks; see `Communicator.start_all_reduce`."""
        nccl = self._nccl_for(array)
        if nccl is not None:
            return nccl.start_all_reduce(array)
        values = to_numpy(array)
        flat = _contiguous(values)
        buffer = flat if flat.dtype.char in _ADDED else flat.astype(np.float32)
        copied = buffer is not flat or not is_host_array(array)

        def write_back() -> None:
            array[...] = _like(buffer if flat is values else buffer.T, array)

        # an array of another memory than the host's, or of a dtype that MPI does not add, is replaced by a copy's sum
        in_place = self._mpi.IN_PLACE
        return self._start(
            lambda: self._comm.Iallreduce(in_place, buffer), buffer, write_back if copied else None, patient=patient
        )

    def broadcast(self, *arrays: Array) -> None:
        """Replace arrays by those of rank 0; see `Communicator.broadcast`."""
        for array in arrays:
            nccl = self._nccl_for(array)
            if nccl is not None:
                nccl.broadcast(array)
                continue
            values = to_numpy(array)
            buffer = _contiguous(values)
            data = buffer.reshape(-1).view(np.uint8)
            self._start(partial(self._comm.Ibcast, data), data).wait()
            if not is_host_array(array) and self.rank > 0:
                array[...] = _like(values, array)

    def _nccl_for(self, array: Array) -> NcclCollectives | None:
        """Return what serves an array of a device, if NCCL does; the first such array connects the devices."""
        if is_host_array(array):
            return None
        if not self._nccl:
            from capgpu.kernels.cuda.nccl import open_nccl

            self._nccl.append(open_nccl(self))
        return self._nccl[0]

    def barrier(self) -> None:
        """Wait until all ranks have called this."""
        self._start(self._comm.Ibarrier).wait()

    def gather(self, value: Any) -> list[Any]:
        """Return the values of all ranks, on each of them; see `Communicator.gather`."""
        text = np.frombuffer(json.dumps(value).encode(), np.uint8)
        sizes = np.zeros(self.size, np.int64)
        sizes[self.rank] = text.size
        self.all_reduce(sizes)
        received = np.empty(int(sizes.sum()), np.uint8)
        target = [received, sizes.tolist()]
        self._start(lambda: self._comm.Iallgatherv(text, target), (text, received)).wait()
        parts = np.split(received, np.cumsum(sizes)[:-1])
        return [json.loads(part.tobytes()) for part in parts]

    def from_root(self, function: Callable[[], Any]) -> Any:
        """Call a function on rank 0 alone, and return its result on all ranks; see `Communicator.from_root`."""
        outcome: dict[str, Any] = {}
        failure: Exception | None = None
        if self.rank == 0:
            try:
                outcome["result"] = function()
            except Exception as error:
                failure = error
                outcome["error"] = str(error) or type(error).__name__
                if isinstance(error, OSError) and isinstance(error.filename, str):
                    outcome["os_error"] = [error.errno, error.strerror, error.filename]
        outcome = self._from_rank_0(outcome)
        if failure is not None:
            raise failure
        if "os_error" in outcome:
            raise OSError(*outcome["os_error"])
        if "error" in outcome:
            raise RootError(outcome["error"])
        return outcome["result"]

    def _from_rank_0(self, value: Any) -> Any:
        text = np.frombuffer(json.dumps(value).encode() if self.rank == 0 else b"", np.uint8)
        size = np.array([text.size])
        self.broadcast(size)
        received = text.copy() if self.rank == 0 else np.empty(int(size[0]), np.uint8)
        self.broadcast(received)
        return value if self.rank == 0 else json.loads(received.tobytes())

    # the end

    def failed_alike(self, message: str) -> bool:
        """Return whether all ranks have failed with the same message; see `Communicator.failed_alike`."""
        mine = np.frombuffer(hashlib.sha256(message.encode(errors="replace")).digest(), np.uint8)
        received = np.empty((self.size, mine.size), np.uint8)
        with self._lock:
            request = self._failures.Iallgather(mine, received)
        end = time.monotonic() + _FAILURE_WAIT
        while time.monotonic() < end:
            with self._lock:
                if request.Test():
                    return bool((received == mine).all())
            time.sleep(1e-3)
        return False

    def abort(self, message: str) -> NoReturn:
        """Print a message that names this rank, and end all processes at once; see `Communicator.abort`."""
        with self._aborts:  # of two threads that find a cause, one prints it, and the other waits until it has
            if not self._aborting:
                self._aborting = True
                self.print_error(message)
                time.sleep(_OUTPUT_WAIT)
        self._mpi.COMM_WORLD.Abort(1)
        os._exit(1)

    def close(self) -> None:
        """Wait for the other ranks to come to their end, and disconnect. Called when the process exits."""
        if self._closed:
            return
        self._heartbeat.leaving = True
        with self._lock:
            request = self._ends.Ibarrier()
        while True:
            with self._lock:
                if request.Test():
                    break
            time.sleep(1e-3)
        self._closed = True
        self._wake.set()
        self._thread.join()
        with self._lock:
            self._heartbeat.close()


def _contiguous(values: Any) -> Any:
    """Return the memory of a host array as an array in C's order, without a copy."""
    if values.flags.c_contiguous:
        return values
    if values.flags.f_contiguous:
        return values.T
    raise InvalidValueError(f"array: expected contiguous memory, got strides {values.strides} of {values.shape}.")


def _like(values: Any, like: Array) -> Array:
    """Return host values in the library and dtype of an array."""
    values = values.astype(like.dtype, copy=False)
    return values if is_host_array(like) else asarray(values)
