"""Word n-gram language models that decoding asks: ARPA, KenLM's binary, or compact files of lm.py.

ARPA files, compressed or not, and KenLM's binary ones are read by KenLM; compact ones need nothing.
"""

from __future__ import annotations

import mmap
import os
import re
import shutil
import sys
import tempfile
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any, NamedTuple, Protocol

import numpy as np

from common.decoding.ngram_files import CompactModel, is_compact
from common.text.tokenizer import Tokenizer
from common.utils.compressed import UNPACKING_ERRORS, opener
from common.utils.errors import UserError

_LN_10 = float(np.log(10))  # ARPA files and KenLM speak in base 10
_BINARY = b"mmap lm "  # how KenLM's binary files begin
_SPACES = re.compile(rb"[\0\t\n\r ]+")  # what KenLM parts the fields of a line by
_MARKS = (b"", b"<s>", b"</s>", b"<unk>", b"<UNK>")  # entries that are no words
_END_OF_SENTENCE = "</s>"
_LAST = "\U0010ffff"  # sorts after every character
_TABLE_BYTES = 64 << 20


class NgramScorer(Protocol):
    """What a file of n-grams answers; see `CompactModel`."""

    def words(self) -> Iterator[str]:
        """Yield the words that the model knows, without its marks."""

    def no_history(self) -> Any:
        """Return the history before any word."""

    def start(self) -> Any:
        """Return the history at the start of a sentence."""

    def score(self, history: Any, word: str) -> tuple[float, bool, Any]:
        """Return log10 of a word's probability, whether it is unknown, the longer history."""


class WordModel:
    """Scores a word after its history by alpha * ln p(word | history) + beta.

    A sentence begins with <s>; its end is not scored, since recordings are cut anywhere. Letter
    case is ignored. An unknown word has the probability of <unk>, which stands for all unknown
    words together; `unk_offset` is added to its logarithm.

    Heafield 2011, "KenLM: Faster and Smaller Language Model Queries".
    """

    def __init__(
        self,
        path: str | Path,
        tokenizer: Tokenizer,
        alpha: float,
        beta: float,
        unk_offset: float,
    ):
        """Load a model.

        Args:
            path: An ARPA file, which may be compressed (gzip, bzip2, xz), KenLM's binary file, or
                a compact file of lm.py.
            tokenizer: Labels that the words are spelled with.
            alpha: Weight of the language model.
            beta: Added for each word.
            unk_offset: Added to the natural logarithm of an unknown word's probability.

        Raises:
            UserError: The file is no language model, the labels can spell none of its words, or
                KenLM is not installed.
        """
        self.alpha, self.beta, self.unk_offset = alpha, beta, unk_offset
        self.most = alpha * max(unk_offset, 0.0) + beta  # that a word can gain
        self._model = _open(path)
        no_history = self._model.no_history()
        best: dict[str, tuple[float, str]] = {}  # of spellings that differ in letter case only
        spelled = False
        for word in self._model.words():
            entry = self._score(no_history, word)[0], word
            text = tokenizer.normalise(word)
            best[text] = max(entry, best.get(text, entry))
            spelled = spelled or not tokenizer.unknown(text)
        if not spelled:
            examples = ", ".join(repr(word) for _, word in list(best.values())[:3])
            found = f"its words ({examples}, ...) have characters without a label"
            raise UserError(
                f"LMConfig.lm_path {path}: the labels can spell no word of this language model, "
                + (found if best else "which has none")
            )
        self._spellings = {text: word for text, (_, word) in best.items()}
        # Scores without history, of each word as the labels spell it, and of an unknown one.
        self.unigrams = {text: score for text, (score, _) in best.items()}
        self.unknown = self._score(no_history, "")[0]
        self.lookahead = LanguageModelLookahead(tokenizer, self.unigrams, self.unknown)

    def start(self) -> Any:
        """Return the history at the beginning of an utterance."""
        return self._model.start()

    def no_history(self) -> Any:
        """Return the history before any word."""
        return self._model.no_history()

    def score(self, history: Any, word: str) -> tuple[float, Any]:
        """Score a word.

        Args:
            history: What `start` or an earlier `score` returned.
            word: The word that follows it.

        Returns:
            alpha * log-probability + beta, in nats, and the history that includes the word.
        """
        return self._score(history, self._spellings.get(word, word))

    def knows(self, word: str) -> bool:
        """Whether a recognised word is among the model's words, in any letter case."""
        return word in self._spellings

    def _score(self, history: Any, word: str) -> tuple[float, Any]:
        log10_prob, unknown, history = self._model.score(history, word)
        log_prob = log10_prob * _LN_10 + (self.unk_offset if unknown else 0.0)
        return self.alpha * log_prob + self.beta, history


