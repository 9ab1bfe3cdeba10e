"""Manifests: lists of utterances, in the formats that people have.

| format | content |
| --- | --- |
| csv | `audio,transcript` a line, no header needed; a transcript ending in `.txt` is a text file |
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
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from tqdm import tqdm

from common.audio import audio_info, load_audio
from common.errors import UserError
from common.features import Featurizer
from common.files import write_text
from common.text import Vocabulary, ctc_frames_needed


@dataclass(frozen=True)
class Utterance:
    id: str  # unique in its list
    audio: Path  # absolute
    text: str  # as it stands in the manifest, white space tidied; may be empty
    duration: float | None = None  # seconds, where the manifest says so
    speed: float = 1.0  # at which the recording already plays, for copies perturbed in advance


# ---- reading


def read_manifest(
    paths: str | Path | Sequence[str | Path], data_dir: str | Path | None = None
) -> list[Utterance]:
    """The utterances of one manifest or of several, in order.

    Relative paths inside are relative to `data_dir`, else to the JSON's `root_path`, else to the
    manifest's own folder. Ids are what the manifest says or the recording's name without suffix; a
    second `a` becomes `a-2`. Recordings are not opened.

    Raises UserError for a missing, empty or malformed manifest (with the line) or transcript file.
    """
    if isinstance(paths, (str, Path)):
        paths = [paths]
    return _with_unique_ids(u for path in paths for u in _read_one(Path(path), data_dir))


def _read_one(path: Path, data_dir: str | Path | None) -> list[Utterance]:
    text = _read_text(path, "manifest")
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
            if rows.line_num == 1 and audio.lower() in ("audio", "audio_path", "wav_path"):
                continue  # a header
            if transcript.lower().endswith(".txt"):
                transcript = _read_text(base / transcript, f"{where}: transcript file")
            yield _utterance(base, audio, transcript)
    except csv.Error as error:
        raise UserError(f"manifest {path}, line {rows.line_num}: not CSV ({error})") from None


def _from_deepspeech(path: Path, content: dict, base: Path, moved: bool) -> Iterator[Utterance]:
    if not moved:  # otherwise the caller knows better than root_path where the files are
        base = base / str(content.get("root_path") or "")
    for number, sample in enumerate(_field(content, ["samples"], list, f"manifest {path}"), 1):
        where = f"manifest {path}, sample {number}"
        transcript = base / _field(sample, ["transcript_path"], str, where)
        yield _utterance(
            base,
            _field(sample, ["wav_path"], str, where),
            _read_text(transcript, f"{where}: transcript file"),
        )


def _from_jasper(path: Path, content: list, base: Path) -> Iterator[Utterance]:
    for number, record in enumerate(content, 1):
        where = f"manifest {path}, entry {number}"
        text = _field(record, ["transcript"], str, where)
        for file in _field(record, ["files"], list, where):
            audio = _field(file, ["fname"], str, where)
            yield _utterance(base, audio, text, *_duration_and_speed(file, where))


def _from_json_lines(path: Path, text: str, base: Path) -> Iterator[Utterance]:
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            where = f"manifest {path}, line {number}"
            record = _parse(line, path, number)
            utterance = _utterance(
                base,
                _field(record, ["audio", "audio_filepath"], str, where),
                _field(record, ["text"], str, where),
                *_duration_and_speed(record, where),
            )
            yield replace(utterance, id=str(record.get("id") or utterance.id))


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
    """The first of `names` that `record` has, checked to be a `kind`."""
    found = record if isinstance(record, dict) else {}
    for name in names:
        if isinstance(found.get(name), kind):
            return found[name]
    expected = " or ".join(repr(name) for name in names)
    keys = ", ".join(found) or repr(record)[:60]
    raise UserError(f"{where}: no {expected} ({kind.__name__}), found {keys}")


def _duration_and_speed(record: dict, where: str) -> tuple[float | None, float]:
    duration, speed = record.get("duration"), record.get("speed", 1.0)
    try:
        return None if duration is None else float(duration), float(speed)
    except (TypeError, ValueError):
        raise UserError(
            f"{where}: duration {duration!r} and speed {speed!r}, expected numbers"
        ) from None


def _utterance(
    base: Path, audio: str, text: str, duration: float | None = None, speed: float = 1.0
) -> Utterance:
    path = Path(os.path.normpath(os.path.join(base, audio)))
    return Utterance(path.stem, path, " ".join(text.split()), duration, speed)


def _with_unique_ids(utterances: Iterable[Utterance]) -> list[Utterance]:
    taken: set[str] = set()
    repeats: Counter[str] = Counter()
    unique = []
    for utterance in utterances:
        name = utterance.id
        while name in taken:
            repeats[utterance.id] += 1
            name = f"{utterance.id}-{repeats[utterance.id] + 1}"
        taken.add(name)
        unique.append(utterance if name == utterance.id else replace(utterance, id=name))
    return unique


def _read_text(path: Path, what: str) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{what} {path}: not UTF-8 text (byte {error.start})") from None
    except (OSError, ValueError) as error:  # ValueError: a null byte in the name
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{what} {path}: cannot be read: {reason}") from None


# ---- writing; audio paths are written absolute, so a manifest can lie anywhere


def write_csv(utterances: Iterable[Utterance], path: str | Path) -> None:
    """`audio,text` lines without a header. Ids, durations and speeds are not kept."""
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerows((u.audio, u.text) for u in utterances)
    write_text(Path(path), buffer.getvalue())


def write_jsonl(utterances: Iterable[Utterance], path: str | Path) -> None:
    """JSON lines; the one format that keeps everything."""
    records = []
    for u in utterances:
        record = {"id": u.id, "audio": str(u.audio), "text": u.text}
        if u.duration is not None:
            record["duration"] = u.duration
        if u.speed != 1.0:
            record["speed"] = u.speed
        records.append(json.dumps(record, ensure_ascii=False) + "\n")
    write_text(Path(path), "".join(records))


def write_deepspeech_json(utterances: Iterable[Utterance], path: str | Path) -> None:
    """deepspeech.pytorch's JSON; its transcripts are files, written to `<name>_txt/` beside it."""
    path = Path(path)
    samples = []
    for number, u in enumerate(utterances):
        transcript = Path(f"{path.stem}_txt") / f"{number:06d}.txt"
        write_text(path.parent / transcript, u.text, durable=False)
        samples.append({"wav_path": str(u.audio), "transcript_path": str(transcript)})
    content = {"root_path": str(path.parent.absolute()), "samples": samples}
    write_text(path, json.dumps(content, ensure_ascii=False, indent=1))


