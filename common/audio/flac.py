"""FLAC (RFC 9639): how many samples a file holds, by the headers of its frames."""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass
from typing import NamedTuple

from common.audio.content import Content, Part, Refused, Stream, truncated

_SYNC = re.compile(rb"\xff[\xf8\xf9]")
_ID3V1 = 128  # bytes
_BITS = (0, 8, 12, -1, 16, 20, 24, 32)  # of a sample, by code; 0: as the header declares
_MARGIN = 4096  # bytes that may follow the last frame
_LONG_FRAME = 65536  # bytes, where the header declares no limit
_LONGEST_HEADER = 16  # bytes, of a frame


@dataclass(frozen=True)
class _StreamInfo:
    max_block: int  # samples
    max_frame: int  # bytes
    channels: int
    bits: int
    samples: int  # 0: unknown

    @classmethod
    def parse(cls, block: bytes) -> _StreamInfo:
        packed = int.from_bytes(block[10:18], "big")
        return cls(
            max_block=int.from_bytes(block[2:4], "big"),
            max_frame=int.from_bytes(block[7:10], "big") or _LONG_FRAME,
            channels=(packed >> 41 & 7) + 1,
            bits=(packed >> 36 & 31) + 1,
            samples=packed & (1 << 36) - 1,
        )


class _Frame(NamedTuple):
    block: int  # samples
    number: int  # of the frame, or of its first sample
    is_numbered: bool  # the number is that of the frame


def flac_streams(content: Content, thorough: bool) -> list[Stream]:
    """Find the number of samples of a FLAC file, which its header may not declare, or wrongly.

    Args:
        content: The file.
        thorough: Look at all frames, and not only at the last where it fits to the header.

    Returns:
        The file as one stream whose header declares all samples.

    Raises:
        Refused: It is cut, frames are missing, or another file follows.
    """
    whole: tuple[Part, ...] = ((0, content.size),)
    if not _starts_file(content, 0):
        return [Stream(whole)]
    info = _StreamInfo.parse(content.read(8, 34))
    if not thorough and info.samples and _ends_at(content, info) in (None, info.samples):
        return [Stream(whole, info.samples)]
    start = _behind_metadata(content)
    _check_is_one_file(content, start)
    samples, last = _count(content, start, info)
    if samples == info.samples:
        return [Stream(whole, samples)]
    if samples < info.samples:
        raise truncated(f"{samples} samples or fewer where its header declares {info.samples}")
    if not _is_whole(content.read(last, content.size - last)):
        raise truncated("its last FLAC frame is incomplete")
    declared = content.read(21, 1)[0] & 0xF0 | samples >> 32
    total = bytes([declared]) + (samples & 0xFFFFFFFF).to_bytes(4, "big")
    return [Stream(((0, 21), total, (26, content.size)), samples)]


def _starts_file(content: Content, offset: int) -> bool:
    """Whether there is the marker, and a STREAMINFO, which may be the last block of metadata."""
    head = content.read(offset, 8)
    return head[:4] == b"fLaC" and head[4:5] in (b"\0", b"\x80") and head[5:] == b"\0\0\x22"


def _check_is_one_file(content: Content, start: int) -> None:
    """Refuse a second FLAC file among frames that start at byte `start`."""
    offset = start - 1
    while (offset := content.find(b"fLaC", offset + 1)) >= 0:
        if _starts_file(content, offset):
            raise Refused(
                f"a second FLAC file begins at byte {offset}; split it there or convert it to WAV"
            )


def _ends_at(content: Content, info: _StreamInfo) -> int | None:
    """Return the number of samples up to the last frame by its header; None: none is found."""
    start = max(42, content.size - info.max_frame - _MARGIN)
    tail = content.read(start, content.size - start)
    for match in reversed(list(_SYNC.finditer(tail))):
        if frame := _parse_frame(tail[match.start() : match.start() + _LONGEST_HEADER], info):
            before = frame.number * info.max_block if frame.is_numbered else frame.number
            return before + frame.block
    return None


def _count(content: Content, start: int, info: _StreamInfo) -> tuple[int, int]:
    """Count the samples of all frames, which have headers with a number and a checksum.

    Decoders fill in for frames that are missing.

    Returns:
        The number of samples, and the offset of the last frame.
    """
    last, skipped = _equal_frames(content, start)
    block, samples, end = 0, 0, 0
    if skipped and (frame := _parse_frame(content.read(start, _LONGEST_HEADER), info)):
        block, samples = frame.block, skipped * frame.block
    for at, header in content.matches(_SYNC, last):
        frame = _parse_frame(header[:_LONGEST_HEADER], info)
        if frame is None:
            continue
        block = block or frame.block  # of all but the last frame
        first = frame.number * block if frame.is_numbered else frame.number
        end = first + frame.block
        if first == samples:
            samples, last = end, at
    if end > samples:
        raise Refused(
            f"damaged: FLAC frames are missing from sample {samples} on; fetch it again or leave it"
            " out"
        )
    if not samples:
        raise truncated("its FLAC frames are missing")
    return samples, last


