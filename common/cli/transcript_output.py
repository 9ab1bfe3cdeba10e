"""The options --format, --words, --highlight and --output, and the transcripts that go there."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Collection, Sequence
from pathlib import Path

from common.api.long_recordings import Passage
from common.api.recognizer import Transcript
from common.cli.long_recording import Target
from common.evaluation.scoring import Prediction
from common.text.dialogue_formats import DIALOGUE_FORMATS
from common.text.transcript_formats import ENDINGS, FORMATS, HIGHLIGHTED, TimedText, printable
from common.utils.errors import UserError
from common.utils.files import check_writable, write_text

_ONE_A_FILE = ("srt", "vtt", "textgrid")  # formats that cannot be strung together
_COLOURED = ("txt", "words")  # formats that are highlighted by colours of the terminal


def add_output(
    parser: argparse.ArgumentParser, usual: str, without: Collection[str] = (), further: str = ""
) -> None:
    """Add --format, --words, --highlight and --output.

    Args:
        parser: The parser.
        usual: The format where none is given.
        without: Formats that make no sense.
        further: What the help of --output says besides.
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
        help="write a file for each recording there, a.srt for a.wav, in place of printing"
        f"{further}",
    )
    parser.set_defaults(usual_format=usual)


class TranscriptOutput:
    """Where transcripts go, and in what form.

    Args:
        arguments: Those of `add_output`.
        recordings: All that are to come.
        separate: Each channel of a recording has a transcript of its own.

    Raises:
        UserError: Options that contradict each other, or files that cannot be written.
    """

    def __init__(
        self, arguments: argparse.Namespace, recordings: Sequence[str], separate: bool = False
    ):
        name, folder = arguments.format, arguments.output
        if arguments.words:
            if name not in (arguments.usual_format, "words"):
                raise UserError(f"--words and --format {name}: give one of the two")
            name = "words"
        self._name, self._format = name, FORMATS[name]
        self._several, self._separate = len(recordings) > 1, separate
        self._is_in_line = False  # of a long recording whose text is printed as it comes
        self._files: dict[str, Path] = {}
        self._highlight = arguments.highlight and self._marks(name, folder)
        if self._highlight and separate:
            raise UserError("--highlight and --channels separate: leave out one of the two")
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
        self._put(recording, self._content(recording, result))

    def target(self, recording: str, separator: str) -> Target:
        """Tell where the transcript of a long recording goes.

        Args:
            recording: One of those announced.
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
            else:
                self._put(recording, content(transcripts))

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

    def _put(self, recording: str, content: str) -> None:
        """Write the file of a recording, or print what would be in it."""
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
        self._check_times(recording, result)
        return self._format(result, recording)

    def _check_times(self, recording: str, result: TimedText) -> None:
        if self._name in ("ctm", "words") and result.text and not result.words:
            raise UserError(
                f"{recording}: its words have no times, for --format {self._name}; take txt"
            )


def _texts(result: TimedText | Prediction) -> list[str]:
    """Return the text, or with several hypotheses each with its rank and score."""
    hypotheses = getattr(result, "hypotheses", ())
    if len(hypotheses) < 2:
        return [result.text]
    return [f"{rank}\t{each.score:.3f}\t{each.text}" for rank, each in enumerate(hypotheses, 1)]
