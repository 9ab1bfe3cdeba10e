"""Long recordings in transcribe.py: progress, results as they come, and going on after a kill."""

from __future__ import annotations

import functools
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from common import __version__
from common.api.long_recordings import (
    Passage,
    longest_whole,
    passages,
    rules_for,
    whole_transcript,
)
from common.api.recognizer import Transcript
from common.api.transcription_journal import Journal, origin_of_file
from common.audio.blocks import AudioBlocks, open_blocks
from common.audio.ffmpeg import foreign_kind
from common.audio.io import AudioInfo, FormatNotice, audio_info
from common.audio.segmentation import SegmentationRules
from common.decoding.confidence import ConfidenceMap
from common.utils.errors import UserError
from common.utils.files import write_text

if TYPE_CHECKING:
    from common.model.acoustic_model import AcousticModel
    from common.model.decoder import SpeechDecoder

_DRAFT_SECONDS = 2.0  # between two versions of what there is so far
_DRAFT_SHARE = 0.05  # of the time, at most, that writing them takes


@dataclass(frozen=True)
class Target:
    """Where the transcript of a recording goes.

    Attributes:
        path: The file; None: it is printed.
        content: Makes a file's content of the transcripts of the channels.
        write: Writes or prints the result.
        on_passage: Called with each passage; None: it waits for the result.
    """

    path: Path | None
    content: Callable[[Sequence[Transcript]], str]
    write: Callable[[Sequence[Transcript]], None]
    on_passage: Callable[[Passage], None] | None = None


