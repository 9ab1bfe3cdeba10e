"""Read any recording as mono float32 at the rate asked for; write samples in memory."""

from __future__ import annotations

import io
import re
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

import numpy as np
import soundfile as sf
import soxr

from common.utils.errors import UserError

# libsndfile reads a cut file without an error; its log has the bytes declared and present.
_CUT = re.compile(
    r"^\s*(?:data|SSND|Data Size|riff|Riff size)\s*: (\d+) \(should be (\d+)\)", re.MULTILINE
)
_SIZE_UNKNOWN = 0x7FFF0000  # bytes; whoever writes a WAV header into a pipe declares this or more
_FRAMES_UNKNOWN = 1 << 62  # samples; libsndfile's answer when a header gives no length
_OGG_PAGE = 65307  # bytes; the longest page
_OPUS_RATES = (8000, 12000, 16000, 24000, 48000)  # Hz


@dataclass(frozen=True)
class AudioInfo:
    """The header of a recording.

    Attributes:
        sample_rate: In Hz.
        channels: Number of channels.
        samples: Samples per channel.
        seeks: Whether a part that is read alone has the samples of a whole read, to the last bit.
    """

    sample_rate: int
    channels: int
    samples: int
    seeks: bool = field(default=True, compare=False)

    @property
    def duration(self) -> float:
        """Duration in seconds."""
        return self.samples / self.sample_rate


def audio_info(source: str | Path | bytes, name: str | None = None) -> AudioInfo:
    """Read the header of a recording, without decoding it.

    Args:
        source: Path of the recording, or its encoded bytes.
        name: What errors call it; None: its path.

    Returns:
        Sample rate, channels and length.

    Raises:
        UserError: As `load_audio`, as far as a header tells.
    """
    with _opened(source, name) as (file, _):
        return AudioInfo(file.samplerate, file.channels, file.frames, _seeks(file))


def load_audio(
    source: str | Path | bytes,
    sample_rate: int,
    name: str | None = None,
    start: float = 0.0,
    seconds: float | None = None,
) -> np.ndarray:
    """Decode a recording, or a part of it, at the wanted sample rate.

    Args:
        source: Path of the recording, or its encoded bytes.
        sample_rate: Hz.
        name: What errors call it; None: its path.
        start: Seconds to skip.
        seconds: Seconds to read; None: to the end.

    Returns:
        Samples (N,) float32, full scale +-1, channels averaged.

    Raises:
        UserError: The recording is missing, unreadable, truncated, empty or not finite.
    """
    with _opened(source, name) as (file, label):
        rate = file.samplerate
        first = min(round(start * rate), file.frames)
        count = file.frames - first
        if seconds is not None:
            count = min(round(seconds * rate), count)
        if first:
            file.seek(first)
        samples = file.read(count, dtype="float32", always_2d=True)
    if len(samples) < count:
        raise UserError(
            f"{label}: truncated: {first + len(samples)} samples where its header declares"
            f" {first + count}; fetch it again or leave it out"
        )
    samples = samples[:, 0] if samples.shape[1] == 1 else samples.mean(axis=1)
    if bad := np.count_nonzero(~np.isfinite(samples)):
        raise UserError(
            f"{label}: {bad} of {len(samples)} samples are nan or infinite; leave it out"
        )
    return samples if rate == sample_rate else soxr.resample(samples, rate, sample_rate, "HQ")


def encode_flac(samples: np.ndarray, sample_rate: int) -> bytes:
    """Encode samples as 16-bit FLAC, lossless if they came from 16 bits.

    Args:
        samples: (N,) samples, clipped at +-1.
        sample_rate: Their rate in Hz.

    Returns:
        Content of a FLAC file.
    """
    pcm = np.clip(np.rint(samples * 32768.0), -32768, 32767).astype(np.int16)
    buffer = io.BytesIO()
    sf.write(buffer, pcm, sample_rate, format="FLAC", subtype="PCM_16")
    return buffer.getvalue()


def encode_opus(samples: np.ndarray, sample_rate: int) -> bytes:
    """Encode samples (N,) as Ogg/Opus, about 3 kB a second, which browsers play.

    Opus takes few sample rates; others are resampled to 16 kHz.

    Args:
        samples: (N,) float32, full scale +-1.
        sample_rate: Hz.

    Returns:
        The content of an Ogg file.
    """
    if sample_rate not in _OPUS_RATES:
        samples, sample_rate = soxr.resample(samples, sample_rate, 16000, "HQ"), 16000
    buffer = io.BytesIO()
    sf.write(buffer, samples, sample_rate, format="OGG", subtype="OPUS")
    return buffer.getvalue()


