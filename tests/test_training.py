"""Training as a whole: going on exactly, standing bad luck, learning something.

Most runs below have everything random switched on: dropout, SpecAugment, Cutout, speed, gain,
dither, and recordings at other speeds that take turns. And what else has a state: a moving average
of the weights, a loss scale that adapts.
"""

from __future__ import annotations

import ast
import csv
import logging
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import soundfile as sf
import soxr
import yaml
from mindspore import Tensor
from PIL import Image
from synthetic_corpus import LABELS, chdir, make_corpus, record, settings

from common.audio.augmentation import Augmentation
from common.config import override, override_from_options
from common.data.dataset import Dataset
from common.data.manifest import Utterance, read_manifest
from common.data.manifest_writers import write_jsonl
from common.data.splits import convert_split, open_split
from common.decoding.decoders import GreedyDecoder
from common.evaluation.error_rates import EditCounts
from common.evaluation.evaluate import evaluate, recognise
from common.evaluation.scoring import Evaluation
from common.memory import MemoryEstimate
from common.model import checkpoint
from common.model.decoder import CTCDecoder
from common.model.speech_model import Forward, SpeechModel
from common.text.tokenizer import CharacterTokenizer
from common.training import progress as progress_module
from common.training import trainer as training
from common.training.callbacks import Callback
from common.training.distributed import RemoteRankError
from common.training.emission_animation import EmissionAnimation
from common.training.metrics_log import History
from common.training.progress import Progress
from common.training.stopping import Stop, StopReason, StopRequest, TrainingResult
from common.utils.errors import UserError
from common.utils.logging import open_log
from deepspeech2.src.config import TrainConfig
from deepspeech2.src.recipe import RECIPE

ROOT = Path(__file__).resolve().parents[1]
TRAIN = ROOT / "deepspeech2" / "train.py"
RANDOM = ["dropout=0.2", "spec_augment=true", "speed_volume_perturb=true", "norm=batch"]
RANDOM += ["dither=1e-3", "cutout_masks=1", "pad_align=8"]
RANDOM += ["ema=0.9", "dynamic_loss_scale=true", "scale_window=5"]
STEPS = 6  # in an epoch: 12 utterances in batches of 2
TIMES = {"minutes", "speech_per_second", "data_wait"}  # columns of metrics.csv that vary


@pytest.fixture(scope="module")
def corpus(cpu, tmp_path_factory) -> Path:
    folder = make_corpus(tmp_path_factory.mktemp("corpus"))
    values = settings(folder)
    values["DataConfig"] |= {
        "batch_size": 2,
        "train_manifest": str(with_copies(folder)),
        "ignore_offline_speed_perturbation": False,
    }
    values["TrainingConfig"] |= {"epochs": 4}
    values["ModelConfig"] |= {"hidden_layers": 1}  # each run compiles the network anew
    (folder / "tiny.yaml").write_text(yaml.safe_dump(values))
    for split in ("train", "val"):
        convert_split(RECIPE, configured(folder), split, log=lambda line: None)
    return folder


def with_copies(folder: Path) -> Path:
    """Four of the recordings at two more speeds: the epochs have 12 utterances all the same."""
    utterances = read_manifest(folder / "train.csv")
    for utterance in utterances[2:10:2]:
        samples, rate = sf.read(utterance.audio)
        for speed in (0.9, 1.1):
            path = utterance.audio.with_name(f"{utterance.id}-{speed}.wav")
            sf.write(path, soxr.resample(samples, rate * speed, rate), rate)
            utterances.append(Utterance(path.stem, path, utterance.text, None, speed, utterance.id))
    write_jsonl(utterances, folder / "train.jsonl")
    return folder / "train.jsonl"


def configured(corpus: Path, *options: str) -> TrainConfig:
    config = TrainConfig()
    override(config, yaml.safe_load((corpus / "tiny.yaml").read_text()), "tests")
    override_from_options(config, list(options))
    return config


def train(corpus: Path, folder: Path, *options: str, **arguments: Any) -> TrainingResult:
    """Trains in `folder`."""
    folder.mkdir(exist_ok=True)
    with chdir(folder):
        log = open_log("train.log", quiet=True)
        try:
            config = configured(corpus, *options)
            return training.train(RECIPE, config, device="CPU", log=log, **arguments)
        finally:
            for handler in list(log.handlers):
                log.removeHandler(handler)
                handler.close()


def lines(folder: Path) -> list[str]:
    return (folder / "train.log").read_text().splitlines()


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "metrics.csv").open() as file:
        return [
            {key: value for key, value in row.items() if key not in TIMES}
            for row in csv.DictReader(file)
        ]


def film(folder: Path) -> dict[str, np.ndarray]:
    with np.load(folder / "emissions.npz") as found:
        return dict(found)


def last(folder: Path) -> checkpoint.Checkpoint:
    return checkpoint.load(folder / "checkpoint" / "tiny-last.ckpt")


def assert_same_state(folder: Path, other: Path) -> None:
    """Weights and optimizer, to the bit."""
    found, expected = last(folder), last(other)
    assert found.parameters.keys() == expected.parameters.keys()
    for name, value in expected.parameters.items():
        np.testing.assert_array_equal(found.parameters[name], value, err_msg=name)
    mine, theirs = found.metadata["progress"], expected.metadata["progress"]
    timed = {"seconds", "busy", "waiting"}
    assert {k: v for k, v in mine.items() if k not in timed} == {
        k: v for k, v in theirs.items() if k not in timed
    }


def assert_same_film(folder: Path, other: Path) -> None:
    found, expected = film(folder), film(other)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value, err_msg=name)


@pytest.fixture(scope="module")
def whole(corpus, tmp_path_factory) -> Path:
    """A run of four epochs that nothing disturbed."""
    folder = tmp_path_factory.mktemp("whole")
    train(corpus, folder, *RANDOM)
    return folder


@pytest.fixture
def no_pictures(monkeypatch):
    monkeypatch.setattr(History, "draw", lambda *arguments: None)
    monkeypatch.setattr(EmissionAnimation, "draw", lambda *arguments: None)


# ---- what a run leaves


