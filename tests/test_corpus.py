"""The shipped telephone prompts: what the manifests say is what the audio holds."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import soundfile

from scripts.make_telephone_prompts import Prompt, normalise, split

CORPUS = Path(__file__).resolve().parents[1] / "data" / "telephone_prompts"
SIZES = {"train": 456, "validation": 24, "test": 66}


def rows(name: str) -> list[dict]:
    return [json.loads(line) for line in (CORPUS / f"{name}.jsonl").read_text().splitlines()]


def texts(name: str) -> set[str]:
    return {row["text"] for row in rows(name)}


@pytest.mark.parametrize("name", SIZES)
def test_every_clip_is_there_and_as_long_as_its_manifest_says(name):
    for row in rows(name):
        samples, rate = soundfile.read(CORPUS / row["audio"])
        assert (rate, samples.ndim) == (8000, 1), row
        assert len(samples) == pytest.approx(row["duration"] * rate, abs=4), row
        assert 0.05 < np.abs(samples).max() < 1.1, row  # lossy coding overshoots a little


def test_the_corpus_has_the_documented_size():
    everything = [row for name in SIZES for row in rows(name)]
    assert {name: len(rows(name)) for name in SIZES} == SIZES
    assert len({row["id"] for row in everything}) == 546
    assert {CORPUS / row["audio"] for row in everything} == set(CORPUS.rglob("*.opus"))
    assert sum(row["duration"] for row in everything) / 60 == pytest.approx(22.73, abs=0.01)


def test_texts_are_made_of_labels():
    words = re.compile(r"[A-Z']+( [A-Z']+)*")
    for name in SIZES:
        assert all(words.fullmatch(text) for text in texts(name))


def test_no_text_is_in_two_sets():
    assert not texts("train") & texts("test")
    assert not texts("train") & texts("validation")
    assert not texts("validation") & texts("test")


def test_the_split_is_the_documented_one():
    prompts = [
        Prompt(row["id"], Path(row["audio"]), row["text"]) for name in SIZES for row in rows(name)
    ]
    for name, chosen in split(prompts).items():
        assert {prompt.id for prompt in chosen} == {row["id"] for row in rows(name)}


def test_every_text_is_said_at_a_human_rate():
    for name in SIZES:
        for row in rows(name):
            if len(row["text"]) >= 12:
                assert 7 < len(row["text"]) / row["duration"] < 21, row


@pytest.mark.parametrize(
    ("transcript", "spoken"),
    [
        ("press 1 to accept, or 2", "PRESS ONE TO ACCEPT OR TWO"),
        ("separated by * and #", "SEPARATED BY STAR AND POUND"),
        ("Voice over IP.", "VOICE OVER I P"),
        ("A.M.", "A M"),
        ("... for ...", "FOR"),
        ('a polite "don\'t call" menu', "A POLITE DON'T CALL MENU"),
        ("O'clock", "O'CLOCK"),
        ("dash [-]", "DASH"),
        ('IAX (note: does not say "2")', "IAX"),
        ("[ascending tones]", ""),
        ("<beep ascending>", ""),
        ("(10 seconds of silence)", ""),
    ],
)
def test_transcripts_become_what_is_said(transcript, spoken):
    assert normalise(transcript) == spoken


def test_a_number_without_a_known_reading_is_refused():
    with pytest.raises(ValueError, match="8500"):
        normalise("dial extension 8500")


def test_licence_and_credit_travel_with_the_recordings():
    assert "Attribution-ShareAlike 3.0" in (CORPUS / "LICENSE").read_text()
    assert "8. Miscellaneous" in (CORPUS / "LICENSE").read_text()
    assert "Allison Smith" in (CORPUS / "CREDITS").read_text()
    assert "asterisk-core-sounds-en-wav" in (CORPUS / "README.md").read_text()
