"""Weights to and from NVIDIA's PyTorch Jasper and QuartzNet, and from NeMo's.

The first are in github.com/NVIDIA/DeepLearningExamples, PyTorch/SpeechRecognition; NeMo
(github.com/NVIDIA/NeMo) has the same networks with other names of the parameters.

The blocks follow from names and shapes of the weights, except stride, dilation and dropout. These
come from a preset with the same shapes, or from the rule that all these networks follow.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np

from common import config as configs
from common.interop import nemo_archive, torch_pickle, weight_conversion
from common.interop.nemo_archive import NemoArchive
from common.interop.torch_pickle import StoredTensor
from common.interop.weight_conversion import (
    ExportedWeights,
    ForeignFormat,
    ImportedWeights,
    batch_norm,
)
from common.model.recipe import Recipe, labels_file
from common.text.tokenizer import BLANK, CharacterTokenizer
from common.utils.errors import UserError
from jasper.src import nemo
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
# The keys that --config may change; the convention is always NVIDIA's.
STATED = ("bands", "frame_splicing", *FEATURES.keys() - {"features", "convention"})
OTHERS = (  # beginnings of the names of tensors that are not the network's
    *("acoustic_model.", "audio_preprocessor.", "preprocessor."),  # of the features
    *("spec_augment.", "spec_augmentation."),
    *("_wer.", "wer.", "loss."),  # NeMo's counters of a metric, and its loss
)
RENAMED = (  # names of the first release and of NeMo -> names of the last release
    (r"^(jasper_)?encoder\.encoder\.", "encoder.layers."),
    (r"^(jasper_)?decoder\.decoder_layers\.", "decoder.layers."),
    (r"^encoder\.(\d+)\.", r"encoder.layers.\1."),  # the two files of a NeMo before 1.0
    (r"^decoder_layers\.", "decoder.layers."),
    (r"\.(\d+)\.conv\.weight$", r".\1.weight"),  # NeMo's masked convolution holds one
)
CONVOLUTION = re.compile(r"encoder\.layers\.(\d+)\.m?conv\.(\d+)\.weight")
RESIDUAL = re.compile(r"encoder\.layers\.(\d+)\.res\.\d+\.0\.weight")
NEMO = re.compile(r"encoder\.(encoder|\d+)\.")  # begins the names of NeMo's tensors
HEAD = "decoder.layers.0.weight"
OURS = "mindspore"  # key of our configuration in the files that we write, for converting back
ACTIVATIONS = ("hardtanh", "relu", "selu")
STYLES = {"jasper": "conv", "quartznet": "mconv"}


def pt2mind(recipe: Recipe, argv: Sequence[str]) -> None:
    """Run pt2mind.py.

    Args:
        recipe: The model.
        argv: The command line.
    """
    weight_conversion.pt2mind(PACKAGE, recipe, argv)


def mind2pt(recipe: Recipe, argv: Sequence[str]) -> None:
    """Run mind2pt.py.

    Args:
        recipe: The model.
        argv: The command line.
    """
    weight_conversion.mind2pt(PACKAGE, recipe, argv)


def add_reading_options(parser: argparse.ArgumentParser, recipe: Recipe) -> None:
    """Add the options of pt2mind.py.

    Args:
        parser: Its parser.
        recipe: The model.
    """
    parser.add_argument(
        "--weights",
        choices=("ema", "raw"),
        help="ema_state_dict or state_dict; none given: the averaged ones where there are any",
    )
    parser.add_argument(
        "--decoder",
        metavar="P",
        help="the second file of a checkpoint of NeMo before 1.0: --pth JasperEncoder-STEP-N.pt "
        "--decoder JasperDecoderForCTC-STEP-N.pt",
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
    """Add the options of mind2pt.py.

    Args:
        parser: Its parser.
    """
    parser.add_argument(
        "--style",
        choices=STYLES,
        help="the class of NVIDIA's that is to load it; none given: quartznet if any block is "
        "separable, or else jasper",
    )


def open_file(path: str) -> AbstractContextManager[Any]:
    """Open a file of NVIDIA's.

    Args:
        path: A file of torch.save, or a .nemo archive.

    Returns:
        Gives its content: what `torch_pickle.read` returns, or a `NemoArchive`.

    Raises:
        UserError: It cannot be read.
    """
    if nemo_archive.is_archive(path):
        return nemo_archive.opened(path)
    return nullcontext(torch_pickle.read(path))


def import_archive(
    recipe: Recipe, archive: NemoArchive, arguments: argparse.Namespace
) -> ImportedWeights:
    """Interpret the content of a .nemo archive.

    Args:
        recipe: The model.
        archive: Its content.
        arguments: The command line of pt2mind.py.

    Returns:
        The weights, with configuration and labels.

    Raises:
        UserError: It is of another kind, or an option was given that it answers itself.
    """
    where = arguments.pth
    for option in ("weights", "decoder", "preset", "config", "labels"):
        if getattr(arguments, option) is not None:
            raise UserError(f"{where}: a .nemo archive has all that it needs: leave out --{option}")
    model = nemo.read_model(recipe, archive, where)
    stored, _ = state_dict(archive.weights, "raw", where)
    weights = canonical(stored, where)
    first = first_kernel(weights, where)
    described_blocks = model.config.ModelConfig.blocks
    if unlike := differences(blocks(weights, where), described_blocks):
        raise UserError(f"{where}: its weights are not of the network that it describes: {unlike}")
    if (classes := weights[HEAD].shape[0]) != len(model.labels):
        raise UserError(
            f"{where}: its output layer has {classes} classes, but its vocabulary has "
            f"{len(model.labels) - 1} labels, and the blank"
        )
    weight_conversion.forget_manifests(model.config)
    spect = model.config.DataConfig.SpectConfig
    lines = [
        f"NeMo archive, {described(described_blocks)}, {len(model.labels)} labels",
        f"features: {spect.bands} bands, {spect.window} window, as in NeMo",
        *(f"note: {note}" for note in [*model.notes, *nemo.compare_tables(stored, model.config)]),
    ]
    style = "quartznet" if ".mconv." in first else "jasper"
    return ImportedWeights(
        weights, names(described_blocks, style), model.config, model.labels, lines
    )


def import_weights(recipe: Recipe, content: Any, arguments: argparse.Namespace) -> ImportedWeights:
    """Interpret the content of a file of NVIDIA's or NeMo's.

    Args:
        recipe: The model.
        content: What `torch_pickle.read` returned.
        arguments: The command line of pt2mind.py.

    Returns:
        The weights, with configuration and labels.

    Raises:
        UserError: The file is of another kind, or does not fit the options.
    """
    if isinstance(content, NemoArchive):
        return import_archive(recipe, content, arguments)
    where = arguments.pth
    stored, kind = state_dict(content, arguments.weights, where)
    if arguments.decoder:
        second = torch_pickle.read(arguments.decoder)
        stored = {**stored, **state_dict(second, "raw", arguments.decoder)[0]}
    weights = canonical(stored, where)
    first = first_kernel(weights, where)
    shapes = blocks(weights, where)
    config = recipe.train_config()
    weight_conversion.forget_manifests(config)
    dimension = weights[first].shape[0 if shapes[0].separable else 1]
    spect = config.DataConfig.SpectConfig
    bands = BANDS if dimension % BANDS == 0 else dimension
    of_nemo = any(NEMO.match(name) for name in weight_conversion.tensors(stored))
    features = {**FEATURES, "bands": bands, "frame_splicing": dimension // bands}
    if of_nemo:
        features |= {"convention": nemo.CONVENTION, "trim_silence": False}
    for key, value in features.items():
        setattr(spect, key, value)
    labels = CharacterTokenizer.from_file(arguments.labels or labels_file(recipe, config)).labels
    ours = content.get(OURS)
    if isinstance(ours, Mapping):
        configs.override(config, ours.get("config", {}), where)
        labels = labels if arguments.labels else ours.get("labels", labels)
    if isinstance(ours, Mapping) and not (arguments.preset or arguments.config):
        assumed = "stride, dilation, dropout and activation as the file says"
    else:
        like, assumed, stated_labels = completed(recipe, shapes, arguments)
        config.ModelConfig, theirs = like.ModelConfig, like.DataConfig.SpectConfig
        if theirs.bands * theirs.frame_splicing == dimension:
            for key in STATED if arguments.config else ("bands", "frame_splicing"):
                setattr(spect, key, getattr(theirs, key))
        if stated_labels is not None and not arguments.labels:
            labels = CharacterTokenizer((*stated_labels, BLANK)).labels
    if (classes := weights[HEAD].shape[0]) != len(labels):
        raise UserError(
            f"{where}: its output layer has {classes} classes, but there are {len(labels)} labels, "
            "the blank included; give its own labels, with the blank _ last, by --labels FILE"
        )
    lines = [
        f"{kind} weights, {described(shapes)}, {len(labels)} labels",
        assumed,
        f"features: {spect.bands} bands, {spect.window} window, {spect.frame_splicing} spliced, "
        f"as in {spect.convention}",
    ]
    if of_nemo:
        lines.append("NeMo's names: NeMo's features, of recordings that keep their silence")
    style = "quartznet" if ".mconv." in first else "jasper"
    return ImportedWeights(weights, names(shapes, style), config, labels, lines)


def export_weights(speech_model: Any, arguments: argparse.Namespace) -> ExportedWeights:
    """Describe the file to write for a checkpoint of ours.

    Args:
        speech_model: The SpeechModel of the checkpoint.
        arguments: The command line of mind2pt.py.

    Returns:
        Names and content of the file.

    Raises:
        UserError: The package has no such network.
    """
    config = speech_model.config
    separable = any(block.separable for block in config.ModelConfig.blocks)
    style = arguments.style or ("quartznet" if separable else "jasper")
    if separable and style == "jasper":
        raise UserError(
            f"{arguments.ckpt}: NVIDIA's Jasper has no separable convolutions; --style quartznet"
        )
    spect, model = config.DataConfig.SpectConfig, config.ModelConfig
    notes: list[str] = []
    if spect.convention != FEATURES["convention"]:
        notes.append(
            f"trained on features of the convention {spect.convention}, but NVIDIA's code "
            f"computes those of {FEATURES['convention']} (see SpectConfig.convention)"
        )
    if model.activation not in ACTIVATIONS:
        raise UserError(
            f"{arguments.ckpt}: ModelConfig.activation={model.activation}, NVIDIA's code has "
            f"{', '.join(ACTIVATIONS)}"
        )
    if model.activation != "relu":
        notes.append(f"activation is {model.activation}: set it in NVIDIA's configuration, too")

    def content(weights: dict[str, np.ndarray]) -> dict[str, Any]:
        stored = configs.to_dict(config)
        ours = {
            "config": {
                "ModelConfig": stored["ModelConfig"],
                "DataConfig": {"SpectConfig": stored["DataConfig"]["SpectConfig"]},
            },
            "labels": list(speech_model.tokenizer.labels),
        }
        return {
            "epoch": 0,
            "step": 0,
            "state_dict": weights,
            "ema_state_dict": weights,
            OURS: ours,
        }

    return ExportedWeights(
        names(model.blocks, style),
        content,
        f"for NVIDIA's {'QuartzNet' if style == 'quartznet' else 'Jasper'}",
        flat=lambda name: True,
        notes=notes,
    )


def names(blocks: Sequence[Block], style: str) -> dict[str, str]:
    """Map the names of the parameters.

    Args:
        blocks: The blocks of the network.
        style: "jasper" or "quartznet": the class of NVIDIA's that has it.

    Returns:
        NVIDIA's names -> ours.
    """
    mapping = {f"decoder.layers.0.{leaf}": f"decoder.layers.{leaf}" for leaf in ("weight", "bias")}
    for number, (block, count) in enumerate(zip(blocks, residual_counts(blocks))):
        layer = f"encoder.layers.{number}"
        theirs, ours = f"{layer}.{STYLES[style]}", f"{layer}.conv"
        convolutions = 2 if block.separable else 1
        for repeat in range(block.repeat):
            norm = repeat * (convolutions + 3) + convolutions  # + norm, activation, dropout
            for index in range(norm - convolutions, norm):
                mapping[f"{theirs}.{index}.weight"] = f"{ours}.{index}.conv1.weight"
            mapping |= batch_norm(f"{theirs}.{norm}", f"{ours}.{norm}.batchnorm")
        for residual in range(count):
            branch = f"{layer}.res.{residual}"
            mapping[f"{branch}.0.weight"] = f"{branch}.0.conv1.weight"
            mapping |= batch_norm(f"{branch}.1", f"{branch}.1.batchnorm")
    return mapping


def residual_counts(blocks: Sequence[Block]) -> list[int]:
    """Count the residual inputs of each block.

    Args:
        blocks: The blocks of a network.

    Returns:
        A number for each block.
    """
    return [len(widths) for widths in residual_inputs(list(blocks), 0)]


def state_dict(content: Any, wanted: str | None, where: str) -> tuple[Mapping, str]:
    """Select the state_dict of a file.

    Args:
        content: What `torch_pickle.read` returned.
        wanted: "ema" or "raw"; None: the averaged weights if there are any.
        where: The file, for messages.

    Returns:
        The state_dict, and "EMA" or "raw".

    Raises:
        UserError: There is none.
    """
    if not isinstance(content, Mapping):
        raise UserError(f"{where}: no state_dict in it: not a checkpoint of NVIDIA's")
    averaged = content.get("ema_state_dict")
    if not isinstance(averaged, Mapping) or not weight_conversion.tensors(averaged):
        averaged = None  # a file may hold an empty one
    if wanted == "ema" and averaged is None:
        raise UserError(f"{where}: no averaged weights (ema_state_dict) in it; use --weights raw")
    if wanted != "raw" and averaged is not None:
        return averaged, "EMA"
    # NeMo's model_weights.ckpt is a state_dict itself.
    weights = content.get("state_dict", content)
    if not isinstance(weights, Mapping) or not weight_conversion.tensors(weights):
        keys = ", ".join(map(str, list(content)[:6]))
        raise UserError(f"{where}: no state_dict in it, only {keys}: not a checkpoint of NVIDIA's")
    return weights, "raw"


def canonical(stored: Mapping, where: str) -> dict[str, StoredTensor]:
    """Rename the tensors as in NVIDIA's last release.

    Args:
        stored: The state_dict of any release, or of NeMo.
        where: The file, for messages.

    Returns:
        The weights by name.

    Raises:
        UserError: Two tensors have the same name then.
    """
    weights: dict[str, StoredTensor] = {}
    for name, value in weight_conversion.tensors(stored).items():
        if name.startswith(OTHERS):
            continue
        renamed = name
        for pattern, replacement in RENAMED:
            renamed = re.sub(pattern, replacement, renamed)
        if renamed in weights:
            raise UserError(f"{where}: holds {renamed} under two names, one of them {name}")
        weights[renamed] = value
    return weights


def first_kernel(weights: Mapping[str, StoredTensor], where: str) -> str:
    """Find the weight of the first convolution.

    Args:
        weights: The weights by name.
        where: The file, for messages.

    Returns:
        Its name.

    Raises:
        UserError: There is none: the file is of another kind.
    """
    kernels = [f"encoder.layers.0.{conv}.0.weight" for conv in STYLES.values()]
    first = [name for name in kernels if name in weights and len(weights[name].shape) == 3]
    if first and HEAD in weights:
        return first[0]
    found = f"among {len(weights)} tensors"
    if first:
        raise UserError(
            f"{where}: no {HEAD} {found}: an encoder alone; its decoder is in a second file, such "
            "as JasperDecoderForCTC-STEP-N.pt of NeMo before 1.0: give it by --decoder FILE"
        )
    if HEAD in weights and len(weights) < 3:
        raise UserError(
            f"{where}: no {kernels[0]} (or mconv) {found}: a decoder alone; give the file of its "
            "encoder by --pth, and this one by --decoder"
        )
    raise UserError(
        f"{where}: no {kernels[0]} (or mconv) of three axes and no {HEAD}, {found}: not a "
        "checkpoint of NVIDIA's Jasper or QuartzNet, or of NeMo's"
    )


def blocks(weights: Mapping[str, StoredTensor], where: str) -> list[Block]:
    """Derive the blocks from the names and shapes of the weights.

    Args:
        weights: The weights by name.
        where: The file, for messages.

    Returns:
        The blocks; stride, dilation and dropout by the usual rule.

    Raises:
        UserError: A block is missing.
    """
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
    derived = []
    for number in range(len(kernels)):
        shapes, residual = kernels[number], number in residuals
        separable = 1 in shapes  # else 1 is the normalisation
        derived.append(
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
    return derived


def completed(
    recipe: Recipe, shapes: list[Block], arguments: argparse.Namespace
) -> tuple[Any, str, list[str] | None]:
    """Find a configuration that has what the shapes of a network do not tell.

    Args:
        recipe: The model.
        shapes: The blocks as `blocks` derives them.
        arguments: The command line of pt2mind.py.

    Returns:
        The configuration, where it is from (for the report), and the labels without the blank if
        a YAML file of NVIDIA's states them.

    Raises:
        UserError: The configuration that was asked for has other shapes.
    """
    if arguments.preset and arguments.preset not in recipe.presets():
        raise UserError(
            f"--preset {arguments.preset}: unknown, expected one of {', '.join(recipe.presets())}"
        )
    candidates: dict[str, Path | None]
    shipped = {f"preset {name}": recipe.preset(name) for name in recipe.presets()}
    if arguments.preset:
        candidates = {f"preset {arguments.preset}": recipe.preset(arguments.preset)}
    elif arguments.config:
        candidates = {arguments.config: Path(arguments.config)}
    else:
        candidates = {"the default configuration": None, **shipped}
    for name, path in candidates.items():
        config, labels = recipe.train_config(), None
        if path:
            labels = configs.override_from_yaml(config, path, recipe.translate_yaml)
        unlike = differences(shapes, config.ModelConfig.blocks)
        if not unlike:
            origin = f"stride, dilation, dropout and activation as in {name}, of the same shapes"
            return config, origin, labels
        if arguments.preset or arguments.config:
            raise UserError(f"{arguments.pth}: its shapes are not those of {name}: {unlike}")
    config = recipe.train_config()
    config.ModelConfig = ModelConfig(blocks=shapes)
    origin = (
        "assumed, as no preset has these shapes: stride 2 in the first block, dilation 2 in the "
        "last but one, no dropout, relu; give --config YAML if that is wrong"
    )
    return config, origin, None


def differences(shapes: Sequence[Block], other: Sequence[Block]) -> str:
    """Compare the shapes of a file with those of a configuration.

    Args:
        shapes: The blocks of the file.
        other: The blocks of the configuration.

    Returns:
        The first difference; empty: none.
    """
    if len(shapes) != len(other):
        return f"{len(shapes)} blocks, expected {len(other)}"
    pairs = zip(shapes, residual_counts(shapes), other, residual_counts(other))
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
    """Describe a network in a few words.

    Args:
        blocks: Its blocks.

    Returns:
        Such as "12 blocks, 53 convolutions, dense residuals".
    """
    most = max(residual_counts(blocks))
    residual = "dense" if most > 1 else "plain" if most else "no"
    count = sum(block.repeat for block in blocks)
    kind = " separable" if any(block.separable for block in blocks) else ""
    return f"{len(blocks)} blocks, {count}{kind} convolutions, {residual} residuals"


PACKAGE = ForeignFormat(
    name="NVIDIA",
    reads="a checkpoint of NVIDIA's PyTorch Jasper or QuartzNet, or a .nemo archive of NeMo's,",
    writes="one that NVIDIA's PyTorch Jasper or QuartzNet loads",
    open_file=open_file,
    import_weights=import_weights,
    export_weights=export_weights,
    add_reading_options=add_reading_options,
    add_writing_options=add_writing_options,
)
