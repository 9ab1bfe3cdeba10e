"""Prefix beam search against the sum over all paths, with and without a language model."""

from __future__ import annotations

from itertools import product
from math import inf

import numpy as np
import pytest
from synthetic_lm import log_prob, write_arpa

from common.decoding import prefix_beam_search as beam
from common.decoding.decoders import collapse
from common.decoding.prefix_beam_search import BeamSearch, Hypothesis, _Beam
from common.text.tokenizer import CharacterTokenizer

EVERYTHING = 10**6
ALPHABETS = ["AB _", "_ A'", "AB_", " _A", "_A"]


def random_log_probs(frames: int, labels: int, seed: int = 0, spread: float = 1.5) -> np.ndarray:
    logits = np.random.default_rng(seed).normal(0, spread, (frames, labels))
    return logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))


def all_texts(log_probs: np.ndarray, tokenizer: CharacterTokenizer) -> dict[str, float]:
    """log p(text) for every text, by writing out every path."""
    found: dict[str, float] = {}
    for path in product(range(len(tokenizer)), repeat=len(log_probs)):
        labels = collapse(np.array(path, dtype=int), tokenizer.blank)
        text = " ".join(tokenizer.decode(labels).split())
        score = sum(frame[label] for frame, label in zip(log_probs, path))
        if score > -inf:
            found[text] = np.logaddexp(found.get(text, -inf), score)
    return found


def ranked(scores: dict[str, float]) -> list[Hypothesis]:
    return [Hypothesis(*item) for item in sorted(scores.items(), key=lambda item: -item[1])]


def assert_same(found: list[Hypothesis], expected: list[Hypothesis]) -> None:
    assert [each.text for each in found] == [each.text for each in expected]
    scores = [[each.score for each in hypotheses] for hypotheses in (found, expected)]
    np.testing.assert_allclose(*scores, rtol=1e-6)  # KenLM computes in float32


@pytest.fixture(params=[beam._PREFIXES_BETWEEN_PRUNING, 0], ids=["", "forgetting after each frame"])
def forgetting(request, monkeypatch):
    monkeypatch.setattr(beam, "_PREFIXES_BETWEEN_PRUNING", request.param)


@pytest.mark.usefixtures("forgetting")
@pytest.mark.parametrize("alphabet", ALPHABETS)
@pytest.mark.parametrize("frames", [0, 1, 4, 6])
def test_a_wide_beam_finds_every_text_with_its_probability(alphabet, frames):
    tokenizer = CharacterTokenizer(tuple(alphabet))
    log_probs = random_log_probs(frames, len(tokenizer), seed=frames)
    expected = ranked(all_texts(log_probs, tokenizer))
    found = BeamSearch(tokenizer, EVERYTHING, top_paths=EVERYTHING)(log_probs)
    assert_same(found, expected)
    assert np.exp([each.score for each in found]).sum() == pytest.approx(1)
    for count in (1, 3):
        assert BeamSearch(tokenizer, EVERYTHING, top_paths=count)(log_probs) == found[:count]


@pytest.mark.usefixtures("forgetting")
@pytest.mark.parametrize("width", [1, 2, 5, 20])
def test_a_narrow_beam_never_overestimates_a_probability(width):
    tokenizer = CharacterTokenizer(tuple("AB _"))
    for seed in range(10):
        log_probs = random_log_probs(6, 4, seed)
        expected = all_texts(log_probs, tokenizer)
        found = BeamSearch(tokenizer, width, top_paths=EVERYTHING)(log_probs)
        assert 1 <= len(found) <= width
        assert found == sorted(found, key=lambda each: -each.score)
        assert len({each.text for each in found}) == len(found)
        assert all(each.score <= expected[each.text] + 1e-9 for each in found)


def test_a_beam_beats_the_best_path():
    """The textbook case: the blank is best in each frame, and yet A is more probable than ""."""
    log_probs = np.log([[0.4, 0.6], [0.4, 0.6]])
    (best,) = BeamSearch(CharacterTokenizer(("A", "_")), 10)(log_probs)
    assert best.text == "A" and best.score == pytest.approx(np.log(1 - 0.36))


@pytest.mark.parametrize(("top_n", "prob"), [(1, 1.0), (2, 1.0), (40, 0.7), (3, 0.9), (2, 0.01)])
def test_the_cutoffs_take_labels_away_from_frames(top_n, prob):
    tokenizer = CharacterTokenizer(tuple("AB _"))
    for seed in range(5):
        log_probs = random_log_probs(5, 4, seed)
        cut = np.full_like(log_probs, -inf)
        for frame, kept in zip(log_probs, cut):
            order, reached = sorted(range(4), key=lambda label: -frame[label]), 0.0
            for label in order[:top_n]:
                kept[label] = frame[label]
                reached += np.exp(frame[label])
                if reached >= prob:
                    break
        search = BeamSearch(tokenizer, EVERYTHING, top_n, prob, EVERYTHING)
        assert_same(search(log_probs), ranked(all_texts(cut, tokenizer)))


