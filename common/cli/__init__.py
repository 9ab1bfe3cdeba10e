"""The entry points that every model has; a model folder's `train.py` and its kin call these.

Bad input ends in one line on stderr and exit code 1, Ctrl-C in exit code 130, SIGTERM in 143, a
fault of our own or of MindSpore's in its traceback and exit code 70: such a run may be tried again.
"""

from __future__ import annotations

import errno
import importlib
import os
import sys
import traceback
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from common.model.recipe import Recipe
from common.utils.errors import UserError
from common.utils.packages import MissingPackageError

if TYPE_CHECKING:
    from common.cli.alignment import align
    from common.cli.calibration import calibrate
    from common.cli.data import check_data, create_mindrecord
    from common.cli.exported import export, postprocess, preprocess
    from common.cli.language import language_model
    from common.cli.learning import doctor, train
    from common.cli.recognition import evaluate, transcribe

__all__ = [
    "align",
    "calibrate",
    "check_data",
    "create_mindrecord",
    "doctor",
    "evaluate",
    "export",
    "language_model",
    "postprocess",
    "preprocess",
    "run",
    "train",
    "transcribe",
]

# Commands and their modules, each of which is loaded for its own commands alone: what training
# imports would double the time from the start of transcribe.py to the text.
_MODULES = {
    "align": "alignment",
    "calibrate": "calibration",
    "check_data": "data",
    "create_mindrecord": "data",
    "export": "exported",
    "postprocess": "exported",
    "preprocess": "exported",
    "language_model": "language",
    "doctor": "learning",
    "train": "learning",
    "evaluate": "recognition",
    "transcribe": "recognition",
}
_FAULT = 70  # EX_SOFTWARE of sysexits.h
_UNWRITABLE = (errno.ENOSPC, errno.EDQUOT, errno.EPIPE, errno.EIO)
# What these find goes to standard output.
_PRINTING = ("align", "calibrate", "check_data", "evaluate", "language_model", "transcribe")


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)


def run(main: Callable[[Recipe, list[str]], int | None], recipe: Recipe) -> None:
    """Run a command with the arguments of `sys.argv`, and exit with its code.

    A UserError is printed as one line, with exit code 1; any other exception with its traceback.
    Output that cannot be written is an error, too.

    Args:
        main: The command: (recipe, arguments) -> exit code; None counts as 0.
        recipe: The model.
    """
    try:
        if sys.stdout is None and main.__name__ in _PRINTING:
            raise UserError("standard output is closed, where results go; send it to a file")
        code = main(recipe, sys.argv[1:])
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        code = 1
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        code = 130
        if "mindspore._c_expression" in sys.modules and "mindspore" not in sys.modules:
            os._exit(code)  # MindSpore's exit handlers fail where it was half imported
    except Exception as error:
        if isinstance(error, OSError) and error.errno in _UNWRITABLE and error.filename is None:
            code = _lost_output(error)  # of print: errors of files have their names
        elif isinstance(error, MissingPackageError):  # says what to install
            print(f"error: {error}", file=sys.stderr)
            code = 1
        else:
            traceback.print_exc()
            code = _FAULT
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except OSError as error:
        lost = _lost_output(error)
        code = code or lost  # of a run that a signal stopped, for example
    sys.exit(code or 0)


def _lost_output(error: OSError) -> int:
    """Say that standard output cannot be written, and return the exit code."""
    print(
        f"error: standard output cannot be written ({error.strerror}); part of it is missing",
        file=sys.stderr,
    )
    # Python writes what is left at its end, and would fail once more.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 1
