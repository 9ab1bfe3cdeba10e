"""Estimated language models against lmplz and against the formulas; pruning; their files.

data/ngram_lmplz.arpa.gz is what KenLM's lmplz (commit 4cb443e) gives for data/ngram_text.txt with
`-o 3`.
"""

from __future__ import annotations

import gzip
import io
import json
import math
from collections import Counter
from pathlib import Path

import jiwer
import numpy as np
import pytest

from common import cli
from common.config import LMConfig
from common.decoding.decoders import make_decoder
from common.decoding.ngram_estimation import NgramModel, estimate, prune
from common.decoding.ngram_files import CompactModel, write_arpa, write_compact
from common.decoding.ngram_lm import WordModel
from common.evaluation.decoder_tuning import Trial, tune
from common.text.tokenizer import CharacterTokenizer
from common.utils.errors import UserError
from deepspeech2.src.recipe import RECIPE

DATA = Path(__file__).parent / "data"
TEXT = DATA / "ngram_text.txt"
SENTENCES = [line.split() for line in TEXT.read_text().splitlines()]
WORDS = sum(map(len, SENTENCES))
LETTERS = CharacterTokenizer(tuple("ABCDEFGHIJKLMNOPQRSTUVWXYZ' _"))


@pytest.fixture(scope="module")
def model() -> NgramModel:
    return estimate(SENTENCES, 3)


def named(model: NgramModel) -> list[dict[str, int]]:
    """The n-grams of each order, by their words -> their numbers."""
    names, found = [()], []
    for grams in model.orders:
        pairs = zip(grams.contexts.tolist(), grams.words.tolist())
        names = [(*names[context], model.vocabulary[word]) for context, word in pairs]
        found.append({" ".join(name): number for number, name in enumerate(names)})
    return found


def read_arpa(path: Path) -> list[dict[str, tuple[float, float]]]:
    """Log-probability and back-off of the n-grams of each order."""
    orders: list[dict[str, tuple[float, float]]] = []
    with gzip.open(path, "rt") as file:
        for line in file:
            if line.endswith("-grams:\n"):
                orders.append({})
            elif orders and "\t" in line:
                value, name, *backoff = line.rstrip("\n").split("\t")
                orders[-1][name] = float(value), float(backoff[0]) if backoff else 0.0
    return orders


def test_probabilities_and_backoffs_are_those_of_lmplz(model):
    expected = read_arpa(DATA / "ngram_lmplz.arpa.gz")
    assert model.counts == [len(order) for order in expected]
    for names, grams, order in zip(named(model), model.orders, expected):
        assert names.keys() == order.keys()
        for name, number in names.items():
            log_prob, backoff = order[name]
            assert np.log10(grams.backoffs[number]) == pytest.approx(backoff, abs=2e-6)
            if name != "<s>":
                assert np.log10(grams.probabilities[number]) == pytest.approx(log_prob, abs=2e-6)


def test_a_bigram_by_hand():
    """Chen & Goodman's formulas, counted with dictionaries."""
    model = estimate(SENTENCES, 2)
    pairs = Counter(pair for words in SENTENCES for pair in zip(["<s>", *words], [*words, "</s>"]))
    of = Counter(pairs.values())
    ratio = of[1] / (of[1] + 2 * of[2])
    discounts = [0, *(n - (n + 1) * ratio * of[n + 1] / of[n] for n in (1, 2, 3))]
    numbers, lower = named(model)[1], model.orders[0].probabilities
    for (first, second), count in pairs.items():
        same = [c for (left, _), c in pairs.items() if left == first]
        freed = sum(discounts[min(c, 3)] for c in same) / sum(same)
        shorter = lower[model.vocabulary.index(second)]
        expected = (count - discounts[min(count, 3)]) / sum(same) + freed * shorter
        found = model.orders[1].probabilities[numbers[f"{first} {second}"]]
        assert found == pytest.approx(expected, rel=1e-9)


def probability(model: NgramModel, context: tuple[str, ...], word: str) -> float:
    """By the definition of a back-off model."""
    names = named(model)
    factor = 1.0
    while True:
        name = " ".join((*context, word))
        if len(context) < len(names) and name in names[len(context)]:
            return factor * model.orders[len(context)].probabilities[names[len(context)][name]]
        shorter = names[len(context) - 1] if len(context) <= len(names) else {}
        number = shorter.get(" ".join(context))
        if number is not None:
            factor *= model.orders[len(context) - 1].backoffs[number]
        context = context[1:]


