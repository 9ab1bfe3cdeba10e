"""Weights to and from deepspeech.pytorch (github.com/SeanNaren/deepspeech.pytorch).

Its networks are ours with norm=batch, activation=hardtanh and conv_bias=true. Release 2 (`.pth`: a
dictionary with `state_dict`, `audio_conf`, `labels`, ...) and release 3 (PyTorch Lightning:
`state_dict` and `hyper_parameters`) are supported. The network follows from the names and shapes of
the weights, features and labels from the rest of the file.
"""

from __future__ import annotations

import argparse
import copy
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from common.config import SpectConfig
from common.interop import weight_conversion
from common.interop.torch_pickle import Named, StoredTensor, named, plain
from common.interop.weight_conversion import (
    ExportedWeights,
    ForeignFormat,
    ImportedWeights,
    batch_norm,
)
from common.model.recipe import Recipe
from common.utils.errors import UserError
from deepspeech2.src.config import ModelConfig, TrainConfig

# What is fixed in its classes; no file states it.
FORM: dict[str, Any] = {
    "norm": "batch",
    "activation": "hardtanh",
    "conv_bias": True,
    "conv_channels": 32,
    "conv_kernels": [[41, 11], [21, 11]],
    "conv_strides": [[2, 2], [2, 1]],
}
# The spectrograms that each release computes; release 2 means 2.0 or 2.1.
CONVENTIONS = {
    2: ("deepspeech.pytorch-2.0", "deepspeech.pytorch"),
    3: ("deepspeech.pytorch",),
}
RELEASE_2_LOOKAHEAD = 20  # frames, fixed in release 2


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


def import_weights(_: Recipe, content: Any, arguments: argparse.Namespace) -> ImportedWeights:
    """Interpret the content of a file of deepspeech.pytorch.

    Args:
        content: What `torch_pickle.read` returned.
        arguments: The command line of pt2mind.py.

    Returns:
        The weights, with configuration and labels.

    Raises:
        UserError: The file is of another kind, of release 1, or malformed.
    """
    weights = state_dict(content, arguments.pth)
    config, labels = described(content, weights, arguments.pth)
    model, spect = config.ModelConfig, config.DataConfig.SpectConfig
    line = (
        f"{'bidirectional' if model.bidirectional else 'unidirectional'} {model.rnn_type}, "
        f"{model.hidden_layers} x {model.hidden_size}, {len(labels)} labels, "
        f"{spect.sample_rate} Hz, {spect.window} window, spectrogram as in {spect.convention}"
    )
    return ImportedWeights(weights, names(model), config, labels, [line])


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
    config, release = speech_model.config, arguments.release
    check_form(config, release, arguments.ckpt)
    layout = release_2 if release == 2 else release_3
    convention = config.DataConfig.SpectConfig.convention
    notes: list[str] = []
    if convention not in CONVENTIONS[release]:
        notes.append(
            f"trained on spectrograms of the convention {convention}, but that release computes "
            f"those of {' or '.join(CONVENTIONS[release])} (see SpectConfig.convention)"
        )

    def content(weights: dict[str, np.ndarray]) -> dict[str, Any]:
        labels = list(speech_model.tokenizer.labels)
        # The convention is for pt2mind.py, should the file be converted back.
        return {**layout(config, labels), "state_dict": weights, "convention": convention}

    return ExportedWeights(
        names(config.ModelConfig),
        content,
        f"for release {release} of deepspeech.pytorch",
        flat=lambda name: name.startswith("lookahead"),
        notes=notes,
    )


