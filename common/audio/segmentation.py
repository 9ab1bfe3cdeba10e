"""Cut recordings of any length into segments of speech, at silences where there are any.

The cuts depend on the samples alone, not on the blocks that these come in. After each segment the
detector begins anew, so that a recording read from there on has the same segments.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from common.audio.voice_activity import FRAME_SECONDS, SileroDetector, SpeechDetector

_HYSTERESIS = 0.15  # by which speech that goes on may be less probable than speech that begins
_LEAST_SPEECH = 3  # frames of 32 ms; less is a click
_SMOOTHED = 7  # frames over which a place to cut speech is chosen: 0.2 s
_EDGE = 0.3  # share of a silence, at either end, in which speech may still be heard


@dataclass(frozen=True)
class SegmentationRules:
    """How recordings are cut.

    Attributes:
        threshold: Probability from which on a frame is speech.
        longest: Seconds of the longest segment.
        overlap: Seconds that two segments share where speech without a silence is cut.
        padding: Seconds kept before and behind speech.
        silences: Pairs, ascending: a share of the longest segment, and the seconds of silence that
            end a segment which has reached it. A short one goes on over a pause between words.
    """

    threshold: float = 0.5
    longest: float = 25.0
    overlap: float = 2.0
    padding: float = 0.45
    silences: tuple[tuple[float, float], ...] = ((0.0, 0.5), (0.06, 0.3), (0.3, 0.2), (0.5, 0.1))

    def silence(self, seconds: float) -> float:
        """Return the seconds of silence that end a segment of so many seconds."""
        share = seconds / self.longest
        return next(silence for start, silence in reversed(self.silences) if share >= start)


@dataclass(frozen=True)
class Place:
    """Where a recording is cut, so that segments can be made from there on.

    Attributes:
        sample: The first one.
        shared: Samples from there on that the segment before has, too.
    """

    sample: int = 0
    shared: int = 0


@dataclass(frozen=True)
class Segment:
    """A part of a channel in which somebody speaks.

    Attributes:
        samples: (N,) float32.
        start: Number of its first sample in the recording.
        shared: Its first samples that the segment before has, too; 0: there is silence before it,
            or a cut without overlap.
        following: Where the next segment is looked for.
        channel: From 0.
    """

    samples: np.ndarray
    start: int
    shared: int
    following: Place
    channel: int = 0

    @property
    def end(self) -> int:
        """Number of the sample behind its last one."""
        return self.start + len(self.samples)


def speech_segments(
    blocks: Iterable[np.ndarray],
    sample_rate: int,
    rules: SegmentationRules | None = None,
    grid: int = 1,
    places: Sequence[Place] = (),
    detector: Callable[[int], SpeechDetector] = SileroDetector,
) -> Iterator[Segment]:
    """Cut a recording into segments of speech, in memory that does not depend on its length.

    Args:
        blocks: (N, channels) float32 from the start of the recording on.
        sample_rate: Hz.
        rules: How to cut; None: as `SegmentationRules` has it.
        grid: Segments that overlap begin a multiple of so many samples apart: an output frame of
            the network.
        places: For each channel where to begin; none: at the start.
        detector: Makes the detector of a channel for a sample rate.

    Yields:
        Segments, those of a channel in their order.
    """
    cutters: list[_Cutter] = []
    position = 0
    for block in blocks:
        if not cutters:
            starts = places or [Place()] * block.shape[1]
            cutters = [
                _Cutter(number, sample_rate, rules or SegmentationRules(), grid, place, detector)
                for number, place in enumerate(starts)
            ]
        for cutter, samples in zip(cutters, block.T):
            yield from cutter.take(samples[max(0, cutter.begin - position) :])
        position += len(block)
    for cutter in cutters:
        yield from cutter.finish()


class _Cutter:
    """Cuts one channel."""

    def __init__(
        self,
        channel: int,
        sample_rate: int,
        rules: SegmentationRules,
        grid: int,
        place: Place,
        detector: Callable[[int], SpeechDetector],
    ):
        self.begin = place.sample
        self._channel, self._rules, self._grid = channel, rules, grid
        self._frame = FRAME_SECONDS * sample_rate  # samples, maybe with a fraction
        self._rate = sample_rate
        self._longest = round(self._rules.longest / FRAME_SECONDS)  # frames
        self._detector = detector(sample_rate)
        self._base, self._shared = place.sample, place.shared
        self._samples = np.zeros(0, np.float32)  # from `base` on
        self._speech = np.zeros(0, np.float32)  # probability of each frame, likewise

    def take(self, samples: np.ndarray) -> Iterator[Segment]:
        """Take the next samples (N,)."""
        self._speech = np.concatenate((self._speech, self._detector(samples)))
        self._samples = np.concatenate((self._samples, samples))
        while segment := self._next(is_end=False):
            yield segment

    def finish(self) -> Iterator[Segment]:
        """Cut what is left, which is all that there is."""
        while segment := self._next(is_end=True):
            yield segment

    def _next(self, is_end: bool) -> Segment | None:
        """Return the next segment, if its end is known; drop silence before it."""
        while True:
            first = 0 if self._shared else self._first_speech()
            if first is None:
                return None
            silence = self._silence_behind(first, is_end)
            if silence is None and len(self._speech) - first >= self._longest:
                return self._cut_speech(first)
            if silence is None and is_end:
                silence = self._last_silence()
            if silence is None:
                return None
            if segment := self._cut_silence(first, *silence):
                return segment

    def _first_speech(self) -> int | None:
        """Return the first frame of speech; None: there is none, and silence is dropped."""
        speech = np.flatnonzero(self._speech >= self._rules.threshold)
        if len(speech):
            return int(speech[0])
        silent = len(self._speech) - round(self._rules.padding / FRAME_SECONDS) - 1
        if silent > 0:
            self._drop(round(silent * self._frame), silent)
        return None

    def _is_silent(self) -> np.ndarray:
        return self._speech < self._rules.threshold - _HYSTERESIS

    def _silence_behind(self, first: int, is_end: bool) -> tuple[int, int] | None:
        """Return start and end of the silence that ends a segment; None: there is none yet.

        It is waited for until there is enough for the padding, or the silence is over.
        """
        earliest = max(first, -(-self._shared // round(self._frame)))
        # Not further, as it must not matter how much has been read.
        limit = first + self._longest
        silent = self._is_silent()[earliest:limit]
        edges = np.flatnonzero(np.diff(silent.astype(np.int8), prepend=0, append=0)) + earliest
        for start, stop in zip(edges[::2].tolist(), edges[1::2].tolist()):
            needed = self._rules.silence(self._seconds(start - first))
            if self._seconds(stop - start) >= needed:
                enough = start + math.ceil(max(needed, 2 * self._rules.padding) / FRAME_SECONDS)
                is_over = stop < len(self._speech) or stop == limit or is_end
                return (start, min(stop, enough)) if is_over or stop >= enough else None
        return None

    def _last_silence(self) -> tuple[int, int]:
        """Return start and end of the silence at the end of the recording, which may be empty."""
        speech = np.flatnonzero(~self._is_silent())
        end = len(self._speech)
        return (int(speech[-1]) + 1 if len(speech) else end), end

    def _cut_silence(self, first: int, silence: int, speech: int) -> Segment | None:
        """Cut a segment off in a silence between two frames; None: it is a click."""
        # Both segments may have most of the silence, but not the edges of each other's speech.
        length = (speech - silence) * self._frame
        stop = following = len(self._samples)
        if length:
            padding = min(self._padding, (1 - _EDGE) * length)
            stop = max(round(silence * self._frame + padding), self._shared)
            following = max(round(silence * self._frame + _EDGE * length), self._shared)
        start = 0 if self._shared else max(0, round(first * self._frame - self._padding))
        loud = np.count_nonzero(self._speech[first:silence] >= self._rules.threshold)
        shared, samples = self._shared, self._samples[start:stop]
        place = self._base + start
        self._begin_at(following, 0)
        if loud < _LEAST_SPEECH and not shared:
            return None
        return Segment(samples, place, shared, Place(self._base), self._channel)

    def _cut_speech(self, first: int) -> Segment:
        """Cut a segment off where speech is least probable and softest."""
        start = 0 if self._shared else max(0, round(first * self._frame - self._padding))
        half = self._rules.overlap / 2 * self._rate
        latest = first + self._longest - round(self._rules.overlap / 2 / FRAME_SECONDS)
        earliest = first + 2 * self._longest // 3
        least = round((self._shared + half) / self._frame) + 1
        earliest, latest = max(earliest, min(least, latest - 1)), max(latest, earliest + 1)
        cut = (earliest + int(np.argmin(self._loudness(earliest, latest)))) * self._frame
        stop = min(round(cut + half), len(self._samples))
        following = start + int((cut - half - start) // self._grid) * self._grid
        shared, samples = self._shared, self._samples[start:stop]
        place = self._base + start
        self._begin_at(following, stop - following if half else 0)
        following_place = Place(self._base, self._shared)
        return Segment(samples, place, shared, following_place, self._channel)

    def _loudness(self, first: int, end: int) -> np.ndarray:
        """Return what is least at a good place to cut, for frames from `first` on."""
        edges = np.round(np.arange(first, end + 1) * self._frame).astype(int)
        squares = np.square(self._samples[edges[0] : edges[-1]], dtype=np.float64)
        level = np.log(np.add.reduceat(squares, edges[:-1] - edges[0]) + 1e-8)
        level = (level - level.min()) / max(np.ptp(level), 1e-8)
        wide = np.pad(self._speech[first:end] + level, _SMOOTHED // 2, mode="edge")
        return np.convolve(wide, np.ones(_SMOOTHED), "valid")

    def _begin_at(self, sample: int, shared: int) -> None:
        """Leave out all samples before `sample`, and let the detector begin anew."""
        self._drop(sample, len(self._speech))
        self._shared = shared
        self._detector.reset()
        self._speech = self._detector(self._samples)

    def _drop(self, samples: int, frames: int) -> None:
        self._samples = self._samples[samples:].copy()  # else all stay in memory
        self._speech = self._speech[frames:]
        self._base += samples

    @property
    def _padding(self) -> float:
        return self._rules.padding * self._rate

    @staticmethod
    def _seconds(frames: int) -> float:
        return float(frames) * FRAME_SECONDS
