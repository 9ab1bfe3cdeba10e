"""Configuration: overrides and their errors, and a proof for each key that it has an effect."""

from __future__ import annotations

import functools
import json
import logging
import os
from collections.abc import Callable
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, fields, is_dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile as sf
import yaml
from synthetic_corpus import LABELS, RATE, make_corpus, record, tiny
from synthetic_lm import write_arpa

from common import cli
from common import config as configs
from common.config import (
    DataConfig,
    EvalConfig,
    InferConfig,
    OptimConfig,
    check,
    leaves,
    option,
    override,
    override_from_options,
    override_from_yaml,
    to_dict,
)
from common.data import loader as dataset
from common.data.manifest import read_manifest
from common.data.manifest_writers import write_csv, write_jasper_json
from common.data.mindrecord import STORES, open_dataset
from common.data.splits import shard_files
from common.nn.precision import LEVELS
from common.nn.recurrent import Recurrent
from common.training.loss_scale import LossScale
from common.training.lr_schedules import make_schedule
from common.training.metrics_log import History
from common.training.optimizers import OPTIMIZERS
from common.utils.errors import UserError
from deepspeech2.src import config as deepspeech2_config
from deepspeech2.src.config import TrainConfig, eval_config, train_config
from deepspeech2.src.recipe import RECIPE
from jasper.src import config as jasper_config
from jasper.src.config import TrainConfig as JasperTrainConfig
from jasper.src.model import ACTIVATIONS, INITIAL

WITHOUT_KENLM = "pip install -r requirements-lm.txt"

# ---- overrides

ORIGINALS = (  # noqa: SIM905
    "epochs train_manifest val_manifest test_manifest batch_size labels_path sample_rate "
    "window_size window_stride window speed_volume_perturb spec_augment noise_dir noise_prob "
    "noise_min noise_max rnn_type hidden_size hidden_layers lookahead_context bidirectional "
    "learning_rate learning_anneal weight_decay momentum eps betas loss_scale "
    "ckpt_file_name_prefix ckpt_path keep_checkpoint_max mindrecord_format mindrecord_files "
    "save_output verbose decoder_type lm_path alpha beta beam_width cutoff_top_n cutoff_prob "
    "top_paths lm_workers"
).split()
GROUPS = [
    "TrainingConfig",
    "DataConfig",
    "ModelConfig",
    "OptimConfig",
    "CheckpointConfig",
    "LMConfig",
]


def test_every_key_of_the_original_projects_exists_under_its_name():
    keys = [*leaves(train_config), *leaves(eval_config)]
    assert set(ORIGINALS) <= {key.split(".")[-1] for key in keys}
    assert list(vars(train_config)) == GROUPS
    assert "DataConfig.SpectConfig.window" in keys
    assert "DataConfig.AugmentationConfig.noise_dir" in keys


@pytest.mark.parametrize("module", [deepspeech2_config, jasper_config])
def test_each_model_states_the_defaults_of_the_originals_keys_in_its_own_file(module):
    def stated(config: Any) -> set[str]:
        """Keys that the classes of the file itself declare."""
        keys = set()
        for entry in fields(config):
            value = getattr(config, entry.name)
            if is_dataclass(value):
                assert type(value).__module__ == module.__name__, entry.name
                keys |= stated(value)
            elif entry.name in type(config).__annotations__:
                keys.add(entry.name)
        return keys

    of_deepspeech2 = "rnn_type hidden_size hidden_layers lookahead_context bidirectional".split()
    expected = set(ORIGINALS) - (set() if module is deepspeech2_config else {*of_deepspeech2})
    if module is deepspeech2_config:  # Jasper's alone
        expected -= {"mindrecord_files"}
    assert expected <= stated(module.train_config) | stated(module.eval_config)


# The values of the model zoo's two configurations that need more than a look-up here.
ZOO_TRAINING = """
OptimConfig: {eps: 1e-8, loss_scale: 1024, epsilon: 0.00001}
TrainingConfig: {loss_scale: 128.0}
DataConfig: {labels_path: labels.json, accumulation_step: 2}
"""
ZOO_EVALUATION = """
verbose: True
DataConfig:
  batch_size: 20
  labels_path: labels.json
  SpectConfig: {sample_rate: 16000, window_size: 0.02, window_stride: 0.01, window: WINDOW}
ModelConfig: {rnn_type: LSTM, hidden_size: 1024, hidden_layers: 5, lookahead_context: 20}
LMConfig: {decoder_type: greedy, beta: 0, beam_width: 1024}
"""


def test_the_zoos_training_values_are_taken_as_its_code_reads_them(tmp_path):
    (tmp_path / "zoo.yaml").write_text(ZOO_TRAINING)
    config = TrainConfig()
    override_from_yaml(config, tmp_path / "zoo.yaml")
    assert (config.OptimConfig.eps, config.OptimConfig.loss_scale) == (1e-5, 128.0)
    assert config.TrainingConfig.accumulation_step == 2


def test_the_zoos_evaluation_values_are_taken_where_they_are_those_of_training(tmp_path):
    (tmp_path / "zoo.yaml").write_text(ZOO_EVALUATION.replace("WINDOW", "hamming"))
    config = RECIPE.eval_config()
    override_from_yaml(config, tmp_path / "zoo.yaml", stored=RECIPE.train_config())
    assert config.LMConfig.beam_width == 1024
    (tmp_path / "zoo.yaml").write_text(ZOO_EVALUATION.replace("WINDOW", "hanning"))
    with pytest.raises(UserError) as refused:
        override_from_yaml(config, tmp_path / "zoo.yaml", stored=RECIPE.train_config())
    assert "DataConfig.SpectConfig.window: for a checkpoint of the MindSpore model zoo, " in str(
        refused.value
    )
    assert "--train_config YAML sets features, labels and network" in str(refused.value)


def set_(*options: str, config: Any = None) -> dict[str, Any]:
    config = config or TrainConfig()
    override_from_options(config, list(options))
    return leaves(config)


@pytest.mark.parametrize(
    ("option", "key", "value"),
    [
        ("DataConfig.batch_size=8", "DataConfig.batch_size", 8),
        ("data.batch_size=8", "DataConfig.batch_size", 8),
        ("batch_size=8", "DataConfig.batch_size", 8),
        ("spect.window=hann", "DataConfig.SpectConfig.window", "hann"),
        ("learning_rate=1e-4", "OptimConfig.learning_rate", 1e-4),
        ("learning_rate=1", "OptimConfig.learning_rate", 1.0),
        ("betas=[0.8, 0.9]", "OptimConfig.betas", (0.8, 0.9)),
        ("freeze=[conv, RNN.lstms.0]", "TrainingConfig.freeze", ["conv", "RNN.lstms.0"]),
        ("conv_kernels=[[3, 5]]", "ModelConfig.conv_kernels", [[3, 5]]),
        ("bidirectional=false", "ModelConfig.bidirectional", False),
        ("val_manifest=", "DataConfig.val_manifest", []),
        ("val_manifest=[a.csv, b.csv]", "DataConfig.val_manifest", ["a.csv", "b.csv"]),
        ("freeze=conv", "TrainingConfig.freeze", ["conv"]),
        ("accumulation_step=2", "TrainingConfig.accumulation_step", 2),
        ("DataConfig.accumulation_step=2", "TrainingConfig.accumulation_step", 2),
        ("training.loss_scale=128", "OptimConfig.loss_scale", 128.0),
        ("loss_scale=128", "OptimConfig.loss_scale", 128.0),
        ("epsilon=1e-5", "OptimConfig.eps", 1e-5),
        ("noise_dir= ", "DataConfig.AugmentationConfig.noise_dir", ""),
        ("ckpt_file_name_prefix=007", "CheckpointConfig.ckpt_file_name_prefix", "007"),
        ("train_manifest=a: b@[c", "DataConfig.train_manifest", ["a: b@[c"]),
        ("mindrecord_format=m/{split}{}.md", "DataConfig.mindrecord_format", "m/{split}{}.md"),
    ],
)
def test_set_changes_one_key_and_converts_its_value(option, key, value):
    found = set_(option)
    assert found[key] == value and type(found[key]) is type(value)
    assert {name for name, other in leaves(TrainConfig()).items() if found[name] != other} <= {key}


