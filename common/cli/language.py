"""The command lm.py: build n-gram language models from text, measure and tune them.

They are models of words, or of characters where the labels separate no words, as those of Mandarin.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from tqdm import tqdm

from common import config as configs
from common.cli.options import add_eval_config, add_model, load_acoustic_model, model_path, override
from common.config import LMConfig
from common.data.manifest import read_manifest
from common.decoding.ngram_estimation import UNKNOWN, NgramModel, estimate, prune
from common.decoding.ngram_files import write_arpa, write_compact
from common.decoding.ngram_lm import perplexity
from common.model.recipe import Recipe
from common.text.normalization import normaliser
from common.text.tokenizer import Tokenizer
from common.utils.arguments import command
from common.utils.compressed import UNPACKING_ERRORS, opener
from common.utils.errors import UserError
from common.utils.files import check_writable, replacing
from common.utils.wording import counted

_MANIFESTS = (".csv", ".tsv", ".json", ".jsonl")
_MB = 1_000_000
_ATTEMPTS = 8  # at a size


def language_model(recipe: Recipe, argv: Sequence[str]) -> None:
    """Run lm.py.

    Args:
        recipe: The model, whose labels spell the words.
        argv: Its options.
    """
    parser = command(
        prog="lm.py",
        description="Build word n-gram language models for LMConfig.lm_path, and measure them.",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    build = commands.add_parser(
        "build",
        help="estimate a model (modified Kneser-Ney) and write it as an ARPA file, OUTPUT.arpa.gz, "
        "and as a compact file, OUTPUT.npz; either is an LMConfig.lm_path",
        allow_abbrev=False,
    )
    build.add_argument("--output", default="lm", metavar="OUTPUT", help="beginning of names [lm]")
    build.add_argument("--order", type=int, default=3, help="words of the longest n-grams [3]")
    build.add_argument(
        "--min_count", type=int, default=1, help="words that occur less often are left out [1]"
    )
    build.add_argument(
        "--max_mb",
        type=float,
        default=0.0,
        help="most megabytes of the compact file: n-grams that tell least are left out [0: all]",
    )
    measure = commands.add_parser(
        "perplexity", help="perplexity of a model on text", allow_abbrev=False
    )
    measure.add_argument("model", metavar="MODEL", help="ARPA, KenLM's binary or compact file")
    tuning = commands.add_parser(
        "tune",
        help="choose alpha and beta on the utterances of a validation set: --set lm_path=MODEL "
        "test_manifest=FILE [the validation set that the model names]",
        allow_abbrev=False,
    )
    tuning.add_argument(
        "--max_hours",
        type=float,
        default=0.25,
        help="of speech, drawn at random from the set; 0: all of it [0.25]",
    )
    add_model(tuning, recipe)
    add_eval_config(tuning)
    for each in (build, measure):
        each.add_argument(
            "texts",
            nargs="+",
            metavar="TEXT",
            help="a sentence a line, also .gz, .bz2 or .xz; or a manifest, for its transcripts",
        )
        each.add_argument("--labels", help="labels file that spells the words [the model's own]")
        each.add_argument(
            "--normalize",
            default="",
            help="as DataConfig.normalize_transcripts: english or mandarin",
        )
    arguments = parser.parse_args(argv)
    if arguments.command == "tune":
        _tune(recipe, arguments)
        return
    tokenizer = recipe.tokenizer.from_file(arguments.labels or recipe.folder / "labels.json")
    sentences = _Sentences(arguments.texts, tokenizer, arguments.normalize)
    if arguments.command == "build":
        _build(arguments, sentences)
    else:
        found = perplexity(arguments.model, tokenizer, sentences)
        print(
            f"{arguments.model}: perplexity {found.perplexity:.1f} on {found.words} words; "
            f"{found.unknown} unknown ({100 * found.unknown / max(1, found.words):.2f} %)"
        )
    for line in sentences.notes():
        print(f"note: {line}", file=sys.stderr)


def _build(arguments: argparse.Namespace, sentences: _Sentences) -> None:
    if arguments.order < 1 or arguments.min_count < 1 or not arguments.max_mb >= 0:
        raise UserError(
            f"--order {arguments.order}, --min_count {arguments.min_count}, --max_mb "
            f"{arguments.max_mb:g}: expected at least 1, at least 1, and at least 0"
        )
    arpa, compact = (Path(f"{arguments.output}{ending}") for ending in (".arpa.gz", ".npz"))
    for path in (arpa, compact):
        check_writable(path)
    model = estimate(sentences, arguments.order, arguments.min_count)
    for line in model.notes:
        print(f"note: {line}", file=sys.stderr)
    _say("estimated", model)
    with replacing(compact) as partial:  # until both are written, earlier ones stay
        written = _write_within(model, partial, arguments.max_mb)
        write_arpa(written, arpa)
    if written is not model:
        _say(f"pruned to {arguments.max_mb:g} MB", written)
    for path in (compact, arpa):
        print(f"{path}: {path.stat().st_size / _MB:.1f} MB")


def _write_within(model: NgramModel, path: Path, most: float) -> NgramModel:
    """Write the compact file, pruned until it has at most so many megabytes; 0: as it is."""
    write_compact(model, path)
    if not most or path.stat().st_size <= most * _MB:
        return model
    keep = 1.0
    for _ in range(_ATTEMPTS):
        keep *= 0.97 * most * _MB / path.stat().st_size
        pruned = prune(model, keep)
        write_compact(pruned, path)
        if path.stat().st_size <= most * _MB:
            return pruned
    size = path.stat().st_size / _MB
    raise UserError(
        f"--max_mb {most:g}: the {len(model.vocabulary)} words alone take about {size:.2g} MB; "
        "leave out rare ones, --min_count 2"
    )


def _say(what: str, model: NgramModel) -> None:
    sizes = ", ".join(f"{count} {n}-grams" for n, count in enumerate(model.counts, 1))
    print(f"{what}: {sizes}", flush=True)


def _tune(recipe: Recipe, arguments: argparse.Namespace) -> None:
    config = recipe.eval_config()
    override(config, arguments, recipe)
    if not config.LMConfig.lm_path:
        raise UserError("tune: expected --set lm_path=MODEL, the language model")
    if not arguments.max_hours >= 0:
        raise UserError(f"--max_hours {arguments.max_hours:g}: expected 0 or more")

    from common.api.scoring import saved_log_probs
    from common.evaluation.decoder_tuning import Trial, run_trial, tune

    path = model_path(arguments, recipe)
    model = load_acoustic_model(arguments, recipe, path)
    log_probs, references, seconds = saved_log_probs(
        model, path, config, arguments.max_hours, _note
    )
    print(f"{counted(len(references), 'utterance')}, {seconds / 60:.1f} minutes", flush=True)

    def show(name: str, trial: Trial) -> None:
        speed = seconds / max(trial.seconds, 1e-9)
        rates = {"WER": trial.words.rate, "CER": trial.characters.rate}
        told = "  ".join(
            f"{key} {100 * rates[key]:6.2f}"
            for key in sorted(rates, key=lambda key: key != trial.headline)
        )
        print(f"{name:24} {told}  {speed:7.0f} x real time", flush=True)

    def run(name: str, decoding: LMConfig) -> Trial:
        trial = run_trial(decoding, log_probs, references, model.tokenizer)
        show(name, trial)
        return trial

    decoding = replace(config.LMConfig, decoder_type="beam", top_paths=1)
    run("greedy", replace(decoding, decoder_type="greedy", lm_path=""))
    run("beam, no model", replace(decoding, lm_path=""))
    best = tune(
        decoding,
        log_probs,
        references,
        model.tokenizer,
        lambda trial: show(f"alpha {trial.decoding.alpha:g} beta {trial.decoding.beta:g}", trial),
    ).decoding
    for width in (best.beam_width // 4, 4 * best.beam_width):
        if width:
            run(f"beam_width {width}", replace(best, beam_width=width))
    for share in (0.99, 0.999):
        run(f"cutoff_prob {share:g}", replace(best, cutoff_prob=share))
    usual = configs.leaves(recipe.eval_config().LMConfig)
    chosen = configs.leaves(best) | {"alpha": f"{best.alpha:g}", "beta": f"{best.beta:g}"}
    changed = [f"{key}={value}" for key, value in chosen.items() if value != usual[key]]
    print(f"best: --set {' '.join(changed)}")


def _note(line: str, *arguments: object) -> None:
    print(f"note: {line % arguments if arguments else line}", file=sys.stderr)


class _Sentences:
    """The words of each sentence of some texts; a word that cannot be spelled is <unk>."""

    def __init__(self, paths: Sequence[str], tokenizer: Tokenizer, normalize: str):
        self._paths, self._tokenizer = paths, tokenizer
        self._normalise = normaliser(normalize, tokenizer.labels)
        self._count = self._unspelled = 0

    def __iter__(self) -> Iterator[list[str]]:
        bar = tqdm(unit=" sentences", desc="reading", disable=None, leave=False)
        for path in self._paths:
            for line in _lines(Path(path)):
                text = self._tokenizer.normalise(self._normalise(line))
                words = self._spelled(self._tokenizer.words(text))
                if words:
                    yield words
                bar.update()
        bar.close()

    def _spelled(self, words: list[str]) -> list[str]:
        self._count += len(words)
        for place, word in enumerate(words):
            if self._tokenizer.unknown(word):
                self._unspelled += 1
                words[place] = UNKNOWN
        return words

    def notes(self) -> list[str]:
        """Say how many words could not be spelled."""
        if not self._unspelled:
            return []
        separated = self._tokenizer.separates_words
        what, whose = ("word", "have characters") if separated else ("character", "are")
        kind = "english" if separated else "mandarin"
        return [
            f"{counted(self._unspelled, what)} of {self._count} {whose} without a label and count "
            f"as unknown; --normalize {kind} spells numbers and removes signs"
        ]


def _lines(path: Path) -> Iterator[str]:
    if path.suffix.lower() in _MANIFESTS:
        yield from (utterance.text for utterance in read_manifest(path))
        return
    try:
        with opener(path)(path, "rt", encoding="utf-8-sig") as file:
            yield from file
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not in UTF-8 ({error.reason}); convert it with iconv") from None
    except UNPACKING_ERRORS as error:
        if isinstance(error, OSError) and error.strerror:
            raise UserError(f"{path}: {error.strerror}") from None
        raise UserError(f"{path}: damaged or cut ({error})") from None
