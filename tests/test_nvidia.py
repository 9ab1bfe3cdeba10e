"""Weights from NVIDIA's Jasper and QuartzNet and back: real files of torch.save, compared with
PyTorch."""

from __future__ import annotations

import argparse
import copy
import json
import shutil
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import yaml
from test_original_yaml import MINDSPORE

from common import config as configs
from common.data.loader import Batch
from common.memory import forecast_memory
from common.model import checkpoint as checkpoints
from common.model.speech_model import Forward, SpeechModel
from common.text.tokenizer import CharacterTokenizer
from common.training.train_step import TrainStep
from common.utils.errors import UserError
from jasper.src.config import Block, ModelConfig, TrainConfig, jasper
from jasper.src.nvidia import blocks as blocks_of
from jasper.src.nvidia import completed, mind2pt, pt2mind
from jasper.src.recipe import RECIPE

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.usefixtures("cpu")

LABELS = [*" abcdefghijklmnopqrstuvwxyz'", "_"]


def narrow(middle: list[dict], separable: bool = False) -> list[dict]:
    """Blocks in the form of Jasper and QuartzNet, with the first and last ones around `middle`."""
    usual = asdict(Block(dropout=0.0, separable=separable))
    around = [{"filters": 12, "kernel_size": 11, "stride": 2}]
    behind = [
        {"filters": 14, "kernel_size": 7, "dilation": 2},
        {"filters": 16, "kernel_size": 1, "separable": False},
    ]
    return [{**usual, **block} for block in (*around, *middle, *behind)]


DENSE = {"residual": True, "residual_dense": True}
PLAIN = [
    {"filters": width, "kernel_size": kernel, "repeat": 2, "residual": True}
    for width, kernel in ((12, 13), (16, 17))
]


