"""Compiled kernels on disk: one file for each function, types and processor, named by a digest of all that decides it.

Numba's own cache is not used. It keeps an index for each function that processes read, change and write without a lock:
of two that compile for two dtypes at once, one can replace the data file that the other's index names, and later
processes then run the code of the other dtype. It notices changes by time stamps, and a truncated index makes every
later call fail. Here there is no index. A file is

    magic (8 bytes) | SHA-256 of the rest (32 bytes) | key (64 bytes) | pickled machine code

and is renamed into place when it is complete. Processes that compile at once write equal files under one name. The key
is a digest of the contents of this package's sources, the versions of Python, NumPy, Numba and llvmlite, the settings
of Numba that change code, the processor and its features, the function and the types of its arguments. A file that is
truncated, or belongs to another key, is compiled anew and replaced. So is everything where a file cannot be read; where
none can be written, kernels are compiled in memory, with one warning.

Unpickling can execute code. A file is read only if it is a regular file that belongs to this user and that nobody else
can write, in a folder of which the same is true.

This file and `capgpu.kernels.cpu.late_code` are the only ones that use private names of Numba; where those of this file
are missing, kernels are compiled in memory.
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
from capgpu.kernels.cpu.claims import claim, released
from capgpu.kernels.cpu.late_code import compile_late
from capgpu.kernels.loading import holds_compiler_lock, undisturbed
from capgpu.kernels.reserve import COMPILING, LOADING, require_memory

__all__ = [
    "compiled_callback",
    "described",
    "folder",
    "keep_on_disk",
    "load_undisturbed",
    "missing",
    "symbols",
    "writable",
]

logger = logging.getLogger("capgpu")

MAGIC = b"capgpu1\n"
HEADER = len(MAGIC) + hashlib.sha256().digest_size
#: Generations (sources and versions) that are kept; the least recently used ones are removed.
GENERATIONS = 8
#: Settings of Numba that change the code which it makes.
SETTINGS = ("OPT", "LOOP_VECTORIZE", "SLP_VECTORIZE", "BOUNDSCHECK", "DEBUGINFO_DEFAULT", "ENABLE_AVX")

#: What an entry raises that cannot be used. Nothing wider: an exception from a signal handler belongs to the caller.
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

#: Symbols that code may call (`capgpu.kernels.cpu.symbols`), and what gives them their addresses: LLVM ends the process
#: where it finds none.
symbols: dict[str, Callable[[], None]] = {}

#: Called where a kernel is missing on disk, before it is compiled.
missing: list[Callable[[], None]] = []

with contextlib.suppress(AttributeError):
    holds_compiler_lock[:] = [numba.core.compiler_lock.global_compiler_lock.is_locked]

_UNKNOWN_NUMBA = "Numba {} is not known to work ({}). Install a version that capgpu's requirements name."

_warned = False


def folder() -> Path:
    """Return the folder in which compiled kernels are kept, whether or not it exists.

    Returns
    -------
    Path
        ``capgpu-UID`` in ``NUMBA_CACHE_DIR`` where that is set, else ``capgpu/kernels`` in ``XDG_CACHE_HOME`` or
        ``~/.cache``.
    """
    given = os.environ.get("NUMBA_CACHE_DIR")
    if given:
        return Path(given).absolute() / (f"capgpu-{os.geteuid()}" if hasattr(os, "geteuid") else "capgpu")
    return cache_folder() / "kernels"


def described() -> str:
    """Return in words where compiled kernels are kept, and how much: of this version and of others."""
    sizes = []
    for file in folder().glob("*/*.nbc"):
        with contextlib.suppress(OSError):  # another process removes an old generation
            sizes.append(file.stat().st_size)
    return f"{folder()} ({len(sizes)} files, {sum(sizes) / 1e6:.1f} MB)"


def writable() -> bool:
    """Return whether compiled kernels can be kept on disk."""
    try:
        generation = _make_generation()
        return _trusted(generation.lstat()) and os.access(generation, os.W_OK | os.X_OK)
    except OSError as error:
        _raise_if_not_of_the_system(error)
        return False


@functools.cache
def _generation() -> str:
    """Return a digest of everything that decides the code of all functions alike, except for the processor."""
    digest = hashlib.sha256()
    for file in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(repr((file.name, hashlib.sha256(file.read_bytes()).hexdigest())).encode())
    versions = (sys.version, numba.__version__, llvmlite.__version__, np.__version__)
    digest.update(repr((versions, [(name, getattr(config, name, None)) for name in SETTINGS])).encode())
    return digest.hexdigest()[:16]


def keep_on_disk(dispatcher: Any) -> None:
    """Load the machine code of a function from disk, and store it there once it is compiled.

    Parameters
    ----------
    dispatcher : numba.core.dispatcher.Dispatcher
        A compiled function. Only functions at the top level of this package's modules are stored: the key holds their
        names and the contents of these modules, not what a function defined elsewhere is made of.
    """
    try:
        function = dispatcher.py_func
        if not function.__module__.startswith(f"{__package__}.") or "." in function.__qualname__:
            return
        if isinstance(dispatcher._cache, numba.core.caching.NullCache):
            dispatcher._cache = _Cache(function)
            dispatcher.compile = released()(dispatcher.compile)
    except AttributeError as error:
        _warn(_UNKNOWN_NUMBA.format(numba.__version__, error))


def load_undisturbed(dispatcher: Any) -> None:
    """Protect from asynchronous exceptions what precedes a function's first call for some types of arguments.

    Parameters
    ----------
    dispatcher : numba.core.dispatcher.Dispatcher
        A compiled function. Its code is loaded or compiled by `capgpu.kernels.loading.undisturbed` from now on.
    """
    try:
        dispatcher._compile_for_args = functools.partial(undisturbed, dispatcher._compile_for_args)
    except AttributeError as error:
        logger.info("capgpu: exceptions can interrupt the loading of kernels: %s", error)


def compiled_callback(function: Callable[..., Any], signature: Any) -> Any:
    """Compile a function for callers that hold its address, or load it from disk.

    Parameters
    ----------
    function : callable
        At the top level of a module of this package.
    signature : numba.core.typing.Signature
        Types of its arguments and of its result.

    Returns
    -------
    numba.core.ccallback.CFunc
        Its ``address`` is valid as long as this object exists.
    """
    options = {"nopython": True, "error_model": "numpy", "_nrt": False}
    try:
        made = numba.core.ccallback.CFunc(function, (signature.args, signature.return_type), {}, options)
        made._cache = _Cache(function)
        compile_late(made._compiler, made._targetdescr.target_context)
        with released():
            made.compile()
    except AttributeError as error:
        _warn(_UNKNOWN_NUMBA.format(numba.__version__, error))
        made = numba.cfunc(signature)(function)
    return made


class _Cache:
    """What a dispatcher of Numba asks for code, in the place of `numba.core.caching.Cache`."""

    def __init__(self, function: Any) -> None:
        self._name = f"{function.__module__}.{function.__qualname__}"

    @property
    def cache_path(self) -> str:
        return str(folder() / _generation())

    def enable(self) -> None:
        """Do nothing: the cache of these functions is not turned off."""

    def disable(self) -> None:
        """Do nothing: the cache of these functions is not turned off."""

    def flush(self) -> None:
        """Do nothing: an entry never becomes wrong."""

    def load_overload(self, signature: Any, target: Any) -> Any:
        """Return the compiled function for some types of arguments, or None where there is none to be trusted.

        Raises MemoryError where there is not enough memory to load it, or to compile it afterwards.
        """
        require_memory(LOADING, "load a kernel")
        found = self._load(signature, target)
        if found is None:
            require_memory(COMPILING, "compile a kernel")
            for start in missing:
                start()
            if self._claim(signature, target):  # another process has compiled it
                found = self._load(signature, target)
        return found

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
            logger.info("capgpu: %s is compiled anew: %s: %s", self._name, type(error).__name__, error)
            return None

    def save_overload(self, signature: Any, result: Any) -> None:
        """Store a compiled function; a failure costs no more than compiling it again in the next process."""
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
        described = repr((_generation(), codegen.magic_tuple(), self._name, str(signature)))
        return hashlib.sha256(described.encode()).hexdigest()

    def _path(self, key: str) -> Path:
        return folder() / _generation() / f"{self._name.rpartition('kernels.cpu.')[2]}-{key[:32]}.nbc"


def _warn(cause: str) -> None:
    global _warned
    if not _warned:
        _warned = True
        logger.warning("capgpu: compiled kernels cannot be kept on disk: each process compiles them again. %s", cause)


def _raise_if_not_of_the_system(error: Exception) -> None:
    """Raise an OSError again that has no number: a TimeoutError from a signal handler, not a failure of a file."""
    if isinstance(error, OSError) and error.errno is None:
        raise error


def _trusted(status: os.stat_result) -> bool:
    """Return whether a file or folder is this user's and nobody else can write it."""
    return not hasattr(os, "geteuid") or (status.st_uid == os.geteuid() and not status.st_mode & 0o022)


