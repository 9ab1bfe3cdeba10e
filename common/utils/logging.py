"""A log file, and a console that works together with a progress bar."""

from __future__ import annotations

import logging
import sys
from pathlib import Path

from tqdm import tqdm

from common.utils.errors import UserError
from common.utils.streams import append_always, is_piped_to, is_same_file


class _Console(logging.Handler):
    """Prints to standard output, warnings to standard error, but not to the log file itself."""

    def __init__(self, level: int):
        super().__init__(level)
        self.log_file: str | Path | None = None  # where another handler writes every line
        # The log file's own handler, where the reader of standard output writes the file: that gets
        # every line, and this handler those after the reader's end.
        self.reserve: logging.Handler | None = None

    def emit(self, record: logging.LogRecord) -> None:
        warning = record.levelno >= logging.WARNING and self.reserve is None
        stream = sys.stderr if warning else sys.stdout
        if self.log_file is not None and is_same_file(stream, self.log_file):
            return
        try:
            tqdm.write(self.format(record), file=stream)
            stream.flush()
        except BrokenPipeError:  # Ctrl-C ends `tee` at once, and a training run after its step
            if self.reserve is not None:
                self.reserve.handle(record)
        except OSError:  # a full disk, where the output is redirected to a file
            pass


def open_log(path: str | Path, quiet: bool = False, needed: bool = True) -> logging.Logger:
    """Open a logger that appends to a file and prints INFO and above.

    Lines of the level DEBUG (each training step) go to the file only. Where a shell has redirected
    standard output or error to this very file, it gets each line once. Where `tee` writes it, that
    gets all lines from standard output, as long as it lives.

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
    console = _Console(logging.INFO)
    if not quiet:
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
    if not quiet and is_piped_to(sys.stdout, path):
        file.close()  # it opens the file again where it has a line to write
        console.setLevel(logging.DEBUG)
        console.reserve = file
        return logger
    logger.addHandler(file)
    console.log_file = path
    for stream in (sys.stdout, sys.stderr):
        if is_same_file(stream, path):  # others print there, too, such as the launcher
            append_always(stream)
    return logger
