"""Manifests: lists of utterances, in the formats that people have.

| format | content |
| --- | --- |
| csv | `audio,transcript` a line, or a table with a header; a transcript in `.txt` is a file |
| deepspeech | deepspeech.pytorch's JSON: `root_path`, `samples: [{wav_path, transcript_path}]` |
| jasper | JSON list: `transcript`, `files: [{fname, duration, speed}]`, `original_duration` |
| jsonl | JSON lines: `audio` (or `audio_filepath`), `text`; `id`, `offset`, `duration`, `speed` |

An `offset` in seconds makes a segment of a recording, `duration` long, as in NeMo's manifests.
Reading looks at the content, not at the name. `manifest_writers` writes these formats.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from common.audio.segments import AudioSegment
from common.data.table import read_table
from common.text.normalization import normaliser
from common.text.tokenizer import Tokenizer
from common.utils.errors import UserError
from common.utils.files import absolute_path, read_text

Log = Callable[[str], None]  # receives lines for the user

# Keys of each format that are read, or that describe the recording and are of no use here.
_JSON_LINES_KEYS = frozenset(
    "audio audio_filepath text id offset duration speed copy_of speaker".split()
)
_JASPER_KEYS = frozenset("transcript files original_duration original_num_samples".split())
_JASPER_FILE_KEYS = frozenset(
    "fname offset duration speed channels sample_rate bitdepth bitrate num_samples encoding"
    " silent".split()
)
_DEEPSPEECH_KEYS = frozenset("wav_path transcript_path offset duration speed".split())
_NO_TEXT = re.compile("[\0\ud800-\udfff]")
# Other names of what `offset` and `duration` say.
_SEGMENT_KEYS = frozenset(
    "start end begin start_time end_time begin_time stop segment_start segment_end".split()
)


@dataclass(frozen=True)
class Utterance:
    """A recording and its transcript, as a manifest lists them.

    Attributes:
        id: Unique in its list.
        audio: Absolute path of the recording.
        text: Transcript as in the manifest, white space tidied; may be empty.
        duration: In seconds; None: the manifest does not say. Of a segment, its length; None: up
            to the end of the recording.
        speed: Factor at which the recording already plays, for copies perturbed in advance.
        copy_of: Id of the utterance that such a copy was made of, if that is in the list.
        offset: Where the segment begins in the recording, in seconds; None: the whole recording.
        speaker: Who speaks; empty: the manifest does not say.
    """

    id: str
    audio: Path
    text: str
    duration: float | None = None
    speed: float = 1.0
    copy_of: str = ""
    offset: float | None = None
    speaker: str = ""

    @property
    def segment(self) -> AudioSegment:
        """What is to be read of the recording."""
        if self.offset is None:
            return AudioSegment(self.audio)
        return AudioSegment(self.audio, self.offset, self.duration)

    @property
    def is_copy(self) -> bool:
        """Whether the recording plays at another speed than it was spoken."""
        return self.speed != 1.0 or bool(self.copy_of)


# ---- reading


def read_manifest(
    paths: str | Path | Sequence[str | Path],
    data_dir: str | Path | None = None,
    log: Log | None = None,
) -> list[Utterance]:
    """Read the utterances of one manifest or of several, in order. Recordings are not opened.

    Ids are what the manifest says, or the recording's name without suffix, with the offset of a
    segment; a second `a` becomes `a-2`, also in another manifest. Of several files of one Jasper
    entry, that of speed 1 comes first, the others are its copies.

    Args:
        paths: The manifests.
        data_dir: The folder that paths in them are relative to; None: the JSON's `root_path`, or
            else the manifest's own folder.
        log: Receives lines about keys that are not used, and about recordings that are listed
            twice.

    Returns:
        The utterances.

    Raises:
        UserError: A manifest or transcript file is missing, empty or malformed (with the line).
    """
    if isinstance(paths, (str, Path)):
        paths = [paths]
    taken: set[str] = set()
    utterances: list[Utterance] = []
    for path in paths:
        ignored: Counter[str] = Counter()
        utterances += _with_unique_ids(_read_one(Path(path), data_dir, ignored), taken)
        if log and (line := _ignored_keys(path, ignored)):
            log(line)
    if log:
        for line in _doubled(utterances, listed(paths)):
            log(line)
    return utterances


def _ignored_keys(path: str | Path, ignored: Counter[str]) -> str:
    """Say which keys of a manifest are not used; empty without any."""
    if not ignored:
        return ""
    ranked = sorted(ignored.items(), key=lambda item: (-item[1], item[0]))
    counts = ", ".join(f"{key} ({count})" for key, count in ranked)
    line = f"manifest {path}: keys that are not used, with the number of their lines: {counts}"
    if ignored.keys() & _SEGMENT_KEYS:
        line += '; to read a part of a recording, give "offset" and "duration" in seconds'
    return line


def _doubled(utterances: Sequence[Utterance], where: str) -> Iterator[str]:
    """Say which recordings are listed more than once, with the same text and with others."""
    earlier: dict[tuple, Utterance] = {}
    same: list[str] = []
    other: list[str] = []
    for utterance in utterances:
        # As text: paths take far longer to compare.
        duration = None if utterance.offset is None else utterance.duration
        key = str(utterance.audio), utterance.offset, duration
        first = earlier.setdefault(key, utterance)
        if first is not utterance:
            found = same if first.text == utterance.text else other
            found.append(f"{utterance.id} and {first.id}, {utterance.segment}")
    if same:
        yield (
            f"{where}: {len(same)} of {len(utterances)} utterances are listed again, with the same "
            f"recording and text, and count as often; the first: {same[0]}"
        )
    if other:
        yield (
            f"{where}: {len(other)} of {len(utterances)} utterances have the recording of another, "
            f"and another text; the first: {other[0]}"
        )


def read_data(
    data: Any,
    tokenizer: Tokenizer,
    manifests: Sequence[str | Path],
    data_dir: str | None = None,
    log: Log | None = None,
) -> list[Utterance]:
    """Read the utterances of manifests as training, evaluation and validation see them.

    Args:
        data: A DataConfig; transcripts are normalised as its `normalize_transcripts` says.
        tokenizer: Labels for the normalisation.
        manifests: The manifests.
        data_dir: As in `read_manifest`; "": none; None: DataConfig.Data_dir.
        log: As in `read_manifest`.

    Returns:
        The utterances.

    Raises:
        UserError: As `read_manifest`.
    """
    normalise = normaliser(data.normalize_transcripts, tokenizer.labels)
    data_dir = data.Data_dir if data_dir is None else data_dir
    return [
        replace(utterance, text=normalise(utterance.text))
        for utterance in read_manifest(manifests, data_dir or None, log)
    ]


def listed(manifests: Sequence[str | Path]) -> str:
    """Name manifests for messages."""
    return ", ".join(map(str, manifests))


def _read_one(path: Path, data_dir: str | Path | None, ignored: Counter[str]) -> list[Utterance]:
    """Read a manifest; `ignored` receives the number of lines for each key that is not used."""
    text = read_text(path, "manifest")
    base = absolute_path(data_dir or path.parent)
    start = text.lstrip()[:1]
    if path.suffix.lower() in (".csv", ".tsv") or start not in ("[", "{"):
        utterances = _from_table(path, text, base, ignored)
    elif start == "[":
        utterances = _from_jasper(path, _parse(text, path), base, ignored)
    elif _is_json_lines(text):
        utterances = _from_json_lines(path, text, base, ignored)
    else:
        content = _parse(text, path)
        utterances = _from_deepspeech(path, content, base, data_dir is not None, ignored)
    if not (found := list(utterances)):
        raise UserError(f"manifest {path} holds no utterances: expected at least one")
    return found


def _from_table(path: Path, text: str, base: Path, ignored: Counter[str]) -> Iterator[Utterance]:
    table = read_table(str(path), text, lambda audio: (base / audio).is_file())
    folder = None
    for row in table.rows:
        where = f"manifest {path}, line {row.line}"
        audio, transcript = row.values["audio"], row.values["text"]
        if folder is None:
            folder = base
            if "sentence" in table.columns and not (base / audio).is_file():
                folder = _clips(base)
        if transcript.lower().endswith(".txt"):
            transcript = read_text(base / transcript, f"{where}: transcript file")
        yield make_utterance(folder, audio, transcript, **_times(row.values, where))
    ignored.update(table.ignored)


def _clips(base: Path) -> Path:
    """Return where the recordings of Common Voice lie: in `clips/` beside its tables."""
    return base / "clips" if (base / "clips").is_dir() else base


def _from_deepspeech(
    path: Path, content: dict, base: Path, moved: bool, ignored: Counter[str]
) -> Iterator[Utterance]:
    # Otherwise the caller knows better than root_path where the files are.
    if not moved and content.get("root_path") is not None:
        base = base / _field(content, ["root_path"], str, f"manifest {path}")
    for number, sample in enumerate(_field(content, ["samples"], list, f"manifest {path}"), 1):
        where = f"manifest {path}, sample {number}"
        transcript = base / _field(sample, ["transcript_path"], str, where)
        ignored.update(sample.keys() - _DEEPSPEECH_KEYS)
        yield make_utterance(
            base,
            _field(sample, ["wav_path"], str, where),
            read_text(transcript, f"{where}: transcript file"),
            **_times(sample, where),
        )


def _from_jasper(
    path: Path, content: list, base: Path, ignored: Counter[str]
) -> Iterator[Utterance]:
    for number, record in enumerate(content, 1):
        where = f"manifest {path}, entry {number}"
        text = _field(record, ["transcript"], str, where)
        ignored.update(record.keys() - _JASPER_KEYS)
        versions = []
        for file in _field(record, ["files"], list, where):
            audio = _field(file, ["fname"], str, where)
            versions.append(make_utterance(base, audio, text, **_times(file, where)))
            ignored.update(file.keys() - _JASPER_FILE_KEYS)
        if not versions:
            raise UserError(f"{where}: no recording in 'files', expected one or more")
        versions.sort(key=lambda version: version.speed != 1.0)
        for number, version in enumerate(versions):
            copied = number > 0 and version.speed != 1.0
            yield replace(version, copy_of=versions[0].id) if copied else version


def _from_json_lines(
    path: Path, text: str, base: Path, ignored: Counter[str]
) -> Iterator[Utterance]:
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            where = f"manifest {path}, line {number}"
            record = _parse(line, path, number)
            utterance = make_utterance(
                base,
                _field(record, ["audio", "audio_filepath"], str, where),
                _field(record, ["text"], str, where),
                **_times(record, where),
            )
            ignored.update(record.keys() - _JSON_LINES_KEYS)
            yield replace(
                utterance,
                id=_text(record.get("id") or utterance.id, "id", where),
                copy_of=_text(record.get("copy_of") or "", "copy_of", where),
                speaker=_text(record.get("speaker") or "", "speaker", where),
            )


def _is_json_lines(text: str) -> bool:
    """Whether the first line is a whole object, other than deepspeech.pytorch's on one line."""
    try:
        first = json.loads(text.lstrip().split("\n", 1)[0])
    except (ValueError, RecursionError):
        return False
    return "samples" not in first


