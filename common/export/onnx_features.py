"""Features in ONNX's operators: what `common.audio.features.Featurizer` computes, for a file.

Rows of a batch are padded; every step counts a row's own samples and frames, so that a row gives
the same alone and in a batch. The transform is a convolution with windowed cosines and sines:
ONNX's own STFT came with operator set 17, and few programs besides onnxruntime have it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from common.audio.features import (
    MIN_DEVIATION,
    MIN_RMS,
    SILENCE_DB,
    SILENCE_FRAME,
    SILENCE_HOP,
    Featurizer,
)
from common.export.onnx import Graph

_FLOAT = 1  # number of ONNX's element type


@dataclass(frozen=True)
class Batch:
    """Names of tensors with a row for each utterance.

    Attributes:
        values: (B, N) samples or (B, F, T) features.
        lengths: (B,) int64: samples or frames that count.
    """

    values: str
    lengths: str


@dataclass(frozen=True)
class _Window:
    """Statistics of windows that end at each frame.

    Attributes:
        size: Frames of a window; there are fewer at the start.
        mean: Name of the means (B, bins or 1, T).
        squares: Name of the sums of squares around them.
    """

    size: int
    mean: str
    squares: str


def add_features(graph: Graph, featurizer: Featurizer, samples: Batch) -> Batch:
    """Add the features of samples to an ONNX graph.

    Args:
        graph: The graph.
        featurizer: What the graph is to compute.
        samples: Recordings (B, N), trimmed where the features have that (`add_trim`).

    Returns:
        Features (B, F, T), with zeros beyond each row's own frames.
    """
    return _Frontend(graph, featurizer).features(samples)


def add_trim(graph: Graph, samples: Batch) -> tuple[Batch, str]:
    """Add what `Featurizer.trim` does to each row of a batch.

    Args:
        graph: The graph.
        samples: Recordings (B, N).

    Returns:
        The samples that are left, and the name of the number of samples (B,) int64 cut from the
        start of each row.
    """
    hop, hops = SILENCE_HOP, SILENCE_FRAME // SILENCE_HOP
    cleared = _within(graph, samples)
    total = graph.size_of(samples.values, 1)
    count = graph.op("Add", graph.op("Div", total, _int(graph, hop)), _int(graph, 1))
    # Sums of squares over each hop, from them the mean over each frame of four hops.
    needed = graph.op("Mul", graph.op("Add", count, _int(graph, hops - 1)), _int(graph, hop))
    after = graph.op("Sub", needed, graph.op("Add", total, _int(graph, SILENCE_FRAME // 2)))
    after = graph.op("Unsqueeze", after, axes=[0])
    pads = graph.op("Concat", graph.constant([0, SILENCE_FRAME // 2, 0]), after, axis=0)
    squares = graph.op("Pad", graph.op("Mul", cleared, cleared), pads)
    parts = graph.op("Reshape", squares, graph.constant([0, -1, hop]))
    sums = graph.op("Unsqueeze", graph.op("ReduceSum", parts, axes=[2], keepdims=0), axes=[1])
    power = graph.op("AveragePool", sums, kernel_shape=[hops], strides=[1])
    power = graph.op("Div", graph.op("Squeeze", power, axes=[1]), _float(graph, hop))
    power = graph.op("Max", power, _float(graph, MIN_RMS**2))
    # A row has 1 + N // hop frames; what is fainter than the loudest by SILENCE_DB is silent.
    frames = graph.op("Add", graph.op("Div", samples.lengths, _int(graph, hop)), _int(graph, 1))
    index = graph.op("Range", _int(graph, 0), count, _int(graph, 1))
    counts = graph.op("Cast", graph.op("Less", index, _column(graph, frames)), to=_FLOAT)
    power = graph.op("Mul", power, counts)
    loudest = graph.op("ReduceMax", power, axes=[1], keepdims=1)
    limit = graph.op("Mul", loudest, _float(graph, 10 ** (-SILENCE_DB / 10)))
    loud = graph.op("Greater", power, limit)
    first = graph.op("ArgMax", graph.op("Cast", loud, to=_FLOAT), axis=1, keepdims=0)
    last = graph.op("Where", loud, index, _int(graph, 0))
    last = graph.op("ReduceMax", last, axes=[1], keepdims=0)
    starts = graph.op("Mul", first, _int(graph, hop))
    ends = graph.op("Mul", graph.op("Add", last, _int(graph, 1)), _int(graph, hop))
    shorter = graph.op("Less", ends, samples.lengths)
    lengths = graph.op("Sub", graph.op("Where", shorter, ends, samples.lengths), starts)
    longest = graph.op("ReduceMax", lengths, axes=[0], keepdims=1)
    places = graph.op("Range", _int(graph, 0), _scalar(graph, longest), _int(graph, 1))
    places = graph.op("Add", places, _column(graph, starts))
    final = graph.op("Sub", total, _int(graph, 1))
    places = graph.op("Where", graph.op("Less", places, total), places, final)
    return Batch(graph.op("GatherElements", samples.values, places, axis=1), lengths), starts


class _Frontend:
    """The steps of a featurizer, each for a batch."""

    def __init__(self, graph: Graph, featurizer: Featurizer):
        self.graph, self.featurizer, self.config = graph, featurizer, featurizer.config

    def features(self, samples: Batch) -> Batch:
        """See `add_features`."""
        graph = self.graph
        total = graph.op("Unsqueeze", graph.size_of(samples.values, 1), axes=[0])
        frames = self._frames(samples.lengths)
        energies = self._energies(self._padded(samples, self._normalised(total)))
        if self.config.normalisation == "sliding":
            normalised = self._slide(energies, frames)
        else:
            normalised = self._normalise(energies, self._normalised(samples.lengths))
        if self.featurizer.normalises_further:  # its last frame has done its part
            normalised = _slice(graph, normalised, 2, graph.constant([0]), self._frames(total))
        mask = _mask(graph, frames, normalised)
        return Batch(self._spliced(graph.op("Mul", normalised, mask)), frames)

    def _frames(self, samples: str) -> str:
        """Add `Featurizer.frames`, of int64 numbers of samples."""
        graph, hop = self.graph, _int(self.graph, self.config.hop_length)
        if self.featurizer.nemo:
            whole, one = graph.op("Div", samples, hop), _int(graph, 1)
            return graph.op("Where", graph.op("Less", whole, one), one, whole)
        if self.featurizer.jasper:
            raised = graph.op("Add", samples, _int(graph, self.config.hop_length - 1))
            return graph.op("Div", raised, hop)
        if self.config.convention == "asrt":
            rest = graph.op("Sub", samples, _int(graph, self.config.window_length))
            within = graph.op("Where", graph.op("Less", rest, _int(graph, 0)), _int(graph, 0), rest)
            return graph.op("Add", graph.op("Div", within, hop), _int(graph, 1))
        added = self.config.hop_length - self.config.n_fft % 2
        return graph.op("Div", graph.op("Add", samples, _int(graph, added)), hop)

    def _normalised(self, samples: str) -> str:
        """Add the number of frames that mean and deviation are taken over."""
        if not self.featurizer.normalises_further:
            return self._frames(samples)
        graph = self.graph
        whole = graph.op("Div", samples, _int(graph, self.config.hop_length))
        return graph.op("Add", whole, _int(graph, 1))

    def _padded(self, samples: Batch, frames: str) -> str:
        """Add pre-emphasis and the edges: (B, N) -> (B, what `frames` windows need)."""
        graph, config = self.graph, self.config
        values = samples.values
        if config.preemphasis:
            earlier = _slice(graph, values, 1, graph.constant([0]), graph.constant([-1]))
            earlier = graph.op("Pad", earlier, graph.constant([0, 1, 0, 0]))
            share = graph.op("Mul", earlier, _float(graph, np.float32(config.preemphasis)))
            values = graph.op("Sub", values, share)
        left = self.featurizer.before
        steps = graph.op("Sub", frames, graph.constant([1]))
        needed = graph.op("Mul", steps, graph.constant([config.hop_length]))
        needed = graph.op("Add", needed, graph.constant([config.window_length]))
        if self.featurizer.zero_padded:
            values = _within(graph, Batch(values, samples.lengths))
            pads = graph.constant([0, left, 0, config.window_length])
            padded = graph.op("Pad", values, pads)
            return _slice(graph, padded, 1, graph.constant([0]), needed)
        # Mirrored at each row's own ends, and again where a row is shorter than what is added.
        stop = graph.op("Sub", _scalar(graph, needed), _int(graph, left))
        places = graph.op("Range", _int(graph, -left), stop, _int(graph, 1))
        period = graph.op("Sub", graph.op("Add", samples.lengths, samples.lengths), _int(graph, 2))
        one = _int(graph, 1)
        period = graph.op("Where", graph.op("Less", period, one), one, period)
        period = _column(graph, period)
        there = graph.op("Mod", places, period)
        back = graph.op("Sub", period, there)
        places = graph.op("Where", graph.op("Less", there, back), there, back)
        return graph.op("GatherElements", values, places, axis=1)

    def _energies(self, padded: str) -> str:
        """Add log energies, not normalised: samples (B, N) -> (B, bins, T)."""
        graph, config = self.graph, self.config
        mel, length = self.featurizer.filters is not None, config.window_length
        bins = config.n_fft // 2 + 1 if mel else config.bins
        spectrum = graph.op(
            "Conv",
            graph.op("Unsqueeze", padded, axes=[1]),
            graph.op("Unsqueeze", self._waves(bins), axes=[1]),
            kernel_shape=[length],
            strides=[config.hop_length],
        )
        real, imaginary = graph.op("Split", spectrum, outputs=2, axis=1, split=[bins, bins])
        power = graph.op("Add", graph.op("Mul", real, real), graph.op("Mul", imaginary, imaginary))
        if not mel:
            return graph.op("Log", graph.op("Add", graph.op("Sqrt", power), _float(graph, 1.0)))
        # log(p + floor) = log(1 + p / floor) + log(floor), and normalisation takes the last term
        # away: in float32 it would leave few digits of bands where there is next to nothing.
        filters = self.featurizer.filters.toarray() / np.float64(self.featurizer.floor)
        bands = graph.op("MatMul", graph.constant(filters, np.float32), power)
        return graph.op("Log", graph.op("Add", bands, _float(graph, 1.0)))

    def _waves(self, bins: int) -> str:
        """Add the cosines, and below them the sines, times the window: (2 * bins, window_length).

        Computed from a single period by what loads the file, once: as a matrix they would be 1 MB.
        """
        graph, config = self.graph, self.config
        counts = [
            graph.op("Range", _int(graph, 0), _int(graph, count), _int(graph, 1))
            for count in (bins, config.window_length)
        ]
        places = graph.op("Mul", graph.op("Unsqueeze", counts[0], axes=[1]), counts[1])
        places = graph.op("Mod", places, _int(graph, config.n_fft))
        angles = 2 * np.pi * np.arange(config.n_fft) / config.n_fft
        periods = [graph.constant(wave, np.float32) for wave in (np.cos(angles), np.sin(angles))]
        waves = [graph.op("Gather", period, places, axis=0) for period in periods]
        window = graph.constant(self.featurizer.window, np.float32)
        return graph.op("Mul", graph.op("Concat", *waves, axis=0), window)

    def _normalise(self, energies: str, frames: str) -> str:
        """Add mean 0 and deviation 1, over each row's frames: (B, bins, T) -> the same."""
        if not self.featurizer.normalised:
            return energies
        graph = self.graph
        mask = _mask(graph, frames, energies)
        one = _int(graph, 1)
        counts = graph.op("Where", graph.op("Less", frames, one), one, frames)
        axes = [2]
        if self.featurizer.filters is None:  # over all bins together
            axes = [1, 2]
            counts = graph.op("Mul", counts, _int(graph, self.config.bins))
        counts, divisors = (
            graph.op("Reshape", graph.op("Cast", each, to=_FLOAT), graph.constant([-1, 1, 1]))
            for each in (counts, self._divisors(counts))
        )
        centred = energies
        for _ in range(2):  # the second time takes what rounding left of the mean
            sums = _sum(graph, graph.op("Mul", centred, mask), axes)
            centred = graph.op("Sub", centred, graph.op("Div", sums, counts))
        centred = graph.op("Mul", centred, mask)
        squares = _sum(graph, graph.op("Mul", centred, centred), axes)
        return self._divided(centred, graph.op("Div", squares, divisors))

    def _divisors(self, counts: str) -> str:
        """Add what sums of squares of so many values are divided by, int64."""
        graph, one = self.graph, _int(self.graph, 1)
        if self.featurizer.biased:
            return counts
        fewer = graph.op("Sub", counts, one)
        return graph.op("Where", graph.op("Less", fewer, one), one, fewer)

    def _divided(self, centred: str, variance: str) -> str:
        graph, least = self.graph, _float(self.graph, MIN_DEVIATION)
        deviation = graph.op("Sqrt", variance)
        added = self.featurizer.adds_deviation
        return graph.op("Div", centred, graph.op("Add" if added else "Max", deviation, least))

    def _slide(self, energies: str, frames: str) -> str:
        """Add mean 0 and deviation 1 over the last seconds: `Featurizer.sliding`."""
        graph = self.graph
        window, first = self.featurizer.sliding_frames
        index = graph.op("Range", _int(graph, 0), graph.size_of(energies, 2), _int(graph, 1))
        seen = graph.op("Add", index, _int(graph, 1))
        mean, squares = self._windows(energies, seen, window)
        counts = _less(graph, seen, window)
        if self.featurizer.deviation.over_bins:
            counts = graph.op("Mul", counts, _int(graph, self.config.bins))
        divisors = graph.op("Cast", self._divisors(counts), to=_FLOAT)
        variance = graph.op("Div", squares, divisors)
        # The first frames are normalised together, at the last of them.
        last = _column(graph, graph.op("Sub", _less(graph, frames, first), _int(graph, 1)))
        places = graph.op("Where", graph.op("Less", index, last), last, index)
        places = graph.op("Unsqueeze", places, axes=[1])
        places = graph.op("Expand", places, graph.op("Shape", mean))
        mean, variance = (
            graph.op("GatherElements", each, places, axis=2) for each in (mean, variance)
        )
        return self._divided(graph.op("Sub", energies, mean), variance)

    def _windows(self, energies: str, seen: str, window: int) -> tuple[str, str]:
        """Add means, and sums of squares around them, of windows that end at each frame.

        Windows of 1, 2, 4, ... frames are merged (Chan, Golub and LeVeque 1979, "Updating formulae
        and a pairwise algorithm for computing sample variances"), which adds up what is positive
        alone: the difference of large sums would leave few digits in float32.

        Args:
            energies: (B, bins, T).
            seen: (T,) int64: 1, 2, ..., T.
            window: Frames of the windows; there are fewer at the start.

        Returns:
            Means and sums of squares (B, bins, T); where all bins go together (B, 1, T).
        """
        graph, over_bins = self.graph, self.featurizer.deviation.over_bins
        values = _float(graph, self.config.bins if over_bins else 1)  # of a frame, in each window
        mean, squares = energies, graph.op("Sub", energies, energies)
        if over_bins:
            mean = graph.op("ReduceMean", energies, axes=[1], keepdims=1)
            centred = graph.op("Sub", energies, mean)
            squares = _sum(graph, graph.op("Mul", centred, centred), [1])
        frames = graph.op("Unsqueeze", graph.size_of(energies, 2), axes=[0])

        def merged(later: _Window, earlier: _Window) -> _Window:
            size = later.size
            pads = graph.constant([0, 0, size, 0, 0, 0])
            before = [
                _slice(graph, graph.op("Pad", each, pads), 2, graph.constant([0]), frames)
                for each in (earlier.mean, earlier.squares)
            ]
            counts = _less(graph, seen, size), _less(graph, seen, size + earlier.size)
            count, both = (graph.op("Cast", each, to=_FLOAT) for each in counts)
            share = graph.op("Div", graph.op("Sub", both, count), both)
            apart = graph.op("Sub", before[0], later.mean)
            between = graph.op("Mul", graph.op("Mul", count, share), values)
            between = graph.op("Mul", graph.op("Mul", apart, apart), between)
            return _Window(
                size + earlier.size,
                graph.op("Add", later.mean, graph.op("Mul", apart, share)),
                graph.op("Add", graph.op("Add", later.squares, before[1]), between),
            )

        power, result = _Window(1, mean, squares), None
        while True:
            if window & power.size:
                result = merged(result, power) if result else power
            if 2 * power.size > window:
                break
            power = merged(power, power)
        assert result is not None
        return result.mean, result.squares

    def _spliced(self, features: str) -> str:
        """Add `Featurizer.splice` of features that are 0 beyond each row's frames."""
        graph, count = self.graph, self.config.frame_splicing
        if count == 1:
            return features
        frames = graph.op("Unsqueeze", graph.size_of(features, 2), axes=[0])
        padded = graph.op("Pad", features, graph.constant([0, 0, 0, 0, 0, count - 1]))
        parts = [features]
        for ahead in range(1, count):
            start = graph.constant([ahead])
            parts.append(_slice(graph, padded, 2, start, graph.op("Add", frames, start)))
        return graph.op("Concat", *parts, axis=1)


