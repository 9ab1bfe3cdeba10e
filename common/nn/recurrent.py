"""Recurrent layers that honour lengths, and the look-ahead of one-directional ones."""

from __future__ import annotations

import math

import numpy as np

from common.nn.layers import uniform
from common.nn.matmul_convolution import MatmulRowConvolution, NativeConvolution
from common.nn.precision import maybe_half
from common.utils.backend import Parameter, Tensor, ms, nn, ops


class Recurrent(nn.Cell):
    """One recurrent layer (T, B, I) -> (T, B, H); two directions are summed.

    Formulas and parameter names are those of torch.nn and mindspore.nn: `weight_ih_l0 (G*H, I)`,
    ..., `_reverse`. The backward direction reads each utterance from its own last frame. Frames
    past an utterance's length come out undefined (finite).

    This is the one place that knows which operator runs where: the LSTM operator on CPU and GPU,
    DynamicRNN in float16 on Ascend. GRU and RNN are a loop over frames, unrolled at compile time,
    so they need static shapes.

    Args:
        kind: "LSTM" (gates i, f, g, o), "GRU" (r, z, n) or "RNN" (tanh).
        input_size: Values I of an input frame.
        hidden_size: Values H of an output frame.
        bidirectional: Whether to read in both directions.
        rng: Draws the initial weights.
        device: "CPU", "GPU" or "Ascend".

    Raises:
        ValueError: There is no such kind.
    """

    GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}
    half = 0  # see `common.nn.precision`

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
        """Keep the weights as DynamicRNN takes them, for a file; on Ascend only.

        The file needs half the space, and no card packs the weights anew at each start.
        """
        if not isinstance(self.run, AscendLSTM):
            return
        for suffix in ("", "_reverse") if self.bidirectional else ("",):
            names = ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0")
            weights = [getattr(self, name + suffix) for name in names]
            prefix = weights[0].name.removesuffix(names[0] + suffix)
            packed = pack_gates(*(weight.asnumpy() for weight in weights))
            for kind, values in zip(("weight", "bias"), packed):
                name = f"{kind}_packed_l0{suffix}"
                setattr(self, name, Parameter(Tensor(values), name=prefix + name))
        self.packed = True

    def construct(self, x, lengths):
        """Apply the layer to x (T, B, I), lengths (B,)."""
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
        half, dtype = self.half if self.training else 0, x.dtype
        x = maybe_half(x, half)
        output = self.run(
            x,
            maybe_half(self.weight_ih_l0, half),
            maybe_half(self.weight_hh_l0, half),
            maybe_half(self.bias_ih_l0, half),
            maybe_half(self.bias_hh_l0, half),
        )
        if self.bidirectional:
            backward = self.run(
                self.reverse(x, lengths),
                maybe_half(self.weight_ih_l0_reverse, half),
                maybe_half(self.weight_hh_l0_reverse, half),
                maybe_half(self.bias_ih_l0_reverse, half),
                maybe_half(self.bias_hh_l0_reverse, half),
            )
            output = output + self.reverse(backward, lengths)
        return output.astype(dtype)


class FusedLSTM(nn.Cell):
    """One direction by the LSTM operator: oneDNN on the CPU, cuDNN on a GPU.

    Maps x (T, B, I), weight_ih (G H, I), weight_hh (G H, H), bias_ih (G H,) and bias_hh (G H,), as
    in torch.nn with G gates, to (T, B, H).

    Args:
        input_size: Values I of an input frame.
        hidden_size: Values H of an output frame.
        summed_bias: Whether the operator takes one bias a gate (oneDNN) or two (cuDNN).
    """

    def __init__(self, input_size: int, hidden_size: int, summed_bias: bool):
        super().__init__()
        self.hidden_size = hidden_size
        self.summed_bias = summed_bias
        self.operator = ops.LSTM(input_size, hidden_size, 1, True, False, 0.0)

    def construct(self, x, weight_ih, weight_hh, bias_ih, bias_hh):
        """Apply the layer to x (T, B, I), with the weights of torch.nn."""
        parts = (weight_ih.reshape((-1,)), weight_hh.reshape((-1,)))
        parts += (bias_ih + bias_hh,) if self.summed_bias else (bias_ih, bias_hh)
        weights = ops.concat(parts).reshape((-1, 1, 1))
        state = ops.zeros((1, x.shape[1], self.hidden_size), x.dtype)
        return self.operator(x, state, state, weights)[0]


