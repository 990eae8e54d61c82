"""capgpu through its public interface; mode is the backend."""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

import numpy as np

import capgpu
from bench.workloads import (
    ADAM_BETA1,
    ADAM_BETA2,
    ADAM_EPS,
    DROPOUT,
    SAMPLE_LENGTH,
    Workload,
    sample_count,
    split_cell,
    split_job,
)
from capgpu.backend import asarray, set_backend, synchronize, to_numpy
from capgpu.model import CaptioningRNN
from capgpu.optim import Optimizer
from capgpu.random import fold_key
from capgpu.vocabulary import SPECIAL_WORDS


def versions() -> dict[str, str]:
    """Return the versions of this competitor's libraries."""
    # the package's own attribute, since a checkout on the path has no metadata
    return {"capgpu": capgpu.__version__, "numba": version("numba")}


class OurTask:
    """One job on one backend.

    Parameters
    ----------
    mode : str
        Backend.
    work : Workload
        Shapes, data, parameters.
    job : str
        ``loss``, ``adam`` or a sampling job.
    dtype : str
        Of the model and its features.
    dropout : float
        Rate on the features, between layers and before the vocabulary; new masks at each step.
    """

    def __init__(self, mode: str, work: Workload, job: str, dtype: str = "float32", dropout: float = 0.0) -> None:
        set_backend(mode)
        size, (cell, layers) = work.size, split_cell(work.cell)
        self.job = job
        vocabulary = [*SPECIAL_WORDS, *(f"word{index}" for index in range(4, size.V))]
        self.model = CaptioningRNN(
            {word: index for index, word in enumerate(vocabulary)},
            input_dim=size.D,
            wordvec_dim=size.W,
            hidden_dim=size.H,
            cell_type=cell,  # type: ignore[arg-type]
            n_layers=layers,
            layer_dropout=dropout if layers > 1 else 0.0,
            dtype=dtype,
            feature_dropout=dropout,
            output_dropout=dropout,
        )
        model_dtype = self.model.dtype
        self.model.params = {name: asarray(array.astype(model_dtype)) for name, array in work.params.items()}
        self.features = asarray(work.features.astype(model_dtype))
        self.dropout, self.steps = dropout, 0
        self.captions = work.captions
        self.optimizer = Optimizer(
            "adam", {"learning_rate": 1e-3, "beta1": ADAM_BETA1, "beta2": ADAM_BETA2, "epsilon": ADAM_EPS}
        )
        if job.startswith("sample"):
            self.features = asarray(work.sample_features[: sample_count(job)].astype(model_dtype))
        self.out: dict[str, Any] = {}

    def build(self) -> None:
        """Do nothing: kernels are compiled for dtypes, not for shapes."""

    def release(self) -> None:
        """Drop the last step's result."""
        self.out = {}

    def set_rate(self, rate: float) -> None:
        """Set Adam's learning rate."""
        for config in self.optimizer.configs.values():
            config["learning_rate"] = rate

    def step(self) -> None:
        """Do the job once, to its end."""
        self.launch()
        synchronize()

    def launch(self) -> None:
        """Do the job once; a device may still be at it."""
        if self.job.startswith("sample"):
            self.out = {"words": self.model.sample(self.features, max_length=SAMPLE_LENGTH)}
        else:
            key = {"dropout_key": fold_key(0, self.steps)} if self.dropout else {}
            loss, grads = self.model.loss(self.features, self.captions, **key)
            self.steps += 1
            self.out = {"loss": loss, **grads}
            if self.job == "adam":
                self.optimizer.step(self.model.params, grads)
                self.out = self.model.params

    def result(self) -> dict[str, np.ndarray]:
        """Return the last step's result."""
        return {name: to_numpy(array) for name, array in self.out.items()}


def make_task(mode: str, work: Workload, job: str) -> OurTask:
    """Return the task on backend `mode`."""
    job, dropout = split_job(job)
    return OurTask(mode, work, job, dropout=DROPOUT if dropout else 0.0)
