"""Syllables of Mandarin: pinyin with tone numbers, by pypinyin (MIT licence)."""

from __future__ import annotations

import functools
import re
from typing import Any

from common.utils.errors import UserError
from common.utils.packages import package

_SYLLABLE = re.compile("[a-zü]+[1-5]")
# Words whose last syllable has the neutral tone in Putonghua ("Xiandai Hanyu Cidian"), which
# pypinyin's phrases have with the tone of the character alone. Left out are those whose last
# syllable recognisers such as ASRT have no class for: 清楚 chu5, 喜欢 huan5, 事情 qing5, 聪明
# ming5.
_NEUTRAL_LAST = (
    "妈妈 爸爸 哥哥 弟弟 姐姐 妹妹 爷爷 奶奶 叔叔 婶婶 伯伯 姑姑 舅舅 姥姥 公公 婆婆 太太 娃娃 "
    "宝宝 星星 猩猩 头发 朋友 衣服 漂亮 明白 告诉 意思 认识 休息 消息 眼睛 耳朵 学生 先生 姑娘 "
    "客气 舒服 便宜 葡萄 窗户 豆腐 月亮 玻璃 丈夫 麻烦 暖和 时候 钥匙 名字 "
    "晚上 早上 馒头 石头 木头 骨头 里头 外头"
).split()
# Adverbs that 地 ends, which pypinyin takes for the noun (di4).
_ADVERBS = "慢慢地 轻轻地 渐渐地 静静地 悄悄地 好好地 偷偷地 深深地 紧紧地 默默地".split()


def syllables(text: str) -> list[str]:
    """Spell a text in syllables, one for each Han character.

    Tones are numbers, 5 is the neutral tone, and ü is v, as in ASRT's lists: 女儿 is nv3 er2. Of
    several readings, that of the phrase is taken (银行 yin2 hang2, 行走 xing2 zou3). Third tones
    stay before others, while lists made by ear may have second ones there (ni2 hao3 for 你好).

    Args:
        text: Han characters, as `normalize_transcripts=mandarin` leaves them; white space is
            skipped.

    Returns:
        The syllables.

    Raises:
        UserError: Some characters have no reading; it names them.
        MissingPackageError: pypinyin is not installed.
    """
    characters = "".join(text.split())
    spelled = _spelled(characters)
    if len(spelled) != len(characters) or not all(map(_SYLLABLE.fullmatch, spelled)):
        signs = ", ".join(map(repr, sorted(unreadable(characters)))) or repr(characters)
        raise UserError(
            f"text {text!r}: no Mandarin reading for {signs}; expected Han characters, change the "
            "text, or set DataConfig.normalize_transcripts=mandarin for digits and punctuation"
        )
    return spelled


def unreadable(text: str) -> set[str]:
    """Find the characters that have no Mandarin reading.

    Args:
        text: Any text.

    Returns:
        Characters for which `syllables` fails; without white space.
    """
    return {sign for sign in text if not sign.isspace() and not _is_readable(sign)}


@functools.cache
def _is_readable(character: str) -> bool:
    spelled = _spelled(character)
    return len(spelled) == 1 and bool(_SYLLABLE.fullmatch(spelled[0]))


def _spelled(characters: str) -> list[str]:
    pypinyin = _pypinyin()
    found = pypinyin.lazy_pinyin(
        characters,
        style=pypinyin.Style.TONE3,
        neutral_tone_with_five=True,
        errors=lambda signs: list(signs),
    )
    # 欸 may be ê, which is written ei.
    return [syllable.replace("ê", "ei").replace("ü", "v") for syllable in found]


@functools.cache
def _pypinyin() -> Any:
    pypinyin = package("pypinyin", "spells Han characters in syllables")
    words = {}
    for word in (*_NEUTRAL_LAST, *_ADVERBS):
        readings = pypinyin.lazy_pinyin(word, style=pypinyin.Style.TONE)
        words[word] = [[reading] for reading in readings[:-1]]
        last = pypinyin.lazy_pinyin(word[-1], style=pypinyin.Style.NORMAL)
        words[word].append(["de" if word in _ADVERBS else last[0]])
    pypinyin.load_phrases_dict(words)
    return pypinyin
