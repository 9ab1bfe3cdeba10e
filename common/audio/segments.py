"""Recordings and parts of recordings, as manifests list them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import soxr

from common.audio.io import AudioInfo, audio_info, load_audio
from common.utils.errors import UserError

# Seconds that a segment may be longer than its recording: manifests round offset and duration, and
# programs differ in what they count as the delay of an encoder (of MP3 at 8 kHz, up to 0.17 s).
TOLERANCE = 0.2


@dataclass(frozen=True)
class AudioSegment:
    """A recording, or the part of it that one utterance takes up.

    Attributes:
        path: The recording.
        offset: Where the part begins, in seconds; None: the whole recording.
        duration: Length of the part in seconds; None: up to the end of the recording.
    """

    path: Path
    offset: float | None = None
    duration: float | None = None

    def __str__(self) -> str:
        if self.offset is None:
            return str(self.path)
        length = "to the end" if self.duration is None else f"for {self.duration:g} s"
        return f"{self.path} (from {self.offset:g} s {length})"

    def info(self) -> AudioInfo:
        """Read the header of the recording; `samples` are those of the part.

        Raises:
            UserError: As `audio_info`, or the part is not inside the recording.
        """
        info = audio_info(self.path)
        if self.offset is None:
            return info
        first, last = self._range(info)
        return replace(info, samples=last - first)

    def load(self, sample_rate: int) -> np.ndarray:
        """Decode the recording or its part: samples round(offset * rate) to round(end * rate).

        Args:
            sample_rate: Hz that is wanted; the part is cut at the recording's own rate.

        Returns:
            Samples (N,) float32, full scale +-1, channels averaged.

        Raises:
            UserError: As `load_audio`, or the part is not inside the recording.
        """
        if self.offset is None:
            return load_audio(self.path, sample_rate)
        info = audio_info(self.path)
        first, last = self._range(info)
        rate = info.sample_rate
        if info.seeks:
            seconds = (last - first) / rate
            return load_audio(self.path, sample_rate, start=first / rate, seconds=seconds)
        samples = load_audio(self.path, rate)[first:last]
        return samples if rate == sample_rate else soxr.resample(samples, rate, sample_rate, "HQ")

    def _range(self, info: AudioInfo) -> tuple[int, int]:
        """Return the first sample of the part and the one after its last."""
        rate, offset = info.sample_rate, self.offset or 0.0
        end = info.duration if self.duration is None else offset + self.duration
        # In seconds first: samples of an absurd offset would overflow.
        first = round(min(offset, info.duration) * rate)
        last = round(min(end, info.duration) * rate)
        if end > info.duration + TOLERANCE or first >= last:
            length = "to its end" if self.duration is None else f"{self.duration:g} s long"
            raise UserError(
                f"audio file {self.path}: the segment from {offset:g} s, {length}, is not inside "
                f"the recording, which is {info.duration:.2f} s long; correct offset and duration "
                "in the manifest, or leave it out"
            )
        return first, last
