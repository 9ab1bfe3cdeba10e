"""Runs the ranks of a job on this host, and leaves none behind.

Linux: processes are found in /proc, and orphans come to us (PR_SET_CHILD_SUBREAPER).
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

from common.launching import Fault
from common.launching.plan import Plan
from common.launching.rank import end_with_parent, exit_code, make_notes, noted
from common.launching.watching import Signs

_PR_SET_CHILD_SUBREAPER = 36  # linux/prctl.h
_POLL = 0.1  # seconds
_COMPANY = 1.0  # seconds in which others may fail of the same cause, before all are ended
_TAIL = 20  # lines of a log
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_GRACE = 30.0  # seconds to write a checkpoint in after SIGTERM
_PAUSE = 1.0  # seconds before a restart: cards and ports are given back
_LEAVING = 120.0  # seconds for the scheduler of another host to end in; some 40 were seen
_IDLE = 2  # restarts in a row without a new checkpoint, after which there is no other
_HUNG = 124  # exit code, as timeout(1) has it
_FAULT = 70  # exit code of `common.cli`; ours too for a rank that ended with 0 too early
# Exit codes after which the same would happen again, or that somebody asked for: bad input, an
# unknown option, Ctrl-C, kill, a closed terminal. All others may be tried again.
_FINAL = (1, 2, *(128 + number for number in _SIGNALS))
_SCHEDULER = "scheduler"


class Stopped(Exception):
    """A signal asks the launcher to end; args: its number."""


@dataclass(frozen=True)
class Outcome:
    code: int  # the job's exit code
    reason: str = ""  # of a failure, in a few words
    again: bool = False  # whether it makes sense to try once more
    last: Path | None = None  # where the run's newest checkpoint is, or will be


def run(
    plan: Plan,
    patience: float = 0.0,
    restarts: int = 0,
    replan: Callable[[bool], Plan] | None = None,
) -> int:
    """Starts the plan's processes and returns the job's exit code, 128 + number after a signal.

    Rank 0's log is shown as it grows. The first rank that fails ends the others; the last lines of
    what failed are shown. SIGINT, SIGTERM and SIGHUP are passed on as SIGTERM, and what is still
    there after $LAUNCH_GRACE seconds (30), or a second signal, is killed.

    patience: seconds without a sign of life from any rank, once each has done a step, after which
    the job is ended (before: `Signs.limit`); 0: no limit. restarts: at most so many after failures
    that are not the user's to mend, with the plan that `replan` makes to go on (True) or to begin
    (False).
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
    left, idle, known, last = restarts, 0, None, None
    while True:
        outcome = _attempt(plan, patience, grace)
        if not outcome.again or not restarts:
            return outcome.code
        last = outcome.last or last  # an attempt that ended while it started up knows of none
        found = _identity(last)
        if left < restarts:  # that was a restart
            idle = idle + 1 if found == known else 0
        known = found
        if not left or idle == _IDLE:
            why = f"{_IDLE} in a row brought no new checkpoint" if left else f"all {restarts} used"
            _say(f"no further restart, {why}; {outcome.reason}; RESUME=1 goes on")
            return outcome.code
        left -= 1
        whence = f"from {last}" if found else "from the beginning, without a checkpoint yet"
        _say(f"restart {restarts - left} of {restarts}, {left} left: {outcome.reason}; {whence}")
        _answer(_stop)
        time.sleep(_PAUSE)
        if plan.meeting and plan.node:
            _until_nobody_listens(plan.meeting)
        _keep_logs(plan, restarts - left)
        plan = replan(found is not None)


def _attempt(plan: Plan, patience: float, grace: float) -> Outcome:
    with _status(plan) as status:
        job = _Job(plan, Path(status), patience)
        late: list[int] = []  # signals while all is being ended
        try:
            _answer(_stop)
            job.start()
            outcome = job.watch()
        except Stopped as stopped:
            outcome = Outcome(job.stop(stopped.args[0], grace))
        finally:
            _answer(lambda number, _: late.append(number))  # whoever is impatient cannot stop this
            _kill_descendants()
            job.show()
    return Outcome(128 + late[0]) if late and outcome.again else outcome


def _status(plan: Plan) -> tempfile.TemporaryDirectory:
    """The folder in which ranks say how they are, with room for it."""
    try:
        folder = tempfile.TemporaryDirectory(prefix="launch-", ignore_cleanup_errors=True)
        make_notes(Path(folder.name), [_SCHEDULER, *(rank.name for rank in plan.ranks)])
    except OSError as error:
        raise Fault(
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
        raise Fault(f"LAUNCH_GRACE={text}: expected seconds", 2) from None


def _stop(number: int, _frame: object) -> None:
    if number == signal.SIGHUP:  # the kernel and the shell both send it: that is no impatience
        signal.signal(number, signal.SIG_IGN)
    raise Stopped(number)


def _logs(folder: Path) -> list[Path]:
    names = {f"{name}.log" for name in (_SCHEDULER, "msrun", "mpirun")}
    return [
        *folder.glob("worker_*.log"),
        *(path for path in folder.glob("*.log") if path.name in names),
    ]


def hold(plan: Plan) -> int:
    """Keeps other jobs out of the log folder for as long as this process, or one that it forks,
    has the file open whose descriptor is returned: a launcher that was killed keeps none out.

    Raises Fault where another job has it.
    """
    path = plan.logs / "job.lock"
    try:
        plan.logs.mkdir(parents=True, exist_ok=True)
        lock = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    except OSError as error:
        raise Fault(f"{path}: cannot be written ({error.strerror})") from None
    with suppress(OSError):  # a file system without locks
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)
            raise Fault(
                f"{plan.logs}: another job that runs has its logs here: wait for it, or train in "
                "another clone (--log_dir parts the logs, not metrics.csv, train.log, checkpoint/)"
            ) from None
    return lock


