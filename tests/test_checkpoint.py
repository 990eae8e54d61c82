"""Files that are whole or not there: what goes in comes out, and no damage passes unseen."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import BackendCase

from capgpu.checkpoint import (
    CheckpointError,
    atomic_write,
    is_temporary,
    load_model,
    load_weights,
    save_model,
    save_weights,
)
from capgpu.folder_lock import lock_file
from capgpu.model import CaptioningRNN
from oracles.snapshots import frozen

WORDS = {"<NULL>": 0, "<START>": 1, "<END>": 2, "chat": 3, "été": 4}
SIZES = {"input_dim": 6, "wordvec_dim": 5, "hidden_dim": 4}
SETTINGS: dict[str, Any] = {**SIZES, "cell_type": "lstm", "output_dropout": 0.25}


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# --- writing ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("mode", "content"), [("wb", b"\x00\xffdata"), ("w", "été\n")])
def test_a_file_appears_whole_and_alone(tmp_path: Path, mode: str, content: Any) -> None:
    path = tmp_path / "file"
    with atomic_write(path, mode) as file:
        file.write(content)
        file.flush()
        assert not path.exists()
    assert path.read_bytes() == (content if mode == "wb" else content.encode())
    assert files(tmp_path) == ["file"]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_a_failed_write_leaves_the_old_file_and_no_other(tmp_path: Path, error: type[BaseException]) -> None:
    path = tmp_path / "file"
    path.write_text("old")

    def write() -> None:
        with atomic_write(path, "w") as file:
            file.write("half of the n")
            raise error

    with pytest.raises(error):
        write()
    assert path.read_text() == "old"
    assert files(tmp_path) == ["file"]


def test_a_new_file_has_the_permissions_of_any_other(tmp_path: Path) -> None:
    with atomic_write(tmp_path / "atomic", "w") as file:
        file.write("x")
    (tmp_path / "plain").write_text("x")
    assert (tmp_path / "atomic").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_on_windows_no_folder_is_opened_and_no_open_file_renamed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened, rename = os.open, os.replace

    def refuse_folders(path: Any, *args: Any, **kwargs: Any) -> int:
        if os.path.isdir(path):
            raise PermissionError(13, "Permission denied", path)  # as there
        return opened(path, *args, **kwargs)

    def refuse_open_files(source: Path, target: Path) -> None:
        with open(source) as file:
            if lock_file(file.fileno()) is False:  # open elsewhere
                raise PermissionError(13, "Permission denied", source)
        rename(source, target)

    monkeypatch.setattr("capgpu.checkpoint.os.open", refuse_folders)
    with pytest.raises(PermissionError), atomic_write(tmp_path / "here", "w") as file:
        file.write("one")  # the simulation bites
    monkeypatch.setattr("capgpu.checkpoint._OPENS_FOLDERS", False)
    monkeypatch.setattr("capgpu.checkpoint._RENAMES_OPEN_FILES", False)
    monkeypatch.setattr("capgpu.checkpoint.os.replace", refuse_open_files)
    with atomic_write(tmp_path / "there", "w") as file:
        file.write("one")
    assert (tmp_path / "there").read_text() == "one"


def test_text_has_the_same_bytes_on_every_system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # as on Windows, where a file without `newline` gets the system's own line ends
    of_python = open
    monkeypatch.setattr("builtins.open", lambda *args, **kwargs: of_python(*args, **{"newline": "\r\n", **kwargs}))
    with atomic_write(tmp_path / "text", "w") as file:
        file.write("one\ntwo\n")
    monkeypatch.undo()
    assert (tmp_path / "text").read_bytes() == b"one\ntwo\n"


def test_a_link_is_followed(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real" / "file")
    with atomic_write(tmp_path / "link", "w") as file:
        file.write("x")
    assert (tmp_path / "link").is_symlink()
    assert files(tmp_path / "real") == ["file"]


def test_a_folder_that_is_missing_or_a_mode_that_appends_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), atomic_write(tmp_path / "no" / "file"):
        pass
    with pytest.raises(ValueError, match="mode: expected 'wb' or 'w', got 'a'"), atomic_write(tmp_path / "file", "a"):
        pass


def test_errors_name_the_target_and_not_the_temporary_file(tmp_path: Path) -> None:
    for path in (tmp_path / "no" / "file", tmp_path):
        with (
            pytest.raises(OSError, match=r"expected the name of a file|cannot be written") as caught,
            atomic_write(path),
        ):
            pass
        assert caught.value.filename == str(path)
    assert files(tmp_path) == []


def test_a_pipe_stays_a_pipe(tmp_path: Path) -> None:
    """Nor is a device such as /dev/null ever replaced by a file."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    with atomic_write(pipe, "w") as file:
        file.write("été")
    assert os.read(reader, 99).decode() == "été"
    os.close(reader)
    assert pipe.is_fifo()
    assert files(tmp_path) == ["pipe"]


