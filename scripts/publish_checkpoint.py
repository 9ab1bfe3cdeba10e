#!/usr/bin/env python
"""Make a checkpoint to share: python scripts/publish_checkpoint.py CKPT OUT."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from common.cli.publish_checkpoint import main  # noqa: E402

if __name__ == "__main__":
    sys.exit(main())
