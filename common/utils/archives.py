"""Corpora come as tar archives; a folder unpacked from one is whole or not there."""

from __future__ import annotations

import shutil
import tarfile
import zlib
from pathlib import Path

from tqdm import tqdm

from common.utils.errors import UserError


def unpack(archive: Path, folder: str, destination: Path) -> Path:
    """Unpacks an archive's `folder` to `destination/folder`, and returns that.

    Only files and folders are taken, and only those that stay inside.

    Raises UserError for an archive that is damaged, incomplete or another, and for a full disk.
    """
    target = destination / folder
    staging = destination / f".unpacking-{archive.name}"
    shutil.rmtree(staging, ignore_errors=True)  # of an interrupted try
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
            tarfile.open(fileobj=counted, mode="r|*") as tar,
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
