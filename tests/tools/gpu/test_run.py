"""A run of stages that need no GPU: order, limits, budget, output, and early ends."""

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


def stage(name: str, code: str, expected: float = 1, limit: float = 30) -> Stage:
    return Stage(name, "A", expected, limit, 3, lambda context: [sys.executable, "-c", code], kernels=False)


@pytest.fixture
def run_stages(tmp_path: Path) -> Any:
    """Run stages; gives the exit status and the lines of the summary."""
    context = Context(tmp_path, tmp_path)
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}

    def make(*stages: Stage, budget: float = float("inf")) -> tuple[int, list[str]]:
        status = run.run_stages(stages, context, environment, budget)
        return status, (tmp_path / run.SUMMARY).read_text(encoding="utf-8").splitlines()

    return make


def test_a_stage_that_fails_does_not_stop_the_others(run_stages, tmp_path, capsys):
    status, lines = run_stages(
        stage("one", "print('a'); print('b'); raise SystemExit(3)"), stage("two", "print(*range(9), sep='\\n')")
    )
    assert status == 1
    assert [re.sub(r"\d+ s", "S", line) for line in lines] == ["=== one: exit 3, S", "=== two: exit 0, S"]
    log = (tmp_path / run.LOG).read_text(encoding="utf-8")
    assert log.index("=== one: ") < log.index("\na\nb\n=== one: exit 3") < log.index("=== two: ")
    printed = capsys.readouterr().out
    assert "\n6\n7\n8\n" in printed
    assert "\n5\n" not in printed  # three lines of the output are shown


def test_the_status_is_0_if_all_stages_pass(run_stages):
    assert run_stages(stage("one", "pass"), stage("two", "pass"))[0] == 0


def test_a_hanging_stage_is_killed_at_its_limit_and_the_next_runs(run_stages):
    status, lines = run_stages(
        stage("hangs", "import time; time.sleep(600)", limit=0.5), stage("next", "print('reached')")
    )
    assert status == 1
    assert lines[0].startswith("=== hangs: exit 124, killed at its limit")
    assert lines[1].startswith("=== next: exit 0")


def test_without_a_device_the_remaining_stages_are_skipped(run_stages):
    status, lines = run_stages(stage("env", f"raise SystemExit({NO_DEVICE})"), stage("next", "print('reached')"))
    assert status == NO_DEVICE
    assert lines[1] == "=== next: left out, there is no device"


@pytest.mark.parametrize("code", [1, 9])
def test_other_failures_of_env_do_not_stop_the_run(run_stages, code):
    status, lines = run_stages(stage("env", f"raise SystemExit({code})"), stage("next", "pass"))
    assert status == 1
    assert lines[1].startswith("=== next: exit 0")


def test_the_budget_limits_a_stage_and_skips_those_that_do_not_fit(run_stages):
    start = time.monotonic()
    status, lines = run_stages(
        stage("long", "import time; time.sleep(600)", expected=1, limit=60),
        stage("larger", "pass", expected=60),
        stage("small", "pass", expected=0),
        budget=1.5,
    )
    assert status == 1
    assert time.monotonic() - start < 15
    assert lines[0].startswith("=== long: exit 124, killed at its limit")
    assert lines[1].startswith("=== larger: left out, 0 s of the budget remain and it takes about 60 s")


def test_a_stage_is_in_the_summary_before_the_next_begins(run_stages, tmp_path):
    code = f"print(open({str(tmp_path / run.SUMMARY)!r}).read())"
    _, lines = run_stages(stage("one", "pass"), stage("two", code))
    assert f"{lines[0]}\n" in (tmp_path / run.LOG).read_text(encoding="utf-8").partition("=== two")[2]


# --- which stages -----------------------------------------------------------------------------------


def test_stages_are_selected_by_name_or_part_in_their_order():
    assert [s.name for s in choose(["times", "env"])] == ["env", "times"]
    assert [s.name for s in choose(["A"])] == ["env", "info", "compile", "kernels", "times", "contract"]
    assert choose([]) == list(STAGES)
    with pytest.raises(ValueError, match=r"expected names among env, .*got 'enf'"):
        choose(["enf"])


def test_each_part_takes_at_most_eight_minutes():
    for part in "AB":
        stages = choose([part])
        assert sum(stage.expected for stage in stages) <= 480
        assert all(stage.expected < stage.limit for stage in stages)


def test_results_are_at_most_eight_files_without_folders():
    files = [run.LOG, run.SUMMARY, *(file for stage in STAGES for file in stage.files)]
    assert len(files) == len(set(files)) <= 8
    assert not any("/" in file for file in files)


def test_compile_runs_before_the_first_launching_stage_if_the_cache_is_empty(tmp_path):
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


