"""The operation counts behind the floors agree with the products of a step and with the launchers' choices."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import capgpu
from bench.cuda import cudnn, ours, roofline
from bench.cuda.devices import DEVICES
from bench.cuda.parts import Part, extents, product
from bench.cuda.roofline import CELLS
from bench.peers import gemm_limit
from bench.workloads import SIZES, Workload, make_workload, parse_size


def operations(work: Workload, variant: str) -> int:
    """Return the operations of all matrix products of a step, two for a multiply-add."""
    products = gemm_limit.training_products(work, variant, lambda rows, cols: np.empty((rows, cols), np.float32))
    return sum(2 * left.shape[0] * left.shape[1] * right.shape[1] for left, right, _ in products)


def product_operations(parts: list[Part], pointwise: dict[str, float]) -> float:
    """Return the operations of the matrix products of some parts; `pointwise` is subtracted from the recurrences."""
    total = sum(part.flops for part in parts if part.kernel == "matmul")
    return total + sum(part.flops - pointwise[part.name] for part in parts if part.name in pointwise)


@pytest.mark.parametrize("size", ["S1", "S3", "S4:N=5,T=7"])
@pytest.mark.parametrize("cell", CELLS)
def test_capgpus_operation_count_excludes_padding_and_repeated_words(cell, size):
    work = make_workload(parse_size(size), cell)
    e = extents(work)
    forward, backward = {"lstm": (24, 27), "gru": (21, 17), "rnn": (4, 4)}[cell]
    pointwise = {"recurrence forward": forward * e.M * e.H, "recurrence backward": backward * e.M * e.H}
    assert product_operations(ours.step(e), pointwise) == operations(work, "distinct")


@pytest.mark.parametrize(("mode", "variant"), [("padded", "full"), ("packed", "packed")])
@pytest.mark.parametrize("cell", CELLS)
def test_pytorchs_operation_count_equals_that_of_its_products(cell, mode, variant):
    work = make_workload(SIZES["S1"], cell)
    e = extents(work)
    parts = cudnn.step(e, mode)
    recurrent = {"cuDNN: products with Wh": 0.0, "cuDNN: products with Wh transposed": 0.0}
    flops = product_operations(parts, recurrent)
    # padded PyTorch computes the three products with W_vocab for words only
    skipped = 3 * 2 * (e.N * e.T - e.M) * e.H * e.V if mode == "padded" else 0
    assert flops == operations(work, variant) - skipped


def test_a_products_bytes_are_its_operands_and_its_result():
    assert product("", 2, 3, 5).bytes == 4 * (2 * 3 + 3 * 5 + 2 * 5)
    assert product("", 2, 3, 5).flops == 2 * 2 * 3 * 5


@pytest.fixture
def choose(standin: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> Iterator[Any]:
    """Return a function that gives the launchers' algorithm on a device, without measured choices."""
    from capgpu.kernels.cuda import compile, launch_heuristics, tuning_cache
    from simulators.cupy_standin.architecture import ARCHITECTURES
    from simulators.cupy_standin.state import STATE

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    capgpu.set_backend("cuda")

    def forget() -> None:
        for module in (compile, launch_heuristics, tuning_cache):
            module.forget()

    def algorithm(capability: int, name: str, H: int, N: int, T: int) -> str:
        STATE.architecture = ARCHITECTURES[f"sm_{capability}"]
        forget()
        return launch_heuristics.choose(name, "float32", H, N, T).algorithm

    yield algorithm
    forget()


#: Passes whose weights fit but which another algorithm is estimated to compute a few percent faster.
EXCEPTIONS = {
    ("RTX 4090", "S3", "lstm", "backward"): "step",
    ("RTX 4090", "S3", "gru", "backward"): "step",
    ("T4", "S3", "rnn", "forward"): "matmul",
}


@pytest.mark.parametrize("size", roofline.SIZES_ON_PAPER)
@pytest.mark.parametrize("device", DEVICES, ids=lambda device: device.name)
def test_the_assumed_algorithm_is_the_one_that_is_launched(choose, device, size):
    for cell in CELLS:
        e = extents(make_workload(SIZES[size], cell))
        for direction in ("forward", "backward"):
            fitting = EXCEPTIONS.get((device.name, size, cell, direction), "persistent")
            algorithm = choose(device.capability, f"{cell}_{direction}", e.H, e.N, e.steps)
            assert algorithm == (fitting if roofline.fits(e, device) else "step"), (cell, direction)


def test_the_devices_have_the_stand_ins_extents():
    from simulators.cupy_standin.architecture import ARCHITECTURES

    for device in DEVICES:
        architecture = ARCHITECTURES[f"sm_{device.capability}"]
        assert device.name.startswith(architecture.device)
        assert (architecture.multiprocessors, architecture.shared) == (device.multiprocessors, device.shared_kb * 1024)


def test_a_floor_is_at_least_each_of_its_terms():
    for device in DEVICES:
        for parts in roofline.paths(extents(make_workload(SIZES["S2"], "lstm")), device).values():
            for part in parts:
                assert part.cold_us(device) >= part.warm_us(device) >= part.fixed_us() >= 2
                assert part.cold_us(device) >= part.bytes / device.gigabytes * 1e-3


def test_the_committed_tables_are_up_to_date():
    committed = {
        name: (roofline.RESULTS / name).read_text(encoding="utf-8") for name in ("roofline.md", "roofline.csv")
    }
    assert committed == {"roofline.md": roofline.markdown(), "roofline.csv": roofline.csv_text()}, "run: make roofline"
    assert (roofline.RESULTS / "roofline.png").read_bytes().startswith(b"\x89PNG")


def test_computed_figures_are_marked():
    page = (roofline.RESULTS / "roofline.md").read_text(encoding="utf-8")
    assert page.startswith("# ")
    assert "computed, not measured" in page.splitlines()[0]
    rows = csv.DictReader(io.StringIO((roofline.RESULTS / "roofline.csv").read_text(encoding="utf-8")))
    assert {row["basis"] for row in rows} == {"computed, not measured"}


def test_the_courses_step_has_at_most_24_launches():
    for cell in CELLS:
        e = extents(make_workload(SIZES["S1"], cell))
        assert sum(part.launches for part in ours.step(e, dropout=True)) <= 24
