#!/usr/bin/env python
"""Train on Huawei Cloud's ModelArts: python scripts/modelarts.py --help."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from common.launching.modelarts import main  # noqa: E402

if __name__ == "__main__":
    sys.exit(main())
