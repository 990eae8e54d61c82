"""``python -m capgpu``: the same as the command ``capgpu``."""

from __future__ import annotations

import signal

__all__ = ["main"]


def main(program: str = "capgpu") -> None:
    """Run the command; while it is being imported, Ctrl-C ends the process without a traceback.

    Parameters
    ----------
    program : str
        The name of the command in its help.
    """
    handler = signal.getsignal(signal.SIGINT)
    if handler is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from capgpu.cli import main as command

    signal.signal(signal.SIGINT, handler)
    command(prog_name=program)


if __name__ == "__main__":
    main("python -m capgpu")
