"""Detectors of speech beside each other, on utterances with silences of known places between.

    python benchmarks/voice_activity.py MANIFEST [--noise FOLDER] [--utterances 60]

Utterances of a manifest one behind the other, with 0.4 to 3 s between them, as recorded (the
silences are filled with quiet noise) and with noise from the files of a folder at some
signal-to-noise ratios. A pause is found where a detector has at least 0.3 s without speech in it.
Speech is lost where frames within 20 dB of the loudest of their utterance, as recorded, are not
marked, even 0.1 s away. Thresholds of each detector are those that its authors give, and others.

Others than the detector that the project ships: `pip install webrtcvad-wheels`, and a detector
of energy over the quietest tenth of the last 10 s, which is here.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
RATE, FRAME = 16000, 512
PAUSE = 0.3  # seconds
NEAR = 3  # frames that speech is widened by at both ends: 0.1 s

Detector = Callable[[np.ndarray], np.ndarray]


def silero(samples: np.ndarray) -> np.ndarray:
    from common.audio.voice_activity import SileroDetector

    return SileroDetector(RATE)(samples)


def energy(samples: np.ndarray) -> np.ndarray:
    """dB above the level that a tenth of the last 10 s stays below."""
    level = decibels(samples)
    floor = [np.quantile(level[max(0, at - 312) : at + 1], 0.1) for at in range(len(level))]
    return level - np.array(floor)


def webrtc(aggressiveness: int) -> Detector:
    def detect(samples: np.ndarray) -> np.ndarray:
        import webrtcvad

        detector, step = webrtcvad.Vad(aggressiveness), RATE // 50
        pcm = (np.clip(samples, -1, 1) * 32767).astype("<i2")
        spoken = np.array(
            [
                detector.is_speech(pcm[at : at + step].tobytes(), RATE)
                for at in range(0, len(pcm) - step + 1, step)
            ],
            float,
        )
        middle = (np.arange(len(samples) // FRAME) + 0.5) * FRAME / step
        return spoken[np.minimum(middle.astype(int), len(spoken) - 1)]

    return detect


def decibels(samples: np.ndarray) -> np.ndarray:
    frames = samples[: len(samples) // FRAME * FRAME].reshape(-1, FRAME)
    return 10 * np.log10(np.square(frames, dtype=np.float64).mean(1) + 1e-10)


def concatenation(paths: list[Path], rng: np.random.Generator):
    """Return samples, and for each frame whether it is in a silence, and whether it is speech."""
    from common.audio.io import load_audio

    pieces, silent, spoken = [], [], []
    for path in paths:
        speech = load_audio(path, RATE)
        speech = speech[: len(speech) // FRAME * FRAME]
        level = decibels(speech)
        quiet = 10 ** (np.quantile(level, 0.05) / 20)
        frames = int(rng.uniform(0.4, 3.0) * RATE / FRAME)
        pieces += [speech, rng.normal(0, quiet, frames * FRAME).astype(np.float32)]
        loud = level > np.quantile(level, 0.99) - 20
        silent += [np.zeros(len(level), bool), np.ones(frames, bool)]
        spoken += [loud, np.zeros(frames, bool)]
    return np.concatenate(pieces), np.concatenate(silent), np.concatenate(spoken)


def with_noise(samples: np.ndarray, folder: Path, ratio: float, rng) -> np.ndarray:
    from common.audio.io import load_audio

    noise = []
    files = sorted(folder.glob("*.flac"))
    while sum(map(len, noise)) < len(samples):
        clip = load_audio(files[rng.integers(len(files))], RATE)
        noise.append(clip / (np.sqrt(np.square(clip).mean()) + 1e-6))
    speech = np.sqrt(np.square(samples[np.abs(samples) > 1e-3]).mean())
    return samples + np.concatenate(noise)[: len(samples)] * speech * 10 ** (-ratio / 20)


def runs(marked: np.ndarray) -> list[tuple[int, int]]:
    """Return start and end of runs of true values."""
    edges = np.flatnonzero(np.diff(np.concatenate(([0], marked.astype(int), [0]))))
    return list(zip(edges[::2].tolist(), edges[1::2].tolist()))


def figures(speech: np.ndarray, silent: np.ndarray, spoken: np.ndarray) -> list[float]:
    """Return percent of pauses found, of speech lost, of silence taken for speech."""
    count = len(speech)
    needed = int(PAUSE * RATE / FRAME)
    pauses = runs(silent[:count])
    found = [
        max((end - start for start, end in runs(~speech[first:last])), default=0) >= needed
        for first, last in pauses
    ]
    near = np.convolve(speech, np.ones(2 * NEAR + 1), "same") > 0
    return [
        100 * float(np.mean(found)),
        100 * float((~near)[spoken[:count]].mean()),
        100 * float(speech[silent[:count]].mean()),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("manifest", type=Path)
    parser.add_argument("--noise", type=Path, help="folder of FLAC recordings of noise")
    parser.add_argument("--utterances", type=int, default=60)
    arguments = parser.parse_args()
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    from common.data.manifest import read_manifest

    rng = np.random.default_rng(0)
    utterances = read_manifest(arguments.manifest)
    chosen = rng.permutation(len(utterances))[: arguments.utterances]
    paths = [utterances[index].audio for index in chosen]
    clean, silent, spoken = concatenation(paths, rng)
    conditions = {"as recorded": clean}
    for ratio in (20, 10, 5, 0) if arguments.noise else ():
        conditions[f"{ratio} dB"] = with_noise(clean, arguments.noise, ratio, rng)
    detectors: dict[str, tuple[Detector, tuple[float, ...]]] = {
        "silero": (silero, (0.3, 0.5, 0.7)),
        "energy": (energy, (6.0, 9.0, 12.0)),
        **{f"webrtc {mode}": (webrtc(mode), (0.5,)) for mode in range(4)},
    }
    print(f"{len(paths)} utterances, {len(clean) / RATE / 60:.1f} minutes")
    print("| noise | detector | threshold | pauses found % | speech lost % | silence as speech % |")
    print("| --- | --- | --- | --- | --- | --- |")
    spent = dict.fromkeys(detectors, 0.0)
    for noise, samples in conditions.items():
        for name, (detect, thresholds) in detectors.items():
            started = time.perf_counter()
            try:
                scores = detect(samples)
            except ImportError:
                continue
            spent[name] += time.perf_counter() - started
            for threshold in thresholds:
                row = figures(scores > threshold, silent, spoken)
                values = " | ".join(f"{value:.1f}" for value in row)
                print(f"| {noise} | {name} | {threshold:g} | {values} |")
    hours = len(clean) / RATE / 3600 * len(conditions)
    for name, seconds in spent.items():
        if seconds:
            print(f"{name}: {seconds / hours:.0f} s an hour of recording")


if __name__ == "__main__":
    main()
