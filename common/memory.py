"""How much memory a train step, or a forward pass, takes, kept below what there is."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from common.data.batch_sampler import Shape
from common.model.recipe import PROCESS
from common.utils import runtime
from common.utils.errors import UserError

if TYPE_CHECKING:  # it loads mindspore, which a forecast can do without
    from common.model.acoustic_model import AcousticModel
    from common.model.speech_model import SpeechModel

GIB = 1 << 30
GRAPH = 0.15 * GIB  # a graph that was compiled, besides the first
# A moving average of the weights, and the weights kept aside while the average is evaluated.
AVERAGE_COPIES = 2
SHARE = 0.8  # of a memory; the rest is the system's, or the device's own
ASSUMED_CARD = 32 * GIB  # where a card does not tell: a 910A's, and the smallest 910B's


def device_memory(device: str) -> float:
    """Return the memory that a process may use on a device, in bytes.

    Args:
        device: "CPU": the machine's, or its control group's; "Ascend", "GPU": the card's.
    """
    if device == "CPU":
        return runtime.machine_memory()
    return runtime.card_memory(device) or ASSUMED_CARD


@dataclass(frozen=True)
class MemoryEstimate:
    """Peak memory of training, linear in the frames of a micro-batch.

    Attributes:
        parameters: Number of the network's parameters.
        per_frame: Bytes of activations per feature frame of an utterance.
        limit: Bytes that training may take.
        micro_batch: Utterances at once that a user wants; 0: as many as fit.
        copies: Copies of the parameters that training keeps.
        graph: Bytes of a large network's graph.
        together: Frames of all static shapes, where each keeps its activations; else 0.
        graphs: Number of graphs.
        source: What the limit is a share of, for people; "": the machine's memory.
    """

    parameters: int
    per_frame: float  # bytes of activations per feature frame of an utterance
    limit: float  # bytes that training may take
    micro_batch: int = 0  # utterances at once that a user wants; 0: as many as fit
    copies: float = 13.5  # of the parameters
    graph: float = 0.0  # bytes of a large network's graph
    together: int = 0  # frames of all static shapes, where each keeps its activations; else 0
    graphs: int = 1
    source: str = ""  # of the limit, for people; "": the machine's memory

    @property
    def fixed(self) -> float:
        """Bytes that training takes without a frame."""
        weights = 4 * self.copies * self.parameters
        return PROCESS + self.graph + GRAPH * (self.graphs - 1) + weights

    def peak(self, rows: int, frames: int) -> float:
        """Estimate the peak memory of a micro-batch.

        Args:
            rows: Number of utterances.
            frames: Frames that each is padded to.

        Returns:
            Bytes.
        """
        return self.fixed + self.per_frame * rows * (self.together or frames)

    def rows(self, frames: int) -> int:
        """Compute how many utterances go through at once.

        Args:
            frames: Frames that each is padded to.

        Returns:
            At least 1; where the user has no wish, as many as stay under the limit.
        """
        if self.micro_batch > 0:
            return self.micro_batch
        if self.per_frame == 0:  # no forecast
            return sys.maxsize
        frames = self.together or frames
        return max(1, int((self.limit - self.fixed) / (self.per_frame * frames)))

    def line(self, batch_size: int, longest: int) -> str:
        """Summarise the estimate for the log.

        Args:
            batch_size: Utterances of a batch.
            longest: Frames of the longest utterance.

        Returns:
            One line.
        """
        if math.isinf(self.limit):
            return "memory: no forecast for this model"
        rows = min(batch_size, self.rows(longest))
        peak = self.peak(rows, longest)
        text = (
            f"memory: about {peak / GIB:.1f} GiB at the peak, of {self.limit / GIB:.1f} GiB allowed"
        )
        if self.source:
            text += f" ({self.source})"
        if peak > self.limit:
            text += f": more than that, since TrainingConfig.micro_batch={self.micro_batch}"
        if rows < batch_size:
            which = "batches" if self.together else "the longest batches"
            text += f"; {which} go through in micro-batches of {rows}"
        return text

    def check(self, longest: int) -> None:
        """Refuse a run whose longest utterance needs too much memory by itself.

        Args:
            longest: Frames of the longest utterance.

        Raises:
            UserError: It needs more than the limit.
        """
        if self.peak(1, longest) <= self.limit:
            return
        if self.together:
            raise UserError(
                f"{self.graphs} graphs of static shapes need about "
                f"{self.peak(1, longest) / GIB:.1f} GiB for one utterance at a time, and "
                f"{self.limit / GIB:.1f} GiB are allowed: take DataConfig.batch_shapes=dynamic, "
                "lower DataConfig.static_shapes, or raise TrainingConfig.memory_gib"
            )
        fitting = int((self.limit - self.fixed) / self.per_frame)
        enough = f" ({fitting} frames would fit)" if fitting > 0 else ""
        raise UserError(
            f"one utterance of {longest} frames needs about {self.peak(1, longest) / GIB:.1f} "
            f"GiB to train on, and {self.limit / GIB:.1f} GiB are allowed: lower "
            f"DataConfig.max_duration{enough}, set TrainingConfig.ema=0 if you have a moving "
            "average, take a smaller network, or raise TrainingConfig.memory_gib"
        )


def forecast_memory(
    speech_model: SpeechModel, processes: int = 1, shapes: Sequence[Shape] | None = None
) -> MemoryEstimate:
    """Estimate the memory of training a network, and what it may take.

    That is TrainingConfig.memory_gib, or 80 % of the card's memory; on a CPU this process's share
    of the machine's.

    Args:
        speech_model: The network and its configuration.
        processes: Number of processes that train on this machine.
        shapes: Static shapes; on the CPU each has a graph of its own, which gives nothing back.
            None where shapes are dynamic.

    Returns:
        The estimate.
    """
    config = speech_model.config
    device, limit, source = speech_model.device, config.TrainingConfig.memory_gib * GIB, ""
    if not limit and device == "CPU":
        limit = SHARE * runtime.machine_memory() / processes
    elif not limit:
        told = runtime.card_memory(device)
        whose = "of the card's" if told else "of the card, which tells no number and is taken for"
        limit = SHARE * (told or ASSUMED_CARD)
        source = f"{100 * SHARE:.0f} % {whose} {(told or ASSUMED_CARD) / GIB:.1f} GiB"
    dimension = speech_model.featurizer.dimension
    micro_batch = config.TrainingConfig.micro_batch
    model = speech_model.recipe.memory
    if model is None:
        return MemoryEstimate(speech_model.parameters(), 0.0, math.inf, micro_batch)
    per_frame = model.activation_bytes(config.ModelConfig, dimension)
    copies = model.weight_copies + (AVERAGE_COPIES if config.TrainingConfig.ema else 0)
    frames = [frames for frames, _ in shapes or () if speech_model.device == "CPU"]
    graphs = max(1, len(frames))
    return MemoryEstimate(
        speech_model.parameters(),
        per_frame,
        limit,
        micro_batch,
        copies,
        model.graph_bytes(config.ModelConfig),
        sum(frames),
        graphs,
        source,
    )


@dataclass(frozen=True)
class ForwardMemoryEstimate:
    """Peak memory of recognition, linear in the padded frames of a batch.

    Attributes:
        fixed: Bytes that it takes without a frame.
        per_frame: Bytes per frame.
        limit: Bytes that it may take.
        frame_seconds: Seconds from one feature frame to the next.
        max_frames: Feature frames of the longest utterance that the network takes.
        whose: Memory the limit is a share of, in the message.
    """

    fixed: float  # what it takes with no frame in it
    per_frame: float
    limit: float  # what it may take
    frame_seconds: float  # from one feature frame to the next
    max_frames: float = math.inf
    whose: str = "this machine's"

    @property
    def most_frames(self) -> int:
        """Padded frames that all utterances of a batch may have together."""
        if self.per_frame == 0:  # no forecast
            return sys.maxsize
        return max(0, int((self.limit - self.fixed) / self.per_frame))

    def peak(self, frames: int) -> float:
        """Estimate the bytes that a batch of so many padded frames takes."""
        return self.fixed + self.per_frame * frames

    def check(self, what: str, frames: int) -> None:
        """Refuse an utterance that is too long by itself.

        Args:
            what: What the message calls it.
            frames: Its feature frames.

        Raises:
            UserError: It needs more than the limit, or is longer than the network takes.
        """
        if frames > self.max_frames:
            raise UserError(
                f"{what}: {frames} feature frames, and the exported file takes at most "
                f"{self.max_frames}: cut the recording into pieces, or export the model with more "
                "--frames"
            )
        if frames > self.most_frames:
            raise UserError(
                f"{what}: {frames * self.frame_seconds:.0f} s take about "
                f"{self.peak(frames) / GIB:.1f} GiB to recognise, and {self.limit / GIB:.1f} GiB "
                f"are allowed (80 % of {self.whose} memory, or less while training): cut it into "
                "pieces of at most "
                f"{self.most_frames * self.frame_seconds:.0f} s"
            )


def forecast_forward(model: AcousticModel) -> ForwardMemoryEstimate:
    """Estimate the memory of recognising with a network.

    Args:
        model: The network and its configuration.

    Returns:
        The estimate.
    """
    features, forecast = model.featurizer.config, model.forward_memory()
    frame_seconds = features.hop_length / features.sample_rate
    fixed, per_frame, limit, whose = PROCESS, 0.0, math.inf, "this machine's"
    if forecast is not None:
        device = model.runs_on if model.runs_on in ("Ascend", "GPU") else "CPU"
        whose = whose if device == "CPU" else "the card's"
        (fixed, per_frame), limit = forecast, SHARE * device_memory(device)
    return ForwardMemoryEstimate(fixed, per_frame, limit, frame_seconds, model.max_frames, whose)
