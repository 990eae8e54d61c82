"""`make test-gpu`: what it runs, and what it says where there is nothing to run on."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.append(str(Path(__file__).resolve().parents[2]))

from tools import gpu_tests


@pytest.fixture
def commands(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Record what would be run on a device, all of it passing."""
    made: list[list[str]] = []

    def run(command: Any, **options: Any) -> subprocess.CompletedProcess[bytes]:
        assert options["env"]["CAPGPU_BACKEND"] == "cuda"
        made.append(list(command))
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(gpu_tests, "device", lambda: "a device")
    monkeypatch.setattr(gpu_tests.subprocess, "run", run)
    return made


def test_without_a_device_the_cause_is_told_and_nothing_runs(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "cupy", None)
    assert gpu_tests.main([]) == 2
    assert "no device to test on. backend 'cuda'" in capsys.readouterr().err


def test_the_marked_tests_run_with_the_arguments_given(commands, monkeypatch, capsys):
    monkeypatch.setattr(gpu_tests, "sanitizer", lambda: None)
    assert gpu_tests.main(["-k", "lstm"]) == 0
    assert [command[1:] for command in commands] == [["-m", "pytest", "-m", "gpu", "-k", "lstm"]]
    assert "compute-sanitizer is not here" in capsys.readouterr().out


def test_each_checker_runs_where_the_sanitizer_is_and_fails_the_whole(commands, monkeypatch):
    monkeypatch.setattr(gpu_tests.shutil, "which", lambda name: f"/usr/bin/{name}")
    assert gpu_tests.main([]) == 0
    tools = [command[1].removeprefix("--tool=") for command in commands[1:]]
    assert tools == ["memcheck", "racecheck", "synccheck"]
    assert all(
        command[0] == "/usr/bin/compute-sanitizer" and "--error-exitcode=9" in command for command in commands[1:]
    )

    def found(command: Any, **options: Any) -> subprocess.CompletedProcess[bytes]:
        return subprocess.CompletedProcess(command, 9 if "--tool=racecheck" in command else 0)

    monkeypatch.setattr(gpu_tests.subprocess, "run", found)
    assert gpu_tests.main([]) == 1


def test_the_sanitizer_is_found_in_its_package(monkeypatch, tmp_path):
    monkeypatch.setattr(gpu_tests.shutil, "which", lambda name: None)
    monkeypatch.setattr(gpu_tests.sys, "path", [str(tmp_path)])
    assert gpu_tests.sanitizer() is None
    program = tmp_path / "nvidia" / "cu13" / "bin" / "compute-sanitizer"
    program.parent.mkdir(parents=True)
    program.touch()
    assert gpu_tests.sanitizer() == str(program)


def test_a_run_that_collects_nothing_is_a_failure(commands, monkeypatch, capsys):
    monkeypatch.setattr(gpu_tests, "sanitizer", lambda: None)
    monkeypatch.setattr(gpu_tests.subprocess, "run", lambda command, **options: subprocess.CompletedProcess(command, 5))
    assert gpu_tests.main([]) == 1
    assert "no test ran" in capsys.readouterr().out


def test_what_the_checkers_are_given_is_there():
    root = Path(gpu_tests.__file__).resolve().parents[1]
    folder, _, words = gpu_tests.CHECKED
    assert (root / folder).is_dir()
    texts = [file.read_text(encoding="utf-8") for file in (root / folder).rglob("test_*.py")]
    assert any(f"def test_{words.removeprefix('not ')}" in text for text in texts)
