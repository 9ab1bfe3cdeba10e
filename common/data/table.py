"""Manifests as tables: a recording a line, in columns that commas, tabs or semicolons part.

Beside plain `audio,transcript` lines, tables with a header are read, such as Mozilla DeepSpeech's
`wav_filename,wav_filesize,transcript` and Common Voice's TSV with `path` and `sentence`.
"""

from __future__ import annotations

import csv
import io
import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from common.utils.errors import UserError

# Names of columns, lower case, in order of preference.
_COLUMNS = {
    "audio": (
        "audio",
        "audio_path",
        "audio_file",
        "audio_filepath",
        "audio_filename",
        "wav",
        "wav_path",
        "wav_file",
        "wav_filename",
        "path",
        "file",
        "filepath",
        "file_path",
        "filename",
        "file_name",
        "fname",
        "recording",
    ),
    "text": (
        "text",
        "transcript",
        "transcription",
        "sentence",
        "transcript_path",
        "transcript.txt",
        "txt",
        "txt_path",
    ),
    "offset": ("offset",),
    "duration": ("duration",),
}
# Columns of Mozilla DeepSpeech and Common Voice that everyone knows are not for training.
_NOT_NEEDED = frozenset(
    "wav_filesize client_id sentence_id sentence_domain up_votes down_votes age gender accent "
    "accents variant locale segment".split()
)
_DELIMITERS = {",": "commas", "\t": "tabs", ";": "semicolons", "|": "vertical bars"}
_RECORDING = re.compile(r"\.[A-Za-z0-9]{1,5}$")  # the end of a path: a suffix
_AUDIO_SUFFIXES = frozenset(
    ".wav .flac .mp3 .ogg .oga .opus .sph .aif .aiff .aifc .au .snd .w64 .caf .m4a".split()
)


@dataclass(frozen=True)
class Row:
    """One utterance of a table.

    Attributes:
        line: Number of its line, from 1.
        values: Its fields by name: "audio" and "text", and "offset" and "duration" where the
            table has such columns and they are not empty.
    """

    line: int
    values: dict[str, str]


@dataclass(frozen=True)
class Table:
    """A table whose rows have not been read.

    Attributes:
        rows: Its utterances.
        columns: Names of all of its columns; empty without a header.
        ignored: Numbers of lines by the columns that are not used, counted as rows are read.
    """

    rows: Iterator[Row]
    columns: tuple[str, ...]
    ignored: Counter[str]


def read_table(name: str, text: str, is_file: Callable[[str], bool]) -> Table:
    """Read a table; its delimiter and header are recognised by the content.

    The first line is a header if it names a column of recordings and one of texts.

    Args:
        name: What messages call it.
        text: Its content, with line feeds at the ends of lines.
        is_file: Whether a path, as the table has it, is that of a file: of a recording that is
            called like a column.

    Returns:
        The table. Its rows raise UserError where a line is malformed.

    Raises:
        UserError: The first line is malformed, or the delimiter is not one of those read.
    """
    lines = [line for line in text.split("\n") if line.strip()]
    delimiter = _delimiter(lines)
    if delimiter == "|":
        raise UserError(
            f"manifest {name}: columns that vertical bars part, expected commas, tabs or "
            "semicolons; write lines of audio path and transcript"
        )
    rows = _fields(name, text, delimiter)
    first = next(rows, None)
    if first is None:
        return Table(iter(()), (), Counter())
    number, fields = first
    names = tuple(field.lower() for field in fields)
    places = _places(names)
    if {"audio", "text"} <= places.keys() and not is_file(fields[places["audio"]]):
        ignored: Counter[str] = Counter()
        used = {fields[place] for place in places.values()}
        unused = [
            field
            for field in fields
            if field and field not in used and field.lower() not in _NOT_NEEDED
        ]
        return Table(_named(name, rows, fields, places, unused, ignored, delimiter), names, ignored)
    if len(fields) != 2 and places:
        missing = "transcripts" if "audio" in places else "recordings"
        known = _COLUMNS["text" if "audio" in places else "audio"]
        raise UserError(
            f"manifest {name}, line {number}: a header ({', '.join(fields)[:200]}) without a column"
            f" of {missing}; expected one that is called {', '.join(known[:-1])} or {known[-1]}"
        )
    return Table(_unnamed(name, number, fields, rows, delimiter), (), Counter())


def _delimiter(lines: list[str]) -> str:
    """Return what parts the columns: commas unless the content says otherwise."""
    first = lines[0] if lines else ""
    for delimiter in _DELIMITERS:
        names = [_unquoted(field.strip()).lower() for field in first.split(delimiter)]
        if {"audio", "text"} <= _places(names).keys():
            return delimiter

    def before(line: str, delimiter: str) -> str | None:
        audio, found, _ = line.partition(delimiter)
        return _unquoted(audio.strip()) if found else None

    for delimiter in _DELIMITERS:
        if lines and all(_RECORDING.search(before(line, delimiter) or "") for line in lines):
            return delimiter
    for delimiter in _DELIMITERS:
        if lines and all(before(line, delimiter) for line in lines):
            return delimiter
    return ","


