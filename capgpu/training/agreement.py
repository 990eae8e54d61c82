"""What the ranks of a training run decide together, and what rank 0 shares with the others."""

from __future__ import annotations

import os
from collections.abc import MutableMapping
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from capgpu.backend import Array
from capgpu.distributed import Communicator
from capgpu.training.losses import copy_arrays
from capgpu.training.state import STATE_FILE, TrainingState, load_state

__all__ = ["any_rank", "load_shared_state", "share_arrays"]


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
