"""The training step: what is summed, what counts, what is left alone. Mostly on a tiny network."""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from mindspore import Tensor, nn, ops

from benchmarks import reference
from common import config as shared
from common.data.loader import Batch
from common.memory import MemoryEstimate, forecast_memory
from common.model.checkpoint import STATELESS
from common.model.recipe import MemoryModel, Recipe
from common.model.speech_model import Forward, SpeechModel
from common.nn.dropout import Dropout
from common.nn.layers import frame_mask, uniform
from common.nn.norm import MaskedBatchNorm
from common.text.tokenizer import CharacterTokenizer
from common.training.distributed import ProcessGroup
from common.training.loss_scale import LossScale
from common.training.progress import Progress
from common.training.train_step import TrainStep
from common.utils.errors import UserError
from deepspeech2.src.config import TrainConfig as DeepSpeech2Config
from deepspeech2.src.recipe import RECIPE as DEEPSPEECH2

pytestmark = pytest.mark.usefixtures("cpu")

DIMENSION = 4
VOCABULARY = CharacterTokenizer(tuple("AB_"))
ENDLESS = MemoryEstimate(parameters=0, per_frame=1.0, limit=1e12)


# A third model, the least that a recipe can be: one linear layer over each frame.


@dataclass
class LinearConfig:
    norm: bool = False
    dropout: float = 0.0


@dataclass
class TrainConfig:
    TrainingConfig: shared.TrainingConfig = field(default_factory=shared.TrainingConfig)
    DataConfig: shared.DataConfig = field(default_factory=shared.DataConfig)
    ModelConfig: LinearConfig = field(default_factory=LinearConfig)
    OptimConfig: shared.OptimConfig = field(default_factory=shared.OptimConfig)


class Linear(nn.Cell):
    def __init__(self, config, dimension, classes, rng, device):
        super().__init__()
        self.normalised = config.norm
        if config.norm:
            self.norm = MaskedBatchNorm(dimension, "TBC")
        self.dropout = Dropout(config.dropout, dimension, 0)
        self.out = nn.Dense(
            dimension, classes, uniform(rng, 1, classes, dimension), uniform(rng, 1, classes)
        )

    def construct(self, features, lengths):
        x = features.transpose((2, 0, 1))
        if self.normalised:
            x = self.norm(x, frame_mask(lengths, x.shape[0]).transpose((1, 0)))
        return ops.log_softmax(self.out(self.dropout(x)), -1), lengths


RECIPE = Recipe(
    name="linear",
    folder=Path("."),
    train_config=TrainConfig,
    eval_config=shared.EvalConfig,
    build_network=Linear,
    build_featurizer=lambda data: SimpleNamespace(dimension=DIMENSION),
    output_frames=lambda config, frames: frames,
    memory=MemoryModel(lambda config, dimension: 1.0, 0.4, 13.5, 5.0),
    head="out",
)
OPTIMISER = shared.OptimConfig(optimizer="SGD", momentum=0.9, weight_decay=0.0)


def make_batch(
    lengths=(9, 8, 5, 6, 4), seed: int = 0, repeats: int = 0, dimension: int = DIMENSION
) -> Batch:
    """Utterances of two labels; `repeats`: of the last one, past the rows that count."""
    rng = np.random.default_rng(seed)
    rows = len(lengths)
    features = rng.standard_normal((rows, dimension, max(lengths)))
    features *= np.arange(max(lengths)) < np.array(lengths)[:, None, None]
    order = [*range(rows), *[rows - 1] * repeats]
    return Batch(
        features=features[order].astype(np.float32),
        lengths=np.array(lengths, np.int32)[order],
        targets=rng.integers(0, 2, (rows, 2)).astype(np.int32)[order],
        target_lengths=np.full(rows + repeats, 2, np.int32),
        indices=tuple(order),
        ids=tuple(f"{seed}-{index}" for index in order),
        valid=rows,
        seconds=1.0,
    )


