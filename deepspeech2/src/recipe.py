"""DeepSpeech2, as the shared code of `common` sees it."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

from common.model.recipe import MemoryModel, Recipe
from deepspeech2.src import config
from deepspeech2.src.config import ModelConfig


def build_network(model: ModelConfig, *arguments: Any) -> Any:
    """Build the network.

    Args:
        model: The ModelConfig.
        *arguments: As of `Recipe.build_network`.

    Returns:
        The network, an nn.Cell.
    """
    from deepspeech2.src.model import DeepSpeech2  # mindspore loads here, not in every process

    return DeepSpeech2(model, *arguments)


def onnx_network(*arguments: Any) -> tuple[str, str]:
    """Add the network to an ONNX graph; see `Recipe.onnx_network`."""
    from deepspeech2.src.onnx_network import add

    return add(*arguments)


def output_frames(model: ModelConfig, frames):
    """Compute the output frames of the network.

    Args:
        model: The ModelConfig.
        frames: Feature frames: an int, a numpy array or a Tensor.

    Returns:
        Output frames, of the same kind.
    """
    for _, stride in model.conv_strides:
        frames = (frames - 1) // stride + 1  # odd kernels, padded by half on both sides
    return frames


def activation_bytes(model: ModelConfig, dimension: int) -> float:
    """Forecast the memory of a train step; the factors are fitted to benchmarks/memory.py.

    They hold for batches of varying lengths, which leave gaps in MindSpore's memory pool: the
    quickstart's training took 5.0 GiB where a fit to batches of one length said 3.4.

    Args:
        model: The ModelConfig.
        dimension: Bins F of a feature frame.

    Returns:
        Bytes per feature frame.
    """
    frames, bins, values = 1.0, dimension, 0.0
    for bin_stride, frame_stride in model.conv_strides:
        bins, frames = (bins - 1) // bin_stride + 1, frames / frame_stride
        values += 115 * model.conv_channels * bins * frames
    directions = 2 if model.bidirectional else 1
    values += 8 * model.hidden_layers * directions * model.hidden_size * frames
    return 4 * values


def rename_parameter(name: str) -> str:
    """Return today's name of a parameter: older model zoo files say `rnn` for `RNN`."""
    return ".".join("RNN" if part == "rnn" else part for part in name.split("."))


RECIPE = Recipe(
    name="deepspeech2",
    folder=Path(__file__).resolve().parents[1],
    train_config=lambda: copy.deepcopy(config.train_config),
    eval_config=lambda: copy.deepcopy(config.eval_config),
    infer_config=lambda: copy.deepcopy(config.infer_config),
    build_network=build_network,
    onnx_network=onnx_network,
    output_frames=output_frames,
    # Peaks in GiB, measured and forecast, by benchmarks/memory.py --forward: full size, 1 x 2000
    # frames 2.5 and 3.1, 1 x 8000 4.3 and 5.4; quickstart, 1 x 8000 1.0 and 1.4.
    memory=MemoryModel(activation_bytes, forward_share=0.4, weight_copies=13.5, forward_copies=5.0),
    head="fc.module",
    rename_parameter=rename_parameter,
    needs_static_shapes=lambda model: model.rnn_type != "LSTM",
    pretrained=Path(__file__).resolve().parents[1] / "pretrained" / "an4.ckpt",
)
