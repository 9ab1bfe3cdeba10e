"""Tokenizers: from a transcript to the labels that a network learns, and back to text.

A recipe names its `Tokenizer`; `CharacterTokenizer` spells texts with single characters. What is
trained on and what is scored may differ: `encode` may turn characters into syllables, and a decoder
turn syllables into characters again.
"""

from __future__ import annotations

import json
import unicodedata
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

from common.text.letter_case import case_folding
from common.utils.errors import UserError
from common.utils.json_parsing import parse_json

BLANK = "_"

# Scripts whose words are not separated by spaces: first and last code point of their blocks
# (Unicode Standard Annex 14, "Line Breaking", classes ID and SA; Annex 24 for the scripts).
# ascend310_infer/src/decoding.cpp has the same list.
_SCRIPTS_WITHOUT_SPACES = {
    "Thai": [(0x0E00, 0x0E7F)],
    "Lao": [(0x0E80, 0x0EFF)],
    "Tibetan": [(0x0F00, 0x0FFF)],
    "Myanmar": [(0x1000, 0x109F), (0xA9E0, 0xA9FF), (0xAA60, 0xAA7F)],
    "Khmer": [(0x1780, 0x17FF)],
    "Tai": [(0x1950, 0x19DF), (0x1A20, 0x1AAF), (0xAA80, 0xAADF)],
    "Balinese": [(0x1B00, 0x1B7F)],
    "Javanese": [(0xA980, 0xA9DF)],
    "Kana": [(0x3040, 0x30FF), (0x31F0, 0x31FF), (0xFF66, 0xFF9F), (0x1AFF0, 0x1B16F)],
    "Bopomofo": [(0x3100, 0x312F), (0x31A0, 0x31BF)],
    "Yi": [(0xA000, 0xA4CF)],
    "Han": [(0x2E80, 0x2FDF), (0x3005, 0x3007), (0x3400, 0x4DBF), (0x4E00, 0x9FFF)]
    + [(0xF900, 0xFAFF), (0x20000, 0x3FFFD)],
}


class Tokenizer(ABC):
    """Text -> label ids -> text. Label ids are the indices of a network's output classes.

    Attributes:
        labels: What each output class stands for, as people read it.
        blank: Index of CTC's blank; None for a network that is not trained with CTC.
    """

    labels: tuple[str, ...]
    blank: int | None

    @classmethod
    @abstractmethod
    def from_file(cls, path: str | Path) -> Tokenizer:
        """Read the file that DataConfig.labels_path names.

        Raises:
            UserError: It is missing or not what this tokenizer needs.
        """

    @classmethod
    @abstractmethod
    def from_description(cls, description: dict[str, Any]) -> Tokenizer:
        """Rebuild a tokenizer from what `description` gave; other keys are ignored."""

    def description(self) -> dict[str, Any]:
        """Return what checkpoints, MindRecord files and exports keep of it, as JSON holds it."""
        return {"labels": list(self.labels)}

    @abstractmethod
    def normalise(self, text: str) -> str:
        """Return a text as it is scored: in the case and the Unicode form of the tokenizer."""

    @abstractmethod
    def unknown(self, text: str) -> set[str]:
        """Return the characters of a normalised text that `encode` cannot spell."""

    @abstractmethod
    def encode(self, text: str) -> list[int]:
        """Return the label ids of a normalised text, to train on.

        Raises:
            UserError: Some characters cannot be spelled; it names them.
        """

    @abstractmethod
    def decode(self, ids: Iterable[int]) -> str:
        """Return the text that label ids spell; there are no blanks among them."""

    @abstractmethod
    def words(self, text: str) -> list[str]:
        """Split a normalised text into the words that the word error rate counts."""

    @property
    def words_note(self) -> str:
        """What the word error rate counts, where that is not words; empty: words."""
        return ""

    @property
    def headline(self) -> str:
        """The error rate that is told first: "WER", or "CER" where the script parts no words."""
        return "WER"

    @property
    def separates_words(self) -> bool:
        """Whether words are parted by a space; otherwise each label is a word."""
        return True

    @property
    def separator(self) -> str:
        """What stands between two texts that are put together: a space, or nothing as in Han."""
        return " " if " " in self.normalise("A A") else ""

    @property
    def ctc_blank(self) -> int:
        """Index of CTC's blank.

        Raises:
            ValueError: There is none: the network is not trained with CTC.
        """
        if self.blank is None:
            raise ValueError("CTC needs a tokenizer with a blank")
        return self.blank

    def __len__(self) -> int:
        """Return the number of labels, the blank included: the network's output classes."""
        return len(self.labels)

    def unknown_in(self, texts: Iterable[str]) -> Counter[str]:
        """Count the texts that hold each character that cannot be spelled."""
        return Counter(char for text in texts for char in self.unknown(self.normalise(text)))

    def frames_needed(self, ids: Sequence[int]) -> int:
        """Count the fewest output frames of the network for a transcript.

        Args:
            ids: Label ids of the transcript.

        Returns:
            Frames that CTC needs to spell them; 0 without a blank, where nothing is aligned.
        """
        return 0 if self.blank is None else ctc_frames_needed(ids)


