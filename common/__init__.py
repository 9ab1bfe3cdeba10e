"""What DeepSpeech2 and Jasper share.

Importing this package settles the process-wide environment before mindspore can be loaded
(`common.runtime.set_environment`), refuses a Python without the packages, and does nothing else.
"""

import sys
from importlib.util import find_spec

from common import runtime

for _package in ("numpy", "mindspore"):
    if find_spec(_package) is None:
        sys.exit(
            f"error: {sys.executable} has no {_package}: activate the clone's environment (source "
            ".venv/bin/activate), or make it first with bash scripts/setup.sh"
        )
runtime.set_environment()