def _equal_frames(content: Content, start: int) -> tuple[int, int]:
    """Find the last of the frames whose headers are those of the first, but for their numbers.

    Returns:
        Its offset, and the number of frames before it.
    """
    first = content.read(start, 5)
    head, at, number = first[:4], start, 0
    if len(first) < 5 or head[1] & 1 or head[2] >> 4 in (6, 7) or first[4]:
        return start, 0  # numbered by samples, or of sizes that stand elsewhere, or not the first
    while number < sys.maxunicode:
        wanted = head + chr(number + 1).encode("utf-8", "surrogatepass")
        found = content.find(wanted, at)
        if found < 0:
            break
        at, number = found, number + 1
    return at, number


def _behind_metadata(content: Content) -> int:
    """Return where the first frame starts, behind blocks of a kind, 3 bytes of length, and more."""
    offset, is_last = 4, False
    while not is_last and offset < content.size:
        head = content.read(offset, 4)
        is_last = bool(head[0] & 0x80)
        offset += 4 + int.from_bytes(head[1:], "big")
    return offset


def _parse_frame(header: bytes, info: _StreamInfo) -> _Frame | None:
    """Read the header of a frame (RFC 9639, section 9.1); None: these bytes are none."""
    if len(header) < 6 or header[3] & 1:
        return None
    block_code, rate_code, channel_code = header[2] >> 4, header[2] & 15, header[3] >> 4
    channels = channel_code + 1 if channel_code < 8 else 2
    bits = _BITS[header[3] >> 1 & 7] or info.bits
    if channel_code > 10 or channels != info.channels or bits != info.bits or not block_code:
        return None
    number, at = _coded_number(header)
    if number is None:
        return None
    block, at = _block_size(block_code, header, at)
    if rate_code > 11:
        at += 1 if rate_code == 12 else 2
    if rate_code == 15 or block > max(info.max_block, 1) or at >= len(header):
        return None
    if crc8(header[:at]) != header[at]:
        return None
    return _Frame(block, number, not header[1] & 1)


def _coded_number(header: bytes) -> tuple[int | None, int]:
    """Read the number of a frame or sample, coded as UTF-8 codes characters, and where it ends."""
    lead = header[4]
    if lead < 0x80:
        return lead, 5
    count = 0  # of bytes
    while count < 8 and lead << count & 0x80:
        count += 1
    if count in (1, 8) or len(header) < 4 + count:
        return None, 0
    number = lead & (0x7F >> count)
    for byte in header[5 : 4 + count]:
        if byte & 0xC0 != 0x80:
            return None, 0
        number = number << 6 | byte & 0x3F
    return number, 4 + count


def _block_size(code: int, header: bytes, at: int) -> tuple[int, int]:
    """Return the samples of a block, and where the next field of its header starts."""
    if code == 1:
        return 192, at
    if code in (2, 3, 4, 5):
        return 144 << code, at
    if code in (6, 7):
        count = code - 5
        return int.from_bytes(header[at : at + count], "big") + 1, at + count
    return 1 << code, at


def _is_whole(data: bytes) -> bool:
    """Whether the checksum at the end of the last frame is right; a tag may follow."""
    ends = [len(data)]
    if data[-_ID3V1:][:3] == b"TAG":
        ends.append(len(data) - _ID3V1)
    return any(end > 2 and crc16(data[:end]) == 0 for end in ends)


def _table(polynomial: int, bits: int) -> list[int]:
    table = []
    for byte in range(256):
        crc = byte << bits - 8
        for _ in range(8):
            crc = crc << 1 ^ (polynomial if crc >> bits - 1 else 0)
            crc &= (1 << bits) - 1
        table.append(crc)
    return table


_CRC8, _CRC16 = _table(0x07, 8), _table(0x8005, 16)


def crc8(data: bytes) -> int:
    """Compute the checksum of a frame's header (RFC 9639, section 9.1.8)."""
    crc = 0
    for byte in data:
        crc = _CRC8[crc ^ byte]
    return crc


def crc16(data: bytes) -> int:
    """Compute the checksum of a frame (RFC 9639, section 9.3); 0 over a frame with its own."""
    crc = 0
    for byte in data:
        crc = crc << 8 & 0xFF00 ^ _CRC16[crc >> 8 ^ byte]
    return crc
