"""Jasper, as the shared code of `common` sees it."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

from common.model.recipe import MemoryModel, Recipe
from jasper.src import config
from jasper.src.config import ModelConfig, residual_inputs
from jasper.src.original_yaml import translate_yaml


def build_network(model: ModelConfig, *arguments: Any) -> Any:
    """Build the network.

    Args:
        model: The ModelConfig.
        *arguments: As of `Recipe.build_network`.

    Returns:
        The network, an nn.Cell.
    """
    from jasper.src.model import Jasper  # mindspore loads here, not in every process

    return Jasper(model, *arguments)


def onnx_network(*arguments: Any) -> tuple[str, str]:
    """Add the network to an ONNX graph; see `Recipe.onnx_network`."""
    from jasper.src.onnx_network import add

    return add(*arguments)


def output_frames(model: ModelConfig, frames):
    """Compute the output frames of the network.

    Args:
        model: The ModelConfig.
        frames: Feature frames: an int, a numpy array or a Tensor.

    Returns:
        Output frames, of the same kind.
    """
    for block in model.blocks:
        for _ in range(block.repeat):
            frames = (frames - 1) // block.stride + 1  # odd kernels, padded by half on both sides
    return frames


def activation_bytes(model: ModelConfig, dimension: int) -> float:
    """Forecast the memory of a train step; the factors are fitted to benchmarks/memory.py.

    Peaks in GiB, measured and forecast: jasper10x5dr with Adam, 1 x 800 frames 12.4 and 14.3;
    jasper5x3, 1 x 200 3.9 and 5.2, 2 x 800 5.0 and 6.8; quartznet5x5, 1 x 200 2.3 and 2.2, 4 x 800
    3.8 and 4.4; an4, 1 x 200 1.2 and 1.2, 8 x 800 2.2 and 2.3.

    Args:
        model: The ModelConfig.
        dimension: Bins F of a feature frame.

    Returns:
        Bytes per feature frame.
    """
    frames, inputs, values = 1.0, dimension, 0.0
    for block, widths in zip(model.blocks, residual_inputs(model.blocks, dimension)):
        for _ in range(block.repeat):
            frames /= block.stride
            copies = 4 if block.separable else block.kernel_size * (block.kernel_size > 1)
            values += frames * (copies * inputs + 14 * block.filters)
            inputs = block.filters
        values += frames * 6 * block.filters * len(widths)
    return 7 * values


def graph_bytes(model: ModelConfig) -> float:
    """Forecast the bytes of the compiled graph: 20 MiB a convolution, 108 in Jasper 10x5dr."""
    count = 1
    for block, widths in zip(model.blocks, residual_inputs(model.blocks, 1)):
        count += block.repeat * (2 if block.separable else 1) + len(widths)
    return count * 20 * 2.0**20


RECIPE = Recipe(
    name="jasper",
    folder=Path(__file__).resolve().parents[1],
    train_config=lambda: copy.deepcopy(config.train_config),
    eval_config=lambda: copy.deepcopy(config.eval_config),
    infer_config=lambda: copy.deepcopy(config.infer_config),
    build_network=build_network,
    onnx_network=onnx_network,
    output_frames=output_frames,
    # Forward, in GiB, measured and forecast: jasper10x5dr, 1 x 2000 frames 3.8 and 6.0, 1 x 8000
    # 4.3 and 8.1; quartznet5x5, 1 x 8000 1.5 and 2.5; an4, 1 x 8000 0.8 and 1.3.
    memory=MemoryModel(
        activation_bytes,
        forward_share=0.1,
        weight_copies=7.0,
        forward_copies=2.0,
        graph_bytes=graph_bytes,
    ),
    head="decoder.layers",
    translate_yaml=translate_yaml,
    pretrained=Path(__file__).resolve().parents[1] / "pretrained" / "an4.ckpt",
)
