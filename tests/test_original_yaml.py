"""YAML files of the Jasper originals and of QuartzNet, read as they are."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import yaml

from common.utils.errors import UserError
from jasper.src.original_yaml import translate_yaml

MINDSPORE = """
name: "Jasper"
labels: [" ", "a", "b", "'"]
input_val:
  audio_dataset: &val_dataset
    sample_rate: &sample_rate 16000
    trim_silence: true
    normalize_transcripts: true
  filterbank_features: &val_features
    normalize: per_feature
    sample_rate: *sample_rate
    window_size: 0.02
    window_stride: 0.01
    window: hann
    n_filt: &n_filt 64
    n_fft: 512
    frame_splicing: &frame_splicing 1
    dither: 0.00001
    pad_align: 16
input_train:
  audio_dataset:
    <<: *val_dataset
    max_duration: 16.7
    ignore_offline_speed_perturbation: true
  filterbank_features:
    <<: *val_features
    max_duration: 16.7
    spec_augment:
      freq_masks: 2
      max_freq: 20
      time_masks: 2
      max_time: 75
jasper:
  encoder:
    weight_init: xavier_uniform
    in_feats: *n_filt
    frame_splicing: *frame_splicing
    activation: relu
    use_conv_masks: true
    blocks:
    - {filters: 256, repeat: 1, kernel_size: 11, stride: 2, dilation: 1, dropout: 0.2,
       residual: false}
    - &B1 {filters: 256, repeat: 5, kernel_size: 11, stride: 1, dilation: 1, dropout: 0.2,
       residual: true, residual_dense: true}
    - *B1
    - {filters: &enc_feats 1024, repeat: 1, kernel_size: 1, stride: 1, dilation: 2, dropout: 0.4,
       residual: false}
  decoder:
    in_feats: *enc_feats
    init: xavier_uniform
"""
FIRST = {
    "filters": 256,
    "repeat": 1,
    "kernel_size": 11,
    "stride": 2,
    "dilation": 1,
    "dropout": 0.2,
    "residual": False,
    "residual_dense": False,
    "separable": False,
}
DENSE = FIRST | {"repeat": 5, "stride": 1, "residual": True, "residual_dense": True}
LAST = FIRST | {"filters": 1024, "kernel_size": 1, "stride": 1, "dilation": 2, "dropout": 0.4}
EXPECTED = {
    "labels": [" ", "a", "b", "'"],
    "ModelConfig": {
        "blocks": [FIRST, DENSE, DENSE, LAST],
        "activation": "relu",
        "weight_init": "xavier_uniform",
    },
    "DataConfig": {
        "min_duration": 0.1,
        "max_duration": 16.7,
        "pad_align": 16,
        "normalize_transcripts": "english",
        "ignore_offline_speed_perturbation": True,
        "SpectConfig": {
            "sample_rate": 16000,
            "window_size": 0.02,
            "window_stride": 0.01,
            "window": "hann",
            "features": "logmel",
            "bands": 64,
            "frame_splicing": 1,
            "preemphasis": 0.97,
            "trim_silence": True,
            "convention": "jasper-mindspore",
        },
        "AugmentationConfig": {
            "dither": 1e-5,
            "speed_volume_perturb": False,
            "speeds": [],
            "spec_augment": True,
            "freq_masks": 2,
            "freq_min": 0,
            "freq_width": 20,
            "time_masks": 2,
            "time_min": 0,
            "time_frames": 75,
            "cutout_masks": 0,
        },
    },
}

QUARTZNET = """
name: "QuartzNet"
labels: [" ", "a"]
input_train:
  audio_dataset:
    sample_rate: 16000
    trim_silence: false
    normalize_transcripts: false
    min_duration: 0.5
    ignore_offline_speed_perturbation: false
    speed_perturbation: {min_rate: 0.85, max_rate: 1.15}
  filterbank_features:
    normalize: per_feature
    sample_rate: 16000
    window_size: 0.025
    window_stride: 0.01
    window: hamming
    n_filt: 80
    preemph: 0.9
    dither: 0.0
    frame_splicing: 2
    pad_align: 0
    cutout_augment: {masks: 5, min_freq: 1, max_freq: 15, min_time: 2, max_time: 25}
