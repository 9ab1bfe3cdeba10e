"""Transcripts as they are spoken: a table of what is written and what is said."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from common.text.normalization import normaliser
from common.utils.errors import UserError

LOWER = [*" abcdefghijklmnopqrstuvwxyz'", "_"]
SAID = {
    # of the references
    "call me at 8:00 pm!": "call me at eight zero pm",
    "at 8:05 and 12:30": "at eight zero five and twelve thirty",
    "Mr. and Mrs. Smith & Co. + Dr. No": "mister and missus smith and company plus doctor no",
    "St. Ltd. ft. costa. most.": "saint limited fort costa most",
    "HELLO,world;\t(dear)  - you?\n": "hello world dear you",
    "it's sure-fire_": "it's sure fire",
    # years
    "in 1984, 1905 and 1900": "in nineteen eighty four nineteen oh five and nineteen hundred",
    "2000 2005 2010 2021": "two thousand two thousand five twenty ten twenty twenty one",
    "1000 and 3000": "one thousand and three thousand",
    "the 1980s, the 60s": "the nineteen eighties the sixties",
    # money
    "$3.50": "three dollars fifty cents",
    "$3.5 for $1": "three dollars fifty cents for one dollar",
    "$0.01, $0": "one cent zero dollars",
    "$1,000.": "one thousand dollars",
    "US$2.5 million": "us two point five million dollars",
    "£1.01 or €20": "one pound one penny or twenty euros",
    "$0.125": "zero point one two five dollars",
    "5$ or 5 €, 1£": "five dollars or five euros one pound",
    "5 $10 bills, 5$ 10€": "five ten dollars bills five dollars ten euros",
    "2.5 million $ and $.50": "two point five million dollars and fifty cents",
    # percent, minus, a leading point, parts
    "10%, 2.5 % and 50%.": "ten percent two point five percent and fifty percent",
    "-5, \u22125.5, (-.5%)": "minus five minus five point five minus point five percent",
    "-$5 and 5 \u2212 3": "minus five dollars and five minus three",
    ".5 of a .22, v.2": "point five of a point two two v two",
    "½ cup, 2½ or 1 ¾ ⅔": "one half cup two and a half or one and three quarters two thirds",
    # thousands
    "1 000, 12 345 000": "one thousand twelve million three hundred forty five thousand",
    "1'000 for $10 000": "one thousand for ten thousand dollars",
    "in 1984 200 people": "in nineteen eighty four two hundred people",
    # signs that are no minus
    "covid-19, 10-year, at - 5 more": "covid nineteen ten year at five more",
    "555-0123, 1-800-555-1234": (
        "five five five zero one two three one eight zero zero five five five one two three four"
    ),
    "example.com": "example dot com",
    # ordinals, quantities, decimals
    "1st 2nd, 3rd. 21st 1,000th": "first second third twenty first one thousandth",
    "1,000 and 1,234,567": (
        "one thousand and one million two hundred thirty four thousand five hundred sixty seven"
    ),
    "1,2,3": "one two three",
    "101 dalmatians": "one hundred one dalmatians",
    "3.14": "three point one four",
    "0, 10, 19, 20": "zero ten nineteen twenty",
    # digit by digit
    "agent 007": "agent zero zero seven",
    "5551234567": "five five five one two three four five six seven",
    "1" + "0" * 39: "one" + " zero" * 39,
    "20000000000": "twenty billion",
    "1" * 5000: ("one " * 5000).strip(),
    "$" + "1" * 5000: "one " * 5000 + "dollars",
    # letters that touch a number
    "8pm, b2b, mp3, the 12's": "eight pm b two b mp three the twelve's",
    # what is not ASCII
    "Café naïve “quoted” it’s – straße": "cafe naive quoted it's strasse",
    "cafe\u0301": "cafe",
    "already plain": "already plain",
    "": "",
    "...": "",
}


@pytest.mark.parametrize("written", SAID)
def test_numbers_abbreviations_and_signs_become_words(written):
    assert normaliser("english", LOWER)(written) == SAID[written]


def test_punctuation_with_a_label_is_kept_but_not_the_blank():
    assert normaliser("english", [*LOWER, ".", "-"])("Twenty-one, a_b.") == "twenty-one a b."
    assert normaliser("english", ["a", "_"])("it's") == "it s"


@pytest.mark.parametrize(
    "written, left",
    [
        # signs that are read in several ways
        ("5 ¥ more", "five ¥ more"),
        ("5°C", "five°c"),
        ("1/2 cup", "one/two cup"),
        ("#1 at 3 km/h", "#one at three km/h"),
        ("a@b.com", "a@b dot com"),
        ("3 × 4 = 12", "three × four = twelve"),
        ("m², 1º, §5, 5‰, №5", "m² one º §five five‰ №five"),
        ("5 µm, 5 \u03bcm, 5 \u2126", "five µm five \u03bcm five \u03c9"),
        ("the % of $", "the % of $"),
        # what is or is not said between two numbers
        ("10-20 or 10\u201320", "ten - twenty or ten - twenty"),
        ("5th-6th, 5km-10km", "fifth - sixth five km - ten km"),
        ("$5-10, 50%-60%", "five dollars - ten fifty percent - sixty percent"),
        ("5 - 3, 1:2, 1.2.3", "five - three one : two one point two . three"),
        # one number or two
        ("12 500 or $12 500", "12 500 or $12 500"),
    ],
)
def test_what_cannot_be_read_stays_for_validation_to_report(written, left):
    found = normaliser("english", LOWER)(written)
    assert found == left and set(found) - set(LOWER)


def test_without_normalisation_transcripts_are_unchanged():
    assert normaliser("", LOWER)("Mr. 5, é") == "Mr. 5, é"


def test_an_unknown_normalisation_is_refused():
    with pytest.raises(
        UserError, match="normalize_transcripts=klingon: expected english, mandarin or noth"
    ):
        normaliser("klingon", LOWER)


@pytest.mark.launcher
def test_libraries_load_only_for_numbers():
    code = (
        "import sys\nfrom common.text.normalization import normaliser\n"
        "assert normaliser('english', 'abc')('A, b') == 'a b'\n"
        "assert not {'inflect', 'anyascii'} & set(sys.modules)\n"
    )
    root = Path(__file__).resolve().parents[1]
    subprocess.run([sys.executable, "-c", code], cwd=root, check=True)
