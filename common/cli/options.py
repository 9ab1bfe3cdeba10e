"""Options of the command line that entry points share, and the objects made from them."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import Any

from common import config as configs
from common.model.recipe import Recipe, labels_file
from common.text.tokenizer import BLANK, CharacterTokenizer
from common.utils import runtime
from common.utils.arguments import command as command
from common.utils.errors import UserError


def add_config(parser: argparse.ArgumentParser, recipe: Recipe) -> None:
    """Add --preset, --config and --set, which override a training configuration.

    Args:
        parser: The parser.
        recipe: The model.
    """
    parser.add_argument(
        "--preset",
        metavar="NAME",
        help=f"a configuration that ships with the model: {', '.join(recipe.presets())}",
    )
    parser.add_argument(
        "--config", action="append", default=[], metavar="YAML", help="overrides from a file"
    )
    add_set(parser)


def add_eval_config(parser: argparse.ArgumentParser) -> None:
    """Add --config and --set, which override an evaluation configuration.

    Args:
        parser: The parser.
    """
    parser.add_argument(
        "--config", action="append", default=[], metavar="YAML", help="overrides of eval_config"
    )
    add_set(parser)


def add_set(parser: argparse.ArgumentParser) -> None:
    """Add --set, which overrides single keys.

    Args:
        parser: The parser.
    """
    parser.add_argument(
        "--set",
        action="extend",
        nargs="+",
        default=[],
        metavar="KEY=VALUE",
        help="override single keys, such as DataConfig.batch_size=8 or batch_size=8",
    )


def add_device(parser: argparse.ArgumentParser) -> None:
    """Add --device_target and --device_id.

    Args:
        parser: The parser.
    """
    parser.add_argument(
        "--device_target", help="Ascend, GPU or CPU; none given: the best one present"
    )
    parser.add_argument(
        "--device_id", type=int, help="card number; none given: DEVICE_ID, or else 0"
    )


def add_checkpoint(
    parser: argparse.ArgumentParser,
    flag: str,
    required: bool = True,
    pretrained: Path | None = None,
) -> None:
    """Add an option for a checkpoint, and --train_config for checkpoints without configuration.

    Args:
        parser: The parser.
        flag: Name of the option.
        required: Whether a checkpoint must be given, if none ships with the model.
        pretrained: The checkpoint that ships with the model, used where none is given.
    """
    usual = "" if pretrained is None else f"; none given: {pretrained.name}, which ships here"
    parser.add_argument(
        flag,
        required=required and pretrained is None,
        default=pretrained and os.path.relpath(pretrained),
        metavar="CKPT",
        help=f"checkpoint{usual}",
    )
    parser.add_argument(
        "--train_config",
        metavar="YAML",
        help="only for checkpoints of the MindSpore model zoo: the configuration of their network",
    )


def boolean(text: str) -> bool:
    """Parse true or false, for `type=` of an option.

    Args:
        text: true, 1, yes, false, 0 or no, in any letter case.

    Returns:
        The value.

    Raises:
        argparse.ArgumentTypeError: It is none of these.
    """
    values = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
    if text.lower() not in values:
        raise argparse.ArgumentTypeError(f"expected true or false, found {text}")
    return values[text.lower()]


def train_config(arguments: argparse.Namespace, recipe: Recipe) -> Any:
    """Make the training configuration that the command line describes.

    Args:
        arguments: Those of `add_config`.
        recipe: The model.

    Returns:
        The checked configuration.

    Raises:
        UserError: A preset, file, key or value is wrong.
    """
    return overridden(recipe.train_config(), arguments, recipe)


def overridden(config: Any, arguments: argparse.Namespace, recipe: Recipe) -> Any:
    """Override a training configuration by the preset, the YAML files and the single keys.

    Args:
        config: The configuration; changed in place.
        arguments: Those of `add_config`.
        recipe: The model.

    Returns:
        `config`, checked.

    Raises:
        UserError: A preset, file, key or value is wrong.
    """
    if arguments.preset:
        path = recipe.preset(arguments.preset)
        if not path.is_file():
            raise UserError(
                f"--preset {arguments.preset}: unknown, expected one of "
                f"{', '.join(recipe.presets())}"
            )
        configs.override_from_yaml(config, path)
    files = [
        (path, configs.override_from_yaml(config, path, recipe.translate_yaml))
        for path in arguments.config
    ]
    configs.override_from_options(config, arguments.set)
    configs.check(config)
    for path, labels in files:
        _check_labels(recipe, config, path, labels)
    return config


def override(config: Any, arguments: argparse.Namespace, recipe: Recipe) -> None:
    """Override an evaluation or inference configuration by YAML files and single keys.

    Args:
        config: The configuration; changed in place and checked.
        arguments: Those of `add_eval_config`.
        recipe: The model.

    Raises:
        UserError: A file, key or value is wrong.
    """
    for path in arguments.config:
        configs.override_from_yaml(config, path, stored=recipe.train_config())
    configs.override_from_options(config, arguments.set)
    configs.check(config)


def _check_labels(recipe: Recipe, config: Any, path: str, labels: list[str] | None) -> None:
    """Check that the tokenizer of another project's file is that of DataConfig.labels_path."""
    if labels is None:
        return
    ours = labels_file(recipe, config)
    if CharacterTokenizer.from_file(ours).labels != (*labels, BLANK):
        raise UserError(
            f"configuration {path}: its {len(labels)} labels and the blank are not those of {ours}:"
            f" write them to a JSON list that ends with the blank, {BLANK!r}, and give "
            "--set labels_path=FILE"
        )


def load_speech_model(arguments: argparse.Namespace, recipe: Recipe, path: str) -> Any:
    """Load a checkpoint on the device of the command line.

    Args:
        arguments: Those of `add_checkpoint` and `add_device`.
        recipe: The model.
        path: The checkpoint.

    Returns:
        The SpeechModel.

    Raises:
        UserError: The checkpoint or the device is wrong.
    """
    from common.model.speech_model import SpeechModel

    fallback = None
    if arguments.train_config:
        fallback = recipe.train_config()
        file = arguments.train_config
        labels = configs.override_from_yaml(fallback, file, recipe.translate_yaml)
        _check_labels(recipe, fallback, file, labels)
    device = runtime.set_device(arguments.device_target, arguments.device_id)
    return SpeechModel.from_checkpoint(
        recipe, path, device, fallback, log=lambda line: print(line, file=sys.stderr)
    )
