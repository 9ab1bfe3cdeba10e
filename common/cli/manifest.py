"""Make manifests from corpora, and convert between manifest formats."""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from pathlib import Path

from common.data import corpora, manifest, manifest_writers
from common.data.corpus_layouts import READERS
from common.text.normalization import normaliser
from common.text.tokenizer import labels_of
from common.utils.errors import UserError
from common.utils.files import write_text
from common.utils.packages import MissingPackageError
from common.utils.wording import counted

FORMATS = {".csv": "csv", ".jsonl": "jsonl", ".json": "deepspeech"}


def parser() -> argparse.ArgumentParser:
    """Create the parser of the command line."""
    top = argparse.ArgumentParser(prog="manifest.py", description=__doc__)
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")

    an4 = commands.add_parser(
        "an4", help="CSV manifests of CMU AN4: train, val (training speakers set aside), test"
    )
    an4.add_argument(
        "source",
        metavar="DIR",
        help="AN4 in its official layout, etc/ and wav/, or its archive's folder",
    )
    librispeech = commands.add_parser(
        "librispeech", help="CSV manifests of each LibriSpeech set found, of all train, of all dev"
    )
    librispeech.add_argument(
        "source",
        metavar="DIR",
        help="folder of train-*, dev-*, test-*, or of their .tar.gz archives",
    )
    for command in (an4, librispeech):
        command.add_argument("out", metavar="OUT", help="folder for the manifests")

    several = commands.add_parser(
        "corpora",
        help="manifests (JSON lines) of Mandarin corpora and Common Voice, several at once",
        description="Write NAME_train_manifest.jsonl, NAME_val_manifest.jsonl and "
        "NAME_test_manifest.jsonl of each corpus, and of all together. Corpora: "
        f"{', '.join(READERS)}.",
    )
    several.add_argument(
        "sources",
        nargs="+",
        metavar="NAME=DIR",
        help="a corpus and its folder, such as thchs30=data/data_thchs30",
    )
    several.add_argument("out", metavar="OUT", help="folder for the manifests")
    several.add_argument(
        "--name",
        default="",
        help="beginning of the joint manifests' names [all, where there are several corpora]",
    )
    asrt = commands.add_parser(
        "asrt", help="manifests (JSON lines) of ASRT's lists, with syllables as texts"
    )
    asrt.add_argument("source", metavar="CONFIG", help="asrt_config.json")
    asrt.add_argument("out", metavar="OUT", help="folder for the manifests")
    asrt.add_argument(
        "--data_path", metavar="DIR", help="folder of the corpora [data_path in CONFIG]"
    )

    labels = commands.add_parser(
        "labels", help="a labels file (JSON) of all characters in the texts of manifests"
    )
    labels.add_argument("source", nargs="+", metavar="IN", help="manifests")
    labels.add_argument("out", metavar="OUT", help="labels file to write")
    labels.add_argument(
        "--normalize",
        default="",
        help="as DataConfig.normalize_transcripts, such as mandarin",
    )
    labels.add_argument(
        "--min_count",
        type=int,
        default=1,
        help="characters that occur less often get no label [1]",
    )

    to_csv = commands.add_parser("json_to_csv", help="a JSON manifest of any kind to CSV")
    convert = commands.add_parser("convert", help="a manifest in any format to any other")
    for command, number in ((to_csv, "?"), (convert, None)):
        command.add_argument(
            "source", nargs=number, metavar="IN", help="manifest: csv, json or json lines"
        )
        command.add_argument("out", nargs=number, metavar="OUT", help="manifest to write")
        command.add_argument(
            "--data_dir", help="folder that the relative paths in IN start from [that of IN]"
        )
    to_csv.add_argument("--json", metavar="IN", help="the same as IN")
    to_csv.add_argument("--csv", metavar="OUT", help="the same as OUT")
    convert.add_argument(
        "--format",
        choices=sorted(manifest_writers.WRITERS),
        help="of OUT [by its suffix: .csv csv, .jsonl jsonl, .json deepspeech]",
    )
    return top


