"""Pictures and a file of captions: columns, JSON lines, tokens; read, or refused with file and line."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from capgpu.data.folder import captions_file, folder_source
from capgpu.data.source import UNSPLIT, Pictures
from capgpu.data.text_files import DataFileError
from oracles.sources import check_source, json_values, read_or_refused


def written(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def captions(path: Path, content: str | bytes, split: str = UNSPLIT) -> dict[Any, list[str]]:
    source = folder_source(written(path, content), None)
    check_source(source)
    pictures = source.splits[split]
    return dict(zip(pictures.image_ids, pictures.captions, strict=True))


TWO = {"a.jpg": ["a dog, and a cat", 'the "dog"'], "b c.jpg": ["two birds"]}
FORMS = {
    "captions.csv": 'image,caption\na.jpg,"a dog, and a cat"\na.jpg,"the ""dog"""\nb c.jpg,two birds\n',
    "semicolons.csv": 'Image;Caption\na.jpg;a dog, and a cat\na.jpg;the "dog"\nb c.jpg;two birds',
    "captions.tsv": 'caption\timage\na dog, and a cat\ta.jpg\nthe "dog"\ta.jpg\ntwo birds\tb c.jpg\n',
    "results.csv": (  # of Flickr30k
        'image_name| comment_number| comment\na.jpg| 0| a dog, and a cat\na.jpg| 1| the "dog"\nb c.jpg| 0| two birds\n'
    ),
    "captions.jsonl": (
        '{"image": "a.jpg", "captions": ["a dog, and a cat", "the \\"dog\\""]}\n\n'
        '{"file_name": "b c.jpg", "caption": "two birds"}\n'
    ),
    "Flickr8k.token.txt": 'a.jpg#0\ta dog, and a cat\na.jpg#1\tthe "dog"\nb c.jpg#0\ttwo birds\n',
}


@pytest.mark.parametrize("name", FORMS)
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_all_forms_hold_the_same(name: str, end: str, mark: str, tmp_path: Path) -> None:
    assert captions(tmp_path / name, mark + FORMS[name].replace("\n", end)) == TWO


@pytest.mark.parametrize("name", FORMS)
def test_a_file_cut_anywhere_is_read_or_refused(name: str, tmp_path: Path) -> None:
    whole = FORMS[name].encode()
    for size in range(len(whole)):
        path = written(tmp_path / name, whole[:size])
        refusal = read_or_refused(lambda path=path: folder_source(path, None), path)
        assert refusal or size > whole.index(b"a.jpg")


def test_splits_are_taken_from_a_column_or_a_key(tmp_path: Path) -> None:
    csv = "split,image,caption\nTrain,a.jpg,a dog\nvalid,b.jpg,a cat\nrestval,c.jpg,a cow\n"
    assert captions(tmp_path / "a.csv", csv, "train") == {"a.jpg": ["a dog"], "c.jpg": ["a cow"]}
    lines = [
        json.dumps({"split": split, "image": image, "caption": "a dog"})
        for split, image in (("train", "a"), ("x", "b"))
    ]
    assert captions(tmp_path / "a.jsonl", "\n".join(lines), "x") == {"b": ["a dog"]}


def test_lines_in_quotation_marks_belong_to_their_caption(tmp_path: Path) -> None:
    text = 'image,caption\na.jpg,"a dog\n\nand a cat"\nb.jpg,"two\r\nbirds"\n'
    assert captions(tmp_path / "a.csv", text) == {"a.jpg": ["a dog\n\nand a cat"], "b.jpg": ["two\r\nbirds"]}


def test_what_editors_take_for_one_line_is_one(tmp_path: Path) -> None:
    odd = "a dog\u2028and\x85a\x0bcat\x1c!"
    assert captions(tmp_path / "x.token.txt", f"a.jpg#0\t{odd}\nb.jpg#0\tb\n") == {"a.jpg": [odd], "b.jpg": ["b"]}


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("image,caption,caption\na.jpg,one,two\n", ["one", "two"]),
        ("image,caption_0,caption_1\na.jpg,one,two\n", ["one", "two"]),
        ("caption1,image,caption2,caption3\none,a.jpg,,three\n", ["one", "three"]),
        ("image,caption,caption.1\na.jpg,one,one\n", ["one", "one"]),
        ("image,captions\na.jpg,\"['one', 'two']\"\n", ["one", "two"]),
        ('image,caption\na.jpg,"[""on\\u00e9"", ""two""]"\n', ["on\u00e9", "two"]),
        ("image,caption\na.jpg,\"['one' 'two'\n 'three']\"\n", ["one", "two", "three"]),
        ("image,caption\na.jpg,\"('one',)\"\n", ["one"]),
        ("image,caption\na.jpg,[a dog] in a field\na.jpg,[a dog]\n", ["[a dog] in a field", "[a dog]"]),
    ],
)
def test_several_captions_of_a_row_are_all_read(content: str, expected: list[str], tmp_path: Path) -> None:
    assert captions(tmp_path / "a.csv", content) == {"a.jpg": expected}


