"""The record of a training run: a JSON Lines file that grows while the run goes on.

A line is a JSON object with a ``"kind"`` and numbers, strings or lists by name, without nested objects: pandas reads
the file as a table, ``pandas.read_json(path, lines=True)``. ``train_loss`` and ``val_loss`` are in nats per word;
``loss`` is per caption, as in `CaptioningSolver.loss_history`. Each line is flushed as it is written, so a run can be
watched and a killed one has lost nothing but, at worst, part of its last line, which the reader leaves out.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from capgpu.checkpoint import atomic_write
from capgpu.errors import InvalidValueError

__all__ = ["HistoryWriter", "plain", "read_history", "rewind_history"]


def _split(path: Path) -> tuple[list[bytes], bytes]:
    """Return the whole lines of a file and what follows the last line break."""
    *lines, tail = path.read_bytes().split(b"\n")
    return lines, tail


def _parse(line: bytes) -> dict[str, Any] | None:
    try:
        record = json.loads(line)
    except ValueError:
        return None
    return record if isinstance(record, dict) else None


def read_history(path: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """Read a record of training.

    Parameters
    ----------
    path : path
        The file.

    Returns
    -------
    list of dict
        Its lines in order. A last line that was cut short is left out.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        For a damaged line elsewhere, naming its number.
    """
    lines, tail = _split(Path(path))
    records = []
    for number, line in enumerate(lines, start=1):
        record = _parse(line)
        if record is None:
            raise InvalidValueError(f"{os.fspath(path)}: line {number} is no JSON object; the file is damaged.")
        records.append(record)
    last = _parse(tail)
    return records if last is None else [*records, last]


def rewind_history(path: str | os.PathLike[str], step: int, epoch: int) -> None:
    """Drop the lines a resumed run is about to write again.

    Parameters
    ----------
    path : path
        The file; nothing happens if it does not exist.
    step, epoch : int
        Where the run continues: lines of later steps, and of the ends of later epochs, are dropped, and so is
        a last line that was cut short.

    Raises
    ------
    ValueError
        For a damaged line before the last.
    """
    if not os.path.exists(path):
        return
    kept = [
        record
        for record in read_history(path)
        if record.get("step", 0) <= step and not (record.get("kind") == "epoch" and record["epoch"] > epoch)
    ]
    with atomic_write(path, "w") as file:
        file.writelines(json.dumps(record, ensure_ascii=False) + "\n" for record in kept)


def plain(value: Any) -> Any:
    """Convert numbers of any library to JSON numbers; NaN and infinities, which JSON lacks, to null."""
    if value is None or isinstance(value, (str, bool, int)):
        return value
    if isinstance(value, Mapping):
        return {str(key): plain(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(entry) for entry in value]
    number = float(value)
    return number if math.isfinite(number) else None


def _columns(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return the values without nested dictionaries, as the cells of a table's row."""
    row: dict[str, Any] = {}
    for key, value in values.items():
        row |= _columns(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return row


class HistoryWriter:
    """Appends lines to a record of training.

    Parameters
    ----------
    path : path
        The file; made if it is missing, together with its folder. A last line that was cut short is removed.

    Raises
    ------
    OSError
        As the system gives it.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        target = Path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.exists():
            _, tail = _split(target)
            if tail:
                whole = _parse(tail) is not None
                with open(target, "r+b") as file:
                    file.seek(0 if whole else -len(tail), os.SEEK_END)
                    file.write(b"\n") if whole else file.truncate()
        self._file = open(target, "a", encoding="utf-8")  # noqa: SIM115 - lives as long as the run

    def write(self, kind: str, **values: Any) -> None:
        """Append one line and flush it.

        Parameters
        ----------
        kind : str
            What the line tells: ``"start"``, ``"step"``, ``"epoch"``, ``"end"``.
        **values
            Numbers, strings, and lists and dictionaries of them. The entries of a dictionary become columns of their
            own: ``{"metric": {"CIDEr": 0.9}}`` is written as ``"metric.CIDEr"``.
        """
        self._file.write(json.dumps({"kind": kind, **_columns(plain(values))}, ensure_ascii=False) + "\n")
        self._file.flush()

    def close(self) -> None:
        """Close the file, its contents on the disk."""
        os.fsync(self._file.fileno())
        self._file.close()
