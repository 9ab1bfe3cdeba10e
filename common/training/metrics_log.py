"""The metrics of a run over time: a CSV file for programs, a plot for people."""

from __future__ import annotations

import csv
import io
import math
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from common.utils.errors import UserError
from common.utils.files import replacing, write_text


@dataclass(frozen=True)
class EpochMetrics:
    """Metrics of one evaluation during training.

    Attributes:
        epoch: Epochs done, with the share of the current one.
        step: Optimizer steps done.
        minutes: Minutes spent training.
        learning_rate: Of the last step.
        train_loss: Mean per utterance since the last evaluation, in nats.
        val_wer: Word error rate in percent; None without a validation set.
        val_cer: Character error rate in percent; None without a validation set.
        blank_share: Frames whose best label is the blank, in percent; None without a validation
            set.
        speech_per_second: Seconds of speech trained on per second.
        data_wait: Time spent waiting for data, in percent.
        skipped: Non-finite steps so far.
    """

    epoch: float
    step: int
    minutes: float
    learning_rate: float
    train_loss: float
    val_wer: float | None
    val_cer: float | None
    blank_share: float | None
    speech_per_second: float
    data_wait: float
    skipped: int


class History:
    """The rows of `metrics.csv`, kept in step with the checkpoint that training resumes from."""

    def __init__(self, path: str | Path, resumed_step: int = 0):
        self.path = Path(path)
        self.rows: list[EpochMetrics] = []
        self._steps: list[tuple[float, float]] = []  # (epochs done, loss), of the first epoch
        if resumed_step and self.path.is_file():
            self.rows = [row for row in _read(self.path) if row.step <= resumed_step]

    def add(self, metrics: EpochMetrics) -> None:
        """Add a row and write the file.

        Args:
            metrics: The row.

        Raises:
            UserError: The file cannot be written.
        """
        self.rows.append(metrics)
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, [entry.name for entry in fields(EpochMetrics)])
        writer.writeheader()
        writer.writerows(asdict(row) for row in self.rows)
        write_text(self.path, text.getvalue())

    def add_step(self, epoch: float, loss: float) -> None:
        """Keep the loss of a step, to be drawn as long as there is one epoch or less of them.

        Args:
            epoch: Epochs done, with the share of the current one.
            loss: Mean per utterance, in nats.
        """
        if epoch <= 1 and math.isfinite(loss):
            self._steps.append((epoch, loss))

    def draw(self, path: str | Path, title: str, metadata: dict[str, str] | None = None) -> None:
        """Draw loss, error rates with the blank share, and learning rate over the epochs.

        Within the first epoch, the loss of each step as well: one evaluation gives no curve.

        Args:
            path: PNG file to write.
            title: Line above the plots.
            metadata: Texts to store in the file, by their keys.

        Raises:
            UserError: The file cannot be written.
        """
        import matplotlib

        matplotlib.use("Agg")
        from matplotlib import pyplot

        epochs = [row.epoch for row in self.rows]
        marker = "o" if len(self.rows) < 40 else None
        size = 8 if len(self.rows) == 1 else 3
        figure, axes = pyplot.subplots(1, 3, figsize=(15, 4.2), layout="constrained")
        figure.suptitle(title)

        def plot(axis, key: str, label: str, colour: str) -> None:
            values = [getattr(row, key) for row in self.rows]
            axis.plot(epochs, values, color=colour, label=label, marker=marker, markersize=size)

        if self._steps and epochs[-1] <= 1:
            dots = "." if len(self._steps) < 40 else None
            axes[0].plot(
                *zip(*self._steps), color="lightsteelblue", label="of each step", marker=dots
            )
        plot(axes[0], "train_loss", "mean since the last evaluation", "tab:blue")
        axes[0].legend()
        axes[0].set(ylabel="loss per utterance [nats]", title="loss")
        axes[0].set_ylim(bottom=0)
        if any(row.val_wer is not None for row in self.rows):
            plot(axes[1], "val_wer", "WER", "tab:red")
            plot(axes[1], "val_cer", "CER", "tab:orange")
            plot(axes[1], "blank_share", "blank frames", "lightgray")
            axes[1].legend()
            highest = max(row.val_wer or 0 for row in self.rows)
            axes[1].set_ylim(0, min(max(highest, 100), 120) + 2)
        else:
            axes[1].text(0.5, 0.5, "no validation set", ha="center", transform=axes[1].transAxes)
        axes[1].set(ylabel="percent", title="on the validation set")
        plot(axes[2], "learning_rate", "learning rate", "tab:green")
        axes[2].set(title="learning rate")
        axes[2].set_ylim(bottom=0)
        for axis in axes:
            axis.set_xlabel("epoch")
            axis.set_xlim(0, 1.05 * epochs[-1])
            axis.grid(alpha=0.3)
        try:
            with replacing(path) as partial:
                figure.savefig(partial, dpi=110, metadata=metadata)
        finally:
            pyplot.close(figure)


def _read(path: Path) -> list[EpochMetrics]:
    try:
        return _rows(path)
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise UserError(
            f"{path}: not the figures of a training run ({error}); move it away, or the one of the "
            "run back"
        ) from error


def _rows(path: Path) -> list[EpochMetrics]:
    integers = {entry.name for entry in fields(EpochMetrics) if entry.type == "int"}

    def value(name: str, text: str) -> Any:
        if text == "":
            return None
        return int(text) if name in integers else float(text)

    with path.open(newline="", encoding="utf-8") as file:
        return [
            EpochMetrics(**{name: value(name, text) for name, text in row.items()})
            for row in csv.DictReader(file)
        ]
