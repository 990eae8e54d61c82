"""What makes the embedded data, and the run on a machine with a GPU."""
