"""The command itself: help, errors and defects."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from capgpu.model import CaptioningRNN
from oracles.commands import run


def test_debug_shows_where_an_error_came_from(tmp_path: Path) -> None:
    result = run("--debug", "caption", "--run", tmp_path)
    assert result.exception is not None
    assert "no run folder" in str(result.exception)
    assert not isinstance(result.exception, SystemExit)


def test_a_defect_is_not_passed_off_as_a_user_error(finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*args: object, **kwargs: object) -> None:
        raise ZeroDivisionError("a defect")

    monkeypatch.setattr(CaptioningRNN, "step", broken)
    assert isinstance(run("caption", "--run", finished).exception, ZeroDivisionError)


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
