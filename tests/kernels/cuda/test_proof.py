"""Every kernel and variant once more, as its launcher launches it: in any order, under the sanitizers, and broken."""

from __future__ import annotations

import pytest

from capgpu.kernels.cuda.kernel_registry import REGISTRY
from emulator.hunts import Hunt
from emulator.mutations import ADDRESS, RESULTS, THREAD
from oracles import kernel_launches
from oracles.broken_kernels import MUTATIONS

#: Recording and hunting compile for minutes where nothing is compiled yet, and all hunts share the processors.
pytestmark = pytest.mark.timeout(1800)

DTYPES = ("float32", "float64", "float16")


#: Cheap kernels, one of each file: the sanitizers are set on them at every run, on all others at night.
CHEAP = ("rnn_forward", "softmax_warps", "dropout", "scatter_rows", "square_sums", "choose_words", "spin")


def worthwhile(dtype, variant, hunter):
    """Whether a hunt finds what no other does.

    Addresses and orders depend on sizes, so that all of float32's are hunted; races depend neither on sizes nor, but
    for the buffers of float64, on types.
    """
    if hunter in (RESULTS, ADDRESS) and dtype == "float32":
        return True
    return kernel_launches.representative(variant) and (hunter, dtype) != (THREAD, "float16")


SOUND = [
    Hunt(dtype, variant, hunter)
    for dtype in DTYPES
    for variant in sorted(kernel_launches.variants(dtype))
    for hunter in (RESULTS, ADDRESS, THREAD)
    if worthwhile(dtype, variant, hunter)
]
BROKEN = [Hunt(mutation.dtype, mutation.kernel, mutation.caught_by, mutation) for mutation in MUTATIONS]
#: For every hunter the first broken copy of each file that it catches; of the recurrences the RNN's, the cheaper one.
OFTEN_BROKEN = list(
    {
        (REGISTRY[hunt.variant].file, hunt.hunter): hunt
        for hunt in reversed(BROKEN)
        if REGISTRY[hunt.variant].file != "lstm.cu"
    }.values()
)


def often(hunt):
    """Whether a hunt for nothing is worth its time at every run: each kernel by its results, some by the sanitizers."""
    if hunt.dtype != "float32" or not kernel_launches.representative(hunt.variant):
        return False
    return hunt.hunter == RESULTS or hunt.variant.split()[0] in CHEAP


@pytest.mark.nightly(unless=lambda p: p.dtype == "float32")
@pytest.mark.parametrize("dtype", DTYPES)
def test_every_kernel_and_variant_is_launched(recordings, dtype, pytestconfig):
    launched, variants = set(recordings(dtype)), kernel_launches.variants(dtype)
    if pytestconfig.getoption("--nightly"):
        assert launched == variants
    else:
        assert launched >= {variant for variant in variants if kernel_launches.representative(variant)}


@pytest.mark.nightly(unless=lambda p: often(p.hunt))
@pytest.mark.parametrize("hunt", SOUND, ids=str)
def test_nothing_is_found(hunted, hunt):
    if hunt.missing():
        pytest.skip(hunt.missing())
    assert hunted(hunt) == ""


def test_every_kernel_has_broken_copies():
    assert {mutation.kernel for mutation in MUTATIONS} == set(REGISTRY)


def test_every_hunter_is_tried_at_every_run():
    assert {hunt.hunter for hunt in OFTEN_BROKEN} == {hunt.hunter for hunt in BROKEN}


@pytest.mark.nightly(unless=lambda p: p.hunt in OFTEN_BROKEN)
@pytest.mark.parametrize("hunt", BROKEN, ids=str)
def test_a_broken_copy_is_caught(hunted, hunt):
    if hunt.missing():
        pytest.skip(hunt.missing())
    assert hunted(hunt) != ""