@pytest.mark.usefixtures("forgetting")
def test_impossible_and_broken_frames_give_an_answer():
    tokenizer = CharacterTokenizer(tuple("AB _"))
    search = BeamSearch(tokenizer, 10, top_paths=5)
    with np.errstate(divide="ignore"):
        certain = np.log(np.eye(4)[[0, 3, 0, 2, 2, 1]])
    assert search(certain) == [("AA B", 0.0)]
    for value in (-inf, np.nan):
        broken = random_log_probs(5, 4)
        broken[2] = value
        assert search(broken) == [("", -inf)]


def test_only_ancestors_of_the_beam_are_kept(monkeypatch):
    tokenizer = CharacterTokenizer(tuple("ABCDEFG _"))
    search = BeamSearch(tokenizer, 20, top_paths=20)
    inputs = [random_log_probs(200, 9, 0, spread=3.0)]
    expected = [search(log_probs) for log_probs in inputs]
    advanced, seen = _Beam.advanced, []

    def watched(beam, frame, prefixes, width):
        texts = [prefixes.text(node) for node in beam.nodes.tolist()]
        assert len(set(texts)) == len(texts)
        needed = {text[:end] for text in texts for end in range(len(text) + 1)}
        kept = [prefixes.text(node) for node in range(len(prefixes.parents))]
        assert len(kept) == len(needed) and set(kept) == needed
        seen.append(len(needed))
        return advanced(beam, frame, prefixes, width)

    monkeypatch.setattr(_Beam, "advanced", watched)
    monkeypatch.setattr(beam, "_PREFIXES_BETWEEN_PRUNING", 0)
    assert [search(log_probs) for log_probs in inputs] == expected
    assert len(seen) == 200 and max(seen) > 100


# ---- with a language model


@pytest.fixture(scope="module")
def arpa(tmp_path_factory) -> str:
    pytest.importorskip("kenlm", reason="pip install -r requirements-lm.txt")
    return str(write_arpa(tmp_path_factory.mktemp("words") / "words.arpa"))


def model(arpa: str, tokenizer: CharacterTokenizer, alpha: float, beta: float, unk_offset: float):
    from common.decoding.ngram_lm import WordModel

    return WordModel(arpa, tokenizer, alpha, beta, unk_offset)


@pytest.mark.usefixtures("forgetting")
@pytest.mark.parametrize(
    ("alpha", "beta", "unk_offset"),
    [(1.0, 0.0, 0.0), (0.0, 0.0, -10.0), (0.7, 1.3, -2.0), (1.8, -0.5, -10.0)],
)
@pytest.mark.parametrize(("alphabet", "frames"), [("AB _", 6), ("_ A", 7), ("BC_ A", 5)])
def test_a_wide_beam_scores_words_as_the_formula_does(
    arpa, alphabet, frames, alpha, beta, unk_offset
):
    tokenizer = CharacterTokenizer(tuple(alphabet))
    language = model(arpa, tokenizer, alpha, beta, unk_offset)
    search = BeamSearch(tokenizer, EVERYTHING, top_paths=EVERYTHING, language_model=language)
    log_probs = random_log_probs(frames, len(tokenizer), seed=3)
    expected = {
        text: score + alpha * log_prob(text, unk_offset) + beta * len(text.split())
        for text, score in all_texts(log_probs, tokenizer).items()
    }
    assert max(len(text.split()) for text in expected) == (frames + 1) // 2
    assert_same(search(log_probs), ranked(expected))


def test_unknown_words_remain_possible(arpa):
    tokenizer = CharacterTokenizer(tuple("AB _"))
    search = BeamSearch(tokenizer, 10, language_model=model(arpa, tokenizer, 1.0, 0.0, -10.0))
    spelled = [tokenizer.labels.index(label) for label in "B_B_B A_"]
    log_probs = np.log(np.full((8, 4), 1e-6) + np.eye(4)[spelled])
    assert search(log_probs)[0].text == "BBB A"


def test_the_lookahead_keeps_words_that_end_in_a_narrow_beam(arpa, monkeypatch):
    from common.decoding.ngram_lm import LanguageModelLookahead

    tokenizer = CharacterTokenizer(tuple("AB _"))
    exact = BeamSearch(tokenizer, 3000, language_model=model(arpa, tokenizer, 2.0, 0.0, -10.0))
    narrow = BeamSearch(tokenizer, 8, language_model=exact.language_model)
    inputs = [random_log_probs(12, 4, seed) for seed in range(10)]
    best = [exact(log_probs)[0].score for log_probs in inputs]
    lost = sum(best) - sum(narrow(log_probs)[0].score for log_probs in inputs)
    monkeypatch.setattr(
        LanguageModelLookahead, "after", lambda self, rows: np.zeros((len(rows), 4))
    )
    lost_without = sum(best) - sum(narrow(log_probs)[0].score for log_probs in inputs)
    assert 0 <= lost < lost_without / 4
