"""A second process compiles what this one will need; however it ends, this one computes the same."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

import capgpu
from capgpu.errors import InvalidValueError
from capgpu.kernels.cpu import claims, code_cache, compile_ahead
from capgpu.threads import usable_processors

pytestmark = pytest.mark.skipif(not claims.CAN_CLAIM, reason="this system has no such locks")
SEVERAL = pytest.mark.skipif(usable_processors() < 2, reason="one processor: no second process is started")

SHARED = """
import numpy as np
from capgpu.kernels.cpu import KERNELS, compile_ahead, embedding
ones, first = np.ones((2, 3), np.float32), np.zeros(1, np.int64)
KERNELS.announce(("take_rows", "column_sums"), np.float32)
assert compile_ahead._process is None, "nothing is missing yet"
KERNELS.take_rows(ones, first)
process = compile_ahead._process
print(process.wait(60))
assert KERNELS.column_sums(ones).tolist() == [2.0] * 3
print(sum(embedding._sum_columns.stats.cache_hits.values()))
"""

AWAITED = """
import importlib, os, signal, sys, time
import numpy as np
from capgpu.kernels.cpu import KERNELS, compile_ahead
from capgpu.kernels.cpu.thread_pool import POOL
packing = importlib.import_module("capgpu.kernels.cpu.pack_captions")._pack
captions, wide, first = np.array([[1, 4, 2], [1, 2, 0]]), np.ones((400, 400), np.float32), np.zeros(1, np.int64)

def error_of(captions):
    try:
        KERNELS.pack_captions(captions, 0, 5)
    except ValueError as error:
        return str(error)

KERNELS.announce(("caption_batch", "matmul", "take_rows"), np.float32)
layout = KERNELS.pack_captions(captions, 0, 5)  # starts the process
out_of_range = np.array([[1, 2**64 - 1]], np.uint64)
error = error_of(out_of_range)
assert compile_ahead._process.poll() is None and not packing.signatures, "NumPy has laid them out"
os.kill(compile_ahead._process.pid, signal.SIGSTOP)  # so that it has not compiled the workers' code
KERNELS.matmul(wide, wide)
assert POOL.serving == 0
os.kill(compile_ahead._process.pid, signal.SIGKILL if sys.argv[1] == "killed" else signal.SIGCONT)
compile_ahead._process.wait(120)
again = KERNELS.pack_captions(captions, 0, 5)
assert all(a.dtype == b.dtype and (a == b).all() for a, b in zip(layout, again, strict=True))
assert error and error_of(out_of_range) == error
time.sleep(0.1)
KERNELS.matmul(wide, wide)
for _ in range(1000):
    if POOL.serving == 1:
        break
    time.sleep(0.01)
print(len(packing.signatures), sum(packing.stats.cache_hits.values()), POOL.serving)
"""

LEFT = """
import importlib
import numpy as np
from capgpu.kernels.cpu import KERNELS, compile_ahead
from capgpu.kernels.cpu.thread_pool import POOL
packing, wide = importlib.import_module("capgpu.kernels.cpu.pack_captions")._pack, np.ones((400, 400), np.float32)
KERNELS.announce(("caption_batch", "matmul"), np.float32)
KERNELS.pack_captions(np.array([[1, 2]]), 0, 3)
KERNELS.matmul(wide, wide)
print(len(packing.signatures), len(POOL._threads))
"""

PARENT = """
import numpy as np, os, signal
from capgpu.kernels.cpu import KERNELS, compile_ahead
for dtype in (np.float32, np.float64):
    KERNELS.announce(("lstm_forward", "lstm_backward", "rnn_backward", "take_rows"), dtype)
