"""An animation of what a network emits for one validation utterance, over the training.

CTC networks answer blanks alone before they spell (Graves 2012, "Supervised Sequence Labelling with
Recurrent Neural Networks", chapter 7), which looks like a run that has failed. The animation shows
the letters rise out of the blanks: a row for each label, a column for each of the network's output
frames, the brighter the likelier.
"""

from __future__ import annotations

import functools
import math
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from common.audio.features import Featurizer
from common.data.dataset import Dataset
from common.decoding.decoders import GreedyDecoder
from common.text.tokenizer import Tokenizer
from common.training.emission_plots import EmissionFrame, EmissionPlotter, Gif, as_image
from common.training.metrics_log import EpochMetrics
from common.utils.errors import UserError
from common.utils.files import replacing

MAX_KEPT = 256  # so many are all kept; of more, the blank and those that reach ...
MIN_KEPT_PROBABILITY = 0.01  # ... this probability at that evaluation
MAX_ALL_SHOWN = 32  # so many all have a row; of more, the blank and those that ever reach ...
MIN_SHOWN_PROBABILITY = 0.05  # ... this probability, ...
MAX_SHOWN = 64  # ... the likeliest so many of them
TOTAL_SECONDS = 10.0  # of the animation but its last frame
MAX_FRAME_SECONDS = 0.5  # of a frame
LAST_FRAME_SECONDS = 3.0
STILLS = 5  # evaluations in the still picture


@dataclass(frozen=True)
class Frame:
    """What one evaluation found.

    Attributes:
        epoch: Epochs done, with the share of the current one.
        step: Optimizer steps done.
        wer: Word error rate of the whole validation set in percent.
        blanks: Its frames whose best label is the blank, in percent.
        text: Of the utterance that is shown, decoded greedily.
        columns: (K,) the labels that are kept of it.
        log_probs: (T', K) float16 log-probabilities of these labels.
    """

    epoch: float
    step: int
    wer: float
    blanks: float
    text: str
    columns: np.ndarray
    log_probs: np.ndarray


