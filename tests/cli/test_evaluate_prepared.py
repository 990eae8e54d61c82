"""capgpu eval on a prepared folder with COCO's words: its results, scored by capgpu score, have the same figures."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from click.testing import CliRunner

import capgpu.backend
from capgpu.cli import main
from capgpu.data.prepared_dataset import save_prepared
from capgpu.tokens import coco_tokenize
from capgpu.vocabulary import Vocabulary

TEXTS = {
    "train": ["A dog isn't here.", "Two cats (asleep) sleep!", "the dog's ball", "A. man on St. John St."] * 3,
    "val": ["A dog sleeps.", "The cats aren't here", "A man's dog", "two cats on a ball", "a man (asleep)", "The dog"],
}


def run(*args: object) -> str:
    result = CliRunner().invoke(main, [str(arg) for arg in args])
    assert result.exit_code == 0, result.output
    return result.stdout


def test_results_of_eval_have_the_figures_of_score(tmp_path: Path) -> None:
    numbers = np.random.default_rng(5)
    vocabulary = Vocabulary.build([coco_tokenize(text) for text in TEXTS["train"]])
    data = {"word_to_idx": vocabulary.word_to_idx, "idx_to_word": vocabulary.idx_to_word}
    for split, texts in TEXTS.items():
        images = np.arange(len(texts)) // 2  # two captions a picture
        data |= {
            f"{split}_captions": vocabulary.encode_all([coco_tokenize(text) for text in texts], 12),
            f"{split}_image_idxs": images.astype(np.int32),
            f"{split}_features": numbers.standard_normal((len(texts) // 2, 6)).astype(np.float32),
            f"{split}_texts": texts,
            f"{split}_image_ids": [100 + 7 * i for i in range(len(texts) // 2)],
        }
    save_prepared(tmp_path / "data", data, tokens="coco")
    annotations = {
        "images": [{"id": image_id} for image_id in data["val_image_ids"]],
        "annotations": [{"image_id": 100 + 7 * (i // 2), "caption": text} for i, text in enumerate(TEXTS["val"])],
    }
    (tmp_path / "truth.json").write_text(json.dumps(annotations))
    with capgpu.backend.use_backend("numpy"):
        small = ["--hidden", 8, "--wordvec", 8, "--batch-size", 4, "--epochs", 8, "--seed", 1]
        run("train", "--data", tmp_path / "data", "--out", tmp_path / "run", *small)
        out = run(
            "eval",
            "--run",
            tmp_path / "run",
            "--split",
            "val",
            "--results",
            tmp_path / "r.json",
            "--json",
            tmp_path / "e",
        )
    assert "as in COCO's evaluation, whose CIDEr is CIDEr-D" in out
    run("score", tmp_path / "r.json", tmp_path / "truth.json", "--allow-empty", "--json", tmp_path / "s")
    evaluated = json.loads((tmp_path / "e").read_text())["scores"]["model"]
    assert {key: value for key, value in evaluated.items() if value is not None} == json.loads(
        (tmp_path / "s").read_text()
    )["scores"]
    assert evaluated["BLEU-1"] > 0
