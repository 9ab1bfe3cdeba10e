"""Features of a recording that comes piece by piece: those of `Featurizer`, frame by frame."""

from __future__ import annotations

import copy

import numpy as np

from common.audio.features import Featurizer, mel_filters
from common.audio.normalisation import FixedNormalisation, Normalisation
from common.utils.errors import UserError


class LogEnergies:
    """Log energies of the frames of a recording, before they are normalised.

    Frames lie where `Featurizer` has them, with its edges: zeros, or the recording mirrored.

    Args:
        featurizer: What the energies are of.
        normalised: Return all frames that `Featurizer` normalises over: the MindSpore model zoo's
            Jasper has one more than features.
    """

    def __init__(self, featurizer: Featurizer, normalised: bool = False):
        config = featurizer.config
        self._featurizer, self._config = featurizer, config
        self._closing = normalised and featurizer.normalises_further
        self._left = featurizer.before
        self._mode = "constant" if featurizer.zero_padded else "reflect"
        self._window = featurizer.window.astype(np.float64)
        self._filters = (
            mel_filters(config.sample_rate, config.n_fft, config.bins).astype(np.float64)
            if config.kind == "logmel"
            else None
        )
        self._padded = np.zeros(0, np.float32)  # samples of the frames to come, with the edge
        self._tail = np.zeros(0, np.float32)  # the last samples, which the end is mirrored from
        self._last = np.float32(0)  # the last sample, before pre-emphasis
        self._started = False
        self.samples, self.frames = 0, 0  # that came, and that were returned

    def accept(self, samples: np.ndarray) -> np.ndarray:
        """Take the next samples (N,) float32; return the frames (bins, T) that they complete."""
        samples = self._emphasised(np.asarray(samples, np.float32))
        self.samples += len(samples)
        self._tail = np.concatenate((self._tail, samples))
        if self._started:
            self._padded = np.concatenate((self._padded, samples))
        elif self.samples > self._left:
            self._padded = np.pad(self._tail, (self._left, 0), self._mode)  # type: ignore[call-overload]
            self._started = True
        if self._started:  # what came so far has its place
            self._tail = self._tail[-self._config.window_length - 1 :]
        return self._complete(len(self._padded))

    def finish(self) -> np.ndarray:
        """Return the frames (bins, T) that are left at the end of the recording."""
        if not self.samples:
            return self._energies(np.zeros((0, self._config.window_length)))
        size = self._config.window_length
        right = np.pad(self._tail, (0, size), self._mode)  # type: ignore[call-overload]
        if self._started:
            self._padded = np.concatenate((self._padded, right[len(self._tail) :]))
        else:
            self._padded = np.pad(self._tail, (self._left, size), self._mode)  # type: ignore[call-overload]
        frames = self._featurizer.frames(self.samples)
        if self._closing:
            frames = 1 + self.samples // self._config.hop_length
        missing = frames - self.frames
        return self._complete((missing - 1) * self._config.hop_length + size if missing else 0)

    def _emphasised(self, samples: np.ndarray) -> np.ndarray:
        """Subtract a share of the sample before each; the first of all stays as it is."""
        share = np.float32(self._config.preemphasis)
        if not share or not len(samples):
            return samples
        before = np.concatenate(([self._last], samples[:-1])).astype(np.float32)
        self._last = samples[-1]
        return samples - share * before

    def _complete(self, count: int) -> np.ndarray:
        """Take the frames that lie in the first `count` padded samples."""
        size, hop = self._config.window_length, self._config.hop_length
        frames = max(0, (count - size) // hop + 1)
        if not frames:
            return self._energies(np.zeros((0, size)))
        windows = np.lib.stride_tricks.sliding_window_view(self._padded, size)[::hop][:frames]
        energies = self._energies(windows)
        self._padded = self._padded[frames * hop :]
        self.frames += frames
        return energies

    def _energies(self, windows: np.ndarray) -> np.ndarray:
        """Compute log energies (bins, T) of windows (T, window_length), without scipy."""
        spectrum = np.fft.rfft(windows * self._window, self._config.n_fft)
        power = (spectrum.real**2 + spectrum.imag**2).T
        if self._filters is None:
            return np.log1p(np.sqrt(power))
        return np.log(self._filters @ power + float(self._featurizer.floor))


class StreamingFeaturizer:
    """Features of a recording that comes piece by piece.

    Silence at the ends is not cut off: where it ends is not known before the loudest frame.

    Args:
        featurizer: What the features are of.
        normalisation: Of this recording; None: over the last seconds.

    Raises:
        UserError: The features are not normalised at all.
    """

    def __init__(self, featurizer: Featurizer, normalisation: Normalisation | None = None):
        if not featurizer.normalised and featurizer.config.normalisation != "sliding":
            raise UserError(
                f"features of convention {featurizer.config.convention} cannot be made of a stream "
                "yet: recognise whole recordings, or give --context SECONDS"
            )
        self._energies = LogEnergies(featurizer)
        self._normalisation = normalisation or featurizer.sliding()
        self._featurizer = featurizer
        self._unspliced = np.zeros((featurizer.config.bins, 0), np.float32)

    def accept(self, samples: np.ndarray) -> np.ndarray:
        """Take the next samples (N,) float32; return the features (F, T) that they complete."""
        energies = self._energies.accept(samples)
        return self._spliced(self._normalisation.accept(energies), ended=False)

    def finish(self) -> np.ndarray:
        """Return the features (F, T) that are left at the end of the recording."""
        ready = self._normalisation.accept(self._energies.finish())
        rest = self._normalisation.finish()
        if rest.size:
            ready = np.concatenate((ready, rest), axis=1)
        return self._spliced(ready, ended=True)

    def copy(self) -> StreamingFeaturizer:
        """Return another that goes on from here, and leaves this one as it is."""
        other = copy.copy(self)  # arrays are replaced, never changed
        other._energies = copy.copy(self._energies)
        other._normalisation = copy.copy(self._normalisation)
        return other

    def _spliced(self, frames: np.ndarray, ended: bool) -> np.ndarray:
        """Stack each frame and those after it, which must have come, or be zeros past the end."""
        later = self._featurizer.config.frame_splicing - 1
        if not later:
            return frames
        known = np.concatenate((self._unspliced, frames), axis=1)
        ready = known.shape[1] if ended else max(0, known.shape[1] - later)
        self._unspliced = known[:, ready:]
        return self._featurizer.splice(known)[:, :ready]


def normalisation_of(featurizer: Featurizer, samples: np.ndarray) -> FixedNormalisation:
    """Take mean and deviation of a recording, to normalise others of its speaker and microphone.

    Args:
        featurizer: What the features are of.
        samples: (N,) float32 at its rate.

    Returns:
        The normalisation; of the recording itself it gives what `Featurizer` gives.

    Raises:
        UserError: The features are normalised over the last seconds, in whole recordings too.
    """
    if featurizer.config.normalisation == "sliding":
        raise UserError(
            "this network was trained with SpectConfig.normalisation=sliding, which a stream has "
            "as it is: give no --statistics_of"
        )
    source = LogEnergies(featurizer, normalised=True)
    parts = [source.accept(samples), source.finish()]
    return FixedNormalisation.of(np.concatenate(parts, axis=1), featurizer.deviation)
