"""Configurations: dataclasses that a YAML file and single keys on the command line can override.

The groups below hold what the shared code reads. A model's `src/config.py` derives from them
where its defaults differ, and adds its own (`ModelConfig`).
"""

from __future__ import annotations

import dataclasses
import difflib
import itertools
import math
import typing
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from common.text.normalization import normaliser
from common.utils.errors import UserError


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
class SpectConfig:
    """The features; what `common.audio.features.build_featurizer` makes of them travels with
    records, checkpoints and exports."""

    sample_rate: int = 16000  # Hz; recordings at another rate are resampled
    window_size: float = 0.02  # seconds
    window_stride: float = 0.01  # seconds: the hop
    window: str = "hamming"  # hamming, hann (or hanning), blackman, bartlett
    features: str = "spectrogram"  # spectrogram (log1p magnitude, 161 bins) or logmel
    bands: int = 64  # mel bands of logmel
    # Details (common/audio/features.py): plain, or what networks that come from elsewhere were
    # trained on. Spectrogram: deepspeech.pytorch (releases 2.1 and 3), deepspeech.pytorch-2.0;
    # logmel: jasper-mindspore, jasper-nvidia.
    convention: str = "plain"
    preemphasis: float = 0.0  # times the sample before, taken from each sample; 0.97 in Jasper
    frame_splicing: int = 1  # so many frames in a row are stacked into one, at every frame
    trim_silence: bool = False  # cut ends that stay 60 dB below the loudest part


@dataclass
class AugmentationConfig:
    speed_volume_perturb: bool = False  # another speed and gain for each utterance, each epoch
    speed_min: float = 0.85  # slowest speed factor
    speed_max: float = 1.15  # fastest speed factor
    gain_min: float = -6.0  # dB
    gain_max: float = 8.0  # dB
    speeds: list[float] = field(
        default_factory=list
    )  # instead: one of these factors, [0.9, 1, 1.1]
    dither: float = 0.0  # standard deviation of noise added to samples; 1e-5 in Jasper
    spec_augment: bool = False  # mask bands and spans (Park et al. 2019, arXiv 1904.08779)
    freq_masks: int = 2  # number of masks over frequency
    freq_min: int = 0  # narrowest, in bins
    freq_width: int = 12  # widest, in bins
    time_masks: int = 2  # number of masks over time
    time_min: int = 0  # narrowest, in frames
    time_width: float = 0.125  # widest, as a share of the utterance, ...
    time_frames: int = 0  # ... or in frames; 0: the share
    cutout_masks: int = 0  # rectangles masked (DeVries & Taylor 2017, arXiv 1708.04552); 0: none
    cutout_freq_min: int = 20  # bins: least height
    cutout_freq_max: int = 20  # greatest height
    cutout_time_min: int = 5  # frames: least length
    cutout_time_max: int = 5  # greatest length
    from_epoch: int = 0  # first epoch (counted from 0) with augmentation
    noise_dir: str = ""  # folder of noise recordings; empty: no noise
    noise_prob: float = 0.4  # share of utterances that get noise
    noise_min: float = 0.0  # noise level: 0 none ...
    noise_max: float = 0.5  # ... 1 as loud as the speech


