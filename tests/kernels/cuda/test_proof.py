"""Every kernel and variant once more, as its launcher launches it: in any order, under the sanitizers, and broken."""

from __future__ import annotations

import os

import pytest

from capgpu.kernels.cuda.catalogue import CATALOGUE
from emulator.hunts import Hunt
from emulator.mutations import ADDRESS, RESULTS, THREAD
from oracles import kernel_launches
from oracles.broken_kernels import MUTATIONS

DTYPES = ("float32", "float64", "float16")


def representative(variant):
    """Whether a variant stands for its kernel where not all are compiled once more: of several sizes the middle one."""
    name, *macros = variant.split()
    units = [macro for macro in macros if macro.startswith("UNITS=")]
    sizes = [dict(macros)["UNITS"] for macros in CATALOGUE[name].variants] if units else []
    return not units or units[0] == f"UNITS={sizes[len(sizes) // 2]}"


def worthwhile(dtype, variant, hunter):
    """Whether a hunt finds what no other does, for the minutes that all take: orders cost little, sanitizers much.

    Addresses and orders depend on sizes, so that all of float32's are hunted; races depend neither on sizes nor, but
    for the buffers of float64, on types. CI hunts with the sanitizers in float32; CAPGPU_HUNTS=all adds the other
    types.
    """
    if hunter in (RESULTS, ADDRESS) and dtype == "float32":
        return True
    if hunter == RESULTS and representative(variant):
        return True
    chosen = dtype == "float32" or os.environ.get("CAPGPU_HUNTS") == "all"
    return chosen and representative(variant) and (hunter, dtype) != (THREAD, "float16")


SOUND = [
    Hunt(dtype, variant, hunter)
    for dtype in DTYPES
    for variant in sorted(kernel_launches.variants(dtype))
    for hunter in (RESULTS, ADDRESS, THREAD)
    if worthwhile(dtype, variant, hunter)
]
BROKEN = [
    Hunt(mutation.dtype, mutation.kernel, mutation.caught_by, mutation)
    for mutation in MUTATIONS
    # what the barriers of these are for, the kernels without tensor cores show: it is the same text
    if os.environ.get("CAPGPU_HUNTS") == "all"
    or not (mutation.caught_by == THREAD and mutation.kernel.endswith(("_tensor", "_split")))
]


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_kernel_and_variant_is_launched(recordings, dtype):
    assert set(recordings(dtype)) == kernel_launches.variants(dtype)


@pytest.mark.parametrize("hunt", SOUND, ids=str)
def test_nothing_is_found(hunted, hunt):
    if hunt.missing():
        pytest.skip(hunt.missing())
    assert hunted(hunt) == ""


def test_every_kernel_has_broken_copies():
    assert {mutation.kernel for mutation in MUTATIONS} == set(CATALOGUE)


@pytest.mark.parametrize("hunt", BROKEN, ids=str)
def test_a_broken_copy_is_caught(hunted, hunt):
    if hunt.missing():
        pytest.skip(hunt.missing())
    assert hunted(hunt) != ""
