"""A tiny made-up language that a tiny network learns in seconds: a tone for each character."""

from __future__ import annotations

import fcntl
import functools
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import soundfile as sf

from common import config as configs
from common.data.manifest import Utterance
from common.data.manifest_writers import write_csv
from deepspeech2.src.config import TrainConfig

SHARED_FOLDER = "TESTS_SHARED_FOLDER"  # variable of the environment: see conftest.py
RATE = 8000  # Hz
LABELS = ["A", "B", "C", "D", " ", "_"]
TONES = {"A": 500.0, "B": 1000.0, "C": 1700.0, "D": 2600.0}  # Hz
CHARACTER, GAP, PAUSE = 0.12, 0.03, 0.15  # seconds: a tone, after a tone, after a word


@contextmanager
def chdir(folder: Path) -> Iterator[None]:
    """contextlib.chdir, which Python 3.10 lacks."""
    before = os.getcwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


def spoken(text: str, rng: np.random.Generator) -> np.ndarray:
    """Samples (N,) of a text; pitch, loudness and noise vary a little."""
    parts = [np.zeros(round(0.06 * RATE))]
    for word in text.split():
        for character in word:
            count = round(CHARACTER * RATE)
            frequency = TONES[character] * rng.uniform(0.98, 1.02)
            tone = np.sin(2 * np.pi * frequency * np.arange(count) / RATE + rng.uniform(0, 6))
            parts += [rng.uniform(0.2, 0.5) * np.hanning(count) * tone, np.zeros(round(GAP * RATE))]
        parts.append(np.zeros(round(PAUSE * RATE)))
    samples = np.concatenate(parts)
    return samples + rng.normal(0, 0.002, len(samples))


def texts(count: int, seed: int = 0) -> list[str]:
    """One or two words of two to four characters each."""
    rng = np.random.default_rng(seed)
    return [
        " ".join(
            "".join(rng.choice(list(TONES), rng.integers(2, 5))) for _ in range(rng.integers(1, 3))
        )
        for _ in range(count)
    ]


def record(folder: Path, name: str, count: int, seed: int = 0) -> Path:
    """Speaks `count` utterances into `folder/name` and lists them in `folder/name.csv`."""
    rng = np.random.default_rng(seed + 1)
    (folder / name).mkdir(parents=True, exist_ok=True)
    utterances = []
    for number, text in enumerate(texts(count, seed)):
        path = folder / name / f"{name}{number}.wav"
        sf.write(path, spoken(text, rng), RATE, subtype="PCM_16")
        utterances.append(Utterance(path.stem, path, text))
    manifest = folder / f"{name}.csv"
    write_csv(utterances, manifest)
    return manifest


def make_corpus(folder: Path, train: int = 12, val: int = 4, test: int = 5) -> Path:
    """train.csv, val.csv, test.csv and labels.json in `folder`."""
    for seed, (name, count) in enumerate({"train": train, "val": val, "test": test}.items()):
        record(folder, name, count, seed)
    (folder / "labels.json").write_text(json.dumps(LABELS))
    return folder


def tiny(corpus: Path, **overrides: Any) -> TrainConfig:
    """A small DeepSpeech2 for the corpus. Overrides are given as `group__key=value`."""
    config = TrainConfig()
    configs.override(config, settings(corpus), "tests")
    for name, value in overrides.items():
        configs.override(config, {name.replace("__", "Config."): value}, "tests")
    return config


def memory_for(frames: int, speech_model: Any) -> int:
    """Bytes of a machine that can recognise so many feature frames at once, and not one more."""
    from common.memory import forecast_forward

    forecast = forecast_forward(speech_model)
    return round((forecast.fixed + forecast.per_frame * (frames + 0.5)) / 0.8)


def settings(corpus: Path) -> dict[str, dict[str, Any]]:
    """What makes DeepSpeech2 small and points it at the corpus, as in a YAML file."""
    return {
        "TrainingConfig": {"epochs": 2, "clip_norm": 10.0},
        "DataConfig": {
            "train_manifest": str(corpus / "train.csv"),
            "val_manifest": str(corpus / "val.csv"),
            "test_manifest": str(corpus / "test.csv"),
            "labels_path": str(corpus / "labels.json"),
            "mindrecord_format": str(corpus / "records" / "{split}" / "tones{}.md"),
            "batch_size": 4,
            "shards": 2,
            "workers": 1,
            "SpectConfig": {"sample_rate": RATE, "features": "logmel", "bands": 16},
        },
        "ModelConfig": {
            "hidden_size": 24,
            "hidden_layers": 2,
            "norm": "layer",
            "activation": "hardtanh",
            "conv_channels": 4,
            "conv_kernels": [[5, 5]],
            "conv_strides": [[2, 2]],
        },
        "OptimConfig": {"learning_rate": 0.01, "schedule": "constant", "warmup_epochs": 0.5},
        "CheckpointConfig": {"ckpt_file_name_prefix": "tiny"},
    }


@functools.cache
def trained() -> Path:
    """A folder with the corpus and `checkpoint/tiny-best.ckpt`, which has learnt some of it.

    Trained once in a run of the tests, by the worker that asks first. Nothing may change it.
    """
    folder = Path(os.environ[SHARED_FOLDER], "tones")
    folder.mkdir(exist_ok=True)
    with open(folder / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "trained").exists():
            _train(folder)
            (folder / "trained").touch()
    return folder


def _train(folder: Path) -> None:
    from common.data.splits import convert_split
    from common.training.trainer import train
    from common.utils import runtime
    from common.utils.logging import open_log
    from deepspeech2.src.recipe import RECIPE

    config = tiny(make_corpus(folder))
    config.TrainingConfig.epochs, config.TrainingConfig.eval_every = 40, 120
    for split in ("train", "val"):
        convert_split(RECIPE, config, split, log=lambda line: None)
    with chdir(folder):
        log = open_log("train.log", quiet=True)
        train(RECIPE, config, device=runtime.set_device("CPU"), log=log)
    return folder