def write_jasper_json(utterances: Iterable[Utterance], path: str | Path) -> None:
    """Jasper's JSON list. Durations that are not known are read from the recordings."""
    content = []
    for u in utterances:
        duration = audio_info(u.audio).duration if u.duration is None else u.duration
        file = {"fname": str(u.audio), "duration": duration, "speed": u.speed}
        content.append(
            {"transcript": u.text, "files": [file], "original_duration": duration * u.speed}
        )
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
    """Any of the JSON formats to CSV; returns the number of utterances."""
    utterances = read_manifest(json_path, data_dir)
    write_csv(utterances, csv_path)
    return len(utterances)


# ---- corpora in their official layout


def build_an4(root: str | Path, out_dir: str | Path) -> dict[Path, int]:
    """CSV manifests of CMU AN4 (`etc/`, `wav/`): train, val, test; {manifest: utterances}.

    AN4 has no development set, so every 15th training speaker (5 of 74) is set aside as val.
    """
    root = _find(
        root,
        "an4",
        lambda folder: (folder / "etc/an4_train.fileids").is_file(),
        "etc/an4_train.fileids and wav/",
    )
    train, test = (_an4_set(root, name) for name in ("train", "test"))
    speakers = sorted({u.audio.parent.name for u in train})
    aside = set(speakers[::15])
    parts = {
        "train": [u for u in train if u.audio.parent.name not in aside],
        "val": [u for u in train if u.audio.parent.name in aside],
        "test": test,
    }
    return _write_parts({f"an4_{name}": part for name, part in parts.items()}, Path(out_dir))


