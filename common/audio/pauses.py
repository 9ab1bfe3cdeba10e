"""Loudness and pauses of a recording: where words can begin and end."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

HOP = 0.01  # seconds between values of loudness
SHORTEST = 0.08  # seconds of quiet that count as a pause; closures of stops are shorter
_LOWEST = 1e-10  # mean square: 100 dB below full scale
_QUIET, _LOUD = 10, 95  # percentiles of the loudness that stand for noise and for speech
_THRESHOLD = 0.3  # of the way from noise to speech
_BLOCK = 4096  # hops measured at a time
_LEAST_RANGE = 6.0  # dB between noise and speech, below which no pause can be told


@dataclass(frozen=True)
class Loudness:
    """How loud a recording is.

    Attributes:
        speech: Level of its loud parts, in dB below full scale (RMS of 10 ms; 0 or less).
        noise: Level of its quiet parts.
        pauses: (P, 2) begin and end of each pause, in seconds; none where the recording is equally
            loud throughout.
    """

    speech: float
    noise: float
    pauses: np.ndarray

    @classmethod
    def of(cls, samples: np.ndarray, sample_rate: int, start: float = 0.0) -> Loudness:
        """Measure a recording.

        Args:
            samples: (N,) full scale +-1.
            sample_rate: Hz.
            start: Seconds of the recording before the first sample.

        Returns:
            Its loudness.
        """
        return cls.of_levels(levels_of(samples, sample_rate), start)

    @classmethod
    def joined(cls, parts: Sequence[tuple[float, Loudness]]) -> Loudness:
        """Put parts of a recording together, which may overlap.

        Args:
            parts: Seconds at which each part begins, and its loudness; at least one.

        Returns:
            The loudness of the loudest and the quietest part, and all pauses.
        """
        pauses = sorted(
            (start + begin, start + end)
            for start, part in parts
            for begin, end in part.pauses.tolist()
        )
        merged: list[list[float]] = []
        for begin, end in pauses:
            if merged and begin <= merged[-1][1]:
                merged[-1][1] = max(end, merged[-1][1])
            else:
                merged.append([begin, end])
        return cls(
            max(part.speech for _, part in parts),
            min(part.noise for _, part in parts),
            np.array(merged).reshape(-1, 2),
        )

    @classmethod
    def of_levels(cls, levels: np.ndarray, start: float = 0.0) -> Loudness:
        """Measure a recording by its levels.

        Args:
            levels: (L,) of `levels_of`, at least one.
            start: Seconds of the recording before the first one.

        Returns:
            Its loudness.
        """
        noise, speech = np.percentile(levels, [_QUIET, _LOUD])
        quiet = levels < noise + _THRESHOLD * (speech - noise)
        if speech - noise < _LEAST_RANGE:
            quiet[:] = False
        edges = np.flatnonzero(np.diff(np.concatenate([[0], quiet.astype(np.int8), [0]])))
        pauses = start + edges.reshape(-1, 2) * HOP
        long = pauses[:, 1] - pauses[:, 0] >= SHORTEST - 1e-9
        return cls(float(speech), float(noise), pauses[long])


def levels_of(samples: np.ndarray, sample_rate: int) -> np.ndarray:
    """Measure the level of each 10 ms.

    Args:
        samples: (N,) full scale +-1, at least one.
        sample_rate: Hz.

    Returns:
        (L,) dB below full scale; one of the whole where that is shorter than 10 ms.
    """
    hop = round(HOP * sample_rate)
    count = len(samples) // hop
    if not count:
        count, hop = 1, len(samples)
    power = np.empty(count)
    for first in range(0, count, _BLOCK):  # hours take no copy
        part = samples[first * hop : min(first + _BLOCK, count) * hop].reshape(-1, hop)
        power[first : first + len(part)] = np.square(part, dtype=np.float64).mean(axis=1)
    return 10 * np.log10(np.maximum(power, _LOWEST))
