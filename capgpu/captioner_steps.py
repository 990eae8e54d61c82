"""The mathematics of the captioner word by word: the state while captions are decoded, and its steps.

The equations, and what the parameters are, stand in `capgpu.captioner`; arguments are not checked here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from capgpu.backend import Array, array_namespace, is_device_array
from capgpu.captioner import announce_decoding, projected_cells, vectors_of
from capgpu.errors import NonFiniteError
from capgpu.kernels import DecodingWeights, Precision, kernels_for, split_biases
from capgpu.kernels.half import in_float32
from capgpu.kernels.reference.attention import mean_of_cells
from capgpu.kernels.reference.greedy import greedy_loop
from capgpu.layers.recurrence import Cell
from capgpu.parameters import all_finite, layer_parameters, vocabulary_weights

__all__ = ["DecodingState", "greedy_captions", "initial_decoding_state", "next_word_scores"]


class DecodingState(NamedTuple):
    """The recurrent state of M captions while they are decoded.

    Attributes
    ----------
    h : array, shape (M, H)
        Hidden state of the first layer.
    c : array, shape (M, H), or None
        Its cell state, of an LSTM.
    table : array, shape (V, G), or None
        Projected vectors of the whole vocabulary, where they were computed beforehand.
    upper : tuple of (h, c)
        The same states of each further layer.
    A : array, shape (N, L, H), or None
        Projected cells of N pictures, for a cell that attends.
    pictures : array of int, shape (M,), or None
        Picture of each caption, in the same case; None where each has its own.
    attention : array, shape (M, L), or None
        Weights of the cells at the last step.
    """

    h: Array
    c: Array | None
    table: Array | None
    upper: tuple[tuple[Array, Array | None], ...] = ()
    A: Array | None = None
    pictures: Array | None = None
    attention: Array | None = None


def initial_decoding_state(
    cell: Cell, params: Mapping[str, Array], features: Array, n_words: int, precision: Precision = "float32"
) -> DecodingState:
    """Compute the state before START is read.

    Parameters
    ----------
    cell, params, features
        As for `capgpu.captioner.captioner_gradients`.
    n_words : int
        Number of words that will be read in all; the whole vocabulary is projected once where it is no larger.
    precision : {"float32", "bf16"}
        How products read their factors.

    Returns
    -------
    DecodingState
        One row a picture.
    """
    p, kernels = params, kernels_for(params["Wh"], precision)
    announce_decoding(p, later=False)
    A = None
    if cell.attends:
        A = projected_cells(kernels, p, vectors_of(features), features.shape[0])
        h = c = in_float32(mean_of_cells)(A)
    else:
        h = kernels.matmul(features, p["W_proj"], p["b_proj"])
        c = array_namespace(h).zeros_like(h) if cell.shape.has_state else None
    input_bias, _ = split_biases(p["b"], p["Wh"])
    table = kernels.matmul(p["W_embed"], p["Wx"], input_bias) if n_words >= p["W_embed"].shape[0] else None
    return DecodingState(h, c, table, ((h, c),) * (len(layer_parameters(p)) - 1), A)


def next_word_scores(
    params: Mapping[str, Array],
    state: DecodingState,
    words: Array,
    parents: Array | None = None,
    precision: Precision = "float32",
) -> tuple[Array, DecodingState]:
    """Read one word per caption and score the next.

    Parameters
    ----------
    params : mapping of str to array
        As for `capgpu.captioner.captioner_gradients`.
    state : DecodingState
        Of the last step.
    words : array of int, shape (M,)
        The word that each caption reads.
    parents : array of int, shape (M,), optional
        Row of `state` that each caption continues; by default its own.
    precision : {"float32", "bf16"}
        How products read their factors.

    Returns
    -------
    logits : array, shape (M, V)
        Scores of the next word.
    state : DecodingState
        M rows.
    """
    p, kernels = params, kernels_for(params["Wh"], precision)
    layers = [(Wx, Wh, *split_biases(b, Wh)) for Wx, Wh, b in layer_parameters(p)]
    if state.table is None:
        embedded = array_namespace(words).take(p["W_embed"], words, axis=0)
        Wx, _, input_bias, _ = layers[0]
        projected, rows = kernels.matmul(embedded, Wx, input_bias), None
    else:
        projected, rows = state.table, words
    if state.A is not None:
        logits, h, c, attention = kernels.attention_decode_step(
            projected,
            rows,
            state.h,
            state.c,
            state.A,
            state.pictures,
            p["Wh"],
            p["Wattn"],
            vocabulary_weights(p),
            p["b_vocab"],
            parents,
        )
        pictures = state.pictures
        if parents is not None:
            pictures = parents if pictures is None else array_namespace(parents).take(pictures, parents)
        return logits, state._replace(h=h, c=c, pictures=pictures, attention=attention)
    # what follows a layer is the next one's input product; after the last one, the vocabulary projection
    products = [(Wx, input_bias) for Wx, _, input_bias, _ in layers[1:]]
    products.append((vocabulary_weights(p), p["b_vocab"]))
    states: list[tuple[Array, Array | None]] = []
    before = ((state.h, state.c), *state.upper)
    for (h, c), (_, Wh, _, recurrent_bias), product in zip(before, layers, products, strict=True):
        projected, *after = kernels.decode_step(
            projected, rows, h, c, Wh, *product, parents, recurrent_bias=recurrent_bias
        )
        states.append((after[0], after[1]))
        rows = None
    return projected, DecodingState(*states[0], state.table, tuple(states[1:]))


def greedy_captions(
    cell: Cell,
    params: Mapping[str, Array],
    features: Array,
    max_length: int,
    start: int,
    end: int,
    null: int,
    precision: Precision = "float32",
) -> Array:
    """Decode the most probable word at each step.

    Parameters
    ----------
    cell, params, features
        As for `capgpu.captioner.captioner_gradients`.
    max_length : int
        Number of words.
    start, end, null : int
        Ids of the word that is read first, of the word that ends a caption (-1: none), and of padding.
    precision : {"float32", "bf16"}
        How products read their factors.

    Returns
    -------
    array of int32, shape (N, max_length)
        Word ids, without START.

    Raises
    ------
    FloatingPointError
        For features on the host whose hidden states overflow: the words would be arbitrary. Those on a device are not
        read.
    """
    p, kernels = params, kernels_for(params["Wh"], precision)
    if cell.attends or len(layer_parameters(p)) > 1:  # no kernel writes whole captions of these
        state = initial_decoding_state(cell, p, features, features.shape[0] * max_length, precision)
        _check_finite_states(state.h)

        def read(words: Array) -> Array:
            nonlocal state
            logits, state = next_word_scores(p, state, words, precision=precision)
            return logits

        return greedy_loop(read, state.h, max_length, start, end, null)
    kernels.announce(("matmul", "greedy_captions"), p["Wh"].dtype)
    h = kernels.matmul(features, p["W_proj"], p["b_proj"])
    _check_finite_states(h)
    weights = DecodingWeights(p["W_embed"], p["Wx"], p["Wh"], p["b"], vocabulary_weights(p), p["b_vocab"])
    return kernels.greedy_captions(h, weights, max_length, start, end, null)


def _check_finite_states(h: Array) -> None:
    if not is_device_array(h) and not all_finite(h):
        raise NonFiniteError(
            "features: expected finite hidden states, got NaN or infinity: the features, or W_proj, are far too large. "
            "Compute features as those that the model was trained on."
        )
