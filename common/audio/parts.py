"""Recordings of any length, decoded a part at a time."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from common.audio.io import audio_info, load_audio

_AT_ONCE = 600.0  # seconds that are decoded at a time: 38 MB at 16 kHz


class SampleParts:
    """The samples of a recording, of which one part is in memory.

    Args:
        source: A file, or samples (N,) float32 at `sample_rate`.
        sample_rate: Hz that files are resampled to.

    Attributes:
        sample_rate: Hz.
        length: Number of samples; those of a file that is resampled may be one fewer.

    Raises:
        UserError: The file cannot be read.
    """

    def __init__(self, source: str | Path | np.ndarray, sample_rate: int):
        self.sample_rate, self._file = sample_rate, None
        self._begin, self._samples = 0, np.zeros(0, np.float32)
        if isinstance(source, np.ndarray):
            self.length, self._samples = len(source), source
        else:
            info = audio_info(source)
            self._file = source
            self.length = round(info.samples * sample_rate / info.sample_rate)

    @property
    def duration(self) -> float:
        """Seconds."""
        return self.length / self.sample_rate

    def read(self, begin: int, end: int) -> np.ndarray:
        """Return a part; reading from the beginning to the end decodes each part once.

        Args:
            begin: Index of its first sample.
            end: Index after its last one; the end of the recording may come before.

        Returns:
            Samples (N,) float32.

        Raises:
            UserError: The file cannot be read.
        """
        end = min(end, self.length)
        inside = self._begin <= begin and end <= self._begin + len(self._samples)
        if self._file is not None and not inside:
            seconds = max(_AT_ONCE, (end - begin) / self.sample_rate)
            start = begin / self.sample_rate
            whole = start == 0 and seconds >= self.duration
            self._samples = load_audio(
                self._file, self.sample_rate, start=start, seconds=None if whole else seconds
            )
            self._begin = begin
        return self._samples[begin - self._begin : end - self._begin]
