"""Run tests with the oldest versions of all packages that `pyproject.toml` allows.

Run as ``python -m tools.minima [--venv DIR] [--list] [TEST ...]`` in the checkout's folder (``make test-minima``), with
Python 3.11 or 3.12, for which those versions exist. The environment is recreated unless it has exactly these versions.
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
#: Extras whose packages are installed as well.
EXTRAS = ("test",)
#: First Python version without wheels of the oldest NumPy.
FIRST_UNSUPPORTED_PYTHON = (3, 13)
#: Tests run by default: they use each package, and take about a minute on two cores.
DEFAULT_TESTS = (
    "tests/test_backend.py",
    "tests/test_backend_arrays.py",
    "tests/test_checkpoint.py",
    "tests/test_dtypes.py",
    "tests/data/test_feature_files.py",
    "tests/interchange/test_onnx_files.py",
    # what uses private names of Numba: compiled code on disk, and machine code of the outermost functions alone
    "tests/kernels/test_cache.py::test_code_from_the_disk_gives_the_bits_of_code_that_was_just_compiled",
    "tests/kernels/test_compile.py",
    "tests/kernels/test_top_k.py",
    "tests/layers/test_course_values.py",
    "tests/report",
    "tests/serve/test_captions.py",
    "tests/serve/test_requests.py",
    "tests/standin/test_standin.py",
    "tests/vision/test_preprocessing.py",
)


def requirements(project: dict[str, object]) -> list[str]:
    """Return the oldest versions that a project and its extras `EXTRAS` allow, as sorted pins ``name==version``.

    Parameters
    ----------
    project : dict
        The table ``project`` of a pyproject.toml.

    Returns
    -------
    list of str
        Lines of a requirements file.

    Raises
    ------
    ValueError
        If a requirement has no lowest version.
    """
    pins = {}
    for line in _lines(project, list(EXTRAS)):
        match = re.fullmatch(r"([\w.-]+)(?:\[[\w,-]+\])?(?:>=|==)([\w.]+)(?:,[^;]*)?(;.*)?", line.replace(" ", ""))
        if match is None:
            raise ValueError(f"expected a requirement with a lowest version, NAME>=VERSION, got {line!r}")
        name, version, _ = match.groups()
        pins[name] = f"{name}=={version}"
    return sorted(pins.values())


def _lines(project: dict[str, object], extras: list[str]) -> Iterator[str]:
    dependencies, optional = project["dependencies"], project["optional-dependencies"]
    assert isinstance(dependencies, list)
    assert isinstance(optional, dict)
    yield from dependencies
    while extras:
        for line in optional[extras.pop()]:
            self_reference = re.fullmatch(rf"{project['name']}\[([\w,-]+)\]", line)
            if self_reference:
                extras.extend(self_reference[1].split(","))
            else:
                yield line


def install(venv: Path, pins: list[str]) -> Path:
    """Create a virtual environment of exactly these versions; return its interpreter."""
    python = venv / "bin" / "python"
    stamp = venv / "minima.txt"
    if not stamp.exists() or stamp.read_text().splitlines() != pins:
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(venv)], check=True)
        pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--prefer-binary"]
        subprocess.run([*pip, *pins], check=True)
        stamp.write_text("\n".join(pins) + "\n")
    return python


def main() -> int:
    """Parse the command line, install, run; return the tests' exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--venv", type=Path, default=ROOT / "build" / "minima", help="folder of the environment")
    parser.add_argument("--list", action="store_true", help="print the versions and exit")
    parser.add_argument("tests", nargs="*", default=list(DEFAULT_TESTS), help="arguments of pytest")
    options = parser.parse_args()
    pins = requirements(tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"])
    if options.list:
        print(*pins, sep="\n")
        return 0
    if sys.version_info >= FIRST_UNSUPPORTED_PYTHON:
        print(
            f"expected Python 3.11 or 3.12, for which the oldest allowed versions exist, got {sys.version.split()[0]}: "
            "name one with make test-minima PYTHON=python3.11",
            file=sys.stderr,
        )
        return 1
    python = install(options.venv, pins)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "NUMBA_CACHE_DIR": str(options.venv / "kernels")}
    command = [str(python), "-m", "pytest", "-q", "-p", "no:cacheprovider", *options.tests]
    return subprocess.run(command, cwd=ROOT, env=environment, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