def _read(path: Path, key: str) -> bytes | None:
    """Return an entry's payload; None where there is none, or none that is complete and this user's own."""
    try:
        if not _trusted(path.parent.lstat()):
            return None
        # neither a link to another place nor a pipe that nobody writes to
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0))
    except OSError:
        return None
    with open(descriptor, "rb") as file:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode) or not _trusted(status):
            return None
        data = file.read()
    head, body = data[:HEADER], data[HEADER:]
    if head != MAGIC + hashlib.sha256(body).digest() or not body.startswith(key.encode()):
        return None
    return body[len(key) :]


def _write(path: Path, key: str, payload: bytes) -> None:
    """Store an entry: complete, or not at all."""
    generation = _make_generation(path.parent)
    if not _trusted(generation.lstat()):
        raise PermissionError(f"expected a folder of this user's that no other can write, got {generation}")
    body = key.encode() + payload
    descriptor, temporary = tempfile.mkstemp(dir=generation, prefix=path.name, suffix=".tmp")  # mode 0o600
    try:
        with open(descriptor, "wb") as file:
            file.write(MAGIC + hashlib.sha256(body).digest() + body)
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise


def _make_generation(generation: Path | None = None) -> Path:
    """Make the folder of a generation, by default of this one, unless it is there; return it."""
    generation = folder() / _generation() if generation is None else generation
    if not generation.is_dir():
        generation.parent.mkdir(parents=True, exist_ok=True)
        generation.mkdir(mode=0o700, exist_ok=True)
        _remove_old_generations(generation)
    return generation


def _remove_old_generations(current: Path) -> None:
    """Remove all but the most recently begun generations; a process that still uses one compiles what it misses."""
    others = [place for place in current.parent.iterdir() if re.fullmatch(r"[0-9a-f]{16}", place.name)]
    with contextlib.suppress(OSError):
        others.sort(key=lambda place: place.lstat().st_mtime)
        for place in others[:-GENERATIONS]:
            if place != current and not place.is_symlink():
                shutil.rmtree(place, ignore_errors=True)
