"""State dictionaries: the same computation in PyTorch, there and back, and what is refused."""

from __future__ import annotations

import inspect
import textwrap

import numpy as np
import pytest

import capgpu
from capgpu import CaptioningRNN
from capgpu.checkpoint import CheckpointError, save_model
from capgpu.interchange import (
    from_torch,
    load_torch_safetensors,
    save_torch_safetensors,
    to_torch,
    torch_arrays,
    torch_state,
)
from oracles.scenes import CAPTIONS, CELLS, SIZES, WORDS, features_for, parameters
from oracles.snapshots import frozen


def model_of(backend, cell, dtype="float64", **settings):
    return backend.model(WORDS, **SIZES, cell_type=cell, dtype=dtype, params=parameters(cell, dtype=dtype), **settings)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("cell", CELLS)
def test_there_and_back_are_the_same_bits(backend, cell, dtype):
    model = model_of(backend, cell, dtype)
    arrays = torch_arrays(model)
    assert all(array.dtype == dtype and array.flags.c_contiguous for array in arrays.values())
    back = from_torch(arrays, WORDS)
    assert back.config == {**model.config}
    assert frozen(back.params) == frozen(model.params)


@pytest.mark.parametrize("cell", CELLS)
def test_gates_have_pytorchs_order(cell):
    capgpu.set_backend("numpy")
    H = SIZES["hidden_dim"]
    model = CaptioningRNN(WORDS, **SIZES, cell_type=cell, seed=0)
    for k, array in enumerate(np.split(model.params["b"], model.cell.shape.n_biases)):
        array[:] = k  # i 0, f 1, o 2, g 3; r 0, z 1, n 2 and 3
    arrays = torch_arrays(model)
    blocks = arrays["rnn.bias_ih_l0"].reshape(-1, H)[:, 0].tolist()
    assert blocks == {"lstm": [0, 1, 3, 2], "rnn": [0], "gru": [0, 1, 2]}[cell]
    recurrent = arrays["rnn.bias_hh_l0"].reshape(-1, H)[:, 0].tolist()
    assert recurrent == ([0, 0, 3] if cell == "gru" else [0] * len(blocks))
    assert arrays["rnn.weight_ih_l0"].shape == model.params["Wx"].T.shape


@pytest.mark.parametrize("layers", [1, 3])
@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("cell", CELLS)
def test_the_module_computes_the_same(cell, tied, layers):
    torch = pytest.importorskip("torch")
    capgpu.set_backend("numpy")
    sizes = {**SIZES, "wordvec_dim": SIZES["hidden_dim"]} if tied else SIZES
    model = CaptioningRNN(WORDS, **sizes, cell_type=cell, dtype="float64", seed=0, tie_weights=tied, n_layers=layers)
    for name, value in parameters(cell, layers=layers, **sizes).items():
        if name in model.params:
            model.params[name] = value

    class Captioner(torch.nn.Module):
        def __init__(self, D, W, H, V):
            super().__init__()
            self.project, self.embed = torch.nn.Linear(D, H), torch.nn.Embedding(V, W)
            self.rnn = {"lstm": torch.nn.LSTM, "rnn": torch.nn.RNN, "gru": torch.nn.GRU}[cell](
                W, H, layers, batch_first=True
            )
            self.vocab = torch.nn.Linear(H, V)

        def forward(self, features, words):
            h0 = self.project(features).repeat(layers, 1, 1)
            state = (h0, torch.zeros_like(h0)) if cell == "lstm" else h0
            return self.vocab(self.rnn(self.embed(words), state)[0])

    module = Captioner(*sizes.values(), len(WORDS)).double()
    module.load_state_dict(to_torch(model))
    captions = CAPTIONS["padded"]
    features = features_for(captions)
    targets = torch.from_numpy(captions[:, 1:]).reshape(-1)

    def torch_nll():
        with torch.no_grad():
            scores = module(torch.from_numpy(features), torch.from_numpy(captions[:, :-1])).reshape(len(targets), -1)
            return torch.nn.functional.cross_entropy(scores, targets, ignore_index=0, reduction="sum").item()

    assert float(model.nll(features, captions)[0]) == pytest.approx(torch_nll(), rel=1e-10)
    # and from a module with two biases
    with torch.no_grad():
        for bias in (getattr(module.rnn, f"bias_hh_l{layer}") for layer in range(layers)):
            bias.normal_()
    again = from_torch(module.state_dict(), WORDS, tie_weights=tied)
    assert again.config == model.config
    assert float(again.nll(features, captions)[0]) == pytest.approx(torch_nll(), rel=1e-10)


