"""What the solver is made of: its history, its progress display, its state on disk, its Ctrl-C."""
