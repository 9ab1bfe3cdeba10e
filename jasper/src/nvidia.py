"""Weights to and from NVIDIA's PyTorch Jasper and QuartzNet, and from NeMo's.

The first are in github.com/NVIDIA/DeepLearningExamples, PyTorch/SpeechRecognition; NeMo
(github.com/NVIDIA/NeMo) has the same networks under other names.

Names and shapes of the weights tell the blocks but for stride, dilation and dropout, which a
shipped configuration of the same shapes gives, or the rule that all those networks follow.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from common import config as configs
from common.interop import weight_conversion as porting
from common.interop.torch_pickle import StoredTensor
from common.interop.weight_conversion import (
    ExportedWeights,
    ForeignFormat,
    ImportedWeights,
    batch_norm,
)
from common.model.recipe import Recipe, labels_file
from common.text.tokenizer import BLANK, Vocabulary
from common.utils.errors import UserError
from jasper.src.config import Block, ModelConfig, residual_inputs

# NVIDIA's features (common/audio/features.py); bands and splicing follow from the weights.
FEATURES = {
    "sample_rate": 16000,
    "window_size": 0.02,
    "window_stride": 0.01,
    "window": "hann",
    "features": "logmel",
    "convention": "jasper-nvidia",
    "preemphasis": 0.97,
    "trim_silence": True,
}
BANDS = 64
# Those that a --config may say otherwise; the convention is NVIDIA's whoever wrote the file.
STATED = ("bands", "frame_splicing", *FEATURES.keys() - {"features", "convention"})
OTHERS = ("acoustic_model.", "audio_preprocessor.", "preprocessor.")  # features, no weights
RENAMED = (  # its first release and NeMo -> its names of today
    (r"^(jasper_)?encoder\.encoder\.", "encoder.layers."),
    (r"^(jasper_)?decoder\.decoder_layers\.", "decoder.layers."),
    (r"\.(\d+)\.conv\.weight$", r".\1.weight"),  # NeMo's masked convolution holds one
)
CONVOLUTION = re.compile(r"encoder\.layers\.(\d+)\.m?conv\.(\d+)\.weight")
RESIDUAL = re.compile(r"encoder\.layers\.(\d+)\.res\.\d+\.0\.weight")
HEAD = "decoder.layers.0.weight"
OURS = "mindspore"  # what NVIDIA's files do not hold, in those that we write, for the way back
ACTIVATIONS = ("hardtanh", "relu", "selu")
STYLES = {"jasper": "conv", "quartznet": "mconv"}


def pt2mind(recipe: Recipe, argv: Sequence[str]) -> None:
    porting.pt2mind(PACKAGE, recipe, argv)


def mind2pt(recipe: Recipe, argv: Sequence[str]) -> None:
    porting.mind2pt(PACKAGE, recipe, argv)


def add_reading_options(parser: argparse.ArgumentParser, recipe: Recipe) -> None:
    parser.add_argument(
        "--weights",
        choices=("ema", "raw"),
        help="ema_state_dict or state_dict; none given: the averaged ones where there are any",
    )
    parser.add_argument(
        "--preset",
        metavar="NAME",
        help="stride, dilation and dropout as in a configuration that ships with the model: "
        f"{', '.join(recipe.presets())}; none given: one whose shapes are the file's",
    )
    parser.add_argument(
        "--config",
        metavar="YAML",
        help="... or as in this one, of ours or of NVIDIA's, with its features and labels",
    )
    parser.add_argument(
        "--labels", metavar="JSON", help="labels in the order of the outputs; none given: English"
    )


def add_writing_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--style",
        choices=STYLES,
        help="the class of NVIDIA's that is to load it; none given: quartznet if any block is "
        "separable, or else jasper",
    )


def arrives(recipe: Recipe, content: Any, arguments: argparse.Namespace) -> ImportedWeights:
    where = arguments.pth
    stored, kind = state_dict(content, arguments.weights, where)
    weights = canonical(stored, where)
    first = first_kernel(weights, where)
    found = blocks(weights, where)
    config = recipe.train_config()
    porting.forget_manifests(config)
    dimension = weights[first].shape[0 if found[0].separable else 1]
    spect = config.DataConfig.SpectConfig
    bands = BANDS if dimension % BANDS == 0 else dimension
    for key, value in {**FEATURES, "bands": bands, "frame_splicing": dimension // bands}.items():
        setattr(spect, key, value)
    labels = Vocabulary.from_file(arguments.labels or labels_file(recipe, config)).labels
    ours = content.get(OURS)
    if isinstance(ours, Mapping):
        configs.override(config, ours.get("config", {}), where)
        labels = labels if arguments.labels else ours.get("labels", labels)
    if isinstance(ours, Mapping) and not (arguments.preset or arguments.config):
        assumed = "stride, dilation, dropout and activation as the file says"
    else:
        like, assumed, said = completed(recipe, found, arguments)
        config.ModelConfig, theirs = like.ModelConfig, like.DataConfig.SpectConfig
        if theirs.bands * theirs.frame_splicing == dimension:
            for key in STATED if arguments.config else ("bands", "frame_splicing"):
                setattr(spect, key, getattr(theirs, key))
        if said is not None and not arguments.labels:
            labels = Vocabulary((*said, BLANK)).labels
    if (classes := weights[HEAD].shape[0]) != len(labels):
        raise UserError(
            f"{where}: its output layer has {classes} classes, and there are {len(labels)} labels, "
            "the blank included; name its own, with the blank _ last, by --labels FILE"
        )
    lines = [
        f"{kind} weights, {described(found)}, {len(labels)} labels",
        assumed,
        f"features: {spect.bands} bands, {spect.window} window, {spect.frame_splicing} spliced, "
        f"as in {spect.convention}",
    ]
    if any(name.startswith("encoder.encoder.") for name in porting.tensors(stored)):
        lines.append(
            "NeMo's names: its features add 2^-24 before the logarithm, which are not to be had "
            "here; expect differences in silence"
        )
    style = "quartznet" if ".mconv." in first else "jasper"
    return ImportedWeights(weights, names(found, style), config, labels, lines)


def leaves(speech_model: Any, arguments: argparse.Namespace) -> ExportedWeights:
    config = speech_model.config
    separable = any(block.separable for block in config.ModelConfig.blocks)
    style = arguments.style or ("quartznet" if separable else "jasper")
    if separable and style == "jasper":
        raise UserError(
            f"{arguments.ckpt}: NVIDIA's Jasper has no separable convolutions; --style quartznet"
        )
    spect, model, notes = config.DataConfig.SpectConfig, config.ModelConfig, []
    if spect.convention != FEATURES["convention"]:
        notes.append(
            f"trained on features of the convention {spect.convention}, where NVIDIA's code "
            f"computes those of {FEATURES['convention']} (see SpectConfig.convention)"
        )
    if model.activation not in ACTIVATIONS:
        raise UserError(
            f"{arguments.ckpt}: ModelConfig.activation={model.activation}, NVIDIA's code has "
            f"{', '.join(ACTIVATIONS)}"
        )
    if model.activation != "relu":
        notes.append(f"activation is {model.activation}: say so in its configuration")

    def content(weights: dict[str, np.ndarray]) -> dict[str, Any]:
        stored = configs.to_dict(config)
        kept = {
            "config": {
                "ModelConfig": stored["ModelConfig"],
                "DataConfig": {"SpectConfig": stored["DataConfig"]["SpectConfig"]},
            },
            "labels": list(speech_model.vocabulary.labels),
        }
        return {
            "epoch": 0,
            "step": 0,
            "state_dict": weights,
            "ema_state_dict": weights,
            OURS: kept,
        }

    return ExportedWeights(
        names(model.blocks, style),
        content,
        f"for NVIDIA's {'QuartzNet' if style == 'quartznet' else 'Jasper'}",
        flat=lambda name: True,
        notes=notes,
    )


def names(blocks: Sequence[Block], style: str) -> dict[str, str]:
    """NVIDIA's names of the parameters of such a network -> ours."""
    found = {f"decoder.layers.0.{leaf}": f"decoder.layers.{leaf}" for leaf in ("weight", "bias")}
    for number, (block, count) in enumerate(zip(blocks, panes_of(blocks))):
        layer = f"encoder.layers.{number}"
        theirs, ours = f"{layer}.{STYLES[style]}", f"{layer}.conv"
        convolutions = 2 if block.separable else 1
        for repeat in range(block.repeat):
            norm = repeat * (convolutions + 3) + convolutions  # + normalise, activate, drop out
            for index in range(norm - convolutions, norm):
                found[f"{theirs}.{index}.weight"] = f"{ours}.{index}.conv1.weight"
            found |= batch_norm(f"{theirs}.{norm}", f"{ours}.{norm}.batchnorm")
        for pane in range(count):
            branch = f"{layer}.res.{pane}"
            found[f"{branch}.0.weight"] = f"{branch}.0.conv1.weight"
            found |= batch_norm(f"{branch}.1", f"{branch}.1.batchnorm")
    return found


