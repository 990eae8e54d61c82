"""Base of the captioner: vocabulary, sizes and parameters, their checks, and saving to a file."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import numpy as np

from capgpu.backend import Array, is_host_array, to_numpy
from capgpu.dtypes import floating_dtype
from capgpu.errors import InvalidValueError
from capgpu.kernels import CaptionBatch, Dropout, LossOptions, Precision, check_precision, kernels_for
from capgpu.layers.cells import CELLS, CellType
from capgpu.layers.recurrence import Cell
from capgpu.parameters import check_parameters, checked_features, initial_parameters, parameter_shapes
from capgpu.random import fold_key
from capgpu.validation import (
    check_any_word,
    check_captions,
    check_count,
    check_finite,
    check_flag,
    check_integer,
    check_rates,
    check_word_to_idx,
)
from capgpu.visible_text import short
from capgpu.vocabulary import NULL

__all__ = ["CaptionerBase"]


class CaptionerBase:
    """The vocabulary, sizes and parameters of `capgpu.model.CaptioningRNN`, which documents them.

    Parameters
    ----------
    word_to_idx, input_dim, wordvec_dim, hidden_dim, cell_type, dtype, seed
        As for `capgpu.model.CaptioningRNN`.
    feature_dropout, output_dropout, tie_weights, label_smoothing, precision, n_layers, layer_dropout
        As for `capgpu.model.CaptioningRNN`.
    """

    def __init__(
        self,
        word_to_idx: Mapping[str, int],
        input_dim: int = 512,
        wordvec_dim: int = 128,
        hidden_dim: int = 128,
        cell_type: CellType = "rnn",
        dtype: Any = np.float32,
        *,
        seed: int | None = None,
        feature_dropout: float = 0.0,
        output_dropout: float = 0.0,
        tie_weights: bool = False,
        label_smoothing: float = 0.0,
        precision: Precision = "float32",
        n_layers: int = 1,
        layer_dropout: float = 0.0,
    ) -> None:
        if not isinstance(cell_type, str) or cell_type not in CELLS:
            raise InvalidValueError(
                f"cell_type: expected one of {', '.join(map(repr, CELLS))}, got {short(cell_type)}."
            )
        check_rates(
            feature_dropout=feature_dropout,
            output_dropout=output_dropout,
            layer_dropout=layer_dropout,
            label_smoothing=label_smoothing,
        )
        check_flag("tie_weights", tie_weights)
        check_count("seed", 0 if seed is None else seed, 0)
        check_word_to_idx(word_to_idx)
        if NULL not in word_to_idx:
            raise InvalidValueError(
                f"word_to_idx: expected an entry {NULL}, which pads captions, got none. Add it, usually with id 0."
            )
        self.cell_type: CellType = cell_type
        self.dtype = floating_dtype(dtype)
        check_precision(precision, self.dtype)
        self.precision: Precision = precision
        # JSON, as which it is saved, has no integers but Python's
        self.word_to_idx = {word: int(index) for word, index in word_to_idx.items()}
        self.idx_to_word = {index: word for word, index in self.word_to_idx.items()}
        self.feature_dropout = float(feature_dropout)
        self.output_dropout = float(output_dropout)
        self.layer_dropout = float(layer_dropout)
        self.tie_weights = bool(tie_weights)
        self.label_smoothing = float(label_smoothing)
        #: The parameters that were finite when `sample` read them; nothing is known of those that training has changed.
        self._known_finite: dict[str, Array] = {}
        self._shapes = parameter_shapes(
            self.cell, len(self.word_to_idx), input_dim, wordvec_dim, hidden_dim, self.tie_weights, n_layers
        )
        self.n_layers = int(n_layers)
        if layer_dropout > 0 and self.n_layers == 1:
            raise InvalidValueError(
                f"layer_dropout: expected 0 with one layer, got {layer_dropout}: it applies between layers. Pass "
                "n_layers=2 or more, or omit it."
            )
        self.params = initial_parameters(self._shapes, self.dtype, seed)

    @property
    def cell(self) -> Cell:
        """The recurrent cell."""
        return CELLS[self.cell_type]

    @property
    def attends(self) -> bool:
        """Whether the model reads grids of features, (N, L, D): that of ``cell_type="attention"``."""
        return self.cell.attends

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
            "n_layers": self.n_layers,
            "layer_dropout": self.layer_dropout,
        }

    @property
    def null(self) -> int:
        """Id of NULL."""
        return self.word_to_idx[NULL]

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Save the model: weights, sizes and vocabulary in one file, written whole or not at all.

        Parameters
        ----------
        path : path
            A ``.safetensors`` file, or a folder (created if it does not exist) for ``model.safetensors``.

        Returns
        -------
        pathlib.Path
            The file.

        Raises
        ------
        OSError
            If the file cannot be written; an existing file is unchanged.

        Examples
        --------
        >>> import tempfile, capgpu
        >>> model = capgpu.CaptioningRNN({"<NULL>": 0, "<START>": 1, "<END>": 2, "cat": 3}, 4, 5, 6, "lstm", seed=0)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     copy = capgpu.CaptioningRNN.load(model.save(folder))
        >>> copy.config == model.config
        True
        """
        from capgpu.checkpoint import save_model

        return save_model(path, self)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """Load a model onto the current backend.

        Parameters
        ----------
        path : path
            The file or folder given to `save`. `capgpu.load` opens the folder of a whole training run.

        Returns
        -------
        CaptioningRNN
            The model with the saved sizes, vocabulary and weights, bit for bit.

        Raises
        ------
        CheckpointError
            If the file is missing or damaged, is not a model, or its weights do not fit its sizes.
        """
        from capgpu.checkpoint import load_model

        return load_model(path, cls)

    def __repr__(self) -> str:
        sizes = ", ".join(f"{name}={self.config[name]}" for name in ("input_dim", "wordvec_dim", "hidden_dim"))
        special = "".join(
            f", {name}={value!r}"
            for name, default in (
                ("n_layers", 1),
                ("layer_dropout", 0.0),
                ("feature_dropout", 0.0),
                ("output_dropout", 0.0),
                ("tie_weights", False),
                ("label_smoothing", 0.0),
                ("precision", "float32"),
            )
            if (value := getattr(self, name)) != default
        )
        count = sum(int(array.size) for array in self.params.values())
        where = "host" if all(map(is_host_array, self.params.values())) else "device"
        return (
            f"{type(self).__name__}({self.cell_type}, {len(self.word_to_idx):,} words, {sizes}, {self.dtype.name}"
            f"{special}; {count:,} parameters on the {where}, {kernels_for(self.params['Wh']).name} kernels)"
        )

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
        features : array, shape (N, D), or (N, L, D)
            In the model's dtype.
        captions : numpy.ndarray of int, shape (N, T + 1)
            On the host; ids out of range are still there.
        options : LossOptions
            What `loss` applies besides the model itself.
        """
        if dropout_key is not None:
            check_integer("dropout_key", dropout_key)
        features, ids = self._checked(features, captions)
        check_any_word("captions", ids, self.null)
        return features, ids, self._options(dropout_key)

    def _checked(self, features: Array, captions: Array) -> tuple[Array, Any]:
        """Check the shapes and dtypes of a minibatch; return features in the model's dtype and host captions."""
        features = self._checked_features(features)
        check_captions(captions)
        if captions.shape[0] != features.shape[0]:
            raise InvalidValueError(
                f"captions: expected one row for each of the {features.shape[0]} rows of features, got "
                f"{captions.shape[0]}. Repeat a picture's features for each of its captions."
            )
        return features, to_numpy(captions)

    def _checked_features(self, features: Array) -> Array:
        check_parameters(self.params, self._shapes, self.dtype)
        features = checked_features(features, self.params, self.cell.attends)
        check_finite("features", features)
        return features

    def _operands(self) -> dict[str, Array]:
        """Return the parameters in the order of the kernels' contract."""
        return {name: self.params[name] for name in self._shapes}

    def _options(self, dropout_key: int | None) -> LossOptions:
        """Return what `loss` applies besides the model itself; each dropout has a key of its own."""
        rates = self.feature_dropout, self.output_dropout, *[self.layer_dropout] * (self.n_layers - 1)
        feature, output, *layers = (
            Dropout(fold_key(dropout_key, number), rate) if dropout_key is not None and rate > 0 else None
            for number, rate in enumerate(rates)
        )
        return LossOptions(feature, output, tuple(filter(None, layers)), self.label_smoothing, self.precision)

    def _batch(self, captions: Any, weights: Any = None) -> CaptionBatch:
        """Pack host captions, and copy the packing to where the parameters live."""
        Wh = self.params["Wh"]
        return kernels_for(Wh).caption_batch(captions, self.null, len(self.word_to_idx), Wh, weights)

    def _special(self, word: str) -> int:
        index = self.word_to_idx.get(word)
        if index is None or index >= len(self.word_to_idx):
            raise InvalidValueError(
                f"word_to_idx: expected {word} with an id below {len(self.word_to_idx)}, got {index}."
            )
        return index
