"""Which utterances are trained on, and why the others are left out.

Validation, conversion to MindRecord files and training all decide by `reasons_against`, so that
they cannot disagree (but for the size of a MindRecord record, which conversion alone knows). What
a caller has not measured of an utterance (a converted record does not
say how loud it is) was judged before, and is not judged again.
"""

from __future__ import annotations

import functools
import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from common.audio.features import Featurizer
from common.data.dataset import Dataset, Entry
from common.data.manifest import Utterance
from common.text.tokenizer import Tokenizer
from common.utils.errors import UserError

UNREADABLE = "unreadable"
EMPTY_TEXT = "empty text"
UNKNOWN_CHARACTERS = "unknown characters"
SILENT = "silent"
TOO_SHORT = "too short"
TOO_LONG = "too long"
CTC_INFEASIBLE = "CTC-infeasible"  # more labels than output frames: no CTC path spells the text
COPY = "copy at another speed"
OUTSIDE_SUBSET = "outside the subset"

FAULTS = (
    UNREADABLE,
    EMPTY_TEXT,
    UNKNOWN_CHARACTERS,
    SILENT,
    TOO_SHORT,
    TOO_LONG,
    CTC_INFEASIBLE,
)
REASONS = (COPY, *FAULTS, OUTSIDE_SUBSET)  # in the order of reports; the two others are no faults

_COPY_MESSAGE = "left out by DataConfig.ignore_offline_speed_perturbation"
MIN_PEAK = 1e-4  # share of full scale; a recording whose peak is lower is silent


@dataclass(frozen=True)
class LeftOut:
    """One reason why an utterance is not trained on; there may be several.

    Attributes:
        id: Of the utterance.
        reason: One of REASONS.
        message: What was found, and what was expected.
    """

    id: str
    reason: str
    message: str

    def to_json(self) -> dict[str, str]:
        """Return the keys that files of a conversion have for it."""
        return {"id": self.id, "category": self.reason, "detail": self.message}

    @classmethod
    def from_json(cls, values: dict[str, str]) -> LeftOut:
        """Read what `to_json` wrote."""
        return cls(values["id"], values["category"], values["detail"])


@dataclass(frozen=True)
class Candidate:
    """An utterance that may be trained on, with what was measured of it.

    Attributes:
        entry: What planning needs to know of it.
        is_copy: Plays at another speed than its utterance was spoken.
        audio: The recording or segment, for messages.
        unreadable: Why the recording cannot be decoded; nothing else is known then.
        unknown: Characters of the text that have no label.
        peak: Largest sample, as a share of full scale; None: not measured.
        record_bytes: Size in a MindRecord file; 0: not known.
    """

    entry: Entry
    is_copy: bool = False
    audio: str = ""
    unreadable: str = ""
    unknown: str = ""
    peak: float | None = None
    record_bytes: int = 0


@dataclass(frozen=True)
class SelectionRules:
    """Limits that utterances must keep to, and how many of them are wanted.

    Attributes:
        output_frames: Feature frames -> output frames of the network; None: not judged by it.
        min_duration: Shortest recording in seconds.
        max_duration: Longest recording in seconds.
        ignore_copies: Leave out recordings at another speed.
        max_record_bytes: Largest record of a MindRecord file.
        max_hours: Hours of speech, drawn at random; 0: all.
        max_utterances: Number of utterances, drawn at random; 0: all.
        seed: Of these draws.
    """

    output_frames: Callable[[int], Any] | None = None
    min_duration: float = 0.0
    max_duration: float = math.inf
    ignore_copies: bool = False
    max_record_bytes: float = math.inf
    max_hours: float = 0.0
    max_utterances: int = 0
    seed: int = 0

    @classmethod
    def for_training(cls, config: Any, output_frames: Callable[[int], Any]) -> SelectionRules:
        """Return the rules of a training configuration.

        Args:
            config: The training configuration.
            output_frames: Feature frames -> output frames of its network.
        """
        data = config.DataConfig
        return cls(
            output_frames=output_frames,
            min_duration=data.min_duration,
            max_duration=data.max_duration,
            ignore_copies=data.ignore_offline_speed_perturbation,
            max_hours=data.max_hours,
            max_utterances=data.max_utterances,
            seed=config.TrainingConfig.seed,
        )