@pytest.mark.parametrize("keep", [1.0, 0.3, 0.0])
def test_the_probabilities_after_any_context_add_up_to_one(model, keep):
    pruned = prune(model, keep)
    assert sum(pruned.counts[1:]) <= keep * sum(model.counts[1:])
    words = [word for word in model.vocabulary if word != "<s>"]
    for context in [(), ("<s>",), ("BA",), ("BA", "BAN"), ("<s>", "BA"), ("LIS", "MOS"), ("new",)]:
        total = sum(probability(pruned, context, word) for word in words)
        assert total == pytest.approx(1, abs=1e-9)


def test_pruning_leaves_out_what_costs_the_least_relative_entropy():
    """Of a bigram model: the divergence of each context's distribution, summed word for word."""
    model = estimate(SENTENCES, 2)
    words = [word for word in model.vocabulary if word != "<s>"]
    whole = named(model)[1]
    keep = (len(whole) - 1) / len(whole)
    (lost,) = whole.keys() - named(prune(model, keep))[1].keys()

    def cost(name: str) -> float:
        first, second = name.split()
        seen = [n for n in whole if n.split()[0] == first and n != name]
        values, shorter = model.orders[1].probabilities, model.orders[0].probabilities
        lower = {word: shorter[model.vocabulary.index(word)] for word in words}
        before = {n.split()[1]: values[whole[n]] for n in [*seen, name]}
        after = {n.split()[1]: values[whole[n]] for n in seen}

        def distribution(explicit: dict[str, float]) -> dict[str, float]:
            weight = 1 - sum(explicit.values())
            weight /= 1 - sum(lower[word] for word in explicit)
            return {word: explicit.get(word, weight * lower[word]) for word in words}

        p, q = distribution(before), distribution(after)
        share = sum(s.count(first) for s in (["<s>", *words_, "</s>"] for words_ in SENTENCES))
        tokens = sum(len(words_) + 2 for words_ in SENTENCES)
        return share / tokens * sum(p[w] * math.log(p[w] / q[w]) for w in words)

    costs = {name: cost(name) for name in whole}
    assert costs[lost] == pytest.approx(min(costs.values()), abs=1e-9)


def test_what_a_longer_ngram_needs_is_never_pruned(model):
    pruned = prune(model, 0.4)
    assert 0 < pruned.counts[2] < model.counts[2]
    names = named(pruned)
    for name in names[2]:
        first, second, third = name.split()
        assert f"{first} {second}" in names[1] and f"{second} {third}" in names[1]


def test_marks_are_no_words():
    with pytest.raises(UserError, match="the text has <s>, which are marks"):
        estimate([["A", "<s>", "B"]], 2)


# ---- files


def sentence_score(model: CompactModel | WordModel, words: list[str]) -> float:
    history, total = model.start(), 0.0
    for word in words:
        log_prob, *_, history = model.score(history, word)
        total += log_prob
    return total


@pytest.mark.parametrize("keep", [1.0, 0.3])
def test_a_compact_file_gives_the_scores_of_the_definition(model, tmp_path, keep):
    pruned = prune(model, keep)
    write_compact(pruned, tmp_path / "lm.npz")
    compact = CompactModel(tmp_path / "lm.npz")
    assert compact.order == len(pruned.orders)
    for words in [*SENTENCES[:20], ["BA", "ZZZ", "BAN", "BA"]]:
        known = [word if word in model.vocabulary else "<unk>" for word in words]
        padded = ["<s>", *known]
        expected = sum(
            math.log10(probability(pruned, tuple(padded[max(0, n - 2) : n]), padded[n]))
            for n in range(1, len(padded))
        )
        # 256 values an order
        assert sentence_score(compact, words) == pytest.approx(expected, abs=0.02 * len(words))
    assert compact.score(compact.no_history(), "ZZZ")[1] is True


