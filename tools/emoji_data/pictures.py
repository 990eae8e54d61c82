"""Which emoji are in the set, what each is called, and its pixels."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from capgpu.data.emoji import base_name
from capgpu.vocabulary import tokenize

__all__ = ["Emoji", "compose", "read_emoji"]

# flags are numerous and differ only in the country's name; components are swatches of skin tones
EXCLUDED_CATEGORIES = ("Flags", "Component")
EXCLUDED_CHARACTERS = (0x1F595,)  # the middle finger, in all its skin tones

VARIATION_SELECTOR = "\ufe0f"


@dataclass(frozen=True)
class Emoji:
    """One picture: its characters (without variation selectors), CLDR name, category, and image file."""

    characters: str
    name: str
    category: str
    file: Path

    @property
    def base(self) -> str:
        """The name without skin tone, hair, direction and partners."""
        return base_name(self.name)


def _short_names(folder: Path, kind: str) -> dict[str, str]:
    text = (folder / kind / "en" / "annotations.json").read_text(encoding="utf-8")
    entries = json.loads(text)[kind]["annotations"]
    return {
        characters.replace(VARIATION_SELECTOR, ""): entry["tts"][0]
        for characters, entry in entries.items()
        if "tts" in entry
    }


def compose(file: Path, size: int) -> Image.Image:
    """Read a picture, composite it onto white, and scale it to size x size pixels (RGB)."""
    with Image.open(file) as opened:
        picture = opened.convert("RGBA")
    background = Image.new("RGBA", picture.size, "white")
    background.alpha_composite(picture)
    return background.convert("RGB").resize((size, size), Image.Resampling.BICUBIC)


def _without_duplicates(emoji: list[Emoji]) -> list[Emoji]:
    """Keep one emoji of each group with identical pixels: the one with the shortest name.

    No captioner can distinguish duplicates, so their names would be noise in training and unfair in a test.
    """
    by_pixels: dict[str, Emoji] = {}
    for entry in sorted(emoji, key=lambda entry: (len(tokenize(entry.name)), entry.characters)):
        pixels = np.asarray(compose(entry.file, 64)).tobytes()
        by_pixels.setdefault(hashlib.sha256(pixels).hexdigest(), entry)
    return sorted(by_pixels.values(), key=lambda entry: entry.characters)


def read_emoji(pictures: Path, names: Path, derived: Path) -> list[Emoji]:
    """List the set's emoji in the order of their code points.

    Parameters
    ----------
    pictures, names, derived : Path
        The unpacked packages: pictures, CLDR names of single emoji, CLDR names of derived sequences.

    Returns
    -------
    list of Emoji
        All emoji with a picture, without flags, components, rude gestures and pixel-identical duplicates.

    Raises
    ------
    ValueError
        If an emoji has no English short name.
    """
    short_names = _short_names(names, "annotations") | _short_names(derived, "annotationsDerived")
    emoji = []
    for entry in json.loads((pictures / "emoji.json").read_text(encoding="utf-8")):
        for variant in (entry, *entry.get("skin_variations", {}).values()):
            points = [int(point, 16) for point in variant["unified"].split("-")]
            excluded = entry["category"] in EXCLUDED_CATEGORIES or points[0] in EXCLUDED_CHARACTERS
            if excluded or not variant["has_img_google"]:
                continue
            characters = "".join(map(chr, points)).replace(VARIATION_SELECTOR, "")
            if characters not in short_names:
                raise ValueError(f"CLDR has no English short name for {variant['unified']}: pin matching versions")
            file = pictures / "img" / "google" / "64" / variant["image"]
            emoji.append(Emoji(characters, short_names[characters], entry["category"], file))
    return _without_duplicates(emoji)
