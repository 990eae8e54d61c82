"""The recurrences in every algorithm and variant, against plain loops in float64."""

from __future__ import annotations

import numpy as np
import pytest

import capgpu
from capgpu.kernels.cuda import compile, launch_heuristics, recurrence
from capgpu.kernels.cuda.device_calls import counting
from capgpu.kernels.cuda.kernel_registry import REGISTRY
from oracles.halves import ALL, BFLOAT16
from oracles.kernel_cases import EXTENTS, KERNEL_CASES, Extents, example, present, usual_case
from oracles.numbers import TOLERANCE, distance
from oracles.recurrences import lstm_sequence, lstm_sequence_backward, rnn_sequence, rnn_sequence_backward
from oracles.snapshots import frozen
from simulators.cupy_standin.architecture import ARCHITECTURES
from simulators.cupy_standin.state import STATE
from simulators.emulator.runner import ORDERS, Order

CASES = [case for case in KERNEL_CASES if case.operation in launch_heuristics.PASSES]
VARIANTS = [
    *(("persistent", name, units) for name, kind in launch_heuristics.PASSES.items() for units in kind.units),
    *(("step", name, kind.step_units) for name, kind in launch_heuristics.PASSES.items()),
    *(("matmul", name, 0) for name in launch_heuristics.PASSES),
]
#: 16-byte copies need whole packs in a row of H numbers; 33 and 7 go number by number. 100 rows are several tiles.
SHAPES = (*EXTENTS, Extents((4,) * 9 + (2,) * 11, 64, 3), Extents((3,) * 50 + (2,) * 41 + (1,) * 9, 24, 3))


def config_of(algorithm, name, units, dtype, H, N, groups):
    if algorithm == "persistent":
        return launch_heuristics.persistent(name, dtype, H, N, units, min(groups, N))
    return next(config for config in launch_heuristics.candidates(name, dtype, H, N) if config.algorithm == algorithm)


def often(p, dtype="float32"):
    """Whether parameters are tested at every run: the middle one of three sizes; types but float32 with the RNN."""
    sized = getattr(p, "algorithm", "persistent") == "persistent"
    usual = not sized or p.units == launch_heuristics.PASSES[p.name].units[1]
    return usual and (dtype == "float32" or (p.name.startswith("rnn") and (sized or dtype != "bfloat16")))


def force_algorithm(monkeypatch, algorithm, units, groups):
    """Let every recurrence use an algorithm, whatever the heuristic says."""
    monkeypatch.setattr(
        launch_heuristics,
        "choose",
        lambda name, dtype, H, N, T: config_of(algorithm, name, units, dtype, H, N, groups),
        raising=True,
    )


def run(case, arguments):
    there = {
        name: capgpu.asarray(value.copy()) if isinstance(value, np.ndarray) and name != "batch_sizes" else value
        for name, value in arguments.items()
    }
    results = getattr(recurrence, case.operation)(**there)
    return [capgpu.to_numpy(result) for result in present(results)]


def kind_of(case):
    """Return what all results of a pass are, states or gradients."""
    (kind,) = set(case.kinds)
    return kind


def check(case, dtype, extents):
    arguments, wanted = example(case, extents, dtype)
    for got, want in zip(run(case, arguments), present(wanted), strict=True):
        assert got.dtype == dtype
        assert distance(got, want) < TOLERANCE[dtype][kind_of(case)]


def become(architecture):
    """Make the stand-in a device of an architecture."""
    STATE.architecture = ARCHITECTURES[architecture]
    compile.forget()
    launch_heuristics.forget()


@pytest.fixture
def cuda(device, real_device):
    """The device, or an H100 emulated: its kernels have the most numbers under way."""
    before = STATE.architecture
    if real_device:
        launch_heuristics.forget()
    else:
        become("sm_90")
    yield device
    STATE.architecture = before
    launch_heuristics.forget()
    if not real_device:
        compile.forget()


