"""Text of log-probabilities that come piece by piece."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np

from common.decoding.decoders import check_greedy, collapse, make_search
from common.decoding.prefix_beam_search import Hypothesis
from common.text.tokenizer import Tokenizer
from common.utils.errors import UserError


class IncrementalSearch(Protocol):
    """The search for the text of one utterance that comes piece by piece."""

    def accept(self, log_probs: np.ndarray) -> None:
        """Take the next log-probabilities (T, C)."""

    def hypotheses(self) -> list[Hypothesis]:
        """Return the hypotheses of what came so far, best first."""

    def copy(self) -> IncrementalSearch:
        """Return another that goes on from here, and leaves this one as it is."""


class IncrementalGreedy:
    """The labels of the best path, as `GreedyDecoder` finds them in the whole utterance.

    Args:
        tokenizer: Spells the labels.
    """

    def __init__(self, tokenizer: Tokenizer):
        self._tokenizer, self._labels = tokenizer, np.zeros(0, int)
        self._last, self._score = tokenizer.ctc_blank, 0.0

    def accept(self, log_probs: np.ndarray) -> None:
        """Take the next log-probabilities (T, C)."""
        if not len(log_probs):
            return
        path = np.concatenate(([self._last], log_probs.argmax(axis=-1)))
        blank = self._tokenizer.ctc_blank
        new = collapse(path, blank)[int(self._last != blank) :]  # the last one is known
        self._labels, self._last = np.concatenate((self._labels, new)), path[-1]
        self._score += float(log_probs.max(axis=-1).sum())

    def hypotheses(self) -> list[Hypothesis]:
        """Return the text of what came so far."""
        text = " ".join(self._tokenizer.decode(self._labels.tolist()).split())
        return [Hypothesis(text, self._score)]

    def copy(self) -> IncrementalGreedy:
        """Return another that goes on from here, and leaves this one as it is."""
        return copy.copy(self)  # arrays are replaced, never changed


def incremental_search(lm_config: Any, tokenizer: Tokenizer) -> Callable[[], IncrementalSearch]:
    """Choose the search of an LMConfig.

    Args:
        lm_config: An LMConfig.
        tokenizer: Labels of the network.

    Returns:
        What begins an utterance.

    Raises:
        UserError: There is no such decoder for a stream, or its language model cannot be used.
    """
    kind = lm_config.decoder_type.lower()
    if kind == "greedy":
        check_greedy(lm_config)
        return lambda: IncrementalGreedy(tokenizer)
    if kind == "beam":
        return make_search(lm_config, tokenizer).begin
    raise UserError(
        f"LMConfig.decoder_type is {lm_config.decoder_type!r}; a stream has greedy and beam"
    )
