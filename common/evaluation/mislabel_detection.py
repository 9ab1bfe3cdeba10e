"""Find utterances whose transcript does not match the recording, with a trained network.

Utterances that the network finds improbable are hard or mislabelled. Ranked by CTC loss per
character, the mislabelled come first: transcripts of another recording, transcripts or recordings
that are cut. Unlike the word error rate, the loss distinguishes a near miss from nonsense.

A network that has seen the utterances many times may have memorised the mistakes: use an early
checkpoint, or the best one of a run with augmentation.
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
from common.utils.errors import UserError
from common.utils.files import write_text
from common.utils.wording import counted

DEVIATIONS = 6  # see `threshold`
MISSING_WORDS = 2  # at one end, from which it is more than a misunderstood word
MISSING_CHARACTERS = 4  # the same in languages written without spaces
MIN_CHARACTERS = 4  # up to which texts are too short to say that they have nothing in common


@dataclass(frozen=True)
class LabelIssue:
    """One utterance with the figures that it is ranked by.

    Attributes:
        id: Of the utterance.
        audio: Path of the recording.
        loss: CTC loss in nats per character of the reference.
        wer: Word error rate in percent.
        reference: Normalised transcript.
        hypothesis: Decoded greedily.
    """

    id: str
    audio: Path
    loss: float
    wer: float
    reference: str
    hypothesis: str

    def lines(self, rank: int) -> list[str]:
        """Format the utterance, with its rank, as validate.py prints it."""
        lines = [
            f"{rank}. {self.loss:.2f} nats per character: {self.id}",
            f"  Ref: {self.reference}",
            f"  Hyp: {self.hypothesis}",
        ]
        return lines + [f"  {hint}" for hint in hints(self.reference, self.hypothesis)]


def rank_label_issues(
    speech_model: SpeechModel, utterances: Sequence[Utterance], batch_size: int, workers: int = 2
) -> list[LabelIssue]:
    """Rank utterances, the least probable transcript first.

    Args:
        speech_model: A trained network.
        utterances: What `validate` found to be good.
        batch_size: Utterances in a batch, at most.
        workers: Threads that decode recordings.

    Returns:
        All utterances, ranked.

    Raises:
        UserError: The network is not trained with CTC.
    """
    tokenizer = speech_model.tokenizer
    if tokenizer.blank is None:
        raise UserError(
            f"{speech_model.recipe.name} is no CTC network: its transcripts cannot be ranked; run "
            "validate.py without --pretrain_ckpt"
        )
    dataset = ManifestDataset(utterances, speech_model.featurizer, tokenizer, log=None)
    issues = []
    for prediction in recognise(
        speech_model,
        CTCDecoder(Forward(speech_model), GreedyDecoder(tokenizer)),
        dataset,
        batch_size,
        workers,
        "scoring",
    ):
        reference = dataset.texts[prediction.index]
        labels = tokenizer.encode(reference)
        loss = ctc_loss(prediction.log_probs, labels, tokenizer.ctc_blank)
        issues.append(
            LabelIssue(
                prediction.id,
                utterances[prediction.index].audio,
                loss / max(len(labels), 1),
                100 * word_errors(reference, prediction.text, tokenizer.words).rate,
                reference,
                prediction.text,
            )
        )
    return sorted(issues, key=lambda issue: (-issue.loss, issue.id))


def ctc_loss(log_probs: np.ndarray, labels: Sequence[int], blank: int) -> float:
    """Compute the CTC loss -log p(labels).

    The forward algorithm of Graves et al. 2006, "Connectionist Temporal Classification", section
    4.1: over the labels with a blank before, between and after them, a path stays, goes to the
    next, or jumps over a blank between two labels that differ.

    Args:
        log_probs: (T, C) natural logarithms.
        labels: Label indices, without blanks.
        blank: Index of the blank.

    Returns:
        Nats; infinite where the labels do not fit into T frames.
    """
    extended = np.full(2 * len(labels) + 1, blank)
    extended[1::2] = labels
    jumps = np.zeros(len(extended), bool)
    jumps[2:] = (extended[2:] != blank) & (extended[2:] != extended[:-2])
    emitted = np.asarray(log_probs, np.float64)[:, extended]
    # Two cells of probability 0 before the first.
    alpha = np.full(len(extended) + 2, -np.inf)
    alpha[2:4] = emitted[0, :2]
    for frame in emitted[1:]:
        reached = np.logaddexp(alpha[2:], alpha[1:-1])
        reached = np.logaddexp(reached, np.where(jumps, alpha[:-2], -np.inf))
        alpha[2:] = reached + frame
    ends = alpha[-2:] if len(labels) else alpha[-1:]
    return -float(np.logaddexp.reduce(ends))


def threshold(losses: Sequence[float]) -> float:
    """Return the loss above which an utterance is probably mislabelled, in nats per character.

    It is the median plus six times the median absolute deviation (MAD). Six MAD are four standard
    deviations of a normal distribution, which one in 40 000 exceeds; unlike mean and deviation,
    median and MAD hardly depend on the mislabelled while these are a minority.
    """
    values = np.asarray(losses)
    median = np.median(values)
    return float(median + DEVIATIONS * np.median(np.abs(values - median)))


def summary(issues: Sequence[LabelIssue]) -> str:
    """Format in one line how many utterances are above the threshold."""
    losses = np.array([issue.loss for issue in issues])
    limit = threshold(losses)
    return (
        f"{counted(len(losses), 'utterance')}: median {np.median(losses):.2f} nats per character, "
        f"{(losses > limit).sum()} above {limit:.2f} (median + {DEVIATIONS} MAD)"
    )


def hints(reference: str, hypothesis: str) -> list[str]:
    """Describe what may be wrong: texts with nothing in common, or of which one is cut.

    Missing words are counted from the outermost words that agree (characters, in texts of one
    word), so that it does not matter which words between them are confused.

    Args:
        reference: The transcript.
        hypothesis: What was recognised.

    Returns:
        Remarks; empty where nothing stands out.
    """
    if not hypothesis:
        return ["nothing was recognised: no speech in the recording?"]
    unit, min_missing = "word", MISSING_WORDS
    expected, recognised = reference.split(), hypothesis.split()
    if len(expected) == len(recognised) == 1:
        unit, min_missing = "character", MISSING_CHARACTERS
        expected, recognised = list(reference), list(hypothesis)
    pairs = alignment(expected, recognised)
    same = [position for position, (one, other) in enumerate(pairs) if one == other]
    if len(same) <= 0.2 * min(len(expected), len(recognised)):
        shorter, longer = sorted((len(reference), len(hypothesis)))
        unlike = character_errors(reference, hypothesis).errors >= 0.6 * longer
        if unlike and shorter > MIN_CHARACTERS:
            return [f"hardly a {unit} in common: transcript of another recording?"]
        return []
    lines = []
    for end, verb, side, outside in (
        ("first", "begins", "after", pairs[: same[0]]),
        ("last", "ends", "before", pairs[same[-1] + 1 :]),
    ):
        extra = sum(one is None for one, _ in outside) - sum(other is None for _, other in outside)
        if extra >= min_missing:
            lines.append(f"the reference {verb} {extra} {unit}s {side} the hypothesis does")
        if -extra >= min_missing:
            lines.append(f"the hypothesis lacks the {end} {-extra} {unit}s: recording cut?")
    return lines


def write_label_issues(path: str | Path, issues: Sequence[LabelIssue]) -> None:
    """Write ranked utterances as CSV with a header.

    Args:
        path: File to write.
        issues: The utterances, in the order of the rows.

    Raises:
        UserError: The file cannot be written.
    """
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(["id", "audio", "loss_per_character", "wer", "reference", "hypothesis"])
    for issue in issues:
        figures = f"{issue.loss:.4f}", f"{issue.wer:.2f}"
        writer.writerow([issue.id, issue.audio, *figures, issue.reference, issue.hypothesis])
    write_text(path, text.getvalue())
