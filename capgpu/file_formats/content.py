"""The content of a file, up to a limit."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import IO

from capgpu.errors import CapgpuError

__all__ = ["read_content"]

#: Bytes that are read of a pipe or device, whose size is unknown: /dev/zero has no end.
_MOST_OF_A_PIPE = 1 << 28
_BYTES_AT_ONCE = 1 << 20


def read_content(path: str | os.PathLike[str], max_bytes: int, error: type[CapgpuError]) -> bytes:
    """Read a file whole.

    Parameters
    ----------
    path : path
        The file.
    max_bytes : int
        The largest number of bytes; of a pipe or device at most 256 MiB.
    error : type of CapgpuError
        Exception for a larger file.

    Returns
    -------
    bytes
        The content.

    Raises
    ------
    CapgpuError
        Of the given type, for a larger file; nothing of it is read.
    OSError
        If the file cannot be read.
    """
    with open(path, "rb") as file:
        regular = os.path.isfile(path)
        limit = max_bytes if regular else min(max_bytes, _MOST_OF_A_PIPE)
        size = os.fstat(file.fileno()).st_size if regular else 0
        content = b""
        if size <= limit:
            content = file.read() if regular else b"".join(_parts(file, limit))
    if max(size, len(content)) > limit:
        found = f"{size:,}" if regular else "more"
        raise error(f"{os.fspath(path)}: expected at most {limit:,} bytes, got {found}.")
    return content


def _parts(file: IO[bytes], limit: int) -> Iterator[bytes]:
    """Yield the bytes of a file in parts until they are more than the limit."""
    read = 0
    while read <= limit and (part := file.read(_BYTES_AT_ONCE)):
        read += len(part)
        yield part