def joined(first: Batch, second: Batch) -> Batch:
    arrays = ("features", "lengths", "targets", "target_lengths")
    return dataclasses.replace(
        first,
        **{name: np.concatenate((getattr(first, name), getattr(second, name))) for name in arrays},
        ids=first.ids + second.ids,
        indices=first.indices + second.indices,
        valid=first.valid + second.valid,
    )


def poisoned(batch: Batch, row: int, value: float = np.nan) -> Batch:
    features = batch.features.copy()
    features[row, 0, 1] = value
    return dataclasses.replace(batch, features=features)


def values(cell: nn.Cell) -> dict[str, np.ndarray]:
    """Every parameter of a cell, but for the seeds that each step draws."""
    return {
        parameter.name: parameter.asnumpy().copy()
        for parameter in cell.get_parameters()
        if STATELESS not in parameter.name
    }


def assert_equal(found: dict, expected: dict, rtol: float = 0.0) -> None:
    assert set(found) == set(expected)
    for name in expected:
        np.testing.assert_allclose(found[name], expected[name], rtol, rtol / 100, err_msg=name)


class Bench:
    """One compiled step whose weights and optimizer state go back before every use."""

    def __init__(self, model: LinearConfig | None = None, ema: float = 0.0, **optim):
        config = TrainConfig(
            ModelConfig=model or LinearConfig(), OptimConfig=dataclasses.replace(OPTIMISER, **optim)
        )
        config.TrainingConfig.ema = ema
        self.speech_model = SpeechModel.create(RECIPE, config, VOCABULARY, "CPU")
        self.network = self.speech_model.network
        self.step = TrainStep(self.speech_model, ENDLESS)
        self.start = {
            parameter: parameter.asnumpy().copy() for parameter in self.step.update.get_parameters()
        }

    def __call__(self, *batches: Batch, micro_batch=0, rate=0.1, clip=0.0, number=1, total=None):
        for parameter, value in self.start.items():
            parameter.set_data(Tensor(value))
        self.step.forecast = dataclasses.replace(ENDLESS, micro_batch=micro_batch)
        self.step.clip_norm = clip
        result = self.step(batches, rate, number, total)
        return result, values(self.network)


@pytest.fixture(scope="module")
def bench():
    return Bench()


def test_loss_and_gradient_are_those_of_the_mean_over_the_utterances(bench):
    batch = make_batch((6, 5, 4))
    before = {parameter.name: value for parameter, value in bench.start.items()}
    before = {name: before[name] for name in values(bench.network)}
    result, after = bench(batch, rate=0.5)
    gradient = {name: (before[name] - after[name]) / 0.5 for name in before}
    norm = np.sqrt(sum((value**2).sum() for value in gradient.values()))

    def loss(step: float) -> float:
        moved = {name: before[name] - step * gradient[name] for name in before}
        return np.mean(
            [
                reference.ctc_loss(
                    reference.log_softmax(
                        batch.features[row, :, : batch.lengths[row]].T @ moved["out.weight"].T
                        + moved["out.bias"]
                    ),
                    batch.targets[row],
                    VOCABULARY.blank,
                )
                for row in range(3)
            ]
        )

    assert result.applied and result.loss == pytest.approx(loss(0), rel=1e-4)
    assert result.norm == pytest.approx(norm, rel=1e-3)
    assert (loss(-1e-4) - loss(1e-4)) / 2e-4 == pytest.approx(norm**2, rel=1e-3)


def test_a_step_that_saturated_on_the_device_is_not_applied(bench, monkeypatch):
    """As on a 910A, where float16 overflows to 65504 and all numbers stay finite."""

    class Register:
        calls: list[str] = []
        overflow = True

        def clear(self):
            self.calls.append("clear")

        def __call__(self, gradients):
            self.calls.append(f"{len(gradients)} gradients")
            return self.overflow

    register, scale = Register(), bench.step.scaling.scale
    monkeypatch.setattr(bench.step, "saturated", register)
    monkeypatch.setattr(bench.step.scaling, "dynamic", True)
    result, after = bench(make_batch(), micro_batch=2)
    unmoved = {parameter.name: value for parameter, value in bench.start.items()}
    assert_equal(after, {name: unmoved[name] for name in after})
    assert not result.applied and result.overflowed and np.isfinite(result.norm)
    assert bench.step.scaling.scale == scale / 2
    assert register.calls == ["clear", "2 gradients"]
    register.overflow = False
    assert bench(make_batch())[0].applied
    bench.step.scaling.scale = scale


