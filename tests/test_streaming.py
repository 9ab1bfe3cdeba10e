"""Recordings that come piece by piece: the same as whole, and what is refused."""

from __future__ import annotations

import io
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnxruntime
import pytest
import soundfile
import soxr
from streaming_networks import (
    LABELS,
    dense_jasper,
    jasper_of,
    one_direction,
    quartznet,
    random_weights,
    write_stream,
    write_whole,
)

import jasper
from common import cli
from common.api.streaming import StreamingRecognizer
from common.audio import features as features_module
from common.audio.features import FeatureConfig, Featurizer
from common.audio.io import load_audio
from common.audio.normalisation import Deviation, SlidingNormalisation
from common.audio.raw_stream import RawStream
from common.audio.streaming_features import StreamingFeaturizer, normalisation_of
from common.config import LMConfig
from common.decoding.decoders import GreedyDecoder, make_search
from common.decoding.incremental import IncrementalGreedy, incremental_search
from common.export.streaming_session import NetworkStream, StreamingModel
from common.export.streaming_windows import WindowedModel
from common.utils.errors import UserError
from jasper.src.config import Block
from jasper.src.recipe import RECIPE as JASPER

RNG_SEED = 0


def joined(parts: list[np.ndarray], axis: int = 0) -> np.ndarray:
    return np.concatenate([part for part in parts if part.size], axis)


def pieces(values: np.ndarray, size: int) -> list[np.ndarray]:
    return [values[start : start + size] for start in range(0, len(values), size)]


# ---- networks

NETWORKS = {
    "one direction": one_direction,
    "its batch norm": lambda: one_direction(
        norm="batch", activation="hardtanh", lookahead_context=1, hidden_layers=1
    ),
    "its strides": lambda: one_direction(
        conv_kernels=[[3, 1], [3, 5]], conv_strides=[[4, 2], [2, 3]], norm="none"
    ),
    "jasper": dense_jasper,
    "quartznet": quartznet,
    "residual features": lambda: jasper_of(Block(8, 2, 7, residual=True), Block(7, 1, 3, 2)),
}


def whole_log_probs(path, features: np.ndarray) -> np.ndarray:
    """What the file that takes whole recordings gives for features (F, T)."""
    session = onnxruntime.InferenceSession(str(path))
    given = {"features": features[None], "lengths": np.array([features.shape[1]], np.int32)}
    log_probs, lengths = session.run(None, given)
    return log_probs[: lengths[0], 0]


@pytest.mark.parametrize("kind", NETWORKS)
def test_a_network_gives_the_same_piece_by_piece_as_whole(kind, tmp_path):
    recipe, config = NETWORKS[kind]()
    rng = np.random.default_rng(RNG_SEED)
    weights = random_weights(recipe, config, rng)
    write_whole(recipe, config, weights, tmp_path / "whole.onnx")
    write_stream(recipe, config, weights, tmp_path / "stream.onnx")
    model = StreamingModel.load(recipe, tmp_path / "stream.onnx")

    features = rng.standard_normal((model.featurizer.dimension, 61)).astype(np.float32)
    for frames in (1, 2, 7, 61):
        expected = whole_log_probs(tmp_path / "whole.onnx", features[:, :frames])
        for chunk in (1, 3, 40):
            count = chunk * model.shape.stride
            stream = NetworkStream(model.session, model.shape, model.output_frames, count)
            came = np.array_split(features[:, :frames], 3, axis=1)
            found = joined([*(stream.accept(part) for part in came), stream.finish()])
            np.testing.assert_allclose(found, expected, atol=1e-4, err_msg=f"{frames} {chunk}")
    assert expected.std(axis=0).max() > 0.5  # not the same in every frame


