"""DeepSpeech2's configuration, which a user edits, or overrides by `--config` and `--set`.

The groups and keys are those of the MindSpore model zoo's DeepSpeech2, and the values below are the
defaults of its full size for LibriSpeech (5 x 1024 bidirectional LSTM). Smaller ones ship in
`presets/`. Each group has further keys, which the zoo lacks: `common/config.py` lists them, and the
bounds of all keys that every model shares.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from common import config as shared
from common.config import option
from common.utils.errors import UserError

# ---- train.py


@dataclass
class TrainingConfig(shared.TrainingConfig):
    """The course of a training run."""

    epochs: int = 70


@dataclass
class SpectConfig(shared.SpectConfig):
    """The features: log spectrograms. They travel with the checkpoint."""

    sample_rate: int = 16000  # Hz
    window_size: float = 0.02  # seconds
    window_stride: float = 0.01  # seconds: the hop length
    window: str = "hamming"  # hamming, hann (or hanning), blackman, bartlett


@dataclass
class AugmentationConfig(shared.AugmentationConfig):
    """Random changes of the training recordings, drawn anew in each epoch."""

    speed_volume_perturb: bool = False
    spec_augment: bool = False
    noise_dir: str = ""  # folder of noise recordings; empty: no noise
    noise_prob: float = 0.4  # share of utterances that get noise
    noise_min: float = 0.0  # noise level: 0 none ...
    noise_max: float = 0.5  # ... 1 as loud as the speech


@dataclass
class DataConfig(shared.DataConfig):
    """Manifests and MindRecord files of LibriSpeech, all 960 hours."""

    train_manifest: list[str] = field(default_factory=lambda: ["data/libri_train_manifest.csv"])
    val_manifest: list[str] = field(default_factory=lambda: ["data/libri_val_manifest.csv"])
    test_manifest: list[str] = field(default_factory=lambda: ["data/libri_test_clean_manifest.csv"])
    mindrecord_format: str = "mindrecord/libri_{split}/libri_{split}{}.md"
    batch_size: int = 20  # utterances
    labels_path: str = "labels.json"
    SpectConfig: SpectConfig = field(default_factory=SpectConfig)
    AugmentationConfig: AugmentationConfig = field(default_factory=AugmentationConfig)


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
class OptimConfig(shared.OptimConfig):
    """The optimizer, its learning rate at each step, and the scale of the loss."""

    learning_rate: float = 3e-4
    learning_anneal: float = 1.1  # divides the rate after each epoch
    weight_decay: float = 1e-5
    momentum: float = 0.9  # of SGD alone
    eps: float = 1e-8  # in the model zoo also named epsilon
    betas: tuple[float, float] = (0.9, 0.999)
    loss_scale: float = 1024.0


@dataclass
class CheckpointConfig(shared.CheckpointConfig):
    """The checkpoints of a run."""

    ckpt_file_name_prefix: str = "DeepSpeech"
    ckpt_path: str = "./checkpoint"
    keep_checkpoint_max: int = 10  # numbered ones, beside `last` and `best`


@dataclass
class LMConfig(shared.LMConfig):
    """The decoder; all keys but the first are for beam search."""

    decoder_type: str = "greedy"  # or beam
    lm_path: str = ""  # word n-gram language model; empty: none
    top_paths: int = 1
    alpha: float = 1.818182  # weight of the language model
    beta: float = 0.0  # for each word
    cutoff_top_n: int = 40
    cutoff_prob: float = 1.0
    beam_width: int = 100  # the model zoo's 1024 takes 6 times as long
    lm_workers: int = 4


@dataclass
class TrainConfig:
    """All groups of keys that train.py reads."""

    TrainingConfig: TrainingConfig = field(default_factory=TrainingConfig)
    DataConfig: DataConfig = field(default_factory=DataConfig)
    ModelConfig: ModelConfig = field(default_factory=ModelConfig)
    OptimConfig: OptimConfig = field(default_factory=OptimConfig)
    CheckpointConfig: CheckpointConfig = field(default_factory=CheckpointConfig)
    LMConfig: LMConfig = field(default_factory=LMConfig)  # while training


# ---- eval.py and transcribe.py


@dataclass
class EvalDataConfig(shared.EvalDataConfig):
    """The recordings; features, labels and network travel with the checkpoint."""

    test_manifest: list[str] = field(default_factory=list)  # []: what the checkpoint names
    batch_size: int = 20


@dataclass
class EvalConfig(shared.EvalConfig):
    """What eval.py and transcribe.py may choose."""

    save_output: str = ""  # folder for log-probabilities; empty: they are not saved
    verbose: bool = True  # print each utterance
    DataConfig: EvalDataConfig = field(default_factory=EvalDataConfig)
    LMConfig: LMConfig = field(default_factory=LMConfig)


# ---- preprocess.py and postprocess.py


@dataclass
class InferConfig(shared.InferConfig):
    """What they may choose, before and after the C++ program."""

    batch_size_infer: int = 1
    result_path: str = "./preprocess_Result"  # folder of the features, for the C++ program
    result_dir: str = "./result_Files"  # folder of the network's outputs
    post_out: str = "./infer_output.txt"  # texts and figures
    LMConfig: LMConfig = field(default_factory=LMConfig)


train_config = TrainConfig()
eval_config = EvalConfig()
infer_config = InferConfig()
