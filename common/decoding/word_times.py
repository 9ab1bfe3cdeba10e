"""From the frames in which a CTC network emits the labels of words to when they were said.

A network emits a label once, somewhere in its sound, and mostly nothing before and after (Graves et
al. 2006, figure 1). So the first and the last label of a word lie inside it, and it lasts longer
than from one to the other: up to the pause that follows, or where there is none to the next word.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np

_EARLY = 0.12  # seconds by which a network may emit the first label before its sound
_TAIL = 0.1  # seconds that the last word goes on where no pause follows


def word_times(
    emissions: Sequence[tuple[float, float]],
    last_labels: Sequence[float],
    pauses: np.ndarray | None,
    duration: float,
    apart: Collection[int] = (),
) -> list[tuple[float, float]]:
    """Find when words were said.

    Args:
        emissions: (W, 2) when the emission of each word begins and ends, in seconds.
        last_labels: (W,) when the emission of the last label of each begins.
        pauses: (P, 2) begin and end of each pause of the recording; None: unknown, and the times
            are those of the emissions.
        duration: Of the recording, in seconds.
        apart: Numbers of the words before which something is said that is none of the words; W for
            after the last one.

    Returns:
        Start and end of each word, in seconds. Where there is a pause between two words, the first
        ends with it and the second begins behind it; else both meet where the second is emitted.
    """
    times = [[start, min(end, duration)] for start, end in emissions]
    if pauses is None:
        return [(start, end) for start, end in times]
    for number in range(len(times) + 1):
        before, after = number - 1, number
        low = last_labels[before] if number else 0.0
        high = emissions[after][0] if after < len(times) else duration
        # A pause of which only the begin lies before the emission: it came early.
        reach = high
        if after < len(times):
            reach = min(high + _EARLY, emissions[after][1])
        first = int(np.searchsorted(pauses[:, 1], low, side="right"))
        last = int(np.searchsorted(pauses[:, 0], reach, side="left"))
        if after in apart:
            begin = min(emissions[before][1] + _TAIL, high) if number else 0.0
            if first < last:
                begin = min(begin, max(float(pauses[first, 0]), low))
            end = high
        elif first < last:
            begin, end = max(float(pauses[first, 0]), low), float(pauses[last - 1, 1])
            if end > high + 2 * _EARLY:  # emitted in the middle of a pause
                end = high
        elif after < len(times):
            begin = end = high
        else:
            begin = end = min(emissions[before][1] + _TAIL, duration)
        if number:
            times[before][1] = max(begin, times[before][0])
        if after < len(times):
            times[after][0] = end
    return [(start, max(start, end)) for start, end in times]
