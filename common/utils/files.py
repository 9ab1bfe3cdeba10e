"""Files that are complete or not there: written under another name, synced, renamed."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from common.utils.errors import UserError
from common.utils.json_parsing import parse_json


def sync(path: Path) -> None:
    """Flush a file, or a folder's list of names, to the disk.

    Args:
        path: The file or folder.
    """
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def replacing(path: str | Path, durable: bool = True) -> Iterator[Path]:
    """Provide a temporary file that replaces `path` at the end, if no exception was raised.

    Args:
        path: The file to write; its folder is created.
        durable: Flush the file to the disk before renaming it, and then its name, which takes
            milliseconds.

    Yields:
        The path of the temporary file.

    Raises:
        UserError: The folder or the file cannot be written.
    """
    path = Path(path)
    partial = _partial(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.unlink(missing_ok=True)  # of a killed process, perhaps read-only
        yield partial
        if durable:
            sync(partial)
        os.replace(partial, path)
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror or error})") from error
    finally:
        with suppress(OSError):
            partial.unlink()
    if durable:  # some file systems cannot flush folders
        with suppress(OSError):
            sync(path.parent)


def check_writable(path: str | Path) -> None:
    """Check that a file can be written, before the work whose result it is to hold.

    Args:
        path: The file; its folder is created.

    Raises:
        UserError: It cannot be written.
    """
    path = Path(path)
    try:
        if path.is_dir():
            raise OSError(errno.EISDIR, os.strerror(errno.EISDIR))
        path.parent.mkdir(parents=True, exist_ok=True)
        probe = _partial(path)
        probe.write_bytes(b"")
        probe.unlink(missing_ok=True)  # another process may have removed it
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror})") from error


def write_text(path: str | Path, text: str, durable: bool = True) -> None:
    """Write a text file in UTF-8; it is complete or unchanged.

    Args:
        path: The file.
        text: Its content.
        durable: As for `replacing`.

    Raises:
        UserError: It cannot be written.
    """
    with replacing(path, durable) as partial:
        partial.write_text(text, encoding="utf-8")


def _partial(path: Path) -> Path:
    return path.with_name(f".{path.stem}.partial{path.suffix}")


def file_name(utterance_id: str) -> str:
    """Turn an utterance id into a file name.

    Args:
        utterance_id: The id.

    Returns:
        The id with special characters as %XX; different ids have different names.
    """
    return re.sub(r"[^\w.-]", lambda match: f"%{ord(match[0]):02X}", utterance_id)


def read_json(path: Path) -> dict | None:
    """Read a JSON file that holds an object.

    Args:
        path: The file.

    Returns:
        The object, None where the file is missing, malformed, or holds something else.
    """
    try:
        value = parse_json(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return None
    return value if isinstance(value, dict) else None


def damage(directory: Path, files: dict[str, int]) -> str | None:
    """Check that files are there with their full size.

    Args:
        directory: Their folder.
        files: Name -> expected size in bytes.

    Returns:
        What is wrong with the first damaged file, None if there is none.
    """
    for name, size in files.items():
        path = directory / name
        if not path.is_file():
            return f"{path}: missing"
        if path.stat().st_size != size:
            return f"{path}: {path.stat().st_size} bytes, expected {size}; it is truncated"
    return None
