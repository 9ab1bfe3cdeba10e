"""DeepSpeech2 in ONNX's operators: what `deepspeech2/src/model.py` computes, for a file."""

from __future__ import annotations

import numpy as np

from common.export.onnx import Graph, Norm
from common.utils.errors import UserError
from deepspeech2.src.config import ModelConfig

_GATES = [0, 3, 1, 2]  # ONNX orders i, o, f, c; ours are i, f, g (its c), o
_LOWEST, _HIGHEST = 0.0, 20.0  # of the clipped rectifier


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

    Raises:
        UserError: The recurrent layers are not LSTMs.
    """
    if model.rnn_type != "LSTM":
        raise UserError(
            f"ModelConfig.rnn_type={model.rnn_type}: only LSTM networks are written as ONNX; use "
            "MINDIR"
        )
    x, lengths, mask = _front_end(graph, model, weights, features, lengths)
    # (B, C, F', T') -> (T', B, C F')
    x = graph.op("Transpose", x, perm=[3, 0, 1, 2])
    width = weights["RNN.lstms.0.weight_ih_l0"].shape[1]
    x = graph.op("Reshape", x, graph.constant([0, 0, width]))
    for layer in range(model.hidden_layers):
        x = _lstm(graph, model, weights, layer, x, lengths)
        if not model.bidirectional and layer == model.hidden_layers - 1:
            x = _lookahead(graph, model, weights, x, mask)
        x = _norm(graph, model, weights, layer, x)
    output = graph.weight("fc.module.weight", weights["fc.module.weight"].T, channels=1)
    x = graph.op("MatMul", x, output)
    return graph.op("LogSoftmax", x, axis=2), lengths


def _front_end(
    graph: Graph, model: ModelConfig, weights: dict[str, np.ndarray], x: str, lengths: str
) -> tuple[str, str, str]:
    x = graph.op("Unsqueeze", x, axes=[1])
    x = graph.op("Mul", x, graph.frame_mask(lengths, x))
    mask = ""
    for number, stride in enumerate(model.conv_strides, start=1):
        name = f"conv.conv{number}"
        x = graph.convolution(
            x,
            name,
            weights[f"{name}.weight"],
            weights.get(f"{name}.bias"),
            Norm(weights, f"conv.bn{number}"),
            stride,
        )
        x = graph.op("Tanh", x) if model.activation == "tanh" else _clip(graph, x)
        lengths = graph.shorter(lengths, stride[1])
        mask = graph.frame_mask(lengths, x)
        x = graph.op("Mul", x, mask)
    return x, lengths, mask


def _lstm(
    graph: Graph,
    model: ModelConfig,
    weights: dict[str, np.ndarray],
    layer: int,
    x: str,
    lengths: str,
) -> str:
    """Add a recurrent layer: x (T, B, I) -> (T, B, H), both directions summed.

    The backward direction is a forward one over rows that are turned round, each within its length:
    OpenVINO 2026.4 starts a bidirectional LSTM at the padding. Frames beyond a row's length hold
    anything, and no frame within sees them.
    """
    x_forward = _direction(graph, model, weights, layer, x, "_l0")
    if not model.bidirectional:
        return x_forward
    x = _turned(graph, x, lengths)
    x = _direction(graph, model, weights, layer, x, "_l0_reverse")
    return graph.op("Add", x_forward, _turned(graph, x, lengths))


def _turned(graph: Graph, x: str, lengths: str) -> str:
    """Add the first frames of each row in reverse order: x (T, B, I)."""
    return graph.op("ReverseSequence", x, lengths, time_axis=0, batch_axis=1)


def _direction(
    graph: Graph,
    model: ModelConfig,
    weights: dict[str, np.ndarray],
    layer: int,
    x: str,
    end: str,
) -> str:
    """Add one direction of a recurrent layer: x (T, B, I) -> (T, B, H)."""
    name, size = f"RNN.lstms.{layer}", model.hidden_size

    def gates(leaf: str) -> np.ndarray:
        """Bring weights into ONNX's order of gates: (1, 4 H, ...)."""
        values = weights[f"{name}.{leaf}{end}"]
        return values.reshape(4, size, *values.shape[1:])[_GATES].reshape(1, *values.shape)

    output = graph.op(
        "LSTM",
        x,
        graph.weight(f"{name}.weight_ih{end}", gates("weight_ih"), channels=1),
        graph.weight(f"{name}.weight_hh{end}", gates("weight_hh"), channels=1),
        graph.weight(f"{name}.bias{end}", np.concatenate((gates("bias_ih"), gates("bias_hh")), 1)),
        hidden_size=size,
    )
    return graph.op("Squeeze", output, axes=[1])  # of (T, directions, B, H)


def _lookahead(
    graph: Graph, model: ModelConfig, weights: dict[str, np.ndarray], x: str, mask: str
) -> str:
    """Add the row convolution: x (T, B, H), mask (B, 1, 1, T) -> (T, B, H)."""
    x = graph.op("Unsqueeze", graph.op("Transpose", x, perm=[1, 2, 0]), axes=[2])  # (B, H, 1, T)
    weight = weights["RNN.lookahead.conv.weight"]
    ahead = (0, 0, 0, model.lookahead_context - 1)
    x = graph.op("Mul", x, mask)
    x = graph.convolution(x, "RNN.lookahead", weight, groups=model.hidden_size, padding=ahead)
    return graph.op("Transpose", graph.op("Squeeze", _clip(graph, x), axes=[2]), perm=[2, 0, 1])


def _norm(
    graph: Graph, model: ModelConfig, weights: dict[str, np.ndarray], layer: int, x: str
) -> str:
    name = f"RNN.norms.{layer}"
    if model.norm == "batch":
        scale, shift = Norm(weights, name).scale_and_shift()
    elif model.norm == "layer":
        x = graph.op("Sub", x, graph.op("ReduceMean", x, axes=[2]))
        variance = graph.op("ReduceMean", graph.op("Mul", x, x), axes=[2])
        raised = graph.op("Add", variance, graph.constant(1e-5, np.float32))
        x = graph.op("Div", x, graph.op("Sqrt", raised))
        scale, shift = weights[f"{name}.gamma"], weights[f"{name}.beta"]
    else:
        return x
    x = graph.op("Mul", x, graph.weight(f"{name}.scale", scale))
    return graph.op("Add", x, graph.weight(f"{name}.shift", shift))


def _clip(graph: Graph, x: str) -> str:
    lowest, highest = (graph.constant(value, np.float32) for value in (_LOWEST, _HIGHEST))
    return graph.op("Clip", x, lowest, highest)
