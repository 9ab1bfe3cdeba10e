"""The YAML files of NVIDIA's Jasper and QuartzNet, and of the MindSpore original.

Their top level is name, labels, input_val, input_train and jasper (or quartznet) with encoder and
decoder; `translate_yaml` converts them to our groups of keys. An absent key has the default of
NVIDIA's code (DeepLearningExamples, PyTorch/SpeechRecognition/Jasper and QuartzNet). A key without
a counterpart here is an error.

`p` of speed_perturbation must be absent or 1: without DALI, NVIDIA's code perturbs one utterance in
ten (p = 0.1 if absent), but with DALI, its default, every utterance, as is done here.
"""

from __future__ import annotations

import math
from typing import Any

from common.utils.errors import UserError, shown

NETWORKS = ("jasper", "quartznet")
# The name of this key, which differs between the two originals, tells whose features are meant.
CONVENTIONS = {"init": "jasper-nvidia", "weight_init": "jasper-mindspore"}
BLOCK = {  # keys of a block, with their defaults
    "repeat": 3,
    "kernel_size": 11,
    "stride": 1,
    "dilation": 1,
    "dropout": 0.2,
    "residual": True,
    "residual_dense": False,
    "separable": False,
}
FIXED_IN_BLOCK = {  # keys of QuartzNet's code; none of its files has other values
    "padding": "same",
    "kernel_size_factor": 1,
    "groups": 1,
    "heads": -1,
    "normalization": "batch",
    "norm_groups": 1,
}


class Section:
    """A mapping of the file, whose keys are taken out one by one; `end` refuses what is left.

    Args:
        values: The mapping.
        name: Its dotted path in the file, for messages.
    """

    def __init__(self, values: Any, name: str):
        if not isinstance(values, dict):
            raise UserError(f"{name}: expected a group of keys, found {shown(values)}")
        self.values, self.name = dict(values), name

    def take(self, key: str, absent: Any = None) -> Any:
        """Take out an optional key.

        Args:
            key: The key.
            absent: The default.

        Returns:
            Its value.
        """
        return self.values.pop(key, absent)

    def need(self, key: str) -> Any:
        """Take out a mandatory key.

        Args:
            key: The key.

        Returns:
            Its value.

        Raises:
            UserError: It is missing.
        """
        if key not in self.values:
            raise UserError(f"{self.path(key)}: missing")
        return self.values.pop(key)

    def number(self, key: str, absent: float | None = None) -> Any:
        """Take out a key with a number; mandatory where there is no default.

        Args:
            key: The key.
            absent: The default.

        Returns:
            Its value, an int or a finite float.

        Raises:
            UserError: It is missing, or no number.
        """
        value = self.need(key) if absent is None else self.take(key, absent)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not -1e9 < value < 1e9:
            raise UserError(f"{self.path(key)}: {shown(value)}, expected a number")
        return value

    def fixed(self, key: str, *allowed: Any, why: str = "") -> None:
        """Take out a key that must have one of some values.

        Args:
            key: The key.
            allowed: The values, the default first.
            why: Added to the message.

        Raises:
            UserError: It has another value.
        """
        value = self.take(key, allowed[0])
        if value not in allowed:
            raise UserError(f"{self.path(key)}: {shown(value)}, expected {shown(allowed[0])}{why}")

    def section(self, key: str) -> Section:
        """Take out a mandatory group of keys."""
        return Section(self.need(key), self.path(key))

    def optional(self, key: str) -> Section | None:
        """Take out a group of keys, None if it is absent."""
        values = self.take(key)
        return None if values is None else Section(values, self.path(key))

    def path(self, key: str) -> str:
        """Return the dotted path of a key in the file."""
        return f"{self.name}.{key}" if self.name else key

    def end(self) -> None:
        """Raise UserError if there is a key that was not taken out."""
        for key, value in self.values.items():
            raise UserError(
                f"{self.path(key)}: {shown(value)} has no counterpart here: take it out"
            )


