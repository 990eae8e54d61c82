"""The recurrences' launches run again by what looks for races, bad addresses and luck; broken copies must be caught."""

from __future__ import annotations

import numpy as np
import pytest

import capgpu
from capgpu.kernels.cuda import recurrence, tiers
from emulator import build
from emulator.mutations import ADDRESS, FAULT, RESULTS, THREAD, Mutation, finding
from emulator.recording import recording
from oracles.kernel_cases import KERNEL_CASES, Extents

SANITIZERS = {ADDRESS: build.ADDRESS, THREAD: build.THREAD}

#: Launches that reach every branch: ragged, two groups; packs or single numbers; several tiles; buffers used again.
LAUNCHES = {
    "lstm_forward": ("persistent", 4, Extents((3, 3, 2, 1, 1), 17, 1), 2),
    "lstm_forward, tiles": ("persistent", 16, Extents((2,) * 21 + (1,) * 14, 8, 1), 1),
    "lstm_backward": ("persistent", 8, Extents((3, 3, 2, 1, 1), 9, 1), 2),
    "rnn_forward": ("persistent", 8, Extents((3, 2, 2, 1), 12, 1), 2),
    "rnn_backward": ("persistent", 8, Extents((3, 2, 2, 1), 12, 1), 2),
    "lstm_forward_step": ("step", 8, Extents((2, 1), 148, 1), 1),
    "lstm_backward_step": ("step", 16, Extents((2, 2, 1), 9, 1), 1),
    "rnn_forward_step": ("step", 16, Extents((2, 2, 1), 12, 1), 1),
    "rnn_backward_step": ("step", 16, Extents((2, 2, 1), 12, 1), 1),
    "lstm_forward_tensor": ("persistent", 4, Extents((2, 2, 1), 8, 1), 1),
    "lstm_backward_tensor": ("persistent", 8, Extents((2, 2, 1), 8, 1), 1),
}

MUTATIONS = (
    Mutation(
        "lstm_forward",
        "no waiting for the group",
        "while (((load_acquire(counter) ^ before) & 0x80000000u) == 0) SPIN();",
        "",
        RESULTS,
    ),
    Mutation(
        "lstm_backward",
        "no waiting for the group",
        "while (((load_acquire(counter) ^ before) & 0x80000000u) == 0) SPIN();",
        "",
        THREAD,
    ),
    Mutation("lstm_forward", "a block that is not counted", "(unsigned)(blocks - 1)", "(unsigned)(blocks)", FAULT),
    Mutation(
        "lstm_forward",
        "arrival without release",
        "__threadfence();\n        before = fetch_add_release(",
        "before = atomicAdd(",
        THREAD,
    ),
    Mutation(
        "rnn_forward",
        "arrival before the block's results",
        "__syncthreads();  // this block's results come before its arrival",
        "",
        THREAD,
    ),
    Mutation(
        "rnn_forward",
        "threads that go on before the group has arrived",
        "__syncthreads();  // no thread goes on before all blocks of the group have arrived",
        "",
        THREAD,
    ),
    Mutation(
        "lstm_forward",
        "sums read before all warps have written them",
        "// h of the step before is complete\n            step.multiply(left);\n            __syncthreads();",
        "// h of the step before is complete\n            step.multiply(left);\n",
        RESULTS,
    ),
    Mutation(
        "lstm_forward, tiles",
        "sums of a tile overwritten before they are read",
        "__syncthreads();  // the sums of the tile before have been read\n            else if (t > first)",
        ";\n            else if (t > first)",
        THREAD,
    ),
    Mutation(
        "lstm_forward_step",
        "copies read before they have arrived",
        "__syncwarp();  // every lane's copies of this chunk have arrived",
        "",
        THREAD,
    ),
    Mutation(
        "lstm_forward",
        "weights read before all lanes have loaded them",
        "__syncwarp();  // every lane's copies of this chunk have arrived",
        "",
        THREAD,
    ),
    Mutation(
        "lstm_forward",
        "weights multiplied by another warp than has loaded them",
        "slab() + chunk * RIGHT_CHUNK : left",
        "slab() + (chunk ^ 1) * RIGHT_CHUNK : left",
        THREAD,
    ),
    Mutation(
        "lstm_forward_step",
        "copies over what is being read",
        "__syncwarp();  // all lanes have read this buffer before copies overwrite it",
        "",
        THREAD,
    ),
    Mutation(
        "rnn_backward",
        "a row too many",
        "(count - group + groups - 1) / groups",
        "(count - group + groups) / groups",
        ADDRESS,
    ),
    Mutation(
        "lstm_forward",
        "a number past the row's end",
        "if (row < rows.count && depth + place < K) {",
        "if (row < rows.count && depth + place <= K) {",
        ADDRESS,
    ),
    Mutation(
        "rnn_forward",
        "16 bytes past the row's end",
        "const bool there = row < rows.count && depth + place < K;",
        "const bool there = row < rows.count && depth + place <= K;",
        ADDRESS,
    ),
    Mutation(
        "lstm_backward",
        "a gradient of c that no later step has sent",
        "acc dc = row >= left.count ? acc(0) : RESIDENT",
        "acc dc = row >= height ? acc(0) : RESIDENT",
        RESULTS,
    ),
    Mutation(
        "lstm_backward_step",
        "weights of the wrong column",
        "unit + column < H ? Wh + (long long)(unit + column) * K",
        "unit + column < H ? Wh + (long long)(unit + (column ^ 1)) * K",
        RESULTS,
    ),
    Mutation(
        "lstm_forward_tensor",
        "words of a matrix in the wrong lanes",
        "const int row = 16 * i + group() + k % 2 * 8, term = depth + WORD * (place() + k / 2 * 4);",
        "const int row = 16 * i + group() + k / 2 * 8, term = depth + WORD * (place() + k % 2 * 4);",
        RESULTS,
    ),
)


