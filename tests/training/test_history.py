"""The record of a run: nothing written is lost, and a line cut short harms no other."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from capgpu.training.history import HistoryWriter, read_history, rewind_history


@pytest.fixture
def path(tmp_path: Path) -> Path:
    writer = HistoryWriter(tmp_path / "run" / "history.jsonl")
    writer.write("step", step=1, loss=2.5)
    writer.write("epoch", step=1, epoch=1, metric={"bleu": np.float32(0.5)}, note="été")
    writer.close()
    return tmp_path / "run" / "history.jsonl"


LINES = [
    {"kind": "step", "step": 1, "loss": 2.5},
    {"kind": "epoch", "step": 1, "epoch": 1, "metric.bleu": 0.5, "note": "été"},
]


def test_lines_come_back_in_order(path: Path) -> None:
    assert read_history(path) == LINES


def test_a_line_is_there_as_soon_as_it_is_written(tmp_path: Path) -> None:
    writer = HistoryWriter(tmp_path / "h")
    writer.write("step", step=1)
    assert read_history(tmp_path / "h") == [{"kind": "step", "step": 1}]
    writer.close()


def test_a_later_run_appends(path: Path) -> None:
    writer = HistoryWriter(path)
    writer.write("end", reason="finished")
    writer.close()
    assert read_history(path) == [*LINES, {"kind": "end", "reason": "finished"}]


@pytest.mark.parametrize("cut", [1, 5, 30])
def test_a_last_line_cut_short_is_left_out_and_then_overwritten(path: Path, cut: int) -> None:
    path.write_bytes(path.read_bytes()[: -1 - cut])
    assert read_history(path) == LINES[:1]
    writer = HistoryWriter(path)
    writer.write("end")
    writer.close()
    assert read_history(path) == [LINES[0], {"kind": "end"}]


def test_a_last_line_that_lacks_only_its_line_break_counts(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])
    assert read_history(path) == LINES
    writer = HistoryWriter(path)
    writer.write("end")
    writer.close()
    assert read_history(path) == [*LINES, {"kind": "end"}]


def test_a_damaged_line_elsewhere_is_named(path: Path) -> None:
    path.write_text("{oops\n" + path.read_text())
    with pytest.raises(ValueError, match=r"history\.jsonl: line 1: expected a JSON object"):
        read_history(path)


def test_numbers_json_lacks_become_null(tmp_path: Path) -> None:
    writer = HistoryWriter(tmp_path / "h")
    writer.write("epoch", metric=[np.float64("nan"), float("inf")], done=True)
    writer.close()
    assert json.loads((tmp_path / "h").read_text()) == {"kind": "epoch", "metric": [None, None], "done": True}


def test_a_resumed_run_drops_what_it_will_write_again(tmp_path: Path) -> None:
    path = tmp_path / "h"
    writer = HistoryWriter(path)
    for epoch in (1, 2, 3):
        writer.write("step", step=2 * epoch - 1, epoch=epoch)
        writer.write("epoch", step=2 * epoch, epoch=epoch)
    writer.close()
    with path.open("a") as file:
        file.write('{"kind": "st')
    rewind_history(path, step=4, epoch=1)  # two epochs' updates are made, the second one is not yet scored
    assert [(line["kind"], line["step"]) for line in read_history(path)] == [
        ("step", 1),
        ("epoch", 2),
        ("step", 3),
    ]
    assert path.read_text().endswith("\n")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs Linux")
def test_a_full_disk_is_named_also_when_the_file_is_closed(tmp_path: Path) -> None:
    writer = HistoryWriter(tmp_path / "history.jsonl")
    writer._file.close()
    writer._file = open("/dev/full", "a")  # noqa: SIM115 # the writer closes it
    for call in (lambda: writer.write("step", step=1), writer.close):
        with pytest.raises(OSError, match="No space left") as error:
            call()
        assert error.value.filename == "/dev/full"


def test_there_need_be_nothing_to_rewind(tmp_path: Path) -> None:
    rewind_history(tmp_path / "h", 0, 0)
    assert not (tmp_path / "h").exists()
