"""The configuration of a .nemo archive: NeMo's QuartzNet and Jasper in our keys.

A network is a `EncDecCTCModel`: an `AudioToMelSpectrogramPreprocessor`, a `ConvASREncoder` and a
`ConvASRDecoder`; an absent key has the default of NeMo 3.0 (github.com/NVIDIA/NeMo, folder
nemo/collections/asr). Configurations of 2020 have `cls` and `params` where later ones have
`_target_`. A key that would change the result and has no counterpart here is an error.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from common.audio.features import build_featurizer
from common.interop.nemo_archive import CONFIG, NemoArchive
from common.interop.torch_pickle import StoredTensor
from common.model.recipe import Recipe
from common.text.tokenizer import BLANK, CharacterTokenizer
from common.utils.errors import UserError, shown
from jasper.src.config import Block, ModelConfig
from jasper.src.original_yaml import Section

CONVENTION = "nemo"
TAKEN = "pt2mind.py takes QuartzNet and Jasper that spell with characters (EncDecCTCModel)"
GUARD = 2.0**-24  # added to powers before the logarithm
ENGLISH = [" ", *"abcdefghijklmnopqrstuvwxyz", "'"]
FAMILIES = {  # part of a class name -> what it is
    "Conformer": "a Conformer",
    "RNNT": "a transducer",
    "Transformer": "a Transformer",
    "LSTM": "a recurrent network",
    "Squeezeformer": "a Squeezeformer",
    "Classification": "a classifier such as MatchboxNet",
    "SpeakerDecoder": "a network for speakers",
    "Reconstruction": "a network for pre-training",
}
_MOST_VALUES = 200_000  # of a configuration; aliases can make more of a few lines
_REFERENCE = re.compile(r"\$\{(?:model\.)?([\w.]+)\}")  # to another key: ${model.labels}


@dataclass(frozen=True)
class NemoModel:
    """What an archive tells of its network.

    Attributes:
        config: The training configuration of such a network.
        labels: Labels of its outputs, with the blank last.
        notes: What differs from NeMo, for the report.
    """

    config: Any
    labels: tuple[str, ...]
    notes: list[str]


def read_model(recipe: Recipe, archive: NemoArchive, where: str) -> NemoModel:
    """Translate the configuration of an archive.

    Args:
        recipe: The model.
        archive: The archive.
        where: Its name, for messages.

    Returns:
        The network.

    Raises:
        UserError: It is another kind of network, or has a key without a counterpart here.
    """
    values = archive.config.get("model", archive.config)
    try:
        if not isinstance(values, Mapping):
            raise UserError(f"{CONFIG}: model: expected a group of keys, found {shown(values)}")
        refuse_other_networks(values)
        names = ("preprocessor", "encoder", "decoder")
        parts = {name: _part(name, values) for name in names}
        config = recipe.train_config()
        notes: list[str] = []
        _preprocessor(parts["preprocessor"], config, notes)
        _encoder(parts["encoder"], config, notes)
        vocabulary = _decoder(parts["decoder"], config)
        labels = CharacterTokenizer((*vocabulary, BLANK)).labels
        build_featurizer(config.DataConfig)  # checks its keys
    except UserError as error:
        raise UserError(f"{where}: {error}") from None
    config.DataConfig.normalize_transcripts = "english" if vocabulary == ENGLISH else ""
    return NemoModel(config, labels, notes)


def refuse_other_networks(values: Mapping) -> None:
    """Recognise the networks that have no counterpart here.

    Args:
        values: The content of model_config.yaml.

    Raises:
        UserError: Names the network.
    """
    target = _class_name(values.get("target"))
    classes = {name: _class_of(values.get(name)) for name in ("encoder", "decoder", "joint")}
    found = []
    if _squeezes(values.get("encoder")):
        found.append("Citrinet or ContextNet (squeeze-and-excitation)")
    for name in (*classes.values(), target):
        found += [what for part, what in FAMILIES.items() if part in name and what not in found]
    if values.get("tokenizer") is not None or "BPE" in target:
        found.append("subword labels (a BPE tokenizer)")
    expected = {"encoder": "ConvASREncoder", "decoder": "ConvASRDecoder"}
    other = {key: classes[key] for key, name in expected.items() if classes[key] != name}
    if not found and other:
        found = [f"{key} {name or 'missing'}" for key, name in other.items()]
    if found:
        kind = f" ({target})" if target else ""
        raise UserError(f"{', '.join(found)}{kind}: not supported; {TAKEN}")


def compare_tables(weights: Any, config: Any) -> list[str]:
    """Compare the window and mel filters that an archive holds with ours.

    Args:
        weights: The state_dict of the archive.
        config: The configuration that was made of it.

    Returns:
        A note for each that differs.
    """
    featurizer = build_featurizer(config.DataConfig)
    ours = {
        "preprocessor.featurizer.fb": featurizer.filters.toarray(),
        "preprocessor.featurizer.window": featurizer.window,
    }
    notes = []
    for name, table in ours.items():
        stored = weights.get(name) if isinstance(weights, Mapping) else None
        if not isinstance(stored, StoredTensor):
            continue
        theirs = np.squeeze(stored.numpy())
        if theirs.shape != table.shape or np.abs(theirs - table).max() > 1e-3 * table.max():
            notes.append(
                f"{name} is not what {CONFIG} describes: its features, and texts, may differ"
            )
    return notes


# ---- the parts of a configuration


def _part(name: str, values: Mapping) -> Section:
    """Return a group of keys without its class name, its references resolved."""
    section = values.get(name)
    if not isinstance(section, Mapping):
        raise UserError(f"{CONFIG}: {name}: expected a group of keys, found {shown(section)}")
    section = _flat(section)
    budget = [_MOST_VALUES]
    keys = {key: _resolved(value, values, budget) for key, value in section.items()}
    return Section({key: keys[key] for key in keys if key != "_target_"}, name)


def _flat(section: Mapping) -> dict:
    """Convert a group of keys of 2020, with cls and params, to the later form."""
    keys = dict(section)
    if "cls" in keys:
        keys["_target_"] = keys.pop("cls")
    parameters = keys.pop("params", {})
    return {**keys, **(parameters if isinstance(parameters, Mapping) else {})}


def _resolved(value: Any, values: Mapping, budget: list[int], depth: int = 0) -> Any:
    """Replace references to other keys; UserError for more values than a configuration has."""
    budget[0] -= 1
    if budget[0] < 0 or depth > 10:
        raise UserError(f"{CONFIG}: more than {_MOST_VALUES} values, or nested too deeply")
    if isinstance(value, list):
        return [_resolved(item, values, budget, depth + 1) for item in value]
    if isinstance(value, Mapping):
        return {key: _resolved(item, values, budget, depth + 1) for key, item in value.items()}
    if not isinstance(value, str) or not (reference := _REFERENCE.fullmatch(value)):
        return value
    target: Any = values
    for key in reference[1].split("."):
        target = target.get(key) if isinstance(target, Mapping) else None
    if target is None:
        raise UserError(f"{CONFIG}: {value} refers to a key that is not there")
    return _resolved(target, values, budget, depth + 1)


def _preprocessor(section: Section, config: Any, notes: list[str]) -> None:
    """Set the features."""
    rate = section.number("sample_rate", 16000)
    spect = config.DataConfig.SpectConfig
    lengths = {}
    for key, absent in (("window_size", 0.02), ("window_stride", 0.01)):
        seconds, samples = section.take(key), section.take(f"n_{key}")
        if samples is None:  # NeMo cuts the product off, and rounding it may differ
            seconds = absent if seconds is None else _number(seconds, section.path(key))
            samples = int(seconds * rate)
        samples = _number(samples, section.path(f"n_{key}"))
        whole = seconds is not None and round(rate * seconds) == samples
        lengths[key] = seconds if whole else samples / rate
    bands, emphasis = section.number("features", 64), section.take("preemph", 0.97)
    values = {
        **lengths,
        "sample_rate": rate,
        "window": section.take("window", "hann"),
        "features": "logmel",
        "bands": bands,
        "convention": CONVENTION,
        "preemphasis": 0.0 if emphasis is None else _number(emphasis, section.path("preemph")),
        "frame_splicing": 1,
        "trim_silence": False,
    }
    for key, value in values.items():
        setattr(spect, key, value)
    power = 1 << (round(rate * lengths["window_size"]) - 1).bit_length()
    section.fixed("n_fft", None, power, why=f" or {power}, the next power of two")
    section.fixed("normalize", "per_feature")
    section.fixed("lowfreq", 0)
    section.fixed("highfreq", None, 0, rate / 2, why=" or half the sample rate")
    section.fixed("log", True)
    section.fixed("log_zero_guard_type", "add")
    guard = section.number("log_zero_guard_value", GUARD)
    if not np.isclose(guard, GUARD, rtol=1e-3):
        raise UserError(
            f"{section.path('log_zero_guard_value')}: {guard}, expected 2^-24 ({GUARD:.4g}), the "
            "only one of NVIDIA's QuartzNet and Jasper"
        )
    for key, fixed in (("frame_splicing", 1), ("pad_value", 0), ("mag_power", 2.0)):
        section.fixed(key, fixed)
    for key in ("exact_pad", "use_torchaudio", "int_values"):
        section.fixed(key, False)
    section.fixed("mel_norm", "slaney")
    config.DataConfig.AugmentationConfig.dither = section.number("dither", 1e-5)
    pad_to = section.take("pad_to", 16)
    config.DataConfig.pad_align = pad_to if isinstance(pad_to, int) and pad_to > 0 else 1
    if section.take("stft_conv", False) or section.take("stft_exact_pad", False):
        notes.append("stft_conv and stft_exact_pad have no effect, as in NeMo 3.0")
    for key in ("nb_augmentation_prob", "nb_max_freq", "rng", "max_duration", "feat_type"):
        section.take(key)  # of training alone, or without effect
    section.end()


def _encoder(section: Section, config: Any, notes: list[str]) -> None:
    """Set the network."""
    section.fixed("feat_in", config.DataConfig.SpectConfig.bands, why=", the features")
    if section.take("conv_mask", True) is not True:
        notes.append(
            "conv_mask is false: NeMo lets padding into the last frames, here it never counts, so "
            "the ends of utterances differ"
        )
    section.fixed("normalization_mode", "batch")
    section.fixed("residual_mode", "add")
    section.fixed("frame_splicing", 1)
    section.fixed("quantize", False)
    section.take("norm_groups")
    weight_init = section.take("init_mode", "xavier_uniform")
    activation = section.need("activation")
    blocks = section.need("jasper")
    if not isinstance(blocks, list) or not blocks:
        raise UserError(f"{section.path('jasper')}: expected blocks, found {shown(blocks)}")
    network = ModelConfig(
        blocks=[_block(Section(b, f"encoder.jasper[{n}]")) for n, b in enumerate(blocks)]
    )
    if activation not in ("relu", "selu"):
        raise UserError(f"encoder.activation: {shown(activation)}, expected relu or selu")
    network.activation = activation
    if weight_init in ("xavier_uniform", "xavier_normal", "kaiming_uniform", "kaiming_normal"):
        network.weight_init = weight_init
    section.end()
    network.check()
    config.ModelConfig = network


def _block(section: Section) -> Block:
    numbers = {}
    for ours, theirs in (
        ("filters", "filters"),
        ("repeat", "repeat"),
        ("kernel_size", "kernel"),
        ("stride", "stride"),
        ("dilation", "dilation"),
    ):
        value = section.need(theirs)
        value = value[0] if isinstance(value, list) and len(value) == 1 else value
        if type(value) is not int:
            raise UserError(f"{section.path(theirs)}: {shown(value)}, expected a whole number")
        numbers[ours] = value
    flags = {
        key: section.take(key, False) for key in ("residual", "residual_dense", "separable", "se")
    }
    for key, value in flags.items():
        if not isinstance(value, bool):
            raise UserError(f"{section.path(key)}: {shown(value)}, expected true or false")
    for key, fixed in (("groups", 1), ("heads", -1), ("kernel_size_factor", 1)):
        section.fixed(key, fixed)
    section.fixed("residual_mode", "add")
    section.fixed("future_context", -1)
    if section.take("stride_last", False) and numbers["repeat"] > 1 and numbers["stride"] > 1:
        raise UserError(f"{section.path('stride_last')}: true, expected false")
    for key in ("se_reduction_ratio", "se_context_size", "se_interpolation_mode"):
        section.take(key)  # of no effect without se
    flags.pop("se")
    block = Block(dropout=_number(section.take("dropout", 0.0), section.path("dropout")))
    for key, value in (numbers | flags).items():
        setattr(block, key, value)
    block.residual_dense = block.residual and block.residual_dense
    section.end()
    return block


def _decoder(section: Section, config: Any) -> list[str]:
    """Return the labels without the blank."""
    width = config.ModelConfig.blocks[-1].filters
    section.fixed("feat_in", width, None, why=", the filters of the last block")
    section.fixed("add_blank", True)
    section.take("init_mode")
    labels = section.need("vocabulary")
    if not isinstance(labels, list) or not labels:
        raise UserError(f"decoder.vocabulary: expected the labels, found {shown(labels)}")
    labels = [str(label) if type(label) is int else label for label in labels]
    if wrong := [label for label in labels if not isinstance(label, str) or len(label) != 1]:
        raise UserError(f"decoder.vocabulary: {shown(wrong[0])}, expected single characters")
    section.fixed("num_classes", len(labels), -1, None, why=", the labels of vocabulary")
    section.end()
    return labels


def _number(value: Any, where: str) -> Any:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not -1e9 < value < 1e9:
        raise UserError(f"{where}: {shown(value)}, expected a number")
    return value


def _class_name(value: Any) -> str:
    return value.rsplit(".", 1)[-1] if isinstance(value, str) else ""


def _class_of(section: Any) -> str:
    if not isinstance(section, Mapping):
        return ""
    return _class_name(section.get("_target_", section.get("cls")))


def _squeezes(encoder: Any) -> bool:
    """Whether a block of an encoder has squeeze-and-excitation."""
    blocks = _flat(encoder).get("jasper") if isinstance(encoder, Mapping) else None
    return isinstance(blocks, list) and any(
        isinstance(block, Mapping) and block.get("se") not in (None, False) for block in blocks
    )
