"""Where somebody speaks: the probability of speech in each frame of 32 ms.

Silero VAD 6.2 (https://github.com/snakers4/silero-vad, MIT licence), a network of 0.3 M parameters,
in ONNX Runtime. `benchmarks/voice_activity.py` compares it with other detectors.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import soxr

from common.utils.packages import package

FRAME_SECONDS = 0.032
_FILE = Path(__file__).with_name("pretrained") / "silero_vad.onnx"
_RATE = 16000  # Hz that the network was trained for
_FRAME = 512  # samples
_CONTEXT = 64  # samples of the frame before, which the network sees as well
_HIDDEN = 128  # values of either state of its LSTM
_FRAMES_AT_ONCE = 512


class SpeechDetector(Protocol):
    """Tells speech in a stream of samples; what comes later does not change what was told."""

    def reset(self) -> None:
        """Begin a new stream."""

    def __call__(self, samples: np.ndarray) -> np.ndarray:
        """Take the next samples (N,) float32; return (K,) probabilities of the frames complete."""


class SileroDetector:
    """Silero VAD.

    Args:
        sample_rate: Hz of the samples that it is given; others than 16000 are resampled.
    """

    def __init__(self, sample_rate: int):
        self._rate = sample_rate
        self.reset()

    def reset(self) -> None:
        """Begin a new stream."""
        self._hidden = np.zeros((1, 1, _HIDDEN), np.float32)
        self._cell = np.zeros((1, 1, _HIDDEN), np.float32)
        self._waiting = np.zeros(_CONTEXT, np.float32)  # the context, and less than a frame
        self._resampler = None
        if self._rate != _RATE:
            self._resampler = soxr.ResampleStream(self._rate, _RATE, 1, dtype="float32")

    def __call__(self, samples: np.ndarray) -> np.ndarray:
        """Take the next samples (N,) float32; return (K,) probabilities of the frames complete."""
        samples = np.asarray(samples, np.float32)
        if self._resampler is not None:
            samples = self._resampler.resample_chunk(samples)
        waiting = np.concatenate((self._waiting, samples))
        count = (len(waiting) - _CONTEXT) // _FRAME
        self._waiting = waiting[count * _FRAME :]
        found = [
            self._run(waiting[at * _FRAME : (at + _FRAMES_AT_ONCE) * _FRAME + _CONTEXT])
            for at in range(0, count, _FRAMES_AT_ONCE)
        ]
        return np.concatenate(found) if found else np.zeros(0, np.float32)

    def _run(self, samples: np.ndarray) -> np.ndarray:
        """Run the network over whole frames, before which their context stands."""
        windows = np.lib.stride_tricks.sliding_window_view(samples, _CONTEXT + _FRAME)[::_FRAME]
        probabilities, self._hidden, self._cell = _session().run(
            ["speech_probs", "hn", "cn"],
            {"input": np.ascontiguousarray(windows), "h": self._hidden, "c": self._cell},
        )
        return np.asarray(probabilities, np.float32)


@functools.cache
def _session() -> Any:
    onnxruntime = package("onnxruntime", "finds silences in long recordings")
    options = onnxruntime.SessionOptions()
    options.inter_op_num_threads = options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(
        str(_FILE), sess_options=options, providers=["CPUExecutionProvider"]
    )
