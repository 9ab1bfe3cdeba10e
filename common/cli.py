"""The entry points that every model has; a model folder's `train.py` and its kin call these.

Bad input ends in one line on stderr and exit code 1, Ctrl-C in exit code 130, a fault of our own or
of MindSpore's in its traceback and exit code 70: those a launcher may try again.
"""

from __future__ import annotations

import argparse
import copy
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from common import config as configs
from common import runtime
from common.errors import UserError
from common.files import check_writable, read_json, write_text
from common.manifest import Utterance, listed, read_data, without_copies
from common.recipe import Recipe, labels_file
from common.text import BLANK, Vocabulary
from common.validation import readable, validate

# Of the keys of eval.py, those that transcribe.py follows.
_TRANSCRIBING = {"DataConfig.batch_size", "DataConfig.workers"} | {
    f"LMConfig.{entry.name}" for entry in fields(configs.LMConfig) if entry.name != "top_paths"
}
_FAULT = 70  # EX_SOFTWARE of sysexits.h
_PORTION = 16  # batches that transcribe.py reads, recognises and prints at a time
# What validate.py may override beside a checkpoint.
_CHECKING = {
    "DataConfig.train_manifest",
    "DataConfig.val_manifest",
    "DataConfig.test_manifest",
    "DataConfig.Data_dir",
    "DataConfig.batch_size",
    "DataConfig.min_duration",
    "DataConfig.max_duration",
    "DataConfig.workers",
}


def run(main: Callable[[Recipe, list[str]], int | None], recipe: Recipe) -> None:
    """Runs an entry point with the command line's arguments, and exits with its code."""
    try:
        code = main(recipe, sys.argv[1:])
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        code = 1
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        code = 130
        if "mindspore._c_expression" in sys.modules and "mindspore" not in sys.modules:
            os._exit(code)  # MindSpore's exit handlers fail where it was half imported
    except Exception:
        traceback.print_exc()
        code = _FAULT
    sys.exit(code or 0)


