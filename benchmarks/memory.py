"""Peak memory of a train step beside its forecast (`common.memory`), over batch and length.

    python benchmarks/memory.py [--model jasper] [--forward] [--preset NAME] [--set KEY=VALUE ...]

A process for each size; the forecast is what train.py says before the start. --forward: of a
forward pass instead, and what eval.py and transcribe.py reckon with.
"""

from __future__ import annotations

import argparse
import importlib
import json
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from common import config as configs  # noqa: E402
from common.memory import GIB  # noqa: E402
from common.model.recipe import Recipe  # noqa: E402

SIZES = ((1, 200), (1, 1600), (4, 400), (4, 800), (8, 800))  # utterances, feature frames
STEPS = 20
FORWARD_SIZES = ((1, 2000), (1, 8000), (8, 1000))


def measure(recipe: Recipe, config, rows: int, frames: int) -> tuple[float, float]:
    """(measured, forecast) peak in GiB of steps of up to `frames`."""
    from common.data.loader import Batch
    from common.memory import forecast_memory
    from common.model.speech_model import SpeechModel
    from common.training.train_step import TrainStep
    from common.utils import runtime

    device = runtime.set_device("CPU")
    config.TrainingConfig.micro_batch = rows
    tokenizer = recipe.load_tokenizer(config)
    speech_model = SpeechModel.create(recipe, config, tokenizer, device)
    forecast = forecast_memory(speech_model)
    step = TrainStep(speech_model, forecast)
    rng = np.random.default_rng(0)
    # As in training every batch has its own length, which leaves gaps in the memory pool.
    shorter = rng.integers(frames // 4, frames, STEPS - 1).tolist()
    for number, length in enumerate([frames, *shorter]):
        labels = length // 20
        made = Batch(
            rng.standard_normal((rows, speech_model.featurizer.dimension, length), np.float32),
            np.full(rows, length, np.int32),
            rng.integers(0, 28, (rows, labels)).astype(np.int32),
            np.full(rows, labels, np.int32),
            tuple(range(rows)),
            tuple(map(str, range(rows))),
            rows,
            0.0,
        )
        step([made], 3e-4, number)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return peak / GIB, forecast.peak(rows, frames) / GIB


def measure_forward(recipe: Recipe, config, rows: int, frames: int) -> tuple[float, float]:
    """(measured, forecast) peak in GiB after two forward passes."""
    from common.memory import forecast_forward
    from common.model.speech_model import Forward, SpeechModel
    from common.utils import runtime

    tokenizer = recipe.load_tokenizer(config)
    speech_model = SpeechModel.create(recipe, config, tokenizer, runtime.set_device("CPU"))
    forward, rng = Forward(speech_model), np.random.default_rng(0)
    shape = rows, speech_model.featurizer.dimension, frames
    for _ in range(2):
        forward(rng.standard_normal(shape).astype(np.float32), np.full(rows, frames, np.int32))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return peak / GIB, forecast_forward(speech_model).peak(rows * frames) / GIB


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", default="deepspeech2", help="the name of its folder")
    parser.add_argument("--forward", action="store_true", help="of a forward pass alone")
    parser.add_argument("--preset")
    parser.add_argument("--set", action="extend", nargs="+", default=[], metavar="KEY=VALUE")
    parser.add_argument("--measure", nargs=2, type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    recipe = importlib.import_module(f"{arguments.model}.src.recipe").RECIPE
    config = recipe.train_config()
    if arguments.preset:
        configs.override_from_yaml(config, recipe.preset(arguments.preset))
    configs.override_from_options(config, arguments.set)
    if arguments.measure:
        measured = measure_forward if arguments.forward else measure
        print(json.dumps(measured(recipe, config, *arguments.measure)))
        return
    print(f"{'utterances':>10} {'frames':>7} {'measured':>9} {'forecast':>9} GiB")
    for rows, frames in FORWARD_SIZES if arguments.forward else SIZES:
        result = subprocess.run(
            [sys.executable, *sys.argv, "--measure", str(rows), str(frames)],
            check=True,
            capture_output=True,
            text=True,
        )
        peak, forecast = json.loads(result.stdout.splitlines()[-1])
        print(f"{rows:10} {frames:7} {peak:9.2f} {forecast:9.2f}", flush=True)


if __name__ == "__main__":
    main()
