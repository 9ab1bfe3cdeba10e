"""Transcripts with word times in the formats that other programs read.

- json: text, duration and words with start, end (seconds) and confidence.
- srt: SubRip subtitles; vtt: Web Video Text Tracks (W3C, https://www.w3.org/TR/webvtt1/).
- ctm: a line a word: recording, channel, start, duration, word, confidence (NIST SCTK, ctm.htm).
- textgrid: an interval tier of words for Praat (long text format).
- words: a line a word: start, end, confidence, word.
- txt: the text alone.

Some of them can highlight: subtitles the word that is being said, the others by colours of a
terminal how sure each word is.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Protocol

# Of subtitles: short enough to be read in passing.
MOST_CHARACTERS = 37  # in a line
MOST_LINES = 2
LONGEST = 6.0  # seconds that a subtitle stays
PAUSE = 0.7  # seconds without a word, after which the next one begins a subtitle

# Least confidence, and the colour of ECMA-48 (SGR): green, yellow, and red with an underline for
# those who cannot tell these apart.
_COLOURS = ((0.8, "32"), (0.5, "33"), (-1.0, "31;4"))


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
    if len(hypotheses := getattr(transcript, "hypotheses", ())) > 1:
        content["nbest"] = [
            {"text": each.text, "score": round(each.score, 4)} for each in hypotheses
        ]
    return json.dumps(content, ensure_ascii=False) + "\n"


def to_words(transcript: TimedText, name: str) -> str:
    """Return a line for each word: start, end, confidence, word."""
    return "".join(_word_line(word, word.word) for word in transcript.words)


def _word_line(word: TimedWord, text: str) -> str:
    return f"{word.start:9.3f} {word.end:9.3f} {word.confidence:6.3f}  {text}\n"


def to_srt(transcript: TimedText, name: str) -> str:
    """Return SubRip subtitles."""
    return _as_srt(subtitles(transcript))


def to_vtt(transcript: TimedText, name: str) -> str:
    """Return Web Video Text Tracks."""
    return _as_vtt((start, end, escaped(text)) for start, end, text in subtitles(transcript))


def _as_srt(cues: Iterable[tuple[float, float, str]]) -> str:
    return "\n".join(
        f"{number}\n{clock(start, ',')} --> {clock(end, ',')}\n{text}\n"
        for number, (start, end, text) in enumerate(cues, 1)
    )


def _as_vtt(cues: Iterable[tuple[float, float, str]]) -> str:
    return "WEBVTT\n" + "".join(
        f"\n{clock(start, '.')} --> {clock(end, '.')}\n{text}\n" for start, end, text in cues
    )


def to_ctm(transcript: TimedText, name: str, channel: int = 1) -> str:
    """Return a line for each word; in it and in the file's name, "_" stands for spaces."""
    recording = "_".join(printable(Path(name).stem).split())
    return "".join(
        f"{recording} {channel} {word.start:.3f} {word.end - word.start:.3f} "
        f"{'_'.join(word.word.split())} "
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
        if stop > max(start, place):  # Praat takes no empty interval: a word that was not found
            intervals.append((max(start, place), stop, text))
        place = max(stop, place)
    end = max(end, place)
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
    "words": to_words,
}
ENDINGS = {name: f".{name}" for name in FORMATS} | {"textgrid": ".TextGrid", "words": ".words.txt"}


# ---- highlighting


def coloured_txt(transcript: TimedText, name: str) -> str:
    """Return the text, its words in colours by their confidence."""
    if not transcript.words:
        return to_txt(transcript, name)
    between = _between(transcript)
    return between.join(_coloured(word) for word in transcript.words) + "\n"


def coloured_words(transcript: TimedText, name: str) -> str:
    """Return what `to_words` does, the words in colours by their confidence."""
    return "".join(_word_line(word, _coloured(word)) for word in transcript.words)


def _coloured(word: TimedWord) -> str:
    colour = next(colour for least, colour in _COLOURS if word.confidence >= least)
    return f"\x1b[{colour}m{word.word}\x1b[0m"


def marked_srt(transcript: TimedText, name: str) -> str:
    """Return SubRip subtitles in which the word that is being said is underlined."""
    return _as_srt(_marked(transcript, lambda text: text))


def marked_vtt(transcript: TimedText, name: str) -> str:
    """Return Web Video Text Tracks in which the word that is being said is underlined."""
    return _as_vtt(_marked(transcript, escaped))


def _marked(
    transcript: TimedText, escape: Callable[[str], str]
) -> Iterator[tuple[float, float, str]]:
    """Yield a cue for each word of a subtitle, and one without mark for each pause in it."""
    if not transcript.words:
        yield from ((start, end, escape(text)) for start, end, text in _whole(transcript))
    between = _between(transcript)
    for lines in _gathered(transcript):
        place = lines[0][0].start
        for word in (word for line in lines for word in line):
            if word.start > place:
                yield place, word.start, _underlined(lines, None, between, escape)
            if word.end > word.start:
                yield word.start, word.end, _underlined(lines, word, between, escape)
            place = max(place, word.end)


def _underlined(
    lines: list[list[TimedWord]],
    said: TimedWord | None,
    between: str,
    escape: Callable[[str], str],
) -> str:
    """Return the text of a subtitle, one word underlined."""
    return "\n".join(
        between.join(
            f"<u>{escape(word.word)}</u>" if word is said else escape(word.word) for word in line
        )
        for line in lines
    )


HIGHLIGHTED: dict[str, Callable[[TimedText, str], str]] = {
    "txt": coloured_txt,
    "words": coloured_words,
    "srt": marked_srt,
    "vtt": marked_vtt,
}


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
    between = _between(transcript)
    for lines in _gathered(transcript):
        text = "\n".join(between.join(word.word for word in line) for line in lines)
        yield lines[0][0].start, lines[-1][-1].end, text


def _gathered(transcript: TimedText) -> Iterator[list[list[TimedWord]]]:
    """Yield the lines of each subtitle, as words."""
    lines: list[list[TimedWord]] = []
    between = len(_between(transcript))
    for word in transcript.words:
        longer = _with(lines, word, between)
        fits = (
            lines
            and word.start - lines[-1][-1].end < PAUSE
            and word.end - lines[0][0].start <= LONGEST
        )
        if fits and len(longer) <= MOST_LINES:
            lines = longer
        else:
            if lines:
                yield lines
            lines = [[word]]
    if lines:
        yield lines


def _between(transcript: TimedText) -> str:
    """Return what separates words: nothing in scripts that separate none, as Han."""
    return "" if "".join(word.word for word in transcript.words) == transcript.text else " "


def _whole(transcript: TimedText) -> list[tuple[float, float, str]]:
    """Return the text as one piece, if there is any."""
    return [(0.0, transcript.duration, transcript.text)] if transcript.text else []


def _with(lines: list[list[TimedWord]], word: TimedWord, between: int) -> list[list[TimedWord]]:
    """Return the lines of a subtitle with one more word."""
    if lines:
        longer = [*lines[-1], word]
        length = sum(len(each.word) for each in longer) + between * (len(longer) - 1)
        if length <= MOST_CHARACTERS:
            return [*lines[:-1], longer]
    return [*lines, [word]]


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
