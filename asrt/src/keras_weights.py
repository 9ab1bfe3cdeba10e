"""Weights of ASRT's Keras files (`SpeechModel251bn.model.h5` and its kin) as checkpoints of ours.

The network follows from the shapes: the number of convolutions, their channels, and whether there
is batch normalisation. Keras has kernels as (frames, bins, inputs, outputs), we have (outputs,
inputs, bins, frames); dense layers are transposed.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from asrt.src.config import ModelConfig, Pair, frames_ahead, stride
from asrt.src.tokenizer import SyllableTokenizer
from common import config as configs
from common.interop.weight_conversion import (
    Model,
    check_name,
    forget_manifests,
    write_checkpoint,
)
from common.model.recipe import Recipe
from common.text.tokenizer import BLANK
from common.utils.arguments import command
from common.utils.errors import UserError
from common.utils.packages import package

# Keras has the names that MindSpore has.
_NORM = ("gamma", "beta", "moving_mean", "moving_variance")


@dataclass
class Layer:
    """A layer of a Keras file.

    Attributes:
        name: Its name there.
        weights: Leaf, such as "kernel" -> values.
    """

    name: str
    weights: dict[str, np.ndarray] = field(default_factory=dict)

    @property
    def kind(self) -> str:
        """What it is: "convolution", "dense" or "norm"; or "" where it is none of these."""
        if "gamma" in self.weights:
            return "norm"
        axes = self.weights["kernel"].ndim if "kernel" in self.weights else 0
        return {4: "convolution", 2: "dense"}.get(axes, "")


def keras2mind(recipe: Recipe, argv: Sequence[str]) -> None:
    """Run keras2mind.py.

    Args:
        recipe: The model.
        argv: The command line.

    Raises:
        UserError: The file cannot be read, or is of another network.
    """
    parser = command(
        prog="keras2mind.py",
        description="Convert weights of ASRT's Keras networks (.model.h5, .model.base.h5) to a "
        "checkpoint of ours, with its features and labels. Needs h5py, and no Keras.",
    )
    parser.add_argument("--h5", required=True, metavar="H", help="the file to read")
    parser.add_argument("--ckpt", required=True, metavar="C", help="the checkpoint to write")
    parser.add_argument(
        "--labels",
        required=True,
        metavar="FILE",
        help="syllables in the order of the outputs: ASRT's dict.txt, or a JSON list",
    )
    arguments = parser.parse_args(argv)
    check_name(arguments.ckpt)
    model, weights = translate(read_layers(arguments.h5), arguments.h5)
    dropout = take_dropout(recipe, model)
    tokenizer = SyllableTokenizer.from_file(arguments.labels)
    outputs = len(weights["output.bias"])
    if len(tokenizer) != outputs:
        raise UserError(
            f"{arguments.labels}: {len(tokenizer)} labels with the blank, and {arguments.h5} has "
            f"{outputs} outputs; expected the dict.txt that the network was trained with"
        )
    if tokenizer.blank != outputs - 1:
        raise UserError(f'{arguments.labels}: the blank "{BLANK}" must come last, as in Keras')
    config = recipe.train_config()
    config.ModelConfig = model
    forget_manifests(config)
    config.DataConfig.labels_path = arguments.labels
    ours = {name: name for name in weights}
    count = write_checkpoint(
        Model(recipe, config, tokenizer), weights, ours, arguments.h5, arguments.ckpt, "ASRT"
    )
    print(f"{arguments.h5}: {count} of {count} tensors match")
    print(f"network: {len(model.pairs)} pairs of convolutions, {dropout}")
    print(
        f"silence of {model.end_frames} frames follows each utterance (ModelConfig.end_frames), as "
        "in ASRT, which fills up to 1600 frames"
    )
    print(f"written: {arguments.ckpt}")


def read_layers(path: str | Path) -> list[Layer]:
    """Read the layers with weights of a Keras file, in the order of the network.

    Args:
        path: Weights that `save_weights` of Keras 2 wrote, or a whole model that `save` wrote.

    Returns:
        The layers.

    Raises:
        UserError: It cannot be read, or is no such file.
    """
    h5py = package("h5py", "reads Keras's .h5 files")
    if not Path(path).is_file():
        raise UserError(f"{path}: no such file")
    try:
        with h5py.File(path, "r") as file:
            root = file.get("model_weights", file)
            if "layer_names" not in root.attrs:
                raise UserError(
                    f"{path}: has no layer_names, which files of Keras 2 have; expected one that "
                    "ASRT's save_model wrote, such as SpeechModel251bn.model.h5"
                )
            names = [_text(name) for name in root.attrs["layer_names"]]
            return [layer for name in names if (layer := _layer(root[name], name)).weights]
    except (OSError, KeyError, RuntimeError) as error:
        raise UserError(f"{path}: not a whole HDF5 file of Keras: {error}") from None


def _layer(group: Any, name: str) -> Layer:
    layer = Layer(name)
    for full in map(_text, group.attrs.get("weight_names", ())):
        leaf = re.sub(r":\d+$", "", full.rpartition("/")[2])
        layer.weights[leaf] = np.asarray(group[full], np.float32)
    return layer


def _text(name: Any) -> str:
    return name.decode() if isinstance(name, bytes) else str(name)


def translate(layers: Sequence[Layer], where: str) -> tuple[ModelConfig, dict[str, np.ndarray]]:
    """Give the layers of a Keras file our names and shapes.

    Args:
        layers: The layers, in the order of the network.
        where: The file, for messages.

    Returns:
        The network's configuration, and its weights by our names.

    Raises:
        UserError: They are not of a network of ASRT's.
    """
    if unlike := [layer.name for layer in layers if not layer.kind]:
        raise UserError(f"{where}: layer {unlike[0]} is not of ASRT's networks")
    convolutions, norms, dense = (
        [layer for layer in layers if layer.kind == kind]
        for kind in ("convolution", "norm", "dense")
    )
    counts = f"{len(convolutions)} convolutions, {len(norms)} normalisations, {len(dense)} dense"
    if (
        len(dense) != 2
        or not convolutions
        or len(convolutions) % 2
        or len(norms) not in (0, len(convolutions))
    ):
        raise UserError(
            f"{where}: {counts} layers; expected pairs of convolutions, a normalisation after each "
            "or none, and 2 dense layers"
        )
    widths = [layer.weights["kernel"].shape[3] for layer in convolutions]
    model = ModelConfig(
        pairs=[Pair(width, pool=number < 3) for number, width in enumerate(widths[::2])],
        batch_norm=bool(norms),
        first_bias="bias" in convolutions[0].weights,
        hidden_size=dense[0].weights["kernel"].shape[1],
    )
    # For the last output frame of an utterance, zeros are all that follows.
    step = stride(model)
    model.end_frames = step * -(-(frames_ahead(model) + step - 1) // step)
    weights: dict[str, np.ndarray] = {}
    for number, layer in enumerate(convolutions):
        name = f"pairs.{number // 2}.{('first', 'second')[number % 2]}"
        weights[f"{name}.conv.weight"] = layer.weights["kernel"].transpose(3, 2, 1, 0)
        if "bias" in layer.weights:
            weights[f"{name}.bias"] = layer.weights["bias"]
        if norms:
            for leaf in _NORM:
                if leaf in norms[number].weights:
                    weights[f"{name}.norm.{leaf}"] = norms[number].weights[leaf]
    for name, layer in zip(("hidden", "output"), dense):
        weights[f"{name}.weight"] = layer.weights["kernel"].T
        if "bias" in layer.weights:
            weights[f"{name}.bias"] = layer.weights["bias"]
    return model, weights


def take_dropout(recipe: Recipe, model: ModelConfig) -> str:
    """Give a network the dropout of the preset that has its layers; weights do not show it.

    Args:
        recipe: The model.
        model: The network's configuration; changed in place.

    Returns:
        Which preset that is, for people.
    """
    for name in recipe.presets():
        config = recipe.train_config()
        configs.override_from_yaml(config, recipe.preset(name))
        known = config.ModelConfig
        if _layers(known) == _layers(model):
            model.pairs, model.hidden_dropout = known.pairs, known.hidden_dropout
            return f"dropout as in the preset {name}"
    return "no dropout: no preset has these layers"


def _layers(model: ModelConfig) -> tuple:
    pairs = [(pair.filters, pair.pool) for pair in model.pairs]
    return pairs, model.batch_norm, model.first_bias, model.hidden_size
