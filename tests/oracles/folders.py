"""Small data sets on disk."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tiny_captioner import dataset

from capgpu.data.prepared_dataset import save_prepared


def coco_annotations(captions: dict[Any, list[str]], file_name: str = "{}.png") -> dict[str, Any]:
    """Return COCO's annotation format for captions by image id."""
    described = [(image, text) for image, captions_of_image in captions.items() for text in captions_of_image]
    return {
        "images": [{"id": image, "file_name": file_name.format(image)} for image in captions],
        "annotations": [{"id": i, "image_id": image, "caption": text} for i, (image, text) in enumerate(described)],
    }


def write_json(path: Path, content: Any) -> Path:
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


def prepared_folder(folder: Path, **sizes: int) -> dict[str, Any]:
    """Write random captions and features as a prepared folder; return the data written."""
    data = dataset(**sizes)
    for split in ("train", "val"):
        texts = ["caption"] * len(data[f"{split}_captions"])
        data |= {f"{split}_texts": texts, f"{split}_image_ids": list(range(100, 100 + len(texts)))}
    save_prepared(folder, data)
    return data
