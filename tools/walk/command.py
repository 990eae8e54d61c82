"""Promises of the command."""

from __future__ import annotations

import functools
import json
import os
import re
import signal
import subprocess
import sys
import time
import tomllib

from PIL import Image

from tools.walk.promises import ROOT, SkippedError, User, promise

_of_the_command = functools.partial(promise, "Command")
_COMMANDS = ("prepare", "check", "train", "caption", "eval", "serve", "score", "export", "info", "warm", "tune")


@_of_the_command("Help has a starting point, whole sentences, grouped options and examples; nothing is cut short.")
def _help_texts(user: User) -> str:
    text = user.capgpu().stdout
    assert "Start here" in text
    assert all(f"\n  {name} " in text for name in _COMMANDS)
    for name in _COMMANDS:
        own = user.capgpu(name, "--help").stdout
        assert "Examples:" in own or name in ("check", "info", "warm"), name
        assert not re.search(r"[a-z ]\.\.\.$", own, re.M), name
        assert own.split("\n\n")[1].strip().endswith((".", ":")) or "." in own, name
    groups = re.findall(r"^[A-Z][\w ]+:$", user.capgpu("train", "--help").stdout, re.M)
    assert len(groups) > 4
    return f"{len(_COMMANDS)} commands; groups of train: {' '.join(groups)}"


@_of_the_command("The run folder is the first argument, or --run.")
def _run_as_an_argument(user: User) -> str:
    first = user.capgpu("eval", user.run).stdout
    assert first == user.capgpu("eval", "--run", user.run).stdout
    assert "CIDEr" in first
    return first.splitlines()[0]


@_of_the_command("A missing picture is reported before a missing package.")
def _missing_picture(user: User) -> str:
    code = (
        "import sys; sys.modules['onnxruntime'] = None\n"
        f"from capgpu.cli import main; main(['caption', {str(user.run)!r}, 'missing.jpg'])"
    )
    done = user.python(code)
    assert "missing.jpg: No such file" in done.stderr, done.stderr
    return done.stderr.strip()


@_of_the_command("A folder of pictures is captioned; a pipe gets one line for each, without padding.")
def _folders_of_pictures(user: User) -> str:
    lines = user.capgpu("caption", user.run, user.pictures).stdout.splitlines()
    assert sum("square" in line for line in lines) == 64
    assert all(line == line.rstrip() for line in lines)
    return f"{len(lines)} lines"


@_of_the_command(
    "capgpu train takes --threads, --clip-norm, --warmup, --weight-decay, --metric, and options from a file."
)
def _options_of_training(user: User) -> str:
    (user.folder / "wide.toml").write_text("hidden = 12\n[train]\nwarmup = 2\nclip-norm = 1.5\n")
    rule = ("--update-rule", "adamw", "--weight-decay", 0.01, "--metric", "CIDEr", "--threads", 1)
    user.capgpu("train", "runs/wide", "--data", user.data, "--config", "wide.toml", "--epochs", 3, *rule)
    config = json.loads((user.folder / "runs" / "wide" / "config.json").read_text())["settings"]
    stored = {name: config[name] for name in ("hidden", "warmup", "clip_norm")}
    assert stored == {"hidden": 12, "warmup": 2, "clip_norm": 1.5}, config
    return f"{stored}"


@_of_the_command(
    "A warm-up longer than the run, a count of pictures without a sheet, and a run named twice are refused."
)
def _refusals_of_options(user: User) -> str:
    seen = [
        user.error("train", "runs/never", "--data", user.data, "--epochs", 1, "--warmup", 1000),
        user.error("eval", user.run, "--sheet-count", 3),
        user.error("caption", user.run, "--run", user.run),
    ]
    assert not (user.folder / "runs" / "never").exists()
    return f"{len(seen)} refusals, such as: {seen[0][15:80]}"


