"""The pictures of a split with the model's captions beside the reference captions.

The captions of a split are computed once per model, in parts, by the thread that owns the model and when no request
waits, and compared with the references by another; until then a gallery says how far it is. Searching and ordering need
no model.
"""

from __future__ import annotations

import io
import math
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy.typing as npt

from capgpu.data.arrays import splits_of
from capgpu.data.datasets import Dataset
from capgpu.data.pictures import thumbnail
from capgpu.errors import CapgpuError
from capgpu.serve.captioner import Captioner
from capgpu.serve.documents import Gallery, GalleryItem, Match, Split
from capgpu.serve.problems import RequestError

__all__ = ["ORDERS", "GalleryPages", "Order", "Shown"]

Order = Literal["worst", "best", "index"]
ORDERS: tuple[Order, ...] = ("worst", "best", "index")
Shown = Literal["all", "right", "near", "wrong"]

#: Pictures that are captioned before waiting requests get their turn.
_PART = 64
#: Height and width of the pictures of data sets that have picture files.
_PICTURE_SIZE = 320
_CACHED_PICTURES = 512


@dataclass
class _Entry:
    """A picture of a split; `text` is what a query is looked up in."""

    item: GalleryItem
    text: str


@dataclass
class _SplitCaptions:
    """The captions of a split by one model, as far as they have been computed."""

    version: int
    captions: list[str] = field(default_factory=list)
    entries: list[_Entry] | None = None
    task: Future[None] | None = None


