"""Word times against brute force over all CTC paths."""

from __future__ import annotations

from itertools import groupby, product

import numpy as np
import pytest

from common.audio.pauses import Loudness
from common.decoding.forced_alignment import align_labels
from common.decoding.word_alignment import align_words
from common.text.tokenizer import CharacterTokenizer

TOKENIZER = CharacterTokenizer(("A", "B", " ", "_"))
BLANK = 3


def log_probs_of(seed: int, frames: int, labels: int = 4) -> np.ndarray:
    logits = np.random.default_rng(seed).normal(0, 2, (frames, labels))
    return logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))


def spans_of(path: tuple[int, ...], blank: int) -> list[tuple[int, int]]:
    spans, frame = [], 0
    for label, run in groupby(path):
        length = len(list(run))
        if label != blank:
            spans.append((frame, frame + length))
        frame += length
    return spans


def labels_of(path: tuple[int, ...], blank: int) -> list[int]:
    return [label for label, _ in groupby(path) if label != blank]


@pytest.mark.parametrize("seed", range(8))
def test_alignment_is_the_most_probable_path_that_reads_as_the_labels(seed):
    log_probs = log_probs_of(seed, frames=6, labels=3)
    ids = [[0, 1], [0, 0], [1], [1, 0, 1], [0, 0, 1], [0, 1, 1], [1, 1], [0]][seed]
    paths = [path for path in product(range(3), repeat=6) if labels_of(path, 2) == ids]
    best = max(paths, key=lambda path: sum(log_probs[t, label] for t, label in enumerate(path)))
    assert align_labels(log_probs, ids, blank=2) == spans_of(best, 2)


def test_labels_that_need_more_frames_than_there_are_have_no_alignment():
    assert align_labels(log_probs_of(0, 2), [0, 0], BLANK) == []
    assert align_labels(log_probs_of(0, 3), [0, 0], BLANK) == [(0, 1), (2, 3)]
    assert align_labels(log_probs_of(0, 3), [], BLANK) == []


def test_words_have_times_in_seconds_and_the_mean_of_their_labels_as_confidence():
    path = [BLANK, 0, 0, BLANK, 1, 2, 2, BLANK, 1, 1]  # "AB B"
    log_probs = np.full((len(path), 4), np.log(0.1 / 3))
    log_probs[np.arange(len(path)), path] = np.log(0.9)
    log_probs[4] = np.log([0.1, 0.6, 0.1, 0.2])
    first, second = align_words("AB B", log_probs, TOKENIZER, frame_seconds=0.02)
    assert (first.word, second.word) == ("AB", "B")
    assert (first.start, first.end) == pytest.approx((0.02, 0.10))
    assert (second.start, second.end) == pytest.approx((0.16, 0.20))
    assert first.confidence == pytest.approx((0.9 + 0.6) / 2)
    assert second.confidence == pytest.approx(0.9)


class Contextual(CharacterTokenizer):
    """Spells a text otherwise than its words, as subwords and polyphones do."""

    def encode(self, text: str) -> list[int]:
        return super().encode(text[::-1] if " " in text else text)


def test_texts_that_cannot_be_aligned_have_no_words():
    contextual = Contextual(("A", "B", " ", "_"))
    assert align_words("AB A", log_probs_of(2, 9), contextual, 0.02) == []
    log_probs = log_probs_of(1, 4)
    assert align_words("AX", log_probs, TOKENIZER, 0.02) == []
    assert align_words("ABABAB", log_probs, TOKENIZER, 0.02) == []
    assert align_words("", log_probs, TOKENIZER, 0.02) == []


def test_pauses_of_parts_are_those_of_the_recording():
    first = Loudness(-20.0, -60.0, np.array([[0.5, 1.0], [2.0, 3.0]]))
    second = Loudness(-10.0, -50.0, np.array([[0.2, 0.9], [1.5, 1.75]]))
    joined = Loudness.joined([(0.0, first), (2.5, second)])  # they share 2.7 to 3.0
    assert (joined.speech, joined.noise) == (-10.0, -60.0)
    np.testing.assert_allclose(joined.pauses, [[0.5, 1.0], [2.0, 3.4], [4.0, 4.25]])
