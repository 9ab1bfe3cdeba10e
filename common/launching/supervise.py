"""Runs the ranks of a job on this host, restarts them after failures, and leaves none behind.

Linux only: processes are found in /proc, and orphans become children of the launcher
(PR_SET_CHILD_SUBREAPER).
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from common.launching import LaunchError
from common.launching.plan import Plan
from common.launching.rank import end_with_parent, exit_code, make_notes, noted
from common.launching.watching import Signs
from common.utils.streams import is_same_file

_PR_SET_CHILD_SUBREAPER = 36  # linux/prctl.h
_POLL = 0.1  # seconds
_COMPANY = 1.0  # seconds for other ranks to fail of the same cause, before all are ended
_TAIL = 20  # lines of a log
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_GRACE = 30.0  # seconds for writing a checkpoint after SIGTERM
_PAUSE = 1.0  # seconds before a restart, for cards and ports to be released
_LEAVING = 120.0  # seconds for the scheduler of another host to end; about 40 were measured
_IDLE = 2  # no further restart after this many in a row without a new checkpoint
_HUNG = 124  # exit code, as of timeout(1)
_INTERNAL_ERROR = 70  # exit code of `common.cli`; also of a rank that ended with 0 too early
# Exit codes without a restart: bad input (1), wrong options (2), Ctrl-C, kill, a closed terminal.
_FINAL = (1, 2, *(128 + number for number in _SIGNALS))
_SCHEDULER = "scheduler"


class Stopped(Exception):
    """A signal asks the launcher to end; `args` holds its number."""


class _Requests:
    """Signals that ask the launcher to end, until it looks for them.

    The handler raises nothing: Python may call it inside a destructor, where it drops exceptions,
    and the request would be lost.
    """

    def __init__(self) -> None:
        self._numbers: list[int] = []
        self._terminal_closed = False

    def receive(self, number: int, _frame: object) -> None:
        """Keep a signal; the handler of all of them."""
        if number == signal.SIGHUP:  # kernel and shell both send it: the second is no new request
            again, self._terminal_closed = self._terminal_closed, True
            if again:  # it came before the first could be answered
                return
            signal.signal(number, signal.SIG_IGN)
        self._numbers.append(number)

    def check(self) -> None:
        """Raise Stopped for the first signal that was not looked for yet."""
        if self._numbers:
            raise Stopped(self._numbers.pop(0))

    def take(self) -> list[int]:
        """Return the signals that were not looked for yet, and forget them."""
        numbers, self._numbers = self._numbers, []
        return numbers


_requests = _Requests()


@dataclass(frozen=True)
class Outcome:
    """How an attempt to run the job ended.

    Attributes:
        code: The job's exit code.
        reason: Of a failure, in a few words.
        again: Whether a restart makes sense.
        last: The run's newest checkpoint.
    """

    code: int
    reason: str = ""
    again: bool = False
    last: Path | None = None


def run(
    plan: Plan,
    patience: float = 0.0,
    restarts: int = 0,
    replan: Callable[[bool], Plan] | None = None,
) -> int:
    """Run a job to its end.

    Rank 0's log is printed as it grows. When a rank fails, the others are ended, and the last lines
    of the failed rank's log are printed. SIGINT, SIGTERM and SIGHUP are passed on as SIGTERM; ranks
    that still run after $LAUNCH_GRACE seconds (30), or at a second signal, are killed.

    Args:
        plan: The job.
        patience: Seconds without a heartbeat of any rank after which the job is ended, once each
            rank has finished a step (`Signs.limit` before that); 0: no limit.
        restarts: Restarts at most, after failures that a user cannot mend.
        replan: Makes the plan of a restart, to resume (True) or to start from the beginning
            (False). Needed if there are restarts.

    Returns:
        The job's exit code, 128 + number after a signal.

    Raises:
        LaunchError: A log or temporary file cannot be written.
    """
    grace = _grace()
    _make_room(plan)
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    try:
        return _attempts(plan, patience, grace, restarts, replan)
    except Stopped as stopped:  # between two attempts, when nothing runs
        return 128 + stopped.args[0]


def _attempts(
    plan: Plan,
    patience: float,
    grace: float,
    restarts: int,
    replan: Callable[[bool], Plan] | None,
) -> int:
    left, idle = restarts, 0
    last: Path | None = None
    before: tuple[int, int] | None = None
    while True:
        outcome = _attempt(plan, patience, grace)
        if not outcome.again or not restarts or replan is None:
            return outcome.code
        last = outcome.last or last  # an attempt that failed while starting up knows of none
        checkpoint = _identity(last)
        if left < restarts:  # that was a restart
            idle = idle + 1 if checkpoint == before else 0
        before = checkpoint
        if not left or idle == _IDLE:
            why = f"{_IDLE} in a row brought no new checkpoint" if left else f"all {restarts} used"
            _say(f"no further restart, {why}; {outcome.reason}; RESUME=1 goes on")
            return outcome.code
        left -= 1
        start = f"from {last}" if checkpoint else "from the beginning, without a checkpoint yet"
        _say(f"restart {restarts - left} of {restarts}, {left} left: {outcome.reason}; {start}")
        time.sleep(_PAUSE)
        _requests.check()
        if plan.meeting and plan.node:
            _until_nobody_listens(plan.meeting)
        _keep_logs(plan, restarts - left)
        plan = replan(checkpoint is not None)


def _attempt(plan: Plan, patience: float, grace: float) -> Outcome:
    with _status(plan) as status:
        job = _Job(plan, Path(status), patience)
        try:
            _answer(_requests.receive)
            job.start()
            outcome = job.watch()
        except Stopped as stopped:
            outcome = Outcome(job.stop(stopped.args[0], grace))
        finally:
            _kill_descendants()
            job.show()
    late = _requests.take()  # signals that came while the processes were being ended
    return Outcome(128 + late[0]) if late and outcome.again else outcome


def _status(plan: Plan) -> tempfile.TemporaryDirectory:
    """Create the folder of $LAUNCH_STATUS, with the files for exit codes and heartbeats."""
    try:
        folder = tempfile.TemporaryDirectory(prefix="launch-", ignore_cleanup_errors=True)
        make_notes(Path(folder.name), [_SCHEDULER, *(rank.name for rank in plan.ranks)])
    except OSError as error:
        raise LaunchError(
            f"the folder for temporary files cannot be written ({error.strerror}): make room, or "
            "set TMPDIR to another one"
        ) from None
    return folder


def _answer(handler: Callable) -> None:
    for number in _SIGNALS:
        if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:  # by nohup
            signal.signal(number, handler)


def _grace() -> float:
    text = os.environ.get("LAUNCH_GRACE", str(_GRACE))
    try:
        return float(text)
    except ValueError:
        raise LaunchError(f"LAUNCH_GRACE={text}: expected seconds", 2) from None


def _logs(folder: Path) -> list[Path]:
    names = {f"{name}.log" for name in (_SCHEDULER, "msrun", "mpirun")}
    return [
        *folder.glob("worker_*.log"),
        *(path for path in folder.glob("*.log") if path.name in names),
    ]


def hold(plan: Plan) -> int:
    """Lock the log folder of a job, by a hidden file beside it: a single process needs no folder.

    The lock holds while this process, or one that it forks, has the returned file open; it ends
    with them, however they end.

    Args:
        plan: The job.

    Returns:
        The file descriptor of the lock.

    Raises:
        LaunchError: Another job has the folder, or it cannot be written.
    """
    path = plan.logs.with_name(f".{plan.logs.name}.lock")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    except OSError as error:
        raise LaunchError(f"{path}: cannot be written ({error.strerror})") from None
    with suppress(OSError):  # a file system without locks
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)
            raise LaunchError(
                f"{plan.logs}: another job is running with its logs here: wait for it, or train in "
                "another clone (--log_dir separates the logs, but not metrics.csv, train.log and "
                "checkpoint/)"
            ) from None
    return lock


def _make_room(plan: Plan) -> None:
    """Remove the logs of an earlier job, which may have had more ranks, or more restarts."""
    try:
        plan.logs.mkdir(parents=True, exist_ok=True)
        for folder in (plan.logs, *plan.logs.glob("attempt_*")):
            for old in _logs(folder):
                if is_same_file(sys.stdout, old) or is_same_file(sys.stderr, old):
                    raise LaunchError(
                        f"{old}: the output of this command goes there, and a process of the job "
                        "writes this log itself: choose another file"
                    )
                old.unlink(missing_ok=True)
            if folder != plan.logs:
                with suppress(OSError):  # it holds other files, too
                    folder.rmdir()
    except OSError as error:
        raise LaunchError(f"{plan.logs}: cannot be written ({error.strerror})") from None


def _until_nobody_listens(address: tuple[str, int], seconds: float = _LEAVING) -> None:
    """Wait until the scheduler of the failed attempt has ended.

    It accepts no rank twice, and needs a while to notice that one is gone. If the scheduler of the
    next attempt answers already, this costs no more than the wait.
    """
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        _requests.check()
        try:
            socket.create_connection(address, timeout=5).close()
        except OSError:
            return
        time.sleep(_POLL)


def _keep_logs(plan: Plan, attempt: int) -> None:
    """Move the logs to a folder of this attempt; errors, such as of a full disk, are ignored."""
    with suppress(OSError):
        folder = plan.logs / f"attempt_{attempt}"
        folder.mkdir(exist_ok=True)
        for log in _logs(plan.logs):
            log.replace(folder / log.name)


def _identity(path: Path | None) -> tuple[int, int] | None:
    """Identify the file at a path, so that a newer one differs; None if there is none."""
    if path is None:
        return None
    with suppress(OSError):
        stat = path.stat()
        return stat.st_mtime_ns, stat.st_ino
    return None


class _Job:
    """One attempt to run a plan."""

    def __init__(self, plan: Plan, status: Path, patience: float) -> None:
        self.plan, self.status, self.patience = plan, status, patience
        self.started: list[subprocess.Popen] = []
        self.names = [rank.name for rank in plan.ranks]
        self.signs = Signs(status, self.names)
        # A single process writes to the output of the launcher.
        self.followed = plan.log_of(self.names[0]) if plan.start != "alone" else None
        # Rank 0 writes the same lines to the entry point's own log: not twice into one file.
        self.shows = not (plan.entry_log and is_same_file(sys.stdout, plan.entry_log))
        self.shown = 0  # bytes of this log that were printed
        self.ended: dict[str, int] = {}  # exit codes, in the order in which they were seen
        self.vanished: set[str] = set()  # ranks that were killed together with their wrapper
        self.early: set[str] = set()  # ranks that ended with 0 without being finished

    def start(self) -> None:
        """Start the processes of the plan."""
        launcher = os.getpid()
        for process in self.plan.processes:
            name = self.plan.start if self.plan.starter else f"worker_{process.name}"
            log = None
            if self.followed:
                path = self.plan.logs / f"{name}.log"
                try:
                    log = open(path, "wb")
                except OSError as error:
                    raise LaunchError(f"{path}: cannot be written ({error.strerror})") from None
            started = subprocess.Popen(
                process.command,
                cwd=self.plan.folder,
                env={**process.settings(), "LAUNCH_STATUS": str(self.status)},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT if log else None,
                start_new_session=True,  # Ctrl-C reaches the launcher only
                preexec_fn=lambda: end_with_parent(launcher),
            )
            if log:
                log.close()
            self.started.append(started)

    def watch(self) -> Outcome:
        """Wait for the end of the job, for a failure or for a hang."""
        since = None  # when the first failure was seen
        while True:
            time.sleep(_POLL)
            _requests.check()
            self.show()
            now = time.monotonic()
            started = [process.poll() for process in self.started]  # before looking at the ranks
            self.look()
            self.signs.look(now)
            if not self.plan.starter:  # these are the ranks
                for name, code in zip(self.names, started):
                    if code is not None:
                        self.ended.setdefault(name, exit_code(code))
            elif started[0] is not None and started[0] < 0:  # killed, together with its ranks
                return self.report_starter(exit_code(started[0]))
            self.early = {n for n, c in self.ended.items() if not c and not self.signs.done(n)}
            failed = {name: code for name, code in self.ended.items() if code}
            failed |= dict.fromkeys(self.early, _INTERNAL_ERROR)
            scheduler = self.end_of(_SCHEDULER) if self.plan.starter else None
            if not failed and scheduler and len(self.ended) < len(self.names):
                failed = {_SCHEDULER: scheduler}
            if failed:
                since = since or now
                if now - since >= _COMPANY or len(self.ended) == len(self.names):
                    return self.report(failed)
            elif len(self.ended) == len(self.names):  # all finished
                if None not in started or not self.plan.elsewhere:
                    return Outcome(0)  # else the scheduler still serves other hosts
            elif self.plan.starter and started[0] is not None:
                return self.report_starter(exit_code(started[0]))
            elif self.patience and self.signs.quiet >= self.signs.limit(self.patience):
                return self.report_hang()

    def look(self) -> None:
        """Record the ranks that have ended."""
        for name in self.names:
            if name not in self.ended and (code := self.end_of(name)) is not None:
                self.ended[name] = code

    def end_of(self, name: str) -> int | None:
        """Return the exit code of a rank or the scheduler; None while it runs, or if unknown."""
        note = noted(self.status / name)
        if len(note) == 1 and not _alive(note[0]):
            note = noted(self.status / name)  # it may have written its exit code since
            if len(note) == 1:
                self.vanished.add(name)
                return 128 + signal.SIGKILL
        return note[1] if len(note) == 2 else None

    def report(self, failed: dict[str, int]) -> Outcome:
        """Print what failed, with the last lines of its log; the exit code is the first one's."""
        self.signs.look(time.monotonic())  # for heartbeats that have come since
        # msrun kills the other ranks together with their wrappers: these were not at fault. If all
        # were killed like that, it cannot be told.
        guilty = [name for name in failed if name not in self.vanished] or list(failed)
        self.show()
        reasons = [self._report_rank(name, failed[name]) for name in guilty]
        others = [name for name in self.names if name not in guilty and self.ended.get(name) != 0]
        # Some devices' libraries stop waiting for another rank after a while. msrun may have killed
        # that rank since.
        if failed[guilty[0]] == _INTERNAL_ERROR and (
            missed := self.signs.missed(guilty[0], others)
        ):
            reasons[0] += f", perhaps for want of rank {', '.join(missed)}"
            for name in missed:
                _say(f"it may have waited for rank {name}, {self.signs.describe(name)}")
        if others:
            _say(f"ending the others: {', '.join(others)}")
        again = not {failed[name] for name in guilty} & {*_FINAL}
        return Outcome(failed[guilty[0]], reasons[0], again, self.signs.last())

    def _report_rank(self, name: str, code: int) -> str:
        """Print how a process ended, with the end of its log; return the first without the log."""
        who = name if name == _SCHEDULER else f"rank {name}"
        if self.plan.start == "alone":
            who = "the training"
        how = f"{who} ended with exit code {code}"
        if name in self.early:
            how = f"{who} ended with exit code 0 before its work was done"
        log = self.plan.log_of(name)
        if self.followed is None:
            _say(how)
        elif log == self.followed and self.shows:
            _say(f"{how}; its log, shown above: {log}")
        else:
            _say(f"{how}; the last lines of {log}:")
            _say(_tail(log))
        return how

    def report_hang(self) -> Outcome:
        """Name the ranks that the others wait for, and ask them to print their stack."""
        running = [name for name in self.names if name not in self.ended]
        late = self.signs.behind(running)
        for name in late:  # a suspended process will not answer
            with suppress(OSError, KeyError):
                os.kill(self.signs.latest[name].pid, signal.SIGUSR1)
        time.sleep(_COMPANY)
        self.show()
        seen = "; ".join(f"rank {name} {self.signs.describe(name)}" for name in late)
        if self.plan.start == "alone":
            seen = self.signs.describe(late[0])
            what = "the training hangs"
        elif len(late) < len(running):
            what = f"the others wait for rank {', '.join(late)}"
        else:
            here = " of this host" if self.plan.elsewhere else ""
            what = f"all ranks{here} have come equally far"
        quiet = f"{self.signs.limit(self.patience):g} s"
        if not self.signs.stepping:
            quiet += " before the first step"
        _say(f"hang: no sign of life for {quiet} (--hang_timeout): {what}; {seen}")
        for name in late if self.followed else ():
            log = self.plan.log_of(name)
            if log != self.followed or not self.shows:
                _say(f"the last lines of {log}:\n{_tail(log)}")
        return Outcome(_HUNG, f"hang, {what}", True, self.signs.last())

    def report_starter(self, code: int) -> Outcome:
        """Print that msrun or mpirun itself failed."""
        log = self.plan.logs / f"{self.plan.start}.log"
        how = f"{self.plan.start} ended with exit code {code}"
        _say(f"{how}; the last lines of {log}:")
        _say(_tail(log))
        code = code or 1
        return Outcome(code, how, code not in _FINAL, self.signs.last())

    def stop(self, number: int, grace: float) -> int:
        """Ask every rank to end, wait for `grace` seconds, and return the exit code."""
        name = signal.Signals(number).name
        _say(f"{name}: ending {len(self.names)} ranks; once more to kill them")
        deadline = time.monotonic() + grace
        try:
            if self.plan.starter:
                for process in self.started:  # or it would kill all ranks once the first has ended
                    with suppress(OSError):
                        process.send_signal(signal.SIGSTOP)
            wrappers = {rank: note[0] for rank in self.names if (note := noted(self.status / rank))}
            for wrapper in wrappers.values():
                with suppress(OSError):
                    os.kill(wrapper, signal.SIGTERM)
            while time.monotonic() < deadline and not wrappers.keys() <= self.ended.keys():
                time.sleep(_POLL)
                _requests.check()
                self.look()
                self.show()
            if late := [rank for rank in wrappers if rank not in self.ended]:
                _say(
                    f"rank {', '.join(late)} did not exit within {grace:g} s; killing it. "
                    "LAUNCH_GRACE=SECONDS before the command gives more time, for the end of a "
                    "step and a checkpoint"
                )
        except Stopped:
            _say("killing them")
        return 128 + number

    def show(self) -> None:
        """Print what is new in the first rank's log, up to its last complete line."""
        if self.followed is None or not self.shows:
            return
        with suppress(OSError), open(self.followed, "rb") as file:
            file.seek(self.shown)
            text = file.read()
            text = text[: text.rfind(b"\n") + 1]
            self.shown += len(text)
            if text:
                sys.stdout.write(text.decode("utf-8", "replace"))
                sys.stdout.flush()


