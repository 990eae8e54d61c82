"""The HTTP server: its socket, and the loop that answers requests until a signal ends it."""

from __future__ import annotations

import asyncio
import errno
import ipaddress
import logging
import socket
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING

import uvicorn

from capgpu.errors import InvalidValueError

if TYPE_CHECKING:
    from starlette.types import ASGIApp

__all__ = ["address_of", "is_loopback", "make_server", "open_socket", "run_server"]

#: Seconds in which requests that are being computed may end after Ctrl-C.
_GRACE_SECONDS = 10
_BACKLOG = 512


def open_socket(host: str, port: int) -> socket.socket:
    """Open a socket that listens.

    Parameters
    ----------
    host : str
        Name or address to listen on.
    port : int
        Port; 0 for any free one.

    Returns
    -------
    socket.socket
        The socket; connections wait until the server runs.

    Raises
    ------
    ValueError
        If the address is unknown or belongs to another machine, or the port is in use or not allowed.
    """
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
    except OSError as error:
        raise InvalidValueError(
            f"host: expected a name or an address of this machine, got {host!r} ({error})."
        ) from error
    try:
        return socket.create_server(address[:2], family=family, backlog=_BACKLOG)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise InvalidValueError(
                f"port: expected a free port, got {port}, which another program uses. Stop it, or give another port; "
                "0 takes any free one."
            ) from error
        if error.errno == errno.EACCES:
            raise InvalidValueError(
                f"port: expected one that you may use, got {port}. Give one above 1023, or 0 for any free one."
            ) from error
        raise InvalidValueError(
            f"host: expected an address of this machine, got {host!r} ({error.strerror})."
        ) from error


def address_of(listening: socket.socket) -> str:
    """Return the address of a listening socket as a browser takes it.

    Parameters
    ----------
    listening : socket.socket
        As from `open_socket`.

    Returns
    -------
    str
        ``http://127.0.0.1:8000/``
    """
    host, port = listening.getsockname()[:2]
    return f"http://[{host}]:{port}/" if ":" in host else f"http://{host}:{port}/"


def is_loopback(listening: socket.socket) -> bool:
    """Return whether a listening socket can be reached from its own machine alone."""
    return ipaddress.ip_address(listening.getsockname()[0]).is_loopback


def run_server(app: ASGIApp, listening: socket.socket, on_stop: Callable[[], None] | None = None) -> None:
    """Answer requests until SIGINT (Ctrl-C) or SIGTERM; requests in progress are answered first.

    Parameters
    ----------
    app : ASGI application
        As from `capgpu.serve.app.create_app`.
    listening : socket.socket
        As from `open_socket`; closed at the end.
    on_stop : callable, optional
        As for `make_server`.
    """
    with listening, suppress(KeyboardInterrupt):  # which uvicorn raises after it has shut down
        make_server(app, on_stop).run(sockets=[listening])


class _Server(uvicorn.Server):
    """A server that announces its end to the application, before it waits for the requests in progress."""

    def __init__(self, config: uvicorn.Config, on_stop: Callable[[], None] | None) -> None:
        super().__init__(config)
        self._on_stop = on_stop

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop, as uvicorn does."""
        if self._on_stop is not None:
            self._on_stop()
        await super().shutdown(sockets)


def make_server(app: ASGIApp, on_stop: Callable[[], None] | None = None) -> uvicorn.Server:
    """Return the server of an application.

    Parameters
    ----------
    app : ASGI application
        As from `capgpu.serve.app.create_app`.
    on_stop : callable, optional
        Called in the server's loop when it begins to stop: requests that would wait for their clients end by it.

    Returns
    -------
    uvicorn.Server
        It runs with a list of listening sockets.
    """
    config = uvicorn.Config(
        app,
        log_config=None,
        log_level="error",
        access_log=False,
        lifespan="on",
        ws="none",
        proxy_headers=False,
        server_header=False,
        timeout_graceful_shutdown=_GRACE_SECONDS,
    )
    logging.getLogger("uvicorn.error").addFilter(_is_no_cancellation)
    return _Server(config, on_stop)


def _is_no_cancellation(record: logging.LogRecord) -> bool:
    """Return False for the traceback of a request that was cut off at the end: uvicorn has said how many there were."""
    return not (record.exc_info and isinstance(record.exc_info[1], asyncio.CancelledError))
