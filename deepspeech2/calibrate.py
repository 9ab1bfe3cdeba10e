"""Make the confidences of words say how often they are right (`python calibrate.py`)."""

import sys
from pathlib import Path

if not __package__:  # started by its path, in a clone that need not be installed
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from common import cli
from deepspeech2.src.recipe import RECIPE


def main() -> None:
    """Run the command with the arguments of `sys.argv`, and exit with its status."""
    cli.run(cli.calibrate, RECIPE)


if __name__ == "__main__":
    main()
