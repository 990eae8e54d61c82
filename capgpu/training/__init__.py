"""Parts of the solver: history, progress display, state on disk, callbacks, and the handling of Ctrl-C."""
