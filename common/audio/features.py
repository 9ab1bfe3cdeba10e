"""Features of samples: log-spectrogram or log-mel filterbank energies, normalised."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from functools import cached_property
from typing import Any

import numpy as np

from common.audio.normalisation import (
    FIRST_SECONDS,
    SLIDING_SECONDS,
    Deviation,
    SlidingNormalisation,
)
from common.utils.errors import UserError
from common.utils.packages import package

KINDS = ("spectrogram", "logmel")
# Coefficients of cosines of 0, 1, 2 periods in a window (Harris 1978, On the use of windows for
# harmonic analysis with the discrete Fourier transform).
_COSINES = {"hamming": (0.54, 0.46), "hann": (0.5, 0.5), "blackman": (0.42, 0.5, 0.08)}
WINDOWS = (*_COSINES, "bartlett")
_PURPOSE = "computes features"  # of scipy, which takes long to load and 100 MB of disk
CONVENTIONS = {  # kind -> conventions, and whether the window is periodic in them
    "spectrogram": {
        "plain": True,
        "deepspeech.pytorch": True,
        "deepspeech.pytorch-2.0": False,
        "asrt": False,
    },
    "logmel": {"plain": True, "jasper-mindspore": True, "jasper-nvidia": False, "nemo": False},
}

NORMALISATIONS = ("utterance", "sliding")
_POWER_FLOOR = np.float32(2.0**-24)  # above 16-bit rounding noise: silence stays within reach
MIN_DEVIATION = 1e-5  # less counts as constant: dividing would only show rounding errors
_JASPER_FLOOR = np.float32(1e-20)  # power, in Jasper's logarithm
_INT16 = 32768  # ASRT's samples are 16-bit numbers, ours have a full scale of 1
# More is a slip, and would fill the memory.
_MOST_BINS, _HIGHEST_RATE, _LONGEST_WINDOW = 4096, 10_000_000, 10  # and frames; Hz; seconds
_BLOCK = 512  # frames transformed at a time, so that an hour of audio fits in memory

SILENCE_DB = 60  # below the loudest frame, from which the ends are trimmed
SILENCE_FRAME, SILENCE_HOP = 2048, 512  # samples
MIN_RMS = 1e-5  # RMS of full scale; what is fainter counts as this loud


@dataclass(frozen=True)
class FeatureConfig:
    """How features are made; stored in MindRecord files, checkpoints and exported models.

    Attributes:
        kind: "spectrogram" (log1p magnitude) or "logmel" (log mel filterbank energy).
        sample_rate: In Hz.
        window_size: Length of the window in seconds.
        window_stride: Seconds from one frame to the next.
        window: "hamming", "hann" (or "hanning"), "blackman" or "bartlett".
        bands: Mel bands; becomes None for the spectrogram, which has none.
        convention: Of edges, window and deviation; see `Featurizer`.
        preemphasis: Factor of the previous sample, which is subtracted from each sample.
        frame_splicing: Successive frames stacked into one.
        trim_silence: Recordings lose silence at their ends; see `Featurizer.trim`.
        normalisation: "utterance", or "sliding": mean and deviation of the last seconds before each
            frame (`common.audio.normalisation.SlidingNormalisation`).
    """

    kind: str = "spectrogram"
    sample_rate: int = 16000
    window_size: float = 0.02
    window_stride: float = 0.01
    window: str = "hamming"
    bands: int | None = 64
    convention: str = "plain"
    preemphasis: float = 0.0
    frame_splicing: int = 1
    trim_silence: bool = False
    normalisation: str = "utterance"

    def __post_init__(self) -> None:
        if self.window == "hanning":
            object.__setattr__(self, "window", "hann")
        if self.kind == "spectrogram":
            object.__setattr__(self, "bands", None)
        if self.kind not in KINDS:
            raise UserError(f"features {self.kind!r}: expected {' or '.join(KINDS)}")
        if self.window not in WINDOWS:
            raise UserError(f"window {self.window!r}: expected one of {', '.join(WINDOWS)}")
        if self.kind == "logmel" and not (self.bands and self.bands > 0):
            raise UserError(f"bands {self.bands!r}: log-mel features need at least 1 mel band")
        if self.normalisation not in NORMALISATIONS:
            raise UserError(
                f"normalisation {self.normalisation!r}: expected {' or '.join(NORMALISATIONS)}"
            )
        if self.convention not in CONVENTIONS[self.kind]:
            raise UserError(
                f"convention {self.convention!r}: expected one of"
                f" {', '.join(CONVENTIONS[self.kind])} for {self.kind} features"
            )
        for key, value, most in (
            ("bands", self.bands or 1, _MOST_BINS),
            ("frame_splicing", self.frame_splicing, _MOST_BINS),
            ("sample_rate", self.sample_rate, _HIGHEST_RATE),
            ("window_size", self.window_size, _LONGEST_WINDOW),
            ("window_stride", self.window_stride, _LONGEST_WINDOW),
        ):
            if not -most <= value <= most:  # NaN is not, either
                raise UserError(f"{key} {value}: expected at most {most}")
        if not 0.0 <= self.preemphasis <= 1.0:
            raise UserError(f"preemphasis {self.preemphasis}: expected 0 (none) to 1")
        if self.frame_splicing < 1:
            raise UserError(
                f"frame_splicing {self.frame_splicing}: expected at least 1, each frame by itself"
            )
        if self.sample_rate <= 0:
            raise UserError(f"sample_rate {self.sample_rate}: expected Hz above 0")
        if self.window_length < 2 or self.hop_length < 1:
            raise UserError(
                f"window_size {self.window_size} and window_stride {self.window_stride}: expected"
                f" seconds that make at least 2 samples and 1 sample at {self.sample_rate} Hz"
            )

    @property
    def window_length(self) -> int:
        """Samples in a window."""
        return round(self.sample_rate * self.window_size)

    @property
    def hop_length(self) -> int:
        """Samples from one frame to the next."""
        return round(self.sample_rate * self.window_stride)

    @property
    def n_fft(self) -> int:
        """Samples in a transform; for log-mel a power of two, so that narrow low bands get bins."""
        if self.kind == "spectrogram":
            return self.window_length
        return 1 << (self.window_length - 1).bit_length()

    @property
    def bins(self) -> int:
        """Values of a frame before splicing: mel bands, or frequency bins (161 of 320 samples)."""
        return self.bands or self.n_fft // 2 + (self.convention != "asrt")

    @property
    def dimension(self) -> int:
        """Values of a frame after splicing, F."""
        return self.bins * self.frame_splicing

    def to_dict(self) -> dict:
        """Return the keys, without later ones at their defaults: older files stay valid."""
        return {key: value for key, value in asdict(self).items() if _LATER.get(key, ...) != value}

    @classmethod
    def from_dict(cls, values: dict) -> FeatureConfig:
        """Read what `to_dict` returned; UserError for unknown or missing keys."""
        values = {**_LATER, **values}
        names = {f.name for f in fields(cls)}
        if values.keys() != names:
            keys, expected = (", ".join(sorted(keys)) for keys in (values, names))
            raise UserError(f"feature configuration has the keys {keys}; expected {expected}")
        return cls(**values)


_LATER = {  # keys that files of earlier versions do not have, with their defaults
    f.name: f.default
    for f in fields(FeatureConfig)
    if f.name in ("convention", "preemphasis", "frame_splicing", "trim_silence", "normalisation")
}


class Featurizer:
    """Makes features (F, T) float32 of samples (N,) float32, most with mean 0 and deviation 1.

    - spectrogram: log(1 + |STFT|), normalised over the utterance, as in deepspeech.pytorch.
    - logmel: log of the power in mel bands, each band normalised over the utterance.

    A frame is centred on every `hop_length`-th sample, with zeros beyond both ends. Constant input
    (silence) gives 0.

    The convention `deepspeech.pytorch` differs in details: the utterance is mirrored beyond its
    ends (librosa before 0.10), the deviation is divided by N - 1, and in its release 2.0 the
    window is symmetric. On speech, features change by up to 0.015, 0.0004 and 0.11.

    The `jasper` conventions mirror the utterance beyond its ends, add 1e-20 to powers and 1e-5 to
    deviations, and have no frame centred on the very end. The MindSpore model zoo's normalises over
    that frame too; NVIDIA's has a symmetric window and divides by T - 1. On speech at 16 kHz the
    two differ by up to 0.17.

    The convention `asrt` (speech_features/speech_features.py of ASRT_SpeechRecognition) counts
    samples as 16-bit integers and normalises nothing. Its first frame begins with the first sample
    and its last one ends within the recording; the window is symmetric, and the last bin, at half
    the sample rate, is left out. A recording shorter than a window is filled up with zeros.
    """

    def __init__(self, config: FeatureConfig) -> None:
        self.config = config
        self.dimension = config.dimension
        periodic = CONVENTIONS[config.kind][config.convention]
        self.jasper = config.convention.startswith("jasper")
        self.nemo = config.convention == "nemo"
        # Zeros before and after the recording; else it is mirrored at its ends.
        self.zero_padded = config.convention in ("plain", "nemo", "asrt")
        self.adds_deviation = self.jasper or self.nemo  # 1e-5 is added to deviations
        self.biased = config.convention in ("plain", "jasper-mindspore")
        self.floor = _JASPER_FLOOR if self.jasper else _POWER_FLOOR
        self.normalised = config.convention != "asrt"
        scale = 1 if self.normalised else _INT16
        weights = scale * window(config.window, config.window_length, periodic)
        self.window = weights.astype(np.float32)
        # Samples of the first window before the first sample: a window sits in the middle of a
        # transform, and that on its frame.
        self.before = config.n_fft // 2 - (config.n_fft - config.window_length) // 2
        if config.convention == "asrt":
            self.before = 0
        if config.kind == "logmel":
            filters = mel_filters(config.sample_rate, config.n_fft, config.bins)
            if empty := np.sum(~filters.any(axis=1)):
                raise UserError(
                    f"bands {config.bands}: {empty} mel bands are narrower than a frequency bin at"
                    f" window_size {config.window_size}; choose fewer bands or a longer window"
                )

    @cached_property
    def filters(self) -> Any:
        """Sparse mel filters (bands, bins of the transform); None for the spectrogram."""
        if self.config.kind != "logmel":
            return None
        filters = mel_filters(self.config.sample_rate, self.config.n_fft, self.config.bins)
        # Two filters a bin; and no threads of a matrix library that would crowd the workers.
        return package("scipy.sparse", _PURPOSE).csr_array(filters)

    def frames(self, samples: int) -> int:
        """Return the number of frames for `samples` samples (monotonic)."""
        if self.nemo:
            return max(1, samples // self.config.hop_length)
        if self.jasper:
            return -(-samples // self.config.hop_length)
        if self.config.convention == "asrt":
            return 1 + max(samples - self.config.window_length, 0) // self.config.hop_length
        return 1 + (samples - self.config.n_fft % 2) // self.config.hop_length

    def __call__(self, samples: np.ndarray) -> np.ndarray:
        """Return the features (F, T) of samples (N,)."""
        size, hop = self.config.window_length, self.config.hop_length
        samples = np.asarray(samples, np.float32)
        frames = self.frames(len(samples))
        normalised = frames  # frames that mean and deviation are taken over
        if self.normalises_further:
            normalised = 1 + len(samples) // hop
        if self.config.preemphasis:
            samples = _emphasised(samples, self.config.preemphasis)
        edges = "constant" if self.zero_padded else "reflect"
        padded = np.pad(samples, (self.before, size), edges)  # type: ignore[call-overload]
        windows = np.lib.stride_tricks.sliding_window_view(padded, size)[::hop]
        features = np.empty((self.config.bins, normalised), np.float32)
        for start in range(0, features.shape[1], _BLOCK):
            block = features[:, start : start + _BLOCK]
            block[:] = self._energies(windows[start : start + block.shape[1]])
        if self.config.normalisation == "sliding":
            sliding = self.sliding()
            parts = [sliding.accept(features), sliding.finish()]
            return self.splice(np.concatenate([part for part in parts if part.size], axis=1))
        if not self.normalised:
            return self.splice(features)
        axis = None if self.filters is None else 1
        features -= features.mean(axis=axis, keepdims=True, dtype=np.float64)
        single = normalised == 1 and axis == 1  # has no unbiased deviation
        deviation = features.std(axis=axis, keepdims=True, ddof=0 if self.biased or single else 1)
        if self.adds_deviation:
            features /= deviation + MIN_DEVIATION
        else:
            features /= np.maximum(deviation, MIN_DEVIATION)
        return self.splice(features[:, :frames])

    @property
    def normalises_further(self) -> bool:
        """Whether mean and deviation are taken over one frame more than there are features."""
        config = self.config
        return config.convention == "jasper-mindspore" and config.normalisation == "utterance"

    @property
    def deviation(self) -> Deviation:
        """How deviations are taken."""
        return Deviation(
            self.config.kind == "spectrogram", self.biased, MIN_DEVIATION, self.adds_deviation
        )

    def sliding(self) -> SlidingNormalisation:
        """Make the normalisation of one recording over its last seconds."""
        return SlidingNormalisation(self.deviation, *self.sliding_frames)

    @property
    def sliding_frames(self) -> tuple[int, int]:
        """Frames of a sliding window, and those that are normalised together at the start."""
        window, first = (
            max(1, round(seconds * self.config.sample_rate / self.config.hop_length))
            for seconds in (SLIDING_SECONDS, FIRST_SECONDS)
        )
        return window, first

    def splice(self, features: np.ndarray) -> np.ndarray:
        """Stack following frames below each: (bins, T) -> (dimension, T), zeros past the end."""
        count, bins = self.config.frame_splicing, self.config.bins
        if count == 1:
            return features
        spliced = np.zeros((self.dimension, features.shape[1]), np.float32)
        for ahead in range(min(count, features.shape[1])):
            rows = spliced[ahead * bins : (ahead + 1) * bins]
            rows[:, : features.shape[1] - ahead] = features[:, ahead:]
        return spliced

    def trim(self, samples: np.ndarray) -> np.ndarray:
        """Cut silence at both ends of a recording, where the configuration says `trim_silence`.

        Frames more than 60 dB below the loudest are silent: of 2048 samples, centred on every
        512th, as in librosa.effects.trim. A recording must not be trimmed twice.

        Args:
            samples: (N,).

        Returns:
            The samples that are left.
        """
        return samples[self.sounding(samples)] if self.config.trim_silence else samples

    def sounding(self, samples: np.ndarray) -> slice:
        """Find what `trim` leaves of a recording.

        Args:
            samples: (N,).

        Returns:
            The samples from the first to the last that is not cut off.
        """
        if not self.config.trim_silence or len(samples) == 0:
            return slice(0, len(samples))
        # Sums over each hop, from which those of the frames: four hops, two on either side.
        hops = SILENCE_FRAME // SILENCE_HOP
        count = 1 + len(samples) // SILENCE_HOP
        squares = np.zeros((count + hops - 1) * SILENCE_HOP)
        middle = SILENCE_FRAME // 2
        squares[middle : middle + len(samples)] = np.square(samples, dtype=np.float64)
        sums = squares.reshape(-1, SILENCE_HOP).sum(axis=1)
        power = np.convolve(sums, np.ones(hops), "valid") / SILENCE_FRAME
        level = 10 * np.log10(np.maximum(power, MIN_RMS**2))
        loud = np.flatnonzero(level > level.max() - SILENCE_DB)
        return slice(int(loud[0]) * SILENCE_HOP, int(loud[-1] + 1) * SILENCE_HOP)

    def _energies(self, windows: np.ndarray) -> np.ndarray:
        """Return log energies (bins, T), not normalised, of windows (T, window_length)."""
        fft = package("scipy.fft", _PURPOSE)  # numpy's takes single precision since release 2
        spectrum = fft.rfft(windows * self.window, self.config.n_fft)
        power = (spectrum.real**2 + spectrum.imag**2).T
        if self.filters is None:
            return np.log1p(np.sqrt(power[: self.config.bins]))
        return np.log(self.filters @ power + self.floor)


def build_featurizer(data: Any) -> Featurizer:
    """Build the featurizer that a DataConfig's SpectConfig describes."""
    keys = asdict(data.SpectConfig)
    return Featurizer(FeatureConfig(kind=keys.pop("features"), **keys))


