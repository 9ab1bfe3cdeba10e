"""Configuration: dataclasses that a user edits, or overrides by a YAML file and by single keys.

The groups below hold what the shared code reads; their defaults are for a model that states none.
The `src/config.py` of each model that ships derives from them: it states the defaults of all keys
that its users edit, and adds groups of its own (`ModelConfig`). A key that needs more than a type
and a default is an `option`: with bounds, or with the places where it may differ.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import itertools
import math
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import yaml

from common.text.normalization import normaliser
from common.utils.errors import UserError, shown

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

T = TypeVar("T")


# ---- what is known of a key beside its type and default


@dataclass(frozen=True)
class Option:
    """Metadata of a configuration key; see `option`."""

    min: float = -math.inf
    max: float = math.inf
    choices: tuple[str, ...] = ()
    resumable: bool = False
    host: bool = False
    eval_only: bool = False
    in_validation: bool = False
    from_checkpoint: bool = False


def option(
    default: T | None = None,
    *,
    factory: Callable[[], T] | None = None,
    min: float = -math.inf,
    max: float = math.inf,
    choices: tuple[str, ...] = (),
    resumable: bool = False,
    host: bool = False,
    eval_only: bool = False,
    in_validation: bool = False,
    from_checkpoint: bool = False,
) -> T:
    """Declare a configuration key with metadata, in place of `dataclasses.field`.

    A derived class that gives the key another default, `epochs: int = 440`, keeps the metadata.

    Args:
        default: The default value, where it is immutable.
        factory: Makes the default value, where it is a list or a group of keys.
        min: Least value of a number, or of each number in a list.
        max: Greatest value.
        choices: The strings that are allowed; none given: any.
        resumable: The key may change when a run is resumed, since it does not touch what is
            computed.
        host: The key belongs to a host (its paths, its processors): the hosts of one job may differ
            in it, and it may change when a run is resumed.
        eval_only: eval.py reads the key and transcribe.py does not.
        in_validation: validate.py may change the key beside a checkpoint.
        from_checkpoint: Evaluation takes the key from the checkpoint; it cannot be overridden.

    Returns:
        A `dataclasses.Field`, typed as its value.
    """
    metadata = {
        "option": Option(
            min, max, choices, resumable or host, host, eval_only, in_validation, from_checkpoint
        )
    }
    if factory is not None:
        return field(default_factory=factory, metadata=metadata)
    return typing.cast(T, field(default=default, metadata=metadata))


# ---- the groups


@dataclass
class TrainingConfig:
    """The course of a training run."""

    epochs: int = option(70, min=1, resumable=True)  # on resume not under a cosine schedule
    # Of weights, batch order, augmentation and dropout.
    seed: int = option(1, min=0, max=2**31 - 1)
    accumulation_step: int = option(1, min=1)  # batches whose gradients make one optimizer step
    # Utterances at once through the network; 0: as many as the memory allows.
    micro_batch: int = option(0, min=0)
    memory_gib: float = option(0.0, min=0)  # for training; 0: 80 % of the machine's or card's
    clip_norm: float = option(400.0, min=0)  # gradients are scaled down to this norm; 0: never
    # O0: float32; O2: products in float16; O3: float16 between the layers, too; BF16: products in
    # bfloat16, on Ascend 910B.
    precision: str = option("O0", choices=("O0", "O2", "O3", "BF16"))
    # Decay of a moving average of the weights, such as 0.999; 0: none.
    ema: float = option(0.0, min=0, max=0.9999999)
    # Steps between evaluations and checkpoints; 0: after each epoch.
    eval_every: int = option(0, min=0, resumable=True)
    # Evaluations without a better WER before training stops; 0: never.
    patience: int = option(0, min=0, resumable=True)
    freeze: list[str] = field(default_factory=list)  # beginnings of parameter names not trained
    # Steps in a row with a non-finite loss or gradient before training gives up.
    max_nonfinite: int = option(10, min=1, resumable=True)
    hypotheses: int = option(3, min=0, resumable=True)  # printed with their references


@dataclass
class SpectConfig:
    """The features; they travel with MindRecord files, checkpoints and exported files."""

    sample_rate: int = 16000  # Hz; recordings at another rate are resampled
    window_size: float = 0.02  # seconds
    window_stride: float = 0.01  # seconds: the hop length
    window: str = "hamming"  # hamming, hann (or hanning), blackman, bartlett
    features: str = "spectrogram"  # spectrogram (log1p magnitude, 161 bins) or logmel
    bands: int = 64  # mel bands of logmel
    # Details (common/audio/features.py): plain, or what networks that come from elsewhere were
    # trained on. Spectrogram: deepspeech.pytorch (releases 2.1 and 3), deepspeech.pytorch-2.0,
    # asrt; logmel: jasper-mindspore, jasper-nvidia, nemo.
    convention: str = "plain"
    preemphasis: float = 0.0  # times the previous sample, taken from each sample; Jasper: 0.97
    frame_splicing: int = 1  # number of successive frames stacked into one, at every frame
    trim_silence: bool = False  # cut ends that stay 60 dB below the loudest part
    # Mean and deviation are those of the whole utterance, or (sliding) of its last 10 seconds, with
    # which a stream gives what the whole recording gives (docs/streaming.md).
    normalisation: str = option("utterance", choices=("utterance", "sliding"))


@dataclass
class AugmentationConfig:
    """Random changes of the training recordings, drawn anew in each epoch."""

    speed_volume_perturb: bool = False  # another speed and gain for each utterance
    speed_min: float = 0.85  # slowest speed factor
    speed_max: float = 1.15  # fastest speed factor
    gain_min: float = -6.0  # dB
    gain_max: float = 8.0  # dB
    # In place of speed_min to speed_max: one of these factors, such as [0.9, 1, 1.1].
    speeds: list[float] = field(default_factory=list)
    dither: float = 0.0  # standard deviation of noise added to samples; Jasper: 1e-5
    spec_augment: bool = False  # mask bands and spans (Park et al. 2019, arXiv 1904.08779)
    freq_masks: int = 2  # number of masks over frequency
    freq_min: int = 0  # narrowest, in bins
    freq_width: int = 12  # widest, in bins
    time_masks: int = 2  # number of masks over time
    time_min: int = 0  # narrowest, in frames
    time_width: float = 0.125  # widest, as a share of the utterance, ...
    time_frames: int = 0  # ... or in frames; 0: the share
    cutout_masks: int = 0  # rectangles masked (DeVries & Taylor 2017, arXiv 1708.04552); 0: none
    cutout_freq_min: int = 20  # least height, in bins
    cutout_freq_max: int = 20  # greatest height
    cutout_time_min: int = 5  # least length, in frames
    cutout_time_max: int = 5  # greatest length
    from_epoch: int = 0  # first epoch (counted from 0) with augmentation
    noise_dir: str = ""  # folder of noise recordings; empty: no noise
    noise_prob: float = 0.4  # share of utterances that get noise
    noise_min: float = 0.0  # noise level: 0 none ...
    noise_max: float = 0.5  # ... 1 as loud as the speech


@dataclass
class DataConfig:
    """The recordings, their transcripts and features, and how they are batched."""

    # Manifests: a list of paths, or one path.
    train_manifest: list[str] = option(factory=list, host=True, in_validation=True)
    # []: no evaluation while training.
    val_manifest: list[str] = option(factory=list, host=True, in_validation=True)
    # What eval.py scores if it is told nothing else.
    test_manifest: list[str] = option(factory=list, host=True, in_validation=True)
    # Relative paths inside manifests start here; empty: see common/data/manifest.py.
    Data_dir: str = option("", host=True, in_validation=True)
    # english: numbers, "mr.", "&" as words; mandarin: common/text/mandarin.py; empty: as they are.
    normalize_transcripts: str = ""
    # JSON list of labels, blank "_".
    labels_path: str = option("labels.json", host=True, from_checkpoint=True)
    batch_size: int = option(20, min=1, in_validation=True)  # utterances
    # {split}: train or val; {}: the file's number.
    mindrecord_format: str = option("mindrecord/{split}/{split}{}.md", host=True)
    mindrecord_files: list[str] = field(default_factory=list)  # training files; []: every one
    shards: int = option(8, min=1, max=1000)  # MindRecord files of a split
    # audio: waveforms, for every augmentation; features: faster epochs.
    store: str = option("audio", choices=("audio", "features"))
    # Copies of a recording at other speeds, which Jasper's manifests list. True: left out. False:
    # converted too, and each epoch trains on one copy of each utterance, drawn anew.
    ignore_offline_speed_perturbation: bool = True
    # dynamic (for CPU and GPU), static (for Ascend), or auto: by the device.
    batch_shapes: str = option("auto", choices=("auto", "dynamic", "static"))
    # Number of (frames, labels) shapes when they are static, and one more for slower speeds.
    static_shapes: int = option(8, min=1)
    pad_align: int = option(1, min=1, max=4096)  # batches are padded to a multiple of these frames
    max_hours: float = option(0.0, min=0)  # train on a random part of this length; 0: on all
    max_utterances: int = option(0, min=0)  # ... or of this number of utterances; 0: on all
    # Seconds; recordings outside are left out.
    min_duration: float = option(0.1, min=0, in_validation=True)
    max_duration: float = option(35.0, min=0, in_validation=True)
    # Processes that convert (at most one for each 500 recordings), threads that load.
    workers: int = option(2, min=1, host=True, in_validation=True)
    SpectConfig: SpectConfig = option(factory=SpectConfig, from_checkpoint=True)
    AugmentationConfig: AugmentationConfig = field(default_factory=AugmentationConfig)


@dataclass
class OptimConfig:
    """The optimizer, its learning rate at each step, and the scale of the loss."""

    optimizer: str = option("Adam", choices=("Adam", "AdamW", "SGD", "NovoGrad", "LAMB"))
    learning_rate: float = option(3e-4, min=0, max=1e3)
    schedule: str = option("anneal", choices=("anneal", "cosine", "constant", "exponential"))
    learning_anneal: float = option(1.1, min=1)  # anneal: divides the rate after each epoch
    warmup_epochs: float = option(0.0, min=0)  # linear rise from 0; any schedule
    hold_epochs: float = option(140.0, min=0)  # exponential: epochs at learning_rate after warm-up
    learning_decay: float = option(0.981, min=0, max=1)  # exponential: then a factor per epoch ...
    min_learning_rate: float = option(1e-5, min=0, max=1e3)  # ... and the lowest rate
    # L2 in Adam and SGD, decoupled in AdamW, part of the normalised step in NovoGrad and LAMB;
    # never on norms and biases.
    weight_decay: float = option(1e-5, min=0, max=1e3)
    momentum: float = option(0.9, min=0, max=1)  # SGD
    eps: float = option(1e-8, min=1e-30, max=1)  # all but SGD
    # All but SGD; NovoGrad's paper has 0.95, 0.98.
    betas: tuple[float, float] = option((0.9, 0.999), min=0, max=0.9999999)
    # Keeps float16 gradients above 0; the gradients are divided by it before the update.
    loss_scale: float = option(1024.0, min=1e-3, max=2**40)
    dynamic_loss_scale: bool = False  # loss_scale is halved when gradients overflow, ...
    scale_window: int = option(2000, min=1)  # ... and doubled after this many steps without


@dataclass
class CheckpointConfig:
    """The checkpoints of a run."""

    ckpt_file_name_prefix: str = option("model", host=True)
    ckpt_path: str = option("./checkpoint", host=True)
    # Numbered checkpoints that are kept, beside `last` and `best`.
    keep_checkpoint_max: int = option(10, min=1, host=True)


@dataclass
class LMConfig:
    """The decoder.

    The score of a text in beam search is log p_ctc + alpha * log p_lm + beta * words, in natural
    logarithms.
    """

    decoder_type: str = option("greedy", resumable=True)  # greedy, or beam: for all keys below
    # Word n-gram language model, ARPA (also .gz, .bz2, .xz) or KenLM's binary; empty: none.
    lm_path: str = option("", host=True)
    alpha: float = option(1.818182, min=0, resumable=True)  # weight of the language model
    # For each word, where there is a language model; a larger beta gives more words.
    beta: float = option(0.0, resumable=True)
    # Added to log p_lm of a word that the language model lacks.
    unk_offset: float = option(-10.0, resumable=True)
    # Prefixes kept after each frame; 1024 takes 6 times as long.
    beam_width: int = option(100, min=1, resumable=True)
    # Labels considered in each frame: at most this number of the best, ...
    cutoff_top_n: int = option(40, min=1, resumable=True)
    # ... or until their probabilities add up to this.
    cutoff_prob: float = option(1.0, min=1e-6, max=1, resumable=True)
    # Texts for each utterance, best first; eval.py prints them when verbose, transcribe.py always.
    top_paths: int = option(1, min=1, resumable=True)
    # Words to expect: a text file, or the words, parted by commas or spaces; empty: none.
    hot_words: str = option("", host=True)
    # Added to the score of each hot word, in nats; a higher one finds more of them, and false ones.
    hot_word_boost: float = option(6.0, resumable=True)
    # The only words that may occur, besides hot words: a text file with a word at the beginning of
    # each line, or lm: those of the language model; empty: any.
    lexicon: str = option("", host=True)
    lm_workers: int = option(4, min=1, host=True)  # processes, once there is much to search


@dataclass
class EvalDataConfig:
    """The recordings that eval.py and transcribe.py read."""

    test_manifest: list[str] = option(factory=list, eval_only=True)  # []: what the checkpoint names
    # Empty: the checkpoint's, for the manifests that it names itself.
    Data_dir: str = option("", eval_only=True)
    batch_size: int = option(20, min=1)
    workers: int = option(2, min=1)  # threads that load


@dataclass
class EvalConfig:
    """What eval.py and transcribe.py may choose; the rest travels with the checkpoint."""

    # Folder for each utterance's log-probabilities; empty: they are not saved.
    save_output: str = option("", eval_only=True)
    # Print reference, hypothesis, WER and CER of each utterance.
    verbose: bool = option(True, eval_only=True)
    # HTML file with the figures, every utterance and its sound; empty: none.
    report: str = option("", eval_only=True)
    # Utterances of the report, the worst ones, that get sound and a spectrogram.
    report_utterances: int = option(100, min=0, eval_only=True)
    DataConfig: EvalDataConfig = field(default_factory=EvalDataConfig)
    LMConfig: LMConfig = field(default_factory=LMConfig)


@dataclass
class InferDataConfig:
    """The recordings that preprocess.py reads."""

    Data_dir: str = ""  # as in EvalDataConfig
    test_manifest: list[str] = field(default_factory=list)  # []: what the checkpoint names
    workers: int = option(2, min=1)  # processes, at most one for each 500 recordings


@dataclass
class InferConfig:
    """What preprocess.py and postprocess.py (before and after the C++ program) may choose."""

    # Utterances at once, where the exported file leaves it open.
    batch_size_infer: int = option(1, min=1)
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


# ---- keys and their metadata


def options(config: DataclassInstance) -> dict[str, Option]:
    """List the metadata of every key.

    Args:
        config: A configuration, or one group of it.

    Returns:
        Dotted key -> metadata; of a key without, all defaults.
    """
    by_key: dict[str, Option] = {}
    for entry in dataclasses.fields(config):
        value = getattr(config, entry.name)
        if _is_group(value):
            by_key |= {f"{entry.name}.{key}": known for key, known in options(value).items()}
        else:
            by_key[entry.name] = _option_of(type(config), entry.name)
    return by_key


def resumable_keys(config: DataclassInstance) -> set[str]:
    """List the dotted keys that may change between a run and its resumption."""
    return {key for key, known in options(config).items() if known.resumable}


def host_keys(config: DataclassInstance) -> set[str]:
    """List the dotted keys in which the hosts of one job may differ."""
    return {key for key, known in options(config).items() if known.host}


def eval_only_keys(config: DataclassInstance) -> set[str]:
    """List the dotted keys of an evaluation that transcribe.py does not read."""
    return {key for key, known in options(config).items() if known.eval_only}


def validation_keys(config: DataclassInstance) -> set[str]:
    """List the dotted keys that validate.py may change beside a checkpoint."""
    return {key for key, known in options(config).items() if known.in_validation}


def check(config: DataclassInstance, prefix: str = "") -> None:
    """Check every value against the bounds and choices of its key, and the rates of a schedule.

    A group that has a method `check`, for what its keys are together, is asked, too.

    Args:
        config: A configuration, or one group of it.
        prefix: What to put before the keys in messages, such as "ModelConfig.".

    Raises:
        UserError: The first value that is out of bounds, with its key.
    """
    values = leaves(config)
    normaliser(values.get("DataConfig.normalize_transcripts", ""), ())
    known = options(config)
    for key, value in values.items():
        if problem := _problem(value, known[key]):
            raise UserError(f"{prefix}{key}={value}: {problem}")
    groups = [config, *(getattr(config, entry.name) for entry in dataclasses.fields(config))]
    for group in groups:
        if _is_group(group) and hasattr(group, "check"):
            group.check()
    rate = values.get("OptimConfig.learning_rate", 0)
    least = values.get("OptimConfig.min_learning_rate", 0)
    if values.get("OptimConfig.schedule") == "exponential" and rate < least:
        raise UserError(
            f"OptimConfig.learning_rate={rate:g} is below min_learning_rate={least:g}, which would "
            "be used throughout: lower min_learning_rate, too"
        )


def _problem(value: Any, known: Option) -> str | None:
    """Return what is wrong with a value, None if nothing is."""
    if known.choices and value not in known.choices:
        return f"expected one of {', '.join(known.choices)}"
    for number in value if isinstance(value, (list, tuple)) else (value,):
        if isinstance(number, (int, float)) and not known.min <= number <= known.max:
            limits = [f"at least {known.min:g}"] if known.min > -math.inf else []
            limits += [f"at most {known.max:g}"] if known.max < math.inf else []
            return f"expected {', '.join(limits) or 'a number'}"
    return None


def _option_of(kind: type, name: str) -> Option:
    """Return the metadata of a field: its own, or the nearest base class's that gives it any."""
    for base in kind.__mro__:
        entry = vars(base).get("__dataclass_fields__", {}).get(name)
        if entry is not None and "option" in entry.metadata:
            return entry.metadata["option"]
    return Option()


