"""The commands create_mindrecord.py and validate.py: convert and check manifests."""

from __future__ import annotations

import argparse
import copy
from collections.abc import Sequence
from typing import Any

from common import config as configs
from common.cli.options import (
    add_checkpoint,
    add_config,
    add_device,
    command,
    load_speech_model,
    overridden,
    train_config,
)
from common.data.manifest import listed, read_data
from common.data.splits import convert_split, ignores_copies
from common.data.validation import validate
from common.model.recipe import Recipe
from common.utils.errors import UserError


def create_mindrecord(recipe: Recipe, argv: Sequence[str]) -> None:
    """Run create_mindrecord.py.

    Args:
        recipe: The model.
        argv: Its options.
    """
    parser = command(
        prog="create_mindrecord.py",
        description="Convert the training and validation manifests to MindRecord files, in "
        "parallel. What is converted already is kept; an interrupted conversion is continued.",
    )
    add_config(parser, recipe)
    arguments = parser.parse_args(argv)
    config = train_config(arguments, recipe)

    for split in ("train", "val"):
        if split == "train" or config.DataConfig.val_manifest:
            for line in convert_split(recipe, config, split).lines():
                print(line)


def check_data(recipe: Recipe, argv: Sequence[str]) -> int:
    """Run validate.py.

    Args:
        recipe: The model.
        argv: Its options.

    Returns:
        The exit code: 1 where there are utterances that cannot be trained on.
    """
    parser = command(
        prog="validate.py",
        description="List the utterances of manifests that cannot be trained on, and why. Exit "
        "code 1 where there are any. With a checkpoint, also rank the others by how improbable "
        "their transcripts are: wrong texts and cut recordings come first.",
    )
    parser.add_argument(
        "manifests",
        nargs="*",
        help="manifests; none: those of the configuration, or the training manifest of the "
        "checkpoint",
    )
    parser.add_argument(
        "--limit", type=int, default=20, help="ids shown for each reason, and suspects; 0: all"
    )
    add_checkpoint(parser, "--pretrain_ckpt", required=False)
    parser.add_argument(
        "--suspects", metavar="FILE", help="write all ranked utterances as CSV, worst first"
    )
    add_config(parser, recipe)
    add_device(parser)
    arguments = parser.parse_args(argv)
    limit = arguments.limit or None

    if arguments.pretrain_ckpt:
        speech_model = load_speech_model(arguments, recipe, arguments.pretrain_ckpt)
        config, tokenizer = _checked_config(arguments, speech_model), speech_model.tokenizer
        sets = {"train": [config.DataConfig.train_manifest]}
    elif arguments.suspects:
        raise UserError(f"--suspects {arguments.suspects}: needs a network, give --pretrain_ckpt")
    elif arguments.train_config:
        raise UserError("--train_config is for --pretrain_ckpt, which is not given: use --config")
    else:
        config = train_config(arguments, recipe)
        tokenizer = recipe.load_tokenizer(config)
        sets = {
            split: [getattr(config.DataConfig, f"{split}_manifest")]
            for split in ("train", "val", "test")
        }
    data = config.DataConfig
    if arguments.manifests:
        sets = {"train": [[manifest] for manifest in arguments.manifests]}
    named = [
        (split, manifests) for split, group in sets.items() for manifests in group if manifests
    ]
    if not named:
        raise UserError("no manifest to validate: name one, or set DataConfig.train_manifest")
    good, bad = [], 0
    for split, manifests in named:
        notes: list[str] = []
        report = validate(
            read_data(data, tokenizer, manifests, log=notes.append),
            tokenizer,
            recipe.build_featurizer(data),
            lambda frames: recipe.output_frames(config.ModelConfig, frames),
            data.min_duration,
            data.max_duration,
            data.workers,
            ignore_copies=ignores_copies(data, split),
        )
        good += report.ok
        bad += report.total - len(report.ok)
        print(listed(manifests))
        for line in [*notes, *report.lines(limit)]:
            print(f"  {line}")
    if arguments.pretrain_ckpt and good:
        from common.evaluation.mislabel_detection import (
            rank_label_issues,
            summary,
            write_label_issues,
        )

        issues = rank_label_issues(speech_model, good, data.batch_size, data.workers)
        for rank, issue in enumerate(issues[:limit], 1):
            print("\n".join(issue.lines(rank)))
        print(summary(issues))
        if arguments.suspects:
            write_label_issues(arguments.suspects, issues)
    return 1 if bad else 0


def _checked_config(arguments: argparse.Namespace, speech_model: Any) -> Any:
    """Return a checkpoint's configuration with what may be overridden when data are checked."""
    config = overridden(copy.deepcopy(speech_model.config), arguments, speech_model.recipe)
    before, free = configs.leaves(speech_model.config), configs.validation_keys(config)
    for key, value in configs.leaves(config).items():
        fixed = key.startswith(("DataConfig.", "ModelConfig.")) and key not in free
        if fixed and value != before[key]:
            raise UserError(
                f"{key} is {value!r}, and {arguments.pretrain_ckpt} has {before[key]!r}: with "
                "--pretrain_ckpt, features, labels and network are the checkpoint's"
            )
    return config
