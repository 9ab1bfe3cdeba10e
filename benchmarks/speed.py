"""Train step and forward pass of a full-size network, beside the same network in PyTorch.

    python benchmarks/speed.py [--model deepspeech2] [--batch_size 4 --seconds 8 --rounds 3]
    python benchmarks/speed.py --model jasper --batch_size 1

Each round runs ours and PyTorch's in turn, a process each, so that neither keeps threads or memory
while the other is timed; the ratios are taken within a round, since machines drift. The train step
is that of train.py: CTC loss, gradients, clipping, Adam. PyTorch: `pip install torch`, CPU build.
"""

from __future__ import annotations

import argparse
import importlib
import json
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

LABELS_PER_SECOND = 12
WARM_UP = 4  # steps: the first compiles, and the next few are still slower than the rest


BINS = {"deepspeech2": 161, "jasper": 64}


def batch(model: str, rows: int, seconds: float) -> tuple[np.ndarray, ...]:
    """Noise in the shape of `rows` utterances' features, a frame each 10 ms, and random labels.

    All of one length, which lets PyTorch do without packed sequences: its fastest way.
    """
    rng = np.random.default_rng(0)
    frames, labels = int(100 * seconds), int(LABELS_PER_SECOND * seconds)
    lengths = np.full(rows, frames, np.int32)
    features = rng.standard_normal((rows, BINS[model], frames)).astype(np.float32)
    targets = rng.integers(0, 28, (rows, labels)).astype(np.int32)
    return features, lengths, targets, np.full(rows, labels, np.int32)


def ours(model: str, rows: int, seconds: float):
    """(train step, forward pass) of this project, as functions."""
    from common.config import OptimConfig
    from common.data.loader import Batch
    from common.memory import forecast_memory
    from common.model.recipe import labels_file
    from common.model.speech_model import Forward, SpeechModel
    from common.text.tokenizer import CharacterTokenizer
    from common.training.train_step import TrainStep
    from common.utils import runtime

    recipe = importlib.import_module(f"{model}.src.recipe").RECIPE
    device = runtime.set_device("CPU")
    config = recipe.train_config()
    config.TrainingConfig.micro_batch, config.TrainingConfig.ema = rows, 0.0
    config.OptimConfig = OptimConfig()  # Adam, whatever the model's own default
    tokenizer = CharacterTokenizer.from_file(labels_file(recipe, config))
    speech_model = SpeechModel.create(recipe, config, tokenizer, device)
    step = TrainStep(speech_model, forecast_memory(speech_model))
    forward = Forward(speech_model)
    features, lengths, targets, target_lengths = batch(model, rows, seconds)
    made = Batch(
        features,
        lengths,
        targets,
        target_lengths,
        tuple(range(rows)),
        tuple(map(str, range(rows))),
        rows,
        seconds * rows,
    )
    return lambda: step([made], 3e-4, 0), lambda: forward(features, lengths)


# Nothing of `common` in these: what it may set in the environment for MindSpore's oneDNN would slow
# PyTorch's down.


def torch_deepspeech2():
    from benchmarks import reference

    rng = np.random.default_rng(0)
    weights = reference.random_parameters(rng, 161, channels=32, size=1024, layers=5)
    return reference.torch_deepspeech2(weights, packed=False)


def torch_jasper():
    import yaml
    from torch import nn

    from benchmarks import reference_jasper

    def activation() -> nn.Module:  # with the default's dropout, in the middle of what it has
        return nn.Sequential(nn.ReLU(), nn.Dropout(0.25))

    usual = {"repeat": 1, "stride": 1, "dilation": 1, "separable": False}
    usual |= {"residual": False, "residual_dense": False}
    preset = yaml.safe_load((ROOT / "jasper" / "presets" / "jasper10x5dr.yaml").read_text())
    blocks = [usual | block for block in preset["ModelConfig"]["blocks"]]
    return reference_jasper.Network(blocks, BINS["jasper"], 29, "conv", activation)


TORCH = {"deepspeech2": torch_deepspeech2, "jasper": torch_jasper}


def pytorch(model: str, rows: int, seconds: float):
    """(train step, forward pass) of the same network in PyTorch, as functions."""
    import torch

    features, lengths, targets, target_lengths = (
        torch.from_numpy(array) for array in batch(model, rows, seconds)
    )
    network = TORCH[model]()
    optimizer = torch.optim.Adam(network.parameters(), lr=3e-4)

    def step() -> None:
        network.train()
        log_probs, out_lengths = network(features, lengths)
        loss = torch.nn.functional.ctc_loss(
            log_probs, targets, out_lengths, target_lengths, blank=28, reduction="sum"
        )
        optimizer.zero_grad()
        (loss / rows).backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 400)
        optimizer.step()

    def forward() -> None:
        network.eval()
        with torch.inference_mode():
            network(features, lengths)

    return step, forward


def measure(which: str, size: tuple[str, int, float], steps: int) -> dict[str, float]:
    step, forward = {"ours": ours, "pytorch": pytorch}[which](*size)
    result = {}
    for name, function in (("forward", forward), ("train step", step)):
        times = []
        for number in range(WARM_UP + steps):
            started = time.perf_counter()
            function()
            if number >= WARM_UP:
                times.append(time.perf_counter() - started)
        result[name] = statistics.median(times)
    result["peak GiB"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1 << 20)
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", choices=TORCH, default="deepspeech2")
    parser.add_argument("--batch_size", type=int, default=4, help="utterances")
    parser.add_argument("--seconds", type=float, default=8.0, help="length of an utterance")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=3, help="timed in a round; the median counts")
    parser.add_argument("--measure", choices=("ours", "pytorch"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    size = (arguments.model, arguments.batch_size, arguments.seconds)
    if arguments.measure:
        print(json.dumps(measure(arguments.measure, size, arguments.steps)))
        return

    what = f"{size[0]} at full size, {size[1]} x {size[2]:g} s of speech"
    print(f"{what}; seconds, median of steps")
    print(f"{'round':>5} {'':12} {'ours':>8} {'PyTorch':>8} {'ratio':>6}")
    ratios: dict[str, list[float]] = {}
    for number in range(1, arguments.rounds + 1):
        found = {
            which: json.loads(
                subprocess.run(
                    [sys.executable, *sys.argv, "--measure", which],
                    check=True,
                    capture_output=True,
                    text=True,
                ).stdout.splitlines()[-1]
            )
            for which in ("ours", "pytorch")
        }
        for name, value in found["ours"].items():
            ratio = value / found["pytorch"][name]
            ratios.setdefault(name, []).append(ratio)
            print(f"{number:5} {name:12} {value:8.2f} {found['pytorch'][name]:8.2f} {ratio:6.2f}")
    summary = ", ".join(f"{name} {statistics.median(each):.2f}" for name, each in ratios.items())
    print(f"median ratio ours / PyTorch: {summary}")


if __name__ == "__main__":
    main()
