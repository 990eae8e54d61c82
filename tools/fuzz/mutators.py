"""Mutations of files: of any bytes, of text, and of JSON, safetensors, NumPy, zip and PNG structures."""

from __future__ import annotations

import io
import json
import re
import struct
import warnings
import zipfile
import zlib
from collections.abc import Callable, Sequence
from copy import deepcopy
from random import Random
from typing import Any

import numpy as np

__all__ = [
    "BYTES",
    "JSON",
    "JSON_LINES",
    "NPY",
    "NPZ",
    "PNG",
    "SAFETENSORS",
    "TEXT",
    "Mutator",
    "sealed_safetensors",
]

Mutator = Callable[[Random, bytes], bytes]

_EXTREMES = (0, 1, -1, 2**15, 2**16, 2**31 - 1, 2**31, 2**32 - 1, 2**40, 2**62, 2**63 - 1, 2**63, 2**64 - 1)
_ODD_TEXTS = ('"', "'", "\0", "\x1b[2J", "\ufeff", "\r", "\u2028", "\t", ",", "\n\n", "#", "../", "{", "]", "x" * 70000)

# --- any bytes ---------------------------------------------------------------------------------------------


def _span(random: Random, content: bytes) -> tuple[int, int]:
    start = random.randrange(len(content) + 1)
    return start, min(start + random.choice((1, 4, 16, 100, len(content) // 3 + 1)), len(content))


def _flip_bits(random: Random, content: bytes) -> bytes:
    changed = bytearray(content)
    for _ in range(random.choice((1, 1, 2, 8))):
        changed[random.randrange(len(changed))] ^= 1 << random.randrange(8)
    return bytes(changed)


def _truncate(random: Random, content: bytes) -> bytes:
    return content[: random.randrange(len(content))]


def _remove(random: Random, content: bytes) -> bytes:
    start, end = _span(random, content)
    return content[:start] + content[end:]


def _repeat(random: Random, content: bytes) -> bytes:
    start, end = _span(random, content)
    return content[:end] + content[start:end] * random.choice((1, 1, 3)) + content[end:]


def _overwrite(random: Random, content: bytes) -> bytes:
    start, end = _span(random, content)
    fill = random.choice((b"\0", b"\xff", None))
    return content[:start] + (random.randbytes(end - start) if fill is None else fill * (end - start)) + content[end:]


def _move(random: Random, content: bytes) -> bytes:
    start, end = _span(random, content)
    rest = content[:start] + content[end:]
    target = random.randrange(len(rest) + 1)
    return rest[:target] + content[start:end] + rest[target:]


def _append(random: Random, content: bytes) -> bytes:
    return content + random.choice((b"\0", b"\n", random.randbytes(9), content))


def _extreme_integer(random: Random, content: bytes) -> bytes:
    """Overwrite 1 to 8 bytes by an integer of an extreme value; near the start, where headers are, more often."""
    width = random.choice((1, 2, 4, 8))
    end = min(len(content), random.choice((64, 512, len(content))))
    position = random.randrange(max(end - width, 1))
    value = random.choice(_EXTREMES) % (1 << (8 * width))
    return content[:position] + value.to_bytes(width, random.choice(("little", "big"))) + content[position + width :]


BYTES: tuple[Mutator, ...] = (
    *(_flip_bits, _truncate, _remove, _repeat, _overwrite, _move, _append),
    *(_extreme_integer, _extreme_integer),
)

# --- text --------------------------------------------------------------------------------------------------


def _change_number(random: Random, content: bytes) -> bytes:
    found = list(re.finditer(rb"-?\d+(?:\.\d+)?(?:e-?\d+)?", content))
    if not found:
        return _flip_bits(random, content)
    chosen = random.choice(found)
    value = random.choice(("0", "-1", "1", "1e999", "NaN", "-0.0", "9" * 20, "9" * 5000, "0.5", str(2**31), "1e308"))
    return content[: chosen.start()] + value.encode() + content[chosen.end() :]


def _insert_text(random: Random, content: bytes) -> bytes:
    position = random.randrange(len(content) + 1)
    odd = random.choice((*_ODD_TEXTS, None))
    return content[:position] + (b"\xff" if odd is None else odd.encode()) + content[position:]


def _change_line(random: Random, content: bytes) -> bytes:
    """Remove, repeat, empty or exchange lines."""
    lines = content.splitlines(keepends=True)
    one, other = random.randrange(len(lines)), random.randrange(len(lines))
    match random.randrange(4):
        case 0:
            del lines[one]
        case 1:
            lines.insert(other, lines[one])
        case 2:
            lines[one] = random.choice((b"\n", b"[]\n", b"null\n", b'{"kind": []}\n', b"\xff\n", b"[" * 99999 + b"\n"))
        case _:
            lines[one], lines[other] = lines[other], lines[one]
    return b"".join(lines)


TEXT: tuple[Mutator, ...] = (*BYTES, _change_number, _change_number, _insert_text, _insert_text, _change_line)

# --- JSON --------------------------------------------------------------------------------------------------

#: Marks in the text of what the json module does not write: replaced after writing.
_MARKS: dict[str, str] = {
    f"@@{name}@@": text
    for name, text in {
        "deep list": "[" * 99999 + "]" * 99999,
        "deep object": '{"a":' * 900 + "1" + "}" * 900,
        "fairly deep": "[" * 80 + "]" * 80,
        "huge": "1e999",
        "nan": "NaN",
        "digits": "9" * 6000,
        "exact": "9" * 400,
    }.items()
}


def _odd_value(random: Random, known: Sequence[Any]) -> Any:
    values: tuple[Any, ...] = (
        *(None, True, False, 0, -1, 1, 2**31, 2**63, 2**70, 0.5, -0.0, 1e308, "", " ", "0", "\x1b[31m", "\ud800"),
        *([], {}, [[]], [None], [1, "a"], {"": ""}, {"a": {"b": [1]}}, "x" * 5000, "../x", "/etc/passwd", "a\nb"),
        *_MARKS,
        *(random.choice(known) for _ in range(4)),
    )
    return random.choice(values)


def mutated_value(random: Random, value: Any) -> str:
    """Return the JSON text of a value in which one to three places are changed."""
    for _ in range(random.choice((1, 1, 1, 2, 3))):
        places: list[tuple[Any, Any]] = []
        known: list[Any] = [value]
        waiting = [value]
        while waiting:
            here = waiting.pop()
            for key in here if isinstance(here, dict) else range(len(here)) if isinstance(here, list) else ():
                places.append((here, key))
                known.append(here[key])
                waiting.append(here[key])
        if not places or random.random() < 0.02:
            value = _odd_value(random, known)
            continue
        here, key = random.choice(places)
        other, other_key = random.choice(places)
        match random.randrange(8):
            case 0:
                del here[key]
            case 1 if isinstance(here, dict):
                here[random.choice(("", "format", "\x1b[2J", str(key).upper(), str(key) + "@@again@@"))] = here[key]
            case 1:
                here.append(here[key])
            case 2 if isinstance(other[other_key], str | int | float | None):
                # a copy: what is put into its own part would have no end
                here[key], other[other_key] = other[other_key], deepcopy(here[key])
            case 3 if isinstance(here[key], int) and not isinstance(here[key], bool):
                here[key] = random.choice((here[key] + 1, -here[key], here[key] * 10**9, float(here[key]), *_EXTREMES))
            case _:
                here[key] = json.loads(json.dumps(_odd_value(random, known)))
    text = json.dumps(value, ensure_ascii=random.random() < 0.5).replace("@@again@@", "")
    for mark, written in _MARKS.items():
        text = text.replace(f'"{mark}"', written)
    return text


def _json(random: Random, content: bytes) -> bytes:
    return mutated_value(random, json.loads(content)).encode("utf-8", "surrogatepass")


def _json_line(random: Random, content: bytes) -> bytes:
    lines = content.splitlines()
    chosen = random.randrange(len(lines))
    lines[chosen] = _json(random, lines[chosen])
    return b"\n".join(lines) + b"\n"


JSON: tuple[Mutator, ...] = (*TEXT, *[_json] * len(TEXT))
JSON_LINES: tuple[Mutator, ...] = (*TEXT, *[_json_line] * len(TEXT))

# --- safetensors -------------------------------------------------------------------------------------------


def _header(content: bytes) -> tuple[dict[str, Any], bytes]:
    size = int.from_bytes(content[:8], "little")
    return json.loads(content[8 : 8 + size]), content[8 + size :]


def _with_header(header: str, body: bytes) -> bytes:
    line = header.encode("utf-8", "surrogatepass")
    line += b" " * (-len(line) % 8)
    return len(line).to_bytes(8, "little") + line + body


def _tensor_header(random: Random, content: bytes) -> bytes:
    header, body = _header(content)
    return _with_header(mutated_value(random, header), body)


def _tensor_shape(random: Random, content: bytes) -> bytes:
    """Change shapes and dtypes such that they still fit the bytes, or nearly."""
    header, body = _header(content)
    entry = header[random.choice([name for name in header if name != "__metadata__"])]
    match random.randrange(4):
        case 0:
            entry["shape"] = entry["shape"][::-1]
        case 1:
            entry["shape"] = [*entry["shape"], random.choice((1, 0, 2**62))]
        case 2:
            entry["shape"] = [int(np.prod(entry["shape"]))]
        case _:
            entry["dtype"] = random.choice(("F32", "I32", "U32", "BF16", "F16", "F64", "BOOL", "F8_E4M3", "C64", "I8"))
    return _with_header(json.dumps(header), body)


def _tensor_numbers(random: Random, content: bytes) -> bytes:
    header, body = _header(content)
    return _with_header(json.dumps(header), random.choice(BYTES)(random, body) if body else body)


def _tensor_metadata(random: Random, content: bytes) -> bytes:
    """Change the JSON text that capgpu stores in the metadata."""
    header, body = _header(content)
    stored = header["__metadata__"]["capgpu"]
    if random.random() < 0.2:
        mutated = random.choice(TEXT)(random, stored.encode()).decode("utf-8", "replace")
    else:
        mutated = mutated_value(random, json.loads(stored)).encode("utf-8", "replace").decode()
    header["__metadata__"]["capgpu"] = mutated
    return _with_header(json.dumps(header), body)


def sealed_safetensors(content: bytes) -> bytes:
    """Renew capgpu's checksum in a file, as far as it can be parsed."""
    try:
        header, body = _header(content)
        stored = header["__metadata__"]
        value = zlib.crc32(stored["capgpu"].encode())
        kinds = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "I64": "<i8", "I32": "<i4", "U32": "<u4", "U8": "|u1"}
        for name in sorted(header.keys() - {"__metadata__"}):
            entry = header[name]
            start, end = entry["data_offsets"]
            described = f"{name} {kinds[entry['dtype']]} {tuple(entry['shape'])}"
            value = zlib.crc32(body[start:end], zlib.crc32(described.encode(), value))
        stored["crc32"] = f"{value:08x}"
        return _with_header(json.dumps(header), body)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return content


SAFETENSORS: tuple[Mutator, ...] = (
    *BYTES,
    *[_tensor_header] * 4,
    *[_tensor_shape] * 3,
    *[_tensor_numbers] * 2,
    *[_tensor_metadata] * 10,
)

# --- NumPy arrays and zip archives ---------------------------------------------------------------------------

_DESCRIPTIONS = (
    *("'<f4'", "'<f8'", "'>f4'", "'|O'", "'<U4'", "'<U99999999'", "'|S0'", "'|V8'", "'<M8[ns]'", "'<c8'", "'|b1'"),
    *("'<f2'", "[('a', '<f4')]", "[('a', '<f4', (99999, 99999))]", "'x' * 9", "0", "None", "'float128'"),
)
_SHAPES = (
    *("()", "(0,)", "(2,)", "(-1, 4)", "(3, 4)", "(6, 2)", "(12,)", "(999999, 999999)", "(2**40, 1)", "(1e3, 2)"),
    *("(4611686018427387904, 4)", "(99999999999999999999, 1)", "[3, 4]", "'a'", "(True, 12)", "(0, 10**30)", "None"),
)


def _npy_header(random: Random, content: bytes) -> bytes:
    """Write another header: other dtypes, shapes, orders, keys and versions."""
    size = int.from_bytes(content[8:10], "little")
    found = re.search(rb"'descr': (.+), 'fortran_order': (\w+), 'shape': (\([^)]*\))", content[10 : 10 + size])
    if found is None:
        return _flip_bits(random, content)
    descr, order, shape = (part.decode() for part in found.groups())
    match random.randrange(5):
        case 0:
            descr = random.choice(_DESCRIPTIONS)
        case 1 | 2:
            shape = random.choice(_SHAPES)
        case 3:
            order = random.choice(("True", "2", "None"))
        case _:
            shape = "(" * random.choice((50, 500, 5000)) + shape + ")" * 9
    header = f"{{'descr': {descr}, 'fortran_order': {order}, 'shape': {shape}, }}".encode()
    header += b" " * (63 - (len(header) + 10) % 64) + b"\n"
    version = random.choice((1, 1, 1, 2, 3, 4, 0))
    length = len(header).to_bytes(2 if version == 1 else 4, "little")
    return b"\x93NUMPY" + bytes((version, 0)) + length + header + content[10 + size :]


NPY: tuple[Mutator, ...] = (*BYTES, *[_npy_header] * len(BYTES))


def _rezipped(members: list[tuple[str, bytes]], method: int) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", method) as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about names that occur twice
        for name, content in members:
            archive.writestr(name, content)
    return out.getvalue()


def _zip_member(random: Random, content: bytes) -> bytes:
    """Change a member of an archive, with the right checksum of the archive; or members' names and number."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        members = [(name, archive.read(name)) for name in archive.namelist()]
    chosen = random.randrange(len(members))
    name, stored = members[chosen]
    match random.randrange(6):
        case 0:
            del members[chosen]
        case 1:
            members[chosen] = random.choice(("features.npy", "ids.npy", "x.npy", "../a.npy", " ")), stored
        case 2:
            header = stored[: 10 + int.from_bytes(stored[8:10], "little")]
            header = header.replace(b"(3, 4)", b"(9999999, 4)").replace(b"(3,)", b"(9999999,)")
            members[chosen] = name, header + bytes(random.choice((1 << 16, 1 << 22)))
        case _:
            members[chosen] = name, random.choice(NPY)(random, stored)
    return _rezipped(members, random.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_LZMA)))


def _zip_sizes(random: Random, content: bytes) -> bytes:
    """Change sizes, methods, flags and offsets in the directory of an archive."""
    places = [found.start() for found in re.finditer(rb"PK\x01\x02|PK\x03\x04|PK\x05\x06", content)]
    start = random.choice(places) + random.randrange(4, 46)
    width = random.choice((1, 2, 4))
    value = random.choice(_EXTREMES) % (1 << (8 * width))
    return content[:start] + value.to_bytes(width, "little") + content[start + width :]


NPZ: tuple[Mutator, ...] = (*BYTES, *[_zip_member] * 12, *[_zip_sizes] * 4)

# --- PNG ---------------------------------------------------------------------------------------------------


#: Sixteen megabytes of zeros.
_BOMB = zlib.compress(bytes(1 << 24))


def _png_chunk(random: Random, content: bytes) -> bytes:
    """Change a chunk of a PNG file, with the right checksum; or its order, number and kind."""
    chunks: list[tuple[bytes, bytes]] = []
    position = 8
    while position < len(content):
        length, kind = struct.unpack_from(">I4s", content, position)
        chunks.append((kind, content[position + 8 : position + 8 + length]))
        position += 12 + length
    chosen = random.randrange(len(chunks))
    kind, body = chunks[chosen]
    match random.randrange(6):
        case 0:
            del chunks[chosen]
        case 1:
            chunks.insert(random.randrange(len(chunks)), (kind, body))
        case 2:
            kinds = (b"IDAT", b"tRNS", b"PLTE", b"eXIf", b"iCCP", b"zTXt", b"iTXt", b"acTL", b"fcTL", b"IEND")
            chunks.insert(1, (random.choice(kinds), random.choice((body, _BOMB))))
        case 3:
            size = struct.pack(">II", *(random.choice((0, 1, 7, 9000, 2**16, 2**31 - 1)) for _ in range(2)))
            chunks[0] = b"IHDR", size + bytes((random.choice((1, 8, 16)), random.choice((0, 2, 3, 4, 6)), 0, 0, 0))
        case _:
            chunks[chosen] = kind, random.choice(BYTES)(random, body) if body else random.randbytes(7)
    parts = [
        struct.pack(">I4s", len(body), kind) + body + struct.pack(">I", zlib.crc32(kind + body))
        for kind, body in chunks
    ]
    return content[:8] + b"".join(parts)


PNG: tuple[Mutator, ...] = (*BYTES, *[_png_chunk] * len(BYTES))
