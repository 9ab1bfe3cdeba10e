"""The commands eval.py and transcribe.py: recognise recordings, score or print their text."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from common import config as configs
from common.api.recognizer import Transcript
from common.cli.long_recording import LongRecordings
from common.cli.options import (
    add_decoding,
    add_eval_config,
    add_model,
    command,
    load_acoustic_model,
    model_path,
    override,
)
from common.cli.transcript_output import TranscriptOutput, add_output
from common.data.manifest import Utterance
from common.decoding.confidence import read_calibration
from common.model.recipe import Recipe
from common.utils.errors import UserError
from common.utils.files import check_writable
from common.utils.wording import counted

_BATCHES_PER_PORTION = 16  # that transcribe.py reads, recognises and prints at a time


def evaluate(recipe: Recipe, argv: Sequence[str]) -> None:
    """Run eval.py.

    Args:
        recipe: The model.
        argv: Its options.
    """
    parser = command(
        prog="eval.py",
        description=f"Score a {recipe.name} checkpoint or exported file. Writes eval.log, and with "
        "--set report=FILE a page to look at and listen to.",
    )
    add_model(parser, recipe)
    add_decoding(parser)
    add_eval_config(parser)
    arguments = parser.parse_args(argv)

    config = recipe.eval_config()
    override(config, arguments, recipe)
    if config.report:
        check_writable(config.report)

    from common.api.scoring import score_manifests
    from common.evaluation.scoring import ScoredUtterance
    from common.utils.logging import open_log

    path = model_path(arguments, recipe)
    model = load_acoustic_model(arguments, recipe, path)
    log = open_log("eval.log", needed=False)

    def print_scored(utterance: ScoredUtterance) -> None:
        for line in utterance.lines():
            log.info(line)

    on_scored = print_scored if config.verbose else None
    scores = score_manifests(model, path, config, log, on_scored)
    for line in scores.evaluation.summary():
        log.info(line)
    if scores.report_error:
        raise scores.report_error
    if scores.unreadable:
        raise UserError(
            f"{len(scores.unreadable)} of {scores.recordings} recordings were not read, as said "
            "above; the figures are those of the others"
        )


def transcribe(recipe: Recipe, argv: Sequence[str]) -> int:
    """Run transcribe.py.

    Args:
        recipe: The model.
        argv: Its options.

    Returns:
        The exit code: 1 where recordings could not be read.
    """
    if "--stream" in argv:
        from common.cli.streaming import stream

        return stream(recipe, argv)
    parser = command(
        prog="transcribe.py",
        description="Print the text of recordings: of one file the text, of several a line each, "
        "file and text parted by a tab. Or write words with times, for other programs. With "
        "--stream: of standard input or the microphone (transcribe.py --stream --help).",
    )
    parser.add_argument(
        "files",
        nargs="+",
        metavar="FILE",
        help="WAV, FLAC, Ogg, MP3, SPHERE, AIFF, ...; films, too, where ffmpeg is installed",
    )
    add_model(parser, recipe)
    add_output(
        parser,
        usual="txt",
        further="; of a long one a.partial.srt while it grows, and the same command goes on after "
        "a kill",
    )
    parser.add_argument(
        "--channels",
        choices=("mix", "separate"),
        default="mix",
        help="mix: recognise the average of all channels; separate: each channel by itself, as of "
        "calls that have a speaker on each [mix]",
    )
    parser.add_argument(
        "--batch_size", type=int, help="recordings at once; none given: DataConfig.batch_size"
    )
    add_decoding(parser)
    add_eval_config(parser)
    arguments = parser.parse_args(argv)

    config = recipe.eval_config()
    override(config, arguments, recipe)
    _check_effect(arguments, recipe)
    batch_size = arguments.batch_size
    if batch_size is None:
        batch_size = config.DataConfig.batch_size
    if batch_size < 1:
        raise UserError(f"--batch_size {batch_size}: expected at least 1")

    from common.data.dataset import ReadFailure
    from common.evaluation.evaluate import recognise_recordings

    names, portion, failed = arguments.files, _BATCHES_PER_PORTION * batch_size, 0
    separate = arguments.channels == "separate"
    output = TranscriptOutput(arguments, names, separate)
    path = model_path(arguments, recipe)
    calibration = read_calibration(path)
    model = load_acoustic_model(arguments, recipe, path)
    decoder = model.decoder(config.LMConfig)
    workers = config.DataConfig.workers
    long_recordings = LongRecordings(
        model, decoder, str(path), config.LMConfig, batch_size, workers, separate, calibration
    )
    # In portions, so that texts come soon and an interruption loses little.
    for start in range(0, len(names), portion):
        chosen = names[start:][:portion]
        long = {name for name in chosen if long_recordings.takes(name)}
        short = [name for name in chosen if name not in long]
        notices: list[str] = []
        results = recognise_recordings(
            model,
            decoder,
            [Utterance(id=name, audio=Path(name), text="") for name in short],
            lambda prediction: (
                Transcript.of(prediction, model, calibration) if output.timed else prediction
            ),
            batch_size,
            workers,
            progress="transcribing",
            log=None if start else notices.append,
        )
        failures = [result for result in results if isinstance(result, ReadFailure)]
        failed += len(failures)
        for line in [f"error: {failure.message}" for failure in failures] + notices:
            print(line, file=sys.stderr)
        if long and config.LMConfig.top_paths > 1:
            print(
                f"{counted(len(long), 'recording')} cut into passages: only the best text is given",
                file=sys.stderr,
            )
        remaining = iter(results)
        for name in chosen:
            if name in long:
                try:
                    long_recordings.transcribe(name, output.target(name, model.tokenizer.separator))
                except UserError as error:
                    failed += 1
                    output.broken_off()
                    print(f"error: {error}", file=sys.stderr)
            elif not isinstance(result := next(remaining), ReadFailure):
                output.take(name, result)
    for line in decoder.warnings():
        print(f"warning: {line}", file=sys.stderr)
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