@pytest.mark.parametrize(
    ("option", "message"),
    [
        (
            "batch_sise=8",
            r"--set batch_sise=8: unknown key batch_sise, did you mean "
            r"DataConfig\.batch_size\?",
        ),
        ("hiden_layers=3", r"did you mean ModelConfig\.hidden_layers\?"),
        ("data.spect.windw=hann", r"did you mean DataConfig\.SpectConfig\.window\?"),
        (
            "zzz=1",
            "unknown key zzz; the configuration has TrainingConfig, DataConfig, ModelConfig, ",
        ),
        ("optim.zzz=1", "unknown key optim.zzz; OptimConfig has optimizer, learning_rate, "),
        ("DataConf.batch_size=1", r"did you mean DataConfig\.batch_size\?"),
        ("batch_size", "expected KEY=VALUE"),
        ("batch_size=many", "DataConfig.batch_size: expected int, found 'many'"),
        ("batch_size=1.5", "expected int, found 1.5"),
        ("batch_size=true", "expected int, found True"),
        ("bidirectional=1", "expected bool, found 1"),
        ("learning_rate=fast", "expected float, found 'fast'"),
        ("betas=0.9", r"expected a list such as \[1, 2\], found 0.9"),
        ("betas=[0.9]", "expected 2 values, found 1"),
        ("conv_kernels=3", r"expected a list such as \[1, 2\], found 3"),
        ("freeze=[conv, 7]", r"TrainingConfig\.freeze\[1\]: expected str, found 7"),
        ("freeze=[conv", "not valid YAML"),
    ],
)
def test_a_wrong_set_option_gives_one_line_with_the_expected_form(option, message):
    with pytest.raises(UserError, match=message) as caught:
        set_(option)
    assert "\n" not in str(caught.value)


@dataclass
class Left:
    rate: int = 1


@dataclass
class Both:
    LeftConfig: Left = field(default_factory=Left)
    RightConfig: Left = field(default_factory=Left)


def test_an_ambiguous_key_lists_the_candidates():
    with pytest.raises(UserError, match="rate may be LeftConfig.rate or RightConfig.rate"):
        set_("rate=2", config=Both())
    assert set_("right.rate=2", config=Both()) == {"LeftConfig.rate": 1, "RightConfig.rate": 2}


def test_a_yaml_file_overrides_only_the_keys_that_it_holds(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(
        "\ufeffDataConfig:\n  batch_size: 3\n  SpectConfig: {window: blackman}\n"
        "  val_manifest:\nOptimConfig:\n  learning_rate: 1e-4\n  betas: [0.5, 0.6]\n",
        encoding="utf-8",
    )
    config = TrainConfig()
    override_from_yaml(config, path)
    changed = {
        key: value for key, value in leaves(config).items() if value != leaves(TrainConfig())[key]
    }
    assert changed == {
        "DataConfig.batch_size": 3,
        "DataConfig.SpectConfig.window": "blackman",
        "DataConfig.val_manifest": [],
        "OptimConfig.learning_rate": 1e-4,
        "OptimConfig.betas": (0.5, 0.6),
    }


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "DataConfig: {batchsize: 3}",
            r"unknown key DataConfig\.batchsize, did you mean "
            r"DataConfig\.batch_size",
        ),
        ("batch_size: 3", r"unknown key batch_size, did you mean DataConfig\.batch_size"),
        ("DataConfig: 3", "DataConfig is a group of keys, found 3"),
        ("DataConfig.batch_size.x: 3", r"DataConfig\.batch_size is a key, not a group"),
        ("DataConfig: {SpectConfig: {bands: x}}", r"DataConfig\.SpectConfig\.bands: expected int"),
        ("[1, 2]", "expected groups of keys"),
        ("a: [", "not valid YAML"),
    ],
)
def test_errors_in_a_yaml_file_name_the_file_and_the_key(tmp_path, text, message):
    path = tmp_path / "wrong.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match=message) as caught:
        override_from_yaml(TrainConfig(), path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_an_empty_yaml_file_changes_nothing(tmp_path):
    config, path = TrainConfig(), tmp_path / "empty.yaml"
    path.write_text("# nothing yet\n")
    override_from_yaml(config, path)
    assert config == TrainConfig()


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("epochs=0", r"TrainingConfig\.epochs=0: expected at least 1"),
        ("betas=[2, 0.9]", r"OptimConfig\.betas=\(2\.0, 0\.9\): expected at least 0, at most 1"),
        ("learning_rate=nan", r"OptimConfig\.learning_rate=nan: expected"),
        ("loss_scale=0", r"OptimConfig\.loss_scale=0\.0: expected at least"),
        ("workers=0", r"DataConfig\.workers=0: expected at least 1"),
        ("optimizer=adam", r"^OptimConfig\.optimizer=adam: expected one of Adam, AdamW, SGD, "),
        ("schedule=step", r"^OptimConfig\.schedule=step: expected one of anneal, cosine, "),
        ("precision=O1", r"^TrainingConfig\.precision=O1: expected one of O0, O2, O3, BF16$"),
        ("store=wav", r"^DataConfig\.store=wav: expected one of audio, features$"),
        ("batch_shapes=fixed", r"^DataConfig\.batch_shapes=fixed: expected one of auto, dynamic, "),
        ("rnn_type=lstm", r"^ModelConfig\.rnn_type=lstm: expected one of LSTM, GRU, RNN$"),
        (
            "normalize_transcripts=french",
            r"normalize_transcripts=french: expected english, mandarin or",
        ),
    ],
)
def test_values_out_of_bounds_are_refused_with_their_key(option, message):
    config = TrainConfig()
    override_from_options(config, [option])
    with pytest.raises(UserError, match=message):
        check(config)


def test_a_learning_rate_below_min_learning_rate_is_refused():
    config = TrainConfig()
    override_from_options(config, ["learning_rate=1e-6"])
    check(config)  # the schedule knows no least rate
    override_from_options(config, ["schedule=exponential"])
    with pytest.raises(UserError, match=r"learning_rate=1e-06 is below min_learning_rate=1e-05"):
        check(config)
    override_from_options(config, ["min_learning_rate=0"])
    check(config)


@pytest.mark.parametrize("kind", [TrainConfig, JasperTrainConfig, EvalConfig, InferConfig])
def test_default_configurations_pass_their_own_check(kind):
    check(kind())


@pytest.mark.parametrize(
    ("key", "choices"),
    [
        ("OptimConfig.optimizer", OPTIMIZERS),
        ("TrainingConfig.precision", LEVELS),
        ("DataConfig.store", STORES),
        ("ModelConfig.rnn_type", Recurrent.GATES),
    ],
)
def test_choices_of_a_key_are_those_that_the_code_implements(key, choices):
    assert set(configs.options(TrainConfig())[key].choices) == set(choices)


def test_choices_of_jasper_are_those_that_the_code_implements():
    known = configs.options(JasperTrainConfig())
    assert set(known["ModelConfig.activation"].choices) == set(ACTIVATIONS)
    assert set(known["ModelConfig.weight_init"].choices) == set(INITIAL)


