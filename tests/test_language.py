"""Word models against ARPA's definition, what they promise for unfinished words, bad files."""

from __future__ import annotations

import bz2
import gzip
import lzma
import re
import sys
from pathlib import Path

import numpy as np
import pytest
from synthetic_lm import BACKOFFS, log_prob, write_arpa

from common.decoding.ngram_lm import LanguageModelLookahead, WordModel
from common.text.tokenizer import CharacterTokenizer
from common.utils.errors import UserError

VOCABULARY = CharacterTokenizer(tuple("AB _"))
DATA = Path(__file__).parent / "data"  # words.*.klm: KenLM's build_binary on write_arpa's file
TEXTS = ["A", "AB", "A B", "A AB A", "AB A B BA", "AAA A B", "B AAA AAA", "AAB BA"]


@pytest.fixture
def arpa(tmp_path) -> Path:
    pytest.importorskip("kenlm", reason="pip install -r requirements-lm.txt")
    return write_arpa(tmp_path / "words.arpa")


def total(model: WordModel, text: str) -> float:
    history, score = model.start(), 0.0
    for word in text.split():
        gained, history = model.score(history, word)
        score += gained
    return score


@pytest.mark.parametrize("file", ["words.arpa", "words.probing.klm", "words.trie.klm"])
def test_scores_are_alpha_times_natural_logarithms_plus_beta(arpa, file):
    path = arpa if file == arpa.name else DATA / file
    model = WordModel(path, VOCABULARY, 0.7, 1.5, -3.0)
    for text in TEXTS:
        expected = 0.7 * log_prob(text, -3.0) + 1.5 * len(text.split())
        assert total(model, text) == pytest.approx(expected, rel=1e-6)
    assert model.lookahead.row("AA") > 0 and model.lookahead.row("AAA") == 0


