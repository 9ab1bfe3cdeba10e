"""Learning rates as arrays: a number for each optimizer step of a run, before it starts."""

from __future__ import annotations

from typing import Any

import numpy as np

from common.utils.errors import UserError


def constant(base: float, total: int) -> np.ndarray:
    """Return the same rate at each step.

    Args:
        base: Learning rate.
        total: Number of steps.

    Returns:
        (total,) rates.
    """
    return np.full(total, base, dtype=np.float64)


def annealed(base: float, anneal: float, epochs: int, steps_per_epoch: int) -> np.ndarray:
    """Return base / anneal**epoch, constant within an epoch; epochs count from 0.

    Args:
        base: Learning rate of the first epoch.
        anneal: Divisor from one epoch to the next.
        epochs: Number of epochs.
        steps_per_epoch: Optimizer steps in an epoch.

    Returns:
        (epochs * steps_per_epoch,) rates.
    """
    return np.repeat(base / float(anneal) ** np.arange(epochs), steps_per_epoch)


def cosine(base: float, total: int, start: int = 0) -> np.ndarray:
    """Return `base` until step `start`, then half a cosine that would reach 0 at step `total`.

    Loshchilov & Hutter 2017, "SGDR", equation 5 without restarts.

    Args:
        base: Highest learning rate.
        total: Number of steps.
        start: Step at which the cosine begins.

    Returns:
        (total,) rates.
    """
    progress = (np.arange(total) - start).clip(min=0) / max(total - start, 1)
    return base * 0.5 * (1 + np.cos(np.pi * progress))


def warmed_up(rates: np.ndarray, steps: int) -> np.ndarray:
    """Scale the first rates by 1/steps, 2/steps ... 1.

    Args:
        rates: (total,) rates.
        steps: Number of steps of the warm-up.

    Returns:
        (total,) rates.
    """
    return rates * np.minimum((np.arange(len(rates)) + 1) / max(steps, 1), 1)


def warmup_cosine(base: float, warmup_steps: int, total: int) -> np.ndarray:
    """Return a linear climb, then half a cosine; see `cosine`.

    Args:
        base: Highest learning rate.
        warmup_steps: Steps of the climb.
        total: Number of steps.

    Returns:
        (total,) rates.
    """
    return warmed_up(cosine(base, total, start=warmup_steps), warmup_steps)


def exponential(
    base: float,
    decay: float,
    min_rate: float,
    warmup_epochs: float,
    hold_epochs: float,
    epochs: int,
    steps_per_epoch: int,
) -> np.ndarray:
    """Return a climb over the warm-up, `base` over the hold, then a decay from epoch to epoch.

    As in Jasper's original: the climb is (i + 1) / (warm-up steps + 1) at step i, which stops one
    step short of `base`; epoch n, counted from 1, is at decay ** (n - warm-up - hold).

    Args:
        base: Highest learning rate.
        decay: Factor from one epoch to the next.
        min_rate: Lower bound of all rates.
        warmup_epochs: Length of the climb; may be a fraction.
        hold_epochs: Epochs at `base`.
        epochs: Number of epochs.
        steps_per_epoch: Optimizer steps in an epoch.

    Returns:
        (epochs * steps_per_epoch,) rates.
    """
    steps = np.arange(epochs * steps_per_epoch)
    warmup, hold = round(warmup_epochs * steps_per_epoch), round(hold_epochs * steps_per_epoch)
    past = steps // steps_per_epoch + 1 - warmup_epochs - hold_epochs
    falling = decay ** np.where(steps < warmup + hold, 0, past)
    shares = np.where(steps < warmup, (steps + 1) / (warmup + 1), falling)
    return np.maximum(base * shares, min_rate)


def make_schedule(optim_config: Any, epochs: int, steps_per_epoch: int) -> np.ndarray:
    """Compute the learning rates of a run.

    The rates of fewer epochs begin those of more epochs with every schedule except "cosine".

    Args:
        optim_config: An OptimConfig. Reads learning_rate, schedule, learning_anneal (of "anneal"),
            hold_epochs, learning_decay and min_learning_rate (of "exponential") and warmup_epochs
            (of every schedule; may be a fraction, 0 is none).
        epochs: Number of epochs.
        steps_per_epoch: Optimizer steps in an epoch.

    Returns:
        (epochs * steps_per_epoch,) rates.

    Raises:
        UserError: There is no such schedule.
    """
    base, total = optim_config.learning_rate, epochs * steps_per_epoch
    warmup = round(optim_config.warmup_epochs * steps_per_epoch)
    if optim_config.schedule == "anneal":
        rates = annealed(base, optim_config.learning_anneal, epochs, steps_per_epoch)
        return warmed_up(rates, warmup)
    if optim_config.schedule == "cosine":
        return warmup_cosine(base, warmup, total)
    if optim_config.schedule == "constant":
        return warmed_up(constant(base, total), warmup)
    if optim_config.schedule == "exponential":
        return exponential(
            base,
            optim_config.learning_decay,
            optim_config.min_learning_rate,
            optim_config.warmup_epochs,
            optim_config.hold_epochs,
            epochs,
            steps_per_epoch,
        )
    raise UserError(
        f"OptimConfig.schedule is {optim_config.schedule!r}; there is anneal, cosine, constant, "
        "exponential"
    )
