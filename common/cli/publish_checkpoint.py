"""Make a checkpoint to share: weights, configuration, labels and scores only.

    python ../scripts/publish_checkpoint.py checkpoint/DeepSpeech-best.ckpt OUT.ckpt

Optimizer state and the folders of this machine are left out: manifests below the current folder
become relative paths, others plain file names.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from common.utils.errors import UserError

# What is kept of its metadata; the rest belongs to the training run.
CHECKPOINT_KEYS = frozenset(
    "format project_version versions model config labels tokenizer scores license".split()
)


def publish(source: str, out: str) -> None:
    """Write a checkpoint to share.

    Args:
        source: A checkpoint of a training run.
        out: The file to write.

    Raises:
        UserError: The source has no configuration, or a file cannot be read or written.
    """
    from common.model import checkpoint
    from common.utils.backend import ms

    trained = checkpoint.load(source)
    if trained.metadata is None:
        raise UserError(f"checkpoint {source}: has no configuration, so it cannot be published")
    metadata = {key: value for key, value in trained.metadata.items() if key in CHECKPOINT_KEYS}
    data = metadata["config"]["DataConfig"]
    for key in ("train_manifest", "val_manifest", "test_manifest"):
        paths = [data[key]] if isinstance(data[key], str) else data[key]
        data[key] = [_here(path) for path in paths if path]
    if data.get("Data_dir"):
        data["Data_dir"] = _here(data["Data_dir"])
    checkpoint.take_averages(trained)  # the result of training, where it has averages
    weights = {
        name: ms.Tensor(value)
        for name, value in trained.parameters.items()
        if not checkpoint.is_training_state(name)
    }
    checkpoint.save(Path(out), weights, metadata)


def _here(path: str) -> str:
    """Return the path without the folders of this machine."""
    inside = Path(path).is_relative_to(Path.cwd())
    return os.path.relpath(path) if inside else Path(path).name


def main() -> int:
    """Run the command; returns its exit code."""
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