def test_the_log_has_a_line_for_each_step(whole):
    form = re.compile(r"epoch: \d step: \d, loss is \d.*")
    found = [line for line in lines(whole) if form.fullmatch(line)]
    assert [line.split(",")[0] for line in found] == [
        f"epoch: {epoch} step: {step}" for epoch in (1, 2, 3, 4) for step in range(1, STEPS + 1)
    ]
    first, final = (float(line.split()[-1]) for line in (found[0], found[-1]))
    assert final < first


def test_the_log_says_what_is_trained_and_what_it_needs(whole):
    text = "\n".join(lines(whole))
    assert re.search(r"deepspeech2 on CPU: \d.\d M parameters, logmel of 16 bins at 8000 Hz", text)
    assert "training: 12 utterances, 0.00 hours, 6 batches of 2 an epoch" in text
    assert re.search(r"memory: about \d.\d GiB at the peak, of \d+.\d GiB allowed", text)
    assert re.search(r"epoch 4: loss .*validation WER \d+\.\d+ CER \d+\.\d+ blanks \d+ %", text)
    assert len(re.findall(r"^  ref: [A-D ]+\n  hyp: [A-D ]*$", text, re.MULTILINE)) == 4 * 3


def test_the_forecast_is_for_the_longest_utterance_at_its_slowest(corpus, tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(MemoryEstimate, "check", lambda self, longest: asked.append(longest))
    perturbed = ["speed_volume_perturb=true", "speed_min=0.5"], ["speeds=[1.25, 0.5]"]
    for number, options in enumerate(([], *perturbed)):
        train(corpus, tmp_path / str(number), *options, "max_utterances=2", "epochs=0")
    assert asked[1] == asked[2] == 2 * asked[0]


def test_the_metrics_have_a_row_for_each_epoch(whole):
    found = rows(whole)
    assert [float(row["epoch"]) for row in found] == [1, 2, 3, 4]
    assert [int(row["step"]) for row in found] == [6, 12, 18, 24]
    assert [row["skipped"] for row in found] == ["0"] * 4
    logged = re.findall(r"validation WER (\d+\.\d+) CER (\d+\.\d+)", "\n".join(lines(whole)))
    rates = [(float(row["val_wer"]), float(row["val_cer"])) for row in found]
    assert logged == [(f"{wer:.2f}", f"{cer:.2f}") for wer, cer in rates]
    assert (whole / "curves.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("epoch", [1, 4])
def test_the_film_shows_what_the_network_emitted_at_each_epoch(whole, epoch):
    path = whole / "checkpoint" / f"tiny-{epoch}_{STEPS * epoch}.ckpt"
    speech_model = SpeechModel.from_checkpoint(RECIPE, path, "CPU")
    source = open_split(speech_model, "val")
    decoder = GreedyDecoder(speech_model.tokenizer)
    alone = recognise(speech_model, CTCDecoder(Forward(speech_model), decoder), source, 1)
    index = sorted(range(4), key=lambda index: source.frames[index])[2]
    found = film(whole)
    assert found["step"].tolist() == [6, 12, 18, 24]
    assert found["id"] == source.ids[index] and found["reference"] == source.texts[index]
    np.testing.assert_allclose(found["wer"], [float(row["val_wer"]) for row in rows(whole)])
    expected = {each.index: each for each in alone}[index]
    np.testing.assert_allclose(found["log_probs"][epoch - 1], expected.log_probs, atol=0.01)
    assert found["text"][epoch - 1] == expected.text
    with Image.open(whole / "emissions.gif") as image:
        assert image.n_frames == 4


def test_what_a_run_leaves_in_its_folder(whole):
    figures = {"metrics.csv", "curves.png", "emissions.gif", "emissions.png", "emissions.npz"}
    assert {path.name for path in whole.iterdir()} == {"train.log", "checkpoint"} | figures
    assert "figures and pictures in " in lines(whole)[-1]
    assert all(str(whole / name) in lines(whole)[-1] for name in figures)


def test_the_checkpoints_of_a_run(whole):
    names = {path.name for path in (whole / "checkpoint").iterdir()}
    numbered = {f"tiny-{epoch}_{STEPS * epoch}.ckpt" for epoch in (1, 2, 3, 4)}
    assert names == {"tiny-last.ckpt", "tiny-best.ckpt"} | numbered
    best = checkpoint.load(whole / "checkpoint" / "tiny-best.ckpt")
    assert not [name for name in best.parameters if name.startswith("moment")]
    wers = [float(row["val_wer"]) for row in rows(whole)]
    assert best.metadata["scores"]["wer"] == pytest.approx(min(wers))
    assert best.metadata["labels"] == LABELS
    assert Path(best.metadata["config"]["DataConfig"]["test_manifest"][0]).is_absolute()
    assert [name for name in last(whole).parameters if name.startswith("moment1.")]
    assert not [name for name in last(whole).parameters if "dropout_seed" in name]
    # 24 steps: doubled after each 5
    assert last(whole).metadata["loss_scale"] == {"scale": 1024.0 * 2**4, "good": 4}


def test_the_moving_average_is_what_is_evaluated_and_kept_as_best(corpus, whole):
    folder = whole / "checkpoint"
    best = checkpoint.load(folder / "tiny-best.ckpt")
    place = best.metadata["progress"]
    both = checkpoint.load(folder / f"tiny-{place['epoch']}_{place['step']}.ckpt")
    assert not [name for name in best.parameters if name.startswith("ema.")]
    for name, value in best.parameters.items():
        np.testing.assert_array_equal(both.parameters[f"ema.{name}"], value, err_msg=name)
        assert (both.parameters[name] != value).any(), name
    said = []
    speech_model = SpeechModel.from_checkpoint(RECIPE, both.path, "CPU", log=said.append)
    assert said == [f"{both.path}: taking the moving average of its weights (TrainingConfig.ema)"]
    for parameter in speech_model.network.get_parameters():
        if "dropout_seed" not in parameter.name:
            np.testing.assert_array_equal(parameter.asnumpy(), best.parameters[parameter.name])
    decoder, source = GreedyDecoder(speech_model.tokenizer), open_split(speech_model, "val")
    found = evaluate(
        speech_model, CTCDecoder(Forward(speech_model), decoder), source, 2, progress=None
    )
    assert {"wer": found.wer, "cer": found.cer} == best.metadata["scores"]
    log = Lines()
    training._fine_tune(speech_model, str(both.path), log)
    assert log.texts[0].startswith(f"start from {both.path}, the moving average of its weights: ")


def test_steps_of_any_length_are_compiled_once(corpus, tmp_path, monkeypatch, no_pictures):
    made = []

    class Watched(training.TrainStep):
        def __init__(self, *arguments):
            super().__init__(*arguments)
            made.append(self)

    monkeypatch.setattr(training, "TrainStep", Watched)
    result = train(
        corpus, tmp_path, "epochs=1", "val_manifest=", "accumulation_step=2", "batch_size=1"
    )
    assert result.progress.step == 6  # 12 batches, two a step
    cells = (made[0].gradients, made[0].add, made[0].norm, made[0].update)
    assert [len(cell.compile_cache) for cell in cells] == [1, 1, 1, 1]


# ---- going on exactly


def test_two_epochs_and_two_more_equal_four(corpus, whole, tmp_path, no_pictures):
    train(corpus, tmp_path, *RANDOM, "epochs=2")
    assert last(tmp_path).metadata["progress"]["epoch"] == 2
    result = train(corpus, tmp_path, *RANDOM, resume=True)
    assert (result.progress.epoch, result.progress.step) == (4, 24)
    assert result.stop == Stop(StopReason.FINISHED) and result.completed
    assert result.last_checkpoint == Path("checkpoint/tiny-last.ckpt")
    assert result.best_checkpoint == Path("checkpoint/tiny-best.ckpt")
    assert_same_state(tmp_path, whole)
    assert rows(tmp_path) == rows(whole)
    assert_same_film(tmp_path, whole)
    assert "resumed at epoch 3, step 12" in lines(tmp_path)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_run_stopped_in_the_middle_of_an_epoch_goes_on_exactly(
    corpus, whole, tmp_path, monkeypatch, no_pictures, number
):
    class Interrupting(training.TrainStep):
        """The signal comes while step 9, the third of the second epoch, is computed."""

        def __call__(self, group, rate, step, total):
            if step == 8:
                time.sleep(0.5)  # MindSpore had taken SIGINT over
                os.kill(os.getpid(), number)
            return super().__call__(group, rate, step, total)

    handler = signal.getsignal(number)
    with monkeypatch.context() as patch:
        patch.setattr(training, "TrainStep", Interrupting)
        result = train(corpus, tmp_path, *RANDOM)
    assert result.stop == Stop(StopReason.INTERRUPTED, number) and not result.completed
    assert signal.getsignal(number) is handler
    stopped = last(tmp_path).metadata["progress"]
    assert (stopped["epoch"], stopped["batch"], stopped["step"]) == (1, 3, 9)
    assert lines(tmp_path)[-1] == "stopped at step 9; go on with --resume"
    if number == signal.SIGTERM:  # the checkpoint is as after SIGINT
        return
    train(corpus, tmp_path, *RANDOM, resume=True)
    assert_same_state(tmp_path, whole)
    assert rows(tmp_path) == rows(whole)


def start(corpus: Path, folder: Path, *options: str) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, str(TRAIN), "--config", str(corpus / "tiny.yaml"), *options],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def signalled(
    corpus: Path, folder: Path, line: str, number: int, *options: str, delay: float = 0.0
) -> tuple[int, str]:
    """Sends train.py a signal, some seconds after it logs a line; returns exit code and stderr."""
    log = folder / "train.log"
    os.mkfifo(log)  # so that reading it waits for the next line
    process = start(corpus, folder, *options)
    with log.open() as following:
        for found in following:
            if found.startswith(line):
                time.sleep(delay)
                process.send_signal(number)
                break
        following.read()
    _, errors = process.communicate()
    log.unlink()
    return process.returncode, errors


@pytest.mark.launcher
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_to_train_py_writes_a_checkpoint_first(
    corpus, whole, tmp_path, monkeypatch, number, code
):
    monkeypatch.setenv("SPEECH_GRAPH_CACHE", "off")  # while it loads a graph, MindSpore has SIGINT
    line = "memory: about"  # the last one before the first step, which compiles its graphs
    options = ["--set", *RANDOM]
    returned, errors = signalled(corpus, tmp_path, line, number, *options, delay=1.0)
    assert returned == code
    assert errors.splitlines()[-1] == "interrupted"
    assert 1 <= last(tmp_path).metadata["progress"]["step"] < 24
    if number == signal.SIGTERM:
        return
    resumed = start(corpus, tmp_path, "--resume", "--set", *RANDOM)
    _, errors = resumed.communicate()
    assert (resumed.returncode, errors) == (0, "")
    assert_same_state(tmp_path, whole)
    assert rows(tmp_path) == rows(whole)


def test_a_closed_terminal_asks_to_stop_and_under_nohup_does_not():
    before = signal.signal(signal.SIGHUP, lambda *_: None)
    try:
        with StopRequest() as request:
            for _ in range(2):  # from the kernel, from the shell
                os.kill(os.getpid(), signal.SIGHUP)
        assert request.signal == signal.SIGHUP
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        with StopRequest() as request:
            os.kill(os.getpid(), signal.SIGHUP)
        assert request.signal is None and signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_second_ctrl_c_acts_at_once():
    with StopRequest() as request:
        os.kill(os.getpid(), signal.SIGINT)
        assert request.signal == signal.SIGINT
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


# A call into a library, which computes for a minute and goes on when a signal comes.
NATIVE_STEP = """
import hashlib, sys, threading
sys.path.insert(0, {root!r})
from common.training.stopping import StopRequest
with StopRequest(lambda line: print(line, flush=True)):
    # Before the call, Python would run the handlers itself.
    threading.Timer(1.0, lambda: print("step", flush=True)).start()
    hashlib.pbkdf2_hmac("sha256", b"", b"", 10**9)
"""


@pytest.mark.launcher
@pytest.mark.parametrize(("name", "code"), [("SIGINT", 130), ("SIGTERM", 143)])
def test_a_signal_is_acknowledged_while_a_step_computes(name, code):
    number = getattr(signal, name)
    with subprocess.Popen(
        [sys.executable, "-c", NATIVE_STEP.format(root=str(ROOT))],
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout.readline() == "step\n"
        process.send_signal(number)
        line = process.stdout.readline()
        assert line.startswith(f"{name}: stopping after this step, then a checkpoint is written")
        assert ("Ctrl-C once more stops now" in line) == (name == "SIGINT")
        process.send_signal(number)
        assert process.stdout.readline().startswith(f"{name} again: stopped in the middle")
        assert process.wait(timeout=60) == code


@pytest.mark.launcher
def test_a_killed_run_goes_on_from_its_last_checkpoint(corpus, whole, tmp_path):
    options = ["--set", *RANDOM, "eval_every=2"]
    code, _ = signalled(corpus, tmp_path, "epoch: 2 step: 3,", signal.SIGKILL, *options)
    assert code == -signal.SIGKILL
    assert last(tmp_path).metadata["progress"]["step"] >= 8
    train(corpus, tmp_path, *RANDOM, "eval_every=2", resume=True)
    found, expected = last(tmp_path), last(whole)
    for name, value in expected.parameters.items():
        np.testing.assert_array_equal(found.parameters[name], value, err_msg=name)
    assert [int(row["step"]) for row in rows(tmp_path)] == list(range(2, 25, 2))
    assert film(tmp_path)["step"].tolist() == list(range(2, 25, 2))


class Killed(BaseException):
    """Ends the process, as SIGKILL would: nothing saves after it."""


def test_a_kill_between_two_checkpoints_costs_no_best(
    corpus, whole, tmp_path, monkeypatch, no_pictures
):
    scores = [(float(row["val_wer"]), float(row["val_cer"])) for row in rows(whole)]
    better = [number for number in (1, 2, 3) if scores[number] < min(scores[:number])]
    step, saves = STEPS * (better[0] + 1), []

    def dying(name):
        real = getattr(checkpoint.CheckpointKeeper, name)

        def save(keeper, weights, metadata, *where):
            if metadata["progress"]["step"] == step:
                saves.append(name)
                if len(saves) == 2:
                    raise Killed
            real(keeper, weights, metadata, *where)

        return save

    with monkeypatch.context() as patch:
        for name in ("save_best", "save_last"):
            patch.setattr(checkpoint.CheckpointKeeper, name, dying(name))
        with pytest.raises(Killed):
            train(corpus, tmp_path, *RANDOM)
    best = tmp_path / "checkpoint" / "tiny-best.ckpt"
    found = checkpoint.load(best).metadata
    assert (found["progress"]["step"], found["scores"]["wer"]) == (step, scores[better[0]][0])
    assert last(tmp_path).metadata["progress"]["step"] == step - STEPS
    train(corpus, tmp_path, *RANDOM, resume=True)
    assert_same_state(tmp_path, whole)
    found = checkpoint.load(best)
    expected = checkpoint.load(whole / "checkpoint" / "tiny-best.ckpt")
    assert found.metadata["scores"] == expected.metadata["scores"]
    for name, value in expected.parameters.items():
        np.testing.assert_array_equal(found.parameters[name], value, err_msg=name)


def stopped_in_an_evaluation(patch) -> list[int]:
    """Ctrl-C at the first utterance of the second evaluation; the utterances that were watched."""
    watched, watch = [], EmissionAnimation.watch

    def interrupted(film, found):
        watched.append(found.index)
        if len(watched) == 4 + 1:
            os.kill(os.getpid(), signal.SIGINT)
        watch(film, found)

    patch.setattr(EmissionAnimation, "watch", interrupted)
    return watched


def test_a_run_stopped_in_an_evaluation_makes_up_for_it(
    corpus, whole, tmp_path, monkeypatch, no_pictures
):
    with monkeypatch.context() as patch:
        watched = stopped_in_an_evaluation(patch)
        result = train(corpus, tmp_path, *RANDOM)
    assert result.stop == Stop(StopReason.INTERRUPTED, signal.SIGINT)
    assert len(watched) == 4 + 1
    assert lines(tmp_path)[-1] == "stopped at step 12, before its evaluation; go on with --resume"
    stopped = last(tmp_path).metadata["progress"]
    assert (stopped["epoch"], stopped["batch"], stopped["step"]) == (2, 0, 12)
    assert [row["step"] for row in rows(tmp_path)] == ["6"]
    train(corpus, tmp_path, *RANDOM, resume=True)
    assert_same_state(tmp_path, whole)
    assert rows(tmp_path) == rows(whole)
    assert_same_film(tmp_path, whole)


class Damaging(Dataset):
    """An utterance's recording is damaged after it was read once."""

    def __init__(self, source: Dataset):
        self.source, self.store, self.reads = source, source.store, 0
        super().__init__(source.entries)

    def read(self, indices):
        for row in self.source.read(indices):
            self.reads += row.id == "train7"
            broken = row.id == "train7" and self.reads == 2
            yield replace(row, audio=b"RIFF, once") if broken else row


def failing_evaluation(patch) -> None:
    calls, real = [], training.evaluate

    def evaluate(*arguments, **keywords):
        calls.append(1)
        if len(calls) == 2:
            raise UserError("a decoding process was killed")
        return real(*arguments, **keywords)

    patch.setattr(training, "evaluate", evaluate)


def damaged_recording(patch) -> None:
    opened = training.open_split

    def damaging(speech_model, split):
        source = opened(speech_model, split)
        return Damaging(source) if split == "train" else source

    patch.setattr(training, "open_split", damaging)


@pytest.mark.parametrize(
    ("failure", "message", "steps"),
    [
        (failing_evaluation, "a decoding process was killed", [12]),
        (damaged_recording, "utterance train7: audio of train7: damaged", range(7, 12)),
    ],
)
def test_what_fails_costs_no_step_that_was_done(
    corpus, whole, tmp_path, monkeypatch, no_pictures, failure, message, steps
):
    with monkeypatch.context() as patch:
        failure(patch)
        with pytest.raises(UserError, match=message):
            train(corpus, tmp_path, *RANDOM)
    step = last(tmp_path).metadata["progress"]["step"]
    assert step in steps
    assert lines(tmp_path)[-1] == f"stopped at step {step}; go on with --resume"
    train(corpus, tmp_path, *RANDOM, resume=True)
    assert_same_state(tmp_path, whole)
    assert rows(tmp_path) == rows(whole)


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("learning_rate=0.5", r"OptimConfig\.learning_rate is 0\.5, and the run .* has 0\.01"),
        ("hidden_size=25", r"ModelConfig\.hidden_size is 25, and the run in .* has 24"),
        ("seed=2", r"TrainingConfig\.seed is 2"),
        ("max_utterances=5", r"DataConfig\.max_utterances is 5"),
    ],
)
def test_a_resumed_run_refuses_to_become_another(corpus, whole, tmp_path, option, message):
    shutil.copytree(whole, tmp_path, dirs_exist_ok=True)
    with pytest.raises(UserError, match=message):
        train(corpus, tmp_path, *RANDOM, option, resume=True)
    assert rows(tmp_path) == rows(whole)


