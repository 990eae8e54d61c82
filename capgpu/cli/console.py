"""Console output of all subcommands: lines, tables, marks and JSON.

Captions, names and messages come from files: what a terminal would execute of them is printed as escapes. Subcommands
print by `echo` and `console` only.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import click

from capgpu.visible_text import printable_json, visible

if TYPE_CHECKING:
    from rich.console import Console
    from rich.segment import Segment
    from rich.table import Table

    from capgpu.evaluation.match import Match
    from capgpu.evaluation.scores import Scores

__all__ = [
    "console",
    "echo",
    "encodable_json",
    "marks_legend",
    "match_mark",
    "print_table",
    "score_table",
    "tokens_note",
]

_WIDTH_OF_FILES = 120
#: Wider than any table: in files and pipes a row is a line.
_UNLIMITED = 100_000

#: The mark of each match in a table, its ASCII substitute, and the style.
_MARKS: dict[Match, tuple[str, str, str]] = {
    "right": ("✓", "+", "blue"),
    "near": ("≈", "~", "yellow"),
    "wrong": ("✗", "-", "red"),
}


def echo(text: str, err: bool = False) -> None:
    """Print a line on standard output, or on standard error."""
    click.echo(visible(text), err=err)


def console(width: int | None = None) -> Console:
    """Return a console on standard output, as wide as the terminal; 120 columns for files and pipes.

    Parameters
    ----------
    width : int, optional
        Another number of columns, without colours.

    Returns
    -------
    rich.console.Console
        It interprets no markup and no emoji codes in text, and shows control characters as escapes.
    """
    from rich.console import Console, ConsoleOptions, RenderableType
    from rich.table import Table
    from rich.text import Text

    def shown(renderable: RenderableType) -> RenderableType:
        if isinstance(renderable, str):
            return visible(renderable)
        if isinstance(renderable, Text) and (plain := visible(renderable.plain)) != renderable.plain:
            return renderable.blank_copy(plain)
        return renderable

    class VisibleConsole(Console):
        """Each object that is printed passes through `render`, and so does each text in it."""

        def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
            if isinstance(renderable, Table):
                # before the columns are measured: escapes are wider than what they stand for
                for column in renderable.columns:
                    column.header = shown(column.header)
                    column._cells[:] = map(shown, column.cells)
            return super().render(shown(renderable), options)

    columns = width or (None if sys.stdout.isatty() else _WIDTH_OF_FILES)
    plain = None if width is None else True
    return VisibleConsole(width=columns, highlight=False, markup=False, emoji=False, no_color=plain)


def print_table(table: Table) -> None:
    """Print a table: on a terminal as wide as it is, elsewhere one line per row, without spaces at the ends of lines.

    Parameters
    ----------
    table : rich.table.Table
        The table.
    """
    if sys.stdout.isatty():
        console().print(table)
        return
    out = console(_UNLIMITED)
    with out.capture() as lines:
        out.print(table)
    for line in lines.get().splitlines():
        print(line.rstrip())


def marks_legend(*, with_base_names: bool) -> str:
    """Return what the marks of `match_mark` mean, in one line.

    Parameters
    ----------
    with_base_names : bool
        Whether captions have base names, which can be right alone.

    Returns
    -------
    str
        The line.
    """
    meanings: dict[Match, str] = {"right": "equal to a true caption"}
    if with_base_names:
        meanings["near"] = "right base name"
    meanings["wrong"] = "neither" if with_base_names else "different"
    return ", ".join(f"{match_mark(match)[0]} {meaning}" for match, meaning in meanings.items())


def match_mark(match: Match) -> tuple[str, str]:
    """Return the mark of a match for standard output, and its style.

    Parameters
    ----------
    match : {"right", "near", "wrong"}
        As from `capgpu.evaluation.match.match_caption`.

    Returns
    -------
    mark, style : str
        ``+``, ``~`` and ``-`` if the encoding lacks one of the usual marks, as cp1252 does.
    """
    mark, substitute, style = _MARKS[match]
    try:
        "".join(marks[0] for marks in _MARKS.values()).encode(sys.stdout.encoding or "utf-8")
    except UnicodeEncodeError:
        mark = substitute
    return mark, style


def score_table(scores: Mapping[str, Scores]) -> Table:
    """Lay out scores with one row per metric and one column per captioner.

    Parameters
    ----------
    scores : mapping of str to Scores
        By the captioner's name; at least one.

    Returns
    -------
    rich.table.Table
        The table; without a header if the only name is empty.
    """
    from rich.table import Table

    table = Table(box=None, padding=(0, 2, 0, 0), show_header=any(scores))
    table.add_column("", no_wrap=True)
    for name in scores:
        table.add_column(name, justify="right")
    columns = list(scores.values())
    for name in columns[0].metrics:
        table.add_row(name, *(f"{column.metrics[name].corpus:.3f}" for column in columns))
    table.add_row("exact", *(f"{column.exact:.1%}" for column in columns))
    if columns[0].base is not None:
        table.add_row("right base name", *(f"{column.base:.1%}" for column in columns if column.base is not None))
    return table


def tokens_note(tokenizer: str) -> str:
    """Return a line that says which words were compared, by the name of the tokenizer."""
    if tokenizer == "coco":
        return "Words and scores as in COCO's evaluation, whose CIDEr is CIDEr-D."
    return "Words and punctuation as in the data: the scores are not comparable with those of COCO's evaluation."


def encodable_json(value: Any, encoding: str) -> str:
    """Return indented JSON, with escapes for control characters, and for all characters if the encoding lacks one.

    UTF-8 cannot represent undecodable bytes of file names either.
    """
    text = printable_json(json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False))
    try:
        text.encode(encoding)
    except UnicodeEncodeError:
        return json.dumps(value, indent=2, allow_nan=False)
    return text
