"""Compiled code on disk is used again, and never once anything that decides it has changed, or the file is damaged."""

from __future__ import annotations

import os
import pickle
import resource
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

import capgpu
import capgpu.kernels
from capgpu.kernels.cpu import code_cache, embedding

SCRIPT = """
import sys
import numpy as np
from capgpu.kernels.cpu import embedding
drows = np.ones((2, 3), sys.argv[1]) / 3
out = embedding.embedding_gradient(drows, np.array([1, 1]), 2)
assert out.dtype == drows.dtype and out.tolist() == [[0.0] * 3, (drows[0] + drows[1]).tolist()], out
print(sum(embedding._add_rows.stats.cache_hits.values()))
"""
UPDATE = """
import hashlib
import numpy as np
from capgpu.kernels.cpu import optimizer
random = np.random.default_rng(0)
arrays = [[random.uniform(0, 1, 500 + k).astype(np.float32) for k in range(8)] for _ in range(4)]
settings = np.tile([0.03, 0.9, 0.1, 0.999, 0.001, 30.0, 1e-8, 1.0], (8, 1))
results = optimizer.adam_update(*arrays, settings, 0.7)
digest = hashlib.sha256(b"".join(array.tobytes() for some in results for array in some)).hexdigest()
print(digest, sum(optimizer._adam.stats.cache_hits.values()))
"""
FOLDER = f"capgpu-{os.geteuid()}" if hasattr(os, "geteuid") else "capgpu"
KEY = "0123456789abcdef" * 4


def start(folder: Path, script: str = SCRIPT, dtype: str = "float64", cache: Path | None = None, before=None):
    environment = {
        **os.environ,
        "PYTHONPATH": str(folder if (folder / "capgpu").is_dir() else Path(capgpu.__file__).parents[1]),
        "NUMBA_CACHE_DIR": str(cache or folder / "cache"),
        "CAPGPU_THREADS": "1",
    }
    return subprocess.Popen(
        [sys.executable, "-c", script, dtype],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=before,
    )


def finish(process) -> tuple[str, str]:
    out, errors = process.communicate(timeout=800)
    assert process.returncode == 0, errors
    return out.strip(), errors


def run(folder: Path, *args, **kwargs) -> str:
    return finish(start(folder, *args, **kwargs))[0]


def stored(folder: Path) -> list[Path]:
    return sorted((folder / "cache" / FOLDER).glob("*/*.nbc"))


def copy_package(folder: Path) -> None:
    ignore = shutil.ignore_patterns("__pycache__", "*.npz", "*.png")
    shutil.copytree(Path(capgpu.__file__).parent, folder / "capgpu", ignore=ignore)
    kernels = Path(capgpu.kernels.__file__).parent
    shutil.copytree(kernels, folder / "capgpu" / "kernels", ignore=ignore, dirs_exist_ok=True)


