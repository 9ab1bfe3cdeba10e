"""Files that are complete or not there, text files in any Unicode encoding, absolute paths."""

from __future__ import annotations

import codecs
import errno
import os
import re
import stat
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


def absolute_path(path: str | Path) -> Path:
    """Make a path absolute; it names the file that the system opens under `path`.

    "folder/.." is left out, for paths that are easy to read. It stays where the folder is a
    symbolic link, since the system goes up from what the link points to, or is no folder at all.

    Args:
        path: The path; relative ones start in the current folder.

    Returns:
        The absolute path. Symbolic links in it are kept.
    """
    whole = os.path.join(os.getcwd(), path)  # as text: pathlib takes several times as long
    if ".." not in whole:
        return Path(whole)
    kept = ""
    for name in whole.split("/"):
        if name in ("", "."):
            continue
        if name != ".." or (kept and not _is_plain_folder(kept)):
            kept += f"/{name}"
        else:  # the root is the folder above itself
            kept = kept.rpartition("/")[0]
    return Path(kept or "/")


def _is_plain_folder(path: str) -> bool:
    """Whether the last name in a path is that of a folder, and not of a symbolic link."""
    try:
        return not path.endswith("/..") and stat.S_ISDIR(os.lstat(path).st_mode)
    except (OSError, ValueError):  # ValueError: a null byte in the name
        return False


def read_text(path: Path, what: str) -> str:
    """Read a text file in UTF-8, or in UTF-16 with a byte order mark.

    Args:
        path: The file.
        what: What messages call it, such as "manifest".

    Returns:
        Its text, without byte order marks: files that were joined have them in the middle.

    Raises:
        UserError: It cannot be read or has another encoding.
    """
    try:
        if stat.S_ISCHR(path.stat().st_mode) or path.is_block_device():
            raise OSError(0, "a device, expected a file")  # /dev/zero has no end
        content = path.read_bytes()
    except (OSError, ValueError) as error:  # ValueError: a null byte in the name
        reason = getattr(error, "strerror", None) or error
        where = "" if path.is_absolute() else f" (in {Path.cwd()})"
        raise UserError(f"{what} {path}: cannot be read: {reason}{where}") from None
    utf16 = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    encoding = "UTF-16" if utf16 else "UTF-8"
    try:
        text = content.decode("utf-16" if utf16 else "utf-8-sig")
        if "\0" in text:
            raise UnicodeDecodeError(encoding, content, content.index(0), 0, "zero byte")
    except UnicodeDecodeError as error:
        likely = _likely_encoding(content)
        hint = "is it a text file?"
        if likely:
            hint = f"it looks like {likely}: convert it, with iconv -f {likely} -t UTF-8"
        raise UserError(
            f"{what} {path}: not {encoding} text (byte {error.start}); {hint}"
        ) from None
    return text.replace("\r\n", "\n").replace("\r", "\n").replace("\n\ufeff", "\n")


def _likely_encoding(content: bytes) -> str:
    """Guess, for a message, the encoding of what is not UTF-8; empty: it is hardly text.

    Every second byte of UTF-16 is zero in Latin letters. In Chinese text in GBK most bytes above
    127 are beside another one; in Western European text most are alone.
    """
    if b"\0" in content:
        low, high = (content[start::2].count(0) for start in (0, 1))
        if max(low, high) < len(content) // 4 or min(low, high) > max(low, high) // 8:
            return ""
        return "UTF-16LE" if high > low else "UTF-16BE"
    runs = re.findall(rb"[\x80-\xff]+", content)
    alone = sum(len(run) == 1 for run in runs)
    return "WINDOWS-1252" if 2 * alone >= len(runs) else "GBK"


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
