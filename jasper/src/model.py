"""The Jasper network and, with separable convolutions, QuartzNet.

Li et al. 2019, arXiv 1904.03288; Kriman et al. 2019, arXiv 1910.10261.

Parameters are named as in the MindSpore model zoo's Jasper, so that its checkpoints load:
`encoder.layers.0.conv.0.conv1.weight`, `encoder.layers.1.res.0.1.batchnorm.gamma`,
`decoder.layers.bias`. The numbers count the cells without parameters, too.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from common import config as configs
from common.nn.dropout import Dropout
from common.nn.layers import frame_mask
from common.nn.matmul_convolution import time_convolution
from common.nn.norm import MaskedBatchNorm
from common.utils import runtime
from common.utils.backend import ms, nn, ops
from jasper.src.config import EPSILON, Block, ModelConfig, residual_inputs

ACTIVATIONS = {"relu": nn.ReLU, "elu": nn.ELU, "selu": nn.SeLU}


class Jasper(nn.Cell):
    """The network: blocks of convolutions and an output layer.

    Maps features (B, F, T) and lengths (B,) to log-probabilities (T', B, C) and lengths (B,).

    Args:
        config: The blocks.
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
        make = LayerFactory(config, rng, device)
        self.native = make.native
        self.encoder = Encoder(config.blocks, dimension, make)
        self.decoder = Decoder(make.convolution(config.blocks[-1].filters, classes, bias=True))

    def construct(self, features, lengths):
        """Compute log-probabilities.

        Args:
            features: (B, F, T).
            lengths: (B,) feature frames of each utterance.

        Returns:
            Log-probabilities (T', B, C) and output lengths (B,).
        """
        if self.native:
            x, lengths = self.encoder(features.expand_dims(2), lengths)
            x = self.decoder(x).squeeze(2).transpose((2, 0, 1))
        else:
            x, lengths = self.encoder(features.transpose((1, 0, 2)).expand_dims(0), lengths)
            x = self.decoder(x).squeeze(0).transpose((2, 1, 0))
        return ops.log_softmax(x.astype(ms.float32), -1), lengths


class LayerFactory:
    """Builds the parts of a network, with the same initial weights for every device.

    Args:
        config: The ModelConfig.
        rng: Draws the initial weights.
        device: "CPU", "GPU" or "Ascend", which decides between equivalent operators.
    """

    def __init__(self, config: ModelConfig, rng: np.random.Generator, device: str):
        self.config, self.rng, self.device = config, rng, device
        self.native, self.dropouts = runtime.native_convolutions(device), 0

    def convolution(
        self,
        inputs: int,
        outputs: int,
        kernel_size: int = 1,
        stride: int = 1,
        dilation: int = 1,
        groups: int = 1,
        bias: bool = False,
    ) -> nn.Cell:
        """Build a convolution over frames with fresh weights.

        Args:
            inputs: Channels that enter.
            outputs: Channels that leave.
            kernel_size: Taps.
            stride: Input frames from one output frame to the next.
            dilation: Frames from one tap to the next.
            groups: Groups of channels.
            bias: Whether it has one, which begins at 0.

        Returns:
            The cell.
        """
        shape = (outputs, inputs // groups, 1, kernel_size)
        weight = INITIAL[self.config.weight_init](self.rng, shape)
        zeros = np.zeros(outputs) if bias else None
        return time_convolution(weight, stride, dilation, groups, self.native, zeros)

    def norm(self, channels: int) -> nn.Cell:
        """Build a batch normalisation."""
        layout, slow = "BCFT" if self.native else "1CBT", runtime.slow_broadcasts(self.device)
        return MaskedBatchNorm(channels, layout, eps=EPSILON, use_matmul=slow)

    def activation(self) -> nn.Cell:
        """Build the configured activation."""
        return ACTIVATIONS[self.config.activation]()

    def dropout(self, rate: float, channels: int) -> nn.Cell:
        """Build a dropout whose masks differ from those of the others.

        Args:
            rate: Share of the values that are dropped.
            channels: Number of channels C.
        """
        self.dropouts += 1
        return Dropout(rate, channels, self.dropouts, "BC1T" if self.native else "1CBT")


class Encoder(nn.Cell):
    """Blocks, one after the other.

    Args:
        blocks: Their sizes.
        dimension: Values F of a feature frame.
        make: Builds the layers.
    """

    def __init__(self, blocks: list[Block], dimension: int, make: LayerFactory):
        super().__init__()
        layers, inputs = [], dimension
        for block, widths in zip(blocks, residual_inputs(blocks, dimension)):
            layers.append(JasperBlock(block, inputs, widths, make))
            inputs = block.filters
        self.layers = nn.CellList(layers)
        self.native = make.native

    def construct(self, x, lengths):
        """Apply the blocks.

        Args:
            x: (B, F, 1, T) or (1, F, B, T), as `time_convolution` takes it.
            lengths: (B,).

        Returns:
            The same form, and lengths.
        """
        residual_inputs = (
            x * _spread(frame_mask(lengths, x.shape[3]), self.native).astype(x.dtype),
        )
        for layer in self.layers:
            residual_inputs, lengths = layer(residual_inputs, lengths)
        return residual_inputs[-1], lengths


class JasperBlock(nn.Cell):
    """`repeat` times convolution, batch normalisation, activation and dropout.

    Before the last activation comes the residual: the input of this block or, if it is dense, the
    inputs of all dense blocks up to this one, each through a convolution of one frame and a
    normalisation. Padded frames are zero in them, and before every convolution, as they are outside
    a lone utterance: normalisation makes them so, and every activation keeps zero.

    Args:
        block: Sizes.
        inputs: Channels that enter.
        widths: Channels of the residual's inputs.
        make: Builds the layers.
    """

    def __init__(self, block: Block, inputs: int, widths: list[int], make: LayerFactory):
        super().__init__()
        self.repeat, self.separable, self.stride = block.repeat, block.separable, block.stride
        self.dense, self.native = block.residual_dense, make.native
        kernel, filters = (block.kernel_size, block.stride, block.dilation), block.filters
        cells: list[nn.Cell] = []
        for _ in range(block.repeat):
            if block.separable:
                depthwise = make.convolution(inputs, inputs, *kernel, groups=inputs)
                cells += [Convolution(depthwise), Convolution(make.convolution(inputs, filters))]
            else:
                cells += [Convolution(make.convolution(inputs, filters, *kernel))]
            cells += [Normalisation(make.norm(filters)), make.activation()]
            cells += [make.dropout(block.dropout, filters)]
            inputs = filters
        self.conv = nn.CellList(cells)
        self.each = len(cells) // block.repeat
        branches = [
            [Convolution(make.convolution(width, filters)), Normalisation(make.norm(filters))]
            for width in widths
        ]
        self.res = nn.CellList([nn.CellList(branch) for branch in branches])

    def construct(self, residual_inputs, lengths):
        """Apply the block.

        Args:
            residual_inputs: The input of this block, after the inputs of the dense blocks before
                it.
            lengths: (B,).

        Returns:
            The same for the next block.
        """
        x, added = residual_inputs[-1], residual_inputs if self.dense else residual_inputs[-1:]
        for number in range(self.repeat):
            first = number * self.each
            x = self.conv[first](x)
            if self.separable:
                x = self.conv[first + 1](x)
            lengths = (lengths - 1) // self.stride + 1
            mask = frame_mask(lengths, x.shape[3])
            x = self.conv[first + self.each - 3](x, mask)
            if number == self.repeat - 1:
                for index in range(len(self.res)):
                    branch = self.res[index]
                    x = x + branch[1](branch[0](added[index]), mask)
            x = self.conv[first + self.each - 1](self.conv[first + self.each - 2](x))
        return (residual_inputs + (x,) if self.dense else (x,)), lengths


class Convolution(nn.Cell):
    """Gives a convolution its name in checkpoints.

    Args:
        convolution: x (B, C, 1, T) or (1, C, B, T) -> the same form, with O channels.
    """

    def __init__(self, convolution: nn.Cell):
        super().__init__()
        self.conv1 = convolution

    def construct(self, x):
        """Convolve x."""
        return self.conv1(x)


class Normalisation(nn.Cell):
    """Gives a batch normalisation its name in checkpoints.

    Args:
        norm: x (B, C, 1, T) or (1, C, B, T), mask (B, T) -> the shape of x.
    """

    def __init__(self, norm: nn.Cell):
        super().__init__()
        self.batchnorm = norm

    def construct(self, x, mask):
        """Normalise x."""
        return self.batchnorm(x, mask)


class Decoder(nn.Cell):
    """The output layer, which gives each frame a value for each label.

    Args:
        convolution: x (B, H, 1, T) or (1, H, B, T) -> the same form, with C channels.
    """

    def __init__(self, convolution: nn.Cell):
        super().__init__()
        self.layers = convolution

    def construct(self, x):
        """Apply the layer to x."""
        return self.layers(x)


def _spread(mask, native):
    """Give a mask (B, T) the axes of x (B, C, 1, T) or (1, C, B, T)."""
    return mask.expand_dims(1).expand_dims(1) if native else mask.expand_dims(0).expand_dims(0)


def _bounds(shape: tuple[int, ...]) -> tuple[int, int]:
    """Count the values that enter an output, and the outputs that an input value enters."""
    receptive = math.prod(shape[2:])
    return shape[1] * receptive, shape[0] * receptive


def _uniform(bound: Callable[[int, int], float]) -> Callable:
    def draw(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
        return (2 * rng.random(shape, np.float32) - 1) * np.float32(bound(*_bounds(shape)))

    return draw


def _normal(deviation: Callable[[int, int], float]) -> Callable:
    def draw(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
        return rng.standard_normal(shape, np.float32) * np.float32(deviation(*_bounds(shape)))

    return draw


# Glorot & Bengio 2010, "Understanding the difficulty of training deep feedforward neural networks";
# He et al. 2015, arXiv 1502.01852.
INITIAL = {
    "xavier_uniform": _uniform(lambda ins, outs: math.sqrt(6 / (ins + outs))),
    "xavier_normal": _normal(lambda ins, outs: math.sqrt(2 / (ins + outs))),
    "kaiming_uniform": _uniform(lambda ins, outs: math.sqrt(6 / ins)),
    "kaiming_normal": _normal(lambda ins, outs: math.sqrt(2 / ins)),
}
