"""Dropout whose masks are a pure function of a seed."""

from __future__ import annotations

import numpy as np

from common.utils.backend import Parameter, Tensor, ms, nn, ops


class Dropout(nn.Cell):
    """Dropout whose mask is a pure function of a seed that the training step sets.

    MindSpore's own keeps its random state inside the kernel, where no checkpoint reaches it; with
    this one a resumed run draws the very masks that the undisturbed run draws. Each position gets
    the product of an odd number and its row's hash xor its column's: three cheap operations.

    Args:
        rate: Share of values that become 0.
        width: Number of channels C.
        stream: A number that sets this layer's masks apart from those of others.
        layout: Axes of the input: "TBC" for (T, B, C), "1CBT" for (1, C, B, T), "BC1T" for
            (B, C, 1, T). The mask of a frame, utterance and channel is the same in each.
    """

    # Of each layout: the axes of frames and utterances; shapes along frames, utterances, channels.
    LAYOUTS = {
        "TBC": (0, 1, (-1, 1, 1), (1, -1, 1), (1, 1, -1)),
        "1CBT": (3, 2, (1, 1, 1, -1), (1, 1, -1, 1), (1, -1, 1, 1)),
        "BC1T": (3, 0, (1, 1, 1, -1), (-1, 1, 1, 1), (1, -1, 1, 1)),
    }

    def __init__(self, rate: float, width: int, stream: int, layout: str = "TBC"):
        super().__init__()
        if not 0 <= rate < 1:
            raise ValueError(f"dropout {rate}: expected 0 <= rate < 1")
        if layout not in self.LAYOUTS:
            raise ValueError(f"layout {layout!r}: expected one of {', '.join(self.LAYOUTS)}")
        self.frames, self.utterances, self.along_frames, self.along_utterances, along_channels = (
            self.LAYOUTS[layout]
        )
        self.rate = rate
        self.threshold = int(rate * 2**32) - 2**31  # of a uniform int32
        self.stream = stream  # sets this layer apart from the others
        self.dropout_seed = Parameter(Tensor(0, ms.int32), name="dropout_seed", requires_grad=False)
        self.column = Tensor(np.arange(width, dtype=np.int32).reshape(along_channels) * 104_729)

    def construct(self, x):
        """Drop values of x while training, and scale up the rest."""
        if not self.training or self.rate == 0:
            return x
        frames, batch = x.shape[self.frames], x.shape[self.utterances]
        seed = self.dropout_seed * 613 + self.stream * 15_485_863
        utterance = ops.arange(batch).astype(ms.int32).reshape(self.along_utterances) * 7_919
        row = ops.arange(frames).astype(ms.int32).reshape(self.along_frames) * 1_000_003
        row = _hash(row + seed)
        column = _hash(self.column + utterance + seed * 31)  # of all utterances and channels
        drawn = ops.bitwise_xor(row, column) * 1_540_483_477
        # Not a division: by a number it takes the CPU 10 times as long as a product.
        rescaled = x * (1 / (1 - self.rate))
        return ops.select(drawn >= self.threshold, rescaled, ops.zeros_like(x))


def _hash(bits: Tensor) -> Tensor:
    """int32 -> int32, well mixed (a finaliser of the kind of C. Wellons' "lowbias32")."""
    for _ in range(2):
        bits = ops.bitwise_xor(bits, ops.bitwise_right_shift(bits, 16)) * 73_244_475
    return ops.bitwise_xor(bits, ops.bitwise_right_shift(bits, 16))
