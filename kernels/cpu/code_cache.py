"""Compiled kernels on disk: one file per function, argument types and processor, named by a digest of all inputs.

Numba's own cache is not used. It has an index per function that processes read, change and write without a lock: if two
processes compile for two dtypes at once, one can replace the data file that the other's index names, and later
processes run the code of the wrong dtype. It detects changes by time stamps, and a truncated index makes every later
call fail. Here there is no index. A file is

    offset  0  magic (8 bytes)
            8  SHA-256 of the rest (32 bytes)      without it a truncated file would be unpickled
           40  key in hexadecimal (64 bytes)       without it a renamed file would be taken for another function
          104  pickled machine code

in ``FOLDER/GENERATION/MODULE.FUNCTION-KEY.nbc``. It is written under a temporary name and renamed when it is complete,
so that no reader sees a part of it; processes that compile concurrently write equal files under one name. The
generation is a digest of the contents of this package's sources, the versions of Python, NumPy, Numba and llvmlite, and
the settings of Numba that change code. The key adds the processor and its features, the function and the types of its
arguments.

The first call of a function for some types (`_Cache.load_overload`)::

    read the file ---- found, digest and key match ----------------------------------> machine code
      | missing, damaged, of another key or not trusted
    start the process that compiles ahead (`missing`), claim the entry (`capgpu.kernels.cpu.claims`)
      | another process had claimed it, and has written it ---> read the file again ---> machine code
    compile, write the file (`_Cache.save_overload`), release the claim --------------> machine code

If files cannot be written, kernels are compiled in memory, with one warning.

Unpickling can execute code. A file is read only if it is a regular file that belongs to this user and that no other
user can write, in a folder of which the same is true.

This file, `capgpu.kernels.cpu.late_code` and `capgpu.kernels.cpu.front_end` are the only ones that use private names of
Numba; where those of this file are missing, kernels are compiled in memory.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import logging
import os
import pickle
import re
import shutil
import stat
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import llvmlite
import numba
import numba.core.ccallback
import numba.core.compiler_lock
import numba.core.errors
import numpy as np
from numba.core import config

from capgpu.cache_folder import cache_folder
from capgpu.kernels.cells import CELLS
from capgpu.kernels.cpu.claims import claim, released
from capgpu.kernels.cpu.front_end import KernelCompiler
from capgpu.kernels.cpu.garbage_collection import rare_collections
from capgpu.kernels.cpu.late_code import compile_late
from capgpu.kernels.loading import holds_compiler_lock, undisturbed
from capgpu.kernels.reserve import COMPILING, LOADING, require_memory

__all__ = [
    "compiled_callback",
    "described",
    "folder",
    "generation",
    "is_empty",
    "keep_on_disk",
    "load_undisturbed",
    "missing",
    "stored",
    "symbols",
    "writable",
]

logger = logging.getLogger("capgpu")

MAGIC = b"capgpu1\n"
HEADER = len(MAGIC) + hashlib.sha256().digest_size
#: Number of generations (sources and versions) that are kept; the oldest are removed.
GENERATIONS = 8
#: Settings of Numba that change the generated code. With Intel's SVML (icc_rt) it calls symbols of that library.
SETTINGS = ("OPT", "LOOP_VECTORIZE", "SLP_VECTORIZE", "BOUNDSCHECK", "DEBUGINFO_DEFAULT", "ENABLE_AVX", "USING_SVML")

#: Exceptions of an unusable entry. No base class of these: an exception of a signal handler must reach the caller.
UNUSABLE = (
    AssertionError,
    AttributeError,
    EOFError,
    ImportError,
    LookupError,
    RuntimeError,
    TypeError,
    ValueError,
    numba.core.errors.NumbaError,
    pickle.UnpicklingError,
)

#: Functions that define the address of each symbol that code may call (`capgpu.kernels.cpu.symbols`). They are called
#: before code is loaded: LLVM ends the process if a symbol has no address.
symbols: dict[str, Callable[[], None]] = {}

#: Functions to call if a kernel is missing on disk, before it is compiled.
missing: list[Callable[[], None]] = []

with contextlib.suppress(AttributeError):
    holds_compiler_lock[:] = [numba.core.compiler_lock.global_compiler_lock.is_locked]

_UNKNOWN_NUMBA = "Numba {} is not known to work ({}). Install a version that capgpu's requirements name."

_warned = False


def folder() -> Path:
    """Return the folder for compiled kernels, whether or not it exists.

    Returns
    -------
    Path
        ``capgpu-UID`` in ``NUMBA_CACHE_DIR`` if that is set, otherwise ``capgpu/kernels`` in ``XDG_CACHE_HOME`` or
        ``~/.cache``.
    """
    numba_cache_dir = os.environ.get("NUMBA_CACHE_DIR")
    if numba_cache_dir:
        return Path(numba_cache_dir).absolute() / (f"capgpu-{os.geteuid()}" if hasattr(os, "geteuid") else "capgpu")
    return cache_folder() / "kernels"


def described() -> str:
    """Return a text with the folder of compiled kernels, the number of files and their size, of all versions."""
    sizes = []
    for file in folder().glob("*/*.nbc"):
        with contextlib.suppress(OSError):  # another process removes an old generation
            sizes.append(file.stat().st_size)
    return f"{folder()} ({len(sizes)} files, {sum(sizes) / 1e6:.1f} MB)"


def generation() -> Path:
    """Return the folder of the kernels that this version compiles for itself, whether or not it exists."""
    return folder() / _generation()


def is_empty() -> bool:
    """Return whether this version has stored no kernel yet."""
    try:
        return not any(name.endswith(".nbc") for name in os.listdir(generation()))
    except OSError as error:  # there is no such folder, or it cannot be opened
        _raise_if_not_of_the_system(error)
        return True


def writable() -> bool:
    """Return whether compiled kernels can be stored on disk."""
    try:
        current = _make_generation()
        return _trusted(current.lstat()) and os.access(current, os.W_OK | os.X_OK)
    except OSError as error:
        _raise_if_not_of_the_system(error)
        return False


@functools.cache
def _generation() -> str:
    """Return the digest that names the generation: of sources, versions and settings, without the processor."""
    digest = hashlib.sha256()
    for file in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(repr((file.name, hashlib.sha256(file.read_bytes()).hexdigest())).encode())
    versions = (sys.version, numba.__version__, llvmlite.__version__, np.__version__)
    # numbers of the cells are constants of compiled code
    digest.update(repr((versions, CELLS, [(name, getattr(config, name, None)) for name in SETTINGS])).encode())
    return digest.hexdigest()[:16]


def keep_on_disk(dispatcher: Any) -> None:
    """Load the machine code of a function from disk, and store it there once it is compiled.

    Parameters
    ----------
    dispatcher : numba.core.dispatcher.Dispatcher
        A compiled function. Only functions at the top level of this package's modules are stored: the key covers their
        names and these modules' contents, not the definition of a function elsewhere.
    """
    try:
        function = dispatcher.py_func
        if not function.__module__.startswith(f"{__package__}.") or "." in function.__qualname__:
            return
        if isinstance(dispatcher._cache, numba.core.caching.NullCache):
            dispatcher._cache = _Cache(function)
            dispatcher.compile = rare_collections()(released()(dispatcher.compile))
    except AttributeError as error:
        _warn(_UNKNOWN_NUMBA.format(numba.__version__, error))


def load_undisturbed(dispatcher: Any) -> None:
    """Protect loading and compiling, at a function's first call for some types, from asynchronous exceptions.

    Parameters
    ----------
    dispatcher : numba.core.dispatcher.Dispatcher
        A compiled function. Its code is loaded or compiled by `capgpu.kernels.loading.undisturbed` from now on.
    """
    try:
        dispatcher._compile_for_args = functools.partial(undisturbed, dispatcher._compile_for_args)
    except AttributeError as error:
        logger.info("capgpu: exceptions can interrupt the loading of kernels: %s", error)


def stored(dispatcher: Any, *args: Any) -> bool:
    """Return whether the code for arguments of these types need not be compiled: it is loaded, or on disk.

    Parameters
    ----------
    dispatcher : numba.core.dispatcher.Dispatcher
        A compiled function.
    *args
        The arguments of a call.
    """
    try:
        kinds = tuple(map(dispatcher.typeof_pyval, args))
        return kinds in dispatcher.overloads or dispatcher._cache.has(kinds, dispatcher.targetctx)
    except UNUSABLE:  # the call will report what is wrong
        return True


def compiled_callback(function: Callable[..., Any], signature: Any) -> Any:
    """Compile a function to be called by its address, or load it from disk.

    Parameters
    ----------
    function : callable
        A function at the top level of a module of this package.
    signature : numba.core.typing.Signature
        Types of its arguments and of its result.

    Returns
    -------
    numba.core.ccallback.CFunc
        Its ``address`` is valid as long as this object exists.
    """
    options = {"nopython": True, "error_model": "numpy", "_nrt": False}
    try:
        wanted = signature.args, signature.return_type
        callback = numba.core.ccallback.CFunc(function, wanted, {}, options, KernelCompiler)
        callback._cache = _Cache(function)
        compile_late(callback, callback._targetdescr.target_context)
        with rare_collections(), released():
            callback.compile()
    except AttributeError as error:
        _warn(_UNKNOWN_NUMBA.format(numba.__version__, error))
        callback = numba.cfunc(signature)(function)
    return callback


class _Cache:
    """The cache of a Numba dispatcher, in place of `numba.core.caching.Cache`."""

    def __init__(self, function: Any) -> None:
        self._name = f"{function.__module__}.{function.__qualname__}"

    @property
    def cache_path(self) -> str:
        return str(generation())

    def enable(self) -> None:
        """Do nothing: the cache is always enabled."""

    def disable(self) -> None:
        """Do nothing: the cache is always enabled."""

    def flush(self) -> None:
        """Do nothing: an entry never becomes invalid."""

    def load_overload(self, signature: Any, target: Any) -> Any:
        """Return the compiled function for some types of arguments, or None if it has to be compiled.

        Raises MemoryError if there is not enough memory to load it, or to compile it afterwards.
        """
        require_memory(LOADING, "load a kernel")
        function = self._load(signature, target)
        if function is None:
            require_memory(COMPILING, "compile a kernel")
            for start in missing:
                start()
            if self._claim(signature, target):  # another process has compiled it
                function = self._load(signature, target)
        return function

    def has(self, signature: Any, target: Any) -> bool:
        """Return whether there is a file for some types of arguments."""
        # unlike Path.exists, raises nothing where the folder cannot be opened, and drops no signal handler's exception
        return os.access(self._path(self._key(signature, target.codegen())), os.R_OK)

    def _claim(self, signature: Any, target: Any) -> bool:
        try:
            entry = self._path(self._key(signature, target.codegen()))
        except UNUSABLE:  # as `_load` has reported
            return False
        return claim(entry, self._name)

    def _load(self, signature: Any, target: Any) -> Any:
        target.refresh()
        try:
            key = self._key(signature, target.codegen())
            payload = _read(self._path(key), key)
            if payload is None:
                return None
            for symbol, provide in symbols.items():
                if symbol.encode() in payload:
                    provide()
            return numba.core.compiler.CompileResult._rebuild(target, *pickle.loads(payload))
        except (*UNUSABLE, OSError) as error:
            _raise_if_not_of_the_system(error)
            logger.info("capgpu: %s is compiled again: %s: %s", self._name, type(error).__name__, error)
            return None

    def save_overload(self, signature: Any, result: Any) -> None:
        """Store a compiled function; after a failure the next process compiles it again."""
        try:
            key = self._key(signature, result.codegen)
            payload = numba.core.serialize.dumps(result._reduce())
        except (AttributeError, TypeError) as error:
            _warn(_UNKNOWN_NUMBA.format(numba.__version__, error))
            return
        try:
            _write(self._path(key), key, payload)
        except OSError as error:
            _raise_if_not_of_the_system(error)
            _warn(f"{folder()}: {error}. Set NUMBA_CACHE_DIR to a folder that can be written.")

    def _key(self, signature: Any, codegen: Any) -> str:
        inputs = repr((_generation(), codegen.magic_tuple(), self._name, str(signature)))
        return hashlib.sha256(inputs.encode()).hexdigest()

    def _path(self, key: str) -> Path:
        return generation() / f"{self._name.rpartition('kernels.cpu.')[2]}-{key[:32]}.nbc"


def _warn(cause: str) -> None:
    global _warned
    if not _warned:
        _warned = True
        logger.warning("capgpu: compiled kernels cannot be kept on disk: each process compiles them again. %s", cause)


def _raise_if_not_of_the_system(error: Exception) -> None:
    """Raise an OSError without errno again: it is not of a file, but for instance a signal handler's TimeoutError."""
    if isinstance(error, OSError) and error.errno is None:
        raise error