def _is_group(value: object) -> bool:
    return dataclasses.is_dataclass(value) and not isinstance(value, type)


def leaves(config: DataclassInstance, prefix: str = "") -> dict[str, Any]:
    """List every key with its value: {"DataConfig.SpectConfig.window": "hamming", ...}.

    Args:
        config: A configuration, or one group of it.
        prefix: What to put before the keys, such as "ModelConfig.".

    Returns:
        Dotted key -> value. A list is one value, also a list of dataclasses.
    """
    values = {}
    for entry in dataclasses.fields(config):
        value = getattr(config, entry.name)
        if _is_group(value):
            values.update(leaves(value, f"{prefix}{entry.name}."))
        else:
            values[prefix + entry.name] = value
    return values


def to_dict(config: DataclassInstance) -> dict[str, Any]:
    """Convert to nested dictionaries and lists, as YAML and JSON write them."""
    return dataclasses.asdict(config)


# ---- overrides


def override(config: DataclassInstance, values: Mapping[str, Any], where: str) -> None:
    """Set keys of `config` in place.

    A key may have one of its other names (ALIASES), but not several that disagree; a value that is
    the model's default disagrees with none, since the model zoo's own configuration leaves it there
    under the name that its code does not read.

    Args:
        config: The configuration.
        values: Nested as the groups are, or with dotted keys.
        where: Where the values come from, for messages.

    Raises:
        UserError: An unknown key, a value of another type, or two names that disagree.
    """
    if not isinstance(values, Mapping):
        raise UserError(f"{where}: expected groups of keys, found {shown(values)}")
    seen: dict[str, tuple[str, Any]] = {}
    for key, given in _flat(config, values, where):
        name = _true_name(config, key)
        value = _converted(config, name, given, where)
        if name in seen and seen[name][1] != value:
            earlier, before = seen[name]
            default = leaves(type(config)())[name]
            if value == default:
                continue
            if before != default:
                raise UserError(
                    f"{where}: {earlier}={before} and {key}={value} are one key by two names: "
                    "keep one"
                )
        _set(config, name, value, where)
        seen[name] = key, value


