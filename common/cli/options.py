"""Options of the command line that entry points share, and the objects made from them."""

from __future__ import annotations

import argparse
import os
from typing import TYPE_CHECKING, Any

from common import config as configs
from common.api.loading import ENGINES, load_model, load_network, shipped
from common.model.recipe import Recipe, labels_file
from common.text.tokenizer import BLANK, CharacterTokenizer
from common.utils import ascend
from common.utils.arguments import command as command
from common.utils.errors import UserError

if TYPE_CHECKING:  # they load MindSpore, or what it is not needed for
    from common.model.acoustic_model import AcousticModel
    from common.model.speech_model import SpeechModel


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


def add_decoding(parser: argparse.ArgumentParser) -> None:
    """Add the options that stand for keys of LMConfig: hot words, lexicon, N-best.

    Args:
        parser: The parser.
    """
    group = parser.add_argument_group("beam search", "each of these chooses decoder_type=beam")
    group.add_argument(
        "--hot_words",
        metavar="WORDS",
        help="words to expect, parted by commas, or a text file of them (LMConfig.hot_words)",
    )
    group.add_argument(
        "--hot_word_boost",
        type=float,
        metavar="NATS",
        help="added to the score of each hot word (LMConfig.hot_word_boost)",
    )
    group.add_argument(
        "--lexicon",
        metavar="FILE",
        help="the only words that may occur: a text file, or lm for those of the language model",
    )
    group.add_argument(
        "--nbest", type=int, metavar="N", help="texts for each recording (LMConfig.top_paths)"
    )


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
    for flag, variable, known, what in (
        ("--jit_level", ascend.JIT_LEVEL, ascend.JIT_LEVELS, "O2 on a 910A, else O0"),
        ("--operator_precision", ascend.PRECISION, ascend.PRECISIONS, "MindSpore's for the chip"),
    ):
        parser.add_argument(
            flag,
            action=_SetVariable,
            variable=variable,
            choices=known,
            help=f"on Ascend alone, as {variable} in the environment; none given: {what}",
        )


class _SetVariable(argparse.Action):
    """Sets a variable of the environment, which the processes started from here have, too."""

    def __init__(self, *arguments: Any, variable: str, **options: Any):
        super().__init__(*arguments, **{**options, "default": argparse.SUPPRESS})
        self.variable = variable

    def __call__(self, parser, namespace, values, option_string=None):
        os.environ[self.variable] = values


def add_checkpoint(parser: argparse.ArgumentParser, flag: str, required: bool = True) -> None:
    """Add an option for a checkpoint, and --train_config for checkpoints without configuration.

    Args:
        parser: The parser.
        flag: Name of the option.
        required: Whether a checkpoint must be given.
    """
    parser.add_argument(flag, required=required, metavar="CKPT", help="checkpoint")
    _add_train_config(parser)


def add_model(parser: argparse.ArgumentParser, recipe: Recipe) -> None:
    """Add --pretrain_ckpt, --engine, --train_config and the options of the device.

    Args:
        parser: The parser.
        recipe: The model, which may ship a network that is used where none is given.
    """
    usual = "" if recipe.pretrained is None else "; none given: the one that ships here"
    parser.add_argument(
        "--pretrain_ckpt",
        required=recipe.pretrained is None,
        metavar="FILE",
        help=f"checkpoint, or exported file (.onnx, .mindir){usual}",
    )
    parser.add_argument(
        "--engine",
        choices=ENGINES,
        default="auto",
        help="what runs the network: MindSpore runs checkpoints and MindIR files, ONNX Runtime "
        "ONNX files; auto: by the file",
    )
    _add_train_config(parser)
    add_device(parser)


def _add_train_config(parser: argparse.ArgumentParser) -> None:
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
    _override_decoding(config, arguments)
    configs.check(config)


def _override_decoding(config: Any, arguments: argparse.Namespace) -> None:
    """Set what the options of `add_decoding` say, where the command has them."""
    options = {
        "hot_words": getattr(arguments, "hot_words", None),
        "hot_word_boost": getattr(arguments, "hot_word_boost", None),
        "lexicon": getattr(arguments, "lexicon", None),
        "top_paths": getattr(arguments, "nbest", None),
    }
    for key, value in options.items():
        if value is not None:
            setattr(config.LMConfig, key, value)
            config.LMConfig.decoder_type = "beam"


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


def model_path(arguments: argparse.Namespace, recipe: Recipe) -> str:
    """Return the file of --pretrain_ckpt, or of the network that ships.

    Args:
        arguments: Those of `add_model`.
        recipe: The model.

    Returns:
        Its path, below the current folder or else from it.
    """
    if arguments.pretrain_ckpt:
        return str(arguments.pretrain_ckpt)
    # Only a checkpoint may lack a configuration: a line says that the one that ships has its own.
    engine = "mindspore" if arguments.train_config else arguments.engine
    return os.path.relpath(shipped(recipe, engine, arguments.device_target))


def load_acoustic_model(arguments: argparse.Namespace, recipe: Recipe, path: str) -> AcousticModel:
    """Load the network of the command line, in what runs it.

    Args:
        arguments: Those of `add_model`.
        recipe: The model.
        path: What `model_path` returned.

    Returns:
        The network.

    Raises:
        UserError: The file, the engine or the device is wrong.
    """
    return load_model(
        recipe,
        path,
        engine=arguments.engine,
        device=arguments.device_target,
        device_id=arguments.device_id,
        fallback=_fallback(arguments, recipe),
    )


def load_speech_model(arguments: argparse.Namespace, recipe: Recipe, path: str) -> SpeechModel:
    """Load a checkpoint on the device of the command line.

    Args:
        arguments: Those of `add_checkpoint` and `add_device`.
        recipe: The model.
        path: The checkpoint.

    Returns:
        The network.

    Raises:
        UserError: The checkpoint or the device is wrong.
    """
    fallback = _fallback(arguments, recipe)
    return load_network(recipe, path, arguments.device_target, arguments.device_id, fallback)


def _fallback(arguments: argparse.Namespace, recipe: Recipe) -> Any:
    """Read --train_config; None: it is not given."""
    if not arguments.train_config:
        return None
    config, file = recipe.train_config(), arguments.train_config
    labels = configs.override_from_yaml(config, file, recipe.translate_yaml)
    _check_labels(recipe, config, file, labels)
    return config
