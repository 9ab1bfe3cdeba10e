"""Hot words, lexicon and N-best of beam search, against every text written out."""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from math import inf
from pathlib import Path

import numpy as np
import pytest
from synthetic_lm import log_prob, write_arpa
from test_beam import EVERYTHING, all_texts, assert_same, random_log_probs, ranked

from common.api.recognizer import Transcript
from common.cli.transcript_output import TranscriptOutput, add_output
from common.config import LMConfig
from common.decoding.decoders import describe, make_decoder, make_search
from common.decoding.prefix_beam_search import BeamSearch, Hypothesis
from common.decoding.word_scores import WordScorer
from common.text.tokenizer import CharacterTokenizer
from common.utils.errors import UserError

LABELS = CharacterTokenizer(tuple("AB _"))
WIDE = LMConfig(
    decoder_type="beam", beam_width=EVERYTHING, top_paths=EVERYTHING, alpha=0.7, beta=1.3
)


@pytest.fixture(scope="module")
def arpa(tmp_path_factory) -> str:
    pytest.importorskip("kenlm", reason="pip install -r requirements-lm.txt")
    return str(write_arpa(tmp_path_factory.mktemp("words") / "words.arpa"))


@pytest.fixture
def lexicon(tmp_path) -> str:
    (tmp_path / "lexicon.txt").write_text("a AH\nab EY B\nZZ Z\n\n")
    return str(tmp_path / "lexicon.txt")


def search(**keys) -> BeamSearch:
    return make_search(replace(WIDE, **keys), LABELS)


def test_each_hot_word_of_a_text_adds_the_boost():
    log_probs = random_log_probs(6, 4, seed=4)
    expected = {
        text: score + 2.5 * sum(word in ("AB", "B") for word in text.split())
        for text, score in all_texts(log_probs, LABELS).items()
    }
    for words in ("ab,b", "AB b", " ab,,B "):
        assert_same(search(hot_words=words, hot_word_boost=2.5)(log_probs), ranked(expected))
    nothing = search(hot_words="ab", hot_word_boost=0.0)(log_probs)
    assert_same(nothing, search()(log_probs))


def test_hot_words_come_beside_the_language_model(arpa):
    """A hot word that the model lacks has the probability of <unk>, without unk_offset."""
    log_probs = random_log_probs(6, 4, seed=3)
    keys = {"lm_path": arpa, "unk_offset": -5.0}
    expected = {}
    for text, score in all_texts(log_probs, LABELS).items():
        words = text.split()
        hot = sum(word in ("BBB", "A") for word in words)
        lacking = 0.7 * 5.0 * words.count("BBB")
        score += 0.7 * log_prob(text, -5.0) + 1.3 * len(words) + 2.0 * hot + lacking
        expected[text] = score
    found = search(hot_words="bbb a", hot_word_boost=2.0, **keys)(log_probs)
    assert any("BBB" in text for text in expected) and not search(**keys).language_model.knows(
        "BBB"
    )
    assert_same(found, ranked(expected))


def test_a_lexicon_leaves_its_words_alone(lexicon):
    for seed in range(5):
        log_probs = random_log_probs(6, 4, seed)
        texts = all_texts(log_probs, LABELS)
        allowed = {text: p for text, p in texts.items() if set(text.split()) <= {"A", "AB"}}
        assert_same(search(lexicon=lexicon)(log_probs), ranked(allowed))
        # Hot words may occur, too.
        boosted = {
            text: p + 3.0 * text.split().count("BA")
            for text, p in texts.items()
            if set(text.split()) <= {"A", "AB", "BA"}
        }
        found = search(lexicon=lexicon, hot_words="ba", hot_word_boost=3.0)(log_probs)
        assert_same(found, ranked(boosted))


def test_the_words_of_the_language_model_may_be_the_lexicon(arpa):
    log_probs = random_log_probs(6, 4, seed=1)
    free = search(lm_path=arpa, unk_offset=0.0)
    knows = free.language_model.knows
    expected = [each for each in free(log_probs) if all(map(knows, each.text.split()))]
    assert 1 < len(expected) < len(free(log_probs))
    assert_same(search(lm_path=arpa, unk_offset=0.0, lexicon="lm")(log_probs), expected)


@pytest.mark.parametrize("width", [1, 2, 10])
def test_a_narrow_beam_spells_words_of_the_lexicon_alone(lexicon, width):
    for seed in range(20):
        log_probs = random_log_probs(30, 4, seed)
        found = search(lexicon=lexicon, beam_width=width)(log_probs)
        assert found and all(set(each.text.split()) <= {"A", "AB"} for each in found)
        assert found[0].score > -inf


