"""Training steps as CUDA graphs: loss and gradients in one launch, clipping and update of the parameters in another.

A graph repeats the captured launches with the same arguments: sizes, addresses, numbers passed by value.

    sizes        Captions are padded to one of few shapes (`capgpu.kernels.cuda.caption_batch`), each with its graphs;
                 padding adds zeros to sums. The persistent recurrences and the attention LSTM read the rows of each
                 step from the device; the other algorithms take them by value and are not captured.
    addresses    Parameters, optimizer states, gradients, features and all scratch are in memory that belongs to these
                 graphs: a separate workspace, and parameters that are updated in place. A graph keeps it alive.
    numbers      Everything that changes between steps (the captions' layout, the keys of dropout, the update rule's
                 settings) is in one array of bytes on the device, written by one copy from pinned memory before the
                 launch.

The first batch of a shape is launched kernel by kernel, which compiles kernels and allocates memory; then its launches
are captured, which computes nothing. Nothing may be allocated during capture: the pool would reuse that memory later.

Memory: all shapes share one workspace, whose arrays have capacity for every batch of the same number of captions. If a
larger batch reallocates arrays, the graphs that refer to the old ones are discarded, so that only one workspace exists.
"""

from __future__ import annotations

import warnings
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from capgpu.errors import CapgpuError
from capgpu.kernels.cells import cell_of_weights
from capgpu.kernels.contract import CaptionBatch, LossOptions
from capgpu.kernels.cuda import launch_heuristics
from capgpu.kernels.cuda.array_checks import allocate, check_device, dtype_name, sum_dtype
from capgpu.kernels.cuda.caption_batch import Layout, lay_out
from capgpu.kernels.cuda.constants import SETTINGS
from capgpu.kernels.cuda.device_calls import copy_into, launch_graph
from capgpu.kernels.cuda.dropout import StoredDropout
from capgpu.kernels.cuda.held_results import holding_results
from capgpu.kernels.cuda.optimizer import launch_norm, launch_update
from capgpu.kernels.cuda.pinned import ALIGNED
from capgpu.kernels.cuda.softmax import SCORE_BYTES
from capgpu.kernels.cuda.workspace import Workspace, using
from capgpu.random import mask_rule

__all__ = ["MAX_GRAPHS", "CaptureError", "StepGraphs"]

#: Maximum number of shapes with graphs; the least recently used is discarded.
MAX_GRAPHS = 64
# 32-bit words of the keys of two dropouts
_KEY_WORDS = 4


#: (params, features, batch, options) -> loss, gradients: a composition of kernels' operations.
Gradients = Callable[[Mapping[str, Any], Any, CaptionBatch, LossOptions], tuple[Any, dict[str, Any]]]


class CaptureError(CapgpuError, RuntimeError):
    """Memory was requested while launches were captured."""


@dataclass
class _Shape:
    """Device memory and graphs for the batches of one shape."""

    settings: Any
    numbers: Any  # the keys of dropout, then the layout
    features: Any
    batch: CaptionBatch
    options: LossOptions
    capacities: Mapping[int, int]  # by the batch's numbers of rows and of distinct words: maxima for such batches
    loss: Any = None  # results of the pass, in the workspace
    grads: Mapping[str, Any] = field(default_factory=dict)
    gradients: Any = None  # graph of loss and gradients, once captured
    update: Any = None  # graph of clipping and update, once captured
    memory: tuple[Any, ...] = ()  # device memory that the graphs refer to


