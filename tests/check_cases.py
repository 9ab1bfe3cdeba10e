"""Runs the commands of a folder of cases, and compares what they say with what is expected.

python tests/check_cases.py CASES [--only NAME ...] [--infer PROGRAM] [--verbose]

A case is a folder with recordings, manifests or models that users have met, which are not part of
the project. CASES below has the commands and what is expected: exit codes, and what must or must
not be said. A line a case; a case without a folder, and steps that need the C++ program where
--infer does not name it, are left out, and it is said. The exit code is 1 if a case fails.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LIMIT = 1800.0  # seconds for a command


@dataclass(frozen=True)
class Step:
    """A command and what is expected of it.

    Attributes:
        line: For bash, in an empty folder of the case. {case}: its folder; {python} {root} {infer}
            {mindir}: the interpreter, the project, the C++ program, a model that it runs.
        code: Exit codes that are right.
        says: Regular expressions that standard output and standard error must match together.
        never: ... and must not match.
    """

    line: str
    code: Sequence[int] = (0,)
    says: Sequence[str] = ()
    never: Sequence[str] = ()


_DS, _JASPER = "{python} {root}/deepspeech2", "{python} {root}/jasper"
_MANIFEST = "{python} {root}/scripts/manifest.py"
_TRANSCRIBE, _VALIDATE = f"{_DS}/transcribe.py", f"{_DS}/validate.py --preset an4"
_INFER = "{infer} --mindir_path {mindir} --audio"
_ALL = r"(?m)^(\S+\t)?(I )?ONE TWO THREE$"
_TWICE = r"(?m)^(\S+\t)?.*ONE TWO THREE ONE TWO THREE$"


def _both(files: str, code: Sequence[int], says: Sequence[str], never: Sequence[str] = ()):
    """The same outcome of both programs."""
    return [Step(f"{program} {files}", code, says, never) for program in (_TRANSCRIBE, _INFER)]


def _python(program: str, *says: str) -> Step:
    """A line of Python with the project's modules."""
    return Step(f"PYTHONPATH={{root}} {{python}} -c {program!r}", says=says)


# The table is read: four lines, whose recordings do not lie beside the case.
_READ = ["of 4 utterances are good", r"an409-fcaw-b: audio file .*an409-fcaw-b\.wav: No such file"]
_SEARCH = "decoder_type=beam alpha=0.8 beta=1 beam_width=50"
_FOLD = (
    "import unicodedata; from common.text.tokenizer import CharacterTokenizer as T; "
    "fold = lambda labels, text: T(tuple(labels)).normalise(text); "
    'print(fold("ABCDEFGHIJKLMNOPQRSTUVWXYZÄÖÜß _", "straße"), '
    'fold("ABCDEFGHIJKLMNOPQRSTUVWXYZÄÖÜẞ _", "straße"), '
    'fold("ABCDEFGHIJKLMNOPQRSTUVWXYZÑª _", "niño"), '
    'unicodedata.is_normalized("NFC", fold("ΑΡΠΩΪΥΫ _", "πρωΐα")))'
)
_NORMALISE = (
    'from common.text.normalization import normaliser; f = normaliser("english", []); '
    'print([f(text) for text in ("10%", "-5", ".5", "5$", "1 000")])'
)
_STORED = (
    "import numpy as np; from common.data.mindrecord import open_dataset; "
    "from common.audio.io import load_audio; from deepspeech2.src.recipe import RECIPE; "
    'data = open_dataset("out/train"); config = RECIPE.train_config().DataConfig; '
    "make = RECIPE.build_featurizer(config); rows = list(data.read(range(len(data)))); "
    'files = ["{case}/" + row.id + ".wav" for row in rows]; '
    "pairs = [(row.samples(make), load_audio(file, 16000)) for row, file in zip(rows, files)]; "
    "print(all(np.corrcoef(a, b)[0, 1] > 0.9999 for a, b in pairs), len(pairs))"
)

