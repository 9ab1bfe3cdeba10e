"""ExportedFile files against an independent network, their descriptions, and what is refused."""

from __future__ import annotations

import dataclasses
import json
import zlib
from pathlib import Path

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor, nn
from mindspore.train import mind_ir_pb2

from benchmarks import reference
from common.data.manifest import Utterance
from common.export import export as common_export
from common.export.description import check_files, find_description
from common.export.export import TOLERANCE_HALF, Options, export, parts, verify
from common.export.mindir import operators, parameters, share_weights
from common.export.offline_inference import read_description
from common.memory import forecast_forward
from common.model.speech_model import SpeechModel
from common.text.tokenizer import CharacterTokenizer
from common.utils.errors import UserError
from deepspeech2.src.config import ModelConfig, TrainConfig
from deepspeech2.src.recipe import RECIPE

pytestmark = pytest.mark.usefixtures("cpu")

LABELS = "'ABCDEFGHIJKLMNOPQRSTUVWXYZ _"


def quiet(line: str) -> None:
    """Keeps what is said to itself."""


def make(**model) -> SpeechModel:
    config = TrainConfig(
        ModelConfig=ModelConfig(
            **{"hidden_size": 6, "hidden_layers": 1, "conv_channels": 2, **model}
        )
    )
    return SpeechModel.create(RECIPE, config, CharacterTokenizer(tuple(LABELS)), "CPU")


@pytest.fixture(scope="module")
def trained():
    """(speech_model, its weights): of the network that `reference` computes in numpy."""
    speech_model = make()
    parameters = reference.random_parameters(np.random.default_rng(0), channels=2, size=6, layers=1)
    for parameter in speech_model.network.get_parameters():
        if parameter.name in parameters:
            parameter.set_data(Tensor(parameters[parameter.name]))
    return speech_model, parameters


@pytest.fixture(scope="module")
def dynamic(trained, tmp_path_factory):
    """(path, lines said) of the export with open axes."""
    said = []
    folder = tmp_path_factory.mktemp("export") / "out"
    description = export(trained[0], folder / "speech-1.5", log=said.append)
    return description.with_suffix(".mindir"), said


def verified(said: list[str]) -> list[str]:
    """What was compared, of the lines that tell the stages of an export."""
    return [line.split(":")[0] for line in said if line.startswith("verified")]


