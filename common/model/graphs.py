"""Graphs that an export writes: what a recipe's `exports` lists."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from common.model.speech_model import Inference, SpeechModel
from common.utils.backend import nn


@dataclass(frozen=True)
class Port:
    """An input or output of a graph.

    Attributes:
        name: In the description.
        type: Such as "float32" or "int32".
        axes: What its axes are, in words.
        shape: Of an input: sizes, -1 where any size goes.
    """

    name: str
    type: str
    axes: str
    shape: tuple[int, ...] = ()


@dataclass(frozen=True)
class ExportGraph:
    """One graph of an export.

    Attributes:
        name: Added to the file's name; empty for the only graph of a CTC network.
        cell: The graph.
        inputs: In the order of the cell's arguments.
        outputs: In the order in which it returns them.
    """

    name: str
    cell: nn.Cell
    inputs: Sequence[Port]
    outputs: Sequence[Port]


def ctc_graph(speech_model: SpeechModel) -> ExportGraph:
    """The contract of CTC networks as a graph."""
    dimension = speech_model.featurizer.dimension
    return ExportGraph(
        "",
        Inference(speech_model.network),
        (
            Port(
                "features", "float32", "utterance, bin, frame; padded with 0", (-1, dimension, -1)
            ),
            Port("lengths", "int32", "utterance; frames that count", (-1,)),
        ),
        (
            Port("log_probs", "float32", "frame, utterance, label"),
            Port("lengths", "int32", "utterance; frames that count"),
        ),
    )