def _places(names: list[str] | tuple[str, ...]) -> dict[str, int]:
    """Return where the known columns are among the names of a header."""
    places = {}
    for column, known in _COLUMNS.items():
        if found := [name for name in known if name in names]:
            places[column] = names.index(found[0])
    return places


def _fields(name: str, text: str, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    """Yield number and fields of the lines that are not empty."""
    lines = _tab_lines(text) if delimiter == "\t" else _quoted_lines(name, text, delimiter)
    for number, fields in lines:
        if any(fields):
            yield number, fields


def _tab_lines(text: str) -> Iterator[tuple[int, list[str]]]:
    """Yield the lines of a table with tabs, in which a quotation mark may mean itself.

    Common Voice's tables have sentences that begin with one whose partner is elsewhere.
    """
    for number, line in enumerate(text.split("\n"), 1):
        yield number, [_unquoted(field.strip()) for field in line.split("\t")]


def _quoted_lines(name: str, text: str, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    """Yield the lines of a table as RFC 4180 has it, but each on one line."""
    rows = csv.reader(io.StringIO(text, newline=""), strict=True, delimiter=delimiter)
    number = 1
    while True:
        where = f"manifest {name}, line {number}"
        try:
            row = next(rows)
        except StopIteration:
            return
        except csv.Error as error:
            reason = str(error)
            if "end of data" in reason:
                reason = "a field in double quotes has no end: end it, or leave its first quote out"
            raise UserError(f"{where}: not CSV ({reason})") from None
        if rows.line_num > number:
            raise UserError(
                f"{where}: a field in double quotes runs on to line {rows.line_num}, expected an "
                "utterance a line; end the field, or write a quotation mark of the text as two in "
                'a field in quotes ("""OH,"" HE SAID")'
            )
        yield number, [field.strip() for field in row]
        number = rows.line_num + 1


def _unquoted(field: str) -> str:
    inner = field[1:-1].replace('""', "")
    if len(field) < 2 or field[0] != '"' or field[-1] != '"' or '"' in inner:
        return field
    return field[1:-1].replace('""', '"').strip()


def _named(
    name: str,
    rows: Iterator[tuple[int, list[str]]],
    header: list[str],
    places: dict[str, int],
    unused: list[str],
    ignored: Counter[str],
    delimiter: str,
) -> Iterator[Row]:
    """Yield the rows of a table with a header."""
    for number, fields in rows:
        if len(fields) != len(header):
            raise UserError(
                f"manifest {name}, line {number}: expected {len(header)} columns as in the header, "
                f"found {len(fields)}{_hint(len(fields), delimiter)}"
            )
        ignored.update(unused)
        values = {column: fields[place] for column, place in places.items()}
        optional = {column for column in ("offset", "duration") if not values.get(column)}
        row = Row(number, {column: v for column, v in values.items() if column not in optional})
        yield _checked(name, row)


def _unnamed(
    name: str,
    number: int,
    fields: list[str],
    rows: Iterator[tuple[int, list[str]]],
    delimiter: str,
) -> Iterator[Row]:
    """Yield the rows of a table without a header."""
    _refuse_swapped(name, number, fields)
    while True:
        if len(fields) != 2:
            raise UserError(
                f"manifest {name}, line {number}: expected 2 columns, audio and transcript, found "
                f"{len(fields)}{_hint(len(fields), delimiter)}"
            )
        yield _checked(name, Row(number, {"audio": fields[0], "text": fields[1]}))
        following = next(rows, None)
        if following is None:
            return
        number, fields = following


def _checked(name: str, row: Row) -> Row:
    if not row.values["audio"]:
        raise UserError(f"manifest {name}, line {row.line}: no audio path")
    return row


def _hint(columns: int, delimiter: str) -> str:
    """Say what to do about a wrong number of columns."""
    if columns == 1:
        return "; each line needs a recording and its transcript"
    if delimiter == "\t":
        return ", which tabs part; a transcript cannot hold a tab"
    return (
        f", which {_DELIMITERS[delimiter]} part; a transcript that holds a {delimiter!r} needs "
        "double quotes around it, and more columns need a header that names them"
    )


def _refuse_swapped(name: str, number: int, fields: list[str]) -> None:
    if len(fields) != 2 or _RECORDING.search(fields[0]):
        return
    if Path(fields[1]).suffix.lower() in _AUDIO_SUFFIXES:
        raise UserError(
            f"manifest {name}, line {number}: the second column names a recording ({fields[1]}), "
            "expected the first to; swap the columns, or name them in a first line: text,audio"
        )
