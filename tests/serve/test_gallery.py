"""The gallery and the loss curve: what they show of a run, also while it is trained."""

from __future__ import annotations

import io
import json
import shutil
import time
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import capgpu
from capgpu.training.run_folder import RunFolder
from oracles.http import serving
from oracles.squares import picture_file

pytest.importorskip("uvicorn")


def gallery(client: Any, query: str = "") -> Any:
    for _ in range(200):
        page = client.get(f"/api/gallery?{query}").json()
        if page["state"] == "ready":
            return page
        time.sleep(0.02)
    raise AssertionError("the gallery is never ready")


def test_the_captions_are_those_of_the_library_beside_the_references(client: Any, squares: Path) -> None:
    from capgpu.data.datasets import open_dataset

    page = gallery(client, "order=index")
    run = RunFolder(squares)
    dataset = open_dataset(run.settings()["data"])
    expected = [caption.text for caption in capgpu.load(squares).caption(dataset.features("test"))]
    assert [item["index"] for item in page["items"]] == list(range(8))
    assert [item["caption"] for item in page["items"]] == expected
    assert [item["references"] for item in page["items"]] == dataset.truths("test")
    for item in page["items"]:
        assert (item["match"] == "right") == (item["caption"] in item["references"])


def test_the_worst_or_the_best_come_first(client: Any) -> None:
    worst = [item["score"] for item in gallery(client)["items"]]
    assert worst == sorted(worst)
    assert worst[0] < worst[-1] == 1
    assert [item["score"] for item in gallery(client, "order=best")["items"]] == sorted(worst, reverse=True)


def test_words_are_searched_in_captions_and_references(client: Any) -> None:
    found = gallery(client, "query=NO%20thing")
    assert found["found"] == 1
    assert "no such thing" in found["items"][0]["references"][0]
    assert gallery(client, "query=red")["found"] == 2
    assert gallery(client, "query=zebra") | {"counts": {}} == gallery(client, "query=zebra")
    everything = gallery(client)
    wrong = gallery(client, "match=wrong")
    assert wrong["counts"] == everything["counts"]
    assert {item["match"] for item in wrong["items"]} == {"wrong"}
    assert wrong["found"] == everything["counts"]["wrong"]


def test_pages_follow_each_other(client: Any) -> None:
    parts = [gallery(client, f"limit=3&offset={offset}")["items"] for offset in (0, 3, 6)]
    assert [item["index"] for part in parts for item in part] == [item["index"] for item in gallery(client)["items"]]


def test_pictures_are_sent_small(client: Any) -> None:
    item = gallery(client, "order=index")["items"][3]
    answer = client.get(item["picture"])
    assert answer.headers["content-type"] == "image/png"
    assert Image.open(io.BytesIO(answer.content)).size == (320, 320)


def test_a_run_in_training_is_shown_and_captions_as_soon_as_it_has_a_model(training: Path, squares: Path) -> None:
    from capgpu.serve.app import create_app
    from capgpu.serve.service import Service

    service = Service(RunFolder(training))
    with serving(create_app(service)) as client:

        def send() -> Any:
            return client.post("/api/captions", picture_file("red"), {"Content-Type": "image/png"})

        assert client.get("/api/curve").json()["state"] == "waiting"
        assert client.get("/api/run").json()["model"] is None
        refused = send()
        assert (refused.status, refused.headers["retry-after"]) == (503, "10")
        assert "when training has finished" in refused.json()["detail"]
        shutil.copy(squares / "model.safetensors", training)
        for _ in range(200):
            if client.get("/api/run").json()["model_missing"] is None:
                break
            time.sleep(0.02)
        assert send().json()["captions"][0]["text"] == "a red square"
        (training / "model.safetensors").write_bytes(b"damaged")
        assert send().json()["captions"][0]["text"] == "a red square"  # by the model that was loaded before
    assert not service.batcher.alive  # the application has shut down


