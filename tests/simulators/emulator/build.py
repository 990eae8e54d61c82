"""Compiling kernels for the CPU by the host's C++ compiler, with a cache keyed by source, options and compiler."""

from __future__ import annotations

import functools
import hashlib
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent
HEADER = HERE / "cuda_on_host.h"
RUNTIME = HERE / "runtime"
LANGUAGE = ("cuda_on_host.h", "half_types.h", "vector_types.h", "runtime/interface.h", "runtime/launch_stub.h")
LIBRARY = ("api", "block", "fiber", "interface", "launch")

#: Options of NVRTC that do not concern a compiler for the CPU.
IGNORED = re.compile(r"--?(std=c\+\+\d\d|use_fast_math|(fmad|ftz)=(true|false)|lineinfo|generate-line-info)$")
KERNEL = re.compile(r'extern\s+"C"\s+__global__\s+void\b')
COMMENT = re.compile(r"//[^\n]*|/\*.*?\*/", re.DOTALL)


class BuildError(Exception):
    """A source does not compile; the message is the compiler's log."""


@dataclass(frozen=True)
class Variant:
    """A set of compiler flags for kernels and the runtime.

    Attributes
    ----------
    name : str
        Part of file names.
    kernel_flags, runtime_flags, program_flags : tuple of str
        Flags for kernels, for the runtime, and for the program that replays launches under a sanitizer.
    """

    name: str
    kernel_flags: tuple[str, ...]
    runtime_flags: tuple[str, ...] = ()
    program_flags: tuple[str, ...] = ()


#: In this process: the compiler's own checks of alignment, null and declared bounds, reported by the runtime.
PLAIN = Variant("plain", ("-fsanitize=alignment,null,bounds", "-fno-sanitize-recover=all"))
#: AddressSanitizer and UBSan, in a separate process.
ADDRESS = Variant(
    "address",
    ("-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-g1", "-fno-omit-frame-pointer", "-DEMULATED_ASAN"),
    ("-DEMULATOR_ASAN",),
    ("-fsanitize=address,undefined",),
)
#: ThreadSanitizer, in a separate process.
THREAD = Variant(
    "thread",
    ("-fsanitize=thread", "-g1", "-fno-omit-frame-pointer"),
    ("-DEMULATOR_TSAN",),
    ("-fsanitize=thread",),
)
SANITIZERS = (ADDRESS, THREAD)


@functools.cache
def compiler() -> str | None:
    """Return the C++ compiler of this machine; GCC is preferred, whose sanitizers support the runtime's fibers."""
    return next((path for name in ("g++", "c++", "clang++") if (path := shutil.which(name))), None)


@functools.cache
def missing() -> str | None:
    """Return what this machine lacks for running kernels on the CPU, or None."""
    return None if compiler() else "no C++ compiler (g++) on this machine"


@functools.cache
def missing_sanitizer(variant: Variant) -> str | None:
    """Return why a sanitizer's programs cannot be built and run here, or None if they can."""
    if missing():
        return missing()
    with tempfile.TemporaryDirectory() as folder:
        program = Path(folder) / "program"
        built = subprocess.run(
            [str(compiler()), *variant.program_flags, "-x", "c++", "-", "-o", str(program)],
            input="int main() { return 0; }",
            capture_output=True,
            text=True,
            check=False,
        )
        if built.returncode:
            return f"the compiler has no runtime for {' '.join(variant.program_flags)}"
        ran = subprocess.run([program], capture_output=True, text=True, check=False)
        return f"the {variant.name} sanitizer does not run here: {ran.stderr.strip()}" if ran.returncode else None


@functools.cache
def entry_points(code: str) -> Mapping[str, str]:
    """Find the kernels of a source.

    Returns
    -------
    mapping of str
        The first launch bound, an expression or ``"0"``, by the name of each ``extern "C" __global__`` function.
    """
    code = COMMENT.sub(" ", code)
    bounds_by_kernel = {}
    for start in KERNEL.finditer(code):
        remainder = code[start.end() :]
        bounds = "0"
        launch_bounds = re.match(r"\s*__launch_bounds__\s*\(", remainder)
        if launch_bounds:
            depth, end = 1, launch_bounds.end()
            commas = []
            while depth:
                depth += {"(": 1, ")": -1}.get(remainder[end], 0)
                if remainder[end] == "," and depth == 1:
                    commas.append(end)
                end += 1
            bounds = remainder[launch_bounds.end() : commas[0] if commas else end - 1].strip()
            remainder = remainder[end:]
        name = re.match(r"\s*(\w+)\s*\(", remainder)
        if name:
            bounds_by_kernel[name[1]] = bounds
    return bounds_by_kernel


