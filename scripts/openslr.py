#!/usr/bin/env python
"""Download Mandarin corpora from OpenSLR: python scripts/openslr.py --help."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from common.cli.openslr import main  # noqa: E402

if __name__ == "__main__":
    sys.exit(main())
