"""The same mathematics written a second time, plainly: in numpy (float64) and in PyTorch.

Nothing here shares code with the project. Parameters are dictionaries of arrays under the names
of the MindSpore model zoo's DeepSpeech2.
"""

from __future__ import annotations

from itertools import product

import numpy as np


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def log_softmax(x: np.ndarray) -> np.ndarray:
    x = x - x.max(-1, keepdims=True)
    return x - np.log(np.exp(x).sum(-1, keepdims=True))


def recurrent(kind: str, x, weight_ih, weight_hh, bias_ih, bias_hh) -> np.ndarray:
    """One direction over one utterance x (T, I) -> (T, H)."""
    size = weight_hh.shape[1]
    hidden, cell, outputs = np.zeros(size), np.zeros(size), []
    for frame in x:
        arriving, returning = weight_ih @ frame + bias_ih, weight_hh @ hidden + bias_hh
        if kind == "LSTM":
            i, f, g, o = np.split(arriving + returning, 4)
            cell = sigmoid(f) * cell + sigmoid(i) * np.tanh(g)
            hidden = sigmoid(o) * np.tanh(cell)
        elif kind == "GRU":
            (ar, az, an), (rr, rz, rn) = np.split(arriving, 3), np.split(returning, 3)
            update = sigmoid(az + rz)
            hidden = (1 - update) * np.tanh(an + sigmoid(ar + rr) * rn) + update * hidden
        else:
            hidden = np.tanh(arriving + returning)
        outputs.append(hidden)
    return np.stack(outputs)


def recurrent_layer(kind: str, x, parameters: dict, prefix: str = "") -> np.ndarray:
    """x (T, I) -> (T, H); the directions summed, where there are two."""
    names = ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0")
    output = recurrent(kind, x, *(parameters[prefix + name] for name in names))
    if f"{prefix}{names[0]}_reverse" in parameters:
        backward = (parameters[f"{prefix}{name}_reverse"] for name in names)
        output = output + recurrent(kind, x[::-1], *backward)[::-1]
    return output