def window(kind: str, size: int, periodic: bool) -> np.ndarray:
    """Compute a window, to the last bit of single precision as scipy.signal.get_window.

    Args:
        kind: One of WINDOWS.
        size: Its samples.
        periodic: Whether the next sample would repeat the first; else the last one does.

    Returns:
        Weights (size,).
    """
    count = size + 1 if periodic else size
    if kind == "bartlett":
        weights = 1 - np.abs(2 * np.arange(count) / (count - 1) - 1)
    else:
        phase = np.linspace(-np.pi, np.pi, count)
        weights = sum(
            (share * np.cos(periods * phase) for periods, share in enumerate(_COSINES[kind])),
            np.zeros(count),
        )
    return weights[:size]


def _emphasised(samples: np.ndarray, share: float) -> np.ndarray:
    """Return x[n] - share * x[n - 1]; the first sample stays as it is."""
    emphasised = samples.copy()
    emphasised[1:] -= np.float32(share) * samples[:-1]
    return emphasised


def mel_filters(sample_rate: int, n_fft: int, bands: int) -> np.ndarray:
    """Return triangular mel filters of area 1 over frequency, from 0 Hz to half the sample rate.

    Slaney's mel scale (Auditory Toolbox, 1998): 200/3 Hz a mel up to 1 kHz, logarithmic above,
    27 mels for a factor of 6.4.

    Args:
        sample_rate: Hz.
        n_fft: Samples in a transform.
        bands: Number of filters.

    Returns:
        Weights (bands, n_fft // 2 + 1).
    """
    linear, knee, growth = 200.0 / 3, 1000.0, np.log(6.4) / 27
    nyquist = sample_rate / 2
    knee_mel = knee / linear
    top_mel = nyquist / linear if nyquist < knee else knee_mel + np.log(nyquist / knee) / growth
    mels = np.linspace(0.0, top_mel, bands + 2)
    edges = np.where(mels < knee_mel, mels * linear, knee * np.exp(growth * (mels - knee_mel)))
    bins = np.fft.rfftfreq(n_fft, 1 / sample_rate)  # Hz, like the edges
    low, centre, high = edges[:-2, None], edges[1:-1, None], edges[2:, None]
    triangles = np.minimum((bins - low) / (centre - low), (high - bins) / (high - centre))
    return (np.maximum(triangles, 0.0) * 2.0 / (high - low)).astype(np.float32)
