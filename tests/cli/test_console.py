"""Standard output: marks, and text of files, which a terminal must not execute."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path

import pytest

import capgpu.cli
from capgpu.cli.console import console, echo, encodable_json, match_mark


@pytest.mark.parametrize("encoding", ["utf-8", "cp1252", "ascii", "cp437"])
def test_three_matches_have_three_marks_in_every_encoding(encoding: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO(), encoding))
    marks = [match_mark(match)[0] for match in ("right", "near", "wrong")]
    assert len(set(marks)) == 3
    assert "".join(marks).encode(encoding)
    assert marks == (["✓", "≈", "✗"] if encoding == "utf-8" else ["+", "~", "-"])


#: Sets the title of the window, clears the screen, and reverses the direction of text.
HOSTILE = "a\x1b]0;title\x07 dog\x1b[2J\x9b31m \u202egpj.exe\r"
SHOWN = r"a\x1b]0;title\x07 dog\x1b[2J\x9b31m \u202egpj.exe\x0d"


@pytest.mark.parametrize("terminal", [False, True])
def test_control_characters_are_printed_as_escapes(
    terminal: bool, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from rich.table import Table
    from rich.text import Text

    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr(sys.stdout, "isatty", lambda: terminal)
    echo(HOSTILE)
    echo(HOSTILE, err=True)
    out = console()
    out.print(HOSTILE, style="bold")
    table = Table(HOSTILE)
    table.add_row(Text(HOSTILE, "blue"))
    table.add_row(HOSTILE)
    out.print(table)
    printed = "".join(capsys.readouterr())
    assert printed.count(SHOWN) == 4
    # rich's texts lack the bell and the carriage return
    assert printed.count(SHOWN.replace(r"\x07", "").replace(r"\x0d", "")) == 2
    assert not set(printed) & set(HOSTILE) & set("\x07\x9b\r\u202e")
    assert "\x1b]" not in printed
    assert "\x1b[2J" not in printed


def test_text_of_all_languages_is_printed_unchanged(capsys: pytest.CaptureFixture[str]) -> None:
    text = "ein Hund, 犬, كلب, 🏴\U000e0067\U000e007f 👩\u200d🚒\ttab"
    echo(text)
    assert capsys.readouterr().out == f"{text}\n"


@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_json_is_printed_with_escapes_and_keeps_its_values(encoding: str) -> None:
    value = {"caption": HOSTILE, "picture": "\udcff.jpg"}
    text = encodable_json(value, encoding)
    assert json.loads(text) == value
    assert text.encode(encoding).decode(encoding).replace("\n", "").isprintable()


def test_subcommands_print_by_the_console_only() -> None:
    modules = [path for path in Path(capgpu.cli.__file__).parent.glob("*.py") if path.name != "console.py"]
    assert len(modules) > 9
    for module in modules:
        code = module.read_text(encoding="utf-8")
        assert "click.echo(" not in code, module
        assert "click.secho(" not in code, module
        assert "print(" not in code.replace("_print(", "").replace("out.print(", "").replace("console().print(", "")
