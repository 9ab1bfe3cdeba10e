"""Recordings of any length, read block by block: resampled, and mixed to one channel or not."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soxr

from common.audio.ffmpeg import decode_foreign, foreign_duration, foreign_kind
from common.audio.io import audio_info, decoded_blocks
from common.utils.errors import UserError


@dataclass(frozen=True)
class AudioBlocks:
    """A recording that is read once, from its start to its end.

    Attributes:
        name: What messages call it.
        sample_rate: Hz of the blocks.
        recorded_rate: Hz of the recording.
        recorded_channels: Channels of the recording.
        channels: Channels of the blocks: 1, or those of the recording.
        duration: In seconds, as far as it is known beforehand.
        blocks: (N, channels) float32, in order.
    """

    name: str
    sample_rate: int
    recorded_rate: int
    recorded_channels: int
    channels: int
    duration: float | None
    blocks: Iterator[np.ndarray]


@contextmanager
def open_blocks(
    source: str | Path | bytes | tuple[np.ndarray, int],
    sample_rate: int,
    name: str | None = None,
    separate: bool = False,
) -> Iterator[AudioBlocks]:
    """Open a recording to be read block by block, in memory that does not depend on its length.

    Args:
        source: Path of a recording, which ffmpeg may have to decode; or encoded bytes; or samples
            (N, channels) and their rate in Hz.
        sample_rate: Hz that is wanted.
        name: What messages call it; None: its path.
        separate: Keep the channels apart; else they are averaged.

    Yields:
        The recording. Its blocks raise UserError where it turns out to be damaged.

    Raises:
        UserError: As `load_audio`, or it takes ffmpeg, which is not installed.
    """
    if isinstance(source, tuple):
        samples, rate = source
        label, channels = name or "samples", samples.shape[1]
        blocks, seconds = iter((samples,)), len(samples) / rate
        yield _prepared(label, blocks, rate, channels, seconds, sample_rate, separate)
        return
    label = name or ("an utterance" if isinstance(source, bytes) else str(source))
    if not isinstance(source, bytes) and (kind := foreign_kind(source)):
        with decode_foreign(source, kind) as sound:
            yield _prepared(
                label,
                sound.blocks,
                sound.sample_rate,
                sound.channels,
                foreign_duration(source),
                sample_rate,
                separate,
            )
        return
    info = audio_info(source, name)
    yield _prepared(
        label,
        decoded_blocks(source, name),
        info.sample_rate,
        info.channels,
        info.duration,
        sample_rate,
        separate,
    )


def _prepared(
    name: str,
    blocks: Iterable[np.ndarray],
    recorded_rate: int,
    recorded_channels: int,
    duration: float | None,
    sample_rate: int,
    separate: bool,
) -> AudioBlocks:
    """Mix and resample the blocks of a recording."""
    channels = recorded_channels if separate else 1

    def mixed() -> Iterator[np.ndarray]:
        for block in blocks:
            if not separate and block.shape[1] > 1:
                yield block.mean(axis=1, keepdims=True, dtype=np.float32)
            elif block.shape[1] != channels:
                raise UserError(
                    f"audio file {name}: {block.shape[1]} channels in one part and {channels} in "
                    "another; convert it to FLAC or WAV"
                )
            else:
                yield block

    made = _resampled(mixed(), recorded_rate, sample_rate, channels)
    return AudioBlocks(
        name, sample_rate, recorded_rate, recorded_channels, channels, duration, made
    )


def _resampled(
    blocks: Iterable[np.ndarray], from_rate: int, to_rate: int, channels: int
) -> Iterator[np.ndarray]:
    """Resample blocks (N, channels) as if they were one, with the filter of `load_audio`."""
    if from_rate == to_rate:
        yield from blocks
        return
    stream = soxr.ResampleStream(from_rate, to_rate, channels, dtype="float32", quality="HQ")
    for block in blocks:
        yield stream.resample_chunk(block)
    yield stream.resample_chunk(np.zeros((0, channels), np.float32), last=True)
