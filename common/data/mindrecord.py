"""Convert recordings to MindRecord files, in parallel, and open these.

A converted corpus is a directory:

    dataset.json      how it was made (features, labels, ...), its files, and what was left out
    utterances.jsonl  one `dataset.Entry` a line, in the order of the records
    NAME0.md ...      the records, in the order of the manifest; each with its index NAME0.md.db

It is written as `<directory>.partial` and renamed when it is complete. The directory may be renamed
or moved, its files not: MindRecord files contain their names.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import islice, zip_longest
from pathlib import Path
from typing import Any

import numpy as np

from common import __version__
from common.audio.features import FeatureConfig, Featurizer
from common.data.dataset import Entry, MindRecordDataset
from common.data.manifest import Utterance
from common.data.mindrecord_header import check_header
from common.data.mindrecord_writer import (
    FINISHED_SUFFIX,
    MAX_RECORD_BYTES,
    Reader,
    finished,
    write_shards,
)
from common.data.selection import LeftOut, SelectionRules, count_reasons
from common.text.tokenizer import Tokenizer, stored_tokenizer
from common.utils.atomic_directory import beside, interrupted, publish, recover, staging
from common.utils.errors import UserError
from common.utils.files import damage, read_json, write_text
from common.utils.json_parsing import parse_json
from common.utils.wording import counted

FORMAT = 1  # of the directory; another one is converted again
STORES = ("features", "audio")

_DESCRIPTION = "dataset.json"
_ENTRIES = "utterances.jsonl"
_PROBES = (1, 2, 3, 5, 10, 50, 100, 101, 102, 103, 500, 1000)  # frames; they tell strides apart


@dataclass(frozen=True)
class ConversionReport:
    """What a converted directory holds, and what was left out.

    Attributes:
        directory: The converted directory.
        utterances: Number of utterances in it.
        seconds: Seconds of speech in it.
        left_out: In the order of the manifest; an utterance may have several reasons.
    """

    directory: Path
    utterances: int
    seconds: float
    left_out: tuple[LeftOut, ...]

    def lines(self, limit: int = 10) -> list[str]:
        """Format what there is, and at most `limit` of what was left out for each reason."""
        hours = self.seconds / 3600
        lines = [f"{self.directory}: {counted(self.utterances, 'utterance')}, {hours:.2f} hours"]
        for reason, count in count_reasons(self.left_out).items():
            lines.append(f"left out, {reason}: {count}")
            same_reason = [entry for entry in self.left_out if entry.reason == reason]
            lines += [f"  {entry.id}: {entry.message}" for entry in same_reason[:limit]]
            if count > limit:
                lines.append(
                    f"  and {count - limit} more, listed in {self.directory / _DESCRIPTION}"
                )
        return lines


def convert(
    utterances: Sequence[Utterance],
    directory: str | Path,
    pattern: str = "utterances{}.md",
    *,
    shards: int,
    featurizer: Featurizer,
    tokenizer: Tokenizer,
    output_frames: Callable[[int], int],
    store: str = "audio",
    workers: int = 1,
    min_duration: float = 0.0,
    max_duration: float = math.inf,
    origin: str = "",
    log: Callable[[str], None] = print,
) -> ConversionReport:
    """Write utterances to MindRecord files in a directory.

    If `directory` holds the same already, nothing is done. An interrupted conversion of the same is
    continued, file by file; of anything else it starts anew, and the log says why. An earlier
    conversion stays in place until the new one is complete.

    Args:
        utterances: What to convert. What `selection.reasons_against` objects to is left out and
            reported.
        directory: Where the files go.
        pattern: Name of a file, with `{}` for its number.
        shards: Number of files.
        featurizer: Makes features, and trims recordings.
        tokenizer: Encodes the texts.
        output_frames: Output frames of the network for so many feature frames.
        store: "features" (F, T) float32, or encoded "audio", which waveform augmentation needs.
        workers: Processes that read recordings; 1, or few recordings: this process alone.
        min_duration: Seconds.
        max_duration: Seconds.
        origin: The manifest that holds the utterances, for the messages of `other_origin`.
        log: Receives lines for the user.

    Returns:
        What the directory holds.

    Raises:
        UserError: No utterance can be used, the directory cannot be written, or it holds files of
            another `pattern`, which belong to another corpus.
    """
    if store not in STORES:
        raise UserError(f"store: {store!r} is unknown; choose {' or '.join(STORES)}")
    if shards < 1:
        raise UserError(f"shards: {shards} files; at least 1 is needed")
    if pattern.count("{}") != 1 or Path(pattern).name != pattern:
        raise UserError(f"MindRecord file name {pattern!r}: expected one {{}} for the number in it")
    if not utterances:
        raise UserError(f"{directory}: there are no utterances to convert")
    directory = Path(directory)
    made_from = {
        "format": FORMAT,
        "pattern": pattern,
        "shards": shards,
        "store": store,
        "features": featurizer.config.to_dict(),
        **stored_tokenizer(tokenizer),
        "min_duration": min_duration,
        "max_duration": max_duration,
        "output_frames": [int(output_frames(frames)) for frames in _PROBES],
        "manifest": _digest(utterances),
    }
    rules = SelectionRules(
        min_duration=min_duration, max_duration=max_duration, max_record_bytes=MAX_RECORD_BYTES
    )
    reader = Reader(featurizer.config, tokenizer, store, rules)
    rules = replace(rules, output_frames=output_frames)
    try:
        if _is_up_to_date(directory, made_from, log):
            return _report(directory)
        with staging(directory, made_from, _difference, log) as partial:
            shares = [list(share) for share in np.array_split(np.arange(len(utterances)), shards)]
            parts = {
                pattern.format(number): [utterances[index] for index in share]
                for number, share in enumerate(shares)
            }
            write_shards(partial, parts, reader, rules, workers, log)
            source = {"origin": origin, "texts": _texts_digest(utterances)} if origin else {}
            source["project_version"] = __version__  # no reason to convert again
            _describe(partial, directory, made_from | source, parts)
            publish(partial, directory, leftovers=f"*{FINISHED_SUFFIX}")
    except OSError as error:
        where = error.filename or directory
        raise UserError(f"{where}: cannot be written: {error.strerror or error}") from error
    return _report(directory)


def open_dataset(
    directory: str | Path,
    files: Iterable[str | Path] | None = None,
    featurizer: Featurizer | None = None,
    tokenizer: Tokenizer | None = None,
) -> MindRecordDataset:
    """Open a converted directory.

    Args:
        directory: What `convert` wrote.
        files: Of its MindRecord files, those to open; None: all.
        featurizer: The features that the files must have; None: any.
        tokenizer: The labels that the files must have; None: any.

    Returns:
        The dataset.

    Raises:
        UserError: The directory is missing or damaged, or was made with other features or labels.
    """
    directory = Path(directory)
    description = _description(directory)
    if description is None:
        hint = "run create_mindrecord.py here, with the same --preset, --config and --set"
        if beside(directory, ".partial").exists():
            hint += ", it continues the conversion that was interrupted"
        raise UserError(f"{directory}: no converted corpus here (no {_DESCRIPTION}); {hint}")
    wanted: dict[str, Any] = {"format": FORMAT}
    if featurizer is not None:
        wanted["features"] = featurizer.config.to_dict()
    if tokenizer is not None:
        wanted.update(stored_tokenizer(tokenizer))
    if difference := _difference(description, wanted):
        raise UserError(
            f"{directory}: {difference}; convert again or go back to what the files were made with"
        )
    if problem := damage(directory, description["files"]):
        raise UserError(f"{problem}; convert again")

    records: dict[str, int] = description["records"]
    chosen = _chosen(directory, list(records), files)
    entries_in_order = iter(_read_entries(directory / _ENTRIES, sum(records.values())))
    parts = {name: list(islice(entries_in_order, count)) for name, count in records.items()}
    entries = [entry for name in chosen for entry in parts[name]]
    left_out = (
        _left_out(description) if len(chosen) == len(parts) else []
    )  # not known for each file
    paths = [directory / name for name in chosen]
    for path in paths:
        check_header(path)
    return MindRecordDataset(entries, paths, description["store"], left_out)


def other_origin(directory: str | Path, utterances: Iterable[Utterance]) -> str | None:
    """Return the manifest that a directory was converted from, if that had other ids or texts.

    Recordings are not opened: they need not be where the records are.

    Args:
        directory: What `convert` wrote.
        utterances: The utterances to compare with.

    Returns:
        The manifest; None if it had these ids and texts, or if the directory does not say.
    """
    description = _description(Path(directory)) or {}
    if description.get("texts") in (None, _texts_digest(utterances)):
        return None
    return description["origin"]


def _chosen(directory: Path, names: list[str], files: Iterable[str | Path] | None) -> list[str]:
    """Return those of `names` that are among `files`, in their own order; all without `files`."""
    wanted = [Path(file) for file in files or names]
    for file in wanted:
        elsewhere = file.parent != Path(".") and file.parent.resolve() != directory.resolve()
        if elsewhere or file.name not in names:
            raise UserError(
                f"mindrecord_files: {file} is not of {directory}, which has {', '.join(names)}"
            )
    wanted_names = {file.name for file in wanted}
    return [name for name in names if name in wanted_names]


# ---- the directory


def _is_up_to_date(directory: Path, made_from: dict, log: Callable[[str], None]) -> bool:
    """Whether `directory` holds a conversion of the same; the log says why not."""
    recover(directory)
    _refuse_another_corpus(directory, made_from["pattern"])
    if not directory.exists():
        return False
    description = _description(directory)
    if description is None:
        if any(directory.iterdir()):
            raise UserError(
                f"{directory}: not made by a conversion (no {_DESCRIPTION}), so it is not replaced;"
                " move it away or choose another directory in mindrecord_format"
            )
        return False
    reason = _difference(description, made_from) or damage(directory, description["files"])
    if reason:
        log(f"{directory}: converting again: {reason}")
    else:
        log(f"{directory}: up to date, nothing to convert")
    return not reason


def _refuse_another_corpus(directory: Path, pattern: str) -> None:
    """Refuse to replace a conversion, complete or not, whose files have another name."""
    partial = beside(directory, ".partial")
    descriptions = ((directory, _description(directory)), (partial, interrupted(directory)))
    for place, description in descriptions:
        if description is not None and description.get("pattern", pattern) != pattern:
            raise UserError(
                f"{place}: holds another corpus, made as {description['pattern']}; choose another "
                "directory in DataConfig.mindrecord_format, or remove this one"
            )


def _describe(partial: Path, directory: Path, made_from: dict, names: Iterable[str]) -> None:
    """Write the description of finished files; UserError if there is no utterance in them."""
    shards: dict[str, dict] = {}
    for name in names:
        shard = finished(partial, name)
        assert shard is not None  # written just before
        shards[name] = shard
    entries = [entry for shard in shards.values() for entry in shard["entries"]]
    left_out = [reason for shard in shards.values() for reason in shard["problems"]]
    if not entries:
        reasons = [LeftOut.from_json(values) for values in left_out]
        counts = Counter(reason.reason for reason in reasons).most_common()
        listed = ", ".join(f"{reason}: {count}" for reason, count in counts)
        first = f"{reasons[0].id}: {reasons[0].message}"
        shutil.rmtree(partial)
        raise UserError(f"{directory}: no utterance can be used ({listed}); the first is {first}")
    lines = [json.dumps(entry, ensure_ascii=False) + "\n" for entry in entries]
    write_text(partial / _ENTRIES, "".join(lines))
    files = {_ENTRIES: (partial / _ENTRIES).stat().st_size}
    for shard in shards.values():
        files |= shard["files"]
    description = made_from | {
        "utterances": len(entries),
        "seconds": sum(entry["duration"] for entry in entries),
        "records": {name: len(part["entries"]) for name, part in shards.items() if part["files"]},
        "files": files,  # bytes
        "left_out": left_out,
    }
    write_text(partial / _DESCRIPTION, json.dumps(description, ensure_ascii=False, indent=1))


def _report(directory: Path) -> ConversionReport:
    description = _description(directory)
    assert description is not None  # written, or found to be up to date, just before
    return ConversionReport(
        directory, description["utterances"], description["seconds"], tuple(_left_out(description))
    )


def _left_out(description: dict) -> list[LeftOut]:
    return [LeftOut.from_json(reason) for reason in description["left_out"]]


def _is_whole(description: dict) -> bool:
    """Whether a description holds what is read of it here."""
    try:
        _left_out(description)
        counts = (description["files"], description["records"])
        return (
            all(type(count) is int for group in counts for count in group.values())
            and set(description["records"]) <= set(description["files"])
            and description["store"] in STORES
            and isinstance(description["utterances"], int)
            and isinstance(description["seconds"], (int, float))
            and isinstance(description.get("features") or {}, dict)
            and isinstance(description.get("labels", []), list)
        )
    except (AttributeError, KeyError, TypeError):
        return False


def _description(directory: Path) -> dict | None:
    """Return the content of dataset.json, None if there is none."""
    path = directory / _DESCRIPTION
    if not path.exists():
        return None
    description = read_json(path)
    if description is None or not _is_whole(description):
        raise UserError(f"{path}: damaged; remove {directory} and convert again")
    return description


def _read_entries(path: Path, count: int) -> list[Entry]:
    """Read the list of utterances; UserError where it is damaged or not of `count` lines."""
    try:
        with path.open(encoding="utf-8") as lines:
            entries = [_entry(parse_json(line)) for line in lines]
        if len(entries) != count:
            raise ValueError(f"{len(entries)} utterances, expected {count}")
    except (OverflowError, TypeError, ValueError) as error:
        raise UserError(f"{path}: damaged ({error}); convert again") from None
    return entries


def _entry(values: dict) -> Entry:
    entry = Entry(**values)
    texts, counts = (entry.id, entry.text, entry.copy_of), (entry.labels, entry.ctc_frames)
    if not all(isinstance(text, str) for text in texts):
        raise ValueError(f"{texts}: expected texts")
    if entry.frames < 1 or not all(0 <= count < 1 << 31 for count in (*counts, entry.frames)):
        raise ValueError(f"{entry.id}: {entry.frames} frames, {counts} labels")
    if not (0 < entry.duration < math.inf and 0 < entry.speed < math.inf):
        raise ValueError(f"{entry.id}: {entry.duration} s at speed {entry.speed}")
    return entry


def _difference(description: dict, wanted: dict) -> str | None:
    """Describe the first point in which files differ from what is wanted; None without any."""
    for key, value in wanted.items():
        present = description.get(key)
        if present == value:
            continue
        if key == "features" and present:  # keys that either lacks are at their defaults
            present, value = (asdict(FeatureConfig.from_dict(keys)) for keys in (present, value))
        if key == "manifest":
            return "the manifest or a recording has changed"
        if key == "output_frames":
            return "the network's output frames have changed"
        if key == "labels":
            return _labels_difference(present or [], value)
        if isinstance(value, dict) and isinstance(present, dict):
            name = next(name for name in value if present.get(name) != value[name])
            key, present, value = f"{key}.{name}", present.get(name), value[name]
        return f"{key} is {present!r} in the files, {value!r} is wanted"
    return None


def _labels_difference(present: Sequence[str], wanted: Sequence[str]) -> str:
    """Describe in one line how two lists of labels differ."""
    pairs = enumerate(zip_longest(present, wanted))
    number, pair = next((number, pair) for number, pair in pairs if pair[0] != pair[1])
    in_files, expected = ("none" if label is None else repr(label) for label in pair)
    return (
        f"labels differ: {len(present)} in the files, {len(wanted)} are wanted; the first that "
        f"differs, number {number}, is {in_files} in the files, {expected} is wanted"
    )


def _texts_digest(utterances: Iterable[Utterance]) -> str:
    """Digest of ids, texts and segments, wherever manifest and recordings lie."""
    digest = hashlib.sha256()
    for utterance in utterances:
        line: tuple = (utterance.id, utterance.text)
        if utterance.offset is not None:
            line += ((utterance.offset, utterance.duration),)
        digest.update(json.dumps(line).encode())
    return digest.hexdigest()


def _digest(utterances: Iterable[Utterance]) -> str:
    """Digest of the manifest, and of sizes and times of the recordings."""
    digest = hashlib.sha256()
    for utterance in utterances:
        try:
            status = os.stat(utterance.audio)
            state: tuple[int, int] | None = (status.st_size, status.st_mtime_ns)
        except (OSError, ValueError):  # reading it will say so
            state = None
        line: tuple = (utterance.id, str(utterance.audio), utterance.text, state)
        if utterance.copy_of:
            line += (utterance.copy_of,)
        if utterance.offset is not None:
            line += ((utterance.offset, utterance.duration),)
        digest.update(json.dumps(line).encode())
    return digest.hexdigest()
