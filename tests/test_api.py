"""The Python API: the examples of docs/python.md, and values against the commands."""

from __future__ import annotations

import io
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
from synthetic_corpus import RATE, chdir, make_corpus, settings, trained

import deepspeech2
import jasper
from common.audio.io import load_audio
from common.decoding.decoders import GreedyDecoder
from common.export.export import speech_like
from deepspeech2 import UserError

ROOT = Path(__file__).resolve().parents[1]
NINE = ROOT / "data" / "telephone_prompts" / "audio" / "digits" / "9.opus"


@pytest.mark.launcher
def test_importing_the_packages_loads_no_mindspore():
    code = "import sys, deepspeech2, jasper; sys.exit('mindspore' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


@pytest.fixture(scope="module")
def model(cpu) -> deepspeech2.Recognizer:
    return deepspeech2.load(trained() / "checkpoint" / "tiny-best.ckpt", device=cpu)


def recordings() -> list[Path]:
    return sorted((trained() / "test").glob("*.wav"))


def test_the_shipped_checkpoints_and_their_onnx_files_transcribe_a_recording(cpu):
    samples = speech_like(np.random.default_rng(0), 48000, 16000)
    for package in (deepspeech2, jasper):
        models = [package.load(engine=engine) for engine in ("mindspore", "onnxruntime")]
        for model in models:
            result = model.transcribe(NINE)
            assert result.text.upper() == "NINE"
            (word,) = result.words
            assert word.word == result.text and 0 < word.start < word.end <= result.duration
            assert 0.5 < word.confidence <= 1
        expected, found = (model.log_probs(samples, 16000) for model in models)
        np.testing.assert_allclose(found, expected, atol=1e-4)


def test_paths_files_and_samples_give_the_same(model):
    path = recordings()[0]
    samples, rate = sf.read(path)
    whole = model.transcribe(path)
    with open(path, "rb") as file:
        assert model.transcribe(file).text == whole.text
    assert model.transcribe(io.BytesIO(path.read_bytes())) == whole
    assert model.transcribe((samples, rate)).text == whole.text
    stereo = np.stack((samples, samples), 1)
    assert model.transcribe((stereo, rate)).text == whole.text
    pcm = np.round(samples * 32768).astype(np.int16)
    assert model.transcribe((pcm, rate)).text == whole.text
    assert whole.duration == pytest.approx(len(samples) / rate)


def test_a_list_gives_each_recording_what_it_has_alone(model):
    paths = recordings()
    together = model.transcribe(paths, batch_size=2)
    assert [each.text for each in together] == [model.transcribe(path).text for path in paths]
    assert len({each.text for each in together}) > 1
    assert model.transcribe([]) == []


def test_texts_are_those_of_the_greedy_path_of_the_log_probabilities(model):
    path = recordings()[1]
    log_probs = model.log_probs(load_audio(path, RATE), RATE)
    assert log_probs.shape[1] == len(model.tokenizer)
    np.testing.assert_allclose(np.exp(log_probs).sum(1), 1, atol=1e-4)
    decode = GreedyDecoder(model.tokenizer)
    text = decode(log_probs[:, None], np.array([len(log_probs)]))[0]
    result = model.transcribe(path)
    assert result.text == text and text
    assert [word.word for word in result.words] == text.split()
    ends = [word.end for word in result.words]
    assert ends == sorted(ends) and ends[-1] <= result.duration + 2 * model.frame_seconds


@pytest.mark.parametrize(
    ("file_format", "shapes"),
    [("MINDIR", {}), ("ONNX", {}), ("MINDIR", {"batch_size": 2, "buckets": (100, 400)})],
)
def test_an_exported_file_transcribes_as_its_checkpoint(model, cpu, tmp_path, file_format, shapes):
    pytest.importorskip("onnxruntime")
    checkpoint = trained() / "checkpoint" / "tiny-best.ckpt"
    description = deepspeech2.export_model(
        checkpoint, tmp_path / "tiny", file_format=file_format, device=cpu, **shapes
    )
    name = description if shapes else tmp_path / f"tiny.{file_format.lower()}"
    exported = deepspeech2.load(name)
    paths = recordings()
    expected = model.transcribe(paths)
    for one, other in zip(exported.transcribe(paths, batch_size=3), expected, strict=True):
        assert (one.text, len(one.words)) == (other.text, len(other.words))
        for word, same in zip(one.words, other.words):
            assert (word.start, word.end) == (same.start, same.end)
            assert word.confidence == pytest.approx(same.confidence, abs=1e-4)


