"""Write manifests, in the formats that `manifest` reads.

Audio paths are written absolute, so that a manifest can lie anywhere.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from common.data.manifest import Log, Utterance, read_manifest, without_copies
from common.utils.errors import UserError
from common.utils.files import write_text


def write_csv(utterances: Iterable[Utterance], path: str | Path) -> None:
    """Write `audio,text` lines without a header. Ids and durations are not kept.

    Args:
        utterances: What is written.
        path: The file.

    Raises:
        UserError: There is a segment or a copy at another speed among them, which the format
            cannot hold, or the file cannot be written.
    """
    utterances = list(utterances)
    _refuse(utterances, path, "CSV", copies=True)
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerows((u.audio, u.text) for u in utterances)
    write_text(Path(path), buffer.getvalue())


def write_jsonl(utterances: Iterable[Utterance], path: str | Path) -> None:
    """Write JSON lines, the one format that keeps everything.

    Args:
        utterances: What is written.
        path: The file.

    Raises:
        UserError: The file cannot be written.
    """
    records = []
    for u in utterances:
        record: dict[str, Any] = {"id": u.id, "audio": str(u.audio), "text": u.text}
        if u.offset is not None:
            record["offset"] = u.offset
        if u.duration is not None:
            record["duration"] = u.duration
        if u.speed != 1.0:
            record["speed"] = u.speed
        if u.copy_of:
            record["copy_of"] = u.copy_of
        if u.speaker:
            record["speaker"] = u.speaker
        records.append(json.dumps(record, ensure_ascii=False) + "\n")
    write_text(Path(path), "".join(records))


def write_deepspeech_json(utterances: Iterable[Utterance], path: str | Path) -> None:
    """Write deepspeech.pytorch's JSON; transcripts are files in `<name>_txt/` beside it.

    Args:
        utterances: What is written.
        path: The file.

    Raises:
        UserError: As `write_csv`.
    """
    utterances, path = list(utterances), Path(path)
    _refuse(utterances, path, "deepspeech.pytorch's JSON", copies=True)
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

    Raises:
        UserError: There is a segment among them, which readers of the format would take for the
            whole recording, or the file cannot be written.
    """
    utterances = list(utterances)
    _refuse(utterances, path, "Jasper's JSON", copies=False)
    content: list[dict] = []
    entries: dict[str, dict] = {}  # by id
    for u in utterances:
        duration = u.segment.info().duration if u.duration is None else u.duration
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


def _refuse(utterances: Sequence[Utterance], path: str | Path, kind: str, copies: bool) -> None:
    """Refuse what a format cannot hold: segments, and copies where `copies` says so."""
    for what, found in (
        ("segments of recordings", [u for u in utterances if u.offset is not None]),
        ("copies at another speed", [u for u in utterances if copies and u.is_copy]),
    ):
        if found:
            raise UserError(
                f"{path}: {len(found)} of {len(utterances)} utterances are {what}, which {kind} "
                f"cannot hold (the first: {found[0].id}); write JSON lines, NAME.jsonl"
            )


WRITERS: dict[str, Callable[[Iterable[Utterance], str | Path], None]] = {
    "csv": write_csv,
    "jsonl": write_jsonl,
    "deepspeech": write_deepspeech_json,
    "jasper": write_jasper_json,
}
_WITHOUT_COPIES = ("csv", "deepspeech")  # formats that cannot hold them


def convert_manifest(
    source: str | Path,
    target: str | Path,
    kind: str = "csv",
    data_dir: str | Path | None = None,
    log: Log | None = None,
) -> int:
    """Convert a manifest of any format to another.

    Copies at another speed are left out where the format cannot hold them.

    Args:
        source: The manifest.
        target: File to write.
        kind: Its format, of WRITERS.
        data_dir: As in `read_manifest`.
        log: Receives lines for the user, as `read_manifest` and `without_copies` write them.

    Returns:
        Number of utterances written.

    Raises:
        UserError: The manifest cannot be read, or the format cannot hold its utterances.
    """
    utterances = read_manifest(source, data_dir, log)
    if kind in _WITHOUT_COPIES:
        utterances = without_copies(utterances, source, log)
    WRITERS[kind](utterances, target)
    return len(utterances)
