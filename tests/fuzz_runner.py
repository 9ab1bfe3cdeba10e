"""Runs damaged inputs in a process of its own, and tells what comes of each.

An input must be read, or refused by a UserError (LaunchError) of one line that names it. All else
is a finding: another exception, a crash of the process, an answer that takes too long, memory
beyond a limit, and whatever a target's own comparisons find.
"""

from __future__ import annotations

import multiprocessing
import os
import re
import resource
import shutil
import signal
import sys
import time
import traceback
import zlib
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

SLOW = 20.0  # seconds of processor time for an input of some kilobytes
# The process is killed after so many seconds of processor time, or of rest, as it seems to hang.
BUSY, HANGS = 40.0, 180.0


class Finding(Exception):
    """What a reader should not have done."""


@dataclass(frozen=True)
class Seed:
    """A good input.

    Attributes:
        name: The file name of what is made from it, as far as it matters.
        data: Its bytes.
        tree: Its content, where it is JSON.
    """

    name: str
    data: bytes = b""
    tree: Any = None


@dataclass(frozen=True)
class Target:
    """A kind of input and what reads it.

    Attributes:
        kind: Its name.
        inputs: Of a whole campaign.
        prepare: Makes good inputs, in a folder to work in.
        damage: (rng, good inputs, an empty folder) -> path of an input that is not good any more.
        read: (path, good inputs) -> how it was read. Raises UserError, LaunchError, Finding.
        names: What messages must hold, as a regular expression, beside the input's own name.
        memory: Bytes that the process may take beyond what it has with the good inputs.
        spent: Bytes that a single input may make it take.
    """

    kind: str
    inputs: int
    prepare: Callable[[Path], Any]
    damage: Callable[[np.random.Generator, Any, Path], Path]
    read: Callable[[Path, Any], str]
    names: str = "$^"
    memory: int = 3 << 30
    spent: int = 400 << 20


@dataclass(frozen=True)
class Outcome:
    """What came of an input.

    Attributes:
        number: Of the input.
        how: "refused", how it was read, or "" for a finding.
        finding: What is wrong, in a line.
        same: What findings of one fault have in common.
        seconds: Of processor time.
        peak: Bytes of the process, at most, so far.
    """

    number: int
    how: str
    finding: str = ""
    same: str = ""
    seconds: float = 0.0
    peak: int = 0


def rng_of(seed: int, kind: str, number: int) -> np.random.Generator:
    """The random numbers of one input, whichever inputs come before it."""
    return np.random.default_rng((seed, zlib.crc32(kind.encode()), number))


