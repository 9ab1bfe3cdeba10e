"""The factor that keeps float16 gradients above 0, and adapts where it makes them overflow."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from common.utils.backend import Tensor, ms

MIN_SCALE, MAX_SCALE = 1.0, 2.0**24


@dataclass
class LossScale:
    """Multiplies the loss before its gradient is taken; the update divides by it again.

    A dynamic scale is halved after a gradient that is not finite and doubled after `window` finite
    ones since it last changed (Micikevicius et al. 2018, arXiv 1710.03740, section 3.2). It stays
    within MIN_SCALE and MAX_SCALE; a start outside of them moves the bound.

    Attributes:
        start: The first scale.
        dynamic: Whether the scale adapts.
        window: Finite gradients before it is doubled.
        scale: The scale now; 0: `start`.
        good: Finite gradients since it last changed.
    """

    start: float
    dynamic: bool = False
    window: int = 2000
    scale: float = 0.0  # now; 0: the start
    good: int = 0  # finite gradients since it last changed

    def __post_init__(self) -> None:
        self.scale = self.scale or self.start

    @property
    def exhausted(self) -> bool:
        """Whether the scale cannot be halved again."""
        return self.scale / 2 < min(MIN_SCALE, self.start)

    def finite(self) -> None:
        """Count a finite gradient."""
        self.good += 1
        if self.dynamic and self.good >= self.window:
            self.scale, self.good = min(self.scale * 2, max(MAX_SCALE, self.start)), 0

    def overflow(self) -> None:
        """Halve the scale after a gradient that was not finite because of it."""
        self.scale, self.good = self.scale / 2, 0

    def state(self) -> dict[str, float]:
        """Return what a checkpoint keeps."""
        return {"scale": self.scale, "good": self.good}

    def restore(self, state: dict[str, float]) -> None:
        """Take over what `state` returned."""
        self.scale, self.good = float(state["scale"]), int(state["good"])


class SaturationCheck:
    """Whether float16 has overflowed on a device where it saturates at 65504.

    There the gradients stay finite, and their norm tells nothing; the device's float status, a
    register, does. MindSpore's `amp.all_finite` reads and clears it on a 910A and under
    MS_ASCEND_CHECK_OVERFLOW_MODE=SATURATION_MODE (mindspore/amp.py), as its own loss scaling does.
    Read from MindSpore's sources, not run: there was no such card.
    """

    def clear(self) -> None:
        """Forget what happened before the step: an evaluation, or the last update."""
        self((Tensor([0.0], ms.float32),))

    def __call__(self, gradients: Sequence[Tensor]) -> bool:
        """Tell whether anything has overflowed since the last call, and forget it.

        Args:
            gradients: What must have been computed before.
        """
        return not bool(ms.amp.all_finite(tuple(gradients)).asnumpy())
