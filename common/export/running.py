"""Exported graphs of CTC networks, run from Python."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from common.model.decoder import LogProbs
from common.utils.errors import UserError

_OUTPUTS = ["log_probs", "output_lengths"]


@dataclass(frozen=True)
class Bucket:
    """One file of an export.

    Attributes:
        path: Of the file.
        batch_size: Utterances in a batch; 0: any number.
        frames: Feature frames that inputs are padded to; 0: any number.
    """

    path: Path
    batch_size: int
    frames: int

    def takes(self, frames: int) -> bool:
        """Whether an utterance of so many feature frames fits."""
        return not self.frames or frames <= self.frames


class ExportedForward:
    """Runs the files of an export: features (B, F, T), lengths (B,) -> log-probabilities, lengths.

    A batch goes to the smallest file that takes its frames, in parts where a file has a fixed batch
    size.

    Args:
        buckets: The files, from the shortest inputs to the longest.
        classes: Labels that they give probabilities of.
        samples: They take samples, which come as features of one bin and a sample a frame.
    """

    def __init__(self, buckets: Sequence[Bucket], classes: int, samples: bool = False):
        self._buckets, self._samples = buckets, samples
        self._classes = classes
        self._graphs: dict[Path, LogProbs] = {}

    def __call__(self, features: np.ndarray, lengths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Run a batch whose frames one of the files takes.

        Raises:
            UserError: The file gives probabilities of more or fewer labels than it should.
        """
        rows, _, frames = features.shape  # or samples (B, 1, N)
        bucket = next(bucket for bucket in self._buckets if bucket.takes(frames))
        if bucket.path not in self._graphs:
            self._graphs[bucket.path] = open_graph(bucket.path)
        if bucket.frames > frames:
            features = np.pad(features, ((0, 0), (0, 0), (0, bucket.frames - frames)))
        lengths = lengths.astype(np.int32)
        size = bucket.batch_size or rows
        log_probs, counts = [], []
        for start in range(0, rows, size):
            chosen = np.minimum(np.arange(start, start + size), rows - 1)  # the last row fills up
            given = features[chosen, 0] if self._samples else features[chosen]
            part, count = self._graphs[bucket.path](given, lengths[chosen])
            if part.shape[2] != self._classes:
                raise UserError(
                    f"{bucket.path}: gives probabilities of {part.shape[2]} labels, and its "
                    f"description has {self._classes}: one of the two is of another export"
                )
            log_probs.append(part)
            counts.append(count)
        return np.concatenate(log_probs, 1)[:, :rows], np.concatenate(counts)[:rows]


def open_graph(path: Path) -> LogProbs:
    """Load a MindIR or ONNX file.

    Args:
        path: The file; MindIR of more than 1 GB is split, and named without "_graph".

    Returns:
        features (B, F, T), lengths (B,) -> log-probabilities (T', B, C), lengths (B,). A file that
        takes samples: samples (B, N), lengths (B,) -> the same.

    Raises:
        ImportError: MindSpore, or ONNX Runtime for an ONNX file, is not installed.
        UserError: The file is not there, or damaged.
    """
    if path.suffix == ".onnx":
        session = open_onnx(path)
        signal = _signal(session, path)

        def run(values: np.ndarray, lengths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            given = {signal: values, "lengths": lengths}
            log_probs, frames = session.run(_OUTPUTS, given)
            return log_probs, frames

        return run
    from common.utils.backend import Tensor, ms, nn

    file = graph_file(path)
    if not file.is_file():
        raise UserError(f"{path}: no such file")
    try:
        graph = nn.GraphCell(ms.load(str(file)))
    except (RuntimeError, ValueError) as error:
        raise _unreadable(file, error) from error

    def run_graph(features: np.ndarray, lengths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        log_probs, frames = graph(Tensor(features), Tensor(lengths))
        return log_probs.asnumpy(), frames.asnumpy()

    return run_graph


def open_onnx(path: Path) -> Any:
    """Load an ONNX file.

    Args:
        path: The file.

    Returns:
        The `onnxruntime.InferenceSession`, on the CPU.

    Raises:
        ImportError: ONNX Runtime is not installed.
        UserError: The file is not there, or damaged.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    try:
        import onnxruntime
    except ImportError:
        raise ImportError(
            f"{path} needs ONNX Runtime: pip install onnxruntime", name="onnxruntime"
        ) from None
    try:
        return onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime has many kinds of its own
        raise _unreadable(path, error) from error


def _signal(session: Any, path: Path) -> str:
    """Return the name of the first input of an ONNX file, of which export.py writes two kinds."""
    inputs = [each.name for each in session.get_inputs()]
    outputs = [each.name for each in session.get_outputs()]
    if inputs in (["samples", "lengths"], ["features", "lengths"]) and outputs[:2] == _OUTPUTS:
        return inputs[0]
    listing = f"inputs {', '.join(inputs)} and outputs {', '.join(outputs)}"
    raise UserError(
        f"{path}: not a file that export.py wrote: {listing}, expected samples or features and "
        f"lengths, and {' and '.join(_OUTPUTS)}"
    )


def _unreadable(path: Path, error: Exception) -> UserError:
    reason = " ".join(str(error).split("\n\n")[0].split())
    return UserError(f"{path}: damaged, or no model of its kind ({reason}); export it anew")


def graph_file(path: Path) -> Path:
    """Return the MindIR file itself, or the graph that MindSpore writes apart above 1 GB."""
    return path if path.exists() else path.with_name(f"{path.stem}_graph.mindir")
