"""Recordings through the C++ runner: features as in Python, texts, and what is wrong with files."""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path

import numpy as np
import odd_recordings
import pytest
import scipy.fft
import soundfile as sf
import synthetic_corpus
from test_ascend310_infer import SOURCE, programs, pytestmark, runner, skip, write_model  # noqa: F401
from test_cpp_onnx import onnx_runner  # noqa: F401

from common.audio.features import CONVENTIONS, FeatureConfig, Featurizer
from common.audio.io import audio_info, load_audio
from common.decoding.decoders import GreedyDecoder, collapse, emission_frames
from common.text.tokenizer import CharacterTokenizer
from common.utils.errors import UserError

LABELS = [" ", "A", "B", "C", "D", "_"]
STRIDE = 2  # of the engine for tests, which has no network: see engine_fake.cpp


def describe(folder: Path, config: FeatureConfig, buckets=((-1, -1),), **changes) -> Path:
    """A description, and models that the engine for tests takes."""
    files = [
        write_model(
            folder / f"{folder.name}_{batch}_{frames}.mindir", batch, frames, config.dimension
        )
        for batch, frames in buckets
    ]
    path = folder / "model.json"
    description = {
        "model": "deepspeech2",
        "labels": LABELS,
        "device": "CPU",
        "inputs": [{"shape": [-1, config.dimension, -1]}, {"shape": [-1]}],
        "features": config.to_dict(),
        "frame_stride": STRIDE,
        "buckets": files,
    }
    path.write_text(json.dumps(description | changes))
    return path


@pytest.fixture(scope="module")
def fake(programs) -> Path:  # noqa: F811
    """The folder of programs, where they read recordings."""
    if not (programs / "features_of").exists():
        log = subprocess.run(
            ["cmake", "-S", SOURCE, "-B", programs], capture_output=True, text=True
        ).stdout
        skip(next(line for line in log.splitlines() if "audio: without" in line))
    return programs


def run(program: Path, *arguments) -> tuple[int, str, str]:
    done = subprocess.run(
        [str(program), *map(str, arguments)], capture_output=True, text=True, timeout=300
    )
    return done.returncode, done.stdout, done.stderr


@pytest.fixture(scope="module")
def speech(tmp_path_factory) -> dict[str, Path]:
    """Recordings: spoken tones with silent ends, some of other rates, channels and lengths."""
    folder, rng = tmp_path_factory.mktemp("speech"), np.random.default_rng(0)
    samples = synthetic_corpus.spoken("AB DAC", rng)
    faded = samples * np.linspace(0.001, 1, len(samples))
    loud = np.concatenate([np.zeros(5000), faded, 1e-6 * rng.standard_normal(6001)])
    written = {
        "whole.wav": (loud, 16000),
        "stereo.flac": (np.stack([loud, rng.normal(0, 0.1, len(loud))], axis=1), 44100),
        "telephone.wav": (samples, 8000),
        "short.wav": (samples[2000:2100], 16000),
        "hop.wav": (samples[:1600], 16000),
        "silence.wav": (np.zeros(3000), 16000),
    }
    for name, (values, rate) in written.items():
        sf.write(folder / name, values, rate, subtype="PCM_16")
    return {name: folder / name for name in written}


CONFIGS = [
    FeatureConfig(kind=kind, convention=convention, window=window, **more)
    for kind, convention, window, more in [
        ("spectrogram", "plain", "hamming", {}),
        ("spectrogram", "plain", "bartlett", {"window_size": 321 / 16000, "preemphasis": 0.97}),
        ("spectrogram", "deepspeech.pytorch", "hamming", {"sample_rate": 8000}),
        ("spectrogram", "deepspeech.pytorch-2.0", "hann", {}),
        ("spectrogram", "asrt", "hamming", {"window_size": 0.025}),
        ("logmel", "plain", "blackman", {"bands": 40, "frame_splicing": 2}),
        ("logmel", "plain", "hann", {"sample_rate": 8000, "bands": 24, "trim_silence": True}),
        (
            *("logmel", "jasper-mindspore", "hann"),
            {"preemphasis": 0.97, "frame_splicing": 3, "trim_silence": True},
        ),
        ("logmel", "jasper-nvidia", "hann", {"preemphasis": 0.97, "trim_silence": True}),
        ("logmel", "jasper-nvidia", "bartlett", {}),
        ("logmel", "plain", "hann", {"normalisation": "sliding"}),
        ("spectrogram", "deepspeech.pytorch", "hamming", {"normalisation": "sliding"}),
        ("logmel", "nemo", "hann", {"preemphasis": 0.97}),
    ]
]


