"""A captioner's loss and all its gradients: the whole pass as one sequence of launches, none of which is waited for.

    features, with dropout                  dropout      (where the options ask for it)
    h0 = features W_proj                    product      (the recurrence adds b_proj, and takes captions in order)
    embedded = W_embed[words]               gather_rows  (distinct words: a word that comes often is projected once)
    table = embedded Wx                     product      (the recurrence adds b)
    hidden, previous, cell, gates           recurrence   over table[word_of_row]
    hidden, with dropout                    dropout      (where the options ask for it)
    scores = hidden W_vocab                 product
    dscores, losses, loss                   softmax, sum_losses      (adds b_vocab; smooths labels)
    dhidden, dW_vocab                       2 products
    dhidden, with the same dropout          dropout
    dgates, dh0                             recurrence, backward
    dWh = previous^T dgates                 product
    dtable                                  segment_sums over the rows of each word
    dWx, dembedded                          2 products
    dW_embed                                scatter_rows
    dW_proj = features^T dh0                product
    db_vocab, db, db_proj                   column_sums, twice

With tied weights, the product for dW_vocab writes its transpose into dW_embed, and add_rows adds to that.

One copy to the device comes before: the layout of the captions. Intermediate arrays live in the workspace, with room
for the batch's every row, so that a step allocates only what it returns, and CuPy's pool has that from the step before.
"""

from __future__ import annotations

from typing import Any

from capgpu.kernels import LossOptions
from capgpu.kernels.cuda.arrays import check_device, contiguous, empty, sum_dtype
from capgpu.kernels.cuda.dropout import apply_dropout
from capgpu.kernels.cuda.embedding import add_rows, gather_rows, scatter_rows, segment_sums, sum_columns
from capgpu.kernels.cuda.plan import Plan, plan_captions
from capgpu.kernels.cuda.product import product
from capgpu.kernels.cuda.recurrence import (
    lstm_backward_into,
    lstm_forward_into,
    rnn_backward_into,
    rnn_forward_into,
)
from capgpu.kernels.cuda.softmax import linear_cross_entropy_into
from capgpu.kernels.cuda.workspace import Workspace, using, workspace

__all__ = ["caption_gradients", "caption_gradients_into"]


def caption_gradients(
    features: Any, captions: Any, null: int, params: dict[str, Any], options: LossOptions
) -> tuple[Any, dict[str, Any]] | None:
    """Compute loss and gradients; see `capgpu.kernels.reference.whole.caption_gradients`.

    Features are not looked at, which would mean waiting: one that is not finite makes the loss one that is not.
    None for ids out of range and for captions without any word.
    """
    check_device(features=features, params=params)
    plan = plan_captions(captions, null, params["W_embed"].shape[0])
    if plan is None or plan.rows == 0:
        return None
    space, dtype = workspace(), params["Wh"].dtype
    # all memory that is returned first: without it, nothing is launched
    loss = space.scalar(sum_dtype(dtype))
    grads = {
        name: empty(array.shape, dtype, f"the gradient of {name}")
        for name, array in params.items()
        if not (options.tied and name == "W_vocab")
    }
    room = captions.shape[0] * (captions.shape[1] - 1)
    with using(space):  # which no launch looks for again
        caption_gradients_into(space, features, plan, params, options, loss, grads, room)
    return loss, grads


def caption_gradients_into(
    space: Workspace,
    features: Any,
    plan: Plan,
    params: dict[str, Any],
    options: LossOptions,
    loss: Any,
    grads: dict[str, Any],
    room: int,
) -> None:
    """Compute loss and gradients into given arrays.

    Parameters
    ----------
    space : Workspace
        Where intermediate arrays go.
    features, params, options
        As for `caption_gradients`; with tied weights, `params` may lack W_vocab.
    plan : Plan
        The captions, with a row or more.
    loss : array, shape ()
        Gets the loss.
    grads : dict of str to array
        Get the gradients, by the names that `caption_gradients` returns; C-contiguous.
    room : int
        Rows to make room for, where later calls may have more.
    """
    features = contiguous(features)
    # tied, W_vocab stays the view that it is: the products take transposes without a copy
    own = {name: array for name, array in params.items() if name in grads}
    W_embed, W_proj, b_proj, Wx, Wh, b, *rest = (contiguous(array) for array in own.values())
    W_vocab, b_vocab = (W_embed.T, *rest) if options.tied else rest
    dtype, (size, gates) = Wh.dtype, Wh.shape
    count = features.shape[0]
    room_words = min(room, W_embed.shape[0])
    dW_vocab = grads["W_embed"].T if options.tied else grads["W_vocab"]

    def scratch(name: str, rows: int, width: int, most: int) -> Any:
        return space.take(name, (rows, width), dtype, most * width)

    h0 = scratch("h0", count, size, count)
    embedded = scratch("embedded", plan.distinct, Wx.shape[0], room_words)
    table = scratch("table", plan.distinct, gates, room_words)
    if options.feature_dropout is not None:
        kept = scratch("features after dropout", count, features.shape[1], count)
        apply_dropout(features, options.feature_dropout, kept)
        features = kept
    product(features, W_proj, h0)
    gather_rows(W_embed, plan.words, embedded)
    product(embedded, Wx, table)
    hidden = scratch("hidden", plan.rows, size, room)
    previous = scratch("previous", plan.rows, size, room)
    initial = {"bias": b, "h0_bias": b_proj, "order": plan.order, "previous": previous}
    if gates == 4 * size:
        cell = scratch("cell", plan.rows, size, room)
        activated = scratch("gates", plan.rows, gates, room)
        lstm_forward_into(table, plan.word_of_row, h0, None, Wh, plan.steps, hidden, cell, activated, **initial)
    else:
        rnn_forward_into(table, plan.word_of_row, h0, Wh, plan.steps, hidden, **initial)

    dhidden = scratch("dhidden", plan.rows, size, room)
    left = linear_cross_entropy_into(
        space,
        hidden,
        W_vocab,
        b_vocab,
        plan.targets,
        1.0 / count,
        loss,
        dhidden,
        dW_vocab,
        grads["b_vocab"],
        room,
        smoothing=options.smoothing,
        dropout=options.output_dropout,
    )

    dgates = scratch("dgates", plan.rows, gates, room)
    dh0 = scratch("dh0", count, size, count)
    if gates == 4 * size:
        dc0 = scratch("dc0", count, size, count)
        lstm_backward_into(dhidden, None, activated, cell, None, Wh, plan.steps, dgates, dh0, dc0, order=plan.order)
    else:
        rnn_backward_into(dhidden, hidden, Wh, plan.steps, dgates, dh0, order=plan.order)
    product(previous.T, dgates, grads["Wh"])
    # table has been read: the gradients of its rows take its place
    dtable, dembedded = table, scratch("dembedded", plan.distinct, Wx.shape[0], room_words)
    segment_sums(dgates, plan.word_of_row, plan.by_word, plan.starts, dtable)
    product(embedded.T, dtable, grads["Wx"])
    product(dtable, Wx.T, dembedded)
    (add_rows if options.tied else scatter_rows)(dembedded, plan.words, grads["W_embed"])
    product(features.T, dh0, grads["W_proj"])
    sum_columns(space, [*left, (dtable, grads["b"]), (dh0, grads["b_proj"])], room)
