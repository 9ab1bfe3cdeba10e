"""Manifests as tables, from other programs: read, or refused by what they are."""

from __future__ import annotations

from pathlib import Path

import pytest

from common.data.manifest import read_manifest
from common.utils.errors import UserError

LINES = (("wav/a.wav", "EINS; ZWEI, DREI"), ("wav/b.wav", 'SIE SAGT "NEIN"'), ("wav/c.wav", "JA"))


def write(path: Path, text: str, encoding: str = "utf-8") -> Path:
    path.write_bytes(text.encode(encoding))
    return path


def quoted(field: str, delimiter: str) -> str:
    """As RFC 4180 has it."""
    if delimiter not in field and '"' not in field:
        return field
    return '"' + field.replace('"', '""') + '"'


def read(path: Path) -> list[tuple[str, str]]:
    return [(str(u.audio.relative_to(path.parent)), u.text) for u in read_manifest(path)]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-be"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize(
    "header", [(), ("path", "text"), ("wav_filename", "wav_filesize", "transcript")]
)
def test_delimiter_header_and_encoding_are_recognised(tmp_path, encoding, end, delimiter, header):
    rows = [(audio, "128000", text) if len(header) == 3 else (audio, text) for audio, text in LINES]
    table = [header, *rows] if header else rows
    text = "".join(delimiter.join(quoted(f, delimiter) for f in row) + end for row in table)
    if encoding == "utf-16-be":
        text = f"\ufeff{text}"
    said: list[str] = []
    path = write(tmp_path / "m.csv", text, encoding)
    assert read(path) == list(LINES)
    read_manifest(path, log=said.append)
    assert said == []


def test_joined_files_keep_no_byte_order_mark(tmp_path):
    marked = "a.wav,EINS\r\n".encode("utf-8-sig")
    (tmp_path / "m.csv").write_bytes(marked + marked.replace(b"a.wav", b"b.wav"))
    assert read(tmp_path / "m.csv") == [("a.wav", "EINS"), ("b.wav", "EINS")]


def test_paths_without_suffix_are_read_in_any_table(tmp_path):
    for delimiter in ",;\t":
        path = write(tmp_path / "m.csv", f"a{delimiter}EINS\nb{delimiter}ZWEI\n")
        assert read(path) == [("a", "EINS"), ("b", "ZWEI")]


def test_a_first_line_whose_recording_is_missing_is_no_header(tmp_path):
    (tmp_path / "b").touch()
    assert read(write(tmp_path / "m.csv", "missing,GO\nb,ON\n")) == [("missing", "GO"), ("b", "ON")]


def test_common_voice_is_read(tmp_path):
    header = "client_id\tpath\tsentence_id\tsentence\tup_votes\tlocale\tsegment\n"
    rows = [
        ("common_voice_en_1.mp3", '"Yes, he said.'),  # its partner is in the next line
        ("common_voice_en_2.mp3", 'No," she said.'),
        ("common_voice_en_3.mp3", '"""Perhaps"", said I."'),
        ("common_voice_en_4.mp3", '"Perhaps."'),
    ]
    text = "".join(f"0a1\t{path}\t77\t{sentence}\t2\ten\t\n" for path, sentence in rows)
    path = write(tmp_path / "train.tsv", header + text)
    (tmp_path / "clips").mkdir()
    said: list[str] = []
    utterances = read_manifest(path, log=said.append)
    assert [u.text for u in utterances] == [
        '"Yes, he said.',
        'No," she said.',
        '"Perhaps", said I.',
        "Perhaps.",
    ]
    assert [u.audio for u in utterances] == [tmp_path / "clips" / name for name, _ in rows]
    assert said == []
    for name, _ in rows:  # a part of the corpus, beside its table
        (tmp_path / name).touch()
    assert read(path)[0][0] == "common_voice_en_1.mp3"


def test_columns_are_found_by_their_names_and_others_named(tmp_path):
    text = ",Text,speaker,Duration,Audio_Path\n0,EINS,anna,1.5,a.wav\n1,ZWEI,ben,,b.wav\n"
    said: list[str] = []
    path = write(tmp_path / "m.csv", text)
    utterances = read_manifest(path, log=said.append)
    assert [(u.id, u.text, u.duration) for u in utterances] == [
        ("a", "EINS", 1.5),
        ("b", "ZWEI", None),
    ]
    assert said == [
        f"manifest {path}: keys that are not used, with the number of their lines: speaker (2)"
    ]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        # A field over several lines would swallow utterances.
        ('a.wav,"A\nb.wav,B"\nc.wav,C\n', "line 1: a field in double quotes runs on to line 2"),
        ('a.wav,A\nb.wav;"B\nc.wav,C"\n', "line 2: "),
        ('a.wav,A\n\nb.wav,"B\n\n\nc.wav,C"\n', "line 3: a field .* runs on to line 6"),
        ('a.wav,A\nb.wav,"B\nc.wav,C\n', "line 2: not CSV .a field in double quotes has no end"),
        ("a.wav\nb.wav\n", "line 1: expected 2 columns, .* found 1; each line needs .* transcript"),
        ("GO,wav/a.wav\n", r"line 1: the second column names a recording \(wav/a.wav\).*swap"),
        ("a.wav|A\nb.wav|B\n", "vertical bars part, expected commas, tabs or semicolons"),
        ("a.wav\tA\nb.wav\tB\tC\n", "line 2: expected 2 columns.* found 3, which tabs part"),
        ("a.wav;A\nb.wav;B;C\n", "line 2: .* found 3, which semicolons part.*double quotes"),
        ("a.wav,en,A\n", "line 1: expected 2 columns.* found 3, .* more columns need a header"),
        (
            "path,size,words\na.wav,1,A\n",
            "line 1: a header .path, size, words. without a column of",
        ),
        ("path,size,text\na.wav,A\n", "line 2: expected 3 columns as in the header, found 2"),
        ("path,text\n,A\n", "line 2: no audio path"),
    ],
)
def test_other_tables_are_refused_by_what_they_are(tmp_path, content, message):
    path = write(tmp_path / "m.csv", content)
    with pytest.raises(UserError, match=message) as refused:
        read_manifest(path)
    assert str(path) in str(refused.value) and "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("text", "encoding", "message"),
    [
        ("a.wav,Müller grüßt\n", "latin-1", "not UTF-8 text .* like WINDOWS-1252: .*iconv -f WIN"),
        (
            "a.wav,今天天气很好\n",
            "gbk",
            "not UTF-8 text .* like GBK: convert it, with iconv -f GBK",
        ),
        ("a.wav,GO\nb.wav,ON\n", "utf-16-le", "not UTF-8 .* like UTF-16LE: .* iconv -f UTF-16LE"),
        ("a.wav,GO\nb.wav,ON\n", "utf-16-be", "not UTF-8 .* like UTF-16BE: .* iconv -f UTF-16BE"),
        ("\ufeffa.wav,G\udc00O\n", "utf-16-le", "not UTF-16 text"),
    ],
)
def test_other_encodings_are_named(tmp_path, text, encoding, message):
    path = tmp_path / "m.csv"
    path.write_bytes(text.encode(encoding, "surrogatepass"))
    with pytest.raises(UserError, match=message):
        read_manifest(path)
