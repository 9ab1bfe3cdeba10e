"""Building blocks that honour lengths: a padded batch gives each utterance the result it has alone.

Importing `common` first has settled the environment before mindspore loads here.
"""

from __future__ import annotations

import math

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor, nn, ops

from common.convolution import MatmulRowConvolution, NativeConvolution
from common.precision import lowered


def frame_mask(lengths: Tensor, frames: int) -> Tensor:
    """1 where a frame belongs to its utterance, 0 where it is padding: lengths (B,) -> (B, T)."""
    return ops.cast(ops.arange(frames).reshape((1, -1)) < lengths.reshape((-1, 1)), ms.float32)


def uniform(rng: np.random.Generator, bound: float, *shape: int) -> Tensor:
    """Initial weights drawn from U(-bound, bound)."""
    return Tensor(rng.uniform(-bound, bound, shape).astype(np.float32))


class MaskedBatchNorm(nn.Cell):
    """Batch normalisation (Ioffe & Szegedy 2015) whose statistics leave padded frames out, and
    whose result is zero there.

    layout "BCFT": x (B, C, F, T), mask (B, T); "1CBT": x (1, C, B, T), mask (B, T);
    "TBC": x (T, B, C), mask (T, B). The parameters are named, and the moving averages kept, as in
    mindspore.nn.BatchNorm2d. All is computed in float32; the result has the type of x.

    by_products: with outer products instead of broadcasting, and products with the mask instead of
    masked sums. That is for the CPU (`common.runtime.slow_broadcasts`), where they take a third and
    two thirds of the time; other devices may round what enters a product.

    synchronise(): from then on the statistics of a training step are those over all ranks, and
    every rank must run the cell as often as the others. (mindspore.nn.SyncBatchNorm knows no
    padding, and is for Ascend alone.)
    """

    def __init__(
        self,
        channels: int,
        layout: str = "BCFT",
        momentum: float = 0.9,
        eps: float = 1e-5,
        by_products: bool = True,
    ):
        super().__init__()
        if layout not in ("BCFT", "1CBT", "TBC"):
            raise ValueError(f"layout {layout!r}: expected BCFT, 1CBT or TBC")
        self.layout, self.by_products = layout, by_products
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
        self.product, self.products = ops.MatMul(), ops.BatchMatMul()

    def synchronise(self) -> None:
        # Its gradient is the sum over all ranks too: what each rank's loss owes to the statistics.
        self.over_ranks = ops.AllReduce()

    def construct(self, x, mask):
        given = x.dtype
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
        if self.by_products:
            x = x * self._outer(scale, mask, x.shape) + self._outer(shift, mask, x.shape)
        else:
            if self.layout != "TBC":
                scale, shift = scale.reshape((1, -1, 1, 1)), shift.reshape((1, -1, 1, 1))
            x = (x * scale + shift) * self._spread(mask)
        return x.astype(given)

    def _spread(self, mask):
        """The mask, to be broadcast over x."""
        if self.layout == "TBC":
            return mask.expand_dims(2)
        if self.layout == "1CBT":
            return mask.expand_dims(0).expand_dims(0)
        return mask.expand_dims(1).expand_dims(1)

    def _outer(self, values, mask, shape):
        """values (C,) of each channel times the mask, in the shape of x."""
        if self.layout == "1CBT":
            found = self.product(values.reshape((-1, 1)), mask.reshape((1, -1)))
        elif self.layout == "TBC":
            found = self.product(mask.reshape((-1, 1)), values.reshape((1, -1)))
        else:
            batch, channels, bins, frames = shape
            rows = self.product(values.reshape((-1, 1)), ops.ones((1, bins), ms.float32))
            rows = self.product(ops.ones((batch, 1), ms.float32), rows.reshape((1, -1)))
            found = self.products(rows.expand_dims(2), mask.expand_dims(1))
        return found.reshape(shape)

    def _sums(self, x, mask):
        """Count, sum and sum of squares of each channel over the unpadded frames."""
        if not self.by_products:
            axes = (0, 1) if self.layout == "TBC" else (0, 2, 3)
            kept = x * self._spread(mask)
            count = ops.sum(mask) * (x.shape[2] if self.layout == "BCFT" else 1)
            return count, kept.sum(axes), (kept * x).sum(axes)
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
        found, _, _ = self.layer_norm(x.astype(ms.float32), self.gamma, self.beta)
        return found.astype(x.dtype)


