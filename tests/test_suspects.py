"""Suspects: the loss against torch and brute force, and what was planted comes first."""

from __future__ import annotations

import csv
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import jiwer
import numpy as np
import pytest
import soundfile as sf
from synthetic_corpus import trained

from benchmarks import reference
from common import cli
from common.data.manifest import Utterance, read_manifest
from common.data.manifest_writers import write_jsonl
from common.evaluation.mislabel_detection import ctc_loss, hints, rank_label_issues, threshold
from common.model.speech_model import SpeechModel
from common.text.tokenizer import CharacterTokenizer
from common.utils.errors import UserError
from deepspeech2.src.recipe import RECIPE

ROOT = Path(__file__).resolve().parents[1]

# ---- the loss


@pytest.mark.unit
@pytest.mark.parametrize("labels", [[], [1], [0, 0], [0, 1, 0], [1, 1, 3], [0, 1, 3]])
def test_the_loss_sums_over_every_path(labels):
    scores = np.random.default_rng(len(labels)).normal(size=(5, 4))
    log_probs = reference.log_softmax(scores)
    assert ctc_loss(log_probs, labels, blank=2) == pytest.approx(
        reference.ctc_loss(log_probs, labels, 2), abs=1e-9
    )


@pytest.mark.unit
@pytest.mark.parametrize(
    ("frames", "labels"),
    [
        (300, np.random.default_rng(1).integers(0, 28, 90)),
        (80, [3] * 40),  # as tight as can be: a blank between any two
        (40, [3, 3, 4, 4, 4, 5, 3, 3]),
        (1, [7]),
        (50, []),
    ],
)
def test_the_loss_agrees_with_torch(frames, labels):
    torch = pytest.importorskip("torch")
    scores = 3 * np.random.default_rng(frames).normal(size=(frames, 29))
    log_probs = reference.log_softmax(scores).astype(np.float32)
    labels = np.array(labels, int)
    expected = torch.nn.functional.ctc_loss(
        torch.tensor(log_probs.astype(np.float64))[:, None],
        torch.tensor(labels)[None],
        torch.tensor([frames]),
        torch.tensor([len(labels)]),
        blank=28,
        reduction="sum",
    )
    assert ctc_loss(log_probs, labels, 28) == pytest.approx(float(expected), abs=1e-4)


@pytest.mark.unit
def test_labels_that_do_not_fit_have_infinite_loss():
    log_probs = np.full((3, 4), np.log(0.25))
    assert ctc_loss(log_probs, [0, 0], 3) < np.inf
    assert ctc_loss(log_probs, [0, 0, 1], 3) == np.inf


@pytest.mark.unit
def test_a_minority_of_wrong_labels_hardly_moves_the_threshold():
    losses = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0]
    assert threshold(losses) == 4 + 6 * 2  # distances 3 2 1 0 1 2 3
    assert threshold([*losses[:-1], 1e6]) == 4 + 6 * 1.5 + 6 * 0.5


# ---- the hints

SENTENCE = "PLEASE HOLD WHILE I TRY THAT EXTENSION"


@pytest.mark.unit
@pytest.mark.parametrize(
    ("text", "heard", "expected"),
    [
        (SENTENCE, SENTENCE, []),
        (SENTENCE, "PLEASE HOLT WHILE I TRY THE TEXTENSION", []),
        (SENTENCE, "PLEASE HOLD WHILE I TRY THAT", []),  # a word is easily lost
        ("PLEASE HOLD WHILE", SENTENCE, ["the reference ends 4 words before the hypothesis does"]),
        (
            "PLEASE HOLD WHYLE",  # the last word of the text is one that was not understood
            SENTENCE,
            ["the reference ends 4 words before the hypothesis does"],
        ),
        (
            "TRY THAT EXTENSION",
            SENTENCE,
            ["the reference begins 4 words after the hypothesis does"],
        ),
        (
            SENTENCE,
            "PLEASE HOLD WHILE I",
            ["the hypothesis lacks the last 3 words: recording cut?"],
        ),
        (
            SENTENCE,
            "I TRY THAT EXTENSION",
            ["the hypothesis lacks the first 3 words: recording cut?"],
        ),
        (
            SENTENCE,
            "THE NUMBER YOU HAVE DIALED",
            ["hardly a word in common: transcript of another recording?"],
        ),
        (SENTENCE, "PLEESE HOLT WYLE EYE TRAI TAT EXTENTION", []),  # badly heard, not another
        ("W", "D", []),
        (SENTENCE, "", ["nothing was recognised: no speech in the recording?"]),
        (
            "请稍等我正在尝试",
            "请稍等",
            ["the hypothesis lacks the last 5 characters: recording cut?"],
        ),
        (
            "请稍等我正在尝试",
            "您拨打号码不存",
            ["hardly a character in common: transcript of another recording?"],
        ),
    ],
)
def test_hints_describe_what_may_be_wrong(text, heard, expected):
    assert hints(text, heard) == expected


# ---- what was planted


