"""Weights of another package's and ours: what `pt2mind.py` and `mind2pt.py` share.

A model gives a `ForeignFormat`: what its package's files hold, and its names of our parameters.
Reading, matching, writing and the report are here. Neither way needs PyTorch.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from common.interop import torch_pickle as torch_weights
from common.interop.torch_pickle import StoredTensor
from common.model.recipe import Recipe
from common.text.tokenizer import Vocabulary
from common.utils.arguments import command
from common.utils.errors import UserError

COUNTER = "num_batches_tracked"  # of a torch BatchNorm, which its momentum makes superfluous
NORM = {  # a BatchNorm's tensors: torch's leaf -> MindSpore's
    "weight": "gamma",
    "bias": "beta",
    "running_mean": "moving_mean",
    "running_var": "moving_variance",
}


@dataclass(frozen=True)
class ImportedWeights:
    """What a file of the package holds."""

    weights: Mapping[str, StoredTensor]
    names: Mapping[str, str]  # its -> ours
    config: Any  # the training configuration of such a network
    labels: Sequence[str]
    lines: Sequence[str]  # for the report: the network, and what had to be assumed


@dataclass(frozen=True)
class ExportedWeights:
    """The file that a checkpoint of ours becomes."""

    names: Mapping[str, str]  # its -> ours
    content: Callable[[dict[str, np.ndarray]], dict]  # weights by its names -> what is saved
    kind: str  # for the report, such as "for release 2 of deepspeech.pytorch"
    flat: Callable[[str], bool] = lambda name: False  # convolutes over time: (out, in, k) there
    notes: Sequence[str] = ()


@dataclass(frozen=True)
class ForeignFormat:
    """A package whose files a model understands.

    arrives(recipe, content of a file, options): raises UserError for what it does not understand.
    leaves(speech_model, options): raises UserError for a network that the package does not have.
    Options are those of the command line: --pth, --ckpt, and what add_..._options add.
    """

    name: str
    reads: str  # in words
    writes: str
    arrives: Callable[[Recipe, Any, argparse.Namespace], ImportedWeights]
    leaves: Callable[[Any, argparse.Namespace], ExportedWeights]
    add_reading_options: Callable[[argparse.ArgumentParser, Recipe], None] = lambda parser, _: None
    add_writing_options: Callable[[argparse.ArgumentParser], None] = lambda parser: None


def pt2mind(package: ForeignFormat, recipe: Recipe, argv: Sequence[str]) -> None:
    """A file of the package to a checkpoint of ours, which carries all that its network needs."""
    parser = command(
        prog="pt2mind.py",
        description=f"Convert {package.reads} to one of ours, with its features and labels. "
        "Needs no PyTorch, and runs nothing that the file holds.",
    )
    parser.add_argument("--pth", required=True, metavar="P", help="the file to read")
    parser.add_argument("--ckpt", required=True, metavar="C", help="the checkpoint to write")
    package.add_reading_options(parser, recipe)
    arguments = parser.parse_args(argv)
    if Path(arguments.ckpt).suffix != ".ckpt":
        raise UserError(
            f"--ckpt {arguments.ckpt}: MindSpore reads checkpoints from files named *.ckpt alone; "
            f"write {arguments.ckpt}.ckpt"
        )
    found = package.arrives(recipe, torch_weights.read(arguments.pth), arguments)
    vocabulary = Vocabulary(tuple(found.labels))

    from common.model import checkpoint
    from common.model.speech_model import SpeechModel
    from common.utils import runtime
    from common.utils.backend import Tensor

    device = runtime.set_device("CPU")
    speech_model = SpeechModel.create(recipe, found.config, vocabulary, device)
    wanted = {weight.name: weight for weight in _weights(speech_model)}
    matched = torch_weights.match(
        found.weights,
        found.names,
        {name: weight.shape for name, weight in wanted.items()},
        arguments.pth,
    )
    for name, tensor in matched.items():
        value = tensor.numpy().astype(np.float32).reshape(wanted[name].shape)
        wanted[name].set_data(Tensor(value))
    source = f"{package.name}, {Path(arguments.pth).name}"
    checkpoint.save(Path(arguments.ckpt), wanted, speech_model.metadata(source=source))
    print(f"{arguments.pth}: {len(matched)} of {len(wanted)} tensors match")
    for line in found.lines:
        print(line)
    print(f"written: {arguments.ckpt}")


def mind2pt(package: ForeignFormat, recipe: Recipe, argv: Sequence[str]) -> None:
    """A checkpoint of ours to a file that the package loads."""
    parser = command(
        prog="mind2pt.py", description=f"Convert a checkpoint of ours to {package.writes}."
    )
    parser.add_argument("--ckpt", required=True, metavar="C", help="the checkpoint to read")
    parser.add_argument("--pth", required=True, metavar="P", help="the file to write")
    package.add_writing_options(parser)
    arguments = parser.parse_args(argv)

    from common.model.speech_model import SpeechModel
    from common.utils import runtime

    device = runtime.set_device("CPU")
    speech_model = SpeechModel.from_checkpoint(recipe, arguments.ckpt, device, log=print)
    made = package.leaves(speech_model, arguments)
    theirs = {ours: name for name, ours in made.names.items()}
    weights: dict[str, np.ndarray] = {}
    own = _weights(speech_model)
    if unlike := theirs.keys() ^ {weight.name for weight in own}:
        raise UserError(
            f"{arguments.ckpt}: {len(unlike)} tensors without a for_device in {package.name}'s "
            f"network: {', '.join(sorted(unlike)[:5])}"
        )
    for weight in own:
        name, value = theirs[weight.name], np.ascontiguousarray(weight.asnumpy())
        weights[name] = value.squeeze(2) if value.ndim == 4 and made.flat(name) else value
        if name.endswith("running_var"):
            weights[name.replace("running_var", COUNTER)] = np.zeros((), np.int64)
    torch_weights.write(arguments.pth, made.content(weights))
    print(f"{arguments.ckpt}: {len(theirs)} of {len(own)} tensors match")
    print(f"written: {arguments.pth}, {made.kind}")
    for note in made.notes:
        print(f"note: {note}")


def tensors(weights: Mapping) -> dict[str, StoredTensor]:
    """Those of a state_dict that are weights, without the prefix of DataParallel."""
    return {
        str(name).removeprefix("module."): value
        for name, value in weights.items()
        if isinstance(value, StoredTensor) and not str(name).endswith(COUNTER)
    }


def batch_norm(theirs: str, ours: str) -> dict[str, str]:
    """Names of a BatchNorm's tensors -> ours, by the names of the module."""
    return {f"{theirs}.{leaf}": f"{ours}.{name}" for leaf, name in NORM.items()}


def forget_manifests(config: Any) -> None:
    """Empties the keys of files that stayed where a network was trained."""
    for key in ("train_manifest", "val_manifest", "test_manifest"):
        setattr(config.DataConfig, key, type(getattr(config.DataConfig, key))())


def _weights(speech_model: Any) -> list[Any]:
    from common.model.checkpoint import STATELESS

    return [p for p in speech_model.network.get_parameters() if STATELESS not in p.name]