KERNELS.column_sums(np.ones((2, 3), np.float32))
assert compile_ahead._process.poll() is None
print(compile_ahead._process.pid, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


def run(script: str, cache: Path | None = None, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {
        **os.environ,
        **({} if cache is None else {"NUMBA_CACHE_DIR": str(cache)}),
        "PYTHONPATH": str(Path(capgpu.__file__).parents[1]),
        "CAPGPU_THREADS": "2",
        "CAPGPU_COMPILE_AHEAD": "1",
    }
    command = [sys.executable, "-c", script, *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)


def is_running(process: int) -> bool:
    try:
        os.kill(process, 0)
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except ProcessLookupError:
        return False
    except OSError:  # ended meanwhile, or no such files here
        return not Path("/proc/self/stat").exists()


@SEVERAL
def test_the_first_process_loads_what_the_second_has_compiled(tmp_path):
    done = run(SHARED, tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["0", "1"], "it ends by itself; what it has compiled is a hit"
    assert not list(tmp_path.rglob("*.lock"))
    assert "Traceback" not in done.stderr


@SEVERAL
@pytest.mark.parametrize(("end", "hits"), [("by itself", "1"), ("killed", "0")])
def test_what_numpy_can_do_as_well_does_not_wait_for_the_second_process(tmp_path, end, hits):
    done = run(AWAITED, tmp_path, end)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["1", hits, "1"], "then the code is loaded or compiled here, and the worker starts"


@SEVERAL
def test_what_an_earlier_program_left_is_compiled_at_once(tmp_path):
    # short programs would end before a second process has compiled it, every time
    first = "import numpy as np; from capgpu.kernels.cpu import KERNELS; KERNELS.column_sums(np.ones((2, 3)))"
    assert run(first, tmp_path).returncode == 0
    done = run(LEFT, tmp_path)
    assert done.stdout.split() == ["1", "1"], done.stderr


@SEVERAL
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="cannot tell a zombie from a process")
def test_the_second_process_ends_soon_after_the_first_is_killed(tmp_path):
    done = run(PARENT, tmp_path)
    assert done.returncode == -signal.SIGKILL, done.stderr
    process, end = int(done.stdout), time.monotonic() + 10
    while is_running(process):
        assert time.monotonic() < end
        time.sleep(0.05)


# --- whether there is one ---------------------------------------------------------------------------


@pytest.fixture
def starts(monkeypatch):
    """Announce an operation to a new state; give a function that starts processes and returns their commands."""
    commands = []

    class Process:
        pid = 0

        def __init__(self, command, **options):
            commands.append((command, options))

        def wait(self):
            return 0

        def poll(self):
            return 0

    for name, value in (("_announced", set()), ("_soon", []), ("_later", []), ("_process", None), ("_awaits", None)):
        monkeypatch.setattr(compile_ahead, name, value)
    monkeypatch.setattr(claims.claims, "active", False)
    monkeypatch.setattr(compile_ahead, "usable_processors", lambda: 2)
    monkeypatch.setattr(compile_ahead, "thread_count", lambda: 2)
    monkeypatch.delenv("CAPGPU_COMPILE_AHEAD", raising=False)
    monkeypatch.setattr(subprocess, "Popen", Process)

    def start():
        compile_ahead.announce(("matmul",), np.float32, 0, False)
        compile_ahead._start()
        return commands

    return start


def test_announcing_operations_twice_starts_one_process(starts):
    ((command, options),) = starts()
    assert command[0] == sys.executable
    assert options["env"]["CAPGPU_COMPILE_AHEAD"] == "0", "none in the child"
    assert options["start_new_session"], "Ctrl-C in a terminal is not for the child"
    assert {options[stream] for stream in ("stdin", "stdout", "stderr")} == {subprocess.DEVNULL}
    assert claims.claims.active
    assert len(starts()) == 1


@pytest.mark.parametrize(
    "change",
    [
        lambda patch: patch.setenv("CAPGPU_COMPILE_AHEAD", "0"),
        lambda patch: patch.setattr(compile_ahead, "usable_processors", lambda: 1),
        lambda patch: patch.setattr(compile_ahead, "thread_count", lambda: 1),
        lambda patch: patch.setenv("NUMBA_CACHE_DIR", __file__),  # where no folder can be made
        lambda patch: patch.setattr(sys, "frozen", True, raising=False),  # the application would run a second time
    ],
    ids=["opt-out", "one processor", "one thread", "nothing can be written", "bundled application"],
)
def test_no_process_is_started(starts, monkeypatch, change):
    change(monkeypatch)
    assert starts() == []
    assert not claims.claims.active


def test_a_folder_that_others_can_write_gets_no_process(starts, monkeypatch, tmp_path):
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path))
    assert code_cache.writable()
    next(tmp_path.glob("*/*")).chmod(0o777)
    assert starts() == []


