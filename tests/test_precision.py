"""Mixed precision: what is float16, what never is, and that networks learn with it."""

from __future__ import annotations

import dataclasses
import math

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor, nn, ops
from test_steps import ENDLESS, RECIPE, VOCABULARY, TrainConfig, make_batch

from common import config as shared
from common import precision
from common.checkpoint import STATELESS
from common.convolution import convolution
from common.dataset import Batch
from common.errors import UserError
from common.nn import (
    CTCLoss,
    Dense,
    Dropout,
    LayerNorm,
    Lookahead,
    MaskedBatchNorm,
    Recurrent,
    frame_mask,
)
from common.recogniser import Forward, Recogniser
from common.scaling import LossScale
from common.steps import TrainStep
from deepspeech2.src.config import ModelConfig
from deepspeech2.src.config import TrainConfig as DeepSpeech2Config
from deepspeech2.src.recipe import RECIPE as DEEPSPEECH2

pytestmark = pytest.mark.usefixtures("cpu")

FRAMES, BATCH, WIDTH = 5, 2, 4


def rng() -> np.random.Generator:
    return np.random.default_rng(0)


class Given(nn.Cell):
    """A cell with its further inputs: x -> its result."""

    def __init__(self, cell: nn.Cell, *more: Tensor):
        super().__init__()
        self.cell, self.more = cell, more

    def construct(self, x):
        return self.cell(x, *self.more)


def convolved(native: bool, kernel: tuple[int, int]) -> Given:
    weight, bias = rng().normal(size=(3, 2, *kernel)), rng().normal(size=3)
    return Given(convolution(weight, (1, 2), native, bias))


def recurrent(kind: str) -> Given:
    return Given(Recurrent(kind, WIDTH, 5, True, rng()), Tensor([FRAMES, 4], ms.int32))


def looking_ahead(native: bool) -> Given:
    return Given(Lookahead(WIDTH, 3, rng(), native), Tensor(np.ones((FRAMES, BATCH), np.float32)))


MULTIPLYING = {
    "convolution": (lambda: convolved(True, (3, 3)), (BATCH, 2, 6, FRAMES)),
    "convolution by narrow products": (lambda: convolved(False, (3, 3)), (BATCH, 2, 6, FRAMES)),
    "LSTM": (lambda: recurrent("LSTM"), (FRAMES, BATCH, WIDTH)),
    "GRU": (lambda: recurrent("GRU"), (FRAMES, BATCH, WIDTH)),
    "lookahead": (lambda: looking_ahead(True), (FRAMES, BATCH, WIDTH)),
    "lookahead by products": (lambda: looking_ahead(False), (FRAMES, BATCH, WIDTH)),
    "dense": (lambda: Given(Dense(WIDTH, 5)), (FRAMES, BATCH, WIDTH)),
}


@pytest.mark.parametrize("name", MULTIPLYING)
def test_products_are_float16_in_training_alone_and_keep_the_type(name):
    make, shape = MULTIPLYING[name]
    x = Tensor(rng().standard_normal(shape).astype(np.float32))
    ms.set_seed(1)
    cell = make().set_train()
    exact = cell(x).asnumpy()
    assert precision.apply(cell, "O2") >= 1
    found = {}
    for training in (True, False):
        cell.compile_cache.clear()
        cell.set_train(training)
        found[training] = cell(x)
        assert found[training].dtype == ms.float32
    np.testing.assert_array_equal(found[False].asnumpy(), exact)
    error = np.abs(found[True].asnumpy() - exact).max() / np.abs(exact).max()
    assert 1e-5 < error < 5e-3  # float16 has 11 bits
    cell.set_train()
    lower = cell(x.astype(ms.float16))
    assert lower.dtype == ms.float16
    np.testing.assert_allclose(lower.asnumpy(), exact, rtol=5e-3, atol=5e-3 * np.abs(exact).max())


