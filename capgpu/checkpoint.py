"""Weights, models and training states on disk, in safetensors files written atomically.

Every file is written to a temporary name, flushed to the disk and renamed: if the process is killed, the target still
contains its last complete state. Contents have a checksum, and loading never executes code.
"""

from __future__ import annotations

import errno
import json
import os
import re
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, TypeVar, overload

import numpy as np

from capgpu.backend import Array, asarray, to_numpy
from capgpu.dtypes import floating_dtype, is_bfloat16
from capgpu.errors import CapgpuError, InvalidTypeError, InvalidValueError, name_os_errors
from capgpu.file_formats.json_text import JsonObject, parse_json
from capgpu.folder_lock import is_at, lock_file
from capgpu.new_folder import create_folder
from capgpu.optional_deps import MissingExtraError, require
from capgpu.visible_text import clipped

if TYPE_CHECKING:
    from capgpu.model import CaptioningRNN
    from capgpu.model_base import CaptionerBase

    Model = TypeVar("Model", bound=CaptionerBase)

__all__ = [
    "MODEL_FILE",
    "CheckpointError",
    "atomic_write",
    "check_single_model",
    "is_temporary",
    "load_model",
    "load_weights",
    "save_model",
    "save_weights",
]

#: The file of a model that was saved into a folder.
MODEL_FILE = "model.safetensors"

_FORMAT = "capgpu-model-1"
#: What Windows cannot do: open a folder, rename a file that is open.
_OPENS_FOLDERS = _RENAMES_OPEN_FILES = os.name != "nt"


class CheckpointError(CapgpuError, RuntimeError):
    """A file of weights or state is missing or damaged, or has another format."""


