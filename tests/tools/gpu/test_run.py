"""The whole run, with stages that need no GPU: order, limits, budget, what is written, and when it ends early."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tools.gpu import machine_setup, run
from tools.gpu.stages import NO_DEVICE, STAGES, Context, Stage, choose

ROOT = Path(run.__file__).resolve().parents[2]


def stage(name: str, code: str, expected: float = 1, limit: float = 30, kernels: bool = False) -> Stage:
    return Stage(name, "A", expected, limit, 3, lambda context: [sys.executable, "-c", code], kernels=kernels)


@pytest.fixture
def made(tmp_path: Path) -> Any:
    """Run stages; gives the exit status and the lines of the summary."""
    context = Context(tmp_path, tmp_path)
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}

    def make(*stages: Stage, budget: float = float("inf")) -> tuple[int, list[str]]:
        status = run.run_stages(stages, context, environment, budget)
        return status, (tmp_path / run.SUMMARY).read_text(encoding="utf-8").splitlines()

    return make


def test_a_stage_that_fails_does_not_stop_the_others(made, tmp_path, capsys):
    status, lines = made(
        stage("one", "print('a'); print('b'); raise SystemExit(3)"), stage("two", "print(*range(9), sep='\\n')")
    )
    assert status == 1
    assert [re.sub(r"\d+ s", "S", line) for line in lines] == ["=== one: exit 3, S", "=== two: exit 0, S"]
    log = (tmp_path / run.LOG).read_text(encoding="utf-8")
    assert log.index("=== one: ") < log.index("\na\nb\n=== one: exit 3") < log.index("=== two: ")
    shown = capsys.readouterr().out
    assert "\n6\n7\n8\n" in shown
    assert "\n5\n" not in shown  # three lines of the output are shown


def test_all_passed_is_status_0(made):
    assert made(stage("one", "pass"), stage("two", "pass"))[0] == 0


def test_a_stage_that_hangs_costs_its_limit_alone(made):
    status, lines = made(stage("hangs", "import time; time.sleep(600)", limit=0.5), stage("next", "print('reached')"))
    assert status == 1
    assert lines[0].startswith("=== hangs: exit 124, killed at its limit")
    assert lines[1].startswith("=== next: exit 0")


def test_without_a_device_nothing_else_is_run(made):
    status, lines = made(stage("env", f"raise SystemExit({NO_DEVICE})"), stage("next", "print('reached')"))
    assert status == NO_DEVICE
    assert lines[1] == "=== next: left out, there is no device"


@pytest.mark.parametrize("code", [1, 9])
def test_another_failure_of_the_first_stage_stops_nothing(made, code):
    status, lines = made(stage("env", f"raise SystemExit({code})"), stage("next", "pass"))
    assert status == 1
    assert lines[1].startswith("=== next: exit 0")


def test_the_budget_cuts_a_stage_short_and_leaves_out_what_does_not_fit(made):
    began = time.monotonic()
    status, lines = made(
        stage("long", "import time; time.sleep(600)", expected=1, limit=60),
        stage("larger", "pass", expected=60),
        stage("small", "pass", expected=0),
        budget=1.5,
    )
    assert status == 1
    assert time.monotonic() - began < 15
    assert lines[0].startswith("=== long: exit 124, killed at its limit")
    assert lines[1].startswith("=== larger: left out, 0 s of the budget remain and it takes about 60 s")


def test_the_summary_holds_each_stage_as_soon_as_it_has_ended(made, tmp_path):
    code = f"print(open({str(tmp_path / run.SUMMARY)!r}).read())"
    _, lines = made(stage("one", "pass"), stage("two", code))
    assert f"{lines[0]}\n" in (tmp_path / run.LOG).read_text(encoding="utf-8").partition("=== two")[2]


# --- which stages -----------------------------------------------------------------------------------


def test_stages_are_chosen_by_name_or_part_and_keep_their_order():
    assert [s.name for s in choose(["times", "env"])] == ["env", "times"]
    assert [s.name for s in choose(["A"])] == ["env", "info", "compile", "kernels", "times", "contract"]
    assert choose([]) == list(STAGES)
    with pytest.raises(ValueError, match=r"expected names among env, .*got 'enf'"):
        choose(["enf"])


def test_each_part_fits_the_time_that_a_command_may_take():
    for part in "AB":
        stages = choose([part])
        assert sum(stage.expected for stage in stages) <= 480
        assert all(stage.expected < stage.limit for stage in stages)


def test_few_files_come_back_none_in_a_folder():
    files = [run.LOG, run.SUMMARY, *(file for stage in STAGES for file in stage.files)]
    assert len(files) == len(set(files)) <= 8
    assert not any("/" in file for file in files)


def test_kernels_are_compiled_before_they_are_launched_where_nothing_is_cached(tmp_path):
    cache = tmp_path / "kernels"
    sanitizers = choose(["memcheck", "bench"])
    assert [s.name for s in run._with_compile_stage(sanitizers, cache)] == ["compile", "memcheck", "bench"]
    assert [s.name for s in run._with_compile_stage(choose(["env", "memcheck"]), cache)] == [
        "env",
        "compile",
        "memcheck",
    ]
    assert run._with_compile_stage(choose(["env", "info"]), cache) == choose(["env", "info"])
    assert run._with_compile_stage(choose(["A"]), cache) == choose(["A"])
    cache.mkdir()
    (cache / "a.cubin").touch()
    assert run._with_compile_stage(sanitizers, cache) == sanitizers


def test_every_command_names_what_is_there(tmp_path):
    context = Context(tmp_path / "out", tmp_path / "scratch")
    commands = {stage.name: stage.command(context) for stage in STAGES}
    for name, words in commands.items():
        for module in (words[place + 1] for place, word in enumerate(words[:-1]) if word == "-m"):
            if module.startswith(("tools.", "bench.")):
                assert (ROOT / f"{module.replace('.', '/')}.py").exists(), name
        for word in words:
            path = word.removeprefix("--ignore=")
            assert not path.startswith("tests/") or (ROOT / path).is_dir(), word
    for tool in ("memcheck", "racecheck", "synccheck"):
        assert f"--tool={tool}" in commands[tool]
        assert "--error-exitcode=9" in commands[tool]
    # CuPy's own failed queries are no findings
    assert "--report-api-errors=no" in commands["memcheck"]
    assert all(words[0] == sys.executable for name, words in commands.items() if name in ("kernels", "times"))


def test_pytest_gets_the_plugins_that_are_there_and_marked_tests_only(tmp_path, monkeypatch):
    from tools.gpu import stages

    kernels = next(stage for stage in STAGES if stage.name == "kernels")
    monkeypatch.setattr(stages, "plugins", lambda: ["pytest_timeout", "xdist.plugin"])
    words = kernels.command(Context(tmp_path, tmp_path))
    assert [words[k + 1] for k, word in enumerate(words) if word == "-p"] == [
        *("pytest_timeout", "xdist.plugin", "no:cacheprovider")
    ]
    assert words[words.index("gpu") - 1] == "-m"
    assert "--timeout=60" in words
    monkeypatch.setattr(stages, "plugins", list)
    words = kernels.command(Context(tmp_path, tmp_path))
    assert "-n" not in words
    assert "--timeout=60" not in words


@pytest.mark.nightly(unless=lambda p: p.name == "kernels")
@pytest.mark.parametrize(("name", "least"), [("kernels", 900), ("contract", 1000)])
def test_the_commands_of_pytest_collect_the_tests_of_a_device(tmp_path, name, least):
    """As on the machine, the stand-in in the device's place: no plugin loads itself, the checkout is on the path."""
    words = next(stage for stage in STAGES if stage.name == name).command(Context(tmp_path, tmp_path))
    if "-n" in words:
        words[words.index("-n") + 1] = "0"
    words += ["-p", "tests.standin_as_device", "--collect-only"]
    environment = machine_setup.environment(tmp_path)
    done = subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    if "standin_as_device: " in done.stderr:
        pytest.skip(done.stderr)  # no compiler for the host
    assert done.returncode == 0, done.stdout + done.stderr
    assert int(re.findall(r"(\d+)(?:/\d+)? tests collected", done.stdout)[-1]) > least


