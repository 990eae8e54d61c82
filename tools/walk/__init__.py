"""A walk through what the documentation promises, as a user takes it: ``python -m tools.walk``.

Each promise is a sentence, a function that keeps to the public interface and the command, and a line of what was seen.
The walk makes its own pictures, network and run in a temporary folder; it fails where a promise does not hold.
"""
