"""Letter case: what turns a text into the one case that the labels of a network have.

Letters are mapped as Unicode says (chapter 3.13 of its standard, "Default Case Algorithms"), by the
rules of Turkish and Azeri (SpecialCasing.txt) where the labels tell I from İ, or i from ı.
"""

from __future__ import annotations

import functools
import unicodedata
from collections.abc import Callable, Collection

_DOTTED_I = "i\N{COMBINING DOT ABOVE}"  # what İ becomes in small letters outside of Turkish
# Unicode has no capital with both marks of these, and Greek capitals go without the tonos.
_GREEK_CAPITALS = {"ΐ": "Ϊ", "ΰ": "Ϋ"}


def case_folding(labels: Collection[str]) -> Callable[[str], str]:
    """Choose how texts are brought into the case of a list of labels.

    Only letters that come in pairs tell the case of the list: ß, ª or ı have no say.

    Args:
        labels: Single characters.

    Returns:
        Text -> text in Unicode's NFC form; in capitals or in small letters if the labels have only
        one of them. A letter that has no counterpart among the labels stays, or becomes what
        Unicode gives for it.
    """
    cases = {case for label in labels if (case := _case(label))}
    if cases == {"upper"}:
        return functools.partial(_upper, table=_UpperTable(labels), dotless="İ" in labels)
    if cases == {"lower"}:
        return functools.partial(_lower, dotless="ı" in labels)
    return _composed


def _case(letter: str) -> str:
    """Return "upper" or "lower", or "" for what has no other case that leads back to it."""
    lower, upper = letter.lower(), letter.upper()
    if len(lower) == 1 and lower != letter and lower.upper() == letter:
        return "upper"
    if len(upper) == 1 and upper != letter and upper.lower() == letter:
        return "lower"
    return ""


def _composed(text: str) -> str:
    return unicodedata.normalize("NFC", text)


class _UpperTable(dict[int, str]):
    """Capitals by code point, for `str.translate`; labels stand for themselves."""

    def __init__(self, labels: Collection[str]) -> None:
        super().__init__({ord(label): label for label in labels})
        sharp_s = "ß" if "ß" in labels else "ẞ" if "ẞ" in labels else "SS"
        special = {"ß": sharp_s, "ẞ": sharp_s, **_GREEK_CAPITALS}
        if "İ" in labels:
            special["i"] = "İ"  # the capital of ı is I in any language
        for letter, capital in special.items():
            self.setdefault(ord(letter), capital)

    def __missing__(self, code: int) -> str:
        capital = self[code] = chr(code).upper()
        return capital


def _upper(text: str, table: _UpperTable, dotless: bool) -> str:
    text = _composed(text)
    if dotless:
        text = text.replace(_DOTTED_I, "i")
    return _composed(text.translate(table))


def _lower(text: str, dotless: bool) -> str:
    text = _composed(text)
    if dotless:
        text = text.replace("İ", "i").replace("I", "ı").replace(_DOTTED_I, "i")
    return _composed(text.lower())
