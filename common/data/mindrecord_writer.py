"""Recordings to MindRecord files: read in worker processes, written shard by shard.

A shard that is whole has a file beside it that says so, and what it holds and left out.
"""

from __future__ import annotations

import functools
import json
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from common.audio.features import FeatureConfig, Featurizer
from common.audio.io import AudioInfo, FormatNotice, audio_info, encode_flac, load_audio
from common.data.dataset import Entry, mindspore_reason
from common.data.manifest import Utterance
from common.data.validation import Problem, ctc_problem, find_problems
from common.text.tokenizer import Vocabulary, ctc_frames_needed
from common.utils.errors import UserError
from common.utils.files import damage, read_json, sync, write_text
from common.utils.worker_pool import worker_pool

FINISHED_SUFFIX = ".shard.json"  # of the file that says that a shard is whole

_LARGEST = 31 << 20  # bytes of a record; MindRecord wants it in one page of 32 MiB
_LOOK_AHEAD = 4  # recordings in work or waiting to be written, for each process
_WORTH_A_PROCESS = 500  # recordings; this one reads about as many while another starts
_COMPACT = (".flac", ".ogg", ".opus")  # mono, of the right rate, untrimmed: stored as they are


# ---- recordings to records, in the worker processes


@dataclass(frozen=True)
class Record:
    """What a worker process makes of an utterance."""

    problems: list[Problem]
    info: AudioInfo | None = None  # None: unreadable
    entry: Entry | None = None  # None: there are problems
    label_ids: list[int] | None = None
    stored: np.ndarray | bytes | None = None


@dataclass(frozen=True)
class Reader:
    """Makes records; small enough to be sent along with every utterance."""

    features: FeatureConfig
    vocabulary: Vocabulary
    store: str
    min_duration: float
    max_duration: float

    def __call__(self, utterance: Utterance) -> Record:
        try:
            return self._record(utterance)
        except Exception as error:  # our own fault, or memory
            name = f"utterance {utterance.id}, {utterance.audio}"
            raise RuntimeError(f"{name}: {error!r}") from error

    def _record(self, utterance: Utterance) -> Record:
        featurizer = _featurizer(self.features)
        rate = self.features.sample_rate
        try:
            info = audio_info(utterance.audio)
            recorded = load_audio(utterance.audio, rate)
        except UserError as error:
            return Record([Problem(utterance.id, "unreadable", str(error))])
        samples = featurizer.trim(recorded)
        limits = (self.min_duration, self.max_duration)
        problems = find_problems(utterance, samples, self.vocabulary, featurizer, None, *limits)
        if problems:
            return Record(problems, info)
        text = self.vocabulary.normalise(utterance.text)
        label_ids = self.vocabulary.encode(text)
        entry = Entry(
            id=utterance.id,
            text=text,
            duration=len(samples) / rate,
            frames=featurizer.frames(len(samples)),
            labels=len(label_ids),
            ctc_frames=ctc_frames_needed(label_ids),
            copy_of=utterance.copy_of,
        )
        whole = len(samples) == len(recorded)
        stored = self._stored(utterance, info, samples, whole)
        size = memoryview(stored).nbytes
        if size > _LARGEST:
            detail = f"{size >> 20} MiB of {self.store}, a MindRecord record holds {_LARGEST >> 20}"
            return Record([Problem(utterance.id, "too long", detail)], info)
        return Record([], info, entry, label_ids, stored)

    def _stored(
        self, utterance: Utterance, info: AudioInfo, samples: np.ndarray, whole: bool
    ) -> np.ndarray | bytes:
        if self.store == "features":
            return _featurizer(self.features)(samples)
        rate = self.features.sample_rate
        as_wanted = (info.sample_rate, info.channels) == (rate, 1)
        if whole and as_wanted and utterance.audio.suffix.lower() in _COMPACT:
            return utterance.audio.read_bytes()
        return encode_flac(samples, rate)


@functools.cache
def _featurizer(config: FeatureConfig) -> Featurizer:
    return Featurizer(config)


def _in_order(reader: Reader, utterances: Sequence[Utterance], workers: int) -> Iterator[Record]:
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


def write_shards(
    partial: Path,
    parts: dict[str, list[Utterance]],
    reader: Reader,
    output_frames: Callable[[int], int],
    workers: int,
    log: Callable[[str], None],
) -> None:
    """Writes the files that are not whole yet, each from its part of the utterances."""
    left = {name: part for name, part in parts.items() if finished(partial, name) is None}
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

    def add(self, record: Record, output_frames: Callable[[int], int]) -> None:
        """Writes a good record, remembers what is wrong with any other."""
        self.problems += record.problems
        if record.entry is None:
            return
        frames = int(output_frames(record.entry.frames))
        if infeasible := ctc_problem(record.entry.id, record.entry.ctc_frames, frames):
            self.problems += infeasible
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
            sync(file)
        content = {
            "files": {file.name: file.stat().st_size for file in files},
            "entries": [asdict(entry) for entry in self.entries],
            "problems": [asdict(problem) for problem in self.problems],
        }
        write_text(_finished_mark(self.path), json.dumps(content, ensure_ascii=False))

    def _open(self):
        if self._writer is None:
            from common.utils.backend import ms  # worker processes do without

            stored = {"type": "bytes"}
            if self.store == "features":
                stored = {"type": "float32", "shape": [-1]}
            self._writer = ms.mindrecord.FileWriter(str(self.path), shard_num=1)
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


def _finished_mark(path: Path) -> Path:
    return path.with_name(path.name + FINISHED_SUFFIX)


def finished(partial: Path, name: str) -> dict | None:
    """What is known of a shard that is whole, else None."""
    shard = read_json(_finished_mark(partial / name))
    return None if shard is None or damage(partial, shard["files"]) else shard
