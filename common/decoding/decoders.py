"""From log-probabilities to text.

`make_decoder` picks a `Decoder` by `LMConfig.decoder_type`; another decoder is another class here
and another line in `DECODERS`.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any

import numpy as np

from common.decoding.ngram_lm import WordModel
from common.decoding.prefix_beam_search import BeamSearch, Hypothesis
from common.text.tokenizer import Vocabulary
from common.utils.errors import UserError
from common.utils.worker_pool import worker_pool

WORTH_PROCESSES = 2.0  # seconds of searching, after which further processes are worth their start


class Decoder(ABC):
    """Log-probabilities (T, B, C) and lengths (B,) in frames -> B texts, words parted by a space.

    Frames past an utterance's length are not read, so its text is the same in any batch.
    """

    @abstractmethod
    def hypotheses(self, log_probs: np.ndarray, lengths: np.ndarray) -> list[list[Hypothesis]]:
        """Of each utterance one or more different texts, best first."""

    def __call__(self, log_probs: np.ndarray, lengths: np.ndarray) -> list[str]:
        """The best text of each utterance."""
        return [found[0].text for found in self.hypotheses(log_probs, lengths)]


def collapse(path: np.ndarray, blank: int) -> np.ndarray:
    """The labels that a CTC path (T,) stands for: repeats merged, then blanks dropped.

    Graves et al. 2006, "Connectionist Temporal Classification", section 3.1.
    """
    return path[emission_frames(path, blank)]


def emission_frames(path: np.ndarray, blank: int) -> np.ndarray:
    """The frames of a CTC path (T,) in which the labels of `collapse` begin, ascending."""
    begins = np.ones(len(path), dtype=bool)
    begins[1:] = path[1:] != path[:-1]
    return np.flatnonzero(begins & (path != blank))


class GreedyDecoder(Decoder):
    """The best label of each frame, collapsed; scored by that one path."""

    def __init__(self, vocabulary: Vocabulary):
        self.vocabulary = vocabulary

    def hypotheses(self, log_probs: np.ndarray, lengths: np.ndarray) -> list[list[Hypothesis]]:
        log_probs = np.asarray(log_probs)
        paths, scores = log_probs.argmax(axis=-1), log_probs.max(axis=-1)
        return [
            [Hypothesis(self._text(paths[:length, row]), float(scores[:length, row].sum()))]
            for row, length in enumerate(lengths)
        ]

    def _text(self, path: np.ndarray) -> str:
        labels = collapse(path, self.vocabulary.blank)
        return " ".join(self.vocabulary.decode(labels.tolist()).split())


class BeamDecoder(Decoder):
    """Prefix beam search; where there is much to search, in `LMConfig.lm_workers` processes."""

    def __init__(self, lm_config: Any, vocabulary: Vocabulary):
        self._settings = lm_config, vocabulary
        self._search = make_search(lm_config, vocabulary)  # what is wrong with the files shows here
        self._pool: ProcessPoolExecutor | None = None
        self._searched = 0.0  # seconds, in this process

    def hypotheses(self, log_probs: np.ndarray, lengths: np.ndarray) -> list[list[Hypothesis]]:
        utterances = [log_probs[:length, row] for row, length in enumerate(lengths)]
        workers = self._settings[0].lm_workers
        if workers == 1 or len(utterances) == 1 or self._searched < WORTH_PROCESSES:
            begin = time.perf_counter()
            found = [self._search(utterance) for utterance in utterances]
            self._searched += time.perf_counter() - begin
            return found
        if self._pool is None:
            self._pool = worker_pool(workers, _start_search, *self._settings)
        try:
            return list(self._pool.map(_search_here, utterances))
        except BrokenProcessPool as error:
            raise UserError(
                f"one of {workers} decoding processes was killed, perhaps for lack of memory; "
                "set LMConfig.lm_workers lower"
            ) from error


def make_search(lm_config: Any, vocabulary: Vocabulary) -> BeamSearch:
    """The search that an LMConfig describes, its language model loaded."""
    language = None
    if lm_config.lm_path:
        if " " not in vocabulary.labels:
            raise UserError(
                f"LMConfig.lm_path {lm_config.lm_path}: a language model of words needs a space "
                "among the labels, these have none"
            )
        language = WordModel(
            lm_config.lm_path, vocabulary, lm_config.alpha, lm_config.beta, lm_config.unk_offset
        )
    return BeamSearch(
        vocabulary,
        lm_config.beam_width,
        lm_config.cutoff_top_n,
        lm_config.cutoff_prob,
        lm_config.top_paths,
        language,
    )


_here: BeamSearch  # of a worker process


def _start_search(lm_config: Any, vocabulary: Vocabulary) -> None:
    global _here
    _here = make_search(lm_config, vocabulary)


def _search_here(log_probs: np.ndarray) -> list[Hypothesis]:
    return _here(log_probs)


def _greedy(lm_config: Any, vocabulary: Vocabulary) -> Decoder:
    if lm_config.lm_path:
        raise UserError(
            f"LMConfig.lm_path {lm_config.lm_path}: greedy decoding uses no language model; "
            "set LMConfig.decoder_type=beam"
        )
    return GreedyDecoder(vocabulary)


DECODERS: dict[str, Callable[[Any, Vocabulary], Decoder]] = {
    "greedy": _greedy,
    "beam": BeamDecoder,
}


def describe(lm_config: Any) -> str:
    """What `make_decoder` makes of it, in words for people."""
    kind = lm_config.decoder_type.lower()
    if kind != "beam":
        return kind
    words = f"beam search, {lm_config.beam_width} prefixes"
    if lm_config.lm_path:
        words += (
            f", language model {lm_config.lm_path} (alpha {lm_config.alpha:g}, "
            f"beta {lm_config.beta:g})"
        )
    return words


def make_decoder(lm_config: Any, vocabulary: Vocabulary) -> Decoder:
    """The decoder that `lm_config.decoder_type` names (any letter case)."""
    build = DECODERS.get(lm_config.decoder_type.lower())
    if build is None:
        raise UserError(
            f"LMConfig.decoder_type is {lm_config.decoder_type!r}; there is {', '.join(DECODERS)}"
        )
    return build(lm_config, vocabulary)
