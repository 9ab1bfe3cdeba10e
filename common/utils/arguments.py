"""The argument parser of every entry point."""

from __future__ import annotations

import argparse

from common import __version__


def command(prog: str, description: str) -> argparse.ArgumentParser:
    """Make a parser that knows `--version` and takes no abbreviated options.

    A launcher that continues a run looks for `--resume` and `--pre_trained_model_path` by their
    whole names.

    Args:
        prog: Name of the program in its help.
        description: What the program does, in a sentence or two.

    Returns:
        The parser, to which the program adds its own options.
    """
    parser = argparse.ArgumentParser(prog=prog, description=description, allow_abbrev=False)
    parser.add_argument("--version", action="version", version=f"mindspore-speech {__version__}")
    return parser
