"""Jasper and QuartzNet: names, values, lengths, initial weights, refusals."""

from __future__ import annotations

import csv
import dataclasses
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import mindspore as ms
import numpy as np
import pytest
import yaml
from mindspore import Parameter, Tensor, nn, ops
from networks import batch_of, check_padding, forward, named_shapes, randomize_norms
from synthetic_corpus import RATE, make_corpus, record
from test_original_yaml import MINDSPORE

from benchmarks import reference
from common import cli
from common.config import check as check_config
from common.config import leaves, override_from_yaml
from common.model import checkpoint as checkpoints
from common.model.speech_model import SpeechModel
from common.nn.dropout import Dropout
from common.nn.layers import frame_mask
from common.text.tokenizer import CharacterTokenizer
from common.training.optimizers import Update
from common.utils import runtime
from common.utils.errors import UserError
from deepspeech2.src import config as deepspeech2_config
from jasper.src.config import Block, ModelConfig, TrainConfig, jasper
from jasper.src.model import EPSILON, INITIAL, Jasper
from jasper.src.recipe import RECIPE

pytestmark = pytest.mark.usefixtures("cpu")

ROOT = Path(__file__).resolve().parents[1]
DIMENSION, CLASSES = 6, 5


def middle(**keys) -> list[Block]:
    """A small network around two blocks of three convolutions."""
    return [
        Block(4, 1, 5, stride=2),
        Block(5, 3, 5, residual=True, **keys),
        Block(6, 2, 3, residual=True, **keys),
        Block(7, 1, 5, dilation=2),
        Block(8, 1, 1),
    ]


NETWORKS = {
    "dense": middle(residual_dense=True),
    "plain": middle(),
    "separable": [dataclasses.replace(block, separable=True) for block in middle()[:-1]]
    + middle()[-1:],
    "dense, then plain, then dense": [
        Block(4, 2, 3, stride=2),
        Block(4, 1, 3, residual=True, residual_dense=True),
        Block(5, 1, 3, residual=True, residual_dense=True, separable=True),
        Block(7, 1, 3, residual=True),
        Block(5, 1, 3),
        Block(3, 1, 3, residual=True, residual_dense=True),
        Block(3, 1, 3, residual=True, residual_dense=True),
    ],
}
ACTIVATION = {"plain": "elu", "separable": "selu"}  # of the others: relu


def build(blocks: list[Block], **keys) -> Jasper:
    config = ModelConfig(blocks=blocks, **keys)
    network = Jasper(config, DIMENSION, CLASSES, np.random.default_rng(0))
    randomize_norms(network)
    return network


