"""What beam search adds for words: language model, hot words, and a lexicon that is required.

A word is scored by the language model (alpha * log p_lm + beta, or 0 without a model), plus a boost
where it is a hot word; a word outside the lexicon is impossible.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from common.decoding.ngram_lm import LanguageModelLookahead, WordModel
from common.text.tokenizer import Tokenizer
from common.utils.errors import UserError
from common.utils.files import read_text

OF_MODEL = "lm"  # LMConfig.lexicon: the words of the language model
_IMPOSSIBLE = float("-inf")


class _HotLookahead(LanguageModelLookahead):
    """A lookahead in which a hot word gets its boost letter by letter.

    With all of it at the first letter, prefixes that begin one at every word would fill the beam.

    Args:
        tokenizer: Labels of the network.
        scores: The words' scores without history and boost.
        unknown: Score of any other word.
        boosts: Of the hot words, which are among `scores`.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        scores: dict[str, float],
        unknown: float,
        boosts: dict[str, float],
    ):
        self._boosted = [(word, scores[word], boost) for word, boost in boosts.items()]
        super().__init__(tokenizer, scores, unknown)

    def _new_row(self, size: int, at: int, end: int) -> int:
        """Add a row for the words from `at` to `end`, which share their first `size` letters."""
        beginning = self._words[at][:size]
        number = super()._new_row(size, at, end)
        row = self._table[number]
        for word, score, boost in self._boosted:
            if len(word) > size and word.startswith(beginning):
                label = self._labels[word[size]]
                row[label] = max(row[label], score + boost * (size + 1) / len(word))
        return number


class WordScorer:
    """Scores words for `BeamSearch`, which asks it as it asks a `WordModel`.

    Args:
        tokenizer: Labels that words are spelled with.
        model: The language model; None: none.
        hot_words: Words that get the boost, as `hot_words` returns them.
        boost: Added to the score of a hot word, in nats.
        lexicon: The words that may occur, besides hot words; None: any.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        model: WordModel | None = None,
        hot_words: Iterable[str] = (),
        boost: float = 0.0,
        lexicon: Iterable[str] | None = None,
    ):
        self.model, self._boost = model, boost
        self._hot = frozenset(hot_words)
        self._lexicon = None if lexicon is None else frozenset(lexicon) | self._hot
        no_history = None if model is None else model.no_history()
        known = {} if model is None else dict(model.unigrams)
        unknown = 0.0 if model is None else model.unknown
        if self._lexicon is not None:
            known, unknown = {}, _IMPOSSIBLE
        for word in self._hot if self._lexicon is None else self._lexicon:
            score = self.score(no_history, word)[0]
            known[word] = score - boost if word in self._hot else score
        self.lookahead = _HotLookahead(tokenizer, known, unknown, dict.fromkeys(self._hot, boost))

    def start(self) -> Any:
        """Return the history at the beginning of an utterance."""
        return None if self.model is None else self.model.start()

    def score(self, history: Any, word: str) -> tuple[float, Any]:
        """Score a word.

        Args:
            history: What `start` or an earlier `score` returned.
            word: The word that follows it.

        Returns:
            Its score in nats, and the history that includes the word.
        """
        hot = word in self._hot
        if self._lexicon is not None and word not in self._lexicon:
            return _IMPOSSIBLE, history
        score = 0.0
        if self.model is not None:
            score, history = self.model.score(history, word)
            if hot and not self.model.knows(word):  # it is known to the user
                score -= self.model.alpha * self.model.unk_offset
        return (score + self._boost if hot else score), history


def make_word_scores(lm_config: Any, tokenizer: Tokenizer) -> WordModel | WordScorer | None:
    """Make what scores the words of a search.

    Args:
        lm_config: An LMConfig.
        tokenizer: Labels of the network.

    Returns:
        The language model, alone or with hot words and a lexicon; None: nothing is scored.

    Raises:
        UserError: A file cannot be read, or does not fit the labels.
    """
    used = {
        key: getattr(lm_config, key)
        for key in ("lm_path", "hot_words", "lexicon")
        if getattr(lm_config, key)
    }
    if not used:
        return None
    for key, value in used.items():
        _check_labels(key, value, tokenizer)
    model = None
    if lm_config.lm_path:
        model = WordModel(
            lm_config.lm_path, tokenizer, lm_config.alpha, lm_config.beta, lm_config.unk_offset
        )
    if not lm_config.hot_words and not lm_config.lexicon:
        return model
    words = hot_words(lm_config.hot_words, tokenizer)
    required = _lexicon(lm_config.lexicon, tokenizer, model) if lm_config.lexicon else None
    return WordScorer(tokenizer, model, words, lm_config.hot_word_boost, required)


def _check_labels(key: str, value: str, tokenizer: Tokenizer) -> None:
    """Refuse labels without words. A language model may score each label of such a script."""
    if not tokenizer.separates_words:
        if key != "lm_path":
            raise UserError(
                f"LMConfig.{key} {value}: the script of these labels does not separate words"
            )
    elif " " not in tokenizer.labels:
        what = "a language model of words needs" if key == "lm_path" else "words need"
        raise UserError(f"LMConfig.{key} {value}: {what} a space among the labels, these have none")


def hot_words(value: str, tokenizer: Tokenizer) -> list[str]:
    """Read hot words.

    Args:
        value: A text file of words, or the words themselves, parted by commas or spaces. Of a
            phrase, each word counts.
        tokenizer: Labels of the network.

    Returns:
        The words as the labels spell them.

    Raises:
        UserError: The labels cannot spell one of them.
    """
    if not value:
        return []
    text = read_text(Path(value), "hot words") if _is_file(value) else value
    words = tokenizer.normalise(text).replace(",", " ").split()
    for word in words:
        if unknown := tokenizer.unknown(word):
            raise UserError(
                f"LMConfig.hot_words {value}: no label for {', '.join(map(repr, sorted(unknown)))} "
                f"of {word!r}: spell it with the labels"
            )
    return words


def _lexicon(value: str, tokenizer: Tokenizer, model: WordModel | None) -> list[str]:
    """Return the words that may occur."""
    if value == OF_MODEL:
        if model is None:
            raise UserError(
                "LMConfig.lexicon lm: the words of a language model, but LMConfig.lm_path is empty"
            )
        words = list(model.unigrams)
    else:
        lines = read_text(Path(value), "lexicon").splitlines()
        first = " ".join(line.split()[0] for line in lines if line.strip())
        words = tokenizer.normalise(first).split()
    spelled = [word for word in words if not tokenizer.unknown(word)]
    if not spelled:
        raise UserError(
            f"LMConfig.lexicon {value}: the labels can spell none of its {len(words)} words"
        )
    return spelled


def _is_file(value: str) -> bool:
    try:
        return Path(value).is_file()
    except (OSError, ValueError):  # a long list of words is no path
        return False