def macros(options: tuple[str, ...]) -> list[str]:
    """Return the ``-D`` options among NVRTC's; raise for an unknown option."""
    defined = []
    for option in options:
        if option.startswith("-D") and len(option) > 2:
            defined.append(option)
        elif not IGNORED.match(option):
            raise BuildError(f"nvrtc: error: unrecognized option {option}")
    return defined


class BuildCache:
    """Compiles into a folder, and reuses what has been compiled before.

    Parameters
    ----------
    folder : path
        Persistent folder, in which file names contain digests of the inputs. Processes may share it.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def library(self) -> Path:
        """Compile the runtime as a library for this process."""
        return self._runtime(PLAIN, (*LIBRARY, "checks"), ".so", ("-shared",))

    def program(self, variant: Variant = PLAIN) -> Path:
        """Compile the program that replays launches from files."""
        own_checks = () if "undefined" in "".join(variant.program_flags) else ("checks",)
        flags = (*variant.program_flags, "-rdynamic")
        return self._runtime(variant, (*LIBRARY, *own_checks, "replay"), "", flags)

    def kernel(self, code: str, options: tuple[str, ...], variant: Variant = PLAIN) -> Path:
        """Compile a module's source, together with stubs that call its entry points.

        Raises
        ------
        BuildError
            With the compiler's log.
        """
        kernels = entry_points(preprocessed(code, macros(options)))
        stubs = "".join(f"EMULATED_KERNEL({name}, ({bounds}))\n" for name, bounds in kernels.items())
        source = f'#line 1 "kernel"\n{code}\n#line 1 "stubs"\n#include "runtime/launch_stub.h"\n{stubs}'
        flags = [
            *("-shared", f"-I{self._header(variant).parent}", "-include", HEADER.name),
            *_kernel_flags(variant),
            *macros(options),
        ]
        name = f"kernel-{variant.name}-{self._digest(source, *flags, *map(_text, LANGUAGE))}.so"
        return self._make(name, lambda target: self._compile_kernel(source, flags, variant, target))

    def _header(self, variant: Variant) -> Path:
        """Compile what every kernel includes: parsing it takes longer than compiling many a kernel."""
        flags = _kernel_flags(variant)
        name = f"header-{variant.name}-{self._digest(*flags, *map(_text, LANGUAGE))}/{HEADER.name}.gch"
        command = [str(compiler()), *flags, "-x", "c++-header", str(HEADER), "-o"]
        return self._make(name, lambda target: _run([*command, str(target)]))

    def _compile_kernel(self, source: str, flags: list[str], variant: Variant, target: Path) -> None:
        text = target.with_suffix(".cpp")
        text.write_text(source, encoding="utf-8")
        if variant is not ADDRESS:
            _run([str(compiler()), *flags, str(text), "-o", str(target)])
            return
        assembly = target.with_suffix(".s")
        _run([str(compiler()), *(flag for flag in flags if flag != "-shared"), "-S", str(text), "-o", str(assembly)])
        assembly.write_text(with_redzones(assembly.read_text()))
        _run([str(compiler()), "-shared", *variant.program_flags, str(assembly), "-o", str(target)])

    def _runtime(self, variant: Variant, parts: tuple[str, ...], suffix: str, flags: tuple[str, ...]) -> Path:
        sources = [RUNTIME / f"{part}.cpp" for part in parts]
        all_sources = [path.read_text() for path in sorted(RUNTIME.iterdir()) if path.suffix in (".h", ".cpp")]
        common_flags = ("-std=c++17", "-O2", "-g1", "-fPIC", "-pthread", *variant.runtime_flags)
        name = f"runtime-{variant.name}-{self._digest(*all_sources, *common_flags, *parts, *flags)}{suffix}"

        def build(target: Path) -> None:
            objects = [self._object(path, common_flags, all_sources) for path in sources]
            _run([str(compiler()), "-pthread", *flags, *map(str, objects), "-ldl", "-o", str(target)])

        return self._make(name, build)

    def _object(self, path: Path, flags: tuple[str, ...], all_sources: list[str]) -> Path:
        """Compile a part of the runtime, which a library and a program may share."""
        name = f"runtime-{path.stem}-{self._digest(*all_sources, *flags)}.o"
        command = [str(compiler()), *flags, "-c", str(path), "-o"]
        return self._make(name, lambda target: _run([*command, str(target)]))

    def _digest(self, *parts: str) -> str:
        return hashlib.sha256("\0".join((_version(), *parts)).encode()).hexdigest()[:24]

    def _make(self, name: str, build: object) -> Path:
        final = self.folder / name
        if not final.exists():
            final.parent.mkdir(exist_ok=True)
            with tempfile.TemporaryDirectory(dir=self.folder) as work:
                target = Path(work) / final.name
                build(target)  # type: ignore[operator]
                os.replace(target, final)
        return final


def with_redzones(assembly: str) -> str:
    """Insert 64 bytes before and after every thread-local variable of an assembly text.

    AddressSanitizer does not protect thread-local variables, which represent shared memory; the runtime poisons the
    bytes between them.
    """
    lines, local = [], False
    for line in assembly.splitlines():
        section = re.match(r"\s*\.(section\s+)?(\.?\w+)", line)
        if section and (section[1] or section[2] in (".text", ".data", ".bss", "text", "data", "bss")):
            local = ".tbss" in line
            lines.append(f"{line}\n\t.zero\t64" if local else line)
            continue
        lines.append(line)
        if local and re.match(r"\s*\.zero\s+\d+", line):
            lines.append("\t.zero\t64")
    return "\n".join(lines) + "\n"


def shared_variables(module: Path) -> list[tuple[str, int, int]]:
    """Return name, offset and size of every static shared variable in a compiled module's thread-local memory."""
    listing = _run(["readelf", "--wide", "--symbols", str(module)])
    variables = set()
    for line in listing.splitlines():
        words = line.split()
        if len(words) >= 8 and words[3] == "TLS" and words[6] != "UND":
            variables.add((words[7], int(words[1], 16), int(words[2], 0)))
    return sorted(variables, key=lambda variable: variable[1])


