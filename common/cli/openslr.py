"""Download Mandarin corpora from OpenSLR: AISHELL-1 and 3, THCHS-30, ST-CMDS and others."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from common.cli.downloads import exit_code, mirror_address, say
from common.data.openslr import MIRRORS, RESOURCES, fetch_corpus
from common.utils.errors import UserError


def parser() -> argparse.ArgumentParser:
    """Create the parser of the command line."""
    sizes = {
        name: sum(archive.size or 0 for archive in resource.archives) / 1e9
        for name, resource in RESOURCES.items()
    }
    known = "; ".join(
        f"{name}: {f'{size:.1f} GB' if size else 'about 19 GB'}, {RESOURCES[name].licence}"
        for name, size in sizes.items()
    )
    top = argparse.ArgumentParser(
        prog="openslr.py",
        description=f"{__doc__} Archives are verified and unpacked; what is there is kept, an "
        f"interrupted download is continued. {known}.",
    )
    top.add_argument(
        "corpora", nargs="+", metavar="NAME", help=f"one or more of {', '.join(RESOURCES)}"
    )
    top.add_argument("root", metavar="DIR", help="where the corpora go")
    top.add_argument(
        "--mirror",
        default="main",
        metavar="NAME",
        help=f"{', '.join(MIRRORS)}, or the address of a folder of all resources [main]",
    )
    top.add_argument(
        "--remove_archives", action="store_true", help="once they are unpacked; halves the space"
    )
    return top


def run(args: argparse.Namespace) -> None:
    """Download the corpora.

    Args:
        args: The parsed command line.

    Raises:
        UserError: An argument is wrong, or a file cannot be downloaded or unpacked.
    """
    for name in args.corpora:
        if name not in RESOURCES:
            raise UserError(f"corpus {name}: expected one of {', '.join(RESOURCES)}")
    url = mirror_address(args.mirror, MIRRORS)
    root = Path(args.root).expanduser()
    for name in args.corpora:
        for folder in fetch_corpus(root, name, url, not args.remove_archives, log=say):
            print(folder)


def main(argv: list[str] | None = None) -> int:
    """Run the command.

    Args:
        argv: The command line; None: that of the process.

    Returns:
        The exit code.
    """
    return exit_code(lambda: run(parser().parse_args(argv)))


if __name__ == "__main__":
    sys.exit(main())
