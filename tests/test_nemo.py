"""NeMo's archives: what its networks compute, and archives that nobody should trust.

FEATURES and LOG_PROBS are what NeMo 3.0.0 computes (EncDecCTCModel, PyTorch 2.13) of `recording`,
with the configurations and weights that are made here.
"""

from __future__ import annotations

import argparse
import gzip
import io
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from common.audio.features import build_featurizer
from common.interop import nemo_archive, torch_pickle
from common.utils.errors import UserError
from jasper.src.nvidia import import_weights, open_file, pt2mind
from jasper.src.recipe import RECIPE

pytestmark = pytest.mark.usefixtures("cpu")

LABELS = [" ", "a", "b", "é"]
# Every second frame of bands 0, 21, 42 and 63.
FEATURES = [
    [3.61162, 0.83354, 0.49566, 0.01052, 0.30618, -0.68888, -0.64506, -0.52439, -0.42570, -0.66568],
    [0.28789, -0.40322, 0.57550, 1.06878, 1.15547, 0.95339, 0.42713, -0.41062, -1.48892, -1.36631],
    [
        2.73935,
        0.81197,
        0.29527,
        0.80086,
        -0.72364,
        -0.61726,
        -0.26708,
        -0.40447,
        -0.53913,
        -0.75057,
    ],
    [-0.30916, 1.89309, 1.17652, 0.01665, 0.31108, 0.52618, -1.16561, -0.66973, -0.99662, -0.83147],
]
LOG_PROBS = {
    "quartznet": [
        [-2.56298, -0.57214, -2.08658, -1.96947, -2.35423],
        [-3.12535, -0.28433, -2.37602, -2.46231, -3.67307],
        [-3.48456, -0.24524, -2.34112, -2.76928, -3.57941],
        [-3.06198, -0.30546, -2.23794, -2.55626, -3.43745],
        [-2.14477, -0.79145, -2.20663, -1.61886, -2.10767],
        [-2.32513, -0.65579, -2.46691, -1.77478, -2.04926],
        [-3.06931, -0.41921, -2.33380, -2.27074, -2.34526],
        [-3.28995, -0.41337, -1.74227, -2.68872, -2.84327],
        [-3.12161, -0.36775, -2.15225, -2.34865, -2.95843],
        [-2.63117, -0.58194, -2.12272, -1.93904, -2.24768],
    ],
    "jasper": [
        [-1.64025, -0.91226, -2.57709, -2.32849, -1.46528],
        [-1.64483, -0.94537, -2.46737, -2.20406, -1.49943],
        [-1.29433, -1.05647, -2.28818, -2.75078, -1.54689],
        [-1.17493, -1.15635, -2.39720, -3.12790, -1.41987],
        [-1.21429, -0.63177, -3.19465, -3.00058, -2.51714],
        [-1.16194, -0.61323, -3.44773, -3.40755, -2.51849],
        [-1.32298, -0.60552, -3.15671, -2.77667, -2.48824],
        [-1.35642, -0.60198, -3.11031, -2.72844, -2.46765],
        [-1.72568, -0.45631, -3.73059, -2.02461, -3.43237],
        [-1.80603, -0.41463, -3.88238, -2.07909, -3.52459],
    ],
}


def block(filters: int, kernel: int, **more: Any) -> dict:
    keys = {"repeat": 1, "stride": [1], "dilation": [1], "dropout": 0.2, "residual": False}
    return {**keys, "filters": filters, "kernel": [kernel], **more}


DENSE = {"repeat": 2, "residual": True, "residual_dense": True}
BLOCKS = {
    "quartznet": [
        block(12, 11, stride=[2], separable=True),
        block(16, 13, repeat=2, residual=True, separable=True),
        block(16, 7, dilation=[2], separable=True),
        block(20, 1),
    ],
    "jasper": [
        block(10, 11, stride=[2]),
        block(8, 5, **DENSE),
        block(12, 5, **DENSE),
        block(12, 9, dilation=[2]),
        block(16, 1),
    ],
}
ACTIVATIONS = {"quartznet": "relu", "jasper": "selu"}
MODULES = "nemo.collections.asr.modules"
TARGET = "nemo.collections.asr.models.ctc_models.EncDecCTCModel"


