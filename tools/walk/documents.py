"""Promises of the documentation, the README and the pictures."""

from __future__ import annotations

import functools
import importlib.util
import pydoc
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from tools.walk.promises import ROOT, SkippedError, User, promise

_of_the_documents = functools.partial(promise, "Documentation")
_of_the_pictures = functools.partial(promise, "Pictures")


def _text(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


@_of_the_documents(
    "There are pages on installation, a start, guides, the course's functions, the reference and a gallery."
)
def _pages(user: User) -> str:
    for name in ("installation", "start", "cs231n", "reference", "gallery", "changelog", "answers"):
        assert _text(f"docs/{name}.md").strip(), name
    guides = {path.stem for path in (ROOT / "docs" / "guides").glob("*.md")}
    assert {"own-pictures", "training-loop", "backends", "adding-a-cell", "scaling-out", "benchmarks"} <= guides
    return f"guides: {', '.join(sorted(guides))}"


@_of_the_documents("The table of the course's functions names functions that exist.")
def _course_functions(user: User) -> str:
    names = re.findall(r"`(capgpu(?:\.\w+)+)`", _text("docs/cs231n.md"))
    assert len(names) > 5
    missing = [name for name in names if pydoc.locate(name) is None]
    assert missing == []
    return f"{len(names)} names"


@_of_the_documents("Two notebooks are executed when the documentation is built: layers by hand, and own pictures.")
def _notebooks(user: User) -> str:
    found = sorted(path.name for path in (ROOT / "docs" / "notebooks").iterdir() if not path.name.startswith("."))
    assert len(found) >= 2, found
    assert 'nb_execution_mode = "force"' in _text("docs/conf.py")
    assert " -W " in _text("Makefile"), "warnings are errors"
    return ", ".join(found)


@_of_the_documents("The documentation builds without a warning.")
def _build(user: User) -> str:
    if importlib.util.find_spec("sphinx") is None:
        raise SkippedError("Sphinx is not installed: make docs")
    command = [sys.executable, "-m", "sphinx", "-b", "html", "-n", "-W", "-q", "docs", str(user.folder / "html")]
    done = subprocess.run(command, cwd=ROOT, env=user.environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-400:]
    return f"{len(list((user.folder / 'html').rglob('*.html')))} pages"


@_of_the_documents(
    "The README has a start for users of pip, and answers on threads, caches, precision, GPUs, seeds, platforms."
)
def _readme(user: User) -> str:
    text = _text("README.md")
    assert "pip install" in text
    for word in ("thread", "cache", "precision", "GPU", "seed", "notebook", "macOS"):
        assert word.lower() in (text + _text("docs/answers.md")).lower(), word
    return f"{len(text.split())} words"


@_of_the_documents("Each command of README and start page exists, with the options that they give.")
def _commands_of_the_readme(user: User) -> str:
    import click

    from capgpu.cli import main

    blocks = re.findall(r"^```.*?^```", _text("README.md") + "\n" + _text("docs/start.md"), re.M | re.S)
    lines = re.findall(r"^[$!]? ?capgpu (\w+)(.*)$", "\n".join(blocks), re.M)
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


@_of_the_pictures(
    "The demo's sheet is small enough to read, and best, typical and worst pictures of a ranked sheet differ."
)
def _sheets(user: User) -> str:
    demo = _picture(ROOT / "docs" / "demo.png")
    assert max(demo.shape[:2]) < 2000, demo.shape
    user.capgpu("eval", user.run, "--ranked-sheet", "parts.png", "--sheet-count", 12)
    ranked = _picture(user.folder / "parts.png")
    third = ranked.shape[0] // 3
    parts = [ranked[i * third : (i + 1) * third] for i in range(3)]
    assert not np.array_equal(parts[0], parts[1])
    assert not np.array_equal(parts[1], parts[2])
    sizes = [f"{picture.shape[1]} x {picture.shape[0]}" for picture in (demo, ranked)]
    return f"the demo's sheet has {sizes[0]} pixels, the ranked one {sizes[1]}"


@_of_the_pictures("The loss curve of a run has at least three labels on each axis, whatever the range of the losses.")
def _loss_curve(user: User) -> str:
    from capgpu.report.loss_curve import _log_ticks

    for low, high in ((0.9, 1.1), (0.01, 5.0), (2.0, 2.5)):
        ticks = [tick for tick in _log_ticks(low, high) if low <= tick <= high]
        assert len(ticks) >= 2, (low, high, ticks)
    assert _picture(user.run / "loss.png").std() > 0
    return f"labels from 0.01 to 5: {[f'{tick:g}' for tick in _log_ticks(0.01, 5.0)]}"


@_of_the_pictures("Plots of benchmarks have titles and units, and terms of the field.")
def _benchmarks(user: User) -> str:
    from matplotlib.text import Text

    from bench import plots

    figures: list[Any] = []
    results, save = plots.read_results(ROOT / "bench" / "results"), plots.save
    plots.save = lambda figure, path: figures.append(figure)
    try:
        plots.plot_growth(results, user.folder / "growth.png")
        plots.plot_breakdown(results, user.folder / "breakdown.png")
    finally:
        plots.save = save
    axes = [axes for figure in figures for axes in figure.axes]
    assert all(figure.get_suptitle() for figure in figures)
    assert all(each.get_xlabel() for each in axes)
    assert axes[0].get_ylabel().endswith("(ms)")
    assert axes[-1].get_xlabel().endswith("(%)")
    texts = [text.get_text() for figure in figures for text in figure.findobj(Text)]
    assert any("matrix products" in text for text in texts)
    assert not any("gemm" in text for text in texts)
    return f"{len(figures)} figures with {len(axes)} axes, by {axes[0].get_ylabel()} and {axes[-1].get_xlabel()}"
