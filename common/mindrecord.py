"""From recordings to MindRecord files, in parallel, and back.

A converted corpus is a directory:

    dataset.json      how it was made (features, labels, ...), its files, and what was left out
    utterances.jsonl  one `sources.Entry` a line, in the order of the records
    NAME0.md ...      the records, in the order of the manifest; each with its index NAME0.md.db

It is made in `<directory>.partial` and renamed when it is whole, so what stands under its own name
can be trusted. The directory may be renamed or moved, its files not: MindRecord files know their
names.
"""

from __future__ import annotations

import fcntl
import functools
import hashlib
import json
import math
import os
import shutil
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from common.audio import AudioInfo, FormatNotice, audio_info, encode_flac, load_audio
from common.errors import UserError
from common.features import FeatureConfig, Featurizer
from common.manifest import CATEGORIES, Problem, Utterance, find_problems
from common.processes import worker_pool
from common.sources import Entry, RecordSource, mindspore_reason
from common.text import Vocabulary, ctc_frames_needed

FORMAT = 1  # of the directory; another one is converted again
STORES = ("features", "audio")

_DESCRIPTION = "dataset.json"
_ENTRIES = "utterances.jsonl"
_RECIPE = "recipe.json"  # in a .partial directory: what its shards are made of
_SHARD_SUFFIX = ".shard.json"  # in a .partial directory: a shard that is whole
_LARGEST = 31 << 20  # bytes of a record; MindRecord wants it in one page of 32 MiB
_LOOK_AHEAD = 4  # recordings in work or waiting to be written, for each process
_WORTH_A_PROCESS = 500  # recordings; this one reads about as many while another starts
_COMPACT = (".flac", ".ogg", ".opus")  # mono and at the right rate, these are stored as they are
_PROBES = (1, 2, 3, 5, 10, 50, 100, 101, 102, 103, 500, 1000)  # frames; they tell strides apart


@dataclass(frozen=True)
class ConversionReport:
    directory: Path
    utterances: int
    seconds: float  # of speech
    left_out: tuple[Problem, ...]  # in the order of the manifest; an utterance may have several

    def lines(self, limit: int = 10) -> list[str]:
        """What there is, and at most `limit` of what was left out for each reason."""
        hours = self.seconds / 3600
        found = [f"{self.directory}: {self.utterances} utterances, {hours:.2f} hours"]
        for category in CATEGORIES:
            those = [problem for problem in self.left_out if problem.category == category]
            if those:
                found.append(f"left out, {category}: {len(those)}")
                found += [f"  {problem.id}: {problem.detail}" for problem in those[:limit]]
            if len(those) > limit:
                more = len(those) - limit
                found.append(f"  and {more} more, listed in {self.directory / _DESCRIPTION}")
        return found


def convert(
    utterances: Sequence[Utterance],
    directory: str | Path,
    stem: str = "utterances{}.md",
    *,
    shards: int,
    featurizer: Featurizer,
    vocabulary: Vocabulary,
    output_frames: Callable[[int], int],
    store: str = "audio",
    workers: int = 1,
    min_duration: float = 0.0,
    max_duration: float = math.inf,
    log: Callable[[str], None] = print,
) -> ConversionReport:
    """Writes `utterances` to MindRecord files in `directory`, named `stem` with a number for `{}`.

    store: "features" (F, T) float32, or encoded "audio", which waveform augmentation needs.
    output_frames: output frames of the network for so many feature frames.
    workers: processes that read recordings; 1, or where there are few to read: this one alone.
    min_duration, max_duration: seconds.

    What `manifest.find_problems` objects to is left out and reported. If `directory` holds the same
    already, nothing is done. An interrupted conversion of the same is continued, file by file; of
    anything else it is begun again, and the log says why. An earlier conversion stays in place
    until the new one is whole.

    Raises UserError if no utterance is good, or if the directory cannot be written.
    """
    if store not in STORES:
        raise UserError(f"store: {store!r} is unknown; choose {' or '.join(STORES)}")
    if shards < 1:
        raise UserError(f"shards: {shards} files; at least 1 is needed")
    if stem.count("{}") != 1 or Path(stem).name != stem:
        raise UserError(f"MindRecord file name {stem!r}: expected one {{}} for the number in it")
    if not utterances:
        raise UserError(f"{directory}: there are no utterances to convert")
    directory = Path(directory)
    recipe = {
        "format": FORMAT,
        "stem": stem,
        "shards": shards,
        "store": store,
        "features": featurizer.config.to_dict(),
        "labels": list(vocabulary.labels),
        "min_duration": min_duration,
        "max_duration": max_duration,
        "output_frames": [int(output_frames(frames)) for frames in _PROBES],
        "manifest": _digest(utterances),
    }
    reader = _Reader(featurizer.config, vocabulary, store, min_duration, max_duration)
    try:
        if _is_up_to_date(directory, recipe, log):
            return _report(directory)
        with _staging(directory, recipe, log) as partial:
            shares = [list(share) for share in np.array_split(np.arange(len(utterances)), shards)]
            parts = {
                stem.format(number): [utterances[index] for index in share]
                for number, share in enumerate(shares)
            }
            _write_shards(partial, parts, reader, output_frames, workers, log)
            _describe(partial, recipe, parts)
            _publish(partial, directory)
    except OSError as error:
        where = error.filename or directory
        raise UserError(f"{where}: cannot be written: {error.strerror or error}") from error
    return _report(directory)


