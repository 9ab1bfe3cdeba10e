"""Normalisation whose statistics leave padded frames out."""

from __future__ import annotations

import numpy as np

from common.nn.layers import MaskProduct
from common.utils.backend import Parameter, Tensor, ms, nn, ops


class MaskedBatchNorm(nn.Cell):
    """Batch normalisation (Ioffe & Szegedy 2015) that leaves padded frames out.

    They do not enter the statistics, and the result is zero there. The parameters are named, and
    the moving averages kept, as in mindspore.nn.BatchNorm2d. All is computed in float32; the result
    has the type of x.

    Args:
        channels: Number of channels C.
        layout: Axes of x and mask: "BCFT" for (B, C, F, T) and (B, T), "1CBT" for (1, C, B, T) and
            (B, T), "TBC" for (T, B, C) and (T, B).
        momentum: Share of the moving averages that is kept in a step.
        eps: Added to the variance.
        use_matmul: Use outer products instead of broadcasting, and products with the mask instead
            of masked sums. That is for the CPU (`common.utils.runtime.slow_broadcasts`), where they
            take a third and two thirds of the time; other devices may round what enters a product.
    """

    def __init__(
        self,
        channels: int,
        layout: str = "BCFT",
        momentum: float = 0.9,
        eps: float = 1e-5,
        use_matmul: bool = True,
    ):
        super().__init__()
        if layout not in ("BCFT", "1CBT", "TBC"):
            raise ValueError(f"layout {layout!r}: expected BCFT, 1CBT or TBC")
        self.layout, self.use_matmul = layout, use_matmul
        self.channels, self.momentum, self.eps = channels, momentum, eps
        self.gamma = Parameter(Tensor(np.ones(channels, np.float32)), name="gamma")
        self.beta = Parameter(Tensor(np.zeros(channels, np.float32)), name="beta")
        self.moving_mean = Parameter(
            Tensor(np.zeros(channels, np.float32)), name="moving_mean", requires_grad=False
        )
        self.moving_variance = Parameter(
            Tensor(np.ones(channels, np.float32)), name="moving_variance", requires_grad=False
        )
        self.over_ranks = None
        # Not ops.matmul: its gradient of an outer product fails for a batch of one of open shape.
        self.product, self.mask_product = ops.MatMul(), MaskProduct()

    def synchronise(self) -> None:
        """Take the statistics of a training step over all ranks from now on.

        Every rank must run the cell as often as the others. (mindspore.nn.SyncBatchNorm knows no
        padding, and is for Ascend alone.)
        """
        # Its gradient is the sum over all ranks too: what each rank's loss owes to the statistics.
        self.over_ranks = ops.AllReduce()

    def construct(self, x, mask):
        """Normalise x; mask: 1 for a frame of the utterance, 0 for padding."""
        dtype = x.dtype
        x, mask = x.astype(ms.float32), mask.astype(ms.float32)
        if self.training:
            count, total, squares = self._sums(x, mask)
            if self.over_ranks is not None:
                sums = self.over_ranks(ops.concat((count.reshape((1,)), total, squares)))
                count = sums[:1]
                total, squares = sums[1 : self.channels + 1], sums[self.channels + 1 :]
            mean = total / count
            variance = ops.relu(squares / count - mean * mean)
            unbiased = variance * count / ops.maximum(count - 1, Tensor(1.0, ms.float32))
            keep = self.momentum
            ops.assign(self.moving_mean, keep * self.moving_mean + (1 - keep) * mean)
            ops.assign(self.moving_variance, keep * self.moving_variance + (1 - keep) * unbiased)
        else:
            mean, variance = self.moving_mean, self.moving_variance
        scale = self.gamma * ops.rsqrt(variance + self.eps)
        shift = self.beta - mean * scale
        if self.use_matmul:
            x = x * self._outer(scale, mask, x.shape) + self._outer(shift, mask, x.shape)
        else:
            if self.layout != "TBC":
                scale, shift = scale.reshape((1, -1, 1, 1)), shift.reshape((1, -1, 1, 1))
            x = (x * scale + shift) * self._spread(mask)
        return x.astype(dtype)

    def _spread(self, mask):
        """Give the mask axes to be broadcast over x."""
        if self.layout == "TBC":
            return mask.expand_dims(2)
        if self.layout == "1CBT":
            return mask.expand_dims(0).expand_dims(0)
        return mask.expand_dims(1).expand_dims(1)

    def _outer(self, values, mask, shape):
        """Multiply values (C,) of each channel by the mask, in the shape of x."""
        if self.layout == "1CBT":
            product = self.product(values.reshape((-1, 1)), mask.reshape((1, -1)))
        elif self.layout == "TBC":
            product = self.product(mask.reshape((-1, 1)), values.reshape((1, -1)))
        else:
            return self.mask_product(values, mask, shape)
        return product.reshape(shape)

    def _sums(self, x, mask):
        """Count, sum and sum of squares of each channel over the unpadded frames."""
        if not self.use_matmul:
            axes = (0, 1) if self.layout == "TBC" else (0, 2, 3)
            masked = x * self._spread(mask)
            count = ops.sum(mask) * (x.shape[2] if self.layout == "BCFT" else 1)
            return count, masked.sum(axes), (masked * x).sum(axes)
        if self.layout == "1CBT":
            count = ops.sum(mask)
            column, flat = mask.reshape((-1, 1)), x.reshape((self.channels, -1))
            total = ops.matmul(flat, column).reshape((-1,))
            squares = ops.matmul(flat * flat, column).reshape((-1,))
        elif self.layout == "BCFT":
            batch, channels, bins, frames = x.shape
            count = ops.sum(mask) * bins
            column = mask.reshape((batch, frames, 1))
            flat = x.reshape((batch, channels * bins, frames))
            total = ops.matmul(flat, column).reshape((batch, channels, bins)).sum((0, 2))
            squares = ops.matmul(flat * flat, column).reshape((batch, channels, bins)).sum((0, 2))
        else:
            count = ops.sum(mask)
            row, flat = mask.reshape((1, -1)), x.reshape((-1, self.channels))
            total = ops.matmul(row, flat).reshape((-1,))
            squares = ops.matmul(row, flat * flat).reshape((-1,))
        return count, total, squares


class LayerNorm(nn.LayerNorm):
    """Layer normalisation (Ba et al. 2016) in float32; the result has the type of x."""

    def construct(self, x):
        """Normalise x along its last axis."""
        normalised, _, _ = self.layer_norm(x.astype(ms.float32), self.gamma, self.beta)
        return normalised.astype(x.dtype)
