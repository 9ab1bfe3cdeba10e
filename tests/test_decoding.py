"""Decoders of batches: greedy against CTC's collapse written out, beam against single searches."""

from __future__ import annotations

import math
import os
from itertools import groupby, product
from types import SimpleNamespace

import numpy as np
import pytest
from synthetic_lm import write_arpa

from common.api.recognizer import Recognizer
from common.audio.features import FeatureConfig, Featurizer
from common.config import DataConfig, EvalConfig, LMConfig, check
from common.decoding import decoders as decoding
from common.decoding.decoders import (
    BeamDecoder,
    Decoder,
    GreedyDecoder,
    collapse,
    describe,
    emission_frames,
    make_decoder,
)
from common.decoding.prefix_beam_search import BeamSearch, Hypothesis
from common.model.decoder import DecodedUtterance, SpeechDecoder
from common.text.tokenizer import CharacterTokenizer
from common.utils.errors import UserError

VOCABULARY = CharacterTokenizer(("'", "A", "B", " ", "_"))


def one_hot(paths: list[str]) -> np.ndarray:
    """log_probs (T, B, C) whose best labels spell the paths, all of the same length."""
    indices = np.array([[VOCABULARY.labels.index(label) for label in path] for path in paths])
    return np.log(np.eye(len(VOCABULARY))[indices.T] * 0.9 + 0.01).astype(np.float32)


def test_collapse_equals_the_definition_on_every_short_path():
    for length in range(6):
        for path in product(range(3), repeat=length):
            expected = [label for label, _ in groupby(path) if label != 1]
            assert collapse(np.array(path, dtype=int), blank=1).tolist() == expected


def test_labels_are_emitted_where_their_runs_begin_on_every_short_path():
    for length in range(6):
        for path in product(range(3), repeat=length):
            expected, frame = [], 0
            for label, run in groupby(path):
                expected += [frame] if label != 1 else []
                frame += len(list(run))
            assert emission_frames(np.array(path, dtype=int), blank=1).tolist() == expected


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
    for column, (length, text) in enumerate(zip(lengths, texts, strict=True)):
        path = [VOCABULARY.labels[i] for i in log_probs[:length, column].argmax(axis=1)]
        spelled = "".join(label for label, _ in groupby(path) if label != "_")
        assert text == " ".join(spelled.split())


def test_white_space_is_tidied_as_in_references():
    assert GreedyDecoder(VOCABULARY)(one_hot([" A _ B "]), np.array([7])) == ["A B"]


def test_the_greedy_score_is_that_of_the_path():
    log_probs = one_hot(["AA_AB"])
    ((found,),) = GreedyDecoder(VOCABULARY).hypotheses(log_probs, np.array([3]))
    assert found.text == "A" and found.score == pytest.approx(3 * np.log(0.91), rel=1e-6)


@pytest.mark.parametrize("workers", [1, 2])
def test_the_beam_gives_the_same_in_any_batch_and_number_of_processes(workers, monkeypatch):
    monkeypatch.setattr(decoding, "MIN_SECONDS_FOR_PROCESSES", 0.0)
    rng = np.random.default_rng(1)
    log_probs = np.log(rng.dirichlet(np.ones(5) / 2, size=(20, 7)))
    lengths = np.array([20, 0, 1, 13, 20, 7, 5])
    for row, length in enumerate(lengths):
        log_probs[length:, row] = np.nan  # never read
    config = LMConfig(decoder_type="beam", beam_width=8, top_paths=3, lm_workers=workers)
    decoder = make_decoder(config, VOCABULARY)
    search = BeamSearch(VOCABULARY, 8, top_paths=3)
    expected = [search(log_probs[:length, row]) for row, length in enumerate(lengths)]
    assert [len(found) for found in expected] == [3, 1, 3, 3, 3, 3, 3]
    assert decoder.hypotheses(log_probs, lengths) == expected
    assert decoder.hypotheses(log_probs[:, 3:4], lengths[3:4]) == expected[3:4]
    assert decoder(log_probs, lengths) == [found[0].text for found in expected]


def die(log_probs: np.ndarray) -> None:
    os._exit(1)


def test_a_killed_process_is_an_error_in_one_line(monkeypatch):
    monkeypatch.setattr(decoding, "MIN_SECONDS_FOR_PROCESSES", 0.0)
    monkeypatch.setattr(decoding, "_search_in_worker", die)
    decoder = make_decoder(LMConfig(decoder_type="beam", lm_workers=2), VOCABULARY)
    with pytest.raises(UserError, match="one of 2 decoding processes was killed.*lm_workers"):
        decoder(one_hot(["A", "B"]), np.array([1, 1]))


