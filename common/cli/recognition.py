"""eval.py and transcribe.py: text of recordings, scored or printed."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from common import config as configs
from common.cli.options import (
    add_checkpoint,
    add_device,
    add_eval_config,
    command,
    load_speech_model,
    manifests_to_score,
    override,
)
from common.data.manifest import Utterance, listed, read_data, without_copies
from common.data.validation import readable
from common.model.recipe import Recipe
from common.utils.errors import UserError
from common.utils.files import check_writable

_PORTION = 16  # batches that transcribe.py reads, recognises and prints at a time


def evaluate(recipe: Recipe, argv: Sequence[str]) -> None:
    parser = command(
        prog="eval.py",
        description=f"Score a {recipe.name} checkpoint. Writes eval.log, and with --set "
        "report=FILE a page to look at and listen to.",
    )
    add_checkpoint(parser, "--pretrain_ckpt", pretrained=recipe.pretrained)
    add_eval_config(parser)
    add_device(parser)
    arguments = parser.parse_args(argv)

    config = recipe.eval_config()
    override(config, arguments)
    if config.report:
        check_writable(config.report)

    from common.data.dataset import ManifestDataset
    from common.decoding.decoders import describe
    from common.evaluation.evaluate import evaluate as score
    from common.evaluation.html_report import write_report
    from common.memory import forecast_forward
    from common.utils.logging import open_log

    speech_model = load_speech_model(arguments, recipe, arguments.pretrain_ckpt)
    decoder = speech_model.decoder(config.LMConfig)
    log = open_log("eval.log", needed=False)
    data = config.DataConfig
    trained = speech_model.config.DataConfig
    manifests, data_dir = manifests_to_score(arguments.pretrain_ckpt, data, trained)
    test_set = listed(manifests)
    log.info("%s on %s, test set %s", arguments.pretrain_ckpt, speech_model.device, test_set)
    everything = read_data(trained, speech_model.vocabulary, manifests, data_dir)
    everything = without_copies(everything, test_set)
    check_length = forecast_forward(speech_model).check
    good, unread = readable(everything, speech_model.featurizer, check_length, data.workers)
    for problem in unread:
        log.error("%s", problem)
    if not good:
        raise UserError(f"{test_set}: not one of its recordings can be read")
    if unknown := speech_model.vocabulary.unknown_in(utterance.text for utterance in good):
        counts = ", ".join(f"{c!r} in {count}" for c, count in unknown.most_common(20))
        log.warning("references hold characters without a label, which are errors: %s", counts)
    source = ManifestDataset(
        good, speech_model.featurizer, speech_model.vocabulary, labelled=False, log=log.info
    )
    result = score(
        speech_model,
        decoder,
        source,
        data.batch_size,
        data.workers,
        each=_printer(log) if config.verbose else None,
        save_output=config.save_output,
    )
    log.info("utterances: %d, %.2f hours", len(source), source.durations.sum() / 3600)
    unwritten = None  # costs the page, not the figures
    if config.report:
        facts = {
            "Checkpoint": arguments.pretrain_ckpt,
            "Test set": test_set,
            "Not read": f"{len(unread)} of {len(everything)} recordings" if unread else "",
            "Decoder": describe(config.LMConfig),
            "Device": speech_model.device,
        }
        features, players = speech_model.featurizer, config.report_utterances
        try:
            write_report(config.report, recipe.name, facts, result, source, features, players)
            log.info("report: %s", config.report)
        except UserError as error:
            unwritten = error
    for line in result.summary():
        log.info(line)
    if unwritten:
        raise unwritten
    if unread:
        raise UserError(
            f"{len(unread)} of {len(everything)} recordings were not read, as said above; the "
            "figures are those of the others"
        )


def transcribe(recipe: Recipe, argv: Sequence[str]) -> int:
    parser = command(
        prog="transcribe.py",
        description="Print the text of recordings: of one file the text, of several a line each, "
        "file and text parted by a tab.",
    )
    parser.add_argument("files", nargs="+", metavar="FILE", help="any format that soundfile reads")
    add_checkpoint(parser, "--pretrain_ckpt", pretrained=recipe.pretrained)
    parser.add_argument(
        "--batch_size", type=int, help="recordings at once; none given: DataConfig.batch_size"
    )
    add_eval_config(parser)
    add_device(parser)
    arguments = parser.parse_args(argv)

    config = recipe.eval_config()
    override(config, arguments)
    _check_effect(arguments, recipe)
    batch_size = arguments.batch_size
    if batch_size is None:
        batch_size = config.DataConfig.batch_size
    if batch_size < 1:
        raise UserError(f"--batch_size {batch_size}: expected at least 1")

    from common.data.dataset import ManifestDataset
    from common.evaluation.evaluate import recognise
    from common.memory import forecast_forward

    speech_model = load_speech_model(arguments, recipe, arguments.pretrain_ckpt)
    decoder = speech_model.decoder(config.LMConfig)
    check_length = forecast_forward(speech_model).check
    names, portion, failed = arguments.files, _PORTION * batch_size, 0
    # In portions, so that texts come soon and an interruption loses little.
    for start in range(0, len(names), portion):
        utterances = [
            Utterance(id=name, audio=Path(name), text="") for name in names[start:][:portion]
        ]
        good, unread = readable(
            utterances, speech_model.featurizer, check_length, config.DataConfig.workers
        )
        for problem in unread:
            print(f"error: {problem}", file=sys.stderr)
        failed += len(unread)
        if not good:
            continue
        source = ManifestDataset(
            good,
            speech_model.featurizer,
            speech_model.vocabulary,
            labelled=False,
            log=None if start else lambda line: print(line, file=sys.stderr),
        )
        label = "transcribing" if len(good) > batch_size else None
        workers = config.DataConfig.workers
        found = recognise(speech_model, decoder, source, batch_size, workers, label)
        texts = {each.index: each.text for each in found}
        for index, utterance in enumerate(good):
            line = texts[index] if len(names) == 1 else f"{utterance.id}\t{texts[index]}"
            print(line, flush=True)
    if failed:
        print(f"error: {failed} of {len(names)} files were not read", file=sys.stderr)
    return 1 if failed else 0


def _check_effect(arguments: argparse.Namespace, recipe: Recipe) -> None:
    """Refuses single keys that transcribe.py does not follow; a YAML file may be eval.py's too."""
    config = recipe.eval_config()
    usual, without_effect = configs.leaves(config), configs.eval_only_keys(config)
    configs.override_from_options(config, arguments.set)
    for key, value in configs.leaves(config).items():
        if value != usual[key] and key in without_effect:
            raise UserError(f"--set {key}={value}: of no effect on transcribe.py, leave it out")


def _printer(log: Any) -> Callable[[Any], None]:
    def each(utterance: Any) -> None:
        for line in utterance.lines():
            log.info(line)

    return each
