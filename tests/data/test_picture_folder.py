"""Names of pictures that differ from those of their files, as tools make them differ."""

from __future__ import annotations

import re
import time
import unicodedata
from pathlib import Path

import pytest

from capgpu.data.feature_files import FeatureFile
from capgpu.data.folder import captions_file, folder_source
from capgpu.data.picture_folder import find_files, is_companion, most_similar, nearest_file
from capgpu.data.source import UNSPLIT
from capgpu.data.staging import check_output_folder
from capgpu.data.text_files import DataFileError


def folder_of(folder: Path, *files: str) -> Path:
    for file in files:
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).touch()
    return folder


@pytest.mark.parametrize(
    ("name", "file", "difference"),
    [
        (unicodedata.normalize("NFC", "café.jpg"), unicodedata.normalize("NFD", "café.jpg"), "composition"),
        (unicodedata.normalize("NFD", "한국.jpg"), unicodedata.normalize("NFC", "한국.jpg"), "composition"),
        ("images\\a.jpg", "images/a.jpg", "slash"),
        ("IMG_1.JPG", "img_1.jpg", "case"),
        ("Straße.jpg", "STRASSE.jpg", "case"),
        ("a.jpeg", "a.jpg", "suffix"),
        ("a", "a.JPG", "suffix"),
        ("a.jpg", "a.png", "suffix"),
        ("a.jpg", "train/a.jpg", "folder"),
        ("images/a.jpg", "a.jpg", "folder"),
        ("C:\\Users\\me\\images\\a.jpg", "a.jpg", "folder"),
        ("/home/me/images/b/a.jpg", "b/a.jpg", "folder"),
        (unicodedata.normalize("NFD", "x\\Café.jpeg"), unicodedata.normalize("NFC", "café.jpg"), "folder"),
    ],
)
def test_the_only_similar_name_is_that_of_the_picture(name: str, file: str, difference: str, tmp_path: Path) -> None:
    folder_of(tmp_path, file, "other.jpg", "._" + file.rpartition("/")[2])
    files, notes = find_files(tmp_path, ["other.jpg", name], "c.csv")
    assert files == [tmp_path / "other.jpg", tmp_path / file]
    (note,) = notes
    assert f"another {difference}" in note or f"or {difference}" in note
    assert note.endswith(f": 1, the first {name} is {file}")


@pytest.mark.parametrize(
    ("names", "files"),
    [
        (["A.jpg"], ["a.jpg", "a.JPG"]),  # two that differ in case
        (["a"], ["a.jpg", "a.png"]),
        (["a.jpg"], ["train/a.jpg", "val/a.jpg"]),
        (["val/1.jpg"], ["train/1.jpg"]),  # another picture of the same name
        (["a.png", "a.jpg"], ["a.jpeg"]),  # two pictures, one file
        (["a.png", "a.jpg"], ["a.jpg"]),
        (["x/1.jpg", "y/1.jpg"], ["1.jpg"]),
    ],
)
def test_names_that_may_be_those_of_other_pictures_stay(names: list[str], files: list[str], tmp_path: Path) -> None:
    folder_of(tmp_path, *files)
    assert find_files(tmp_path, names, "c.csv") == ([tmp_path / name for name in names], [])


def test_a_picture_of_another_split_is_none_of_the_same_name(tmp_path: Path) -> None:
    folder_of(tmp_path, "data/train/0.jpg", "data/train2017/1.jpg", "other/2.jpg", "pics/3.jpg", "pics/x/4.jpg")
    for folder, name, there in [
        ("data/train", "train/0.jpg", "0.jpg"),
        ("data/train", "Training/0.jpg", "0.jpg"),
        ("data/train2017", "train/1.jpg", "1.jpg"),
        ("data/train", "images/0.jpg", "0.jpg"),
        ("data/train", "val/0.jpg", None),
        ("data/train2017", "val2017/1.jpg", None),
        ("pics", "val/3.jpg", None),
        ("pics", "images/4.jpg", None),
    ]:
        found = find_files(tmp_path / folder, [name], "c.csv")[0][0]
        assert found == tmp_path / folder / (there or name), name
    folder_of(tmp_path, "other/2.jpg", "pictures/2.jpg")
    assert find_files(tmp_path / "other", ["pictures/2.jpg"], "c.csv")[0] == [tmp_path / "other" / "pictures" / "2.jpg"]


