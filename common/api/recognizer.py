"""Text of recordings: a trained network behind one small class."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Generator, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, overload

import numpy as np
import soxr

from common.audio.features import Featurizer
from common.audio.io import load_audio
from common.data.dataset import Dataset, Entry, Example
from common.data.loader import padded_batch
from common.decoding.prefix_beam_search import Hypothesis
from common.decoding.word_alignment import Word, align_words
from common.text.tokenizer import Tokenizer
from common.utils.errors import UserError

if TYPE_CHECKING:  # they load MindSpore, or what it is not needed for
    from common.export.offline_inference import ExportedModel
    from common.model.decoder import DecodedUtterance, SpeechDecoder
    from common.model.speech_model import SpeechModel

# A path, an open binary file, or (samples, sample rate in Hz).
Recording = str | Path | BinaryIO | tuple[np.ndarray, int]

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


class Recognizer:
    """A trained network that turns recordings into text; `load` of a model's package makes it.

    Attributes:
        tokenizer: What the network's output classes stand for.
        sample_rate: Hz that recordings are resampled to.
        frame_seconds: From one output frame to the next.
    """

    def __init__(self, backend: Backend):
        self._backend = backend
        self.tokenizer: Tokenizer = backend.tokenizer
        self.sample_rate: int = backend.featurizer.config.sample_rate
        self.frame_seconds: float = backend.frame_seconds

    @overload
    def transcribe(self, recording: Recording, batch_size: int = 16) -> Transcript: ...

    @overload
    def transcribe(self, recording: list[Recording], batch_size: int = 16) -> list[Transcript]: ...

    def transcribe(
        self, recording: Recording | list[Recording], batch_size: int = 16
    ) -> Transcript | list[Transcript]:
        """Recognise one recording, or a list of them in batches.

        A recording gives the same text alone and in any list.

        Args:
            recording: A path, an open binary file, (samples (N,) or (N, channels), sample rate in
                Hz), or a list of these. Samples are floats up to 1, int16 or int32. Files may have
                any format that `common.audio.io.load_audio` reads.
            batch_size: Recordings that go through the network at once.

        Returns:
            A transcript, or a list of them in the order of the recordings.

        Raises:
            UserError: A recording cannot be read, or is too long for the machine's memory.
        """
        if not isinstance(recording, list):
            return self._transcribe([recording], 1)[0]
        return self._transcribe(recording, batch_size)

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
        features = self._backend.featurizer(self._samples((samples, sample_rate), "samples"))
        (decoded,) = self._backend.decode([features], ["samples"], 1)
        if decoded.log_probs is None:
            raise UserError("this model is no CTC network: it gives no log-probabilities of frames")
        return np.array(decoded.log_probs)

    def _transcribe(self, recordings: Sequence[Recording], batch_size: int) -> list[Transcript]:
        if batch_size < 1:
            raise UserError(f"batch_size {batch_size}: expected at least 1")
        transcripts = []
        portion = _BATCHES_AT_ONCE * batch_size
        for start in range(0, len(recordings), portion):
            names = [
                _name(recording, start + number)
                for number, recording in enumerate(recordings[start : start + portion], 1)
            ]
            samples = [
                self._samples(recording, name)
                for recording, name in zip(recordings[start : start + portion], names)
            ]
            features = [self._backend.featurizer(waveform) for waveform in samples]
            decoded = self._backend.decode(features, names, batch_size)
            transcripts += [
                self._transcript(utterance, len(waveform) / self.sample_rate)
                for utterance, waveform in zip(decoded, samples)
            ]
        for line in self._backend.warnings():
            logging.getLogger("common.transcribe").warning(line)
        return transcripts

    def _transcript(self, utterance: DecodedUtterance, duration: float) -> Transcript:
        text, words = utterance.hypotheses[0].text, []
        if utterance.log_probs is not None:
            words = align_words(text, utterance.log_probs, self.tokenizer, self.frame_seconds)
        return Transcript(text, words, duration, utterance.hypotheses)

    def _samples(self, recording: Recording, name: str) -> np.ndarray:
        """(N,) float32 at the network's rate, trimmed as its featurizer says."""
        if isinstance(recording, tuple):
            samples = _resampled(*recording, self.sample_rate, name)
        elif isinstance(recording, (str, Path)):
            samples = load_audio(recording, self.sample_rate)
        elif not hasattr(recording, "read"):
            raise UserError(
                f"{name}: a {type(recording).__name__}, expected a path, an open binary file, "
                "(samples, sample rate), or a list of these"
            )
        else:
            content = recording.read()
            if not isinstance(content, bytes):
                raise UserError(f"{name}: the file is open for text; open it with mode 'rb'")
            samples = load_audio(content, self.sample_rate, name)
        return self._backend.featurizer.trim(samples)


def _name(recording: Recording, number: int) -> str:
    if isinstance(recording, (str, Path)):
        return str(recording)
    return str(getattr(recording, "name", f"recording {number}"))


