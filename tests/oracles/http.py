"""A server in a thread, and a client that sends exactly what it is given."""

from __future__ import annotations

import http.client
import json
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from email.message import Message
from typing import Any


@dataclass(frozen=True)
class Answer:
    """An answer of the server."""

    status: int
    headers: Message
    content: bytes

    def json(self) -> Any:
        return json.loads(self.content)


class Client:
    """Requests to a port of this machine, each over a connection of its own: paths are sent as they are."""

    def __init__(self, port: int) -> None:
        self.port = port

    def get(self, path: str, headers: Mapping[str, str] | None = None) -> Answer:
        return self.send("GET", path, None, headers or {})

    def post(self, path: str, content: Any, headers: Mapping[str, str] | None = None) -> Answer:
        return self.send("POST", path, content, headers or {})

    def send(self, method: str, path: str, content: Any, headers: Mapping[str, str]) -> Answer:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            connection.request(method, path, content, dict(headers))
            response = connection.getresponse()
            return Answer(response.status, response.headers, response.read())
        finally:
            connection.close()


@contextmanager
def serving(app: Any, on_stop: Callable[[], None] | None = None) -> Iterator[Client]:
    """Serve an application inside a ``with`` block, by the server of ``capgpu serve``."""
    import uvicorn

    from capgpu.serve.server import make_server, open_socket

    with open_socket("127.0.0.1", 0) as listening:
        server: uvicorn.Server = make_server(app, on_stop)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        try:
            yield Client(listening.getsockname()[1])
        finally:
            server.should_exit = True
            thread.join()
