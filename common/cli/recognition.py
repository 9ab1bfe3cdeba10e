"""The commands eval.py and transcribe.py: recognise recordings, score or print their text."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

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
from common.model.recipe import Recipe
from common.utils.errors import UserError
from common.utils.files import check_writable

_BATCHES_PER_PORTION = 16  # that transcribe.py reads, recognises and prints at a time


def evaluate(recipe: Recipe, argv: Sequence[str]) -> None:
    """Run eval.py with the options in `argv`."""
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

    from common.data.dataset import ManifestDataset, ReadFailure
    from common.decoding.decoders import describe
    from common.evaluation.evaluate import evaluate as score
    from common.evaluation.html_report import write_report
    from common.evaluation.scoring import ScoredUtterance
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
    utterances = read_data(trained, speech_model.vocabulary, manifests, data_dir)
    utterances = without_copies(utterances, test_set)
    dataset = ManifestDataset(
        utterances,
        speech_model.featurizer,
        speech_model.vocabulary,
        labelled=False,
        log=log.info,
        skip_unreadable=True,
        check_length=forecast_forward(speech_model).check,
        workers=data.workers,
    )
    # By position in the manifests, the order in which they are reported.
    unreadable = {failure.index: failure.message for failure in dataset.unreadable}

    def add_unreadable(failure: ReadFailure) -> None:
        unreadable[dataset.positions[failure.index]] = failure.message

    def print_scored(utterance: ScoredUtterance) -> None:
        for line in utterance.lines():
            log.info(line)

    try:
        evaluation = score(
            speech_model,
            decoder,
            dataset,
            data.batch_size,
            data.workers,
            on_scored=print_scored if config.verbose else None,
            save_output=config.save_output,
            on_unreadable=add_unreadable,
        )
    finally:
        for position in sorted(unreadable):
            log.error(unreadable[position])
    readable = [
        index for index, position in enumerate(dataset.positions) if position not in unreadable
    ]
    if not readable:
        raise UserError(f"{test_set}: not one of its recordings can be read")
    scored = dataset if len(readable) == len(dataset) else dataset.subset(readable)
    references = (utterances[dataset.positions[index]].text for index in readable)
    if unknown := speech_model.vocabulary.unknown_in(references):
        counts = ", ".join(f"{c!r} in {count}" for c, count in unknown.most_common(20))
        log.warning("references hold characters without a label, which are errors: %s", counts)
    log.info("utterances: %d, %.2f hours", len(scored), scored.durations.sum() / 3600)
    report_error = None  # raised last: it costs the page, not the figures
    if config.report:
        facts = {
            "Checkpoint": arguments.pretrain_ckpt,
            "Test set": test_set,
            "Not read": f"{len(unreadable)} of {len(utterances)} recordings" if unreadable else "",
            "Decoder": describe(config.LMConfig),
            "Device": speech_model.device,
        }
        features, players = speech_model.featurizer, config.report_utterances
        try:
            write_report(config.report, recipe.name, facts, evaluation, scored, features, players)
            log.info("report: %s", config.report)
        except UserError as error:
            report_error = error
    for line in evaluation.summary():
        log.info(line)
    if report_error:
        raise report_error
    if unreadable:
        raise UserError(
            f"{len(unreadable)} of {len(utterances)} recordings were not read, as said above; the "
            "figures are those of the others"
        )


def transcribe(recipe: Recipe, argv: Sequence[str]) -> int:
    """Run transcribe.py with the options in `argv`; return its exit code."""
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

    from common.data.dataset import ReadFailure
    from common.evaluation.evaluate import recognise_recordings

    speech_model = load_speech_model(arguments, recipe, arguments.pretrain_ckpt)
    decoder = speech_model.decoder(config.LMConfig)
    names, portion, failed = arguments.files, _BATCHES_PER_PORTION * batch_size, 0
    # In portions, so that texts come soon and an interruption loses little.
    for start in range(0, len(names), portion):
        notices: list[str] = []
        results = recognise_recordings(
            speech_model,
            decoder,
            [Utterance(id=name, audio=Path(name), text="") for name in names[start:][:portion]],
            lambda prediction: prediction.text,
            batch_size,
            config.DataConfig.workers,
            progress="transcribing",
            log=None if start else notices.append,
        )
        failures = [result for result in results if isinstance(result, ReadFailure)]
        failed += len(failures)
        for line in [f"error: {failure.message}" for failure in failures] + notices:
            print(line, file=sys.stderr)
        for name, result in zip(names[start:], results):
            if not isinstance(result, ReadFailure):
                print(result if len(names) == 1 else f"{name}\t{result}", flush=True)
    if failed:
        print(f"error: {failed} of {len(names)} files were not read", file=sys.stderr)
    return 1 if failed else 0


def _check_effect(arguments: argparse.Namespace, recipe: Recipe) -> None:
    """Refuse `--set` of keys that transcribe.py ignores; a YAML file may be meant for eval.py."""
    config = recipe.eval_config()
    usual, without_effect = configs.leaves(config), configs.eval_only_keys(config)
    configs.override_from_options(config, arguments.set)
    for key, value in configs.leaves(config).items():
        if value != usual[key] and key in without_effect:
            raise UserError(f"--set {key}={value}: of no effect on transcribe.py, leave it out")
