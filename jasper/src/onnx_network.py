"""Jasper in ONNX's operators: what `jasper/src/model.py` computes, for a file."""

from __future__ import annotations

import numpy as np

from common.export.onnx import Graph, Norm
from jasper.src.config import EPSILON, ModelConfig

_ACTIVATIONS = {"relu": "Relu", "elu": "Elu", "selu": "Selu"}


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
    x = graph.op("Unsqueeze", features, axes=[2])  # (B, F, 1, T)
    residual_inputs = [graph.op("Mul", x, graph.frame_mask(lengths, x))]
    for number, block in enumerate(model.blocks):
        name, cells = f"encoder.layers.{number}", 0
        x, mask = residual_inputs[-1], ""
        for repetition in range(block.repeat):
            stride = (1, block.stride)
            if block.separable:
                weight = weights[f"{name}.conv.{cells}.conv1.weight"]
                x = graph.convolution(
                    x,
                    f"{name}.conv.{cells}",
                    weight,
                    stride=stride,
                    dilation=block.dilation,
                    groups=weight.shape[0],
                )
                cells, stride = cells + 1, (1, 1)
            x = graph.convolution(
                x,
                f"{name}.conv.{cells}",
                weights[f"{name}.conv.{cells}.conv1.weight"],
                norm=Norm(weights, f"{name}.conv.{cells + 1}.batchnorm", EPSILON),
                stride=stride,
                dilation=1 if block.separable else block.dilation,
            )
            cells += 4  # with its normalisation, activation and dropout
            lengths = graph.shorter(lengths, block.stride)
            mask = graph.frame_mask(lengths, x)
            if repetition == block.repeat - 1 and block.residual:
                entering = residual_inputs if block.residual_dense else residual_inputs[-1:]
                for index, branch_input in enumerate(entering):
                    branch = graph.convolution(
                        branch_input,
                        f"{name}.res.{index}",
                        weights[f"{name}.res.{index}.0.conv1.weight"],
                        norm=Norm(weights, f"{name}.res.{index}.1.batchnorm", EPSILON),
                    )
                    x = graph.op("Add", x, branch)
            x = graph.op("Mul", graph.op(_ACTIVATIONS[model.activation], x), mask)
        residual_inputs = [*residual_inputs, x] if block.residual_dense else [x]
    x = graph.convolution(
        residual_inputs[-1],
        "decoder.layers",
        weights["decoder.layers.weight"],
        weights["decoder.layers.bias"],
    )
    x = graph.op("Transpose", graph.op("Squeeze", x, axes=[2]), perm=[2, 0, 1])
    return graph.op("LogSoftmax", x, axis=2), lengths