PACKED = {".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress}


@pytest.mark.parametrize("suffix", PACKED)
def test_compressed_files_are_the_same_model(arpa, tmp_path, suffix):
    packed = tmp_path / f"packed{suffix}"
    packed.write_bytes(PACKED[suffix](arpa.read_bytes()))
    lower = CharacterTokenizer(tuple("ab _"))
    plain, model = (WordModel(path, lower, 1.0, 0.0, -3.0) for path in (arpa, packed))
    for text in TEXTS:
        assert total(model, text.lower()) == total(plain, text.lower())
        assert total(model, text.lower()) == pytest.approx(log_prob(text, -3.0), rel=1e-6)
    assert model.lookahead.row("aa") > 0
    assert model.knows("aab") and not model.knows("aaa")


def test_compressed_files_are_read_by_a_kenlm_that_cannot(arpa, tmp_path, monkeypatch):
    import kenlm

    load = kenlm.Model

    def without_zlib(path: str, config: kenlm.Config) -> kenlm.Model:
        if path.endswith(".gz"):
            raise OSError("This looks like a gzip file but gzip support was not compiled in.")
        return load(path, config)

    monkeypatch.setattr(kenlm, "Model", without_zlib)
    packed = tmp_path / "packed.gz"
    packed.write_bytes(gzip.compress(arpa.read_bytes()))
    assert total(WordModel(packed, VOCABULARY, 1.0, 0.0, -3.0), "A AB") == pytest.approx(
        log_prob("A AB"), rel=1e-6
    )


def test_letter_case_does_not_matter(arpa):
    lower = CharacterTokenizer(tuple("ab _"))
    for text in TEXTS:
        found = total(WordModel(arpa, lower, 1.0, 0.0, -3.0), text.lower())
        assert found == pytest.approx(log_prob(text, -3.0), rel=1e-6)


def test_without_unk_unknown_words_are_next_to_impossible(arpa):
    text = arpa.read_text().replace("-1.2\t<unk>\n", "").replace("ngram 1=8", "ngram 1=7")
    arpa.write_text(text)
    model = WordModel(arpa, VOCABULARY, 1.0, 0.0, 0.0)
    assert total(model, "BBB") == pytest.approx(-100 * np.log(10) + BACKOFFS["<s>"] * np.log(10))
    assert total(model, "AB") == pytest.approx(log_prob("AB"), rel=1e-6)


def test_the_lookahead_is_the_best_word_with_this_beginning():
    rng = np.random.default_rng(0)
    words = {"".join(rng.choice(list("ABÄ'"), rng.integers(1, 5))) for _ in range(60)}
    scores = {word: float(rng.normal(-5, 2)) for word in words}
    tokenizer = CharacterTokenizer(tuple("B_ 'A"))
    lookahead = LanguageModelLookahead(tokenizer, scores, unknown=-6.0)
    beginnings = sorted({word[:n] for word in words for n in range(len(word))}) + ["Q", "AQ"]
    for _ in range(2):
        rows = np.array([lookahead.row(beginning) for beginning in beginnings])
        found = lookahead.after(rows)
        assert found.shape == (len(beginnings), 5) and (rows[-2:] == 0).all()
        for beginning, row in zip(beginnings, found, strict=True):
            for label, score in zip(tokenizer.labels, row, strict=True):
                longer = [scores[word] for word in words if word.startswith(beginning + label)]
                assert score == max([-6.0, *longer])
        lookahead.clear()


# ---- bad files


def refused(path: Path) -> str:
    with pytest.raises(UserError) as caught:
        WordModel(path, VOCABULARY, 1.0, 0.0, 0.0)
    message = str(caught.value)
    assert message.startswith(f"LMConfig.lm_path {path}: ") and message.isprintable()
    return message


def test_files_that_are_not_language_models_are_named(arpa, tmp_path):
    assert refused(tmp_path / "none.arpa").endswith("No such file or directory")
    assert refused(tmp_path).endswith("Is a directory")
    contents = {
        "empty": b"",
        "text": b"a text\n" * 30,
        "noise": bytes(range(256)) * 40,
        "cut.arpa": arpa.read_bytes()[:150],
        "cut.klm": (DATA / "words.probing.klm").read_bytes()[:200],
        "latin.arpa": arpa.read_bytes().replace(b"AAB", b"A\xc4B"),
        "text.gz": gzip.compress(b"a text\n" * 30),
        "cut.arpa.gz": gzip.compress(arpa.read_bytes())[:-60],
        "cut.arpa.bz2": bz2.compress(arpa.read_bytes())[:60],
        "cut.arpa.xz": lzma.compress(arpa.read_bytes())[:60],
        "noise.gz": b"\x1f\x8b" + bytes(range(256)),
    }
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
        message = refused(tmp_path / name)
        assert "not an n-gram language model, an ARPA file or KenLM's binary" in message


def test_models_without_a_word_that_the_labels_can_spell_are_refused(arpa, tmp_path):
    content = arpa.read_text()
    arpa.write_text(
        re.sub(r"\b[AB]+\b", lambda word: word[0].translate({65: 1046, 66: 1041}), content)
    )
    message = refused(arpa)
    assert "can spell no word of this language model" in message and "'Ж', 'Б', 'ЖБ'" in message
    arpa.write_text(
        "\\data\\\nngram 1=3\nngram 2=1\n\n\\1-grams:\n-1\t<unk>\n-99\t<s>\t0\n-1\t</s>\n\n"
        "\\2-grams:\n-1\t<s> </s>\n\n\\end\\\n"
    )
    assert refused(arpa).endswith("which has none")


def test_a_compressed_binary_says_what_to_do(arpa, tmp_path):
    packed = tmp_path / "words.klm.gz"
    packed.write_bytes(gzip.compress((DATA / "words.probing.klm").read_bytes()))
    assert "KenLM's binary, compressed: decompress it" in refused(packed)


def test_a_missing_kenlm_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "kenlm", None)
    monkeypatch.chdir(tmp_path)
    message = refused(write_arpa(tmp_path / "any.arpa"))
    setup = re.search("package kenlm.*: bash ([^ ]*) requirements-lm.txt", message)[1]
    assert Path(setup).resolve() == DATA.parents[1] / "scripts" / "setup.sh"
    assert Path(setup).resolve().parents[1].joinpath("requirements-lm.txt").is_file()
