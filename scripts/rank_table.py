#!/usr/bin/env python
"""Make a rank table (hccl.json): python scripts/rank_table.py --help."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from common.launching.make_rank_table import main  # noqa: E402

if __name__ == "__main__":
    sys.exit(main())