class Dense(nn.Dense):
    """x (..., I) -> (..., O), by a product that `common.precision` may have in float16."""

    half = False

    def construct(self, x):
        half = self.half and self.training
        weight = lowered(self.weight, half)
        found = self.matmul(lowered(x, half).reshape((-1, self.in_channels)), weight)
        found = found.astype(x.dtype).reshape((*x.shape[:-1], self.out_channels))
        return found + self.bias.astype(x.dtype) if self.has_bias else found


class Dropout(nn.Cell):
    """Dropout over x whose mask is a pure function of a seed that the training step sets.

    layout "TBC": x (T, B, C); "1CBT": x (1, C, B, T); "BC1T": x (B, C, 1, T). The mask of a frame,
    utterance and channel is the same in each.

    mindspore's own keeps its random state inside the kernel, where no checkpoint reaches it; with
    this one a resumed run draws the very masks that the undisturbed run draws. Each position gets
    the product of an odd number and its row's hash xor its column's: three cheap operations.
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
        kept = x * (1 / (1 - self.rate))
        return ops.select(drawn >= self.threshold, kept, ops.zeros_like(x))


def _hash(bits: Tensor) -> Tensor:
    """int32 -> int32, well mixed (a finaliser of the kind of C. Wellons' "lowbias32")."""
    for _ in range(2):
        bits = ops.bitwise_xor(bits, ops.bitwise_right_shift(bits, 16)) * 73_244_475
    return ops.bitwise_xor(bits, ops.bitwise_right_shift(bits, 16))


class Recurrent(nn.Cell):
    """One recurrent layer over x (T, B, I) -> (T, B, H); two directions are summed.

    kind: "LSTM" (gates i, f, g, o), "GRU" (r, z, n) or "RNN" (tanh), with the formulas and the
    parameter names of torch.nn and mindspore.nn: `weight_ih_l0 (G*H, I)`, ..., `_reverse`.
    The backward direction reads each utterance from its own last frame. Frames past an
    utterance's length come out undefined (finite).

    This is the one place that knows which operator runs where: the LSTM operator on CPU and GPU,
    DynamicRNN in float16 on Ascend; GRU and RNN are a loop over frames, unrolled at compile time,
    so they need static shapes.
    """

    GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}
    half = False  # see `common.precision`

    def __init__(
        self,
        kind: str,
        input_size: int,
        hidden_size: int,
        bidirectional: bool,
        rng: np.random.Generator,
        device: str = "CPU",
    ):
        super().__init__()
        if kind not in self.GATES:
            raise ValueError(f"rnn_type {kind!r}: expected one of {', '.join(self.GATES)}")
        self.kind, self.hidden_size, self.bidirectional = kind, hidden_size, bidirectional
        if kind != "LSTM":
            self.run = FrameLoop(kind, hidden_size)
        elif device == "Ascend":
            self.run = AscendLSTM(hidden_size)
        else:
            self.run = FusedLSTM(input_size, hidden_size, summed_bias=device == "CPU")
        self.reverse = ops.ReverseSequence(seq_dim=0, batch_dim=1)

        rows, bound = self.GATES[kind] * hidden_size, 1 / math.sqrt(hidden_size)
        shapes = {
            "weight_ih_l0": (rows, input_size),
            "weight_hh_l0": (rows, hidden_size),
            "bias_ih_l0": (rows,),
            "bias_hh_l0": (rows,),
        }
        for suffix in ("", "_reverse") if bidirectional else ("",):
            for name, shape in shapes.items():
                weight = Parameter(uniform(rng, bound, *shape), name=name + suffix)
                setattr(self, name + suffix, weight)
        self.packed = False

    def pack(self) -> None:
        """Has a cell for Ascend keep its weights as DynamicRNN takes them, for a file: it needs no
        more than half the space, and no card packs them anew at each start."""
        if not isinstance(self.run, AscendLSTM):
            return
        for suffix in ("", "_reverse") if self.bidirectional else ("",):
            names = ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0")
            given = [getattr(self, name + suffix) for name in names]
            prefix = given[0].name.removesuffix(names[0] + suffix)
            packed = pack_gates(*(weight.asnumpy() for weight in given))
            for kind, values in zip(("weight", "bias"), packed):
                name = f"{kind}_packed_l0{suffix}"
                setattr(self, name, Parameter(Tensor(values), name=prefix + name))
        self.packed = True

    def construct(self, x, lengths):
        if self.packed:
            output = self.run.step(x, self.weight_packed_l0, self.bias_packed_l0)
            if self.bidirectional:
                backward = self.run.step(
                    self.reverse(x, lengths),
                    self.weight_packed_l0_reverse,
                    self.bias_packed_l0_reverse,
                )
                output = output + self.reverse(backward, lengths)
            return output
        half, given = self.half and self.training, x.dtype
        x = lowered(x, half)
        output = self.run(
            x,
            lowered(self.weight_ih_l0, half),
            lowered(self.weight_hh_l0, half),
            lowered(self.bias_ih_l0, half),
            lowered(self.bias_hh_l0, half),
        )
        if self.bidirectional:
            backward = self.run(
                self.reverse(x, lengths),
                lowered(self.weight_ih_l0_reverse, half),
                lowered(self.weight_hh_l0_reverse, half),
                lowered(self.bias_ih_l0_reverse, half),
                lowered(self.bias_hh_l0_reverse, half),
            )
            output = output + self.reverse(backward, lengths)
        return output.astype(given)


