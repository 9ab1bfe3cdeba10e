"""One training step: batches in, weights moved, or the step skipped and its utterances named."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor, ops

from common.batching import aligned
from common.dataset import Batch
from common.errors import UserError
from common.memory import Forecast
from common.nn import CTCLoss, Dropout
from common.optimizer import Add, AllReduce, GlobalNorm, Gradients, Update
from common.recogniser import Recogniser


@dataclass
class StepResult:
    loss: float  # mean over the utterances that count, nats
    norm: float  # of the gradient of that mean, before clipping
    applied: bool
    blamed: list[str] = field(default_factory=list)  # utterances of a step that was not applied


class TrainStep:
    """Gradients over micro-batches that fit the memory, their sum, clipping, the update.

    The loss is the mean over the utterances of a step: cutting a batch into micro-batches, or
    making a step of several batches, changes memory and time but not the gradient (but for batch
    normalisation, whose statistics are those of a micro-batch). Rows that are repeats enter the
    network as utterances of no frames and no labels, so that its statistics leave them out too.
    """

    def __init__(self, recogniser: Recogniser, forecast: Forecast, ranks: int = 1):
        config = recogniser.config
        self.network = recogniser.network
        self.static = recogniser.static
        self.pad_align = config.DataConfig.pad_align
        self.forecast = forecast
        self.clip_norm = config.TrainingConfig.clip_norm
        self.loss_scale = config.OptimConfig.loss_scale
        self.seed = config.TrainingConfig.seed

        self.frozen = _freeze(self.network, config.TrainingConfig.freeze)
        weights: list[Parameter] = list(self.network.trainable_params())
        self.gradients = Gradients(
            self.network, CTCLoss(recogniser.vocabulary.blank), weights, self.loss_scale
        )
        if not self.static:
            self.gradients.set_inputs(*_dynamic_inputs(recogniser.featurizer.dimension))
        self.add, self.norm = Add(), GlobalNorm()
        self.reduce = AllReduce() if ranks > 1 else None
        self.update = Update(config.OptimConfig, weights)
        self.dropouts = [
            cell for _, cell in self.network.cells_and_names() if isinstance(cell, Dropout)
        ]
        self.averages = [
            parameter
            for parameter in self.network.get_parameters()
            if parameter.name.endswith(("moving_mean", "moving_variance"))
        ]

    def __call__(
        self, batches: Sequence[Batch], learning_rate: float, number: int, total: int | None = None
    ) -> StepResult:
        """`number`: of the step, from which its dropout masks are drawn. `total`: utterances that
        count in this step on all ranks; None: those of `batches`."""
        self.gradients.set_train()
        for cell in self.frozen:  # frozen normalisation keeps its statistics
            cell.set_train(False)
        counting = sum(batch.valid for batch in batches)
        total = total or counting
        averages = [parameter.asnumpy().copy() for parameter in self.averages]
        gradients, losses, ids = None, [], []
        for part, micro in enumerate(
            micro for batch in batches for micro in self._micro_batches(batch) if micro.valid
        ):
            self._draw_dropout(number, part)
            counts = np.arange(len(micro.ids)) < micro.valid
            found, fresh = self.gradients(
                Tensor(micro.features),
                Tensor(micro.lengths * counts),
                Tensor(micro.targets),
                Tensor(micro.target_lengths * counts),
                Tensor(np.float32(counts / total)),
            )
            losses.append(found.asnumpy()[: micro.valid])
            ids += micro.ids[: micro.valid]
            gradients = fresh if gradients is None else self.add(gradients, fresh)
        if gradients is None:  # this rank only keeps step with the others
            gradients = tuple(ops.zeros_like(weight) for weight in self.update.weights)
        if self.reduce is not None:
            gradients = self.reduce(gradients)

        losses = np.concatenate(losses) if losses else np.zeros(0, np.float32)
        norm = float(self.norm(gradients).asnumpy()) / self.loss_scale
        loss = float(losses.mean()) if len(losses) else 0.0
        # Of several ranks all must decide alike: on the norm, which they share.
        sound = math.isfinite(norm) and (self.reduce is not None or np.isfinite(losses).all())
        if not sound:
            for parameter, value in zip(self.averages, averages):
                parameter.set_data(Tensor(value))
            return StepResult(loss, norm, False, _blamed(batches, ids, losses))
        clip = self.clip_norm
        factor = clip / norm if 0 < clip < norm else 1.0
        self.update.set_learning_rate(learning_rate)
        self.update(gradients, Tensor(factor / self.loss_scale, ms.float32))
        return StepResult(loss, norm, True)

    def anywhere(self, asked: bool) -> bool:
        """Whether something is asked of any rank: each must call this at the same place."""
        if self.reduce is None:
            return asked
        return self.reduce([Tensor([asked], ms.float32)])[0].asnumpy().any()

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
            drawn = np.random.SeedSequence((self.seed, number, part)).generate_state(1)[0]
            for cell in self.dropouts:
                cell.dropout_seed.set_data(Tensor(np.int32(drawn & 0x7FFFFFFF)))


def _blamed(batches: Sequence[Batch], ids: list[str], losses: np.ndarray) -> list[str]:
    """Utterances with non-finite features, which spoil the loss of a whole batch through its
    normalisation; else those with a non-finite loss; else all."""
    bad = [
        name
        for batch in batches
        for name, features in zip(batch.ids[: batch.valid], batch.features)
        if not np.isfinite(features).all()
    ]
    bad = bad or [name for name, value in zip(ids, losses) if not math.isfinite(value)]
    return bad or ids


def _rows(batch: Batch, start: int, stop: int, trim: int) -> Batch:
    """Some rows of a batch; `trim`: padded to the longest of them, not of the whole batch, and to a
    multiple of so many frames; 0: as the batch."""
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


def _freeze(network: ms.nn.Cell, beginnings: Sequence[str]) -> list[ms.nn.Cell]:
    """Stops the training of parameters by the beginning of their names; returns their cells."""
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
