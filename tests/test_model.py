"""DeepSpeech2 as a whole: names, lengths, the model zoo's checkpoints, refusals, presets."""

from __future__ import annotations

import dataclasses
import math

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor
from networks import batch_of, check_padding, forward, named_shapes, randomize_norms

from benchmarks import reference
from common import config as configs
from common.config import check as check_config
from common.data.loader import Batch
from common.export.export import Options, export
from common.memory import MemoryEstimate
from common.model import checkpoint as checkpoints
from common.model.speech_model import SpeechModel
from common.text.tokenizer import CharacterTokenizer
from common.training.train_step import TrainStep
from common.utils import runtime
from common.utils.errors import UserError
from deepspeech2.src.config import ModelConfig, TrainConfig
from deepspeech2.src.model import DeepSpeech2
from deepspeech2.src.recipe import RECIPE

pytestmark = pytest.mark.usefixtures("cpu")

DIMENSION, CLASSES = 13, 5


def build(config: ModelConfig, dimension: int = DIMENSION, classes: int = CLASSES) -> DeepSpeech2:
    network = DeepSpeech2(config, dimension, classes, np.random.default_rng(0))
    randomize_norms(network)
    return network


def test_full_size_has_the_names_and_shapes_of_the_model_zoo():
    expected = {"conv.conv1.weight": (32, 1, 41, 11), "conv.conv2.weight": (32, 32, 21, 11)}
    for number in (1, 2):
        for leaf in ("moving_mean", "moving_variance", "gamma", "beta"):
            expected[f"conv.bn{number}.{leaf}"] = (32,)
    for layer in range(5):
        for end in ("", "_reverse"):
            prefix = f"RNN.lstms.{layer}."
            expected[f"{prefix}weight_ih_l0{end}"] = (4096, 1024 if layer else 1312)
            expected[f"{prefix}weight_hh_l0{end}"] = (4096, 1024)
            expected[f"{prefix}bias_ih_l0{end}"] = (4096,)
            expected[f"{prefix}bias_hh_l0{end}"] = (4096,)
    expected["fc.module.weight"] = (29, 1024)

    network = DeepSpeech2(ModelConfig(), 161, 29, np.random.default_rng(0))
    assert named_shapes(network) == expected
    trained = sum(int(np.prod(weight.shape)) for weight in network.trainable_params())
    assert round(trained / 1e6, 1) == 86.6


FOREIGN = {"norm": "batch", "activation": "hardtanh", "conv_bias": True}  # deepspeech.pytorch's
ONE_WAY = {"bidirectional": False}
VARIANTS = {
    "original": {},
    "batch": {"norm": "batch", "activation": "hardtanh"},
    "layer": {"norm": "layer", "dropout": 0.5},
    "deepspeech.pytorch": FOREIGN,
    "unidirectional": ONE_WAY,
    "unidirectional, layer": {**ONE_WAY, "norm": "layer", "dropout": 0.2},
    "unidirectional, deepspeech.pytorch": {**ONE_WAY, **FOREIGN},
    "GRU": {"rnn_type": "GRU", **FOREIGN},
    "GRU, unidirectional": {"rnn_type": "GRU", **ONE_WAY, "norm": "layer", "hidden_layers": 1},
    "RNN": {"rnn_type": "RNN", "norm": "layer", "hidden_layers": 1},
    "RNN, unidirectional": {"rnn_type": "RNN", **ONE_WAY, **FOREIGN, "hidden_layers": 1},
}
STATIC = [name for name, keys in VARIANTS.items() if "rnn_type" in keys]


@pytest.mark.parametrize("variant", [name for name in VARIANTS if name not in STATIC])
def test_an_utterance_gives_the_same_alone_and_in_any_batch(variant, small_model):
    config = dataclasses.replace(small_model, **VARIANTS[variant])
    check_padding(forward(build(config), DIMENSION), DIMENSION, CLASSES, RECIPE, config)