@dataclass(frozen=True)
class Selection:
    """The utterances that are trained on, and the reasons against the others.

    Attributes:
        kept: (N,) indices of the candidates that are trained on, ascending.
        left_out: Reasons against the others, in the order of the candidates.
    """

    kept: np.ndarray
    left_out: list[LeftOut]


def count_reasons(left_out: Iterable[LeftOut]) -> dict[str, int]:
    """Return the number of utterances for each reason that occurs, in the order of REASONS."""
    counts = Counter(utterance.reason for utterance in left_out)
    return {reason: counts[reason] for reason in REASONS if counts[reason]}


def measure(
    utterance: Utterance, samples: np.ndarray, tokenizer: Tokenizer, featurizer: Featurizer
) -> Candidate:
    """Measure an utterance.

    Args:
        utterance: As the manifest has it.
        samples: (N,) float32 at the featurizer's rate, trimmed as the featurizer says.
        tokenizer: Normalises and encodes the text.
        featurizer: Gives the number of frames.

    Returns:
        What `reasons_against` judges.
    """
    text = tokenizer.normalise(utterance.text)
    unknown = "".join(sorted(tokenizer.unknown(text)))
    label_ids = [] if unknown else tokenizer.encode(text)
    entry = Entry(
        id=utterance.id,
        text=text,
        duration=len(samples) / featurizer.config.sample_rate,
        frames=featurizer.frames(len(samples)),
        labels=len(label_ids),
        ctc_frames=tokenizer.frames_needed(label_ids),
        copy_of=utterance.copy_of,
        speed=utterance.speed,
    )
    return Candidate(
        entry,
        is_copy=utterance.is_copy,
        audio=str(utterance.segment),
        unknown=unknown,
        peak=float(np.abs(samples).max(initial=0.0)),
    )


def unreadable(utterance: Utterance, error: UserError) -> Candidate:
    """Return the candidate of a recording that cannot be decoded.

    Args:
        utterance: As the manifest has it.
        error: What is wrong with its recording.
    """
    entry = Entry(utterance.id, utterance.text, 0.0, 0, 0, 0, utterance.copy_of, utterance.speed)
    return Candidate(entry, utterance.is_copy, str(utterance.segment), unreadable=str(error))


def split_copies(
    utterances: Sequence[Utterance], rules: SelectionRules
) -> tuple[list[Utterance], list[LeftOut]]:
    """Separate the copies that `rules` leave out, before any recording is opened.

    Args:
        utterances: The utterances of a manifest.
        rules: Say whether copies are ignored.

    Returns:
        The utterances to judge further, and the reasons against the others; both in order.
    """
    if not rules.ignore_copies:
        return list(utterances), []
    judged = [utterance for utterance in utterances if not utterance.is_copy]
    copies = [LeftOut(u.id, COPY, _COPY_MESSAGE) for u in utterances if u.is_copy]
    return judged, copies


