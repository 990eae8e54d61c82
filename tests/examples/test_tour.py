"""The tour runs from end to end, says what it promises, and draws its pictures."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

TOUR = Path(__file__).parents[2] / "examples" / "tour.py"


def test_the_tour_can_be_taken(tmp_path):
    from PIL import Image

    command = [sys.executable, TOUR, "--out", tmp_path / "tour", "--epochs", "2", "--overfit-epochs", "60"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=800)
    assert done.returncode == 0, done.stderr
    for number in range(1, 8):
        assert f"\n{number}. " in done.stdout
    learnt = int(done.stdout.split("The model writes ")[1].split(" of 50")[0])
    assert learnt >= 45
    assert "captions are the same" in done.stdout
    pictures = {path.name for path in (tmp_path / "tour").glob("*.png")}
    assert pictures == {"overfitting.png", "training.png", "captions.png"}
    for name in pictures:
        with Image.open(tmp_path / "tour" / name) as picture:
            assert len(picture.convert("L").getcolors(256)) > 50, f"{name} is blank"
