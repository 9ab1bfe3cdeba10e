"""Recordings that are unusual but whole, and others that are cut or lie about their length.

For each file: the number of samples that it must give, or the reason of the refusal.
"""

from __future__ import annotations

import io
import re
import struct
from dataclasses import dataclass, field

import numpy as np
import soundfile as sf

RATE = 16000
COUNT = 16000  # samples of a recording


def voice(count: int = COUNT) -> np.ndarray:
    """(N,) float32 on 16 bits, like speech: harmonics that come and go, and noise."""
    time = np.arange(count) / RATE
    tone = sum(np.sin(2 * np.pi * 130 * k * time) / k for k in range(1, 20))
    noise = np.random.default_rng(0).standard_normal(count)
    samples = 0.2 * tone * np.sin(2 * np.pi * 2 * time) ** 2 + 0.01 * noise
    return (np.rint(samples * 32768) / 32768).astype(np.float32)


def encoded(samples: np.ndarray, container: str, subtype: str | None = None, **how) -> bytes:
    buffer = io.BytesIO()
    sf.write(buffer, samples, RATE, format=container, subtype=subtype, **how)
    return buffer.getvalue()


@dataclass
class OddRecording:
    """A file and what reading it must come to.

    Attributes:
        content: Of the file.
        samples: Number of them; None: it is refused.
        shows_late: What is wrong shows only when it is decoded.
        refusal: Part of the message, a regular expression.
        exact: What the samples are, where nothing was lost in coding.
    """

    content: bytes
    samples: int | None = None
    refusal: str = ""
    shows_late: bool = False
    exact: np.ndarray | None = field(default=None, repr=False)


def replaced(data: bytes, offset: int, new: bytes) -> bytes:
    return data[:offset] + new + data[offset + len(new) :]


# ---- MP3


def mp3_frames(data: bytes) -> list[bytes]:
    """Split MPEG-1 or 2, layer III, without tags, by the formula of the standard."""
    frames, rows = [], {}
    rows[True] = [0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320]
    rows[False] = [0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160]
    while data:
        header = int.from_bytes(data[:4], "big")
        assert header >> 21 == 0x7FF and header >> 17 & 3 == 1
        is_first = header >> 19 & 3 == 3
        rate = (44100, 48000, 32000)[header >> 10 & 3] // (1 if is_first else 2)
        kbps = rows[is_first][header >> 12 & 15]
        size = (144 if is_first else 72) * kbps * 1000 // rate + (header >> 9 & 1)
        frames.append(data[:size])
        data = data[size:]
    return frames


