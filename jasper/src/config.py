"""Jasper's configuration, which a user edits, or overrides by `--config` and `--set`.

The groups and keys are those of the MindSpore model zoo's Jasper; the defaults are Jasper 10x5 with
dense residuals for LibriSpeech, after NVIDIA's recipe. Smaller ones ship in `presets/`. Each group
has further keys, which the zoo lacks: `common/config.py` lists them, and the bounds of all keys
that every model shares.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from common import config as shared
from common.config import option
from common.utils.errors import UserError


@dataclass
class Block:
    """A block of `repeat` convolutions, each with normalisation, activation and dropout."""

    filters: int = 256  # channels that leave each convolution
    repeat: int = 1
    kernel_size: int = 11  # frames, odd
    stride: int = 1  # frames; not with residual
    dilation: int = 1  # frames from one tap of the kernel to the next; not with stride
    dropout: float = 0.2
    residual: bool = False  # the block's input is added before its last activation
    residual_dense: bool = False  # ... with the input of each dense block before it
    separable: bool = False  # depthwise over frames, then pointwise over channels (QuartzNet)


def jasper(blocks: int, repeat: int) -> list[Block]:
    """Lay out Jasper BxR with dense residuals (Li et al. 2019, arXiv 1904.03288, table 1).

    Args:
        blocks: B, a multiple of 5: B / 5 blocks of each width.
        repeat: R, the convolutions of each of these blocks.

    Returns:
        The B blocks, and those before and after them.
    """
    middle = [(256, 11, 0.2), (384, 13, 0.2), (512, 17, 0.2), (640, 21, 0.3), (768, 25, 0.3)]
    return [
        Block(256, 1, 11, stride=2, dropout=0.2),
        *(
            Block(filters, repeat, kernel, dropout=dropout, residual=True, residual_dense=True)
            for filters, kernel, dropout in middle
            for _ in range(blocks // 5)
        ),
        Block(896, 1, 29, dilation=2, dropout=0.4),
        Block(1024, 1, 1, dropout=0.4),
    ]


_GREATEST = 100_000  # value of a block's key: more is a slip, and takes for ever
EPSILON = 1e-3  # of the batch normalisation, as in both references


def residual_inputs(blocks: list[Block], dimension: int) -> list[list[int]]:
    """List the widths of the residual inputs that each block adds to its last convolution.

    A residual block adds its own input; a dense one also the input of each dense block in an
    unbroken row before it.

    Args:
        blocks: The blocks of the network.
        dimension: Width of the features, the input of the first block.

    Returns:
        A list of widths for each block, empty for a block without residual.
    """
    widths: list[list[int]] = []
    dense: list[int] = []
    inputs = dimension
    for block in blocks:
        dense = [*dense, inputs] if block.residual_dense else []
        widths.append((dense or [inputs]) if block.residual else [])
        inputs = block.filters
    return widths


@dataclass
class ModelConfig:
    """The network."""

    blocks: list[Block] = field(default_factory=lambda: jasper(10, 5))
    activation: str = option("relu", choices=("relu", "elu", "selu"))
    weight_init: str = option(
        "xavier_uniform",
        choices=("xavier_uniform", "xavier_normal", "kaiming_uniform", "kaiming_normal"),
    )

    def check(self) -> None:
        """Refuse a network that cannot be built.

        Raises:
            UserError: Names the key, what was found and what was expected.
        """
        if not self.blocks:
            raise UserError("ModelConfig.blocks: expected at least one block")
        for number, block in enumerate(self.blocks):
            _check_block(block, f"ModelConfig.blocks[{number}]")


def _check_block(block: Block, where: str) -> None:
    for key in ("filters", "repeat", "kernel_size", "stride", "dilation"):
        value = getattr(block, key)
        if not 1 <= value <= _GREATEST:
            raise UserError(f"{where}.{key}={value}: expected at least 1, at most {_GREATEST}")
    if block.kernel_size % 2 == 0:
        raise UserError(f"{where}.kernel_size={block.kernel_size}: expected an odd size")
    if block.stride > 1 and block.dilation > 1:
        raise UserError(f"{where}: stride and dilation above 1; expected one of them")
    if not 0 <= block.dropout < 1:
        raise UserError(f"{where}.dropout={block.dropout}: expected 0 <= dropout < 1")
    if block.residual and block.stride > 1:
        raise UserError(f"{where}: residual with stride {block.stride}; expected stride 1")
    if block.residual_dense and not block.residual:
        raise UserError(f"{where}: residual_dense without residual; expected residual: true")


@dataclass
class SpectConfig(shared.SpectConfig):
    """Log-mel features as in NVIDIA's recipe."""

    sample_rate: int = 16000  # Hz
    window_size: float = 0.02  # seconds
    window_stride: float = 0.01  # seconds: the hop length
    window: str = "hann"  # hamming, hann (or hanning), blackman, bartlett
    features: str = "logmel"
    convention: str = "jasper-nvidia"  # or jasper-mindspore, for the model zoo's checkpoints
    preemphasis: float = 0.97
    trim_silence: bool = True


