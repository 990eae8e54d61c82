"""The stored configuration of an encoder: ``encoder.json``, and its projection in ``encoder.safetensors``."""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from capgpu.checkpoint import CheckpointError, atomic_write, load_weights, save_weights
from capgpu.errors import InvalidValueError
from capgpu.file_formats.content import read_content
from capgpu.file_formats.json_text import JsonObject, parse_json
from capgpu.new_folder import create_folder
from capgpu.visible_text import short
from capgpu.vision.preprocessing import Preprocessing
from capgpu.vision.projection import Projection

__all__ = ["ENCODER_FILE", "EncoderConfig", "check_same_encoder"]

#: The file with the configuration of the encoder of a folder's features.
ENCODER_FILE = "encoder.json"
_PROJECTION_FILE = "encoder.safetensors"
_FORMAT = "capgpu-encoder-1"
_MOST_BYTES = 1 << 20
_REMEDY = "Restore it from a copy, or prepare again."


@dataclass(frozen=True, eq=False)
class EncoderConfig:
    """What is needed to open an encoder again and to verify that it is the same.

    Attributes
    ----------
    network, sha256, output, preprocessing, projection, dim, grid
        As the attributes of `capgpu.vision.PictureEncoder` and its `Network`.
    """

    network: str
    sha256: str
    output: str
    preprocessing: Preprocessing
    projection: Projection | None
    dim: int
    grid: int | None = None

    def computes_as(self, other: EncoderConfig) -> bool:
        """Return whether another encoder computes the same features; the path of its network may differ.

        Parameters
        ----------
        other : EncoderConfig
            The other encoder.
        """

        def identity(config: EncoderConfig) -> tuple[object, ...]:
            projection = config.projection and [array.tobytes() for array in config.projection]
            return config.sha256, config.output, config.preprocessing, config.dim, config.grid, projection

        return identity(self) == identity(other)

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
        create_folder(folder)
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
            **({} if self.grid is None else {"grid": self.grid}),
        }
        stored["crc32"] = _checksum(stored)
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
        where = f"{path} is damaged"

        def fail(cause: str) -> CheckpointError:
            return CheckpointError(f"{where}: {cause}. {_REMEDY}")

        content = read_content(path, _MOST_BYTES, CheckpointError)
        stored = JsonObject(parse_json(content, fail), where, CheckpointError, _REMEDY)
        stored.format(_FORMAT)
        # files of earlier versions have none
        if stored.value.pop("crc32", None) not in (None, _checksum(stored.value)):
            raise fail("expected contents that match their checksum, got others")
        settings = stored.object("framing")
        scales = {name: tuple(settings.numbers(name, 3)) for name in ("mean", "std")}
        projection = None
        if stored.value.get("projection", "") is not None:
            stored.text("projection")
            projection = _load_projection(folder / _PROJECTION_FILE)
        try:
            preprocessing = Preprocessing(**{**settings.value, **scales})
        except (ValueError, TypeError) as error:
            raise fail(f"framing: {error}".rstrip(".")) from error
        return cls(
            stored.text("network"),
            stored.text("sha256"),
            stored.text("output"),
            preprocessing,
            projection,
            stored.integer("dim", 1),
            stored.integer("grid", 1) if "grid" in stored.value else None,
        )


def _checksum(stored: Mapping[str, object]) -> str:
    """Return the checksum of the other entries: one wrong digit of a mean would give other captions, and no error."""
    return f"{zlib.crc32(json.dumps(stored, sort_keys=True).encode()):08x}"


def _load_projection(path: Path) -> Projection:
    arrays, _ = load_weights(path)
    shapes = {name: array.shape for name, array in arrays.items()}
    mean, components = (arrays.get(name) for name in Projection._fields)
    if (
        mean is None
        or components is None
        or mean.ndim != 1
        or components.shape[:1] != mean.shape
        or components.ndim != 2
        or any(array.dtype.kind != "f" for array in arrays.values())
    ):
        raise CheckpointError(
            f"{path} is damaged: expected mean (D,) and components (D, K) of floats, got {short(shapes)}. {_REMEDY}"
        )
    return Projection(mean, components)


def check_same_encoder(folders: Sequence[str | os.PathLike[str]]) -> None:
    """Check that the encoders in several folders are the same one, as the models of an ensemble need.

    Parameters
    ----------
    folders : sequence of path
        Folders of runs or models. Those without an encoder are not compared.

    Raises
    ------
    ValueError
        Naming the first folder whose encoder is another one.
    CheckpointError
        If the files of an encoder are damaged.
    """
    known = [folder for folder in folders if (Path(folder) / ENCODER_FILE).is_file()]
    first = None
    for folder in known:
        own = EncoderConfig.load(Path(folder))
        if first is None:
            first = own
        elif not own.computes_as(first):
            raise InvalidValueError(
                f"{os.fspath(folder)}: expected the encoder of {os.fspath(known[0])}, got another one. The models of "
                "an ensemble read the features of one encoder."
            )
