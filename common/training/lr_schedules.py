"""Learning rates as pure lists: a number for each optimizer step of a run, before it starts."""

from __future__ import annotations

from typing import Any

import numpy as np

from common.utils.errors import UserError


def constant(base: float, total: int) -> np.ndarray:
    """`base` at each of `total` steps."""
    return np.full(total, base, dtype=np.float64)


def annealed(base: float, anneal: float, epochs: int, steps_per_epoch: int) -> np.ndarray:
    """base / anneal**epoch, constant within an epoch; epochs count from 0."""
    return np.repeat(base / float(anneal) ** np.arange(epochs), steps_per_epoch)


def cosine(base: float, total: int, start: int = 0) -> np.ndarray:
    """`base` until step `start`, then half a cosine that would reach 0 at step `total`.

    Loshchilov & Hutter 2017, "SGDR", equation 5 without restarts.
    """
    progress = (np.arange(total) - start).clip(min=0) / max(total - start, 1)
    return base * 0.5 * (1 + np.cos(np.pi * progress))


def warmed_up(rates: np.ndarray, steps: int) -> np.ndarray:
    """The same rates with the first `steps` scaled by 1/steps, 2/steps ... 1."""
    return rates * np.minimum((np.arange(len(rates)) + 1) / max(steps, 1), 1)


def warmup_cosine(base: float, warmup_steps: int, total: int) -> np.ndarray:
    """A straight climb to `base` over `warmup_steps`, then the cosine over the rest of `total`."""
    return warmed_up(cosine(base, total, start=warmup_steps), warmup_steps)


def exponential(
    base: float,
    decay: float,
    least: float,
    warmup_epochs: float,
    hold_epochs: float,
    epochs: int,
    steps_per_epoch: int,
) -> np.ndarray:
    """A climb over the warm-up, `base` over the hold, then x `decay` an epoch; never below `least`.

    As Jasper's originals have it: the climb is (i + 1) / (warm-up steps + 1) at step i, which stops
    one step short of `base`; epoch n, counted from 1, is at decay ** (n - warm-up - hold).
    """
    steps = np.arange(epochs * steps_per_epoch)
    warmup, hold = round(warmup_epochs * steps_per_epoch), round(hold_epochs * steps_per_epoch)
    past = steps // steps_per_epoch + 1 - warmup_epochs - hold_epochs
    falling = decay ** np.where(steps < warmup + hold, 0, past)
    shares = np.where(steps < warmup, (steps + 1) / (warmup + 1), falling)
    return np.maximum(base * shares, least)


def make_schedule(optim_config: Any, epochs: int, steps_per_epoch: int) -> np.ndarray:
    """The rates (epochs * steps_per_epoch,) of an OptimConfig.

    Reads learning_rate, schedule, learning_anneal (of "anneal"), hold_epochs, learning_decay and
    min_learning_rate (of "exponential") and warmup_epochs (of every schedule; may be a fraction, 0
    is none). Those of fewer epochs begin those of more, but for "cosine".
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