def _trusted(status: os.stat_result) -> bool:
    """Return whether a file or folder belongs to this user and cannot be written by others."""
    return not hasattr(os, "geteuid") or (status.st_uid == os.geteuid() and not status.st_mode & 0o022)


def _read(path: Path, key: str) -> bytes | None:
    """Return an entry's payload, or None if it is missing, incomplete or not trusted."""
    try:
        if not _trusted(path.parent.lstat()):
            return None
        # refuse a symbolic link, and do not block on a pipe without writer
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0))
    except OSError:
        return None
    with open(descriptor, "rb") as file:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode) or not _trusted(status):
            return None
        data = file.read()
    header, body = data[:HEADER], data[HEADER:]
    if header != MAGIC + hashlib.sha256(body).digest() or not body.startswith(key.encode()):
        return None
    return body[len(key) :]


def _write(path: Path, key: str, payload: bytes) -> None:
    """Store an entry atomically."""
    parent = _make_generation(path.parent)
    if not _trusted(parent.lstat()):
        raise PermissionError(f"expected a folder that belongs to this user and only they can write, got {parent}")
    body = key.encode() + payload
    descriptor, temporary = tempfile.mkstemp(dir=parent, prefix=path.name, suffix=".tmp")  # mode 0o600
    try:
        with open(descriptor, "wb") as file:
            file.write(MAGIC + hashlib.sha256(body).digest() + body)
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise


def _make_generation(generation: Path | None = None) -> Path:
    """Create the folder of a generation, by default the current one, if it is missing; return it."""
    generation = folder() / _generation() if generation is None else generation
    if not generation.is_dir():
        generation.parent.mkdir(parents=True, exist_ok=True)
        generation.mkdir(mode=0o700, exist_ok=True)
        _remove_old_generations(generation)
    return generation


def _remove_old_generations(current: Path) -> None:
    """Remove all but the newest generations; a process that still uses a removed one compiles what is missing."""
    generations = [path for path in current.parent.iterdir() if re.fullmatch(r"[0-9a-f]{16}", path.name)]
    with contextlib.suppress(OSError):
        generations.sort(key=lambda path: path.lstat().st_mtime)
        for generation in generations[:-GENERATIONS]:
            if generation != current and not generation.is_symlink():
                shutil.rmtree(generation, ignore_errors=True)
