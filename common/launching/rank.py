"""The wrapper that a launcher starts for each rank: rank.py ENTRY.py [arguments...].

Runs the entry point as its child and exits with its exit code. It does what msrun and mpirun do
not: it writes process id and exit code to $LAUNCH_STATUS, passes SIGTERM on, and makes sure that no
process outlives the launcher, however that ends (PR_SET_PDEATHSIG in each process).
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
LAST = "last"  # file with the newest checkpoint's path; `common.training.heartbeat` writes it
_NOTE, _BEAT, _PATH = 32, 80, 4096  # bytes of a note, of a heartbeat, of a path


def end_with_parent(parent: int) -> None:
    """Ask the kernel to kill this process as soon as its parent has ended.

    Args:
        parent: Process id of the parent.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if hasattr(libc, "prctl"):  # Linux
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:  # it ended before the call
        os.kill(os.getpid(), signal.SIGKILL)


def identity(environment: dict[str, str]) -> str:
    """Name this process: "scheduler", or the number of its rank.

    Args:
        environment: The variables that msrun, mpirun or the launcher set.

    Returns:
        The name.
    """
    if environment.get("MS_ROLE") == "MS_SCHED":
        return "scheduler"
    for key in ("LAUNCH_RANK", "OMPI_COMM_WORLD_RANK", "MS_NODE_ID", "RANK_ID"):
        if key in environment:
            return environment[key]
    return "0"


def beat_of(status: Path, name: str) -> Path:
    """Name the heartbeat file of a rank.

    Args:
        status: The folder of $LAUNCH_STATUS.
        name: The rank's number.

    Returns:
        The path.
    """
    return status / f"{name}.beat"


def exit_code(returned: int) -> int:
    """Convert `Popen.returncode` to a shell's exit code: 128 + number after a signal.

    Args:
        returned: The code of `Popen`, negative after a signal.

    Returns:
        The exit code.
    """
    return returned if returned >= 0 else 128 - returned


def make_notes(status: Path, names: Iterable[str]) -> None:
    """Create the files of `note` and of the heartbeats at their full size.

    They are overwritten in place later, which works on a full disk, too.

    Args:
        status: The folder of $LAUNCH_STATUS.
        names: The ranks, and the scheduler.
    """
    for name in names:
        (status / name).write_bytes(b" " * _NOTE)
        beat_of(status, name).write_bytes(b" " * _BEAT)
    (status / LAST).write_bytes(b" " * _PATH)


def note(path: Path, *numbers: int) -> None:
    """Write the process id and, once the process has ended, its exit code; ignore I/O errors.

    Args:
        path: The file of the rank in $LAUNCH_STATUS.
        numbers: The process id, and the exit code.
    """
    line = f"{' '.join(map(str, numbers))}\n".encode().ljust(_NOTE)
    with suppress(OSError):
        file = os.open(path, os.O_WRONLY | os.O_CREAT, 0o666)
        try:
            os.pwrite(file, line, 0)
        finally:
            os.close(file)


def noted(path: Path) -> list[int]:
    """Read what `note` wrote; may be called at any time.

    Args:
        path: The file of the rank in $LAUNCH_STATUS.

    Returns:
        [process id], [process id, exit code], or [] where nothing complete is there.
    """
    with suppress(OSError):
        line, end, _ = path.read_text(encoding="ascii").partition("\n")
        return [int(word) for word in line.split()] if end else []
    return []


def main() -> int:
    """Run the entry point that the command line names.

    Returns:
        Its exit code.
    """
    end_with_parent(os.getppid())
    environment = dict(os.environ)
    name = identity(environment)
    output = None
    if "OMPI_COMM_WORLD_RANK" in environment:  # set what msrun would set
        environment["RANK_ID"] = name
        environment["RANK_SIZE"] = environment["OMPI_COMM_WORLD_SIZE"]
        environment["DEVICE_ID"] = environment["OMPI_COMM_WORLD_LOCAL_RANK"]
        if "LAUNCH_LOGS" in environment:
            with suppress(OSError):  # then it writes to the output of mpirun
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
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the launcher handles Ctrl-C for all ranks
    code = exit_code(job.wait())
    if status is not None:
        note(status, os.getpid(), code)
    return code


if __name__ == "__main__":
    sys.exit(main())
