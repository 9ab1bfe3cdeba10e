"""Graphs of a training step: gradients, their sum and norm, the update, the moving average.

Each is a graph of its own, so that the host decides between them: a non-finite gradient is never
applied, and any number of micro-batches makes one step.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from common.model.checkpoint import AVERAGE
from common.nn.graph_cache import GraphCell
from common.nn.precision import HALF, maybe_half
from common.utils.backend import Parameter, ParameterTuple, Tensor, ms, nn, ops
from common.utils.errors import UserError

OPTIMIZERS = ("Adam", "AdamW", "SGD", "NovoGrad", "LAMB")


class Gradients(GraphCell):
    """Losses of a micro-batch, and the gradients of their weighted sum.

    Inputs are features (B, F, T), lengths (B,), targets (B, L), target_lengths (B,) and weights
    (B,); outputs are losses (B,) in nats and the gradients of sum(weights * losses).

    Args:
        objective: The same inputs without the weights -> losses (B,): a recipe's `build_objective`.
        weights: The parameters to differentiate by.
        half: Whether the features enter the network in float16 (`common.nn.precision`).
    """

    def __init__(self, objective: nn.Cell, weights: list[Parameter], half: bool = False):
        super().__init__(auto_prefix=False)  # the network keeps its parameter names
        self.objective = _WeightedLoss(objective, half)
        self.differentiate = ops.value_and_grad(
            self.objective, None, ParameterTuple(weights), has_aux=True
        )

    def construct(self, features, lengths, targets, target_lengths, weights):
        """Return losses and gradients."""
        (_, losses), gradients = self.differentiate(
            features, lengths, targets, target_lengths, weights
        )
        return losses, gradients


class _WeightedLoss(nn.Cell):
    def __init__(self, objective: nn.Cell, half: bool):
        super().__init__(auto_prefix=False)
        self.objective, self.half_features = objective, HALF if half else 0

    def construct(self, features, lengths, targets, target_lengths, weights):
        features = maybe_half(features, self.half_features)
        losses = self.objective(features, lengths, targets, target_lengths)
        return ops.sum(losses * weights), losses


class _OfGradients(GraphCell):
    """A graph whose inputs are lists of gradients."""

    enable_tuple_broaden = True  # or a list is taken for a constant, and compiled anew each step


class Add(_OfGradients):
    """The sum of two lists of gradients, pair by pair: two tuples -> a tuple."""

    def construct(self, first, second):
        """Return the sums, pair by pair."""
        total = ()
        for left, right in zip(first, second):
            total += (left + right,)
        return total


class AllReduce(_OfGradients):
    """Sums the gradients over all ranks: a tuple of gradients -> a tuple of the same shapes."""

    def __init__(self):
        super().__init__()
        self.reduce = ops.AllReduce()

    def construct(self, gradients):
        """Return the sums over all ranks."""
        total = ()
        for gradient in gradients:
            total += (self.reduce(gradient),)
        return total


class GlobalNorm(_OfGradients):
    """The Euclidean norm of all gradients together: a tuple of gradients -> a scalar.

    It is not finite if any of them is not.
    """

    def __init__(self):
        super().__init__()
        self.half_square = ops.L2Loss()  # sum(x^2) / 2 in one pass

    def construct(self, gradients):
        """Return the norm, a scalar."""
        total = Tensor(0.0, ms.float32)
        for gradient in gradients:
            total = total + self.half_square(gradient)
        return ops.sqrt(2 * total)


class Update(_OfGradients):
    """One optimizer step with gradients * factor; `set_learning_rate` comes before each step.

    Inputs are the gradients, a tuple in the order of the weights, and the factor, a scalar.

    Weight decay is L2 (added to the gradient) for Adam and SGD, decoupled for AdamW (Loshchilov &
    Hutter 2019), part of the normalised step for NovoGrad and LAMB. Biases and normalisation
    parameters are not decayed.

    Args:
        config: The OptimConfig.
        weights: The parameters to update.

    Raises:
        UserError: There is no such optimizer, or its betas are out of range.
    """

    def __init__(self, config, weights: list[Parameter]):
        super().__init__(auto_prefix=False)
        decay = config.weight_decay
        self.weights = ParameterTuple(weights)
        self.decays = tuple(len(weight.shape) > 1 and decay > 0 for weight in weights)
        self.weight_decay, self.decoupled = decay, config.optimizer == "AdamW"
        self.layerwise = config.optimizer in ("NovoGrad", "LAMB")
        self.optimizer = _make(config, weights, self.decays)

    def set_learning_rate(self, rate: float) -> None:
        """Set the learning rate of the next step."""
        self.optimizer.learning_rate.set_data(Tensor(rate, ms.float32))

    def state(self) -> dict[str, Parameter]:
        """Return the optimizer's own parameters, by name."""
        trained = {weight.name for weight in self.weights}
        return {
            parameter.name: parameter
            for parameter in self.optimizer.get_parameters()
            if parameter.name not in trained
        }

    def construct(self, gradients, factor):
        """Update the weights."""
        if self.layerwise:
            return self.optimizer(gradients, factor)
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