def test_every_command_names_existing_modules_and_folders(tmp_path):
    context = Context(tmp_path / "out", tmp_path / "scratch")
    commands = {stage.name: stage.command(context) for stage in STAGES}
    for name, command in commands.items():
        for module in (command[index + 1] for index, argument in enumerate(command[:-1]) if argument == "-m"):
            if module.startswith(("tools.", "bench.")):
                assert (ROOT / f"{module.replace('.', '/')}.py").exists(), name
        for argument in command:
            path = argument.removeprefix("--ignore=")
            assert not path.startswith("tests/") or (ROOT / path).is_dir(), argument
    for tool in ("memcheck", "racecheck", "synccheck"):
        assert f"--tool={tool}" in commands[tool]
        assert "--error-exitcode=9" in commands[tool]
    # CuPy's failed attribute queries are not errors
    assert "--report-api-errors=no" in commands["memcheck"]
    assert all(command[0] == sys.executable for name, command in commands.items() if name in ("kernels", "times"))


def test_pytest_loads_the_installed_plugins_and_selects_gpu_tests(tmp_path, monkeypatch):
    from tools.gpu import stages

    kernels = next(stage for stage in STAGES if stage.name == "kernels")
    monkeypatch.setattr(stages, "plugins", lambda: ["pytest_timeout", "xdist.plugin"])
    command = kernels.command(Context(tmp_path, tmp_path))
    assert [command[index + 1] for index, argument in enumerate(command) if argument == "-p"] == [
        *("pytest_timeout", "xdist.plugin", "no:cacheprovider")
    ]
    assert command[command.index("gpu") - 1] == "-m"
    assert "--timeout=60" in command
    monkeypatch.setattr(stages, "plugins", list)
    command = kernels.command(Context(tmp_path, tmp_path))
    assert "-n" not in command
    assert "--timeout=60" not in command


@pytest.mark.nightly(unless=lambda p: p.name == "kernels")
@pytest.mark.parametrize(("name", "min_collected"), [("kernels", 900), ("contract", 1000)])
def test_the_pytest_commands_collect_the_gpu_tests(tmp_path, name, min_collected):
    """As on a GPU machine, but with the stand-in: no automatic plugins, and the checkout on PYTHONPATH."""
    command = next(stage for stage in STAGES if stage.name == name).command(Context(tmp_path, tmp_path))
    if "-n" in command:
        command[command.index("-n") + 1] = "0"
    command += ["-p", "tests.standin_as_device", "--collect-only"]
    environment = machine_setup.environment(tmp_path)
    pytest_run = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    if "standin_as_device: " in pytest_run.stderr:
        pytest.skip(pytest_run.stderr)  # no compiler for the host
    assert pytest_run.returncode == 0, pytest_run.stdout + pytest_run.stderr
    assert int(re.findall(r"(\d+)(?:/\d+)? tests collected", pytest_run.stdout)[-1]) > min_collected


# --- the command ------------------------------------------------------------------------------------


def command(tmp_path: Path, *arguments: str) -> list[str]:
    scratch = ["--scratch", str(tmp_path / "scratch"), "--out", str(tmp_path / "out")]
    return [sys.executable, "-m", "tools.gpu.run", *scratch, *arguments]


def test_a_run_without_a_device_reports_the_cause_and_skips_the_rest(tmp_path):
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    gpu_run = subprocess.run(
        command(tmp_path, "--wheels", str(tmp_path)),
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert gpu_run.returncode == NO_DEVICE, gpu_run.stdout + gpu_run.stderr
    assert "no device to run on. backend 'cuda'" in gpu_run.stdout
    lines = (tmp_path / "out" / run.SUMMARY).read_text(encoding="utf-8").splitlines()
    assert lines[1].startswith(f"=== env: exit {NO_DEVICE}")
    assert lines[-1] == "=== bench: left out, there is no device"
    assert "import numba: " in (tmp_path / "out" / run.LOG).read_text(encoding="utf-8")


def test_unknown_stages_are_refused(tmp_path, capsys):
    with pytest.raises(SystemExit, match="2"):
        run.main(["--stages", "enf"])
    assert "got 'enf'" in capsys.readouterr().err


def test_terminating_a_run_ends_its_stage(tmp_path):
    program = (
        "import sys, os; from tools.gpu import run\n"
        "from tools.gpu.stages import Stage\n"
        "code = 'import os, time; print(os.getpid()); time.sleep(600)'\n"
        "slow = Stage('slow', 'A', 1, 600, 1, lambda context: [sys.executable, '-c', code], kernels=False)\n"
        "run.choose = lambda names: [slow]\n"
        "sys.exit(run.main(sys.argv[1:]))\n"
    )
    run_command = [sys.executable, "-c", program, *command(tmp_path)[3:], "--wheels", str(tmp_path)]
    process = subprocess.Popen(run_command, cwd=ROOT, stdout=subprocess.DEVNULL)
    log = tmp_path / "out" / run.LOG
    pid = None
    for _ in range(600):
        match = re.search(r"^(\d+)$", log.read_text(encoding="utf-8"), flags=re.M) if log.exists() else None
        if match:
            pid = int(match[1])
            break
        time.sleep(0.05)
    assert pid is not None
    process.send_signal(signal.SIGTERM)
    assert process.wait(20) == 128 + signal.SIGTERM
    assert any(not Path(f"/proc/{pid}").exists() or time.sleep(0.05) for _ in range(100))
