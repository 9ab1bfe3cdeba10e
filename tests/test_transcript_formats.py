"""Transcripts in the formats of other programs, letter for letter."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from types import SimpleNamespace

import pytest

from common import cli
from common.decoding.word_alignment import Word
from common.text.transcript_formats import FORMATS, HIGHLIGHTED, subtitles
from common.utils.errors import UserError
from deepspeech2.src.recipe import RECIPE

HELLO = SimpleNamespace(
    text='SAY "A<B" NOW',
    words=[
        Word("SAY", 0.24, 0.48, 0.98765),
        Word('"A<B"', 0.6, 1.2, 0.5),
        Word("NOW", 3725.0, 3725.5, 1.0),
    ],
    duration=3726.2504,
)

EXPECTED = {
    "txt": 'SAY "A<B" NOW\n',
    "srt": """\
1
00:00:00,240 --> 00:00:01,200
SAY "A<B"

2
01:02:05,000 --> 01:02:05,500
NOW
""",
    "vtt": """\
WEBVTT

00:00:00.240 --> 00:00:01.200
SAY "A&lt;B"

01:02:05.000 --> 01:02:05.500
NOW
""",
    "ctm": """\
my_talk 1 0.240 0.240 SAY 0.9877
my_talk 1 0.600 0.600 "A<B" 0.5000
my_talk 1 3725.000 0.500 NOW 1.0000
""",
    "textgrid": """\
File type = "ooTextFile"
Object class = "TextGrid"

xmin = 0
xmax = 3726.250
tiers? <exists>
size = 1
item []:
    item [1]:
        class = "IntervalTier"
        name = "words"
        xmin = 0
        xmax = 3726.250
        intervals: size = 7
        intervals [1]:
            xmin = 0.000
            xmax = 0.240
            text = ""
        intervals [2]:
            xmin = 0.240
            xmax = 0.480
            text = "SAY"
        intervals [3]:
            xmin = 0.480
            xmax = 0.600
            text = ""
        intervals [4]:
            xmin = 0.600
            xmax = 1.200
            text = ""\"A<B""\"
        intervals [5]:
            xmin = 1.200
            xmax = 3725.000
            text = ""
        intervals [6]:
            xmin = 3725.000
            xmax = 3725.500
            text = "NOW"
        intervals [7]:
            xmin = 3725.500
            xmax = 3726.250
            text = ""
""",
}


EXPECTED["words"] = """\
    0.240     0.480  0.988  SAY
    0.600     1.200  0.500  "A<B"
 3725.000  3725.500  1.000  NOW
"""

MARKED = {
    "srt": """\
1
00:00:00,240 --> 00:00:00,480
<u>SAY</u> "A<B"

2
00:00:00,480 --> 00:00:00,600
SAY "A<B"

3
00:00:00,600 --> 00:00:01,200
SAY <u>"A<B"</u>

4
01:02:05,000 --> 01:02:05,500
<u>NOW</u>
""",
    "vtt": """\
WEBVTT

00:00:00.240 --> 00:00:00.480
<u>SAY</u> "A&lt;B"

00:00:00.480 --> 00:00:00.600
SAY "A&lt;B"

00:00:00.600 --> 00:00:01.200
SAY <u>"A&lt;B"</u>

