"""Weights from deepspeech.pytorch and back: real files of torch.save, compared with PyTorch."""

from __future__ import annotations

import sys
from dataclasses import make_dataclass
from enum import Enum
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import soundfile

from benchmarks import reference
from common import cli
from common.export.export import Options, export
from common.model import checkpoint as checkpoints
from common.model.speech_model import Forward, SpeechModel
from common.text.tokenizer import CharacterTokenizer
from common.utils.errors import UserError
from deepspeech2.src.config import TrainConfig
from deepspeech2.src.deepspeech_pytorch import FORM, mind2pt, pt2mind
from deepspeech2.src.recipe import RECIPE

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.usefixtures("cpu")

LABELS = "_'ABCDEFGHIJKLMNOPQRSTUVWXYZ "  # its labels.json has the blank first
NETWORKS = {
    "LSTM": ("LSTM", True),
    "LSTM, one direction": ("LSTM", False),
    "GRU": ("GRU", True),
    "GRU, one direction": ("GRU", False),
}


@pytest.fixture
def package(monkeypatch):
    """Classes by the names that files of deepspeech.pytorch refer to, as a namespace."""

    class RNNType(Enum):
        lstm, gru, rnn = torch.nn.LSTM, torch.nn.GRU, torch.nn.RNN

    class SpectrogramWindow(Enum):
        hamming, hann = "hamming", "hann"

    names = ("SpectConfig", "BiDirectionalConfig", "UniDirectionalConfig", "AdamConfig")
    for parent in ("deepspeech_pytorch", "deepspeech_pytorch.configs", "omegaconf"):
        monkeypatch.setitem(sys.modules, parent, ModuleType(parent))
    modules = {
        "deepspeech_pytorch.enums": [RNNType, SpectrogramWindow],
        "deepspeech_pytorch.configs.train_config": [make_dataclass(name, []) for name in names],
        "omegaconf.dictconfig": [type("DictConfig", (), {})],
        "omegaconf.nodes": [type("AnyNode", (), {}), type("EnumNode", (), {})],
    }
    everything = ModuleType("everything")
    for name, kinds in modules.items():
        module = ModuleType(name)
        monkeypatch.setitem(sys.modules, name, module)
        for kind in kinds:
            kind.__module__, kind.__qualname__ = name, kind.__name__
            setattr(module, kind.__name__, kind)
            setattr(everything, kind.__name__, kind)
    return everything


def with_state(kind: type, **state):
    made = kind()
    made.__dict__.update(state)
    return made


def in_omegaconf(package, values: dict):
    """A DictConfig, in as much of the form that omegaconf 2.0 to 2.3 pickle as matters."""
    content = {
        key: with_state(
            package.EnumNode if isinstance(value, Enum) else package.AnyNode,
            _metadata={"key": key},
            _val=value,
        )
        for key, value in values.items()
    }
    made = with_state(package.DictConfig, _metadata={}, _content=content)
    for node in content.values():
        node._parent = made
    return made


def release_2(theirs, kind: str, bidirectional: bool, package, **more):
    return {
        "hidden_size": 8,
        "hidden_layers": 3,
        "rnn_type": kind.lower(),
        "audio_conf": {
            "sample_rate": 16000,
            "window_size": 0.02,
            "window_stride": 0.01,
            "window": "hann",
            "noise_dir": None,
        },
        "labels": LABELS,
        "state_dict": theirs.state_dict(),
        "bidirectional": bidirectional,
        "optim_dict": {"state": {}, "param_groups": []},
        "loss_results": torch.zeros(3),
        **more,
    }


def release_2_1(theirs, kind: str, bidirectional: bool, package):
    window = package.SpectrogramWindow.hann
    audio = with_state(package.SpectConfig, sample_rate=16000, window_size=0.02, window=window)
    return release_2(theirs, kind, bidirectional, package, audio_conf=audio, labels=list(LABELS))


