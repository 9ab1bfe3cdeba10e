"""Directories that are complete or not there: written under another name, then renamed.

The directory is renamed as a whole, since MindRecord files cannot be renamed one by one.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from common.utils.errors import UserError
from common.utils.files import read_json, sync, write_text

_SOURCE = "made_from.json"  # in a .partial directory: what its files are made from


@contextmanager
def staging(
    directory: Path,
    made_from: dict,
    difference: Callable[[dict, dict], str | None],
    log: Callable[[str], None],
) -> Iterator[Path]:
    """Lock `<directory>.partial` and provide it for writing.

    Files of an interrupted conversion of the same source are kept, others removed.

    Args:
        directory: The directory to make.
        made_from: Describes the source.
        difference: (source of the files that are there, `made_from`) -> what differs, or None.
        log: Receives lines for the user.

    Yields:
        The path of the partial directory.

    Raises:
        UserError: Another process is writing there.
    """
    partial = beside(directory, ".partial")
    with locked(partial, f"{partial}: another conversion is writing here; wait for it"):
        try:
            if any(partial.iterdir()):
                earlier = read_json(partial / _SOURCE)
                reason = "it is damaged" if earlier is None else difference(earlier, made_from)
                if reason:
                    log(f"{partial}: an interrupted conversion is started again: {reason}")
                    empty(partial)
                else:
                    log(f"{partial}: continuing an interrupted conversion")
            write_text(partial / _SOURCE, json.dumps(made_from, ensure_ascii=False))
            yield partial
        except KeyboardInterrupt:
            log(f"{partial}: interrupted; the same command continues")
            raise


@contextmanager
def locked(directory: Path, busy: str) -> Iterator[None]:
    """Make a directory and hold its lock, which no process keeps beyond its end.

    Args:
        directory: The directory. Whoever holds the lock may rename or remove it.
        busy: Message for the user where another process holds the lock.

    Raises:
        UserError: Another process holds the lock.
    """
    handle = None
    while handle is None:
        directory.mkdir(parents=True, exist_ok=True)
        with suppress(FileNotFoundError):  # removed by the one that held the lock
            handle = _lock(directory, busy)
    try:
        yield
    finally:
        os.close(handle)


def _lock(directory: Path, busy: str) -> int | None:
    """Lock a directory; return its handle, or None where it is no longer the one of this name."""
    handle = os.open(directory, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.path.samestat(os.fstat(handle), os.stat(directory)):
            return handle
    except BlockingIOError:
        os.close(handle)
        raise UserError(busy) from None
    except BaseException:
        os.close(handle)
        raise
    os.close(handle)
    return None


def interrupted(directory: Path) -> dict | None:
    """Read the source of an interrupted conversion.

    Args:
        directory: The directory to make.

    Returns:
        What `<directory>.partial` is made from, None where it is not known.
    """
    path = beside(directory, ".partial") / _SOURCE
    return read_json(path) if path.exists() else None


def recover(directory: Path) -> None:
    """Put the old directory back after a kill between the two renames of `publish`.

    Args:
        directory: The directory that `publish` was to replace.
    """
    old = beside(directory, ".old")
    if old.exists() and not directory.exists():
        old.rename(directory.resolve())


def publish(partial: Path, directory: Path, leftovers: str) -> None:
    """Put the new directory in the place of the old one; one of them is complete at any moment.

    Args:
        partial: The new directory.
        directory: Its final name.
        leftovers: Pattern of files that are not needed once the directory is complete.
    """
    directory, old = directory.resolve(), beside(directory, ".old")
    if old.exists():
        shutil.rmtree(old)
    if directory.exists():
        directory.rename(old)
    partial.rename(directory)
    sync(directory.parent)
    for leftover in (directory / _SOURCE, *directory.glob(leftovers)):
        leftover.unlink()
    if old.exists():
        shutil.rmtree(old)


def beside(directory: Path, suffix: str) -> Path:
    """Add a suffix to the name of a directory, on the same disk even if it is a link.

    Args:
        directory: The directory.
        suffix: Such as ".partial".

    Returns:
        The path.
    """
    directory = directory.resolve()
    return directory.with_name(directory.name + suffix)


def empty(directory: Path) -> None:
    """Remove all that is in a directory."""
    for path in directory.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()