@pytest.mark.parametrize("bidirectional", [True, False])
def test_both_forms_of_convolution_give_the_same(bidirectional, small_model, monkeypatch):
    config = dataclasses.replace(small_model, bidirectional=bidirectional)
    rng = np.random.default_rng(6)
    batch = batch_of([rng.standard_normal((DIMENSION, frames)) for frames in (21, 8)])
    found, names = [], []
    for native in (True, False):
        monkeypatch.setattr(runtime, "native_convolutions", lambda device, native=native: native)
        network = build(config)
        log_probs, lengths = forward(network, DIMENSION)(*batch)
        found.append([log_probs[:length, row] for row, length in enumerate(lengths)])
        names.append(named_shapes(network))
    assert names[0] == names[1]
    for native, products in zip(*found):
        np.testing.assert_allclose(products, native, atol=1e-5)


@pytest.mark.parametrize("variant", STATIC)
def test_the_same_in_static_shapes(variant, small_model):
    """One compilation a shape, so few of them."""
    config = dataclasses.replace(small_model, **VARIANTS[variant])
    run = forward(build(config), DIMENSION, static=True)
    rng = np.random.default_rng(3)
    rows = [rng.standard_normal((DIMENSION, frames)) for frames in (8, 5)]
    features, lengths = batch_of(rows)
    features[1, :, 5:] = 7
    together, lengths = run(features, lengths)
    alone, _ = run(*batch_of(rows[1:]))
    assert lengths.tolist() == [4, 3]
    np.testing.assert_allclose(together[:3, 1], alone[:, 0], atol=1e-4)


@pytest.mark.parametrize(
    "variant", [name for name in VARIANTS if name not in ("original", "batch")]
)
def test_every_variant_learns_and_leaves_as_mindir(variant, small_model, tmp_path):
    """Two of them are trained and exported in other files."""
    config = TrainConfig(ModelConfig=dataclasses.replace(small_model, **VARIANTS[variant]))
    override = {"features": "logmel", "bands": DIMENSION, "sample_rate": 8000}
    configs.override(config, {"DataConfig": {"SpectConfig": override}}, "tests")
    speech_model = SpeechModel.create(RECIPE, config, CharacterTokenizer(tuple("ABC _")), "CPU")
    rng = np.random.default_rng(5)
    features, lengths = batch_of([rng.standard_normal((DIMENSION, n)) for n in (8, 6)])
    batch = Batch(
        features=features,
        lengths=lengths.astype(np.int32),
        targets=np.array([[0, 1], [2, 0]], np.int32),
        target_lengths=np.array([2, 1], np.int32),
        indices=np.arange(2),
        ids=["a", "b"],
        valid=2,
        seconds=1.0,
    )
    step = TrainStep(speech_model, MemoryEstimate(parameters=0, per_frame=1.0, limit=1e12))
    before = {p.name: p.asnumpy().copy() for p in speech_model.network.trainable_params()}
    results = [step([batch], 0.05, number) for number in range(6)]
    assert all(result.applied for result in results)
    assert results[-1].loss < results[0].loss
    # Every weight has been reached.
    still = [
        p.name
        for p in speech_model.network.trainable_params()
        if (p.asnumpy() == before[p.name]).all()
    ]
    assert not still
    options = Options(batch_size=2, frames=8)
    path = export(speech_model, tmp_path / "network", options, log=lambda line: None)
    assert path.stat().st_size > 0  # and its values were compared


def test_output_frames_of_ints_and_arrays():
    config = ModelConfig(conv_strides=[[2, 3], [2, 2]])
    for frames in range(1, 40):
        assert RECIPE.output_frames(config, frames) == math.ceil(math.ceil(frames / 3) / 2)
    frames = np.arange(1, 40)
    expected = [RECIPE.output_frames(config, int(count)) for count in frames]
    assert RECIPE.output_frames(config, frames).tolist() == expected


NARROW = ModelConfig(hidden_size=8, hidden_layers=2, conv_channels=4)


def zoo_file(path, parameters: dict, spelling) -> None:
    """A training checkpoint as the model zoo wrote them: no metadata, moments, other names."""
    entries = [
        {"name": spelling(prefix + name), "data": Tensor(factor * value)}
        for prefix, factor in (("moment1.", -1), ("", 1), ("moment2.", 3))
        for name, value in parameters.items()
    ]
    entries += [
        {"name": name, "data": Tensor(value, ms.float32)}
        for name, value in (("beta1_power", 0.9), ("beta2_power", 0.99), ("learning_rate", 3e-4))
    ]
    ms.save_checkpoint(entries, str(path))


