"""What this machine can do for a run, and what would help most: python doctor.py --preset an4"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from common import cli  # noqa: E402
from deepspeech2.src.recipe import RECIPE  # noqa: E402

if __name__ == "__main__":
    cli.run(cli.doctor, RECIPE)
