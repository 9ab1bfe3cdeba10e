"""The part of a clone that the launchers need, for tests that start them in another folder."""

from __future__ import annotations

import shutil
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FILES = (
    "scripts/launch.sh",
    "scripts/launcher.py",
    "common/__init__.py",
    "common/utils/__init__.py",
    "common/utils/ascend.py",
    "common/utils/errors.py",
    "common/utils/json_parsing.py",
    "common/utils/files.py",
    "common/utils/streams.py",
    "common/utils/wording.py",
)


def copy_launcher(clone: Path) -> None:
    """Copy scripts/launch.sh and all that it needs, without the models and their scripts."""
    for name in FILES:
        (clone / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, clone / name)
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "common/launching", clone / "common/launching", ignore=ignored)