def _an4_set(root: Path, name: str) -> list[Utterance]:
    transcription = root / f"etc/an4_{name}.transcription"
    texts = {}
    for line in _read_text(transcription, "AN4 transcription").splitlines():
        if match := re.fullmatch(r"(?:<s>)?(.*?)(?:</s>)?\s*\((\S+)\)\s*", line):
            texts[match[2]] = match[1]
    utterances = []
    for fileid in _read_text(root / f"etc/an4_{name}.fileids", "AN4 file list").split():
        stem = Path(fileid).name
        if stem not in texts:
            raise UserError(f"{transcription}: no line for {stem}, which the file list holds")
        audio = root / "wav" / f"{fileid}.sph"
        if not audio.is_file():
            raise UserError(f"AN4 recording {audio} is missing: unpack the archive again")
        utterances.append(_utterance(root, str(audio), texts[stem]))
    return utterances


def build_librispeech(root: str | Path, out_dir: str | Path) -> dict[Path, int]:
    """CSV manifests of the LibriSpeech sets (`train-*`, `dev-*`, `test-*`) found in a folder.

    One for each set (`libri_test_clean_manifest.csv`), and all train and all dev sets together as
    `libri_train_manifest.csv` and `libri_val_manifest.csv`. Returns {manifest: utterances}.
    """
    root = _find(
        root,
        "LibriSpeech",
        lambda folder: any(_librispeech_sets(folder)),
        "train-*, dev-* or test-* with <speaker>/<chapter>/*.trans.txt",
    )
    sets = {folder.name: _librispeech_set(folder) for folder in _librispeech_sets(root)}
    parts = {f"libri_{name.replace('-', '_')}": part for name, part in sets.items()}
    for name, prefix in (("libri_train", "train-"), ("libri_val", "dev-")):
        joined = [u for set_name, part in sets.items() if set_name.startswith(prefix) for u in part]
        if joined:
            parts[name] = joined
    return _write_parts(parts, Path(out_dir))


def _librispeech_sets(root: Path) -> Iterator[Path]:
    for folder in sorted(root.glob("*-*")):
        named = folder.name.startswith(("train-", "dev-", "test-"))
        if named and next(folder.glob("*/*/*.trans.txt"), None):
            yield folder


def _librispeech_set(folder: Path) -> list[Utterance]:
    utterances = []
    for transcripts in sorted(folder.glob("*/*/*.trans.txt")):
        present = set(os.listdir(transcripts.parent))
        for line in _read_text(transcripts, "LibriSpeech transcripts").splitlines():
            name, _, text = line.strip().partition(" ")
            if not name:
                continue
            if f"{name}.flac" not in present:
                raise UserError(
                    f"LibriSpeech recording {transcripts.parent / name}.flac is missing: "
                    "unpack the archive again"
                )
            utterances.append(_utterance(transcripts.parent, f"{name}.flac", text))
    return utterances


def _find(root: str | Path, name: str, holds: Callable[[Path], bool], layout: str) -> Path:
    """`root` or `root/name`, as an absolute path, whichever `holds` the corpus."""
    root = Path(os.path.abspath(root))
    for folder in (root, root / name):
        if holds(folder):
            return folder
    raise UserError(f"{root}: no {name} found, expected a folder that holds {layout}")


def _write_parts(parts: dict[str, list[Utterance]], out_dir: Path) -> dict[Path, int]:
    counts = {}
    for name, utterances in parts.items():
        path = out_dir / f"{name}_manifest.csv"
        write_csv(utterances, path)
        counts[path] = len(utterances)
    return counts


# ---- validation

CATEGORIES = (
    "unreadable",
    "empty text",
    "unknown characters",
    "silent",
    "too short",
    "too long",
    "CTC-infeasible",  # more labels than output frames: no CTC path spells the text
)
SILENCE = 1e-4  # a recording whose peak stays below this share of full scale is silent


@dataclass(frozen=True)
class Problem:
    id: str
    category: str  # one of CATEGORIES
    detail: str  # what was found, and what was expected


