"""The command that times the barriers of the thread pool."""

from __future__ import annotations

import os
import re

import pytest

from bench import barriers


@pytest.mark.nightly  # compiles
@pytest.mark.skipif(os.name != "posix", reason="one thread on this system")
def test_each_number_of_threads_has_a_time_and_an_estimate(capsys: pytest.CaptureFixture[str]) -> None:
    assert barriers.main(["--threads", "2,5", "--seconds", "0.01"]) == 0
    rows = [line for line in capsys.readouterr().out.splitlines() if re.match(r"\| \d", line)]
    (two, *times), (five, *more_times) = ([float(cell) for cell in row.strip("| ").split("|")] for row in rows)
    assert (two, five) == (2, 5)
    assert 0 < times[0] <= times[1]
    assert more_times[2] == pytest.approx(3 * times[2], abs=0.05)  # rounds
