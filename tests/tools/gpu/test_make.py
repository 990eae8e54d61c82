"""What make runs on a GPU machine: the interpreter at hand, no environment, no registry."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

from tools.gpu.stages import STAGES, choose

ROOT = Path(__file__).resolve().parents[3]


def planned(*words: str) -> list[str]:
    """Return the commands that make would run."""
    # these tests may be run by make themselves: a make below another one also prints which folder it enters
    environment = {
        name: value for name, value in os.environ.items() if name not in ("MAKEFLAGS", "MAKELEVEL", "MFLAGS")
    }
    done = subprocess.run(
        ["make", "--dry-run", *words], cwd=ROOT, env=environment, capture_output=True, text=True, check=True
    )
    return done.stdout.splitlines()


@pytest.mark.parametrize("target", ["gpu-run", "test-gpu", "bench-gpu"])
def test_the_interpreter_given_is_all_that_runs(target):
    (command,) = planned(target, "PY=some-python", "OUT=folder", "ARGS=--flag")
    assert command.startswith("some-python -m ")
    assert command.endswith(" --flag")
    assert ("--out folder" in command) == (target != "bench-gpu")


@pytest.mark.parametrize("there", [False, True])
def test_by_default_it_is_the_environments_where_there_is_one(there, tmp_path):
    if there:
        (tmp_path / "bin").mkdir()
        (tmp_path / "bin" / "python").touch()
    (command,) = planned("gpu-run", f"VENV={tmp_path}")
    assert command.split()[0] == (f"{tmp_path}/bin/python" if there else "python3")


def test_the_stages_of_the_tests_exist():
    (command,) = planned("test-gpu")
    names = re.search(r"--stages (\S+)", command)[1].split(",")
    assert [stage.name for stage in choose(names)] == names


def test_the_page_tells_each_stage_its_time_and_its_limit():
    page = (ROOT / "tools" / "gpu" / "README.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(\w+)` \| (\d+) \| (\d+) \| .+ \|$", page, flags=re.M)
    assert [(name, float(a), float(b)) for name, a, b in rows] == [(s.name, s.expected, s.limit) for s in STAGES]
    for target in re.findall(r"\]\(([^)]+)\)", page):
        assert (ROOT / "tools" / "gpu" / target).exists(), target
