"""What stops a training run, as a value: `Trainer` returns it, the command line maps it."""

from __future__ import annotations

import ctypes
import enum
import os
import signal
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from common.training.progress import Progress

_KEEP_INTERVAL = 0.02  # seconds
_SECOND_SIGNAL_SECONDS = 3.0  # for Python to act on a second signal, before the process ends
_ACTION_BYTES = 512  # room for a `struct sigaction`: 152 bytes on x86-64 and arm64
_POINTER = ctypes.sizeof(ctypes.c_void_p)


class StopReason(enum.Enum):
    """Why a run ended."""

    FINISHED = "all epochs are done"
    OUT_OF_PATIENCE = "TrainingConfig.patience evaluations without a better one"
    INTERRUPTED = "a signal"  # SIGINT, SIGTERM or SIGHUP, to this process or to another rank
    DIVERGED = "gradients that stayed non-finite"
    REMOTE_FAILURE = "a failure of another rank"


@dataclass(frozen=True)
class Stop:
    """A reason with its particulars.

    Attributes:
        reason: Why the run ends.
        signal: Of INTERRUPTED.
        message: Of DIVERGED and REMOTE_FAILURE: one line, what to do among it.
    """

    reason: StopReason
    signal: signal.Signals | None = None
    message: str = ""


@dataclass(frozen=True)
class TrainingResult:
    """Where a run ended, and why.

    Attributes:
        stop: What ended the run.
        progress: Epochs and steps done, best error rates.
        last_checkpoint: What `resume` continues from, on rank 0's host; there after the first
            evaluation.
        best_checkpoint: The weights with the lowest validation WER; None without an evaluation.
        files: Metrics and plots that this process has written.
    """

    stop: Stop
    progress: Progress
    last_checkpoint: Path
    best_checkpoint: Path | None = None
    files: tuple[Path, ...] = ()

    @property
    def completed(self) -> bool:
        """Whether the run ended as planned, by its epochs or its patience."""
        return self.stop.reason in (StopReason.FINISHED, StopReason.OUT_OF_PATIENCE)


class StopRequest:
    """Turns the first SIGINT, SIGTERM or SIGHUP into a request to stop, while it is entered.

    A second SIGINT or SIGTERM acts at once, as it would have without us. SIGHUP does not: the
    kernel and the shell both send it when a terminal is closed. Under nohup it is ignored.

    Python runs handlers between two instructions of its own, and so not while MindSpore computes a
    step, which may take minutes. A thread therefore says at once that the signal has come. At the
    second one it ends the process itself, if Python has not within three seconds.

    MindSpore 2.10 takes SIGINT over at every graph that it compiles or runs, and answers it with a
    SIGTERM to itself. A thread takes it back, so that Ctrl-C is told from SIGTERM, except in the
    first instants of a graph and while a compiled one is loaded from disk. Then it ends the run in
    the same way, but with SIGTERM's exit code.

    Attributes:
        signal: The signal that asks to stop; None as long as there was none.
    """

    def __init__(self, say: Callable[[str], None] = lambda line: None) -> None:
        """Set what tells the user, in a line, that the request has been understood."""
        self._say = say
        self._wakeup: tuple[int, int] | None = None  # our end of a pipe for signals, and the former
        self.signal: signal.Signals | None = None
        self._previous: dict[int, Callable[[int, FrameType | None], Any] | int | None] = {}
        self._left = threading.Event()
        self._ours: ctypes.Array[ctypes.c_char] | None = None  # SIGINT's action while entered

    def __enter__(self) -> StopRequest:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            if number == signal.SIGHUP and signal.getsignal(number) == signal.SIG_IGN:
                continue
            try:
                self._previous[number] = signal.signal(number, self._receive)
            except ValueError:  # not in the main thread: Python delivers no signals here
                return self
        self._left.clear()
        self._ours = _sigint_action()
        numbers, ours = os.pipe()
        os.set_blocking(ours, False)
        self._wakeup = ours, signal.set_wakeup_fd(ours, warn_on_full_buffer=False)
        threading.Thread(target=self._acknowledge, args=(numbers,), daemon=True).start()
        threading.Thread(target=self._keep_sigint, daemon=True).start()
        return self

    def _receive(self, number: int, frame: FrameType | None) -> None:
        self.signal = signal.Signals(number)
        again = signal.SIG_IGN if number == signal.SIGHUP else self._previous[number]
        signal.signal(number, again)

    def _acknowledge(self, numbers: int) -> None:
        """Read the numbers of signals as the kernel delivers them, and answer the first two."""
        first = True
        with os.fdopen(numbers, "rb", buffering=0) as pipe:
            while byte := pipe.read(1):
                if byte[0] not in self._previous:
                    continue
                number = signal.Signals(byte[0])
                if first:
                    again = "; Ctrl-C once more stops now and loses the step"
                    self._say(
                        f"{number.name}: stopping after this step, then a checkpoint is written"
                        + (again if number == signal.SIGINT else "")
                    )
                elif number != signal.SIGHUP and not self._left.wait(_SECOND_SIGNAL_SECONDS):
                    self._say(f"{number.name} again: stopped in the middle of a step")
                    os._exit(128 + number)
                first = False

    def _keep_sigint(self) -> None:
        """Restore our handler of SIGINT again and again, until we leave."""
        while self.signal is None and not self._left.wait(_KEEP_INTERVAL):
            self.restore_sigint()

    def restore_sigint(self) -> None:
        """Restore our handler of SIGINT where MindSpore has replaced it while running a graph."""
        ours = self._ours
        if ours is None or self.signal is not None or self._left.is_set():
            return
        if _sigint_action()[:_POINTER] != ours[:_POINTER]:
            ctypes.CDLL(None).sigaction(int(signal.SIGINT), ours, None)

    def __exit__(self, *_: object) -> None:
        self._left.set()
        if self._wakeup is not None:
            ours, former = self._wakeup
            signal.set_wakeup_fd(former)
            os.close(ours)  # ends the thread that reads
            self._wakeup = None
        for number, handler in self._previous.items():
            signal.signal(number, handler)


def _sigint_action() -> ctypes.Array[ctypes.c_char]:
    """Read the kernel's `struct sigaction` of SIGINT, which begins with the handler's address."""
    action = ctypes.create_string_buffer(_ACTION_BYTES)
    ctypes.CDLL(None).sigaction(int(signal.SIGINT), None, action)
    return action