def release_3(theirs, kind: str, bidirectional: bool, package):
    model = {
        "rnn_type": package.RNNType[kind.lower()],
        "hidden_size": 8,
        "hidden_layers": 3,
    }
    audio = {"sample_rate": 16000, "window": package.SpectrogramWindow.hann}
    return {
        "epoch": 3,
        "pytorch-lightning_version": "1.1.6",
        "state_dict": theirs.state_dict(),
        "optimizer_states": [{"state": {0: {"exp_avg": torch.zeros(2)}}}],
        "hyper_parameters": {
            "labels": list(LABELS),
            "model_cfg": in_omegaconf(package, model),
            "precision": 32,
            "spect_cfg": in_omegaconf(package, audio),
        },
    }


# Of each release, whether torch.save writes a zip archive, and the spectrogram it was trained on.
LAYOUTS = {
    "release 2.0": (release_2, False, "deepspeech.pytorch-2.0"),
    "release 2.1": (release_2_1, True, "deepspeech.pytorch"),
    "release 3": (release_3, True, "deepspeech.pytorch"),
}


def batch() -> tuple[np.ndarray, np.ndarray]:
    lengths = np.array([21, 12])
    features = np.random.default_rng(0).standard_normal((2, 161, 21)).astype(np.float32)
    features[1, :, 12:] = 0
    return features, lengths


def assert_same(found, expected, tolerance: float = 1e-4) -> None:
    """Both (log-probabilities (T, B, C), lengths (B,)); compared over the frames that count."""
    assert list(found[1]) == list(expected[1]) == [11, 6]
    for row, length in enumerate(found[1]):
        np.testing.assert_allclose(
            found[0][:length, row], expected[0][:length, row], atol=tolerance
        )


def by_torch(theirs) -> tuple[np.ndarray, np.ndarray]:
    with torch.no_grad():
        log_probs, lengths = theirs(*map(torch.tensor, batch()))
    return log_probs.numpy(), lengths.numpy()


def by_us(checkpoint: Path) -> tuple[np.ndarray, np.ndarray]:
    return Forward(SpeechModel.from_checkpoint(RECIPE, checkpoint, "CPU"))(*batch())


def converted(layout: str, network: str, package, folder: Path) -> tuple[Any, Path]:
    """(the torch network, our checkpoint of its file in that layout)."""
    content, zipped, _ = LAYOUTS[layout]
    theirs = reference.torch_deepspeech_pytorch(*NETWORKS[network])
    pth, ckpt = folder / f"{layout}.pth", folder / f"{layout}.ckpt"
    made = content(theirs, *NETWORKS[network], package)
    torch.save(made, pth, _use_new_zipfile_serialization=zipped)
    pt2mind(RECIPE, ["--pth", str(pth), "--ckpt", str(ckpt)])
    return theirs, ckpt


@pytest.mark.parametrize("network", NETWORKS)
def test_log_probabilities_equal_those_of_torch(network, package, tmp_path):
    """From one layout; the others give the same weights."""
    theirs, ckpt = converted("release 3", network, package, tmp_path)
    assert_same(by_us(ckpt), by_torch(theirs))
    weights = checkpoints.load(ckpt).parameters
    for layout in ("release 2.0", "release 2.1"):
        other = checkpoints.load(converted(layout, network, package, tmp_path)[1]).parameters
        assert other.keys() == weights.keys()
        for name, value in weights.items():
            np.testing.assert_array_equal(other[name], value, err_msg=name)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("network", NETWORKS)
def test_a_converted_checkpoint_holds_all_settings_of_the_file(
    network, layout, package, tmp_path, capsys
):
    _, ckpt = converted(layout, network, package, tmp_path)
    kind, bidirectional = NETWORKS[network]
    found = checkpoints.load(ckpt).metadata
    assert "".join(found["labels"]) == LABELS
    data, model = found["config"]["DataConfig"], found["config"]["ModelConfig"]
    assert data["SpectConfig"]["window"] == "hann"
    assert data["SpectConfig"]["convention"] == LAYOUTS[layout][2]
    assert (model["rnn_type"], model["bidirectional"]) == (kind, bidirectional)
    assert (model["hidden_size"], model["hidden_layers"]) == (8, 3)
    assert not data["test_manifest"]
    said = capsys.readouterr().out.splitlines()
    count = len(checkpoints.load(ckpt).parameters)
    assert said[0].endswith(f"{count} of {count} tensors match")
    direction = "bidirectional" if bidirectional else "unidirectional"
    assert said[1].startswith(f"{direction} {kind}, 3 x 8, 29 labels, 16000 Hz, hann window")


