"""FLAC (RFC 9639): how many samples a file holds, by its last frame."""

from __future__ import annotations

import re
from dataclasses import dataclass

from common.audio.content import Content, Part, Refused, Stream, truncated

_SYNC = re.compile(rb"\xff[\xf8\xf9]")
_ID3V1 = 128  # bytes
_MARGIN = 4096  # bytes behind the last frame in which it is still found
_LONGEST_HEADER = 16  # bytes, of a frame


@dataclass(frozen=True)
class _StreamInfo:
    min_block: int  # samples
    max_block: int  # samples
    max_frame: int  # bytes; 0: unknown
    rate: int  # Hz
    channels: int
    bits: int
    samples: int  # 0: unknown

    @classmethod
    def parse(cls, block: bytes) -> _StreamInfo:
        packed = int.from_bytes(block[10:18], "big")
        return cls(
            min_block=int.from_bytes(block[0:2], "big"),
            max_block=int.from_bytes(block[2:4], "big"),
            max_frame=int.from_bytes(block[7:10], "big"),
            rate=packed >> 44,
            channels=(packed >> 41 & 7) + 1,
            bits=(packed >> 36 & 31) + 1,
            samples=packed & (1 << 36) - 1,
        )

    def frame_limit(self) -> int:
        """Bytes that no frame exceeds."""
        return self.max_frame or self.max_block * self.channels * (self.bits + 8) // 8 + 64


@dataclass(frozen=True)
class _Frame:
    offset: int
    block: int  # samples
    end_sample: int  # the number of the first sample behind it
    is_numbered: bool  # by frames, not by samples


def flac_streams(content: Content) -> list[Stream]:
    """Find the number of samples of a FLAC file, which its header may not declare, or wrongly.

    Args:
        content: The file.

    Returns:
        The file as one stream whose header declares all samples.

    Raises:
        Refused: It is cut, or another file follows.
    """
    whole: tuple[Part, ...] = ((0, content.size),)
    if not _starts_file(content, 0):
        return [Stream(whole)]
    _check_is_one_file(content)
    info = _StreamInfo.parse(content.read(8, 34))
    last = _last_frame(content, info)
    if info.samples and (last is None or last.end_sample == info.samples):
        return [Stream(whole, info.samples)]
    certain = last is not None and _counts_samples(content, info, last)
    if info.samples and not certain:
        return [Stream(whole, info.samples)]
    if last is None or not certain:
        raise truncated("its last FLAC frame is missing or incomplete")
    if last.end_sample < info.samples:
        raise truncated(
            f"{last.end_sample} samples or fewer where its header declares {info.samples}"
        )
    if not _is_whole(content, last):
        raise truncated("its last FLAC frame is incomplete")
    total = content.read(21, 1)[0] & 0xF0 | last.end_sample >> 32
    declared = bytes([total]) + (last.end_sample & 0xFFFFFFFF).to_bytes(4, "big")
    return [Stream(((0, 21), declared, (26, content.size)), last.end_sample)]


def _starts_file(content: Content, offset: int) -> bool:
    """Whether there is the marker, and a STREAMINFO, which may be the last block of metadata."""
    head = content.read(offset, 8)
    return head[:4] == b"fLaC" and head[4:5] in (b"\0", b"\x80") and head[5:] == b"\0\0\x22"


def _check_is_one_file(content: Content) -> None:
    offset = 0
    while (offset := content.find(b"fLaC", offset + 1)) >= 0:
        if _starts_file(content, offset):
            raise Refused(
                f"a second FLAC file begins at byte {offset}; split it there or convert it to WAV"
            )


def _last_frame(content: Content, info: _StreamInfo) -> _Frame | None:
    """Find the last frame by the header of a frame, which has a checksum."""
    start = max(42, content.size - info.frame_limit() - _MARGIN)
    tail = content.read(start, content.size - start)
    for match in reversed(list(_SYNC.finditer(tail))):
        header = tail[match.start() : match.start() + _LONGEST_HEADER]
        if frame := _parse_frame(header, start + match.start(), info):
            return frame
    return None


def _counts_samples(content: Content, info: _StreamInfo, last: _Frame) -> bool:
    """Whether the number of the last frame tells the samples before it: all blocks are equal."""
    offset, is_last = 4, False
    while not is_last and offset < content.size:  # metadata: a flag and a kind, 3 bytes of length
        head = content.read(offset, 4)
        is_last = bool(head[0] & 0x80)
        offset += 4 + int.from_bytes(head[1:], "big")
    first = _parse_frame(content.read(offset, _LONGEST_HEADER), offset, info)
    if first is None or first.end_sample != first.block:
        return False
    if not last.is_numbered or first.offset == last.offset:
        return True
    return info.min_block == info.max_block == first.block


def _parse_frame(header: bytes, offset: int, info: _StreamInfo) -> _Frame | None:
    """Read the header of a frame (RFC 9639, section 9.1); None: these bytes are none."""
    if len(header) < 6 or header[3] & 1:
        return None
    block_code, rate_code = header[2] >> 4, header[2] & 15
    channel_code, bits_code = header[3] >> 4, header[3] >> 1 & 7
    channels = channel_code + 1 if channel_code < 8 else 2
    bits = {1: 8, 2: 12, 4: 16, 5: 20, 6: 24, 7: 32}.get(
        bits_code, info.bits if not bits_code else 0
    )
    if channel_code > 10 or channels != info.channels or bits != info.bits or not block_code:
        return None
    number, at = _coded_number(header)
    if number is None:
        return None
    block, at = _block_size(block_code, header, at)
    at += {12: 1, 13: 2, 14: 2}.get(rate_code, 0)
    if rate_code == 15 or block > max(info.max_block, 1) or at >= len(header):
        return None
    if crc8(header[:at]) != header[at]:
        return None
    if header[1] & 1:  # blocks of several sizes: the number of a sample
        return _Frame(offset, block, number + block, False)
    return _Frame(offset, block, number * info.max_block + block, True)


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


def _is_whole(content: Content, frame: _Frame) -> bool:
    """Whether the checksum at the end of the last frame is right; a tag may follow."""
    data = content.read(frame.offset, content.size - frame.offset)
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
