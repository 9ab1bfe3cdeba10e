"""Normalisation of transcripts: numbers, abbreviations and signs of written English as words.

That of Mandarin is in `mandarin`.

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
| 5$ | five | five dollars |
| 10%, -5, .5 | ten, five, five | ten percent, minus five, point five |
| 1 000 | one zero | one thousand |
| ½ cup | one two cup | one half cup |
| 1980s | nineteen eightys | nineteen eighties |
| b2b | btwob | b two b |
| Mrs. | misess | missus |

What people say in several ways stays as it is, so that validation reports it, where the cleaners
drop it: signs as in 1/2, 5°C or #1, and what stands between numbers, as in 10-20 ("to", "minus" or
nothing) or 12 500 (one number or two).
"""

from __future__ import annotations

import functools
import re
import string
import unicodedata
from collections.abc import Callable, Iterable
from typing import Any

from common.text.mandarin import mandarin_normaliser
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
_SPOKEN = frozenset("#$%*/<=>@\\^|~")  # in several ways, or not at all: never removed
_MONEY = {  # one unit, several, one hundredth, several
    "$": ("dollar", "dollars", "cent", "cents"),
    "£": ("pound", "pounds", "penny", "pence"),
    "€": ("euro", "euros", "cent", "cents"),
}
_FOREIGN = re.compile(r"[^\x00-\x7f£€]+")
# Unicode's categories that are transliterated, and punctuation of the category Po that is silent.
# Signs such as °, § or ² are not: anyascii has "deg" or "SS" for them, which nobody says.
_LETTERS = frozenset("Ll Lm Lo Lt Lu Mc Me Mn Nd Pd Pe Pf Pi Ps Cf Zl Zp Zs".split())
_SILENT = frozenset("…·•‚‛¡¿、。，．！？；：＇＂")
_SYMBOLS = frozenset("µªº")  # letters by their category only
_MINUS = re.compile("\\s*\N{MINUS SIGN}\\s*(?=[$£€]?\\.?[0-9])")
_DOMAIN = re.compile(r"\.(?=(?:com|edu|gov|net|org)\b)")
_PLAIN = re.compile(r"[A-Za-z' ]*")
_INTEGER = (
    r"(?:[0-9]{1,3}(?:[,'][0-9]{3})+(?![0-9])|[0-9]{1,3}(?:\ [0-9]{3})*\ 000(?![0-9])|[0-9]+)"
)
_AMOUNT = rf"(?:{_INTEGER}(?:\.[0-9]+)?|(?<![0-9a-z.])\.[0-9]+)"
_SCALE = "thousand|million|billion|trillion"
_MOST_DIGITS = 15  # of a number that is not read digit by digit
_FRACTIONS = "½⅓⅔¼¾⅕⅖⅗⅘⅙⅚⅐⅛⅜⅝⅞⅑⅒"
_DIGIT = re.compile(f"[0-9{_FRACTIONS}]")
_NUMBER = re.compile(
    rf"""
      # what may be said between two numbers
      (?P<between>
        (?:(?<=[0-9%$£€])|(?<=[0-9][a-z])|(?<=[0-9][a-z][a-z]))
        (?:[-:.]|\ -\ )(?=[$£€]?\.?[0-9])
      )
    | (?P<telephone>(?<![0-9-])(?:1-)?(?:[0-9]{{3}}-)?[0-9]{{3}}-[0-9]{{4}}(?![0-9-]))
      # one number or several
    | (?P<apart>
        (?<![0-9.,])[0-9]{{1,3}}(?:\ [0-9]{{3}})+(?![0-9]|\ [0-9]{{3}}(?![0-9]))(?<!\ 000)
      )
    | (?P<minus>(?<![^\s(\["'])-)?
      (?:
        (?P<currency>[$£€])\ ?(?P<amount>{_AMOUNT})(?![0-9]|\ [0-9]{{3}}(?![0-9]))
          (?:\ (?P<scale>{_SCALE})\b)?
      | (?P<amount_before>{_AMOUNT})(?:\ (?P<scale_before>{_SCALE}))?
          (?:(?P<currency_behind>[$£€])(?![0-9])|\ (?P<currency_apart>[$£€])(?!\ ?\.?[0-9]))
      | (?P<hour>\b[0-9]{{1,2}}):(?P<minute>[0-9]{{2}})\b
      | (?P<ordinal>{_INTEGER}(?:st|nd|rd|th))\b
      | (?P<decade>[0-9]+)s\b
      | (?:(?P<number>{_AMOUNT})(?:\ ?(?P<part>[{_FRACTIONS}]))?|(?P<fraction>[{_FRACTIONS}]))
          (?P<percent>\ ?%)?
      )
    """,
    re.VERBOSE,
)
_HIDDEN = {"-": "\ue000", ":": "\ue001", ".": "\ue002"}  # from the removal of punctuation