@dataclass(frozen=True)
class ValidationReport:
    total: int
    ok: list[Utterance]  # without a problem, with their true durations
    problems: list[Problem]  # in manifest order; an utterance may have several
    characters: Counter[str]  # unknown characters, with the utterances that hold them

    def lines(self, limit: int | None = None) -> list[str]:
        """Counts, then ids with details, at most `limit` of each category."""
        hours = sum(u.duration for u in self.ok) / 3600
        found = [f"{len(self.ok)} of {self.total} utterances are good, {hours:.2f} hours"]
        for category in CATEGORIES:
            those = [problem for problem in self.problems if problem.category == category]
            if not those:
                continue
            found.append(f"{category}: {len(those)}")
            if category == "unknown characters":
                counts = self.characters.most_common()
                found[-1] += f" ({', '.join(f'{c!r} in {n}' for c, n in counts)})"
            found += [f"  {problem.id}: {problem.detail}" for problem in those[:limit]]
            if limit is not None and len(those) > limit:
                found.append(f"  and {len(those) - limit} more")
        return found


def find_problems(
    utterance: Utterance,
    samples: np.ndarray,
    vocabulary: Vocabulary,
    featurizer: Featurizer,
    output_frames: Callable[[int], int],
    min_duration: float,
    max_duration: float,
) -> list[Problem]:
    """What keeps one utterance, with its samples (N,) at the featurizer's rate, from training.

    `output_frames` maps feature frames to the network's output frames; durations are in seconds.
    """
    found = []

    def add(category: str, detail: str) -> None:
        found.append(Problem(utterance.id, category, detail))

    text = vocabulary.normalise(utterance.text)
    unknown = "".join(sorted(vocabulary.unknown(text)))
    if not text:
        add("empty text", f"no transcript for {utterance.audio}")
    if unknown:
        add("unknown characters", f"{unknown!r} in {text!r}")
    peak = float(np.abs(samples).max(initial=0.0))
    if peak < SILENCE:
        add("silent", f"peak {peak:.1e} of full scale, expected at least {SILENCE:.0e}")
    duration = len(samples) / featurizer.config.sample_rate
    if duration < min_duration:
        add("too short", f"{duration:.2f} s, expected at least {min_duration:g} s")
    if duration > max_duration:
        add("too long", f"{duration:.2f} s, expected at most {max_duration:g} s")
    if text and not unknown:
        frames = int(output_frames(featurizer.frames(len(samples))))
        needed = ctc_frames_needed(vocabulary.encode(text))
        if needed > frames:
            add("CTC-infeasible", f"text needs {needed} output frames, the audio gives {frames}")
    return found


def validate(
    utterances: Sequence[Utterance],
    vocabulary: Vocabulary,
    featurizer: Featurizer,
    output_frames: Callable[[int], int],
    min_duration: float,
    max_duration: float,
    workers: int = 2,
) -> ValidationReport:
    """Decode every recording in `workers` threads and report what cannot be trained on, and why."""
    rate = featurizer.config.sample_rate
    limits = (vocabulary, featurizer, output_frames, min_duration, max_duration)

    def check(utterance: Utterance) -> tuple[Utterance, list[Problem]]:
        try:
            samples = load_audio(utterance.audio, rate)
        except UserError as error:
            samples, found = np.zeros(0), [Problem(utterance.id, "unreadable", str(error))]
        else:
            found = find_problems(utterance, samples, *limits)
        return replace(utterance, duration=len(samples) / rate), found

    pool = ThreadPoolExecutor(max(workers, 1))
    try:
        progress = tqdm(
            pool.map(check, utterances),
            total=len(utterances),
            desc="validate",
            unit="utt",
            disable=None,
        )
        checked = list(progress)
    finally:
        pool.shutdown(cancel_futures=True)
    characters = Counter(
        c for u in utterances for c in vocabulary.unknown(vocabulary.normalise(u.text))
    )
    return ValidationReport(
        total=len(utterances),
        ok=[utterance for utterance, found in checked if not found],
        problems=[problem for _, found in checked for problem in found],
        characters=characters,
    )