@dataclass(frozen=True)
class CharacterTokenizer(Tokenizer):
    """Single characters in the order of a network's outputs, CTC's blank, written "_", among them.

    Raises:
        UserError: There is not exactly one blank, a label is longer, or one is repeated.
    """

    labels: tuple[str, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "labels", tuple(self.labels))
        if BLANK not in self.labels:
            raise UserError(f'labels without blank: {len(self)} labels, none is "{BLANK}"; add it')
        if wrong := [label for label in self.labels if len(label) != 1]:
            raise UserError(f"labels must be single characters, {wrong[0]!r} is not")
        if len(set(self.labels)) < len(self):
            repeated = sorted({label for label in self.labels if self.labels.count(label) > 1})
            raise UserError(f"labels given more than once: {_listed(repeated)}")

    @classmethod
    def from_file(cls, path: str | Path) -> CharacterTokenizer:
        """Read a JSON list in UTF-8, with or without BOM; labels are composed (NFC).

        Args:
            path: The file.

        Returns:
            The tokenizer.

        Raises:
            UserError: The file cannot be read, or is no list of single characters with a blank.
        """
        try:
            labels = parse_json(Path(path).read_text(encoding="utf-8-sig"))
        except OSError as error:
            where = "" if Path(path).is_absolute() else f" (in {Path.cwd()})"
            raise UserError(f"labels file {path}: {error.strerror}{where}") from None
        except ValueError as error:  # not UTF-8 or not JSON
            raise UserError(f"labels file {path}: not JSON in UTF-8: {error}") from None
        if not isinstance(labels, list) or not all(isinstance(label, str) for label in labels):
            raise UserError(f'labels file {path}: expected a list like ["A", "B", " ", "{BLANK}"]')
        try:
            return cls(tuple(unicodedata.normalize("NFC", label) for label in labels))
        except UserError as error:
            raise UserError(f"labels file {path}: {error}") from None

    @classmethod
    def from_description(cls, description: dict[str, Any]) -> CharacterTokenizer:
        """Rebuild it from the key "labels"."""
        return cls(tuple(description["labels"]))

    @cached_property
    def blank(self) -> int:  # type: ignore[override]  # never None here
        """Index of the blank."""
        return self.labels.index(BLANK)

    @cached_property
    def _index(self) -> dict[str, int]:
        """Index of each label; a written "_" is unknown, it would read as the blank."""
        return {label: i for i, label in enumerate(self.labels) if label != BLANK}

    @cached_property
    def _fold(self) -> Callable[[str], str]:
        return case_folding(self._index)

    @cached_property
    def _script(self) -> str:
        """Script without spaces between words that the labels have no space for; or empty."""
        return "" if " " in self._index else script_without_spaces(self._index)

    def normalise(self, text: str) -> str:
        """Compose a text (NFC), without BOM, in the labels' case if they have only one.

        White space is trimmed and collapsed to one space. Where no label is a space, it is left out
        if the labels' script needs none, as Han; in other scripts it stays and is unknown, since
        words would run together without it.
        """
        text = self._fold(text.replace("\ufeff", ""))
        return ("" if self._script else " ").join(text.split())

    def words(self, text: str) -> list[str]:
        """Split a normalised text at spaces, into what error rates count as words.

        Where no label is a space and the script separates no words, as Han, by custom each
        character counts; WER then equals CER.
        """
        return list(text) if self._script else text.split()

    @property
    def words_note(self) -> str:
        """What the word error rate counts, where that is not words; empty: words."""
        if not self._script:
            return ""
        return (
            "WER counts characters: no label is a space, and the labels are of a script that "
            f"separates no words ({self._script})"
        )

    @cached_property
    def headline(self) -> str:  # type: ignore[override]  # does not change
        """The error rate that is told first.

        "CER" where most labels are of scripts that separate no words, as Han: with a space among
        the labels, too, be it for a few English words.
        """
        unspaced = sum(bool(script_without_spaces(label)) for label in self._index)
        return "CER" if 2 * unspaced > len(self._index.keys() - {" "}) else "WER"

    @property
    def separates_words(self) -> bool:
        """Whether words are parted by a space; otherwise each label is a word."""
        return not self._script

    def unknown(self, text: str) -> set[str]:
        """Return the characters of a normalised text that have no label."""
        return set(text) - self._index.keys()

    def encode(self, text: str) -> list[int]:
        """Return the label indices of a normalised text.

        Raises:
            UserError: Some characters have no label; it names them.
        """
        if unknown := self.unknown(text):
            raise UserError(
                f"text {text!r} has characters without a label: {_listed(sorted(unknown))};"
                " change the text or add them to the labels file"
            )
        return [self._index[character] for character in text]

    def decode(self, ids: Iterable[int]) -> str:
        """Return the text of label indices without blanks; the inverse of `encode`."""
        return "".join(self.labels[i] for i in ids)