@pytest.mark.parametrize("mark", ["\t", "|"])
@pytest.mark.parametrize(
    ("table", "expected"),
    [
        ('a.jpg\t"a sign: ""STOP"""\nb.jpg\ttwo\n', ['a sign: "STOP"', "two"]),
        ('a.jpg\t"a sign: ""STOP"""\nb.jpg\t"two\nlines"\n', ['a sign: "STOP"', "two\nlines"]),
        ('a.jpg\t"a\tb"\nb.jpg\ttwo\n', ["a\tb", "two"]),
        ('a.jpg\t"unbalanced dog\nb.jpg\ttwo\n', ['"unbalanced dog', "two"]),
        ('a.jpg\t"unbalanced dog\nb.jpg\ttwo"\n', ['"unbalanced dog', 'two"']),
        ('a.jpg\t"a dog"\nb.jpg\tthe ""dog""\n', ['"a dog"', 'the ""dog""']),
        ('"a.jpg"\t"a dog"\n"b.jpg"\t"2"\n', ["a dog", "2"]),
    ],
)
def test_quotation_marks_that_a_program_has_written_are_read(
    mark: str, table: str, expected: list[str], tmp_path: Path
) -> None:
    header = '"image"\t"caption"\n' if table.startswith('"') else "image\tcaption\n"
    read = captions(tmp_path / "a.tsv", (header + table).replace("\t", mark))
    assert read == {"a.jpg": [expected[0].replace("\t", mark)], "b.jpg": [expected[1]]}


@pytest.mark.parametrize("cell", ["['one', None]", "['one', nan]", "['one' ...]", "['a'b']", "['one', 3, 'two']"])
def test_a_printed_list_that_cannot_be_read_is_refused(cell: str, tmp_path: Path) -> None:
    with pytest.raises(DataFileError, match="line 2, column caption: expected a printed list of texts"):
        captions(tmp_path / "a.csv", f'image,caption\na.jpg,"{cell}"\n')


@pytest.mark.parametrize(
    ("name", "row", "empties", "place"),
    [
        ("a.csv", "{},{}", ["", " ", "[]", " () ", "\"['', ' ']\""], ", column caption"),
        ("a.csv", '{},{},""', ["", '"[]"'], ", column caption"),
        ("a.jsonl", '{{"image": "{}", "captions": {}}}', ["[]", '""', "null", "NaN", '[""]', "[null]"], ": captions"),
        ("a.token.txt", "{}#0\t{}", ["", "\t "], ", the caption"),
    ],
)
def test_empty_captions_are_counted_and_their_pictures_keep_their_places(
    name: str, row: str, empties: list[str], place: str, tmp_path: Path
) -> None:
    header = {".csv": "image,caption" + ",caption 2" * (row.count(",") - 1) + "\n"}.get((tmp_path / name).suffix, "")
    text = '"a dog"' if name.endswith("jsonl") else "a dog"
    for empty in empties:
        rows = [row.format("a.jpg", text), row.format("b.jpg", empty), row.format("c.jpg", text)]
        source = folder_source(written(tmp_path / name, header + "\n".join(rows) + "\n"), None)
        assert source.splits["all"].image_ids == ["a.jpg", "b.jpg", "c.jpg"]
        assert source.splits["all"].captions == [["a dog"], [], ["a dog"]]
        count = 2 if "' '" in empty else 1
        assert source.notes[-2:] == (
            f"captions without text, omitted: {count}, the first in line {2 + bool(header)}{place}",
            "pictures without captions, omitted: 1, the first b.jpg",
        )
        rows[0] = row.format("d.jpg", empty)
        with pytest.raises(DataFileError, match=r"expected captions, got empty ones for . of ., the first in line"):
            folder_source(written(tmp_path / name, header + "\n".join(rows) + "\n"), None)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ('{"image": "a", "caption": "one", "caption": "two"}', ["one", "two"]),
        ('{"image": "a", "caption": "one", "captions": ["one", "two"]}', ["one", "two"]),
        ('{"image": "a", "caption_1": "one", "caption_2": "two"}', ["one", "two"]),
        ('{"image": "a", "captions": "[\'one\', \'two\']"}', ["one", "two"]),
    ],
)
def test_several_captions_of_a_line_are_all_read(line: str, expected: list[str], tmp_path: Path) -> None:
    assert captions(tmp_path / "a.jsonl", line) == {"a": expected}


