"""The communicator: of a single process, and of real ranks under mpiexec."""

from __future__ import annotations

import json
import threading
import time
from contextlib import suppress
from types import SimpleNamespace

import numpy as np
import pytest

from capgpu.distributed import Communicator, active_communicator, communicator, use_communicator
from capgpu.distributed.mpi import MpiCommunicator

COLLECTIVES = """
import json, sys, time
import numpy as np
from capgpu.distributed import communicator
c = communicator()
rank = c.rank
beside = c.start_all_reduce(np.ones(1 << 20))
end = time.monotonic() + float(sys.argv[1])
while not beside.done and time.monotonic() < end:
    time.sleep(0.01)
in_background = beside.done
beside.wait()
values = [np.random.default_rng(r).standard_normal((300, 7)).astype(np.float32) for r in range(c.size)]
sums = []
for dtype, order in ((np.float32, "C"), (np.float32, "F"), (np.float16, "C"), (np.float64, "C")):
    array = np.array(values[rank], dtype=dtype, order=order)
    c.all_reduce(array)
    expected = sum(value.astype(dtype).astype(float) for value in values)
    np.testing.assert_allclose(array, expected, rtol=1e-2 if dtype == np.float16 else 1e-5, atol=1e-3)
    assert array.dtype == dtype
    sums.append(array.tobytes())
try:
    c.all_reduce(np.zeros((4, 4))[:, ::2])
    raise AssertionError("strided memory was taken")
except ValueError as error:
    assert "array: expected contiguous memory" in str(error)
first, second = np.full(1000, rank + 1.0), np.full(3, rank + 1.0)
started = [c.start_all_reduce(first), c.start_all_reduce(second)]
for reduction in started:
    reduction.wait()
assert first[0] == second[0] == c.size * (c.size + 1) / 2
given = np.arange(5.0) * (rank + 1)
c.broadcast(given)
assert given.tolist() == [0, 1, 2, 3, 4]
assert c.gather({"rank": rank, "text": "x" * rank}) == [{"rank": r, "text": "x" * r} for r in range(c.size)]
calls = []
assert c.from_root(lambda: calls.append(1) or [1, "a"]) == [1, "a"]
assert len(calls) == (rank == 0)
try:
    c.from_root(lambda: open("/nonexistent/file"))
except OSError as error:
    assert error.filename == "/nonexistent/file"
try:
    c.from_root(lambda: [][0])
except (IndexError, RuntimeError) as error:
    assert "list index out of range" in str(error)
assert c.failed_alike("the same")
assert not c.failed_alike(f"message of rank {rank}")
c.barrier()
import hashlib
print(json.dumps({"rank": rank, "in_background": in_background, "sums": [hashlib.sha256(s).hexdigest() for s in sums]}))
"""


def records(result) -> list[dict]:
    assert result.returncode == 0, result.stderr
    return [json.loads(line) for line in result.stdout.splitlines()]


def test_a_single_process_is_rank_0_of_1():
    alone = Communicator()
    array = np.arange(3.0)
    alone.start_all_reduce(array).wait()
    alone.all_reduce(array)
    alone.broadcast(array)
    alone.barrier()
    assert array.tolist() == [0, 1, 2]
    assert (alone.rank, alone.size, alone.gather("a"), alone.from_root(lambda: "b")) == (0, 1, ["a"], "b")
    assert alone.failed_alike("message")
    with use_communicator(alone):
        assert communicator() is active_communicator() is alone


def test_operations_of_three_ranks_and_the_same_bits_on_every_run(ranks):
    limits = {"1": "0.2", "2": "20"}
    runs = [records(ranks(3, limit, code=COLLECTIVES, CAPGPU_THREADS=n)) for n, limit in limits.items()]
    assert sorted(record["rank"] for record in runs[0]) == [0, 1, 2]
    assert len({json.dumps(record["sums"]) for run in runs for record in run}) == 1
    # a rank with one thread computes meanwhile, and moves data when it waits
    assert [{record["in_background"] for record in run} for run in runs] == [{False}, {True}]


@pytest.mark.parametrize(
    ("act", "cause"),
    [
        ("os.kill(os.getpid(), signal.SIGSTOP)", "rank 2 of 3: rank 1 has not been heard of for 1 s"),
        ("time.sleep(600)", "rank 2 of 3: rank 1 lives, but has not come to a reduction for 1 s"),
        ("raise ValueError('of rank 1')", "rank 2 of 3: rank 1 has ended before the others"),
    ],
    ids=["stopped", "hanging", "error"],
)
def test_a_lost_rank_ends_the_job_and_is_named(ranks, act, cause):
    code = f"""
import numpy, os, signal, time
from capgpu.distributed import communicator
c = communicator()
c.barrier()
if c.rank == 1:
    {act}
c.start_all_reduce(numpy.ones(2)).wait()
"""
    begin = time.monotonic()
    result = ranks(3, code=code, timeout=60, CAPGPU_RANK_TIMEOUT="1")
    assert result.returncode != 0
    assert cause in result.stderr
    assert time.monotonic() - begin < 20