@pytest.fixture(scope="module")
def recordings():
    return {}


@pytest.fixture
def recorded(request, standin, emulator, monkeypatch, recordings):
    """The launch of a persistent pass, or the second of a pass that launches step by step."""
    key = request.param
    if key not in recordings:
        capgpu.set_backend("cuda")
        tier, units, extents, groups = LAUNCHES[key]
        name = key.split(",")[0].removesuffix("_step").removesuffix("_tensor")
        if key.endswith("_tensor"):
            monkeypatch.setenv("CAPGPU_TENSOR_CORES", "1")
        case = next(case for case in KERNEL_CASES if case.operation == name)
        arguments = case.arguments(np.random.default_rng(231), extents, "float32")
        count = len(extents.lengths)
        if tier == "persistent":
            plan = tiers.persistent(name, "float32", extents.H, count, units, groups)
        else:
            plan = next(p for p in tiers.candidates(name, "float32", extents.H, count) if p.tier == tier)
        monkeypatch.setattr(tiers, "plan", lambda *shape: plan)
        there = {
            key: capgpu.asarray(value) if isinstance(value, np.ndarray) and key != "batch_sizes" else value
            for key, value in arguments.items()
        }
        with recording(emulator) as launches:
            getattr(recurrence, name)(**there)
        recordings[key] = launches[1 if tier == "step" else 0]
    return recordings[key]


def skip_without(hunter):
    if hunter in SANITIZERS and build.missing_sanitizer(SANITIZERS[hunter]):
        pytest.skip(build.missing_sanitizer(SANITIZERS[hunter]))


@pytest.mark.parametrize("hunter", [RESULTS, ADDRESS, THREAD])
@pytest.mark.parametrize("recorded", LAUNCHES, indirect=True)
def test_nothing_is_found_in_the_recurrences(recorded, hunter, emulator):
    skip_without(hunter)
    assert finding(recorded, emulator.workshop, hunter) == ""


@pytest.mark.parametrize(
    ("recorded", "mutation"), [(m.kernel, m) for m in MUTATIONS], ids=map(str, MUTATIONS), indirect=["recorded"]
)
def test_a_broken_copy_is_caught(recorded, mutation, emulator):
    skip_without(mutation.caught_by)
    assert finding(recorded, emulator.workshop, mutation.caught_by, mutation.apply(recorded.launch.code)) != ""
