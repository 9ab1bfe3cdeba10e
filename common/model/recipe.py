"""What a model folder gives to the shared code: config, network, featurizer, a few formulas."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.audio.features import Featurizer, build_featurizer
from common.config import InferConfig


@dataclass(frozen=True)
class Recipe:
    """A model, as the entry points of `common` see it.

    train_config, eval_config, infer_config: make fresh configuration objects with the model's
        defaults.
    build_network(model_config, dimension, classes, rng, device): an nn.Cell that keeps the
        contract features (B, F, T), lengths (B,) -> log_probs (T', B, C), lengths (B,).
    output_frames(model_config, frames): the network's length arithmetic.
    activation_bytes(model_config, dimension): memory of a train step per feature frame, for the
        forecast that keeps training inside the machine (`common.memory`).
    forward_share: what a forward pass takes of `activation_bytes`.
    weight_copies, forward_copies: memory of a train step, and of a forward pass, that goes with the
        weights, in copies of them.
    graph_bytes(model_config): memory of its compiled graph, beyond that of a few layers.
    rename_parameter: an older name of a checkpoint parameter -> today's.
    head: beginning of the names of the output layer's parameters, which start anew when the
        vocabulary changes.
    build_featurizer(data_config): samples (N,) -> features (F, T); where none is given, by the keys
        of DataConfig.SpectConfig.
    needs_static_shapes(model_config): whether the network cannot take dynamic shapes.
    translate_yaml(values): the groups of keys that the YAML file of another project means, and
        under "labels" its vocabulary without the blank; None for a file of ours.
    pretrained: checkpoint that ships with the model, used where none is named.
    onnx_network(graph, model_config, weights, features, lengths): adds the network to a
        `common.export.onnx.Graph`; weights: its parameters as arrays, by name. Returns the names of
        the tensors of its contract. None: it cannot be written as ONNX.
    """

    name: str
    folder: Path
    train_config: Callable[[], Any]
    eval_config: Callable[[], Any]
    build_network: Callable[..., Any]
    output_frames: Callable[[Any, Any], Any]
    activation_bytes: Callable[[Any, int], float]
    head: str
    rename_parameter: Callable[[str], str] = lambda name: name
    build_featurizer: Callable[[Any], Featurizer] = build_featurizer
    needs_static_shapes: Callable[[Any], bool] = lambda model_config: False
    # DeepSpeech2's. Peaks in GiB, measured and forecast, by benchmarks/memory.py --forward: full
    # size, 1 x 2000 frames 2.5 and 3.1, 1 x 8000 4.3 and 5.4; quickstart, 1 x 8000 1.0 and 1.4.
    forward_share: float = 0.4
    weight_copies: float = 13.5
    forward_copies: float = 5.0  # a checkpoint's own among them
    graph_bytes: Callable[[Any], float] = lambda model_config: 0.0
    pretrained: Path | None = None
    infer_config: Callable[[], Any] = InferConfig
    translate_yaml: Callable[[dict], dict | None] = lambda values: None
    onnx_network: Callable[..., tuple[str, str]] | None = None

    def frame_stride(self, model_config: Any) -> int:
        """Feature frames from one output frame to the next."""
        many = 1_000_000
        return round(many / int(self.output_frames(model_config, many)))

    def preset(self, name: str) -> Path:
        """The YAML file of a preset that ships with the model."""
        return self.folder / "presets" / f"{name}.yaml"

    def presets(self) -> list[str]:
        return sorted(path.stem for path in (self.folder / "presets").glob("*.yaml"))


def labels_file(recipe: Recipe, config: Any) -> Path:
    """DataConfig.labels_path: as it is, or in the model's folder."""
    path = Path(config.DataConfig.labels_path)
    inside = recipe.folder / path
    return inside if not path.exists() and inside.exists() else path
