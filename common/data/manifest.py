"""Manifests: lists of utterances, in the formats that people have.

| format | content |
| --- | --- |
| csv | `audio,transcript` a line, with or without a header; a transcript in `.txt` is a file |
| deepspeech | deepspeech.pytorch's JSON: `root_path`, `samples: [{wav_path, transcript_path}]` |
| jasper | JSON list: `transcript`, `files: [{fname, duration, speed}]`, `original_duration` |
| jsonl | JSON lines: `audio` (or `audio_filepath`), `text`; `id`, `duration`, `speed` if known |

All are UTF-8, with or without a byte order mark. Reading looks at the content, not at the name.
"""

from __future__ import annotations

import csv
import io
import json
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from common.audio.io import audio_info
from common.text.normalization import normaliser
from common.text.tokenizer import Tokenizer
from common.utils.errors import UserError
from common.utils.files import write_text


@dataclass(frozen=True)
class Utterance:
    """A recording and its transcript, as a manifest lists them.

    Attributes:
        id: Unique in its list.
        audio: Absolute path of the recording.
        text: Transcript as in the manifest, white space tidied; may be empty.
        duration: In seconds; None: the manifest does not say.
        speed: Factor at which the recording already plays, for copies perturbed in advance.
        copy_of: Id of the utterance that such a copy was made of, if that is in the list.
    """

    id: str
    audio: Path
    text: str
    duration: float | None = None
    speed: float = 1.0
    copy_of: str = ""

    @property
    def is_copy(self) -> bool:
        """Whether the recording plays at another speed than it was spoken."""
        return self.speed != 1.0 or bool(self.copy_of)


# ---- reading


def read_manifest(
    paths: str | Path | Sequence[str | Path], data_dir: str | Path | None = None
) -> list[Utterance]:
    """Read the utterances of one manifest or of several, in order. Recordings are not opened.

    Ids are what the manifest says, or the recording's name without suffix; a second `a` in a
    manifest becomes `a-2`. Of several files of one Jasper entry, that of speed 1 comes first, the
    others are its copies.

    Args:
        paths: The manifests.
        data_dir: The folder that paths in them are relative to; None: the JSON's `root_path`, or
            else the manifest's own folder.

    Returns:
        The utterances.

    Raises:
        UserError: A manifest or transcript file is missing, empty or malformed (with the line), or
            an id is in two manifests.
    """
    if isinstance(paths, (str, Path)):
        paths = [paths]
    utterances: list[Utterance] = []
    manifest_of: dict[str, str | Path] = {}  # by id
    for path in paths:
        for utterance in _with_unique_ids(_read_one(Path(path), data_dir)):
            if utterance.id in manifest_of:
                raise UserError(
                    f"utterance {utterance.id} is in manifest {manifest_of[utterance.id]} and "
                    f"again in {path}: leave one of them out, or give it another id"
                )
            utterances.append(utterance)
        manifest_of.update((utterance.id, path) for utterance in utterances[len(manifest_of) :])
    return utterances


def read_data(
    data: Any,
    tokenizer: Tokenizer,
    manifests: Sequence[str | Path],
    data_dir: str | None = None,
) -> list[Utterance]:
    """Read the utterances of manifests as training, evaluation and validation see them.

    Args:
        data: A DataConfig; transcripts are normalised as its `normalize_transcripts` says.
        tokenizer: Labels for the normalisation.
        manifests: The manifests.
        data_dir: As in `read_manifest`; "": none; None: DataConfig.Data_dir.

    Returns:
        The utterances.

    Raises:
        UserError: As `read_manifest`.
    """
    normalise = normaliser(data.normalize_transcripts, tokenizer.labels)
    data_dir = data.Data_dir if data_dir is None else data_dir
    return [
        replace(utterance, text=normalise(utterance.text))
        for utterance in read_manifest(manifests, data_dir or None)
    ]


def listed(manifests: Sequence[str | Path]) -> str:
    """Name manifests for messages."""
    return ", ".join(map(str, manifests))


def _read_one(path: Path, data_dir: str | Path | None) -> list[Utterance]:
    text = read_text(path, "manifest")
    base = Path(os.path.abspath(data_dir or path.parent))
    start = text.lstrip()[:1]
    if path.suffix.lower() == ".csv" or start not in ("[", "{"):
        utterances = list(_from_csv(path, text, base))
    elif start == "[":
        utterances = list(_from_jasper(path, _parse(text, path), base))
    elif _is_json_lines(text):
        utterances = list(_from_json_lines(path, text, base))
    else:
        utterances = list(_from_deepspeech(path, _parse(text, path), base, data_dir is not None))
    if not utterances:
        raise UserError(f"manifest {path} holds no utterances: expected at least one")
    return utterances