def test_an_output_frame_comes_as_soon_as_its_last_input(tmp_path):
    """The delay is what the kernels see ahead, and no more."""
    recipe, config = jasper_of(Block(8, 1, 5, stride=2), Block(7, 2, 7))
    weights = random_weights(recipe, config, np.random.default_rng(RNG_SEED))
    write_stream(recipe, config, weights, tmp_path / "stream.onnx")
    model = StreamingModel.load(recipe, tmp_path / "stream.onnx")
    ahead = 2 + 2 * (3 + 3)  # feature frames after the one in the middle
    assert model.shape.stride == 2
    assert model.shape.delay == -(-(ahead - 1) // 2)
    hop = model.featurizer.config.hop_length / model.sample_rate
    assert model.latency(0.1)["context"] == pytest.approx(model.shape.delay * 2 * hop)


def test_a_bidirectional_network_is_refused(tmp_path):
    recipe, config = one_direction(bidirectional=True)
    weights = random_weights(recipe, config, np.random.default_rng(RNG_SEED))
    with pytest.raises(UserError, match="bidirectional"):
        write_stream(recipe, config, weights, tmp_path / "stream.onnx")


# ---- features

FEATURES = {
    "spectrogram": {},
    "mirrored spectrogram": {"convention": "deepspeech.pytorch-2.0"},
    "log-mel": {"kind": "logmel", "bands": 40, "window_size": 0.03, "window_stride": 0.015},
    "jasper": {"kind": "logmel", "convention": "jasper-nvidia", "preemphasis": 0.97},
    "the zoo's jasper": {"kind": "logmel", "convention": "jasper-mindspore", "frame_splicing": 3},
}


@pytest.mark.parametrize("kind", FEATURES)
@pytest.mark.parametrize("count", [1, 100, 400, 8000, 16001])
def test_features_are_those_of_the_whole_recording(kind, count):
    featurizer = Featurizer(FeatureConfig(**FEATURES[kind]))
    samples = np.random.default_rng(count).normal(0, 0.1, count).astype(np.float32)
    expected = featurizer(samples)
    normalisation = normalisation_of(featurizer, samples)
    for size in (count, 333):
        features = StreamingFeaturizer(featurizer, normalisation)
        parts = [features.accept(part) for part in pieces(samples, size)]
        found = joined([*parts, features.finish()], axis=1)
        # A deviation of next to nothing shows rounding errors of single precision.
        np.testing.assert_allclose(found, expected, atol=2e-4 if count > 1 else 2e-3)


@pytest.mark.parametrize("kind", FEATURES)
@pytest.mark.parametrize("count", [100, 16000, 40000])
def test_features_trained_with_sliding_normalisation_are_exact(kind, count, monkeypatch):
    monkeypatch.setattr(features_module, "SLIDING_SECONDS", 0.8)
    monkeypatch.setattr(features_module, "FIRST_SECONDS", 0.4)
    featurizer = Featurizer(FeatureConfig(**FEATURES[kind], normalisation="sliding"))
    samples = np.random.default_rng(count).normal(0, 0.1, count).astype(np.float32)
    features = StreamingFeaturizer(featurizer)
    parts = [features.accept(part) for part in pieces(samples, 777)]
    found = joined([*parts, features.finish()], axis=1)
    np.testing.assert_allclose(found, featurizer(samples), atol=2e-4)
    with pytest.raises(UserError, match="normalisation=sliding"):
        normalisation_of(featurizer, samples)


@pytest.mark.parametrize("over_bins", [False, True])
@pytest.mark.parametrize("biased", [False, True])
def test_sliding_normalisation_against_its_definition(over_bins, biased):
    kind = Deviation(over_bins, biased, least=1e-5, added=False)
    energies = np.random.default_rng(3).normal(20, 2, (4, 30)) + np.arange(30)
    window, first = 8, 5
    expected = np.zeros(energies.shape)
    for frame in range(30):
        end = max(frame + 1, first)
        seen = energies[:, max(0, end - window) : end]
        axis = None if over_bins else 1
        deviation = seen.std(axis=axis, ddof=0 if biased else 1, keepdims=True)
        centred = energies[:, [frame]] - seen.mean(axis=axis, keepdims=True)
        expected[:, [frame]] = centred / deviation
    for size in (1, 4, 30):
        sliding = SlidingNormalisation(kind, window, first)
        parts = [sliding.accept(part.T) for part in pieces(energies.T, size)]
        np.testing.assert_allclose(joined([*parts, sliding.finish()], axis=1), expected, atol=1e-5)


def test_a_recording_shorter_than_the_first_frames_is_normalised_as_a_whole():
    kind = Deviation(over_bins=False, biased=True, least=1e-5, added=False)
    energies = np.random.default_rng(4).normal(20, 2, (4, 6))
    sliding = SlidingNormalisation(kind, 100, 10)
    assert sliding.accept(energies).shape == (4, 0)
    expected = (energies - energies.mean(1, keepdims=True)) / energies.std(1, keepdims=True)
    np.testing.assert_allclose(sliding.finish(), expected, atol=1e-5)


# ---- from samples to log-probabilities


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A small Jasper: the file for a stream, and the one for whole recordings."""
    folder = tmp_path_factory.mktemp("exported")
    recipe, config = dense_jasper()
    config.DataConfig.SpectConfig.trim_silence = False
    weights = random_weights(recipe, config, np.random.default_rng(RNG_SEED))
    write_stream(recipe, config, weights, folder / "stream.onnx")
    write_whole(recipe, config, weights, folder / "whole.onnx")
    return folder


def test_log_probabilities_of_samples_are_those_of_the_whole_recording(exported):
    model = StreamingModel.load(JASPER, exported / "stream.onnx")
    samples = np.random.default_rng(5).normal(0, 0.1, 20000).astype(np.float32)
    expected = whole_log_probs(exported / "whole.onnx", model.featurizer(samples))
    stream = model.stream(model.normalisation_of(samples), chunk_seconds=0.1)
    came = [stream.accept(part) for part in pieces(samples, 1234)]
    assert 0 < len(joined(came)) < len(expected)  # they come in time
    ahead = stream.ahead()
    rest = stream.finish()
    np.testing.assert_allclose(joined([*came, rest]), expected, atol=1e-4)
    np.testing.assert_array_equal(ahead, rest)


def test_what_is_given_to_stream_is_refused_where_it_takes_whole_recordings(exported, tmp_path):
    with pytest.raises(UserError, match="takes an ONNX file; export the checkpoint with"):
        StreamingModel.load(JASPER, tmp_path / "best.ckpt")
    with pytest.raises(UserError, match="takes whole recordings"):
        StreamingModel.load(JASPER, JASPER.pretrained.with_suffix(".onnx"))
    with pytest.raises(UserError, match="piece by piece"):
        from common.api.loading import load_model

        load_model(JASPER, exported / "stream.onnx").decoder()


def test_the_package_loads_what_streams(exported):
    recognizer = jasper.load_streaming(exported / "stream.onnx", pause=0.5)
    samples = np.random.default_rng(11).normal(0, 0.1, 20000).astype(np.float32)
    segments = recognizer.accept(samples) + recognizer.finish()
    assert " ".join(segment.text for segment in segments) == recognizer.text
    assert jasper.load_streaming(context=1.0).sample_rate == 16000
    with pytest.raises(UserError, match="no network for streams ships"):
        jasper.load_streaming()


# ---- windows


@dataclass
class Local:
    """A network of whole recordings that looks `reach` frames to either side; a frame is 10 ms."""

    reach: int
    tokenizer = LABELS
    frame_seconds = 0.01
    takes_samples = False
    featurizer = SimpleNamespace(config=SimpleNamespace(sample_rate=1000, trim_silence=True))

    def front_end(self, samples: np.ndarray) -> np.ndarray:
        return samples[None, ::10]

    def forward(self):
        kernel = np.arange(1, 2 * self.reach + 2)

        def run(features: np.ndarray, lengths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            padded = np.pad(features[0, 0], self.reach)
            outputs = np.convolve(padded, kernel, "valid")
            return np.repeat(outputs[:, None, None], len(LABELS), axis=2), lengths

        return run


@pytest.mark.parametrize("chunk", [0.01, 0.07, 3.0])
def test_windows_give_what_the_whole_gives_where_the_network_sees_no_farther(chunk):
    samples = np.random.default_rng(10).normal(0, 1, 1234).astype(np.float32)
    local = Local(reach=5)
    whole = local.forward()(local.front_end(samples)[None], np.array([124]))[0][:, 0]
    stream = WindowedModel(local, context_seconds=0.05).stream(None, chunk)
    parts = [stream.accept(part) for part in pieces(samples, 100)]
    np.testing.assert_allclose(joined([*parts, stream.finish()]), whole, atol=1e-4)

    narrow = WindowedModel(local, context_seconds=0.01).stream(None, chunk)
    parts = [narrow.accept(part) for part in pieces(samples, 100)]
    found = joined([*parts, narrow.finish()])
    assert found.shape == whole.shape
    assert (chunk == 3.0) == np.allclose(found, whole, atol=1e-4)


def test_windows_of_the_shipped_network_hear_what_it_hears(monkeypatch, capsys):
    digits = Path(__file__).parents[1] / "data" / "telephone_prompts" / "audio" / "digits"
    samples = np.concatenate([load_audio(digits / f"{name}.opus", 16000) for name in (9, 3)])
    content = (samples * 32767).astype(np.int16).tobytes()
    assert run_stream(monkeypatch, content, "--context", "0.5", "--chunk", "0.4") == 0
    lines = capsys.readouterr().out.splitlines()
    finals = [line.split("\t")[1] for line in lines if line.startswith("final")]
    assert " ".join(finals) == "nine three"


def test_windows_that_cannot_be_laid_are_refused():
    with pytest.raises(UserError, match="--context -1: expected seconds, 0 or more"):
        WindowedModel(Local(1), -1)
    trims = Local(1)
    trims.takes_samples = True
    with pytest.raises(UserError, match="cuts off silence by itself"):
        WindowedModel(trims, 1)


# ---- text


def random_log_probs(frames: int, seed: int = 6) -> np.ndarray:
    """Peaked ones, with blanks and repeated labels."""
    rng = np.random.default_rng(seed)
    path = rng.choice([1, 2, 3, LABELS.labels.index(" "), LABELS.blank, LABELS.blank], frames)
    scores = rng.normal(0, 1, (frames, len(LABELS)))
    scores[np.arange(frames), path] += 3
    return scores - np.log(np.exp(scores).sum(axis=1, keepdims=True))


@pytest.mark.parametrize("size", [1, 7, 40])
def test_incremental_texts_are_those_of_the_whole(size):
    log_probs = random_log_probs(40)
    greedy = IncrementalGreedy(LABELS)
    settings = LMConfig(decoder_type="beam", beam_width=8, top_paths=3)
    beam = incremental_search(settings, LABELS)()
    for part in pieces(log_probs, size):
        other = beam.copy()
        other.accept(log_probs)  # leaves the search as it was
        beam.accept(part)
        greedy.accept(part)
    (expected,) = GreedyDecoder(LABELS).hypotheses(log_probs[:, None], np.array([40]))
    assert greedy.hypotheses()[0].text == expected[0].text
    assert greedy.hypotheses()[0].score == pytest.approx(expected[0].score)
    assert beam.hypotheses() == make_search(settings, LABELS)(log_probs)


@dataclass
class Spelled:
    """A model that hears the label k in a sample of k / 100; an output frame is 10 samples."""

    tokenizer = LABELS
    sample_rate = 1000
    frame_seconds = 0.01

    def stream(self, *_):
        return self

    def accept(self, samples: np.ndarray) -> np.ndarray:
        ids = np.round(samples * 100).astype(int)
        return np.log(np.eye(len(LABELS))[ids] * 0.9 + 1e-3)

    def finish(self) -> np.ndarray:
        return self.accept(np.zeros(0))

    def ahead(self) -> np.ndarray:
        return self.accept(np.array([LABELS.labels.index("Z") / 100]))


def spelled(text: str) -> np.ndarray:
    return np.array([LABELS.labels.index(letter) / 100 for letter in text], np.float32)


def test_texts_are_final_after_a_pause():
    recognizer = StreamingRecognizer(Spelled(), pause=0.05)
    assert recognizer.accept(spelled("_HE_L_LO")) == []
    assert recognizer.result() == "HELLO"
    assert recognizer.result(ahead=True) == "HELLOZ"
    assert recognizer.result() == "HELLO"  # which was a look ahead only
    (segment,) = recognizer.accept(spelled("_ ___ WO"))
    assert (segment.text, segment.start, segment.end) == ("HELLO", 0.01, 0.08)
    assert [word.word for word in segment.words] == ["HELLO"]
    assert recognizer.result() == "WO"
    assert recognizer.accept(spelled("O R_LD")) == []
    assert recognizer.text == "HELLO WO RLD"
    (segment,) = recognizer.finish()
    assert (segment.text, segment.start) == ("WO RLD", pytest.approx(0.135, abs=0.006))
    assert recognizer.text == "HELLO WO RLD"

    recognizer.accept(spelled("A"))  # of the next recording
    assert (recognizer.text, recognizer.finish()[0].start) == ("A", 0.0)


def test_a_long_silence_takes_no_memory_and_no_time_from_what_follows():
    recognizer = StreamingRecognizer(Spelled(), pause=0.05)
    for _ in range(50):
        assert recognizer.accept(spelled("_ " * 5)) == []
    assert recognizer._segment.frames == 0
    recognizer.accept(spelled("A"))
    assert recognizer.finish()[0].start == 5.0


def test_samples_of_another_rate_are_resampled_as_a_whole(exported):
    samples = np.random.default_rng(7).normal(0, 0.1, 12000).astype(np.float32)
    heard: list[np.ndarray] = []

    class Hears(Spelled):
        sample_rate = 16000

        def accept(self, samples):
            heard.append(samples)
            return super().accept(samples[:0])

    recognizer = StreamingRecognizer(Hears())
    for part in pieces(samples, 1000):
        recognizer.accept(part, 8000)
    recognizer.finish()
    expected = soxr.resample(samples, 8000, 16000, "HQ")
    np.testing.assert_allclose(joined(heard), expected, atol=1e-5)
    with pytest.raises(UserError, match="at 8000 Hz after others at 44100 Hz"):
        recognizer.accept(samples, 44100)
        recognizer.accept(samples, 8000)


def test_samples_that_are_none_are_refused():
    recognizer = StreamingRecognizer(Spelled())
    with pytest.raises(UserError, match="nan or infinite"):
        recognizer.accept(np.array([0, np.nan]))
    with pytest.raises(UserError, match="expected floats"):
        recognizer.accept(np.zeros(3, np.uint8))
    with pytest.raises(UserError, match="pause 0: expected seconds above 0"):
        StreamingRecognizer(Spelled(), pause=0)


# ---- standard input


class Pipe(io.BytesIO):
    """Gives a few bytes at a time."""

    most = 7

    def read1(self, size: int = -1) -> bytes:
        return self.read(min(size, self.most))


def wav(samples: np.ndarray, rate: int = 8000, **more) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, samples, rate, format="WAV", **more)
    return file.getvalue()


SOUND = np.random.default_rng(8).integers(-32768, 32767, (50, 2)).astype(np.int16)
TO_A_PIPE = b"\xff\xff\xff\xff"  # the size that ffmpeg writes


def read(content: bytes, rate: int = 0, channels: int = 0) -> tuple[int, np.ndarray]:
    stream = RawStream(Pipe(content), rate, channels, "standard input")
    return stream.rate, np.concatenate([np.zeros(0), *stream])


def test_raw_samples_and_wav_files_come_as_they_are():
    both = SOUND.mean(axis=1) / 32768
    assert read(b"") == (16000, pytest.approx([]))
    for content, rate, channels, expected in (
        (SOUND.tobytes(), 44100, 2, (44100, both)),
        (SOUND[:, 0].tobytes(), 0, 0, (16000, SOUND[:, 0] / 32768)),
        (wav(SOUND), 0, 0, (8000, both)),
        (wav(SOUND), 8000, 2, (8000, both)),
        (wav(SOUND) + b"LIST\4\0\0\0tags", 0, 0, (8000, both)),  # behind the sound
        (wav(SOUND, subtype="PCM_16", endian="LITTLE"), 0, 0, (8000, both)),
    ):
        found = read(content, rate, channels)
        assert found[0] == expected[0]
        np.testing.assert_allclose(found[1], expected[1], atol=1e-7)
    piped = wav(SOUND).replace(b"data" + (200).to_bytes(4, "little"), b"data" + TO_A_PIPE)
    assert TO_A_PIPE in piped
    np.testing.assert_allclose(read(piped)[1], both, atol=1e-7)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"fLaC" + bytes(20), "holds a FLAC file, expected raw samples of 16 bits"),
        (wav(SOUND, subtype="PCM_24"), "a WAV file of 24 bits .format 1., expected 16 bits"),
        (wav(SOUND, subtype="FLOAT"), "32 bits .format 3."),
        (wav(SOUND)[:30], "truncated: a WAV file without sound"),
        (SOUND.tobytes()[:-1], "ended within a sample: 1 bytes of 2"),
    ],
)
def test_other_input_is_refused_in_one_line(content, message):
    with pytest.raises(UserError, match=message) as error:
        read(content)
    assert "\n" not in str(error.value)


def test_options_that_contradict_a_header_are_refused():
    with pytest.raises(UserError, match="its WAV header says 8000, and --rate 16000"):
        read(wav(SOUND), rate=16000)
    with pytest.raises(UserError, match="its WAV header says 2, and --channels 1"):
        read(wav(SOUND), channels=1)


# ---- the command


def run_stream(monkeypatch, content: bytes, *options: str) -> int:
    monkeypatch.setattr(Pipe, "most", 3201)
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=Pipe(content)))
    return cli.transcribe(JASPER, ["--stream", *options])


def test_the_command_prints_partial_and_final_texts(monkeypatch, exported, capsys):
    samples = np.random.default_rng(9).normal(0, 0.1, 24000).astype(np.float32)
    content = (samples * 32768).astype(np.int16)
    options = ["--pretrain_ckpt", str(exported / "stream.onnx")]
    assert run_stream(monkeypatch, content.tobytes(), *options) == 0
    lines = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    assert {mark for mark, _ in lines} == {"partial", "final"}

    assert run_stream(monkeypatch, content.tobytes(), *options, "--format", "json") == 0
    found = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [each["text"] for each in found] == [text for _, text in lines]
    finals = [each for each in found if each["type"] == "final"]
    assert all(each["start"] < each["end"] <= 1.5 for each in finals)

    soundfile.write(exported / "a.wav", content, 16000)
    exact = [*options, "--statistics_of", str(exported / "a.wav")]
    assert run_stream(monkeypatch, content.tobytes(), *exact) == 0
    finals = [
        line.split("\t")[1]
        for line in capsys.readouterr().out.splitlines()
        if line.startswith("final")
    ]
    model = StreamingModel.load(JASPER, exported / "stream.onnx")
    whole = whole_log_probs(exported / "whole.onnx", model.featurizer(content / np.float32(32768)))
    expected = GreedyDecoder(LABELS)(whole[:, None], np.array([len(whole)]))
    assert " ".join(finals) == expected[0]


def test_the_command_refuses_what_it_cannot_stream(monkeypatch, exported):
    model = ["--pretrain_ckpt", str(exported / "stream.onnx")]
    with pytest.raises(UserError, match="no network for streams ships"):
        run_stream(monkeypatch, b"")
    with pytest.raises(UserError, match="--rate -1: expected at least 1"):
        run_stream(monkeypatch, b"", *model, "--rate", "-1")
    with pytest.raises(UserError, match="uses no language model"):
        run_stream(monkeypatch, b"", *model, "--set", "lm_path=words.arpa")
    monkeypatch.setitem(sys.modules, "sounddevice", None)
    with pytest.raises(ImportError, match="sounddevice, which hears the microphone: install"):
        run_stream(monkeypatch, b"", *model, "--microphone")
