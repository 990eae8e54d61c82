"""A preparation that stops anywhere is resumed: nothing is lost, and nothing is computed twice."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import capgpu.data.feature_journal
import capgpu.data.prepare
import capgpu.data.staging
from capgpu.data.detect_format import read_source
from capgpu.data.feature_files import FeatureFile, open_features
from capgpu.data.prepare import PrepareConfig, prepare
from capgpu.data.prepared_dataset import is_prepared, load_prepared, read_manifest
from capgpu.data.source import Source
from oracles.encoders import CountingEncoder
from oracles.preparations import ANYTHING, COUNT, contents, make

pytestmark = pytest.mark.usefixtures("small_pieces")


class Killed(BaseException):
    """Simulates the end of the process."""


class KilledAt:
    """Raise `Killed` at the n-th file operation and at every later one, so that nothing more is written."""

    CALLS = ("replace", "unlink", "rmdir", "mkdir", "open")

    def __init__(self, monkeypatch: pytest.MonkeyPatch, at: int) -> None:
        self.remaining = at
        for name in self.CALLS:
            monkeypatch.setattr(os, name, self._counted(getattr(os, name)))

    def _counted(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **options: Any) -> Any:
            self.remaining -= 1
            if self.remaining < 0:
                raise Killed
            return original(*args, **options)

        return call


def interrupt_preparation(csv_source: Source, folder: Path) -> None:
    """Start a preparation and interrupt it after its second piece."""

    def stop(done: int, total: int) -> None:
        if done >= 8:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make(csv_source, folder, progress=stop)


@pytest.mark.parametrize("old_config", [None, PrepareConfig(min_count=2, test=0)])
def test_a_preparation_killed_at_any_file_operation_resumes_to_the_same_bytes_without_recomputing(
    old_config: PrepareConfig | None, csv_source: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, force = tmp_path / "out", old_config is not None
    make(csv_source, tmp_path / "expected")
    expected = contents(tmp_path / "expected")
    if old_config is not None:
        make(csv_source, tmp_path / "old", old_config)
    states = []
    while not states or states[-1] != "finished":
        if force:
            shutil.copytree(tmp_path / "old", out)
        state = "finished"
        with monkeypatch.context() as patched:
            KilledAt(patched, at=3 * len(states))
            try:
                make(csv_source, out, force=force)
            except Killed:
                state = "unfinished"
        finished_files = {name: content for name, content in contents(out).items() if "preparing" not in name}
        if is_prepared(out):
            load_prepared(out)
            assert finished_files == expected or (force and finished_files == contents(tmp_path / "old"))
            state = {"unfinished": "new" if finished_files == expected else "old"}.get(state, state)
        if state in ("unfinished", "old"):
            pieces = list(out.glob("preparing/piece-*.bin"))
            encoder = CountingEncoder()
            make(csv_source, out, encoder=encoder, force=is_prepared(out))
            assert len(encoder.seen) == COUNT - 4 * len(pieces)
            assert contents(out) == expected
        shutil.rmtree(out, ignore_errors=True)
        states.append(state)
    # the states occur in this order: the old data set is there until the new one is complete
    order = [*(["old"] if force else []), "unfinished", "new", "finished"]
    assert list(dict.fromkeys(states)) == order
    assert states == sorted(states, key=order.index)


def test_a_preparation_killed_by_sigkill_is_resumed(csv_source: Source, tmp_path: Path) -> None:
    code = """
import os, signal, sys
from pathlib import Path
import capgpu.data.feature_journal
from capgpu.data.detect_format import read_source
from capgpu.data.prepare import PrepareConfig, prepare
from oracles.encoders import CountingEncoder

