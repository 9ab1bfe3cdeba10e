"""Normalisation of transcripts: numbers, abbreviations and signs of written English as words.

Follows the cleaners of NVIDIA's Jasper (from keithito/tacotron), which the MindSpore original uses,
too: "call me at 8:00 pm!" -> "call me at eight zero pm". `inflect` spells numbers, `anyascii`
transliterates letters. Where the cleaners give words that nobody says, this differs:

| written | cleaners | here |
| --- | --- | --- |
| 3.14 | three point fourteen | three point one four |
| 1,234 | twelve thirty-four, as if a year | one thousand two hundred thirty-four |
| 1,2,3 | one hundred twenty-three | one two three |
| $2.5 million | two dollars five cents million | two point five million dollars |
| £3.50 | three pounds.fifty | three pounds fifty pence |
| 1980s | nineteen eightys | nineteen eighties |
| b2b | btwob | b two b |
| Mrs. | misess | missus |

Characters that still have no label stay, so that validation reports them; the cleaners drop them.
"""

from __future__ import annotations

import functools
import re
import string
import unicodedata
from collections.abc import Callable, Iterable
from typing import Any

from common.text.tokenizer import BLANK
from common.utils.errors import UserError

_ABBREVIATIONS = {
    "capt": "captain",
    "co": "company",
    "col": "colonel",
    "dr": "doctor",
    "drs": "doctors",
    "esq": "esquire",
    "ft": "fort",
    "gen": "general",
    "hon": "honorable",
    "jr": "junior",
    "lt": "lieutenant",
    "ltd": "limited",
    "maj": "major",
    "mr": "mister",
    "mrs": "missus",
    "rev": "reverend",
    "sgt": "sergeant",
    "st": "saint",
}
_ABBREVIATION = re.compile(rf"\b({'|'.join(_ABBREVIATIONS)})\.")
_SIGNS = {"&": " and ", "+": " plus "}
_MONEY = {  # one unit, several, one hundredth, several
    "$": ("dollar", "dollars", "cent", "cents"),
    "£": ("pound", "pounds", "penny", "pence"),
    "€": ("euro", "euros", "cent", "cents"),
}
_FOREIGN = re.compile(r"[^\x00-\x7f£€]+")
_PLAIN = re.compile(r"[A-Za-z' ]*")
_INTEGER = r"(?:[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])|[0-9]+)"
_NUMBER = re.compile(
    rf"""
      (?P<currency>[$£€])\ ?(?P<amount>{_INTEGER}(?:\.[0-9]+)?)
        (?:\ (?P<scale>thousand|million|billion|trillion)\b)?
    | (?P<hour>\b[0-9]{{1,2}}):(?P<minute>[0-9]{{2}})\b
    | (?P<ordinal>{_INTEGER}(?:st|nd|rd|th))\b
    | (?P<decade>[0-9]+)s\b
    | (?P<whole>{_INTEGER})\.(?P<fraction>[0-9]+)
    | (?P<integer>{_INTEGER})
    """,
    re.VERBOSE,
)


def normaliser(kind: str, labels: Iterable[str]) -> Callable[[str], str]:
    """Return the function that DataConfig.normalize_transcripts names.

    Args:
        kind: "english", or "" for no normalisation.
        labels: The labels; punctuation among them is kept.

    Returns:
        Transcript -> normalised transcript.

    Raises:
        UserError: An unknown name.
    """
    if not kind:
        return lambda text: text
    if kind != "english":
        raise UserError(
            f"DataConfig.normalize_transcripts={kind}: expected english, or nothing to keep the "
            "transcripts as they are"
        )
    removed = set(string.punctuation) - set(_SIGNS) - (set(labels) - {BLANK})
    table = str.maketrans(dict.fromkeys(removed, " ") | _SIGNS)
    return functools.partial(_english, table=table)


def _english(text: str, table: dict[int, str]) -> str:
    if not _PLAIN.fullmatch(text):
        text = unicodedata.normalize("NFC", text)
        text = _FOREIGN.sub(lambda match: _ascii(match[0]), text).lower()
        text = _NUMBER.sub(_number, text)
        text = _ABBREVIATION.sub(lambda match: _ABBREVIATIONS[match[1]], text)
    return " ".join(text.lower().translate(table).split())


def _ascii(text: str) -> str:
    from anyascii import anyascii

    return anyascii(text)


def _number(match: re.Match[str]) -> str:
    """Spell a number as words, separated by a space from a letter next to it."""
    parts = match.groupdict()
    if parts["currency"]:
        words = _money(_MONEY[parts["currency"]], parts["amount"], parts["scale"])
    elif parts["hour"]:
        minute = "zero" if parts["minute"] == "00" else _integer(parts["minute"])
        words = f"{_integer(parts['hour'])} {minute}"
    elif parts["ordinal"]:
        words = _spelled(parts["ordinal"].replace(",", ""))
    elif parts["decade"]:
        words = _engine().plural(_integer(parts["decade"]))
    elif parts["whole"]:
        words = _decimal(parts["whole"], parts["fraction"])
    else:
        words = _integer(parts["integer"])
    before, after = match.string[: match.start()][-1:], match.string[match.end() :][:1]
    return " " * before.isalpha() + words + " " * after.isalpha()


def _money(units: tuple[str, str, str, str], amount: str, scale: str | None) -> str:
    one, many, hundredth, hundredths = units
    whole, _, fraction = amount.replace(",", "").partition(".")
    if scale or len(fraction) > 2:
        number = _decimal(whole, fraction) if fraction else _quantity(whole)
        return f"{number} {scale} {many}" if scale else f"{number} {many}"
    units_count, rest = int(whole), int(fraction.ljust(2, "0"))
    words = [f"{_quantity(whole)} {one if units_count == 1 else many}"] if units_count else []
    if rest:
        words.append(f"{_quantity(str(rest))} {hundredth if rest == 1 else hundredths}")
    return " ".join(words) or f"zero {many}"


def _decimal(whole: str, fraction: str) -> str:
    return f"{_quantity(whole)} point {_digits(fraction)}"


def _integer(digits: str) -> str:
    """Spell a number as it is read aloud.

    With commas it is a quantity, of four digits a year; a very long number, or one with a leading
    zero, is read digit by digit.
    """
    if "," in digits:
        return _quantity(digits)
    number = int(digits)
    if digits[0] == "0" or (number > 10**9 and number % 10_000):
        return _digits(digits)
    if 1000 < number < 3000 and not 2000 <= number < 2010:
        if number % 100 == 0:
            return f"{_spelled(number // 100)} hundred"
        return _spelled(number, zero="oh", group=2)
    return _quantity(digits)


def _quantity(digits: str) -> str:
    digits = digits.replace(",", "")
    return _digits(digits) if len(digits) > 15 else _spelled(int(digits))


def _digits(digits: str) -> str:
    return " ".join(_spelled(int(digit)) for digit in digits)


def _spelled(number: int | str, **options: Any) -> str:
    """Return the words of inflect without commas; an ordinal has "and", as in the cleaners."""
    if isinstance(number, int):
        options["andword"] = ""
    return _engine().number_to_words(number, **options).replace(",", "")


@functools.cache
def _engine() -> Any:
    import inflect  # takes half a second, so only where there is a number

    return inflect.engine()
