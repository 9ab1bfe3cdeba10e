"""Files of n-gram language models: ARPA, which all programs read, and a compact one of our own.

The compact file (NAME.npz) is numpy's archive of arrays: a trie of the n-grams, each order sorted
by context and word, with log-probabilities and back-off weights quantised to 256 values an order
(equally many n-grams each; Whittaker & Raj 2001, "Quantization-based Language Model Compression").
It needs numpy alone, and a third of the space of a compressed ARPA file. Arrays, with n from 1:

- `format`: "ngram 1"; `words`: the vocabulary in UTF-8, words parted by line feeds;
- `words_n`: last word of each n-gram; `starts_n`: where the n-grams of each context begin, a
  context being an n-gram of the order below, and one more number, their end (from order 2);
- `log_probs_n`, `backoffs_n`: base 10; of order 1 as they are, float32; from order 2 on an index
  (uint8) into `log_prob_values_n` and `backoff_values_n`. The highest order has no back-off.
"""

from __future__ import annotations

import gzip
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

from common.decoding.ngram_estimation import END, START, UNKNOWN, NgramModel
from common.utils.errors import UserError
from common.utils.files import replacing

_FORMAT = "ngram 1"
_ARCHIVE = b"PK\x03\x04"
_LEVELS = 256
_LEAST = 1e-99  # probability of what is no event, <s>: -99 in ARPA files, by convention


def write_arpa(model: NgramModel, path: Path) -> None:
    """Write a model as an ARPA file.

    Doug Paul's format, as described by SRILM: http://www.speech.sri.com/projects/srilm/manpages/
    ngram-format.5.html

    Args:
        model: The model.
        path: The file; one whose name ends in .gz is compressed.

    Raises:
        UserError: It cannot be written.
    """
    with replacing(path) as partial, _text_writer(partial, path.suffix == ".gz") as file:
        file.write("\\data\\\n")
        for n, count in enumerate(model.counts, 1):
            file.write(f"ngram {n}={count}\n")
        for n, lines in enumerate(_lines_of_orders(model), 1):
            file.write(f"\n\\{n}-grams:\n")
            file.writelines(lines)
        file.write("\n\\end\\\n")


def _text_writer(path: Path, compressed: bool) -> IO[str]:
    if compressed:
        return gzip.open(path, "wt", encoding="utf-8", compresslevel=6)
    return path.open("w", encoding="utf-8")


def _lines_of_orders(model: NgramModel) -> Iterator[Iterator[str]]:
    names = model.vocabulary
    for n, grams in enumerate(model.orders, 1):
        if n > 1:
            words = grams.words.tolist()
            names = [
                f"{names[context]} {model.vocabulary[word]}"
                for context, word in zip(grams.contexts.tolist(), words)
            ]
        log_probs = np.log10(np.maximum(grams.probabilities, _LEAST)).tolist()
        backoffs = np.log10(np.maximum(grams.backoffs, _LEAST)).tolist()
        if n == len(model.orders):
            yield (f"{value:.6g}\t{name}\n" for value, name in zip(log_probs, names))
        else:
            yield (
                f"{value:.6g}\t{name}\t{backoff:.6g}\n"
                for value, name, backoff in zip(log_probs, names, backoffs)
            )


def write_compact(model: NgramModel, path: Path) -> None:
    """Write a model as a compact file; see the head of this module.

    Args:
        model: The model.
        path: The file, NAME.npz.

    Raises:
        UserError: It cannot be written.
    """
    arrays: dict[str, np.ndarray] = {
        "format": np.array(_FORMAT),
        "words": np.frombuffer("\n".join(model.vocabulary).encode(), np.uint8),
    }
    kind = np.uint16 if len(model.vocabulary) <= 2**16 else np.uint32
    for n, grams in enumerate(model.orders, 1):
        values = {"log_prob": np.log10(np.maximum(grams.probabilities, _LEAST))}
        if n < len(model.orders):
            values["backoff"] = np.log10(np.maximum(grams.backoffs, _LEAST))
        if n > 1:
            contexts = len(model.orders[n - 2])
            starts = np.searchsorted(grams.contexts, np.arange(contexts + 1))
            arrays[f"starts_{n}"] = starts.astype(np.uint32)
        arrays[f"words_{n}"] = grams.words.astype(kind)
        for name, given in values.items():
            if n == 1:
                arrays[f"{name}s_1"] = given.astype(np.float32)
            else:
                arrays[f"{name}_values_{n}"], arrays[f"{name}s_{n}"] = _quantised(given)
    with replacing(path) as partial, partial.open("wb") as file:
        np.savez_compressed(file, **arrays)


