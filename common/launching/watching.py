"""Reads the signs of life of the ranks on this host (`common.training.heartbeat` writes them)."""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from common.launching.rank import LAST, beat_of

_DONE = "done"  # as `common.training.heartbeat` has it
_GAP = 1.0  # seconds of silence that one look can see at most: the launcher may have been stopped
# Before the first step libraries load, ranks meet, graphs are compiled: signs may be so many times
# as far apart as afterwards, and so many seconds in any case.
_START, _START_SECONDS = 4, 1800.0
_STATES = {"T": "stopped", "t": "stopped", "D": "in the kernel, for a disk or a driver"}


@dataclass(frozen=True)
class Sign:
    meetings: int  # times that the rank came to where all ranks meet
    steps: int  # done by this process
    pid: int  # of the job, not of what watches it
    what: str


class Signs:
    def __init__(self, status: Path, names: list[str]):
        self.status, self.names = status, names
        self.found: dict[str, Sign] = {}
        self.quiet = 0.0  # seconds in which no rank has given a sign
        self._seen: dict[str, tuple[str, int]] = {}
        self._looked = 0.0

    def look(self, now: float) -> None:
        """now: seconds, of any clock that goes forward."""
        gap, self._looked = now - self._looked, now
        fresh = False
        for name in self.names:
            path = beat_of(self.status, name)
            with suppress(OSError, ValueError):
                text = path.read_text(encoding="utf-8")
                # Two signs of the same words have other times, but for those of one clock tick.
                if (seen := (text, path.stat().st_mtime_ns)) == self._seen.get(name):
                    continue
                meetings, steps, pid, what = text.split(maxsplit=3)
                self.found[name] = Sign(int(meetings), int(steps), int(pid), what.strip())
                self._seen[name], fresh = seen, True
        self.quiet = 0.0 if fresh else self.quiet + min(gap, _GAP)

    @property
    def stepping(self) -> bool:
        """Whether every rank has done a step."""
        return all(name in self.found and self.found[name].steps for name in self.names)

    def limit(self, patience: float) -> float:
        """Seconds that the ranks may be quiet for now. patience: once they do steps."""
        return patience if self.stepping else max(_START * patience, _START_SECONDS)

    def done(self, name: str) -> bool:
        """Whether a rank may end; so may all of an entry point that gives no signs."""
        sign = self.found.get(name)
        return sign.what == _DONE if sign else not self.found

    def last(self) -> Path | None:
        """Where this run's newest checkpoint is, or will be; None before the run has begun."""
        with suppress(OSError):
            path, end, _ = (self.status / LAST).read_bytes().partition(b"\n")
            return Path(os.fsdecode(path)) if end else None
        return None

    def behind(self, running: list[str]) -> list[str]:
        """Of the ranks that run, those that the others wait for: they have given no sign at all, or
        come to fewer meetings, or, where all have come to the same, do not run. All, where it
        cannot be told."""
        met = {name: self.found[name].meetings if name in self.found else -1 for name in running}
        late = [name for name in running if met[name] == min(met.values())]
        if len(late) < len(running):
            return late
        return [name for name in late if self.state(name)] or late

    def missed(self, name: str, others: list[str]) -> list[str]:
        """Of the other ranks, those that one which gave up waiting may have waited for."""
        came = self.found[name].meetings if name in self.found else 0
        there = [each for each in others if each in self.found]
        return [each for each in there if self.found[each].meetings < came or self.state(each)]

    def state(self, name: str) -> str:
        """Why a rank's process does not run, "" where it does or sleeps."""
        with suppress(OSError, KeyError):
            stat = Path(f"/proc/{self.found[name].pid}/stat").read_text(encoding="utf-8")
            return _STATES.get(stat.rpartition(")")[2].split()[0], "")
        return ""

    def told(self, name: str) -> str:
        """Where a rank was last, in words."""
        if name not in self.found:
            return "not seen since it was started"
        sign, state = self.found[name], self.state(name)
        return f"last seen {sign.what} (process {sign.pid}{', ' if state else ''}{state})"
