"""What keeps an utterance from training, and a report of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from common.audio.features import Featurizer
from common.audio.io import load_audio
from common.data.dataset import map_in_threads
from common.data.manifest import Utterance
from common.text.tokenizer import Vocabulary, ctc_frames_needed
from common.utils.errors import UserError

CATEGORIES = (
    "unreadable",
    "empty text",
    "unknown characters",
    "silent",
    "too short",
    "too long",
    "CTC-infeasible",  # more labels than output frames: no CTC path spells the text
)
_LISTED = 50  # unknown characters told, the most frequent
SILENCE = 1e-4  # a recording whose peak stays below this share of full scale is silent


@dataclass(frozen=True)
class Problem:
    id: str
    category: str  # one of CATEGORIES
    detail: str  # what was found, and what was expected


@dataclass(frozen=True)
class ValidationReport:
    total: int
    ok: list[Utterance]  # without a problem, with their true durations
    problems: list[Problem]  # in manifest order; an utterance may have several
    characters: Counter[str]  # unknown characters, with the utterances that hold them

    def lines(self, limit: int | None = None) -> list[str]:
        """Counts, then ids with details, at most `limit` of each category."""
        hours = sum(u.duration for u in self.ok) / 3600
        found = [f"{len(self.ok)} of {self.total} utterances are good, {hours:.2f} hours"]
        for category in CATEGORIES:
            those = [problem for problem in self.problems if problem.category == category]
            if not those:
                continue
            found.append(f"{category}: {len(those)}")
            if category == "unknown characters":
                counts = self.characters.most_common(_LISTED)
                more = ", ..." if len(self.characters) > _LISTED else ""
                found[-1] += f" ({', '.join(f'{c!r} in {n}' for c, n in counts)}{more})"
            found += [f"  {problem.id}: {problem.detail}" for problem in those[:limit]]
            if limit is not None and len(those) > limit:
                found.append(f"  and {len(those) - limit} more")
        return found


def find_problems(
    utterance: Utterance,
    samples: np.ndarray,
    vocabulary: Vocabulary,
    featurizer: Featurizer,
    output_frames: Callable[[int], int] | None,
    min_duration: float,
    max_duration: float,
) -> list[Problem]:
    """What keeps one utterance, with its samples (N,) at the featurizer's rate and trimmed as it
    says, from training.

    `output_frames` maps feature frames to the network's output frames; without it (it may need
    mindspore) `ctc_problem` is left to the caller. Durations are in seconds.
    """
    found = []

    def add(category: str, detail: str) -> None:
        found.append(Problem(utterance.id, category, detail))

    text = vocabulary.normalise(utterance.text)
    unknown = "".join(sorted(vocabulary.unknown(text)))
    if not text:
        add("empty text", f"no transcript for {utterance.audio}")
    if unknown:
        add("unknown characters", f"{unknown!r} in {text!r}")
    peak = float(np.abs(samples).max(initial=0.0))
    if peak < SILENCE:
        add("silent", f"peak {peak:.1e} of full scale, expected at least {SILENCE:.0e}")
    duration = len(samples) / featurizer.config.sample_rate
    if duration < min_duration:
        add("too short", f"{duration:.2f} s, expected at least {min_duration:g} s")
    if duration > max_duration:
        add("too long", f"{duration:.2f} s, expected at most {max_duration:g} s")
    if text and not unknown and output_frames is not None:
        frames = int(output_frames(featurizer.frames(len(samples))))
        needed = ctc_frames_needed(vocabulary.encode(text))
        found += ctc_problem(utterance.id, needed, frames)
    return found


def ctc_problem(id: str, needed: int, frames: int) -> list[Problem]:
    """The problem, if any, of a text that needs so many of the network's output frames."""
    if needed <= frames:
        return []
    detail = f"text needs {needed} output frames, the audio gives {frames}"
    return [Problem(id, "CTC-infeasible", detail)]


def validate(
    utterances: Sequence[Utterance],
    vocabulary: Vocabulary,
    featurizer: Featurizer,
    output_frames: Callable[[int], int],
    min_duration: float,
    max_duration: float,
    workers: int = 2,
) -> ValidationReport:
    """Decode every recording in `workers` threads and report what cannot be trained on, and why."""
    rate = featurizer.config.sample_rate
    limits = (vocabulary, featurizer, output_frames, min_duration, max_duration)

    def check(utterance: Utterance) -> tuple[Utterance, list[Problem]]:
        try:
            samples = load_audio(utterance.audio, rate)
        except UserError as error:
            samples, found = np.zeros(0), [Problem(utterance.id, "unreadable", str(error))]
        else:
            found = find_problems(utterance, featurizer.trim(samples), *limits)
        return replace(utterance, duration=len(samples) / rate), found

    checked = list(map_in_threads(check, utterances, workers, "validate"))
    return ValidationReport(
        total=len(utterances),
        ok=[utterance for utterance, found in checked if not found],
        problems=[problem for _, found in checked for problem in found],
        characters=vocabulary.unknown_in(utterance.text for utterance in utterances),
    )