def make_rows(batch: Batch, rows: slice) -> Batch:
    names = ("features", "lengths", "targets", "target_lengths", "ids", "indices")
    picked = {name: getattr(batch, name)[rows] for name in names}
    return dataclasses.replace(batch, **picked, valid=len(picked["ids"]))


@pytest.mark.parametrize("micro_batch", [1, 2, 4])
def test_micro_batches_do_not_change_the_step(micro_batch, bench):
    expected, weights = bench(make_batch())
    found, same = bench(make_batch(), micro_batch=micro_batch)
    assert found.loss == pytest.approx(expected.loss, rel=1e-5)
    assert found.norm == pytest.approx(expected.norm, rel=1e-4)
    assert_equal(same, weights, rtol=1e-4)


def test_batches_that_make_one_step_are_one_batch(bench):
    first, second = make_batch((9, 8, 7)), make_batch((9, 4), seed=1)
    expected, weights = bench(joined(first, second))
    for micro_batch in (0, 2):
        found, same = bench(first, second, micro_batch=micro_batch)
        assert found.loss == pytest.approx(expected.loss, rel=1e-5)
        assert_equal(same, weights, rtol=1e-4)


def test_repeats_do_not_count(bench):
    expected, weights = bench(make_batch())
    for micro_batch in (0, 2, 1):
        found, same = bench(make_batch(repeats=3), micro_batch=micro_batch)
        assert found.loss == pytest.approx(expected.loss, rel=1e-5)
        assert_equal(same, weights, rtol=1e-4)


@pytest.mark.parametrize("bidirectional", [True, False])
def test_repeats_enter_neither_gradients_nor_the_statistics_of_normalisation(
    small_model, bidirectional
):
    model = dataclasses.replace(small_model, norm="batch", bidirectional=bidirectional)
    step, network = deepspeech2(model)
    gradients, seen = step.gradients, []

    class Recorder:
        def set_train(self):
            gradients.set_train()

        def __call__(self, *inputs):
            losses, found = gradients(*inputs)
            seen.append([each.asnumpy() / step.scaling.scale for each in found])
            return losses, found

    step.gradients = Recorder()
    start, averages = values(network), []
    for repeats in (0, 5):
        for parameter in network.get_parameters():
            if parameter.name in start:
                parameter.set_data(Tensor(start[parameter.name]))
        batch = make_batch((20, 16, 18), repeats=repeats, dimension=12)
        assert len(batch.ids) == 3 + repeats
        assert step([batch], 0.0, number=1).applied
        after = values(network)
        averages.append({name: after[name] for name in after if "moving" in name})
    alone, padded = averages
    assert len(alone) == 2 * 4 and all((alone[name] != start[name]).all() for name in alone)
    for name in alone:
        np.testing.assert_allclose(padded[name], alone[name], rtol=1e-5, atol=1e-6, err_msg=name)
    for parameter, found, expected in zip(step.update.weights, seen[1], seen[0], strict=True):
        assert np.abs(expected).max() > 0
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5, err_msg=parameter.name)


def test_a_rank_that_only_keeps_step_gives_nothing_and_takes_what_the_others_found(normalised):
    normalised(make_batch(), total=5)
    step, before, given = normalised.step, values(normalised.network), []

    def reduce(gradients):
        given.extend(each.asnumpy() for each in gradients)
        return tuple(each + step.scaling.scale for each in gradients)

    step.reduce = reduce
    try:
        idle = dataclasses.replace(make_batch(seed=3), valid=0)
        result = step([idle], 0.5, number=2, total=5)
    finally:
        step.reduce = None
    assert result.applied and result.loss == 0
    assert [each.shape for each in given] == [each.shape for each in step.update.weights]
    assert not any(each.any() for each in given)
    after = values(normalised.network)
    for name in before:
        moved = after[name] - before[name]
        assert (moved < 0).all() if "moving" not in name else not moved.any(), name


