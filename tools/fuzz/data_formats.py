"""The formats of features, and of data sets."""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from tools.fuzz.format import SPLITS, Format, comparable, example_data
from tools.fuzz.mutators import (
    BYTES,
    JSON,
    NPY,
    NPZ,
    TEXT,
)

__all__ = ["FORMATS"]


_FEATURES = np.random.default_rng(1).normal(size=(3, 4)).astype(np.float32)


def _read_features(name: str) -> Callable[[Path], Any]:
    def read(folder: Path) -> Any:
        from capgpu.data.feature_files import open_features

        found = open_features(folder / name)
        return comparable((np.array(found.rows), found.image_ids))

    return read


def _write_npy(folder: Path) -> None:
    np.save(folder / "features.npy", _FEATURES)


def _write_npz(folder: Path) -> None:
    np.savez_compressed(folder / "features.npz", features=_FEATURES, image_ids=np.array([3, 1, 2]))


def _write_h5(folder: Path) -> None:
    import h5py

    with h5py.File(folder / "features.h5", "w") as file:
        file["features"] = _FEATURES
        file["image_ids"] = ["a", "b", "ç"]
    with h5py.File(folder / "chunked.h5", "w") as file:
        file.create_dataset("features", data=np.tile(_FEATURES, (4, 1)), chunks=(2, 2), compression="gzip")
        file.create_dataset("ids", data=np.arange(12))


def _read_h5(folder: Path) -> Any:
    return [_read_features(name)(folder) for name in ("features.h5", "chunked.h5")]


def _write_course(folder: Path) -> None:
    import h5py

    data = example_data()
    with h5py.File(folder / "coco2014_captions.h5", "w") as file:
        for split in SPLITS:
            for part in ("captions", "image_idxs"):
                file[f"{split}_{part}"] = data[f"{split}_{part}"]
    words = {"idx_to_word": data["idx_to_word"], "word_to_idx": data["word_to_idx"]}
    (folder / "coco2014_vocab.json").write_text(json.dumps(words))
    for split in SPLITS:
        with h5py.File(folder / f"{split}2014_vgg16_fc7_pca.h5", "w") as file:
            file["features"] = data[f"{split}_features"]
        (folder / f"{split}2014_urls.txt").write_text("".join(f"http://x/{i}.jpg\n" for i in range(3)))


def _checked_data(data: Mapping[str, Any]) -> Any:
    from capgpu.data.arrays import splits_of, validate_data

    validate_data(data, splits_of(data))
    return comparable({key: np.array(value) if isinstance(value, np.ndarray) else value for key, value in data.items()})


def _read_course(folder: Path) -> Any:
    from capgpu.data.cs231n_coco import load_coco_data

    return _checked_data(load_coco_data(folder))


def _write_prepared(folder: Path) -> None:
    from capgpu.data.prepared_dataset import save_prepared

    save_prepared(folder, example_data(), settings={"seed": 0}, report={"splits": {"train": {"pictures": 3}}})


def _read_prepared(folder: Path) -> Any:
    from capgpu.data.arrays import splits_of
    from capgpu.data.datasets import open_dataset
    from capgpu.data.prepared_dataset import read_manifest

    read_manifest(folder)
    dataset = open_dataset(folder)
    truths = [(dataset.truths(split), dataset.image_ids(split)) for split in splits_of(dataset.data)]
    return _checked_data(dataset.data), truths


def _seal_prepared(folder: Path, name: str) -> None:
    """Enter size and checksum of a changed file in the manifest."""
    manifest = folder / "prepared.json"
    if name in ("prepared.json", "checked.json"):
        return
    stored = json.loads(manifest.read_text())
    content = (folder / name).read_bytes()
    stored["files"][name] = {"bytes": len(content), "crc32": f"{zlib.crc32(content):08x}"}
    manifest.write_text(json.dumps(stored))


class _Encoder:
    """Features of files without a network."""

    shape = (4,)
    dtype = np.dtype(np.float32)

    def encode(self, paths: Sequence[Path]) -> Any:
        from capgpu.vision.encoder import Encoded

        return Encoded(np.ones((len(paths), 4), np.float32), list(range(len(paths))), [])


def _journal(folder: Path) -> Any:
    from capgpu.data.feature_journal import collect_features

    files = [folder / f"{i}.jpg" for i in range(3)]
    rows, kept, broken = collect_features(_Encoder(), files, folder)  # type: ignore[arg-type] # what is called of it
    return comparable((np.array(rows), kept, broken))


def _seal_journal(folder: Path, name: str) -> None:
    file = folder / name
    content = file.read_bytes().partition(b"\n")[2]
    file.write_bytes(b"%08x\n" % zlib.crc32(content) + content)


def _journal_head(random: Any, content: bytes) -> bytes:
    checksum, head, rows = content.split(b"\n", 2)
    return b"\n".join((checksum, JSON[-1](random, head), rows))


_PREPARED = Format(
    _write_prepared,
    _read_prepared,
    {
        "prepared.json": JSON,
        "vocabulary.json": JSON,
        "train.json": JSON,
        "val.json": JSON,
        "checked.json": JSON,
        "train_captions.npy": NPY,
        "val_image_idxs.npy": NPY,
        "train_features.npy": NPY,
    },
)


FORMATS: dict[str, Format] = {
    "npy": Format(_write_npy, _read_features("features.npy"), {"features.npy": NPY}),
    "npz": Format(_write_npz, _read_features("features.npz"), {"features.npz": NPZ}),
    # the HDF5 library has 3 s of processor time
    "hdf5": Format(_write_h5, _read_h5, {"features.h5": BYTES, "chunked.h5": BYTES}, needs=("h5py",), seconds=15.0),
    "course": Format(
        _write_course,
        _read_course,
        {"coco2014_captions.h5": BYTES, "coco2014_vocab.json": JSON, "val2014_urls.txt": TEXT},
        needs=("h5py",),
        seconds=15.0,
    ),
    "prepared": replace(_PREPARED, seal=_seal_prepared),
    "journal": Format(
        _journal, _journal, {"piece-00000000.bin": (*BYTES, *[_journal_head] * len(BYTES))}, True, _seal_journal
    ),
}