def train(recipe: Recipe, argv: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(
        prog="train.py",
        description=f"Train {recipe.name}. Writes train.log, metrics.csv, curves.png and "
        "emissions.gif into the current folder, and checkpoints into CheckpointConfig.ckpt_path.",
    )
    _add_config(parser, recipe)
    _add_device(parser)
    parser.add_argument(
        "--pre_trained_model_path", default="", metavar="CKPT", help="start from these weights"
    )
    parser.add_argument(
        "--resume",
        action="store_true",
        help="go on exactly where the run in CheckpointConfig.ckpt_path stopped",
    )
    parser.add_argument("--is_distributed", type=_boolean, nargs="?", const=True, default=False)
    parser.add_argument(
        "--bidirectional",
        type=_boolean,
        nargs="?",
        const=True,
        default=None,
        help="read utterances in both directions (ModelConfig.bidirectional)",
    )
    arguments = parser.parse_args(argv)
    if arguments.resume and arguments.pre_trained_model_path:
        raise UserError("--resume goes on with a run, --pre_trained_model_path begins one: choose")

    config = _config(arguments, recipe)  # what is wrong with it is said before mindspore loads
    if not arguments.is_distributed:  # or else each rank has its own
        check_writable("train.log")

    from common import training
    from common.logs import open_log

    if arguments.resume:
        config = _overridden(training.resumed_config(recipe, config), arguments, recipe)
    if arguments.bidirectional is not None:
        configs.override_from_options(
            config, [f"ModelConfig.bidirectional={str(arguments.bidirectional).lower()}"]
        )
    device = runtime.set_device(arguments.device_target, arguments.device_id)
    rank, ranks = runtime.init_distributed() if arguments.is_distributed else (0, 1)
    log = open_log("train.log" if rank == 0 else f"train_rank{rank}.log", quiet=rank != 0)
    try:
        training.fit(
            training.Job(
                recipe,
                config,
                device,
                log,
                rank,
                ranks,
                arguments.resume,
                arguments.pre_trained_model_path,
            )
        )
    except UserError as error:
        log.debug(f"error: {error}")
        raise
    except Exception:
        log.debug("ended by a fault:", exc_info=True)
        raise


def evaluate(recipe: Recipe, argv: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(
        prog="eval.py",
        description=f"Score a {recipe.name} checkpoint. Writes eval.log, and with --set "
        "report=FILE a page to look at and listen to.",
    )
    _add_checkpoint(parser, "--pretrain_ckpt", pretrained=recipe.pretrained)
    _add_eval_config(parser)
    _add_device(parser)
    arguments = parser.parse_args(argv)

    config = recipe.eval_config()
    _override(config, arguments)
    if config.report:
        check_writable(config.report)

    from common.decoding import describe, make_decoder
    from common.evaluation import evaluate as score
    from common.logs import open_log
    from common.memory import forecast_forward
    from common.recogniser import Forward
    from common.report import write_report
    from common.sources import ManifestSource

    recogniser = _load(arguments, recipe, arguments.pretrain_ckpt)
    decoder = make_decoder(config.LMConfig, recogniser.vocabulary)
    log = open_log("eval.log", needed=False)
    data = config.DataConfig
    manifests, data_dir = _test_set(arguments.pretrain_ckpt, data, recogniser.config.DataConfig)
    test_set = listed(manifests)
    log.info("%s on %s, test set %s", arguments.pretrain_ckpt, recogniser.device, test_set)
    everything = read_data(recogniser.config.DataConfig, recogniser.vocabulary, manifests, data_dir)
    everything = without_copies(everything, test_set)
    check_length = forecast_forward(recogniser).check
    good, unread = readable(everything, recogniser.featurizer, check_length, data.workers)
    for problem in unread:
        log.error("%s", problem)
    if not good:
        raise UserError(f"{test_set}: not one of its recordings can be read")
    if unknown := recogniser.vocabulary.unknown_in(utterance.text for utterance in good):
        counts = ", ".join(f"{c!r} in {count}" for c, count in unknown.most_common(20))
        log.warning("references hold characters without a label, which are errors: %s", counts)
    source = ManifestSource(
        good, recogniser.featurizer, recogniser.vocabulary, labelled=False, log=log.info
    )
    result = score(
        recogniser,
        Forward(recogniser),
        source,
        decoder,
        data.batch_size,
        data.workers,
        each=_printer(log) if config.verbose else None,
        save_output=config.save_output,
    )
    log.info("utterances: %d, %.2f hours", len(source), source.durations.sum() / 3600)
    unwritten = None  # costs the page, not the figures
    if config.report:
        facts = {
            "Checkpoint": arguments.pretrain_ckpt,
            "Test set": test_set,
            "Not read": f"{len(unread)} of {len(everything)} recordings" if unread else "",
            "Decoder": describe(config.LMConfig),
            "Device": recogniser.device,
        }
        features, players = recogniser.featurizer, config.report_utterances
        try:
            write_report(config.report, recipe.name, facts, result, source, features, players)
            log.info("report: %s", config.report)
        except UserError as error:
            unwritten = error
    for line in result.summary():
        log.info(line)
    if unwritten:
        raise unwritten
    if unread:
        raise UserError(
            f"{len(unread)} of {len(everything)} recordings were not read, as said above; the "
            "figures are those of the others"
        )


def export(recipe: Recipe, argv: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(
        prog="export.py",
        description=f"Write a {recipe.name} checkpoint as MindIR or ONNX, with a description "
        "beside it, and verify it against the checkpoint.",
    )
    _add_checkpoint(parser, "--pre_trained_model_path")
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
    parser.add_argument("--half", action="store_true", help="weights in float16: half the size")
    _add_device(parser)
    arguments = parser.parse_args(argv)
    elsewhere = (arguments.device_target or "cpu").lower() != "cpu"
    if elsewhere and "mindspore" not in sys.modules:
        # On a CPU with more, other devices' convolutions are too slow to be verified.
        os.environ.setdefault("ONEDNN_MAX_CPU_ISA", "AVX2")
    target = _export_target(arguments)

    from common.export import Options
    from common.export import export as write

    recogniser = _load(arguments, recipe, arguments.pre_trained_model_path)
    options = Options(
        arguments.file_format.upper(),
        arguments.batch_size,
        arguments.frames,
        arguments.buckets,
        target,
        arguments.half,
    )
    description = write(recogniser, arguments.file_name, options)
    files = [bucket["file"] for bucket in read_json(description)["buckets"]]
    listing = ", ".join(str(description.with_name(name)) for name in files)
    print(f"exported {listing} and {description}")


def transcribe(recipe: Recipe, argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="transcribe.py",
        description="Print the text of recordings: of one file the text, of several a line each, "
        "file and text parted by a tab.",
    )
    parser.add_argument("files", nargs="+", metavar="FILE", help="any format that soundfile reads")
    _add_checkpoint(parser, "--pretrain_ckpt", pretrained=recipe.pretrained)
    parser.add_argument(
        "--batch_size", type=int, help="recordings at once; none given: DataConfig.batch_size"
    )
    _add_eval_config(parser)
    _add_device(parser)
    arguments = parser.parse_args(argv)

    config = recipe.eval_config()
    _override(config, arguments)
    _check_effect(arguments, recipe)
    batch_size = arguments.batch_size
    if batch_size is None:
        batch_size = config.DataConfig.batch_size
    if batch_size < 1:
        raise UserError(f"--batch_size {batch_size}: expected at least 1")

    from common.decoding import make_decoder
    from common.evaluation import recognise
    from common.memory import forecast_forward
    from common.recogniser import Forward
    from common.sources import ManifestSource

    recogniser = _load(arguments, recipe, arguments.pretrain_ckpt)
    decoder = make_decoder(config.LMConfig, recogniser.vocabulary)
    forward, check_length = Forward(recogniser), forecast_forward(recogniser).check
    names, portion, failed = arguments.files, _PORTION * batch_size, 0
    # In portions, so that texts come soon and an interruption loses little.
    for start in range(0, len(names), portion):
        utterances = [
            Utterance(id=name, audio=Path(name), text="") for name in names[start:][:portion]
        ]
        good, unread = readable(
            utterances, recogniser.featurizer, check_length, config.DataConfig.workers
        )
        for problem in unread:
            print(f"error: {problem}", file=sys.stderr)
        failed += len(unread)
        if not good:
            continue
        source = ManifestSource(
            good,
            recogniser.featurizer,
            recogniser.vocabulary,
            labelled=False,
            log=None if start else lambda line: print(line, file=sys.stderr),
        )
        label = "transcribing" if len(good) > batch_size else None
        workers = config.DataConfig.workers
        found = recognise(recogniser, forward, source, decoder, batch_size, workers, label)
        texts = {each.index: each.text for each in found}
        for index, utterance in enumerate(good):
            line = texts[index] if len(names) == 1 else f"{utterance.id}\t{texts[index]}"
            print(line, flush=True)
    if failed:
        print(f"error: {failed} of {len(names)} files were not read", file=sys.stderr)
    return 1 if failed else 0


def preprocess(recipe: Recipe, argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(
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
    _override(config, arguments)

    from common.batch_inference import (
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
    manifests, data_dir = _test_set(str(model.path), data, trained)
    utterances = read_data(trained, model.vocabulary, manifests, data_dir)
    utterances = without_copies(utterances, listed(manifests))
    unread = write_features(model, utterances, folder, data.workers)
    for problem in unread:
        print(f"error: {problem}", file=sys.stderr)
    if len(unread) == len(utterances):
        raise UserError(f"{listed(manifests)}: not one of its recordings can be read")
    print(f"features of {len(utterances) - len(unread)} utterances in {folder}")
    if unread:
        counts = f"{len(unread)} of {len(utterances)} recordings were not read, as said above"
        print(f"error: {counts}", file=sys.stderr)
    return 1 if unread else 0


def postprocess(recipe: Recipe, argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="postprocess.py",
        description="Score what the C++ program of ascend310_infer/ wrote. Writes texts and "
        "figures.",
    )
    _add_exported(parser)
    arguments = parser.parse_args(argv)
    config = recipe.infer_config()
    _override(config, arguments)
    check_writable(config.post_out)

    from common.batch_inference import read_description, score_results
    from common.decoding import make_decoder

    model = read_description(recipe, arguments.mindir_path)
    decoder = make_decoder(config.LMConfig, model.vocabulary)
    folder, results = Path(config.result_path), Path(config.result_dir)
    found, problems = score_results(model, folder, results, decoder)
    for problem in problems:
        print(f"error: {problem}", file=sys.stderr)
    if not found.utterances:
        raise UserError(f"{results}: not one result of the utterances in {folder}")
    summary = [f"utterances: {len(found.utterances)}", *found.summary()]
    lines = [line for utterance in found.utterances for line in utterance.lines()]
    write_text(config.post_out, "\n".join([*lines, *summary]) + "\n")
    print(f"texts in {config.post_out}")
    print("\n".join(summary))
    if problems:
        print(
            f"error: {len(problems)} of {len(problems) + len(found.utterances)} utterances have no "
            "result, as said above; the figures are those of the others",
            file=sys.stderr,
        )
    return 1 if problems else 0


def create_mindrecord(recipe: Recipe, argv: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(
        prog="create_mindrecord.py",
        description="Convert the training and validation manifests to MindRecord files, in "
        "parallel. What is converted already is kept; an interrupted conversion is continued.",
    )
    _add_config(parser, recipe)
    arguments = parser.parse_args(argv)
    config = _config(arguments, recipe)

    from common.conversion import convert_split

    for split in ("train", "val"):
        if split == "train" or config.DataConfig.val_manifest:
            for line in convert_split(recipe, config, split).lines():
                print(line)


def check_data(recipe: Recipe, argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="validate.py",
        description="List the utterances of manifests that cannot be trained on, and why. Exit "
        "code 1 where there are any. With a checkpoint, also rank the others by how improbable "
        "their transcripts are: wrong texts and cut recordings come first.",
    )
    parser.add_argument(
        "manifests",
        nargs="*",
        help="manifests; none: those of the configuration, or the training manifest of the "
        "checkpoint",
    )
    parser.add_argument(
        "--limit", type=int, default=20, help="ids shown for each reason, and suspects; 0: all"
    )
    _add_checkpoint(parser, "--pretrain_ckpt", required=False)
    parser.add_argument(
        "--suspects", metavar="FILE", help="write all ranked utterances as CSV, worst first"
    )
    _add_config(parser, recipe)
    _add_device(parser)
    arguments = parser.parse_args(argv)
    limit = arguments.limit or None

    if arguments.pretrain_ckpt:
        recogniser = _load(arguments, recipe, arguments.pretrain_ckpt)
        config, vocabulary = _checked_config(arguments, recogniser), recogniser.vocabulary
        sets = [config.DataConfig.train_manifest]
    elif arguments.suspects:
        raise UserError(f"--suspects {arguments.suspects}: needs a network, give --pretrain_ckpt")
    elif arguments.train_config:
        raise UserError("--train_config is for --pretrain_ckpt, which is not given: use --config")
    else:
        config = _config(arguments, recipe)
        vocabulary = Vocabulary.from_file(labels_file(recipe, config))
        groups = config.DataConfig
        sets = [groups.train_manifest, groups.val_manifest, groups.test_manifest]
    data = config.DataConfig
    if arguments.manifests:
        sets = [[manifest] for manifest in arguments.manifests]
    if not any(sets):
        raise UserError("no manifest to validate: name one, or set DataConfig.train_manifest")
    good, bad = [], 0
    for manifests in filter(None, sets):
        report = validate(
            read_data(data, vocabulary, manifests),
            vocabulary,
            recipe.build_featurizer(data),
            lambda frames: recipe.output_frames(config.ModelConfig, frames),
            data.min_duration,
            data.max_duration,
            data.workers,
        )
        good += report.ok
        bad += report.total - len(report.ok)
        print(listed(manifests))
        for line in report.lines(limit):
            print(f"  {line}")
    if arguments.pretrain_ckpt and good:
        from common.suspects import rank_suspects, summary, write_suspects

        suspects = rank_suspects(recogniser, good, data.batch_size, data.workers)
        for rank, suspect in enumerate(suspects[:limit], 1):
            print("\n".join(suspect.lines(rank)))
        print(summary(suspects))
        if arguments.suspects:
            write_suspects(arguments.suspects, suspects)
    return 1 if bad else 0


def doctor(recipe: Recipe, argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="doctor.py",
        description="Say what this machine can do for the configured run: devices, kernels, "
        "memory, disk, versions, the time of an epoch, and the one change that would help most. "
        "Exit code 1 where something keeps train.py from starting.",
    )
    _add_config(parser, recipe)
    _add_device(parser)
    parser.add_argument(
        "--seconds", type=float, default=60.0, help="for which train steps are timed"
    )
    parser.add_argument("--measure", choices=("kernels", "training"), help=argparse.SUPPRESS)
    parser.add_argument("--network_of", metavar="PRESET", default="", help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    config = _config(arguments, recipe)
    if not 1 <= arguments.seconds <= 3600:
        raise UserError(f"--seconds {arguments.seconds:g}: expected from 1 to 3600")
    from common.doctor import examine, network_of

    device = arguments.device_target, arguments.device_id
    if arguments.measure:  # in a process that `examine` started
        from common import trials

        if arguments.measure == "kernels":
            trials.kernels(*device)
        else:
            if arguments.network_of:
                config.ModelConfig = network_of(recipe, arguments.network_of)
            quick = bool(arguments.network_of)
            trials.training(recipe, config, *device, arguments.seconds, quick)
        return 0

    found = examine(recipe, config, list(argv), arguments.device_target, arguments.seconds)
    print("\n".join(found.lines))
    return 1 if found.obstacles else 0


# ---- what the entry points share


def _add_config(parser: argparse.ArgumentParser, recipe: Recipe) -> None:
    parser.add_argument(
        "--preset",
        metavar="NAME",
        help=f"a configuration that ships with the model: {', '.join(recipe.presets())}",
    )
    parser.add_argument(
        "--config", action="append", default=[], metavar="YAML", help="overrides from a file"
    )
    _add_set(parser)


def _add_eval_config(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--config", action="append", default=[], metavar="YAML", help="overrides of eval_config"
    )
    _add_set(parser)


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
    _add_set(parser)


def _add_set(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--set",
        action="extend",
        nargs="+",
        default=[],
        metavar="KEY=VALUE",
        help="override single keys, such as DataConfig.batch_size=8 or batch_size=8",
    )


def _add_device(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--device_target", help="Ascend, GPU or CPU; none given: the best one present"
    )
    parser.add_argument(
        "--device_id", type=int, help="card number; none given: DEVICE_ID, or else 0"
    )


def _add_checkpoint(
    parser: argparse.ArgumentParser,
    flag: str,
    required: bool = True,
    pretrained: Path | None = None,
) -> None:
    """pretrained: the checkpoint that ships with the model, used where none is named."""
    usual = "" if pretrained is None else f"; none given: {pretrained.name}, which ships here"
    parser.add_argument(
        flag,
        required=required and pretrained is None,
        default=pretrained and os.path.relpath(pretrained),
        metavar="CKPT",
        help=f"checkpoint{usual}",
    )
    parser.add_argument(
        "--train_config",
        metavar="YAML",
        help="only for checkpoints of the MindSpore model zoo: the configuration of their network",
    )


def _export_target(arguments: argparse.Namespace) -> str:
    """The device that a file is for; the process takes the CPU where that device is not there."""
    wanted = (arguments.device_target or "").lower()
    target = next((each for each in runtime.DEVICES if each.lower() == wanted), "")
    if target and target not in runtime.available_devices():
        print(f"no {target} in this machine: the file is written on the CPU", file=sys.stderr)
        arguments.device_target = "CPU"
    return target


def _numbers(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected numbers like 500,1000, found {text}") from None


def _boolean(text: str) -> bool:
    values = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
    if text.lower() not in values:
        raise argparse.ArgumentTypeError(f"expected true or false, found {text}")
    return values[text.lower()]


def _config(arguments: argparse.Namespace, recipe: Recipe) -> Any:
    return _overridden(recipe.train_config(), arguments, recipe)


def _overridden(config: Any, arguments: argparse.Namespace, recipe: Recipe) -> Any:
    """A training configuration after the preset, the YAML files and the single keys."""
    if arguments.preset:
        path = recipe.preset(arguments.preset)
        if not path.is_file():
            raise UserError(
                f"--preset {arguments.preset}: unknown, expected one of "
                f"{', '.join(recipe.presets())}"
            )
        configs.override_from_yaml(config, path)
    said = [
        (path, configs.override_from_yaml(config, path, recipe.translate_yaml))
        for path in arguments.config
    ]
    configs.override_from_options(config, arguments.set)
    configs.check(config)
    for path, labels in said:
        _check_labels(recipe, config, path, labels)
    return config


def _override(config: Any, arguments: argparse.Namespace) -> None:
    for path in arguments.config:
        configs.override_from_yaml(config, path)
    configs.override_from_options(config, arguments.set)
    configs.check(config)


def _check_labels(recipe: Recipe, config: Any, path: str, labels: list[str] | None) -> None:
    """Refuses a file of another project whose vocabulary is not that of DataConfig.labels_path."""
    if labels is None:
        return
    ours = labels_file(recipe, config)
    if Vocabulary.from_file(ours).labels != (*labels, BLANK):
        raise UserError(
            f"configuration {path}: its {len(labels)} labels and the blank are not those of {ours}:"
            f" write them to a JSON list that ends with the blank, {BLANK!r}, and give "
            "--set labels_path=FILE"
        )


def _check_effect(arguments: argparse.Namespace, recipe: Recipe) -> None:
    """Refuses single keys that transcribe.py does not follow; a YAML file may be eval.py's too."""
    config = recipe.eval_config()
    usual = configs.leaves(config)
    configs.override_from_options(config, arguments.set)
    for key, value in configs.leaves(config).items():
        if value != usual[key] and key not in _TRANSCRIBING:
            raise UserError(f"--set {key}={value}: of no effect on transcribe.py, leave it out")


def _test_set(checkpoint: str, data: Any, stored: Any) -> tuple[list[str], str]:
    """The manifests to score and their Data_dir: those of eval_config, or else the checkpoint's."""
    if data.test_manifest:
        return data.test_manifest, data.Data_dir
    if not stored.test_manifest:
        raise UserError(f"{checkpoint} names no test set: give --set test_manifest=FILE")
    for manifest in stored.test_manifest:
        if not Path(manifest).is_file():
            raise UserError(
                f"{checkpoint} names {manifest} as its test set, which is not in {Path.cwd()}: "
                "make it there with scripts/manifest.py, or give --set test_manifest=FILE"
            )
    return stored.test_manifest, data.Data_dir or stored.Data_dir


def _load(arguments: argparse.Namespace, recipe: Recipe, path: str) -> Any:
    from common.recogniser import Recogniser

    fallback = None
    if arguments.train_config:
        fallback = recipe.train_config()
        file = arguments.train_config
        labels = configs.override_from_yaml(fallback, file, recipe.translate_yaml)
        _check_labels(recipe, fallback, file, labels)
    device = runtime.set_device(arguments.device_target, arguments.device_id)
    return Recogniser.from_checkpoint(
        recipe, path, device, fallback, log=lambda line: print(line, file=sys.stderr)
    )


def _checked_config(arguments: argparse.Namespace, recogniser: Any) -> Any:
    """The configuration of a checkpoint with what may be overridden when data are checked."""
    config = _overridden(copy.deepcopy(recogniser.config), arguments, recogniser.recipe)
    before = configs.leaves(recogniser.config)
    for key, value in configs.leaves(config).items():
        ours = key.startswith(("DataConfig.", "ModelConfig.")) and key not in _CHECKING
        if ours and value != before[key]:
            raise UserError(
                f"{key} is {value!r}, and {arguments.pretrain_ckpt} has {before[key]!r}: with "
                "--pretrain_ckpt, features, labels and network are the checkpoint's"
            )
    return config


def _printer(log: Any) -> Callable[[Any], None]:
    def each(utterance: Any) -> None:
        for line in utterance.lines():
            log.info(line)

    return each