def panes_of(blocks: Sequence[Block]) -> list[int]:
    """For each block the number of outputs that are added to its own."""
    return [len(widths) for widths in residual_inputs(list(blocks), 0)]


def state_dict(content: Any, wanted: str | None, where: str) -> tuple[Mapping, str]:
    """(the tensors by the names of the file, EMA or raw)."""
    if not isinstance(content, Mapping):
        raise UserError(f"{where}: no state_dict in it: not a checkpoint of NVIDIA's")
    averaged = content.get("ema_state_dict")
    if wanted == "ema" and not isinstance(averaged, Mapping):
        raise UserError(f"{where}: no averaged weights (ema_state_dict) in it; use --weights raw")
    if wanted != "raw" and isinstance(averaged, Mapping):
        return averaged, "EMA"
    # NeMo's model_weights.ckpt is a state_dict itself.
    weights = content.get("state_dict", content)
    if not isinstance(weights, Mapping) or not porting.tensors(weights):
        raise UserError(
            f"{where}: no state_dict in it, but {', '.join(map(str, list(content)[:6]))}: not a "
            "checkpoint of NVIDIA's"
        )
    return weights, "raw"


def canonical(stored: Mapping, where: str) -> dict[str, StoredTensor]:
    """The tensors by NVIDIA's names of today."""
    found: dict[str, StoredTensor] = {}
    for name, value in porting.tensors(stored).items():
        if name.startswith(OTHERS):
            continue
        renamed = name
        for pattern, replacement in RENAMED:
            renamed = re.sub(pattern, replacement, renamed)
        if renamed in found:
            raise UserError(f"{where}: {renamed} is there by two names, of which one is {name}")
        found[renamed] = value
    return found


