"""Where a configuration keeps its MindRecord files, how they are made, how they are opened."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common.data.dataset import Dataset
from common.data.manifest import Utterance, listed, read_data, without_copies
from common.data.mindrecord import ConversionReport, convert, open_dataset, other_origin
from common.model.recipe import Recipe, labels_file
from common.text.tokenizer import Vocabulary
from common.utils.errors import UserError

if TYPE_CHECKING:  # it loads mindspore, which conversion does without
    from common.model.speech_model import SpeechModel


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
    vocabulary = Vocabulary.from_file(labels_file(recipe, config))
    everything = read_split(data, vocabulary, split)
    utterances = _wanted(data, split, everything)
    if copies := len(everything) - len(utterances):
        where = listed(_manifests(data, split))
        log(f"{where}: {copies} of {len(everything)} recordings left out, at another speed")
    return convert(
        utterances,
        directory,
        stem,
        shards=data.shards,
        featurizer=recipe.build_featurizer(data),
        vocabulary=vocabulary,
        output_frames=lambda frames: recipe.output_frames(config.ModelConfig, frames),
        store=data.store,
        workers=data.workers,
        min_duration=data.min_duration,
        max_duration=data.max_duration,
        origin=_origin(data, [os.path.abspath(path) for path in _manifests(data, split)]),
        log=log,
    )


def _manifests(data: Any, split: str) -> list[str]:
    return getattr(data, f"{split}_manifest")


def read_split(data: Any, vocabulary: Vocabulary, split: str) -> list[Utterance]:
    """The utterances in the manifests of a split."""
    manifests = _manifests(data, split)
    if not manifests:
        raise UserError(f"DataConfig.{split}_manifest names no manifest")
    return read_data(data, vocabulary, manifests)


def _origin(data: Any, manifests: list[str]) -> str:
    """What the ids and texts of converted files come from, for messages to tell."""
    how = data.normalize_transcripts
    return listed(manifests) + (f" (transcripts normalised: {how})" if how else "")


def _wanted(data: Any, split: str, utterances: list[Utterance]) -> Sequence[Utterance]:
    """Copies at other speeds are for training, where the configuration does not ignore them."""
    if split == "train" and not data.ignore_offline_speed_perturbation:
        return utterances
    return without_copies(utterances, listed(_manifests(data, split)))


def open_split(speech_model: SpeechModel, split: str) -> Dataset:
    """The converted utterances of a split, checked against the features and vocabulary in use, and
    against the split's manifest where that is at hand."""
    data = speech_model.config.DataConfig
    directory, _ = shard_files(data, split)
    files = data.mindrecord_files if split == "train" else None
    source = open_dataset(directory, files, speech_model.featurizer, speech_model.vocabulary)
    _check_manifests(data, speech_model.vocabulary, split, directory)
    return source


def _check_manifests(data: Any, vocabulary: Vocabulary, split: str, directory: Path) -> None:
    """Refuses records of other ids or texts than the split's manifests have."""
    manifests = _manifests(data, split)
    if not manifests:
        return
    try:
        utterances = read_data(data, vocabulary, manifests)
    except UserError:  # not here: the records are all that training needs
        return
    # Records with copies may serve without them too (`planner.trainable`).
    candidates = [_wanted(data, split, utterances), utterances]
    if split == "train" and not data.ignore_offline_speed_perturbation:
        del candidates[1]
    origins = [other_origin(directory, candidate) for candidate in candidates]
    if None in origins:
        return
    origin = origins[0]
    same = origin == _origin(data, [os.path.abspath(path) for path in manifests])
    has = "has" if len(manifests) == 1 else "have"
    now = f"and {split}_manifest is {_origin(data, manifests)}"
    found = f"which {has} changed since" if same else now
    otherwise = {
        "train": "set train_manifest= (nothing) to train on it as it is",
        "val": "set val_manifest to what it was converted from",
    }
    raise UserError(
        f"{directory} was converted from {origin}, {found}: convert again (create_mindrecord.py), "
        f"or {otherwise[split]}"
    )
