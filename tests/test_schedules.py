"""Learning rates against their formulas, one step at a time."""

from __future__ import annotations

import math

import numpy as np
import pytest

from common.config import OptimConfig
from common.errors import UserError
from common.schedules import annealed, constant, cosine, make_schedule, warmup_cosine


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


def test_unknown_schedule_is_refused_by_name():
    with pytest.raises(UserError, match="'step'.*anneal, cosine, constant"):
        make_schedule(OptimConfig(schedule="step"), 1, 1)