def mp3_recordings() -> dict[str, OddRecording]:
    """MP3s of 576 samples a frame, with and without a Xing frame, cut, joined and tagged."""
    loud, soft = voice(), voice() * np.linspace(0, 1, COUNT) ** 6
    variable = encoded(soft.astype(np.float32), "MP3", bitrate_mode="VARIABLE")
    constant = encoded(loud, "MP3", bitrate_mode="CONSTANT")
    frames = mp3_frames(variable)
    assert any(tag in frames[0] for tag in (b"Xing", b"Info"))
    bare, whole = b"".join(frames[1:]), 576 * (len(frames) - 1)
    bare_constant = b"".join(mp3_frames(constant)[1:])
    of_constant = 576 * (len(mp3_frames(constant)) - 1)
    id3v1, id3v2 = b"TAG" + bytes(125), b"ID3\x04\0\0\0\0\x02\x00" + bytes(256)
    ape = b"APETAGEX" + struct.pack("<IIII", 2000, 32 + 50, 1, 0) + bytes(8)
    ape_with_header = ape[:20] + b"\0\0\0\xa0" + bytes(8) + bytes(50) + ape
    # Silence: MPEG-2, layer II, mono at 16 kHz and 64 kbit/s, no bits for any subband.
    layer_2 = bytes([0xFF, 0xF5, 0x88, 0xC0]) + bytes(144 * 64000 // RATE - 4)
    in_wav = struct.pack("<HHIIHH", 0x55, 1, RATE, 3000, 1, 0)
    in_wav = b"WAVEfmt " + struct.pack("<I", 16) + in_wav + b"data" + struct.pack("<I", len(bare))
    in_wav = b"RIFF" + struct.pack("<I", len(in_wav) + len(bare)) + in_wav + bare
    at = re.search(b"Xing|Info", frames[0]).start() + 8
    declared = int.from_bytes(frames[0][at : at + 4], "big")
    assert declared == len(frames) - 1
    fewer = replaced(variable, at, (declared // 3).to_bytes(4, "big"))
    return {
        "xing.mp3": OddRecording(variable, COUNT),  # Xing's frame says what to leave out
        "vbr.mp3": OddRecording(bare, whole),
        "cbr.mp3": OddRecording(bare_constant, of_constant),
        "tags.mp3": OddRecording(id3v2 + bare + bytes(50) + id3v1, whole),
        "ape.mp3": OddRecording(bare + b"\x01" * 50 + ape + id3v1, whole),
        "joined_with_tags_between.mp3": OddRecording(bare + id3v1 + bare, 2 * whole),
        "ape_between.mp3": OddRecording(bare + ape_with_header + bare, 2 * whole),
        "in_wav.wav": OddRecording(in_wav, whole),
        "layer_2.mp2": OddRecording(layer_2 * 40, 40 * 1152),
        "layer_2_cut.mp2": OddRecording((layer_2 * 40)[:-1], None, "truncated: its last MPEG"),
        "joined.mp3": OddRecording(id3v2 + bare + id3v2 + bare, 2 * whole),
        "from_the_middle.mp3": OddRecording(b"".join(frames[9:]), 576 * (len(frames) - 9)),
        "xing_of_a_third.mp3": OddRecording(fewer, COUNT),
        # libmpg123 has a lot to say about these, but has a number of samples for each frame.
        "noisy.mp3": OddRecording(
            b"".join(frame[:4] + b"\xff" * 9 + frame[13:] for frame in frames[1:]), whole
        ),
        "cut.mp3": OddRecording(bare[:-1], None, r"truncated: its last MPEG frame has \d+ of"),
        "cut_at_a_frame.mp3": OddRecording(
            b"".join(frames[:-2]), None, rf"truncated: {declared - 2} MPEG frames .* {declared}"
        ),
        "hole.mp3": OddRecording(bare[:1500] + bytes([7] * 900) + bare[2400:], None, "damaged"),
        "other_rate.mp3": OddRecording(
            bare + b"".join(f[:2] + bytes([f[2] ^ 0x08]) + f[3:] for f in frames[1:3]),
            None,
            "another sample rate",
        ),
    }


# ---- Ogg


def ogg_pages(data: bytes) -> list[bytes]:
    pages = []
    while data:
        size = 27 + data[26] + sum(data[27 : 27 + data[26]])
        pages.append(data[:size])
        data = data[size:]
    return pages


def ogg_recordings() -> dict[str, OddRecording]:
    """Opus and Vorbis: chained, side by side, followed by other bytes, cut and damaged."""
    long = voice(6 * COUNT)
    opus, vorbis = encoded(long, "OGG", "OPUS"), encoded(long, "OGG", "VORBIS")
    other = encoded(long[:COUNT], "OGG", "OPUS")
    pages = ogg_pages(vorbis)
    assert len(pages) > 4
    stereo = encoded(np.stack([long, long], 1), "OGG", "VORBIS")
    eight = io.BytesIO()
    sf.write(eight, long, 8000, format="OGG", subtype="OPUS")
    damaged = bytearray(opus)
    damaged[len(opus) // 2] ^= 1
    incomplete = "truncated: the last page"
    return {
        "opus.ogg": OddRecording(opus, 6 * COUNT),
        "vorbis.ogg": OddRecording(vorbis, 6 * COUNT),
        "chained.opus": OddRecording(opus + other, 7 * COUNT),
        "chained_twice.ogg": OddRecording(opus + opus + vorbis, 18 * COUNT),
        "chained_stereo.ogg": OddRecording(vorbis + stereo, 12 * COUNT),
        "chained_rates.ogg": OddRecording(opus + eight.getvalue(), None, "of 8000 and 16000 Hz"),
        "tagged.ogg": OddRecording(opus + b"TAG" + bytes(125), 6 * COUNT),
        "zeros.ogg": OddRecording(vorbis + bytes(1000), 6 * COUNT),
        "chained_cut.ogg": OddRecording(opus + other[:-20], None, incomplete),
        "chained_cut_in_a_head.ogg": OddRecording(opus + other[:20], None, incomplete),
        "no_end.ogg": OddRecording(b"".join(pages[:-1]), None, incomplete),
        "no_end_chained.ogg": OddRecording(b"".join(pages[:-1]) + opus, None, incomplete),
        "page_missing.ogg": OddRecording(
            b"".join(pages[:3] + pages[4:]), None, "damaged: .* does not continue"
        ),
        "bit.ogg": OddRecording(bytes(damaged), None, "damaged: .* checksum"),
        "side_by_side.ogg": OddRecording(
            ogg_pages(opus)[0] + vorbis, None, "several streams side by side"
        ),
        "hole.ogg": OddRecording(opus + b"junk" + other, None, "damaged: there is no Ogg page"),
    }


# ---- FLAC


def flac_recordings() -> dict[str, OddRecording]:
    """FLAC with a total of samples that is right, too small, too large, or not there."""
    samples = voice()
    whole = encoded(samples, "FLAC", "PCM_16")
    packed = int.from_bytes(whole[21:26], "big")

    def declaring(total: int) -> bytes:
        return replaced(whole, 21, (packed & ~((1 << 36) - 1) | total).to_bytes(5, "big"))

    tag, id3v2 = b"TAG" + bytes(125), b"ID3\x04\0\0\0\0\x00\x10" + bytes(16)
    damaged = bytearray(declaring(0))
    damaged[len(damaged) // 2] ^= 255
    starts = [match.start() for match in re.finditer(b"\xff[\xf8\xf9].\x08", whole, re.DOTALL)]
    assert len(starts) == -(-COUNT // 4096)  # blocks of 4096 samples
    return {
        "frame_missing.flac": OddRecording(
            whole[: starts[1]] + whole[starts[2] :], None, "damaged: .* from sample 4096 on", True
        ),
        "start_missing.flac": OddRecording(
            whole[: starts[0]] + whole[starts[1] :], None, "damaged: .* from sample 0 on", True
        ),
        "whole.flac": OddRecording(whole, COUNT, exact=samples),
        "streamed.flac": OddRecording(declaring(0), COUNT, exact=samples),
        "streamed_tagged.flac": OddRecording(declaring(0) + tag, COUNT, exact=samples),
        "a_third.flac": OddRecording(declaring(COUNT // 3), COUNT, exact=samples),
        "tagged.flac": OddRecording(id3v2 + whole + tag, COUNT, exact=samples),
        "stereo.flac": OddRecording(
            encoded(np.stack([samples, samples], 1), "FLAC", "PCM_24"), COUNT, exact=samples
        ),
        "cut.flac": OddRecording(whole[:-300], None, "truncated", shows_late=True),
        "one_byte_less.flac": OddRecording(whole[:-1], None, "truncated", shows_late=True),
        "streamed_cut.flac": OddRecording(declaring(0)[:-300], None, "truncated"),
        "more_declared.flac": OddRecording(declaring(COUNT + 1), None, "truncated"),
        "twice.flac": OddRecording(whole + whole, None, f"second FLAC .* byte {len(whole)}", True),
        "damaged.flac": OddRecording(bytes(damaged), None, "damaged|truncated", shows_late=True),
    }


# ---- WAV and its kin


def wav_recordings() -> dict[str, OddRecording]:
    """WAV whose sizes are missing, too small or too large, with tags before and behind."""
    samples = voice()
    wav = encoded(samples, "WAV", "PCM_16")
    assert wav[36:40] == b"data" and len(wav) == 44 + 2 * COUNT
    tags = b"".join(b"IART" + struct.pack("<I", 100) + b"x" * 100 for _ in range(30))
    tags = b"LIST" + struct.pack("<I", 4 + len(tags)) + b"INFO" + tags
    tagged = wav[:36] + tags + wav[36:]
    half = replaced(replaced(wav, 4, struct.pack("<I", 36 + COUNT)), 40, struct.pack("<I", COUNT))
    wide = b"".join(value + b"\0" for value in _thirds(samples))
    wide = wav[:32] + struct.pack("<HH", 4, 24) + b"data" + struct.pack("<I", len(wide)) + wide
    odd = encoded(samples[:-1], "WAV", "PCM_U8")
    return {
        "whole.wav": OddRecording(wav, COUNT, exact=samples),
        "whole.raw": OddRecording(wav, COUNT, exact=samples),
        "long_tags.wav": OddRecording(tagged, COUNT, exact=samples),
        "tags_behind.wav": OddRecording(wav + tags, COUNT, exact=samples),
        "tags_behind_cut.wav": OddRecording(wav + tags[:-9], COUNT, exact=samples),
        "id3_behind.wav": OddRecording(wav + b"TAG" + bytes(125), COUNT, exact=samples),
        "zeros_behind.wav": OddRecording(wav + bytes(3000), COUNT, exact=samples),
        "odd.wav": OddRecording(odd + b"\0" * (len(odd) % 2) + tags, COUNT - 1),
        "odd_without_pad.wav": OddRecording(odd[: 44 + COUNT - 1] + tags, COUNT - 1),
        "no_size.wav": OddRecording(replaced(wav, 40, bytes(4)), COUNT, exact=samples),
        "pipe.wav": OddRecording(replaced(wav, 40, b"\xff" * 4), COUNT, exact=samples),
        "pipe_of_sox.wav": OddRecording(
            replaced(wav, 40, struct.pack("<I", 0x7FFFF000)), COUNT, exact=samples
        ),
        "nothing.wav": OddRecording(wav[:40] + bytes(4) + tags, None, "empty"),
        "long_tags_cut.wav": OddRecording(
            tagged[:-9000], None, rf"truncated: {2 * COUNT - 9000} bytes .* {2 * COUNT}"
        ),
        "half_declared.wav": OddRecording(half, None, f"{COUNT} bytes follow the {COUNT} bytes"),
        "twice.wav": OddRecording(wav + wav, None, f"{len(wav)} bytes follow"),
        "other_bytes_behind.wav": OddRecording(wav + b"\x07" * 999, None, "999 bytes follow"),
        "24_in_4.wav": OddRecording(wide, None, "samples of 24 bits in 4 bytes"),
        "2_gb_declared.wav": OddRecording(
            replaced(wav, 40, struct.pack("<I", 3 << 30)), None, "truncated"
        ),
        "head.wav": OddRecording(wav[:30], None, "truncated"),
        "big_endian.wav": OddRecording(
            encoded(samples, "WAV", "PCM_16", endian="BIG"), COUNT, exact=samples
        ),
    }


def _thirds(samples: np.ndarray) -> list[bytes]:
    """Samples of 24 bits, the lowest byte first."""
    return [(int(value) & 0xFFFFFF).to_bytes(3, "little") for value in samples * 8388608]


# (container, subtype, samples that a coder adds to fill its last block)
CONTAINERS = [
    *(("WAV", subtype, 0) for subtype in ("PCM_U8", "PCM_24", "PCM_32", "FLOAT", "ULAW")),
    *(("WAV", subtype, 400) for subtype in ("IMA_ADPCM", "MS_ADPCM", "GSM610")),
    *(("WAVEX", "PCM_16", 0), ("WAVEX", "PCM_24", 0), ("RF64", "PCM_16", 0)),
    *(("W64", "PCM_16", 0), ("W64", "FLOAT", 0), ("NIST", "PCM_16", 0), ("NIST", "ULAW", 0)),
    *(("AIFF", subtype, 0) for subtype in ("PCM_16", "PCM_24", "PCM_S8", "FLOAT", "ULAW")),
    *(("AU", subtype, 0) for subtype in ("PCM_16", "PCM_24", "FLOAT", "ULAW")),
    *(("CAF", "PCM_16", 0), ("CAF", "FLOAT", 0), ("CAF", "ALAC_16", 0)),
    *(("SVX", "PCM_16", 0), ("SVX", "PCM_S8", 0), ("VOC", "PCM_16", 0), ("VOC", "PCM_U8", 0)),
]
NOT_READ = [
    *(("IRCAM", "PCM_16"), ("MAT4", "PCM_16"), ("MAT5", "PCM_16"), ("PAF", "PCM_16")),
    *(("PVF", "PCM_16"), ("XI", "DPCM_16"), ("AVR", "PCM_16"), ("WVE", "ALAW")),
    *(("SDS", "PCM_16"), ("MPC2K", "PCM_16")),
]


def container_recordings() -> dict[str, OddRecording]:
    """Whole and cut files of all containers, and those of containers that are not read."""
    samples, found = voice(), {}
    for container, subtype, most in CONTAINERS:
        name, data = f"{container}-{subtype}", encoded(samples, container, subtype)
        count = sf.info(io.BytesIO(data)).frames if most else COUNT
        assert COUNT <= count <= COUNT + most
        is_exact = subtype in ("PCM_16", "PCM_24", "PCM_32", "FLOAT", "ALAC_16")
        found[name] = OddRecording(data, count, exact=samples if is_exact else None)
        found[f"{name}-cut"] = OddRecording(data[: len(data) * 2 // 3], None, "truncated")
        found[f"{name}-cut-late"] = OddRecording(data[:-100], None, "truncated")
    for container, subtype in NOT_READ:
        data = encoded(samples, container, subtype)
        name = {"MPC2K": "MPC 2000"}.get(container, container.rstrip("45"))
        found[f"{container}"] = OddRecording(data, None, f"{name} files are not read; convert")
    dwvw = encoded(samples, "AIFF", "DWVW_16")
    found["dwvw.aif"] = OddRecording(dwvw, None, "DWVW are not read; convert")
    au = encoded(samples, "AU", "PCM_16", endian="BIG")
    found["half.au"] = OddRecording(
        replaced(au, 8, struct.pack(">I", COUNT)), None, f"{COUNT} bytes follow the {COUNT}"
    )
    found["no_size.au"] = OddRecording(replaced(au, 8, bytes(4)), COUNT, exact=samples)
    found["pipe.au"] = OddRecording(replaced(au, 8, b"\xff" * 4), COUNT, exact=samples)
    aiff = encoded(samples, "AIFF", "PCM_16")
    at = aiff.index(b"COMM") + 10
    found["more.aiff"] = OddRecording(
        replaced(aiff, at, struct.pack(">I", COUNT + 9)),
        None,
        f"{COUNT} samples where .* {COUNT + 9}",
    )
    at = aiff.index(b"SSND") + 4
    piped = replaced(aiff, aiff.index(b"COMM") + 10, bytes(4))
    found["pipe.aiff"] = OddRecording(replaced(piped, at, bytes(4)), COUNT, exact=samples)
    w64 = encoded(samples, "W64", "PCM_16")
    at = w64.index(b"data") + 16
    found["pipe.w64"] = OddRecording(
        replaced(w64, at, struct.pack("<q", 2**63 - 1)), COUNT, exact=samples
    )
    sphere = encoded(samples, "NIST", "PCM_16")
    half = sphere.replace(b"sample_count -i 16000", b"sample_count -i 8000 ")
    found["half.sph"] = OddRecording(half, None, f"{COUNT} bytes follow the {COUNT}")
    return found


def odd_recordings() -> dict[str, OddRecording]:
    """All of them, by file name."""
    return {
        **{f"mp3-{name}": odd for name, odd in mp3_recordings().items()},
        **{f"ogg-{name}": odd for name, odd in ogg_recordings().items()},
        **{f"flac-{name}": odd for name, odd in flac_recordings().items()},
        **{f"wav-{name}": odd for name, odd in wav_recordings().items()},
        **container_recordings(),
    }
