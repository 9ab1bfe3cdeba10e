"""Words of a known text and their times, from synthetic log-probabilities and real recordings."""

from __future__ import annotations

import json
import string
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile as sf

from common import cli
from common.audio import parts
from common.audio.features import FeatureConfig, Featurizer
from common.audio.io import load_audio
from common.audio.pauses import Loudness
from common.config import DataConfig
from common.decoding.text_alignment import align_text
from common.decoding.word_times import word_times
from common.evaluation.blockwise import blockwise_log_probs
from common.model.acoustic_model import SampleFrontEnd
from common.model.decoder import DecodedUtterance
from common.text.normalization import normaliser
from common.text.tokenizer import CharacterTokenizer
from common.text.written_words import WrittenWord, written_words
from common.utils.errors import UserError
from deepspeech2.src.recipe import RECIPE

ENGLISH = CharacterTokenizer((*string.ascii_uppercase, "'", " ", "_"))
HAN = CharacterTokenizer(("你", "好", "_"))
SPEAK = normaliser("english", ENGLISH.labels)


def pairs(text: str, tokenizer=ENGLISH, normalise=SPEAK) -> list[tuple[str, str]]:
    words, _ = written_words(text, tokenizer, normalise, "a.txt")
    return [(word.written, word.spoken) for word in words]


# ---- the text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Hello, world!", [("Hello,", "HELLO"), ("world!", "WORLD")]),
        (
            "Mr. Smith paid $2.5 million -- in 1980.",
            [
                ("Mr.", "MISTER"),
                ("Smith", "SMITH"),
                ("paid", "PAID"),
                ("$2.5 million --", "TWO POINT FIVE MILLION DOLLARS"),
                ("in", "IN"),
                ("1980.", "NINETEEN EIGHTY"),
            ],
        ),
        ("1 000 men", [("1 000", "ONE THOUSAND"), ("men", "MEN")]),
        ("- It’s well-known ?", [("- It’s", "IT'S"), ("well-known ?", "WELL KNOWN")]),
    ],
)
def test_words_keep_their_spelling_beside_what_is_spoken(text, expected):
    assert pairs(text) == expected


def test_punctuation_without_a_label_is_passed_over_and_counted():
    words, passed_over = written_words("Yes, no. So-so.", ENGLISH, str, "a.txt")
    assert [(w.written, w.spoken) for w in words] == [
        ("Yes,", "YES"),
        ("no.", "NO"),
        ("So-so.", "SO SO"),
    ]
    assert passed_over == Counter({".": 2, ",": 1, "-": 1})


def test_characters_of_a_script_without_spaces_are_words():
    assert pairs("你好， 你。", HAN, str) == [("你", "你"), ("好，", "好"), ("你。", "你")]


@pytest.mark.parametrize("text", ["Room 12", "Q & A", "naïve"])
def test_letters_digits_and_signs_without_a_label_are_refused(text):
    with pytest.raises(UserError, match=r"a\.txt: .* without a label .*--normalize english"):
        written_words(text, ENGLISH, str, "a.txt")


def test_a_text_without_words_is_refused():
    with pytest.raises(UserError, match=r"a\.txt: no words"):
        written_words(" -- \n", ENGLISH, str, "a.txt")


# ---- the times


def heard(text: str, frames: int = 4) -> np.ndarray:
    """Log-probabilities of a network that is sure of a text: a label every so many frames."""
    ids = ENGLISH.encode(text)
    log_probs = np.full((frames * (len(ids) + 1), len(ENGLISH)), np.log(1e-5), np.float32)
    at = frames * (1 + np.arange(len(ids)))
    log_probs[:, ENGLISH.ctc_blank] = np.log(0.99)
    log_probs[at, ENGLISH.ctc_blank] = np.log(0.01)
    log_probs[at, ids] = np.log(0.98)
    return log_probs


def aligned(text: str, said: str):
    words = [WrittenWord(word.lower(), word) for word in text.split()]
    log_probs = heard(said)
    return align_text(words, log_probs, ENGLISH, 0.01, 0.01 * len(log_probs), "a.wav")


def test_a_text_that_was_said_has_all_its_words():
    found = aligned("GOOD DAY TO YOU", "GOOD DAY TO YOU")
    assert [word.word for word in found.words] == ["good", "day", "to", "you"]
    assert found.text == "good day to you"
    assert found.words[1].start == pytest.approx(0.04 * 6)
    assert found.words[1].end == pytest.approx(0.04 * 8 + 0.01)
    assert found.score == pytest.approx(0.98, abs=1e-4)
    assert (found.found, found.differences) == (4, [])


