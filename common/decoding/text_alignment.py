"""When the words of a known text were said, and where text and recording differ."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from common.decoding.decoders import collapse, emission_frames
from common.decoding.forced_alignment import Mismatch, align_labels
from common.decoding.word_alignment import Word, surest, times_of, word_ranges
from common.text.tokenizer import Tokenizer
from common.text.written_words import WrittenWord
from common.utils.errors import UserError

_BEAMS = (2000.0, 20_000.0, math.inf)  # nats; the next one is tried where text and speech differ
_MUCH = 0.1  # share of words not heard, for another try
_FEW_LETTERS = 4  # heard between words without being told


@dataclass(frozen=True)
class Difference:
    """A stretch in which the text is not what the network hears.

    Attributes:
        start: Seconds from the beginning of the recording.
        end: Seconds.
        text: Words of the text that were not found; empty: none.
        words: How many.
        heard: Letters that the network hears there by itself; empty: none.
    """

    start: float
    end: float
    text: str
    words: int
    heard: str


@dataclass(frozen=True)
class TextAlignment:
    """The words of a text with their times.

    Attributes:
        text: As it was written.
        words: With times; one that was not found has confidence 0, and its share of the time
            between its neighbours.
        duration: Of the recording, in seconds.
        differences: Where text and recording differ.
    """

    text: str
    words: list[Word]
    duration: float
    differences: list[Difference]

    @property
    def score(self) -> float:
        """Mean confidence of the words, from 0 to 1."""
        return sum(word.confidence for word in self.words) / len(self.words)

    @property
    def found(self) -> int:
        """How many words were heard."""
        return sum(word.confidence > 0 for word in self.words)


def align_text(
    words: Sequence[WrittenWord],
    log_probs: np.ndarray,
    tokenizer: Tokenizer,
    frame_seconds: float,
    duration: float,
    name: str,
    pauses: np.ndarray | None = None,
) -> TextAlignment:
    """Find the times of the words of a known text.

    Args:
        words: The text.
        log_probs: (T, C) natural logarithms of the recording.
        tokenizer: With a blank.
        frame_seconds: From one output frame to the next.
        duration: Of the recording, in seconds.
        name: What errors call the recording.
        pauses: (P, 2) begin and end of each pause of the recording, in seconds; None: unknown.

    Returns:
        The alignment.

    Raises:
        UserError: The tokenizer has no blank, or spells texts otherwise than their words.
    """
    spoken = [word for each in words for word in each.spoken.split()]
    if tokenizer.blank is None:
        raise UserError(f"{name}: this model is no CTC network, which alignment needs")
    ids = tokenizer.encode(tokenizer.normalise(tokenizer.separator.join(spoken)))
    ranges = word_ranges(spoken, ids, tokenizer)
    if ranges is None:
        raise UserError(f"{name}: this model's labels of a text are not those of its words")
    ranges = _joined(ranges, [len(each.spoken.split()) for each in words])
    mismatch = Mismatch([labels.start for labels in ranges])
    spans: list[tuple[int, int]] = []
    for beam in _BEAMS:
        spans = align_labels(log_probs, ids, tokenizer.blank, mismatch, beam)
        lost = sum(spans[labels.start][0] == spans[labels.start][1] for labels in ranges if spans)
        if spans and lost <= _MUCH * len(words):
            break
    if not spans:  # fewer frames than a path takes
        spans = [(len(log_probs), len(log_probs))] * len(ids)
    found = [spans[labels.start][0] < spans[labels.start][1] for labels in ranges]
    said = [labels for labels, there in zip(ranges, found) if there]
    hearing = _Hearing(log_probs, tokenizer, frame_seconds, duration)
    apart = _apart(found, ranges, spans, hearing)
    times = iter(times_of(said, spans, frame_seconds, 0.0, pauses, duration, apart))
    timed: list[Word | None] = [
        Word(word.written, *next(times), _confidence(labels, spans, ids, log_probs))
        if there
        else None
        for word, labels, there in zip(words, ranges, found)
    ]
    filled, differences = _filled(words, ranges, timed, hearing)
    text = tokenizer.separator.join(each.written for each in words)
    return TextAlignment(text, filled, duration, differences)


def _confidence(
    labels: range, spans: Sequence[tuple[int, int]], ids: Sequence[int], log_probs: np.ndarray
) -> float:
    place = slice(labels.start, labels.stop)
    return surest(log_probs, ids[place], spans[place])


def _joined(ranges: Sequence[range], counts: Sequence[int]) -> list[range]:
    """Join the labels of words that are written as one."""
    result, place = [], 0
    for count in counts:
        result.append(range(ranges[place].start, ranges[place + count - 1].stop))
        place += count
    return result


@dataclass(frozen=True)
class _Hearing:
    """What a network hears by itself: the labels of its greedy path."""

    log_probs: np.ndarray
    tokenizer: Tokenizer
    frame_seconds: float
    duration: float

    def between(self, start: float, end: float) -> tuple[float, float, str]:
        """Return what is heard in a stretch, from its first letter to its last.

        Args:
            start: Seconds.
            end: Seconds.

        Returns:
            Begin, end and text; where nothing is heard, those of the stretch.
        """
        blank, labels = self.tokenizer.ctc_blank, self.tokenizer.labels
        begin = math.ceil(start / self.frame_seconds - 1e-6)
        part = self.log_probs[begin : math.floor(end / self.frame_seconds + 1e-6)]
        if not len(part):
            return start, end, ""
        path = part.argmax(axis=1)
        text = " ".join(self.tokenizer.decode(collapse(path, blank).tolist()).split())
        letters = [at for at in emission_frames(path, blank) if labels[path[at]] != " "]
        if not text or not letters:
            return start, end, ""
        first = (begin + int(letters[0])) * self.frame_seconds
        last = (begin + int(letters[-1]) + 1) * self.frame_seconds
        return max(first, start), min(last, end), text


def _apart(
    found: Sequence[bool],
    ranges: Sequence[range],
    spans: Sequence[tuple[int, int]],
    hearing: _Hearing,
) -> set[int]:
    """Return the numbers, among the words that were found, of those after something else.

    That is a word of the text that was not found, or speech that the text lacks; the number of
    words that were found stands for what comes after the last of them.
    """
    apart: set[int] = set()
    number, frame, missing = 0, 0, False
    for there, labels in zip([*found, True], [*ranges, None]):
        if not there:
            missing = True
            continue
        begin = len(hearing.log_probs) if labels is None else spans[labels.start][0]
        *_, heard = hearing.between(frame * hearing.frame_seconds, begin * hearing.frame_seconds)
        if missing or _told(heard):
            apart.add(number)
        if labels is not None:
            number, frame, missing = number + 1, spans[labels.stop - 1][1], False
    return apart


def _told(heard: str) -> bool:
    """Whether what is heard between words is more than a slip of the network."""
    return len(heard.replace(" ", "")) > _FEW_LETTERS


def _filled(
    words: Sequence[WrittenWord],
    ranges: Sequence[range],
    timed: Sequence[Word | None],
    hearing: _Hearing,
) -> tuple[list[Word], list[Difference]]:
    """Give the words that were not found their times between the others."""
    filled: list[Word] = []
    differences: list[Difference] = []
    place = 0.0
    missing: list[int] = []
    for number in range(len(words) + 1):
        word = timed[number] if number < len(words) else None
        if word is None and number < len(words):
            missing.append(number)
            continue
        edge = hearing.duration if word is None else word.start
        start, end, heard = hearing.between(place, max(place, edge))
        if missing or _told(heard):
            written = [words[each].written for each in missing]
            sizes = [len(ranges[each]) for each in missing]
            filled += _shared(written, sizes, start, end)
            text = " ".join(written)
            first, last = round(start, 3), round(end, 3)
            differences.append(Difference(first, last, text, len(missing), heard))
            missing = []
        if word is not None:
            filled.append(word)
            place = word.end
    return filled, differences


def _shared(written: Sequence[str], sizes: Sequence[int], start: float, end: float) -> list[Word]:
    """Share a stretch among words that were not found, by their numbers of labels."""
    places = start + (end - start) * np.cumsum([0, *sizes]) / max(sum(sizes), 1)
    edges = [round(float(place), 3) for place in places]
    return [Word(word, first, last, 0.0) for word, first, last in zip(written, edges, edges[1:])]
