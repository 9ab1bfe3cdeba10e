"""MPEG audio (ISO 11172-3, 13818-3), mostly MP3: how many frames a file holds, by a walk.

Decoders estimate the length of a file without a Xing or Info frame, or believe that frame.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

from common.audio.content import Content, Part, Refused, Stream, truncated

# kbit/s by [MPEG-1 or later][layer][index]; index 0 is "free", which no decoder here knows.
_KBPS = {
    (True, 1): (32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448),
    (True, 2): (32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    (True, 3): (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (False, 1): (32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256),
    (False, 2): (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
    (False, 3): (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
_RATES = {3: (44100, 48000, 32000), 2: (22050, 24000, 16000), 0: (11025, 12000, 8000)}  # Hz
_MONO = 0xC0  # of the fourth byte of a header
_DECODER_DELAY = 529  # samples that any decoder of layer III adds at the start
_ID3V1 = 128  # bytes
_JUNK = 65536  # bytes, behind an ID3v2 tag, in which the first frame is looked for
_BLOCK = 1 << 20  # bytes in memory at a time


@dataclass(frozen=True)
class Frame:
    """What the second and third byte of a frame's header say.

    Attributes:
        size: In bytes.
        samples: Per channel.
        layer: 1 to 3.
        kind: Version, layer and sample rate, equal in all frames of a stream.
        side: Bytes of side information of (stereo, mono); layer III.
    """

    size: int
    samples: int
    layer: int
    kind: tuple[int, int]
    side: tuple[int, int]


@functools.cache
def parse_header(second: int, third: int) -> Frame | None:
    """Read a frame's header.

    Args:
        second: Second byte; the first is 255.
        third: Third byte.

    Returns:
        What they say; None: no header, or of a free bit rate.
    """
    version, layer = second >> 3 & 3, 4 - (second >> 1 & 3)
    index, rate_index, padding = third >> 4, third >> 2 & 3, third >> 1 & 1
    if second < 0xE0 or version == 1 or layer == 4 or index in (0, 15) or rate_index == 3:
        return None
    first_version = version == 3
    rate = _RATES[version][rate_index]
    bits = _KBPS[first_version, layer][index - 1] * 1000
    if layer == 1:
        samples, size = 384, (12 * bits // rate + padding) * 4
    else:
        samples = 576 if layer == 3 and not first_version else 1152
        size = samples // 8 * bits // rate + padding
    side = (32, 17) if first_version else (17, 9)
    return Frame(size, samples, layer, (second & 0x1E, third & 0x0C), side)


def id3v2_end(content: Content, offset: int = 0) -> int:
    """Return where an ID3v2 tag ends that starts at `offset`; `offset`: there is none."""
    head = content.read(offset, 10)
    if len(head) < 10 or head[:3] != b"ID3" or head[3] == 0xFF or max(head[6:10]) > 0x7F:
        return offset
    size = head[6] << 21 | head[7] << 14 | head[8] << 7 | head[9]
    footer = 10 if head[5] & 0x10 else 0
    return offset + 10 + size + footer


def first_frame(content: Content) -> int | None:
    """Return the offset of the first of two frames that fit together; None: there are none.

    Behind a tag something else may come first.
    """
    data = content.read(0, _JUNK if content.start else 4)
    offset = 0
    while (offset := data.find(b"\xff", offset)) >= 0:
        frame = _frame_at(data, offset)
        if frame and _is_followed(content, offset, frame):
            return offset
        offset += 1
    return None


def _frame_at(data: bytes, offset: int) -> Frame | None:
    head = data[offset : offset + 4]
    return parse_header(head[1], head[2]) if len(head) == 4 and head[0] == 0xFF else None


def _is_followed(content: Content, offset: int, frame: Frame) -> bool:
    """Whether another such frame, a tag, or the end of the file follows."""
    head = content.read(offset + frame.size, 4)
    following = _frame_at(head, 0)
    return len(head) < 4 or head[:3] == b"TAG" or bool(following and following.kind == frame.kind)


@dataclass(frozen=True)
class _Info:
    """What a frame before the sound declares: Xing's and LAME's, or Fraunhofer's ("VBRI").

    Attributes:
        frames: Number of frames behind it; None: not declared.
        size: Bytes of all frames; None: not declared.
        place: Where in the frame the number of frames stands; None: where decoders look for none.
    """

    frames: int | None
    size: int | None
    place: int | None

    @classmethod
    def parse(cls, frame: bytes, layer: int, side: int) -> _Info | None:
        if layer != 3:
            return None
        if frame[36:40] == b"VBRI":
            return cls(_number(frame, 50), _number(frame, 46), None)
        tag = 4 + side
        if frame[tag : tag + 4] not in (b"Xing", b"Info"):
            return None
        flags = _number(frame, tag + 4)
        has_frames, has_bytes = flags & 1, flags >> 1 & 1
        return cls(
            frames=_number(frame, tag + 8) if has_frames else None,
            size=_number(frame, tag + 8 + 4 * has_frames) if has_bytes else None,
            place=tag + 8 if has_frames else None,
        )


def mpeg_streams(content: Content, first: int) -> list[Stream]:
    """Find the frames of an MPEG file, and have a decoder read all of them.

    Decoders take the length from a Xing or Info frame, and estimate it without one. If it is
    missing or wrong, they are given one that is right.

    Args:
        content: The file.
        first: Offset of the first frame.

    Returns:
        The frames as one stream.

    Raises:
        Refused: A frame is cut or missing, or the frames are of several kinds.
    """
    frame = _frame_at(content.read(first, 4), 0)
    assert frame is not None  # `first_frame` found it
    head = content.read(first, frame.size)
    ranges, frames = _walk(content, first, frame, head)
    side = frame.side[head[3] & _MONO == _MONO]
    info = _Info.parse(head, frame.layer, side)
    if info is None:
        return [_counted(ranges, frames, head, frame)]
    length = sum(stop - start for start, stop in ranges)
    frames -= 1
    ranges = [(ranges[0][0] + frame.size, ranges[0][1]), *ranges[1:]]
    if (info.frames or 0) > frames and (info.size is None or info.size > length):
        raise truncated(f"{frames} MPEG frames where its header declares {info.frames}")
    if not frames:
        raise Refused("empty (0 samples); leave it out")
    if info.place is None or (info.frames or 0) > frames:
        return [_counted(ranges, frames, head, frame)]
    # It may declare samples to leave out at both ends.
    head = head[: info.place] + frames.to_bytes(4, "big") + head[info.place + 4 :]
    return [Stream((head, *ranges), native_messages=True)]


def _counted(ranges: Sequence[Part], frames: int, header: bytes, frame: Frame) -> Stream:
    """Return frames behind an Info frame that tells their number.

    Decoders leave out the delay that this frame declares and 529 samples more, which are their
    own delay. So a silent frame comes first, and just that is left out.
    """
    samples = frames * frame.samples
    if frame.layer != 3:
        # No frame tells their number here, and an estimate of fewer would end the reading.
        zeros = bytes(4 * frame.size)
        return Stream((*ranges, zeros), samples, estimated=True, native_messages=True)
    # The highest bit rate, so that there is room, and no checksum.
    second, third = header[1] | 1, 0xE0 | header[2] & 0x0C
    silent = parse_header(second, third)
    assert silent is not None
    start = bytes([0xFF, second, third, header[3]])
    info = start + bytes(frame.side[header[3] & _MONO == _MONO]) + b"Info"
    info += (1).to_bytes(4, "big") + (frames + 1).to_bytes(4, "big")
    delays = frame.samples - _DECODER_DELAY << 12 | _DECODER_DELAY
    info += b"LAME".ljust(21, b"\0") + delays.to_bytes(3, "big")
    head = info.ljust(silent.size, b"\0") + start.ljust(silent.size, b"\0")
    return Stream((head, *ranges), samples, native_messages=True)


def _walk(
    content: Content, first: int, frame: Frame, head: bytes
) -> tuple[list[tuple[int, int]], int]:
    """Go from frame to frame, over tags, to the end.

    Returns:
        Offsets of the starts and ends of frames that adjoin, and the number of all frames.
    """
    end = max(_end_of_frames(content), first)
    mono = head[3] & _MONO == _MONO
    ranges, frames, offset = [], 0, first
    while offset < end:
        stop, count = _adjoining(content, offset, end, frame.kind, mono)
        if count:
            ranges.append((offset, stop))
            frames += count
        offset = _behind_tag(content, stop, end)
    return ranges, frames


def _adjoining(
    content: Content, offset: int, end: int, kind: tuple[int, int], mono: bool
) -> tuple[int, int]:
    """Return the end of the frames that start at `offset` without a gap, and their number."""
    count, base, block = 0, offset, b""
    while offset < end:
        at = offset - base
        if at + 4 > len(block):
            base, at, block = offset, 0, content.read(offset, _BLOCK)
        if block[at] != 0xFF:
            break
        if offset + 4 > end:
            raise truncated(f"its last MPEG frame has {end - offset} bytes")
        found = parse_header(block[at + 1], block[at + 2])
        if found is None:
            break
        if found.kind != kind or (block[at + 3] & _MONO == _MONO) != mono:
            raise Refused(
                f"damaged, or of another sample rate or number of channels from byte {offset} on;"
                " convert it to FLAC or WAV, or leave it out"
            )
        if offset + found.size > end:
            raise truncated(f"its last MPEG frame has {end - offset} of {found.size} bytes")
        offset += found.size
        count += 1
    return offset, count


def _end_of_frames(content: Content) -> int:
    """Return where the tags begin that end a file: ID3v1, Lyrics3v2, APE."""
    end = content.size
    if _before(content, end, _ID3V1)[:3] == b"TAG":
        end -= _ID3V1
    lyrics = _before(content, end, 15)
    if lyrics[6:] == b"LYRICS200" and lyrics[:6].isdigit():
        end -= 15 + int(lyrics[:6])
    footer = _before(content, end, 32)
    if footer[:8] == b"APETAGEX":
        end -= int.from_bytes(footer[12:16], "little") + (32 if footer[23] & 0x80 else 0)
    return end


def _before(content: Content, end: int, count: int) -> bytes:
    """Return the `count` bytes before `end`, or all that there are."""
    start = max(end - count, 0)
    return content.read(start, end - start)


def _behind_tag(content: Content, offset: int, end: int) -> int:
    """Return where a tag or zeros at `offset` end."""
    if offset >= end:
        return offset
    behind = id3v2_end(content, offset)
    if behind > offset:
        return behind
    head = content.read(offset, 32)
    if head[:3] == b"TAG":  # of the first of two files that were joined
        return offset + _ID3V1
    if head[:8] == b"APETAGEX" and head[23:24] >= b"\xa0":
        return offset + 32 + int.from_bytes(head[12:16], "little")
    if head[0] == 0:
        while (block := content.read(offset, 4096)) and not block.strip(b"\0") and offset < end:
            offset += 4096
        return offset + len(block) - len(block.lstrip(b"\0"))
    raise Refused(
        f"damaged: there is no MPEG frame at byte {offset}; fetch it again, convert it to FLAC or"
        " WAV, or leave it out"
    )


def _number(data: bytes, offset: int) -> int:
    return int.from_bytes(data[offset : offset + 4], "big")
