"""Syllables of Mandarin with their tones as labels: "zhong1", neutral tone 5, "ü" written "v"."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from pathlib import Path
from typing import Any

from common.text.tokenizer import BLANK, Tokenizer, script_without_spaces
from common.utils.errors import UserError
from common.utils.json_parsing import parse_json


def syllables_of(text: str) -> list[str]:
    """Return the syllables of a text in characters.

    Args:
        text: Chinese characters and white space.

    Returns:
        Syllables such as "zhong1", neutral tone 5; the text itself where some character has no
        reading, since it is then no label and is reported with its utterance.
    """
    from common.text.pinyin import syllables

    try:
        return syllables(text)
    except UserError:
        return ["".join(text.split())]


@dataclass(frozen=True)
class SyllableTokenizer(Tokenizer):
    """Syllables in the order of a network's outputs, CTC's blank, written "_", among them.

    A transcript may be in characters or in syllables, separated by spaces. Both are trained on, and
    scored, as syllables; the word error rate is that of syllables.

    Raises:
        UserError: There is not exactly one blank, or a label is empty or has a space.
    """

    labels: tuple[str, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "labels", tuple(self.labels))
        if self.labels.count(BLANK) != 1:
            count = self.labels.count(BLANK)
            raise UserError(f'{count} of {len(self)} labels are the blank "{BLANK}", expected 1')
        if wrong := [label for label in self.labels if label.split() != [label]]:
            raise UserError(f"label {wrong[0]!r} is no syllable")

    @classmethod
    def from_file(cls, path: str | Path) -> SyllableTokenizer:
        """Read a labels file, in UTF-8 with or without BOM.

        Args:
            path: A JSON list of syllables with the blank "_"; or ASRT's dict.txt, which has a
                syllable, a tab and its characters on each line. The blank follows its syllables.

        Returns:
            The tokenizer.

        Raises:
            UserError: The file cannot be read, or is neither.
        """
        try:
            text = Path(path).read_text(encoding="utf-8-sig")
        except OSError as error:
            where = "" if Path(path).is_absolute() else f" (in {Path.cwd()})"
            raise UserError(f"labels file {path}: {error.strerror}{where}") from None
        except ValueError as error:
            raise UserError(f"labels file {path}: not in UTF-8: {error}") from None
        labels = _of_json(text, path) if text.lstrip()[:1] in ("[", "{") else _of_dict(text, path)
        try:
            return cls(tuple(labels))
        except UserError as error:
            raise UserError(f"labels file {path}: {error}") from None

    @classmethod
    def from_description(cls, description: dict[str, Any]) -> SyllableTokenizer:
        """Rebuild it from the key "labels"."""
        return cls(tuple(description["labels"]))

    @cached_property
    def blank(self) -> int:  # type: ignore[override]  # never None here
        """Index of the blank."""
        return self.labels.index(BLANK)

    @cached_property
    def _index(self) -> dict[str, int]:
        """Index of each syllable; of one that is there twice, as in ASRT's dict.txt, the last."""
        return {label: i for i, label in enumerate(self.labels) if label != BLANK}

    def normalise(self, text: str) -> str:
        """Return the syllables of a text in characters or syllables, with a space between them.

        What is neither, such as a digit, stays as it is, and is unknown.
        """
        parts: list[str] = []
        for of_characters, signs in groupby(text.replace("\ufeff", ""), _is_han_or_space):
            run = "".join(signs)
            if not of_characters:
                parts.append(run.lower())
            elif not run.isspace():
                parts += syllables_of(run)
        return " ".join(parts)

    def unknown(self, text: str) -> set[str]:
        """Return the syllables of a normalised text that have no label."""
        return set(text.split()) - self._index.keys()

    def encode(self, text: str) -> list[int]:
        """Return the label ids of a normalised text.

        Raises:
            UserError: Some syllables have no label; it names them.
        """
        if unknown := self.unknown(text):
            raise UserError(
                f"text {text!r} has syllables without a label: {', '.join(sorted(unknown))};"
                " change the text or add them to the labels file"
            )
        return [self._index[syllable] for syllable in text.split()]

    def decode(self, ids: Iterable[int]) -> str:
        """Return the syllables of label ids without blanks, with a space between them."""
        return " ".join(self.labels[index] for index in ids)

    def words(self, text: str) -> list[str]:
        """Split a normalised text into its syllables."""
        return text.split()

    @property
    def words_note(self) -> str:
        """What the word error rate counts."""
        return "WER counts syllables with their tones; CER counts the letters that spell them"


def _is_han_or_space(sign: str) -> bool:
    return sign.isspace() or script_without_spaces(sign) == "Han"


def _of_json(text: str, path: str | Path) -> list[str]:
    try:
        labels = parse_json(text)
    except ValueError as error:
        raise UserError(f"labels file {path}: not JSON: {error}") from None
    if not isinstance(labels, list) or not all(isinstance(label, str) for label in labels):
        raise UserError(f'labels file {path}: expected a list like ["ni3", "hao3", "{BLANK}"]')
    return labels


def _of_dict(text: str, path: str | Path) -> list[str]:
    labels = []
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        syllable, tab, _ = line.partition("\t")
        if not tab or syllable.split() != [syllable]:
            raise UserError(
                f"labels file {path}, line {number}: {line[:40]!r}; expected a JSON list, or lines "
                "as in ASRT's dict.txt: a syllable, a tab, its characters"
            )
        labels.append(syllable)
    if not labels:
        raise UserError(f"labels file {path}: no syllables in it")
    return [*labels, BLANK]
