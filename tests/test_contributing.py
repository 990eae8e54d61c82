"""CONTRIBUTING.md, and the guide that it refers to, name only what the tree has."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TEXT = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
GUIDE = (ROOT / "docs" / "guides" / "adding-a-cell.md").read_text(encoding="utf-8")
FILES = [
    path
    for folder in ("capgpu", "kernels", "tests", "bench", "tools", "docs")
    for path in (ROOT / folder).rglob("*")
    if path.is_file()
]


def test_every_file_that_is_named_exists():
    paths = [f"/{path.relative_to(ROOT).as_posix()}" for path in [*FILES, *ROOT.glob("*")]]
    named = set(re.findall(r"[\w./-]*\w\.(?:py|cu|cuh|md|sh|toml)\b", TEXT + GUIDE))
    assert len(named) > 100
    assert {
        name for name in named if "NAME" not in name and not any(path.endswith(f"/{name}") for path in paths)
    } == set()


def test_every_name_in_backticks_occurs_in_the_sources():
    sources = [
        path for path in FILES if path.suffix in (".py", ".cu", ".cuh", ".js") and path.name != Path(__file__).name
    ]
    text = "\n".join(path.read_text(encoding="utf-8") for path in [*sources, ROOT / "pyproject.toml"])
    words, prose = set(re.findall(r"\w+", text)), re.sub(r"```.*?```", "", TEXT, flags=re.S)
    named = set(re.findall(r"`([A-Za-z_][\w.]*)(?:\([^`]*\))?`", prose))
    assert len(named) > 50
    assert {name for name in named if name.split(".")[-1] not in words} == set()