def make_input(target: Target, good: Any, seed: int, number: int, folder: Path) -> Path:
    """Write the input of a number into an empty folder."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    return target.damage(rng_of(seed, target.kind, number), good, folder)


def read_input(target: Target, good: Any, number: int, path: Path) -> Outcome:
    """Read an input and judge what comes of it."""
    from common.launching import LaunchError
    from common.utils.errors import UserError

    started, before = time.process_time(), _peak()
    finding = same = how = ""
    try:
        how = target.read(path, good)
    except (UserError, LaunchError) as error:
        how, finding = "refused", _complaint(str(error), path, target.names)
        same = re.sub(r"\d+", "N", finding.replace(str(path.parent), ""))[:60]
    except Finding as error:
        finding, same = str(error), re.sub(r"[\d.]+", "N", str(error))
    except Exception as error:
        finding, same = _described(error)
    seconds, peak = time.process_time() - started, _peak()
    if not finding and seconds > SLOW:
        finding = same = f"took {seconds:.0f} s of processor time"
    if not finding and peak - before > target.spent:
        finding, same = f"took {(peak - before) >> 20} MiB of memory", f"memory, {how}"
    return Outcome(number, "" if finding else how, finding, same, seconds, peak)


def _complaint(message: str, path: Path, names: str) -> str:
    """What is wrong with a message to users; nothing as a rule."""
    if len(message.splitlines()) != 1:
        return f"a message of {len(message.splitlines())} lines: {message!r:.300}"
    if len(message) > 2000:
        return f"a message of {len(message)} characters: {message:.200}"
    if any(ord(character) < 32 or 0xD800 <= ord(character) < 0xE000 for character in message):
        return f"a message with control characters: {message!r:.300}"
    if path.name not in message and not re.search(names, message):
        return f"a message that does not name the input: {message:.300}"
    return ""


def _described(error: Exception) -> tuple[str, str]:
    """An exception in a line, and its place in our code."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if "/tests/" not in frame.filename]
    own = [frame for frame in ours if re.search(r"/(common|deepspeech2|jasper)/", frame.filename)]
    frame = (own or ours or frames)[-1]
    place = f"{Path(frame.filename).name}:{frame.name}"
    text = " ".join(str(error).split())[:200]
    return f"{type(error).__name__} in {place}, line {frame.lineno}: {text}", (
        f"{type(error).__name__} {place}"
    )


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _work(
    connection: Connection,
    target: Target,
    seed: int,
    numbers: Sequence[int],
    folder: Path,
    keep: Path | None,
) -> None:
    """Read inputs one after the other and report each; runs in a process of its own."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends it
    os.chdir(folder)
    good = target.prepare(folder)
    sys.stderr = os.fdopen(os.dup(2), "w")  # for faults of these tests
    with open(os.devnull, "r+b") as nothing:
        for stream in (0, 1, 2):
            os.dup2(nothing.fileno(), stream)
    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (size + target.memory, hard))
    connection.send(None)
    for number in numbers:
        path = make_input(target, good, seed, number, folder / "input")
        connection.send(number)
        outcome = read_input(target, good, number, path)
        if outcome.finding or len(numbers) == 1:
            _keep(target, seed, outcome, folder, keep)
        connection.send(outcome)
    connection.close()


def _keep(target: Target, seed: int, outcome: Outcome, folder: Path, keep: Path | None) -> None:
    """Copy an input, unless there is a copy of one with the same fault."""
    if keep is None:
        return
    fault = re.sub(r"\W+", "-", outcome.same or "one")[:60]
    with suppress(FileExistsError):
        shutil.copytree(folder / "input", keep / f"{target.kind}-{fault}")


@dataclass
class Totals:
    """Figures of a campaign for a kind of input."""

    inputs: int = 0
    how: Counter[str] = field(default_factory=Counter)
    findings: Counter[str] = field(default_factory=Counter)  # by what they have in common
    seconds: float = 0.0
    slowest: float = 0.0
    peak: int = 0

    def add(self, outcome: Outcome) -> bool:
        """Count an input; whether it is the first finding of a fault."""
        self.inputs += 1
        self.seconds += outcome.seconds
        self.slowest, self.peak = (
            max(self.slowest, outcome.seconds),
            max(self.peak, outcome.peak),
        )
        if not outcome.finding:
            self.how[outcome.how] += 1
            return False
        self.findings[outcome.same] += 1
        return self.findings[outcome.same] == 1

    def line(self, kind: str) -> str:
        how = ", ".join(f"{name} {count}" for name, count in self.how.most_common())
        return (
            f"{kind}: {self.inputs} inputs ({how}), {self.findings.total()} findings of "
            f"{len(self.findings)} faults, {self.seconds / 60:.1f} minutes of processor time, the "
            f"slowest {self.slowest:.1f} s, peak {self.peak >> 20} MiB"
        )


def campaign(
    target: Target,
    seed: int,
    numbers: range,
    folder: Path,
    on_outcome: Callable[[Outcome], None],
    keep: Path | None = None,
) -> None:
    """Read the inputs of these numbers in a process that is replaced where it dies.

    Args:
        target: What reads them.
        seed: Of the campaign.
        numbers: Of the inputs.
        folder: To work in.
        on_outcome: Takes what came of each.
        keep: Where copies of findings go, one for each fault.
    """
    context = multiprocessing.get_context("fork")
    rest = numbers
    while rest:
        shutil.rmtree(folder, ignore_errors=True)  # of a process that died
        folder.mkdir(parents=True)
        here, there = context.Pipe(duplex=False)
        worker = context.Process(target=_work, args=(there, target, seed, rest, folder, keep))
        worker.start()
        there.close()
        try:
            rest, lost = _follow(here, worker, rest, on_outcome)
        finally:
            worker.kill()
            worker.join()
            here.close()
        if lost is not None:
            _keep(target, seed, lost, folder, keep)
            on_outcome(lost)


def _follow(
    connection: Connection, worker: Any, rest: range, on_outcome: Callable[[Outcome], None]
) -> tuple[range, Outcome | None]:
    """Take a process's reports until its end.

    Returns:
        The numbers that it did not come to, and what came of the one that it did not survive.
    """
    if not connection.poll(10 * HANGS) or not _received(connection, lambda _: None):
        raise RuntimeError("the good inputs could not be made, as said above")
    while rest:
        number: list[int] = []
        if not _received(connection, number.append):
            worker.join()
            raise RuntimeError(f"the process ended ({worker.exitcode}) before input {rest[0]}")
        if not _answers(connection, worker.pid):
            return rest[1:], Outcome(number[0], "", "no answer", "no answer")
        if not _received(connection, on_outcome):
            worker.join()
            ended = f"the process ended: {_end(worker.exitcode)}"
            return rest[1:], Outcome(number[0], "", ended, ended)
        rest = rest[1:]
    return rest, None


def _answers(connection: Connection, pid: int) -> bool:
    """Wait until a process reports or ends; False where it seems to hang."""
    started, before = time.monotonic(), _processor_seconds(pid)
    while not connection.poll(1.0):
        busy = _processor_seconds(pid) - before
        if busy > BUSY or time.monotonic() - started > HANGS:
            return False
    return True


def _processor_seconds(pid: int) -> float:
    """Of a process; 0 where it has ended."""
    try:
        values = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(values[11]) + int(values[12])) / os.sysconf("SC_CLK_TCK")


def _received(connection: Connection, take: Callable[[Any], None]) -> bool:
    """Whether a report came, and not the end of the process."""
    try:
        report = connection.recv()
    except (EOFError, OSError):
        return False
    take(report)
    return True


def _end(code: int) -> str:
    return signal.Signals(-code).name if code < 0 else f"exit code {code}"
