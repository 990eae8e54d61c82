"""Exported networks, run by onnxruntime: the same captions."""

from __future__ import annotations

import json

import numpy as np
import pytest
from click.testing import CliRunner

import capgpu
from capgpu import CaptioningRNN
from capgpu.cli import main
from capgpu.decode import greedy
from capgpu.interchange import export_onnx
from oracles.scenes import CELLS, SIZES, WORDS, parameters

onnx = pytest.importorskip("onnx", reason="onnx is not installed")
onnxruntime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")


def model_of(cell, dtype="float64", tied=False, layers=1):
    capgpu.set_backend("numpy")
    sizes = {**SIZES, "wordvec_dim": SIZES["hidden_dim"]} if tied else SIZES
    model = CaptioningRNN(WORDS, **sizes, cell_type=cell, dtype=dtype, seed=0, tie_weights=tied, n_layers=layers)
    values = parameters(cell, dtype=dtype, layers=layers, **sizes)
    model.params.update({name: 2 * values[name] for name in model.params})
    model.params["b_vocab"][[WORDS["<NULL>"], WORDS["<START>"]]] -= 20
    return model


def write_greedily(begin, step, features, length):
    """Do what a program without capgpu would do."""
    state = begin.run(None, {"features": features})
    names = [value.name for value in begin.get_outputs()]
    words, ended = np.ones(len(features), np.int64), np.zeros(len(features), bool)
    ids, chances = [], []
    for _ in range(length):
        log_probs, *state = step.run(None, {"words": words, **dict(zip(names, state, strict=True))})
        words = log_probs.argmax(axis=1)
        ids.append(np.where(ended, 0, words))
        chances.append(np.where(ended, 0, log_probs.max(axis=1)))
        ended |= words == 2
    return np.stack(ids, axis=1), np.stack(chances, axis=1)


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("cell", CELLS)
def test_onnxruntime_writes_the_same_captions(tmp_path, cell, dtype, tied):
    # tied weights and several layers together, to test both in fewer runs
    model = model_of(cell, dtype, tied, layers=3 if tied else 1)
    files = export_onnx(model, tmp_path / "onnx")
    begin, step = (onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"]) for file in files)
    for count in (1, 7):
        features = np.random.default_rng(count).uniform(-2, 2, (count, SIZES["input_dim"])).astype(dtype)
        ids, chances = write_greedily(begin, step, features, 9)
        expected = greedy(model, features, max_length=9, suppress_unk=False)
        assert ids.tolist() == expected.ids[:, 0].tolist()
        assert np.allclose(chances, expected.log_probs[:, 0], atol=1e-10 if dtype == "float64" else 1e-4)
    metadata = step.get_modelmeta().custom_metadata_map
    assert json.loads(metadata["idx_to_word"]) == list(WORDS)
    assert metadata["cell_type"] == cell
    assert metadata["weights"] == begin.get_modelmeta().custom_metadata_map["weights"]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_onnxruntime_attends_to_the_same_cells(tmp_path, dtype):
    capgpu.set_backend("numpy")
    model = CaptioningRNN(WORDS, **SIZES, cell_type="attention", dtype=dtype, seed=0)
    random = np.random.default_rng(1)
    for name, value in model.params.items():
        model.params[name] = random.uniform(-2, 2, value.shape).astype(dtype)
    files = export_onnx(model, tmp_path)
    begin, step = (onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"]) for file in files)
    tolerance = 1e-10 if dtype == "float64" else 1e-4
    for count, cells in ((1, 4), (3, 9)):
        features = random.uniform(-1, 1, (count, cells, SIZES["input_dim"])).astype(dtype)
        h, c, A = begin.run(None, {"features": features})
        state = model.begin(features)
        for words in ([1] * count, [4] * count, [5] * count):
            ids = np.array(words)
            log_probs, h, c, A, attention = step.run(None, {"words": ids, "h": h, "c": c, "A": A})
            logits, state = model.step(state, ids)
            expected = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
            assert np.allclose(log_probs, expected, atol=tolerance)
            assert np.allclose(attention, state.attention, atol=tolerance)


def test_files_of_different_models_can_be_distinguished(tmp_path):
    def weights_of(file):
        session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
        return session.get_modelmeta().custom_metadata_map["weights"]

    model = model_of("lstm")
    old, _ = export_onnx(model, tmp_path / "old")
    model.params["b_vocab"][4] += 1
    _, new = export_onnx(model, tmp_path / "new")
    assert weights_of(old) != weights_of(new)


def test_a_failed_export_keeps_the_existing_files(tmp_path, monkeypatch):
    model = model_of("lstm")
    files = export_onnx(model, tmp_path)
    contents = [file.read_bytes() for file in files]
    model.params["b_vocab"][4] += 1
    check_outcomes = iter([None, RuntimeError("the second network is none")])

    def check(network, full_check):
        outcome = next(check_outcomes)
        if outcome is not None:
            raise outcome

    monkeypatch.setattr(onnx.checker, "check_model", check)
    with pytest.raises(RuntimeError, match="second"):
        export_onnx(model, tmp_path)
    assert [file.read_bytes() for file in files] == contents


def test_special_words_may_have_any_ids(tmp_path):
    capgpu.set_backend("numpy")
    words = {"<END>": 0, "cat": 1, "<START>": 2, "dog": 3, "<NULL>": 4}
    model = CaptioningRNN(words, **SIZES, cell_type="lstm", seed=0)
    _, step = export_onnx(model, tmp_path)
    model_meta = onnxruntime.InferenceSession(str(step), providers=["CPUExecutionProvider"]).get_modelmeta()
    assert json.loads(model_meta.custom_metadata_map["idx_to_word"]) == list(words)


def test_half_precision_is_refused(tmp_path):
    model = CaptioningRNN(WORDS, **SIZES, dtype="float16")
    with pytest.raises(ValueError, match="float16"):
        export_onnx(model, tmp_path / "onnx")
    assert not (tmp_path / "onnx").exists()


def test_the_command_writes_both_forms(tmp_path, monkeypatch):
    model = model_of("lstm", "float32")
    monkeypatch.setattr("capgpu.training.run_folder.RunFolder.load_model", lambda self: model)
    run = CliRunner()
    for form, out in (("onnx", tmp_path / "networks"), ("torch", tmp_path / "captioner.safetensors")):
        result = run.invoke(main, ["export", "--run", str(tmp_path), "--to", form, "-o", str(out)])
        assert result.exit_code == 0, result.output
        assert "MiB" in result.output
    assert {file.name for file in (tmp_path / "networks").iterdir()} == {"begin.onnx", "step.onnx"}
    assert (tmp_path / "captioner.safetensors").stat().st_size > 0
    for form, out in (("onnx", tmp_path / "networks"), ("torch", tmp_path / "captioner.safetensors")):
        arguments = ["export", "--run", str(tmp_path), "--to", form, "-o", str(out)]
        assert "overwrite it with --force" in run.invoke(main, arguments).output
        assert run.invoke(main, [*arguments, "--force"]).exit_code == 0
    (tmp_path / "file").write_text("mine")
    for form, out, says in (
        ("torch", tmp_path / "no" / "file", "expected a file in an existing folder"),
        ("torch", tmp_path / "networks", "got a folder"),
        ("onnx", tmp_path / "file", "expected a folder for two networks, got a file"),
    ):
        result = run.invoke(main, ["export", "--run", str(tmp_path), "--to", form, "-o", str(out)])
        assert result.exit_code == 2
        assert says in result.output
    assert (tmp_path / "file").read_text() == "mine"
