"""Decoders: text from log-probabilities.

`make_decoder` chooses a `Decoder` by `LMConfig.decoder_type`. To add one, write another class and
another line in `DECODERS`.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any

import numpy as np

from common.decoding.prefix_beam_search import BeamSearch, Hypothesis
from common.decoding.word_scores import WordScorer, make_word_scores
from common.text.tokenizer import Tokenizer
from common.utils.errors import UserError
from common.utils.worker_pool import worker_pool

MIN_SECONDS_FOR_PROCESSES = 2.0  # of searching, after which further processes are started
MIN_KNOWN_SHARE = 0.2  # of the recognised words, below which the language model is doubted
MIN_WORDS = 5  # for such a doubt


class Decoder(ABC):
    """Turns log-probabilities into texts, with words separated by one space.

    Frames past an utterance's length are not read, so its text is the same in any batch.
    """

    @abstractmethod
    def hypotheses(self, log_probs: np.ndarray, lengths: np.ndarray) -> list[list[Hypothesis]]:
        """Decode a batch.

        Args:
            log_probs: (T, B, C) natural logarithms.
            lengths: (B,) frames of each utterance.

        Returns:
            For each utterance one or more different texts, best first.
        """

    def warnings(self) -> list[str]:
        """Return what the user should know of the texts since the last call, a line each."""
        return []

    def __call__(self, log_probs: np.ndarray, lengths: np.ndarray) -> list[str]:
        """Return the best text of each utterance; arguments as in `hypotheses`."""
        return [hypotheses[0].text for hypotheses in self.hypotheses(log_probs, lengths)]


def collapse(path: np.ndarray, blank: int) -> np.ndarray:
    """Return the labels of a CTC path: repeats merged, then blanks removed.

    Graves et al. 2006, "Connectionist Temporal Classification", section 3.1.

    Args:
        path: (T,) label ids, one a frame.
        blank: Index of the blank.
    """
    return path[emission_frames(path, blank)]


def emission_frames(path: np.ndarray, blank: int) -> np.ndarray:
    """Return the frames of a CTC path in which the labels of `collapse` begin, ascending.

    Args:
        path: (T,) label ids, one a frame.
        blank: Index of the blank.
    """
    begins = np.ones(len(path), dtype=bool)
    begins[1:] = path[1:] != path[:-1]
    return np.flatnonzero(begins & (path != blank))


class GreedyDecoder(Decoder):
    """Collapses the path of the best labels of each frame; its log-probability is the score."""

    def __init__(self, tokenizer: Tokenizer):
        self.tokenizer = tokenizer

    def hypotheses(self, log_probs: np.ndarray, lengths: np.ndarray) -> list[list[Hypothesis]]:
        """Decode a batch into one text for each utterance.

        Args:
            log_probs: (T, B, C) log-probabilities.
            lengths: (B,) frames of each utterance.
        """
        log_probs = np.asarray(log_probs)
        paths, scores = log_probs.argmax(axis=-1), log_probs.max(axis=-1)
        return [
            [Hypothesis(self._text(paths[:length, row]), float(scores[:length, row].sum()))]
            for row, length in enumerate(lengths)
        ]

    def _text(self, path: np.ndarray) -> str:
        labels = collapse(path, self.tokenizer.ctc_blank)
        return " ".join(self.tokenizer.decode(labels.tolist()).split())


class BeamDecoder(Decoder):
    """Prefix beam search, after some seconds of it in `LMConfig.lm_workers` processes."""

    def __init__(self, lm_config: Any, tokenizer: Tokenizer):
        self._settings = lm_config, tokenizer
        self._search = make_search(lm_config, tokenizer)  # UserError if the files are bad
        self._pool: ProcessPoolExecutor | None = None
        self._searched = 0.0  # seconds, in this process
        self._greedy = GreedyDecoder(tokenizer)
        self._words = Counter[bool]()  # recognised ones: whether the language model knows them

    def hypotheses(self, log_probs: np.ndarray, lengths: np.ndarray) -> list[list[Hypothesis]]:
        """Decode a batch into up to `LMConfig.top_paths` texts for each utterance.

        Args:
            log_probs: (T, B, C) log-probabilities.
            lengths: (B,) frames of each utterance.
        """
        utterances = [log_probs[:length, row] for row, length in enumerate(lengths)]
        scores = self._search.language_model
        model = scores.model if isinstance(scores, WordScorer) else scores
        if model is not None:
            texts = self._greedy(log_probs, lengths)
            tokenizer = self._search.tokenizer
            words = (word for text in texts for word in tokenizer.words(text))
            # A model of letters knows all words of one letter.
            least = 2 if tokenizer.separates_words else 1
            self._words.update(model.knows(word) for word in words if len(word) >= least)
        return self._best_texts(utterances)

    def warnings(self) -> list[str]:
        """Say so if the language model knows few of the words since the last call.

        They are the words without the model, which otherwise puts its own in their place.
        """
        words, self._words = self._words, Counter()
        known, count = words[True], words.total()
        if count < MIN_WORDS or known >= MIN_KNOWN_SHARE * count:
            return []
        if not self._search.tokenizer.separates_words:
            return [
                f"the language model {self._settings[0].lm_path} knows {100 * known / count:.0f} % "
                f"of the recognised characters ({known} of {count}, recognised without it): "
                "expected a model of characters, in the language of the recordings"
            ]
        return [
            f"the language model {self._settings[0].lm_path} knows {100 * known / count:.0f} % of "
            f"the recognised words ({known} of {count} of two letters or more, recognised without "
            "it): expected a model of words, in the language of the recordings"
        ]

    def _best_texts(self, utterances: list[np.ndarray]) -> list[list[Hypothesis]]:
        workers = self._settings[0].lm_workers
        if workers == 1 or len(utterances) == 1 or self._searched < MIN_SECONDS_FOR_PROCESSES:
            start = time.perf_counter()
            hypotheses = [self._search(utterance) for utterance in utterances]
            self._searched += time.perf_counter() - start
            return hypotheses
        if self._pool is None:
            self._pool = worker_pool(workers, _start_search, *self._settings)
        try:
            return list(self._pool.map(_search_in_worker, utterances))
        except BrokenProcessPool as error:
            raise UserError(
                f"one of {workers} decoding processes was killed, perhaps for lack of memory; "
                "set LMConfig.lm_workers lower"
            ) from error


def make_search(lm_config: Any, tokenizer: Tokenizer) -> BeamSearch:
    """Make the search that an LMConfig describes, and load its language model and words.

    Args:
        lm_config: An LMConfig.
        tokenizer: Labels of the network.

    Returns:
        The search.

    Raises:
        UserError: The language model or a list of words cannot be used.
    """
    return BeamSearch(
        tokenizer,
        lm_config.beam_width,
        lm_config.cutoff_top_n,
        lm_config.cutoff_prob,
        lm_config.top_paths,
        make_word_scores(lm_config, tokenizer),
    )


_worker_search: BeamSearch  # of a worker process


def _start_search(lm_config: Any, tokenizer: Tokenizer) -> None:
    global _worker_search
    _worker_search = make_search(lm_config, tokenizer)


def _search_in_worker(log_probs: np.ndarray) -> list[Hypothesis]:
    return _worker_search(log_probs)


def _greedy(lm_config: Any, tokenizer: Tokenizer) -> Decoder:
    check_greedy(lm_config)
    return GreedyDecoder(tokenizer)


def check_greedy(lm_config: Any) -> None:
    """Refuse what an LMConfig adds to beam search where the decoder is greedy.

    Raises:
        UserError: It names a language model, hot words or a lexicon.
    """
    for key, what in (
        ("lm_path", "no language model"),
        ("hot_words", "no hot words"),
        ("lexicon", "no lexicon"),
    ):
        if value := getattr(lm_config, key):
            raise UserError(
                f"LMConfig.{key} {value}: greedy decoding uses {what}; set "
                "LMConfig.decoder_type=beam"
            )


DECODERS: dict[str, Callable[[Any, Tokenizer], Decoder]] = {
    "greedy": _greedy,
    "beam": BeamDecoder,
}


def describe(lm_config: Any) -> str:
    """Describe the decoder of an LMConfig in words."""
    kind = lm_config.decoder_type.lower()
    if kind != "beam":
        return kind
    words = f"beam search, {lm_config.beam_width} prefixes"
    if lm_config.lm_path:
        words += (
            f", language model {lm_config.lm_path} (alpha {lm_config.alpha:g}, "
            f"beta {lm_config.beta:g})"
        )
    if lm_config.hot_words:
        words += f", hot words (boost {lm_config.hot_word_boost:g})"
    if lm_config.lexicon:
        words += f", words of {lm_config.lexicon} alone"
    return words


def make_decoder(lm_config: Any, tokenizer: Tokenizer) -> Decoder:
    """Make the decoder that `lm_config.decoder_type` names (any letter case).

    Args:
        lm_config: An LMConfig.
        tokenizer: Labels of the network.

    Returns:
        The decoder.

    Raises:
        UserError: There is no such decoder, or its language model cannot be used.
    """
    build = DECODERS.get(lm_config.decoder_type.lower())
    if build is None:
        raise UserError(
            f"LMConfig.decoder_type is {lm_config.decoder_type!r}; there is {', '.join(DECODERS)}"
        )
    return build(lm_config, tokenizer)