class GalleryPages:
    """The gallery of a data set.

    Parameters
    ----------
    dataset : Dataset
        The data set that the model was trained on.
    captioner : Captioner
        The model.
    run_when_idle : callable
        Runs a function in the thread of the model and returns its future.
    """

    def __init__(
        self, dataset: Dataset, captioner: Captioner, run_when_idle: Callable[[Callable[[], None]], Future[None]]
    ) -> None:
        self._dataset, self._captioner, self._run_when_idle = dataset, captioner, run_when_idle
        self._lock = threading.Lock()
        self._picture_lock = threading.Lock()  # Pillow's warnings are filtered for the whole process
        self._splits: dict[str, _SplitCaptions] = {}
        self._comparing = ThreadPoolExecutor(1, "capgpu-serve-gallery")
        self._picture = lru_cache(_CACHED_PICTURES)(self._draw)

    @property
    def name(self) -> str:
        """Name of the data set, without folders."""
        return Path(self._dataset.name).name

    def splits(self) -> list[Split]:
        """Return the splits, those with pictures that training has not seen first."""
        names = sorted(splits_of(self._dataset.data), key=lambda name: name == "train")
        return [
            Split(name=name, description=self._dataset.notes.get(name, ""), pictures=len(self._dataset.features(name)))
            for name in names
        ]

    def page(self, split: str, order: Order, shown: Shown, query: str, offset: int, limit: int) -> Gallery:
        """Return part of a split.

        Parameters
        ----------
        split : str
            The split.
        order : {"worst", "best", "index"}
            By score, the lowest or the highest first, or by index.
        shown : {"all", "right", "near", "wrong"}
            Which captions to return.
        query : str
            Words that occur in the caption or in a reference caption, in any case.
        offset, limit : int
            Which of the pictures found to return.

        Returns
        -------
        Gallery
            The page; without items while the split is being captioned.

        Raises
        ------
        RequestError
            With status 404 for an unknown split, 503 without a model.
        """
        self._check(split)
        entries, progress = self._entries(split)
        page = Gallery(
            split=split,
            state="computing" if entries is None else "ready",
            progress=progress,
            items=[],
            found=0,
            counts={},
            base_names=self._dataset.base_name is not None,
        )
        if entries is None:
            return page
        words = query.casefold().split()
        found = [entry.item for entry in entries if all(word in entry.text for word in words)]
        page["counts"] = dict(Counter(item["match"] for item in found))
        if shown != "all":
            found = [item for item in found if item["match"] == shown]
        if order != "index":
            # pictures without references have no score: they come last
            sign = 1.0 if order == "worst" else -1.0
            found.sort(key=lambda item: math.inf if item["score"] is None else sign * item["score"])
        page["found"] = len(found)
        page["items"] = found[offset : offset + limit]
        return page

    def picture(self, split: str, index: int) -> bytes:
        """Return a picture of a split as PNG.

        Parameters
        ----------
        split : str
            The split.
        index : int
            Index of the picture in the split.

        Returns
        -------
        bytes
            The file.

        Raises
        ------
        RequestError
            With status 404 for a picture that the data set does not have.
        """
        self._check(split)
        if not 0 <= index < len(self._dataset.features(split)):
            raise RequestError(404, f"{split} has no picture {index}.")
        try:
            return self._picture(split, index)
        except (CapgpuError, OSError):  # its message names a file of this machine
            raise RequestError(404, f"The picture {index} of {split} cannot be read.") from None

    def _check(self, split: str) -> None:
        known = splits_of(self._dataset.data)
        if split not in known:
            raise RequestError(404, f"split: expected one of {', '.join(known)}, got {split!r}.")

    def _draw(self, split: str, index: int) -> bytes:
        from PIL import Image

        files = self._dataset.data.get(f"{split}_files")
        with self._picture_lock:
            if files is not None:
                pixels = thumbnail(files[index], _PICTURE_SIZE)
            else:
                assert self._dataset.thumbnail is not None
                pixels = self._dataset.thumbnail(split, index)
        content = io.BytesIO()
        Image.fromarray(pixels).save(content, format="PNG")
        return content.getvalue()

    def _has_pictures(self, split: str) -> bool:
        if self._dataset.thumbnail is None:
            return False
        try:
            self._picture(split, 0)
        except (CapgpuError, OSError, AssertionError):
            return False
        return True

    def _entries(self, split: str) -> tuple[list[_Entry] | None, float]:
        """Return the pictures of a split if they are captioned, and the progress; start captioning them otherwise."""
        version = self._captioner.version
        if self._captioner.model is None:
            raise RequestError(503, str(self._captioner.missing), retry_after=10)
        count = len(self._dataset.features(split))
        with self._lock:
            captions = self._splits.get(split)
            if captions is None or captions.version != version:
                captions = self._splits[split] = _SplitCaptions(version)
            if captions.task is None:
                captions.task = self._run_when_idle(lambda: self._caption_part(split, captions))
            elif captions.task.done() and (captions.task.cancelled() or captions.task.exception() is not None):
                del self._splits[split]  # the next request starts over
                captions.task.result()  # raises what it failed with
            return captions.entries, len(captions.captions) / max(count, 1)

    def _caption_part(self, split: str, captions: _SplitCaptions) -> None:
        """Caption the next part of a split, and plan the one after it; called by the thread of the model."""
        features = self._dataset.features(split)
        done = len(captions.captions)
        captions.captions += self._captioner.caption_features(features[done : done + _PART])
        with self._lock:
            if len(captions.captions) < len(features):
                captions.task = self._run_when_idle(lambda: self._caption_part(split, captions))
            else:
                captions.task = self._comparing.submit(self._compare, split, captions)

    def close(self) -> None:
        """Stop comparing; called after the thread of the model has ended."""
        self._comparing.shutdown(cancel_futures=True)

    def _compare(self, split: str, captions: _SplitCaptions) -> None:
        """Compare all captions of a split with the references."""
        captions.entries = self._compared(split, captions.captions)

    def _compared(self, split: str, captions: Sequence[str]) -> list[_Entry]:
        from capgpu.evaluation.match import match_caption

        truths = self._dataset.truths(split)
        scores = self._scores(split, captions)
        pictures = self._has_pictures(split)
        entries = []
        for index, (caption, references) in enumerate(zip(captions, truths, strict=True)):
            match: Match = match_caption(caption, references, self._dataset.base_name)
            item = GalleryItem(
                index=index,
                caption=caption,
                references=references,
                match=match,
                score=scores[index],
                picture=f"/api/gallery/{split}/{index}/picture" if pictures else None,
            )
            entries.append(_Entry(item, "\n".join((caption, *references)).casefold()))
        return entries

    def _scores(self, split: str, captions: Sequence[str]) -> list[float | None]:
        from capgpu.evaluation.relative_cider import relative_cider

        references = self._dataset.true_words(split)
        scored = [i for i, group in enumerate(references) if group]
        scores: list[float | None] = [None] * len(references)
        if scored:
            words = [self._dataset.tokenize(captions[i]) for i in scored]
            values: npt.NDArray[Any] = relative_cider(words, [references[i] for i in scored])
            for i, value in zip(scored, values.tolist(), strict=True):
                scores[i] = value
        return scores