def test_make_decoder_picks_by_name():
    assert isinstance(make_decoder(LMConfig(decoder_type="greedy"), VOCABULARY), GreedyDecoder)
    assert isinstance(make_decoder(LMConfig(decoder_type="Beam"), VOCABULARY), BeamDecoder)
    with pytest.raises(UserError, match="'magic'; there is greedy, beam"):
        make_decoder(LMConfig(decoder_type="magic"), VOCABULARY)


@pytest.mark.parametrize(
    ("key", "value"),
    [("beam_width", 0), ("cutoff_top_n", -1), ("top_paths", 0), ("lm_workers", 0)]
    + [("cutoff_prob", 0.0), ("cutoff_prob", 1.5), ("alpha", -1.0)],
)
def test_impossible_numbers_are_refused(key, value):
    with pytest.raises(UserError, match=f"LMConfig.{key}={value}: expected at least"):
        check(EvalConfig(LMConfig=LMConfig(**{key: value})))


def test_a_language_model_that_greedy_decoding_would_ignore_is_refused():
    with pytest.raises(UserError, match="lm_path x.arpa: greedy decoding uses no language model"):
        make_decoder(LMConfig(lm_path="x.arpa"), VOCABULARY)


def test_a_word_model_needs_a_space_among_the_labels():
    with pytest.raises(UserError, match="lm_path x.arpa: .* needs a space among the labels"):
        make_decoder(
            LMConfig(decoder_type="beam", lm_path="x.arpa"), CharacterTokenizer(("A", "_"))
        )


def test_a_model_of_other_words_gives_a_warning_with_the_share(tmp_path):
    pytest.importorskip("kenlm", reason="pip install -r requirements-lm.txt")
    arpa = str(write_arpa(tmp_path / "words.arpa"))  # it knows A, B, AB, BA and AAB
    tokenizer = CharacterTokenizer(tuple("AB _"))

    def decoder() -> Decoder:
        return make_decoder(LMConfig(decoder_type="beam", lm_path=arpa, beam_width=4), tokenizer)

    def decode(decoder: Decoder, *texts: str) -> None:
        spelled = [[letter for pair in zip(text, "_" * 99) for letter in pair] for text in texts]
        for letters in spelled:
            ids = [tokenizer.labels.index(letter) for letter in letters]
            log_probs = np.log(np.eye(4)[ids] * 0.9 + 0.025)[:, None]
            decoder(log_probs, np.array([len(ids)]))

    doubted = decoder()
    decode(doubted, "BB A BB ABA", "B BBB BAB AB BBA")
    (line,) = doubted.warnings()
    assert f"{arpa} knows 14 % of the recognised words (1 of 7 of two letters" in line
    assert doubted.warnings() == []  # of the words since then
    decode(doubted, "A A B A B A B")
    assert doubted.warnings() == []  # too short to tell a model of words from one of letters
    trusted = decoder()
    decode(trusted, "AB BA A AAB BB BBA")
    assert trusted.warnings() == []


def test_the_python_api_logs_what_the_decoder_warns_of(caplog):
    class Doubtful(SpeechDecoder):
        def decode(self, features, lengths, valid=None):
            return [DecodedUtterance([Hypothesis("A", 0.0)]) for _ in lengths]

        def warnings(self):
            return ["the language model knows 0 % of the recognised words"]

    featurizer = Featurizer(FeatureConfig(sample_rate=8000))
    model = SimpleNamespace(  # an AcousticModel
        config=SimpleNamespace(DataConfig=DataConfig()),
        tokenizer=VOCABULARY,
        featurizer=featurizer,
        front_end=featurizer,
        frame_seconds=0.02,
        static=False,
        max_frames=math.inf,
        forward_memory=lambda: None,
    )
    recognizer = Recognizer(model, Doubtful())
    assert recognizer.transcribe((np.zeros(8000, np.float32), 8000)).text == "A"
    assert [record.message for record in caplog.records] == Doubtful().warnings()


def test_decoders_are_described_in_words():
    assert describe(LMConfig()) == "greedy"
    beam = LMConfig(decoder_type="Beam", beam_width=20, alpha=0.8)
    assert describe(beam) == "beam search, 20 prefixes"
    beam.lm_path = "words.arpa"
    expected = "beam search, 20 prefixes, language model words.arpa (alpha 0.8, beta 0)"
    assert describe(beam) == expected
