"""Convert and open the MindRecord files of the splits (train, val) of a configuration."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common.data.dataset import Dataset
from common.data.manifest import Log, Utterance, listed, read_data, without_copies
from common.data.mindrecord import ConversionReport, convert, open_dataset, other_origin
from common.data.selection import SelectionRules, split_copies
from common.model.recipe import Recipe
from common.text.tokenizer import Tokenizer
from common.utils.errors import UserError
from common.utils.files import absolute_path

if TYPE_CHECKING:  # it loads mindspore, which conversion does without
    from common.model.speech_model import SpeechModel


def shard_files(data: Any, split: str) -> tuple[Path, str]:
    """Return the folder of a split's files, and their name with `{}` for the shard's number.

    Each split has a folder of its own: the one that `{split}` in DataConfig.mindrecord_format
    names, or else one named after the split beside the files.

    Args:
        data: A DataConfig.
        split: "train" or "val".

    Raises:
        UserError: DataConfig.mindrecord_format has no place for the shard's number.
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
    """Convert the manifests of a split; files that are up to date are kept.

    Args:
        recipe: The model.
        config: Its training configuration.
        split: "train" or "val".
        log: Receives lines for the user.

    Returns:
        What was converted and what was left out, copies at another speed among it.

    Raises:
        UserError: As `convert`; or a manifest cannot be read or holds nothing but ignored copies.
    """
    data = config.DataConfig
    directory, file_pattern = shard_files(data, split)
    tokenizer = recipe.load_tokenizer(config)
    everything = read_split(data, tokenizer, split, log)
    utterances = _wanted(data, split, everything)
    _, copies = split_copies(everything, SelectionRules(ignore_copies=ignores_copies(data, split)))
    manifests = _manifests(data, split)
    report = convert(
        utterances,
        directory,
        file_pattern,
        shards=data.shards,
        featurizer=recipe.build_featurizer(data),
        tokenizer=tokenizer,
        output_frames=lambda frames: recipe.output_frames(config.ModelConfig, frames),
        store=data.store,
        workers=data.workers,
        min_duration=data.min_duration,
        max_duration=data.max_duration,
        origin=_origin(data, [str(absolute_path(path)) for path in manifests]),
        log=log,
    )
    return replace(report, left_out=(*copies, *report.left_out))


def _manifests(data: Any, split: str) -> list[str]:
    return getattr(data, f"{split}_manifest")


def read_split(
    data: Any, tokenizer: Tokenizer, split: str, log: Log | None = None
) -> list[Utterance]:
    """Read the utterances in the manifests of a split.

    Args:
        data: A DataConfig.
        tokenizer: Normalises their texts.
        split: "train" or "val".
        log: As in `manifest.read_manifest`.

    Returns:
        The utterances.

    Raises:
        UserError: No manifest is named, or one cannot be read.
    """
    manifests = _manifests(data, split)
    if not manifests:
        raise UserError(f"DataConfig.{split}_manifest names no manifest")
    return read_data(data, tokenizer, manifests, log=log)


def _origin(data: Any, manifests: list[str]) -> str:
    """Describe what the ids and texts of converted files come from, for messages."""
    how = data.normalize_transcripts
    return listed(manifests) + (f" (transcripts normalised: {how})" if how else "")


def ignores_copies(data: Any, split: str) -> bool:
    """Whether recordings at another speed are left out: only training may take them.

    Args:
        data: A DataConfig.
        split: "train" or "val".
    """
    return split != "train" or data.ignore_offline_speed_perturbation


def _wanted(data: Any, split: str, utterances: list[Utterance]) -> list[Utterance]:
    """Return what is converted of the utterances of a split."""
    if not ignores_copies(data, split):
        return utterances
    return without_copies(utterances, listed(_manifests(data, split)))


def open_split(speech_model: SpeechModel, split: str) -> Dataset:
    """Open the converted utterances of a split.

    Args:
        speech_model: Its features, tokenizer and configuration must be those of the files.
        split: "train" or "val".

    Returns:
        The dataset.

    Raises:
        UserError: The files are missing, damaged, or made with other features or labels, or of
            another manifest than the split's, where that can be read here.
    """
    data = speech_model.config.DataConfig
    directory, _ = shard_files(data, split)
    files = data.mindrecord_files if split == "train" else None
    dataset = open_dataset(directory, files, speech_model.featurizer, speech_model.tokenizer)
    _check_manifests(data, speech_model.tokenizer, split, directory)
    return dataset


def _check_manifests(data: Any, tokenizer: Tokenizer, split: str, directory: Path) -> None:
    """Refuse records of other ids or texts than the split's manifests have."""
    manifests = _manifests(data, split)
    if not manifests:
        return
    try:
        utterances = read_data(data, tokenizer, manifests)
    except UserError:  # not here: the records are all that training needs
        return
    # Where copies are ignored, records with copies serve too: training leaves them out.
    candidates = [_wanted(data, split, utterances)]
    if ignores_copies(data, split):
        candidates.append(utterances)
    origins = [other_origin(directory, candidate) for candidate in candidates]
    if None in origins:
        return
    origin = origins[0]
    same = origin == _origin(data, [str(absolute_path(path)) for path in manifests])
    has = "has" if len(manifests) == 1 else "have"
    now = f"and {split}_manifest is {_origin(data, manifests)}"
    change = f"which {has} changed since" if same else now
    otherwise = {
        "train": "set train_manifest= (nothing) to train on it as it is",
        "val": "set val_manifest to what it was converted from",
    }
    raise UserError(
        f"{directory} was converted from {origin}, {change}: convert again (create_mindrecord.py), "
        f"or {otherwise[split]}"
    )