def normaliser(kind: str, labels: Iterable[str]) -> Callable[[str], str]:
    """Return the function that DataConfig.normalize_transcripts names.

    Args:
        kind: "english", "mandarin", or "" for no normalisation.
        labels: The labels; punctuation among them is kept.

    Returns:
        Transcript -> normalised transcript.

    Raises:
        UserError: An unknown name.
    """
    if not kind:
        return lambda text: text
    if kind not in ("english", "mandarin"):
        raise UserError(
            f"DataConfig.normalize_transcripts={kind}: expected english, mandarin or nothing, "
            "which keeps the transcripts as they are"
        )
    kept = set(labels) - {BLANK}
    if kind == "mandarin":
        return mandarin_normaliser(kept)
    removed = set(string.punctuation) - set(_SIGNS) - _SPOKEN - kept
    shown = {hidden: sign for sign, hidden in _HIDDEN.items()}
    table = str.maketrans(dict.fromkeys(removed, " ") | _SIGNS | shown)
    return functools.partial(_english, table=table)


def _english(text: str, table: dict[int, str]) -> str:
    if not _PLAIN.fullmatch(text):
        text = _MINUS.sub(" minus ", unicodedata.normalize("NFC", text))
        text = _FOREIGN.sub(lambda match: _transliterated(match[0]), text).lower()
        text = _DOMAIN.sub(" dot ", text)
        if _DIGIT.search(text):  # what follows takes three times as long
            text = _NUMBER.sub(_number, " ".join(text.split()))
        text = _ABBREVIATION.sub(lambda match: _ABBREVIATIONS[match[1]], text)
    return " ".join(text.lower().translate(table).split())


def _transliterated(text: str) -> str:
    """Write letters and punctuation outside of ASCII in ASCII; signs and symbols stay."""
    from anyascii import anyascii

    if len(text) == 1 and "GREEK" in unicodedata.name(text, ""):
        return text  # a symbol, read by its name or as a unit
    return "".join(
        anyascii(character)
        if character in _SILENT
        or (unicodedata.category(character) in _LETTERS and character not in _SYMBOLS)
        else character
        for character in text
    )


def _number(match: re.Match[str]) -> str:
    """Spell a number as words, separated by a space from a letter next to it."""
    parts = match.groupdict()
    if parts["between"]:
        return f" {_HIDDEN[parts['between'].strip()]} "
    if parts["apart"]:
        return match[0]
    if parts["telephone"]:
        words = _digits(parts["telephone"].replace("-", ""))
    elif parts["currency"]:
        words = _money(_MONEY[parts["currency"]], parts["amount"], parts["scale"])
    elif sign := parts["currency_behind"] or parts["currency_apart"]:
        words = _money(_MONEY[sign], parts["amount_before"], parts["scale_before"])
    elif parts["hour"]:
        minute = "zero" if parts["minute"] == "00" else _integer(parts["minute"])
        words = f"{_integer(parts['hour'])} {minute}"
    elif parts["ordinal"]:
        ordinal = _plain(parts["ordinal"])
        if len(ordinal) > _MOST_DIGITS:
            return match[0]
        words = _spelled(ordinal)
    elif parts["decade"]:
        words = _engine().plural(_integer(parts["decade"]))
    elif parts["fraction"]:
        words = _fraction(parts["fraction"])
    else:
        words = _amount(parts["number"], parts["part"])
    words = "minus " * bool(parts["minus"]) + words + " percent" * bool(parts["percent"])
    text, start, end = match.string, match.start(), match.end()
    before, after = text[max(start - 1, 0) : start], text[end : end + 1]
    return " " * before.isalnum() + words + " " * after.isalnum()


