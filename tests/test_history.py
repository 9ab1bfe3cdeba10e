"""The figures of a run: a CSV that a resumed run continues, a picture with something in it."""

from __future__ import annotations

import csv
import logging
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from matplotlib import image
from matplotlib.axes import Axes
from synthetic_corpus import chdir

from common.model.checkpoint import CheckpointKeeper
from common.training import figures
from common.training.metrics_log import EpochMetrics, History

FIRST = EpochMetrics(
    epoch=1.0,
    step=5,
    minutes=0.5,
    learning_rate=3e-4,
    train_loss=12.5,
    val_wer=100.0,
    val_cer=71.25,
    blank_share=88.5,
    speech_per_second=20.0,
    data_wait=1.5,
    skipped=0,
)
SECOND = replace(FIRST, epoch=1.5, step=8, train_loss=7.25, val_wer=50.0)
NO_VALIDATION = replace(FIRST, epoch=2.0, step=10, val_wer=None, val_cer=None, blank_share=None)
MANY = [replace(FIRST, epoch=float(number)) for number in range(1, 61)]


def test_the_csv_holds_a_row_for_each_evaluation(tmp_path):
    history = History(tmp_path / "metrics.csv")
    history.add(FIRST)
    history.add(NO_VALIDATION)
    rows = list(csv.DictReader((tmp_path / "metrics.csv").open()))
    assert [row["step"] for row in rows] == ["5", "10"]
    assert rows[0]["val_cer"] == "71.25"
    assert rows[1]["val_wer"] == ""
    assert float(rows[0]["learning_rate"]) == 3e-4
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.csv"]


def test_a_resumed_run_keeps_the_rows_up_to_its_checkpoint(tmp_path):
    path = tmp_path / "metrics.csv"
    history = History(path)
    for row in (FIRST, SECOND, NO_VALIDATION):
        history.add(row)
    assert History(path, resumed_step=8).rows == [FIRST, SECOND]
    assert History(path, resumed_step=10).rows == [FIRST, SECOND, NO_VALIDATION]
    assert History(path).rows == []  # a new run begins a new file
    assert History(tmp_path / "elsewhere.csv", resumed_step=8).rows == []


def test_one_epoch_draws_the_loss_of_its_steps(tmp_path, monkeypatch):
    drawn = []
    plot = Axes.plot

    def kept(axes, *values, **options):
        drawn.append((options["label"], list(values[0]), list(values[1])))
        return plot(axes, *values, **options)

    monkeypatch.setattr(Axes, "plot", kept)
    history = History(tmp_path / "metrics.csv")
    for step, loss in enumerate((140.0, math.inf, 90.0, 80.0, 70.0), 1):
        history.add_step(step / 5, loss)
    history.add(FIRST)
    history.draw(tmp_path / "curves.png", "title")
    assert drawn[0] == ("of each step", [0.2, 0.6, 0.8, 1.0], [140.0, 90.0, 80.0, 70.0])
    drawn.clear()
    history.add_step(1.2, 60.0)
    history.add(SECOND)
    history.draw(tmp_path / "curves.png", "title")
    assert [label for label, *_ in drawn if label == "of each step"] == []


@pytest.mark.parametrize("rows", [[FIRST], [FIRST, SECOND], [NO_VALIDATION], MANY])
def test_the_picture_has_three_panels_with_ink_in_each(tmp_path, rows):
    history = History(tmp_path / "metrics.csv")
    for row in rows:
        history.add(row)
    history.draw(tmp_path / "curves.png", "title")
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")
    pixels = image.imread(tmp_path / "curves.png")[:, :, :3]
    assert pixels.shape[1] > 1000
    for third in np.array_split(pixels, 3, axis=1):
        assert (third < 0.5).any()
    coloured = np.ptp(pixels, axis=2) > 0.3  # lines and points, not black text on white
    assert all(third.any() for third in np.array_split(coloured, 3, axis=1)[::2])
    assert np.array_split(coloured, 3, axis=1)[1].any() == (rows[0].val_wer is not None)


# ---- runs that share a folder


NAMES = ("metrics.csv", "curves.png", "emissions.npz")
FILES = [Path(name) for name in NAMES]
LOG = logging.getLogger("test_history")


def keeper(folder: str, prefix: str = "x") -> CheckpointKeeper:
    Path(folder).mkdir(exist_ok=True)
    return CheckpointKeeper(folder, prefix, 1)


def evaluated(run: CheckpointKeeper, name: str) -> None:
    """Write the figures of a run into the current folder."""
    history = History("metrics.csv")
    history.add(FIRST)
    history.draw("curves.png", name, {figures.OWNER: str(run.last)})
    Path("emissions.npz").write_text(name)


def here() -> dict[str, bytes]:
    return {name: Path(name).read_bytes() for name in NAMES if Path(name).is_file()}


def test_runs_with_checkpoints_of_their_own_take_turns_in_a_folder(tmp_path):
    with chdir(tmp_path):
        first, second, third = keeper("a"), keeper("b"), keeper("b", "ü")
        evaluated(first, "first")
        firsts = here()
        figures.make_room(FILES, Path("curves.png"), first, LOG)
        assert here() == firsts  # they are its own
        figures.make_room(FILES, Path("curves.png"), second, LOG)
        assert here() == {} and {p.name for p in Path("a/x-figures").iterdir()} == {*NAMES}
        evaluated(second, "second")
        seconds = here()
        figures.make_room(FILES, Path("curves.png"), third, LOG)
        evaluated(third, "third")

        for run, expected in ((first, firsts), (second, seconds), (first, firsts)):
            figures.make_room(FILES, Path("curves.png"), run, LOG)
            figures.take_back(FILES, run)
            assert here() == expected
        assert [path.name for path in figures.stored(FILES, third)] == [*NAMES]
        assert (Path("b/ü-figures") / "emissions.npz").read_text() == "third"


def test_figures_of_unknown_runs_stay_where_they_are(tmp_path):
    with chdir(tmp_path):
        run = keeper("b")
        evaluated(CheckpointKeeper("gone", "x", 1), "first")
        before = here()
        figures.make_room(FILES, Path("curves.png"), run, LOG)
        assert here() == before
        for content in (b"", b"no picture"):
            Path("curves.png").write_bytes(content)
            assert figures.owner(Path("curves.png")) is None
        history = History("metrics.csv")
        history.add(FIRST)
        history.draw("curves.png", "of an earlier version")
        assert figures.owner(Path("curves.png")) is None
        assert figures.owner(Path("missing.png")) is None
