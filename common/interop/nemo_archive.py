"""Archives of NeMo (.nemo): configuration and weights, read without NeMo and without trusting them.

An archive is a tar file, plain or compressed, with `model_config.yaml` and `model_weights.ckpt`
(NeMo's save_restore_connector.py), and sometimes files of a tokenizer. Nothing is unpacked by the
name that an archive gives it.
"""

from __future__ import annotations

import shutil
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Any, cast

from common import config as configs
from common.interop import torch_pickle
from common.utils import compressed
from common.utils.errors import UserError

CONFIG, WEIGHTS = "model_config.yaml", "model_weights.ckpt"
SUFFIX = ".nemo"
_MAGIC = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ\0")  # of gzip, bzip2, xz
_MOST_CONFIG = 4 << 20  # bytes; 5000 labels in three lists take 0.1 MB
_MOST_WEIGHTS = 4 << 30  # bytes; Jasper 10x5dr has 1.3 GB
_MOST_MEMBERS = 1000
_MOST_HEADER = 1 << 16  # bytes of an extended header, which is read into memory
_PLAIN = (tarfile.REGTYPE, tarfile.AREGTYPE)


@dataclass(frozen=True)
class NemoArchive:
    """The content of an archive.

    Attributes:
        config: The content of its model_config.yaml.
        weights: What `torch_pickle.read` returned of its model_weights.ckpt.
    """

    config: dict[Any, Any]
    weights: Any


def is_archive(path: str | Path) -> bool:
    """Tell an archive by its name, or by its first bytes.

    Args:
        path: A file; one that is missing is none.
    """
    path = Path(path)
    if not path.is_file():
        return False
    with path.open("rb") as file:
        start = file.read(512)
    return path.suffix == SUFFIX or start.startswith(_MAGIC) or start[257:262] == b"ustar"


@contextmanager
def opened(path: str | Path) -> Iterator[NemoArchive]:
    """Open an archive; its tensors can be read until it is closed.

    Args:
        path: The archive.

    Yields:
        Its content.

    Raises:
        UserError: The archive is missing, damaged, cut, too large, or holds what NeMo does not
            write; also for errors that reading its weights raises later.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    with tempfile.TemporaryDirectory() as folder:
        weights = Path(folder) / WEIGHTS
        try:
            text = _unpack(path, weights)
            config = configs.load_yaml(text, f"{path}: {CONFIG}")
            if not isinstance(config, dict):
                raise UserError(f"{path}: {CONFIG}: expected groups of keys")
            yield NemoArchive(config, torch_pickle.read(weights))
        except UserError as error:  # name the archive in the place of the temporary file
            raise UserError(str(error).replace(str(weights), f"{path}: {WEIGHTS}")) from error


class _Member(tarfile.TarInfo):
    """A header that cannot make tarfile read more than a little into memory."""

    @classmethod
    def frombuf(cls, buf: bytes, encoding: str | None, errors: str) -> _Member:  # type: ignore[override]
        """Read a header; UserError for one that NeMo does not write."""
        member = super().frombuf(buf, encoding, errors)  # type: ignore[arg-type]
        if member.type == tarfile.GNUTYPE_SPARSE or (
            member.type not in (*_PLAIN, tarfile.DIRTYPE) and member.size > _MOST_HEADER
        ):
            raise UserError(f"an entry of type {member.type!r} with {member.size} bytes")
        return member


def _unpack(path: Path, weights: Path) -> str:
    """Copy the weights of an archive to a file, and return the text of its configuration."""
    found: dict[str, bytes] = {}
    try:
        with compressed.opener(path)(path, "rb") as stream:
            with tarfile.open(fileobj=cast(IO[bytes], stream), mode="r|", tarinfo=_Member) as tar:
                for number, member in enumerate(tar):
                    name = _checked(member, number)
                    if name in found:
                        raise UserError(f"holds {name} twice")
                    if name == CONFIG:
                        found[name] = _content(tar, member).read()
                    elif name == WEIGHTS:
                        found[name] = b""
                        with weights.open("wb") as file:
                            shutil.copyfileobj(_content(tar, member), file, 1 << 20)
            stream.read(1 << 20)  # to the end, where gzip has its checksum
        missing = [name for name in (CONFIG, WEIGHTS) if name not in found]
        if missing:
            raise UserError(
                f"holds no {' and no '.join(missing)}, expected {CONFIG} and {WEIGHTS}: cut, or "
                "not an archive of NeMo"
            )
        return found[CONFIG].decode("utf-8-sig")
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: {CONFIG}: not valid YAML ({error})") from error
    except (tarfile.TarError, *compressed.UNPACKING_ERRORS) as error:
        if isinstance(error, OSError) and error.strerror:
            raise UserError(f"{path}: cannot be unpacked ({error.strerror})") from error
        raise UserError(
            f"{path}: damaged or cut ({error}; {path.stat().st_size} bytes): not an archive of "
            "NeMo that is complete; fetch it again"
        ) from error


def _checked(member: tarfile.TarInfo, number: int) -> str:
    """Return the path of a member in the archive; UserError for what NeMo does not write."""
    inside = PurePosixPath(member.name)
    if inside.is_absolute() or ".." in inside.parts:
        raise UserError(f"holds {member.name}, which leads out of it: not an archive of NeMo")
    if not (member.type in _PLAIN or member.isdir()):
        raise UserError(f"holds {member.name}, a link or device: not an archive of NeMo")
    if number >= _MOST_MEMBERS:
        raise UserError(f"holds more than {_MOST_MEMBERS} files: not an archive of NeMo")
    most = _MOST_CONFIG if str(inside) == CONFIG else _MOST_WEIGHTS
    if member.size > most:
        raise UserError(f"{member.name} has {member.size} bytes, expected at most {most}")
    return str(inside)


def _content(tar: tarfile.TarFile, member: tarfile.TarInfo) -> IO[bytes]:
    content = tar.extractfile(member)
    if content is None:
        raise UserError(f"{member.name} is a folder, expected a file")
    return content
