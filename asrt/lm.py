"""Build n-gram language models and measure them (`python lm.py build TEXT...`)."""

import sys
from pathlib import Path

if not __package__:  # started by its path, in a clone that need not be installed
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from asrt.src.recipe import RECIPE
from common import cli


def main() -> None:
    """Run the command with the arguments of `sys.argv`, and exit with its status."""
    cli.run(cli.language_model, RECIPE)


if __name__ == "__main__":
    main()
