"""Unpacking of corpora from tar archives; a folder is complete or not there."""

from __future__ import annotations

import shutil
import tarfile
import zlib
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
        if not (staging / folder).is_dir():
            raise UserError(f"{archive}: holds no {folder}/; is it another archive?")
        target.parent.mkdir(parents=True, exist_ok=True)
        (staging / folder).rename(target)
    except (tarfile.TarError, EOFError, zlib.error) as error:
        raise UserError(
            f"{archive}: damaged or incomplete ({error}); remove it and fetch it again"
        ) from error
    except OSError as error:  # gzip.BadGzipFile is one too
        reason = error.strerror or f"damaged or incomplete: {error}; remove it and fetch it again"
        raise UserError(f"{archive}: cannot be unpacked ({reason})") from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return target


def _plain(member: tarfile.TarInfo) -> bool:
    inside = not member.name.startswith("/") and ".." not in Path(member.name).parts
    return inside and (member.isfile() or member.isdir())