def test_the_column_of_pictures_is_the_one_whose_pictures_are_there(tmp_path: Path) -> None:
    rows = {"name": "Rex", "path": "a.jpg", "caption": "a dog"}
    csv, line = f"{','.join(rows)}\n{','.join(rows.values())}\n", json.dumps(rows)
    assert captions(tmp_path / "n.csv", "name,caption\nRex,a dog\n") == {"Rex": ["a dog"]}
    assert captions(tmp_path / "n.csv", csv) == {"a.jpg": ["a dog"]}
    (tmp_path / "images").mkdir()
    for there in ("Rex", "a.jpg"):
        file = tmp_path / "images" / there
        file.touch()
        assert captions(tmp_path / "n.csv", csv) == {there: ["a dog"]}
        assert captions(tmp_path / "n.jsonl", line) == {there: ["a dog"]}
        file.unlink()


def test_columns_and_lists_that_are_read_or_not_are_noted(tmp_path: Path) -> None:
    table = "name,path,caption,title\nRex,a.jpg,\"['x', 'y']\",b\n"
    source = folder_source(written(tmp_path / "a.csv", table), None)
    assert source.notes == (
        "pictures from the column path, captions from caption; not used: 'name', 'title'",
        "cells with a printed list of captions: 1",
    )
    assert folder_source(written(tmp_path / "a.csv", "image,caption\na,x\n"), None).notes == ()