def test_a_failure_to_start_the_process_is_ignored(starts, monkeypatch):
    def refuse(*args, **kwargs):
        raise FileNotFoundError(2, "no such program")

    monkeypatch.setattr(subprocess, "Popen", refuse)
    assert starts() == []
    assert not claims.claims.active


def test_entries_of_sys_path_that_are_not_strings_are_ignored(starts, monkeypatch):
    monkeypatch.setattr(sys, "path", ["first", Path("second"), "third"])
    ((command, _),) = starts()
    assert json.loads(command[-1])["path"] == ["first", "third"]


def test_the_process_writes_bytecode_only_if_this_one_does(starts, monkeypatch):
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    monkeypatch.setattr(sys, "pycache_prefix", "elsewhere")
    ((command, _),) = starts()
    assert command[1 : command.index("-c")] == ["-X", "pycache_prefix=elsewhere", "-B", "-I"]


def test_code_of_a_process_that_does_not_end_is_awaited_for_a_limited_time(starts, monkeypatch):
    monkeypatch.setattr(subprocess.Popen, "poll", lambda process: None)
    monkeypatch.setattr(code_cache, "stored", lambda *args: False)
    monkeypatch.setattr(code_cache, "is_empty", lambda: True)
    starts()
    assert compile_ahead.is_compiled_elsewhere(None)
    monkeypatch.setattr(compile_ahead, "monotonic", lambda: time.monotonic() + claims.LIMIT)
    assert not compile_ahead.is_compiled_elsewhere(None)


def test_an_invalid_setting_is_refused(starts, monkeypatch):
    monkeypatch.setenv("CAPGPU_COMPILE_AHEAD", "yes")
    with pytest.raises(InvalidValueError, match=r"CAPGPU_COMPILE_AHEAD: expected 1 .* or 0, got 'yes'"):
        starts()


# --- who compiles what ------------------------------------------------------------------------------

HOLDER = "import fcntl, sys, time; f = open(sys.argv[1], 'w'); fcntl.flock(f, fcntl.LOCK_EX); print(flush=True); "


@pytest.fixture
def entry(monkeypatch, tmp_path):
    monkeypatch.setattr(claims.claims, "active", True)
    return tmp_path / "name.nbc"


@pytest.fixture
def holder(entry):
    """Start another process that has claimed the entry."""
    command = [sys.executable, "-S", "-c", HOLDER + "time.sleep(60)", str(entry.with_suffix(".lock"))]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        process.stdout.readline()
        yield process
        process.kill()


def test_a_claim_of_a_killed_process_is_taken_over(entry, holder):
    threading.Timer(0.1, holder.kill).start()
    start = time.monotonic()
    with claims.released():
        assert not claims.claim(entry, "capgpu.kernels.cpu.lstm._forward"), "this process compiles it"
        assert 0.05 < time.monotonic() - start < claims.LIMIT / 2
        assert entry.with_suffix(".lock").exists()
    assert not entry.with_suffix(".lock").exists()


def test_a_process_waits_for_code_that_another_is_compiling(entry, holder):
    def finish():
        entry.write_text("code")
        holder.kill()

    threading.Timer(0.1, finish).start()
    with claims.released():
        assert claims.claim(entry, "capgpu.kernels.cpu.lstm._forward")


def test_waiting_for_a_stopped_process_is_limited(entry, holder, monkeypatch):
    monkeypatch.setattr(claims, "LIMIT", 0.05)
    with claims.released():
        assert not claims.claim(entry, "capgpu.kernels.cpu.lstm._forward")
    assert not claims.claims.active, "there is no second time"


