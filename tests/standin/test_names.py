"""The list of names against a real CuPy, where one is installed (it needs no GPU to be imported)."""

from __future__ import annotations

import importlib
import inspect
import warnings
from typing import Any

import pytest

from simulators import cupy_standin
from simulators.cupy_standin import names
from simulators.cupy_standin.methods import METHODS


@pytest.fixture(scope="module")
def real_cupy() -> Any:
    cupy = pytest.importorskip("cupy", exc_type=ImportError)
    if cupy.__version__.split(".")[:2] != ["14", "2"]:
        pytest.skip(f"the names are those of CuPy 14.2, this is {cupy.__version__}")
    return cupy


def entry(function: Any) -> str | None:
    """Write a function's parameters as the list of names does; None where it does not tell them."""
    marks = {
        inspect.Parameter.VAR_POSITIONAL: "*",
        inspect.Parameter.VAR_KEYWORD: "**",
        inspect.Parameter.KEYWORD_ONLY: "=",
    }
    try:
        parameters = inspect.signature(function).parameters.values()
    except ValueError:
        return None
    return " ".join(marks.get(parameter.kind, "") + parameter.name for parameter in parameters)


@pytest.mark.parametrize(("module", "table"), [("cupy", "FUNCTIONS"), ("cupy.linalg", "LINALG"), ("cupy.fft", "FFT")])
def test_functions_have_cupys_parameters(real_cupy, module, table):
    source = importlib.import_module(module)
    for name, parameters in getattr(names, table).items():
        function = getattr(source, name)
        if name == "matmul" or isinstance(function, real_cupy.ufunc):
            continue  # these take (*args, **kwargs) in CuPy
        assert entry(function) in (None, parameters), name


def test_elementwise_functions_and_borrowed_names_are_cupys(real_cupy):
    for name in names.UFUNCS:
        assert isinstance(getattr(real_cupy, name), real_cupy.ufunc), name
    for name in names.BORROWED:
        assert hasattr(real_cupy, name), name


MODULES = ["cupy", "cupy.cuda", "cupy.cuda.runtime", "cupy.linalg", "cupy.fft", "cupy.random", "cupyx"]
CLASSES = {
    "cupy": ["RawKernel", "RawModule", "ndarray", "ufunc"],
    "cupy.cuda": ["Device", "Event", "MemoryPointer", "MemoryPool", "Stream"],
    "cupy.random": ["Generator"],
}


def public_names() -> dict[str, list[str]]:
    """Return what every module and class offers, taken from the CuPy that is importable now."""
    offered = {}
    for module in MODULES:
        source = importlib.import_module(module)
        offered[module] = [name for name in dir(source) if not name.startswith("_")]
        for name in CLASSES.get(module, []):
            offered[f"{module}.{name}"] = [entry for entry in dir(getattr(source, name)) if entry[0] != "_"]
    return offered


def test_the_stand_in_has_no_public_name_that_cupy_lacks(real_cupy):
    with cupy_standin.installed():
        standin_names = public_names()
    cupy_names = public_names()
    for module in CLASSES:
        cupy_names[module] += CLASSES[module]  # some are there without being listed
    assert {owner: sorted(set(names) - set(cupy_names[owner])) for owner, names in standin_names.items()} == {
        owner: [] for owner in standin_names
    }


def test_methods_have_cupys_parameters(real_cupy):
    for name, parameters in METHODS.items():
        first_line = inspect.getdoc(getattr(real_cupy.ndarray, name)).split("\n")[0]
        if "(" not in first_line:
            continue
        inside = first_line.split("(")[1].split(")")[0]
        given = [part.split("=")[0].split()[-1] for part in inside.split(",")]
        assert given == parameters.split(), name


def test_nccl_has_cupys_constants_and_ids(real_cupy):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # CuPy warns where NCCL is not installed
        cupys = importlib.import_module("cupy.cuda.nccl")
    if not cupys.available:
        pytest.skip("NCCL is not installed")
    with cupy_standin.installed():
        standins = importlib.import_module("cupy.cuda.nccl")
        unique = standins.get_unique_id()
        standins.NcclCommunicator(1, unique, 0).destroy()
    for name, value in vars(standins).items():
        if name.startswith("NCCL_") and name != "NCCL_UNIQUE_ID_BYTES":  # that one is CuPy's own
            assert getattr(cupys, name) == value, name
    cupys_unique = cupys.get_unique_id()
    assert (type(unique), len(unique)) == (type(cupys_unique), len(cupys_unique))