class FusedLSTM(nn.Cell):
    """One direction by the LSTM operator: oneDNN on the CPU, cuDNN on a GPU."""

    def __init__(self, input_size: int, hidden_size: int, summed_bias: bool):
        super().__init__()
        self.hidden_size = hidden_size
        self.summed_bias = summed_bias  # oneDNN takes one bias a gate, cuDNN two
        self.operator = ops.LSTM(input_size, hidden_size, 1, True, False, 0.0)

    def construct(self, x, weight_ih, weight_hh, bias_ih, bias_hh):
        parts = (weight_ih.reshape((-1,)), weight_hh.reshape((-1,)))
        parts += (bias_ih + bias_hh,) if self.summed_bias else (bias_ih, bias_hh)
        weights = ops.concat(parts).reshape((-1, 1, 1))
        state = ops.zeros((1, x.shape[1], self.hidden_size), x.dtype)
        return self.operator(x, state, state, weights)[0]


class AscendLSTM(nn.Cell):
    """One direction by DynamicRNN, which computes in float16 and orders its gates i, g, f, o."""

    def __init__(self, hidden_size: int):
        super().__init__()
        self.hidden_size = hidden_size
        self.operator = ops.DynamicRNN()

    def construct(self, x, weight_ih, weight_hh, bias_ih, bias_hh):
        weights = self._reorder(ops.concat((weight_ih, weight_hh), 1)).transpose((1, 0))
        bias = self._reorder(bias_ih + bias_hh)
        return self.step(x, weights.astype(ms.float16), bias.astype(ms.float16))

    def step(self, x, weights, bias):
        """x (T, B, I), weights (I + H, 4 H) and bias (4 H,) as `pack_gates` makes them."""
        state = ops.zeros((1, x.shape[1], self.hidden_size), ms.float16)
        output = self.operator(x.astype(ms.float16), weights, bias, None, state, state)[0]
        return output.astype(x.dtype)

    def _reorder(self, rows):
        size = self.hidden_size
        return ops.concat(
            (rows[:size], rows[2 * size : 3 * size], rows[size : 2 * size], rows[3 * size :])
        )


