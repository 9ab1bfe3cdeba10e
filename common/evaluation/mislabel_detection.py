"""Utterances whose transcript and recording do not belong together, found by a trained network.

What the network finds improbable is either hard or wrong; by the CTC loss of a character the wrong
come first: texts of another recording, texts or recordings that break off. Unlike the word error
rate, the loss needs no word to be right, and tells a near miss from nonsense.

A network that has seen the utterances many times may have learnt the mistakes by heart; take an
early checkpoint, or the best one of a run with augmentation.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from common.data.dataset import ManifestDataset
from common.data.manifest import Utterance
from common.decoding.decoders import GreedyDecoder
from common.evaluation.error_rates import alignment, character_errors, word_errors
from common.evaluation.evaluate import recognise
from common.model.decoder import CTCDecoder
from common.model.speech_model import Forward, SpeechModel
from common.utils.files import write_text

DEVIATIONS = 6  # see `threshold`
MISSING_WORDS = 2  # at an end, from which it is more than a word that was not understood
MISSING_CHARACTERS = 4  # the same in languages written without spaces
TOO_SHORT = 4  # characters, up to which nothing alike tells nothing


@dataclass(frozen=True)
class LabelIssue:
    id: str
    audio: Path
    loss: float  # nats per character of the reference
    wer: float  # percent
    reference: str  # as the vocabulary writes it
    hypothesis: str  # decoded greedily

    def lines(self, rank: int) -> list[str]:
        found = [
            f"{rank}. {self.loss:.2f} nats per character: {self.id}",
            f"  Ref: {self.reference}",
            f"  Hyp: {self.hypothesis}",
        ]
        return found + [f"  {hint}" for hint in hints(self.reference, self.hypothesis)]


def rank_label_issues(
    speech_model: SpeechModel, utterances: Sequence[Utterance], batch_size: int, workers: int = 2
) -> list[LabelIssue]:
    """All of them, the least probable first. They must be fit to be trained on (`validate`)."""
    vocabulary = speech_model.vocabulary
    source = ManifestDataset(utterances, speech_model.featurizer, vocabulary, log=None)
    suspects = []
    for found in recognise(
        speech_model,
        CTCDecoder(Forward(speech_model), GreedyDecoder(vocabulary)),
        source,
        batch_size,
        workers,
        "scoring",
    ):
        reference = source.texts[found.index]
        labels = vocabulary.encode(reference)
        loss = ctc_loss(found.log_probs, labels, vocabulary.blank)
        suspects.append(
            LabelIssue(
                found.id,
                utterances[found.index].audio,
                loss / max(len(labels), 1),
                100 * word_errors(reference, found.text, vocabulary.words).rate,
                reference,
                found.text,
            )
        )
    return sorted(suspects, key=lambda suspect: (-suspect.loss, suspect.id))


def ctc_loss(log_probs: np.ndarray, labels: Sequence[int], blank: int) -> float:
    """-log p(labels), in nats, given log-probabilities (T, C); infinite where they do not fit.

    The forward algorithm of Graves et al. 2006, "Connectionist Temporal Classification", section
    4.1: over the labels with a blank before, between and behind them, a frame stays, goes to the
    next, or jumps over a blank between two labels that differ.
    """
    extended = np.full(2 * len(labels) + 1, blank)
    extended[1::2] = labels
    jumps = np.zeros(len(extended), bool)
    jumps[2:] = (extended[2:] != blank) & (extended[2:] != extended[:-2])
    emitted = np.asarray(log_probs, np.float64)[:, extended]
    # Two cells before the first stand for what lies outside.
    alpha = np.full(len(extended) + 2, -np.inf)
    alpha[2:4] = emitted[0, :2]
    for frame in emitted[1:]:
        reached = np.logaddexp(alpha[2:], alpha[1:-1])
        reached = np.logaddexp(reached, np.where(jumps, alpha[:-2], -np.inf))
        alpha[2:] = reached + frame
    ends = alpha[-2:] if len(labels) else alpha[-1:]
    return -float(np.logaddexp.reduce(ends))


def threshold(losses: Sequence[float]) -> float:
    """The median and six times the median distance from it (MAD), nats per character.

    Six MAD are four standard deviations of a normal distribution, which one of 40 000 passes; and
    unlike mean and deviation, neither is moved far by the wrong ones while they are the minority.
    """
    losses = np.asarray(losses)
    median = np.median(losses)
    return float(median + DEVIATIONS * np.median(np.abs(losses - median)))


def summary(suspects: Sequence[LabelIssue]) -> str:
    losses = np.array([suspect.loss for suspect in suspects])
    limit = threshold(losses)
    return (
        f"{len(losses)} utterances: median {np.median(losses):.2f} nats per character, "
        f"{(losses > limit).sum()} above {limit:.2f} (median + {DEVIATIONS} MAD)"
    )


def hints(reference: str, hypothesis: str) -> list[str]:
    """What may be wrong, where the two tell it: an end that only one of them has, or nothing alike.

    Counted from the outermost words that agree, or characters in a text of one word: so it does
    not matter which words between are mistaken for which.
    """
    if not hypothesis:
        return ["nothing was recognised: no speech in the recording?"]
    name, least, ours, theirs = "word", MISSING_WORDS, reference.split(), hypothesis.split()
    if len(ours) == len(theirs) == 1:
        name, least, ours, theirs = "character", MISSING_CHARACTERS, reference, hypothesis
    pairs = alignment(ours, theirs)
    same = [number for number, (one, other) in enumerate(pairs) if one == other]
    if len(same) <= 0.2 * min(len(ours), len(theirs)):
        shorter, longer = sorted((len(reference), len(hypothesis)))
        unlike = character_errors(reference, hypothesis).errors >= 0.6 * longer
        if unlike and shorter > TOO_SHORT:
            return [f"hardly a {name} in common: transcript of another recording?"]
        return []
    found = []
    for end, verb, side, outside in (
        ("first", "begins", "after", pairs[: same[0]]),
        ("last", "ends", "before", pairs[same[-1] + 1 :]),
    ):
        extra = sum(one is None for one, _ in outside) - sum(other is None for _, other in outside)
        if extra >= least:
            found.append(f"the reference {verb} {extra} {name}s {side} the hypothesis does")
        if -extra >= least:
            found.append(f"the hypothesis lacks the {end} {-extra} {name}s: recording cut?")
    return found


def write_label_issues(path: str | Path, suspects: Sequence[LabelIssue]) -> None:
    """As CSV with a header. Raises UserError where it cannot be written."""
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(["id", "audio", "loss_per_character", "wer", "reference", "hypothesis"])
    for each in suspects:
        figures = f"{each.loss:.4f}", f"{each.wer:.2f}"
        writer.writerow([each.id, each.audio, *figures, each.reference, each.hypothesis])
    write_text(path, text.getvalue())
