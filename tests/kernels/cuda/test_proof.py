"""Every kernel and variant as its launcher launches it: in several orders, under the sanitizers, and broken."""

from __future__ import annotations

import pytest

from capgpu.kernels.cuda.kernel_registry import REGISTRY
from oracles import kernel_launches
from oracles.broken_kernels import MUTATIONS
from simulators.emulator.mutations import ADDRESS, RESULTS, THREAD
from simulators.emulator.sanitizer_runs import SanitizerRun

#: Recording and checking compile for minutes in a fresh checkout, and all runs share the processors.
pytestmark = pytest.mark.timeout(1800)

DTYPES = ("float32", "float64", "float16")


#: Cheap kernels, one of each file: checked by the sanitizers at every run, all others at night.
CHEAP = ("rnn_forward", "softmax_warps", "dropout", "scatter_rows", "square_sums", "choose_words", "spin")


def worthwhile(dtype, variant, checker):
    """Return whether a run can find what no other run finds.

    Addresses and orders depend on sizes, so that all variants of float32 are checked; races depend neither on sizes
    nor, except for the buffers of float64, on types.
    """
    if checker in (RESULTS, ADDRESS) and dtype == "float32":
        return True
    return kernel_launches.representative(variant) and (checker, dtype) != (THREAD, "float16")


SOUND = [
    SanitizerRun(dtype, variant, checker)
    for dtype in DTYPES
    for variant in sorted(kernel_launches.variants(dtype))
    for checker in (RESULTS, ADDRESS, THREAD)
    if worthwhile(dtype, variant, checker)
]
BROKEN = [SanitizerRun(mutation.dtype, mutation.kernel, mutation.caught_by, mutation) for mutation in MUTATIONS]
#: For every checker the first broken copy of each file that it detects; of the recurrences the RNN's, the cheaper one.
OFTEN_BROKEN = list(
    {
        (REGISTRY[run.variant].file, run.checker): run
        for run in reversed(BROKEN)
        if REGISTRY[run.variant].file not in ("lstm.cu", "gru.cu")
    }.values()
)


def often(run):
    """Return whether a sound kernel is checked at every run: the cheap ones; results of all have tests of their own."""
    return run.dtype == "float32" and kernel_launches.representative(run.variant) and run.variant.split()[0] in CHEAP


@pytest.mark.nightly(unless=lambda p: p.dtype == "float32")
@pytest.mark.parametrize("dtype", DTYPES)
def test_every_kernel_and_variant_is_launched(recordings, dtype, pytestconfig):
    launched, variants = set(recordings(dtype)), kernel_launches.variants(dtype)
    if pytestconfig.getoption("--nightly"):
        assert launched == variants
    else:
        assert launched >= {variant for variant in variants if kernel_launches.representative(variant)}


@pytest.mark.nightly(unless=lambda p: often(p.run))
@pytest.mark.parametrize("run", SOUND, ids=str)
def test_a_correct_kernel_passes_every_check(finding_of, run):
    if run.missing():
        pytest.skip(run.missing())
    assert finding_of(run) == ""


def test_every_kernel_has_broken_copies():
    assert {mutation.kernel for mutation in MUTATIONS} == set(REGISTRY)


def test_every_checker_is_used_at_every_run():
    assert {run.checker for run in OFTEN_BROKEN} == {run.checker for run in BROKEN}


@pytest.mark.nightly(unless=lambda p: p.run in OFTEN_BROKEN)
@pytest.mark.parametrize("run", BROKEN, ids=str)
def test_a_broken_copy_is_detected(finding_of, run):
    if run.missing():
        pytest.skip(run.missing())
    assert finding_of(run) != ""
