"""Where tables are printed."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["console"]

_WIDTH_OF_FILES = 120


def console() -> Console:
    """Make a console on standard output, as wide as the terminal, or of a fixed width for files and pipes.

    Returns
    -------
    rich.console.Console
        It prints text as it stands: no markup, no emoji codes.
    """
    from rich.console import Console

    width = None if sys.stdout.isatty() else _WIDTH_OF_FILES
    return Console(width=width, highlight=False, markup=False, emoji=False)
