"""From recorded speech to text in one go: convert, train, evaluate, export, transcribe.

Called by quickstart.sh, which sets up the virtual environment first. Each step is a command that a
user would type; it is printed before it runs. What an earlier start finished is used again.
"""

from __future__ import annotations

import argparse
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from importlib import import_module
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from common import __version__  # noqa: E402
from common.data.corpora import AN4_ARCHIVE, build_an4  # noqa: E402
from common.data.manifest import Utterance, read_manifest  # noqa: E402
from common.utils.download import download  # noqa: E402
from common.utils.errors import UserError  # noqa: E402

MODELS = ("deepspeech2", "jasper")
PROMPTS = ROOT / "data" / "telephone_prompts"
AN4_URL = "http://www.speech.cs.cmu.edu/databases/an4/an4_sphere.tar.gz"


class Terminated(Exception):
    """A step was ended by SIGTERM."""


def main() -> int:
    """Run the command line; return its exit code."""
    parser = argparse.ArgumentParser(
        prog="quickstart.sh",
        description="Train a small network on real speech on the CPU, evaluate it on "
        "utterances that it never saw, export it and transcribe with it.",
    )
    parser.add_argument(
        "--an4",
        metavar="DIR",
        help="CMU AN4 in its official layout instead of the telephone prompts that ship here; "
        "'download' fetches the official archive",
    )
    parser.add_argument("--an4_url", default=AN4_URL, help=argparse.SUPPRESS)
    parser.add_argument("--model", choices=MODELS, default=MODELS[0])
    parser.add_argument("--out", type=Path, help="folder for all that is made")
    parser.add_argument(
        "--set",
        action="extend",
        nargs="+",
        default=[],
        metavar="KEY=VALUE",
        help="for train.py",
    )
    parser.add_argument("--version", action="version", version=f"mindspore-speech {__version__}")
    arguments = parser.parse_args()
    name = "an4" if arguments.an4 else "prompts"
    if arguments.model != MODELS[0]:
        name = f"{arguments.model}_{name}"
    out = (arguments.out or ROOT / "quickstart" / name).resolve()
    try:
        quickstart(arguments, out)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except subprocess.CalledProcessError as error:
        print(
            f"error: the step above failed; what was done before is kept in {out}. After a change "
            "of options or of the project, start over with another --out or without that folder",
            file=sys.stderr,
        )
        return error.returncode if error.returncode > 0 else 1
    except KeyboardInterrupt:
        print(f"interrupted; start again to go on from {out}", file=sys.stderr)
        return 128 + signal.SIGINT
    except Terminated:
        print(f"interrupted; start again to go on from {out}", file=sys.stderr)
        return 128 + signal.SIGTERM
    return 0


