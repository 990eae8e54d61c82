"""Every kernel of the registry, launched by its own launcher on small shapes and recorded.

Grid, block, shared memory and arguments are recorded together with the contents of the arrays, so that the same launch
can be repeated under a sanitizer, in another order of threads, or with a broken kernel.
"""

from __future__ import annotations

import os
from typing import Any

import numpy as np

import capgpu
from capgpu.kernels import Dropout
from capgpu.kernels.cells import CELLS
from capgpu.kernels.cuda import KERNELS, compile, embedding, launch_heuristics, recurrence, softmax, stopwatch
from capgpu.kernels.cuda.dropout import StoredDropout, drop_into
from capgpu.kernels.cuda.kernel_registry import REGISTRY
from capgpu.model import CaptioningRNN
from oracles.halves import sums
from oracles.kernel_cases import Extents, example, usual_case
from simulators.emulator.recording import Recording, recording
from simulators.emulator.runner import EmulatorRunner, Launch

#: Ragged, several rows a group, H that is no multiple of anything; and one whose rows are copied 16 bytes at a time,
#: with more than one round of chunks in the backward pass.
RECURRENCES = (Extents((4, 3, 3, 1), 11, 7), Extents((3, 3, 2, 1, 1), 40, 7))
#: So many rows of one group, and so many terms, that a warp fills its buffers more than once in a step.
DEEP = Extents((2,) * 20, 136, 3)
#: Two sequences begin, or end, with every bit set and with every bit but the sign's: the first is what numbers that are
#: not there yet look like, and arithmetic makes it of the second. A third one has an infinite number.
NANS = Extents((4, 3, 1), 24, 5)
#: More than one tile of rows in a group.
TILES = Extents((2,) * 70 + (1,) * 3, 8, 3)
#: ThreadSanitizer holds 8128 threads, fibers included.
MAX_THREADS = 6144


def recorded(
    device: Any, emulator: EmulatorRunner, dtype: str, all_variants: bool = True
) -> dict[str, list[Recording]]:
    """Launch every kernel of a dtype.

    Parameters
    ----------
    device : module
        The stand-in for CuPy.
    emulator : EmulatorRunner
        Executes the kernels.
    dtype : str
        Of the arrays.
    all_variants : bool
        Whether every variant of a recurrence is recorded, not only those that are `representative`.

    Returns
    -------
    dict of list of Recording
        By name of the kernel and its macros, ``"lstm_forward BACKWARD=0 RESIDENT=1 UNITS=8"``: different launches.
    """
    by_variant: dict[str, list[Recording]] = {}
    seen_variants = set()

    def small_and_new(launch: Launch) -> bool:
        scalars = tuple(value.item() for value in launch.args if isinstance(value, np.generic))
        key = (launch.kernel, launch.options, launch.grid, launch.block, launch.shared, scalars)
        return launch.grid * launch.block <= MAX_THREADS and key not in seen_variants and not seen_variants.add(key)

    with recording(emulator, small_and_new) as launches:
        recurrences(dtype, all_variants)
        attention(dtype)
        for work in (softmax_rows, dropout, others):
            work(device, dtype)
    for entry in launches:
        by_variant.setdefault(variant(entry.launch), []).append(entry)
    return {name: _spread(entries) for name, entries in by_variant.items()}


def variant(launch: Launch) -> str:
    """Name a kernel with the macros of its variant."""
    names = tuple(f"-D{name}=" for name, _ in REGISTRY[launch.kernel].variants[0])
    return " ".join((launch.kernel, *(option[2:] for option in launch.options if option.startswith(names))))


def variants(dtype: str) -> set[str]:
    """Name every kernel and variant that the registry has for a dtype."""
    return {
        " ".join((entry.name, *(f"{name}={value}" for name, value in macros)))
        for entry in REGISTRY.values()
        if dtype in entry.dtypes
        for macros in entry.variants
    }


