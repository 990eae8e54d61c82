"""What the model holds while it computes: large gradients take the place of what is not read any more."""

from __future__ import annotations

import weakref

import numpy as np
import pytest

import capgpu
import capgpu.captioner
from capgpu.kernels.reference import Kernels
from capgpu.model import CaptioningRNN
from oracles.scenes import SIZES, WORDS, features_for

ROWS = 40


@pytest.mark.parametrize("cell", ["rnn", "lstm"])
def test_no_array_with_a_row_per_word_is_alive_while_the_embedding_gradient_is_computed(monkeypatch, cell):
    references, live_shapes = [], []

    def watched(operation):
        def call(*args, **options):
            results = operation(*args, **options)
            references.extend(
                weakref.ref(array) for array in (*args, *results) if getattr(array, "shape", ())[:1] == (ROWS,)
            )
            return results

        return staticmethod(call)

    class Watched(Kernels):
        lstm_forward, rnn_forward = watched(Kernels.lstm_forward), watched(Kernels.rnn_forward)
        lstm_backward, rnn_backward = watched(Kernels.lstm_backward), watched(Kernels.rnn_backward)

        @staticmethod
        def scatter_rows(*args):
            live_shapes.extend(
                array.shape for reference in references if (array := reference()) is not None and array.ndim == 2
            )
            return Kernels.scatter_rows(*args)

    capgpu.set_backend("numpy")
    monkeypatch.setattr(capgpu.captioner, "kernels_for", lambda array, precision="float32": Watched())
    captions = np.tile([[1, 4, 5, 6, 6, 2]], (ROWS // 5, 1))
    model = CaptioningRNN(WORDS, **SIZES, cell_type=cell, seed=0)
    model.loss(features_for(captions, "float32"), captions)
    assert len(references) >= 5  # hidden states, those before each step, both gradients
    assert live_shapes == []
