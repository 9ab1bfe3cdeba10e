"""Training data varied on the fly: speed, gain and noise on samples, SpecAugment on features.

What is random comes from the generator passed in. Made from (seed, epoch, utterance), it is fresh
in every epoch and the same again after a resume.
"""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import soxr

from common.audio import audio_info, load_audio
from common.config import AugmentationConfig
from common.errors import UserError

_AUDIO = {".wav", ".flac", ".ogg", ".opus", ".mp3", ".sph", ".aif", ".aiff", ".au", ".w64", ".caf"}


class Augmentation:
    """What to vary and how far, by the keys of AugmentationConfig."""

    def __init__(self, config: AugmentationConfig | None = None, **keys: Any) -> None:
        """From a configuration group, the default one if none is given, and single keys of it."""
        self.config = config = replace(config or AugmentationConfig(), **keys)
        for name, least in (("speed", 0.1), ("gain", -100.0), ("noise", 0.0)):
            low, high = getattr(config, f"{name}_min"), getattr(config, f"{name}_max")
            if not least <= low <= high:
                raise UserError(
                    f"{name}_min {low} and {name}_max {high}: expected {least:g} <= min <= max"
                )
        for name in ("noise_prob", "time_width"):
            if not 0.0 <= getattr(config, name) <= 1.0:
                raise UserError(f"{name} {getattr(config, name)}: expected a share from 0 to 1")
        for name in ("freq_masks", "freq_width", "time_masks", "from_epoch"):
            if getattr(config, name) < 0:
                raise UserError(f"{name} {getattr(config, name)}: expected 0 or more")

    @property
    def varies_waveform(self) -> bool:
        """Whether `waveform` does anything, so that features cannot be computed beforehand."""
        return self.config.speed_volume_perturb or bool(self.config.noise_dir)

    @property
    def noise_files(self) -> tuple[Path, ...]:
        """Recordings under `noise_dir`; UserError if it has none, or one that cannot be read."""
        return _audio_files(str(self.config.noise_dir)) if self.config.noise_dir else ()

    def check(self, store: str) -> None:
        """Raises UserError where this cannot be done to a source that holds `store`, audio or
        features: to be asked before training."""
        if self.varies_waveform and store == "features":
            raise UserError(
                "speed_volume_perturb and noise_dir need waveforms, and the MindRecord files hold"
                " features: convert with DataConfig.store=audio, or switch both off"
            )
        _ = self.noise_files

    def active(self, epoch: int) -> bool:
        """Whether anything is varied in this epoch, counted from 0."""
        return epoch >= self.config.from_epoch and (
            self.varies_waveform or self.config.spec_augment
        )

    def waveform(
        self, samples: np.ndarray, sample_rate: int, rng: np.random.Generator
    ) -> np.ndarray:
        """Samples (N,) float32 faster or slower, pitch with it, louder or softer, with noise.

        Gives (N / speed,). Not clipped: louder is not distorted, and may pass +-1.
        """
        if self.config.speed_volume_perturb:
            speed = rng.uniform(self.config.speed_min, self.config.speed_max)
            gain = 10.0 ** (rng.uniform(self.config.gain_min, self.config.gain_max) / 20)
            samples = soxr.resample(samples, sample_rate * speed, sample_rate, "HQ")
            samples = samples * np.float32(gain)
        if self.config.noise_dir and rng.random() < self.config.noise_prob:
            files = self.noise_files
            noise = _noise(files[rng.integers(len(files))], len(samples), sample_rate, rng)
            samples = mix(samples, noise, rng.uniform(self.config.noise_min, self.config.noise_max))
        return samples

    def features(self, features: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """SpecAugment's masks (Park et al. 2019): a copy of (F, T) with rows and frames at 0.

        0 is the mean of normalised features.
        """
        if not self.config.spec_augment:
            return features
        features = features.copy()
        rows, frames = features.shape
        for _ in range(self.config.freq_masks):
            features[_span(rows, self.config.freq_width, rng)] = 0.0
        for _ in range(self.config.time_masks):
            features[:, _span(frames, int(self.config.time_width * frames), rng)] = 0.0
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
    for path in files:
        try:
            audio_info(path)
        except UserError as error:
            raise UserError(f"noise_dir {directory}: {error}") from error
    return tuple(files)
