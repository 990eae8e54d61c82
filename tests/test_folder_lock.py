"""The lock on a folder: one process at a time, no file left, no lock left by a process that was killed."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

import capgpu.folder_lock
from capgpu.folder_lock import folder_lock

pytest.importorskip("fcntl")

HOLDS = """
import sys, time
from pathlib import Path
from capgpu.folder_lock import folder_lock
with folder_lock(Path(sys.argv[1])):
    print("locked", flush=True)
    time.sleep(600)
"""


def test_another_process_is_refused_until_the_first_has_ended_however_it_ends(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", HOLDS, str(tmp_path)], stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "locked\n"
        with pytest.raises(ValueError, match=r"expected a folder that no other process writes"), folder_lock(tmp_path):
            pass
        holder.send_signal(signal.SIGKILL)
        holder.wait()
    with folder_lock(tmp_path):
        assert list(tmp_path.iterdir()) == []


def test_a_refused_process_removes_no_folder_of_the_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "a"
    exists = Path.exists
    with folder_lock(folder):
        # the other process asked whether the folder exists before this one created it
        monkeypatch.setattr(Path, "exists", lambda path: path != folder and exists(path))
        with pytest.raises(ValueError, match="no other process"), folder_lock(folder):
            pass
        monkeypatch.undo()
        assert folder.is_dir()


def test_a_folder_removed_before_it_was_locked_is_created_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "a"
    lock = capgpu.folder_lock.lock_file

    def removed_first(descriptor: int, *, shared: bool = False) -> bool | None:
        monkeypatch.undo()
        folder.rmdir()  # by another process, whose lock has just ended
        return lock(descriptor, shared=shared)

    monkeypatch.setattr(capgpu.folder_lock, "lock_file", removed_first)
    with folder_lock(folder):
        (folder / "file").touch()
        with pytest.raises(ValueError, match="no other process"), folder_lock(folder):
            pass
    assert (folder / "file").exists()


def test_readers_share_a_folder_and_exclude_writers(tmp_path: Path) -> None:
    with (
        folder_lock(tmp_path, shared=True),
        folder_lock(tmp_path, shared=True),
        pytest.raises(ValueError, match="no other process"),
        folder_lock(tmp_path),
    ):
        pass
    with folder_lock(tmp_path), pytest.raises(ValueError, match="no other process"), folder_lock(tmp_path, shared=True):
        pass
    with folder_lock(tmp_path / "missing", shared=True):
        assert not (tmp_path / "missing").exists()
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="expected a folder, got a file"), folder_lock(tmp_path / "file"):
        pass


def test_a_folder_is_created_and_an_empty_one_removed_again(tmp_path: Path) -> None:
    with folder_lock(tmp_path / "a" / "b"):
        assert (tmp_path / "a" / "b").is_dir()
    assert list(tmp_path.iterdir()) == []
    with folder_lock(tmp_path / "a" / "b"):
        (tmp_path / "a" / "b" / "file").touch()
    assert (tmp_path / "a" / "b" / "file").exists()


def test_a_folder_that_was_there_stays_also_after_an_error(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="within"), folder_lock(tmp_path):
        raise RuntimeError("within")
    assert tmp_path.is_dir()
    with folder_lock(tmp_path):
        pass
