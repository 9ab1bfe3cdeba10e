"""What a recording holds by the structure of its container, before a decoder sees it.

Decoders read a cut file to its cut, stop where a wrong header tells them to, and read the first of
several streams. Here the sizes that a file declares are compared with what is there. What cannot
be checked so is not read.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from common.audio.content import Content, Refused, Stream, truncated
from common.audio.flac import flac_streams
from common.audio.mpeg import first_frame, id3v2_end, mpeg_streams
from common.audio.ogg import ogg_streams

_ID3V1 = 128  # bytes
_SHORTEST_HEAD = 8  # bytes, of a chunk

# Containers that libsndfile reads, but whose headers do not tell a cut file from a whole one, or
# that hardly anybody uses for speech.
_NOT_READ = {
    b"\x64\xa3": "IRCAM",
    b"\x00\x00\xa3\x64": "IRCAM",
    b" paf": "PAF",
    b"fap ": "PAF",
    b"PVF1": "PVF",
    b"MATLAB 5": "MAT",
    b"\x00\x00\x03\xe8\x00\x00\x00\x01": "MAT",
    b"\x00\x00\x00\x00\x01\x00\x00\x00\x01": "MAT",
    b"Extended Ins": "XI",
    b"2BIT": "AVR",
    b"ALawSoundFile": "WVE",
    b"DiamondWare ": "DWD",
    b"LM89": "TXW",
    b"\xf0\x7e": "SDS",
    b"\x01\x04": "MPC 2000",
    b"CAT ": "REX2",
}


def streams_of(content: Content, thorough: bool) -> list[Stream]:
    """Find what a decoder is to read of a recording.

    Args:
        content: The recording; ID3v2 tags at its start are skipped.
        thorough: Look for damage that a decoder hides; else only as far as the length needs it.

    Returns:
        Streams whose samples follow each other; mostly one, the whole file.

    Raises:
        Refused: It is cut, damaged, empty, or of a kind that is not read.
    """
    while (tag := id3v2_end(content)) > 0:
        content.skip(tag)
    head = content.read(0, FOREIGN_HEAD)
    if head.startswith(b"fLaC"):
        return flac_streams(content, thorough)
    for magic, streams in _CONTAINERS:
        if magic.match(head):
            return streams(content)
    first = first_frame(content)
    if first is not None:
        return mpeg_streams(content, first)
    for prefix, name in _NOT_READ.items():
        if head.startswith(prefix):
            raise Refused(f"{name} files are not read; convert it to FLAC or WAV")
    if foreign := foreign_format(head):
        raise Refused(
            f"{foreign}, which is not read here; convert its sound with: ffmpeg -i IN -vn OUT.flac"
        )
    raise Refused(
        "damaged, truncated or not audio that libsndfile reads (unknown format); fetch it again,"
        " convert it to FLAC or WAV, or leave it out"
    )


# Of films, and of sound that libsndfile does not decode.
_FOREIGN: tuple[tuple[re.Pattern[bytes], str], ...] = tuple(
    (re.compile(pattern, re.DOTALL), name)
    for pattern, name in (
        (rb"....(ftyp|moov|mdat)|\x00...(wide|free|skip)", "an MP4 or QuickTime file"),
        (rb"\x1a\x45\xdf\xa3", "a Matroska or WebM file"),
        (b"RIFF....AVI ", "an AVI file"),
        (b"FLV\x01", "a Flash video file"),
        (b"\x30\x26\xb2\x75\x8e\x66\xcf\x11", "a Windows Media file"),
        (b"\x00\x00\x01\xba", "an MPEG program stream"),
        (b"\x47.{187}\x47", "an MPEG transport stream"),
        (b"#!AMR", "an AMR file"),
        (b"\xff[\xf0\xf1\xf8\xf9]", "an AAC file"),
        (b"wvpk", "a WavPack file"),
        (b"MAC ", "a Monkey's Audio file"),
    )
)
FOREIGN_HEAD = 192  # bytes by which they are told


def foreign_format(head: bytes) -> str:
    """Tell a file whose sound ffmpeg decodes and libsndfile does not.

    Args:
        head: Its first 192 bytes.

    Returns:
        What it is, such as "an MP4 or QuickTime file"; empty: none of those.
    """
    return next((name for pattern, name in _FOREIGN if pattern.match(head)), "")


# ---- chunks


@dataclass(frozen=True)
class _Layout:
    """How the chunks of a container are written.

    Attributes:
        order: Of the bytes of a number.
        id_bytes: Length of a chunk's name.
        size_bytes: Length of its size.
        align: Chunks start at multiples of so many bytes.
        size_of_all: A chunk's size counts its name and size, too.
    """

    order: Literal["little", "big"]
    id_bytes: int = 4
    size_bytes: int = 4
    align: int = 2
    size_of_all: bool = False

    @property
    def head_bytes(self) -> int:
        return self.id_bytes + self.size_bytes


@dataclass(frozen=True)
class _Chunk:
    name: bytes  # its first 4 bytes
    start: int  # of what is in it
    size: int

    @property
    def end(self) -> int:
        return self.start + self.size


def _chunk(content: Content, layout: _Layout, offset: int) -> _Chunk | None:
    """Read the head of a chunk; None: there is none."""
    head = content.read(offset, layout.head_bytes)
    if len(head) < layout.head_bytes:
        return None
    if layout.id_bytes == 4 and not all(0x20 <= byte < 0x7F for byte in head[:4]):
        return None
    size = int.from_bytes(head[layout.id_bytes :], layout.order)
    if layout.size_of_all:
        size -= layout.head_bytes
    return None if size < 0 else _Chunk(head[:4], offset + layout.head_bytes, size)


def _behind(content: Content, layout: _Layout, chunk: _Chunk) -> int:
    """Return where the next chunk starts; some programs forget the byte that makes a size even."""
    aligned = chunk.end + -chunk.end % layout.align
    if aligned > chunk.end and _chunk(content, layout, aligned) is None:
        return chunk.end if _chunk(content, layout, chunk.end) else aligned
    return aligned


def _find_chunks(
    content: Content, layout: _Layout, offset: int, wanted: set[bytes]
) -> dict[bytes, _Chunk]:
    """Read chunks from `offset` on until all of `wanted` are found, or the file ends."""
    found: dict[bytes, _Chunk] = {}
    while not wanted <= found.keys() and (chunk := _chunk(content, layout, offset)):
        found.setdefault(chunk.name, chunk)
        offset = _behind(content, layout, chunk)
    return found


# Chunks of descriptions: of one that is cut, no sound is lost.
_TEXTS = (b"LIST", b"id3 ", b"ID3 ", b"bext", b"iXML", b"_PMX", b"cue ", b"smpl", b"JUNK", b"PAD ")
_SOUND = (b"data", b"SSND", b"BODY", b"RIFF", b"RIFX", b"RF64", b"FORM", b"riff", b"caff")


def _other_chunk(content: Content, layout: _Layout, offset: int) -> _Chunk | None:
    """Read a chunk that is no sound and not cut, at `offset` or at the next aligned byte."""
    for start in (offset + -offset % layout.align, offset):
        chunk = _chunk(content, layout, start)
        if chunk and chunk.name in _TEXTS:
            return chunk
        if chunk and chunk.end <= content.size and chunk.name not in _SOUND:
            return chunk
    return None


def _explained(content: Content, offset: int, layout: _Layout | None) -> bool:
    """Whether the bytes from `offset` on are chunks, tags, zeros, or less than a chunk's head."""
    while content.size - offset >= _SHORTEST_HEAD:
        tag = id3v2_end(content, offset)
        chunk = _other_chunk(content, layout, offset) if layout else None
        if tag > offset:
            offset = tag
        elif layout and chunk:
            offset = _behind(content, layout, chunk)
        else:
            break
    rest = content.size - offset
    if rest < _SHORTEST_HEAD or content.is_zero(offset):
        return True
    return rest == _ID3V1 and content.read(offset, 3) == b"TAG"