# --- the command ------------------------------------------------------------------------------------


def command(tmp_path: Path, *arguments: str) -> list[str]:
    scratch = ["--scratch", str(tmp_path / "scratch"), "--out", str(tmp_path / "out")]
    return [sys.executable, "-m", "tools.gpu.run", *scratch, *arguments]


def test_a_machine_without_a_device_is_told_so(tmp_path):
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        command(tmp_path, "--wheels", str(tmp_path)),
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == NO_DEVICE, done.stdout + done.stderr
    assert "no device to run on. backend 'cuda'" in done.stdout
    lines = (tmp_path / "out" / run.SUMMARY).read_text(encoding="utf-8").splitlines()
    assert lines[1].startswith(f"=== env: exit {NO_DEVICE}")
    assert lines[-1] == "=== bench: left out, there is no device"
    assert "import numba: " in (tmp_path / "out" / run.LOG).read_text(encoding="utf-8")


def test_unknown_stages_are_refused(tmp_path, capsys):
    with pytest.raises(SystemExit, match="2"):
        run.main(["--stages", "enf"])
    assert "got 'enf'" in capsys.readouterr().err


def test_a_run_that_is_terminated_ends_its_stage(tmp_path):
    program = (
        "import sys, os; from tools.gpu import run\n"
        "from tools.gpu.stages import Stage\n"
        "code = 'import os, time; print(os.getpid()); time.sleep(600)'\n"
        "slow = Stage('slow', 'A', 1, 600, 1, lambda context: [sys.executable, '-c', code], kernels=False)\n"
        "run.choose = lambda names: [slow]\n"
        "sys.exit(run.main(sys.argv[1:]))\n"
    )
    words = [sys.executable, "-c", program, *command(tmp_path)[3:], "--wheels", str(tmp_path)]
    process = subprocess.Popen(words, cwd=ROOT, stdout=subprocess.DEVNULL)
    log = tmp_path / "out" / run.LOG
    pid = None
    for _ in range(600):
        found = re.search(r"^(\d+)$", log.read_text(encoding="utf-8"), flags=re.M) if log.exists() else None
        if found:
            pid = int(found[1])
            break
        time.sleep(0.05)
    assert pid is not None
    process.send_signal(signal.SIGTERM)
    assert process.wait(20) == 128 + signal.SIGTERM
    assert any(not Path(f"/proc/{pid}").exists() or time.sleep(0.05) for _ in range(100))