# --- weights ----------------------------------------------------------------------------------------------


def test_weights_come_back_bit_for_bit(backend: BackendCase, tmp_path: Path, random: np.random.Generator) -> None:
    host = {
        "matrix": random.standard_normal((3, 4)),
        "single": random.standard_normal(5).astype(np.float32),
        "scalar": np.array(2.5),
        "none": np.zeros((0, 3)),
    }
    params = {name: backend.asarray(array) for name, array in host.items()}
    metadata = {"word": "été", "number": 0.1, "list": [1, None, {"a": True}]}
    save_weights(tmp_path / "w.safetensors", params, metadata)
    loaded, stored = load_weights(tmp_path / "w.safetensors")
    assert frozen(loaded) == frozen(host)
    assert stored == metadata


def test_an_array_in_another_order_keeps_its_values(tmp_path: Path, random: np.random.Generator) -> None:
    array = random.standard_normal((3, 4))
    save_weights(tmp_path / "w.safetensors", {"f": np.asfortranarray(array), "part": array[:, ::2]})
    loaded, _ = load_weights(tmp_path / "w.safetensors")
    np.testing.assert_array_equal(loaded["f"], array)
    np.testing.assert_array_equal(loaded["part"], array[:, ::2])


def test_weights_of_another_program_have_no_metadata(tmp_path: Path) -> None:
    from safetensors.numpy import save_file

    save_file({"a": np.arange(3.0)}, tmp_path / "foreign.safetensors", metadata={"format": "np"})
    loaded, metadata = load_weights(tmp_path / "foreign.safetensors")
    np.testing.assert_array_equal(loaded["a"], np.arange(3.0))
    assert metadata == {}


