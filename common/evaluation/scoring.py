"""Figures of what was recognised: the one place where hypotheses meet references."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import astuple, dataclass, field

import numpy as np

from common.decoding.decoders import emission_frames
from common.decoding.prefix_beam_search import Hypothesis
from common.evaluation.error_rates import EditCounts, alignment, character_errors, word_errors
from common.text.tokenizer import Vocabulary


@dataclass(frozen=True)
class Prediction:
    """One utterance after the network and the decoder."""

    index: int
    id: str
    hypotheses: list[Hypothesis]  # best first
    log_probs: np.ndarray | None  # (T', C) of a CTC network, without padding

    @property
    def text(self) -> str:
        return self.hypotheses[0].text


@dataclass(frozen=True)
class ScoredUtterance:
    id: str
    reference: str
    hypothesis: str
    words: EditCounts
    characters: EditCounts
    hypotheses: list[Hypothesis]  # the best one and its alternatives
    duration: float  # s
    letters: list[str]  # of a CTC network: the best label of each frame, repeats and blanks dropped
    times: np.ndarray  # ... and when each letter begins, s
    pairs: list[tuple[str | None, str | None]]  # words of reference and hypothesis side by side

    def lines(self) -> list[str]:
        alternatives = [f"{each.score:9.3f} {each.text}" for each in self.hypotheses]
        return [
            f"Ref: {self.reference}",
            f"Hyp: {self.hypothesis}",
            *(alternatives if len(alternatives) > 1 else []),
            f"WER: {100 * self.words.rate:.2f}  CER: {100 * self.characters.rate:.2f}  {self.id}",
        ]


@dataclass
class Evaluation:
    """Corpus-level figures: errors of all utterances over the length of all references."""

    utterances: list[ScoredUtterance] = field(default_factory=list)
    words: EditCounts = EditCounts()
    characters: EditCounts = EditCounts()
    blanks: int = 0  # of the network's output frames, those whose best label is the blank
    frames: int = 0

    @property
    def blank_share(self) -> float:
        """Share of frames whose best label is the blank."""
        return self.blanks / max(self.frames, 1)

    @property
    def wer(self) -> float:
        """Word error rate in percent."""
        return 100 * self.words.rate

    @property
    def cer(self) -> float:
        """Character error rate in percent."""
        return 100 * self.characters.rate

    def counts(self) -> list[int]:
        """All that the figures are made of, to be summed over the parts of a corpus."""
        return [*astuple(self.words), *astuple(self.characters), self.blanks, self.frames]

    def of_all(self, counts: Sequence[float]) -> Evaluation:
        """The same utterances, and the figures of those whose `counts` these are."""
        counts = [int(count) for count in counts]
        words, characters = EditCounts(*counts[:4]), EditCounts(*counts[4:8])
        return Evaluation(self.utterances, words, characters, *counts[8:])

    def summary(self) -> list[str]:
        return [
            _counts("words", self.words),
            _counts("characters", self.characters),
            f"Test Summary \tAverage WER {self.wer:.3f}\tAverage CER {self.cer:.3f}",
        ]


class Scorer:
    """Scores utterances one by one, in any order.

    frame_seconds: from one of the network's output frames to the next.
    """

    def __init__(self, vocabulary: Vocabulary, frame_seconds: float):
        self._vocabulary, self._frame_seconds = vocabulary, frame_seconds
        self._scored: dict[int, ScoredUtterance] = {}
        self._blanks, self._frames = 0, 0

    def add(self, found: Prediction, reference: str, duration: float) -> ScoredUtterance:
        """duration: of the recording, in seconds."""
        words, blank = self._vocabulary.words, self._vocabulary.blank
        letters, begins = [], np.zeros(0, int)
        if found.log_probs is not None and blank is not None:
            path = found.log_probs.argmax(axis=1)
            begins = emission_frames(path, blank)
            letters = [self._vocabulary.labels[label] for label in path[begins].tolist()]
            self._blanks += int((path == blank).sum())
            self._frames += len(path)
        scored = ScoredUtterance(
            found.id,
            reference,
            found.text,
            word_errors(reference, found.text, words),
            character_errors(reference, found.text),
            found.hypotheses,
            duration,
            letters,
            begins * self._frame_seconds,
            alignment(words(reference), words(found.text)),
        )
        self._scored[found.index] = scored
        return scored

    def evaluation(self) -> Evaluation:
        """Of all that were added, in the order of their indices."""
        utterances = [self._scored[index] for index in sorted(self._scored)]
        return Evaluation(
            utterances,
            sum((each.words for each in utterances), EditCounts()),
            sum((each.characters for each in utterances), EditCounts()),
            self._blanks,
            self._frames,
        )


def _counts(what: str, counts: EditCounts) -> str:
    return (
        f"{what}: {counts.length}, errors {counts.errors} = {counts.substitutions} substitutions "
        f"+ {counts.deletions} deletions + {counts.insertions} insertions"
    )