CASES: dict[str, list[Step]] = {
    "arpa-gz": [
        Step(
            f"for model in lower.arpa lower.arpa.gz upper.arpa upper.arpa.gz; do {_TRANSCRIBE} "
            "{case}/../flac_streamed_refused/streamed.flac "
            f"--set {_SEARCH} lm_path={{case}}/$model; done | sort | uniq -c",
            says=[r"(?m)^\s*4 ONE TWO THREE$"],
        )
    ],
    "case-folding-others": [_python(_FOLD, "STRAßE STRAẞE NIÑO True")],
    "char-lm": [
        Step(
            f"{_DS}/eval.py --set {_SEARCH} lm_path={{case}}/chars.arpa "
            "test_manifest={case}/../nemo-offset/nemo_offset.jsonl",
            says=[r"knows \d+ % of"],
        )
    ],
    "conversion_messages": [
        Step(f"{_JASPER}/mind2pt.py --ckpt {{root}}/jasper/pretrained/an4.ckpt --pth an4.pt"),
        Step("{python} {case}/make.py > made.txt 2>&1; ls *.nemo", says=["v24.nemo"]),
        Step(f"{_JASPER}/pt2mind.py --pth v35_cut.pt --ckpt x.ckpt", (1,), ["truncated"]),
        Step(f"{_JASPER}/pt2mind.py --pth v24.nemo --ckpt x.ckpt", (1,), ["model_weights.ckpt"]),
        Step(f"{_JASPER}/pt2mind.py --pth v14_ema_empty.pt --ckpt x.ckpt", says=["tensors match"]),
        Step(f"{_JASPER}/pt2mind.py --pth v22_nemo_wer.ckpt --ckpt x.ckpt", says=["tensors match"]),
        Step(
            f"{_JASPER}/pt2mind.py --pth v26_JasperEncoder-STEP-100.pt --ckpt x.ckpt",
            (1,),
            ["second file|[Dd]ecoder"],
        ),
        Step(f"{_JASPER}/pt2mind.py --pth v07_nan.pt --ckpt x.ckpt", (1,), ["not finite"]),
    ],
    "cpp_long_recording_takes_all": [
        Step(
            "{python} -c 'import soundfile as s, numpy as n, sys; d, r = s.read(sys.argv[1]); "
            's.write("m44.flac", n.tile(d, 44 * 60 * r // len(d) + 1), r)\' {case}/g1.wav; '
            f"ulimit -v 9437184; {_INFER} {{case}}/g1.wav m44.flac {{case}}/g1.wav --batch_size 1",
            (1,),
            [r"(?m)^\S*g1.wav\tONE TWO THREE", "m44.flac"],
            [r"failed: \S*g1.wav"],
        )
    ],
    "csv-quote": [
        Step(f"{_VALIDATE} {{case}}/quote.csv", (1,), [r"line \d"]),
        Step(f"{_MANIFEST} labels {{case}}/quote.csv labels.json", (1,), [r"line \d"]),
    ],
    "description_of_another_model": [
        Step(
            f"{_DS}/export.py --pre_trained_model_path {{root}}/deepspeech2/pretrained/an4.ckpt "
            "--file_name d",
        ),
        Step(
            f"{_JASPER}/export.py --pre_trained_model_path {{root}}/jasper/pretrained/an4.ckpt "
            "--file_name j",
        ),
        Step(
            "cp j.mindir mixed.mindir; cp d.json mixed.json; "
            "{infer} --mindir_path mixed.mindir --audio {case}/good.wav",
            (1, 2),
            ["bytes|checksum"],
            ["ONE"],
        ),
    ],
    "dwvw_and_raw_paths_differ": [
        *_both("{case}/83_wav.raw", (0,), [_ALL]),
        *_both("{case}/49_dwvw.aif", (1,), ["DWVW"]),
    ],
    "english-normaliser": [
        _python(_NORMALISE, "ten percent", "minus five", "point five", "five dollars")
    ],
    "flac_streamed_refused": _both("{case}/streamed.flac", (0,), [_ALL]),
    "float-wav-clipped": [
        Step(
            f"{_DS}/create_mindrecord.py --preset an4 --set train_manifest={{case}}/train.csv "
            "val_manifest= shards=1 'mindrecord_format=out/{{split}}/x{{}}.md'"
        ),
        _python(_STORED, "^True 2$"),
    ],
    "foreign-csv": [
        Step(f"{_VALIDATE} {{case}}/mozilla.csv", (1,), _READ),
        Step(f"{_VALIDATE} {{case}}/tab.tsv", (1,), _READ),
        Step(f"{_VALIDATE} {{case}}/semi.csv", (1,), _READ),
        Step(f"{_VALIDATE} {{case}}/utf16.csv", (1,), _READ),
        Step(f"{_VALIDATE} {{case}}/onecol.csv", (1,), ["column|transcript"]),
        Step(f"{_VALIDATE} {{case}}/noext.csv", (1,), ["of 4 utterances", "No such file"]),
        Step(f"{_VALIDATE} {{case}}/swapped.csv", (1,), [], ["of 3 utterances"]),
    ],
    "header_says_less_silent_loss": [
        *_both("{case}/half_declared.wav", (1,), ["121052 bytes follow the 121052 bytes of sound"]),
        *_both("{case}/total_third.flac", (0,), [_ALL]),
    ],
    "mp3_vbr_silent_loss": [
        *_both("{case}/click_then_twice_vbr_noxing.mp3", (0,), [_TWICE]),
        *_both("{case}/click_then_twice_vbr_xing.mp3", (0,), [_TWICE]),
        *_both("{case}/click_then_twice.wav", (0,), [_TWICE]),
    ],
    "mp3_whole_refused": _both("{case}/cbr_noxing.mp3", (0,), [_ALL]),
    "nemo-offset": [
        Step(f"{_VALIDATE} {{case}}/nemo_offset.jsonl", (0,), ["4 of 4 utterances are good"]),
        Step(
            f"{_DS}/eval.py --set test_manifest={{case}}/nemo_offset.jsonl",
            (0,),
            [r"(?i)average WER\s+\d\.|WER (was )?\d?\d\."],
            ["3\\d\\d\\.\\d"],
        ),
    ],
    "ogg_chained_silent_loss": _both("{case}/chained.opus", (0,), [_TWICE]),
    "ogg_trailing_bytes_paths_differ": _both("{case}/63_trailing_id3v1.opus", (0,), ["ONE"]),
    "onnx_export_deletes_mindir": [
        Step(
            f"{_DS}/export.py --pre_trained_model_path {{root}}/deepspeech2/pretrained/an4.ckpt; "
            f"{_DS}/export.py --pre_trained_model_path {{root}}/deepspeech2/pretrained/an4.ckpt "
            "--file_format ONNX; ls",
            says=["deepspeech2.mindir\n", "deepspeech2.onnx\n", r"deepspeech2.*\.json"],
        )
    ],
    "pipe_traceback_or_hang": [
        Step(f"cat {{case}}/good.wav | {_TRANSCRIBE} /dev/stdin", (0, 1), ["ONE TWO THREE|pipe"]),
        Step(
            f"{_TRANSCRIBE} {{case}}/good.wav <(cat {{case}}/good.wav)",
            (0, 1),
            [r"good.wav\tONE TWO THREE"],
        ),
        Step(
            f"mkfifo f.wav; {_TRANSCRIBE} {{case}}/good.wav f.wav",
            (1,),
            [r"good.wav\tONE TWO THREE", "f.wav"],
        ),
        Step(f"set -o pipefail; {_TRANSCRIBE} {{case}}/good.wav > /dev/full", (1, 74), ["space"]),
    ],
    "patience": [
        Step(
            f"{_DS}/create_mindrecord.py --preset quickstart --config {{case}}/tiny.yaml --set "
            "train_manifest={case}/train.jsonl val_manifest={case}/validation.jsonl "
            "labels_path={case}/labels.json",
            (0,),
        ),
        Step(
            f"{_DS}/train.py --preset quickstart --config {{case}}/tiny.yaml --set epochs=20 "
            "train_manifest={case}/train.jsonl val_manifest={case}/validation.jsonl "
            "labels_path={case}/labels.json patience=3 OptimConfig.learning_rate=4e-3 "
            "max_utterances=12",
            (0,),
            [],
            ["better WER than 100.00"],
        ),
    ],
    "readme-an4-cer": [Step("cat {root}/README.md {root}/README_CN.md", says=["5.515"])],
    "single-word-wer": [
        Step(
            f"{_MANIFEST} labels {{case}}/train.jsonl labels.json; cat labels.json",
            (0,),
            ["_"],
        ),
        _python(
            "from common.text.tokenizer import CharacterTokenizer as T; "
            'print(T(tuple("ABCDEFGHIJKLMNOPQRSTUVWXYZ_")).words("ACTIVATED"))',
            r"\['ACTIVATED'\]",
        ),
    ],
    "speed-copies-csv": [
        Step(
            f"{_MANIFEST} json_to_csv {{case}}/jasper.json j.csv; wc -l j.csv",
            (0,),
            ["3 utterances|3 j.csv", "speed"],
        )
    ],
    "symlink-dotdot": [
        Step(
            # A copy of the folder may have lost its symbolic link.
            "cp -r {case}/project {case}/store .; rm -rf project/manifests; "
            "ln -s ../store/v2/manifests project/manifests; "
            f"{_DS}/eval.py --set test_manifest=$PWD/project/manifests/train.csv",
            (0,),
            ["RUBOUT"],
            ["(?m)Hyp.*GO$"],
        )
    ],
    "turkish": [
        _python(
            "import json; from common.text.tokenizer import CharacterTokenizer as T; "
            'labels = json.load(open("{case}/labels.json")); '
            'print(T(tuple(labels)).normalise("bir iki istanbul ısparta"))',
            "BİR İKİ İSTANBUL ISPARTA|bir iki",
        )
    ],
    "two-manifests": [
        Step(f"{_DS}/eval.py --set 'test_manifest=[{{case}}/a.csv,{{case}}/b.csv]'", (0,), ["GO"])
    ],
    "two_exports_at_once": [
        Step(
            "for i in 1 2; do "
            f"{_DS}/export.py --pre_trained_model_path {{root}}/deepspeech2/pretrained/an4.ckpt "
            "--file_name m & done; wait; ls",
            (0,),
            ["m.mindir\n", "m.json\n", "exported"],
        )
    ],
    "vbr-mp3-cut": _both("{case}/vbr_stream.mp3", (0,), [r"ERASE C Q Q F SEVEN"], ["truncated"]),
    "wav_24_in_4_bytes": _both("{case}/pcm_24_in_4.wav", (0, 1), [f"{_ALL}|24 bits"]),
    "wav_many_tags_cut": [
        *_both("{case}/tags30x60_cut.wav", (1,), ["truncated"]),
        *_both("{case}/tags30x60_whole.wav", (0,), ["ONE TWO THREE"]),
    ],
    "weights_not_finite": [
        Step(f"{_JASPER}/mind2pt.py --ckpt {{root}}/jasper/pretrained/an4.ckpt --pth an4.pt"),
        Step("{python} {case}/make.py; ls", says=["nan.pt", "inf.pt", "negvar.pt"]),
        Step(f"{_JASPER}/pt2mind.py --pth nan.pt --ckpt x.ckpt", (1,), ["not finite"]),
        Step(f"{_JASPER}/pt2mind.py --pth inf.pt --ckpt x.ckpt", (1,), ["not finite"]),
        Step(f"{_JASPER}/pt2mind.py --pth negvar.pt --ckpt x.ckpt", (1,), ["negative|below 0"]),
    ],
}
CONTAINS = "Traceback (most recent call last)"