def override_from_yaml(
    config: DataclassInstance,
    path: str | Path,
    translate: Callable[[dict], dict | None] = lambda values: None,
    stored: DataclassInstance | None = None,
) -> list[str] | None:
    """Set keys of `config` from a YAML file, in place.

    Args:
        config: The configuration.
        path: The file; an empty one changes nothing.
        translate: `Recipe.translate_yaml`, for the files of another project.
        stored: For the configuration of an evaluation: the model's default training configuration.
            Its keys may stand in the file with these values, as they do in the model zoo's.

    Returns:
        The labels of a translated file, which DataConfig.labels_path should hold, or None.

    Raises:
        UserError: The file cannot be read, is no YAML, or holds what `override` refuses.
    """
    where = f"configuration {path}"
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except OSError as error:
        raise UserError(f"{where}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{where}: not valid YAML ({error})") from error
    values = load_yaml(text, where)
    if values is None:  # empty, or nothing but comments
        return None
    if not isinstance(values, dict):
        raise UserError(f"{where}: expected groups of keys, found {shown(values)}")
    try:
        translated = translate(values)
    except UserError as error:
        raise UserError(f"{where}: {error}") from None
    labels = None
    if translated is not None:
        labels = translated.get("labels")
        values = {group: keys for group, keys in translated.items() if group != "labels"}
    if stored is not None:
        values = _without_stored(config, values, stored, where)
    override(config, values, where)
    return labels


