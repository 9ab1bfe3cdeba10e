"""ASRT, as the shared code of `common` sees it."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

from asrt.src import config
from asrt.src.config import ModelConfig, stride
from asrt.src.tokenizer import SyllableTokenizer
from common.model.recipe import MemoryModel, Recipe


def build_network(model: ModelConfig, *arguments: Any) -> Any:
    """Build the network.

    Args:
        model: The ModelConfig.
        *arguments: As of `Recipe.build_network`.

    Returns:
        The network, an nn.Cell.
    """
    from asrt.src.model import SpeechNetwork  # mindspore loads here, not in every process

    return SpeechNetwork(model, *arguments)


def onnx_network(*arguments: Any) -> tuple[str, str]:
    """Add the network to an ONNX graph; see `Recipe.onnx_network`."""
    from asrt.src.onnx_network import add

    return add(*arguments)


def output_frames(model: ModelConfig, frames):
    """Compute the output frames of the network.

    Args:
        model: The ModelConfig.
        frames: Feature frames: an int, a numpy array or a Tensor.

    Returns:
        Output frames, of the same kind.
    """
    step = stride(model)
    return (frames + model.end_frames * (frames > 0) + step - 1) // step


def values_per_frame(model: ModelConfig, dimension: int) -> float:
    """Count the values that leave the convolutions for each feature frame."""
    frames, bins, values = 1.0, float(dimension), 0.0
    for pair in model.pairs:
        values += 2 * pair.filters * bins * frames
        if pair.pool:
            frames, bins = frames / 2, bins / 2
    return values


def activation_bytes(model: ModelConfig, dimension: int) -> float:
    """Forecast the memory of a train step; the factor is fitted to benchmarks/memory.py.

    Peaks in GiB, measured and forecast: asrt251bn, 1 x 300 frames 1.4 and 1.4, 4 x 1000 (a run of
    train.py) 6.4 and 6.6; asrt251, 2 x 500 2.1 and 2.4.

    Args:
        model: The ModelConfig.
        dimension: Bins F of a feature frame.

    Returns:
        Bytes per feature frame.
    """
    return 64 * values_per_frame(model, dimension)


def graph_bytes(model: ModelConfig) -> float:
    """Forecast the bytes of the compiled graph: 20 MiB a layer."""
    return (2 * len(model.pairs) + 2) * 20 * 2.0**20


RECIPE = Recipe(
    name="asrt",
    folder=Path(__file__).resolve().parents[1],
    train_config=lambda: copy.deepcopy(config.train_config),
    eval_config=lambda: copy.deepcopy(config.eval_config),
    build_network=build_network,
    onnx_network=onnx_network,
    output_frames=output_frames,
    tokenizer=SyllableTokenizer,
    # Forward, in GiB, measured and forecast: asrt251bn, 1 x 1000 frames 0.7 and 1.0, 1 x 6000 1.2
    # and 1.8.
    memory=MemoryModel(
        activation_bytes,
        forward_share=0.1,
        weight_copies=7.0,
        forward_copies=2.0,
        graph_bytes=graph_bytes,
    ),
    head="output",
)