def test_the_mean_is_over_the_utterances_of_all_ranks(bench):
    alone, _ = bench(make_batch())
    shared_step, _ = bench(make_batch(), total=20)
    assert shared_step.norm == pytest.approx(alone.norm * 5 / 20, rel=1e-4)


def test_clipping_and_learning_rate_scale_the_step(bench):
    before = {parameter.name: value for parameter, value in bench.start.items()}
    result, full = bench(make_batch())
    _, clipped = bench(make_batch(), clip=result.norm / 4)
    _, unclipped = bench(make_batch(), clip=result.norm * 4)
    _, slow = bench(make_batch(), rate=0.05)
    for name in full:
        way = full[name] - before[name]
        np.testing.assert_allclose(clipped[name] - before[name], way / 4, rtol=1e-3, atol=1e-7)
        np.testing.assert_allclose(slow[name] - before[name], way / 2, rtol=1e-3, atol=1e-7)
        np.testing.assert_allclose(unclipped[name], full[name], rtol=1e-6)


def test_the_loss_scale_is_undone(bench):
    assert bench.step.scaling.scale == 1024
    expected, weights = bench(make_batch(), clip=0.5)
    found, same = Bench(loss_scale=1.0)(make_batch(), clip=0.5)
    assert found.norm == pytest.approx(expected.norm, rel=1e-5) and found.norm > 0.5
    assert_equal(same, weights, rtol=1e-5)


@pytest.mark.parametrize("micro_batch", [0, 1])
def test_a_non_finite_utterance_is_named_and_nothing_moves(micro_batch, bench):
    bench(make_batch())
    before, state = values(bench.network), values(bench.step.update)
    for value in (np.nan, np.inf):
        result = bench.step([poisoned(make_batch(), 3, value)], 0.1, number=2)
        assert not result.applied and result.blamed == ["0-3"]
        assert not np.isfinite(result.norm)
    assert_equal(values(bench.network), before)
    assert_equal(values(bench.step.update), state)
    again = bench.step([make_batch()], 0.1, number=3)
    assert again.applied and not again.blamed


@pytest.fixture
def dynamic(bench, monkeypatch):
    """The bench with a loss scale that adapts."""
    bench(make_batch())
    monkeypatch.setattr(bench.step, "scaling", LossScale(8.0, dynamic=True, window=2))
    return bench


def test_a_gradient_that_overflows_lowers_the_scale_and_moves_nothing(dynamic, monkeypatch):
    step, norm, progress = dynamic.step, dynamic.step.norm, Progress()
    before, state = values(dynamic.network), values(step.update)
    found = []
    for finite in (False, False, True, True, True):
        monkeypatch.setattr(step, "norm", norm if finite else lambda gradients: Tensor(np.inf))
        found.append(step([make_batch()], 0.0 if finite else 0.1, number=len(found)))
        progress.advance([make_batch()], found[-1], 1.0, 0.0, 10)
        if not finite:
            assert_equal(values(dynamic.network), before)
            assert_equal(values(step.update), state)
    assert [result.scale for result in found] == [8, 4, 2, 2, 4]
    assert [result.overflowed for result in found] == [True, True, False, False, False]
    assert [result.applied for result in found] == [False, False, True, True, True]
    norms = [result.norm for result in found if result.applied]
    np.testing.assert_allclose(norms, norms[0], rtol=1e-5)  # the scale is undone
    assert (progress.skipped, progress.skipped_in_a_row, progress.step) == (2, 0, 5)


def test_training_diverges_where_the_loss_scale_cannot_be_lowered(dynamic, monkeypatch):
    monkeypatch.setattr(dynamic.step, "norm", lambda gradients: Tensor(np.inf))
    for scale in (8, 4, 2):
        result = dynamic.step([make_batch()], 0.1, number=1)
        assert (result.scale, result.diverged) == (scale, "")
    message = r"loss scale has fallen to 1, .* not finite \(utterances 0-0, .*precision=O0"
    result = dynamic.step([make_batch()], 0.1, number=1)
    assert not result.applied and re.search(message, result.diverged)


