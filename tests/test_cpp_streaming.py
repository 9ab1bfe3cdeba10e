"""Streams through the C++ program: the texts that Python gives."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import numpy as np
import pytest
from streaming_networks import dense_jasper, one_direction, random_weights, write_stream
from test_ascend310_infer import Job, pytestmark, runner  # noqa: F401
from test_cpp_onnx import onnx_runner  # noqa: F401

from common.api.streaming import StreamingRecognizer
from common.export.streaming_session import StreamingModel

NETWORKS = {
    "jasper": (dense_jasper, {}),
    "mirrored ends": (
        dense_jasper,
        {"convention": "jasper-mindspore", "preemphasis": 0.97, "frame_splicing": 3},
    ),
    "log-mel": (dense_jasper, {"convention": "plain", "bands": 40, "window_size": 0.03}),
    "one direction": (one_direction, {}),
}


def stream(
    program: Path, model: Path, content: bytes, *options: str
) -> subprocess.CompletedProcess:
    return subprocess.run(
        [program, "--mindir_path", model, "--stream", *options],
        input=content,
        capture_output=True,
        check=False,
    )


def samples() -> np.ndarray:
    """Bursts of noise with pauses."""
    rng = np.random.default_rng(12)
    loud = np.repeat(rng.uniform(0.01, 0.2, 25), 1600)
    return np.round(np.clip(loud * rng.standard_normal(40000), -1, 1) * 32767).astype("<i2")


@pytest.mark.parametrize("kind", NETWORKS)
def test_the_program_gives_the_texts_of_python(onnx_runner, tmp_path, kind):  # noqa: F811
    make, features = NETWORKS[kind]
    recipe, config = make()
    for key, value in features.items():
        setattr(config.DataConfig.SpectConfig, key, value)
    weights = random_weights(recipe, config, np.random.default_rng(0))
    write_stream(recipe, config, weights, tmp_path / "stream.onnx")
    model = StreamingModel.load(recipe, tmp_path / "stream.onnx")
    expected = []
    recognizer = StreamingRecognizer(model, pause=0.06)
    for start in range(0, 40000, 7000):
        expected += recognizer.accept(samples()[start : start + 7000])
    expected += recognizer.finish()
    texts = [segment.text for segment in expected]
    assert len("".join(texts)) > 10

    options = ["--pause", "0.06", "--chunk", "0.3"]
    done = stream(onnx_runner, tmp_path / "stream.onnx", samples().tobytes(), *options)
    assert (done.returncode, done.stderr) == (0, b"")
    lines = [line.split("\t") for line in done.stdout.decode().splitlines()]
    assert [text for mark, text in lines if mark == "final"] == texts
    assert {mark for mark, _ in lines} <= {"partial", "final"}
    assert kind != "one direction" or lines[0][0] == "partial"

    done = stream(onnx_runner, tmp_path / "stream.onnx", samples().tobytes(), *options, "--json")
    found = [json.loads(line) for line in done.stdout.splitlines()]
    finals = [each for each in found if each["type"] == "final"]
    assert [each["text"] for each in finals] == texts
    for segment, each in zip(expected, finals):
        assert each["words"][0]["start"] == pytest.approx(segment.start, abs=0.1)
        assert 0 < each["confidence"] <= 1


def test_what_the_program_refuses(onnx_runner, tmp_path):  # noqa: F811
    recipe, config = dense_jasper()
    weights = random_weights(recipe, config, np.random.default_rng(0))
    write_stream(recipe, config, weights, tmp_path / "stream.onnx")
    shipped = recipe.pretrained.with_suffix(".onnx")
    for model, options, content, message in (
        (shipped, [], b"", "takes whole recordings; for a stream export"),
        (tmp_path / "stream.onnx", ["--pause", "0"], b"", "expected seconds above 0"),
        (tmp_path / "stream.onnx", ["--audio", "a.wav"], b"", "leave out files"),
        (tmp_path / "stream.onnx", [], b"RIFF....WAVE", "holds a WAV file"),
    ):
        done = stream(onnx_runner, model, content, *options)
        assert (done.returncode, done.stdout) == (2, b"")
        assert message in done.stderr.decode() and done.stderr.count(b"\n") == 1
    done = stream(onnx_runner, tmp_path / "stream.onnx", b"\0" * 4001)
    assert done.returncode == 1 and b"within a sample" in done.stderr

    whole = ["--mindir_path", str(tmp_path / "stream.onnx"), "--audio", "a.wav"]
    done = subprocess.run([onnx_runner, *whole], capture_output=True, check=False)
    assert done.returncode == 2 and b"piece by piece" in done.stderr
