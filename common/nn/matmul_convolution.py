"""Convolutions as matrix products, for processors on which oneDNN has no kernel for convolutions.

Where copies of the input would cost more than the product, a few neighbouring outputs are folded
into one: a kernel of K taps that makes r outputs at once is an r x (K + r - 1) staircase matrix,
and the input is copied (K + r - 1) / (K r) times as often as by the usual im2col, for
(K + r - 1) / K times the arithmetic.
"""

from __future__ import annotations

import math

import numpy as np

from common.nn.precision import maybe_half
from common.utils.backend import Parameter, Tensor, nn, ops


def convolution(
    weight: np.ndarray, stride: tuple[int, int], native: bool, bias: np.ndarray | None = None
) -> nn.Cell:
    """Build a convolution (B, C, F, T) -> (B, O, ceil(F / stride[0]), ceil(T / stride[1])).

    It is padded by half a kernel.

    Args:
        weight: (O, C, K, L) initial kernel, K and L odd.
        stride: Along F and T.
        native: Use the device's own operator, else matrix products (`common.utils.runtime`).
        bias: (O,) initial bias; None: no bias.

    Returns:
        A cell with the parameters `weight` and `bias`.
    """
    if native:
        half = [size // 2 for size in weight.shape[2:]]
        return NativeConvolution(
            weight.shape[1],
            weight.shape[0],
            weight.shape[2:],
            stride,
            pad_mode="pad",
            padding=(half[0], half[0], half[1], half[1]),
            has_bias=bias is not None,
            weight_init=_tensor(weight),
            bias_init=None if bias is None else _tensor(bias),
        )
    return MatmulConvolution(weight, stride, bias)


class NativeConvolution(nn.Conv2d):
    """The device's own operator, which `common.nn.precision` may have in float16."""

    half = 0

    def construct(self, x):
        """Convolve x (B, C, F, T)."""
        half = self.half if self.training else 0
        output = self.conv2d(maybe_half(x, half), maybe_half(self.weight, half)).astype(x.dtype)
        return self.bias_add(output, self.bias.astype(x.dtype)) if self.has_bias else output


def time_convolution(
    weight: np.ndarray,
    stride: int = 1,
    dilation: int = 1,
    groups: int = 1,
    native: bool = True,
    bias: np.ndarray | None = None,
) -> nn.Cell:
    """Build a convolution over frames, T -> ceil(T / stride), padded by half a kernel.

    By the device's own operator it maps (B, C, 1, T) to (B, O, 1, T'), by matrix products
    (1, C, B, T) to (1, O, B, T'): one product serves a whole batch where channels come first.

    Args:
        weight: (O, C / groups, 1, K) initial kernel, K odd.
        stride: Along T.
        dilation: Frames from one tap to the next.
        groups: Groups of channels.
        native: Use the device's own operator, else matrix products.
        bias: (O,) initial bias; None: no bias.

    Returns:
        A cell with the parameters `weight` and `bias`.

    Raises:
        ValueError: The kernel is even.
    """
    if weight.shape[3] % 2 == 0:
        raise ValueError(f"kernel of {weight.shape[3]} frames: expected an odd size")
    if not native:
        return MatmulTimeConvolution(weight, stride, dilation, groups, bias)
    half = weight.shape[3] // 2 * dilation
    return NativeConvolution(
        weight.shape[1] * groups,
        weight.shape[0],
        (1, weight.shape[3]),
        (1, stride),
        pad_mode="pad",
        padding=(0, 0, half, half),
        dilation=(1, dilation),
        group=groups,
        has_bias=bias is not None,
        weight_init=_tensor(weight),
        bias_init=None if bias is None else _tensor(bias),
    )


class MatmulTimeConvolution(nn.Cell):
    """A convolution (1, C, B, T) -> (1, O, B, ceil(T / stride)) by im2col and one product.

    One channel at a time (groups = C = O) goes by `MatmulRowConvolution`, which copies the input
    twice, not K times.

    Args:
        weight: (O, C / groups, 1, K) initial weights.
        stride: Frames from one output frame to the next.
        dilation: Frames from one tap to the next.
        groups: Groups of channels: 1, or C.
        bias: (O,) initial bias; None: no bias.

    Raises:
        ValueError: The groups are neither one nor single channels.
    """

    half = 0  # see `common.nn.precision`

    def __init__(
        self,
        weight: np.ndarray,
        stride: int = 1,
        dilation: int = 1,
        groups: int = 1,
        bias: np.ndarray | None = None,
    ):
        super().__init__()
        if groups > 1 and (weight.shape[0] != groups or weight.shape[1] != 1):
            raise ValueError(f"weight {weight.shape} in {groups} groups: expected 1 or C = O")
        self.weight = Parameter(_tensor(weight), name="weight")
        self.has_bias = bias is not None
        if self.has_bias:
            self.bias = Parameter(_tensor(bias), name="bias")
        self.outputs, _, _, self.width = weight.shape
        self.stride, self.dilation, self.by_channel = stride, dilation, groups > 1
        self.product, self.rows = ops.MatMul(), MatmulRowConvolution()

    def construct(self, x):
        """Convolve x (1, C, B, T)."""
        half, dtype = self.half if self.training else 0, x.dtype
        x, weight = maybe_half(x, half), maybe_half(self.weight, half)
        x = self._by_channel(x, weight) if self.by_channel else self._dense(x, weight)
        x = x.astype(dtype)
        return x + self.bias.reshape((1, -1, 1, 1)).astype(dtype) if self.has_bias else x

    def _dense(self, x, weight):
        _, channels, batch, frames = x.shape
        if self.width > 1 or self.stride > 1:
            half = self.width // 2 * self.dilation
            x = ops.unfold(x, (1, self.width), (1, self.dilation), (0, half), (1, self.stride))
            frames = (frames - 1) // self.stride + 1
        x = x.reshape((channels * self.width, batch * frames))
        x = self.product(weight.reshape((self.outputs, -1)), x)
        return x.reshape((1, self.outputs, batch, frames))

    def _by_channel(self, x, weight):
        _, channels, batch, frames = x.shape
        x, step, half = x.reshape((channels, batch, frames)), self.dilation, self.width // 2
        long = _ceil(frames, step)
        if step > 1:  # frames t, t + step, ... are utterances of their own
            x = _pad(x, 2, 0, long * step - frames).reshape((channels, batch, long, step))
            x = x.transpose((0, 1, 3, 2)).reshape((channels, batch * step, long))
        x = self.rows(_pad(x, 2, half, half), weight.reshape((channels, self.width)))
        x = x[:, :, :long]
        if step > 1:
            x = x.reshape((channels, batch, step, long)).transpose((0, 1, 3, 2))
            x = x.reshape((channels, batch, long * step))[:, :, :frames]
        if self.stride > 1:
            strided = _ceil(frames, self.stride)
            x = _pad(x, 2, 0, strided * self.stride - frames)
            x = x.reshape((channels, batch, strided, self.stride))[:, :, :, 0]
        return x.expand_dims(0)


class MatmulConvolution(nn.Cell):
    """A two-dimensional convolution as one matrix product; the axis of bins must be static.

    Maps x (B, C, F, T) to (B, O, ceil(F / bin stride), ceil(T / frame stride)).

    Along the bins, r outputs make one staircase. Strides become channels: with stride s, frames
    s t .. s t + s - 1 are s channels of one frame. The taps along the frames go to the cheaper
    side of the product: copies of the input (im2col) where it is narrow, else L products of which
    each is shifted by its tap and added.

    Args:
        weight: (O, C, kernel bins, kernel frames) initial weights; kernel sizes are odd.
        stride: Along bins and along frames.
        bias: (O,) initial bias; None: no bias.

    Raises:
        ValueError: A kernel size is even.
    """

    half = 0  # see `common.nn.precision`

    def __init__(self, weight: np.ndarray, stride: tuple[int, int], bias: np.ndarray | None = None):
        super().__init__()
        if any(size % 2 == 0 for size in weight.shape[2:]):
            raise ValueError(f"kernel {weight.shape[2:]}: expected odd sizes")
        self.weight = Parameter(_tensor(weight), name="weight")
        self.has_bias = bias is not None
        if self.has_bias:
            self.bias = Parameter(_tensor(bias), name="bias")
        self.outputs, self.inputs, self.height, self.width = weight.shape
        self.bin_stride, self.frame_stride = stride
        # At most a sixth more arithmetic. More would save memory, less would save little time.
        self.together = self.height // (6 * self.bin_stride) + 1
        left, step = self.width // 2, self.frame_stride
        self.taps = max(math.ceil(self.width / step), math.ceil(left / step) + 1)
        window = self.height + self.bin_stride * (self.together - 1)
        self.copies_input = window * self.inputs * step < self.together * self.outputs
        self.product, self.add = ops.MatMul(), ops.AddN()
        self.split = ops.Split(0, self.taps)

    def construct(self, x):
        """Convolve x (B, C, F, T)."""
        batch, channels, bins, frames = x.shape
        half, dtype = self.half if self.training else 0, x.dtype
        x = maybe_half(x, half)
        taps, step = self.taps, self.frame_stride
        out_bins, out_frames = (bins - 1) // self.bin_stride + 1, (frames - 1) // step + 1
        groups = _ceil(out_bins, self.together)
        together = _ceil(out_bins, groups)
        window = self.height + self.bin_stride * (together - 1)
        block = self.bin_stride * together  # bins from one group of outputs to the next
        pieces = _ceil(window, block)  # blocks that a group of outputs looks at
        blocks = max(groups + pieces - 1, _ceil(bins + self.height // 2, block))
        long = out_frames + taps - 1

        x = _pad(x, 2, self.height // 2, blocks * block - self.height // 2 - bins)
        x = _pad(x, 3, self.width // 2, long * step - self.width // 2 - frames)
        x = x.reshape((batch, channels, blocks, block, long, step)).transpose((3, 1, 5, 2, 0, 4))
        if self.copies_input:
            shifted = ()
            for tap in range(taps):
                shifted += (x[:, :, :, :, :, tap : tap + out_frames],)
            x = ops.stack(shifted, 1)
        x = x.reshape((block, -1, blocks, batch, out_frames if self.copies_input else long))

        views = ()
        for piece in range(pieces):
            view = x[:, :, piece : piece + groups]
            rest = window - piece * block
            views += (view if rest >= block else view[:rest],)
        x = ops.concat(views, 0)  # (window, [taps,] C, stride, groups, B, T)
        matrix = maybe_half(self._matrix(self.weight, together, window), half)
        x = self.product(matrix, x.reshape((matrix.shape[1], -1)))

        if not self.copies_input:
            x = x.reshape((taps, self.outputs * together, groups, batch, long))
            parts, shifted = self.split(x), ()
            for tap in range(taps):
                shifted += (parts[tap][:, :, :, :, tap : tap + out_frames],)
            x = self.add(shifted)
        x = x.reshape((self.outputs, together, groups, batch, out_frames))
        x = x.transpose((3, 0, 2, 1, 4))
        x = x.reshape((batch, self.outputs, groups * together, out_frames))
        x = (x if groups * together == out_bins else x[:, :, :out_bins]).astype(dtype)
        return x + self.bias.reshape((1, -1, 1, 1)).astype(dtype) if self.has_bias else x

    def _matrix(self, weight, together, window):
        """Arrange it as ([taps,] O, together) rows and (window, [taps,] C, stride) columns."""
        taps, step = self.taps, self.frame_stride
        weight = _pad(weight, 3, 0, taps * step - self.width)
        weight = weight.reshape((self.outputs, self.inputs, self.height, taps, step))
        if self.copies_input:
            weight = weight.transpose((0, 2, 3, 1, 4)).reshape((self.outputs, self.height, -1))
        else:
            rows = taps * self.outputs
            weight = weight.transpose((3, 0, 2, 1, 4)).reshape((rows, self.height, -1))
        weight = _staircase(weight, together, self.bin_stride, window)
        return weight.reshape((weight.shape[0] * together, -1))


class MatmulRowConvolution(nn.Cell):
    """A convolution of its own for each of H rows, as one batched matrix product.

    Maps x (H, B, T) and weight (H, K) to (H, B, T): y[h, b, t] = sum_j weight[h, j] x[h, b, t + j].
    As many outputs as the kernel has taps make one staircase.
    """

    def __init__(self):
        super().__init__()
        self.product = ops.BatchMatMul(transpose_b=True)

    def construct(self, x, weight):
        """Convolve each row of x (H, B, T) with its kernel in weight (H, K)."""
        rows, batch, frames = x.shape
        taps = weight.shape[1]
        blocks = (frames - 1) // taps + 1
        x = _pad(x, 2, 0, (blocks + 1) * taps - frames)
        x = x.reshape((rows, batch, blocks + 1, taps))
        x = ops.concat((x[:, :, :blocks], x[:, :, 1 : blocks + 1]), 3)
        matrix = _staircase(weight.expand_dims(2), taps, 1, 2 * taps).squeeze(3)
        x = self.product(x.reshape((rows, -1, 2 * taps)), matrix)
        return x.reshape((rows, batch, blocks * taps))[:, :, :frames]


def _staircase(kernel, stairs, step, window):
    """Kernel (N, K, I) -> (N, stairs, window, I) whose stair i holds the kernel from i * step on.

    Rows of window + step values, read as rows of window values, shift by step from one to the next.
    """
    rows, size, inner = kernel.shape
    kernel = _pad(kernel, 1, 0, window + step - size).reshape((rows, 1, -1))
    kernel = ops.tile(kernel, (1, stairs, 1)).reshape((rows, -1))
    return kernel[:, : stairs * window * inner].reshape((rows, stairs, window, inner))


def _pad(x, axis, before, after):
    """Add zeros on both sides of an axis; on the CPU a concatenation is 10 times as fast."""
    shape = x.shape
    parts = (x, ops.zeros(shape[:axis] + (after,) + shape[axis + 1 :], x.dtype))
    if before > 0:
        parts = (ops.zeros(shape[:axis] + (before,) + shape[axis + 1 :], x.dtype), *parts)
    return ops.concat(parts, axis)


def _tensor(values: np.ndarray) -> Tensor:
    return Tensor(values.astype(np.float32))


def _ceil(value, by):
    return -(-value // by)
