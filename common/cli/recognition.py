"""The commands eval.py and transcribe.py: recognise recordings, score or print their text."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from common import config as configs
from common.api.long_recordings import Passage, separator
from common.api.recognizer import Transcript
from common.cli.long_recording import LongRecordings, Target
from common.cli.options import (
    add_eval_config,
    add_model,
    command,
    load_acoustic_model,
    model_path,
    override,
)
from common.data.manifest import Utterance
from common.evaluation.scoring import Prediction
from common.model.recipe import Recipe
from common.text.dialogue_formats import DIALOGUE_FORMATS
from common.text.transcript_formats import ENDINGS, FORMATS, printable
from common.utils.errors import UserError
from common.utils.files import check_writable, write_text

_ONE_A_FILE = ("srt", "vtt", "textgrid")  # formats that cannot be strung together
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
    parser = command(
        prog="transcribe.py",
        description="Print the text of recordings: of one file the text, of several a line each, "
        "file and text parted by a tab. Or write words with times, for other programs.",
    )
    parser.add_argument(
        "files",
        nargs="+",
        metavar="FILE",
        help="WAV, FLAC, Ogg, MP3, SPHERE, AIFF, ...; films, too, where ffmpeg is installed",
    )
    add_model(parser, recipe)
    parser.add_argument(
        "--format",
        choices=sorted(FORMATS),
        default="txt",
        help="all but txt have a time for each word; json also confidences [txt]",
    )
    parser.add_argument(
        "--output",
        metavar="FOLDER",
        help="write a file for each recording there, a.srt for a.wav, in place of printing; of a "
        "long one a.partial.srt while it grows, and the same command goes on after a kill",
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
    output = _Output(arguments.format, arguments.output, names, separate)
    path = model_path(arguments, recipe)
    model = load_acoustic_model(arguments, recipe, path)
    decoder = model.decoder(config.LMConfig)
    workers = config.DataConfig.workers
    long_recordings = LongRecordings(
        model, decoder, str(path), config.LMConfig, batch_size, workers, separate
    )
    between = separator(model)
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
            lambda prediction: Transcript.of(prediction, model) if output.timed else prediction,
            batch_size,
            workers,
            progress="transcribing",
            log=None if start else notices.append,
        )
        failures = [result for result in results if isinstance(result, ReadFailure)]
        failed += len(failures)
        for line in [f"error: {failure.message}" for failure in failures] + notices:
            print(line, file=sys.stderr)
        remaining = iter(results)
        for name in chosen:
            if name in long:
                try:
                    long_recordings.transcribe(name, output.target(name, between))
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


class _Output:
    """Where the transcripts go, and in what form."""

    def __init__(
        self, name: str, folder: str | None, recordings: Sequence[str], separate: bool = False
    ):
        self._name, self._format = name, FORMATS[name]
        self._separate, self._several = separate, len(recordings) > 1
        self._files: dict[str, Path] = {}
        self._is_in_line = False  # of a long recording whose text is printed as it comes
        if folder is None:
            if self._several and name in _ONE_A_FILE:
                raise UserError(
                    f"--format {name} of {len(recordings)} recordings: give --output FOLDER, for a "
                    "file of each; printed one behind the other, no program could read them"
                )
            return
        owners: dict[Path, str] = {}
        for recording in recordings:
            file = Path(folder, Path(recording).stem + ENDINGS[name])
            if owners.setdefault(file, recording) != recording:
                raise UserError(
                    f"--output {folder}: {owners[file]} and {recording} would both be written to "
                    f"{file.name}; give them in two calls"
                )
            self._files[recording] = file
        check_writable(file)

    @property
    def timed(self) -> bool:
        """Whether words need times."""
        return self._name != "txt"

    def take(self, recording: str, result: Transcript | Prediction) -> None:
        """Print a transcript, or write it to its file."""
        self._check_times(recording, result)
        if self._files or self.timed:
            self._put(recording, self._content(result, recording))
        else:
            text = f"{recording}\t{result.text}" if self._several else result.text
            print(text, flush=True)

    def target(self, recording: str, separator: str) -> Target:
        """Tell where the transcript of a long recording goes.

        Args:
            recording: Its path.
            separator: What stands between two passages.
        """
        streams = not (self._files or self.timed or self._separate)

        def content(transcripts: Sequence[Transcript]) -> str:
            if self._separate:
                return DIALOGUE_FORMATS[self._name](transcripts, recording)
            return self._format(transcripts[0], recording)

        def write(transcripts: Sequence[Transcript]) -> None:
            for transcript in transcripts:
                self._check_times(recording, transcript)
            if streams:
                self._print_more(recording, "", "", end="\n")
                return
            text = content(transcripts)
            if self._several and not (self._files or self.timed):
                text = "".join(f"{recording}\t{line}\n" for line in text.splitlines())
            self._put(recording, text)

        def on_passage(passage: Passage) -> None:
            if passage.text:
                self._print_more(recording, passage.text, separator)

        path = self._files.get(recording)
        return Target(path, content, write, on_passage if streams else None)

    def broken_off(self) -> None:
        """End the line of a recording that cannot be read further."""
        if self._is_in_line:
            self._is_in_line = False
            print(flush=True)

    def _print_more(self, recording: str, text: str, separator: str, end: str = "") -> None:
        """Print more of the one line that a recording's text has."""
        if not self._is_in_line and self._several:
            print(recording, end="\t")
        print(separator * self._is_in_line + text, end=end, flush=True)
        self._is_in_line = not end

    def _put(self, recording: str, text: str) -> None:
        """Write the file of a recording, or print what would be in it."""
        if self._files:
            path = self._files[recording]
            write_text(path, text)
            print(printable(str(path)), flush=True)
        else:
            print(text, end="", flush=True)

    def _check_times(self, recording: str, result: Transcript | Prediction) -> None:
        untimed = isinstance(result, Transcript) and result.text and not result.words
        if self._name == "ctm" and untimed:
            raise UserError(f"{recording}: its words have no times, for --format ctm; take txt")

    def _content(self, result: Transcript | Prediction, recording: str) -> str:
        if isinstance(result, Transcript):
            return self._format(result, recording)
        return f"{result.text}\n"


def _check_effect(arguments: argparse.Namespace, recipe: Recipe) -> None:
    """Refuse `--set` of keys that transcribe.py ignores; a YAML file may be meant for eval.py."""
    config = recipe.eval_config()
    usual, without_effect = configs.leaves(config), configs.eval_only_keys(config)
    configs.override_from_options(config, arguments.set)
    for key, value in configs.leaves(config).items():
        if value != usual[key] and key in without_effect:
            raise UserError(f"--set {key}={value}: of no effect on transcribe.py, leave it out")
