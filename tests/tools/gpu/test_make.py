"""The make targets for a GPU machine use the given interpreter, without creating an environment."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

from tools.gpu.stages import STAGES, choose

ROOT = Path(__file__).resolve().parents[3]


def dry_run(*arguments: str) -> list[str]:
    """Return the commands that make would run."""
    # if make runs these tests, a nested make would also print the folder that it enters
    environment = {
        name: value for name, value in os.environ.items() if name not in ("MAKEFLAGS", "MAKELEVEL", "MFLAGS")
    }
    make = subprocess.run(
        ["make", "--dry-run", *arguments], cwd=ROOT, env=environment, capture_output=True, text=True, check=True
    )
    return make.stdout.splitlines()


@pytest.mark.parametrize("target", ["gpu-run", "test-gpu", "bench-gpu"])
def test_targets_run_only_the_given_interpreter(target):
    (command,) = dry_run(target, "PY=some-python", "OUT=folder", "ARGS=--flag")
    assert command.startswith("some-python -m ")
    assert command.endswith(" --flag")
    assert ("--out folder" in command) == (target != "bench-gpu")


@pytest.mark.parametrize("venv_exists", [False, True])
def test_the_default_interpreter_is_that_of_the_virtual_environment_if_it_exists(venv_exists, tmp_path):
    if venv_exists:
        (tmp_path / "bin").mkdir()
        (tmp_path / "bin" / "python").touch()
    (command,) = dry_run("gpu-run", f"VENV={tmp_path}")
    assert command.split()[0] == (f"{tmp_path}/bin/python" if venv_exists else "python3")


def test_the_stages_named_by_test_gpu_exist():
    (command,) = dry_run("test-gpu")
    names = re.search(r"--stages (\S+)", command)[1].split(",")
    assert [stage.name for stage in choose(names)] == names


def test_the_readme_lists_every_stage_with_its_expected_time_and_limit():
    page = (ROOT / "tools" / "gpu" / "README.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(\w+)` \| (\d+) \| (\d+) \| .+ \|$", page, flags=re.M)
    assert [(name, float(a), float(b)) for name, a, b in rows] == [(s.name, s.expected, s.limit) for s in STAGES]
    for target in re.findall(r"\]\(([^)]+)\)", page):
        assert (ROOT / "tools" / "gpu" / target).exists(), target
