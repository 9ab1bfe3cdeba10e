"""Transcripts of several channels, each with a speaker of its own, in the formats of one.

- txt: a line a turn, "1: " before what the first channel says; srt: likewise in subtitles.
- vtt: voice tags (W3C, https://www.w3.org/TR/webvtt1/#webvtt-cue-voice-span).
- json: a list of channels; ctm: the second column; textgrid: a tier a channel.

Channels are counted from 1.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from itertools import groupby
from typing import NamedTuple

from common.text.transcript_formats import (
    TimedText,
    clock,
    escaped,
    printable,
    subtitles,
    textgrid,
    to_ctm,
    to_json,
    to_words,
)


class _Cue(NamedTuple):
    start: float
    end: float
    channel: int
    text: str


def _txt(channels: Sequence[TimedText], name: str) -> str:
    """Return a line for each turn."""
    space = " " if any(" " in channel.text for channel in channels) else ""
    turns = groupby(_cues(channels), key=lambda cue: cue.channel)
    return "".join(
        f"{channel}: {space.join(cue.text for cue in cues)}\n".replace("\n", space).rstrip() + "\n"
        for channel, cues in turns
    )


def _json(channels: Sequence[TimedText], name: str) -> str:
    """Return a JSON object, on one line."""
    parts = [json.loads(to_json(channel, name)) for channel in channels]
    content = {
        "file": printable(name),
        "duration": parts[0]["duration"],
        "channels": [
            {"channel": number}
            | {key: value for key, value in part.items() if key not in ("file", "duration")}
            for number, part in enumerate(parts, 1)
        ],
    }
    return json.dumps(content, ensure_ascii=False) + "\n"


def _srt(channels: Sequence[TimedText], name: str) -> str:
    """Return SubRip subtitles of all channels."""
    return "\n".join(
        f"{number}\n{clock(cue.start, ',')} --> {clock(cue.end, ',')}\n{cue.channel}: {cue.text}\n"
        for number, cue in enumerate(_cues(channels), 1)
    )


def _vtt(channels: Sequence[TimedText], name: str) -> str:
    """Return Web Video Text Tracks of all channels."""
    cues = (
        f"\n{clock(cue.start, '.')} --> {clock(cue.end, '.')}\n"
        f"<v Channel {cue.channel}>{escaped(cue.text)}\n"
        for cue in _cues(channels)
    )
    return "WEBVTT\n" + "".join(cues)


def _ctm(channels: Sequence[TimedText], name: str) -> str:
    """Return a line for each word, channel by channel."""
    return "".join(to_ctm(channel, name, number) for number, channel in enumerate(channels, 1))


def _words(channels: Sequence[TimedText], name: str) -> str:
    """Return a line for each word, channel by channel."""
    return "".join(
        f"# channel {number}\n{to_words(channel, name)}"
        for number, channel in enumerate(channels, 1)
    )


def _textgrid(channels: Sequence[TimedText], name: str) -> str:
    """Return a tier of words for each channel."""
    return textgrid({f"words {number}": each for number, each in enumerate(channels, 1)})


DIALOGUE_FORMATS: dict[str, Callable[[Sequence[TimedText], str], str]] = {
    "txt": _txt,
    "json": _json,
    "srt": _srt,
    "vtt": _vtt,
    "ctm": _ctm,
    "textgrid": _textgrid,
    "words": _words,
}


def _cues(channels: Sequence[TimedText]) -> list[_Cue]:
    """Return the subtitles of all channels, in the order of their starts."""
    return sorted(
        _Cue(start, end, number, text)
        for number, channel in enumerate(channels, 1)
        for start, end, text in subtitles(channel)
    )
