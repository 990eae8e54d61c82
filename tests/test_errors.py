"""The exceptions: one base, and the built-in exception of each kind."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

import capgpu
from capgpu.checkpoint import CheckpointError, atomic_write
from capgpu.data.text_files import DataFileError
from capgpu.errors import InvalidTypeError, InvalidValueError, NonFiniteError, name_os_errors
from capgpu.optional_deps import MissingExtraError
from capgpu.validation import check_count


@pytest.mark.parametrize(
    ("error", "builtin"),
    [
        (InvalidValueError, ValueError),
        (InvalidTypeError, TypeError),
        (NonFiniteError, FloatingPointError),
        (DataFileError, ValueError),
        (CheckpointError, RuntimeError),
        (MissingExtraError, ImportError),
        (capgpu.BackendUnavailableError, RuntimeError),
    ],
)
def test_every_error_is_capgpus_and_the_built_in_one(error: type[Exception], builtin: type[Exception]) -> None:
    assert issubclass(error, capgpu.CapgpuError)
    assert issubclass(error, builtin)


def test_one_except_clause_catches_errors_of_any_kind() -> None:
    for value in (0, "1"):
        with pytest.raises(capgpu.CapgpuError, match="size: expected"):
            check_count("size", value, 1)


def test_messages_show_control_characters_as_escapes() -> None:
    error = DataFileError("a.csv: expected a split, got \x1b[2J\x9b1m\u202e.\tNext\nline, é 犬")
    assert str(error) == "a.csv: expected a split, got \\x1b[2J\\x9b1m\\u202e.\tNext\nline, é 犬"
    assert str(MissingExtraError("a \x07 package")) == r"a \x07 package"


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="there is no /dev/full")
def test_a_full_disk_is_reported_with_the_file() -> None:
    with pytest.raises(OSError, match="No space left") as error, atomic_write("/dev/full") as file:
        file.write(b"x" * 100_000)
    assert error.value.filename == "/dev/full"


def test_a_disk_that_is_full_at_the_flush_is_reported_with_the_target(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    target = tmp_path / "model.safetensors"
    with pytest.raises(OSError, match="No space left") as error, atomic_write(target) as file:
        file.write(b"x")
    assert error.value.filename == str(target)
    assert list(tmp_path.iterdir()) == []


def test_errors_that_name_a_file_and_those_of_no_system_stay(tmp_path: Path) -> None:
    for cause in (OSError(errno.EIO, "Input/output error", "other"), OSError("no number")):
        with pytest.raises(OSError, match=r"other|no number") as error, name_os_errors(tmp_path):
            raise cause
        assert error.value is cause