@_of_the_command("The shell completes commands and options.")
def _completion(user: User) -> str:
    words = {"COMP_WORDS": "capgpu tr", "COMP_CWORD": "1", "_CAPGPU_COMPLETE": "bash_complete"}
    code = "from capgpu.__main__ import main; main()"
    done = user.python(code, **words)
    assert "plain,train" in done.stdout, done.stdout + done.stderr
    documented = [page.name for page in (ROOT / "docs").rglob("*.md") if "_CAPGPU_COMPLETE" in page.read_text()]
    documented += [page.name for page in (ROOT / "docs").glob("*.rst") if "_CAPGPU_COMPLETE" in page.read_text()]
    assert documented
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    assert scripts == {"capgpu": "capgpu.__main__:main"}
    return f"tr -> train; explained in {', '.join(documented)}"


@_of_the_command("Errors are one line that names the file and what was expected.")
def _errors_name_the_file(user: User) -> str:
    (user.folder / "broken").mkdir()
    (user.folder / "broken" / "config.json").write_text("{")
    (user.folder / "broken.npy").write_bytes(b"no array")
    seen = [user.error("eval", "broken"), user.error("caption", user.run, "missing.png")]
    assert "broken/config.json" in seen[0]
    assert "missing.png" in seen[1]
    return seen[0]


@_of_the_command("A terminal shows progress with the time that remains, also for long work other than training.")
def _remaining_time(user: User) -> str:
    try:
        import pty
    except ImportError as error:
        raise SkippedError("no terminal can be simulated") from error
    seen = []
    for arguments in (
        ("train", "runs/shown", "--data", user.data, "--epochs", 60, "--hidden", 32),
        ("caption", user.run, *[user.pictures] * 60),
    ):
        parent, child = pty.openpty()
        command = [sys.executable, "-m", "capgpu", *map(str, arguments)]
        environment = user.environment | {"TERM": "xterm", "COLUMNS": "120"}
        process = subprocess.Popen(command, cwd=user.folder, env=environment, stdout=child, stderr=child)
        os.close(child)
        shown = b""
        try:
            while block := os.read(parent, 65536):
                shown += block
        except OSError:
            pass  # Linux reports the end of a terminal so
        os.close(parent)
        assert process.wait() == 0, shown[-300:]
        text = re.sub(r"\x1b\[[\d;?]*[A-Za-z]", "", shown.decode(errors="replace"))
        times = re.findall(r"\d+:\d\d(?::\d\d)?|\d+ s left", text)
        assert times, f"{arguments[0]}: {text[-300:]}"
        seen.append(f"{arguments[0]}: {times[-1]}")
    return "; ".join(seen)


@_of_the_command("Ctrl-C ends training after the step, prints the command that continues it, and that command does.")
def _resuming(user: User) -> str:
    command = [sys.executable, "-m", "capgpu", "train", "runs/long", "--data", str(user.data), "--epochs", "4000"]
    process = subprocess.Popen(
        command, cwd=user.folder, env=user.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    history = user.folder / "runs" / "long" / "history.jsonl"
    while not (history.is_file() and '"epoch"' in history.read_text()) and process.poll() is None:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate()
    assert process.returncode == 130, errors
    assert "Resume with: capgpu train runs/long --resume" in errors, errors
    text = user.error("eval", "runs/long")
    assert "capgpu train runs/long --resume" in text, text
    return text[15:]


@_of_the_command(
    "Marks have a legend; a sheet has the suffix's format, 12 to 18 pictures, and the result in its title."
)
def _marks_and_sheets(user: User) -> str:
    printed = user.capgpu("caption", user.run, "--count", 3).stdout
    assert "equal to a true caption" in printed
    user.capgpu("eval", user.run, "--sheet", "sheet.jpg", "--ranked-sheet", "ranked.png", "--json", "scores.json")
    with Image.open(user.folder / "sheet.jpg") as sheet, Image.open(user.folder / "ranked.png") as ranked:
        assert (sheet.format, ranked.format) == ("JPEG", "PNG")
        sizes = sheet.size, ranked.size
    report = json.loads((user.folder / "scores.json").read_text())
    assert all(" " not in key for key in report)
    return f"{printed.splitlines()[-1]}; sheets of {sizes}"
