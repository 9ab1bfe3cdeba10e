"""NVIDIA's weights to ours: python pt2mind.py --pth P --ckpt C"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from common import cli  # noqa: E402
from jasper.src.nvidia import pt2mind  # noqa: E402
from jasper.src.recipe import RECIPE  # noqa: E402

if __name__ == "__main__":
    cli.run(pt2mind, RECIPE)
