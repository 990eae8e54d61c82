"""The stored configuration of an encoder: ``encoder.json``, and its projection in ``encoder.safetensors``."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from capgpu.checkpoint import CheckpointError, atomic_write, load_weights, save_weights
from capgpu.errors import InvalidValueError
from capgpu.vision.preprocessing import Preprocessing
from capgpu.vision.projection import Projection

__all__ = ["ENCODER_FILE", "EncoderConfig"]

#: The file with the configuration of the encoder of a folder's features.
ENCODER_FILE = "encoder.json"
_PROJECTION_FILE = "encoder.safetensors"
_FORMAT = "capgpu-encoder-1"


@dataclass(frozen=True, eq=False)
class EncoderConfig:
    """What is needed to open an encoder again and to verify that it is the same.

    Attributes
    ----------
    network, sha256, output, preprocessing, projection, dim
        As the attributes of `capgpu.vision.PictureEncoder` and its `Network`.
    """

    network: str
    sha256: str
    output: str
    preprocessing: Preprocessing
    projection: Projection | None
    dim: int

    def save(self, folder: Path) -> None:
        """Write the files into a folder, which is created if it does not exist.

        Parameters
        ----------
        folder : pathlib.Path
            The folder.

        Raises
        ------
        OSError
            If a file cannot be written.
        """
        folder.mkdir(parents=True, exist_ok=True)
        if self.projection is not None:
            save_weights(folder / _PROJECTION_FILE, self.projection._asdict())
        stored = {
            "format": _FORMAT,
            "network": self.network,
            "sha256": self.sha256,
            "output": self.output,
            "framing": asdict(self.preprocessing),  # the key of this format
            "projection": None if self.projection is None else _PROJECTION_FILE,
            "dim": self.dim,
        }
        with atomic_write(folder / ENCODER_FILE, "w") as file:
            file.write(json.dumps(stored, indent=2, ensure_ascii=False) + "\n")

    @classmethod
    def load(cls, folder: Path) -> EncoderConfig:
        """Read the files of a folder.

        Parameters
        ----------
        folder : pathlib.Path
            The folder.

        Returns
        -------
        EncoderConfig
            What `save` wrote.

        Raises
        ------
        CheckpointError
            If a file is missing or damaged.
        """
        path = folder / ENCODER_FILE
        if not path.is_file():
            raise CheckpointError(
                f"{path}: expected the configuration of the encoder of {folder}'s features, got no such file."
            )
        try:
            stored = json.loads(path.read_text(encoding="utf-8"))
            if stored["format"] != _FORMAT:
                raise InvalidValueError(f"format: expected {_FORMAT!r}, got {stored['format']!r}")
            settings: dict[str, Any] = dict(stored["framing"])
            return cls(
                str(stored["network"]),
                str(stored["sha256"]),
                str(stored["output"]),
                Preprocessing(**{**settings, "mean": tuple(settings["mean"]), "std": tuple(settings["std"])}),
                None if stored["projection"] is None else Projection(**load_weights(folder / _PROJECTION_FILE)[0]),
                int(stored["dim"]),
            )
        except (ValueError, KeyError, TypeError) as error:
            raise CheckpointError(f"{path} is damaged: {error!r}. Restore it from a copy, or prepare again.") from error
