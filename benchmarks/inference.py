"""A test set through the C++ program, through eval.py's forward pass and through PyTorch.

    python benchmarks/inference.py an4_test_manifest.csv [--model jasper] [--limit 40]

The full-size network of the model's default configuration, with weights drawn at random (values do
not change the time), over the features of a manifest, in the same batches of neighbours in length.
Each engine has a process to itself, and runs 64 frames before the clock starts, as the C++ program
does when it loads a model. PyTorch: `pip install torch`, CPU build. The C++ program: `bash
ascend310_infer/build.sh`.
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
from functools import partial
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
RUNNER = ROOT / "ascend310_infer" / "build" / "infer"


def prepare(arguments: argparse.Namespace, folder: Path) -> None:
    """Exports a network and writes features as preprocess.py does."""
    from common.data.manifest import read_manifest
    from common.export.export import Options, export
    from common.export.offline_inference import read_description, write_features
    from common.model.recipe import labels_file
    from common.model.speech_model import SpeechModel
    from common.text.tokenizer import CharacterTokenizer
    from common.utils import runtime

    recipe = importlib.import_module(f"{arguments.model}.src.recipe").RECIPE
    config = recipe.train_config()
    tokenizer = CharacterTokenizer.from_file(labels_file(recipe, config))
    speech_model = SpeechModel.create(recipe, config, tokenizer, runtime.set_device("CPU"))
    description = export(speech_model, folder / "network", Options(), log=lambda line: None)
    utterances = read_manifest(arguments.manifest)[: arguments.limit or None]
    model = read_description(recipe, description)
    for problem in write_features(model, utterances, folder / "features", workers=2):
        raise SystemExit(f"error: {problem}")


def index(folder: Path) -> list[dict]:
    lines = (folder / "features" / "index.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def in_batches(folder: Path, size: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """(features (B, F, T), lengths (B,)) of all utterances, from short to long."""
    found, entries = [], sorted(index(folder), key=lambda entry: entry["frames"])
    for start in range(0, len(entries), size):
        rows = entries[start : start + size]
        lengths = np.array([entry["frames"] for entry in rows], np.int32)
        features = None
        for row, entry in enumerate(rows):
            values = np.fromfile(folder / "features" / entry["features"], "<f4")
            values = values.reshape(-1, entry["frames"])
            if features is None:
                shape = (len(rows), len(values), int(lengths.max()))
                features = np.zeros(shape, np.float32)
            features[row, :, : entry["frames"]] = values
        found.append((features, lengths))
    return found


def timed(forward, folder: Path, size: int) -> float:
    made = in_batches(folder, size)
    features = made[-1][0]
    forward(np.ascontiguousarray(features[:1, :, :64]), np.array([64], np.int32))
    started = time.perf_counter()
    for features, lengths in made:
        forward(features, lengths)
    return time.perf_counter() - started


def ours(arguments: argparse.Namespace, folder: Path) -> float:
    from common.model.recipe import labels_file
    from common.model.speech_model import Forward, SpeechModel
    from common.text.tokenizer import CharacterTokenizer
    from common.utils import runtime

    recipe = importlib.import_module(f"{arguments.model}.src.recipe").RECIPE
    config = recipe.train_config()
    tokenizer = CharacterTokenizer.from_file(labels_file(recipe, config))
    speech_model = SpeechModel.create(recipe, config, tokenizer, runtime.set_device("CPU"))
    return timed(Forward(speech_model), folder, arguments.batch_size)


# Nothing of `common`: see benchmarks/speed.py.
def pytorch(arguments: argparse.Namespace, folder: Path) -> float:
    import torch

    from benchmarks.speed import TORCH

    network = TORCH[arguments.model]().eval()

    def forward(features: np.ndarray, lengths: np.ndarray) -> None:
        with torch.inference_mode():
            network(torch.from_numpy(features), torch.from_numpy(lengths))

    return timed(forward, folder, arguments.batch_size)


def run_cpp(arguments: argparse.Namespace, folder: Path) -> tuple[float, float]:
    """(seconds, peak GiB), as the program counts them: after the model is loaded."""
    from common.launching.rank import end_with_parent

    command = [RUNNER, "--mindir_path", folder / "network.json"]
    command += ["--index", folder / "features" / "index.jsonl", "--result_dir", folder / "results"]
    command += ["--time_dir", folder / "time", "--batch_size", str(arguments.batch_size), "--force"]
    tied = partial(end_with_parent, os.getpid())  # it does not go on where this process is killed
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, preexec_fn=tied)
    found = json.loads(next((folder / "time").glob("*.json")).read_text(encoding="utf-8"))
    return found["wall_seconds"], found["peak_mib"] / 1024


def run_python(which: str, folder: Path) -> tuple[float, float]:
    command = [sys.executable, *sys.argv, "--measure", which, "--folder", folder]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return tuple(json.loads(done.stdout.splitlines()[-1]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("manifest")
    parser.add_argument("--model", choices=("deepspeech2", "jasper"), default="deepspeech2")
    parser.add_argument("--batch_size", type=int, default=8, help="utterances")
    parser.add_argument("--limit", type=int, default=0, help="utterances; 0: all")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--measure", choices=("ours", "pytorch", "prepare"), help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure == "prepare":
        prepare(arguments, arguments.folder)
        print("[0, 0]")
        return
    if arguments.measure:
        seconds = {"ours": ours, "pytorch": pytorch}[arguments.measure](arguments, arguments.folder)
        print(json.dumps([seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1 << 20)]))
        return
    if not RUNNER.is_file():
        raise SystemExit(f"error: no {RUNNER}: bash ascend310_infer/build.sh builds it")

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        run_python("prepare", folder)
        utterances = index(folder)
        speech = sum(entry["duration"] for entry in utterances)
        what = f"{len(utterances)} utterances, {speech:.0f} s of speech"
        print(f"{arguments.model} at full size, {what}, batches of {arguments.batch_size}")
        print(f"{'round':>5} {'':8} {'seconds':>8} {'utt/s':>7} {'RTF':>7} {'peak GiB':>9}")
        for number in range(1, arguments.rounds + 1):
            for engine in ("C++", "ours", "pytorch"):
                if engine == "C++":
                    seconds, peak = run_cpp(arguments, folder)
                else:
                    seconds, peak = run_python(engine, folder)
                rate, factor = len(utterances) / seconds, seconds / speech
                print(
                    f"{number:5} {engine:8} {seconds:8.2f} {rate:7.1f} {factor:7.4f} {peak:9.2f}",
                    flush=True,
                )


if __name__ == "__main__":
    main()
