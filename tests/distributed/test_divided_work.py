"""Preparation and captions divided among ranks: the results are those of one process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import capgpu
import capgpu.data.feature_journal
from capgpu.data.datasets import Dataset
from capgpu.data.detect_format import read_source
from capgpu.data.feature_files import open_features
from capgpu.data.feature_journal import Helpers, compute_share
from capgpu.data.prepare import prepare
from capgpu.data.source import Source
from capgpu.decode import GenerationConfig
from capgpu.distributed import Communicator
from capgpu.errors import InvalidValueError
from capgpu.evaluation import captioning, nearest_neighbour
from capgpu.evaluation.split_evaluation import caption_share, evaluate_split
from oracles.encoders import CountingEncoder, picture_files
from oracles.preparations import ANYTHING, COUNT, contents, make, write_source
from oracles.thread_ranks import run_ranks

WORDS = ["<NULL>", "<START>", "<END>", "<UNK>", *(f"w{i}" for i in range(9))]


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Source:
    monkeypatch.setattr(capgpu.data.feature_journal, "PIECE", 3)
    monkeypatch.setattr("os.fsync", lambda descriptor: None)  # nobody cuts the power
    return read_source(write_source(tmp_path / "source"))


def prepare_divided(source: Source, folder: Path, size: int, encoders: list[Any]) -> None:
    def work(ranks: Communicator) -> None:
        if ranks.rank:
            compute_share(lambda: encoders[ranks.rank], ranks)
            return
        with Helpers(ranks) as helpers:
            make(source, folder, encoder=encoders[0], helpers=helpers)

    run_ranks(size, work)


def test_a_preparation_divided_among_ranks_gives_the_bytes_of_one_process(source: Source, tmp_path: Path) -> None:
    alone = CountingEncoder()
    make(source, tmp_path / "alone", encoder=alone)
    encoders = [CountingEncoder() for _ in range(3)]
    prepare_divided(source, tmp_path / "divided", 3, encoders)
    assert contents(tmp_path / "alone") == contents(tmp_path / "divided")
    # each picture was read by one rank, and no rank by itself
    assert sorted(name for encoder in encoders for name in encoder.seen) == sorted(alone.seen)
    assert [len(encoder.seen) for encoder in encoders] == [8, 6, 6]


def test_a_divided_preparation_that_was_killed_resumes_with_other_ranks(source: Source, tmp_path: Path) -> None:
    make(source, tmp_path / "alone")
    first = [CountingEncoder() for _ in range(2)]
    first[1].encode = _killed  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        prepare_divided(source, tmp_path / "divided", 2, first)
    second = [CountingEncoder() for _ in range(3)]
    prepare_divided(source, tmp_path / "divided", 3, second)
    assert contents(tmp_path / "alone") == contents(tmp_path / "divided")
    assert not {name for encoder in second for name in encoder.seen} & set(first[0].seen)


def _killed(paths: Any) -> Any:
    raise KeyboardInterrupt


def test_ranks_that_wait_for_work_get_the_error_of_rank_0(source: Source, tmp_path: Path) -> None:
    errors: list[BaseException] = []

    def work(ranks: Communicator) -> None:
        try:
            if ranks.rank:
                compute_share(CountingEncoder, ranks)  # type: ignore[arg-type]
            else:
                with Helpers(ranks) as helpers:
                    make(source, tmp_path / "source", helpers=helpers)  # a folder with other files
        except InvalidValueError as error:
            errors.append(error)

    run_ranks(2, work)
    assert len(errors) == 2
    assert "expected a new, an empty or a prepared folder" in str(errors[0])


def test_ranks_that_wait_for_work_return_where_there_is_none() -> None:
    def work(ranks: Communicator) -> None:
        if ranks.rank:
            compute_share(CountingEncoder, ranks)  # type: ignore[arg-type]
        else:
            with Helpers(ranks):
                pass

    run_ranks(2, work)


def test_a_rank_refuses_another_network_and_another_file_system(source: Source, tmp_path: Path) -> None:
    other = CountingEncoder()
    other.sha256, other.name = "other", "network.onnx"  # type: ignore[attr-defined]
    with pytest.raises(InvalidValueError, match=r"network.onnx: expected the network of rank 0, with SHA-256 0123"):
        prepare_divided(source, tmp_path / "out", 2, [CountingEncoder(), other])

    def elsewhere(ranks: Communicator) -> None:
        if ranks.rank:
            compute_share(CountingEncoder, ranks)  # type: ignore[arg-type]
        else:
            Helpers(ranks).begin(CountingEncoder(), [], tmp_path / "missing")  # type: ignore[arg-type]

    with pytest.raises(ValueError, match="expected the folder that rank 0 writes, got no such folder on this machine"):
        run_ranks(2, elsewhere)


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    rng = np.random.default_rng(0)
    data: dict[str, Any] = {"idx_to_word": WORDS}
    for split, count in (("train", 41), ("test", 23)):
        data[f"{split}_features"] = rng.standard_normal((count, 5)).astype(np.float32)
        data[f"{split}_features"][::7] = data[f"{split}_features"][0]  # several pictures are equally near
        data[f"{split}_captions"] = np.array([[1, 4 + i % 9, 4 + i % 7, 2] for i in range(count)], np.int32)
        data[f"{split}_image_idxs"] = np.arange(count)
    return Dataset("d", data)


@pytest.mark.parametrize("config", [GenerationConfig(), GenerationConfig(temperature=1.0, seed=3)])
def test_an_evaluation_divided_among_ranks_gives_the_scores_of_one_process(
    dataset: Dataset, config: GenerationConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = capgpu.CaptioningRNN({word: i for i, word in enumerate(WORDS)}, 5, 6, 7, "rnn", seed=0)
    monkeypatch.setattr(nearest_neighbour, "_BLOCK_BYTES", 4 * 5 * 4)
    write = captioning.write_caption_lists
    monkeypatch.setattr(
        captioning, "write_caption_lists", lambda *given, **named: write(*given, **{**named, "batch_size": 4})
    )
    alone = evaluate_split(model, dataset, "test", config)

    def work(ranks: Communicator) -> Any:
        if ranks.rank:
            return caption_share(model, dataset, "test", config, ranks)
        return evaluate_split(model, dataset, "test", config, communicator=ranks)

    for size in (2, 3):
        first, *others = run_ranks(size, work)
        assert first.as_json() == alone.as_json()
        assert others == [tuple(alone.captions.values())] * (size - 1)


def test_captions_of_files_divided_among_ranks_are_those_of_one_process(tmp_path: Path) -> None:
    class Encoder(CountingEncoder):
        def encode(self, paths: Any, progress: Any = None) -> Any:
            return super().encode(paths)

    model = capgpu.CaptioningRNN({word: i for i, word in enumerate(WORDS)}, 4, 6, 7, "rnn", seed=0)
    files = picture_files(tmp_path, 11, [0, 5, 6])
    config = GenerationConfig(beam=3, captions=2, max_length=4)
    encoders = [Encoder() for _ in range(3)]
    alone = captioning.caption_pictures(model, Encoder(), files, config)  # type: ignore[arg-type]
    divided = run_ranks(
        3,
        lambda ranks: captioning.caption_pictures(
            model,
            encoders[ranks.rank],  # type: ignore[arg-type]
            files,
            config,
            communicator=ranks,
        ),
    )
    assert divided == [alone] * 3
    assert [len(encoder.seen) for encoder in encoders] == [3, 4, 4]
    assert len(alone.captions[1]) == 2


PREPARE = """
import os, signal, sys
from pathlib import Path
import capgpu.data.feature_journal as journal
from capgpu.data.detect_format import read_source
from capgpu.data.feature_files import open_features
from capgpu.distributed import communicator
from oracles.encoders import CountingEncoder
from oracles.preparations import make

