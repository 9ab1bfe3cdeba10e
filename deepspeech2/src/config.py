"""DeepSpeech2's configuration, which a user edits, or overrides by `--config` and `--set`.

The groups and keys are those of the MindSpore model zoo's DeepSpeech2; the defaults are its full
size for LibriSpeech (5 x 1024 bidirectional LSTM). Smaller ones ship in `presets/`. Keys that every
model shares are documented in `common/config.py`.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from common import config as shared
from common.config import option
from common.utils.errors import UserError


@dataclass
class DataConfig(shared.DataConfig):
    """Manifests and MindRecord files of LibriSpeech, all 960 hours."""

    train_manifest: list[str] = field(default_factory=lambda: ["data/libri_train_manifest.csv"])
    val_manifest: list[str] = field(default_factory=lambda: ["data/libri_val_manifest.csv"])
    test_manifest: list[str] = field(default_factory=lambda: ["data/libri_test_clean_manifest.csv"])
    mindrecord_format: str = "mindrecord/libri_{split}/libri_{split}{}.md"


@dataclass
class ModelConfig:
    """The network: convolutions over bins and frames, recurrent layers, an output layer."""

    rnn_type: str = option("LSTM", choices=("LSTM", "GRU", "RNN"))  # RNN: with tanh
    hidden_size: int = option(1024, min=1)  # of each direction; the directions are summed
    hidden_layers: int = option(5, min=1)
    bidirectional: bool = True
    # Frames ahead, when not bidirectional (Wang et al. 2016).
    lookahead_context: int = option(20, min=1)
    # Normalisation of the output of each recurrent layer, and of the look-ahead.
    norm: str = option("none", choices=("none", "batch", "layer"))
    dropout: float = 0.0  # after each recurrent layer
    # After each convolution; hardtanh is clipped to 0..20.
    activation: str = option("tanh", choices=("tanh", "hardtanh"))
    conv_bias: bool = False  # added by each convolution; the batch normalisation undoes it
    conv_channels: int = option(32, min=1)
    # Of each convolution [bins, frames]:
    conv_kernels: list[list[int]] = field(default_factory=lambda: [[41, 11], [21, 11]])
    conv_strides: list[list[int]] = field(default_factory=lambda: [[2, 2], [2, 1]])

    def check(self) -> None:
        """Refuse a network that cannot be built.

        Raises:
            UserError: Names the key, what was found and what was expected.
        """
        if not 0 <= self.dropout < 1:
            raise UserError(f"ModelConfig.dropout={self.dropout}: expected 0 <= dropout < 1")
        pairs = [*self.conv_kernels, *self.conv_strides]
        if len(self.conv_kernels) != len(self.conv_strides) or not self.conv_kernels:
            raise UserError(
                f"ModelConfig.conv_kernels has {len(self.conv_kernels)} entries and conv_strides "
                f"{len(self.conv_strides)}: expected one of each per convolution"
            )
        if any(len(pair) != 2 or min(pair) < 1 for pair in pairs):
            raise UserError(
                "ModelConfig.conv_kernels and conv_strides: expected [bins, frames] pairs"
            )
        if any(size % 2 == 0 for kernel in self.conv_kernels for size in kernel):
            raise UserError(f"ModelConfig.conv_kernels={self.conv_kernels}: expected odd sizes")


@dataclass
class CheckpointConfig(shared.CheckpointConfig):
    """The checkpoints of a run."""

    ckpt_file_name_prefix: str = "DeepSpeech"


@dataclass
class TrainConfig:
    """All groups of keys that train.py reads."""

    TrainingConfig: shared.TrainingConfig = field(default_factory=shared.TrainingConfig)
    DataConfig: DataConfig = field(default_factory=DataConfig)
    ModelConfig: ModelConfig = field(default_factory=ModelConfig)
    OptimConfig: shared.OptimConfig = field(default_factory=shared.OptimConfig)
    CheckpointConfig: CheckpointConfig = field(default_factory=CheckpointConfig)
    LMConfig: shared.LMConfig = field(default_factory=shared.LMConfig)  # while training


train_config = TrainConfig()
eval_config = shared.EvalConfig()
infer_config = shared.InferConfig()
