"""Normalisation of Mandarin transcripts: simplified Han characters as they are read aloud.

| written | here |
| --- | --- |
| full-width ＡＢＣ, １２３ | half-width ABC, 123, which is then read |
| 頭髮, 發展 | 头发, 发展 (OpenCC's t2s, by phrases) |
| 1998年, 二〇〇八年 | 一九九八年, 二零零八年: years digit by digit |
| 1,234, 10500, 20000 | 一千二百三十四, 一万零五百, 两万 |
| 3.14, -5 | 三点一四, 负五 |
| 50%, 2.5‰ | 百分之五十, 千分之二点五 |
| ￥100, $2.5万, 25℃ | 一百元, 二点五万美元, 二十五摄氏度 |
| 2个, 第2 | 两个, 第二 |
| 007, 13812345678 | digit by digit: a leading zero, or more than eight digits |
| 5G, mp3 | 五G, mp三 |
| 你好，世 界！ | 你好世界: punctuation and the white space beside Han go |
| 用 deep learning 训练 | 用deep learning训练: English words stay, with the spaces between them |

What people say in several ways stays as it is, so that validation reports it: 8:30, 3:2, 1/2,
10-20, and signs such as # or @.

Numerals follow GB/T 15835-2011 ("General rules for writing numerals in publications") and common
grammar: 十 without 一 at the head of a number, one 零 for a gap, 两 before 千, 万 and 亿.
"""

from __future__ import annotations

import functools
import re
import unicodedata
from collections.abc import Callable, Collection
from typing import Any

from common.text.tokenizer import script_class
from common.utils.packages import package

_DIGITS = "零一二三四五六七八九"
_PLACES = ("", "十", "百", "千")
_MYRIADS = ("", "万", "亿", "万亿")
_MOST_DIGITS = 8  # of a number that is not read digit by digit
_CURRENCIES = {"¥": "元", "￥": "元", "$": "美元", "€": "欧元", "£": "英镑"}
_SHARES = {"%": "百分之", "‰": "千分之"}
_UNITS = {"℃": "摄氏度", "°C": "摄氏度", "℉": "华氏度", "°F": "华氏度"}
# What is counted by 两 rather than 二.
_COUNTED = "个只位名条张件种次天年本块把辆家部台间句遍周岁倍元人份封双支颗杯碗群座层段场"
_COUNTED_WORDS = ("小时", "分钟", "公里", "公斤")
_NOT_COUNTED = ("年级", "次元", "次方")
_FULL_WIDTH = {code: code - 0xFEE0 for code in range(0xFF01, 0xFF5F)} | {0x3000: 0x20}
_SPOKEN = frozenset("#$%*/<=>@\\^|~+&°±×÷")  # in several ways, or not at all: never removed
_HAN = re.compile(script_class("Han"))
# Signs on their way past the removal of punctuation, as characters for private use.
_HIDDEN = {sign: chr(0xE000 + place) for place, sign in enumerate("-:/~—–'")}
# 2000年前 is a number of years; 1998年前 and 2000年 are years.
_YEAR = re.compile(
    rf"""
      (?<![0-9.,])
      (?: [0-9]{{4}}(?=\s*[{"".join(_HIDDEN.values())}至到]\s*[0-9]{{4}}\s*年)
        | [0-9]{{2}}00(?=\s*年(?![前后来间]))
        | [0-9]{{4}}(?<!00)(?=\s*年)
      )
    """,
    re.VERBOSE,
)
_RANGE = re.compile(r"(?<=[0-9年月日%‰])\s*([-:/~—–])\s*(?=[0-9])")
_AMOUNT = r"[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])(?:\.[0-9]+)?|[0-9]+(?:\.[0-9]+)?"
_NUMBER = re.compile(
    rf"""
      (?P<minus>(?<![0-9A-Za-z])[-\N{{MINUS SIGN}}]\s*)?
      (?:(?P<currency>[¥￥$€£])\s*)?
      (?P<number>{_AMOUNT})
      (?P<scale>[十百千]?[万亿]+|[百千](?=[万亿元]))?
      \s*(?:(?P<share>[%‰])|(?P<unit>℃|°C|℉|°F))?
    """,
    re.VERBOSE,
)
_APOSTROPHE = re.compile("(?<=[A-Za-z])['’](?=[A-Za-z])")
_BESIDE_HAN = re.compile(rf"(?<={_HAN.pattern}) | (?={_HAN.pattern})")


def mandarin_normaliser(kept: Collection[str]) -> Callable[[str], str]:
    """Make the function that DataConfig.normalize_transcripts=mandarin names.

    Args:
        kept: Punctuation that is not removed, such as that among the labels.

    Returns:
        Transcript -> normalised transcript. It raises MissingPackageError at the first Han
        character where opencc-python-reimplemented is not installed.
    """
    half_width = {full: half for full, half in _FULL_WIDTH.items() if chr(full) not in kept}
    return functools.partial(_mandarin, kept=frozenset(kept), half_width=half_width)