def shared_memory(module: Path) -> dict[str, int]:
    """Return the bytes of static shared memory that each function of a compiled module declares."""
    total: dict[str, int] = {}
    for name, _, size in shared_variables(module):
        mangled = re.match(r"_ZZ(\d+)", name)  # a variable x in f: _ZZ1fE1x, or _ZZ1fifE1x with f's parameters
        owner = name[mangled.end() :][: int(mangled[1])] if mangled else ""
        if owner != "emulated_anchor":
            total[owner] = total.get(owner, 0) + size
    return total


def _kernel_flags(variant: Variant) -> tuple[str, ...]:
    """Return the flags of kernels and of the header that they include; that is valid for the same flags only."""
    flags = ("-std=c++17", "-Og", "-fPIC", "-ffp-contract=off", "-fno-gnu-unique", "-ftls-model=global-dynamic")
    return (*flags, "-w", "-DCAPGPU_EMULATED", f"-I{HERE}", *variant.kernel_flags)


def _text(name: str) -> str:
    return (HERE / name).read_text(encoding="utf-8")


@functools.cache
def _version() -> str:
    return _run([str(compiler()), "--version"])


def preprocessed(code: str, defined: list[str]) -> str:
    """Expand a source's own macros, on which names of kernels may depend, but not CUDA's keywords."""
    return _run([str(compiler()), "-E", "-P", "-x", "c++", "-DCAPGPU_EMULATED", *defined, "-"], code)


def _run(command: list[str], text: str | None = None) -> str:
    process = subprocess.run(command, input=text, capture_output=True, text=True, check=False)
    if process.returncode:
        raise BuildError(process.stderr)
    return process.stdout
