"""The process that compiles ahead: it calls each announced operation on tiny arrays, and ends.

`capgpu.kernels.cpu.compile_ahead` starts it. It skips kernels that another process is compiling.
"""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np

from capgpu.kernels.cells import CELLS
from capgpu.kernels.contract import DecodingWeights
from capgpu.kernels.cpu import KERNELS, dropout, garbage_collection
from capgpu.kernels.cpu.claims import BusyError, claims
from capgpu.kernels.cpu.greedy import FEW_BYTES
from capgpu.kernels.cpu.thread_pool import POOL

__all__ = ["main"]

#: Words of weights that threads share by columns (`capgpu.kernels.cpu.greedy.FEW_BYTES`).
WIDE_VOCABULARY = FEW_BYTES // 4
#: Seconds between two checks whether the parent is alive.
CHECK_INTERVAL = 0.5


def main(parent: int, work: Sequence[tuple[Sequence[str], str, int]]) -> None:
    """Compile operations, and store them on disk.

    Parameters
    ----------
    parent : int
        Id of the parent process; this process ends when it has ended.
    work : sequence of (operations, dtype, parameters)
        The announced operations, see `capgpu.kernels.reference.Kernels.announce`. The last operation of each item is
        compiled first, since the parent starts with the first one.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_after, args=(parent,), daemon=True).start()
    claims.active = claims.passes_over = True
    # the garbage collector would repeatedly scan Numba's many objects to free little
    gc.freeze()
    gc.set_threshold(*garbage_collection.COMPILING)
    for operations, dtype, parameters in work:
        for operation in reversed(operations):
            for call in _calls(operation, np.dtype(dtype), parameters):
                with contextlib.suppress(BusyError):
                    call()


def _end_after(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(CHECK_INTERVAL)
    os._exit(0)


def _calls(operation: str, dtype: np.dtype[Any], parameters: int) -> list[Callable[[], Any]]:
    """Return the calls that compile all kernels of an operation."""
    one, index = np.ones((1, 1), dtype), np.zeros(1, np.int64)
    wide, vector = np.ones((1, 4), dtype), np.ones(1, dtype)
    grid = np.ones((1, 1, 1), dtype)
    several = [np.ones((2, 2), dtype) for _ in range(parameters)]
    kernels = KERNELS
    calls: dict[str, list[Callable[[], Any]]] = {
        "caption_batch": [lambda: kernels.caption_batch(np.array([[1, 2]]), 0, 3, one)],
        "matmul": [lambda: kernels.matmul(one, one), POOL.compile_workers],
        "apply_dropout": [
            lambda: dropout.drop_in_place(one.copy(), index, (0, 0, 0, 1.0)),
            lambda: dropout.drop_into(one, index, (0, 0, 0, 1.0), one.copy()),
        ],
        "take_rows": [lambda: kernels.take_rows(one, index)],
        "embedding_gradient": [lambda: kernels.embedding_gradient(one, index, 1)],
        "column_sums": [lambda: kernels.column_sums(one)],
        "attention_lstm_forward": [
            lambda: kernels.attention_lstm_forward(wide, None, grid, wide, wide, index + 1),
        ],
        "attention_lstm_backward": [
            lambda: kernels.attention_lstm_backward(one, wide, one, one, one, grid, wide, wide, index + 1),
        ],
        "linear_cross_entropy": [lambda: kernels.softmax_cross_entropy(one.copy(), index, 1.0)],
        "decode_step": [lambda: kernels.decode_step(wide, None, one, one, wide, one, vector)],
        "attention_decode_step": [
            lambda: kernels.attention_decode_step(wide, None, one, one, grid, None, wide, wide, one, vector),
        ],
        "greedy_captions": [
            lambda: kernels.greedy_captions(one, _decoding_weights(dtype, WIDE_VOCABULARY), 1, 0, 0, 0),
            lambda: kernels.greedy_captions(one, _decoding_weights(dtype, 1), 1, 0, 0, 0),
        ],
        "top_words": [lambda: kernels.top_words(one, 1, np.zeros(1, np.bool_))],
        "draw_words": [lambda: kernels.draw_words(one, vector, 1.0, np.zeros(1, np.bool_))],
        "adam_update": [lambda: kernels.adam_update(several, several, several, several, _settings(parameters, 8), 1.0)],
        "momentum_update": [
            lambda: kernels.momentum_update(several, several, None, _settings(parameters, 2), 1.0),
            lambda: kernels.momentum_update(several, several, several, _settings(parameters, 2), 1.0),
        ],
        "gradient_norm": [lambda: kernels.gradient_norm(several, 1.0)],
    }
    for name, cell in CELLS.items():
        sums, saved = np.ones((1, cell.n_gates), dtype), np.ones((1, cell.n_saved), dtype)
        forward, backward = getattr(kernels, f"{name}_forward"), getattr(kernels, f"{name}_backward")
        states = one, one, saved, one
        calls[f"{name}_forward"] = [partial(forward, sums, None, one, None, sums, index + 1)]
        calls[f"{name}_backward"] = [partial(backward, one, None, *states, None, sums, index + 1)]
    return calls[operation]


def _decoding_weights(dtype: Any, vocabulary_size: int) -> DecodingWeights:
    one, wide = np.ones((1, 1), dtype), np.ones((1, vocabulary_size), dtype)
    return DecodingWeights(wide.reshape(-1, 1), one, one, one[0], wide, wide[0])


def _settings(rows: int, columns: int) -> Any:
    return np.ones((rows, columns))
