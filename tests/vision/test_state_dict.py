"""The reader of PyTorch files gives tensors, and executes nothing of what a file asks for."""

from __future__ import annotations

import os
import pickle
import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from capgpu.vision.state_dict import read_state_dict

MARK, NONE, FALSE, TRUE, CALL, TUPLE, DICT, PERSISTENT = b"(", b"N", b"\x89", b"\x88", b"R", b"t", b"}", b"Q"


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value)) + value.encode()


def number(value: int) -> bytes:
    return b"J" + struct.pack("<i", value)


def name(module: str, attribute: str) -> bytes:
    return f"c{module}\n{attribute}\n".encode()


def tupled(*elements: bytes) -> bytes:
    return MARK + b"".join(elements) + TUPLE


def storage(key: str, length: int, kind: str = "FloatStorage", view: bytes = NONE) -> bytes:
    return tupled(text("storage"), name("torch", kind), text(key), text("cpu"), number(length), view) + PERSISTENT


def tensor(stored: bytes, offset: int, shape: tuple[int, ...], strides: tuple[int, ...]) -> bytes:
    sizes = [tupled(*map(number, values)) for values in (shape, strides)]
    hooks = name("collections", "OrderedDict") + b")" + CALL
    return name("torch._utils", "_rebuild_tensor_v2") + tupled(stored, number(offset), *sizes, FALSE, hooks) + CALL


def dictionary(**entries: bytes) -> bytes:
    items = b"".join(text(key) + value for key, value in entries.items())
    return name("collections", "OrderedDict") + b")" + CALL + MARK + items + b"u"


HEAD = [b"\x8a\x0a" + bytes.fromhex("6cfc9c46f9206aa85019"), b"M\xe9\x03", DICT + text("little_endian") + TRUE + b"s"]


def file_of(*programs: bytes, numbers: bytes = b"") -> bytes:
    return b"".join(b"\x80\x02" + program + b"." for program in programs) + numbers


def whole(tensors: bytes, keys: tuple[str, ...] = ("7",), numbers: bytes | None = None) -> bytes:
    listed = b"]" + MARK + b"".join(map(text, keys)) + b"e"
    stored = struct.pack("<q6f", 6, *range(6)) if numbers is None else numbers
    return file_of(*HEAD, tensors, listed, numbers=stored)


GOOD = whole(
    dictionary(
        rows=tensor(storage("7", 6), 0, (2, 3), (3, 1)),
        columns=tensor(storage("7", 6), 0, (3, 2), (1, 3)),
        tail=tensor(storage("7", 6), 4, (2,), (1,)),
        last=tensor(storage("7", 6), 5, (), ()),
    )
)


def read(content: bytes, folder: Path) -> dict[str, np.ndarray]:
    path = folder / "file.pth"
    path.write_bytes(content)
    return read_state_dict(path)


def test_tensors_are_read_with_their_offset_and_strides(tmp_path):
    tensors = read(GOOD, tmp_path)
    assert {key: array.tolist() for key, array in tensors.items()} == {
        "rows": [[0, 1, 2], [3, 4, 5]],
        "columns": [[0, 3], [1, 4], [2, 5]],
        "tail": [4, 5],
        "last": 5,
    }
    assert {array.dtype for array in tensors.values()} == {np.dtype("<f4")}
    assert all(array.flags.owndata for array in tensors.values())


@pytest.mark.parametrize(
    ("kind", "dtype"), [("DoubleStorage", "<f8"), ("HalfStorage", "<f2"), ("LongStorage", "<i8"), ("ByteStorage", "u1")]
)
def test_every_dtype_is_kept(tmp_path, kind, dtype):
    values = np.array([3, 1, 2], dtype)
    content = whole(
        dictionary(x=tensor(storage("7", 3, kind), 0, (3,), (1,))), numbers=struct.pack("<q", 3) + values.tobytes()
    )
    array = read(content, tmp_path)["x"]
    assert array.dtype == dtype
    assert array.tolist() == [3, 1, 2]


