"""Augmentation of training data: speed, gain, noise and dither on samples, masks on features.

All randomness comes from the generator that is passed in. Seeded by (seed, epoch, utterance), it
differs in every epoch and is the same after a resume.
"""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import soxr

from common.audio.io import audio_info, load_audio
from common.config import AugmentationConfig
from common.utils.errors import UserError

_AUDIO = {".wav", ".flac", ".ogg", ".opus", ".mp3", ".sph", ".aif", ".aiff", ".au", ".w64", ".caf"}


class Augmentation:
    """Varies recordings and features at random, as AugmentationConfig says."""

    def __init__(self, config: AugmentationConfig | None = None, **keys: Any) -> None:
        """Check the configuration.

        Args:
            config: The configuration group; None: its defaults.
            **keys: Single keys of the group, which override it.

        Raises:
            UserError: A value or a combination of values is not possible.
        """
        self.config = config = replace(config or AugmentationConfig(), **keys)
        for name, smallest in (("speed", 0.1), ("gain", -100.0), ("noise", 0.0)):
            low, high = getattr(config, f"{name}_min"), getattr(config, f"{name}_max")
            if not smallest <= low <= high:
                raise UserError(
                    f"{name}_min {low} and {name}_max {high}: expected {smallest:g} <= min <= max"
                )
        if config.speeds and config.speed_volume_perturb:
            raise UserError(
                "speeds and speed_volume_perturb both set the speed: leave speeds empty for any"
                " speed between speed_min and speed_max, or switch speed_volume_perturb off"
            )
        if config.speeds and not min(config.speeds) >= 0.1:
            raise UserError(f"speeds {config.speeds}: expected factors of at least 0.1")
        for name in ("noise_prob", "time_width"):
            if not 0.0 <= getattr(config, name) <= 1.0:
                raise UserError(f"{name} {getattr(config, name)}: expected a share from 0 to 1")
        ranges = [("freq_min", "freq_width")]
        if config.time_frames:
            ranges.append(("time_min", "time_frames"))
        if config.cutout_masks:
            ranges += [(f"cutout_{axis}_min", f"cutout_{axis}_max") for axis in ("freq", "time")]
        for least, most in ranges:
            low, high = getattr(config, least), getattr(config, most)
            if not 0 <= low <= high:
                raise UserError(f"{least} {low} and {most} {high}: expected 0 <= {least} <= {most}")
        names = "freq_masks freq_width time_masks time_min time_frames cutout_masks from_epoch"
        for name in (*names.split(), "dither"):
            if not getattr(config, name) >= 0:
                raise UserError(f"{name} {getattr(config, name)}: expected 0 or more")

    @property
    def varies_waveform(self) -> bool:
        """Whether `waveform` does anything, so that features cannot be computed beforehand."""
        config = self.config
        return bool(
            config.speed_volume_perturb or config.speeds or config.noise_dir or config.dither
        )

    @property
    def varies_features(self) -> bool:
        """Whether `features` does anything."""
        return self.config.spec_augment or self.config.cutout_masks > 0

    @property
    def slowest(self) -> float:
        """The factor of speed that makes an utterance the longest."""
        if self.config.speed_volume_perturb:
            return min(self.config.speed_min, 1.0)
        return min(*self.config.speeds, 1.0) if self.config.speeds else 1.0

    @property
    def noise_files(self) -> tuple[Path, ...]:
        """The recordings under `noise_dir`; UserError if it has none, or one cannot be read."""
        return _audio_files(str(self.config.noise_dir)) if self.config.noise_dir else ()

    def check(self, store: str) -> None:
        """Raise UserError where this cannot be done to a dataset that holds `store`.

        Args:
            store: "audio" or "features".
        """
        if self.varies_waveform and store == "features":
            keys = ("speed_volume_perturb", "speeds", "noise_dir", "dither")
            on = " and ".join(key for key in keys if getattr(self.config, key))
            raise UserError(
                f"{on} {'need' if ' and ' in on else 'needs'} waveforms, and the MindRecord files"
                " hold features: convert with DataConfig.store=audio, or switch it off"
            )
        _ = self.noise_files

    def active(self, epoch: int) -> bool:
        """Whether anything is varied in this epoch, counted from 0."""
        return epoch >= self.config.from_epoch and (self.varies_waveform or self.varies_features)

    def waveform(
        self, samples: np.ndarray, sample_rate: int, rng: np.random.Generator
    ) -> np.ndarray:
        """Vary speed and pitch, loudness, noise and dither of a recording.

        Speed changes as by SoX's effect `speed`, with SoX's resampler.

        Args:
            samples: (N,) float32.
            sample_rate: Hz.
            rng: Source of all randomness.

        Returns:
            Samples (N / speed,), not clipped: they may pass +-1.
        """
        if self.config.speed_volume_perturb:
            speed = rng.uniform(self.config.speed_min, self.config.speed_max)
            gain = 10.0 ** (rng.uniform(self.config.gain_min, self.config.gain_max) / 20)
            samples = soxr.resample(samples, sample_rate * speed, sample_rate, "HQ")
            samples = samples * np.float32(gain)
        if self.config.speeds:
            speed = self.config.speeds[rng.integers(len(self.config.speeds))]
            if speed != 1.0:
                samples = soxr.resample(samples, sample_rate * speed, sample_rate, "HQ")
        if self.config.noise_dir and rng.random() < self.config.noise_prob:
            files = self.noise_files
            noise = _noise(files[rng.integers(len(files))], len(samples), sample_rate, rng)
            samples = mix(samples, noise, rng.uniform(self.config.noise_min, self.config.noise_max))
        if self.config.dither:
            noise = rng.standard_normal(len(samples), np.float32)
            samples = samples + np.float32(self.config.dither) * noise
        return samples

    def features(self, features: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Mask rows, frames and rectangles of features with 0, the mean of normalised features.

        Rows and frames: SpecAugment, Park et al. 2019, arXiv 1904.08779. Rectangles: Cutout,
        DeVries & Taylor 2017, arXiv 1708.04552; ours lie inside, the paper's may cross the edge.

        Args:
            features: (F, T).
            rng: Source of all randomness.

        Returns:
            A masked copy, or `features` itself where nothing is masked.
        """
        if not self.varies_features:
            return features
        config, features = self.config, features.copy()
        rows, frames = features.shape
        if config.spec_augment:
            for _ in range(config.freq_masks):
                features[_span(rows, config.freq_min, config.freq_width, rng)] = 0.0
            widest = config.time_frames or int(config.time_width * frames)
            for _ in range(config.time_masks):
                features[:, _span(frames, config.time_min, widest, rng)] = 0.0
        for _ in range(config.cutout_masks):
            band = _span(rows, config.cutout_freq_min, config.cutout_freq_max, rng)
            span = _span(frames, config.cutout_time_min, config.cutout_time_max, rng)
            features[band, span] = 0.0
        return features


def mix(speech: np.ndarray, noise: np.ndarray, level: float) -> np.ndarray:
    """Add noise at a level relative to the speech, as in deepspeech.pytorch.

    Args:
        speech: (N,).
        noise: (N,); silent noise adds nothing.
        level: RMS of the noise over RMS of the speech; the signal-to-noise ratio is
            -20 log10(level) dB.

    Returns:
        speech + level * rms(speech) / rms(noise) * noise.
    """
    noise_rms = _rms(noise)
    if noise_rms == 0.0:
        return speech
    return speech + np.float32(level * _rms(speech) / noise_rms) * noise


def _rms(samples: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(samples, dtype=np.float64))))


def _noise(path: Path, count: int, sample_rate: int, rng: np.random.Generator) -> np.ndarray:
    """Read `count` samples from anywhere in a recording, which repeats if it is shorter."""
    seconds = count / sample_rate
    start = rng.uniform(0.0, max(audio_info(path).duration - seconds, 0.0))
    return np.resize(load_audio(path, sample_rate, start=start, seconds=seconds), count)


def _span(size: int, narrowest: int, widest: int, rng: np.random.Generator) -> slice:
    """Draw a slice of `narrowest` to `widest` places out of `size`, as far as there is room."""
    most = min(widest, size)
    width = rng.integers(min(narrowest, most), most + 1)
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
