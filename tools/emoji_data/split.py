"""A split that tests composition: held-out variants of known emoji, and whole families of unknown emoji."""

from __future__ import annotations

import random
from collections import Counter, defaultdict

from capgpu.vocabulary import tokenize

from .pictures import Emoji

__all__ = ["split"]

SEED = 0
UNSEEN_PICTURES = 150
LARGEST_UNSEEN_FAMILY = 6  # one family of couples, with a hundred pictures, would take most of the split
SMALLEST_GROUP = 4
GROUP_SIZE_PER_HELD_OUT = 5  # one variant in five is held out

PERSON = 0x1F9D1
GENDERED_PERSONS = (0x1F468, 0x1F469)
# joiner, female and male sign, rightwards arrow, skin tones, hair
MODIFIERS = {0x200D, 0x2640, 0x2642, 0x27A1, *range(0x1F3FB, 0x1F400), *range(0x1F9B0, 0x1F9B4)}


def _stem(characters: str) -> str:
    """Return the characters that an emoji's variants share: without tone, gender, direction and hair."""
    points = [PERSON if ord(c) in GENDERED_PERSONS else ord(c) for c in characters if ord(c) not in MODIFIERS]
    return "".join(map(chr, points)) or characters


def _families(emoji: list[Emoji]) -> list[list[int]]:
    """Return the connected components of the relation "shares a stem or a base name", by union-find."""
    parent: dict[tuple[str, str], tuple[str, str]] = {}

    def root(key: tuple[str, str]) -> tuple[str, str]:
        while parent.setdefault(key, key) != key:
            key = parent[key]
        return key

    for entry in emoji:
        parent[root(("stem", _stem(entry.characters)))] = root(("base", entry.base))
    members = defaultdict(list)
    for i, entry in enumerate(emoji):
        members[root(("base", entry.base))].append(i)
    return list(members.values())


def _hold_out(emoji: list[Emoji], candidates: list[int], rng: random.Random) -> list[int]:
    """Choose a fifth of each group's variants such that every word of theirs still occurs in training."""
    groups = defaultdict(list)
    for i in candidates:
        if emoji[i].category == "People & Body":
            groups[emoji[i].base].append(i)
    training_counts = Counter(token for i in candidates for token in set(tokenize(emoji[i].name)))
    held_out = []
    for group in groups.values():
        if len(group) < SMALLEST_GROUP:
            continue
        n_wanted = round(len(group) / GROUP_SIZE_PER_HELD_OUT)
        for i in rng.sample(group, len(group)):
            tokens = set(tokenize(emoji[i].name))
            if n_wanted and all(training_counts[token] > 1 for token in tokens):
                held_out.append(i)
                training_counts.subtract(tokens)
                n_wanted -= 1
    return held_out


def split(emoji: list[Emoji]) -> dict[str, list[int]]:
    """Divide the emoji into train, val, test and unseen.

    Emoji whose names have the same base form a group. Of each group of four or more people, body parts or
    gestures a fifth of the variants is held out; half of these form val and half test. `unseen` consists of whole
    families: no variant of its emoji in tone, gender, direction or hair is in another split.

    Parameters
    ----------
    emoji : list of Emoji
        The whole set.

    Returns
    -------
    dict from str to list of int
        Ascending indices into `emoji` for the four splits.
    """
    rng = random.Random(SEED)
    unseen: list[int] = []
    for family in rng.sample(families := _families(emoji), len(families)):
        if len(family) <= LARGEST_UNSEEN_FAMILY and len(unseen) + len(family) <= UNSEEN_PICTURES:
            unseen.extend(family)
    known = sorted(set(range(len(emoji))) - set(unseen))
    held_out = _hold_out(emoji, known, rng)
    rng.shuffle(held_out)
    val, test = held_out[: len(held_out) // 2], held_out[len(held_out) // 2 :]
    train = sorted(set(known) - set(held_out))
    return {"train": train, "val": sorted(val), "test": sorted(test), "unseen": sorted(unseen)}