@pytest.mark.parametrize("name", configs.options(TrainConfig())["OptimConfig.schedule"].choices)
def test_every_schedule_that_may_be_chosen_is_implemented(name):
    config = OptimConfig(schedule=name)
    assert make_schedule(config, epochs=3, steps_per_epoch=2).shape == (6,)


# ---- metadata of the keys

RESUMABLE = {
    "TrainingConfig.epochs",
    "TrainingConfig.eval_every",
    "TrainingConfig.patience",
    "TrainingConfig.max_nonfinite",
    "TrainingConfig.hypotheses",
    "DataConfig.train_manifest",
    "DataConfig.val_manifest",
    "DataConfig.test_manifest",
    "DataConfig.Data_dir",
    "DataConfig.labels_path",
    "DataConfig.mindrecord_format",
    "DataConfig.workers",
    "CheckpointConfig.ckpt_file_name_prefix",
    "CheckpointConfig.ckpt_path",
    "CheckpointConfig.keep_checkpoint_max",
    "LMConfig.decoder_type",
    "LMConfig.lm_path",
    "LMConfig.alpha",
    "LMConfig.beta",
    "LMConfig.unk_offset",
    "LMConfig.beam_width",
    "LMConfig.cutoff_top_n",
    "LMConfig.cutoff_prob",
    "LMConfig.top_paths",
    "LMConfig.hot_words",
    "LMConfig.hot_word_boost",
    "LMConfig.lexicon",
    "LMConfig.lm_workers",
}
OF_A_HOST = {
    "DataConfig.train_manifest",
    "DataConfig.val_manifest",
    "DataConfig.test_manifest",
    "DataConfig.Data_dir",
    "DataConfig.labels_path",
    "DataConfig.mindrecord_format",
    "DataConfig.workers",
    "CheckpointConfig.ckpt_file_name_prefix",
    "CheckpointConfig.ckpt_path",
    "CheckpointConfig.keep_checkpoint_max",
    "LMConfig.lm_path",
    "LMConfig.hot_words",
    "LMConfig.lexicon",
    "LMConfig.lm_workers",
}
IGNORED_BY_TRANSCRIBE = {
    "save_output",
    "verbose",
    "report",
    "report_utterances",
    "DataConfig.test_manifest",
    "DataConfig.Data_dir",
}


@pytest.mark.parametrize("kind", [TrainConfig, JasperTrainConfig])
def test_keys_that_may_change_on_resume_and_keys_of_a_host(kind):
    assert configs.resumable_keys(kind()) == RESUMABLE
    assert configs.host_keys(kind()) == OF_A_HOST
    names = "train_manifest val_manifest test_manifest Data_dir batch_size min_duration "
    names = (names + "max_duration workers").split()
    assert configs.validation_keys(kind()) == {f"DataConfig.{name}" for name in names}


def test_keys_of_evaluation_that_transcribe_ignores():
    assert configs.eval_only_keys(EvalConfig()) == IGNORED_BY_TRANSCRIBE


@dataclass
class ThirdNetwork:
    width: int = option(8, min=1, max=64)
    units: list[int] = option(factory=lambda: [3, 4], min=2)
    cell: str = option("lstm", choices=("lstm", "gru"))
    threads: int = option(4, min=1, host=True)
    beam: int = option(10, resumable=True)
    bias: bool = True


@dataclass
class ThirdData(DataConfig):
    workers: int = 3  # another default, the same metadata
    batch_size: int = option(4, min=4)  # its own metadata


@dataclass
class ThirdConfig:
    DataConfig: ThirdData = field(default_factory=ThirdData)
    ModelConfig: ThirdNetwork = field(default_factory=ThirdNetwork)


def test_a_further_model_declares_its_own_metadata_and_inherits_the_shared():
    config = ThirdConfig()
    check(config)
    shared_host_keys = {key for key in OF_A_HOST if key.startswith("DataConfig.")}
    assert configs.host_keys(config) == shared_host_keys | {"ModelConfig.threads"}
    assert configs.resumable_keys(config) == configs.host_keys(config) | {"ModelConfig.beam"}
    assert config.ModelConfig.units is not ThirdConfig().ModelConfig.units


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("width=65", "ModelConfig.width=65: expected at least 1, at most 64"),
        ("units=[2, 1]", "ModelConfig.units=[2, 1]: expected at least 2"),
        ("cell=LSTM", "ModelConfig.cell=LSTM: expected one of lstm, gru"),
        ("DataConfig.workers=0", "DataConfig.workers=0: expected at least 1"),
        ("DataConfig.batch_size=3", "DataConfig.batch_size=3: expected at least 4"),
    ],
)
def test_the_bounds_of_a_further_model_are_checked(option, message):
    config = ThirdConfig()
    override_from_options(config, [option])
    with pytest.raises(UserError) as refused:
        check(config)
    assert str(refused.value) == message


@pytest.mark.parametrize("kind", [EvalConfig, InferConfig])
@pytest.mark.parametrize(
    "values", [{"labels_path": "l.json"}, {"SpectConfig": {"window": "hanning"}}]
)
def test_evaluation_refuses_keys_that_travel_with_the_checkpoint(kind, values):
    with pytest.raises(UserError, match="travel with the checkpoint, leave it out$"):
        override(kind(), {"DataConfig": values}, "mine.yaml")
    with pytest.raises(UserError, match="travel with the checkpoint, leave it out$"):
        override_from_options(kind(), [f"{next(iter(values))}=x"])


def test_the_original_inference_configuration_is_accepted():
    config = InferConfig()
    given = {
        "DataConfig": {"Data_dir": "/data", "test_manifest": ["a.json", "b.json"]},
        "LMConfig": {"decoder_type": "greedy", "lm_path": "./3-gram.arpa", "beam_width": 1024},
        "batch_size_infer": 1,
        "result_path": "./preprocess_Result",
        "result_dir": "./result_Files",
        "post_out": "./infer_output.txt",
    }
    assert {key: value for key, value in vars(config).items() if "Config" not in key} == {
        key: value for key, value in given.items() if "Config" not in key
    }
    override(config, given, "the original")
    assert config.DataConfig.test_manifest == ["a.json", "b.json"]
    assert to_dict(RECIPE.infer_config()) == to_dict(InferConfig())


def test_a_key_given_by_two_names_must_have_one_value():
    config = TrainConfig()
    given = {"OptimConfig": {"eps": 1e-6, "epsilon": 1e-5}}
    with pytest.raises(UserError) as refused:
        override(config, given, "mine.yaml")
    assert str(refused.value) == (
        "mine.yaml: OptimConfig.eps=1e-06 and OptimConfig.epsilon=1e-05 are one key by two names: "
        "keep one"
    )
    override(config, {"OptimConfig": {"eps": 1e-5, "epsilon": 1e-5}}, "mine.yaml")
    assert config.OptimConfig.eps == 1e-5
    assert set(configs.ALIASES.values()) <= leaves(config).keys()


@dataclass
class Layer:
    width: int
    dropout: float = 0.0
    strides: list[int] = field(default_factory=lambda: [1])

    def __post_init__(self) -> None:
        if self.width < 1:
            raise UserError(f"width {self.width}: expected at least 1")


@dataclass
class Layered:
    layers: list[Layer] = field(default_factory=list)


@dataclass
class WithLayers:
    ModelConfig: Layered = field(default_factory=Layered)


def layered(text: str) -> WithLayers:
    config = WithLayers()
    override(config, {"ModelConfig": yaml.safe_load(text)}, "mine.yaml")
    return config


