"""A stage ends at its limit together with its child processes, and its log is complete at any time."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from pathlib import Path

import pytest

from tools.gpu import process

ENVIRONMENT = {**os.environ, "PYTHONUNBUFFERED": "1", "PYTHONFAULTHANDLER": "1"}


def run(tmp_path: Path, code: str, limit: float = 60, grace: float = 5.0) -> tuple[process.Finished, str]:
    log = tmp_path / "log"
    finished = process.run([sys.executable, "-c", code], ENVIRONMENT, log, limit, tmp_path, grace)
    return finished, log.read_text(encoding="utf-8")


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    # a zombie, which has ended but was not waited for, is not alive
    return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"


def ends_soon(pid: int) -> bool:
    return any(not alive(pid) or time.sleep(0.05) for _ in range(100))


@pytest.mark.parametrize("code", [0, 3])
def test_exit_code_and_output_are_passed_on(tmp_path, code):
    finished, log = run(tmp_path, f"import sys; print('out'); print('err', file=sys.stderr); sys.exit({code})")
    assert finished.code == code
    assert log == "out\nerr\n"


def test_output_is_appended_and_tail_returns_that_of_the_last_command(tmp_path):
    run(tmp_path, "print('first')")
    finished, log = run(tmp_path, "print('second'); print('x' * 400); print('third')")
    assert log.startswith("first\nsecond\n")
    assert process.tail(tmp_path / "log", finished.start, 2, width=10) == ["x" * 10, "third"]
    assert process.tail(tmp_path / "log", finished.start, 9)[0] == "second"
    assert process.tail(tmp_path / "log", finished.start, 0) == []


HANGS = """
import signal, subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
print(child.pid)
def waiting_for_nothing():
    time.sleep(600)
waiting_for_nothing()
"""


def test_a_hanging_stage_is_killed_with_its_children_and_prints_its_traceback(tmp_path):
    finished, log = run(tmp_path, HANGS, limit=1)
    assert finished.code == process.TIMED_OUT
    assert finished.seconds < 6
    assert ends_soon(int(log.split()[0]))
    assert "waiting_for_nothing" in log  # Python's own traceback, on SIGABRT


def test_a_stage_that_ignores_sigabrt_is_killed_after_the_grace_period(tmp_path):
    code = "import signal, time; signal.signal(signal.SIGABRT, signal.SIG_IGN); print('deaf'); time.sleep(600)"
    finished, log = run(tmp_path, code, limit=1, grace=0.5)
    assert finished.code == process.TIMED_OUT
    assert 1.4 < finished.seconds < 6
    assert log == "deaf\n"


def test_children_that_outlive_a_stage_are_killed(tmp_path):
    code = "import subprocess, sys; print(subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)']).pid)"
    finished, log = run(tmp_path, code)
    assert finished.code == 0
    assert ends_soon(int(log))


def test_the_code_of_a_crashed_stage_is_its_signal(tmp_path):
    finished, log = run(tmp_path, "import os; os.abort()")
    assert finished.code == -signal.SIGABRT
    assert "Fatal Python error" in log


def test_the_log_grows_while_the_stage_runs(tmp_path):
    observed = []

    def watch() -> None:
        for _ in range(400):
            if (tmp_path / "log").exists() and "early" in (tmp_path / "log").read_text(encoding="utf-8"):
                observed.append("early")
                (tmp_path / "go").touch()
                return
            time.sleep(0.05)

    watcher = threading.Thread(target=watch)
    watcher.start()
    code = "import os, time\nprint('early')\nwhile not os.path.exists('go'): time.sleep(0.01)\nprint('late')"
    finished, log = run(tmp_path, code, limit=30)
    watcher.join()
    assert (observed, finished.code) == (["early"], 0)
    assert log == "early\nlate\n"


def test_a_missing_program_gives_code_127_and_a_message(tmp_path):
    finished = process.run(["no-such-program", "x"], ENVIRONMENT, tmp_path / "log", 5, tmp_path)
    assert finished.code == 127
    assert "no-such-program cannot be started" in (tmp_path / "log").read_text(encoding="utf-8")
