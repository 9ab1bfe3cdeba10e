"""What the commands that download corpora share."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping

from common.utils.errors import UserError


def say(line: str) -> None:
    """Print a line at once, also into a pipe."""
    print(line, flush=True)


def mirror_address(mirror: str, mirrors: Mapping[str, str]) -> str:
    """Return the address that --mirror names.

    Args:
        mirror: A known name, or an address.
        mirrors: The addresses of the known names.

    Raises:
        UserError: It is neither.
    """
    address = mirrors.get(mirror, mirror)
    if "://" not in address:
        raise UserError(f"--mirror {address}: expected {', '.join(mirrors)}, or an address")
    return address


def exit_code(command: Callable[[], None]) -> int:
    """Run a command that can be interrupted and started again; return its exit code."""
    try:
        command()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted; the same command continues", file=sys.stderr)
        return 130
    return 0
