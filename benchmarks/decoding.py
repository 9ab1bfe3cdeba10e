"""Seconds that prefix beam search takes for 10 s of speech, on one core.

    python benchmarks/decoding.py [--lm_path FILE]

The log-probabilities are made up: 500 frames over DeepSpeech2's 29 labels that spell a sentence,
two frames a letter and three of blanks, with noise. flashlight-text's search without a lexicon is
timed beside ours where it is installed; its beam counts a text twice, ending in a blank or not.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from common.config import LMConfig  # noqa: E402
from common.decoding.decoders import make_search  # noqa: E402
from common.decoding.prefix_beam_search import BeamSearch  # noqa: E402
from common.text.tokenizer import CharacterTokenizer  # noqa: E402

SENTENCE = (
    "PLEASE ENTER YOUR PASSWORD FOLLOWED BY THE POUND KEY OR PRESS ZERO TO SPEAK WITH AN OPERATOR "
    "NOW OK "
)


def log_probs(tokenizer: CharacterTokenizer) -> np.ndarray:
    """(500, C) float32."""
    labels = np.repeat(tokenizer.encode(SENTENCE), 5)
    labels[np.arange(len(labels)) % 5 >= 2] = tokenizer.blank
    logits = np.random.default_rng(0).normal(size=(len(labels), len(tokenizer)))
    logits[np.arange(len(labels)), labels] += 5
    return (logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))).astype(np.float32)


def flashlight(tokenizer: CharacterTokenizer, beam_width: int) -> Callable[[np.ndarray], list]:
    from flashlight.lib.text import decoder

    options = decoder.LexiconFreeDecoderOptions(
        beam_size=beam_width,
        beam_size_token=len(tokenizer),
        beam_threshold=1e9,
        lm_weight=0.0,
        sil_score=0.0,
        log_add=True,
        criterion_type=decoder.CriterionType.CTC,
    )
    space = tokenizer.labels.index(" ")
    search = decoder.LexiconFreeDecoder(options, decoder.ZeroLM(), space, tokenizer.blank, [])
    return lambda frames: search.decode(frames.ctypes.data, *frames.shape)


def fastest(search: Callable[[np.ndarray], list], frames: np.ndarray, tries: int = 3) -> float:
    seconds = []
    for _ in range(tries):
        begin = time.perf_counter()
        search(frames)
        seconds.append(time.perf_counter() - begin)
    return min(seconds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--lm_path", default="", help="a word model to time as well")
    arguments = parser.parse_args()
    tokenizer = CharacterTokenizer.from_file(ROOT / "deepspeech2" / "labels.json")
    frames = log_probs(tokenizer)
    for beam_width in (25, 100, 500, 1024):
        found = {"here": fastest(BeamSearch(tokenizer, beam_width), frames)}
        if arguments.lm_path:
            config = LMConfig("beam", arguments.lm_path, beam_width=beam_width)
            found["with the model"] = fastest(make_search(config, tokenizer), frames)
        with suppress(ImportError):
            found["flashlight-text"] = fastest(flashlight(tokenizer, beam_width), frames)
        figures = ", ".join(f"{name} {seconds:.3f} s" for name, seconds in found.items())
        print(f"beam {beam_width}: {figures}")


if __name__ == "__main__":
    main()
