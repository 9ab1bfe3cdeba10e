"""Learning rates against their formulas, one step at a time."""

from __future__ import annotations

import math

import numpy as np
import pytest

from common.config import OptimConfig
from common.training.lr_schedules import annealed, constant, cosine, make_schedule, warmup_cosine
from common.utils.errors import UserError


def test_annealed_divides_after_each_epoch():
    rates = annealed(3e-4, 1.1, epochs=3, steps_per_epoch=2)
    expected = [3e-4, 3e-4, 3e-4 / 1.1, 3e-4 / 1.1, 3e-4 / 1.21, 3e-4 / 1.21]
    np.testing.assert_allclose(rates, expected, rtol=1e-12)


def test_constant():
    assert constant(0.5, 3).tolist() == [0.5, 0.5, 0.5]


def test_cosine_falls_from_base_through_half_towards_zero():
    rates = cosine(2.0, 8)
    assert rates[0] == 2.0 and rates[4] == pytest.approx(1.0)
    assert (np.diff(rates) < 0).all() and 0 < rates[-1] < 0.1


def test_warmup_cosine_by_formula():
    base, warmup, total = 1e-3, 4, 20
    for step, rate in enumerate(warmup_cosine(base, warmup, total)):
        if step < warmup:
            expected = base * (step + 1) / warmup
        else:
            expected = base * (1 + math.cos(math.pi * (step - warmup) / (total - warmup))) / 2
        assert rate == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("schedule", ["anneal", "cosine", "constant"])
def test_every_schedule_covers_the_run_and_warms_up(schedule):
    config = OptimConfig(
        schedule=schedule, learning_rate=0.1, learning_anneal=2.0, warmup_epochs=0.5
    )
    rates = make_schedule(config, epochs=3, steps_per_epoch=10)
    assert rates.shape == (30,)
    np.testing.assert_allclose(rates[:5], [0.02, 0.04, 0.06, 0.08, 0.1])
    after = {"anneal": 0.1 / 4, "cosine": 0.05 * (1 + math.cos(math.pi * 24 / 25)), "constant": 0.1}
    assert rates[-1] == pytest.approx(after[schedule])


def test_warmup_longer_than_the_run_just_climbs():
    config = OptimConfig(schedule="cosine", learning_rate=1.0, warmup_epochs=4)
    np.testing.assert_allclose(make_schedule(config, 1, 2), [1 / 8, 2 / 8])


def originals(base: float, epochs: int, steps: int, warmup: int, hold: int) -> list[float]:
    """The schedule of Jasper in the MindSpore model zoo (lr_generator.py), stated anew."""
    rates = []
    for step in range(epochs * steps):
        epoch = step // steps + 1  # counted from 1
        if step < warmup * steps:
            share = (step + 1) / (warmup * steps + 1)
        elif epoch <= warmup + hold:
            share = 1.0
        else:
            share = 0.981 ** (epoch - hold - warmup)
        rates.append(max(share * base, 1e-5))
    return rates


@pytest.mark.parametrize(("warmup", "hold"), [(2, 140), (2, 3), (0, 0), (1, 0), (0, 4)])
def test_exponential_is_that_of_the_originals(warmup, hold):
    config = OptimConfig(
        schedule="exponential", learning_rate=3e-4, warmup_epochs=warmup, hold_epochs=hold
    )
    rates = make_schedule(config, epochs=300, steps_per_epoch=7)
    np.testing.assert_allclose(rates, originals(3e-4, 300, 7, warmup, hold), rtol=1e-12)
    assert (rates[-1] == 1e-5) == (hold < 140)  # a floor that some of them reach


def test_exponential_by_its_keys():
    config = OptimConfig(
        schedule="exponential",
        learning_rate=1.0,
        warmup_epochs=0.5,
        hold_epochs=0.5,
        learning_decay=0.5,
        min_learning_rate=0.2,
    )
    rates = make_schedule(config, epochs=4, steps_per_epoch=4)
    expected = [1 / 3, 2 / 3, 1, 1, *[0.5] * 4, *[0.25] * 4, *[0.2] * 4]
    np.testing.assert_allclose(rates, expected)


@pytest.mark.parametrize("schedule", ["anneal", "constant", "exponential"])
def test_more_epochs_do_not_change_the_rates_of_those_before(schedule):
    config = OptimConfig(schedule=schedule, warmup_epochs=1.5, hold_epochs=1)
    short, long = make_schedule(config, 4, 6), make_schedule(config, 9, 6)
    np.testing.assert_array_equal(short, long[: len(short)])


def test_unknown_schedule_is_refused_by_name():
    with pytest.raises(UserError, match="'step'.*anneal, cosine, constant, exponential"):
        make_schedule(OptimConfig(schedule="step"), 1, 1)
