"""The losses that the exercises' notebooks print for the whole model."""

from __future__ import annotations

import numpy as np
import pytest

from oracles import captioner, course


@pytest.mark.parametrize("cell", ["rnn", "lstm"])
def test_the_loss_equals_the_exercises(backend, cell):
    model = backend.model(course.VOCABULARY, **course.MODEL_SIZES, cell_type=cell, dtype=np.float64)
    ramps = {name: course.ramp(-1.4, 1.3, *value.shape) for name, value in model.params.items()}
    for name, ramp in ramps.items():
        model.params[name] = backend.asarray(ramp)
    loss, _ = model.loss(backend.asarray(course.MODEL_FEATURES[cell]), course.MODEL_CAPTIONS)
    plain_loss, _ = captioner.loss(ramps, course.MODEL_FEATURES[cell], course.MODEL_CAPTIONS)
    # the notebooks print eleven decimals
    assert abs(float(loss) - course.MODEL_LOSS[cell]) < 5.1e-12
    assert abs(plain_loss - course.MODEL_LOSS[cell]) < 5.1e-12


@pytest.mark.parametrize("cell", ["rnn", "lstm"])
def test_default_sizes_and_dtype_equal_the_exercises(cell):
    from capgpu import CaptioningRNN

    model = CaptioningRNN(course.VOCABULARY, cell_type=cell)
    gates = {"rnn": 128, "lstm": 512}[cell]
    assert {name: value.shape for name, value in model.params.items()} == {
        "W_embed": (3, 128),
        "W_proj": (512, 128),
        "b_proj": (128,),
        "Wx": (128, gates),
        "Wh": (128, gates),
        "b": (gates,),
        "W_vocab": (128, 3),
        "b_vocab": (3,),
    }
    assert {value.dtype for value in model.params.values()} == {np.dtype(np.float32)}
