"""Prefix beam search: the most probable texts of CTC outputs, with or without a language model.

Hannun et al. 2014, "First-Pass Large Vocabulary Continuous Speech Recognition using Bi-Directional
Recurrent DNNs" (arXiv 1408.2873). A text is scored by

    log p_ctc(text) + alpha * log p_lm(text) + beta * number of words

with natural logarithms and p_ctc summed over all paths of the text. Where the script separates no
words, as Han, each label is a word, which a model of characters scores. Paths that differ only in
spaces at the ends or in repeated spaces belong to the same text. With a beam that is wide enough
nothing is pruned, and the scores are exact. `word_scores.py` adds hot words and a lexicon.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from heapq import heappop, heappush
from typing import Any, NamedTuple

import numpy as np

from common.decoding.ngram_lm import WordModel
from common.decoding.word_scores import WordScorer
from common.text.tokenizer import Tokenizer

_PREFIXES_BETWEEN_PRUNING = 20_000  # new prefixes after which unused ones are removed


class Hypothesis(NamedTuple):
    """A text that an utterance may have."""

    text: str
    score: float  # natural logarithm


@dataclass(frozen=True)
class BeamSearch:
    """Searches for the best texts of one utterance.

    Attributes:
        tokenizer: Spells the labels.
        beam_width: Prefixes kept after each frame.
        cutoff_top_n: Labels followed in each frame, the most probable.
        cutoff_prob: Or fewer labels, until their probabilities add up to this.
        top_paths: Hypotheses returned, or fewer where the beam holds fewer.
        language_model: Scores words, alone or with hot words and a lexicon; None: none.
    """

    tokenizer: Tokenizer
    beam_width: int
    cutoff_top_n: int = 40
    cutoff_prob: float = 1.0
    top_paths: int = 1
    language_model: WordModel | WordScorer | None = None

    def __call__(self, log_probs: np.ndarray) -> list[Hypothesis]:
        """Search log-probabilities (T, C); return hypotheses, best first."""
        running = self.begin()
        running.accept(log_probs)
        return running.hypotheses()

    def begin(self) -> RunningSearch:
        """Begin an utterance that comes piece by piece."""
        prefixes = _PrefixTree(self.tokenizer, self.language_model)
        return RunningSearch(self, prefixes, _Beam.of_root(prefixes))

    def cut(self, frame: np.ndarray) -> np.ndarray:
        """Return a frame (C,) with -inf for the labels that are not followed."""
        count = min(self.cutoff_top_n, len(frame))
        order = np.argsort(-frame, kind="stable")
        if self.cutoff_prob < 1:
            before = np.cumsum(np.exp(frame[order])) - np.exp(frame[order])
            count = min(count, int((before < self.cutoff_prob).sum()))
        cut = np.full_like(frame, -np.inf)
        cut[order[:count]] = frame[order[:count]]
        return cut


@dataclass
class RunningSearch:
    """The search of an utterance that comes piece by piece; `BeamSearch.begin` makes it."""

    search: BeamSearch
    prefixes: _PrefixTree
    beam: _Beam

    def accept(self, log_probs: np.ndarray) -> None:
        """Take the next log-probabilities (T, C)."""
        log_probs = np.asarray(log_probs, dtype=np.float64)
        for frame in np.where(np.isnan(log_probs), -np.inf, log_probs):
            cut = self.search.cut(frame)
            self.beam = self.beam.advanced(cut, self.prefixes, self.search.beam_width)
            if self.prefixes.needs_pruning:
                self.beam.renumber(self.prefixes.keep_only(self.beam.nodes))

    def hypotheses(self) -> list[Hypothesis]:
        """Return the hypotheses of what came so far, best first."""
        scores: dict[str, float] = {}
        unfinished: list[tuple[float, str]] = []
        for node, score in zip(self.beam.nodes.tolist(), self.beam.scores().tolist()):
            text = self.prefixes.text(node).rstrip(" ")
            ending = self.prefixes.ending_score(node)
            if ending == -np.inf:  # an unfinished word, where a lexicon is required
                unfinished.append((score, text.rpartition(" ")[0]))
            else:
                scores[text] = np.logaddexp(scores.get(text, -np.inf), score + ending)
        if not scores and unfinished:  # the recording ends within a word: leave it out
            score, text = max(unfinished)
            scores[text] = score
        count = self.search.top_paths
        best = sorted(scores.items(), key=lambda item: (-item[1], item[0]))[:count]
        return [Hypothesis(text, float(score)) for text, score in best or [("", -np.inf)]]

    def copy(self) -> RunningSearch:
        """Return another that goes on from here, and leaves this one as it is."""
        return RunningSearch(self.search, self.prefixes.copy(), copy.copy(self.beam))


@dataclass
class _PrefixTree:
    """The tree of prefixes of an utterance. Nodes are numbers; the root, "", is 0.

    A node has a greater number than its parent. Texts are assembled when they are asked for: stored
    at each node, they would take memory with the square of the utterance's length.
    """

    tokenizer: Tokenizer
    language_model: WordModel | WordScorer | None
    parents: list[int] = field(default_factory=lambda: [0])
    labels: list[int] = field(default_factory=lambda: [-1])  # last label of each prefix
    children: dict[int, int] = field(default_factory=dict)  # node * labels + label -> node
    # With a language model: the unfinished word of each prefix, and the history before it.
    words: list[str] = field(default_factory=list)
    histories: list[Any] = field(default_factory=list)
    endings: dict[int, tuple[float, Any]] = field(default_factory=dict)  # cache of `_end`
    longer: dict[int, tuple[float, Any]] = field(default_factory=dict)  # cache of `_add`

    def __post_init__(self) -> None:
        labels = self.tokenizer.labels
        self.space = labels.index(" ") if " " in labels else -1
        self.by_label = not self.tokenizer.separates_words
        self.max_size = _PREFIXES_BETWEEN_PRUNING
        if self.language_model is not None:
            self.words.append("")
            self.histories.append(self.language_model.start())
            if self.language_model.lookahead.full:
                self.language_model.lookahead.clear()

    def copy(self) -> _PrefixTree:
        """Return another that grows by itself."""
        other = copy.copy(self)
        for name, value in vars(self).items():
            if isinstance(value, (list, dict)):
                setattr(other, name, value.copy())
        return other

    def child(self, node: int, label: int) -> int:
        """Return the node of a prefix longer by one label."""
        key = node * len(self.tokenizer) + label
        if key not in self.children:
            self.children[key] = len(self.parents)
            self.parents.append(node)
            self.labels.append(label)
            if self.language_model is not None and self.by_label:
                self.words.append("")
                self.histories.append(self._add(self.language_model, node, label)[1])
            elif self.language_model is not None:
                ended = label == self.space
                self.words.append("" if ended else self.words[node] + self.tokenizer.labels[label])
                self.histories.append(
                    self._end(self.language_model, node)[1] if ended else self.histories[node]
                )
        return self.children[key]

    def text(self, node: int) -> str:
        """Return the text of a prefix."""
        labels = []
        while node > 0:
            labels.append(self.labels[node])
            node = self.parents[node]
        return self.tokenizer.decode(labels[::-1])

    @property
    def needs_pruning(self) -> bool:
        """Whether so many prefixes were added that unused ones should be removed."""
        return len(self.parents) > self.max_size

    def keep_only(self, nodes: np.ndarray) -> np.ndarray:
        """Keep these nodes (N,) and their ancestors, in the same order.

        Returns:
            The new number of each old node; those of removed ones are meaningless.
        """
        parents = np.array(self.parents)
        is_used = np.zeros(len(parents), dtype=bool)
        while nodes.size:
            is_used[nodes] = True
            nodes = parents[nodes]
            nodes = np.unique(nodes[~is_used[nodes]])
        numbers = np.cumsum(is_used) - 1
        old = np.flatnonzero(is_used).tolist()
        self.parents = numbers[parents[old]].tolist()
        self.labels = [self.labels[node] for node in old]
        if self.language_model is not None:
            self.words = [self.words[node] for node in old]
            self.histories = [self.histories[node] for node in old]
        self.children = {
            parent * len(self.tokenizer) + label: node
            for node, (parent, label) in enumerate(zip(self.parents, self.labels))
            if node
        }
        self.endings = {
            node: self.endings[before] for node, before in enumerate(old) if before in self.endings
        }
        self.longer.clear()
        self.max_size = len(old) + _PREFIXES_BETWEEN_PRUNING
        return numbers

    def row(self, node: int) -> int:
        """Return the lookahead's number of the unfinished word."""
        if self.language_model is None:
            return 0
        return self.language_model.lookahead.row(self.words[node])

    def ending_score(self, node: int) -> float:
        """Return what the language model adds if the unfinished word ends here."""
        if self.language_model is None:
            return 0.0
        return self._end(self.language_model, node)[0]

    def label_score(self, node: int, label: int) -> float:
        """Return what the language model adds for one more label that is a word."""
        if self.language_model is None:
            return 0.0
        return self._add(self.language_model, node, label)[0]

    def _add(
        self, language_model: WordModel | WordScorer, node: int, label: int
    ) -> tuple[float, Any]:
        """Return the score of a label that is a word, and the history that includes it."""
        key = node * len(self.tokenizer) + label
        if key not in self.longer:
            word = self.tokenizer.labels[label]
            self.longer[key] = language_model.score(self.histories[node], word)
        return self.longer[key]

    def _end(self, language_model: WordModel | WordScorer, node: int) -> tuple[float, Any]:
        """Return the score of the unfinished word, and the history that includes it."""
        if node not in self.endings:
            word, history = self.words[node], self.histories[node]
            self.endings[node] = language_model.score(history, word) if word else (0.0, history)
        return self.endings[node]


