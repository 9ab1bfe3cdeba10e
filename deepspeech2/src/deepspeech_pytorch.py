"""Weights to and from deepspeech.pytorch (github.com/SeanNaren/deepspeech.pytorch).

Its networks are ours with norm=batch, activation=hardtanh and conv_bias=true. Understood are
release 2 (`.pth`: a dictionary with `state_dict`, `audio_conf`, `labels`, ...) and release 3
(PyTorch Lightning: `state_dict` and `hyper_parameters`). The network is read off the weights'
names and shapes, the features and labels off the rest.
"""

from __future__ import annotations

import argparse
import copy
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from common.config import SpectConfig
from common.interop import torch_pickle as torch_weights
from common.interop import weight_conversion as porting
from common.interop.torch_pickle import StoredTensor, named, plain
from common.interop.weight_conversion import (
    ExportedWeights,
    ForeignFormat,
    ImportedWeights,
    batch_norm,
)
from common.model.recipe import Recipe
from common.utils.errors import UserError
from deepspeech2.src.config import ModelConfig, TrainConfig

# What its classes have built in, beside the keys that a file can hold.
FORM = {
    "norm": "batch",
    "activation": "hardtanh",
    "conv_bias": True,
    "conv_channels": 32,
    "conv_kernels": [[41, 11], [21, 11]],
    "conv_strides": [[2, 2], [2, 1]],
}
# The spectrograms it computes: release 2 reads one file in 2.0 and in 2.1.
CONVENTIONS = {
    2: ("deepspeech.pytorch-2.0", "deepspeech.pytorch"),
    3: ("deepspeech.pytorch",),
}
RELEASE_2_LOOKAHEAD = 20  # frames; its files cannot say another


def pt2mind(recipe: Recipe, argv: Sequence[str]) -> None:
    porting.pt2mind(PACKAGE, recipe, argv)


def mind2pt(recipe: Recipe, argv: Sequence[str]) -> None:
    porting.mind2pt(PACKAGE, recipe, argv)


def arrives(_: Recipe, content: Any, arguments: argparse.Namespace) -> ImportedWeights:
    weights = state_dict(content, arguments.pth)
    config, labels = described(content, weights, arguments.pth)
    model, spect = config.ModelConfig, config.DataConfig.SpectConfig
    line = (
        f"{'bidirectional' if model.bidirectional else 'unidirectional'} {model.rnn_type}, "
        f"{model.hidden_layers} x {model.hidden_size}, {len(labels)} labels, "
        f"{spect.sample_rate} Hz, {spect.window} window, spectrogram as in {spect.convention}"
    )
    return ImportedWeights(weights, names(model), config, labels, [line])


def leaves(speech_model: Any, arguments: argparse.Namespace) -> ExportedWeights:
    config, release = speech_model.config, arguments.release
    check_form(config, release, arguments.ckpt)
    layout = release_2 if release == 2 else release_3
    convention, notes = config.DataConfig.SpectConfig.convention, []
    if convention not in CONVENTIONS[release]:
        notes.append(
            f"trained on spectrograms of the convention {convention}, where that release "
            f"computes those of {' or '.join(CONVENTIONS[release])} (see SpectConfig.convention)"
        )

    def content(weights: dict[str, np.ndarray]) -> dict[str, Any]:
        labels = list(speech_model.vocabulary.labels)
        # The convention is for the way back.
        return {**layout(config, labels), "state_dict": weights, "convention": convention}

    return ExportedWeights(
        names(config.ModelConfig),
        content,
        f"for release {release} of deepspeech.pytorch",
        flat=lambda name: name.startswith("lookahead"),
        notes=notes,
    )


def add_writing_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--release", type=int, choices=(2, 3), default=3, help="of its format")


PACKAGE = ForeignFormat(
    name="deepspeech.pytorch",
    reads="a checkpoint of deepspeech.pytorch (release 2 or 3)",
    writes="one that deepspeech.pytorch loads, where its network is of that package's form",
    arrives=arrives,
    leaves=leaves,
    add_writing_options=add_writing_options,
)


