"""Mixed precision: what is float16, what never is, and that networks learn with it."""

from __future__ import annotations

import math

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor, nn
from test_steps import ENDLESS, RECIPE, VOCABULARY, TrainConfig, make_batch

from common import config as shared
from common.data.loader import Batch
from common.model.checkpoint import STATELESS
from common.model.speech_model import Forward, SpeechModel
from common.nn import precision
from common.nn.layers import Dense
from common.nn.losses import CTCLoss
from common.nn.matmul_convolution import convolution, time_convolution
from common.nn.norm import LayerNorm, MaskedBatchNorm
from common.nn.recurrent import Lookahead, Recurrent
from common.training.loss_scale import LossScale
from common.training.train_step import TrainStep
from common.utils import ascend, runtime
from common.utils.errors import UserError
from deepspeech2.src.config import ModelConfig
from deepspeech2.src.config import TrainConfig as DeepSpeech2Config
from deepspeech2.src.recipe import RECIPE as DEEPSPEECH2
from jasper.src.config import Block
from jasper.src.config import ModelConfig as JasperModel
from jasper.src.config import TrainConfig as JasperConfig
from jasper.src.recipe import RECIPE as JASPER

pytestmark = pytest.mark.usefixtures("cpu")

FRAMES, BATCH, WIDTH, BANDS = 5, 2, 4, 12


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