def open_dataset(
    directory: str | Path,
    files: Iterable[str | Path] | None = None,
    featurizer: Featurizer | None = None,
    vocabulary: Vocabulary | None = None,
) -> RecordSource:
    """The utterances of a converted directory, or only those in some of its `files`.

    Raises UserError if the directory is missing or damaged, and, where `featurizer` or `vocabulary`
    is given, if it was made with others.
    """
    directory = Path(directory)
    made = _description(directory)
    if made is None:
        hint = "run create_mindrecord.py"
        if _beside(directory, ".partial").exists():
            hint += ", it continues the conversion that was interrupted"
        raise UserError(f"{directory}: no converted corpus here (no {_DESCRIPTION}); {hint}")
    wanted: dict[str, Any] = {"format": FORMAT}
    if featurizer is not None:
        wanted["features"] = featurizer.config.to_dict()
    if vocabulary is not None:
        wanted["labels"] = list(vocabulary.labels)
    if difference := _difference(made, wanted):
        raise UserError(
            f"{directory}: {difference}; convert again or go back to what the files were made with"
        )
    if damage := _damage(directory, made["files"]):
        raise UserError(f"{damage}; convert again")

    chosen = _chosen(directory, list(made["records"]), files)
    everything = iter(_read_entries(directory / _ENTRIES))
    parts = {name: list(islice(everything, count)) for name, count in made["records"].items()}
    entries = [entry for name in chosen for entry in parts[name]]
    return RecordSource(entries, [directory / name for name in chosen], made["store"])


def _chosen(directory: Path, names: list[str], files: Iterable[str | Path] | None) -> list[str]:
    """Those of `names` that are among `files`, all if there are none; in their own order."""
    wanted = [Path(file) for file in files or names]
    for file in wanted:
        elsewhere = file.parent != Path(".") and file.parent.resolve() != directory.resolve()
        if elsewhere or file.name not in names:
            raise UserError(
                f"mindrecord_files: {file} is not of {directory}, which has {', '.join(names)}"
            )
    wanted_names = {file.name for file in wanted}
    return [name for name in names if name in wanted_names]


# ---- recordings to records, in the worker processes


@dataclass(frozen=True)
class _Record:
    """What a worker process makes of an utterance."""

    problems: list[Problem]
    info: AudioInfo | None = None  # None: unreadable
    entry: Entry | None = None  # None: there are problems
    label_ids: list[int] | None = None
    stored: np.ndarray | bytes | None = None