def test_a_resumed_run_refuses_other_data(corpus, whole, tmp_path, monkeypatch):
    shutil.copytree(whole, tmp_path, dirs_exist_ok=True)
    opened = training.open_split

    def respelled(speech_model, split):
        source = opened(speech_model, split)
        source.entries = (replace(source.entries[0], text="ABBA"), *source.entries[1:])
        return source

    monkeypatch.setattr(training, "open_split", respelled)
    with pytest.raises(UserError, match="go back to the data it was started with"):
        train(corpus, tmp_path, *RANDOM, resume=True)


def test_nothing_to_resume(corpus, tmp_path):
    with chdir(tmp_path), pytest.raises(UserError, match="no checkpoint .*tiny-last.ckpt; start"):
        training.resumed_config(RECIPE, configured(corpus))


# ---- starting from other weights


class Lines(logging.Logger):
    def __init__(self):
        super().__init__("lines")
        self.texts: list[str] = []

    def info(self, message, *arguments):
        self.texts.append(message % arguments)


def test_fine_tuning_with_the_same_vocabulary_takes_every_weight(corpus, whole):
    best = checkpoint.load(whole / "checkpoint" / "tiny-best.ckpt")
    speech_model = SpeechModel.create(
        RECIPE, configured(corpus, *RANDOM), CharacterTokenizer(tuple(LABELS)), "CPU"
    )
    log = Lines()
    training._fine_tune(speech_model, str(best.path), log)
    count = len(best.parameters)
    assert log.texts == [f"start from {best.path}: {count} of {count} parameters match"]
    for parameter in speech_model.network.get_parameters():
        if "dropout_seed" not in parameter.name:
            np.testing.assert_array_equal(parameter.asnumpy(), best.parameters[parameter.name])


