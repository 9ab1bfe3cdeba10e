"""Greedy decoding against CTC's collapse written out frame by frame."""

from __future__ import annotations

from itertools import groupby, product

import numpy as np
import pytest

from common.config import LMConfig
from common.decoding import GreedyDecoder, collapse, make_decoder
from common.errors import UserError
from common.text import Vocabulary

VOCABULARY = Vocabulary(("'", "A", "B", " ", "_"))


def one_hot(paths: list[str]) -> np.ndarray:
    """log_probs (T, B, C) whose best labels spell the paths, all of the same length."""
    indices = np.array([[VOCABULARY.labels.index(label) for label in path] for path in paths])
    return np.log(np.eye(len(VOCABULARY))[indices.T] * 0.9 + 0.01).astype(np.float32)


def test_collapse_equals_the_definition_on_every_short_path():
    for length in range(6):
        for path in product(range(3), repeat=length):
            expected = [label for label, _ in groupby(path) if label != 1]
            assert collapse(np.array(path, dtype=int), blank=1).tolist() == expected


def test_each_column_is_decoded_on_its_own_and_only_to_its_length():
    paths = ["AA_AB", "_''B_", "AB AA", "_____"]
    decode = GreedyDecoder(VOCABULARY)
    assert decode(one_hot(paths), np.array([5, 5, 5, 5])) == ["AAB", "'B", "AB A", ""]
    assert decode(one_hot(paths), np.array([3, 2, 0, 5])) == ["A", "'", "", ""]


def test_values_past_the_length_do_not_matter():
    log_probs = one_hot(["ABABA"])
    log_probs[2:] = np.nan
    assert GreedyDecoder(VOCABULARY)(log_probs, np.array([2])) == ["AB"]


def test_random_batches_equal_the_definition():
    rng = np.random.default_rng(0)
    log_probs = np.log(rng.dirichlet(np.ones(len(VOCABULARY)), size=(30, 50)))
    lengths = rng.integers(0, 31, 50)
    texts = GreedyDecoder(VOCABULARY)(log_probs, lengths)
    for column, (length, text) in enumerate(zip(lengths, texts)):
        path = [VOCABULARY.labels[i] for i in log_probs[:length, column].argmax(axis=1)]
        spelled = "".join(label for label, _ in groupby(path) if label != "_")
        assert text == " ".join(spelled.split())


def test_white_space_is_tidied_as_in_references():
    assert GreedyDecoder(VOCABULARY)(one_hot([" A _ B "]), np.array([7])) == ["A B"]


def test_make_decoder_picks_by_name():
    assert isinstance(make_decoder(LMConfig(decoder_type="greedy"), VOCABULARY), GreedyDecoder)
    with pytest.raises(UserError, match="'magic'.*greedy"):
        make_decoder(LMConfig(decoder_type="magic"), VOCABULARY)
