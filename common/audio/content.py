"""The bytes of a recording, and the parts of them that a decoder is given."""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from dataclasses import dataclass

_BLOCK = 1 << 20  # bytes copied or searched at a time

# Bytes of the file from one offset to another, or bytes in the place of some of the file.
Part = tuple[int, int] | bytes


class Refused(Exception):
    """Why a recording is not read, and what to do: all of the message but the file's name."""


def truncated(what: str) -> Refused:
    """Make the refusal of a file that has less than it should.

    Args:
        what: Such as "20 bytes where its header declares 40".

    Returns:
        What to raise.
    """
    return Refused(f"truncated: {what}; fetch it again or leave it out")


@dataclass(frozen=True)
class Stream:
    """What a decoder reads as one file.

    Attributes:
        parts: Of the recording, in their order.
        samples: Per channel, as the structure of the container tells; None: as the decoder says.
        estimated: The decoder can only estimate them; it is to read as many as `samples`.
        native_messages: The decoder writes messages of its own to standard error.
    """

    parts: tuple[Part, ...]
    samples: int | None = None
    estimated: bool = False
    native_messages: bool = False


class Content:
    """Bytes that are read at any place.

    Attributes:
        start: Offset in the source of what counts as byte 0 here.
        size: In bytes, from there on.
    """

    def __init__(self, source: int | bytes):
        """Read from a file descriptor, or from bytes in memory."""
        self.source = source
        self.start = 0
        self.size = os.fstat(source).st_size if isinstance(source, int) else len(source)

    def skip(self, count: int) -> None:
        """Leave out `count` bytes at the start."""
        count = min(count, self.size)
        self.start += count
        self.size -= count

    def keep(self, start: int, size: int) -> None:
        """Leave out all but `size` bytes from `start` on."""
        self.skip(start)
        self.size = min(size, self.size)

    def read(self, offset: int, count: int) -> bytes:
        """Return `count` bytes from `offset` on; fewer where there are fewer."""
        count = min(count, self.size - offset)
        if count <= 0:
            return b""
        offset += self.start
        if isinstance(self.source, bytes):
            return self.source[offset : offset + count]
        data = os.pread(self.source, count, offset)
        while 0 < len(data) < count:
            more = os.pread(self.source, count - len(data), offset + len(data))
            if not more:
                break
            data += more
        return data

    def find(self, pattern: bytes, start: int) -> int:
        """Return the offset of the first `pattern` from `start` on; -1: there is none."""
        overlap = len(pattern) - 1
        while start < self.size:
            found = self.read(start, _BLOCK + overlap).find(pattern)
            if found >= 0:
                return start + found
            start += _BLOCK
        return -1

    def is_zero(self, start: int) -> bool:
        """Whether all bytes from `start` on are zero."""
        for offset in range(start, self.size, _BLOCK):
            if self.read(offset, _BLOCK).strip(b"\0"):
                return False
        return True

    @property
    def whole(self) -> tuple[Part, ...]:
        """The parts of a stream that is the whole source; none where a part was skipped."""
        return () if self.start else ((0, self.size),)

    def copy(self, parts: Sequence[Part]) -> io.BytesIO:
        """Return a file in memory with parts one behind the other."""
        return io.BytesIO(
            b"".join(
                part if isinstance(part, bytes) else self.read(part[0], part[1] - part[0])
                for part in parts
            )
        )