def _without_stored(
    config: DataclassInstance, values: Mapping[str, Any], stored: DataclassInstance, where: str
) -> dict[str, Any]:
    """Leave out the keys of training that evaluation lacks, where they are at their defaults."""
    own, defaults = leaves(config), leaves(stored)
    kept: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping) and _is_group(_get(stored, name)):
            nested = {f"{name}.{key}": item for key, item in value.items()}
            kept |= _without_stored(config, nested, stored, where)
        elif name in own or name not in defaults:
            kept[name] = value
        elif _converted(stored, name, value, where) != defaults[name]:
            raise _unknown(config, name, where)
    return kept


def override_from_options(config: DataclassInstance, assignments: list[str]) -> None:
    """Set single keys in place: `DataConfig.batch_size=8`, `data.batch_size=8`, `batch_size=8`.

    Args:
        config: The configuration.
        assignments: What follows `--set`.

    Raises:
        UserError: An unknown or ambiguous key, or a value that does not fit.
    """
    for assignment in assignments:
        name, equals, text = assignment.partition("=")
        where = f"--set {assignment}"
        if not equals:
            raise UserError(f"{where}: expected KEY=VALUE, such as DataConfig.batch_size=8")
        key = _resolve(config, name.strip(), where)
        _set(config, key, _parse(text, _hint(config, key), where), where)


