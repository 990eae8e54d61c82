"""The captioning model: an image feature starts a recurrent network that writes a caption word by word.

The mathematics is in `capgpu.captioner` and `capgpu.captioner_steps`, parameters and checks of arguments in
`capgpu.model_base`.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

from capgpu.backend import Array, array_namespace, is_device_array
from capgpu.captioner import (
    GradientSink,
    announce_training,
    attention_of_captions,
    captioner_gradients,
    captioner_loss,
)
from capgpu.captioner_steps import DecodingState, greedy_captions, initial_decoding_state, next_word_scores
from capgpu.errors import InvalidValueError
from capgpu.kernels import LossOptions
from capgpu.kernels.contract import check_word_ids
from capgpu.model_base import CaptionerBase
from capgpu.parameters import check_finite_parameters, checked_weights
from capgpu.sequence import packed_rows, rows_of_grids
from capgpu.validation import check_count, check_flag
from capgpu.vocabulary import END, START

__all__ = ["CaptioningRNN"]


class CaptioningRNN(CaptionerBase):
    """Recurrent image captioner (the decoder of Vinyals et al. 2015; the model of the cs231n exercises).

    The feature vector gives the initial hidden state by an affine map; a vanilla RNN, an LSTM or a GRU reads the
    caption's words and an affine map scores the next one. The cell ``"attention"`` reads a grid of feature vectors of
    shape (N, L, D): an LSTM whose input at each step is also a mean of the projected cells, weighted by their products
    with the hidden state (Xu et al. 2015; `capgpu.layers.attention_forward`).

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
    cell_type : {"rnn", "lstm", "gru", "attention"}
        The recurrent cell; the functions of `capgpu.layers` have the equations.
    dtype : dtype
        Floating dtype of parameters and results; features are converted to it. In half precision (``"float16"``,
        ``"bfloat16"``) sums, losses and the optimizer's running state are float32; parameters and gradients are not, so
        that small steps are lost (see `capgpu.optim.functional`) and, in float16, gradients below 6e-8. bfloat16 needs
        the package ml_dtypes; its kernels are the ``cuda`` backend's, the others compute in float32 and round.
    seed : int, optional
        Seed of the initial parameters: the same on every backend.
    n_layers : int
        Recurrent layers, 1 to 64. Each starts from the same hidden state, made of the features; all but the first read
        the hidden states of the one below; words are scored from the last one's.
    layer_dropout : float
        Rate, in ``[0, 1)``, of the dropout on the hidden states that the next layer reads (Zaremba et al. 2014). Active
        only where `loss` is given a ``dropout_key``; 0 with one layer.
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
        optimizer's state stay float32. Faster on processors with AMX (Linux), and meant for CUDA devices from compute
        capability 8.0 on, where recurrences stay float32. Others compute the same, about as fast as float32 or slower.

    Attributes
    ----------
    params : dict of str to array
        ``W_embed`` (V, W); ``W_proj`` (D, H), ``b_proj`` (H,); ``Wx`` (W, G), ``Wh`` (H, G), ``b`` (B,) with
        G = B = H of an RNN, G = B = 4H of an LSTM, G = 3H and B = 4H of a GRU; ``Wattn`` (H, 4H) with attention; of
        further layers ``Wx2`` (H, G), ``Wh2``, ``b2`` and so on; ``W_vocab`` (H, V), unless weights are tied;
        ``b_vocab`` (V,). Entries may be replaced or written into at any time.

    Raises
    ------
    ValueError
        For an unknown cell or precision, sizes below 1, a negative seed, rates out of range, a vocabulary without
        ``"<NULL>"``, dropout between layers of a single layer, or tied weights where word vectors and hidden states
        differ in length.
    TypeError
        For a dtype that is not floating, or not float32 with ``precision="bf16"``; a seed that is no integer; a
        `tie_weights` that is neither True nor False.
    """

    def loss(
        self,
        features: Array,
        captions: Array,
        *,
        dropout_key: int | None = None,
        features_gradient: bool = False,
        weights: Array | None = None,
    ) -> tuple[Array, dict[str, Array]]:
        """Compute the training loss of a minibatch and its gradients.

        Parameters
        ----------
        features : array, shape (N, D), or (N, L, D) with ``cell_type="attention"``
            Image features, in the library of the parameters.
        captions : array of int, shape (N, T + 1)
            True captions, padded with NULL; best on the host, where they are packed.
        dropout_key : int, optional
            Turns dropout on; the same key draws the same masks. None: no dropout.
        features_gradient : bool
            Compute the gradient with respect to `features`, too, for whatever has computed them.
        weights : array, shape (N,), optional
            Factor of the loss of each caption's words, from -1e30 to 1e30; best on the host. By default all are 1.

        Returns
        -------
        loss : array, shape ()
            Cross-entropy (with smoothed labels, where the model has them) summed over the words that are not NULL, each
            times the weight of its caption, divided by N, in the model's dtype; in float32 for half precision.
        grads : dict of str to array
            Gradient of the loss with respect to each entry of `params`; on request also ``"features"``, shaped like
            `features` and in the model's dtype.

        Raises
        ------
        TypeError
            For captions or a key that are not integers, arrays of different libraries, or with a mask.
        ValueError
            For shapes that do not fit, an empty batch, one without words, ids out of range, features or weights that
            are not finite, larger weights, or entries of `params` that the model does not have.

        Examples
        --------
        >>> import numpy as np, capgpu
        >>> model = capgpu.CaptioningRNN({"<NULL>": 0, "<START>": 1, "<END>": 2, "cat": 3}, 4, 5, 6, "lstm", seed=0)
        >>> features = capgpu.asarray(np.ones((1, 4), np.float32))
        >>> loss, grads = model.loss(features, np.array([[1, 3, 2]]), features_gradient=True)
        >>> grads["features"].shape
        (1, 4)
        """
        features, ids, options = self.loss_inputs(features, captions, dropout_key)
        self._known_finite.clear()
        operands = self._operands()
        dropout = any((options.feature_dropout, options.output_dropout, options.layer_dropouts))
        announce_training(self.cell, operands, dropout)
        batch = self._batch(ids, None if weights is None else checked_weights(weights, ids.shape[0]))
        return captioner_gradients(self.cell, operands, features, batch, options, features_gradient)

    def partial_loss(
        self,
        features: Array,
        captions: Any,
        rows: Any,
        *,
        dropout_key: int | None = None,
        weights: Any = None,
        sink: GradientSink | None = None,
    ) -> tuple[Array, dict[str, Array]]:
        """Compute what some captions of a minibatch contribute to its training loss and gradients.

        The contributions of all captions add up to the results of `loss` for the whole minibatch, dropout included.

        Parameters
        ----------
        features : array, shape (n, D), or (n, L, D) with ``cell_type="attention"``
            Features of the captions that are computed.
        captions : numpy.ndarray of int, shape (N, T + 1)
            The captions of the whole minibatch, on the host.
        rows : numpy.ndarray of int, shape (n,)
            Which of them are computed.
        dropout_key : int, optional
            As for `loss`.
        weights : array, shape (n,), optional
            As for `loss`, of the captions that are computed.
        sink : GradientSink, optional
            Gets the gradients of the larger parameters as soon as each has been computed.

        Returns
        -------
        loss : array, shape ()
            The part's sum, divided by N.
        grads : dict of str to array
            As `capgpu.captioner.captioner_gradients` returns them.
        """
        features, ids, options = self.loss_inputs(features, captions[rows], dropout_key)
        self._known_finite.clear()
        operands = self._operands()
        dropout = any((options.feature_dropout, options.output_dropout, options.layer_dropouts))
        announce_training(self.cell, operands, dropout)
        batch = self._batch(ids, None if weights is None else checked_weights(weights, ids.shape[0]))
        if dropout:
            options = self._rows_of_minibatch(options, features.shape[1:], captions, rows)
        options = replace(options, captions=captions.shape[0])
        return captioner_gradients(self.cell, operands, features, batch, options, sink=sink)

    def _rows_of_minibatch(
        self, options: LossOptions, feature_shape: tuple[int, ...], captions: Any, rows: Any
    ) -> LossOptions:
        """Restrict dropout's masks to the rows of some captions in the masks of the whole minibatch."""
        Wh = self.params["Wh"]
        xp = array_namespace(Wh)
        if options.feature_dropout is not None:
            cells = math.prod(feature_shape[:-1])  # of a grid; its rows lie one below the other
            features = xp.asarray(rows_of_grids(rows, cells), device=Wh.device)
            size = captions.shape[0] * math.prod(feature_shape)
            options = replace(options, feature_dropout=replace(options.feature_dropout, rows=features, size=size))
        packed, count = packed_rows(captions, rows, self.null)
        at = {"rows": xp.asarray(packed, device=Wh.device), "size": count * Wh.shape[0]}
        if options.output_dropout is not None:
            options = replace(options, output_dropout=replace(options.output_dropout, **at))
        return replace(options, layer_dropouts=tuple(replace(dropout, **at) for dropout in options.layer_dropouts))

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

    def attention(self, features: Array, captions: Array) -> Array:
        """Compute where a model with ``cell_type="attention"`` looks while it reads captions.

        Parameters
        ----------
        features, captions
            As for `loss`.

        Returns
        -------
        array, shape (N, T, L)
            For each word after START, the weights of the L cells of the picture when the word was scored: they sum to
            1. 0 after a caption's last word.

        Raises
        ------
        TypeError, ValueError
            As `loss`, and for a model of another cell.

        Examples
        --------
        >>> import numpy as np, capgpu
        >>> words = {"<NULL>": 0, "<START>": 1, "<END>": 2, "cat": 3}
        >>> model = capgpu.CaptioningRNN(words, 4, 5, 6, "attention", seed=0)
        >>> grid = capgpu.asarray(np.ones((1, 9, 4), np.float32))  # one picture, 3 x 3 cells
        >>> model.attention(grid, np.array([[1, 3, 2]])).shape
        (1, 2, 9)
        """
        if not self.cell.attends:
            raise InvalidValueError(
                f"attention: expected a model with cell_type='attention', got cell_type={self.cell_type!r}."
            )
        features, ids = self._checked(features, captions)
        check_word_ids(ids, len(self.word_to_idx))
        return attention_of_captions(self.cell, self._operands(), features, ids, self.null, self.precision)

    def sample(self, features: Array, max_length: int = 30, stop_at_end: bool = False) -> Array:
        """Write captions greedily: the most probable word at each step.

        Parameters
        ----------
        features : array
            Image features, as for `loss`.
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
        TypeError
            For a `max_length` that is no integer, or a `stop_at_end` that is neither True nor False.
        ValueError
            For a vocabulary without START (or END, to stop at), bad features, or parameters on the host that are not
            finite. Parameters are read for that once, and again after `loss` or when they have been replaced.
        FloatingPointError
            For features on the host that are so large that hidden states are not finite.
        """
        check_count("max_length", max_length, 1)
        check_flag("stop_at_end", stop_at_end)
        start, end = self._special(START), self._special(END) if stop_at_end else -1
        features = self._checked_features(features)
        self._check_finite_parameters()
        return greedy_captions(self.cell, self._operands(), features, max_length, start, end, self.null, self.precision)

    def _check_finite_parameters(self) -> None:
        known = self._known_finite
        unknown = {  # reading those on a device would make the host wait
            name: array
            for name, array in self.params.items()
            if known.get(name) is not array and not is_device_array(array)
        }
        check_finite_parameters(unknown)
        known.update(unknown)

    def begin(self, features: Array, reads: int = 0) -> DecodingState:
        """Compute the state before START is read, for decoding word by word.

        Parameters
        ----------
        features : array
            Image features, as for `loss`.
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
            Row of `state` that each caption continues; by default its own.

        Returns
        -------
        logits : array, shape (M, V)
            Scores of the next word.
        state : DecodingState
            M rows.
        """
        return next_word_scores(self._operands(), state, words, parents, self.precision)