01:02:05.000 --> 01:02:05.500
<u>NOW</u>
""",
    "txt": '\x1b[32mSAY\x1b[0m \x1b[33m"A<B"\x1b[0m \x1b[32mNOW\x1b[0m\n',
    "words": """\
    0.240     0.480  0.988  \x1b[32mSAY\x1b[0m
    0.600     1.200  0.500  \x1b[33m"A<B"\x1b[0m
 3725.000  3725.500  1.000  \x1b[32mNOW\x1b[0m
""",
}


@pytest.mark.parametrize("name", HIGHLIGHTED)
def test_what_is_highlighted(name):
    assert HIGHLIGHTED[name](HELLO, "a.wav") == MARKED[name]


def test_words_of_no_confidence_are_red_and_underlined():
    unsure = SimpleNamespace(text="NO", words=[Word("NO", 0.0, 0.5, 0.0)], duration=1.0)
    assert HIGHLIGHTED["txt"](unsure, "a.wav") == "\x1b[31;4mNO\x1b[0m\n"


@pytest.mark.parametrize("name", EXPECTED)
def test_a_transcript_in_each_format(name):
    assert FORMATS[name](HELLO, "talks/my talk.wav") == EXPECTED[name]


def test_a_word_with_spaces_is_one_column_of_ctm():
    words = [Word("$2.5 million", 0.0, 0.5, 1.0)]
    spoken = SimpleNamespace(text="$2.5 million", words=words, duration=1.0)
    assert FORMATS["ctm"](spoken, "a.wav") == "a 1 0.000 0.500 $2.5_million 1.0000\n"


def test_json_has_all_there_is():
    found = json.loads(FORMATS["json"](HELLO, "talks/my talk.wav"))
    assert found == {
        "file": "talks/my talk.wav",
        "text": HELLO.text,
        "duration": 3726.25,
        "words": [
            {"word": "SAY", "start": 0.24, "end": 0.48, "confidence": 0.9877},
            {"word": '"A<B"', "start": 0.6, "end": 1.2, "confidence": 0.5},
            {"word": "NOW", "start": 3725.0, "end": 3725.5, "confidence": 1.0},
        ],
    }


@pytest.mark.parametrize("name", FORMATS)
def test_silence_gives_a_valid_file(name):
    silent = SimpleNamespace(text="", words=[], duration=1.5)
    content = FORMATS[name](silent, "a.wav")
    expected = {"txt": "\n", "srt": "", "vtt": "WEBVTT\n", "ctm": "", "words": ""}
    assert content == expected.get(name, content)
    if name == "textgrid":
        assert "intervals: size = 1" in content and "xmax = 1.500" in content


def test_a_word_without_length_is_no_empty_interval_of_a_tier():
    words = [Word("A", 0.0, 0.5, 1.0), Word("B", 0.5, 0.5, 0.0), Word("C", 0.5, 1.0, 1.0)]
    content = FORMATS["textgrid"](SimpleNamespace(text="A B C", words=words, duration=1.0), "a")
    assert "intervals: size = 2" in content and '"B"' not in content


def heard(
    text: str, seconds: float, gaps: dict[int, float] | None = None, between: str = " "
) -> SimpleNamespace:
    """A transcript of words of equal length, with pauses before some of them."""
    words, place = [], 0.0
    for number, word in enumerate(text.split()):
        place += (gaps or {}).get(number, 0.0)
        words.append(Word(word, place, place + seconds, 1.0))
        place += seconds
    return SimpleNamespace(text=between.join(text.split()), words=words, duration=place)


def test_subtitles_have_two_short_lines_and_lose_no_word():
    text = "THE QUICK BROWN FOX JUMPS OVER THE LAZY DOG AND RUNS INTO THE WOODS " * 5
    found = list(subtitles(heard(text, 0.2)))
    assert " ".join(cue for _, _, cue in found).split() == text.split()
    for start, end, cue in found:
        assert end - start <= 6.0 + 1e-9
        assert len(cue.split("\n")) <= 2 and max(map(len, cue.split("\n"))) <= 37
    assert all(end <= start for (_, end, _), (start, *_) in zip(found, found[1:]))


def test_subtitles_end_before_a_pause_and_after_six_seconds():
    assert [cue for *_, cue in subtitles(heard("A B C", 0.2, {2: 0.8}))] == ["A B", "C"]
    assert [cue for *_, cue in subtitles(heard("A B C", 2.5))] == ["A B", "C"]
    long = "X" * 50
    assert [cue for *_, cue in subtitles(heard(f"A {long} B", 0.2))] == [f"A\n{long}", "B"]


def test_words_of_a_script_without_spaces_stay_together():
    assert [cue for *_, cue in subtitles(heard("你 好 吗", 0.2, between=""))] == ["你好吗"]


@pytest.mark.parametrize("name", ["srt", "vtt", "textgrid"])
def test_a_text_without_word_times_is_one_piece(name):
    content = FORMATS[name](SimpleNamespace(text="HELLO", words=[], duration=2.5), "a.wav")
    assert content.count("HELLO") == 1
    end = {"srt": "--> 00:00:02,500", "vtt": "--> 00:00:02.500", "textgrid": "xmax = 2.500"}
    assert end[name] in content


def test_a_name_that_is_not_utf_8_is_written_with_a_sign_in_its_place():
    name = os.fsdecode(b"caf\xe9.wav")
    assert json.loads(FORMATS["json"](HELLO, name))["file"] == "caf\ufffd.wav"
    FORMATS["ctm"](HELLO, name).encode()


# ---- the command, with the network that ships


PROMPTS = Path(__file__).resolve().parents[1] / "data" / "telephone_prompts" / "audio"


def test_transcribe_writes_a_file_for_each_recording(tmp_path, capsys):
    names = ["conf-getpin", "vm-duration"]
    recordings = [str(PROMPTS / f"{name}.opus") for name in names]
    assert cli.transcribe(RECIPE, recordings) == 0
    texts = [line.partition("\t")[2] for line in capsys.readouterr().out.splitlines()]
    folder = tmp_path / "new" / "folder"
    options = ["--format", "json", "--output", str(folder)]
    assert cli.transcribe(RECIPE, [*recordings, *options]) == 0
    files = [folder / f"{name}.json" for name in names]
    assert capsys.readouterr().out.splitlines() == list(map(str, files))
    for file, text in zip(files, texts):
        content = json.loads(file.read_text())
        assert content["text"] == text and text
        assert " ".join(word["word"] for word in content["words"]) == text
        ends = [word["end"] for word in content["words"]]
        assert ends == sorted(ends) and ends[-1] <= content["duration"]


def test_two_recordings_are_not_written_to_one_file(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    recordings = [str(tmp_path / name / "talk.wav") for name in ("a", "b")]
    with pytest.raises(UserError, match=r"would both be written to talk\.srt"):
        cli.transcribe(
            RECIPE, [*recordings, "--format", "srt", "--output", str(tmp_path / "subtitles")]
        )
    assert not (tmp_path / "subtitles").exists()


def test_what_cannot_be_written_or_strung_together_is_refused_at_once(tmp_path):
    (tmp_path / "file").write_text("")
    for folder in ("file", "file/deeper"):
        with pytest.raises(UserError, match="file.*: cannot be written"):
            cli.transcribe(RECIPE, ["a.wav", "--output", str(tmp_path / folder)])
    with pytest.raises(UserError, match="--format srt of 2 recordings: give --output FOLDER"):
        cli.transcribe(RECIPE, ["a.wav", "b.wav", "--format", "srt"])


def test_words_are_printed_or_written_and_highlighted_where_that_has_an_effect(
    tmp_path, capsys, monkeypatch
):
    recordings = [str(PROMPTS / f"{name}.opus") for name in ("conf-getpin", "vm-duration")]
    assert cli.transcribe(RECIPE, [*recordings, "--words"]) == 0
    printed = capsys.readouterr().out
    blocks = printed.split("# ")
    assert [block.split("\n", 1)[0] for block in blocks[1:]] == recordings
    assert cli.transcribe(RECIPE, [recordings[0], "--words", "--output", str(tmp_path)]) == 0
    capsys.readouterr()
    assert (tmp_path / "conf-getpin.words.txt").read_text() == blocks[1].split("\n", 1)[1]
    assert cli.transcribe(RECIPE, [recordings[0], "--highlight"]) == 0
    plain = capsys.readouterr().out
    assert "\x1b" not in plain  # no terminal
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    assert cli.transcribe(RECIPE, [recordings[0], "--highlight"]) == 0
    coloured = capsys.readouterr().out
    assert "\x1b" in coloured and re.sub("\x1b.*?m", "", coloured) == plain


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--words", "--format", "json"], "--words and --format json: give one of the two"),
        (["--highlight", "--format", "ctm"], "--highlight: of no effect on --format ctm"),
        (["--highlight", "--output", "x"], "colours of --format txt are for the terminal"),
    ],
)
def test_options_that_contradict_each_other_are_refused(options, message):
    with pytest.raises(UserError, match=message):
        cli.transcribe(RECIPE, ["a.wav", *options])
