"""The capgpu command from end to end, on settings small enough for seconds."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

import capgpu.backend
from capgpu.checkpoint import load_model, load_weights, save_model
from capgpu.cli import main
from capgpu.cli.judge import spread, verdict
from capgpu.data import emoji
from capgpu.data.coco_results import read_coco_results
from capgpu.evaluation.ranking import attainment
from capgpu.metrics import cider, coco_scores, corpus_bleu, exact_match
from capgpu.model import CaptioningRNN
from capgpu.solver import CaptioningSolver
from capgpu.training.history import read_history
from capgpu.vocabulary import tokenize

TINY = ["--hidden", "8", "--wordvec", "8", "--batch-size", "600", "--epochs", "2", "--seed", "3"]


def run(*args: object) -> Result:
    return CliRunner().invoke(main, [str(arg) for arg in args])


def trained(folder: Path, *args: object) -> Path:
    result = run("train", "--out", folder, *TINY, *args)
    assert result.exit_code == 0, result.output
    return folder


def refused(result: Result, says: str) -> None:
    """Hold that a command failed as it should where a user made a mistake."""
    assert result.exit_code == 2
    assert result.stderr.startswith("capgpu: error: ")
    assert result.stderr.count("\n") == 1
    assert "Traceback" not in result.output
    assert says in result.stderr


@pytest.fixture(autouse=True)
def _numpy() -> Iterator[None]:
    with capgpu.backend.use_backend("numpy"):
        yield


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    with capgpu.backend.use_backend("numpy"):
        return trained(tmp_path_factory.mktemp("runs") / "run")


def contents(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def weight_bits(folder: Path) -> dict[str, bytes]:
    return {name: array.tobytes() for name, array in load_weights(folder / "model.safetensors")[0].items()}


# --- train ------------------------------------------------------------------------------------------------


def test_a_run_folder_holds_settings_history_weights_and_curve(finished: Path) -> None:
    settings = json.loads((finished / "config.json").read_text())["settings"]
    assert (settings["cell"], settings["hidden"], settings["epochs"], settings["seed"]) == ("lstm", 8, 2, 3)
    kinds = [record["kind"] for record in read_history(finished / "history.jsonl")]
    assert kinds[0] == "start"
    assert kinds.count("epoch") == 2
    assert kinds[-1] == "end"
    model = load_model(finished)
    assert model.params["Wh"].shape == (8, 32)
    with Image.open(finished / "loss.png") as picture:
        assert picture.size == (1200, 750)
    summary = json.loads((finished / "summary.json").read_text())
    assert summary["epochs"] == 2
    assert 0 < summary["validation loss per word"] < np.log(len(model.word_to_idx))


def test_the_weights_are_those_of_the_best_epoch(finished: Path) -> None:
    summary = json.loads((finished / "summary.json").read_text())
    solver = CaptioningSolver(load_model(finished), emoji.load(), verbose=False)
    assert solver.evaluate("val") == pytest.approx(summary["validation loss per word"], rel=1e-6)


def test_the_same_seed_trains_the_same_weights(finished: Path, tmp_path: Path) -> None:
    again = trained(tmp_path / "again")
    assert weight_bits(again) == weight_bits(finished)


def test_settings_reach_model_and_solver(tmp_path: Path) -> None:
    folder = trained(
        tmp_path / "run", "--cell", "rnn", "--dtype", "float64", "--dropout", "0", "--update-rule", "sgd",
        "--schedule", "constant", "--learning-rate", "0.5", "--epochs", "1", "--group-by-length",
    )  # fmt: skip
    model = load_model(folder)
    assert (model.cell_type, model.dtype, model.feature_dropout, model.output_dropout) == (
        "rnn",
        np.float64,
        0,
        0,
    )
    start = read_history(folder / "history.jsonl")[0]
    assert (start["update_rule"], start["schedule"], start["batch_size"]) == ("sgd", "constant", 600)
    assert start["optim_config"]["learning_rate"] == 0.5
    assert start["group_by_length"] is True


def test_a_finished_run_is_not_overwritten(finished: Path) -> None:
    before = contents(finished)
    refused(run("train", "--out", finished, *TINY), "--force")
    assert contents(finished) == before


def test_force_overwrites_a_run_and_only_a_run(tmp_path: Path) -> None:
    folder = trained(tmp_path / "run", "--epochs", "1")
    trained(folder, "--force", "--hidden", "6", "--epochs", "1")
    assert load_model(folder).params["Wh"].shape == (6, 24)
    other = tmp_path / "letters"
    other.mkdir()
    (other / "letter.txt").write_text("keep me")
    refused(run("train", "--out", other, *TINY, "--force"), "no run folder")
    assert contents(other) == {"letter.txt": b"keep me"}


def test_settings_that_do_not_fit_cost_no_earlier_run(finished: Path) -> None:
    before = contents(finished)
    args = ("--force", "--tie-weights", "--hidden", "6", "--wordvec", "5")
    refused(run("train", "--out", finished, *args), "make them equal")
    assert contents(finished) == before


def test_an_unavailable_backend_is_told_before_anything_is_touched(finished: Path, tmp_path: Path) -> None:
    before = contents(finished)
    refused(run("train", "--out", finished, *TINY, "--force", "--backend", "gpu"), "unknown backend 'gpu'")
    assert contents(finished) == before
    refused(run("train", "--out", tmp_path / "new", "--backend", "gpu"), "unknown backend 'gpu'")
    assert not (tmp_path / "new").exists()


@pytest.mark.usefixtures("sigint_is_not_ignored")
def test_an_interrupted_run_resumes_to_the_same_weights(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "run"
    train = CaptioningSolver.train

    def train_until_ctrl_c(solver: CaptioningSolver) -> None:
        solver.callbacks = (lambda _solver, _record: signal.raise_signal(signal.SIGINT),)
        train(solver)

    with monkeypatch.context() as patch:
        patch.setattr(CaptioningSolver, "train", train_until_ctrl_c)
        result = run("train", "--out", folder, *TINY)
    assert result.exit_code == 130
    assert f"capgpu train --resume --out {folder}" in result.stderr
    assert not (folder / "summary.json").exists()

    refused(run("caption", "--run", folder), "--resume")
    refused(run("train", "--out", folder, *TINY), "has not finished")
    refused(run("train", "--resume", "--out", folder, "--hidden", "16"), "--hidden is 16")
    refused(run("train", "--resume", "--out", folder, "--group-by-length"), "--group-by-length is True")
    config = json.loads((folder / "config.json").read_text())
    del config["settings"]["group_by_length"]  # as an earlier version has written it
    (folder / "config.json").write_text(json.dumps(config))
    resumed = run("train", "--resume", "--out", folder)
    assert resumed.exit_code == 0, resumed.output
    assert weight_bits(folder) == weight_bits(finished)
    epochs = [record["epoch"] for record in read_history(folder / "history.jsonl") if record["kind"] == "epoch"]
    assert epochs == [1, 2]


def test_there_must_be_something_to_resume(finished: Path, tmp_path: Path) -> None:
    refused(run("train", "--resume", "--out", finished), "nothing to resume")
    refused(run("train", "--resume", "--out", tmp_path), "no run folder")
    refused(run("train", "--resume", "--force", "--out", finished), "one of them")


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["--epochs", "0"], "--epochs"),
        (["--batch-size", "-3"], "--batch-size"),
        (["--dropout", "1"], "--dropout"),
        (["--learning-rate", "0"], "--learning-rate"),
        (["--learning-rate", "nan"], "--learning-rate"),
        (["--learning-rate", "inf"], "--learning-rate"),
        (["--dropout", "nan"], "--dropout"),
        (["--cell", "gru"], "--cell"),
        (["--update-rule", "adm"], "--update-rule"),
        (["--data", "coco"], "--data"),
        (["--hiden", "3"], "--hidden"),
        (["--tie-weights", "--hidden", "6", "--wordvec", "5"], "wordvec_dim is 5 and hidden_dim 6"),
        (["--label-smoothing", "1"], "--label-smoothing"),
    ],
)
def test_bad_training_options_are_refused_and_write_nothing(args: list[str], says: str, tmp_path: Path) -> None:
    refused(run("train", "--out", tmp_path / "run", *args), says)
    assert list(tmp_path.iterdir()) == []


# --- caption ----------------------------------------------------------------------------------------------


def test_captions_stand_beside_their_truths(finished: Path) -> None:
    result = run("caption", "--run", finished, "--split", "unseen", "--indices", "0,7")
    assert result.exit_code == 0, result.output
    data = emoji.load()
    lines = result.stdout.splitlines()
    for index in (0, 7):
        (line,) = (line for line in lines if line.rstrip().endswith(f" {index}"))
        assert data["unseen_names"][index].lower() in line
    assert not any(data["unseen_names"][1].lower() in line for line in lines)


def test_count_spreads_pictures_over_the_split(finished: Path) -> None:
    result = run("caption", "--run", finished, "--count", "3")
    shown = [int(line.split()[-1]) for line in result.stdout.splitlines() if line.split()[-1].isdigit()]
    assert shown == spread(187, 3) == [31, 93, 155]


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["--indices", "187"], "0 to 186, got 187"),
        (["--indices", "-1"], "got -1"),
        (["--indices", "1,x"], "1,x"),
        (["--split", "tset"], "'test'"),
        (["--count", "0"], "--count"),
    ],
)
def test_bad_caption_options_are_refused(args: list[str], says: str, finished: Path) -> None:
    refused(run("caption", "--run", finished, *args), says)


@pytest.mark.parametrize("command", ["caption", "eval"])
def test_what_is_no_run_is_refused(command: str, tmp_path: Path) -> None:
    refused(run(command, "--run", tmp_path), "no run folder")
    refused(run(command, "--run", tmp_path / "nowhere"), "no run folder")
    (tmp_path / "config.json").write_text('{"format": "capgpu-run-1", "settings": {"da')
    refused(run(command, "--run", tmp_path), "config.json is damaged")
    (tmp_path / "config.json").write_text('{"format": "something else"}')
    refused(run(command, "--run", tmp_path), "was not written by capgpu train")
    for damaged in ("", ', "settings": [1]', ', "settings": {"data": 5}'):
        (tmp_path / "config.json").write_text(f'{{"format": "capgpu-run-1"{damaged}}}')
        refused(run(command, "--run", tmp_path), "does not say on what was trained")
    (tmp_path / "config.json").write_text("[" * 100_000)
    refused(run(command, "--run", tmp_path), "config.json is damaged")


def test_runs_of_earlier_versions_are_gone_on_with(tmp_path: Path) -> None:
    """They knew neither tied weights nor label smoothing."""
    folder = trained(tmp_path / "run", "--epochs", "1")
    (folder / "summary.json").unlink()
    config = json.loads((folder / "config.json").read_text())
    for name in ("tie_weights", "label_smoothing"):
        del config["settings"][name]
    (folder / "config.json").write_text(json.dumps(config))
    refused(run("train", "--resume", "--out", folder, "--label-smoothing", "0.1"), "was started with 0.0")
    result = run("train", "--resume", "--out", folder, "--label-smoothing", "0")
    assert result.exit_code == 0, result.output
    del config["settings"]["hidden"], config["settings"]["cell"]
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "summary.json").unlink()
    refused(run("train", "--resume", "--out", folder), "it has no cell, hidden")
    assert run("eval", "--run", folder).exit_code == 0


def copied(finished: Path, folder: Path) -> Path:
    folder.mkdir()
    for name in ("config.json", "summary.json", "model.safetensors"):
        (folder / name).write_bytes((finished / name).read_bytes())
    return folder


def test_a_damaged_model_is_named(finished: Path, tmp_path: Path) -> None:
    folder = copied(finished, tmp_path / "run")
    whole = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    refused(run("eval", "--run", folder), str(folder / "model.safetensors"))


def test_a_model_of_another_vocabulary_is_refused(finished: Path, tmp_path: Path) -> None:
    folder = copied(finished, tmp_path / "run")
    words = {"<NULL>": 0, "<START>": 1, "<END>": 2, "<UNK>": 3}
    save_model(folder, CaptioningRNN(words, 256, 8, 8, seed=0))
    refused(run("eval", "--run", folder), "another vocabulary")


# --- eval -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("split", ["test", "unseen"])
def test_scores_are_those_of_the_captions_reported(split: str, finished: Path, tmp_path: Path) -> None:
    result = run("eval", "--run", finished, "--split", split, "--json", tmp_path / "scores.json")
    assert result.exit_code == 0, result.output
    report: dict[str, Any] = json.loads((tmp_path / "scores.json").read_text())
    names = emoji.load()[f"{split}_names"]
    assert [entry["truth"] for entry in report["captions"]] == [[name.lower()] for name in names]
    assert list(report["scores"]) == ["LSTM, 8 units", "nearest training picture"]
    for who, scores in report["scores"].items():
        captions = [entry[who] for entry in report["captions"]]
        words, truths = [tokenize(c) for c in captions], [[tokenize(name)] for name in names]
        assert [scores[f"BLEU-{n}"] for n in (1, 2, 3, 4)] == corpus_bleu(words, truths)
        assert scores["exact"] == exact_match(words, truths)
        assert (scores["exact"], scores["right base name"]) == emoji.exact_and_base(captions, names)
        expected = {**coco_scores(words, truths), "CIDEr": cider(words, truths)}
        for name, score in expected.items():
            assert scores[name] == score.corpus
            assert f"{score.corpus:.3f}" in result.stdout
        assert f"{scores['right base name']:.1%}" in result.stdout


def test_the_nearest_neighbour_never_names_a_held_out_variant(finished: Path, tmp_path: Path) -> None:
    run("eval", "--run", finished, "--json", tmp_path / "scores.json")
    scores = json.loads((tmp_path / "scores.json").read_text())["scores"]["nearest training picture"]
    assert scores["exact"] == 0
    assert scores["right base name"] > 0.85


def test_unseen_emoji_come_with_what_cannot_be_known(finished: Path) -> None:
    result = run("eval", "--run", finished, "--split", "unseen")
    assert "can only be guessed" in result.stdout
    assert "can be written with the words that training has seen" in result.stdout


def test_a_contact_sheet_shows_the_pictures(finished: Path, tmp_path: Path) -> None:
    result = run("eval", "--run", finished, "--sheet", tmp_path / "sheet.png", "--sheet-count", "7")
    assert result.exit_code == 0, result.output
    with Image.open(tmp_path / "sheet.png") as sheet:
        drawn = np.asarray(sheet.convert("RGB")).astype(int)
        width = sheet.width
    assert width == 6 * 242 + 10
    thumbnail = emoji.thumbnail("test", spread(187, 7)[0])
    expected = np.asarray(Image.fromarray(thumbnail).resize((112, 112), Image.Resampling.LANCZOS)).astype(int)
    first_picture = drawn[:, 70 : 70 + 112]
    assert any((first_picture[top : top + 112] == expected).all() for top in range(200))


def test_a_ranked_sheet_shows_the_best_first_and_the_worst_last(finished: Path, tmp_path: Path) -> None:
    result = run(
        "eval",
        "--run",
        finished,
        "--json",
        tmp_path / "s.json",
        "--ranked-sheet",
        tmp_path / "s.png",
        "--sheet-count",
        6,
    )
    assert result.exit_code == 0, result.output
    captions = json.loads((tmp_path / "s.json").read_text())["captions"]
    ranks = attainment(
        [tokenize(entry["LSTM, 8 units"]) for entry in captions],
        [[tokenize(truth) for truth in entry["truth"]] for entry in captions],
    )
    with Image.open(tmp_path / "s.png") as sheet:
        drawn = np.asarray(sheet.convert("RGB")).astype(int)

    def top(image: int, column: int) -> int:
        """Find the picture's upper edge in a column of cards."""
        thumbnail = Image.fromarray(emoji.thumbnail("test", image)).resize((112, 112), Image.Resampling.LANCZOS)
        cards = drawn[:, 70 + 242 * column :][:, :112]
        tops = [y for y in range(len(cards) - 112) if (cards[y : y + 112] == np.asarray(thumbnail)).all()]
        assert len(tops) == 1
        return tops[0]

    # two pictures a part: the best of all stands first, the worst second
    order = np.argsort(-ranks, kind="stable").tolist()
    places = [top(order[0], 0), top(order[1], 1), top(order[-2], 0), top(order[-1], 1)]
    assert places[0] == places[1] < 200
    assert places[2] == places[3] > len(drawn) // 2