def configuration(name: str = "quartznet") -> dict:
    return {
        "preprocessor": {
            "_target_": f"{MODULES}.AudioToMelSpectrogramPreprocessor",
            "normalize": "per_feature",
            "window_size": 0.02,
            "sample_rate": 16000,
            "window_stride": 0.01,
            "window": "hann",
            "features": 64,
            "n_fft": 512,
            "frame_splicing": 1,
            "dither": 1e-5,
            "pad_to": 16,
        },
        "encoder": {
            "_target_": f"{MODULES}.ConvASREncoder",
            "feat_in": 64,
            "activation": ACTIVATIONS[name],
            "conv_mask": True,
            "jasper": [dict(each) for each in BLOCKS[name]],
        },
        "decoder": {
            "_target_": f"{MODULES}.ConvASRDecoder",
            "feat_in": BLOCKS[name][-1]["filters"],
            "num_classes": len(LABELS),
            "vocabulary": list(LABELS),
        },
        "optim": {"name": "novograd"},
        "target": TARGET,
    }


def shapes(name: str) -> dict[str, tuple[int, ...]]:
    """NeMo's names and shapes of the parameters of a network."""
    found: dict[str, tuple[int, ...]] = {}

    def norm(module: str, channels: int) -> None:
        for leaf in ("weight", "bias", "running_mean", "running_var"):
            found[f"{module}.{leaf}"] = (channels,)

    inputs, dense = 64, []
    for number, each in enumerate(BLOCKS[name]):
        place, filters, kernel = f"encoder.encoder.{number}", each["filters"], each["kernel"][0]
        dense = [*dense, inputs] if each.get("residual_dense") else []
        entering = (dense or [inputs]) if each["residual"] else []
        at = 0
        for _ in range(each["repeat"]):
            if each.get("separable"):
                found[f"{place}.mconv.{at}.conv.weight"] = (inputs, 1, kernel)
                found[f"{place}.mconv.{at + 1}.conv.weight"] = (filters, inputs, 1)
            else:
                found[f"{place}.mconv.{at}.conv.weight"] = (filters, inputs, kernel)
            at += 2 if each.get("separable") else 1
            norm(f"{place}.mconv.{at}", filters)
            at, inputs = at + 3, filters  # with activation and dropout
        for index, width in enumerate(entering):
            found[f"{place}.res.{index}.0.conv.weight"] = (filters, width, 1)
            norm(f"{place}.res.{index}.1", filters)
    found["decoder.decoder_layers.0.weight"] = (len(LABELS) + 1, inputs, 1)
    found["decoder.decoder_layers.0.bias"] = (len(LABELS) + 1,)
    return found


def state_dict(name: str = "quartznet") -> dict[str, np.ndarray]:
    rng = np.random.RandomState(5)  # whose numbers never change
    weights = {}
    for key, shape in sorted(shapes(name).items()):
        if key.endswith("running_var"):
            values = rng.uniform(0.5, 2, shape)
        elif len(shape) == 1:
            values = rng.uniform(-0.5, 1, shape)
        else:
            values = rng.standard_normal(shape) * 1.5 / np.sqrt(np.prod(shape[1:]))
        weights[key] = values.astype(np.float32)
        if key.endswith("running_var"):
            weights[key.replace("running_var", "num_batches_tracked")] = np.array(7)
    return weights


def recording() -> np.ndarray:
    time = np.arange(3277) / 16000
    noise = np.random.RandomState(6).standard_normal(len(time))
    tones = sum(np.sin(2 * np.pi * hertz * time * (1 + time)) for hertz in (220, 880, 2900))
    return ((0.05 * tones + 0.01 * noise) * np.exp(-8 * time)).astype(np.float32)


def packed(members: dict[str, bytes], path: Path, mode: str = "w") -> Path:
    with tarfile.open(path, mode) as archive:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


def members(folder: Path, config: dict | None = None, weights: Any = None) -> dict[str, bytes]:
    torch_pickle.write(folder / "w.pt", state_dict() if weights is None else weights)
    return {
        "./model_config.yaml": yaml.safe_dump(config or configuration()).encode(),
        "./model_weights.ckpt": (folder / "w.pt").read_bytes(),
    }


def imported(path: Path) -> Any:
    options = dict.fromkeys(("weights", "decoder", "preset", "config", "labels"))
    with open_file(str(path)) as content:
        return import_weights(RECIPE, content, argparse.Namespace(pth=str(path), **options))


