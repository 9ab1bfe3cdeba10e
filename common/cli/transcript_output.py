"""The options --format, --words, --highlight and --output, and the transcripts that go there."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Collection, Sequence
from pathlib import Path

from common.evaluation.scoring import Prediction
from common.text.transcript_formats import ENDINGS, FORMATS, HIGHLIGHTED, TimedText, printable
from common.utils.errors import UserError
from common.utils.files import check_writable, write_text

_ONE_A_FILE = ("srt", "vtt", "textgrid")  # formats that cannot be strung together
_COLOURED = ("txt", "words")  # formats that are highlighted by colours of the terminal


def add_output(parser: argparse.ArgumentParser, usual: str, without: Collection[str] = ()) -> None:
    """Add --format, --words, --highlight and --output.

    Args:
        parser: The parser.
        usual: The format where none is given.
        without: Formats that make no sense.
    """
    parser.add_argument(
        "--format",
        choices=sorted(FORMATS.keys() - set(without)),
        default=usual,
        help=f"all but txt have a time for each word; json and words also confidences [{usual}]",
    )
    parser.add_argument(
        "--words",
        action="store_true",
        help="a line for each word: start, end, confidence, word; the same as --format words",
    )
    parser.add_argument(
        "--highlight",
        action="store_true",
        help="on a terminal, colour words by confidence (80 %% or more, 50 %%, less); with --format"
        " srt or vtt, underline the word that is being said",
    )
    parser.add_argument(
        "--output",
        metavar="FOLDER",
        help="write a file for each recording there, a.srt for a.wav, in place of printing",
    )
    parser.set_defaults(usual_format=usual)


class TranscriptOutput:
    """Where transcripts go, and in what form.

    Args:
        arguments: Those of `add_output`.
        recordings: All that are to come.

    Raises:
        UserError: Options that contradict each other, or files that cannot be written.
    """

    def __init__(self, arguments: argparse.Namespace, recordings: Sequence[str]):
        name, folder = arguments.format, arguments.output
        if arguments.words:
            if name not in (arguments.usual_format, "words"):
                raise UserError(f"--words and --format {name}: give one of the two")
            name = "words"
        self._name, self._format = name, FORMATS[name]
        self._several = len(recordings) > 1
        self._files: dict[str, Path] = {}
        self._highlight = arguments.highlight and self._marks(name, folder)
        if self._highlight:
            self._format = HIGHLIGHTED[name]
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

    @staticmethod
    def _marks(name: str, folder: str | None) -> bool:
        """Whether to highlight; colours are for terminals alone."""
        if name not in HIGHLIGHTED:
            raise UserError(
                f"--highlight: of no effect on --format {name}; take {', '.join(HIGHLIGHTED)}"
            )
        if name in _COLOURED and folder is not None:
            raise UserError(
                f"--highlight: colours of --format {name} are for the terminal; leave out --output,"
                " or take --format srt or vtt"
            )
        return name not in _COLOURED or bool(sys.stdout and sys.stdout.isatty())

    @property
    def timed(self) -> bool:
        """Whether words need times and confidences."""
        return self._name != "txt" or self._highlight

    def take(self, recording: str, result: TimedText | Prediction) -> None:
        """Print a transcript, or write it to its file.

        Args:
            recording: One of those announced.
            result: The transcript; where no times are needed, the prediction.

        Raises:
            UserError: The format needs times, and there are none; or the file cannot be written.
        """
        content = self._content(recording, result)
        if self._files:
            path = self._files[recording]
            write_text(path, content)
            print(printable(str(path)), flush=True)
            return
        if self._several and self._name == "txt":
            content = "".join(f"{recording}\t{line}\n" for line in content.splitlines() or [""])
        elif self._several and self._name == "words":
            content = f"# {printable(recording)}\n{content}"
        print(content, end="", flush=True)

    def _content(self, recording: str, result: TimedText | Prediction) -> str:
        if not self.timed:
            return "".join(f"{line}\n" for line in _texts(result))
        assert not isinstance(result, Prediction)
        if self._name in ("ctm", "words") and result.text and not result.words:
            raise UserError(
                f"{recording}: its words have no times, for --format {self._name}; take txt"
            )
        return self._format(result, recording)


def _texts(result: TimedText | Prediction) -> list[str]:
    """Return the text, or with several hypotheses each with its rank and score."""
    hypotheses = getattr(result, "hypotheses", ())
    if len(hypotheses) < 2:
        return [result.text]
    return [f"{rank}\t{each.score:.3f}\t{each.text}" for rank, each in enumerate(hypotheses, 1)]
