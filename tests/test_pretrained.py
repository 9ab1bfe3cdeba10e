"""The checkpoint that ships, and the command that makes one fit to be handed on."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from common.model import checkpoint
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