journal.PIECE = 3
source, out, killed = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
ranks = communicator()

class Encoder(CountingEncoder):
    def encode(self, paths):
        if killed and ranks.rank == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        print(*(path.name for path in paths))
        return super().encode(paths)

if ranks.rank:
    journal.compute_share(Encoder, ranks)
else:
    with journal.Helpers(ranks) as helpers:
        make(read_source(source), out, encoder=Encoder(), helpers=helpers)
"""


def test_real_ranks_resume_a_preparation_after_a_kill(
    source: Source, tmp_path: Path, ranks: Any, request: pytest.FixtureRequest
) -> None:
    make(source, tmp_path / "alone")
    path = str(request.config.rootpath)
    environment = {"PYTHONPATH": f"{path}:{path}/tests"}
    arguments = [str(source.path), str(tmp_path / "divided")]
    assert ranks(3, *arguments, "1", code=PREPARE, **environment).returncode != 0
    finished = {file.name for file in (tmp_path / "divided" / "preparing").glob("piece-*")}
    result = ranks(2, *arguments, "0", code=PREPARE, **environment)
    assert result.returncode == 0, result.stderr
    assert contents(tmp_path / "alone") == contents(tmp_path / "divided")
    # of 7 pieces, those of before were not computed again
    assert len(result.stdout.splitlines()) == 7 - len(finished)


def test_one_rank_alone_runs_a_command_that_divides_nothing(ranks: Any) -> None:
    result = ranks(2, "-m", "capgpu", "info")
    lines = [line.split()[0] for line in result.stdout.splitlines() if line]
    assert (result.returncode, lines.count("why")) == (0, 1), result.stderr


def test_the_command_evaluates_alike_with_real_ranks(source: Source, tmp_path: Path, ranks: Any) -> None:
    rows = np.random.default_rng(0).standard_normal((COUNT, 4)).astype(np.float32)
    np.savez(tmp_path / "f.npz", features=rows, image_ids=[f"{i}.png" for i in range(COUNT)])
    prepare(source, tmp_path / "data", ANYTHING, open_features(tmp_path / "f.npz"))
    small = ["--hidden", "4", "--wordvec", "4", "--epochs", "1"]
    trained = ranks(1, "-m", "capgpu", "train", str(tmp_path / "run"), "--data", str(tmp_path / "data"), *small)
    assert trained.returncode == 0, trained.stderr
    written = []
    for size in (1, 3):
        file = tmp_path / f"{size}.json"
        command = ["-m", "capgpu", "eval", str(tmp_path / "run"), "--split", "train", "--json", str(file)]
        result = ranks(size, *command)
        assert result.returncode == 0, result.stderr
        written.append((file.read_text(), result.stdout.replace(str(file), "")))
    assert written[0] == written[1]
