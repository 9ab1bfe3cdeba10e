"""What tests/test_ranks.py runs as one of several processes, and, for comparison, as the only one.

python ranks_job.py CORPUS OUT: writes OUT/rank<N>.npz and .json.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import conftest  # noqa: F401  (sets the environment before mindspore loads)
import numpy as np
from mindspore import nn
from synthetic_corpus import chdir, tiny

from common import config as shared
from common.data.batch_sampler import aligned
from common.data.loader import Batch
from common.memory import MemoryEstimate
from common.model.checkpoint import STATELESS, load
from common.model.speech_model import SpeechModel
from common.text.tokenizer import CharacterTokenizer
from common.training import trainer as training
from common.training.distributed import ProcessGroup
from common.training.train_step import TrainStep
from common.utils import runtime
from common.utils.errors import UserError
from deepspeech2.src.config import ModelConfig, TrainConfig
from deepspeech2.src.recipe import RECIPE

STEPS, UTTERANCES, BANDS, RATE = 20, 16, 12, 0.05
CUT, NAN, IDLE = STEPS, STEPS + 1, STEPS + 2  # the steps that follow them
FAILS_AT = 4  # batches of rank 1 before its data fail, in the second of three epochs
ENDLESS = MemoryEstimate(parameters=0, per_frame=1.0, limit=1e12)


def utterances(number: int) -> list[tuple[str, np.ndarray, np.ndarray]]:
    """Names, features (F, T) and labels of step `number`, from long to short."""
    rng = np.random.default_rng(number)
    lengths = np.sort(rng.integers(16, 40, UTTERANCES))[::-1]
    return [
        (f"{number}-{row}", rng.standard_normal((BANDS, frames)), rng.integers(0, 2, 3))
        for row, frames in enumerate(lengths)
    ]


def batch_of(chosen: list[tuple], valid: int | None = None) -> Batch:
    names, features, labels = zip(*chosen)
    lengths = np.array([each.shape[1] for each in features], np.int32)
    padded = np.zeros((len(names), BANDS, aligned(int(lengths.max()), 8)), np.float32)
    for row, each in enumerate(features):
        padded[row, :, : each.shape[1]] = each
    return Batch(
        features=padded,
        lengths=lengths,
        targets=np.array(labels, np.int32),
        target_lengths=np.full(len(names), 3, np.int32),
        indices=tuple(range(len(names))),
        ids=names,
        valid=len(names) if valid is None else valid,
        seconds=float(len(names) if valid is None else valid),
    )


def make_step(ranks: ProcessGroup, **model: Any) -> tuple[TrainStep, Callable[[], dict]]:
    """A small network with batch normalisation everywhere, and what reads all its state."""
    values = {
        "hidden_size": 8,
        "hidden_layers": 2,
        "norm": "batch",
        "conv_channels": 3,
        "conv_kernels": [[5, 3], [3, 5]],
        "conv_strides": [[2, 2], [2, 1]],
    }
    config = TrainConfig(ModelConfig=ModelConfig(**values | model))
    config.TrainingConfig = shared.TrainingConfig(clip_norm=20.0, ema=0.9)
    config.OptimConfig = shared.OptimConfig(optimizer="SGD", momentum=0.9, dynamic_loss_scale=True)
    config.DataConfig.SpectConfig.features, config.DataConfig.SpectConfig.bands = "logmel", BANDS
    speech_model = SpeechModel.create(RECIPE, config, CharacterTokenizer(tuple("AB_")), "CPU")
    step = TrainStep(speech_model, ENDLESS, ranks)

    def state() -> dict[str, np.ndarray]:
        return {
            name: parameter.asnumpy().copy()
            for name, parameter in (speech_model.network.parameters_dict() | step.state()).items()
            if STATELESS not in name
        }

    return step, state


def steps(ranks: ProcessGroup) -> dict[str, np.ndarray]:
    """Gradients and weights after each kind of step; of one rank, as they should be."""
    step, state = make_step(ranks)
    found: dict[str, np.ndarray] = {}
    norm, gradients = step.norm, []

    def recorded(given: tuple) -> Any:
        gradients[:] = [each.asnumpy() / step.scaling.scale for each in given]
        return norm(given)

    step.norm, half = recorded, UTTERANCES // 2
    alone = ranks.count == 1

    def do(number: int, *batches: Batch, total: int = UTTERANCES) -> None:
        result = step(batches, RATE, number, total)
        found[f"{number}.gradient"] = np.concatenate([each.ravel() for each in gradients])
        found[f"{number}.loss"] = np.array([result.loss, result.norm, result.seconds])
        found[f"{number}.applied"] = np.array(result.applied)
        found[f"{number}.blamed"] = np.array(result.blamed)
        found[f"{number}.scale"] = np.array(step.scaling.scale)
        found.update({f"{number}:{name}": value for name, value in state().items()})

    for number in range(STEPS):
        spoken = utterances(number)
        do(number, batch_of(spoken if alone else spoken[ranks.rank * half :][:half]))

    # The first rank's go through at once, the second's four at a time.
    spoken = utterances(CUT)
    if alone:
        do(CUT, batch_of(spoken[: half + 4]), batch_of(spoken[half + 4 :]))
    else:
        step.forecast = MemoryEstimate(0, 1.0, 1e12, 4 * ranks.rank)
        do(CUT, batch_of(spoken[ranks.rank * half :][:half]))
        step.forecast = ENDLESS

    if not alone:  # one utterance of one rank is bad: nothing moves anywhere
        ours = batch_of(utterances(NAN)[ranks.rank * half :][:half])
        if ranks.rank == 1:
            ours.features[3, 0, 2] = np.nan
        do(NAN, ours)

    spoken = utterances(IDLE)[:half]  # of the first rank; the second only keeps step
    do(IDLE, batch_of(spoken, valid=half * (ranks.rank == 0)), total=half)
    return found


def dropout_masks(ranks: ProcessGroup) -> list[int]:
    step, _ = make_step(ranks, dropout=0.5)
    seeds = []
    for part in range(2):
        step._draw_dropout(1, part)
        seeds.append(int(step.dropouts[0].dropout_seed.asnumpy()))
    return seeds


def run(
    corpus: Path, folder: Path, ranks: ProcessGroup, fails: bool = False, resume: bool = False
) -> str:
    """Trains in `folder` on the synthetic corpus; returns what stopped the run."""
    folder.mkdir(parents=True, exist_ok=True)
    config = tiny(
        corpus,
        Data__batch_size=2,
        Training__epochs=3,
        Training__ema=0.9,
        Model__norm="batch",
        Model__hidden_layers=1,  # each run compiles the network anew
        Model__dropout=0.2,
    )
    config.DataConfig.AugmentationConfig.spec_augment = True
    log = logging.getLogger(f"rank{ranks.rank}")
    log.setLevel(logging.DEBUG)
    log.addHandler(logging.FileHandler(folder / f"train{ranks.rank}.log"))
    log.propagate = False
    made = training.batches

    def failing(*arguments: Any, epoch: int, **more: Any) -> Any:
        for number, batch in enumerate(made(*arguments, epoch=epoch, **more)):
            if fails and ranks.rank == 1 and 3 * epoch + number == FAILS_AT:
                raise UserError("records0.md: cannot be read")
            yield batch

    training.batches = failing
    try:
        with chdir(folder):
            result = training.train(
                RECIPE,
                config,
                device="CPU",
                log=log,
                rank=ranks.rank,
                ranks=ranks.count,
                resume=resume,
            )
        return f"{result.stop.reason.name}: {result.stop.message}"
    except UserError as error:
        return f"{type(error).__name__}: {error}"
    finally:
        training.batches = made
        log.handlers.clear()


def main(corpus: Path, out: Path) -> None:
    runtime.set_device("CPU")
    ranks = ProcessGroup(*runtime.init_distributed())
    said: dict[str, Any] = {"masks": dropout_masks(ranks), "neighbours": ranks.local_world_size()}
    said["branches"] = branches(ranks)
    np.savez(out / f"rank{ranks.rank}.npz", **steps(ranks))
    said["whole"] = run(corpus, out / "whole", ranks)
    started = time.monotonic()
    said["failed"] = run(corpus, out / "failed", ranks, fails=True)
    said["failed_in"] = time.monotonic() - started
    if ranks.rank == 0:
        last = load(out / "failed" / "checkpoint" / "tiny-last.ckpt")
        said["stopped_at"] = last.metadata["progress"]["step"]
    said["resumed"] = run(corpus, out / "failed", ranks, resume=True)
    (out / "partial").mkdir(exist_ok=True)
    partial = out / "partial" / f"rank{ranks.rank}.json"
    partial.write_text(json.dumps(said))
    partial.rename(out / partial.name)
    if ranks.rank == 1:  # a fault of our own, of which the others are not told: msrun kills them
        while not (out / "rank0.json").is_file():
            time.sleep(0.1)
        os._exit(3)


def branches(ranks: ProcessGroup) -> list[float]:
    """Normalisations that do not wait for one another, as in Jasper's dense residuals: the sums of
    their gradients must not be mixed up between ranks, in whatever order they are computed."""
    import mindspore as ms
    from mindspore import ParameterTuple, Tensor, ops

    from common.nn.norm import MaskedBatchNorm

    class Branches(nn.Cell):
        def __init__(self):
            super().__init__()
            self.norms = nn.CellList([MaskedBatchNorm(4, "TBC") for _ in range(6)])

        def construct(self, x, mask):
            total = ops.zeros_like(x)
            for number in range(6):
                total = total + (number + 1) * self.norms[number](x * x + number * x, mask)
            return ops.sum(total**3)

    cell = Branches()
    for norm in cell.norms:
        if ranks.count > 1:
            norm.synchronise()
    cell.set_train()
    rng = np.random.default_rng(0)
    x, mask = rng.standard_normal((6, 4, 4)), rng.integers(0, 2, (6, 4))
    x, mask = x[:, ranks.rank :: ranks.count], mask[:, ranks.rank :: ranks.count]
    weights = ParameterTuple(cell.trainable_params())
    differentiate = ops.value_and_grad(cell, None, weights)
    for _ in range(5):
        _, found = differentiate(Tensor(x, ms.float32), Tensor(mask, ms.float32))
    found = np.concatenate([each.asnumpy() for each in found]).astype(float)
    each = (
        ranks.all_reduce_sum(*found[:16], *[]),
        ranks.all_reduce_sum(*found[16:32]),
        ranks.all_reduce_sum(*found[32:]),
    )
    return [value for values in each for value in values]


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