def _say(text: str) -> None:
    with suppress(OSError):  # the terminal may be gone; the ranks still have to be ended
        print(text, file=sys.stderr, flush=True)


def _tail(path: Path) -> str:
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return "(there is none)"
    return "\n".join(f"  {line}" for line in lines[-_TAIL:]) or "  (it is empty)"


# ---- processes


def _alive(pid: int) -> bool:
    """Whether a process exists and is no zombie."""
    try:
        return _stat(pid)[0] not in "ZX"
    except OSError:
        return False


def _stat(pid: int) -> tuple[str, int]:
    """State and parent. The name in brackets may itself hold spaces and brackets."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    state, parent = fields.rpartition(")")[2].split()[:2]
    return state, int(parent)


def descendants(pid: int) -> Iterator[int]:
    """List the running processes that descend from a process.

    Args:
        pid: The process.

    Yields:
        Process ids.
    """
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
        next_level = children.get(waiting.pop(), [])
        yield from next_level
        waiting += next_level


def _kill_descendants() -> None:
    """Kill until there are none: a process that loses its parent becomes our child."""
    deadline = time.monotonic() + 10
    while pids := list(descendants(os.getpid())):
        for pid in pids:
            with suppress(OSError):
                os.kill(pid, signal.SIGKILL)
        with suppress(OSError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        if time.monotonic() > deadline:
            numbers = ", ".join(map(str, pids))
            raise LaunchError(f"processes {numbers} cannot be killed: a driver may hold them")
        time.sleep(0.02)
