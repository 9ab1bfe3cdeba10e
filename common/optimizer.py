"""From a batch to an update: gradients, their norm, their sum over micro-batches, the step.

Each is a graph of its own, so that the host decides between them: a non-finite gradient is
never applied, and any number of micro-batches makes one step.
"""

from __future__ import annotations

import mindspore as ms
from mindspore import Parameter, ParameterTuple, Tensor, nn, ops

from common.errors import UserError

OPTIMIZERS = ("Adam", "AdamW", "SGD")


class Gradients(nn.Cell):
    """features (B, F, T), lengths (B,), targets (B, L), target_lengths (B,), weights (B,) ->
    losses (B,) in nats, and the gradients of sum(weights * losses) * loss_scale."""

    def __init__(
        self, network: nn.Cell, loss: nn.Cell, weights: list[Parameter], loss_scale: float
    ):
        super().__init__(auto_prefix=False)  # the network keeps its parameter names
        self.objective = _Objective(network, loss, loss_scale)
        self.differentiate = ops.value_and_grad(
            self.objective, None, ParameterTuple(weights), has_aux=True
        )

    def construct(self, features, lengths, targets, target_lengths, weights):
        (_, losses), gradients = self.differentiate(
            features, lengths, targets, target_lengths, weights
        )
        return losses, gradients


class _Objective(nn.Cell):
    def __init__(self, network: nn.Cell, loss: nn.Cell, loss_scale: float):
        super().__init__(auto_prefix=False)
        self.network, self.loss, self.loss_scale = network, loss, loss_scale

    def construct(self, features, lengths, targets, target_lengths, weights):
        log_probs, lengths = self.network(features, lengths)
        losses = self.loss(log_probs, lengths, targets, target_lengths)
        return ops.sum(losses * weights) * self.loss_scale, losses


class _OfGradients(nn.Cell):
    """A graph whose inputs are lists of gradients."""

    enable_tuple_broaden = True  # or a list is taken for a constant, and compiled anew each step


class Add(_OfGradients):
    """The sum of two lists of gradients."""

    def construct(self, first, second):
        total = ()
        for left, right in zip(first, second):
            total += (left + right,)
        return total


class AllReduce(_OfGradients):
    """Sums the gradients over all ranks."""

    def __init__(self):
        super().__init__()
        self.reduce = ops.AllReduce()

    def construct(self, gradients):
        total = ()
        for gradient in gradients:
            total += (self.reduce(gradient),)
        return total


class GlobalNorm(_OfGradients):
    """The Euclidean norm of all gradients together; non-finite if any of them is."""

    def __init__(self):
        super().__init__()
        self.half_square = ops.L2Loss()  # sum(x^2) / 2 in one pass

    def construct(self, gradients):
        total = Tensor(0.0, ms.float32)
        for gradient in gradients:
            total = total + self.half_square(gradient)
        return ops.sqrt(2 * total)


class Update(_OfGradients):
    """One optimizer step with gradients * factor; `learning_rate` is set before each step.

    Weight decay is L2 (added to the gradient) for Adam and SGD, decoupled for AdamW (Loshchilov &
    Hutter 2019); biases and normalisation parameters are not decayed.
    """

    def __init__(self, config, weights: list[Parameter]):
        super().__init__(auto_prefix=False)
        decay = config.weight_decay
        self.weights = ParameterTuple(weights)
        self.decays = tuple(len(weight.shape) > 1 and decay > 0 for weight in weights)
        self.weight_decay, self.decoupled = decay, config.optimizer == "AdamW"
        self.optimizer = _make(config, weights)

    def set_learning_rate(self, rate: float) -> None:
        self.optimizer.learning_rate.set_data(Tensor(rate, ms.float32))

    def state(self) -> dict[str, Parameter]:
        """The optimizer's own parameters, by name."""
        trained = {weight.name for weight in self.weights}
        return {
            parameter.name: parameter
            for parameter in self.optimizer.get_parameters()
            if parameter.name not in trained
        }

    def construct(self, gradients, factor):
        scaled = ()
        for index in range(len(self.weights)):
            gradient = gradients[index] * factor
            if self.decays[index]:
                weight = self.weights[index]
                if self.decoupled:
                    shrunk = 1 - self.optimizer.learning_rate * self.weight_decay
                    gradient = ops.depend(gradient, ops.assign(weight, weight * shrunk))
                else:
                    gradient = gradient + self.weight_decay * weight
            scaled += (gradient,)
        return self.optimizer(scaled)


def _make(config, weights: list[Parameter]) -> nn.Optimizer:
    if config.optimizer in ("Adam", "AdamW"):
        return nn.Adam(
            weights,
            learning_rate=config.learning_rate,
            beta1=config.betas[0],
            beta2=config.betas[1],
            eps=config.eps,
        )
    if config.optimizer == "SGD":
        return nn.SGD(weights, learning_rate=config.learning_rate, momentum=config.momentum)
    raise UserError(
        f"OptimConfig.optimizer={config.optimizer}: expected one of {', '.join(OPTIMIZERS)}"
    )