def test_one_picture_under_several_names_is_one(tmp_path: Path) -> None:
    for name in ("a.jpg", "b.jpg"):
        (tmp_path / name).touch()
    (tmp_path / "sub").mkdir()
    (tmp_path / "link.jpg").symlink_to("a.jpg")
    os.link(tmp_path / "b.jpg", tmp_path / "hard.jpg")
    names = ["./a.jpg", "a.jpg", ".//a.jpg", "sub/../a.jpg", str(tmp_path / "a.jpg"), "link.jpg", "b.jpg", "hard.jpg"]
    table = "image,caption\n" + "".join(f"{name},{k}\n" for k, name in enumerate(names))
    assert captions(tmp_path / "a.csv", table) == {"./a.jpg": list("012345"), "b.jpg": ["6", "7"]}
    assert folder_source(tmp_path / "a.csv", None).notes == (
        "names of pictures that are those of other pictures' files, merged: 4, the first sub/../a.jpg",
    )
    # also where no file is there, as far as the names tell
    assert captions(tmp_path / "a.csv", "image,caption\nx,one\n./x,two\n") == {"x": ["one", "two"]}
    split = "image,caption,split\na.jpg,x,train\nlink.jpg,y,val\n"
    with pytest.raises(
        DataFileError, match=r"expected one split for a.jpg and link.jpg, which are the same file, got train and val"
    ):
        captions(tmp_path / "a.csv", split, "train")


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("a.csv", "image,image,caption\na,b,x\n", "line 1: expected one column 'image', got two"),
        ("a.csv", "image,caption,split,split\na,x,train,val\n", "line 1: expected one column 'split', got two"),
        ("a.jsonl", '{"image": "a", "image": "b", "caption": "x"}', "line 1: expected the key 'image' once"),
        ("a.csv", "", "line 1: expected a header"),
        ("a.csv", "image,caption\n", "expected at least one caption"),
        ("a.csv", "\n\nimage,words\na.jpg,x\n", "line 3: expected a header .* got 'image', 'words'"),
        ("a.csv", "a.jpg,a dog\n", "line 1: expected a header .* got 'a.jpg'"),
        (
            "a.csv",
            'image,caption\na.jpg,"x\n\ny"\nb.jpg,p,q\n',
            "line 5: expected 2 columns, as in the header, got 3.*quotation marks",
        ),
        ("a.csv", 'image,caption\na.jpg,"x\n\ny",z\n', "line 2: expected 2 columns, as in the header, got 3"),
        ("a.csv", 'image,caption\na.jpg,x\nb.jpg,"y\nc.jpg,z\n', "line 3: a quotation mark is not closed"),
        ("a.csv", 'image,caption\na.jpg,"x" y\n', "line 2: expected ',' or the end of the line after a"),
        ("a.csv", f'image,caption\na.jpg,"{"x" * 140_000}\n', "line 2: expected cells of at most 131,072 characters"),
        ("a.tsv", f"image\tcaption\na.jpg\t{'x' * 140_000}\n", "line 2: expected cells of at most 131,072 characters"),
        ("a.csv", "image,caption\n,x\n", "line 2, column image: expected a text, got an empty one"),
        (
            "a.csv",
            "image,caption\na.jpg,a\x00b\n",
            "line 2, column caption: expected a text without NUL and surrogates, got 'a.x00b'",
        ),
        (
            "a.csv",
            "image,caption,split\na,x,train\na,y,val\n",
            "line 3: expected the split train of a, as in an earlier row, got the split val",
        ),
        ("a.csv", "image,caption,split\na,x,train\nb,y,\n", "line 3, column split: expected a split .* got ''"),
        ("a.csv", "image,caption,split\na,x,all\n", "line 2, column split: expected a split .* got 'all'"),
        ("a.csv", b"image,caption\na.jpg,\xe4\n", "line 2: byte 20 .0xe4. is not UTF-8"),
        # as in Flickr30k's file
        ("a.csv", "image_url,caption\nhttps://a.org/1.jpg,x\n", "Download the pictures of image_url"),
        (
            "results.csv",
            "image_name| comment_number| comment\n1.jpg| 0| a\n4199.jpg| dog runs\n",
            "line 3: expected 3 columns",
        ),
        (
            "a.tsv",
            "image\tcaption\na.jpg\tx\ty\n",
            r"line 2: expected 2 columns, as in the header, got 3: a caption must not contain '.t'",
        ),
        (
            "a.jsonl",
            '{"image": "a", "caption": "x"}\n{"image": "a", "caption"}',
            "line 2, column 25: expected valid JSON",
        ),
        ("a.jsonl", "[1]", "line 1: expected an object.*got .*list"),
        ("a.jsonl", '{"caption": "x"}', "line 1: expected the keys image and caption, got 'caption'"),
        ("a.jsonl", '{"image": 7, "caption": "x"}', "line 1: image: expected a text.*got .*7"),
        ("a.jsonl", '{"image": "a", "caption": 1.5}', "line 1: caption: expected a text.*got 1.5"),
        ("a.jsonl", '{"image": ' + "1" * 5000 + "}", "line 1: expected JSON of objects, .* limit"),
        ("a.jsonl", '{"image": ' + "[" * 5000, "line 1: expected JSON of objects, .* nested too deeply"),
        (
            "a.jsonl",
            '{"image": "a", "caption": "x", "split": "val"}\n{"image": "a", "caption": "y"}',
            "line 2: expected the split val of a, as in an earlier row, got no split",
        ),
        (
            "a.jsonl",
            '{"image": "a", "caption": "x", "split": "val"}\n{"image": "b", "caption": "y"}',
            "expected a split for b, as for other pictures",
        ),
        ("x.token.txt", "a.jpg#0\tx\na.jpg#0\ty\n", "line 2: expected each caption once, got a.jpg#0, as in line 1"),
        ("x.token.txt", "a.jpg#0\tx\n\nb.jpg\ty\n", r"line 3: expected name.jpg#0.*got .*'b.jpg.ty'"),
    ],
)
def test_what_is_wrong_is_named_with_its_line(name: str, content: str | bytes, says: str, tmp_path: Path) -> None:
    with pytest.raises(DataFileError, match=says) as error:
        folder_source(written(tmp_path / name, content), None)
    assert str(error.value).startswith(str(tmp_path / name))
    assert len(str(error.value)) < len(str(tmp_path)) + 300


def pictures_of(folder: Path, names: list[str]) -> Pictures:
    return folder_source(
        written(folder / "a.csv", "image,caption\n" + "".join(f"{n},x\n" for n in names)), None
    ).splits[UNSPLIT]