@pytest.mark.nightly(unless=lambda p: often(p, p.dtype))
@pytest.mark.parametrize("extents", SHAPES, ids=range(len(SHAPES)))
@pytest.mark.parametrize("dtype", ALL)
@pytest.mark.parametrize(("algorithm", "name", "units"), VARIANTS)
def test_every_algorithm_and_variant_agrees_with_the_loops(cuda, monkeypatch, algorithm, name, units, dtype, extents):
    monkeypatch.setenv("CAPGPU_TENSOR_CORES", "0")
    force_algorithm(monkeypatch, algorithm, units, groups=2)
    for case in CASES:
        if case.operation == name:
            check(case, dtype, extents)


def test_every_kernel_of_a_recurrence_is_among_the_variants():
    suffixes = {"persistent": ("", "_tensor", "_split"), "step": ("_step",), "matmul": ()}
    tested = {(f"{name}{suffix}", units) for algorithm, name, units in VARIANTS for suffix in suffixes[algorithm]}
    entries = [entry for entry in REGISTRY.values() if entry.file in ("lstm.cu", "rnn.cu")]
    assert tested == {(entry.name, dict(macros)["UNITS"]) for entry in entries for macros in entry.variants}


#: At every run each argument in one of the algorithms.
SHIFTED = [
    *(("persistent", name) for name in ("h0", "dhidden", "gates")),
    *(("step", name) for name in ("projected", "c0", "Wh", "dcell", "cell", "hidden")),
]


@pytest.mark.nightly(unless=lambda p: (p.algorithm, p.shifted) in SHIFTED)
@pytest.mark.parametrize("shifted", ["projected", "h0", "c0", "Wh", "dhidden", "dcell", "gates", "cell", "hidden"])
@pytest.mark.parametrize("algorithm", ["persistent", "step"])
def test_memory_that_begins_between_packs_is_read_number_by_number(cuda, monkeypatch, algorithm, shifted):
    # H of 64 numbers, so that only the first address keeps rows from being copied by 16 bytes
    extents, ran = SHAPES[-2], 0
    for case in CASES:
        arguments, wanted = example(case, extents, "float32")
        if not isinstance(arguments.get(shifted), np.ndarray):
            continue
        force_algorithm(monkeypatch, algorithm, launch_heuristics.PASSES[case.operation].units[1], groups=2)
        there = {
            name: capgpu.asarray(value) if isinstance(value, np.ndarray) and name != "batch_sizes" else value
            for name, value in arguments.items()
        }
        flat = arguments[shifted].ravel()
        there[shifted] = capgpu.asarray(np.append(flat[:1], flat))[1:].reshape(arguments[shifted].shape)
        assert there[shifted].data.ptr % 16
        results = getattr(recurrence, case.operation)(**there)
        for got, want in zip(present(results), present(wanted), strict=True):
            assert distance(capgpu.to_numpy(got), want) < TOLERANCE["float32"][kind_of(case)]
        ran += 1
    assert ran


@pytest.mark.nightly(unless=lambda p: often(p, p.dtype) and p.name.startswith("rnn"))
@pytest.mark.parametrize(("dtype", "setting"), [("float32", "0"), ("float32", ""), ("float64", "")])
@pytest.mark.parametrize(("algorithm", "name", "units"), [variant for variant in VARIANTS if variant[0] != "matmul"])
def test_buffers_are_used_again_within_a_step(cuda, monkeypatch, algorithm, name, units, dtype, setting):
    # 528 terms are 33 chunks for 8 warps that fetch 4 of 16 rows at most at once, or 4 warps of 2 buffers
    extents = Extents((2,) * 17, 528, 1)
    monkeypatch.setenv("CAPGPU_TENSOR_CORES", setting)
    case = next(case for case in CASES if case.operation == name)
    config = config_of(algorithm, name, units, dtype, 528, 17, 1)
    if config.shared > compile.device_limits().shared_per_block:
        with pytest.raises(compile.LaunchError, match="shared memory"):
            config.kernel(name, dtype)(config.grid, config.block, (), config.shared)
        return
    force_algorithm(monkeypatch, algorithm, units, groups=1)
    check(case, dtype, extents)


