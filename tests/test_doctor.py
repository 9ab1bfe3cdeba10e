"""doctor: figures read off fakes, rules and forecasts against arithmetic, one real run."""

from __future__ import annotations

import importlib.metadata
import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import yaml
from synthetic_corpus import make_corpus, settings, tiny

from common import config as configs
from common import doctor
from common.data.batch_sampler import static_shapes
from common.data.dataset import Dataset
from common.data.mindrecord_writer import Entry
from common.doctor import advice, machine, measuring
from common.doctor.advice import (
    Kernel,
    Measurements,
    Timed,
    best_advice,
    forecast_epoch,
    step_seconds,
)
from common.doctor.measuring import MARK
from common.memory import MemoryEstimate
from common.model.recipe import MemoryModel
from common.training.disk_space import forecast_disk
from common.utils.errors import UserError
from deepspeech2.src.recipe import RECIPE

ROOT = Path(__file__).resolve().parents[1]


def line_of(fixed: float, per_frame: float, *sizes: tuple[int, int]) -> tuple[Timed, ...]:
    """Steps that take exactly fixed + per_frame * padded frames."""
    return tuple(
        Timed(rows, rows, frames, (fixed + per_frame * rows * frames,)) for rows, frames in sizes
    )


STEPS = line_of(0.1, 1e-3, (1, 50), (8, 100), (8, 400))
# 10 batches of 1600 padded frames take 1.7 s each.
RUN = Measurements(steps=STEPS, planned=(1600,) * 10, speech=170.0, cores=4, workers=2, epochs=3)


# ---- forecast


def test_steps_are_reckoned_on_a_line_within_and_beyond_what_was_timed():
    sizes = np.array([50, 800, 1200, 3200, 10_000])
    np.testing.assert_allclose(step_seconds(STEPS, sizes), 0.1 + 1e-3 * sizes)


def test_below_the_shortest_a_step_takes_no_less_than_in_proportion():
    steps = (Timed(1, 1, 100, (0.1,)), Timed(1, 1, 200, (0.5,)))  # the line meets 0 at 75 frames
    np.testing.assert_allclose(step_seconds(steps, [50]), [0.05])
    np.testing.assert_allclose(step_seconds(steps[:1], [50, 300]), [0.05, 0.3])


def test_times_beside_other_work_are_held_to_what_their_neighbours_allow():
    """Other work only adds: here to the smallest step, then to the one beyond 800 frames."""
    hindered = (replace(STEPS[0], seconds=(9.0,)), *STEPS[1:])
    np.testing.assert_allclose(step_seconds(hindered, [800, 3200]), [0.9, 3.3])
    assert step_seconds(hindered, [50])[0] <= 0.9
    late = (STEPS[0], STEPS[1], Timed(8, 8, 110, (30.0,)))
    sizes = np.array([880, 3520])
    # At 800 frames a step takes 0.9 s, and at 880 no more than half as much again for each frame.
    assert (step_seconds(late, sizes) <= 1.5 * 0.9 / 800 * sizes + 1e-9).all()


def test_single_utterances_give_a_bound_and_no_estimate():
    lone = replace(RUN, steps=line_of(0.4, 0.0, (1, 50)))
    assert forecast_epoch(lone).bound and not forecast_epoch(RUN).bound
    said = "\n".join(doctor.run_lines(lone, measuring.Process()))
    assert "one epoch: at most " in said and "about" not in said
    busy = "\n".join(doctor.run_lines(replace(RUN, load=2.0), measuring.Process()))
    assert "other processes kept 2.0 of the 4 cores busy" in busy


def test_an_epoch_is_its_steps_and_on_a_cpu_what_the_loader_takes_of_the_cores():
    assert forecast_epoch(RUN).seconds == pytest.approx(17.0)
    # 170 s of speech at 85 a second: 2 s, on 2 of 4 cores.
    loaded = replace(RUN, delivered=85.0)
    assert forecast_epoch(loaded).seconds == pytest.approx(17.0 + 2.0 * 2 / 4)
    assert forecast_epoch(replace(loaded, device="GPU")).seconds == pytest.approx(17.0)
    slow = forecast_epoch(replace(loaded, device="GPU", delivered=1.0))
    assert (slow.seconds, slow.loading) == (pytest.approx(170.0), pytest.approx(170.0))