def test_pictures_are_found_beside_the_file_or_in_a_folder_of_the_usual_name(tmp_path: Path) -> None:
    assert pictures_of(tmp_path, ["0.png", "1.png"]).files == [tmp_path / "0.png", tmp_path / "1.png"]
    (tmp_path / "Images").mkdir()
    (tmp_path / "Images" / "1.png").touch()  # the first may be missing
    assert pictures_of(tmp_path, ["0.png", "1.png"]).files == [tmp_path / "Images" / f"{i}.png" for i in range(2)]
    (tmp_path / "0.png").touch()
    assert pictures_of(tmp_path, ["0.png", "1.png"]).files == [tmp_path / "0.png", tmp_path / "Images" / "1.png"]


def test_a_folder_of_any_name_in_or_beside_that_of_the_file_contains_the_pictures(tmp_path: Path) -> None:
    for name, inside in (("one", "Flicker8k_Dataset"), ("two/text", "../Flickr8k_Dataset")):
        beside = tmp_path / name
        (beside / inside).mkdir(parents=True)
        (beside / inside / "1.png").touch()
        (tmp_path / "__MACOSX").mkdir(exist_ok=True)
        (tmp_path / "__MACOSX" / "1.png").touch()
        (found,) = pictures_of(beside, ["1.png"]).files or ()
        assert found.samefile(beside / inside / "1.png")


def test_names_may_lead_anywhere_on_disk(tmp_path: Path) -> None:
    # who may read a file may also caption it; what is no picture is left out later
    names = ["../up.png", "/abs.png", "x" * 300]
    assert pictures_of(tmp_path, names).files == [tmp_path / "../up.png", Path("/abs.png"), tmp_path / ("x" * 300)]


@pytest.mark.parametrize(
    ("names", "chosen"),
    [
        (["a.csv", "notes.txt", "a.png"], "a.csv"),
        (["Captions.TSV", "notes.txt"], "Captions.TSV"),
        (["captions.txt", "splits.csv"], "captions.txt"),
        (["Flickr8k.token.txt", "Flickr_8k.trainImages.txt", "readme.txt"], "Flickr8k.token.txt"),
        (["a.csv", "b.tsv"], "a.csv, b.tsv"),
        (["captions.csv", "captions.jsonl"], "captions.csv, captions.jsonl"),
        (["dataset.json"], "none"),
        ([], "none"),
    ],
)
def test_the_file_of_captions_is_found_or_asked_for(names: list[str], chosen: str, tmp_path: Path) -> None:
    (tmp_path / "captions").mkdir()
    for name in names:
        (tmp_path / name).touch()
    if chosen in names:
        assert captions_file(tmp_path) == tmp_path / chosen
    else:
        with pytest.raises(DataFileError, match=rf"expected one file of captions .*, got {chosen}"):
            captions_file(tmp_path)


@pytest.mark.timeout(30)
def test_a_hundred_thousand_rows_take_no_longer_than_they_must(tmp_path: Path) -> None:
    rows = "".join(f"{i % 50_000}.jpg,a dog\n" for i in range(100_000))
    assert len(captions(tmp_path / "a.csv", "image,caption\n" + rows)) == 50_000
    tokens = "".join(f"a.jpg#{i}\ta dog\n" for i in range(100_000))
    assert len(captions(tmp_path / "a.token.txt", tokens)["a.jpg"]) == 100_000
    line = json.dumps({"image": "a.jpg", "captions": ["a dog " * 170_000]})
    assert len(captions(tmp_path / "a.jsonl", line)) == 1


texts = st.text('ab,;|"#0\t\r\n\x00\u2028é{[:', max_size=30) | st.text(max_size=20)


@given(st.sampled_from(list(FORMS)), texts, texts, st.integers(0, 200))
def test_any_text_is_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, name: str, before: str, after: str, place: int
) -> None:
    whole = FORMS[name]
    path = tmp_path_factory.getbasetemp() / name
    for content in (before, whole[:place] + before + whole[place:] + after):
        path.write_bytes(content.encode("utf-8", "surrogatepass"))
        read_or_refused(lambda: folder_source(path, None), path)


@given(st.lists(json_values("image", "caption", "captions", "split"), max_size=3))
def test_any_json_lines_are_read_or_refused(tmp_path_factory: pytest.TempPathFactory, values: list[Any]) -> None:
    path = tmp_path_factory.getbasetemp() / "a.jsonl"
    path.write_text("\n".join(map(json.dumps, values)))
    read_or_refused(lambda: folder_source(path, None), path)