def test_a_list_of_mappings_becomes_a_list_of_dataclasses():
    config = layered("layers: [&a {width: 3, dropout: 1}, *a, {<<: *a, strides: [2, 1]}]")
    wide = Layer(3, 1.0)
    assert config.ModelConfig.layers == [wide, wide, Layer(3, 1.0, [2, 1])]
    assert config.ModelConfig.layers[0] is not config.ModelConfig.layers[1]
    assert leaves(config) == {"ModelConfig.layers": config.ModelConfig.layers}
    again = WithLayers()
    override(again, json.loads(json.dumps(configs.to_dict(config))), "checkpoint")
    assert again == config
    override_from_options(again, ["layers=[{width: 7}]"])
    assert again.ModelConfig.layers == [Layer(7)]
    override(again, {"ModelConfig": {"layers": config.ModelConfig.layers}}, "another")
    assert again == config and again.ModelConfig.layers[0] is not config.ModelConfig.layers[0]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "layers: [{width: 1}, {width: 1, droput: 2}]",
            "ModelConfig.layers[1].droput: unknown key droput, did you mean dropout?",
        ),
        (
            "layers: [{zzz: 1}]",
            "ModelConfig.layers[0].zzz: unknown key zzz; there are width, dropout, strides",
        ),
        ("layers: [{dropout: 1}]", "ModelConfig.layers[0]: no width"),
        ("layers: [{width: a}]", "ModelConfig.layers[0].width: expected int, found 'a'"),
        (
            "layers: [{width: 1, strides: [1, b]}]",
            "ModelConfig.layers[0].strides[1]: expected int, found 'b'",
        ),
        ("layers: [{width: 0}]", "ModelConfig.layers[0]: width 0: expected at least 1"),
        ("layers: [3]", "ModelConfig.layers[0]: expected keys such as width, found 3"),
        ("layers: 3", "ModelConfig.layers: expected a list such as [1, 2], found 3"),
    ],
)
def test_errors_in_a_list_of_mappings_name_the_item(text, message):
    with pytest.raises(UserError) as refused:
        layered(text)
    assert str(refused.value) == f"mine.yaml: {message}"


def test_a_foreign_yaml_file_is_translated(tmp_path):
    path = tmp_path / "foreign.yaml"
    path.write_text("alphabet: [x]\nloops: 3\n")

    def translate(values: dict) -> dict | None:
        if "loops" not in values:
            return None
        if values["loops"] < 1:
            raise UserError("loops: expected at least 1")
        return {"labels": values["alphabet"], "TrainingConfig": {"epochs": values["loops"]}}

    config = TrainConfig()
    assert override_from_yaml(config, path, translate) == ["x"]
    assert config.TrainingConfig.epochs == 3
    path.write_text("loops: 0")
    with pytest.raises(UserError) as refused:
        override_from_yaml(config, path, translate)
    assert str(refused.value) == f"configuration {path}: loops: expected at least 1"
    path.write_text("TrainingConfig: {epochs: 5}")
    assert override_from_yaml(config, path, translate) is None
    assert config.TrainingConfig.epochs == 5


def test_a_missing_yaml_file_is_an_error_with_its_name(tmp_path):
    with pytest.raises(UserError, match=r"none\.yaml: No such file"):
        override_from_yaml(TrainConfig(), tmp_path / "none.yaml")


def test_a_configuration_is_unchanged_after_json():
    config = TrainConfig()
    override_from_options(config, ["betas=[0.1, 0.2]", "conv_strides=[[1, 2], [3, 4]]"])
    again = TrainConfig()
    override(again, json.loads(json.dumps(configs.to_dict(config))), "checkpoint")
    assert leaves(again) == leaves(config)


def test_two_configurations_share_no_mutable_values():
    first, second = TrainConfig(), TrainConfig()
    first.DataConfig.SpectConfig.window = "hann"
    first.TrainingConfig.freeze.append("conv")
    assert leaves(second) == leaves(TrainConfig()) == leaves(train_config)


# ---- every key has an effect: how a change is observed


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Path:
    folder = make_corpus(tmp_path_factory.mktemp("corpus"), train=7, val=3, test=3)
    record(folder, "other", 4, seed=9)
    (folder / "far" / "train").mkdir(parents=True)
    relative, punctuated = [], []
    for number, utterance in enumerate(read_manifest(folder / "train.csv")[:4]):
        name = f"train/train{number}.wav"
        (folder / "far" / name).write_bytes((folder / f"other/other{number}.wav").read_bytes())
        relative.append(f"{name},{utterance.text}\n")
        punctuated.append(f"{name},{utterance.text}{'.' * (number > 1)}\n")
    (folder / "relative.csv").write_text("".join(relative))
    (folder / "punctuated.csv").write_text("".join(punctuated))
    (folder / "reordered.json").write_text(json.dumps(LABELS[::-1]))
    write_arpa(folder / "words.arpa")
    (folder / "lexicon.txt").write_text("AB\nDBA\n")
    (folder / "noise").mkdir()
    hum = np.random.default_rng(0).uniform(-0.3, 0.3, RATE)
    sf.write(folder / "noise" / "hum.wav", hum, RATE)
    utterances = read_manifest(folder / "other.csv")
    copies = [
        replace(u, id=f"{u.id}-0.9", audio=v.audio, speed=0.9, copy_of=u.id)
        for u, v in zip(utterances, utterances[1:])
    ]
    write_jasper_json([*utterances, *copies], folder / "speeds.json")
    (folder / "quiet").mkdir()
    for number, utterance in enumerate(utterances):
        path = folder / "quiet" / utterance.audio.name
        sf.write(path, np.pad(sf.read(utterance.audio)[0], 4000), RATE)
        utterances[number] = replace(utterance, audio=path)
    write_csv(utterances, folder / "quiet.csv")
    return folder


@contextmanager
def patched(replacements: dict[str, Any]):
    """Replace attributes of modules of `common` for a while, {"data.loader.batches": ...}."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in replacements.items():
            patch.setattr(f"common.{name}", value)
        yield


class Pools(list):
    """Notes the sizes of the thread pools that batches are made in."""

    def __call__(self, size: int, **arguments: Any):
        self.append(size)
        return functools.partial(_ThreadPool, **arguments)(size)


_ThreadPool = dataset.ThreadPoolExecutor


class Processes(list):
    """Notes the numbers of decoding processes, and has threads do their work."""

    def __call__(self, size: int, start: Callable, *arguments: Any):
        self.append(size)
        return _ThreadPool(size, initializer=start, initargs=arguments)


class FakeForward:
    """In the network's place: log-probabilities that are always the same few words."""

    def __init__(self, speech_model: Any):
        self.speech_model = speech_model
        self.rows: list[int] = []

    def __call__(self, features: np.ndarray, lengths: np.ndarray):
        frames = self.speech_model.output_frames(lengths)
        log_probs = np.full((int(frames.max()), len(lengths), len(LABELS)), -9.0, np.float32)
        for frame in range(len(log_probs)):
            log_probs[frame, :, frame % 3] = -0.1
        FakeForward.seen.append(features.shape)
        return log_probs, frames

    seen: list[tuple[int, ...]] = []


