"""Write a labels file of syllables (`python labels.py [MANIFESTS...] --out JSON`)."""

import sys
from pathlib import Path

if not __package__:  # started by its path, in a clone that need not be installed
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from asrt.src.labels import build_labels
from asrt.src.recipe import RECIPE
from common import cli


def main() -> None:
    """Run the command with the arguments of `sys.argv`, and exit with its status."""
    cli.run(build_labels, RECIPE)


if __name__ == "__main__":
    main()
