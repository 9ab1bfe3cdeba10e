"""DeepSpeech2's configuration: what a user edits, or overrides by `--config` and `--set`.

The groups and keys are those of the MindSpore model zoo's DeepSpeech2; the defaults are its full
size for LibriSpeech (5 x 1024 bidirectional LSTM). Smaller ones ship in `presets/`. Keys that every
model shares are documented in `common/config.py`.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from common import config as shared


@dataclass
class DataConfig(shared.DataConfig):
    train_manifest: list[str] = field(default_factory=lambda: ["data/libri_train_manifest.csv"])
    val_manifest: list[str] = field(default_factory=lambda: ["data/libri_val_manifest.csv"])
    test_manifest: list[str] = field(default_factory=lambda: ["data/libri_test_clean_manifest.csv"])
    mindrecord_format: str = "mindrecord/libri_{split}/libri_{split}{}.md"


@dataclass
class ModelConfig:
    rnn_type: str = "LSTM"  # LSTM, GRU or RNN (tanh)
    hidden_size: int = 1024  # of each direction; the directions are summed
    hidden_layers: int = 5
    bidirectional: bool = True
    lookahead_context: int = 20  # frames ahead, when not bidirectional (Wang et al. 2016)
    norm: str = "none"  # none, batch or layer: on what leaves each layer, the look-ahead included
    dropout: float = 0.0  # after each recurrent layer
    activation: str = "tanh"  # after each convolution: tanh or hardtanh (clipped to 0..20)
    conv_bias: bool = False  # added by each convolution; the batch normalisation undoes it
    conv_channels: int = 32
    # Of each convolution [bins, frames]:
    conv_kernels: list[list[int]] = field(default_factory=lambda: [[41, 11], [21, 11]])
    conv_strides: list[list[int]] = field(default_factory=lambda: [[2, 2], [2, 1]])


@dataclass
class CheckpointConfig(shared.CheckpointConfig):
    ckpt_file_name_prefix: str = "DeepSpeech"


@dataclass
class TrainConfig:
    TrainingConfig: shared.TrainingConfig = field(default_factory=shared.TrainingConfig)
    DataConfig: DataConfig = field(default_factory=DataConfig)
    ModelConfig: ModelConfig = field(default_factory=ModelConfig)
    OptimConfig: shared.OptimConfig = field(default_factory=shared.OptimConfig)
    CheckpointConfig: CheckpointConfig = field(default_factory=CheckpointConfig)
    LMConfig: shared.LMConfig = field(default_factory=shared.LMConfig)  # while training


train_config = TrainConfig()
eval_config = shared.EvalConfig()
infer_config = shared.InferConfig()