@pytest.mark.parametrize("passes_over", [False, True])
def test_without_file_locks_no_process_waits_or_skips_code(entry, monkeypatch, passes_over):
    def refuse(*args):
        raise OSError(errno.ENOSYS, "no locks on this file system")

    monkeypatch.setattr(claims.fcntl, "flock", refuse)
    monkeypatch.setattr(claims.claims, "passes_over", passes_over)
    monkeypatch.setattr(claims, "LIMIT", 5.0)
    start = time.monotonic()
    with claims.released():
        assert not claims.claim(entry, "capgpu.kernels.cpu.lstm._forward")
    assert time.monotonic() - start < claims.LIMIT / 2


def test_the_second_process_skips_claimed_code_unless_it_needs_it(entry, holder, monkeypatch):
    monkeypatch.setattr(claims.claims, "passes_over", True)
    with pytest.raises(claims.BusyError):
        claims.claim(entry, "capgpu.kernels.cpu.lstm._forward")
    monkeypatch.setattr(claims, "LIMIT", 0.05)
    with claims.released():
        claims.claim(entry.with_name("caller.nbc"), "capgpu.kernels.cpu.lstm._backward")
        assert not claims.claim(entry, "capgpu.kernels.cpu.lstm._forward")


def test_only_the_files_of_killed_processes_are_removed(entry, holder):
    held, abandoned = entry.with_suffix(".lock"), entry.with_name("other.lock")
    abandoned.touch()
    claims.remove_abandoned(entry.parent)
    assert held.exists()
    assert not abandoned.exists()
    holder.kill()
    holder.wait()
    claims.remove_abandoned(entry.parent)
    assert not held.exists()


COVERED = """
import sys
import numpy as np
from capgpu.captioner import announce_decoding, announce_training
from capgpu.decode import beam_search
from capgpu.kernels.cpu import code_cache, compile_ahead, compile_process
from capgpu.model import CaptioningRNN
from capgpu.optim import Optimizer
from capgpu.training.steps import TrainingSteps

def loaded():
    modules = [m for name, m in list(sys.modules.items()) if name.startswith("capgpu.kernels.cpu.")]
    kernels = {f for m in modules for f in vars(m).values() if isinstance(getattr(f, "_cache", 0), code_cache._Cache)}
    return {(f.py_func.__module__, f.py_func.__name__, str(signature)) for f in kernels for signature in f.overloads}

work = []
compile_ahead.announce = lambda *announced: work.append(announced)
words = {word: k for k, word in enumerate(("<NULL>", "<START>", "<END>", "a"))}
uses = []
for cell in ("rnn", "lstm", "gru", "attention"):
    model = CaptioningRNN(words, 3, 4, 5, cell, np.float32, seed=0, output_dropout=0.5)
    announce_training(model.cell, model.params, True)
    announce_decoding(model.params)
    for rule in ("adam", "sgd", "sgd_momentum"):
        steps = TrainingSteps(model, Optimizer(rule, {}, model.params), 1.0)
        steps._announce()
        uses.append((model, steps))
work.append((("greedy_captions",), "float32", 0, False))  # is announced where it is called
for operations, dtype, parameters, _ in work:
    for operation in operations:
        for call in compile_process._calls(operation, np.dtype(dtype), parameters):
            call()
before = loaded()
for model, steps in uses:
    features = np.ones((2, 2, 3) if model.cell.attends else (2, 3), np.float32)
    steps.loss(features, np.array([[1, 3, 2], [1, 2, 0]]), 1.0, dropout_key=0)
    steps.update(1.0)
    beam_search(model, features, 2, max_length=3)
    model.sample(features, max_length=3)
many = {**words, **{str(k): k for k in range(4, 5000)}}
CaptioningRNN(many, 3, 4, 64, "lstm", np.float32).sample(np.ones((1, 3), np.float32), max_length=3)
print(len(before) > 15, loaded() - before)
"""


def test_training_and_decoding_compile_only_announced_code():
    done = run(COVERED)
    assert done.stdout == "True set()\n", done.stderr
