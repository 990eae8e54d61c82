"""Optional operands of the recurrences that the training step uses: biases, order of captions, previous states."""

from __future__ import annotations

import numpy as np
import pytest

import capgpu
from capgpu.kernels.cuda import launch_heuristics, recurrence
from oracles.halves import ALL
from oracles.numbers import TOLERANCE, distance
from oracles.recurrence_runs import config_of
from oracles.recurrences import (
    gru_sequence,
    gru_sequence_backward,
    lstm_sequence,
    lstm_sequence_backward,
    rnn_sequence,
    rnn_sequence_backward,
)
from oracles.snapshots import frozen

LENGTHS = (5, 0, 7, 3, 7, 1)

ORDER = (2, 4, 0, 3, 5, 1)  # longest first; caption 1 has no steps


class Batch:
    """A ragged batch in the captions' order, with the results of plain loops in packed rows."""

    def __init__(self, gates, dtype):
        random, H = np.random.default_rng(231), 20

        def draw(*shape):
            return random.uniform(-1, 1, shape).astype(dtype)

        self.H, self.gates, self.dtype = H, gates, dtype
        self.lengths = [LENGTHS[caption] for caption in ORDER if LENGTHS[caption]]
        self.counts = np.array([sum(length > t for length in self.lengths) for t in range(max(LENGTHS))])
        rows = int(self.counts.sum())
        self.table, self.rows = draw(9, gates * H), random.integers(0, 9, rows)
        self.bias, self.h0_bias, self.Wh = draw((4 if gates == 3 else gates) * H), draw(H), draw(H, gates * H)
        self.h0, self.c0, self.dhidden = draw(6, H), draw(6, H), draw(rows, H)
        starts = np.cumsum(self.counts) - self.counts
        self.rows_of_sequences = [[starts[t] + rank for t in range(length)] for rank, length in enumerate(self.lengths)]

    def packed(self, sequences):
        out = np.zeros((sum(self.lengths), sequences[0].shape[1]))
        for rows, sequence in zip(self.rows_of_sequences, sequences, strict=True):
            out[rows] = sequence
        return out

    def forward(self):
        """Return hidden, previous, cell and gates; the last two None for an RNN, and cell for a GRU."""
        operands = {name: np.float64(getattr(self, name)) for name in ("table", "bias", "h0_bias", "Wh", "h0", "c0")}
        runs, previous_states = [], []
        for rank, rows in enumerate(self.rows_of_sequences):
            projected = operands["table"][self.rows[rows]] + operands["bias"][: self.gates * self.H]
            h0, c0 = operands["h0"][ORDER[rank]] + operands["h0_bias"], operands["c0"][ORDER[rank]]
            if self.gates == 4:
                runs.append(lstm_sequence(projected, h0, c0, operands["Wh"]))
            elif self.gates == 3:
                runs.append(gru_sequence(projected, h0, operands["Wh"], operands["bias"][3 * self.H :]))
            else:
                runs.append((rnn_sequence(projected, h0, operands["Wh"]),))
            previous_states.append(np.vstack([h0, runs[-1][0][:-1]]))
        states = [self.packed([run[k] for run in runs]) for k in range(len(runs[0]))]
        if self.gates == 3:
            states.insert(1, None)
        return states[0], self.packed(previous_states), *(states[1:] or (None, None))

    def backward(self, hidden, previous, cell, gates):
        """Return dgates, dh0, dc0 (of an LSTM) and a GRU's dinputs; those of states in the captions' order."""
        Wh, dhidden, c0 = np.float64(self.Wh), np.float64(self.dhidden), np.float64(self.c0)
        runs, inputs, dh0, dc0 = [], [], np.zeros((6, self.H)), np.zeros((6, self.H))
        for rank, rows in enumerate(self.rows_of_sequences):
            if self.gates == 4:
                zero_dc = np.zeros_like(dhidden[rows])
                result = lstm_sequence_backward(dhidden[rows], zero_dc, gates[rows], cell[rows], c0[ORDER[rank]], Wh)
                dc0[ORDER[rank]] = result[2]
            elif self.gates == 3:
                dinputs, *result = gru_sequence_backward(dhidden[rows], gates[rows], previous[rows], Wh)
                inputs.append(dinputs)
            else:
                result = rnn_sequence_backward(dhidden[rows], hidden[rows], Wh)
            runs.append(result[0])
            dh0[ORDER[rank]] = result[1]
        return self.packed(runs), dh0, dc0, self.packed(inputs) if inputs else None