def test_words_that_were_not_said_are_told_and_the_others_stay():
    said = "GOOD DAY TO YOU"
    found = aligned("GOOD DAY MARVELLOUS PEOPLE TO YOU", said)
    expected = aligned(said, said)
    kept = [word for word in found.words if word.confidence]
    assert kept == expected.words
    (difference,) = found.differences
    assert (difference.text, difference.words) == ("marvellous people", 2)
    assert difference.heard == ""
    assert kept[1].end <= difference.start <= difference.end <= kept[2].start
    assert found.score == pytest.approx(expected.score * 4 / 6)


def test_speech_that_the_text_lacks_is_told():
    found = aligned("GOOD DAY TO YOU", "GOOD DAY MARVELLOUS PEOPLE TO YOU")
    assert found.found == 4
    (difference,) = found.differences
    assert (difference.text, difference.heard) == ("", "MARVELLOUS PEOPLE")
    assert difference.start == pytest.approx(0.04 * 10)
    assert difference.end == pytest.approx(0.04 * 26 + 0.01)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("GOOD DAY TO YOU", "GOOD DAY MARVELLOUS PEOPLE TO YOU"),
        ("GOOD DAY PRODIGIOUS TO YOU", "GOOD DAY MARVELLOUS PEOPLE TO YOU"),
    ],
)
def test_a_word_does_not_last_through_what_is_said_instead_of_the_next_one(text, said):
    words = [WrittenWord(word, word) for word in text.split()]
    log_probs = heard(said, 16)
    seconds = 0.01 * len(log_probs)
    found = align_text(words, log_probs, ENGLISH, 0.01, seconds, "a", np.zeros((0, 2))).words
    assert found[0].end == pytest.approx(0.16 * 6)  # where DAY begins
    assert found[1].end == pytest.approx(0.16 * 8 + 0.01 + 0.1)
    assert found[-2].start == pytest.approx(0.16 * 28)


def test_a_recording_shorter_than_its_text_has_words_without_confidence():
    found = aligned("GOOD DAY MARVELLOUS PEOPLE", "I")
    assert found.found == 0 and found.score == 0
    assert found.words[0].start >= 0 and found.words[-1].end <= found.duration


def test_a_word_ends_with_the_pause_behind_it_or_where_the_next_one_begins():
    emissions, last = [(0.5, 0.6), (1.5, 1.7), (1.9, 2.0)], [0.58, 1.66, 1.98]
    pauses = np.array([[0.0, 0.42], [0.75, 1.55], [2.2, 3.0]])
    times = word_times(emissions, last, pauses, 3.0)
    # The second word was emitted before its sound; the third follows it without a pause.
    assert times == [(0.42, 0.75), (1.55, 1.9), (1.9, 2.2)]
    assert word_times(emissions, last, None, 3.0) == emissions
    assert word_times(emissions[:1], last[:1], pauses[:0], 0.65) == [(0.5, 0.65)]


def test_pauses_are_where_nothing_but_noise_is():
    rng = np.random.default_rng(0)
    samples = rng.normal(0, 0.001, 32000).astype(np.float32)
    for begin, end in ((4000, 8000), (8800, 16000), (20000, 28000)):
        samples[begin:end] += rng.normal(0, 0.1, end - begin).astype(np.float32)
    loudness = Loudness.of(samples, 16000, start=1.0)
    expected = [[1.0, 1.25], [2.0, 2.25], [2.75, 3.0]]  # 50 ms are no pause
    assert loudness.pauses == pytest.approx(np.array(expected), abs=0.011)
    assert loudness.speech == pytest.approx(-20, abs=1)
    assert loudness.noise == pytest.approx(-60, abs=1)
    assert not len(Loudness.of(samples[4000:8000], 16000).pauses)
    assert len(Loudness.of(samples[:5], 16000).pauses) == 0


# ---- recordings of any length


def test_parts_of_a_recording_are_those_of_the_whole(tmp_path, monkeypatch):
    monkeypatch.setattr(parts, "_AT_ONCE", 0.7)
    samples = np.random.default_rng(0).uniform(-0.5, 0.5, 24001).astype(np.float32)
    path = tmp_path / "noise.wav"
    sf.write(path, samples, 8000, "FLOAT")
    for source, rate in ((path, 8000), (samples, 8000)):
        found = parts.SampleParts(source, rate)
        assert found.length == 24001
        read = [found.read(begin, begin + 1000) for begin in range(0, 24001, 800)]
        for number, part in enumerate(read):
            np.testing.assert_array_equal(part, samples[800 * number :][:1000])
    resampled = parts.SampleParts(path, 16000)
    whole = load_audio(path, 16000)
    assert abs(resampled.length - len(whole)) <= 1
    np.testing.assert_allclose(resampled.read(20000, 21000)[500:], whole[20500:21000], atol=0.01)


