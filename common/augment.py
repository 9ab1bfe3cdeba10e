"""Training data varied on the fly: speed, gain and noise on samples, SpecAugment on features.

What is random comes from the generator passed in. Made from (seed, epoch, utterance), it is fresh
in every epoch and the same again after a resume.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import soxr

from common.audio import audio_info, load_audio
from common.errors import UserError

_AUDIO = {".wav", ".flac", ".ogg", ".opus", ".mp3", ".sph", ".aif", ".aiff", ".au", ".w64", ".caf"}


@dataclass(frozen=True)
class Augmentation:
    """What to vary and how far; the fields are the keys of AugmentationConfig."""

    speed_volume_perturb: bool = False
    speed_min: float = 0.85  # 1 is the recording's own speed
    speed_max: float = 1.15
    gain_min: float = -6.0  # dB
    gain_max: float = 8.0  # dB
    spec_augment: bool = False
    freq_masks: int = 2
    freq_width: int = 12  # feature rows of the widest mask
    time_masks: int = 2
    time_width: float = 0.125  # of the utterance's frames, the widest mask
    from_epoch: int = 0  # counted from 0; earlier epochs see the data as they are
    noise_dir: str = ""  # recordings to mix in, here and in subdirectories; "" for none
    noise_prob: float = 0.4  # share of the utterances that get noise
    noise_min: float = 0.0  # noise level: its RMS amplitude over that of the speech
    noise_max: float = 0.5

    def __post_init__(self) -> None:
        for name, least in (("speed", 0.1), ("gain", -100.0), ("noise", 0.0)):
            low, high = getattr(self, f"{name}_min"), getattr(self, f"{name}_max")
            if not least <= low <= high:
                raise UserError(
                    f"{name}_min {low} and {name}_max {high}: expected {least:g} <= min <= max"
                )
        for name in ("noise_prob", "time_width"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise UserError(f"{name} {getattr(self, name)}: expected a share from 0 to 1")
        for name in ("freq_masks", "freq_width", "time_masks", "from_epoch"):
            if getattr(self, name) < 0:
                raise UserError(f"{name} {getattr(self, name)}: expected 0 or more")

    @classmethod
    def from_config(cls, group: Any) -> Augmentation:
        """From any object that has the fields as attributes."""
        return cls(**{f.name: getattr(group, f.name) for f in fields(cls)})

    @property
    def varies_waveform(self) -> bool:
        """Whether `waveform` does anything, so that features cannot be computed beforehand."""
        return self.speed_volume_perturb or bool(self.noise_dir)

    @property
    def noise_files(self) -> tuple[Path, ...]:
        """Recordings under `noise_dir`; UserError if it has none, so ask before training."""
        return _audio_files(str(self.noise_dir)) if self.noise_dir else ()

    def active(self, epoch: int) -> bool:
        """Whether anything is varied in this epoch, counted from 0."""
        return epoch >= self.from_epoch and (self.varies_waveform or self.spec_augment)

    def waveform(
        self, samples: np.ndarray, sample_rate: int, rng: np.random.Generator
    ) -> np.ndarray:
        """Samples (N,) float32 faster or slower, pitch with it, louder or softer, with noise.

        Gives (N / speed,). Not clipped: louder is not distorted, and may pass +-1.
        """
        if self.speed_volume_perturb:
            speed = rng.uniform(self.speed_min, self.speed_max)
            gain = 10.0 ** (rng.uniform(self.gain_min, self.gain_max) / 20)
            samples = soxr.resample(samples, sample_rate * speed, sample_rate, "HQ")
            samples = samples * np.float32(gain)
        if self.noise_dir and rng.random() < self.noise_prob:
            files = self.noise_files
            noise = _noise(files[rng.integers(len(files))], len(samples), sample_rate, rng)
            samples = mix(samples, noise, rng.uniform(self.noise_min, self.noise_max))
        return samples

    def features(self, features: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """SpecAugment's masks (Park et al. 2019): a copy of (F, T) with rows and frames at 0.

        0 is the mean of normalised features.
        """
        if not self.spec_augment:
            return features
        features = features.copy()
        rows, frames = features.shape
        for _ in range(self.freq_masks):
            features[_span(rows, self.freq_width, rng)] = 0.0
        for _ in range(self.time_masks):
            features[:, _span(frames, int(self.time_width * frames), rng)] = 0.0
        return features


def mix(speech: np.ndarray, noise: np.ndarray, level: float) -> np.ndarray:
    """speech + level * rms(speech) / rms(noise) * noise, both (N,); silent noise adds nothing.

    As in deepspeech.pytorch; the signal-to-noise ratio is -20 log10(level) dB.
    """
    noise_rms = _rms(noise)
    if noise_rms == 0.0:
        return speech
    return speech + np.float32(level * _rms(speech) / noise_rms) * noise


def _rms(samples: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(samples, dtype=np.float64))))


def _noise(path: Path, count: int, sample_rate: int, rng: np.random.Generator) -> np.ndarray:
    """`count` samples from anywhere in a recording, which repeats if it is shorter."""
    seconds = count / sample_rate
    start = rng.uniform(0.0, max(audio_info(path).duration - seconds, 0.0))
    return np.resize(load_audio(path, sample_rate, start=start, seconds=seconds), count)


def _span(size: int, widest: int, rng: np.random.Generator) -> slice:
    """0 to `widest` places out of `size`, anywhere."""
    width = rng.integers(min(widest, size) + 1)
    start = rng.integers(size - width + 1)
    return slice(start, start + width)


@lru_cache
def _audio_files(directory: str) -> tuple[Path, ...]:
    if not Path(directory).is_dir():
        raise UserError(f"noise_dir {directory}: no such directory; expected one with recordings")
    files = sorted(path for path in Path(directory).rglob("*") if path.suffix.lower() in _AUDIO)
    if not files:
        raise UserError(f"noise_dir {directory}: no audio files in it; expected recordings")
    return tuple(files)