@pytest.mark.parametrize("release", [2, 3])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("network", NETWORKS)
def test_an_exported_file_gives_the_same_output_in_torch(
    network, layout, release, package, tmp_path
):
    theirs, ckpt = converted(layout, network, package, tmp_path)
    pth, again = tmp_path / "back.pth", tmp_path / "again.ckpt"
    mind2pt(RECIPE, ["--ckpt", str(ckpt), "--pth", str(pth), "--release", str(release)])
    # Release 3 refers to classes of the package, release 2 to none.
    returned = torch.load(pth, weights_only=release == 2)
    other = reference.torch_deepspeech_pytorch(*NETWORKS[network])
    for value in other.state_dict().values():
        value.zero_()
    other.load_state_dict(returned["state_dict"], strict=True)
    assert_same(by_torch(other), by_torch(theirs), tolerance=0)
    pt2mind(RECIPE, ["--pth", str(pth), "--ckpt", str(again)])
    before, after = checkpoints.load(ckpt), checkpoints.load(again)
    assert after.metadata["config"] == before.metadata["config"]
    for name, value in before.parameters.items():
        np.testing.assert_array_equal(after.parameters[name], value)


def ours(tmp_path: Path, **model) -> Path:
    """A checkpoint of a network made here."""
    config = TrainConfig()
    for key, value in {**FORM, "hidden_size": 8, "hidden_layers": 2, **model}.items():
        setattr(config.ModelConfig, key, value)
    made = SpeechModel.create(RECIPE, config, CharacterTokenizer(tuple(LABELS)), "CPU")
    path = tmp_path / "ours.ckpt"
    checkpoints.save(path, made.network.parameters_dict(), made.metadata())
    return path


def test_a_release_3_file_has_the_objects_that_the_package_reads(package, tmp_path):
    ckpt = ours(tmp_path, bidirectional=False, lookahead_context=5, rnn_type="GRU", dropout=0.1)
    mind2pt(RECIPE, ["--ckpt", str(ckpt), "--pth", str(tmp_path / "w.ckpt")])
    found = torch.load(tmp_path / "w.ckpt", weights_only=False)["hyper_parameters"]
    model, audio, optim = (found[key] for key in ("model_cfg", "spect_cfg", "optim_cfg"))
    assert type(model) is package.UniDirectionalConfig
    assert model.rnn_type is package.RNNType.gru and model.lookahead_context == 5
    assert (model.hidden_size, model.hidden_layers) == (8, 2)
    assert audio.window is package.SpectrogramWindow.hamming
    assert (audio.sample_rate, audio.window_size, audio.window_stride) == (16000, 0.02, 0.01)
    assert type(optim) is package.AdamConfig and optim.betas == (0.9, 0.999)
    assert found["labels"] == list(LABELS)


def test_weights_are_unchanged_after_export_and_import(tmp_path, capsys):
    ckpt = ours(tmp_path, rnn_type="RNN")
    mind2pt(RECIPE, ["--ckpt", str(ckpt), "--pth", str(tmp_path / "w.pth"), "--release", "2"])
    assert "note: trained on spectrograms of the convention plain" in capsys.readouterr().out
    pt2mind(RECIPE, ["--pth", str(tmp_path / "w.pth"), "--ckpt", str(tmp_path / "back.ckpt")])
    before, after = checkpoints.load(ckpt), checkpoints.load(tmp_path / "back.ckpt")
    assert before.metadata["config"]["ModelConfig"] == after.metadata["config"]["ModelConfig"]
    before_audio, after_audio = (
        found.metadata["config"]["DataConfig"]["SpectConfig"] for found in (before, after)
    )
    assert before_audio == after_audio
    for name, value in before.parameters.items():
        np.testing.assert_array_equal(after.parameters[name], value)


