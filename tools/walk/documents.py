"""Promises of the documentation, the README and the pictures."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
from PIL import Image

from tools.walk.promises import ROOT, SkippedError, User, promise

_of_the_documents = promise("Documentation")
_of_the_pictures = promise("Pictures")


def _text(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


@_of_the_documents
def pages(user: User) -> str:
    """There are pages on installation, a start, guides, the course's functions, the reference and a gallery."""
    for name in ("installation", "start", "cs231n", "reference", "gallery", "changelog", "answers"):
        assert len(_text(f"docs/{name}.md").splitlines()) > 3, name
    guides = {path.stem for path in (ROOT / "docs" / "guides").glob("*.md")}
    assert {"own-pictures", "training-loop", "backends", "adding-a-cell", "scaling-out", "benchmarks"} <= guides
    return f"guides: {', '.join(sorted(guides))}"


@_of_the_documents
def course_functions(user: User) -> str:
    """The table of the course's functions names functions that exist."""
    import importlib

    names = re.findall(r"`(capgpu(?:\.\w+)+)`", _text("docs/cs231n.md"))
    assert len(names) > 10
    for name in names:
        parts = name.split(".")
        for end in range(len(parts), 0, -1):
            if importlib.util.find_spec(".".join(parts[:end])) is not None:
                break
        value: object = importlib.import_module(".".join(parts[:end]))
        for part in parts[end:]:
            value = getattr(value, part)
    return f"{len(names)} names"


@_of_the_documents
def notebooks(user: User) -> str:
    """Two notebooks are executed when the documentation is built: layers by hand, and own pictures."""
    found = sorted(path.name for path in (ROOT / "docs" / "notebooks").iterdir() if not path.name.startswith("."))
    assert len(found) >= 2, found
    assert 'nb_execution_mode = "force"' in _text("docs/conf.py")
    assert " -W " in _text("Makefile"), "warnings are errors"
    return ", ".join(found)


@_of_the_documents
def build(user: User) -> str:
    """The documentation builds without a warning."""
    if importlib.util.find_spec("sphinx") is None:
        raise SkippedError("Sphinx is not installed: make docs")
    command = [sys.executable, "-m", "sphinx", "-b", "html", "-n", "-W", "-q", "docs", str(user.folder / "html")]
    done = subprocess.run(command, cwd=ROOT, env=user.environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-400:]
    return f"{len(list((user.folder / 'html').rglob('*.html')))} pages"


@_of_the_documents
def readme(user: User) -> str:
    """The README has a start for users of pip, and answers on threads, caches, precision, GPUs, seeds, platforms."""
    text = _text("README.md")
    assert "pip install" in text
    for word in ("thread", "cache", "precision", "GPU", "seed", "notebook", "macOS"):
        assert word.lower() in (text + _text("docs/answers.md")).lower(), word
    return f"{len(text.split())} words"


@_of_the_documents
def commands_of_the_readme(user: User) -> str:
    """Each command of README and start page exists, with the options that they give."""
    import click

    from capgpu.cli import main

    lines = re.findall(r"^(?:\$ )?capgpu (\w+)(.*)$", _text("README.md") + "\n" + _text("docs/start.md"), re.M)
    assert lines
    context = click.Context(main)
    for name, rest in lines:
        command = main.get_command(context, name)
        assert command is not None, name
        known = {option for parameter in command.params for option in parameter.opts} | {"--help"}
        given = set(re.findall(r"(?<!\S)--[\w-]+", rest.partition("#")[0]))
        assert given <= known, (name, given - known)
    return f"{len(lines)} lines"


def _picture(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


@_of_the_pictures
def sheets(user: User) -> str:
    """The demo's sheet is small enough to read, and best, typical and worst pictures of a ranked sheet differ."""
    demo = _picture(ROOT / "docs" / "demo.png")
    assert max(demo.shape[:2]) < 2000, demo.shape
    user.capgpu("eval", user.run, "--ranked-sheet", "parts.png", "--sheet-count", 12)
    ranked = _picture(user.folder / "parts.png")
    third = ranked.shape[0] // 3
    parts = [ranked[i * third : (i + 1) * third] for i in range(3)]
    assert not np.array_equal(parts[0], parts[1])
    assert not np.array_equal(parts[1], parts[2])
    return (
        f"the demo's sheet has {demo.shape[1]} x {demo.shape[0]} pixels, the ranked one {ranked.shape[1]} x {third * 3}"
    )


@_of_the_pictures
def loss_curve(user: User) -> str:
    """The loss curve of a run has at least three labels on each axis, whatever the range of the losses."""
    from capgpu.report.loss_curve import _log_ticks

    for low, high in ((0.9, 1.1), (0.01, 5.0), (2.0, 2.5)):
        ticks = [tick for tick in _log_ticks(low, high) if low <= tick <= high]
        assert len(ticks) >= 2, (low, high, ticks)
    assert _picture(user.run / "loss.png").std() > 0
    return f"labels from 0.01 to 5: {[f'{tick:g}' for tick in _log_ticks(0.01, 5.0)]}"


@_of_the_pictures
def benchmarks(user: User) -> str:
    """Plots of benchmarks have titles and units, and terms of the field."""
    source = _text("bench/plots.py") + _text("bench/breakdown.py")
    assert "set_title" in source or "suptitle" in source
    assert '"S1"' not in source
    assert "gemm distinct" not in source
    return "titles in bench/plots.py"