def first_kernel(weights: Mapping[str, StoredTensor], where: str) -> str:
    """The name of the first convolution's weight."""
    for name in (f"encoder.layers.0.{conv}.0.weight" for conv in STYLES.values()):
        if name in weights and HEAD in weights and len(weights[name].shape) == 3:
            return name
    raise UserError(
        f"{where}: no encoder.layers.0.conv.0.weight (or mconv) of three axes and no {HEAD}, among "
        f"{len(weights)} tensors: not a checkpoint of NVIDIA's Jasper or QuartzNet, or of NeMo's"
    )


def blocks(weights: Mapping[str, StoredTensor], where: str) -> list[Block]:
    """The blocks of such names and shapes, with stride, dilation and dropout as is usual."""
    kernels: dict[int, dict[int, tuple[int, ...]]] = {}  # block -> number in it -> shape
    residuals: dict[int, int] = {}
    for name, value in weights.items():
        if (match := CONVOLUTION.fullmatch(name)) and len(value.shape) == 3:
            kernels.setdefault(int(match[1]), {})[int(match[2])] = value.shape
        elif match := RESIDUAL.fullmatch(name):
            residuals[int(match[1])] = residuals.get(int(match[1]), 0) + 1
    for number in range(max(kernels)):
        if 0 not in kernels.get(number, ()):
            raise UserError(
                f"{where}: no encoder.layers.{number}.conv.0.weight, but {max(kernels) + 1} blocks"
            )
    dense = max(residuals.values(), default=0) > 1
    found = []
    for number in range(len(kernels)):
        shapes, residual = kernels[number], number in residuals
        separable = 1 in shapes  # else 1 is the normalisation
        found.append(
            Block(
                filters=shapes[max(shapes)][0],
                repeat=len(shapes) // (2 if separable else 1),
                kernel_size=shapes[0][2],
                stride=1 if number or residual else 2,
                dilation=2 if number and number == len(kernels) - 2 else 1,
                dropout=0.0,
                residual=residual,
                residual_dense=residual and dense,
                separable=separable,
            )
        )
    return found


