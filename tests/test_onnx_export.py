"""ONNX files of both models in onnxruntime, and what is refused."""

from __future__ import annotations

import dataclasses
import json
from types import SimpleNamespace

import numpy as np
import onnx
import onnxruntime
import pytest
import soundfile
from mindspore import Tensor
from networks import batch_of, randomize_norms

from benchmarks import reference
from common import __version__
from common.cli.exported import _without_copies
from common.data.manifest import Utterance
from common.export.export import TOLERANCE_INT8, Options, export, speech_like
from common.export.offline_inference import read_description
from common.export.onnx import Graph, write_onnx
from common.export.onnx_metadata import read_metadata
from common.export.quantization import word_error_rates
from common.export.streaming_session import StreamingModel
from common.model.speech_model import Forward, SpeechModel
from common.text.tokenizer import CharacterTokenizer
from common.utils.errors import UserError
from deepspeech2.src import config as deepspeech2
from deepspeech2.src.recipe import RECIPE as DEEPSPEECH2
from jasper.src import config as jasper
from jasper.src.config import Block
from jasper.src.recipe import RECIPE as JASPER

pytestmark = pytest.mark.usefixtures("cpu")

LABELS = CharacterTokenizer(tuple("'ABCDEFGHIJKLMNOPQRSTUVWXYZ _"))


def speech2(**model) -> SpeechModel:
    small = {
        "hidden_size": 12,
        "hidden_layers": 2,
        "conv_channels": 3,
        "conv_kernels": [[5, 3], [3, 5]],
    }
    config = deepspeech2.TrainConfig(ModelConfig=deepspeech2.ModelConfig(**{**small, **model}))
    return SpeechModel.create(DEEPSPEECH2, config, LABELS, "CPU")


def jasper_of(*blocks: Block, **model) -> SpeechModel:
    config = jasper.TrainConfig(ModelConfig=jasper.ModelConfig(blocks=list(blocks), **model))
    return SpeechModel.create(JASPER, config, LABELS, "CPU")


def dense(filters: int, kernel: int) -> Block:
    return Block(filters, 2, kernel, residual=True, residual_dense=True)


def separable(filters: int, kernel: int, **more) -> Block:
    return Block(filters, kernel_size=kernel, separable=True, **more)


NETWORKS = {
    "its batch norm": lambda: speech2(norm="batch", activation="hardtanh", conv_bias=True),
    "its layer norm": lambda: speech2(norm="layer", activation="hardtanh"),
    "one direction": lambda: speech2(bidirectional=False, lookahead_context=3),
    "jasper": lambda: jasper_of(
        Block(8, 1, 5, stride=2), dense(8, 5), dense(12, 3), Block(9, 1, 3, dilation=2), Block(7)
    ),
    "quartznet": lambda: jasper_of(
        separable(8, 5, stride=2),
        separable(8, 5, repeat=2, residual=True),
        separable(9, 3, dilation=2),
        activation="selu",
    ),
}


@pytest.mark.parametrize("kind", NETWORKS)
def test_onnxruntime_gives_what_the_network_gives(kind, tmp_path):
    speech_model = NETWORKS[kind]()
    randomize_norms(speech_model.network)
    write_onnx(speech_model, tmp_path / "speech.onnx")

    dimension, forward = speech_model.featurizer.dimension, Forward(speech_model)
    session = onnxruntime.InferenceSession(str(tmp_path / "speech.onnx"))
    rng = np.random.default_rng(3)
    rows = [rng.standard_normal((dimension, frames)) for frames in (31, 1, 18, 2)]
    features, lengths = batch_of(rows)
    features += np.where(np.arange(31) < lengths[:, None, None], 0, 7)  # never to be looked at
    given = {"features": features.astype(np.float32), "lengths": lengths.astype(np.int32)}
    log_probs, out_lengths = session.run(None, given)
    expected, expected_lengths = forward(given["features"], given["lengths"])
    assert out_lengths.dtype == np.int32 and out_lengths.tolist() == expected_lengths.tolist()
    assert log_probs.shape == expected.shape
    for row, count in enumerate(expected_lengths):
        np.testing.assert_allclose(log_probs[:count, row], expected[:count, row], atol=1e-4)


def test_a_file_that_takes_a_recording_piece_by_piece(tmp_path):
    speech_model = NETWORKS["one direction"]()
    randomize_norms(speech_model.network)
    lines: list[str] = []
    options = Options("ONNX", streaming=True)
    path = export(speech_model, tmp_path / "speech", options, lines.append)
    assert path == tmp_path / "speech.onnx" and list(tmp_path.glob("*.json")) == []
    assert len([line for line in lines if "in pieces of" in line]) == 3  # against the network
    model = StreamingModel.load(DEEPSPEECH2, path)
    assert model.shape.stride == 2
    with pytest.raises(UserError, match="--frames 100 with --streaming"):
        export(speech_model, path, dataclasses.replace(options, frames=100))
    with pytest.raises(UserError, match="this network is bidirectional"):
        export(NETWORKS["its batch norm"](), path, options)


