"""Fit and measure the confidence of words: reliability, and the expected calibration error."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from common.decoding.confidence import ConfidenceMap, logit
from common.evaluation.scoring import ScoredUtterance

BINS = 10  # of equal width
_PRIOR = 1.0  # words by which the fit is held at the map that changes nothing
_STEPS = 100
_CLOSE = 1e-9


@dataclass(frozen=True)
class ReliabilityBin:
    """The words whose confidence is in one range.

    Attributes:
        low: Least confidence.
        high: Greatest.
        words: How many there are.
        confidence: Their mean confidence; 0 where there are none.
        correct: Share of them that is right.
    """

    low: float
    high: float
    words: int
    confidence: float
    correct: float


def word_confidences(utterances: Iterable[ScoredUtterance]) -> tuple[np.ndarray, np.ndarray]:
    """Collect the recognised words of scored utterances.

    Args:
        utterances: Scored with times of words; those whose words have none are left out.

    Returns:
        (N,) raw confidence of each word, and (N,) whether it is right: aligned with the same word
        of the reference.
    """
    confidences: list[float] = []
    correct: list[bool] = []
    for utterance in utterances:
        recognised = [
            reference == hypothesis
            for reference, hypothesis in utterance.pairs
            if hypothesis is not None
        ]
        if len(recognised) == len(utterance.timed):
            confidences += [word.confidence for word in utterance.timed]
            correct += recognised
    return np.array(confidences), np.array(correct, bool)


def reliability(confidences: np.ndarray, correct: np.ndarray) -> list[ReliabilityBin]:
    """Group words by confidence (DeGroot and Fienberg 1983).

    Args:
        confidences: (N,) from 0 to 1.
        correct: (N,) whether each word is right.

    Returns:
        Ten bins of equal width.
    """
    numbers = np.minimum((np.asarray(confidences) * BINS).astype(int), BINS - 1)
    bins = []
    for number in range(BINS):
        inside = numbers == number
        count = int(inside.sum())
        bins.append(
            ReliabilityBin(
                number / BINS,
                (number + 1) / BINS,
                count,
                float(confidences[inside].mean()) if count else 0.0,
                float(correct[inside].mean()) if count else 0.0,
            )
        )
    return bins


def calibration_error(bins: Iterable[ReliabilityBin]) -> float:
    """Return the expected calibration error (Naeini et al. 2015; Guo et al. 2017, equation 3).

    Args:
        bins: Of `reliability`.

    Returns:
        The mean over all words of how far the confidence of their bin is from its share of right
        words; 0 without words.
    """
    bins = list(bins)
    total = sum(each.words for each in bins)
    gaps = (each.words * abs(each.confidence - each.correct) for each in bins)
    return sum(gaps) / max(total, 1)


def fit(confidences: np.ndarray, correct: np.ndarray) -> ConfidenceMap:
    """Fit a map by maximum likelihood, held at the map that changes nothing by a weak prior.

    Args:
        confidences: (N,) raw confidences.
        correct: (N,) whether each word is right.

    Returns:
        The map, whose scale is above 0: the order of words by confidence stays.
    """
    inputs = np.column_stack([logit(confidences), np.ones(len(confidences))])
    usual = np.array([1.0, 0.0])
    weights = usual.copy()
    for _ in range(_STEPS):  # Newton's method
        right = 1 / (1 + np.exp(-inputs @ weights))
        gradient = inputs.T @ (right - correct) + _PRIOR * (weights - usual)
        curvature = (inputs * (right * (1 - right))[:, None]).T @ inputs + _PRIOR * np.eye(2)
        step = np.linalg.solve(curvature, gradient)
        weights = weights - np.clip(step, -1, 1)
        if np.abs(step).max() < _CLOSE:
            break
    scale, offset = weights
    return ConfidenceMap(max(float(scale), 1e-3), float(offset))


def cross_validated(confidences: np.ndarray, correct: np.ndarray, folds: int = 5) -> np.ndarray:
    """Calibrate words by maps that were fitted on others.

    Args:
        confidences: (N,) raw confidences.
        correct: (N,) whether each word is right.
        folds: Parts; each is calibrated by a fit on the other parts.

    Returns:
        (N,) calibrated confidences.
    """
    calibrated = np.empty(len(confidences))
    for part in np.array_split(np.arange(len(confidences)), folds):
        others = np.setdiff1d(np.arange(len(confidences)), part)
        calibrated[part] = fit(confidences[others], correct[others])(confidences[part])
    return calibrated