@pytest.mark.parametrize("layout", ["BCFT", "TBC"])
def test_the_statistics_of_batch_normalisation_are_float32(layout):
    """Of values whose squares, and whose sums, float16 has no room for."""
    shape = (2, 3, 4, 50) if layout == "BCFT" else (50, 2, 3)
    axes, keep = ((0, 2, 3), (1, -1, 1, 1)) if layout == "BCFT" else ((0, 1), (1, 1, -1))
    x = (rng().normal(5000, 500, shape)).astype(np.float16)
    mask = np.ones((2, 50) if layout == "BCFT" else (50, 2), np.float16)
    norm = MaskedBatchNorm(3, layout).set_train()
    found = norm(Tensor(x), Tensor(mask))
    exact = x.astype(np.float64)
    mean, variance = exact.mean(axes), exact.var(axes)
    assert found.dtype == ms.float16
    normalised = (exact - mean.reshape(keep)) / np.sqrt(variance.reshape(keep))
    np.testing.assert_allclose(found.asnumpy(), normalised, rtol=2e-3, atol=4e-3)
    assert norm.moving_variance.dtype == norm.moving_mean.dtype == ms.float32
    np.testing.assert_allclose(norm.moving_mean.asnumpy(), 0.1 * mean, rtol=1e-5)
    unbiased = variance * (x.size // 3) / (x.size // 3 - 1)
    np.testing.assert_allclose(norm.moving_variance.asnumpy(), 0.9 + 0.1 * unbiased, rtol=1e-3)


def test_layer_normalisation_and_the_loss_are_float32():
    x = rng().normal(3000, 500, (5, 2, 8)).astype(np.float16)
    found = LayerNorm((8,), epsilon=1e-5)(Tensor(x))
    exact = x.astype(np.float64)
    exact = (exact - exact.mean(-1, keepdims=True)) / exact.std(-1, keepdims=True)
    assert found.dtype == ms.float16
    np.testing.assert_allclose(found.asnumpy(), exact, atol=2e-3)
    # 300 frames of -400 each: a loss that float16 has no room for
    log_probs = Tensor(np.full((300, 1, 3), -400, np.float16))
    lengths = Tensor([300], ms.int32), Tensor([[0]], ms.int32), Tensor([1], ms.int32)
    losses = CTCLoss(2)(log_probs, *lengths)
    assert losses.dtype == ms.float32
    # As many paths as there are pairs of a first and a last frame of the label.
    expected = 300 * 400 - math.log(300 * 301 / 2)
    assert losses.asnumpy()[0] == pytest.approx(expected, rel=1e-6)


# ---- networks


class Convolutional(nn.Cell):
    """Two convolutions over time with batch normalisation and dropout, and an output layer."""

    def __init__(self, config, dimension, classes, rng, device):
        super().__init__()
        deviation = 1 / math.sqrt(3 * dimension)
        first = rng.normal(0, deviation, (16, dimension, 1, 3))
        second = rng.normal(0, 1 / math.sqrt(48), (16, 16, 1, 3))
        self.convolutions = nn.CellList(
            [convolution(first, (1, 1), False), convolution(second, (1, 1), False)]
        )
        self.norms = nn.CellList([MaskedBatchNorm(16), MaskedBatchNorm(16)])
        self.dropout = Dropout(0.0, 16, 0)
        self.out = Dense(16, classes)

    def construct(self, features, lengths):
        mask = frame_mask(lengths, features.shape[2]).astype(features.dtype)
        x = features.expand_dims(2) * mask.reshape((mask.shape[0], 1, 1, -1))
        for index in range(len(self.convolutions)):
            x = ops.relu(self.norms[index](self.convolutions[index](x), mask))
            x = x * mask.reshape((mask.shape[0], 1, 1, -1))
        x = self.dropout(x.squeeze(2).transpose((2, 0, 1)))
        return ops.log_softmax(self.out(x).astype(ms.float32), -1), lengths


def convolutional(level: str) -> Recogniser:
    config = TrainConfig(OptimConfig=shared.OptimConfig(optimizer="AdamW", weight_decay=0.0))
    config.TrainingConfig.precision = level
    recipe = dataclasses.replace(RECIPE, build_network=Convolutional)
    return Recogniser.create(recipe, config, VOCABULARY, "CPU")


def deepspeech2(level: str) -> Recogniser:
    model = ModelConfig(
        hidden_size=8,
        hidden_layers=1,
        norm="layer",
        activation="hardtanh",
        conv_channels=3,
        conv_kernels=[[5, 3]],
        conv_strides=[[2, 2]],
    )
    config = DeepSpeech2Config(ModelConfig=model)
    config.TrainingConfig.precision = level
    config.DataConfig.SpectConfig.features, config.DataConfig.SpectConfig.bands = "logmel", 12
    return Recogniser.create(DEEPSPEECH2, config, VOCABULARY, "CPU")


class Run:
    """Ten steps in float16 from fresh weights."""

    def __init__(self, recogniser: Recogniser, batch: Batch):
        self.recogniser, self.batch = recogniser, batch
        self.network = recogniser.network
        self.step = TrainStep(recogniser, ENDLESS)
        # What float32 makes of it before the first step, with the statistics of the batch.
        precision.apply(self.network, "O0")
        forward = Given(self.network, Tensor(batch.lengths)).set_train()
        log_probs, lengths = forward(Tensor(batch.features))
        targets = Tensor(batch.targets), Tensor(batch.target_lengths)
        self.expected = CTCLoss(VOCABULARY.blank)(log_probs, lengths, *targets).asnumpy().mean()
        precision.apply(self.network, recogniser.config.TrainingConfig.precision)
        self.results = [self.step([batch], 0.02, number) for number in range(10)]


@pytest.fixture(scope="module")
def runs() -> dict[str, Run]:
    small, large = make_batch((12, 10, 9, 7)), make_batch((40, 30, 28, 24), dimension=12)
    return {
        "convolutional, O3": Run(convolutional("O3"), small),
        "deepspeech2, O2": Run(deepspeech2("O2"), large),
        "deepspeech2, O3": Run(deepspeech2("O3"), large),
    }


@pytest.mark.parametrize("name", ["convolutional, O3", "deepspeech2, O2", "deepspeech2, O3"])
def test_ten_steps_in_float16_learn(name, runs):
    run = runs[name]
    assert all(result.applied for result in run.results)
    losses = [result.loss for result in run.results]
    assert losses[-1] < 0.7 * losses[0]
    assert 1e-7 < abs(losses[0] / run.expected - 1) < 5e-3
    kept = [*run.network.get_parameters(), *run.step.state().values()]
    assert {parameter.dtype for parameter in kept} - {ms.int32} == {ms.float32}


def test_the_levels_differ_in_what_passes_between_the_layers(runs):
    """Where the next product rounds anyway, as here, the losses of O2 and O3 are equal."""
    for level, given in (("O2", ms.float32), ("O3", ms.float16)):
        run = runs[f"deepspeech2, {level}"]
        assert run.step.gradients.objective.half_features == (level == "O3")
        front = Given(run.network.conv, Tensor(run.batch.lengths)).set_train()
        features = np.expand_dims(run.batch.features, 1)
        passed, _ = front(Tensor(features).astype(given))
        assert passed.dtype == given


def test_softmax_is_float32_and_so_is_evaluation(runs):
    run = runs["deepspeech2, O3"]
    forward = Forward(run.recogniser)
    log_probs, _ = forward(run.batch.features, run.batch.lengths)
    precision.apply(run.network, "O0")
    exact, _ = Forward(run.recogniser)(run.batch.features, run.batch.lengths)
    precision.apply(run.network, "O3")
    np.testing.assert_array_equal(log_probs, exact)
    lower = Given(run.network, Tensor(run.batch.lengths)).set_train()
    log_probs, _ = lower(Tensor(run.batch.features.astype(np.float16)))
    assert log_probs.dtype == ms.float32
    sums = np.exp(log_probs.asnumpy().astype(np.float64)).sum(-1)
    np.testing.assert_allclose(sums, 1, atol=1e-5)  # float16 log-probabilities: to 1e-3


def test_a_step_too_small_for_float16_is_not_lost(runs):
    """The weights that are kept are float32: near 1, float16 goes by steps of 1e-3."""
    run = runs["convolutional, O3"]
    gamma = run.network.norms[0].gamma
    for number in (10, 11):
        before = gamma.asnumpy().copy()
        assert run.step([run.batch], 1e-5, number).applied
        moved = np.abs(gamma.asnumpy() - before)
        assert 1e-7 < moved.max() < 1e-4


def test_too_high_a_scale_overflows_float16_and_is_halved_until_it_does_not(runs, monkeypatch):
    run = runs["convolutional, O3"]
    monkeypatch.setattr(run.step, "scaling", LossScale(2.0**24, dynamic=True))
    start = {p: p.asnumpy().copy() for p in run.network.get_parameters()}
    results = []
    while not results or results[-1].overflowed:
        for parameter, value in start.items():
            if STATELESS not in parameter.name:
                np.testing.assert_array_equal(parameter.asnumpy(), value)
        results.append(run.step([run.batch], 0.01, len(results)))
    assert 3 <= len(results) < 20
    assert [result.scale for result in results] == [2.0 ** (24 - n) for n in range(len(results))]
    assert results[-1].applied and math.isfinite(results[-1].norm)
    after = run.step([run.batch], 0.01, len(results))
    assert (after.scale, after.applied) == (results[-1].scale, True)


def test_levels_and_networks_that_there_are_not():
    with pytest.raises(UserError, match="precision=O1: expected one of O0, O2, O3"):
        TrainStep(convolutional("O1"), ENDLESS)
    config = TrainConfig()
    config.TrainingConfig.precision = "O2"
    with pytest.raises(UserError, match="precision=O2: no cell of this network"):
        TrainStep(Recogniser.create(RECIPE, config, VOCABULARY, "CPU"), ENDLESS)