@pytest.fixture(scope="module")
def compiled_once(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("compiled")
    assert run(folder) == "0"
    return folder


@pytest.fixture
def compiled(compiled_once, tmp_path) -> Path:
    """A folder of the test's own where the kernel of `SCRIPT` has been compiled and stored."""
    shutil.copytree(compiled_once / "cache", tmp_path / "cache")
    return tmp_path


# --- what decides an entry --------------------------------------------------------------------------


def test_the_key_depends_on_source_contents_and_not_on_time_stamps(compiled):
    copy_package(compiled)
    for file in (compiled / "capgpu" / "kernels" / "cpu").glob("*.py"):
        os.utime(file, (1, 1))
    assert run(compiled) == "1"
    # same size, same time: another number of a file that is compiled in
    source = compiled / "capgpu" / "kernels" / "cpu" / "recurrent_gemm.py"
    source.write_text(source.read_text().replace("def ", "def  ", 1).rstrip("\n"))
    os.utime(source, (1, 1))
    assert run(compiled) == "0"


def test_code_from_the_disk_gives_the_bits_of_code_that_was_just_compiled(tmp_path):
    compiled, hits = run(tmp_path, UPDATE).split()
    loaded, more_hits = run(tmp_path, UPDATE).split()
    assert (hits, more_hits) == ("0", "1")
    assert loaded == compiled


def test_each_processor_model_has_separate_entries(monkeypatch):
    class Codegen:
        def __init__(self, *description):
            self.magic_tuple = lambda: description

    cache = code_cache._Cache(copy_package)
    machines = [("x86_64-linux", "znver4", "+avx2"), ("x86_64-linux", "znver4", "+avx512f"), ("x86_64-linux", "k8", "")]
    keys = {cache._key("(float64,)", Codegen(*machine)) for machine in machines}
    assert len(keys) == 3
    assert cache._key("(float32,)", Codegen(*machines[0])) not in keys
    other = code_cache._Cache(start)
    assert other._key("(float64,)", Codegen(*machines[0])) not in keys
    monkeypatch.setattr(code_cache, "_generation", lambda: "another")
    assert cache._key("(float64,)", Codegen(*machines[0])) not in keys


# --- processes at once ------------------------------------------------------------------------------


@pytest.mark.parametrize("of_each", [1, pytest.param(2, marks=pytest.mark.nightly)])
def test_processes_that_compile_at_once_do_not_mix_their_entries(tmp_path, of_each):
    dtypes = ["float32", "float64"] * of_each
    for process in [start(tmp_path, dtype=dtype) for dtype in dtypes]:
        finish(process)  # each has compared its results
    files = stored(tmp_path)
    assert not list(tmp_path.rglob("*.tmp"))
    assert [run(tmp_path, dtype=dtype) for dtype in dtypes[:2]] == ["1", "1"]
    assert stored(tmp_path) == files, "nothing was missing"


# --- damaged files ----------------------------------------------------------------------------------


def test_damaged_files_are_replaced_by_new_code(compiled):
    for file in stored(compiled):
        data = file.read_bytes()
        file.write_bytes(data[:-9] + bytes([data[-9] ^ 1]) + data[-8:])
    assert run(compiled) == "0"
    assert run(compiled) == "1"


@pytest.mark.nightly
def test_entries_that_numba_cannot_load_are_compiled_again(compiled):
    for payload in (pickle.dumps(()), b"no pickle", pickle.dumps(tuple(range(9)))):
        for file in stored(compiled):
            key = file.read_bytes()[code_cache.HEADER :][: len(KEY)].decode()
            code_cache._write(file, key, payload)
        assert run(compiled) == "0"
        assert run(compiled) == "1"


@pytest.fixture
def entry(tmp_path):
    path = tmp_path / "generation" / "name.nbc"
    code_cache._write(path, KEY, b"payload")
    assert code_cache._read(path, KEY) == b"payload"
    return path


def test_every_truncation_is_detected(entry):
    whole = entry.read_bytes()
    for size in range(len(whole)):
        entry.write_bytes(whole[:size])
        assert code_cache._read(entry, KEY) is None
    entry.write_bytes(whole + b"\0")
    assert code_cache._read(entry, KEY) is None


def test_every_changed_byte_and_other_contents_are_detected(entry):
    whole = entry.read_bytes()
    changed = [whole[:k] + bytes([whole[k] ^ 1]) + whole[k + 1 :] for k in range(len(whole))]
    for data in (*changed, pickle.dumps({})):
        entry.write_bytes(data)
        assert code_cache._read(entry, KEY) is None


def test_a_file_of_another_key_is_ignored(entry):
    assert code_cache._read(entry, KEY[::-1]) is None


# --- other users ------------------------------------------------------------------------------------


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="no users here")
class TestOtherUsers:
    @pytest.mark.parametrize("mode", [0o620, 0o602, 0o666])
    def test_a_file_that_others_can_write_is_not_read(self, entry, mode):
        entry.chmod(mode)
        assert code_cache._read(entry, KEY) is None

    @pytest.mark.parametrize("mode", [0o770, 0o707, 0o1777])
    def test_a_folder_that_others_can_write_is_neither_read_nor_written(self, entry, mode):
        entry.parent.chmod(mode)
        assert code_cache._read(entry, KEY) is None
        with pytest.raises(
            PermissionError, match="expected a folder that belongs to this user and only they can write, got "
        ):
            code_cache._write(entry, KEY, b"other")

    def test_files_and_folders_of_another_user_are_not_read(self, entry, monkeypatch):
        monkeypatch.setattr(os, "geteuid", lambda: entry.stat().st_uid + 1)
        assert code_cache._read(entry, KEY) is None
        monkeypatch.setattr(code_cache, "_trusted", lambda status: status.st_mode & 0o040000)
        assert code_cache._read(entry, KEY) is None, "a file in a trusted folder"

    def test_links_and_pipes_are_not_read(self, entry):
        other = entry.with_name("other.nbc")
        other.symlink_to(entry)
        assert code_cache._read(other, KEY) is None
        other.unlink()
        os.mkfifo(other)
        assert code_cache._read(other, KEY) is None

    def test_a_file_that_others_could_have_written_is_not_unpickled(self, compiled):
        mark = compiled / "executed"
        for file in stored(compiled):
            key = file.read_bytes()[code_cache.HEADER :][: len(KEY)].decode()
            code_cache._write(file, key, pickle.dumps(Attack(mark)))
            file.chmod(0o666)
        assert run(compiled) == "0"
        assert not mark.exists()
        assert run(compiled) == "1", "the files were replaced by this user's own"

    def test_written_files_and_folders_are_private_to_the_user(self, entry):
        assert entry.stat().st_mode & 0o777 == 0o600
        assert entry.parent.stat().st_mode & 0o777 == 0o700


