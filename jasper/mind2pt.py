"""Our weights to NVIDIA's: python mind2pt.py --ckpt C --pth P"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from common import cli  # noqa: E402
from jasper.src.nvidia import mind2pt  # noqa: E402
from jasper.src.recipe import RECIPE  # noqa: E402

if __name__ == "__main__":
    cli.run(mind2pt, RECIPE)
