"""Compare the durations that manifests declare with those of the recordings."""

from __future__ import annotations

from dataclasses import dataclass

from common.audio.segments import TOLERANCE
from common.data.manifest import Utterance

_SHARE = 0.02  # of a recording's duration, which is no difference worth a word either


@dataclass
class DurationNotice:
    """Counts the recordings that last longer or shorter than the manifest says.

    Segments are not compared: their durations are what is read.

    Attributes:
        declared: Recordings whose duration the manifest declares.
        differing: Those that last longer or shorter.
        first: Describes the first of them.
    """

    declared: int = 0
    differing: int = 0
    first: str = ""

    def add(self, utterance: Utterance, seconds: float) -> None:
        """Compare an utterance with the duration of its recording."""
        if utterance.duration is None or utterance.offset is not None:
            return
        self.declared += 1
        if abs(utterance.duration - seconds) <= max(TOLERANCE, _SHARE * seconds):
            return
        self.differing += 1
        self.first = self.first or (
            f"{utterance.id}, {utterance.duration:.2f} s in the manifest and {seconds:.2f} s in "
            f"{utterance.audio}"
        )

    def line(self) -> str | None:
        """Return a line for the user; None where nothing differs."""
        if not self.differing:
            return None
        return (
            f"{self.differing} of {self.declared} recordings do not last as long as the manifest "
            f"says (the first: {self.first}); they are read whole: are these the right recordings? "
            'For a part of one, the manifest needs "offset" too'
        )