def _parse(text: str, path: Path, line: int = 1):
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        at = f"line {line + error.lineno - 1}, column {error.colno}"
        raise UserError(f"manifest {path}, {at}: not JSON ({error.msg}); is it whole?") from None
    except (ValueError, RecursionError) as error:  # numbers of thousands of digits, deep nesting
        raise UserError(f"manifest {path}, line {line}: not JSON of a manifest ({error})") from None


def _field(record: object, names: list[str], kind: type, where: str):
    """Return the first of `names` that `record` has as a `kind`; UserError without any."""
    values = record if isinstance(record, dict) else {}
    for name in names:
        if isinstance(values.get(name), kind):
            return _text(values[name], name, where) if kind is str else values[name]
    expected = " or ".join(repr(name) for name in names)
    keys = ", ".join(values)[:200] or repr(record)[:60]
    raise UserError(f"{where}: no {expected} ({kind.__name__}), found {keys}")


def _text(value: object, name: str, where: str) -> str:
    """Return a value as text; UserError where no file can hold it or be called so."""
    text = str(value)
    if _NO_TEXT.search(text):
        raise UserError(
            f"{where}: {name} {text[:60]!r} holds a zero character or half of a surrogate pair,"
            " expected text"
        )
    return text


def _times(record: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Return the arguments of `make_utterance` that are numbers."""
    names = ("offset", "duration", "speed")
    given = {name: record[name] for name in names if record.get(name) is not None}
    if not given:
        return {}
    try:
        times = {name: float(value) for name, value in given.items()}
        if not all(map(math.isfinite, times.values())):
            raise ValueError
    except (TypeError, ValueError, OverflowError):
        found = ", ".join(f"{name} {value!r}" for name, value in given.items())
        raise UserError(f"{where}: {found}, expected numbers") from None
    if times.get("speed", 1.0) <= 0:
        raise UserError(f"{where}: speed {times['speed']:g}, expected a factor above 0")
    if times.get("offset", 0.0) < 0 or ("offset" in times and times.get("duration", 1.0) <= 0):
        found = ", ".join(f"{name} {times[name]:g}" for name in names[:2] if name in times)
        raise UserError(
            f"{where}: {found}; a segment begins at 0 or later and is longer than 0 seconds"
        )
    return times


def make_utterance(
    base: Path,
    audio: str,
    text: str,
    duration: float | None = None,
    speed: float = 1.0,
    offset: float | None = None,
) -> Utterance:
    """Make an utterance whose id is the recording's name without suffix.

    The id of a segment has its offset too: that of `talk.wav` at 12.5 s is `talk_12.5s`.

    Args:
        base: The folder that `audio` is relative to.
        audio: Path of the recording.
        text: Transcript; its white space is tidied.
        duration: Seconds, where known.
        speed: At which the recording already plays.
        offset: Seconds at which a segment begins; None: the whole recording.

    Returns:
        The utterance.
    """
    path = absolute_path(os.path.join(base, audio))
    name = path.stem
    if offset is not None:
        name += f"_{round(offset, 3):.10g}s"
    return Utterance(name, path, " ".join(text.split()), duration, speed, offset=offset)


def _with_unique_ids(utterances: Iterable[Utterance], taken: set[str]) -> list[Utterance]:
    """Number ids that are taken already; `taken` receives those of the utterances."""
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


def without_copies(
    utterances: Sequence[Utterance], where: str | Path, log: Log | None = None
) -> list[Utterance]:
    """Leave out recordings that play at another speed.

    Args:
        utterances: The utterances of a manifest.
        where: The name of the manifest, for messages.
        log: Receives a line that says how many there are.

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
    if log and (copies := len(utterances) - len(originals)):
        log(f"{where}: {copies} of {len(utterances)} recordings left out: copies at another speed")
    return originals
