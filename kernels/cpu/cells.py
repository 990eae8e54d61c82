"""One step of whichever cell a model has, for the kernels that decode."""

from __future__ import annotations

from capgpu.kernels.cells import CELLS
from capgpu.kernels.cpu.compile import compiled
from capgpu.kernels.cpu.gru import activate_gru
from capgpu.kernels.cpu.lstm import activate_lstm
from capgpu.kernels.cpu.recurrence import ForwardRow
from capgpu.kernels.cpu.rnn import activate_rnn

__all__ = ["GATES_WITH_STATE", "LSTM_GATES", "activate_cell"]

#: Gates of the LSTM, with attention or without.
LSTM_GATES = CELLS["lstm"].n_gates
#: Numbers of gates of the cells that have a state c.
GATES_WITH_STATE = tuple(cell.n_gates for cell in CELLS.values() if cell.has_state)


@compiled()
def activate_cell(n_gates: int, row: ForwardRow, begin: int, end: int) -> None:
    """Turn units begin..end-1 of one row into gates and states, by the cell that has so many gates."""
    if n_gates == 1:
        activate_rnn(row, begin, end)
    elif n_gates == 3:
        activate_gru(row, begin, end)
    else:
        activate_lstm(row, begin, end)
