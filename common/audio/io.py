"""Read any recording as mono float32 at the rate asked for; write samples in memory."""

from __future__ import annotations

import ctypes
import errno
import functools
import io
import os
import stat
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import soundfile as sf
import soxr

from common.audio.containers import streams_of
from common.audio.content import Content, Refused, Stream, truncated
from common.utils.errors import UserError

_BLOCK = 1 << 22  # samples; more are read in several steps, as memory is taken for each
_FLAC_PEAK = 32768  # steps of 16 bits; +1 itself is clipped by one step, which no one hears
_SOFT_PEAK = 256  # steps; a peak of less has only half of the 16 bits
_RATES = (100, 10_000_000)  # Hz, the lowest and the highest of recordings
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
    with _content(source, name) as content:
        infos = []
        for stream in streams_of(content, thorough=False):
            with _decoder(content, stream) as file:
                seeks = file.seekable() and file.format != "MP3"
                samples = _samples(file, stream)
                infos.append(AudioInfo(file.samplerate, file.channels, samples, seeks))
        return _joined(infos)


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
    with _content(source, name) as content:
        streams = streams_of(content, thorough=True)
        if len(streams) == 1:
            info, samples = _decode(content, streams[0], start, seconds)
        else:
            decoded = [_decode(content, stream) for stream in streams]
            info = _joined([info for info, _ in decoded])
            samples = np.concatenate([samples for _, samples in decoded])
            samples = samples[_span(info, start, seconds)]
        if bad := np.count_nonzero(~np.isfinite(samples)):
            raise Refused(f"{bad} of {len(samples)} samples are nan or infinite; leave it out")
    rate = info.sample_rate
    return samples if rate == sample_rate else soxr.resample(samples, rate, sample_rate, "HQ")


def decoded_blocks(
    source: str | Path | bytes, name: str | None = None, seconds: float = 10.0
) -> Iterator[np.ndarray]:
    """Decode a recording block by block, in memory that does not depend on its length.

    Args:
        source: Path of the recording, or its encoded bytes.
        name: What errors call it; None: its path.
        seconds: Of a block.

    Yields:
        (N, channels) float32 at the recording's own rate, full scale +-1.

    Raises:
        UserError: As `load_audio`; what is wrong far behind shows when it is reached.
    """
    with _content(source, name) as content:
        place = 0
        for stream in streams_of(content, thorough=True):
            with _decoder(content, stream) as file:
                size = max(1, min(_BLOCK, round(seconds * file.samplerate)))
                for block in _blocks(file, slice(0, _samples(file, stream)), size):
                    if not np.isfinite(block).all():
                        raise Refused(
                            f"samples that are nan or infinite from {place / file.samplerate:.1f} "
                            "s on; leave it out"
                        )
                    place += len(block)
                    yield block


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


def encode_for_training(samples: np.ndarray, sample_rate: int) -> bytes:
    """Encode samples so that their features stay what they are.

    That is 16-bit FLAC, half the size of WAV or less. Samples beyond full scale would be clipped
    there, and very soft ones lost in its steps: these become 32-bit float WAV. Both are rare.

    Args:
        samples: (N,) float32; full scale is +-1, and floats may go beyond.
        sample_rate: Their rate in Hz.

    Returns:
        Content of a file that `load_audio` reads.
    """
    peak = float(np.abs(samples).max(initial=0.0)) * 32768.0
    clips = round(peak) > _FLAC_PEAK
    soft = peak < _SOFT_PEAK and bool((np.rint(samples * 32768.0) != samples * 32768.0).any())
    if not clips and not soft:
        return encode_flac(samples, sample_rate)
    buffer = io.BytesIO()
    sf.write(buffer, samples, sample_rate, format="WAV", subtype="FLOAT")
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


# ---- reading


@contextmanager
def _content(source: str | Path | bytes, name: str | None) -> Iterator[Content]:
    """Open a recording. Whatever is wrong with it becomes a UserError that names it."""
    descriptor = None
    if isinstance(source, bytes):
        label = f"audio of {name or 'an utterance'}"
    else:
        label = f"audio file {name or source}"
    try:
        if isinstance(source, bytes):
            content = Content(source)
        else:
            _check_is_file(source)
            descriptor = os.open(source, os.O_RDONLY)
            content = Content(descriptor)
        if not content.size:
            raise Refused("empty (0 bytes); fetch it again or leave it out")
        yield content
    except Refused as error:
        raise UserError(f"{label}: {error}") from None
    except OSError as error:
        raise UserError(f"{label}: {error.strerror or error}") from None
    except sf.LibsndfileError as error:
        raise UserError(
            f"{label}: damaged, truncated or not audio that libsndfile reads"
            f" ({error.error_string.strip().rstrip('.')}); fetch it again, convert it to FLAC or"
            " WAV, or leave it out"
        ) from None
    finally:
        if descriptor is not None:
            os.close(descriptor)


