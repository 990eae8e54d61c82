"""Timing of capgpu against other ways to do the same step; `python -m bench.run --help`."""
