"""From log-probabilities to text.

A decoder is any callable `(log_probs (T, B, C), lengths (B,)) -> list[str]` of B texts.
`make_decoder` picks one by `LMConfig.decoder_type`; another decoder is another class here and
another line in `DECODERS`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from common.errors import UserError
from common.text import Vocabulary

Decoder = Callable[[np.ndarray, np.ndarray], list[str]]


def collapse(path: np.ndarray, blank: int) -> np.ndarray:
    """The labels that a CTC path (T,) stands for: repeats merged, then blanks dropped.

    Graves et al. 2006, "Connectionist Temporal Classification", section 3.1.
    """
    begins = np.ones(len(path), dtype=bool)
    begins[1:] = path[1:] != path[:-1]
    return path[begins & (path != blank)]


class GreedyDecoder:
    """The best label of each frame, collapsed. Frames past an utterance's length are not read."""

    def __init__(self, vocabulary: Vocabulary):
        self.vocabulary = vocabulary

    def __call__(self, log_probs: np.ndarray, lengths: np.ndarray) -> list[str]:
        """log_probs (T, B, C), lengths (B,) in frames -> B texts, one space between words."""
        paths = np.asarray(log_probs).argmax(axis=-1).T
        return [self._text(path[:length]) for path, length in zip(paths, lengths)]

    def _text(self, path: np.ndarray) -> str:
        labels = collapse(path, self.vocabulary.blank)
        return " ".join(self.vocabulary.decode(labels.tolist()).split())


DECODERS: dict[str, Callable[[Any, Vocabulary], Decoder]] = {
    "greedy": lambda lm_config, vocabulary: GreedyDecoder(vocabulary),
}


def make_decoder(lm_config: Any, vocabulary: Vocabulary) -> Decoder:
    """The decoder that `lm_config.decoder_type` names (any letter case)."""
    build = DECODERS.get(lm_config.decoder_type.lower())
    if build is None:
        raise UserError(
            f"LMConfig.decoder_type is {lm_config.decoder_type!r}; there is {', '.join(DECODERS)}"
        )
    return build(lm_config, vocabulary)
