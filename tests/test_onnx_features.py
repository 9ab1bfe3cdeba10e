"""Features as part of an ONNX file, against the featurizer."""

from __future__ import annotations

import numpy as np
import onnxruntime
import pytest

from common.audio import features as audio_features
from common.audio.features import CONVENTIONS, FeatureConfig, Featurizer
from common.export.onnx import Graph
from common.export.onnx_features import Batch, add_features, add_trim

RATE = 16000
FLOAT, INT32, INT64 = 1, 6, 7  # ONNX's element types
EXTRAS = {
    "": {},
    "pre-emphasis": {"preemphasis": 0.97},
    "splicing": {"frame_splicing": 3},
    "sliding": {"normalisation": "sliding", "window_stride": 0.02, "preemphasis": 0.97},
    "all": {"preemphasis": 0.9, "frame_splicing": 2, "trim_silence": True},
}


def voice(samples: int, seed: int) -> np.ndarray:
    """Harmonics that come and go over soft noise, in 16 bits; quiet at both ends."""
    time = np.arange(samples) / RATE
    rng = np.random.default_rng(seed)
    tone = sum(np.sin(2 * np.pi * (110 + 9 * seed) * k * time) / k for k in range(1, 30))
    values = 0.1 * tone * np.sin(2 * np.pi * 1.5 * time) ** 2
    values += 0.003 * rng.standard_normal(samples)
    return (np.round(values * 2**15) / 2**15).astype(np.float32)


def with_silence(samples: np.ndarray, before: int, after: int) -> np.ndarray:
    hiss = np.random.default_rng(1).standard_normal(before + after) * 3e-5
    return np.concatenate((hiss[:before], samples, hiss[before:])).astype(np.float32)


def session_of(config: FeatureConfig) -> onnxruntime.InferenceSession:
    """A file of the features alone."""
    graph = Graph()
    batch = Batch("samples", graph.op("Cast", "lengths", to=INT64))
    starts = graph.op("Sub", batch.lengths, batch.lengths)
    if config.trim_silence:
        batch, starts = add_trim(graph, batch)
    batch = add_features(graph, Featurizer(config), batch)
    graph.output(batch.values, "features", FLOAT)
    graph.output(batch.lengths, "frames", INT32)
    graph.output(starts, "starts", INT32)
    inputs = {"samples": (FLOAT, ["B", "N"]), "lengths": (INT32, ["B"])}
    outputs = {
        "features": (FLOAT, ["B", config.dimension, "T"]),
        "frames": (INT32, ["B"]),
        "starts": (INT32, ["B"]),
    }
    model = graph.model("features", inputs, outputs)
    return onnxruntime.InferenceSession(model.SerializeToString())


def padded(rows: list[np.ndarray], padding: float) -> dict[str, np.ndarray]:
    lengths = np.array([len(row) for row in rows], np.int32)
    samples = np.full((len(rows), lengths.max() + 777), padding, np.float32)
    for row, values in zip(samples, rows):
        row[: len(values)] = values
    return {"samples": samples, "lengths": lengths}


@pytest.mark.parametrize("extra", EXTRAS)
@pytest.mark.parametrize(
    ("kind", "convention"), [(kind, each) for kind, known in CONVENTIONS.items() for each in known]
)
def test_the_file_computes_what_the_featurizer_computes(kind, convention, extra, monkeypatch):
    monkeypatch.setattr(audio_features, "SLIDING_SECONDS", 0.7)
    monkeypatch.setattr(audio_features, "FIRST_SECONDS", 0.3)
    config = FeatureConfig(kind, window="hann", convention=convention, **EXTRAS[extra])
    session, featurizer = session_of(config), Featurizer(config)
    rows = [
        voice(30000, 0),
        with_silence(voice(16000, 1), 5000, 9000),
        np.zeros(4000, np.float32),
        voice(3201, 2),
        voice(400, 3),
        voice(37, 4),
        np.full(1, 0.25, np.float32),
    ]
    features, frames, starts = session.run(None, padded(rows, padding=0.7))
    for row, values in enumerate(rows):
        trimmed = featurizer.trim(values)
        expected = featurizer(trimmed)
        assert frames[row] == expected.shape[1]
        found = features[row, :, : frames[row]]
        # A window of hiss alone shows the rounding of its logarithms, and a single sample, whose
        # spectrum is flat, that of its mean, which is divided by the smallest deviation, 1e-5.
        # ASRT's are not divided by their deviation, which is about 2.
        atol = 1e-3 if convention == "asrt" else 2e-4
        if extra == "sliding" and row in (1, 6):
            atol = 0.05
        np.testing.assert_allclose(found, expected, atol=atol)
        assert not features[row, :, frames[row] :].any()
        alone, _, _ = session.run(None, padded([values], padding=0.0))
        np.testing.assert_allclose(
            alone[0, :, : frames[row]], found, atol=max(2e-5, atol / 10, atol - 1e-3)
        )
        begin = starts[row]
        assert np.array_equal(values[begin : begin + len(trimmed)], trimmed)
    assert not config.trim_silence or starts[1] > 2000
