"""Small, artificial files in the format of the cs231n course's COCO set."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

WORDS = ["<NULL>", "<START>", "<END>", "<UNK>", "a", "man", "on", "horse", "the", "table", "red", "dog"]

Arrays = dict[str, Any]
#: Options of h5py's `create_dataset`.
STORAGE: list[dict[str, Any]] = [{}, {"chunks": (2, 3)}, {"chunks": (3, 5), "compression": "gzip", "shuffle": True}]


def course_arrays(train: int = 7, *, captions: int = 3) -> Arrays:
    """Return what the files hold: some pictures a split, each with some captions of up to 15 words, 17 steps long."""
    rng, length = np.random.default_rng(0), 6
    arrays: Arrays = {"idx_to_word": WORDS, "word_to_idx": {word: i for i, word in enumerate(WORDS)}}
    for split, count in (("train", train), ("val", 3)):
        rows = np.zeros((count * captions, 17), dtype=np.int32)
        for row in rows:
            words = rng.integers(1, 16)
            row[0], row[1 : 1 + words], row[1 + words] = 1, rng.integers(3, len(WORDS), words), 2
        arrays |= {
            f"{split}_captions": rows,
            f"{split}_image_idxs": rng.permutation(np.repeat(np.arange(count, dtype=np.int32), captions)),
            f"{split}_features": rng.standard_normal((count, length)).astype(np.float32),
            f"{split}_features_4096": rng.standard_normal((count, 2 * length)).astype(np.float32),
            f"{split}_urls": [f"http://pictures.example/{split}/{image:09d}_z.jpg" for image in range(count)],
        }
    return arrays


def write_course_files(folder: Path, arrays: Arrays, **storage: Any) -> Path:
    """Write the files of the course; `storage` is how HDF5 keeps the features, such as ``compression="gzip"``."""
    folder.mkdir(parents=True, exist_ok=True)
    names = [f"{split}_{part}" for split in ("train", "val") for part in ("captions", "image_idxs")]
    write_h5(folder / "coco2014_captions.h5", {name: arrays[name] for name in names})
    for split in ("train", "val"):
        for suffix, key in (("_pca", "features"), ("", "features_4096")):
            features = {"features": arrays[f"{split}_{key}"]}
            write_h5(folder / f"{split}2014_vgg16_fc7{suffix}.h5", features, **storage)
        (folder / f"{split}2014_urls.txt").write_text("".join(f"{url}\n" for url in arrays[f"{split}_urls"]))
    vocabulary = {name: arrays[name] for name in ("idx_to_word", "word_to_idx")}
    (folder / "coco2014_vocab.json").write_text(json.dumps(vocabulary))
    return folder


def write_h5(path: Path, datasets: dict[str, Any], **storage: Any) -> Path:
    """Write arrays to an HDF5 file, each as a dataset of its name."""
    import h5py

    with h5py.File(path, "w") as file:
        for name, values in datasets.items():
            file.create_dataset(name, data=values, **storage)
    return path
