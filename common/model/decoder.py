"""From features to hypotheses: what a recipe's `build_decoder` makes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from common.decoding.decoders import Decoder
from common.decoding.prefix_beam_search import Hypothesis

# features (B, F, T), lengths (B,) -> log-probabilities (T', B, C), lengths (B,)
LogProbs = Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]
# The same; from files that take samples and trim them, also the samples cut from each start (B,).
ForwardPass = Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, ...]]


@dataclass(frozen=True)
class DecodedUtterance:
    """What a decoder makes of one utterance.

    Attributes:
        hypotheses: Best first; at least one.
        log_probs: (T', C) of a CTC network, without padding; None for another network. It may be a
            view that is good until the next batch is decoded.
        start: Samples that the network itself cut from the start of the recording.
    """

    hypotheses: list[Hypothesis]
    log_probs: np.ndarray | None = None
    start: int = 0


class SpeechDecoder(ABC):
    """Features -> hypotheses. An utterance gives the same alone and in any batch."""

    @abstractmethod
    def decode(
        self, features: np.ndarray, lengths: np.ndarray, valid: int | None = None
    ) -> list[DecodedUtterance]:
        """Decode a batch.

        Args:
            features: (B, F, T) float32, padded with 0.
            lengths: (B,) feature frames.
            valid: Rows that count, the first ones; others fill the batch up. None: all.

        Returns:
            One result for each row that counts.
        """

    def warnings(self) -> list[str]:
        """Return what the user should know of the texts since the last call, a line each."""
        return []


class CTCDecoder(SpeechDecoder):
    """A CTC network, and a search over its log-probabilities.

    Args:
        forward: features (B, F, T), lengths (B,) -> log-probabilities (T', B, C), lengths (B,),
            and where it trims recordings the samples cut from each start (B,).
        search: Log-probabilities to hypotheses, greedily or by a beam.
    """

    def __init__(self, forward: ForwardPass, search: Decoder):
        self.forward, self.search = forward, search

    def decode(
        self, features: np.ndarray, lengths: np.ndarray, valid: int | None = None
    ) -> list[DecodedUtterance]:
        """Decode a batch.

        Args:
            features: (B, F, T) float32, padded with 0.
            lengths: (B,) feature frames.
            valid: Rows that count, the first ones. None: all.

        Returns:
            One result for each row that counts, with its log-probabilities.
        """
        log_probs, frames, *starts = self.forward(features, lengths)
        hypotheses = self.search.hypotheses(log_probs[:, :valid], frames[:valid])
        return [
            DecodedUtterance(
                best, log_probs[: frames[row], row], int(starts[0][row]) if starts else 0
            )
            for row, best in enumerate(hypotheses)
        ]

    def warnings(self) -> list[str]:
        """Return what the search says of its texts since the last call."""
        return self.search.warnings()
