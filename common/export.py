"""A trained network leaves Python: MindIR, a description beside it, and proof that it is equal."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn

from common.errors import UserError
from common.files import write_text
from common.recogniser import Forward, Inference, Recogniser
from common.sources import mindspore_reason

FORMATS = ("MINDIR", "AIR")
TOLERANCE = 1e-4  # on log-probabilities, between the file and the checkpoint
_LENGTHS = (37, 160, 403)  # feature frames at which a dynamic file is compared


def export(
    recogniser: Recogniser,
    path: str | Path,
    file_format: str = "MINDIR",
    batch_size: int = 0,
    frames: int = 0,
    log: Callable[[str], None] = print,
) -> Path:
    """Writes `path` and its description `<path without ending>.json`; returns the file's path.

    batch_size, frames: of the input; 0 leaves the axis open, which is for CPU and GPU only.
    The file is made in a folder beside `path`, read back, and takes its place, and that of an
    earlier export, when its log-probabilities are found equal to the checkpoint's. The description
    is written last, so that a file with a description is a good one.

    Raises UserError for a format or shapes that the device cannot have, and for a folder that
    cannot be written, and where MindSpore cannot export the network.
    """
    _check(recogniser, file_format, batch_size, frames)
    path, ending = Path(path), ".mindir" if file_format == "MINDIR" else ".air"
    if not path.name:
        raise UserError("--file_name: expected the name of a file")
    if path.suffix != ending:
        path = path.with_name(path.name + ending)
    description = path.with_suffix(".json")
    if description.is_file() and b'"file_format"' not in description.read_bytes():
        raise UserError(f"{description}: would be overwritten and is no earlier export; rename one")
    staging = path.with_name(f".{path.stem}.partial")
    try:
        staging.mkdir(parents=True, exist_ok=True)
        made = staging / path.name
        _remove(made)  # of an export that was interrupted: mindspore replaces no file
        _write(recogniser, made, file_format, batch_size or None, frames or None)
        difference = None  # an AIR file runs outside of MindSpore alone
        if file_format == "MINDIR":
            difference = verify(recogniser, made, batch_size, frames, log)
        content = describe(recogniser, path, file_format, batch_size, frames, difference)
        description.unlink(missing_ok=True)
        _remove(path)
        for part in _parts(made):
            part.rename(path.parent / part.name)
    except OSError as error:
        reason = error.strerror or repr(error)
        raise UserError(f"{path}: could not be written ({reason})") from error
    except RuntimeError as error:
        reason = mindspore_reason(error)
        raise UserError(f"{path}: MindSpore could not export it ({reason})") from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    write_text(description, json.dumps(content, indent=2) + "\n")
    return path


def _write(
    recogniser: Recogniser, path: Path, file_format: str, batch_size: int | None, frames: int | None
) -> None:
    cell = Inference(recogniser.network)
    cell.set_train(False)
    inputs = _inputs(recogniser, batch_size, frames)
    ms.export(cell, *inputs, file_name=str(path), file_format=file_format)
    for part in _parts(path):  # mindspore's are read-only
        for file in part.iterdir() if part.is_dir() else [part]:
            file.chmod(0o644)


def verify(
    recogniser: Recogniser,
    path: Path,
    batch_size: int,
    frames: int,
    log: Callable[[str], None] = print,
) -> float:
    """The largest difference in log-probabilities between the file and the network.

    Compared at several lengths, on noise, over the frames that count. Raises UserError where it
    exceeds TOLERANCE.
    """
    graph = nn.GraphCell(ms.load(_graph_file(path)))
    forward = Forward(recogniser)
    rng = np.random.default_rng(0)
    rows = batch_size or 3
    worst = 0.0
    for padded in (frames,) if frames else _LENGTHS:
        for longest in (padded, max(1, padded // 3)) if frames else (padded,):
            lengths = np.linspace(longest, max(1, longest // 2), rows).astype(np.int32)
            features = np.zeros((rows, recogniser.featurizer.dimension, padded), np.float32)
            for row, length in enumerate(lengths):
                features[row, :, :length] = rng.standard_normal((features.shape[1], length))
            expected, out_lengths = forward(features, lengths)
            found, found_lengths = graph(Tensor(features), Tensor(lengths))
            found = found.asnumpy()
            if not np.array_equal(found_lengths.asnumpy(), out_lengths):
                raise UserError(f"{path.name}: its output lengths differ from the checkpoint's")
            difference = max(
                float(np.abs(found[:count, row] - expected[:count, row]).max())
                for row, count in enumerate(out_lengths)
            )
            worst = max(worst, difference)
            if not difference <= TOLERANCE:
                raise UserError(
                    f"{path.name}: log-probabilities differ from the checkpoint's by "
                    f"{difference:.2e} at {longest} frames, expected at most {TOLERANCE:.0e}; "
                    "do not use this file"
                )
            log(f"verified with {rows} x {longest} frames: difference {difference:.1e}")
    return worst


def describe(
    recogniser: Recogniser,
    path: Path,
    file_format: str,
    batch_size: int,
    frames: int,
    difference: float | None,
) -> dict[str, Any]:
    """What a program must know to use the file: inputs, features, labels, device, versions."""
    dimension = recogniser.featurizer.dimension
    return {
        **recogniser.metadata(),
        "file": path.name,
        "file_format": file_format,
        "device": recogniser.device,
        "inputs": [
            {
                "name": "features",
                "type": "float32",
                "shape": [batch_size or -1, dimension, frames or -1],
                "axes": "utterance, bin, frame; padded with 0",
            },
            {
                "name": "lengths",
                "type": "int32",
                "shape": [batch_size or -1],
                "axes": "utterance; frames that count",
            },
        ],
        "outputs": [
            {"name": "log_probs", "type": "float32", "axes": "frame, utterance, label"},
            {"name": "lengths", "type": "int32", "axes": "utterance; frames that count"},
        ],
        "features": recogniser.featurizer.config.to_dict(),
        "blank": recogniser.vocabulary.blank,
        "verified_difference": difference,
    }


def _check(recogniser: Recogniser, file_format: str, batch_size: int, frames: int) -> None:
    if file_format not in FORMATS:
        raise UserError(f"--file_format {file_format}: expected one of {', '.join(FORMATS)}")
    if file_format == "AIR" and recogniser.device != "Ascend":
        raise UserError(
            f"--file_format AIR needs an Ascend device, this is {recogniser.device}; use MINDIR"
        )
    if recogniser.static and not (batch_size and frames):
        raise UserError(
            f"this {recogniser.recipe.name} takes static shapes alone (because of its device, its "
            "kind of network, or DataConfig.batch_shapes): give --batch_size and --frames"
        )
    if batch_size < 0 or frames < 0:
        raise UserError(f"--batch_size {batch_size} --frames {frames}: expected 0 or more")


def _inputs(recogniser: Recogniser, batch_size: int | None, frames: int | None) -> list[Tensor]:
    shapes = [(batch_size, recogniser.featurizer.dimension, frames), (batch_size,)]
    kinds = [ms.float32, ms.int32]
    if batch_size and frames:
        return [
            Tensor(np.zeros(shapes[0], np.float32)),
            Tensor(np.full(shapes[1], frames, np.int32)),
        ]
    return [Tensor(shape=shape, dtype=kind) for shape, kind in zip(shapes, kinds)]


def _parts(path: Path) -> list[Path]:
    """What an export consists of; above 1 GB MindSpore splits it into a graph and its variables."""
    graph = path.with_name(f"{path.stem}_graph.mindir")
    variables = path.with_name(f"{path.stem}_variables")
    return [part for part in (path, graph, variables) if part.exists()]


def _graph_file(path: Path) -> str:
    return str(path if path.exists() else path.with_name(f"{path.stem}_graph.mindir"))


def _remove(path: Path) -> None:
    for part in _parts(path):
        if part.name.endswith("_variables"):
            shutil.rmtree(part)
        else:
            part.unlink()