def _from_csv(path: Path, text: str, base: Path) -> Iterator[Utterance]:
    rows = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        for row in rows:
            where = f"manifest {path}, line {rows.line_num}"
            if not any(field.strip() for field in row):
                continue
            if len(row) != 2:
                raise UserError(
                    f"{where}: expected 2 columns, audio and transcript, found {len(row)}; "
                    "a transcript that holds a comma needs double quotes around it"
                )
            audio, transcript = row[0].strip(), row[1].strip()
            if not audio:
                raise UserError(f"{where}: no audio path")
            if rows.line_num == 1 and not Path(audio).suffix and not (base / audio).is_file():
                continue  # a header, such as path,text
            if transcript.lower().endswith(".txt"):
                transcript = read_text(base / transcript, f"{where}: transcript file")
            yield make_utterance(base, audio, transcript)
    except csv.Error as error:
        raise UserError(f"manifest {path}, line {rows.line_num}: not CSV ({error})") from None


def _from_deepspeech(path: Path, content: dict, base: Path, moved: bool) -> Iterator[Utterance]:
    if not moved:  # otherwise the caller knows better than root_path where the files are
        base = base / str(content.get("root_path") or "")
    for number, sample in enumerate(_field(content, ["samples"], list, f"manifest {path}"), 1):
        where = f"manifest {path}, sample {number}"
        transcript = base / _field(sample, ["transcript_path"], str, where)
        yield make_utterance(
            base,
            _field(sample, ["wav_path"], str, where),
            read_text(transcript, f"{where}: transcript file"),
        )


def _from_jasper(path: Path, content: list, base: Path) -> Iterator[Utterance]:
    for number, record in enumerate(content, 1):
        where = f"manifest {path}, entry {number}"
        text = _field(record, ["transcript"], str, where)
        versions = [
            make_utterance(
                base, _field(file, ["fname"], str, where), text, *_duration_and_speed(file, where)
            )
            for file in _field(record, ["files"], list, where)
        ]
        versions.sort(key=lambda version: version.speed != 1.0)
        for number, version in enumerate(versions):
            copied = number > 0 and version.speed != 1.0
            yield replace(version, copy_of=versions[0].id) if copied else version


def _from_json_lines(path: Path, text: str, base: Path) -> Iterator[Utterance]:
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            where = f"manifest {path}, line {number}"
            record = _parse(line, path, number)
            utterance = make_utterance(
                base,
                _field(record, ["audio", "audio_filepath"], str, where),
                _field(record, ["text"], str, where),
                *_duration_and_speed(record, where),
            )
            yield replace(
                utterance,
                id=str(record.get("id") or utterance.id),
                copy_of=str(record.get("copy_of") or ""),
            )


def _is_json_lines(text: str) -> bool:
    """Whether the first line is a whole object, other than deepspeech.pytorch's on one line."""
    try:
        first = json.loads(text.lstrip().split("\n", 1)[0])
    except json.JSONDecodeError:
        return False
    return "samples" not in first


def _parse(text: str, path: Path, line: int = 1):
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        at = f"line {line + error.lineno - 1}, column {error.colno}"
        raise UserError(f"manifest {path}, {at}: not JSON ({error.msg}); is it whole?") from None


def _field(record: object, names: list[str], kind: type, where: str):
    """Return the first of `names` that `record` has as a `kind`; UserError without any."""
    values = record if isinstance(record, dict) else {}
    for name in names:
        if isinstance(values.get(name), kind):
            return values[name]
    expected = " or ".join(repr(name) for name in names)
    keys = ", ".join(values) or repr(record)[:60]
    raise UserError(f"{where}: no {expected} ({kind.__name__}), found {keys}")


def _duration_and_speed(record: dict, where: str) -> tuple[float | None, float]:
    duration, speed = record.get("duration"), record.get("speed", 1.0)
    try:
        return None if duration is None else float(duration), float(speed)
    except (TypeError, ValueError):
        raise UserError(
            f"{where}: duration {duration!r} and speed {speed!r}, expected numbers"
        ) from None


def make_utterance(
    base: Path, audio: str, text: str, duration: float | None = None, speed: float = 1.0
) -> Utterance:
    """Make an utterance whose id is the recording's name without suffix.

    Args:
        base: The folder that `audio` is relative to.
        audio: Path of the recording.
        text: Transcript; its white space is tidied.
        duration: Seconds, where known.
        speed: At which the recording already plays.

    Returns:
        The utterance.
    """
    path = Path(os.path.normpath(os.path.join(base, audio)))
    return Utterance(path.stem, path, " ".join(text.split()), duration, speed)


def _with_unique_ids(utterances: Iterable[Utterance]) -> list[Utterance]:
    taken: set[str] = set()
    latest: dict[str, str] = {}  # what the last utterance of a name is called
    repeats: Counter[str] = Counter()
    unique = []
    for utterance in utterances:
        name = utterance.id
        while name in taken:
            repeats[utterance.id] += 1
            name = f"{utterance.id}-{repeats[utterance.id] + 1}"
        taken.add(name)
        copy_of = latest.get(utterance.copy_of, "")
        if not utterance.copy_of:
            latest[utterance.id] = name
        same = (name, copy_of) == (utterance.id, utterance.copy_of)
        unique.append(utterance if same else replace(utterance, id=name, copy_of=copy_of))
    return unique


