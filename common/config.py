"""Configurations: dataclasses that a YAML file and single keys on the command line can override.

The groups below hold what the shared code reads. A model's `src/config.py` derives from them
where its defaults differ, and adds its own (`SpectConfig`, `ModelConfig`).
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import typing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from common.errors import UserError


@dataclass
class TrainingConfig:
    epochs: int = 70
    seed: int = 1  # of weights, batch order, augmentation and dropout
    accumulation_step: int = 1  # batches whose gradients make one optimizer step
    micro_batch: int = 0  # utterances at once through the network; 0: what the memory allows
    memory_gib: float = 0.0  # memory that training may take; 0: 80 % of the machine's
    clip_norm: float = 400.0  # gradients are scaled down to this global norm; 0: never
    precision: str = "O0"  # O0 float32; O2 products in float16; O3 and between layers
    ema: float = 0.0  # decay of a moving average of the weights, such as 0.999; 0: none
    eval_every: int = 0  # steps between evaluations and checkpoints; 0: after each epoch
    patience: int = 0  # evaluations without a better WER before training stops; 0: never
    freeze: list[str] = field(default_factory=list)  # beginnings of parameter names not trained
    max_nonfinite: int = 10  # steps in a row with a non-finite loss or gradient before giving up
    hypotheses: int = 3  # hypotheses shown beside their references at each evaluation


@dataclass
class AugmentationConfig:
    speed_volume_perturb: bool = False  # another speed and gain for each utterance, each epoch
    speed_min: float = 0.85  # slowest speed factor
    speed_max: float = 1.15  # fastest speed factor
    gain_min: float = -6.0  # dB
    gain_max: float = 8.0  # dB
    spec_augment: bool = False  # mask bands and spans (Park et al. 2019, arXiv 1904.08779)
    freq_masks: int = 2  # number of masks over frequency
    freq_width: int = 12  # widest, in bins
    time_masks: int = 2  # number of masks over time
    time_width: float = 0.125  # widest, as a share of the utterance
    from_epoch: int = 0  # first epoch (counted from 0) with augmentation
    noise_dir: str = ""  # folder of noise recordings; empty: no noise
    noise_prob: float = 0.4  # share of utterances that get noise
    noise_min: float = 0.0  # noise level: 0 none ...
    noise_max: float = 0.5  # ... 1 as loud as the speech


@dataclass
class DataConfig:
    train_manifest: str = ""
    val_manifest: str = ""  # empty: no evaluation while training
    test_manifest: str = ""  # what eval.py scores when told nothing else
    labels_path: str = "labels.json"  # JSON list of labels, blank "_"
    batch_size: int = 20  # utterances in a batch
    mindrecord_format: str = "mindrecord/{split}/{split}{}.md"  # {split}: train or val
    mindrecord_files: list[str] = field(default_factory=list)  # training shards; []: every one
    shards: int = 8  # MindRecord files in a split
    store: str = "audio"  # audio: waveforms, every augmentation works; features: faster epochs
    batch_shapes: str = "auto"  # dynamic (CPU, GPU), static (Ascend) or auto: by device
    static_shapes: int = 8  # number of (frames, labels) shapes when they are static
    max_hours: float = 0.0  # train on a random part of so many hours; 0: on all
    max_utterances: int = 0  # ... or of so many utterances; 0: on all
    min_duration: float = 0.1  # seconds; shorter recordings are left out
    max_duration: float = 35.0  # seconds; longer recordings are left out
    workers: int = 2  # processes that convert (one to each 500 recordings), threads that load
    AugmentationConfig: AugmentationConfig = field(default_factory=AugmentationConfig)


@dataclass
class OptimConfig:
    optimizer: str = "Adam"  # Adam, AdamW, SGD, NovoGrad or LAMB
    learning_rate: float = 3e-4
    schedule: str = "anneal"  # anneal, cosine, constant or exponential
    learning_anneal: float = 1.1  # anneal: the rate is divided by this after each epoch
    warmup_epochs: float = 0.0  # linear rise from 0; any schedule
    hold_epochs: float = 140.0  # exponential: epochs at learning_rate, after the warm-up
    learning_decay: float = 0.981  # exponential: ... then the rate is multiplied by this an epoch
    min_learning_rate: float = 1e-5  # exponential: ... down to this
    # L2 in Adam and SGD, decoupled in AdamW, NovoGrad and LAMB; not on norms and biases
    weight_decay: float = 1e-5
    momentum: float = 0.9  # SGD
    eps: float = 1e-8  # all but SGD
    betas: tuple[float, float] = (0.9, 0.999)  # all but SGD; NovoGrad's paper has 0.95, 0.98
    loss_scale: float = 1024.0  # keeps float16 gradients above 0; undone before the update
    dynamic_loss_scale: bool = False  # it is halved when gradients overflow, ...
    scale_window: int = 2000  # ... and doubled after so many steps without


@dataclass
class CheckpointConfig:
    ckpt_file_name_prefix: str = "model"
    ckpt_path: str = "./checkpoint"
    keep_checkpoint_max: int = 10  # numbered checkpoints kept, beside `last` and `best`


@dataclass
class LMConfig:
    """A text's score is log p_ctc + alpha * log p_lm + beta * words, in natural logarithms."""

    decoder_type: str = "greedy"  # greedy, or beam, which all keys below are about
    lm_path: str = ""  # word n-gram model, ARPA or KenLM's binary; empty: none
    alpha: float = 1.818182  # weight of the language model
    beta: float = 0.0  # for each word, where there is a language model: more makes more words
    unk_offset: float = -10.0  # added to log p_lm of a word that the language model lacks
    beam_width: int = 100  # prefixes kept after a frame; 1024 takes 6 times as long
    cutoff_top_n: int = 40  # labels followed in each frame: so many of the best, ...
    cutoff_prob: float = 1.0  # ... or until their probabilities add up to this
    top_paths: int = 1  # texts for an utterance, best first; eval.py prints them when verbose
    lm_workers: int = 4  # processes that search, once there is much to search


