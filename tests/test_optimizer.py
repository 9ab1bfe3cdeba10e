"""The update formulas, over several steps, against numpy and PyTorch."""

from __future__ import annotations

from dataclasses import replace

import mindspore as ms
import numpy as np
import pytest
from mindspore import Parameter, Tensor

from common.config import OptimConfig
from common.model.checkpoint import is_training_state
from common.training.optimizers import Add, GlobalNorm, MovingAverage, Update
from common.utils.errors import UserError

pytestmark = pytest.mark.usefixtures("cpu")

RATES = [0.1, 0.1, 0.02, 0.0, 0.05]  # one a step, 0 among them
FACTORS = [1.0, 0.5, 1 / 1024, 1.0, 2.0]  # what clipping and loss scaling make of the gradients
DECAY = 0.1
CONFIGS = {
    name: OptimConfig(
        optimizer=name,
        learning_rate=9.0,
        weight_decay=DECAY,
        momentum=0.8,
        betas=(0.7, 0.95),
        eps=1e-7,
    )
    for name in ("Adam", "AdamW", "SGD", "NovoGrad", "LAMB")
}
STATE = {  # of each optimizer, beside its moments
    "Adam": {"learning_rate", "global_step"},
    "AdamW": {"learning_rate", "global_step"},
    "SGD": {"learning_rate", "global_step"},
    "NovoGrad": {"learning_rate"},
    "LAMB": {"learning_rate", "beta1_power", "beta2_power"},
}


def start() -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.standard_normal((3, 2)), rng.standard_normal(2), rng.standard_normal((2, 1, 2))]


def gradients() -> list[list[np.ndarray]]:
    rng = np.random.default_rng(1)
    found = [[rng.standard_normal(weight.shape) for weight in start()] for _ in RATES]
    # Brought back from what loss scale and clipping do, so that every step counts.
    return [[array / factor for array in arrays] for arrays, factor in zip(found, FACTORS)]


def tensors(arrays) -> tuple[Tensor, ...]:
    return tuple(Tensor(array, ms.float32) for array in arrays)


@pytest.fixture(scope="module")
def stepped() -> dict[str, list[list[np.ndarray]]]:
    """The weights after each step, by optimizer."""
    return {name: steps(config) for name, config in CONFIGS.items()}


def steps(config: OptimConfig) -> list[list[np.ndarray]]:
    weights = [
        Parameter(Tensor(value, ms.float32), name=f"layer.{index}")
        for index, value in enumerate(start())
    ]
    update = Update(config, weights)
    found = []
    for rate, factor, arrays in zip(RATES, FACTORS, gradients()):
        update.set_learning_rate(rate)
        update(tensors(arrays), Tensor(factor, ms.float32))
        found.append([weight.asnumpy().copy() for weight in weights])
    state = update.state()
    assert STATE[config.optimizer] <= set(state)
    assert all(is_training_state(name) for name in state)
    assert not any(name in state for name in ("layer.0", "layer.1", "layer.2"))
    kept = {"moment1", "moment2"} if config.optimizer != "SGD" else {"accum"}
    assert {f"{name}.layer.{index}" for name in kept for index in range(3)} <= set(state)
    return found


def novograd(weights, first, second, index, gradient, config, decay, rate, number):
    """Algorithm 1 of arXiv 1905.11286."""
    early, late = config.betas
    square = np.linalg.norm(gradient) ** 2
    second[index] = square if number == 1 else late * second[index] + (1 - late) * square
    normalised = gradient / (np.sqrt(second[index]) + config.eps) + decay * weights[index]
    first[index] = normalised if number == 1 else early * first[index] + normalised
    weights[index] = weights[index] - rate * first[index]


def lamb(weights, first, second, index, gradient, config, decay, rate, number):
    """Algorithm 2 of arXiv 1904.00962, phi(z) = z."""
    early, late = config.betas
    first[index] = early * first[index] + (1 - early) * gradient
    second[index] = late * second[index] + (1 - late) * gradient**2
    mean, square = first[index] / (1 - early**number), second[index] / (1 - late**number)
    step = mean / (np.sqrt(square) + config.eps) + decay * weights[index]
    ratio = np.linalg.norm(weights[index]) / np.linalg.norm(step)
    weights[index] = weights[index] - rate * ratio * step


LAYERWISE = {"NovoGrad": novograd, "LAMB": lamb}


def formula(config: OptimConfig) -> list[list[np.ndarray]]:
    weights = start()
    first = [np.zeros_like(weight) for weight in weights]
    second = [np.zeros_like(weight) for weight in weights]
    found = []
    for number, (rate, factor, arrays) in enumerate(zip(RATES, FACTORS, gradients()), start=1):
        for index, array in enumerate(arrays):
            gradient = array * factor
            decay = DECAY if weights[index].ndim > 1 else 0  # not on biases and norms
            if config.optimizer in LAYERWISE:
                settings = config, decay, rate, number
                LAYERWISE[config.optimizer](weights, first, second, index, gradient, *settings)
                continue
            if config.optimizer == "AdamW":
                weights[index] = weights[index] * (1 - rate * decay)
            else:
                gradient = gradient + decay * weights[index]
            if config.optimizer == "SGD":
                first[index] = config.momentum * first[index] + gradient
                weights[index] = weights[index] - rate * first[index]
                continue
            early, late = config.betas
            first[index] = early * first[index] + (1 - early) * gradient
            second[index] = late * second[index] + (1 - late) * gradient**2
            mean = first[index] / (1 - early**number)
            square = second[index] / (1 - late**number)
            weights[index] = weights[index] - rate * mean / (np.sqrt(square) + config.eps)
        found.append([weight.copy() for weight in weights])
    return found


