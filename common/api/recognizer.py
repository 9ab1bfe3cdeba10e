"""Text of recordings: a trained network behind one small class."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, overload

import numpy as np
import soxr

from common.audio.blocks import AudioBlocks, open_blocks
from common.audio.ffmpeg import foreign_kind
from common.audio.io import audio_info, load_audio
from common.decoding.confidence import ConfidenceMap
from common.decoding.prefix_beam_search import Hypothesis
from common.decoding.text_alignment import TextAlignment
from common.decoding.word_alignment import Word
from common.text.tokenizer import Tokenizer
from common.utils.errors import UserError

if TYPE_CHECKING:
    from common.api.long_recordings import Passage
    from common.evaluation.scoring import Prediction
    from common.model.acoustic_model import AcousticModel
    from common.model.decoder import SpeechDecoder

# A path, an open binary file, or (samples, sample rate in Hz).
Recording = str | Path | BinaryIO | tuple[np.ndarray, int]
# The same, where an open file was read, and samples are (N, channels) float32.
_Content = str | Path | bytes | tuple[np.ndarray, int]

_BATCHES_AT_ONCE = 16  # recordings are decoded and recognised so many batches at a time


@dataclass(frozen=True)
class Transcript:
    """What was said in a recording.

    Attributes:
        text: The most probable text.
        words: With times and confidences; empty where the network's output tells no times.
        duration: Of the recording, in seconds.
        hypotheses: Texts with their scores (natural logarithms), best first; several with a beam
            search that is asked for them (LMConfig.top_paths).
    """

    text: str
    words: list[Word]
    duration: float
    hypotheses: list[Hypothesis]

    @classmethod
    def of(
        cls,
        prediction: Prediction,
        model: AcousticModel,
        calibration: ConfidenceMap | None = None,
    ) -> Transcript:
        """Make the transcript of a prediction.

        Args:
            prediction: An utterance that the model recognised.
            model: The model.
            calibration: Of the confidences; None: they are those of the network.

        Returns:
            The transcript; its words are aligned with the best text.
        """
        rate = model.featurizer.config.sample_rate
        words = prediction.words(model.tokenizer, model.frame_seconds, rate)
        if calibration is not None:
            words = [calibration.word(word) for word in words]
        return cls(prediction.text, words, prediction.duration, prediction.hypotheses)


class Recognizer:
    """A trained network that turns recordings into text; `load` of a model's package makes it.

    Args:
        model: The network, in whatever form it runs.
        decoder: What turns its output into text.
        calibration: Of the confidences of words; None: they are those of the network.

    Attributes:
        tokenizer: What the network's output classes stand for.
        sample_rate: Hz that recordings are resampled to.
        frame_seconds: From one output frame to the next.
    """

    def __init__(
        self,
        model: AcousticModel,
        decoder: SpeechDecoder,
        calibration: ConfidenceMap | None = None,
    ):
        self._model, self._decoder, self._calibration = model, decoder, calibration
        self.tokenizer: Tokenizer = model.tokenizer
        self.sample_rate: int = model.featurizer.config.sample_rate
        self.frame_seconds: float = model.frame_seconds

    @overload
    def transcribe(self, recording: Recording, batch_size: int = 16) -> Transcript: ...

    @overload
    def transcribe(self, recording: list[Recording], batch_size: int = 16) -> list[Transcript]: ...

    def transcribe(
        self, recording: Recording | list[Recording], batch_size: int = 16
    ) -> Transcript | list[Transcript]:
        """Recognise one recording, or a list of them in batches.

        A recording gives the same text alone and in any list. One of more than a minute is cut at
        silences, so that its length does not matter to memory (`passages`).

        Args:
            recording: A path, an open binary file, (samples (N,) or (N, channels), sample rate in
                Hz), or a list of these. Samples are floats up to 1, int16 or int32. Files may have
                any format that `common.audio.io.load_audio` reads; paths also of films, where
                ffmpeg is installed.
            batch_size: Recordings, or segments of a long one, that go through the network at once.

        Returns:
            A transcript, or a list of them in the order of the recordings.

        Raises:
            UserError: A recording cannot be read.
        """
        if not isinstance(recording, list):
            return self._transcribe([recording], 1)[0]
        return self._transcribe(recording, batch_size)

    def align(self, recording: Recording, text: str, normalize: str | None = None) -> TextAlignment:
        """Find when the words of a known text were said, in a recording of any length.

        Args:
            recording: As in `transcribe`.
            text: What was said.
            normalize: "english": speak numbers, abbreviations and signs as English words; "": leave
                them; None: as the network was trained.

        Returns:
            The words as they are written, with times and the network's own confidences, and where
            text and recording differ.

        Raises:
            UserError: The recording cannot be read, or the text cannot be spelled.
        """
        from common.api.alignment import Aligner

        name = _name(recording, 1)
        aligner = Aligner(self._model, self._model.decoder(), normalize)
        words = aligner.words(text, f"text of {name}", logging.getLogger("common.align").warning)
        content = _in_memory(recording, name)
        if not isinstance(content, (str, Path)):
            content = self._samples(content, name)
        return aligner.align(content, words, name)

    def transcribe_channels(self, recording: Recording, batch_size: int = 16) -> list[Transcript]:
        """Recognise each channel of a recording by itself, as of a call with a speaker on each.

        Args:
            recording: As of `transcribe`.
            batch_size: Segments that go through the network at once.

        Returns:
            A transcript for each channel.

        Raises:
            UserError: The recording cannot be read.
        """
        name = _name(recording, 1)
        with self._open(recording, name, separate=True) as audio:
            return self._transcribe_long(audio, batch_size)

    def passages(
        self, recording: Recording, batch_size: int = 16, separate: bool = False
    ) -> Iterator[Passage]:
        """Recognise a recording of any length, in memory that does not depend on it.

        Args:
            recording: As of `transcribe`.
            batch_size: Segments that go through the network at once.
            separate: Recognise each channel by itself.

        Yields:
            Passages of text between silences, as they are recognised, with times in the whole
            recording; those of a channel in their order.

        Raises:
            UserError: The recording cannot be read.
        """
        with self._open(recording, _name(recording, 1), separate) as audio:
            yield from self._passages(audio, batch_size)

    def log_probs(self, samples: np.ndarray, sample_rate: int) -> np.ndarray:
        """Run the network alone.

        Args:
            samples: (N,) or (N, channels), full scale +-1.
            sample_rate: Hz.

        Returns:
            (T', C) natural logarithms of the probabilities of the labels, one row every
            `frame_seconds`.

        Raises:
            UserError: The samples cannot be used, or the network gives no such output.
        """
        waveform = self._samples(_checked(samples, sample_rate, "samples"), "samples")
        (prediction,) = self._predictions([waveform], ["samples"], 1)
        if prediction.log_probs is None:
            raise UserError("this model is no CTC network: it gives no log-probabilities of frames")
        return np.array(prediction.log_probs)

    def _transcribe(self, recordings: Sequence[Recording], batch_size: int) -> list[Transcript]:
        if batch_size < 1:
            raise UserError(f"batch_size {batch_size}: expected at least 1")
        from common.api.long_recordings import longest_whole

        longest = longest_whole(self._model)
        transcripts = []
        portion = _BATCHES_AT_ONCE * batch_size
        for start in range(0, len(recordings), portion):
            chosen = recordings[start : start + portion]
            names = [_name(recording, start + number) for number, recording in enumerate(chosen, 1)]
            found: dict[int, Transcript] = {}
            samples: dict[int, np.ndarray] = {}
            for number, (recording, name) in enumerate(zip(chosen, names)):
                content = _in_memory(recording, name)
                if self._is_long(content, name, longest):
                    with self._open(content, name) as audio:
                        (found[number],) = self._transcribe_long(audio, batch_size)
                else:
                    samples[number] = self._samples(content, name)
            numbers = list(samples)
            used = [names[number] for number in numbers]
            for prediction in self._predictions(list(samples.values()), used, batch_size):
                transcript = Transcript.of(prediction, self._model, self._calibration)
                found[numbers[prediction.index]] = transcript
            transcripts += [found[number] for number in range(len(chosen))]
        for line in self._decoder.warnings():
            logging.getLogger("common.transcribe").warning(line)
        return transcripts

    def _predictions(
        self, samples: Sequence[np.ndarray], names: Sequence[str], batch_size: int
    ) -> Iterator[Prediction]:
        """Recognise recordings, from short to long."""
        from common.data.dataset import SampleDataset
        from common.evaluation.evaluate import recognise

        dataset = SampleDataset(samples, names, self._model.featurizer)
        return recognise(self._model, self._decoder, dataset, batch_size)

    def _is_long(self, recording: _Content, name: str, longest: float) -> bool:
        """Tell whether a recording is to be cut: of more seconds than `longest`, or a film."""
        if isinstance(recording, tuple):
            return len(recording[0]) / recording[1] > longest
        if isinstance(recording, bytes):
            return audio_info(recording, name).duration > longest
        return bool(foreign_kind(recording)) or audio_info(recording).duration > longest

    def _open(
        self, recording: Recording | bytes, name: str, separate: bool = False
    ) -> AbstractContextManager[AudioBlocks]:
        content = recording if isinstance(recording, bytes) else _in_memory(recording, name)
        return open_blocks(content, self.sample_rate, name, separate)

    def _passages(
        self,
        audio: AudioBlocks,
        batch_size: int,
        on_read: Callable[[float], None] | None = None,
    ) -> Iterator[Passage]:
        from common.api.long_recordings import passages, rules_for

        rules = rules_for(self._model, audio.name)
        return passages(
            self._model,
            self._decoder,
            audio,
            rules,
            batch_size,
            on_read=on_read,
            calibration=self._calibration,
        )

    def _transcribe_long(self, audio: AudioBlocks, batch_size: int) -> list[Transcript]:
        """Recognise each channel that `audio` has."""
        from common.api.long_recordings import whole_transcript

        seconds = [0.0]  # read so far
        parts = list(self._passages(audio, batch_size, seconds.append))
        of_channels = [
            [part for part in parts if part.channel == channel] for channel in range(audio.channels)
        ]
        return [whole_transcript(self._model, each, seconds[-1]) for each in of_channels]

    def _samples(self, recording: _Content, name: str) -> np.ndarray:
        """(N,) float32 at the network's rate."""
        if isinstance(recording, tuple):
            samples, rate = recording
            samples = samples.mean(axis=1) if samples.shape[1] > 1 else samples[:, 0]
            if rate == self.sample_rate:
                return samples
            return soxr.resample(samples, rate, self.sample_rate, "HQ")
        if isinstance(recording, bytes):
            return load_audio(recording, self.sample_rate, name)
        return load_audio(recording, self.sample_rate)


def _name(recording: Recording, number: int) -> str:
    if isinstance(recording, (str, Path)):
        return str(recording)
    return str(getattr(recording, "name", f"recording {number}"))


def _in_memory(recording: Recording, name: str) -> _Content:
    """Read an open file, and check samples."""
    if isinstance(recording, tuple):
        return _checked(*recording, name)
    if isinstance(recording, (str, Path)):
        return recording
    if not hasattr(recording, "read"):
        raise UserError(
            f"{name}: a {type(recording).__name__}, expected a path, an open binary file, "
            "(samples, sample rate), or a list of these"
        )
    content = recording.read()
    if not isinstance(content, bytes):
        raise UserError(f"{name}: the file is open for text; open it with mode 'rb'")
    return content


def _checked(samples: Any, rate: int, name: str) -> tuple[np.ndarray, int]:
    """Return samples (N, channels) float32, full scale +-1, and their rate."""
    channels = _channels(samples, name)
    if not channels.size:
        raise UserError(f"{name}: samples of shape {np.shape(samples)}, expected at least one")
    if channels.shape[1] > channels.shape[0]:
        raise UserError(
            f"{name}: samples of shape {channels.shape}, expected (N, channels): transpose them"
        )
    if not rate > 0:
        raise UserError(f"{name}: sample rate {rate}, expected Hz above 0")
    return channels, rate


def mono(samples: Any, name: str) -> np.ndarray:
    """Turn samples into one channel of full scale 1.

    Args:
        samples: (N,) or (N, channels): floats up to 1, int16 or int32.
        name: What errors call them.

    Returns:
        (N,) float32.

    Raises:
        UserError: They are of another kind, or not all finite.
    """
    channels = _channels(samples, name)
    return channels.mean(axis=1) if channels.shape[1] > 1 else channels[:, 0]


def _channels(samples: Any, name: str) -> np.ndarray:
    """Return samples (N, channels) float32, full scale +-1."""
    samples = np.asarray(samples)
    if samples.dtype in (np.int16, np.int32):
        samples = samples / float(-np.iinfo(samples.dtype).min)
    if samples.dtype.kind != "f" or samples.ndim not in (1, 2):
        raise UserError(
            f"{name}: samples of type {samples.dtype} and shape {samples.shape}, expected floats "
            "up to 1, or int16 or int32, of shape (N,) or (N, channels)"
        )
    samples = samples.astype(np.float32)
    if samples.ndim == 1:
        samples = samples[:, None]
    if bad := np.count_nonzero(~np.isfinite(samples).all(axis=1)):
        raise UserError(f"{name}: {bad} of {len(samples)} samples are nan or infinite")
    return samples