@contextmanager
def atomic_write(path: str | os.PathLike[str], mode: str = "wb") -> Iterator[IO[Any]]:
    """Write a file atomically.

    Parameters
    ----------
    path : path
        The target. Its folder must exist; links are followed. Devices and pipes (``/dev/stdout``) are written directly.
    mode : {"wb", "w"}
        Bytes, or UTF-8 text. What UTF-8 cannot represent, bytes in names of files, is written as JSON's escapes.

    Yields
    ------
    file
        A file with a temporary name in the target's folder. At the end of the block, the data are flushed to the disk
        and the target is replaced; if the block raises, the temporary file is removed and the target is unchanged. A
        killed process can leave the temporary file, but never a truncated target; the next process that writes the
        target removes it.

    Raises
    ------
    ValueError
        For another mode.
    OSError
        If the file cannot be written (the disk is full, for example), or the target is a folder; with its name.
    """
    if mode not in ("wb", "w"):
        raise InvalidValueError(f"mode: expected 'wb' or 'w', got {mode!r}.")
    text: dict[str, Any] = {"encoding": "utf-8", "errors": "backslashreplace", "newline": "\n"}  # as on every system
    settings = text if mode == "w" else {}
    if os.path.isdir(path):
        raise IsADirectoryError(errno.EISDIR, "expected the name of a file, got a folder", os.fspath(path))
    if os.path.exists(path) and not os.path.isfile(path):
        # replacing a device by a file would damage the system
        with name_os_errors(path), open(path, mode, **settings) as file:
            yield file
        return
    target = Path(os.path.realpath(path))
    _remove_leftovers(target)
    try:
        temporary, descriptor = _create_temporary(target)
    except OSError as error:
        raise OSError(error.errno, f"cannot be written: {error.strerror}", os.fspath(path)) from error
    try:
        with name_os_errors(path), open(descriptor, mode, **settings) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
            if _RENAMES_OPEN_FILES:
                # closed, it has no lock any more: another process that writes the target would remove it as a leftover
                os.replace(temporary, target)
        if not _RENAMES_OPEN_FILES:
            os.replace(temporary, target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    _sync_folder(target.parent)


def is_temporary(name: str, target: str | None = None) -> bool:
    """Return whether a name is that of a temporary file of `atomic_write`, for any target or a given one."""
    return (
        re.fullmatch(rf"\.{'.+' if target is None else re.escape(target)}\.\d+\.[0-9a-f]{{8}}\.tmp", name) is not None
    )


def _create_temporary(target: Path) -> tuple[Path, int]:
    """Create a temporary file beside the target, locked: one without a lock is that of a killed process."""
    while True:
        temporary = target.with_name(f".{target.name}.{os.getpid()}.{os.urandom(4).hex()}.tmp")
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
        if lock_file(descriptor) is not False and is_at(temporary, descriptor):
            return temporary, descriptor
        os.close(descriptor)  # another process removes the file: it was not locked yet


def _remove_leftovers(target: Path) -> None:
    """Remove the temporary files that killed processes have left beside a target."""
    with suppress(OSError):  # not readable, of another user, or just removed by another process
        for name in [entry.name for entry in os.scandir(target.parent) if is_temporary(entry.name, target.name)]:
            descriptor = os.open(target.with_name(name), os.O_RDONLY)
            try:
                if lock_file(descriptor):
                    os.unlink(target.with_name(name))
            finally:
                os.close(descriptor)


def _sync_folder(folder: Path) -> None:
    """Flush the rename itself to the disk, against power failures. Windows does not open folders."""
    if not _OPENS_FOLDERS:
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _checksum(text: str, arrays: Mapping[str, np.ndarray[Any, Any]]) -> str:
    value = zlib.crc32(text.encode())
    for name in sorted(arrays):
        array = arrays[name]
        value = zlib.crc32(f"{name} {array.dtype.str} {array.shape}".encode(), value)
        # bfloat16 arrays do not support the buffer protocol
        stored = array.view(np.uint16) if is_bfloat16(array.dtype) else array
        value = zlib.crc32(stored.data if array.size else b"", value)
    return f"{value:08x}"


def save_weights(
    path: str | os.PathLike[str], params: Mapping[str, Array], metadata: Mapping[str, Any] | None = None
) -> None:
    """Save arrays with metadata in one safetensors file.

    Parameters
    ----------
    path : path
        The file; replaced if it exists.
    params : mapping of str to array
        The arrays, on any backend.
    metadata : mapping, optional
        JSON-serializable metadata, returned by `load_weights`.

    Raises
    ------
    TypeError, ValueError
        For metadata that JSON cannot hold.
    OSError
        If the file cannot be written; an existing file is unchanged.
    """
    from safetensors.numpy import save

    text = json.dumps(dict(metadata or {}), ensure_ascii=False, allow_nan=False)
    host = {name: np.array(to_numpy(array), order="C", copy=None) for name, array in params.items()}
    content = _with_sorted_header(save(host, metadata={"capgpu": text, "crc32": _checksum(text, host)}))
    with atomic_write(path) as file:
        file.write(content)


def _with_sorted_header(content: bytes) -> bytes:
    """Sort the entries of a safetensors header: the library writes metadata in random order."""
    size = int.from_bytes(content[:8], "little")
    header = json.dumps(json.loads(content[8 : 8 + size]), sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    line = header.encode()
    line += b" " * (-len(line) % 8)  # the arrays begin at a multiple of 8 bytes
    return len(line).to_bytes(8, "little") + line + content[8 + size :]


def load_weights(path: str | os.PathLike[str]) -> tuple[dict[str, np.ndarray[Any, Any]], dict[str, Any]]:
    """Load a file of `save_weights`, or the arrays of any other safetensors file.

    Parameters
    ----------
    path : path
        The file.

    Returns
    -------
    params : dict of str to numpy.ndarray
        The arrays, on the host; bfloat16 in the dtype of the package ml_dtypes.
    metadata : dict
        As given to `save_weights`; empty for other files.

    Raises
    ------
    CheckpointError
        If the file is missing, truncated, damaged or not a safetensors file, or contains dtypes that NumPy lacks: those
        of 8 bits, and bfloat16 without the package ml_dtypes.
    """
    from safetensors import safe_open

    name = os.fspath(path)
    if not os.path.isfile(path):
        found = "a folder" if os.path.isdir(path) else "no such file"
        raise CheckpointError(f"{name}: expected a .safetensors file, got {found}.")
    try:
        with safe_open(path, framework="numpy") as file:
            stored = file.metadata() or {}
            names = list(file.keys())
            if any(file.get_slice(key).get_dtype() == "BF16" for key in names):
                require("ml_dtypes", "bfloat16", f"{name} holds bfloat16, and reading it")
            params = {key: file.get_tensor(key) for key in names}
    except MissingExtraError as error:
        raise CheckpointError(str(error)) from error
    except MemoryError:
        raise
    except (TypeError, AttributeError) as error:  # raised by the library for dtypes of 8 bits
        raise CheckpointError(_foreign(path, str(error))) from error
    except Exception as error:  # SafetensorError, and others of the library for damaged files
        raise CheckpointError(
            f"{name} cannot be read as a safetensors file: it is damaged, cut short or of another kind "
            f"({str(error)[:200]}). Restore it from a copy, or train again."
        ) from error
    # dtypes that another package has registered with NumPy have the kind V
    known = {key: array.dtype.kind in "biufc" or is_bfloat16(array.dtype) for key, array in params.items()}
    foreign = next((key for key, is_known in known.items() if not is_known), None)
    if foreign is not None:
        raise CheckpointError(_foreign(path, f"{clipped(foreign)} is {params[foreign].dtype}"))
    if "capgpu" not in stored:
        return params, {}
    if stored.get("crc32") != _checksum(stored["capgpu"], params):
        raise CheckpointError(f"{name} is damaged: its contents do not match their checksum.")

    def fail(cause: str) -> CheckpointError:
        return CheckpointError(f"{name}: metadata: {cause}. Restore it from a copy, or train again.")

    metadata = parse_json(stored["capgpu"], fail)
    return params, JsonObject(metadata, f"{name}: metadata", CheckpointError).value


def _foreign(path: str | os.PathLike[str], cause: str) -> str:
    return f"{os.fspath(path)} holds numbers of a kind that NumPy lacks ({cause}). Store them as float32."


def _model_path(path: str | os.PathLike[str]) -> Path:
    given = Path(path)
    return given if given.suffix == ".safetensors" and not given.is_dir() else given / MODEL_FILE


def check_single_model(model: Any) -> None:
    """Check that what is to be written to a file is one model, and no ensemble.

    Parameters
    ----------
    model : object
        Should be a `CaptioningRNN`.

    Raises
    ------
    TypeError
        For anything else.
    """
    from capgpu.model_base import CaptionerBase

    if not isinstance(model, CaptionerBase):
        remedy = " Take each of its models." if hasattr(model, "models") else ""
        raise InvalidTypeError(f"model: expected a CaptioningRNN, got {type(model).__name__}.{remedy}")


def save_model(path: str | os.PathLike[str], model: CaptionerBase) -> Path:
    """Save a captioning model: weights, sizes and vocabulary in one file, as `CaptioningRNN.save` does.

    Parameters
    ----------
    path : path
        A ``.safetensors`` file, or a folder (created if it does not exist) for ``model.safetensors``.
    model : CaptioningRNN
        The model.

    Returns
    -------
    pathlib.Path
        The file.

    Raises
    ------
    TypeError
        For anything but one model, such as an ensemble.
    OSError
        If the file cannot be written; an existing file is unchanged.
    """
    check_single_model(model)
    target = _model_path(path)
    create_folder(target.parent)
    metadata = {"format": _FORMAT, "config": model.config, "word_to_idx": model.word_to_idx}
    save_weights(target, model.params, metadata)
    return target


@overload
def load_model(path: str | os.PathLike[str]) -> CaptioningRNN: ...


@overload
def load_model(path: str | os.PathLike[str], model_class: type[Model]) -> Model: ...


def load_model(path: str | os.PathLike[str], model_class: type[CaptionerBase] | None = None) -> CaptionerBase:
    """Load a captioning model onto the current backend, as `CaptioningRNN.load` does.

    Parameters
    ----------
    path : path
        The file or folder given to `save_model`.
    model_class : type, optional
        The class to create, by default `CaptioningRNN`.

    Returns
    -------
    CaptioningRNN
        The model with the saved sizes, vocabulary and weights, bit for bit.

    Raises
    ------
    CheckpointError
        If the file is missing or damaged, is not a model, or its weights do not fit its sizes.
    """
    from capgpu.model import CaptioningRNN

    target = _model_path(path)
    params, metadata = load_weights(target)
    if metadata.get("format") != _FORMAT:
        raise CheckpointError(f"{target}: expected a captioning model, as save_model writes it, got another file.")
    create = CaptioningRNN if model_class is None else model_class
    try:
        expected, dtype = _described(
            JsonObject(metadata, f"{target} describes a model that cannot be built", CheckpointError)
        )
        found = {name: (array.shape, array.dtype) for name, array in params.items()}
        # built after its sizes were found in the file: those of a damaged file could exceed any memory
        _check_fit(target, {name: (shape, dtype) for name, shape in expected.items()}, found, model_class is None)
        config = dict(metadata["config"])
        if config.get("n_layers", 1) == 1:
            config.pop("layer_dropout", None)  # has no effect, and earlier versions stored any
        model = create(metadata["word_to_idx"], **config, seed=0)
    except (TypeError, ValueError, ArithmeticError) as error:
        raise CheckpointError(f"{target} describes a model that cannot be built: {error}") from error
    _check_fit(target, {name: (tuple(array.shape), model.dtype) for name, array in model.params.items()}, found)
    for name, array in params.items():
        model.params[name] = asarray(array)
    return model


def _described(metadata: JsonObject) -> tuple[dict[str, tuple[int, ...]], np.dtype[Any]]:
    """Return shapes and dtype of the parameters of a model by its description."""
    from capgpu.layers.cells import CELLS
    from capgpu.parameters import parameter_shapes

    config, words = metadata.object("config"), metadata.object("word_to_idx")
    for word in words.value:
        words.integer(word, 0, 2**31 - 1)
    for name in config.value:
        if name.endswith(("_dropout", "_smoothing")):
            config.number(name)
    cell = config.text("cell_type")
    if cell not in CELLS:
        raise config.wrong(f"one of {', '.join(CELLS)}", cell, "cell_type")
    shapes = parameter_shapes(
        CELLS[cell],
        len(words.value),
        config.integer("input_dim", 1),
        config.integer("wordvec_dim", 1),
        config.integer("hidden_dim", 1),
        "tie_weights" in config.value and config.flag("tie_weights"),
        config.integer("n_layers", 1) if "n_layers" in config.value else 1,
    )
    return shapes, floating_dtype(config.text("dtype"))


_Arrays = Mapping[str, tuple[tuple[int, ...], np.dtype[Any]]]


def _check_fit(target: Path, expected: _Arrays, found: _Arrays, alone: bool = True) -> None:
    """Check shapes and dtypes of parameters; other parameters are accepted unless these stand alone."""
    for name in sorted(expected.keys() | (found.keys() if alone else set())):
        if expected.get(name) != found.get(name):
            raise CheckpointError(
                f"{target}: expected the weights of the model it describes, with {clipped(name)} "
                f"{expected.get(name, 'absent')}, got {found.get(name, 'none')}."
            )
