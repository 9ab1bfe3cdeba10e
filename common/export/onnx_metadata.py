"""Metadata inside ONNX files, read and added without loading their weights.

An ONNX file is a protocol-buffers message (`ModelProto` of
https://github.com/onnx/onnx/blob/main/onnx/onnx.proto). Its encoding is
https://protobuf.dev/programming-guides/encoding/: fields, each a number with a type and a value.
"""

from __future__ import annotations

import io
import os
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from common.utils.errors import UserError
from common.utils.json_parsing import parse_json

DESCRIPTION = "description"  # key of the metadata that our own programs read
CONTENT = "content"  # of the description: which model it was added to
_METADATA, _KEY, _VALUE = 14, 1, 2  # numbers of fields
_VARINT, _BYTES = 0, 2  # types of fields
_FIXED = {1: 8, 5: 4}  # ... and how many bytes their values have
_LONGEST = 1 << 26  # bytes of an entry
_CHUNK = 1 << 22  # bytes read at a time


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
    entries = read_metadata(path)
    if style := entries.get("style"):
        raise UserError(f"{path}: written for {style}; export the model without --style")
    text = entries.get(DESCRIPTION)
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
    with path.open("r+b") as file:  # which, unlike "ab", does not make a missing file
        file.seek(0, os.SEEK_END)
        for key, value in entries.items():
            entry = _field(_KEY, key.encode()) + _field(_VALUE, value.encode())
            file.write(_field(_METADATA, entry))


def copy_without_metadata(source: Path, target: Path) -> None:
    """Copy an ONNX file, all but its metadata, byte by byte.

    Args:
        source: The file.
        target: The copy to write.

    Raises:
        UserError: The source cannot be read, or is damaged.
    """
    read_metadata(source)  # refuses what is no ONNX file
    with source.open("rb") as file, target.open("wb") as copy:
        size, begin = os.fstat(file.fileno()).st_size, 0
        for start, entry in _ranges(file, size, _METADATA):
            _copy(file, copy, begin, start)
            begin = entry.stop
            file.seek(begin)
        _copy(file, copy, begin, size)


def model_content(path: Path) -> dict[str, Any]:
    """Identify an ONNX file before its description is added, for `check_model_content`.

    Args:
        path: The file, to which `add_metadata` adds the description afterwards.

    Returns:
        Its size in bytes and its CRC-32 (ISO 3309) as eight hexadecimal digits.
    """
    size = path.stat().st_size
    return {"bytes": size, "crc32": _checksum(path, size)}


def check_model_content(path: Path, description: Mapping[str, Any]) -> None:
    """Check that the model in an ONNX file is the one that its description was added to.

    A network with damaged weights would run, and give wrong texts. Files of earlier versions do not
    tell, and pass.

    Args:
        path: The file.
        description: What the file holds.

    Raises:
        UserError: The model is another one.
    """
    if (content := description.get(CONTENT)) is None:
        return
    if not isinstance(content, dict):
        content = {}
    size, expected = content.get("bytes"), content.get("crc32")
    if type(size) is not int or size < 0 or not isinstance(expected, str):
        raise UserError(f"{path}: its {CONTENT} is damaged; export the model anew")
    if (there := path.stat().st_size) < size:
        found, wanted = f"{there} bytes", f"at least {size} bytes"
    elif (crc := _checksum(path, size)) != expected:
        found, wanted = f"its model has the checksum {crc}", f"the checksum {expected}"
    else:
        return
    raise UserError(
        f"{path}: {found}, but its description is of a model with {wanted}: it is damaged, or was "
        "changed after the export; copy it anew, or export the model anew"
    )


def _checksum(path: Path, size: int) -> str:
    """Compute the CRC-32 of the first bytes of a file, as eight hexadecimal digits."""
    value = 0
    with path.open("rb") as file:
        while chunk := file.read(min(size, _CHUNK)):
            value, size = zlib.crc32(chunk, value), size - len(chunk)
    return f"{value:08x}"


def _copy(file: BinaryIO, target: BinaryIO, begin: int, end: int) -> None:
    file.seek(begin)
    while chunk := file.read(min(end - file.tell(), _CHUNK)):
        target.write(chunk)


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
    for _, value in _ranges(file, size, wanted):
        file.seek(value.start)
        yield file.read(len(value))


def _ranges(file: BinaryIO, size: int, wanted: int) -> Iterator[tuple[int, range]]:
    """Yield where one field of a message begins, and where its value lies, each time it is there.

    The message takes the whole file. Whoever takes them leaves the file at the end of the value.
    """
    while (start := file.tell()) < size:
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
            yield start, range(file.tell(), file.tell() + length)
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