capgpu.data.feature_journal.PIECE = 4
source, out = map(Path, sys.argv[1:])
show = lambda done, total: os.kill(os.getpid(), signal.SIGKILL) if done >= 8 else None
prepare(read_source(source), out, PrepareConfig(min_count=1), None, CountingEncoder, progress=show)
"""
    paths = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    command = [sys.executable, "-c", code, str(csv_source.path), str(tmp_path / "out")]
    assert subprocess.run(command, env=paths, timeout=60, check=False).returncode == -signal.SIGKILL
    encoder = CountingEncoder()
    make(csv_source, tmp_path / "out", encoder=encoder)
    assert len(encoder.seen) == COUNT - 8
    make(csv_source, tmp_path / "expected")
    assert contents(tmp_path / "out") == contents(tmp_path / "expected")


def test_a_process_killed_while_it_starts_over_leaves_a_folder_that_can_be_prepared(
    csv_source: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(csv_source, tmp_path / "expected")
    interrupt_preparation(csv_source, tmp_path / "out")
    (tmp_path / "out" / "train.json").touch()  # the process was killed when it moved the finished files
    monkeypatch.setattr(capgpu.data.staging, "atomic_write", None)
    with pytest.raises(TypeError):  # an exception there ends as a kill does
        make(csv_source, tmp_path / "out", PrepareConfig(min_count=2), force=True)
    monkeypatch.undo()
    make(csv_source, tmp_path / "out")
    assert contents(tmp_path / "out") == contents(tmp_path / "expected")


@pytest.mark.parametrize("force", [False, True])
def test_a_full_disk_leaves_the_last_good_state(
    force: bool, csv_source: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if force:
        make(csv_source, tmp_path / "out", PrepareConfig(min_count=2))
    contents_before = contents(tmp_path / "out")

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(np.lib.format, "write_array_header_1_0", full)
        with pytest.raises(OSError, match="No space left"):
            make(csv_source, tmp_path / "out", force=force)
    assert {
        name: after for name, after in contents(tmp_path / "out").items() if name in contents_before
    } == contents_before
    assert is_prepared(tmp_path / "out") == force
    encoder = CountingEncoder()
    make(csv_source, tmp_path / "out", encoder=encoder, force=force)
    assert encoder.seen == []


def test_changed_settings_are_refused_by_name_and_restart_with_force(csv_source: Source, tmp_path: Path) -> None:
    interrupt_preparation(csv_source, tmp_path / "out")
    contents_before = contents(tmp_path / "out")
    with pytest.raises(
        ValueError,
        match=r"expected the settings of the unfinished preparation, got others \(min_count, seed\).*--force",
    ):
        make(csv_source, tmp_path / "out", PrepareConfig(min_count=2, seed=1))
    csv_source.path.write_text(csv_source.path.read_text() + "\n0.png,a cow\n")
    with pytest.raises(ValueError, match=r"got others \(source's sha256\)"):
        make(read_source(csv_source.path), tmp_path / "out")
    assert contents(tmp_path / "out") == contents_before
    encoder = CountingEncoder()
    make(read_source(csv_source.path), tmp_path / "out", encoder=encoder, force=True)
    assert len(encoder.seen) == COUNT


@pytest.mark.parametrize("text", ["", "[]", '{"min_count":', "\xff"])
def test_damaged_settings_are_refused_and_restart_with_force(text: str, csv_source: Source, tmp_path: Path) -> None:
    interrupt_preparation(csv_source, tmp_path / "out")
    (tmp_path / "out" / "preparing" / "settings.json").write_text(text, encoding="latin1")
    with pytest.raises(ValueError, match="expected the settings of the unfinished preparation"):
        make(csv_source, tmp_path / "out")
    make(csv_source, tmp_path / "out", force=True)


@pytest.mark.usefixtures("sigint_is_not_ignored")
def test_an_interrupted_replacement_is_resumed(csv_source: Source, tmp_path: Path) -> None:
    make(csv_source, tmp_path / "out", PrepareConfig(min_count=2))
    with pytest.raises(KeyboardInterrupt):
        make(
            csv_source,
            tmp_path / "out",
            force=True,
            progress=lambda done, _: done < 8 or signal.raise_signal(signal.SIGINT),
        )
    assert read_manifest(tmp_path / "out").settings["min_count"] == 2
    encoder = CountingEncoder()
    make(csv_source, tmp_path / "out", encoder=encoder, force=True)
    assert len(encoder.seen) == COUNT - 8


def test_progress_includes_pictures_of_earlier_runs(csv_source: Source, tmp_path: Path) -> None:
    interrupt_preparation(csv_source, tmp_path / "out")
    reported: list[tuple[int, int]] = []
    make(csv_source, tmp_path / "out", progress=lambda *counts: reported.append(counts))
    assert reported == [(done, COUNT) for done in range(0, COUNT + 1, 4)]


@pytest.mark.usefixtures("sigint_is_not_ignored")
def test_features_changed_since_the_interruption_are_refused(
    csv_source: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def feature_file(value: float) -> FeatureFile:
        np.save(tmp_path / "f.npy", np.full((COUNT, 2), float(value)))
        return open_features(tmp_path / "f.npy")

    with monkeypatch.context() as patched:
        patched.setattr(capgpu.data.prepare, "save_prepared", lambda *_, **__: signal.raise_signal(signal.SIGINT))
        with pytest.raises(KeyboardInterrupt):
            prepare(csv_source, tmp_path / "out", ANYTHING, feature_file(1))
    with pytest.raises(ValueError, match=r"got others \(features' sha256\)"):
        prepare(csv_source, tmp_path / "out", ANYTHING, feature_file(2))
    prepare(csv_source, tmp_path / "out", ANYTHING, feature_file(1))
    assert (load_prepared(tmp_path / "out")["train_features"] == 1).all()