def _check_is_file(path: str | Path) -> None:
    """Refuse what cannot be read at any place and twice; opening a FIFO would wait for a writer."""
    try:
        mode = os.stat(path).st_mode
    except ValueError as error:  # a zero character
        raise Refused(f"no name of a file ({error})") from None
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    if not stat.S_ISREG(mode):
        raise Refused("a pipe or device, which cannot be read twice; write it to a file first")


@contextmanager
def _decoder(content: Content, stream: Stream) -> Iterator[sf.SoundFile]:
    """Open a stream of a recording for decoding."""
    source: int | io.BufferedIOBase
    if not isinstance(content.source, int) or stream.parts != content.whole:
        source = content.file(stream.parts)
    else:
        source = content.source  # libsndfile reads it without Python
        os.lseek(source, 0, os.SEEK_SET)
    silence = _without_native_messages() if stream.native_messages else nullcontext()
    with silence, sf.SoundFile(source, closefd=False) as file:
        _check_length(file, stream)
        yield file


def _samples(file: sf.SoundFile, stream: Stream) -> int:
    return file.frames if stream.samples is None else stream.samples


def _check_length(file: sf.SoundFile, stream: Stream) -> None:
    """Compare what the decoder is going to give with what the container holds."""
    least, most = _RATES
    if not least <= file.samplerate <= most:  # a damaged header: resampling would fill the memory
        raise Refused(f"a sample rate of {file.samplerate} Hz; expected {least} to {most}")
    if file.frames == 0:
        raise Refused("empty (0 samples); leave it out")
    expected = _samples(file, stream)
    if file.frames < expected:
        raise Refused(
            f"holds {expected} samples, of which its header declares {file.frames}; write its"
            " header anew or convert it to FLAC or WAV"
        )
    if file.frames > expected and not stream.estimated:
        raise truncated(f"{expected} samples where its header declares {file.frames}")


def _decode(
    content: Content, stream: Stream, start: float = 0.0, seconds: float | None = None
) -> tuple[AudioInfo, np.ndarray]:
    """Decode a stream or a part of it; return (N,) samples, channels averaged."""
    with _decoder(content, stream) as file:
        info = AudioInfo(file.samplerate, file.channels, _samples(file, stream))
        span = _span(info, start, seconds)
        if span.start and file.seekable():
            file.seek(span.start)
        elif span.start:  # such as GSM
            _read(file, slice(0, span.start))
        return info, _read(file, span)


def _read(file: sf.SoundFile, span: slice) -> np.ndarray:
    """Read (N,) samples from where the decoder is, which is the start of `span`, to its end."""
    blocks = [
        block[:, 0] if file.channels == 1 else block.mean(axis=1)
        for block in _blocks(file, span, _BLOCK)
    ]
    return blocks[0] if len(blocks) == 1 else np.concatenate(blocks)


def _blocks(file: sf.SoundFile, span: slice, size: int) -> Iterator[np.ndarray]:
    """Read `span` in blocks (N, channels) of at most `size` samples; at least one block."""
    at = span.start
    while at == span.start or at < span.stop:
        block = file.read(min(span.stop - at, size), dtype="float32", always_2d=True)
        if not len(block) and at < span.stop:
            raise truncated(f"{at} samples where its header declares {span.stop}")
        yield block
        at += len(block)
        if not len(block):
            return


def _span(info: AudioInfo, start: float, seconds: float | None) -> slice:
    """Return the samples of a part of a recording."""
    first = min(round(start * info.sample_rate), info.samples)
    last = info.samples
    if seconds is not None:
        last = min(first + round(seconds * info.sample_rate), last)
    return slice(first, last)


def _joined(infos: list[AudioInfo]) -> AudioInfo:
    """Describe streams that follow each other."""
    rates = sorted({info.sample_rate for info in infos})
    if len(rates) > 1:
        raise Refused(
            f"several streams one behind the other, of {' and '.join(map(str, rates))} Hz; convert"
            " it to FLAC or WAV"
        )
    samples = sum(info.samples for info in infos)
    channels = max(info.channels for info in infos)
    return AudioInfo(rates[0], channels, samples, all(info.seeks for info in infos))


_silent_lock = threading.Lock()
_silent_users = 0


@contextmanager
def _without_native_messages() -> Iterator[None]:
    """Send what C code writes to its `stderr` to nowhere; Python does not use that variable.

    libmpg123 writes notes there that say less than our own error, and libsndfile has no switch for
    them. The GNU C library's manual allows to set `stderr`.
    """
    global _silent_users
    variable, usual, nowhere = _c_stderr()
    with _silent_lock:
        _silent_users += 1
        variable.value = nowhere
    try:
        yield
    finally:
        with _silent_lock:
            _silent_users -= 1
            if not _silent_users:
                variable.value = usual


@functools.cache
def _c_stderr() -> tuple[ctypes.c_void_p, int | None, int | None]:
    """Return C's variable `stderr`, its value, and a stream to nowhere."""
    library = ctypes.CDLL(None)
    variable = ctypes.c_void_p.in_dll(library, "stderr")
    open_stream = library.fopen
    open_stream.restype, open_stream.argtypes = ctypes.c_void_p, [ctypes.c_char_p] * 2
    return variable, variable.value, open_stream(b"/dev/null", b"w")
