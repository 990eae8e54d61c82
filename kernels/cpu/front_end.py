"""Numba's front end with less work: the passes that kernels need, and what it computes again and again computed once.

From Python to LLVM IR takes Numba as long as LLVM takes from there to machine code. A third of it can be left out:

- `KernelCompiler` has half of the passes of Numba's own pipeline. The others are for what kernels do not contain:
  closures, generators, ``with`` blocks, branches on types, expressions of whole arrays.
- Types of operators on numbers and arrays are resolved once per process: Numba tries dozens of templates for each
  ``a + b`` and ``a[j]``. So are the sizes of types, for which it parses a module each time.
- Lifetimes of variables are computed where they are read, not after each pass.

If private names of Numba are missing that this file uses, Numba's own pipeline compiles the kernels.
"""

from __future__ import annotations

import contextlib
import functools
import logging
from collections.abc import Callable, Iterator
from typing import Any

from numba import types
from numba.core.compiler import Compiler

__all__ = ["KernelCompiler", "reuse_results"]

logger = logging.getLogger("capgpu")

try:
    from numba.core import transforms, typed_passes, untyped_passes
    from numba.core.compiler_machinery import PassManager
    from numba.core.postproc import PostProcessor, VariableLifetime

    PASSES: tuple[tuple[Any, str], ...] = (
        (untyped_passes.TranslateByteCode, "translate bytecode to Numba's IR"),
        (untyped_passes.FixupArgs, "arguments"),
        (untyped_passes.IRProcessing, "lifetimes of variables"),
        (untyped_passes.GenericRewrites, "indices and other constants"),
        (untyped_passes.RewriteDynamicRaises, "exceptions with computed arguments"),
        (untyped_passes.InlineInlinables, "functions that are inlined"),
        (untyped_passes.ReconstructSSA, "static single assignment"),
        (typed_passes.NopythonTypeInference, "types"),
        (typed_passes.PreLowerStripPhis, "no phi nodes"),
        (typed_passes.IRLegalization, "ends of lifetimes"),
        (typed_passes.NativeLowering, "lower to LLVM IR"),
        (typed_passes.NoPythonBackend, "result"),
    )
except (AttributeError, ImportError) as error:
    logger.info("capgpu: this version of Numba compiles kernels with all of its passes: %s", error)
    PASSES = ()
#: Types of operands for which operators mean the same wherever they stand.
OPERANDS = (types.Number, types.Boolean, types.Array, types.SliceType)
#: Functions beside the module `operator` whose types are kept.
BUILTINS = (bool, min, max)
#: (operator, signature) by the operator's id and its arguments' types; the operator is kept so that its id stays valid.
_resolved: dict[Any, tuple[Any, Any]] = {}
#: Sizes of LLVM types by their text.
_sizes: dict[str, int] = {}


class KernelCompiler(Compiler):  # type: ignore[misc]  # Numba's classes have no types here
    """Compiles functions with `PASSES`."""

    def define_pipelines(self) -> list[Any]:
        """Return the one pipeline."""
        if not PASSES:
            return list(super().define_pipelines())
        pipeline = PassManager("kernel")
        for step, description in PASSES:
            pipeline.add_pass(step, description)
        pipeline.finalize()
        return [pipeline]


@contextlib.contextmanager
def reuse_results(context: Any) -> Iterator[None]:
    """Compute once, inside a ``with`` block, what the front end computes repeatedly.

    Parameters
    ----------
    context : numba.core.cpu.CPUContext
        Target context. The thread holds Numba's compiler lock.
    """
    if not PASSES:
        yield
        return
    get_call_type, post_process = types.BaseFunction.get_call_type, PostProcessor.run
    try:  # includes the assignments: an asynchronous exception can be raised after any of them
        types.BaseFunction.get_call_type = lambda *args: _call_type(get_call_type, *args)
        PostProcessor.run = lambda *args, **options: _post_process(post_process, *args, **options)
        context.get_abi_sizeof = functools.partial(_size, context.get_abi_sizeof)
        yield
    finally:
        types.BaseFunction.get_call_type = get_call_type
        PostProcessor.run = post_process
        vars(context).pop("get_abi_sizeof", None)


def _call_type(get_call_type: Callable[..., Any], function: Any, context: Any, args: Any, kws: Any) -> Any:
    """Return the signature of a call; for operators on numbers and arrays, cached in `_resolved`."""
    operator = getattr(function, "typing_key", None)
    is_operator = operator in BUILTINS or getattr(operator, "__module__", "") == "_operator"
    if not is_operator or kws or not all(map(_is_operand, args)):
        return get_call_type(function, context, args, kws)
    key = id(function), tuple(args)
    if key not in _resolved:
        _resolved[key] = function, get_call_type(function, context, args, kws)
    return _resolved[key][1]


def _is_operand(kind: Any) -> bool:
    return all(map(_is_operand, kind)) if isinstance(kind, types.BaseTuple) else isinstance(kind, OPERANDS)


def _post_process(run: Callable[..., None], processor: Any, emit_dels: bool = False, **options: Any) -> None:
    """Canonicalize a function's blocks. Lifetimes are computed when they are read."""
    function = processor.func_ir
    if emit_dels or function.is_generator:
        run(processor, emit_dels, **options)
        return
    function.blocks = transforms.canonicalize_cfg(function.blocks)
    function.variable_lifetime = VariableLifetime(function.blocks)
    function.generator_info = None


def _size(size_of: Callable[[Any], int], kind: Any) -> int:
    """Return the size of an LLVM type, cached in `_sizes`."""
    key = str(kind)
    if key not in _sizes:
        _sizes[key] = size_of(kind)
    return _sizes[key]
