"""Trained networks by the names of their files: what runs which, and what ships with a model."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common.utils.errors import UserError

if TYPE_CHECKING:  # they load MindSpore, or what it is not needed for
    from common.export.offline_inference import ExportedModel
    from common.model.acoustic_model import AcousticModel
    from common.model.recipe import Recipe
    from common.model.speech_model import SpeechModel

ENGINES = ("auto", "mindspore", "onnxruntime")
_EXPORTED = (".json", ".mindir", ".onnx")


def to_stderr(line: str) -> None:
    """Print a line that the user should know."""
    print(line, file=sys.stderr)


def shipped(recipe: Recipe, engine: str = "auto", device: str | None = None) -> Path:
    """Choose between the files of the network that ships with a model.

    Both give the same texts. The ONNX file gives them sooner.

    Args:
        recipe: The model.
        engine: One of ENGINES.
        device: "Ascend", "GPU" or "CPU"; None: no wish.

    Returns:
        The ONNX file, unless MindSpore or another device than the CPU is asked for; the checkpoint
        where ONNX Runtime is missing, but MindSpore is not.

    Raises:
        UserError: The model ships no such file.
    """
    if recipe.pretrained is None:
        raise UserError(f"{recipe.name} ships no checkpoint: name one")
    file = recipe.pretrained.with_suffix(".onnx")
    if engine == "onnxruntime":
        if not file.is_file():
            raise UserError(f"{recipe.name} ships no ONNX file: name one")
        return file
    on_cpu = device is None or device.upper() == "CPU"
    if engine == "mindspore" or not on_cpu or not file.is_file():
        return recipe.pretrained
    return recipe.pretrained if _has("mindspore") and not _has("onnxruntime") else file


def _has(package: str) -> bool:
    return importlib.util.find_spec(package) is not None


def load_model(
    recipe: Recipe,
    path: str | Path,
    *,
    engine: str = "auto",
    device: str | None = None,
    device_id: int | None = None,
    fallback: Any = None,
    log: Callable[[str], None] = to_stderr,
) -> AcousticModel:
    """Load a trained network to recognise with.

    Args:
        recipe: The model.
        path: A checkpoint, an exported file, or the description beside one.
        engine: "mindspore" or "onnxruntime", to be sure; "auto": what runs the file.
        device: "Ascend", "GPU" or "CPU"; None: the best one present, for exported files the one
            that they were written for.
        device_id: Number of the card; None: DEVICE_ID of the environment, or else 0. ONNX files
            take none.
        fallback: The training configuration of a checkpoint that describes none.
        log: Gets lines that the user should know.

    Returns:
        The network.

    Raises:
        ImportError: A package is missing; the message has the command that installs it.
        UserError: The file is missing, damaged, of another model, or not for this engine or device.
    """
    path = Path(path)
    if engine not in ENGINES:
        raise UserError(f"engine {engine}: unknown, expected one of {', '.join(ENGINES)}")
    if path.suffix not in _EXPORTED:
        if engine == "onnxruntime":
            raise UserError(
                f"{path}: a checkpoint runs in MindSpore; for ONNX Runtime, export it (export.py "
                "--file_format ONNX)"
            )
        return load_network(recipe, path, device, device_id, fallback, log)
    if fallback is not None:
        raise UserError(f"--train_config: {path} carries its own configuration; leave it out")
    return _load_exported(recipe, path, engine, device, device_id, log)


def load_network(
    recipe: Recipe,
    checkpoint: str | Path,
    device: str | None = None,
    device_id: int | None = None,
    fallback: Any = None,
    log: Callable[[str], None] = to_stderr,
) -> SpeechModel:
    """Load a checkpoint as a MindSpore network; arguments as of `load_model`."""
    from common.model.speech_model import SpeechModel
    from common.utils import runtime

    target = runtime.set_device(device, device_id)
    return SpeechModel.from_checkpoint(recipe, checkpoint, target, fallback, log)


def _load_exported(
    recipe: Recipe,
    path: Path,
    engine: str,
    device: str | None,
    device_id: int | None,
    log: Callable[[str], None],
) -> ExportedModel:
    from common.export.offline_inference import read_description

    model = read_description(recipe, path)
    if model.onnx:
        if engine == "mindspore":
            raise UserError(
                f"{path}: an ONNX file, which runs in ONNX Runtime and not in MindSpore"
            )
        if device is not None and device.upper() != "CPU":
            raise UserError(
                f"{path}: device {device} was asked for, and ONNX files run on the CPU; leave it "
                "out, or give a checkpoint"
            )
        if device_id is not None:
            raise UserError(
                f"{path}: card {device_id} was asked for (--device_id), and ONNX files run on the "
                "CPU; leave it out, or give a checkpoint"
            )
        return model
    if engine == "onnxruntime":
        raise UserError(f"{path}: a MindIR file, which runs in MindSpore and not in ONNX Runtime")
    if model.device != "any":
        if device is not None and device.upper() != model.device.upper():
            raise UserError(
                f"{path}: device {device} was asked for, and this file was exported for "
                f"{model.device}; leave it out, or give a checkpoint"
            )
        device = model.device

    from common.utils import runtime

    if model.convolves and not runtime.prepare_native_convolutions():
        log(
            f"{path}: MindSpore is loaded with AVX-512, with which the convolutions of this file "
            "take minutes: set ONEDNN_MAX_CPU_ISA=AVX2 before Python starts"
        )
    runtime.set_device(device, device_id)
    return model