def _parse(text: str, hint: Any, where: str) -> Any:
    """Return the value that `text` means as YAML; for a key that holds text, `text` itself."""
    text = text.strip()
    if hint is str or not text or (hint == list[str] and not text.startswith("[")):
        return text
    return load_yaml(text, where)


def load_yaml(text: str, where: str) -> Any:
    """Parse YAML.

    Args:
        text: The text.
        where: The file, for messages.

    Returns:
        Its content.

    Raises:
        UserError: PyYAML cannot parse it.
    """
    try:
        return yaml.safe_load(text)
    except RecursionError:
        raise UserError(f"{where}: not valid YAML (nested too deeply)") from None
    except Exception as error:  # such as ValueError for 2020-13-45, KeyError for !!bool maybe
        problem = " ".join(str(error).split())
        raise UserError(f"{where}: not valid YAML ({problem})") from error


def _resolve(config: DataclassInstance, name: str, where: str) -> str:
    """Return the full dotted key that `name` means: groups may drop "Config", or be left out."""
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


def _true_name(config: DataclassInstance, key: str) -> str:
    """Return the key that `key` is another name of, or `key` itself."""
    if key not in ALIASES:
        return key
    known = leaves(config)
    return ALIASES[key] if key not in known and ALIASES[key] in known else key


