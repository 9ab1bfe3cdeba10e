"""Recognition with an exported file alone: without MindSpore and scipy, and what is refused."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

import deepspeech2
import jasper
from common import cli
from common.api import Recognizer
from common.api.loading import load_model, shipped
from common.audio.features import FeatureConfig, Featurizer
from common.config import DataConfig, LMConfig
from common.data.manifest import Utterance
from common.data.mindrecord_writer import Reader
from common.data.selection import SelectionRules
from common.decoding.decoders import make_decoder
from common.evaluation import html_report
from common.evaluation.evaluate import recognise
from common.export.onnx_metadata import CONTENT, DESCRIPTION, embedded_description
from common.model.decoder import CTCDecoder
from common.text.tokenizer import CharacterTokenizer
from common.utils.errors import UserError
from common.utils.packages import MissingPackageError
from deepspeech2.src.recipe import RECIPE as DEEPSPEECH2
from jasper.src.recipe import RECIPE as JASPER

ROOT = Path(__file__).resolve().parents[1]
NINE = ROOT / "data" / "telephone_prompts" / "audio" / "digits" / "9.opus"
SHIPPED = ROOT / "jasper" / "pretrained" / "an4.onnx"
RATE, CUT, STRIDE = 16000, 3200, 480  # Hz; samples; samples from one output frame to the next
SPOKEN = "nine"


def description() -> dict:
    """That of the file which ships with Jasper, without the checksum of its network."""
    described = embedded_description(SHIPPED)
    del described[CONTENT]
    return described


def save(path: Path, opset: int = 11, ir_version: int = 6, starts: bool = True, **metadata) -> Path:
    """Write a file that hears SPOKEN in everything, and says that it cut CUT samples before."""
    described = description()
    ids = [described["labels"].index(letter) for letter in SPOKEN]
    blank = len(described["labels"]) - 1
    path_of_labels = [blank, *(label for each in ids for label in (each, blank))]
    frames = np.log(np.eye(len(described["labels"]))[path_of_labels] * 0.9 + 0.003)
    constants = {
        "spoken": frames[:, None].astype(np.float32),
        "frames": np.array([len(frames)], np.int32),
        "cut": np.array([CUT], np.int32),
        "none": np.array([0], np.int32),
        "shape": np.array([1, -1, 1], np.int64),
    }
    nodes = [  # rows: as many as there are lengths
        helper.make_node("Mul", ["lengths", "none"], ["zeros"]),
        helper.make_node("Add", ["zeros", "frames"], ["output_lengths"]),
        helper.make_node("Add", ["zeros", "cut"], ["starts"]),
        helper.make_node("Cast", ["zeros"], ["rows"], to=1),
        helper.make_node("Reshape", ["rows", "shape"], ["wide"]),
        helper.make_node("Add", ["spoken", "wide"], ["log_probs"]),
    ]
    wanted = ["log_probs", "output_lengths", *(["starts"] if starts else [])]
    kinds = {"log_probs": (1, ["t", "b", 29]), "output_lengths": (6, ["b"]), "starts": (6, ["b"])}
    graph = helper.make_graph(
        nodes,
        "hears",
        [
            helper.make_tensor_value_info("samples", 1, ["b", "n"]),
            helper.make_tensor_value_info("lengths", 6, ["b"]),
        ],
        [helper.make_tensor_value_info(name, *kinds[name]) for name in wanted],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])
    model.ir_version = ir_version
    helper.set_model_props(model, {DESCRIPTION: json.dumps(described), **metadata})
    onnx.save(model, str(path))
    return path


def silence_and_noise(seconds: float = 1.0) -> np.ndarray:
    noise = np.random.default_rng(0).standard_normal(int(seconds * RATE))
    return np.concatenate((np.zeros(2 * CUT), 0.1 * noise)).astype(np.float32)


# ---- without MindSpore


@pytest.mark.launcher
@pytest.mark.parametrize("model", ["deepspeech2", "jasper"])
def test_a_machine_with_onnxruntime_alone_turns_a_recording_into_text(model, tmp_path):
    code = (
        "import sys\n"
        "for name in 'mindspore scipy matplotlib onnx'.split(): sys.modules[name] = None\n"
        f"import {model}.transcribe\n"
        f"sys.argv = ['transcribe.py', {str(NINE)!r}]\n"
        f"try: {model}.transcribe.main()\n"
        "finally: print({'inflect', 'anyascii', 'kenlm'} & set(sys.modules), file=sys.stderr)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout.lower()) == (0, "nine\n"), done.stderr
    assert done.stderr.splitlines()[-1] == "set()"  # what only training or beam search needs
    assert not list(tmp_path.iterdir())


def test_a_missing_package_is_named_with_the_command_that_installs_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(MissingPackageError, match=r"pip install onnxruntime$") as caught:
        deepspeech2.load(engine="onnxruntime").transcribe(NINE)
    assert caught.value.name == "onnxruntime" and "\n" not in str(caught.value)
    monkeypatch.setitem(sys.modules, "scipy", None)
    monkeypatch.delitem(sys.modules, "scipy.fft", raising=False)
    with pytest.raises(ImportError, match="has no scipy, which computes features"):
        Featurizer(FeatureConfig())(silence_and_noise())


@pytest.fixture
def without_scipy(monkeypatch):
    for name in [name for name in sys.modules if name.split(".")[0] == "scipy"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "scipy", None)


def test_files_that_take_features_name_the_package_that_computes_them(
    tmp_path, without_scipy, monkeypatch, capsys
):
    described = {**description(), "input": "features"}
    file = save(tmp_path / "features.onnx", **{DESCRIPTION: json.dumps(described)})
    missing = "has no scipy, which computes features: install it with "
    with pytest.raises(MissingPackageError, match=missing):
        jasper.load(file).transcribe(NINE)
    monkeypatch.setattr(sys, "argv", ["transcribe.py", str(NINE), "--pretrain_ckpt", str(file)])
    with pytest.raises(SystemExit, match="1"):
        cli.run(cli.transcribe, JASPER)
    said = capsys.readouterr().err.splitlines()
    assert missing in said[-1] and not any("Traceback" in line for line in said)

    manifest, results = tmp_path / "test.jsonl", tmp_path / "features"
    manifest.write_text(json.dumps({"audio_filepath": str(NINE), "text": "nine"}))
    keys = [f"test_manifest={manifest}", f"result_path={results}"]
    with pytest.raises(MissingPackageError, match=missing):
        cli.preprocess(JASPER, ["--mindir_path", str(file), "--set", *keys])


def test_records_name_the_package_that_computes_their_features(without_scipy):
    features, labels = FeatureConfig(), CharacterTokenizer(("N", "I", "E", " ", "_"))
    reader = Reader(features, labels, "features", SelectionRules())
    with pytest.raises(MissingPackageError, match="has no scipy, which computes features"):
        reader(Utterance("nine", str(NINE), "NINE"))


def test_a_missing_package_reaches_the_parent_of_a_worker_process():
    error = MissingPackageError("scipy", "computes features")
    copy = pickle.loads(pickle.dumps(error))
    assert (str(copy), copy.name) == (str(error), "scipy")


@pytest.mark.parametrize("api", [deepspeech2, jasper])
def test_log_probabilities_of_the_shipped_file_do_not_depend_on_the_batch(api):
    model = api.load(engine="onnxruntime")
    alone = model.transcribe(NINE)
    noise = silence_and_noise(3.0)
    together = model.transcribe([(noise, RATE), NINE, (noise[:9000], RATE)])[1]
    assert together.text == alone.text and together.text.lower() == "nine"
    (word,), (same,) = together.words, alone.words
    assert (word.start, word.end) == (same.start, same.end)
    assert word.confidence == pytest.approx(same.confidence, abs=1e-4)


# ---- times from the beginning of the recording


def test_times_of_words_count_what_the_file_cut_from_the_start(tmp_path):
    noise = silence_and_noise(2.0)[2 * CUT :]  # without a pause for a word to begin at
    trimmed, whole = (
        jasper.load(save(tmp_path / f"{starts}.onnx", starts=starts)).transcribe(
            [(noise[:RATE], RATE), (noise, RATE)]
        )
        for starts in (True, False)
    )
    for one, other in zip(trimmed, whole):
        assert one.text == other.text == SPOKEN
        (word,), (same,) = one.words, other.words
        assert same.start == pytest.approx(STRIDE / RATE, abs=1e-3)
        assert word.start - same.start == pytest.approx(CUT / RATE, abs=2e-3)
        assert word.end - same.end == pytest.approx(CUT / RATE, abs=2e-3)


def test_times_of_words_count_what_the_featurizer_cut_from_the_start():
    labels = CharacterTokenizer(("A", " ", "_"))
    featurizer = Featurizer(FeatureConfig(trim_silence=True))

    def forward(features, lengths):  # hears A in the first frame
        log_probs = np.full((4, len(features), 3), -9.0, np.float32)
        log_probs[0, :, 0] = log_probs[1:, :, 2] = -1e-3
        return log_probs, np.full(len(features), 4)

    model = SimpleNamespace(  # an AcousticModel
        config=SimpleNamespace(DataConfig=DataConfig()),
        tokenizer=labels,
        featurizer=featurizer,
        front_end=featurizer,
        frame_seconds=0.02,
        static=False,
        max_frames=1e9,
        forward_memory=lambda: None,
    )
    decoder = CTCDecoder(forward, make_decoder(LMConfig(), labels))
    samples = silence_and_noise()
    result = Recognizer(model, decoder).transcribe((samples, RATE))
    cut = featurizer.sounding(samples).start
    assert 0 < cut <= 2 * CUT and len(featurizer.trim(samples)) < len(samples)
    assert result.words[0].start == pytest.approx(cut / RATE, abs=1e-3)
    assert result.duration == len(samples) / RATE


# ---- what is refused


def refused(path: Path, api=jasper, **options) -> str:
    """The one line that loading or running a file ends in."""
    with pytest.raises(UserError) as caught:
        api.load(path, **options).transcribe((silence_and_noise(), RATE))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_files_that_are_no_models_are_refused_in_one_line(tmp_path):
    good = save(tmp_path / "good.onnx")
    assert jasper.load(good).transcribe((silence_and_noise(), RATE)).text == SPOKEN

    assert refused(tmp_path / "none.onnx") == f"{tmp_path}/none.onnx: no such file"
    assert f"{NINE.name}.onnx: damaged, or no ONNX file" in refused(
        Path(copied(NINE, tmp_path / f"{NINE.name}.onnx"))
    )
    content = good.read_bytes()
    (tmp_path / "cut.onnx").write_bytes(content[:-100])
    assert "cut.onnx: damaged" in refused(tmp_path / "cut.onnx")
    (tmp_path / "empty.onnx").write_bytes(b"")
    assert "empty.onnx: empty" in refused(tmp_path / "empty.onnx")

    model = onnx.load(good)
    del model.metadata_props[:]
    onnx.save(model, tmp_path / "bare.onnx")
    assert "bare.onnx: holds no description, and there is no bare.onnx.json" in refused(
        tmp_path / "bare.onnx"
    )
    (tmp_path / "bare.onnx.json").write_text(json.dumps({**description(), "file": "bare.onnx"}))
    assert jasper.load(tmp_path / "bare.onnx").sample_rate == RATE  # as earlier versions wrote it

    assert "its description is damaged" in refused(save(good, **{DESCRIPTION: "{"}))
    assert "not a description that export.py wrote" in refused(save(good, **{DESCRIPTION: "{}"}))
    save(good)
    assert refused(good, deepspeech2) == (
        f"{good}: of a jasper network, expected deepspeech2; use the commands of jasper/"
    )


def copied(source: Path, target: Path) -> str:
    target.write_bytes(source.read_bytes())
    return str(target)


@pytest.mark.parametrize("newer", [{"opset": 99}, {"ir_version": 99}], ids=str)
def test_files_newer_than_onnx_runtime_are_refused_with_what_to_do(newer, tmp_path):
    message = refused(save(tmp_path / "new.onnx", **newer))
    assert message.startswith(f"{tmp_path}/new.onnx: newer than ONNX Runtime ")
    assert "99" in message and "pip install -U onnxruntime" in message


def test_engines_and_devices_that_do_not_fit_the_file_are_refused(tmp_path):
    file = save(tmp_path / "good.onnx")
    assert "not in MindSpore" in refused(file, engine="mindspore")
    assert "ONNX files run on the CPU" in refused(file, device="Ascend")
    assert "expected one of auto, mindspore, onnxruntime" in refused(file, engine="tensorrt")
    assert "export it (export.py --file_format ONNX)" in refused(
        JASPER.pretrained, engine="onnxruntime"
    )
    with pytest.raises(UserError, match="carries its own configuration"):
        load_model(JASPER, file, fallback=JASPER.train_config())
    with pytest.raises(UserError, match=r"card 1 was asked for \(--device_id\)") as caught:
        load_model(JASPER, file, device_id=1)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("written_for", "wanted", "expected"),
    [
        ("any", (None, None), (None, None)),
        ("any", ("GPU", 3), ("GPU", 3)),
        ("GPU", ("gpu", 2), ("GPU", 2)),
        ("Ascend", (None, 1), ("Ascend", 1)),
        ("CPU", ("GPU", 0), "device GPU was asked for, and this file was exported for CPU"),
    ],
    ids=str,
)
def test_mindir_files_run_on_the_device_and_card_asked_for(
    written_for, wanted, expected, tmp_path, monkeypatch
):
    from common.utils import runtime

    described = {**description(), "file_format": "MINDIR", "device": written_for, "buckets": []}
    (tmp_path / "speech.json").write_text(json.dumps(described))
    chosen = []
    monkeypatch.setattr(runtime, "set_device", lambda *device: chosen.append(device))
    monkeypatch.setattr(runtime, "prepare_native_convolutions", lambda: True)
    (tmp_path / "speech.mindir").touch()
    device, card = wanted
    if isinstance(expected, tuple):
        load_model(JASPER, tmp_path / "speech.mindir", device=device, device_id=card)
        assert chosen == [expected]
        return
    with pytest.raises(UserError, match=expected) as caught:
        load_model(JASPER, tmp_path / "speech.mindir", device=device, device_id=card)
    assert "\n" not in str(caught.value) and not chosen


def test_a_file_of_other_labels_than_its_description_is_refused(tmp_path):
    described = {**description(), "labels": [*description()["labels"][:-2], "_"]}
    file = save(tmp_path / "other.onnx", **{DESCRIPTION: json.dumps(described)})
    assert "gives probabilities of 29 labels, and its description has 28" in refused(file)


# ---- which file ships


def test_the_file_that_ships_depends_on_engine_device_and_packages(monkeypatch):
    file, checkpoint = SHIPPED, JASPER.pretrained
    assert shipped(JASPER) == shipped(JASPER, device="cpu") == file
    assert shipped(JASPER, "onnxruntime") == file
    assert shipped(JASPER, "mindspore") == shipped(JASPER, device="Ascend") == checkpoint
    installed = {"mindspore"}
    monkeypatch.setattr("common.api.loading._has", installed.__contains__)
    assert shipped(JASPER) == checkpoint
    installed.clear()
    assert shipped(JASPER) == file  # whose error names the smaller package


def test_eval_py_scores_an_exported_file_and_names_what_runs_it(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    lines = [
        json.dumps({"audio_filepath": str(NINE.with_name(f"{n}.opus")), "text": text})
        for n, text in ((9, "nine"), (1, "won"))
    ]
    Path("test.jsonl").write_text("\n".join(lines))
    assert cli.evaluate(JASPER, ["--set", "test_manifest=test.jsonl", "save_output=out"]) is None
    first, *_, summary = capsys.readouterr().out.splitlines()
    assert "an4.onnx on CPU (ONNX Runtime " in first
    assert "WER 50.000" in summary  # "one" for "won"
    model = load_model(JASPER, SHIPPED)
    features = np.load(sorted(Path("out").iterdir())[1])
    assert features.shape[1] == len(model.tokenizer)
    np.testing.assert_allclose(np.exp(features).sum(axis=1), 1, atol=1e-4)


def test_a_report_that_lacks_a_package_is_refused_before_anything_is_recognised(
    tmp_path, monkeypatch, without_scipy, capsys
):
    """Or else, where only the page itself finds it out, after the figures."""
    monkeypatch.chdir(tmp_path)
    Path("test.jsonl").write_text(json.dumps({"audio_filepath": str(NINE), "text": "nine"}))
    arguments = ["--set", "test_manifest=test.jsonl", "report=page.html"]
    with pytest.raises(MissingPackageError, match="has no scipy"):
        cli.evaluate(JASPER, arguments)
    assert not capsys.readouterr().out

    monkeypatch.setattr(html_report, "check_packages", lambda *given: None)
    with pytest.raises(MissingPackageError, match="has no scipy"):
        cli.evaluate(JASPER, arguments)
    assert "WER 0.000" in capsys.readouterr().out
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(MissingPackageError, match="has no matplotlib, which draws"):
        cli.evaluate(JASPER, arguments)
    assert not Path("page.html").exists()
    assert cli.evaluate(JASPER, [*arguments, "report_utterances=0"]) is None
    assert Path("page.html").exists()


def test_recordings_that_do_not_fit_into_memory_are_refused_for_files_too(monkeypatch):
    from common.data.dataset import SampleDataset
    from common.utils import runtime

    model = load_model(DEEPSPEECH2, shipped(DEEPSPEECH2, "onnxruntime"))
    fixed, per_frame = model.forward_memory()
    assert fixed < 2**28 and per_frame > 9000  # bytes; measured: 90 MiB, and 9 kB a frame
    monkeypatch.setattr(runtime, "machine_memory", lambda: int((fixed + 100 * per_frame) / 0.8))
    dataset = SampleDataset([np.zeros(RATE * 3, np.float32)], ["long.wav"], model.featurizer)
    with pytest.raises(UserError, match=r"long\.wav: 3 s take about"):
        list(recognise(model, model.decoder(), dataset, 1))
