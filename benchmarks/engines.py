"""The network that ships, in what can run it: MindSpore, ONNX Runtime, OpenVINO.

    python benchmarks/engines.py an4_test_manifest.csv [--model jasper] [--limit 40] [--rounds 3]

- text: seconds from the start of transcribe.py to the text of the first recording.
- batch 1, batch 8: milliseconds of a forward pass over 300 feature frames, the median of several;
  from features in MindSpore, from samples in the others, whose file computes the features.
- RTF: seconds that the recordings take in batches of 8, sorted by length, by seconds of speech:
  features and network, without reading and decoding.
- MiB: peak memory of the process that measured the last three.

Each engine has a process to itself in every round. OpenVINO: `pip install openvino`; it is left out
where it is missing.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
ENGINES = ("mindspore", "onnxruntime", "openvino")
FRAMES, BATCH, REPEATS = 300, 8, 7

# samples (B, N), lengths (B,) -> nothing that is used
Run = Callable[[np.ndarray, np.ndarray], object]


def in_mindspore(recipe) -> tuple[Run, Run]:
    from common.api.loading import load_network
    from common.data.loader import padded_batch

    model = load_network(recipe, recipe.pretrained, "CPU")
    forward, featurizer = model.forward(), model.featurizer

    def whole(samples: np.ndarray, lengths: np.ndarray) -> None:
        rows = [featurizer(row[:length]) for row, length in zip(samples, lengths)]
        forward(*padded_batch(rows))

    def network(samples: np.ndarray, lengths: np.ndarray) -> None:
        frames = featurizer.frames(samples.shape[1])
        features = np.zeros((len(samples), featurizer.dimension, frames), np.float32)
        forward(features, np.full(len(samples), frames, np.int32))

    return network, whole


def in_onnxruntime(recipe) -> tuple[Run, Run]:
    from common.export.running import open_graph

    run = open_graph(recipe.pretrained.with_suffix(".onnx"))
    return run, run


def in_openvino(recipe) -> tuple[Run, Run]:
    import openvino

    file = recipe.pretrained.with_suffix(".onnx")
    options = {"INFERENCE_PRECISION_HINT": "f32"}  # the others' precision
    compiled = openvino.Core().compile_model(str(file), "CPU", options)
    request = compiled.create_infer_request()

    def run(samples: np.ndarray, lengths: np.ndarray) -> None:
        request.infer({"samples": samples, "lengths": lengths})

    return run, run


def measure(engine: str, recipe, manifest: str, limit: int) -> dict[str, float]:
    from common.audio.features import build_featurizer
    from common.data.loader import padded_batch
    from common.data.manifest import read_manifest

    config = build_featurizer(recipe.train_config().DataConfig).config
    rate = config.sample_rate
    utterances = read_manifest(manifest)[: limit or None]
    recordings = sorted((each.segment.load(rate) for each in utterances), key=len)
    made = {"mindspore": in_mindspore, "onnxruntime": in_onnxruntime, "openvino": in_openvino}
    network, whole = made[engine](recipe)
    found, rng = {}, np.random.default_rng(0)
    for size in (1, BATCH):
        # 15 ms a frame in both presets that ship
        samples = (0.1 * rng.standard_normal((size, FRAMES * 15 * rate // 1000))).astype(np.float32)
        lengths, taken = np.full(size, samples.shape[1], np.int32), []
        for _ in range(REPEATS):
            started = time.perf_counter()
            network(samples, lengths)
            taken.append(time.perf_counter() - started)
        found[f"batch {size}"] = 1000 * statistics.median(taken)
    batches = [
        padded_batch([row[None] for row in recordings[start : start + BATCH]])
        for start in range(0, len(recordings), BATCH)
    ]
    started = time.perf_counter()
    for samples, lengths in batches:
        whole(samples[:, 0], lengths)
    speech = sum(map(len, recordings)) / rate
    found["RTF"] = (time.perf_counter() - started) / speech
    found["MiB"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return found


def seconds_to_text(model: str, engine: str, recording: Path) -> float:
    command = [sys.executable, ROOT / model / "transcribe.py", recording, "--engine", engine]
    started = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True)
    return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("manifest")
    parser.add_argument("--model", choices=("deepspeech2", "jasper"), default="deepspeech2")
    parser.add_argument("--limit", type=int, default=0, help="utterances; 0: all")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--measure", choices=ENGINES, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    recipe = importlib.import_module(f"{arguments.model}.src.recipe").RECIPE
    if arguments.measure:
        print(
            json.dumps(measure(arguments.measure, recipe, arguments.manifest, arguments.limit)),
            flush=True,
        )
        return

    from common.data.manifest import read_manifest

    recording = read_manifest(arguments.manifest)[0].segment.path
    engines = [engine for engine in ENGINES if importlib.util.find_spec(engine)]
    columns = ("text", "batch 1", f"batch {BATCH}", "RTF", "MiB")
    print(f"{arguments.model} of preset an4, the network that ships")
    print(f"{'round':>5} {'engine':12}" + "".join(f"{column:>10}" for column in columns))
    for number in range(1, arguments.rounds + 1):
        for engine in engines:
            command = [sys.executable, *sys.argv, "--measure", engine]
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
            found = json.loads(done.stdout.splitlines()[-1])
            found["text"] = float("nan")  # transcribe.py does not run OpenVINO
            if engine != "openvino":
                found["text"] = seconds_to_text(arguments.model, engine, recording)
            values = [f"{found[column]:10.4g}" for column in columns]
            print(f"{number:5} {engine:12}" + "".join(values), flush=True)
    for file in (recipe.pretrained, recipe.pretrained.with_suffix(".onnx")):
        print(f"{file.name}: {file.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
