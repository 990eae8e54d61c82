"""The tables of the stage ``times``, written as JSON and Markdown after each part."""

from __future__ import annotations

import json
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.cuda.report import EMULATED
from bench.report import write_atomically

__all__ = ["Findings", "LeftOutError", "Part", "Table", "require_torch"]

Row = Sequence[Any]
_LEFT_OUT = "left out: "


class LeftOutError(Exception):
    """A table is skipped because something optional is not installed; the message says what."""


def require_torch() -> Any:
    """Return PyTorch.

    Raises
    ------
    ImportError
        If it is not installed.
    LeftOutError
        If it finds no CUDA device.
    """
    import torch

    if not torch.cuda.is_available():
        raise LeftOutError(f"PyTorch {torch.__version__} finds no CUDA device")
    return torch


@dataclass(frozen=True)
class Part:
    """The definition of one table.

    Attributes
    ----------
    name : str
        Heading.
    columns : tuple of str
        Names of the columns.
    rows : callable
        Measures and yields rows; those yielded before an error are kept.
    """

    name: str
    columns: tuple[str, ...]
    rows: Callable[[], Any]


@dataclass
class Table:
    """The results of a part."""

    columns: tuple[str, ...]
    rows: list[Row] = field(default_factory=list)
    seconds: float = 0.0
    error: str = ""


class Findings:
    """All tables of a run.

    Parameters
    ----------
    folder : Path
        Folder for ``times.json`` and ``times.md``; emulated results get the prefix ``emulated-`` and a title that says
        so.
    about : dict
        Device, versions, commit; ``emulated`` is true if the stand-in for CuPy computed them.
    """

    def __init__(self, folder: Path, about: dict[str, Any]) -> None:
        self.about, self.tables = about, dict[str, Table]()
        stem = "emulated-times" if about["emulated"] else "times"
        self._json, self._page = folder / f"{stem}.json", folder / f"{stem}.md"

    def add(self, part: Part) -> None:
        """Run a part and write both files; an error ends only this part."""
        table = self.tables[part.name] = Table(part.columns)
        started = time.perf_counter()
        try:
            for row in part.rows():
                table.rows.append(row)
        except (ImportError, LeftOutError) as error:
            table.error = f"{_LEFT_OUT}{error}"
        except Exception as error:  # the other tables are still made
            traceback.print_exc()
            table.error = f"{type(error).__name__}: {error}"[:500]
        table.seconds = time.perf_counter() - started
        self.write()
        print("\n".join(self._section(part.name, table)), flush=True)

    @property
    def failed(self) -> list[str]:
        """Names of the parts that raised, except for those that were skipped."""
        return [name for name, table in self.tables.items() if table.error and not table.error.startswith(_LEFT_OUT)]

    def write(self) -> None:
        """Write both files, each as a whole."""
        basis = EMULATED if self.about["emulated"] else "measured"
        document = {"basis": basis, "about": self.about, "tables": {k: vars(v) for k, v in self.tables.items()}}
        write_atomically(self._json, (json.dumps(document, indent=1, default=str) + "\n").encode())
        lines = [f"# {EMULATED if self.about['emulated'] else 'Times on ' + str(self.about['device'])}", ""]
        lines += [f"- {name}: {value}" for name, value in self.about.items()]
        lines += [
            "",
            "Milliseconds are device times: medians of batches launched behind other work, so that the device never",
            "waits for the host. An asterisk marks figures during which it did. `wall`: by the host's clock.",
        ]
        for name, table in self.tables.items():
            lines += self._section(name, table)
        write_atomically(self._page, ("\n".join(lines) + "\n").encode())

    @staticmethod
    def _section(name: str, table: Table) -> list[str]:
        lines = ["", f"## {name} ({table.seconds:.1f} s)", ""]
        if table.error:
            lines += [table.error, ""]
        if table.rows:
            lines += ["| " + " | ".join(table.columns) + " |", "| --- " * len(table.columns) + "|"]
            lines += ["| " + " | ".join(map(_cell, row)) + " |" for row in table.rows]
        return lines


def _cell(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else ""
    return f"{value:.5g}" if isinstance(value, float) else str(value).replace("|", "/").replace("\n", " ")
