"""The mathematics of the captioner, as functions of its parameters: training, scoring, decoding step by step.

    h0 = features W_proj + b_proj
    h_t = cell(W_embed[word_t] Wx + b, h_{t-1} Wh)
    scores of word_{t+1} = h_t W_vocab + b_vocab

`capgpu.model.CaptioningRNN` holds the parameters and checks its arguments; nothing is checked here. Without an entry
``W_vocab``, words are scored by their own vectors: W_vocab is W_embed transposed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple, Protocol

from capgpu.backend import Array, array_namespace
from capgpu.kernels import CaptionBatch, DecodingWeights, LossOptions, Precision, kernels_for, split_biases
from capgpu.layers.recurrence import (
    Cell,
    Recurrence,
    backward_through_time,
    projection_gradients,
    recurrent_forward,
)

if TYPE_CHECKING:
    from capgpu.kernels.reference import Kernels

__all__ = [
    "DecodingState",
    "GradientSink",
    "announce_decoding",
    "announce_training",
    "captioner_gradients",
    "captioner_loss",
    "greedy_captions",
    "initial_decoding_state",
    "next_word_scores",
]

#: What training calls, in this order, besides the recurrences; see `announce_training`.
_BEFORE, _AFTER = ("caption_batch", "matmul", "take_rows"), ("embedding_gradient", "column_sums")


class GradientSink(Protocol):
    """Takes gradients as soon as they have been computed, while others still are."""

    def ready(self, name: str, gradient: Array) -> None:
        """Take the gradient of a parameter, which is not read again and may be written into."""

    def ready_rows(self, name: str, rows: Array, index: Array) -> None:
        """Take the gradient of a table of which only the rows of `index`, rising and distinct, are not zero."""


def announce_training(cell: Cell, params: Mapping[str, Array], dropout: bool) -> None:
    """Announce to the kernels that `captioner_gradients` follows; see `capgpu.kernels.reference.Kernels.announce`.

    Parameters
    ----------
    cell, params
        As for `captioner_gradients`.
    dropout : bool
        Whether there is any.
    """
    Wh = params["Wh"]
    operations = (*_BEFORE, f"{cell.name}_forward", "linear_cross_entropy", f"{cell.name}_backward", *_AFTER)
    kernels_for(Wh).announce((*operations, "apply_dropout") if dropout else operations, Wh.dtype)


def announce_decoding(params: Mapping[str, Array], drawn: bool = False) -> None:
    """Announce to the kernels that captions will be decoded step by step, later than anything else.

    Parameters
    ----------
    params
        As for `captioner_gradients`.
    drawn : bool
        Whether words will be drawn at random, too.
    """
    Wh = params["Wh"]
    operations = ("decode_step", "top_words", *(("draw_words",) if drawn else ()))
    kernels_for(Wh).announce(operations, Wh.dtype, later=True)


def captioner_gradients(
    cell: Cell,
    params: Mapping[str, Array],
    features: Array,
    batch: CaptionBatch,
    options: LossOptions,
    features_gradient: bool = False,
    sink: GradientSink | None = None,
) -> tuple[Array, dict[str, Array]]:
    """Compute a captioner's loss and its gradients: the whole mathematics of training.

    Parameters
    ----------
    cell : Cell
        The recurrent cell.
    params : mapping of str to array
        As ``params`` of `capgpu.model.CaptioningRNN`.
    features : array, shape (N, D)
        Image features, in the dtype of the parameters.
    batch : CaptionBatch
        The captions, where the parameters live.
    options : LossOptions
        Dropout, label smoothing, and the precision of products.
    features_gradient : bool
        Whether to compute the gradient with respect to the features.
    sink : GradientSink, optional
        Gets the gradients of the larger parameters as soon as each has been computed, the largest first.

    Returns
    -------
    loss : array, shape ()
        Cross-entropy summed over the words that count, each times its row's weight, divided by N, or by the captions
        that `options` names.
    grads : dict of str to array
        Gradient with respect to each parameter; and to ``features``, where asked for. Without those that `sink` has got
        as rows.
    """
    kernels = kernels_for(params["Wh"], options.precision)
    with kernels.joint_column_sums():
        return _gradients(kernels, cell, params, features, batch, options, features_gradient, sink)


def _gradients(
    kernels: Kernels,
    cell: Cell,
    p: Mapping[str, Array],
    features: Array,
    batch: CaptionBatch,
    options: LossOptions,
    features_gradient: bool,
    sink: GradientSink | None,
) -> tuple[Array, dict[str, Array]]:
    # features -> h0; distinct words -> vectors; both -> hidden states -> scores -> loss
    if options.feature_dropout is not None:
        features = kernels.apply_dropout(features, options.feature_dropout)
    forward = _hidden_states(kernels, cell, p, features, batch)
    loss, dhidden, dW_vocab, db_vocab = kernels.linear_cross_entropy(
        forward.states.hidden,
        _vocabulary_weights(p),
        p["b_vocab"],
        batch.targets,
        1.0 / (options.captions or features.shape[0]),
        smoothing=options.smoothing,
        dropout=options.output_dropout,
        row_weights=batch.row_weights,
    )
    # mypy: gradients were asked for
    assert dhidden is not None
    assert dW_vocab is not None
    assert db_vocab is not None
    tied = "W_vocab" not in p
    if sink is not None and not tied:
        sink.ready("W_vocab", dW_vocab)

    # and back
    gradients = backward_through_time(dhidden, None, forward)
    dh0 = gradients.dh0
    # what is not read again makes room for the gradients of the parameters
    forward = forward._replace(states=forward.states._replace(cell=None, gates=None))
    del dhidden
    dembedded, dWx, dWh, db = projection_gradients(gradients, forward)
    del gradients, forward
    grads: dict[str, Array] = {}
    if sink is not None:
        sink.ready("Wx", dWx)
        sink.ready("Wh", dWh)
    if tied:
        grads["W_embed"] = kernels.add_rows(dW_vocab.T, dembedded, batch.words)
    elif sink is not None:
        sink.ready_rows("W_embed", dembedded, batch.words)
    else:
        grads["W_embed"] = kernels.scatter_rows(dembedded, batch.words, p["W_embed"].shape[0])
    grads |= {
        "W_proj": kernels.matmul(features, dh0, transpose_a=True),
        "b_proj": kernels.column_sums(dh0),
        "Wx": dWx,
        "Wh": dWh,
        "b": db,
        **({} if tied else {"W_vocab": dW_vocab}),
        "b_vocab": db_vocab,
    }
    if features_gradient:
        dfeatures = kernels.matmul(dh0, p["W_proj"], transpose_b=True)
        if options.feature_dropout is not None:  # the same mask and scale as on the way forward
            dfeatures = kernels.apply_dropout(dfeatures, options.feature_dropout)
        grads["features"] = dfeatures
    return loss, grads


def captioner_loss(
    cell: Cell, params: Mapping[str, Array], features: Array, batch: CaptionBatch, precision: Precision = "float32"
) -> Array:
    """Compute the negative log-likelihood of captions, without gradients, dropout or smoothing.

    Parameters
    ----------
    cell, params, features, batch
        As for `captioner_gradients`.
    precision : {"float32", "bf16"}
        How products read their factors.

    Returns
    -------
    array, shape ()
        Cross-entropy summed over the words that count, in nats.
    """
    kernels = kernels_for(params["Wh"], precision)
    hidden = _hidden_states(kernels, cell, params, features, batch).states.hidden
    total, *_ = kernels.linear_cross_entropy(
        hidden, _vocabulary_weights(params), params["b_vocab"], batch.targets, 1.0, False
    )
    return total


def _hidden_states(
    kernels: Kernels, cell: Cell, p: Mapping[str, Array], features: Array, batch: CaptionBatch
) -> Recurrence:
    """Run the recurrence over the captions; each distinct word's vector is projected once."""
    h0 = kernels.matmul(features, p["W_proj"])
    embedded = kernels.take_rows(p["W_embed"], batch.words)
    return recurrent_forward(
        cell,
        embedded,
        h0,
        None,
        p["Wx"],
        p["Wh"],
        p["b"],
        batch.batch_sizes,
        rows=batch.word_of_row,
        groups=batch.groups,
        h0_bias=p["b_proj"],
        order=batch.order,
        kernels=kernels,
    )