def completed(
    recipe: Recipe, found: list[Block], arguments: argparse.Namespace
) -> tuple[Any, str, list[str] | None]:
    """(a configuration with what the shapes of a network do not tell, where that is from, the
    labels without the blank where an original's YAML file says them).

    Raises UserError for a named configuration of other shapes.
    """
    if arguments.preset and arguments.preset not in recipe.presets():
        raise UserError(
            f"--preset {arguments.preset}: unknown, expected one of {', '.join(recipe.presets())}"
        )
    shipped = {f"preset {name}": recipe.preset(name) for name in recipe.presets()}
    if arguments.preset:
        candidates = {f"preset {arguments.preset}": recipe.preset(arguments.preset)}
    elif arguments.config:
        candidates = {arguments.config: arguments.config}
    else:
        candidates = {"the default configuration": None, **shipped}
    for name, path in candidates.items():
        config, labels = recipe.train_config(), None
        if path:
            labels = configs.override_from_yaml(config, path, recipe.translate_yaml)
        unlike = differences(found, config.ModelConfig.blocks)
        if not unlike:
            said = f"stride, dilation, dropout and activation as in {name}, whose shapes are these"
            return config, said, labels
        if arguments.preset or arguments.config:
            raise UserError(f"{arguments.pth}: not of the shapes of {name}: {unlike}")
    config = recipe.train_config()
    config.ModelConfig = ModelConfig(blocks=found)
    said = (
        "assumed, as no preset has these shapes: stride 2 in the first block, dilation 2 in the "
        "last but one, no dropout, relu; --config YAML says otherwise"
    )
    return config, said, None


def differences(found: Sequence[Block], other: Sequence[Block]) -> str:
    """Where the shapes of a file are not those of a configuration; empty: nowhere."""
    if len(found) != len(other):
        return f"{len(found)} blocks, expected {len(other)}"
    pairs = zip(found, panes_of(found), other, panes_of(other))
    for number, (block, count, expected, expected_count) in enumerate(pairs):
        for key in ("filters", "repeat", "kernel_size", "separable"):
            if getattr(block, key) != getattr(expected, key):
                return (
                    f"block {number}: {key} {getattr(block, key)}, expected "
                    f"{getattr(expected, key)}"
                )
        if count != expected_count:
            return f"block {number}: {count} residuals, expected {expected_count}"
    return ""


def described(blocks: Sequence[Block]) -> str:
    """The network in a few words."""
    most = max(panes_of(blocks))
    residual = "dense" if most > 1 else "plain" if most else "no"
    count = sum(block.repeat for block in blocks)
    kind = " separable" if any(block.separable for block in blocks) else ""
    return f"{len(blocks)} blocks, {count}{kind} convolutions, {residual} residuals"


PACKAGE = ForeignFormat(
    name="NVIDIA",
    reads="a checkpoint of NVIDIA's PyTorch Jasper or QuartzNet, or of NeMo's (of a .nemo archive "
    "its model_weights.ckpt),",
    writes="one that NVIDIA's PyTorch Jasper or QuartzNet loads",
    arrives=arrives,
    leaves=leaves,
    add_reading_options=add_reading_options,
    add_writing_options=add_writing_options,
)