def run(path, rows: int, frames: int, lengths, parameters) -> None:
    """Asserts that the file gives what numpy gives, utterance by utterance."""
    rng = np.random.default_rng(frames)
    features = rng.standard_normal((rows, 161, frames)).astype(np.float32)
    graph = nn.GraphCell(ms.load(str(path)))
    log_probs, out_lengths = graph(Tensor(features), Tensor(lengths, ms.int32))
    assert out_lengths.asnumpy().tolist() == [(length + 1) // 2 for length in lengths]
    for row, length in enumerate(lengths):
        expected = reference.deepspeech2(parameters, features[row, :, :length])
        found = log_probs.asnumpy()[: len(expected), row]
        np.testing.assert_allclose(found, expected, atol=1e-4)


def test_a_dynamic_file_is_the_network_at_any_length(trained, dynamic):
    path, said = dynamic
    assert path.name == "speech-1.5.mindir"
    assert said[0] == "writing a network of 0.0 million weights as speech-1.5.mindir"
    assert said[1].startswith("reading speech-1.5.mindir back, and compiling the network")
    assert verified(said) == [f"verified with 3 x {frames} frames" for frames in (37, 160, 403)]
    for rows, frames, lengths in ((1, 24, [24]), (2, 51, [51, 8])):
        run(path, rows, frames, lengths, trained[1])


def test_the_description_says_what_a_program_must_know(trained, dynamic):
    path, _ = dynamic
    found = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
    assert found["model"] == "deepspeech2" and found["device"] == "CPU"
    assert found["frame_stride"] == 2 and found["weights"] == "float32"
    (bucket,) = found["buckets"]
    assert (bucket["file"], bucket["batch_size"], bucket["frames"]) == (path.name, -1, -1)
    graph = bucket["graph"]
    assert graph["bytes"] == path.stat().st_size
    assert graph["inputs"] == [
        {"name": graph["inputs"][0]["name"], "type": "float32", "shape": [-1, 161, -1]},
        {"name": graph["inputs"][1]["name"], "type": "int32", "shape": [-1]},
    ]
    assert graph["operators"] == sorted(operators(path)) and "LSTM" in graph["operators"]
    assert found["file"] == path.name and found["file_format"] == "MINDIR"
    assert found["labels"] == list(LABELS) and found["blank"] == 28
    assert found["versions"]["mindspore"] == ms.__version__
    features, lengths = found["inputs"]
    assert (features["name"], features["type"]) == ("features", "float32")
    assert features["shape"] == [-1, 161, -1]
    assert (lengths["name"], lengths["type"], lengths["shape"]) == ("lengths", "int32", [-1])
    assert [output["name"] for output in found["outputs"]] == ["log_probs", "lengths"]
    assert found["features"] == trained[0].featurizer.config.to_dict()
    assert found["config"]["ModelConfig"]["hidden_size"] == 6
    assert 0 <= found["verified_difference"] <= 1e-4
    forecast = forecast_forward(trained[0])  # for programs that refuse what is beyond it
    assert found["memory"]["fixed_bytes"] == pytest.approx(forecast.fixed, abs=1)
    assert found["memory"]["bytes_per_frame"] == pytest.approx(forecast.per_frame, abs=1)


def test_a_file_that_differs_is_refused(trained, dynamic):
    speech_model, parameters = trained
    weight = speech_model.network.fc.module.weight
    name = "fc.module.weight"
    moved = parameters[name].copy()
    moved[0] += 0.1
    weight.set_data(Tensor(moved))
    try:
        with pytest.raises(UserError, match="log-probabilities differ .* do not use this file"):
            verify(speech_model, dynamic[0], 0, 0, log=quiet)
    finally:
        weight.set_data(Tensor(parameters[name]))


def test_a_static_file_replaces_an_earlier_one(trained, tmp_path):
    speech_model, parameters = trained
    path, said = tmp_path / "speech.mindir", []
    path.write_bytes(b"an earlier export")
    path.chmod(0o400)
    written = export(speech_model, path, Options(batch_size=2, frames=30), said.append)
    assert written == tmp_path / "speech.json"
    assert verified(said) == [
        "verified with 2 x 30 frames",
        "verified with 2 x 10 frames",
    ]
    assert path.stat().st_mode & 0o777 == 0o644
    run(path, 2, 30, [30, 11], parameters)
    found = json.loads(path.with_suffix(".json").read_text())
    assert [entry["shape"] for entry in found["inputs"]] == [[2, 161, 30], [2]]


def test_a_failed_verification_leaves_the_earlier_export(trained, tmp_path, monkeypatch):
    speech_model, _ = trained
    earlier = {"speech.json": '{"file_format": "MINDIR"}', "speech.mindir": "an earlier export"}
    for name, content in earlier.items():
        (tmp_path / name).write_text(content)

    class Another:
        def __init__(self, speech_model):
            pass

        def __call__(self, features, lengths):
            return np.zeros((15, len(features), 29), np.float32), (lengths + 1) // 2

    monkeypatch.setattr("common.export.export.Forward", Another)
    with pytest.raises(UserError, match="log-probabilities differ"):
        export(speech_model, tmp_path / "speech", Options(batch_size=1, frames=30), quiet)
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == earlier


RECORDING = Utterance("a", Path("a.wav"), "A")

REFUSALS = {
    "unknown": ({"file_format": "OM"}, "--file_format OM: expected one of MINDIR, AIR, ONNX"),
    "AIR on a CPU": ({"file_format": "AIR"}, "AIR needs an Ascend device, this is CPU"),
    "negative": ({"frames": -3}, "--frames -3: expected 0 or more"),
    "two ways": ({"frames": 3, "buckets": (3, 4)}, "--frames 3 and --buckets: expected one"),
    "order": ({"buckets": (4, 3)}, "--buckets 4,3: expected numbers of frames, ascending"),
    "no frames": ({"buckets": (0, 3)}, "--buckets 0,3: expected numbers of frames, ascending"),
    "AIR without a card": (
        {"file_format": "AIR", "device": "Ascend", "batch_size": 1, "frames": 9},
        "AIR needs an Ascend device, this is CPU",
    ),
    "ONNX buckets": (
        {"file_format": "ONNX", "buckets": (3, 4)},
        "--buckets with --file_format ONNX: buckets are MindIR files",
    ),
    "input": ({"input": "audio"}, "--input audio: expected samples or features"),
    "MindIR of samples": (
        {"input": "samples"},
        "--input samples with --file_format MINDIR: only ONNX files compute features",
    ),
    "no such precision": (
        {"file_format": "ONNX", "int8": "all"},
        "--int8 all: expected weights or compute",
    ),
    "quantised twice": (
        {"file_format": "ONNX", "int8": "weights", "half": True},
        "--half and --int8: weights are quantised once; expected one of them",
    ),
    "int8 MindIR": ({"int8": "weights"}, "--int8 with --file_format MINDIR: expected ONNX"),
    "style": ({"file_format": "ONNX", "style": "vosk"}, "--style vosk: expected sherpa"),
    "style of MindIR": (
        {"style": "sherpa"},
        "--file_format MINDIR with --style sherpa: expected --file_format ONNX",
    ),
    "style and frames": (
        {"file_format": "ONNX", "style": "sherpa", "frames": 30},
        "--frames 30 with --style sherpa",
    ),
    "samples and frames": (
        {"file_format": "ONNX", "input": "samples", "frames": 30},
        "--frames 30 with --input samples: such a file takes any number of samples",
    ),
    "scored in batches": (
        {"file_format": "ONNX", "batch_size": 4, "scored": [RECORDING]},
        "--test_manifest with --batch_size 4: recordings are given to the file one by one",
    ),
    "scored at one length": (
        {"file_format": "ONNX", "batch_size": 1, "frames": 30, "scored": [RECORDING]},
        "--test_manifest with --frames 30: recordings are given to the file one by one",
    ),
    "ranges at one length": (
        {"file_format": "ONNX", "frames": 30, "int8": "compute", "calibration": [RECORDING]},
        "--calibration_manifest with --frames 30: recordings are given to the file one by one",
    ),
    "Ascend, open": ({"device": "Ascend", "buckets": (3, 4)}, "takes static shapes alone"),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_refusals(case, trained, tmp_path):
    options, expected = REFUSALS[case]
    with pytest.raises(UserError, match=expected):
        export(trained[0], tmp_path / "speech", Options(**options))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("device", ["CPU", "Ascend"])
def test_static_networks_need_their_shapes(device, trained, tmp_path):
    if device == "CPU":
        speech_model = make(rnn_type="GRU")
    else:
        speech_model = dataclasses.replace(trained[0], device="Ascend")
    for options in ({}, {"batch_size": 2}, {"frames": 30}):
        with pytest.raises(UserError, match="takes static shapes alone .*: give --batch_size"):
            export(speech_model, tmp_path / "speech", Options(**options))


def test_dynamic_shapes_are_refused_where_there_are_none():
    speech_model = make(rnn_type="RNN")
    assert speech_model.static
    speech_model.config.DataConfig.batch_shapes = "dynamic"
    with pytest.raises(UserError, match="DataConfig.batch_shapes=dynamic"):
        speech_model.static  # noqa: B018
    speech_model.config.DataConfig.batch_shapes = "ragged"
    with pytest.raises(UserError, match="expected auto, dynamic or static"):
        speech_model.static  # noqa: B018


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (RuntimeError("\n\nFor 'LSTM', no such thing.\n----\nmore"), "For 'LSTM', no such thing"),
        (RuntimeError(""), "RuntimeError"),
    ],
)
def test_what_mindspore_cannot_export_is_told_as_such(error, says, trained, tmp_path, monkeypatch):
    def failing(*arguments, **options):
        raise error

    monkeypatch.setattr(ms, "export", failing)
    with pytest.raises(UserError) as refusal:
        export(trained[0], tmp_path / "speech", Options(batch_size=1, frames=20))
    assert f"speech.mindir: MindSpore could not export it ({says}" in str(refusal.value)
    assert "\n" not in str(refusal.value) and not list(tmp_path.iterdir())

    error = OSError()  # as zipfile and shutil raise them, without a number
    with pytest.raises(UserError, match=r"speech\.mindir: could not be written \(OSError"):
        export(trained[0], tmp_path / "speech", Options(batch_size=1, frames=20))