@dataclass
class FormatNotice:
    """Counts the recordings that `load_audio` converts, for one message about all of them.

    Attributes:
        sample_rate: Rate in Hz that recordings are converted to.
        recordings: Number of all recordings.
        mixed: Recordings of more than one channel.
        rates: Number of recordings by rate, where it differs.
    """

    sample_rate: int
    recordings: int = 0
    mixed: int = 0
    rates: Counter[int] = field(default_factory=Counter)

    def add(self, info: AudioInfo) -> None:
        """Count a recording."""
        self.recordings += 1
        self.mixed += info.channels > 1
        if info.sample_rate != self.sample_rate:
            self.rates[info.sample_rate] += 1

    def line(self) -> str | None:
        """Return such as "3 of 9 recordings resampled from 8000 Hz to 16000 Hz"; None if none."""
        parts = []
        if self.rates:
            rates = " and ".join(f"{rate} Hz" for rate in sorted(self.rates))
            parts.append(
                f"{self.rates.total()} of {self.recordings} recordings resampled"
                f" from {rates} to {self.sample_rate} Hz"
            )
        if self.mixed:
            parts.append(f"{self.mixed} of {self.recordings} recordings down-mixed to mono")
        return ", ".join(parts) or None


def _seeks(file: sf.SoundFile) -> bool:
    """Whether seeking is possible and exact; in MP3, a frame depends on those before it."""
    return file.seekable() and file.format != "MP3"


@contextmanager
def _opened(source: str | Path | bytes, name: str | None) -> Iterator[tuple[sf.SoundFile, str]]:
    """Open a recording; yield it and what errors call it. Errors of soundfile are UserErrors."""
    stream: BinaryIO
    if isinstance(source, bytes):
        label, stream = f"audio of {name or 'an utterance'}", io.BytesIO(source)
    else:
        label = f"audio file {name or source}"
        try:
            stream = open(source, "rb")
        except OSError as error:
            raise UserError(f"{label}: {error.strerror}") from None
    with stream:
        if not stream.read(1):
            raise UserError(f"{label}: empty (0 bytes); fetch it again or leave it out")
        stream.seek(0)
        try:
            with sf.SoundFile(stream) as file:
                _check_header(file, stream, label)
                yield file, label
        except (sf.LibsndfileError, TypeError) as error:  # TypeError: .raw, which has no header
            reason = getattr(error, "error_string", str(error))
            raise UserError(
                f"{label}: damaged, truncated or not audio that libsndfile reads"
                f" ({reason.strip().rstrip('.')}); fetch it again, convert it to FLAC or WAV, or"
                " leave it out"
            ) from None


def _check_header(file: sf.SoundFile, stream: BinaryIO, label: str) -> None:
    """Refuse files that are cut, as far as the container tells, empty, or without a length."""
    if cut := _cut(file, stream):
        raise UserError(f"{label}: truncated: {cut}; fetch it again or leave it out")
    if file.frames == 0:
        raise UserError(f"{label}: empty (0 samples); leave it out")
    if file.frames >= _FRAMES_UNKNOWN:
        raise UserError(f"{label}: its header gives no length; write it anew, not through a pipe")


def _cut(file: sf.SoundFile, stream: BinaryIO) -> str | None:
    """Describe what a cut WAV, AIFF, AU, SPHERE or Ogg file lacks; None where nothing is seen.

    A cut FLAC or MP3 file shows only when it is decoded.
    """
    if match := _CUT.search(file.extra_info):
        declared, present = map(int, match.groups())
        if present < declared < _SIZE_UNKNOWN:
            return f"{present} bytes where its header declares {declared}"
    if file.format == "NIST":
        count = re.search(rb"sample_count -i (\d+)", _peek(stream, 0, 1024))
        if count and file.frames < int(count[1]):
            return f"{file.frames} samples where its header declares {int(count[1])}"
    if file.format == "OGG" and not _is_complete_ogg(_peek(stream, -_OGG_PAGE, _OGG_PAGE)):
        return "the last page of its Ogg stream is missing or incomplete"
    return None


def _is_complete_ogg(tail: bytes) -> bool:
    """Whether the last Ogg page is marked as last and is complete (RFC 3533).

    A page: "OggS", version, flags (4: last page), 20 bytes, segment count, segment sizes, segments.
    """
    page = tail[tail.rfind(b"OggS") :]
    if len(page) < 27 or not page[5] & 4:
        return False
    return len(page) >= 27 + page[26] + sum(page[27 : 27 + page[26]])


def _peek(stream: BinaryIO, offset: int, count: int) -> bytes:
    """Read bytes at `offset`, from the end if negative, and restore the position."""
    position = stream.tell()
    size = stream.seek(0, io.SEEK_END)
    stream.seek(offset if offset >= 0 else max(size + offset, 0))
    data = stream.read(count)
    stream.seek(position)
    return data
