"""Files that are whole or not there: written under another name, synced, renamed."""

from __future__ import annotations

import errno
import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from common.utils.errors import UserError


def sync(path: Path) -> None:
    """Puts a file, or a folder's list of names, on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def replacing(path: str | Path, durable: bool = True) -> Iterator[Path]:
    """Yields another name to write to, which becomes `path` when all went well.

    durable: on the disk before it is renamed, and its new name after that; costs milliseconds.

    Raises UserError, naming `path`, where the folder or the file cannot be written.
    """
    path = Path(path)
    partial = _partial(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.unlink(missing_ok=True)  # left by a kill, and perhaps read-only
        yield partial
        if durable:
            sync(partial)
        os.replace(partial, path)
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror or error})") from error
    finally:
        with suppress(OSError):
            partial.unlink()
    if durable:  # as far as the file system can do it for folders: the file is there by now
        with suppress(OSError):
            sync(path.parent)


def check_writable(path: str | Path) -> None:
    """Raises the UserError of `replacing` now, before the work whose result `path` is to hold."""
    path = Path(path)
    try:
        if path.is_dir():
            raise OSError(errno.EISDIR, os.strerror(errno.EISDIR))
        path.parent.mkdir(parents=True, exist_ok=True)
        probe = _partial(path)
        probe.write_bytes(b"")
        probe.unlink(missing_ok=True)  # another process may be trying the same
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror})") from error


def write_text(path: str | Path, text: str, durable: bool = True) -> None:
    """UTF-8."""
    with replacing(path, durable) as partial:
        partial.write_text(text, encoding="utf-8")


def _partial(path: Path) -> Path:
    return path.with_name(f".{path.stem}.partial{path.suffix}")


def file_name(utterance_id: str) -> str:
    """The id with what file names cannot hold as %XX; other ids have other names."""
    return re.sub(r"[^\w.-]", lambda found: f"%{ord(found[0]):02X}", utterance_id)


def read_json(path: Path) -> dict | None:
    """The object in a JSON file, None where there is none to be read."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return None


def damage(directory: Path, files: dict[str, int]) -> str | None:
    """The first of the files that is missing or has not the size (bytes) that it should have."""
    for name, size in files.items():
        path = directory / name
        if not path.is_file():
            return f"{path}: missing"
        if path.stat().st_size != size:
            return f"{path}: {path.stat().st_size} bytes where {size} were written, truncated"
    return None
