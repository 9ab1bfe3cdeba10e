"""The figures of a run: a CSV that a resumed run continues, a picture with something in it."""

from __future__ import annotations

import csv
from dataclasses import replace

import numpy as np
import pytest
from matplotlib import image

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
    for figures in (FIRST, SECOND, NO_VALIDATION):
        history.add(figures)
    assert History(path, resumed_step=8).rows == [FIRST, SECOND]
    assert History(path, resumed_step=10).rows == [FIRST, SECOND, NO_VALIDATION]
    assert History(path).rows == []  # a new run begins a new file
    assert History(tmp_path / "elsewhere.csv", resumed_step=8).rows == []


@pytest.mark.parametrize("rows", [[FIRST], [FIRST, SECOND], [NO_VALIDATION], MANY])
def test_the_picture_has_three_panels_with_ink_in_each(tmp_path, rows):
    history = History(tmp_path / "metrics.csv")
    for figures in rows:
        history.add(figures)
    history.draw(tmp_path / "curves.png", "title")
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")
    pixels = image.imread(tmp_path / "curves.png")[:, :, :3]
    assert pixels.shape[1] > 1000
    for third in np.array_split(pixels, 3, axis=1):
        assert (third < 0.5).any()
    coloured = np.ptp(pixels, axis=2) > 0.3  # lines and points, not black text on white
    assert all(third.any() for third in np.array_split(coloured, 3, axis=1)[::2])
    assert np.array_split(coloured, 3, axis=1)[1].any() == (rows[0].val_wer is not None)
