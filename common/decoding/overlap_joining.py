"""Join the log-probabilities of two parts of a recording that overlap."""

from __future__ import annotations

import numpy as np

_AROUND = 10  # frames over which the two parts are compared
# What a place costs that would split a letter in two, or a word; disagreement and the distance from
# the middle cost 0 to 2 and 0 to 0.5.
_IN_A_LETTER, _IN_A_WORD = 4.0, 1.0


def join_place(
    before: np.ndarray, after: np.ndarray, blank: int, space: int | None
) -> tuple[int, bool]:
    """Find where one part of a recording is to end, and the one after it to begin.

    A network is unsure at the ends of what it hears, and the two parts may have the same letter in
    frames a little apart. So the best place is one where both say the blank, near the middle of the
    overlap, around which they agree, and between two words.

    Args:
        before: (S, C) natural logarithms of the overlap, in the part that ends with it.
        after: (S, C) the same frames in the part that begins with them.
        blank: Index of the blank.
        space: Index of the label between words; None: words are not separated.

    Returns:
        The frame, from 0 to S, from which on the second part is to be taken; and whether it is
        between two words.
    """
    frames = len(before)
    if not frames:
        return 0, space is None
    paths = before.argmax(axis=1), after.argmax(axis=1)
    differences = np.abs(np.exp(before) - np.exp(after)).sum(axis=1)
    sums = np.concatenate(([0.0], np.cumsum(differences)))
    places = np.arange(frames + 1)
    first, last = np.maximum(places - _AROUND, 0), np.minimum(places + _AROUND, frames)
    cost = (sums[last] - sums[first]) / (last - first) + np.abs(places / frames - 0.5)
    silent = (paths[0] == blank) & (paths[1] == blank)
    both = np.concatenate(([False], silent[:-1] & silent[1:], [False]))
    cost[~both] += _IN_A_LETTER
    between = _between_words(paths[0], paths[1], blank, space)
    cost[~between] += _IN_A_WORD
    place = int(cost.argmin())
    return place, bool(between[place])


def _between_words(
    before: np.ndarray, after: np.ndarray, blank: int, space: int | None
) -> np.ndarray:
    """Tell for each place whether a space is the last label before it, or the next one behind."""
    places = len(before) + 1
    if space is None:
        return np.ones(places, bool)
    ends = np.zeros(places, bool)
    is_space = False
    for frame, label in enumerate(before.tolist()):
        if label != blank:
            is_space = label == space
        ends[frame + 1] = is_space
    is_space = False
    for frame in range(len(after) - 1, -1, -1):
        if after[frame] != blank:
            is_space = after[frame] == space
        ends[frame] |= is_space
    return ends