@dataclass
class EvalDataConfig:
    test_manifest: str = ""  # empty: the one the checkpoint names
    batch_size: int = 20
    workers: int = 2  # threads that load


@dataclass
class EvalConfig:
    """What eval.py and transcribe.py are free to choose; the rest travels with the checkpoint."""

    save_output: str = ""  # folder for each utterance's log-probabilities; empty: none kept
    verbose: bool = True  # print reference, hypothesis, WER and CER of each utterance
    report: str = ""  # HTML file with the figures, every utterance, sound; empty: none
    report_utterances: int = 100  # of them, the worst so many get sound and a spectrogram
    DataConfig: EvalDataConfig = field(default_factory=EvalDataConfig)
    LMConfig: LMConfig = field(default_factory=LMConfig)


# Keys with their least and greatest values; those of other modules are checked there.
BOUNDS: dict[str, tuple[float, float]] = {
    "TrainingConfig.epochs": (1, math.inf),
    "TrainingConfig.seed": (0, 2**31 - 1),
    "TrainingConfig.accumulation_step": (1, math.inf),
    "TrainingConfig.micro_batch": (0, math.inf),
    "TrainingConfig.memory_gib": (0, math.inf),
    "TrainingConfig.clip_norm": (0, math.inf),
    "TrainingConfig.ema": (0, 0.9999999),
    "TrainingConfig.eval_every": (0, math.inf),
    "TrainingConfig.patience": (0, math.inf),
    "TrainingConfig.max_nonfinite": (1, math.inf),
    "TrainingConfig.hypotheses": (0, math.inf),
    "DataConfig.batch_size": (1, math.inf),
    "DataConfig.shards": (1, 1000),
    "DataConfig.static_shapes": (1, math.inf),
    "DataConfig.max_hours": (0, math.inf),
    "DataConfig.max_utterances": (0, math.inf),
    "DataConfig.min_duration": (0, math.inf),
    "DataConfig.max_duration": (0, math.inf),
    "DataConfig.workers": (1, math.inf),
    "OptimConfig.learning_rate": (0, 1e3),
    "OptimConfig.learning_anneal": (1, math.inf),
    "OptimConfig.warmup_epochs": (0, math.inf),
    "OptimConfig.hold_epochs": (0, math.inf),
    "OptimConfig.learning_decay": (0, 1),
    "OptimConfig.min_learning_rate": (0, 1e3),
    "OptimConfig.weight_decay": (0, 1e3),
    "OptimConfig.momentum": (0, 1),
    "OptimConfig.eps": (1e-30, 1),
    "OptimConfig.betas": (0, 0.9999999),
    "OptimConfig.loss_scale": (1e-3, 2**40),
    "OptimConfig.scale_window": (1, math.inf),
    "CheckpointConfig.keep_checkpoint_max": (1, math.inf),
    "LMConfig.alpha": (0, math.inf),
    "LMConfig.beam_width": (1, math.inf),
    "LMConfig.cutoff_top_n": (1, math.inf),
    "LMConfig.cutoff_prob": (1e-6, 1),
    "LMConfig.top_paths": (1, math.inf),
    "LMConfig.lm_workers": (1, math.inf),
    "report_utterances": (0, math.inf),
}


def check(config: Any) -> None:
    """Refuses numbers outside BOUNDS by name, before anything is started."""
    for key, value in leaves(config).items():
        least, most = BOUNDS.get(key, (-math.inf, math.inf))
        for number in value if isinstance(value, tuple) else (value,):
            if isinstance(number, (int, float)) and not least <= number <= most:
                limits = f"at least {least:g}" + (f", at most {most:g}" if most < math.inf else "")
                raise UserError(f"{key}={value}: expected {limits}")


def leaves(config: Any, prefix: str = "") -> dict[str, Any]:
    """Every key with its value: {"DataConfig.SpectConfig.window": "hamming", ...}."""
    found = {}
    for entry in dataclasses.fields(config):
        value = getattr(config, entry.name)
        if dataclasses.is_dataclass(value):
            found.update(leaves(value, f"{prefix}{entry.name}."))
        else:
            found[prefix + entry.name] = value
    return found


