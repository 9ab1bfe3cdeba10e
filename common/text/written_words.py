"""The words of a text as they were written, each with what a network spells of it."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import Levenshtein

from common.text.tokenizer import Tokenizer
from common.utils.errors import UserError

_SHOWN = 10  # characters that a message lists
_SPOKEN_MARKS = "#%&*/@\\"  # punctuation by Unicode's categories, and words where it is read aloud


@dataclass(frozen=True)
class WrittenWord:
    """A word of a text.

    Attributes:
        written: As it stands in the text; several where they are spoken as one, as "$2.5 million".
        spoken: What is spelled of it: one or more normalised words, with spaces between them.
    """

    written: str
    spoken: str


def written_words(
    text: str, tokenizer: Tokenizer, normalise: Callable[[str], str], name: str
) -> tuple[list[WrittenWord], Counter[str]]:
    """Split a text into words, and normalise these.

    Args:
        text: Any.
        tokenizer: What spells the words.
        normalise: Numbers and abbreviations to words, as in training
            (`common.text.normalization.normaliser`).
        name: What errors call the text.

    Returns:
        The words in order, and how often each punctuation mark was passed over that has no label.
        What is not spoken, such as a dash, belongs to the word before it.

    Raises:
        UserError: There are letters, digits or signs without a label, or no words.
    """
    without_spaces = " " not in tokenizer.labels and tokenizer.words("ab") != ["ab"]
    curly = "'" in tokenizer.labels and "\u2019" not in tokenizer.labels
    written = text.split()
    if without_spaces:
        written = [character for word in written for character in word]
    passed_over: Counter[str] = Counter()
    unknown: Counter[str] = Counter()

    def spell(part: str) -> str:
        if curly:
            part = part.replace("\u2019", "'")
        normal = tokenizer.normalise(normalise(part))
        for character in sorted(tokenizer.unknown(normal)):
            marks = unicodedata.category(character).startswith("P") and (
                character not in _SPOKEN_MARKS
            )
            (passed_over if marks else unknown)[character] += normal.count(character)
            normal = normal.replace(character, " " if marks else character)
        return tokenizer.normalise(normal)

    whole = spell(text)
    if unknown:
        language = "english" if tokenizer.separates_words else "mandarin"
        raise UserError(
            f"{name}: {listed_characters(unknown)} without a label of the network; write them as "
            f"they are spoken, or have it done (--normalize {language})"
        )
    totals = Counter(passed_over)
    if without_spaces:
        pairs = [(each, spell(each)) for each in written]
    else:
        pairs = list(_matched(written, [spell(each) for each in written], whole.split()))
    words = _without_silent(pairs, "" if without_spaces else " ")
    if not words:
        raise UserError(f"{name}: no words to align")
    return words, totals


def _matched(
    written: Sequence[str], spoken: Sequence[str], whole: Sequence[str]
) -> Iterator[tuple[str, str]]:
    """Give each written word its part of the whole normalised text.

    Where the text as a whole is normalised otherwise than its words, these stay together.
    """
    alone = [(number, word) for number, words in enumerate(spoken) for word in words.split()]
    owners = [number for number, _ in alone] + [len(written)]
    words = [word for _, word in alone]
    if words == list(whole):
        yield from zip(written, spoken)
        return
    blocks = Levenshtein.matching_blocks(Levenshtein.editops(words, whole), words, whole)
    begun = heard = 0  # written words and words of the whole text that have been given out
    for i, j, size in blocks:
        for offset in range(size + 1):
            # Cut where a written word ends and both sides agree.
            at, place = owners[i + offset], j + offset
            fresh = i + offset == 0 or owners[i + offset - 1] != at
            last = offset == size and i + offset < len(alone)
            if not fresh or last or at < begun:
                continue
            if at > begun:
                yield from _cut(written[begun:at], spoken[begun:at], whole[heard:place])
            begun, heard = at, place
    if begun < len(written):
        yield from _cut(written[begun:], spoken[begun:], whole[heard:])


def _cut(
    written: Sequence[str], spoken: Sequence[str], whole: Sequence[str]
) -> Iterator[tuple[str, str]]:
    """Split some written words where they are normalised alike alone and together."""
    if " ".join(spoken).split() == list(whole):
        yield from zip(written, spoken)
    else:
        yield " ".join(written), " ".join(whole)


def _without_silent(pairs: Sequence[tuple[str, str]], between: str) -> list[WrittenWord]:
    """Add what is not spoken to the word before it, or at the beginning to the one behind."""
    words: list[WrittenWord] = []
    before: list[str] = []
    for written, spoken in pairs:
        if spoken:
            words.append(WrittenWord(between.join([*before, written]), spoken))
            before = []
        elif words:
            words[-1] = WrittenWord(f"{words[-1].written}{between}{written}", words[-1].spoken)
        else:
            before.append(written)
    return words


def listed_characters(counts: Counter[str]) -> str:
    """Name characters and how often they stand in a text, such as "',' (3 times), '.' (once)"."""
    shown = [
        f"{character!r} ({'once' if count == 1 else f'{count} times'})"
        for character, count in counts.most_common(_SHOWN)
    ]
    if len(counts) > _SHOWN:
        shown.append(f"{len(counts) - _SHOWN} more characters")
    return ", ".join(shown)