quartznet:
  encoder:
    init: kaiming_normal
    in_feats: 80
    frame_splicing: 2
    activation: hardtanh
    use_conv_masks: true
    blocks:
    - {filters: 512, repeat: 5, kernel_size: [33], stride: [2], dilation: [1], dropout: 0.0,
       residual: true, separable: true, padding: same, heads: -1}
    - {filters: 1024}
  decoder: {in_feats: 1024, init: kaiming_normal}
"""
QUARTZNET_EXPECTED = {
    "labels": [" ", "a"],
    "ModelConfig": {
        "blocks": [
            {
                "filters": 512,
                "repeat": 5,
                "kernel_size": 33,
                "stride": 2,
                "dilation": 1,
                "dropout": 0.0,
                "residual": True,
                "residual_dense": False,
                "separable": True,
            },
            {
                "filters": 1024,
                "repeat": 3,
                "kernel_size": 11,
                "stride": 1,
                "dilation": 1,
                "dropout": 0.2,
                "residual": True,
                "residual_dense": False,
                "separable": False,
            },
        ],
        "activation": "hardtanh",
        "weight_init": "kaiming_normal",
    },
    "DataConfig": {
        "min_duration": 0.5,
        "max_duration": math.inf,
        "pad_align": 1,
        "normalize_transcripts": "",
        "ignore_offline_speed_perturbation": False,
        "SpectConfig": {
            "sample_rate": 16000,
            "window_size": 0.025,
            "window_stride": 0.01,
            "window": "hamming",
            "features": "logmel",
            "bands": 80,
            "frame_splicing": 2,
            "preemphasis": 0.9,
            "trim_silence": False,
            "convention": "jasper-nvidia",
        },
        "AugmentationConfig": {
            "dither": 0.0,
            "speed_volume_perturb": True,
            "speed_min": 0.85,
            "speed_max": 1.15,
            "gain_min": 0.0,
            "gain_max": 0.0,
            "speeds": [],
            "spec_augment": False,
            "cutout_masks": 5,
            "cutout_freq_min": 1,
            "cutout_freq_max": 15,
            "cutout_time_min": 2,
            "cutout_time_max": 25,
        },
    },
}


def changed(path: str, value: Any = None, text: str = MINDSPORE) -> dict:
    """The content of a file with a key set to another value, or without it."""
    values = copy.deepcopy(yaml.safe_load(text))
    *groups, last = path.split(".")
    owner = values
    for group in groups:
        owner = owner[int(group) if group.isdigit() else group]
    if value is None:
        del owner[last]
    else:
        owner[last] = value
    return values


def test_the_mindspore_original_is_translated():
    values = yaml.safe_load(MINDSPORE)
    before = copy.deepcopy(values)
    assert translate_yaml(values) == EXPECTED
    assert values == before


def test_a_quartznet_file_is_translated():
    assert translate_yaml(yaml.safe_load(QUARTZNET)) == QUARTZNET_EXPECTED


def augmentation(path: str, value: Any) -> dict:
    return translate_yaml(changed(path, value))["DataConfig"]["AugmentationConfig"]


def test_speed_perturbation_and_masks_are_translated():
    speed = "input_train.audio_dataset.speed_perturbation"
    base = EXPECTED["DataConfig"]["AugmentationConfig"]
    drawn = augmentation(speed, {"discrete": True, "min_rate": 0.9, "max_rate": 1.1})
    assert drawn == base | {"speeds": [0.9, 1.0, 1.1]}
    masks = "input_train.filterbank_features.spec_augment"
    none = {"freq_masks": 0, "max_freq": 20, "time_masks": 0, "max_time": 75}
    assert augmentation(masks, none)["spec_augment"] is False
    wide = none | {"time_masks": 1, "min_freq": 3, "min_time": 4}
    found = augmentation(masks, wide)
    assert (found["spec_augment"], found["freq_min"], found["time_min"]) == (True, 3, 4)


@pytest.mark.parametrize("values", [{}, {"DataConfig": {"batch_size": 3}}, {"name": "Jasper"}])
def test_own_yaml_files_are_not_translated(values):
    assert translate_yaml(values) is None


DATASET, FEATURES = "input_train.audio_dataset", "input_train.filterbank_features"
ENCODER, BLOCK = "jasper.encoder", "jasper.encoder.blocks.1"


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("ema", 0.999, "ema: 0.999 has no counterpart here: take it out"),
        ("input_train.noise", 1, "input_train.noise: 1 has no counterpart here: take it out"),
        (
            f"{DATASET}.gain_perturbation",
            {"p": 0.1},
            f"{DATASET}.gain_perturbation: {{'p': 0.1}} has no counterpart here: take it out",
        ),
        (
            f"{DATASET}.speed_perturbation",
            {"p": 0.1},
            f"{DATASET}.speed_perturbation.p: 0.1, expected 1 or no p: here every utterance is "
            "perturbed",
        ),
        (f"{DATASET}.max_utts", 9, f"{DATASET}.max_utts: 9, expected 0"),
        (
            f"{DATASET}.sample_rate",
            8000,
            f"{DATASET}.sample_rate: 8000, expected 16000, that of the features",
        ),
        (
            f"{DATASET}.max_duration",
            20,
            f"{FEATURES}.max_duration: 16.7, and 20 in audio_dataset",
        ),
        (
            f"{DATASET}.normalize_transcripts",
            "maybe",
            f"{DATASET}.normalize_transcripts: expected true or false",
        ),
        (f"{FEATURES}.normalize", "all_features", None),
        (f"{FEATURES}.lowfreq", 20, f"{FEATURES}.lowfreq: 20, expected 0"),
        (f"{FEATURES}.n_fft", 1024, f"{FEATURES}.n_fft: 1024, expected 512, the next power of two"),
        (f"{FEATURES}.window", None, f"{FEATURES}.window: missing"),
        (f"{FEATURES}.spec_augment.max_time", None, f"{FEATURES}.spec_augment.max_time: missing"),
        (
            "input_val.filterbank_features.n_filt",
            80,
            "input_val: bands is 80, and 64 in input_train: expected the same features and texts "
            "for both",
        ),
        (
            "input_val.audio_dataset.normalize_transcripts",
            False,
            "input_val: normalize_transcripts is '', and 'english' in input_train: expected the "
            "same features and texts for both",
        ),
        (
            "input_val.audio_dataset.speed_perturbation",
            {},
            "input_val: augmentation of evaluation has no counterpart here",
        ),
        ("labels", "abc", "labels: expected a list of characters, found 'abc'"),
        ("jasper", None, "expected one network, jasper or quartznet; found 0"),
        ("jasper.encoder", 3, "jasper.encoder: expected a group of keys, found 3"),
        (
            f"{ENCODER}.in_feats",
            80,
            f"{ENCODER}.in_feats: 80, expected 64, the n_filt of the features",
        ),
        (
            f"{ENCODER}.frame_splicing",
            2,
            f"{ENCODER}.frame_splicing: 2, expected 1, that of the features",
        ),
        (
            f"{ENCODER}.use_conv_masks",
            False,
            f"{ENCODER}.use_conv_masks: expected true, here convolutions always honour the lengths "
            "of utterances",
        ),
        (f"{ENCODER}.blocks", [], f"{ENCODER}.blocks: expected a list of blocks, found []"),
        (
            f"{BLOCK}.kernal_size",
            3,
            "jasper.encoder.blocks[1].kernal_size: 3 has no counterpart here: take it out",
        ),
        (f"{BLOCK}.groups", 2, "jasper.encoder.blocks[1].groups: 2, expected 1"),
        (
            f"{BLOCK}.kernel_size",
            [3, 5],
            "jasper.encoder.blocks[1].kernel_size: [3, 5], expected one number",
        ),
        (f"{BLOCK}.filters", None, "jasper.encoder.blocks[1].filters: missing"),
        (
            "jasper.decoder.in_feats",
            512,
            "jasper.decoder.in_feats: 512, expected 1024, the filters of the last block",
        ),
        (
            "jasper.decoder.init",
            "kaiming_normal",
            "jasper.decoder.init: 'kaiming_normal', expected 'xavier_uniform', as in the encoder",
        ),
    ],
)
def test_keys_without_a_counterpart_are_refused_by_name(path, value, message):
    with pytest.raises(UserError) as refused:
        translate_yaml(changed(path, value))
    default = f"{path}: {value!r}, expected 'per_feature'"
    assert str(refused.value) == (message or default)