@pytest.mark.parametrize("place", ["file/speech", "folder"])
def test_where_nothing_can_be_written(place, trained, tmp_path):
    (tmp_path / "file").write_text("not a folder")
    (tmp_path / "folder.mindir").mkdir()
    with pytest.raises(UserError, match="could not be written") as refusal:
        export(trained[0], tmp_path / place, Options(batch_size=1, frames=20))
    assert str(tmp_path / place) in str(refusal.value)
    assert (tmp_path / "file").read_text() == "not a folder"


# ---- several lengths


def described(folder, name: str = "speech") -> dict:
    return json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))


def weights_beside(folder, name: str = "speech") -> int:
    return sum(file.stat().st_size for file in (folder / f"{name}_variables").iterdir())


def earlier_export(folder, files: list[str]) -> None:
    """Leaves what an export of other buckets leaves, but for the content."""
    (folder / "speech_variables").mkdir()
    (folder / "speech_variables" / "data_0").write_text("weights")
    for name in files:
        (folder / name).write_text("a graph")
    content = {"file_format": "MINDIR", "buckets": [{"file": name} for name in files]}
    (folder / "speech.json").write_text(json.dumps(content))


def test_buckets_have_their_weights_in_common(trained, tmp_path):
    speech_model, weights = trained
    earlier_export(tmp_path, ["speech_10.mindir", "speech_20.mindir"])
    export(speech_model, tmp_path / "speech", Options(batch_size=2, buckets=(20, 30)), quiet)
    files = ["speech_20.mindir", "speech_30.mindir"]
    assert {path.name for path in tmp_path.iterdir()} == {*files, "speech.json", "speech_variables"}
    found = described(tmp_path)
    assert [(each["file"], each["frames"]) for each in found["buckets"]] == [*zip(files, (20, 30))]
    assert all(each["verified_difference"] <= 1e-4 for each in found["buckets"])
    assert found["inputs"][0]["shape"] == [2, 161, -1]
    run(tmp_path / files[1], 2, 30, [30, 11], weights)
    total = sum(values.nbytes for values in parameters(tmp_path / files[0]).values())
    assert total <= weights_beside(tmp_path) < 1.5 * total + 64 * 30


