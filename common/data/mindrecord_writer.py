"""Write recordings to MindRecord files: read in worker processes, written shard by shard.

A complete shard has a file beside it that says so, with what it holds and what was left out.
"""

from __future__ import annotations

import functools
import json
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from common.audio.features import FeatureConfig, Featurizer
from common.audio.io import AudioInfo, FormatNotice, encode_for_training
from common.data.dataset import Entry, Example, mindspore_reason
from common.data.durations import DurationNotice
from common.data.manifest import Utterance
from common.data.selection import (
    Candidate,
    LeftOut,
    SelectionRules,
    measure,
    reasons_against,
    unreadable,
)
from common.text.tokenizer import Tokenizer
from common.utils.errors import UserError
from common.utils.files import damage, read_json, sync, write_text
from common.utils.packages import MissingPackageError
from common.utils.worker_pool import worker_pool

FINISHED_SUFFIX = ".shard.json"  # of the file that says that a shard is whole

MAX_RECORD_BYTES = 31 << 20  # MindRecord wants a record in one page of 32 MiB
_LOOK_AHEAD = 4  # recordings in work or waiting to be written, for each process
_MIN_ITEMS_PER_WORKER = 500  # recordings; this one reads about as many while another starts
_COMPACT = (".flac", ".ogg", ".opus")  # mono, of the right rate, untrimmed: stored as they are


# ---- recordings to records, in the worker processes


@dataclass(frozen=True)
class Record:
    """What a worker process makes of an utterance.

    Attributes:
        candidate: What selection judges.
        info: Header of the recording or segment; None: unreadable.
        example: The arrays, whose index means nothing; None: left out.
    """

    candidate: Candidate
    info: AudioInfo | None = None
    example: Example | None = None


@dataclass(frozen=True)
class Reader:
    """Makes records; small enough to be sent along with every utterance.

    Attributes:
        features: How features are computed.
        tokenizer: Encodes the texts.
        store: "features" or "audio".
        rules: Limits, without those of the network, whose output frames may need MindSpore.
    """

    features: FeatureConfig
    tokenizer: Tokenizer
    store: str
    rules: SelectionRules

    def __call__(self, utterance: Utterance) -> Record:
        """Decode one recording and make its record."""
        try:
            return self._record(utterance)
        except MissingPackageError:
            raise  # the same for every utterance, and it says what to install
        except Exception as error:  # our own fault, or memory
            name = f"utterance {utterance.id}, {utterance.segment}"
            raise RuntimeError(f"{name}: {error!r}") from error

    def _record(self, utterance: Utterance) -> Record:
        featurizer = _featurizer(self.features)
        try:
            info = utterance.segment.info()
            recorded = utterance.segment.load(self.features.sample_rate)
        except UserError as error:
            return Record(unreadable(utterance, error))
        samples = featurizer.trim(recorded)
        candidate = measure(utterance, samples, self.tokenizer, featurizer)
        if reasons_against(candidate, self.rules):
            return Record(candidate, info)
        features, audio = None, None
        if self.store == "features":
            features = featurizer(samples)
            size = features.nbytes
        else:
            whole = utterance.offset is None and len(samples) == len(recorded)
            audio = self._encoded(utterance, info, samples, whole)
            size = len(audio)
        candidate = replace(candidate, record_bytes=size)
        if reasons_against(candidate, self.rules):
            return Record(candidate, info)
        label_ids = np.array(self.tokenizer.encode(candidate.entry.text), np.int32)
        return Record(candidate, info, Example(0, utterance.id, label_ids, features, audio))

    def _encoded(
        self, utterance: Utterance, info: AudioInfo, samples: np.ndarray, whole: bool
    ) -> bytes:
        """Return compact audio files as they are, anything else encoded anew."""
        rate = self.features.sample_rate
        as_wanted = (info.sample_rate, info.channels) == (rate, 1)
        if whole and as_wanted and utterance.audio.suffix.lower() in _COMPACT:
            return utterance.audio.read_bytes()
        return encode_for_training(samples, rate)