def stored_tokenizer(tokenizer: Tokenizer) -> dict[str, Any]:
    """What a checkpoint, MindRecord files or an export keep of a tokenizer.

    Args:
        tokenizer: Any.

    Returns:
        Its labels, and under "tokenizer" its description where that is more than its labels, as
        JSON gives it back.
    """
    stored: dict[str, Any] = {"labels": list(tokenizer.labels)}
    description = json.loads(json.dumps(tokenizer.description()))
    return stored if description == stored else stored | {"tokenizer": description}


def restored_tokenizer(kind: type[Tokenizer], stored: Mapping[str, Any], where: str) -> Tokenizer:
    """Rebuild a tokenizer from what `stored_tokenizer` gave.

    Args:
        kind: The model's tokenizer.
        stored: Other keys are ignored.
        where: What holds it, for the message.

    Returns:
        The tokenizer.

    Raises:
        UserError: It is of another kind.
    """
    try:
        return kind.from_description(stored.get("tokenizer") or {"labels": stored["labels"]})
    except (KeyError, TypeError) as error:
        raise UserError(f"{where}: its tokenizer is no {kind.__name__} ({error!r})") from None
    except UserError as error:
        raise UserError(f"{where}: {error}") from None


def labels_of(texts: Iterable[str]) -> list[str]:
    """List the labels that spell some texts.

    Args:
        texts: The texts, as they are to be spelled.

    Returns:
        Their characters (NFC), sorted, then a space, then the blank. The space is left out where
        no text has one and the script separates no words, as Han.
    """
    characters = {char for text in texts for char in unicodedata.normalize("NFC", text)} - {BLANK}
    spaces = {char for char in characters if char.isspace()}
    letters = sorted(characters - spaces)
    return [*letters, *([" "] if spaces or not script_without_spaces(letters) else []), BLANK]


def script_without_spaces(characters: Iterable[str]) -> str:
    """Find a script among characters that does not separate words by spaces.

    Args:
        characters: Single characters.

    Returns:
        The script of the first such character, for example "Han"; empty if there is none.
    """
    for code in map(ord, characters):
        for script, blocks in _SCRIPTS_WITHOUT_SPACES.items():
            if any(first <= code <= last for first, last in blocks):
                return script
    return ""


def script_class(script: str) -> str:
    """Return the characters of a script that separates no words, as a class for `re`.

    Args:
        script: For example "Han".
    """
    blocks = (f"{chr(first)}-{chr(last)}" for first, last in _SCRIPTS_WITHOUT_SPACES[script])
    return f"[{''.join(blocks)}]"


def ctc_frames_needed(ids: Sequence[int]) -> int:
    """Count the fewest frames in which CTC can spell labels.

    Equal neighbours need a blank between them (Graves et al. 2006, section 3.1).

    Args:
        ids: Label indices.

    Returns:
        Number of output frames.
    """
    return len(ids) + sum(a == b for a, b in pairwise(ids))


def _listed(characters: Iterable[str]) -> str:
    return ", ".join(map(repr, characters))