@pytest.mark.parametrize("cell", CELLS)
def test_the_module_of_the_documentation_can_be_copied_and_run(cell):
    torch = pytest.importorskip("torch")
    capgpu.set_backend("numpy")
    text = inspect.cleandoc(torch_state.__doc__).split("::\n\n")[1].split("\n\nand for a model")[0]
    if cell != "lstm":
        text = text.replace("torch.nn.LSTM(", f"torch.nn.{cell.upper()}(").replace("(h0, torch.zeros_like(h0))", "h0")
    scope = {"torch": torch}
    exec(textwrap.dedent(text), scope)
    model = CaptioningRNN(WORDS, **SIZES, cell_type=cell, dtype="float64", seed=0)
    module = scope["Captioner"](*SIZES.values(), len(WORDS)).double()
    module.load_state_dict(to_torch(model))
    captions = CAPTIONS["unpadded"]
    features = features_for(captions)
    with torch.no_grad():
        scores = module(torch.from_numpy(features), torch.from_numpy(captions[:, :-1]))
        want = torch.nn.functional.cross_entropy(scores.mT, torch.from_numpy(captions[:, 1:]), reduction="sum")
    assert float(model.nll(features, captions)[0]) == pytest.approx(want.item(), rel=1e-10)


def test_the_attention_module_of_the_documentation_computes_the_same(backend):
    torch = pytest.importorskip("torch")
    text = inspect.cleandoc(torch_state.__doc__).split("LSTMCell``::\n\n")[1].split("\n\nPyTorch stores")[0]
    scope = {"torch": torch}
    exec(textwrap.dedent(text), scope)
    model = backend.model(WORDS, **SIZES, cell_type="attention", dtype="float64", seed=0)
    module = scope["AttentionCaptioner"](*SIZES.values(), len(WORDS)).double()
    module.load_state_dict(to_torch(model))
    captions = CAPTIONS["unpadded"]
    features = np.random.default_rng(3).uniform(-1, 1, (len(captions), 6, SIZES["input_dim"]))
    with torch.no_grad():
        scores = module(torch.from_numpy(features), torch.from_numpy(captions[:, :-1]))
        want = torch.nn.functional.cross_entropy(scores.mT, torch.from_numpy(captions[:, 1:]), reduction="sum")
    assert float(model.nll(backend.asarray(features), captions)[0]) == pytest.approx(want.item(), rel=1e-10)
    back = from_torch(module.state_dict(), WORDS)
    assert back.config == model.config
    assert frozen(back.params) == frozen(model.params)


def lstm_arrays():
    capgpu.set_backend("numpy")
    return torch_arrays(CaptioningRNN(WORDS, **SIZES, cell_type="lstm", seed=0))


def renamed(state, old, new):
    return {new + key.removeprefix(old) if key.startswith(old) else key: value for key, value in state.items()}


def test_modules_may_have_other_names():
    arrays = lstm_arrays()
    state = renamed(renamed(arrays, "project", "encoder.fc"), "rnn", "decoder")
    model = from_torch(state, WORDS, names={"project": "encoder.fc", "rnn": "decoder"})
    assert frozen(torch_arrays(model)) == frozen(arrays)


def without(key):
    return lambda state: {k: v for k, v in state.items() if k != key}