def test_above_1_gb_graph_and_weights_are_apart(trained, tmp_path, monkeypatch):
    """MindSpore splits what is above 1 GB; here it takes a kilobyte for that."""
    speech_model, weights = trained
    monkeypatch.setattr("mindspore.train.serialization.TOTAL_SAVE", 1)
    earlier_export(tmp_path, ["speech_10.mindir", "speech_20.mindir"])
    export(speech_model, tmp_path / "speech", Options(batch_size=2, frames=30), quiet)
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"speech.json", "speech_graph.mindir", "speech_variables"}
    assert parts(tmp_path / "speech.mindir") == [
        tmp_path / "speech_graph.mindir",
        tmp_path / "speech_variables",
    ]
    assert (tmp_path / "speech_variables").stat().st_mode & 0o777 == 0o755  # not for us alone
    assert described(tmp_path)["buckets"][0]["file"] == "speech.mindir"
    run(tmp_path / "speech_graph.mindir", 2, 30, [30, 7], weights)

    monkeypatch.setattr("common.export.export.verify", lambda *arguments: 0.0)
    export(speech_model, tmp_path / "speech", Options(batch_size=2, buckets=(20, 30)), quiet)
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"speech_20.mindir", "speech_30.mindir", "speech.json", "speech_variables"}
    found = parameters(tmp_path / "speech_30.mindir")
    for name in ("fc.module.weight", "RNN.lstms.0.bias_hh_l0"):
        np.testing.assert_array_equal(found[name], weights[name])


