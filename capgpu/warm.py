"""Compile the CPU kernels in advance, instead of at their first calls."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from capgpu.backend import use_backend
from capgpu.decode import beam_search, sample
from capgpu.dtypes import floating_dtype
from capgpu.kernels import Precision, kernels_for
from capgpu.layers.cells import CELLS
from capgpu.model import CaptioningRNN
from capgpu.optim import UPDATE_RULES, Optimizer
from capgpu.vocabulary import END, NULL, START

__all__ = ["warm"]

#: Vocabulary sizes: a small one, and one whose embedding and projection are computed by several threads.
_SMALL, _LARGE = 4, 4096


def warm(dtype: Any = np.float32, cell_types: Sequence[str] = tuple(CELLS)) -> float:
    """Compile all CPU kernels for models of a dtype, and store them on disk.

    Small models are trained for one step with each update rule and generate captions, on the backend ``cpu``; those in
    float32 also with bfloat16 products. Kernels of update rules depend on the number of parameters: they are those of
    models of one layer.

    Parameters
    ----------
    dtype : dtype
        Dtype of the parameters, float32 or float64.
    cell_types : sequence of str
        Recurrent cells, as of `CaptioningRNN`; by default all.

    Returns
    -------
    float
        Elapsed seconds.

    Raises
    ------
    TypeError
        For a dtype that is not floating.
    BackendUnavailableError
        If the backend ``cpu`` is unavailable.
    """
    start, kind = time.perf_counter(), floating_dtype(dtype)
    with use_backend("cpu"):
        # a product large enough for several threads, to compile their kernels
        square = np.ones((256, 256), kind)
        kernels = kernels_for(square)
        kernels.matmul(square, square)
        # models would leave both to a second process, which ends with this one
        _compile_workers()
        kernels.caption_batch(np.array([[1, 2]]), 0, 3, square)
        for cell_type in cell_types:
            # small and large batches are computed by different kernels
            for words, captions in ((_SMALL, 2), (_LARGE, 256)):
                _use(_model(kind, cell_type, words), captions)
            if kind == np.float32:
                _use(_model(kind, cell_type, _SMALL, "bf16"), 2)
    return time.perf_counter() - start


def _compile_workers() -> None:
    from capgpu.kernels.cpu.thread_pool import POOL

    POOL.compile_workers()


def _model(dtype: np.dtype[Any], cell_type: str, words: int, precision: Precision = "float32") -> CaptioningRNN:
    # enough recurrent weights for the float64 kernels to be compiled
    hidden = 16 if dtype == np.float32 else 256
    vocabulary = {word: k for k, word in enumerate((NULL, START, END, *map(str, range(words - 3))))}
    cell: Any = cell_type  # the model checks the name
    return CaptioningRNN(vocabulary, 8, 16, hidden, cell, dtype, seed=0, output_dropout=0.5, precision=precision)


def _use(model: CaptioningRNN, count: int) -> None:
    captions = np.tile(np.array([[1, 3, 2], [1, 2, 0]]), (count // 2, 1))
    shape = (4, 8) if model.cell.attends else (8,)
    _, grads = model.loss(np.ones((count, *shape), model.dtype), captions, dropout_key=0)
    features = np.ones((2, *shape), model.dtype)
    # the kernels of update rules depend on the number of parameters: tied weights are one less
    for names in (list(grads), [name for name in grads if name != "W_vocab"]):
        for rule in UPDATE_RULES:
            params = {name: model.params[name] for name in names}
            Optimizer(rule, {}, params).step(params, {name: grads[name] for name in names}, clip_norm=1.0)
    for pictures in (features, features[:1]):
        model.sample(pictures, 3)
    beam_search(model, features, 2, max_length=3)
    sample(model, features, seed=0, max_length=3)
