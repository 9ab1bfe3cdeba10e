"""ASRT's configuration, which a user edits, or overrides by `--config` and `--set`.

The defaults are SpeechModel251BN of github.com/nl8590687/ASRT_SpeechRecognition, its features and
its training; `presets/` has the other networks. Each group has further keys: `common/config.py`
lists them, and the bounds of all keys that every model shares.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from common import config as shared
from common.config import option
from common.utils.errors import UserError

_MOST = 100_000  # channels, or frames: more is a slip
EPSILON = 2e-4  # of batch normalisation, as in ASRT


@dataclass
class Pair:
    """Two convolutions of 3 x 3, each with a ReLU."""

    filters: int = 32  # channels that leave each of them
    pool: bool = True  # bins and frames are halved after them, by their greater value
    dropout: float = 0.0  # between them
    dropout_after: float = 0.0  # after them, and after the halving


def pairs(dropout: tuple[float, ...] = (), after: tuple[float, ...] = ()) -> list[Pair]:
    """Lay out the pairs of SpeechModel251 and 251BN.

    Args:
        dropout: Rate inside each pair; empty: none.
        after: Rate after each pair; empty: none.

    Returns:
        Five pairs, the first three of which are pooled.
    """
    filters = (32, 64, 128, 128, 128)
    return [
        Pair(width, number < 3, inside, behind)
        for number, (width, inside, behind) in enumerate(
            zip(filters, dropout or (0.0,) * 5, after or (0.0,) * 5)
        )
    ]


@dataclass
class ModelConfig:
    """The network."""

    pairs: list[Pair] = field(default_factory=pairs)
    batch_norm: bool = True  # after each convolution
    first_bias: bool = True  # of the first convolution; all others have one
    hidden_size: int = option(128, min=1, max=_MOST)  # of the dense layer before the output layer
    hidden_dropout: float = option(0.0, min=0, max=0.99)  # after it
    # Frames of silence (zeros) that follow each utterance: ASRT fills each up to 1600 frames, which
    # its weights are used to. Networks trained here need none.
    end_frames: int = option(0, min=0, max=_MOST)

    def check(self) -> None:
        """Refuse a network that cannot be built.

        Raises:
            UserError: Names the key, what was found and what was expected.
        """
        if not self.pairs:
            raise UserError("ModelConfig.pairs: expected at least one pair")
        for number, pair in enumerate(self.pairs):
            where = f"ModelConfig.pairs[{number}]"
            if not 1 <= pair.filters <= _MOST:
                raise UserError(f"{where}.filters={pair.filters}: expected 1 to {_MOST}")
            for key in ("dropout", "dropout_after"):
                rate = getattr(pair, key)
                if not 0 <= rate < 1:
                    raise UserError(f"{where}.{key}={rate}: expected 0 <= {key} < 1")


def stride(model: ModelConfig) -> int:
    """Return the feature frames from one output frame to the next: 8 in ASRT's networks."""
    return 2 ** sum(pair.pool for pair in model.pairs)


def frames_ahead(model: ModelConfig) -> int:
    """Return how many feature frames an output frame sees after those that it stands for."""
    seen, step = 0, 1
    for pair in model.pairs:
        seen += 2 * step  # two kernels of 3 frames
        step *= 1 + pair.pool
    return seen


@dataclass
class SpectConfig(shared.SpectConfig):
    """ASRT's spectrogram: 200 bins, log(1 + magnitude) of 16-bit samples, not normalised."""

    sample_rate: int = 16000  # Hz
    window_size: float = 0.025  # seconds
    window_stride: float = 0.01  # seconds: the hop length
    window: str = "hamming"
    features: str = "spectrogram"
    convention: str = "asrt"


@dataclass
class AugmentationConfig(shared.AugmentationConfig):
    """Masks as wide on average as ASRT's.

    ASRT masks up to 100 bins of a quarter of the utterances, and up to 100 frames of a quarter;
    here every utterance has both masks, of up to 25.
    """

    spec_augment: bool = True
    freq_masks: int = 1
    freq_width: int = 25
    time_masks: int = 1
    time_frames: int = 25


@dataclass
class DataConfig(shared.DataConfig):
    """Recordings of Mandarin; utterances of at most 16 s, as in ASRT."""

    train_manifest: list[str] = field(default_factory=lambda: ["data/train.csv"])
    val_manifest: list[str] = field(default_factory=lambda: ["data/dev.csv"])
    test_manifest: list[str] = field(default_factory=lambda: ["data/test.csv"])
    mindrecord_format: str = "mindrecord/{split}/asrt_{split}{}.md"
    batch_size: int = 16
    # JSON list of syllables such as "zhong1", blank "_"; or ASRT's dict.txt.
    labels_path: str = "labels.json"
    max_duration: float = 16.0
    pad_align: int = 8
    SpectConfig: SpectConfig = field(default_factory=SpectConfig)
    AugmentationConfig: AugmentationConfig = field(default_factory=AugmentationConfig)


@dataclass
class TrainingConfig(shared.TrainingConfig):
    """The course of a training run."""

    epochs: int = 50
    clip_norm: float = 0.0


@dataclass
class OptimConfig(shared.OptimConfig):
    """Adam at ASRT's rate, which stays the same."""

    optimizer: str = "Adam"
    learning_rate: float = 1e-4
    schedule: str = "constant"
    weight_decay: float = 0.0
    eps: float = 1e-7
    betas: tuple[float, float] = (0.9, 0.999)


@dataclass
class CheckpointConfig(shared.CheckpointConfig):
    """The checkpoints of a run."""

    ckpt_file_name_prefix: str = "ASRT"
    ckpt_path: str = "./checkpoint"
    keep_checkpoint_max: int = 3


@dataclass
class TrainConfig:
    """All groups of keys that train.py reads."""

    TrainingConfig: TrainingConfig = field(default_factory=TrainingConfig)
    DataConfig: DataConfig = field(default_factory=DataConfig)
    ModelConfig: ModelConfig = field(default_factory=ModelConfig)
    OptimConfig: OptimConfig = field(default_factory=OptimConfig)
    CheckpointConfig: CheckpointConfig = field(default_factory=CheckpointConfig)
    LMConfig: shared.LMConfig = field(default_factory=shared.LMConfig)  # while training


train_config = TrainConfig()
eval_config = shared.EvalConfig()
