"""The display: a bar on a terminal, lines elsewhere, nothing on request."""

from __future__ import annotations

import io
import sys

import pytest

from capgpu.training.progress import make_progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_printed_lines_equal_the_courses(capsys: pytest.CaptureFixture[str]) -> None:
    progress = make_progress(True, 200)
    progress.step(1, 76.9134871, 7.69, 1000.0)
    progress.at(3)
    progress.note("(Epoch 1 / 2) done")
    progress.close()
    assert capsys.readouterr().out == "(Iteration 1 / 200) loss: 76.913487\n(Epoch 1 / 2) done\n"


def test_step_lines_also_show_the_loss_in_the_unit_of_the_epoch_lines(capsys: pytest.CaptureFixture[str]) -> None:
    make_progress(True, 200, scored=True).step(1, 76.9134871, 7.69134871, 1000.0)
    assert capsys.readouterr().out == "(Iteration 1 / 200) loss: 76.913487 per caption, 7.6913 per word\n"


def test_without_verbose_nothing_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    progress = make_progress(False, 200)
    progress.step(1, 1.0, 0.1, 1.0)
    progress.note("unheard")
    progress.close()
    assert capsys.readouterr() == ("", "")


def test_a_terminal_gets_a_bar_with_loss_speed_and_time_left(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stdout", terminal)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    progress = make_progress(True, 200, done=100)
    progress.step(150, 23.4567, 2.34567, 12345.6)
    progress.note("(Epoch 1 / 2) [val] 1.25")
    progress.at(200)
    progress.close()
    shown = terminal.getvalue()
    for part in (
        "200/200",
        "loss per word 2.3457",
        "12,346 tokens/s",
        "time left",
        "(Epoch 1 / 2) [val] 1.25",
    ):
        assert part in shown