def translate_yaml(values: dict) -> dict | None:
    """Convert the content of an original's YAML file to our keys.

    Args:
        values: The content of a YAML file.

    Returns:
        Our groups of keys, and under "labels" the labels without the blank; None for a file of
        another kind.

    Raises:
        UserError: A key, named as in the file, is missing, contradictory or without a counterpart.
    """
    if _is_nemo(values):
        raise UserError(
            "a configuration of NeMo, which is not read: give pt2mind.py the .nemo archive, which "
            "holds one, or one of NVIDIA's or ours, with its blocks under ModelConfig.blocks"
        )
    if not {"input_train", "input_val", *NETWORKS} & set(values):
        return None
    file = Section(values, "")
    file.take("name")
    labels = file.need("labels")
    if not isinstance(labels, list) or not all(isinstance(label, str) for label in labels):
        raise UserError(f"labels: expected a list of characters, found {shown(labels)}")
    spect, data, augmentation = _input(file.section("input_train"))
    if (evaluation := file.optional("input_val")) is not None:
        _check_evaluation(evaluation, spect, data)
    networks = [name for name in NETWORKS if name in file.values]
    if len(networks) != 1:
        raise UserError(f"expected one network, {' or '.join(NETWORKS)}; found {len(networks)}")
    convention, model = _network(file.section(networks[0]), spect)
    file.end()
    return {
        "labels": labels,
        "ModelConfig": model,
        "DataConfig": {
            **data,
            "SpectConfig": {**spect, "convention": convention},
            "AugmentationConfig": augmentation,
        },
    }


def _is_nemo(values: dict) -> bool:
    """Whether a file is NeMo's: of a training, of a .nemo archive, or of a release before 1.0."""
    network = values.get("model", values)
    encoder = network.get("encoder") if isinstance(network, dict) else None
    nemo = isinstance(encoder, dict) and not encoder.keys().isdisjoint(("jasper", "_target_"))
    return nemo or "JasperEncoder" in values


# ---- input_train and input_val


def _input(section: Section) -> tuple[dict, dict, dict]:
    """Keys of SpectConfig, of DataConfig and of AugmentationConfig."""
    dataset, features = section.section("audio_dataset"), section.section("filterbank_features")
    section.end()
    sample_rate = features.number("sample_rate")
    dataset.fixed("sample_rate", sample_rate, why=", that of the features")
    max_duration = dataset.take("max_duration", math.inf)
    limit = features.take("max_duration", math.inf)
    if max_duration != limit:
        raise UserError(
            f"{features.path('max_duration')}: {limit}, and {max_duration} in audio_dataset"
        )
    spect = {
        "sample_rate": sample_rate,
        "window_size": features.number("window_size", 0.02),
        "window_stride": features.take("window_stride", 0.01),
        "window": features.need("window"),
        "features": "logmel",
        "bands": features.take("n_filt", 64),
        "frame_splicing": features.take("frame_splicing", 1),
        "preemphasis": features.take("preemph", 0.97) or 0.0,
        "trim_silence": dataset.take("trim_silence", False),
    }
    normalised = dataset.take("normalize_transcripts", True)
    if not isinstance(normalised, bool):
        raise UserError(f"{dataset.path('normalize_transcripts')}: expected true or false")
    data = {
        "min_duration": dataset.take("min_duration", 0.1),
        "max_duration": max_duration,
        "pad_align": features.need("pad_align") or 1,
        "normalize_transcripts": "english" if normalised else "",
        "ignore_offline_speed_perturbation": dataset.take(
            "ignore_offline_speed_perturbation", False
        ),
    }
    augmentation = {
        "dither": features.take("dither", 1e-5),
        **_speed(dataset.optional("speed_perturbation")),
        **_masks(features.optional("spec_augment")),
        **_cutout(features.optional("cutout_augment")),
    }
    for group in (dataset, features):
        group.fixed("pad_to_max_duration", False)
    dataset.fixed("max_utts", 0)
    dataset.fixed("sort_by_duration", False)
    features.fixed("normalize", "per_feature")
    features.fixed("log", True)
    features.fixed("lowfreq", 0)
    features.fixed("highfreq", None, sample_rate / 2)
    window = round(sample_rate * spect["window_size"])  # samples
    features.fixed("n_fft", 1 << (window - 1).bit_length(), None, why=", the next power of two")
    dataset.end()
    features.end()
    return spect, data, augmentation


