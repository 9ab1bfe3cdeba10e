"""A network with all that must travel with it: configuration, features, tokenizer, length formula.

Training, evaluation, transcription and export all start here, from a configuration or a checkpoint.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from common import __version__
from common import config as configs
from common.audio.features import Featurizer
from common.model import checkpoint as checkpoints
from common.model.decoder import SpeechDecoder
from common.model.recipe import Recipe
from common.nn.graph_cache import GraphCell
from common.text.tokenizer import Tokenizer, restored_tokenizer, stored_tokenizer
from common.utils import runtime
from common.utils.backend import Tensor, ms, nn
from common.utils.errors import UserError
from common.utils.files import absolute_path

# Keys of a stored configuration that name files: stored absolute, so that they are found again.
_PATHS = ("train_manifest", "val_manifest", "test_manifest", "Data_dir")


@dataclass
class SpeechModel:
    """A network with all that must travel with it.

    Attributes:
        recipe: The model.
        config: The training configuration, resolved.
        tokenizer: Spells the labels.
        featurizer: Computes the features.
        network: features (B, F, T), lengths (B,) -> log-probabilities (T', B, C), lengths (B,), or
            what the recipe's objective and decoder take.
        device: Kind of device that it runs on: "CPU", "GPU" or "Ascend".
        license: Of the weights, as the checkpoint says; empty: it says nothing.
    """

    recipe: Recipe
    config: Any
    tokenizer: Tokenizer
    featurizer: Featurizer
    network: nn.Cell
    device: str
    license: str = ""

    @classmethod
    def create(cls, recipe: Recipe, config: Any, tokenizer: Tokenizer, device: str) -> SpeechModel:
        """Build a network with fresh weights, drawn from TrainingConfig.seed.

        Args:
            recipe: The model.
            config: The training configuration.
            tokenizer: Spells the labels.
            device: Kind of device that it runs on.

        Returns:
            The network.
        """
        featurizer = recipe.build_featurizer(config.DataConfig)
        network = recipe.build_network(
            config.ModelConfig,
            featurizer.dimension,
            len(tokenizer),
            np.random.default_rng(config.TrainingConfig.seed),
            device,
        )
        return cls(recipe, config, tokenizer, featurizer, network, device)

    @classmethod
    def from_checkpoint(
        cls,
        recipe: Recipe,
        path: str | Path,
        device: str,
        fallback: Any = None,
        log: Callable[[str], None] = print,
    ) -> SpeechModel:
        """Build the network that a checkpoint describes, with its weights.

        Where the checkpoint holds a moving average of the weights, that is taken.

        Args:
            recipe: The model that it must be of.
            path: The checkpoint.
            device: Kind of device that the network runs on.
            fallback: Training configuration for a checkpoint that describes nothing (of the
                MindSpore model zoo); None: the recipe's defaults.
            log: Takes lines about what was assumed.

        Returns:
            The network.

        Raises:
            UserError: The checkpoint cannot be read or is of another network, or it carries a
                configuration and `fallback` is given.
        """
        checkpoint = checkpoints.load(path)
        if checkpoint.metadata is None:
            config = fallback or recipe.train_config()
            tokenizer = recipe.load_tokenizer(config)
            log(
                f"{path} names no configuration: taking that of --train_config, or else the "
                f"default of {recipe.name}, and the labels of {config.DataConfig.labels_path}"
            )
        elif fallback is not None:
            raise UserError(
                f"--train_config: checkpoint {path} carries its own configuration; leave it out"
            )
        else:
            config, tokenizer = described(recipe, checkpoint)
        speech_model = cls.create(recipe, config, tokenizer, device)
        speech_model.license = str((checkpoint.metadata or {}).get("license") or "")
        if checkpoints.take_averages(checkpoint):
            log(f"{path}: taking the moving average of its weights (TrainingConfig.ema)")
        checkpoints.load_into(speech_model.network, checkpoint, recipe.rename_parameter)
        return speech_model

    def metadata(self, **more: Any) -> dict[str, Any]:
        """Return the metadata that a checkpoint of this network stores.

        Args:
            **more: Further entries.
        """
        config = configs.to_dict(self.config)
        data = config["DataConfig"]
        for key in _PATHS:
            if isinstance(data.get(key), list):
                data[key] = [str(absolute_path(path)) for path in data[key]]
            elif data.get(key):
                data[key] = str(absolute_path(data[key]))
        return {
            "format": checkpoints.FORMAT,
            "project_version": __version__,
            "model": self.recipe.name,
            "config": config,
            **stored_tokenizer(self.tokenizer),
            "versions": runtime.versions(),
            **({"license": self.license} if self.license else {}),
            **more,
        }

    def forward(self) -> Forward:
        """The network in evaluation mode, numpy in and numpy out."""
        return Forward(self)

    def objective(self) -> nn.Cell:
        """Build what a train step differentiates; see `Recipe.build_objective`."""
        return self.recipe.build_objective(self.network, self.tokenizer)

    def decoder(self, decoding: Any = None) -> SpeechDecoder:
        """Build the decoder, which turns features into hypotheses.

        Args:
            decoding: An `LMConfig`; None: greedy.

        Returns:
            The decoder; see `Recipe.build_decoder`.
        """
        return self.recipe.build_decoder(self, decoding or configs.LMConfig())

    def output_frames(self, frames):
        """Return the output frames of the network for `frames` feature frames (int or array)."""
        return self.recipe.output_frames(self.config.ModelConfig, frames)

    @property
    def frame_seconds(self) -> float:
        """Seconds between output frames; output frame i is about feature frame i * stride."""
        stride = self.recipe.frame_stride(self.config.ModelConfig)
        features = self.featurizer.config
        return stride * features.hop_length / features.sample_rate

    @property
    def front_end(self) -> Featurizer:
        """Makes the network's input: its featurizer."""
        return self.featurizer

    @property
    def max_frames(self) -> float:
        """Feature frames of the longest utterance that it takes: any."""
        return math.inf

    @property
    def runs_on(self) -> str:
        """The device."""
        return self.device

    def forward_memory(self) -> tuple[float, float] | None:
        """Forecast the bytes of a forward pass; see `AcousticModel.forward_memory`."""
        model, config = self.recipe.memory, self.config.ModelConfig
        if model is None:
            return None
        return model.forward(config, self.featurizer.dimension, self.parameters())

    @property
    def static(self) -> bool:
        """Whether batches must come in a finite set of shapes wherever the network runs."""
        wanted = self.config.DataConfig.batch_shapes
        if wanted not in ("auto", "dynamic", "static"):
            raise UserError(f"DataConfig.batch_shapes={wanted}: expected auto, dynamic or static")
        fixed = self.recipe.needs_static_shapes(self.config.ModelConfig)
        if fixed and wanted == "dynamic":
            raise UserError(
                "DataConfig.batch_shapes=dynamic: this network needs static shapes; use auto"
            )
        return fixed or (self.device == "Ascend" and wanted != "dynamic")

    @property
    def static_training(self) -> bool:
        """Whether training batches come in a finite set of shapes, by need or by configuration.

        A graph for each shape pays where it runs thousands of times, and takes memory of its own.
        """
        return self.static or self.config.DataConfig.batch_shapes == "static"

    def parameters(self) -> int:
        """Count the trainable weights."""
        return sum(int(np.prod(weight.shape)) for weight in self.network.trainable_params())


def described(recipe: Recipe, checkpoint: checkpoints.Checkpoint) -> tuple[Any, Tokenizer]:
    """Read the configuration and the tokenizer that a checkpoint carries.

    Args:
        recipe: The model that it must be of.
        checkpoint: The checkpoint.

    Returns:
        The training configuration and the tokenizer.

    Raises:
        UserError: The checkpoint is another model's, or another project's.
    """
    config = described_config(recipe, checkpoint)
    metadata = checkpoint.metadata or {}
    where = f"checkpoint {checkpoint.path}"
    return config, restored_tokenizer(recipe.tokenizer, metadata, where)


def described_config(recipe: Recipe, checkpoint: checkpoints.Checkpoint) -> Any:
    """Read the training configuration alone; see `described`."""
    if checkpoint.metadata is None:
        raise UserError(f"checkpoint {checkpoint.path}: describes no network of this project")
    model = checkpoint.metadata.get("model")
    if model != recipe.name:
        raise UserError(
            f"checkpoint {checkpoint.path}: holds a {model} network, expected {recipe.name}; "
            f"use the commands of {model}/"
        )
    config, values = recipe.train_config(), checkpoint.metadata.get("config")
    if not isinstance(values, dict):
        raise UserError(
            f"checkpoint {checkpoint.path}: what it says of its network is damaged; take another "
            "copy of it"
        )
    configs.override(config, values, f"checkpoint {checkpoint.path}")
    return config


class Forward:
    """The network in evaluation mode, numpy in and numpy out.

    features (B, F, T) float32, lengths (B,) -> log-probabilities (T', B, C), lengths (B,).

    Args:
        speech_model: The network.
    """

    def __init__(self, speech_model: SpeechModel):
        self._cell = Inference(speech_model.network)
        if not speech_model.static:
            dimension = speech_model.featurizer.dimension
            self._cell.set_inputs(
                Tensor(shape=(None, dimension, None), dtype=ms.float32),
                Tensor(shape=(None,), dtype=ms.int32),
            )

    def __call__(self, features: np.ndarray, lengths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Run the network on a batch."""
        self._cell.set_train(False)
        log_probs, lengths = self._cell(Tensor(features), Tensor(lengths.astype(np.int32)))
        return log_probs.asnumpy(), lengths.asnumpy()


class Inference(GraphCell):
    """A graph of its own for evaluation; the network is also part of the training graph.

    Inputs and outputs are the network's.

    Args:
        network: features (B, F, T), lengths (B,) -> its outputs.
    """

    def __init__(self, network: nn.Cell):
        super().__init__(auto_prefix=False)
        self.network = network

    def construct(self, features, lengths):
        """Run the network."""
        return self.network(features, lengths)