def test_bad_data_do_not_lower_the_scale(dynamic):
    result = dynamic.step([poisoned(make_batch(), 3)], 0.1, number=1)
    assert (result.applied, result.overflowed, result.blamed) == (False, False, ["0-3"])
    assert dynamic.step([make_batch()], 0.1, number=2).scale == 8


def test_several_ranks_agree_on_what_an_overflow_is(dynamic, monkeypatch):
    """An utterance of another rank is bad: the norm says so to all, the counts say why."""

    class TwoRanks(ProcessGroup):
        bad = 0

        def all_gather(self, *values):
            return np.array([values, np.zeros(len(values))]) + [[0], [self.bad]]

        def all_gather_text(self, text):
            return [text, "1-3" if self.bad else ""]

    ranks = TwoRanks()
    ranks.count = 2
    monkeypatch.setattr(dynamic.step, "group", ranks)
    monkeypatch.setattr(
        dynamic.step, "reduce", lambda given: tuple(each + np.float32(np.inf) for each in given)
    )
    ours = ", ".join(make_batch().ids)
    for ranks.bad, blamed in ((0, [f"{ours} (rank 0)"]), (1, ["1-3 (rank 1)"])):
        result = dynamic.step([make_batch()], 0.1, number=1, total=10)
        assert (result.applied, result.overflowed) == (False, not ranks.bad)
        assert result.blamed == blamed


@pytest.mark.parametrize("static", [False, True])
def test_a_rank_with_fewer_micro_batches_goes_on_with_rows_of_no_frames(
    static, normalised, monkeypatch
):
    class Busier(ProcessGroup):
        def all_gather(self, *values):
            return np.array([values, (4, *values[1:])])

    step, seen = normalised.step, []
    gradients, batch = step.gradients, make_batch((9, 8, 6, 5))

    class Recorder:
        def set_train(self):
            gradients.set_train()

        def __call__(self, features, lengths, *rest):
            seen.append((features.shape, lengths.asnumpy().tolist(), rest[-1].asnumpy().any()))
            fresh = tuple(ops.zeros_like(weight) for weight in step.update.weights)
            return Tensor(np.zeros(2, np.float32)), fresh

    expected = [(2, [9, 8], True), (2, [6, 5], True), (2, [0, 0], False), (2, [0, 0], False)]
    monkeypatch.setattr(step, "gradients", Recorder())
    monkeypatch.setattr(step, "synchronised", [normalised.network.norm])
    monkeypatch.setattr(step, "group", Busier())
    monkeypatch.setattr(step, "static", static)
    monkeypatch.setattr(step, "forecast", dataclasses.replace(ENDLESS, micro_batch=2))
    step([batch], 0.0, number=1)
    assert [(shape[0], lengths, counts) for shape, lengths, counts in seen] == expected
    assert not static or {shape[2] for shape, *_ in seen} == {9}


def test_the_moving_average_follows_the_steps_that_are_applied():
    bench = Bench(LinearConfig(norm=True), ema=0.5)
    step, network = bench.step, bench.network
    expected = values(network)
    for number, batch in enumerate([make_batch(), poisoned(make_batch(), 1), make_batch(seed=2)]):
        if step([batch], 0.1, number).applied:
            decay = min(0.5, (1 + number) / (10 + number))
            for name, value in values(network).items():
                expected[name] = decay * expected[name] + (1 - decay) * value
        found = {name: value.asnumpy() for name, value in step.result().items()}
        assert_equal({name: found[name] for name in expected}, expected, rtol=1e-4)
    own = values(network)
    assert (own["norm.moving_mean"] != expected["norm.moving_mean"]).all()
    with step.result_in_place():
        assert_equal(values(network), expected, rtol=1e-4)
    assert_equal(values(network), own)
    assert {f"ema.{name}" for name in expected} <= set(step.state())


