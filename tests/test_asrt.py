"""ASRT's networks: shapes and sizes, values, lengths, files."""

from __future__ import annotations

import dataclasses
import logging
from pathlib import Path

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor
from networks import batch_of, check_padding, forward, named_shapes, randomize_norms
from synthetic_corpus import make_corpus

import asrt
from asrt.src.config import ModelConfig, Pair, TrainConfig, frames_ahead
from asrt.src.keras_weights import keras2mind, read_layers
from asrt.src.model import SpeechNetwork, he_normal
from asrt.src.recipe import RECIPE
from asrt.src.tokenizer import SyllableTokenizer
from benchmarks import reference
from common import cli
from common import config as configs
from common.model import checkpoint as checkpoints
from common.model.speech_model import SpeechModel
from common.utils.errors import UserError

pytestmark = pytest.mark.usefixtures("cpu")

ROOT = Path(__file__).resolve().parents[1]
DIMENSION, CLASSES = 11, 5
# What model_zoo/speech_model/keras_backend.py of ASRT_SpeechRecognition has: channels of the pairs,
# and dropout in the order of the layers.
PAIRS = {
    "asrt24": [32, 64, 128],
    "asrt25": [32, 64, 128, 128],
    "asrt251": [32, 64, 128, 128, 128],
    "asrt251bn": [32, 64, 128, 128, 128],
}
DROPOUT = {
    "asrt24": [0.1, 0.2, 0.2, 0.3, 0.3, 0.3, 0.3],
    "asrt25": [0.05, 0.05, 0.1, 0.1, 0.15, 0.15, 0.2, 0.3, 0.3],
    "asrt251": [0.05, 0.05, 0.1, 0.1, 0.15, 0.15, 0.2, 0.2, 0.2, 0.3, 0.3],
    "asrt251bn": [0] * 11,
}
# Of Keras's summaries of these networks, with 1428 outputs.
PARAMETERS = {"asrt24": 880340, "asrt25": 1175508, "asrt251": 1470676, "asrt251bn": 1474548}


def preset(name: str) -> TrainConfig:
    config = TrainConfig()
    configs.override_from_yaml(config, RECIPE.preset(name))
    return config


@pytest.mark.parametrize("name", PAIRS)
def test_networks_have_asrts_shapes_and_number_of_parameters(name):
    model, norm = preset(name).ModelConfig, name == "asrt251bn"
    expected, inputs, count = {}, 1, 0
    for number, filters in enumerate(PAIRS[name]):
        for place in ("first", "second"):
            layer = f"pairs.{number}.{place}"
            expected[f"{layer}.conv.weight"] = (filters, inputs, 3, 3)
            count += 9 * inputs * filters
            if inputs > 1 or norm:
                expected[f"{layer}.bias"] = (filters,)
                count += filters
            if norm:
                for leaf in ("moving_mean", "moving_variance", "gamma", "beta"):
                    expected[f"{layer}.norm.{leaf}"] = (filters,)
                count += 4 * filters
            inputs = filters
    for layer, ins, outs in (("hidden", 25 * 128, 128), ("output", 128, 1428)):
        expected |= {f"{layer}.weight": (outs, ins), f"{layer}.bias": (outs,)}
        count += ins * outs + outs
    network = SpeechNetwork(model, 200, 1428, np.random.default_rng(0))
    assert named_shapes(network) == expected
    assert count == PARAMETERS[name]
    assert [pair.pool for pair in model.pairs] == [True] * 3 + [False] * (len(model.pairs) - 3)
    rates = [rate for pair in model.pairs for rate in (pair.dropout, pair.dropout_after)]
    assert [*rates, model.hidden_dropout] == DROPOUT[name]
    assert RECIPE.output_frames(model, 1600) == 200  # ASRT's output shape
    assert RECIPE.frame_stride(model) == 8


def test_the_default_is_speech_model_251bn():
    assert preset("asrt251bn") == TrainConfig()


def test_initial_weights_are_keras_he_normal():
    drawn = he_normal(np.random.default_rng(0), (200, 300), 300)
    deviation = (2 / 300) ** 0.5
    assert abs(drawn.std() / deviation - 1) < 0.01
    assert np.abs(drawn).max() <= 2 * deviation / 0.8796  # cut off at two deviations before scaling


