"""Unpacking of corpora from tar archives; a folder is complete or not there."""

from __future__ import annotations

import shutil
import tarfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, cast

from tqdm import tqdm

from common.utils.errors import UserError


def unpack(archive: Path, folder: str, destination: Path) -> Path:
    """Unpack one folder of an archive.

    Only files and folders are unpacked, and only paths that stay inside the folder.

    Args:
        archive: A .tar or .tar.gz file.
        folder: The folder inside the archive.
        destination: Where to put it.

    Returns:
        `destination/folder`.

    Raises:
        UserError: The archive is damaged, incomplete or another one, or the disk is full.
    """
    target = destination / folder
    with _extracted(archive, destination, folder) as staging:
        if not (staging / folder).is_dir():
            raise UserError(f"{archive}: holds no {folder}/; is it another archive?")
        target.parent.mkdir(parents=True, exist_ok=True)
        (staging / folder).rename(target)
    return target


def unpack_all(archive: Path, destination: Path) -> None:
    """Unpack an archive into a folder; each folder that is not there yet is complete or absent.

    Args:
        archive: A .tar or .tar.gz file; only files and folders of it are unpacked.
        destination: The folder, which may hold others.

    Raises:
        UserError: The archive is damaged or incomplete, or the disk is full.
    """
    with _extracted(archive, destination.parent) as staging:
        _move(staging, destination)


def _move(source: Path, target: Path) -> None:
    """Move a folder, or what it holds where there is such a folder already."""
    if not target.exists():
        source.rename(target)
    elif source.is_dir():
        for path in sorted(source.iterdir()):
            _move(path, target / path.name)
    else:
        source.replace(target)


@contextmanager
def _extracted(archive: Path, destination: Path, folder: str = "") -> Iterator[Path]:
    """Extract an archive, or one folder of it, into a folder that is removed afterwards."""
    staging = destination / f".unpacking-{archive.name}"
    shutil.rmtree(staging, ignore_errors=True)  # of an interrupted attempt
    try:
        with (
            archive.open("rb") as file,
            tqdm.wrapattr(
                file,
                "read",
                total=archive.stat().st_size,
                desc=f"unpacking {archive.name}",
                disable=None,
                leave=False,
            ) as counted,
            tarfile.open(fileobj=cast(IO[bytes], counted), mode="r|*") as tar,
        ):
            for member in tar:
                if _plain(member) and Path(member.name).is_relative_to(folder):
                    tar.extract(member, staging)
        yield staging
    except (tarfile.TarError, EOFError, zlib.error) as error:
        raise UserError(
            f"{archive}: damaged or incomplete ({error}); remove it and fetch it again"
        ) from error
    except OSError as error:  # gzip.BadGzipFile is one too
        reason = error.strerror or f"damaged or incomplete: {error}; remove it and fetch it again"
        raise UserError(f"{archive}: cannot be unpacked ({reason})") from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _plain(member: tarfile.TarInfo) -> bool:
    inside = not member.name.startswith("/") and ".." not in Path(member.name).parts
    return inside and (member.isfile() or member.isdir())
