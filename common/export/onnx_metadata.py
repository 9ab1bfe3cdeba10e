"""Metadata inside ONNX files, read and added without loading their weights.

An ONNX file is a protocol-buffers message (`ModelProto` of
https://github.com/onnx/onnx/blob/main/onnx/onnx.proto). Its encoding is
https://protobuf.dev/programming-guides/encoding/: fields, each a number with a type and a value.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from common.utils.errors import UserError
from common.utils.json_parsing import parse_json

DESCRIPTION = "description"  # key of the metadata that our own programs read
_METADATA, _KEY, _VALUE = 14, 1, 2  # numbers of fields
_VARINT, _BYTES = 0, 2  # types of fields
_FIXED = {1: 8, 5: 4}  # ... and how many bytes their values have
_LONGEST = 1 << 26  # bytes of an entry


def read_metadata(path: Path) -> dict[str, str]:
    """Read the metadata of an ONNX file.

    Args:
        path: The file.

    Returns:
        Its entries; none for a file without.

    Raises:
        UserError: The file cannot be read, or ends early, or is no ONNX file.
    """
    damaged = f"{path}: damaged, or no ONNX file; copy it anew, or export the model anew"
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            if not size:
                raise UserError(f"{path}: empty; copy it anew, or export the model anew")
            entries = dict(_entry(each) for each in _fields(file, size, _METADATA))
            return {key.decode(): value.decode() for key, value in entries.items()}
    except (ValueError, EOFError) as error:
        raise UserError(damaged) from error
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error})") from error


def embedded_description(path: Path) -> dict[str, Any] | None:
    """Read the description that an ONNX file holds.

    Args:
        path: The file.

    Returns:
        The description; None: the file holds none, as those of earlier versions.

    Raises:
        UserError: The file or its description is damaged.
    """
    text = read_metadata(path).get(DESCRIPTION)
    if text is None:
        return None
    try:
        description = parse_json(text)
    except ValueError as error:
        raise UserError(
            f"{path}: its description is damaged ({error}); export the model anew"
        ) from None
    return description if isinstance(description, dict) else {}


def add_metadata(path: Path, entries: Mapping[str, str]) -> None:
    """Add metadata to an ONNX file that has been verified, which is not written anew.

    Messages in a row are one message with the fields of both, says the encoding.

    Args:
        path: The file.
        entries: The metadata, of keys that it does not have.
    """
    with path.open("ab") as file:
        for key, value in entries.items():
            entry = _field(_KEY, key.encode()) + _field(_VALUE, value.encode())
            file.write(_field(_METADATA, entry))


def _field(number: int, value: bytes) -> bytes:
    return _varint(number << 3 | _BYTES) + _varint(len(value)) + value


def _varint(value: int) -> bytes:
    """Encode a whole number, seven bits a byte, the lowest first; all but the last have bit 8."""
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*encoded, value])


def _fields(file: BinaryIO, size: int, wanted: int) -> Iterator[bytes]:
    """Yield the values of one field of a message that takes the whole file."""
    while file.tell() < size:
        number, kind = divmod(_read_varint(file), 8)
        if kind == _VARINT:
            _read_varint(file)
            continue
        if kind != _BYTES and kind not in _FIXED:
            raise ValueError(f"type {kind} of a field")
        length = _FIXED.get(kind) or _read_varint(file)
        if not number or length > size - file.tell():
            raise EOFError("a field is longer than the file")
        if number == wanted and kind == _BYTES:
            if length > _LONGEST:
                raise ValueError(f"{length} bytes of metadata")
            yield file.read(length)
        else:
            file.seek(length, os.SEEK_CUR)


def _read_varint(file: BinaryIO) -> int:
    value = 0
    for shift in range(0, 70, 7):
        if not (byte := file.read(1)):
            raise EOFError("a number is cut off")
        value |= (byte[0] & 0x7F) << shift
        if byte[0] < 0x80:
            return value
    raise ValueError("a number of more than 64 bits")


def _entry(message: bytes) -> tuple[bytes, bytes]:
    """Return key and value of an entry of the metadata."""
    found = dict.fromkeys((_KEY, _VALUE), b"")
    for number in found:
        for value in _fields(io.BytesIO(message), len(message), number):
            found[number] = value
    return found[_KEY], found[_VALUE]