def test_metadata_json_cannot_hold_harm_no_file(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    save_weights(path, {"a": np.ones(2)})
    before = path.read_bytes()
    for metadata, error in (({"x": np.nan}, ValueError), ({"x": object()}, TypeError)):
        with pytest.raises(error):
            save_weights(path, {"a": np.zeros(2)}, metadata)
    assert path.read_bytes() == before
    assert files(tmp_path) == ["w.safetensors"]


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    path = tmp_path / "w.safetensors"
    save_weights(path, {"a": np.arange(50.0), "b": np.ones(3)}, {"kind": "example"})
    return path


def test_no_cut_goes_unnoticed(saved: Path) -> None:
    content = saved.read_bytes()
    for length in (0, 1, 7, 8, 9, 100, len(content) // 2, len(content) - 1):
        saved.write_bytes(content[:length])
        with pytest.raises(CheckpointError, match=r"w\.safetensors"):
            load_weights(saved)


def test_no_changed_byte_goes_unnoticed(saved: Path) -> None:
    content = saved.read_bytes()
    taken_for_foreign = 0
    for place in range(0, len(content), 3):
        damaged = bytearray(content)
        damaged[place] ^= 0x10
        saved.write_bytes(damaged)
        try:
            _, metadata = load_weights(saved)
        except CheckpointError:
            continue
        assert metadata == {}  # the name of the metadata was hit: without them it is a file of weights alone
        taken_for_foreign += 1
    assert taken_for_foreign <= len("__metadata__capgpu")


@pytest.mark.parametrize(("make", "words"), [(None, "got no such file"), (os.mkdir, "got a folder")])
def test_a_file_that_is_none_is_named(tmp_path: Path, make: Any, words: str) -> None:
    path = tmp_path / "w.safetensors"
    if make is not None:
        make(path)
    with pytest.raises(CheckpointError, match=words):
        load_weights(path)


# --- models -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["model.safetensors", "folder"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_model_comes_back_as_it_was(
    backend: BackendCase, tmp_path: Path, name: str, dtype: Any, random: np.random.Generator
) -> None:
    model = backend.model(WORDS, dtype=dtype, seed=5, **SETTINGS)
    path = save_model(tmp_path / "new" / name, model)
    assert path.is_file()
    loaded = load_model(tmp_path / "new" / name)
    assert frozen(loaded.params) == frozen(model.params)
    assert loaded.config == model.config
    assert loaded.word_to_idx == WORDS
    features = random.standard_normal((2, 6)).astype(dtype)
    written = backend.to_numpy(model.sample(backend.asarray(features)))
    import capgpu

    np.testing.assert_array_equal(backend.to_numpy(loaded.sample(capgpu.asarray(features))), written)


def test_a_single_layer_stored_with_dropout_between_layers_comes_back_without(tmp_path: Path) -> None:
    model = CaptioningRNN(WORDS, seed=1, **SETTINGS)
    model.layer_dropout = 0.5  # as the constructor once accepted it
    loaded = load_model(save_model(tmp_path, model))
    assert (loaded.layer_dropout, frozen(loaded.params)) == (0.0, frozen(model.params))


def test_weights_alone_are_no_model(saved: Path) -> None:
    with pytest.raises(CheckpointError, match=r"w\.safetensors: expected a captioning model"):
        load_model(saved)


def test_weights_that_do_not_fit_their_sizes_are_refused(tmp_path: Path) -> None:
    model = CaptioningRNN(WORDS, seed=1, **SETTINGS)
    model.params["Wh"] = model.params["Wh"][:, :-1]
    del model.params["b"]
    with pytest.raises(CheckpointError, match=r"expected the weights of the model .*with (Wh|b) "):
        load_model(save_model(tmp_path, model))


def test_a_description_that_cannot_be_built_is_refused(tmp_path: Path) -> None:
    metadata = {"format": "capgpu-model-1", "config": {"cell_type": "gated"}, "word_to_idx": WORDS}
    save_weights(tmp_path / "model.safetensors", {}, metadata)
    with pytest.raises(CheckpointError, match=r"cannot be built: config: cell_type: expected .*, got 'gated'"):
        load_model(tmp_path)


# --- a kill at any moment ---------------------------------------------------------------------------------

SAVES_FOR_EVER = """
import sys
import numpy as np
from capgpu.checkpoint import save_weights
count = 0
while True:
    arrays = {"a": np.full(200_000, float(count)), "b": np.full(7, float(count))}
    save_weights(sys.argv[1], arrays, {"count": count})
    count += 1
    if count == 3:
        print("ready", flush=True)
"""


@pytest.mark.parametrize("delay", [0.0, 0.011, 0.023, 0.037])
def test_a_killed_process_leaves_the_last_good_file(tmp_path: Path, delay: float) -> None:
    path = tmp_path / "w.safetensors"
    with subprocess.Popen([sys.executable, "-c", SAVES_FOR_EVER, str(path)], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        with suppress(subprocess.TimeoutExpired):
            process.wait(delay)
        process.send_signal(signal.SIGKILL)
    loaded, metadata = load_weights(path)
    assert metadata["count"] >= 2
    assert set(loaded["a"]) == set(loaded["b"]) == {float(metadata["count"])}


STOPS_WITHIN = """
import sys, time
from capgpu.checkpoint import atomic_write
with atomic_write(sys.argv[1]) as file:
    file.write(b"half")
    file.flush()
    print("ready", flush=True)
    time.sleep(600)
"""


def test_the_next_write_removes_what_a_killed_process_left_and_nothing_else(tmp_path: Path) -> None:
    pytest.importorskip("fcntl")
    path = tmp_path / "a.json"
    others = [".b.json.12.0123abcd.tmp", ".a.json.12.tmp", "a.json.12.0123abcd.tmp"]
    for name in others:
        (tmp_path / name).touch()
    with subprocess.Popen([sys.executable, "-c", STOPS_WITHIN, str(path)], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        for _ in range(2):  # the other process still writes: its file is none that was left
            with atomic_write(path, "w") as file:
                file.write("whole")
            (temporary,) = set(os.listdir(tmp_path)) - {*others, "a.json"}
            assert is_temporary(temporary)
        process.send_signal(signal.SIGKILL)
    with atomic_write(path, "w") as file:
        file.write("whole")
    assert sorted(os.listdir(tmp_path)) == sorted([*others, "a.json"])
    assert path.read_text() == "whole"


def test_a_file_that_is_just_being_renamed_is_no_leftover(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("fcntl")
    path, rename = tmp_path / "a.json", os.replace

    def rename_after_another_write(source: Path, target: Path) -> None:
        monkeypatch.setattr("capgpu.checkpoint.os.replace", rename)
        with atomic_write(path, "w") as file:
            file.write("the other")
        rename(source, target)

    monkeypatch.setattr("capgpu.checkpoint.os.replace", rename_after_another_write)
    with atomic_write(path, "w") as file:
        file.write("this one")
    assert path.read_text() == "this one"
    assert files(tmp_path) == ["a.json"]


def test_equal_weights_give_equal_files(tmp_path, in_new_process):
    code = f"""
import numpy as np
from capgpu.checkpoint import save_weights
names = ["Wx", "Wh", "b", "W_embed", "W_proj", "b_proj", "ü"]
arrays = {{name: np.full((3, 5), i, "float32") for i, name in enumerate(names)}}
save_weights({str(tmp_path)!r} + "/FILE", arrays, {{"α": 1}})
"""
    for file in ("one", "two", "three"):
        in_new_process(code.replace("FILE", file))
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes() == (tmp_path / "three").read_bytes()
