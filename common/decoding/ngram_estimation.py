"""Estimates word n-gram language models from text: interpolated modified Kneser-Ney, pruned.

Chen & Goodman 1998, "An Empirical Study of Smoothing Techniques for Language Modeling"; in the form
of Heafield et al. 2013, "Scalable Modified Kneser-Ney Language Model Estimation", section 3, whose
program lmplz gives the same numbers. All counts are numpy arrays: a text must fit in memory, about
200 bytes a word for trigrams.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

from common.utils.errors import UserError

MOST_WORDS = 2**31 - 1  # different ones, so that a context and a word fit in 64 bits
UNKNOWN, START, END = "<unk>", "<s>", "</s>"
_UNKNOWN, _START, _END = range(3)  # their numbers


@dataclass
class Grams:
    """The n-grams of one order, sorted by their context and then their last word.

    Attributes:
        contexts: (N,) numbers of the n-grams without their last words, in the order below.
        words: (N,) numbers of the last words.
        suffixes: (N,) numbers of the n-grams without their first words, in the order below.
        probabilities: (N,) of the last word after the context.
        backoffs: (N,) what the probability after a shorter context is multiplied by where this
            n-gram is a context; 1 in the highest order.
        occurrences: (N,) how often they stand in the text.
    """

    contexts: np.ndarray
    words: np.ndarray
    suffixes: np.ndarray
    probabilities: np.ndarray
    backoffs: np.ndarray
    occurrences: np.ndarray

    def __len__(self) -> int:
        return len(self.words)


@dataclass
class NgramModel:
    """A language model.

    Attributes:
        vocabulary: Its words; the first three are <unk>, <s> and </s>.
        orders: The n-grams of order 1, 2, ...; number n of order 1 is word n.
        notes: What the user should know of the estimate, a line each.
    """

    vocabulary: list[str]
    orders: list[Grams]
    notes: list[str] = field(default_factory=list)

    @property
    def counts(self) -> list[int]:
        """Number of n-grams of each order."""
        return [len(grams) for grams in self.orders]


def estimate(sentences: Iterable[Sequence[str]], order: int, least: int = 1) -> NgramModel:
    """Estimate a model with interpolated modified Kneser-Ney smoothing.

    Args:
        sentences: The words of each sentence; <unk> stands for any unknown word.
        order: Length of the longest n-grams, 1 or more.
        least: Words that occur less often count as unknown.

    Returns:
        The model; it has every n-gram of the text.

    Raises:
        UserError: There are no words, or one of them is <s> or </s>.
    """
    vocabulary, tokens, places = _numbered(sentences, least)
    orders: list[Grams] = []
    notes: list[str] = []
    ids = tokens  # of the n-gram that ends at each token
    counts: list[np.ndarray] = []  # of each order, as Kneser-Ney counts
    size = len(vocabulary)
    for length in range(1, order + 1):
        if length == 1:
            grams = _unigrams(tokens, size)
        else:
            grams, ids = _longer(ids, tokens, places >= length - 1, size)
        if not len(grams):
            notes.append(f"no sentence has {length} words: the order is {length - 1}")
            break
        orders.append(grams)
        counts.append(grams.occurrences.copy())
    for lower, higher, adjusted in zip(orders, orders[1:], counts):
        before = np.bincount(higher.suffixes, minlength=len(lower))  # different words before it
        starts = _starts_sentence(orders, lower)
        adjusted[~starts] = before[~starts]
    for length, (grams, adjusted) in enumerate(zip(orders, counts), 1):
        discounts, guessed = _discounts(adjusted[_counted(grams, length)])
        if guessed:
            notes.append(
                f"too few different {length}-grams to estimate their discounts: 0.5, 1 and 1.5 "
                "are taken"
            )
        _smooth(orders, length, adjusted, discounts)
    return NgramModel(vocabulary, orders, notes)


def _numbered(
    sentences: Iterable[Sequence[str]], least: int
) -> tuple[list[str], np.ndarray, np.ndarray]:
    """Number the words.

    Returns:
        The vocabulary; the numbers of all tokens (N,), with marks around each sentence; the place
        of each token in its sentence (N,), 0 for <s>.
    """
    known = {UNKNOWN: _UNKNOWN, START: _START, END: _END}
    marks = {START, END}
    numbers: list[np.ndarray] = []
    for words in sentences:
        if marks & set(words):
            found = ", ".join(sorted(marks & set(words)))
            raise UserError(f"the text has {found}, which are marks of language models, no words")
        row = [_START, *(known.setdefault(word, len(known)) for word in words), _END]
        if len(words):
            numbers.append(np.array(row, np.int64))
    if not numbers:
        raise UserError("the text has no words")
    tokens = np.concatenate(numbers)
    lengths = np.array([len(row) for row in numbers])
    ends = np.cumsum(lengths)
    places = np.arange(len(tokens)) - np.repeat(ends - lengths, lengths)
    vocabulary = list(known)
    if least > 1:
        rare = np.bincount(tokens, minlength=len(vocabulary)) < least
        rare[[_UNKNOWN, _START, _END]] = False
        renumbered = np.where(rare, _UNKNOWN, np.cumsum(~rare) - 1)
        tokens = renumbered[tokens]
        vocabulary = [word for word, gone in zip(vocabulary, rare) if not gone]
    return vocabulary, tokens, places


def _unigrams(tokens: np.ndarray, size: int) -> Grams:
    none = np.zeros(size, np.int64)
    return Grams(
        none,
        np.arange(size),
        none,
        np.zeros(size),
        np.ones(size),
        np.bincount(tokens, minlength=size),
    )


def _longer(
    ids: np.ndarray, tokens: np.ndarray, inside: np.ndarray, size: int
) -> tuple[Grams, np.ndarray]:
    """Count the n-grams that are longer by a word.

    Args:
        ids: (N,) number of the shorter n-gram that ends at each token.
        tokens: (N,).
        inside: (N,) whether the longer n-gram that ends at a token lies in its sentence.
        size: Of the vocabulary.

    Returns:
        The n-grams, and the number of the one that ends at each token (N,), -1: none.
    """
    at = np.flatnonzero(inside)
    keys = ids[at - 1] * size + tokens[at]
    keys, first, inverse, occurrences = np.unique(
        keys, return_index=True, return_inverse=True, return_counts=True
    )
    count = len(keys)
    grams = Grams(
        keys // size,
        keys % size,
        ids[at[first]],
        np.zeros(count),
        np.ones(count),
        occurrences,
    )
    longer = np.full(len(tokens), -1)
    longer[at] = inverse
    return grams, longer


def _starts_sentence(orders: Sequence[Grams], grams: Grams) -> np.ndarray:
    """Return whether the first word of each n-gram is <s> (N,)."""
    length = next(n for n, each in enumerate(orders) if each is grams)
    starts = orders[0].words == _START
    for each in orders[1 : length + 1]:
        starts = starts[each.contexts]
    return starts


def _counted(grams: Grams, length: int) -> np.ndarray:
    """Return which n-grams count for discounts: all but <s> alone, which is no event."""
    return grams.words != _START if length == 1 else np.ones(len(grams), bool)


def _discounts(counts: np.ndarray) -> tuple[np.ndarray, bool]:
    """Estimate what is taken from a count of 0, 1, 2, and 3 or more (Chen & Goodman, eq. 26).

    Args:
        counts: (N,) counts of the n-grams of an order.

    Returns:
        The four discounts, and whether they were guessed, for want of n-grams.
    """
    of_count = np.bincount(np.minimum(counts, 5), minlength=5)[:5].astype(float)
    if not of_count[1:].all():
        return np.array([0, 0.5, 1.0, 1.5]), True
    ratio = of_count[1] / (of_count[1] + 2 * of_count[2])
    found = [n - (n + 1) * ratio * of_count[n + 1] / of_count[n] for n in (1, 2, 3)]
    if not all(0 <= discount <= n for n, discount in enumerate(found, 1)):
        return np.array([0, 0.5, 1.0, 1.5]), True
    return np.array([0, *found]), False


def _smooth(
    orders: Sequence[Grams], length: int, counts: np.ndarray, discounts: np.ndarray
) -> None:
    """Set the probabilities of an order, and the back-off weights of the order below."""
    grams = orders[length - 1]
    counted = _counted(grams, length)
    taken = np.where(counted, discounts[np.minimum(counts, 3)], 0)
    kept = np.where(counted, counts - taken, 0)
    contexts = len(orders[length - 2]) if length > 1 else 1
    totals = np.bincount(grams.contexts, np.where(counted, counts, 0), contexts)
    freed = np.bincount(grams.contexts, taken, contexts)
    seen = totals > 0
    backoffs = np.where(seen, freed / np.where(seen, totals, 1), 1.0)
    if length == 1:  # the rest is shared evenly by all words, also those that were never seen
        lower = np.where(counted, 1 / (len(grams) - 1), 0)
    else:
        orders[length - 2].backoffs = backoffs
        lower = orders[length - 2].probabilities[grams.suffixes]
    totals = np.where(seen, totals, 1)[grams.contexts]
    grams.probabilities = kept / totals + backoffs[grams.contexts] * lower


# ---- pruning


def prune(model: NgramModel, keep: float) -> NgramModel:
    """Leave out the n-grams whose loss changes the model least, by relative entropy.

    Stolcke 1998, "Entropy-based Pruning of Backoff Language Models"; the probability of a context
    is its share of the text, as Chelba et al. 2010 ("Study on Interaction between Entropy Pruning
    and Kneser-Ney Smoothing") advise, since a lower order of Kneser-Ney does not give it. An n-gram
    stays where a longer one that stays needs it.

    Args:
        model: The model.
        keep: Share of the n-grams of order 2 and more that stay, 0 to 1.

    Returns:
        A smaller model, with back-off weights that make its probabilities add up to 1.
    """
    losses = [np.zeros(0), *(_losses(model, n) for n in range(1, len(model.orders)))]
    together = np.sort(np.concatenate(losses))
    count = round(keep * len(together))
    if count >= len(together):
        return model
    # What is kept for others' sake comes on top: look for the threshold that gives the share.
    low, high = 0, count
    while low < high:
        middle = (low + high + 1) // 2
        masks = _kept(model, losses, together[-middle])
        if sum(int(mask.sum()) for mask in masks[1:]) <= count:
            low = middle
        else:
            high = middle - 1
    threshold = together[-low] if low else np.inf
    return _without(model, _kept(model, losses, threshold))


def _losses(model: NgramModel, index: int) -> np.ndarray:
    """Return the relative entropy (N,) that the loss of each n-gram of an order costs, in nats."""
    grams, lower = model.orders[index], model.orders[index - 1]
    shorter = lower.probabilities[grams.suffixes]
    contexts = grams.contexts
    left = 1 - np.bincount(contexts, grams.probabilities, len(lower))
    left_shorter = 1 - np.bincount(contexts, shorter, len(lower))
    left, left_shorter = (np.maximum(each, 1e-12)[contexts] for each in (left, left_shorter))
    before = np.log(left / left_shorter)
    after = np.log((left + grams.probabilities) / (left_shorter + shorter))
    alone = np.log(shorter) + after - np.log(grams.probabilities)
    change = grams.probabilities * alone + left * (after - before)
    return -lower.occurrences[contexts] / model.orders[0].occurrences.sum() * change


def _kept(model: NgramModel, losses: Sequence[np.ndarray], threshold: float) -> list[np.ndarray]:
    """Return which n-grams of each order stay: costly ones, and those that others need."""
    masks = [np.ones(len(model.orders[0]), bool)]
    masks += [loss >= threshold for loss in losses[1:]]
    for index in range(len(masks) - 1, 1, -1):
        grams = model.orders[index]
        masks[index - 1][grams.contexts[masks[index]]] = True
        masks[index - 1][grams.suffixes[masks[index]]] = True
    return masks


def _without(model: NgramModel, masks: Sequence[np.ndarray]) -> NgramModel:
    orders: list[Grams] = []
    numbers = np.zeros(1, np.int64)  # of the order below: old number -> new
    for index, (grams, mask) in enumerate(zip(model.orders, masks)):
        if index and not mask.any():
            break
        contexts, suffixes = grams.contexts[mask], grams.suffixes[mask]
        if index:
            contexts, suffixes = numbers[contexts], numbers[suffixes]
        kept = Grams(
            contexts,
            grams.words[mask],
            suffixes,
            grams.probabilities[mask],
            np.ones(int(mask.sum())),
            grams.occurrences[mask],
        )
        if index:
            lower = orders[-1]
            shorter = lower.probabilities[kept.suffixes]
            left = 1 - np.bincount(kept.contexts, kept.probabilities, len(lower))
            left_shorter = 1 - np.bincount(kept.contexts, shorter, len(lower))
            used = np.bincount(kept.contexts, minlength=len(lower)) > 0
            usable = used & (left_shorter > 1e-12)
            ratio = np.maximum(left, 1e-12) / np.where(usable, left_shorter, 1)
            lower.backoffs = np.where(usable, ratio, 1.0)
        orders.append(kept)
        numbers = np.cumsum(mask) - 1
    return NgramModel(model.vocabulary, orders, list(model.notes))