class Perplexity(NamedTuple):
    """How well a model foretells a text."""

    perplexity: float  # of the words and of the ends of sentences; unknown words as <unk>
    words: int
    unknown: int  # words that the model lacks


def perplexity(
    path: str | Path, tokenizer: Tokenizer, sentences: Iterable[Sequence[str]]
) -> Perplexity:
    """Measure a model on text.

    Args:
        path: What `WordModel` reads.
        tokenizer: Labels that the words are spelled with.
        sentences: The words of each sentence.

    Returns:
        The perplexity, and how many words it was measured on.

    Raises:
        UserError: The file is no language model, or the text has no words.
    """
    model = WordModel(path, tokenizer, 1.0, 0.0, 0.0)
    total, words, ends, unknown = 0.0, 0, 0, 0
    for sentence in sentences:
        history = model.start()
        for word in [*sentence, _END_OF_SENTENCE]:
            score, history = model.score(history, word)
            total += score
            unknown += word != _END_OF_SENTENCE and not model.knows(word)
        words, ends = words + len(sentence), ends + 1
    if not words:
        raise UserError("the text has no words")
    return Perplexity(float(np.exp(-total / (words + ends))), words, unknown)


class LanguageModelLookahead:
    """The best score that an unfinished word can reach.

    Pruning must add it: otherwise texts whose words never end, and so are never scored, displace
    the others. It is the best score, without history, of the words that begin like the unfinished
    one, or else the score of an unknown word (smearing: Ortmanns, Ney, Eiden 1996, "Language-model
    look-ahead for large tokenizer speech recognition").

    Beginnings of words are numbered as they occur; row `n` of a table holds, for each label, the
    best score if the label follows beginning `n`.
    """

    def __init__(self, tokenizer: Tokenizer, scores: dict[str, float], unknown: float):
        self._labels = {label: i for i, label in enumerate(tokenizer.labels)}
        self._words = sorted(scores)
        self._scores = np.array([scores[word] for word in self._words])
        self._unknown = unknown
        self.clear()

    def clear(self) -> None:
        """Forget all rows, whose numbers are then invalid."""
        self._rows: dict[str, int] = {}
        self._table = np.full((64, len(self._labels)), self._unknown)
        self._count = 1

    @property
    def full(self) -> bool:
        """Whether the table has reached its limit, so that `clear` should be called."""
        return self._table.nbytes > _TABLE_BYTES

    def row(self, beginning: str) -> int:
        """Return the number of a word's beginning; 0: no known word begins like this."""
        if beginning not in self._rows:
            at = bisect_left(self._words, beginning)
            end = bisect_left(self._words, beginning + _LAST, lo=at)
            self._rows[beginning] = self._new_row(len(beginning), at, end) if at < end else 0
        return self._rows[beginning]

    def after(self, rows: np.ndarray) -> np.ndarray:
        """Return the best scores (N, C) if each label follows each beginning in `rows` (N,)."""
        return self._table[rows]

    def _new_row(self, size: int, at: int, end: int) -> int:
        """Add a row for the words from `at` to `end`, which share their first `size` letters."""
        if self._count == len(self._table):
            self._table = np.concatenate([self._table, np.full_like(self._table, self._unknown)])
        row = self._table[self._count]
        at += len(self._words[at]) == size  # skip the word that is complete here
        while at < end:
            longer = self._words[at][: size + 1]
            following = bisect_left(self._words, longer + _LAST, lo=at, hi=end)
            label = self._labels.get(longer[-1])
            if label is not None:
                row[label] = max(self._scores[at:following].max(), self._unknown)
            at = following
        self._count += 1
        return self._count - 1


def _open(path: str | Path) -> NgramScorer:
    try:
        if is_compact(path):
            return CompactModel(Path(path))
    except OSError as error:
        raise UserError(f"LMConfig.lm_path {path}: {error.strerror}") from None
    return _KenLM(path)


