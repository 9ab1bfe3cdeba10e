"""When the words of a recognised text were said, by the most probable CTC path that reads as it."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np

from common.decoding.forced_alignment import align_labels
from common.decoding.word_times import word_times
from common.text.tokenizer import Tokenizer


@dataclass(frozen=True)
class Word:
    """A recognised word.

    Attributes:
        word: As it stands in the text.
        start: Seconds from the beginning of the recording, to the millisecond.
        end: Seconds.
        confidence: From 0 to 1: the mean, over the labels of the word, of the probability of each
            label in the frame where the network is surest of it.
    """

    word: str
    start: float
    end: float
    confidence: float


def align_words(
    text: str,
    log_probs: np.ndarray,
    tokenizer: Tokenizer,
    frame_seconds: float,
    start: float = 0.0,
    pauses: np.ndarray | None = None,
    duration: float = math.inf,
) -> list[Word]:
    """Find times and confidences of the words of a text.

    Args:
        text: A hypothesis, normalised.
        log_probs: (T, C) natural logarithms of one utterance.
        tokenizer: With a blank.
        frame_seconds: From one output frame to the next.
        start: Seconds of the recording before the first frame, which were cut off.
        pauses: (P, 2) begin and end of each pause of the recording, in seconds; None: unknown, and
            the words last from their first to their last emission.
        duration: Of the recording, in seconds.

    Returns:
        The words in order; empty where the text cannot be aligned: without a blank, with characters
        that the tokenizer cannot spell, with more labels than frames, or where the labels of a text
        are not those of its words.
    """
    if tokenizer.blank is None or tokenizer.unknown(text):
        return []
    ids = tokenizer.encode(text)
    spans = align_labels(log_probs, ids, tokenizer.blank)
    if not spans:
        return []
    ranges = word_ranges(tokenizer.words(text), ids, tokenizer)
    if ranges is None:
        return []
    words = tokenizer.words(text)
    times = times_of(ranges, spans, frame_seconds, start, pauses, duration)
    return [
        Word(word, *edges, surest(log_probs, ids[at.start : at.stop], spans[at.start : at.stop]))
        for word, edges, at in zip(words, times, ranges)
    ]


def times_of(
    ranges: Sequence[range],
    spans: Sequence[tuple[int, int]],
    frame_seconds: float,
    start: float,
    pauses: np.ndarray | None,
    duration: float,
    apart: Collection[int] = (),
) -> list[tuple[float, float]]:
    """Find when words were said, to the millisecond.

    Args:
        ranges: Labels of each word.
        spans: First frame of each label, and the frame after its last.
        frame_seconds: From one output frame to the next.
        start: Seconds of the recording before the first frame.
        pauses: (P, 2) begin and end of each pause of the recording; None: unknown.
        duration: Of the recording, in seconds.
        apart: As of `word_times`.

    Returns:
        Start and end of each word.
    """

    def seconds(frame: int) -> float:
        return start + frame * frame_seconds

    emissions = [(seconds(spans[at.start][0]), seconds(spans[at.stop - 1][1])) for at in ranges]
    last_labels = [seconds(spans[at.stop - 1][0]) for at in ranges]
    times = word_times(emissions, last_labels, pauses, duration, apart)
    return [(round(begin, 3), round(end, 3)) for begin, end in times]


def word_ranges(
    words: Sequence[str], ids: Sequence[int], tokenizer: Tokenizer
) -> list[range] | None:
    """Find the labels of words in those of their text.

    Args:
        words: In order.
        ids: (L,) labels of the text.
        tokenizer: What spells both.

    Returns:
        For each word the indices of its labels; None where the labels of the text are not those of
        its words.
    """
    ranges, place = [], 0
    for word in words:
        labels = tokenizer.encode(word)
        while place < len(ids) and list(ids[place : place + len(labels)]) != labels:
            place += 1  # past what separates words
        if not labels or place >= len(ids):
            return None
        ranges.append(range(place, place + len(labels)))
        place += len(labels)
    return ranges


def surest(log_probs: np.ndarray, ids: Sequence[int], spans: Sequence[tuple[int, int]]) -> float:
    """Return the confidence of a word.

    Args:
        log_probs: (T, C) natural logarithms.
        ids: Labels of the word.
        spans: First frame of each label, and the frame after its last.

    Returns:
        The mean, over its labels, of the probability of each in the frame where it is highest.
    """
    best = [float(log_probs[slice(*span), label].max()) for label, span in zip(ids, spans)]
    return min(1.0, sum(map(math.exp, best)) / len(best))
