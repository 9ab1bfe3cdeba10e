"""Damaged recordings, and how many samples an independent reader finds in them.

No sound may be lost without a word. What `load_audio` returns is compared with

- the size of the file, for samples that are not compressed: what they leave of it must be no more
  than headers and tags take;
- ffmpeg's decoding, for FLAC, MP3 and Ogg, where ffmpeg is installed: it may not find more sound;
- `audio_info`, a second reading out of memory, and a part that is read alone.
"""

from __future__ import annotations

import io
import shutil
import struct
import subprocess
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import soundfile as sf
from fuzz_mutations import Rng, damage_bytes
from fuzz_runner import Finding, Seed, Target

from common.audio.io import audio_info, load_audio

RATE, SECONDS = 16000, 1.4
TAGS = 10_000  # bytes: no seed has longer headers and tags, with zeros behind it
SHORTER = 0.15  # seconds: what encoders add at both ends, and readers cut off or not
_BYTES = {"PCM_S8": 1, "PCM_U8": 1, "PCM_16": 2, "PCM_24": 3, "PCM_32": 4, "FLOAT": 4, "DOUBLE": 8}
_BYTES |= {"ULAW": 1, "ALAW": 1}
_CONTAINERS = ("WAV", "WAVEX", "RF64", "W64", "AIFF", "AU", "CAF", "NIST")
_FFMPEG = {"FLAC": "flac", "MP3": "mp3", "MPEG": "mp3", "OGG": "ogg"}
FORMATS = [
    *(("WAV", "PCM_16"), ("WAV", "PCM_U8"), ("WAV", "PCM_24"), ("WAV", "FLOAT"), ("WAV", "ULAW")),
    *(("WAV", "IMA_ADPCM"), ("WAV", "GSM610"), ("WAVEX", "PCM_16"), ("RF64", "PCM_16")),
    *(("W64", "PCM_16"), ("AIFF", "PCM_16"), ("AIFF", "FLOAT"), ("AIFF", "ALAW"), ("AU", "PCM_16")),
    *(("CAF", "PCM_16"), ("CAF", "ALAC_16"), ("NIST", "PCM_16"), ("VOC", "PCM_16")),
    *(("SVX", "PCM_16"), ("FLAC", "PCM_16"), ("FLAC", "PCM_24"), ("OGG", "VORBIS")),
    *(("OGG", "OPUS"), ("MP3", "MPEG_LAYER_III"), ("MPC2K", "PCM_16"), ("HTK", "PCM_16")),
    *(("IRCAM", "PCM_16"), ("PVF", "PCM_16"), ("MAT5", "PCM_16"), ("PAF", "PCM_16")),
]


def sound(channels: int = 1) -> np.ndarray:
    """A tone that rises, and noise; no sample is zero for long."""
    times = np.arange(round(SECONDS * RATE)) / RATE
    noise = np.random.default_rng(1).normal(0, 0.02, (len(times), channels))
    return (0.4 * np.sin(2 * np.pi * (200 + 900 * times) * times)[:, None] + noise).clip(-1, 1)


def encoded(container: str, subtype: str, samples: np.ndarray, **settings: Any) -> bytes:
    buffer = io.BytesIO()
    sf.write(buffer, samples, RATE, format=container, subtype=subtype, **settings)
    data = bytearray(buffer.getvalue())
    if container == "OGG":
        _renumber(data)
    if (place := data.find(b"PEAK")) > 0:  # the time when it was written
        data[place + 12 : place + 16] = bytes(4)
    return bytes(data)


def _renumber(data: bytearray) -> None:
    """Give an Ogg stream, whose number is random, the number 1 (RFC 3533)."""
    place = 0
    while data[place : place + 4] == b"OggS":
        segments = data[place + 26]
        end = place + 27 + segments + sum(data[place + 27 : place + 27 + segments])
        data[place + 14 : place + 18] = struct.pack("<I", 1)
        data[place + 22 : place + 26] = bytes(4)
        data[place + 22 : place + 26] = struct.pack("<I", _ogg_crc(bytes(data[place:end])))
        place = end


def _crc_table() -> list[int]:
    table = []
    for byte in range(256):
        value = byte << 24
        for _ in range(8):
            value = (value << 1) ^ (0x04C11DB7 if value & 0x80000000 else 0)
        table.append(value & 0xFFFFFFFF)
    return table


_TABLE = _crc_table()


def _ogg_crc(page: bytes) -> int:
    value = 0
    for byte in page:
        value = (value << 8) & 0xFFFFFFFF ^ _TABLE[(value >> 24) ^ byte]
    return value


