"""Captions over HTTP: those of the library, whatever company a request has; and what is refused."""

from __future__ import annotations

import contextlib
import io
import socket
import struct
import threading
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import capgpu
from oracles.http import serving
from oracles.squares import picture_file

pytest.importorskip("uvicorn")

PNG = {"Content-Type": "image/png"}


def post(client: Any, content: Any, path: str = "/api/captions", **headers: str) -> Any:
    return client.post(path, content, {**PNG, **{k.replace("_", "-"): v for k, v in headers.items()}})


@pytest.mark.parametrize("query", ["", "?beam=1", "?beam=3&captions=2", "?temperature=0.7&seed=5&captions=3"])
def test_captions_are_those_of_the_library(client: Any, squares: Path, tmp_path: Path, query: str) -> None:
    settings: dict[str, Any] = {"": {"beam": 5, "captions": 5}, "?beam=1": {"captions": 1}}.get(
        query, {"beam": 3, "captions": 2} if "beam" in query else {"temperature": 0.7, "seed": 5, "captions": 3}
    )
    file = tmp_path / "green.jpg"
    file.write_bytes(picture_file("green", "JPEG", (1500, 600)))  # decoded at a part of its size, as files are
    expected = capgpu.load(squares).caption(file, **settings)
    expected = [expected] if settings["captions"] == 1 else expected
    answer = post(client, file.read_bytes(), f"/api/captions{query}").json()
    assert answer["picture"] == {"format": "JPEG", "width": 1500, "height": 600}
    assert [caption["text"] for caption in answer["captions"]] == [caption.text for caption in expected]
    for found, caption in zip(answer["captions"], expected, strict=True):
        tokens = [word["text"] for word in found["words"]] + ([] if found["end"] is None else ["<END>"])
        assert tokens == list(caption.tokens)
        assert found["probability"] == pytest.approx(caption.probability, rel=1e-6)
        product = found["end"] or 1.0
        for word in found["words"]:
            product *= word["probability"]
        assert product == pytest.approx(found["probability"], rel=1e-6)


@pytest.mark.parametrize("query", ["?beam=2", "?temperature=1&captions=2&seed=3"])
def test_each_word_has_its_attention_where_the_model_has_some(
    attentive_client: Any, client: Any, attentive: Path, tmp_path: Path, query: str
) -> None:
    model = attentive_client.get("/api/run").json()["model"]
    assert (model["cell"], model["grid"]) == ("attention", {"side": 2, "fit": "crop"})
    content = picture_file("red", size=(20, 12))
    settings = {"beam": 2, "captions": 2} if "beam" in query else {"temperature": 1.0, "captions": 2, "seed": 3}
    (tmp_path / "red.png").write_bytes(content)
    expected: Any = capgpu.load(attentive).caption(tmp_path / "red.png", attention=True, **settings)
    captions = post(attentive_client, content, f"/api/captions{query}").json()["captions"]
    for caption, wanted in zip(captions, expected, strict=True):
        maps = [word["attention"] for word in caption["words"]]
        maps += [] if caption["end"] is None else [caption["end_attention"]]
        assert len(maps) == len(wanted.tokens) == len(wanted.attention)
        for weights, row in zip(maps, wanted.attention, strict=True):
            assert sum(weights) == pytest.approx(1, abs=1e-4)
            assert weights == pytest.approx(row, abs=1e-5)
    assert client.get("/api/run").json()["model"]["grid"] is None
    caption = post(client, content).json()["captions"][0]
    assert {word["attention"] for word in caption["words"]} == {caption["end_attention"]} == {None}


def test_the_colours_are_recognized(client: Any) -> None:
    for colour in ("red", "green", "blue", "black"):
        assert post(client, picture_file(colour)).json()["captions"][0]["text"] == f"a {colour} square"