def test_evaluate_gives_the_error_rates_of_eval_py(cpu, capsys):
    from common import cli
    from deepspeech2.src.recipe import RECIPE

    checkpoint = str(trained() / "checkpoint" / "tiny-best.ckpt")
    with chdir(trained()):
        scores = deepspeech2.evaluate_model(checkpoint, "test.csv", device=cpu)
        capsys.readouterr()
        cli.evaluate(RECIPE, ["--pretrain_ckpt", checkpoint, "--set", "test_manifest=test.csv"])
    summary = capsys.readouterr().out.splitlines()[-1].split()
    evaluation = scores.evaluation
    assert [f"{evaluation.wer:.3f}", f"{evaluation.cer:.3f}"] == [summary[4], summary[7]]
    assert scores.unreadable == [] and scores.recordings == len(recordings())


@pytest.mark.parametrize(
    ("recording", "message"),
    [
        ("nowhere.wav", "nowhere.wav: No such file"),
        ((np.zeros((2, 2, 2)), 8000), "recording 1: samples of type float64 and shape"),
        ((np.zeros(0), 8000), "recording 1: samples of shape (0,), expected at least one"),
        ((np.zeros(9, np.int64), 8000), "recording 1: samples of type int64"),
        ((np.zeros((2, 900)), 8000), "expected (N, channels): transpose them"),
        (np.zeros(4000), "recording 1: a ndarray, expected a path"),
        ((np.array(["a"]), 8000), "recording 1: samples of type <U1"),
        ((np.full(4000, np.nan), 8000), "recording 1: 4000 of 4000 samples are nan"),
        ((np.zeros(4000), 0), "recording 1: sample rate 0, expected Hz above 0"),
        (io.StringIO("text"), "open it with mode 'rb'"),
    ],
)
def test_bad_recordings_are_named_in_one_line(model, recording, message):
    with pytest.raises(UserError, match=re.escape(message)):
        model.transcribe(recording)


@pytest.mark.unit
def test_configurations_take_presets_and_values():
    config = deepspeech2.config("an4", OptimConfig={"learning_rate": 2e-3}, epochs=7)
    assert (config.OptimConfig.learning_rate, config.TrainingConfig.epochs) == (2e-3, 7)
    with pytest.raises(UserError, match="preset nothing: unknown, expected one of an4"):
        deepspeech2.config("nothing")
    with pytest.raises(UserError, match="epoch"):
        jasper.config(epoch=7)


def python_examples() -> list[str]:
    text = (ROOT / "docs" / "python.md").read_text(encoding="utf-8")
    return re.findall(r"```python\n(.*?)```", text, re.DOTALL)


@pytest.mark.launcher
def test_the_examples_of_the_documentation_run(cpu, tmp_path):
    """In one process, one after the other, in a folder with the recordings that they name."""
    examples = python_examples()
    assert len(examples) >= 4
    (tmp_path / "data").symlink_to(ROOT / "data")
    for name in ("a.wav", "b.flac"):
        sf.write(tmp_path / name, load_audio(NINE, 16000), 16000)
    done = subprocess.run(
        [sys.executable, "-c", "\n".join(examples)],
        cwd=tmp_path,
        env={"PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT), "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[0] == "NINE"
    assert "['NINE', 'NINE']" in done.stdout


def test_convert_and_train_model_run_a_training_in_the_current_folder(cpu, tmp_path):
    corpus = make_corpus(tmp_path)
    config = deepspeech2.config(**settings(corpus))
    with chdir(tmp_path):
        deepspeech2.convert(config)
        result = deepspeech2.train_model(config, device=cpu)
        assert result.completed and result.progress.epoch == config.TrainingConfig.epochs
        assert result.stop.reason.name == "FINISHED"
        text = (
            deepspeech2.load(result.best_checkpoint, device=cpu).transcribe("test/test0.wav").text
        )
        scores = deepspeech2.evaluate_model(result.best_checkpoint, device=cpu)
        assert scores.recordings == 5
        (scored,) = [each for each in scores.evaluation.utterances if each.id == "test0"]
        assert scored.hypothesis == text
