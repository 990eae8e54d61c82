"""Features of many pictures: computed once, whatever happens between; never those of other pictures."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

import capgpu.data.feature_journal
from capgpu.data.feature_journal import collect_features
from oracles.encoders import CountingEncoder, picture_files


@pytest.fixture(autouse=True)
def _small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(capgpu.data.feature_journal, "PIECE", 3)
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)  # nobody cuts the power


@pytest.fixture
def work(tmp_path: Path) -> Path:
    (tmp_path / "work").mkdir()
    return tmp_path / "work"


@pytest.mark.parametrize(("count", "broken"), [(1, []), (3, []), (7, [0, 4]), (7, [3, 4, 5]), (4, [0, 1, 2, 3])])
def test_features_stand_with_the_places_of_their_pictures(
    count: int, broken: list[int], work: Path, tmp_path: Path
) -> None:
    encoder, files = CountingEncoder(), picture_files(tmp_path, count, broken)
    reported: list[int] = []
    for _ in range(2):  # computed, then found
        features, kept, messages = collect_features(encoder, files, work, reported.append)  # type: ignore[arg-type]
        assert kept == [i for i in range(count) if i not in broken]
        assert features.shape == (len(kept), 4)
        assert features.dtype == np.float32
        for row, i in zip(features, kept, strict=True):
            np.testing.assert_array_equal(row, encoder.features(files[i]))
        assert messages == [f"{files[i]}: is no picture" for i in broken]
    assert encoder.seen == [file.name for file in files]
    assert reported[: len(reported) // 2] == reported[len(reported) // 2 :] == [*range(3, count, 3), count]


def test_no_pictures_give_no_features(work: Path) -> None:
    features, kept, broken = collect_features(CountingEncoder(), [], work)  # type: ignore[arg-type]
    assert features.shape == (0, 4)
    assert kept == broken == []


def test_a_piece_cut_short_or_damaged_is_made_anew(work: Path, tmp_path: Path) -> None:
    files = picture_files(tmp_path, 2, [1])
    wanted = collect_features(CountingEncoder(), files, work)[0].tobytes()  # type: ignore[arg-type]
    (piece,) = work.glob("piece-*")
    whole = piece.read_bytes()
    for size in range(0, len(whole), 11):
        for content in (whole[:size], whole[:size] + bytes([whole[size] ^ 1]) + whole[size + 1 :]):
            piece.write_bytes(content)
            encoder = CountingEncoder()
            features, kept, _ = collect_features(encoder, files, work)  # type: ignore[arg-type]
            assert (features.tobytes(), kept, len(encoder.seen)) == (wanted, [0], 2)
            assert piece.read_bytes() == whole


def test_features_of_another_length_are_made_anew(work: Path, tmp_path: Path) -> None:
    files = picture_files(tmp_path, 2)
    collect_features(CountingEncoder(6), files, work)  # type: ignore[arg-type]
    assert collect_features(CountingEncoder(5), files, work)[0].shape == (2, 5)  # type: ignore[arg-type]


@pytest.mark.parametrize("change", ["mended", "lost", "touched"])
def test_a_changed_picture_is_computed_again_with_its_piece_only(change: str, work: Path, tmp_path: Path) -> None:
    files = picture_files(tmp_path, 8, [4])
    collect_features(CountingEncoder(), files, work)  # type: ignore[arg-type]
    if change == "mended":
        files[4].write_text("PIC, now")
    elif change == "lost":
        files[4].unlink()
    else:
        os.utime(files[4], ns=(0, 0))
    encoder = CountingEncoder()
    _, kept, _ = collect_features(encoder, files, work)  # type: ignore[arg-type]
    assert (4 in kept) == (change == "mended")
    assert encoder.seen == ["3.png", "4.png", "5.png"]


def test_interrupted_work_is_resumed(work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = picture_files(tmp_path, 8)

    def interrupt(done: int) -> None:
        if done >= 6:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        collect_features(CountingEncoder(), files, work, interrupt)  # type: ignore[arg-type]
    encoder = CountingEncoder()
    assert len(collect_features(encoder, files, work)[0]) == 8  # type: ignore[arg-type]
    assert encoder.seen == ["6.png", "7.png"]
