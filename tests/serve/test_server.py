"""capgpu serve: the address, a line a request, 50 clients, Ctrl-C, and what is refused."""

from __future__ import annotations

import asyncio
import logging
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from oracles.commands import refused, run
from oracles.http import Client
from oracles.squares import picture_file

pytest.importorskip("uvicorn")

CLIENTS = 50


@pytest.fixture
def process(squares: Path) -> Iterator[tuple[Any, Client]]:
    command = [sys.executable, "-m", "capgpu", "serve", "--run", squares, "--port", "0", "--verbose"]
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(
        [*map(str, command), "--backend", "numpy"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment,
    ) as started:
        try:
            assert started.stdout is not None
            line = started.stdout.readline()
            address = re.fullmatch(r"Serving .* at http://127\.0\.0\.1:(\d+)/ \(Ctrl-C stops\)\n", line)
            assert address is not None, line
            yield started, Client(int(address[1]))
        finally:
            started.kill()


def test_fifty_clients_are_answered_and_ctrl_c_stops(process: tuple[Any, Client]) -> None:
    started, client = process
    colours = ["red", "green", "blue", "black"]

    def send(i: int) -> Any:
        query = ("?beam=3", "", "?temperature=1")[i % 3]
        picture = picture_file(colours[i % 4], "JPEG", (60, 40))
        return client.post(f"/api/captions{query}", picture, {"Content-Type": "image/jpeg"})

    with ThreadPoolExecutor(CLIENTS) as pool:
        answers = list(pool.map(send, range(2 * CLIENTS)))
    assert [answer.status for answer in answers] == [200] * len(answers)
    assert max(answer.json()["timing"]["batch"] for answer in answers) > 1
    for i, answer in enumerate(answers):
        if i % 3 < 2:
            assert answer.json()["captions"][0]["text"] == f"a {colours[i % 4]} square"
    client.get("/%1b[31m?a=%0ab")
    started.send_signal(signal.SIGINT)
    output = started.stdout.read()
    assert started.wait(30) == 0
    lines = output.splitlines()
    assert lines[-1] == "Stopped."
    assert sum(line.startswith("POST /api/captions") for line in lines) == 2 * CLIENTS
    assert re.fullmatch(r"GET /%1b\[31m\?a=%0ab 404 \d+\.\d{3} s", lines[-2])
    assert "Traceback" not in output


def test_a_port_in_use_is_refused_before_anything_is_loaded(squares: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as occupied:
        port = occupied.getsockname()[1]
        refused(run("serve", "--run", squares, "--port", port), f"expected a free port, got {port}")


def test_bad_addresses_are_refused(squares: Path) -> None:
    refused(run("serve", "--run", squares, "--host", "no.such.host.invalid"), "expected a name or an address")
    refused(run("serve", "--run", squares, "--host", "203.0.113.7", "--port", 0), "expected an address of this machine")


def test_a_folder_without_a_run_is_refused(tmp_path: Path) -> None:
    refused(run("serve", "--run", tmp_path), "expected a run folder")


def test_a_missing_package_is_named_with_the_command_that_installs_it(
    squares: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    refused(run("serve", "--run", squares), "pip install 'starlette>=")


def test_other_machines_are_announced() -> None:
    from capgpu.serve.server import address_of, is_loopback, open_socket

    with open_socket("0.0.0.0", 0) as everywhere, open_socket("127.0.0.1", 0) as here:
        assert not is_loopback(everywhere)
        assert is_loopback(here)
        assert address_of(here) == f"http://127.0.0.1:{here.getsockname()[1]}/"


def test_a_request_that_is_cut_off_at_the_end_shows_no_traceback(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from capgpu.serve import server

    async def waits(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            await receive()
            await send({"type": "lifespan.startup.complete"})
            await receive()
            await send({"type": "lifespan.shutdown.complete"})
        else:
            await asyncio.Event().wait()

    monkeypatch.setattr(server, "_GRACE_SECONDS", 0.1)
    listening = server.open_socket("127.0.0.1", 0)
    uvicorn_server = server.make_server(waits)
    thread = threading.Thread(target=uvicorn_server.run, args=([listening],))
    with listening, caplog.at_level(logging.ERROR):
        thread.start()
        with socket.create_connection(listening.getsockname()) as client:
            client.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
            time.sleep(0.3)
            uvicorn_server.should_exit = True
            thread.join(20)
    assert not thread.is_alive()
    assert "Cancel 1 running task" in caplog.text
    assert "Traceback" not in caplog.text