def pack_gates(
    weight_ih: np.ndarray, weight_hh: np.ndarray, bias_ih: np.ndarray, bias_hh: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """An LSTM's weights, gates i, f, g, o, as DynamicRNN takes them: float16 (I + H, 4 H) and
    (4 H,), gates i, g, f, o."""
    size = weight_hh.shape[1]
    rows = np.arange(4 * size).reshape(4, size)[[0, 2, 1, 3]].reshape(-1)
    weights = np.concatenate((weight_ih, weight_hh), 1)[rows].T
    bias = (bias_ih + bias_hh)[rows]
    return np.ascontiguousarray(weights, np.float16), bias.astype(np.float16)


class FrameLoop(nn.Cell):
    """One direction of a GRU or tanh RNN as a loop over frames, for static shapes."""

    def __init__(self, kind: str, hidden_size: int):
        super().__init__()
        self.is_gru, self.size = kind == "GRU", hidden_size

    def construct(self, x, weight_ih, weight_hh, bias_ih, bias_hh):
        inputs = ops.matmul(x, weight_ih.T) + bias_ih
        recurrent = weight_hh.T
        hidden = ops.zeros((x.shape[1], self.size), x.dtype)
        outputs = []
        for frame in range(x.shape[0]):
            arriving, returning = inputs[frame], ops.matmul(hidden, recurrent) + bias_hh
            if self.is_gru:
                gates = ops.sigmoid(arriving[:, : 2 * self.size] + returning[:, : 2 * self.size])
                reset, update = gates[:, : self.size], gates[:, self.size :]
                candidate = ops.tanh(
                    arriving[:, 2 * self.size :] + reset * returning[:, 2 * self.size :]
                )
                hidden = (1 - update) * candidate + update * hidden
            else:
                hidden = ops.tanh(arriving + returning)
            outputs.append(hidden)
        return ops.stack(outputs)


class Clip(nn.Cell):
    """Hardtanh(0, 20), the clipped rectifier of DeepSpeech2.

    By the one at 6: a minimum with a number, and its gradient, take the CPU 2 to 4 times as long.
    """

    def construct(self, x):
        return ops.relu6(x * (6 / 20)) * (20 / 6)


class Lookahead(nn.Cell):
    """Row convolution over `context` frames, this one and those ahead (Wang et al. 2016).

    x (T, B, H), mask (T, B) -> (T, B, H); output[t, :, h] = sum_j weight[h, j] x[t + j, :, h].
    native: by the device's own convolution, else by matrix products (`common.runtime`).
    """

    half = False  # see `common.precision`

    def __init__(self, width: int, context: int, rng: np.random.Generator, native: bool = True):
        super().__init__()
        self.native, self.width, self.context = native, width, context
        self.conv = NativeConvolution(
            width,
            width,
            (1, context),
            pad_mode="pad",
            padding=(0, 0, 0, context - 1),
            group=width,
            weight_init=uniform(rng, 1 / math.sqrt(context), width, 1, 1, context),
        )
        self.product = MatmulRowConvolution()

    def construct(self, x, mask):
        x = x * ops.expand_dims(mask, 2).astype(x.dtype)
        if self.native:
            x = ops.expand_dims(x.transpose((1, 2, 0)), 2)  # (B, H, 1, T)
            return self.conv(x).squeeze(2).transpose((2, 0, 1))
        x = x.transpose((2, 1, 0))  # (H, B, T)
        half = self.half and self.training
        weight = lowered(self.conv.weight.reshape((self.width, self.context)), half)
        return self.product(lowered(x, half), weight).transpose((2, 1, 0)).astype(x.dtype)


class CTCLoss(nn.Cell):
    """Connectionist temporal classification (Graves et al. 2006), one loss an utterance.

    log_probs (T, B, C), lengths (B,), targets (B, L), target_lengths (B,) -> negative
    log-likelihood in nats (B,). Utterances whose labels do not fit their frames must not get
    here: the operator stops the process (see `common.text.ctc_frames_needed`). Rows of no frames,
    which must have no labels, are given one: the operator reads past the end of nothing.
    """

    def __init__(self, blank: int):
        super().__init__()
        self.blank = blank

    def construct(self, log_probs, lengths, targets, target_lengths):
        losses, _ = ops.ctc_loss(
            log_probs.astype(ms.float32),
            targets,
            ops.maximum(lengths, 1),
            target_lengths,
            blank=self.blank,
            reduction="none",
            zero_infinity=True,
        )
        return losses
