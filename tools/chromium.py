"""Chromium as the machine has it, driven by playwright: for tests of the web page, and for pictures of it."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

__all__ = ["find_chromium", "open_chromium"]

#: Names of the program in Debian and elsewhere.
_NAMES = ("chromium", "chromium-browser", "google-chrome")
#: Nothing is sent anywhere, and a camera is simulated.
_FLAGS = (
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--use-fake-ui-for-media-stream",
    "--use-fake-device-for-media-stream",
)


def find_chromium() -> str | None:
    """Return the path of the program, or None without one."""
    return next((path for path in map(shutil.which, _NAMES) if path), None)


@contextmanager
def open_chromium(**options: Any) -> Iterator[Any]:
    """Open a browser without a window and with a new profile, inside a ``with`` block.

    Parameters
    ----------
    **options
        Of playwright's ``launch_persistent_context``, such as ``viewport`` and ``color_scheme``.

    Yields
    ------
    playwright.sync_api.BrowserContext
        Makes pages.
    """
    from playwright.sync_api import sync_playwright

    path = find_chromium()
    assert path is not None, "expected a Chromium, got none: apt-get install chromium"
    sandbox = hasattr(os, "geteuid") and os.geteuid() != 0  # Chromium refuses it to root
    with tempfile.TemporaryDirectory() as profile, sync_playwright() as playwright:
        context = playwright.chromium.launch_persistent_context(
            profile, executable_path=path, args=list(_FLAGS), chromium_sandbox=sandbox, headless=True, **options
        )
        try:
            yield context
        finally:
            context.close()