def over_time(native: bool, groups: int) -> Given:
    weight, bias = rng().normal(size=(WIDTH, WIDTH // groups, 1, 3)), rng().normal(size=WIDTH)
    return Given(time_convolution(weight, 1, 2, groups, native, bias))


class InBothTypes(nn.Cell):
    """x in float32 -> the results of a cell for it and for x in float16: one graph for both."""

    def __init__(self, cell: nn.Cell):
        super().__init__()
        self.cell = cell

    def construct(self, x):
        return self.cell(x), self.cell(x.astype(ms.float16))


MULTIPLYING = {
    "over time": (lambda: over_time(True, 1), (BATCH, WIDTH, 1, 9)),
    "over time by products": (lambda: over_time(False, 1), (1, WIDTH, BATCH, 9)),
    "over time by channel": (lambda: over_time(True, WIDTH), (BATCH, WIDTH, 1, 9)),
    "over time by channel by products": (lambda: over_time(False, WIDTH), (1, WIDTH, BATCH, 9)),
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
    found, lower = InBothTypes(cell).set_train()(x)
    assert (found.dtype, lower.dtype) == (ms.float32, ms.float16)
    error = np.abs(found.asnumpy() - exact).max() / np.abs(exact).max()
    assert 1e-5 < error < 5e-3  # float16 has 11 bits
    np.testing.assert_allclose(lower.asnumpy(), exact, rtol=5e-3, atol=5e-3 * np.abs(exact).max())
    cell.compile_cache.clear()
    evaluated = cell.set_train(False)(x)
    assert evaluated.dtype == ms.float32
    np.testing.assert_array_equal(evaluated.asnumpy(), exact)


LAYOUTS = {  # shapes of the values and of the mask, axes of the statistics, a channel's in them
    "BCFT": ((2, 3, 4, 50), (2, 50), (0, 2, 3), (1, -1, 1, 1)),
    "1CBT": ((1, 3, 2, 50), (2, 50), (0, 2, 3), (1, -1, 1, 1)),
    "TBC": ((50, 2, 3), (50, 2), (0, 1), (1, 1, -1)),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_statistics_of_batch_normalisation_are_float32(layout):
    """Of values whose squares, and whose sums, float16 has no room for."""
    shape, mask_shape, axes, keep = LAYOUTS[layout]
    x = (rng().normal(5000, 500, shape)).astype(np.float16)
    mask = np.ones(mask_shape, np.float16)
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


def jasper(level: str) -> SpeechModel:
    """A dense block and a separable one."""
    keys = {"filters": 16, "kernel_size": 3, "dropout": 0.0}
    blocks = [
        Block(**keys),
        Block(**keys, repeat=2, residual=True, residual_dense=True),
        Block(**keys, separable=True),
    ]
    config = JasperConfig(
        ModelConfig=JasperModel(blocks=blocks),
        OptimConfig=shared.OptimConfig(optimizer="AdamW", weight_decay=0.0),
    )
    config.TrainingConfig.precision, config.TrainingConfig.ema = level, 0.0
    config.DataConfig.SpectConfig.bands = BANDS
    return SpeechModel.create(JASPER, config, VOCABULARY, "CPU")


def deepspeech2(level: str) -> SpeechModel:
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
    config.DataConfig.SpectConfig.features, config.DataConfig.SpectConfig.bands = "logmel", BANDS
    return SpeechModel.create(DEEPSPEECH2, config, VOCABULARY, "CPU")


def exact_loss(speech_model: SpeechModel, batch: Batch) -> float:
    """Of fresh weights in float32, with the statistics of the batch."""
    forward = Given(speech_model.network, Tensor(batch.lengths)).set_train()
    log_probs, lengths = forward(Tensor(batch.features))
    targets = Tensor(batch.targets), Tensor(batch.target_lengths)
    return CTCLoss(VOCABULARY.blank)(log_probs, lengths, *targets).asnumpy().mean()


class Run:
    """Ten steps in float16 from fresh weights, whose loss in float32 is `expected`."""

    def __init__(self, speech_model: SpeechModel, batch: Batch, expected: float):
        self.speech_model, self.batch, self.expected = speech_model, batch, expected
        self.network = speech_model.network
        self.step = TrainStep(speech_model, ENDLESS)
        self.results = [self.step([batch], 0.02, number) for number in range(10)]


@pytest.fixture(scope="module")
def runs() -> dict[str, Run]:
    small = make_batch((12, 10, 9, 7), dimension=BANDS)
    large = make_batch((40, 30, 28, 24), dimension=BANDS)
    found = {}
    for make, batch in ((jasper, small), (deepspeech2, large)):
        expected = exact_loss(make("O0"), batch)
        for level in ("O2", "O3"):
            found[f"{make.__name__}, {level}"] = Run(make(level), batch, expected)
    return found


@pytest.mark.parametrize("level", ["O2", "O3"])
@pytest.mark.parametrize("name", ["jasper", "deepspeech2"])
def test_ten_steps_in_float16_learn(name, level, runs):
    run = runs[f"{name}, {level}"]
    assert run.step.gradients.objective.half_features == (level == "O3")
    assert all(result.applied for result in run.results)
    losses = [result.loss for result in run.results]
    assert losses[-1] < 0.7 * losses[0]
    assert 1e-7 < abs(losses[0] / run.expected - 1) < 5e-3
    kept = [*run.network.get_parameters(), *run.step.state().values()]
    assert {parameter.dtype for parameter in kept} - {ms.int32} == {ms.float32}


@pytest.mark.parametrize("name", ["jasper", "deepspeech2"])
def test_float16_passes_between_the_layers_up_to_a_softmax_in_float32(name, runs):
    """At O3; that each layer keeps the type of what it is given is asserted above."""
    run = runs[f"{name}, O3"]
    found, log_probs = Inside(run.network, name, run.batch).set_train()()
    assert (found.dtype, log_probs.dtype) == (ms.float16, ms.float32)
    sums = np.exp(log_probs.asnumpy().astype(np.float64)).sum(-1)
    np.testing.assert_allclose(sums, 1, atol=1e-5)  # float16 log-probabilities: to 1e-3


class Inside(nn.Cell):
    """What leaves a network's first part, given float16, and its log-probabilities."""

    def __init__(self, network: nn.Cell, name: str, batch: Batch):
        super().__init__(auto_prefix=False)
        self.network, self.lengths = network, Tensor(batch.lengths)
        features = batch.features.astype(np.float16)
        self.features = Tensor(features)
        if name == "deepspeech2":
            self.first, self.entering = network.conv, Tensor(features[:, None])
        else:
            self.first = network.encoder
            use_matmul = features.transpose(1, 0, 2)[None]
            self.entering = Tensor(features[:, :, None] if network.native else use_matmul)

    def construct(self):
        found, _ = self.first(self.entering, self.lengths)
        log_probs, _ = self.network(self.features, self.lengths)
        return found, log_probs


def test_evaluation_is_in_float32(runs):
    run = runs["deepspeech2, O3"]
    log_probs, _ = Forward(run.speech_model)(run.batch.features, run.batch.lengths)
    precision.apply(run.network, "O0")
    exact, _ = Forward(run.speech_model)(run.batch.features, run.batch.lengths)
    precision.apply(run.network, "O3")
    np.testing.assert_array_equal(log_probs, exact)


def test_a_step_too_small_for_float16_is_not_lost(runs):
    """The weights that are kept are float32: near 1, float16 goes by steps of 1e-3."""
    run = runs["jasper, O3"]
    gamma = run.network.encoder.layers[0].conv[1].batchnorm.gamma
    for number in (10, 11):
        before = gamma.asnumpy().copy()
        assert run.step([run.batch], 1e-5, number).applied
        moved = np.abs(gamma.asnumpy() - before)
        assert 1e-7 < moved.max() < 1e-4


def test_too_high_a_scale_overflows_float16_and_is_halved_until_it_does_not(runs, monkeypatch):
    run = runs["jasper, O3"]
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


def test_bfloat16_is_for_chips_that_have_it(monkeypatch):
    cell = Dense(3, 2)
    assert precision.apply(cell, "BF16") == 1 and cell.half == precision.BFLOAT16
    x = Tensor([[1.0, 2.0**-9 + 1]], ms.float32)
    assert precision.maybe_half(x, cell.half).dtype == ms.bfloat16
    assert precision.maybe_half(x, 0).dtype == ms.float32
    with pytest.raises(UserError, match="precision=BF16 is for Ascend 910B and later.*is CPU"):
        TrainStep(jasper("BF16"), ENDLESS)
    for chip, there in (("ascend910b", True), ("ascend910_93", True), ("ascend910", False)):
        monkeypatch.setattr(runtime, "ascend_settings", lambda c=chip: ascend.settings(c, {}))
        assert runtime.multiplies_bfloat16("Ascend") == there


def test_levels_and_networks_that_there_are_not():
    with pytest.raises(UserError, match="precision=O1: expected one of O0, O2, O3"):
        TrainStep(jasper("O1"), ENDLESS)
    config = TrainConfig()
    config.TrainingConfig.precision = "O2"
    with pytest.raises(UserError, match="precision=O2: no cell of this network"):
        TrainStep(SpeechModel.create(RECIPE, config, VOCABULARY, "CPU"), ENDLESS)
