"""Features on the device: as many as fit, split by split, the values unchanged; on the host nothing happens."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import capgpu
from capgpu.backend import free_device_memory, is_host_array, to_numpy
from capgpu.data import arrays, device_cache
from capgpu.data.device_cache import place_features, take_batches
from oracles.device_memory import little_memory


def data(rows: int = 7, dtype: str = "float32") -> dict[str, Any]:
    random = np.random.default_rng(rows)
    return {
        f"{split}_features": random.standard_normal((rows + more, 6)).astype(dtype)
        for split, more in (("train", 3), ("val", 0))
    }


def placed_splits(given: dict[str, Any]) -> list[str]:
    there = place_features(given, ["train", "val"])
    return [split for split in ("train", "val") if not is_host_array(there[f"{split}_features"])]


@pytest.mark.parametrize("backend", ["numpy", "cpu"], indirect=True)
def test_on_the_host_nothing_is_copied(backend: Any) -> None:
    assert free_device_memory() is None
    given = data()
    placed = place_features(given, ["train", "val"])
    assert placed.keys() == given.keys()
    assert all(placed[name] is array for name, array in given.items())


@pytest.mark.parametrize("rows", [1, 3, 7, 33])
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("kept", ["in memory", "in a mapped file", "with gaps", "of a grid"])
@pytest.mark.parametrize("backend", ["cuda"], indirect=True)
def test_placed_features_have_the_values_and_the_dtype_they_had(
    backend: Any, rows: int, dtype: str, kept: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(arrays, "_BYTES_AT_ONCE", 120)
    given = data(rows, dtype)
    if kept == "of a grid":
        given["train_features"] = given["train_features"].reshape(-1, 2, 3)
    wanted = given["train_features"].copy()
    if kept == "in a mapped file":
        np.save(tmp_path / "train.npy", wanted)
        given["train_features"] = np.load(tmp_path / "train.npy", mmap_mode="r")
    elif kept == "with gaps":
        given["train_features"] = np.repeat(wanted, 2, axis=1)[:, ::2]
    original = given["train_features"]
    there = place_features(given, ["train"])["train_features"]
    assert not is_host_array(there)
    assert to_numpy(there).dtype == wanted.dtype
    np.testing.assert_array_equal(to_numpy(there), wanted)
    assert given["train_features"] is original
    batches = [np.array([rows, 0, rows, 2]), np.array([1]), np.array([0, 2])]
    taken = list(take_batches(there, batches))
    assert len(taken) == len(batches)
    for chosen, (named, features) in zip(batches, taken, strict=True):
        assert named is chosen
        np.testing.assert_array_equal(to_numpy(features), wanted[chosen])
    assert list(take_batches(there, [])) == []


@pytest.mark.parametrize(
    ("free", "wanted"),
    [(0, []), (2 * 240 - 1, ["val"]), (2 * 240, ["train"]), (2 * 408 - 1, ["train"]), (2 * 408, ["train", "val"])],
)
@pytest.mark.parametrize("backend", ["cuda"], indirect=True)
def test_splits_take_half_of_what_is_free_one_after_the_other(
    backend: Any, free: int, wanted: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(device_cache, "free_device_memory", lambda: free)
    assert placed_splits(data()) == wanted  # 240 bytes and 168


def test_what_is_free_on_a_device_is_part_of_its_memory(device: Any) -> None:
    free = free_device_memory()
    assert free is not None
    assert 0 < free <= device.cuda.runtime.memGetInfo()[1]
    with little_memory(device, 5000):
        assert free_device_memory() <= 5120


# other processes may allocate on a real device between two looks
def test_what_is_free_is_the_devices_and_the_pools_within_its_limit(standin: Any) -> None:
    import cupy

    capgpu.set_backend("cuda")
    pool = cupy.get_default_memory_pool()
    before = free_device_memory()
    array = cupy.zeros(2**20)
    assert free_device_memory() == before - array.nbytes
    size = array.nbytes
    del array
    assert pool.free_bytes() >= size
    assert free_device_memory() == before
    pool.set_limit(pool.used_bytes() + 5000)
    assert free_device_memory() == 5000
    pool.set_limit(max(pool.used_bytes() - 1, 1))
    assert free_device_memory() in (0, 1)


def test_a_device_that_refuses_all_the_same_leaves_features_on_the_host(
    device: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(device_cache, "free_device_memory", lambda: 10**9)
    given = data(rows=10_000)
    with little_memory(device, 512):
        assert placed_splits(given) == []
    assert placed_splits(given) == ["train", "val"]