def train(config: Any, folder: Path, finite: bool = True) -> dict[str, Any]:
    """A run of training with everything in it but the network, which gives nothing to learn.

    What can be seen of it: the steps with their batches and rates, lines, files, the error.
    """
    from common.data.splits import convert_split, shard_files
    from common.training import trainer as training
    from common.training.train_step import StepResult

    seen: dict[str, Any] = {"features": [], "targets": [], "ids": [], "rates": [], "error": ""}

    class FakeStep:
        def __init__(self, speech_model, forecast, ranks):
            seen["initial"] = next(iter(speech_model.network.get_parameters())).asnumpy().tolist()
            self.forecast, self.scaling = forecast, LossScale(1.0)
            self.state, self.result = dict, speech_model.network.parameters_dict
            self.result_in_place = nullcontext

        def __call__(self, group, rate, number, total):
            seen["features"].append([batch.features.astype(float).tolist() for batch in group])
            seen["targets"].append([batch.targets.tolist() for batch in group])
            seen["ids"].append([batch.ids for batch in group])
            seen["rates"].append(rate)
            return StepResult(1.0 if finite else np.nan, 1.0, finite, list(group[0].ids))

    log = logging.getLogger("seen")
    log.propagate, log.handlers = False, [logging.Handler()]
    log.setLevel(logging.INFO)
    lines: list[str] = []
    log.handlers[0].emit = lambda entry: lines.append(entry.getMessage())
    pools = Pools()
    before = os.getcwd()
    os.chdir(folder)
    try:
        with patched(
            {
                "training.trainer.TrainStep": FakeStep,
                "model.speech_model.Forward": FakeForward,
                "data.loader.ThreadPoolExecutor": pools,
            }
        ):
            for split in ("train", "val"):
                if getattr(config.DataConfig, f"{split}_manifest"):
                    convert_split(RECIPE, config, split, log=lambda line: None)
            folder_of_records, _ = shard_files(config.DataConfig, "train")
            row = next(iter(open_dataset(folder_of_records).read([0])))
            seen["stored"] = "features" if row.audio is None else "audio"
            result = training.train(RECIPE, config, device="CPU", log=log)
            seen["error"] = result.stop.message
    except UserError as error:
        seen["error"] = str(error)
    finally:
        os.chdir(before)
    seen["lines"] = [line for line in lines if not line.startswith(("epoch", "trained", "figures"))]
    seen["files"] = sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))
    seen["pools"] = pools
    metrics = folder / "metrics.csv"
    seen["evaluations"] = len(metrics.read_text().splitlines()) - 1 if metrics.exists() else 0
    return seen


def train_spelling(config: Any, folder: Path) -> dict[str, Any]:
    """The same, with every answer taken for one of a network that spells."""
    with patched({"training.progress.SPELLS_BELOW_CER": np.inf}):
        return train(config, folder)


def train_on_nan(config: Any, folder: Path) -> dict[str, Any]:
    return train(config, folder, finite=False)


@contextmanager
def without_compiling():
    import mindspore as ms

    ms.set_context(mode=ms.PYNATIVE_MODE)
    try:
        yield
    finally:
        ms.set_context(mode=ms.GRAPH_MODE)


def build(config: Any, folder: Path) -> dict[str, Any]:
    """The network in training: its parameters, and what it makes of some features."""
    import mindspore as ms

    from common.model.speech_model import SpeechModel
    from common.text.tokenizer import CharacterTokenizer

    with without_compiling():
        speech_model = SpeechModel.create(RECIPE, config, CharacterTokenizer(tuple(LABELS)), "CPU")
        features = np.random.default_rng(1).normal(size=(2, speech_model.featurizer.dimension, 12))
        speech_model.network.set_train()
        output, _ = speech_model.network(
            ms.Tensor(features.astype(np.float32)), ms.Tensor([12, 9], ms.int32)
        )
        shapes = {p.name: p.shape for p in speech_model.network.get_parameters()}
        return {"output": output.asnumpy().tolist(), "shapes": shapes}


def step(config: Any, folder: Path) -> dict[str, Any]:
    """Two real training steps: the weights and the optimizer's state, the network's batch sizes."""
    from common.data.loader import Batch
    from common.memory import forecast_memory
    from common.model.speech_model import SpeechModel
    from common.text.tokenizer import CharacterTokenizer
    from common.training.train_step import TrainStep

    rng = np.random.default_rng(2)
    lengths = np.array([16, 14, 12], np.int32)
    with without_compiling():
        speech_model = SpeechModel.create(RECIPE, config, CharacterTokenizer(tuple(LABELS)), "CPU")
        batch = Batch(
            rng.normal(size=(3, speech_model.featurizer.dimension, 16)).astype(np.float32),
            lengths,
            np.array([[0, 1], [2, 3], [1, 0]], np.int32),
            np.array([2, 2, 2], np.int32),
            (0, 1, 2),
            ("a", "b", "c"),
            3,
            1.0,
        )
        train_step = TrainStep(speech_model, forecast_memory(speech_model))
        rows = []
        gradients = train_step.gradients
        train_step.gradients = lambda *inputs: rows.append(len(inputs[0])) or gradients(*inputs)
        train_step.gradients.set_train = gradients.set_train
        results = [train_step([batch], config.OptimConfig.learning_rate, n) for n in range(2)]
        weights = {
            p.name: p.asnumpy().tolist()
            for p in speech_model.network.get_parameters()
            if "moving" not in p.name
        }
        return {
            "weights": weights,
            "state": sorted(train_step.state()),
            "rows": rows,
            "applied": [result.applied for result in results],
            "scales": [result.scale for result in results],
        }


def decode(config: Any, folder: Path) -> dict[str, Any]:
    """What the decoder of a training run makes of some log-probabilities."""
    from common.decoding.decoders import make_decoder
    from common.text.tokenizer import CharacterTokenizer

    rng = np.random.default_rng(0)
    log_probs = np.log(rng.dirichlet(np.ones(len(LABELS)), size=(12, 3)))
    processes = Processes()
    with patched(
        {
            "decoding.decoders.worker_pool": processes,
            "decoding.decoders.MIN_SECONDS_FOR_PROCESSES": 0.0,
        }
    ):
        decoder = make_decoder(config.LMConfig, CharacterTokenizer(tuple(LABELS)))
        found = decoder.hypotheses(log_probs, np.array([12, 12, 9]))
    return {"hypotheses": [list(map(tuple, each)) for each in found], "processes": processes}


def score(config: Any, folder: Path, eval_options: list[str] = ()) -> dict[str, Any]:
    """eval.py on a checkpoint of an untrained network."""
    import io
    from contextlib import redirect_stdout

    from common.model import checkpoint
    from common.model.speech_model import SpeechModel
    from common.text.tokenizer import CharacterTokenizer

    speech_model = SpeechModel.create(RECIPE, config, CharacterTokenizer(tuple(LABELS)), "CPU")
    path = folder / "untrained.ckpt"
    checkpoint.save(path, speech_model.network.parameters_dict(), speech_model.metadata())
    FakeForward.seen = []
    pools, processes, printed, error = Pools(), Processes(), io.StringIO(), ""
    before = os.getcwd()
    os.chdir(folder)
    try:
        with (
            patched(
                {
                    "model.speech_model.Forward": FakeForward,
                    "data.loader.ThreadPoolExecutor": pools,
                    "decoding.decoders.worker_pool": processes,
                    "decoding.decoders.MIN_SECONDS_FOR_PROCESSES": 0.0,
                }
            ),
            redirect_stdout(printed),
        ):
            arguments = ["--set", *eval_options] if eval_options else []
            cli.evaluate(RECIPE, ["--pretrain_ckpt", str(path), *arguments])
    except UserError as caught:
        error = str(caught)
    finally:
        os.chdir(before)
    return {
        "lines": printed.getvalue().splitlines()[1:],
        "files": sorted(str(path.relative_to(folder)) for path in folder.rglob("*")),
        "shapes": FakeForward.seen,
        "pools": pools,
        "processes": processes,
        "players": [path.read_text().count("<audio") for path in folder.glob("*.html")],
        "error": error,
    }