class EmissionAnimation:
    """Frames in `<stem>.npz`, an animation in `<stem>.gif`, and some frames in `<stem>.png`.

    The frames are kept in step with the checkpoint that training resumes from. The utterance is the
    one of median length in the validation set.

    Attributes:
        index: Index of the utterance in the validation set.
        frames: The frames so far.
    """

    def __init__(
        self,
        stem: str | Path,
        dataset: Dataset | None,
        featurizer: Featurizer,
        tokenizer: Tokenizer,
        resumed_step: int = 0,
    ):
        """Begin an animation, or go on with that of a resumed run.

        Args:
            stem: Path of the files, without their ending.
            dataset: The validation set; None: there is no animation.
            featurizer: Computes the features that are shown.
            tokenizer: The labels.
            resumed_step: Optimizer steps done; frames of later steps are dropped. 0: a new run.

        Raises:
            UserError: The frames of a resumed run cannot be read.
        """
        self.npz, self.gif, self.png = (Path(f"{stem}.{end}") for end in ("npz", "gif", "png"))
        self.dataset, self.featurizer, self.tokenizer = dataset, featurizer, tokenizer
        self.frames: list[Frame] = []
        self._log_probs: np.ndarray | None = None  # (T', C), as the network gave them last
        self._likeliest = np.zeros(len(tokenizer))  # (C,) each label's highest probability so far
        self._rows: list[int] = []  # the labels that have a row
        self.index = 0
        self.duration = 0.0  # seconds
        if not dataset:
            return
        self.index = int(np.argsort(dataset.frames, kind="stable")[len(dataset) // 2])
        self.id, self.reference = dataset.ids[self.index], dataset.texts[self.index]
        self.duration = float(dataset.durations[self.index])
        if resumed_step and self.npz.is_file():
            for frame in self._read():
                if frame.step <= resumed_step:
                    self._keep(frame)

    @property
    def files(self) -> list[Path]:
        """The files that have been written."""
        return [self.gif, self.png, self.npz] if self.frames else []

    def watch(self, prediction: Any) -> None:
        """Keep the log-probabilities of a prediction if it is of the animation's utterance.

        Args:
            prediction: A `Prediction`; its arrays are copied.
        """
        if prediction.index == self.index and prediction.log_probs is not None:
            self._log_probs = prediction.log_probs.copy()

    def add(self, metrics: EpochMetrics) -> None:
        """Add a frame with the log-probabilities that were kept, if any, and write the frames.

        Args:
            metrics: Of the evaluation.

        Raises:
            UserError: The file cannot be written.
        """
        if self._log_probs is None:
            return
        log_probs, self._log_probs = self._log_probs, None
        columns = np.arange(len(self.tokenizer))
        if len(columns) > MAX_KEPT:
            likely = log_probs.max(axis=0) >= np.log(MIN_KEPT_PROBABILITY)
            columns = columns[likely | (columns == self.tokenizer.blank)]
        decode = GreedyDecoder(self.tokenizer)
        self._keep(
            Frame(
                metrics.epoch,
                metrics.step,
                math.nan if metrics.val_wer is None else metrics.val_wer,
                math.nan if metrics.blank_share is None else metrics.blank_share,
                decode(log_probs[:, None], np.array([len(log_probs)]))[0],
                columns,
                log_probs[:, columns].clip(np.finfo(np.float16).min).astype(np.float16),
            )
        )
        self._write()

    def draw(self) -> None:
        """Write the animation and the picture.

        Raises:
            UserError: A file cannot be written.
        """
        if not self.frames:
            return
        if (rows := self._labels_shown()) != self._rows:  # at first; where labels are many, again
            self._rows, self._drawn = rows, Gif()
            self._painter = EmissionPlotter(
                [self.tokenizer.labels[row] for row in rows],
                len(self.frames[0].log_probs),
                self.duration,
                self._features,
                self.reference,
            )
        for frame in self.frames[len(self._drawn) :]:
            self._drawn.append(self._painter.picture([self._shot(frame)]))
        with replacing(self.gif, durable=False) as partial:
            partial.write_bytes(
                self._drawn.encoded(TOTAL_SECONDS, MAX_FRAME_SECONDS, LAST_FRAME_SECONDS)
            )
        # The early ones are closer together: there letters come out.
        chosen = np.unique(np.geomspace(1, len(self.frames), STILLS).round().astype(int)) - 1
        still = self._painter.picture([self._shot(self.frames[number]) for number in chosen])
        with replacing(self.png, durable=False) as partial:
            as_image(still).save(partial)

    def _shot(self, frame: Frame) -> EmissionFrame:
        column = {label: number for number, label in enumerate(frame.columns.tolist())}
        probabilities = np.zeros((len(self._rows), len(frame.log_probs)))
        for number, label in enumerate(self._rows):
            if label in column:
                probabilities[number] = np.exp(frame.log_probs[:, column[label]].astype(float))
        title = f"validation WER {frame.wer:.1f} %, blanks {frame.blanks:.0f} %"
        return EmissionFrame(f"epoch {frame.epoch:g}: {title}", probabilities, frame.text)

    def _labels_shown(self) -> list[int]:
        """List the labels with a row, the blank below the others."""
        labels, blank = np.arange(len(self.tokenizer)), self.tokenizer.blank
        if len(labels) > MAX_ALL_SHOWN:
            labels = np.flatnonzero(self._likeliest >= MIN_SHOWN_PROBABILITY)
            labels = labels[np.argsort(-self._likeliest[labels], kind="stable")[:MAX_SHOWN]]
        return [*sorted(set(labels.tolist()) - {blank}), blank]

    @functools.cached_property
    def _features(self) -> np.ndarray:
        """(F, T) as the network reads them."""
        assert self.dataset is not None  # there are frames
        example = next(iter(self.dataset.read([self.index])))
        if example.features is not None:
            return example.features
        return self.featurizer(example.samples(self.featurizer))

    def _keep(self, frame: Frame) -> None:
        self.frames.append(frame)
        highest = np.exp(frame.log_probs.max(axis=0).astype(float))
        np.maximum.at(self._likeliest, frame.columns, highest)

    def _write(self) -> None:
        """Write one array (N,) for each of `_PER_FRAME`, and the log-probabilities (N, T', K).

        They are -inf where a label was not kept.
        """
        columns = functools.reduce(np.union1d, (frame.columns for frame in self.frames))
        shape = (len(self.frames), len(self.frames[0].log_probs), len(columns))
        log_probs = np.full(shape, -np.inf, np.float16)
        for number, frame in enumerate(self.frames):
            log_probs[number][:, np.searchsorted(columns, frame.columns)] = frame.log_probs
        with replacing(self.npz) as partial:
            np.savez(
                partial,
                id=self.id,
                reference=self.reference,
                seconds=self.duration,
                labels=[self.tokenizer.labels[column] for column in columns],
                columns=columns,
                log_probs=log_probs,
                **{key: [getattr(frame, key) for frame in self.frames] for key in _PER_FRAME},
            )

    def _read(self) -> list[Frame]:
        """Read the frames in the file; none where they are of another utterance."""
        try:
            with np.load(self.npz) as file:
                if (file["id"].item(), file["reference"].item()) != (self.id, self.reference):
                    return []
                columns, log_probs = file["columns"], file["log_probs"]
                values = {key: file[key].tolist() for key in _PER_FRAME}
                if any(len(column) != len(log_probs) for column in values.values()):
                    raise ValueError("arrays of different lengths")
                return [
                    Frame(
                        **{key: values[key][number] for key in _PER_FRAME},
                        columns=columns,
                        log_probs=log_probs[number],
                    )
                    for number in range(len(log_probs))
                ]
        except (OSError, EOFError, KeyError, ValueError, zipfile.BadZipFile) as error:
            raise UserError(
                f"{self.npz}: not the frames of a training run ({error}); move it away, or the one "
                "of the run back"
            ) from error


_PER_FRAME = ("epoch", "step", "wer", "blanks", "text")  # as in `Frame`
