"""From one layer to a trained captioner, in seven steps.

    python examples/tour.py --out tour

Prints what it does and finds, and draws three pictures into the folder. With the default settings it takes a minute
on two cores; CAPGPU_BACKEND chooses where it computes, as everywhere.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np

import capgpu
from capgpu.checkpoint import load_model, save_model
from capgpu.data import emoji
from capgpu.data.arrays import split_arrays
from capgpu.decode import DecodeResult, beam_search, greedy, sample
from capgpu.evaluation.match import Match
from capgpu.evaluation.nearest_neighbour import nearest_neighbours
from capgpu.gradcheck import eval_numerical_gradient_array, rel_error
from capgpu.layers import lstm_backward, lstm_forward
from capgpu.metrics import coco_scores, exact_match
from capgpu.report.contact_sheet import Cell, draw_contact_sheet
from capgpu.report.loss_curve import plot_loss
from capgpu.sequence import Packing, pack
from capgpu.vocabulary import NULL, caption_text, tokenize


def heading(number: int, title: str) -> None:
    print(f"\n{number}. {title}\n{'-' * (len(title) + 3)}")


def a_layer_and_its_gradient() -> None:
    """Run an LSTM forward and backward, and compare one gradient with finite differences."""
    heading(1, "A layer and its gradient")
    random = np.random.default_rng(0)
    N, T, D, H = 2, 3, 4, 5
    x, h0 = random.standard_normal((N, T, D)), random.standard_normal((N, H))
    Wx, Wh, b = random.standard_normal((D, 4 * H)), random.standard_normal((H, 4 * H)), np.zeros(4 * H)
    h, cache = lstm_forward(x, h0, Wx, Wh, b)
    dh = random.standard_normal(h.shape)
    gradients = dict(zip(("dx", "dh0", "dWx", "dWh", "db"), lstm_backward(dh, cache), strict=True))
    numeric = eval_numerical_gradient_array(lambda Wh: lstm_forward(x, h0, Wx, Wh, b)[0], Wh, dh)
    print(f"{N} sequences of {T} vectors become hidden states of shape {h.shape}.")
    print("The backward pass gives", ", ".join(f"{name} {g.shape}" for name, g in gradients.items()) + ".")
    print(f"dWh differs from finite differences by {rel_error(gradients['dWh'], numeric):.1e} of its size.")


def packed_sequences() -> None:
    """Pack captions of unequal lengths."""
    heading(2, "Packed sequences: no work for padding")
    lengths = [7, 2, 5, 3]
    packing = Packing.from_lengths(lengths)
    packed = pack(np.zeros((len(lengths), max(lengths), 1)), packing)
    print(f"Captions of {lengths} words, padded, are {len(lengths) * max(lengths)} rows; packed, {len(packed)}.")
    print(f"Longest first, the steps have {packing.batch_sizes.tolist()} rows: every step is one matrix product.")


def words_per_caption(data: dict[str, Any]) -> float:
    captions = data["train_captions"]
    return float((captions[:, 1:] != data["word_to_idx"][NULL]).sum() / len(captions))


def overfit_fifty_captions(data: dict[str, Any], epochs: int, out: Path) -> None:
    """Overfit 50 captions: a model that cannot do this has a defect."""
    heading(3, "Overfitting fifty captions")
    few = {**data, **{f"train_{part}": data[f"train_{part}"][:50] for part in ("captions", "image_idxs", "features")}}
    model = new_model(data, hidden=128)
    solver = capgpu.CaptioningSolver(
        model,
        few,
        update_rule="adam",
        optim_config={"learning_rate": 5e-3},
        batch_size=25,
        num_epochs=epochs,
        verbose=False,
        validate=False,
        seed=0,
    )
    solver.train()
    ids = model.sample(capgpu.asarray(few["train_features"]), stop_at_end=True)
    written = texts(ids, data)
    right = sum(text == name.lower() for text, name in zip(written, data["train_names"], strict=False))
    print(f"Loss {solver.loss_history[0]:.2f} at first, {solver.loss_history[-1]:.4f} after {epochs} epochs.")
    print(f"The model writes {right} of 50 captions as they are.")
    words = words_per_caption(few)
    points = [(step / 2, loss / words) for step, loss in enumerate(solver.loss_history, start=1)]
    plot_loss(out / "overfitting.png", points, title="50 captions, overfitted")


def train_a_captioner(data: dict[str, Any], epochs: int, out: Path) -> capgpu.CaptioningRNN:
    """Train on the whole set, with dropout and the best epoch of the validation split."""
    heading(4, "A captioner")
    model = new_model(data, hidden=256, dropout=0.3)
    solver = capgpu.CaptioningSolver(
        model,
        data,
        update_rule="adam",
        optim_config={"learning_rate": 3e-3},
        batch_size=64,
        num_epochs=epochs,
        schedule="cosine",
        keep_best=True,
        verbose=False,
        seed=0,
    )
    solver.train()
    print(f"{len(data['train_captions']):,} pictures, {len(data['idx_to_word'])} words, {epochs} epochs:")
    print(f"{solver.best_val_loss:.3f} nats a word on the validation split, best in epoch {solver.best_epoch}.")
    words = words_per_caption(data)
    steps = solver.iterations_per_epoch
    points = [(step / steps, loss / words) for step, loss in enumerate(solver.loss_history, start=1)]
    validation = list(enumerate(solver.val_loss_history, start=1))
    plot_loss(out / "training.png", points, validation, title="emoji, LSTM", training_label="training, with dropout")
    return model


def write_captions(model: capgpu.CaptioningRNN, data: dict[str, Any]) -> None:
    """Decode one picture in three ways."""
    heading(5, "Greedy, beam search, sampling")
    picture = capgpu.asarray(data["test_features"][:1])
    print(f"The picture is: {data['test_names'][0]}")
    for way, result in (
        ("greedy", greedy(model, picture)),
        ("beam of 5", beam_search(model, picture, 5, n_best=3)),
        ("sampled, temperature 1", sample(model, picture, seed=1)),
    ):
        print(f"  {way}:")
        for text, probability in alternatives(result, data):
            print(f"    {probability:6.1%}  {text}")


def evaluate(model: capgpu.CaptioningRNN, data: dict[str, Any], out: Path) -> None:
    """Score the test split beside the nearest-neighbour baseline, and draw it."""
    heading(6, "How good is it?")
    ids = beam_search(model, capgpu.asarray(data["test_features"]), 5).ids[:, 0]
    written = texts(ids, data)
    nearest = nearest_neighbours(data["test_features"], data["train_features"])
    baseline = [data["train_names"][i] for i in nearest.tolist()]
    truths = [[tokenize(name)] for name in data["test_names"]]
    for who, captions in (("model", written), ("nearest training picture", baseline)):
        words = [tokenize(caption) for caption in captions]
        scores = {name: score.corpus for name, score in coco_scores(words, truths).items()}
        shown = ", ".join(f"{name} {scores[name]:.3f}" for name in ("BLEU-4", "ROUGE-L", "CIDEr"))
        print(f"{who}: {shown}, {exact_match(words, truths):.1%} word for word")
    cells = []
    for i in range(0, len(written), len(written) // 18):
        name = data["test_names"][i].lower()
        near = emoji.base_name(written[i]) == emoji.base_name(name)
        match: Match = "right" if written[i] == name else "near" if near else "wrong"
        cells.append(Cell(emoji.thumbnail("test", i), written[i], name, match))
    legend: dict[Match, str] = {"right": "right", "near": "right base name, wrong variant", "wrong": "wrong"}
    right = exact_match([tokenize(caption) for caption in written], truths)
    title = f"LSTM, beam of 5: {right:.1%} of {len(written)} held-out variants right"
    draw_contact_sheet(out / "captions.png", cells[:18], title=title, legend=legend)


def save_and_load(model: capgpu.CaptioningRNN, data: dict[str, Any], out: Path) -> None:
    """Save the model, load it, and check that its captions are the same."""
    heading(7, "Saved and loaded")
    file = save_model(out / "model.safetensors", model)
    again = load_model(file)
    features = capgpu.asarray(data["test_features"])
    same = texts(model.sample(features), data) == texts(again.sample(features), data)
    print(f"{file.name}: {file.stat().st_size / 2**20:.1f} MiB, and the loaded model's captions are", end=" ")
    print("the same." if same else "DIFFERENT.")
    if not same:
        raise SystemExit(1)


def new_model(data: dict[str, Any], hidden: int, dropout: float = 0.0) -> capgpu.CaptioningRNN:
    return capgpu.CaptioningRNN(
        data["word_to_idx"],
        input_dim=split_arrays(data, "train")[1].shape[1],
        wordvec_dim=hidden,
        hidden_dim=hidden,
        cell_type="lstm",
        seed=0,
        feature_dropout=dropout,
        output_dropout=dropout,
    )


def texts(ids: Any, data: dict[str, Any]) -> list[str]:
    return list(caption_text(capgpu.to_numpy(ids), data["idx_to_word"]))


def alternatives(result: DecodeResult, data: dict[str, Any]) -> list[tuple[str, float]]:
    """Return the captions of a single picture, best first, with their probabilities."""
    log_probs = capgpu.to_numpy(result.log_probs)[0].sum(axis=-1)
    return list(zip(texts(result.ids[0], data), np.exp(log_probs).tolist(), strict=True))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("tour"), help="folder for pictures and model")
    parser.add_argument("--epochs", type=int, default=30, help="of the captioner")
    parser.add_argument("--overfit-epochs", type=int, default=100, help="of the 50 captions")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    data = emoji.load()
    a_layer_and_its_gradient()
    packed_sequences()
    overfit_fifty_captions(data, arguments.overfit_epochs, arguments.out)
    model = train_a_captioner(data, arguments.epochs, arguments.out)
    write_captions(model, data)
    evaluate(model, data, arguments.out)
    save_and_load(model, data, arguments.out)
    print(f"\nPictures: {', '.join(sorted(path.name for path in arguments.out.glob('*.png')))} in {arguments.out}")


if __name__ == "__main__":
    main()
