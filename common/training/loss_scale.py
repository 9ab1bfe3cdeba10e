"""The factor that keeps float16 gradients above 0, and adapts where it makes them overflow."""

from __future__ import annotations

from dataclasses import dataclass

LEAST, GREATEST = 1.0, 2.0**24


@dataclass
class LossScale:
    """Multiplies the loss before its gradient is taken, and is undone before the update.

    dynamic: halved after a gradient that is not finite, doubled after `window` finite ones since it
    last changed (Micikevicius et al. 2018, arXiv 1710.03740, section 3.2), within LEAST and
    GREATEST; a start outside of them moves them.
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
        """Whether it cannot be halved again."""
        return self.scale / 2 < min(LEAST, self.start)

    def finite(self) -> None:
        """Notes a finite gradient."""
        self.good += 1
        if self.dynamic and self.good >= self.window:
            self.scale, self.good = min(self.scale * 2, max(GREATEST, self.start)), 0

    def overflow(self) -> None:
        """Notes a gradient that was not finite because of the scale."""
        self.scale, self.good = self.scale / 2, 0

    def state(self) -> dict[str, float]:
        return {"scale": self.scale, "good": self.good}

    def restore(self, state: dict[str, float]) -> None:
        self.scale, self.good = float(state["scale"]), int(state["good"])