def test_the_file_against_numpy(tmp_path):
    """The model zoo's network, computed without MindSpore."""
    speech_model = speech2(
        hidden_size=6, hidden_layers=2, conv_channels=2, conv_kernels=[[41, 11], [21, 11]]
    )
    parameters = reference.random_parameters(np.random.default_rng(0), channels=2, size=6, layers=2)
    for parameter in speech_model.network.get_parameters():
        if parameter.name in parameters:
            parameter.set_data(Tensor(parameters[parameter.name]))
    write_onnx(speech_model, tmp_path / "speech.onnx", batch_size=1, frames=40)
    features = np.random.default_rng(1).standard_normal((1, 161, 40)).astype(np.float32)
    features[:, :, 25:] = 0
    session = onnxruntime.InferenceSession(str(tmp_path / "speech.onnx"))
    given = {"features": features, "lengths": np.array([25], np.int32)}
    found, _ = session.run(None, given)
    expected = reference.deepspeech2(parameters, features[0, :, :25])
    np.testing.assert_allclose(found[: len(expected), 0], expected, atol=1e-4)


def test_what_the_file_and_its_description_say(tmp_path, monkeypatch):
    for name in ("verify", "verify_samples"):
        monkeypatch.setattr(f"common.export.export.{name}", lambda *arguments: 1e-6)
    speech_model = jasper_of(Block(8, 1, 5, stride=2), dense(8, 3))
    speech_model.license = "CC0 1.0"
    for name, options in (
        ("open", Options("ONNX")),
        ("fixed", Options("ONNX", batch_size=2, frames=9)),
        ("half", Options("ONNX", half=True, license="CC BY 4.0")),
    ):
        export(speech_model, tmp_path / name, options, lambda line: None)
    model = onnx.load(tmp_path / "open.onnx")
    assert [(each.domain, each.version) for each in model.opset_import] == [("", 11)]
    assert shapes(model.graph.input) == [["utterances", "samples"], ["utterances"]]
    expected = [["output_frames", "utterances", 29], ["utterances"], ["utterances"]]
    assert shapes(model.graph.output) == expected  # the last one where silence is trimmed
    said = onnxruntime.InferenceSession(tmp_path / "open.onnx").get_modelmeta()
    entries = said.custom_metadata_map
    assert entries == read_metadata(tmp_path / "open.onnx")
    description = json.loads(entries.pop("description"))
    assert json.loads(entries.pop("labels")) == list(LABELS.labels) == description["labels"]
    assert entries == {
        "model": "jasper",
        "version": __version__,
        "sample_rate": "16000",
        "frame_seconds": "0.02",
        "weights": "float32",
        "input": "samples",
        "license": "CC0 1.0",
    }
    assert [each["name"] for each in description["inputs"]] == ["samples", "lengths"]
    assert description["features"] == speech_model.featurizer.config.to_dict()
    assert description["verified_difference"] == 1e-6 and "files" not in description
    assert read_metadata(tmp_path / "half.onnx")["license"] == "CC BY 4.0"
    assert read_metadata(tmp_path / "half.onnx")["weights"] == "float16"
    fixed = onnx.load(tmp_path / "fixed.onnx").graph
    assert shapes(fixed.input) == [[2, 64, 9], [2]] and shapes(fixed.output) == [[5, 2, 29], [2]]
    description = json.loads((tmp_path / "fixed.onnx.json").read_text())
    assert description["device"] == "any" and description["file_format"] == "ONNX"
    assert description["buckets"][0] == {
        "file": "fixed.onnx",
        "batch_size": 2,
        "frames": 9,
        "verified_difference": 1e-6,
    }
    kept = {
        each.name: each.data_type for each in onnx.load(tmp_path / "half.onnx").graph.initializer
    }
    assert kept["decoder.layers.weight"] == onnx.TensorProto.FLOAT16
    assert kept["decoder.layers.bias"] == onnx.TensorProto.FLOAT


def shapes(tensors) -> list[list[int | str]]:
    return [
        [each.dim_param or each.dim_value for each in tensor.type.tensor_type.shape.dim]
        for tensor in tensors
    ]


@pytest.mark.parametrize("kind", ["GRU", "RNN"])
def test_other_recurrent_layers_are_refused_by_name(kind, tmp_path):
    with pytest.raises(UserError, match=f"rnn_type={kind}: only LSTM networks are written as ONNX"):
        export(speech2(rnn_type=kind), tmp_path / "speech", Options("ONNX"))
    assert not list(tmp_path.iterdir())