def numeral(digits: str) -> str:
    """Read a whole number as a quantity.

    Args:
        digits: Decimal digits; up to 16.

    Returns:
        Han numerals, such as 一万零五百 for 10500.
    """
    number = int(digits)
    if number == 0:
        return "零"
    groups = []  # of four digits, the lowest first
    while number:
        number, group = divmod(number, 10_000)
        groups.append(group)
    read = ""
    for place, group in reversed(list(enumerate(groups))):
        if not group:
            continue
        # A gap is read once: where the group has fewer than four digits, or a group was left out.
        if read and (group < 1000 or groups[place + 1] == 0):
            read += "零"
        read += _group(group, place) + _MYRIADS[place]
    return read[1:] if read.startswith("一十") else read


def _group(group: int, place: int) -> str:
    """Read 1 to 9999, before the myriad of that place."""
    if group == 2 and place:
        return "两"
    read, gap = "", False
    for power in (3, 2, 1, 0):
        digit = group // 10**power % 10
        if not digit:
            gap = bool(read)
            continue
        read += "零" * gap + ("两" if digit == 2 and power == 3 else _DIGITS[digit])
        read += _PLACES[power]
        gap = False
    return read


def _mandarin(text: str, kept: frozenset[str], half_width: dict[int, int]) -> str:
    text = unicodedata.normalize("NFC", text).translate(half_width)
    text = _simplified(text).replace("〇", "零")
    text = _APOSTROPHE.sub(_HIDDEN["'"], text)
    if any(character.isdecimal() for character in text):
        text = _RANGE.sub(lambda match: _HIDDEN[match[1]], text)
        text = _YEAR.sub(lambda match: _digit_by_digit(match[0]), text)
        text = _NUMBER.sub(_number, text)
    text = "".join(_without_punctuation(character, kept) for character in text)
    for sign, hidden in _HIDDEN.items():
        text = text.replace(hidden, sign)
    return _BESIDE_HAN.sub("", " ".join(text.split()))


def _without_punctuation(character: str, kept: frozenset[str]) -> str:
    if character in kept or character in _SPOKEN or character.isalnum():
        return character
    silent = unicodedata.category(character)[0] in "PSC" and character not in _HIDDEN.values()
    return " " if silent else character


def _digit_by_digit(digits: str) -> str:
    return "".join(_DIGITS[int(digit)] for digit in digits)


def _number(match: re.Match[str]) -> str:
    parts = match.groupdict()
    whole, _, decimals = parts["number"].replace(",", "").partition(".")
    before = match.string[: match.start()].rstrip()[-1:]
    after = match.string[match.end() :]
    if decimals:
        read = f"{_whole(whole)}点{_digit_by_digit(decimals)}"
    elif whole == "2" and not parts["share"] and _is_counted(before, parts["scale"] or after):
        read = "两"
    elif "," in parts["number"] or parts["scale"] or parts["currency"] or parts["share"]:
        read = numeral(whole) if len(whole) <= 16 else _digit_by_digit(whole)
    else:
        read = _whole(whole)
    read += parts["scale"] or ""
    if parts["share"]:
        read = _SHARES[parts["share"]] + read
    read += _UNITS.get(parts["unit"] or "", "")
    if parts["currency"] and not after.startswith(_CURRENCIES[parts["currency"]]):
        read += _CURRENCIES[parts["currency"]]
    return "负" * bool(parts["minus"]) + read


def _is_counted(before: str, after: str) -> bool:
    """Whether 2 is 两 here: a count, and no part of a name such as 第2年."""
    if before in ("第", "之", "点") or before.isdecimal():
        return False
    if after[:1] in ("万", "亿", "千"):
        return True
    if after.startswith(_NOT_COUNTED):
        return False
    return after[:1] in tuple(_COUNTED) or after.startswith(_COUNTED_WORDS)


def _whole(digits: str) -> str:
    long = len(digits) > _MOST_DIGITS and int(digits) % 10_000
    if (digits[0] == "0" and len(digits) > 1) or long or len(digits) > 16:
        return _digit_by_digit(digits)
    return numeral(digits)


def _simplified(text: str) -> str:
    """Return a text in simplified characters; by phrases, where a character has another form."""
    if not any(_is_traditional(character) for character in text if _HAN.match(character)):
        return text
    return str(_converter().convert(text))


@functools.cache
def _is_traditional(character: str) -> bool:
    return bool(_converter().convert(character) != character)


@functools.cache
def _converter() -> Any:
    return package(
        "opencc",
        "turns traditional characters into simplified ones (normalize_transcripts=mandarin)",
        distribution="opencc-python-reimplemented",
    ).OpenCC("t2s")
