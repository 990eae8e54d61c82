"""The split that tests composition: held-out variants of known emoji, and whole unknown emoji."""

from __future__ import annotations

import random
from collections import Counter, defaultdict

from capgpu.vocabulary import tokenize

from .pictures import Emoji

__all__ = ["split"]

SEED = 0
UNSEEN_PICTURES = 150
LARGEST_UNSEEN_FAMILY = 6  # the couples, with a hundred pictures each, would fill the part by themselves
SMALLEST_GROUP = 4
HELD_OUT_PART = 5  # one variant in five

PERSON = 0x1F9D1
GENDERED_PERSONS = (0x1F468, 0x1F469)
# joiner, female and male sign, rightwards arrow, skin tones, hair
MODIFIERS = {0x200D, 0x2640, 0x2642, 0x27A1, *range(0x1F3FB, 0x1F400), *range(0x1F9B0, 0x1F9B4)}


def _stem(characters: str) -> str:
    """Strip tone, gender, direction and hair off an emoji: what its variants have in common."""
    points = [PERSON if ord(c) in GENDERED_PERSONS else ord(c) for c in characters if ord(c) not in MODIFIERS]
    return "".join(map(chr, points)) or characters


def _families(emoji: list[Emoji]) -> list[list[int]]:
    """Put emoji together that share a stem or a base name, directly or through a third."""
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


def _hold_out(emoji: list[Emoji], rest: list[int], rng: random.Random) -> list[int]:
    """Choose a fifth of each group's variants such that training keeps every word that they use."""
    groups = defaultdict(list)
    for i in rest:
        if emoji[i].category == "People & Body":
            groups[emoji[i].base].append(i)
    left = Counter(token for i in rest for token in set(tokenize(emoji[i].name)))
    held_out = []
    for group in groups.values():
        if len(group) < SMALLEST_GROUP:
            continue
        wanted = round(len(group) / HELD_OUT_PART)
        for i in rng.sample(group, len(group)):
            tokens = set(tokenize(emoji[i].name))
            if wanted and all(left[token] > 1 for token in tokens):
                held_out.append(i)
                left.subtract(tokens)
                wanted -= 1
    return held_out


def split(emoji: list[Emoji]) -> dict[str, list[int]]:
    """Share the emoji out to train, val, test and unseen.

    Emoji whose names have the same base form a group. Of each group of four or more people, body parts or
    gestures a fifth of the variants is held out, half of all these for validation and half for the test.
    `unseen` gets whole families: no emoji there has a relative of another tone, gender, direction or hair
    in another part.

    Parameters
    ----------
    emoji : list of Emoji
        The whole set.

    Returns
    -------
    dict from str to list of int
        Ascending positions in emoji for the four parts.
    """
    rng = random.Random(SEED)
    unseen: list[int] = []
    for family in rng.sample(families := _families(emoji), len(families)):
        if len(family) <= LARGEST_UNSEEN_FAMILY and len(unseen) + len(family) <= UNSEEN_PICTURES:
            unseen.extend(family)
    rest = sorted(set(range(len(emoji))) - set(unseen))
    held_out = _hold_out(emoji, rest, rng)
    rng.shuffle(held_out)
    val, test = held_out[: len(held_out) // 2], held_out[len(held_out) // 2 :]
    train = sorted(set(rest) - set(held_out))
    return {"train": train, "val": sorted(val), "test": sorted(test), "unseen": sorted(unseen)}
