"""Damages inputs of every kind and reads them with the functions of the entry points.

python tests/fuzz_inputs.py [--seed 0] [--only audio manifest] [--inputs N] [--keep DIR]

A recording, manifest, YAML file, list of labels, rank table, language model, checkpoint, file of
PyTorch, converted corpus or exported model must be read or be refused by one line that names it;
nothing may be lost without a word, hang, crash or take more memory than a limit. fuzz_runner.py has
the rules, fuzz_audio.py, fuzz_texts.py and fuzz_models.py what else is compared.

An input depends on (seed, kind, number). A line for the first finding of each fault, with its
number, and figures of each kind at the end; the exit code is 1 if there are findings. One input
again, and a copy of it:

python tests/fuzz_inputs.py --only audio --seed 0 --number 1234 --keep DIR
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import time
from pathlib import Path

import conftest  # noqa: F401  (sets the environment before mindspore loads)
import fuzz_audio
import fuzz_models
import fuzz_texts
from fuzz_runner import Outcome, Target, Totals, campaign
from tqdm import tqdm

TARGETS = {
    target.kind: target for target in (fuzz_audio.TARGET, *fuzz_texts.TARGETS, *fuzz_models.TARGETS)
}


def run(
    target: Target, seed: int, numbers: range, folder: Path, keep: Path | None = None
) -> Totals:
    """Reads the inputs of these numbers; prints and keeps the first finding of each fault.

    Args:
        target: What reads them.
        seed: Of the campaign.
        numbers: Of the inputs.
        folder: To work in.
        keep: Where copies go; one is made of each input if there is but one.

    Returns:
        The figures.
    """
    totals = Totals()
    shown = tqdm(total=len(numbers), desc=target.kind, unit="input", disable=None, leave=False)

    def add(outcome: Outcome) -> None:
        shown.update()
        new = totals.add(outcome)
        if new:
            place = f"{target.kind}, seed {seed}, number {outcome.number}"
            tqdm.write(f"FINDING {place}: {outcome.finding}", file=sys.stdout)
            sys.stdout.flush()
        elif len(numbers) == 1 and not outcome.finding:
            print(f"{target.kind}, seed {seed}, number {outcome.number}: {outcome.how}")

    with shown:
        try:
            campaign(target, seed, numbers, folder, add, keep)
        except KeyboardInterrupt:
            tqdm.write(f"interrupted: {totals.line(target.kind)}", file=sys.stdout)
            raise
    return totals


def main() -> int:
    text = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=text)
    parser.add_argument("--only", nargs="+", choices=sorted(TARGETS), help="kinds of inputs")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--inputs", type=int, help="of each kind; none given: a whole campaign")
    parser.add_argument("--first", type=int, default=0, help="number of the first input")
    parser.add_argument("--number", type=int, help="of a single input")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="for inputs that are findings")
    arguments = parser.parse_args()
    if arguments.keep:
        arguments.keep.mkdir(parents=True, exist_ok=True)
    figures, started = [], time.monotonic()
    folder = Path(tempfile.mkdtemp(prefix="fuzz-"))
    try:
        for kind in arguments.only or TARGETS:
            target = TARGETS[kind]
            first, count = arguments.first, arguments.inputs or target.inputs
            if arguments.number is not None:
                first, count = arguments.number, 1
            totals = run(
                target,
                arguments.seed,
                range(first, first + count),
                folder / kind,
                arguments.keep,
            )
            figures.append(totals)
            print(totals.line(kind), flush=True)
    except KeyboardInterrupt:
        return 130
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    inputs = sum(totals.inputs for totals in figures)
    findings = sum(len(totals.findings) for totals in figures)
    minutes = (time.monotonic() - started) / 60
    print(f"{inputs} inputs in {minutes:.1f} minutes, {findings} faults")
    return min(findings, 1)


if __name__ == "__main__":
    sys.exit(main())
