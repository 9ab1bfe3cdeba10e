import itertools
import json
import pickle
import re
import string
import unicodedata
from pathlib import Path

import pytest

from common.text.tokenizer import (
    _SCRIPTS_WITHOUT_SPACES,
    CharacterTokenizer,
    ctc_frames_needed,
    labels_of,
    script_without_spaces,
)
from common.utils.errors import UserError
from common.utils.wording import counted

ENGLISH = Path(__file__).parents[1] / "deepspeech2" / "labels.json"


@pytest.fixture
def english():
    return CharacterTokenizer.from_file(ENGLISH)


def test_shipped_label_files_are_valid(english):
    assert english.labels == ("'", *string.ascii_uppercase, " ", "_")
    assert len(english) == 29 and english.blank == 28


def test_decoding_inverts_encoding(english):
    text = "DON'T STOP 'TIL"
    ids = english.encode(text)
    assert ids[:5] == [4, 15, 14, 0, 20]
    assert ids.count(0) == 2  # the apostrophe is label 0, and stays
    assert english.decode(ids) == text
    assert english.encode("") == [] and english.decode([]) == ""


def test_unknown_characters_are_named(english):
    assert english.unknown("ÄH, 2!") == {"Ä", ",", "2", "!"}
    with pytest.raises(UserError, match="'Ä'"):
        english.encode("ÄH")
    assert english.unknown("A_B") == {"_"}  # it would read as the blank
    with pytest.raises(UserError, match="'_'"):
        english.encode("A_B")


@pytest.mark.parametrize(
    "raw, normal",
    [
        ("  don't \t stop\r\n", "DON'T STOP"),
        ("\ufeffHELLO", "HELLO"),
        ("non\u00a0stop\u3000now", "NON STOP NOW"),
        (" \n", ""),
    ],
)
def test_english_is_normalised(english, raw, normal):
    assert english.normalise(raw) == normal
    assert english.normalise(normal) == normal


def test_case_follows_the_labels():
    assert CharacterTokenizer(("a", "b", " ", "_")).normalise("A Bb") == "a bb"
    assert CharacterTokenizer(("A", "B", " ", "_")).normalise("A Bb") == "A BB"
    assert CharacterTokenizer(("A", "b", " ", "_")).normalise("A Bb") == "A Bb"


LATIN = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
TURKISH = "ABCÇDEFGĞHIİJKLMNOÖPRSŞTUÜVYZ"
TURKISH_SMALL = "abcçdefgğhıijklmnoöprsştuüvyz"


@pytest.mark.parametrize(
    "letters, raw, folded",
    [
        # letters without a pair do not tell the case of the list
        (LATIN + "ÄÖÜß", "straße STRAẞE", "STRAßE STRAßE"),
        (LATIN + "ÄÖÜẞ", "straße STRAẞE", "STRAẞE STRAẞE"),
        (LATIN + "ÄÖÜ", "straße STRAẞE", "STRASSE STRASSE"),
        (LATIN.lower() + "äöüß", "STRAẞE Ö", "straße ö"),
        (LATIN + "Ñªº", "niño ª º", "NIÑO ª º"),
        (LATIN.lower() + "ñªº", "NIÑO ª º", "niño ª º"),
        (LATIN + "ŉ", "ŉ ﬁn", "ŉ FIN"),
        # Turkish and Azeri
        (TURKISH, "bir iki istanbul ısparta", "BİR İKİ İSTANBUL ISPARTA"),
        (TURKISH, "I\u0307 i\u0307 İ I ı i", "İ İ İ I I İ"),
        (TURKISH_SMALL, "BİR İKİ İSTANBUL ISPARTA", "bir iki istanbul ısparta"),
        (TURKISH_SMALL, "I\u0307 i\u0307 İ I ı i", "i i i ı ı i"),
        (LATIN, "istanbul ısparta", "ISTANBUL ISPARTA"),
        # composed again after the case has changed; the capital of ΐ has no tonos
        ("ΑΡΠΩΪΫ", "πρωΐα \u03c5\u0308\u0301", "ΠΡΩΪΑ Ϋ"),
        ("ΑΆΡΠ", "πα\u0301ρ", "ΠΆΡ"),
        ("αλογςσ", "ΛΟΓΟΣ ΣΑΣ", "λογος σας"),
        ("აბგ", "აბგ", "აბგ"),
    ],
)
def test_one_case_is_folded_to_with_the_letters_of_the_language(letters, raw, folded):
    tokenizer = CharacterTokenizer((*letters, " ", "_"))
    found = tokenizer.normalise(raw)
    assert found == folded == tokenizer.normalise(folded)
    assert unicodedata.is_normalized("NFC", found)
    assert tokenizer.decode(tokenizer.encode(found)) == folded  # nothing is unknown
    assert pickle.loads(pickle.dumps(tokenizer)).normalise(raw) == folded


def test_letters_that_cannot_be_folded_are_unknown():
    small = CharacterTokenizer((*LATIN.lower(), " ", "_"))
    assert small.unknown(small.normalise("İSTANBUL ı ß")) == {"\u0307", "ı", "ß"}
    greek = CharacterTokenizer((*"ΑΪ", " ", "_"))
    assert greek.unknown(greek.normalise("ΑΪ\u0301 ά")) == {"\u0301", "Ά"}


def test_both_cases_are_kept_in_turkish_too():
    both = CharacterTokenizer((*TURKISH, *TURKISH_SMALL, " ", "_"))
    assert both.normalise("İstanbul Isparta") == "İstanbul Isparta"


