"""Datasets: utterances by index, from MindRecord files or from recordings."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from tqdm import tqdm

from common.audio.features import Featurizer
from common.audio.io import AudioInfo, FormatNotice, load_audio
from common.audio.segments import AudioSegment
from common.data.durations import DurationNotice
from common.data.manifest import Utterance
from common.text.tokenizer import Tokenizer
from common.utils.errors import UserError

if TYPE_CHECKING:  # it imports this module
    from common.data.selection import LeftOut

T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True)
class Entry:
    """What planning an epoch and scoring need to know of an utterance, without its arrays.

    Attributes:
        id: Of the utterance.
        text: Normalised transcript.
        duration: In seconds.
        frames: Feature frames without augmentation; an upper bound where recordings are trimmed
            when they are decoded and only their headers were read.
        labels: Length of the encoded text.
        ctc_frames: Output frames that CTC needs for these labels.
        copy_of: Id of the utterance that this is a copy of, at another speed.
        speed: Factor at which the recording plays; files of earlier versions do not have it.
    """

    id: str
    text: str
    duration: float
    frames: int
    labels: int
    ctc_frames: int
    copy_of: str = ""
    speed: float = 1.0


@dataclass(frozen=True)
class Example:
    """One utterance with its arrays: features, or audio to make them of.

    Attributes:
        index: In its dataset.
        id: Of the utterance.
        label_ids: (L,) int32.
        features: (F, T) float32; None: there is audio instead.
        audio: Encoded audio, or where it is to be read, or samples (N,) at the featurizer's rate;
            None: there are features instead.
    """

    index: int
    id: str
    label_ids: np.ndarray
    features: np.ndarray | None = None
    audio: bytes | AudioSegment | np.ndarray | None = None

    def samples(self, featurizer: Featurizer) -> np.ndarray:
        """Decode the audio: (N,) float32 at the featurizer's rate, trimmed as it says."""
        return self.trimmed(featurizer)[0]

    def trimmed(self, featurizer: Featurizer) -> tuple[np.ndarray, int]:
        """Decode the audio, and trim it as a featurizer says.

        Args:
            featurizer: What the samples are for.

        Returns:
            Samples (N,) float32 at the featurizer's rate, and how many were cut off before them.
        """
        rate = featurizer.config.sample_rate
        if self.audio is None:
            raise ValueError(f"utterance {self.id} holds features, not audio")
        if isinstance(self.audio, bytes):  # trimmed when it was converted
            return load_audio(self.audio, rate, name=self.id), 0
        recorded = self.audio.load(rate) if isinstance(self.audio, AudioSegment) else self.audio
        sounding = featurizer.sounding(recorded)
        return recorded[sounding], sounding.start


class Dataset(ABC):
    """A corpus: what is known of its N utterances, as arrays, and the utterances in any order.

    Attributes:
        entries: What is known of each utterance.
        ids: Ids of the utterances.
        texts: Their texts.
        durations: (N,) seconds.
        frames: (N,) feature frames.
        label_counts: (N,) labels.
        ctc_frames: (N,) output frames that CTC needs.
        spoken: (N,) number of what was said; copies at other speeds have the number of what they
            are copies of.
    """

    store: str  # "features" or "audio": what an Example holds
    left_out: tuple[LeftOut, ...] = ()  # why utterances of the manifest are not in the dataset

    def __init__(self, entries: Sequence[Entry]) -> None:
        self.entries = tuple(entries)
        self.ids = [entry.id for entry in self.entries]
        self.texts = [entry.text for entry in self.entries]
        self.durations = np.array([entry.duration for entry in self.entries], np.float64)
        self.frames = np.array([entry.frames for entry in self.entries], np.int64)
        self.label_counts = np.array([entry.labels for entry in self.entries], np.int64)
        self.ctc_frames = np.array([entry.ctc_frames for entry in self.entries], np.int64)
        number_of: dict[str, int] = {}
        numbers = [number_of.setdefault(e.copy_of or e.id, len(number_of)) for e in self.entries]
        self.spoken = np.array(numbers, np.int64)

    def __len__(self) -> int:
        return len(self.entries)

    @abstractmethod
    def read(self, indices: Iterable[int]) -> Generator[Example, None, None]:
        """Yield utterances in the order of `indices`, which may repeat."""

    def subset(self, indices: Iterable[int]) -> Dataset:
        """Return a dataset of these utterances only, in this order, with indices from 0."""
        return _Subset(self, indices)


