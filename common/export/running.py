"""Exported graphs of CTC networks, run from Python."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from common.model.decoder import LogProbs
from common.utils.errors import UserError


@dataclass(frozen=True)
class Bucket:
    """One file of an export.

    Attributes:
        path: Of the file.
        batch_size: Utterances in a batch; 0: any number.
        frames: Feature frames that inputs are padded to; 0: any number.
        dimension: Bins of a feature frame.
    """

    path: Path
    batch_size: int
    frames: int
    dimension: int

    @property
    def file(self) -> str:
        """Name of the file."""
        return self.path.name

    def takes(self, frames: int) -> bool:
        """Whether an utterance of so many feature frames fits."""
        return not self.frames or frames <= self.frames

    def batch(self, features: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """Pad utterances to a batch that the file takes.

        Args:
            features: (F, T) of each utterance; at most `batch_size` of them, unless that is 0.

        Returns:
            Features (B, F, T) float32 and lengths (B,) int32; the last utterance is repeated where
            the batch needs more rows.
        """
        rows = [*features, *[features[-1]] * (self.batch_size - len(features))]
        lengths = [utterance.shape[1] for utterance in rows]
        padded = np.zeros((len(rows), self.dimension, self.frames or max(lengths)), np.float32)
        for row, utterance in enumerate(rows):
            padded[row, :, : lengths[row]] = utterance
        return padded, np.array(lengths, np.int32)


def open_graph(path: Path) -> LogProbs:
    """Load a MindIR or ONNX file.

    Args:
        path: The file; MindIR of more than 1 GB is split, and named without "_graph".

    Returns:
        features (B, F, T), lengths (B,) -> log-probabilities (T', B, C), lengths (B,).

    Raises:
        ImportError: MindSpore, or ONNX Runtime for an ONNX file, is not installed.
        UserError: The file is not there.
    """
    if path.suffix == ".onnx":
        if not path.is_file():
            raise UserError(f"{path}: no such file")
        try:
            import onnxruntime
        except ImportError:
            raise ImportError(
                f"{path} needs ONNX Runtime: pip install onnxruntime", name="onnxruntime"
            ) from None
        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])

        def run(features: np.ndarray, lengths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            log_probs, frames = session.run(None, {"features": features, "lengths": lengths})
            return log_probs, frames

        return run
    from common.utils.backend import Tensor, ms, nn

    file = graph_file(path)
    if not file.is_file():
        raise UserError(f"{path}: no such file")
    graph = nn.GraphCell(ms.load(str(file)))

    def run_graph(features: np.ndarray, lengths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        log_probs, frames = graph(Tensor(features), Tensor(lengths))
        return log_probs.asnumpy(), frames.asnumpy()

    return run_graph


def graph_file(path: Path) -> Path:
    """Return the MindIR file itself, or the graph that MindSpore writes apart above 1 GB."""
    return path if path.exists() else path.with_name(f"{path.stem}_graph.mindir")
