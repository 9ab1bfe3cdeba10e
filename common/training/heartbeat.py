"""Signs of life of a training process, for the launcher that watches over it.

The launcher names a file in $LAUNCH_BEAT; without it nothing is written. Each sign is one small
write in place (some microseconds): it needs no free disk, and what fails is let go, for no run ends
over it. `common/launching/watching.py` reads the signs.
"""

from __future__ import annotations

import faulthandler
import os
import signal
from contextlib import suppress
from pathlib import Path

BEAT = "LAUNCH_BEAT"  # variable of the environment: this process's own file
LAST = "last"  # file beside it: the path of the run's newest checkpoint, there or not yet
SIZE = 80  # bytes, padded with blanks: the launcher never sees a longer line's end
DONE = "done"


class Heartbeat:
    """Writes `COLLECTIVES STEPS PID ACTIVITY` into this process's file.

    COLLECTIVES counts the operations among all ranks that this process has entered: a rank that has
    entered fewer than the others is the one they wait for. STEPS counts the optimizer steps since
    the process started.
    """

    def __init__(self):
        self.collectives = self.steps = 0
        self._activity, self._file = "starting", None
        if path := os.environ.get(BEAT):
            with suppress(OSError):
                self._file = os.open(path, os.O_WRONLY | os.O_CREAT, 0o666)
            with suppress(OSError, ValueError, AttributeError, RuntimeError):
                # Asked by the launcher, a process that hangs shows where, in its log.
                faulthandler.register(signal.SIGUSR1, all_threads=True, chain=False)
            self.beat()

    def set_checkpoint(self, last: Path) -> None:
        """Announce where the newest checkpoint of this run will lie.

        Args:
            last: Path of the checkpoint. What lies there from here on is of this run, not an
                earlier one.
        """
        if self._file is not None:
            with suppress(OSError):
                place = Path(os.environ[BEAT]).with_name(LAST)
                file = os.open(place, os.O_WRONLY | os.O_CREAT, 0o666)
                try:  # in place, as a sign; all ranks say the same
                    os.pwrite(file, os.fsencode(last.resolve()) + b"\n", 0)
                finally:
                    os.close(file)

    def beat(self, activity: str = "") -> None:
        """Write a sign of life.

        Args:
            activity: What the process does, in a few words; "": the same as before.
        """
        self._activity = activity or self._activity
        if self._file is not None:
            line = f"{self.collectives} {self.steps} {os.getpid()} {self._activity}"
            with suppress(OSError):
                os.pwrite(self._file, line.encode().ljust(SIZE)[:SIZE], 0)

    def collective_entered(self) -> None:
        """Count an operation among all ranks."""
        self.collectives += 1
        self.beat()

    def step_finished(self, step: int) -> None:
        """Count an optimizer step.

        Args:
            step: Number of the step in the run, which may have been resumed.
        """
        self.steps += 1
        self.beat(f"after step {step}")

    def finished(self) -> None:
        """Mark this process as finished.

        The launcher treats exit code 0 without this mark as a failure.
        """
        self.beat(DONE)
