"""The checkpoint that ships, and the command that makes one fit to be handed on."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest

from common.cli.publish_checkpoint import publish
from common.export.offline_inference import read_description
from common.export.onnx import write_onnx
from common.export.onnx_metadata import (
    add_metadata,
    copy_without_metadata,
    embedded_description,
    read_metadata,
)
from common.model import checkpoint
from common.model.speech_model import SpeechModel
from common.utils.errors import UserError
from deepspeech2.src.recipe import RECIPE as DEEPSPEECH2
from jasper.src.recipe import RECIPE as JASPER

MODELS = pytest.mark.parametrize("recipe", [DEEPSPEECH2, JASPER], ids=lambda recipe: recipe.name)
pytestmark = pytest.mark.usefixtures("cpu")
ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.launcher
@pytest.mark.parametrize(
    ("recipe", "texts"),
    [(DEEPSPEECH2, {2: "TWO", 9: "NINE"}), (JASPER, {1: "one", 9: "nine"})],
    ids=["deepspeech2", "jasper"],
)
def test_it_turns_a_recording_into_text_where_none_is_named(recipe, texts, tmp_path):
    recordings = [ROOT / f"data/telephone_prompts/audio/digits/{n}.opus" for n in texts]
    done = subprocess.run(
        [sys.executable, recipe.folder / "transcribe.py", *recordings, "--device_target", "CPU"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    pairs = zip(recordings, texts.values())
    assert done.stdout == "".join(f"{path}\t{text}\n" for path, text in pairs)
    assert not list(tmp_path.iterdir())


@MODELS
def test_it_holds_weights_and_no_folder_of_another_machine(recipe):
    found = checkpoint.load(recipe.pretrained)
    assert recipe.pretrained.stat().st_size < 20e6
    assert not any(map(checkpoint.is_training_state, found.parameters))
    data = found.metadata["config"]["DataConfig"]
    for split in ("train", "val", "test"):
        assert data[f"{split}_manifest"] in (
            f"data/an4_{split}_manifest.csv",  # published before there were lists
            [f"data/an4_{split}_manifest.csv"],
        )
    assert "progress" not in found.metadata


def weights(path: Path) -> dict[str, np.ndarray]:
    """The tensors of an ONNX file with more than 1000 values."""
    found = {
        each.name: onnx.numpy_helper.to_array(each) for each in onnx.load(path).graph.initializer
    }
    return {name: values for name, values in found.items() if values.size > 1000}


@MODELS
def test_its_onnx_file_holds_its_weights_labels_and_configuration(recipe, tmp_path):
    path = recipe.pretrained.with_suffix(".onnx")
    description = embedded_description(path)
    metadata = checkpoint.load(recipe.pretrained).metadata
    assert description["labels"] == metadata["labels"] and description["file"] == path.name
    assert description["config"]["ModelConfig"].items() >= metadata["config"]["ModelConfig"].items()
    for split in ("train", "val", "test"):
        assert description["config"]["DataConfig"][f"{split}_manifest"] == [
            f"data/an4_{split}_manifest.csv"
        ]
    write_onnx(
        SpeechModel.from_checkpoint(recipe, recipe.pretrained, "CPU"),
        tmp_path / "again.onnx",
        samples=True,
    )
    found, expected = weights(path), weights(tmp_path / "again.onnx")
    assert sum(values.size for values in found.values()) > 1.9e6
    for values in expected.values():  # whatever they are named
        assert any(np.array_equal(values, each) for each in found.values())


@pytest.mark.launcher
def test_publishing_an_onnx_file_forgets_the_folders_of_this_machine(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shipped = JASPER.pretrained.with_suffix(".onnx")
    mine = Path("mine.onnx")
    entries = read_metadata(shipped)
    elsewhere = entries["description"].replace('"data/an4_', f'"{tmp_path}/data/an4_')
    copy_without_metadata(shipped, mine)
    add_metadata(mine, {**entries, "description": elsewhere})
    assert str(tmp_path) in str(embedded_description(mine))
    publish("mine.onnx", "an4.onnx")
    assert Path("an4.onnx").read_bytes() == shipped.read_bytes()
    publish("an4.onnx", "again/an4.onnx")
    assert Path("again/an4.onnx").read_bytes() == shipped.read_bytes()


@MODELS
def test_damaged_weights_of_its_onnx_file_are_said(recipe, tmp_path):
    damaged = bytearray(recipe.pretrained.with_suffix(".onnx").read_bytes())
    damaged[4_000_000:4_200_000] = bytes(200_000)
    (tmp_path / "an4.onnx").write_bytes(damaged)
    with pytest.raises(UserError, match="an4.onnx: its model has the checksum .* it is damaged"):
        read_description(recipe, tmp_path / "an4.onnx").forward()
    with pytest.raises(UserError, match="an4.onnx: its model has the checksum"):
        publish(str(tmp_path / "an4.onnx"), str(tmp_path / "new.onnx"))
    assert [each.name for each in tmp_path.iterdir()] == ["an4.onnx"]


@pytest.mark.launcher
def test_publishing_keeps_the_weights_and_drops_the_rest(tmp_path):
    weight = np.arange(6, dtype=np.float32).reshape(2, 3)
    data = {
        "train_manifest": [f"{tmp_path}/data/train.csv", f"{tmp_path}/more.csv"],
        "val_manifest": "/far/away/val.csv",  # as checkpoints had it before there were lists
        "test_manifest": "",
        "Data_dir": "/far/away",
    }
    metadata = {"format": 1, "model": "deepspeech2", "config": {"DataConfig": data}, "data": {}}
    import mindspore as ms

    parameters = {
        "fc.weight": ms.Tensor(weight - 1),
        "ema.fc.weight": ms.Tensor(weight),
        "moment1.fc.weight": ms.Tensor(weight),
    }
    checkpoint.save(tmp_path / "last.ckpt", parameters, metadata)
    command = [sys.executable, ROOT / "scripts" / "publish_checkpoint.py"]
    subprocess.run([*command, "last.ckpt", "out/mine.ckpt"], cwd=tmp_path, check=True)
    found = checkpoint.load(tmp_path / "out" / "mine.ckpt")
    assert list(found.parameters) == ["fc.weight"]
    np.testing.assert_array_equal(found.parameters["fc.weight"], weight)
    assert found.metadata == {
        "format": 1,
        "model": "deepspeech2",
        "config": {
            "DataConfig": {
                "train_manifest": [os.path.join("data", "train.csv"), "more.csv"],
                "val_manifest": ["val.csv"],
                "test_manifest": [],
                "Data_dir": "away",
            }
        },
    }
    done = subprocess.run(
        [*command, "none.ckpt", "x.ckpt"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert (done.returncode, len(done.stderr.splitlines())) == (1, 1)