@pytest.mark.nightly(
    unless=lambda p: (
        (p.dtype == "float32" or (p.gates == 1 and p.dtype != "bfloat16"))
        and (p.gates != 3 or p.algorithm != "persistent")
    )
)
@pytest.mark.parametrize("dtype", ALL)
@pytest.mark.parametrize("gates", [1, 3, 4])
@pytest.mark.parametrize("algorithm", launch_heuristics.ALGORITHMS)
def test_biases_order_and_previous_states_agree_with_the_loops(recurrence_device, algorithm, gates, dtype):
    batch = Batch(gates, dtype)
    to_device = capgpu.asarray
    rows, H, steps = len(batch.dhidden), batch.H, recurrence.Steps.of(batch.counts)
    hidden, previous, cell, dh0, dc0 = (
        recurrence_device.full((count, H), np.nan, dtype=dtype) for count in (rows, rows, rows, 6, 6)
    )
    dgates, dinputs = (recurrence_device.full((rows, gates * H), np.nan, dtype=dtype) for _ in range(2))
    activated = None if gates == 1 else recurrence_device.full((rows, 4 * H), np.nan, dtype=dtype)
    lstm, gru = gates == 4, gates == 3
    cell_of = recurrence.CELLS[{4: "lstm", 3: "gru", 1: "rnn"}[gates]]
    c0, order = to_device(batch.c0) if lstm else None, to_device(np.array(ORDER, dtype=np.int32))

    def config(direction):
        name = f"{cell_of.name}_{direction}"
        units = launch_heuristics.PASSES[name].units[1]
        return config_of(algorithm, name, units, dtype, H, len(batch.lengths), 2)

    table, index, Wh = to_device(batch.table), to_device(batch.rows.astype(np.int32)), to_device(batch.Wh)
    inputs = recurrence.ForwardInputs(
        table, index, to_device(batch.h0), c0, Wh, to_device(batch.bias), to_device(batch.h0_bias), order
    )
    outputs = hidden, cell if lstm else None, activated, previous
    expected = batch.forward()
    recurrence.forward_into(cell_of, inputs, steps, recurrence.ForwardOutputs(*outputs), config("forward"))
    results = hidden, previous, cell if lstm else None, activated
    for actual, expected_array in zip(results, expected, strict=True):
        assert (actual is None) == (expected_array is None)
        assert actual is None or distance(capgpu.to_numpy(actual), expected_array) < TOLERANCE[dtype]["forward"]

    expected = batch.backward(*expected)
    saved = (hidden, None) if activated is None else (activated, cell if lstm else previous)
    gradients = recurrence.BackwardInputs(to_device(batch.dhidden), None, *saved, c0, Wh, order)
    results = dgates, dh0, dc0 if lstm else None, dinputs if gru else None
    recurrence.backward_into(cell_of, gradients, steps, recurrence.BackwardOutputs(*results), config("backward"))
    for actual, expected_array in zip(results, expected, strict=True):
        if actual is not None:
            assert distance(capgpu.to_numpy(actual), expected_array) < TOLERANCE[dtype]["gradient"]


@pytest.mark.parametrize("algorithm", launch_heuristics.ALGORITHMS)
def test_forward_without_saved_gates_gives_the_same_states(recurrence_device, algorithm):
    batch = Batch(4, "float64")
    to_device, rows = capgpu.asarray, len(batch.dhidden)
    outputs = []
    for gates in (None, recurrence_device.empty((rows, 4 * batch.H))):
        hidden, cell = recurrence_device.empty((rows, batch.H)), recurrence_device.empty((rows, batch.H))
        inputs = (
            to_device(batch.table),
            to_device(batch.rows.astype(np.int32)),
            to_device(batch.h0[:5]),
            None,
            to_device(batch.Wh),
        )
        recurrence.forward_into(
            recurrence.CELLS["lstm"],
            recurrence.ForwardInputs(*inputs),
            recurrence.Steps.of(batch.counts),
            recurrence.ForwardOutputs(hidden, cell, gates),
            config_of(algorithm, "lstm_forward", 8, "float64", batch.H, 5, 2),
        )
        outputs.append(frozen((hidden, cell)))
    assert outputs[0] == outputs[1]


def test_step_kernels_can_be_captured_in_a_graph_and_replayed(recurrence_device):
    batch = Batch(4, "float32")
    to_device, rows, H = capgpu.asarray, len(batch.dhidden), batch.H
    config, steps = config_of("step", "lstm_forward", 8, "float32", H, 5, 1), recurrence.Steps.of(batch.counts)
    table, index, h0 = to_device(batch.table), to_device(batch.rows.astype(np.int32)), to_device(batch.h0[:5])
    Wh, hidden, cell = (
        to_device(batch.Wh),
        recurrence_device.empty((rows, H), "float32"),
        recurrence_device.empty((rows, H), "float32"),
    )

    def forward():
        recurrence.forward_into(
            recurrence.CELLS["lstm"],
            recurrence.ForwardInputs(table, index, h0, None, Wh),
            steps,
            recurrence.ForwardOutputs(hidden, cell),
            config,
        )

    forward()
    expected = frozen((hidden, cell))
    stream = recurrence_device.cuda.Stream(non_blocking=True)
    with stream:
        stream.begin_capture()
        forward()
        graph = stream.end_capture()
        hidden.fill(0)
        cell.fill(0)
        graph.launch(stream)
    stream.synchronize()  # copies to the host run on another stream, which does not wait for this one
    assert frozen((hidden, cell)) == expected
