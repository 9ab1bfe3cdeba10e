"""The page in web/: its JavaScript in Node.js against Python's values, and the page in Chromium."""

from __future__ import annotations

import json
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
import soxr
from browser import CHROMIUM, Page, browser

from common.audio.io import load_audio
from common.decoding.decoders import GreedyDecoder
from common.decoding.word_alignment import Word, align_words
from common.text.tokenizer import CharacterTokenizer

ROOT = Path(__file__).resolve().parents[1]
WEB = ROOT / "web"
PROMPTS = ROOT / "data" / "telephone_prompts" / "audio"
LABELS = tuple("ABCDEFGHIJKLMNOPQRSTUVWXYZ' _")
RATE = 16000
KERNEL, HOP, CUT = 640, 320, 480  # samples: a frame, between frames, left out at the beginning

needs_node = pytest.mark.skipif(shutil.which("node") is None, reason="needs Node.js")
needs_runtime = pytest.mark.skipif(
    not (WEB / "vendor" / "ort.wasm.min.mjs").exists(),
    reason="needs a browser's ONNX Runtime: npm run setup in web/",
)


# ---- a small network with the inputs, outputs and metadata of an exported one


def write_model(path: Path, **changes: object) -> Path:
    """Write a network of one convolution, whose text depends on every sample."""
    from onnx import TensorProto, helper, numpy_helper, save

    rng = np.random.default_rng(4)
    filters = rng.normal(0, 8, (len(LABELS), 1, KERNEL)).astype(np.float32)
    filters[[LABELS.index(" "), LABELS.index("_")]] *= 1.5  # so that there are words
    constants = {
        "filters": filters,
        "cut": np.array([CUT], np.int64),
        "far": np.array([2**31 - 1], np.int64),
        "axis": np.array([1], np.int64),
        "hop": np.array([HOP], np.int64),
        "spare": np.array([CUT + KERNEL - HOP], np.int64),
        "zero": np.array([0], np.int64),
    }
    node = helper.make_node
    nodes = [
        node("Slice", ["samples", "cut", "far", "axis"], ["kept"]),
        node("Unsqueeze", ["kept"], ["channel"], axes=[1]),
        node("Conv", ["channel", "filters"], ["scores"], strides=[HOP], kernel_shape=[KERNEL]),
        node("Transpose", ["scores"], ["frames_first"], perm=[2, 0, 1]),
        node("LogSoftmax", ["frames_first"], ["log_probs"], axis=2),
        node("Cast", ["lengths"], ["samples_counted"], to=TensorProto.INT64),
        node("Sub", ["samples_counted", "spare"], ["framed"]),
        node("Div", ["framed", "hop"], ["frames"]),
        node("Cast", ["frames"], ["output_lengths"], to=TensorProto.INT32),
        node("Mul", ["samples_counted", "zero"], ["nothing"]),
        node("Add", ["nothing", "cut"], ["begins"]),
        node("Cast", ["begins"], ["starts"], to=TensorProto.INT32),
    ]
    tensor = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "small",
        [
            tensor("samples", TensorProto.FLOAT, ["utterances", "samples"]),
            tensor("lengths", TensorProto.INT32, ["utterances"]),
        ],
        [
            tensor("log_probs", TensorProto.FLOAT, ["frames", "utterances", len(LABELS)]),
            tensor("output_lengths", TensorProto.INT32, ["utterances"]),
            tensor("starts", TensorProto.INT32, ["utterances"]),
        ],
        [numpy_helper.from_array(values, name) for name, values in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 11)])
    model.ir_version = 6
    description = {
        "model": "small",
        "project_version": "1.0",
        "input": "samples",
        "weights": "float32",
        "labels": list(LABELS),
        "blank": LABELS.index("_"),
        "frame_stride": 2,
        "features": {"sample_rate": RATE, "hop_length": HOP // 2},
        **changes,
    }
    helper.set_model_props(model, {"description": json.dumps(description), "input": "samples"})
    save(model, str(path))
    return path


def expected(model: Path, samples: np.ndarray) -> tuple[str, list[Word]]:
    """Recognise samples as Python does."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(model), providers=["CPUExecutionProvider"])
    lengths = np.array([len(samples)], np.int32)
    outputs = session.run(None, {"samples": samples[None], "lengths": lengths})
    tokenizer = CharacterTokenizer(LABELS)
    (text,) = GreedyDecoder(tokenizer)(outputs[0], outputs[1])
    words = align_words(text, outputs[0][: outputs[1][0], 0], tokenizer, HOP / RATE)
    late = outputs[2][0] / RATE
    return text, [Word(w.word, w.start + late, w.end + late, w.confidence) for w in words]