@pytest.mark.parametrize("labels", [["A", "B", "C", "D", "E", " ", "_"], LABELS[::-1]])
def test_fine_tuning_with_another_vocabulary_starts_the_head_anew(corpus, whole, labels):
    best = checkpoint.load(whole / "checkpoint" / "tiny-best.ckpt")
    speech_model = SpeechModel.create(
        RECIPE, configured(corpus, *RANDOM), CharacterTokenizer(tuple(labels)), "CPU"
    )
    head = speech_model.network.fc.module.weight
    fresh = head.asnumpy().copy()
    log = Lines()
    training._fine_tune(speech_model, str(best.path), log)
    all_but_one = f"{len(best.parameters) - 1} of {len(best.parameters)}"
    assert log.texts[0].startswith(f"start from {best.path}: {all_but_one} parameters match")
    assert log.texts[1] == "another vocabulary: the output layer fc.module starts anew"
    np.testing.assert_array_equal(head.asnumpy(), fresh)
    conv = speech_model.network.conv.conv1.weight
    np.testing.assert_array_equal(conv.asnumpy(), best.parameters["conv.conv1.weight"])


def test_parameters_that_only_contain_the_name_of_the_head_keep_their_weights(corpus, whole):
    """The head is named by the beginning of its parameters' names."""
    best = checkpoint.load(whole / "checkpoint" / "tiny-best.ckpt")
    recipe = replace(RECIPE, head="conv1")  # "conv.conv1.weight" begins with another name
    tokenizer = CharacterTokenizer(tuple(LABELS[::-1]))
    speech_model = SpeechModel.create(recipe, configured(corpus, *RANDOM), tokenizer, "CPU")
    log = Lines()
    training._fine_tune(speech_model, str(best.path), log)
    count = len(best.parameters)
    assert log.texts == [f"start from {best.path}: {count} of {count} parameters match"]
    conv = speech_model.network.conv.conv1.weight
    np.testing.assert_array_equal(conv.asnumpy(), best.parameters["conv.conv1.weight"])


