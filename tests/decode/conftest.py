from __future__ import annotations

import numpy as np
import pytest

from oracles.scenes import CELLS, SIZES, WORDS, parameters


@pytest.fixture(params=CELLS)
def cell(request):
    return request.param


@pytest.fixture
def scene(backend, cell):
    """A tiny model with words that differ from picture to picture: model, host parameters, features on the host."""

    def make(count=4, dtype="float64", spread=2.0, end_bias=-1.0):
        params = {name: (spread * value).astype(dtype) for name, value in parameters(cell, seed=7).items()}
        params["b_vocab"][WORDS["<END>"]] += end_bias
        params["b_vocab"][[WORDS["<NULL>"], WORDS["<START>"]]] -= 20
        model = backend.model(WORDS, **SIZES, cell_type=cell, dtype=dtype, params=params)
        features = np.random.default_rng(3).uniform(-2, 2, (count, SIZES["input_dim"])).astype(dtype)
        exact = {name: value.astype(np.float64) for name, value in params.items()}
        return model, exact, features

    return make
