"""The captioning model: an image feature starts a recurrent network that writes a caption word by word."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

from capgpu.backend import Array, array_namespace, to_numpy
from capgpu.dtypes import floating_dtype, is_floating
from capgpu.errors import InvalidTypeError, InvalidValueError
from capgpu.kernels import CaptionBatch, Dropout, LossOptions, kernels_for
from capgpu.layers.recurrence import (
    CELLS,
    Cell,
    Recurrence,
    backward_through_time,
    projection_gradients,
    recurrent_forward,
)
from capgpu.random import Generator, fold_key
from capgpu.validation import check_captions, check_finite

if TYPE_CHECKING:
    from capgpu.kernels.reference import Kernels

__all__ = ["CaptioningRNN", "DecodingState", "captioner_gradients"]


class DecodingState(NamedTuple):
    """Where captions being written stand: one row a caption.

    Attributes
    ----------
    h : array, shape (M, H)
        Hidden state.
    c : array, shape (M, H), or None
        Cell state of an LSTM.
    table : array, shape (V, G), or None
        Input products of the whole vocabulary, where they were made beforehand.
    """

    h: Array
    c: Array | None
    table: Array | None


def captioner_gradients(
    cell: Cell, params: Mapping[str, Array], features: Array, batch: CaptionBatch, options: LossOptions
) -> tuple[Array, dict[str, Array]]:
    """Compute a captioner's loss and its gradients: the whole mathematics of training.

    Parameters
    ----------
    cell : Cell
        The recurrent cell.
    params : mapping of str to array
        As `CaptioningRNN.params`; without W_vocab, words are scored by their own vectors.
    features : array, shape (N, D)
        Image features, in the dtype of the parameters.
    batch : CaptionBatch
        The captions, where the parameters live.
    options : LossOptions
        Dropout and label smoothing.

    Returns
    -------
    loss : array, shape ()
        Cross-entropy summed over the words that count, divided by N.
    grads : dict of str to array
        Gradient with respect to each parameter.
    """
    kernels = kernels_for(params["Wh"])
    with kernels.joint_column_sums():
        return _gradients(kernels, cell, params, features, batch, options)


def _gradients(
    kernels: Kernels,
    cell: Cell,
    p: Mapping[str, Array],
    features: Array,
    batch: CaptionBatch,
    options: LossOptions,
) -> tuple[Array, dict[str, Array]]:
    tied = "W_vocab" not in p
    W_vocab = p["W_embed"].T if tied else p["W_vocab"]

    # features -> h0; distinct words -> vectors; both -> hidden states -> scores -> loss
    if options.feature_dropout is not None:
        features = kernels.apply_dropout(features, options.feature_dropout)
    h0 = kernels.matmul(features, p["W_proj"])
    embedded = kernels.take_rows(p["W_embed"], batch.words)
    forward = _recur(kernels, cell, p, embedded, h0, batch)
    loss, dhidden, dW_vocab, db_vocab = kernels.linear_cross_entropy(
        forward.states.hidden,
        W_vocab,
        p["b_vocab"],
        batch.targets,
        1.0 / features.shape[0],
        smoothing=options.smoothing,
        dropout=options.output_dropout,
    )
    # mypy: gradients were asked for
    assert dhidden is not None
    assert dW_vocab is not None
    assert db_vocab is not None

    # and back
    dprojected, dh0, _ = backward_through_time(dhidden, None, forward)
    # what nobody reads any more makes room for the gradients of the parameters
    forward = forward._replace(states=forward.states._replace(cell=None, gates=None))
    del dhidden
    dembedded, dWx, dWh, db = projection_gradients(dprojected, forward)
    del dprojected, forward
    if tied:
        dW_embed = kernels.add_rows(dW_vocab.T, dembedded, batch.words)
    else:
        dW_embed = kernels.scatter_rows(dembedded, batch.words, p["W_embed"].shape[0])
    grads = {
        "W_embed": dW_embed,
        "W_proj": kernels.matmul(features, dh0, transpose_a=True),
        "b_proj": kernels.column_sums(dh0),
        "Wx": dWx,
        "Wh": dWh,
        "b": db,
        "W_vocab": dW_vocab,
        "b_vocab": db_vocab,
    }
    if tied:
        del grads["W_vocab"]
    return loss, grads


def _recur(
    kernels: Kernels, cell: Cell, p: Mapping[str, Array], embedded: Array, h0: Array, batch: CaptionBatch
) -> Recurrence:
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


class CaptioningRNN:
    """Recurrent image captioner (the decoder of Vinyals et al. 2015; the model of the cs231n exercises).

    The feature vector gives the initial hidden state by an affine map; a vanilla RNN or an LSTM reads the
    caption's words and an affine map scores the next one.

    Parameters
    ----------
    word_to_idx : mapping of str to int
        The vocabulary. ``"<NULL>"`` must be in it; `sample` also needs ``"<START>"`` and, to stop,
        ``"<END>"``.
    input_dim : int
        D, length of a feature vector.
    wordvec_dim : int
        W, length of a word vector.
    hidden_dim : int
        H, length of the hidden state.
    cell_type : {"rnn", "lstm"}
        The recurrent cell.
    dtype : dtype
        Floating dtype of parameters and results; features are converted to it. In half precision (``"float16"``,
        ``"bfloat16"``) sums, losses and the optimiser's running state are float32; parameters and gradients are not, so
        that small steps are lost (see `capgpu.optim.functional`) and, in float16, gradients below 6e-8. bfloat16 needs
        the package ml_dtypes; its kernels are the ``cuda`` backend's, the others compute in float32 and round.
    seed : int, optional
        Seed of the initial parameters: the same on every backend.
    feature_dropout, output_dropout : float
        Rates, in ``[0, 1)``, of the dropout on the features and on the hidden states before the vocabulary
        projection. Active only where `loss` is given a ``dropout_key``.
    tie_weights : bool
        Score words by their own vectors (Press & Wolf 2017; Inan et al. 2017): ``W_vocab`` is ``W_embed``
        transposed and no parameter of its own. Needs W = H.
    label_smoothing : float
        Part, in ``[0, 1)``, of each true word's probability that `loss` spreads evenly over the vocabulary (Szegedy et
        al. 2016). `nll` is that of the words themselves.

    Attributes
    ----------
    params : dict of str to array
        ``W_embed`` (V, W); ``W_proj`` (D, H), ``b_proj`` (H,); ``Wx`` (W, G), ``Wh`` (H, G), ``b`` (G,) with
        G = H or 4H; ``W_vocab`` (H, V), unless weights are tied; ``b_vocab`` (V,). Entries may be replaced or
        written into at any time.

    Raises
    ------
    ValueError
        For an unknown cell, sizes below 1, rates out of range, a vocabulary without ``"<NULL>"``, or tied
        weights where word vectors and hidden states differ in length.
    TypeError
        For a dtype that is not floating.
    """

    def __init__(
        self,
        word_to_idx: Mapping[str, int],
        input_dim: int = 512,
        wordvec_dim: int = 128,
        hidden_dim: int = 128,
        cell_type: Literal["rnn", "lstm"] = "rnn",
        dtype: Any = np.float32,
        *,
        seed: int | None = None,
        feature_dropout: float = 0.0,
        output_dropout: float = 0.0,
        tie_weights: bool = False,
        label_smoothing: float = 0.0,
    ) -> None:
        if cell_type not in CELLS:
            raise InvalidValueError(f"cell_type: expected one of {', '.join(map(repr, CELLS))}, got {cell_type!r}.")
        for name, size in (
            ("input_dim", input_dim),
            ("wordvec_dim", wordvec_dim),
            ("hidden_dim", hidden_dim),
        ):
            if not isinstance(size, (int, np.integer)) or size < 1:
                raise InvalidValueError(f"{name}: expected an integer of at least 1, got {size!r}.")
        # config is written as JSON, which knows no integers but Python's
        input_dim, wordvec_dim, hidden_dim = int(input_dim), int(wordvec_dim), int(hidden_dim)
        for name, rate in (
            ("feature_dropout", feature_dropout),
            ("output_dropout", output_dropout),
            ("label_smoothing", label_smoothing),
        ):
            if not 0 <= rate < 1:
                raise InvalidValueError(f"{name}: expected a rate in [0, 1), got {rate!r}.")
        if tie_weights and wordvec_dim != hidden_dim:
            raise InvalidValueError(
                f"tie_weights=True scores words by their vectors, which must then be as long as hidden states: "
                f"wordvec_dim is {wordvec_dim} and hidden_dim {hidden_dim}; make them equal."
            )
        if "<NULL>" not in word_to_idx:
            raise InvalidValueError(
                'word_to_idx has no "<NULL>" entry: captions are padded with it. Add one, usually id 0.'
            )
        self.cell_type: Literal["rnn", "lstm"] = cell_type
        self.dtype = floating_dtype(dtype)
        self.word_to_idx = dict(word_to_idx)
        self.idx_to_word = {index: word for word, index in self.word_to_idx.items()}
        self.feature_dropout = float(feature_dropout)
        self.output_dropout = float(output_dropout)
        self.tie_weights = bool(tie_weights)
        self.label_smoothing = float(label_smoothing)
        self._null = self.word_to_idx["<NULL>"]
        gates = CELLS[cell_type].n_gates * hidden_dim
        self._shapes: dict[str, tuple[int, ...]] = {
            "W_embed": (len(self.word_to_idx), wordvec_dim),
            "W_proj": (input_dim, hidden_dim),
            "b_proj": (hidden_dim,),
            "Wx": (wordvec_dim, gates),
            "Wh": (hidden_dim, gates),
            "b": (gates,),
            "W_vocab": (hidden_dim, len(self.word_to_idx)),
            "b_vocab": (len(self.word_to_idx),),
        }
        if self.tie_weights:
            del self._shapes["W_vocab"]
        random = Generator(seed)
        self.params: dict[str, Array] = {}
        for name, shape in self._shapes.items():
            scale = 0.01 if name == "W_embed" else 1 / math.sqrt(shape[0])
            self.params[name] = random.normal(shape, 0.0 if len(shape) == 1 else scale, self.dtype)

    @property
    def cell(self) -> Cell:
        """The recurrent cell."""
        return CELLS[self.cell_type]

    @property
    def parameter_names(self) -> tuple[str, ...]:
        """The entries of `params`, in the order of the kernels' contract, whatever the order in the dictionary."""
        return tuple(self._shapes)

    @property
    def config(self) -> dict[str, Any]:
        """The constructor's arguments but for the vocabulary and the seed, as JSON can hold them."""
        return {
            "input_dim": self._shapes["W_proj"][0],
            "wordvec_dim": self._shapes["W_embed"][1],
            "hidden_dim": self._shapes["Wh"][0],
            "cell_type": self.cell_type,
            "dtype": self.dtype.name,
            "feature_dropout": self.feature_dropout,
            "output_dropout": self.output_dropout,
            "tie_weights": self.tie_weights,
            "label_smoothing": self.label_smoothing,
        }

    def loss(
        self, features: Array, captions: Array, *, dropout_key: int | None = None
    ) -> tuple[Array, dict[str, Array]]:
        """Compute the training loss of a minibatch and its gradients.

        Parameters
        ----------
        features : array, shape (N, D)
            Image features, in the library of the parameters.
        captions : array of int, shape (N, T + 1)
            True captions, padded with NULL. Packing is planned on the host: host captions are welcome on
            every backend, device captions are copied back.
        dropout_key : int, optional
            Turns dropout on; the same key draws the same masks. None: no dropout.

        Returns
        -------
        loss : array, shape ()
            Cross-entropy (with smoothed labels, where the model has them) summed over the words that are not NULL,
            divided by N, in the model's dtype; in float32 for half precision.
        grads : dict of str to array
            Gradient of the loss with respect to each entry of `params`.

        Raises
        ------
        TypeError
            For captions that are not integers, or arrays of different libraries.
        ValueError
            For shapes that do not fit, an empty batch, ids out of range, or features that are not finite.
        """
        features, ids, options = self.loss_inputs(features, captions, dropout_key)
        params = {name: self.params[name] for name in self._shapes}  # a tied model may have been given a W_vocab
        return captioner_gradients(self.cell, params, features, self._batch(ids), options)

    def nll(self, features: Array, captions: Array) -> tuple[Array, int]:
        """Compute the negative log-likelihood of captions, without gradients and without dropout.

        Parameters
        ----------
        features, captions
            As for `loss`.

        Returns
        -------
        total : array, shape ()
            Sum over the words that are not NULL, in nats.
        tokens : int
            Number of those words.
        """
        features, ids = self._checked(features, captions)
        p, kernels, batch = self._weights(), kernels_for(self.params["Wh"]), self._batch(ids)
        h0 = kernels.matmul(features, p["W_proj"])
        embedded = kernels.take_rows(p["W_embed"], batch.words)
        hidden = _recur(kernels, self.cell, p, embedded, h0, batch).states.hidden
        total, *_ = kernels.linear_cross_entropy(hidden, p["W_vocab"], p["b_vocab"], batch.targets, 1.0, False)
        return total, int((ids[:, 1:] != self._null).sum())

    def sample(self, features: Array, max_length: int = 30, stop_at_end: bool = False) -> Array:
        """Write captions greedily: the most probable word at each step.

        Parameters
        ----------
        features : array, shape (N, D)
            Image features, in the library of the parameters.
        max_length : int
            Words to write.
        stop_at_end : bool
            False writes on after END, as the exercise does; True fills with NULL and stops when all have
            ended.

        Returns
        -------
        array of int32, shape (N, max_length)
            Word ids, without START.

        Raises
        ------
        ValueError
            For a vocabulary without START (or END, to stop at), or bad features.
        """
        if max_length < 1:
            raise InvalidValueError(f"max_length: expected at least 1, got {max_length}.")
        start, end = self._special("<START>"), self._special("<END>") if stop_at_end else -1
        features = self._checked_features(features)
        p = self._weights()
        check_finite("features", features, array_namespace(features))
        words: Array = kernels_for(p["Wh"]).greedy_captions(features, max_length, start, end, self._null, p)
        return words

    def begin(self, features: Array, reads: int = 0) -> DecodingState:
        """Make the state from which captions are written word by word: for decoders.

        Parameters
        ----------
        features : array, shape (N, D)
            Image features, in the library of the parameters.
        reads : int
            How many words will be read in all; where the vocabulary holds no more, its input products are made
            once, beforehand.

        Returns
        -------
        DecodingState
            One row a picture, before START is read.

        Raises
        ------
        ValueError
            For features that do not fit, or are not finite.
        """
        features = self._checked_features(features)
        check_finite("features", features, array_namespace(features))
        return self._begin(features, reads)

    def step(self, state: DecodingState, words: Array, parents: Array | None = None) -> tuple[Array, DecodingState]:
        """Read one word and score the next.

        Parameters
        ----------
        state : DecodingState
            Of `begin` or of the last step.
        words : array of int, shape (M,)
            The word that each caption reads: START at first, then what was chosen. They are not checked.
        parents : array of int, shape (M,), optional
            Row of `state` that each caption goes on from; by default its own.

        Returns
        -------
        logits : array, shape (M, V)
            Scores of the next word.
        state : DecodingState
            M rows.
        """
        p, kernels = self._weights(), kernels_for(self.params["Wh"])
        if state.table is None:
            embedded = array_namespace(words).take(p["W_embed"], words, axis=0)
            projected, rows = kernels.matmul(embedded, p["Wx"], p["b"]), None
        else:
            projected, rows = state.table, words
        logits, h, c = kernels.decode_step(
            projected, rows, state.h, state.c, p["Wh"], p["W_vocab"], p["b_vocab"], parents
        )
        return logits, DecodingState(h, c, state.table)

    def _begin(self, features: Array, reads: int) -> DecodingState:
        p, kernels = self.params, kernels_for(self.params["Wh"])
        h = kernels.matmul(features, p["W_proj"], p["b_proj"])
        c = array_namespace(h).zeros_like(h) if self.cell_type == "lstm" else None
        # projecting the whole vocabulary once pays when more words will be read than it holds
        table = kernels.matmul(p["W_embed"], p["Wx"], p["b"]) if reads >= p["W_embed"].shape[0] else None
        return DecodingState(h, c, table)

    def _options(self, dropout_key: int | None) -> LossOptions:
        """Return what `loss` applies besides the model itself; each dropout has a key of its own."""
        feature, output = (
            Dropout(fold_key(dropout_key, number), rate) if dropout_key is not None and rate > 0 else None
            for number, rate in enumerate((self.feature_dropout, self.output_dropout))
        )
        return LossOptions(feature, output, self.label_smoothing)

    def _weights(self) -> dict[str, Array]:
        """Name all eight operands of the computation in the order of the kernels' contract, tied or not."""
        p = self.params
        weights = {name: p[name] for name in self._shapes if name != "b_vocab"}
        if self.tie_weights:
            weights["W_vocab"] = array_namespace(p["W_embed"]).matrix_transpose(p["W_embed"])
        return {**weights, "b_vocab": p["b_vocab"]}

    @property
    def null(self) -> int:
        """Id of NULL."""
        return self._null

    def loss_inputs(
        self, features: Array, captions: Array, dropout_key: int | None = None
    ) -> tuple[Array, Any, LossOptions]:
        """Check a minibatch as `loss` does, and return what the loss is computed from, for kernels.

        Parameters
        ----------
        features, captions, dropout_key
            As for `loss`.

        Returns
        -------
        features : array, shape (N, D)
            In the model's dtype.
        captions : numpy.ndarray of int, shape (N, T + 1)
            On the host; ids out of range are still there.
        options : LossOptions
            What `loss` applies besides the model itself.
        """
        features, ids = self._checked(features, captions)
        return features, ids, self._options(dropout_key)

    def _batch(self, captions: Any) -> CaptionBatch:
        """Pack host captions, and bring them to where the parameters live."""
        Wh, vocabulary_size = self.params["Wh"], self._shapes["W_embed"][0]
        return kernels_for(Wh).caption_batch(captions, self._null, vocabulary_size, Wh)

    def _checked(self, features: Array, captions: Array) -> tuple[Array, Any]:
        """Check the shapes and dtypes of a minibatch; return features in the model's dtype and host captions."""
        features = self._checked_features(features)
        if not hasattr(captions, "dtype"):
            raise InvalidTypeError(
                f"captions: expected an array of integers, got a {type(captions).__name__}. numpy.asarray makes one."
            )
        check_captions(captions)
        if captions.shape[0] != features.shape[0]:
            raise InvalidValueError(
                f"features has {features.shape[0]} rows and captions {captions.shape[0]}; wanted one feature "
                "vector a caption. Repeat a picture's features for each of its captions."
            )
        check_finite("features", features)
        return features, to_numpy(captions)

    def _checked_features(self, features: Array) -> Array:
        self._check_params()
        xp = array_namespace(features=features, params=self.params["W_embed"])
        if features.ndim != 2 or features.shape[1] != self._shapes["W_proj"][0] or features.shape[0] == 0:
            raise InvalidValueError(
                f"features: expected shape (N, {self._shapes['W_proj'][0]}) with N >= 1, got {tuple(features.shape)}."
            )
        if features.device != self.params["Wh"].device:
            raise InvalidValueError(_elsewhere("features", features, self.params["Wh"]))
        dtype = self.params["W_proj"].dtype
        if features.dtype != dtype:
            if not is_floating(features.dtype, xp) and not xp.isdtype(features.dtype, "integral"):
                raise InvalidTypeError(f"features: expected real numbers, got dtype {features.dtype}.")
            features = xp.astype(features, dtype)
        return features

    def _check_params(self) -> None:
        """Check that entries that a user has replaced still fit."""
        kind: type[Any] = type(self.params.get("Wh"))
        numpy_dtypes = kind.__module__ in ("numpy", "cupy")
        for name, shape in self._shapes.items():
            array: Any = self.params.get(name)
            if not numpy_dtypes or type(array) is not kind or array.shape != shape or array.dtype != self.dtype:
                break
            if array.device != self.params["Wh"].device:
                raise InvalidValueError(_elsewhere(f"params[{name!r}]", array, self.params["Wh"]))
        else:
            return
        for name, shape in self._shapes.items():
            if name not in self.params:
                raise InvalidValueError(f"params[{name!r}]: expected an array of shape {shape}, got no such entry.")
        array_namespace(**{f"params[{name!r}]": self.params[name] for name in self._shapes})
        dtype = None
        for name, shape in self._shapes.items():
            array = self.params[name]
            if tuple(array.shape) != shape:
                raise InvalidValueError(f"params[{name!r}]: expected shape {shape}, got {tuple(array.shape)}.")
            if dtype is None:
                dtype = array.dtype
                if to_dtype_name(dtype) != self.dtype.name:
                    raise InvalidTypeError(
                        f"params[{name!r}] has dtype {dtype}; the model's is {self.dtype}. Convert it: "
                        f"params[{name!r}] = array.astype({self.dtype})."
                    )
            elif array.dtype != dtype:
                raise InvalidTypeError(
                    f"params[{name!r}] has dtype {array.dtype}; the model's is {self.dtype}. Convert it: "
                    f"params[{name!r}] = array.astype({self.dtype})."
                )

    def _special(self, word: str) -> int:
        index = self.word_to_idx.get(word)
        if index is None or index >= self._shapes["W_embed"][0]:
            raise InvalidValueError(f"the vocabulary has no {word} with an id below its length: sampling needs one.")
        return index


def _elsewhere(name: str, array: Array, like: Array) -> str:
    return (
        f"{name}: expected an array on {like.device}, where params['Wh'] is, got one on {array.device}. Copy it there: "
        f"{name} = capgpu.asarray({name})."
    )


def to_dtype_name(dtype: Any) -> str:
    """Return the plain name of a dtype of any array library."""
    return np.dtype(dtype).name if isinstance(dtype, (type, np.dtype)) else str(dtype).split(".")[-1]
