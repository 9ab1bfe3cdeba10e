"""Standard output and error that a shell has redirected to a log file of ours.

In `nohup python train.py > train.log 2>&1 &` the shell writes to the file that the program appends
to. The shell's descriptor has a position of its own, so each of the two overwrites the other. So
does `tee` in `python train.py | tee train.log`.
"""

from __future__ import annotations

import fcntl
import os
import stat
from contextlib import suppress
from pathlib import Path
from typing import TextIO


def is_same_file(stream: TextIO | None, path: str | Path) -> bool:
    """Tell whether a stream writes to the file at a path (the same device and inode).

    Args:
        stream: Such as `sys.stdout`, which is None where a process has no such stream.
        path: The file.

    Returns:
        Whether it is the same file; False where one of them cannot be examined.
    """
    with suppress(OSError, ValueError, AttributeError):  # no file, closed, not a real stream
        return os.path.samestat(os.fstat(stream.fileno()), os.stat(path))  # type: ignore[union-attr]
    return False


def append_always(stream: TextIO) -> None:
    """Let every write of a stream go to the end of its file (O_APPEND).

    This holds for all processes that have inherited the stream, also for what libraries write.

    Args:
        stream: A stream with a file descriptor.
    """
    number = stream.fileno()
    with suppress(OSError):
        fcntl.fcntl(number, fcntl.F_SETFL, fcntl.fcntl(number, fcntl.F_GETFL) | os.O_APPEND)


def is_piped_to(stream: TextIO | None, path: str | Path) -> bool:
    """Tell whether a stream is the standard input of a program that writes a file, such as `tee`.

    Args:
        stream: Such as `sys.stdout`.
        path: The file.

    Returns:
        Whether it is; False where that cannot be found out (without /proc).
    """
    with suppress(OSError, ValueError, AttributeError):
        pipe, file = os.fstat(stream.fileno()), os.stat(path)  # type: ignore[union-attr]
        if stat.S_ISFIFO(pipe.st_mode):
            ours = str(os.getpid())
            others = (name for name in os.listdir("/proc") if name.isdecimal() and name != ours)
            return any(_copies(Path("/proc", name), pipe, file) for name in others)
    return False


def _copies(process: Path, pipe: os.stat_result, file: os.stat_result) -> bool:
    """Whether a process has a pipe as standard input, and a file open for writing."""
    with suppress(OSError):  # of another user, or ended
        descriptors = process / "fd"
        if os.path.samestat((descriptors / "0").stat(), pipe):
            return any(_writes(descriptor, file) for descriptor in descriptors.iterdir())
    return False


def _writes(descriptor: Path, file: os.stat_result) -> bool:
    """Whether a descriptor of a process was opened for writing to a file (proc(5), fdinfo)."""
    with suppress(OSError):
        if os.path.samestat(descriptor.stat(), file):
            fields = (descriptor.parents[1] / "fdinfo" / descriptor.name).read_text().split()
            flags = int(fields[fields.index("flags:") + 1], 8)
            return flags & os.O_ACCMODE != os.O_RDONLY
    return False
