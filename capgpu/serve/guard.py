"""Middleware for every request: checks of its origin, and headers that restrict what a page may do.

Web pages of other sites cannot use the server through the user's browser:

- DNS rebinding makes the name of a foreign site resolve to this server; the ``Host`` header then has that name. Only
  addresses, ``localhost`` and names that the operator allows are accepted.
- A foreign page that sends a request (CSRF) is recognized by ``Sec-Fetch-Site`` and ``Origin``. Pictures are sent with
  a content type that makes browsers ask for permission first, which is never given.
- The content security policy allows this server's own files only: no inline scripts, no other hosts.
"""

from __future__ import annotations

import ipaddress
import re
import time
from collections.abc import Callable, Collection
from typing import TYPE_CHECKING

from capgpu.serve.problems import RequestError, problem_response

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

__all__ = ["Guard"]

_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(self), microphone=(), geolocation=()",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
_RAW_HEADERS = [(name.lower().encode(), value.encode()) for name, value in _HEADERS.items()]


class Guard:
    """ASGI middleware that checks requests and adds headers to responses.

    Parameters
    ----------
    app : ASGI application
        What answers the requests that pass.
    allowed_hosts : collection of str
        Host names that are accepted besides addresses and ``localhost``.
    log : callable, optional
        Called with one line per request.
    """

    def __init__(
        self, app: ASGIApp, *, allowed_hosts: Collection[str] = (), log: Callable[[str], None] | None = None
    ) -> None:
        self._app, self._log = app, log
        self._allowed = {"localhost", *(name.lower() for name in allowed_hosts)}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        start, status = time.perf_counter(), 0

        async def send_guarded(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message = {**message, "headers": [*message["headers"], *_RAW_HEADERS]}
            await send(message)

        try:
            headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
            try:
                self._check(scope["method"], headers)
            except RequestError as error:
                await problem_response(error)(scope, receive, send_guarded)
                return
            await self._app(scope, receive, send_guarded)
        finally:
            if self._log is not None:
                self._log(f"{_request_line(scope)} {status or 'closed'} {time.perf_counter() - start:.3f} s")

    def _check(self, method: str, headers: dict[str, str]) -> None:
        host = headers.get("host", "")
        name = _host_name(host)
        if name not in self._allowed and not _is_address(name):
            raise RequestError(
                421,
                f"Host: expected an address, localhost or an allowed name, got {host[:100]!r}. Start the server with "
                "--allow-host NAME to be reached by that name.",
            )
        if method in ("GET", "HEAD"):
            return
        origin = headers.get("origin")
        site = headers.get("sec-fetch-site", "none")
        if site not in ("same-origin", "none") or (origin is not None and origin.partition("://")[2] != host):
            raise RequestError(403, "Expected a request from the server's own page, got one from another site.")


def _host_name(host: str) -> str:
    """Return the name or address in a Host header, without the port."""
    host = host.strip().lower()
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0]


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _request_line(scope: Scope) -> str:
    """Return method, path and query of a request as they were sent, without control characters."""
    path = scope.get("raw_path") or scope["path"].encode("ascii", "backslashreplace")
    query = b"?" + scope["query_string"] if scope["query_string"] else b""
    target = (path + query).decode("ascii", "backslashreplace")
    return f"{scope['method']} {re.sub('[^ -~]', '?', target)}"
