"""Make a checkpoint or an ONNX file to share: weights, configuration, labels and scores only.

    python ../scripts/publish_checkpoint.py checkpoint/DeepSpeech-best.ckpt OUT.ckpt
    python ../scripts/publish_checkpoint.py deepspeech2.onnx OUT.onnx

Optimizer state and the folders of this machine are left out: manifests below the current folder
become relative paths, others plain file names.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from typing import Any

from common.utils.errors import UserError

# What is kept of its metadata; the rest belongs to the training run.
CHECKPOINT_KEYS = frozenset(
    "format project_version versions model config labels tokenizer scores license".split()
)


def publish(source: str, out: str) -> None:
    """Write a checkpoint to share.

    Args:
        source: A checkpoint of a training run, or an ONNX file that export.py wrote.
        out: The file to write.

    Raises:
        UserError: The source has no configuration, or a file cannot be read or written.
    """
    if Path(source).suffix == ".onnx":
        _publish_onnx(Path(source), Path(out))
        return

    from common.model import checkpoint
    from common.utils.backend import ms

    trained = checkpoint.load(source)
    if trained.metadata is None:
        raise UserError(f"checkpoint {source}: has no configuration, so it cannot be published")
    metadata = {key: value for key, value in trained.metadata.items() if key in CHECKPOINT_KEYS}
    _forget_folders(metadata["config"]["DataConfig"])
    checkpoint.take_averages(trained)  # the result of training, where it has averages
    weights = {
        name: ms.Tensor(value)
        for name, value in trained.parameters.items()
        if not checkpoint.is_training_state(name)
    }
    checkpoint.save(Path(out), weights, metadata)


def _publish_onnx(source: Path, out: Path) -> None:
    """Write an ONNX file to share: its description without the folders of this machine."""
    from common.export.onnx_metadata import (
        CONTENT,
        DESCRIPTION,
        add_metadata,
        check_model_content,
        copy_without_metadata,
        embedded_description,
        model_content,
        read_metadata,
    )
    from common.utils.files import replacing

    description = embedded_description(source)
    if description is None:
        raise UserError(f"{source}: has no description, so it cannot be published")
    check_model_content(source, description)
    _forget_folders(description["config"]["DataConfig"])
    description["file"] = out.name
    for bucket in description["buckets"]:
        bucket["file"] = out.name
    with replacing(out) as partial:
        copy_without_metadata(source, partial)
        description[CONTENT] = model_content(partial)
        entries = {**read_metadata(source), DESCRIPTION: json.dumps(description)}
        add_metadata(partial, entries)


def _forget_folders(data: dict[str, Any]) -> None:
    """Make the paths of a stored DataConfig relative, in place."""
    for key in ("train_manifest", "val_manifest", "test_manifest"):
        paths = [data[key]] if isinstance(data[key], str) else data[key]
        data[key] = [_here(path) for path in paths if path]
    if data.get("Data_dir"):
        data["Data_dir"] = _here(data["Data_dir"])


def _here(path: str) -> str:
    """Return the path without the folders of this machine."""
    inside = Path(os.path.abspath(path)).is_relative_to(Path.cwd())
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