#: TF32 keeps 10 bits behind the point; half types are multiplied exactly.
ON_TENSOR_CORES = {**TOLERANCE, "float32": {"forward": 1e-3, "gradient": 3e-3}}


@pytest.mark.nightly(unless=lambda p: often(p) and (p.name.startswith("rnn") or p.extents in (EXTENTS[1], SHAPES[-2])))
@pytest.mark.parametrize(
    "extents",
    [
        *(EXTENTS[1], EXTENTS[2], SHAPES[-2], SHAPES[-1]),
        # 41 terms, 164 in the LSTM's backward pass: several chunks a warp, the last one not whole; two tiles of rows
        Extents((3,) * 37 + (2,) * 30 + (1,) * 2, 41, 3),
        Extents((2,) * 35, 136, 2),  # the same in packs
    ],
    ids=["ragged", "numbers", "packs", "tiles", "tiles of numbers", "chunks"],
)
@pytest.mark.parametrize(
    ("dtype", "setting"),
    [("float32", "1"), ("float32", ""), ("float16", ""), pytest.param("bfloat16", "", marks=BFLOAT16.marks)],
    ids=["tf32", "float32", "float16", "bfloat16"],
)
@pytest.mark.parametrize(
    ("name", "units"), [(name, units) for algorithm, name, units in VARIANTS if algorithm == "persistent"]
)
def test_tensor_cores_agree_with_the_loops_within_their_precision(
    cuda, monkeypatch, name, units, dtype, setting, extents
):
    split = dtype == "float32" and not setting
    tolerance = TOLERANCE[dtype] if split else ON_TENSOR_CORES[dtype]
    monkeypatch.setenv("CAPGPU_TENSOR_CORES", setting)
    force_algorithm(monkeypatch, "persistent", units, groups=2)
    for case in CASES:
        if case.operation == name:
            arguments, wanted = example(case, extents, dtype)
            with counting() as launches:
                results = run(case, arguments)
            assert f"{name}_{'split' if split else 'tensor'}" in launches
            for got, want in zip(results, present(wanted), strict=True):
                assert distance(got, want) < tolerance[kind_of(case)]


@pytest.mark.nightly(unless=lambda p: often(p) and p.name.startswith("rnn") and p.setting == "")
@pytest.mark.standin
@pytest.mark.parametrize(("dtype", "setting"), [("float32", "0"), ("float32", ""), ("float16", "")])
@pytest.mark.parametrize(
    ("name", "units"), [(name, units) for algorithm, name, units in VARIANTS if algorithm == "persistent"]
)
def test_devices_with_less_shared_memory_compute_the_same_bits(cuda, monkeypatch, name, units, dtype, setting):
    # their blocks take fewer rows at once, and have fewer loads under way
    monkeypatch.setenv("CAPGPU_TENSOR_CORES", setting)
    case = next(case for case in CASES if case.operation == name)
    arguments, _ = example(case, SHAPES[-1], dtype)
    force_algorithm(monkeypatch, "persistent", units, groups=2)
    results = []
    for architecture in ("sm_90", "sm_80"):
        become(architecture)
        results.append(frozen(run(case, arguments)))
    assert results[0] == results[1]


@pytest.mark.parametrize(("dtype", "setting"), [("float32", "1"), ("float32", "")], ids=["tf32", "half split"])
def test_products_without_the_low_halves_are_not_precise_enough(cuda, monkeypatch, dtype, setting):
    """The tolerance tells split products from rounded ones, and from ones where the low halves of one factor lack."""
    source = compile.source
    lacking = "multiply_matrices(sums[i][j], low[i], first.high, second.high);"
    assert source("rnn.cu").count(lacking) == 1
    monkeypatch.setenv("CAPGPU_TENSOR_CORES", setting)
    monkeypatch.setattr(compile, "source", lambda file: source(file).replace(lacking, ""))
    compile.forget()
    force_algorithm(monkeypatch, "persistent", 16, groups=2)
    case = next(case for case in CASES if case.operation == "rnn_forward")
    arguments, wanted = example(case, SHAPES[-2], dtype)
    got, _ = run(case, arguments)
    compile.forget()
    assert distance(got, wanted[0]) > 2 * TOLERANCE[dtype]["forward"]


