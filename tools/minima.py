"""Run tests with the oldest versions of all packages that `pyproject.toml` allows.

Run as ``python -m tools.minima [--venv DIR] [--list] [TEST ...]`` in the checkout's folder (``make test-minima``), by a
Python for which those versions exist: 3.11 or 3.12. The environment is made anew unless it has them.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
#: Extras whose packages are installed, too.
EXTRAS = ("test",)
#: No wheels of the oldest NumPy exist for Python from this version on.
TOO_NEW = (3, 13)
#: What is run where no tests are named: each package is used, in less than a minute on two cores.
QUICK = (
    "tests/test_backend.py",
    "tests/test_backend_arrays.py",
    "tests/test_checkpoint.py",
    "tests/test_dtypes.py",
    "tests/data/test_feature_files.py",
    "tests/interchange/test_onnx_files.py",
    "tests/kernels/test_top_k.py",
    "tests/layers/test_course_values.py",
    "tests/report",
    "tests/standin/test_standin.py",
    "tests/vision/test_preprocessing.py",
)


def requirements(project: dict[str, object], extras: tuple[str, ...] = EXTRAS) -> list[str]:
    """Return the oldest versions that a project allows, sorted: ``name==version``.

    Parameters
    ----------
    project : dict
        The table ``project`` of a pyproject.toml.
    extras : tuple of str
        Optional dependencies that are wanted, too; those that they name in turn are followed.

    Returns
    -------
    list of str
        Lines of a requirements file.

    Raises
    ------
    ValueError
        For a requirement without a lowest version.
    """
    found = {}
    for line in _lines(project, list(extras)):
        match = re.fullmatch(r"([\w.-]+)(?:\[[\w,-]+\])?(?:>=|==)([\w.]+)(?:,[^;]*)?(;.*)?", line.replace(" ", ""))
        if match is None:
            raise ValueError(f"expected a requirement with a lowest version, NAME>=VERSION, got {line!r}")
        name, version, _ = match.groups()
        found[name] = f"{name}=={version}"
    return sorted(found.values())


def _lines(project: dict[str, object], extras: list[str]) -> Iterator[str]:
    dependencies, optional = project["dependencies"], project["optional-dependencies"]
    assert isinstance(dependencies, list)
    assert isinstance(optional, dict)
    yield from dependencies
    while extras:
        for line in optional[extras.pop()]:
            own = re.fullmatch(rf"{project['name']}\[([\w,-]+)\]", line)
            if own:
                extras.extend(own[1].split(","))
            else:
                yield line


def install(venv: Path, wanted: list[str]) -> Path:
    """Make an environment of exactly these versions; return its interpreter."""
    python = venv / "bin" / "python"
    stamp = venv / "minima.txt"
    if not stamp.exists() or stamp.read_text().splitlines() != wanted:
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(venv)], check=True)
        pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--prefer-binary"]
        subprocess.run([*pip, *wanted], check=True)
        stamp.write_text("\n".join(wanted) + "\n")
    return python


def main() -> int:
    """Parse the command line, install, run; return the tests' exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--venv", type=Path, default=ROOT / "build" / "minima", help="folder of the environment")
    parser.add_argument("--list", action="store_true", help="print the versions and do nothing")
    parser.add_argument("tests", nargs="*", default=list(QUICK), help="what pytest runs")
    options = parser.parse_args()
    wanted = requirements(tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"])
    if options.list:
        print(*wanted, sep="\n")
        return 0
    if sys.version_info >= TOO_NEW:
        print(
            f"expected Python 3.11 or 3.12, for which the oldest allowed versions exist, got {sys.version.split()[0]}: "
            "name one with make test-minima PYTHON=python3.11",
            file=sys.stderr,
        )
        return 1
    python = install(options.venv, wanted)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "NUMBA_CACHE_DIR": str(options.venv / "kernels")}
    command = [str(python), "-m", "pytest", "-q", "-p", "no:cacheprovider", *options.tests]
    return subprocess.run(command, cwd=ROOT, env=environment, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
