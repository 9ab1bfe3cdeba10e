"""Gives damaged inputs to the commands that users type, among good ones where a command takes many.

python tests/fuzz_commands.py [--seed 0] [--only transcribe validate] [--share 1.0] [--keep DIR]

The inputs are those of fuzz_inputs.py. A command must end with exit code 0, 1 or 2, without a
traceback, in a time and with a memory that are limited; with another code than 0 it says "error:".
Every good input is done, and every damaged one is done or named.

A start depends on (seed, kind, number). A line for each start that did otherwise, figures at the
end; the exit code is 1 if there was one. Takes one or two hours; --share 0.1 takes a tenth.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import conftest  # noqa: F401  (sets the environment before mindspore loads)
import fuzz_audio
from fuzz_inputs import TARGETS
from fuzz_runner import make_input
from tqdm import tqdm

ROOT = Path(__file__).resolve().parents[1]
LIMIT = 600.0  # seconds by the clock for a command, on the busiest machine
MEMORY = 6 << 30  # bytes of a command at its peak
GOOD = 3  # recordings of each start that are whole


@dataclass(frozen=True)
class Done:
    """What came of a command."""

    code: int
    stdout: str
    stderr: str


@dataclass(frozen=True)
class Kind:
    """A command and what it is given.

    Attributes:
        inputs: The kind of the damaged inputs.
        starts: Of the command, in a whole campaign.
        each: Damaged inputs of a start.
        play: (workshop, damaged inputs, a folder) -> what is wrong, "" if nothing is.
    """

    inputs: str
    starts: int
    each: int
    play: Callable[[Workshop, list[Path], Path], str]


class Workshop:
    """What the starts share: good inputs, and how commands are run."""

    def __init__(self, folder: Path, seed: int):
        self.folder, self.seed = folder, seed
        self._good: dict[str, Any] = {}

    @cached_property
    def recording(self) -> bytes:
        return fuzz_audio.encoded("WAV", "PCM_16", fuzz_audio.sound())

    def whole(self, folder: Path, count: int = GOOD) -> list[Path]:
        """Good recordings, all alike."""
        paths = [folder / f"whole-{number}.wav" for number in range(count)]
        for path in paths:
            path.write_bytes(self.recording)
        return paths

    def damaged(self, kind: str, numbers: range, folder: Path) -> list[Path]:
        """The inputs of these numbers, each in a folder of its own."""
        target = TARGETS[kind]
        if kind not in self._good:
            place = self.folder / f"good-{kind}"
            place.mkdir()
            self._good[kind] = target.prepare(place)
        good = self._good[kind]
        return [
            make_input(target, good, self.seed, number, folder / str(number)) for number in numbers
        ]


def run(folder: Path, *command: str | Path) -> Done:
    """Run a Python script of the project from a folder; raises TimeoutExpired."""
    line = [sys.executable, *map(str, command)]
    done = subprocess.run(
        line, cwd=folder, stdin=subprocess.DEVNULL, capture_output=True, timeout=LIMIT
    )
    return Done(done.returncode, done.stdout.decode(), done.stderr.decode(errors="replace"))


def script(model: str, name: str) -> Path:
    return ROOT / model / f"{name}.py"


def general(done: Done) -> str:
    """What any command owes its users."""
    if "Traceback (most recent call last)" in done.stderr + done.stdout:
        return "traceback: " + done.stderr.strip().splitlines()[-1]
    if done.code not in (0, 1, 2):
        return f"exit code {done.code}: {done.stderr[-300:].strip()}"
    if done.code == 1 and not done.stdout and "error:" not in done.stderr:
        return "exit code 1 without a word"
    return ""


def unnamed(done: Done, paths: list[Path]) -> str:
    """Which inputs a command neither did nor named."""
    said = done.stdout + done.stderr
    missing = [path for path in paths if str(path) not in said]
    return f"not a word on {len(missing)} inputs, the first {missing[0]}" if missing else ""


# ---- recordings


def transcribe(shop: Workshop, damaged: list[Path], folder: Path) -> str:
    whole = shop.whole(folder)
    files = [*damaged[:7], *whole[:1], *damaged[7:], *whole[1:]]
    done = run(folder, script("deepspeech2", "transcribe"), *files)
    texts = dict(line.split("\t", 1) for line in done.stdout.splitlines() if "\t" in line)
    if problem := general(done) or unnamed(done, files):
        return problem
    heard = {texts.get(str(path)) for path in whole}
    return "" if len(heard) == 1 and None not in heard else f"the good recordings gave {heard}"


def _manifest(shop: Workshop, damaged: list[Path], folder: Path) -> tuple[Path, list[Path]]:
    """Damaged recordings and good ones in a manifest; ids are those of the inputs' folders."""
    files = [*shop.whole(folder), *damaged]
    lines = [
        {"id": f"{path.parent.name}-{path.stem}", "audio": str(path), "text": "ONE TWO"}
        for path in files
    ]
    path = folder / "manifest.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path, files