def test_ranks_do_not_wait_for_one_that_failed_before_it_came_to_connect(ranks):
    code = """
import os, sys
if os.environ["PMI_RANK"] == "1":
    sys.exit("no module on this machine")
import capgpu.distributed.mpi
from capgpu.distributed import communicator
capgpu.distributed.mpi._START_LIMIT = 1.0
communicator()
"""
    result = ranks(2, code=code, timeout=60, CAPGPU_RANK_TIMEOUT="0.5")
    assert result.returncode != 0
    assert "capgpu: rank 0 of 2: not all ranks have started within 1 s" in result.stderr


def test_two_threads_that_find_a_cause_print_it_before_the_end(monkeypatch):
    events = []

    class Rank(MpiCommunicator):
        def __init__(self):
            world = SimpleNamespace(Abort=lambda status: events.append("end"))
            self._mpi, self._aborts, self._aborting = SimpleNamespace(COMM_WORLD=world), threading.Lock(), False

        def print_error(self, message):
            time.sleep(0.1)
            events.append(message)

    def leave(status):
        raise SystemExit

    monkeypatch.setattr("os._exit", leave)
    rank = Rank()

    def abort():
        with suppress(SystemExit):
            rank.abort("the cause")

    threads = [threading.Thread(target=abort) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert events == ["the cause", "end", "end"]


def test_a_program_that_a_rank_starts_is_a_process_of_its_own(ranks):
    code = """
    import subprocess, sys
    from capgpu.distributed import communicator, launch
    program = "from capgpu.distributed import communicator; print(communicator().size)"
    own = communicator()
    started = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    sys.stdout.write(f"{launch()[1:3]} {started.stdout}")
    """
    result = ranks(2, code=code, timeout=60)
    assert sorted(result.stdout.splitlines()) == ["(0, 2) 1", "(1, 2) 1"], result.stderr


def test_a_process_that_cannot_reach_its_launcher_says_so(ranks):
    code = """
    import os, subprocess, sys
    from capgpu.distributed import LaunchError, communicator
    if os.environ["PMI_RANK"] == "0":  # a kernel of a notebook, which gets the variables, but not the connection
        program = "from capgpu.distributed import communicator; communicator()"
        started = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
        sys.stdout.write(started.stderr.splitlines()[-1])
    """
    result = ranks(2, code=code, timeout=60)
    assert "LaunchError: expected a process that mpiexec of MPICH started, the first one in its place" in result.stdout


def test_ranks_of_different_versions_are_refused_and_agree_about_the_time_limit(ranks):
    code = """
    import os, sys
    import capgpu
    from capgpu.distributed import LaunchError, active_communicator, communicator
    if os.environ["PMI_RANK"] == "1":
        capgpu.__version__ = "0.0.9"
        os.environ["CAPGPU_RANK_TIMEOUT"] = "0.5"
    try:
        communicator()
    except LaunchError as error:
        sys.stdout.write(f"{active_communicator()._heartbeat.timeout} {error}\\n")
    """
    lines = ranks(2, code=code, timeout=60, CAPGPU_RANK_TIMEOUT="8").stdout.splitlines()
    assert len(lines) == 2
    assert all(
        line.startswith("8.0 expected the same version of capgpu on all ranks, got 0.0.9 on rank 1") for line in lines
    )


def test_a_launcher_of_another_mpi_is_named(ranks, in_new_process):
    environment = {"OMPI_COMM_WORLD_RANK": "1", "OMPI_COMM_WORLD_SIZE": "2"}
    code = """
import json
from capgpu.distributed import LaunchError, communicator
try:
    communicator()
except LaunchError as error:
    print(json.dumps(str(error)))
"""
    message = json.loads(in_new_process(code, **environment))
    assert "expected 2 processes, which mpiexec of Open MPI started, got 1 from mpi4py (MPICH" in message
    assert "srun --mpi=pmi2" in message
    assert "unset OMPI_COMM_WORLD_SIZE to run one process" in message


def test_without_mpi4py_the_message_says_how_to_get_it(in_new_process):
    code = """
import json, sys
sys.modules["mpi4py"] = None
from capgpu.distributed import communicator
try:
    communicator()
except ImportError as error:
    print(json.dumps(str(error)))
"""
    message = json.loads(in_new_process(code, PMI_RANK="0", PMI_SIZE="2"))
    assert message.startswith("Running as 2 processes (mpiexec of MPICH) needs the package mpi4py")
    assert "pip install 'mpi4py" in message
