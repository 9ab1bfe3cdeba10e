"""Converted splits beside the manifests they are said to hold."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from synthetic_corpus import LABELS, make_corpus, record, tiny

from common.data.dataset import Dataset
from common.data.manifest import read_manifest
from common.data.manifest_writers import write_jasper_json
from common.data.splits import convert_split, open_split
from common.text.tokenizer import CharacterTokenizer
from common.utils.errors import UserError
from deepspeech2.src.recipe import RECIPE


@pytest.fixture
def corpus(tmp_path) -> Path:
    """Three utterances to train on and two to evaluate on, converted."""
    make_corpus(tmp_path, train=3, val=2, test=1)
    for split in ("train", "val"):
        convert(tmp_path, split)
    return tmp_path


def convert(corpus: Path, split: str = "train", **changes: Any) -> None:
    said = []
    convert_split(RECIPE, tiny(corpus, **changes), split, log=said.append)


def opened(corpus: Path, split: str = "train", **changes: Any) -> Dataset:
    config = tiny(corpus, **changes)
    features = RECIPE.build_featurizer(config.DataConfig)
    tokenizer = CharacterTokenizer(tuple(LABELS))
    return open_split(
        SimpleNamespace(config=config, featurizer=features, tokenizer=tokenizer), split
    )


def respell(manifest: Path) -> None:
    manifest.write_text(manifest.read_text().replace("A", "B"))


def test_the_manifest_of_the_conversion_may_be_moved(corpus):
    texts = [utterance.text for utterance in read_manifest(corpus / "train.csv")]
    assert opened(corpus).texts == texts
    (corpus / "far").mkdir()
    copied = shutil.copy(corpus / "train.csv", corpus / "far")
    assert opened(corpus, Data__train_manifest=str(copied)).texts == texts


def test_without_manifest_or_recordings_the_records_are_enough(corpus):
    shutil.rmtree(corpus / "train")
    assert len(opened(corpus)) == 3
    (corpus / "train.csv").unlink()
    assert len(opened(corpus)) == 3


def test_a_manifest_that_has_changed_is_refused_until_converted_again(corpus):
    respell(corpus / "train.csv")
    path = corpus / "train.csv"
    with pytest.raises(UserError) as refused:
        opened(corpus)
    assert str(refused.value) == (
        f"{corpus}/records/train was converted from {path}, which has changed since: convert again "
        "(create_mindrecord.py), or set train_manifest= (nothing) to train on it as it is"
    )
    assert len(opened(corpus, Data__train_manifest="")) == 3
    convert(corpus)
    assert opened(corpus).texts == [utterance.text for utterance in read_manifest(path)]


def test_another_manifest_is_refused(corpus):
    other = record(corpus, "other", 3, seed=9)
    for split, way in (("train", "set train_manifest="), ("val", "set val_manifest to what it")):
        with pytest.raises(UserError) as refused:
            opened(corpus, split, **{f"Data__{split}_manifest": str(other)})
        assert str(refused.value).startswith(
            f"{corpus}/records/{split} was converted from {corpus}/{split}.csv, and "
            f"{split}_manifest is {other}: convert again (create_mindrecord.py), or {way}"
        )


def test_several_manifests_are_one_split(corpus):
    more = record(corpus, "more", 2, seed=9)
    both = [str(corpus / "train.csv"), str(more)]
    convert(corpus, Data__train_manifest=both)
    wanted = [utterance.text for utterance in read_manifest(both)]
    assert opened(corpus, Data__train_manifest=both).texts == wanted
    with pytest.raises(UserError) as refused:
        opened(corpus)
    assert str(refused.value).startswith(
        f"{corpus}/records/train was converted from {corpus}/train.csv, {corpus}/more.csv, and "
        f"train_manifest is {corpus}/train.csv: convert again"
    )
    respell(more)
    with pytest.raises(UserError, match="more.csv, which have changed since: convert again"):
        opened(corpus, Data__train_manifest=both)


def test_a_split_without_manifests_cannot_be_converted(corpus):
    with pytest.raises(UserError, match="DataConfig.train_manifest names no manifest"):
        convert(corpus, Data__train_manifest="")


def test_records_of_differently_normalised_transcripts_are_refused(corpus):
    path = corpus / "train.csv"
    path.write_text(path.read_text().replace("\n", "!\n"))
    english = {"Data__normalize_transcripts": "english"}
    convert(corpus, **english)
    texts = [utterance.text.rstrip("!") for utterance in read_manifest(path)]
    assert opened(corpus, **english).texts == texts
    with pytest.raises(UserError) as refused:
        opened(corpus)
    assert str(refused.value).startswith(
        f"{corpus}/records/train was converted from {path} (transcripts normalised: english), and "
        f"train_manifest is {path}: convert again"
    )


@pytest.fixture
def perturbed(corpus) -> Path:
    """The corpus's training set as Jasper's JSON, each with a copy that claims another speed."""
    utterances = []
    for utterance in read_manifest(corpus / "train.csv"):
        copy = utterance.audio.with_name(f"{utterance.id}-0.9.wav")
        shutil.copy(utterance.audio, copy)
        utterances += [
            utterance,
            replace(utterance, id=copy.stem, audio=copy, speed=0.9, copy_of=utterance.id),
        ]
    write_jasper_json(utterances, corpus / "speeds.json")
    return corpus


def test_copies_at_other_speeds_are_converted_where_they_are_wanted(perturbed):
    manifest = {"Data__train_manifest": str(perturbed / "speeds.json")}
    manifest["Data__val_manifest"] = manifest["Data__train_manifest"]
    ours = manifest | {"Data__ignore_offline_speed_perturbation": False}
    mains = ["train0", "train1", "train2"]
    for split in ("train", "val"):
        convert(perturbed, split, **manifest)
        assert opened(perturbed, split, **manifest).ids == mains
    with pytest.raises(UserError, match="convert again"):
        opened(perturbed, **ours)  # records without the copies
    for split in ("train", "val"):
        convert(perturbed, split, **ours)
    source = opened(perturbed, **ours)
    assert source.ids == [name for main in mains for name in (main, f"{main}-0.9")]
    assert [entry.copy_of for entry in source.entries[:2]] == ["", "train0"]
    assert source.spoken.tolist() == [0, 0, 1, 1, 2, 2]
    assert opened(perturbed, "val", **ours).ids == mains  # evaluated as they were spoken
    assert opened(perturbed, **manifest).ids == source.ids  # which `trainable` leaves out


def test_files_that_do_not_say_what_they_were_converted_from_are_trusted(corpus):
    path = corpus / "records" / "train" / "dataset.json"
    made = json.loads(path.read_text())
    assert made.pop("origin") == str(corpus / "train.csv")
    del made["texts"]
    path.write_text(json.dumps(made))
    respell(corpus / "train.csv")
    assert len(opened(corpus)) == 3