@pytest.fixture(scope="module")
def archive(tmp_path_factory) -> Path:
    """A plain one."""
    folder = tmp_path_factory.mktemp("nemo")
    return packed(members(folder), folder / "plain.nemo")


# ---- what NeMo computes


@pytest.mark.parametrize("name", BLOCKS)
def test_features_and_log_probabilities_equal_those_of_nemo(name, tmp_path, capsys):
    onnxruntime = pytest.importorskip("onnxruntime")
    from common.export.onnx import write_onnx
    from common.model.speech_model import SpeechModel

    weights = state_dict(name)
    path = packed(members(tmp_path, configuration(name), weights), tmp_path / "m.nemo", "w:gz")
    pt2mind(RECIPE, ["--pth", str(path), "--ckpt", str(tmp_path / "m.ckpt")])
    assert f"{len(shapes(name))} of {len(shapes(name))} tensors match" in capsys.readouterr().out
    speech_model = SpeechModel.from_checkpoint(RECIPE, tmp_path / "m.ckpt", "CPU")
    assert speech_model.tokenizer.labels == (*LABELS, "_")
    features = speech_model.featurizer(recording())
    np.testing.assert_allclose(features[::21, ::2], FEATURES, atol=1e-4)

    write_onnx(speech_model, tmp_path / "m.onnx", samples=True)  # the features are in the file
    session = onnxruntime.InferenceSession(str(tmp_path / "m.onnx"))
    samples = recording()[None]
    inputs = {"samples": samples, "lengths": np.array([samples.shape[1]], np.int32)}
    log_probs, frames = session.run(["log_probs", "output_lengths"], inputs)
    assert frames.tolist() == [10]
    np.testing.assert_allclose(log_probs[:, 0], LOG_PROBS[name], atol=1e-4)


# ---- forms of an archive


def of_2020() -> dict:
    """With `cls` and `params`."""
    config = configuration()
    for part in ("preprocessor", "encoder", "decoder"):
        keys = config[part]
        config[part] = {"cls": keys.pop("_target_"), "params": keys}
    return config


def with_references() -> dict:
    """As in the files that NeMo trains with."""
    config = configuration()
    config |= {"labels": LABELS, "repeat": 2, "kernel": [13]}
    config["decoder"]["vocabulary"] = "${model.labels}"
    config["encoder"]["jasper"][1] |= {"repeat": "${model.repeat}", "kernel": "${kernel}"}
    return {"name": "QuartzNet", "model": config}


@pytest.mark.parametrize("make", [of_2020, with_references])
def test_configurations_of_other_forms_give_the_same_network(make, archive, tmp_path):
    expected = imported(archive)
    path = packed(members(tmp_path, make()), tmp_path / "other.nemo")
    found = imported(path)
    assert found.config == expected.config and list(found.labels) == list(expected.labels)


def test_the_configuration_holds_what_the_archive_says(archive):
    found = imported(archive)
    data, spect = found.config.DataConfig, found.config.DataConfig.SpectConfig
    assert (spect.convention, spect.trim_silence, spect.preemphasis) == ("nemo", False, 0.97)
    assert data.normalize_transcripts == "" and data.test_manifest == []
    assert [block.dropout for block in found.config.ModelConfig.blocks] == [0.2] * 4
    assert found.config.ModelConfig.blocks[2].dilation == 2
    assert found.lines[0] == (
        "NeMo archive, 4 blocks, 5 separable convolutions, plain residuals, 5 labels"
    )


def test_window_and_filters_of_the_file_are_compared(tmp_path):
    config = imported(packed(members(tmp_path), tmp_path / "a.nemo")).config
    featurizer = build_featurizer(config.DataConfig)
    tables = {
        "preprocessor.featurizer.window": featurizer.window,
        "preprocessor.featurizer.fb": featurizer.filters.toarray()[None],
    }
    alike = packed(members(tmp_path, weights=state_dict() | tables), tmp_path / "b.nemo")
    assert not [line for line in imported(alike).lines if line.startswith("note")]
    tables["preprocessor.featurizer.window"] = np.hamming(320).astype(np.float32)
    other = packed(members(tmp_path, weights=state_dict() | tables), tmp_path / "c.nemo")
    assert "note: preprocessor.featurizer.window is not what" in imported(other).lines[-1]


# ---- other networks


def changed(part: str = "", **keys: Any) -> dict:
    config = configuration()
    (config[part] if part else config).update(keys)
    return config


