"""What a model folder gives to the shared code.

That is its configuration, network, tokenizer, training objective and decoder, and a few formulas.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common.audio.features import Featurizer, build_featurizer
from common.config import InferConfig
from common.text.tokenizer import CharacterTokenizer, Tokenizer

if TYPE_CHECKING:  # these load MindSpore, which a recipe does without
    from common.model.decoder import SpeechDecoder
    from common.utils.backend import nn


PROCESS = 0.65 * (1 << 30)  # bytes of Python, MindSpore and the batches read ahead


def ctc_objective(network: nn.Cell, tokenizer: Tokenizer) -> nn.Cell:
    """Build the CTC objective (Graves et al. 2006) over a network's outputs.

    Args:
        network: features (B, F, T), lengths (B,) -> log-probabilities (T', B, C), lengths (B,).
        tokenizer: One with a blank.

    Returns:
        A cell (features, lengths, targets (B, L), target_lengths (B,)) -> losses (B,) in nats.
    """
    from common.nn.losses import CTCLoss, CTCObjective

    return CTCObjective(network, CTCLoss(tokenizer.ctc_blank))


def ctc_decoder(speech_model: Any, decoding: Any) -> SpeechDecoder:
    """Build a decoder from a CTC network and a search over its log-probabilities.

    Args:
        speech_model: An `AcousticModel`; of it, `forward()` and the tokenizer.
        decoding: An `LMConfig`, which describes the search.

    Returns:
        The decoder.

    Raises:
        UserError: The language model's files are bad.
    """
    from common.decoding.decoders import make_decoder
    from common.model.decoder import CTCDecoder

    return CTCDecoder(speech_model.forward(), make_decoder(decoding, speech_model.tokenizer))


@dataclass(frozen=True)
class MemoryModel:
    """Memory that a network takes, measured by benchmarks/memory.py; see `common.memory`.

    Attributes:
        activation_bytes: (model_config, dimension of the features) -> bytes of a train step per
            feature frame.
        forward_share: Share of `activation_bytes` that a forward pass takes.
        weight_copies: Memory of a train step that goes with the weights, in copies of them.
        forward_copies: The same of a forward pass; the checkpoint's own copy is one of them.
        graph_bytes: model_config -> bytes of its compiled graph, beyond that of a few layers.
    """

    activation_bytes: Callable[[Any, int], float]
    forward_share: float
    weight_copies: float
    forward_copies: float
    graph_bytes: Callable[[Any], float] = lambda model_config: 0.0

    def forward(self, config: Any, dimension: int, parameters: int) -> tuple[float, float]:
        """Forecast the bytes of a forward pass in MindSpore.

        Args:
            config: The ModelConfig.
            dimension: Of the features.
            parameters: Weights of the network.

        Returns:
            Bytes without a frame, and bytes for each feature frame.
        """
        fixed = PROCESS + self.graph_bytes(config) + 4 * self.forward_copies * parameters
        return fixed, self.forward_share * self.activation_bytes(config, dimension)


@dataclass(frozen=True)
class Recipe:
    """A model, as the shared code sees it. A further model is one new folder with one of these.

    Attributes:
        name: Of the model and of its folder.
        folder: Where presets/ and the default labels file are.
        train_config: Makes a fresh training configuration with the model's defaults.
        eval_config: The same for evaluation.
        build_network: (model_config, dimension of the features, number of labels, numpy random
            generator, device) -> an nn.Cell that honours lengths: padding never changes a result.
        output_frames: (model_config, feature frames) -> output frames of the network, or of its
            encoder: an int, a numpy array or a Tensor, as the frames are.
        head: Beginning of the names of the output layer's parameters, which start anew when the
            labels change.
        tokenizer: The class that reads DataConfig.labels_path.
        build_featurizer: DataConfig -> samples (N,) to features (F, T).
        build_objective: (network, tokenizer) -> an nn.Cell (features (B, F, T), lengths (B,),
            targets (B, L), target_lengths (B,)) -> losses (B,). Rows of no frames and no labels
            must give a finite loss, and finite gradients: they fill batches up, with weight 0.
        build_decoder: (speech_model, LMConfig) -> a `SpeechDecoder`. It may own a second model. It
            runs the network by `speech_model.forward()`; for an exported file, that is the file.
        exportable: Whether the network keeps the CTC contract, features (B, F, T), lengths (B,) ->
            log-probabilities (T', B, C), lengths (B,), which exported files have.
        memory: None: no forecast, and nothing is refused for its size.
        rename_parameter: An older name of a checkpoint's parameter -> today's.
        needs_static_shapes: model_config -> whether the network cannot take dynamic shapes.
        pretrained: Checkpoint that ships with the model, used where none is named.
        infer_config: Makes a fresh configuration of preprocess.py and postprocess.py.
        translate_yaml: Values of another project's YAML file -> our groups of keys, and under
            "labels" its labels without the blank; None for a file of ours.
        onnx_network: (graph, model_config, weights by name, features, lengths): adds the network to
            a `common.export.onnx.Graph` and returns the names of its two outputs. None: it cannot
            be written as ONNX.
    """

    name: str
    folder: Path
    train_config: Callable[[], Any]
    eval_config: Callable[[], Any]
    build_network: Callable[..., Any]
    output_frames: Callable[[Any, Any], Any]
    head: str
    tokenizer: type[Tokenizer] = CharacterTokenizer
    build_featurizer: Callable[[Any], Featurizer] = build_featurizer
    build_objective: Callable[[Any, Tokenizer], Any] = ctc_objective
    build_decoder: Callable[[Any, Any], SpeechDecoder] = ctc_decoder
    exportable: bool = True
    memory: MemoryModel | None = None
    rename_parameter: Callable[[str], str] = lambda name: name
    needs_static_shapes: Callable[[Any], bool] = lambda model_config: False
    pretrained: Path | None = None
    infer_config: Callable[[], Any] = InferConfig
    translate_yaml: Callable[[dict[str, Any]], dict[str, Any] | None] = lambda values: None
    onnx_network: Callable[..., tuple[str, str]] | None = None

    def frame_stride(self, model_config: Any) -> int:
        """Return the feature frames from one output frame to the next."""
        many = 1_000_000
        return round(many / int(self.output_frames(model_config, many)))

    def preset(self, name: str) -> Path:
        """Return the YAML file of a preset that ships with the model."""
        return self.folder / "presets" / f"{name}.yaml"

    def presets(self) -> list[str]:
        """List the names of the presets that ship with the model."""
        return sorted(path.stem for path in (self.folder / "presets").glob("*.yaml"))

    def load_tokenizer(self, config: Any) -> Tokenizer:
        """Load the tokenizer of a training configuration.

        Args:
            config: The training configuration.

        Returns:
            The tokenizer.

        Raises:
            UserError: DataConfig.labels_path is missing or not what the tokenizer needs.
        """
        return self.tokenizer.from_file(labels_file(self, config))


def labels_file(recipe: Recipe, config: Any) -> Path:
    """Find the labels file of a training configuration.

    Args:
        recipe: The model.
        config: The training configuration.

    Returns:
        DataConfig.labels_path as it is, or where only that exists, in the model's folder.
    """
    path = Path(config.DataConfig.labels_path)
    inside = recipe.folder / path
    return inside if not path.exists() and inside.exists() else path
