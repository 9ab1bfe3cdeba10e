"""ONNX files for sherpa-onnx (https://github.com/k2-fsa/sherpa-onnx), another program's client.

They are of the kind that it calls Omnilingual ASR CTC: it hands over samples of 16 kHz, so that the
file computes the features itself, whatever they are. Its NeMo CTC kind computes features of its
own: frames of 25 ms every 10 ms that start half a hop later than ours, a periodic Hann window,
pre-emphasis within each frame. They equal none of ours.

Before, it brings a recording to mean 0 and deviation 1, which nothing here can undo. Features that
depend on how loud a recording is (all but those of the jasper conventions) then differ a little
from those of the recording itself.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from common.audio.features import FeatureConfig
from common.export.onnx import Graph
from common.export.onnx_features import Batch
from common.export.running import open_onnx
from common.text.tokenizer import Tokenizer
from common.utils.errors import UserError

STYLE = "sherpa"
INPUT, OUTPUT = "x", "logits"  # any names would do
SAMPLE_RATE = 16000  # Hz, to which it resamples recordings
DEVIATION = 0.05  # of full scale, that recordings get again: that of speech at a usual level
_SMALL = 1e-5  # added to the variance


def check_features(features: FeatureConfig) -> None:
    """Refuse features of recordings that sherpa-onnx does not hand over.

    Args:
        features: Of the network.

    Raises:
        UserError: They are of another sample rate.
    """
    if features.sample_rate != SAMPLE_RATE:
        raise UserError(
            f"--style sherpa: the network takes {features.sample_rate} Hz, and sherpa-onnx gives "
            f"{SAMPLE_RATE} Hz to files that compute their features"
        )


def loudness_matters(features: FeatureConfig) -> bool:
    """Return whether features change when a recording is made louder or fainter."""
    return not features.convention.startswith("jasper")


def add_samples(graph: Graph) -> Batch:
    """Add what makes recordings of the file's input.

    Args:
        graph: The graph.

    Returns:
        Recordings (B, N) at the level of speech, all of the full length.
    """
    values = graph.op("Mul", INPUT, graph.constant(DEVIATION, np.float32))
    shape = graph.op("Shape", INPUT)
    rows, counts = graph.op("Split", shape, outputs=2, axis=0, split=[1, 1])
    return Batch(values, graph.op("Expand", counts, rows))


def normalised(samples: np.ndarray) -> np.ndarray:
    """Return samples as sherpa-onnx hands them over: of mean 0 and deviation 1.

    Args:
        samples: (N,).

    Returns:
        (N,) float32.
    """
    mean, variance = samples.mean(dtype=np.float64), samples.var(dtype=np.float64)
    return ((samples - mean) / np.sqrt(variance + _SMALL)).astype(np.float32)


def open_for_sherpa(path: Path) -> Callable[[np.ndarray], np.ndarray]:
    """Load a file as sherpa-onnx runs it.

    Args:
        path: The file.

    Returns:
        Samples (N,), `normalised` -> log-probabilities (T', C).
    """
    session = open_onnx(path)
    return lambda samples: session.run([OUTPUT], {INPUT: samples[None]})[0][0]


def tokens_text(tokenizer: Tokenizer) -> str:
    """Return the content of tokens.txt: a line with symbol and number for each label.

    Args:
        tokenizer: Spells the labels.

    Raises:
        UserError: A label has white space within.
    """
    lines = []
    for number, label in enumerate(tokenizer.labels):
        if label != " " and (not label or label.split() != [label]):
            raise UserError(
                f"--style sherpa: label {number} is {label!r}, and white space ends a symbol there"
            )
        symbol = "<blk>" if number == tokenizer.blank else label
        lines.append(f"{symbol} {number}\n")
    return "".join(lines)


def tokens_path(path: Path) -> Path:
    """Return where the symbols of an exported file are written: NAME-tokens.txt."""
    return path.with_name(f"{path.stem}-tokens.txt")