@pytest.mark.parametrize("name", CONFIGS)
def test_update_is_the_formula(name, stepped):
    for number, (found, expected) in enumerate(
        zip(stepped[name], formula(CONFIGS[name]), strict=True)
    ):
        for ours, theirs in zip(found, expected, strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5, err_msg=f"{number}")


@pytest.mark.parametrize("name", [name for name in CONFIGS if name not in LAYERWISE])
def test_update_is_that_of_torch(name, stepped):
    torch = pytest.importorskip("torch")
    config = CONFIGS[name]
    weights = [torch.nn.Parameter(torch.tensor(value)) for value in start()]
    groups = [
        {"params": [weight for weight in weights if weight.ndim > 1], "weight_decay": DECAY},
        {"params": [weight for weight in weights if weight.ndim == 1], "weight_decay": 0.0},
    ]
    if name == "SGD":
        theirs = torch.optim.SGD(groups, lr=9.0, momentum=config.momentum)
    else:
        kind = getattr(torch.optim, name)
        theirs = kind(groups, lr=9.0, betas=config.betas, eps=config.eps)
    for rate, factor, arrays, found in zip(RATES, FACTORS, gradients(), stepped[name]):
        for group in theirs.param_groups:
            group["lr"] = rate
        for weight, array in zip(weights, arrays):
            weight.grad = torch.tensor(array * factor)
        theirs.step()
        for ours, weight in zip(found, weights, strict=True):
            np.testing.assert_allclose(ours, weight.detach().numpy(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", LAYERWISE)
def test_what_has_no_gradient_yet_or_is_zero_moves_without_a_division_by_zero(name):
    """The first weight gets its first gradient in the second step, the other one starts at 0."""
    values = np.array([[1.0, 2.0]]), np.zeros(2)
    weights = [
        Parameter(Tensor(value, ms.float32), name=f"layer.{number}")
        for number, value in enumerate(values)
    ]
    update = Update(replace(CONFIGS[name], weight_decay=0.0, betas=(0.0, 0.0)), weights)
    update.set_learning_rate(0.5)
    found = []
    for gradient in (np.zeros((1, 2)), np.array([[3.0, 4.0]])):
        update(tensors((gradient, np.array([0.6, 0.8]))), Tensor(1.0, ms.float32))
        found.append([weight.asnumpy().copy() for weight in weights])
    np.testing.assert_array_equal(found[0][0], values[0])
    # Without averages over time a step is g / |g|, or the signs of g times |w| / |signs|.
    signs = np.ones(2)
    steps = ([0.6, 0.8],) * 2 if name == "NovoGrad" else (np.sqrt(5 / 2) * signs, signs)
    np.testing.assert_allclose(found[1][0][0], values[0][0] - 0.5 * np.array(steps[0]), rtol=1e-5)
    np.testing.assert_allclose(found[0][1], -0.5 * np.array(steps[1]), rtol=1e-5)


def test_the_moving_average_is_the_formula_and_lends_its_values():
    weights = [
        Parameter(Tensor(value, ms.float32), name=f"l.{number}")
        for number, value in enumerate(start())
    ]
    average, expected = MovingAverage(0.8, weights), start()
    rng = np.random.default_rng(2)
    for step, decay in ((0, 0.1), (3, 4 / 13), (40, 0.8), (41, 0.8)):
        for weight, mean in zip(weights, expected, strict=True):
            weight.set_data(Tensor(rng.standard_normal(weight.shape), ms.float32))
            mean *= decay
            mean += (1 - decay) * weight.asnumpy()
        average.take(step)
        for found, mean in zip(average.state().values(), expected, strict=True):
            np.testing.assert_allclose(found.asnumpy(), mean, rtol=1e-5, atol=1e-6)
    assert list(average.state()) == ["ema.l.0", "ema.l.1", "ema.l.2"]
    assert all(is_training_state(name) for name in average.state())
    before = [weight.asnumpy().copy() for weight in weights]
    with pytest.raises(KeyError), average.in_place():
        for weight, mean in zip(weights, expected, strict=True):
            np.testing.assert_allclose(weight.asnumpy(), mean, rtol=1e-5, atol=1e-6)
        raise KeyError
    for weight, value in zip(weights, before, strict=True):
        np.testing.assert_array_equal(weight.asnumpy(), value)


def test_an_unknown_optimizer_is_refused():
    weight = Parameter(Tensor(np.ones((1, 1), np.float32)), name="weight")
    with pytest.raises(UserError, match="OptimConfig.optimizer=adam: expected one of Adam, AdamW"):
        Update(OptimConfig(optimizer="adam"), [weight])


def test_global_norm_and_add():
    first, second = gradients()[0], gradients()[1]
    flat = np.concatenate([array.ravel() for array in first])
    norm = GlobalNorm()
    assert float(norm(tensors(first)).asnumpy()) == pytest.approx(np.linalg.norm(flat), rel=1e-5)
    for value in (np.nan, np.inf):
        first[1] = np.array([0.0, value])
        assert not np.isfinite(norm(tensors(first)).asnumpy())
    first[1] = np.array([0.0, 0.0])
    for found, left, right in zip(
        Add()(tensors(first), tensors(second)), first, second, strict=True
    ):
        np.testing.assert_allclose(found.asnumpy(), left + right, rtol=1e-5, atol=1e-6)
