"""The bytes of a recording, and the parts of them that a decoder is given."""

from __future__ import annotations

import io
import os
import re
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

_BLOCK = 1 << 20  # bytes searched at a time
_LONGEST_PATTERN = 64  # bytes
_BUFFER = 1 << 16  # bytes read at a time for a decoder

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
        self._searched: tuple[int, bytes] = (-1, b"")

    def skip(self, count: int) -> None:
        """Leave out `count` bytes at the start."""
        count = min(count, self.size)
        self.start += count
        self.size -= count
        self._searched = (-1, b"")

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
        while start < self.size:
            base, block = self._block(start)
            found = block.find(pattern, start - base)
            if found >= 0:
                return base + found
            start = base + _BLOCK
        return -1

    def matches(self, pattern: re.Pattern[bytes], start: int) -> Iterator[tuple[int, bytes]]:
        """Find what a pattern fits to, from `start` on, a block in memory at a time.

        Args:
            pattern: Of at most 64 bytes, which cannot fit at two places that overlap.
            start: Offset to begin at.

        Yields:
            Offset of each match, and 64 bytes from there on; fewer at the end.
        """
        while start < self.size:
            base, block = self._block(start)
            for match in pattern.finditer(block, start - base):
                at = match.start()
                if at >= _BLOCK:
                    break
                yield base + at, block[at : at + _LONGEST_PATTERN]
            start = base + _BLOCK

    def _block(self, offset: int) -> tuple[int, bytes]:
        """Return the block that holds `offset`, with the start of the next one, and its offset."""
        base = offset // _BLOCK * _BLOCK
        if self._searched[0] != base:
            self._searched = base, self.read(base, _BLOCK + _LONGEST_PATTERN)
        return self._searched

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

    def file(self, parts: Sequence[Part]) -> io.BufferedIOBase:
        """Return parts one behind the other as a file, which is read as it is needed."""
        if isinstance(self.source, bytes) and tuple(parts) == self.whole:
            return io.BytesIO(self.source)
        return io.BufferedReader(_Parts(self, parts), _BUFFER)


class _Parts(io.RawIOBase):
    """Parts of a recording one behind the other, for decoders."""

    def __init__(self, content: Content, parts: Sequence[Part]):
        super().__init__()
        self._content, self._parts = content, [part for part in parts if _length(part)]
        self._ends = list(accumulate(map(_length, self._parts)))
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        size = self._ends[-1] if self._ends else 0
        self._at = max(0, offset + (0, self._at, size)[whence])
        return self._at

    def readinto(self, buffer: Any) -> int:
        number = bisect_right(self._ends, self._at)
        if number == len(self._parts):
            return 0
        part, end = self._parts[number], self._ends[number]
        at = self._at - (end - _length(part))
        count = min(len(buffer), end - self._at)
        if isinstance(part, bytes):
            data = part[at : at + count]
        else:
            data = self._content.read(part[0] + at, count)
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)


def _length(part: Part) -> int:
    return len(part) if isinstance(part, bytes) else part[1] - part[0]