def _money(units: tuple[str, str, str, str], amount: str, scale: str | None) -> str:
    one, many, hundredth, hundredths = units
    whole, _, fraction = _plain(amount).partition(".")
    whole = whole or "0"
    if scale or len(fraction) > 2:
        number = _decimal(whole, fraction) if fraction else _quantity(whole)
        return f"{number} {scale} {many}" if scale else f"{number} {many}"
    count, rest = whole.lstrip("0"), int(fraction.ljust(2, "0"))
    words = [f"{_quantity(count)} {one if count == '1' else many}"] if count else []
    if rest:
        words.append(f"{_quantity(str(rest))} {hundredth if rest == 1 else hundredths}")
    return " ".join(words) or f"zero {many}"


def _amount(number: str, part: str | None) -> str:
    """Spell a number, which may have decimals or a sign such as ½ behind it."""
    whole, point, decimals = number.partition(".")
    words = _decimal(whole, decimals) if point else _integer(whole)
    if not part:
        return words
    return f"{words} and {'a half' if part == '½' else _fraction(part)}"


def _fraction(sign: str) -> str:
    numerator, denominator = map(
        int, unicodedata.normalize("NFKC", sign).split("\N{FRACTION SLASH}")
    )
    names = {2: "half", 4: "quarter"}
    name = names.get(denominator) or _engine().ordinal(_spelled(denominator))
    return f"{_spelled(numerator)} {name}{'s' * (numerator > 1)}"


def _decimal(whole: str, fraction: str) -> str:
    return (
        f"{_quantity(whole)} point {_digits(fraction)}" if whole else f"point {_digits(fraction)}"
    )


def _plain(number: str) -> str:
    """Remove what separates thousands."""
    return re.sub("[,' ]", "", number)


def _integer(digits: str) -> str:
    """Spell a number as it is read aloud.

    With separators of thousands it is a quantity, of four digits a year; a very long number, or one
    with a leading zero, is read digit by digit.
    """
    if not digits.isdecimal():
        return _quantity(digits)
    if digits[0] == "0" or len(digits) > _MOST_DIGITS:
        return _digits(digits)
    number = int(digits)
    if number > 10**9 and number % 10_000:
        return _digits(digits)
    if 1000 < number < 3000 and not 2000 <= number < 2010:
        if number % 100 == 0:
            return f"{_spelled(number // 100)} hundred"
        return _spelled(number, zero="oh", group=2)
    return _quantity(digits)


def _quantity(digits: str) -> str:
    digits = _plain(digits)
    return _digits(digits) if len(digits) > _MOST_DIGITS else _spelled(int(digits))


def _digits(digits: str) -> str:
    return " ".join(_spelled(int(digit)) for digit in digits)


@functools.lru_cache(maxsize=4096)
def _spelled(number: int | str, **options: Any) -> str:
    """Return the words of inflect without commas; an ordinal has "and", as in the cleaners."""
    if isinstance(number, int):
        options["andword"] = ""
    return _engine().number_to_words(number, **options).replace(",", "")


@functools.cache
def _engine() -> Any:
    import inflect  # takes half a second, so only where there is a number

    return inflect.engine()
