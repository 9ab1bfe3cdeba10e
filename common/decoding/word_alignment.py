"""When the words of a recognised text were said, by the most probable CTC path that reads as it."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from common.decoding.forced_alignment import align_labels
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
