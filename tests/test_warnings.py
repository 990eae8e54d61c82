"""Whose warnings fail a test: this project's. What other packages and pytest's plugins warn of is shown."""

from __future__ import annotations

import warnings

import pytest


def warn(category: type[Warning], module: str) -> None:
    warnings.warn_explicit("words", category, f"{module}.py", 1, module=module, registry={})


@pytest.mark.parametrize("category", [UserWarning, DeprecationWarning, RuntimeWarning, FutureWarning, ResourceWarning])
@pytest.mark.parametrize(
    "module",
    [
        "capgpu",
        "capgpu.layers.lstm",
        "capgpu.kernels.cuda.compile",
        "tests.test_solver",
        "oracles.numbers",
        "bench.run",
    ],
)
def test_warnings_of_this_project_are_errors(module: str, category: type[Warning]) -> None:
    with pytest.raises(category, match="words"):
        warn(category, module)


@pytest.mark.parametrize("category", [UserWarning, DeprecationWarning, FutureWarning, pytest.PytestWarning])
@pytest.mark.parametrize(
    "module",
    ["numba.core.typing", "numpy.core", "cupy._environment", "pytest_benchmark.logger", "capgpux"],
)
def test_warnings_of_other_packages_are_shown(
    module: str, category: type[Warning], monkeypatch: pytest.MonkeyPatch
) -> None:
    shown: list[str] = []
    monkeypatch.setattr(warnings, "showwarning", lambda message, category, *place: shown.append(category.__name__))
    warn(category, module)
    assert shown == [category.__name__]


def test_numeric_warnings_inside_of_numpy_are_errors() -> None:
    with pytest.raises(RuntimeWarning, match="words"):
        warn(RuntimeWarning, "numpy._core.fromnumeric")


@pytest.mark.parametrize(
    "category", [pytest.PytestUnraisableExceptionWarning, pytest.PytestUnhandledThreadExceptionWarning]
)
def test_exceptions_that_cannot_be_caught_are_errors(category: type[Warning]) -> None:
    with pytest.raises(category, match="words"):
        warn(category, "_pytest.unraisableexception")
