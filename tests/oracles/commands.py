"""Calls of the capgpu command."""

from __future__ import annotations

from click.testing import CliRunner, Result

from capgpu.cli import main

#: Training on the embedded set, of seconds.
TINY = ("--hidden", "8", "--wordvec", "8", "--batch-size", "600", "--epochs", "2", "--seed", "3")


def run(*args: object) -> Result:
    """Run the command in this process, whatever comes of it."""
    return CliRunner().invoke(main, [str(arg) for arg in args])


def done(*args: object) -> str:
    """Run the command, which must succeed; returns what it printed."""
    result = run(*args)
    assert result.exit_code == 0, result.output
    return result.stdout


def refused(result: Result, says: str) -> None:
    """Hold that a command failed as it should where a user made a mistake: one line, and no traceback."""
    assert result.exit_code == 2, result.output
    assert result.stderr.startswith("capgpu: error: "), result.stderr
    assert result.stderr.count("\n") == 1, result.stderr
    assert "Traceback" not in result.output
    assert says in result.stderr