def test_the_file_is_verified(tmp_path):
    said: list[str] = []
    options = Options("ONNX", batch_size=1, frames=40)
    export(jasper_of(Block(4, 1, 3)), tmp_path / "speech", options, said.append)
    assert [line.split(":")[0] for line in said if line.startswith("verified")] == [
        "verified with 1 x 40 frames",
        "verified with 1 x 13 frames",
    ]
    found = json.loads((tmp_path / "speech.onnx.json").read_text())["verified_difference"]
    assert 0 <= found <= 1e-4


@pytest.mark.parametrize(("kind", "input"), [("its layer norm", "samples"), ("jasper", "features")])
def test_weights_in_float16_run(kind, input, tmp_path):
    """Compared, as in MindIR, by probabilities."""
    speech_model, said = NETWORKS[kind](), []
    randomize_norms(speech_model.network)
    options = Options("ONNX", batch_size=2, half=True, input=input)
    export(speech_model, tmp_path / "speech", options, said.append)
    description = read_description(speech_model.recipe, tmp_path / "speech.onnx").description
    assert description["weights"] == "float16" and len(said) == 5
    assert 0 < description["verified_difference"] <= 2e-2


def test_a_file_takes_samples_and_gives_what_featurizer_and_network_give(tmp_path):
    speech_model = jasper_of(Block(6, 1, 5, stride=2), dense(8, 3))
    data = speech_model.config.DataConfig.SpectConfig
    data.convention, data.trim_silence, data.preemphasis = "jasper-nvidia", True, 0.97
    speech_model = SpeechModel.create(JASPER, speech_model.config, LABELS, "CPU")
    randomize_norms(speech_model.network)
    said: list[str] = []
    path = export(speech_model, tmp_path / "speech", Options("ONNX"), said.append)
    assert [line.split(":")[0] for line in said if line.startswith("verified")] == [
        f"verified with 3 x {samples} samples" for samples in (5920, 25600, 64480)
    ]
    session = onnxruntime.InferenceSession(str(path))
    assert [each.name for each in session.get_outputs()] == [
        "log_probs",
        "output_lengths",
        "starts",
    ]
    rng = np.random.default_rng(5)
    rows = [speech_like(rng, samples, 16000) for samples in (20000, 3000, 9000)]
    samples, lengths = batch_of([row[None] for row in rows])
    log_probs, counts, starts = session.run(
        None, {"samples": samples[:, 0].astype(np.float32), "lengths": lengths.astype(np.int32)}
    )
    featurizer = speech_model.featurizer
    trimmed = [featurizer.trim(row) for row in rows]
    features, frames = batch_of([featurizer(row) for row in trimmed])
    expected, expected_counts = Forward(speech_model)(features.astype(np.float32), frames)
    assert counts.tolist() == expected_counts.tolist() and starts.max() > 0
    for row, count in enumerate(counts):
        np.testing.assert_allclose(log_probs[:count, row], expected[:count, row], atol=1e-4)
        begin = starts[row]
        assert np.array_equal(rows[row][begin : begin + len(trimmed[row])], trimmed[row])


def recordings(folder, seconds: list[float]) -> list[Utterance]:
    found = []
    for number, length in enumerate(seconds):
        path = folder / f"{number}.wav"
        samples = speech_like(np.random.default_rng(number), int(16000 * length), 16000)
        soundfile.write(path, samples, 16000)
        found.append(Utterance(str(number), path, "A CAB"))
    return found


@pytest.mark.parametrize(
    ("kind", "compute"), [("jasper", False), ("jasper", True), ("its layer norm", True)]
)
def test_files_in_8_bits_run(kind, compute, tmp_path):
    speech_model, said = NETWORKS[kind](), []
    randomize_norms(speech_model.network)
    calibration = recordings(tmp_path, [9.0, 5.0]) if compute and kind == "jasper" else []
    if calibration:
        calibration.insert(1, Utterance("none", tmp_path / "none.wav", ""))
    options = Options(
        "ONNX",
        int8="compute" if compute else "weights",
        calibration=calibration,
        scored=recordings(tmp_path, [1.0]),
    )
    name = "unquantised" if compute else "float32"  # which are also names of temporary files
    path = export(speech_model, tmp_path / name, options, said.append)
    assert read_metadata(path)["weights"] == "int8" and list(tmp_path.glob("*.onnx")) == [path]
    assert not list(tmp_path.glob(".*"))
    named = [line for line in said if line.startswith("left out: utterance none: ")]
    assert bool(named) == bool(calibration)
    assert said[-1].startswith("WER ") or said[-2].startswith("WER ")
    graph = onnx.load(path).graph
    kinds = {node.op_type for node in graph.node}
    types = {each.name: each.data_type for each in graph.initializer}
    integers = [name for name, type in types.items() if type == onnx.TensorProto.INT8]
    assert integers and not any(name.startswith("constant_") for name in integers)
    if compute:
        assert ("DynamicQuantizeLSTM" if kind == "its layer norm" else "QuantizeLinear") in kinds
    else:
        assert "decoder.layers.weight" in integers
        assert {node.domain for node in graph.node} == {""}
    difference = read_description(speech_model.recipe, path).description["verified_difference"]
    assert 0 < difference <= TOLERANCE_INT8


