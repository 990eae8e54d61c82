"""Write the embedded emoji as a plain folder: picture files, and captions with their split.

    python tools/emoji_folder.py --work /tmp/emoji-work --out /tmp/emoji-folder

Downloads the pictures and their names, 80 MB, unless an earlier run or tools/build_emoji.py left them in the folder
for downloads. The output is images/*.png, as in the package (64 x 64 pixels, transparent), and captions.csv with the
columns image, caption and split, in the order of the embedded set:

    capgpu prepare /tmp/emoji-folder -o /tmp/emoji-prepared --tokens plain --min-count 1 --pca 256
    capgpu train --data /tmp/emoji-prepared --out runs/emoji-folder
"""

from __future__ import annotations

import argparse
import csv
import shutil
from pathlib import Path

from emoji_data import packages
from emoji_data.pictures import read_emoji
from emoji_data.split import split

from capgpu.checkpoint import atomic_write


def write_folder(work: Path, out: Path) -> dict[str, int]:
    """Write the pictures and captions.csv.

    Parameters
    ----------
    work : Path
        Folder for downloads, kept for the next run.
    out : Path
        Output folder, created if missing; files of the same names are replaced.

    Returns
    -------
    dict from str to int
        Number of pictures of each split.
    """
    folders = [
        packages.fetch(package, work) for package in (packages.PICTURES, packages.CLDR_NAMES, packages.CLDR_DERIVED)
    ]
    emoji = read_emoji(*folders)
    parts = split(emoji)
    images = out / "images"
    images.mkdir(parents=True, exist_ok=True)
    rows = [(emoji[i].file.name, emoji[i].name, part) for part, indices in parts.items() for i in indices]
    for indices in parts.values():
        for i in indices:
            shutil.copyfile(emoji[i].file, images / emoji[i].file.name)
    with atomic_write(out / "captions.csv", "w") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("image", "caption", "split"))
        writer.writerows(rows)
    return {part: len(indices) for part, indices in parts.items()}


def main() -> None:
    """Write the folder and print the sizes of its splits."""
    parser = argparse.ArgumentParser(description="Write the embedded emoji as pictures and captions.")
    parser.add_argument("--work", type=Path, required=True, help="folder for downloads, kept for the next run")
    parser.add_argument("--out", type=Path, required=True, help="folder for pictures and captions")
    options = parser.parse_args()
    sizes = write_folder(options.work, options.out)
    print(f"{options.out}: " + ", ".join(f"{count} {part}" for part, count in sizes.items()))


if __name__ == "__main__":
    main()