class Exact(Featurizer):
    """With the transform in double precision, as the C++ program has it. In bands where there is
    next to nothing, as in those above 4 kHz of what was recorded at 8 kHz, the features are about
    rounding errors, and a transform in single precision adds its own."""

    def _energies(self, windows: np.ndarray) -> np.ndarray:
        seen = (windows * self.window).astype(np.float64)
        power = np.abs(scipy.fft.rfft(seen, self.config.n_fft).T) ** 2
        if self.filters is None:
            return np.log1p(np.sqrt(power[: self.config.bins]))
        return np.log(self.filters @ power + self.floor)


def test_features_are_those_of_python(fake, speech, tmp_path):
    assert {(c.kind, c.convention) for c in CONFIGS} == {
        (kind, name) for kind, names in CONVENTIONS.items() for name in names
    }
    asked, cases = [], []
    for number, config in enumerate(CONFIGS):
        (tmp_path / str(number)).mkdir()
        description = describe(tmp_path / str(number), config)
        for name, path in speech.items():
            cases.append((config, path, tmp_path / str(number) / f"{name}.bin"))
            asked.append(f"{description} {path} {cases[-1][2]}\n")
    done = subprocess.run(
        [fake / "features_of"], input="".join(asked), capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0 and done.stderr == ""
    trimmed = 0
    for (config, path, output), said in zip(cases, done.stdout.splitlines(), strict=True):
        featurizer = Featurizer(config)
        samples = load_audio(path, config.sample_rate)
        kept = featurizer.trim(samples)
        expected = featurizer(kept)
        frames, start = said.split()
        assert int(frames) == expected.shape[1], (config, path)
        skipped = round(float(start) * config.sample_rate)
        np.testing.assert_array_equal(samples[skipped:][: len(kept)], kept)
        trimmed += skipped > 0
        found = np.fromfile(output, "<f4").reshape(expected.shape)
        context = f"{config} {path.name}"
        np.testing.assert_allclose(found, Exact(config)(kept), atol=2e-5, err_msg=context)
        if sf.info(path).samplerate >= config.sample_rate:
            np.testing.assert_allclose(found, expected, atol=1e-3, err_msg=context)
    assert trimmed == 3  # the recording that starts in silence, where that is left out


def test_resampled_lengths_are_known_beforehand(fake, tmp_path):
    """Of pairs of rates that do not divide each other, and lengths around whole frames."""
    config = FeatureConfig(sample_rate=16000, window_size=0.001, window_stride=1 / 16000)
    description = describe(tmp_path, config)  # a frame for each sample
    asked, expected = "", []
    for rate in (8000, 11025, 12345, 22050, 44100, 48000):
        for count in (1, 2, 3, 137, 999, 1000, 1001, 20001):
            path = tmp_path / f"{rate}-{count}.wav"
            sf.write(path, np.full(count, 0.1), rate)
            asked += f"{description} {path} {path.with_suffix('.bin')}\n"
            samples = len(load_audio(path, 16000))
            expected.append(f"{samples + 1} 0" if samples else "has 0 frames")
    done = subprocess.run([fake / "features_of"], input=asked, capture_output=True, text=True)
    assert done.returncode == 0
    for said, wanted in zip(done.stdout.splitlines(), expected, strict=True):
        assert said.startswith(wanted)


def spelled(path: Path, featurizer: Featurizer) -> tuple[str, list[int], np.ndarray]:
    """What the engine for tests makes of a recording: the text, and its path through the labels."""
    features = featurizer(featurizer.trim(load_audio(path, featurizer.config.sample_rate)))
    seen = features[: len(LABELS), ::STRIDE].T.astype(np.float64)
    log_probs = seen - np.log(np.exp(seen).sum(axis=1, keepdims=True))
    text = GreedyDecoder(CharacterTokenizer(LABELS))(log_probs[:, None], np.array([len(seen)]))[0]
    return text, seen.argmax(axis=1), log_probs


def test_texts_of_several_recordings_in_their_order(fake, speech, tmp_path):
    config = FeatureConfig(kind="logmel", bands=8, convention="jasper-nvidia", trim_silence=True)
    model = describe(tmp_path, config, buckets=((2, 60), (1, 1000)))
    paths = [speech[name] for name in ("short.wav", "whole.wav", "telephone.wav", "stereo.flac")]
    texts = [spelled(path, Featurizer(config))[0] for path in paths]
    assert len(set(texts)) == 4
    listed = tmp_path / "list.txt"
    listed.write_text("".join(f"{path}\n" for path in paths[2:]))
    command = ("--mindir_path", model, "--audio", *paths[:2], "--audio_list", listed)
    expected = "".join(f"{path}\t{text}\n" for path, text in zip(paths, texts))
    for more in ((), ("--instances=3", "--device_id=0,1", "--time_dir", tmp_path / "times")):
        assert run(fake / "infer_fake", *command, *more) == (0, expected, "")
    figures = json.loads((tmp_path / "times" / "test_perform_static.json").read_text())
    assert figures["done"] == 4 and figures["processes"] == 3  # for 3 batches
    alone = ("--mindir_path", model, "--audio", paths[1])
    assert run(fake / "infer_fake", *alone) == (0, f"{texts[1]}\n", "")
    # In parts, of which each frame is the same: this engine looks at nothing around it.
    config = FeatureConfig(kind="logmel", bands=8)
    model = describe(tmp_path, config, buckets=((3, 40),))
    code, out, err = run(fake / "infer_fake", *alone)
    assert (code, out) == (0, f"{spelled(paths[1], Featurizer(config))[0]}\n")
    assert "1 utterance is longer" in err and err.count("\n") == 1


def test_json_has_times_and_confidence(fake, speech, tmp_path):
    config = FeatureConfig(kind="logmel", bands=8, trim_silence=True)
    model = describe(tmp_path, config)
    path, featurizer = speech["whole.wav"], Featurizer(config)
    code, out, err = run(
        fake / "infer_fake", "--mindir_path", model, "--audio", path, "--audio", path, "--json"
    )
    assert (code, err) == (0, "") and out.count("\n") == 2
    found = json.loads(out.splitlines()[1])
    text, best, log_probs = spelled(path, featurizer)
    assert (found["path"], found["text"]) == (str(path), text)
    samples = load_audio(path, 16000)
    assert found["duration"] == pytest.approx(len(samples) / 16000, abs=1e-3)
    start = np.flatnonzero(samples == featurizer.trim(samples)[0])
    letters = collapse(best, 5)
    begins = emission_frames(best, 5)
    firsts = [
        frame
        for number, (frame, letter) in enumerate(zip(begins, letters))
        if letter != 0 and (number == 0 or letters[number - 1] == 0)
    ]
    offset = found["words"][0]["start"] - firsts[0] * STRIDE * 0.01
    assert round(offset * 16000) % 512 == 0 and round(offset * 16000) in start
    assert [word["word"] for word in found["words"]] == text.split()
    for word, frame in zip(found["words"], firsts, strict=True):
        assert word["start"] - offset == pytest.approx(frame * STRIDE * 0.01, abs=2e-3)
        assert word["start"] < word["end"] <= offset + len(best) * STRIDE * 0.01 + 2e-3
        assert 1 / len(LABELS) < word["confidence"] <= 1
    runs = [*begins, len(best)]
    highest = [
        np.exp(log_probs[a:b][best[a:b] == letter].max())
        for a, b, letter in zip(runs, runs[1:], letters)
    ]
    assert found["confidence"] == pytest.approx(np.mean(highest), abs=1e-3)


def test_bad_recordings_are_named_and_the_rest_is_done(fake, speech, tmp_path):
    good, model = speech["whole.wav"], describe(tmp_path, FeatureConfig(kind="logmel", bands=8))
    whole, opus = good.read_bytes(), tmp_path / "whole.opus"
    sf.write(
        opus,
        synthetic_corpus.spoken("ABCD", np.random.default_rng(1)),
        8000,
        format="OGG",
        subtype="OPUS",
    )
    flac = tmp_path / "whole.flac"
    sf.write(flac, load_audio(good, 16000), 16000)
    infinite = tmp_path / "infinite.wav"
    sf.write(infinite, np.array([0.1, np.inf, 0.2] * 1000, np.float32), 16000, subtype="FLOAT")
    nothing = tmp_path / "nothing.wav"
    sf.write(nothing, np.zeros(0), 16000)
    bad = {"missing.wav": None, "empty.wav": b"", "text.wav": b"no audio at all\n" * 9}
    bad |= {"cut.wav": whole[:-1001], "cut.opus": opus.read_bytes()[:-20]}
    bad |= {"cut.flac": flac.read_bytes()[:-500]}
    for name, content in bad.items():
        if content is not None:
            (tmp_path / name).write_bytes(content)
    paths = [tmp_path / name for name in bad] + [infinite, nothing, tmp_path]
    mixed = [*paths[:3], good, *paths[3:], opus]
    code, out, err = run(
        fake / "infer_fake", "--mindir_path", model, "--audio", *mixed, "--instances=2"
    )
    assert code == 1
    assert [line.split("\t")[0] for line in out.splitlines()] == [str(good), str(opus)]
    lines = dict(line.removeprefix("failed: ").split(": ", 1) for line in err.splitlines())
    assert lines.keys() == {str(path) for path in paths}
    for path in paths:  # the reason is Python's
        with pytest.raises(UserError) as error:
            load_audio(path, 16000)
        reason = str(error.value).removeprefix(f"audio file {path}: ")
        assert lines[str(path)].split("(")[0] == reason.split("(")[0], path
    code, out, err = run(fake / "infer_fake", "--mindir_path", model, "--audio", *paths)
    assert (code, out, err.count("\n")) == (1, "", len(paths))


def test_odd_recordings_give_what_they_give_in_python(fake, tmp_path):
    """All samples, or the same refusal; and nothing that a decoder writes by itself."""
    recordings, asked = odd_recordings.odd_recordings(), ""
    for name, odd in recordings.items():
        (tmp_path / name).write_bytes(odd.content)
        asked += f"{tmp_path / name} {tmp_path / name}.samples\n"
    os.mkfifo(tmp_path / "fifo")
    recordings["fifo"] = odd_recordings.OddRecording(b"", None, "a pipe or device")
    asked += f"{tmp_path / 'fifo'} {tmp_path / 'fifo'}.samples\n"
    done = subprocess.run(
        [fake / "audio_of"], input=asked, capture_output=True, text=True, timeout=300
    )
    assert (done.returncode, done.stderr) == (0, "")
    for (name, odd), said in zip(recordings.items(), done.stdout.splitlines(), strict=True):
        path = tmp_path / name
        if odd.samples is None:
            assert re.search(odd.refusal, said), (name, said)
            with pytest.raises(UserError) as error:
                load_audio(path, 16000)
            reason = str(error.value).removeprefix(f"audio file {path}: ")
            assert said.split("(")[0] == reason.split("(")[0], name
            continue
        info = audio_info(path)
        expected = load_audio(path, info.sample_rate)
        assert said == f"{info.sample_rate} {info.channels} {odd.samples} {odd.samples}", name
        found = np.fromfile(f"{path}.samples", "<f4")
        np.testing.assert_allclose(found, expected, atol=1e-6, err_msg=name)


@pytest.mark.parametrize(
    ("changes", "more", "said"),
    [
        ({"features": {"kind": "logmel"}}, (), "sample_rate: expected"),
        ({"features": {**FeatureConfig().to_dict(), "dither": 1}}, (), '"dither" is not known'),
        ({"features": FeatureConfig(window_size=0.01).to_dict()}, (), "features of 81 bins"),
        ({"frame_stride": None}, ("--json",), "frame_stride"),
        ({}, ("--audio_list=none",), "none: No such file"),
        ({}, ("--time_dir=/dev/null/x",), "cannot be made"),
    ],
)
def test_what_cannot_be_done_is_refused(fake, speech, tmp_path, changes, more, said):
    description = json.loads(describe(tmp_path, FeatureConfig()).read_text())
    description = {k: v for k, v in (description | changes).items() if v is not None}
    (tmp_path / "model.json").write_text(json.dumps(description))
    code, out, err = run(
        fake / "infer_fake",
        *("--mindir_path", tmp_path / "model.json", "--audio", speech["hop.wav"], *more),
    )
    assert (code, out) == (2, "") and said in err
    assert err.startswith("error: ") and err.count("\n") == 1


def test_a_build_without_audio_says_so(programs, tmp_path):  # noqa: F811
    model = describe(tmp_path, FeatureConfig())
    code, _, err = run(programs / "infer_no_audio", "--mindir_path", model, "--audio", "a.wav")
    assert code == 2 and "built without audio: build.sh says which packages it lacks" in err
    assert "reads no recordings" in run(programs / "infer_no_audio", "--help")[1]
    assert (
        "reads no recordings" not in run(programs / "infer_stub", "--help")[1]
        or not (programs / "features_of").exists()
    )


def test_telephone_prompts_read_as_transcribe_reads_them(
    cpu,
    onnx_runner,  # noqa: F811
    fake,
    tmp_path,
    capsys,
):
    """A network that has learnt spoken tones hears some of them in Opus files, too."""
    from common import cli
    from common.export.export import Options, export
    from common.model.speech_model import SpeechModel
    from deepspeech2.src.recipe import RECIPE

    audio = SOURCE.parent / "data" / "telephone_prompts" / "audio"
    paths = [str(path) for path in sorted(audio.glob("conf-[a-m]*.opus"))]
    paths += [str(path) for path in sorted((synthetic_corpus.trained() / "test").glob("*.wav"))]
    checkpoint = synthetic_corpus.trained() / "checkpoint" / "tiny-best.ckpt"
    capsys.readouterr()
    arguments = ["--pretrain_ckpt", str(checkpoint), "--device_target", cpu]
    assert cli.transcribe(RECIPE, [*paths, *arguments]) == 0
    expected = capsys.readouterr().out
    speech_model = SpeechModel.from_checkpoint(RECIPE, checkpoint, cpu)
    model = export(speech_model, tmp_path / "m.onnx", Options("ONNX"))
    code, out, err = run(onnx_runner, "--mindir_path", model, "--audio", *paths)
    assert (code, err) == (0, "")
    assert out == expected and out.count("\n") == len(paths) > 15
    assert len({line.split("\t")[1] for line in out.splitlines()}) > len(paths) // 2