@pytest.mark.parametrize("there", ["plain", "deepspeech.pytorch"])
def test_fine_tuning_says_how_the_features_differ(corpus, tmp_path, caplog, there):
    here = {"plain": "deepspeech.pytorch", "deepspeech.pytorch": "plain"}[there]
    spectrograms = ["features=spectrogram", "SpectConfig.convention="]
    made = [
        SpeechModel.create(
            RECIPE,
            configured(corpus, spectrograms[0], spectrograms[1] + convention),
            CharacterTokenizer(tuple(LABELS)),
            "CPU",
        )
        for convention in (there, here)
    ]
    path = tmp_path / "other.ckpt"
    checkpoint.save(path, made[0].network.parameters_dict(), made[0].metadata())
    log = logging.getLogger("features")
    training._fine_tune(made[1], str(path), log)
    told = [entry.getMessage() for entry in caplog.records if entry.levelname == "WARNING"]
    assert told == [f"{path} was trained with convention={there}, this run has {here}"]
    caplog.clear()
    training._fine_tune(made[0], str(path), log)
    assert not caplog.records


def test_fine_tuning_a_network_of_another_size_is_refused(corpus, whole):
    config = configured(corpus, *RANDOM, "hidden_size=20")
    speech_model = SpeechModel.create(RECIPE, config, CharacterTokenizer(tuple(LABELS)), "CPU")
    with pytest.raises(UserError, match=r"RNN\.lstms.* in the file, .* in the network"):
        training._fine_tune(
            speech_model, str(whole / "checkpoint" / "tiny-best.ckpt"), logging.getLogger("unused")
        )


