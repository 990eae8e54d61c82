"""What the ranks of a training run decide together, and what rank 0 shares with the others."""

from __future__ import annotations

import os
from collections.abc import Mapping, MutableMapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import numpy.typing as npt

from capgpu.backend import Array
from capgpu.distributed import Communicator
from capgpu.errors import InvalidValueError
from capgpu.training.losses import copy_arrays
from capgpu.training.state import STATE_FILE, TrainingState, load_state
from capgpu.visible_text import short

__all__ = ["PATIENT_STEPS", "any_rank", "check_same", "collect_rows", "load_shared_state", "share_arrays"]

#: First steps in which ranks wait for one another without limit: kernels may be compiled.
PATIENT_STEPS = 3


def any_rank(ranks: Communicator, *flags: bool, patient: bool = True) -> list[bool]:
    """Return for each flag whether it is set on any rank.

    Parameters
    ----------
    ranks : Communicator
        The ranks, which all call this.
    *flags : bool
        The flags of this rank.
    patient : bool
        As for `Communicator.start_all_reduce`.

    Returns
    -------
    list of bool
        The same on every rank.
    """
    counts = np.array(flags, np.int64)
    ranks.start_all_reduce(counts, patient=patient).wait()
    return [bool(count) for count in counts]


def check_same(ranks: Communicator, values: Mapping[str, Any]) -> None:
    """Check that values are the same on all ranks.

    Parameters
    ----------
    ranks : Communicator
        The ranks, which all call this.
    values : mapping of str to object
        What JSON can hold; those of rank 0 are looked for on the others.

    Raises
    ------
    ValueError
        The same on every rank, naming a value and the ranks where it is not that of rank 0.
    """
    every = ranks.gather(dict(values))
    for name, value in every[0].items():
        others = [rank for rank, given in enumerate(every) if given.get(name) != value]
        if others:
            parts = [every[others[0]].get(name), value]
            parts = [[*part.items()] if isinstance(part, dict) else part for part in parts]
            if all(isinstance(part, list) for part in parts):  # name the entries that differ
                parts = [[entry for entry in part if entry not in other] for part, other in (parts, parts[::-1])]
            raise InvalidValueError(
                f"{name}: expected the same on all ranks, got {short(parts[0])} on rank {', '.join(map(str, others))} "
                f"and {short(parts[1])} on rank 0."
            )


def collect_rows(
    ranks: Communicator, rows: Any, count: int, *parts: npt.NDArray[Any], patient: bool = True
) -> list[npt.NDArray[Any]]:
    """Return the rows that the ranks have computed, of all of them.

    Parameters
    ----------
    ranks : Communicator
        The ranks, which all call this.
    rows : numpy.ndarray of int, shape (n,)
        The rows that this rank has computed, which no other has.
    count : int
        Rows in all.
    *parts : numpy.ndarray, shape (n, ...)
        Their values.
    patient : bool
        As for `Communicator.start_all_reduce`.

    Returns
    -------
    list of numpy.ndarray, shape (count, ...)
        The same on every rank.
    """
    collected = []
    for part in parts:
        whole = np.zeros((count, *part.shape[1:]), part.dtype)
        whole[rows] = part
        collected.append(whole)
    for reduction in [ranks.start_all_reduce(whole, patient=patient) for whole in collected]:
        reduction.wait()
    return collected


def share_arrays(ranks: Communicator, arrays: MutableMapping[str, Array]) -> None:
    """Replace arrays by those of rank 0.

    Parameters
    ----------
    ranks : Communicator
        The ranks, which all call this.
    arrays : dict of str to array
        Of the same names, shapes and dtypes on every rank. Its entries are replaced.
    """
    if ranks.size > 1:
        copies = copy_arrays(arrays)
        ranks.broadcast(*copies.values())
        arrays.update(copies)


def load_shared_state(ranks: Communicator, folder: str | os.PathLike[str]) -> TrainingState:
    """Load the state of a training run, from a folder that rank 0 alone needs to have.

    Parameters
    ----------
    ranks : Communicator
        The ranks, which all call this.
    folder : path
        As for `capgpu.training.state.load_state`.

    Returns
    -------
    TrainingState
        The same on every rank.

    Raises
    ------
    CheckpointError
        As `load_state` does.
    """
    loaded: list[TrainingState] = []
    file = Path(folder) / STATE_FILE

    def load() -> int:
        loaded.append(load_state(folder))
        return file.stat().st_size if ranks.size > 1 else 0

    size = ranks.from_root(load)
    content = np.fromfile(file, np.uint8, size) if loaded else np.empty(size, np.uint8)
    ranks.broadcast(content)
    if loaded:
        return loaded[0]
    with TemporaryDirectory() as own:
        content.tofile(Path(own) / STATE_FILE)
        return load_state(own)
