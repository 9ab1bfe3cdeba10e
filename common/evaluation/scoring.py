"""Score predictions against references."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import astuple, dataclass, field, replace

import numpy as np

from common.audio.pauses import Loudness
from common.decoding.decoders import emission_frames
from common.decoding.prefix_beam_search import Hypothesis
from common.decoding.word_alignment import Word, align_words
from common.evaluation.error_rates import EditCounts, alignment, character_errors, word_errors
from common.text.tokenizer import Tokenizer


@dataclass(frozen=True)
class Prediction:
    """One utterance after network and decoder.

    Attributes:
        index: Of the utterance in its dataset.
        id: Of the utterance.
        hypotheses: Best first.
        log_probs: (T', C) of a CTC network, without padding; None for another network.
        start: Samples of silence that were cut off before the first frame.
        duration: Of the recording, in seconds.
        loudness: Of the recording; None: unknown.
    """

    index: int
    id: str
    hypotheses: list[Hypothesis]
    log_probs: np.ndarray | None
    start: int = 0
    duration: float = 0.0
    loudness: Loudness | None = None

    @property
    def text(self) -> str:
        """The best hypothesis."""
        return self.hypotheses[0].text

    def words(self, tokenizer: Tokenizer, frame_seconds: float, sample_rate: int) -> list[Word]:
        """Find the times of the words of the best hypothesis, with the network's own confidences.

        Args:
            tokenizer: Of the network.
            frame_seconds: From one output frame to the next.
            sample_rate: Hz, of `start`.

        Returns:
            The words; empty where the network's output tells no times.
        """
        if self.log_probs is None:
            return []
        return align_words(
            self.text,
            self.log_probs,
            tokenizer,
            frame_seconds,
            self.start / sample_rate,
            None if self.loudness is None else self.loudness.pauses,
            self.duration,
        )


@dataclass(frozen=True)
class ScoredUtterance:
    """One utterance after scoring.

    Attributes:
        id: Of the utterance.
        reference: Normalised transcript.
        hypothesis: The best hypothesis.
        words: Edits in words.
        characters: Edits in characters.
        hypotheses: The best one and its alternatives.
        duration: In seconds.
        letters: Labels of the best CTC path, repeats merged; empty without CTC.
        times: (len(letters),) seconds at which each letter begins.
        pairs: Aligned words of reference and hypothesis.
        timed: Words of the hypothesis with times and confidences of the network itself; empty where
            they were not asked for, or there are none.
        loudness: Of the recording; None: unknown.
    """

    id: str
    reference: str
    hypothesis: str
    words: EditCounts
    characters: EditCounts
    hypotheses: list[Hypothesis]
    duration: float
    letters: list[str]
    times: np.ndarray
    pairs: list[tuple[str | None, str | None]]
    timed: list[Word] = field(default_factory=list)
    loudness: Loudness | None = None

    def lines(self) -> list[str]:
        """Format the utterance as eval.py prints it."""
        alternatives = [f"{score:9.3f} {text}" for text, score in self.hypotheses]
        return [
            f"Ref: {self.reference}",
            f"Hyp: {self.hypothesis}",
            *(alternatives if len(alternatives) > 1 else []),
            f"WER: {100 * self.words.rate:.2f}  CER: {100 * self.characters.rate:.2f}  {self.id}",
        ]


@dataclass
class Evaluation:
    """Figures of a corpus: errors of all utterances over the length of all references.

    Attributes:
        utterances: In the order of the dataset.
        words: Edits in words, summed.
        characters: Edits in characters, summed.
        blanks: Output frames whose best label is the blank.
        frames: Output frames.
        words_note: What WER counts, where that is not words (`Tokenizer.words_note`).
        headline: The error rate that is told first, "WER" or "CER" (`Tokenizer.headline`).
    """

    utterances: list[ScoredUtterance] = field(default_factory=list)
    words: EditCounts = EditCounts()
    characters: EditCounts = EditCounts()
    blanks: int = 0
    frames: int = 0
    words_note: str = ""
    headline: str = "WER"

    @property
    def blank_share(self) -> float | None:
        """Share of frames whose best label is the blank; None without CTC."""
        return self.blanks / self.frames if self.frames else None

    @property
    def wer(self) -> float:
        """Word error rate in percent."""
        return 100 * self.words.rate

    @property
    def cer(self) -> float:
        """Character error rate in percent."""
        return 100 * self.characters.rate

    @property
    def rates(self) -> dict[str, float]:
        """Error rates in percent by their names, the headline first."""
        rates = {"WER": self.wer, "CER": self.cer}
        return dict(sorted(rates.items(), key=lambda rate: rate[0] != self.headline))

    def counts(self) -> list[int]:
        """Return all counts behind the figures, which can be summed over parts of a corpus."""
        return [*astuple(self.words), *astuple(self.characters), self.blanks, self.frames]

    def of_all(self, counts: Sequence[float]) -> Evaluation:
        """Return an evaluation of the same utterances with the figures of all parts.

        Args:
            counts: The sums of `counts` over all parts.
        """
        values = [int(count) for count in counts]
        words, characters = EditCounts(*values[:4]), EditCounts(*values[4:8])
        blanks, frames = values[8:]
        return replace(self, words=words, characters=characters, blanks=blanks, frames=frames)

    def summary(self) -> list[str]:
        """Format the figures as eval.py prints them."""
        averages = (f"Average {name} {rate:.3f}" for name, rate in self.rates.items())
        return [
            *([self.words_note] if self.words_note else []),
            _counts("words", self.words),
            _counts("characters", self.characters),
            "\t".join(["Test Summary ", *averages]),
        ]


class Scorer:
    """Scores utterances one by one, in any order."""

    def __init__(self, tokenizer: Tokenizer, frame_seconds: float, sample_rate: int = 0):
        """Start with no utterance.

        Args:
            tokenizer: Tells words and the blank.
            frame_seconds: Seconds from one output frame of the network to the next.
            sample_rate: Hz of the network, to give words times; 0: they get none.
        """
        self._tokenizer, self._frame_seconds = tokenizer, frame_seconds
        self._sample_rate = sample_rate
        self._scored: dict[int, ScoredUtterance] = {}
        self._blanks, self._frames = 0, 0

    def add(self, prediction: Prediction, reference: str, duration: float) -> ScoredUtterance:
        """Score an utterance.

        Args:
            prediction: What was recognised.
            reference: What was said.
            duration: Seconds of the recording.

        Returns:
            The scored utterance.
        """
        words, blank = self._tokenizer.words, self._tokenizer.blank
        letters, begins = [], np.zeros(0, int)
        if prediction.log_probs is not None and blank is not None:
            path = prediction.log_probs.argmax(axis=1)
            begins = emission_frames(path, blank)
            letters = [self._tokenizer.labels[label] for label in path[begins].tolist()]
            self._blanks += int((path == blank).sum())
            self._frames += len(path)
        scored = ScoredUtterance(
            prediction.id,
            reference,
            prediction.text,
            word_errors(reference, prediction.text, words),
            character_errors(reference, prediction.text),
            prediction.hypotheses,
            duration,
            letters,
            begins * self._frame_seconds,
            alignment(words(reference), words(prediction.text)),
            self._timed(prediction),
            prediction.loudness,
        )
        self._scored[prediction.index] = scored
        return scored

    def _timed(self, prediction: Prediction) -> list[Word]:
        if not self._sample_rate:
            return []
        return prediction.words(self._tokenizer, self._frame_seconds, self._sample_rate)

    def evaluation(self) -> Evaluation:
        """Return the figures of all utterances that were added, in the order of their indices."""
        utterances = [self._scored[index] for index in sorted(self._scored)]
        return Evaluation(
            utterances,
            sum((utterance.words for utterance in utterances), EditCounts()),
            sum((utterance.characters for utterance in utterances), EditCounts()),
            self._blanks,
            self._frames,
            self._tokenizer.words_note,
            self._tokenizer.headline,
        )


def _counts(what: str, counts: EditCounts) -> str:
    return (
        f"{what}: {counts.length}, errors {counts.errors} = {counts.substitutions} substitutions "
        f"+ {counts.deletions} deletions + {counts.insertions} insertions"
    )
