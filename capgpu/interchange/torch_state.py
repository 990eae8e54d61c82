"""Parameters with the names and the layout of an equivalent PyTorch module.

The module is::

    class Captioner(torch.nn.Module):
        def __init__(self, D, W, H, V, layers=1):
            super().__init__()
            self.project = torch.nn.Linear(D, H)
            self.embed = torch.nn.Embedding(V, W)
            self.rnn = torch.nn.LSTM(W, H, layers, batch_first=True)  # or torch.nn.RNN, torch.nn.GRU
            self.vocab = torch.nn.Linear(H, V)

        def forward(self, features, words):  # (N, D), (N, T) -> scores of the next words (N, T, V)
            h0 = self.project(features).repeat(self.rnn.num_layers, 1, 1)
            state = (h0, torch.zeros_like(h0))  # h0 alone for torch.nn.RNN and torch.nn.GRU
            return self.vocab(self.rnn(self.embed(words), state)[0])

and for a model with attention, whose features are grids (N, L, D), with ``torch.nn.LSTMCell``::

    class AttentionCaptioner(torch.nn.Module):
        def __init__(self, D, W, H, V):
            super().__init__()
            self.project = torch.nn.Linear(D, H)
            self.embed = torch.nn.Embedding(V, W)
            self.rnn = torch.nn.LSTMCell(W + H, H)
            self.vocab = torch.nn.Linear(H, V)

        def forward(self, features, words):  # (N, L, D), (N, T) -> (N, T, V)
            cells = self.project(features)
            h = c = cells.mean(1)
            states = []
            for vectors in self.embed(words).unbind(1):
                weights = torch.softmax(cells @ h[:, :, None] / h.shape[1] ** 0.5, dim=1)
                h, c = self.rnn(torch.cat([vectors, (weights * cells).sum(1)], 1), (h, c))
                states.append(h)
            return self.vocab(torch.stack(states, 1))

PyTorch stores transposed matrices, has the LSTM's gate order i, f, g, o (here: i, f, o, g), and two biases that are
added: on export the second one is zero, on import they are summed. The two biases of a GRU's candidate are not added,
and both are kept.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from capgpu.backend import asarray, to_numpy
from capgpu.checkpoint import CheckpointError, check_single_model, load_weights, save_weights
from capgpu.dtypes import is_bfloat16
from capgpu.errors import InvalidTypeError, InvalidValueError
from capgpu.file_formats.json_text import JsonObject
from capgpu.layers.cells import CELLS
from capgpu.optional_deps import MissingPackageError
from capgpu.parameters import MAX_LAYERS, layer_names
from capgpu.vocabulary import words_in_order

if TYPE_CHECKING:
    from capgpu.model import CaptioningRNN

__all__ = ["from_torch", "load_torch_safetensors", "save_torch_safetensors", "to_torch", "torch_arrays"]

Arrays = dict[str, npt.NDArray[Any]]

#: Position of PyTorch's gate block k in this library; the permutation is its own inverse.
_GATE_ORDER = {"lstm": (0, 1, 3, 2), "rnn": (0,), "gru": (0, 1, 2), "attention": (0, 1, 3, 2)}
_MODULES = ("project", "embed", "rnn", "vocab")
#: Entries of each layer of ``rnn``, which its number follows.
_OF_A_LAYER = ("rnn.weight_ih_l", "rnn.weight_hh_l", "rnn.bias_ih_l", "rnn.bias_hh_l")
_WORDS = "capgpu.idx_to_word"
#: What the names of a layer's weights have and those of a cell have not, which an attention model uses.
_LAYER = "_l0"


def torch_arrays(model: CaptioningRNN) -> Arrays:
    """Return a model's parameters as the state of the PyTorch module, in NumPy arrays; does not need PyTorch.

    Parameters
    ----------
    model : CaptioningRNN
        On any backend.

    Returns
    -------
    dict of str to numpy.ndarray
        The state dictionary of the module above, in its order; new arrays of the model's dtype.

    Raises
    ------
    TypeError
        For anything but one model, such as an ensemble.
    """
    check_single_model(model)
    p = {name: to_numpy(value) for name, value in model.params.items()}
    order = _GATE_ORDER[model.cell_type]
    arrays = {"project.weight": p["W_proj"].T, "project.bias": p["b_proj"], "embed.weight": p["W_embed"]}
    for layer in range(model.n_layers):
        Wx, Wh, b = (p[name] for name in layer_names(layer))
        if model.cell.attends:
            Wx = np.concatenate([Wx, p["Wattn"]])
        gates = Wh.shape[1]
        bias = _reordered(b[:gates], order)
        recurrent_bias = np.zeros_like(bias)
        recurrent_bias[2 * gates - b.size :] = b[gates:]
        values = _reordered(Wx, order).T, _reordered(Wh, order).T, bias, recurrent_bias
        arrays |= {f"{entry}{layer}": value for entry, value in zip(_OF_A_LAYER, values, strict=True)}
    arrays["vocab.weight"] = p["W_embed"] if model.tie_weights else p["W_vocab"].T
    arrays["vocab.bias"] = p["b_vocab"]
    return {_entry(name, model.cell.attends): np.array(array, order="C") for name, array in arrays.items()}


def _entry(name: str, attends: bool) -> str:
    """Return the name of an entry in the state of the module of a model."""
    return name.removesuffix(_LAYER) if attends else name


def to_torch(model: CaptioningRNN) -> dict[str, Any]:
    """Return a model's parameters as the state dictionary of the PyTorch module above.

    Parameters
    ----------
    model : CaptioningRNN
        On any backend.

    Returns
    -------
    dict of str to torch.Tensor
        For ``module.load_state_dict(...)``; on the CPU, in the model's dtype.

    Raises
    ------
    MissingPackageError
        If PyTorch is not installed; `torch_arrays` does not need it.
    TypeError
        For a model in bfloat16, which PyTorch does not convert from NumPy arrays, and for anything but one model.
    """
    if is_bfloat16(model.dtype):
        raise InvalidTypeError(
            "to_torch: expected a model in float16, float32 or float64, got bfloat16. Write a file with "
            "save_torch_safetensors and load it with safetensors.torch.load_file."
        )
    try:
        import torch
    except ImportError as error:
        raise MissingPackageError(
            f"to_torch needs the package torch, which cannot be imported ({error}). Install it, or use the NumPy "
            "arrays of torch_arrays."
        ) from error
    return {name: torch.from_numpy(array) for name, array in torch_arrays(model).items()}


def from_torch(
    state: Mapping[str, Any],
    word_to_idx: Mapping[str, int],
    *,
    names: Mapping[str, str] | None = None,
    tie_weights: bool = False,
) -> CaptioningRNN:
    """Create a model from the state dictionary of a PyTorch module as above.

    Parameters
    ----------
    state : mapping of str to torch.Tensor or array
        The state dictionary.
    word_to_idx : mapping of str to int
        The vocabulary of the embedding's rows: ids from 0, each once.
    names : mapping of str to str, optional
        Other names of the modules ``project``, ``embed``, ``rnn`` and ``vocab``.
    tie_weights : bool
        Whether ``embed.weight`` and ``vocab.weight`` are one matrix.

    Returns
    -------
    CaptioningRNN
        On the current backend, in the dtype of the embedding; the cell follows from the shapes. (A ``torch.nn.RNN``
        has to have the nonlinearity tanh, which its state does not tell.)

    Raises
    ------
    ValueError
        For entries that are missing, too many, or of shapes that do not fit each other or the vocabulary; for
        recurrences of both directions, or with projections: there is no such model here.
        For a vocabulary whose ids leave gaps or repeat.
    TypeError
        For entries that are not floating, or of different dtypes; for a module in the place of its state.
    """
    from capgpu.model import CaptioningRNN

    if not isinstance(state, Mapping):
        raise InvalidTypeError(
            f"state: expected a state dictionary, as module.state_dict() gives, got {type(state).__name__}."
        )
    words_in_order(word_to_idx)
    called = {module: (names or {}).get(module, module) for module in _MODULES}
    unknown = sorted(set(names or {}) - set(_MODULES))
    if unknown:
        raise InvalidValueError(f"names: expected keys among {', '.join(_MODULES)}, got {', '.join(unknown)}.")
    n_layers, attends = _count_layers(state, called["rnn"]), f"{called['rnn']}.weight_ih" in state
    keys, arrays = _entries(state, called, n_layers, attends)
    cell_type, inputs, vectors, hidden = _checked_sizes(keys, arrays, len(word_to_idx), n_layers, attends)
    if tie_weights and not np.array_equal(arrays["embed.weight"], arrays["vocab.weight"]):
        raise InvalidValueError(f"tie_weights=True, but {keys['embed.weight']} and {keys['vocab.weight']} differ.")
    model = CaptioningRNN(
        word_to_idx,
        inputs,
        vectors,
        hidden,
        cell_type,  # type: ignore[arg-type]  # a key of CELLS
        arrays["embed.weight"].dtype,
        tie_weights=tie_weights,
        n_layers=n_layers,
    )
    params = _parameters(arrays, cell_type, n_layers)
    for name in model.params:
        model.params[name] = asarray(np.array(params[name], order="C"))
    return model


def _entries(
    state: Mapping[str, Any], called: Mapping[str, str], n_layers: int, attends: bool
) -> tuple[dict[str, str], Arrays]:
    """Return the key in a state of each entry of a captioner, and its array; check that these are all, of one dtype."""
    of_layers = [f"{entry}{layer}" for layer in range(n_layers) for entry in _OF_A_LAYER]
    entries = ["project.weight", "project.bias", "embed.weight", *of_layers, "vocab.weight", "vocab.bias"]
    keys = {entry: _entry(f"{called[entry.split('.')[0]]}.{entry.split('.')[1]}", attends) for entry in entries}
    _refuse_other_recurrences(state, called["rnn"])
    missing = [key for key in keys.values() if key not in state]
    if missing:
        raise InvalidValueError(
            f"state: expected the entries {', '.join(missing)}, got {', '.join(list(state)[:12])[:300]}. Give other "
            "names of the modules as names."
        )
    extra = sorted(set(state) - set(keys.values()))
    if extra:
        raise InvalidValueError(
            f"state: expected no other entries than those of a captioner, got {', '.join(extra[:8])[:300]}."
        )
    arrays = {entry: _array(keys[entry], state[key]) for entry, key in keys.items()}
    dtypes = {array.dtype for array in arrays.values()}
    if len(dtypes) > 1:
        raise InvalidTypeError(f"state: expected one dtype, got {', '.join(sorted(map(str, dtypes)))}.")
    return keys, arrays


def _checked_sizes(
    keys: Mapping[str, str], arrays: Arrays, words: int, n_layers: int, attends: bool
) -> tuple[str, int, int, int]:
    """Return cell type, D, W and H, which follow from the shapes of the arrays; check that all shapes agree."""
    hidden, gates = _matrix(keys, arrays, "rnn.weight_hh_l0")[1], len(arrays["rnn.weight_hh_l0"])
    cells = {CELLS[name].shape.n_gates: name for name in _GATE_ORDER if CELLS[name].attends == attends}
    if hidden == 0 or gates % hidden or gates // hidden not in cells:
        raise InvalidValueError(
            f"{keys['rnn.weight_hh_l0']}: expected shape (4 H, H) of an LSTM, (3 H, H) of a GRU or (H, H) of an RNN, "
            f"got {arrays['rnn.weight_hh_l0'].shape}."
        )
    vectors, inputs = _matrix(keys, arrays, "embed.weight")[1], _matrix(keys, arrays, "project.weight")[1]
    shapes = {
        "project.weight": (hidden, inputs),
        "project.bias": (hidden,),
        "embed.weight": (words, vectors),
        "vocab.weight": (words, hidden),
        "vocab.bias": (words,),
    }
    for layer in range(n_layers):
        of_layer = (gates, hidden if layer else vectors + attends * hidden), (gates, hidden), (gates,), (gates,)
        shapes |= {f"{entry}{layer}": shape for entry, shape in zip(_OF_A_LAYER, of_layer, strict=True)}
    for entry, shape in shapes.items():
        if arrays[entry].shape != shape:
            raise InvalidValueError(
                f"{keys[entry]}: expected shape {shape} for {words} words and H = {hidden}, got {arrays[entry].shape}."
            )
    return cells[gates // hidden], inputs, vectors, hidden


def _parameters(arrays: Arrays, cell_type: str, n_layers: int) -> Arrays:
    """Return the parameters of a model from the entries of a state."""
    cell, order = CELLS[cell_type], _GATE_ORDER[cell_type]
    params: Arrays = {
        "W_embed": arrays["embed.weight"],
        "W_proj": arrays["project.weight"].T,
        "b_proj": arrays["project.bias"],
        "W_vocab": arrays["vocab.weight"].T,
        "b_vocab": arrays["vocab.bias"],
    }
    hidden = len(params["b_proj"])
    for layer in range(n_layers):
        w_ih, w_hh, b_ih, b_hh = (arrays[f"{entry}{layer}"] for entry in _OF_A_LAYER)
        b = _joint_bias(b_ih, b_hh, order, (cell.shape.n_biases - cell.shape.n_gates) * hidden)
        values = _reordered(w_ih.T, order), _reordered(w_hh.T, order), b
        params |= dict(zip(layer_names(layer), values, strict=True))
    if cell.attends:
        params["Wx"], params["Wattn"] = np.split(params["Wx"], [params["W_embed"].shape[1]])
    return params


def save_torch_safetensors(path: str | os.PathLike[str], model: CaptioningRNN) -> None:
    """Write a model as a safetensors file with PyTorch's names and layout, for PyTorch's side of safetensors to read.

    Parameters
    ----------
    path : path
        The file; replaced if it exists. The vocabulary is stored in its metadata.
    model : CaptioningRNN
        On any backend.

    Raises
    ------
    ValueError
        For a vocabulary with missing or repeated ids.
    OSError
        If the file cannot be written.
    """
    words = words_in_order(model.word_to_idx)
    save_weights(path, torch_arrays(model), {_WORDS: words, "tie_weights": model.tie_weights})


def load_torch_safetensors(
    path: str | os.PathLike[str],
    word_to_idx: Mapping[str, int] | None = None,
    *,
    names: Mapping[str, str] | None = None,
    tie_weights: bool | None = None,
) -> CaptioningRNN:
    """Read a model from a safetensors file with PyTorch's names.

    Parameters
    ----------
    path : path
        The file, of `save_torch_safetensors` or of PyTorch.
    word_to_idx : mapping of str to int, optional
        The vocabulary; required if the file does not contain it.
    names, tie_weights
        As for `from_torch`; by default `tie_weights` is that of the file.

    Returns
    -------
    CaptioningRNN
        On the current backend.

    Raises
    ------
    CheckpointError
        If the file is missing or damaged.
    TypeError, ValueError
        As `from_torch`, and without a vocabulary.
    """
    name = os.fspath(path)
    arrays, metadata = load_weights(path)
    if "word_to_idx" in metadata:
        raise InvalidValueError(f"{name} is a model with the names of this library: capgpu.checkpoint.load_model.")
    if word_to_idx is None:
        if _WORDS not in metadata:
            raise InvalidValueError(f"word_to_idx: expected a vocabulary, which {name} does not contain, got None.")
        words = JsonObject(metadata, f"{name}: metadata", CheckpointError).texts(_WORDS)
        word_to_idx = {word: i for i, word in enumerate(words)}
    tied = bool(metadata.get("tie_weights", False)) if tie_weights is None else tie_weights
    try:
        return from_torch(arrays, word_to_idx, names=names, tie_weights=tied)
    except InvalidTypeError as error:
        raise InvalidTypeError(f"{name}: {error}") from error
    except InvalidValueError as error:
        raise InvalidValueError(f"{name}: {error}") from error


def _reordered(array: npt.NDArray[Any], order: tuple[int, ...]) -> npt.NDArray[Any]:
    """Permute the gate blocks along the last axis."""
    blocks = np.split(array, len(order), axis=-1)
    return np.concatenate([blocks[k] for k in order], axis=-1)


def _joint_bias(
    of_inputs: npt.NDArray[Any], of_states: npt.NDArray[Any], order: tuple[int, ...], further: int
) -> npt.NDArray[Any]:
    """Join PyTorch's two biases: all are added, except for the last `further` ones, of which both are kept."""
    last = of_states.size - further
    summed = _sum(of_inputs, np.concatenate([of_states[:last], np.zeros_like(of_states[last:])]))
    return np.concatenate([_reordered(summed, order), of_states[last:]])