@dataclass(frozen=True)
class Effect:
    """Changing a key to `value` changes what `probe` sees under `where`, all else being equal."""

    value: Any
    probe: Callable[..., dict[str, Any]]
    where: str
    given: dict[str, Any] = field(default_factory=dict)  # other keys that the key needs


SPEED = {"DataConfig.AugmentationConfig.speed_volume_perturb": True}
MASKS = {"DataConfig.AugmentationConfig.spec_augment": True}
CUTOUT = {
    "DataConfig.AugmentationConfig.cutout_masks": 3,
    "DataConfig.AugmentationConfig.cutout_freq_min": 3,
    "DataConfig.AugmentationConfig.cutout_freq_max": 4,
}
VERSIONS = {"DataConfig.train_manifest": "{corpus}/speeds.json"}
QUIET = {"DataConfig.train_manifest": "{corpus}/quiet.csv"}
SPECTROGRAM = {"DataConfig.SpectConfig.features": "spectrogram"}
NOISE = {
    "DataConfig.AugmentationConfig.noise_dir": "{corpus}/noise",
    "DataConfig.AugmentationConfig.noise_prob": 1.0,
}
LOUDNESS = {"DataConfig.SpectConfig.features": "spectrogram"}  # log-mel is normalised: no trace
FORWARD_ONLY = {"ModelConfig.bidirectional": False}
SGD = {"OptimConfig.optimizer": "SGD"}
LARGE_STEPS = SGD | {"OptimConfig.learning_rate": 1.0}
ANNEAL = {"OptimConfig.schedule": "anneal"}
HELD = {"OptimConfig.schedule": "exponential", "OptimConfig.hold_epochs": 0.0}
FALLING = {"OptimConfig.learning_decay": 0.5}
DYNAMIC = {"OptimConfig.dynamic_loss_scale": True}
STATIC = {"DataConfig.batch_shapes": "static"}
BEAM = {"LMConfig.decoder_type": "beam"}
WORDS = BEAM | {"LMConfig.lm_path": "{corpus}/words.arpa"}
RELATIVE = {"DataConfig.train_manifest": "{corpus}/relative.csv"}
PUNCTUATED = {"DataConfig.train_manifest": "{corpus}/punctuated.csv"}
AUGMENTATION, SPECT = "DataConfig.AugmentationConfig.", "DataConfig.SpectConfig."

EFFECTS = {
    "TrainingConfig.epochs": Effect(1, train, "rates"),
    "TrainingConfig.seed": Effect(2, train, "initial"),
    "TrainingConfig.accumulation_step": Effect(2, train, "ids"),
    "TrainingConfig.micro_batch": Effect(1, step, "rows"),
    "TrainingConfig.memory_gib": Effect(0.5, step, "rows"),
    "TrainingConfig.clip_norm": Effect(0.01, step, "weights", SGD),
    "TrainingConfig.precision": Effect("O2", step, "weights", LARGE_STEPS),
    "TrainingConfig.ema": Effect(0.9, step, "state"),
    "TrainingConfig.eval_every": Effect(1, train, "evaluations"),
    "TrainingConfig.patience": Effect(1, train_spelling, "rates", {"TrainingConfig.epochs": 4}),
    "TrainingConfig.freeze": Effect(["fc"], step, "weights"),
    "TrainingConfig.max_nonfinite": Effect(2, train_on_nan, "rates"),
    "TrainingConfig.hypotheses": Effect(1, train, "lines"),
    "DataConfig.train_manifest": Effect("{corpus}/other.csv", train, "ids"),
    "DataConfig.val_manifest": Effect("", train, "lines"),
    "DataConfig.test_manifest": Effect("{corpus}/other.csv", score, "lines"),
    "DataConfig.Data_dir": Effect("{corpus}/far", train, "features", RELATIVE),
    "DataConfig.normalize_transcripts": Effect("english", train, "ids", PUNCTUATED),
    "DataConfig.labels_path": Effect("{corpus}/reordered.json", train, "targets"),
    "DataConfig.batch_size": Effect(2, train, "ids"),
    "DataConfig.mindrecord_format": Effect("m/{split}/ds2_{}.md", train, "files"),
    "DataConfig.mindrecord_files": Effect(["tones1.md"], train, "ids"),
    "DataConfig.shards": Effect(1, train, "files"),
    "DataConfig.store": Effect("features", train, "stored"),
    "DataConfig.batch_shapes": Effect("static", train, "features"),
    "DataConfig.static_shapes": Effect(1, train, "features", STATIC),
    "DataConfig.pad_align": Effect(16, train, "features"),
    "DataConfig.ignore_offline_speed_perturbation": Effect(False, train, "ids", VERSIONS),
    "DataConfig.max_hours": Effect(4 / 3600, train, "ids"),
    "DataConfig.max_utterances": Effect(3, train, "ids"),
    "DataConfig.min_duration": Effect(0.6, train, "ids"),
    "DataConfig.max_duration": Effect(1.0, train, "ids"),
    "DataConfig.workers": Effect(3, train, "pools"),
    SPECT + "sample_rate": Effect(16000, train, "features"),
    SPECT + "window_size": Effect(0.03, train, "features"),
    SPECT + "window_stride": Effect(0.02, train, "features"),
    SPECT + "window": Effect("blackman", train, "features"),
    SPECT + "features": Effect("spectrogram", train, "features"),
    SPECT + "bands": Effect(20, train, "features"),
    SPECT + "convention": Effect("deepspeech.pytorch", train, "features", SPECTROGRAM),
    SPECT + "preemphasis": Effect(0.97, train, "features"),
    SPECT + "frame_splicing": Effect(2, train, "features"),
    SPECT + "trim_silence": Effect(True, train, "features", QUIET),
    SPECT + "normalisation": Effect("sliding", train, "features"),
    AUGMENTATION + "speed_volume_perturb": Effect(True, train, "features"),
    AUGMENTATION + "speed_min": Effect(0.95, train, "features", SPEED),
    AUGMENTATION + "speed_max": Effect(1.05, train, "features", SPEED),
    AUGMENTATION + "gain_min": Effect(8.0, train, "features", SPEED | LOUDNESS),
    AUGMENTATION + "gain_max": Effect(-6.0, train, "features", SPEED | LOUDNESS),
    AUGMENTATION + "speeds": Effect([0.9, 1.1], train, "features"),
    AUGMENTATION + "dither": Effect(0.01, train, "features"),
    AUGMENTATION + "spec_augment": Effect(True, train, "features"),
    AUGMENTATION + "freq_masks": Effect(0, train, "features", MASKS),
    AUGMENTATION + "freq_min": Effect(12, train, "features", MASKS),
    AUGMENTATION + "freq_width": Effect(2, train, "features", MASKS),
    AUGMENTATION + "time_masks": Effect(0, train, "features", MASKS),
    AUGMENTATION + "time_min": Effect(20, train, "features", MASKS),
    AUGMENTATION + "time_width": Effect(0.5, train, "features", MASKS),
    AUGMENTATION + "time_frames": Effect(40, train, "features", MASKS),
    AUGMENTATION + "cutout_masks": Effect(2, train, "features"),
    AUGMENTATION + "cutout_freq_min": Effect(1, train, "features", CUTOUT),
    AUGMENTATION + "cutout_freq_max": Effect(8, train, "features", CUTOUT),
    AUGMENTATION + "cutout_time_min": Effect(1, train, "features", CUTOUT),
    AUGMENTATION + "cutout_time_max": Effect(30, train, "features", CUTOUT),
    AUGMENTATION + "from_epoch": Effect(1, train, "features", MASKS),
    AUGMENTATION + "noise_dir": Effect("{corpus}/noise", train, "features"),
    AUGMENTATION + "noise_prob": Effect(0.0, train, "features", NOISE),
    AUGMENTATION + "noise_min": Effect(0.4, train, "features", NOISE),
    AUGMENTATION + "noise_max": Effect(0.1, train, "features", NOISE),
    "ModelConfig.rnn_type": Effect("GRU", build, "output"),
    "ModelConfig.hidden_size": Effect(5, build, "shapes"),
    "ModelConfig.hidden_layers": Effect(1, build, "shapes"),
    "ModelConfig.lookahead_context": Effect(2, build, "shapes", FORWARD_ONLY),
    "ModelConfig.bidirectional": Effect(False, build, "shapes"),
    "ModelConfig.norm": Effect("batch", build, "output"),
    "ModelConfig.dropout": Effect(0.5, build, "output"),
    "ModelConfig.activation": Effect("tanh", build, "output"),
    "ModelConfig.conv_bias": Effect(True, build, "shapes"),
    "ModelConfig.conv_channels": Effect(3, build, "shapes"),
    "ModelConfig.conv_kernels": Effect([[3, 7]], build, "shapes"),
    "ModelConfig.conv_strides": Effect([[2, 1]], build, "output"),
    "OptimConfig.optimizer": Effect("SGD", step, "state"),
    "OptimConfig.learning_rate": Effect(0.02, train, "rates"),
    "OptimConfig.schedule": Effect("cosine", train, "rates"),
    "OptimConfig.learning_anneal": Effect(2.0, train, "rates", ANNEAL),
    "OptimConfig.warmup_epochs": Effect(2.0, train, "rates"),
    "OptimConfig.hold_epochs": Effect(1.0, train, "rates", HELD),
    "OptimConfig.learning_decay": Effect(0.5, train, "rates", HELD),
    "OptimConfig.min_learning_rate": Effect(0.009, train, "rates", HELD | FALLING),
    "OptimConfig.weight_decay": Effect(0.5, step, "weights"),
    "OptimConfig.momentum": Effect(0.5, step, "weights", SGD),
    "OptimConfig.eps": Effect(0.1, step, "weights"),
    "OptimConfig.betas": Effect([0.5, 0.6], step, "weights"),
    "OptimConfig.loss_scale": Effect(1e38, step, "applied"),
    "OptimConfig.dynamic_loss_scale": Effect(
        True, step, "scales", {"OptimConfig.loss_scale": 1e38}
    ),
    "OptimConfig.scale_window": Effect(1, step, "scales", DYNAMIC),
    "CheckpointConfig.ckpt_file_name_prefix": Effect("mine", train, "files"),
    "CheckpointConfig.ckpt_path": Effect("elsewhere", train, "files"),
    "CheckpointConfig.keep_checkpoint_max": Effect(1, train, "files"),
    "LMConfig.decoder_type": Effect("unheard of", train, "error"),
    "LMConfig.lm_path": Effect("{corpus}/words.arpa", decode, "hypotheses", BEAM),
    "LMConfig.alpha": Effect(0.5, decode, "hypotheses", WORDS),
    "LMConfig.beta": Effect(1.0, decode, "hypotheses", WORDS),
    "LMConfig.unk_offset": Effect(0.0, decode, "hypotheses", WORDS | {"LMConfig.top_paths": 20}),
    "LMConfig.beam_width": Effect(2, decode, "hypotheses", BEAM),
    "LMConfig.cutoff_top_n": Effect(2, decode, "hypotheses", BEAM),
    "LMConfig.cutoff_prob": Effect(0.5, decode, "hypotheses", BEAM),
    "LMConfig.top_paths": Effect(2, decode, "hypotheses", BEAM),
    "LMConfig.hot_words": Effect("A,B", decode, "hypotheses", BEAM),
    "LMConfig.hot_word_boost": Effect(
        9.0, decode, "hypotheses", BEAM | {"LMConfig.hot_words": "A,B"}
    ),
    "LMConfig.lexicon": Effect("{corpus}/lexicon.txt", decode, "hypotheses", BEAM),
    "LMConfig.lm_workers": Effect(2, decode, "processes", BEAM),
}