class DecodingState(NamedTuple):
    """The recurrent state of M captions while they are decoded.

    Attributes
    ----------
    h : array, shape (M, H)
        Hidden state.
    c : array, shape (M, H), or None
        Cell state of an LSTM.
    table : array, shape (V, G), or None
        Projected vectors of the whole vocabulary, where they were computed beforehand.
    """

    h: Array
    c: Array | None
    table: Array | None


def initial_decoding_state(
    cell: Cell, params: Mapping[str, Array], features: Array, n_words: int, precision: Precision = "float32"
) -> DecodingState:
    """Compute the state before START is read.

    Parameters
    ----------
    cell, params, features
        As for `captioner_gradients`.
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
    h = kernels.matmul(features, p["W_proj"], p["b_proj"])
    c = array_namespace(h).zeros_like(h) if cell.has_cell_state else None
    input_bias, _ = split_biases(p["b"], p["Wh"])
    table = kernels.matmul(p["W_embed"], p["Wx"], input_bias) if n_words >= p["W_embed"].shape[0] else None
    return DecodingState(h, c, table)


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
        As for `captioner_gradients`.
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
    input_bias, recurrent_bias = split_biases(p["b"], p["Wh"])
    if state.table is None:
        embedded = array_namespace(words).take(p["W_embed"], words, axis=0)
        projected, rows = kernels.matmul(embedded, p["Wx"], input_bias), None
    else:
        projected, rows = state.table, words
    logits, h, c = kernels.decode_step(
        projected,
        rows,
        state.h,
        state.c,
        p["Wh"],
        _vocabulary_weights(p),
        p["b_vocab"],
        parents,
        recurrent_bias=recurrent_bias,
    )
    return logits, DecodingState(h, c, state.table)


def greedy_captions(
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
    params, features
        As for `captioner_gradients`.
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
    """
    p, kernels = params, kernels_for(params["Wh"], precision)
    h = kernels.matmul(features, p["W_proj"], p["b_proj"])
    weights = DecodingWeights(p["W_embed"], p["Wx"], p["Wh"], p["b"], _vocabulary_weights(p), p["b_vocab"])
    return kernels.greedy_captions(h, weights, max_length, start, end, null)


def _vocabulary_weights(params: Mapping[str, Array]) -> Array:
    """Return W_vocab (H, V), a transposed view of W_embed where weights are tied."""
    if "W_vocab" in params:
        return params["W_vocab"]
    return params["W_embed"].T
