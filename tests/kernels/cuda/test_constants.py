"""Numbers that launchers and kernels share: one source, and what happens where the two sides disagree."""

from __future__ import annotations

import re

import numpy as np
import pytest

import capgpu
from capgpu.kernels.cuda import compile, constants, launch_heuristics, recurrence
from capgpu.kernels.cuda.device_calls import counting
from capgpu.kernels.cuda.kernel_registry import ENTRIES, compiler_options, variants_of
from oracles.kernel_cases import EXTENTS, KERNEL_CASES, example
from simulators.emulator import build
from simulators.emulator.runner import KernelFaultError

FILES = sorted({entry.file for entry in ENTRIES})


def expanded(file: str, options: tuple[str, ...]) -> str:
    return build.preprocessed(compile.source(file), [option for option in options if option.startswith("-D")])


@pytest.mark.parametrize("file", FILES)
def test_a_block_has_the_threads_that_its_kernel_is_compiled_for(file):
    for entry in ENTRIES:
        if entry.file != file:
            continue
        for dtype, defines in variants_of(entry):
            bounds = build.entry_points(expanded(file, compiler_options(file, dtype, defines)))[entry.name]
            assert re.fullmatch(r"[\d\s()*]+", bounds)
            assert eval(bounds) == entry.block, (entry.name, dtype, defines)


@pytest.mark.parametrize("file", FILES)
def test_a_source_without_one_of_its_numbers_is_not_compiled(file):
    entry = next(entry for entry in ENTRIES if entry.file == file)
    options = compiler_options(file, "float32", entry.variants[0])
    for name in constants.macros(file, "float32", dict(entry.variants[0])):
        incomplete = tuple(option for option in options if not option.startswith(f"-D{name}="))
        assert len(incomplete) == len(options) - 1
        with pytest.raises(build.BuildError, match=rf"#error .*\b{name}\b"):
            expanded(file, incomplete)


@pytest.mark.parametrize("file", FILES)
def test_no_source_defines_a_number_that_it_is_given(file):
    entry = next(entry for entry in ENTRIES if entry.file == file)
    names = "|".join(constants.macros(file, "float32", dict(entry.variants[0])))
    assert not re.search(rf"#\s*define\s+({names})\b", compile.source(file))


@pytest.mark.parametrize("difference", [-16, 16])
@pytest.mark.parametrize("algorithm", ["persistent", "step"])
@pytest.mark.parametrize("name", launch_heuristics.PASSES)
def test_a_wrong_size_of_dynamic_shared_memory_is_detected(device, emulator, monkeypatch, name, algorithm, difference):
    case = next(case for case in KERNEL_CASES if case.operation == name)
    arguments, _ = example(case, EXTENTS[1], "float32")
    given = {
        key: capgpu.asarray(value) if isinstance(value, np.ndarray) and key != "batch_sizes" else value
        for key, value in arguments.items()
    }
    run = getattr(recurrence, name)
    compute = launch_heuristics._shared_bytes
    if algorithm == "step":
        monkeypatch.setattr(launch_heuristics, "_resident", lambda *shape: [])
    launch_heuristics.forget()
    run(**given)
    monkeypatch.setattr(launch_heuristics, "_shared_bytes", lambda *shape: compute(*shape) + difference)
    launch_heuristics.forget()
    with (
        counting() as launches,
        pytest.raises(KernelFaultError, match="dynamic shared memory, the layout takes"),
    ):
        run(**given)
    launch_heuristics.forget()
    assert launches == [f"{name}_split" if algorithm == "persistent" else f"{name}_step"]