def _short(key: str) -> str:
    return ".".join(part.removesuffix("Config").lower() for part in key.split("."))


def _unknown(config: DataclassInstance, name: str, where: str) -> UserError:
    """Build the error for an unknown key: suggests the closest, or lists those of its group."""
    first = _short(name).removeprefix("data.").split(".")[0]
    if isinstance(config, (EvalConfig, InferConfig)) and first in (*_from_checkpoint(), "model"):
        return UserError(
            f"{where}: {name}: for a checkpoint of the MindSpore model zoo, --train_config YAML "
            "sets features, labels and network; those of any other travel with the checkpoint, "
            "leave it out"
        )
    head, _, last = name.rpartition(".")
    keys = list(leaves(config))
    parents = {key.rpartition(".")[0] for key in keys} - {""}
    groups = sorted(parents | {parent.split(".")[0] for parent in parents})
    group = next((g for g in groups if head and f".{_short(g)}".endswith(f".{_short(head)}")), "")
    own = [key for key in keys if key.startswith(f"{group}.")] if group else keys
    for candidates in (own, [*keys, *groups]):
        if suggestion := closest(last, candidates):
            return UserError(f"{where}: unknown key {name}, did you mean {suggestion}?")
    names = ", ".join(dict.fromkeys(key.removeprefix(f"{group}.").split(".")[0] for key in own))
    return UserError(f"{where}: unknown key {name}; {group or 'the configuration'} has {names}")


