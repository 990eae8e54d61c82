"""No exception from outside harms a parallel kernel: nothing hangs, nothing is lost, no memory is overwritten."""

from __future__ import annotations

import ctypes.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

#: Interrupts of each kind: 400 at night, ``CAPGPU_INTERRUPTS=10000`` for a thorough run (ten minutes).
COUNT = int(os.environ.get("CAPGPU_INTERRUPTS", "150"))
SCRIPT = Path(__file__).with_name("interrupted.py")
FIRST_CALL = Path(__file__).with_name("first_call.py")
#: Processes whose first call is interrupted, of each kind. Unprotected, a quarter of them (signals) to two thirds
#: (asynchronous exceptions) lost the exception, or could not call kernels afterwards.
PROCESSES = max(6, COUNT // 40)

pytestmark = [
    pytest.mark.skipif(os.name != "posix", reason="this system has no such signals"),
    pytest.mark.timeout(600 + COUNT),
]


def interrupt(kind, count, n_threads, **variables):
    """Run the script; return how many calls raised, how many did not, and how many tasks workers ran."""
    done = subprocess.run(
        [sys.executable, "-W", "error", str(SCRIPT), kind, str(count), str(n_threads)],
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return [int(number) for number in done.stdout.split()]


@pytest.mark.parametrize("kind", ["alarm", "repeated", "sigint", "sigterm", "async"])
def test_interrupts_at_random_moments_change_no_later_bit(kind):
    raised, not_raised, shared = interrupt(kind, COUNT, 2)
    assert raised + not_raised == COUNT
    assert raised > COUNT // 4
    assert shared > COUNT


def test_interrupts_with_one_thread():
    raised, _, _ = interrupt("alarm", COUNT, 1)
    assert raised > COUNT // 4


def test_interrupts_with_more_threads_than_processors():
    raised, _, shared = interrupt("alarm", COUNT // 10, 7)
    assert raised > COUNT // 40
    assert shared > COUNT


def test_interrupts_with_freed_memory_poisoned():
    # glibc fills freed memory with a pattern, and checks the heap where its debugging library is installed
    variables = {"MALLOC_PERTURB_": "165", "MALLOC_CHECK_": "3"}
    library = ctypes.util.find_library("c_malloc_debug")
    if library is not None:
        variables["LD_PRELOAD"] = library
    raised, _, _ = interrupt("repeated", COUNT, 2, **variables)
    assert raised > COUNT // 4


@pytest.mark.parametrize("kind", ["alarm", "async"])
def test_interrupts_of_the_first_call_of_a_process_reach_the_caller_and_leave_sound_kernels(kind):
    done = subprocess.run(
        [sys.executable, str(FIRST_CALL), kind, str(PROCESSES), "0"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split(" s ")[1] == f"raised {PROCESSES}\n", done.stderr
