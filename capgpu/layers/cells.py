"""The recurrent cells by the names that users give them. A new cell is entered here."""

from __future__ import annotations

from typing import Literal

from capgpu.layers.gru import GRU
from capgpu.layers.lstm import LSTM
from capgpu.layers.recurrence import Cell
from capgpu.layers.rnn import RNN

__all__ = ["CELLS", "CellType"]

#: A cell's name.
CellType = Literal["rnn", "lstm", "gru"]

#: The cells.
CELLS: dict[str, Cell] = {cell.name: cell for cell in (RNN, LSTM, GRU)}