def _make_room(plan: Plan) -> None:
    """Removes the logs of an earlier job, which may have had more ranks, or more restarts."""
    try:
        plan.logs.mkdir(parents=True, exist_ok=True)
        for folder in (plan.logs, *plan.logs.glob("attempt_*")):
            for old in _logs(folder):
                old.unlink(missing_ok=True)
            if folder != plan.logs:
                with suppress(OSError):  # not ours alone
                    folder.rmdir()
    except OSError as error:
        raise Fault(f"{plan.logs}: cannot be written ({error.strerror})") from None


def _until_nobody_listens(address: tuple[str, int], seconds: float = _LEAVING) -> None:
    """The scheduler of the attempt that failed takes no rank twice, and learns only after a while
    that one is gone. (One that is the next attempt's already costs no more than the wait.)"""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            socket.create_connection(address, timeout=5).close()
        except OSError:
            return
        time.sleep(_POLL)


def _keep_logs(plan: Plan, attempt: int) -> None:
    """In a folder of their own, out of the way of the next attempt's. A full disk is no reason not
    to go on."""
    with suppress(OSError):
        folder = plan.logs / f"attempt_{attempt}"
        folder.mkdir(exist_ok=True)
        for log in _logs(plan.logs):
            log.replace(folder / log.name)


def _identity(path: Path | None) -> tuple[int, int] | None:
    """Tells one checkpoint of a name from the next; None where there is none."""
    if path is None:
        return None
    with suppress(OSError):
        found = path.stat()
        return found.st_mtime_ns, found.st_ino
    return None


