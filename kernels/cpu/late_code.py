"""Generate machine code only for functions that Python calls, not for those that only compiled code calls.

Numba optimizes each function that it compiles, generates its machine code, links its LLVM IR into its callers, and
optimizes it there again; the machine code of the inner functions is never executed. Here, while a kernel is compiled,
each function's library is a `LateLibrary`, which keeps the LLVM IR as Numba emitted it. The outermost library links all
functions that it calls, directly or indirectly, once, and is optimized when an address in it is requested::

    kernel calls product, product calls tile

    Numba                                                   LateLibrary
    tile     optimize, machine code                         IR
    product  IR + IR of tile, optimize, machine code        IR
    kernel   IR + IR of product and tile, optimize,         IR; at the first address: + IR of product and tile,
             machine code                                   optimize, machine code

That takes half the time. Linked IR has not been optimized before, so the result does not depend on what else a process
has compiled.

This file, `capgpu.kernels.cpu.front_end` and `capgpu.kernels.cpu.code_cache` are the only ones that use private names
of Numba. If those of this file are missing, Numba generates machine code of all functions.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator
from typing import Any

import llvmlite.binding as llvm
from numba.core.codegen import JITCodeLibrary
from numba.core.environment import lookup_environment

from capgpu.errors import InvalidTypeError
from capgpu.kernels.cpu.front_end import reuse_results

__all__ = ["LateLibrary", "compile_late"]

logger = logging.getLogger("capgpu")

#: Prefix of the global variables that point to a function's environment, its references to Python objects.
ENVIRONMENT = "_ZN08NumbaEnv"
#: Prefix of the symbols of `capgpu.kernels.cpu.symbols`, and of variables with addresses of one process.
SYMBOL, DYNAMIC = "capgpu_", "numba.dynamic.globals"
#: Private names of Numba's libraries that this file uses.
NEEDED = ("_ensure_finalized", "_finalize_final_module", "_get_compiled_object", "_get_module_for_linking")


class LateLibrary(JITCodeLibrary):  # type: ignore[misc]  # Numba's classes have no types here
    """The LLVM IR of one function; machine code of it and its callees once an address is requested.

    ::

        building --finalize--> IR --get_pointer_to_function, serialize_using_object_code--> emitted (machine code)
    """

    _emitted = False
    _own_module: Any = None

    def finalize(self) -> None:
        """End the building of the function's own IR. Callees are not linked yet."""
        self._raise_if_finalized()
        self._finalized = True

    @property
    def codegen(self) -> Any:
        """The code generator; until machine code is emitted, one that sets no environments."""
        return self._codegen if self._emitted else _WithoutEnvironments(self._codegen)

    def get_pointer_to_function(self, name: str) -> int:
        """Return the address of a function, 0 if this library has no function of that name."""
        self._ensure_finalized()
        if not self._emitted:
            if not _defines(self._final_module, name):
                return 0
            self._emit()
        address: int = super().get_pointer_to_function(name)
        return address

    def _optimize_functions(self, module: Any) -> None:
        """Do not optimize: `_emit` optimizes the function together with its callers."""
        module.data_layout = self._codegen._data_layout

    def _emit(self) -> None:
        """Link all callees, optimize, and generate machine code."""
        # each library once: the base class would let each library link its own callees
        self._linking_libraries = [_Alone(library) for library in self._callees()]
        self._finalized = False
        super().finalize()
        self._set_environments(self._final_module)

    def _set_environments(self, module: Any) -> None:
        for name in _environments(module):
            environment = lookup_environment(name)
            if environment is not None:
                self._codegen.set_env(name, environment)

    def _finalize_final_module(self) -> None:
        super()._finalize_final_module()
        self._emitted = True  # set here, since libraries loaded from disk are finalized here as well

    def _callees(self) -> list[Any]:
        """Return the libraries of all functions that this one calls, directly or indirectly, in depth-first order."""
        callees: dict[Any, None] = {}
        stack = list(reversed(self._linking_libraries))
        while stack:
            library = stack.pop()
            if library not in callees:
                callees[library] = None
                if isinstance(library, LateLibrary) and not library._emitted:
                    stack.extend(reversed(library._linking_libraries))
        return list(callees)

    def _alone(self) -> Any:
        """Return the function's own IR, for linking."""
        if self._own_module is None:
            self._own_module, self._shared_module = super()._get_module_for_linking(), None
        return self._own_module

    def _get_module_for_linking(self) -> Any:
        """Return IR with all callees, for libraries of other packages."""
        if self._emitted:
            return super()._get_module_for_linking()
        if self._shared_module is None:
            module = self._alone().clone()
            for library in self._callees():
                module.link_in(_Alone(library)._get_module_for_linking(), preserve=True)
            # The other library sets only its own environment, and shares variables of the same name with this module.
            # Without their values an exception with computed arguments would become a RuntimeError there.
            self._codegen._add_module(_parse(_environment_lines(module), module))
            self._set_environments(module)
            if any(function.is_declaration and function.name.startswith(SYMBOL) for function in module.functions):
                # Numba does not cache code that has such a variable on disk. Code loaded by a process in which the
                # symbol has no address would end that process.
                module.link_in(_parse([f'@"{DYNAMIC}.capgpu" = common global i8* null'], module))
            self._shared_module = module
        return self._shared_module

    def serialize_using_object_code(self) -> tuple[str, str, tuple[bytes, bytes]]:
        """Return machine code, and a module with only its names, since no other library links it."""
        self._ensure_finalized()
        if not self._emitted:
            self._emit()
        return self.name, "object", (self._get_compiled_object(), _names(self._final_module).as_bitcode())


