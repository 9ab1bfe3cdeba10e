"""A boot file for Huawei Cloud's ModelArts: data in, a training by the launcher, results out.

ModelArts calls it with --data_url and --train_url, folders of this machine or places in its object
storage (obs://...), which its package moxing copies. Everything else goes to train.py.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

from common.launching import LaunchError
from common.launching.plan import DEVICES, ROOT, models

CACHE = Path("/cache")  # where ModelArts has its fast disk
RESULTS = ("checkpoint", "log", "train.log", "metrics.csv", "curves.png", "emissions.gif")
_STORAGE = "obs://"


def copy(source: str, target: str) -> None:
    """Copy a folder, also from and to ModelArts' object storage.

    Args:
        source: A folder, or obs://...
        target: The same.

    Raises:
        LaunchError: It cannot be copied, or the package for obs:// is missing.
    """
    if _STORAGE in (source[: len(_STORAGE)], target[: len(_STORAGE)]):
        try:
            moxing = import_module("moxing")
        except ImportError:
            raise LaunchError(
                f"{source} -> {target}: this Python has no moxing, which copies from and to "
                "obs://; ModelArts' images have it"
            ) from None
        moxing.file.copy_parallel(source, target)
        return
    try:
        shutil.copytree(source, target, dirs_exist_ok=True)
    except (OSError, shutil.Error) as error:
        raise LaunchError(f"{source} -> {target}: cannot be copied ({error})") from None


def local_data(url: str, cache: Path) -> Path:
    """Return a folder of this machine with the data.

    Args:
        url: A folder, which is used as it is, or obs://...
        cache: Where to copy the latter.
    """
    if not url.startswith(_STORAGE):
        if not Path(url).is_dir():
            raise LaunchError(f"--data_url {url}: no such folder")
        return Path(url).absolute()
    folder = cache / "data"
    copy(url, str(folder))
    return folder


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the boot file.

    Args:
        arguments: The command line; None: that of the process.

    Returns:
        The exit code of the training.
    """
    try:
        return _run(arguments)
    except LaunchError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.code


def _run(arguments: Sequence[str] | None) -> int:
    parser = argparse.ArgumentParser(prog="modelarts.py", allow_abbrev=False)
    parser.add_argument("--model", required=True, choices=models())
    parser.add_argument("--data_url", required=True, help="folder or obs://... of the data")
    parser.add_argument("--train_url", required=True, help="folder or obs://... for the results")
    parser.add_argument("--device_target", default="Ascend", choices=DEVICES)
    parser.add_argument("--ranks", type=int, default=0, help="processes [0: one a card, or one]")
    own, options = parser.parse_known_args(arguments)
    cache = CACHE if CACHE.is_dir() else Path.cwd() / "cache"
    data = local_data(own.data_url, cache)
    options = [word.replace("{data}", str(data)) for word in options]
    ranks = own.ranks or (cards() if own.device_target == "Ascend" else 1) or 1
    entry = ["distribute_train", own.device_target, str(ranks)]
    entry += ["0"] if own.device_target == "Ascend" else []
    if ranks == 1:
        entry = ["train", own.device_target]
    command = ["bash", str(ROOT / "scripts/launch.sh"), own.model, *entry, *options]
    code = subprocess.run(command, check=False).returncode
    results = cache / "results"
    results.mkdir(parents=True, exist_ok=True)
    for name in RESULTS:
        path = ROOT / own.model / name
        if path.is_dir():
            shutil.copytree(path, results / name, dirs_exist_ok=True)
        elif path.is_file():
            shutil.copy2(path, results / name)
    copy(str(results), own.train_url)
    print(f"results in {own.train_url}")
    return code


def cards(devices: Path = Path("/dev")) -> int:
    """Count the Ascend cards of this machine.

    Args:
        devices: The folder of its devices.
    """
    visible = os.environ.get("ASCEND_RT_VISIBLE_DEVICES", "")
    if visible:
        return len(visible.split(","))
    return sum(path.name[7:].isdecimal() for path in devices.glob("davinci*"))