def test_weights_that_differ_are_not_shared(tmp_path):
    files = [tmp_path / "one.mindir", tmp_path / "other.mindir"]
    for number, file in enumerate(files):
        model = mind_ir_pb2.ModelProto()
        for name in ("a", "b"):
            values = np.full(3, number if name == "b" else 7, np.float32)
            tensor = model.graph.parameter.add(name=f"{number}_net:{name}", data_type=1, dims=[3])
            tensor.raw_data = values.tobytes()
        file.write_bytes(model.SerializeToString())
    assert parameters(files[1])["b"].tolist() == [1, 1, 1]
    with pytest.raises(UserError, match="other.mindir: b differs from one.mindir's"):
        share_weights(files, tmp_path / "shared")


# ---- for the card


def packed_lstm(x: np.ndarray, weight: np.ndarray, bias: np.ndarray) -> np.ndarray:
    """DynamicRNN as its documentation has it, in float64: x (T, I), weight (I + H, 4 H), bias
    (4 H,), gates i, j, f, o -> (T, H)."""
    size = len(bias) // 4
    hidden, cell, outputs = np.zeros(size), np.zeros(size), []
    for frame in x:
        gates = np.concatenate((frame, hidden)) @ weight + bias
        i, j, f, o = gates.reshape(4, size)
        cell = cell * reference.sigmoid(f) + reference.sigmoid(i) * np.tanh(j)
        hidden = reference.sigmoid(o) * np.tanh(cell)
        outputs.append(hidden)
    return np.array(outputs)


@pytest.fixture(scope="module")
def card(trained, tmp_path_factory):
    """(folder, lines said) of an export for Ascend, on a machine without."""
    folder, said = tmp_path_factory.mktemp("card"), []
    options = Options(batch_size=2, buckets=(20, 30), device="Ascend")
    export(trained[0], folder / "speech", options, said.append)
    return folder, said


def test_a_file_for_the_card_has_its_operators_and_says_so(card):
    folder, said = card
    found = operators(folder / "speech_20.mindir")
    assert {"DynamicRNN", "Conv2D"} <= found and "LSTM" not in found
    assert said[1:] == [
        "not verified by running it: its LSTMs are the operator DynamicRNN, which Ascend alone "
        "has, and this is CPU"
    ]
    description = described(folder)
    assert description["device"] == "Ascend" and description["verified_difference"] is None


def test_the_packed_weights_of_the_card_are_the_network(card, trained):
    """An LSTM in numpy on the weights in the file, within float16, against the network's."""
    folder, _ = card
    found, expected = parameters(folder / "speech_30.mindir"), trained[1]
    assert "RNN.lstms.0.weight_ih_l0" not in found  # they are packed, and not there twice
    x = np.random.default_rng(1).standard_normal(
        (12, expected["RNN.lstms.0.weight_ih_l0"].shape[1])
    )
    packed = [
        (found[f"RNN.lstms.0.weight_packed_l0{end}"], found[f"RNN.lstms.0.bias_packed_l0{end}"])
        for end in ("", "_reverse")
    ]
    assert {weights.dtype for pair in packed for weights in pair} == {np.dtype(np.float16)}
    output = packed_lstm(x, *(part.astype(np.float64) for part in packed[0]))
    output += packed_lstm(x[::-1], *(part.astype(np.float64) for part in packed[1]))[::-1]
    network = reference.recurrent_layer("LSTM", x, expected, "RNN.lstms.0.")
    np.testing.assert_allclose(output, network, atol=5e-3)
    assert np.abs(output).max() > 0.1  # there is something to compare
    np.testing.assert_array_equal(found["fc.module.weight"], expected["fc.module.weight"])


