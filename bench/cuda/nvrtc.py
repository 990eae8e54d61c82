"""NVRTC from PyPI, without a GPU, a driver or a toolkit.

``nvidia-cuda-nvrtc`` contains the compiler and ``nvidia-cuda-runtime`` the headers of the half types. The library is
called through ctypes, since a binding would be another dependency for seven functions.
"""

from __future__ import annotations

import ctypes
import functools
import importlib.util
from dataclasses import dataclass
from pathlib import Path

__all__ = ["CUPY_OPTIONS", "CompilationFailedError", "Compiled", "MissingCompilerError", "Nvrtc", "find"]

#: Options that CuPy 14 adds to those of a RawModule (cupy/cuda/compiler.py), except for architecture and include paths.
CUPY_OPTIONS = ("-ftz=true", "--device-as-default-execution-space")


class MissingCompilerError(RuntimeError):
    """The packages with the compiler are not installed; the message names them."""


class CompilationFailedError(RuntimeError):
    """NVRTC refused a source; the message is its log."""


@dataclass(frozen=True)
class Compiled:
    """Machine code of one source for one architecture, and the compiler's log."""

    code: bytes
    log: str


def _folder() -> Path:
    try:
        spec = importlib.util.find_spec("nvidia.cu13")
    except ModuleNotFoundError:
        spec = None
    for folder in (spec.submodule_search_locations or ()) if spec is not None else ():
        if any(Path(folder, "lib").glob("libnvrtc.so.*")):
            return Path(folder)
    raise MissingCompilerError("nvidia-cuda-nvrtc is not installed: pip install -e '.[cuda-compile]'")


class Nvrtc:
    """The compiler.

    Attributes
    ----------
    version : str
        For instance ``"13.0"``.
    architectures : tuple of int
        Supported architectures: 75 is sm_75.
    """

    def __init__(self, folder: Path) -> None:
        if not (folder / "include" / "cuda_fp16.h").exists():
            raise MissingCompilerError(
                "nvidia-cuda-runtime, which has cuda_fp16.h, is not installed: pip install -e '.[cuda-compile]'"
            )
        self._library = ctypes.CDLL(str(next((folder / "lib").glob("libnvrtc.so.*"))))
        self._library.nvrtcGetErrorString.restype = ctypes.c_char_p
        self._include = f"--include-path={folder / 'include'}"
        major, minor = ctypes.c_int(), ctypes.c_int()
        self._call("Version", ctypes.byref(major), ctypes.byref(minor))
        self.version = f"{major.value}.{minor.value}"
        count = ctypes.c_int()
        self._call("GetNumSupportedArchs", ctypes.byref(count))
        numbers = (ctypes.c_int * count.value)()
        self._call("GetSupportedArchs", numbers)
        self.architectures = tuple(numbers)

    def _call(self, name: str, *args: object) -> None:
        code = getattr(self._library, f"nvrtc{name}")(*args)
        if code:
            raise RuntimeError(f"nvrtc{name}: {self._library.nvrtcGetErrorString(code).decode()}")

    def _bytes(self, name: str, program: ctypes.c_void_p) -> bytes:
        size = ctypes.c_size_t()
        self._call(f"Get{name}Size", program, ctypes.byref(size))
        buffer = ctypes.create_string_buffer(size.value)
        self._call(f"Get{name}", program, buffer)
        return buffer.raw

    def compile(self, source: str, options: tuple[str, ...], architecture: int) -> Compiled:
        """Compile a source with CuPy's options, and have the assembler log each kernel's resources.

        Parameters
        ----------
        source : str
            CUDA C++.
        options : tuple of str
            Options of ``cupy.RawModule``.
        architecture : int
            75 for sm_75.

        Raises
        ------
        CompilationFailedError
            With the compiler's log.
        """
        all_options = (*options, *CUPY_OPTIONS, f"-arch=sm_{architecture}", self._include, "--ptxas-options=-v")
        array = (ctypes.c_char_p * len(all_options))(*(option.encode() for option in all_options))
        program = ctypes.c_void_p()
        self._call("CreateProgram", ctypes.byref(program), source.encode(), b"kernel.cu", 0, None, None)
        try:
            failed = self._library.nvrtcCompileProgram(program, len(all_options), array)
            log = self._bytes("ProgramLog", program).rstrip(b"\0").decode()
            if failed:
                raise CompilationFailedError(f"sm_{architecture}, options {' '.join(options)}:\n{log}")
            return Compiled(self._bytes("CUBIN", program), log)
        finally:
            self._call("DestroyProgram", ctypes.byref(program))


@functools.cache
def find() -> Nvrtc:
    """Return the compiler of this environment.

    Raises
    ------
    MissingCompilerError
        If a package is missing.
    """
    return Nvrtc(_folder())