def changed_block(**keys: Any) -> dict:
    config = configuration()
    config["encoder"]["jasper"][1].update(keys)
    return config


CITRINET = {**changed_block(se=True, se_reduction_ratio=8), "tokenizer": {"type": "bpe"}}
OTHER_NETWORKS = {
    "citrinet": (CITRINET, r"Citrinet or ContextNet \(squeeze-and-excitation\), subword labels"),
    "conformer": (changed("encoder", _target_=f"{MODULES}.ConformerEncoder"), "a Conformer "),
    "subwords": (changed(tokenizer={"dir": "x", "type": "bpe"}), r"subword labels \(a BPE tok"),
    "transducer": (changed("decoder", _target_=f"{MODULES}.RNNTDecoder"), "a transducer"),
    "classifier": (
        changed("decoder", _target_=f"{MODULES}.ConvASRDecoderClassification"),
        "a classifier such as MatchboxNet",
    ),
    "unknown": (changed("encoder", _target_="my.Encoder"), "encoder Encoder"),
    "no encoder": ({"preprocessor": {}}, "encoder missing, decoder missing"),
    "normalize": (
        changed("preprocessor", normalize="all_features"),
        "preprocessor.normalize: 'all_features', expected 'per_feature'",
    ),
    "guard": (
        changed("preprocessor", log_zero_guard_value=1e-10),
        r"preprocessor.log_zero_guard_value: 1e-10, expected 2\^-24",
    ),
    "clamp": (changed("preprocessor", log_zero_guard_type="clamp"), "log_zero_guard_type: 'clamp'"),
    "splicing": (changed("preprocessor", frame_splicing=2), "preprocessor.frame_splicing: 2"),
    "transform": (changed("preprocessor", n_fft=1024), "preprocessor.n_fft: 1024, .* 512"),
    "rate": (changed("preprocessor", sample_rate="16k"), "sample_rate: '16k', expected a number"),
    "window": (changed("preprocessor", window="kaiser"), "window 'kaiser': expected one of"),
    "unknown key": (changed("preprocessor", warp=1), "preprocessor.warp: 1 has no counterpart"),
    "groups": (changed_block(groups=4), r"encoder.jasper\[1\].groups: 4, expected 1"),
    "even kernel": (changed_block(kernel=[12]), r"blocks\[1\].kernel_size=12: expected an odd"),
    "two kernels": (changed_block(kernel=[11, 13]), r"jasper\[1\].kernel: \[11, 13\], expected a"),
    "activation": (changed("encoder", activation="swish"), "encoder.activation: 'swish', expected"),
    "labels": (changed("decoder", vocabulary=["a", "th"]), "vocabulary: 'th', expected single"),
    "blank": (changed("decoder", vocabulary=["a", "_"], num_classes=2), "more than once: '_'"),
    "classes": (changed("decoder", vocabulary=["a"]), "num_classes: 4, expected 1, the labels"),
    "reference": (changed("decoder", vocabulary="${nowhere}"), "refers to a key that is not there"),
    "itself": (
        {**changed("decoder", vocabulary="${again}"), "again": "${again}"},
        "nested too deeply",
    ),
    "weights": (changed_block(filters=24), "not of the network that it describes: block 1: filt"),
}


@pytest.mark.parametrize("name", OTHER_NETWORKS)
def test_what_has_no_counterpart_is_refused_by_name(name, tmp_path):
    config, message = OTHER_NETWORKS[name]
    path = packed(members(tmp_path, config), tmp_path / "m.nemo")
    with pytest.raises(UserError, match=rf"m\.nemo: .*{message}"):
        imported(path)


def test_options_that_the_archive_answers_are_refused(archive, tmp_path):
    command = ["--pth", str(archive), "--ckpt", str(tmp_path / "m.ckpt"), "--preset", "an4"]
    with pytest.raises(UserError, match="has all that it needs: leave out --preset"):
        pt2mind(RECIPE, command)


# ---- archives that nobody should trust


def link(kind: bytes, name: str = "./model_weights.ckpt") -> bytes:
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, "/etc/passwd"
    return member.tobuf()


def announced(size: int, name: str = "./model_weights.ckpt") -> bytes:
    member = tarfile.TarInfo(name)
    member.size = size
    return member.tobuf(tarfile.GNU_FORMAT)


