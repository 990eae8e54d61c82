"""Where requests may come from, what they may name, and that the description of the API is that of its answers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from oracles.squares import picture_file

pytest.importorskip("uvicorn")

PNG = {"Content-Type": "image/png"}


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("127.0.0.1:8000", 200),
        ("localhost", 200),
        ("[::1]:8000", 200),
        ("192.168.3.4", 200),
        ("attacker.example", 421),
        ("127.0.0.1.attacker.example", 421),
        ("localhost.attacker.example:8000", 421),
        ("", 421),
        ("box.example:8000", 200),
    ],
)
def test_names_that_anyone_can_give_to_this_machine_are_refused(client: Any, host: str, status: int) -> None:
    assert client.get("/api/run", {"Host": host}).status == status


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Origin": "http://127.0.0.1:PORT", "Sec-Fetch-Site": "same-origin"}, 200),
        ({}, 200),
        ({"Origin": "http://attacker.example"}, 403),
        ({"Origin": "http://127.0.0.1:9999"}, 403),
        ({"Origin": "null"}, 403),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Sec-Fetch-Site": "same-site"}, 403),
    ],
)
def test_pages_of_other_sites_cannot_send_pictures(client: Any, headers: dict[str, str], status: int) -> None:
    headers = {name: value.replace("PORT", str(client.port)) for name, value in headers.items()}
    answer = client.post("/api/captions", picture_file("red"), {**PNG, **headers})
    assert answer.status == status
    assert "access-control-allow-origin" not in answer.headers


@pytest.mark.parametrize("path", ["/", "/main.js", "/style.css", "/api/run", "/healthz", "/nothing", "/api/captions"])
def test_every_answer_has_the_headers_that_restrict_the_page(client: Any, path: str) -> None:
    headers = client.get(path).headers
    policy = dict(part.strip().split(" ", 1) for part in headers["content-security-policy"].split(";"))
    assert policy["default-src"] == "'none'"
    assert policy["script-src"] == policy["style-src"] == "'self'"
    assert "unsafe" not in headers["content-security-policy"]
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["cross-origin-resource-policy"] == "same-origin"


@pytest.mark.parametrize(
    "path",
    [
        "/../config.json",
        "/..%2f..%2fconfig.json",
        "/static/../../pyproject.toml",
        "/index.html/../../app.py",
        "//etc/passwd",
        "/api/gallery/..%2f..%2frun/0/picture",
        "/api/gallery/test/..%2f0/picture",
        "/api/gallery/test/0.png/picture",
        "/api/gallery/test/-1/picture",
        "/api/gallery/test/8/picture",
        "/api/gallery/test/99999999999999999999/picture",
        "/api/gallery/%2fetc%2fpasswd/0/picture",
        "/api/gallery?split=..%2f..",
    ],
)
def test_no_request_names_a_file(client: Any, path: str) -> None:
    answer = client.get(path)
    assert answer.status == 404
    assert answer.headers["content-type"] == "application/problem+json"
    assert b"root:" not in answer.content


def test_files_of_the_page_are_cached_by_their_contents(client: Any) -> None:
    first = client.get("/style.css")
    again = client.get("/style.css", {"If-None-Match": first.headers["etag"]})
    assert (first.status, again.status, again.content) == (200, 304, b"")


def test_the_page_loads_nothing_from_elsewhere(client: Any) -> None:
    import capgpu.serve.app

    folder = Path(capgpu.serve.app.__file__).parent / "static"
    served = {name for name, _ in capgpu.serve.app._STATIC.values()}
    assert served == {file.name for file in folder.iterdir()}
    for name in served:
        text = (folder / name).read_text(encoding="utf-8").replace("http://www.w3.org/2000/svg", "")
        assert "http://" not in text, name
        assert "https://" not in text, name


def test_answers_are_as_the_description_of_the_api_says(client: Any) -> None:
    jsonschema = pytest.importorskip("jsonschema")
    from capgpu.serve.app import OPERATIONS

    description = client.get("/openapi.json").json()
    assert description["openapi"].startswith("3.1")
    assert {(path, method) for path, item in description["paths"].items() for method in item} == {
        (operation.path, operation.method.lower()) for operation in OPERATIONS
    }
    names = [item["operationId"] for methods in description["paths"].values() for item in methods.values()]
    assert len(set(names)) == len(names)

    def check(answer: Any, path: str, method: str = "get") -> None:
        response = description["paths"][path][method]["responses"][str(answer.status)]
        (kind, content), *others = response["content"].items()
        assert answer.headers["content-type"] == kind
        assert not others
        jsonschema.Draft202012Validator(strict({**description, **content["schema"]})).validate(answer.json())

    while client.get("/api/gallery").json()["state"] == "computing":
        pass
    for path in ("/api/run", "/api/curve", "/api/gallery", "/healthz"):
        check(client.get(path), path)
    check(client.get("/api/gallery?split=none"), "/api/gallery")
    check(client.get("/api/gallery?limit=0"), "/api/gallery")
    picture = picture_file("red")
    check(client.post("/api/captions", picture, PNG), "/api/captions", "post")
    check(client.post("/api/captions", b"x", PNG), "/api/captions", "post")
    check(client.post("/api/captions", picture), "/api/captions", "post")


def strict(schema: Any) -> Any:
    """Forbid members that the description does not name: they would be undocumented."""
    if isinstance(schema, list):
        return [strict(entry) for entry in schema]
    if not isinstance(schema, dict):
        return schema
    schema = {name: strict(value) for name, value in schema.items()}
    if isinstance(schema.get("properties"), dict) and isinstance(schema.get("required"), list):
        schema["additionalProperties"] = False
    return schema


def test_the_limits_of_a_parameter_are_named_in_digits(client: Any) -> None:
    answer = client.post("/api/captions?temperature=1&seed=4294967296", picture_file("red"), PNG)
    assert answer.status == 400
    assert "from 0 to 4294967295, got '4294967296'" in answer.content.decode()