def test_output_frames_of_numbers_and_arrays():
    model = dataclasses.replace(ModelConfig(), end_frames=50)
    frames = np.array([0, 1, 6, 7, 1600])
    assert RECIPE.output_frames(ModelConfig(), frames).tolist() == [0, 1, 1, 1, 200]
    assert RECIPE.output_frames(model, frames).tolist() == [0, 7, 7, 8, 207]
    found = RECIPE.output_frames(model, Tensor(frames, ms.int32))
    assert found.asnumpy().tolist() == [0, 7, 7, 8, 207]


# ---- values

NETWORKS = {
    "normalised": ModelConfig(pairs=[Pair(3), Pair(2, pool=False)], batch_norm=True, hidden_size=6),
    "with dropout": ModelConfig(
        pairs=[Pair(3, dropout=0.3, dropout_after=0.2), Pair(2, pool=True)],
        batch_norm=False,
        first_bias=False,
        hidden_size=4,
        hidden_dropout=0.1,
        end_frames=20,
    ),
}


def built(name: str) -> SpeechModel:
    """A network with random weights, as a checkpoint has it."""
    config = TrainConfig()
    config.ModelConfig = NETWORKS[name]
    config.DataConfig.SpectConfig.sample_rate = 8000
    config.DataConfig.SpectConfig.window_size = 2 * DIMENSION / 8000
    tokenizer = SyllableTokenizer(("ni3", "hao3", "ma5", "a1", "_"))
    model = SpeechModel.create(RECIPE, config, tokenizer, "CPU")
    randomize_norms(model.network)
    rng = np.random.default_rng(3)
    for parameter in model.network.get_parameters():
        if parameter.name.endswith("bias"):
            parameter.set_data(Tensor(rng.normal(0, 0.3, parameter.shape), ms.float32))
    return model


ALL = pytest.mark.parametrize("network", NETWORKS, indirect=True)


@pytest.fixture(scope="module")
def network(request, cpu):
    """A model, and its forward pass, which is compiled once."""
    model = built(request.param)
    assert model.featurizer.dimension == DIMENSION
    return model, forward(model.network, DIMENSION)


