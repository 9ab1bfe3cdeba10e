"""The commands as users start them: what they print, what they refuse, the code they exit with."""

from __future__ import annotations

import json
import os
import re
import runpy
import shutil
import signal
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace

import mindspore as ms
import numpy as np
import pytest
import soundfile as sf
import yaml
from synthetic_corpus import LABELS, RATE, memory_for, settings, trained

from common import cli
from common.model import checkpoint
from common.model.speech_model import SpeechModel
from common.training import trainer as training
from common.training.progress import Progress
from common.training.stopping import Stop, StopReason, TrainingResult
from common.utils import runtime
from common.utils.errors import UserError
from deepspeech2.src.recipe import RECIPE

ROOT = Path(__file__).resolve().parents[1]


def start(script: str, *arguments: str, cwd: Path) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, str(ROOT / "deepspeech2" / f"{script}.py"), *arguments],
        cwd=cwd,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A folder with a trained checkpoint, its corpus, and much that is broken."""
    folder = tmp_path_factory.mktemp("place")
    shutil.copy(trained() / "checkpoint" / "tiny-best.ckpt", folder / "good.ckpt")
    shutil.copytree(trained() / "test", folder / "test")
    shutil.copytree(trained() / "records" / "val", folder / "cut" / "train")
    (folder / "tiny.yaml").write_text(yaml.safe_dump(settings(trained())))

    content = (folder / "good.ckpt").read_bytes()
    (folder / "cut.ckpt").write_bytes(content[: len(content) // 2])
    (folder / "good.model").write_bytes(content)
    (folder / "text.ckpt").write_text("not a checkpoint\n" * 20)
    found = checkpoint.load(folder / "good.ckpt")
    weights = {
        name: ms.Parameter(ms.Tensor(value), name=name) for name, value in found.parameters.items()
    }
    checkpoint.save(folder / "jasper.ckpt", weights, found.metadata | {"model": "jasper"})
    few = [{"name": "conv.conv1.weight", "data": weights["conv.conv1.weight"]}]
    ms.save_checkpoint(few, str(folder / "few.ckpt"))

    (folder / "blankless.json").write_text(json.dumps(LABELS[:-1]))
    (folder / "reordered.json").write_text(json.dumps(LABELS[::-1]))
    (folder / "beamless.yaml").write_text("LMConfig: {decoder_type: beam, beam_width: 0}")
    (folder / "empty.csv").write_text("")
    recording = (folder / "test" / "test0.wav").read_bytes()
    (folder / "cut.wav").write_bytes(recording[: len(recording) // 2])
    (folder / "cut.csv").write_text(f"test/test1.wav,AB!\n{folder / 'cut.wav'},CD\n")
    (folder / "words.wav").write_text("not a recording\n")
    shard = folder / "cut" / "train" / "tones1.md"
    shard.write_bytes(shard.read_bytes()[:1000])
    return folder


# ---- bad input: one line on stderr, exit code 1


@dataclass(frozen=True)
class Refused:
    command: str
    says: str  # a regular expression for the line after "error: "


TRAIN = "train --config tiny.yaml"
CONVERT = "create_mindrecord --config tiny.yaml"
REFUSED = {
    "no MindRecord files": Refused(
        TRAIN + " --set mindrecord_format=none/{split}/x{}.md",
        r"none/train: no converted corpus here .*run create_mindrecord\.py",
    ),
    "other features": Refused(
        TRAIN + " --set bands=20", r"records/train: features.bands is 16 in the files, 20 is wanted"
    ),
    "other labels": Refused(
        TRAIN + " --set labels_path=reordered.json",
        r"6 are wanted; the first that differs, number 0, is 'A' in the files, '_' is wanted",
    ),
    "a truncated shard": Refused(
        TRAIN + " --set mindrecord_format=cut/{split}/tones{}.md",
        r"cut/train/tones1\.md: 1000 bytes, expected \d+; it is truncated",
    ),
    "records of another manifest": Refused(
        TRAIN + " --set train_manifest=cut.csv",
        r".*records/train was converted from .*/train\.csv, and train_manifest is cut\.csv:",
    ),
    "the folder of another corpus": Refused(
        CONVERT + " --set mindrecord_format=cut/{split}/x{}.md",
        r"cut/train: holds another corpus, made as tones\{\}\.md; choose another directory",
    ),
    "labels without blank": Refused(
        CONVERT + " --set labels_path=blankless.json",
        r"labels file blankless\.json: labels without blank",
    ),
    "no labels file": Refused(
        CONVERT + " --set labels_path=none.json", r"labels file none\.json: No such file"
    ),
    "an empty manifest": Refused(
        CONVERT + " --set train_manifest=empty.csv", r"empty\.csv.*holds no utterances"
    ),
    "no manifest": Refused(
        CONVERT + " --set train_manifest=none.csv", r"none\.csv.*[Nn]o such file"
    ),
    "no place for MindRecord files": Refused(
        CONVERT + " --set mindrecord_format=/dev/null/{split}/x{}.md",
        r"/dev/null.*cannot be written",
    ),
    "no place for checkpoints": Refused(
        TRAIN + " --set ckpt_path=/dev/null/x",
        r"checkpoint folder /dev/null/x: cannot be written .*set CheckpointConfig\.ckpt_path",
    ),
    "no place for log-probabilities": Refused(
        "eval --pretrain_ckpt good.ckpt --set save_output=/dev/null/x",
        r"save_output /dev/null/x: cannot be made",
    ),
    "no place for a report": Refused(  # told before the checkpoint is looked at
        "eval --pretrain_ckpt none.ckpt --set report=/dev/null/x.html",
        r"/dev/null/x\.html: cannot be written",
    ),
    "no place for an export": Refused(
        "export --pre_trained_model_path good.ckpt --file_name /dev/null/x",
        r"/dev/null/x.*could not be written",
    ),
    "no checkpoint": Refused(
        "eval --pretrain_ckpt none.ckpt", r"checkpoint none\.ckpt: no such file"
    ),
    "a truncated checkpoint": Refused(
        "eval --pretrain_ckpt cut.ckpt",
        r"checkpoint cut\.ckpt: not a readable MindSpore checkpoint, truncated .*\(\d+ bytes\)",
    ),
    "a checkpoint by another name": Refused(
        "eval --pretrain_ckpt good.model",
        r"checkpoint good\.model: MindSpore reads checkpoints from files named \*\.ckpt alone",
    ),
    "a text file for a checkpoint": Refused(
        "export --pre_trained_model_path text.ckpt", r"text\.ckpt: not a readable MindSpore"
    ),
    "another model's checkpoint": Refused(
        "transcribe test/test0.wav --pretrain_ckpt jasper.ckpt",
        r"jasper\.ckpt: holds a jasper network, expected deepspeech2; use the commands of jasper/",
    ),
    "a checkpoint of few parameters": Refused(
        TRAIN + " --pre_trained_model_path few.ckpt",
        r"few\.ckpt: not of this network: 1 of \d+ parameters match; \d+ missing",
    ),
    "another size": Refused(
        TRAIN + " --pre_trained_model_path good.ckpt --set hidden_size=20",
        r"good\.ckpt: not of this network: .* in the file, .* in the network",
    ),
    "a device that is not there": Refused(
        "eval --pretrain_ckpt good.ckpt --device_target Ascend",
        r"device Ascend is not available: this machine has .*CPU",
    ),
    "no such preset": Refused(
        "train --preset nonsense", r"--preset nonsense: unknown, expected one of .*an4"
    ),
    "no such key": Refused(
        TRAIN + " --set batch_sise=3",
        r"--set batch_sise=3: unknown key batch_sise, did you mean DataConfig\.batch_size\?",
    ),
    "no such decoder": Refused(
        "eval --pretrain_ckpt good.ckpt --set decoder_type=oracle",
        r"decoder_type is 'oracle'; there is",
    ),
    "no language model": Refused(
        "transcribe test/test0.wav --pretrain_ckpt good.ckpt --set decoder_type=beam lm_path=none",
        r"LMConfig\.lm_path none: (No such file|.*bash \S*scripts/setup\.sh requirements-lm\.txt)",
    ),
    "no beam": Refused(
        "eval --pretrain_ckpt good.ckpt --config beamless.yaml",
        r"LMConfig\.beam_width=0: expected at least 1",
    ),
    "no batch": Refused(
        "transcribe test/test0.wav --pretrain_ckpt good.ckpt --batch_size -1",
        r"--batch_size -1: expected at least 1",
    ),
    "a key that transcribe.py does not follow": Refused(
        "transcribe test/test0.wav --pretrain_ckpt good.ckpt --set batch_size=2 report=x.html",
        r"--set report=x\.html: of no effect on transcribe\.py, leave it out",
    ),
    "a configuration beside a checkpoint that has one": Refused(
        "eval --pretrain_ckpt good.ckpt --train_config tiny.yaml",
        r"--train_config: checkpoint good\.ckpt carries its own configuration; leave it out",
    ),
    "a configuration without a checkpoint": Refused(
        "validate --config tiny.yaml --train_config tiny.yaml",
        r"--train_config is for --pretrain_ckpt, which is not given",
    ),
    "nothing to resume": Refused(
        TRAIN + " --resume --set ckpt_path=none", r"--resume: no checkpoint none/tiny-last\.ckpt"
    ),
    "resuming and beginning at once": Refused(
        TRAIN + " --resume --pre_trained_model_path good.ckpt", r"--resume goes on with a run"
    ),
}


def contents(folder: Path) -> dict[str, tuple[int, int]]:
    return {
        str(path): (path.stat().st_size, path.stat().st_mtime_ns)
        for path in folder.rglob("*")
        if path.is_file() and path.suffix != ".log"
    }


@pytest.mark.parametrize("name", REFUSED)
def test_bad_input_is_one_line_and_exit_code_1(name, place, monkeypatch, capfd):
    """In this process: for each a new one would import MindSpore."""
    before = contents(place) | contents(trained())
    script, *arguments = REFUSED[name].command.split()
    monkeypatch.chdir(place)
    monkeypatch.setattr(sys, "argv", [f"{script}.py", *arguments])
    with pytest.raises(SystemExit) as stopped:
        runpy.run_path(str(ROOT / "deepspeech2" / f"{script}.py"), run_name="__main__")
    said = capfd.readouterr().err
    assert stopped.value.code == 1, said
    assert len(said.splitlines()) == 1, said
    assert re.match("error: .*" + REFUSED[name].says, said), said
    after = contents(place) | contents(trained())
    assert {path: after.get(path) for path in before} == before  # nothing was touched


def test_several_test_sets_are_scored_as_one(place, monkeypatch, capsys):
    monkeypatch.chdir(place)
    sets = [trained() / "test.csv", trained() / "val.csv"]
    options = ["--set", f"test_manifest=[{sets[0]}, {sets[1]}]", "verbose=false"]
    cli.evaluate(RECIPE, ["--pretrain_ckpt", "good.ckpt", *options])
    said = capsys.readouterr().out
    assert f"test set {sets[0]}, {sets[1]}\n" in said
    assert "utterances: 9, " in said


@pytest.mark.launcher
def test_a_cut_recording_is_named_and_the_others_are_scored(place):
    done = start(
        *"eval --pretrain_ckpt good.ckpt --set test_manifest=cut.csv verbose=false".split(),
        "report=pages/cut.html",
        cwd=place,
    )
    assert done.returncode == 1
    errors = done.stderr.splitlines()
    assert re.match(r"audio file .*cut\.wav: truncated: \d+ bytes where", errors[0])
    assert errors[1:] == [
        "references hold characters without a label, which are errors: '!' in 1",
        "error: 1 of 2 recordings were not read, as said above; "
        "the figures are those of the others",
    ]
    assert "utterances: 1, 0.00 hours" in done.stdout
    report, *_, summary = done.stdout.splitlines()[-4:]
    assert re.match(r"Test Summary \tAverage WER \d", summary)
    assert report == "report: pages/cut.html"
    page = (place / "pages" / "cut.html").read_text(encoding="utf-8")
    assert "1 of 2 recordings" in page and page.count("<audio") == 1


@pytest.mark.launcher
def test_an_error_of_training_is_in_the_log_too(place, tmp_path):
    options = ["--config", str(place / "tiny.yaml"), "--set", "ckpt_path=/dev/null/x"]
    done = start("train", *options, cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr.startswith("error: checkpoint folder /dev/null/x: cannot be written")
    assert len(done.stderr.splitlines()) == 1
    assert done.stderr in (tmp_path / "train.log").read_text()


# ---- what they do


@pytest.mark.launcher
def test_eval_needs_nothing_but_the_checkpoint(place):
    done = start("eval", "--pretrain_ckpt", "good.ckpt", cwd=place)
    assert (done.returncode, done.stderr) == (0, "")
    printed = done.stdout.splitlines()
    summary = r"Test Summary \tAverage WER \d+\.\d{3}\tAverage CER \d+\.\d{3}"
    assert re.fullmatch(summary, printed[-1])
    assert f"test set {trained() / 'test.csv'}" in printed[0]
    for start_of_line in ("Ref: ", "Hyp: ", "WER: "):
        assert sum(line.startswith(start_of_line) for line in printed) == 5
    assert (place / "eval.log").read_text().splitlines()[-len(printed) :] == printed


@pytest.mark.launcher
def test_transcribe_prints_the_good_ones_and_names_the_bad(place):
    files = ["test/test1.wav", "cut.wav", "test/test0.wav", "words.wav", "test/test1.wav"]
    done = start("transcribe", *files, "--pretrain_ckpt", "good.ckpt", cwd=place)
    assert done.returncode == 1
    names = [line.split("\t")[0] for line in done.stdout.splitlines()]
    assert names == ["test/test1.wav", "test/test0.wav", "test/test1.wav"]
    cut, words, summary = done.stderr.splitlines()
    assert re.match(r"error: .*cut\.wav: truncated: ", cut)
    assert re.match(r"error: .*words\.wav: ", words)
    assert summary == "error: 2 of 5 files were not read"


@pytest.fixture
def short_of_memory(place, cpu, monkeypatch) -> Path:
    """A recording longer than the machine can take; the others are not."""
    long = np.concatenate([sf.read(place / "test" / "test0.wav")[0]] * 20)
    sf.write(place / "long.wav", long, RATE)
    speech_model = SpeechModel.from_checkpoint(RECIPE, place / "good.ckpt", cpu)
    memory = memory_for(10 * 100, speech_model)  # 10 s
    monkeypatch.setattr(runtime, "machine_memory", lambda: memory)
    monkeypatch.chdir(place)
    return place / "long.wav"


TOO_LONG = (
    r"audio file .*long\.wav: (\d\d) s take about 0\.\d GiB to recognise, and 0\.\d GiB are "
    r"allowed \(80 % of this machine's memory, .*\): cut it into pieces of at most 10 s"
)


def test_transcribe_cuts_a_recording_that_is_too_long_for_the_memory(short_of_memory, capsys):
    files = ["long.wav", "test/test0.wav", "test/test1.wav"]
    assert cli.transcribe(RECIPE, [*files, "--pretrain_ckpt", "good.ckpt"]) == 0
    printed = capsys.readouterr()
    assert [line.split("\t")[0] for line in printed.out.splitlines()] == files
    assert printed.err == "warning: long.wav: no speech found\n"  # it is of tones


def test_eval_names_a_recording_that_is_too_long_and_scores_the_others(short_of_memory, capsys):
    Path("long.csv").write_text(f"test/test1.wav,AB\n{short_of_memory},CD\n")
    arguments = ["--pretrain_ckpt", "good.ckpt", "--set", "test_manifest=long.csv"]
    with pytest.raises(UserError, match="1 of 2 recordings were not read, as said above"):
        cli.evaluate(RECIPE, arguments)
    printed = capsys.readouterr()
    assert re.fullmatch(TOO_LONG, printed.err.strip())
    assert "utterances: 1, " in printed.out and "Test Summary" in printed.out


@pytest.mark.launcher
def test_eval_goes_on_without_a_log_file(place, tmp_path):
    (tmp_path / "eval.log").mkdir()
    done = start("eval", "--pretrain_ckpt", str(place / "good.ckpt"), cwd=tmp_path)
    assert done.returncode == 0
    assert done.stderr == (
        "log file eval.log: cannot be written (Is a directory); continuing without it\n"
    )
    assert done.stdout.splitlines()[-1].startswith("Test Summary")


@pytest.mark.launcher
def test_train_says_at_once_that_it_cannot_write_its_log(tmp_path):
    """Before anything else is looked at that needs MindSpore, such as what to resume."""
    (tmp_path / "train.log").mkdir()
    done = start("train", "--resume", cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr == "error: train.log: cannot be written (Is a directory)\n"


@pytest.mark.launcher
def test_ctrl_c_while_mindspore_is_imported(tmp_path):
    """MindSpore's own exit handlers would print a traceback, and end the process by SIGABRT."""
    code = (
        "import sys\n"
        "class Interrupting:\n"
        "    def find_spec(self, name, *rest):\n"
        "        if name == 'mindspore.train.callback': raise KeyboardInterrupt\n"
        f"sys.path.insert(0, {str(ROOT)!r})\n"
        "from common import cli\n"
        "sys.meta_path.insert(0, Interrupting())\n"
        "from deepspeech2.src.recipe import RECIPE\n"
        "sys.argv = ['eval.py', '--pretrain_ckpt', 'none.ckpt']\n"
        "cli.run(cli.evaluate, RECIPE)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (130, "interrupted\n")


def test_transcribe_prints_the_text_of_one_file_alone(place, monkeypatch, capsys):
    monkeypatch.chdir(place)
    checkpoint_flag = ["--pretrain_ckpt", "good.ckpt"]
    assert cli.transcribe(RECIPE, ["test/test2.wav", *checkpoint_flag]) == 0
    alone = capsys.readouterr().out
    cli.evaluate(RECIPE, checkpoint_flag)
    *_, heard, rates = capsys.readouterr().out.partition("  test2\n")[0].splitlines()
    assert rates.startswith("WER: ") and alone == heard.removeprefix("Hyp: ") + "\n"
    assert alone.strip()
    assert cli.transcribe(RECIPE, ["test/test2.wav", "test/test3.wav", *checkpoint_flag]) == 0
    assert capsys.readouterr().out.splitlines()[0] == f"test/test2.wav\t{alone.strip()}"


def test_transcribe_searches_with_the_same_beam_as_eval(place, monkeypatch, capsys):
    """The best of each frame's labels, alone, is what greedy decoding takes."""
    monkeypatch.chdir(place)
    arguments = ["test/test2.wav", "test/test3.wav", "--pretrain_ckpt", "good.ckpt"]
    beam = ["decoder_type=beam", "cutoff_top_n=1", "lm_workers=1"]
    assert cli.transcribe(RECIPE, arguments) == 0
    greedy = capsys.readouterr().out
    assert cli.transcribe(RECIPE, [*arguments, "--set", *beam]) == 0
    assert capsys.readouterr().out == greedy
    with pytest.raises(UserError, match="unknown key beam_sise, did you mean LMConfig.beam_width"):
        cli.transcribe(RECIPE, [*arguments, "--set", "beam_sise=3"])


@pytest.mark.launcher
def test_converting_again_finds_nothing_to_do(place, tmp_path):
    options = ["--config", str(place / "tiny.yaml"), "--set", "mindrecord_format=m/{split}{}.md"]
    first, again = (start("create_mindrecord", *options, cwd=tmp_path) for _ in range(2))
    assert (first.returncode, again.returncode) == (0, 0)
    assert "m/train: 12 utterances" in first.stdout and "m/val: 4 utterances" in first.stdout
    assert again.stdout.count("up to date, nothing to convert") == 2
    assert (tmp_path / "m" / "train" / "train0.md").exists()


def test_validate_says_what_is_wrong_by_its_exit_code(place, monkeypatch, capsys):
    monkeypatch.chdir(place)
    config = ["--config", "tiny.yaml"]
    assert cli.check_data(RECIPE, config) == 0
    assert [line for line in capsys.readouterr().out.splitlines() if line.endswith(".csv")] == [
        str(trained() / f"{name}.csv") for name in ("train", "val", "test")
    ]
    assert cli.check_data(RECIPE, ["cut.csv", *config]) == 1
    assert "cut.wav" in capsys.readouterr().out


# ---- flags


@pytest.fixture
def jobs(monkeypatch, tmp_path) -> list[SimpleNamespace]:
    """The arguments of each training that train.py would have run."""
    asked = []

    def train(recipe, config, **options):
        asked.append(SimpleNamespace(config=config, **options))
        return TrainingResult(Stop(StopReason.FINISHED), Progress(), tmp_path / "last.ckpt")

    monkeypatch.setattr(training, "train", train)
    monkeypatch.setattr(runtime, "set_device", lambda target, number: f"{target}:{number}")
    monkeypatch.chdir(tmp_path)
    return asked


def test_the_originals_flags(jobs):
    cli.train(RECIPE, [])
    cli.train(RECIPE, ["--bidirectional", "false", "--device_target", "CPU", "--device_id", "1"])
    cli.train(RECIPE, ["--pre_trained_model_path", "x.ckpt", "--is_distributed", "false"])
    plain, second, third = jobs
    assert plain.config.ModelConfig.bidirectional and plain.device == "None:None"
    assert not second.config.ModelConfig.bidirectional and second.device == "CPU:1"
    assert (third.start_from, third.resume, third.ranks) == ("x.ckpt", False, 1)
    assert Path("train.log").exists()


@pytest.mark.parametrize(
    ("stop", "code"),
    [
        (Stop(StopReason.FINISHED), 0),
        (Stop(StopReason.OUT_OF_PATIENCE), 0),
        (Stop(StopReason.INTERRUPTED, signal.SIGINT), 130),
        (Stop(StopReason.INTERRUPTED, signal.SIGTERM), 143),
        (Stop(StopReason.INTERRUPTED, signal.SIGHUP), 129),
        (Stop(StopReason.DIVERGED, message="2 steps in a row"), 1),
        (Stop(StopReason.REMOTE_FAILURE, message="rank 1 ended: x"), 1),
    ],
)
def test_what_stops_a_run_decides_the_exit_code(jobs, monkeypatch, tmp_path, capsys, stop, code):
    result = TrainingResult(stop, Progress(), tmp_path / "last.ckpt")
    monkeypatch.setattr(training, "train", lambda recipe, config, **options: result)
    monkeypatch.setattr(sys, "argv", ["train.py"])
    with pytest.raises(SystemExit) as stopped:
        cli.run(cli.train, RECIPE)
    assert stopped.value.code == code
    said = {0: "", 1: f"error: {stop.message}\n"}.get(code, "interrupted\n")
    assert capsys.readouterr().err == said


def test_a_flag_that_is_neither_true_nor_false(jobs, capsys):
    with pytest.raises(SystemExit) as stopped:
        cli.train(RECIPE, ["--bidirectional", "perhaps"])
    assert stopped.value.code == 2
    assert "expected true or false, found perhaps" in capsys.readouterr().err


def test_presets_files_and_keys_override_in_this_order(jobs, tmp_path):
    (tmp_path / "a.yaml").write_text("DataConfig: {batch_size: 3}\nTrainingConfig: {epochs: 3}\n")
    (tmp_path / "b.yaml").write_text("TrainingConfig: {epochs: 4, seed: 4}\n")
    for name in RECIPE.presets():
        cli.train(
            RECIPE,
            ["--preset", name, "--config", "a.yaml", "--config", "b.yaml", "--set", "seed=5"],
        )
        config = jobs[-1].config
        assert config.DataConfig.batch_size == 3
        assert (config.TrainingConfig.epochs, config.TrainingConfig.seed) == (4, 5)
    assert len(jobs) >= 3


def test_a_file_of_another_project_is_translated_if_its_labels_are_ours(jobs, tmp_path):
    def translate(values: dict) -> dict | None:
        if "alphabet" not in values:
            return None
        return {"labels": list(values["alphabet"]), "TrainingConfig": {"epochs": values["loops"]}}

    recipe = replace(RECIPE, translate_yaml=translate)
    (tmp_path / "foreign.yaml").write_text("{alphabet: AB, loops: 7}")
    (tmp_path / "labels.json").write_text('["A", "B", "_"]')
    given = ["--config", "foreign.yaml", "--set", "labels_path=labels.json"]
    cli.train(recipe, given)
    assert jobs[0].config.TrainingConfig.epochs == 7
    (tmp_path / "labels.json").write_text('["B", "A", "_"]')
    with pytest.raises(UserError) as refused:
        cli.train(recipe, given)
    assert str(refused.value) == (
        "configuration foreign.yaml: its 2 labels and the blank are not those of labels.json: "
        "write them to a JSON list that ends with the blank, '_', and give --set labels_path=FILE"
    )


def test_resuming_takes_the_configuration_of_the_run(place, jobs):
    run = trained() / "checkpoint"
    flags = ["--resume", "--set", f"ckpt_path={run}", "ckpt_file_name_prefix=tiny"]
    cli.train(RECIPE, [*flags, "epochs=50"])
    config = jobs[0].config
    assert jobs[0].resume and config.ModelConfig.hidden_size == 24
    assert config.TrainingConfig.epochs == 50
    assert config.DataConfig.SpectConfig.bands == 16
    assert config.DataConfig.train_manifest == [str(trained() / "train.csv")]


def test_exit_codes(monkeypatch, capsys):
    def ending(how):
        def main(recipe, argv):
            if isinstance(how, BaseException):
                raise how
            return how

        return main

    monkeypatch.setattr(sys, "argv", ["x"])
    cases = ((None, 0), (0, 0), (1, 1), (UserError("x is 1"), 1), (KeyboardInterrupt(), 130))
    for how, code in cases:
        with pytest.raises(SystemExit) as stopped:
            cli.run(ending(how), SimpleNamespace())
        assert stopped.value.code == code
    assert capsys.readouterr().err == "error: x is 1\ninterrupted\n"
    with pytest.raises(SystemExit) as stopped:  # our own bugs keep their traceback
        cli.run(ending(ZeroDivisionError("why")), SimpleNamespace())
    assert stopped.value.code == 70
    said = capsys.readouterr().err.splitlines()
    assert said[0].startswith("Traceback") and said[-1] == "ZeroDivisionError: why"


@pytest.mark.launcher
@pytest.mark.parametrize(
    "ending, reason",
    [
        ("> /dev/full", "cannot be written (No space left on device)"),
        ("| true", "cannot be written (Broken pipe)"),
        (">&-", "is closed"),
    ],
)
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_lost_output_is_one_line_and_an_error(ending, reason, unbuffered):
    code = (
        "from common import cli\n"
        "def transcribe(recipe, argv):\n"  # one of the commands that print
        "    print('text' * 100_000)\n"  # more than a pipe holds: waits for `true` to end
        "cli.run(transcribe, None)\n"
    )
    shell = 'set -o pipefail; "$0" -c "$1" ' + ending
    done = subprocess.run(
        ["bash", "-c", shell, sys.executable, code],
        cwd=Path(__file__).resolve().parents[1],
        env=os.environ | {"PYTHONUNBUFFERED": unbuffered},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert done.stderr.startswith(f"error: standard output {reason}")
    assert done.stderr.count("\n") == 1


def test_lost_output_leaves_the_exit_code_of_a_run_that_failed(capfd, monkeypatch):
    """Ctrl-C ends `tee` before the program, whose exit code says that it was interrupted."""
    reader, writer = os.pipe()
    os.close(reader)
    monkeypatch.setattr(sys, "stdout", os.fdopen(writer, "w"))
    monkeypatch.setattr(sys, "argv", ["train.py"])

    def interrupted(recipe, argv):
        sys.stdout.write("stopped")  # stays in the buffer
        return 130

    with pytest.raises(SystemExit) as ended:
        cli.run(interrupted, RECIPE)
    assert ended.value.code == 130
    assert "standard output cannot be written (Broken pipe)" in capfd.readouterr().err


def test_a_checkpoint_of_the_model_zoo_takes_its_configuration_from_a_file(
    place, tmp_path, monkeypatch, capsys
):
    found = checkpoint.load(place / "good.ckpt")
    entries = [
        {"name": f"network.{name}".replace("RNN", "rnn"), "data": ms.Tensor(value)}
        for name, value in found.parameters.items()
    ]
    entries.append({"name": "moment1.network.fc.x", "data": ms.Tensor(np.zeros(3, np.float32))})
    ms.save_checkpoint(entries, str(tmp_path / "zoo.ckpt"))
    monkeypatch.chdir(tmp_path)
    recording = str(place / "test" / "test0.wav")
    cli.transcribe(RECIPE, [recording, "--pretrain_ckpt", str(place / "good.ckpt")])
    expected = capsys.readouterr().out
    cli.transcribe(
        RECIPE,
        [recording, "--pretrain_ckpt", "zoo.ckpt", "--train_config", str(place / "tiny.yaml")],
    )
    printed = capsys.readouterr()
    assert printed.out == expected
    assert "zoo.ckpt names no configuration: taking that of --train_config" in printed.err
