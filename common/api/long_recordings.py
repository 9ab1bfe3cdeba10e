"""Recognise recordings of any length, in memory that does not depend on it.

A recording is read in blocks and cut at silences (`common.audio.segmentation`). Where speech has no
silence to cut at, segments overlap, and their log-probabilities are joined. So come stretches of
log-probabilities between silences or words, and of each a passage of text.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from common.api.recognizer import Transcript
from common.audio.blocks import AudioBlocks
from common.audio.pauses import Loudness
from common.audio.segmentation import Place, Segment, SegmentationRules, speech_segments
from common.decoding.confidence import ConfidenceMap
from common.decoding.decoders import GreedyDecoder
from common.decoding.overlap_joining import join_place
from common.decoding.word_alignment import Word
from common.utils.errors import UserError

if TYPE_CHECKING:
    from common.evaluation.scoring import Prediction
    from common.model.acoustic_model import AcousticModel
    from common.model.decoder import SpeechDecoder

LONGEST_WHOLE = 60.0  # seconds of a recording that is recognised as one utterance
_PORTION = 60.0  # seconds of speech that are recognised at a time
_SHORTEST = 1.0  # seconds; where no segment of that length fits, nothing does
_LONGEST_STRETCH = 3  # segments, after which a stretch ends within a word, too


@dataclass(frozen=True)
class Position:
    """Where to go on with a channel.

    Attributes:
        place: Where its next segment is looked for.
        frames: Output frames of that segment which belong to what came before.
    """

    place: Place = Place()
    frames: int = 0


@dataclass(frozen=True)
class Stretch:
    """What a network says of a part of a channel.

    Attributes:
        channel: From 0.
        start: Seconds from the start of the recording to the first frame.
        end: Seconds to the end of what was recognised.
        log_probs: (T', C); None of a network that is not trained with CTC.
        position: Where to go on behind it.
        transcript: Of a network without log-probabilities.
        loudness: Of this part, in seconds from `start`; None: unknown.
    """

    channel: int
    start: float
    end: float
    log_probs: np.ndarray | None
    position: Position
    transcript: Transcript | None = None
    loudness: Loudness | None = None


@dataclass(frozen=True)
class Passage:
    """The text of a stretch.

    Attributes:
        channel: From 0.
        start: Seconds from the start of the recording.
        end: Seconds.
        text: What was said; maybe nothing.
        words: With times in the whole recording.
        position: Where to go on behind it.
        score: Natural logarithm of the decoder's score of the text.
    """

    channel: int
    start: float
    end: float
    text: str
    words: list[Word]
    position: Position
    score: float


def rules_for(
    model: AcousticModel, name: str, rules: SegmentationRules | None = None
) -> SegmentationRules:
    """Make the segments so short that the network and the memory take them.

    Args:
        model: The network.
        name: What an error calls the recording.
        rules: How to cut; None: the defaults.

    Returns:
        The rules; without an overlap for a network without CTC, whose texts cannot be joined.

    Raises:
        UserError: Not even a second fits.
    """
    from common.memory import forecast_forward

    rules = rules or SegmentationRules()
    forecast = forecast_forward(model)
    forecast.check(name, math.ceil(_SHORTEST / forecast.frame_seconds))
    most = min(forecast.most_frames, forecast.max_frames) * forecast.frame_seconds - 0.1
    longest = min(rules.longest, max(most, _SHORTEST))
    overlap = min(rules.overlap, longest / 4) if model.tokenizer.blank is not None else 0.0
    return replace(rules, longest=longest, overlap=overlap)


def longest_whole(model: AcousticModel) -> float:
    """Return the seconds of the longest recording that is recognised as one utterance."""
    from common.memory import forecast_forward

    forecast = forecast_forward(model)
    most = min(forecast.most_frames, forecast.max_frames)
    return min(LONGEST_WHOLE, most * forecast.frame_seconds)


def stretches(
    model: AcousticModel,
    decoder: SpeechDecoder,
    audio: AudioBlocks,
    rules: SegmentationRules,
    batch_size: int = 16,
    positions: Sequence[Position] = (),
    workers: int = 2,
    on_read: Callable[[float], None] | None = None,
) -> Iterator[Stretch]:
    """Run a network over a recording.

    Args:
        model: The network.
        decoder: One of its decoders.
        audio: The recording, at the network's rate.
        rules: How to cut it (`rules_for`).
        batch_size: Segments that go through the network at once, at most.
        positions: For each channel where to go on; none: at the start.
        workers: Threads that make features.
        on_read: Called with the seconds that have been read.

    Yields:
        Stretches, those of a channel in their order and without overlap.

    Raises:
        UserError: The recording turns out to be damaged.
    """
    from common.model.decoder import CTCDecoder

    grid = round(model.frame_seconds * audio.sample_rate)
    positions = positions or [Position()] * audio.channels
    joiners = [_Joiner(model, number, each.frames) for number, each in enumerate(positions)]
    if isinstance(decoder, CTCDecoder):  # the search comes when segments are joined
        decoder = CTCDecoder(decoder.forward, GreedyDecoder(model.tokenizer))
    segments = speech_segments(
        _watched(audio, on_read),
        audio.sample_rate,
        rules,
        grid,
        [position.place for position in positions],
    )
    for portion in _portions(segments, batch_size, audio.sample_rate):
        predictions = _predictions(model, decoder, portion, audio.name, batch_size, workers)
        for segment, prediction in zip(portion, predictions):
            yield from joiners[segment.channel].add(segment, prediction)
    for joiner in joiners:
        yield from joiner.finish()


def passages(
    model: AcousticModel,
    decoder: SpeechDecoder,
    audio: AudioBlocks,
    rules: SegmentationRules,
    batch_size: int = 16,
    positions: Sequence[Position] = (),
    workers: int = 2,
    on_read: Callable[[float], None] | None = None,
    calibration: ConfidenceMap | None = None,
) -> Iterator[Passage]:
    """Recognise a recording.

    Args:
        model: The network.
        decoder: What turns its output into text.
        audio: The recording, at the network's rate.
        rules: How to cut it (`rules_for`).
        batch_size: Segments that go through the network at once, at most.
        positions: For each channel where to go on; none: at the start.
        workers: Threads that make features.
        on_read: Called with the seconds that have been read.
        calibration: Of the confidences of words; None: they are those of the network.

    Yields:
        Passages as they are recognised, those of a channel in their order; also empty ones, whose
        `position` counts.

    Raises:
        UserError: The recording turns out to be damaged.
    """
    found = stretches(model, decoder, audio, rules, batch_size, positions, workers, on_read)
    for stretch in found:
        transcript = stretch.transcript or _transcript(model, decoder, stretch)
        words = [_later(word, stretch.start) for word in transcript.words]
        if calibration is not None:
            words = [calibration.word(word) for word in words]
        yield Passage(
            channel=stretch.channel,
            start=stretch.start,
            end=stretch.end,
            text=transcript.text,
            words=words,
            position=stretch.position,
            score=transcript.hypotheses[0].score,
        )


def whole_transcript(model: AcousticModel, parts: Sequence[Passage], duration: float) -> Transcript:
    """Put the passages of one channel together.

    Args:
        model: The network.
        parts: In their order.
        duration: Of the recording, in seconds.

    Returns:
        The transcript; the score of its one hypothesis is the sum of those of the passages.
    """
    from common.decoding.prefix_beam_search import Hypothesis

    text = model.tokenizer.separator.join(part.text for part in parts if part.text)
    words = [word for part in parts for word in part.words]
    return Transcript(text, words, duration, [Hypothesis(text, sum(part.score for part in parts))])


def _watched(audio: AudioBlocks, on_read: Callable[[float], None] | None) -> Iterator[np.ndarray]:
    read = 0
    for block in audio.blocks:
        yield block
        read += len(block)
        if on_read is not None:
            on_read(read / audio.sample_rate)


def _portions(
    segments: Iterable[Segment], batch_size: int, sample_rate: int
) -> Iterator[list[Segment]]:
    """Gather segments that are recognised together."""
    portion: list[Segment] = []
    seconds, error = 0.0, None
    try:
        for segment in segments:
            length = len(segment.samples) / sample_rate
            if portion and (len(portion) >= batch_size or seconds + length > _PORTION):
                yield portion
                portion, seconds = [], 0.0
            portion.append(segment)
            seconds += length
    except UserError as damage:  # what lies before it is recognised
        error = damage
    if portion:
        yield portion
    if error is not None:
        raise error


def _predictions(
    model: AcousticModel,
    decoder: SpeechDecoder,
    portion: Sequence[Segment],
    name: str,
    batch_size: int,
    workers: int,
) -> list[Prediction]:
    from common.data.dataset import SampleDataset
    from common.evaluation.evaluate import recognise

    dataset = SampleDataset(
        [segment.samples for segment in portion], [name] * len(portion), model.featurizer
    )
    found: dict[int, Prediction] = {}
    for prediction in recognise(model, decoder, dataset, batch_size, workers):
        log_probs = prediction.log_probs
        if log_probs is not None:  # a view of the batch
            prediction = replace(prediction, log_probs=np.array(log_probs))
        found[prediction.index] = prediction
    return [found[index] for index in range(len(portion))]


def _transcript(model: AcousticModel, decoder: SpeechDecoder, stretch: Stretch) -> Transcript:
    """Search for the text of log-probabilities."""
    from common.evaluation.scoring import Prediction
    from common.model.decoder import CTCDecoder

    assert isinstance(decoder, CTCDecoder) and stretch.log_probs is not None
    log_probs = stretch.log_probs
    (hypotheses,) = decoder.search.hypotheses(log_probs[:, None], np.array([len(log_probs)]))
    seconds = stretch.end - stretch.start
    prediction = Prediction(0, "", hypotheses, log_probs, 0, seconds, stretch.loudness)
    return Transcript.of(prediction, model)


def _later(word: Word, seconds: float) -> Word:
    return replace(word, start=round(word.start + seconds, 3), end=round(word.end + seconds, 3))


class _Joiner:
    """Makes stretches of the segments of one channel."""

    def __init__(self, model: AcousticModel, channel: int, skip: int):
        self._model, self._channel = model, channel
        self._rate = model.featurizer.config.sample_rate
        self._skip = skip  # frames of the next segment that belong to an earlier one
        self._parts: list[np.ndarray] = []
        self._loudness: list[tuple[float, Loudness | None]] = []  # from the recording's start
        self._first = 0  # sample at which they start
        self._end = Place()
        self._last_sample = 0

    def add(self, segment: Segment, prediction: Prediction) -> Iterator[Stretch]:
        """Take the next segment."""
        first = segment.start + prediction.start
        if prediction.log_probs is None:
            yield self._transcribed(segment, prediction)
            return
        log_probs = prediction.log_probs
        if self._parts:
            shared = self._shared(first) if segment.shared else 0
            if not shared:
                yield self._stretch(Position(self._end))
            else:
                place, between = self._place(log_probs, shared)
                self._parts[-1] = self._parts[-1][: len(self._parts[-1]) - shared + place]
                log_probs = log_probs[place:]
                if between or len(self._parts) >= _LONGEST_STRETCH:
                    first += self._samples(place)
                    self._last_sample = first
                    yield self._stretch(Position(self._end, place))
        elif self._skip:
            log_probs = log_probs[self._skip :]
            first += self._samples(self._skip)
        self._skip = 0
        if not self._parts:
            self._first = first
        self._parts.append(log_probs)
        self._loudness.append((segment.start / self._rate, prediction.loudness))
        self._end, self._last_sample = segment.following, segment.end
        if not segment.following.shared:
            yield self._stretch(Position(segment.following))

    def finish(self) -> Iterator[Stretch]:
        """Return what is left."""
        if self._parts:
            yield self._stretch(Position(self._end))

    def _shared(self, first: int) -> int:
        """Count the last frames of the parts that a segment, which starts at `first`, has too."""
        frames = sum(map(len, self._parts))
        offset = round((first - self._first) / self._samples(1))
        return max(0, min(frames - offset, len(self._parts[-1])))

    def _place(self, log_probs: np.ndarray, shared: int) -> tuple[int, bool]:
        """Find the frame of a segment from which on it is taken, and whether a word begins."""
        tokenizer = self._model.tokenizer
        space = tokenizer.labels.index(" ") if " " in tokenizer.labels else None
        ending = self._parts[-1][-shared:][: len(log_probs)]
        return join_place(ending, log_probs[:shared], tokenizer.ctc_blank, space)

    def _stretch(self, position: Position) -> Stretch:
        log_probs = np.concatenate(self._parts)
        start, end = self._first / self._rate, self._last_sample / self._rate
        known = [(at - start, each) for at, each in self._loudness if each is not None]
        loudness = Loudness.joined(known) if len(known) == len(self._parts) else None
        self._parts, self._loudness = [], []
        return Stretch(self._channel, start, end, log_probs, position, loudness=loudness)

    def _transcribed(self, segment: Segment, prediction: Prediction) -> Stretch:
        start, end = segment.start / self._rate, segment.end / self._rate
        transcript = Transcript.of(prediction, self._model)
        position = Position(segment.following)
        return Stretch(self._channel, start, end, None, position, transcript)

    def _samples(self, frames: int) -> int:
        """Count the samples from one frame to another."""
        return frames * round(self._model.frame_seconds * self._rate)