class Places:
    """What the placeholders of a step stand for."""

    def __init__(self, cases: Path, folder: Path, infer: Path | None):
        self.cases, self.folder, self.infer = cases, folder, infer
        self.mindir = folder / "deepspeech2.mindir"

    def fill(self, line: str, case: str) -> str:
        return (
            line.replace("{{", "\0")
            .replace("}}", "\1")
            .format(
                case=self.cases / case,
                python=sys.executable,
                root=ROOT,
                infer=self.infer,
                mindir=self.mindir,
            )
            .replace("\0", "{")
            .replace("\1", "}")
        )

    def export(self) -> None:
        """Write the model that the C++ program runs."""
        checkpoint = ROOT / "deepspeech2" / "pretrained" / "an4.ckpt"
        command = [sys.executable, str(ROOT / "deepspeech2" / "export.py"), "--file_name"]
        command += [str(self.mindir), "--pre_trained_model_path", str(checkpoint)]
        subprocess.run(command, check=True, cwd=self.folder, stdout=subprocess.DEVNULL)


def failure(step: Step, line: str, folder: Path, verbose: bool) -> str:
    """What is not as expected, "" if all is."""
    environment = {**os.environ, "COLUMNS": "200"}
    try:
        done = subprocess.run(
            ["bash", "-c", line],
            cwd=folder,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=LIMIT,
            env=environment,
        )
    except subprocess.TimeoutExpired:
        return f"no end in {LIMIT:g} s"
    said = (done.stdout + done.stderr).decode(errors="replace")
    if verbose:
        print(f"$ {line}\n{said}exit code {done.returncode}", flush=True)
    found = []
    if done.returncode not in step.code:
        expected = " or ".join(map(str, step.code))
        found.append(f"exit code {done.returncode}, expected {expected}")
    found += [f"does not say {pattern}" for pattern in step.says if not re.search(pattern, said)]
    found += [
        f"says {pattern}"
        for pattern in (*step.never, re.escape(CONTAINS))
        if re.search(pattern, said)
    ]
    last = said.strip().splitlines()[-1][:200] if said.strip() else "nothing"
    return f"{'; '.join(found)}; the last line is: {last}" if found else ""


