"""The figures of a run, which lie in the current folder, where other runs may train as well.

`curves.png` names the checkpoint `last` of its run. A run with another one first moves the figures
to that run's checkpoints, into `<prefix>-figures/`, from where `resume` takes them back.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterable
from pathlib import Path

from common.model.checkpoint import CheckpointKeeper
from common.utils.errors import UserError

OWNER = "Checkpoint"  # key of the text in curves.png
_LAST = "-last.ckpt"  # ends the name of `CheckpointKeeper.last`


def owner(curves: Path) -> Path | None:
    """Read whose figures lie here.

    Args:
        curves: curves.png.

    Returns:
        The checkpoint `last` of their run; None where that is not known.
    """
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(curves) as image:
            named = image.info.get(OWNER, "")
    except (OSError, UnidentifiedImageError, ValueError, SyntaxError):
        return None
    return Path(named) if named.endswith(_LAST) else None


def make_room(
    files: Iterable[Path], curves: Path, keeper: CheckpointKeeper, log: logging.Logger
) -> None:
    """Move the figures of a run with other checkpoints to these.

    Where these are gone, or where it is not known whose the figures are, nothing is moved.

    Args:
        files: The figures, where they exist.
        curves: The one that says whose they are.
        keeper: The checkpoints of the run that is to write here.
        log: Gets a line.

    Raises:
        UserError: They cannot be moved.
    """
    other = owner(curves)
    if other is None or other.resolve() == keeper.last.resolve() or not other.parent.is_dir():
        return
    folder = _stored(other)
    _move([file for file in files if file.is_file()], folder)
    log.info(f"the figures of the run whose checkpoints are in {other.parent} are now in {folder}")


def stored(files: Iterable[Path], keeper: CheckpointKeeper) -> list[Path]:
    """List the figures of a run that another one has moved to its checkpoints.

    Args:
        files: The figures, as they lie in the current folder.
        keeper: The run's checkpoints.
    """
    folder = _stored(keeper.last)
    return [path for file in files if (path := folder / file.name).is_file()]


def take_back(files: Iterable[Path], keeper: CheckpointKeeper) -> None:
    """Move the figures of a run to the current folder, where another run has moved them away.

    Args:
        files: The figures, as they lie in the current folder.
        keeper: The run's checkpoints.

    Raises:
        UserError: They cannot be moved.
    """
    _move(stored(files, keeper), Path())


def _stored(last: Path) -> Path:
    return last.with_name(f"{last.name.removesuffix(_LAST)}-figures")


def _move(files: list[Path], folder: Path) -> None:
    if not files:
        return
    try:
        folder.mkdir(exist_ok=True)
        for file in files:
            shutil.move(file, folder / file.name)
    except OSError as error:
        raise UserError(
            f"{folder}: the figures of a run cannot be moved there ({error.strerror}); move "
            "them away"
        ) from error
