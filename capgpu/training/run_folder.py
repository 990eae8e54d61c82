"""The folder of a training run: what is in it, and when it may be written into."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from capgpu.checkpoint import MODEL_FILE, CheckpointError, atomic_write, load_model
from capgpu.data.prepared_dataset import ENCODER_FILES

if TYPE_CHECKING:
    from capgpu.data.datasets import Dataset
    from capgpu.model import CaptioningRNN
    from capgpu.vision import PictureEncoder

__all__ = ["RunFolder"]

_FORMAT = "capgpu-run-1"


class RunFolder:
    """The folder of a training run.

    Parameters
    ----------
    path : path
        The folder; it need not exist yet.

    Attributes
    ----------
    path : pathlib.Path
        The folder.
    config, history, model, plot, summary : pathlib.Path
        ``config.json`` (the settings), ``history.jsonl``, ``model.safetensors`` (the best parameters, sizes
        and vocabulary), ``loss.png`` and ``summary.json``, which only a finished run has.
    checkpoint : pathlib.Path
        The folder with the state to resume from.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self.config = self.path / "config.json"
        self.history = self.path / "history.jsonl"
        self.model = self.path / MODEL_FILE
        self.plot = self.path / "loss.png"
        self.summary = self.path / "summary.json"
        self.checkpoint = self.path / "checkpoint"

    def files(self) -> list[Path]:
        """Name the files that make the run what it is."""
        names = (self.config, self.history, self.model, self.plot, self.summary)
        return [*names, *(self.path / name for name in ENCODER_FILES)]

    def check_new(self, force: bool) -> None:
        """Refuse a folder that a new run would damage.

        Parameters
        ----------
        force : bool
            Whether a run that is there may go.

        Raises
        ------
        ValueError
            If the folder holds a run and `force` is False, or holds something that is no run.
        """
        if self.config.exists():
            if force:
                return
            if self.summary.exists():
                raise ValueError(
                    f"{self.path} holds a finished run. Name another folder with --out, or overwrite it with --force."
                )
            raise ValueError(
                f"{self.path} holds a run that has not finished. Go on with --resume, start over with "
                "--force, or name another folder with --out."
            )
        if self.path.exists() and (not self.path.is_dir() or any(self.path.iterdir())):
            raise ValueError(f"{self.path} exists and is no run folder. Name another folder with --out.")

    def start(self, settings: Mapping[str, Any]) -> None:
        """Begin a new run: remove the files of an earlier one and write the settings.

        Parameters
        ----------
        settings : mapping
            What the run was asked for, as JSON can hold it.
        """
        for file in (self.summary, self.config, self.history, self.model, self.plot):
            file.unlink(missing_ok=True)
        shutil.rmtree(self.checkpoint, ignore_errors=True)
        self.path.mkdir(parents=True, exist_ok=True)
        _write_json(self.config, {"format": _FORMAT, "settings": dict(settings)})

    def keep_encoder(self, folder: Path | None) -> None:
        """Copy the encoder of the features into the run, so that the run alone can caption a picture.

        Parameters
        ----------
        folder : path or None
            Where the data set keeps it; None for a set without one.
        """
        for name in ENCODER_FILES:
            (self.path / name).unlink(missing_ok=True)
            if folder is not None and (folder / name).is_file():
                with atomic_write(self.path / name) as file:
                    file.write((folder / name).read_bytes())

    def finish(self, summary: Mapping[str, Any]) -> None:
        """Mark the run as finished.

        Parameters
        ----------
        summary : mapping
            Its results, as JSON can hold them.
        """
        _write_json(self.summary, summary)

    def settings(self) -> dict[str, Any]:
        """Read the settings the run was started with.

        Returns
        -------
        dict
            As they were given to `start`.

        Raises
        ------
        CheckpointError
            If this is no run folder, or its settings are damaged.
        """
        if not self.config.is_file():
            raise CheckpointError(
                f"{self.path} is no run folder: it has no {self.config.name}. Wanted a folder that capgpu train wrote."
            )
        try:
            config = json.loads(self.config.read_text(encoding="utf-8"))
        except (ValueError, RecursionError) as error:
            raise CheckpointError(f"{self.config} is damaged: {error}. Train again with --force.") from error
        if not isinstance(config, dict) or config.get("format") != _FORMAT:
            raise CheckpointError(f"{self.config} was not written by capgpu train, or by another version of it.")
        settings: Any = config.get("settings")
        if not isinstance(settings, dict) or not isinstance(settings.get("data"), str):
            raise CheckpointError(f"{self.config} is damaged: it does not say on what was trained. Train again.")
        return settings

    def load_model(self) -> CaptioningRNN:
        """Load the run's model onto the current backend, for pictures from anywhere.

        Returns
        -------
        CaptioningRNN
            With the best parameters.

        Raises
        ------
        CheckpointError
            If the run has no model yet, or it is damaged.
        """
        self.settings()
        if not self.model.exists():
            raise CheckpointError(
                f"{self.path} has no {self.model.name} yet: its training was stopped early. "
                f"Go on with: capgpu train --resume --out {self.path}"
            )
        return load_model(self.model)

    def load_encoder(self) -> PictureEncoder:
        """Open the encoder that made the features which the run learnt from.

        Returns
        -------
        PictureEncoder
            The one kept in the run, or that of the data set.

        Raises
        ------
        CheckpointError
            If the run is none or damaged, or its encoder is.
        ValueError
            If the features came from elsewhere.
        MissingExtraError
            If a package of the extra ``vision`` is not installed.
        """
        from capgpu.data.datasets import DATASETS, open_dataset
        from capgpu.vision import PictureEncoder

        data = self.settings()["data"]
        if (self.path / ENCODER_FILES[0]).is_file():
            return PictureEncoder.load(self.path)
        known = open_dataset(data).encoder if data in DATASETS else None
        if known is None:
            raise ValueError(
                f"{self.path} was trained on features of {data} that were computed elsewhere: nothing tells how to "
                "compute those of a picture. Prepare the data from their pictures and train again."
            )
        return known()

    def load(self, dataset: Dataset) -> CaptioningRNN:
        """Load the run's model onto the current backend, for its own data.

        Parameters
        ----------
        dataset : Dataset
            The pictures it is for.

        Returns
        -------
        CaptioningRNN
            With the best parameters.

        Raises
        ------
        CheckpointError
            If the run has no model yet, or it is damaged, or does not fit the data.
        """
        model = self.load_model()
        if model.word_to_idx != dataset.data["word_to_idx"]:
            raise CheckpointError(
                f"{self.model} has another vocabulary than the data set {dataset.name}. It was trained on "
                "other data, or on another version of them: train again."
            )
        return model


def _write_json(path: Path, value: Mapping[str, Any]) -> None:
    with atomic_write(path, "w") as file:
        file.write(json.dumps(dict(value), indent=2, ensure_ascii=False) + "\n")