# Of eval.py: the value, where it is seen, and other keys that the key needs.
SCORES = BEAM | {"LMConfig.top_paths": "3"}  # printed with the alternatives
WORD_SCORES = WORDS | SCORES

EVAL_EFFECTS = {
    "save_output": ("kept", "files", {}),
    "verbose": ("false", "lines", {}),
    "report": ("report.html", "files", {}),
    "report_utterances": ("1", "players", {"report": "report.html"}),
    "DataConfig.test_manifest": ("{corpus}/other.csv", "lines", {}),
    "DataConfig.Data_dir": (
        "{corpus}/far",
        "lines",
        {"DataConfig.test_manifest": "{corpus}/relative.csv"},
    ),
    "DataConfig.batch_size": ("1", "shapes", {}),
    "DataConfig.workers": ("3", "pools", {}),
    "LMConfig.decoder_type": ("unheard of", "error", {}),
    "LMConfig.lm_path": ("{corpus}/words.arpa", "lines", SCORES),
    "LMConfig.alpha": ("0.5", "lines", WORD_SCORES),
    "LMConfig.beta": ("1.0", "lines", WORD_SCORES),
    "LMConfig.unk_offset": ("0.0", "lines", WORD_SCORES),
    "LMConfig.beam_width": ("1", "lines", SCORES),
    "LMConfig.cutoff_top_n": ("1", "lines", SCORES),
    "LMConfig.cutoff_prob": ("0.5", "lines", SCORES),
    "LMConfig.top_paths": ("2", "lines", SCORES),
    "LMConfig.hot_words": ("A,B", "lines", SCORES),
    "LMConfig.hot_word_boost": ("9", "lines", SCORES | {"LMConfig.hot_words": "A,B"}),
    "LMConfig.lexicon": ("{corpus}/lexicon.txt", "lines", SCORES),
    "LMConfig.lm_workers": ("2", "processes", SCORES),
}


INFER_EFFECTS = {
    "batch_size_infer": ("3", "arguments", {}),
    "result_path": ("prepared", "files", {}),
    "result_dir": ("out", "files", {}),
    "post_out": ("texts.txt", "files", {}),
    "DataConfig.test_manifest": ("{corpus}/other.csv", "lines", {}),
    "DataConfig.Data_dir": EVAL_EFFECTS["DataConfig.Data_dir"],
    "DataConfig.workers": ("3", "pools", {}),
    **{key: effect for key, effect in EVAL_EFFECTS.items() if key.startswith("LMConfig.")},
}


def test_the_tables_of_effects_list_every_key():
    assert set(INFER_EFFECTS) == set(leaves(InferConfig()))
    assert set(EFFECTS) == set(leaves(TrainConfig()))
    assert set(EVAL_EFFECTS) == set(leaves(EvalConfig()))


def configured(corpus: Path, values: dict[str, Any]) -> TrainConfig:
    config = tiny(corpus)
    config.DataConfig.mindrecord_format = "records/{split}/tones{}.md"
    config.ModelConfig.hidden_size, config.ModelConfig.conv_channels = 6, 2
    for key, value in values.items():
        if isinstance(value, str):
            value = value.replace("{corpus}", str(corpus))
        override(config, {key: value}, "test")
    return config


@pytest.fixture(scope="module")
def unchanged(corpus, cpu, tmp_path_factory):
    """What a probe sees before the key is changed: many keys share it."""

    @functools.cache
    def observe(probe: Callable, given: tuple) -> dict[str, Any]:
        return probe(configured(corpus, dict(given)), tmp_path_factory.mktemp("unchanged"))

    return observe