@dataclass
class DataConfig:
    # A path alone is a list of one.
    train_manifest: list[str] = field(default_factory=list)
    val_manifest: list[str] = field(default_factory=list)  # []: no evaluation while training
    test_manifest: list[str] = field(default_factory=list)  # what eval.py scores if told nothing
    Data_dir: str = (
        ""  # relative paths inside manifests start here; empty: see common/data/manifest.py
    )
    normalize_transcripts: str = ""  # english: numbers, "mr.", "&" as words; empty: as they are
    labels_path: str = "labels.json"  # JSON list of labels, blank "_"
    batch_size: int = 20  # utterances in a batch
    mindrecord_format: str = "mindrecord/{split}/{split}{}.md"  # {split}: train or val
    mindrecord_files: list[str] = field(default_factory=list)  # training shards; []: every one
    shards: int = 8  # MindRecord files in a split
    store: str = "audio"  # audio: waveforms, every augmentation works; features: faster epochs
    # Copies of a recording at other speeds, which Jasper's manifests list: left out, or converted
    # too, and each epoch trains on one version of each utterance, drawn anew.
    ignore_offline_speed_perturbation: bool = True
    batch_shapes: str = "auto"  # dynamic (CPU, GPU), static (Ascend) or auto: by device
    # Number of (frames, labels) shapes when they are static, and one more for slower speeds.
    static_shapes: int = 8
    pad_align: int = 1  # batches are padded to a multiple of so many frames
    max_hours: float = 0.0  # train on a random part of so many hours; 0: on all
    max_utterances: int = 0  # ... or of so many utterances; 0: on all
    min_duration: float = 0.1  # seconds; shorter recordings are left out
    max_duration: float = 35.0  # seconds; longer recordings are left out
    workers: int = 2  # processes that convert (one to each 500 recordings), threads that load
    SpectConfig: SpectConfig = field(default_factory=SpectConfig)
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
    # L2 in Adam and SGD, decoupled in AdamW, part of the normalised step in NovoGrad and LAMB;
    # never on norms and biases.
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
    test_manifest: list[str] = field(default_factory=list)  # []: what the checkpoint names
    Data_dir: str = ""  # empty: the checkpoint's, for the manifests that it names itself
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


@dataclass
class InferDataConfig:
    Data_dir: str = ""  # as in EvalDataConfig
    test_manifest: list[str] = field(default_factory=list)  # []: what the checkpoint names
    workers: int = 2  # processes that make features, one to each 500 recordings


@dataclass
class InferConfig:
    """What preprocess.py and postprocess.py, either side of a C++ inference, are free to choose."""

    batch_size_infer: int = 1  # utterances at once, where the exported file leaves it open
    result_path: str = "./preprocess_Result"  # folder of the features, for the C++ program
    result_dir: str = "./result_Files"  # folder of the network's outputs; beside it time_Result
    post_out: str = "./infer_output.txt"  # texts and figures that postprocess.py writes
    DataConfig: InferDataConfig = field(default_factory=InferDataConfig)
    LMConfig: LMConfig = field(default_factory=LMConfig)


# Other names of keys: places where the MindSpore model zoo's Jasper has them.
ALIASES: dict[str, str] = {
    "DataConfig.accumulation_step": "TrainingConfig.accumulation_step",
    "TrainingConfig.loss_scale": "OptimConfig.loss_scale",
    "OptimConfig.epsilon": "OptimConfig.eps",
}
# In the DataConfig of the model zoo's eval_config, and not in ours.
CARRIED = ("labels_path", "SpectConfig")

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
    "DataConfig.pad_align": (1, 4096),
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
    "batch_size_infer": (1, math.inf),
    "report_utterances": (0, math.inf),
}


def check(config: Any) -> None:
    """Refuses numbers outside BOUNDS by name, before anything is started."""
    values = leaves(config)
    normaliser(values.get("DataConfig.normalize_transcripts", ""), ())
    for key, value in values.items():
        least, most = BOUNDS.get(key, (-math.inf, math.inf))
        for number in value if isinstance(value, (list, tuple)) else (value,):
            if isinstance(number, (int, float)) and not least <= number <= most:
                limits = f"at least {least:g}" + (f", at most {most:g}" if most < math.inf else "")
                raise UserError(f"{key}={value}: expected {limits}")
    rate = values.get("OptimConfig.learning_rate", 0)
    least = values.get("OptimConfig.min_learning_rate", 0)
    if values.get("OptimConfig.schedule") == "exponential" and rate < least:
        raise UserError(
            f"OptimConfig.learning_rate={rate:g} is below min_learning_rate={least:g}, which would "
            "be used throughout: lower that one, too"
        )


def leaves(config: Any, prefix: str = "") -> dict[str, Any]:
    """Every key with its value: {"DataConfig.SpectConfig.window": "hamming", ...}.

    A list is one value, also one of dataclasses.
    """
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