class AscendLSTM(nn.Cell):
    """One direction by DynamicRNN, which computes in float16 and orders its gates i, g, f, o.

    Maps x (T, B, I), weight_ih (G H, I), weight_hh (G H, H), bias_ih (G H,) and bias_hh (G H,), as
    in torch.nn with G gates, to (T, B, H).

    Args:
        hidden_size: Values H of an output frame.
    """

    def __init__(self, hidden_size: int):
        super().__init__()
        self.hidden_size = hidden_size
        self.operator = ops.DynamicRNN()

    def construct(self, x, weight_ih, weight_hh, bias_ih, bias_hh):
        """Apply the layer to x (T, B, I), with the weights of torch.nn."""
        weights = self._reorder(ops.concat((weight_ih, weight_hh), 1)).transpose((1, 0))
        bias = self._reorder(bias_ih + bias_hh)
        return self.step(x, weights.astype(ms.float16), bias.astype(ms.float16))

    def step(self, x, weights, bias):
        """Apply the layer with packed weights.

        Args:
            x: (T, B, I).
            weights: (I + H, 4 H) float16, as `pack_gates` returns them.
            bias: (4 H,) float16, likewise.

        Returns:
            (T, B, H) in the type of x.
        """
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
    """Order an LSTM's weights as DynamicRNN takes them.

    Args:
        weight_ih: (4 H, I), gates i, f, g, o.
        weight_hh: (4 H, H).
        bias_ih: (4 H,).
        bias_hh: (4 H,).

    Returns:
        Weights (I + H, 4 H) and bias (4 H,), float16, gates i, g, f, o.
    """
    size = weight_hh.shape[1]
    rows = np.arange(4 * size).reshape(4, size)[[0, 2, 1, 3]].reshape(-1)
    weights = np.concatenate((weight_ih, weight_hh), 1)[rows].T
    bias = (bias_ih + bias_hh)[rows]
    return np.ascontiguousarray(weights, np.float16), bias.astype(np.float16)


class FrameLoop(nn.Cell):
    """One direction of a GRU or tanh RNN as a loop over frames, for static shapes.

    Maps x (T, B, I), weight_ih (G H, I), weight_hh (G H, H), bias_ih (G H,) and bias_hh (G H,), as
    in torch.nn with G gates, to (T, B, H).

    Args:
        kind: "GRU" or "RNN".
        hidden_size: Values H of an output frame.
    """

    def __init__(self, kind: str, hidden_size: int):
        super().__init__()
        self.is_gru, self.size = kind == "GRU", hidden_size

    def construct(self, x, weight_ih, weight_hh, bias_ih, bias_hh):
        """Apply the layer to x (T, B, I), with the weights of torch.nn."""
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


class Lookahead(nn.Cell):
    """Row convolution over this frame and those ahead (Wang et al. 2016).

    Maps x (T, B, H) and mask (T, B) to (T, B, H):
    output[t, :, h] = sum_j weight[h, j] x[t + j, :, h].

    Args:
        width: Values H of a frame.
        context: Number of frames, this one among them.
        rng: Draws the initial weights.
        native: Use the device's own convolution, else matrix products (`common.utils.runtime`).
    """

    half = 0  # see `common.nn.precision`

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
        """Apply the layer to x (T, B, H), mask (T, B)."""
        x = x * ops.expand_dims(mask, 2).astype(x.dtype)
        if self.native:
            x = ops.expand_dims(x.transpose((1, 2, 0)), 2)  # (B, H, 1, T)
            return self.conv(x).squeeze(2).transpose((2, 0, 1))
        x = x.transpose((2, 1, 0))  # (H, B, T)
        half = self.half if self.training else 0
        weight = maybe_half(self.conv.weight.reshape((self.width, self.context)), half)
        return self.product(maybe_half(x, half), weight).transpose((2, 1, 0)).astype(x.dtype)