@pytest.fixture(autouse=True)
def no_pictures(monkeypatch):
    monkeypatch.setattr(History, "draw", lambda *arguments: None)


def differ(one: Any, other: Any) -> bool:
    """Unequal; numbers by more than rounding."""
    if isinstance(one, (list, tuple)) and isinstance(other, (list, tuple)):
        return len(one) != len(other) or any(map(differ, one, other))
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() != other.keys() or any(differ(one[key], other[key]) for key in one)
    if isinstance(one, float) and isinstance(other, float):
        return abs(one - other) > 1e-5 * max(1.0, abs(one))
    return one != other


@pytest.mark.training
@pytest.mark.parametrize("key", EFFECTS)
def test_every_training_key_has_an_effect(key, corpus, unchanged, tmp_path):
    effect = EFFECTS[key]
    if "LMConfig.lm_path" in {key, *effect.given}:
        pytest.importorskip("kenlm", reason=WITHOUT_KENLM)
    before = unchanged(effect.probe, tuple(effect.given.items()))
    config = configured(corpus, effect.given)
    assert leaves(config)[key] != effect.value
    after = effect.probe(configured(corpus, effect.given | {key: effect.value}), tmp_path)
    if effect.where != "error":
        assert before.get("error", "") == "" or effect.probe is train_on_nan
        assert after.get("error", "") == "" or effect.probe is train_on_nan
        assert before[effect.where], "nothing to compare"
    assert differ(after[effect.where], before[effect.where])


def test_presets_of_deepspeech2_convert_into_different_folders():
    folders = {}
    for name in RECIPE.presets():
        config = RECIPE.train_config()
        override_from_yaml(config, RECIPE.preset(name))
        folders[name] = [shard_files(config.DataConfig, split) for split in ("train", "val")]
    assert folders["an4"] == [
        (Path("mindrecord/an4_train"), "an4_train{}.md"),
        (Path("mindrecord/an4_val"), "an4_val{}.md"),
    ]
    every = [folder for pairs in folders.values() for folder, _ in pairs]
    assert len(set(every)) == len(every) == 8


def test_presets_of_jasper_share_a_folder_only_for_the_same_corpus():
    """A folder takes one corpus: the same pattern, the same features, the same texts."""
    from jasper.src.recipe import RECIPE as jasper

    content = {}
    for name in jasper.presets():
        override_from_yaml(config := jasper.train_config(), jasper.preset(name))
        data = to_dict(config)["DataConfig"]
        made_of = [data[key] for key in ("SpectConfig", "labels_path", "train_manifest")]
        content.setdefault(shard_files(config.DataConfig, "train"), []).append((name, made_of))
    assert len(content) == 4
    for alike in content.values():
        assert all(made_of == alike[0][1] for _, made_of in alike), alike


def eval_options(corpus: Path, values: dict[str, str]) -> list[str]:
    return [f"{key}={value.replace('{corpus}', str(corpus))}" for key, value in values.items()]


@pytest.fixture(scope="module")
def scored(corpus, cpu, tmp_path_factory):
    """What eval.py does before the key is changed."""

    @functools.cache
    def observe(given: tuple) -> dict[str, Any]:
        options = eval_options(corpus, dict(given))
        return score(configured(corpus, {}), tmp_path_factory.mktemp("scored"), options)

    return observe


@pytest.mark.training
@pytest.mark.parametrize("key", EVAL_EFFECTS)
def test_every_evaluation_key_has_an_effect(key, corpus, scored, tmp_path):
    value, where, given = EVAL_EFFECTS[key]
    if "LMConfig.lm_path" in {key, *given}:
        pytest.importorskip("kenlm", reason=WITHOUT_KENLM)
    before = scored(tuple(given.items()))
    assert before["error"] == ""
    after = score(configured(corpus, {}), tmp_path, eval_options(corpus, given | {key: value}))
    assert (after["error"] == "") == (where != "error")
    assert after[where] != before[where]


def infer(config: Any, folder: Path, options: list[str]) -> dict[str, Any]:
    """preprocess.py, a program in C++ (not), and postprocess.py."""
    import io
    from contextlib import redirect_stdout

    description = {
        "model": "deepspeech2",
        "config": to_dict(config),
        "labels": LABELS,
        "file_format": "MINDIR",
        "device": "CPU",
    }
    (folder / "tiny.json").write_text(json.dumps(description))
    arguments = ["--mindir_path", "tiny.mindir", *(["--set", *options] if options else [])]
    processes, pools, printed, error, words = Processes(), Processes(), io.StringIO(), "", []
    before = os.getcwd()
    os.chdir(folder)
    try:
        with (
            patched(
                {
                    "export.offline_inference.worker_pool": pools,
                    "export.offline_inference._EACH": 1,
                    "decoding.decoders.worker_pool": processes,
                    "decoding.decoders.MIN_SECONDS_FOR_PROCESSES": 0.0,
                }
            ),
            redirect_stdout(printed),
        ):
            assert cli.preprocess(RECIPE, arguments) == 0
            printed.truncate(0)
            printed.seek(0)
            assert cli.preprocess(RECIPE, [*arguments, "--runner_arguments"]) == 0
            words = printed.getvalue().splitlines()
            stand_in_runner(dict(zip(words[::2], words[1::2])))
            assert cli.postprocess(RECIPE, arguments) == 0
    except UserError as caught:
        error = str(caught)
    finally:
        os.chdir(before)
    lists = [path for path in folder.iterdir() if path.suffix == ".txt"]
    return {
        "arguments": words,
        "files": sorted(str(path.relative_to(folder)) for path in folder.rglob("*")),
        "lines": [path.read_text() for path in lists],
        "pools": pools,
        "processes": processes,
        "error": error,
    }


def stand_in_runner(arguments: dict[str, str]) -> None:
    """Obeys the contract of the program in C++, with a network of one random layer."""
    index, results = Path(arguments["--index"]), Path(arguments["--result_dir"])
    results.mkdir()
    for line in index.read_text().splitlines():
        entry = json.loads(line)
        features = np.fromfile(index.parent / entry["features"], np.float32)
        features = features.reshape(-1, entry["frames"])[:, ::2]
        weight = np.random.default_rng(0).normal(0, 0.5, (len(features), len(LABELS)))
        logits = features.T @ weight
        log_probs = logits - np.log(np.exp(logits).sum(1, keepdims=True))
        log_probs.astype(np.float32).tofile(results / f"{entry['name']}_0.bin")
        np.array(len(log_probs), np.int32).tofile(results / f"{entry['name']}_1.bin")


@pytest.fixture(scope="module")
def inferred(corpus, tmp_path_factory):
    """What comes of it before the key is changed."""

    @functools.cache
    def observe(given: tuple) -> dict[str, Any]:
        folder = tmp_path_factory.mktemp("inferred")
        return infer(configured(corpus, {}), folder, eval_options(corpus, dict(given)))

    return observe


@pytest.mark.parametrize("key", INFER_EFFECTS)
def test_every_inference_key_has_an_effect(key, corpus, inferred, tmp_path):
    value, where, given = INFER_EFFECTS[key]
    if "LMConfig.lm_path" in {key, *given}:
        pytest.importorskip("kenlm", reason=WITHOUT_KENLM)
    before = inferred(tuple(given.items()))
    assert before["error"] == ""
    after = infer(configured(corpus, {}), tmp_path, eval_options(corpus, given | {key: value}))
    assert (after["error"] == "") == (where != "error")
    assert after[where] != before[where]
