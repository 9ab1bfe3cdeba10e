"""A log file, and a console that works together with a progress bar."""

from __future__ import annotations

import logging
import sys
from contextlib import suppress
from pathlib import Path

from tqdm import tqdm

from common.utils.errors import UserError


class _Console(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        stream = sys.stderr if record.levelno >= logging.WARNING else sys.stdout
        with suppress(OSError):  # a full disk, where the output is redirected to a file
            tqdm.write(self.format(record), file=stream)
            stream.flush()


def open_log(path: str | Path, quiet: bool = False, needed: bool = True) -> logging.Logger:
    """Open a logger that appends to a file and prints INFO and above.

    Lines of the level DEBUG (each training step) go to the file only.

    Args:
        path: The log file.
        quiet: Print nothing.
        needed: Whether a file that cannot be written is an error, or else a warning.

    Returns:
        The logger.

    Raises:
        UserError: The file is needed and cannot be written.
    """
    logger = logging.getLogger("speech")
    logger.setLevel(logging.DEBUG)
    logger.propagate = False
    for handler in list(logger.handlers):
        logger.removeHandler(handler)
        handler.close()
    if not quiet:
        console = _Console(logging.INFO)
        console.setFormatter(logging.Formatter("%(message)s"))
        logger.addHandler(console)
    try:
        file = logging.FileHandler(path, encoding="utf-8")
    except OSError as error:
        problem = f"log file {path}: cannot be written ({error.strerror})"
        if needed:
            raise UserError(problem) from error
        logger.warning(f"{problem}; continuing without it")
        return logger
    file.setFormatter(logging.Formatter("%(message)s"))
    logger.addHandler(file)
    return logger