def override(config: Any, values: dict, where: str) -> None:
    """Sets `config` from nested `values` in place; errors name their source, `where`, and the key.

    A key may have one of its other names (ALIASES), but not several that disagree.
    """
    given: dict[str, tuple[str, Any]] = {}
    for key, value in _flat(config, values, where):
        name = _true_name(config, key)
        _set(config, name, value, where)
        earlier, before = given.setdefault(name, (key, value))
        if earlier != key and before != value:
            raise UserError(
                f"{where}: {earlier}={before} and {key}={value} are one key by two names: keep one"
            )


def override_from_yaml(
    config: Any,
    path: str | Path,
    translate: Callable[[dict], dict | None] = lambda values: None,
) -> list[str] | None:
    """Sets `config` from a YAML file in place.

    translate: `Recipe.translate_yaml`. Returns the vocabulary of a translated file, which
    DataConfig.labels_path should hold, or None.
    """
    where = f"configuration {path}"
    try:
        values = yaml.safe_load(Path(path).read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise UserError(f"{where}: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        problem = " ".join(str(error).split())
        raise UserError(f"{where}: not valid YAML ({problem})") from error
    if values is None:  # empty, or nothing but comments
        return None
    if not isinstance(values, dict):
        raise UserError(f"{where}: expected groups of keys, found {values!r}")
    try:
        translated = translate(values)
    except UserError as error:
        raise UserError(f"{where}: {error}") from None
    labels = None
    if translated is not None:
        labels = translated.get("labels")
        values = {group: keys for group, keys in translated.items() if group != "labels"}
    override(config, values, where)
    return labels


def override_from_options(config: Any, options: list[str]) -> None:
    """Sets single keys in place: `DataConfig.batch_size=8`, `data.batch_size=8`, `batch_size=8`."""
    for option in options:
        name, equals, text = option.partition("=")
        if not equals:
            raise UserError(f"--set {option}: expected KEY=VALUE, such as DataConfig.batch_size=8")
        key = _resolve(config, name.strip(), f"--set {option}")
        _set(config, key, _parse(text, _hint(config, key), option), f"--set {option}")


def _parse(text: str, hint: Any, option: str) -> Any:
    """The value of an option: YAML, but a key that holds text takes it as it is written, and one
    that holds several texts a single one."""
    text = text.strip()
    if hint is str or not text or (hint == list[str] and not text.startswith("[")):
        return text
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        problem = " ".join(str(error).split())
        raise UserError(f"--set {option}: not valid YAML ({problem})") from error


def _resolve(config: Any, name: str, where: str) -> str:
    """The full dotted key that `name` means: groups may drop "Config", or be left out."""
    keys = {key: key for key in leaves(config)}
    keys = {alias: key for alias, key in ALIASES.items() if key in keys} | keys
    wanted = _short(name)
    matching = {keys[key] for key in keys if _short(key) == wanted}
    matching = matching or {keys[key] for key in keys if _short(key).endswith("." + wanted)}
    if len(matching) == 1:
        return matching.pop()
    if matching:
        candidates = " or ".join(sorted(matching))
        raise UserError(f"{where}: {name} may be {candidates}; write it in full")
    raise _unknown(config, name, where)


def _true_name(config: Any, key: str) -> str:
    """`key`, or the key that it is another name of, where `config` has that and not `key`."""
    known = leaves(config)
    return ALIASES[key] if key not in known and ALIASES.get(key) in known else key


def _short(key: str) -> str:
    return ".".join(part.removesuffix("Config").lower() for part in key.split("."))


def _unknown(config: Any, name: str, where: str) -> UserError:
    """What to say of a key that `config` lacks: what it was meant to be, or what there is."""
    first = _short(name).removeprefix("data.").split(".")[0]
    if isinstance(config, (EvalConfig, InferConfig)) and first in map(_short, CARRIED):
        return UserError(
            f"{where}: {name}: features and labels travel with the checkpoint, leave it out"
        )
    head, _, last = name.rpartition(".")
    keys = list(leaves(config))
    groups = {key.rpartition(".")[0] for key in keys} - {""}
    groups = sorted(groups | {group.split(".")[0] for group in groups})
    group = next((g for g in groups if head and f".{_short(g)}".endswith(f".{_short(head)}")), "")
    own = [key for key in keys if key.startswith(f"{group}.")] if group else keys
    for candidates in (own, [*keys, *groups]):
        if found := closest(last, candidates):
            return UserError(f"{where}: unknown key {name}, did you mean {found}?")
    names = ", ".join(dict.fromkeys(key.removeprefix(f"{group}.").split(".")[0] for key in own))
    return UserError(f"{where}: unknown key {name}; {group or 'the configuration'} has {names}")


def closest(name: str, keys: Iterable[str]) -> str | None:
    """Of some keys, the one whose last part is most like `name`, if any is."""
    by_leaf = {_short(key).split(".")[-1]: key for key in keys}
    close = difflib.get_close_matches(_short(name), list(by_leaf), n=1, cutoff=0.6)
    return by_leaf[close[0]] if close else None


def _flat(config: Any, values: dict, where: str, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted key, value) of nested `values`, as deep as `config` has groups."""
    for name, value in values.items():
        key = f"{prefix}{name}"
        if dataclasses.is_dataclass(_get(config, key)):
            if not isinstance(value, dict):
                raise UserError(f"{where}: {key} is a group of keys, found {value!r}")
            yield from _flat(config, value, where, f"{key}.")
        else:
            yield key, value


def _get(config: Any, key: str) -> Any:
    """The group or value of a dotted key, None where there is none."""
    for part in key.split("."):
        if not dataclasses.is_dataclass(config):
            return None
        config = getattr(config, part, None)
    return config


def _hint(config: Any, key: str) -> Any:
    """The type of a dotted key's value."""
    group, _, name = key.rpartition(".")
    return typing.get_type_hints(type(_get(config, group) if group else config))[name]


def _set(config: Any, key: str, value: Any, where: str) -> None:
    if key not in leaves(config):
        for group in itertools.accumulate(key.split(".")[:-1], "{}.{}".format):
            if group in leaves(config):
                raise UserError(f"{where}: {group} is a key, not a group of keys")
        raise _unknown(config, key, where)
    group, _, name = key.rpartition(".")
    owner = _get(config, group) if group else config
    setattr(owner, name, _convert(value, _hint(config, key), f"{where}: {key}"))


def _convert(value: Any, hint: Any, where: str) -> Any:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if hint == list[str] and (value is None or isinstance(value, str)):
        return [value] if value else []
    if origin in (list, tuple):
        if not isinstance(value, (list, tuple)):
            raise UserError(f"{where}: expected a list such as [1, 2], found {value!r}")
        if origin is list:
            kinds = [arguments[0]] * len(value)
        elif len(value) == len(arguments):
            kinds = arguments
        else:
            raise UserError(f"{where}: expected {len(arguments)} values, found {len(value)}")
        items = zip(value, kinds)
        return origin(_convert(item, kind, f"{where}[{i}]") for i, (item, kind) in enumerate(items))
    if dataclasses.is_dataclass(hint):
        return _convert_group(value, hint, where)
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


def _convert_group(value: Any, kind: type, where: str) -> Any:
    """A dataclass of `kind` that is an item of a list, from a mapping."""
    if isinstance(value, kind):
        return dataclasses.replace(value)
    entries = {entry.name: entry for entry in dataclasses.fields(kind)}
    if not isinstance(value, dict):
        raise UserError(f"{where}: expected keys such as {next(iter(entries))}, found {value!r}")
    for name in value:
        if name not in entries:
            found = closest(str(name), entries)
            hint = f", did you mean {found}?" if found else f"; there are {', '.join(entries)}"
            raise UserError(f"{where}.{name}: unknown key {name}{hint}")
    for name, entry in entries.items():
        usual = (entry.default, entry.default_factory)
        if name not in value and usual == (dataclasses.MISSING, dataclasses.MISSING):
            raise UserError(f"{where}: no {name}")
    hints = typing.get_type_hints(kind)
    given = {name: _convert(each, hints[name], f"{where}.{name}") for name, each in value.items()}
    try:
        return kind(**given)
    except UserError as error:  # of its own checks
        raise UserError(f"{where}: {error}") from None
