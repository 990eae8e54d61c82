"""The formats of captions and vocabularies."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from capgpu.errors import CapgpuError
from tools.fuzz.format import WORDS, Format
from tools.fuzz.mutators import (
    JSON,
    JSON_LINES,
    TEXT,
)

__all__ = ["FORMATS"]


_CAPTIONS = {
    "captions.csv": 'image,caption,split\na.jpg,a dog runs,train\nb.jpg,"a cat, red",train\na.jpg,the dog,train\n'
    "c.jpg,\"['one', 'two']\",val\n",
    "captions.tsv": 'image\tcaption_0\tcaption_1\na.jpg\ta dog\ta "cat"\nb.jpg\ta cat\t\n',
    "captions.jsonl": '{"image": "a.jpg", "caption": "a dog"}\n{"image": "b.jpg", "captions": ["a", "b"]}\n',
    "flickr.token.txt": "a.jpg#0\ta dog\na.jpg#1\ta cat\nb.jpg#0\tthe mat\n",
    "listed.csv": "image,caption\na.jpg,a dog\nb.jpg,a cat\nc.jpg,a mat\n",
    "captions_val2017.json": json.dumps(
        {
            "info": {"year": 2017},
            "images": [{"id": i, "file_name": f"{i}.jpg"} for i in range(1, 4)],
            "annotations": [{"id": i, "image_id": 1 + i % 3, "caption": f"a dog {i}"} for i in range(6)],
        }
    ),
    "dataset.json": json.dumps(
        {
            "images": [
                {
                    "imgid": i,
                    "split": split,
                    "filename": f"{i}.jpg",
                    "filepath": "val2014",
                    "sentences": [{"raw": f"a dog {i}", "tokens": ["a", "dog"]}],
                }
                for i, split in enumerate(("train", "val", "test", "restval"))
            ],
            "dataset": "coco",
        }
    ),
    "results.json": json.dumps([{"image_id": i, "caption": f"a cat {i}"} for i in range(1, 4)]),
}


def _write_captions(*names: str) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        for name in names:
            (folder / name).write_text(_CAPTIONS[name])

    return write


def _source(folder: Path, name: str) -> Any:
    from capgpu.data.detect_format import read_source
    from capgpu.data.source import Source
    from capgpu.data.split import split_pictures

    source: Source = read_source(folder / name, None, folder)
    for split, pictures in source.splits.items():
        assert split
        assert split.isidentifier()
        assert len(pictures) == len(set(pictures.image_ids)) == len(pictures.captions)
        assert all(text.strip() for texts in pictures.captions for text in texts)
        # no name may leave the folder
        files = [os.path.normpath(file) for file in pictures.files or ()]
        assert all(file.startswith(f"{folder}{os.sep}") for file in files)
    if all(map(len, source.splits.values())) and sum(map(len, source.splits.values())) > 8:
        split_pictures(source, 0.1, 0.1, 0)
    return [(split, pictures.image_ids, pictures.captions) for split, pictures in source.splits.items()]


def _read_source(name: str) -> Callable[[Path], Any]:
    return lambda folder: _source(folder, name)


def _write_lists(folder: Path) -> None:
    (folder / "listed.csv").write_text(_CAPTIONS["listed.csv"])
    (folder / "train.txt").write_text("a.jpg\nb.jpg\n")
    (folder / "Flickr_8k.devImages.txt").write_text("c.jpg\n")


def _read_results(folder: Path) -> Any:
    from capgpu.data.coco_json import read_coco_captions
    from capgpu.data.coco_results import match_results, read_coco_results

    results = read_coco_results(folder / "results.json")
    annotations = read_coco_captions(folder / "captions_val2017.json")
    matched = match_results(results, annotations, results_name=str(folder / "results.json"), subset=True)
    return matched.captions, matched.references


def _write_vocabulary(folder: Path) -> None:
    from capgpu.vocabulary import Vocabulary

    (folder / "vocabulary.json").write_text(Vocabulary(WORDS).to_json())


def _read_vocabulary(folder: Path) -> Any:
    from capgpu.data.text_files import read_text
    from capgpu.vocabulary import Vocabulary

    text = read_text(folder / "vocabulary.json")
    try:
        return Vocabulary.from_json(text).idx_to_word
    except CapgpuError as error:
        # a text has no file name: its reader adds it
        raise CapgpuError(f"{folder}: {error}") from error


FORMATS: dict[str, Format] = {
    "csv": Format(_write_captions("captions.csv"), _read_source("captions.csv"), {"captions.csv": TEXT}),
    "tsv": Format(_write_captions("captions.tsv"), _read_source("captions.tsv"), {"captions.tsv": TEXT}),
    "jsonl": Format(_write_captions("captions.jsonl"), _read_source("captions.jsonl"), {"captions.jsonl": JSON_LINES}),
    "token": Format(_write_captions("flickr.token.txt"), _read_source("flickr.token.txt"), {"flickr.token.txt": TEXT}),
    "lists": Format(_write_lists, _read_source("listed.csv"), {"train.txt": TEXT, "Flickr_8k.devImages.txt": TEXT}),
    "coco": Format(
        _write_captions("captions_val2017.json"), _read_source("captions_val2017.json"), {"captions_val2017.json": JSON}
    ),
    "karpathy": Format(_write_captions("dataset.json"), _read_source("dataset.json"), {"dataset.json": JSON}),
    "results": Format(_write_captions("results.json", "captions_val2017.json"), _read_results, {"results.json": JSON}),
    "vocabulary": Format(_write_vocabulary, _read_vocabulary, {"vocabulary.json": JSON}),
}