# --- numbers that announce themselves ---------------------------------------------------------------

#: Storage types and ways to multiply.
PRODUCTS = [
    *(("float32", setting) for setting in ("0", "1", "")),
    ("float64", ""),
    ("float16", ""),
    pytest.param(("bfloat16", ""), marks=BFLOAT16.marks),
]
#: Rows in packs of 16 bytes, and number by number.
ALIGNED = (Extents((4, 3, 3, 1), 24, 3), Extents((4, 3, 3, 1), 11, 3))


def words(dtype):
    return np.dtype(f"u{np.dtype(dtype).itemsize}")


def rows_of(extents, sequence):
    """Return the packed rows of a sequence."""
    alive = [sum(length > t for length in extents.lengths) for t in range(max(extents.lengths))]
    starts = np.cumsum([0, *alive])
    return [int(starts[t]) + sequence for t in range(extents.lengths[sequence])]


@pytest.fixture(params=PRODUCTS, ids=lambda product: f"{product[0]}{product[1]}")
def multiplied(request, monkeypatch):
    """Storage type, products set."""
    dtype, setting = request.param
    monkeypatch.setenv("CAPGPU_TENSOR_CORES", setting)
    return dtype


@pytest.mark.nightly(unless=lambda p: p.name.startswith("rnn") or p.multiplied == ("float32", "0"))
@pytest.mark.parametrize("extents", ALIGNED, ids=["packs", "numbers"])
@pytest.mark.parametrize("name", launch_heuristics.PASSES)
def test_what_memory_held_before_does_not_change_a_bit(cuda, monkeypatch, multiplied, name, extents):
    case = usual_case(name)
    force_algorithm(monkeypatch, "persistent", launch_heuristics.PASSES[name].units[1], groups=2)
    arguments, _ = example(case, extents, multiplied)
    bits = words(multiplied)
    ones = np.array(np.iinfo(bits).max, bits)
    plausible = np.array(0.25, multiplied).view(bits)
    empty, results = recurrence.empty, []
    for content in (plausible, ones, ones >> 1, np.array(0, bits)):

        def used(shape, dtype, what, content=content):
            array = empty(shape, dtype, what)
            array.view(bits).fill(content[()])
            return array

        monkeypatch.setattr(recurrence, "empty", used)
        results.append(frozen(run(case, arguments)))
    assert results[1:] == results[:1] * 3


@pytest.mark.nightly(unless=lambda p: p.name.startswith("rnn") or p.multiplied == ("float32", "0"))
@pytest.mark.parametrize("sign", [0, 1])
@pytest.mark.parametrize("extents", ALIGNED, ids=["packs", "numbers"])
@pytest.mark.parametrize("name", launch_heuristics.PASSES)
def test_a_nan_of_all_bits_stays_in_its_sequence(cuda, monkeypatch, multiplied, name, extents, sign):
    case = usual_case(name)
    force_algorithm(monkeypatch, "persistent", launch_heuristics.PASSES[name].units[1], groups=2)
    arguments = dict(example(case, extents, multiplied)[0])
    clean = run(case, arguments)
    bits, rows = words(multiplied), rows_of(extents, 1)
    given, row = ("dhidden", rows[-1]) if launch_heuristics.PASSES[name].backward else ("h0", 1)
    arguments[given] = arguments[given].copy()
    arguments[given].view(bits)[row] = np.iinfo(bits).max >> sign
    for got, without in zip(run(case, arguments), clean, strict=True):
        mine = np.zeros(len(got), bool)
        mine[rows if len(got) == sum(extents.lengths) else [1]] = True
        assert np.isnan(got[mine].astype(np.float64)).all()
        np.testing.assert_array_equal(got[~mine], without[~mine])