def test_a_word_that_the_recording_cuts_off_is_left_out(tmp_path):
    (tmp_path / "words.txt").write_text("AB\nBBB\n")
    spelled = [LABELS.labels.index(label) for label in "AB B"]
    log_probs = np.log(np.full((4, 4), 1e-9) + np.eye(4)[spelled])
    found = search(lexicon=str(tmp_path / "words.txt"), beam_width=1)(log_probs)
    assert [each.text for each in found] == ["AB"]


def test_a_boost_brings_back_what_pruning_would_lose():
    """The lookahead knows hot words from their first letter."""
    labels = CharacterTokenizer(tuple("ABCDEFG _"))
    spelled = [labels.labels.index(label) for label in "CAFE"]
    log_probs = np.full((4, 9), np.log(0.1))
    log_probs[np.arange(4), spelled] = np.log(0.2)
    log_probs[:, labels.labels.index("D")] = np.log(0.25)
    plain = BeamSearch(labels, 3)(log_probs)[0].text
    assert "CAFE" not in plain
    hot = BeamSearch(labels, 3, language_model=WordScorer(labels, None, ["CAFE"], 6.0))
    assert hot(log_probs)[0].text == "CAFE"


def test_hot_words_do_not_push_other_texts_out_of_the_beam():
    """Each prefix may begin a hot word next, but has earned no boost by that."""
    labels = CharacterTokenizer(tuple("ABCDEFG _"))
    plain = BeamSearch(labels, 6)
    hot = replace(plain, language_model=WordScorer(labels, None, ["GGGGGGGG"], 20.0))
    for seed in range(5):
        log_probs = random_log_probs(20, 9, seed, spread=3.0)
        assert hot(log_probs)[0].text == plain(log_probs)[0].text


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"hot_words": "a,b9"}, r"hot_words a,b9: no label for '9' of 'B9': spell it"),
        ({"lexicon": "lm"}, "lexicon lm: the words of a language model, but LMConfig.lm_path is"),
        ({"lexicon": "none.txt"}, "lexicon none.txt: cannot be read"),
    ],
)
def test_words_that_cannot_be_used_are_refused(keys, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=message):
        search(**keys)
    with pytest.raises(UserError, match=f"LMConfig.{next(iter(keys))} .*: greedy decoding uses no"):
        make_decoder(replace(WIDE, decoder_type="greedy", **keys), LABELS)
    with pytest.raises(UserError, match=r"words need a space among the labels, these have none"):
        make_search(replace(WIDE, **keys), CharacterTokenizer(("A", "B", "_")))


def test_a_lexicon_of_other_letters_is_refused(tmp_path):
    (tmp_path / "words.txt").write_text("XY\nZ\n")
    with pytest.raises(UserError, match=r"words\.txt: the labels can spell none of its 2 words"):
        search(lexicon=str(tmp_path / "words.txt"))


def test_hot_words_come_from_a_file(tmp_path):
    (tmp_path / "hot.txt").write_text("ab a\nb\n")
    log_probs = random_log_probs(5, 4, seed=2)
    found = search(hot_words=str(tmp_path / "hot.txt"))(log_probs)
    assert_same(found, search(hot_words="ab,a,b")(log_probs))
    config = replace(WIDE, hot_words="ab", hot_word_boost=3.0, lexicon="words.txt")
    assert describe(config).endswith(", hot words (boost 3), words of words.txt alone")


def output(form: str, *recordings: str) -> TranscriptOutput:
    parser = argparse.ArgumentParser()
    add_output(parser, usual="txt")
    return TranscriptOutput(parser.parse_args(["--format", form]), recordings)


def test_transcripts_list_their_hypotheses(tmp_path, capsys):
    several = [Hypothesis("A B", -1.23456), Hypothesis("A", -2.5)]
    transcript = Transcript("A B", [], 1.0, several)
    output("txt", "a.wav").take("a.wav", transcript)
    assert capsys.readouterr().out == "1\t-1.235\tA B\n2\t-2.500\tA\n"
    output("txt", "a.wav", "b.wav").take("b.wav", transcript)
    assert capsys.readouterr().out.splitlines()[1] == "b.wav\t2\t-2.500\tA"
    output("json", "a.wav").take("a.wav", transcript)
    assert json.loads(capsys.readouterr().out)["nbest"] == [
        {"text": "A B", "score": -1.2346},
        {"text": "A", "score": -2.5},
    ]
    output("json", "a.wav").take("a.wav", replace(transcript, hypotheses=several[:1]))
    assert "nbest" not in json.loads(capsys.readouterr().out)
    assert not list(Path(tmp_path).iterdir())
