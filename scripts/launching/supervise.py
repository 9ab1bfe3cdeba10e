"""Runs the ranks of a job on this host, and leaves none behind.

Linux: processes are found in /proc, and orphans come to us (PR_SET_CHILD_SUBREAPER).
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from scripts.launching import Fault
from scripts.launching.plan import Plan
from scripts.launching.rank import end_with_parent, exit_code

_PR_SET_CHILD_SUBREAPER = 36  # linux/prctl.h
_POLL = 0.1  # seconds
_COMPANY = 1.0  # seconds in which others may fail of the same cause, before all are ended
_TAIL = 20  # lines of a log
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_GRACE = 30.0  # seconds to write a checkpoint in after SIGTERM


class Stopped(Exception):
    """A signal asks the launcher to end; args: its number."""


def run(plan: Plan) -> int:
    """Starts the plan's processes and returns the job's exit code, 128 + number after a signal.

    Rank 0's log is shown as it grows. The first rank that fails ends the others; the last lines of
    what failed are shown. SIGINT, SIGTERM and SIGHUP are passed on as SIGTERM, and what is still
    there after $LAUNCH_GRACE seconds (30), or a second signal, is killed.
    """
    try:
        plan.logs.mkdir(parents=True, exist_ok=True)
        for old in [*plan.logs.glob("worker_*.log"), plan.logs / "scheduler.log"]:
            old.unlink(missing_ok=True)  # of a run with more ranks, perhaps
    except OSError as error:
        raise Fault(f"{plan.logs}: cannot be written ({error.strerror})") from None
    grace = _grace()
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    with tempfile.TemporaryDirectory(prefix="launch-") as status:
        job = _Job(plan, Path(status))
        try:
            for number in _SIGNALS:
                signal.signal(number, _stop)
            job.start()
            return job.watch()
        except Stopped as stopped:
            return job.stop(stopped.args[0], grace)
        finally:
            for number in _SIGNALS:  # whoever is impatient cannot stop this
                signal.signal(number, signal.SIG_IGN)
            _kill_descendants()
            job.show()


def _grace() -> float:
    text = os.environ.get("LAUNCH_GRACE", str(_GRACE))
    try:
        return float(text)
    except ValueError:
        raise Fault(f"LAUNCH_GRACE={text}: expected seconds", 2) from None


def _stop(number: int, _frame: object) -> None:
    raise Stopped(number)


class _Job:
    def __init__(self, plan: Plan, status: Path) -> None:
        self.plan, self.status = plan, status
        self.started: list[subprocess.Popen] = []
        self.names = [rank.name for rank in plan.ranks]
        self.followed = plan.log_of(self.names[0])
        self.shown = 0  # bytes of it
        self.ended: dict[str, int] = {}  # exit codes, in the order in which they were seen
        self.vanished: set[str] = set()  # ranks that were killed with what watches them

    def start(self) -> None:
        me = os.getpid()
        for process in self.plan.processes:
            name = f"worker_{process.name}" if process.name else self.plan.start
            with open(self.plan.logs / f"{name}.log", "wb") as log:
                started = subprocess.Popen(
                    process.command,
                    cwd=self.plan.folder,
                    env={**process.settings(), "LAUNCH_STATUS": str(self.status)},
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,  # Ctrl-C comes to us alone
                    preexec_fn=lambda: end_with_parent(me),
                )
            self.started.append(started)

    def watch(self) -> int:
        since = None  # when the first failure was seen
        while True:
            time.sleep(_POLL)
            self.show()
            now = time.monotonic()
            started = [process.poll() for process in self.started]  # before its ranks are looked at
            self.look()
            if self.plan.start == "rank_table":  # no starter: these are the ranks
                for name, code in zip(self.names, started):
                    if code is not None:
                        self.ended.setdefault(name, exit_code(code))
            failed = {name: code for name, code in self.ended.items() if code}
            if failed:
                since = since or now
                if now - since >= _COMPANY or len(self.ended) == len(self.names):
                    return self.report(failed)
            elif len(self.ended) == len(self.names):  # all well
                if None not in started or not self.plan.elsewhere:
                    return 0  # else its scheduler serves other hosts still
            elif self.plan.start != "rank_table" and started[0] is not None:
                return self.report_starter(exit_code(started[0]))

    def look(self) -> None:
        """Notes the ranks that have ended."""
        for name in self.names:
            if name in self.ended:
                continue
            with suppress(OSError, ValueError):
                pid, *code = self._noted(name)
                if not code and not _alive(pid):
                    _, *code = self._noted(name)  # it may have written it since
                    if not code:
                        self.vanished.add(name)
                        code = [128 + signal.SIGKILL]
                if code:
                    self.ended[name] = code[0]

    def _noted(self, name: str) -> list[int]:
        """Process and, once it has ended, exit code of a rank."""
        return [int(word) for word in (self.status / name).read_text(encoding="ascii").split()]

    def report(self, failed: dict[str, int]) -> int:
        """Says which ranks failed, and why as far as their logs tell; returns the first's code."""
        # msrun kills the others, with what watches them: those were not at fault, unless there
        # are no others, and then it cannot be told.
        guilty = [name for name in failed if name not in self.vanished] or list(failed)
        self.show()
        for name in guilty:
            log, code = self.plan.log_of(name), failed[name]
            if log == self.followed:
                _say(f"rank {name} ended with exit code {code}; its log, shown above: {log}")
                continue
            _say(f"rank {name} ended with exit code {code}; the last lines of {log}:")
            _say(_tail(log))
        others = [name for name in self.names if name not in guilty and self.ended.get(name) != 0]
        if others:
            _say(f"ending the others: {', '.join(others)}")
        return failed[guilty[0]]

    def report_starter(self, code: int) -> int:
        log = self.plan.logs / f"{self.plan.start}.log"
        _say(f"{self.plan.start} ended with exit code {code}; the last lines of {log}:")
        _say(_tail(log))
        return code or 1

    def stop(self, number: int, grace: float) -> int:
        """Lets every rank end in its own way, for a while."""
        name = signal.Signals(number).name
        _say(f"{name}: ending {len(self.names)} ranks; once more to kill them")
        deadline = time.monotonic() + grace
        try:
            if self.plan.start != "rank_table":
                for process in self.started:  # or it would kill all once the first has ended
                    with suppress(OSError):
                        process.send_signal(signal.SIGSTOP)
            for rank in self.names:
                with suppress(OSError, ValueError, IndexError):
                    os.kill(self._noted(rank)[0], signal.SIGTERM)
            asked = {path.name for path in self.status.iterdir()} & {*self.names}
            while time.monotonic() < deadline and not asked <= set(self.ended):
                time.sleep(_POLL)
                self.look()
                self.show()
        except Stopped:
            _say("killing them")
        return 128 + number

    def show(self) -> None:
        """What has come to the first rank's log, as far as its last whole line."""
        with suppress(OSError), open(self.followed, "rb") as file:
            file.seek(self.shown)
            text = file.read()
            text = text[: text.rfind(b"\n") + 1]
            self.shown += len(text)
            if text:
                sys.stdout.write(text.decode("utf-8", "replace"))
                sys.stdout.flush()


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _tail(path: Path) -> str:
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return "(there is none)"
    return "\n".join(f"  {line}" for line in lines[-_TAIL:]) or "  (it is empty)"


