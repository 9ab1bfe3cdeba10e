"""Packages that not everything here needs: loaded where they are used."""

from __future__ import annotations

import importlib
import sys
from typing import Any


class MissingPackageError(ImportError):
    """A package is not installed; the message has the command that installs it.

    Args:
        name: Of the package.
        purpose: What it does here, for "which ...".
        command: What installs it; empty: pip does.
    """

    def __init__(self, name: str, purpose: str, command: str = ""):
        self._arguments = name, purpose, command
        command = command or f"{sys.executable} -m pip install {name}"
        super().__init__(
            f"{sys.executable} has no {name}, which {purpose}: install it with {command}", name=name
        )

    def __reduce__(self) -> tuple[Any, ...]:
        """Let a worker process hand it to its parent."""
        return type(self), self._arguments


def package(module: str, purpose: str, distribution: str = "") -> Any:
    """Import a module of a package that may be missing.

    Args:
        module: Its full name, such as "scipy.fft".
        purpose: What it does here, for the message.
        distribution: What pip calls the package; empty: as its module.

    Returns:
        The module.

    Raises:
        MissingPackageError: The package is not installed.
    """
    name = module.partition(".")[0]
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != name:
            raise  # one that the package itself lacks
        raise MissingPackageError(distribution or name, purpose) from None