def convolve(x, weight, strides) -> np.ndarray:
    """x (C, F, T), weight (O, C, K, L) -> (O, F', T'), padded with half a kernel on all sides."""
    pads = [(size // 2, size // 2) for size in weight.shape[2:]]
    windows = np.lib.stride_tricks.sliding_window_view(
        np.pad(x, [(0, 0), *pads]), weight.shape[2:], axis=(1, 2)
    )[:, :: strides[0], :: strides[1]]
    return np.einsum("cftkl,ockl->oft", windows, weight)


def deepspeech2(parameters: dict, features, strides=((2, 2), (2, 1))) -> np.ndarray:
    """The model zoo's network in evaluation: features (F, T) -> log-probabilities (T', C)."""
    parameters = {name: value.astype(np.float64) for name, value in parameters.items()}
    x = features[np.newaxis].astype(np.float64)
    for number, stride in enumerate(strides, start=1):
        x = convolve(x, parameters[f"conv.conv{number}.weight"], stride)
        mean, variance, gamma, beta = (
            parameters[f"conv.bn{number}.{name}"].reshape(-1, 1, 1)
            for name in ("moving_mean", "moving_variance", "gamma", "beta")
        )
        x = np.tanh((x - mean) / np.sqrt(variance + 1e-5) * gamma + beta)
    x = x.reshape(-1, x.shape[-1]).T
    layer = 0
    while f"RNN.lstms.{layer}.weight_ih_l0" in parameters:
        x = recurrent_layer("LSTM", x, parameters, f"RNN.lstms.{layer}.")
        layer += 1
    return log_softmax(x @ parameters["fc.module.weight"].T)


def ctc_loss(log_probs, labels, blank: int) -> float:
    """-log p(labels) by summing over every path: log_probs (T, C)."""
    total = 0.0
    for path in product(range(log_probs.shape[1]), repeat=len(log_probs)):
        collapsed = [now for now, before in zip(path, (None, *path)) if now != before]
        if [label for label in collapsed if label != blank] == list(labels):
            total += np.exp(sum(frame[label] for frame, label in zip(log_probs, path)))
    return -np.log(total)


def torch_deepspeech2(parameters: dict, strides=((2, 2), (2, 1)), packed: bool = True):
    """The model zoo's network as a torch.nn.Module with the given weights, in training mode.

    features (B, F, T), lengths (B,) -> log-probabilities (T', B, C), lengths (B,); padded frames
    are zero before each convolution, and the LSTMs run over packed sequences. `packed=False`, for
    utterances of one length, is the faster way where it gives the same.
    """
    import torch
    from torch import nn
    from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

    values = {name: torch.tensor(np.asarray(value)) for name, value in parameters.items()}
    layers = len({name.split(".")[2] for name in values if name.startswith("RNN.lstms.")})

    class Network(nn.Module):
        def __init__(self):
            super().__init__()
            self.convs, self.norms, self.lstms = nn.ModuleList(), nn.ModuleList(), nn.ModuleList()
            for number, stride in enumerate(strides, start=1):
                outputs, inputs, *kernel = values[f"conv.conv{number}.weight"].shape
                half = [size // 2 for size in kernel]
                self.convs.append(nn.Conv2d(inputs, outputs, kernel, stride, half, bias=False))
                self.norms.append(nn.BatchNorm2d(outputs))
            for layer in range(layers):
                rows, width = values[f"RNN.lstms.{layer}.weight_ih_l0"].shape
                self.lstms.append(nn.LSTM(width, rows // 4, bidirectional=True))
            classes, size = values["fc.module.weight"].shape
            self.fc = nn.Linear(size, classes, bias=False)
            self.load_state_dict({ours(name): value for name, value in values.items()}, False)

        def forward(self, features, lengths):
            x = self.mask(features.unsqueeze(1), lengths)
            for conv, norm in zip(self.convs, self.norms):
                x = conv(x)
                lengths = (lengths - 1) // conv.stride[1] + 1
                x = self.mask(torch.tanh(norm(x)), lengths)
            x = x.flatten(1, 2).permute(2, 0, 1)
            for lstm in self.lstms:
                if packed:
                    rows, _ = lstm(pack_padded_sequence(x, lengths, enforce_sorted=False))
                    x, _ = pad_packed_sequence(rows, total_length=x.shape[0])
                else:
                    x, _ = lstm(x)
                x = x.unflatten(2, (2, -1)).sum(2)
            return torch.log_softmax(self.fc(x), -1), lengths

        @staticmethod
        def mask(x, lengths):
            return x * (torch.arange(x.shape[3]) < lengths.reshape(-1, 1, 1, 1))

    def ours(name: str) -> str:
        group, member, *rest = name.split(".")
        if group == "conv":
            kind, number = member[:-1], int(member[-1]) - 1
            leaf = {
                "gamma": "weight",
                "beta": "bias",
                "moving_mean": "running_mean",
                "moving_variance": "running_var",
            }.get(rest[0], rest[0])
            return f"{'convs' if kind == 'conv' else 'norms'}.{number}.{leaf}"
        return f"lstms.{'.'.join(rest)}" if group == "RNN" else "fc.weight"

    network = Network()
    network.named_as = ours  # the name in this module of a parameter of the model zoo
    return network


def torch_deepspeech_pytorch(kind: str, bidirectional: bool, size=8, layers=3, classes=29):
    """deepspeech.pytorch's network in evaluation, its names and random weights: a torch.nn.Module.

    features (B, F, T), lengths (B,) -> log-probabilities (T', B, C), lengths (B,). 161 bins,
    20 frames of look-ahead.
    """
    import torch
    from torch import nn
    from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

    def holding(**children):
        module = nn.Module()
        for name, child in children.items():
            module.add_module(name, child)
        return module

    class Network(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = holding(
                seq_module=nn.Sequential(
                    nn.Conv2d(1, 32, (41, 11), (2, 2), (20, 5)),
                    nn.BatchNorm2d(32),
                    nn.Hardtanh(0, 20),
                    nn.Conv2d(32, 32, (21, 11), (2, 1), (10, 5)),
                    nn.BatchNorm2d(32),
                    nn.Hardtanh(0, 20),
                )
            )
            self.rnns = nn.Sequential()
            for layer in range(layers):
                rnn = getattr(nn, kind)(size if layer else 1312, size, bidirectional=bidirectional)
                norm = {"batch_norm": holding(module=nn.BatchNorm1d(size))} if layer else {}
                self.rnns.append(holding(**norm, rnn=rnn))
            if not bidirectional:
                row = nn.Conv1d(size, size, 20, groups=size, bias=False)
                self.lookahead = nn.Sequential(holding(conv=row), nn.Hardtanh(0, 20))
            output = nn.Linear(size, classes, bias=False)
            self.fc = nn.Sequential(holding(module=nn.Sequential(nn.BatchNorm1d(size), output)))

        def forward(self, features, lengths):
            x = features.unsqueeze(1)
            lengths = (lengths - 1) // 2 + 1
            for module in self.conv.seq_module:
                x = module(x)
                x = x * (torch.arange(x.shape[3]) < lengths.reshape(-1, 1, 1, 1))
            x = x.flatten(1, 2).permute(2, 0, 1)
            for layer in self.rnns:
                if hasattr(layer, "batch_norm"):
                    x = layer.batch_norm.module(x.transpose(1, 2)).transpose(1, 2)
                x, _ = layer.rnn(pack_padded_sequence(x, lengths, enforce_sorted=False))
                x, _ = pad_packed_sequence(x)
                if bidirectional:
                    x = x.unflatten(2, (2, -1)).sum(2)
            if not bidirectional:
                ahead = nn.functional.pad(x.permute(1, 2, 0), (0, 19))
                x = self.lookahead[1](self.lookahead[0].conv(ahead)).permute(2, 0, 1)
            norm, output = self.fc[0].module
            x = output(norm(x.transpose(1, 2)).transpose(1, 2))
            return torch.log_softmax(x, -1), lengths

    network = Network().eval()
    generator = torch.Generator().manual_seed(7)
    for name, value in network.state_dict().items():
        if "running_var" in name or (value.dim() == 1 and name.endswith("weight")):
            value.uniform_(0.5, 2, generator=generator)
        elif value.is_floating_point():
            width = np.prod(value.shape[1:]) if value.dim() > 1 else 4
            value.normal_(0, float(width) ** -0.5, generator=generator)
    return network


def random_parameters(
    rng: np.random.Generator, dimension=161, channels=4, size=8, layers=2, classes=29
) -> dict[str, np.ndarray]:
    """Weights of a narrow network with the model zoo's names, kernels and strides."""
    width = channels * (((dimension - 1) // 2 + 1 - 1) // 2 + 1)
    shapes = {
        "conv.conv1.weight": (channels, 1, 41, 11),
        "conv.conv2.weight": (channels, channels, 21, 11),
    }
    for layer in range(layers):
        for end in ("", "_reverse"):
            prefix = f"RNN.lstms.{layer}."
            shapes[f"{prefix}weight_ih_l0{end}"] = (4 * size, size if layer else width)
            shapes[f"{prefix}weight_hh_l0{end}"] = (4 * size, size)
            shapes[f"{prefix}bias_ih_l0{end}"] = (4 * size,)
            shapes[f"{prefix}bias_hh_l0{end}"] = (4 * size,)
    shapes["fc.module.weight"] = (classes, size)
    values = {
        name: rng.normal(0, 1 / np.sqrt(np.prod(shape[1:]) if shape[1:] else 4), shape)
        for name, shape in shapes.items()
    }
    for number in (1, 2):
        values[f"conv.bn{number}.moving_mean"] = rng.normal(0, 0.3, channels)
        values[f"conv.bn{number}.moving_variance"] = rng.uniform(0.5, 2, channels)
        values[f"conv.bn{number}.gamma"] = rng.uniform(0.5, 2, channels)
        values[f"conv.bn{number}.beta"] = rng.normal(0, 0.3, channels)
    return {name: value.astype(np.float32) for name, value in values.items()}