@pytest.fixture(scope="module")
def planted(tmp_path_factory) -> Path:
    """The recordings that the network knows; two texts are swapped, one is cut, a recording is."""
    folder = tmp_path_factory.mktemp("planted")
    shutil.copy(trained() / "checkpoint" / "tiny-best.ckpt", folder / "good.ckpt")
    known = {each.id: each for each in read_manifest(trained() / "train.csv")}

    def change(name: str, **values) -> None:
        known[name] = replace(known[name], **values)

    texts = known["train4"].text, known["train11"].text
    change("train4", text=texts[1])
    change("train11", text=texts[0])
    change("train0", text=known["train0"].text.split()[0])
    samples, rate = sf.read(known["train7"].audio)
    sf.write(folder / "cut.wav", samples[: len(samples) // 2], rate)
    change("train7", audio=folder / "cut.wav")
    write_jsonl(known.values(), folder / "planted.jsonl")
    sf.write(folder / "short.wav", samples[:1000], rate)
    change("train2", audio=folder / "short.wav")
    write_jsonl(known.values(), folder / "worse.jsonl")
    return folder


CHECKPOINT = ["--pretrain_ckpt", "good.ckpt"]
PLANTED = {"train4", "train11", "train0", "train7"}


@pytest.mark.launcher
def test_planted_label_errors_are_ranked_first(planted):
    command = [sys.executable, str(ROOT / "deepspeech2" / "validate.py"), *CHECKPOINT]
    command += ["planted.jsonl", "--limit", "5", "--suspects", "suspects.csv"]
    done = subprocess.run(command, cwd=planted, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    printed = done.stdout.splitlines()
    assert printed[:2] == ["planted.jsonl", "  12 of 12 utterances are good, 0.00 hours"]
    heads = [re.fullmatch(r"(\d)\. (\d+\.\d\d) nats per .*: (\w+)", line) for line in printed]
    heads = [head for head in heads if head]
    assert [head[1] for head in heads] == ["1", "2", "3", "4", "5"]
    assert {head[3] for head in heads[:4]} == PLANTED
    assert float(heads[3][2]) > 10 * float(heads[4][2])
    assert "  Ref: CBB" in printed and "  Hyp: CBB AA" in printed
    found = re.fullmatch(
        r"12 utterances: median (.*) nats per character, (\d) above (.*) \(median \+ 6 MAD\)",
        printed[-1],
    )
    with (planted / "suspects.csv").open(newline="") as file:
        ranked = list(csv.DictReader(file))
    assert [row["id"] for row in ranked[:5]] == [head[3] for head in heads]
    losses = [float(row["loss_per_character"]) for row in ranked]
    assert losses == sorted(losses, reverse=True) and len(losses) == 12
    assert float(found[1]) == pytest.approx(np.median(losses), abs=0.006)
    assert float(found[3]) == pytest.approx(threshold(losses), abs=0.006)
    assert 4 <= int(found[2]) == sum(loss > threshold(losses) for loss in losses)
    utterances = {each.id: each for each in read_manifest(planted / "planted.jsonl")}
    for row in ranked:
        assert row["audio"] == str(utterances[row["id"]].audio)
        assert row["reference"] == utterances[row["id"]].text
        wer = 100 * jiwer.wer(row["reference"], row["hypothesis"])
        assert float(row["wer"]) == pytest.approx(wer, abs=0.006)


@pytest.fixture
def here(planted, monkeypatch) -> Path:
    monkeypatch.chdir(planted)
    return planted


def test_utterances_that_cannot_be_trained_on_are_not_ranked(here, capsys):
    assert cli.check_data(RECIPE, ["worse.jsonl", *CHECKPOINT, "--suspects", "worse.csv"]) == 1
    printed = capsys.readouterr().out.splitlines()
    assert printed[1:4] == [
        "  11 of 12 utterances are good, 0.00 hours",
        "  CTC-infeasible: 1",
        "    train2: text needs 9 output frames, the audio gives 7",
    ]
    assert printed[-1].startswith("11 utterances: ")
    assert "train2" not in (here / "worse.csv").read_text()


def test_words_are_characters_where_no_label_is_a_space_beside_han(here):
    speech_model = SpeechModel.from_checkpoint(RECIPE, "good.ckpt", "CPU")
    speech_model.tokenizer = CharacterTokenizer(tuple("ABCD你_"))  # 你 where the space was
    suspects = rank_label_issues(
        speech_model, read_manifest(trained() / "train.csv"), batch_size=12
    )
    for suspect in suspects:
        expected = 100 * jiwer.cer(suspect.reference, suspect.hypothesis)
        assert suspect.wer == pytest.approx(expected)
    assert any(suspect.wer % 100 for suspect in suspects)


def test_without_manifests_the_training_set_is_ranked(here, capsys):
    assert cli.check_data(RECIPE, [*CHECKPOINT, "--limit", "0", "--set", "batch_size=3"]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert printed[0] == str(trained() / "train.csv")
    assert sum(" nats per character: " in line for line in printed) == 12


def test_a_manifest_without_a_good_utterance_has_no_ranking(here, capsys):
    write_jsonl([Utterance("no", here / "none.wav", "AB")], here / "none.jsonl")
    assert cli.check_data(RECIPE, ["none.jsonl", *CHECKPOINT]) == 1
    assert "nats" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--suspects", "x.csv"], r"--suspects x\.csv: needs a network, give --pretrain_ckpt"),
        (
            [*CHECKPOINT, "--set", "bands=20"],
            r"SpectConfig\.bands is 20, and good\.ckpt has 16: with --pretrain_ckpt",
        ),
        ([*CHECKPOINT, "--set", "train_manifest="], r"no manifest"),
        (["--set", "train_manifest=", "val_manifest=", "test_manifest="], r"no manifest"),
        ([*CHECKPOINT, "--suspects", "/dev/null/x.csv"], r"/dev/null/x\.csv: cannot be written"),
    ],
)
def test_wrong_options_are_refused(here, arguments, message):
    with pytest.raises(UserError, match=message):
        cli.check_data(RECIPE, arguments)