def test_the_network_itself_stays_as_it_was(card, trained):
    names = {weight.name for weight in trained[0].network.get_parameters()}
    assert not any("packed" in name for name in names) and trained[0].device == "CPU"


def test_weights_in_float16(trained, tmp_path):
    export(trained[0], tmp_path / "speech", Options(batch_size=2, frames=30, half=True), quiet)
    found = parameters(tmp_path / "speech.mindir")
    assert found["fc.module.weight"].dtype == found["conv.conv2.weight"].dtype == np.float16
    assert found["conv.bn1.moving_variance"].dtype == np.float32
    description = described(tmp_path)
    assert description["weights"] == "float16"
    assert 0 < description["verified_difference"] <= TOLERANCE_HALF / 10
    assert trained[0].network.fc.module.weight.dtype == ms.float32


# ---- several exports in one folder


@pytest.fixture
def quick(monkeypatch):
    """Exports that compile nothing: MindIR files hold what `quick` says."""
    content = [b"a graph"]

    def write(speech_model, path, options, frames):
        path.write_bytes(content[0])

    monkeypatch.setattr("common.export.export._write", write)
    monkeypatch.setattr("common.export.export.graph_facts", lambda path: {"operators": []})
    monkeypatch.setattr("common.export.export.share_weights", lambda graphs, folder: None)
    monkeypatch.setattr("common.export.export.verify", lambda *arguments: 0.0)
    monkeypatch.setattr("common.export.export.verify_samples", lambda *arguments: 0.0)
    return content


def names_in(folder) -> set[str]:
    return {path.name for path in folder.iterdir()}


BOTH = {"speech.mindir", "speech.json", "speech.onnx", "speech.onnx.json"}


@pytest.mark.parametrize("order", [("MINDIR", "ONNX"), ("ONNX", "MINDIR", "ONNX", "MINDIR")])
def test_files_of_several_formats_have_a_description_each(order, trained, tmp_path, quick):
    for file_format in order:
        options = Options(file_format, input="features")
        written = export(trained[0], tmp_path / "speech", options, quiet)
        assert json.loads(written.read_text())["file_format"] == file_format
    assert names_in(tmp_path) == BOTH
    for name, described_file in (("speech", "speech.mindir"), ("speech.onnx", "speech.onnx")):
        assert described(tmp_path, name)["file"] == described_file


def test_weights_of_buckets_stay_beside_an_onnx_file(trained, tmp_path, quick):
    earlier_export(tmp_path, ["speech_10.mindir", "speech_20.mindir"])
    before = names_in(tmp_path)
    export(trained[0], tmp_path / "speech", Options("ONNX"), quiet)
    assert names_in(tmp_path) == before | {"speech.onnx"}


def test_a_file_that_takes_samples_has_no_description_beside_it(trained, tmp_path, quick):
    options = Options("ONNX", input="features")
    assert export(trained[0], tmp_path / "speech", options, quiet).name == "speech.onnx.json"
    of_features = read_description(RECIPE, tmp_path / "speech.onnx")
    assert not of_features.takes_samples
    assert of_features.description["input"] == "features"
    written = export(trained[0], tmp_path / "speech", Options("ONNX"), quiet)
    assert written == tmp_path / "speech.onnx" and names_in(tmp_path) == {"speech.onnx"}
    written = written.rename(tmp_path / "renamed.onnx")
    model = read_description(RECIPE, written)
    assert model.takes_samples and [bucket.path for bucket in model.buckets()] == [written]
    assert model.tokenizer.labels == trained[0].tokenizer.labels