@pytest.fixture(scope="module")
def normalised():
    return Bench(LinearConfig(norm=True))


@pytest.mark.parametrize("micro_batch", [0, 1])
def test_a_step_that_is_not_applied_leaves_the_moving_averages(micro_batch, normalised):
    _, before = normalised(make_batch(), micro_batch=micro_batch)
    state = values(normalised.step.update)
    batches = [make_batch(), poisoned(make_batch(), 3)]
    result = normalised.step(batches, 0.1, number=2)
    assert not result.applied and result.blamed == ["0-3"]
    assert_equal(values(normalised.network), before)
    assert_equal(values(normalised.step.update), state)
    assert (before["norm.moving_mean"] != 0).all()


def test_micro_batches_come_from_the_memory(bench):
    shapes = record_shapes(bench.step, make_batch((9, 8, 5, 5, 4)), rows_at=(9, 2))
    assert shapes == [(2, DIMENSION, 9), (2, DIMENSION, 5), (1, DIMENSION, 4)]


def test_static_micro_batches_are_equal_parts(bench):
    """So that no shape appears that the plan did not name."""
    bench.step.static = True
    try:
        shapes = record_shapes(bench.step, make_batch((9, 8, 5, 5, 4, 4)), rows_at=(9, 5))
    finally:
        bench.step.static = False
    assert shapes == [(3, DIMENSION, 9)] * 2


def record_shapes(step: TrainStep, batch: Batch, rows_at: tuple[int, int]) -> list[tuple]:
    """Shapes that go through the network where the memory takes `rows` utterances of `frames`."""
    frames, rows = rows_at
    whole, forecast = step.gradients, step.forecast
    limit = ENDLESS.fixed + rows * frames + 0.5
    step.forecast = dataclasses.replace(ENDLESS, limit=limit)
    shapes = []

    class Recorder:
        def set_train(self):
            whole.set_train()

        def __call__(self, features, *rest):
            shapes.append(features.shape)
            return whole(features, *rest)

    step.gradients = Recorder()
    try:
        assert step([batch], 0.0, number=1).applied
    finally:
        step.gradients, step.forecast = whole, forecast
    return shapes


def test_dropout_depends_on_seed_step_and_part_alone():
    bench = Bench(LinearConfig(dropout=0.5))
    batch = make_batch()
    losses = {}
    for number, micro_batch in ((1, 0), (2, 0), (1, 1)):
        losses[number, micro_batch] = bench(batch, number=number, micro_batch=micro_batch)[0].loss
    assert len(set(losses.values())) == 3
    for (number, micro_batch), loss in losses.items():
        assert bench(batch, number=number, micro_batch=micro_batch)[0].loss == loss
    bench.step.seed += 1
    assert bench(batch)[0].loss not in losses.values()

    same = make_rows(batch, slice(0, 1))  # another mask, though it is the same utterance twice
    alone, twice = bench(same)[0].loss, bench(joined(same, same), micro_batch=1)[0].loss
    assert twice != pytest.approx(alone, rel=1e-3)


def deepspeech2(model, **training) -> tuple[TrainStep, nn.Cell]:
    config = DeepSpeech2Config(ModelConfig=model, OptimConfig=shared.OptimConfig())
    config.TrainingConfig = shared.TrainingConfig(**training)
    config.DataConfig.SpectConfig.features, config.DataConfig.SpectConfig.bands = "logmel", 12
    speech_model = SpeechModel.create(DEEPSPEECH2, config, VOCABULARY, "CPU")
    return TrainStep(speech_model, ENDLESS), speech_model.network


def test_deepspeech2_skips_a_non_finite_step_without_a_trace(small_model):
    """Clipping to 0..20 turns nan into 0, so the loss alone does not show it."""
    model = dataclasses.replace(
        small_model, activation="hardtanh", norm="batch", dropout=0.1, hidden_layers=1
    )
    step, network = deepspeech2(model)
    batch = make_batch((20, 16, 18), dimension=12)
    assert step([batch], 1e-2, number=1).applied
    before, state = values(network), values(step.update)
    result = step([poisoned(batch, 1)], 1e-2, number=2)
    assert not result.applied and result.blamed == ["0-1"]
    assert_equal(values(network), before)
    assert_equal(values(step.update), state)
    assert step([batch], 1e-2, number=3).applied
    moved = values(network)
    assert all((moved[name] != before[name]).any() for name in before)


