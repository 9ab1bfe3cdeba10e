"""train.py and doctor.py: a training run, and what this machine can do for it."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from common import config as configs
from common.cli.options import (
    add_config,
    add_device,
    boolean,
    command,
    overridden,
    train_config,
)
from common.model.recipe import Recipe
from common.utils import runtime
from common.utils.errors import UserError
from common.utils.files import check_writable


def train(recipe: Recipe, argv: Sequence[str]) -> int:
    """Run train.py.

    Args:
        recipe: The model to train.
        argv: Arguments of the command line.

    Returns:
        The exit code: 0 where the run ended as planned, 128 + number after a signal (130 for
        Ctrl-C, 143 for SIGTERM).

    Raises:
        UserError: The run cannot start, has diverged, or has failed, here or on another rank.
    """
    parser = command(
        prog="train.py",
        description=f"Train {recipe.name}. Writes train.log, metrics.csv, curves.png and "
        "emissions.gif into the current folder, and checkpoints into CheckpointConfig.ckpt_path.",
    )
    add_config(parser, recipe)
    add_device(parser)
    parser.add_argument(
        "--pre_trained_model_path", default="", metavar="CKPT", help="start from these weights"
    )
    parser.add_argument(
        "--resume",
        action="store_true",
        help="go on exactly where the run in CheckpointConfig.ckpt_path stopped",
    )
    parser.add_argument(
        "--profile",
        type=int,
        default=0,
        metavar="N",
        help="record N steps with MindSpore's profiler, into profile/",
    )
    parser.add_argument("--is_distributed", type=boolean, nargs="?", const=True, default=False)
    parser.add_argument(
        "--bidirectional",
        type=boolean,
        nargs="?",
        const=True,
        default=None,
        help="read utterances in both directions (ModelConfig.bidirectional)",
    )
    arguments = parser.parse_args(argv)
    if arguments.resume and arguments.pre_trained_model_path:
        raise UserError("--resume goes on with a run, --pre_trained_model_path begins one: choose")

    config = train_config(arguments, recipe)  # what is wrong with it is said before mindspore loads
    if not arguments.is_distributed:  # or else each rank has its own
        check_writable("train.log")

    from common.training import trainer
    from common.training.profiling import StepProfiler
    from common.utils.logging import open_log

    # Before a checkpoint is read: `init` on Ascend is to come before any tensor (MindSpore's
    # documentation of it), and msrun's scheduler goes no further.
    device = runtime.set_device(arguments.device_target, arguments.device_id)
    rank, ranks = runtime.init_distributed() if arguments.is_distributed else (0, 1)
    if arguments.resume:
        config = overridden(trainer.resumed_config(recipe, config), arguments, recipe)
    if arguments.bidirectional is not None:
        configs.override_from_options(
            config, [f"ModelConfig.bidirectional={str(arguments.bidirectional).lower()}"]
        )
    log = open_log("train.log" if rank == 0 else f"train_rank{rank}.log", quiet=rank != 0)
    callbacks = []
    if arguments.profile > 0:
        callbacks.append(StepProfiler(arguments.profile, device, log, rank))
    try:
        result = trainer.train(
            recipe,
            config,
            device=device,
            resume=arguments.resume,
            start_from=arguments.pre_trained_model_path,
            log=log,
            rank=rank,
            ranks=ranks,
            callbacks=callbacks,
        )
        if result.stop.message:
            raise UserError(result.stop.message)
    except UserError as error:
        log.debug(f"error: {error}")
        raise
    except Exception:
        log.debug("ended by a fault:", exc_info=True)
        raise
    if result.stop.signal is not None:
        print("interrupted", file=sys.stderr)
        return 128 + result.stop.signal
    return 0


def doctor(recipe: Recipe, argv: Sequence[str]) -> int:
    """Run doctor.py.

    Args:
        recipe: The model to examine the machine for.
        argv: Arguments of the command line.

    Returns:
        The exit code: 1 where something keeps train.py from starting, else 0.

    Raises:
        UserError: An option or the configuration is wrong.
    """
    parser = command(
        prog="doctor.py",
        description="Say what this machine can do for the configured run: devices, kernels, "
        "memory, disk, versions, the time of an epoch, and the one change that would help most. "
        "Exit code 1 where something keeps train.py from starting.",
    )
    add_config(parser, recipe)
    add_device(parser)
    parser.add_argument(
        "--seconds", type=float, default=60.0, help="for which train steps are timed"
    )
    parser.add_argument("--measure", choices=("kernels", "training"), help=argparse.SUPPRESS)
    parser.add_argument("--network_of", metavar="PRESET", default="", help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    config = train_config(arguments, recipe)
    if not 1 <= arguments.seconds <= 3600:
        raise UserError(f"--seconds {arguments.seconds:g}: expected from 1 to 3600")
    from common.doctor import examine, network_of

    device = arguments.device_target, arguments.device_id
    if arguments.measure:  # in a process that `examine` started
        from common.doctor import trials

        if arguments.measure == "kernels":
            trials.kernels(*device)
        else:
            if arguments.network_of:
                config.ModelConfig = network_of(recipe, arguments.network_of)
            quick = bool(arguments.network_of)
            trials.training(recipe, config, *device, arguments.seconds, quick)
        return 0

    examination = examine(recipe, config, list(argv), arguments.device_target, arguments.seconds)
    print("\n".join(examination.lines))
    return 1 if examination.obstacles else 0