@pytest.mark.parametrize("again", ["MINDIR", "ONNX"])
def test_a_description_of_an_earlier_version_makes_room(again, trained, tmp_path, quick):
    """NAME.json described an ONNX file then."""
    (tmp_path / "speech.onnx").write_text("a graph")
    content = {"file_format": "ONNX", "buckets": [{"file": "speech.onnx"}]}
    (tmp_path / "speech.json").write_text(json.dumps(content))
    said: list[str] = []
    export(trained[0], tmp_path / "speech", Options(again, input="features"), said.append)
    if again == "MINDIR":
        assert names_in(tmp_path) == BOTH and described(tmp_path, "speech.onnx") == content
        assert described(tmp_path)["file"] == "speech.mindir"
        assert "speech.json: describes speech.onnx; renamed to speech.onnx.json" in said[-1]
    else:
        assert names_in(tmp_path) == {"speech.onnx", "speech.onnx.json"}


def test_files_that_are_replaced_under_another_name_are_told(trained, tmp_path, quick):
    export(trained[0], tmp_path / "speech", log=quiet)
    said: list[str] = []
    options = Options(batch_size=1, buckets=(20, 30))
    export(trained[0], tmp_path / "speech", options, said.append)
    assert names_in(tmp_path) == {"speech_20.mindir", "speech_30.mindir", "speech.json"}
    assert said[1:] == [
        f"{tmp_path}/speech.mindir: of the earlier export {tmp_path}/speech.json, which this one "
        "replaces: removed"
    ]


def test_a_second_export_at_the_same_time_is_refused_and_removes_nothing(
    trained, tmp_path, monkeypatch, quick
):
    publish, left = common_export._publish, []

    def with_others_meanwhile(*arguments):
        monkeypatch.setattr(common_export, "_publish", publish)
        before = names_in(tmp_path)
        for file_format in ("MINDIR", "ONNX"):
            with pytest.raises(UserError, match="speech.*: another export is writing there; wait"):
                export(trained[0], tmp_path / "speech", Options(file_format), quiet)
            left.append(names_in(tmp_path) == before)
        export(trained[0], tmp_path / "other", Options("ONNX", frames=9), quiet)
        publish(*arguments)

    monkeypatch.setattr(common_export, "_publish", with_others_meanwhile)
    written = export(trained[0], tmp_path / "speech", log=quiet)
    assert left == [True, True] and written.is_file()
    assert names_in(tmp_path) == {"speech.mindir", "speech.json", "other.onnx", "other.onnx.json"}
    export(trained[0], tmp_path / "speech", log=quiet)  # the later one wins


def test_a_model_beside_the_description_of_another_is_refused(trained, tmp_path, quick):
    export(trained[0], tmp_path / "a", log=quiet)
    quick[0] = b"another"  # as long as the first
    export(trained[0], tmp_path / "b", log=quiet)
    files = described(tmp_path, "a")["files"]
    assert files == [{"file": "a.mindir", "bytes": 7, "crc32": f"{zlib.crc32(b'a graph'):08x}"}]
    check_files(tmp_path / "a.json")
    (tmp_path / "b.mindir").replace(tmp_path / "a.mindir")
    found = f"checksum {zlib.crc32(b'another'):08x}"
    said = rf"{found}, but .*a\.json describes .* checksum {files[0]['crc32']}: .* copy both"
    with pytest.raises(UserError, match=rf"a\.mindir: {said}"):
        check_files(tmp_path / "a.json")
    model = read_description(RECIPE, tmp_path / "a.mindir")
    with pytest.raises(UserError, match=r"a\.mindir: checksum"):
        model.forward()
    (tmp_path / "a.mindir").write_bytes(b"a graph and more")
    with pytest.raises(UserError, match=r"a\.mindir: 16 bytes, but .* a file of 7 bytes"):
        model.forward()
    (tmp_path / "a.mindir").unlink()
    with pytest.raises(UserError, match=r"a\.mindir: no such file"):
        model.forward()


def test_a_model_with_convolutions_of_the_device_is_known(trained, tmp_path, quick):
    description = export(trained[0], tmp_path / "a", log=quiet)
    content = described(tmp_path, "a")

    def convolves(device: str, graph: dict) -> bool:
        bucket = {"file": "a.mindir", "batch_size": -1, "frames": -1, **graph}
        description.write_text(json.dumps({**content, "device": device, "buckets": [bucket]}))
        return read_description(RECIPE, description).convolves

    assert not convolves("CPU", {"graph": {"operators": ["MatMul", "LSTM"]}})
    assert convolves("CPU", {"graph": {"operators": ["Conv2D", "LSTM"]}})
    assert convolves("any", {"graph": {"operators": ["DepthwiseConv2dNative"]}})
    assert convolves("any", {}) and not convolves("CPU", {})  # of an earlier version