def test_kenlm_reads_the_arpa_file_and_the_compact_one_agrees(model, tmp_path):
    pytest.importorskip("kenlm", reason="pip install -r requirements-lm.txt")
    write_arpa(model, tmp_path / "lm.arpa.gz")
    write_compact(model, tmp_path / "lm.npz")
    theirs, ours = (
        WordModel(tmp_path / name, LETTERS, 0.8, 1.2, -3.0) for name in ("lm.arpa.gz", "lm.npz")
    )
    for words in [*SENTENCES[:20], ["BA", "ZZZ", "BAN"]]:
        expected = sentence_score(theirs, words)
        assert sentence_score(ours, words) == pytest.approx(expected, abs=0.05 * len(words))
    assert ours.knows("BAN") and not ours.knows("ZZZ")
    rows = ours.lookahead.row("B"), theirs.lookahead.row("B")
    np.testing.assert_allclose(
        ours.lookahead.after(np.array(rows[:1])), theirs.lookahead.after(np.array(rows[1:])), 1e-2
    )


def damaged(path: Path) -> dict[str, bytes]:
    whole = path.read_bytes()
    return {
        "cut": whole[: len(whole) // 2],
        "changed": whole[:200] + bytes(200) + whole[400:],
        "empty": b"",
        "an archive of something else": _archive(anything=np.zeros(3)),
    }


def _archive(**arrays: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.savez(file, **arrays)
    return file.getvalue()


@pytest.mark.parametrize("how", ["cut", "changed", "empty", "an archive of something else"])
def test_a_damaged_compact_file_is_refused_in_one_line(model, tmp_path, how):
    path = tmp_path / "lm.npz"
    write_compact(model, path)
    path.write_bytes(damaged(path)[how])
    with pytest.raises(UserError, match=r"lm\.npz: ") as refused:
        CompactModel(path)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("name", ["words_2", "starts_3", "log_probs_2", "words"])
def test_arrays_that_do_not_fit_together_are_refused(model, tmp_path, name):
    path = tmp_path / "lm.npz"
    write_compact(model, path)
    with np.load(path) as archive:
        arrays = dict(archive)
    for changed in (arrays[name][:-20], arrays[name][::-1][20:]):
        path.write_bytes(_archive(**{**arrays, name: changed}))
        with pytest.raises(UserError, match=r"damaged language model"):
            CompactModel(path)


# ---- the command


def test_the_command_builds_prunes_and_measures(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    cli.language_model(RECIPE, ["build", str(TEXT), "--output", "whole"])
    size = Path("whole.npz").stat().st_size / 1e6
    most = f"{0.8 * size:.6f}"
    cli.language_model(RECIPE, ["build", str(TEXT), "--output", "small", "--max_mb", most])
    assert Path("small.npz").stat().st_size / 1e6 <= float(most)
    capsys.readouterr()
    found = {}
    for name in ("whole", "small"):
        cli.language_model(RECIPE, ["perplexity", f"{name}.npz", str(TEXT)])
        line = capsys.readouterr().out
        assert line.endswith(f" on {WORDS} words; 0 unknown (0.00 %)\n")
        found[name] = float(line.split("perplexity ")[1].split()[0])
    assert 1 < found["whole"] < found["small"] < 70


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["none.txt"], "none.txt: No such file"),
        (["empty.txt"], "the text has no words"),
        (["latin.txt"], "latin.txt: not in UTF-8"),
        (["cut.txt.gz"], "cut.txt.gz: damaged or cut"),
        (["flipped.txt.gz"], "flipped.txt.gz: damaged or cut"),
        ([str(TEXT), "--order", "0"], "--order 0, .*expected at least 1"),
        ([str(TEXT), "--max_mb", "0.0001"], "words alone take about"),
    ],
)
def test_bad_input_is_refused_in_one_line(tmp_path, monkeypatch, options, message):
    monkeypatch.chdir(tmp_path)
    Path("empty.txt").write_text("\n \n")
    Path("latin.txt").write_bytes("É\n".encode("latin-1"))
    Path("cut.txt.gz").write_bytes(gzip.compress(TEXT.read_bytes())[:100])
    packed = bytearray(gzip.compress(TEXT.read_bytes()))
    packed[40] ^= 255
    Path("flipped.txt.gz").write_bytes(packed)
    Path("lm.npz").write_text("of an earlier build")
    with pytest.raises(UserError, match=message):
        cli.language_model(RECIPE, ["build", *options])
    assert [path.name for path in tmp_path.glob("*lm*")] == ["lm.npz"]
    assert Path("lm.npz").read_text() == "of an earlier build"


