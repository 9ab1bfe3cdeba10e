"""The disk space that the checkpoints of a run take."""

from __future__ import annotations

import shutil
from pathlib import Path

GIB, MIB = 1 << 30, 1 << 20


def checkpoint_bytes(keep: int, numbered: int, best: int) -> int:
    """Compute the disk space that a run's checkpoints need.

    The newest `keep` (`last` is another name of one), the best, and one more while it is written.

    Args:
        keep: CheckpointConfig.keep_checkpoint_max.
        numbered: Bytes of a numbered checkpoint.
        best: Bytes of the best one.

    Returns:
        Bytes.
    """
    return (keep + 1) * numbered + best


def forecast_disk(
    folder: Path, keep: int, numbered: int, best: int, present: int = 0
) -> tuple[str, str]:
    """Describe what the checkpoints of a run will take.

    Args:
        folder: Where they are written.
        keep: CheckpointConfig.keep_checkpoint_max.
        numbered: Bytes of a numbered checkpoint.
        best: Bytes of the best one.
        present: Bytes of those that are there already.

    Returns:
        A line, and a warning; "" where there is room, or where that cannot be told.
    """
    need = checkpoint_bytes(keep, numbered, best)
    line = (
        f"checkpoints: the newest {keep} (keep_checkpoint_max) of {size(numbered)} each and the "
        f"best, up to {size(need)} in {folder}"
    )
    try:
        free = shutil.disk_usage(existing(folder)).free
    except OSError:
        return line, ""
    line += f", where {size(free)} are free"
    if need - present <= free:
        return line, ""
    fitting = max((free + present - best) // numbered - 1, 0)
    remedy = f"--set keep_checkpoint_max={fitting}, " if fitting else ""
    return line, (
        f"the disk will be full before the run has ended, {size(need - present - free)} are "
        f"missing for its checkpoints: {remedy}make room, or choose another folder by ckpt_path"
    )


def existing(path: Path) -> Path:
    """Return the folder itself, or the nearest one above it that exists."""
    path = path.absolute()
    while not path.exists():
        path = path.parent
    return path


def size(count: float) -> str:
    """Format a number of bytes."""
    return f"{count / GIB:.1f} GiB" if count >= 0.1 * GIB else f"{count / MIB:.1f} MiB"
