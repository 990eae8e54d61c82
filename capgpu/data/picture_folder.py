"""Picture files by the names of a table: the same name, or the only one that differs as tools make names differ.

Names differ in their Unicode composition (macOS decomposes accents), the direction of slashes, case, the suffix
(``.jpeg`` for ``.jpg``, or none), or leading folders, which one of the two lacks. Of several files that differ like
that, none is chosen.

Names may be absolute or contain ``..``. Where the user names the folder of the pictures (``--images``), a name that
leads out of it is that of a file in it that differs in leading folders, or else refused: a file of captions from
elsewhere must not choose what is read. Without ``--images``, names may lead anywhere, and a note counts those that do.
Links are followed, since subsets of data sets often consist of links, and a note counts those that lead out of the
folder. The folder itself may be a link, too.
"""

from __future__ import annotations

import difflib
import os
import re
import unicodedata
from bisect import bisect
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path

from capgpu.data.text_files import DataFileError
from capgpu.visible_text import clipped

__all__ = [
    "find_files",
    "is_companion",
    "is_file",
    "local_name",
    "most_similar",
    "nearest_file",
    "plain_name",
    "printable",
    "similar_files",
    "without_suffix",
]

#: Files and folders that operating systems and programs place beside others.
_COMPANIONS = frozenset({"__macosx", "thumbs.db", "ehthumbs.db", "desktop.ini", "@eadir", "$recycle.bin"})
_SUFFIX = re.compile(r"\.(?:avif|bmp|gif|jfif|jp2|jpe|jpeg|jpg|mpo|png|ppm|tga|tif|tiff|webp)$", re.IGNORECASE)
#: Levels of folders that are searched.
_DEPTH = 2
#: Least similarity of a name that is shown as the most similar one.
_SIMILAR = 0.6
#: Names on each side of another one, in alphabetical order, that are compared with it: all of 100,000 would take 15 s.
_N_COMPARED = 250
_COMPOSITION, _CASE, _OTHER_SUFFIX, _FOLDER = "composition or slash", "case", "suffix", "folder"
#: Differences that several pictures may have to the same file.
_LOOSE = frozenset({_OTHER_SUFFIX, _FOLDER})


def is_companion(name: str) -> bool:
    """Return whether a name is that of a hidden companion: ``._a.csv``, ``~$a.csv``, ``Thumbs.db``, ``__MACOSX``."""
    return name.startswith((".", "~$")) or name.lower() in _COMPANIONS


def is_file(path: Path) -> bool:
    """Return whether a path is a regular file; also for names that no file can have."""
    try:
        return os.path.isfile(local_name(str(path)))
    except ValueError:  # a name with NUL
        return False


def local_name(name: str) -> str:
    """Return a file name from a UTF-8 file as this system's encoding of file names represents it.

    They differ where that is not UTF-8, as ASCII in Python under ``LC_ALL=C`` and ``PYTHONUTF8=0``.
    """
    for encode in (os.fsencode, partial(str.encode, encoding="utf-8", errors="surrogateescape")):
        with suppress(UnicodeEncodeError):
            return os.fsdecode(encode(name))
    return name


def printable(name: str) -> str:
    """Return the name of a file with escapes for bytes that are not UTF-8."""
    return name.encode("utf-8", "backslashreplace").decode()


def plain_name(name: str) -> str:
    """Return a normalized file name: ``./a//b.jpg`` becomes ``a/b.jpg``."""
    return ("/" if name.startswith("/") else "") + "/".join(part for part in name.split("/") if part not in ("", "."))


def without_suffix(name: str) -> str:
    """Return the name of a picture without the suffix of its format."""
    return _SUFFIX.sub("", name)


def find_files(
    folder: Path, names: Sequence[str], where: str, within: Path | None = None
) -> tuple[list[Path], list[str]]:
    """Find pictures by their names.

    Parameters
    ----------
    folder : path
        The folder of the pictures.
    names : sequence of N str
        Names, which may contain folders.
    where : str
        The file of the names, for messages.
    within : path, optional
        The folder that the user named, if any: files outside of it are refused.

    Returns
    -------
    files : list of N paths
        The file of each name: ``folder / name``, unless only a file under a similar name exists.
    notes : list of str
        How many files have similar names, and how many are outside of the folder, for the user.

    Raises
    ------
    DataFileError
        For a name that leads out of `within`, if there is no file under a similar name in `folder`.
    """
    names = list(map(local_name, names))
    bound = _Bound(within or folder)
    leaving = {index for index, name in enumerate(names) if bound.leaves(folder, name)}
    files, notes = similar_files(folder, names, leaving if within is not None else frozenset())
    outside = [index for index in sorted(leaving) if files[index] == folder / names[index]]
    if within is not None and outside:
        common = bound.common([files[index] for index in outside])
        raise DataFileError(
            f"{where}: expected pictures in {within}, got {len(outside):,} outside of it, the first "
            f"{clipped(names[outside[0]])}. Name the folder that contains all of them (--images {common}), or omit "
            "--images to read pictures anywhere."
        )
    outside = [index for index in outside if is_file(files[index])]
    links = [index for index, file in enumerate(files) if index not in leaving and bound.is_link_out(file)]
    for what, indices in (("pictures outside of", outside), ("pictures that are links out of", links)):
        if indices:
            first = printable(str(files[indices[0]]))
            notes.append(f"{what} {within or folder}: {len(indices):,}, the first {first}")
    return files, notes