def test_full_size_has_the_names_and_shapes_of_the_model_zoo(monkeypatch):
    monkeypatch.setitem(INITIAL, "xavier_uniform", zeros)
    expected = {}

    def convolution(conv: str, norm: str, *shape: int) -> None:
        expected[f"{conv}.conv1.weight"] = shape
        for leaf in ("moving_mean", "moving_variance", "gamma", "beta"):
            expected[f"{norm}.batchnorm.{leaf}"] = shape[:1]

    widths = [(256, 11), (384, 13), (512, 17), (640, 21), (768, 25)]
    entering, inputs = [], 256
    convolution("encoder.layers.0.conv.0", "encoder.layers.0.conv.1", 256, 64, 1, 11)
    for number in range(10):
        outputs, kernel = widths[number // 2]
        layer = f"encoder.layers.{number + 1}"
        entering.append(inputs)
        for pane, width in enumerate(entering):
            convolution(f"{layer}.res.{pane}.0", f"{layer}.res.{pane}.1", outputs, width, 1, 1)
        for place in range(0, 20, 4):
            names = f"{layer}.conv.{place}", f"{layer}.conv.{place + 1}"
            convolution(*names, outputs, inputs, 1, kernel)
            inputs = outputs
    convolution("encoder.layers.11.conv.0", "encoder.layers.11.conv.1", 896, 768, 1, 29)
    convolution("encoder.layers.12.conv.0", "encoder.layers.12.conv.1", 1024, 896, 1, 1)
    expected |= {"decoder.layers.weight": (29, 1024, 1, 1), "decoder.layers.bias": (29,)}
    assert len(expected) == 542

    network = Jasper(ModelConfig(), 64, 29, np.random.default_rng(0))
    assert named_shapes(network) == expected
    trained = sum(int(np.prod(weight.shape)) for weight in network.trainable_params())
    assert round(trained / 1e6) == 333


def test_separable_convolutions_have_two_places():
    shapes = named_shapes(build(NETWORKS["separable"]))
    for place, shape in ((0, (4, 1, 1, 5)), (1, (5, 4, 1, 1)), (5, (5, 1, 1, 5))):
        assert shapes[f"encoder.layers.1.conv.{place}.conv1.weight"] == shape
    assert shapes["encoder.layers.1.conv.2.batchnorm.gamma"] == (5,)
    assert shapes["encoder.layers.1.res.0.0.conv1.weight"] == (5, 4, 1, 1)


ACTIVATIONS = {
    "relu": lambda x: np.maximum(x, 0),
    "elu": lambda x: np.where(x > 0, x, np.expm1(x)),  # Clevert et al. 2016, arXiv 1511.07289
    # Klambauer et al. 2017, arXiv 1706.02515
    "selu": lambda x: 1.0507009873554805 * np.where(x > 0, x, 1.6732632423543772 * np.expm1(x)),
}


def plainly(
    parameters: dict[str, np.ndarray], blocks: list[Block], x: np.ndarray, activation: str
) -> np.ndarray:
    """The network once more, for one utterance x (F, T), from the paper: (T', C)."""

    def convolve(name: str, x, block=None):
        weight = parameters[f"{name}.weight"][:, :, 0]
        stride, dilation = (block.stride, block.dilation) if block else (1, 1)
        half = weight.shape[2] // 2 * dilation
        padded = np.pad(x, ((0, 0), (half, half)))
        taps = [
            padded[:, tap * dilation : tap * dilation + x.shape[1]]
            for tap in range(weight.shape[2])
        ]
        if weight.shape[1] == 1 < len(x):
            found = sum(tap * weight[:, 0, at, None] for at, tap in enumerate(taps))
        else:
            found = sum(weight[:, :, at] @ tap for at, tap in enumerate(taps))
        return found[:, ::stride]

    def norm(name: str, x):
        mean, variance, gamma, beta = (
            parameters[f"{name}.batchnorm.{leaf}"][:, None]
            for leaf in ("moving_mean", "moving_variance", "gamma", "beta")
        )
        return (x - mean) / np.sqrt(variance + EPSILON) * gamma + beta

    residual_inputs = [x]
    for number, block in enumerate(blocks):
        layer = f"encoder.layers.{number}"
        x, each = residual_inputs[-1], 5 if block.separable else 4
        for place in range(0, block.repeat * each, each):
            x = convolve(f"{layer}.conv.{place}.conv1", x, block)
            if block.separable:
                x = convolve(f"{layer}.conv.{place + 1}.conv1", x)
            x = norm(f"{layer}.conv.{place + each - 3}", x)
            if place == (block.repeat - 1) * each and block.residual:
                for pane, entered in enumerate(
                    residual_inputs if block.residual_dense else residual_inputs[-1:]
                ):
                    branch = convolve(f"{layer}.res.{pane}.0.conv1", entered)
                    x = x + norm(f"{layer}.res.{pane}.1", branch)
            x = ACTIVATIONS[activation](x)
        residual_inputs = [*residual_inputs, x] if block.residual_dense else [x]
    logits = convolve("decoder.layers", x) + parameters["decoder.layers.bias"][:, None]
    return reference.log_softmax(logits.T)


@pytest.mark.parametrize("native", [True, False])
@pytest.mark.parametrize("name", NETWORKS)
def test_values_are_those_of_the_paper_in_any_batch(name, native, monkeypatch):
    monkeypatch.setattr(runtime, "native_convolutions", lambda device: native)
    activation = ACTIVATION.get(name, "relu")
    network = build(NETWORKS[name], activation=activation)
    config = ModelConfig(blocks=NETWORKS[name])
    run = forward(network, DIMENSION)
    check_padding(run, DIMENSION, CLASSES, RECIPE, config)

    parameters = {p.name: p.asnumpy().astype(np.float64) for p in network.get_parameters()}
    rng = np.random.default_rng(5)
    rows = [rng.standard_normal((DIMENSION, frames)) for frames in (23, 8)]
    log_probs, lengths = run(*batch_of(rows))
    for index, row in enumerate(rows):
        expected = plainly(parameters, NETWORKS[name], row, activation)
        np.testing.assert_allclose(log_probs[: lengths[index], index], expected, atol=1e-4)


class OfSpoken(nn.Cell):
    """Gradients of a sum over the frames that count, each label with a weight of its own."""

    def __init__(self, network: Jasper):
        super().__init__()
        self.network = network
        weights = ms.ParameterTuple(network.trainable_params())
        self.differentiate = ops.value_and_grad(self.total, None, weights)
        self.labels = Tensor(np.linspace(-1, 1, CLASSES).astype(np.float32))

    def total(self, features, lengths):
        log_probs, lengths = self.network(features, lengths)
        mask = frame_mask(lengths, log_probs.shape[0]).transpose((1, 0)).expand_dims(2)
        return ops.sum(log_probs * self.labels * mask)

    def construct(self, features, lengths):
        return self.differentiate(features, lengths)[1]


@pytest.mark.parametrize("native", [True, False])
def test_training_leaves_padding_out_too(native, monkeypatch):
    """Statistics and gradients of a batch do not change with what lies behind its utterances."""
    monkeypatch.setattr(runtime, "native_convolutions", lambda device: native)
    blocks = [dataclasses.replace(block, dropout=0.0) for block in NETWORKS["dense"]]
    rows = [np.random.default_rng(7).standard_normal((DIMENSION, frames)) for frames in (19, 6)]
    found = []
    for padding in (0, 13):
        network = build(blocks)
        features, lengths = batch_of(rows)
        features = np.pad(features, ((0, 0), (0, 0), (0, padding)), constant_values=9)
        graph = OfSpoken(network).set_train()
        gradients = graph(Tensor(features), Tensor(lengths.astype(np.int32)))
        moving = [p for p in network.get_parameters() if p.name.endswith("moving_variance")]
        found.append([value.asnumpy() for value in (*gradients, *moving)])
    for first, second in zip(*found, strict=True):
        np.testing.assert_allclose(first, second, rtol=1e-3, atol=1e-4)
    assert min(np.abs(gradient).max() for gradient in found[0]) > 1e-3


@pytest.mark.parametrize("name", INITIAL)
def test_initial_weights_have_the_deviation_of_their_paper(name):
    """Of every kind of convolution; `ins` enter a value, and a value enters `outs`."""
    model = ModelConfig(
        blocks=[Block(300, 1, 7, residual=True), Block(400, 1, 9, separable=True)], weight_init=name
    )
    network = Jasper(model, 200, 50, np.random.default_rng(3))
    weights = {weight.name: weight.asnumpy() for weight in network.trainable_params()}
    kernels = {key: weight for key, weight in weights.items() if weight.ndim == 4}
    assert len(kernels) == 5 and not weights["decoder.layers.bias"].any()
    for key, weight in kernels.items():
        outputs, inputs, _, taps = weight.shape
        ins, outs = inputs * taps, outputs * taps
        variance = 2 / (ins + outs) if name.startswith("xavier") else 2 / ins
        error = 5 / np.sqrt(2 * weight.size)  # five times the deviation of a deviation
        assert weight.std() == pytest.approx(np.sqrt(variance), rel=error), key
        assert abs(weight.mean()) < 5 * weight.std() / np.sqrt(weight.size), key
        largest = np.abs(weight).max() / np.sqrt(3 * variance)
        assert 0.99 < largest < 1.001 if name.endswith("uniform") else largest > 1.3, key


class Shares(nn.Cell):
    """The share of zeros among what leaves each block."""

    def __init__(self, network: Jasper):
        super().__init__()
        self.layers = network.encoder.layers

    def construct(self, x, lengths):
        shares, residual_inputs = (), (x,)
        for layer in self.layers:
            residual_inputs, lengths = layer(residual_inputs, lengths)
            shares += ((residual_inputs[-1] == 0).astype(ms.float32).mean(),)
        return shares


def test_each_block_drops_out_at_its_own_rate():
    """selu gives no zeros of its own."""
    keys = {"residual": True, "residual_dense": True}
    blocks = [
        Block(40, 1, 3, dropout=0.1),
        Block(30, 3, 3, dropout=0.3, **keys),
        Block(50, 2, 3, dropout=0.0, separable=True, **keys),
        Block(60, 1, 3, dropout=0.6),
    ]
    network = build(blocks, activation="selu")
    streams = []
    for layer, block in zip(network.encoder.layers, blocks):
        cells = [cell for cell in layer.conv if isinstance(cell, Dropout)]
        assert [cell.rate for cell in cells] == [block.dropout] * block.repeat
        streams += [cell.stream for cell in cells]
    assert len(set(streams)) == 7  # masks of their own
    x = np.random.default_rng(4).standard_normal((1, DIMENSION, 3, 70))
    given = Tensor(x.astype(np.float32)), Tensor([70, 70, 70], ms.int32)
    if network.native:
        given = given[0].transpose((2, 1, 0, 3)), given[1]
    found = [float(share.asnumpy()) for share in Shares(network).set_train()(*given)]
    np.testing.assert_allclose(found, [0.1, 0.3, 0.0, 0.6], atol=0.03)


REFUSALS = {
    "filters": (0, r"blocks\[1\].filters=0: expected at least 1"),
    "repeat": (0, r"blocks\[1\].repeat=0: expected at least 1"),
    "kernel_size": (4, r"blocks\[1\].kernel_size=4: expected an odd size"),
    "dilation": (0, "dilation=0: expected at least 1"),
    "stride": (2, "residual with stride 2; expected stride 1"),
    "dropout": (1.0, "expected 0 <= dropout < 1"),
    "residual": (False, "residual_dense without residual"),
}


@pytest.mark.parametrize("key", REFUSALS)
def test_what_cannot_be_built_is_refused_by_name(key):
    value, expected = REFUSALS[key]
    blocks = [Block(), Block(residual=True, residual_dense=True)]
    blocks[1] = dataclasses.replace(blocks[1], **{key: value})
    with pytest.raises(UserError, match=expected):
        check_config(ModelConfig(blocks=blocks))


def test_other_refusals():
    with pytest.raises(UserError, match="at least one block"):
        check_config(ModelConfig(blocks=[]))
    with pytest.raises(UserError, match=r"blocks\[0\]: stride and dilation above 1"):
        check_config(ModelConfig(blocks=[Block(stride=2, dilation=2)]))
    with pytest.raises(UserError, match="activation=gelu: expected one of relu, elu, selu"):
        check_config(ModelConfig(activation="gelu"))
    with pytest.raises(UserError, match="weight_init=ones: expected one of xavier_uniform"):
        check_config(ModelConfig(weight_init="ones"))


def test_the_default_is_that_of_the_paper():
    blocks = ModelConfig().blocks
    assert blocks == jasper(10, 5) and len(blocks) == 13
    assert RECIPE.output_frames(ModelConfig(), 1000) == 500
    assert RECIPE.output_frames(ModelConfig(), np.array([1, 2, 3])).tolist() == [1, 1, 2]


def test_every_key_is_one_that_the_tables_prove_alive():
    """Shared keys are those of DeepSpeech2, whose table tests/test_config.py holds."""
    ours = {key for key in leaves(TrainConfig()) if not key.startswith("ModelConfig.")}
    theirs = leaves(deepspeech2_config.TrainConfig())
    assert ours == {key for key in theirs if not key.startswith("ModelConfig.")}
    # Of these and of a block's keys tests of this file prove it, by the values that come out.
    assert set(leaves(ModelConfig())) == {"blocks", "activation", "weight_init"}
    proven = {"filters", "repeat", "kernel_size", "stride", "dilation", "dropout"}
    proven |= {"residual", "residual_dense", "separable"}
    assert {key.name for key in dataclasses.fields(Block)} == proven


SIZES = {  # millions of parameters
    "jasper5x3": 109.7,
    "quartznet15x5": 18.9,
    "quartznet5x5": 6.7,
    "an4": 2.0,
    "mandarin": 3.6,
    "quickstart": 4.2,
}
PAPER = {"jasper10x5dr": (10, 5), "jasper5x3": (5, 3)}  # Jasper BxR


def zeros(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Initial weights where their values do not matter: hundreds of millions take seconds."""
    return np.zeros(shape, np.float32)


@pytest.mark.parametrize("preset", RECIPE.presets())
def test_every_preset_builds(preset, monkeypatch):
    config = RECIPE.train_config()
    override_from_yaml(config, RECIPE.preset(preset))
    check_config(config)
    Update(config.OptimConfig, [Parameter(Tensor(np.ones((2, 2), np.float32)), name="weight")])
    if preset in PAPER:
        assert config.ModelConfig == ModelConfig(blocks=jasper(*PAPER[preset]))
    if preset == "jasper10x5dr":  # built by another test
        assert config == TrainConfig()
        return
    monkeypatch.setitem(INITIAL, config.ModelConfig.weight_init, zeros)
    tokenizer = CharacterTokenizer.from_file(RECIPE.folder / "labels.json")
    found = SpeechModel.create(RECIPE, config, tokenizer, "CPU")
    assert round(found.parameters() / 1e6, 1) == SIZES[preset]


class WithLoss(nn.Cell):
    """What the model zoo's training wraps its network in, where names matter."""

    def __init__(self, network: Jasper, auto_prefix: bool):
        super().__init__(auto_prefix=auto_prefix)
        self.network = network


@pytest.mark.parametrize("wrapped", [False, True])
def test_a_checkpoint_of_the_model_zoo_takes_its_configuration_from_its_yaml(
    wrapped, tmp_path, monkeypatch, capsys
):
    """With the zoo's own optimizer in it, as MindSpore saves it."""
    blocks = [
        {"filters": 8, "repeat": 1, "kernel_size": 5, "stride": 2, "residual": False},
        {"filters": 8, "repeat": 2, "residual": True, "residual_dense": True},
        {"filters": 12, "repeat": 1, "kernel_size": 3, "dilation": 2, "residual": False},
    ]
    values = yaml.safe_load(MINDSPORE)
    values["labels"] = json.loads((RECIPE.folder / "labels.json").read_text())[:-1]
    values["jasper"]["encoder"]["blocks"] = blocks
    values["jasper"]["decoder"]["in_feats"] = 12
    (tmp_path / "zoo.yaml").write_text(yaml.safe_dump(values))
    config = RECIPE.train_config()
    override_from_yaml(config, tmp_path / "zoo.yaml", RECIPE.translate_yaml)
    tokenizer = CharacterTokenizer.from_file(RECIPE.folder / "labels.json")
    network = SpeechModel.create(RECIPE, config, tokenizer, "CPU").network
    randomize_norms(network)
    expected = {name: weight.asnumpy() for name, weight in network.parameters_dict().items()}
    training = WithLoss(network, auto_prefix=wrapped)
    optimizer = nn.AdamWeightDecay(training.trainable_params(), [0.01, 0.02], weight_decay=1e-3)
    ms.save_checkpoint(nn.TrainOneStepCell(training, optimizer), str(tmp_path / "zoo.ckpt"))
    saved = checkpoints.load(tmp_path / "zoo.ckpt").parameters
    prefix = "network." if wrapped else ""
    state = [f"{moment}.{prefix}decoder.layers.weight" for moment in ("adam_m", "adam_v")]
    assert {f"{prefix}decoder.layers.weight", *state, "learning_rate"} <= set(saved)

    made, load = [], SpeechModel.from_checkpoint

    def loading(*given, **more):
        made.append(load(*given, **more))
        return made[-1]

    monkeypatch.setattr(SpeechModel, "from_checkpoint", loading)
    record(tmp_path, "test", 1)
    monkeypatch.chdir(tmp_path)
    given = ["test/test0.wav", "--pretrain_ckpt", "zoo.ckpt", "--train_config", "zoo.yaml"]
    cli.transcribe(RECIPE, given)
    printed = capsys.readouterr()
    assert "zoo.ckpt names no configuration: taking that of --train_config" in printed.err
    assert made[0].featurizer.config.convention == "jasper-mindspore"
    found = made[0].network.parameters_dict()
    for name, weight in expected.items():
        if checkpoints.STATELESS not in name:
            np.testing.assert_array_equal(found[name].asnumpy(), weight, err_msg=name)
    assert printed.out.strip()  # of random weights: any letters


def tiny(corpus) -> list[str]:
    """Options for a network that is trained in seconds."""
    blocks = [
        {"filters": 8, "kernel_size": 5, "stride": 2, "dropout": 0.1},
        {"filters": 8, "repeat": 2, "kernel_size": 5, "residual": True, "residual_dense": True},
        {"filters": 12, "kernel_size": 3, "dilation": 2, "separable": True},
    ]
    values = {
        "TrainingConfig": {"epochs": 12, "accumulation_step": 1, "ema": 0.9, "eval_every": 6},
        "DataConfig": {
            **{f"{split}_manifest": str(corpus / f"{split}.csv") for split in ("train", "val")},
            "test_manifest": str(corpus / "test.csv"),
            "labels_path": str(corpus / "labels.json"),
            "batch_size": 4,
            "shards": 1,
            "SpectConfig": {"sample_rate": RATE, "bands": 12},
            "AugmentationConfig": {"freq_width": 2, "time_frames": 4},
        },
        "ModelConfig": {"blocks": blocks},
        "OptimConfig": {"warmup_epochs": 1, "hold_epochs": 2},
    }
    (corpus / "tiny.yaml").write_text(yaml.safe_dump(values))
    return ["--config", str(corpus / "tiny.yaml")]


def start(folder, *command: str) -> str:
    """A command, typed in `folder`; what it says."""
    environment = {**os.environ, "PYTHON": sys.executable}
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.launcher
def test_the_whole_path_by_the_real_commands(tmp_path):
    """In a copy of the project, from its model folder: convert, train, resume, evaluate, export."""
    for name in ("common", "jasper", "scripts"):
        made = ["mindrecord", "checkpoint", "data"] if name == "jasper" else []
        ignored = shutil.ignore_patterns("__pycache__", *made)
        shutil.copytree(ROOT / name, tmp_path / "clone" / name, ignore=ignored)
    make_corpus(tmp_path)
    folder, options = tmp_path / "clone" / "jasper", tiny(tmp_path)
    start(folder, sys.executable, "create_mindrecord.py", *options)
    train = ["bash", "scripts/run_standalone_train_cpu.sh", *options]
    start(folder, *train, "--set", "epochs=6")
    start(folder, *train, "--resume")
    found = checkpoints.load(folder / "checkpoint" / "Jasper-last.ckpt")
    assert found.metadata["progress"]["epoch"] == 12
    assert "ema.decoder.layers.bias" in found.parameters
    assert "moment1.encoder.layers.2.conv.1.conv1.weight" in found.parameters
    with (folder / "metrics.csv").open() as rows:
        losses = [float(row["train_loss"]) for row in csv.DictReader(rows)]
    assert len(losses) == 6 and losses[-1] < 0.6 * losses[0]

    best = "checkpoint/Jasper-best.ckpt"
    of_validation = f"test_manifest={tmp_path / 'val.csv'}"
    said = start(folder, "bash", "scripts/run_eval_cpu.sh", best, "--set", of_validation)
    rates = checkpoints.load(folder / best).metadata["scores"]
    assert said.strip().endswith(
        f"Test Summary \tAverage WER {rates['wer']:.3f}\tAverage CER {rates['cer']:.3f}"
    )
    said = start(folder, sys.executable, "export.py", "--pre_trained_model_path", best)
    assert "exported jasper.mindir and jasper.json" in said
    description = json.loads((folder / "jasper.json").read_text())
    assert description["features"]["convention"] == "jasper-nvidia"
    assert description["verified_difference"] <= 1e-4