# ---- processes


def _alive(pid: int) -> bool:
    """Whether it runs: neither gone nor waiting to be reaped."""
    try:
        return _stat(pid)[0] not in "ZX"
    except OSError:
        return False


def _stat(pid: int) -> tuple[str, int]:
    """State and parent. The name between brackets may hold spaces and brackets."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    state, parent = fields.rpartition(")")[2].split()[:2]
    return state, int(parent)


def descendants(pid: int) -> Iterator[int]:
    """All processes that descend from one, that run."""
    children: dict[int, list[int]] = {}
    for entry in os.listdir("/proc"):
        if entry.isdecimal():
            with suppress(OSError):
                state, parent = _stat(int(entry))
                children.setdefault(parent, []).append(int(entry))
                if state == "Z":
                    children[parent].pop()
    waiting = [pid]
    while waiting:
        found = children.get(waiting.pop(), [])
        yield from found
        waiting += found


def _kill_descendants() -> None:
    """Until there are none: what loses its parent becomes our child."""
    deadline = time.monotonic() + 10
    while found := list(descendants(os.getpid())):
        for pid in found:
            with suppress(OSError):
                os.kill(pid, signal.SIGKILL)
        with suppress(OSError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        if time.monotonic() > deadline:
            numbers = ", ".join(map(str, found))
            raise Fault(f"processes {numbers} cannot be killed: a driver may hold them")
        time.sleep(0.02)