class _Subset(Dataset):
    def __init__(self, whole: Dataset, indices: Iterable[int]) -> None:
        self._whole = whole
        self._indices = [int(index) for index in indices]
        self.store = whole.store
        super().__init__([whole.entries[index] for index in self._indices])

    def read(self, indices: Iterable[int]) -> Generator[Example, None, None]:
        indices = [int(index) for index in indices]
        examples = self._whole.read(self._indices[index] for index in indices)
        with closing(examples):
            for index, example in zip(indices, examples):
                yield replace(example, index=index)


class SampleDataset(Dataset):
    """Recordings whose samples are in memory, without transcripts.

    Args:
        samples: (N,) float32 of each, at the featurizer's rate.
        names: What errors call them.
        featurizer: Gives the number of feature frames.
    """

    store = "audio"

    def __init__(
        self, samples: Sequence[np.ndarray], names: Sequence[str], featurizer: Featurizer
    ) -> None:
        self._samples, rate = samples, featurizer.config.sample_rate
        super().__init__(
            [
                Entry(name, "", len(each) / rate, featurizer.frames(len(each)), 0, 0)
                for name, each in zip(names, samples)
            ]
        )

    def read(self, indices: Iterable[int]) -> Generator[Example, None, None]:
        """Yield recordings in the order of `indices`."""
        for index in indices:
            nothing = np.zeros(0, np.int32)
            yield Example(int(index), self.ids[index], nothing, audio=self._samples[index])


class MindRecordDataset(Dataset):
    """Utterances in MindRecord files, as `mindrecord.open_dataset` opens them."""

    def __init__(
        self,
        entries: Sequence[Entry],
        files: Sequence[Path],
        store: str,
        left_out: Sequence[LeftOut] = (),
    ) -> None:
        """Take the entries in the order in which they lie in the files, one after the other.

        Args:
            entries: What is known of each utterance.
            files: The MindRecord files.
            store: "features" or "audio".
            left_out: Why other utterances of the manifest were not converted.
        """
        super().__init__(entries)
        self.left_out = tuple(left_out)
        self.files = tuple(files)
        self.store = store

    def read(self, indices: Iterable[int]) -> Generator[Example, None, None]:
        """Yield utterances in the order of `indices`; UserError where the files cannot be read."""
        indices = [int(index) for index in indices]
        # SubsetSampler repeats an index, but takes no more of them than there are records.
        for start in range(0, len(indices), len(self)):
            yield from self._read(indices[start : start + len(self)])

    def _read(self, indices: list[int]) -> Iterator[Example]:
        # Not at the top: worker processes of a conversion do without MindSpore.
        from common.utils.backend import ms

        where = self.files[0].parent
        try:
            dataset = ms.dataset.MindDataset(
                [str(file) for file in self.files],
                columns_list=["id", "labels", self.store],
                sampler=ms.dataset.SubsetSampler(indices),
                num_parallel_workers=1,  # reads far faster than anything after it
            )
            records = dataset.create_tuple_iterator(num_epochs=1, output_numpy=True)
            for index, (name, label_ids, stored) in zip(indices, records, strict=True):
                if name.item() != self.ids[index]:
                    raise UserError(
                        f"{where}: utterance {name.item()} lies where {self.ids[index]} should;"
                        " the files were changed, convert again"
                    )
                yield self._example(index, label_ids, stored)
        except (RuntimeError, ValueError) as error:  # ValueError: not so many, of another shape
            raise UserError(
                f"{where}: MindRecord files that cannot be read"
                f" ({mindspore_reason(error)}); convert again"
            ) from error

    def _example(self, index: int, label_ids: np.ndarray, stored: np.ndarray) -> Example:
        if self.store == "features":
            features = stored.reshape(-1, self.entries[index].frames)
            return Example(index, self.ids[index], label_ids, features=features)
        # Not stored.item(): numpy takes zero bytes at the end for padding.
        return Example(index, self.ids[index], label_ids, audio=stored.tobytes())


@dataclass(frozen=True)
class ReadFailure:
    """A recording that cannot be read, and why.

    Attributes:
        index: Of the utterance in its dataset, or in the list that the dataset was built from.
        id: Of the utterance.
        message: One line that names the recording.
    """

    index: int
    id: str
    message: str