def representative(variant: str) -> bool:
    """Return whether a variant represents its kernel in a reduced run: the middle one of several sizes."""
    name, *given = variant.split()
    units = [macro for macro in given if macro.startswith("UNITS=")]
    sizes = [dict(macros)["UNITS"] for macros in REGISTRY[name].variants] if units else []
    return not units or units[0] == f"UNITS={sizes[len(sizes) // 2]}"


def _spread(entries: list[Recording]) -> list[Recording]:
    """Select the first, the last and three in between; launches below are sorted from plain to special."""
    return entries if len(entries) <= 5 else [entries[k * (len(entries) - 1) // 4] for k in range(5)]


def recurrences(dtype: str, every: bool = True) -> None:
    """Run the recurrences in persistent and step kernels, tensor cores included, rows in two groups.

    In all variants, or, where `every` is false, in one of each kernel, and the largest batches for the RNN only.
    """
    for name, kind in launch_heuristics.PASSES.items():
        case = usual_case(name)
        for extents in (*RECURRENCES, DEEP, NANS, TILES):
            if not every and not name.startswith("rnn") and extents in (DEEP, TILES):
                continue  # seconds in every order of threads, and the RNN's show the same
            N, H, groups = len(extents.lengths), extents.H, 1 if extents is DEEP else 2
            step = next(
                config for config in launch_heuristics.candidates(name, dtype, H, N) if config.algorithm == "step"
            )
            configs, middle = [step], kind.units[len(kind.units) // 2]
            for setting in {"float32": ("0", "1", ""), "float64": ("0",)}.get(dtype, ("0", "1")):
                os.environ["CAPGPU_TENSOR_CORES"] = setting
                # how many units a block has makes no difference to what DEEP is there for
                sizes = kind.units if every and extents is not DEEP else (middle,)
                configs += [launch_heuristics.persistent(name, dtype, H, N, units, groups) for units in sizes]
            del os.environ["CAPGPU_TENSOR_CORES"]
            for config in configs:
                if config.shared > compile.device_limits().shared_per_block:
                    continue  # many units of float64, beside so many terms
                arguments = dict(example(case, extents, dtype)[0])
                if extents is NANS:
                    given = "dhidden" if kind.backward else "h0"
                    arguments[given] = _not_finite(arguments[given])
                _with_config(config, name, on_device(arguments))


def _not_finite(array: Any) -> Any:
    words = array.view(f"u{array.dtype.itemsize}").copy()
    words[0] = np.iinfo(words.dtype).max
    words[1] = words[0] >> 1
    changed = words.view(array.dtype)
    changed[2, 0] = np.inf
    return changed


def _with_config(config: Any, name: str, arguments: dict[str, Any]) -> None:
    """Run a pass into memory that holds plausible numbers, as if an earlier launch had left them."""

    def used(shape: Any, dtype: Any, what: str) -> Any:
        array = empty(shape, dtype, what)
        array.fill(0.25)
        return array

    choose, empty = launch_heuristics.choose, recurrence.empty
    launch_heuristics.choose, recurrence.empty = lambda *given: config, used
    try:
        getattr(recurrence, name)(**arguments)
    finally:
        launch_heuristics.choose, recurrence.empty = choose, empty


def on_device(arguments: dict[str, Any]) -> dict[str, Any]:
    return {
        name: capgpu.asarray(value) if isinstance(value, np.ndarray) and name != "batch_sizes" else value
        for name, value in arguments.items()
    }


def attention(dtype: str) -> None:
    """Run the attention LSTM and a step of its decoding, with fewer cells than a warp has lanes, and with more."""
    for extents in (RECURRENCES[0], Extents((3, 2), 40, 37)):
        for operation in ("attention_lstm_forward", "attention_lstm_backward", "attention_decode_step"):
            arguments, _ = example(usual_case(operation), extents, dtype)
            getattr(KERNELS, operation)(**on_device(dict(arguments)))


def softmax_rows(device: Any, dtype: str) -> None:
    """Run all softmax kernels, vectorized and scalar, with and without smoothing, and the sum of the losses."""
    row_threads, random = softmax.ROW_THREADS, np.random.default_rng(5)
    for threads, unsmoothed_sizes, smoothed_sizes in (
        (row_threads, (7, 40, 1160, 1165), (33, 1160, 1165)),
        (0, (520, 525), (520,)),
    ):
        softmax.ROW_THREADS = threads  # with none, no row is held in registers
        for size in unsmoothed_sizes:
            scores = device.asarray(random.standard_normal((5, size)).astype(dtype))
            targets = device.asarray(np.array([3, -1, 0, size - 1, 2]))
            KERNELS.softmax_cross_entropy(scores, targets, 0.5)
        for size in smoothed_sizes:
            KERNELS.linear_cross_entropy(
                device.asarray(random.standard_normal((5, 4)).astype(dtype)),
                device.asarray(random.standard_normal((4, size)).astype(dtype)),
                device.asarray(random.standard_normal(size).astype(dtype)),
                device.asarray(np.array([3, -1, 0, 32, 2])),
                0.5,
                smoothing=0.25,
                row_weights=device.asarray(np.array([2, 1, -0.5, 0, 1], sums(dtype))) if size != 1160 else None,
            )
    softmax.ROW_THREADS = row_threads


def dropout(device: Any, dtype: str) -> None:
    """Run dropout on a size with a remainder, and on an unaligned range."""
    for size in (1, 37, 2400):
        array = device.asarray(np.random.default_rng(7).standard_normal(size).astype(dtype))
        drop_into(array, Dropout(5, 0.4), device.empty(size, dtype))
        drop_into(array[1:], Dropout(5, 0.4), array[1:])
    key_words, rows = device.asarray(np.array([5, 6], np.uint32)), device.asarray(np.array([0, 2, 1, 4], np.int32))
    array = device.asarray(np.random.default_rng(7).standard_normal((4, 37)).astype(dtype))
    drop_into(array, StoredDropout(0, 0.4, rows, None, key_words), device.empty(array.shape, dtype))


def others(device: Any, dtype: str) -> None:
    """Run sums of rows, updates, decoding, and a whole training step."""
    random = np.random.default_rng(6)

    def draw(*shape: int, dtype: str = dtype) -> Any:
        return device.asarray(random.standard_normal(shape).astype(dtype))

    index = device.asarray(random.integers(0, 6, 21))
    for width in (5, 132):
        KERNELS.embedding_gradient(draw(21, width), index, 8)
        embedding.gather_rows(draw(8, width), index.astype(np.int32), device.empty((21, width), dtype))
        for work in (embedding.scatter_rows_into, embedding.add_rows_into):
            work(draw(9, width), device.arange(1, 18, 2, dtype=np.int32), draw(19, width))
        KERNELS.column_sums(draw(300, width))
        KERNELS.matmul(draw(9, 3), draw(3, width), draw(width))
    KERNELS.column_sums(draw(70, 12)[:, 4:], draw(5, 13)[:, :7])
    sizes = (1, 4099, 33, 64)
    ws, gs = ([draw(size) for size in sizes] for _ in range(2))
    ms = [draw(size, dtype=sums(dtype)) for size in sizes]
    KERNELS.adam_update(ws, gs, ms, [value * value for value in ms], np.full((4, 8), 0.5), 1.0)
    KERNELS.momentum_update(ws, gs, ms, np.full((4, 2), 0.5), 1.0)
    KERNELS.momentum_update(ws, gs, None, np.full((4, 2), 0.5), 1.0)
    KERNELS.gradient_norm(gs, 1.0)
    if dtype == "float32":
        stopwatch.spin(3)
    words = {"<NULL>": 0, "<START>": 1, "<END>": 2, **{f"w{k}": k for k in range(3, 17)}}
    captions = np.array([[1, 4, 5, 6, 2, 0], [1, 7, 2, 0, 0, 0], [1, 5, 0, 6, 4, 2], [0, 0, 0, 0, 0, 0]])
    for cell in CELLS:
        for H in (6, 8):
            model = CaptioningRNN(words, 7, 4, H, cell, dtype, seed=3)
            model.loss(draw(4, 7), captions)
            model.sample(draw(4, 7), 3)
