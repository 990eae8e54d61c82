"""The recurrent cells by the names that users give them. A new cell is entered here."""

from __future__ import annotations

from typing import Literal

from capgpu.layers.attention import ATTENTION
from capgpu.layers.gru import GRU
from capgpu.layers.lstm import LSTM
from capgpu.layers.recurrence import Cell
from capgpu.layers.rnn import RNN

__all__ = ["CELLS", "CellType"]

#: A cell's name.
CellType = Literal["rnn", "lstm", "gru", "attention"]

#: The cells.
CELLS: dict[str, Cell] = {"rnn": RNN, "lstm": LSTM, "gru": GRU, "attention": ATTENTION}