def _sum(one: npt.NDArray[Any], other: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Add two biases; adding 0 changes no bit, not even the sign of a negative zero."""
    total: npt.NDArray[Any] = np.where(other == 0, one, one + other)
    return total


def _refuse_other_recurrences(state: Mapping[str, Any], rnn: str) -> None:
    entries = [key.removeprefix(f"{rnn}.") for key in state if key.startswith(f"{rnn}.")]
    for what, found in (
        ("runs in both directions", [key for key in entries if key.endswith("_reverse")]),
        ("projects its hidden state", [key for key in entries if key.startswith("weight_hr")]),
    ):
        if found:
            raise InvalidValueError(f"{rnn} {what} ({rnn}.{found[0]}): there is no such captioner here.")


def _count_layers(state: Mapping[str, Any], rnn: str) -> int:
    """Return the number of layers; at least 1, so that a state without any lacks those of the first."""
    count = 1
    while count < MAX_LAYERS and f"{rnn}.weight_hh_l{count}" in state:
        count += 1
    return count


def _array(key: str, value: Any) -> npt.NDArray[Any]:
    if hasattr(value, "detach"):
        value = value.detach().cpu()
        if "bfloat16" in str(value.dtype):
            raise InvalidTypeError(f"{key} is bfloat16, which NumPy lacks; convert the module: module.float().")
    array = np.asarray(value)
    if array.dtype.kind != "f" and not is_bfloat16(array.dtype):
        raise InvalidTypeError(f"{key}: expected floating numbers, got dtype {array.dtype}.")
    return array


def _matrix(keys: Mapping[str, str], state: Arrays, entry: str) -> tuple[int, int]:
    if state[entry].ndim != 2:
        raise InvalidValueError(f"{keys[entry]}: expected a matrix, got shape {state[entry].shape}.")
    rows, columns = state[entry].shape
    return rows, columns