class Attack:
    def __init__(self, mark):
        self._mark = mark

    def __reduce__(self):
        return os.mkdir, (str(self._mark),)


# --- where nothing can be written -------------------------------------------------------------------


def limit_file_size() -> None:
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))


def test_on_a_full_disk_code_is_compiled_with_one_warning(tmp_path):
    out, errors = finish(start(tmp_path, before=limit_file_size))
    assert out == "0"
    assert errors.count("compiled kernels cannot be kept on disk") == 1
    assert "Set NUMBA_CACHE_DIR to a folder that can be written" in errors
    assert "Traceback" not in errors
    assert [file for file in (tmp_path / "cache").rglob("*") if file.is_file()] == []


@pytest.mark.nightly
def test_if_the_folder_cannot_be_created_code_is_compiled_with_one_warning(tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("")
    out, errors = finish(start(tmp_path, cache=blocked))
    assert out == "0"
    assert errors.count("compiled kernels cannot be kept on disk") == 1
    assert "Traceback" not in errors


def test_a_folder_that_cannot_be_opened_has_no_code(monkeypatch, tmp_path):
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path / ("x" * 300)))  # too long for any user, root too
    assert not code_cache.stored(embedding._sum_columns)


class CallersError(Exception):
    """What a signal handler may raise."""


@pytest.mark.parametrize("error", [TimeoutError, TimeoutError("too late"), CallersError, KeyboardInterrupt])
def test_an_exception_from_a_signal_handler_is_raised(monkeypatch, error):
    def interrupted(*args):
        raise error

    kind = error if isinstance(error, type) else type(error)
    cache = embedding._sum_columns._cache
    target = embedding._sum_columns.targetctx
    monkeypatch.setattr(code_cache, "_read", interrupted)
    with pytest.raises(kind):
        cache.load_overload("()", target)
    monkeypatch.setattr(code_cache, "_write", interrupted)
    monkeypatch.setattr(code_cache.numba.core.serialize, "dumps", lambda reduced: b"")
    with pytest.raises(kind):
        cache.save_overload("()", SimpleNamespace(codegen=target.codegen(), _reduce=tuple))


def test_an_interrupted_write_leaves_no_file(entry, monkeypatch):
    def interrupt(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", interrupt)
    with pytest.raises(KeyboardInterrupt):
        code_cache._write(entry, KEY, b"other")
    monkeypatch.undo()
    assert list(entry.parent.iterdir()) == [entry]
    assert code_cache._read(entry, KEY) == b"payload"


# --- where it is kept, and for how long -------------------------------------------------------------


def test_the_folder_follows_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path / "numba"))
    assert code_cache.folder() == tmp_path / "numba" / FOLDER
    monkeypatch.setenv("NUMBA_CACHE_DIR", "")
    assert code_cache.folder() == tmp_path / "xdg" / "capgpu" / "kernels"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert code_cache.folder() == tmp_path / "home" / ".cache" / "capgpu" / "kernels"


def test_only_old_generations_are_removed(tmp_path):
    keep = code_cache.GENERATIONS
    others = [tmp_path / f"{k:016x}" for k in range(keep + 3)]
    for k, place in enumerate(others):
        place.mkdir()
        os.utime(place, (k, k))
    (tmp_path / "notes").mkdir()
    code_cache._write(tmp_path / ("f" * 16) / "name.nbc", KEY, b"payload")
    left = sorted(place.name for place in tmp_path.iterdir())
    assert left == [place.name for place in others[4:]] + ["f" * 16, "notes"]


# --- a Numba whose private names have changed -------------------------------------------------------


def test_without_numbas_private_names_code_stays_in_memory_with_one_warning(monkeypatch, caplog):
    monkeypatch.setattr(code_cache, "_warned", False)

    class Result:
        codegen = None

    code_cache.keep_on_disk(object())
    cache = code_cache._Cache(start)
    cache.save_overload("()", Result())
    assert len(caplog.records) == 1
    assert "Install a version that capgpu's requirements name" in caplog.text
