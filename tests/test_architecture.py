"""The layering of the package, read from its sources: permitted imports, and who may name an array library."""

from __future__ import annotations

import ast
import functools
from pathlib import Path

import capgpu
import capgpu.kernels

ROOTS = {"capgpu": Path(capgpu.__file__).parent, "capgpu.kernels": Path(capgpu.kernels.__file__).parent}
HEAVY = {
    "mpi4py",
    "pycocoevalcap",
    "numba",
    "llvmlite",
    "cupy",
    "cupyx",
    "matplotlib",
    "PIL",
    "rich",
    "safetensors",
    "h5py",
    "onnx",
    "onnxruntime",
    "torch",
}
#: A module imports from its own layer or from those before it.
LAYERS = (
    ("array_libraries", "array_origin", "backend", "distributed"),
    "kernels",
    "layers",
    ("captioner", "captioner_steps", "parameters", "model_base", "model"),
    ("captions", "solver", "training", "decode", "data", "evaluation", "vision", "interchange", "report"),
    "trained",
    "serve",
    "cli",
)
#: Modules that handle the model's arrays, and therefore compute with no library of arrays by name.
BACKEND_FREE = (
    "captioner",
    "captioner_steps",
    "decode",
    "layers",
    "model",
    "model_base",
    "optim",
    "parameters",
    "solver",
    "training.losses",
    "validation",
)
#: Modules outside of the kernels that may import an array library.
SHIM = (("array_libraries", "cupy"), ("backend", "cupy"))
#: What those take from NumPy all the same: names of dtypes, and the numbers that a kernel is handed from the host.
FROM_NUMPY = {
    "capgpu.model_base": {"float32"},
    "capgpu.parameters": {"dtype", "errstate", "integer"},
    "capgpu.optim.rules": {"array"},
}


@functools.cache
def sources() -> dict[str, ast.Module]:
    """Parse every module of the library, by its name."""
    modules = {}
    for package, folder in ROOTS.items():
        for path in folder.rglob("*.py"):
            parts = path.relative_to(folder).with_suffix("").parts
            name = ".".join((package, *parts)).removesuffix(".__init__")
            modules[name] = ast.parse(path.read_text(), str(path))
    return modules