@dataclass(frozen=True)
class _Reader:
    """Makes records; small enough to be sent along with every utterance."""

    features: FeatureConfig
    vocabulary: Vocabulary
    store: str
    min_duration: float
    max_duration: float

    def __call__(self, utterance: Utterance) -> _Record:
        try:
            return self._record(utterance)
        except Exception as error:
            error.add_note(f"utterance {utterance.id}, {utterance.audio}")
            raise

    def _record(self, utterance: Utterance) -> _Record:
        featurizer = _featurizer(self.features)
        rate = self.features.sample_rate
        try:
            info = audio_info(utterance.audio)
            samples = load_audio(utterance.audio, rate)
        except UserError as error:
            return _Record([Problem(utterance.id, "unreadable", str(error))])
        limits = (self.min_duration, self.max_duration)
        problems = find_problems(
            utterance, samples, self.vocabulary, featurizer, _any_number_of_frames, *limits
        )
        if problems:
            return _Record(problems, info)
        text = self.vocabulary.normalise(utterance.text)
        label_ids = self.vocabulary.encode(text)
        entry = Entry(
            id=utterance.id,
            text=text,
            duration=len(samples) / rate,
            frames=featurizer.frames(len(samples)),
            labels=len(label_ids),
            ctc_frames=ctc_frames_needed(label_ids),
        )
        stored = self._stored(utterance, info, samples)
        size = memoryview(stored).nbytes
        if size > _LARGEST:
            detail = f"{size >> 20} MiB of {self.store}, a MindRecord record holds {_LARGEST >> 20}"
            return _Record([Problem(utterance.id, "too long", detail)], info)
        return _Record([], info, entry, label_ids, stored)

    def _stored(
        self, utterance: Utterance, info: AudioInfo, samples: np.ndarray
    ) -> np.ndarray | bytes:
        if self.store == "features":
            return _featurizer(self.features)(samples)
        rate = self.features.sample_rate
        as_wanted = (info.sample_rate, info.channels) == (rate, 1)
        if as_wanted and utterance.audio.suffix.lower() in _COMPACT:
            return utterance.audio.read_bytes()
        return encode_flac(samples, rate)


@functools.cache
def _featurizer(config: FeatureConfig) -> Featurizer:
    return Featurizer(config)


def _any_number_of_frames(frames: int) -> int:
    """The network's own arithmetic may need mindspore, which workers do without."""
    return 1 << 62