def test_a_renamed_copy_is_checked_as_the_file_is(trained, tmp_path, quick):
    export(trained[0], tmp_path / "a", log=quiet)
    for ending in (".mindir", ".json"):
        (tmp_path / f"a{ending}").rename(tmp_path / f"copy{ending}")
    model = read_description(RECIPE, tmp_path / "copy.mindir")
    assert [bucket.path for bucket in model.forward()._buckets] == [tmp_path / "copy.mindir"]
    (tmp_path / "copy.mindir").write_bytes(b"another")
    with pytest.raises(UserError, match=r"copy\.mindir: checksum"):
        model.forward()


def test_descriptions_of_earlier_versions_say_nothing_of_the_content(trained, tmp_path, quick):
    description = export(trained[0], tmp_path / "a", log=quiet)
    content = described(tmp_path, "a")
    del content["files"]
    description.write_text(json.dumps(content))
    (tmp_path / "a.mindir").write_bytes(b"any")
    check_files(description)


def test_a_file_that_its_description_does_not_name_is_refused(trained, tmp_path, quick):
    export(trained[0], tmp_path / "a", Options(batch_size=1, buckets=(20, 30)), quiet)
    (tmp_path / "a.mindir").write_bytes(b"of an earlier export")
    with pytest.raises(
        UserError, match=r"a\.mindir: .*a\.json describes a_20\.mindir, a_30\.mindir"
    ):
        read_description(RECIPE, tmp_path / "a.mindir").forward()


# What was asked for, what is there -> the description.
PLACES = {
    "itself": ("a.json", ["a.json"], "a.json"),
    "MindIR": ("a.mindir", ["a.json", "a.onnx.json"], "a.json"),
    "above 1 GB": ("a_graph.mindir", ["a.json"], "a.json"),
    "ONNX": ("a.onnx", ["a.json", "a.onnx.json"], "a.onnx.json"),
    "ONNX, earlier": ("a.onnx", ["of a.onnx"], "a.json"),
    "ONNX beside MindIR": ("a.onnx", ["a.json"], "a.onnx.json"),
    "converted": ("a.onnx.mindir", ["a.json", "a.onnx.json"], "a.onnx.json"),
    "converted, above 1 GB": ("a.onnx_graph.mindir", ["a.json", "a.onnx.json"], "a.onnx.json"),
    "converted, earlier": ("a.onnx.mindir", ["of a.onnx"], "a.json"),
    "converted by hand": ("a.mindir", ["a.onnx.json"], "a.onnx.json"),
    "none": ("a-1.5.mindir", [], "a-1.5.json"),
}


@pytest.mark.parametrize("case", PLACES)
def test_where_the_description_of_a_model_is(case, tmp_path):
    given, there, expected = PLACES[case]
    for name in there:
        file = name.removeprefix("of ") if name.startswith("of ") else "a.mindir"
        content = {"file_format": "?", "file": file}
        (tmp_path / ("a.json" if name.startswith("of ") else name)).write_text(json.dumps(content))
    assert find_description(tmp_path / given) == tmp_path / expected


def test_weights_that_are_not_finite_are_not_exported(trained, tmp_path, quick):
    weight = trained[0].network.fc.module.weight
    good = weight.asnumpy().copy()
    bad = good.copy()
    bad[2, 3] = np.nan
    weight.set_data(Tensor(bad))
    try:
        with pytest.raises(UserError, match=r"fc\.module\.weight: 1 of 174 values is not finite"):
            export(trained[0], tmp_path / "speech", log=quiet)
    finally:
        weight.set_data(Tensor(good))
    assert not list(tmp_path.iterdir())
