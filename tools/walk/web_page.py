"""Promises of the web page, by HTTP and in Chromium."""

from __future__ import annotations

import functools
import importlib.util
import json
import re
import statistics
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

from tools.chromium import find_chromium, open_chromium
from tools.walk.promises import SkippedError, User, promise

_of_the_page = functools.partial(promise, "Web page")


class _Server:
    """``capgpu serve`` of the user's run, and requests to it."""

    def __init__(self, user: User) -> None:
        if importlib.util.find_spec("starlette") is None or importlib.util.find_spec("uvicorn") is None:
            raise SkippedError("starlette and uvicorn are not installed")
        command = [sys.executable, "-m", "capgpu", "serve", "--run", str(user.run), "--port", "0", "--max-mb", "1"]
        self.process = subprocess.Popen(
            command, cwd=user.folder, env=user.environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        found = re.search(r"http://[\w.:]+", line)
        assert found is not None, line
        self.address = found[0].rstrip("/")

    def ask(self, path: str, content: bytes | None = None, **headers: str) -> tuple[int, bytes]:
        """Return status and content of an answer."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        request = urllib.request.Request(self.address + path, content, named)
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return answer.status, answer.read()
        except urllib.error.HTTPError as error:
            return error.code, error.read()

    def json(self, path: str, content: bytes | None = None, **headers: str) -> Any:
        """Return the values of an answer that must succeed."""
        status, body = self.ask(path, content, **headers)
        assert status == 200, (path, status, body[:300])
        return json.loads(body)

    def caption(self, picture: bytes, query: str = "") -> Any:
        """Return the answer to a picture."""
        return self.json(f"/api/captions{query}", picture, Content_Type="image/png")

    def stop(self) -> None:
        """End the server."""
        self.process.terminate()
        self.process.communicate()


_servers: list[_Server] = []


def stop_servers() -> None:
    """End the servers that were started."""
    while _servers:
        _servers.pop().stop()


def _server(user: User) -> _Server:
    if not _servers:
        _servers.append(_Server(user))
    return _servers[0]


@_of_the_page(
    "A posted picture gets captions with the probability of each word; beam width and temperature are settings."
)
def _captions_by_http(user: User) -> str:
    server = _server(user)
    captions = server.caption(user.picture("red"), "?beam=3&captions=2")["captions"]
    assert len(captions) == 2
    words = [(word["text"], round(word["probability"], 2)) for word in captions[0]["words"]]
    assert [word for word, _ in words] == ["a", "red", "square"]
    drawn = server.caption(user.picture("blue"), "?temperature=1.5&seed=1&captions=3")["captions"]
    assert len(drawn) == 3
    return f"{words}"


@_of_the_page("The API is described by OpenAPI, and /healthz answers.")
def _described_api(user: User) -> str:
    server = _server(user)
    described = server.json("/openapi.json")
    assert described["openapi"].startswith("3.")
    assert server.ask("/healthz")[0] == 200
    assert all(path.startswith("/") for path in described["paths"])
    return ", ".join(described["paths"])


@_of_the_page("What is no picture, too large, or names a file of the server gets a clear answer of the 400s.")
def _refusals_of_uploads(user: User) -> str:
    server = _server(user)
    seen = []
    for content, kind, expected in (
        (b"", "image/png", {400}),
        (b"GIF89a is how this text begins", "image/png", {415}),
        (user.picture("red")[:60], "image/png", {415, 422}),
        (b"\x89PNG\r\n\x1a\n" + bytes(2_000_000), "image/png", {413}),
    ):
        status, body = server.ask("/api/captions", content, Content_Type=kind)
        assert status in expected, (status, body)
        assert json.loads(body)
        seen.append(status)
    for path in ("/../config.json", "/static/../app.py", "/static/%2e%2e/app.py", "/api/../../etc/passwd"):
        assert server.ask(path)[0] in (400, 404), path
    return f"statuses {seen}"


@_of_the_page("The server listens on the loopback address, and does not answer to other host names.")
def _for_this_machine(user: User) -> str:
    server = _server(user)
    assert "127.0.0.1" in server.address
    status, _ = server.ask("/", Host="other.example")
    assert status in (400, 403, 421), status
    return f"{server.address}; status {status} for another host"


@_of_the_page("50 clients at once get the captions that they get alone, and more of them per second.")
def _many_clients(user: User) -> str:
    server = _server(user)
    colours = ["red", "green", "blue", "black"]
    alone = {colour: server.caption(user.picture(colour)) for colour in colours}

    def ask(i: int) -> float:
        start = time.perf_counter()
        answer = server.caption(user.picture(colours[i % 4]))
        assert answer["captions"][0]["text"] == alone[colours[i % 4]]["captions"][0]["text"]
        return time.perf_counter() - start

    start = time.perf_counter()
    single = [ask(i) for i in range(20)]
    one_by_one = len(single) / (time.perf_counter() - start)
    with ThreadPoolExecutor(50) as pool:
        start = time.perf_counter()
        times = sorted(pool.map(ask, range(150)))
        together = len(times) / (time.perf_counter() - start)
    return (
        f"p50 {statistics.median(times):.2f} s, p99 {times[int(0.99 * len(times))]:.2f} s, {together:.0f} captions/s "
        f"together, {one_by_one:.0f} one by one"
    )


@contextmanager
def _page(user: User, **options: Any) -> Iterator[Any]:
    if find_chromium() is None or importlib.util.find_spec("playwright") is None:
        raise SkippedError("Chromium and playwright are not installed")
    server = _server(user)
    with open_chromium(viewport={"width": 1200, "height": 900}, **options) as browser:
        page = browser.new_page()
        page.set_default_timeout(30_000)
        page.goto(server.address)
        page.locator("#facts").filter(has_text="LSTM").wait_for()
        yield page


@_of_the_page("In the browser, chosen pictures are captioned, with words, beams and sliders that the keyboard moves.")
def _page_in_chromium(user: User) -> str:
    with _page(user) as page:
        page.set_input_files("#files", [str(user.pictures / "40.png"), str(user.pictures / "41.png")])
        sentences = page.locator(".result .sentence")
        sentences.nth(1).wait_for()
        assert sorted(sentences.all_inner_texts()) == ["a green square", "a red square"]
        slider = page.get_by_role("slider", name="Beam width")
        slider.focus()
        slider.press("ArrowLeft")
        assert page.locator("#beam-value").inner_text() == "4"
        return "; ".join(sentences.all_inner_texts())


@_of_the_page("The gallery shows a split beside the references, with search and an order; the loss curve is drawn.")
def _gallery_and_curve(user: User) -> str:
    with _page(user) as page:
        page.goto(page.url.partition("#")[0] + "#gallery")
        page.locator("#cards li").first.wait_for()
        page.locator("#query").fill("green")
        page.wait_for_function("document.querySelectorAll('#cards li').length === 5")
        orders = page.locator("#order option").all_inner_texts()
        page.goto(page.url.partition("#")[0] + "#training")
        page.locator("#chart svg").wait_for()
        return f"5 pictures found for green; orders: {', '.join(orders)}"


@_of_the_page("The page is dark or light as the system is, and its parts have names for screen readers.")
def _dark_and_light(user: User) -> str:
    grounds = []
    for scheme in ("dark", "light"):
        with _page(user, color_scheme=scheme) as page:
            grounds.append(page.evaluate("getComputedStyle(document.body).backgroundColor"))
            unnamed = page.evaluate(
                "[...document.querySelectorAll('button, input, select')].filter(e => e.checkVisibility() && "
                "!(e.innerText || e.ariaLabel || e.labels?.length || e.title)).map(e => e.outerHTML)"
            )
            assert unnamed == [], unnamed
    assert grounds[0] != grounds[1]
    return " and ".join(grounds)
