"""When the words of a text were said: the most probable CTC path that reads as the text.

Viterbi over the labels with a blank before, between and behind them (Graves et al. 2006,
"Connectionist Temporal Classification", section 4.1, with maxima in place of sums).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

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


def align_labels(log_probs: np.ndarray, ids: Sequence[int], blank: int) -> list[tuple[int, int]]:
    """Find the most probable CTC path that reads as some labels.

    Args:
        log_probs: (T, C) natural logarithms of the probabilities of one utterance.
        ids: (L,) labels of the text, none of which is the blank.
        blank: Index of the blank.

    Returns:
        For each label the first frame that emits it and the frame after its last one; empty where
        no path of T frames reads as the labels.
    """
    if not len(ids) or not len(log_probs):
        return []
    states = np.full(2 * len(ids) + 1, blank)
    states[1::2] = ids
    jumps = np.zeros(len(states), bool)
    jumps[2:] = (states[2:] != blank) & (states[2:] != states[:-2])
    emitted = np.asarray(log_probs, np.float64)[:, states]
    best = np.full(len(states), -np.inf)
    best[:2] = emitted[0, :2]
    steps = np.zeros(emitted.shape, np.int8)  # states back to where a path came from
    for frame in range(1, len(emitted)):
        ways = np.full((3, len(states)), -np.inf)
        ways[0], ways[1, 1:], ways[2, 2:] = best, best[:-1], best[:-2]
        ways[2, ~jumps] = -np.inf
        steps[frame] = ways.argmax(axis=0)
        best = ways.max(axis=0) + emitted[frame]
    state = len(states) - 1 - int(best[-2] > best[-1])
    if best[state] == -np.inf:
        return []
    spans = [(len(emitted), 0)] * len(ids)
    for frame in range(len(emitted) - 1, -1, -1):
        if state % 2:
            first, end = spans[state // 2]
            spans[state // 2] = (min(first, frame), max(end, frame + 1))
        state -= int(steps[frame, state])
    return spans


def align_words(
    text: str,
    log_probs: np.ndarray,
    tokenizer: Tokenizer,
    frame_seconds: float,
    start: float = 0.0,
) -> list[Word]:
    """Find times and confidences of the words of a text.

    Args:
        text: A hypothesis, normalised.
        log_probs: (T, C) natural logarithms of one utterance.
        tokenizer: With a blank.
        frame_seconds: From one output frame to the next.
        start: Seconds of the recording before the first frame, which were cut off.

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
    words, place = [], 0
    for word in tokenizer.words(text):
        labels = tokenizer.encode(word)
        while place < len(ids) and ids[place : place + len(labels)] != labels:
            place += 1  # past what separates words
        if not labels or place >= len(ids):
            return []
        covered = range(place, place + len(labels))
        surest = [float(log_probs[slice(*spans[at]), ids[at]].max()) for at in covered]
        words.append(
            Word(
                word,
                round(start + spans[covered[0]][0] * frame_seconds, 3),
                round(start + spans[covered[-1]][1] * frame_seconds, 3),
                min(1.0, sum(map(math.exp, surest)) / len(surest)),
            )
        )
        place += len(labels)
    return words
