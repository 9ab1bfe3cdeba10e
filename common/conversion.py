"""Where a configuration keeps its MindRecord files, how they are made, how they are opened."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from common.errors import UserError
from common.manifest import Utterance, read_manifest, without_copies
from common.mindrecord import ConversionReport, convert, open_dataset, other_origin
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
            "in the file's name, such as mindrecord/mine_{split}/mine{}.md"
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
    manifest = getattr(data, f"{split}_manifest")
    everything = read_manifest(manifest)
    utterances = _wanted(data, split, everything, manifest)
    if copies := len(everything) - len(utterances):
        log(f"{manifest}: {copies} of {len(everything)} recordings left out, at another speed")
    return convert(
        utterances,
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
        origin=os.path.abspath(manifest),
        log=log,
    )


def _wanted(
    data: Any, split: str, utterances: list[Utterance], manifest: str
) -> Sequence[Utterance]:
    """Copies at other speeds are for training, where the configuration does not ignore them."""
    if split == "train" and not data.ignore_offline_speed_perturbation:
        return utterances
    return without_copies(utterances, manifest)


def open_split(recogniser: Recogniser, split: str) -> Source:
    """The converted utterances of a split, checked against the features and vocabulary in use, and
    against the split's manifest where that is at hand."""
    data = recogniser.config.DataConfig
    directory, _ = shard_files(data, split)
    files = data.mindrecord_files if split == "train" else None
    source = open_dataset(directory, files, recogniser.featurizer, recogniser.vocabulary)
    _check_manifest(data, split, directory)
    return source


def _check_manifest(data: Any, split: str, directory: Path) -> None:
    """Refuses records of other ids or texts than the split's manifest has."""
    key = f"{split}_manifest"
    manifest = getattr(data, key)
    if not manifest:
        return
    try:
        utterances = read_manifest(manifest)
    except UserError:  # not here: the records are all that training needs
        return
    # Records with copies may serve without them too (`planner.trainable`).
    candidates = [_wanted(data, split, utterances, manifest), utterances]
    if split == "train" and not data.ignore_offline_speed_perturbation:
        del candidates[1]
    origins = [other_origin(directory, candidate) for candidate in candidates]
    if None in origins:
        return
    origin = origins[0]
    same = origin == os.path.abspath(manifest)
    found = "which has changed since" if same else f"and {key} is {manifest}"
    otherwise = {
        "train": "set train_manifest= (nothing) to train on it as it is",
        "val": "set val_manifest to what it was converted from",
    }
    raise UserError(
        f"{directory} was converted from {origin}, {found}: convert again (create_mindrecord.py), "
        f"or {otherwise[split]}"
    )