def _from_checkpoint() -> set[str]:
    """Short names of the DataConfig keys and groups that evaluation takes from the checkpoint."""
    names = [entry.name for entry in dataclasses.fields(DataConfig)]
    return {_short(name) for name in names if _option_of(DataConfig, name).from_checkpoint}


def closest(name: str, keys: Iterable[str]) -> str | None:
    """Find the key whose last part is most like `name`.

    Args:
        name: A misspelt key.
        keys: Dotted keys to choose from.

    Returns:
        One of `keys`, None if none is similar.
    """
    by_leaf = {_short(key).split(".")[-1]: key for key in keys}
    close = difflib.get_close_matches(_short(name), list(by_leaf), n=1, cutoff=0.6)
    return by_leaf[close[0]] if close else None


def _flat(
    config: DataclassInstance, values: Mapping[str, Any], where: str, prefix: str = ""
) -> Iterator[tuple[str, Any]]:
    """(dotted key, value) of nested `values`, as deep as `config` has groups."""
    for name, value in values.items():
        key = f"{prefix}{name}"
        if _is_group(_get(config, key)):
            if not isinstance(value, dict):
                raise UserError(f"{where}: {key} is a group of keys, found {shown(value)}")
            yield from _flat(config, value, where, f"{key}.")
        else:
            yield key, value