# ---- bad luck


class Poisoned(Dataset):
    """Some utterances' features are NaN."""

    def __init__(self, source: Dataset, bad: set[str]):
        self.source, self.bad, self.store = source, bad, source.store
        super().__init__(source.entries)

    def read(self, indices):
        for row in self.source.read(indices):
            frames = self.entries[row.index].frames
            nan = np.full((16, frames), np.nan, np.float32)
            yield replace(row, features=nan) if row.id in self.bad else row


def poison(monkeypatch, bad: set[str]) -> None:
    opened = training.open_split

    def poisoned(speech_model, split):
        source = opened(speech_model, split)
        return Poisoned(source, bad) if split == "train" else source

    monkeypatch.setattr(training, "open_split", poisoned)


def test_a_non_finite_step_is_skipped_counted_and_named(
    corpus, tmp_path, monkeypatch, no_pictures, capsys
):
    options = ["epochs=1", "norm=batch", "max_nonfinite=2"]
    with monkeypatch.context() as patch:
        poison(patch, {"train7"})
        progress = train(corpus, tmp_path, *options).progress
    assert (progress.step, progress.skipped) == (6, 1)
    told = [line for line in lines(tmp_path) if "skipped, not finite" in line]
    assert len(told) == 1 and told[0].endswith("utterances: train7")
    assert rows(tmp_path)[0]["skipped"] == "1"
    assert np.isfinite(float(rows(tmp_path)[0]["train_loss"]))
    assert all(np.isfinite(value).all() for value in last(tmp_path).parameters.values())

    kept = last(tmp_path)
    before = kept.path.read_bytes()
    with monkeypatch.context() as patch:
        poison(patch, {f"train{number}" for number in range(12)})
        result = train(corpus, tmp_path, *options, "epochs=3", resume=True)
    assert result.stop.reason == StopReason.DIVERGED and not result.completed
    message = result.stop.message
    assert message.startswith("2 steps in a row were not finite, up to step 8")
    assert "the last good checkpoint is checkpoint/tiny-last.ckpt" in message
    assert kept.path.read_bytes() == before


def scored(wer: float, cer: float) -> Evaluation:
    """An evaluation with these rates, in percent."""
    return Evaluation(
        words=EditCounts(round(wer), 0, 0, 100), characters=EditCounts(round(cer), 0, 0, 100)
    )


def best_and_stale(*evaluations: tuple[float, float]) -> list[tuple[bool, int]]:
    progress = Progress()
    return [(progress.update_best(scored(*each)), progress.stale) for each in evaluations]


def test_cer_decides_where_it_is_told_first():
    progress = Progress()
    figures = [(80, 40), (90, 30), (70, 35)]  # of words between spaces, and of characters
    found = [progress.update_best(replace(scored(*each), headline="CER")) for each in figures]
    assert found == [True, True, False] and (progress.best_wer, progress.best_cer) == (90, 30)


def test_blanks_and_babble_are_no_best_and_do_not_count_for_patience():
    # The first evaluation has the lowest CER by chance, while the loss falls for many epochs.
    babble = [(100, 92), (100, 100), (100, 94), (100, 94), (97, 85), (100, 91)]
    assert best_and_stale(*babble) == [(True, 0)] * 6
    # The first words, though that WER was there before, and from here on both count.
    assert best_and_stale(*babble, (97, 74), (100, 60), (99, 80), (90, 76)) == [
        *[(True, 0)] * 7,
        (False, 1),
        (False, 2),
        (True, 0),
    ]


def test_once_the_network_spells_wer_and_then_cer_decide():
    found = best_and_stale((60, 30), (60, 29), (60, 29), (61, 20), (59, 31), (100, 100))
    assert found == [(True, 0), (True, 0), (False, 1), (False, 2), (True, 0), (False, 1)]


@pytest.mark.parametrize("cer, lines", [(92.0, []), (40.0, ["it knows none"])])
def test_a_language_model_is_doubted_once_the_network_spells(monkeypatch, caplog, cer, lines):
    trainer = training.Trainer.__new__(training.Trainer)
    trainer.config, trainer.log = TrainConfig(), logging.getLogger("doubts")
    trainer.progress = Progress(best_wer=cer, best_cer=cer)
    trainer.group = SimpleNamespace(rank=0, count=1, all_reduce_sum=lambda *values: values)
    trainer.step = SimpleNamespace(forecast=MemoryEstimate(0, 0, 1), result_in_place=nullcontext)
    trainer.animation = SimpleNamespace(index=0)
    trainer.decoder = SimpleNamespace(warnings=lambda: ["it knows none"])
    trainer.speech_model = None
    monkeypatch.setattr(training, "evaluate", lambda *args, **options: None)
    assert trainer._validate(None) is None
    assert [record.message for record in caplog.records] == lines


def test_a_run_of_an_earlier_version_goes_on_while_it_babbles():
    """It counted two evaluations since the babble with the lowest CER."""
    progress = Progress(best_wer=100.0, best_cer=92.65, stale=2)
    assert progress.update_best(scored(100, 94)) and progress.stale == 0


def test_training_stops_early_and_says_so_again(corpus, tmp_path, no_pictures, monkeypatch):
    real = training.evaluate

    def no_better(*arguments, **options):
        """The statistics of normalisation move, so the text may change by chance."""
        edits = EditCounts(6, 0, 0, 10)
        return replace(real(*arguments, **options), words=edits, characters=edits)

    monkeypatch.setattr(progress_module, "SPELLS_BELOW_CER", math.inf)  # whatever it answers
    monkeypatch.setattr(training, "evaluate", no_better)
    options = ["learning_rate=0", "patience=2", "batch_size=6"]
    result = train(corpus, tmp_path, *options, "epochs=9")
    assert (result.progress.epoch, result.progress.stale) == (3, 2)
    assert result.stop == Stop(StopReason.OUT_OF_PATIENCE) and result.completed
    wer = float(rows(tmp_path)[0]["val_wer"])
    said = f"stopped early: 2 evaluations without a better WER than {wer:.2f}"
    assert said in lines(tmp_path)
    result = train(corpus, tmp_path, *options, "epochs=9", resume=True)
    assert result.progress.epoch == 3
    assert lines(tmp_path).count(said) == 2


