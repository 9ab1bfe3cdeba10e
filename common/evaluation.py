"""Scoring: the one place where hypotheses meet references."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import astuple, dataclass, field
from pathlib import Path

import numpy as np
from tqdm import tqdm

from common.batching import PlannedBatch, plan_epoch, split, static_shapes
from common.beam import Hypothesis
from common.dataset import batches
from common.decoding import Decoder, emission_frames
from common.errors import UserError
from common.memory import forecast_forward
from common.metrics import EditCounts, alignment, character_errors, word_errors
from common.recogniser import Forward, Recogniser
from common.sources import Source

MOST_FRAMES = 30_000  # of a batch: five minutes of speech at 10 ms


@dataclass(frozen=True)
class Recognised:
    """One utterance after the network and the decoder."""

    index: int
    id: str
    hypotheses: list[Hypothesis]  # best first
    log_probs: np.ndarray  # (T', C), without padding

    @property
    def text(self) -> str:
        return self.hypotheses[0].text


@dataclass(frozen=True)
class Scored:
    id: str
    reference: str
    hypothesis: str
    words: EditCounts
    characters: EditCounts
    hypotheses: list[Hypothesis]  # the best one and its alternatives
    duration: float  # s
    letters: str  # what the best label of each frame spells, spaces as they come ...
    times: np.ndarray  # ... and when each letter begins, s
    pairs: list[tuple[str | None, str | None]]  # words of reference and hypothesis side by side

    def lines(self) -> list[str]:
        alternatives = [f"{each.score:9.3f} {each.text}" for each in self.hypotheses]
        return [
            f"Ref: {self.reference}",
            f"Hyp: {self.hypothesis}",
            *(alternatives if len(alternatives) > 1 else []),
            f"WER: {100 * self.words.rate:.2f}  CER: {100 * self.characters.rate:.2f}  {self.id}",
        ]


@dataclass
class Evaluation:
    """Corpus-level figures: errors of all utterances over the length of all references."""

    utterances: list[Scored] = field(default_factory=list)
    words: EditCounts = EditCounts()
    characters: EditCounts = EditCounts()
    blanks: int = 0  # of the network's output frames, those whose best label is the blank
    frames: int = 0

    @property
    def blank_share(self) -> float:
        """Share of frames whose best label is the blank."""
        return self.blanks / max(self.frames, 1)

    @property
    def wer(self) -> float:
        """Word error rate in percent."""
        return 100 * self.words.rate

    @property
    def cer(self) -> float:
        """Character error rate in percent."""
        return 100 * self.characters.rate

    def counts(self) -> list[int]:
        """All that the figures are made of, to be summed over the parts of a corpus."""
        return [*astuple(self.words), *astuple(self.characters), self.blanks, self.frames]

    def of_all(self, counts: Sequence[float]) -> Evaluation:
        """The same utterances, and the figures of those whose `counts` these are."""
        counts = [int(count) for count in counts]
        words, characters = EditCounts(*counts[:4]), EditCounts(*counts[4:8])
        return Evaluation(self.utterances, words, characters, *counts[8:])

    def summary(self) -> list[str]:
        return [
            _counts("words", self.words),
            _counts("characters", self.characters),
            f"Test Summary \tAverage WER {self.wer:.3f}\tAverage CER {self.cer:.3f}",
        ]


@dataclass(frozen=True)
class Part:
    """The batches that one of several ranks recognises: whole ones, so that each utterance has the
    neighbours, and to the last bit the result, that it has in one process; every so-many-th, so
    that all parts take about as long. Rank 0 has the one with utterance `watched`."""

    rank: int
    ranks: int
    watched: int = 0

    def of(self, plan: Sequence[PlannedBatch]) -> list[PlannedBatch]:
        having = (n for n, batch in enumerate(plan) if self.watched in batch.indices[: batch.valid])
        return list(plan[(next(having, 0) + self.rank) % self.ranks :: self.ranks])


def recognise(
    recogniser: Recogniser,
    forward: Forward,
    source: Source,
    decoder: Decoder,
    batch_size: int,
    workers: int = 2,
    progress: str | None = None,
    part: Part | None = None,
) -> Iterator[Recognised]:
    """Every utterance of a source once, batched by length, from short to long; of several ranks
    each has its `part`.

    Batches of long recordings are smaller: memory follows their frames, not their number. Raises
    UserError, naming the utterance, for one that the machine's memory cannot take by itself.

    progress: what the progress bar is called; None: no bar.
    """
    forecast = forecast_forward(recogniser)
    for name, frames in zip(source.ids, source.frames.tolist()):
        forecast.check(f"utterance {name}", frames)
    data, shapes = recogniser.config.DataConfig, None
    if recogniser.static:
        count = data.static_shapes
        shapes = static_shapes(source.frames, source.label_counts, count, data.pad_align)
    plan = plan_epoch(
        source.frames, source.label_counts, batch_size=batch_size, shapes=shapes, shuffle=False
    )
    most = min(MOST_FRAMES, forecast.most_frames)
    plan = split(plan, source.frames, most, recogniser.static)
    if part is not None:
        plan = part.of(plan)
    hidden = None if progress else True  # None: where nobody looks at a terminal
    total = sum(batch.valid for batch in plan)
    bar = tqdm(total=total, desc=progress, unit="utt", disable=hidden, leave=False)
    with bar:
        for batch in batches(
            source,
            plan,
            recogniser.featurizer,
            static=recogniser.static,
            pad_align=data.pad_align,
            workers=workers,
        ):
            log_probs, lengths = forward(batch.features, batch.lengths)
            found = decoder.hypotheses(log_probs[:, : batch.valid], lengths[: batch.valid])
            for row, hypotheses in enumerate(found):
                yield Recognised(
                    batch.indices[row], batch.ids[row], hypotheses, log_probs[: lengths[row], row]
                )
            bar.update(batch.valid)


def evaluate(
    recogniser: Recogniser,
    forward: Forward,
    source: Source,
    decoder: Decoder,
    batch_size: int,
    workers: int = 2,
    progress: str | None = "evaluating",
    each: Callable[[Scored], None] | None = None,
    save_output: str | Path = "",
    watch: Callable[[Recognised], None] | None = None,
    part: Part | None = None,
) -> Evaluation:
    """Recognises and scores a source, or a part of it.

    each: called with every utterance as it is scored. watch: before that, with what the network
    gave; its arrays are views that are good until it returns. save_output: a folder that gets each
    utterance's log-probabilities (T', C) as `<id>.npy`.
    """
    folder = _output_folder(save_output)
    result = Evaluation()
    frame_seconds, words = recogniser.frame_seconds, recogniser.vocabulary.words
    scored = {}
    for found in recognise(
        recogniser, forward, source, decoder, batch_size, workers, progress, part
    ):
        if watch is not None:
            watch(found)
        reference = source.texts[found.index]
        path = found.log_probs.argmax(axis=1)
        begins = emission_frames(path, recogniser.vocabulary.blank)
        utterance = Scored(
            found.id,
            reference,
            found.text,
            word_errors(reference, found.text, words),
            character_errors(reference, found.text),
            found.hypotheses,
            float(source.durations[found.index]),
            recogniser.vocabulary.decode(path[begins].tolist()),
            begins * frame_seconds,
            alignment(words(reference), words(found.text)),
        )
        scored[found.index] = utterance
        result.words += utterance.words
        result.characters += utterance.characters
        result.blanks += int((path == recogniser.vocabulary.blank).sum())
        result.frames += len(path)
        if folder is not None:
            _keep(folder / f"{_file_name(found.id)}.npy", found.log_probs)
        if each is not None:
            each(utterance)
    result.utterances = [scored[index] for index in sorted(scored)]
    return result


def _counts(what: str, counts: EditCounts) -> str:
    return (
        f"{what}: {counts.length}, errors {counts.errors} = {counts.substitutions} substitutions "
        f"+ {counts.deletions} deletions + {counts.insertions} insertions"
    )


def _output_folder(save_output: str | Path) -> Path | None:
    if not save_output:
        return None
    folder = Path(save_output)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"save_output {folder}: cannot be made ({error.strerror})") from error
    return folder


def _keep(path: Path, log_probs: np.ndarray) -> None:
    try:
        np.save(path, log_probs)
    except OSError as error:
        raise UserError(f"save_output {path}: cannot be written ({error.strerror})") from error


def _file_name(utterance_id: str) -> str:
    """The id with what file names cannot hold as %XX; other ids have other names."""
    return re.sub(r"[^\w.-]", lambda found: f"%{ord(found[0]):02X}", utterance_id)
