"""Runs of the CUDA recurrences by a given algorithm and variant, for tests."""

from __future__ import annotations

import numpy as np
import pytest

import capgpu
from capgpu.kernels.cuda import compile, launch_heuristics, recurrence
from oracles.halves import BFLOAT16
from oracles.kernel_cases import EXTENTS, KERNEL_CASES, Extents, example, present
from oracles.numbers import TOLERANCE, distance
from simulators.cupy_standin.architecture import ARCHITECTURES
from simulators.cupy_standin.state import STATE

CASES = [case for case in KERNEL_CASES if case.operation in launch_heuristics.PASSES]

VARIANTS = [
    *(("persistent", name, units) for name, kind in launch_heuristics.PASSES.items() for units in kind.units),
    *(("step", name, kind.step_units) for name, kind in launch_heuristics.PASSES.items()),
    *(("matmul", name, 0) for name in launch_heuristics.PASSES),
]

#: Rows of a multiple of 16 bytes are copied in packs, others (H of 33 and 7) element by element; 100 rows are several
#: tiles.
SHAPES = (*EXTENTS, Extents((4,) * 9 + (2,) * 11, 64, 3), Extents((3,) * 50 + (2,) * 41 + (1,) * 9, 24, 3))


#: Of each operation the case with the most options: what concerns its product is tested with this one at every run.
FULLEST = {case.operation: case for case in CASES}


def config_of(algorithm, name, units, dtype, H, N, groups):
    if algorithm == "persistent":
        return launch_heuristics.persistent(name, dtype, H, N, units, min(groups, N))
    return next(config for config in launch_heuristics.candidates(name, dtype, H, N) if config.algorithm == algorithm)


def is_daily(p, dtype="float32"):
    """Return whether parameters are tested at every run: the middle of three sizes; other dtypes with the RNN only.

    Of the GRU, which differs in its pointwise mathematics and its number of columns, one ragged batch.
    """
    if p.name.startswith("gru") and getattr(p, "extents", SHAPES[-2]) is not SHAPES[-2]:
        return False
    has_units = getattr(p, "algorithm", "persistent") == "persistent"
    middle_size = not has_units or p.units == launch_heuristics.PASSES[p.name].units[1]
    return middle_size and (dtype == "float32" or (p.name.startswith("rnn") and (has_units or dtype != "bfloat16")))


def force_algorithm(monkeypatch, algorithm, units, groups):
    """Replace the launch heuristic by a fixed algorithm and variant."""
    monkeypatch.setattr(
        launch_heuristics,
        "choose",
        lambda name, dtype, H, N, T: config_of(algorithm, name, units, dtype, H, N, groups),
        raising=True,
    )


def run(case, arguments):
    dev_arguments = {
        name: capgpu.asarray(value.copy()) if isinstance(value, np.ndarray) and name != "batch_sizes" else value
        for name, value in arguments.items()
    }
    results = getattr(recurrence, case.operation)(**dev_arguments)
    return [capgpu.to_numpy(result) for result in present(results)]


def tolerance_kind(case):
    """Return the key into `TOLERANCE` for a pass, ``forward`` or ``gradient``."""
    (kind,) = set(case.kinds)
    return kind


def check(case, dtype, extents):
    arguments, expected = example(case, extents, dtype)
    for actual, expected_array in zip(run(case, arguments), present(expected), strict=True):
        assert actual.dtype == dtype
        assert distance(actual, expected_array) < TOLERANCE[dtype][tolerance_kind(case)]


def emulate_architecture(architecture):
    """Let the stand-in emulate a device of an architecture."""
    STATE.architecture = ARCHITECTURES[architecture]
    compile.forget()
    launch_heuristics.forget()


#: TF32 rounds factors to 10 fraction bits; half types are multiplied exactly.
TENSOR_CORE_TOLERANCE = {**TOLERANCE, "float32": {"forward": 1e-3, "gradient": 3e-3}}

#: Storage types and settings of CAPGPU_TENSOR_CORES.
PRODUCTS = [
    *(("float32", setting) for setting in ("0", "1", "")),
    ("float64", ""),
    ("float16", ""),
    pytest.param(("bfloat16", ""), marks=BFLOAT16.marks),
]

#: Rows copied in packs of 16 bytes, and element by element.
ALIGNED = (Extents((4, 3, 3, 1), 24, 3), Extents((4, 3, 3, 1), 11, 3))
