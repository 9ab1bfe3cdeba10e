"""CTC forced alignment: when the labels of a known text are emitted.

Viterbi over the labels with a blank before, between and behind them (Graves et al. 2006,
"Connectionist Temporal Classification", section 4.1, with maxima in place of sums). The scores of
all states are kept at the begin of each block of frames only; a block is computed a second time
when the path is traced back through it. With a beam, states that fall behind the best one are
dropped, so that time and memory are in proportion to the length of the recording.

A text that differs from the recording: words may be left out, at a price for each label, and
between words any label may be emitted, at a price for each frame. Then a word that nobody said does
not displace its neighbours, nor does speech that the text lacks.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

SKIP_COST = 4.0  # nats for each label of a word that is left out
FILLER_COST = 2.0  # nats below the best label, for each frame between words that is not blank
_BLOCK = 512  # frames, at most, after which states are dropped


@dataclass(frozen=True)
class Mismatch:
    """How a text may differ from what was said.

    Attributes:
        words: (W,) index of the first label of each word, ascending.
        skip_cost: Price in nats of each label that is left out; whole words are.
        filler_cost: Price in nats of a frame between words in which any label may stand.
    """

    words: Sequence[int]
    skip_cost: float = SKIP_COST
    filler_cost: float = FILLER_COST


def align_labels(
    log_probs: np.ndarray,
    ids: Sequence[int],
    blank: int,
    mismatch: Mismatch | None = None,
    beam: float = math.inf,
) -> list[tuple[int, int]]:
    """Find the most probable CTC path that reads as some labels.

    Args:
        log_probs: (T, C) natural logarithms of the probabilities of one utterance.
        ids: (L,) labels of the text, none of which is the blank.
        blank: Index of the blank.
        mismatch: Where words begin, and what it costs to leave one out; None: all are said, and
            nothing else.
        beam: Nats below the best state at which a state is dropped; infinite: none is, and the
            path is the best one of all.

    Returns:
        For each label the first frame that emits it and the frame after its last one; of a label
        that is left out, twice the frame at which its word would follow. Empty where no path of T
        frames reads as the labels, or the beam holds none.
    """
    if not len(ids) or not len(log_probs):
        return []
    trellis = _Trellis(log_probs, np.asarray(ids), blank, mismatch, beam)
    kept = trellis.forward()
    return trellis.trace(kept) if kept else []


@dataclass(frozen=True)
class _Scores:
    """Scores of the best paths that end in a range of states, the best of all being 0.

    Attributes:
        first: Index of the first label.
        labels: (N,) of each label.
        blanks: (N + 1,) of the blank before each of them, and the one behind the last.
    """

    first: int
    labels: np.ndarray
    blanks: np.ndarray

    @property
    def end(self) -> int:
        """Index of the label after the last one."""
        return self.first + len(self.labels)

    def cut(self, first: int, end: int) -> _Scores:
        """Return a copy for another range; states that were not in this one cannot be reached."""
        labels = np.full(end - first, -np.inf, np.float32)
        blanks = np.full(end - first + 1, -np.inf, np.float32)
        low, high = max(first, self.first), min(end, self.end)
        labels[low - first : high - first] = self.labels[low - self.first : high - self.first]
        blanks[low - first : high - first + 1] = self.blanks[
            low - self.first : high - self.first + 1
        ]
        return _Scores(first, labels, blanks)


@dataclass(frozen=True)
class _Steps:
    """Where the best paths came from, in each frame of a block.

    Attributes:
        labels: (K, N) 2: from the label before; 1: from the blank before; 0: from itself.
        blanks: (K, N + 1) 1: from the label before; 0: from itself.
        sources: (K, G) for each blank before a word of the range, the index of the blank from which
            words were left out; its own index where none were.
    """

    labels: np.ndarray
    blanks: np.ndarray
    sources: np.ndarray


class _Trellis:
    """The states of a text over the frames of a recording."""

    def __init__(
        self,
        log_probs: np.ndarray,
        ids: np.ndarray,
        blank: int,
        mismatch: Mismatch | None,
        beam: float,
    ):
        self._log_probs = np.asarray(log_probs, np.float32)
        self._ids, self._blank, self._beam = ids, blank, beam
        # What keeps a path from going straight to a label from the one before: they are equal.
        self._equal = np.zeros(len(ids), np.float32)
        self._equal[1:][ids[1:] == ids[:-1]] = -np.inf
        self._gaps = np.zeros(0, int)  # indices of the blanks before words, and of the last blank
        self._skip_cost = self._filler_cost = 0.0
        if mismatch is not None:
            self._gaps = np.array([*mismatch.words, len(ids)])
            self._skip_cost, self._filler_cost = mismatch.skip_cost, mismatch.filler_cost
        self._block = min(2 * math.isqrt(len(log_probs)) + 1, _BLOCK)

    def forward(self) -> list[_Scores]:
        """Return the scores before each block, and after the last; empty where no path ends."""
        scores = _Scores(0, np.zeros(0, np.float32), np.zeros(1, np.float32))  # no frame yet
        kept = []
        for begin in range(0, len(self._log_probs), self._block):
            scores = self._widened(scores)
            kept.append(scores.cut(scores.first, scores.end))
            self._run(scores, range(begin, min(begin + self._block, len(self._log_probs))))
        kept.append(scores)
        ended = scores.end == len(self._ids) and (
            max(scores.blanks[-1], scores.labels[-1]) > -np.inf
        )
        return kept if ended else []

    def _widened(self, scores: _Scores) -> _Scores:
        """Return the scores of the range that is to be searched in a block."""
        count = len(self._ids)
        if math.isinf(self._beam):
            return scores.cut(0, count)
        active = np.flatnonzero(scores.blanks >= -self._beam)
        active = np.append(active, np.flatnonzero(scores.labels >= -self._beam))
        reach = self._block + 1
        if self._skip_cost:
            reach += int(self._beam / self._skip_cost)
        first, last = scores.first + int(active.min()), scores.first + int(active.max())
        return scores.cut(min(first, count - 1), min(last + reach, count))

    def _run(self, scores: _Scores, frames: range, steps: _Steps | None = None) -> None:
        """Go on by some frames, in place, and note where the paths came from."""
        first, end = scores.first, scores.end
        low, high = np.searchsorted(self._gaps, [first, end + 1])
        gaps = self._gaps[low:high] - first
        costs = self._skip_cost * gaps.astype(np.float64)
        ids, equal = self._ids[first:end], self._equal[first + 1 : end]
        labels, blanks = scores.labels, scores.blanks
        before = np.empty_like(labels)
        for row, frame in enumerate(frames):
            emitted = self._log_probs[frame]
            before[:] = labels
            if steps is not None:
                steps.labels[row] = blanks[:-1] > labels
                steps.blanks[row, 1:] = labels > blanks[1:]
            np.maximum(labels, blanks[:-1], out=labels)
            np.maximum(blanks[1:], before, out=blanks[1:])
            before[:-1] += equal
            if steps is not None:
                steps.labels[row, 1:][before[:-1] > labels[1:]] = 2
            np.maximum(labels[1:], before[:-1], out=labels[1:])
            labels += emitted.take(ids)
            blanks += emitted[self._blank]
            if len(gaps):
                sources = self._leave_out(blanks, gaps, costs, emitted, steps is not None)
                if steps is not None:
                    steps.sources[row] = first + gaps[sources]
            best = max(blanks.max(), labels.max())
            if best > -np.inf:
                blanks -= best
                labels -= best

    def _leave_out(
        self,
        blanks: np.ndarray,
        gaps: np.ndarray,
        costs: np.ndarray,
        emitted: np.ndarray,
        trace: bool,
    ) -> np.ndarray:
        """Let any label stand between words, and words be left out.

        Returns:
            With `trace`, for each gap the number of the one from which words were left out.
        """
        filler = max(0.0, float(emitted.max() - self._filler_cost - emitted[self._blank]))
        # The best over all gaps before, each less the price of the labels that lie between.
        raised = blanks[gaps] + filler + costs
        highest = np.maximum.accumulate(raised)
        blanks[gaps] = highest - costs
        if not trace:
            return gaps
        own = np.where(raised == highest, np.arange(len(gaps)), 0)
        return np.maximum.accumulate(own)

    def trace(self, kept: list[_Scores]) -> list[tuple[int, int]]:
        """Follow the best path back, given the scores of `forward`."""
        last, count = kept[-1], len(self._ids)
        # A state: a label, or else the blank before it.
        in_label = bool(last.labels[-1] > last.blanks[-1])
        place = count - 1 if in_label else count
        spans = np.zeros((count, 2), int)
        for number in range(len(kept) - 2, -1, -1):
            begin = number * self._block
            end = min(begin + self._block, len(self._log_probs))
            # The path only leads to states before this one.
            scores = kept[number].cut(kept[number].first, min(place + 1, count))
            steps = self._traced(scores, range(begin, end))
            for frame in range(end - 1, begin - 1, -1):
                row = frame - begin
                if not in_label:
                    source = self._source(steps, scores, row, place)
                    spans[source:place] = frame + 1
                    place = source
                    if steps.blanks[row, place - scores.first]:
                        place, in_label = place - 1, True
                    continue
                spans[place] = frame, max(spans[place, 1], frame + 1)
                step = steps.labels[row, place - scores.first]
                place, in_label = place - int(step == 2), bool(step != 1)
        return [(int(first), int(end)) for first, end in spans]

    def _traced(self, scores: _Scores, frames: range) -> _Steps:
        """Run a block again, and return where its paths came from."""
        low, high = np.searchsorted(self._gaps, [scores.first, scores.end + 1])
        rows, labels = len(frames), len(scores.labels)
        steps = _Steps(
            np.zeros((rows, labels), np.int8),
            np.zeros((rows, labels + 1), np.int8),
            np.zeros((rows, high - low), np.int32),
        )
        self._run(scores, frames, steps)
        return steps

    def _source(self, steps: _Steps, scores: _Scores, row: int, place: int) -> int:
        """Return the blank from which the words before a blank were left out."""
        low, number = np.searchsorted(self._gaps, [scores.first, place])
        if number == len(self._gaps) or self._gaps[number] != place:
            return place
        return int(steps.sources[row, number - low])