def paper(blocks: int, repeat: int) -> list[dict]:
    """Jasper BxR with a thirty-second of its channels."""
    full = jasper(blocks, repeat)
    return [asdict(replace(block, filters=block.filters // 32, dropout=0.0)) for block in full]


NETWORKS = {
    "Jasper 10x1dr": paper(10, 1),  # the ten residual_inputs of 10x5dr; repeats are in the next one
    "Jasper 5x3dr": paper(5, 3),
    "Jasper 2x2": narrow(PLAIN),
    "QuartzNet 2x2": narrow(PLAIN, separable=True),
}
SMALL = narrow([{"filters": 8, "kernel_size": 5, "repeat": 2, **DENSE}] * 2)
FOUR_PANES = narrow([{"filters": 8, "kernel_size": 5, **DENSE}] * 4)
SMALL_SEPARABLE = narrow(
    [{"filters": 8, "kernel_size": 5, "repeat": 2, "residual": True}] * 2, separable=True
)


def theirs(blocks: list[dict], **options):
    from benchmarks.reference_jasper import torch_jasper

    separable = any(block["separable"] for block in blocks)
    return torch_jasper(blocks, **{"quartznet": separable, **options})


def saved(content, folder: Path) -> Path:
    path = folder / "theirs.pt"
    torch.save(content, path)
    return path


def converted(content, folder: Path, *options: str, recipe=RECIPE) -> checkpoints.Checkpoint:
    ckpt = folder / "ours.ckpt"
    path = saved(content, folder)
    pt2mind(recipe, ["--pth", str(path), "--ckpt", str(ckpt), *options])
    return checkpoints.load(ckpt)


def assert_equal(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value, err_msg=name)


@pytest.mark.parametrize("name", NETWORKS)
def test_log_probabilities_equal_those_of_torch(name, tmp_path):
    network = theirs(NETWORKS[name])
    found = converted({"state_dict": network.state_dict()}, tmp_path)
    lengths = np.array([90, 53])
    features = np.random.default_rng(0).standard_normal((2, 64, 90)).astype(np.float32)
    with torch.no_grad():
        expected, frames = network.double()(
            torch.tensor(features, dtype=torch.float64), torch.tensor(lengths)
        )
    ours, ours_frames = Forward(SpeechModel.from_checkpoint(RECIPE, found.path, "CPU"))(
        features, lengths
    )
    assert ours_frames.tolist() == frames.tolist() == [45, 27]
    assert expected[:27].std(0).mean() > 0.05  # deep as it is, the input still matters
    for row, length in enumerate(frames):
        np.testing.assert_allclose(ours[:length, row], expected[:length, row], atol=1e-4)


@pytest.mark.parametrize("name", ["Jasper 2x2", "QuartzNet 2x2", "small, dense"])
def test_train_steps_equal_those_of_torch(name, tmp_path):
    """Losses, weights and statistics of three steps, of utterances as long as each other: padding
    counts in torch's statistics."""
    network = theirs({**NETWORKS, "small, dense": SMALL}[name])
    found = converted({"state_dict": network.state_dict()}, tmp_path)
    speech_model = SpeechModel.from_checkpoint(RECIPE, found.path, "CPU")
    config, rate = speech_model.config, 0.05
    config.OptimConfig = configs.OptimConfig("SGD", momentum=0.0, weight_decay=0.0)
    config.TrainingConfig.clip_norm, config.TrainingConfig.ema = 0.0, 0.0
    rng, rows, frames, labels = np.random.default_rng(1), 4, 80, 6
    batch = Batch(
        features=rng.standard_normal((rows, 64, frames)).astype(np.float32),
        lengths=np.full(rows, frames, np.int32),
        targets=rng.integers(0, 28, (rows, labels)).astype(np.int32),
        target_lengths=np.full(rows, labels, np.int32),
        indices=tuple(range(rows)),
        ids=tuple("abcd"),
        valid=rows,
        seconds=0.0,
    )
    step = TrainStep(speech_model, forecast_memory(speech_model))
    losses = [step([batch], rate, number).loss for number in range(3)]

    network.double().train()
    expected = []
    for _ in range(3):
        log_probs, lengths = network(
            torch.tensor(batch.features, dtype=torch.float64), torch.tensor(batch.lengths)
        )
        loss = torch.nn.functional.ctc_loss(
            log_probs,
            torch.tensor(batch.targets).long(),
            lengths,
            torch.tensor(batch.target_lengths),
            blank=28,
            reduction="sum",
        )
        expected.append(loss.item() / rows)
        network.zero_grad()
        (loss / rows).backward()
        with torch.no_grad():
            for weight in network.parameters():
                weight -= rate * weight.grad
    np.testing.assert_allclose(losses, expected, rtol=1e-4)
    assert expected[2] < 0.9 * expected[0]  # they do learn
    after = converted({"state_dict": network.float().state_dict()}, tmp_path).parameters
    for parameter in speech_model.network.get_parameters():
        if parameter.name in after:  # all but the places in the stream of random numbers
            wanted, before = after[parameter.name], found.parameters[parameter.name]
            moved = np.abs(wanted - before).max()
            ours = parameter.asnumpy()
            np.testing.assert_allclose(
                ours, wanted, atol=2e-3 * moved + 1e-6, err_msg=parameter.name
            )
    assert after.keys() <= {parameter.name for parameter in speech_model.network.get_parameters()}


def test_a_converted_checkpoint_holds_configuration_and_labels(tmp_path, capsys):
    found = converted({"state_dict": theirs(SMALL).state_dict()}, tmp_path)
    config = found.metadata["config"]
    assert config["ModelConfig"]["blocks"] == SMALL
    assert found.metadata["labels"] == LABELS
    expected = {
        "sample_rate": 16000,
        "window_size": 0.02,
        "window_stride": 0.01,
        "window": "hann",
        "features": "logmel",
        "bands": 64,
        "convention": "jasper-nvidia",
        "preemphasis": 0.97,
        "frame_splicing": 1,
        "trim_silence": True,
    }
    spect = config["DataConfig"]["SpectConfig"]
    assert {key: spect[key] for key in expected} == expected
    assert not config["DataConfig"]["test_manifest"]
    said = capsys.readouterr().out.splitlines()
    assert said[0].endswith("52 of 52 tensors match")
    assert said[1] == "raw weights, 5 blocks, 7 convolutions, dense residuals, 29 labels"
    assert said[2].startswith("assumed, as no preset has these shapes: stride 2 in the first block")


def test_bands_and_splicing_follow_from_the_first_kernel(tmp_path):
    for dimension, bands, splicing in ((128, 64, 2), (80, 80, 1)):
        for blocks in (SMALL, SMALL_SEPARABLE):
            content = {"state_dict": theirs(blocks, dimension=dimension).state_dict()}
            spect = converted(content, tmp_path).metadata["config"]["DataConfig"]["SpectConfig"]
            assert (spect["bands"], spect["frame_splicing"]) == (bands, splicing)


# ---- which weights, and their names


def moved(weights: dict) -> dict:
    return {name: value + 1 for name, value in weights.items()}


def test_averaged_weights_are_preferred(tmp_path, capsys):
    weights = theirs(SMALL).state_dict()
    alone = converted({"state_dict": weights}, tmp_path).parameters
    both = {"state_dict": moved(weights), "ema_state_dict": weights, "optimizer": {"state": {}}}
    assert_equal(converted(both, tmp_path).parameters, alone)
    assert_equal(converted(both, tmp_path, "--weights", "ema").parameters, alone)
    capsys.readouterr()
    raw = converted(both, tmp_path, "--weights", "raw").parameters
    assert capsys.readouterr().out.splitlines()[1].startswith("raw weights")
    assert_equal(raw, {name: value + 1 for name, value in alone.items()})
    none = {"state_dict": weights, "ema_state_dict": None}
    assert_equal(converted(none, tmp_path).parameters, alone)
    empty = {"state_dict": weights, "ema_state_dict": {}}
    assert_equal(converted(empty, tmp_path).parameters, alone)
    for content in (none, empty):
        with pytest.raises(
            UserError, match=r"theirs.pt: no averaged weights .*; use --weights raw"
        ):
            converted(content, tmp_path, "--weights", "ema")


def older(name: str) -> str:
    name = name.replace("encoder.layers.", "jasper_encoder.encoder.")
    return name.replace("decoder.layers.", "jasper_decoder.decoder_layers.")


def in_nemo(name: str, value) -> str:
    """A module that masks holds each of its convolutions but that of the output layer."""
    if name.startswith("encoder") and value.dim() == 3:
        name = name.replace(".weight", ".conv.weight")
    name = name.replace("encoder.layers.", "encoder.encoder.")
    return name.replace("decoder.layers.", "decoder.decoder_layers.")


def test_older_names_and_nemo_names_give_the_same_weights(tmp_path):
    weights = theirs(SMALL).state_dict()
    expected = converted({"state_dict": weights}, tmp_path).parameters
    first = {older(name): value for name, value in weights.items()}
    first["acoustic_model.anything"] = torch.zeros(3)
    first["audio_preprocessor.featurizer.fb"] = torch.zeros(1, 64, 257)
    assert_equal(converted({"state_dict": first}, tmp_path).parameters, expected)
    wrapped = {f"module.{name}": value for name, value in weights.items()}
    assert_equal(converted({"state_dict": wrapped}, tmp_path).parameters, expected)

    separable = theirs(SMALL_SEPARABLE).state_dict()
    expected = converted({"state_dict": separable}, tmp_path).parameters
    nemo = {in_nemo(name, value): value for name, value in separable.items()}
    assert "encoder.encoder.1.mconv.0.conv.weight" in nemo
    assert "encoder.encoder.1.mconv.2.weight" in nemo
    nemo["preprocessor.featurizer.window"] = torch.zeros(320)
    for name in ("_wer.scores", "_wer.words", "wer.scores", "loss._loss.x", "spec_augmentation.x"):
        nemo[name] = torch.zeros(())
    assert_equal(converted(nemo, tmp_path).parameters, expected)  # a state_dict itself

    compiled = {f"_orig_mod.{name}": value for name, value in separable.items()}
    assert_equal(converted({"state_dict": compiled}, tmp_path).parameters, expected)


def test_the_two_files_of_an_early_nemo(tmp_path, capsys):
    weights = theirs(SMALL).state_dict()
    expected = converted({"state_dict": weights}, tmp_path).parameters
    nemo = {in_nemo(name, value): value for name, value in weights.items()}
    encoder, decoder = {}, {}
    for name, value in nemo.items():
        if name.startswith("encoder."):
            encoder[name.replace("encoder.encoder.", "encoder.")] = value
        else:
            decoder[name.replace("decoder.decoder_layers.", "decoder_layers.")] = value
    second = tmp_path / "second.pt"
    torch.save(decoder, second)
    with pytest.raises(
        UserError, match=r"theirs\.pt: .* an encoder alone; .* give it by --decoder"
    ):
        converted(encoder, tmp_path)
    with pytest.raises(
        UserError, match=r"theirs\.pt: .* a decoder alone; .* and this one by --dec"
    ):
        converted(decoder, tmp_path)
    capsys.readouterr()
    assert_equal(converted(encoder, tmp_path, "--decoder", str(second)).parameters, expected)
    assert "NeMo's names" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "place", "value", "said"),
    [
        ("encoder.layers.0.conv.0.weight", (0, 0, 0), float("nan"), "1 of 8448 values is not fin"),
        ("encoder.layers.0.conv.0.weight", (0, 0), float("inf"), "11 of 8448 values are not fin"),
        ("encoder.layers.1.conv.1.running_var", (2,), -1.0, "1 of 8 values is negative"),
    ],
)
def test_numbers_that_no_network_can_use_are_not_converted(name, place, value, said, tmp_path):
    weights = dict(theirs(SMALL).state_dict())
    weights[name] = weights[name].clone()
    weights[name][place] = value
    with pytest.raises(UserError, match=rf"theirs\.pt: {name}: {said}"):
        converted({"state_dict": weights}, tmp_path)
    assert not (tmp_path / "ours.ckpt").exists()


NEMO_CONFIGS = {
    "training": {"name": "Jasper", "model": {"labels": [], "encoder": {"jasper": []}}},
    "archive": {"sample_rate": 16000, "encoder": {"_target_": "nemo.ConvASREncoder"}},
    "before 1.0": {"model": "Jasper", "JasperEncoder": {"jasper": []}},
}


@pytest.mark.parametrize("kind", NEMO_CONFIGS)
def test_a_configuration_of_nemo_is_called_so(kind, tmp_path):
    path = tmp_path / "nemo.yaml"
    path.write_text(yaml.safe_dump(NEMO_CONFIGS[kind]))
    with pytest.raises(UserError, match=r"nemo\.yaml: a configuration of NeMo, which is not read"):
        converted({"state_dict": theirs(SMALL).state_dict()}, tmp_path, "--config", str(path))


# ---- what shapes do not tell


def settings(blocks: list[dict], folder: Path, name: str = "network.yaml") -> Path:
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(yaml.safe_dump({"ModelConfig": {"blocks": blocks}}))
    return folder / name


def test_stride_and_dropout_come_from_a_preset_of_the_same_shapes(tmp_path, capsys):
    content = {"state_dict": theirs(SMALL).state_dict()}
    other = [{**block, "dropout": 0.3, "dilation": 1} for block in SMALL]
    path = settings(other, tmp_path)
    found = converted(content, tmp_path, "--config", str(path)).metadata["config"]
    assert found["ModelConfig"]["blocks"] == other
    # A preset is found by its shapes.
    recipe = replace(RECIPE, folder=tmp_path)
    shutil.copy(RECIPE.folder / "labels.json", tmp_path)
    settings(SMALL_SEPARABLE, tmp_path / "presets", "a.yaml")
    settings(other, tmp_path / "presets", "b.yaml")
    capsys.readouterr()
    found = converted(content, tmp_path, recipe=recipe).metadata["config"]
    assert found["ModelConfig"]["blocks"] == other
    assert "as in preset b, of the same shapes" in capsys.readouterr().out
    with pytest.raises(UserError, match=r"theirs.pt: .*preset a: block 0: separable False, expect"):
        converted(content, tmp_path, "--preset", "a", recipe=recipe)
    with pytest.raises(UserError, match="--preset c: unknown, expected one of a, b"):
        converted(content, tmp_path, "--preset", "c", recipe=recipe)


def test_nvidias_yaml_gives_stride_dropout_features_and_labels(tmp_path):
    other = [{**block, "dropout": 0.3, "dilation": 1} for block in SMALL]
    values = yaml.safe_load(MINDSPORE)  # whose weight_init must not make the features the zoo's
    labels = [*"abcdefghijklmnopqrstuvwxyz'", " "]
    values |= {"labels": labels, "jasper": copy.deepcopy(values["jasper"])}
    values["jasper"]["encoder"]["blocks"] = other
    values["jasper"]["decoder"]["in_feats"] = 16
    for part in ("input_val", "input_train"):
        values[part]["filterbank_features"] |= {"window_size": 0.025, "window": "hamming"}
    path = tmp_path / "theirs.yaml"
    path.write_text(yaml.safe_dump(values))
    content = {"state_dict": theirs(SMALL).state_dict()}
    found = converted(content, tmp_path, "--config", str(path)).metadata
    assert found["config"]["ModelConfig"]["blocks"] == other
    spect = found["config"]["DataConfig"]["SpectConfig"]
    assert (spect["window_size"], spect["window"]) == (0.025, "hamming")
    assert spect["convention"] == "jasper-nvidia"
    assert found["labels"] == [*labels, "_"]

    (tmp_path / "labels.json").write_text(json.dumps(LABELS))
    options = "--config", str(path), "--labels", str(tmp_path / "labels.json")
    assert converted(content, tmp_path, *options).metadata["labels"] == LABELS


def blocks_of_preset(name: str) -> list:
    expected = RECIPE.train_config()
    configs.override_from_yaml(expected, RECIPE.preset(name))
    return expected.ModelConfig.blocks


@pytest.mark.parametrize("name", RECIPE.presets())
def test_every_preset_is_recognised_by_its_shapes(name):
    from benchmarks.reference_jasper import Network

    expected = RECIPE.train_config()
    configs.override_from_yaml(expected, RECIPE.preset(name))
    model = expected.ModelConfig
    with torch.device("meta"):  # shapes without numbers
        network = Network([asdict(block) for block in model.blocks], 64, 29, "conv", torch.nn.ReLU)
    options = argparse.Namespace(pth="theirs.pt", preset=None, config=None)
    found, said, _ = completed(RECIPE, blocks_of(network.state_dict(), "theirs.pt"), options)
    assert found.ModelConfig == model
    # Two presets of one shape are one network: naming either is right.
    alike = [other for other in RECIPE.presets() if blocks_of_preset(other) == model.blocks]
    assert any(f"preset {other}," in said for other in alike) or "default configuration," in said


@pytest.mark.parametrize(
    "change, message",
    [
        ({"filters": 9}, "block 1: filters 8, expected 9"),
        ({"repeat": 3}, "block 1: repeat 2, expected 3"),
        ({"kernel_size": 7}, "block 1: kernel_size 5, expected 7"),
        ({"residual": False, "residual_dense": False}, "block 1: 1 residuals, expected 0"),
    ],
)
def test_a_configuration_of_other_shapes_is_refused(change, message, tmp_path):
    blocks = [{**block, **(change if number == 1 else {})} for number, block in enumerate(SMALL)]
    path = settings(blocks, tmp_path)
    with pytest.raises(UserError, match=message):
        converted({"state_dict": theirs(SMALL).state_dict()}, tmp_path, "--config", str(path))


# ---- and back


@pytest.mark.parametrize(
    "blocks",
    [SMALL, FOUR_PANES, SMALL_SEPARABLE],
    ids=["jasper", "of four residual_inputs", "quartznet"],
)
def test_weights_are_unchanged_after_import_and_export(blocks, tmp_path, capsys):
    network = theirs(blocks)
    ckpt = converted({"ema_state_dict": network.state_dict()}, tmp_path).path
    capsys.readouterr()
    back = tmp_path / "back.pt"
    mind2pt(RECIPE, ["--ckpt", str(ckpt), "--pth", str(back)])
    kind = "QuartzNet" if blocks is SMALL_SEPARABLE else "Jasper"
    assert capsys.readouterr().out.splitlines()[1:] == [f"written: {back}, for NVIDIA's {kind}"]
    content = torch.load(back, weights_only=True)
    for key in ("state_dict", "ema_state_dict"):
        other = theirs(blocks, seed=8)
        other.load_state_dict(content[key], strict=True)
        for name, value in network.state_dict().items():
            if not name.endswith("num_batches_tracked"):
                assert torch.equal(other.state_dict()[name], value), name


def ours(folder: Path, spect: dict | None = None, **model) -> Path:
    """A checkpoint of a network made here."""
    config = TrainConfig(ModelConfig=ModelConfig(**model))
    for key, value in (spect or {}).items():
        setattr(config.DataConfig.SpectConfig, key, value)
    made = SpeechModel.create(RECIPE, config, CharacterTokenizer(tuple("ab c_")), "CPU")
    path = folder / "made.ckpt"
    checkpoints.save(path, made.network.parameters_dict(), made.metadata())
    return path


OWN = {"window": "hamming", "convention": "plain", "preemphasis": 0.0}  # features of ours


def test_weights_are_unchanged_after_export_and_import(tmp_path, capsys):
    blocks = [
        Block(filters=4, kernel_size=3, dropout=0.1),
        Block(filters=4, kernel_size=3, stride=2, repeat=2),
    ]
    ckpt, pth = ours(tmp_path, OWN, blocks=blocks, activation="selu"), "w.pt"
    mind2pt(RECIPE, ["--ckpt", str(ckpt), "--pth", str(tmp_path / pth), "--style", "quartznet"])
    said = capsys.readouterr().out
    assert "for NVIDIA's QuartzNet" in said
    assert "note: trained on features of the convention" in said
    assert "note: activation is selu" in said
    pt2mind(RECIPE, ["--pth", str(tmp_path / pth), "--ckpt", str(tmp_path / "back.ckpt")])
    before, after = checkpoints.load(ckpt), checkpoints.load(tmp_path / "back.ckpt")
    assert after.metadata["config"]["ModelConfig"] == before.metadata["config"]["ModelConfig"]
    spect = [found.metadata["config"]["DataConfig"]["SpectConfig"] for found in (before, after)]
    assert spect[0] == spect[1]
    assert after.metadata["labels"] == list("ab c_")
    assert_equal(after.parameters, before.parameters)


def test_networks_that_nvidia_does_not_have_are_refused(tmp_path):
    ckpt = ours(tmp_path, blocks=[Block(filters=4, kernel_size=3, separable=True)])
    command = ["--ckpt", str(ckpt), "--pth", str(tmp_path / "w.pt")]
    with pytest.raises(UserError, match="Jasper has no separable convolutions; --style quartznet"):
        mind2pt(RECIPE, [*command, "--style", "jasper"])
    ours(tmp_path, blocks=[Block(filters=4, kernel_size=3)], activation="elu")
    with pytest.raises(UserError, match="activation=elu, NVIDIA's code has hardtanh, relu, selu"):
        mind2pt(RECIPE, command)
    assert not (tmp_path / "w.pt").exists()


# ---- refusals


def malformed(case: str, weights: dict):
    if case == "another shape":
        weights["encoder.layers.2.res.1.0.weight"] = torch.zeros(8, 9, 1)
    elif case == "missing":
        del weights["encoder.layers.1.conv.1.bias"]
    elif case == "left over":
        weights["joint.weight"] = torch.zeros(3, 2)
    elif case == "no block":
        return {k: v for k, v in weights.items() if "layers.1." not in k}
    elif case == "no convolution":
        return {k: v for k, v in weights.items() if k.startswith("decoder")}
    elif case == "no output layer":
        del weights["decoder.layers.0.weight"]
    elif case == "two names":
        weights["encoder.encoder.0.conv.1.bias"] = torch.zeros(12)
    elif case == "other labels":
        weights["decoder.layers.0.weight"] = torch.zeros(46, 16, 1)
    return weights


REFUSALS = {
    "another shape": r"encoder.layers.2.res.1.0.weight \(8, 9, 1\), expected \(8, 8, 1, 1\)",
    "missing": r"51 of 52 tensors match; 1 missing \(encoder.layers.1.conv.1.bias \(8,\)\)",
    "left over": r"1 not of this network \(joint.weight \(3, 2\)\)",
    "no block": "no encoder.layers.1.conv.0.weight, but 5 blocks",
    "no convolution": "no encoder.layers.0.conv.0.weight .* among 2 tensors: a decoder alone",
    "no output layer": "no decoder.layers.0.weight among 51 tensors: an encoder alone; .*--decoder",
    "two names": "holds encoder.layers.0.conv.1.bias under two names",
    "other labels": "has 46 classes, but there are 29 labels, .* by --labels FILE",
}


@pytest.mark.parametrize("case", REFUSALS)
def test_files_that_do_not_fit_are_refused_with_the_reason(case, tmp_path):
    weights = malformed(case, dict(theirs(SMALL).state_dict()))
    with pytest.raises(UserError, match=rf"theirs.pt: .*{REFUSALS[case]}"):
        converted({"state_dict": weights}, tmp_path)
    assert not (tmp_path / "ours.ckpt").exists()


def test_other_files_are_refused(tmp_path):
    with pytest.raises(UserError, match="no state_dict in it: not a checkpoint of NVIDIA's"):
        converted([1, 2], tmp_path)
    with pytest.raises(UserError, match="no state_dict in it, only epoch, step: not a checkpoint"):
        converted({"epoch": 3, "step": 4}, tmp_path)


def test_labels_option_gives_the_labels(tmp_path):
    network = theirs(SMALL, classes=5)
    (tmp_path / "labels.json").write_text(json.dumps(list("ab c_")))
    content = {"state_dict": network.state_dict()}
    found = converted(content, tmp_path, "--labels", str(tmp_path / "labels.json"))
    assert found.metadata["labels"] == list("ab c_")
