"""The exceptions: one base, and the built-in exception of each kind."""

from __future__ import annotations

import pytest

import capgpu
from capgpu.checkpoint import CheckpointError
from capgpu.data.text_files import DataFileError
from capgpu.errors import InvalidTypeError, InvalidValueError, NonFiniteError
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