def test_two_spellings_of_a_name_are_one_picture(tmp_path: Path) -> None:
    folder_of(tmp_path, "a.jpg")
    (tmp_path / "captions.csv").write_text("image,caption\na.jpg,a dog\nA.JPG,one dog\n")
    pictures = folder_source(tmp_path / "captions.csv", None).splits[UNSPLIT]
    assert pictures.captions == [["a dog", "one dog"]]


@pytest.mark.parametrize(
    ("name", "nearest"),
    [("0001.jpg", None), ("dog_0002.jpg", "dog_0001.jpg"), ("val/1.jpg", "train/1.jpg"), ("x" * 300, None)],
)
def test_the_most_similar_file_is_named(name: str, nearest: str | None, tmp_path: Path) -> None:
    folder_of(tmp_path, "dog_0001.jpg", "train/1.jpg")
    assert nearest_file(tmp_path / name) == nearest


def test_the_most_similar_id_of_a_feature_is_named(tmp_path: Path) -> None:
    features = FeatureFile(tmp_path / "f.npz", [[0.0]], ["Dog.JPG"])  # type: ignore[arg-type] # rows are not read
    with pytest.raises(DataFileError, match=r"the most similar id is 'Dog.JPG'"):
        features.rows_of(["images/dog.jpg"])


def test_the_most_similar_of_many_names_is_found_fast() -> None:
    names = [f"train/COCO_train2014_{number:012d}.jpg" for number in range(0, 800_000, 20)]
    start = time.process_time()
    assert most_similar("COCO_val2014_000000391900.jpg", names) == "train/COCO_train2014_000000391900.jpg"
    assert most_similar("train/COCO_train2014_000000391901.jpg", names) is not None
    assert time.process_time() - start < 4  # comparing all names takes 9 s


@pytest.mark.parametrize("beside", [False, True])
def test_pictures_of_the_same_names_in_two_folders_are_ambiguous(beside: bool, tmp_path: Path) -> None:
    base = tmp_path / "captions" if beside else tmp_path
    folders = [tmp_path / name for name in (("Images", "photos") if beside else ("test", "train"))]
    for folder in folders:
        folder_of(folder, *(f"{number}.jpg" for number in range(4)))
    base.mkdir(exist_ok=True)
    file = base / "captions.csv"
    file.write_text("image,caption\n" + "".join(f"{number}.jpg,a dog\n" for number in range(4)))
    with pytest.raises(DataFileError, match=r"got pictures of the same names in .* and .* Name the folder"):
        folder_source(file, None)
    pictures = folder_source(file, folders[1]).splits[UNSPLIT]
    assert pictures.files is not None
    assert pictures.files[0] == folders[1] / "0.jpg"
    # a link to the same folder, or a few pictures, such as examples, are not
    for child in folders[0].iterdir():
        if child.name != "0.jpg":
            child.unlink()
    (folders[0].parent / "pictures").symlink_to(folders[1])
    found = folder_source(file, None).splits[UNSPLIT].files
    assert found is not None
    assert all(path.is_file() for path in found)


def test_a_folder_named_as_pictures_is_preferred_and_found_in_another_one(tmp_path: Path) -> None:
    file = folder_of(tmp_path, "Flickr8k_text/Flickr8k.token.txt") / "Flickr8k_text/Flickr8k.token.txt"
    file.write_text("a.jpg#0\ta dog\n")
    for picture in ("Flickr8k_Dataset/Flicker8k_Dataset/a.jpg", "Flickr8k_text/photos/a.jpg"):
        folder_of(tmp_path, picture)
        assert folder_source(file, None).splits[UNSPLIT].files == [tmp_path / picture]
        folder_of(tmp_path, "Flickr8k_text/thumbs/a.jpg")


