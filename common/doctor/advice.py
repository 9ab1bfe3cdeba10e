"""What a run will take, and the one change that would help most: arithmetic on measurements.

Each rule is a function of the measurements that returns an Advice or None; `best_advice` takes the
one with the largest factor. Nothing is measured here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from common.memory import GIB
from common.utils.runtime import DEVICES

MIN_FACTOR = 1.1  # a change that promises less is not worth a sentence
LONG_RUN_SECONDS = 24 * 3600.0  # seconds; a smaller network is proposed for runs from here on
EXTENDED = 0.3  # uncertainty where step times were extended beyond the longest that was timed
MIN_UNCERTAINTY = 0.1  # uncertainty of any timing here: machines drift
# A larger step fills the cores better. Where memory is slow it may take more than in proportion to
# its frames, but hardly more than this factor.
OUT_OF_CACHE = 1.5
SINGLES = 0.5  # steps of less than this share of a median batch give no more than a bound
BUSY = 0.5  # share of the cores that others keep busy, from which on times are those of their work
# A rough guess, for want of a measurement: the MindSpore model zoo's DeepSpeech2 took 2.1 s for 20
# utterances of about 12 s on a V100, where 2 cores of a server train on 10 s of speech a second.
ACCELERATED = 10.0


@dataclass(frozen=True)
class Kernel:
    """A small operator, timed.

    Attributes:
        names: What oneDNN calls the kernels that ran; () on other devices.
        seconds: Of one run.
        gflops: Speed in GFLOP/s.
    """

    names: tuple[str, ...]  # what oneDNN calls the kernels that ran; () on other devices
    seconds: float
    gflops: float  # GFLOP/s


@dataclass(frozen=True)
class Timed:
    """Train steps of one size.

    Attributes:
        rows: Utterances in a step.
        of: Utterances that a batch of the run has, of which these are a part.
        frames: Feature frames that rows are padded to.
        seconds: Of each step.
    """

    rows: int
    of: int
    frames: int
    seconds: tuple[float, ...]

    @property
    def padded(self) -> int:
        """Padded frames of a step."""
        return self.rows * self.frames

    @property
    def median(self) -> float:
        """Median seconds of a step."""
        return float(np.median(self.seconds))


@dataclass(frozen=True)
class Measurements:
    """All that was measured; what was not keeps its default.

    Attributes:
        device: Kind of device that is used.
        devices: Kinds of devices that can be used.
        cores: Cores that this process may use.
        threads: Threads that oneDNN uses; 0: not known.
        load: Cores that others kept busy before anything was measured.
        avx512: Whether the processor has AVX-512.
        instructions: ONEDNN_MAX_CPU_ISA, if that keeps AVX-512 from being used.
        kernels: Small operators, timed.
        unlimited: The same without that setting.
        operators: Of the network: "convolution", "LSTM".
        steps: Train steps, timed.
        planned: Padded frames of each batch of an epoch.
        speech: Seconds of speech in an epoch.
        epochs: Epochs of the run.
        delivered: Seconds of speech that the loader makes in a second; 0: not measured.
        workers: Threads of the loader.
        micro_rows: Utterances at once: as configured, as memory allows.
        micro_seconds: Seconds of the same step with each.
        micro_key: Key of the configuration that makes them as few.
        batch_rows: Utterances in a batch: as configured, and a usual number.
        batch_seconds: Seconds of a step for each of its utterances, with each.
        paddings: Padded frames of an epoch under other settings.
        static_seconds: Seconds of an epoch's steps: with dynamic shapes, with static ones.
        static_compiling: Seconds to compile the graph of a static shape.
        static_graphs: Number of these graphs.
        static_memory: Bytes of all of them.
        smaller: A preset with a smaller network.
        smaller_epoch: Seconds of its epoch.
    """

    device: str = "CPU"
    devices: tuple[str, ...] = ("CPU",)
    cores: int = 1
    threads: int = 0
    load: float = 0.0
    avx512: bool = False
    instructions: str = ""
    kernels: dict[str, Kernel] = field(default_factory=dict)
    unlimited: dict[str, Kernel] = field(default_factory=dict)
    operators: tuple[str, ...] = ()
    steps: tuple[Timed, ...] = ()
    planned: tuple[int, ...] = ()
    speech: float = 0.0
    epochs: int = 1
    delivered: float = 0.0
    workers: int = 1
    micro_rows: tuple[int, int] = (0, 0)
    micro_seconds: tuple[float, float] = (0.0, 0.0)
    micro_key: str = "TrainingConfig.micro_batch"
    batch_rows: tuple[int, int] = (0, 0)
    batch_seconds: tuple[float, float] = (0.0, 0.0)
    paddings: dict[str, int] = field(default_factory=dict)
    static_seconds: tuple[float, float] = (0.0, 0.0)
    static_compiling: float = 0.0
    static_graphs: int = 0
    static_memory: float = 0.0
    smaller: str = ""
    smaller_epoch: float = 0.0


@dataclass(frozen=True)
class EpochTimeEstimate:
    """Estimated time of an epoch, in seconds.

    Attributes:
        seconds: The estimate.
        low: Its lower bound.
        high: Its upper bound.
        computing: Seconds of the train steps.
        loading: Seconds that the loader takes for an epoch by itself.
        extended: Whether batches of the run are larger than what was timed.
        bound: Whether they are so much larger that a run takes this time at most.
    """

    seconds: float
    low: float
    high: float
    computing: float
    loading: float
    extended: bool
    bound: bool = False


@dataclass(frozen=True)
class Advice:
    """A change, and the factor by which a run would be shorter.

    Attributes:
        factor: Factor by which a run would be shorter.
        sentence: What to do.
    """

    factor: float
    sentence: str


# ---- forecast


def step_seconds(steps: Sequence[Timed], padded: np.ndarray) -> np.ndarray:
    """Interpolate the time of a step.

    Linear between the sizes that were timed and on beyond the last; below the first the first line,
    and never less than in proportion. Other work on the machine only adds to a time: a step takes
    no longer than a larger one, and than a smaller one in proportion (OUT_OF_CACHE).

    Args:
        steps: Timed steps, at least one.
        padded: (N,) padded frames.

    Returns:
        (N,) seconds.
    """
    best: dict[int, float] = {step.padded: step.median for step in steps}
    sizes = np.array(sorted(best), float)
    times = np.array([best[int(size)] for size in sizes])
    per_frame = np.minimum.accumulate(times / sizes)
    times = np.minimum(times, OUT_OF_CACHE * per_frame * sizes)
    times = np.minimum.accumulate(times[::-1])[::-1]
    padded = np.asarray(padded, float)
    if len(sizes) == 1:
        return times[0] * padded / sizes[0]
    last = min((times[-1] - times[-2]) / (sizes[-1] - sizes[-2]), times[-1] / sizes[-1])
    first = (times[1] - times[0]) / (sizes[1] - sizes[0])
    seconds = np.interp(padded, sizes, times)
    seconds += np.maximum(padded - sizes[-1], 0) * last
    below = np.maximum(times[0] - (sizes[0] - padded) * first, times[0] * padded / sizes[0])
    return np.where(padded < sizes[0], below, seconds)


def forecast_epoch(figures: Measurements) -> EpochTimeEstimate | None:
    """Estimate the time of an epoch.

    On the CPU the loader's threads take their share of the cores from the train steps; beside a
    card they work at the same time.

    Args:
        figures: The measurements.

    Returns:
        The estimate; None without timed steps or without a plan.
    """
    if not figures.steps or not figures.planned:
        return None
    planned = np.array(figures.planned)
    computing = float(step_seconds(figures.steps, planned).sum())
    loading = figures.speech / figures.delivered if figures.delivered else 0.0
    busy = computing
    if figures.device == "CPU":
        busy += loading * min(1.0, figures.workers / figures.cores)
    seconds = max(busy, loading)
    largest = max(step.padded for step in figures.steps)
    extended = bool(planned.max() > 1.2 * largest)
    best, worst = (
        float(step_seconds(steps, planned).sum()) / computing
        for steps in (
            [replace(step, seconds=(bound(step.seconds),)) for step in figures.steps]
            for bound in (min, max)
        )
    )
    # Reckoned from fewer utterances at once, it is too much rather than too little.
    return EpochTimeEstimate(
        seconds,
        seconds * min(best, 1 - (EXTENDED if extended else MIN_UNCERTAINTY)),
        seconds * max(worst, 1 + MIN_UNCERTAINTY),
        computing,
        loading,
        extended,
        bool(largest < SINGLES * np.median(planned)),
    )


# ---- rules


def another_device(figures: Measurements) -> Advice | None:
    """Advise a device that is present and not used.

    Args:
        figures: The measurements.

    Returns:
        The advice; None where it does not apply.
    """
    better = [device for device in DEVICES if device in figures.devices]
    if not better or DEVICES.index(better[0]) >= DEVICES.index(figures.device):
        return None
    if figures.device != "CPU":
        return None
    return Advice(
        ACCELERATED,
        f"train on the {better[0]} that is there (--device_target {better[0]}): perhaps "
        f"{ACCELERATED:.0f} times as fast, a guess",
    )


def allow_avx512(figures: Measurements) -> Advice | None:
    """Advise to lift a limit of oneDNN's instructions.

    Args:
        figures: The measurements.

    Returns:
        The advice; None where it does not apply.
    """
    if not (figures.instructions and figures.avx512 and figures.unlimited):
        return None
    names = {"LSTM": ("LSTM", "LSTM"), "convolution": ("native", "matmul")}
    # What each operator of the network takes now, and what it would take.
    pairs = [
        (figures.kernels[now], figures.unlimited[then])
        for name, (now, then) in names.items()
        if name in figures.operators and now in figures.kernels and then in figures.unlimited
    ]
    if not pairs:
        return None
    factor = sum(now.seconds for now, _ in pairs) / sum(then.seconds for _, then in pairs)
    return Advice(
        factor,
        f"unset ONEDNN_MAX_CPU_ISA (now {figures.instructions}), since this processor has AVX-512: "
        f"its operators took {factor:.1f} times as long with it, a step takes up to so much longer",
    )


def use_all_cores(figures: Measurements) -> Advice | None:
    """Advise to compute with all cores.

    Args:
        figures: The measurements.

    Returns:
        The advice; None where it does not apply.
    """
    if figures.device != "CPU" or not 0 < figures.threads < figures.cores:
        return None
    factor = figures.cores / figures.threads
    return Advice(
        factor,
        f"let MindSpore use all {figures.cores} cores (it has {figures.threads} threads; see "
        f"OMP_NUM_THREADS): up to {factor:.1f} times as fast",
    )


def end_other_work(figures: Measurements) -> Advice | None:
    """Advise to end other processes that keep the cores busy.

    Args:
        figures: The measurements.

    Returns:
        The advice; None where it does not apply.
    """
    if figures.device != "CPU" or figures.load < BUSY * figures.cores:
        return None
    factor = (figures.cores + figures.load) / figures.cores
    return Advice(
        factor,
        f"end what else runs here, which kept {figures.load:.1f} of the {figures.cores} cores "
        f"busy: up to {factor:.1f} times as fast (and measure again)",
    )


def larger_micro_batches(figures: Measurements) -> Advice | None:
    """Advise to let more utterances through at once.

    Args:
        figures: The measurements.

    Returns:
        The advice; None where it does not apply.
    """
    (now, could), (before, after) = figures.micro_rows, figures.micro_seconds
    if not 0 < now < could or after <= 0:
        return None
    factor = before / after
    return Advice(
        factor,
        f"let {could} utterances through at once, which this machine's memory allows, instead of "
        f"{now} ({figures.micro_key}): a step took {before:.2f} s and then {after:.2f} s, "
        f"{factor:.1f} times as fast",
    )


def larger_batches(figures: Measurements) -> Advice | None:
    """Advise larger batches, above all in place of single utterances.

    Args:
        figures: The measurements.

    Returns:
        The advice; None where it does not apply.
    """
    (now, could), (before, after) = figures.batch_rows, figures.batch_seconds
    if not 0 < now < could or after <= 0:
        return None
    factor = before / after
    return Advice(
        factor,
        f"--set batch_size={could} (now {now}): an utterance of median length took {before:.2f} s "
        f"in steps of {now} and {after:.2f} s in steps of {could}, so an epoch is {factor:.1f} "
        "times as fast; its fewer steps may need a higher learning_rate",
    )


def less_padding(figures: Measurements) -> Advice | None:
    """Advise other batch settings where padding takes much of the time.

    Args:
        figures: The measurements.

    Returns:
        The advice; None where it does not apply.
    """
    if not figures.paddings or not figures.planned:
        return None
    change, frames = min(figures.paddings.items(), key=lambda item: item[1])
    factor = sum(figures.planned) / frames
    return Advice(
        factor,
        f"--set {change} leaves out padding, of which the batches have too much: "
        f"{factor:.2f} times as fast",
    )


def static_shapes(figures: Measurements) -> Advice | None:
    """Advise static shapes where their steps are faster.

    Args:
        figures: The measurements.

    Returns:
        The advice; None where it does not apply.
    """
    now, (dynamic, static) = forecast_epoch(figures), figures.static_seconds
    if now is None or static <= 0:
        return None
    run = now.seconds * figures.epochs
    saved = (dynamic - static) / dynamic * now.computing * figures.epochs
    compiling = figures.static_compiling * figures.static_graphs
    if saved <= compiling:
        return None
    factor = run / (run - saved + compiling)
    return Advice(
        factor,
        f"--set batch_shapes=static: {figures.static_graphs} lengths with a graph each, compiled "
        f"once in {compiling / 60:.1f} minutes, whose steps are {dynamic / static:.1f} times as "
        f"fast, for {figures.static_memory / GIB:.1f} GiB of memory: the run as a whole "
        f"{factor:.1f} times",
    )


def more_workers(figures: Measurements) -> Advice | None:
    """Advise more loader threads where training waits for data.

    Args:
        figures: The measurements.

    Returns:
        The advice; None where it does not apply.
    """
    now = forecast_epoch(figures)
    if now is None or figures.workers >= figures.cores or now.loading <= now.computing:
        return None
    delivered = figures.delivered * figures.cores / figures.workers
    then = forecast_epoch(replace(figures, workers=figures.cores, delivered=delivered))
    if then is None:
        return None
    factor = now.seconds / then.seconds
    return Advice(
        factor,
        f"--set workers={figures.cores} (now {figures.workers}): training waits for the loader, "
        f"which makes {figures.delivered:.0f} s of speech a second; about {factor:.1f} times as "
        "fast",
    )


def smaller_network(figures: Measurements) -> Advice | None:
    """Advise a smaller network where a run would take days.

    Args:
        figures: The measurements.

    Returns:
        The advice; None where it does not apply.
    """
    now = forecast_epoch(figures)
    if now is None or not figures.smaller or figures.smaller_epoch <= 0:
        return None
    if now.seconds * figures.epochs < LONG_RUN_SECONDS:
        return None
    factor = now.seconds / figures.smaller_epoch
    return Advice(
        factor,
        f"a smaller network: the ModelConfig of presets/{figures.smaller}.yaml trains "
        f"{factor:.0f} times as fast here, and errs more",
    )


RULES = (
    another_device,
    allow_avx512,
    use_all_cores,
    end_other_work,
    larger_micro_batches,
    larger_batches,
    less_padding,
    static_shapes,
    more_workers,
    smaller_network,
)


def best_advice(figures: Measurements) -> Advice | None:
    """Choose the change that promises most.

    Args:
        figures: The measurements.

    Returns:
        The advice; None where none promises a factor of MIN_FACTOR. To end other work changes
        nothing of the run itself: what would help then is added.
    """
    promising = [
        advice for rule in RULES if (advice := rule(figures)) and advice.factor >= MIN_FACTOR
    ]
    promising.sort(key=lambda advice: advice.factor, reverse=True)
    if len(promising) > 1 and promising[0] == end_other_work(figures):
        first, second = promising[:2]
        return Advice(first.factor, f"{first.sentence}; and then {second.sentence}")
    return promising[0] if promising else None
