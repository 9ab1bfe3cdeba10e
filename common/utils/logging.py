"""A log file to follow with `tail -f`, and a console that a progress bar may share."""

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
        with suppress(OSError):  # a full disk, where the console is a file: as for a log file
            tqdm.write(self.format(record), file=stream)
            stream.flush()


def open_log(path: str | Path, quiet: bool = False, needed: bool = True) -> logging.Logger:
    """A logger that appends to `path`; INFO and above is printed as well, unless quiet.

    Lines logged at DEBUG (each training step) go to the file alone. A file that cannot be written
    is a UserError, or, if it is not needed, a warning.
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
        logger.warning(f"{problem}; going on without it")
        return logger
    file.setFormatter(logging.Formatter("%(message)s"))
    logger.addHandler(file)
    return logger
