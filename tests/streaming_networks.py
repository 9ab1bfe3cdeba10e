"""Small networks of random weights as exported files, without MindSpore."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from common.config import to_dict
from common.export.onnx import write_onnx
from common.export.onnx_metadata import CONTENT, DESCRIPTION, add_metadata, model_content
from common.export.streaming import streaming_tensors, write_streaming
from common.model.recipe import Recipe
from common.text.tokenizer import CharacterTokenizer, stored_tokenizer
from deepspeech2.src import config as deepspeech2
from deepspeech2.src.recipe import RECIPE as DEEPSPEECH2
from jasper.src import config as jasper
from jasper.src.config import Block, residual_inputs
from jasper.src.recipe import RECIPE as JASPER

LABELS = CharacterTokenizer(tuple("'ABCDEFGHIJKLMNOPQRSTUVWXYZ _"))
Weights = dict[str, np.ndarray]


def one_direction(**model: Any) -> tuple[Recipe, Any]:
    """A DeepSpeech2 that can be streamed."""
    small: dict[str, Any] = {
        "hidden_size": 16,
        "hidden_layers": 2,
        "conv_channels": 3,
        "conv_kernels": [[5, 7], [3, 5]],
        "bidirectional": False,
        "lookahead_context": 4,
        "norm": "layer",
    }
    config = deepspeech2.TrainConfig(ModelConfig=deepspeech2.ModelConfig(**{**small, **model}))
    return DEEPSPEECH2, config


def jasper_of(*blocks: Block, **model: Any) -> tuple[Recipe, Any]:
    return JASPER, jasper.TrainConfig(ModelConfig=jasper.ModelConfig(blocks=list(blocks), **model))


def dense_jasper() -> tuple[Recipe, Any]:
    def dense(filters: int, kernel: int) -> Block:
        return Block(filters, 2, kernel, residual=True, residual_dense=True)

    last = Block(9, 1, 5, dilation=2)
    return jasper_of(Block(8, 1, 5, stride=2), dense(8, 5), dense(12, 3), last, Block(7, 1, 1))


def quartznet() -> tuple[Recipe, Any]:
    def separable(filters: int, kernel: int, **more: Any) -> Block:
        return Block(filters, kernel_size=kernel, separable=True, **more)

    first, last = separable(8, 5, stride=2), separable(9, 3, dilation=2)
    return jasper_of(first, separable(8, 7, repeat=2, residual=True), last, activation="selu")


def random_weights(recipe: Recipe, config: Any, rng: np.random.Generator) -> Weights:
    """Weights of a network, under the names that its checkpoint would have."""
    dimension = recipe.build_featurizer(config.DataConfig).dimension
    build = _of_deepspeech2 if recipe is DEEPSPEECH2 else _of_jasper
    return {
        name: values.astype(np.float32)
        for name, values in build(config.ModelConfig, dimension, rng).items()
    }


def _norm(name: str, size: int, rng: np.random.Generator) -> Weights:
    return {
        f"{name}.gamma": rng.uniform(0.5, 2, size),
        f"{name}.beta": rng.normal(0, 0.3, size),
        f"{name}.moving_mean": rng.normal(0, 0.3, size),
        f"{name}.moving_variance": rng.uniform(0.5, 2, size),
    }


def _convolution(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return rng.normal(0, np.sqrt(2 / np.prod(shape[1:])), shape)


def _of_deepspeech2(model: Any, dimension: int, rng: np.random.Generator) -> Weights:
    channels, size = model.conv_channels, model.hidden_size
    weights: Weights = {}
    inputs, bins = 1, dimension
    for number, (kernel, stride) in enumerate(zip(model.conv_kernels, model.conv_strides), 1):
        weights[f"conv.conv{number}.weight"] = _convolution(rng, channels, inputs, *kernel)
        weights |= _norm(f"conv.bn{number}", channels, rng)
        inputs, bins = channels, (bins - 1) // stride[0] + 1
    width = channels * bins
    for layer in range(model.hidden_layers):
        for end in ("", "_reverse") if model.bidirectional else ("",):
            shapes = {"ih": (4 * size, width), "hh": (4 * size, size)}
            for part, shape in shapes.items():
                name = f"RNN.lstms.{layer}.%s_{part}_l0{end}"
                weights[name % "weight"] = rng.normal(0, 1.5 / np.sqrt(shape[1]), shape)
                weights[name % "bias"] = rng.normal(0, 0.3, 4 * size)
        if model.norm != "none":
            weights |= _norm(f"RNN.norms.{layer}", size, rng)
        width = size
    weights["RNN.lookahead.conv.weight"] = rng.normal(0, 1, (size, 1, 1, model.lookahead_context))
    weights["fc.module.weight"] = rng.normal(0, 1, (len(LABELS), size))
    return weights


def _of_jasper(model: Any, dimension: int, rng: np.random.Generator) -> Weights:
    weights: Weights = {}
    inputs = dimension
    for number, block in enumerate(model.blocks):
        name, cells = f"encoder.layers.{number}", 0
        for _ in range(block.repeat):
            if block.separable:
                shape = inputs, 1, 1, block.kernel_size
                weights[f"{name}.conv.{cells}.conv1.weight"] = _convolution(rng, *shape)
                cells += 1
            shape = block.filters, inputs, 1, 1 if block.separable else block.kernel_size
            weights[f"{name}.conv.{cells}.conv1.weight"] = _convolution(rng, *shape)
            weights |= _norm(f"{name}.conv.{cells + 1}.batchnorm", block.filters, rng)
            cells, inputs = cells + 4, block.filters
        for index, width in enumerate(residual_inputs(model.blocks, dimension)[number]):
            weights[f"{name}.res.{index}.0.conv1.weight"] = _convolution(
                rng, block.filters, width, 1, 1
            )
            weights |= _norm(f"{name}.res.{index}.1.batchnorm", block.filters, rng)
    weights["decoder.layers.weight"] = 0.2 * _convolution(rng, len(LABELS), inputs, 1, 1)
    weights["decoder.layers.bias"] = rng.normal(0, 0.3, len(LABELS))
    return weights


def write_whole(recipe: Recipe, config: Any, weights: Weights, path: Path) -> None:
    """Write the file that takes features of whole recordings."""
    parameters = [
        SimpleNamespace(name=name, asnumpy=lambda values=values: values)
        for name, values in weights.items()
    ]
    write_onnx(
        SimpleNamespace(
            recipe=recipe,
            config=config,
            network=SimpleNamespace(get_parameters=lambda: parameters),
            featurizer=recipe.build_featurizer(config.DataConfig),
            tokenizer=LABELS,
        ),
        path,
    )


def write_stream(recipe: Recipe, config: Any, weights: Weights, path: Path) -> None:
    """Write the file that takes features piece by piece, with its description."""
    featurizer = recipe.build_featurizer(config.DataConfig)
    shape = write_streaming(
        recipe, config.ModelConfig, weights, featurizer.dimension, len(LABELS), path
    )
    description = {
        "model": recipe.name,
        "config": to_dict(config),
        **stored_tokenizer(LABELS),
        "device": "any",
        "file_format": "ONNX",
        **streaming_tensors(featurizer.dimension),
        "streaming": dataclasses.asdict(shape),
        "features": featurizer.config.to_dict(),
        "blank": LABELS.blank,
        "buckets": [{"file": path.name, "batch_size": -1, "frames": -1}],
        "file": path.name,
        "frame_stride": shape.stride,
    }
    add_metadata(path, {DESCRIPTION: json.dumps({**description, CONTENT: model_content(path)})})
