"""Commands export.py, and preprocess.py and postprocess.py on either side of C++ inference."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from common.api.scoring import manifests_to_score
from common.cli.options import (
    add_checkpoint,
    add_device,
    add_set,
    command,
    load_speech_model,
    override,
)
from common.data.manifest import Utterance, listed, read_data, without_copies
from common.model.recipe import Recipe, ctc_decoder
from common.utils import runtime
from common.utils.errors import UserError
from common.utils.files import check_writable, read_json, write_text
from common.utils.wording import counted

if TYPE_CHECKING:  # it loads MindSpore
    from common.model.speech_model import SpeechModel


def export(recipe: Recipe, argv: Sequence[str]) -> None:
    """Run export.py.

    Args:
        recipe: The model.
        argv: Its options.
    """
    parser = command(
        prog="export.py",
        description=f"Write a {recipe.name} checkpoint as MindIR or ONNX, with a description "
        "beside or inside it, and verify it against the checkpoint.",
    )
    add_checkpoint(parser, "--pre_trained_model_path")
    parser.add_argument(
        "--batch_size", type=int, default=0, help="utterances in a batch; 0: any number"
    )
    parser.add_argument(
        "--frames", type=int, default=0, help="feature frames that inputs are padded to; 0: any"
    )
    parser.add_argument(
        "--buckets",
        type=_numbers,
        default=(),
        metavar="N,N,...",
        help="several --frames, a file each: short utterances need not be padded to the longest",
    )
    parser.add_argument("--file_name", default=recipe.name, help="of the exported file")
    parser.add_argument(
        "--file_format", default="MINDIR", help="MINDIR, ONNX, or AIR (on Ascend only)"
    )
    parser.add_argument(
        "--input",
        default="",
        metavar="samples|features",
        help="what an ONNX file takes: samples, with the features computed in the file (unless "
        "--frames is given or the file is for Ascend), or features",
    )
    parser.add_argument("--half", action="store_true", help="weights in float16: half the size")
    parser.add_argument(
        "--int8",
        nargs="?",
        const="weights",
        default="",
        metavar="weights|compute",
        help="an ONNX file of a quarter of the size: weights in int8 (runs everywhere), or 8-bit "
        "arithmetic of onnxruntime, which is quicker",
    )
    parser.add_argument(
        "--calibration_manifest",
        action="append",
        default=[],
        metavar="FILE",
        help="training recordings, from which --int8 compute takes the ranges of its values",
    )
    parser.add_argument(
        "--test_manifest",
        action="append",
        default=[],
        metavar="FILE",
        help="recordings whose WER is told, of the ONNX file and of float32",
    )
    parser.add_argument(
        "--style",
        default="",
        metavar="sherpa",
        help="an ONNX file for sherpa-onnx, with its symbols in NAME-tokens.txt",
    )
    parser.add_argument(
        "--streaming",
        action="store_true",
        help="an ONNX file that takes a recording piece by piece, for transcribe.py --stream",
    )
    parser.add_argument(
        "--license",
        default="",
        metavar="TEXT",
        help="licence of the weights, for an ONNX file's metadata; default: the checkpoint's",
    )
    add_device(parser)
    arguments = parser.parse_args(argv)
    elsewhere = (arguments.device_target or "cpu").lower() != "cpu"
    if elsewhere:  # its convolutions are verified on this CPU
        runtime.prepare_native_convolutions()
    target = _export_target(arguments)

    from common.export.export import Options, parts
    from common.export.export import export as write

    speech_model = load_speech_model(arguments, recipe, arguments.pre_trained_model_path)
    options = Options(
        arguments.file_format.upper(),
        arguments.batch_size,
        arguments.frames,
        arguments.buckets,
        target,
        arguments.half,
        arguments.int8,
        _recordings(speech_model, arguments.calibration_manifest),
        _without_copies(speech_model, arguments.test_manifest),
        arguments.style,
        arguments.input,
        arguments.license,
        arguments.streaming,
    )
    description = write(speech_model, arguments.file_name, options)
    if description.suffix == ".onnx":
        print(f"exported {description}")
        return
    files = [bucket["file"] for bucket in (read_json(description) or {})["buckets"]]
    written = [str(part) for name in files for part in parts(description.with_name(name))]
    listing = ", ".join(written)
    print(f"exported {listing} and {description}")


def preprocess(recipe: Recipe, argv: Sequence[str]) -> int:
    """Run preprocess.py.

    Args:
        recipe: The model.
        argv: Its options.

    Returns:
        The exit code: 1 where recordings could not be read.
    """
    parser = command(
        prog="preprocess.py",
        description="Write the features of a test set for the C++ program of ascend310_infer/.",
    )
    _add_exported(parser)
    parser.add_argument(
        "--runner_arguments",
        action="store_true",
        help="write nothing: print what the C++ program is to be called with, a word each line",
    )
    arguments = parser.parse_args(argv)
    config = recipe.infer_config()
    override(config, arguments, recipe)

    from common.export.offline_inference import (
        discard,
        read_description,
        runner_arguments,
        write_features,
    )

    model = read_description(recipe, arguments.mindir_path)
    if arguments.runner_arguments:
        print("\n".join(runner_arguments(model, arguments.mindir_path, config)))
        return 0
    folder = Path(config.result_path)
    discard(folder)
    trained, data = model.config.DataConfig, config.DataConfig
    manifests, data_dir = manifests_to_score(str(model.path), data, trained)
    utterances = read_data(trained, model.tokenizer, manifests, data_dir, print)
    utterances = without_copies(utterances, listed(manifests), print)
    print(f"computing the features of {counted(len(utterances), 'utterance')}", flush=True)
    unread = write_features(model, utterances, folder, data.workers, print)
    for problem in unread:
        print(f"error: {problem}", file=sys.stderr)
    if len(unread) == len(utterances):
        raise UserError(f"{listed(manifests)}: not one of its recordings can be read")
    print(f"features of {counted(len(utterances) - len(unread), 'utterance')} in {folder}")
    if unread:
        counts = f"{len(unread)} of {len(utterances)} recordings were not read, as said above"
        print(f"error: {counts}", file=sys.stderr)
    return 1 if unread else 0


def postprocess(recipe: Recipe, argv: Sequence[str]) -> int:
    """Run postprocess.py.

    Args:
        recipe: The model.
        argv: Its options.

    Returns:
        The exit code: 1 where utterances have no result.
    """
    parser = command(
        prog="postprocess.py",
        description="Score what the C++ program of ascend310_infer/ wrote. Writes texts and "
        "figures.",
    )
    _add_exported(parser)
    arguments = parser.parse_args(argv)
    config = recipe.infer_config()
    override(config, arguments, recipe)
    check_writable(config.post_out)

    from common.decoding.decoders import make_decoder
    from common.export.offline_inference import read_description, score_results

    if recipe.build_decoder is not ctc_decoder:
        raise UserError(
            f"{recipe.name} has a decoder of its own, which postprocess.py does not know: score "
            "with eval.py"
        )
    model = read_description(recipe, arguments.mindir_path)
    decoder = make_decoder(config.LMConfig, model.tokenizer)
    folder, results = Path(config.result_path), Path(config.result_dir)
    evaluation, problems = score_results(model, folder, results, decoder)
    for problem in problems:
        print(f"error: {problem}", file=sys.stderr)
    for line in decoder.warnings():
        print(f"warning: {line}", file=sys.stderr)
    if not evaluation.utterances:
        raise UserError(f"{results}: not one result of the utterances in {folder}")
    summary = [f"utterances: {len(evaluation.utterances)}", *evaluation.summary()]
    lines = [line for utterance in evaluation.utterances for line in utterance.lines()]
    write_text(config.post_out, "\n".join([*lines, *summary]) + "\n")
    print(f"texts in {config.post_out}")
    print("\n".join(summary))
    if problems:
        total = len(problems) + len(evaluation.utterances)
        print(
            f"error: {len(problems)} of {total} utterances have no result, as said above; the "
            "figures are those of the others",
            file=sys.stderr,
        )
    return 1 if problems else 0


def _recordings(speech_model: SpeechModel, manifests: list[str]) -> list[Utterance]:
    """Read manifests, with the texts as the network's configuration wants them."""
    if not manifests:
        return []
    data = speech_model.config.DataConfig
    return read_data(data, speech_model.tokenizer, manifests, "", print)


def _without_copies(speech_model: SpeechModel, manifests: list[str]) -> list[Utterance]:
    """Read manifests to score: eval.py, too, leaves out copies at another speed."""
    recordings = _recordings(speech_model, manifests)
    return without_copies(recordings, listed(manifests), print) if recordings else []


def _export_target(arguments: argparse.Namespace) -> str:
    """Return the device that a file is for; the process takes the CPU where it is not there."""
    wanted = (arguments.device_target or "").lower()
    target = next((device for device in runtime.DEVICES if device.lower() == wanted), "")
    if target and target not in runtime.available_devices():
        print(f"no {target} in this machine: the file is written on the CPU", file=sys.stderr)
        arguments.device_target = "CPU"
    return target


def _numbers(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected numbers like 500,1000, found {text}") from None


def _add_exported(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--mindir_path",
        required=True,
        metavar="FILE",
        help="the exported model, or the description NAME.json beside it",
    )
    parser.add_argument(
        "--config", action="append", default=[], metavar="YAML", help="overrides of infer_config"
    )
    add_set(parser)
