"""HDF5 files whose reading could stop or end the process, or that name other files."""

import contextlib
import os
from pathlib import Path

import numpy as np
import pytest

from capgpu.errors import CapgpuError
from capgpu.file_formats import hdf5

h5py = pytest.importorskip("h5py")

ROWS = np.arange(6.0, dtype=np.float32).reshape(2, 3)
#: What the HDF5 library does in the other process once it opens a file.
FAULTS = {"while True: pass": "did not read in the time", "import os; os.abort()": "ended with status -6"}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    with h5py.File(tmp_path / "f.h5", "w") as out:
        out["features"] = ROWS
    return tmp_path / "f.h5"


@pytest.mark.skipif(os.name != "posix", reason="the time limit is a signal of POSIX")
@pytest.mark.parametrize("fault", FAULTS)
def test_a_library_that_does_not_return_is_an_error_of_the_file(
    fault: str, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = (
        "import json, sys; sys.path[:] = json.loads(sys.argv[1])\n"
        "from capgpu.file_formats import hdf5_process as p\n"
        f"def fault(*_):\n    {fault}\n"
        "p._SECONDS, p._File.__init__ = 0.1, fault\np.main()"
    )
    hdf5._end()
    with monkeypatch.context() as patch:
        patch.setattr(hdf5, "_PROGRAM", program)
        with pytest.raises(CapgpuError, match=f"f.h5: .*{FAULTS[fault]}"), hdf5.open_hdf5(file, CapgpuError):
            pass
    assert np.array_equal(_features(file), ROWS)  # by another process


def test_data_in_other_files_are_refused_by_name(file: Path, tmp_path: Path) -> None:
    ROWS.tofile(tmp_path / "rows.bin")
    with h5py.File(tmp_path / "link.h5", "w") as out:
        out["group/link"] = h5py.ExternalLink("f.h5", "/features")
    with h5py.File(tmp_path / "virtual.h5", "w") as out:
        layout = h5py.VirtualLayout((2, 3), np.float32)
        layout[:] = h5py.VirtualSource("f.h5", "features", (2, 3))
        out.create_virtual_dataset("features", layout)
    with h5py.File(tmp_path / "external.h5", "w") as out:
        out.create_dataset("features", (2, 3), np.float32, external=[(tmp_path / "rows.bin", 0, 24)])
    for name, found in {
        "link": "group/link: expected data in the file itself, got a link to 'f.h5'",
        "virtual": "/features: expected data in the file itself, got a virtual dataset",
        "external": "/features: expected data in the file itself, got data in '.*rows.bin'",
    }.items():
        with pytest.raises(CapgpuError, match=f"{name}.h5: {found}"):
            _features(tmp_path / f"{name}.h5")


def _features(path: Path) -> np.ndarray:
    with hdf5.open_hdf5(path, CapgpuError) as file:
        return file.map("features")


def test_files_are_closed_and_the_process_serves_the_next(file: Path) -> None:
    for _ in range(2):
        with hdf5.open_hdf5(file, CapgpuError) as found, hdf5.open_hdf5(file, CapgpuError) as other:
            assert found.map("features")[1, 2] == other.map("features")[1, 2] == 5
        with h5py.File(file, "a") as out:  # fails for a file that another process has open
            out.attrs["changed"] = 1
    (process,) = hdf5._idle
    assert process.close_file()


def test_an_error_in_the_middle_of_an_answer_ends_the_process(file: Path) -> None:
    with h5py.File(file, "a") as out:
        out.create_dataset("chunked", data=ROWS, chunks=(1, 3))
    with contextlib.suppress(KeyError), hdf5.open_hdf5(file, CapgpuError) as found:
        found._process.ask(do="map", name="chunked")
        raise KeyError
    assert not hdf5._idle
    assert np.array_equal(_features(file), ROWS)
