"""Files of version 1.0.0 keep working: tests/data/before_packages/README.md says what they are."""

from __future__ import annotations

import csv
import json
import shutil
import tarfile
from pathlib import Path

import mindspore as ms
import numpy as np
import pytest
from synthetic_corpus import chdir

from common import __version__, cli
from common.data.mindrecord import open_dataset
from common.model import checkpoint
from common.model.speech_model import Forward, SpeechModel
from deepspeech2.src.recipe import RECIPE

FILES = Path(__file__).parent / "data" / "before_packages"
TEXTS = {"test0": "AC DBA", "test1": "DCD", "test2": "ACBA"}

pytestmark = pytest.mark.usefixtures("cpu")


@pytest.fixture(scope="module")
def expected() -> dict[str, np.ndarray]:
    with np.load(FILES / "expected.npz") as content:
        return dict(content)


@pytest.fixture(scope="module")
def old_model(cpu) -> SpeechModel:
    return SpeechModel.from_checkpoint(RECIPE, FILES / "tiny-last.ckpt", cpu)


@pytest.fixture(scope="module")
def records(tmp_path_factory) -> Path:
    """The folder with the MindRecord files of the splits `train` and `val`."""
    folder = tmp_path_factory.mktemp("old")
    with tarfile.open(FILES / "records.tar.xz") as archive:
        archive.extractall(folder, filter="data")
    return folder / "records"


def test_a_checkpoint_gives_the_same_log_probabilities(old_model, expected):
    log_probs, lengths = Forward(old_model)(expected["features"], expected["lengths"])
    np.testing.assert_array_equal(lengths, expected["output_lengths"])
    np.testing.assert_allclose(log_probs, expected["log_probs"], rtol=0, atol=1e-5)


def test_a_checkpoint_gives_the_same_texts_and_error_rates(tmp_path, capsys):
    options = ["--pretrain_ckpt", str(FILES / "tiny-last.ckpt"), "--device_target", "CPU"]
    with chdir(tmp_path):
        cli.evaluate(RECIPE, [*options, "--set", f"test_manifest={FILES / 'test.csv'}"])
        lines = capsys.readouterr().out.splitlines()
        assert lines[-1] == "Test Summary \tAverage WER 25.000\tAverage CER 7.692"
        files = [str(FILES / "test" / f"{name}.wav") for name in TEXTS]
        cli.transcribe(RECIPE, [*files, *options])
    assert capsys.readouterr().out.splitlines() == [
        f"{file}\t{text}" for file, text in zip(files, TEXTS.values())
    ]


def test_a_mindrecord_split_has_the_same_features_and_labels(records, old_model, expected):
    featurizer = old_model.featurizer
    source = open_dataset(records / "val", featurizer=featurizer, tokenizer=old_model.tokenizer)
    assert source.ids == ["val0", "val1", "val2", "val3"]
    assert source.texts == ["DDA", "DABD", "DB", "CAA"]
    for row in source.read(range(4)):
        np.testing.assert_array_equal(row.label_ids, expected[f"val_{row.id}_labels"])
        features = featurizer(row.samples(featurizer))
        np.testing.assert_allclose(features, expected[f"val_{row.id}_features"], rtol=0, atol=1e-5)


def test_a_mindir_file_gives_the_same_log_probabilities(expected):
    network = ms.nn.GraphCell(ms.load(str(FILES / "tiny.mindir")))
    log_probs, lengths = network(ms.Tensor(expected["features"]), ms.Tensor(expected["lengths"]))
    np.testing.assert_array_equal(lengths.asnumpy(), expected["output_lengths"])
    np.testing.assert_allclose(log_probs.asnumpy(), expected["log_probs"], rtol=0, atol=1e-5)


def test_the_description_of_a_mindir_file_leads_to_the_same_features(tmp_path, expected):
    with chdir(tmp_path):
        manifest = f"test_manifest={FILES / 'test.csv'}"
        cli.preprocess(RECIPE, ["--mindir_path", str(FILES / "tiny.mindir"), "--set", manifest])
    for index in range(3):
        written = tmp_path / "preprocess_Result" / "00_data" / f"test{index}.bin"
        features = np.fromfile(written, np.float32).reshape(16, -1)
        wanted = expected["features"][index, :, : expected["lengths"][index]]
        np.testing.assert_allclose(features, wanted, rtol=0, atol=1e-5)


def test_a_run_resumes_with_the_same_loss_and_error_rates(records, tmp_path):
    (tmp_path / "checkpoint").mkdir()
    shutil.copy(FILES / "tiny-last.ckpt", tmp_path / "checkpoint")
    shutil.copy(FILES / "labels.json", tmp_path)
    options = ["ckpt_file_name_prefix=tiny", "epochs=82", "eval_every=6"]
    options.append(f"mindrecord_format={records}/{{split}}/tones{{}}.md")
    with chdir(tmp_path):
        cli.train(RECIPE, ["--resume", "--device_target", "CPU", "--set", *options])
    with (tmp_path / "metrics.csv").open() as file:
        (row,) = csv.DictReader(file)
    assert (row["epoch"], row["step"]) == ("82.0", "246")
    assert float(row["train_loss"]) == pytest.approx(0.1601823509360353, abs=1e-4)
    assert (float(row["val_wer"]), float(row["val_cer"])) == (75.0, 50.0)
    written = checkpoint.load(tmp_path / "checkpoint" / "tiny-last.ckpt")
    assert written.metadata and written.metadata["project_version"] == __version__


def test_exported_models_and_converted_corpora_name_the_version(tmp_path):
    data = ["sample_rate=8000", "features=logmel", "bands=16", f"labels_path={FILES}/labels.json"]
    data += [f"train_manifest={FILES}/test.csv", "val_manifest=[]", "shards=1"]
    with chdir(tmp_path):
        cli.export(
            RECIPE,
            ["--pre_trained_model_path", str(FILES / "tiny-last.ckpt"), "--device_target", "CPU"],
        )
        cli.create_mindrecord(RECIPE, ["--set", *data, "mindrecord_format=new/{split}/x{}.md"])
    for written in ("deepspeech2.json", "new/train/dataset.json"):
        description = json.loads((tmp_path / written).read_text())
        assert description["project_version"] == __version__, written