@dataclass
class _Beam:
    """The N prefixes that are followed, ascending by node; arrays (N,), logarithms natural."""

    nodes: np.ndarray
    parents: np.ndarray
    labels: np.ndarray  # last label of each prefix
    p_blank: np.ndarray  # log-probability of the paths that end in a blank
    p_non_blank: np.ndarray  # log-probability of the paths that end in the last label
    word_scores: np.ndarray  # what the language model added for finished words
    lookahead_scores: np.ndarray  # the best it can add for the unfinished word; for pruning only
    rows: np.ndarray  # the lookahead's numbers of the unfinished words

    @classmethod
    def of_root(cls, prefixes: _PrefixTree) -> _Beam:
        """Return the empty prefix, after which spaces change nothing, as after a space."""
        last = prefixes.space if prefixes.space >= 0 else prefixes.tokenizer.ctc_blank
        nodes, parents, labels, rows = (np.array([n]) for n in (0, -1, last, prefixes.row(0)))
        zero = np.zeros(1)
        return cls(nodes, parents, labels, zero, zero - np.inf, zero, zero, rows)

    def renumber(self, numbers: np.ndarray) -> None:
        """Take the new numbers that `_PrefixTree.keep_only` returned."""
        self.nodes = numbers[self.nodes]
        self.parents = np.where(self.parents < 0, -1, numbers[self.parents])

    def scores(self) -> np.ndarray:
        """Return the scores (N,) without the unfinished words."""
        return np.logaddexp(self.p_blank, self.p_non_blank) + self.word_scores

    def advanced(self, frame: np.ndarray, prefixes: _PrefixTree, width: int) -> _Beam:
        """Return the beam after one more frame.

        Args:
            frame: (C,) log-probabilities; -inf for labels that are not followed.
            prefixes: The tree, which grows.
            width: Prefixes to keep.
        """
        letters = np.flatnonzero(frame > -np.inf)
        letters = letters[letters != prefixes.tokenizer.ctc_blank]
        columns = np.full(len(frame), -1)
        columns[letters] = np.arange(len(letters))
        own = columns[self.labels]
        after_space = self.labels == prefixes.space

        # The same prefix again: by a blank, or by its last label. A space adds nothing to a space.
        p_total = np.logaddexp(self.p_blank, self.p_non_blank)
        p_blank = p_total + frame[prefixes.tokenizer.ctc_blank]
        p_non_blank = np.where(after_space, p_total, self.p_non_blank) + frame[self.labels]

        # A prefix longer by one label (N, letters); by its last label again only after a blank.
        p_longer = p_total[:, None] + frame[letters]
        rows = np.flatnonzero(own >= 0)
        p_repeated = np.where(after_space, -np.inf, self.p_blank) + frame[self.labels]
        p_longer[rows, own[rows]] = p_repeated[rows]

        # A longer prefix that the beam holds already takes the paths that reach it from its parent.
        at = np.searchsorted(self.nodes, self.parents)  # a parent is an older node than its child
        rows = np.flatnonzero((self.nodes[at] == self.parents) & (own >= 0))
        from_parent = at[rows], own[rows]
        p_non_blank[rows] = np.logaddexp(p_non_blank[rows], p_longer[from_parent])
        p_longer[from_parent] = -np.inf

        same = _Beam(
            self.nodes,
            self.parents,
            self.labels,
            p_blank,
            p_non_blank,
            self.word_scores,
            self.lookahead_scores,
            self.rows,
        )
        if prefixes.by_label and prefixes.language_model is not None:
            word_scores = self._label_scores(prefixes, letters, p_longer, same.scores(), width)
            lookahead_scores = np.zeros_like(word_scores)
        else:
            word_scores, lookahead_scores = self._language_scores(prefixes, letters, p_longer)
        scores = [
            same.scores() + same.lookahead_scores,
            (p_longer + word_scores + lookahead_scores).ravel(),
        ]
        chosen = _best(np.concatenate(scores), width)
        staying = chosen[chosen < len(self.nodes)]
        row, column = np.divmod(chosen[chosen >= len(self.nodes)] - len(self.nodes), len(letters))
        parents, labels = self.nodes[row], letters[column]
        nodes = [prefixes.child(*pair) for pair in zip(parents.tolist(), labels.tolist())]
        new = _Beam(
            np.array(nodes, dtype=int),
            parents,
            labels,
            np.full(len(nodes), -np.inf),
            p_longer[row, column],
            word_scores[row, column],
            lookahead_scores[row, column],
            np.array([prefixes.row(node) for node in nodes], dtype=int),
        )
        return same._subset(staying)._joined(new)

    def _language_scores(
        self, prefixes: _PrefixTree, letters: np.ndarray, p_longer: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return word and lookahead scores (N, letters) of the prefixes longer by a letter."""
        word_scores = np.repeat(self.word_scores[:, None], len(letters), axis=1)
        if prefixes.language_model is None:
            return word_scores, np.zeros_like(word_scores)
        lookahead_scores = prefixes.language_model.lookahead.after(self.rows)[:, letters]
        for column in np.flatnonzero(letters == prefixes.space):
            rows = np.flatnonzero(p_longer[:, column] > -np.inf)
            nodes = self.nodes[rows].tolist()
            word_scores[rows, column] += [prefixes.ending_score(node) for node in nodes]
            lookahead_scores[:, column] = 0
        return word_scores, lookahead_scores

    def _label_scores(
        self,
        prefixes: _PrefixTree,
        letters: np.ndarray,
        p_longer: np.ndarray,
        same: np.ndarray,
        width: int,
    ) -> np.ndarray:
        """Return word scores (N, letters) where each label is a word.

        The model is asked from the most hopeful prefix down, until no other can be among the best
        `width`, even if the model held its label for certain; these have -inf.
        """
        assert isinstance(prefixes.language_model, WordModel)  # hot words need words
        hopes = (p_longer + self.word_scores[:, None] + prefixes.language_model.most).ravel()
        best = sorted(same[same > -np.inf].tolist())[-width:]  # a heap: ascending
        word_scores = np.full(hopes.shape, -np.inf)
        possible = np.flatnonzero(hopes > -np.inf)
        for place in possible[np.argsort(-hopes[possible], kind="stable")].tolist():
            if len(best) == width and hopes[place] < best[0]:
                break
            row, column = divmod(place, len(letters))
            gained = prefixes.label_score(int(self.nodes[row]), int(letters[column]))
            word_scores[place] = self.word_scores[row] + gained
            score = float(p_longer[row, column] + word_scores[place])
            heappush(best, score)
            if len(best) > width:
                heappop(best)
        return word_scores.reshape(p_longer.shape)

    def _subset(self, chosen: np.ndarray) -> _Beam:
        return _Beam(*(values[chosen] for values in vars(self).values()))

    def _joined(self, other: _Beam) -> _Beam:
        pairs = zip(vars(self).values(), vars(other).values())
        both = _Beam(*(np.concatenate(pair) for pair in pairs))
        return both._subset(np.argsort(both.nodes))


def _best(scores: np.ndarray, count: int) -> np.ndarray:
    """Return the indices of the highest `count` scores that are not -inf, in any order."""
    possible = np.flatnonzero(scores > -np.inf)
    if len(possible) <= count:
        return possible
    return possible[np.argpartition(-scores[possible], count - 1)[:count]]