def test_a_gallery_that_failed_once_is_tried_again(squares: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from capgpu.data.datasets import open_dataset
    from capgpu.serve.batching import Batcher
    from capgpu.serve.captioner import Captioner
    from capgpu.serve.gallery import GalleryPages

    run = RunFolder(squares)
    captioner = Captioner(run)
    captioner.refresh()

    batcher: Batcher[Any, Any] = Batcher(lambda key, items: items)
    pages = GalleryPages(open_dataset(run.settings()["data"]), captioner, batcher.run_when_idle)

    def page() -> Any:
        while (made := pages.page("test", "index", "all", "", 0, 1))["state"] == "computing":
            time.sleep(0.01)
        return made

    with monkeypatch.context() as patched:
        patched.setattr(captioner, "caption_features", lambda features: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            page()
    assert page()["found"] == 8
    batcher.close()
    pages.close()


@pytest.mark.parametrize(
    "line",
    [
        '{"kind": "epoch", "step": 0, "epoch": 0}',
        '{"kind": "epoch", "step": 0, "epoch": 1, "seconds": 1}',
        '{"kind": "epoch", "step": 5, "epoch": 1, "train_loss": 1e999}',
        '{"kind": "epoch", "step": 5, "epoch": 1, "seconds": 1' + 400 * "0" + "}",
        '{"kind": "epoch", "step": 9223372036854775807, "epoch": 9223372036854775807, "seconds": 1e99}',
        '{"kind": "start", "steps_per_epoch": "many"}',
        '{"kind": "start", "steps_per_epoch": 0}',
        '{"kind": "start", "best_by": ["CIDEr"], "self_critical.samples": "five"}',
        '{"kind": "epoch", "step": 5, "epoch": 1, "reward": "high", "metric.CIDEr": {}}',
        '{"kind": "end", "reason": {"a": [null]}, "step": 1, "learning_rate": -1e999}',
    ],
)
def test_a_line_of_the_record_from_elsewhere_leaves_a_curve(line: str, training: Path) -> None:
    from capgpu.serve.curve import LossCurve

    run = RunFolder(training)
    run.history.write_text('{"kind": "step", "step": 1, "train_loss": 2}\n' + line + '\n{"kind": "step", "step": 2}\n')
    json.dumps(LossCurve(run).read(), allow_nan=False)


def test_the_curve_waits_while_the_folder_has_no_settings(training: Path) -> None:
    from capgpu.serve.curve import LossCurve

    curve = LossCurve(RunFolder(training))
    for settings in ('{"format": "capgpu-run-1", "settings": {"data": "emoji", "epochs": null}}', "{"):
        (training / "config.json").write_text(settings)
        assert (curve.read()["state"], curve.read()["epochs"]) == ("waiting", 0)
    (training / "config.json").unlink()
    assert (curve.read()["state"], curve.read()["epochs"]) == ("waiting", 0)


def test_the_curve_follows_the_record(training: Path, squares: Path) -> None:
    from capgpu.serve.curve import LossCurve

    lines = (squares / "history.jsonl").read_text().splitlines(keepends=True)
    curve = LossCurve(RunFolder(training))
    assert curve.read()["state"] == "waiting"
    record = training / "history.jsonl"
    half = next(i for i, line in enumerate(lines) if '"epoch": 15' in line and '"kind": "epoch"' in line)
    record.write_text("".join(lines[: half + 1]) + lines[half + 1][:20])
    part = curve.read()
    assert (part["state"], part["epoch"], part["epochs"]) == ("training", 15, 40)
    assert part["remaining"] is not None
    assert part["steps"] == 120
    with record.open("a") as file:
        file.write(lines[half + 1][20:] + "".join(lines[half + 2 :]))
    whole = curve.read()
    epochs = [json.loads(line) for line in lines if '"kind": "epoch"' in line]
    assert (whole["state"], whole["step"], whole["remaining"]) == ("finished", 120, None)
    assert [point["loss"] for point in whole["validation"]] == [epoch["val_loss"] for epoch in epochs]
    assert whole["best"]["loss"] == min(epoch["val_loss"] for epoch in epochs)
    # a minibatch's loss has the unit of the others
    first = whole["training_steps"][0]["loss"]
    assert 0.5 < first / whole["training"][0]["loss"] < 2


def test_self_critical_training_shows_rewards_and_no_losses_of_drawn_captions(
    self_critical: Path, training: Path
) -> None:
    from capgpu.serve.curve import LossCurve

    run = RunFolder(self_critical)
    begun = run.history.read_text().splitlines(keepends=True)[:2]
    assert '"epoch": 0, "step": 0' in begun[1]
    (training / "history.jsonl").write_text("".join(begun))
    assert LossCurve(RunFolder(training)).read()["remaining"] is None  # no epoch has been timed
    document = LossCurve(run).read()
    assert (document["training"], document["training_steps"]) == ([], [])
    assert [point["epoch"] for point in document["validation"]] == [0, 1, 2]  # the start, by which epochs are judged
    records = [json.loads(line) for line in run.history.read_text().splitlines()]
    epochs = [record for record in records if record["kind"] == "epoch"]
    assert [(point["epoch"], point["reward"]) for point in document["rewards"]] == [
        (record["epoch"], record["reward"]) for record in epochs[1:]
    ]
    assert document["reward_steps"][0]["epoch"] == pytest.approx(1 / 3)  # of 24 pictures
    best = max(epochs, key=lambda record: record["metric.CIDEr"])
    assert document["best_score"] == {"epoch": best["epoch"], "name": "CIDEr", "score": best["metric.CIDEr"]}


def test_a_run_that_starts_over_is_read_from_its_start(training: Path, squares: Path) -> None:
    from capgpu.serve.curve import LossCurve

    record = training / "history.jsonl"
    shutil.copy(squares / "history.jsonl", record)
    curve = LossCurve(RunFolder(training))
    assert curve.read()["epoch"] == 40
    record.unlink()
    assert curve.read()["state"] == "waiting"
    record.write_text('{"kind": "start"}\n{"kind": "end", "reason": "NonFiniteError: loss"}\n')
    failed = curve.read()
    assert (failed["state"], failed["reason"], failed["epoch"]) == ("failed", "NonFiniteError: loss", 0)


@pytest.mark.parametrize(
    ("data", "cause"), [("gone", "existing folder"), ("emoji", "the vocabulary of the data set emoji")]
)
def test_a_run_whose_data_have_gone_or_changed_captions_all_the_same(
    data: str, cause: str, squares: Path, tmp_path: Path
) -> None:
    from capgpu.serve.problems import RequestError
    from capgpu.serve.service import Service

    folder = tmp_path / "run"
    shutil.copytree(squares, folder)
    config = json.loads((folder / "config.json").read_text())
    config["settings"]["data"] = data
    (folder / "config.json").write_text(json.dumps(config))
    service = Service(RunFolder(folder))
    try:
        document = service.describe()
        assert document["model_missing"] is None
        assert "cannot be opened" in str(document["splits_missing"])
        assert cause in str(document["splits_missing"])
        with pytest.raises(RequestError, match="cannot be opened"):
            service.gallery.splits()
    finally:
        service.close()