@functools.cache
def _featurizer(config: FeatureConfig) -> Featurizer:
    return Featurizer(config)


def _in_order(
    reader: Reader, utterances: Sequence[Utterance], workers: int
) -> Generator[Record, None, None]:
    """Yield `reader(utterance)` in order, from up to `workers` processes, a few ahead."""
    workers = min(workers, len(utterances) // _MIN_ITEMS_PER_WORKER)
    if workers <= 1:
        yield from map(reader, utterances)
        return
    pool = worker_pool(workers)
    pending: deque[Future[Record]] = deque()
    try:
        for utterance in utterances:
            pending.append(pool.submit(reader, utterance))
            if len(pending) >= _LOOK_AHEAD * workers:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
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
    rules: SelectionRules,
    workers: int,
    log: Callable[[str], None],
) -> None:
    """Write the files that are not whole yet, each from its part of the utterances.

    Args:
        partial: The folder that they are written to.
        parts: For each file the utterances that belong in it.
        reader: Makes records of utterances.
        rules: Decide what is written.
        workers: Processes that read recordings.
        log: Receives one line about recordings that are resampled or down-mixed, and one about
            those that last longer or shorter than the manifest says.
    """
    missing = {name: part for name, part in parts.items() if finished(partial, name) is None}
    todo = [utterance for part in missing.values() for utterance in part]
    total = sum(map(len, parts.values()))
    notice, durations = FormatNotice(reader.features.sample_rate), DurationNotice()
    progress = tqdm(
        total=total, initial=total - len(todo), desc="convert", unit="utt", disable=None
    )
    with progress, closing(_in_order(reader, todo, workers)) as records:
        for name, part in missing.items():
            shard = _Shard(partial / name, reader.store)
            for utterance, record in zip(part, records):
                if record.info is not None:
                    notice.add(record.info)
                    durations.add(utterance, record.info.duration)
                shard.add(record, rules)
                progress.update()
            shard.finish()
    for line in (notice.line(), durations.line()):
        if line:
            log(line)


class _Shard:
    """A MindRecord file that is being written."""

    def __init__(self, path: Path, store: str) -> None:
        self.path = path
        self.store = store
        self.entries: list[Entry] = []
        self.left_out: list[LeftOut] = []
        self._files = [path, path.with_name(f"{path.name}.db")]
        self._writer: Any = None  # opened for the first record: MindRecord has no empty files
        for file in self._files:
            file.unlink(missing_ok=True)

    def add(self, record: Record, rules: SelectionRules) -> None:
        """Write a record, or remember why it is left out."""
        if reasons := reasons_against(record.candidate, rules):
            self.left_out += reasons
            return
        example = record.example
        assert example is not None  # the reader leaves out nothing that these rules keep
        features = example.features
        fields = {
            "id": example.id,
            "labels": example.label_ids,
            self.store: example.audio if features is None else features.reshape(-1),
        }
        with self._errors():
            self._open().write_raw_data([fields])
        self.entries.append(record.candidate.entry)

    def finish(self) -> None:
        """Complete the file on disk, and write another beside it that says so."""
        files: list[Path] = []
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
            "problems": [reason.to_json() for reason in self.left_out],
        }
        write_text(_finished_mark(self.path), json.dumps(content, ensure_ascii=False))

    def _open(self) -> Any:
        if self._writer is None:
            from common.utils.backend import ms  # worker processes do without

            stored: dict[str, Any] = {"type": "bytes"}
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
    """Read what is known of a shard.

    Args:
        partial: Folder of the conversion.
        name: Name of the shard.

    Returns:
        Content of its mark; None where the shard is not complete.
    """
    shard = read_json(_finished_mark(partial / name))
    return None if shard is None or damage(partial, shard["files"]) else shard