def with_entry(key, value):
    return lambda state: {**state, key: value}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without("vocab.bias"), "expected the entries vocab.bias"),
        (with_entry("attention.weight", np.zeros((2, 2))), "expected no other entries .* got attention.weight"),
        (with_entry("rnn.weight_ih_l1", np.zeros((2, 2))), "expected no other entries .* got rnn.weight_ih_l1"),
        (with_entry("rnn.weight_hh_l1", np.zeros((2, 2))), "expected the entries rnn.weight_ih_l1, rnn.bias_ih_l1"),
        (with_entry("rnn.weight_ih_l0_reverse", np.zeros((2, 2))), "both directions"),
        (with_entry("rnn.weight_hr_l0", np.zeros((2, 2))), "projects its hidden state"),
        (with_entry("rnn.weight_hh_l0", np.zeros((10, 5), np.float32)), r"expected shape \(4 H, H\) .* got \(10, 5\)"),
        (
            with_entry("vocab.weight", np.zeros((3, 5), np.float32)),
            r"vocab.weight: expected shape \(7, 5\) .* got \(3, 5\)",
        ),
        (with_entry("embed.weight", np.zeros(7, np.float32)), "embed.weight: expected a matrix"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_states_of_other_modules_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        from_torch(change(lstm_arrays()), WORDS)


def test_entries_of_other_dtypes_are_refused():
    with pytest.raises(TypeError, match="state: expected one dtype"):
        from_torch(with_entry("vocab.bias", np.zeros(len(WORDS)))(lstm_arrays()), WORDS)
    with pytest.raises(TypeError, match=r"vocab\.bias: expected floating numbers, got dtype int64"):
        from_torch(with_entry("vocab.bias", np.zeros(len(WORDS), np.int64))(lstm_arrays()), WORDS)


def test_what_is_no_state_or_no_vocabulary_is_refused():
    with pytest.raises(TypeError, match=r"state: expected a state dictionary, as module\.state_dict\(\).*got .*object"):
        from_torch(object(), WORDS)
    with pytest.raises(TypeError, match="word_to_idx: expected a mapping of words to ids, got list"):
        from_torch(lstm_arrays(), list(WORDS))
    for ids in (range(1, len(WORDS) + 1), [0] * len(WORDS)):
        with pytest.raises(ValueError, match="the ids 0 to 6, each once"):
            from_torch(lstm_arrays(), dict(zip(WORDS, ids, strict=True)))


def test_special_words_may_have_any_ids(tmp_path):
    capgpu.set_backend("numpy")
    words = {"<END>": 0, "cat": 1, "<START>": 2, "<NULL>": 3}
    model = CaptioningRNN(words, **SIZES, seed=0)
    save_torch_safetensors(tmp_path / "odd.safetensors", model)
    again = load_torch_safetensors(tmp_path / "odd.safetensors")
    assert again.word_to_idx == words
    assert frozen(again.params) == frozen(model.params)


def test_files_with_other_contents_are_refused_with_a_remedy(tmp_path):
    torch, file = pytest.importorskip("torch"), tmp_path / "file.safetensors"
    safetensors = pytest.importorskip("safetensors.torch")
    state = {name: torch.from_numpy(array) for name, array in lstm_arrays().items()}
    safetensors.save_file({name: array.to(torch.float8_e4m3fn) for name, array in state.items()}, file)
    with pytest.raises(CheckpointError, match="Store them as float32"):
        load_torch_safetensors(file, WORDS)
    save_model(file, CaptioningRNN(WORDS, **SIZES, seed=0))
    with pytest.raises(ValueError, match="load_model"):
        load_torch_safetensors(file)


def test_bfloat16_files_of_pytorch_give_a_bfloat16_model(tmp_path):
    torch, file = pytest.importorskip("torch"), tmp_path / "file.safetensors"
    safetensors = pytest.importorskip("safetensors.torch")
    capgpu.set_backend("numpy")
    state = {name: torch.from_numpy(array).to(torch.bfloat16) for name, array in lstm_arrays().items()}
    safetensors.save_file(state, file)
    model = load_torch_safetensors(file, WORDS)
    assert model.dtype.name == "bfloat16"
    wanted = from_torch({name: array.float().numpy() for name, array in state.items()}, WORDS)
    for name, value in wanted.params.items():
        np.testing.assert_array_equal(model.params[name].astype(np.float32), value)


def test_untied_modules_declared_as_tied_and_unknown_names_are_refused():
    sizes = {**SIZES, "wordvec_dim": SIZES["hidden_dim"]}
    capgpu.set_backend("numpy")
    arrays = torch_arrays(CaptioningRNN(WORDS, **sizes, seed=0))
    with pytest.raises(ValueError, match="differ"):
        from_torch(arrays, WORDS, tie_weights=True)
    with pytest.raises(ValueError, match=r"names: expected keys among .* got decoder"):
        from_torch(arrays, WORDS, names={"decoder": "rnn"})


@pytest.mark.parametrize("tied", [False, True])
def test_files_with_pytorchs_names(tmp_path, tied):
    sizes = {**SIZES, "wordvec_dim": SIZES["hidden_dim"]}
    capgpu.set_backend("numpy")
    model = CaptioningRNN(WORDS, **sizes, cell_type="lstm", seed=0, tie_weights=tied)
    file = tmp_path / "captioner.safetensors"
    save_torch_safetensors(file, model)
    again = load_torch_safetensors(file)
    assert again.word_to_idx == WORDS
    assert again.tie_weights is tied
    assert frozen(again.params) == frozen(model.params)
    with pytest.raises(ValueError, match=r"expected shape \(2, 5\) for 2 words"):
        load_torch_safetensors(file, {"<NULL>": 0, "cat": 1})
    file.write_bytes(file.read_bytes()[:-9])
    with pytest.raises(CheckpointError, match="cut short"):
        load_torch_safetensors(file)