def _make(config, weights: list[Parameter], decays: tuple[bool, ...]) -> nn.Cell:
    if config.optimizer in ("Adam", "AdamW"):
        if not min(config.betas) > 0:
            raise UserError(
                f"OptimConfig.betas={config.betas}: {config.optimizer} needs numbers above 0, such "
                "as [0.9, 0.999]"
            )
        return nn.Adam(
            weights,
            learning_rate=config.learning_rate,
            beta1=config.betas[0],
            beta2=config.betas[1],
            eps=config.eps,
        )
    if config.optimizer == "SGD":
        return nn.SGD(weights, learning_rate=config.learning_rate, momentum=config.momentum)
    if config.optimizer == "NovoGrad":
        return NovoGrad(config, weights, decays)
    if config.optimizer == "LAMB":  # mindspore.nn's is deprecated, and not for the CPU
        return LAMB(config, weights, decays)
    raise UserError(
        f"OptimConfig.optimizer={config.optimizer}: expected one of {', '.join(OPTIMIZERS)}"
    )


class _LayerWise(nn.Cell):
    """An optimizer whose step depends on norms over whole layers, each a parameter by itself."""

    def __init__(self, config, weights: list[Parameter], decays: tuple[bool, ...]):
        super().__init__(auto_prefix=False)
        (self.beta1, self.beta2), self.eps = config.betas, config.eps
        self.weight_decay, self.decays = config.weight_decay, decays
        self.weights = ParameterTuple(weights)
        self.moment1 = self.weights.clone("moment1", "zeros")
        rate = Tensor(config.learning_rate, ms.float32)
        self.learning_rate = Parameter(rate, name="learning_rate", requires_grad=False)
        self.half_square = ops.L2Loss()  # sum(x^2) / 2 in one pass


class NovoGrad(_LayerWise):
    """NovoGrad (Ginsburg et al. 2019, arXiv 1905.11286, algorithm 1).

    With g = gradient * factor:

        v = |g|^2 at first, then beta2 v + (1 - beta2) |g|^2, a number for each layer
        m = beta1 m + g / (sqrt(v) + eps) + weight_decay * w
        w = w - learning_rate * m

    A layer's v begins at its first gradient that is not 0. Unlike the paper's, biases and
    normalisation parameters are not decayed.

    Args:
        config: The OptimConfig.
        weights: The parameters to update.
        decays: Whether each of them is decayed.
    """

    def __init__(self, config, weights: list[Parameter], decays: tuple[bool, ...]):
        super().__init__(config, weights, decays)
        self.moment2 = ParameterTuple(
            Parameter(Tensor(0.0, ms.float32), name=f"moment2.{weight.name}", requires_grad=False)
            for weight in weights
        )
        self.momentum = ops.ApplyMomentum()  # the last two lines in one pass

    def construct(self, gradients, factor):
        """Update the weights."""
        for index in range(len(self.weights)):
            gradient, weight = gradients[index], self.weights[index]
            square, mean = 2 * self.half_square(gradient) * factor * factor, self.moment2[index]
            later = self.beta2 * mean + (1 - self.beta2) * square
            mean = ops.select(mean == 0, square, later)
            ops.assign(self.moment2[index], mean)
            step = gradient * (factor / (ops.sqrt(mean) + self.eps))
            if self.decays[index]:
                step = step + self.weight_decay * weight
            self.momentum(weight, self.moment1[index], self.learning_rate, step, self.beta1)
        return factor


