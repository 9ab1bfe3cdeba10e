"""Forced alignment against brute force over all paths, and against torchaudio's figures."""

from __future__ import annotations

from itertools import groupby, product

import numpy as np
import pytest

from common.decoding.forced_alignment import Mismatch, align_labels

BLANK, FILLER = 2, 3
# torchaudio 2.11.1, torchaudio.functional.forced_align, blank 5, of log_probs_of(seed, 40, 6) and
# labels_of(seed): the frames at which its labels begin, and those after which they end.
TORCHAUDIO = {
    0: [
        (3, 4),
        (5, 6),
        (8, 9),
        (9, 14),
        (20, 21),
        (25, 27),
        (27, 28),
        (28, 30),
        (30, 32),
        (32, 33),
        (36, 38),
        (39, 40),
    ],
    1: [
        (0, 2),
        (2, 4),
        (5, 8),
        (8, 13),
        (13, 21),
        (22, 25),
        (26, 27),
        (27, 28),
        (30, 35),
        (35, 36),
        (38, 39),
        (39, 40),
    ],
    2: [
        (1, 3),
        (3, 4),
        (4, 6),
        (9, 12),
        (13, 15),
        (17, 23),
        (25, 27),
        (28, 29),
        (32, 35),
        (35, 36),
        (37, 39),
        (39, 40),
    ],
}


def log_probs_of(seed: int, frames: int, labels: int) -> np.ndarray:
    logits = np.random.default_rng(seed).normal(0, 2, (frames, labels))
    return (logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))).astype(np.float32)


def labels_of(seed: int) -> list[int]:
    return np.random.default_rng(100 + seed).integers(0, 5, 12).tolist()


@pytest.mark.parametrize("seed", TORCHAUDIO)
def test_paths_are_those_of_torchaudio(seed):
    found = align_labels(log_probs_of(seed, 40, 6), labels_of(seed), blank=5)
    assert found == TORCHAUDIO[seed]


def brute_force(
    log_probs: np.ndarray, words: list[list[int]], skip: float, filler: float
) -> list[tuple[int, int]]:
    """Try all choices of words and all paths; what stands between words is blank or filler."""
    best, spans = -np.inf, []
    scores = np.column_stack([log_probs, log_probs.max(axis=1) - filler])
    for path in product(range(4), repeat=len(log_probs)):
        score = float(scores[np.arange(len(path)), path].sum())
        runs = [(label, len(list(run))) for label, run in groupby(path)]
        for kept in product([True, False], repeat=len(words)):
            price = skip * sum(len(word) for word, said in zip(words, kept) if not said)
            if score - price > best:
                found = read(runs, words, kept)
                if found is not None:
                    best, spans = score - price, found
    return spans


def read(
    runs: list[tuple[int, int]], words: list[list[int]], kept: tuple[bool, ...]
) -> list[tuple[int, int]] | None:
    """Spans of all labels if the path reads as the words that are kept, None if it does not."""
    frame, emitted, spans = 0, [], {}
    between: dict[int, list[int]] = {}  # labels so far -> frames of blank or filler
    within = set()
    for label, length in runs:
        if label in (BLANK, FILLER):
            between.setdefault(len(emitted), []).extend(range(frame, frame + length))
            if label == FILLER:
                within.add(len(emitted))
        else:
            spans[len(emitted)] = (frame, frame + length)
            emitted.append(label)
        frame += length
    wanted = [label for word, said in zip(words, kept) if said for label in word]
    if emitted != wanted:
        return None
    result, place, edges = [], 0, {0}
    for word, said in zip(words, kept):
        if said:
            result += [spans[place + number] for number in range(len(word))]
            place += len(word)
            edges.add(place)
        elif place not in between:
            return None  # a word is left out of a gap, which takes a frame
        else:
            result += [None] * len(word)
    return result if within <= edges else None


@pytest.mark.parametrize("seed", range(6))
def test_words_that_nobody_said_are_left_out_and_speech_between_words_is_passed_over(seed):
    words = [[[0], [1]], [[0, 1], [1]], [[1], [0, 0]], [[0], [0], [1]], [[0], [1, 0]], [[1], [1]]]
    log_probs = log_probs_of(seed, 6, 3)
    log_probs[seed % 4] = np.log([0.02, 0.97, 0.01] if seed % 2 else [0.97, 0.02, 0.01])
    ids = [label for word in words[seed] for label in word]
    begins = np.cumsum([0, *map(len, words[seed][:-1])]).tolist()
    expected = brute_force(log_probs, words[seed], skip=1.5, filler=0.5)
    found = align_labels(log_probs, ids, BLANK, Mismatch(begins, 1.5, 0.5))
    assert [span if span[0] < span[1] else None for span in found] == expected


def spelled(words: int, seed: int = 0) -> tuple[np.ndarray, list[int], list[int]]:
    """Log-probabilities of many words that a network is sure of, their labels and begins."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(1, 8, words)
    ids = [label for n in lengths for label in [*rng.integers(0, 26, n).tolist(), 26]][:-1]
    begins = np.cumsum([0, *(lengths[:-1] + 1)]).tolist()
    log_probs = np.full((4 * len(ids), 28), np.log(1e-4), np.float32)
    log_probs[:, 27] = np.log(0.99)
    at = 4 * np.arange(len(ids)) + rng.integers(0, 3, len(ids))
    log_probs[at, 27] = np.log(0.01)
    log_probs[at, ids] = np.log(0.95)
    return log_probs, ids, begins


def test_a_beam_finds_the_same_path_over_many_blocks():
    log_probs, ids, begins = spelled(150)
    found = align_labels(log_probs, ids, 27, Mismatch(begins), beam=300)
    peaks = log_probs[:, :27].max(axis=1) > np.log(0.5)
    assert [first for first, _ in found] == np.flatnonzero(peaks).tolist()
    assert found == align_labels(log_probs, ids, 27, Mismatch(begins))


def test_text_that_is_not_in_the_recording_displaces_no_other_word():
    log_probs, ids, begins = spelled(200)
    _, other, _ = spelled(60, seed=1)
    cut = begins[100]
    longer = [*ids[:cut], *other, 26, *ids[cut:]]
    words = [0, *(i + 1 for i, label in enumerate(longer) if label == 26)]
    found = align_labels(log_probs, longer, 27, Mismatch(words))
    expected = align_labels(log_probs, ids, 27)
    added = found[cut : cut + len(other) + 1]
    said = found[:cut] + found[cut + len(other) + 1 :]
    assert np.mean([a == b for a, b in zip(said, expected)]) > 0.99
    assert np.mean([first == end for first, end in added]) > 0.95


def test_speech_that_the_text_lacks_displaces_no_other_word():
    log_probs, ids, begins = spelled(200)
    shorter = ids[: begins[80]] + ids[begins[120] :]
    words = [0, *(i + 1 for i, label in enumerate(shorter) if label == 26)]
    found = align_labels(log_probs, shorter, 27, Mismatch(words))
    expected = align_labels(log_probs, ids, 27)
    kept = expected[: begins[80]] + expected[begins[120] :]
    assert np.mean([a == b for a, b in zip(found, kept)]) > 0.99
