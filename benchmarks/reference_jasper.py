"""Jasper and QuartzNet a second time, in PyTorch: from the papers (Li et al. 2019, arXiv
1904.03288; Kriman et al. 2019, arXiv 1910.10261), under the parameter names of NVIDIA's networks.

Nothing here shares code with the project. A block is a dictionary with filters, repeat,
kernel_size, stride, dilation, residual, residual_dense and separable, all of them plain numbers.
"""

from __future__ import annotations

import torch
from torch import nn


class MaskedConvolution(nn.Conv1d):
    """Frames behind an utterance's end count as zeros."""

    def forward(self, x, lengths):
        inside = torch.arange(x.shape[2]) < lengths[:, None, None]
        (pad,), (dilation,), (stride,) = self.padding, self.dilation, self.stride
        covered = dilation * (self.kernel_size[0] - 1) + 1
        return super().forward(x * inside), (lengths + 2 * pad - covered) // stride + 1


def normalised(convolutions: list[nn.Module], channels: int) -> list[nn.Module]:
    return [*convolutions, nn.BatchNorm1d(channels, eps=1e-3, momentum=0.1)]


class Block(nn.Module):
    """Convolutions with BatchNorm and activation, and projections of earlier outputs added to the
    last of them before its activation."""

    def __init__(
        self, block: dict, inputs: int, residual_inputs: list[int], group: str, activation
    ):
        super().__init__()
        filters, kernel = block["filters"], block["kernel_size"]
        time = {
            "stride": block["stride"],
            "dilation": block["dilation"],
            "padding": kernel // 2 * block["dilation"],
            "bias": False,
        }
        chain = nn.ModuleList()
        for number in range(block["repeat"]):
            if number:
                chain.extend([activation(), nn.Identity()])  # the second: where dropout is
            width = filters if number else inputs
            if block["separable"]:  # over time in each channel alone, then over the channels
                convolutions = [
                    MaskedConvolution(width, width, kernel, groups=width, **time),
                    MaskedConvolution(width, filters, 1, bias=False),
                ]
            else:
                convolutions = [MaskedConvolution(width, filters, kernel, **time)]
            chain.extend(normalised(convolutions, filters))
        self.add_module(group, chain)
        self.chain = [chain]  # in a list, so that it has no second name
        if residual_inputs:
            self.res = nn.ModuleList(
                nn.ModuleList(
                    normalised([MaskedConvolution(width, filters, 1, bias=False)], filters)
                )
                for width in residual_inputs
            )
        self.residual_inputs = len(residual_inputs)
        self.activation = activation()

    def forward(self, earlier, lengths):
        """Outputs of earlier blocks, as many as there are residual_inputs or at least the last."""
        x, after = earlier[-1], lengths
        for module in self.chain[0]:
            if isinstance(module, MaskedConvolution):
                x, after = module(x, after)
            else:
                x = module(x)
        for number in range(self.residual_inputs):
            projection, norm = self.res[number]
            x = x + norm(projection(earlier[number], lengths)[0])
        return self.activation(x), after


class Network(nn.Module):
    """features (B, F, T), lengths (B,) -> log-probabilities (T', B, C), lengths (B,)."""

    def __init__(self, blocks, dimension, classes, group, activation):
        super().__init__()
        self.dense = [block["residual"] and block["residual_dense"] for block in blocks]
        self.residual = [block["residual"] for block in blocks]
        self.encoder, self.decoder = nn.Module(), nn.Module()
        self.encoder.layers = nn.ModuleList()
        inputs, widths = dimension, []  # widths: of the dense blocks' inputs so far
        for block, dense, residual in zip(blocks, self.dense, self.residual):
            if dense:
                widths.append(inputs)
            residual_inputs = list(widths) if dense else [inputs] if residual else []
            self.encoder.layers.append(Block(block, inputs, residual_inputs, group, activation))
            inputs = block["filters"]
        self.decoder.layers = nn.Sequential(nn.Conv1d(inputs, classes, 1))

    def forward(self, features, lengths):
        x, inputs = features, []
        for block, dense in zip(self.encoder.layers, self.dense):
            if dense:
                inputs.append(x)
            x, lengths = block([*inputs[:-1], x] if dense else [x], lengths)
        return torch.log_softmax(self.decoder.layers(x), 1).permute(2, 0, 1), lengths


def torch_jasper(
    blocks: list[dict],
    dimension: int = 64,
    classes: int = 29,
    quartznet: bool = False,  # its names: mconv for conv
    activation: type[nn.Module] = nn.ReLU,
    seed: int = 7,
    frames: int = 256,  # of each of the features that give the statistics
) -> Network:
    """In evaluation, with random weights, and with statistics of random features that have moved
    a little since, so that the outputs of any depth stay of the order of 1."""
    network = Network(blocks, dimension, classes, "mconv" if quartznet else "conv", activation)
    generator = torch.Generator().manual_seed(seed)

    def uniform(value, least, most):
        value.uniform_(least, most, generator=generator)

    with torch.no_grad():
        norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm1d)]
        for name, value in network.named_parameters():
            if value.dim() == 3:
                width = value.shape[1] * value.shape[2]
                value.normal_(0, width**-0.5, generator=generator)
            else:
                uniform(value, *((0.5, 1.25) if name.endswith("weight") else (-0.3, 0.3)))
        features = torch.randn((4, dimension, frames), generator=generator)
        for norm in norms:
            norm.momentum = 1.0
        network.train()(features, torch.full((4,), frames))
        for norm in norms:
            norm.momentum = 0.1
            norm.running_mean += torch.randn(norm.num_features, generator=generator) * 0.1
            norm.running_var *= torch.rand(norm.num_features, generator=generator) + 0.75
    return network.eval()
