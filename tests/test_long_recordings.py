"""Long recordings from file to transcript: nothing lost or doubled, killed and gone on with."""

from __future__ import annotations

import functools
import json
import math
import shutil
import subprocess
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import odd_recordings
import pytest
import soundfile as sf

from common import cli
from common.api import Recognizer, long_recordings, transcription_journal
from common.audio import content, ffmpeg, mpeg
from common.audio.blocks import open_blocks
from common.audio.features import FeatureConfig, Featurizer
from common.audio.io import audio_info, load_audio
from common.cli import long_recording, recognition
from common.decoding.decoders import GreedyDecoder
from common.model.acoustic_model import SampleFrontEnd
from common.model.decoder import CTCDecoder
from common.text.dialogue_formats import DIALOGUE_FORMATS
from common.text.tokenizer import CharacterTokenizer
from common.utils.errors import UserError
from deepspeech2.src.recipe import RECIPE

RATE = 16000
ODD = odd_recordings.odd_recordings()
needs_ffmpeg = pytest.mark.skipif(not shutil.which("ffmpeg"), reason="needs ffmpeg (apt install)")

# ---- a network that hears tones: 60 ms of one is a letter, and one of its own is the space

LETTERS = tuple("ABCDEFGH _")
TONES = {letter: 500 + 250 * number for number, letter in enumerate(LETTERS[:-1])}  # Hz
STRIDE = 160  # samples from one frame to the next
WORDS = "AB CAD EGG H FACE BEE DAD BAG HEAD CAB".split()


def spoken(text: str) -> np.ndarray:
    """(N,) tones of 60 ms with 40 ms between them."""
    time = np.arange(round(0.06 * RATE)) / RATE
    pause = np.zeros(round(0.04 * RATE), np.float32)
    tones = [0.3 * np.sin(2 * np.pi * TONES[letter] * time) for letter in text]
    return np.concatenate([np.r_[tone, pause] for tone in tones]).astype(np.float32)


