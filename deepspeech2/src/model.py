"""The DeepSpeech2 network (Amodei et al. 2016, arXiv 1512.02595).

Parameters are named as in the MindSpore model zoo's DeepSpeech2, so that its checkpoints load:
`conv.conv1.weight`, `conv.bn1.gamma`, `RNN.lstms.0.weight_ih_l0`, `fc.module.weight`.
"""

from __future__ import annotations

import math

import numpy as np

from common import config as configs
from common.nn.dropout import Dropout
from common.nn.layers import Clip, Dense, frame_mask, uniform
from common.nn.matmul_convolution import convolution
from common.nn.norm import LayerNorm, MaskedBatchNorm
from common.nn.recurrent import Lookahead, Recurrent
from common.utils import runtime
from common.utils.backend import ms, nn, ops
from deepspeech2.src.config import ModelConfig


class DeepSpeech2(nn.Cell):
    """The network: convolutions, recurrent layers, one dense layer.

    Maps features (B, F, T) and lengths (B,) to log-probabilities (T', B, C) and lengths (B,).

    Args:
        config: Sizes and kinds of the layers.
        dimension: Values F of a feature frame.
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
        self.config = config
        self.conv = ConvolutionFrontEnd(config, rng, device)
        self.RNN = RecurrentStack(config, self.conv.width(dimension), rng, device)
        # The model zoo draws these from +-1/H, with which the blank phase outlasts 15 epochs; with
        # +-1/sqrt(H) the telephone prompts leave it in the third.
        bound = 1 / math.sqrt(config.hidden_size)
        initial = uniform(rng, bound, classes, config.hidden_size)
        self.fc = SequenceWise(
            Dense(config.hidden_size, classes, has_bias=False, weight_init=initial)
        )

    def construct(self, features, lengths):
        """Compute log-probabilities.

        Args:
            features: (B, F, T).
            lengths: (B,) feature frames of each utterance.

        Returns:
            Log-probabilities (T', B, C) and output lengths (B,).
        """
        x, lengths = self.conv(ops.expand_dims(features, 1), lengths)
        batch, channels, bins, frames = x.shape
        x = x.reshape((batch, channels * bins, frames)).transpose((2, 0, 1))
        x = self.RNN(x, lengths)
        return ops.log_softmax(self.fc(x).astype(ms.float32), -1), lengths


class ConvolutionFrontEnd(nn.Cell):
    """Convolutions over frequency and time, each with batch normalisation and a bounded activation.

    Maps x (B, 1, F, T) and lengths (B,) to (B, channels, F', T') and lengths (B,). Padded frames
    are zero before every convolution, as they are outside a lone utterance: normalisation makes
    them so, and both activations keep zero.

    Args:
        config: Sizes and kinds of the layers.
        rng: Draws the initial weights.
        device: "CPU", "GPU" or "Ascend", which decides between equivalent operators.
    """

    def __init__(self, config: ModelConfig, rng: np.random.Generator, device: str = "CPU"):
        super().__init__()
        self.kernels, self.strides = config.conv_kernels, config.conv_strides
        self.channels = config.conv_channels
        self.saturate = nn.Tanh() if config.activation == "tanh" else Clip()
        convolutions, norms = [], []
        for number, (kernel, stride) in enumerate(zip(self.kernels, self.strides), start=1):
            inputs = 1 if number == 1 else self.channels
            deviation = math.sqrt(2 / (kernel[0] * kernel[1] * self.channels))
            initial = rng.normal(0, deviation, (self.channels, inputs, *kernel))
            bias = np.zeros(self.channels) if config.conv_bias else None
            native = runtime.native_convolutions(device)
            cell = convolution(initial, (stride[0], stride[1]), native, bias)
            slow = runtime.slow_broadcasts(device)
            norm = MaskedBatchNorm(self.channels, use_matmul=slow)
            setattr(self, f"conv{number}", cell)
            setattr(self, f"bn{number}", norm)
            convolutions.append(cell)
            norms.append(norm)
        self.convolutions = nn.CellList(convolutions, auto_prefix=False)
        self.norms = nn.CellList(norms, auto_prefix=False)

    def width(self, dimension: int) -> int:
        """Return the values per output frame, channels x remaining bins."""
        for stride, _ in self.strides:
            dimension = (dimension - 1) // stride + 1
        return self.channels * dimension

    def construct(self, x, lengths):
        """Map x (B, 1, F, T), lengths (B,) to (B, channels, F', T'), lengths (B,)."""
        mask = frame_mask(lengths, x.shape[3]).astype(x.dtype)
        x = x * mask.reshape((x.shape[0], 1, 1, -1))
        for index in range(len(self.convolutions)):
            x = self.convolutions[index](x)
            lengths = (lengths - 1) // self.strides[index][1] + 1
            mask = frame_mask(lengths, x.shape[3]).astype(x.dtype)
            x = self.saturate(self.norms[index](x, mask))
        return x, lengths


class RecurrentStack(nn.Cell):
    """Recurrent layers, each with normalisation and dropout.

    Maps x (T, B, I) and lengths (B,) to (T, B, H). A one-directional stack looks ahead behind the
    last layer, before its normalisation.

    Args:
        config: Sizes and kinds of the layers.
        width: Values I of an input frame.
        rng: Draws the initial weights.
        device: "CPU", "GPU" or "Ascend", which decides between equivalent operators.
    """

    def __init__(self, config: ModelConfig, width: int, rng: np.random.Generator, device: str):
        super().__init__()
        size, layers = config.hidden_size, range(config.hidden_layers)
        self.lstms = nn.CellList(
            [
                Recurrent(
                    config.rnn_type,
                    width if layer == 0 else size,
                    size,
                    config.bidirectional,
                    rng,
                    device,
                )
                for layer in layers
            ]
        )
        self.norm = config.norm
        if self.norm == "batch":
            slow = runtime.slow_broadcasts(device)
            self.norms = nn.CellList(
                [MaskedBatchNorm(size, "TBC", use_matmul=slow) for _ in layers]
            )
        elif self.norm == "layer":
            self.norms = nn.CellList([LayerNorm((size,), epsilon=1e-5) for _ in layers])
        self.dropouts = nn.CellList([Dropout(config.dropout, size, layer) for layer in layers])
        self.looks_ahead = not config.bidirectional
        if self.looks_ahead:
            native = runtime.native_convolutions(device)
            self.lookahead = Lookahead(size, config.lookahead_context, rng, native)
            self.clip = Clip()

    def construct(self, x, lengths):
        """Map x (T, B, I), lengths (B,) to (T, B, H)."""
        mask = frame_mask(lengths, x.shape[0]).transpose((1, 0))
        for index in range(len(self.lstms)):
            x = self.lstms[index](x, lengths)
            if self.looks_ahead and index == len(self.lstms) - 1:
                x = self.clip(self.lookahead(x, mask))
            if self.norm == "batch":
                x = self.norms[index](x, mask)
            elif self.norm == "layer":
                x = self.norms[index](x)
            x = self.dropouts[index](x)
        return x


class SequenceWise(nn.Cell):
    """One layer applied to every frame; it gives the output layer its name in checkpoints.

    Args:
        module: (T, B, I) -> (T, B, C).
    """

    def __init__(self, module: nn.Cell):
        super().__init__()
        self.module = module

    def construct(self, x):
        """Apply the layer to x (T, B, I)."""
        return self.module(x)