def not_finite(case, dtype, extents, given, place, value):
    """Return the results of a case where one number is not finite, and the loops'."""
    arguments = dict(example(case, extents, dtype)[0])
    arguments[given] = arguments[given].copy()
    arguments[given][place] = value
    floats = {
        key: value.astype(np.float64) if isinstance(value, np.ndarray) and value.dtype == np.dtype(dtype) else value
        for key, value in arguments.items()
    }
    with np.errstate(all="ignore"):
        return run(case, arguments), case.plain(floats, extents)


@pytest.mark.nightly(unless=lambda p: p.name.startswith("rnn") or p.multiplied == ("float32", "0"))
@pytest.mark.parametrize("value", [np.inf, -np.inf])
@pytest.mark.parametrize("given", ["h0", "Wh"])
@pytest.mark.parametrize("extents", ALIGNED, ids=["packs", "numbers"])
@pytest.mark.parametrize("name", ["lstm_forward", "rnn_forward"])
def test_an_infinite_number_saturates_what_it_is_multiplied_into(
    cuda, monkeypatch, multiplied, name, extents, given, value
):
    case = usual_case(name)
    force_algorithm(monkeypatch, "persistent", launch_heuristics.PASSES[name].units[1], groups=2)
    results, wanted = not_finite(case, multiplied, extents, given, (1, 2), value)
    # the last are the states before each step, h0 among them
    for got, want in zip(results[:-1], present(wanted)[:-1], strict=True):
        assert distance(got, want) < ON_TENSOR_CORES[multiplied][kind_of(case)]


@pytest.mark.nightly(unless=lambda p: p.name.startswith("rnn") or p.multiplied == ("float32", "0"))
@pytest.mark.parametrize("value", [np.inf, -np.inf])
@pytest.mark.parametrize("extents", ALIGNED, ids=["packs", "numbers"])
@pytest.mark.parametrize("name", ["lstm_backward", "rnn_backward"])
def test_an_infinite_gradient_leaves_no_finite_one_before_it(cuda, monkeypatch, multiplied, name, extents, value):
    case = usual_case(name)
    force_algorithm(monkeypatch, "persistent", launch_heuristics.PASSES[name].units[1], groups=2)
    last = rows_of(extents, 1)[-1]
    for got, want in zip(*not_finite(case, multiplied, extents, "dhidden", (last, 2), value), strict=True):
        np.testing.assert_array_equal(np.isfinite(got.astype(np.float64)), np.isfinite(want))


@pytest.mark.nightly(unless=lambda p: p.groups == 3 or p.case.operation.startswith("rnn"))
@pytest.mark.parametrize("groups", [1, 3, 7])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_rows_dealt_out_to_any_number_of_groups_give_the_same_bits(cuda, monkeypatch, case, groups):
    # rows of a tile are multiplied with the same weights in the same order, wherever they lie
    arguments, _ = example(case, SHAPES[-2], "float32")
    units = launch_heuristics.PASSES[case.operation].units[1]
    force_algorithm(monkeypatch, "persistent", units, 2)
    two = frozen(run(case, arguments))
    force_algorithm(monkeypatch, "persistent", units, groups)
    assert frozen(run(case, arguments)) == two


@pytest.mark.nightly(unless=lambda p: p.order.name != "depth_first" or p.case.operation.startswith("rnn"))
@pytest.mark.parametrize("algorithm", ["persistent", "step"])
@pytest.mark.parametrize(
    "order", [Order(name, seed) for name in ORDERS for seed in range(1 + (name == "random"))], ids=str
)
@pytest.mark.parametrize("case", [CASES[1], CASES[-2], CASES[-1]], ids=str)
def test_no_order_of_threads_and_blocks_changes_a_bit(cuda, emulator, monkeypatch, case, order, algorithm):
    arguments, _ = example(case, EXTENTS[1], "float64")
    force_algorithm(monkeypatch, algorithm, launch_heuristics.PASSES[case.operation].units[1], 2)
    first = frozen(run(case, arguments))
    monkeypatch.setattr(emulator, "order", order)
    assert frozen(run(case, arguments)) == first


# --- what the training step asks for beyond the contract --------------------------------------------

LENGTHS = (5, 0, 7, 3, 7, 1)
ORDER = (2, 4, 0, 3, 5, 1)  # longest first; caption 1 has no steps