def _quantised(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return up to 256 values (float32, ascending) and the index of the one that stands for each.

    Each value stands for equally many, and is their mean; 0, which most back-offs are, is exact.
    """
    distinct, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    if len(distinct) <= _LEVELS:
        return distinct.astype(np.float32), inverse.astype(np.uint8)
    zero = np.flatnonzero(distinct == 0)
    weights = counts.astype(float)
    weights[zero] = 0
    bins = (np.cumsum(weights) - weights / 2) / weights.sum() * (_LEVELS - 1 - len(zero))
    bins = bins.astype(int)
    if len(zero):  # a bin of its own, between its neighbours
        at = zero[0]
        bins[at + 1 :] += 1 + (at > 0)
        bins[at] = bins[at - 1] + 1 if at else 0
        bins[at + 1 :] = np.maximum(bins[at + 1 :], bins[at] + 1)
    used, bins = np.unique(bins, return_inverse=True)
    means = np.bincount(bins, distinct * counts, len(used)) / np.bincount(bins, counts, len(used))
    return means.astype(np.float32), bins[inverse].astype(np.uint8)


def is_compact(path: str | Path) -> bool:
    """Whether a file begins as an archive, which of all language models only compact ones are."""
    with open(path, "rb") as file:
        return file.read(len(_ARCHIVE)) == _ARCHIVE


@dataclass
class _Order:
    words: np.ndarray
    log_probs: np.ndarray  # float32
    backoffs: np.ndarray | None  # float32
    starts: np.ndarray | None


# The numbers of the n-grams that end in the words so far, of order 1, 2, ...; -1: there is none.
State = tuple[int, ...]


class CompactModel:
    """A model in a compact file: log-probabilities of words after a history.

    Attributes:
        order: Length of the longest n-grams.
        vocabulary: Its words; the first three are <unk>, <s> and </s>.
    """

    def __init__(self, path: Path):
        """Read a file.

        Args:
            path: The file.

        Raises:
            UserError: It is no compact language model, or damaged.
        """
        try:
            with np.load(path, allow_pickle=False) as archive:
                arrays = dict(archive)
        except OSError as error:
            raise UserError(f"{path}: {error.strerror or 'no compact language model'}") from None
        except (ValueError, EOFError, zipfile.BadZipFile, zlib.error, KeyError) as error:
            raise _damaged(path, str(error)) from None
        if str(arrays.get("format")) != _FORMAT:
            raise UserError(f"{path}: no compact language model that lm.py wrote ({_FORMAT})")
        try:
            self.vocabulary = bytes(arrays["words"]).decode().split("\n")
            self.order = max(int(name[6:]) for name in arrays if name.startswith("words_"))
            self._orders = [_read_order(arrays, n, self.order) for n in range(1, self.order + 1)]
            self._check(path)
        except (KeyError, ValueError, IndexError, TypeError) as error:
            raise _damaged(path, repr(error)) from None
        self._numbers = {word: number for number, word in enumerate(self.vocabulary)}

    def _check(self, path: Path) -> None:
        """Refuse arrays that do not fit together."""
        if self.vocabulary[:3] != [UNKNOWN, START, END]:
            raise _damaged(path, "its words do not begin with <unk>, <s>, </s>")
        counts = [len(self.vocabulary)]
        for n, order in enumerate(self._orders, 1):
            sizes = {len(order.words), len(order.log_probs)}
            sizes |= set() if order.backoffs is None else {len(order.backoffs)}
            inside = len(order.words) and int(order.words.max()) < len(self.vocabulary)
            fits = len(sizes) == 1 and inside
            if order.starts is None:
                fits = fits and sizes == {counts[0]}
            else:
                starts = order.starts
                fits = fits and len(starts) == counts[-1] + 1
                fits = fits and starts[0] == 0 and starts[-1] == len(order.words)
                fits = fits and bool((starts[1:] >= starts[:-1]).all())
            if not fits:
                raise _damaged(path, f"its {n}-grams do not fit together")
            counts.append(len(order.words))

    def words(self) -> Iterator[str]:
        """Yield the words that the model knows, without its marks."""
        return iter(self.vocabulary[3:])

    def no_history(self) -> State:
        """Return the history before any word."""
        return ()

    def start(self) -> State:
        """Return the history at the start of a sentence."""
        return (self._numbers[START],)

    def score(self, history: State, word: str) -> tuple[float, bool, State]:
        """Score a word.

        Args:
            history: What `start`, `no_history` or an earlier `score` returned.
            word: The word that follows it.

        Returns:
            The logarithm, base 10, of its probability; whether the model lacks the word, which then
            has the probability of <unk>; and the history that includes it.
        """
        number = self._numbers.get(word, 0)
        found = [number]
        for length, context in enumerate(history[: self.order - 1], 1):
            found.append(self._find(length, context, number) if found[-1] >= 0 else -1)
        longest = max(length for length, gram in enumerate(found) if gram >= 0)
        log_prob = float(self._orders[longest].log_probs[found[longest]])
        for length in range(longest, len(history[: self.order - 1])):
            backoffs = self._orders[length].backoffs
            if history[length] >= 0 and backoffs is not None:
                log_prob += float(backoffs[history[length]])
        return log_prob, number == 0, tuple(found[: self.order - 1])

    def _find(self, length: int, context: int, word: int) -> int:
        """Return the number of the n-gram that is a context of `length` words and a word, or -1."""
        order = self._orders[length]
        if context < 0 or order.starts is None:
            return -1
        start, end = int(order.starts[context]), int(order.starts[context + 1])
        words = order.words
        # With a number of its own type: searchsorted would convert the array for another.
        at = start + int(words[start:end].searchsorted(words.dtype.type(word)))
        return at if at < end and words[at] == word else -1


def _read_order(arrays: dict[str, Any], n: int, highest: int) -> _Order:
    def values(name: str) -> np.ndarray:
        given = arrays[f"{name}s_{n}"]
        return given if n == 1 else arrays[f"{name}_values_{n}"][given]

    return _Order(
        arrays[f"words_{n}"],
        values("log_prob"),
        values("backoff") if n < highest else None,
        arrays[f"starts_{n}"] if n > 1 else None,
    )


def _damaged(path: Path, reason: str) -> UserError:
    return UserError(f"{path}: damaged language model ({reason}); build it anew with lm.py")
