"""JSON of files: limits, and entries of the wrong type named with their place."""

from __future__ import annotations

import re
from typing import Any

import pytest

from capgpu.data.text_files import DataFileError
from capgpu.file_formats.json_text import JsonObject, parse_json
from capgpu.visible_text import short


def fail(cause: str) -> DataFileError:
    return DataFileError(f"a.json: {cause}.")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "expected valid JSON, got Expecting value"),
        (b"\xff", "expected UTF-8, got byte 0 (0xff)"),
        ("[" * 100_000, "nested too deeply"),
        ("[" * 101 + "]" * 101, "expected at most 100 lists and objects inside of each other, got more"),
        ('{"a": ' * 101 + "1" + "}" * 101, "expected at most 100 lists and objects inside of each other, got more"),
        ("9" * 5000, "expected JSON of objects, lists, texts and numbers, got Exceeds the limit"),
    ],
)
def test_what_exceeds_the_limits_is_refused(text: str | bytes, says: str) -> None:
    with pytest.raises(DataFileError, match=re.escape(says)) as error:
        parse_json(text, fail)
    assert str(error.value).startswith("a.json: ")


def test_a_hundred_levels_are_read() -> None:
    value: Any = parse_json("[" * 100 + "1" + "]" * 100, fail)
    for _ in range(100):
        (value,) = value
    assert value == 1


STORED = {"text": "a", "flag": True, "count": 3, "number": 1.5, "texts": ["a"], "object": {"inner": 1}, "huge": 10**400}


@pytest.mark.parametrize(
    ("read", "says"),
    [
        (lambda stored: stored.text("count"), "a.json: count: expected a text, got 3. Restore it."),
        (lambda stored: stored.flag("count"), "a.json: count: expected true or false, got 3. Restore it."),
        (lambda stored: stored.integer("flag"), "a.json: flag: expected an integer from 0 to"),
        (lambda stored: stored.integer("number"), "a.json: number: expected an integer from 0 to"),
        (lambda stored: stored.integer("count", 4, 5), "expected an integer from 4 to 5, got 3"),
        (lambda stored: stored.number("text"), "expected a finite number, got 'a'"),
        (lambda stored: stored.number("huge"), "expected a finite number, got 1000"),
        (lambda stored: stored.texts("object"), "expected a list of texts"),
        (lambda stored: stored.numbers("texts"), "expected a list of finite numbers"),
        (lambda stored: stored.entries("object"), "expected a list"),
        (lambda stored: stored.objects(), "a.json: text: expected an object, got 'a'"),
        (lambda stored: stored.object("object").text("inner"), "a.json: object: inner: expected a text, got 1"),
        (lambda stored: stored.text("none"), "a.json: expected none, a text, got no such entry. Restore it."),
        (lambda stored: stored.format("b"), "expected format, 'b', got no such entry"),
    ],
)
def test_entries_of_another_type_are_refused_with_their_place(read: Any, says: str) -> None:
    stored = JsonObject(STORED, "a.json", DataFileError, "Restore it.")
    with pytest.raises(DataFileError, match=re.escape(says)):
        read(stored)


def test_values_in_messages_are_short() -> None:
    for value in ("x" * 10_000, [["deep"] * 9] * 9, {"a" * 99: {"b": {"c": {"d": 1}}}}, 10**3000, "\x1b[2J\udc00"):
        text = short(value)
        assert len(text) <= 60
        assert text.isascii()
        assert text.isprintable()