def validate(shop: Workshop, damaged: list[Path], folder: Path) -> str:
    manifest, files = _manifest(shop, damaged, folder)
    command = script("deepspeech2", "validate"), "--preset", "an4", "--limit", "0", manifest
    done = run(folder, *command)
    if problem := general(done):
        return problem
    if f" of {len(files)} utterances are good" not in done.stdout:
        return f"not all of {len(files)} utterances counted: {done.stdout[:200]}"
    named = [n for n in range(GOOD) if f"-whole-{n}:" in done.stdout]
    return f"good recordings are called bad: {named}" if named else ""


def convert(shop: Workshop, damaged: list[Path], folder: Path) -> str:
    manifest, files = _manifest(shop, damaged, folder)
    options = [f"train_manifest={manifest}", "val_manifest=", "shards=2"]
    options += ["mindrecord_format=out/{split}/x{}.md"]
    command = script("deepspeech2", "create_mindrecord"), "--preset", "an4", "--set", *options
    done = run(folder, *command)
    if problem := general(done):
        return problem
    converted = folder / "out" / "train"
    kept = {
        json.loads(line)["id"] for line in (converted / "utterances.jsonl").read_text().splitlines()
    }
    left_out = json.loads((converted / "dataset.json").read_text())["left_out"]
    told = kept | {reason["id"] for reason in left_out}
    if len(told) != len(files):
        return f"{len(told)} of {len(files)} utterances are converted or left out"
    whole = [identity for identity in kept if "-whole-" in identity]
    return "" if len(whole) == GOOD else f"{len(whole)} of {GOOD} good recordings are converted"


# ---- one input a start


def _one(done: Done, path: Path) -> str:
    """The single input was used, or is named."""
    problem = general(done)
    if not problem and done.code and path.name not in done.stderr:
        keys = "Config." in done.stderr or "--set" in done.stderr
        problem = (
            "" if keys else f"an error that does not name the input: {done.stderr[-300:].strip()}"
        )
    return problem


def manifest(shop: Workshop, damaged: list[Path], folder: Path) -> str:
    (path,) = damaged
    written = folder / "written.jsonl"
    done = run(folder, ROOT / "scripts" / "manifest.py", "convert", path, written)
    if done.code == 0 and not written.is_file():
        return "exit code 0, and nothing was written"
    return _one(done, path)


def rank_table(shop: Workshop, damaged: list[Path], folder: Path) -> str:
    (path,) = damaged
    how = ["--hccn_conf", path] if path.suffix == ".conf" else ["--merge", path]
    written = folder / "hccl.json"
    done = run(folder, ROOT / "scripts" / "rank_table.py", *how, "--out", written)
    if done.code == 0 and not written.is_file():
        return "exit code 0, and nothing was written"
    return _one(done, path)


def configuration(shop: Workshop, damaged: list[Path], folder: Path) -> str:
    (path,) = damaged
    model = "jasper" if path.name.startswith(("jasper", "original")) else "deepspeech2"
    files, _ = _manifest(shop, [], folder)
    done = run(folder, script(model, "validate"), "--config", path, "--", files)
    return _one(done, path)


def labels(shop: Workshop, damaged: list[Path], folder: Path) -> str:
    (path,) = damaged
    files, _ = _manifest(shop, [], folder)
    setting = f"labels_path={path}"
    command = script("deepspeech2", "validate"), "--preset", "an4", "--set", setting, "--", files
    return _one(run(folder, *command), path)


def language_model(shop: Workshop, damaged: list[Path], folder: Path) -> str:
    (path,) = damaged
    (whole,) = shop.whole(folder, 1)
    options = ["decoder_type=beam", f"lm_path={path}", "beam_width=8"]
    done = run(folder, script("deepspeech2", "transcribe"), whole, "--set", *options)
    return _one(done, path)


def checkpoint(shop: Workshop, damaged: list[Path], folder: Path) -> str:
    (path,) = damaged
    (whole,) = shop.whole(folder, 1)
    done = run(folder, script(path.stem, "transcribe"), whole, "--pretrain_ckpt", path)
    return _one(done, path)