class _KenLM:
    """A file that KenLM reads; see `NgramScorer`."""

    def __init__(self, path: str | Path):
        self._path = path
        self._kenlm, self._model = _load(path)

    def words(self) -> Iterator[str]:
        return _words(self._path)

    def no_history(self) -> Any:
        state = self._kenlm.State()
        self._model.NullContextWrite(state)
        return state

    def start(self) -> Any:
        state = self._kenlm.State()
        self._model.BeginSentenceWrite(state)
        return state

    def score(self, history: Any, word: str) -> tuple[float, bool, Any]:
        longer = self._kenlm.State()
        found = self._model.BaseFullScore(history, word, longer)
        return found.log_prob, found.oov, longer


def _load(path: str | Path) -> tuple[Any, Any]:
    """Return the module kenlm, and the model."""
    try:
        import kenlm
    except ImportError:
        setup = Path(__file__).resolve().parents[2] / "scripts" / "setup.sh"
        install = f"bash {os.path.relpath(setup)} requirements-lm.txt"
        if not setup.is_file():  # installed by pip, away from the clone
            install = f"{sys.executable} -m pip install kenlm==0.3.0"
        raise UserError(
            f"LMConfig.lm_path {path}: ARPA and KenLM's files need the package kenlm, which is not "
            f"installed: {install} (it takes a C++ compiler); compact files of lm.py do without it"
        ) from None
    try:
        open_file = opener(path)
    except OSError as error:
        raise UserError(f"LMConfig.lm_path {path}: {error.strerror}") from None
    try:
        with open_file(path, "rb") as file:
            is_binary = file.read(len(_BINARY)) == _BINARY
            while open_file is not open and file.read(1 << 20):
                pass  # to its end: KenLM hangs on some compressed files that are cut
    except UNPACKING_ERRORS as error:
        raise _not_a_model(path, str(error)) from None
    if is_binary and open_file is not open:
        raise UserError(f"LMConfig.lm_path {path}: KenLM's binary, compressed: decompress it")
    config = kenlm.Config()
    config.show_progress = False
    config.arpa_complain = kenlm.ARPALoadComplain.NONE
    try:
        return kenlm, _model(kenlm, path, config)
    except UnicodeDecodeError as error:  # of KenLM's message, which quotes the file
        raise _not_a_model(path, error.object.decode(errors="replace")) from None
    except (*UNPACKING_ERRORS, RuntimeError) as error:
        raise _not_a_model(path, str(error)) from None


def _model(kenlm: Any, path: str | Path, config: Any) -> Any:
    try:
        return kenlm.Model(str(path), config)
    except (OSError, RuntimeError) as error:
        if "not compiled in" not in str(error):
            raise
    with tempfile.NamedTemporaryFile(suffix=".arpa") as plain:  # a KenLM built without zlib etc.
        with opener(path)(path, "rb") as file:
            shutil.copyfileobj(file, plain)
        plain.flush()
        return kenlm.Model(plain.name, config)


def _words(path: str | Path) -> Iterator[str]:
    """Yield the words of a model: an ARPA file's unigrams, or a binary file's list at its end."""
    with opener(path)(path, "rb") as file:
        words = _binary_words(file) if file.read(len(_BINARY)) == _BINARY else _arpa_words(file)
        try:
            yield from (word.decode() for word in words if word not in _MARKS)
        except UnicodeDecodeError as error:
            raise _not_a_model(path, f"its words are not in UTF-8: {error}") from None
        except UNPACKING_ERRORS as error:
            raise _not_a_model(path, str(error)) from None


def _arpa_words(file: IO[bytes]) -> Iterator[bytes]:
    for line in file:
        if line.startswith(b"\\1-grams:"):
            break
    for line in file:
        if line.startswith(b"\\"):
            break
        fields = _SPACES.split(line.strip(b"\0\t\n\r "))
        if len(fields) > 1:
            yield fields[1]


def _binary_words(file: IO[bytes]) -> Iterator[bytes]:
    with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        start = content.rfind(b"<unk>\0")
        if start >= 0:
            yield from content[start:].split(b"\0")


def _not_a_model(path: str | Path, problem: str) -> UserError:
    problem = "".join(character if character.isprintable() else " " for character in problem)
    return UserError(
        f"LMConfig.lm_path {path}: not an n-gram language model, an ARPA file or KenLM's binary "
        f"({' '.join(problem.split())})"
    )