def run(args: argparse.Namespace) -> dict[Path, int]:
    """Run a sub-command.

    Args:
        args: The parsed command line.

    Returns:
        Manifest written -> number of utterances, or labels file -> number of labels.

    Raises:
        UserError: A file cannot be read or written.
    """
    if args.command == "an4":
        return corpora.build_an4(args.source, args.out)
    if args.command == "librispeech":
        return corpora.build_librispeech(args.source, args.out)
    if args.command == "corpora":
        sources = [_named(source) for source in args.sources]
        return corpora.build_corpora(sources, args.out, args.name, log=_note)
    if args.command == "asrt":
        return corpora.build_asrt(args.source, args.out, args.data_path, log=_note)
    if args.command == "json_to_csv":
        _take_options(args)
    out = Path(args.out)
    if args.command == "labels":
        labels = _labels(args)
        write_text(out, json.dumps(labels, ensure_ascii=False) + "\n")
        return {out: len(labels)}
    kind = "csv"
    if args.command == "convert":
        kind = args.format or FORMATS.get(out.suffix.lower(), "")
    if not kind:
        raise UserError(f"{out}: format not clear from the suffix {out.suffix!r}; give --format")
    count = manifest_writers.convert_manifest(args.source, out, kind, args.data_dir, log=_note)
    return {out: count}


def _named(source: str) -> tuple[str, str]:
    """Split NAME=DIR."""
    name, equals, root = source.partition("=")
    if not equals or not root:
        raise UserError(f"{source}: expected NAME=DIR, with NAME one of {', '.join(READERS)}")
    return name, root


def _labels(args: argparse.Namespace) -> list[str]:
    """List the characters of manifests, as normalisation leaves them."""
    if args.min_count < 1:
        raise UserError(f"--min_count {args.min_count}: expected at least 1")
    normalise = normaliser(args.normalize, ())
    texts = [normalise(u.text) for u in manifest.read_manifest(args.source, log=_note)]
    counts = Counter(character for text in texts for character in text)
    rare = {character for character, count in counts.items() if count < args.min_count}
    if rare:
        without = sum(not rare.isdisjoint(text) for text in texts)
        _note(
            f"{counted(len(rare), 'character')} of fewer than {args.min_count} occurrences get no "
            f"label; {without} of {len(texts)} utterances have one, and cannot be trained on"
        )
    if args.normalize == "mandarin" and " " in counts:
        _note(
            "the space, which stands between English words only, gets no label: Mandarin separates "
            "no words, and each character counts as one"
        )
        rare.add(" ")
    if args.normalize == "mandarin" and (signs := {c for c in counts if not c.isalnum()} - {" "}):
        _note(
            f"no label for {' '.join(sorted(signs))}, which can be read in several ways; write out "
            "the utterances that have one: validate.py lists them"
        )
        rare |= signs
    table = str.maketrans(dict.fromkeys(rare, ""))
    return labels_of(text.translate(table) for text in texts)


def _take_options(args: argparse.Namespace) -> None:
    """Take IN and OUT of json_to_csv from its options where they are given so."""
    words = [word for word in (args.source, args.out) if word is not None]
    files = [given or (words.pop(0) if words else None) for given in (args.json, args.csv)]
    if words or None in files:
        raise UserError("json_to_csv: expected IN OUT, or --json IN --csv OUT")
    args.source, args.out = files


def _note(line: str) -> None:
    print(f"note: {line}", file=sys.stderr)


def main(argv: list[str] | None = None) -> int:
    """Run the command.

    Args:
        argv: The command line; None: that of the process.

    Returns:
        The exit code.
    """
    try:
        args = parser().parse_args(argv)
        written = run(args)
    except (UserError, MissingPackageError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    for path, count in written.items():
        print(f"{path}: {counted(count, 'label' if args.command == 'labels' else 'utterance')}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
