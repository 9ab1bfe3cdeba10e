"""A directory that is whole or not there: made under another name, then renamed.

Renaming the directory is what can be trusted; MindRecord files do not survive it one by one.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from common.utils.errors import UserError
from common.utils.files import read_json, sync, write_text

_MADE_FROM = "made_from.json"  # in a .partial directory


@contextmanager
def staging(
    directory: Path,
    made_from: dict,
    difference: Callable[[dict, dict], str | None],
    log: Callable[[str], None],
) -> Iterator[Path]:
    """`<directory>.partial`, locked, with nothing in it but what was made of the same before.

    difference: what tells apart what was made from what is wanted, None if nothing does.
    """
    partial = beside(directory, ".partial")
    partial.mkdir(parents=True, exist_ok=True)
    handle = os.open(partial, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"{partial}: another conversion is writing here; wait for it") from None
        if any(partial.iterdir()):
            made = read_json(partial / _MADE_FROM)
            reason = "it is damaged" if made is None else difference(made, made_from)
            if reason:
                log(f"{partial}: an interrupted conversion, begun again: {reason}")
                _empty(partial)
            else:
                log(f"{partial}: continuing an interrupted conversion")
        write_text(partial / _MADE_FROM, json.dumps(made_from, ensure_ascii=False))
        yield partial
    except KeyboardInterrupt:
        log(f"{partial}: interrupted; the same command continues")
        raise
    finally:
        os.close(handle)


def interrupted(directory: Path) -> dict | None:
    """What the content of `<directory>.partial` is made from, None where nothing says so."""
    path = beside(directory, ".partial") / _MADE_FROM
    return read_json(path) if path.exists() else None


def recover(directory: Path) -> None:
    """Puts the old directory back after a kill between the two renames of `publish`."""
    old = beside(directory, ".old")
    if old.exists() and not directory.exists():
        old.rename(directory.resolve())


def publish(partial: Path, directory: Path, leftovers: str) -> None:
    """Puts the new directory in the place of the old one; one of them is whole at any moment.

    leftovers: pattern of files that nobody needs once the directory is whole.
    """
    directory, old = directory.resolve(), beside(directory, ".old")
    if old.exists():
        shutil.rmtree(old)
    if directory.exists():
        directory.rename(old)
    partial.rename(directory)
    sync(directory.parent)
    for leftover in (directory / _MADE_FROM, *directory.glob(leftovers)):
        leftover.unlink()
    if old.exists():
        shutil.rmtree(old)


def beside(directory: Path, suffix: str) -> Path:
    """`directory` with a suffix to its name, on the same disk even if it is a link."""
    directory = directory.resolve()
    return directory.with_name(directory.name + suffix)


def _empty(directory: Path) -> None:
    for path in directory.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()
