"""Ogg (RFC 3533): the streams that follow each other in a file, each of whole pages."""

from __future__ import annotations

import zlib
from dataclasses import dataclass

from common.audio.content import Content, Refused, Stream

_CONTINUED, _FIRST, _LAST = 1, 2, 4  # flags of a page
_HEADER = 27  # bytes before the sizes of a page's segments
_REVERSED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))


@dataclass(frozen=True)
class _Page:
    offset: int
    end: int
    flags: int
    serial: int
    number: int


def ogg_streams(content: Content) -> list[Stream]:
    """Find the streams of an Ogg file.

    A file may be several files one behind the other ("chained"). Bytes behind the last page, such
    as tags, are left out.

    Args:
        content: The file.

    Returns:
        The streams in their order.

    Raises:
        Refused: A page is cut, damaged or missing, or streams lie side by side.
    """
    streams: list[Stream] = []
    first: _Page | None = None  # of the stream that is not complete yet
    number, offset = 0, 0
    while (page := _page(content, offset)) is not None:
        if page.flags & _FIRST:
            if first is not None:
                if number == 1:
                    raise Refused(
                        "an Ogg file of several streams side by side, such as sound and pictures;"
                        " convert its sound to FLAC or WAV"
                    )
                raise _no_last_page()
            first, number = page, page.number
        elif first is None or (page.serial, page.number) != (first.serial, number):
            raise _damaged(f"the Ogg page at byte {offset} does not continue the one before it")
        number, offset = page.number + 1, page.end
        if page.flags & _LAST:
            streams.append(Stream(((first.offset, page.end),)))
            first = None
    if first is not None or not streams:
        raise _no_last_page()
    if content.find(b"OggS", offset) >= 0:
        raise _damaged(f"there is no Ogg page at byte {offset}, but further on")
    return streams


def _page(content: Content, offset: int) -> _Page | None:
    """Read the page at `offset`; None: there is none."""
    header = content.read(offset, _HEADER)
    if header[:4] != b"OggS":
        return None
    sizes = content.read(offset + _HEADER, header[26]) if len(header) == _HEADER else b""
    if len(header) < _HEADER or len(sizes) < header[26]:
        raise _no_last_page()
    bytes_ = _HEADER + len(sizes) + sum(sizes)
    page = content.read(offset, bytes_)
    if len(page) < bytes_:
        raise _no_last_page()
    stored = int.from_bytes(page[22:26], "little")
    if _checksum(page[:22] + bytes(4) + page[26:]) != stored:
        raise _damaged(f"the Ogg page at byte {offset} has another checksum than it declares")
    serial = int.from_bytes(page[14:18], "little")
    return _Page(offset, offset + bytes_, page[5], serial, int.from_bytes(page[18:22], "little"))


def _checksum(page: bytes) -> int:
    """CRC of Ogg: polynomial 04C11DB7, highest bit first, from 0.

    zlib's has the same polynomial, lowest bit first and inverted at both ends.
    """
    crc = zlib.crc32(page.translate(_REVERSED), 0xFFFFFFFF) ^ 0xFFFFFFFF
    return int(f"{crc:032b}"[::-1], 2)


def _no_last_page() -> Refused:
    # Some programs mark no page as the last, which cannot be told from a cut between two pages.
    return Refused(
        "truncated: the last page of its Ogg stream is missing or incomplete; fetch it again,"
        " convert it to FLAC or WAV if all of it is there, or leave it out"
    )


def _damaged(what: str) -> Refused:
    return Refused(f"damaged: {what}; fetch it again or leave it out")
