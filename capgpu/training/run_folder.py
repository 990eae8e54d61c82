"""The folder of a training run: its files, and checks before they are written."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from capgpu.checkpoint import MODEL_FILE, CheckpointError, atomic_write, is_temporary, load_model
from capgpu.data.arrays import splits_of
from capgpu.data.prepared_dataset import ENCODER_FILES
from capgpu.errors import InvalidValueError
from capgpu.file_formats.content import read_content
from capgpu.file_formats.json_text import JsonObject, parse_json
from capgpu.new_folder import create_folder
from capgpu.training.state import STATE_FILE

if TYPE_CHECKING:
    from capgpu.data.datasets import Dataset
    from capgpu.decode import Ensemble
    from capgpu.model import CaptioningRNN
    from capgpu.vision import PictureEncoder

__all__ = ["RunFolder"]

_FORMAT = "capgpu-run-1"
_MOST_BYTES = 1 << 26


class RunFolder:
    """The folder of a training run.

    Parameters
    ----------
    path : path
        The folder; it need not exist.

    Attributes
    ----------
    path : pathlib.Path
        The folder.
    config, history, model, plot, summary : pathlib.Path
        ``config.json`` (the settings), ``history.jsonl``, ``model.safetensors`` (the best parameters, sizes and
        vocabulary), ``loss.png`` and ``summary.json``, which exists for finished runs only.
    checkpoint : pathlib.Path
        The folder of the state to resume from.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self.config = self.path / "config.json"
        self.history = self.path / "history.jsonl"
        self.model = self.path / MODEL_FILE
        self.plot = self.path / "loss.png"
        self.summary = self.path / "summary.json"
        self.checkpoint = self.path / "checkpoint"

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self.path)!r})"

    def _repr_html_(self) -> str:
        """Return what a notebook shows: loss curve and captioned pictures, as far as the run has come."""
        from capgpu.report.run_html import run_html

        return run_html(self.load_model() if self.model.is_file() else None, self)

    def files(self) -> list[Path]:
        """Return the paths of the run's files."""
        names = (self.config, self.history, self.model, self.plot, self.summary, self.checkpoint / STATE_FILE)
        return [*names, *(self.path / name for name in ENCODER_FILES)]

    def check_new(self, force: bool) -> None:
        """Check that a new run may be written to the folder.

        Parameters
        ----------
        force : bool
            Whether an existing run may be replaced.

        Raises
        ------
        ValueError
            If the folder contains a run and `force` is False, or other files, such as the ``config.json`` of another
            program.
        """
        other = InvalidValueError(
            f"{self.path}: expected a run folder or a new folder, got other files. Name another folder."
        )
        if self.config.exists():
            if self._is_foreign():
                raise other
            if force:
                return
            if self.summary.exists():
                raise InvalidValueError(
                    f"{self.path}: expected a folder without a run, got a finished run. Name another folder, "
                    "or overwrite it with --force."
                )
            raise InvalidValueError(
                f"{self.path}: expected a folder without a run, got an unfinished run. Continue it with --resume, "
                "start over with --force, or name another folder."
            )
        if self.path.exists() and (
            not self.path.is_dir() or any(not is_temporary(entry.name) for entry in self.path.iterdir())
        ):
            raise other

    def _is_foreign(self) -> bool:
        """Return whether ``config.json`` is that of another program, as folders of models often have one.

        A damaged one may be a run's: ``--force`` is the remedy for that.
        """
        try:
            config = parse_json(read_content(self.config, _MOST_BYTES, CheckpointError), CheckpointError)
        except CheckpointError:
            return False
        return not isinstance(config, dict) or config.get("format") != _FORMAT

    def start(self, settings: Mapping[str, Any]) -> None:
        """Start a new run: remove the files of an earlier one and write the settings.

        A process killed meanwhile leaves an unfinished run, with the new settings or those of the earlier run.

        Parameters
        ----------
        settings : mapping
            The settings, as JSON can hold them.
        """
        # the state first: what rmtree leaves, such as a link to a folder, must not be resumed from
        for file in (self.checkpoint / STATE_FILE, self.summary, self.history, self.model, self.plot):
            file.unlink(missing_ok=True)
        shutil.rmtree(self.checkpoint, ignore_errors=True)
        create_folder(self.path)
        _write_json(self.config, {"format": _FORMAT, "settings": dict(settings)})

    def keep_encoder(self, folder: Path | None) -> None:
        """Copy the encoder of the features into the run, so that pictures can be captioned without the data set.

        Parameters
        ----------
        folder : path or None
            The folder of the encoder; None for a data set without one.
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
            The results, as JSON can hold them.
        """
        _write_json(self.summary, summary)

    def settings(self) -> dict[str, Any]:
        """Read the settings with which the run was started.

        Returns
        -------
        dict
            The settings given to `start`.

        Raises
        ------
        CheckpointError
            If the folder is not a run folder, or its settings are damaged.
        """
        if not self.config.is_file():
            raise CheckpointError(
                f"{self.path}: expected a run folder, written by capgpu train, with {self.config.name}, got none."
            )
        where, remedy = f"{self.config} is damaged", "Train again with --force."

        def fail(cause: str) -> CheckpointError:
            return CheckpointError(f"{where}: {cause}. {remedy}")

        config = JsonObject(
            parse_json(read_content(self.config, _MOST_BYTES, CheckpointError), fail), where, CheckpointError, remedy
        )
        if config.value.get("format") != _FORMAT:
            raise CheckpointError(f"{self.config}: expected format {_FORMAT!r}, as capgpu train writes it.")
        settings = config.object("settings")
        settings.text("data")
        return settings.value

    def load_model(self) -> CaptioningRNN:
        """Load the run's model onto the current backend.

        Returns
        -------
        CaptioningRNN
            The model with the best parameters.

        Raises
        ------
        CheckpointError
            If the model does not exist yet or is damaged.
        """
        self.settings()
        if not self.model.exists():
            raise CheckpointError(
                f"{self.path}: expected {self.model.name}, got none: training was interrupted. Resume it with: capgpu "
                f"train {self.path} --resume"
            )
        return load_model(self.model)

    def load_encoder(self) -> PictureEncoder:
        """Open the encoder of the features that the model was trained on.

        Returns
        -------
        PictureEncoder
            The encoder in the run, or that of the data set.

        Raises
        ------
        CheckpointError
            If the run or its encoder is missing or damaged.
        ValueError
            If the encoder is unknown.
        MissingExtraError
            If a package of the extra ``vision`` is not installed.
        """
        from capgpu.data.datasets import DATASETS, open_dataset
        from capgpu.vision import PictureEncoder

        data = self.settings()["data"]
        if (self.path / ENCODER_FILES[0]).is_file():
            return PictureEncoder.load(self.path)
        open_encoder = open_dataset(data).encoder if data in DATASETS else None
        if open_encoder is None:
            raise InvalidValueError(
                f"{self.path}: expected a run with the encoder of its features, got features of {data} that were "
                "computed elsewhere. Prepare the data from their pictures and train again."
            )
        return open_encoder()

    def load_ensemble(self, dataset: Dataset, others: Sequence[Path]) -> CaptioningRNN | Ensemble:
        """Load the run's model as `load` does, and those of other runs to decode with it.

        Parameters
        ----------
        dataset : Dataset
            The data set of this run.
        others : sequence of path
            Other run folders.

        Returns
        -------
        CaptioningRNN or Ensemble
            The model, without others; else the ensemble.

        Raises
        ------
        CheckpointError
            As `load`.
        ValueError
            For other runs whose models make no ensemble with this one's, or read features of another encoder.
        """
        model = self.load(dataset)
        if not others:
            return model
        from capgpu.decode import Ensemble
        from capgpu.vision.encoder_config import check_same_encoder

        check_same_encoder([self.path, *others])
        models = [model, *(type(self)(other).load_model() for other in others)]
        return Ensemble(models, [str(self.path), *map(str, others)])

    def load(self, dataset: Dataset) -> CaptioningRNN:
        """Load the run's model onto the current backend, and check that it fits the data set.

        Parameters
        ----------
        dataset : Dataset
            The data set.

        Returns
        -------
        CaptioningRNN
            The model with the best parameters.

        Raises
        ------
        CheckpointError
            If the model does not exist yet, is damaged, or does not fit the data.
        """
        model = self.load_model()
        self.check_data(model, dataset)
        return model

    def check_data(self, model: CaptioningRNN, dataset: Dataset) -> None:
        """Check that the run's model fits a data set: its vocabulary, and features as it was trained on.

        Parameters
        ----------
        model : CaptioningRNN
            The model.
        dataset : Dataset
            The data set, which may have been prepared again since.

        Raises
        ------
        CheckpointError
            If it does not.
        """
        if model.word_to_idx != dataset.data["word_to_idx"]:
            raise CheckpointError(
                f"{self.model}: expected the vocabulary of the data set {dataset.name}, got another vocabulary. The "
                "model was trained on other data: train again."
            )
        features = dataset.features(splits_of(dataset.data)[0])
        expected, found = (
            _kind(model.config["input_dim"], model.attends),
            _kind(features.shape[-1], features.ndim == 3),
        )
        if found != expected:
            raise CheckpointError(
                f"{self.model}: expected data with {expected}, as the model's, got {dataset.name} with {found}. "
                "Prepare the data as before, or train again."
            )
        self.check_encoder(dataset)

    def check_encoder(self, dataset: Dataset) -> None:
        """Check that the features of the data set are still those of the run's encoder, if both are known.

        Parameters
        ----------
        dataset : Dataset
            The data set, which may have been prepared again.

        Raises
        ------
        CheckpointError
            If they are of another encoder, or the file of an encoder is damaged.
        """
        folder = dataset.encoder_folder
        if folder is None or not (self.path / ENCODER_FILES[0]).is_file():
            return
        from capgpu.vision.encoder_config import EncoderConfig

        if not EncoderConfig.load(self.path).computes_as(EncoderConfig.load(folder)):
            raise CheckpointError(
                f"{self.path}: expected data with the features of its encoder, got {dataset.name}, which has since "
                "been prepared with another one. Prepare the data as before, or train again."
            )


def _kind(length: int, of_grid: bool) -> str:
    return f"{'grids of ' if of_grid else ''}features of length {length}"


def _write_json(path: Path, value: Mapping[str, Any]) -> None:
    with atomic_write(path, "w") as file:
        file.write(json.dumps(dict(value), indent=2, ensure_ascii=False) + "\n")
