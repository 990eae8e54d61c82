"""Data sets: one module per source, each with the dictionary of arrays that the solver accepts."""
