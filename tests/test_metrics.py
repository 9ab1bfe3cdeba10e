"""Error counts against jiwer, which aligns and counts on its own."""

from __future__ import annotations

import random

import jiwer
import pytest

from common.evaluation.error_rates import (
    EditCounts,
    alignment,
    character_errors,
    edit_counts,
    word_errors,
)
from common.text.tokenizer import CharacterTokenizer


def random_text(rng: random.Random, alphabet: str, fewest: int = 1) -> str:
    return "".join(rng.choice(alphabet) for _ in range(rng.randint(fewest, 25)))


def as_counts(result, length: int) -> EditCounts:
    return EditCounts(result.substitutions, result.deletions, result.insertions, length)


def test_words_agree_with_jiwer():
    rng = random.Random(1)
    for _ in range(1500):
        reference = "A" + random_text(rng, "AB  ", fewest=0)
        hypothesis = random_text(rng, "AB  ", fewest=0)
        expected = as_counts(jiwer.process_words(reference, hypothesis), len(reference.split()))
        assert word_errors(reference, hypothesis) == expected
        assert word_errors(reference, hypothesis).rate == jiwer.wer(reference, hypothesis)


def test_words_without_spaces_are_characters_as_jiwer_counts_them():
    words = CharacterTokenizer(("你", "好", "世", "界", "_")).words
    rng = random.Random(4)
    for _ in range(500):
        reference, hypothesis = (random_text(rng, "你好世界") for _ in range(2))
        expected = as_counts(jiwer.process_characters(reference, hypothesis), len(reference))
        assert word_errors(reference, hypothesis, words) == expected
        assert word_errors(reference, hypothesis, words).rate == jiwer.cer(reference, hypothesis)


def test_single_words_agree_with_jiwer_where_no_label_is_a_space():
    words = CharacterTokenizer((*"ABC", "_")).words
    rng = random.Random(5)
    for _ in range(500):
        reference, hypothesis = (random_text(rng, "ABC") for _ in range(2))
        counts = word_errors(reference, rng.choice([reference, hypothesis, ""]), words)
        assert counts.length == 1 and counts.errors in (0, 1)
        assert word_errors(reference, hypothesis, words).rate == jiwer.wer(reference, hypothesis)


def test_characters_agree_with_jiwer():
    rng = random.Random(2)
    for _ in range(1500):
        reference = "A" + random_text(rng, "ABÉ好 ", fewest=0)
        hypothesis = random_text(rng, "ABÉ好 ", fewest=0)
        length = len(reference.strip())
        expected = as_counts(jiwer.process_characters(reference, hypothesis), length)
        assert character_errors(reference, hypothesis) == expected
        assert character_errors(reference, hypothesis).rate == jiwer.cer(reference, hypothesis)


def test_a_corpus_is_the_sum_not_the_mean_of_its_rates():
    references = ["ONE", "TWO THREE FOUR FIVE", "SIX SEVEN"]
    hypotheses = ["TEN ELEVEN", "TWO THREE FIVE", "SIX SEVEN"]
    total = sum(map(word_errors, references, hypotheses), EditCounts())
    assert total == EditCounts(substitutions=1, deletions=1, insertions=1, length=7)
    assert total.rate == jiwer.wer(references, hypotheses) == 3 / 7
    characters = sum(map(character_errors, references, hypotheses), EditCounts())
    assert characters.rate == pytest.approx(jiwer.cer(references, hypotheses))


@pytest.mark.parametrize("hypothesis", ["", "A", "A B C"])
def test_empty_reference_has_a_rate_and_counts_insertions(hypothesis):
    counts = word_errors("", hypothesis)
    assert counts == EditCounts(insertions=len(hypothesis.split()))
    assert counts.rate == jiwer.wer("", hypothesis)


def test_empty_hypothesis_is_all_deletions():
    assert word_errors("A B", " ") == EditCounts(deletions=2, length=2)
    assert EditCounts().rate == 0.0


def test_alignment_spells_both_sides_and_costs_the_errors():
    rng = random.Random(3)
    for _ in range(500):
        reference = [rng.choice(["ONE", "TWO", "SIX"]) for _ in range(rng.randint(0, 8))]
        hypothesis = [rng.choice(["ONE", "TWO", "SIX"]) for _ in range(rng.randint(0, 8))]
        pairs = alignment(reference, hypothesis)
        assert [word for word, _ in pairs if word is not None] == reference
        assert [word for _, word in pairs if word is not None] == hypothesis
        assert sum(a != b for a, b in pairs) == edit_counts(reference, hypothesis).errors


def test_alignment_shows_where_words_are_missing():
    pairs = alignment("GO ONE TWO SIX".split(), "GO TWO SIX TEN".split())
    expected = [("GO", "GO"), ("ONE", None), ("TWO", "TWO"), ("SIX", "SIX"), (None, "TEN")]
    assert pairs == expected