COMPANIONS = ["._captions.csv", "~$captions.csv", ".DS_Store", "Thumbs.db", "__MACOSX/captions.csv", ".~lock.x.csv#"]


def test_hidden_companions_are_ignored(tmp_path: Path) -> None:
    folder_of(tmp_path, *COMPANIONS, "data.csv")
    assert captions_file(tmp_path) == tmp_path / "data.csv"
    assert all(is_companion(name.partition("/")[0]) for name in COMPANIONS)
    folder_of(tmp_path / "out", ".DS_Store", "Thumbs.db")
    check_output_folder(tmp_path / "out", force=False)


@pytest.fixture
def inside(tmp_path: Path) -> Path:
    """Return a folder with a picture and a folder of pictures, beside a picture outside of it."""
    folder_of(tmp_path, "in/a.jpg", "in/sub/b.jpg", "out.jpg")
    return tmp_path / "in"


@pytest.mark.parametrize("name", ["../out.jpg", "sub/../../out.jpg", "{outer}/out.jpg", "../in2/none.jpg", "\0/../x"])
def test_names_that_lead_out_of_the_named_folder_are_refused(name: str, inside: Path) -> None:
    name = name.format(outer=inside.parent)
    with pytest.raises(DataFileError, match=r"^c\.csv: expected pictures in .*in, got 1 outside of it, the first"):
        find_files(inside, ["a.jpg", name], "c.csv", within=inside)


def test_a_refused_name_comes_with_the_folder_that_contains_it(inside: Path) -> None:
    name = str(inside.parent / "out.jpg")
    with pytest.raises(DataFileError, match=re.escape(f"(--images {inside.parent})")):
        find_files(inside, [name], "c.csv", within=inside)
    assert find_files(inside.parent, [name], "c.csv", within=inside.parent) == ([Path(name)], [])


@pytest.mark.parametrize("name", ["../in/a.jpg", "sub/../a.jpg", "{inside}/a.jpg", "../images/a.jpg", "/data/in/a.jpg"])
def test_names_of_pictures_in_the_named_folder_are_accepted_however_they_are_written(name: str, inside: Path) -> None:
    (file,), _ = find_files(inside, [name.format(inside=inside)], "c.csv", within=inside)
    assert file.samefile(inside / "a.jpg")


def test_a_folder_that_is_a_link_contains_its_pictures(inside: Path, tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(inside, target_is_directory=True)
    for folder, other in ((link, inside), (inside, link)):
        names = ["a.jpg", str(other / "sub" / "b.jpg")]
        assert find_files(folder, names, "c.csv", within=folder)[1] == []


def test_links_that_lead_out_are_followed_and_counted(inside: Path) -> None:
    (inside / "c.jpg").symlink_to(inside.parent / "out.jpg")
    (inside / "d.jpg").symlink_to(inside / "a.jpg")
    (inside / "far").symlink_to(inside.parent, target_is_directory=True)
    names = ["a.jpg", "c.jpg", "d.jpg", "far/out.jpg"]
    files, notes = find_files(inside, names, "c.csv", within=inside)
    assert files == [inside / name for name in names]
    assert notes == [f"pictures that are links out of {inside}: 2, the first {inside / 'c.jpg'}"]


def test_without_a_named_folder_pictures_outside_are_counted(inside: Path) -> None:
    files, notes = find_files(inside, ["a.jpg", "../out.jpg", "../none.jpg"], "c.csv")
    assert files[1] == inside / "../out.jpg"
    assert notes == [f"pictures outside of {inside}: 1, the first {inside / '../out.jpg'}"]
