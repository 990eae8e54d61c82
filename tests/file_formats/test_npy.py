"""Arrays in files: sizes are compared with those of the file before memory is used."""

from __future__ import annotations

import io
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pytest

import capgpu.file_formats.npy
from capgpu.data.text_files import DataFileError
from capgpu.file_formats.npy import check_free_space, map_npy, open_npz


def header(shape: str, dtype: str = "<f4") -> bytes:
    text = f"{{'descr': {dtype!r}, 'fortran_order': False, 'shape': {shape}, }}".encode()
    text += b" " * (63 - (len(text) + 10) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (header("(999999, 999999)") + bytes(64), "is truncated: expected 3999992000004 bytes"),
        (header("(-1, 4)") + bytes(64), r"expected an array, got shape \(-1, 4\)"),
        (header("(True, 4)") + bytes(64), "expected an array, got shape"),
        (header(f"(0, {10**30})"), "expected an array, got shape"),
        (header("(3, 4)", "|O") + bytes(96), "expected numbers, got shape .* dtype object"),
        (header("(9, 9)", "|S0"), "expected numbers, got shape"),
        (header("(" * 3000), "expected an intact NumPy array"),
        (b"", "expected an intact NumPy array"),
    ],
)
def test_headers_that_do_not_fit_their_file_are_refused(content: bytes, says: str, tmp_path: Path) -> None:
    (tmp_path / "a.npy").write_bytes(content)
    with pytest.raises(DataFileError, match=rf"a\.npy.*{says}"):
        map_npy(tmp_path / "a.npy", DataFileError)
    (tmp_path / "a.npz").write_bytes(zipped(content))
    with pytest.raises(DataFileError, match=r"a\.npz"), open_npz(tmp_path / "a.npz", DataFileError) as file:
        file.map("features")


def zipped(content: bytes, method: int = zipfile.ZIP_DEFLATED) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", method) as archive:
        archive.writestr("features.npy", content)
    return out.getvalue()


def test_a_bomb_is_refused_before_it_is_decompressed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(capgpu.file_formats.npy, "_MOST_BYTES", 1 << 20)
    path = tmp_path / "bomb.npz"
    path.write_bytes(zipped(header("(524288, 8)") + bytes(1 << 24)))
    tracemalloc.start()
    for read in ("map", "read", "shape"):
        with (
            pytest.raises(DataFileError, match=r"bomb\.npz: features: expected at most 100 times .* got 16,777"),
            open_npz(path, DataFileError) as file,
        ):
            getattr(file, read)("features")
    assert tracemalloc.get_traced_memory()[1] < 1 << 20
    tracemalloc.stop()


def test_other_compression_than_numpys_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.npz").write_bytes(zipped(header("(1, 2)") + bytes(8), zipfile.ZIP_LZMA))
    with (
        pytest.raises(DataFileError, match=r"as numpy\.savez writes"),
        open_npz(tmp_path / "a.npz", DataFileError) as file,
    ):
        file.map("features")


def test_too_little_space_for_a_copy_is_reported_with_the_folder() -> None:
    with pytest.raises(DataFileError, match=r"^a\.npz: expected .* bytes of free space in .*TMPDIR"):
        check_free_space("a.npz", 1 << 60, DataFileError)


def test_arrays_come_back_as_they_were_saved(tmp_path: Path) -> None:
    arrays = {
        "c": np.arange(6.0).reshape(2, 3),
        "f": np.asfortranarray(np.arange(6).reshape(2, 3)),
        "t": np.array(["a"]),
    }
    np.savez_compressed(tmp_path / "a.npz", **arrays)
    with open_npz(tmp_path / "a.npz", DataFileError) as file:
        for name, array in arrays.items():
            assert file.shape(name) == array.shape
            for found in (file.read(name), file.map(name)):
                np.testing.assert_array_equal(found, array)
    for name, array in arrays.items():
        np.save(tmp_path / f"{name}.npy", array)
        np.testing.assert_array_equal(map_npy(tmp_path / f"{name}.npy", DataFileError), array)
