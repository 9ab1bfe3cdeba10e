"""ASRT, as the shared code of `common` sees it."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

from asrt.src import config
from asrt.src.config import ModelConfig, stride
from asrt.src.tokenizer import SyllableTokenizer
from common.model.recipe import Recipe


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


RECIPE = Recipe(
    name="asrt",
    folder=Path(__file__).resolve().parents[1],
    train_config=lambda: copy.deepcopy(config.train_config),
    eval_config=lambda: copy.deepcopy(config.eval_config),
    build_network=build_network,
    onnx_network=onnx_network,
    output_frames=output_frames,
    tokenizer=SyllableTokenizer,
    head="output",
)
