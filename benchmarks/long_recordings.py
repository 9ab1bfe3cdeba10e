"""Utterances of a manifest one behind the other, recognised as long recordings and one by one.

    python benchmarks/long_recordings.py MANIFEST [--model jasper] [--pieces 10] [--gap 0.5]
    python benchmarks/long_recordings.py MANIFEST --write talk.flac --minutes 60

The first compares word error rates: of the utterances alone, and of recordings of some utterances
each. `--gap` seconds of silence stand between two, on average (0.5 to 1.5 times as much), filled
with noise as quiet as the quietest of the utterance; 0: none. `--no_silence` takes everything for
speech, so that segments overlap and are joined. The second writes a recording.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
import time
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))


class AllSpeech:
    """In the place of a detector: everything is speech."""

    def __init__(self, sample_rate: int):
        self._frame = round(0.032 * sample_rate)
        self.reset()

    def reset(self) -> None:
        self._waiting = 0

    def __call__(self, samples: np.ndarray) -> np.ndarray:
        frames, self._waiting = divmod(self._waiting + len(samples), self._frame)
        return np.ones(frames, np.float32)


def joined(recordings: list[np.ndarray], rate: int, gap: float, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    pieces = []
    for samples in recordings:
        frames = samples[: len(samples) // 320 * 320].reshape(-1, 320)
        quiet = np.sqrt(np.quantile(np.square(frames).mean(1), 0.05))
        silence = rng.normal(0, quiet, round(rng.uniform(0.5, 1.5) * gap * rate))
        pieces += [samples, silence.astype(np.float32)]
    return np.concatenate(pieces)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("manifest", type=Path)
    parser.add_argument("--model", default="deepspeech2", help="the name of its folder")
    parser.add_argument("--network", help="checkpoint or exported file; none: the one that ships")
    parser.add_argument("--pieces", type=int, default=10, help="recordings to make")
    parser.add_argument("--gap", type=float, default=0.5, help="seconds between utterances")
    parser.add_argument("--longest", type=float, help="seconds of a segment")
    parser.add_argument("--no_silence", action="store_true", help="take everything for speech")
    parser.add_argument("--write", type=Path, help="FLAC file to write, in place of all else")
    parser.add_argument("--minutes", type=float, default=10, help="of the file")
    arguments = parser.parse_args()
    if arguments.write is not None:
        write(arguments)
    else:
        compare(arguments)


def write(arguments: argparse.Namespace) -> None:
    import soundfile as sf

    from common.audio.io import load_audio
    from common.data.manifest import read_manifest

    utterances, rate, written, number = read_manifest(arguments.manifest), 16000, 0, 0
    with sf.SoundFile(arguments.write, "w", rate, 1) as file:
        while written < arguments.minutes * 60 * rate:
            samples = load_audio(utterances[number % len(utterances)].audio, rate)
            samples = joined([samples], rate, arguments.gap, number)
            file.write(samples)
            written, number = written + len(samples), number + 1
    print(f"{arguments.write}: {number} utterances, {written / rate / 60:.2f} minutes")


def compare(arguments: argparse.Namespace) -> None:
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    from common.api import long_recordings
    from common.audio import segmentation
    from common.audio.blocks import open_blocks
    from common.audio.io import load_audio
    from common.data.manifest import read_manifest
    from common.evaluation.error_rates import EditCounts, word_errors

    package = importlib.import_module(arguments.model)
    recognizer = package.load(arguments.network)
    model, decoder, rate = recognizer._model, recognizer._decoder, recognizer.sample_rate
    words = model.tokenizer.words
    utterances = read_manifest(arguments.manifest)
    texts = [model.tokenizer.normalise(utterance.text) for utterance in utterances]
    recordings = [load_audio(utterance.audio, rate) for utterance in utterances]
    if arguments.no_silence:
        segmentation.speech_segments.__defaults__ = (None, 1, (), AllSpeech)
    rules = segmentation.SegmentationRules()
    if arguments.longest:
        rules = segmentation.SegmentationRules(longest=arguments.longest)
    rules = long_recordings.rules_for(model, "", rules)

    alone = [result.text for result in recognizer.transcribe([(each, rate) for each in recordings])]
    errors = sum((word_errors(*pair, words) for pair in zip(texts, alone)), EditCounts())
    seconds = sum(map(len, recordings)) / rate
    print(f"{len(texts)} utterances, {seconds:.0f} s; alone: WER {100 * errors.rate:.2f} %")
    errors, spent, cut = EditCounts(), 0.0, 0
    for piece in range(arguments.pieces):
        chosen = np.array_split(np.arange(len(texts)), arguments.pieces)[piece]
        samples = joined([recordings[index] for index in chosen], rate, arguments.gap, piece)
        started = time.perf_counter()
        with open_blocks((samples[:, None], rate), rate) as audio:
            parts = list(long_recordings.passages(model, decoder, audio, rules))
        spent += time.perf_counter() - started
        cut += len(parts)
        text = long_recordings.whole_transcript(model, parts, 0.0).text
        errors += word_errors(" ".join(texts[index] for index in chosen), text, words)
    print(
        f"in {arguments.pieces} recordings with {arguments.gap:g} s between: WER "
        f"{100 * errors.rate:.2f} % ({errors.substitutions} substitutions, {errors.deletions} "
        f"deletions, {errors.insertions} insertions of {errors.length} words), {cut} passages, "
        f"{seconds / spent:.0f} x real time"
    )


if __name__ == "__main__":
    main()
