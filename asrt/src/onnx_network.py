"""ASRT's networks in ONNX's operators: what `asrt/src/model.py` computes, for a file."""

from __future__ import annotations

import numpy as np

from asrt.src.config import EPSILON, ModelConfig
from common.export.onnx import Graph, Norm

_INT64 = 7  # number of ONNX's element type


def add(
    graph: Graph,
    model: ModelConfig,
    weights: dict[str, np.ndarray],
    features: str,
    lengths: str,
) -> tuple[str, str]:
    """Add the network to an ONNX graph.

    Args:
        graph: The graph.
        model: The ModelConfig.
        weights: Parameters of the network, by name.
        features: Name of the features (B, F, T) float32.
        lengths: Name of the lengths (B,) int64.

    Returns:
        Names of the log-probabilities (T', B, C) and of the output lengths (B,) int64.
    """
    x = graph.op("Unsqueeze", features, axes=[1])  # (B, 1, F, T)
    x = graph.op("Mul", x, graph.frame_mask(lengths, x))
    if model.end_frames:
        x = graph.op("Pad", x, graph.constant([0, 0, 0, 0, 0, 0, 0, model.end_frames]))
        some = graph.op("Less", graph.constant([0]), lengths)  # rows of no frames stay so
        end = graph.op("Mul", graph.op("Cast", some, to=_INT64), graph.constant([model.end_frames]))
        lengths = graph.op("Add", lengths, end)
    for number, pair in enumerate(model.pairs):
        mask = graph.frame_mask(lengths, x)
        for place in ("first", "second"):
            name = f"pairs.{number}.{place}"
            norm = Norm(weights, f"{name}.norm", EPSILON) if model.batch_norm else None
            x = graph.convolution(
                x, name, weights[f"{name}.conv.weight"], weights.get(f"{name}.bias"), norm
            )
            x = graph.op("Mul", graph.op("Relu", x), mask)
        if pair.pool:  # a last frame without a partner stays; a last bin without one does not
            x = graph.op("MaxPool", x, kernel_shape=[2, 2], strides=[2, 2], pads=[0, 0, 0, 1])
            lengths = graph.shorter(lengths, 2)
    x = graph.op("Transpose", x, perm=[3, 0, 2, 1])  # (T', B, F', C)
    x = graph.op("Reshape", x, graph.constant([0, 0, -1]))
    x = graph.op("Relu", _dense(graph, weights, "hidden", x))
    return graph.op("LogSoftmax", _dense(graph, weights, "output", x), axis=2), lengths


def _dense(graph: Graph, weights: dict[str, np.ndarray], name: str, x: str) -> str:
    matrix = graph.weight(f"{name}.weight", weights[f"{name}.weight"].T, channels=1)
    bias = graph.weight(f"{name}.bias", weights[f"{name}.bias"])
    return graph.op("Add", graph.op("MatMul", x, matrix), bias)
