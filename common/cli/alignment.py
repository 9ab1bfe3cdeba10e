"""The command align.py: when the words of a known text were said."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from common.cli.options import add_model, command, load_acoustic_model, model_path
from common.cli.transcript_output import TranscriptOutput, add_output
from common.decoding.text_alignment import Difference, TextAlignment
from common.model.recipe import Recipe
from common.text.transcript_formats import printable
from common.utils.errors import UserError
from common.utils.files import read_text
from common.utils.wording import counted

if TYPE_CHECKING:
    from common.api.alignment import Aligner

_MOST_DIFFERENCES = 20  # that are printed for a recording
_LONGEST = 60  # characters of a text that a line quotes
_DOUBTFUL = 0.5  # share of words that were found, or score, below which the whole is doubted


def align(recipe: Recipe, argv: Sequence[str]) -> int:
    """Run align.py.

    Args:
        recipe: The model.
        argv: Its options.

    Returns:
        The exit code: 1 where a recording or a text could not be read or aligned.
    """
    parser = command(
        prog="align.py",
        description="Find when the words of recordings were said whose text is known. The text of "
        "talk.wav is talk.txt beside it, unless --text names another. Where text and recording "
        "differ, a line on standard error says so.",
    )
    parser.add_argument("files", nargs="+", metavar="FILE", help="recordings, of any length")
    parser.add_argument(
        "--text", metavar="FILE", help="the text, of one recording (UTF-8); none given: FILE.txt"
    )
    parser.add_argument(
        "--normalize",
        choices=("english", "mandarin", "none"),
        help="speak numbers, abbreviations and signs as words of a language, or leave them; not "
        "given: as the network was trained",
    )
    add_model(parser, recipe)
    add_output(parser, usual="words", without=["txt"])  # which is known, and may lie there
    arguments = parser.parse_args(argv)
    if arguments.text and len(arguments.files) > 1:
        raise UserError(
            f"--text {arguments.text}: the text of one recording, and there are "
            f"{len(arguments.files)}; put the text of each beside it, as NAME.txt"
        )

    from common.api.alignment import Aligner

    output = TranscriptOutput(arguments, arguments.files)
    model = load_acoustic_model(arguments, recipe, model_path(arguments, recipe))
    kind = "" if arguments.normalize == "none" else arguments.normalize
    aligner = Aligner(model, model.decoder(), kind)
    failed = 0
    for file in arguments.files:
        try:
            output.take(file, _aligned(aligner, file, arguments.text))
        except UserError as error:
            print(f"error: {error}", file=sys.stderr)
            failed += 1
    if failed and len(arguments.files) > 1:
        count = len(arguments.files)
        print(f"error: {failed} of {count} recordings were not aligned", file=sys.stderr)
    return 1 if failed else 0


def _aligned(aligner: Aligner, file: str, text_file: str | None) -> TextAlignment:
    path = Path(text_file) if text_file else Path(file).with_suffix(".txt")
    text = read_text(path, "text")
    words = aligner.words(text, str(path), lambda line: print(f"note: {line}", file=sys.stderr))
    alignment = aligner.align(file, words, file, progress="recognising")
    name = printable(file)
    for line in difference_lines(alignment.differences):
        print(f"warning: {name}: {line}", file=sys.stderr)
    count = len(alignment.words)
    summary = f"{alignment.found} of {counted(count, 'word')} found, score {alignment.score:.3f}"
    print(f"{name}: {summary}", file=sys.stderr)
    if min(alignment.found / count, alignment.score) < _DOUBTFUL:
        print(
            f"warning: {name}: is {path} its text, and does the network know its language? Times "
            "of words that were not found are guesses",
            file=sys.stderr,
        )
    return alignment


def difference_lines(differences: Sequence[Difference]) -> list[str]:
    """Describe where text and recording differ.

    Args:
        differences: In order.

    Returns:
        A line for each of the longest, in order, and one for the others.
    """
    longest = sorted(differences, key=lambda each: each.words + len(each.heard) / 5)
    shown = longest[-_MOST_DIFFERENCES:]
    lines = [_line(each) for each in differences if any(each is one for one in shown)]
    if len(differences) > len(shown):
        lines.append(f"{len(differences) - len(shown)} more such places")
    return lines


def _line(difference: Difference) -> str:
    place = f"{_minutes(difference.start)} to {_minutes(difference.end)}"
    heard = f'the network hears "{_quoted(difference.heard)}"'
    if not difference.words:
        return f"{place}: not in the text: {heard}"
    found = f'not found: {counted(difference.words, "word")} "{_quoted(difference.text)}"'
    return f"{place}: {found}, {heard if difference.heard else 'the network hears nothing'}"


def _minutes(seconds: float) -> str:
    minutes, rest = divmod(seconds, 60)
    return f"{int(minutes)}:{rest:04.1f}"


def _quoted(text: str) -> str:
    if len(text) <= _LONGEST:
        return text
    return f"{text[: _LONGEST // 2]} ... {text[-_LONGEST // 2 :]}"
