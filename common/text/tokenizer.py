"""Transcripts, and the labels that spell them."""

from __future__ import annotations

import json
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path

from common.utils.errors import UserError

BLANK = "_"


@dataclass(frozen=True)
class Vocabulary:
    """Single characters in the order of a network's outputs, CTC's blank, written "_", among them.

    Raises UserError without exactly one blank, for longer labels and for repeated ones.
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
    def from_file(cls, path: str | Path) -> Vocabulary:
        """From a JSON list in UTF-8, with or without BOM; labels are composed (NFC)."""
        try:
            labels = json.loads(Path(path).read_text(encoding="utf-8-sig"))
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

    def __len__(self) -> int:
        return len(self.labels)

    @cached_property
    def blank(self) -> int:
        """Index of the blank."""
        return self.labels.index(BLANK)

    @cached_property
    def _index(self) -> dict[str, int]:
        """What text may hold; a written "_" is unknown, it would read as the blank."""
        return {label: i for i, label in enumerate(self.labels) if label != BLANK}

    @cached_property
    def _fold(self) -> Callable[[str], str]:
        upper = any(label.isupper() for label in self.labels)
        lower = any(label.islower() for label in self.labels)
        return str if upper == lower else str.upper if upper else str.lower

    def normalise(self, text: str) -> str:
        """Text composed (NFC), without BOM, in the labels' case if they have only one.

        White space is trimmed and collapsed to one space, or to nothing if no label is a space.
        """
        text = self._fold(unicodedata.normalize("NFC", text.replace("\ufeff", "")))
        return (" " if " " in self._index else "").join(text.split())

    def words(self, text: str) -> list[str]:
        """What error rates count as the words of a normalised text: what stands between spaces.

        Where no label is a space, as for Mandarin, by custom each character; WER then equals CER.
        """
        return text.split() if " " in self._index else list(text)

    def unknown(self, text: str) -> set[str]:
        """Characters of a normalised text that have no label."""
        return set(text) - self._index.keys()

    def unknown_in(self, texts: Iterable[str]) -> Counter[str]:
        """Characters that have no label, with the number of texts that hold them."""
        return Counter(char for text in texts for char in self.unknown(self.normalise(text)))

    def encode(self, text: str) -> list[int]:
        """Label indices of a normalised text; UserError names characters that have none."""
        if unknown := self.unknown(text):
            raise UserError(
                f"text {text!r} has characters without a label: {_listed(sorted(unknown))};"
                " change the text or add them to the labels file"
            )
        return [self._index[character] for character in text]

    def decode(self, ids: Iterable[int]) -> str:
        """Text of label indices without blanks; the inverse of `encode`."""
        return "".join(self.labels[i] for i in ids)


def labels_of(texts: Iterable[str]) -> list[str]:
    """The labels that spell some texts: their characters (NFC) as they stand, sorted, a space if
    there is any, and the blank."""
    found = {char for text in texts for char in unicodedata.normalize("NFC", text)} - {BLANK}
    spaces = {char for char in found if char.isspace()}
    return [*sorted(found - spaces), *([" "] if spaces else []), BLANK]


def ctc_frames_needed(ids: Sequence[int]) -> int:
    """Fewest frames that CTC can spell the labels in: equal neighbours need a blank between."""
    return len(ids) + sum(a == b for a, b in pairwise(ids))


def _listed(characters: Iterable[str]) -> str:
    return ", ".join(map(repr, characters))
