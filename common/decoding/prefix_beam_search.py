"""Prefix beam search: the most probable texts of CTC outputs, with or without a language model.

Hannun et al. 2014, "First-Pass Large Vocabulary Continuous Speech Recognition using Bi-Directional
Recurrent DNNs" (arXiv 1408.2873). A text is scored by

    log p_ctc(text) + alpha * log p_lm(text) + beta * number of words

with natural logarithms and p_ctc summed over all paths that read as the text. It is a search over
texts as people write them: spaces at the ends and repeated ones change no text, so their paths
count for the same one. With a beam wide enough nothing is pruned, and the scores are exact.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from common.decoding.ngram_lm import WordModel
from common.text.tokenizer import Vocabulary

_SPARE_PREFIXES = 20_000  # new ones after which those that nothing refers to are forgotten


class Hypothesis(NamedTuple):
    text: str
    score: float  # natural logarithm


@dataclass(frozen=True)
class BeamSearch:
    """log_probs (T, C) of one utterance -> its best hypotheses, best first.

    beam_width: prefixes kept after each frame. cutoff_top_n, cutoff_prob: of each frame only the
    best labels are followed, so many or until their probabilities add up to so much. top_paths:
    hypotheses returned, fewer where the beam holds fewer.
    """

    vocabulary: Vocabulary
    beam_width: int
    cutoff_top_n: int = 40
    cutoff_prob: float = 1.0
    top_paths: int = 1
    language: WordModel | None = None

    def __call__(self, log_probs: np.ndarray) -> list[Hypothesis]:
        prefixes = _Prefixes(self.vocabulary, self.language)
        beam = _Beam.of_root(prefixes)
        log_probs = np.asarray(log_probs, dtype=np.float64)
        for frame in np.where(np.isnan(log_probs), -np.inf, log_probs):
            beam = beam.advanced(self._cut(frame), prefixes, self.beam_width)
            if prefixes.crowded:
                beam.renumber(prefixes.forget_all_but(beam.nodes))
        found: dict[str, float] = {}
        for node, score in zip(beam.nodes.tolist(), beam.scores().tolist()):
            text = prefixes.text(node).rstrip(" ")
            found[text] = np.logaddexp(found.get(text, -np.inf), score + prefixes.ending(node))
        best = sorted(found.items(), key=lambda item: (-item[1], item[0]))[: self.top_paths]
        return [Hypothesis(text, float(score)) for text, score in best or [("", -np.inf)]]

    def _cut(self, frame: np.ndarray) -> np.ndarray:
        """The frame (C,) with -inf for the labels that are not followed."""
        count = min(self.cutoff_top_n, len(frame))
        order = np.argsort(-frame, kind="stable")
        if self.cutoff_prob < 1:
            before = np.cumsum(np.exp(frame[order])) - np.exp(frame[order])
            count = min(count, int((before < self.cutoff_prob).sum()))
        cut = np.full_like(frame, -np.inf)
        cut[order[:count]] = frame[order[:count]]
        return cut


@dataclass
class _Prefixes:
    """The tree of the prefixes met in an utterance; a node is a number, the root, "", is 0.

    A node has a greater number than its parent. Its text is spelled when it is asked for: kept at
    each node, texts would fill memory with the square of the utterance's length.
    """

    vocabulary: Vocabulary
    language: WordModel | None
    parents: list[int] = field(default_factory=lambda: [0])
    labels: list[int] = field(default_factory=lambda: [-1])  # the last one of each prefix
    children: dict[int, int] = field(default_factory=dict)  # node * labels + label -> node
    words: list[str] = field(default_factory=list)  # with a language model: the unfinished word ...
    histories: list[Any] = field(default_factory=list)  # ... and what precedes it
    endings: dict[int, tuple[float, Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        labels = self.vocabulary.labels
        self.space = labels.index(" ") if " " in labels else -1
        self.room = _SPARE_PREFIXES
        if self.language is not None:
            self.words.append("")
            self.histories.append(self.language.start())
            if self.language.outlook.full:
                self.language.outlook.forget()

    def child(self, node: int, label: int) -> int:
        key = node * len(self.vocabulary) + label
        if key not in self.children:
            self.children[key] = len(self.parents)
            self.parents.append(node)
            self.labels.append(label)
            if self.language is not None:
                ended = label == self.space
                self.words.append("" if ended else self.words[node] + self.vocabulary.labels[label])
                self.histories.append(self._end(node)[1] if ended else self.histories[node])
        return self.children[key]

    def text(self, node: int) -> str:
        labels = []
        while node > 0:
            labels.append(self.labels[node])
            node = self.parents[node]
        return self.vocabulary.decode(labels[::-1])

    @property
    def crowded(self) -> bool:
        return len(self.parents) > self.room

    def forget_all_but(self, nodes: np.ndarray) -> np.ndarray:
        """Keeps these nodes (N,) and those they descend from, in the same order.

        Returns the new number of each old node; those of forgotten ones mean nothing.
        """
        parents = np.array(self.parents)
        kept = np.zeros(len(parents), dtype=bool)
        while nodes.size:
            kept[nodes] = True
            nodes = parents[nodes]
            nodes = np.unique(nodes[~kept[nodes]])
        numbers = np.cumsum(kept) - 1
        old = np.flatnonzero(kept).tolist()
        self.parents = numbers[parents[old]].tolist()
        self.labels, self.words, self.histories = (
            [values[node] for node in old] if values else values
            for values in (self.labels, self.words, self.histories)
        )
        self.children = {
            parent * len(self.vocabulary) + label: node
            for node, (parent, label) in enumerate(zip(self.parents, self.labels))
            if node
        }
        self.endings = {
            node: self.endings[before] for node, before in enumerate(old) if before in self.endings
        }
        self.room = len(old) + _SPARE_PREFIXES
        return numbers

    def row(self, node: int) -> int:
        """The unfinished word in the language model's outlook."""
        return 0 if self.language is None else self.language.outlook.row(self.words[node])

    def ending(self, node: int) -> float:
        """What the language model adds when the unfinished word ends here."""
        return 0.0 if self.language is None else self._end(node)[0]

    def _end(self, node: int) -> tuple[float, Any]:
        if node not in self.endings:
            word, history = self.words[node], self.histories[node]
            self.endings[node] = self.language.score(history, word) if word else (0.0, history)
        return self.endings[node]