def test_frozen_layers_do_not_move(small_model):
    frozen = ["conv.", "RNN.lstms.0.", "RNN.norms.0"]
    step, network = deepspeech2(dataclasses.replace(small_model, norm="batch"), freeze=frozen)
    before = values(network)
    assert step([make_batch((20, 16, 18), dimension=12)], 1e-2, number=1).applied
    after = values(network)
    for name in before:
        still = name.startswith(tuple(frozen))
        assert (before[name] == after[name]).all() == still, name
    assert any(name.endswith("moving_mean") for name in before if name.startswith("RNN.norms.1"))


def test_freezing_refuses_what_it_cannot_mean():
    speech_model = SpeechModel.create(RECIPE, TrainConfig(), VOCABULARY, "CPU")
    training = speech_model.config.TrainingConfig
    training.freeze = ["conv"]
    with pytest.raises(UserError, match="no parameter begins with 'conv'; there are out"):
        TrainStep(speech_model, ENDLESS)
    training.freeze = ["out"]
    with pytest.raises(UserError, match="nothing is left to train"):
        TrainStep(speech_model, ENDLESS)


def test_a_moving_average_is_in_the_forecast():
    speech_model = SpeechModel.create(RECIPE, TrainConfig(), VOCABULARY, "CPU")
    without = forecast_memory(speech_model)
    speech_model.config.TrainingConfig.ema = 0.9
    more = forecast_memory(speech_model).fixed - without.fixed
    assert more == pytest.approx(2 * 4 * speech_model.parameters())  # two copies in float32


def test_the_forecast_is_a_line_in_frames():
    forecast = MemoryEstimate(parameters=1000, per_frame=2e6, limit=4e9)
    assert forecast.peak(0, 100) == forecast.fixed > 4 * 1000
    assert forecast.peak(3, 100) - forecast.fixed == pytest.approx(3 * 100 * 2e6)
    rows = forecast.rows(400)
    assert forecast.peak(rows, 400) <= 4e9 < forecast.peak(rows + 1, 400)
    assert forecast.rows(10**9) == 1
    assert "micro-batches of" in forecast.line(64, 400)
    assert "micro-batches" not in forecast.line(1, 400)
    forecast.check(400)
    with pytest.raises(UserError, match="DataConfig.max_duration"):
        forecast.check(4000)


def test_static_shapes_keep_their_activations_on_a_cpu():
    speech_model = SpeechModel.create(RECIPE, TrainConfig(), VOCABULARY, "CPU")
    shapes = [(100, 5), (200, 9), (400, 20)]
    one, three = (forecast_memory(speech_model, shapes=each) for each in (None, shapes))
    graphs = three.fixed - one.fixed
    assert graphs > 0
    assert three.peak(4, 400) == pytest.approx(graphs + one.peak(4, 100 + 200 + 400))
    assert three.rows(100) == three.rows(400) <= one.rows(400)  # none has the memory for itself
    on_a_card = forecast_memory(replace(speech_model, device="Ascend"), shapes=shapes)
    assert replace(on_a_card, limit=one.limit, source=one.source) == one


def test_nothing_is_compiled_twice(normalised):
    """Neither for other shapes nor after an evaluation, which switches the network over."""
    step, forward = normalised.step, Forward(normalised.speech_model)
    cells = [step.gradients, step.add, step.norm, step.update, forward._cell]
    compiled = []
    for lengths in ((9, 8, 7), (12, 5), (6, 6, 6, 6)):
        batch = make_batch(lengths)
        assert step([batch, batch], 0.1, number=1).applied
        forward(batch.features, batch.lengths)
        compiled.append([len(cell.compile_cache) for cell in cells])
    assert compiled == [[1] * 5] * 3