def names(config: ModelConfig) -> dict[str, str]:
    """Its names of the parameters of such a network -> ours."""
    found = {"fc.0.module.1.weight": "fc.module.weight"}
    for number in range(len(config.conv_kernels)):
        theirs = "conv.seq_module"
        for leaf in ("weight", "bias"):
            found[f"{theirs}.{3 * number}.{leaf}"] = f"conv.conv{number + 1}.{leaf}"
        found |= batch_norm(f"{theirs}.{3 * number + 1}", f"conv.bn{number + 1}")
    for layer in range(config.hidden_layers):
        for end in ("", "_reverse") if config.bidirectional else ("",):
            for leaf in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"):
                name = f"{leaf}_l0{end}"
                found[f"rnns.{layer}.rnn.{name}"] = f"RNN.lstms.{layer}.{name}"
        if layer:  # it normalises what enters a layer, we what leaves the one before
            found |= batch_norm(f"rnns.{layer}.batch_norm.module", f"RNN.norms.{layer - 1}")
    found |= batch_norm("fc.0.module.0", f"RNN.norms.{config.hidden_layers - 1}")
    if not config.bidirectional:
        found["lookahead.0.conv.weight"] = "RNN.lookahead.conv.weight"
    return found


def state_dict(content: Any, where: str) -> dict[str, StoredTensor]:
    """The file's tensors that are weights, without a wrapper's prefix."""
    weights = content.get("state_dict") if isinstance(content, Mapping) else None
    if not isinstance(weights, Mapping):
        raise UserError(f"{where}: no state_dict in it: not a checkpoint of deepspeech.pytorch")
    weights = porting.tensors(weights)
    if "conv.0.weight" in weights:
        raise UserError(
            f"{where}: of release 1 of deepspeech.pytorch, whose convolutions are padded "
            "otherwise; only releases 2 and 3 can be converted"
        )
    return weights


def described(
    content: Mapping, weights: Mapping[str, StoredTensor], where: str
) -> tuple[TrainConfig, tuple[str, ...]]:
    """Configuration and labels of the network in a file."""
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
    porting.forget_manifests(config)
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
    """The ModelConfig of such names and shapes; KeyError with the name that is missing."""
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
    """Refuses networks and features that deepspeech.pytorch does not have, key by key."""
    model = config.ModelConfig
    expected: dict[str, Any] = {f"ModelConfig.{key}": value for key, value in FORM.items()}
    expected["SpectConfig.features"] = "spectrogram"
    found = {f"ModelConfig.{key}": getattr(model, key) for key in FORM}
    found["SpectConfig.features"] = config.DataConfig.SpectConfig.features
    if release == 2 and not model.bidirectional:
        expected["ModelConfig.lookahead_context"] = RELEASE_2_LOOKAHEAD
        found["ModelConfig.lookahead_context"] = model.lookahead_context
    wrong = [
        f"{key}={found[key]} (expected {value})"
        for key, value in expected.items()
        if found[key] != value
    ]
    if wrong:
        raise UserError(
            f"{where}: release {release} of deepspeech.pytorch has no such network: "
            f"{', '.join(wrong)}"
        )


def release_2(config: TrainConfig, labels: list[str]) -> dict[str, Any]:
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
    """A checkpoint of PyTorch Lightning; its configuration objects are references by name."""
    model, spect, optim = config.ModelConfig, config.DataConfig.SpectConfig, config.OptimConfig

    def made(name: str, **state: Any) -> torch_weights.Named:
        found = named(f"deepspeech_pytorch.configs.train_config.{name}")()
        found.state = state
        return found

    def member(name: str, value: Any) -> torch_weights.Named:
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
            "model_cfg": made(
                "BiDirectionalConfig" if model.bidirectional else "UniDirectionalConfig", **keys
            ),
            "optim_cfg": made(
                "AdamConfig",
                learning_rate=optim.learning_rate,
                learning_anneal=1 / optim.learning_anneal,
                weight_decay=optim.weight_decay,
                eps=optim.eps,
                betas=tuple(optim.betas),
            ),
            "spect_cfg": made(
                "SpectConfig",
                sample_rate=spect.sample_rate,
                window_size=spect.window_size,
                window_stride=spect.window_stride,
                window=member("SpectrogramWindow", spect.window.replace("hanning", "hann")),
            ),
        },
    }
