"""Calibration of confidences: scikit-learn's figures, by hand, and through the commands."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from common import cli
from common.decoding.confidence import ConfidenceMap, calibration_file, read_calibration
from common.decoding.word_alignment import Word
from common.evaluation.calibration import (
    calibration_error,
    cross_validated,
    fit,
    reliability,
    word_confidences,
)
from common.evaluation.error_rates import EditCounts, alignment
from common.evaluation.pictures import reliability_diagram, standalone
from common.evaluation.scoring import ScoredUtterance
from common.utils.errors import UserError
from deepspeech2.src.recipe import RECIPE

PROMPTS = Path(__file__).resolve().parents[1] / "data" / "telephone_prompts"


def sigmoid(values: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-values))


def test_the_map_that_changes_nothing_and_one_by_hand():
    values = np.array([0.0, 0.2, 0.9, 1.0])
    np.testing.assert_allclose(ConfidenceMap()(values), values, atol=1e-5)
    # logit(0.9) = log 9; half of it is log 3, which is 3 / 4.
    assert ConfidenceMap(0.5)(np.array([0.9])) == pytest.approx([0.75])
    assert ConfidenceMap(1.0, np.log(4)).word(Word("A", 1, 2, 0.2)) == Word(
        "A", 1, 2, pytest.approx(0.5)
    )


def test_a_fit_finds_the_map_that_the_words_were_drawn_by():
    rng = np.random.default_rng(0)
    logits = rng.normal(2, 2, 20_000)
    correct = rng.random(len(logits)) < sigmoid(0.5 * logits - 0.3)
    found = fit(sigmoid(logits), correct)
    # scikit-learn 1.9.1, LogisticRegression(C=1e12, tol=1e-10) of the logits and `correct`.
    assert (found.scale, found.offset) == pytest.approx((0.50095, -0.29423), abs=1e-3)
    raw = calibration_error(reliability(sigmoid(logits), correct))
    assert raw > 0.1
    assert calibration_error(reliability(cross_validated(sigmoid(logits), correct), correct)) < 0.02


def test_a_fit_to_words_that_are_all_right_stays_finite():
    found = fit(np.array([0.9, 0.99, 1.0]), np.ones(3, bool))
    assert 0 < found.scale < 5 and 0 <= found.offset < 5


def test_reliability_and_its_error_by_hand():
    confidences = np.array([0.95, 0.95, 1.0, 0.55, 0.0])
    bins = reliability(confidences, np.array([True, True, False, True, False]))
    assert [each.words for each in bins] == [1, 0, 0, 0, 0, 1, 0, 0, 0, 3]
    assert (bins[9].confidence, bins[9].correct) == pytest.approx((2.9 / 3, 2 / 3))
    assert calibration_error(bins) == pytest.approx((3 * 0.3 + 0.45 + 0) / 5)
    assert calibration_error(reliability(np.zeros(0), np.zeros(0, bool))) == 0


def test_words_that_were_inserted_or_substituted_are_wrong():
    reference, hypothesis = "A B C D".split(), "A X C E D".split()  # noqa: SIM905
    words = [Word(word, 0, 1, number / 10) for number, word in enumerate(hypothesis)]
    utterance = ScoredUtterance(
        "a",
        " ".join(reference),
        " ".join(hypothesis),
        EditCounts(),
        EditCounts(),
        [],
        1.0,
        [],
        np.zeros(0),
        alignment(reference, hypothesis),
        words,
    )
    confidences, correct = word_confidences([utterance])
    assert confidences.tolist() == [0.0, 0.1, 0.2, 0.3, 0.4]
    assert correct.tolist() == [True, False, True, False, True]


def test_a_diagram_has_its_points_where_they_belong():
    bins = reliability(np.array([0.25, 0.75, 0.75]), np.array([False, True, False]))
    svg = reliability_diagram(bins)
    points = [
        tuple(map(float, part.split('"')[0].replace(' cy="', " ").split()))
        for part in svg.replace('" cy="', " ").split('cx="')[1:]
    ]
    (x0, y0), (x1, y1) = points
    width = (x1 - x0) / 0.5
    assert y0 - y1 == pytest.approx(0.5 * width)
    assert standalone(svg, "a").startswith("<svg") and "<style>" in standalone(svg, "a")


@pytest.mark.parametrize(
    ("model", "file"),
    [
        ("a/best.ckpt", "best"),
        ("a/best.onnx", "best"),
        ("a/best.mindir", "best"),
        ("a/best.json", "best"),
        ("a/best.onnx.json", "best"),
        ("a/v1.2.ckpt", "v1.2"),
    ],
)
def test_a_calibration_lies_beside_all_files_of_a_network(model, file):
    assert calibration_file(model) == Path("a", f"{file}.calibration.json")


@pytest.mark.parametrize(
    "content",
    ["", "[]", '{"scale": 1}', '{"scale": -1, "offset": 0}', '{"scale": 1, "offset": "x"}'],
)
def test_a_damaged_calibration_is_refused(tmp_path, content):
    (tmp_path / "a.calibration.json").write_text(content)
    with pytest.raises(UserError, match=r"a\.calibration\.json: not a calibration"):
        read_calibration(tmp_path / "a.onnx")
    assert read_calibration(tmp_path / "b.onnx") is None


def test_the_command_writes_a_calibration_that_transcribe_uses(tmp_path, capsys):
    model = tmp_path / "an4.onnx"
    shutil.copy(RECIPE.pretrained.with_suffix(".onnx"), model)
    lines = (PROMPTS / "test.jsonl").read_text().splitlines()[:8]
    manifest = tmp_path / "few.jsonl"
    records = [json.loads(line) for line in lines]
    for record in records:
        record["audio"] = str(PROMPTS / record["audio"])
    manifest.write_text("".join(f"{json.dumps(record)}\n" for record in records))
    recording = records[1]["audio"]
    options = ["--pretrain_ckpt", str(model)]

    def confidence() -> float:
        assert cli.transcribe(RECIPE, [recording, *options, "--words"]) == 0
        return float(capsys.readouterr().out.splitlines()[0].split()[2])

    raw = confidence()
    plot = tmp_path / "plot.svg"
    given = [*options, "--set", f"test_manifest={manifest}"]
    cli.calibrate(RECIPE, [*given, "--plot", str(plot)])
    captured = capsys.readouterr()
    assert "tell little of confidences" in captured.err
    assert plot.read_text().count("<rect") > 5
    found = read_calibration(model)
    assert f"scale {found.scale:.4f}, offset {found.offset:.4f}" in captured.out
    expected = found(np.array([raw]))[0]
    assert abs(expected - raw) > 0.02
    assert confidence() == pytest.approx(expected, abs=2e-3)
    cli.calibrate(RECIPE, [*given, "--measure"])
    assert "calibrated: " in capsys.readouterr().out
    with pytest.raises(UserError, match="give one of the two"):
        cli.calibrate(RECIPE, [*given, "--measure", "--output", "a.json"])
