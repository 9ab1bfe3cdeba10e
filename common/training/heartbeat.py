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
    """Says `MEETINGS STEPS PID what it does`: the times that this process came to where all ranks
    meet (a rank that has come less often than the others is the one they wait for), and the
    optimizer steps done since it started."""

    def __init__(self):
        self.meetings = self.steps = 0
        self._what, self._file = "starting", None
        if path := os.environ.get(BEAT):
            with suppress(OSError):
                self._file = os.open(path, os.O_WRONLY | os.O_CREAT, 0o666)
            with suppress(OSError, ValueError, AttributeError, RuntimeError):
                # Asked by the launcher, a process that hangs shows where, in its log.
                faulthandler.register(signal.SIGUSR1, all_threads=True, chain=False)
            self.beat()

    def set_checkpoint(self, last: Path) -> None:
        """From here on what lies at `last` is of this run and no earlier one: to go on from."""
        if self._file is not None:
            with suppress(OSError):
                place = Path(os.environ[BEAT]).with_name(LAST)
                file = os.open(place, os.O_WRONLY | os.O_CREAT, 0o666)
                try:  # in place, as a sign; all ranks say the same
                    os.pwrite(file, os.fsencode(last.resolve()) + b"\n", 0)
                finally:
                    os.close(file)

    def beat(self, what: str = "") -> None:
        self._what = what or self._what
        if self._file is not None:
            line = f"{self.meetings} {self.steps} {os.getpid()} {self._what}"
            with suppress(OSError):
                os.pwrite(self._file, line.encode().ljust(SIZE)[:SIZE], 0)

    def collective_entered(self) -> None:
        self.meetings += 1
        self.beat()

    def step_finished(self, step: int) -> None:
        """step: of the run, which may have been resumed."""
        self.steps += 1
        self.beat(f"after step {step}")

    def finished(self) -> None:
        """This process has nothing left to do: it may end with exit code 0, and none that has not
        said so may."""
        self.beat(DONE)
