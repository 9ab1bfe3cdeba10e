"""What stops a training run, as a value: `Trainer` returns it, the command line maps it."""

from __future__ import annotations

import ctypes
import enum
import signal
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from common.training.progress import Progress

_KEEP_INTERVAL = 0.02  # seconds
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

    MindSpore 2.10 takes SIGINT over at every graph that it compiles or runs, and answers it with a
    SIGTERM to itself. A thread takes it back, so that Ctrl-C is told from SIGTERM but in the first
    instants of a graph.

    Attributes:
        signal: The signal that asks to stop; None as long as there was none.
    """

    def __init__(self) -> None:
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
        threading.Thread(target=self._keep_sigint, daemon=True).start()
        return self

    def _receive(self, number: int, frame: FrameType | None) -> None:
        self.signal = signal.Signals(number)
        again = signal.SIG_IGN if number == signal.SIGHUP else self._previous[number]
        signal.signal(number, again)

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
        for number, handler in self._previous.items():
            signal.signal(number, handler)


def _sigint_action() -> ctypes.Array[ctypes.c_char]:
    """Read the kernel's `struct sigaction` of SIGINT, which begins with the handler's address."""
    action = ctypes.create_string_buffer(_ACTION_BYTES)
    ctypes.CDLL(None).sigaction(int(signal.SIGINT), None, action)
    return action
