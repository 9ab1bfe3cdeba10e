"""Import every module where MindSpore is missing, and print those that need it.

Started by test_packaging.py and, with other versions of Python, by .ci/run.
"""

from __future__ import annotations

import importlib
import os
import pkgutil
import sys

if __name__ == "__main__":
    sys.modules["mindspore"] = None  # type: ignore[assignment]  # as if it were not installed
    before = dict(os.environ)
    for package in map(importlib.import_module, ("common", "asrt", "deepspeech2", "jasper")):
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            try:
                importlib.import_module(module.name)
            except ImportError as error:
                if error.name != "mindspore" or "pip install mindspore==" not in str(error):
                    raise
                print(module.name)
    if dict(os.environ) != before:
        sys.exit("importing has changed the environment")
