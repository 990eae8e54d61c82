"""Data sets, one file a source; each gives the dictionary of arrays that the solver takes."""
