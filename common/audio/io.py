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

# libsndfile reads a cut file up to the cut in silence; its log tells: bytes declared, bytes there.
_CUT = re.compile(
    r"^\s*(?:data|SSND|Data Size|riff|Riff size)\s*: (\d+) \(should be (\d+)\)", re.MULTILINE
)
_SIZE_UNKNOWN = 0x7FFF0000  # bytes; whoever writes a WAV header into a pipe declares this or more
_FRAMES_UNKNOWN = 1 << 62  # samples; libsndfile's answer when a header gives no length
_OGG_PAGE = 65307  # bytes; the longest page
_OPUS_RATES = (8000, 12000, 16000, 24000, 48000)  # Hz


@dataclass(frozen=True)
class AudioInfo:
    """What the header of a recording says."""

    sample_rate: int  # Hz
    channels: int
    samples: int  # per channel

    @property
    def duration(self) -> float:
        """Seconds."""
        return self.samples / self.sample_rate


def audio_info(source: str | Path | bytes, name: str | None = None) -> AudioInfo:
    """Header of a recording, not decoded; raises as `load_audio` does, as far as a header tells."""
    with _opened(source, name) as (file, _):
        return AudioInfo(file.samplerate, file.channels, file.frames)


def load_audio(
    source: str | Path | bytes,
    sample_rate: int,
    name: str | None = None,
    start: float = 0.0,
    seconds: float | None = None,
) -> np.ndarray:
    """Decode a recording: (N,) float32 at `sample_rate` Hz, full scale +-1, channels averaged.

    `source` is a path or the encoded bytes; `name` is what errors call it. `start` and `seconds`
    choose a part. Raises UserError if it is missing, unreadable, truncated, empty or not finite.
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
    """16-bit FLAC of samples (N,); lossless if they came from 16 bits, clipped at full scale."""
    pcm = np.clip(np.rint(samples * 32768.0), -32768, 32767).astype(np.int16)
    buffer = io.BytesIO()
    sf.write(buffer, pcm, sample_rate, format="FLAC", subtype="PCM_16")
    return buffer.getvalue()


def encode_opus(samples: np.ndarray, sample_rate: int) -> bytes:
    """Ogg/Opus of samples (N,), to listen to: about 3 kB a second; plays in browsers.

    Opus takes few sample rates: others are resampled to 16 kHz.
    """
    if sample_rate not in _OPUS_RATES:
        samples, sample_rate = soxr.resample(samples, sample_rate, 16000, "HQ"), 16000
    buffer = io.BytesIO()
    sf.write(buffer, samples, sample_rate, format="OGG", subtype="OPUS")
    return buffer.getvalue()


@dataclass
class FormatNotice:
    """Counts the recordings that `load_audio` converts: said once in all, not once a file."""

    sample_rate: int  # Hz that they are converted to
    recordings: int = 0
    mixed: int = 0
    rates: Counter[int] = field(default_factory=Counter)  # recordings by rate, where it differs

    def add(self, info: AudioInfo) -> None:
        self.recordings += 1
        self.mixed += info.channels > 1
        if info.sample_rate != self.sample_rate:
            self.rates[info.sample_rate] += 1

    def line(self) -> str | None:
        """Such as "563 of 563 recordings resampled from 8000 Hz to 16000 Hz"; None if none was."""
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


@contextmanager
def _opened(source: str | Path | bytes, name: str | None) -> Iterator[tuple[sf.SoundFile, str]]:
    """The open recording and what errors call it; what soundfile objects to is a UserError."""
    encoded = isinstance(source, bytes)
    label = f"audio of {name or 'an utterance'}" if encoded else f"audio file {name or source}"
    try:
        stream = io.BytesIO(source) if encoded else open(source, "rb")
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
    """Refuse what is cut, as far as the container tells, and what has no samples or no length."""
    if cut := _cut(file, stream):
        raise UserError(f"{label}: truncated: {cut}; fetch it again or leave it out")
    if file.frames == 0:
        raise UserError(f"{label}: empty (0 samples); leave it out")
    if file.frames >= _FRAMES_UNKNOWN:
        raise UserError(f"{label}: its header gives no length; write it anew, not through a pipe")


def _cut(file: sf.SoundFile, stream: BinaryIO) -> str | None:
    """What a cut WAV, AIFF, AU, SPHERE or Ogg file lacks; FLAC and MP3 show it when decoded."""
    if match := _CUT.search(file.extra_info):
        declared, found = map(int, match.groups())
        if found < declared < _SIZE_UNKNOWN:
            return f"{found} bytes where its header declares {declared}"
    if file.format == "NIST":
        match = re.search(rb"sample_count -i (\d+)", _peek(stream, 0, 1024))
        if match and file.frames < int(match[1]):
            return f"{file.frames} samples where its header declares {int(match[1])}"
    if file.format == "OGG" and not _ends_whole(_peek(stream, -_OGG_PAGE, _OGG_PAGE)):
        return "the last page of its Ogg stream is missing or incomplete"
    return None


def _ends_whole(tail: bytes) -> bool:
    """Whether the last Ogg page is marked as last and is all there (RFC 3533).

    A page: "OggS", version, flags (4: last page), 20 bytes, segment count, segment sizes, segments.
    """
    page = tail[tail.rfind(b"OggS") :]
    if len(page) < 27 or not page[5] & 4:
        return False
    return len(page) >= 27 + page[26] + sum(page[27 : 27 + page[26]])


def _peek(stream: BinaryIO, offset: int, count: int) -> bytes:
    """Bytes at `offset`, from the end if negative; libsndfile relies on the position kept."""
    position = stream.tell()
    size = stream.seek(0, io.SEEK_END)
    stream.seek(offset if offset >= 0 else max(size + offset, 0))
    data = stream.read(count)
    stream.seek(position)
    return data
