"""A part of a minibatch: the contributions of all captions add up to the loss of the whole, dropout included."""

from __future__ import annotations

import numpy as np
import pytest

from capgpu.backend import to_numpy
from capgpu.sequence import packed_rows
from oracles.scenes import CAPTIONS, SIZES, WORDS, features_for, parameters

RATES = {"feature_dropout": 0.4, "output_dropout": 0.4}


class Sink:
    """Collects what it is given."""

    def __init__(self, backend, rows):
        self.backend, self.count, self.taken = backend, rows, []
        self.grads = {}

    def ready(self, name, gradient):
        self.taken.append(name)
        self.grads[name] = to_numpy(gradient)

    def ready_rows(self, name, rows, index):
        self.taken.append(name)
        rows, index = to_numpy(rows), to_numpy(index)
        assert (np.diff(index) > 0).all()
        self.grads[name] = np.zeros((self.count, rows.shape[1]))
        self.grads[name][index] = rows


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("tied", [False, True])
def test_parts_add_up_to_the_loss_of_the_minibatch(backend, tied, dtype):
    captions = CAPTIONS["padded"]
    sizes = {**SIZES, "wordvec_dim": SIZES["hidden_dim"]} if tied else SIZES
    options = {"params": parameters("lstm")} if not tied else {"seed": 0}
    layers = {"n_layers": 2, "layer_dropout": 0.4} if tied else {}
    model = backend.model(WORDS, **sizes, cell_type="lstm", dtype=dtype, tie_weights=tied, **options, **RATES, **layers)
    features = features_for(captions).astype(dtype)
    loss, grads = model.loss(backend.asarray(features), captions, dropout_key=7)
    total, sums = 0.0, {name: np.zeros(array.shape) for name, array in model.params.items()}
    parts = [np.array([row]) for row in range(2)] + [np.arange(2, captions.shape[0])]
    for rows in parts:
        sink = Sink(backend, len(WORDS))
        part, rest = model.partial_loss(backend.asarray(features[rows]), captions, rows, dropout_key=7, sink=sink)
        assert sink.taken == (["Wh2", "Wx2", "Wh", "Wx"] if tied else ["W_vocab", "Wh", "Wx", "W_embed"])
        assert "W_embed" in rest or not tied
        total += float(part)
        for name in sums:
            sums[name] += sink.grads[name] if name in sink.grads else to_numpy(rest[name])
    tolerance = 1e-12 if dtype == "float64" else 1e-5
    np.testing.assert_allclose(total, float(loss), rtol=tolerance)
    for name, expected in grads.items():
        np.testing.assert_allclose(sums[name], to_numpy(expected), rtol=tolerance, atol=tolerance, err_msg=name)


def test_packed_rows_of_a_part_are_found_in_the_whole():
    rng = np.random.default_rng(0)
    captions = np.where(rng.random((9, 7)) < 0.4, 0, rng.integers(1, 5, (9, 7)))
    everything, count = packed_rows(captions, np.arange(9), 0)
    np.testing.assert_array_equal(everything, np.arange(count))
    parts = [packed_rows(captions, np.arange(rank, 9, 3), 0)[0] for rank in range(3)]
    np.testing.assert_array_equal(np.sort(np.concatenate(parts)), np.arange(count))
    assert packed_rows(np.zeros((2, 3), int), np.array([1]), 0) == (pytest.approx(np.zeros(0)), 0)