def _in_order(reader: _Reader, utterances: Sequence[Utterance], workers: int) -> Iterator[_Record]:
    """`map(reader, utterances)` in up to `workers` processes, a bounded number ahead."""
    workers = min(workers, len(utterances) // _WORTH_A_PROCESS)
    if workers <= 1:
        yield from map(reader, utterances)
        return
    pool = worker_pool(workers)
    waiting = deque()
    try:
        for utterance in utterances:
            waiting.append(pool.submit(reader, utterance))
            if len(waiting) >= _LOOK_AHEAD * workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    except BrokenProcessPool as error:
        raise UserError(
            f"one of {workers} converting processes was killed, perhaps for lack of memory;"
            " the same command with fewer workers continues"
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


# ---- records to files


def _write_shards(
    partial: Path,
    parts: dict[str, list[Utterance]],
    reader: _Reader,
    output_frames: Callable[[int], int],
    workers: int,
    log: Callable[[str], None],
) -> None:
    """Writes the files that are not whole yet, each from its part of the utterances."""
    left = {name: part for name, part in parts.items() if _finished(partial, name) is None}
    todo = [utterance for part in left.values() for utterance in part]
    total = sum(map(len, parts.values()))
    notice = FormatNotice(reader.features.sample_rate)
    progress = tqdm(
        total=total, initial=total - len(todo), desc="convert", unit="utt", disable=None
    )
    with progress, closing(_in_order(reader, todo, workers)) as records:
        for name, part in left.items():
            shard = _Shard(partial / name, reader.store)
            for _, record in zip(part, records):
                if record.info is not None:
                    notice.add(record.info)
                shard.add(record, output_frames)
                progress.update()
            shard.finish()
    if line := notice.line():
        log(line)


class _Shard:
    """A MindRecord file in the making."""

    def __init__(self, path: Path, store: str) -> None:
        self.path = path
        self.store = store
        self.entries: list[Entry] = []
        self.problems: list[Problem] = []
        self._files = [path, path.with_name(f"{path.name}.db")]
        self._writer = None  # made for the first record: MindRecord has no empty files
        for file in self._files:
            file.unlink(missing_ok=True)

    def add(self, record: _Record, output_frames: Callable[[int], int]) -> None:
        """Writes a good record, remembers what is wrong with any other."""
        self.problems += record.problems
        if record.entry is None:
            return
        needed = record.entry.ctc_frames
        frames = int(output_frames(record.entry.frames))
        if needed > frames:
            detail = f"text needs {needed} output frames, the audio gives {frames}"
            self.problems.append(Problem(record.entry.id, "CTC-infeasible", detail))
            return
        fields = {"id": record.entry.id, "labels": np.array(record.label_ids, np.int32)}
        fields[self.store] = record.stored if self.store == "audio" else record.stored.reshape(-1)
        with self._errors():
            self._open().write_raw_data([fields])
        self.entries.append(record.entry)

    def finish(self) -> None:
        """The file is whole and on disk, and says so in another beside it."""
        files = []
        if self._writer is not None:
            files = self._files
            with self._errors():
                self._writer.commit()
        for file in files:
            file.chmod(0o644)  # MindRecord's own is 0600
            _sync(file)
        content = {
            "files": {file.name: file.stat().st_size for file in files},
            "entries": [asdict(entry) for entry in self.entries],
            "problems": [asdict(problem) for problem in self.problems],
        }
        _write_text(_finished_mark(self.path), json.dumps(content, ensure_ascii=False))

    def _open(self):
        if self._writer is None:
            from mindspore.mindrecord import FileWriter  # worker processes do without

            stored = {"type": "bytes"}
            if self.store == "features":
                stored = {"type": "float32", "shape": [-1]}
            self._writer = FileWriter(str(self.path), shard_num=1)
            self._writer.add_schema(
                {
                    "id": {"type": "string"},
                    "labels": {"type": "int32", "shape": [-1]},
                    self.store: stored,
                }
            )
        return self._writer

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except RuntimeError as error:
            reason = mindspore_reason(error)
            raise UserError(f"{self.path}: cannot be written ({reason})") from error


# ---- the directory


def _is_up_to_date(directory: Path, recipe: dict, log: Callable[[str], None]) -> bool:
    """Whether `directory` holds what `recipe` makes; the log says why not."""
    old = _beside(directory, ".old")
    if old.exists() and not directory.exists():
        old.rename(directory.resolve())  # a kill between the two renames of _publish
    if not directory.exists():
        return False
    made = _description(directory)
    if made is None:
        if any(directory.iterdir()):
            raise UserError(
                f"{directory}: not made by a conversion (no {_DESCRIPTION}), so it is not replaced;"
                " move it away or choose another directory in mindrecord_format"
            )
        return False
    reason = _difference(made, recipe) or _damage(directory, made["files"])
    if reason:
        log(f"{directory}: converting again: {reason}")
    else:
        log(f"{directory}: up to date, nothing to convert")
    return not reason


@contextmanager
def _staging(directory: Path, recipe: dict, log: Callable[[str], None]) -> Iterator[Path]:
    """`<directory>.partial`, locked, with nothing in it but what `recipe` made before."""
    partial = _beside(directory, ".partial")
    partial.mkdir(parents=True, exist_ok=True)
    handle = os.open(partial, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"{partial}: another conversion is writing here; wait for it") from None
        if any(partial.iterdir()):
            made = _read_json(partial / _RECIPE)
            reason = "it is damaged" if made is None else _difference(made, recipe)
            if reason:
                log(f"{partial}: an interrupted conversion, begun again: {reason}")
                _empty(partial)
            else:
                log(f"{partial}: continuing an interrupted conversion")
        _write_text(partial / _RECIPE, json.dumps(recipe, ensure_ascii=False))
        yield partial
    except KeyboardInterrupt:
        log(f"{partial}: interrupted; the same command continues")
        raise
    finally:
        os.close(handle)


def _describe(partial: Path, recipe: dict, names: Iterable[str]) -> None:
    """Writes what lies beside the finished files; raises UserError if there is nothing in them."""
    shards = {name: _finished(partial, name) for name in names}
    entries = [entry for shard in shards.values() for entry in shard["entries"]]
    problems = [problem for shard in shards.values() for problem in shard["problems"]]
    if not entries:
        counts = Counter(problem["category"] for problem in problems).most_common()
        found = ", ".join(f"{category}: {count}" for category, count in counts)
        first = f"{problems[0]['id']}: {problems[0]['detail']}"
        shutil.rmtree(partial)
        raise UserError(f"no utterance can be used ({found}); the first is {first}")
    lines = [json.dumps(entry, ensure_ascii=False) + "\n" for entry in entries]
    _write_text(partial / _ENTRIES, "".join(lines))
    files = {_ENTRIES: (partial / _ENTRIES).stat().st_size}
    for shard in shards.values():
        files |= shard["files"]
    description = recipe | {
        "utterances": len(entries),
        "seconds": sum(entry["duration"] for entry in entries),
        "records": {name: len(part["entries"]) for name, part in shards.items() if part["files"]},
        "files": files,  # bytes
        "left_out": problems,
    }
    _write_text(partial / _DESCRIPTION, json.dumps(description, ensure_ascii=False, indent=1))


def _publish(partial: Path, directory: Path) -> None:
    """Puts the new directory in the place of the old one; one of them is whole at any moment."""
    directory, old = directory.resolve(), _beside(directory, ".old")
    if old.exists():
        shutil.rmtree(old)
    if directory.exists():
        directory.rename(old)
    partial.rename(directory)
    _sync(directory.parent)
    for leftover in (directory / _RECIPE, *directory.glob(f"*{_SHARD_SUFFIX}")):
        leftover.unlink()
    if old.exists():
        shutil.rmtree(old)


def _finished_mark(path: Path) -> Path:
    return path.with_name(path.name + _SHARD_SUFFIX)


def _finished(partial: Path, name: str) -> dict | None:
    """What is known of a shard that is whole, else None."""
    shard = _read_json(_finished_mark(partial / name))
    return None if shard is None or _damage(partial, shard["files"]) else shard


def _report(directory: Path) -> ConversionReport:
    made = _description(directory)
    left_out = tuple(Problem(**problem) for problem in made["left_out"])
    return ConversionReport(directory, made["utterances"], made["seconds"], left_out)


def _description(directory: Path) -> dict | None:
    """The content of dataset.json, None if there is none."""
    path = directory / _DESCRIPTION
    if not path.exists():
        return None
    made = _read_json(path)
    if made is None:
        raise UserError(f"{path}: damaged, not JSON; remove {directory} and convert again")
    return made


def _read_entries(path: Path) -> list[Entry]:
    with path.open(encoding="utf-8") as lines:
        return [Entry(**json.loads(line)) for line in lines]


def _difference(made: dict, wanted: dict) -> str | None:
    """The first thing in which files made by one recipe are not what another wants."""
    for key, value in wanted.items():
        found = made.get(key)
        if found == value:
            continue
        if key == "manifest":
            return "the manifest or a recording has changed"
        if key == "output_frames":
            return "the network's output frames have changed"
        if isinstance(value, dict) and isinstance(found, dict):
            name = next(name for name in value if found.get(name) != value[name])
            key, found, value = f"{key}.{name}", found.get(name), value[name]
        if key == "labels":
            found, value = ("".join(labels) for labels in (found, value))
        return f"{key} is {found!r} in the files, {value!r} is wanted"
    return None


def _damage(directory: Path, files: dict[str, int]) -> str | None:
    """The first of the files that is missing or has not the size (bytes) that it should have."""
    for name, size in files.items():
        path = directory / name
        if not path.is_file():
            return f"{path}: missing"
        if path.stat().st_size != size:
            return f"{path}: {path.stat().st_size} bytes where {size} were written, truncated"
    return None


def _digest(utterances: Iterable[Utterance]) -> str:
    """Changes with the manifest, and with the recordings as far as sizes and times tell."""
    digest = hashlib.sha256()
    for utterance in utterances:
        try:
            status = os.stat(utterance.audio)
            state = (status.st_size, status.st_mtime_ns)
        except (OSError, ValueError):  # reading it will say so
            state = None
        line = (utterance.id, str(utterance.audio), utterance.text, state)
        digest.update(json.dumps(line).encode())
    return digest.hexdigest()


# ---- files


def _beside(directory: Path, suffix: str) -> Path:
    """`directory` with a suffix to its name, on the same disk even if it is a link."""
    directory = directory.resolve()
    return directory.with_name(directory.name + suffix)


def _empty(directory: Path) -> None:
    for path in directory.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def _read_json(path: Path) -> dict | None:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return None


def _write_text(path: Path, text: str) -> None:
    """Whole or not at all, and on disk."""
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(text, encoding="utf-8")
    _sync(temporary)
    temporary.rename(path)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