def similar_files(folder: Path, names: Sequence[str], refused: Collection[int]) -> tuple[list[Path], list[str]]:
    """Do the same as `find_files` without looking where files are; the names of some indices are not used as they are.

    Parameters
    ----------
    folder, names
        As for `find_files`.
    refused : collection of int
        Indices of names that are only searched for under similar names.

    Returns
    -------
    files, notes
        As from `find_files`.
    """
    names = list(map(local_name, names))
    files = [folder / name for name in names]
    missing = [index for index, file in enumerate(files) if index in refused or not is_file(file)]
    if not missing:
        return files, []
    similar = _SimilarNames(folder)
    found = {index: match for index in missing if (match := similar.find(names[index])) is not None}
    # a file of another name, or of two, is not that of a name without suffix or folder
    absent = set(missing)
    exact_files = {plain_name(name) for index, name in enumerate(names) if index not in absent}
    claims = Counter(file for file, _ in {(file, _exact(names[index])) for index, (file, _) in found.items()})
    counts: Counter[str] = Counter()
    first: dict[str, str] = {}
    for index, (file, difference) in found.items():
        if difference in _LOOSE and (file in exact_files or claims[file] > 1):
            continue
        if difference == _FOLDER and _is_other_split(folder, names[index], file):
            continue
        files[index] = folder / file
        counts[difference] += 1
        first.setdefault(difference, f"{names[index]} is {printable(file)}")
    return files, [
        f"names of pictures with another {difference} than their files: {count:,}, the first {first[difference]}"
        for difference, count in counts.items()
    ]


def _is_other_split(folder: Path, name: str, file: str) -> bool:
    """Return whether a file that lacks a folder of a name is another picture: ``train/0.jpg`` is not ``val/0.jpg``."""
    named = folder.absolute().parent / name
    if is_file(named):
        return not named.samefile(folder / file)
    outer = _exact(name).split("/")[:-1]
    inner = [*folder.absolute().parts, *file.split("/")[:-1]]
    splits = [{_split(part) for part in parts} - {""} for parts in (outer[-1:], inner[-1:])]
    return bool(splits[0]) and splits[0] != splits[1]


def _split(part: str) -> str:
    """Return the split that a folder is named after, such as train of ``train2017``; an empty text if there is none."""
    found = re.fullmatch(r"(train|val|dev|test)(?:ing|id|idation)?[-_ ]?(?:images?|\d{4})?", part.casefold())
    return {"dev": "val"}.get(found[1], found[1]) if found else ""


class _Bound:
    """A folder, and which files are outside of it.

    Parameters
    ----------
    folder : path
        The folder, which may be a link.
    """

    def __init__(self, folder: Path) -> None:
        self._absolute, self._real = os.path.abspath(folder), os.path.realpath(folder)
        self._outer: dict[str, bool] = {}  # whether folders are outside, by their paths

    def leaves(self, folder: Path, name: str) -> bool:
        """Return whether a name, seen from a folder in this one, leads out of this one other than by a link."""
        if not os.path.isabs(name) and ".." not in name:
            return False
        path = folder / name
        if ".." not in path.parts and _is_in(os.path.abspath(path), self._absolute):
            return False
        try:
            return not _is_in(os.path.realpath(path), self._real)
        except ValueError:  # a name with NUL
            return True

    def is_link_out(self, file: Path) -> bool:
        """Return whether a file is outside by a link: itself, or a folder above it."""
        parent = os.path.dirname(file)
        if parent not in self._outer:
            self._outer[parent] = not _is_in(os.path.realpath(parent), self._real)
        linked = os.path.islink(file)
        if linked:
            return not _is_in(os.path.realpath(file), self._real)
        return self._outer[parent] and is_file(file)

    def common(self, files: Sequence[Path]) -> str:
        """Return the folder that contains this one and the given files."""
        try:
            return os.path.commonpath([self._real, *(os.path.dirname(os.path.realpath(file)) for file in files)])
        except ValueError:  # names with NUL, and several drives
            return "FOLDER"


