"""The service behind the web page: model, gallery and loss curve of one run, and the thread that computes."""

from __future__ import annotations

from collections.abc import Sequence

from capgpu import __version__
from capgpu.data.datasets import open_dataset
from capgpu.errors import CapgpuError
from capgpu.serve.batching import Batcher
from capgpu.serve.captioner import Captioner
from capgpu.serve.curve import LossCurve
from capgpu.serve.documents import Caption, Run, Split, UploadLimits
from capgpu.serve.gallery import GalleryPages
from capgpu.serve.pictures import Limits
from capgpu.serve.problems import RequestError
from capgpu.training.run_folder import RunFolder

__all__ = ["Service"]


class Service:
    """A run that is being served.

    Parameters
    ----------
    run : RunFolder
        The run. It may still be trained: its model is loaded as soon as it is there.
    limits : Limits, optional
        Limits of uploads.
    max_batch : int
        Pictures that are captioned in one call at most.
    max_requests : int
        Captioning requests in progress at a time; more are refused.

    Attributes
    ----------
    run : RunFolder
        The run.
    limits : Limits
        Limits of uploads.
    batcher : Batcher
        Captions pictures.
    curve : LossCurve
        The loss curve.

    Raises
    ------
    CheckpointError
        If the folder is not a run folder, or its model is damaged.
    MissingExtraError
        If a package that encodes pictures is not installed.
    """

    def __init__(
        self, run: RunFolder, limits: Limits | None = None, *, max_batch: int = 32, max_requests: int = 256
    ) -> None:
        settings = run.settings()
        self.run = run
        self.limits = Limits() if limits is None else limits
        self.curve = LossCurve(run)
        self._data = settings["data"]
        self._captioner = Captioner(run)
        self._gallery: GalleryPages | None = None
        self._splits: list[Split] = []
        self._splits_missing: str | None = None
        self.batcher: Batcher[bytes, Sequence[Caption]] = Batcher(
            self._captioner.caption_pictures, max_batch=max_batch, max_requests=max_requests
        )
        try:
            self.batcher.run_when_idle(self._captioner.refresh).result()
            self._open_gallery()
        except BaseException:
            self.close()
            raise

    def _open_gallery(self) -> None:
        try:
            dataset = open_dataset(self._data)
            self._captioner.check_data(dataset)
        except (CapgpuError, OSError) as error:
            # the data need not be on the machine that serves the run
            self._splits_missing = f"The data set of the run cannot be opened: {error}"
            return
        self._gallery = GalleryPages(dataset, self._captioner, self.batcher.run_when_idle)
        self._splits = self._gallery.splits()

    @property
    def gallery(self) -> GalleryPages:
        """The gallery; an error with status 404 without the data set."""
        if self._gallery is None:
            raise RequestError(404, str(self._splits_missing))
        return self._gallery

    @property
    def can_caption(self) -> bool:
        """Whether pictures can be captioned."""
        return self._captioner.missing is None

    def describe(self) -> Run:
        """Return the facts of the run; a model that training has just written is loaded soon after."""
        if self._captioner.stale():
            self.batcher.run_when_idle(self._captioner.refresh)
        return Run(
            name=self.run.path.resolve().name,
            data=self._data if self._gallery is None else self._gallery.name,
            model=self._captioner.model,
            model_missing=self._captioner.missing,
            splits=self._splits,
            splits_missing=self._splits_missing,
            limits=UploadLimits(bytes=self.limits.max_bytes, pixels=self.limits.max_pixels),
            version=__version__,
        )

    def close(self) -> None:
        """Stop computing; requests that wait fail."""
        self.batcher.close()
        if self._gallery is not None:
            self._gallery.close()