def export(shop: Workshop, damaged: list[Path], folder: Path) -> str:
    (path,) = damaged
    command = script(path.stem, "export"), "--pre_trained_model_path", path, "--file_format"
    done = run(folder, *command, "ONNX", "--file_name", folder / "exported")
    if done.code == 0 and not (folder / "exported.onnx").is_file():
        return "exit code 0, and nothing was written"
    return _one(done, path)


def foreign(shop: Workshop, damaged: list[Path], folder: Path) -> str:
    (path,) = damaged
    written = folder / "written.ckpt"
    done = run(folder, script(path.stem, "pt2mind"), "--pth", path, "--ckpt", written)
    if done.code == 0 and not written.is_file():
        return "exit code 0, and nothing was written"
    return _one(done, path)


def description(shop: Workshop, damaged: list[Path], folder: Path) -> str:
    (path,) = damaged
    model = path.name.split(".")[0]
    files, _ = _manifest(shop, [], folder)
    setting = f"DataConfig.test_manifest={files}"
    command = script(model, "preprocess"), "--mindir_path", path, "--set", setting
    return _one(run(folder, *command, f"result_path={folder / 'features'}"), path)


KINDS = {
    "transcribe": Kind("audio", 16, 40, transcribe),
    "validate": Kind("audio", 8, 80, validate),
    "convert": Kind("audio", 4, 50, convert),
    "manifest": Kind("manifest", 100, 1, manifest),
    "rank_table": Kind("rank_table", 220, 1, rank_table),
    "configuration": Kind("yaml", 60, 1, configuration),
    "labels": Kind("labels", 30, 1, labels),
    "language_model": Kind("arpa", 20, 1, language_model),
    "checkpoint": Kind("checkpoint", 30, 1, checkpoint),
    "export": Kind("checkpoint", 10, 1, export),
    "foreign": Kind("torch", 35, 1, foreign),
    "description": Kind("export", 15, 1, description),
}


def play(shop: Workshop, name: str, number: int, folder: Path) -> str:
    """One start: what is wrong with it, "" if nothing is."""
    kind = KINDS[name]
    folder.mkdir()
    # Other inputs than those of fuzz_inputs.py, and of another command with the same kind.
    first = 10_000_000 + 100_000 * list(KINDS).index(name) + kind.each * number
    damaged = shop.damaged(kind.inputs, range(first, first + kind.each), folder)
    try:
        problem = kind.play(shop, damaged, folder)
    except subprocess.TimeoutExpired:
        problem = f"no end in {LIMIT:g} s"
    except UnicodeDecodeError as error:
        problem = f"prints what is no UTF-8: {error}"
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
    return problem or (f"took {peak >> 20} MiB" if peak > MEMORY else "")


def campaign(shop: Workshop, name: str, starts: range, keep: Path | None) -> int:
    """Plays the starts of a kind; returns how many did otherwise than they should."""
    wrong, begun, each = 0, time.monotonic(), KINDS[name].each
    for number in tqdm(starts, desc=name, unit="start", disable=None, leave=False):
        folder = shop.folder / f"{name}-{number}"
        if problem := play(shop, name, number, folder):
            wrong += 1
            line = f"FINDING {name}, seed {shop.seed}, number {number}: {problem}"
            tqdm.write(line[:1000], file=sys.stdout)
            sys.stdout.flush()
            if keep:
                shutil.copytree(folder, keep / folder.name, dirs_exist_ok=True)
        shutil.rmtree(folder)
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss >> 10
    minutes = (time.monotonic() - begun) / 60
    print(
        f"{name}: {len(starts)} starts with {len(starts) * each} damaged inputs, {wrong} findings, "
        f"{minutes:.1f} minutes, peak of any command so far {peak} MiB",
        flush=True,
    )
    return wrong


def main() -> int:
    text = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=text)
    parser.add_argument("--only", nargs="+", choices=sorted(KINDS), help="kinds of starts")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--share", type=float, default=1.0, help="of a whole campaign")
    parser.add_argument("--number", type=int, help="of a single start")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="for starts that are findings")
    arguments = parser.parse_args()
    os.environ["PYTHONUTF8"] = "1"
    folder = Path(tempfile.mkdtemp(prefix="fuzz-"))
    shop, wrong = Workshop(folder, arguments.seed), 0
    try:
        for name in arguments.only or KINDS:
            count = max(round(KINDS[name].starts * arguments.share), 1)
            starts = range(count)
            if arguments.number is not None:
                starts = range(arguments.number, arguments.number + 1)
            wrong += campaign(shop, name, starts, arguments.keep)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return min(wrong, 1)


if __name__ == "__main__":
    sys.exit(main())
