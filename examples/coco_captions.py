"""COCO's annotation file from end to end: prepare, train, evaluate, score.

    python examples/coco_captions.py captions_val2017.json --out coco

The captions are real; the features are not. Where no pictures are at hand, each picture gets a vector made from the
words of its own captions: their tf-idf weights, sent through a fixed random projection, with noise of the same
strength added. So a model can learn what to say, and how; its scores tell that the parts fit together and nothing
about seeing. With features of real pictures, give their file to `capgpu prepare --features` instead.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import numpy.typing as npt

from capgpu.tokens import coco_tokenize

FEATURE_DIM = 256


def features_from_words(captions: dict[int, list[str]]) -> npt.NDArray[np.float32]:
    """Make a vector of each picture from its captions' words; no picture is looked at."""
    random = np.random.default_rng(0)
    words = [Counter(word for text in texts for word in coco_tokenize(text)) for texts in captions.values()]
    pictures_with = Counter(word for counts in words for word in counts)
    directions = {word: random.standard_normal(FEATURE_DIM, np.float32) for word in sorted(pictures_with)}
    features = np.zeros((len(words), FEATURE_DIM), np.float32)
    for row, counts in zip(features, words, strict=True):
        for word, count in counts.items():
            row += count * math.log(len(words) / pictures_with[word]) * directions[word]
    features /= np.linalg.norm(features, axis=1, keepdims=True) / math.sqrt(FEATURE_DIM)
    return features + random.standard_normal(features.shape, np.float32)


def capgpu(*arguments: object) -> None:
    """Run the command as its user would, and stop where it fails."""
    print("\n$ capgpu", *arguments, flush=True)
    subprocess.run([Path(sys.executable).with_name("capgpu"), *map(str, arguments)], check=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("annotations", type=Path, help="such as captions_val2017.json, of COCO's website")
    parser.add_argument("--out", type=Path, default=Path("coco"), help="folder for everything that is made")
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--hidden", type=int, default=512)
    arguments = parser.parse_args()
    out: Path = arguments.out
    out.mkdir(parents=True, exist_ok=True)

    captions: dict[int, list[str]] = defaultdict(list)
    for annotation in json.loads(arguments.annotations.read_text(encoding="utf-8"))["annotations"]:
        captions[annotation["image_id"]].append(annotation["caption"])
    print(f"{len(captions):,} pictures with {sum(map(len, captions.values())):,} captions.")
    print(f"Their features: {FEATURE_DIM} numbers made from the words of their captions, half of it noise. No picture")
    print("was looked at: the scores below say nothing about seeing.")
    np.savez(out / "features.npz", features=features_from_words(captions), image_ids=np.array(list(captions)))

    prepared, run, results = out / "prepared", out / "run", out / "results.json"
    capgpu("prepare", arguments.annotations, "--features", out / "features.npz", "--min-count", 4, "-o", prepared)
    capgpu("train", run, "--data", prepared, "--hidden", arguments.hidden, "--epochs", arguments.epochs)
    capgpu("eval", run, "--split", "test", "--results", results)
    capgpu("score", results, arguments.annotations, "--subset")


if __name__ == "__main__":
    main()