def test_a_converted_checkpoint_can_be_evaluated_and_exported(
    package, tmp_path, monkeypatch, capsys
):
    """transcribe.py and export.py with the checkpoint alone."""
    from synthetic_corpus import RATE, spoken

    theirs = reference.torch_deepspeech_pytorch("LSTM", False)
    torch.save(release_3(theirs, "LSTM", False, package), tmp_path / "w.ckpt")
    pt2mind(RECIPE, ["--pth", str(tmp_path / "w.ckpt"), "--ckpt", str(tmp_path / "ours.ckpt")])
    soundfile.write(tmp_path / "a.wav", spoken("AB", np.random.default_rng(0)), RATE)
    monkeypatch.chdir(tmp_path)
    assert cli.transcribe(RECIPE, ["a.wav", "--pretrain_ckpt", "ours.ckpt"]) == 0
    speech_model = SpeechModel.from_checkpoint(RECIPE, tmp_path / "ours.ckpt", "CPU")
    assert speech_model.featurizer.config.convention == "deepspeech.pytorch"
    export(speech_model, tmp_path / "w", Options(batch_size=1, frames=20), log=lambda line: None)
    assert (tmp_path / "w.mindir").exists()


# ---- refusals


def malformed(case: str, content: dict):
    weights = content["state_dict"] = dict(content["state_dict"])
    if case == "another shape":
        weights["fc.0.module.1.weight"] = torch.zeros(28, 8)
    elif case == "missing":
        del weights["rnns.1.batch_norm.module.bias"]
    elif case == "left over":
        weights["encoder.weight"] = torch.zeros(3, 2)
    elif case == "no recurrent layer":
        return {**content, "state_dict": {k: v for k, v in weights.items() if "rnns" not in k}}
    elif case == "no labels":
        del content["labels"]
    elif case == "no blank":
        content["labels"] = LABELS[1:] + "-"
    elif case == "release 1":
        weights["conv.0.weight"] = weights.pop("conv.seq_module.0.weight")
    elif case == "odd audio":
        content["audio_conf"]["sample_rate"] = "fast"
    elif case == "no state_dict":
        return [1, 2]
    return content


REFUSALS = {
    "another shape": r"fc.0.module.1.weight \(28, 8\), expected \(29, 8\)",
    "missing": r"1 missing \(rnns.1.batch_norm.module.bias \(8,\)\)",
    "left over": r"1 not of this network \(encoder.weight \(3, 2\)\)",
    "no recurrent layer": "rnns.0.rnn.weight_hh_l0 is missing",
    "no labels": "labels is missing, among .* the keys hidden_size",
    "no blank": "labels without blank",
    "release 1": "release 1 of deepspeech.pytorch",
    "odd audio": "malformed: invalid literal",
    "no state_dict": "no state_dict in it",
}


@pytest.mark.parametrize("case", REFUSALS)
def test_files_that_do_not_fit_are_refused_with_the_reason(case, package, tmp_path):
    theirs = reference.torch_deepspeech_pytorch("LSTM", True)
    content = malformed(case, release_2(theirs, "LSTM", True, package))
    torch.save(content, tmp_path / "w.pth")
    with pytest.raises(UserError, match=REFUSALS[case]):
        pt2mind(RECIPE, ["--pth", str(tmp_path / "w.pth"), "--ckpt", str(tmp_path / "c.ckpt")])
    assert not (tmp_path / "c.ckpt").exists()


def test_a_checkpoint_name_that_mindspore_cannot_read_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"--ckpt .*/model: .*\*\.ckpt; use .*/model\.ckpt"):
        pt2mind(RECIPE, ["--pth", str(tmp_path / "none.pth"), "--ckpt", str(tmp_path / "model")])


def test_networks_that_the_package_does_not_have_are_refused_by_key(tmp_path):
    ckpt = ours(tmp_path, norm="layer", conv_bias=False)
    with pytest.raises(UserError, match=r"norm=layer \(expected batch\), .*conv_bias=False"):
        mind2pt(RECIPE, ["--ckpt", str(ckpt), "--pth", str(tmp_path / "w.pth")])
    ckpt = ours(tmp_path, bidirectional=False, lookahead_context=5)
    command = ["--ckpt", str(ckpt), "--pth", str(tmp_path / "w.pth"), "--release", "2"]
    with pytest.raises(UserError, match=r"lookahead_context=5 \(expected 20\)"):
        mind2pt(RECIPE, command)
    assert not (tmp_path / "w.pth").exists()
