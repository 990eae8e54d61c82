"""The captioning model: an image feature starts a recurrent network that writes a caption word by word.

What it computes is in `capgpu.captioner`; this module holds the parameters and checks the arguments.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np

from capgpu.backend import Array, to_numpy
from capgpu.captioner import (
    DecodingState,
    announce_training,
    captioner_gradients,
    captioner_loss,
    greedy_captions,
    initial_decoding_state,
    next_word_scores,
)
from capgpu.dtypes import floating_dtype
from capgpu.errors import InvalidValueError
from capgpu.kernels import CaptionBatch, Dropout, LossOptions, Precision, check_precision, kernels_for
from capgpu.layers.recurrence import CELLS, Cell
from capgpu.parameters import check_parameters, checked_features, initial_parameters, parameter_shapes
from capgpu.random import fold_key
from capgpu.validation import check_captions, check_finite, check_rates
from capgpu.vocabulary import END, NULL, START

__all__ = ["CaptioningRNN"]


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
    precision : {"float32", "bf16"}
        How matrix products read their factors, in training and decoding. ``"float32"``: as they are, whatever `dtype`.
        ``"bf16"``, for float32 models: rounded to bfloat16 (8 significant bits); sums, parameters, gradients and the
        optimiser's state stay float32. Faster on processors with AMX (Linux), and meant for CUDA devices from compute
        capability 8.0 on, where recurrences stay float32. Others compute the same, about as fast as float32 or slower.

    Attributes
    ----------
    params : dict of str to array
        ``W_embed`` (V, W); ``W_proj`` (D, H), ``b_proj`` (H,); ``Wx`` (W, G), ``Wh`` (H, G), ``b`` (G,) with
        G = H or 4H; ``W_vocab`` (H, V), unless weights are tied; ``b_vocab`` (V,). Entries may be replaced or
        written into at any time.

    Raises
    ------
    ValueError
        For an unknown cell or precision, sizes below 1, rates out of range, a vocabulary without ``"<NULL>"``, or tied
        weights where word vectors and hidden states differ in length.
    TypeError
        For a dtype that is not floating, or not float32 with ``precision="bf16"``.
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
        precision: Precision = "float32",
    ) -> None:
        if cell_type not in CELLS:
            raise InvalidValueError(f"cell_type: expected one of {', '.join(map(repr, CELLS))}, got {cell_type!r}.")
        check_rates(feature_dropout=feature_dropout, output_dropout=output_dropout, label_smoothing=label_smoothing)
        if NULL not in word_to_idx:
            raise InvalidValueError(f'word_to_idx has no "{NULL}" entry, which pads captions. Add one, usually id 0.')
        self.cell_type: Literal["rnn", "lstm"] = cell_type
        self.dtype = floating_dtype(dtype)
        check_precision(precision, self.dtype)
        self.precision: Precision = precision
        self.word_to_idx = dict(word_to_idx)
        self.idx_to_word = {index: word for word, index in self.word_to_idx.items()}
        self.feature_dropout = float(feature_dropout)
        self.output_dropout = float(output_dropout)
        self.tie_weights = bool(tie_weights)
        self.label_smoothing = float(label_smoothing)
        self._shapes = parameter_shapes(
            len(self.word_to_idx), input_dim, wordvec_dim, hidden_dim, self.cell.n_gates, self.tie_weights
        )
        self.params = initial_parameters(self._shapes, self.dtype, seed)

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
        """The constructor's arguments except the vocabulary and the seed, as JSON values."""
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
            "precision": self.precision,
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
            True captions, padded with NULL; best on the host, where they are packed.
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
        operands = self._operands()
        dropout = options.feature_dropout is not None or options.output_dropout is not None
        announce_training(self.cell, operands, dropout)
        return captioner_gradients(self.cell, operands, features, self._batch(ids), options)

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
        total = captioner_loss(self.cell, self._operands(), features, self._batch(ids), self.precision)
        return total, int((ids[:, 1:] != self.null).sum())

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
        start, end = self._special(START), self._special(END) if stop_at_end else -1
        features = self._checked_features(features)
        return greedy_captions(self._operands(), features, max_length, start, end, self.null, self.precision)

    def begin(self, features: Array, reads: int = 0) -> DecodingState:
        """Compute the state before START is read, for decoding word by word.

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
        return initial_decoding_state(
            self.cell, self._operands(), self._checked_features(features), reads, self.precision
        )

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
        return next_word_scores(self._operands(), state, words, parents, self.precision)

    @property
    def null(self) -> int:
        """Id of NULL."""
        return self.word_to_idx[NULL]

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

    def _checked(self, features: Array, captions: Array) -> tuple[Array, Any]:
        """Check the shapes and dtypes of a minibatch; return features in the model's dtype and host captions."""
        features = self._checked_features(features)
        check_captions(captions)
        if captions.shape[0] != features.shape[0]:
            raise InvalidValueError(
                f"features has {features.shape[0]} rows and captions {captions.shape[0]}; wanted one feature "
                "vector a caption. Repeat a picture's features for each of its captions."
            )
        return features, to_numpy(captions)

    def _checked_features(self, features: Array) -> Array:
        check_parameters(self.params, self._shapes, self.dtype)
        features = checked_features(features, self.params)
        check_finite("features", features)
        return features

    def _operands(self) -> dict[str, Array]:
        """Return the parameters that are used: a tied model may have been given a W_vocab."""
        return {name: self.params[name] for name in self._shapes}

    def _options(self, dropout_key: int | None) -> LossOptions:
        """Return what `loss` applies besides the model itself; each dropout has a key of its own."""
        feature, output = (
            Dropout(fold_key(dropout_key, number), rate) if dropout_key is not None and rate > 0 else None
            for number, rate in enumerate((self.feature_dropout, self.output_dropout))
        )
        return LossOptions(feature, output, self.label_smoothing, self.precision)

    def _batch(self, captions: Any) -> CaptionBatch:
        """Pack host captions, and copy the packing to where the parameters live."""
        Wh = self.params["Wh"]
        return kernels_for(Wh).caption_batch(captions, self.null, len(self.word_to_idx), Wh)

    def _special(self, word: str) -> int:
        index = self.word_to_idx.get(word)
        if index is None or index >= len(self.word_to_idx):
            raise InvalidValueError(f"the vocabulary has no {word} with an id below its length: sampling needs one.")
        return index
