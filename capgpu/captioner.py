"""The mathematics of the captioner over whole captions, as functions of its parameters: training and scoring.

    h0 = features W_proj + b_proj
    h_t = cell(W_embed[word_t] Wx + b, h_{t-1} Wh)
    scores of word_{t+1} = h_t W_vocab + b_vocab

Of several layers, each starts from the same h0 and reads the hidden states of the one below, with dropout between them;
words are scored from the last one's::

    h2_t = cell(dropout(h_t) Wx2 + b2, h2_{t-1} Wh2)

Every layer depends on the picture from the first word on, without parameters of its own for it.

A cell that attends starts from a grid of features (N, L, D), each cell of which is projected as above
(`capgpu.kernels.reference.attention`); it has one layer.

`capgpu.captioner_steps` is the same word by word. `capgpu.model.CaptioningRNN` holds the parameters and checks its
arguments; nothing is checked here. Without an entry ``W_vocab``, words are scored by their own vectors: W_vocab is
W_embed transposed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol

from capgpu.backend import Array, array_namespace
from capgpu.kernels import AttentionStates, CaptionBatch, Dropout, LossOptions, Precision, kernels_for
from capgpu.layers.attention import context_weights_gradient
from capgpu.layers.recurrence import (
    Cell,
    Recurrence,
    backward_through_time,
    input_gradients,
    recurrent_forward,
    recurrent_weights_gradient,
)
from capgpu.parameters import layer_names, layer_parameters, vocabulary_weights
from capgpu.sequence import Packing, caption_lengths, pack, unpack

if TYPE_CHECKING:
    from capgpu.kernels.reference import Kernels

__all__ = [
    "GradientSink",
    "announce_decoding",
    "announce_training",
    "attention_of_captions",
    "captioner_gradients",
    "captioner_loss",
    "projected_cells",
    "vectors_of",
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


def announce_decoding(params: Mapping[str, Array], *, drawn: bool = False, later: bool = True) -> None:
    """Announce to the kernels that captions will be decoded step by step.

    Parameters
    ----------
    params
        As for `captioner_gradients`.
    drawn : bool
        Whether words will be drawn at random, too.
    later : bool
        Whether everything else that is announced is needed before.
    """
    Wh = params["Wh"]
    step = "attention_decode_step" if "Wattn" in params else "decode_step"
    operations = ("matmul", step, "top_words", *(("draw_words",) if drawn else ()))
    kernels_for(Wh).announce(operations, Wh.dtype, later=later)


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
    features : array, shape (N, D), or (N, L, D) for a cell that attends
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
    # features -> h0; distinct words -> vectors; both -> hidden states, layer by layer -> scores -> loss
    count, shape = features.shape[0], features.shape
    features = vectors_of(features)
    if options.feature_dropout is not None:
        features = kernels.apply_dropout(features, options.feature_dropout)
    layers = _run_layers(kernels, cell, p, features, count, batch, options.layer_dropouts)
    loss, dhidden, dW_vocab, db_vocab = kernels.linear_cross_entropy(
        layers[-1].states.hidden,
        vocabulary_weights(p),
        p["b_vocab"],
        batch.targets,
        1.0 / (options.captions or count),
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

    # and back, from the last layer to the first
    dinputs, dh0 = dhidden, None
    dlayers: dict[str, Array] = {}
    del dhidden
    while layers:
        layer, forward = len(layers) - 1, layers.pop()
        if layer < len(options.layer_dropouts):  # the same mask as on the way forward
            dinputs = kernels.apply_dropout(dinputs, options.layer_dropouts[layer])
        gradients = backward_through_time(dinputs, None, forward)
        dh0 = vectors_of(gradients.dh0) if dh0 is None else dh0 + gradients.dh0
        if cell.attends:
            dlayers["Wattn"] = context_weights_gradient(gradients, forward)
        # freed before the gradients of the parameters are allocated
        forward = forward._replace(states=forward.states._replace(cell=None, gates=None))
        del dinputs
        Wx, Wh, b = layer_names(layer)
        dlayers[Wh] = recurrent_weights_gradient(gradients, forward)
        if sink is not None:
            sink.ready(Wh, dlayers[Wh])
        dinputs, dlayers[Wx], dlayers[b] = input_gradients(gradients, forward)
        del gradients, forward
        if sink is not None:
            sink.ready(Wx, dlayers[Wx])
    grads: dict[str, Array] = {}
    if tied:
        grads["W_embed"] = kernels.add_rows(dW_vocab.T, dinputs, batch.words)
    elif sink is not None:
        sink.ready_rows("W_embed", dinputs, batch.words)
    else:
        grads["W_embed"] = kernels.scatter_rows(dinputs, batch.words, p["W_embed"].shape[0])
    grads |= {
        "W_proj": kernels.matmul(features, dh0, transpose_a=True),
        "b_proj": kernels.column_sums(dh0),
        **{name: dlayers[name] for name in p if name in dlayers},
        **({} if tied else {"W_vocab": dW_vocab}),
        "b_vocab": db_vocab,
    }
    if features_gradient:
        dfeatures = kernels.matmul(dh0, p["W_proj"], transpose_b=True)
        if options.feature_dropout is not None:  # the same mask and scale as on the way forward
            dfeatures = kernels.apply_dropout(dfeatures, options.feature_dropout)
        grads["features"] = dfeatures if len(shape) == 2 else array_namespace(dfeatures).reshape(dfeatures, shape)
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
    hidden = _run_layers(kernels, cell, params, vectors_of(features), features.shape[0], batch)[-1].states.hidden
    total, *_ = kernels.linear_cross_entropy(
        hidden, vocabulary_weights(params), params["b_vocab"], batch.targets, 1.0, False
    )
    return total


def attention_of_captions(
    cell: Cell,
    params: Mapping[str, Array],
    features: Array,
    captions: Any,
    null: int,
    precision: Precision = "float32",
) -> Array:
    """Compute the weights that a cell that attends gives to the cells of the pictures while it reads captions.

    Parameters
    ----------
    cell, params, features, precision
        As for `captioner_loss`.
    captions : numpy.ndarray of int, shape (N, T + 1)
        Captions with START, padded with NULL.
    null : int
        Id of NULL.

    Returns
    -------
    array, shape (N, T, L)
        The weights when each word after START was scored; 0 after a caption's last word.
    """
    kernels = kernels_for(params["Wh"], precision)
    xp, device = array_namespace(features), features.device
    A = projected_cells(kernels, params, vectors_of(features), features.shape[0])
    steps = captions.shape[1] - 1
    packing = Packing.from_lengths(caption_lengths(captions, null))
    words = xp.asarray(pack(captions[:, :-1], packing), device=device)
    embedded, order = kernels.take_rows(params["W_embed"], words), xp.asarray(packing.order, device=device)
    forward = recurrent_forward(
        cell,
        embedded,
        A,
        None,
        params["Wx"],
        params["Wh"],
        params["b"],
        packing.batch_sizes,
        order=order,
        Wattn=params["Wattn"],
        kernels=kernels,
    )
    assert isinstance(forward.states, AttentionStates)  # mypy: those of a cell that attends
    return unpack(forward.states.attention, packing, steps)


def vectors_of(array: Array) -> Array:
    """Return the rows of a grid (N, L, D) one below the other, (N L, D)."""
    return array if array.ndim == 2 else array_namespace(array).reshape(array, (-1, array.shape[2]))


def projected_cells(kernels: Kernels, p: Mapping[str, Array], vectors: Array, count: int) -> Array:
    """Return A (N, L, H) of the cells of `count` pictures, (N L, D)."""
    A = kernels.matmul(vectors, p["W_proj"], p["b_proj"])
    return array_namespace(A).reshape(A, (count, -1, A.shape[1]))


def _run_layers(
    kernels: Kernels,
    cell: Cell,
    p: Mapping[str, Array],
    vectors: Array,
    count: int,
    batch: CaptionBatch,
    dropouts: tuple[Dropout, ...] = (),
) -> list[Recurrence]:
    """Run the recurrent layers over the captions of `count` pictures, from the first on.

    Each distinct word's vector is projected once.
    """
    if cell.attends:
        start, start_bias = projected_cells(kernels, p, vectors, count), None
    else:
        start, start_bias = kernels.matmul(vectors, p["W_proj"]), p["b_proj"]
    x, rows, groups = kernels.take_rows(p["W_embed"], batch.words), batch.word_of_row, batch.groups
    layers: list[Recurrence] = []
    for layer, (Wx, Wh, b) in enumerate(layer_parameters(p)):
        if layer:
            x, rows, groups = layers[-1].states.hidden, None, None
            if dropouts:
                x = kernels.apply_dropout(x, dropouts[layer - 1])
        forward = recurrent_forward(
            cell,
            x,
            start,
            None,
            Wx,
            Wh,
            b,
            batch.batch_sizes,
            rows=rows,
            groups=groups,
            h0_bias=start_bias,
            order=batch.order,
            Wattn=p.get("Wattn"),
            kernels=kernels,
        )
        layers.append(forward)
    return layers
