"""Exported files against an independent network, their descriptions, and what is refused."""

from __future__ import annotations

import dataclasses
import json

import mindspore as ms
import numpy as np
import pytest
import reference
from mindspore import Tensor, nn

from common.errors import UserError
from common.export import export, verify
from common.recogniser import Recogniser
from common.text import Vocabulary
from deepspeech2.src.config import ModelConfig, TrainConfig
from deepspeech2.src.recipe import RECIPE

pytestmark = pytest.mark.usefixtures("cpu")

LABELS = "'ABCDEFGHIJKLMNOPQRSTUVWXYZ _"


def make(**model) -> Recogniser:
    config = TrainConfig(
        ModelConfig=ModelConfig(
            **{"hidden_size": 6, "hidden_layers": 1, "conv_channels": 2, **model}
        )
    )
    return Recogniser.create(RECIPE, config, Vocabulary(tuple(LABELS)), "CPU")


@pytest.fixture(scope="module")
def trained():
    """(recogniser, its weights): of the network that `reference` computes in numpy."""
    recogniser = make()
    parameters = reference.random_parameters(np.random.default_rng(0), channels=2, size=6, layers=1)
    for parameter in recogniser.network.get_parameters():
        if parameter.name in parameters:
            parameter.set_data(Tensor(parameters[parameter.name]))
    return recogniser, parameters


@pytest.fixture(scope="module")
def dynamic(trained, tmp_path_factory):
    """(path, lines said) of the export with open axes."""
    said = []
    path = export(
        trained[0], tmp_path_factory.mktemp("export") / "out" / "speech-1.5", log=said.append
    )
    return path, said


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
    assert [line.split(":")[0] for line in said] == [
        f"verified with 3 x {frames} frames" for frames in (37, 160, 403)
    ]
    for rows, frames, lengths in ((1, 24, [24]), (2, 51, [51, 8])):
        run(path, rows, frames, lengths, trained[1])


def test_the_description_says_what_a_program_must_know(trained, dynamic):
    path, _ = dynamic
    found = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
    assert found["model"] == "deepspeech2" and found["device"] == "CPU"
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


def test_a_file_that_differs_is_refused(trained, dynamic):
    recogniser, parameters = trained
    weight = recogniser.network.fc.module.weight
    name = "fc.module.weight"
    moved = parameters[name].copy()
    moved[0] += 0.1
    weight.set_data(Tensor(moved))
    try:
        with pytest.raises(UserError, match="log-probabilities differ .* do not use this file"):
            verify(recogniser, dynamic[0], 0, 0, log=lambda line: None)
    finally:
        weight.set_data(Tensor(parameters[name]))


def test_a_static_file_replaces_an_earlier_one(trained, tmp_path):
    recogniser, parameters = trained
    path, said = tmp_path / "speech.mindir", []
    path.write_bytes(b"an earlier export")
    path.chmod(0o400)
    assert export(recogniser, path, batch_size=2, frames=30, log=said.append) == path
    assert [line.split(":")[0] for line in said] == [
        "verified with 2 x 30 frames",
        "verified with 2 x 10 frames",
    ]
    assert path.stat().st_mode & 0o777 == 0o644
    run(path, 2, 30, [30, 11], parameters)
    found = json.loads(path.with_suffix(".json").read_text())
    assert [entry["shape"] for entry in found["inputs"]] == [[2, 161, 30], [2]]


def test_a_failed_verification_leaves_the_earlier_export(trained, tmp_path, monkeypatch):
    recogniser, _ = trained
    earlier = {"speech.json": '{"file_format": "MINDIR"}', "speech.mindir": "an earlier export"}
    for name, content in earlier.items():
        (tmp_path / name).write_text(content)

    class Another:
        def __init__(self, recogniser):
            pass

        def __call__(self, features, lengths):
            return np.zeros((15, len(features), 29), np.float32), (lengths + 1) // 2

    monkeypatch.setattr("common.export.Forward", Another)
    with pytest.raises(UserError, match="log-probabilities differ"):
        export(recogniser, tmp_path / "speech", batch_size=1, frames=30, log=lambda line: None)
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == earlier


REFUSALS = {
    "ONNX": ({"file_format": "ONNX"}, "ONNX: expected one of MINDIR, AIR"),
    "AIR on a CPU": ({"file_format": "AIR"}, "AIR needs an Ascend device, this is CPU"),
    "negative": ({"frames": -3}, "--frames -3: expected 0 or more"),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_refusals(case, trained, tmp_path):
    options, expected = REFUSALS[case]
    with pytest.raises(UserError, match=expected):
        export(trained[0], tmp_path / "speech", **options)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("device", ["CPU", "Ascend"])
def test_static_networks_need_their_shapes(device, trained, tmp_path):
    if device == "CPU":
        recogniser = make(rnn_type="GRU")
    else:
        recogniser = dataclasses.replace(trained[0], device="Ascend")
    for options in ({}, {"batch_size": 2}, {"frames": 30}):
        with pytest.raises(UserError, match="takes static shapes alone .*: give --batch_size"):
            export(recogniser, tmp_path / "speech", **options)


def test_dynamic_shapes_are_refused_where_there_are_none():
    recogniser = make(rnn_type="RNN")
    assert recogniser.static
    recogniser.config.DataConfig.batch_shapes = "dynamic"
    with pytest.raises(UserError, match="DataConfig.batch_shapes=dynamic"):
        recogniser.static  # noqa: B018
    recogniser.config.DataConfig.batch_shapes = "ragged"
    with pytest.raises(UserError, match="expected auto, dynamic or static"):
        recogniser.static  # noqa: B018


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
        export(trained[0], tmp_path / "speech", batch_size=1, frames=20)
    assert f"speech.mindir: MindSpore could not export it ({says}" in str(refusal.value)
    assert "\n" not in str(refusal.value) and not list(tmp_path.iterdir())

    error = OSError()  # as zipfile and shutil raise them, without a number
    with pytest.raises(UserError, match=r"speech\.mindir: could not be written \(OSError"):
        export(trained[0], tmp_path / "speech", batch_size=1, frames=20)


@pytest.mark.parametrize("place", ["file/speech", "folder"])
def test_where_nothing_can_be_written(place, trained, tmp_path):
    (tmp_path / "file").write_text("not a folder")
    (tmp_path / "folder.mindir").mkdir()
    with pytest.raises(UserError, match="could not be written") as refusal:
        export(trained[0], tmp_path / place, batch_size=1, frames=20)
    assert str(tmp_path / place) in str(refusal.value)
    assert (tmp_path / "file").read_text() == "not a folder"
