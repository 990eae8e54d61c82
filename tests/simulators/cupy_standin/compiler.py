"""``cupy.cuda.compiler``: the error of sources that do not compile."""

from __future__ import annotations

from typing import IO


class CompileException(Exception):
    """A source does not compile; the message is the compiler's log."""

    def __init__(self, msg: str, source: str, name: str, options: tuple[str, ...], backend: str = "nvrtc") -> None:
        super().__init__(msg)
        self._msg = msg
        self.source = source
        self.name = name
        self.options = options
        self.backend = backend

    def __str__(self) -> str:
        return self._msg

    def get_message(self) -> str:
        """Return the log."""
        return self._msg

    def dump(self, f: IO[str]) -> None:
        """Write the source with its lines numbered, and the log, to a file."""
        lines = self.source.split("\n")
        digits = len(str(len(lines)))
        f.write(f"{self.backend} compilation error: {self._msg}\n-----\nName: {self.name}\n")
        f.write(f"Options: {' '.join(self.options)}\nCUDA source:\n")
        f.writelines(f"{number + 1:0{digits}d} {line.rstrip()}\n" for number, line in enumerate(lines))
        f.write("-----\n")


CompileException.__module__ = "cupy.cuda.compiler"
