#!/usr/bin/env python3
"""Make data/telephone_prompts from Debian's Asterisk prompt packages.

    apt-get download asterisk-core-sounds-en asterisk-core-sounds-en-wav
    for package in asterisk-core-sounds-en*.deb; do dpkg-deb -x "$package" unpacked; done
    python scripts/make_telephone_prompts.py unpacked

Writes audio/**/*.opus and {train,validation,test}.jsonl. The same packages give the same texts,
splits and sound; only the random serial number inside each Ogg stream differs from run to run.
"""

from __future__ import annotations

import argparse
import gzip
import json
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

import soundfile

SOUNDS = Path("usr/share/asterisk/sounds/en_US_f_Allison")
TEXTS = Path("usr/share/doc/asterisk-core-sounds-en/core-sounds-en.txt.gz")
DESTINATION = Path(__file__).resolve().parents[1] / "data" / "telephone_prompts"

OPUS_COMPRESSION = 0.928  # libsndfile's scale of 256 to 6 kbit/s: 24 kbit/s, 5 MB for all prompts

# A whole transcript in brackets describes a tone or silence: there is nothing to read in it.
NOT_SPEECH = re.compile(r"[\[<(][^\])>]*[\])>]")

DROPPED = {
    "demo-instruct": "numbers that can be read several ways (500, 28.8, 1234, 8500); 73 s long",
    "demo-moreinfo": "a web address that can be read several ways",
    "spy-h323": "a standard's number that can be read several ways",
    "spy-iax": "an abbreviation said as a word that its letters do not spell",
    "spy-iax2": "an abbreviation said as a word that its letters do not spell",
}

# Six menus of one conference bridge with whole passages in common: in the test set, one of them
# would be known by heart from the others and would weigh as much as ten other prompts.
MENUS = ("conf-adminmenu", "conf-usermenu")

# What the general rules below would not turn into the words that are said.
SPOKEN = {
    "#": "pound",
    "*": "star",
    "0": "zero",
    "1": "one",
    "2": "two",
    "3": "three",
    "4": "four",
    "5": "five",
    "6": "six",
    "7": "seven",
    "8": "eight",
    "9": "nine",
    "3d": "three d",
    "ip": "i p",
    "ivr": "i v r",
    "mgcp": "m g c p",
    "pbx": "p b x",
    "usb": "u s b",
    "a.m.": "a m",
    "p.m.": "p m",
    # slips of the pen in the package
    "exclaimation-point": "exclamation point",
    "fourtieth": "fortieth",
    "represenatives": "representatives",
    "thru": "through",
    "umute": "unmute",
    "un-indentified": "unidentified",
    "witheld": "withheld",
}


@dataclass(frozen=True)
class Prompt:
    """A prompt with speech."""

    id: str  # path inside the package without suffix, for example digits/h-10
    wav: Path
    text: str  # normalised: A-Z, apostrophe, single spaces


def normalise(transcript: str) -> str:
    """Convert a transcript of the package to the words that are said.

    Args:
        transcript: The transcript as the package has it.

    Returns:
        Capital letters, apostrophes and single spaces; "" for a tone or silence.

    Raises:
        ValueError: It holds characters that no rule converts.
    """
    words = NOT_SPEECH.sub(" ", transcript).lower().split()
    spoken = []
    for word in words:
        bare = word.strip(".,:;!?\"'")
        spoken.append(SPOKEN.get(word) or SPOKEN.get(bare) or word)
    text = re.sub(r"[-.,:;!?\"]", " ", " ".join(spoken))
    text = " ".join(text.upper().split())
    if re.search(r"[^A-Z' ]", text):
        raise ValueError(f"{transcript!r} gives {text!r}: add what is said to SPOKEN or DROPPED")
    return text


def read_prompts(package: Path) -> list[Prompt]:
    """Read every prompt with speech.

    Args:
        package: The folder of the unpacked packages.

    Returns:
        The prompts, sorted by id.
    """
    with gzip.open(package / TEXTS, "rt", encoding="utf-8") as lines:
        pairs = [line.split(":", 1) for line in lines if ":" in line and not line.startswith(";")]
    prompts = []
    for prompt_id, transcript in sorted(pairs):
        wav = package / SOUNDS / f"{prompt_id}.wav"
        if prompt_id in DROPPED or not wav.exists():
            continue
        text = normalise(transcript)
        if text:
            prompts.append(Prompt(prompt_id, wav, text))
    return prompts


def split(prompts: list[Prompt]) -> dict[str, list[Prompt]]:
    """Split by text, so that no sentence is in two sets, evenly over short and long ones.

    The distinct texts, MENUS apart, are sorted by length, then alphabetically. Of each eight in a
    row the fourth goes to the test set; of each 18 in a row of the others the ninth to the
    validation set; the rest, and MENUS, are for training.
    """
    distinct = {prompt.text for prompt in prompts if not prompt.id.startswith(MENUS)}
    ordered = sorted(distinct, key=lambda text: (len(text), text))
    test = set(ordered[3::8])
    validation = set([text for text in ordered if text not in test][8::18])
    splits: dict[str, list[Prompt]] = {"train": [], "validation": [], "test": []}
    for prompt in prompts:
        name = (
            "test"
            if prompt.text in test
            else "validation"
            if prompt.text in validation
            else "train"
        )
        splits[name].append(prompt)
    return splits


def write(splits: dict[str, list[Prompt]], out: Path) -> None:
    """Write the recordings and the manifests.

    Args:
        splits: Name of a split -> its prompts.
        out: The folder.
    """
    shutil.rmtree(out / "audio", ignore_errors=True)
    for name, prompts in splits.items():
        seconds = 0.0
        with open(out / f"{name}.jsonl", "w", encoding="utf-8") as manifest:
            for prompt in prompts:
                samples, rate = soundfile.read(prompt.wav, dtype="int16")
                audio = Path("audio") / f"{prompt.id}.opus"
                (out / audio).parent.mkdir(parents=True, exist_ok=True)
                soundfile.write(
                    out / audio,
                    samples,
                    rate,
                    format="OGG",
                    subtype="OPUS",
                    compression_level=OPUS_COMPRESSION,
                )
                duration = len(samples) / rate
                row = {
                    "id": prompt.id,
                    "audio": audio.as_posix(),
                    "text": prompt.text,
                    "duration": round(duration, 3),
                }
                manifest.write(json.dumps(row) + "\n")
                seconds += duration
        print(f"{name}: {len(prompts)} prompts, {seconds / 60:.1f} minutes")


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("package", type=Path, help="directory both packages were unpacked into")
    parser.add_argument("out", type=Path, nargs="?", default=DESTINATION)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    write(split(read_prompts(args.package)), args.out)


if __name__ == "__main__":
    main()
