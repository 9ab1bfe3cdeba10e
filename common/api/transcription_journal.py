"""What has been recognised of a long recording, kept so that a killed command can go on.

A file of JSON lines: what is recognised with what, and then a line for each passage, in the order
in which they were finished. A line that was cut off by a kill is left out.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any, TextIO

from common.api.long_recordings import Passage, Position
from common.audio.segmentation import Place
from common.decoding.word_alignment import Word
from common.utils.errors import UserError
from common.utils.files import write_text
from common.utils.json_parsing import parse_json

_VERSION = 1


class Journal:
    """The passages that are finished, in memory and in a file.

    Args:
        path: The file; None: they are in memory alone.
        origin: What a passage depends on: the recording, the network, how it is searched and cut.

    Attributes:
        passages: In the order in which they were finished; those of an earlier command first.
    """

    def __init__(self, path: Path | None, origin: dict[str, Any]):
        self.path = path
        self.passages: list[Passage] = []
        self._file: TextIO | None = None
        if path is None:
            return
        head = json.dumps({"version": _VERSION, **origin}, sort_keys=True)
        lines = _lines(path)
        if lines[:1] == [head]:
            self.passages = _passages(lines[1:])
        write_text(path, "".join(f"{line}\n" for line in [head, *map(_line, self.passages)]))
        try:
            self._file = open(path, "a", encoding="utf-8")
        except OSError as error:
            raise UserError(f"{path}: cannot be written ({error.strerror})") from error

    def add(self, passage: Passage) -> None:
        """Note a finished passage.

        Raises:
            UserError: The file cannot be written.
        """
        self.passages.append(passage)
        if self._file is not None:
            try:
                self._file.write(_line(passage) + "\n")
                self._file.flush()
            except OSError as error:
                raise UserError(f"{self.path}: cannot be written ({error.strerror})") from error

    def positions(self, channels: int) -> list[Position]:
        """Return where to go on with each channel."""
        last = {passage.channel: passage.position for passage in self.passages}
        return [last.get(channel, Position()) for channel in range(channels)]

    def of_channel(self, channel: int) -> list[Passage]:
        """Return the passages of a channel, in their order."""
        return [passage for passage in self.passages if passage.channel == channel]

    def close(self, remove: bool) -> None:
        """Close the file, and remove it where it is not needed any more."""
        if self._file is not None:
            self._file.close()
        if remove and self.path is not None:
            with suppress(OSError):
                self.path.unlink()


def origin_of_file(path: str | Path) -> dict[str, Any]:
    """Describe a file, so that another one of its name is told from it."""
    described: dict[str, Any] = {"path": os.fspath(path)}
    with suppress(OSError):  # such as a MindIR file in two parts, which is named without its ending
        found = os.stat(path)
        described |= {"bytes": found.st_size, "changed": found.st_mtime_ns}
    return described


def _lines(path: Path) -> list[str]:
    """Read the whole lines of a file; none where it is not there."""
    try:
        return path.read_text(encoding="utf-8", errors="replace").split("\n")[:-1]
    except OSError:
        return []


def _line(passage: Passage) -> str:
    return json.dumps(asdict(passage), ensure_ascii=False)


def _passages(lines: Sequence[str]) -> list[Passage]:
    """Read passages, up to a line that is none."""
    found = []
    with suppress(ValueError, TypeError, KeyError):
        for line in lines:
            values = parse_json(line)
            values["words"] = [Word(**word) for word in values["words"]]
            position = values["position"]
            values["position"] = Position(Place(**position["place"]), position["frames"])
            found.append(Passage(**values))
    return found