class _Alone:
    """Presents a library without its callees to the library that links it."""

    def __init__(self, library: Any) -> None:
        self._library = library
        # functions to call before the code is loaded; Numba 0.62 has them elsewhere
        self._reload_init: set[Any] = getattr(library, "_reload_init", set())

    def _get_module_for_linking(self) -> Any:
        library = self._library
        late = isinstance(library, LateLibrary) and not library._emitted
        return library._alone() if late else library._get_module_for_linking()


class _WithoutEnvironments:
    """A code generator that sets no environments."""

    def __init__(self, codegen: Any) -> None:
        self._codegen = codegen

    def __getattr__(self, name: str) -> Any:
        return getattr(self._codegen, name)

    def set_env(self, name: str, environment: Any) -> None:
        """Do nothing: the library that links the function sets it."""


def _defines(module: Any, name: str) -> bool:
    try:
        return not module.get_function(name).is_declaration
    except NameError:
        return False


def _environments(module: Any) -> list[str]:
    return [variable.name for variable in module.global_variables if variable.name.startswith(ENVIRONMENT)]


def _names(module: Any) -> Any:
    """Return a module that defines the functions and environments of another one with empty bodies."""
    external = [f.name for f in module.functions if not f.is_declaration and f.linkage == llvm.Linkage.external]
    lines = [f'define void @"{name}"() {{ ret void }}' for name in external]
    return _parse(lines + _environment_lines(module), module)


def _environment_lines(module: Any) -> list[str]:
    return [f'@"{name}" = common global i8* null' for name in _environments(module)]


def _parse(lines: list[str], like: Any) -> Any:
    """Parse LLVM IR into a module with the target of another one."""
    module = llvm.parse_assembly("\n".join(lines))
    module.triple, module.data_layout = like.triple, like.data_layout
    return module


def compile_late(function: Any, context: Any) -> None:
    """Make Numba generate machine code only of the outermost functions.

    Parameters
    ----------
    function : numba.core.dispatcher.Dispatcher or numba.core.ccallback.CFunc
        A function of this package that is to be compiled; modified.
    context : numba.core.cpu.CPUContext
        Target context.
    """
    missing = [name for name in NEEDED if not hasattr(JITCodeLibrary, name)]
    compiler = getattr(function, "_compiler", None)
    if missing or compiler is None or not hasattr(context.codegen(), "_library_class"):
        logger.info("capgpu: this version of Numba generates machine code of all functions (%s)", missing)
        return
    compiler.compile = _late(compiler.compile, context, bool(compiler.targetoptions.get("_nrt", True)))


def _late(compile_now: Callable[..., Any], context: Any, counts_references: bool) -> Callable[..., Any]:
    def compile_with_late_libraries(args: Any, return_type: Any) -> Any:
        context.refresh()  # compiles Numba's own functions, as usual
        with _changed(context):
            result = compile_now(args, return_type)
        returned = context.data_model_manager[result.signature.return_type]
        if not counts_references and returned.contains_nrt_meminfo():  # an array, or None or one, or a tuple of them
            # a caller that counts references would release one that was never added, and so free memory in use
            raise InvalidTypeError(
                f"expected a function without allocations to return no array, got {result.signature} of "
                f"{result.fndesc.qualname}. Return its numbers, or compile it with allocates=True."
            )
        return result

    return compile_with_late_libraries


@contextlib.contextmanager
def _changed(context: Any) -> Iterator[None]:
    """Create late libraries, with less work, inside a ``with`` block; the thread holds Numba's compiler lock."""
    codegen = context.codegen()
    if "_library_class" in vars(codegen):  # a callee of the function that is being compiled
        yield
        return
    try:  # includes the assignment: an asynchronous exception can be raised after it
        codegen._library_class = LateLibrary
        with reuse_results(context):
            yield
    finally:
        vars(codegen).pop("_library_class", None)