def add_writing_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of mind2pt.py.

    Args:
        parser: Its parser.
    """
    parser.add_argument("--release", type=int, choices=(2, 3), default=3, help="of its format")


PACKAGE = ForeignFormat(
    name="deepspeech.pytorch",
    reads="a checkpoint of deepspeech.pytorch (release 2 or 3)",
    writes="one that deepspeech.pytorch loads, where its network is of that package's form",
    import_weights=import_weights,
    export_weights=export_weights,
    add_writing_options=add_writing_options,
)


def names(config: ModelConfig) -> dict[str, str]:
    """Map the names of the parameters.

    Args:
        config: The network.

    Returns:
        deepspeech.pytorch's names -> ours.
    """
    mapping = {"fc.0.module.1.weight": "fc.module.weight"}
    for number in range(len(config.conv_kernels)):
        theirs = "conv.seq_module"
        for leaf in ("weight", "bias"):
            mapping[f"{theirs}.{3 * number}.{leaf}"] = f"conv.conv{number + 1}.{leaf}"
        mapping |= batch_norm(f"{theirs}.{3 * number + 1}", f"conv.bn{number + 1}")
    for layer in range(config.hidden_layers):
        for end in ("", "_reverse") if config.bidirectional else ("",):
            for leaf in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"):
                name = f"{leaf}_l0{end}"
                mapping[f"rnns.{layer}.rnn.{name}"] = f"RNN.lstms.{layer}.{name}"
        if layer:  # it normalises the input of a layer, we the output of the one before
            mapping |= batch_norm(f"rnns.{layer}.batch_norm.module", f"RNN.norms.{layer - 1}")
    mapping |= batch_norm("fc.0.module.0", f"RNN.norms.{config.hidden_layers - 1}")
    if not config.bidirectional:
        mapping["lookahead.0.conv.weight"] = "RNN.lookahead.conv.weight"
    return mapping


def state_dict(content: Any, where: str) -> dict[str, StoredTensor]:
    """Select the weights of a file.

    Args:
        content: What `torch_pickle.read` returned.
        where: The file, for messages.

    Returns:
        The tensors by name, without a wrapper's prefix.

    Raises:
        UserError: The file has no state_dict, or is of release 1.
    """
    stored = content.get("state_dict") if isinstance(content, Mapping) else None
    if not isinstance(stored, Mapping):
        raise UserError(f"{where}: no state_dict in it: not a checkpoint of deepspeech.pytorch")
    weights = weight_conversion.tensors(stored)
    if "conv.0.weight" in weights:
        raise UserError(
            f"{where}: of release 1 of deepspeech.pytorch, whose convolutions are padded "
            "otherwise; only releases 2 and 3 can be converted"
        )
    return weights


def described(
    content: Mapping, weights: Mapping[str, StoredTensor], where: str
) -> tuple[TrainConfig, tuple[str, ...]]:
    """Derive configuration and labels from a file.

    Args:
        content: What `torch_pickle.read` returned.
        weights: Its weights.
        where: The file, for messages.

    Returns:
        The training configuration of such a network, and its labels.

    Raises:
        UserError: Something is missing or malformed.
    """
    try:
        labels, audio, convention = _settings(content)
        if not labels or not all(isinstance(label, str) for label in labels):
            raise ValueError(f"labels {labels!r}")
        config = TrainConfig(ModelConfig=network(weights))
        for key, value in audio.items():
            setattr(config.DataConfig.SpectConfig, key, type(getattr(SpectConfig, key))(value))
    except KeyError as error:
        raise UserError(
            f"{where}: {error.args[0]} is missing, among {len(weights)} tensors and the keys "
            f"{', '.join(map(str, content))}: not a checkpoint of deepspeech.pytorch"
        ) from None
    except (AttributeError, RecursionError, TypeError, ValueError) as error:
        raise UserError(f"{where}: its contents are malformed: {error}") from None
    config.DataConfig.SpectConfig.convention = convention
    weight_conversion.forget_manifests(config)
    return config, tuple(labels)


def _settings(content: Mapping) -> tuple[Any, dict[str, Any], str]:
    """(labels, keys of SpectConfig, convention of the spectrogram) of either release."""
    convention = "deepspeech.pytorch"
    if "hyper_parameters" in content:  # release 3
        values = plain(content["hyper_parameters"])
        labels, audio = values["labels"], values["spect_cfg"]
    else:
        labels, audio = plain(content["labels"]), plain(content["audio_conf"])
        if isinstance(content["audio_conf"], Mapping):  # release 2.1 has an object there
            convention = "deepspeech.pytorch-2.0"
    keys = ("sample_rate", "window_size", "window_stride", "window")
    audio = {key: audio[key] for key in keys if key in audio}
    return labels, audio, content.get("convention", convention)


def network(weights: Mapping[str, StoredTensor]) -> ModelConfig:
    """Derive the network from the names and shapes of its weights.

    Args:
        weights: The tensors by name.

    Returns:
        The ModelConfig.

    Raises:
        KeyError: A weight is missing; its name.
    """
    convolutions = [weights[f"conv.seq_module.{3 * number}.weight"].shape for number in (0, 1)]
    rows, size = weights["rnns.0.rnn.weight_hh_l0"].shape
    kinds = {4: "LSTM", 3: "GRU", 1: "RNN"}
    bidirectional = "rnns.0.rnn.weight_hh_l0_reverse" in weights
    config = ModelConfig(
        **copy.deepcopy(FORM),
        rnn_type=kinds.get(rows // size, "LSTM"),
        hidden_size=size,
        hidden_layers=sum(name.endswith(".rnn.weight_hh_l0") for name in weights),
        bidirectional=bidirectional,
    )
    config.conv_channels = convolutions[0][0]
    config.conv_kernels = [list(shape[2:]) for shape in convolutions]
    if not bidirectional:
        config.lookahead_context = weights["lookahead.0.conv.weight"].shape[-1]
    return config


def check_form(config: TrainConfig, release: int, where: str) -> None:
    """Check that deepspeech.pytorch has the network and the features.

    Args:
        config: The training configuration.
        release: 2 or 3.
        where: The checkpoint, for messages.

    Raises:
        UserError: Lists the keys with other values.
    """
    model = config.ModelConfig
    expected: dict[str, Any] = {f"ModelConfig.{key}": value for key, value in FORM.items()}
    expected["SpectConfig.features"] = "spectrogram"
    actual = {f"ModelConfig.{key}": getattr(model, key) for key in FORM}
    actual["SpectConfig.features"] = config.DataConfig.SpectConfig.features
    if release == 2 and not model.bidirectional:
        expected["ModelConfig.lookahead_context"] = RELEASE_2_LOOKAHEAD
        actual["ModelConfig.lookahead_context"] = model.lookahead_context
    wrong = [
        f"{key}={actual[key]} (expected {value})"
        for key, value in expected.items()
        if actual[key] != value
    ]
    if wrong:
        raise UserError(
            f"{where}: release {release} of deepspeech.pytorch has no such network: "
            f"{', '.join(wrong)}"
        )


def release_2(config: TrainConfig, labels: list[str]) -> dict[str, Any]:
    """Make the content of a file of release 2, without its weights.

    Args:
        config: The training configuration.
        labels: The labels, with the blank.

    Returns:
        The content.
    """
    model, spect = config.ModelConfig, config.DataConfig.SpectConfig
    keys = ("sample_rate", "window_size", "window_stride", "window")
    return {
        "version": "0.0.1",
        "hidden_size": model.hidden_size,
        "hidden_layers": model.hidden_layers,
        "rnn_type": model.rnn_type.lower(),
        "audio_conf": {key: getattr(spect, key) for key in keys},
        "labels": labels,
        "bidirectional": model.bidirectional,
    }


def release_3(config: TrainConfig, labels: list[str]) -> dict[str, Any]:
    """Make the content of a file of release 3, a checkpoint of PyTorch Lightning, without weights.

    Its configuration objects are references by name.

    Args:
        config: The training configuration.
        labels: The labels, with the blank.

    Returns:
        The content.
    """
    model, spect, optim = config.ModelConfig, config.DataConfig.SpectConfig, config.OptimConfig

    def settings(name: str, **state: Any) -> Named:
        instance = named(f"deepspeech_pytorch.configs.train_config.{name}")()
        instance.state = state
        return instance

    def member(name: str, value: Any) -> Named:
        return named(f"deepspeech_pytorch.enums.{name}")(value)

    keys: dict[str, Any] = {
        "rnn_type": member("RNNType", named(f"torch.nn.modules.rnn.{model.rnn_type}")),
        "hidden_size": model.hidden_size,
        "hidden_layers": model.hidden_layers,
    }
    if not model.bidirectional:
        keys["lookahead_context"] = model.lookahead_context
    return {
        "epoch": 0,
        "global_step": 0,
        "pytorch-lightning_version": "1.1.6",
        "callbacks": {},
        "optimizer_states": [],
        "lr_schedulers": [],
        "hparams_name": "kwargs",
        "hyper_parameters": {
            "labels": labels,
            "precision": 32,
            "model_cfg": settings(
                "BiDirectionalConfig" if model.bidirectional else "UniDirectionalConfig", **keys
            ),
            "optim_cfg": settings(
                "AdamConfig",
                learning_rate=optim.learning_rate,
                learning_anneal=1 / optim.learning_anneal,
                weight_decay=optim.weight_decay,
                eps=optim.eps,
                betas=tuple(optim.betas),
            ),
            "spect_cfg": settings(
                "SpectConfig",
                sample_rate=spect.sample_rate,
                window_size=spect.window_size,
                window_stride=spect.window_stride,
                window=member("SpectrogramWindow", spect.window.replace("hanning", "hann")),
            ),
        },
    }
