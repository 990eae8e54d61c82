"""Pictures by address: downloaded, or None with a message."""

from __future__ import annotations

import http.server
import io
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from PIL import Image

from capgpu.data.cs231n_coco import (
    image_from_url,
)


@pytest.fixture
def address() -> Iterator[str]:
    """Serve a picture, a text, a damaged PNG and an EPS file; return the server's address."""
    picture = io.BytesIO()
    Image.new("LA", (3, 2), (200, 255)).save(picture, "PNG")
    postscript = io.BytesIO()
    Image.new("RGB", (3, 2)).save(postscript, "EPS")
    # after the header, one byte of pixel data and a chunk without a name
    damaged = picture.getvalue()[:33] + b"\0\0\0\1IDAT\x78" + bytes(8) + b"\1\2\3\4" + bytes(4)
    contents = {
        "/picture.png": picture.getvalue(),
        "/text": b"no picture",
        "/damaged.png": damaged,
        "/program.eps": postscript.getvalue(),
    }

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            content = contents.get(self.path)
            self.send_response(200 if content else 404)
            self.end_headers()
            self.wfile.write(content or b"")

        def log_message(self, *_: Any) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_a_picture_is_downloaded_and_failures_give_none_and_a_message(
    address: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert (image_from_url(f"{address}/picture.png") == np.full((2, 3, 3), 200, np.uint8)).all()
    assert image_from_url(f"{address}/gone.jpg") is None
    assert "gone.jpg: HTTP Error 404" in capsys.readouterr().out
    for name, cause in (("text", "cannot identify"), ("program.eps", "cannot identify"), ("damaged.png", "broken PNG")):
        assert image_from_url(f"{address}/{name}") is None
        assert f"{name}: {cause}" in capsys.readouterr().out
    assert image_from_url("http://127.0.0.1:9/closed") is None
    with pytest.raises(ValueError, match=r"url: expected an http or https address, got 'file:///etc/passwd'"):
        image_from_url("file:///etc/passwd")