def imported_by(node: ast.AST) -> list[str]:
    """Name the modules that one statement or call imports."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        assert node.level == 0, "imports are absolute"
        # a submodule taken from its package needs itself, not all of the package
        submodules = [f"{node.module}.{alias.name}" for alias in node.names]
        return [name if name in sources() else str(node.module) for name in submodules]
    if isinstance(node, ast.Call) and getattr(node.func, "attr", getattr(node.func, "id", "")) in (
        "import_module",
        "__import__",
    ):
        return [arg.value for arg in node.args if isinstance(arg, ast.Constant) and isinstance(arg.value, str)]
    return []


def everywhere(tree: ast.AST) -> list[str]:
    """Name all modules imported in a tree, functions included."""
    return [name for node in ast.walk(tree) for name in imported_by(node)]


def at_import(tree: ast.Module) -> list[str]:
    """Name the modules that importing a module imports: not those in functions or for type checkers."""
    found, waiting = [], list(tree.body)
    while waiting:
        node = waiting.pop()
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            continue
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        found.extend(imported_by(node))
        waiting.extend(ast.iter_child_nodes(node))
    return found


@functools.cache
def edges() -> dict[str, set[str]]:
    """Map every module to the modules of the library that its import imports."""
    known = sources()
    return {name: {other for other in at_import(tree) if other in known} - {name} for name, tree in known.items()}


def reached_from(name: str) -> set[str]:
    reached: set[str] = set()
    waiting = [name]
    while waiting:
        for other in edges()[waiting.pop()] - reached:
            reached.add(other)
            waiting.append(other)
    return reached


def layer_of(name: str) -> int | None:
    part = name.split(".")[1] if "." in name else ""
    for height, parts in enumerate(LAYERS):
        if part in ((parts,) if isinstance(parts, str) else parts):
            return height
    return None


def test_the_whole_library_is_read():
    assert {"capgpu.backend", "capgpu.model", "capgpu.layers.lstm", "capgpu.kernels.reference.recurrence"} <= set(
        sources()
    )
    assert "capgpu.kernels.cpu.lstm" in sources()
    assert edges()["capgpu.layers.lstm"] >= {"capgpu.backend", "capgpu.layers.recurrence", "capgpu.kernels.cells"}


def test_imports_point_down_only():
    upward = [
        f"{name} -> {other}"
        for name in sources()
        for other in reached_from(name)
        if layer_of(name) is not None and layer_of(other) is not None and layer_of(other) > layer_of(name)
    ]
    assert upward == []


def test_no_module_needs_itself_to_be_imported():
    assert [name for name in sources() if name in reached_from(name)] == []


def test_only_the_shim_and_the_kernels_import_cupy_and_numba():
    trespassers = {
        f"{name} -> {library}"
        for name, tree in sources().items()
        for library in {other.split(".")[0] for other in everywhere(tree)} & {"cupy", "cupyx", "numba", "llvmlite"}
        if not name.startswith("capgpu.kernels") and (name.removeprefix("capgpu."), library) not in SHIM
    }
    assert trespassers == set()


def test_heavy_libraries_are_imported_inside_functions():
    # capgpu.kernels.cpu is compiled code through and through; it is itself imported inside functions alone
    eager_imports = [
        f"{name} -> {other}"
        for name, tree in sources().items()
        if not name.startswith("capgpu.kernels.cpu")
        for other in at_import(tree)
        if other.split(".")[0] in HEAVY or other.startswith("capgpu.kernels.cpu")
    ]
    assert eager_imports == []


def test_only_the_server_imports_its_framework():
    named = {
        name
        for name, tree in sources().items()
        if {other.split(".")[0] for other in everywhere(tree)} & {"starlette", "uvicorn"}
    }
    assert named == {name for name in named if name.startswith("capgpu.serve.")}
    hasty = {name for name in sources() if any(other.startswith("capgpu.serve") for other in reached_from(name))}
    assert hasty == {name for name in hasty if name.startswith("capgpu.serve")}  # the command imports it in a function


def test_code_of_the_models_arrays_names_no_array_library():
    named = {
        name: {other for other in everywhere(tree) if other.split(".")[0] in ("numpy", "cupy", "array_api_compat")}
        for name, tree in sources().items()
        if f"{name}.".startswith(tuple(f"capgpu.{part}." for part in BACKEND_FREE))
    }
    assert {name for name, others in named.items() if others} == set(FROM_NUMPY)


def test_numpy_gives_dtypes_and_host_settings_and_no_arithmetic():
    for name, allowed in FROM_NUMPY.items():
        used = {
            node.attr
            for node in ast.walk(sources()[name])
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "np"
        }
        assert used <= allowed, name


def test_errors_raised_on_purpose_derive_from_capgpus_base():
    """What the command shows as a user's error is raised as such; OSError and MemoryError are the system's."""
    plain = {
        "ArithmeticError",
        "Exception",
        "FloatingPointError",
        "ImportError",
        "TypeError",
        "ValueError",
    }
    raised = {
        f"{name}: {node.exc.func.id}"
        for name, tree in sources().items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call) and isinstance(node.exc.func, ast.Name)
        if node.exc.func.id in plain
    }
    assert raised == set()


def test_nothing_is_pickled():
    for name, tree in sources().items():
        if name == "capgpu.kernels.cpu.code_cache":
            continue  # Numba's machine code, from files that this user alone can write: see the file
        imported = {other.split(".")[0] for other in everywhere(tree)}
        assert not imported & {"pickle", "cPickle", "dill", "joblib", "shelve", "marshal"}, name
        for node in ast.walk(tree):
            if isinstance(node, ast.keyword) and node.arg == "allow_pickle":
                assert isinstance(node.value, ast.Constant), name
                assert node.value.value is False, name
