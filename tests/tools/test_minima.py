"""The oldest allowed versions are read from pyproject.toml."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from tools import minima

PROJECT = tomllib.loads((minima.ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def test_lower_bounds_become_pins_and_extras_are_included():
    project = {
        "name": "this",
        "dependencies": ["numpy>=2.0", "numba>=0.62,<0.69"],
        "optional-dependencies": {"test": ["this[h5]", "pytest >= 8.2; os_name == 'posix'"], "h5": ["h5py==3.11"]},
    }
    assert minima.requirements(project) == ["h5py==3.11", "numba==0.62", "numpy==2.0", "pytest==8.2"]


def test_a_requirement_without_a_lowest_version_is_refused():
    project = {"name": "this", "dependencies": ["numpy<3"], "optional-dependencies": {"test": []}}
    with pytest.raises(ValueError, match="NAME>=VERSION, got 'numpy<3'"):
        minima.requirements(project)


def test_every_dependency_of_this_project_has_a_lowest_version():
    names = {line.partition("==")[0] for line in minima.requirements(PROJECT)}
    assert {"numpy", "numba", "llvmlite", "matplotlib", "onnx", "h5py", "ml-dtypes", "pytest"} <= names
    assert not any(name.startswith("capgpu") for name in names)


def test_the_default_tests_exist():
    for test in minima.DEFAULT_TESTS:
        file, _, function = test.partition("::")
        path = Path(minima.ROOT, file)
        assert path.is_dir() or f"def {function}" in path.read_text(encoding="utf-8"), test
