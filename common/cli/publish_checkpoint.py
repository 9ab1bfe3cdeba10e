"""A checkpoint to hand on: weights, configuration, labels and scores, without optimizer state and
without the folders of the machine that it was trained on.

    python ../scripts/publish_checkpoint.py checkpoint/DeepSpeech-best.ckpt OUT.ckpt

Manifests below the current folder stay as paths from there, others become mere names.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from common.utils.errors import UserError

KEPT = ("format", "model", "config", "labels", "versions", "scores")


def publish(source: str, out: str) -> None:
    from common.model import checkpoint
    from common.utils.backend import ms

    found = checkpoint.load(source)
    if found.metadata is None:
        raise UserError(f"checkpoint {source}: names no configuration, so there is none to keep")
    metadata = {key: value for key, value in found.metadata.items() if key in KEPT}
    data = metadata["config"]["DataConfig"]
    for key in ("train_manifest", "val_manifest", "test_manifest"):
        paths = [data[key]] if isinstance(data[key], str) else data[key]
        data[key] = [_here(path) for path in paths if path]
    if data.get("Data_dir"):
        data["Data_dir"] = _here(data["Data_dir"])
    checkpoint.take_averages(found)  # what training led to, where it kept them
    weights = {
        name: ms.Tensor(value)
        for name, value in found.parameters.items()
        if not checkpoint.is_training_state(name)
    }
    checkpoint.save(Path(out), weights, metadata)


def _here(path: str) -> str:
    """A path without the folders of this machine."""
    inside = Path(path).is_relative_to(Path.cwd())
    return os.path.relpath(path) if inside else Path(path).name


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("source", metavar="CKPT")
    parser.add_argument("out", metavar="OUT")
    arguments = parser.parse_args()
    try:
        publish(arguments.source, arguments.out)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