def _sound_bytes(
    content: Content, start: int, declared: int, layout: _Layout | None, unknown: bool = False
) -> int:
    """Compare the bytes of sound that are declared with those that are there.

    Args:
        content: The file.
        start: Offset of the sound.
        declared: Bytes of it. A recorder that was stopped has not written them yet: they are 0.
        layout: Of chunks that may follow; None: there are no chunks.
        unknown: This number is one that programs write into a pipe.

    Returns:
        Bytes of sound.

    Raises:
        Refused: There are fewer, or bytes follow that may be sound, too.
    """
    present = content.size - start
    if declared > present:
        if unknown:
            return present
        raise truncated(f"{present} bytes where its header declares {declared}")
    if _explained(content, start + declared, layout):
        return declared
    if declared == 0:
        return present
    raise Refused(
        f"{present - declared} bytes follow the {declared} bytes of sound that its header declares;"
        " if they are sound, too, write its header anew (sox --ignore-length IN OUT), else cut them"
        " off"
    )


def is_placeholder(size: int, width: int) -> bool:
    """Tell whether ffmpeg, sox or arecord write a size into a pipe, where none is known.

    Args:
        size: The size.
        width: Its bytes.
    """
    if width == 8:
        return size >= 1 << 62
    return size >= 0xFFFF0000 or 0x7FFF0000 <= size <= 0x80000000