@dataclass(frozen=True)
class LongRecordings:
    """How transcribe.py recognises recordings that are cut into segments.

    Attributes:
        model: The network.
        decoder: What turns its output into text.
        network: The file of the network.
        decoding: The configuration of the decoder.
        batch_size: Segments at once.
        workers: Threads that make features.
        separate: Recognise each channel by itself.
        calibration: Of the confidences of words; None: they are those of the network.
    """

    model: AcousticModel
    decoder: SpeechDecoder
    network: str
    decoding: Any
    batch_size: int
    workers: int
    separate: bool
    calibration: ConfidenceMap | None = None

    @functools.cached_property
    def _longest_whole(self) -> float:
        return longest_whole(self.model)

    def takes(self, recording: str) -> bool:
        """Tell whether a recording is to be cut, or has channels to be kept apart."""
        if self.separate or foreign_kind(recording):
            return True
        with suppress(UserError):  # whoever reads it as a whole will say so
            return audio_info(recording).duration > self._longest_whole
        return False

    def transcribe(self, recording: str, target: Target) -> None:
        """Recognise a recording, and write what there is so far beside its file.

        Args:
            recording: Its path.
            target: Where the transcript goes.

        Raises:
            UserError: The recording cannot be read, or a file cannot be written. What was
                recognised before stays, and the same command goes on from there.
        """
        rate = self.model.featurizer.config.sample_rate
        rules = rules_for(self.model, f"audio file {recording}")
        with open_blocks(recording, rate, separate=self.separate) as audio:
            journal = Journal(_journal(target.path), self._origin(recording, rules))
            draft = _Draft(target)
            try:
                seconds = self._recognise(audio, rules, journal, draft)
            except (UserError, KeyboardInterrupt):
                self._keep(recording, journal, draft, audio.channels)
                raise
            transcripts = self._transcripts(journal, audio.channels, seconds)
            for channel, transcript in enumerate(transcripts, 1):
                if not transcript.text:
                    which = f" in channel {channel}" if len(transcripts) > 1 else ""
                    print(f"warning: {recording}: no speech found{which}", file=sys.stderr)
            target.write(transcripts)
            draft.remove()
            journal.close(remove=True)

    def _recognise(
        self, audio: AudioBlocks, rules: SegmentationRules, journal: Journal, draft: _Draft
    ) -> float:
        """Recognise what the journal does not hold yet; return the seconds of the recording."""
        notice = FormatNotice(audio.sample_rate)
        notice.add(AudioInfo(audio.recorded_rate, audio.recorded_channels // audio.channels, 0))
        if line := notice.line():
            print(line, file=sys.stderr)
        positions = journal.positions(audio.channels)
        begin = min(position.place.sample for position in positions) / audio.sample_rate
        if begin:
            print(f"{audio.name}: going on at {_clock(begin)}", file=sys.stderr)
        for passage in journal.passages:
            draft.note(passage)
        with _Progress(audio, begin) as progress:
            for passage in passages(
                self.model,
                self.decoder,
                audio,
                rules,
                self.batch_size,
                positions,
                self.workers,
                progress.read,
                self.calibration,
            ):
                journal.add(passage)
                draft.note(passage)
                if draft.is_due():
                    draft.write(self._transcripts(journal, audio.channels, passage.end))
        return progress.seconds

    def _keep(self, recording: str, journal: Journal, draft: _Draft, channels: int) -> None:
        """Write what there is before an error, or Ctrl-C, ends the work."""
        journal.close(remove=False)
        if journal.passages and draft.path is not None:
            end = max(passage.end for passage in journal.passages)
            draft.write(self._transcripts(journal, channels, end))
            print(
                f"{recording}: up to {_clock(end)} it is in {draft.path}; the same command goes on"
                " from there",
                file=sys.stderr,
            )

    def _transcripts(self, journal: Journal, channels: int, duration: float) -> list[Transcript]:
        return [
            whole_transcript(self.model, journal.of_channel(channel), duration)
            for channel in range(channels)
        ]

    def _origin(self, recording: str, rules: SegmentationRules) -> dict[str, Any]:
        """Return all that the passages of a recording depend on."""
        named = [getattr(self.decoding, key) for key in ("lm_path", "hot_words", "lexicon")]
        return {
            "recording": origin_of_file(recording),
            "network": origin_of_file(self.network),
            "decoding": asdict(self.decoding),
            "files": [origin_of_file(file) for file in named if file],
            "rules": asdict(rules),
            "separate": self.separate,
            "calibration": repr(self.calibration),
            "project": __version__,
        }


class _Draft:
    """The transcript so far, in a file that is whole at every moment."""

    def __init__(self, target: Target):
        self._target = target
        self.path = None
        if target.path is not None:
            self.path = target.path.with_name(f"{target.path.stem}.partial{target.path.suffix}")
        self._due = time.monotonic() + _DRAFT_SECONDS

    def note(self, passage: Passage) -> None:
        """Print a passage, where they are printed as they come."""
        if self._target.on_passage is not None:
            self._target.on_passage(passage)

    def is_due(self) -> bool:
        """Tell whether the file is old enough to be written anew."""
        return self.path is not None and time.monotonic() >= self._due

    def write(self, transcripts: Sequence[Transcript]) -> None:
        """Replace the file."""
        assert self.path is not None
        started = time.monotonic()
        write_text(self.path, self._target.content(transcripts), durable=False)
        written = time.monotonic()
        self._due = written + max(_DRAFT_SECONDS, (written - started) / _DRAFT_SHARE)

    def remove(self) -> None:
        """Remove the file."""
        if self.path is not None:
            self.path.unlink(missing_ok=True)


class _Progress:
    """A bar with the time left, where standard error is a terminal.

    Args:
        audio: The recording.
        begin: Seconds of it that are done already.

    Attributes:
        seconds: Seconds that have been read.
    """

    def __init__(self, audio: AudioBlocks, begin: float):
        self.seconds = 0.0
        form = "{desc} {n:.0f} s [{elapsed}, {rate_noinv:.0f} x real time]"
        if audio.duration is not None:
            form = "{desc} {percentage:3.0f}%|{bar}| {elapsed}, {remaining} left"
        self._bar = tqdm(
            total=audio.duration,
            desc=Path(audio.name).name,
            initial=begin,
            bar_format=form,
            disable=None,
            leave=False,
        )

    def __enter__(self) -> _Progress:
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    def read(self, seconds: float) -> None:
        """Take the seconds that have been read so far."""
        self.seconds = seconds
        self._bar.update(max(0.0, seconds - self._bar.n))


def _journal(path: Path | None) -> Path | None:
    return None if path is None else path.with_name(f"{path.name}.progress")


def _clock(seconds: float) -> str:
    minutes, whole = divmod(int(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{whole:02}"