def read_text(path: Path, what: str) -> str:
    """Read a text file in UTF-8, with or without BOM.

    Args:
        path: The file.
        what: What messages call it, such as "manifest".

    Returns:
        Its text.

    Raises:
        UserError: It cannot be read or is not UTF-8.
    """
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(
            f"{what} {path}: not UTF-8 text (byte {error.start}); convert it, for instance with "
            "iconv -f gbk -t utf-8"
        ) from None
    except (OSError, ValueError) as error:  # ValueError: a null byte in the name
        reason = getattr(error, "strerror", None) or error
        where = "" if path.is_absolute() else f" (in {Path.cwd()})"
        raise UserError(f"{what} {path}: cannot be read: {reason}{where}") from None


def without_copies(utterances: Sequence[Utterance], where: str | Path) -> list[Utterance]:
    """Leave out recordings that play at another speed.

    Args:
        utterances: The utterances of a manifest.
        where: The name of the manifest, for messages.

    Returns:
        The others, in order.

    Raises:
        UserError: All of them are copies.
    """
    originals = [utterance for utterance in utterances if not utterance.is_copy]
    if utterances and not originals:
        raise UserError(
            f"manifest {where}: all of its {len(utterances)} recordings have another speed than 1,"
            " expected some as they were spoken (training takes others where"
            " DataConfig.ignore_offline_speed_perturbation is false)"
        )
    return originals


# ---- writing; audio paths are written absolute, so a manifest can lie anywhere


def write_csv(utterances: Iterable[Utterance], path: str | Path) -> None:
    """Write `audio,text` lines without a header. Ids, durations and speeds are not kept.

    Args:
        utterances: What is written.
        path: The file.
    """
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerows((u.audio, u.text) for u in utterances)
    write_text(Path(path), buffer.getvalue())


def write_jsonl(utterances: Iterable[Utterance], path: str | Path) -> None:
    """Write JSON lines, the one format that keeps everything.

    Args:
        utterances: What is written.
        path: The file.
    """
    records = []
    for u in utterances:
        record: dict[str, Any] = {"id": u.id, "audio": str(u.audio), "text": u.text}
        if u.duration is not None:
            record["duration"] = u.duration
        if u.speed != 1.0:
            record["speed"] = u.speed
        if u.copy_of:
            record["copy_of"] = u.copy_of
        records.append(json.dumps(record, ensure_ascii=False) + "\n")
    write_text(Path(path), "".join(records))


def write_deepspeech_json(utterances: Iterable[Utterance], path: str | Path) -> None:
    """Write deepspeech.pytorch's JSON; transcripts are files in `<name>_txt/` beside it.

    Args:
        utterances: What is written.
        path: The file.
    """
    path = Path(path)
    samples = []
    for number, u in enumerate(utterances):
        transcript = Path(f"{path.stem}_txt") / f"{number:06d}.txt"
        write_text(path.parent / transcript, u.text, durable=False)
        samples.append({"wav_path": str(u.audio), "transcript_path": str(transcript)})
    content = {"root_path": str(path.parent.absolute()), "samples": samples}
    write_text(path, json.dumps(content, ensure_ascii=False, indent=1))


def write_jasper_json(utterances: Iterable[Utterance], path: str | Path) -> None:
    """Write Jasper's JSON list, an entry for an utterance and its copies.

    Durations that are not known are read from the recordings.

    Args:
        utterances: What is written.
        path: The file.
    """
    content: list[dict] = []
    entries: dict[str, dict] = {}  # by id
    for u in utterances:
        duration = audio_info(u.audio).duration if u.duration is None else u.duration
        file = {"fname": str(u.audio), "duration": duration, "speed": u.speed}
        if u.copy_of in entries:
            entries[u.copy_of]["files"].append(file)
            continue
        entries[u.id] = {
            "transcript": u.text,
            "files": [file],
            "original_duration": duration * u.speed,
        }
        content.append(entries[u.id])
    write_text(Path(path), json.dumps(content, ensure_ascii=False, indent=1))


WRITERS: dict[str, Callable[[Iterable[Utterance], str | Path], None]] = {
    "csv": write_csv,
    "jsonl": write_jsonl,
    "deepspeech": write_deepspeech_json,
    "jasper": write_jasper_json,
}


def json_to_csv(
    json_path: str | Path, csv_path: str | Path, data_dir: str | Path | None = None
) -> int:
    """Convert a manifest of any format to CSV.

    Args:
        json_path: The manifest.
        csv_path: File to write.
        data_dir: As in `read_manifest`.

    Returns:
        Number of utterances.

    Raises:
        UserError: The manifest cannot be read.
    """
    utterances = read_manifest(json_path, data_dir)
    write_csv(utterances, csv_path)
    return len(utterances)
