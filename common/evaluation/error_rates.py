"""Word and character error rates, with substitutions, deletions and insertions.

An error rate is (S + D + I) / N: the fewest edits that turn the reference into the hypothesis, over
the length N of the reference. Over a corpus, edits and lengths are summed before the division.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import Levenshtein


@dataclass(frozen=True)
class EditCounts:
    """Edits from reference to hypothesis. A corpus is `sum(counts, EditCounts())`.

    Attributes:
        substitutions: Words or characters that differ.
        deletions: In the reference, not in the hypothesis.
        insertions: In the hypothesis, not in the reference.
        length: Words or characters in the reference.
    """

    substitutions: int = 0
    deletions: int = 0
    insertions: int = 0
    length: int = 0

    @property
    def errors(self) -> int:
        """Substitutions, deletions and insertions together."""
        return self.substitutions + self.deletions + self.insertions

    @property
    def rate(self) -> float:
        """Errors / length, which may pass 1; for an empty reference the insertions, as in jiwer."""
        return self.errors / max(self.length, 1)

    def __add__(self, other: EditCounts) -> EditCounts:
        return EditCounts(
            self.substitutions + other.substitutions,
            self.deletions + other.deletions,
            self.insertions + other.insertions,
            self.length + other.length,
        )


def edit_counts(reference: Sequence[str], hypothesis: Sequence[str]) -> EditCounts:
    """Count the fewest edits between two sequences of words, or of characters (a str).

    Args:
        reference: What was said.
        hypothesis: What was recognised.

    Returns:
        The edits from reference to hypothesis.
    """
    kinds = Counter(kind for kind, _, _ in Levenshtein.editops(reference, hypothesis))
    return EditCounts(kinds["replace"], kinds["delete"], kinds["insert"], len(reference))


def word_errors(
    reference: str, hypothesis: str, words: Callable[[str], list[str]] = str.split
) -> EditCounts:
    """Count edits in words.

    Args:
        reference: What was said.
        hypothesis: What was recognised.
        words: Splits a text into words: at white space, or as `Tokenizer.words` does.

    Returns:
        The edits from reference to hypothesis.
    """
    return edit_counts(words(reference), words(hypothesis))


def character_errors(reference: str, hypothesis: str) -> EditCounts:
    """Count edits in characters, with the spaces between words, without those at the ends.

    Args:
        reference: What was said.
        hypothesis: What was recognised.

    Returns:
        The edits from reference to hypothesis.
    """
    return edit_counts(reference.strip(), hypothesis.strip())


def alignment(
    reference: Sequence[str], hypothesis: Sequence[str]
) -> list[tuple[str | None, str | None]]:
    """Align two sequences of words.

    Args:
        reference: What was said.
        hypothesis: What was recognised.

    Returns:
        Pairs (word of the reference, word of the hypothesis) in order, with None where a word has
        no counterpart.
    """
    pairs: list[tuple[str | None, str | None]] = []
    for kind, i, i_end, j, j_end in Levenshtein.opcodes(reference, hypothesis):
        if kind == "delete":
            pairs += [(word, None) for word in reference[i:i_end]]
        elif kind == "insert":
            pairs += [(None, word) for word in hypothesis[j:j_end]]
        else:
            pairs += zip(reference[i:i_end], hypothesis[j:j_end])
    return pairs