def _stream(
    content: Content,
    size: int,
    declared: int,
    frame_bytes: int | None,
    place: tuple[int, int, bytes],
) -> list[Stream]:
    """Return the file as a stream.

    Args:
        content: The file.
        size: Bytes of sound.
        declared: As its header declares them.
        frame_bytes: Of the samples of all channels; None: they are compressed.
        place: Where 0 bytes are declared: offset, end, and what belongs there.
    """
    samples = size // frame_bytes if frame_bytes else None
    if declared or not size:
        return [Stream(((0, content.size),), samples)]
    start, end, corrected = place
    return [Stream(((0, start), corrected, (end, content.size)), samples)]


# ---- WAV, RF64, W64

_PCM, _FLOAT, _ALAW, _ULAW, _EXTENSIBLE = 1, 3, 6, 7, 0xFFFE
_MPEG, _MP3 = 0x50, 0x55
_W64 = _Layout("little", 16, 8, 8, size_of_all=True)


def _wav_format(fmt: bytes, order: Literal["little", "big"]) -> tuple[int, int | None]:
    """Return the code of the format, and the bytes of the samples of all channels.

    These are None where they are compressed.
    """

    def number(offset: int) -> int:
        return int.from_bytes(fmt[offset : offset + 2], order)

    code, channels, block, bits = number(0), number(2), number(12), number(14)
    if code == _EXTENSIBLE:
        code = number(24)
    if code not in (_PCM, _FLOAT, _ALAW, _ULAW) or not channels or not bits:
        return code, None
    needed = channels * -(-bits // 8)
    if block > needed:
        raise Refused(
            f"samples of {bits} bits in {block / channels:g} bytes, which programs read in two"
            " ways; convert it to samples of 16 bits"
        )
    return code, needed if block == needed else None


def _wav(content: Content) -> list[Stream]:
    magic = content.read(0, 4)
    layout = _Layout("big" if magic == b"RIFX" else "little")
    return _waves(content, layout, 12, magic == b"RF64")


def _w64(content: Content) -> list[Stream]:
    return _waves(content, _W64, 40, False)


def _waves(content: Content, layout: _Layout, offset: int, is_rf64: bool) -> list[Stream]:
    """Check a container that has Microsoft's chunks from `offset` on."""
    found = _find_chunks(content, layout, offset, {b"data"})
    sound, fmt = found.get(b"data"), found.get(b"fmt ")
    if sound is None or fmt is None:
        raise truncated("its header is incomplete, or there is no sound in it")
    declared, place, width = sound.size, sound.start - layout.size_bytes, layout.size_bytes
    if is_rf64 and declared == 0xFFFFFFFF and b"ds64" in found:
        place, width = found[b"ds64"].start + 8, 8
        declared = int.from_bytes(content.read(place, 8), "little")
    unknown = is_placeholder(declared, width)
    size = _sound_bytes(content, sound.start, declared, layout, unknown)
    code, frame_bytes = _wav_format(content.read(fmt.start, min(fmt.size, 40)), layout.order)
    if code in (_MPEG, _MP3):
        return _mpeg_in_wav(content, sound.start, size)
    told = size + layout.head_bytes if layout.size_of_all else size
    corrected = min(told, (1 << 8 * width) - 1).to_bytes(width, layout.order)
    if unknown and width == 8:  # decoders go to the end that it tells, beyond what they can count
        declared = 0
    return _stream(content, size, declared, frame_bytes, (place, place + width, corrected))


def _mpeg_in_wav(content: Content, start: int, size: int) -> list[Stream]:
    content.keep(start, size)
    first = first_frame(content)
    if first is None:
        raise Refused("damaged: there is no MPEG frame in it; fetch it again or leave it out")
    return mpeg_streams(content, first)


# ---- AIFF, SVX, CAF

_IFF = _Layout("big")
_CAF = _Layout("big", 4, 8, 1)
_AIFF_BYTES = {b"fl32": 4, b"FL32": 4, b"fl64": 8, b"FL64": 8}
_AIFF_BYTES |= dict.fromkeys((b"ulaw", b"ULAW", b"alaw", b"ALAW"), 1)


def _big(content: Content, offset: int, count: int) -> int:
    return int.from_bytes(content.read(offset, count), "big")


def _aiff(content: Content) -> list[Stream]:
    found = _find_chunks(content, _IFF, 12, {b"COMM", b"SSND"})
    sound, common = found.get(b"SSND"), found.get(b"COMM")
    size = 0
    if sound and common and sound.size:
        size = _sound_bytes(content, sound.start, sound.size, _IFF)
    elif sound and common:  # ffmpeg writes no size into a pipe
        size = content.size - sound.start
    if sound is None or common is None or size < 8:
        raise truncated("its header is incomplete, or there is no sound in it")
    size -= 8 + _big(content, sound.start, 4)
    samples, frame_bytes = _big(content, common.start + 2, 4), _aiff_frame_bytes(content, common)
    if frame_bytes and samples * frame_bytes > size:
        raise truncated(f"{size // frame_bytes} samples where its header declares {samples}")
    return [Stream(((0, content.size),), size // frame_bytes if frame_bytes else None)]


def _aiff_frame_bytes(content: Content, common: _Chunk) -> int | None:
    """Return the bytes of the samples of all channels; None: they are compressed."""
    channels, bits = _big(content, common.start, 2), _big(content, common.start + 6, 2)
    code = content.read(common.start + 18, 4) if common.size >= 22 else b"NONE"
    if code == b"DWVW":
        raise Refused("AIFF files compressed with DWVW are not read; convert it to FLAC or WAV")
    if code in _AIFF_BYTES:
        return channels * _AIFF_BYTES[code]
    return channels * -(-bits // 8) if code in (b"NONE", b"twos", b"sowt", b"raw ") else None


def _svx(content: Content) -> list[Stream]:
    sound = _find_chunks(content, _IFF, 12, {b"BODY"}).get(b"BODY")
    if sound is None:
        raise truncated("its header is incomplete, or there is no sound in it")
    _sound_bytes(content, sound.start, sound.size, _IFF)
    return [Stream(((0, content.size),))]


def _caf(content: Content) -> list[Stream]:
    found = _find_chunks(content, _CAF, 8, {b"desc", b"data"})
    sound, desc = found.get(b"data"), found.get(b"desc")
    if sound is None or desc is None:
        raise truncated("its header is incomplete, or there is no sound in it")
    unknown = sound.size == 0xFFFFFFFFFFFFFFFF
    size = _sound_bytes(content, sound.start, sound.size, _CAF, unknown) - 4  # the edit count
    packet_bytes = _big(content, desc.start + 16, 4)
    linear = content.read(desc.start + 8, 4) in (b"lpcm", b"ulaw", b"alaw") and packet_bytes
    return [Stream(((0, content.size),), size // packet_bytes if linear else None)]


# ---- AU, SPHERE, VOC

_AU_BYTES = {1: 1, 2: 1, 3: 2, 4: 3, 5: 4, 6: 4, 7: 8, 27: 1}  # of a sample, by encoding


def _au(content: Content) -> list[Stream]:
    order: Literal["little", "big"] = "big" if content.read(0, 1) == b"." else "little"
    start, declared, encoding, _, channels = (
        int.from_bytes(content.read(4 + 4 * field, 4), order) for field in range(5)
    )
    if start > content.size or start < 24:
        raise truncated("its header is incomplete, or there is no sound in it")
    size = _sound_bytes(content, start, declared, None, declared == 0xFFFFFFFF)
    bytes_ = _AU_BYTES.get(encoding)
    corrected = min(size, 0xFFFFFFFE).to_bytes(4, order)
    return _stream(content, size, declared, bytes_ and bytes_ * channels, (8, 12, corrected))


def _sphere(content: Content) -> list[Stream]:
    """Check a NIST SPHERE file, whose header is text of the length that its second line tells."""
    header = content.read(0, 1024)

    def number(name: str) -> int:
        match = re.search(rb"\n%s -i (\d{1,15})\s" % name.encode(), header)
        return int(match[1]) if match else 0

    length = re.match(rb"NIST_1A\s+(\d{1,6})\s", header)
    samples, channels, bytes_ = map(number, ("sample_count", "channel_count", "sample_n_bytes"))
    start = int(length[1]) if length else 0
    if not start or not samples or b"end_head" not in header:
        raise truncated("its header is incomplete, or declares no number of samples")
    size = samples * (channels or 1) * (bytes_ or 1)
    if b"embedded" in header or b"shorten" in header:
        return [Stream(((0, content.size),))]
    if size > content.size - start:
        there = max(0, content.size - start) // ((channels or 1) * (bytes_ or 1))
        raise truncated(f"{there} samples where its header declares {samples}")
    _sound_bytes(content, start, size, None)
    return [Stream(((0, start + size),), samples)]


_VOC_END, _VOC_SOUND, _VOC_TEXT, _VOC_EXTENDED, _VOC_NEW_SOUND = 0, 1, 5, 8, 9


def _voc(content: Content) -> list[Stream]:
    """Check a Creative Voice file: blocks of a type, a size of 3 bytes, and content."""
    offset = int.from_bytes(content.read(20, 2), "little")
    sound, end = None, offset
    while len(head := content.read(offset, 12)) > 1 and head[0] != _VOC_END:
        size = int.from_bytes(head[1:4], "little")
        if head[0] not in (_VOC_SOUND, _VOC_TEXT, _VOC_EXTENDED, _VOC_NEW_SOUND) or sound:
            raise Refused("a VOC file of more than one block of sound; convert it to FLAC or WAV")
        present = content.size - offset - 4
        if size > present:
            raise truncated(f"{present} bytes where its header declares {size}")
        offset += 4 + size
        if head[0] in (_VOC_SOUND, _VOC_NEW_SOUND):
            sound, end = head, offset
    if sound is None:
        raise truncated("its header is incomplete, or there is no sound in it")
    # libsndfile wants a last block of one byte behind the old kind, and takes it for sound behind
    # the new kind.
    if sound[0] == _VOC_SOUND:
        return [Stream(((0, end), b"\0"))]
    bits, channels = sound[8], sound[9]
    size = int.from_bytes(sound[1:4], "little") - 12
    return [Stream(((0, end),), size // max(1, bits // 8 * channels))]


_CONTAINERS: list[tuple[re.Pattern[bytes], Callable[[Content], list[Stream]]]] = [
    (re.compile(pattern, re.DOTALL), streams)
    for pattern, streams in (
        (b"(RIFF|RIFX|RF64)....WAVE", _wav),
        (b"OggS", ogg_streams),
        (b"FORM....AIF[FC]", _aiff),
        (b"FORM....(8SVX|16SV)", _svx),
        (b"NIST_1A", _sphere),
        (rb"\.snd|dns\.", _au),
        (b"caff", _caf),
        (b"riff\x2e\x91\xcf\x11", _w64),
        (b"Creative Voice File\x1a", _voc),
    )
]