@dataclass
class _Beam:
    """The prefixes that are still followed (N,), ascending by node."""

    nodes: np.ndarray
    parents: np.ndarray
    labels: np.ndarray  # the last one of each prefix
    blank: np.ndarray  # log-probability of the paths that end in a blank ...
    solid: np.ndarray  # ... and of those that end in the last label
    words: np.ndarray  # what the language model has added for finished words
    lookahead_scores: np.ndarray  # what it may add for the unfinished one: for pruning alone
    rows: np.ndarray  # the unfinished word in the language model's outlook

    @classmethod
    def of_root(cls, prefixes: _Prefixes) -> _Beam:
        """The empty prefix, which takes further spaces as one that ends in a space does."""
        last = prefixes.space if prefixes.space >= 0 else prefixes.vocabulary.blank
        nodes, parents, labels, rows = (np.array([n]) for n in (0, -1, last, prefixes.row(0)))
        nothing = np.zeros(1)
        return cls(nodes, parents, labels, nothing, nothing - np.inf, nothing, nothing, rows)

    def renumber(self, numbers: np.ndarray) -> None:
        self.nodes = numbers[self.nodes]
        self.parents = np.where(self.parents < 0, -1, numbers[self.parents])

    def scores(self) -> np.ndarray:
        """(N,), without the unfinished words."""
        return np.logaddexp(self.blank, self.solid) + self.words

    def advanced(self, frame: np.ndarray, prefixes: _Prefixes, width: int) -> _Beam:
        """The beam after one more frame (C,) of log-probabilities; -inf: not followed."""
        letters = np.flatnonzero(frame > -np.inf)
        letters = letters[letters != prefixes.vocabulary.blank]
        columns = np.full(len(frame), -1)
        columns[letters] = np.arange(len(letters))
        own = columns[self.labels]
        after_space = self.labels == prefixes.space

        # The same prefix again: by a blank, or by its last label. A space adds nothing to a space.
        total = np.logaddexp(self.blank, self.solid)
        blank = total + frame[prefixes.vocabulary.blank]
        solid = np.where(after_space, total, self.solid) + frame[self.labels]

        # A prefix longer by one label (N, letters); by its last label again only after a blank.
        longer = total[:, None] + frame[letters]
        rows = np.flatnonzero(own >= 0)
        again = np.where(after_space, -np.inf, self.blank) + frame[self.labels]
        longer[rows, own[rows]] = again[rows]

        # One that the beam holds already takes the paths that reach it from its parent.
        at = np.searchsorted(self.nodes, self.parents)  # a parent is an older node than its child
        rows = np.flatnonzero((self.nodes[at] == self.parents) & (own >= 0))
        source = at[rows], own[rows]
        solid[rows] = np.logaddexp(solid[rows], longer[source])
        longer[source] = -np.inf

        words, lookahead_scores = self._language_scores(prefixes, letters, longer)
        stay = _Beam(
            self.nodes,
            self.parents,
            self.labels,
            blank,
            solid,
            self.words,
            self.lookahead_scores,
            self.rows,
        )
        scores = [
            stay.scores() + stay.lookahead_scores,
            (longer + words + lookahead_scores).ravel(),
        ]
        chosen = _best(np.concatenate(scores), width)
        kept = chosen[chosen < len(self.nodes)]
        row, column = np.divmod(chosen[chosen >= len(self.nodes)] - len(self.nodes), len(letters))
        parents, labels = self.nodes[row], letters[column]
        nodes = [prefixes.child(*pair) for pair in zip(parents.tolist(), labels.tolist())]
        new = _Beam(
            np.array(nodes, dtype=int),
            parents,
            labels,
            np.full(len(nodes), -np.inf),
            longer[row, column],
            words[row, column],
            lookahead_scores[row, column],
            np.array([prefixes.row(node) for node in nodes], dtype=int),
        )
        return stay._taken(kept)._joined(new)

    def _language_scores(
        self, prefixes: _Prefixes, letters: np.ndarray, longer: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """`words` and `lookahead_scores` (N, letters) of the prefixes longer by a letter."""
        words = np.repeat(self.words[:, None], len(letters), axis=1)
        if prefixes.language is None:
            return words, np.zeros_like(words)
        lookahead_scores = prefixes.language.outlook.after(self.rows)[:, letters]
        for column in np.flatnonzero(letters == prefixes.space):
            rows = np.flatnonzero(longer[:, column] > -np.inf)
            words[rows, column] += [prefixes.ending(node) for node in self.nodes[rows].tolist()]
            lookahead_scores[:, column] = 0
        return words, lookahead_scores

    def _taken(self, chosen: np.ndarray) -> _Beam:
        return _Beam(*(values[chosen] for values in vars(self).values()))

    def _joined(self, other: _Beam) -> _Beam:
        pairs = zip(vars(self).values(), vars(other).values())
        both = _Beam(*(np.concatenate(pair) for pair in pairs))
        return both._taken(np.argsort(both.nodes))


def _best(scores: np.ndarray, count: int) -> np.ndarray:
    """Where the highest `count` of those stand that are not -inf, in any order."""
    possible = np.flatnonzero(scores > -np.inf)
    if len(possible) <= count:
        return possible
    return possible[np.argpartition(-scores[possible], count - 1)[:count]]