class Batch:
    """A ragged batch in the captions' order, and the plain results in packed rows."""

    def __init__(self, gates, dtype, H=20, seed=231):
        random = np.random.default_rng(seed)

        def draw(*shape):
            return random.uniform(-1, 1, shape).astype(dtype)

        self.H, self.gates, self.dtype = H, gates, dtype
        self.lengths = [LENGTHS[caption] for caption in ORDER if LENGTHS[caption]]
        self.counts = np.array([sum(length > t for length in self.lengths) for t in range(max(LENGTHS))])
        rows = int(self.counts.sum())
        self.table, self.rows = draw(9, gates * H), random.integers(0, 9, rows)
        self.bias, self.h0_bias, self.Wh = draw(gates * H), draw(H), draw(H, gates * H)
        self.h0, self.c0, self.dhidden = draw(6, H), draw(6, H), draw(rows, H)
        starts = np.cumsum(self.counts) - self.counts
        self.places = [[starts[t] + rank for t in range(length)] for rank, length in enumerate(self.lengths)]

    def packed(self, sequences):
        out = np.zeros((sum(self.lengths), sequences[0].shape[1]))
        for places, rows in zip(self.places, sequences, strict=True):
            out[places] = rows
        return out

    def forward(self):
        """Return hidden, previous, cell and gates; the last two None for an RNN."""
        exact = {name: np.float64(getattr(self, name)) for name in ("table", "bias", "h0_bias", "Wh", "h0", "c0")}
        runs, before = [], []
        for rank, places in enumerate(self.places):
            projected = exact["table"][self.rows[places]] + exact["bias"]
            h0, c0 = exact["h0"][ORDER[rank]] + exact["h0_bias"], exact["c0"][ORDER[rank]]
            if self.gates == 4:
                runs.append(lstm_sequence(projected, h0, c0, exact["Wh"]))
            else:
                runs.append((rnn_sequence(projected, h0, exact["Wh"]),))
            before.append(np.vstack([h0, runs[-1][0][:-1]]))
        states = [self.packed([run[k] for run in runs]) for k in range(len(runs[0]))]
        return states[0], self.packed(before), *(states[1:] or (None, None))

    def backward(self, hidden, cell, gates):
        """Return dprojected, dh0 and dc0 (zeros for an RNN), the last two in the captions' order."""
        Wh, dhidden, c0 = np.float64(self.Wh), np.float64(self.dhidden), np.float64(self.c0)
        runs, dh0, dc0 = [], np.zeros((6, self.H)), np.zeros((6, self.H))
        for rank, places in enumerate(self.places):
            if self.gates == 4:
                nothing = np.zeros_like(dhidden[places])
                done = lstm_sequence_backward(
                    dhidden[places], nothing, gates[places], cell[places], c0[ORDER[rank]], Wh
                )
                dc0[ORDER[rank]] = done[2]
            else:
                done = rnn_sequence_backward(dhidden[places], hidden[places], Wh)
            runs.append(done[0])
            dh0[ORDER[rank]] = done[1]
        return self.packed(runs), dh0, dc0