def test_rare_words_and_those_that_no_label_spells_are_unknown(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("text.txt").write_text("the cat sat\nThe café sat\nthe dog's 3 cats\n" * 2 + "once\n")
    cli.language_model(RECIPE, ["build", "text.txt", "--min_count", "2", "--order", "2"])
    captured = capsys.readouterr()
    assert "4 words of 21 have characters without a label" in captured.err
    model = CompactModel(Path("lm.npz"))
    assert sorted(model.words()) == ["CAT", "CATS", "DOG'S", "SAT", "THE"]
    unseen = 10 ** model.score(model.no_history(), "<unk>")[0]
    assert unseen > 10 ** model.score(model.no_history(), "CAT")[0]  # five words in the text


# ---- weights of the decoder


def emitted(text: str, rng: np.random.Generator) -> np.ndarray:
    """Log-probabilities (T, C) of a network that often takes one letter for another."""
    rows = []
    for letter in text:
        likely = np.full(len(LETTERS), 1e-3)
        likely[LETTERS.labels.index(letter)] = 1
        if letter != " " and rng.random() < 0.25:
            likely[rng.integers(26)] = 1.3
        blank = np.full(len(LETTERS), 1e-3)
        blank[LETTERS.ctc_blank] = 1
        rows += [likely / likely.sum(), blank / blank.sum()]
    return np.log(rows)


def test_tuning_finds_the_weights_of_least_wer(model, tmp_path):
    write_compact(model, tmp_path / "lm.npz")
    rng = np.random.default_rng(3)
    texts = [" ".join(words) for words in SENTENCES[:12]]
    log_probs = [emitted(text, rng) for text in texts]
    decoding = LMConfig(
        decoder_type="beam",
        lm_path=str(tmp_path / "lm.npz"),
        beam_width=8,
        cutoff_top_n=4,
        lm_workers=1,
        alpha=0.0,
    )
    trials: list[Trial] = []
    best = tune(decoding, log_probs, texts, LETTERS, trials.append)
    without = next(trial for trial in trials if trial.decoding.alpha == 0)
    assert best.rank == min(trial.rank for trial in trials)
    assert best.decoding.alpha > 0
    assert best.words.rate < 0.5 * without.words.rate
    # As jiwer counts them.
    decoder = make_decoder(best.decoding, LETTERS)
    found = [decoder(each[:, None], np.array([len(each)])) for each in log_probs]
    assert best.words.rate == pytest.approx(jiwer.wer(texts, [text for (text,) in found]))


def test_the_command_tunes_on_a_manifest(tmp_path, monkeypatch, capsys):
    prompts = DATA.parents[1] / "data" / "telephone_prompts"
    monkeypatch.chdir(tmp_path)
    rows = []
    for line in (prompts / "test.jsonl").read_text().splitlines()[:3]:
        utterance = json.loads(line)
        rows.append(json.dumps(utterance | {"audio": str(prompts / utterance["audio"])}))
    Path("few.jsonl").write_text("\n".join(rows) + "\n")
    cli.language_model(RECIPE, ["build", "few.jsonl"])
    options = ["lm_path=lm.npz", "test_manifest=few.jsonl", "beam_width=4", "lm_workers=1"]
    capsys.readouterr()
    cli.language_model(RECIPE, ["tune", "--set", *options])
    said = capsys.readouterr().out.splitlines()
    assert said[0].startswith("3 utterances, ") and said[1].startswith("greedy ")
    best = dict(option.split("=") for option in said[-1].removeprefix("best: --set ").split())
    alpha, beta = best.pop("alpha"), best.pop("beta", "0")
    fixed = {"decoder_type": "beam", "lm_path": "lm.npz", "beam_width": "4", "lm_workers": "1"}
    assert best == fixed
    trials = [line for line in said if line.startswith("alpha ")]
    (chosen,) = [line for line in trials if line.startswith(f"alpha {alpha} beta {beta} ")]
    rate = {line: float(line.split("WER")[1].split()[0]) for line in trials}
    assert rate[chosen] == min(rate.values())
    with pytest.raises(UserError, match="expected --set lm_path=MODEL"):
        cli.language_model(RECIPE, ["tune"])
    with pytest.raises(UserError, match="names data/an4_val_manifest.csv as its validation set"):
        cli.language_model(RECIPE, ["tune", "--set", "lm_path=lm.npz"])