def long_header(size: int) -> bytes:
    member = tarfile.TarInfo("././@PaxHeader")
    member.type, member.size = tarfile.XHDTYPE, size
    return member.tobuf(tarfile.GNU_FORMAT)


HOSTILE = {
    "leads out": (tarfile.TarInfo("../../x").tobuf(), r"holds \.\./\.\./x, which leads out of it"),
    "absolute": (tarfile.TarInfo("/tmp/x").tobuf(), "holds /tmp/x, which leads out of it"),
    "symlink": (link(tarfile.SYMTYPE), "model_weights.ckpt, a link or device"),
    "hard link": (link(tarfile.LNKTYPE), "model_weights.ckpt, a link or device"),
    "device": (link(tarfile.CHRTYPE), "model_weights.ckpt, a link or device"),
    "huge": (announced(1 << 45), "model_weights.ckpt has 35184372088832 bytes, expected at most"),
    "huge text": (announced(1 << 30, "model_config.yaml"), "has 1073741824 bytes, expected at mos"),
    "long header": (long_header(1 << 40), "an entry of type b'x' with 1099511627776 bytes"),
    "sparse": (link(tarfile.GNUTYPE_SPARSE), "an entry of type b'S'"),
    "many": (tarfile.TarInfo("x").tobuf() * 1001, "holds more than 1000 files"),
    "no end": (announced(5000), "damaged or cut"),
    "nothing": (bytes(1024), "holds no model_config.yaml and no model_weights.ckpt"),
    "text": (b"this is no archive" * 100, "damaged or cut"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_archives_are_refused_in_one_line(name, tmp_path):
    content, message = HOSTILE[name]
    for file, data in {"m.nemo": content, "z.nemo": gzip.compress(content)}.items():
        (tmp_path / file).write_bytes(data)
        with pytest.raises(UserError, match=rf"{file}: .*{message}") as raised:
            imported(tmp_path / file)
        assert "\n" not in str(raised.value)


def test_a_cut_archive_is_refused_wherever_it_is_cut(archive, tmp_path):
    whole = archive.read_bytes()
    end = len(whole) - 10240  # the last record may be zeros alone, which nobody misses
    for name, data in {"m.nemo": whole, "z.nemo": gzip.compress(whole, mtime=0)}.items():
        for part in np.linspace(0.02, 0.98, 25):
            (tmp_path / name).write_bytes(data[: int(part * (end if data is whole else len(data)))])
            with pytest.raises(UserError, match=rf"{name}: "):
                imported(tmp_path / name)


def test_damage_that_a_checksum_shows_is_refused(archive, tmp_path):
    data = bytearray(gzip.compress(archive.read_bytes()))
    data[-6] ^= 1
    (tmp_path / "z.nemo").write_bytes(data)
    with pytest.raises(UserError, match=r"z\.nemo: damaged or cut \(CRC check failed"):
        imported(tmp_path / "z.nemo")
    whole = members(tmp_path)
    weights = bytearray(whole["./model_weights.ckpt"])
    weights[len(weights) // 2] ^= 1  # in the numbers of a tensor
    path = packed(whole | {"./model_weights.ckpt": bytes(weights)}, tmp_path / "m.nemo")
    with pytest.raises(UserError, match=r"m\.nemo: model_weights\.ckpt: "):
        pt2mind(RECIPE, ["--pth", str(path), "--ckpt", str(tmp_path / "m.ckpt")])
    assert not (tmp_path / "m.ckpt").exists()


def test_functions_that_the_weights_name_do_not_run(tmp_path):
    ran = tmp_path / "ran"
    call = torch_pickle.named("os.mkdir")(str(ran))
    whole = members(tmp_path, weights={**state_dict(), "call": call})
    found = imported(packed(whole, tmp_path / "m.nemo"))
    assert len(found.weights) == len(shapes("quartznet")) and not ran.exists()


def test_yaml_that_grows_is_refused(tmp_path):
    lines = ["a0: &a0 [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 9)]
    text = "\n".join([*lines, yaml.safe_dump(configuration()).replace("- a\n", "- *a8\n")])
    whole = members(tmp_path) | {"./model_config.yaml": text.encode()}
    with pytest.raises(UserError, match="more than 200000 values, or nested too deeply"):
        imported(packed(whole, tmp_path / "m.nemo"))
    assert not nemo_archive.is_archive(tmp_path / "missing.nemo")
