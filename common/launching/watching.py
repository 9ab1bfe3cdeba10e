"""The heartbeats of the ranks on this host, which `common.training.heartbeat` writes."""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from common.launching.rank import LAST, beat_of

_DONE = "done"  # as `common.training.heartbeat` writes it
_GAP = 1.0  # seconds of silence counted per look at most: the launcher may have been suspended
# Before the first step libraries load, ranks connect and graphs are compiled: heartbeats may be
# this many times as far apart as later, and never less than this many seconds.
_START, _START_SECONDS = 4, 1800.0
_STATES = {"T": "stopped", "t": "stopped", "D": "in the kernel, for a disk or a driver"}


@dataclass(frozen=True)
class Sign:
    """A heartbeat of a rank.

    Attributes:
        meetings: Collective operations that the rank has entered.
        steps: Training steps of this process.
        pid: Of the entry point, not of its wrapper.
        what: What the rank did last, such as "after step 3".
    """

    meetings: int
    steps: int
    pid: int
    what: str


class Signs:
    """The last heartbeat of each rank, and for how long there has been none.

    Args:
        status: The folder of $LAUNCH_STATUS.
        names: The ranks.
    """

    def __init__(self, status: Path, names: list[str]):
        self.status, self.names = status, names
        self.latest: dict[str, Sign] = {}
        self.quiet = 0.0  # seconds without a heartbeat of any rank
        self._seen: dict[str, tuple[str, int]] = {}
        self._looked = 0.0

    def look(self, now: float) -> None:
        """Read the heartbeats.

        Args:
            now: Seconds of a monotonic clock.
        """
        gap, self._looked = now - self._looked, now
        fresh = False
        for name in self.names:
            path = beat_of(self.status, name)
            with suppress(OSError, ValueError):
                text = path.read_text(encoding="utf-8")
                # Two heartbeats with the same words differ in time, except within one clock tick.
                if (seen := (text, path.stat().st_mtime_ns)) == self._seen.get(name):
                    continue
                meetings, steps, pid, what = text.split(maxsplit=3)
                self.latest[name] = Sign(int(meetings), int(steps), int(pid), what.strip())
                self._seen[name], fresh = seen, True
        self.quiet = 0.0 if fresh else self.quiet + min(gap, _GAP)

    @property
    def stepping(self) -> bool:
        """Whether every rank has finished a step."""
        return all(name in self.latest and self.latest[name].steps for name in self.names)

    def limit(self, patience: float) -> float:
        """Return the seconds without a heartbeat after which the job counts as hanging.

        Args:
            patience: This limit once every rank has finished a step.

        Returns:
            The present limit.
        """
        return patience if self.stepping else max(_START * patience, _START_SECONDS)

    def done(self, name: str) -> bool:
        """Tell whether a rank has marked itself as finished.

        Args:
            name: The rank.

        Returns:
            Whether exit code 0 of this rank is a success; True if no rank has a heartbeat.
        """
        sign = self.latest.get(name)
        return sign.what == _DONE if sign else not self.latest

    def last(self) -> Path | None:
        """Return the path of this run's newest checkpoint, None before the run has begun."""
        with suppress(OSError):
            path, end, _ = (self.status / LAST).read_bytes().partition(b"\n")
            return Path(os.fsdecode(path)) if end else None
        return None

    def behind(self, running: list[str]) -> list[str]:
        """List the ranks that the others wait for.

        These have given no heartbeat, or have entered fewer collective operations; if all have
        entered the same number, they are those whose process is suspended.

        Args:
            running: The ranks that have not ended.

        Returns:
            The late ranks; all of them where it cannot be told.
        """
        entered = {
            name: self.latest[name].meetings if name in self.latest else -1 for name in running
        }
        late = [name for name in running if entered[name] == min(entered.values())]
        if len(late) < len(running):
            return late
        return [name for name in late if self.state(name)] or late

    def missed(self, name: str, others: list[str]) -> list[str]:
        """List the ranks that a failed rank may have waited for.

        Args:
            name: The rank that failed.
            others: Ranks that have not failed by themselves.

        Returns:
            Those of `others` that entered fewer collective operations, or are suspended.
        """
        entered = self.latest[name].meetings if name in self.latest else 0
        return [
            other
            for other in others
            if other in self.latest and (self.latest[other].meetings < entered or self.state(other))
        ]

    def state(self, name: str) -> str:
        """Return why a rank's process is suspended, "" where it runs or sleeps."""
        with suppress(OSError, KeyError):
            stat = Path(f"/proc/{self.latest[name].pid}/stat").read_text(encoding="utf-8")
            return _STATES.get(stat.rpartition(")")[2].split()[0], "")
        return ""

    def describe(self, name: str) -> str:
        """Describe the last heartbeat of a rank, for messages."""
        if name not in self.latest:
            return "not seen since it was started"
        sign, state = self.latest[name], self.state(name)
        return f"last seen {sign.what} (process {sign.pid}{', ' if state else ''}{state})"
