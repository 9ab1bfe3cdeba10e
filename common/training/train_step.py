"""One training step: batches in, weights moved, or the step skipped and its utterances named."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace

import numpy as np

from common.data.batch_sampler import aligned
from common.data.loader import Batch
from common.memory import MemoryEstimate
from common.model.speech_model import SpeechModel
from common.nn import precision
from common.nn.dropout import Dropout
from common.nn.norm import MaskedBatchNorm
from common.training.distributed import ProcessGroup
from common.training.loss_scale import LossScale, SaturationCheck
from common.training.optimizers import Add, AllReduce, GlobalNorm, Gradients, MovingAverage, Update
from common.utils import runtime
from common.utils.backend import Parameter, Tensor, ms, ops
from common.utils.errors import UserError


@dataclass
class StepResult:
    """What a step over all ranks found; the same on each rank.

    Attributes:
        loss: Mean over the utterances that count, in nats.
        norm: Of the gradient of that mean, before clipping.
        applied: Whether the weights were updated.
        blamed: Utterances of a step that was not applied.
        utterances: Number of utterances that count.
        seconds: Seconds of their speech.
        scale: Of the loss, in this step.
        overflowed: Not applied because of the scale, which is half from here on.
        diverged: Why training gets nowhere any more, in one line.
    """

    loss: float
    norm: float
    applied: bool
    blamed: list[str] = field(default_factory=list)
    utterances: int = 0
    seconds: float = 0.0
    scale: float = 1.0
    overflowed: bool = False
    diverged: str = ""


class TrainStep:
    """Gradients over micro-batches that fit the memory, their sum, clipping, the update.

    The loss is the mean over the utterances of a step. So cutting a batch into micro-batches, or
    making a step of several batches, changes memory and time but not the gradient (except for batch
    normalisation, whose statistics are those of a micro-batch). Repeated rows enter the network as
    utterances of no frames and no labels, so that its statistics leave them out too.

    Each of several ranks has a part of the step's utterances, and all compute the same gradient. If
    ranks need different numbers of micro-batches, the others pad with empty ones, so that the
    statistics of batch normalisation, which are taken over all ranks, stay aligned.
    """

    def __init__(
        self, speech_model: SpeechModel, forecast: MemoryEstimate, group: ProcessGroup | None = None
    ):
        config = speech_model.config
        self.network = speech_model.network
        self.static = speech_model.static_training
        self.pad_align = config.DataConfig.pad_align
        self.forecast = forecast
        self.clip_norm = config.TrainingConfig.clip_norm
        optim = config.OptimConfig
        self.scaling = LossScale(optim.loss_scale, optim.dynamic_loss_scale, optim.scale_window)
        # With a scale that is fixed there is nothing to adapt, and saturated values are kept.
        watched = optim.dynamic_loss_scale and runtime.saturates(speech_model.device)
        self.saturated = SaturationCheck() if watched else None
        self.seed = config.TrainingConfig.seed

        self.frozen = _freeze(self.network, config.TrainingConfig.freeze)
        self.group = group or ProcessGroup()
        # Cells that all ranks must run equally often.
        self.synchronised = _synchronise(self.network) if self.group.count > 1 else []
        weights: list[Parameter] = list(self.network.trainable_params())
        level = config.TrainingConfig.precision
        if level == "BF16" and not runtime.multiplies_bfloat16(speech_model.device):
            raise UserError(
                f"TrainingConfig.precision=BF16 is for Ascend 910B and later, and this is "
                f"{speech_model.device}: use O2, with dynamic_loss_scale"
            )
        precision.apply(self.network, level)
        objective = speech_model.objective()
        self.gradients = Gradients(objective, weights, half=level == "O3")
        if not self.static:
            self.gradients.set_inputs(*_dynamic_inputs(speech_model.featurizer.dimension))
        self.add, self.norm = Add(), GlobalNorm()
        self.reduce = AllReduce() if self.group.count > 1 else None
        self.update = Update(config.OptimConfig, weights)
        self.dropouts = [
            cell for _, cell in self.network.cells_and_names() if isinstance(cell, Dropout)
        ]
        self.statistics = [
            parameter
            for parameter in self.network.get_parameters()
            if parameter.name.endswith(("moving_mean", "moving_variance"))
        ]
        # The statistics are averaged too: those of the newest weights are not those of a mean
        # over the last thousand.
        decay = config.TrainingConfig.ema
        self.average = MovingAverage(decay, weights + self.statistics) if decay else None

    def __call__(
        self, batches: Sequence[Batch], learning_rate: float, number: int, total: int | None = None
    ) -> StepResult:
        """Compute one step.

        Args:
            batches: This rank's batches.
            learning_rate: Of this step.
            number: Number of the step in the run, from which its dropout masks are drawn.
            total: Utterances of this step on all ranks; None: those of `batches`.

        Returns:
            Loss and gradient norm, and whether the weights were updated.

        Raises:
            RemoteRankError: Another rank has failed; no weight has moved.
        """
        self.gradients.set_train()
        for cell in self.frozen:  # frozen normalisation keeps its statistics
            cell.set_train(False)
        counting = sum(batch.valid for batch in batches)
        total = total or counting
        micros = [m for batch in batches for m in self._micro_batches(batch) if m.valid]
        gathered = self.group.all_gather(len(micros), sum(batch.seconds for batch in batches))
        if self.synchronised and (missing := int(gathered[:, 0].max()) - len(micros)):
            silent = _silent(next(self._micro_batches(batches[0])))
            micros += [silent] * missing
        statistics = [parameter.asnumpy().copy() for parameter in self.statistics]
        scale = self.scaling.scale
        if self.saturated is not None:
            self.saturated.clear()
        gradients, losses, ids = None, [], []
        for part, micro in enumerate(micros):
            self._draw_dropout(number, part)
            counts = np.arange(len(micro.ids)) < micro.valid
            micro_losses, fresh = self.gradients(
                Tensor(micro.features),
                Tensor(micro.lengths * counts),
                Tensor(micro.targets),
                Tensor(micro.target_lengths * counts),
                Tensor(np.float32(counts / total * scale)),
            )
            losses.append(micro_losses.asnumpy()[: micro.valid])
            ids += micro.ids[: micro.valid]
            gradients = fresh if gradients is None else self.add(gradients, fresh)
        if gradients is None:  # this rank only keeps step with the others
            gradients = tuple(ops.zeros_like(weight) for weight in self.update.weights)
        saturated = self.saturated is not None and self.saturated(gradients)
        if self.reduce is not None:
            self.group.barrier()
            gradients = self.reduce(gradients)

        losses = np.concatenate(losses) if losses else np.zeros(0, np.float32)
        norm = float(self.norm(gradients).asnumpy()) / scale
        loss_sum, infinite, overflowed = self.group.all_reduce_sum(
            losses.sum(dtype=float), not np.isfinite(losses).all(), saturated
        )
        result = StepResult(
            loss_sum / total,
            norm,
            applied=math.isfinite(norm) and not infinite and not overflowed,
            scale=scale,
            utterances=total,
            seconds=float(gathered[:, 1].sum()),
        )
        if result.applied:
            self._apply(gradients, learning_rate, number, result)
        else:
            for parameter, value in zip(self.statistics, statistics):
                parameter.set_data(Tensor(value))
            self._skip(batches, ids, losses, result)
        return result

    def _apply(self, gradients, learning_rate: float, number: int, result: StepResult) -> None:
        clip = self.clip_norm
        factor = clip / result.norm if 0 < clip < result.norm else 1.0
        self.update.set_learning_rate(learning_rate)
        self.update(gradients, Tensor(factor / result.scale, ms.float32))
        if self.average is not None:
            self.average.take(number)
        self.scaling.finite()

    def _skip(
        self, batches: Sequence[Batch], ids: list[str], losses: np.ndarray, result: StepResult
    ) -> None:
        """Blame utterances or the loss scale for a step that was not applied.

        A scale that is to blame is halved; where it cannot be, training has diverged.
        """
        # Features that are not finite spoil the losses of all ranks through their normalisation.
        spoilt = _spoilt(batches)
        infinite = [name for name, loss in zip(ids, losses) if not math.isfinite(loss)]
        of_features, of_losses = self.group.all_reduce_sum(len(spoilt), len(infinite))
        blamed = spoilt if of_features else infinite if of_losses else ids
        if self.group.count > 1:
            by_rank = enumerate(self.group.all_gather_text(", ".join(blamed)))
            blamed = [f"{names} (rank {rank})" for rank, names in by_rank if names]
        result.blamed = list(blamed)
        if not self.scaling.dynamic or of_features or of_losses:
            return
        if self.scaling.exhausted:
            result.diverged = (
                f"the loss scale has fallen to {result.scale:g}, and gradients are still not "
                f"finite (utterances {', '.join(result.blamed[:5])}): lower "
                "OptimConfig.learning_rate, or train with TrainingConfig.precision=O0"
            )
            return
        self.scaling.overflow()
        result.overflowed = True

    def state(self) -> dict[str, Parameter]:
        """Return what a checkpoint holds beside the network to resume from, by name."""
        return {**self.update.state(), **(self.average.state() if self.average else {})}

    def result(self) -> dict[str, Tensor]:
        """Return the network's parameters that training has led to, by name.

        These are their moving averages, if TrainingConfig.ema asks for such.
        """
        weights = dict(self.network.parameters_dict().items())
        return {**weights, **(self.average.values() if self.average else {})}

    def result_in_place(self) -> AbstractContextManager[None]:
        """Give the network the parameters of `result` within a context."""
        return self.average.in_place() if self.average else nullcontext()

    def _micro_batches(self, batch: Batch):
        rows = len(batch.ids)
        size = min(self.forecast.rows(batch.frames), rows)
        if self.static:  # equal parts, so that no new shape appears
            size = max(part for part in range(1, size + 1) if rows % part == 0)
        if size == rows:
            yield batch
            return
        for start in range(0, rows, size):
            trim = 0 if self.static else self.pad_align
            yield _rows(batch, start, min(start + size, rows), trim)

    def _draw_dropout(self, number: int, part: int) -> None:
        if self.dropouts:
            # Rows of other ranks have the same numbers, and need masks of their own.
            entropy = (self.seed, number, part, self.group.rank)
            drawn = np.random.SeedSequence(entropy).generate_state(1)[0]
            for cell in self.dropouts:
                cell.dropout_seed.set_data(Tensor(np.int32(drawn & 0x7FFFFFFF)))


def _spoilt(batches: Sequence[Batch]) -> list[str]:
    """List the utterances with non-finite features."""
    return [
        name
        for batch in batches
        for name, features in zip(batch.ids[: batch.valid], batch.features)
        if not np.isfinite(features).all()
    ]


def _silent(batch: Batch) -> Batch:
    """Return an empty micro-batch of the same shape: none of its rows counts."""
    return replace(batch, features=np.zeros_like(batch.features), valid=0)


def _rows(batch: Batch, start: int, stop: int, trim: int) -> Batch:
    """Return some rows of a batch.

    trim: The rows are padded to the longest of them, not of the whole batch, and to a multiple of
    so many frames; 0: as in the batch.
    """
    frames = batch.frames
    if trim:
        frames = aligned(int(batch.lengths[start:stop].max()), trim)
    return Batch(
        features=np.ascontiguousarray(batch.features[start:stop, :, :frames]),
        lengths=batch.lengths[start:stop],
        targets=batch.targets[start:stop],
        target_lengths=batch.target_lengths[start:stop],
        indices=batch.indices[start:stop],
        ids=batch.ids[start:stop],
        valid=int(np.clip(batch.valid - start, 0, stop - start)),
        seconds=0.0,
    )


def _dynamic_inputs(dimension: int) -> list[Tensor]:
    integers, floats = ms.int32, ms.float32
    return [
        Tensor(shape=(None, dimension, None), dtype=floats),
        Tensor(shape=(None,), dtype=integers),
        Tensor(shape=(None, None), dtype=integers),
        Tensor(shape=(None,), dtype=integers),
        Tensor(shape=(None,), dtype=floats),
    ]


def _synchronise(network: ms.nn.Cell) -> list[ms.nn.Cell]:
    """Make normalisation take its statistics over all ranks; return its cells."""
    cells = [c for _, c in network.cells_and_names() if isinstance(c, MaskedBatchNorm)]
    for cell in cells:
        cell.synchronise()
    return cells


def _freeze(network: ms.nn.Cell, beginnings: Sequence[str]) -> list[ms.nn.Cell]:
    """Freeze parameters by the beginning of their names; return their cells."""
    if not beginnings:
        return []
    for beginning in beginnings:
        matching = [p for p in network.get_parameters() if p.name.startswith(beginning)]
        if not matching:
            names = sorted({p.name.rsplit(".", 1)[0] for p in network.trainable_params()})
            raise UserError(
                f"TrainingConfig.freeze: no parameter begins with {beginning!r}; "
                f"there are {', '.join(names)}"
            )
        for parameter in matching:
            parameter.requires_grad = False
    if not network.trainable_params():
        raise UserError(f"TrainingConfig.freeze={list(beginnings)}: nothing is left to train")
    return [
        cell
        for _, cell in network.cells_and_names()
        if cell.parameters_dict(recurse=False)
        and all(p.name.startswith(tuple(beginnings)) for p in cell.get_parameters(expand=False))
    ]
