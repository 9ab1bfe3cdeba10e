"""Syllables as labels."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from asrt.src.labels import build_labels, dictionary_syllables
from asrt.src.recipe import RECIPE
from asrt.src.tokenizer import SyllableTokenizer
from common.text.tokenizer import restored_tokenizer, stored_tokenizer
from common.utils.errors import UserError

LABELS = ("ni3", "hao3", "ma5", "_")
SPOKEN = {"你": "ni3", "好": "hao3", "吗": "ma5"}


@pytest.fixture
def pronounced(monkeypatch):
    """Stands for the module that knows how characters are pronounced."""

    def syllables(text: str) -> list[str]:
        characters = "".join(text.split())
        if set(characters) - SPOKEN.keys():
            raise UserError(f"text {text!r}: no Mandarin reading")
        return [SPOKEN[character] for character in characters]

    monkeypatch.setitem(sys.modules, "common.text.pinyin", SimpleNamespace(syllables=syllables))


def test_syllables_are_encoded_decoded_and_counted():
    tokenizer = SyllableTokenizer(LABELS)
    assert tokenizer.blank == 3 and len(tokenizer) == 4
    text = tokenizer.normalise("\ufeff Ni3  hao3 ma5\n")
    assert text == tokenizer.normalise(text) == "ni3 hao3 ma5"
    assert tokenizer.encode(text) == [0, 1, 2]
    assert tokenizer.decode([0, 1, 1]) == "ni3 hao3 hao3"
    assert tokenizer.words(text) == ["ni3", "hao3", "ma5"]
    assert tokenizer.separator == " "
    assert tokenizer.frames_needed(tokenizer.encode("hao3 hao3")) == 3
    assert "syllables" in tokenizer.words_note


def test_characters_become_syllables(pronounced):
    tokenizer = SyllableTokenizer(LABELS)
    assert tokenizer.normalise("你 好吗") == "ni3 hao3 ma5"
    assert tokenizer.encode(tokenizer.normalise("好好")) == [1, 1]


def test_what_has_no_syllable_stays_and_is_unknown(pronounced):
    tokenizer = SyllableTokenizer(LABELS)
    assert tokenizer.normalise("你好 OK，吗") == "ni3 hao3 ok， ma5"
    text = tokenizer.normalise("你囗 3 ma5")
    assert text == tokenizer.normalise(text) == "你囗 3 ma5"
    assert tokenizer.unknown(text) == {"你囗", "3"}


def test_unknown_syllables_are_named():
    tokenizer = SyllableTokenizer(LABELS)
    assert tokenizer.unknown("ni3 _ lv4") == {"_", "lv4"}
    assert tokenizer.unknown_in(["lv4 lv4", "lv4 ni3"]) == {"lv4": 2}
    with pytest.raises(UserError, match="syllables without a label: lv4"):
        tokenizer.encode("ni3 lv4")


def test_what_is_stored_gives_the_tokenizer_back():
    tokenizer = SyllableTokenizer(LABELS)
    stored = json.loads(json.dumps(stored_tokenizer(tokenizer)))
    assert restored_tokenizer(SyllableTokenizer, stored, "a") == tokenizer


@pytest.mark.parametrize(
    "text",
    [
        "ni3\t你\nhao3\t好号\nma5\t吗\n",
        '\ufeff["ni3", "hao3", "ma5", "_"]',
        "ni3\t\nhao3\t好\r\n\nma5\t吗",
    ],
)
def test_labels_files_of_both_kinds(text, tmp_path):
    path = tmp_path / "labels"
    path.write_text(text, encoding="utf-8")
    assert SyllableTokenizer.from_file(path).labels == LABELS


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('["ni3", "hao3"]', 'a: 0 of 2 labels are the blank "_", expected 1'),
        ('["ni3", "hao 3", "_"]', "'hao 3' is no syllable"),
        ('["ni3", 3, "_"]', "expected a list like"),
        ('["ni3"', "not JSON"),
        ("ni3\t你\nhao3 好\n", "line 2: 'hao3 好'; expected a JSON list, or"),
        ("\n", "no syllables in it"),
    ],
)
def test_bad_labels_files_are_refused(text, message, tmp_path):
    path = tmp_path / "a"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=re.escape(message)):
        SyllableTokenizer.from_file(path)
    with pytest.raises(UserError, match="No such file"):
        SyllableTokenizer.from_file(tmp_path / "none")


def test_the_labels_that_ship_are_syllables():
    labels = SyllableTokenizer.from_file(RECIPE.folder / "labels.json").labels
    assert labels[-1] == "_" and list(labels[:-1]) == sorted(set(labels[:-1]))
    assert all(re.fullmatch("[a-z]+[1-5]", label) for label in labels[:-1])
    assert {"zhong1", "zhong4", "lv4", "nv3", "de5", "er2", "yi1"} <= set(labels)


def test_the_labels_that_ship_are_pypinyins():
    pytest.importorskip("pypinyin", reason="pip install pypinyin")
    labels = SyllableTokenizer.from_file(RECIPE.folder / "labels.json").labels
    assert set(labels) == dictionary_syllables() | {"_"}


def test_labels_of_a_corpus(pronounced, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("a.csv").write_text("a.wav,你好\nb.wav,ni3 ok lv4\n", encoding="utf-8")
    build_labels(RECIPE, ["a.csv", "--out", "l.json"])
    assert json.loads(Path("l.json").read_text()) == ["hao3", "lv4", "ni3", "_"]
    assert "l.json: 3 syllables and the blank" in capsys.readouterr().out
    Path("a.csv").write_text("a.wav,ok\n", encoding="utf-8")
    with pytest.raises(UserError, match="no syllables in the transcripts"):
        build_labels(RECIPE, ["a.csv", "--out", "l.json"])
