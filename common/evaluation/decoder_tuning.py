"""Choose the weights of a beam search with a language model on saved log-probabilities."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from common.config import LMConfig
from common.decoding.decoders import make_decoder
from common.evaluation.error_rates import EditCounts, character_errors, word_errors
from common.text.tokenizer import Tokenizer

# Each line is searched from the best so far: coarse steps, then finer ones on either side.
ALPHAS, BETAS = (0.0, 0.3, 0.6, 0.9, 1.2, 1.6, 2.0), (-1.0, 0.0, 1.0, 2.0, 3.0)
FINER = ((-0.15, 0.15), (-0.5, 0.5))
_UTTERANCES_AT_ONCE = 64


@dataclass(frozen=True)
class Trial:
    """A setting of the decoder, and what it gave.

    Attributes:
        decoding: The setting.
        words: Errors in words.
        characters: Errors in characters.
        seconds: That the search took.
        headline: The error rate that ranks trials, `Tokenizer.headline`.
    """

    decoding: LMConfig
    words: EditCounts
    characters: EditCounts
    seconds: float
    headline: str = "WER"

    @property
    def rank(self) -> tuple[float, float]:
        """Word and character error rate, the headline first: the lower, the better."""
        rates = self.words.rate, self.characters.rate
        return rates if self.headline == "WER" else rates[::-1]


def run_trial(
    decoding: LMConfig,
    log_probs: Sequence[np.ndarray],
    references: Sequence[str],
    tokenizer: Tokenizer,
) -> Trial:
    """Decode utterances with one setting, and score them.

    Args:
        decoding: The setting.
        log_probs: (T, C) natural logarithms of each utterance.
        references: What was said, normalised.
        tokenizer: The labels.

    Returns:
        The errors, and the time.

    Raises:
        UserError: The language model cannot be used.
    """
    decoder = make_decoder(decoding, tokenizer)
    texts: list[str] = []
    started = time.perf_counter()
    for start in range(0, len(log_probs), _UTTERANCES_AT_ONCE):
        portion = log_probs[start : start + _UTTERANCES_AT_ONCE]
        lengths = np.array([len(each) for each in portion])
        padded = np.zeros((lengths.max(), len(lengths), len(tokenizer)), np.float32)
        for row, each in enumerate(portion):
            padded[: len(each), row] = each
        texts += decoder(padded, lengths)
    seconds = time.perf_counter() - started
    pairs = list(zip(references, texts))
    return Trial(
        decoding,
        sum((word_errors(*pair, tokenizer.words) for pair in pairs), EditCounts()),
        sum((character_errors(*pair) for pair in pairs), EditCounts()),
        seconds,
        tokenizer.headline,
    )


def tune(
    decoding: LMConfig,
    log_probs: Sequence[np.ndarray],
    references: Sequence[str],
    tokenizer: Tokenizer,
    on_trial: Callable[[Trial], None],
) -> Trial:
    """Look for the alpha and beta of the best `Trial.rank`.

    Along alpha, along beta, then both finer.

    Args:
        decoding: The decoder, with its language model; alpha and beta are where the search begins.
        log_probs: (T, C) natural logarithms of each utterance.
        references: What was said, normalised.
        tokenizer: The labels.
        on_trial: Called after each trial.

    Returns:
        The best trial.

    Raises:
        UserError: The language model cannot be used.
    """
    seen: dict[tuple[float, float], Trial] = {}

    def best_of(settings: Iterable[tuple[float, float]]) -> Trial:
        for alpha, beta in settings:
            if alpha < 0 or (alpha, beta) in seen:
                continue
            setting = replace(decoding, alpha=alpha, beta=beta)
            seen[alpha, beta] = run_trial(setting, log_probs, references, tokenizer)
            on_trial(seen[alpha, beta])
        return min(seen.values(), key=lambda trial: trial.rank)

    best = best_of((alpha, decoding.beta) for alpha in (*ALPHAS, decoding.alpha))
    best = best_of((best.decoding.alpha, beta) for beta in BETAS)
    alpha = best.decoding.alpha
    best = best_of((round(alpha + step, 4), best.decoding.beta) for step in FINER[0])
    beta = best.decoding.beta
    return best_of((best.decoding.alpha, round(beta + step, 4)) for step in FINER[1])