@pytest.mark.parametrize("seconds", [0.05, 20.0, 95.3])
def test_blocks_of_a_recording_give_each_frame_once_and_in_its_place(seconds):
    hop, rate = 40, 1000
    samples = np.arange(int(seconds * rate), dtype=np.float32)
    longest = []

    class Decoder:
        """Gives for each frame the number of its first sample."""

        def decode(self, values, lengths, valid=None):
            longest.append(values.shape[2])
            return [
                DecodedUtterance([], np.tile(row[0, :length:hop, None], (1, 2)))
                for row, length in zip(values, lengths)
            ][:valid]

    features = FeatureConfig(sample_rate=rate)
    model = SimpleNamespace(
        recipe=SimpleNamespace(memory=None, name="fake"),
        config=SimpleNamespace(DataConfig=DataConfig()),
        tokenizer=CharacterTokenizer(("A", "_")),
        featurizer=Featurizer(features),
        front_end=SampleFrontEnd(features),
        frame_seconds=hop / rate,
        static=False,
        max_frames=np.inf,
        forward_memory=lambda: None,
    )
    found = blockwise_log_probs(model, Decoder(), parts.SampleParts(samples, rate), "a.wav")
    np.testing.assert_array_equal(found[:, 0], samples[::hop])
    assert max(longest) <= 30 * rate


# ---- the command, with the network that ships

DIGITS = Path(__file__).resolve().parents[1] / "data" / "telephone_prompts" / "audio" / "digits"
NAMES = "ONE TWO THREE FOUR FIVE SIX SEVEN EIGHT NINE".split()  # noqa: SIM905


@pytest.fixture(scope="module")
def counting(tmp_path_factory) -> tuple[Path, list[tuple[float, float]]]:
    """Someone who counts from one to nine, with pauses, and when each digit is said."""
    rng = np.random.default_rng(0)
    parts, times, place = [], [], 0
    for number in range(1, 10):
        digit = load_audio(DIGITS / f"{number}.opus", 16000)
        loud = np.flatnonzero(np.abs(digit) > 0.03 * np.abs(digit).max())
        digit = digit[loud[0] : loud[-1] + 1]
        pause = int(rng.uniform(0.2, 0.8) * 16000)
        parts += [np.zeros(pause, np.float32), digit]
        times.append(((place + pause) / 16000, (place + pause + len(digit)) / 16000))
        place += pause + len(digit)
    samples = np.concatenate([*parts, np.zeros(8000, np.float32)])
    path = tmp_path_factory.mktemp("counting") / "count.wav"
    sf.write(path, samples + rng.normal(0, 1e-4, len(samples)), 16000)
    return path, times


def test_words_of_known_onset_are_found_within_40_ms(counting, capsys):
    path, times = counting
    path.with_suffix(".txt").write_text(" ".join(NAMES).lower())
    assert cli.align(RECIPE, [str(path), "--format", "json"]) == 0
    captured = capsys.readouterr()
    words = json.loads(captured.out)["words"]
    assert [word["word"] for word in words] == " ".join(NAMES).lower().split()
    errors = [
        abs(found - known)
        for word, (start, end) in zip(words, times)
        for found, known in ((word["start"], start), (word["end"], end))
    ]
    assert np.median(errors) <= 0.04
    assert "9 of 9 words found" in captured.err


def test_a_wrong_text_is_doubted_and_a_missing_one_stops_nothing_else(counting, tmp_path, capsys):
    path, _ = counting
    other = tmp_path / "other.txt"
    other.write_text("the quick brown fox jumps over the lazy dog 12 times")
    assert cli.align(RECIPE, [str(path), "--text", str(other)]) == 1
    assert "'1' (once), '2' (once) without a label" in capsys.readouterr().err
    options = ["--text", str(other), "--normalize", "english", "--output", str(tmp_path)]
    assert cli.align(RECIPE, [str(path), *options]) == 0
    assert f"is {other} its text" in capsys.readouterr().err
    lines = (tmp_path / "count.words.txt").read_text().splitlines()
    assert [line.split()[3] for line in lines[-2:]] == ["12", "times"]
    path.with_suffix(".txt").write_text(" ".join(NAMES))
    missing = tmp_path / "missing.wav"
    assert cli.align(RECIPE, [str(missing), str(path)]) == 1
    captured = capsys.readouterr()
    assert "missing.txt: cannot be read" in captured.err
    assert "NINE" in captured.out
    with pytest.raises(UserError, match=r"--text .*: the text of one recording, and there are 2"):
        cli.align(RECIPE, [str(missing), str(path), "--text", str(other)])