def _int(graph: Graph, value: int) -> str:
    return graph.constant(value)


def _float(graph: Graph, value: float) -> str:
    return graph.constant(value, np.float32)


def _column(graph: Graph, values: str) -> str:
    """Add (B,) -> (B, 1)."""
    return graph.op("Unsqueeze", values, axes=[1])


def _scalar(graph: Graph, values: str) -> str:
    """Add (1,) -> ()."""
    return graph.op("Squeeze", values, axes=[0])


def _slice(graph: Graph, x: str, axis: int, start: str, end: str) -> str:
    """Add x[start:end] along an axis; start and end are (1,) int64."""
    return graph.op("Slice", x, start, end, graph.constant([axis]))


def _less(graph: Graph, values: str, most: int) -> str:
    """Add the smaller of int64 values and a number."""
    limit = _int(graph, most)
    return graph.op("Where", graph.op("Less", values, limit), values, limit)


def _sum(graph: Graph, x: str, axes: list[int]) -> str:
    """Add a sum over axes, one after the other: rounding errors of few values add up."""
    for axis in axes:
        x = graph.op("ReduceSum", x, axes=[axis], keepdims=1)
    return x


def _mask(graph: Graph, lengths: str, x: str) -> str:
    """Add a mask (B, 1, T) of the frames of x (B, bins, T) that count: 1, and 0 for padding."""
    index = graph.op("Range", _int(graph, 0), graph.size_of(x, 2), _int(graph, 1))
    ends = graph.op("Unsqueeze", lengths, axes=[1, 2])
    return graph.op("Cast", graph.op("Less", index, ends), to=_FLOAT)


def _within(graph: Graph, samples: Batch) -> str:
    """Add the samples with 0 in the place of what does not count."""
    index = graph.op("Range", _int(graph, 0), graph.size_of(samples.values, 1), _int(graph, 1))
    counts = graph.op("Less", index, _column(graph, samples.lengths))
    return graph.op("Where", counts, samples.values, _float(graph, 0.0))