def test_word_error_rates_are_those_of_eval(tmp_path, monkeypatch):
    """Characters count in a script without spaces, and what cannot be read is named once."""
    tokenizer = CharacterTokenizer(tuple("中国人_"))

    def spells(text):
        path = [tokenizer.labels.index(label) for label in text]
        return lambda values, lengths: (np.eye(4)[path][:, None], np.array([len(path)]))

    texts = {"whole.onnx": "中国人", "cut.onnx": "中_国"}
    monkeypatch.setattr(
        "common.export.quantization.open_graph", lambda path: spells(texts[path.name])
    )
    scored = [dataclasses.replace(each, text="中国人") for each in recordings(tmp_path, [1.0, 0.5])]
    scored.insert(1, Utterance("none", tmp_path / "none.wav", "中国人"))
    paths, said = [tmp_path / name for name in texts], []
    featurizer = speech2().featurizer
    rates, count = word_error_rates(paths, featurizer, tokenizer, scored, True, said.append)
    assert rates == [0, pytest.approx(100 / 3)] and count == 2
    (line,) = said
    assert line.startswith("left out: utterance none: ") and "none.wav" in line


def test_recordings_at_another_speed_are_not_scored(tmp_path, capsys):
    lines = [{"audio": "a.wav", "text": "A"}, {"audio": "b.wav", "text": "A", "speed": 0.9}]
    manifest = tmp_path / "test.jsonl"
    manifest.write_text("".join(json.dumps(line) + "\n" for line in lines))
    network = SimpleNamespace(config=deepspeech2.TrainConfig(), tokenizer=LABELS)
    assert [each.audio.name for each in _without_copies(network, [str(manifest)])] == ["a.wav"]
    assert "1 of 2 recordings left out" in capsys.readouterr().out
    assert _without_copies(network, []) == []


def test_weights_in_int8_are_near_by_half_a_step():
    graph = Graph("int8")
    values = np.random.default_rng(0).standard_normal((3, 4, 5)).astype(np.float32)
    values[:, 2] = 0
    graph.output(graph.weight("w", values, channels=1), "y", onnx.TensorProto.FLOAT)
    model = graph.model("w", {}, {"y": (onnx.TensorProto.FLOAT, [3, 4, 5])})
    (found,) = onnxruntime.InferenceSession(model.SerializeToString()).run(None, {})
    steps = np.abs(values).max(axis=(0, 2), keepdims=True) / 127
    assert (np.abs(found - values) <= steps / 2 + 1e-7).all() and not found[:, 2].any()
    assert np.abs(found - values).max() > steps.max() / 4  # they are not kept whole


def test_a_file_for_sherpa_onnx(tmp_path):
    """Named and shaped as its Omnilingual ASR CTC kind reads it; tried with sherpa-onnx 2.0.1."""
    speech_model = jasper_of(Block(6, 1, 5, stride=2), dense(8, 3))
    randomize_norms(speech_model.network)
    said: list[str] = []
    path = export(speech_model, tmp_path / "speech", Options("ONNX", style="sherpa"), said.append)
    assert [line.split(":")[0] for line in said if line.startswith("verified")] == [
        f"verified with {samples} samples" for samples in (5920, 25600, 64480)
    ]
    model = onnx.load(path)
    assert shapes(model.graph.input) == [["utterances", "samples"]]
    assert shapes(model.graph.output) == [["utterances", "output_frames", 29]]
    symbols = (tmp_path / "speech-tokens.txt").read_text(encoding="utf-8").splitlines()
    assert symbols[0] == "' 0" and symbols[27:] == ["  27", "<blk> 28"]
    with pytest.raises(UserError, match="speech.onnx: written for sherpa; export .* without"):
        read_description(JASPER, path)


def test_jaspers_file_for_the_card_is_the_same_one_that_a_cpu_runs(tmp_path):
    speech_model = jasper_of(Block(4, 1, 5, stride=2))
    options = Options(batch_size=2, frames=20, device="Ascend")
    export(speech_model, tmp_path / "speech", options, lambda line: None)
    description = json.loads((tmp_path / "speech.json").read_text())
    assert description["device"] == "any" and description["verified_difference"] <= 1e-4
