"""Latency and real-time factor of a streaming network.

    python benchmarks/streaming.py jasper jasper/jasper.onnx RECORDING... [--chunk 0.2] [--ahead]

Recordings follow each other as one stream, without waiting; the clock is that of the audio, and the
time that computing takes is added to it.

- by construction: half a frame's window, the later frames that the network looks at, and the chunk.
- a chunk: milliseconds from its last sample to the partial text: median, 95th percentile, longest.
- words: seconds from the end of a word, by the alignment, to its first partial text: median, 95th
  percentile. Partial texts of beam search may change; what counts is how many words they have.
- RTF: seconds of computing by seconds of audio.
"""

from __future__ import annotations

import argparse
import importlib
import sys
import time
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from common.api.streaming import Segment, StreamingRecognizer  # noqa: E402
from common.audio.io import load_audio  # noqa: E402
from common.config import LMConfig  # noqa: E402
from common.export.streaming import CHUNK_SECONDS  # noqa: E402
from common.export.streaming_session import StreamingModel  # noqa: E402


class Lags:
    """When the words of partial texts came first."""

    def __init__(self) -> None:
        self.seen: list[float] = []  # of the segment that goes on
        self.lags: list[float] = []

    def partial(self, text: str, now: float) -> None:
        self.seen += [now] * (len(text.split()) - len(self.seen))

    def final(self, segment: Segment, now: float) -> None:
        self.partial(segment.text, now)
        self.lags += [seen - word.end for seen, word in zip(self.seen, segment.words)]
        self.seen = []


def measured(recognizer: StreamingRecognizer, samples: np.ndarray, chunk: float, ahead: bool):
    """Stream samples; return seconds of computing of each chunk, and of lag of each word."""
    size = round(chunk * recognizer.sample_rate)
    times, lags = [], Lags()
    for start in range(0, len(samples), size):
        piece = samples[start : start + size]
        began = time.perf_counter()
        segments = recognizer.accept(piece)
        text = recognizer.result(ahead)
        times.append(time.perf_counter() - began)
        now = (start + len(piece)) / recognizer.sample_rate + times[-1]
        for segment in segments:
            lags.final(segment, now)
        lags.partial(text, now)
    return times, lags.lags


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", choices=("deepspeech2", "jasper"))
    parser.add_argument("file", help="ONNX file of export.py --streaming")
    parser.add_argument("recordings", nargs="+")
    parser.add_argument("--chunk", type=float, default=CHUNK_SECONDS, help="seconds")
    parser.add_argument("--ahead", action="store_true", help="as of transcribe.py --stream")
    parser.add_argument("--beam", type=int, default=0, help="width of a beam search; 0: greedy")
    arguments = parser.parse_args()
    recipe = importlib.import_module(f"{arguments.model}.src.recipe").RECIPE
    model = StreamingModel.load(recipe, arguments.file)
    decoding = LMConfig()
    if arguments.beam:
        decoding = LMConfig(decoder_type="beam", beam_width=arguments.beam)
    recognizer = StreamingRecognizer(model, decoding, chunk_seconds=arguments.chunk)
    pause = np.zeros(model.sample_rate, np.float32)
    parts = [load_audio(name, model.sample_rate) for name in arguments.recordings]
    samples = np.concatenate([each for part in parts for each in (part, pause)])
    samples += np.random.default_rng(0).normal(0, 1e-4, len(samples)).astype(np.float32)

    latency = model.latency(arguments.chunk)
    listing = ", ".join(f"{name} {seconds:.3f}" for name, seconds in latency.items())
    print(f"by construction: {sum(latency.values()):.3f} s ({listing})")
    times, lags = measured(recognizer, samples, arguments.chunk, arguments.ahead)
    seconds = len(samples) / model.sample_rate
    middle, high, most = (1000 * np.quantile(times, share) for share in (0.5, 0.95, 1))
    print(f"a chunk: {middle:.1f} ms, 95 % within {high:.1f} ms, longest {most:.1f} ms")
    if lags:
        middle, high = (np.quantile(lags, share) for share in (0.5, 0.95))
        print(f"words: {middle:.2f} s, 95 % within {high:.2f} s ({len(lags)} words)")
    print(f"RTF: {sum(times) / seconds:.4f} ({seconds:.0f} s of audio)")


if __name__ == "__main__":
    main()