SPELLINGS = {
    "plain": lambda name: name,
    "wrapped": lambda name: f"network.{name}",
    "wrapped weights, plain moments": lambda name: (
        name if name.startswith("moment") else f"network.backbone.{name}"
    ),
    "moments of wrapped weights": lambda name: (
        name.replace(".", ".network.", 1) if name.startswith("moment") else f"network.{name}"
    ),
    "older": lambda name: name.replace("RNN", "rnn"),
}


@pytest.fixture(scope="module")
def narrow():
    """(network of NARROW, the same as a function): one compilation for several tests."""
    network = build(NARROW, 161, 29)
    return network, forward(network, 161)


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_a_checkpoint_of_the_model_zoo_gives_the_same_logits(spelling, narrow, tmp_path):
    network, run = narrow
    rng = np.random.default_rng(list(SPELLINGS).index(spelling))
    parameters = reference.random_parameters(rng)
    zoo_file(tmp_path / "zoo.ckpt", parameters, SPELLINGS[spelling])
    found = checkpoints.load(tmp_path / "zoo.ckpt")
    report = checkpoints.load_into(network, found, RECIPE.rename_parameter)
    assert set(report.matched) == set(parameters) == set(named_shapes(network))
    assert not report.missing + report.unused + report.reshaped

    features = rng.standard_normal((161, 45)).astype(np.float32)
    log_probs, lengths = run(*batch_of([features]))
    assert lengths.tolist() == [23]
    np.testing.assert_allclose(
        log_probs[:, 0], reference.deepspeech2(parameters, features), atol=1e-4
    )


def test_the_model_zoo_file_opens_as_a_recogniser(tmp_path):
    """With the recipe's labels and the configuration it is told."""
    parameters = reference.random_parameters(np.random.default_rng(9))
    zoo_file(tmp_path / "zoo.ckpt", parameters, SPELLINGS["older"])
    config, said = TrainConfig(ModelConfig=NARROW), []
    found = SpeechModel.from_checkpoint(
        RECIPE, tmp_path / "zoo.ckpt", "CPU", fallback=config, log=said.append
    )
    assert len(found.tokenizer) == 29 and found.tokenizer.blank == 28
    assert "names no configuration" in said[0]
    weight = found.network.fc.module.weight.asnumpy()
    np.testing.assert_array_equal(weight, parameters["fc.module.weight"])


def test_a_checkpoint_of_another_size_is_refused(narrow, tmp_path):
    network, _ = narrow
    before = network.conv.conv1.weight.asnumpy().copy()
    parameters = reference.random_parameters(np.random.default_rng(0), size=6)
    zoo_file(tmp_path / "zoo.ckpt", parameters, SPELLINGS["plain"])
    with pytest.raises(UserError, match=r"\(29, 6\) in the file|\(24,") as refusal:
        checkpoints.load_into(network, checkpoints.load(tmp_path / "zoo.ckpt"))
    assert "use the ModelConfig it was trained with" in str(refusal.value)
    np.testing.assert_array_equal(network.conv.conv1.weight.asnumpy(), before)