class ManifestDataset(Dataset):
    """Utterances read from their recordings: headers when it is created, audio when needed.

    Attributes:
        positions: For each utterance of the dataset its position in the list it was made from.
        unreadable: With `skip_unreadable`, the utterances whose headers cannot be read, or that
            are too long; `index` is the position in that list.
    """

    store = "audio"

    def __init__(
        self,
        utterances: Sequence[Utterance],
        featurizer: Featurizer,
        tokenizer: Tokenizer,
        *,
        labelled: bool = True,
        log: Callable[[str], None] | None = print,
        skip_unreadable: bool = False,
        check_length: Callable[[str, int], None] | None = None,
        workers: int = 1,
    ) -> None:
        """Read the headers of all recordings.

        Args:
            utterances: The utterances of a manifest.
            featurizer: Gives the number of feature frames, and the sample rate.
            tokenizer: Encodes the transcripts.
            labelled: False takes texts as they are, or none at all, and gives no labels: to
                transcribe, or to score against texts with characters that the tokenizer lacks.
            log: Receives one line about recordings that are resampled or down-mixed, and one about
                those that last longer or shorter than the manifest says.
            skip_unreadable: List unreadable recordings in `unreadable` instead of raising.
            check_length: Given the name of a recording and its feature frames, raises UserError
                where these are too many.
            workers: Threads that read headers.

        Raises:
            UserError: A header cannot be read or a recording is too long (unless
                `skip_unreadable`), or a transcript has an unknown character.
        """
        sample_rate = featurizer.config.sample_rate

        def read_header(utterance: Utterance) -> tuple[AudioInfo, int] | UserError:
            try:
                info = utterance.segment.info()
                samples = resampled_length(info.samples, info.sample_rate, sample_rate)
                frames = featurizer.frames(samples)
                if check_length is not None:
                    check_length(f"audio file {utterance.segment}", frames)
            except UserError as error:
                return error
            return info, frames

        notice, durations = FormatNotice(sample_rate), DurationNotice()
        self.positions: list[int] = []
        self.unreadable: list[ReadFailure] = []
        self._audio: list[AudioSegment] = []
        self._label_ids: list[np.ndarray] = []
        entries = []
        headers = map_in_threads(read_header, utterances, workers, "reading")
        for position, (utterance, header) in enumerate(zip(utterances, headers)):
            if isinstance(header, UserError):
                if not skip_unreadable:
                    raise header
                self.unreadable.append(ReadFailure(position, utterance.id, str(header)))
                continue
            info, frames = header
            notice.add(info)
            durations.add(utterance, info.duration)
            text = tokenizer.normalise(utterance.text)
            label_ids = _encode(tokenizer, text, utterance.id) if labelled else []
            entries.append(
                Entry(
                    id=utterance.id,
                    text=text,
                    duration=info.duration,
                    frames=frames,
                    labels=len(label_ids),
                    ctc_frames=tokenizer.frames_needed(label_ids),
                    copy_of=utterance.copy_of,
                    speed=utterance.speed,
                )
            )
            self.positions.append(position)
            self._audio.append(utterance.segment)
            self._label_ids.append(np.array(label_ids, np.int32))
        super().__init__(entries)
        for line in (notice.line(), durations.line()):
            if log and line:
                log(line)

    def read(self, indices: Iterable[int]) -> Generator[Example, None, None]:
        """Yield utterances in the order of `indices`, and where their recordings are."""
        for index in indices:
            yield Example(
                int(index), self.ids[index], self._label_ids[index], audio=self._audio[index]
            )


def map_in_threads(
    function: Callable[[T], R], items: Sequence[T], workers: int, label: str
) -> Iterator[R]:
    """Yield `function(item)` for each item, in order, with a progress bar.

    Args:
        function: Called in one of the threads.
        items: What it is called with.
        workers: Number of threads; 1 uses the caller's.
        label: Name of the progress bar, which only a terminal shows.
    """
    bar: dict[str, Any] = {"desc": label, "unit": "utt", "disable": None, "leave": False}
    if workers <= 1:
        yield from map(function, tqdm(items, **bar))
        return
    pool = ThreadPoolExecutor(workers)
    try:
        yield from tqdm(pool.map(function, items), total=len(items), **bar)
    finally:
        pool.shutdown(cancel_futures=True)


def resampled_length(samples: int, from_rate: int, to_rate: int) -> int:
    """Compute the length that `load_audio` gives a recording at another rate.

    Args:
        samples: Length in samples at `from_rate`.
        from_rate: Rate of the recording in Hz.
        to_rate: Rate that it is resampled to, in Hz.

    Returns:
        Length in samples at `to_rate`, rounded half up.
    """
    return (2 * samples * to_rate + from_rate) // (2 * from_rate)


def mindspore_reason(error: Exception) -> str:
    """Return the one line of MindSpore's error message that says what went wrong."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("[ERROR]")] or lines or [repr(error)]
    return errors[0].removeprefix("[ERROR]").strip().rstrip(".")


def _encode(tokenizer: Tokenizer, text: str, name: str) -> list[int]:
    try:
        return tokenizer.encode(text)
    except UserError as error:
        raise UserError(f"utterance {name}: {error}") from None
