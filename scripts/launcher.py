"""Start an entry point of a model on one kind of device; launch.sh has the arguments."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from common.launching.launcher import main  # noqa: E402

if __name__ == "__main__":
    sys.exit(main())
