"""Download of large files over HTTP, resumed after interruptions and verified."""

from __future__ import annotations

import fcntl
import hashlib
import http.client
import shutil
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

from tqdm import tqdm

from common.utils.errors import UserError

_CHUNK = 1 << 20  # bytes
_TIMEOUT = 60.0  # seconds without a byte
_TRIES = 6  # attempts in a row that bring no data, before giving up
_MAX_PAUSE = 60.0  # seconds between two attempts
_TEMPORARY = (408, 425, 429)  # answers that another attempt may change, beside all of 5xx


def download(
    url: str,
    path: Path,
    md5: str | None,
    log: Callable[[str], None] = print,
    sleep: Callable[[float], None] = time.sleep,
    size: int | None = None,
) -> None:
    """Download a file, which is complete and verified, or not there.

    Partial data stay in `<path>.part`, and the next attempt or call continues there. A file that
    exists is verified, and downloaded again if it is another.

    Args:
        url: The address.
        path: Where to put the file.
        md5: Its MD5 sum, 32 hexadecimal digits; None where none is published: then the length
            that the server gives decides whether the file is whole.
        log: Receives lines for the user.
        sleep: Waits for a number of seconds.
        size: Its bytes, where they are published; for files without an MD5 sum.

    Raises:
        UserError: The server does not answer, refuses, or gives another file twice; the disk is
            full; another process is downloading the same.
    """
    part = path.with_name(f"{path.name}.part")
    if path.is_file():
        if not (fault := _fault(path, md5, size)):
            return
        log(f"{path}: {fault[0]}, not {fault[1]}, so it is damaged: downloading it again")
        path.unlink()
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(part, "ab") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"{part}: another download is writing here; wait for it") from None
        for last in (False, True):
            _fetch_whole(url, file, path.name, log, sleep)
            if not (fault := _fault(part, md5, size)):
                part.rename(path)
                return
            found, expected = fault
            _empty(file)
            if not last:
                log(f"{url}: {found}, expected {expected}: downloading it once more from the start")
        part.unlink()
    raise UserError(
        f"{url}: {found} instead of {expected} twice: it is another file, or is damaged on the way "
        "(by a proxy?); try another mirror"
    )


def _fault(path: Path, md5: str | None, size: int | None) -> tuple[str, str] | None:
    """Return what a file has and what it should have; None where it is right."""
    bytes_found = path.stat().st_size
    if md5 is None:
        wrong = size is not None and bytes_found != size
        return (f"{bytes_found:,} bytes", f"{size:,}") if wrong else None
    found = md5_of(path)
    return None if found == md5 else (f"md5 {found}", md5)


def md5_of(path: Path) -> str:
    """Compute the MD5 sum of a file.

    Args:
        path: The file.

    Returns:
        32 hexadecimal digits.
    """
    digest = hashlib.md5(usedforsecurity=False)  # against damage, as published
    size = path.stat().st_size
    with open(path, "rb") as file, _bar(f"checking {path.name}", size) as bar:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
            bar.update(len(chunk))
    return digest.hexdigest()


def _bar(label: str, total: int | None, initial: int = 0) -> tqdm:
    """Return a progress bar, shown only on a terminal."""
    return tqdm(
        desc=label,
        total=total,
        initial=initial,
        unit="B",
        unit_scale=True,
        disable=None,
        leave=False,
    )


def _fetch_whole(
    url: str, file: BinaryIO, label: str, log: Callable[[str], None], sleep: Callable[[float], None]
) -> None:
    """Append what `file` lacks, with new attempts as long as they bring data."""
    failures = 0
    while True:
        before = file.tell()
        try:
            _fetch(url, file, label, log)
            return
        except urllib.error.HTTPError as error:
            if error.code == 416 and before:  # complete; the checksum will tell
                return
            reason = f"HTTP {error.code} {error.reason}"
            if error.code < 500 and error.code not in _TEMPORARY:
                raise UserError(f"{url}: {reason}; is the address right?") from None
        except (OSError, http.client.HTTPException) as error:  # URLError is an OSError
            reason = str(getattr(error, "reason", None) or error) or type(error).__name__
        failures = 0 if file.tell() > before else failures + 1
        if failures >= _TRIES:
            raise UserError(
                f"{url}: cannot be downloaded ({reason}) in {_TRIES} attempts; {file.tell():,} "
                "bytes are kept, and the same command continues there, also with another mirror"
            )
        pause = min(2.0**failures, _MAX_PAUSE)
        log(f"{label}: {reason}; continuing at {file.tell():,} bytes in {pause:.0f} s")
        sleep(pause)


def _fetch(url: str, file: BinaryIO, label: str, log: Callable[[str], None]) -> None:
    have = file.tell()
    headers = {"Range": f"bytes={have}-"} if have else {}
    request = urllib.request.Request(url, headers=headers)
    with urllib.request.urlopen(request, timeout=_TIMEOUT) as response:
        if have and not _continues(response, have):
            _empty(file)  # the server gives all of it or nothing
            have = 0
        length = response.headers.get("Content-Length")
        total = None if length is None else have + int(length)
        free = shutil.disk_usage(Path(file.name).parent).free
        if total is not None and total - have > free:
            raise UserError(
                f"{file.name}: {(total - have) / 1e9:.1f} GB are missing, and the disk has only "
                f"{free / 1e9:.1f} GB left"
            )
        with _bar(label, total, have) as bar:
            shown, started, done = have * 10 // total if total else 0, time.monotonic(), have
            while chunk := response.read(_CHUNK):
                _write(file, chunk)
                done += len(chunk)
                bar.update(len(chunk))
                if bar.disable and total and done * 10 // total > shown and done < total:
                    shown = done * 10 // total
                    rate = (done - have) / max(time.monotonic() - started, 1e-3)
                    log(
                        f"{label}: {10 * shown} % of {total / 1e9:.2f} GB, {rate / 1e6:.1f} MB/s, "
                        f"{(total - done) / rate / 60:.1f} minutes left"
                    )
        if total is not None and done < total:
            raise ConnectionError(f"the connection ended {total - done:,} bytes early")


def _continues(response: Any, have: int) -> bool:
    """Whether an answer starts at byte `have`, with Content-Range: bytes 100-999/1000."""
    content_range = response.headers.get("Content-Range", "")
    return response.status == 206 and content_range.startswith(f"bytes {have}-")


def _empty(file: BinaryIO) -> None:
    file.truncate(0)
    file.seek(0)  # for `tell`


def _write(file: BinaryIO, chunk: bytes) -> None:
    try:
        file.write(chunk)
        file.flush()
    except OSError as error:
        raise UserError(
            f"{file.name}: cannot be written ({error.strerror}); free some disk space and run the "
            "same command again"
        ) from None