def to_dict(config: Any) -> dict:
    """Nested dictionaries and lists, as YAML and JSON write them."""
    return dataclasses.asdict(config)


def override(config: Any, values: dict, where: str, group: str = "") -> None:
    """Sets `config` from nested `values` in place; errors name their source, `where`, and the key,
    behind the `group` that `config` is."""
    for name, value in values.items():
        _set(config, str(name), value, where, group)


def override_from_yaml(config: Any, path: str | Path) -> None:
    """Sets `config` from a YAML file in place."""
    try:
        values = yaml.safe_load(Path(path).read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise UserError(f"configuration {path}: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        problem = " ".join(str(error).split())
        raise UserError(f"configuration {path}: not valid YAML ({problem})") from error
    if values is None:  # empty, or nothing but comments
        return
    if not isinstance(values, dict):
        raise UserError(f"configuration {path}: expected groups of keys, found {values!r}")
    override(config, values, f"configuration {path}")


def override_from_options(config: Any, options: list[str]) -> None:
    """Sets single keys in place: `DataConfig.batch_size=8`, `data.batch_size=8`, `batch_size=8`."""
    for option in options:
        name, equals, text = option.partition("=")
        if not equals:
            raise UserError(f"--set {option}: expected KEY=VALUE, such as DataConfig.batch_size=8")
        key = _resolve(config, name.strip(), f"--set {option}")
        _set(config, key, _parse(text, leaves(config)[key], option), f"--set {option}")


def _parse(text: str, current: Any, option: str) -> Any:
    """The value of an option: YAML, but a key that holds text takes it as it is written."""
    if isinstance(current, str) or not text.strip():
        return text.strip()
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        problem = " ".join(str(error).split())
        raise UserError(f"--set {option}: not valid YAML ({problem})") from error


def _resolve(config: Any, name: str, where: str) -> str:
    """The full dotted key that `name` means: groups may drop "Config", or be left out."""
    keys = list(leaves(config))
    wanted = _short(name)
    matching = [key for key in keys if _short(key) == wanted]
    matching = matching or [key for key in keys if _short(key).endswith("." + wanted)]
    if len(matching) == 1:
        return matching[0]
    if matching:
        raise UserError(f"{where}: {name} may be {' or '.join(matching)}; write it in full")
    raise UserError(f"{where}: unknown key {name}{_nearest(name, keys)}")


def _short(key: str) -> str:
    return ".".join(part.removesuffix("Config").lower() for part in key.split("."))


def _nearest(name: str, keys: list[str]) -> str:
    by_leaf = {key.split(".")[-1].lower(): key for key in keys}
    by_leaf.update({_short(key): key for key in keys})
    close = difflib.get_close_matches(_short(name), list(by_leaf), n=1, cutoff=0.4)
    close = close or difflib.get_close_matches(
        name.split(".")[-1].lower(), list(by_leaf), n=1, cutoff=0.0
    )
    return f", did you mean {by_leaf[close[0]]}?"


def _set(config: Any, name: str, value: Any, where: str, group: str = "") -> None:
    head, _, rest = name.partition(".")
    if head not in {entry.name for entry in dataclasses.fields(config)}:
        nearest = _nearest(name, list(leaves(config, group)))
        raise UserError(f"{where}: unknown key {group}{name}{nearest}")
    current = getattr(config, head)
    if rest:
        if not dataclasses.is_dataclass(current):
            raise UserError(f"{where}: {group}{head} is a key, not a group of keys")
        _set(current, rest, value, where, f"{group}{head}.")
    elif dataclasses.is_dataclass(current):
        if not isinstance(value, dict):
            raise UserError(f"{where}: {group}{head} is a group of keys, found {value!r}")
        override(current, value, where, f"{group}{head}.")
    else:
        hint = typing.get_type_hints(type(config))[head]
        setattr(config, head, _convert(value, hint, f"{where}: {group}{name}"))


def _convert(value: Any, hint: Any, where: str) -> Any:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (list, tuple):
        if not isinstance(value, (list, tuple)):
            raise UserError(f"{where}: expected a list such as [1, 2], found {value!r}")
        if origin is list:
            return [_convert(item, arguments[0], where) for item in value]
        if len(value) != len(arguments):
            raise UserError(f"{where}: expected {len(arguments)} values, found {len(value)}")
        return tuple(_convert(item, kind, where) for item, kind in zip(value, arguments))
    if hint is float and isinstance(value, (int, float)) and not isinstance(value, bool):
        return float(value)
    if hint is float and isinstance(value, str):
        try:
            return float(value)  # YAML 1.1 takes 1e-4 for a string
        except ValueError:
            pass
    if hint is str and value is None:
        return ""
    if isinstance(value, hint) and not (hint is int and isinstance(value, bool)):
        return value
    raise UserError(f"{where}: expected {hint.__name__}, found {value!r}")
