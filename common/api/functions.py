"""What a model's package offers as functions; its commands call the same."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common import config as configs
from common.api.recognizer import ExportedBackend, NetworkBackend, Recognizer
from common.model.recipe import Recipe
from common.utils.errors import UserError

if TYPE_CHECKING:  # they load MindSpore
    from common.model.speech_model import SpeechModel

_EXPORTED = (".json", ".mindir", ".onnx")


def _to_stderr(line: str) -> None:
    print(line, file=sys.stderr)


class ModelFunctions:
    """The functions of one model.

    Args:
        recipe: The model.
    """

    def __init__(self, recipe: Recipe):
        self._recipe = recipe

    def load(
        self,
        model: str | Path | None = None,
        *,
        device: str | None = None,
        decoding: configs.LMConfig | None = None,
    ) -> Recognizer:
        """Load a trained network.

        Args:
            model: A checkpoint (.ckpt), or an exported file (.mindir or .onnx) with its description
                beside it, or that description (.json); None: the checkpoint that ships.
            device: "Ascend", "GPU" or "CPU"; None: the best one present. Exported files run on the
                device that they were written for.
            decoding: How to search for the text; None: greedily.

        Returns:
            A recognizer with `transcribe` and `log_probs`.

        Raises:
            ImportError: A package is missing; the message has the command that installs it.
            UserError: The file is missing, damaged, or of another model.
        """
        path = self._recipe.pretrained if model is None else Path(model)
        if path is None:
            raise UserError(f"{self._recipe.name} ships no checkpoint: name one")
        decoding = decoding or configs.LMConfig()
        if path.suffix in _EXPORTED:
            return self._load_exported(path, decoding)
        speech_model = self.load_network(path, device=device)
        return Recognizer(NetworkBackend(speech_model, speech_model.decoder(decoding)))

    def load_network(
        self,
        checkpoint: str | Path,
        *,
        device: str | None = None,
        device_id: int | None = None,
        fallback: Any = None,
        log: Callable[[str], None] = _to_stderr,
    ) -> SpeechModel:
        """Load a checkpoint as a MindSpore network with all that belongs to it.

        Args:
            checkpoint: The file.
            device: As in `load`.
            device_id: Number of the card; None: DEVICE_ID of the environment, or else 0.
            fallback: The training configuration of a checkpoint that describes none (the MindSpore
                model zoo's); None: the model's defaults.
            log: Gets lines that the user should know.

        Raises:
            UserError: The file is missing, damaged, or of another model.
        """
        from common.model.speech_model import SpeechModel
        from common.utils import runtime

        target = runtime.set_device(device, device_id)
        return SpeechModel.from_checkpoint(self._recipe, checkpoint, target, fallback, log)

    def _load_exported(self, path: Path, decoding: configs.LMConfig) -> Recognizer:
        from common.decoding.decoders import make_decoder
        from common.export.offline_inference import read_description

        model = read_description(self._recipe, path)
        if any(bucket.path.suffix == ".mindir" for bucket in model.buckets()):
            from common.utils import runtime

            runtime.set_device(None if model.device == "any" else model.device)
        return Recognizer(ExportedBackend(model, make_decoder(decoding, model.tokenizer)))

    def config(
        self,
        preset: str = "",
        files: Sequence[str | Path] = (),
        **values: Any,
    ) -> Any:
        """Make a training configuration.

        Args:
            preset: Name of a preset that ships with the model, such as "an4"; empty: the defaults.
            files: YAML files that override it, in this order.
            **values: Single keys that override these, such as epochs=20 or
                OptimConfig={"learning_rate": 1e-3}.

        Returns:
            A `TrainConfig` of the model's src/config.py; its attributes may be changed.

        Raises:
            UserError: A preset, key or value does not exist or is out of bounds.
        """
        config = self._recipe.train_config()
        if preset:
            path = self._recipe.preset(preset)
            if not path.is_file():
                raise UserError(
                    f"preset {preset}: unknown, expected one of {', '.join(self._recipe.presets())}"
                )
            configs.override_from_yaml(config, path)
        for file in files:
            configs.override_from_yaml(config, file, self._recipe.translate_yaml)
        if values:
            configs.override(config, values, "config()")
        configs.check(config)
        return config
