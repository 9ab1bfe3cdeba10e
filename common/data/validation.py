"""Decode every recording of a manifest and report what cannot be trained on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from common.audio.features import Featurizer
from common.data.dataset import map_in_threads
from common.data.durations import DurationNotice
from common.data.manifest import Utterance
from common.data.selection import (
    COPY,
    UNKNOWN_CHARACTERS,
    Candidate,
    LeftOut,
    SelectionRules,
    count_reasons,
    measure,
    select,
    split_copies,
    unreadable,
)
from common.text.tokenizer import Tokenizer
from common.utils.errors import UserError

_MAX_CHARACTERS = 50  # unknown characters listed, the most frequent


@dataclass(frozen=True)
class ValidationReport:
    """What of some utterances can be trained on, and why the others cannot.

    Attributes:
        total: Number of utterances, without the copies that are ignored.
        ok: Those that can be trained on, as the manifest has them.
        seconds: Of speech in these, as it is trained on.
        left_out: Copies first, then in manifest order; an utterance may have several reasons.
        characters: Unknown characters, with the number of utterances that hold them.
        notice: A line about recordings that last longer or shorter than the manifest says.
    """

    total: int
    ok: list[Utterance]
    seconds: float
    left_out: list[LeftOut]
    characters: Counter[str]
    notice: str | None = None

    def lines(self, limit: int | None = None) -> list[str]:
        """Format the report: counts, then ids with details, at most `limit` for each reason."""
        hours = self.seconds / 3600
        lines = [f"{len(self.ok)} of {self.total} utterances are good, {hours:.2f} hours"]
        if self.notice:
            lines.append(self.notice)
        for reason, count in count_reasons(self.left_out).items():
            lines.append(f"{reason}: {count}")
            if reason == COPY:  # left out because the configuration says so
                continue
            if reason == UNKNOWN_CHARACTERS:
                counts = self.characters.most_common(_MAX_CHARACTERS)
                more = ", ..." if len(self.characters) > _MAX_CHARACTERS else ""
                lines[-1] += f" ({', '.join(f'{c!r} in {n}' for c, n in counts)}{more})"
            same_reason = [entry for entry in self.left_out if entry.reason == reason]
            lines += [f"  {entry.id}: {entry.message}" for entry in same_reason[:limit]]
            if limit is not None and count > limit:
                lines.append(f"  and {count - limit} more")
        return lines


def validate(
    utterances: Sequence[Utterance],
    tokenizer: Tokenizer,
    featurizer: Featurizer,
    output_frames: Callable[[int], Any],
    min_duration: float,
    max_duration: float,
    workers: int = 2,
    ignore_copies: bool = False,
) -> ValidationReport:
    """Decode every recording and report what cannot be trained on, and why.

    Args:
        utterances: The utterances of a manifest.
        tokenizer: Labels that the texts must be made of.
        featurizer: Features of the network.
        output_frames: Output frames of the network for so many feature frames.
        min_duration: Seconds.
        max_duration: Seconds.
        workers: Threads that decode.
        ignore_copies: Leave out recordings at another speed, undecoded.

    Returns:
        The report.
    """
    rate = featurizer.config.sample_rate
    rules = SelectionRules(output_frames, min_duration, max_duration, ignore_copies)

    def read(utterance: Utterance) -> tuple[Candidate, float | None]:
        try:
            samples = utterance.segment.load(rate)
        except UserError as error:
            return unreadable(utterance, error), None
        candidate = measure(utterance, featurizer.trim(samples), tokenizer, featurizer)
        return candidate, len(samples) / rate

    judged, copies = split_copies(utterances, rules)
    candidates, durations = [], DurationNotice()
    for utterance, (candidate, seconds) in zip(
        judged, map_in_threads(read, judged, workers, "validate")
    ):
        candidates.append(candidate)
        if seconds is not None:
            durations.add(utterance, seconds)
    selection = select(candidates, rules)
    kept = selection.kept.tolist()
    return ValidationReport(
        total=len(judged),
        ok=[judged[index] for index in kept],
        seconds=sum(candidates[index].entry.duration for index in kept),
        left_out=copies + selection.left_out,
        characters=tokenizer.unknown_in(utterance.text for utterance in judged),
        notice=durations.line(),
    )