def plainly(weights: dict[str, np.ndarray], model: ModelConfig, x: np.ndarray) -> np.ndarray:
    """The network once more, for one utterance x (F, T): (T', C)."""
    x = x[None]
    for number, pair in enumerate(model.pairs):
        for place in ("first", "second"):
            name = f"pairs.{number}.{place}"
            x = reference.convolve(x, weights[f"{name}.conv.weight"], (1, 1))
            x = x + weights.get(f"{name}.bias", np.zeros(len(x)))[:, None, None]
            if model.batch_norm:
                norm = {
                    leaf: weights[f"{name}.norm.{leaf}"][:, None, None]
                    for leaf in ("gamma", "beta", "moving_mean", "moving_variance")
                }
                x = (x - norm["moving_mean"]) / np.sqrt(norm["moving_variance"] + 0.0002)
                x = x * norm["gamma"] + norm["beta"]
            x = np.maximum(x, 0)
        if pair.pool:
            x = np.pad(x, ((0, 0), (0, 0), (0, x.shape[2] % 2)))
            greatest = [
                [
                    x[:, 2 * f : 2 * f + 2, 2 * t : 2 * t + 2].max((1, 2))
                    for f in range(x.shape[1] // 2)
                ]
                for t in range(x.shape[2] // 2)
            ]
            x = np.array(greatest).transpose(2, 1, 0)
    frames = x.transpose(2, 1, 0).reshape(x.shape[2], -1)  # channels last, as in Keras
    hidden = np.maximum(frames @ weights["hidden.weight"].T + weights["hidden.bias"], 0)
    return reference.log_softmax(hidden @ weights["output.weight"].T + weights["output.bias"])


def weights_of(model: SpeechModel) -> dict[str, np.ndarray]:
    return {p.name: p.asnumpy().astype(float) for p in model.network.get_parameters()}


@ALL
def test_values_are_those_of_a_plain_network(network):
    model, run = network
    config = model.config.ModelConfig
    rng = np.random.default_rng(4)
    rows = [rng.exponential(1, (DIMENSION, frames)) for frames in (1, 7, 16, 29)]
    log_probs, lengths = run(*batch_of(rows))
    for row, x in enumerate(rows):
        x = np.pad(x, ((0, 0), (0, config.end_frames)))
        expected = plainly(weights_of(model), config, x)
        assert lengths[row] == len(expected)
        np.testing.assert_allclose(log_probs[: lengths[row], row], expected, atol=2e-5)


@ALL
def test_padding_changes_nothing(network):
    model, run = network
    check_padding(run, DIMENSION, CLASSES, RECIPE, model.config.ModelConfig)


@pytest.mark.parametrize("network", ["with dropout"], indirect=True)
def test_silence_at_the_end_gives_what_asrt_gives_for_its_1600_frames(network):
    model, run = network
    config = model.config.ModelConfig
    ahead = frames_ahead(config) + RECIPE.frame_stride(config)
    assert config.end_frames >= ahead
    x = np.random.default_rng(5).exponential(1, (DIMENSION, 18))
    expected = plainly(weights_of(model), config, np.pad(x, ((0, 0), (0, 200))))
    log_probs, _ = run(*batch_of([x]))
    count = -(-18 // RECIPE.frame_stride(config))
    np.testing.assert_allclose(log_probs[:count, 0], expected[:count], atol=2e-5)


def test_frames_ahead_is_what_an_output_frame_sees():
    model = NETWORKS["with dropout"]
    weights = weights_of(built("with dropout"))
    step, ahead = RECIPE.frame_stride(model), frames_ahead(model)
    x = np.random.default_rng(6).exponential(1, (DIMENSION, 64))
    before = plainly(weights, model, x)[3]
    seen = []
    for offset in range(2 * step + ahead):
        changed = x.copy()
        changed[:, 3 * step + offset] += 50
        if np.abs(plainly(weights, model, changed)[3] - before).max() > 1e-9:
            seen.append(offset)
    assert max(seen) <= step - 1 + ahead
    assert max(seen) >= step - 1 + ahead - 2  # the greater of two frames may hide the other


def test_too_few_bins_and_bad_pairs_are_refused():
    with pytest.raises(UserError, match="features of 7 bins: 8 are halved to one"):
        SpeechNetwork(ModelConfig(), 7, 5, np.random.default_rng(0))
    for pair, message in (
        (Pair(0), r"pairs\[0\].filters=0: expected 1 to"),
        (Pair(4, dropout_after=1.0), r"pairs\[0\].dropout_after=1.0: expected 0 <="),
    ):
        with pytest.raises(UserError, match=message):
            ModelConfig(pairs=[pair]).check()
    with pytest.raises(UserError, match="at least one pair"):
        ModelConfig(pairs=[]).check()


@ALL
def test_an_onnx_file_gives_the_same(network, tmp_path):
    import onnxruntime

    from common.export.onnx import write_onnx

    model, run = network
    write_onnx(model, tmp_path / "a.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "a.onnx")
    rng = np.random.default_rng(7)
    features, lengths = batch_of([rng.exponential(1, (DIMENSION, n)) for n in (5, 31, 8)])
    expected, output_lengths = run(features, lengths)
    inputs = {"features": features, "lengths": lengths.astype(np.int32)}
    found, found_lengths = session.run(None, inputs)
    assert found_lengths.tolist() == output_lengths.tolist()
    for row, length in enumerate(found_lengths):
        np.testing.assert_allclose(found[:length, row], expected[:length, row], atol=2e-5)


# ---- weights of Keras's files

KERNELS = [(1, 3), (3, 3), (3, 2), (2, 2)]  # channels that enter and leave each convolution


def keras_layers(batch_norm: bool) -> dict[str, dict[str, np.ndarray]]:
    """The layers of a network of two pairs as Keras has them, with random weights."""
    rng = np.random.default_rng(8)
    layers: dict[str, dict[str, np.ndarray]] = {"the_input": {}}
    for number, (inputs, outputs) in enumerate(KERNELS):
        kernel = rng.normal(0, 0.3, (3, 3, inputs, outputs))
        layers[f"conv2d_{number + 9}"] = {"kernel": kernel, "bias": rng.normal(0, 0.3, outputs)}
        if batch_norm:
            layers[f"BN{number}"] = {
                **{leaf: rng.uniform(0.5, 2, outputs) for leaf in ("gamma", "moving_variance")},
                **{leaf: rng.normal(0, 0.3, outputs) for leaf in ("beta", "moving_mean")},
            }
    if not batch_norm:
        del layers["conv2d_9"]["bias"]
    for name, ins, outs in (("dense_4", 50 * 2, 4), ("dense_5", 4, 5)):
        kernel = rng.normal(0, 0.3, (ins, outs))
        layers[name] = {"kernel": kernel, "bias": rng.normal(0, 0.3, outs)}
    return layers


def write_keras(path: Path, layers: dict[str, dict[str, np.ndarray]], whole: bool = False) -> None:
    """As `save_weights` of Keras 2 lays a file out, or `save`."""
    h5py = pytest.importorskip("h5py", reason="pip install h5py")
    with h5py.File(path, "w") as file:
        root = file.create_group("model_weights") if whole else file
        root.attrs["layer_names"] = [name.encode() for name in layers]
        for name, weights in layers.items():
            group = root.create_group(name)
            group.attrs["weight_names"] = [f"{name}/{leaf}:0".encode() for leaf in weights]
            for leaf, values in weights.items():
                group[f"{name}/{leaf}:0"] = values.astype(np.float32)


def in_keras(layers: dict[str, dict[str, np.ndarray]], x: np.ndarray) -> np.ndarray:
    """What Keras makes of one utterance x (T, F), channels last: (T / 4, C)."""
    x, convolutions, dense = x[:, :, None], 0, []
    for weights in layers.values():
        kernel = weights.get("kernel")
        if kernel is None and weights:
            x = (x - weights["moving_mean"]) / np.sqrt(weights["moving_variance"] + 0.0002)
            x = x * weights["gamma"] + weights["beta"]
        elif kernel is not None and kernel.ndim == 4:
            if convolutions:
                x = np.maximum(x, 0)
            if convolutions == 2:
                x = pooled(x)
            padded = np.pad(x, ((1, 1), (1, 1), (0, 0)))
            taps = [
                padded[i : i + x.shape[0], j : j + x.shape[1]] @ kernel[i, j]
                for i in range(3)
                for j in range(3)
            ]
            x, convolutions = sum(taps) + weights.get("bias", 0), convolutions + 1
        elif kernel is not None:
            dense.append(weights)
    x = pooled(np.maximum(x, 0)).reshape(x.shape[0] // 2, -1)
    x = np.maximum(x @ dense[0]["kernel"] + dense[0]["bias"], 0)
    return reference.log_softmax(x @ dense[1]["kernel"] + dense[1]["bias"])


def pooled(x: np.ndarray) -> np.ndarray:
    """x (T, F, C), halved by the greatest of two frames and two bins."""
    frames, bins, channels = x.shape
    return x.reshape(frames // 2, 2, bins // 2, 2, channels).max((1, 3))


@pytest.mark.parametrize("batch_norm", [True, False])
def test_keras_weights_become_a_checkpoint_with_equal_outputs(batch_norm, tmp_path, capsys):
    layers = keras_layers(batch_norm)
    write_keras(tmp_path / "a.model.h5", layers, whole=batch_norm)
    dictionary = tmp_path / "dict.txt"
    dictionary.write_text("ni3\t你\nma5\t吗\nhao3\t好\nma5\t嘛\n", encoding="utf-8")
    files = ["--h5", str(tmp_path / "a.model.h5"), "--ckpt", str(tmp_path / "a.ckpt")]
    keras2mind(RECIPE, [*files, "--labels", str(dictionary)])
    assert f"{28 if batch_norm else 11} of" in capsys.readouterr().out

    model = SpeechModel.from_checkpoint(RECIPE, tmp_path / "a.ckpt", "CPU")
    assert model.tokenizer.labels == ("ni3", "ma5", "hao3", "ma5", "_")
    assert model.tokenizer.encode("ma5 hao3") == [3, 2]  # the last, as in ASRT
    config = model.config.ModelConfig
    assert (config.batch_norm, config.first_bias) == (batch_norm, batch_norm)
    assert config.end_frames == 12 >= frames_ahead(config) + 3
    x = np.random.default_rng(9).exponential(1, (16, 200))
    found = plainly(weights_of(model), config, x.T)
    np.testing.assert_allclose(found, in_keras(layers, x), atol=1e-5)


def test_bad_keras_files_are_refused(tmp_path):
    pytest.importorskip("h5py", reason="pip install h5py")
    layers, path = keras_layers(batch_norm=True), tmp_path / "a.h5"
    labels = tmp_path / "dict.txt"
    labels.write_text("ni3\t你\n", encoding="utf-8")

    def refuse(message: str, changed: dict, ckpt: str = "a.ckpt") -> None:
        write_keras(path, changed)
        with pytest.raises(UserError, match=message):
            command = ["--h5", str(path), "--ckpt", str(tmp_path / ckpt)]
            keras2mind(RECIPE, [*command, "--labels", str(labels)])

    refuse("2 labels with the blank, and .* has 5 outputs", layers)
    refuse("reads only checkpoints named", layers, "a.h5")
    refuse(
        "3 convolutions, 4 normalisations, 2 dense layers; expected", without(layers, "conv2d_9")
    )
    refuse("layer other is not of ASRT's", layers | {"other": {"bias": np.zeros(3)}})
    labels.write_text("a1\ta\nb1\tb\nc1\tc\nd1\td\n", encoding="utf-8")
    norm = {key: value for key, value in layers["BN1"].items() if key != "beta"}
    refuse("1 missing .*pairs.0.second.norm.beta", layers | {"BN1": norm})
    path.write_bytes(b"no HDF5")
    with pytest.raises(UserError, match="not a whole HDF5 file"):
        read_layers(path)
    with pytest.raises(UserError, match="no such file"):
        read_layers(tmp_path / "b.h5")


def without(layers: dict, name: str) -> dict:
    return {key: value for key, value in layers.items() if key != name}


# ---- the commands


def test_a_small_network_goes_through_the_commands(tmp_path, monkeypatch):
    make_corpus(tmp_path, train=8)
    monkeypatch.chdir(tmp_path)
    syllables = {"A": "ni3 ", "B": "hao3 ", "C": "ma5 ", "D": "lv4 ", " ": None}
    for name in ("train", "val", "test"):
        lines = [line.rsplit(",", 1) for line in Path(f"{name}.csv").read_text().splitlines()]
        spoken = [f"{audio},{text.translate(str.maketrans(syllables))}" for audio, text in lines]
        Path(f"{name}.csv").write_text("\n".join(spoken) + "\n")
    Path("labels.json").write_text('["hao3", "lv4", "ma5", "ni3", "_"]')
    options = ["train_manifest=train.csv", "val_manifest=[]", "test_manifest=test.csv"]
    options += ["epochs=1", "batch_size=4", "sample_rate=8000", "window_size=0.004", "shards=1"]
    options += ["pairs=[{filters: 2, dropout: 0.1}]", "hidden_size=4", "batch_norm=false"]
    options += ["spec_augment=false", "learning_rate=0.01"]
    cli.create_mindrecord(RECIPE, ["--set", *options])
    cli.train(RECIPE, ["--set", *options])
    logging.getLogger("speech").handlers.clear()
    lines = [line.split(",") for line in Path("metrics.csv").read_text().splitlines()]
    assert np.isfinite(float(lines[1][lines[0].index("train_loss")]))

    metadata = checkpoints.load("checkpoint/ASRT-last.ckpt").metadata
    assert metadata["labels"] == ["hao3", "lv4", "ma5", "ni3", "_"]

    cli.export(
        RECIPE, ["--pre_trained_model_path", "checkpoint/ASRT-last.ckpt", "--file_format", "ONNX"]
    )
    heard = asrt.load("asrt.onnx").transcribe("test/test0.wav")
    assert set(heard.text.split()) <= {"hao3", "lv4", "ma5", "ni3"}
