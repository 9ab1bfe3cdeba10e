"""Worker processes that ignore Ctrl-C and end with their parent."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from typing import Any


def worker_pool(
    workers: int, start: Callable[..., Any] | None = None, *arguments: Any
) -> ProcessPoolExecutor:
    """Create a pool of new processes, which import only what they use.

    Args:
        workers: Number of processes.
        start: Called by each process first.
        arguments: The arguments of `start`.

    Returns:
        The pool.
    """
    context = multiprocessing.get_context("spawn")
    return ProcessPoolExecutor(
        workers, context, initializer=_start_worker, initargs=(start, *arguments)
    )


def _start_worker(start: Callable[..., Any] | None, *arguments: Any) -> None:
    signal.signal(
        signal.SIGINT, signal.SIG_IGN
    )  # Ctrl-C reaches all processes; the parent handles it
    threading.Thread(target=_end_with_parent, daemon=True).start()
    if start is not None:
        start(*arguments)


def _end_with_parent() -> None:
    """End this process with its parent; or else it would wait for work for ever."""
    if parent := multiprocessing.parent_process():
        parent.join()
    os._exit(1)