def _get(config: DataclassInstance, key: str) -> Any:
    """Return the group or value of a dotted key, None where there is none."""
    value: Any = config
    for part in key.split("."):
        if not _is_group(value):
            return None
        value = getattr(value, part, None)
    return value


def _hint(config: DataclassInstance, key: str) -> Any:
    """Return the type of a dotted key's value."""
    group, _, name = key.rpartition(".")
    kind: Any = type(_get(config, group) if group else config)
    return _hints(kind)[name]


@functools.cache  # evaluating annotations takes a tenth of a second for all keys of a checkpoint
def _hints(kind: Any) -> dict[str, Any]:
    return typing.get_type_hints(kind)


def _set(config: DataclassInstance, key: str, value: Any, where: str) -> None:
    value = _converted(config, key, value, where)
    group, _, name = key.rpartition(".")
    setattr(_get(config, group) if group else config, name, value)


def _converted(config: DataclassInstance, key: str, value: Any, where: str) -> Any:
    """Return a value as the type of its key; UserError where there is no such key."""
    if key not in leaves(config):
        for group in itertools.accumulate(key.split(".")[:-1], "{}.{}".format):
            if group in leaves(config):
                raise UserError(f"{where}: {group} is a key, not a group of keys")
        raise _unknown(config, key, where)
    return _convert(value, _hint(config, key), f"{where}: {key}")


def _convert(value: Any, hint: Any, where: str) -> Any:
    """Convert a value to the type `hint`; UserError where it is of another."""
    origin = typing.get_origin(hint)
    if hint == list[str] and (value is None or isinstance(value, str)):
        return [value] if value else []
    if origin in (list, tuple):
        return origin(_convert_items(value, hint, where))
    if dataclasses.is_dataclass(hint):
        return _convert_group(value, typing.cast(type, hint), where)
    if hint is float and isinstance(value, (int, float)) and not isinstance(value, bool):
        with suppress(OverflowError):  # more than 1e308
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
    raise UserError(f"{where}: expected {hint.__name__}, found {shown(value)}")


def _convert_items(value: Any, hint: Any, where: str) -> list[Any]:
    """Return the items of a list, or of a tuple of fixed length, each as its type."""
    if not isinstance(value, (list, tuple)):
        raise UserError(f"{where}: expected a list such as [1, 2], found {shown(value)}")
    kinds = list(typing.get_args(hint))
    if typing.get_origin(hint) is list:
        kinds *= len(value)
    elif len(value) != len(kinds):
        raise UserError(f"{where}: expected {len(kinds)} values, found {len(value)}")
    return [
        _convert(item, kind, f"{where}[{number}]")
        for number, (item, kind) in enumerate(zip(value, kinds))
    ]


def _convert_group(value: Any, kind: type[DataclassInstance], where: str) -> DataclassInstance:
    """Build a dataclass of `kind` that is an item of a list, from a mapping."""
    if isinstance(value, kind):
        return dataclasses.replace(value)
    entries = {entry.name: entry for entry in dataclasses.fields(kind)}
    if not isinstance(value, dict):
        raise UserError(
            f"{where}: expected keys such as {next(iter(entries))}, found {shown(value)}"
        )
    for name in value:
        if name not in entries:
            suggestion = closest(str(name), entries)
            hint = (
                f", did you mean {suggestion}?"
                if suggestion
                else f"; there are {', '.join(entries)}"
            )
            raise UserError(f"{where}.{name}: unknown key {name}{hint}")
    for name, entry in entries.items():
        usual = (entry.default, entry.default_factory)
        if name not in value and usual == (dataclasses.MISSING, dataclasses.MISSING):
            raise UserError(f"{where}: no {name}")
    hints = typing.get_type_hints(kind)
    arguments = {
        name: _convert(item, hints[name], f"{where}.{name}") for name, item in value.items()
    }
    try:
        return kind(**arguments)
    except UserError as error:  # of its own checks
        raise UserError(f"{where}: {error}") from None
