"""What a model's package offers as functions, over the code that its commands run."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common import config as configs
from common.api.loading import load_model, load_network, shipped, to_stderr
from common.api.recognizer import Recognizer
from common.api.streaming import PAUSE_SECONDS, OnlineModel, StreamingRecognizer
from common.decoding.confidence import read_calibration
from common.export.streaming import CHUNK_SECONDS
from common.model.recipe import Recipe
from common.utils.errors import UserError

if TYPE_CHECKING:  # they load MindSpore
    from common.api.scoring import Scores
    from common.model.speech_model import SpeechModel
    from common.training.stopping import TrainingResult


def _full_key(config: Any, key: str) -> str:
    """Add the group to the name of a key, where only one group has a key of this name."""
    keys = [full for full in configs.leaves(config) if full.rpartition(".")[2] == key]
    return keys[0] if len(keys) == 1 else key


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
        engine: str = "auto",
        decoding: configs.LMConfig | None = None,
    ) -> Recognizer:
        """Load a trained network.

        Args:
            model: A checkpoint (.ckpt), which runs in MindSpore; an exported file (.onnx, which
                runs in ONNX Runtime and needs no MindSpore, or .mindir), or the description beside
                one (.json). None: the network that ships, as ONNX file where `engine` and `device`
                leave the choice and ONNX Runtime is installed.
            device: "Ascend", "GPU" or "CPU"; None: the best one present. Exported files run on the
                device that they were written for.
            engine: "mindspore" or "onnxruntime", to refuse what does not run in it; "auto".
            decoding: How to search for the text; None: greedily.

        Returns:
            A recognizer with `transcribe` and `log_probs`.

        Raises:
            ImportError: A package is missing; the message has the command that installs it.
            UserError: The file is missing, damaged, or of another model.
        """
        path = model or shipped(self._recipe, engine, device)
        found = load_model(self._recipe, path, engine=engine, device=device)
        return Recognizer(found, found.decoder(decoding), read_calibration(path))

    def load_streaming(
        self,
        model: str | Path | None = None,
        *,
        context: float | None = None,
        decoding: configs.LMConfig | None = None,
        pause: float = PAUSE_SECONDS,
        chunk: float = CHUNK_SECONDS,
    ) -> StreamingRecognizer:
        """Load a network that recognises a recording while it is made.

        Args:
            model: An ONNX file of export.py --streaming; with `context` any that `load` takes.
            context: Seconds of audio behind a chunk: windows of a network for whole recordings are
                recognised one by one, which gives other log-probabilities than the whole. None: the
                file is for streams.
            decoding: How to search for the text; None: greedily.
            pause: Seconds without a letter, after which a text is final.
            chunk: Seconds of audio that the network takes at a time.

        Returns:
            A recognizer with `accept`, `result` and `finish`.

        Raises:
            ImportError: A package is missing; the message has the command that installs it.
            UserError: The file is missing, damaged, of another model, or not for streams.
        """
        from common.export.streaming_session import StreamingModel
        from common.export.streaming_windows import WindowedModel

        found: OnlineModel
        if context is not None:
            path = model or shipped(self._recipe, "auto", None)
            found = WindowedModel(load_model(self._recipe, path), context)
        elif model is None:
            raise UserError("no network for streams ships: name a file, or give context=SECONDS")
        else:
            found = StreamingModel.load(self._recipe, model)
        return StreamingRecognizer(found, decoding, pause=pause, chunk_seconds=chunk)

    def load_network(
        self,
        checkpoint: str | Path,
        *,
        device: str | None = None,
        device_id: int | None = None,
        fallback: Any = None,
        log: Callable[[str], None] = to_stderr,
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
        return load_network(self._recipe, checkpoint, device, device_id, fallback, log)

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
        for key, value in values.items():
            configs.override(config, {_full_key(config, key): value}, "config()")
        configs.check(config)
        return config

    def train(
        self,
        config: Any,
        *,
        device: str | None = None,
        resume: bool = False,
        start_from: str | Path = "",
        log: logging.Logger | None = None,
    ) -> TrainingResult:
        """Train in the current folder, as train.py does; convert the data first (`convert`).

        Args:
            config: A training configuration (`config`).
            device: "Ascend", "GPU" or "CPU"; None: the best one present.
            resume: Go on exactly where the run in `CheckpointConfig.ckpt_path` stopped.
            start_from: Checkpoint whose weights a new run begins with.
            log: Receives the lines that describe the run; None: the logger "common.training".

        Returns:
            Why the run ended, its progress, and where its checkpoints are.

        Raises:
            UserError: The run cannot start, or data or a file fail in the middle of it.
        """
        from common.training.trainer import train
        from common.utils import runtime

        return train(
            self._recipe,
            config,
            device=runtime.set_device(device),
            resume=resume,
            start_from=start_from,
            log=log,
        )

    def convert(self, config: Any, splits: Sequence[str] = ("train", "val")) -> None:
        """Convert manifests to MindRecord files, as create_mindrecord.py does.

        Args:
            config: A training configuration, whose DataConfig names manifests and files.
            splits: "train", "val" or both; without a validation manifest "val" is left out.

        Raises:
            UserError: A manifest is wrong, or no utterance of it can be trained on.
        """
        from common.data.splits import convert_split

        for split in splits:
            if split == "train" or config.DataConfig.val_manifest:
                convert_split(self._recipe, config, split)

    def evaluate(
        self,
        checkpoint: str | Path | None = None,
        manifests: str | Path | Sequence[str | Path] = (),
        *,
        config: configs.EvalConfig | None = None,
        device: str | None = None,
        engine: str = "auto",
    ) -> Scores:
        """Score a checkpoint or an exported file, as eval.py does.

        Args:
            checkpoint: The file; None: the network that ships, as in `load`.
            manifests: What to score; none: the test set that `config` or the checkpoint names.
            config: How to decode and what to write; None: greedily, and nothing.
            device: "Ascend", "GPU" or "CPU"; None: the best one present.
            engine: As in `load`.

        Returns:
            Error rates (`evaluation.wer` and `.cer` in percent) and the scored utterances.

        Raises:
            UserError: The checkpoint or the test set cannot be used.
        """
        from common.api.scoring import score_manifests

        path = checkpoint or shipped(self._recipe, engine, device)
        config = copy.deepcopy(config) if config else self._recipe.eval_config()
        if manifests:
            names = [manifests] if isinstance(manifests, (str, Path)) else manifests
            config.DataConfig.test_manifest = [str(name) for name in names]
        model = load_model(self._recipe, path, engine=engine, device=device)
        return score_manifests(model, str(path), config, logging.getLogger("common.eval"))

    def export(
        self,
        checkpoint: str | Path,
        path: str | Path,
        *,
        file_format: str = "MINDIR",
        batch_size: int = 0,
        frames: int = 0,
        buckets: Sequence[int] = (),
        half: bool = False,
        int8: str = "",
        input: str = "",
        license: str = "",
        streaming: bool = False,
        device: str | None = None,
    ) -> Path:
        """Write a checkpoint as MindIR or ONNX and compare the file with it, as export.py does.

        Args:
            checkpoint: The file to export.
            path: Name of the exported file; the ending of its format is added.
            file_format: "MINDIR", "ONNX", or "AIR" (on Ascend only).
            batch_size: Utterances in a batch; 0: any number.
            frames: Feature frames that inputs are padded to; 0: any number.
            buckets: Several numbers of frames, a file each, in place of `frames`.
            half: Store weights in float16.
            int8: "weights": store them as int8 in an ONNX file; "compute": 8-bit arithmetic, for
                networks with LSTMs (others want recordings, which export.py takes).
            input: What an ONNX file takes: "samples", from which it computes the features itself,
                or "features"; empty: samples, unless `frames` is given.
            license: Of the weights, for the metadata of an ONNX file.
            streaming: An ONNX file that takes a recording piece by piece.
            device: Device that runs the export, and that the file is for.

        Returns:
            The description (.json) beside the exported file; an ONNX file that takes samples holds
            its own, and is returned itself.

        Raises:
            UserError: The model or the device cannot have such a file, or it differs from the
                checkpoint.
        """
        from common.export.export import Options, export

        options = Options(
            file_format.upper(),
            batch_size,
            frames,
            tuple(buckets),
            half=half,
            int8=int8,
            input=input,
            license=license,
            streaming=streaming,
        )
        return export(self.load_network(checkpoint, device=device), path, options)
