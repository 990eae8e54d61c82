"""One run on a machine with a GPU that reports whether every kernel is correct, and how fast it is: see README.md."""
