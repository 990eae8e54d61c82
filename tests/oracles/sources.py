"""Files of captions for tests: builders, strategies for any JSON, and checks that every source must pass."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from capgpu.data.source import Source
from capgpu.data.text_files import DataFileError


def karpathy_annotations(splits: dict[Any, str]) -> dict[str, Any]:
    """Return Karpathy's format for the split of each COCO id, all keys as in his files."""
    return {
        "dataset": "coco",
        "images": [
            {
                "filepath": "val2014",
                "sentids": [row],
                "filename": f"{image}.jpg",
                "imgid": row,
                "split": split,
                "sentences": [{"tokens": ["A", "dog."], "raw": "A dog.", "imgid": row, "sentid": row}],
                "cocoid": image,
            }
            for row, (image, split) in enumerate(splits.items())
        ],
    }


def json_values(*keys: str) -> st.SearchStrategy[Any]:
    """Return a strategy for any JSON value that Python can read; objects mostly have the given keys."""
    return st.recursive(
        st.none() | st.booleans() | st.integers() | st.integers(0, 3) | st.floats() | st.text(max_size=5),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(st.sampled_from(keys) | st.text(max_size=3), inner, max_size=len(keys))
        ),
        max_leaves=12,
    )


def check_source(source: Source) -> None:
    """Check the properties of a source that later stages rely on."""
    ids = [image for pictures in source.splits.values() for image in pictures.image_ids]
    assert len(set(ids)) == len(ids) > 0
    for name, pictures in source.splits.items():
        assert name.isidentifier()
        assert len(pictures) == len(pictures.image_ids) == len(pictures.captions) > 0
        assert pictures.files is None or len(pictures.files) == len(pictures)
        assert all(text.strip() for captions in pictures.captions for text in captions)
    assert any(captions for pictures in source.splits.values() for captions in pictures.captions)


def read_or_refused(read: Callable[[], Source], path: Path) -> str | None:
    """Return the message of a refusal, which names the file; None if the source is valid."""
    refusal = None
    try:
        check_source(read())
    except DataFileError as error:
        refusal = str(error)
    assert refusal is None or str(path) in refusal
    assert "\n" not in (refusal or "")
    return refusal
