"""Several CPU processes that train together: equality with one, steps a second, memory of each.

    python benchmarks/ranks.py [--ranks 1 2 4 8] [--steps 10] [--set KEY=VALUE ...]
    python benchmarks/ranks.py --model jasper --preset an4

The same made-up batches of 16 utterances are cut into as many parts as there are ranks. Dropout is
off, since its masks differ between ranks, and the first rank's weights after the last step are
compared with those of one process. The cores are divided among the ranks. Started by msrun.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from common import config as configs  # noqa: E402
from common.memory import GIB  # noqa: E402
from common.utils.errors import UserError  # noqa: E402

UTTERANCES, FRAMES = 16, (160, 320)
# Of DeepSpeech2, unless others are set:
SMALL = ["hidden_size=128", "hidden_layers=2", "norm=batch"]


def work(arguments: argparse.Namespace) -> None:
    """One rank: trains, and writes what it found into the folder."""
    from common.data.loader import Batch
    from common.memory import forecast_memory
    from common.model.recipe import labels_file
    from common.model.speech_model import SpeechModel
    from common.text.tokenizer import CharacterTokenizer
    from common.training.distributed import ProcessGroup
    from common.training.train_step import TrainStep
    from common.utils import runtime

    recipe = importlib.import_module(f"{arguments.model}.src.recipe").RECIPE
    config = recipe.train_config()
    if arguments.model == "deepspeech2" and not arguments.preset:
        configs.override_from_options(config, SMALL)
    if arguments.preset:
        configs.override_from_yaml(config, recipe.preset(arguments.preset))
    configs.override_from_options(config, ["optimizer=SGD", "clip_norm=20", *arguments.set])
    device = runtime.set_device("CPU")
    ranks = ProcessGroup(*(runtime.init_distributed() if "MS_ROLE" in os.environ else (0, 1)))
    tokenizer = CharacterTokenizer.from_file(labels_file(recipe, config))
    speech_model = SpeechModel.create(recipe, config, tokenizer, device)
    for _, cell in speech_model.network.cells_and_names():
        if hasattr(cell, "dropout_seed"):
            cell.rate = 0.0
    step = TrainStep(speech_model, forecast_memory(speech_model, ranks.local_world_size()), ranks)
    each = UTTERANCES // ranks.count
    mine = slice(ranks.rank * each, (ranks.rank + 1) * each)
    spent = 0.0
    for number in range(arguments.steps + 1):  # the first one compiles
        rng = np.random.default_rng(number)
        lengths = np.sort(rng.integers(*FRAMES, UTTERANCES)).astype(np.int32)
        shape = UTTERANCES, speech_model.featurizer.dimension, FRAMES[1]
        features = rng.standard_normal(shape, np.float32)
        features *= np.arange(FRAMES[1]) < lengths[:, None, None]
        targets = rng.integers(0, len(tokenizer) - 1, (UTTERANCES, 8)).astype(np.int32)
        batch = Batch(
            features=features[mine],
            lengths=lengths[mine],
            targets=targets[mine],
            target_lengths=np.full(each, 8, np.int32),
            indices=tuple(range(each)),
            ids=tuple(map(str, range(each))),
            valid=each,
            seconds=0.0,
        )
        started = time.perf_counter()
        result = step([batch], arguments.rate, number, UTTERANCES)
        spent += (time.perf_counter() - started) * (number > 0)
        if not result.applied:
            raise UserError(f"step {number} was not finite (loss {result.loss})")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / GIB
    peaks = ranks.all_gather(peak)[:, 0].tolist()
    if ranks.rank == 0:
        weights = np.concatenate([w.asnumpy().ravel() for w in step.update.weights])
        np.save(arguments.folder / "weights.npy", weights)
        found = {"rate": arguments.steps / spent, "peaks": peaks, "loss": result.loss}
        (arguments.folder / "found.json").write_text(json.dumps(found))


def measure(count: int) -> tuple[dict, np.ndarray]:
    binaries = Path(sys.executable).parent
    threads = str(max(1, os.cpu_count() // count))
    environment = {**os.environ, "OMP_NUM_THREADS": threads, "MS_RETRY_INTERVAL_LOWER": "1"}
    environment["MS_RETRY_INTERVAL_UPPER"] = "1"  # seconds: they find each other sooner
    environment["PATH"] = f"{binaries}{os.pathsep}{environment.get('PATH', '')}"
    with tempfile.TemporaryDirectory() as folder:
        command = [str(Path(__file__).resolve()), *sys.argv[1:], "--folder", folder]
        if count > 1:
            msrun = [str(binaries / "msrun"), f"--worker_num={count}"]
            msrun += [f"--local_worker_num={count}", "--join=True", f"--log_dir={folder}/log"]
            command = [*msrun, f"--master_port={20000 + os.getpid() % 20000 + count}", *command]
        else:
            command = [sys.executable, *command]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        if done.returncode:
            logs = sorted(Path(folder, "log").glob("worker_*.log"))
            sys.exit("\n".join([done.stderr[-2000:], *(log.read_text()[-2000:] for log in logs)]))
        found = json.loads(Path(folder, "found.json").read_text())
        return found, np.load(Path(folder, "weights.npy"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", default="deepspeech2", help="the name of its folder")
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 2, 4, 8])
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--rate", type=float, default=0.01, help="of SGD")
    parser.add_argument("--preset", help="without it DeepSpeech2 is a small one")
    parser.add_argument("--set", action="extend", nargs="+", default=[], metavar="KEY=VALUE")
    # Of a worker. Not --worker: msrun reads the options of its script too, and has several of that
    # beginning.
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.folder:
        work(arguments)
        return
    print(f"{'ranks':>5} {'steps/s':>8} {'GiB each':>9} {'loss':>10} {'weights differ by':>18}")
    first = None
    for count in arguments.ranks:
        found, weights = measure(count)
        first = weights if first is None else first
        apart = np.linalg.norm(weights - first) / np.linalg.norm(first)
        line = f"{count:5} {found['rate']:8.2f} {max(found['peaks']):9.2f} {found['loss']:10.5f}"
        print(f"{line} {apart:18.1e}", flush=True)


if __name__ == "__main__":
    main()
