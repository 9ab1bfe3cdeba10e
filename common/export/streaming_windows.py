"""A network for whole recordings on one that comes piece by piece: window after window.

Each window is recognised as a recording by itself, and of its output a chunk is kept, without the
context on either side. That is what is left for networks that read from the end, and
for those that look ahead so far that an exact stream would be too late. The log-probabilities are
not those of the whole recording; the wider the context, the nearer they come.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import numpy as np

from common.audio.normalisation import Normalisation
from common.text.tokenizer import Tokenizer
from common.utils.errors import UserError

LEFT = 4


class WindowStream:
    """Log-probabilities of one recording, from overlapping windows of it.

    Args:
        model: An `AcousticModel` with `forward()`, which honours lengths.
        forward: What its `forward()` returned.
        step: Samples of an output frame.
        chunk: Output frames that are taken from a window.
        before: Output frames of context before them, at most.
        behind: Output frames of context behind them.
    """

    def __init__(self, model: Any, forward: Any, step: int, chunk: int, before: int, behind: int):
        self._model, self._forward, self._step = model, forward, step
        self._chunk, self._most_before, self._behind = chunk, before, behind
        self._samples = np.zeros(0, np.float32)  # from the first frame of the next window on
        self._before = 0  # output frames of context at its beginning
        self._classes = len(model.tokenizer)

    def accept(self, samples: np.ndarray) -> np.ndarray:
        """Take the next samples (N,) float32; return the log-probabilities (T', C) now ready."""
        self._samples = np.concatenate((self._samples, samples))
        ready = [np.zeros((0, self._classes), np.float32)]
        while len(self._samples) >= (count := self._frames_of_window() * self._step):
            log_probs = self._run(self._samples[:count])
            ready.append(log_probs[self._before : self._before + self._chunk])
            passed = max(0, self._before + self._chunk - self._most_before)
            self._samples = self._samples[passed * self._step :]
            self._before += self._chunk - passed
        return np.concatenate(ready)

    def finish(self) -> np.ndarray:
        """Return the log-probabilities (T', C) that are left at the end of the recording."""
        if not len(self._samples):
            return np.zeros((0, self._classes), np.float32)
        return self._run(self._samples)[self._before :]

    def ahead(self) -> np.ndarray:
        """Forecast the log-probabilities (T', C) that would come if the recording ended here."""
        return copy.copy(self).finish()

    def _frames_of_window(self) -> int:
        return self._before + self._chunk + self._behind

    def _run(self, samples: np.ndarray) -> np.ndarray:
        """Recognise samples as a recording by themselves: (T', C)."""
        values = self._model.front_end(samples)[None]
        lengths = np.array([values.shape[2]], np.int32)
        log_probs, frames = self._forward(values, lengths)[:2]
        return np.asarray(log_probs[: int(frames[0]), 0])


@dataclass(frozen=True)
class WindowedModel:
    """A network for whole recordings, for the windows of a stream.

    Attributes:
        model: An `AcousticModel` of a CTC network.
        context_seconds: Of audio behind a chunk; before it there are LEFT times as many, which
            make no text late.
    """

    model: Any
    context_seconds: float

    def __post_init__(self) -> None:
        if not 0 <= self.context_seconds < 1e4:
            raise UserError(f"--context {self.context_seconds}: expected seconds, 0 or more")
        if self.model.featurizer.config.trim_silence and getattr(
            self.model, "takes_samples", False
        ):
            raise UserError(
                "--context: this file cuts off silence by itself, so that its output frames cannot "
                "be laid to the windows; export it with --input features"
            )

    @property
    def tokenizer(self) -> Tokenizer:
        """What its labels stand for."""
        tokenizer: Tokenizer = self.model.tokenizer
        return tokenizer

    @property
    def sample_rate(self) -> int:
        """Hz of the samples that it takes."""
        return int(self.model.featurizer.config.sample_rate)

    @property
    def frame_seconds(self) -> float:
        """Seconds from one output frame to the next."""
        return float(self.model.frame_seconds)

    def latency(self, chunk_seconds: float) -> dict[str, float]:
        """Return how late a text is, apart from computing time; see `StreamingModel.latency`."""
        chunk, context = (
            self._frames(seconds) * self.frame_seconds
            for seconds in (chunk_seconds, self.context_seconds)
        )
        return {"context": context, "chunk": chunk}

    def stream(self, normalisation: Normalisation | None, chunk_seconds: float) -> WindowStream:
        """Begin a recording.

        Args:
            normalisation: None: each window is normalised by itself.
            chunk_seconds: Of audio that is taken from a window.

        Raises:
            UserError: A normalisation is given.
        """
        if normalisation is not None:
            raise UserError("--statistics_of with --context: windows are normalised by themselves")
        chunk, context = max(1, self._frames(chunk_seconds)), self._frames(self.context_seconds)
        step = round(self.frame_seconds * self.sample_rate)
        forward = self.model.forward()
        return WindowStream(self.model, forward, step, chunk, LEFT * context, context)

    def _frames(self, seconds: float) -> int:
        return -int(-seconds // self.frame_seconds)
