"""Content of a MindSpore checkpoint file, read one parameter at a time.

A `.ckpt` file is one protocol-buffers message `Checkpoint` (checkpoint.proto in MindSpore's
sources): a list of values, each with a name and a tensor, or a part of one where it is large.
`mindspore.load_checkpoint` reads it as a whole, and in 2.10 refuses a file that is larger than the
free pages of the memory, without those that the page cache would give back. Here neither happens.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from common.utils.backend import ms
from common.utils.errors import UserError

_Value = ms.train.checkpoint_pb2.Checkpoint.Value
_VALUE = b"\x0a"  # begins each value: field 1 of the message, of known length
_CHECKSUM, _CHECKSUM_SIZE = b"crc_num", 17  # what save_checkpoint(crc_check=True) adds at the end
_BFLOAT16 = "BFloat16"  # numpy has no such type
_TEXT = "str"
_TYPES = {
    **{
        name: np.dtype(name.lower()).newbyteorder("<")
        for name in (
            *("Int8", "Int16", "Int32", "Int64", "UInt8", "UInt16", "UInt32", "UInt64"),
            *("Float16", "Float32", "Float64"),
        )
    },
    "Bool": np.dtype(bool),
    _BFLOAT16: np.dtype("<u2"),
}


def read_parameters(path: Path) -> dict[str, np.ndarray | str]:
    """Read a checkpoint file.

    Args:
        path: The file.

    Returns:
        Its parameters and texts, by name.

    Raises:
        UserError: The file cannot be read, is damaged, or is of another kind.
    """
    size = path.stat().st_size
    found: dict[str, np.ndarray | str] = {}
    try:
        with path.open("rb") as file:
            for name, kind, shape, content in _whole_tensors(_values(file, size)):
                found[name] = _decoded(kind, shape, content)
    except OSError as error:
        raise UserError(f"checkpoint {path}: {error.strerror or error}") from error
    except MemoryError as error:
        raise UserError(
            f"checkpoint {path}: not enough memory for its {size} bytes; end other programs"
        ) from error
    except _Malformed as error:
        raise UserError(
            f"checkpoint {path}: not a readable MindSpore checkpoint, truncated or another kind of "
            f"file ({size} bytes): {error}"
        ) from error
    if not found:
        raise UserError(
            f"checkpoint {path}: not a readable MindSpore checkpoint: it is empty ({size} bytes)"
        )
    return found


class _Malformed(Exception):
    """What is wrong with a file."""


def _values(file: BinaryIO, size: int) -> Iterator[Any]:
    """Yield the values of the message, each parsed by itself."""
    start = file.read(4)
    if start in (b"PK\x03\x04", b"\x80\x02\x8a\x0a"):
        raise _Malformed("PyTorch's, which pt2mind.py converts")
    file.seek(0)
    while begin := file.read(1):
        if begin != _VALUE:
            rest = begin + file.read(_CHECKSUM_SIZE)
            if len(rest) == _CHECKSUM_SIZE and rest.startswith(_CHECKSUM):
                return
            raise _Malformed(f"no parameter begins at byte {file.tell() - len(rest)}")
        length = _length(file)
        at = file.tell()
        if at + length > size:
            raise _Malformed(f"it ends within the parameter at byte {at}")
        try:
            yield _Value.FromString(file.read(length))
        except MemoryError:
            raise
        except Exception as error:  # DecodeError of protobuf, whose versions differ in its place
            raise _Malformed(f"the parameter at byte {at} cannot be parsed") from error


def _length(file: BinaryIO) -> int:
    """Read a number in the base-128 form of protocol buffers, seven bits a byte."""
    number = 0
    for shift in range(0, 63, 7):
        byte = file.read(1)
        if not byte:
            raise _Malformed("it ends within the length of a parameter")
        number |= (byte[0] & 0x7F) << shift
        if byte[0] < 0x80:
            return number
    raise _Malformed(f"no parameter has the length at byte {file.tell()}")


_Stored = tuple[str, str, tuple[int, ...], bytearray]  # name, type, shape, content


def _whole_tensors(values: Iterator[Any]) -> Iterator[_Stored]:
    """Join the parts of large tensors, which follow each other."""
    name: str | None = None
    kind, shape, content = "", (), bytearray()
    for value in values:
        if not value.HasField("tensor"):
            raise _Malformed(f"{value.tag} is no tensor")
        if value.tag != name:
            if name is not None:
                yield name, kind, shape, content
            name, kind, content = value.tag, value.tensor.tensor_type, bytearray()
            dims = tuple(value.tensor.dims)
            shape = () if dims == (0,) else dims
        content += value.tensor.tensor_content
    if name is not None:
        yield name, kind, shape, content


def _decoded(kind: str, shape: tuple[int, ...], content: bytearray) -> np.ndarray | str:
    if kind == _TEXT:  # numpy's, four bytes a character
        return content.decode("utf-32-le", errors="replace").rstrip("\0")
    if kind not in _TYPES:
        raise _Malformed(f"it holds numbers of type {kind}")
    try:
        values = np.frombuffer(content, _TYPES[kind]).reshape(shape)
    except ValueError as error:
        raise _Malformed(f"{len(content)} bytes do not fill {shape} of {kind}") from error
    if kind == _BFLOAT16:  # the upper half of a float32
        return (values.astype("<u4") << 16).view("<f4")
    return values