class LAMB(_LayerWise):
    """LAMB (You et al. 2020, arXiv 1904.00962, algorithm 2).

    With g = gradient * factor:

        m = beta1 m + (1 - beta1) g,  v = beta2 v + (1 - beta2) g^2
        r = m / (1 - beta1^t) / (sqrt(v / (1 - beta2^t)) + eps) + weight_decay * w
        w = w - learning_rate * |w| / |r| * r

    phi of the paper is the identity. Where |w| or |r| is 0 (a fresh bias, say) the ratio is 1,
    which the paper leaves open. Biases and normalisation parameters have their ratio too, but are
    not decayed.

    Args:
        config: The OptimConfig.
        weights: The parameters to update.
        decays: Whether each of them is decayed.
    """

    def __init__(self, config, weights: list[Parameter], decays: tuple[bool, ...]):
        super().__init__(config, weights, decays)
        self.moment2 = self.weights.clone("moment2", "zeros")
        one = Tensor(1.0, ms.float32)
        self.beta1_power = Parameter(one, name="beta1_power", requires_grad=False)
        self.beta2_power = Parameter(one, name="beta2_power", requires_grad=False)

    def construct(self, gradients, factor):
        """Update the weights."""
        power1, power2 = self.beta1_power * self.beta1, self.beta2_power * self.beta2
        ops.assign(self.beta1_power, power1)
        ops.assign(self.beta2_power, power2)
        for index in range(len(self.weights)):
            gradient, weight = gradients[index] * factor, self.weights[index]
            first = self.moment1[index] * self.beta1 + gradient * (1 - self.beta1)
            second = self.moment2[index] * self.beta2 + gradient * gradient * (1 - self.beta2)
            ops.assign(self.moment1[index], first)
            ops.assign(self.moment2[index], second)
            step = first / (1 - power1) / (ops.sqrt(second / (1 - power2)) + self.eps)
            if self.decays[index]:
                step = step + self.weight_decay * weight
            size, length = self.half_square(weight), self.half_square(step)
            known = ops.logical_and(size > 0, length > 0)
            ratio = ops.sqrt(ops.select(known, size / length, ops.ones_like(size)))
            ops.assign_sub(weight, step * (self.learning_rate * ratio))
        return factor


class MovingAverage(GraphCell):
    """An exponential moving average of parameters, which begins as a copy of them.

        average = d * average + (1 - d) * parameter,  d = min(decay, (1 + t) / (10 + t))

    t: steps done before. d climbs to `decay`, as in TensorFlow's ExponentialMovingAverage with
    num_updates, so that the fresh weights do not outlast the first epochs of a short run; 0.999 is
    reached after 9000 steps.

    Args:
        decay: Highest share of the average that is kept in a step.
        parameters: What is averaged.
    """

    def __init__(self, decay: float, parameters: list[Parameter]):
        super().__init__(auto_prefix=False)
        self.decay = decay
        self.sources = ParameterTuple(parameters)
        self.averages = ParameterTuple(
            Parameter(
                Tensor(parameter.asnumpy().copy()),
                name=AVERAGE + parameter.name,
                requires_grad=False,
            )
            for parameter in parameters
        )

    def construct(self, share):
        """Move the averages towards the parameters by `share` of the difference."""
        for index in range(len(self.sources)):
            average = self.averages[index]
            ops.assign_sub(average, (average - self.sources[index]) * share)
        return share

    def take(self, step: int) -> None:
        """Take the parameters into the average.

        Args:
            step: Number of the step that they come from, from 0.
        """
        decay = min(self.decay, (1 + step) / (10 + step))
        self(Tensor(1 - decay, ms.float32))

    def state(self) -> dict[str, Parameter]:
        """Return the averages by their own names, as a checkpoint keeps them."""
        return {average.name: average for average in self.averages}

    def values(self) -> dict[str, Tensor]:
        """Return the averages by the names of what they average."""
        return {p.name: average for p, average in zip(self.sources, self.averages)}

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Give the parameters the values of their averages within a context."""
        current = [parameter.asnumpy().copy() for parameter in self.sources]
        try:
            for parameter, average in zip(self.sources, self.averages):
                parameter.set_data(Tensor(average.asnumpy().copy()))
            yield
        finally:
            for parameter, value in zip(self.sources, current):
                parameter.set_data(Tensor(value))