def quickstart(arguments: argparse.Namespace, out: Path) -> None:
    """Convert, train, evaluate, export and transcribe, each step by its own script.

    Args:
        arguments: Of the command line.
        out: Folder for all that is made.

    Raises:
        UserError: The folder or the corpus cannot be had.
        subprocess.CalledProcessError: A step failed.
    """
    started = time.monotonic()
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--out {out}: cannot be made ({error.strerror})") from error
    corpus, manifests = _corpus(arguments, out)
    recipe = import_module(f"{arguments.model}.src.recipe").RECIPE

    def step(number: int, what: str, script: str, *options: str) -> None:
        _step(number, what, out, recipe.folder / script, *options)

    options = ["--preset", "an4" if arguments.an4 else "quickstart"]
    options += ["--set", *(f"{split}_manifest={path}" for split, path in manifests.items())]
    options += arguments.set

    step(1, "convert to MindRecord", "create_mindrecord.py", *options)

    prefix = recipe.train_config().CheckpointConfig.ckpt_file_name_prefix
    last, best = (out / "checkpoint" / f"{prefix}-{which}.ckpt" for which in ("last", "best"))
    resume = ["--resume"] if last.is_file() else []
    step(2, "train", "train.py", *options, "--device_target", "CPU", *resume)

    checkpoint = str(best.relative_to(out))
    step(
        3,
        "evaluate on unseen utterances",
        "eval.py",
        "--pretrain_ckpt",
        checkpoint,
        "--set",
        "verbose=false",
        "report=report.html",
    )

    model = f"{arguments.model}.mindir"
    exported = ["--pre_trained_model_path", checkpoint, "--file_name", model]
    step(4, "export to MindIR and verify it", "export.py", *exported)

    chosen = _two(read_manifest(manifests["test"]))
    for utterance in chosen:
        print(f"# {utterance.audio.name} says: {utterance.text}")
    files = [str(utterance.audio) for utterance in chosen]
    step(5, "transcribe two of them", "transcribe.py", *files, "--pretrain_ckpt", checkpoint)

    wer, cer = _scores(out / "eval.log")
    minutes = (time.monotonic() - started) / 60
    print(
        f"\nquickstart: {corpus}: WER {wer:.1f} %, CER {cer:.1f} % on "
        f"{len(read_manifest(manifests['test']))} unseen utterances, {minutes:.1f} minutes; "
        f"files in {out} (checkpoint/, {model}, report.html, curves.png, emissions.gif, "
        "train.log, eval.log, metrics.csv)"
    )


def _corpus(arguments: argparse.Namespace, out: Path) -> tuple[str, dict[str, Path]]:
    """Return the corpus by name, and its manifests."""
    if not arguments.an4:
        names = {"train": "train", "val": "validation", "test": "test"}
        return "telephone prompts", {
            split: PROMPTS / f"{name}.jsonl" for split, name in names.items()
        }
    folder = Path(arguments.an4)
    if arguments.an4 == "download":
        folder = _download(arguments.an4_url, out / "download")
    build_an4(folder, out / "data")
    return "CMU AN4", {
        split: out / "data" / f"an4_{split}_manifest.csv" for split in ("train", "val", "test")
    }


def _download(url: str, folder: Path) -> Path:
    """Fetch AN4's official archive, or the rest of it, and return the folder that holds it."""
    try:
        download(url, folder / AN4_ARCHIVE, md5=None)  # its publisher gives no checksum
    except UserError as error:
        raise UserError(
            f"AN4: {error}. Or fetch the archive by other means and give its folder: --an4 DIR"
        ) from error
    return folder


def _step(number: int, what: str, out: Path, script: Path, *arguments: str) -> None:
    shown = shlex.join(["python", os.path.relpath(script, out), *arguments])
    print(f"\n== {number}/5 {what}\n$ {shown}", flush=True)
    process = subprocess.Popen([sys.executable, str(script), *arguments], cwd=out)
    # Ctrl-C reaches the step too; SIGTERM is handed on. Either way it gets the time to save.
    signal.signal(signal.SIGTERM, lambda *_: process.terminate())
    try:
        code = process.wait()
    except KeyboardInterrupt:
        process.wait()
        raise
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
    if code == 128 + signal.SIGINT:
        raise KeyboardInterrupt
    if code in (128 + signal.SIGTERM, -signal.SIGTERM):
        raise Terminated
    if code:
        raise subprocess.CalledProcessError(code, shown)


def _two(utterances: list[Utterance]) -> list[Utterance]:
    """Choose two utterances of middling length: neither a word nor an address."""
    ordered = sorted(utterances, key=lambda utterance: (len(utterance.text), utterance.id))
    return [ordered[len(ordered) // 2], ordered[len(ordered) * 3 // 4]]


def _scores(log: Path) -> tuple[float, float]:
    rates = re.findall(r"Average WER ([\d.]+)\s+Average CER ([\d.]+)", log.read_text("utf-8"))
    wer, cer = rates[-1]
    return float(wer), float(cer)


if __name__ == "__main__":
    sys.exit(main())
