"""Text and JSON from anywhere: read, or refused with file and place."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from capgpu.data.coco_json import parse_coco
from capgpu.data.text_files import DataFileError, check_text, entries_of, id_of, lines_of, read_json, read_text


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "file.json"


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_a_wrong_byte_is_found_in_its_line_behind_a_byte_order_mark_too(mark: bytes, path: Path) -> None:
    path.write_bytes(mark + b"a\r\nb\xe4r")
    with pytest.raises(DataFileError, match=rf"file.json, line 2: byte {len(mark) + 4} \(0xe4\).*latin1"):
        read_text(path)
    path.write_bytes(mark + b"a\r\nb")
    assert read_text(path) == "a\r\nb"


def test_an_encoding_that_shows_is_named(path: Path) -> None:
    path.write_bytes("image,caption\n".encode("utf-16"))
    with pytest.raises(DataFileError, match="iconv -f utf-16"):
        read_text(path)


def test_a_missing_file_is_the_systems_error(path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"file\.json"):
        read_json(path)


def test_json_cut_at_any_byte_is_called_cut_short(path: Path) -> None:
    whole = json.dumps({"a": [1.5e-7, True, None, 'ä"\\ \u20ac\ud83d\ude00', {"b": -12}]}, indent=1).encode()
    whole = whole.replace(b"\\u20ac", "€".encode())
    for size in range(len(whole)):
        path.write_bytes(whole[:size])
        with pytest.raises(DataFileError, match=r"file.json, line \d.*truncated"):
            read_json(path)


def test_json_that_is_wrong_is_not_called_cut_short(path: Path) -> None:
    path.write_text('{"a": 1,\n "b" 2, "c": 3}')
    with pytest.raises(
        DataFileError, match=r"line 2, column 6: expected valid JSON, got Expecting ':' delimiter\. Download"
    ):
        read_json(path)


def test_nesting_of_any_depth_is_read_or_refused(path: Path) -> None:
    for depth in [*range(900, 1000, 3), 20_000, 200_000]:
        path.write_text('{"images": [{"id": ' + "[" * depth + "]" * depth + "}]}")
        with pytest.raises(DataFileError, match=r"file\.json"):
            parse_coco(read_json(path), str(path))


@given(st.binary(max_size=30) | st.text(max_size=30).map(lambda text: text.encode("utf-8", "surrogatepass")))
def test_any_bytes_are_read_or_refused(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "any.json"
    path.write_bytes(content)
    for read in (read_text, read_json):
        refusal = str(path)
        try:
            read(path)
        except DataFileError as error:
            refusal = str(error)
        assert str(path) in refusal


@given(st.lists(st.tuples(st.text("a \u2028\x85\x0b", max_size=4), st.sampled_from(["\n", "\r", "\r\n"])), max_size=6))
def test_lines_are_those_of_editors(lines: list[tuple[str, str]]) -> None:
    # \r and \n behind each other are one end
    assume(not any(end == "\r" and after == ("", "\n") for (_, end), after in pairwise(lines)))
    text = "".join(line + end for line, end in lines)
    assert list(lines_of(text)) == [(number, line) for number, (line, _) in enumerate(lines, start=1)]


@pytest.mark.parametrize(
    ("value", "says"),
    [
        (7, "expected a text, got 7"),
        (None, "expected a text, got None"),
        ("\n\u3000", "got an empty one"),
        ("a\x00b", "NUL"),
        ("\ud800", "surrogates"),
        (["x" * 10**6], "expected a text"),
    ],
)
def test_what_is_no_text_is_shown_in_few_words(value: object, says: str) -> None:
    with pytest.raises(DataFileError, match=says) as error:
        check_text(value, "file.json: a[3]")
    assert str(error.value).startswith("file.json: a[3]: expected a text")
    assert len(str(error.value)) < 150


@pytest.mark.parametrize("value", [None, True, 1.0, float("nan"), float("inf"), [7], {"id": 7}, ""])
def test_what_is_no_id_is_refused(value: object) -> None:
    with pytest.raises(DataFileError, match=r"images\[0\]\.id: expected (an integer or )?a text"):
        id_of({"id": value}, "id", "images[0]")
    assert id_of({"id": 10**30}, "id", "") == 10**30
    assert id_of({"id": " 7 "}, "id", "") == "7"


@pytest.mark.parametrize("content", [[], 7, None, {}, {"images": {}}, {"images": []}, {"images": None}])
def test_what_has_no_list_of_entries_is_refused(content: object) -> None:
    with pytest.raises(DataFileError, match=r"file.json: expected a non-empty list images"):
        list(entries_of(content, "images", "file.json"))