def test_a_file_of_pytorch_reads_the_same(tmp_path):
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4), torch.nn.Linear(4, 2))
    state = model.state_dict()
    state["0.weight"] = state["0.weight"].permute(1, 0, 3, 2)
    torch.save(state, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    tensors = read_state_dict(tmp_path / "old.pth")
    assert list(tensors) == list(state)
    for key, array in tensors.items():
        np.testing.assert_array_equal(array, state[key].numpy(), strict=True)
    torch.save(state, tmp_path / "new.pth")
    with pytest.raises(ValueError, match="zip archive"):
        read_state_dict(tmp_path / "new.pth")


class Evil:
    """What a malicious file does when it is unpickled."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> object:
        return os.system, (self.command,)


def test_code_in_a_file_is_never_executed(tmp_path):
    trace = tmp_path / "trace"
    program = pickle.dumps({"x": Evil(f"touch {trace}")}, protocol=2)
    pickle.loads(program)
    assert trace.exists(), "the program works where it is executed"
    trace.unlink()
    body = program.removeprefix(b"\x80\x02").removesuffix(b".")
    for content in (whole(body), file_of(body), file_of(HEAD[0], body), file_of(*HEAD, dictionary(), body)):
        with pytest.raises(ValueError, match=r"the name posix\.system.*Nothing of it was executed"):
            read(content, tmp_path)
    assert not trace.exists()


FLOATS = storage("7", 6)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (whole(dictionary(x=name("builtins", "eval"))), "the name builtins.eval"),
        (whole(dictionary(x=name("torch._utils", "_rebuild_parameter"))), "the name torch._utils._rebuild_parameter"),
        (whole(dictionary(x=name("torch", "FloatStorage") + b")" + CALL)), "a call of torch FloatStorage"),
        (whole(dictionary(x=text("f") + b")" + CALL)), "a call of str"),
        (whole(dictionary(x=b"(dos\nsystem\n")), "the opcode 'd'"),
        (whole(b"(S'echo'\nios\nsystem\n"), "the opcode 'S'"),
        (whole(dictionary(x=b"\x8c\x02os\x8c\x06system\x93")), r"the opcode '\\x8c'"),
        (whole(dictionary(x=b"\x82\x01")), r"the opcode '\\x82'"),
        (whole(dictionary(x=text("f") + b")\x81")), r"the opcode '\\x81'"),
        (whole(dictionary(x=text("just text"))), "the entry 'x', which is no tensor"),
        (whole(text("no dictionary")), "a str and a list"),
        (whole(DICT + number(1) + number(2) + b"s"), "names"),
        (whole(dictionary(x=tensor(FLOATS, 0, (7,), (1,)))), "does not say how it lies"),
        (whole(dictionary(x=tensor(FLOATS, 0, (6,), (0,)))), None),
        (whole(dictionary(x=tensor(FLOATS, 0, (6, 6), (0, 0)))), "larger than its storage"),
        (whole(dictionary(x=tensor(FLOATS, 3, (4,), (1,)))), "larger than its storage"),
        (whole(dictionary(x=tensor(FLOATS, 0, (2, 2), (4, 2)))), "larger than its storage"),
        (whole(dictionary(x=tensor(FLOATS, -1, (2,), (1,)))), "does not say how it lies"),
        (whole(dictionary(x=tensor(FLOATS, 4, (2,), (-1,)))), "does not say how it lies"),
        (whole(dictionary(x=tensor(text("no storage"), 0, (2,), (1,)))), "does not say how it lies"),
        (whole(dictionary(x=tensor(storage("7", 6, view=number(1)), 0, (2,), (1,)))), "a storage of an unknown kind"),
        (whole(dictionary(x=tensor(storage("7", 5), 0, (2,), (1,)))), "not the announced one"),
        (whole(dictionary(x=tensor(FLOATS, 0, (2,), (1,))), keys=("8",)), "not the announced one"),
        (whole(dictionary(x=tensor(FLOATS, 0, (2,), (1,))), keys=()), "damaged"),
        (GOOD[:-1], "damaged"),
        (GOOD[:200], "damaged|no end"),
        (b"", "no end"),
        (b"PK\x03\x04", "zip archive"),
        (file_of(number(1), number(2), DICT), "another beginning"),
        (file_of(*HEAD[:2], DICT + text("little_endian") + FALSE + b"s"), "not little-endian"),
        (b"\x80\x02\x85.", "damaged"),
        (b"\x80\x02" + number(1) + TUPLE + b".", "without its mark"),
    ],
)
def test_all_but_a_plain_dictionary_is_refused(tmp_path, content, message):
    if message is None:  # a tensor may repeat its numbers within the size of its storage
        assert read(content, tmp_path)["x"].tolist() == [0] * 6
        return
    with pytest.raises(ValueError, match=message) as refusal:
        read(content, tmp_path)
    assert "file.pth" in str(refusal.value)


@settings(max_examples=300, deadline=None)
@given(place=st.integers(0, len(GOOD) - 1), put=st.binary(max_size=6), removed=st.integers(0, 6))
def test_a_damaged_file_raises_value_error_or_gives_arrays(tmp_path_factory, place, put, removed):
    try:
        tensors = read(GOOD[:place] + put + GOOD[place + removed :], tmp_path_factory.getbasetemp())
    except ValueError:
        return
    assert all(isinstance(array, np.ndarray) for array in tensors.values())
