"""A small bigram model of words, by hand: as an ARPA file, and by ARPA's own definition."""

from __future__ import annotations

import math
from pathlib import Path

UNIGRAMS = {"<unk>": -1.2, "A": -0.6, "B": -0.9, "AB": -0.7, "BA": -1.1, "AAB": -1.3}  # log10
BACKOFFS = {"<s>": -0.3, "A": -0.2, "AB": -0.1}
BIGRAMS = {("<s>", "A"): -0.4, ("A", "B"): -0.2, ("AB", "A"): -0.3, ("A", "AB"): -0.5}


def write_arpa(path: Path) -> Path:
    unigrams = {"<s>": -99.0, "</s>": -0.8, **UNIGRAMS}
    lines = ["\\data\\", f"ngram 1={len(unigrams)}", f"ngram 2={len(BIGRAMS)}", "", "\\1-grams:"]
    for word, log_prob in unigrams.items():
        backoff = f"\t{BACKOFFS[word]}" if word in BACKOFFS else ""
        lines.append(f"{log_prob}\t{word}{backoff}")
    lines += ["", "\\2-grams:"]
    lines += [f"{log_prob}\t{' '.join(words)}" for words, log_prob in BIGRAMS.items()]
    path.write_text("\n".join([*lines, "", "\\end\\", ""]))
    return path


def log_prob(text: str, unk_offset: float = 0.0) -> float:
    """ln p(text), without the sentence's end: a bigram, or the backoff to the unigram."""
    total, before = 0.0, "<s>"
    for word in text.split():
        known = word if word in UNIGRAMS else "<unk>"
        found = BIGRAMS.get((before, known))
        if found is None:
            found = BACKOFFS.get(before, 0.0) + UNIGRAMS[known]
        total += found * math.log(10) + (unk_offset if known == "<unk>" else 0.0)
        before = known
    return total