class StepGraphs:
    """The training step of one captioner with one update rule, on one stream of one thread.

    Parameters
    ----------
    compute : callable
        The model's pass, as `Gradients` describes it.
    params : mapping of str to array
        The parameters, as `compute` takes them: those of `capgpu.model.CaptioningRNN`; copied.
    rule : str
        ``"adam"`` or ``"momentum"``, as `capgpu.kernels.cuda.optimizer.launch_update` takes it.
    states : sequence of sequence of array
        The rule's running states, each for every parameter; copied.
    clip_norm : float, optional
        Largest joint norm of the gradients.

    Attributes
    ----------
    params : dict of str to array
        The parameters that steps read and update in place.
    states : list of list of array
        The running states that steps update in place.
    failed : bool
        Whether capturing has failed; steps are then launched kernel by kernel, with the same bits.

    Raises
    ------
    DeviceMemoryError
        If the device has too little memory for the copies.
    """

    def __init__(
        self,
        compute: Gradients,
        params: Mapping[str, Any],
        rule: str,
        states: Sequence[Sequence[Any]],
        clip_norm: float | None = None,
    ) -> None:
        import cupy

        check_device(params=params)
        self._compute, self._rule, self._clip_norm = compute, rule, clip_norm
        self._dtype = dtype = next(iter(params.values())).dtype
        self._space = Workspace()
        self._stream = cupy.cuda.Stream(non_blocking=True)  # the null stream cannot capture
        self.params = {name: _copy(array, f"the parameter {name}") for name, array in params.items()}
        self.states = [[_copy(array, "a running state") for array in state] for state in states]
        self._sums = sum_dtype(dtype)
        self._norm, self._factor = (allocate((), self._sums, "a number of the step") for _ in range(2))
        self._shapes: OrderedDict[tuple[Any, ...], _Shape] = OrderedDict()
        self._current: _Shape | None = None
        self.failed = False

    def step(self, features: Any, captions: Any, null: int, options: LossOptions, settings: Any) -> Any | None:
        """Make a whole step: one copy of the inputs, one of the features, two launches.

        Parameters
        ----------
        features, captions, null, options
            The batch: features of shape (N, D) or (N, L, D), host captions of shape (N, T + 1), the id of NULL, and
            options.
        settings : numpy.ndarray of float, shape (P, 8) or less
            The update rule's numbers for each parameter.

        Returns
        -------
        array, shape ()
            The loss before the update, without synchronization. None if the step cannot be made by graphs; nothing has
            changed then.

        Raises
        ------
        ValueError
            If an id is out of range.
        """
        shape = self._prepare(features, captions, null, options, settings)
        if shape is None:
            return None
        loss = self._make_gradients(shape)
        self._make_update(shape)
        return loss

    def gradients(self, features: Any, captions: Any, null: int, options: LossOptions) -> Any | None:
        """Make the first half of a step, loss and gradients; `update` makes the other.

        Parameters
        ----------
        features, captions, null, options
            As for `step`.

        Returns
        -------
        array, shape ()
            As from `step`, with the same bits.
        """
        self._current = self._prepare(features, captions, null, options, None)
        return None if self._current is None else self._make_gradients(self._current)

    def update(self, settings: Any) -> None:
        """Make the second half of a step, after `gradients`.

        Parameters
        ----------
        settings : numpy.ndarray of float, shape (P, 8) or less
            As for `step`.
        """
        shape, self._current = self._current, None
        if shape is None:
            raise RuntimeError("expected gradients() before update(): there are no gradients to update by.")
        self._space.pinned.send([(shape.settings, self._padded(settings))])
        self._make_update(shape)

    def _prepare(self, features: Any, captions: Any, null: int, options: LossOptions, settings: Any) -> _Shape | None:
        """Copy a batch to the memory of its shape; None if it has no rows or cannot be captured."""
        vocabulary = self.params["W_embed"].shape[0]
        layout = lay_out(captions, null, vocabulary, padded=True)
        if layout.targets.size == 0:
            return None
        check_device(features=features)
        dropouts = options.feature_dropout, options.output_dropout
        rates = tuple(0.0 if dropout is None else dropout.rate for dropout in dropouts)
        # pictures of different batches may have grids of different sizes
        key = (*layout.shape, captions.shape[1], *features.shape[1:], options.smoothing, options.precision, *rates)
        shape = self._shapes.get(key)
        if (shape is None or shape.update is None) and not self._can_be_captured(layout.shape):
            return None
        if shape is None or shape.update is None:  # uncaptured launches need the batch sizes on the host
            shape = self._shapes[key] = self._new_shape(layout, features, options, captions.shape[1] - 1)
            if len(self._shapes) > MAX_GRAPHS:
                self._discard([next(iter(self._shapes))])
        self._shapes.move_to_end(key)
        words = np.zeros(_KEY_WORDS, np.uint32)
        for index, dropout in enumerate(dropouts):
            if dropout is not None:
                # the mask of the batch without padding rows
                size = features.size if index == 0 else layout.caption_rows * self.params["Wh"].shape[0]
                words[2 * index : 2 * index + 2] = mask_rule(dropout.key, dropout.rate, size)[:2]
        uploads = [(shape.numbers, layout.numbers([words.view(np.int32)]))]
        if settings is not None:
            uploads.insert(0, (shape.settings, self._padded(settings)))
        self._space.pinned.send(uploads)
        copy_into(shape.features, features)
        return shape

    def _padded(self, settings: Any) -> Any:
        padded = np.zeros((len(self.params), SETTINGS), self._sums)
        padded[:, : settings.shape[1]] = settings
        return padded

    def _can_be_captured(self, shape: tuple[int, ...]) -> bool:
        """Return whether launches for a batch of these numbers of captions, steps, rows and words can be captured."""
        size, cell = self.params["Wh"].shape[0], cell_of_weights(self.params["Wh"])
        captions, steps, rows, _ = shape
        # the launches of attention are the same for all batches of a shape (`capgpu.kernels.cuda.attention`)
        passes = [] if "Wattn" in self.params else [f"{cell}_{direction}" for direction in ("forward", "backward")]
        configs = [launch_heuristics.choose(name, dtype_name(self._dtype), size, captions, steps) for name in passes]
        in_one_block = rows * self.params["W_embed"].shape[0] * self._dtype.itemsize <= SCORE_BYTES
        return in_one_block and all(config.algorithm == "persistent" for config in configs)

    def _new_shape(self, layout: Layout, features: Any, options: LossOptions, width: int) -> _Shape:
        """Allocate the inputs of a shape, with capacity for every batch of the same number of captions."""
        count, max_rows = features.shape[0], features.shape[0] * width
        numbers = _KEY_WORDS + sum(part.size for part in layout)
        capacity = _KEY_WORDS + width + count + 4 * max_rows + 2 * min(max_rows, self.params["W_embed"].shape[0]) + 1
        settings_bytes = len(self.params) * SETTINGS * self._sums.itemsize
        lead, itemsize = -(-settings_bytes // ALIGNED) * ALIGNED, np.dtype(np.int32).itemsize
        dev_bytes = self._space.take("step inputs", (lead + numbers * itemsize,), np.uint8, lead + capacity * itemsize)
        dev_numbers = dev_bytes[lead:].view(np.int32)
        words = dev_numbers[:_KEY_WORDS].view(np.uint32)
        batch = layout.on_device(dev_numbers[_KEY_WORDS:])
        feature, output = (
            None if dropout is None else StoredDropout(0, dropout.rate, rows, None, words[2 * number : 2 * number + 2])
            for number, (dropout, rows) in enumerate(
                ((options.feature_dropout, None), (options.output_dropout, batch.row_numbers))
            )
        )
        return _Shape(
            dev_bytes[:settings_bytes].view(self._sums).reshape(len(self.params), SETTINGS),
            dev_numbers,
            self._space.take("features", tuple(features.shape), self._dtype),
            batch,
            replace(options, feature_dropout=feature, output_dropout=output),
            self._capacities(layout, max_rows),
        )

    def _capacities(self, layout: Layout, max_rows: int) -> dict[int, int]:
        """Return the capacities for arrays with as many rows as the layout has rows, or distinct words.

        Numbers that are also extents of the parameters or the number of captions are omitted: arrays that never grow
        would get spare capacity.
        """
        extents = {layout.order.size, *(extent for array in self.params.values() for extent in array.shape)}
        maxima = {layout.words.size: min(max_rows, self.params["W_embed"].shape[0]), layout.targets.size: max_rows}
        return {count: capacity for count, capacity in maxima.items() if count not in extents}

    def _launch_gradients(self, shape: _Shape) -> None:
        with holding_results(self._space, shape.capacities):
            shape.loss, shape.grads = self._compute(self.params, shape.features, shape.batch, shape.options)

    def _launch_update(self, shape: _Shape) -> None:
        params, grads = list(self.params.values()), [shape.grads[name] for name in self.params]
        first, second = (*self.states, None, None)[:2]
        scale: Any = 1.0
        with using(self._space):
            if self._clip_norm is not None:
                launch_norm(self._space, grads, self._clip_norm, self._norm, self._factor)
                scale = self._factor
            launch_update(self._rule, (params, grads, first, second, params), shape.settings, scale)

    def _make_gradients(self, shape: _Shape) -> Any:
        """Make the first half of a step; return the loss in memory that is not reused."""
        loss = self._space.scalar(self._sums)
        if shape.gradients is not None:
            launch_graph(shape.gradients)
        else:
            self._launch_gradients(shape)
        copy_into(loss, shape.loss)
        return loss

    def _make_update(self, shape: _Shape) -> None:
        """Make the second half of a step; capture both halves if they have not been captured."""
        if shape.update is not None:
            launch_graph(shape.update)
        else:
            self._launch_update(shape)
            self._capture(shape)

    def _capture(self, shape: _Shape) -> None:
        """Capture the launches of a step that has just been made, so that everything is compiled and allocated."""
        batch = shape.batch
        sizes = batch.order.size, len(batch.batch_sizes.counts), batch.targets.size, batch.words.size
        if self.failed or not self._can_be_captured(sizes):  # the driver may just have refused the recurrence
            self._shapes.clear()
            return
        try:
            with _capturing(self._stream) as gradients:
                self._launch_gradients(shape)
            with _capturing(self._stream) as update:
                self._launch_update(shape)
        except (RuntimeError, MemoryError) as error:
            self.failed = True
            self._shapes.clear()
            warnings.warn(
                f"the training step cannot be captured in a CUDA graph ({error}). Its launches are made one by one, "
                "which is slower for small batches, with the same results. CAPGPU_CUDA_GRAPHS=0 does not try.",
                RuntimeWarning,
                stacklevel=2,
            )
            return
        shape.memory = self._space.memory()
        shape.gradients, shape.update = gradients[0], update[0]
        current_memory = set(map(id, shape.memory))
        self._discard(
            [key for key, other in self._shapes.items() if not current_memory.issuperset(map(id, other.memory))]
        )

    def _discard(self, keys: Sequence[Any]) -> None:
        """Discard shapes with their graphs, none of which is still running."""
        if keys:
            import cupy

            cupy.cuda.get_current_stream().synchronize()
        for key in keys:
            del self._shapes[key]


def _copy(array: Any, purpose: str) -> Any:
    copy = allocate(array.shape, array.dtype, purpose)
    copy[...] = array
    return copy


@contextmanager
def _capturing(stream: Any) -> Iterator[list[Any]]:
    """Capture what is launched in a ``with`` block; the list gets the graph when the block ends."""
    import cupy

    def refuse(size: int) -> Any:
        raise CaptureError(f"{size:,} bytes were requested during capture, which the graph could not keep")

    captured: list[Any] = []
    with stream, cupy.cuda.using_allocator(refuse):
        stream.begin_capture()
        try:
            yield captured
        except BaseException:
            # the failure may have ended the capture already
            with suppress(RuntimeError):
                stream.end_capture()
            raise
        captured.append(stream.end_capture())
