"""Small building blocks: masks, initial weights, dense layers, activations."""

from __future__ import annotations

import numpy as np

from common.nn.precision import maybe_half
from common.utils.backend import Tensor, ms, nn, ops


def frame_mask(lengths: Tensor, frames: int) -> Tensor:
    """Mark the frames that belong to their utterance.

    Args:
        lengths: (B,) frames of each utterance.
        frames: Number of frames T of the padded batch.

    Returns:
        (B, T) float32: 1 for a frame of the utterance, 0 for padding.
    """
    return ops.cast(ops.arange(frames).reshape((1, -1)) < lengths.reshape((-1, 1)), ms.float32)


class MaskProduct(nn.Cell):
    """Multiplies a value of each channel by a mask (B, T), in the shape of x (B, C, F, T).

    Args:
        use_matmul: Use outer products instead of broadcasting; see
            `common.utils.runtime.slow_broadcasts`.
    """

    def __init__(self, use_matmul: bool = True):
        super().__init__()
        self.use_matmul = use_matmul
        # Not ops.matmul: its gradient of an outer product fails for a batch of one of open shape.
        self.product, self.products = ops.MatMul(), ops.BatchMatMul()

    def construct(self, values, mask, shape):
        """Multiply.

        Args:
            values: (C,) of each channel; None: 1.
            mask: (B, T).
            shape: Of x: B, C, F, T.

        Returns:
            The products: of that shape, or (B, 1, 1, T) or (B, C, 1, T) to be broadcast to it.
        """
        batch, channels, bins, frames = shape
        if not self.use_matmul:
            mask = mask.expand_dims(1).expand_dims(1)
            return mask if values is None else values.reshape((1, -1, 1, 1)) * mask
        if values is None:
            values = ops.ones((channels,), ms.float32)
        rows = self.product(values.reshape((-1, 1)), ops.ones((1, bins), ms.float32))
        rows = self.product(ops.ones((batch, 1), ms.float32), rows.reshape((1, -1)))
        return self.products(rows.expand_dims(2), mask.expand_dims(1)).reshape(shape)


def uniform(rng: np.random.Generator, bound: float, *shape: int) -> Tensor:
    """Draw initial weights from U(-bound, bound).

    Args:
        rng: Random generator.
        bound: Half the width of the distribution.
        *shape: Shape of the weights.

    Returns:
        The weights, float32.
    """
    return Tensor(rng.uniform(-bound, bound, shape).astype(np.float32))


class Dense(nn.Dense):
    """A dense layer (..., I) -> (..., O), which `common.nn.precision` may have in float16."""

    half = 0

    def construct(self, x):
        """Apply the layer to x (..., I)."""
        half = self.half if self.training else 0
        weight = maybe_half(self.weight, half)
        product = self.matmul(maybe_half(x, half).reshape((-1, self.in_channels)), weight)
        product = product.astype(x.dtype).reshape((*x.shape[:-1], self.out_channels))
        return product + self.bias.astype(x.dtype) if self.has_bias else product


class Clip(nn.Cell):
    """Hardtanh(0, 20), the clipped rectifier of DeepSpeech2: x -> values of the same shape.

    Computed by the one at 6: a minimum with a number, and its gradient, take the CPU 2 to 4 times
    as long.
    """

    def construct(self, x):
        """Clip x to 0 ... 20."""
        return ops.relu6(x * (6 / 20)) * (20 / 6)