class _Job:
    def __init__(self, plan: Plan, status: Path, patience: float) -> None:
        self.plan, self.status, self.patience = plan, status, patience
        self.started: list[subprocess.Popen] = []
        self.names = [rank.name for rank in plan.ranks]
        self.signs = Signs(status, self.names)
        # A single process writes where the launcher does.
        self.followed = plan.log_of(self.names[0]) if plan.start != "alone" else None
        self.shown = 0  # bytes of it
        self.ended: dict[str, int] = {}  # exit codes, in the order in which they were seen
        self.vanished: set[str] = set()  # ranks that were killed with what watches them
        self.early: set[str] = set()  # ranks that ended with 0 and are not done

    def start(self) -> None:
        me = os.getpid()
        for process in self.plan.processes:
            name = self.plan.start if self.plan.starter else f"worker_{process.name}"
            log = None
            if self.followed:
                path = self.plan.logs / f"{name}.log"
                try:
                    log = open(path, "wb")
                except OSError as error:
                    raise Fault(f"{path}: cannot be written ({error.strerror})") from None
            started = subprocess.Popen(
                process.command,
                cwd=self.plan.folder,
                env={**process.settings(), "LAUNCH_STATUS": str(self.status)},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT if log else None,
                start_new_session=True,  # Ctrl-C comes to us alone
                preexec_fn=lambda: end_with_parent(me),
            )
            if log:
                log.close()
            self.started.append(started)

    def watch(self) -> Outcome:
        since = None  # when the first failure was seen
        while True:
            time.sleep(_POLL)
            self.show()
            now = time.monotonic()
            started = [process.poll() for process in self.started]  # before its ranks are looked at
            self.look()
            self.signs.look(now)
            if not self.plan.starter:  # these are the ranks
                for name, code in zip(self.names, started):
                    if code is not None:
                        self.ended.setdefault(name, exit_code(code))
            elif started[0] is not None and started[0] < 0:  # killed, and its ranks with it
                return self.report_starter(exit_code(started[0]))
            self.early = {n for n, c in self.ended.items() if not c and not self.signs.done(n)}
            failed = {name: code for name, code in self.ended.items() if code}
            failed |= dict.fromkeys(self.early, _FAULT)
            scheduler = self.end_of(_SCHEDULER) if self.plan.starter else None
            if failed or (scheduler and len(self.ended) < len(self.names)):
                since = since or now
                if now - since >= _COMPANY or len(self.ended) == len(self.names):
                    return self.report(failed or {_SCHEDULER: scheduler})
            elif len(self.ended) == len(self.names):  # all well
                if None not in started or not self.plan.elsewhere:
                    return Outcome(0)  # else its scheduler serves other hosts still
            elif self.plan.starter and started[0] is not None:
                return self.report_starter(exit_code(started[0]))
            elif self.patience and self.signs.quiet >= self.signs.limit(self.patience):
                return self.report_hang()

    def look(self) -> None:
        """Notes the ranks that have ended."""
        for name in self.names:
            if name not in self.ended and (code := self.end_of(name)) is not None:
                self.ended[name] = code

    def end_of(self, name: str) -> int | None:
        """The exit code of a rank, or of the scheduler; None while it runs, or was never there."""
        found = noted(self.status / name)
        if len(found) == 1 and not _alive(found[0]):
            found = noted(self.status / name)  # it may have written it since
            if len(found) == 1:
                self.vanished.add(name)
                return 128 + signal.SIGKILL
        return found[1] if len(found) == 2 else None

    def report(self, failed: dict[str, int]) -> Outcome:
        """Says what failed, and why as far as the logs tell; the code is the first one's."""
        self.signs.look(time.monotonic())  # the last ones may have come since
        # msrun kills the others, with what watches them: those were not at fault, unless there
        # are no others, and then it cannot be told.
        guilty = [name for name in failed if name not in self.vanished] or list(failed)
        self.show()
        said = [self._say_of(name, failed[name]) for name in guilty]
        others = [name for name in self.names if name not in guilty and self.ended.get(name) != 0]
        # The libraries of some devices wait for another rank no longer than a while. Those may have
        # been killed by msrun since.
        if failed[guilty[0]] == _FAULT and (missed := self.signs.missed(guilty[0], others)):
            said[0] += f", perhaps for want of rank {', '.join(missed)}"
            for name in missed:
                _say(f"it may have waited for rank {name}, {self.signs.told(name)}")
        if others:
            _say(f"ending the others: {', '.join(others)}")
        again = not {failed[name] for name in guilty} & {*_FINAL}
        return Outcome(failed[guilty[0]], said[0], again, self.signs.last())

    def _say_of(self, name: str, code: int) -> str:
        """Says how a process ended; returns it without what its log says."""
        who = name if name == _SCHEDULER else f"rank {name}"
        if self.plan.start == "alone":
            who = "the training"
        how = f"{who} ended with exit code {code}"
        if name in self.early:
            how = f"{who} ended with exit code 0 before its work was done"
        log = self.plan.log_of(name)
        if self.followed is None:
            _say(how)
        elif log == self.followed:
            _say(f"{how}; its log, shown above: {log}")
        else:
            _say(f"{how}; the last lines of {log}:")
            _say(_tail(log))
        return how

    def report_hang(self) -> Outcome:
        """Names the ranks that the others wait for, and has them say where they are."""
        running = [name for name in self.names if name not in self.ended]
        late = self.signs.behind(running)
        for name in late:  # a stopped process will not answer
            with suppress(OSError, KeyError):
                os.kill(self.signs.found[name].pid, signal.SIGUSR1)
        time.sleep(_COMPANY)
        self.show()
        seen = "; ".join(f"rank {name} {self.signs.told(name)}" for name in late)
        if self.plan.start == "alone":
            seen = self.signs.told(late[0])
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
            if log != self.followed:
                _say(f"the last lines of {log}:\n{_tail(log)}")
        return Outcome(_HUNG, f"hang, {what}", True, self.signs.last())

    def report_starter(self, code: int) -> Outcome:
        log = self.plan.logs / f"{self.plan.start}.log"
        how = f"{self.plan.start} ended with exit code {code}"
        _say(f"{how}; the last lines of {log}:")
        _say(_tail(log))
        code = code or 1
        return Outcome(code, how, code not in _FINAL, self.signs.last())

    def stop(self, number: int, grace: float) -> int:
        """Lets every rank end in its own way, for a while."""
        name = signal.Signals(number).name
        _say(f"{name}: ending {len(self.names)} ranks; once more to kill them")
        deadline = time.monotonic() + grace
        try:
            if self.plan.starter:
                for process in self.started:  # or it would kill all once the first has ended
                    with suppress(OSError):
                        process.send_signal(signal.SIGSTOP)
            there = {rank: found[0] for rank in self.names if (found := noted(self.status / rank))}
            for watcher in there.values():
                with suppress(OSError):
                    os.kill(watcher, signal.SIGTERM)
            while time.monotonic() < deadline and not there.keys() <= self.ended.keys():
                time.sleep(_POLL)
                self.look()
                self.show()
            if late := [rank for rank in there if rank not in self.ended]:
                _say(
                    f"killing rank {', '.join(late)}, which {grace:g} s were too short for: "
                    "LAUNCH_GRACE=SECONDS before the command gives longer, for the end of a step "
                    "and a checkpoint"
                )
        except Stopped:
            _say("killing them")
        return 128 + number

    def show(self) -> None:
        """What has come to the first rank's log, as far as its last whole line."""
        if self.followed is None:
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
    with suppress(OSError):  # the terminal is gone: the ranks are to end in order all the same
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
