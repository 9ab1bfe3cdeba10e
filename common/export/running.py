"""Exported graphs of CTC networks, run from Python."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from common.model.decoder import ForwardPass, LogProbs
from common.utils.errors import UserError
from common.utils.packages import package

_OUTPUTS = ["log_probs", "output_lengths"]
_STARTS = "starts"  # a third output, of files that trim recordings
_TOO_NEW = ("Unsupported model IR version", "only *guarantees* support for models stamped")


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
    """Runs the files of an export: a `ForwardPass`.

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
        self._graphs: dict[Path, ForwardPass] = {}

    def __call__(self, features: np.ndarray, lengths: np.ndarray) -> tuple[np.ndarray, ...]:
        """Run a batch whose frames one of the files takes.

        Raises:
            UserError: The file gives probabilities of more or fewer labels than it should.
        """
        rows, _, frames = features.shape  # or samples (B, 1, N)
        bucket = next(bucket for bucket in self._buckets if bucket.takes(frames))
        if bucket.path not in self._graphs:
            self._graphs[bucket.path] = _open(bucket.path)
        if bucket.frames > frames:
            features = np.pad(features, ((0, 0), (0, 0), (0, bucket.frames - frames)))
        lengths = lengths.astype(np.int32)
        size = bucket.batch_size or rows
        parts = []
        for start in range(0, rows, size):
            chosen = np.minimum(np.arange(start, start + size), rows - 1)  # the last row fills up
            given = features[chosen, 0] if self._samples else features[chosen]
            part = self._graphs[bucket.path](given, lengths[chosen])
            if part[0].shape[2] != self._classes:
                raise UserError(
                    f"{bucket.path}: gives probabilities of {part[0].shape[2]} labels, and its "
                    f"description has {self._classes}: one of the two is of another export"
                )
            parts.append(part)
        if len(parts) == 1:
            log_probs, *others = parts[0]
        else:
            log_probs = np.concatenate([_longer(part[0], parts) for part in parts], 1)
            others = [np.concatenate(each) for each in list(zip(*parts))[1:]]
        return log_probs[:, :rows], *(each[:rows] for each in others)


def _longer(log_probs: np.ndarray, parts: Sequence[tuple[np.ndarray, ...]]) -> np.ndarray:
    """Pad log-probabilities (T', B, C) to the frames of the longest part: trimming differs."""
    missing = max(len(part[0]) for part in parts) - len(log_probs)
    return np.pad(log_probs, ((0, missing), (0, 0), (0, 0))) if missing else log_probs


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
    run = _open(path)

    def run_graph(values: np.ndarray, lengths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        log_probs, frames = run(values, lengths)[:2]
        return log_probs, frames

    return run_graph


def _open(path: Path) -> ForwardPass:
    """Load a file; see `open_graph`. One that trims also tells the samples cut from each start."""
    return _open_onnx(path) if path.suffix == ".onnx" else _open_mindir(path)


def _open_onnx(path: Path) -> ForwardPass:
    session = open_onnx(path)
    signal = _signal(session, path)
    outputs = [*_OUTPUTS, *(each.name for each in session.get_outputs() if each.name == _STARTS)]

    def run(values: np.ndarray, lengths: np.ndarray) -> tuple[np.ndarray, ...]:
        try:
            return tuple(session.run(outputs, {signal: values, "lengths": lengths}))
        except Exception as error:  # ONNX Runtime has many kinds of its own
            raise _unreadable(path, error) from error

    return run


def _open_mindir(path: Path) -> ForwardPass:
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
        UserError: The file is not there, or damaged, or newer than ONNX Runtime.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    runtime = onnx_runtime()
    options = runtime.SessionOptions()
    options.log_severity_level = 3  # its warnings are for its developers
    try:
        return runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime has many kinds of its own
        if any(sign in str(error) for sign in _TOO_NEW):
            raise UserError(
                f"{path}: newer than ONNX Runtime {runtime.__version__} knows ({_reason(error)}); "
                "install a newer one (pip install -U onnxruntime), or export the model anew"
            ) from error
        raise _unreadable(path, error) from error


def onnx_runtime() -> Any:
    """Import ONNX Runtime; ImportError with the command that installs it."""
    return package("onnxruntime", "runs ONNX files")


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
    return UserError(f"{path}: damaged, or no model of its kind ({_reason(error)}); export it anew")


def _reason(error: Exception) -> str:
    return " ".join(str(error).split("\n\n")[0].split())


def graph_file(path: Path) -> Path:
    """Return the MindIR file itself, or the graph that MindSpore writes apart above 1 GB."""
    return path if path.exists() else path.with_name(f"{path.stem}_graph.mindir")
