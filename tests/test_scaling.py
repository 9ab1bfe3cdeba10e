"""The loss scale: the literal sequence of its values."""

from __future__ import annotations

import pytest

from common.training.loss_scale import LossScale


def sequence(scaling: LossScale, finite: str) -> list[float]:
    """The scale after each step; "+": its gradient was finite, "-": it overflowed."""
    found = []
    for step in finite:
        scaling.finite() if step == "+" else scaling.overflow()
        found.append(scaling.scale)
    return found


def test_it_halves_at_an_overflow_and_doubles_after_a_window_without():
    scaling = LossScale(64.0, dynamic=True, window=3)
    assert sequence(scaling, "--+++++-+++") == [32, 16, 16, 16, 32, 32, 32, 16, 16, 16, 32]


def test_an_overflow_begins_the_window_anew():
    scaling = LossScale(8.0, dynamic=True, window=3)
    assert sequence(scaling, "++-++-+++") == [8, 8, 4, 4, 4, 2, 2, 2, 4]


def test_a_fixed_scale_stays():
    assert sequence(LossScale(8.0, window=1), "+++") == [8, 8, 8]


@pytest.mark.parametrize(
    ("start", "highest", "lowest"), [(1024, 2**24, 1), (2**30, 2**30, 1), (0.25, 2**24, 0.25)]
)
def test_its_bounds(start, highest, lowest):
    scaling = LossScale(start, dynamic=True, window=1)
    assert max(sequence(scaling, 40 * "+")) == highest == scaling.scale
    while not scaling.exhausted:
        scaling.overflow()
    assert scaling.scale == lowest


def test_it_goes_on_from_its_state():
    whole = LossScale(64.0, True, 3)
    steps = "+-++-+++++-++++"
    expected = sequence(whole, steps)
    for cut in range(len(steps)):
        half = LossScale(64.0, True, 3)
        first = sequence(half, steps[:cut])
        resumed = LossScale(64.0, True, 3)
        resumed.restore(half.state())
        assert first + sequence(resumed, steps[cut:]) == expected
