"""Where a configuration keeps its MindRecord files, how they are made, how they are opened."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from common.errors import UserError
from common.manifest import read_manifest
from common.mindrecord import ConversionReport, convert, open_dataset
from common.recipe import Recipe, labels_file
from common.recogniser import Recogniser
from common.sources import Source
from common.text import Vocabulary


def shard_files(data: Any, split: str) -> tuple[Path, str]:
    """The folder of a split's files, and their name with `{}` for the shard's number.

    Each split has a folder of its own: the one that `{split}` in DataConfig.mindrecord_format
    names, or else one named after the split beside the files.
    """
    pattern = Path(data.mindrecord_format)
    if pattern.name.count("{}") != 1 or "{}" in str(pattern.parent):
        raise UserError(
            f"DataConfig.mindrecord_format={pattern}: expected one {{}} for the shard's number, "
            "in the file's name, such as mindrecord/{split}/ds2_{}.md"
        )
    folder, name = (str(part).replace("{split}", split) for part in (pattern.parent, pattern.name))
    if "{split}" not in str(pattern.parent):
        return Path(folder, split), name
    return Path(folder), name


def convert_split(
    recipe: Recipe, config: Any, split: str, log: Callable[[str], None] = print
) -> ConversionReport:
    """Converts the manifest of a split; what is there already and fits is kept."""
    data = config.DataConfig
    directory, stem = shard_files(data, split)
    return convert(
        read_manifest(getattr(data, f"{split}_manifest")),
        directory,
        stem,
        shards=data.shards,
        featurizer=recipe.build_featurizer(data),
        vocabulary=Vocabulary.from_file(labels_file(recipe, config)),
        output_frames=lambda frames: recipe.output_frames(config.ModelConfig, frames),
        store=data.store,
        workers=data.workers,
        min_duration=data.min_duration,
        max_duration=data.max_duration,
        log=log,
    )


def open_split(recogniser: Recogniser, split: str) -> Source:
    """The converted utterances of a split, checked against the features and vocabulary in use."""
    data = recogniser.config.DataConfig
    directory, _ = shard_files(data, split)
    files = data.mindrecord_files if split == "train" else None
    return open_dataset(directory, files, recogniser.featurizer, recogniser.vocabulary)
