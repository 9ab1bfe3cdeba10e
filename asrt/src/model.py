"""ASRT's acoustic networks: two-dimensional convolutions over a spectrogram, and CTC.

SpeechModel24, 25, 251 and 251BN of github.com/nl8590687/ASRT_SpeechRecognition, which says what
they are in model_zoo/speech_model/keras_backend.py.
"""

from __future__ import annotations

import math

import numpy as np

from asrt.src.config import EPSILON, ModelConfig, stride
from common import config as configs
from common.nn.dropout import Dropout
from common.nn.layers import Dense, MaskProduct, frame_mask
from common.nn.matmul_convolution import convolution
from common.nn.norm import MaskedBatchNorm
from common.utils import runtime
from common.utils.backend import Parameter, Tensor, ms, nn, ops
from common.utils.errors import UserError

MOMENTUM = 0.99  # of the moving averages of batch normalisation, as in Keras
# Deviation of a standard normal distribution that is cut off beyond 2.
_TRUNCATED_DEVIATION = 0.87962566103423978


class SpeechNetwork(nn.Cell):
    """The network: pairs of convolutions, a dense layer and an output layer.

    Maps features (B, F, T) and lengths (B,) to log-probabilities (T', B, C) and lengths (B,).

    Args:
        config: The pairs.
        dimension: Bins F of a feature frame.
        classes: Number of labels C.
        rng: Draws the initial weights.
        device: "CPU", "GPU" or "Ascend", which decides between equivalent operators.

    Raises:
        UserError: The configuration cannot be built.
    """

    def __init__(
        self,
        config: ModelConfig,
        dimension: int,
        classes: int,
        rng: np.random.Generator,
        device: str = "CPU",
    ):
        super().__init__()
        configs.check(config, "ModelConfig.")
        self.stride, self.end_frames = stride(config), config.end_frames
        if dimension < self.stride:
            raise UserError(
                f"features of {dimension} bins: {self.stride} are halved to one by "
                f"ModelConfig.pairs; expected at least {self.stride}"
            )
        self.mask = MaskProduct(runtime.slow_broadcasts(device))
        self.bins = dimension
        pairs: list[nn.Cell] = []
        channels, bins = 1, dimension
        for number, pair in enumerate(config.pairs):
            pairs.append(Pair(config, number, channels, bins, rng, device))
            channels, bins = pair.filters, bins // (1 + pair.pool)
        self.pairs = nn.CellList(pairs)
        width, hidden = channels * bins, config.hidden_size
        self.hidden = _dense(width, hidden, rng)
        self.dropout = Dropout(config.hidden_dropout, hidden, 2 * len(pairs), "TBC")
        self.output = _dense(hidden, classes, rng)

    def construct(self, features, lengths):
        """Compute log-probabilities.

        Args:
            features: (B, F, T).
            lengths: (B,) feature frames of each utterance.

        Returns:
            Log-probabilities (T', B, C) and output lengths (B,).
        """
        batch, _, frames = features.shape
        x = features.expand_dims(1)
        mask = self.mask(None, frame_mask(lengths, frames), (batch, 1, self.bins, frames))
        x = x * mask.astype(x.dtype)
        # A whole number of output frames: halving needs an even number of frames.
        long = -(-(frames + self.end_frames) // self.stride) * self.stride
        x = ops.concat((x, ops.zeros((batch, 1, self.bins, long - frames), x.dtype)), 3)
        if self.end_frames > 0:  # rows of no frames stay so
            lengths = lengths + self.end_frames * (lengths > 0).astype(lengths.dtype)
        for pair in self.pairs:
            x, lengths = pair(x, lengths)
        x = x.transpose((3, 0, 2, 1))  # (T', B, F', C): Keras has channels last
        x = ops.relu(self.hidden(x.reshape((x.shape[0], batch, -1))))
        x = self.output(self.dropout(x))
        return ops.log_softmax(x.astype(ms.float32), -1), lengths


class Pair(nn.Cell):
    """Two convolutions, with dropout between and after them, and halving.

    Padded frames are zero before each convolution, as they are outside a lone utterance; halving
    may therefore take them for silence: after a ReLU no value is smaller.

    Args:
        config: All of the network.
        number: Place in it.
        inputs: Channels that enter.
        bins: Bins of a frame that enter.
        rng: Draws the initial weights.
        device: As of `SpeechNetwork`.
    """

    def __init__(
        self,
        config: ModelConfig,
        number: int,
        inputs: int,
        bins: int,
        rng: np.random.Generator,
        device: str,
    ):
        super().__init__()
        pair = config.pairs[number]
        bias = number > 0 or config.first_bias
        self.first = Convolution(inputs, pair.filters, bias, config.batch_norm, rng, device)
        self.second = Convolution(pair.filters, pair.filters, True, config.batch_norm, rng, device)
        self.pool, self.filters, self.bins = pair.pool, pair.filters, bins
        # Each bin of a channel is dropped for itself.
        streams = 2 * number, 2 * number + 1
        self.out_bins = bins // (1 + pair.pool)
        self.between = Dropout(pair.dropout, pair.filters * bins, streams[0], "BC1T")
        self.after = Dropout(pair.dropout_after, pair.filters * self.out_bins, streams[1], "BC1T")

    def construct(self, x, lengths):
        """Apply the pair.

        Args:
            x: (B, C, F, T), zero beyond each utterance's frames; T even if it is halved.
            lengths: (B,).

        Returns:
            The same of what leaves the pair.
        """
        batch, _, _, frames = x.shape
        mask = frame_mask(lengths, frames)
        x = self.first(x, mask)
        x = self.between(x.reshape((batch, -1, 1, frames)))
        x = self.second(x.reshape((batch, self.filters, self.bins, frames)), mask)
        if self.pool:
            x = halve(x)
            lengths = (lengths + 1) // 2
            frames = frames // 2
        x = self.after(x.reshape((batch, -1, 1, frames)))
        return x.reshape((batch, self.filters, self.out_bins, frames)), lengths


class Convolution(nn.Cell):
    """A convolution of 3 x 3 with bias, batch normalisation where there is one, and ReLU.

    Args:
        inputs: Channels that enter.
        outputs: Channels that leave.
        bias: Whether it has one.
        batch_norm: Whether it has a batch normalisation.
        rng: Draws the initial weights.
        device: As of `SpeechNetwork`.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        bias: bool,
        batch_norm: bool,
        rng: np.random.Generator,
        device: str,
    ):
        super().__init__()
        slow = runtime.slow_broadcasts(device)
        weight = he_normal(rng, (outputs, inputs, 3, 3), 9 * inputs)
        self.conv = convolution(weight, (1, 1), runtime.native_convolutions(device))
        self.has_bias, self.outputs, self.spread = bias, outputs, MaskProduct(slow)
        if bias:
            self.bias = Parameter(Tensor(np.zeros(outputs, np.float32)), name="bias")
        self.norm = None
        if batch_norm:
            self.norm = MaskedBatchNorm(outputs, "BCFT", MOMENTUM, EPSILON, slow)

    def construct(self, x, mask):
        """Apply it to x (B, C, F, T) with mask (B, T); what is not of an utterance becomes zero."""
        x = self.conv(x)
        if self.norm is None:
            x = x * self.spread(None, mask, x.shape).astype(x.dtype)
        if self.has_bias:
            x = x + self.spread(self.bias, mask, x.shape).astype(x.dtype)
        if self.norm is not None:
            x = self.norm(x, mask)
        return ops.relu(x)


def halve(x: Tensor) -> Tensor:
    """Take the greatest of two bins and two frames: (B, C, F, T) -> (B, C, F // 2, T / 2).

    Args:
        x: (B, C, F, T), T even. An odd last bin is left out.

    Returns:
        The greatest values.
    """
    batch, channels, bins, frames = x.shape
    if bins % 2:
        x = x[:, :, : bins - 1]
    x = x.reshape((batch, channels, bins // 2, 2, frames))
    x = ops.maximum(x[:, :, :, 0], x[:, :, :, 1])
    x = x.reshape((batch, channels, bins // 2, frames // 2, 2))
    return ops.maximum(x[:, :, :, :, 0], x[:, :, :, :, 1])


def he_normal(rng: np.random.Generator, shape: tuple[int, ...], inputs: int) -> np.ndarray:
    """Draw initial weights (He et al. 2015, arXiv 1502.01852) as Keras does.

    Args:
        rng: Random generator.
        shape: Of the weights.
        inputs: Number of values that enter each output.

    Returns:
        Weights of a normal distribution that is cut off beyond two deviations.
    """
    drawn = rng.standard_normal(shape)
    while (outside := np.abs(drawn) > 2).any():
        drawn[outside] = rng.standard_normal(int(outside.sum()))
    return (drawn * math.sqrt(2 / inputs) / _TRUNCATED_DEVIATION).astype(np.float32)


def _dense(inputs: int, outputs: int, rng: np.random.Generator) -> nn.Cell:
    weight = Tensor(he_normal(rng, (outputs, inputs), inputs))
    return Dense(inputs, outputs, weight_init=weight, bias_init="zeros")
