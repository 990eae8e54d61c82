"""The modules ``cupy``, ``cupy.cuda``, ``cupy.linalg``, ... assembled from the stand-in's parts."""

from __future__ import annotations

import types
from typing import Any

import numpy as np

from . import (
    adapters,
    compiler,
    creation,
    device,
    driver,
    errors,
    extras,
    graph,
    kernels,
    memory,
    names,
    nccl,
    random,
    runtime,
    stream,
)
from .array import ndarray
from .calls import wrapped
from .methods import attach_methods
from .operators import attach_operators
from .ufuncs import ufunc

VERSION = "14.2.0"  # the CuPy that the names and the behaviour were taken from


def _module(name: str, contents: dict[str, Any]) -> types.ModuleType:
    module = types.ModuleType(name, "Stand-in for CuPy, for tests.")
    module.__dict__.update(contents)
    return module


def _public(source: types.ModuleType) -> dict[str, Any]:
    return {
        name: value
        for name, value in vars(source).items()
        if not name.startswith("_") and getattr(value, "__module__", "").startswith(("cupy", source.__name__))
    }


def _functions(table: dict[str, str], source: Any) -> dict[str, Any]:
    """Wrap NumPy's functions; a NumPy too old for one simply lacks it."""
    return {
        name: wrapped(name, parameters, adapters.FUNCTIONS.get(name) or getattr(source, name))
        for name, parameters in table.items()
        if hasattr(source, name)
    }


def _backends(modules: dict[str, types.ModuleType]) -> dict[str, types.ModuleType]:
    """Return the modules of ``cupy_backends``, which has driver calls that ``cupy`` does not."""
    driver, runtime = modules["cupy.cuda.driver"], modules["cupy.cuda.runtime"]
    api = _module("cupy_backends.cuda.api", {"driver": driver, "runtime": runtime})
    cuda = _module("cupy_backends.cuda", {"api": api})
    return {
        "cupy_backends": _module("cupy_backends", {"cuda": cuda}),
        "cupy_backends.cuda": cuda,
        "cupy_backends.cuda.api": api,
        "cupy_backends.cuda.api.driver": driver,
        "cupy_backends.cuda.api.runtime": runtime,
    }


def _nccl() -> dict[str, Any]:
    constants = {name: value for name, value in vars(nccl).items() if name.startswith("NCCL_")}
    return {**_public(nccl), **constants, "NcclError": nccl.NcclError, "available": nccl.available}


def _is_available() -> bool:
    try:
        return runtime.getDeviceCount() > 0
    except errors.CUDARuntimeError:
        return False


def _cuda() -> dict[str, types.ModuleType]:
    parts = {
        "cupy.cuda.runtime": _module(
            "cupy.cuda.runtime",
            {**_public(runtime), "CUDARuntimeError": errors.CUDARuntimeError, "is_hip": False},
        ),
        "cupy.cuda.device": _module("cupy.cuda.device", _public(device)),
        "cupy.cuda.compiler": _module("cupy.cuda.compiler", _public(compiler)),
        "cupy.cuda.driver": _module("cupy.cuda.driver", driver.public()),
        "cupy.cuda.graph": _module("cupy.cuda.graph", _public(graph)),
        "cupy.cuda.stream": _module("cupy.cuda.stream", _public(stream)),
        "cupy.cuda.memory": _module("cupy.cuda.memory", _public(memory)),
        "cupy.cuda.nccl": _module("cupy.cuda.nccl", _nccl()),
    }
    contents: dict[str, Any] = {name.rpartition(".")[2]: module for name, module in parts.items()}
    del contents["nccl"]  # an attribute only after `import cupy.cuda.nccl`
    contents |= {
        "Device": device.Device,
        "Event": stream.Event,
        "Graph": graph.Graph,
        "ExternalStream": stream.ExternalStream,
        "MemoryPointer": memory.MemoryPointer,
        "MemoryPool": memory.MemoryPool,
        "Stream": stream.Stream,
        "alloc": memory.alloc,
        "alloc_pinned_memory": memory.alloc_pinned_memory,
        "using_allocator": memory.using_allocator,
        "get_current_stream": stream.get_current_stream,
        "get_device_id": device.get_device_id,
        "get_elapsed_time": stream.get_elapsed_time,
        "is_available": _is_available,
    }
    return {"cupy.cuda": _module("cupy.cuda", contents), **parts}


def build() -> dict[str, types.ModuleType]:
    """Return the modules of the stand-in by name."""
    attach_operators()
    attach_methods()
    for name in ("scatter_add", "scatter_max", "scatter_min"):
        setattr(ndarray, name, extras.deprecated_method(name))
    submodules = {
        **_cuda(),
        "cupy.linalg": _module(
            "cupy.linalg",
            {**_functions(names.LINALG, np.linalg), "LinAlgError": np.linalg.LinAlgError},
        ),
        "cupy.fft": _module("cupy.fft", _functions(names.FFT, np.fft)),
        "cupy.random": _module("cupy.random", random.FUNCTIONS),
        "cupy.exceptions": _module("cupy.exceptions", _numpy_exceptions()),
    }
    contents: dict[str, Any] = {name: getattr(np, name) for name in names.BORROWED}
    contents |= {name: ufunc(name, getattr(np, name)) for name in names.UFUNCS if hasattr(np, name)}
    contents |= _functions(names.FUNCTIONS, np)
    contents |= {
        name: getattr(creation, name)
        for name in names.words("""
            array asarray ascontiguousarray asfortranarray asnumpy copy empty empty_like
            get_array_module
        """)
    }
    contents |= {
        "RawKernel": kernels.RawKernel,
        "RawModule": kernels.RawModule,
        "__version__": VERSION,
        "asanyarray": creation.asarray,
        "get_default_memory_pool": memory.get_default_memory_pool,
        "is_available": _is_available,
        "ndarray": ndarray,
        "ufunc": ufunc,
    }
    contents |= {name.partition(".")[2]: module for name, module in submodules.items() if name.count(".") == 1}
    return {
        "cupy": _module("cupy", contents),
        **submodules,
        "cupyx": _module("cupyx", extras.FUNCTIONS),
        **_backends(submodules),
    }


def _numpy_exceptions() -> dict[str, Any]:
    return {name: value for name, value in vars(np.exceptions).items() if isinstance(value, type)}
