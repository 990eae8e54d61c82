"""Types that operations of the contract take and return besides arrays."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, get_args

import numpy as np

from capgpu.backend import Array
from capgpu.dtypes import dtype_name
from capgpu.errors import InvalidTypeError, InvalidValueError
from capgpu.visible_text import short

__all__ = [
    "AttentionStates",
    "CaptionBatch",
    "DecodingWeights",
    "Dropout",
    "LossOptions",
    "Precision",
    "RowGroups",
    "States",
    "check_precision",
    "check_word_ids",
    "split_biases",
]

#: How matrix products read their factors. ``"float32"``, the default: as they are, whatever their dtype. ``"bf16"``:
#: rounded from float32 to bfloat16 (to nearest, ties to even); products are added in float32, and all else stays as it
#: is.
Precision = Literal["float32", "bf16"]


@dataclass(frozen=True)
class Dropout:
    """Inverted dropout of one array: its mask is ``capgpu.random.dropout_mask(key, rate, array.shape, array)``.

    Attributes
    ----------
    key : int
        Decides the mask, on every target alike.
    rate : float
        Probability of an element to be dropped, in ``(0, 1)``.
    rows : array of int, shape (M,), optional
        Row of the mask for each row of the array, where that holds some rows of what the mask belongs to.
    size : int, optional
        Elements of the whole mask, if `rows` is given.
    """

    key: int
    rate: float
    rows: Array | None = None
    size: int | None = None


@dataclass(frozen=True)
class LossOptions:
    """Options of a captioner's training loss.

    Attributes
    ----------
    feature_dropout : Dropout, optional
        Applied to the features, shape (N, D), or to the cells of grids one below the other, (N L, D).
    output_dropout : Dropout, optional
        Applied to the packed hidden states, shape (M, H), before the vocabulary projection.
    layer_dropouts : tuple of Dropout
        Applied to the packed hidden states, shape (M, H), of each recurrent layer but the last, which the next layer
        reads; empty for no dropout there.
    smoothing : float
        Part of each true word's probability that is spread evenly over the vocabulary, in ``[0, 1)``.
    precision : {"float32", "bf16"}
        How the products read their factors.
    captions : int, optional
        The number of captions that the loss is divided by, where the batch holds some of a minibatch.
    """

    feature_dropout: Dropout | None = None
    output_dropout: Dropout | None = None
    layer_dropouts: tuple[Dropout, ...] = ()
    smoothing: float = 0.0
    precision: Precision = "float32"
    captions: int | None = None


class DecodingWeights(NamedTuple):
    """Weights of the products in decoding.

    Attributes
    ----------
    W_embed : array, shape (V, W)
        Word vectors.
    Wx, Wh, b : array, shape (W, G), (H, G), (B,)
        Input weights, recurrent weights, biases; G = ``n_gates * H``, B = ``n_biases * H``
        (`capgpu.kernels.cells.CellShape`).
    W_vocab, b_vocab : array, shape (H, V), (V,)
        Vocabulary projection. With tied weights, W_vocab is a transposed view of W_embed.
    """

    W_embed: Array
    Wx: Array
    Wh: Array
    b: Array
    W_vocab: Array
    b_vocab: Array


class RowGroups(NamedTuple):
    """Rows grouped by an index, as a sort of the index gives them.

    Attributes
    ----------
    order : array of int, shape (M,)
        Rows by rising index, equal ones in their order.
    starts : array of int, shape (U + 1,)
        First place in `order` of each value of the index, and M.
    """

    order: Array
    starts: Array


@dataclass(frozen=True, eq=False)
class CaptionBatch:
    """A minibatch of captions, packed for teacher forcing without its padding.

    A caption's steps run to its last target that is not NULL. Captions are ranked by falling length, and rows are
    time-major: step t owns the next ``batch_sizes[t]`` rows, one for each of the first captions in `order`.

    Attributes
    ----------
    batch_sizes : numpy.ndarray of int64, shape (T,)
        Captions alive at each step, never rising. Kernels of a device may keep them there as well, in a type of theirs.
    order : array of int, shape (N,)
        Caption at each rank; equal lengths keep their order.
    words : array of int, shape (U,)
        Distinct input words, rising.
    word_of_row : array of int, shape (M,)
        Place in `words` of each row's input.
    targets : array of int, shape (M,)
        Next word of each row; -1 where it is NULL (a step inside a caption that does not count).
    groups : RowGroups, optional
        The rows grouped by `word_of_row`, where the kernels use that.
    row_numbers : array of int, shape (M,), optional
        Number of each row among those of the captions, where rows were added; -1 for an added one.
    row_weights : array, shape (M,), optional
        Factor of each row's loss, in the dtype of the loss. By default all are 1.
    """

    batch_sizes: Any
    order: Array
    words: Array
    word_of_row: Array
    targets: Array
    groups: RowGroups | None = None
    row_numbers: Array | None = None
    row_weights: Array | None = None


class States(NamedTuple):
    """What the forward pass of a recurrence computes for each packed row.

    Attributes
    ----------
    hidden : array, shape (M, H)
        Hidden states after each step.
    cell : array, shape (M, H), or None
        Cell states; None for a cell without.
    gates : array, shape (M, n_saved * H), or None
        Activated gates, and what else is saved for the backward pass: of an LSTM i, f, o, g; of a GRU r, z, n, and its
        candidate's recurrent sum. None for a cell that saves nothing.
    previous : array, shape (M, H)
        Hidden state before each step: the other factor of the gradient of the recurrent weights.
    """

    hidden: Array
    cell: Array | None
    gates: Array | None
    previous: Array


def split_biases(b: Array, Wh: Array) -> tuple[Array, Array | None]:
    """Split a cell's biases into those of the input's sums, and those of recurrent sums, as a GRU has.

    Parameters
    ----------
    b : array, shape (B,)
        The biases.
    Wh : array, shape (H, G)
        Recurrent weights.

    Returns
    -------
    input_biases : array, shape (G,)
        Added to ``x Wx``.
    recurrent_biases : array, shape (B - G,), or None
        Added to the last columns of ``h Wh``.
    """
    gates = Wh.shape[1]
    return (b, None) if b.shape[0] == gates else (b[:gates], b[gates:])


class AttentionStates(NamedTuple):
    """What the forward pass of an attention LSTM computes for each packed row.

    Attributes
    ----------
    hidden, cell, gates, previous : array, shape (M, H), (M, H), (M, 4H), (M, H)
        As in `States`.
    attention : array, shape (M, L)
        Weights that each step gives to the L cells of its picture; a row sums to 1.
    contexts : array, shape (M, H)
        Sum of the projected cells with these weights: the other factor of the gradient of Wattn.
    """

    hidden: Array
    cell: Array
    gates: Array
    previous: Array
    attention: Array
    contexts: Array


def check_word_ids(captions: np.ndarray[Any, Any], vocabulary_size: int) -> None:
    """Validate the word ids of captions.

    Parameters
    ----------
    captions : numpy.ndarray of int, shape (N, T + 1)
        Word ids.
    vocabulary_size : int
        Ids must be in ``[0, vocabulary_size)``.

    Raises
    ------
    ValueError
        Naming the first id out of range.
    """
    bad = np.argwhere((captions < 0) | (captions >= vocabulary_size))
    if bad.size:
        row, column = (int(k) for k in bad[0])
        raise InvalidValueError(
            f"captions[{row}, {column}]: expected an id in 0..{vocabulary_size - 1}, got {captions[row, column]}."
        )


def check_precision(precision: str, dtype: Any) -> None:
    """Validate a precision for arrays of a dtype.

    Parameters
    ----------
    precision : str
        See `Precision`.
    dtype : dtype
        Of the parameters.

    Raises
    ------
    ValueError
        For an unknown precision.
    TypeError
        For ``"bf16"`` where the dtype is not float32.
    """
    if precision == "float32":  # at each operation
        return
    if precision not in get_args(Precision):
        raise InvalidValueError(
            f"precision: expected one of {', '.join(map(repr, get_args(Precision)))}, got {short(precision)}."
        )
    name = dtype_name(dtype)
    if name != "float32":
        raise InvalidTypeError(
            f"precision='bf16' rounds float32 factors: expected dtype float32, got {name}. Make the model with "
            "dtype='float32', or leave precision out."
        )
