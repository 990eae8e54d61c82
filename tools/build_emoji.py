"""Rebuild the embedded emoji set from registry packages.

    pip install -e '.[vision]' -r tools/requirements-emoji.txt
    python tools/build_emoji.py --work /tmp/emoji-work

Downloads 80 MB with `npm pack` (exact versions, hashes checked), runs 3,500 pictures through EfficientNet-Lite0, once
for pooled features and once for grids (half a minute each on one core), and writes emoji.npz, emoji_pca.npz,
emoji_grid.npz and emoji_sprite.png into capgpu/data or the folder given by --out. Names, split and captions are
reproduced bit for bit. Features can differ in the last bit of float16: the stored ones were computed by PyTorch 2.13,
which sums in another order than onnxruntime. Grids can differ by a step: the stored ones were averaged from 7 x 7 cells
in float16. The sprite can differ with other versions of Pillow; --check compares.
"""

from __future__ import annotations

import argparse
import io
import os
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from emoji_data import network, packages
from emoji_data.pictures import Emoji, compose, read_emoji
from emoji_data.split import split
from PIL import Image

from capgpu.data.emoji import GRID_SIDE, SPRITE_COLUMNS, SPRITE_PARTS, THUMBNAIL_SIZE
from capgpu.vocabulary import Vocabulary

FEATURE_SIZE = 256
#: From 16 x 128 numbers, which take 5.3 MB in 8 bits, ridge regression reads the skin tone of 79% of the held-out
#: pictures that have one; from 16 x 64 73%, from 16 x 256 79%, from the 256 pooled ones 65%.
CELL_SIZE = 128
DATA_FOLDER = Path(__file__).resolve().parents[1] / "capgpu" / "data"


def _write(path: Path, content: bytes) -> None:
    temporary = path.with_name(f".{path.name}.tmp")
    with temporary.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def _npz(arrays: dict[str, npt.NDArray[Any]]) -> bytes:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, allow_pickle=False, **arrays)
    return buffer.getvalue()


def _sprite(emoji: list[Emoji]) -> bytes:
    """Return a PNG of the thumbnails, row by row, with a palette of 256 colours."""
    rows = -(-len(emoji) // SPRITE_COLUMNS)
    sheet = Image.new("RGB", (SPRITE_COLUMNS * THUMBNAIL_SIZE, rows * THUMBNAIL_SIZE), "white")
    for index, entry in enumerate(emoji):
        row, column = divmod(index, SPRITE_COLUMNS)
        sheet.paste(compose(entry.file, THUMBNAIL_SIZE), (column * THUMBNAIL_SIZE, row * THUMBNAIL_SIZE))
    buffer = io.BytesIO()
    sheet.quantize(256, dither=Image.Dither.NONE).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def grid_file(cells: npt.NDArray[np.float16], parts: dict[str, list[int]]) -> bytes:
    """Return the file of the grids: projected cells in steps of 1/127 of the largest value, and the projection."""
    projection = network.fit_pca(cells[parts["train"]].reshape(-1, cells.shape[2]), CELL_SIZE)
    features = projection.apply(cells)
    step = np.abs(features).max() / np.float32(127)
    arrays: dict[str, npt.NDArray[Any]] = {**projection._asdict(), "step": step}
    for part, indices in parts.items():
        arrays[f"{part}_steps"] = np.round(features[indices] / step).astype(np.int8)
    return _npz(arrays)


def build(work: Path) -> dict[str, bytes]:
    """Return the contents of the data files by file name; packages are downloaded into `work`."""
    folders = [
        packages.fetch(package, work) for package in (packages.PICTURES, packages.CLDR_NAMES, packages.CLDR_DERIVED)
    ]
    emoji = read_emoji(*folders)
    parts = split(emoji)
    vocabulary = Vocabulary.build(emoji[i].name for i in parts["train"])
    captions = vocabulary.encode_all([entry.name for entry in emoji])

    pooled = network.pooled_outputs([entry.file for entry in emoji])
    projection = network.fit_pca(pooled[parts["train"]], FEATURE_SIZE)
    # the stored, rounded projection is applied here as well, as it will be to new pictures
    features = projection.apply(pooled).astype(np.float16)

    arrays: dict[str, npt.NDArray[Any]] = {"idx_to_word": np.array(vocabulary.idx_to_word)}
    for part, indices in parts.items():
        arrays[f"{part}_captions"] = captions[indices]
        arrays[f"{part}_features"] = features[indices]
        arrays[f"{part}_names"] = np.array([emoji[i].name for i in indices])
        arrays[f"{part}_characters"] = np.array([emoji[i].characters for i in indices])
        print(f"{part}: {len(indices)} pictures, {len({emoji[i].base for i in indices})} base names")
    return {
        "emoji.npz": _npz(arrays),
        "emoji_pca.npz": _npz(projection._asdict()),
        "emoji_grid.npz": grid_file(network.grid_outputs([entry.file for entry in emoji], GRID_SIDE), parts),
        "emoji_sprite.png": _sprite([emoji[i] for part in SPRITE_PARTS for i in parts[part]]),
    }


def _compare(built: dict[str, bytes], folder: Path) -> None:
    """Print the differences between the built files and those in the folder."""
    for name, content in built.items():
        stored = (folder / name).read_bytes()
        if stored == content:
            print(f"{name}: same bytes")
        elif name.endswith(".npz"):
            with np.load(io.BytesIO(content)) as new, np.load(io.BytesIO(stored)) as old:
                for key in old.files:
                    if not np.array_equal(new[key], old[key]):
                        difference = np.abs(new[key].astype(np.float64) - old[key].astype(np.float64)).max()
                        print(f"{name}: {key} differs by at most {difference:.2g}")
        else:
            print(f"{name}: different bytes")


def main() -> None:
    """Build the files, then write them or compare them with those in the folder."""
    parser = argparse.ArgumentParser(description="Rebuild the embedded emoji set.")
    parser.add_argument("--work", type=Path, required=True, help="folder for downloads, kept for the next run")
    parser.add_argument("--out", type=Path, default=DATA_FOLDER, help="folder for the data files")
    parser.add_argument("--check", action="store_true", help="compare with the files in --out, write nothing")
    options = parser.parse_args()
    made = build(options.work)
    if options.check:
        _compare(made, options.out)
        return
    for name, content in made.items():
        _write(options.out / name, content)
        print(f"{options.out / name}: {len(content):,} bytes")


if __name__ == "__main__":
    main()
