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
from capgpu.errors import InvalidValueError, name_os_errors
from capgpu.file_formats.content import read_content
from capgpu.file_formats.json_text import parse_json
from capgpu.new_folder import create_folder

__all__ = ["HistoryWriter", "is_measurement", "parse_record", "plain", "read_history", "rewind_history"]


#: The largest history: 100,000 steps have 20 MB.
_MOST_BYTES = 1 << 31
_COUNTS, _SIZE = ("step", "epoch"), "steps_per_epoch"
_LARGEST_COUNT = 2**63
#: Sums and products of measurements below this are finite; float32 has none above.
_LARGEST_MEASUREMENT = 1e100
_MEASUREMENTS = ("loss", "train_loss", "val_loss", "learning_rate", "seconds", "tokens_per_second", "reward")


def _split(path: Path) -> tuple[list[bytes], bytes]:
    """Return the whole lines of a file and what follows the last line break."""
    *lines, tail = read_content(path, _MOST_BYTES, InvalidValueError).split(b"\n")
    return lines, tail


def parse_record(line: bytes) -> dict[str, Any] | None:
    """Parse a line.

    Parameters
    ----------
    line : bytes
        The line.

    Returns
    -------
    dict or None
        The record; None for a line that is cut short or no record: steps and epochs are integers, measurements finite
        numbers or None.
    """
    try:
        record = parse_json(line, InvalidValueError)
    except InvalidValueError:
        return None
    if not isinstance(record, dict):
        return None
    needed = {"step": ("step",), "epoch": ("epoch",)}.get(str(record.get("kind")), ())
    if any(key not in record for key in needed):
        return None
    counts = (record.get(key, 0) for key in _COUNTS)
    measurements = (record.get(key) for key in _MEASUREMENTS)
    size = record.get(_SIZE, 1)
    if any(type(count) is not int or not 0 <= count < _LARGEST_COUNT for count in counts):
        return None
    if type(size) is not int or not 0 < size < _LARGEST_COUNT:
        return None
    if any(value is not None and not is_measurement(value) for value in measurements):
        return None
    return record


def is_measurement(value: Any) -> bool:
    """Return whether a value of a record is a number that can be computed with.

    Parameters
    ----------
    value : object
        Any JSON value.

    Returns
    -------
    bool
        False for NaN and numbers so large that sums of them are infinite, too.
    """
    return type(value) in (int, float) and abs(value) < _LARGEST_MEASUREMENT


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
        record = parse_record(line)
        if record is None:
            raise InvalidValueError(
                f"{os.fspath(path)}: line {number}: expected a JSON object with integers step and epoch, got another "
                "line; the file is damaged."
            )
        records.append(record)
    last = parse_record(tail)
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
        file.writelines(_line(record) for record in kept)


def _line(record: Mapping[str, Any]) -> str:
    text = json.dumps(record, ensure_ascii=False)
    # lone surrogates, which JSON can hold and UTF-8 cannot, keep their escapes
    return (text if text.isprintable() else json.dumps(record)) + "\n"


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
        create_folder(target.parent)
        if target.exists():
            _, tail = _split(target)
            if tail:
                whole = parse_record(tail) is not None
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
        with name_os_errors(self._file.name):
            self._file.write(_line({"kind": kind, **_columns(plain(values))}))
            self._file.flush()

    def close(self) -> None:
        """Close the file, its contents on the disk."""
        with name_os_errors(self._file.name), self._file:  # closing it writes what a full disk has not taken
            os.fsync(self._file.fileno())
