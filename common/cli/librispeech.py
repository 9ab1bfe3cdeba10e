"""LibriSpeech: download its archives, and make the manifests for both models.

The scripts download_librispeech.sh and preprocess_librispeech.sh run this.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from common.cli.downloads import exit_code, mirror_address, say
from common.data.librispeech import (
    ARCHIVES,
    MIRRORS,
    fetch_librispeech,
    prepare_librispeech,
)
from common.utils.errors import UserError
from common.utils.wording import counted

ROOT_DIR = "/datasets"  # default of the original scripts


def parser() -> argparse.ArgumentParser:
    """Create the parser of the command line."""
    top = argparse.ArgumentParser(prog="librispeech.py", description=__doc__)
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")

    download = commands.add_parser(
        "download",
        prog="download_librispeech.sh",
        help="download, verify and unpack",
        description="Download, verify and unpack LibriSpeech to DATA_ROOT_DIR/LibriSpeech/. Sets "
        "that are there are kept, an interrupted download is continued.",
    )
    download.add_argument(
        "data_set",
        nargs="?",
        default="LibriSpeech",
        metavar="DATA_SET",
        help="LibriSpeech, for all seven archives (60 GB, and as much unpacked), or names of some "
        f"with commas between [LibriSpeech]: {','.join(ARCHIVES)}",
    )
    download.add_argument("root", nargs="?", default=ROOT_DIR, metavar="DATA_ROOT_DIR")
    download.add_argument(
        "--mirror",
        default="main",
        metavar="NAME",
        help=f"{', '.join(MIRRORS)}, or the address of a folder that holds the archives [main]",
    )
    download.add_argument(
        "--remove_archives", action="store_true", help="once they are unpacked; halves the space"
    )

    prepare = commands.add_parser(
        "preprocess",
        prog="preprocess_librispeech.sh",
        help="manifests for both models",
        description="Write librispeech-<set>-wav.json for Jasper and libri_*_manifest.csv for "
        "DeepSpeech2, of every set found.",
    )
    prepare.add_argument(
        "speeds",
        nargs="*",
        metavar="SPEEDS",
        help="such as 0.9 1.1: copies of the training sets at these speeds, for Jasper's JSON",
    )
    prepare.add_argument(
        "--data_dir",
        default=f"{ROOT_DIR}/LibriSpeech",
        metavar="DIR",
        help=f"folder of train-*, dev-*, test-* [{ROOT_DIR}/LibriSpeech]",
    )
    prepare.add_argument("--out", metavar="DIR", help="folder for the manifests [DIR of the data]")
    prepare.add_argument("--sets", nargs="+", default=[], metavar="SET", help="only these")
    prepare.add_argument(
        "--wav", action="store_true", help="convert to WAV, 2 to 3 times the space [FLAC stays]"
    )
    prepare.add_argument(
        "--workers", type=int, default=os.cpu_count() or 1, help="processes [one a core]"
    )
    return top


def run(args: argparse.Namespace) -> None:
    """Run a sub-command.

    Args:
        args: The parsed command line.

    Raises:
        UserError: An argument is wrong, or a file cannot be downloaded, read or written.
    """
    if args.command == "download":
        names = list(ARCHIVES)
        if args.data_set != "LibriSpeech":
            names = [name.strip() for name in args.data_set.split(",")]
        for name in names:
            if name not in ARCHIVES:
                raise UserError(f"DATA_SET {name}: expected LibriSpeech, or {', '.join(ARCHIVES)}")
        url = mirror_address(args.mirror, MIRRORS)
        root = Path(args.root).expanduser()
        folders = fetch_librispeech(root, names, url, not args.remove_archives, log=say)
        print(f"{len(folders)} of {len(ARCHIVES)} sets in {root / 'LibriSpeech'}")
        return
    try:  # the original takes one argument, "0.9 1.1"
        speeds = [float(speed) for speed in " ".join(args.speeds).replace(",", " ").split()]
    except ValueError:
        raise UserError(f"SPEEDS {' '.join(args.speeds)}: expected numbers") from None
    root = Path(args.data_dir).expanduser()
    out = Path(args.out or root).expanduser()
    written = prepare_librispeech(root, out, args.sets, speeds, args.wav, args.workers, log=say)
    for path, count in written.items():
        print(f"{path}: {counted(count, 'utterance')}")


def main(argv: list[str] | None = None) -> int:
    """Run the command.

    Args:
        argv: The command line; None: that of the process.

    Returns:
        The exit code.
    """
    return exit_code(lambda: run(parser().parse_args(argv)))


if __name__ == "__main__":
    sys.exit(main())