def test_accents_are_composed():
    french = CharacterTokenizer(("é", "t", "_"))
    assert french.encode(french.normalise("e\u0301te\u0301")) == [0, 1, 0]


def test_chinese_labels_are_read_from_a_file_with_bom(tmp_path):
    path = tmp_path / "labels.json"
    path.write_text(json.dumps(["_", "你", "好", "世", "界"], ensure_ascii=False), "utf-8-sig")
    chinese = CharacterTokenizer.from_file(path)
    assert chinese.blank == 0
    text = chinese.normalise("\ufeff你好 世界\n")
    assert text == "你好世界"  # no label for a space
    assert chinese.encode(text) == [1, 2, 3, 4]
    assert chinese.decode([3, 4]) == "世界"


def test_words_are_characters_in_scripts_that_separate_none(english):
    assert english.words("DON'T STOP") == ["DON'T", "STOP"]
    chinese = CharacterTokenizer(("你", "好", "世", "界", "_"))
    assert chinese.words(chinese.normalise(" 你好 世界 ")) == ["你", "好", "世", "界"]
    assert english.words("") == chinese.words("") == []
    assert "WER counts characters" in chinese.words_note and "(Han)" in chinese.words_note
    segmented = CharacterTokenizer((*chinese.labels, " "))
    assert segmented.words(segmented.normalise("你好 世界")) == ["你好", "世界"]
    assert english.words_note == segmented.words_note == ""


def test_words_stay_words_where_letters_have_no_space():
    commands = CharacterTokenizer((*string.ascii_uppercase, "_"))
    assert commands.words(commands.normalise("eleven\n")) == ["ELEVEN"]
    assert commands.words_note == ""
    assert commands.normalise("hello  world") == "HELLO WORLD"  # not run together
    assert commands.unknown("HELLO WORLD") == {" "}


def test_scripts_that_separate_no_words():
    names = {
        "Han": "CJK UNIFIED IDEOGRAPH-4E00",
        "Kana": "HIRAGANA LETTER A",
        "Thai": "THAI CHARACTER KO KAI",
        "Lao": "LAO LETTER KO",
        "Khmer": "KHMER LETTER KA",
        "Myanmar": "MYANMAR LETTER KA",
        "Tibetan": "TIBETAN LETTER KA",
    }
    for script, name in names.items():
        assert script_without_spaces(["A", unicodedata.lookup(name)]) == script
    assert script_without_spaces("Aé-'9 Жα한글אعहαქ") == ""


def test_cpp_has_the_same_scripts():
    source = ENGLISH.parents[1] / "ascend310_infer" / "src" / "decoding.cpp"
    table = source.read_text("utf-8").split("kScriptsWithoutSpaces[] = {")[1].split("};")[0]
    pairs = re.findall(r"\{0x(\w+), 0x(\w+)\}", table)
    blocks = [(int(first, 16), int(last, 16)) for first, last in pairs]
    assert blocks == list(itertools.chain.from_iterable(_SCRIPTS_WITHOUT_SPACES.values()))


def test_labels_of_texts_have_a_space_unless_the_script_needs_none():
    assert labels_of(["ONE", "TWO"]) == [*"ENOTW", " ", "_"]
    assert labels_of(["A B_"]) == ["A", "B", " ", "_"]
    assert labels_of(["你好"]) == ["你", "好", "_"]
    assert labels_of(["你 好"]) == ["你", "好", " ", "_"]


def test_decomposed_labels_are_composed(tmp_path):
    path = tmp_path / "labels.json"
    path.write_text('["e\u0301", "_"]', "utf-8")
    assert CharacterTokenizer.from_file(path).labels == ("é", "_")


@pytest.mark.parametrize(
    "content, reason",
    [
        (b'["A", "B"]', "labels without blank"),
        (b'["A", "_", "_"]', "more than once: '_'"),
        (b'["A", "B", "A", "_"]', "more than once: 'A'"),
        (b'["AB", "_"]', "single characters, 'AB' is not"),
        (b'["", "_"]', "single characters, '' is not"),
        (b'[1, "_"]', "expected a list"),
        (b'{"A": 0}', "expected a list"),
        (b'["A", "_"', "not JSON in UTF-8"),
        (b'["\xe9", "_"]', "not JSON in UTF-8"),
        (None, "No such file"),
    ],
)
def test_wrong_labels_files_are_refused_by_name(tmp_path, content, reason):
    path = tmp_path / "mine.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=f"mine.json: .*{reason}") as caught:
        CharacterTokenizer.from_file(path)
    assert "\n" not in str(caught.value)


def test_vocabularies_with_equal_labels_are_equal_and_can_be_pickled(english):
    english.encode("A")
    english.normalise("a")
    assert CharacterTokenizer(list(english.labels)) == english
    assert pickle.loads(pickle.dumps(english)) == english
    assert CharacterTokenizer(("A", "_")) != english


def test_one_thing_is_counted_in_the_singular():
    assert [counted(number, "epoch") for number in (0, 1, 2)] == ["0 epochs", "1 epoch", "2 epochs"]
    assert [counted(number, "batch", "batches") for number in (1, 2)] == ["1 batch", "2 batches"]


def test_ctc_frames_needed_agrees_with_enumeration():
    def spelled(path):
        return tuple(label for label, _ in itertools.groupby(path) if label != 0)

    for length in range(4):
        for ids in itertools.product((1, 2), repeat=length):
            fewest = next(
                frames
                for frames in range(10)
                if any(spelled(p) == ids for p in itertools.product((0, 1, 2), repeat=frames))
            )
            assert ctc_frames_needed(ids) == fewest