def heard(samples: np.ndarray, lengths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Samples (B, 1, N) to log-probabilities (T', B, C): the loudest tone of each 10 ms."""
    frames = -(-samples.shape[2] // STRIDE)
    padded = np.pad(samples[:, 0], ((0, 0), (0, frames * STRIDE - samples.shape[2])))
    windows = padded.reshape(len(padded), frames, STRIDE)
    waves = np.exp(-2j * np.pi * np.outer(np.arange(STRIDE) / RATE, list(TONES.values())))
    level = np.abs(windows @ waves) / STRIDE
    label = np.where(level.max(-1) > 0.03, level.argmax(-1), len(LETTERS) - 1)
    values = np.log(np.eye(len(LETTERS))[label] * 0.9 + 0.01)
    return values.transpose(1, 0, 2), -(-lengths // STRIDE)


class Tones:
    """What recognition needs of a network."""

    recipe, static, max_frames, runs_on = RECIPE, False, math.inf, "CPU"
    config = RECIPE.train_config()
    tokenizer = CharacterTokenizer(LETTERS)
    featurizer = Featurizer(FeatureConfig(kind="logmel", bands=8, sample_rate=RATE))
    front_end = SampleFrontEnd(featurizer.config)
    frame_seconds = STRIDE / RATE

    def decoder(self, decoding=None):
        return CTCDecoder(heard, GreedyDecoder(self.tokenizer))

    def forward_memory(self):
        return None


class Loudness:
    """In the place of a detector: what is louder than a threshold is speech."""

    threshold = 0.01

    def __init__(self, sample_rate: int):
        self.reset()

    def reset(self) -> None:
        self._waiting = np.zeros(0, np.float32)

    def __call__(self, samples: np.ndarray) -> np.ndarray:
        waiting = np.concatenate((self._waiting, samples))
        frames = waiting[: len(waiting) // 512 * 512].reshape(-1, 512)
        self._waiting = waiting[frames.size :]
        return (np.abs(frames).max(1, initial=0) >= self.threshold).astype(np.float32)


@pytest.fixture(autouse=True)
def tones(monkeypatch):
    """Recordings of more than 5 s are long, and the network is that of tones."""
    segments = long_recordings.speech_segments
    cut = functools.partial(segments, detector=Loudness)
    monkeypatch.setattr(long_recordings, "speech_segments", cut)
    monkeypatch.setattr(long_recordings, "LONGEST_WHOLE", 5.0)
    monkeypatch.setattr(recognition, "load_acoustic_model", lambda *_: Tones())


@pytest.fixture
def model() -> Recognizer:
    return Recognizer(Tones(), Tones().decoder())


def sentences(pause: float, times: int = 2) -> tuple[np.ndarray, list[tuple[float, float]]]:
    """Words one behind the other, and where they lie in seconds."""
    pieces, places, place = [np.zeros(RATE // 2, np.float32)], [], RATE // 2
    for word in WORDS * times:
        sound = spoken(word)
        places.append((place / RATE, (place + len(sound)) / RATE - 0.04))
        pieces += [sound, np.zeros(round(pause * RATE), np.float32)]
        place += len(pieces[-1]) + len(sound)
    return np.concatenate(pieces), places


TEXT = " ".join(WORDS * 2)


@pytest.fixture
def talk(tmp_path) -> Path:
    """20 words in 25 s."""
    path = tmp_path / "talk.flac"
    sf.write(path, sentences(0.9)[0], RATE)
    return path


@pytest.fixture
def short(tmp_path) -> Path:
    path = tmp_path / "short.wav"
    sf.write(path, spoken("FADE"), RATE)
    return path


def transcribe(*arguments: Any) -> int:
    network = RECIPE.pretrained.with_suffix(".onnx")
    given = [*arguments, "--pretrain_ckpt", network]
    return cli.transcribe(RECIPE, [str(argument) for argument in given])


# ---- text and times


def check_times(words, places):
    for word, (start, end) in zip(words, places, strict=True):
        assert (word.start, word.end) == pytest.approx((start, end), abs=0.021)


def test_a_long_recording_has_the_words_of_its_parts_at_their_times(model, talk):
    samples, places = sentences(0.9)
    result = model.transcribe(talk)
    assert result.text == TEXT
    assert result.duration == pytest.approx(len(samples) / RATE)
    assert [word.word for word in result.words] == WORDS * 2
    check_times(result.words, places)


def test_all_kinds_of_recordings_give_the_same(model, talk, short):
    expected = model.transcribe(talk)
    samples = sentences(0.9)[0]
    assert model.transcribe((samples, RATE)).text == expected.text
    with open(talk, "rb") as file:
        assert model.transcribe(file) == expected
    one, other = model.transcribe([talk, short])
    assert (one, other.text) == (expected, "FADE")
    parts = list(model.passages(talk))
    assert len(parts) == len(WORDS * 2)
    assert " ".join(part.text for part in parts) == expected.text


@pytest.mark.parametrize(("longest", "overlap"), [(3.0, 1.0), (5.0, 2.0), (1.7, 0.4)])
def test_speech_without_silence_is_joined_from_overlaps(model, monkeypatch, longest, overlap):
    """Words with a space between them, and nowhere a silence to cut at."""
    monkeypatch.setattr(Loudness, "threshold", 0.0)
    text = " ".join(WORDS * 5)
    samples = spoken(text)
    whole = model.transcribe((samples[: 4 * RATE], RATE)).words
    rules = long_recordings.SegmentationRules(longest=longest, overlap=overlap)
    with open_blocks((samples[:, None], RATE), RATE) as audio:
        parts = list(long_recordings.passages(Tones(), Tones().decoder(), audio, rules))
    found = long_recordings.whole_transcript(Tones(), parts, 0.0)
    assert found.text == text
    for one, other in zip(found.words, whole[:-1]):
        assert (one.word, one.start) == (other.word, other.start)
        assert abs(one.end - other.end) < 0.15  # pauses are told from each segment's own loudness
    ends = [part.end for part in parts]
    assert len(parts) > 5 and ends == sorted(ends)
    assert [part.start for part in parts[1:]] == pytest.approx(ends[:-1], abs=0.02)
    # From any passage on, the others come again.
    for done in (1, len(parts) // 2):
        with open_blocks((samples[:, None], RATE), RATE) as audio:
            places = [parts[done - 1].position]
            rest = list(
                long_recordings.passages(Tones(), Tones().decoder(), audio, rules, positions=places)
            )
        assert rest == parts[done:]


def test_a_file_that_takes_few_frames_gets_short_segments(monkeypatch):
    monkeypatch.setattr(Tones, "max_frames", 200)
    assert long_recordings.longest_whole(Tones()) == pytest.approx(2.0)
    rules = long_recordings.rules_for(Tones(), "a.wav")
    assert rules.longest == pytest.approx(1.9) and rules.overlap < 0.5
    text = " ".join(WORDS)
    samples = spoken(text)[:, None]
    with open_blocks((samples, RATE), RATE) as audio:
        parts = list(long_recordings.passages(Tones(), Tones().decoder(), audio, rules))
    assert " ".join(part.text for part in parts if part.text) == text
    monkeypatch.setattr(Tones, "max_frames", 50)
    with pytest.raises(UserError, match=r"a\.wav: 100 feature frames, and the exported file takes"):
        long_recordings.rules_for(Tones(), "a.wav")


# ---- the command


def test_printed_text_is_one_line_as_ever(talk, short, capsys):
    assert transcribe(talk) == 0
    assert capsys.readouterr().out == TEXT + "\n"
    assert transcribe(short, talk) == 0
    assert capsys.readouterr().out.splitlines() == [f"{short}\tFADE", f"{talk}\t{TEXT}"]


class Killed(BaseException):
    """As abrupt as a signal: nothing tidies up."""


@pytest.mark.parametrize("format", ["json", "srt"])
def test_a_killed_command_goes_on_without_doing_a_segment_twice(
    talk, tmp_path, monkeypatch, capsys, format
):
    monkeypatch.setattr(long_recording, "_DRAFT_SECONDS", 0.0)
    ending = {"json": ".json", "srt": ".srt"}[format]
    arguments = [talk, "--format", format, "--batch_size", 2, "--output"]
    assert transcribe(*arguments, tmp_path / "whole") == 0
    expected = (tmp_path / "whole" / f"talk{ending}").read_text()

    add = transcription_journal.Journal.add
    recognised = []
    predictions = long_recordings._predictions

    def counted(model, decoder, portion, *more):
        recognised.extend(segment.start for segment in portion)
        return predictions(model, decoder, portion, *more)

    def killed(self, passage):
        add(self, passage)
        if len(self.passages) == 4:
            raise Killed

    monkeypatch.setattr(long_recordings, "_predictions", counted)
    with monkeypatch.context() as patch:
        patch.setattr(transcription_journal.Journal, "add", killed)
        with pytest.raises(Killed):
            transcribe(*arguments, tmp_path / "out")
    out = tmp_path / "out"
    draft, progress = out / f"talk.partial{ending}", out / f"talk{ending}.progress"
    assert not (out / f"talk{ending}").exists()
    if format == "json":
        assert expected.startswith(draft.read_text().partition('", "duration')[0])
    else:
        assert expected.startswith(draft.read_text())
    before = list(recognised)
    with open(progress, "a") as file:
        file.write('{"channel": 0, "start": 1')  # the kill came while it was written
    capsys.readouterr()
    assert transcribe(*arguments, out) == 0
    assert (out / f"talk{ending}").read_text() == expected
    assert [path.name for path in out.iterdir()] == [f"talk{ending}"]
    assert "talk.flac: going on at 0:00:0" in capsys.readouterr().err
    assert not set(before) & set(recognised[len(before) :])


def test_a_journal_of_something_else_is_not_used(talk, tmp_path):
    journal = transcription_journal.Journal(tmp_path / "a.progress", {"recording": "a"})
    place = long_recordings.Position(long_recordings.Place(7, 2), 1)
    passage = long_recordings.Passage(1, 0.5, 1.5, "A\u2028Ä", [], place, -1.25)
    journal.add(passage)
    journal.close(remove=False)
    again = transcription_journal.Journal(tmp_path / "a.progress", {"recording": "a"})
    assert again.passages == [passage]
    assert again.positions(2) == [long_recordings.Position(), place]
    again.close(remove=False)
    other = transcription_journal.Journal(tmp_path / "a.progress", {"recording": "b"})
    assert other.passages == []
    other.close(remove=True)
    assert not (tmp_path / "a.progress").exists()


def test_damage_far_behind_keeps_what_was_recognised_before(talk, tmp_path, capsys):
    samples = np.concatenate((sentences(0.9)[0], np.full(RATE, np.nan, np.float32)))
    damaged = tmp_path / "damaged.wav"
    sf.write(damaged, samples, RATE, subtype="FLOAT")
    assert transcribe(damaged, talk, "--output", tmp_path / "out", "--batch_size", 2) == 1
    kept, error, summary = capsys.readouterr().err.splitlines()
    assert "damaged.partial.txt" in kept and "the same command goes on" in kept
    assert "damaged.wav: samples that are nan or infinite from 2" in error
    assert summary == "error: 1 of 2 files were not read"
    text = (tmp_path / "out" / "damaged.partial.txt").read_text().strip()
    assert len(text) > len(TEXT) / 2 and TEXT.startswith(text)
    assert (tmp_path / "out" / "talk.txt").read_text() == TEXT + "\n"
    assert transcribe(damaged, talk) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith(f"{damaged}\tAB CAD") and lines[1] == f"{talk}\t{TEXT}"


# ---- channels


@pytest.fixture
def call(tmp_path) -> Path:
    """A call: the second speaker says the same when the first one is silent."""
    samples = sentences(0.9)[0]
    silence, path = np.zeros_like(samples), tmp_path / "call.wav"
    both = np.stack((np.r_[samples, silence], np.r_[silence, samples]), axis=1)
    sf.write(path, both, RATE)
    return path


def test_channels_are_speakers_where_asked_for(model, call, capsys):
    first, second = model.transcribe_channels(call)
    assert (first.text, second.text) == (TEXT, TEXT)
    samples, places = sentences(0.9)
    check_times(first.words, places)
    half = len(samples) / RATE
    check_times(second.words, [(start + half, end + half) for start, end in places])
    assert transcribe(call, "--channels", "separate") == 0
    assert capsys.readouterr().out == f"1: {TEXT}\n2: {TEXT}\n"
    assert transcribe(call, call, "--channels", "separate") == 0
    assert capsys.readouterr().out == f"{call}\t1: {TEXT}\n{call}\t2: {TEXT}\n" * 2
    assert transcribe(call) == 0
    assert capsys.readouterr().out.splitlines()[-1] == f"{TEXT} {TEXT}"


def test_formats_of_dialogues(model, call):
    channels = model.transcribe_channels(call)
    made = {name: form(channels, "call.wav") for name, form in DIALOGUE_FORMATS.items()}
    both = json.loads(made["json"])
    assert [each["channel"] for each in both["channels"]] == [1, 2]
    assert [each["text"] for each in both["channels"]] == [TEXT] * 2
    assert both["file"] == "call.wav" and both["channels"][1]["words"]
    columns = [line.split() for line in made["ctm"].splitlines()]
    assert {fields[1] for fields in columns} == {"1", "2"}
    assert len(columns) == sum(len(channel.words) for channel in channels)
    cues = [cue.split("\n") for cue in made["srt"].strip().split("\n\n")]
    assert [cue[0] for cue in cues] == [str(number + 1) for number in range(len(cues))]
    starts = [cue[1] for cue in cues]
    assert starts == sorted(starts) and cues[0][2].startswith("1: ")
    assert cues[-1][2].startswith("2: ")
    assert "<v Channel 2>" in made["vtt"]
    assert made["textgrid"].count('class = "IntervalTier"') == 2
    assert 'name = "words 2"' in made["textgrid"]


# ---- films


def film(path: Path, samples: np.ndarray, *sound: str) -> Path:
    wav = path.with_suffix(".wav")
    sf.write(wav, samples, RATE)
    picture = ["-f", "lavfi", "-i", f"color=c=blue:s=32x32:r=1:d={len(samples) / RATE}"]
    subprocess.run(
        ["ffmpeg", "-nostdin", "-v", "error", *picture, "-i", wav, *sound, path],
        check=True,
        timeout=60,
    )
    wav.unlink()
    return path


@needs_ffmpeg
def test_films_are_read_through_ffmpeg(model, tmp_path, capsys):
    samples = sentences(0.9)[0]
    path = film(tmp_path / "film.mkv", samples, "-c:a", "flac")
    assert transcribe(path) == 0
    assert capsys.readouterr().out == TEXT + "\n"
    result = model.transcribe(path)
    assert result.text == TEXT
    assert result.duration == pytest.approx(len(samples) / RATE, abs=0.01)
    with open_blocks(path, RATE) as audio:
        read = np.concatenate(list(audio.blocks))[:, 0]
    count = min(len(read), len(samples))
    assert count > len(samples) - 0.3 * RATE
    np.testing.assert_allclose(read[:count], samples[:count], atol=1e-4)
    silent = tmp_path / "silent.mp4"
    picture = ["-f", "lavfi", "-i", "color=c=blue:s=32x32:r=5:d=1", silent]
    subprocess.run(["ffmpeg", "-nostdin", "-v", "error", *picture], check=True, timeout=60)
    assert transcribe(silent) == 1
    error, _ = capsys.readouterr().err.splitlines()
    assert error.endswith("silent.mp4: an MP4 or QuickTime file without sound; leave it out")


def test_a_missing_ffmpeg_and_a_damaged_film_are_one_clear_line(tmp_path, monkeypatch, capsys):
    path = tmp_path / "film.mp4"
    path.write_bytes(b"\0\0\0\x20ftypisom" + bytes(200))
    if shutil.which("ffmpeg"):
        assert transcribe(path) == 1
        error, _ = capsys.readouterr().err.splitlines()
        assert "film.mp4: an MP4 or QuickTime file that ffmpeg does not decode (" in error
    monkeypatch.setattr(ffmpeg.shutil, "which", lambda name: None)
    assert transcribe(path) == 1
    error, _ = capsys.readouterr().err.splitlines()
    assert error == (
        f"error: audio file {path}: an MP4 or QuickTime file, which ffmpeg decodes, and ffmpeg is "
        "not installed: install it (apt install ffmpeg), or convert its sound to FLAC or WAV"
    )
    with pytest.raises(UserError, match=r"an MP4 or QuickTime file, which is not read here; conv"):
        load_audio(path, RATE)


# ---- memory


@pytest.mark.parametrize("name", ODD)
def test_files_are_searched_and_decoded_block_by_block(name, tmp_path, monkeypatch):
    """Blocks so small that all that is searched for lies across their ends, too."""
    odd, path = ODD[name], tmp_path / name
    path.write_bytes(odd.content)
    for module in (content, mpeg):
        monkeypatch.setattr(module, "_BLOCK", 997)
    if odd.samples is None:
        with pytest.raises(UserError, match=odd.refusal), open_blocks(path, RATE) as audio:
            list(audio.blocks)
        return
    rate = audio_info(path).sample_rate
    with open_blocks(path, rate) as audio:
        samples = np.concatenate(list(audio.blocks))[:, 0]
    monkeypatch.undo()
    np.testing.assert_allclose(samples, load_audio(path, rate), atol=1e-7)


@pytest.mark.parametrize("container", ["FLAC", "MP3"])
def test_memory_to_read_a_recording_does_not_depend_on_its_length(container, tmp_path):
    rng, path = np.random.default_rng(0), tmp_path / "noise"
    peaks, sizes, rate = [], [], 8000
    for minutes in (1, 3):
        with sf.SoundFile(path, "w", rate, 1, format=container) as file:
            for _ in range(minutes):
                file.write(rng.normal(0, 0.2, 60 * rate))
        sizes.append(path.stat().st_size)
        tracemalloc.start()
        with open_blocks(path, rate) as audio:
            assert sum(map(len, audio.blocks)) == minutes * 60 * rate
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] - peaks[0] < 0.3 * (sizes[1] - sizes[0])


@pytest.mark.parametrize("rates", [(44100, 16000), (8000, 16000), (16000, 16000)])
def test_blocks_are_what_a_whole_read_gives(rates, tmp_path):
    recorded, wanted = rates
    samples = np.random.default_rng(0).normal(0, 0.1, (25 * recorded + 7, 2)).astype(np.float32)
    path = tmp_path / "a.wav"
    sf.write(path, samples, recorded, subtype="FLOAT")
    with open_blocks(path, wanted) as audio:
        mixed = np.concatenate(list(audio.blocks))
    np.testing.assert_allclose(mixed[:, 0], load_audio(path, wanted), atol=1e-6)
    with open_blocks(path, wanted, separate=True) as audio:
        assert audio.channels == 2
        both = np.concatenate(list(audio.blocks))
    np.testing.assert_allclose(both.mean(axis=1), mixed[:, 0], atol=1e-6)