@pytest.mark.nightly(unless=lambda p: p.dtype == "float32" or (p.gates == 1 and p.dtype != "bfloat16"))
@pytest.mark.parametrize("dtype", ALL)
@pytest.mark.parametrize("gates", [1, 4])
@pytest.mark.parametrize("algorithm", launch_heuristics.ALGORITHMS)
def test_biases_order_and_previous_states_agree_with_the_loops(cuda, algorithm, gates, dtype):
    batch = Batch(gates, dtype)
    put = capgpu.asarray
    rows, H, steps = len(batch.dhidden), batch.H, recurrence.Steps.of(batch.counts)
    hidden, previous, cell, dh0, dc0 = (
        cuda.full((count, H), np.nan, dtype=dtype) for count in (rows, rows, rows, 6, 6)
    )
    activated, dgates = (cuda.full((rows, gates * H), np.nan, dtype=dtype) for _ in range(2))
    lstm, cell_of = gates == 4, recurrence.CELLS["lstm" if gates == 4 else "rnn"]
    c0, order = put(batch.c0) if lstm else None, put(np.array(ORDER, dtype=np.int32))

    def config(direction):
        name = f"{cell_of.name}_{direction}"
        units = launch_heuristics.PASSES[name].units[1]
        return config_of(algorithm, name, units, dtype, H, len(batch.lengths), 2)

    table, index, Wh = put(batch.table), put(batch.rows.astype(np.int32)), put(batch.Wh)
    inputs = recurrence.ForwardInputs(table, index, put(batch.h0), c0, Wh, put(batch.bias), put(batch.h0_bias), order)
    outputs = (hidden, cell, activated, previous) if lstm else (hidden, None, None, previous)
    wanted = batch.forward()
    recurrence.forward_into(cell_of, inputs, steps, recurrence.ForwardOutputs(*outputs), config("forward"))
    results = (hidden, previous, cell, activated) if lstm else (hidden, previous)
    for got, want in zip(results, wanted, strict=False):
        assert distance(capgpu.to_numpy(got), want) < TOLERANCE[dtype]["forward"]

    wanted = batch.backward(wanted[0], wanted[2], wanted[3])
    saved = (activated, cell) if lstm else (hidden, None)
    gradients = recurrence.BackwardInputs(put(batch.dhidden), None, *saved, c0, Wh, order)
    results = (dgates, dh0, dc0) if lstm else (dgates, dh0)
    recurrence.backward_into(cell_of, gradients, steps, recurrence.BackwardOutputs(*results), config("backward"))
    for got, want in zip(results, wanted, strict=False):
        assert distance(capgpu.to_numpy(got), want) < TOLERANCE[dtype]["gradient"]


@pytest.mark.parametrize("algorithm", launch_heuristics.ALGORITHMS)
def test_gates_are_optional_where_no_gradient_is_wanted(cuda, algorithm):
    batch = Batch(4, "float64")
    put, rows = capgpu.asarray, len(batch.dhidden)
    outputs = []
    for gates in (None, cuda.empty((rows, 4 * batch.H))):
        hidden, cell = cuda.empty((rows, batch.H)), cuda.empty((rows, batch.H))
        inputs = (put(batch.table), put(batch.rows.astype(np.int32)), put(batch.h0[:5]), None, put(batch.Wh))
        recurrence.forward_into(
            recurrence.CELLS["lstm"],
            recurrence.ForwardInputs(*inputs),
            recurrence.Steps.of(batch.counts),
            recurrence.ForwardOutputs(hidden, cell, gates),
            config_of(algorithm, "lstm_forward", 8, "float64", batch.H, 5, 2),
        )
        outputs.append(frozen((hidden, cell)))
    assert outputs[0] == outputs[1]


def test_the_step_kernels_are_captured_in_a_graph_and_replayed(cuda):
    batch = Batch(4, "float32")
    put, rows, H = capgpu.asarray, len(batch.dhidden), batch.H
    config, steps = config_of("step", "lstm_forward", 8, "float32", H, 5, 1), recurrence.Steps.of(batch.counts)
    table, index, h0 = put(batch.table), put(batch.rows.astype(np.int32)), put(batch.h0[:5])
    Wh, hidden, cell = put(batch.Wh), cuda.empty((rows, H), "float32"), cuda.empty((rows, H), "float32")

    def forward():
        recurrence.forward_into(
            recurrence.CELLS["lstm"],
            recurrence.ForwardInputs(table, index, h0, None, Wh),
            steps,
            recurrence.ForwardOutputs(hidden, cell),
            config,
        )

    forward()
    wanted = frozen((hidden, cell))
    stream = cuda.cuda.Stream(non_blocking=True)
    with stream:
        stream.begin_capture()
        forward()
        graph = stream.end_capture()
        hidden.fill(0)
        cell.fill(0)
        graph.launch(stream)
    stream.synchronize()  # copies to the host are made on another stream, which does not wait for this one
    assert frozen((hidden, cell)) == wanted
