"""Text files that may be compressed: gzip, bzip2 or xz, told by their first bytes."""

from __future__ import annotations

import bz2
import gzip
import lzma
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

_OPENERS: dict[bytes, Callable[..., Any]] = {
    b"\x1f\x8b": gzip.open,
    b"BZh": bz2.open,
    b"\xfd7zXZ\0": lzma.open,
}
# What reading a file that is damaged or cut raises.
UNPACKING_ERRORS = (EOFError, OSError, lzma.LZMAError, zlib.error)


def opener(path: str | Path) -> Callable[..., Any]:
    """Return what opens a file: `open`, or that of the module that unpacks it.

    Raises:
        OSError: It cannot be read.
    """
    with open(path, "rb") as file:
        start = file.read(8)
    return next((found for magic, found in _OPENERS.items() if start.startswith(magic)), open)