def check(name: str, places: Places, verbose: bool) -> tuple[bool, str]:
    """Whether a case is as expected, and a line on it."""
    if not (places.cases / name).is_dir():
        return True, "left out: no such folder"
    folder = places.folder / name
    folder.mkdir()
    begun, failures, without = time.monotonic(), [], 0
    for number, step in enumerate(CASES[name], 1):
        if "{infer}" in step.line and places.infer is None:
            without += 1
            continue
        if problem := failure(step, places.fill(step.line, name), folder, verbose):
            failures.append(f"step {number}: {problem}")
    shutil.rmtree(folder)
    if failures:
        return False, f"FAILED, {' | '.join(failures)}"
    note = f", {without} steps left out, which need --infer" if without else ""
    return True, f"ok ({len(CASES[name]) - without} steps, {time.monotonic() - begun:.0f} s{note})"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("cases", type=Path, help="the folder of the cases")
    parser.add_argument("--only", nargs="+", choices=sorted(CASES), metavar="NAME")
    parser.add_argument("--infer", type=Path, help="the C++ program")
    parser.add_argument("--verbose", action="store_true", help="print what the commands say")
    arguments = parser.parse_args()
    infer = arguments.infer and arguments.infer.resolve()
    folder = Path(tempfile.mkdtemp(prefix="cases-"))
    places, failed = Places(arguments.cases.resolve(), folder, infer), 0
    try:
        if infer:
            places.export()
        for name in arguments.only or CASES:
            good, line = check(name, places, arguments.verbose)
            failed += not good
            print(f"{name}: {line}", flush=True)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    others = sorted(
        path.name for path in places.cases.iterdir() if path.is_dir() and path.name not in CASES
    )
    if others:
        print(f"no expectations for: {', '.join(others)}")
    print(f"{failed} cases failed")
    return min(failed, 1)


if __name__ == "__main__":
    sys.exit(main())