def test_frozen_layers_stay_as_they_are(corpus, tmp_path, no_pictures):
    options = ["norm=batch", "hidden_layers=2"]
    config = configured(corpus, *options)
    fresh = SpeechModel.create(RECIPE, config, CharacterTokenizer(tuple(LABELS)), "CPU").network
    train(corpus, tmp_path, *options, "freeze=[conv, RNN.lstms.0]", "epochs=1", "val_manifest=")
    found = last(tmp_path).parameters
    for parameter in fresh.get_parameters():
        if "dropout_seed" in parameter.name:
            continue
        frozen = parameter.name.startswith(("conv", "RNN.lstms.0"))
        same = np.array_equal(found[parameter.name], parameter.asnumpy())
        assert same == frozen, parameter.name
    assert "moment1.fc.module.weight" in found and "moment1.conv.conv1.weight" not in found


def test_freezing_what_is_not_there_is_refused(corpus, tmp_path):
    with pytest.raises(UserError, match="no parameter begins with 'cnv'; there are .*conv.conv1"):
        train(corpus, tmp_path, "freeze=[cnv]")
    with pytest.raises(UserError, match="nothing is left to train"):
        train(corpus, tmp_path, "freeze=[conv, RNN, fc]")


@pytest.mark.parametrize(
    ("option", "count"),
    [("max_utterances=5", 5), ("max_hours=0.0008", None), ("min_duration=0.9", None)],
)
def test_a_part_of_the_data(corpus, tmp_path, option, count):
    train(corpus, tmp_path, option, "epochs=0", "ignore_offline_speed_perturbation=true")
    found = re.search(r"training: (\d+) utterances?, (\d.\d\d) hours", "\n".join(lines(tmp_path)))
    assert 1 <= int(found[1]) < 12
    assert count is None or int(found[1]) == count
    if option.startswith("min_duration"):
        assert f"left out: {12 - int(found[1])} utterances shorter than" in lines(tmp_path)[1]


def test_no_data_at_all_is_refused(corpus, tmp_path):
    with pytest.raises(UserError, match="nothing to train on: none of 12 utterances"):
        train(corpus, tmp_path, "min_duration=30")


def test_too_little_memory_is_refused(corpus, tmp_path):
    with pytest.raises(UserError, match="one utterance of .* frames needs about .* allowed: lower"):
        train(corpus, tmp_path, "memory_gib=0.01")


def test_static_shapes_train_as_dynamic_ones(corpus, tmp_path, no_pictures, monkeypatch):
    monkeypatch.setattr(Augmentation, "slowest", property(lambda self: 0.8))  # from epoch 3 on
    options = [
        "epochs=1",
        "batch_size=4",
        "val_manifest=",
        "ignore_offline_speed_perturbation=true",
    ]
    losses = {}
    for kind in ("dynamic", "static"):
        train(corpus, tmp_path / kind, *options, f"batch_shapes={kind}", "static_shapes=1")
        losses[kind] = [
            float(line.split()[-1]) for line in lines(tmp_path / kind) if "loss is" in line
        ]
    (said,) = [line for line in lines(tmp_path / "static") if "static shapes" in line]
    (plain, _), (slow, _) = ast.literal_eval(said.partition("(frames, labels): ")[2])
    assert 0.8 * slow > plain - 8  # what frames are rounded to
    assert len(losses["static"]) == 3
    np.testing.assert_allclose(losses["static"], losses["dynamic"], rtol=1e-3)

    last = tmp_path / "static" / "checkpoint" / "tiny-last.ckpt"
    found = checkpoint.load(last)
    shapes = found.metadata.pop("shapes")
    assert [frames for frames, _ in shapes] == [plain, slow]
    again = [*options, "batch_shapes=static", "static_shapes=1"]
    for known, warned in (({"shapes": shapes}, False), ({}, True)):
        values = {name: Tensor(value) for name, value in found.parameters.items()}
        checkpoint.save(last, values, {**found.metadata, **known})
        before = len(lines(tmp_path / "static"))
        train(corpus, tmp_path / "static", *again, resume=True)
        told = "\n".join(lines(tmp_path / "static")[before:])
        assert ("other static shapes: it goes on" in told) == warned


def test_four_clips_are_learnt_by_heart(corpus, tmp_path, no_pictures):
    manifest = record(tmp_path, "four", 4, seed=5)
    options = [
        f"train_manifest={manifest}",
        f"val_manifest={manifest}",
        "batch_size=4",
        "epochs=120",
        f"mindrecord_format={tmp_path}/records/{{split}}/four{{}}.md",
        "eval_every=20",
        "shards=1",
    ]
    config = configured(corpus, *options)
    for split in ("train", "val"):
        convert_split(RECIPE, config, split, log=lambda line: None)
    progress = train(corpus, tmp_path, *options).progress
    assert (progress.best_wer, progress.best_cer) == (0, 0)


def test_another_ranks_failure_while_a_run_is_set_up_is_a_result(corpus, tmp_path, monkeypatch):
    def fail(*arguments: object) -> None:
        raise RemoteRankError("rank 1 ended: no such file")

    monkeypatch.setattr(training, "_same_everywhere", fail)
    result = train(corpus, tmp_path)
    assert result.stop == Stop(StopReason.REMOTE_FAILURE, message="rank 1 ended: no such file")
    assert not result.completed and result.progress.step == 0
    assert result.last_checkpoint == Path("checkpoint/tiny-last.ckpt")


