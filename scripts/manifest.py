#!/usr/bin/env python
"""Make and convert manifests: python scripts/manifest.py --help."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from common.cli.manifest import main  # noqa: E402

if __name__ == "__main__":
    sys.exit(main())
