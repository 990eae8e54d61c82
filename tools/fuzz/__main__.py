"""Fuzz some formats or all: ``python -m tools.fuzz csv npz --mutants 5000 --seed 0``."""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

from tools.fuzz.runner import set_environment


def main() -> int:
    """Fuzz each format in a process of its own, since a library may crash; return the exit status."""
    from tools.fuzz.formats import FORMATS
    from tools.fuzz.runner import fuzz, missing_packages

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("formats", nargs="*", metavar="FORMAT", help=f"{', '.join(FORMATS)}; by default all")
    parser.add_argument("--mutants", type=int, default=5000, help="number for each format")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", type=int, help="read this mutant only")
    parser.add_argument("--keep", type=Path, help="folder for the mutants that fail")
    parser.add_argument("--show", type=int, default=5, help="failures of each format to print")
    parser.add_argument("--messages", type=int, default=0, help="error messages of each format to print")
    given = parser.parse_args()
    names = given.formats or list(FORMATS)
    if len(names) > 1:
        command = [sys.executable, "-m", "tools.fuzz", "--mutants", str(given.mutants), "--seed", str(given.seed)]
        command += ["--show", str(given.show)]
        return max(_status(subprocess.run([*command, name], check=False).returncode, name) for name in names)
    (name,) = names
    missing = missing_packages(FORMATS[name])
    if missing:
        print(f"{name}: not fuzzed, without {', '.join(missing)}")
        return 0
    start = time.perf_counter()
    report = fuzz(FORMATS[name], given.mutants, given.seed, given.only, given.keep)
    print(
        f"{name}: {given.mutants} mutants, {report.read} read, {report.refused} refused, "
        f"{len(report.failures)} failures, {time.perf_counter() - start:.1f} s",
        flush=True,
    )
    shown: Counter[str] = Counter()
    for failure in report.failures:
        kind = failure.cause.strip().splitlines()[-1][:60]
        shown[kind] += 1
        if shown[kind] == 1 and len(shown) <= given.show:
            print(f"  mutant {failure.number} ({failure.file}, {failure.mutator}): {failure.cause}")
    for kind, count in shown.most_common():
        print(f"  {count} x {kind}")
    for message, count in report.messages.most_common(given.messages):
        print(f"  {count:5} {message}")
    return 1 if report.failures else 0


def _status(status: int, name: str) -> int:
    if status < 0:
        print(f"{name}: the process was ended by the signal {-status}", flush=True)
    return abs(status)


if __name__ == "__main__":
    set_environment()
    sys.exit(main())
