"""Exported streaming networks, run from Python on one recording after another."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from common.audio.features import Featurizer
from common.audio.normalisation import FixedNormalisation, Normalisation
from common.audio.streaming_features import StreamingFeaturizer, normalisation_of
from common.export.offline_inference import read_description
from common.export.onnx_metadata import check_model_content
from common.export.running import open_onnx
from common.export.streaming import CHUNK_SECONDS, FIRST, LENGTHS, NEXT, STATE, STREAM, StreamShape
from common.model.recipe import Recipe
from common.text.tokenizer import Tokenizer
from common.utils.errors import UserError

_UNKNOWN = 1 << 30  # frames of a recording that has not ended: more than a hundred days


class NetworkStream:
    """A streaming network, and what it keeps of the recording that comes.

    Args:
        session: The `onnxruntime.InferenceSession` of a file that `write_streaming` wrote.
        shape: How its output lies to its input.
        output_frames: Feature frames of a recording -> output frames of the network.
        chunk: Feature frames that it takes at a time, a multiple of the stride.
    """

    def __init__(
        self,
        session: Any,
        shape: StreamShape,
        output_frames: Callable[[int], int],
        chunk: int,
    ):
        self._session, self._shape, self._output_frames = session, shape, output_frames
        self._chunk = chunk
        inputs = {each.name: each.shape for each in session.get_inputs()}
        self._dimension, self._classes = inputs["features"][1], session.get_outputs()[0].shape[2]
        self._states = {
            name: np.zeros(shape, np.float32)
            for name, shape in inputs.items()
            if name.startswith(STATE)
        }
        self._waiting = np.zeros((self._dimension, 0), np.float32)
        self._given = 0  # feature frames that the network had

    def accept(self, features: np.ndarray) -> np.ndarray:
        """Take the next feature frames.

        Args:
            features: (F, T) float32.

        Returns:
            (T', C) log-probabilities that are ready.
        """
        if features.size:
            self._waiting = np.concatenate((self._waiting, features), axis=1)
        ready = []
        while self._waiting.shape[1] >= self._chunk:
            ready.append(self._run(self._waiting[:, : self._chunk], _UNKNOWN))
            self._waiting = self._waiting[:, self._chunk :]
        return self._joined(ready)

    def finish(self) -> np.ndarray:
        """Return the log-probabilities (T', C) that are left at the end of the recording."""
        frames = self._given + self._waiting.shape[1]
        if not frames:
            return self._joined([])
        needed = (self._output_frames(frames) + self._shape.delay) * self._shape.stride
        missing = needed - frames  # frames that the network looks ahead, which are not there
        rest = np.pad(self._waiting, ((0, 0), (0, missing)))
        self._waiting = rest[:, :0]
        return self._joined([self._run(rest, frames)])

    def copy(self) -> NetworkStream:
        """Return another that goes on from here, and leaves this one as it is."""
        return copy.copy(self)  # arrays are replaced, never changed

    def _run(self, features: np.ndarray, frames: int) -> np.ndarray:
        """Run a piece of a recording of so many frames; return the log-probabilities of it."""
        given = {
            "features": features[None],
            "position": np.array([self._given], np.int32),
            LENGTHS: np.array([frames], np.int32),
            **self._states,
        }
        following = [name.replace(STATE, NEXT) for name in self._states]
        log_probs, first, *states = self._session.run(["log_probs", FIRST, *following], given)
        self._states = dict(zip(self._states, states))
        self._given += features.shape[1]
        start, end = max(0, -int(first[0])), len(log_probs)
        if frames != _UNKNOWN:
            end = min(end, self._output_frames(frames) - int(first[0]))
        return log_probs[start : max(start, end), 0]

    def _joined(self, parts: list[np.ndarray]) -> np.ndarray:
        return np.concatenate([np.zeros((0, self._classes), np.float32), *parts])


class AcousticStream:
    """Log-probabilities of one recording that comes piece by piece.

    Args:
        features: Of the recording.
        network: At its start.
    """

    def __init__(self, features: StreamingFeaturizer, network: NetworkStream):
        self._features, self._network = features, network

    def accept(self, samples: np.ndarray) -> np.ndarray:
        """Take the next samples (N,) float32; return the log-probabilities (T', C) now ready."""
        return self._network.accept(self._features.accept(samples))

    def finish(self) -> np.ndarray:
        """Return the log-probabilities (T', C) that are left at the end of the recording."""
        ready = self._network.accept(self._features.finish())
        return np.concatenate((ready, self._network.finish()))

    def ahead(self) -> np.ndarray:
        """Forecast the log-probabilities (T', C) that would come if the recording ended here.

        They are for a text to show meanwhile; what comes afterwards replaces them.
        """
        return AcousticStream(self._features.copy(), self._network.copy()).finish()


@dataclass(frozen=True)
class StreamingModel:
    """An exported streaming network with all that must travel with it.

    Attributes:
        path: The file.
        tokenizer: Spells its labels.
        featurizer: Computes its features.
        shape: How its output lies to its features.
        output_frames: Feature frames of a recording -> output frames of the network.
        session: The `onnxruntime.InferenceSession`.
    """

    path: Path
    tokenizer: Tokenizer
    featurizer: Featurizer
    shape: StreamShape
    output_frames: Callable[[int], int]
    session: Any

    @classmethod
    def load(cls, recipe: Recipe, path: str | Path) -> StreamingModel:
        """Load a file of export.py --streaming.

        Args:
            recipe: The model that it must be of.
            path: The file.

        Returns:
            The model.

        Raises:
            ImportError: ONNX Runtime is not installed.
            UserError: The file is missing, damaged, or takes whole recordings.
        """
        path = Path(path)
        remedy = (
            "export the checkpoint with export.py --file_format ONNX --streaming, or give "
            "--context SECONDS"
        )
        if path.suffix != ".onnx":
            raise UserError(f"{path}: --stream takes an ONNX file; {remedy}")
        exported = read_description(recipe, path)
        streaming = exported.description.get("streaming") or {}
        if exported.description.get("input") != STREAM:
            raise UserError(f"{path}: takes whole recordings, expected one for a stream; {remedy}")
        try:
            shape = StreamShape(*(int(streaming[key]) for key in ("stride", "delay")))
        except (KeyError, TypeError, ValueError):
            raise UserError(f"{path}: its description is damaged; export the model anew") from None
        check_model_content(path, exported.description)

        def output_frames(frames: int) -> int:
            return int(recipe.output_frames(exported.config.ModelConfig, frames))

        return cls(
            path, exported.tokenizer, exported.featurizer, shape, output_frames, open_onnx(path)
        )

    @property
    def sample_rate(self) -> int:
        """Hz of the samples that it takes."""
        return self.featurizer.config.sample_rate

    @property
    def frame_seconds(self) -> float:
        """Seconds from one output frame to the next."""
        features = self.featurizer.config
        return self.shape.stride * features.hop_length / features.sample_rate

    def latency(self, chunk_seconds: float = CHUNK_SECONDS) -> dict[str, float]:
        """Return how late a text is, apart from computing time.

        Args:
            chunk_seconds: As of `stream`.

        Returns:
            Seconds: "window", half of a frame's; "context", the later frames that the network
            looks at; "chunk", until a chunk is full, at most.
        """
        config = self.featurizer.config
        chunk = self._chunk(chunk_seconds) * config.hop_length / config.sample_rate
        later = config.frame_splicing - 1
        return {
            "window": config.window_size / 2 + later * config.window_stride,
            "context": self.shape.delay * self.frame_seconds,
            "chunk": chunk,
        }

    def stream(
        self,
        normalisation: Normalisation | None = None,
        chunk_seconds: float = CHUNK_SECONDS,
    ) -> AcousticStream:
        """Begin a recording.

        Args:
            normalisation: Of its features; None: over the last seconds.
            chunk_seconds: Of audio that the network takes at a time, rounded up to its stride.

        Returns:
            What gives the log-probabilities of the recording.
        """
        network = NetworkStream(
            self.session, self.shape, self.output_frames, self._chunk(chunk_seconds)
        )
        return AcousticStream(StreamingFeaturizer(self.featurizer, normalisation), network)

    def normalisation_of(self, samples: np.ndarray) -> FixedNormalisation:
        """Take mean and deviation of the features of a recording (N,) at the model's rate."""
        return normalisation_of(self.featurizer, samples)

    def _chunk(self, seconds: float) -> int:
        config, stride = self.featurizer.config, self.shape.stride
        frames = seconds * config.sample_rate / config.hop_length
        return stride * max(1, -int(-frames // stride))
