"""The command itself: help, errors and defects."""

from __future__ import annotations

import errno
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import pytest

from capgpu.backend import BackendUnavailableError
from capgpu.errors import InvalidTypeError, InvalidValueError, NonFiniteError
from capgpu.model import CaptioningRNN
from oracles.commands import refused, run


def test_debug_shows_where_an_error_came_from(tmp_path: Path) -> None:
    result = run("--debug", "caption", "--run", tmp_path)
    assert result.exception is not None
    assert "expected a run folder" in str(result.exception)
    assert not isinstance(result.exception, SystemExit)


def failing(error: BaseException) -> Callable[..., NoReturn]:
    """Return a function that raises the error, whatever its arguments."""

    def fail(*args: object, **kwargs: object) -> NoReturn:
        raise error

    return fail


@pytest.mark.parametrize(
    "error", [ZeroDivisionError("bug"), TypeError("bug"), ValueError("bug"), RuntimeError("bug"), KeyError("bug")]
)
def test_a_bug_is_shown_with_its_traceback(error: Exception, finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(CaptioningRNN, "step", failing(error))
    result = run("caption", "--run", finished)
    assert result.exception is error
    assert "capgpu: error" not in result.output


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (InvalidValueError("beam: expected 1, got 2."), "beam: expected 1, got 2."),
        (InvalidTypeError("beam: expected an integer."), "beam: expected an integer."),
        (NonFiniteError("the loss is NaN."), "the loss is NaN."),
        (BackendUnavailableError("no\nGPU."), "no GPU."),
        (FileNotFoundError(errno.ENOENT, "No such file or directory", "a file"), "a file: No such file or directory"),
        (OSError("no java on PATH."), "no java on PATH."),
        (MemoryError("Unable to allocate 8 GiB"), "Unable to allocate 8 GiB"),
        (MemoryError(), "MemoryError"),
    ],
    ids=repr,
)
def test_errors_that_a_user_can_correct_are_one_line(
    error: Exception, says: str, finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(CaptioningRNN, "step", failing(error))
    result = run("caption", "--run", finished)
    assert (result.exit_code, result.stderr) == (2, f"capgpu: error: {says}\n")
    assert run("--debug", "caption", "--run", finished).exception is error


def test_no_command_shows_the_help() -> None:
    result = run()
    assert result.exit_code == 0
    for command in ("prepare", "train", "caption", "eval", "score", "export", "info", "tune"):
        assert f"\n  {command} " in result.stdout


def test_help_loads_nothing_heavy() -> None:
    code = (
        "import sys\n"
        "from capgpu.cli import main\n"
        "try:\n    main(['--help'])\n"
        "except SystemExit:\n    pass\n"
        "heavy = {'numba', 'cupy', 'matplotlib', 'PIL', 'rich', 'safetensors', 'torch'}\n"
        "print('heavy:', sorted(heavy & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "heavy: []"


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
def test_ctrl_c_during_imports_shows_no_traceback() -> None:
    code = """
import os, runpy, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job starts with it ignored
class Interrupt:
    def find_spec(self, name, path=None, target=None):
        if name == "capgpu.cli.train":
            os.kill(os.getpid(), signal.SIGINT)
sys.meta_path.insert(0, Interrupt())
sys.argv = ["capgpu", "-V"]
runpy.run_module("capgpu", run_name="__main__")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (-signal.SIGINT, "", "")


@pytest.mark.skipif(sys.platform == "win32", reason="needs a POSIX shell")
def test_a_closed_standard_output_loses_no_results(finished: Path, tmp_path: Path) -> None:
    file = tmp_path / "scores.json"
    command = [sys.executable, "-m", "capgpu", "eval", str(finished), "--json", str(file), "--backend", "numpy"]
    done = subprocess.run(["sh", "-c", 'exec "$@" >&-', "sh", *command], stderr=subprocess.PIPE, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert file.stat().st_size > 0


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs Linux")
def test_help_on_a_full_disk_is_an_error_in_one_line() -> None:
    command = [sys.executable, "-m", "capgpu", "--help"]
    with open("/dev/full", "w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True)
    assert (done.returncode, done.stderr) == (2, "capgpu: error: No space left on device\n")


def test_a_missing_choice_is_reported_in_one_line(finished: Path) -> None:
    refused(run("export", finished, "--out", "x"), "Missing option '--to'. Choose from: onnx, torch")


def test_a_reader_that_closes_its_pipe_gets_no_error_message(finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(CaptioningRNN, "step", failing(BrokenPipeError(errno.EPIPE, "Broken pipe")))
    result = run("caption", "--run", finished)
    assert (result.exit_code, result.stderr) == (1, "")