def test_forward_and_gradient_are_those_of_torch(narrow):
    """Padded batch in evaluation; unpadded batch in training, through batch norm and CTC."""
    torch = pytest.importorskip("torch")
    from common.nn.losses import CTCLoss, CTCObjective
    from common.training.optimizers import Gradients

    network, run = narrow
    rng = np.random.default_rng(4)
    parameters = reference.random_parameters(rng)
    for parameter in network.get_parameters():
        if parameter.name in parameters:
            parameter.set_data(Tensor(parameters[parameter.name]))
    theirs = reference.torch_deepspeech2(parameters)

    rows = [rng.standard_normal((161, frames)) for frames in (30, 41, 8)]
    features, lengths = batch_of(rows)
    theirs.eval()
    with torch.no_grad():
        expected, expected_lengths = theirs(torch.tensor(features), torch.tensor(lengths))
    found, found_lengths = run(features, lengths)
    assert found_lengths.tolist() == expected_lengths.tolist()
    for row, length in enumerate(found_lengths):
        np.testing.assert_allclose(found[:length, row], expected[:length, row], atol=1e-4)

    features, lengths = batch_of(list(rng.standard_normal((2, 161, 30))))
    targets, counts = rng.integers(0, 28, (2, 4)), np.array([4, 3])
    theirs.train()
    log_probs, out_lengths = theirs(torch.tensor(features), torch.tensor(lengths))
    expected_losses = torch.nn.functional.ctc_loss(
        log_probs,
        torch.tensor(targets),
        out_lengths,
        torch.tensor(counts),
        blank=28,
        reduction="none",
    )
    expected_losses.mean().backward()
    gradients = {name: value.grad.numpy() for name, value in theirs.named_parameters()}

    weights = network.trainable_params()
    cell = Gradients(CTCObjective(network, CTCLoss(28)), weights).set_train()
    integers = [Tensor(array, ms.int32) for array in (lengths, targets, counts)]
    losses, found = cell(Tensor(features), *integers, Tensor([0.5, 0.5], ms.float32))
    np.testing.assert_allclose(losses.asnumpy(), expected_losses.detach().numpy(), rtol=1e-4)
    scale = max(np.abs(value).max() for value in gradients.values())
    for weight, gradient in zip(weights, found, strict=True):
        np.testing.assert_allclose(
            gradient.asnumpy(),
            gradients[theirs.named_as(weight.name)],
            rtol=1e-2,
            atol=1e-4 * scale,
            err_msg=weight.name,
        )
    buffers = dict(theirs.named_buffers())
    for name in ("conv.bn1.moving_mean", "conv.bn2.moving_variance"):
        found = network.parameters_dict()[name].asnumpy()
        np.testing.assert_allclose(found, buffers[theirs.named_as(name)], rtol=1e-3, atol=1e-5)


REFUSALS = {
    "rnn_type": ("lstm", "expected one of LSTM, GRU, RNN"),
    "norm": ("group", "expected one of none, batch, layer"),
    "activation": ("relu", "expected one of tanh, hardtanh"),
    "hidden_size": (0, "expected at least 1"),
    "hidden_layers": (0, "expected at least 1"),
    "conv_channels": (-1, "expected at least 1"),
    "lookahead_context": (0, "expected at least 1"),
    "dropout": (1.0, "expected 0 <= dropout < 1"),
    "conv_kernels": ([[41, 10], [21, 11]], "expected odd sizes"),
    "conv_strides": ([[2, 2]], "one of each per convolution"),
}


@pytest.mark.parametrize("key", REFUSALS)
def test_what_cannot_be_built_is_refused_by_name(key):
    value, expected = REFUSALS[key]
    with pytest.raises(UserError, match=expected) as refusal:
        check_config(ModelConfig(**{key: value}))
    assert key in str(refusal.value)


def test_malformed_kernels_are_refused():
    for kernels, strides in (([], []), ([[3]], [[1, 1]]), ([[3, 3]], [[0, 1]])):
        with pytest.raises(UserError, match="ModelConfig.conv_kernels"):
            check_config(ModelConfig(conv_kernels=kernels, conv_strides=strides))


def test_the_seed_draws_the_weights(small_model):
    def first(seed: int) -> np.ndarray:
        config = TrainConfig(ModelConfig=small_model)
        config.TrainingConfig.seed = seed
        found = SpeechModel.create(RECIPE, config, CharacterTokenizer(tuple("AB _")), "CPU")
        return found.network.RNN.lstms[1].weight_hh_l0.asnumpy()

    np.testing.assert_array_equal(first(3), first(3))
    assert not np.array_equal(first(3), first(4))


@pytest.mark.parametrize("preset", RECIPE.presets())
def test_every_preset_builds(preset):
    config = RECIPE.train_config()
    configs.override_from_yaml(config, RECIPE.preset(preset))
    tokenizer = CharacterTokenizer.from_file(RECIPE.folder / "labels.json")
    found = SpeechModel.create(RECIPE, config, tokenizer, "CPU")
    expected = (len(tokenizer), config.ModelConfig.hidden_size)
    assert found.network.fc.module.weight.shape == expected
    assert RECIPE.output_frames(config.ModelConfig, 1000) > 100


def test_presets_ship():
    assert {"librispeech", "an4", "quickstart", "mandarin"} <= set(RECIPE.presets())
