"""What a launcher starts for each rank: rank.py ENTRY.py [arguments...]

Runs the entry point as its child and ends with its exit code. In between it does what msrun and
mpirun leave undone: it notes process and exit code in $LAUNCH_STATUS, passes SIGTERM on, and sees
to it that nothing outlives the launcher, however that ends (PR_SET_PDEATHSIG, all the way down).
"""

import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

_PR_SET_PDEATHSIG = 1  # linux/prctl.h
LAST = "last"  # file of the newest checkpoint's path, as `common.training.heartbeat` has it
_NOTE, _BEAT, _PATH = 32, 80, 4096  # bytes of a note, of a sign, of a path


def end_with_parent(parent: int) -> None:
    """The kernel kills this process when its parent, whose id is given, has ended."""
    libc = ctypes.CDLL(None, use_errno=True)
    if hasattr(libc, "prctl"):  # Linux
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:  # it was faster
        os.kill(os.getpid(), signal.SIGKILL)


def identity(environment: dict[str, str]) -> str:
    """scheduler, or the number of the rank that the starter gave this process."""
    if environment.get("MS_ROLE") == "MS_SCHED":
        return "scheduler"
    for key in ("LAUNCH_RANK", "OMPI_COMM_WORLD_RANK", "MS_NODE_ID", "RANK_ID"):
        if key in environment:
            return environment[key]
    return "0"


def beat_of(status: Path, name: str) -> Path:
    """The file in which a rank gives signs of life."""
    return status / f"{name}.beat"


def exit_code(returned: int) -> int:
    """As shells have it: 128 + number for a process that a signal ended."""
    return returned if returned >= 0 else 128 - returned


def make_notes(status: Path, names: Iterable[str]) -> None:
    """The launcher makes the files for what `note` and `common.training.heartbeat` will say in
    place, so that a rank can say it when the disk is full."""
    for name in names:
        (status / name).write_bytes(b" " * _NOTE)
        beat_of(status, name).write_bytes(b" " * _BEAT)
    (status / LAST).write_bytes(b" " * _PATH)


def note(path: Path, *numbers: int) -> None:
    """Process and, once it has ended, exit code. Nothing ends for want of a note."""
    line = f"{' '.join(map(str, numbers))}\n".encode().ljust(_NOTE)
    with suppress(OSError):
        file = os.open(path, os.O_WRONLY | os.O_CREAT, 0o666)
        try:
            os.pwrite(file, line, 0)
        finally:
            os.close(file)


def noted(path: Path) -> list[int]:
    """What `note` wrote, [] where there is none or no whole one: it may be read at any time."""
    with suppress(OSError):
        line, end, _ = path.read_text(encoding="ascii").partition("\n")
        return [int(word) for word in line.split()] if end else []
    return []


def main() -> int:
    end_with_parent(os.getppid())
    environment = dict(os.environ)
    name = identity(environment)
    output = None
    if "OMPI_COMM_WORLD_RANK" in environment:  # what msrun sets, and mpirun does not
        environment["RANK_ID"] = name
        environment["RANK_SIZE"] = environment["OMPI_COMM_WORLD_SIZE"]
        environment["DEVICE_ID"] = environment["OMPI_COMM_WORLD_LOCAL_RANK"]
        if "LAUNCH_LOGS" in environment:
            with suppress(OSError):  # or else it writes where mpirun does
                output = open(Path(environment["LAUNCH_LOGS"], f"worker_{name}.log"), "wb")
    status = None
    if "LAUNCH_STATUS" in environment:
        status = Path(environment["LAUNCH_STATUS"], name)
        note(status, os.getpid())
        environment["LAUNCH_BEAT"] = str(beat_of(status.parent, name))
    python = environment.get("LAUNCH_PYTHON", sys.executable)
    parent = os.getpid()
    job = subprocess.Popen(
        [python, *sys.argv[1:]],
        env=environment,
        stdout=output,
        stderr=subprocess.STDOUT if output else None,
        preexec_fn=lambda: end_with_parent(parent),
    )
    signal.signal(signal.SIGTERM, lambda *_: job.send_signal(signal.SIGTERM))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the launcher answers Ctrl-C, and asks us
    code = exit_code(job.wait())
    if status is not None:
        note(status, os.getpid(), code)
    return code


if __name__ == "__main__":
    sys.exit(main())
