"""From samples to what a network sees: log-spectrogram or log-mel energies, normalised."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields

import numpy as np
import scipy.fft
import scipy.signal
import scipy.sparse

from common.errors import UserError

KINDS = ("spectrogram", "logmel")
WINDOWS = ("hamming", "hann", "blackman", "bartlett")
CONVENTIONS = ("plain", "deepspeech.pytorch", "deepspeech.pytorch-2.0")

_POWER_FLOOR = np.float32(2.0**-24)  # above 16-bit rounding noise: silence stays within reach
_LEAST_DEVIATION = 1e-5  # less counts as constant: dividing would only show rounding errors
_BLOCK = 512  # frames transformed at a time, so that an hour of audio fits in memory


@dataclass(frozen=True)
class FeatureConfig:
    """Decides the numbers a network sees; travels with MindRecord files, checkpoints, exports."""

    kind: str = "spectrogram"  # spectrogram (log1p magnitude) or logmel (log mel filterbank energy)
    sample_rate: int = 16000  # Hz
    window_size: float = 0.02  # s
    window_stride: float = 0.01  # s, from one frame to the next
    window: str = "hamming"  # hamming, hann (or hanning), blackman, bartlett
    bands: int | None = 64  # mel bands; becomes None for the spectrogram, which has none
    convention: str = "plain"  # of the spectrogram's edges, window and deviation: see Featurizer

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
        if self.convention not in CONVENTIONS:
            raise UserError(
                f"convention {self.convention!r}: expected one of {', '.join(CONVENTIONS)}"
            )
        if self.kind != "spectrogram" and self.convention != "plain":
            raise UserError(
                f"convention {self.convention}: is one of spectrograms, not {self.kind}"
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
        """Samples."""
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
    def dimension(self) -> int:
        """Features in a frame: frequency bins (161 for 20 ms at 16 kHz) or mel bands."""
        return self.bands or self.n_fft // 2 + 1

    def to_dict(self) -> dict:
        """Without the plain convention: corpora converted before there was a choice stay valid."""
        values = asdict(self)
        if self.convention == "plain":
            del values["convention"]
        return values

    @classmethod
    def from_dict(cls, values: dict) -> FeatureConfig:
        values = {"convention": "plain", **values}
        names = {f.name for f in fields(cls)}
        if values.keys() != names:
            found, expected = (", ".join(sorted(keys)) for keys in (values, names))
            raise UserError(f"feature configuration has the keys {found}; expected {expected}")
        return cls(**values)


class Featurizer:
    """Samples (N,) float32 in, features (F, T) float32 out, of mean 0 and deviation 1.

    spectrogram: log(1 + |STFT|), normalised over the utterance, as in deepspeech.pytorch.
    logmel: log of the power in mel bands, each band normalised over the utterance.
    A frame is centred on every `hop_length`-th sample, with zeros beyond both ends. What does not
    vary (silence) comes out as 0.

    Networks that deepspeech.pytorch trained have seen other details: beyond the ends the utterance
    mirrored (librosa before 0.10), the deviation divided by N - 1, and in its release 2.0 a
    symmetric window. On speech, features move by up to 0.015, 0.0004 and 0.11.
    """

    def __init__(self, config: FeatureConfig) -> None:
        self.config = config
        self.dimension = config.dimension
        periodic = config.convention != "deepspeech.pytorch-2.0"
        window = scipy.signal.get_window(config.window, config.window_length, fftbins=periodic)
        self._plain = config.convention == "plain"
        self._window = window.astype(np.float32)
        self._filters = None
        if config.kind == "logmel":
            filters = mel_filters(config.sample_rate, config.n_fft, config.bands)
            if empty := np.sum(~filters.any(axis=1)):
                raise UserError(
                    f"bands {config.bands}: {empty} mel bands are narrower than a frequency bin at"
                    f" window_size {config.window_size}; choose fewer bands or a longer window"
                )
            # Two filters a bin; and no threads of a matrix library that would crowd the workers.
            self._filters = scipy.sparse.csr_array(filters)

    def frames(self, samples: int) -> int:
        """Frames that so many samples give."""
        return 1 + (samples - self.config.n_fft % 2) // self.config.hop_length

    def __call__(self, samples: np.ndarray) -> np.ndarray:
        size, hop, n_fft = self.config.window_length, self.config.hop_length, self.config.n_fft
        left = n_fft // 2 - (n_fft - size) // 2  # the window sits in the middle of a transform
        samples = np.asarray(samples, np.float32)
        padded = np.pad(samples, (left, size), "constant" if self._plain else "reflect")
        windows = np.lib.stride_tricks.sliding_window_view(padded, size)[::hop]
        features = np.empty((self.dimension, self.frames(len(samples))), np.float32)
        for start in range(0, features.shape[1], _BLOCK):
            block = features[:, start : start + _BLOCK]
            block[:] = self._energies(windows[start : start + block.shape[1]])
        axis = None if self._filters is None else 1
        features -= features.mean(axis=axis, keepdims=True, dtype=np.float64)
        deviation = features.std(axis=axis, keepdims=True, ddof=0 if self._plain else 1)
        features /= np.maximum(deviation, _LEAST_DEVIATION)
        return features

    def _energies(self, windows: np.ndarray) -> np.ndarray:
        """Log energies (F, T), not normalised, of what the windows (T, window_length) see."""
        spectrum = scipy.fft.rfft(windows * self._window, self.config.n_fft)
        power = (spectrum.real**2 + spectrum.imag**2).T
        if self._filters is None:
            return np.log1p(np.sqrt(power))
        return np.log(self._filters @ power + _POWER_FLOOR)


def mel_filters(sample_rate: int, n_fft: int, bands: int) -> np.ndarray:
    """Triangles (bands, n_fft // 2 + 1) of area 1 over frequency, from 0 Hz to half the rate.

    Slaney's mel scale (Auditory Toolbox, 1998): 200/3 Hz a mel up to 1 kHz, logarithmic above,
    27 mels for a factor of 6.4.
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
