"""Transcripts with word times in the formats that other programs read.

- json: text, duration and words with start, end (seconds) and confidence.
- srt: SubRip subtitles; vtt: Web Video Text Tracks (W3C, https://www.w3.org/TR/webvtt1/).
- ctm: a line a word: recording, channel, start, duration, word, confidence (NIST SCTK, ctm.htm).
- textgrid: an interval tier of words for Praat (long text format).
- txt: the text alone.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Protocol

# Of subtitles: short enough to be read in passing.
MOST_CHARACTERS = 37  # in a line
MOST_LINES = 2
LONGEST = 6.0  # seconds that a subtitle stays
PAUSE = 0.7  # seconds without a word, after which the next one begins a subtitle


class TimedWord(Protocol):
    """What is needed of a word; `common.decoding.word_alignment.Word` is one."""

    @property
    def word(self) -> str:
        """As it stands in the text."""

    @property
    def start(self) -> float:
        """Seconds from the beginning of the recording."""

    @property
    def end(self) -> float:
        """Seconds."""

    @property
    def confidence(self) -> float:
        """From 0 to 1."""


class TimedText(Protocol):
    """What is needed of a transcript; `common.api.recognizer.Transcript` is one."""

    @property
    def text(self) -> str:
        """What was said."""

    @property
    def words(self) -> Sequence[TimedWord]:
        """With times."""

    @property
    def duration(self) -> float:
        """Of the recording, in seconds."""


def to_txt(transcript: TimedText, name: str) -> str:
    """Return the text."""
    return transcript.text + "\n"


def to_json(transcript: TimedText, name: str) -> str:
    """Return a JSON object, on one line."""
    words = [
        {
            "word": word.word,
            "start": word.start,
            "end": word.end,
            "confidence": round(word.confidence, 4),
        }
        for word in transcript.words
    ]
    content = {
        "file": printable(name),
        "text": transcript.text,
        "duration": round(transcript.duration, 3),
        "words": words,
    }
    return json.dumps(content, ensure_ascii=False) + "\n"


def to_srt(transcript: TimedText, name: str) -> str:
    """Return SubRip subtitles."""
    return "\n".join(
        f"{number}\n{clock(start, ',')} --> {clock(end, ',')}\n{text}\n"
        for number, (start, end, text) in enumerate(subtitles(transcript), 1)
    )


def to_vtt(transcript: TimedText, name: str) -> str:
    """Return Web Video Text Tracks."""
    cues = (
        f"\n{clock(start, '.')} --> {clock(end, '.')}\n{escaped(text)}\n"
        for start, end, text in subtitles(transcript)
    )
    return "WEBVTT\n" + "".join(cues)


def to_ctm(transcript: TimedText, name: str, channel: int = 1) -> str:
    """Return a line for each word; the recording is its file's name without suffix and spaces."""
    recording = "_".join(printable(Path(name).stem).split())
    return "".join(
        f"{recording} {channel} {word.start:.3f} {word.end - word.start:.3f} {word.word} "
        f"{word.confidence:.4f}\n"
        for word in transcript.words
    )


def to_textgrid(transcript: TimedText, name: str) -> str:
    """Return a tier of words, with empty intervals between them, as Praat wants it."""
    return textgrid({"words": transcript})


def textgrid(tiers: Mapping[str, TimedText]) -> str:
    """Return tiers of words.

    Args:
        tiers: Transcripts of one recording, by the names of their tiers.
    """
    ends = [max([each.duration, *(word.end for word in each.words)]) for each in tiers.values()]
    end = max(ends)
    lines = [
        'File type = "ooTextFile"',
        'Object class = "TextGrid"',
        "",
        "xmin = 0",
        f"xmax = {end:.3f}",
        "tiers? <exists>",
        f"size = {len(tiers)}",
        "item []:",
    ]
    for number, (name, transcript) in enumerate(tiers.items(), 1):
        lines += _tier(number, name, transcript, end)
    return "\n".join(lines) + "\n"


def _tier(tier: int, name: str, transcript: TimedText, end: float) -> list[str]:
    """Return the lines of a tier, whose intervals fill the recording up to `end`."""
    intervals: list[tuple[float, float, str]] = []
    place = 0.0
    for start, stop, text in [(word.start, word.end, word.word) for word in transcript.words] or (
        _whole(transcript)
    ):
        if start > place:
            intervals.append((place, start, ""))
        intervals.append((max(start, place), stop, text))
        place = stop
    if end > place or not intervals:
        intervals.append((place, end, ""))
    lines = [
        f"    item [{tier}]:",
        '        class = "IntervalTier"',
        f'        name = "{name}"',
        "        xmin = 0",
        f"        xmax = {end:.3f}",
        f"        intervals: size = {len(intervals)}",
    ]
    for number, (start, stop, text) in enumerate(intervals, 1):
        doubled = text.replace('"', '""')
        lines += [
            f"        intervals [{number}]:",
            f"            xmin = {start:.3f}",
            f"            xmax = {stop:.3f}",
            f'            text = "{doubled}"',
        ]
    return lines


FORMATS: dict[str, Callable[[TimedText, str], str]] = {
    "txt": to_txt,
    "json": to_json,
    "srt": to_srt,
    "vtt": to_vtt,
    "ctm": to_ctm,
    "textgrid": to_textgrid,
}
ENDINGS = {name: f".{name}" for name in FORMATS} | {"textgrid": ".TextGrid"}


def subtitles(transcript: TimedText) -> Iterator[tuple[float, float, str]]:
    """Gather words into subtitles.

    A subtitle has at most two lines of 37 characters and six seconds, and ends before a pause; a
    longer word has a line of its own. A text whose words have no times is one subtitle.

    Args:
        transcript: Its words are in order.

    Yields:
        Start and end in seconds, and text, its lines parted by a line feed.
    """
    if not transcript.words:
        yield from _whole(transcript)
    together = "".join(word.word for word in transcript.words) == transcript.text
    between = "" if together else " "  # of scripts that separate no words, as Han
    lines: list[str] = []
    start = end = 0.0
    for word in transcript.words:
        longer = _with(lines, word.word, between)
        fits = lines and word.start - end < PAUSE and word.end - start <= LONGEST
        if fits and len(longer) <= MOST_LINES:
            lines = longer
        else:
            if lines:
                yield start, end, "\n".join(lines)
            lines, start = [word.word], word.start
        end = word.end
    if lines:
        yield start, end, "\n".join(lines)


def _whole(transcript: TimedText) -> list[tuple[float, float, str]]:
    """Return the text as one piece, if there is any."""
    return [(0.0, transcript.duration, transcript.text)] if transcript.text else []


def _with(lines: list[str], word: str, between: str) -> list[str]:
    """Return the lines of a subtitle with one more word."""
    if lines and len(lines[-1]) + len(between) + len(word) <= MOST_CHARACTERS:
        return [*lines[:-1], f"{lines[-1]}{between}{word}"]
    return [*lines, word]


def clock(seconds: float, point: str) -> str:
    """Return hours, minutes, seconds and milliseconds, as subtitles have them.

    Args:
        seconds: From the beginning of the recording.
        point: What stands before the milliseconds.
    """
    milliseconds = round(seconds * 1000)
    minutes, milliseconds = divmod(milliseconds, 60_000)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:02}:{minutes:02}:{milliseconds // 1000:02}{point}{milliseconds % 1000:03}"


def printable(name: str) -> str:
    """Return a file's name with a sign in place of bytes that are not UTF-8."""
    return os.fsencode(name).decode(errors="replace")


def escaped(text: str) -> str:
    """Return a text as WebVTT needs it."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
