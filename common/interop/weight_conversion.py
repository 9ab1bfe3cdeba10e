"""Conversion of weights from and to another package: what `pt2mind.py` and `mind2pt.py` share.

A model gives a `ForeignFormat`: what the files of its package hold, and the package's names of the
parameters. Reading, matching, writing and the report are here. Neither way needs PyTorch.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from common.interop import torch_pickle
from common.interop.torch_pickle import StoredTensor
from common.model.recipe import Recipe
from common.text.tokenizer import CharacterTokenizer, Tokenizer
from common.utils.arguments import command
from common.utils.errors import UserError

COUNTER = "num_batches_tracked"  # of a torch BatchNorm; of no effect where momentum is set
NORM = {  # a BatchNorm's tensors: torch's leaf -> MindSpore's
    "weight": "gamma",
    "bias": "beta",
    "running_mean": "moving_mean",
    "running_var": "moving_variance",
}


@dataclass(frozen=True)
class ImportedWeights:
    """The content of a file of the package.

    Attributes:
        weights: Tensors by the package's names.
        names: The package's names -> ours.
        config: The training configuration of such a network.
        labels: Labels of its outputs.
        lines: For the report: the network, and what had to be assumed.
    """

    weights: Mapping[str, StoredTensor]
    names: Mapping[str, str]
    config: Any
    labels: Sequence[str]
    lines: Sequence[str]


@dataclass(frozen=True)
class ExportedWeights:
    """The file to write for a checkpoint of ours.

    Attributes:
        names: The package's names -> ours.
        content: Weights by the package's names -> content of the file.
        kind: For the report, such as "for release 2 of deepspeech.pytorch".
        flat: Whether the package stores a convolution over time as (out, in, k), not (out, in, 1,
            k).
        notes: Further lines for the report.
    """

    names: Mapping[str, str]
    content: Callable[[dict[str, np.ndarray]], dict]
    kind: str
    flat: Callable[[str], bool] = lambda name: False
    notes: Sequence[str] = ()


@dataclass(frozen=True)
class ForeignFormat:
    """A package whose weight files a model can read and write.

    Attributes:
        name: The package's name.
        reads: What pt2mind.py converts, for its help.
        writes: What mind2pt.py makes, for its help.
        open_file: Opens a file to read and gives its content, whose tensors can be read until it is
            closed; raises UserError.
        import_weights: (recipe, content of a file, options) -> weights; raises UserError for a file
            that it does not understand.
        export_weights: (speech model, options) -> file; raises UserError for a network that the
            package does not have.
        add_reading_options: Adds to pt2mind.py's options, which are --pth and --ckpt.
        add_writing_options: Adds to mind2pt.py's options, which are --ckpt and --pth.
    """

    name: str
    reads: str
    writes: str
    import_weights: Callable[[Recipe, Any, argparse.Namespace], ImportedWeights]
    export_weights: Callable[[Any, argparse.Namespace], ExportedWeights]
    open_file: Callable[[str], AbstractContextManager[Any]] = lambda path: nullcontext(
        torch_pickle.read(path)
    )
    add_reading_options: Callable[[argparse.ArgumentParser, Recipe], None] = lambda parser, _: None
    add_writing_options: Callable[[argparse.ArgumentParser], None] = lambda parser: None


def pt2mind(package: ForeignFormat, recipe: Recipe, argv: Sequence[str]) -> None:
    """Convert a file of the package to a checkpoint of ours, with configuration and labels.

    Args:
        package: The package.
        recipe: The model.
        argv: The command line.

    Raises:
        UserError: The file cannot be read, or does not fit the model.
    """
    parser = command(
        prog="pt2mind.py",
        description=f"Convert {package.reads} to one of ours, with its features and labels. "
        "Needs no PyTorch, and runs nothing that the file holds.",
    )
    parser.add_argument("--pth", required=True, metavar="P", help="the file to read")
    parser.add_argument("--ckpt", required=True, metavar="C", help="the checkpoint to write")
    package.add_reading_options(parser, recipe)
    arguments = parser.parse_args(argv)
    check_name(arguments.ckpt)
    with package.open_file(arguments.pth) as content:
        imported = package.import_weights(recipe, content, arguments)
        _convert(package, recipe, imported, arguments)


def _convert(
    package: ForeignFormat, recipe: Recipe, imported: ImportedWeights, arguments: argparse.Namespace
) -> None:
    """Write the checkpoint of imported weights, and report."""
    tokenizer = CharacterTokenizer(tuple(imported.labels))
    model = Model(recipe, imported.config, tokenizer)
    weights = imported.weights, imported.names
    count = write_checkpoint(model, *weights, arguments.pth, arguments.ckpt, package.name)
    print(f"{arguments.pth}: {count} of {count} tensors match")
    for line in imported.lines:
        print(line)
    print(f"written: {arguments.ckpt}")


@dataclass(frozen=True)
class Model:
    """What a checkpoint says about its weights.

    Attributes:
        recipe: The model.
        config: The training configuration of the network.
        tokenizer: Of its outputs.
    """

    recipe: Recipe
    config: Any
    tokenizer: Tokenizer


def write_checkpoint(
    model: Model,
    weights: Mapping[str, StoredTensor] | Mapping[str, np.ndarray],
    names: Mapping[str, str],
    file: str,
    ckpt: str,
    package: str,
) -> int:
    """Write weights of another package as a checkpoint of ours.

    Args:
        model: What they are of.
        weights: Tensors by the package's names.
        names: The package's names -> ours.
        file: File that they come from.
        ckpt: The checkpoint to write.
        package: The package's name.

    Returns:
        Number of tensors: all of the network's.

    Raises:
        UserError: They are not those of the network, or no network can use them.
    """
    check_name(ckpt)

    from common.model import checkpoint
    from common.model.speech_model import SpeechModel
    from common.utils import runtime
    from common.utils.backend import Tensor

    device = runtime.set_device("CPU")
    speech_model = SpeechModel.create(model.recipe, model.config, model.tokenizer, device)
    parameters = {weight.name: weight for weight in _weights(speech_model)}
    shapes = {name: weight.shape for name, weight in parameters.items()}
    matched = torch_pickle.match(weights, names, shapes, file)
    theirs = {ours: name for name, ours in names.items()}
    for name, tensor in matched.items():
        array = tensor if isinstance(tensor, np.ndarray) else tensor.numpy()
        value = array.astype(np.float32).reshape(parameters[name].shape)
        checkpoint.check_weights({theirs[name]: value}, file)
        parameters[name].set_data(Tensor(value))
    metadata = speech_model.metadata(source=f"{package}, {Path(file).name}")
    checkpoint.save(Path(ckpt), parameters, metadata)
    return len(matched)


def check_name(ckpt: str) -> None:
    """Refuse a name that MindSpore reads no checkpoint of.

    Args:
        ckpt: The checkpoint to write.

    Raises:
        UserError: It does not end in .ckpt.
    """
    if Path(ckpt).suffix != ".ckpt":
        raise UserError(
            f"--ckpt {ckpt}: MindSpore reads only checkpoints named *.ckpt; use {ckpt}.ckpt"
        )


def mind2pt(package: ForeignFormat, recipe: Recipe, argv: Sequence[str]) -> None:
    """Convert a checkpoint of ours to a file that the package loads.

    Args:
        package: The package.
        recipe: The model.
        argv: The command line.

    Raises:
        UserError: The package has no such network, or a file cannot be read or written.
    """
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
    exported = package.export_weights(speech_model, arguments)
    theirs = {ours: name for name, ours in exported.names.items()}
    weights: dict[str, np.ndarray] = {}
    own = _weights(speech_model)
    if unlike := theirs.keys() ^ {weight.name for weight in own}:
        raise UserError(
            f"{arguments.ckpt}: {len(unlike)} tensors without a counterpart in {package.name}'s "
            f"network: {', '.join(sorted(unlike)[:5])}"
        )
    for weight in own:
        name, value = theirs[weight.name], np.ascontiguousarray(weight.asnumpy())
        weights[name] = value.squeeze(2) if value.ndim == 4 and exported.flat(name) else value
        if name.endswith("running_var"):
            weights[name.replace("running_var", COUNTER)] = np.zeros((), np.int64)
    torch_pickle.write(arguments.pth, exported.content(weights))
    print(f"{arguments.ckpt}: {len(theirs)} of {len(own)} tensors match")
    print(f"written: {arguments.pth}, {exported.kind}")
    for note in exported.notes:
        print(f"note: {note}")


def tensors(weights: Mapping) -> dict[str, StoredTensor]:
    """Select the weights of a state_dict.

    Args:
        weights: The state_dict of a file.

    Returns:
        The tensors by name, without the prefixes of DataParallel and torch.compile, and without
        BatchNorm's counters.
    """
    return {
        str(name).removeprefix("module.").removeprefix("_orig_mod."): value
        for name, value in weights.items()
        if isinstance(value, StoredTensor) and not str(name).endswith(COUNTER)
    }


def batch_norm(theirs: str, ours: str) -> dict[str, str]:
    """Map the names of a BatchNorm's tensors.

    Args:
        theirs: The package's name of the module.
        ours: Our name of the module.

    Returns:
        The package's names of the tensors -> ours.
    """
    return {f"{theirs}.{leaf}": f"{ours}.{name}" for leaf, name in NORM.items()}


def forget_manifests(config: Any) -> None:
    """Empty the manifest keys: the files are where the network was trained.

    Args:
        config: A training configuration; changed in place.
    """
    for key in ("train_manifest", "val_manifest", "test_manifest"):
        setattr(config.DataConfig, key, type(getattr(config.DataConfig, key))())


def _weights(speech_model: Any) -> list[Any]:
    from common.model.checkpoint import STATELESS

    return [p for p in speech_model.network.get_parameters() if STATELESS not in p.name]