def _resampled(samples: Any, from_rate: int, to_rate: int, name: str) -> np.ndarray:
    samples = np.asarray(samples)
    if samples.dtype in (np.int16, np.int32):
        samples = samples / float(-np.iinfo(samples.dtype).min)
    if samples.dtype.kind != "f" or samples.ndim not in (1, 2) or not samples.size:
        raise UserError(
            f"{name}: samples of type {samples.dtype} and shape {samples.shape}, expected floats "
            "up to 1, or int16 or int32, of shape (N,) or (N, channels)"
        )
    if samples.ndim == 2 and samples.shape[1] > samples.shape[0]:
        raise UserError(
            f"{name}: samples of shape {samples.shape}, expected (N, channels): transpose them"
        )
    samples = samples.astype(np.float32)
    if samples.ndim == 2:
        samples = samples.mean(axis=1)
    if not from_rate > 0:
        raise UserError(f"{name}: sample rate {from_rate}, expected Hz above 0")
    if bad := np.count_nonzero(~np.isfinite(samples)):
        raise UserError(f"{name}: {bad} of {len(samples)} samples are nan or infinite")
    return samples if from_rate == to_rate else soxr.resample(samples, from_rate, to_rate, "HQ")


# ---- what stands behind it


class Backend(ABC):
    """A network in the form in which it runs."""

    tokenizer: Tokenizer
    featurizer: Featurizer
    frame_seconds: float
    _decoder: SpeechDecoder

    @abstractmethod
    def decode(
        self, features: Sequence[np.ndarray], names: Sequence[str], batch_size: int
    ) -> list[DecodedUtterance]:
        """Decode recordings.

        Args:
            features: (F, T) of each recording.
            names: Their names, for messages.
            batch_size: Recordings in a batch.

        Returns:
            One result for each recording, in their order.
        """

    def warnings(self) -> list[str]:
        """Return what the decoder says of its texts since the last call."""
        return self._decoder.warnings()


class NetworkBackend(Backend):
    """A checkpoint's network in MindSpore."""

    def __init__(self, speech_model: SpeechModel, decoder: SpeechDecoder):
        self.tokenizer, self.featurizer = speech_model.tokenizer, speech_model.featurizer
        self.frame_seconds = speech_model.frame_seconds
        self._speech_model, self._decoder = speech_model, decoder

    def decode(
        self, features: Sequence[np.ndarray], names: Sequence[str], batch_size: int
    ) -> list[DecodedUtterance]:
        """See `Backend.decode`."""
        from common.evaluation.evaluate import recognise
        from common.model.decoder import DecodedUtterance

        dataset = FeatureDataset(features, names)
        decoded: dict[int, DecodedUtterance] = {}
        for prediction in recognise(self._speech_model, self._decoder, dataset, batch_size):
            log_probs = prediction.log_probs
            decoded[prediction.index] = DecodedUtterance(
                prediction.hypotheses, None if log_probs is None else np.array(log_probs)
            )
        return [decoded[index] for index in range(len(features))]


class SamplesAsFeatures(Featurizer):
    """In the place of a featurizer, for files that compute features themselves."""

    def __call__(self, samples: np.ndarray) -> np.ndarray:
        """Return the samples as one bin, with a frame for each: (1, N)."""
        return np.asarray(samples, np.float32)[None]

    def trim(self, samples: np.ndarray) -> np.ndarray:
        """Return the samples as they are: the file trims them."""
        return samples


class ExportedBackend(Backend):
    """An exported file, run by MindSpore (MindIR) or ONNX Runtime."""

    def __init__(self, model: ExportedModel, decoder: SpeechDecoder):
        self.tokenizer, self.featurizer = model.tokenizer, model.featurizer
        if model.takes_samples:
            self.featurizer = SamplesAsFeatures(model.featurizer.config)
        self.frame_seconds = model.frame_seconds
        self._longest, self._decoder = model.max_frames, decoder

    def decode(
        self, features: Sequence[np.ndarray], names: Sequence[str], batch_size: int
    ) -> list[DecodedUtterance]:
        """See `Backend.decode`."""
        for name, each in zip(names, features):
            if each.shape[1] > self._longest:
                raise UserError(
                    f"{name}: {each.shape[1]} feature frames, and the exported file takes at most "
                    f"{self._longest}: cut the recording into pieces, or export the model with "
                    "more --frames"
                )
        decoded: dict[int, DecodedUtterance] = {}
        order = sorted(range(len(features)), key=lambda index: features[index].shape[1])
        for start in range(0, len(order), batch_size):
            batch = order[start : start + batch_size]
            padded, lengths = padded_batch([features[index] for index in batch])
            decoded.update(zip(batch, self._decoder.decode(padded, lengths)))
        return [decoded[index] for index in range(len(features))]


class FeatureDataset(Dataset):
    """Utterances whose features are in memory.

    Args:
        features: (F, T) float32 of each.
        names: What errors call them.
    """

    store = "features"

    def __init__(self, features: Sequence[np.ndarray], names: Sequence[str]) -> None:
        self._features = features
        super().__init__(
            [
                Entry(name, "", 0.0, utterance.shape[1], labels=0, ctc_frames=0)
                for name, utterance in zip(names, features)
            ]
        )

    def read(self, indices: Iterable[int]) -> Generator[Example, None, None]:
        """Yield the utterances in this order."""
        for index in indices:
            yield Example(
                int(index), self.ids[index], np.zeros(0, np.int32), features=self._features[index]
            )