def make_seeds(folder: Path) -> list[Seed]:
    """A file of each format, and what users have beside plain ones."""
    mono, stereo = sound(), sound(2)
    seeds = []
    for container, subtype in FORMATS:
        if subtype in sf.available_subtypes(container):
            channels = stereo if subtype in ("PCM_24", "ALAC_16") else mono
            name = f"{container}-{subtype}".lower()
            seeds.append(Seed(name, encoded(container, subtype, channels)))
    plain = {seed.name: seed.data for seed in seeds}
    for mode in ("CONSTANT", "VARIABLE"):
        data = encoded("MP3", "MPEG_LAYER_III", stereo, bitrate_mode=mode)
        id3 = b"ID3\x04\0\0\0\0\x01\x00" + bytes(128)
        seeds.append(Seed(f"mp3-{mode.lower()}-tagged", id3 + data))
        # Without the first frame, which is no sound but Xing's header of the whole file.
        seeds.append(Seed(f"mp3-{mode.lower()}-stream", data[data.find(data[:2], 4) :]))
    wav, flac = plain["wav-pcm_16"], plain["flac-pcm_16"]
    tags = b"LIST" + struct.pack("<I", 604) + b"INFO" + (b"ICMT\x0c\0\0\0" + b"a comment.\0\0") * 30
    seeds.append(Seed("wav-tags", wav[:12] + tags + wav[12:]))
    seeds.append(Seed("wav-pipe", wav[:40] + b"\xff\xff\xff\xff" + wav[44:]))
    seeds.append(Seed("wav-size-0", wav[:40] + bytes(4) + wav[44:]))
    # STREAMINFO's last 36 bits before the checksum: the number of samples, unknown in a pipe.
    seeds.append(Seed("flac-pipe", flac[:21] + bytes([flac[21] & 0xF0]) + bytes(4) + flac[26:]))
    seeds.append(Seed("opus-chained", plain["ogg-opus"] * 2))
    return seeds


def damage(rng: Rng, seeds: list[Seed], folder: Path) -> Path:
    seed, other = (seeds[int(rng.integers(len(seeds)))] for _ in range(2))
    data = damage_bytes(rng, seed.data, other.data)
    suffix = seed.name.split("-")[0] if rng.random() < 0.9 else "raw"
    path = folder / f"{seed.name}.{suffix}"
    path.write_bytes(data)
    return path


def read(path: Path, seeds: list[Seed]) -> str:
    """Decodes a recording as entry points do, and compares."""
    try:
        samples = load_audio(path, _rate(path))
    finally:
        _check_memory_reading(path)
    info = audio_info(path)
    if info.samples != len(samples):
        raise Finding(f"audio_info says {info.samples} samples, load_audio returns {len(samples)}")
    if samples.dtype != np.float32 or samples.ndim != 1 or not np.isfinite(samples).all():
        raise Finding(f"{samples.dtype} samples of shape {samples.shape}, or not finite")
    return _check_nothing_lost(path, samples, info.sample_rate, info.channels)


def _rate(path: Path) -> int:
    """Its own rate, so that nothing is resampled; raises what load_audio should raise, too."""
    return audio_info(path).sample_rate


def _check_memory_reading(path: Path) -> None:
    """From a file and from memory, the same is read or the same refused."""
    outcomes = []
    for source in (path, path.read_bytes()):
        try:
            outcomes.append(str(load_audio(source, RATE, name="it").tobytes().__hash__()))
        except Exception as error:
            outcomes.append(type(error).__name__)
    if outcomes[0] != outcomes[1]:
        raise Finding(f"another outcome from a file than from memory: {outcomes}")


def _check_nothing_lost(path: Path, samples: np.ndarray, rate: int, channels: int) -> str:
    kind, each = path.suffix[1:].upper(), None
    if kind != "RAW":  # soundfile looks at the name
        with suppress(sf.LibsndfileError):  # our own reader skips tags at the start
            decoded = sf.info(str(path))
            kind, each = decoded.format, _BYTES.get(decoded.subtype)
    size = path.stat().st_size
    if kind in _CONTAINERS and each:
        used = len(samples) * channels * each
        if size - used > TAGS:
            raise Finding(f"sound lost: {len(samples)} samples are {used} of the {size} bytes")
        return "compared with the size"
    if kind in _FFMPEG and shutil.which("ffmpeg"):
        # The rate in the header of a FLAC file may be damaged; its frames have it too.
        native = kind == "FLAC"
        count = ffmpeg_samples(path, _FFMPEG[kind], None if native else rate)
        if count > len(samples) + SHORTER * min(rate, RATE):
            raise Finding(f"sound lost: {len(samples)} samples, ffmpeg reads {count}")
        return "compared with ffmpeg"
    return "read"


def ffmpeg_samples(path: Path, demuxer: str, rate: int | None) -> int:
    """Samples that ffmpeg decodes, at a rate or at the recording's; 0 where it cannot."""
    command = ["ffmpeg", "-v", "quiet", "-nostdin", "-threads", "1", "-f", demuxer]
    command += ["-i", str(path), "-map", "0:a:0", "-threads", "1", "-ac", "1"]
    command += ["-ar", str(rate)] if rate else []
    try:
        done = subprocess.run([*command, "-f", "u8", "-"], stdout=subprocess.PIPE, timeout=60)
    except subprocess.TimeoutExpired:
        return 0
    return len(done.stdout)


TARGET = Target("audio", 20_000, make_seeds, damage, read)