@dataclass
class AugmentationConfig(shared.AugmentationConfig):
    """Masks and dither as in NVIDIA's recipe."""

    speed_volume_perturb: bool = False
    dither: float = 1e-5
    spec_augment: bool = True
    freq_width: int = 20
    time_frames: int = 75
    noise_dir: str = ""  # folder of noise recordings; empty: no noise
    noise_prob: float = 0.4  # share of utterances that get noise
    noise_min: float = 0.0  # noise level: 0 none ...
    noise_max: float = 0.5  # ... 1 as loud as the speech


@dataclass
class DataConfig(shared.DataConfig):
    """LibriSpeech, all 960 hours; utterances of at most 16.7 s."""

    train_manifest: list[str] = field(
        default_factory=lambda: [
            f"data/librispeech-train-{part}-wav.json"
            for part in ("clean-100", "clean-360", "other-500")
        ]
    )
    val_manifest: list[str] = field(default_factory=lambda: ["data/librispeech-dev-clean-wav.json"])
    test_manifest: list[str] = field(
        default_factory=lambda: ["data/librispeech-dev-clean-wav.json"]
    )
    Data_dir: str = ""  # relative paths in manifests start here; empty: see common/data/manifest.py
    mindrecord_format: str = "mindrecord/{split}/jasper_tr{}.md"
    mindrecord_files: list[str] = field(default_factory=list)  # training files; []: every one
    batch_size: int = 32  # with accumulation_step: 64 per step and card, as in both references
    labels_path: str = "labels.json"
    max_duration: float = 16.7
    pad_align: int = 16
    normalize_transcripts: str = "english"
    SpectConfig: SpectConfig = field(default_factory=SpectConfig)
    AugmentationConfig: AugmentationConfig = field(default_factory=AugmentationConfig)


@dataclass
class TrainingConfig(shared.TrainingConfig):
    """The course of a training run."""

    epochs: int = 440
    accumulation_step: int = 2  # batches in an optimizer step; in the zoo in DataConfig
    ema: float = 0.999


@dataclass
class OptimConfig(shared.OptimConfig):
    """NovoGrad at NVIDIA's rates; the model zoo trains with AdamW at the same rates.

    NVIDIA decays biases and normalisation, too; here they never decay.
    """

    optimizer: str = "NovoGrad"
    learning_rate: float = 0.01
    schedule: str = "exponential"
    warmup_epochs: float = 2.0
    learning_anneal: float = 1.1  # of the schedule anneal alone
    weight_decay: float = 1e-3
    momentum: float = 0.9  # of SGD alone
    eps: float = 1e-8  # in the model zoo also named epsilon
    betas: tuple[float, float] = (0.95, 0.0)
    loss_scale: float = 1024.0  # in the model zoo also in TrainingConfig


@dataclass
class CheckpointConfig(shared.CheckpointConfig):
    """The checkpoints of a run."""

    ckpt_file_name_prefix: str = "Jasper"
    ckpt_path: str = "./checkpoint"
    # Numbered ones, beside `last` and `best`. The zoo keeps 10; at full size each has 4 GB.
    keep_checkpoint_max: int = 3


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

    Data_dir: str = ""  # empty: the checkpoint's, for the manifests that it names itself
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
class InferDataConfig(shared.InferDataConfig):
    """The recordings that preprocess.py reads."""

    Data_dir: str = ""
    test_manifest: list[str] = field(default_factory=list)  # []: what the checkpoint names


@dataclass
class InferConfig(shared.InferConfig):
    """What they may choose, before and after the C++ program."""

    batch_size_infer: int = 1
    result_path: str = "./preprocess_Result"  # folder of the features, for the C++ program
    result_dir: str = "./result_Files"  # folder of the network's outputs
    post_out: str = "./infer_output.txt"  # texts and figures
    DataConfig: InferDataConfig = field(default_factory=InferDataConfig)
    LMConfig: LMConfig = field(default_factory=LMConfig)


train_config = TrainConfig()
eval_config = EvalConfig()
infer_config = InferConfig()
