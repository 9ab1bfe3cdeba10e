"""Checkpoints: whole files only, that know what network they hold.

A checkpoint is a MindSpore `.ckpt` file: the network's parameters, the optimizer's where training
goes on, and one JSON string (`METADATA`) with the configuration, the labels and the progress.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from common.model.checkpoint_file import read_parameters
from common.utils.backend import Tensor, ms
from common.utils.errors import UserError
from common.utils.files import replacing
from common.utils.json_parsing import parse_json

METADATA = "speech_recipe_json"
FORMAT = 1  # of the metadata
STATELESS = "dropout_seed"  # set anew at every step, so it is not part of a checkpoint
_VARIANCES = ("moving_variance", "running_var")  # MindSpore's name, PyTorch's
AVERAGE = "ema."  # begins the names of moving averages (TrainingConfig.ema); the weight's follows


@dataclass
class Checkpoint:
    """Content of a checkpoint file.

    Attributes:
        path: The file.
        parameters: Weights and optimizer state, by name.
        metadata: Configuration, labels and progress; None: not written by this project.
    """

    path: Path
    parameters: dict[str, np.ndarray]
    metadata: dict[str, Any] | None


@dataclass
class MatchReport:
    """Comparison of a checkpoint's parameters with those of a network, by name.

    Attributes:
        matched: In both, with equal shapes.
        missing: In the network, not in the file.
        unused: In the file, not in the network.
        reshaped: In both, with unequal shapes.
    """

    matched: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    unused: list[str] = field(default_factory=list)
    reshaped: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        total = len(self.matched) + len(self.missing) + len(self.reshaped)
        parts = [f"{len(self.matched)} of {total} parameters match"]
        for what, names in (
            ("missing", self.missing),
            ("of another shape", self.reshaped),
            ("not used", self.unused),
        ):
            if names:
                shown = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
                parts.append(f"{len(names)} {what} ({shown})")
        return "; ".join(parts)


def save(path: Path, parameters: dict[str, Tensor], metadata: dict[str, Any]) -> None:
    """Write a checkpoint atomically: the file is complete, or is not there.

    Args:
        path: File to write.
        parameters: Weights and optimizer state, by name; dropout seeds are left out.
        metadata: What is stored beside them as JSON.

    Raises:
        UserError: The file cannot be written.
    """
    entries = [
        {"name": name, "data": value} for name, value in parameters.items() if STATELESS not in name
    ]
    text = json.dumps(metadata)
    try:
        with replacing(path) as partial:
            try:
                ms.save_checkpoint(entries, str(partial), append_dict={METADATA: text})
            except RuntimeError as error:  # mindspore's word for a full disk
                raise OSError(_first_line(error)) from error
            finally:  # mindspore leaves what it could not write to its end, on a full disk too
                partial.with_suffix(".tmp").unlink(missing_ok=True)
            partial.chmod(0o644)  # mindspore leaves it read-only
    except UserError as error:
        raise UserError(f"checkpoint {error}; the earlier checkpoints are untouched") from error


def load(path: str | Path) -> Checkpoint:
    """Read a checkpoint.

    Args:
        path: The file.

    Returns:
        Its content.

    Raises:
        UserError: The file is missing, damaged, of another kind, or of another format, or holds
            numbers that no network can use.
    """
    path = Path(path)
    if not path.is_file():
        earlier = [file for file in path.parent.glob(f"earlier-*/{path.name}") if file.is_file()]
        newest = max(earlier, key=lambda file: file.stat().st_mtime_ns, default=None)
        hint = f"; a run begun anew has moved an earlier one's to {newest}" if newest else ""
        raise UserError(f"checkpoint {path}: no such file{hint}")
    if path.suffix != ".ckpt":
        raise UserError(
            f"checkpoint {path}: MindSpore reads checkpoints from files named *.ckpt alone; "
            "rename it if it is one"
        )
    content = read_parameters(path)
    text = content.pop(METADATA, None)
    parameters = {name: value for name, value in content.items() if isinstance(value, np.ndarray)}
    try:
        metadata = parse_json(str(text)) if text else None
        if not isinstance(metadata, dict | None):
            raise ValueError
    except ValueError as error:
        raise UserError(
            f"checkpoint {path}: what it says of its network is damaged; take another copy of it"
        ) from error
    if metadata is not None and metadata.get("format", FORMAT) != FORMAT:
        raise UserError(
            f"checkpoint {path}: of format {metadata['format']}, this version reads {FORMAT}"
        )
    check_weights(parameters, f"checkpoint {path}")
    return Checkpoint(path, parameters, metadata)


def check_weights(weights: Mapping[str, np.ndarray], where: str) -> None:
    """Refuse numbers that no network can use: NaN, infinity, variances below zero.

    A run that diverged leaves them, float16 that overflowed, or a damaged file. A network may hide
    them: an activation makes 0 of NaN, and a text comes out.

    Args:
        weights: By name, as MindSpore or PyTorch has it; optimizer state may be among them.
        where: The file or the network, for messages.

    Raises:
        UserError: Names the first such weight.
    """
    for name, value in weights.items():
        if not value.size or value.dtype.kind != "f":
            continue
        least, most = value.min(), value.max()  # NaN passes through both
        bad, what = 0, "not finite"
        if not (np.isfinite(least) and np.isfinite(most)):
            bad = np.count_nonzero(~np.isfinite(value))
        elif least < 0 and name.endswith(_VARIANCES) and not is_training_state(name):
            bad, what = np.count_nonzero(value < 0), "negative, and a variance cannot be"
        if bad:
            raise UserError(
                f"{where}: {name}: {bad} of {value.size} values {'is' if bad == 1 else 'are'} "
                f"{what}; take an earlier checkpoint, or convert or train it again"
            )


def take_averages(checkpoint: Checkpoint) -> bool:
    """Replace the weights of a checkpoint by their moving averages, if it holds any.

    Args:
        checkpoint: Changed in place.

    Returns:
        Whether it holds any.
    """
    averages = {
        name.removeprefix(AVERAGE): value
        for name, value in checkpoint.parameters.items()
        if name.startswith(AVERAGE)
    }
    checkpoint.parameters.update(averages)
    return bool(averages)


def load_into(
    network: ms.nn.Cell,
    checkpoint: Checkpoint,
    rename: Callable[[str], str] = lambda name: name,
    new_head: str | None = None,
) -> MatchReport:
    """Load a checkpoint's weights into a network, all of them or none.

    Names are compared without wrapper prefixes (`network.`, ...). Optimizer state is ignored.

    Args:
        network: The network.
        checkpoint: The checkpoint.
        rename: Name in the file -> name in the network.
        new_head: Beginning of the names of parameters that may be missing or differ in shape
            (another tokenizer); they keep their fresh values. None: there are none.

    Returns:
        Which parameters match.

    Raises:
        UserError: A parameter of the network is missing or differs in shape.
    """
    wanted = {
        parameter.name: parameter
        for parameter in network.get_parameters()
        if STATELESS not in parameter.name
    }
    report, matched = MatchReport(), {}
    for name, value in checkpoint.parameters.items():
        target = _match(rename(name), wanted)
        if target is None:
            if not is_training_state(name):
                report.unused.append(name)
        elif wanted[target].shape != value.shape:
            report.reshaped.append(target)
        else:
            matched[target] = value
    report.matched = sorted(matched)
    report.missing = sorted(set(wanted) - set(matched) - set(report.reshaped))
    fatal = [
        name
        for name in report.missing + report.reshaped
        if new_head is None or not name.startswith(new_head)
    ]
    if fatal:
        name = fatal[0]
        detail = f"{name} is missing"
        if name in report.reshaped:
            shapes = [
                value.shape
                for key, value in checkpoint.parameters.items()
                if _match(rename(key), wanted) == name
            ]
            detail = f"{name} is {shapes[0]} in the file, {wanted[name].shape} in the network"
        raise UserError(
            f"checkpoint {checkpoint.path}: not of this network: {report}; {detail}; "
            "use the ModelConfig it was trained with"
        )
    for name, value in matched.items():
        wanted[name].set_data(Tensor(value.astype(np.float32)))
    return report


def _match(name: str, wanted: dict) -> str | None:
    """Return the network's name for a checkpoint's: equal, or equal behind wrapper prefixes."""
    if is_training_state(name):
        return None
    parts = name.split(".")
    for start in range(len(parts)):
        candidate = ".".join(parts[start:])
        if candidate in wanted:
            return candidate
    return None


def is_training_state(name: str) -> bool:
    """Whether a parameter is training state: the optimizer's, or a moving average of a weight.

    Args:
        name: Its name in a checkpoint of this project or of the MindSpore model zoo.
    """
    parts = name.split(".")  # wrapper prefixes may come before the optimizer's
    ours = {"moment1", "moment2", "moments", "accum", "stat", AVERAGE.rstrip(".")}
    state = ours | {"adam_m", "adam_v"}  # of nn.AdamWeightDecay, which the model zoo's Jasper uses
    return not state.isdisjoint(parts) or parts[-1] in (
        "beta1_power",
        "beta2_power",
        "global_step",
        "learning_rate",
        "momentum",
        "epoch_num",
        "step_num",
        "scale_sense",
        "loss_scale",
        "current_iterator_step",
        "last_overflow_iterator_step",
    )


class CheckpointKeeper:
    """The checkpoints of one run: the newest numbered ones, `last`, and `best` by WER.

    `{prefix}-{epoch}_{step}.ckpt` and `{prefix}-last.ckpt` (the same file under a second name)
    hold what `--resume` needs; `{prefix}-best.ckpt` holds the weights alone.

    Args:
        folder: Where they are.
        prefix: Beginning of their names.
        keep: How many numbered checkpoints are kept, at least 1.

    Raises:
        UserError: `keep` is less than 1.
    """

    def __init__(self, folder: str | Path, prefix: str, keep: int):
        if keep < 1:
            raise UserError(f"CheckpointConfig.keep_checkpoint_max={keep}: expected at least 1")
        self.folder, self.prefix, self.keep = Path(folder), prefix, keep

    @property
    def last(self) -> Path:
        """Path of the checkpoint that `--resume` continues from."""
        return self.folder / f"{self.prefix}-last.ckpt"

    @property
    def best(self) -> Path:
        """Path of the weights with the lowest WER."""
        return self.folder / f"{self.prefix}-best.ckpt"

    def check_writable(self) -> None:
        """Check that the folder can be written, before hours of training rather than after.

        Raises:
            UserError: It cannot.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            for partial in self.folder.glob(f".{self.prefix}-*.partial*"):  # of a killed save
                partial.unlink(missing_ok=True)
            probe = self.folder / ".writable"
            probe.write_bytes(b"")
            probe.unlink(missing_ok=True)
        except OSError as error:
            raise UserError(
                f"checkpoint folder {self.folder}: cannot be written ({error.strerror}); "
                "set CheckpointConfig.ckpt_path to a folder that can"
            ) from error

    def set_aside(self, *others: Path) -> Path | None:
        """Move the files of an earlier run into a folder of their own.

        The folder is `earlier-1`, or the next number that is free.

        Args:
            *others: Files to move beside the checkpoints, where they exist.

        Returns:
            The folder; None: there was nothing to move.

        Raises:
            UserError: The files cannot be moved.
        """
        # `last` goes last: up to then --resume continues the earlier run.
        earlier = [*others, *self.numbered(), self.best, self.last]
        earlier = [path for path in earlier if path.is_file()]
        if not earlier:
            return None
        number = 1
        while (folder := self.folder / f"earlier-{number}").exists():
            number += 1
        try:
            folder.mkdir()
            for path in earlier:
                shutil.move(path, folder / path.name)
        except OSError as error:
            raise UserError(
                f"{folder}: the files of the earlier run cannot be moved there ({error.strerror}); "
                "move them away, or set CheckpointConfig.ckpt_path to another folder"
            ) from error
        return folder

    def save_last(self, parameters: dict, metadata: dict, epoch: int, step: int) -> Path:
        """Write a numbered checkpoint, also under the name `last`, and delete the oldest ones.

        Args:
            parameters: Weights and optimizer state, by name.
            metadata: Configuration, labels and progress.
            epoch: Number of the epoch.
            step: Number of the step in it.

        Returns:
            Path of the numbered checkpoint.

        Raises:
            UserError: It cannot be written.
        """
        path = self.folder / f"{self.prefix}-{epoch}_{step}.ckpt"
        save(path, parameters, metadata)
        try:
            with replacing(self.last) as link:
                os.link(path, link)
        except UserError:  # a file system without hard links
            save(self.last, parameters, metadata)
        self._drop_oldest()
        return path

    def save_best(self, parameters: dict, metadata: dict) -> None:
        """Write the checkpoint `best`.

        Args:
            parameters: Weights, by name.
            metadata: Configuration, labels and progress.

        Raises:
            UserError: It cannot be written.
        """
        save(self.best, parameters, metadata)

    def numbered(self) -> list[Path]:
        """List the numbered checkpoints of the run, oldest first; see `set_aside`."""
        numbered = []
        for path in self.folder.glob(f"{self.prefix}-*_*.ckpt"):
            epoch, _, step = path.stem.removeprefix(f"{self.prefix}-").partition("_")
            if epoch.isdigit() and step.isdigit():
                numbered.append((int(epoch), int(step), path))
        return [path for *_, path in sorted(numbered)]

    def _drop_oldest(self) -> None:
        for path in self.numbered()[: -self.keep]:
            path.unlink(missing_ok=True)


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