def test_captions_are_written_in_cocos_format(finished: Path, tmp_path: Path) -> None:
    result = run("eval", "--run", finished, "--json", tmp_path / "s.json", "--results", tmp_path / "r.json")
    assert result.exit_code == 0, result.output
    captions = json.loads((tmp_path / "s.json").read_text())["captions"]
    read = read_coco_results(tmp_path / "r.json", allow_empty=True)
    assert list(read.items()) == [(i, entry["LSTM, 8 units"]) for i, entry in enumerate(captions)]


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["--split", "train", "--sheet", "sheet.png"], "have pictures to show"),
        (["--split", "train", "--ranked-sheet", "sheet.png"], "have pictures to show"),
        (["--results", "nowhere/results.json"], "make it first"),
        (["--split", "nothing"], "'nothing'"),
        (["--json", "nowhere/scores.json"], "make it first"),
        (["--sheet", "nowhere/sheet.png"], "make it first"),
    ],
)
def test_bad_evaluations_are_refused_and_write_nothing(
    args: list[str], says: str, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    refused(run("eval", "--run", finished, *args), says)
    assert list(tmp_path.iterdir()) == []


def test_a_caption_is_judged_by_its_words_and_its_base_name() -> None:
    truths = ["kiss: woman, man"]
    assert verdict("Kiss: woman, man", truths, emoji.base_name) == "right"
    assert verdict("kiss: man, man", truths, emoji.base_name) == "near"
    assert verdict("kiss: man, man", truths) == "wrong"
    assert verdict("kissing cat", truths, emoji.base_name) == "wrong"


@pytest.mark.parametrize(("total", "count"), [(1, 1), (10, 3), (10, 10), (10, 50), (187, 48)])
def test_spread_chooses_distinct_indices_from_end_to_end(total: int, count: int) -> None:
    chosen = spread(total, count)
    assert len(set(chosen)) == len(chosen) == min(count, total)
    assert chosen == sorted(chosen)
    assert chosen[0] <= total // len(chosen)
    assert total - 1 - chosen[-1] <= total // len(chosen)
    assert all(0 <= index < total for index in chosen)


# --- info, errors, start-up ---------------------------------------------------------------------------------


def test_info_tells_what_was_chosen() -> None:
    result = run("info")
    assert result.exit_code == 0, result.output
    lines = [line.split() for line in result.stdout.splitlines()]
    assert lines[0] == ["backend", "numpy"]
    assert ["kernels", "reference"] in lines
    assert ["numpy", np.__version__] in lines


@pytest.mark.parametrize("setting", ["cuda", "nonsense"])
def test_info_tells_why_nothing_can_be_chosen(setting: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_device() -> None:
        raise capgpu.backend.BackendUnavailableError("backend 'cuda': no CUDA device found. Check nvidia-smi.")

    monkeypatch.setitem(capgpu.backend._OPENERS, "cuda", no_device)
    monkeypatch.setattr(capgpu.backend, "_current", None)
    monkeypatch.setenv("CAPGPU_BACKEND", setting)
    result = run("info")
    assert result.exit_code == 1
    assert "no CUDA device found. Check nvidia-smi." in result.stdout
    assert ("unknown backend 'nonsense'" in result.stdout) == (setting == "nonsense")
    refused(run("train", "--out", "never"), "no CUDA device" if setting == "cuda" else "unknown backend")


def test_info_tells_of_the_device_its_kernels_and_their_folders(
    standin: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from capgpu.kernels.cuda import choices

    monkeypatch.setenv("CAPGPU_BACKEND", "cuda")
    monkeypatch.setenv("CUPY_CACHE_DIR", str(tmp_path / "kernels"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("COLUMNS", "400")
    monkeypatch.setattr(capgpu.backend, "_current", None)
    for setting in ("CAPGPU_TENSOR_CORES", "CUPY_TF32"):
        monkeypatch.delenv(setting, raising=False)
    choices.forget()
    lines = [re.split(r"  +", line, maxsplit=1) for line in run("info").stdout.splitlines() if "  " in line]
    told = {name: words.strip() for name, words in lines}
    assert told["kernels"] == "cuda"
    assert told["driver"].startswith("serves CUDA 13")
    assert told["multiprocessors"].startswith("108,")
    assert re.fullmatch(r"\d+, in \d+ variants", told["cuda kernels"])
    assert told["kernel cache"] == str(tmp_path / "kernels")
    assert told["tensor cores"] == "recurrences: off, products of float32: off"
    assert told["tiers"] == "by the rule (capgpu tune measures them)"
    assert told["tuning file"] == str(tmp_path / "capgpu" / "tuning.json")
    device = told["device"].split(", compute")[0]
    choices.store(device, {"lstm_forward float32 H=512 N=64": ("persistent", 8)})
    measured = "measured for lstm_forward float32 H=512 N=64: persistent of 8 units; others by the rule"
    assert measured in run("info").stdout
    choices.forget()


# --- tune ---------------------------------------------------------------------------------------------------


def test_tune_shows_every_tier_and_keeps_the_fastest(
    standin: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    result = run("tune", "--cell", "rnn", "--hidden", 6, "--batch", 3, "--steps", 2, "--repeats", 1)
    assert result.exit_code == 0, result.output
    shown = {tuple(line.split()[:2]) for line in result.stdout.splitlines()[1:] if line.startswith("rnn")}
    tiers = ("persistent", "step", "matmul")
    assert shown == {(f"rnn_{way}", tier) for way in ("forward", "backward") for tier in tiers}
    (shapes,) = json.loads((tmp_path / "capgpu" / "tuning.json").read_text())["devices"].values()
    assert set(shapes) == {"rnn_forward float32 H=6 N=3", "rnn_backward float32 H=6 N=3"}


def test_tune_needs_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_device() -> None:
        raise capgpu.backend.BackendUnavailableError("backend 'cuda': no CUDA device found. Check nvidia-smi.")

    monkeypatch.setitem(capgpu.backend._OPENERS, "cuda", no_device)
    refused(run("tune"), "no CUDA device found")


def test_debug_shows_where_an_error_came_from(tmp_path: Path) -> None:
    result = run("--debug", "caption", "--run", tmp_path)
    assert result.exception is not None
    assert "no run folder" in str(result.exception)
    assert not isinstance(result.exception, SystemExit)


def test_a_defect_is_not_passed_off_as_a_user_error(finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*args: object, **kwargs: object) -> None:
        raise ZeroDivisionError("a defect")

    monkeypatch.setattr(CaptioningRNN, "step", broken)
    assert isinstance(run("caption", "--run", finished).exception, ZeroDivisionError)


def test_no_command_shows_the_help() -> None:
    result = run()
    assert result.exit_code == 0
    for command in ("train", "caption", "eval", "score", "info", "tune"):
        assert f"\n  {command} " in result.stdout


def test_help_loads_nothing_heavy() -> None:
    code = (
        "import sys\n"
        "from capgpu.cli import main\n"
        "try:\n    main(['--help'])\n"
        "except SystemExit:\n    pass\n"
        "heavy = {'numba', 'cupy', 'matplotlib', 'PIL', 'rich', 'safetensors', 'torch'}\n"
        "print('heavy:', sorted(heavy & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "heavy: []"


def test_weights_can_be_read_without_the_library(finished: Path) -> None:
    weights, _ = load_weights(finished / "model.safetensors")
    assert sorted(weights) == ["W_embed", "W_proj", "W_vocab", "Wh", "Wx", "b", "b_proj", "b_vocab"]
