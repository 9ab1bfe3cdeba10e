"""Networks as ONNX files that take a recording piece by piece.

`StreamingGraph` is a `Graph` to which a model folder adds its network as it does for a whole
recording. Its convolutions keep the last frames of their input from one piece to the next, its
LSTMs their state, so that nothing is computed twice and the log-probabilities are those of the
whole recording (as the caches of "Streaming Transformer Transducer", Chen et al. 2020, arXiv
2010.11395, do it for attention).

A convolution sees half a kernel of later frames, so each layer is late by some frames. All pieces
go through one graph of fixed shapes: what a layer gives before the first frame of the recording is
masked to zero, as its padding is for the whole recording, and so is what comes after the last one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from common.export.onnx import Graph, Norm
from common.model.recipe import Recipe
from common.utils.errors import UserError

_FLOAT, _INT32, _INT64 = 1, 6, 7  # numbers of ONNX's element types
STATE, NEXT = "state_", "next_state_"  # beginnings of the names of inputs and of outputs
STREAM = "stream"  # what such a file takes, in its description
LENGTHS = "lengths"
FIRST = "first"  # output: index of the first output frame of a piece, below 0 before the recording
CHUNK_SECONDS = 0.2  # of audio that a network takes at a time, where nothing else is said
_SHUT = -1e4  # into a sigmoid: 0 in float32


@dataclass(frozen=True)
class StreamShape:
    """How the output of a streaming network lies to its input.

    Attributes:
        stride: Feature frames of an output frame; a piece has a multiple of it.
        delay: Output frames that it is late by.
    """

    stride: int
    delay: int


@dataclass(frozen=True)
class _Place:
    """Where a tensor lies: its frame 0 is frame -delay of the layer, the first time.

    Attributes:
        stride: Feature frames of a frame.
        delay: Frames that it is late by.
        channels: Number of channels, of (B, channels, bins, T).
        bins: Number of bins.
    """

    stride: int
    delay: int
    channels: int
    bins: int


class StreamingGraph(Graph):
    """A graph that takes features piece by piece.

    Args:
        weights: As of `Graph`.
        features: Name of the features (1, F, n), n frames of a recording.
        dimension: F.
        position: Name of the number (1,) int32 of frames that came before, a multiple of the
            network's stride.
    """

    def __init__(self, weights: str, features: str, dimension: int, position: str):
        super().__init__(weights)
        self._position = super().op("Cast", position, to=_INT64)
        self._places = {features: _Place(1, 0, dimension, 1)}
        self.states: list[tuple[list[int], str]] = []  # shape, and name of what follows

    def op(self, kind: str, *inputs: str, outputs: int = 1, **attributes: Any) -> Any:
        """Add an operator; see `Graph.op`. Inputs that are late by less wait for the others.

        Raises:
            UserError: The operator reads a recording from its end, or pools frames.
        """
        if kind == "ReverseSequence":
            raise UserError(
                "this network is bidirectional: it reads a recording from its end, which a stream "
                "does not have yet; train one with --set bidirectional=false, or use transcribe.py "
                "with files"
            )
        if kind in ("MaxPool", "Pad"):
            raise UserError(
                "networks with pooling cannot take a stream piece by piece; recognise windows of "
                "it: transcribe.py --stream --context SECONDS"
            )
        if kind == "LSTM":
            return self._lstm(inputs, **attributes)
        places = [self._places[name] for name in inputs if name in self._places]
        if len({(place.stride, place.delay) for place in places}) > 1:
            inputs, places = self._together(inputs, places)
        result = super().op(kind, *inputs, outputs=outputs, **attributes)
        if places:
            place = places[0]
            if kind == "Unsqueeze":  # to (B, 1, F, T), or (B, F, 1, T)
                bins = place.channels if attributes["axes"] == [1] else 1
                place = replace(place, bins=bins)
            for name in [result] if outputs == 1 else result:
                self._places[name] = place
        return result

    def convolution(
        self,
        x: str,
        name: str,
        weight: np.ndarray,
        bias: np.ndarray | None = None,
        norm: Norm | None = None,
        stride: Sequence[int] = (1, 1),
        dilation: int = 1,
        groups: int = 1,
        padding: Sequence[int] | None = None,
    ) -> str:
        """Add a convolution; see `Graph.convolution`. It keeps what it needs of earlier frames."""
        height, width = weight.shape[2:]
        padding = padding or (height // 2, height // 2, width // 2 * dilation, 0)
        taps, step, place = (width - 1) * dilation + 1, stride[1], self._places[x]
        # Output j has the taps from frame j * step - padding[2]. `spare` of the last frames that
        # came are not looked at, so that output frames begin at multiples of the step.
        room = step - place.delay + padding[2] - taps
        spare = room % step
        delay, earlier = (spare - room) // step, taps + spare - step
        if earlier > 0:
            x = self._with_earlier(x, [1, weight.shape[1] * groups, place.bins, earlier])
        elif earlier < 0:
            x = self._slice(x, -earlier, None)
        pads = (padding[0], padding[1], 0, 0)
        y = super().convolution(x, name, weight, bias, norm, stride, dilation, groups, pads)
        bins = (place.bins + padding[0] + padding[1] - height) // stride[0] + 1
        self._places[y] = _Place(place.stride * step, delay, weight.shape[0], bins)
        return y

    def frame_mask(self, lengths: str, x: str) -> str:
        """Add a mask of the frames of the recording; see `Graph.frame_mask`.

        Args:
            lengths: Name of the number (1,) int64 of frames of the whole recording, at this layer;
                while it is not known any that is not reached.
            x: Name of the tensor (B, C, F, n).

        Returns:
            Name of the mask (1, 1, 1, n).
        """
        index = self._indices(x, 3)
        begun = super().op("Not", super().op("Less", index, self.constant(0)))
        inside = super().op("And", begun, super().op("Less", index, lengths))
        mask = self.op("Cast", inside, to=_FLOAT)
        mask = self.op("Reshape", mask, self.constant([1, 1, 1, -1]))
        self._places[mask] = self._places[x]
        return mask

    def shape_of(self, x: str) -> StreamShape:
        """Return how a tensor lies to the features."""
        return StreamShape(self._places[x].stride, self._places[x].delay)

    def first(self, x: str) -> str:
        """Add the index (1,) int64 of the first frame of a tensor, in the recording."""
        place = self._places[x]
        passed = super().op("Div", self._position, self.constant([place.stride]))
        return str(super().op("Sub", passed, self.constant([place.delay])))

    def _indices(self, x: str, axis: int) -> str:
        """Add the indices (n,) int64 of the frames of a tensor, in the recording."""
        start = super().op("Squeeze", self.first(x), axes=[0])
        count = super().op("Gather", super().op("Shape", x), self.constant(axis), axis=0)
        return str(super().op("Range", start, super().op("Add", start, count), self.constant(1)))

    def _state(self, shape: list[int]) -> str:
        """Add an input that is 0 at first, and then what the piece before left."""
        self.states.append((shape, ""))
        return f"{STATE}{len(self.states) - 1}"

    def _set_state(self, state: str, x: str) -> None:
        number = int(state.removeprefix(STATE))
        self.states[number] = self.states[number][0], x

    def _with_earlier(self, x: str, shape: list[int]) -> str:
        """Add the frames before a piece: (B, C, F, n) -> (B, C, F, shape[3] + n)."""
        state = self._state(shape)
        whole = super().op("Concat", state, x, axis=3)
        self._set_state(state, self._slice(whole, -shape[3], None))
        self._places[whole] = self._places[x]
        return str(whole)

    def _together(
        self, inputs: Sequence[str], places: Sequence[_Place]
    ) -> tuple[tuple[str, ...], list[_Place]]:
        """Delay inputs until all are late by the same."""
        latest = max(places, key=lambda place: place.delay)
        late = []
        for name in inputs:
            place = self._places.get(name, latest)
            if place.stride != latest.stride:
                raise ValueError(f"frames of {place.stride} and of {latest.stride} feature frames")
            if missing := latest.delay - place.delay:
                whole = self._with_earlier(name, [1, place.channels, place.bins, missing])
                name = self._slice(whole, 0, -missing)
            late.append(name)
        return tuple(late), [latest]

    def _slice(self, x: str, start: int, end: int | None) -> str:
        """Add x[..., start:end]."""
        limits = self.constant([start]), self.constant([2**31 - 1 if end is None else end])
        return str(super().op("Slice", x, *limits, self.constant([3])))

    def _lstm(self, inputs: Sequence[str], hidden_size: int) -> str:
        """Add an LSTM that goes on where the piece before ended.

        Before the first frame of the recording the state must stay 0, so a further input shuts the
        input gate there.
        """
        x, weight, recurrent, bias = inputs
        place = self._places[x]
        before = super().op("Less", self._indices(x, 0), self.constant(0))
        before = super().op("Cast", before, to=_FLOAT)
        before = super().op("Reshape", before, self.constant([-1, 1, 1]))
        x = super().op("Concat", x, before, axis=2)
        column = np.zeros((1, 4 * hidden_size, 1))
        column[:, :hidden_size] = _SHUT  # gates i, o, f, c
        weight = super().op("Concat", weight, self.constant(column, np.float32), axis=2)
        states = [self._state([1, 1, hidden_size]) for _ in range(2)]
        given = (x, weight, recurrent, bias, "", *states)
        output, *after = super().op("LSTM", *given, outputs=3, hidden_size=hidden_size)
        for state, following in zip(states, after):
            self._set_state(state, following)
        self._places[output] = place
        return str(output)


def write_streaming(
    recipe: Recipe,
    model: Any,
    weights: dict[str, np.ndarray],
    dimension: int,
    classes: int,
    path: Path,
    precision: str = "float32",
) -> StreamShape:
    """Write a network as an ONNX file that takes features piece by piece.

    Inputs: features (1, F, n) float32, n a multiple of the stride; position (1,) int32, the frames
    that came before; lengths (1,) int32, the frames of the whole recording, or more than will come
    while it is not known; states, 0 at first. Outputs: log_probs (n / stride, 1, C), first (1,)
    int32, the index of the first of these frames in the recording; and the states that follow.

    Args:
        recipe: The model.
        model: Its ModelConfig.
        weights: Parameters of the network, by name.
        dimension: Values F of a feature frame.
        classes: Number of labels C.
        path: File to write.
        precision: Of the weights; see `Graph`.

    Returns:
        How its output lies to its input.

    Raises:
        UserError: The network cannot take a recording piece by piece, or not be written as ONNX.
    """
    from onnx import save

    if recipe.onnx_network is None:
        raise UserError(f"--streaming: there is no ONNX file of {recipe.name}")
    graph = StreamingGraph(precision, "features", dimension, "position")
    lengths = graph.op("Cast", LENGTHS, to=_INT64)
    log_probs, _ = recipe.onnx_network(graph, model, weights, "features", lengths)
    shape = graph.shape_of(log_probs)
    graph.output(log_probs, "log_probs", _FLOAT)
    graph.output(graph.first(log_probs), FIRST, _INT32)
    inputs: dict[str, tuple[int, list]] = {
        "features": (_FLOAT, [1, dimension, "frames"]),
        "position": (_INT32, [1]),
        LENGTHS: (_INT32, [1]),
    }
    outputs: dict[str, tuple[int, list]] = {
        "log_probs": (_FLOAT, ["output_frames", 1, classes]),
        FIRST: (_INT32, [1]),
    }
    for number, (dimensions, following) in enumerate(graph.states):
        inputs[f"{STATE}{number}"] = _FLOAT, dimensions
        graph.output(following, f"{NEXT}{number}", _FLOAT)
        outputs[f"{NEXT}{number}"] = _FLOAT, dimensions
    save(graph.model(recipe.name, inputs, outputs), str(path))
    return shape


def streaming_tensors(dimension: int) -> dict[str, Any]:
    """Describe inputs and outputs of a file of `write_streaming`.

    Args:
        dimension: Values F of a feature frame.

    Returns:
        Entries of its description.
    """
    counted = {"type": "int32", "shape": [1]}
    return {
        "input": STREAM,
        "inputs": [
            {
                "name": "features",
                "type": "float32",
                "shape": [1, dimension, -1],
                "axes": "recording, bin, frame; the next ones",
            },
            {"name": "position", **counted, "axes": "recording; frames that came before"},
            {"name": "lengths", **counted, "axes": "recording; all its frames, or more"},
        ],
        "outputs": [
            {"name": "log_probs", "type": "float32", "axes": "frame, recording, label"},
            {"name": "first", "type": "int32", "axes": "recording; index of the first frame"},
        ],
    }