def _is_in(path: str, folder: str) -> bool:
    return path.startswith(os.path.join(folder, "")) or path == folder


def nearest_file(path: Path) -> str | None:
    """Return the name of the file that is most similar to one that is missing; None if there is none."""
    folder = next((parent for parent in path.parents if parent.is_dir()), None)
    if folder is None:
        return None
    nearest = most_similar(path.relative_to(folder).as_posix(), _walked(folder))
    return None if nearest is None else printable(nearest)


def most_similar(name: str, names: Iterable[str]) -> str | None:
    """Return the name that is most similar to another one; None if none is."""
    by_key: dict[str, str] = {}
    for other in names:
        by_key.setdefault(_stem(other), other)
        by_key.setdefault(_stem(other).rpartition("/")[2], other)
    key = _stem(name)
    for exact in (key, key.rpartition("/")[2]):
        if exact in by_key:
            return by_key[exact]
    if not re.search("[^0-9/]", key):  # any two numbers are similar
        return None
    close = difflib.get_close_matches(key, _with_common_ends(key, by_key), n=1, cutoff=_SIMILAR)
    return by_key[close[0]] if close else None


def _with_common_ends(key: str, keys: Iterable[str]) -> list[str]:
    """Return the keys that share the longest beginnings and endings with another one; all of a few."""
    all_keys = list(keys)
    if len(all_keys) <= 4 * _N_COMPARED:
        return all_keys
    near: dict[str, None] = {}
    for step in (1, -1):  # the names as they are, and backwards
        ordered = sorted(name[::step] for name in all_keys)
        position = bisect(ordered, key[::step])
        near |= dict.fromkeys(name[::step] for name in ordered[max(position - _N_COMPARED, 0) : position + _N_COMPARED])
    return list(near)


class _SimilarNames:
    """The files of a folder by what remains of their names without differences.

    Parameters
    ----------
    folder : path
        The folder.
    """

    def __init__(self, folder: Path) -> None:
        files = _walked(folder)
        self._whole = [(difference, key, _grouped(files, key)) for difference, key in _KEYS]
        # names that lack the leading folders of their files
        tails = [
            (file.split("/", level)[-1], file) for file in files for level in range(1, min(file.count("/"), _DEPTH) + 1)
        ]
        self._tails = [(key, _grouped_pairs([(key(tail), file) for tail, file in tails])) for _, key in _KEYS]

    def find(self, name: str) -> tuple[str, str] | None:
        """Return the only file with a similar name, and the difference; None if there are none or several."""
        for difference, key, groups in self._whole:
            if matches := groups.get(key(name)):
                return (matches[0], difference) if len(matches) == 1 else None
        for number, (key, groups) in enumerate(self._tails):
            matches = list(groups.get(key(name), ()))
            parts = _exact(name).lstrip("/").split("/")
            for start in range(1, len(parts)):  # folders that the file lacks
                matches += self._whole[number][2].get(key("/".join(parts[start:])), ())
            if matches:
                return (matches[0], _FOLDER) if len(set(matches)) == 1 else None
        return None


def _exact(name: str) -> str:
    return plain_name(unicodedata.normalize("NFC", name.replace("\\", "/")))


def _folded(name: str) -> str:
    return unicodedata.normalize("NFC", _exact(name).casefold())


def _stem(name: str) -> str:
    return _SUFFIX.sub("", _folded(name))


_KEYS = ((_COMPOSITION, _exact), (_CASE, _folded), (_OTHER_SUFFIX, _stem))


def _walked(folder: Path) -> list[str]:
    """Return the names of the files of a folder and its folders, without companions, in order."""
    files: list[str] = []
    for root, folders, names in os.walk(folder):
        level = "" if root == str(folder) else Path(root).relative_to(folder).as_posix() + "/"
        folders[:] = sorted(name for name in folders if not is_companion(name)) if level.count("/") < _DEPTH else []
        files += [level + name for name in sorted(names) if not is_companion(name)]
    return files


def _grouped(files: Sequence[str], key: Callable[[str], str]) -> dict[str, list[str]]:
    return _grouped_pairs([(key(file), file) for file in files])


def _grouped_pairs(pairs: Sequence[tuple[str, str]]) -> dict[str, list[str]]:
    groups: dict[str, list[str]] = {}
    for key, file in pairs:
        groups.setdefault(key, []).append(file)
    return groups