def test_concurrent_requests_get_the_answers_that_they_get_alone(client: Any) -> None:
    requests = [
        (picture_file(colour), f"/api/captions?{query}")
        for colour in ("red", "green", "blue")
        for query in ("beam=2", "beam=3", "temperature=1.5&seed=1", "temperature=1.5&seed=2")
    ]
    alone = [post(client, *request).json() for request in requests]
    together: list[Any] = [None] * len(requests)

    def send(i: int) -> None:
        together[i] = post(client, *requests[i]).json()

    threads = [threading.Thread(target=send, args=(i,)) for i in range(len(requests))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    texts = [[[caption["text"] for caption in answer["captions"]] for answer in side] for side in (alone, together)]
    assert texts[0] == texts[1]


def png_of(width: int, height: int) -> bytes:
    """Write a PNG file of some bytes that announces any number of pixels."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 99)) + chunk(b"IEND", b"")
    )


def gif_of_many_frames() -> bytes:
    frames = [Image.new("P", (64, 64), i) for i in range(20)]
    content = io.BytesIO()
    frames[0].save(content, "GIF", save_all=True, append_images=frames[1:])
    return content.getvalue()


REFUSED = {
    "nothing": (b"", {}, 400, "got nothing"),
    "a text": (b"GIF89a is how this text begins", {}, 415, "not a picture"),
    "an SVG file": (b'<svg xmlns="http://www.w3.org/2000/svg"/>', {"Content_Type": "image/svg+xml"}, 415, "formats"),
    "PostScript": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", {}, 415, "formats"),
    "another type": (picture_file("red"), {"Content_Type": "text/plain"}, 415, "Content-Type"),
    "a form with a path": (
        b'--x\r\nContent-Disposition: form-data; name="f"; filename="../../config.json"\r\n\r\n1\r\n--x--\r\n',
        {"Content_Type": "multipart/form-data; boundary=x"},
        415,
        "Content-Type",
    ),
    "half a picture": (picture_file("red", "PNG", (300, 300))[:400], {}, 422, "cannot be decoded"),
    "too many bytes": (b"\x89PNG" + bytes(300_000), {}, 413, "at most 0.2 MB"),
    "too many pixels": (png_of(1001, 1000), {}, 413, "at most 1 million"),
    "a decompression bomb": (png_of(60_000, 60_000), {}, 413, "at most 1 million"),
    "a picture without pixels": (png_of(0, 10), {}, 415, "not a picture"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_picture_is_refused(client: Any, name: str) -> None:
    content, headers, status, words = REFUSED[name]
    answer = post(client, content, **headers)
    assert (answer.status, answer.headers["content-type"]) == (status, "application/problem+json")
    problem = answer.json()
    assert problem["status"] == status
    assert words in problem["detail"]
    assert (
        "/" not in problem["detail"].replace("image/jpeg", "").replace("image/svg", "").replace("text/plain", "")[:40]
    )


def test_an_upload_of_unknown_length_is_read_no_further_than_its_limit(client: Any) -> None:
    read = 0

    def chunks(size: int) -> Iterator[bytes]:
        nonlocal read
        for _ in range(size // 10_000):
            read += 10_000
            yield bytes(10_000)

    answer = post(client, chunks(350_000))
    assert (answer.status, read) == (413, 350_000)  # the rest was taken, so that the client could read the answer
    with contextlib.suppress(ConnectionError):  # a client that goes on is cut off
        assert post(client, chunks(10**9)).status == 413
    assert read < 10**8


def test_an_upload_that_takes_too_long_ends_the_connection(client: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("capgpu.serve.pictures._UPLOAD_SECONDS", 0.1)
    head = "POST /api/captions HTTP/1.1\r\nHost: localhost\r\nContent-Type: image/png\r\nContent-Length: 1000\r\n\r\n"
    with socket.create_connection(("127.0.0.1", client.port), timeout=30) as connection:
        connection.sendall(head.encode() + b"part")
        answer = b""
        while part := connection.recv(1000):  # until the server closes, well before its 5 s for the next request
            answer += part
    head, _, problem = answer.decode().partition("\r\n\r\n")
    assert head.startswith("HTTP/1.1 408")
    assert "connection: close" in head.lower()
    assert "did not arrive within 0.1 s" in problem


def test_an_open_upload_does_not_delay_the_end_of_the_server(squares: Path) -> None:
    from capgpu.serve.app import create_app
    from capgpu.serve.service import Service
    from capgpu.training.run_folder import RunFolder

    service = Service(RunFolder(squares))
    head = b"POST /api/captions HTTP/1.1\r\nHost: localhost\r\nContent-Type: image/png\r\nContent-Length: 1000\r\n\r\n"
    with serving(create_app(service), service.limits.refuse_uploads) as served:
        connection = socket.create_connection(("127.0.0.1", served.port), timeout=30)
        connection.sendall(head + b"part")
        while not service.limits._held:
            time.sleep(0.01)
        start = time.monotonic()
    assert time.monotonic() - start < 5  # requests in progress have 10 s
    with connection:
        assert connection.recv(1000).startswith(b"HTTP/1.1 503")


def test_an_upload_is_in_memory_once() -> None:
    from capgpu.serve.pictures import Limits

    limits = Limits()
    with limits.upload() as body:
        for _ in range(20):
            limits.extend(body, bytes(100_000))
        assert len(body.getvalue()) == 2_000_000
        assert body.getvalue() is body.getvalue()  # no copies
    assert limits._held == 0


def test_all_uploads_together_are_limited() -> None:
    from capgpu.serve.pictures import Limits
    from capgpu.serve.problems import RequestError

    limits = Limits(max_bytes=100, max_bytes_held=150)
    with limits.upload() as first:
        limits.extend(first, bytes(100))
        with limits.upload() as second, pytest.raises(RequestError, match="Too many uploads"):
            limits.extend(second, bytes(60))
    with limits.upload() as third:
        limits.extend(third, bytes(100))


def test_a_picture_that_only_its_metadata_spoil_is_captioned(client: Any) -> None:
    sound = picture_file("blue")
    text = b"iTXt" + b"x" * 80 + b"\0\1\1\0\0"  # claims to be compressed, and is not
    chunk = struct.pack(">I", len(text) - 4) + text + struct.pack(">I", zlib.crc32(text))
    answer = post(client, sound[:33] + chunk + sound[33:])
    assert answer.json()["captions"][0]["text"] == "a blue square"


@pytest.mark.parametrize("kind", ["PNG", "DIB"])
def test_an_icon_is_not_decoded_before_its_true_size_is_known(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from capgpu.serve.pictures import check_picture
    from capgpu.serve.problems import RequestError

    def icon(side: int) -> bytes:
        file = io.BytesIO()
        Image.new("RGB", (side, side)).save(file, kind)
        size = len(file.getvalue())
        # the directory has one picture, of 16 x 16 pixels
        return struct.pack("<3H4B2H2I", 0, 1, 1, 16, 16, 0, 0, 1, 24, size, 22) + file.getvalue()

    if kind == "PNG":
        assert check_picture(icon(16), 1000)[:2] == ("ICO", 16)
    large = icon(40)
    monkeypatch.setattr(Image, "open", lambda *_, **__: pytest.fail("opened, and with that decoded"))
    with pytest.raises(RequestError, match="too many pixels"):
        check_picture(large, 1000)
    with pytest.raises(RequestError, match="an icon of at most 256 sizes, got 257"):
        check_picture(struct.pack("<3H", 0, 1, 257), 1000)


def test_of_an_animation_the_first_frame_is_captioned(client: Any) -> None:
    assert post(client, gif_of_many_frames(), Content_Type="image/gif").status == 200


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ("beam=0", "beam: expected an integer from 1 to 10, got '0'"),
        ("beam=1e6", "beam: expected an integer"),
        ("beam=11", "beam: expected an integer from 1 to 10"),
        ("temperature=nan", "temperature: expected a number"),
        ("temperature=0", "temperature: expected a number from 0.05"),
        ("captions=3&beam=2", "captions: expected at most the width of the beam, 2, got 3"),
        ("beam=2&temperature=1", "beam search does not sample"),
        ("seed=-1", "seed: expected an integer from 0"),
        ("beam=2&beam=3", "beam: expected one value"),
        ("picture=/etc/passwd", "'picture': expected a parameter of beam, temperature, captions, seed"),
    ],
)
def test_parameters_out_of_range_are_refused(client: Any, query: str, words: str) -> None:
    answer = post(client, picture_file("red"), f"/api/captions?{query}")
    assert answer.status == 400
    assert words in answer.json()["detail"]
