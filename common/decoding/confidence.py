"""Calibrated confidence of words: of those with 0.8, four in five are right.

A network is mostly too sure of itself. Its confidence c becomes 1 / (1 + exp(-(scale * logit(c) +
offset))), with two numbers that are fitted on a validation set (Platt 1999, "Probabilistic Outputs
for Support Vector Machines"; a temperature alone is 1 / scale, Guo et al. 2017, arXiv 1706.04599).
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from common.decoding.word_alignment import Word
from common.utils.errors import UserError
from common.utils.files import read_json

_ENDING = ".calibration.json"
_LEAST = 1e-6  # confidences are kept so far from 0 and 1, where the logit is infinite
_MOST = 100.0  # of scale and offset


@dataclass(frozen=True)
class ConfidenceMap:
    """From the confidence that a network gives a word to how often such words are right.

    Attributes:
        scale: Of the logit; 1 changes nothing.
        offset: Added to it.
    """

    scale: float = 1.0
    offset: float = 0.0

    def __call__(self, confidences: np.ndarray) -> np.ndarray:
        """Return calibrated confidences (N,) of raw ones (N,)."""
        return 1 / (1 + np.exp(-(self.scale * logit(confidences) + self.offset)))

    def word(self, word: Word) -> Word:
        """Return a word with its calibrated confidence."""
        return replace(word, confidence=float(self(np.array([word.confidence]))[0]))

    def to_json(self) -> dict[str, float]:
        """Return what a calibration file holds."""
        return asdict(self)


def logit(confidences: np.ndarray) -> np.ndarray:
    """Return log(c / (1 - c)), finite also for 0 and 1."""
    clipped = np.clip(np.asarray(confidences, np.float64), _LEAST, 1 - _LEAST)
    return np.log(clipped / (1 - clipped))


def calibration_file(model: str | Path) -> Path:
    """Return where the calibration of a network lies: NAME.calibration.json beside NAME.onnx.

    Args:
        model: Checkpoint or exported file; those of one name hold one network.
    """
    path = Path(model)
    stem = path.name.removesuffix(".json").removesuffix(path.suffix) if path.suffix else path.name
    return path.with_name(stem.removesuffix(".onnx") + _ENDING)


def read_calibration(model: str | Path) -> ConfidenceMap | None:
    """Read the calibration beside a network.

    Args:
        model: Checkpoint or exported file.

    Returns:
        The map; None: there is no calibration.

    Raises:
        UserError: The file is damaged.
    """
    path = calibration_file(model)
    if not path.is_file():
        return None
    content = read_json(path)
    try:
        scale, offset = (float((content or {})[key]) for key in ("scale", "offset"))
    except (KeyError, TypeError, ValueError):
        scale = math.nan
        offset = math.nan
    if not (0 < scale <= _MOST and abs(offset) <= _MOST):
        raise UserError(
            f"{path}: not a calibration that calibrate.py wrote; make it anew, or remove it: "
            "confidences are then those of the network"
        )
    return ConfidenceMap(scale, offset)