def reasons_against(candidate: Candidate, rules: SelectionRules) -> list[LeftOut]:
    """List what keeps one utterance from training.

    An utterance that is left out as a copy is not judged further, nor is one that is unreadable.

    Args:
        candidate: The utterance.
        rules: What it must keep to.

    Returns:
        The reasons; empty where it can be trained on.
    """
    entry = candidate.entry
    reasons: list[LeftOut] = []

    def add(reason: str, message: str) -> None:
        reasons.append(LeftOut(entry.id, reason, message))

    if rules.ignore_copies and candidate.is_copy:
        add(COPY, _COPY_MESSAGE)
        return reasons
    if candidate.unreadable:
        add(UNREADABLE, candidate.unreadable)
        return reasons
    if not entry.text:
        add(EMPTY_TEXT, f"no transcript for {candidate.audio}")
    if candidate.unknown:
        spaces = "; add a space to the labels, which keeps words apart"
        hint = spaces if " " in candidate.unknown else ""
        add(UNKNOWN_CHARACTERS, f"{candidate.unknown!r} in {entry.text!r}{hint}")
    if candidate.peak is not None and candidate.peak < MIN_PEAK:
        add(
            SILENT,
            f"peak {candidate.peak:.1e} of full scale, expected at least {MIN_PEAK:.0e}",
        )
    if entry.duration < rules.min_duration:
        add(TOO_SHORT, f"{entry.duration:.2f} s, expected at least {rules.min_duration:g} s")
    if entry.duration > rules.max_duration:
        add(TOO_LONG, f"{entry.duration:.2f} s, expected at most {rules.max_duration:g} s")
    if candidate.record_bytes > rules.max_record_bytes:
        size, limit = candidate.record_bytes >> 20, int(rules.max_record_bytes) >> 20
        add(TOO_LONG, f"{size} MiB, expected at most {limit} MiB in a MindRecord record")
    if rules.output_frames is not None and entry.ctc_frames > 0:
        frames = int(rules.output_frames(entry.frames))
        if frames < entry.ctc_frames:
            add(
                CTC_INFEASIBLE,
                f"text needs {entry.ctc_frames} output frames, the audio gives {frames}",
            )
    return reasons


def select(candidates: Sequence[Candidate], rules: SelectionRules) -> Selection:
    """Choose what is trained on.

    Args:
        candidates: Utterances and their copies, in any order.
        rules: What they must keep to. `max_hours` and `max_utterances` draw from the utterances
            that do; copies go with their utterance.

    Returns:
        The indices of what is trained on, and the reasons against each of the others.
    """
    if rules.output_frames is not None:  # far fewer lengths than utterances
        rules = replace(rules, output_frames=functools.cache(rules.output_frames))
    reasons = [reasons_against(candidate, rules) for candidate in candidates]
    kept = np.array([index for index, against in enumerate(reasons) if not against], np.int64)
    if rules.max_hours > 0 or rules.max_utterances > 0:
        subset = _subset([candidate.entry for candidate in candidates], kept, rules)
        limits = (f"max_hours={rules.max_hours:g}", f"max_utterances={rules.max_utterances}")
        message = "not drawn for DataConfig." + ", ".join(
            limit for limit, value in zip(limits, (rules.max_hours, rules.max_utterances)) if value
        )
        for index in np.setdiff1d(kept, subset).tolist():
            entry = candidates[index].entry
            reasons[index].append(LeftOut(entry.id, OUTSIDE_SUBSET, message))
        kept = subset
    return Selection(kept, [reason for against in reasons for reason in against])


def candidates_of(dataset: Dataset) -> list[Candidate]:
    """Return the utterances of a dataset, whose recordings were judged when they were converted."""
    return [
        Candidate(entry, is_copy=bool(entry.copy_of) or entry.speed != 1.0)
        for entry in dataset.entries
    ]


def _subset(entries: Sequence[Entry], kept: np.ndarray, rules: SelectionRules) -> np.ndarray:
    """Return the indices among `kept` of the utterances that are drawn, with their copies."""
    numbers: dict[str, int] = {}
    spoken = np.array(
        [numbers.setdefault(entry.copy_of or entry.id, len(numbers)) for entry in entries], np.int64
    )
    _, firsts = np.unique(spoken[kept], return_index=True)
    order = np.random.default_rng(rules.seed).permutation(kept[np.sort(firsts)])
    if rules.max_hours > 0:
        hours = np.cumsum([entries[index].duration for index in order]) / 3600
        order = order[: max(1, int(np.searchsorted(hours, rules.max_hours, side="right")))]
    if rules.max_utterances > 0:
        order = order[: rules.max_utterances]
    return kept[np.isin(spoken[kept], spoken[order])]
