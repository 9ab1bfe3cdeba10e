"""Samples of 16 bits that come through a pipe: raw, or behind a WAV header."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

import numpy as np

from common.audio.containers import is_placeholder
from common.utils.errors import UserError

RATE = 16000  # Hz of raw samples, where none is given
_WIDTH = 2  # bytes of a sample
_READ = 1 << 15  # bytes at most that are taken at once: 1 s at 16 kHz
_PCM, _EXTENSIBLE = 1, 0xFFFE  # codes of formats in WAV
_LONGEST_CHUNK = 1 << 20  # bytes before the sound
_OTHERS = {  # beginnings of files that are no raw samples
    b"fLaC": "a FLAC file",
    b"OggS": "an Ogg file",
    b"ID3": "an MP3 file",
    b"FORM": "an AIFF file",
    b"caff": "a CAF file",
    b".snd": "an AU file",
    b"NIST_1A": "a SPHERE file",
    b"RIFX": "a big-endian WAV file",
    b"RF64": "an RF64 file",
}


class Pipe(Protocol):
    """Such as `sys.stdin.buffer`."""

    def read1(self, size: int, /) -> bytes:
        """Return what has come, at most `size` bytes; empty at the end."""


class RawStream:
    """Samples of a binary stream, as they come.

    Args:
        file: Such as `sys.stdin.buffer`.
        rate: Hz of raw samples; 0: 16000, or what a WAV header says.
        channels: Of raw samples, which are averaged; 0: 1, or what a WAV header says.
        name: What errors call the stream.

    Attributes:
        rate: Hz.
        channels: Channels of the stream.

    Raises:
        UserError: The stream holds a file of another kind, or its header contradicts the arguments.
    """

    def __init__(self, file: Pipe, rate: int, channels: int, name: str):
        self._file, self._name = file, name
        self._begun = self._exactly(12)
        self._left: int | None = None  # bytes of sound to come; None: until the stream ends
        self.rate, self.channels = rate or RATE, channels or 1
        for start, kind in _OTHERS.items():
            if self._begun.startswith(start):
                raise UserError(
                    f"{name}: holds {kind}, expected raw samples of 16 bits or a WAV file of them: "
                    "convert it (ffmpeg -i FILE -f s16le -ar 16000 -ac 1 -)"
                )
        if self._begun[:4] == b"RIFF" and self._begun[8:] == b"WAVE":
            self._begun = b""
            self._read_header(rate, channels)

    def __iter__(self) -> Iterator[np.ndarray]:
        """Yield samples (N,) float32, full scale 1, channels averaged, as they come."""
        size, kept = _WIDTH * self.channels, self._begun
        while True:
            whole = len(kept) // size * size
            if whole:
                samples = np.frombuffer(kept[:whole], "<i2").reshape(-1, self.channels)
                yield samples.mean(axis=1, dtype=np.float32) / np.float32(32768)
            content = self._sound()
            if not content:
                break
            kept = kept[whole:] + content
        if cut := len(kept) % size:
            raise UserError(
                f"{self._name}: ended within a sample: {cut} bytes of {size}; expected raw samples "
                f"of 16 bits and {self.channels} channels"
            )

    def _sound(self) -> bytes:
        """Read what has come; empty at the end."""
        most = _READ if self._left is None else min(_READ, self._left)
        content = self._file.read1(most) if most else b""
        if self._left is not None:
            self._left -= len(content)
        return content

    def _exactly(self, count: int) -> bytes:
        """Read so many bytes, fewer at the end of the stream."""
        content = b""
        while len(content) < count and (more := self._file.read1(count - len(content))):
            content += more
        return content

    def _read_header(self, rate: int, channels: int) -> None:
        """Read the chunks of a WAV file up to its sound."""
        layout = b""
        while len(head := self._exactly(8)) == 8:
            size = int.from_bytes(head[4:], "little")
            if head[:4] == b"data":
                self._left = None if not size or is_placeholder(size, 4) else size
                break
            if size > _LONGEST_CHUNK:
                raise UserError(f"{self._name}: a WAV chunk of {size} bytes before the sound")
            content = self._exactly(size + size % 2)
            layout = content[:size] if head[:4] == b"fmt " else layout
        else:
            raise UserError(f"{self._name}: truncated: a WAV file without sound")
        if len(layout) < 16:
            raise UserError(f"{self._name}: a WAV file that does not say what its samples are")
        code, found_channels = (int.from_bytes(layout[at : at + 2], "little") for at in (0, 2))
        found_rate, bits = int.from_bytes(layout[4:8], "little"), layout[14] + 256 * layout[15]
        if code == _EXTENSIBLE:
            code = int.from_bytes(layout[24:26], "little")
        if (code, bits) != (_PCM, 8 * _WIDTH) or not found_channels or not found_rate:
            raise UserError(
                f"{self._name}: a WAV file of {bits} bits (format {code}), expected 16 bits "
                "(format 1): convert it (ffmpeg -i FILE -c:a pcm_s16le -f wav -)"
            )
        for option, given, found in (
            ("--rate", rate, found_rate),
            ("--channels", channels, found_channels),
        ):
            if given not in (0, found):
                raise UserError(
                    f"{self._name}: its WAV header says {found}, and {option} {given}: leave "
                    f"{option} out"
                )
        self.rate, self.channels = found_rate, found_channels