def test_more_epochs_are_refused_under_a_cosine_schedule(corpus, tmp_path, no_pictures):
    train(corpus, tmp_path, "schedule=cosine", "epochs=1")
    with pytest.raises(UserError, match=r"epochs is 2, and the cosine schedule .* ends after 1"):
        train(corpus, tmp_path, "schedule=cosine", "epochs=2", resume=True)


def contents(folder: Path) -> dict[str, bytes]:
    files = {path for path in folder.rglob("*") if path.is_file() and path.name != "train.log"}
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def test_a_new_run_sets_an_earlier_one_aside(corpus, whole, tmp_path, no_pictures):
    shutil.copytree(whole, tmp_path, dirs_exist_ok=True)
    before = {Path(name).name: content for name, content in contents(tmp_path).items()}
    best = "checkpoint/tiny-best.ckpt"
    train(corpus, tmp_path, "norm=batch", "epochs=0", "val_manifest=", start_from=best)
    earlier = tmp_path / "checkpoint" / "earlier-1"
    assert {name: (earlier / name).read_bytes() for name in before} == before
    assert len(contents(tmp_path)) == len(before) == 6 + 5
    assert (
        "a new run: the earlier one's checkpoints and figures are now in checkpoint/earlier-1"
        in lines(tmp_path)
    )
    with pytest.raises(UserError, match=r"no such file; .* to checkpoint/earlier-1/tiny-best"):
        train(corpus, tmp_path, "norm=batch", "epochs=0", start_from=best)


def test_a_run_with_other_checkpoints_returns_the_figures_of_an_earlier_one(
    corpus, whole, tmp_path, no_pictures
):
    shutil.copytree(whole, tmp_path, dirs_exist_ok=True)
    before = contents(tmp_path)
    train(corpus, tmp_path, "norm=batch", "epochs=0", "val_manifest=", "ckpt_path=other")
    names = {path.name for path in (tmp_path / "checkpoint" / "tiny-figures").iterdir()}
    assert names == {file.name for file in training.FIGURES}
    assert not list((tmp_path / "other").glob("earlier-*"))
    train(corpus, tmp_path, *RANDOM, resume=True)  # all of its epochs are done
    assert contents(tmp_path) == before


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["memory_gib=0.01"], "one utterance of .* frames needs"),
        (["speed_volume_perturb=true"], "the MindRecord files hold features"),
        (["noise_dir=noises"], r"noise_dir noises: .*hum\.wav: empty"),
        (["decoder_type=beam", "lm_path=none.arpa"], "none.arpa"),
        (["freeze=[cnv]"], "no parameter begins with 'cnv'"),
    ],
)
def test_a_run_that_is_refused_moves_nothing(
    corpus, whole, tmp_path, monkeypatch, options, message
):
    shutil.copytree(whole, tmp_path, dirs_exist_ok=True)
    (tmp_path / "noises").mkdir()
    (tmp_path / "noises" / "hum.wav").write_bytes(b"")
    before = contents(tmp_path)
    if options == ["speed_volume_perturb=true"]:
        opened = training.open_split

        def of_features(speech_model, split):
            source = opened(speech_model, split)
            source.store = "features"
            return source

        monkeypatch.setattr(training, "open_split", of_features)
    with pytest.raises(UserError, match=message):
        train(corpus, tmp_path, *options)
    assert contents(tmp_path) == before


def test_callbacks_of_the_caller_see_every_step_and_evaluation(corpus, tmp_path, no_pictures):
    class Recorder(Callback):
        def __init__(self):
            self.seen: list[tuple] = []

        def on_run_start(self, progress):
            self.seen.append(("start", progress.step))

        def on_epoch_start(self, epoch, batches):
            self.seen.append(("epoch", epoch, batches))

        def on_step_end(self, progress, epoch, result, batches):
            self.seen.append(("step", progress.step, batches))

        def on_evaluation_end(self, report):
            self.seen.append(("evaluation", report.metrics.step, report.is_best))
            assert (tmp_path / "checkpoint" / "tiny-last.ckpt").is_file()

        def on_run_end(self, result):
            self.seen.append(("end", result.stop.reason, [file.name for file in result.files]))

    recorder = Recorder()
    train(corpus, tmp_path, "epochs=1", "batch_size=4", callbacks=[recorder])
    assert recorder.seen == [
        ("start", 0),
        ("epoch", 0, 3),
        *(("step", step, 1) for step in (1, 2, 3)),
        ("evaluation", 3, True),
        ("end", StopReason.FINISHED, ["metrics.csv", "emissions.npz"]),
    ]


def test_the_training_loss_is_a_mean_over_utterances(corpus, tmp_path, no_pictures):
    train(corpus, tmp_path, "epochs=1", "batch_size=5", "val_manifest=")
    losses = [float(line.split()[-1]) for line in lines(tmp_path) if ", loss is " in line]
    expected = np.average(losses, weights=[5, 5, 2])
    assert abs(expected - np.mean(losses)) > 1e-3 * expected
    assert float(rows(tmp_path)[0]["train_loss"]) == pytest.approx(expected, rel=1e-5)


def test_figures_that_cannot_be_written_do_not_cost_the_run(corpus, tmp_path, monkeypatch):
    monkeypatch.setattr(History, "draw", lambda *arguments: None)
    names = ["metrics.csv", "emissions.npz", "emissions.gif"]  # the last is drawn at the end

    class OneBlocked(Callback):
        """A folder is in the way of another file in each epoch."""

        def on_epoch_start(self, epoch, batches):
            if epoch:
                assert (tmp_path / names[1 - (epoch - 1)]).is_file()  # the other one was written
                (tmp_path / names[epoch - 1]).rmdir()
            (tmp_path / names[epoch]).unlink(missing_ok=True)
            (tmp_path / names[epoch]).mkdir()

    result = train(corpus, tmp_path, "epochs=3", callbacks=[OneBlocked()])
    assert result.progress.epoch == 3
    assert (tmp_path / "checkpoint" / "tiny-last.ckpt").is_file()
    told = [line for line in lines(tmp_path) if line.startswith("figures not written: ")]
    assert [line.split(":")[1].strip() for line in told] == names
    assert all(": cannot be written" in line for line in told)
    assert all((tmp_path / name).is_file() for name in names[:2])
