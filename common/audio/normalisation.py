"""Normalisation of features that come piece by piece: mean 0 and deviation 1 over a window.

`common.audio.features.Featurizer` normalises over the whole recording, which a stream has not heard
yet. `SlidingNormalisation` takes the frames of the last seconds in its place, as Kaldi's
apply-cmvn-sliding (Povey et al. 2011, "The Kaldi Speech Recognition Toolkit") does; what it gives
for a frame does not depend on the pieces. `FixedNormalisation` takes mean and deviation that are
known before.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np

SLIDING_SECONDS = 10.0  # of the window, at most
FIRST_SECONDS = 1.0  # the frames of the first second are normalised together, when it is over


class Normalisation(ABC):
    """Normalises the log energies of one recording, which come piece by piece."""

    @abstractmethod
    def accept(self, energies: np.ndarray) -> np.ndarray:
        """Take the next frames.

        Args:
            energies: (bins, T) log energies.

        Returns:
            (bins, T') normalised frames that are ready.
        """

    @abstractmethod
    def finish(self) -> np.ndarray:
        """Return the normalised frames (bins, T') that are left at the end of the recording."""


@dataclass(frozen=True)
class Deviation:
    """How a featurizer takes a deviation.

    Attributes:
        over_bins: Mean and deviation are those of all bins together.
        biased: The squares are divided by their number, not by one less.
        least: The smallest deviation.
        added: `least` is added to the deviation; else no deviation is smaller.
    """

    over_bins: bool
    biased: bool
    least: float
    added: bool

    def of(self, squares: np.ndarray, counts: np.ndarray) -> np.ndarray:
        """Compute deviations.

        Args:
            squares: Sums of the squares of what differs from the mean.
            counts: Number of values in each sum.

        Returns:
            What to divide by.
        """
        divisors = counts if self.biased else np.maximum(counts - 1, 1)
        deviation = np.sqrt(np.maximum(squares, 0) / divisors)
        return deviation + self.least if self.added else np.maximum(deviation, self.least)


class FixedNormalisation(Normalisation):
    """Subtracts a known mean and divides by a known deviation.

    Args:
        mean: (bins,), or (1,) for all bins.
        deviation: Likewise; what to divide by.
    """

    def __init__(self, mean: np.ndarray, deviation: np.ndarray):
        self.mean, self.deviation = np.reshape(mean, (-1, 1)), np.reshape(deviation, (-1, 1))

    @classmethod
    def of(cls, energies: np.ndarray, kind: Deviation) -> FixedNormalisation:
        """Take mean and deviation of a recording.

        Args:
            energies: (bins, T) log energies of all its frames.
            kind: How the deviation is taken.
        """
        axis = None if kind.over_bins else 1
        mean = energies.mean(axis=axis, keepdims=True, dtype=np.float64)
        squares = ((energies - mean) ** 2).sum(axis=axis, keepdims=True)
        count = energies.size if kind.over_bins else energies.shape[1]
        return cls(mean, kind.of(squares, np.array(count)))

    def accept(self, energies: np.ndarray) -> np.ndarray:
        """Normalise the frames; see `Normalisation.accept`."""
        return ((energies - self.mean) / self.deviation).astype(np.float32)

    def finish(self) -> np.ndarray:
        """Return no frames: none waits."""
        return np.zeros((0, 0), np.float32)


class SlidingNormalisation(Normalisation):
    """Normalises each frame over the frames of the last seconds, this one among them.

    Args:
        kind: How the deviation is taken.
        window: Frames of the window, at most.
        first: Frames at the start of the recording that are normalised over all of them.
    """

    def __init__(self, kind: Deviation, window: int, first: int):
        self._kind, self._window, self._first = kind, max(window, first, 1), max(first, 1)
        self._kept = np.zeros((0, 0))  # the frames before, at most a window of them
        self._waiting: list[np.ndarray] = []  # of the first ones
        self._count = 0  # frames that came

    def accept(self, energies: np.ndarray) -> np.ndarray:
        """Normalise frames; see `Normalisation.accept`."""
        self._count += energies.shape[1]
        if self._kept.size:
            return self._slide(np.asarray(energies, np.float64))
        self._waiting = [*self._waiting, np.asarray(energies, np.float64)]
        if self._count < self._first:
            return np.zeros((len(energies), 0), np.float32)
        return self._start()

    def finish(self) -> np.ndarray:
        """Normalise a recording that ended before its first frames were together."""
        if self._kept.size or not self._count:
            return np.zeros((0, 0), np.float32)
        return self._start()

    def _start(self) -> np.ndarray:
        """Normalise the first frames together, and what came after them."""
        came = np.concatenate(self._waiting, axis=1)
        self._waiting = []
        together = came[:, : self._first]
        self._kept = together
        first = FixedNormalisation.of(together, self._kind).accept(together)
        return np.concatenate((first, self._slide(came[:, self._first :])), axis=1)

    def _slide(self, energies: np.ndarray) -> np.ndarray:
        if not energies.shape[1]:
            return np.zeros(energies.shape, np.float32)
        whole = np.concatenate((self._kept, energies), axis=1)
        base = self._kept.mean(axis=1, keepdims=True)  # small numbers, of which sums are exact
        values = whole - base
        if self._kind.over_bins:
            values = whole - base.mean()
        sums, squares = self._totals(values), self._totals(values**2)
        ends = np.arange(self._kept.shape[1], whole.shape[1]) + 1
        starts = np.maximum(ends - self._window, 0)
        counts = (ends - starts) * (len(whole) if self._kind.over_bins else 1)
        mean = (sums[:, ends] - sums[:, starts]) / counts
        rest = squares[:, ends] - squares[:, starts] - mean**2 * counts
        normalised = (values[:, self._kept.shape[1] :] - mean) / self._kind.of(rest, counts)
        self._kept = whole[:, -self._window :]
        return normalised.astype(np.float32)

    def _totals(self, values: np.ndarray) -> np.ndarray:
        """Add frames up: (bins, T) -> (bins or 1, T + 1), 0 first."""
        if self._kind.over_bins:
            values = values.sum(axis=0, keepdims=True)
        return np.pad(np.cumsum(values, axis=1), ((0, 0), (1, 0)))
