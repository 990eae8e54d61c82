"""What TensorBoard is given, read again from its files."""

from __future__ import annotations

import struct
import sys
from pathlib import Path
from typing import Any

import pytest
from tiny_captioner import TinyCaptioner, dataset

import capgpu
from capgpu.optional_deps import MissingExtraError
from capgpu.solver import CaptioningSolver
from capgpu.training.tensorboard import TensorBoardLogger


def test_a_missing_package_is_refused_with_the_install_command(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    with pytest.raises(MissingExtraError, match=r"needs the package tensorboardX.*pip install 'tensorboardX"):
        TensorBoardLogger(tmp_path)


def events(folder: Path) -> list[tuple[str, int, float]]:
    """Read the scalars of event files: records of a length, its checksum, the event, and its checksum."""
    event_pb2: Any = pytest.importorskip("tensorboardX.proto.event_pb2")
    found = []
    for path in sorted(folder.iterdir()):
        content, at = path.read_bytes(), 0
        while at < len(content):
            (length,) = struct.unpack_from("<Q", content, at)
            event = event_pb2.Event.FromString(content[at + 12 : at + 12 + length])
            found += [(value.tag, event.step, value.simple_value) for value in event.summary.value]
            at += 16 + length
    return found


def test_losses_rates_and_metrics_are_written(tmp_path: Path) -> None:
    pytest.importorskip("tensorboardX")
    capgpu.set_backend("numpy")
    logger, records = TensorBoardLogger(tmp_path / "tb", every=3), []
    trainer = CaptioningSolver(
        TinyCaptioner(),
        dataset(),
        "adam",
        batch_size=5,
        num_epochs=2,
        verbose=False,
        seed=7,
        metric=lambda model, data: {"CIDEr": 0.5},
        callbacks=[logger.epoch, lambda _, record: records.append(record)],
        step_callbacks=[logger.step],
    )
    trainer.train()
    logger.close()
    found = events(tmp_path / "tb")
    assert [step for tag, step, _ in found if tag == "loss/train"] == [1, 3, 6]
    assert [step for tag, step, _ in found if tag == "learning_rate"] == [1, 3, 6]
    wanted = {"loss/val": trainer.val_loss_history, "metric/CIDEr": [0.5, 0.5]}
    wanted["loss/train_epoch"] = [record["train_loss"] for record in records]
    for name, values in wanted.items():
        assert [value for tag, _, value in found if tag == name] == pytest.approx(values)