def _check_evaluation(section: Section, spect: dict, data: dict) -> None:
    """Check that input_val has the features and texts of training.

    Its limits of duration and its dither have no effect on evaluation, and may differ.
    """
    own_spect, own_data, augmentation = _input(section)
    for key in ("max_duration", "min_duration", "ignore_offline_speed_perturbation"):
        own_data[key] = data[key]
    for ours, theirs in ((spect, own_spect), (data, own_data)):
        for key, value in ours.items():
            if theirs[key] != value:
                raise UserError(
                    f"{section.name}: {key} is {shown(theirs[key])}, and {shown(value)} in "
                    "input_train: expected the same features and texts for both"
                )
    for key in ("speed_volume_perturb", "speeds", "spec_augment", "cutout_masks"):
        if augmentation[key]:
            raise UserError(f"{section.name}: augmentation of evaluation has no counterpart here")


def _speed(section: Section | None) -> dict:
    keys: dict[str, Any] = {"speed_volume_perturb": False, "speeds": []}
    if section is None:
        return keys
    slowest, fastest = section.take("min_rate", 0.85), section.take("max_rate", 1.15)
    discrete = section.take("discrete", False)
    section.fixed("p", 1, 1.0, why=" or no p: here every utterance is perturbed")
    section.end()
    if discrete:
        return keys | {"speeds": [slowest, 1.0, fastest]}
    return {
        "speed_volume_perturb": True,
        "speed_min": slowest,
        "speed_max": fastest,
        "gain_min": 0.0,
        "gain_max": 0.0,
        "speeds": [],
    }


def _masks(section: Section | None) -> dict:
    if section is None:
        return {"spec_augment": False}
    keys = {
        "freq_masks": section.need("freq_masks"),
        "freq_min": section.take("min_freq", 0),
        "freq_width": section.need("max_freq"),
        "time_masks": section.need("time_masks"),
        "time_min": section.take("min_time", 0),
        "time_frames": section.need("max_time"),
    }
    section.end()
    return {"spec_augment": bool(keys["freq_masks"] or keys["time_masks"]), **keys}


def _cutout(section: Section | None) -> dict:
    if section is None:
        return {"cutout_masks": 0}
    keys = {
        "cutout_masks": section.take("masks", 0),
        "cutout_freq_min": section.take("min_freq", 20),
        "cutout_freq_max": section.take("max_freq", 20),
        "cutout_time_min": section.take("min_time", 5),
        "cutout_time_max": section.take("max_time", 5),
    }
    section.end()
    return keys


# ---- jasper or quartznet


def _network(section: Section, spect: dict) -> tuple[str, dict]:
    """Convention of the features, and keys of ModelConfig."""
    encoder, decoder = section.section("encoder"), section.section("decoder")
    section.end()
    init_key = "weight_init" if "weight_init" in encoder.values else "init"
    weight_init = encoder.take(init_key, "xavier_uniform")
    encoder.fixed("in_feats", spect["bands"], why=", the n_filt of the features")
    encoder.fixed("frame_splicing", spect["frame_splicing"], why=", that of the features")
    if encoder.take("use_conv_masks", False) is not True:
        raise UserError(
            f"{encoder.path('use_conv_masks')}: expected true, here convolutions always honour the "
            "lengths of utterances"
        )
    blocks = encoder.need("blocks")
    if not isinstance(blocks, list) or not blocks:
        raise UserError(
            f"{encoder.path('blocks')}: expected a list of blocks, found {shown(blocks)}"
        )
    model = {
        "blocks": [
            _block(Section(block, f"{encoder.path('blocks')}[{number}]"))
            for number, block in enumerate(blocks)
        ],
        "activation": encoder.need("activation"),
        "weight_init": weight_init,
    }
    decoder.fixed("in_feats", model["blocks"][-1]["filters"], why=", the filters of the last block")
    decoder.fixed("init", weight_init, why=", as in the encoder")
    encoder.end()
    decoder.end()
    return CONVENTIONS[init_key], model


def _block(section: Section) -> dict:
    block = {"filters": section.need("filters")}
    for key, absent in BLOCK.items():
        value = section.take(key, absent)
        if isinstance(value, list) and len(value) == 1:
            value = value[0]  # NVIDIA's files have kernel_size: [11]
        if isinstance(value, list):
            raise UserError(f"{section.path(key)}: {shown(value)}, expected one number")
        block[key] = value
    for key, value in FIXED_IN_BLOCK.items():
        section.fixed(key, value)
    section.end()
    return block