def test_an_epochs_bounds_are_those_of_the_quickest_and_the_slowest_steps():
    varied = replace(RUN, steps=(Timed(1, 1, 1600, (1.0, 2.0, 5.0)),))
    epoch = forecast_epoch(varied)
    assert (epoch.low, epoch.seconds, epoch.high) == pytest.approx((10.0, 20.0, 50.0))
    extended = forecast_epoch(replace(RUN, planned=(6400,)))
    assert extended.extended and extended.low == pytest.approx(0.7 * 6.5)
    assert not forecast_epoch(RUN).extended
    assert forecast_epoch(replace(RUN, steps=())) is None
    assert forecast_epoch(replace(RUN, planned=())) is None


# ---- rules: for each the figures that call for it, its factor, and figures that do not


def kernel(seconds: float) -> Kernel:
    return Kernel(("ref",), seconds, 1.0)


LIMITED = replace(
    RUN,
    avx512=True,
    instructions="AVX2",
    operators=("convolution", "LSTM"),
    kernels={"native": kernel(2.0), "LSTM": kernel(4.0)},
    unlimited={"native": kernel(90.0), "matmul": kernel(1.0), "LSTM": kernel(2.0)},
)
STATIC = replace(RUN, static_seconds=(34.0, 17.0), static_compiling=10.0, static_graphs=8)
CASES = {
    "a card that is not used": (
        advice.another_device,
        replace(RUN, devices=("GPU", "CPU")),
        advice.ACCELERATED,
        "--device_target GPU",
        replace(RUN, device="GPU", devices=("GPU", "CPU")),
    ),
    "AVX-512 held back": (
        advice.allow_avx512,
        LIMITED,
        (2.0 + 4.0) / (1.0 + 2.0),
        "unset ONEDNN_MAX_CPU_ISA (now AVX2)",
        replace(LIMITED, avx512=False),
    ),
    "AVX-512 held back, a network of convolutions": (
        advice.allow_avx512,
        replace(LIMITED, operators=("convolution",)),
        2.0,
        "ONEDNN_MAX_CPU_ISA",
        replace(LIMITED, instructions=""),
    ),
    "cores left alone": (
        advice.use_all_cores,
        replace(RUN, threads=1),
        4.0,
        "all 4 cores",
        replace(RUN, threads=4),
    ),
    "a busy machine": (
        advice.end_other_work,
        replace(RUN, load=2.0),
        1.5,
        "2.0 of the 4 cores",
        replace(RUN, load=1.9),
    ),
    "micro-batches": (
        advice.larger_micro_batches,
        replace(RUN, micro_rows=(1, 8), micro_seconds=(6.0, 2.0)),
        3.0,
        "let 8 utterances through at once",
        replace(RUN, micro_rows=(8, 8), micro_seconds=(6.0, 2.0)),
    ),
    "single utterances": (
        advice.larger_batches,
        replace(RUN, batch_rows=(1, 8), batch_seconds=(0.4, 0.1)),
        4.0,
        "--set batch_size=8 (now 1)",
        replace(RUN, batch_rows=(8, 8), batch_seconds=(0.4, 0.1)),
    ),
    "padding": (
        advice.less_padding,
        replace(RUN, paddings={"pad_align=1": 12_800, "static_shapes=16": 10_000}),
        1.6,
        "--set static_shapes=16",
        RUN,
    ),
    # 100 epochs of 17 s, of which half are saved, for 8 compilations of 10 s.
    "static shapes": (
        advice.static_shapes,
        replace(STATIC, epochs=100),
        1700 / (850 + 80),
        "--set batch_shapes=static: 8 lengths with a graph each, compiled once in 1.3 minutes",
        replace(STATIC, epochs=9),  # 76.5 s are saved
    ),
    # 17 s of steps, 170 s of loading with 2 threads on 4 cores, 85 s with 4 beside 17 s.
    "workers": (
        advice.more_workers,
        replace(RUN, delivered=1.0),
        170 / (85 + 17),
        "--set workers=4 (now 2)",
        replace(RUN, delivered=1.0, workers=4),
    ),
    "a smaller network": (
        advice.smaller_network,
        replace(RUN, epochs=6000, smaller="an4", smaller_epoch=0.5),
        34.0,
        "presets/an4.yaml",
        replace(RUN, epochs=3, smaller="an4", smaller_epoch=0.5),  # 51 s are no long run
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_each_rule_has_its_figures_and_its_factor(case):
    rule, figures, factor, said, others = CASES[case]
    found = rule(figures)
    assert found.factor == pytest.approx(factor)
    assert said in found.sentence and "\n" not in found.sentence
    assert best_advice(figures) == found
    assert rule(others) is None


def test_every_rule_is_tried():
    assert {rule for rule, *_ in CASES.values()} == set(advice.RULES)


def test_the_largest_factor_wins_and_little_is_nothing():
    both = replace(RUN, threads=2, micro_rows=(1, 8), micro_seconds=(6.0, 2.0))
    assert best_advice(both).factor == pytest.approx(3.0)
    busy = best_advice(replace(RUN, load=4.0, batch_rows=(1, 8), batch_seconds=(0.18, 0.1)))
    assert busy.factor == pytest.approx(2.0) and "end what else runs here" in busy.sentence
    assert "; and then --set batch_size=8 (now 1)" in busy.sentence
    assert best_advice(replace(RUN, micro_rows=(4, 8), micro_seconds=(1.05, 1.0))) is None
    assert best_advice(RUN) is None


# ---- what processes say

VERBOSE = "onednn_verbose,v1,primitive,exec,cpu"
OUTPUT = f"""[WARNING] something of MindSpore's
onednn_verbose,v1,info,cpu,runtime:threadpool,nthr:6
{MARK}{{"devices": ["CPU"], "versions": {{}}}}
{VERBOSE},matmul,before:any,undef,,1
{MARK}{{"begin": "native"}}
{VERBOSE},reorder,jit:uni,undef,,0.1
{VERBOSE},convolution,jit_uni_ncsp:conv+ref:any,forward_training,src:f32,,alg,mb1_ic32,95.1
{VERBOSE},convolution,jit_uni_ncsp:conv+ref:any,forward_training,src:f32,,alg,mb1_ic32,95.3
{MARK}{{"end": "native", "seconds": 0.0951, "gflops": 2.0}}
{MARK}{{"begin": "LSTM"}}
{VERBOSE},rnn,ref,forward_training,src_layer:f32,,12.1
{MARK}{{"end": "LSTM", "seconds": 0.0121, "gflops": 130.0}}
"""


def test_kernels_are_named_by_what_ran_between_the_marks():
    found = measuring.read_process(OUTPUT)
    assert found.threads == 6 and found.get("devices") == ["CPU"]
    assert found.kernels == {
        "native": Kernel(("convolution jit_uni_ncsp:conv+ref:any",), 0.0951, 2.0),
        "LSTM": Kernel(("rnn ref",), 0.0121, 130.0),
    }


def test_the_table_of_kernels_marks_what_is_used():
    figures = Measurements(
        avx512=True,
        kernels={"native": Kernel(("convolution ref:any",), 0.08, 2.0), "matmul": kernel(0.002)},
    )
    native, matmul, *_, ratio = machine.kernel_lines(figures)
    assert native[0] == " " and "reference" in native and matmul[0] == "*"
    assert "40.0 times as fast" in ratio
    native, matmul, *_, ratio = machine.kernel_lines(replace(figures, instructions="AVX2"))
    assert native[0] == "*" and matmul[0] == " " and "40.0 times slower" in ratio


def test_why_a_process_failed_is_one_line():
    assert "memory" in measuring._reason(-9, "")
    assert measuring._reason(1, "noise\nerror: device X: no such\n") == "device X: no such"
    assert (
        measuring._reason(1, "Traceback\nImportError: y") == "MindSpore fails here: ImportError: y"
    )


# ---- devices, versions, disk


def test_busy_cores_are_counted_while_nothing_is_done(monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    #             user nice system idle iowait irq softirq steal
    texts = iter(
        ["cpu  100 50 10 1000 40 1 2 3 0 0\ncpu0 9", "cpu  150 70 15 1250 60 1 2 58 0 0\n"]
    )
    # 50 + 20 + 5 + 55 busy ticks of 400
    assert machine.busy_cores(lambda s: None, lambda: next(texts)) == pytest.approx(8 * 130 / 400)
    assert machine.busy_cores(lambda s: None, lambda: "") == 0.0


REQUIREMENTS = """# a comment
mindspore==2.10.0  # why
numpy==1.26.4
scipy==1.17.1; python_version >= "3.11"
scipy==1.15.3; python_version < "3.11"
"""


def test_pins_are_those_of_this_python():
    assert machine.pins(REQUIREMENTS, minor=11)["scipy"] == "1.17.1"
    assert machine.pins(REQUIREMENTS, minor=10)["scipy"] == "1.15.3"
    assert machine.requirements() == (ROOT / "requirements.txt").read_text()
    everything = machine.pins(machine.requirements())
    assert everything["numpy"] == "1.26.4" and "PyYAML" in everything


def versions(**found: str):
    def version(name: str) -> str:
        if name not in found:
            raise importlib.metadata.PackageNotFoundError(name)
        return found[name]

    pinned = machine.pins(REQUIREMENTS)["scipy"]
    lines, obstacles = machine.check_versions(
        REQUIREMENTS.replace(pinned, "1.17.1"), installed=version
    )
    return "\n".join(lines), obstacles


def test_versions_that_clash_are_named():
    said, obstacles = versions(mindspore="2.10.0", numpy="1.26.4", scipy="1.17.1")
    assert "all 3 packages as in requirements.txt" in said and obstacles == []
    said, obstacles = versions(mindspore="2.10.0", numpy="2.4.6", scipy="1.17.1")
    assert "numpy 2.4.6 (tried with 1.26.4)" in said
    assert len(obstacles) == 1 and "numpy 2.4.6 with mindspore 2.10.0" in obstacles[0]
    said, obstacles = versions(mindspore="2.10.0", numpy="1.26.4")
    assert obstacles == ["not installed: scipy: bash scripts/setup.sh"]


def test_disk_that_is_too_small_keeps_a_run_from_starting(tmp_path, monkeypatch):
    config = RECIPE.train_config()
    config.CheckpointConfig.ckpt_path = str(tmp_path / "not" / "there")
    config.CheckpointConfig.keep_checkpoint_max = 4
    trial = measuring.Process([{"checkpoint": 3 << 30, "best": 1 << 30}])
    need = (5 * 3 + 1) << 30  # 4, the best, and one in the making

    def disk(free: int):
        return lambda path: SimpleNamespace(free=free) if path == tmp_path else None

    lines, obstacles = machine.disk_lines(config, trial, disk(need))
    assert "16.0 GiB" in lines[0] and obstacles == []
    _, (obstacle,) = machine.disk_lines(config, trial, disk(need - 1))
    assert str(tmp_path) in obstacle and "\n" not in obstacle
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    _, (obstacle,) = machine.disk_lines(config, trial, disk(need))
    assert "cannot be written" in obstacle


def test_a_run_says_what_its_checkpoints_take(tmp_path, monkeypatch):
    folder = tmp_path / "not" / "there"

    def forecast(free: int, present: int = 0) -> tuple[str, str]:
        monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=free << 30))
        return forecast_disk(folder, 10, 4 << 30, 1 << 30, present << 30)

    line, warning = forecast(45)  # 10, one in the making, the best
    assert warning == "" and "up to 45.0 GiB" in line and "10 (keep_checkpoint_max)" in line
    _, warning = forecast(44)
    assert "1.0 GiB are missing" in warning and "--set keep_checkpoint_max=9, " in warning
    assert forecast(5, present=40)[1] == ""  # of the run that goes on
    assert "keep_checkpoint_max" not in forecast(6)[1]


def test_records_need_what_their_store_keeps():
    data = RECIPE.train_config().DataConfig
    hour = 3600.0
    # LibriSpeech's train-clean-100: 6.3 GB of FLAC in 100.6 hours
    assert 6.3e9 < machine.record_bytes(data, 100.6 * hour, 161) < 1.3 * 6.3e9
    data.store = "features"
    assert machine.record_bytes(data, hour, 161) == pytest.approx(4 * 161 * hour * 100)


def test_spans_are_in_hours():
    assert doctor.span(36) == "0.01 hours (36 s)"
    assert doctor.span(1800) == "0.5 hours (30 minutes)"
    assert doctor.span(180_000) == "50.0 hours"


def test_the_smallest_preset_is_proposed_to_large_networks_alone():
    config = RECIPE.train_config()
    assert doctor.smallest_preset(RECIPE, config) in ("an4", "quickstart")
    config.ModelConfig = doctor.network_of(RECIPE, "an4")
    assert doctor.smallest_preset(RECIPE, config) == ""


def test_bad_input_is_refused_in_a_line():
    from common import cli

    for options, said in (
        (["--preset", "nonsense"], "--preset nonsense"),
        (["--set", "bach_size=3"], "bach_size"),
        (["--seconds", "0"], "--seconds 0"),
    ):
        with pytest.raises(UserError, match=said) as refused:
            cli.doctor(RECIPE, options)
        assert "\n" not in str(refused.value)


# ---- timed steps, on a clock of their own


class Clock:
    """A train step that takes 0.2 s, and 1 ms a padded frame, and 0.5 s a micro-batch."""

    def __init__(self, forecast: MemoryEstimate):
        self.now, self.forecast, self.calls = 0.0, forecast, 0

    def __call__(self, batches, *_):
        (batch,) = batches
        rows, _, frames = batch.features.shape
        micro = -(-rows // min(rows, self.forecast.rows(frames)))
        self.now += 0.2 + 0.001 * rows * frames + 0.5 * micro
        self.calls += 1


def timed(monkeypatch, capsys, seconds: float, micro_batch: int = 0, rows: int = 8) -> list[dict]:
    from common.data.batch_sampler import PlannedBatch
    from common.doctor import steps
    from common.text.tokenizer import CharacterTokenizer

    forecast = MemoryEstimate(
        parameters=1000, per_frame=1.0, limit=2 << 30, micro_batch=micro_batch
    )
    clock = Clock(forecast)
    monkeypatch.setattr(steps.time, "perf_counter", lambda: clock.now)
    speech_model = SimpleNamespace(
        config=RECIPE.train_config(),
        static_training=False,
        device="CPU",
        featurizer=SimpleNamespace(dimension=2),
        tokenizer=CharacterTokenizer(("_", "A", "B")),
    )
    plan = [PlannedBatch((0,) * rows, frames, 5, rows) for frames in range(100, 1100, 100)]
    steps.Steps(speech_model, clock, None, plan, seconds, quick=False).run()
    lines = capsys.readouterr().out.splitlines()
    return [json.loads(line.removeprefix(MARK)) for line in lines]


def test_short_median_and_long_batches_are_timed_in_full(monkeypatch, capsys):
    found = timed(monkeypatch, capsys, 200.0)
    assert [(each["rows"], each["frames"]) for each in found] == [
        (1, 100),
        (8, 100),
        (8, 500),
        (8, 1000),
    ]
    for each in found:
        np.testing.assert_allclose(each["times"], 0.7 + 0.001 * each["rows"] * each["frames"])
    assert [len(each["times"]) for each in found[1:]] == [3, 3, 3]


def test_batches_of_a_usual_size_are_tried_beside_single_utterances(monkeypatch, capsys):
    (found,) = [each for each in timed(monkeypatch, capsys, 200.0, rows=1) if "batch_rows" in each]
    assert found["batch_rows"] == [1, 8]
    whole = [0.2 + 0.5 + 0.001 * rows * 500 for rows in (1, 8)]
    assert found["batch_seconds"] == pytest.approx([whole[0], whole[1] / 8])
    without = timed(monkeypatch, capsys, 3.0, rows=1)
    assert not [each for each in without if "batch_rows" in each]  # no time for it


def test_where_time_is_short_fewer_utterances_are_timed(monkeypatch, capsys):
    found = timed(monkeypatch, capsys, 9.0)
    spent = sum(sum(each["times"]) for each in found)
    assert spent < 2 * 9.0
    assert found[-1]["frames"] == 1000 and found[-1]["rows"] < found[-1]["of"] == 8


def test_larger_micro_batches_are_tried_where_memory_allows(monkeypatch, capsys):
    found = timed(monkeypatch, capsys, 300.0, micro_batch=2)[-1]
    assert found["micro_rows"] == [2, 8] and found["micro_key"] == "TrainingConfig.micro_batch"
    # The median batch, 8 x 500 frames, in four parts and in one.
    np.testing.assert_allclose(found["micro_seconds"], [0.2 + 4.0 + 2.0, 0.2 + 4.0 + 0.5])


@dataclass
class SpeechModel:
    """As much of one as `Steps` asks for."""

    config: object
    device: str
    featurizer: object
    tokenizer: object
    recipe: object

    @property
    def static_training(self) -> bool:
        return self.config.DataConfig.batch_shapes == "static"

    def parameters(self) -> int:
        return 1000


class Listed(Dataset):
    store = "audio"

    def read(self, indices):
        raise NotImplementedError


@pytest.mark.parametrize("case", ["gain", "no time", "no memory", "a card"])
def test_static_shapes_are_tried_beside_dynamic_ones(monkeypatch, capsys, case):
    from common.doctor import steps
    from common.text.tokenizer import CharacterTokenizer
    from common.training.epoch_plan import EpochPlan

    config = RECIPE.train_config()
    config.TrainingConfig.memory_gib = 1.0 if case == "no memory" else 8.0
    config.DataConfig.AugmentationConfig.speed_volume_perturb = True
    speech_model = SpeechModel(
        config,
        "GPU" if case == "a card" else "CPU",
        SimpleNamespace(dimension=2),
        CharacterTokenizer(("_", "A", "B")),
        SimpleNamespace(memory=MemoryModel(lambda model, dimension: 10_000.0, 0.4, 13.5, 5.0)),
    )
    source = Listed([Entry(str(n), "A", 0.0, 100 + 10 * n, 5, 5) for n in range(40)])
    clock = Clock(MemoryEstimate(parameters=1000, per_frame=1.0, limit=2 << 30))
    forecasts = []

    def train_step(static, forecast):
        assert static.static_training and not speech_model.static_training
        forecasts.append(forecast)
        times = iter([5.0, 0.4, 0.4])

        def step(*_):
            clock.now += next(times)

        return step

    monkeypatch.setattr(steps.time, "perf_counter", lambda: clock.now)
    monkeypatch.setattr(steps, "TrainStep", train_step)
    plan = EpochPlan(speech_model, source).plan(1)
    seconds = 60.0 if case == "no time" else 500.0
    steps.Steps(speech_model, clock, source, plan, seconds, quick=False).run()
    said = json.loads(capsys.readouterr().out.splitlines()[-1].removeprefix(MARK))
    if case != "gain":
        assert not forecasts and "static_seconds" not in said
        return
    shapes = static_shapes(source.frames, source.label_counts, 8, slowest=0.85)
    assert said["static_graphs"] == len(shapes) == 9
    assert said["static_compiling"] == pytest.approx(5.0 - 0.4)
    (forecast,) = forecasts
    together = sum(frames for frames, _ in shapes)
    assert said["static_memory"] == pytest.approx(forecast.fixed + 20 * 10_000 * together)
    # The median batch, in proportion to all of an epoch: two, and one of each of eight lengths.
    dynamic, static = said["static_seconds"]
    frames, lengths = sorted(each.frames for each in plan), [frames for frames, _ in shapes[:8]]
    assert dynamic == pytest.approx((0.7 + 0.02 * frames[0]) * sum(frames) / frames[0])
    assert static == pytest.approx(0.4 * sum(lengths) / lengths[4])


# ---- data


def test_lengths_that_no_manifest_tells_are_guessed_from_some_headers(monkeypatch):
    from common.audio import segments
    from common.audio.io import AudioInfo
    from common.data.manifest import Utterance
    from common.doctor import trials

    opened = []

    def info(path: Path) -> AudioInfo:
        opened.append(path)
        if path.name == "0":
            raise UserError("broken")
        return AudioInfo(100, 1, 100 * int(path.name))

    monkeypatch.setattr(segments, "audio_info", info)
    monkeypatch.setattr(trials, "MAX_HEADERS", 5)
    unknown = [Utterance(str(n), Path(str(n)), "") for n in range(20)]
    known = [Utterance("k", Path("k"), "", duration=77.0)]
    durations, guessed = trials.guess_durations(unknown + known)
    assert (len(opened), guessed, durations[-1]) == (5, 15, 77.0)
    assert set(durations) <= {77.0, *(float(path.name) for path in opened)} - {0.0}
    monkeypatch.setattr(segments, "audio_info", lambda path: info(Path("0")))
    with pytest.raises(UserError, match="broken"):
        trials.guess_durations(unknown)


@pytest.mark.training
def test_without_data_the_rest_is_done_and_what_is_missing_said(cpu, tmp_path, capsys):
    from common.doctor import trials

    config = tiny(make_corpus(tmp_path))
    config.DataConfig.train_manifest = [str(tmp_path / "none.csv")]
    trials.training(RECIPE, config, "CPU", None, 1.0)
    found = measuring.read_process(capsys.readouterr().out)
    converted, manifest = found.all("obstacle")
    assert "create_mindrecord.py" in converted and "none.csv" in manifest
    assert found.get("memory").startswith("memory: about")
    figures = Measurements(**measuring.figures_of(measuring.Process(), found))
    assert figures.operators == ("convolution", "LSTM")
    assert len(figures.steps) >= 2 and forecast_epoch(figures) is None
    # three copies: weights and Adam's two moments, and what moves without a gradient
    assert found.get("checkpoint") >= 3 * 4 * found.get("parameters")
    assert found.get("checkpoint") < 3.2 * 4 * found.get("parameters") + 1000
    assert any("no forecast" in line for line in doctor.run_lines(figures, found))


@pytest.mark.launcher
def test_doctor_on_the_telephone_prompts(cpu, tmp_path):
    from common.data.splits import convert_split

    prompts = ROOT / "data" / "telephone_prompts" / "validation.jsonl"
    values = settings(tmp_path)
    del values["DataConfig"]["labels_path"]
    values["DataConfig"] |= {"train_manifest": str(prompts), "val_manifest": ""}
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(values))
    config = RECIPE.train_config()
    configs.override_from_yaml(config, tmp_path / "tiny.yaml")
    convert_split(RECIPE, config, "train", log=lambda line: None)

    done = subprocess.run(
        [
            sys.executable,
            RECIPE.folder / "doctor.py",
            *("--config", "tiny.yaml", "--seconds", "2", "--device_target", "cpu"),
        ],
        cwd=tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": "3"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    page = " ".join(done.stdout.split())  # wrapped anywhere
    assert "24 utterances, 0.01 hours" in page and "6 batches" in page
    assert "one epoch: about" in page and "2 epochs:" in page
    assert page.count("GFLOP/s") == 3 and "rnn ref" in page
    assert "OMP_NUM_THREADS=3" in page and "MindRecord files: there" in page
    assert page.endswith("Nothing keeps train.py from starting.")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["records", "tiny.yaml"]
