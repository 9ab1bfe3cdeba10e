"""Text of a recording while it is made: a streaming network behind one small class."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import soxr

from common import config as configs
from common.api.recognizer import mono
from common.audio.normalisation import Normalisation
from common.decoding.incremental import IncrementalSearch, incremental_search
from common.decoding.word_alignment import Word, align_words
from common.export.streaming import CHUNK_SECONDS
from common.text.tokenizer import Tokenizer
from common.utils.errors import UserError

PAUSE_SECONDS = 0.8  # without a letter, after which a text is final


class LogProbStream(Protocol):
    """The log-probabilities of one recording that comes piece by piece."""

    def accept(self, samples: np.ndarray) -> np.ndarray:
        """Take the next samples (N,) float32; return the log-probabilities (T, C) now ready."""

    def finish(self) -> np.ndarray:
        """Return the log-probabilities (T, C) that are left at the end of the recording."""

    def ahead(self) -> np.ndarray:
        """Forecast the log-probabilities (T, C) that would come if the recording ended here."""


class OnlineModel(Protocol):
    """A network for streams: a `StreamingModel`, or a `WindowedModel`."""

    @property
    def tokenizer(self) -> Tokenizer:
        """What its labels stand for."""

    @property
    def sample_rate(self) -> int:
        """Hz of the samples that it takes."""

    @property
    def frame_seconds(self) -> float:
        """Seconds from one output frame to the next."""

    def stream(self, normalisation: Normalisation | None, chunk_seconds: float) -> LogProbStream:
        """Begin a recording."""


@dataclass(frozen=True)
class Segment:
    """What was said between two pauses.

    Attributes:
        text: The most probable text.
        start: Seconds from the beginning of the recording to the first word.
        end: Seconds to the end of the last word.
        words: With times and confidences; empty where they cannot be told.
    """

    text: str
    start: float
    end: float
    words: list[Word] = field(default_factory=list)


class StreamingRecognizer:
    """A streaming network that turns samples into text as they come.

    With a `StreamingModel` the log-probabilities are those of the whole recording with the same
    normalisation of its features, whatever pieces it comes in; see docs/streaming.md.

    Args:
        model: The network.
        decoding: An LMConfig, which says how to search for the text; None: greedily.
        pause: Seconds without a letter, after which a text is final.
        chunk_seconds: Of audio that the network takes at a time.
        normalisation: Of the features of the next recording; None: over its last seconds.

    Attributes:
        sample_rate: Hz of the samples that the network takes.
    """

    def __init__(
        self,
        model: OnlineModel,
        decoding: configs.LMConfig | None = None,
        *,
        pause: float = PAUSE_SECONDS,
        chunk_seconds: float = CHUNK_SECONDS,
        normalisation: Normalisation | None = None,
    ):
        for name, seconds in (("pause", pause), ("chunk_seconds", chunk_seconds)):
            if not 0 < seconds < 1e4:
                raise UserError(f"{name} {seconds}: expected seconds above 0")
        self._model, self._chunk_seconds = model, chunk_seconds
        self._begin = incremental_search(decoding or configs.LMConfig(), model.tokenizer)
        self._pause_frames = max(1, round(pause / model.frame_seconds))
        self.sample_rate = model.sample_rate
        self.reset(normalisation)

    def reset(self, normalisation: Normalisation | None = None) -> None:
        """Begin another recording; what is left of this one is lost.

        Args:
            normalisation: Of its features; None: over its last seconds.
        """
        self._stream = self._model.stream(normalisation, self._chunk_seconds)
        self._resampler: Any = None
        self._rate = 0
        self._frames = 0  # of output, before the segment
        self._finals: list[str] = []
        self._ended = False  # `text` is that of the recording before
        self._segment = _OpenSegment(self._begin())

    def accept(self, samples: np.ndarray, sample_rate: int = 0) -> list[Segment]:
        """Take the next samples of the recording.

        Args:
            samples: (N,) or (N, channels): floats up to 1, int16 or int32.
            sample_rate: Hz, the same for all pieces; 0: the network's.

        Returns:
            The segments that have become final, mostly none.

        Raises:
            UserError: The samples cannot be used, or the rate has changed.
        """
        if self._ended:
            self._finals, self._ended = [], False
        piece = self._resampled(
            mono(samples, "samples"), sample_rate or self.sample_rate, last=False
        )
        return self._segments(self._stream.accept(piece))

    def finish(self) -> list[Segment]:
        """End the recording; the next samples are of another one.

        Returns:
            The segments that were left.
        """
        rest = self._resampled(np.zeros(0, np.float32), self._rate or self.sample_rate, last=True)
        segments = self._segments(self._stream.accept(rest))
        segments += self._segments(self._stream.finish())
        if self._segment.said:
            segments.append(self._close())
        texts = self._finals
        self.reset()
        self._finals, self._ended = texts, True
        return segments

    def result(self, ahead: bool = False) -> str:
        """Return the text since the last pause; it may change.

        Args:
            ahead: Also of the last moments, which the network has not heard the end of yet.
        """
        if not ahead:
            return self._segment.text()
        search = self._segment.search.copy()
        search.accept(self._stream.ahead())
        return search.hypotheses()[0].text

    @property
    def text(self) -> str:
        """The text of the recording so far; after `finish` of the one that ended."""
        texts = [*self._finals, self._segment.text()]
        return self._model.tokenizer.separator.join(text for text in texts if text)

    def _resampled(self, samples: np.ndarray, rate: int, last: bool) -> np.ndarray:
        if self._rate not in (0, rate):
            raise UserError(f"samples at {rate} Hz after others at {self._rate} Hz: reset() first")
        self._rate = rate
        if rate == self.sample_rate:
            return samples
        if self._resampler is None:
            self._resampler = soxr.ResampleStream(
                rate, self.sample_rate, 1, dtype="float32", quality="HQ"
            )
        return np.asarray(self._resampler.resample_chunk(samples, last=last), np.float32)

    def _segments(self, log_probs: np.ndarray) -> list[Segment]:
        """Take log-probabilities (T, C); return the segments that they end."""
        segments = []
        tokenizer = self._model.tokenizer
        silent = log_probs.argmax(axis=-1) == tokenizer.ctc_blank
        if " " in tokenizer.labels:
            silent |= log_probs.argmax(axis=-1) == tokenizer.labels.index(" ")
        begin = 0
        for frame, quiet in enumerate(silent):
            if self._segment.hear(bool(quiet)) < self._pause_frames:
                continue
            self._segment.take(log_probs[begin : frame + 1])
            begin = frame + 1
            if self._segment.said:
                segments.append(self._close())
            else:  # nothing of a long silence is kept
                self._frames += self._segment.frames
                self._segment = _OpenSegment(self._begin())
        self._segment.take(log_probs[begin:])
        return segments

    def _close(self) -> Segment:
        """End the segment; return it."""
        segment, seconds = self._segment, self._model.frame_seconds
        text, log_probs = segment.text(), np.concatenate(segment.log_probs)
        start = self._frames * seconds
        words = align_words(text, log_probs, self._model.tokenizer, seconds, start)
        end = start + (segment.frames - segment.quiet) * seconds
        if words:
            start, end = words[0].start, words[-1].end
        self._frames += segment.frames
        self._segment = _OpenSegment(self._begin())
        self._finals.append(text)
        return Segment(text, round(start, 3), round(end, 3), words)


class _OpenSegment:
    """A segment that goes on.

    Attributes:
        search: For its text.
        log_probs: Its log-probabilities (T, C), piece by piece.
        frames: Its output frames.
        said: Whether a letter was said in it.
        quiet: Frames since the last letter.
    """

    def __init__(self, search: IncrementalSearch):
        self.search = search
        self.log_probs: list[np.ndarray] = []
        self.frames, self.said, self.quiet = 0, False, 0

    def hear(self, quiet: bool) -> int:
        """Take one frame without a letter, or with one; return how many are without."""
        self.quiet = self.quiet + 1 if quiet else 0
        self.said = self.said or not quiet
        return self.quiet

    def take(self, log_probs: np.ndarray) -> None:
        """Take log-probabilities (T, C) of frames that were heard."""
        if len(log_probs):
            self.search.accept(log_probs)
            self.log_probs.append(log_probs)
            self.frames += len(log_probs)

    def text(self) -> str:
        """Return its text so far."""
        return self.search.hypotheses()[0].text
