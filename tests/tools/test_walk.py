"""The walk of `tools.walk`: what is promised to users holds."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

import capgpu
from tools.walk import documents
from tools.walk.promises import PROMISES, ROOT, Promise, User, refused

#: Promises that are tried in this process, in no time.
QUICK = [
    promise
    for promise in PROMISES
    if promise.section == "Documentation" and promise.check is not documents._build  # minutes
]


@pytest.mark.parametrize("promise", QUICK, ids=lambda promise: promise.check.__name__.strip("_"))
def test_the_documentation_keeps_what_it_promises(promise: Promise, tmp_path: Path) -> None:
    assert promise.check(User(tmp_path))


def test_the_changelog_begins_with_the_version_of_the_package() -> None:
    heads = re.findall(r"^## (\S+), (unreleased|\d{4}-\d\d-\d\d)$", (ROOT / "CHANGELOG.md").read_text(), re.M)
    assert heads[0][0] == capgpu.__version__
    assert all(when != "unreleased" for _, when in heads[1:])


def test_a_promise_that_does_not_hold_is_found() -> None:
    with pytest.raises(AssertionError, match="expected a refusal"):
        refused(lambda: None, "START")
    with pytest.raises(AssertionError, match="expected 'START' in the message"):
        refused(lambda: capgpu.load(""), "START")


@pytest.mark.nightly
def test_every_promise_holds() -> None:
    done = subprocess.run([sys.executable, "-m", "tools.walk"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
