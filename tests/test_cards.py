"""What is known of a card before anything runs on it: settings of the chip, memory, overflow."""

from __future__ import annotations

import argparse
import logging
import os
from types import SimpleNamespace

import pytest

from common import memory
from common.cli import options
from common.memory import GIB
from common.training import profiling
from common.utils import ascend, runtime
from common.utils.errors import UserError
from deepspeech2.src.recipe import RECIPE as DEEPSPEECH2
from jasper.src.recipe import RECIPE as JASPER

PARAMETERS = {"deepspeech2": 86_600_000, "jasper": 332_600_000}


# ---- how a chip runs networks


@pytest.mark.parametrize(
    ("chip", "jit_level", "precision", "saturates"),
    [
        ("ascend910", "O2", "allow_fp32_to_fp16", True),
        ("ascend910b", "O0", "must_keep_origin_dtype", False),
        ("ascend910_93", "O0", "must_keep_origin_dtype", False),
        ("", "O0", "must_keep_origin_dtype", False),
    ],
)
def test_settings_are_mindspores_own_for_the_chip(chip, jit_level, precision, saturates):
    found = ascend.settings(chip, {})
    assert (found.jit_level, found.precision, found.saturates) == (jit_level, precision, saturates)
    assert found.chosen == ()
    assert jit_level in found.line() and precision in found.line()


def test_settings_that_a_user_has_chosen_are_set_and_no_others(monkeypatch):
    set_here = []
    fake = SimpleNamespace(
        set_context=lambda **values: set_here.append(values),
        device_context=SimpleNamespace(
            ascend=SimpleNamespace(op_precision=SimpleNamespace(precision_mode=set_here.append))
        ),
    )
    monkeypatch.setattr("common.utils.backend.ms", fake)
    runtime._apply(ascend.settings("ascend910", {}))
    assert set_here == []
    chosen = {ascend.JIT_LEVEL: "O1", ascend.PRECISION: "force_fp32"}
    runtime._apply(ascend.settings("ascend910b", chosen))
    assert set_here == [{"jit_config": {"jit_level": "O1"}}, "force_fp32"]
    with pytest.raises(UserError, match="ASCEND_JIT_LEVEL=O9: expected one of O0, O1, O2"):
        ascend.settings("ascend910", {ascend.JIT_LEVEL: "O9"})


def test_options_of_the_command_line_reach_the_environment(monkeypatch, capsys):
    monkeypatch.setattr(os, "environ", {})
    parser = argparse.ArgumentParser()
    options.add_device(parser)
    parser.parse_args([])
    assert os.environ == {}
    parser.parse_args(["--jit_level", "O2", "--operator_precision=allow_fp32_to_bf16"])
    assert (
        ascend.settings("ascend910b", os.environ)
        .line()
        .startswith("ascend910b (910B): jit level O2, operators allow_fp32_to_bf16")
    )
    with pytest.raises(SystemExit):
        parser.parse_args(["--jit_level", "O3"])
    assert "choose from" in capsys.readouterr().err


def test_where_float16_saturates_is_told_from_chip_and_mode(monkeypatch):
    monkeypatch.delenv("MS_ASCEND_CHECK_OVERFLOW_MODE", raising=False)
    monkeypatch.setattr(runtime, "ascend_settings", lambda: ascend.settings("ascend910", {}))
    assert runtime.saturates("Ascend") and not runtime.saturates("GPU")
    monkeypatch.setattr(runtime, "ascend_settings", lambda: ascend.settings("ascend910b", {}))
    assert not runtime.saturates("Ascend")
    monkeypatch.setenv("MS_ASCEND_CHECK_OVERFLOW_MODE", "SATURATION_MODE")
    assert runtime.saturates("Ascend") and not runtime.saturates("CPU")


def test_a_warning_that_mindspore_would_hide_is_logged(tmp_path, monkeypatch):
    monkeypatch.setattr(runtime, "ascend_settings", lambda: ascend.settings("ascend910b", {}))
    (tmp_path / "compiler").mkdir()
    (tmp_path / "compiler/version.info").write_text("Version=8.0.RC1\n")
    monkeypatch.setenv("ASCEND_HOME_PATH", str(tmp_path))
    settings, warning = runtime.device_lines("Ascend")
    assert warning.startswith("warning: CANN is 8.0, and MindSpore 2.10 accepts")
    (tmp_path / "compiler/version.info").write_text("Version=8.5.0\n")
    assert runtime.device_lines("Ascend") == [settings]
    assert runtime.device_lines("CPU") == []


# ---- memory


def model_of(recipe, device: str) -> SimpleNamespace:
    """As much of a SpeechModel as a forecast looks at."""
    config = recipe.train_config()
    return SimpleNamespace(
        recipe=recipe,
        config=config,
        device=device,
        featurizer=recipe.build_featurizer(config.DataConfig),
        parameters=lambda: PARAMETERS[recipe.name.lower()],
    )


@pytest.mark.parametrize("recipe", [DEEPSPEECH2, JASPER], ids=["deepspeech2", "jasper"])
@pytest.mark.parametrize("device", ["Ascend", "GPU"])
@pytest.mark.parametrize("card", [32, 64])
def test_the_limit_is_the_cards_whatever_the_host_has(recipe, device, card, monkeypatch):
    """Eight ranks of the default configuration, on a host with little memory."""
    monkeypatch.setattr(runtime, "machine_memory", lambda: 4 * GIB)
    monkeypatch.setattr(runtime, "card_memory", lambda device: card * GIB)
    model = model_of(recipe, device)
    forecast = memory.forecast_memory(model, processes=8, shapes=[(1700, 200)])
    assert forecast.limit == pytest.approx(0.8 * card * GIB)
    batch, longest = model.config.DataConfig.batch_size, 1700  # 17 s
    forecast.check(longest)
    rows = min(batch, forecast.rows(longest))
    assert rows >= 1 and forecast.peak(rows, longest) <= forecast.limit
    assert rows == batch or forecast.peak(rows + 1, longest) > forecast.limit
    assert f"(80 % of the card's {card}.0 GiB)" in forecast.line(batch, longest)
    model.config.TrainingConfig.memory_gib = 7.0
    assert memory.forecast_memory(model, processes=8).limit == 7 * GIB


def test_a_card_that_does_not_tell_is_taken_for_the_smallest(monkeypatch):
    monkeypatch.setattr(runtime, "card_memory", lambda device: 0)
    forecast = memory.forecast_memory(model_of(DEEPSPEECH2, "Ascend"))
    assert forecast.limit == pytest.approx(0.8 * 32 * GIB)
    assert "which tells no number" in forecast.line(1, 100)
    assert memory.device_memory("GPU") == 32 * GIB
    monkeypatch.setattr(runtime, "machine_memory", lambda: 5 * GIB)
    assert memory.device_memory("CPU") == 5 * GIB


def test_the_memory_of_a_card_is_what_mindspores_hal_tells(cpu, monkeypatch):
    from common.utils.backend import ms

    asked = []
    assert runtime.card_memory("Ascend") == 0  # not what this process uses
    facts = {"device_target": "Ascend", "device_id": 3}
    monkeypatch.setattr(ms, "get_context", facts.get)

    def properties(device_id, device):
        asked.append((device_id, device))
        return SimpleNamespace(name="Ascend910B3", total_memory=64 * GIB, free_memory=60 * GIB)

    monkeypatch.setattr(ms.hal, "get_device_properties", properties)
    assert runtime.card_memory("Ascend") == 64 * GIB
    assert asked == [(3, "Ascend")]
    monkeypatch.setattr(ms.hal, "get_device_properties", lambda device_id, device: None)
    assert runtime.card_memory("Ascend") == 0  # as MindSpore answers for a CPU


# ---- profile


@pytest.mark.parametrize(("steps", "recorded"), [(9, "2 steps"), (4, "1 step"), (2, "")])
def test_a_profile_leaves_out_the_first_steps(steps, recorded, monkeypatch, caplog, tmp_path):
    monkeypatch.chdir(tmp_path)
    caplog.set_level(logging.INFO)
    calls = []

    def start(device, folder):
        calls.append(f"start on {device} after {profiler.seen}")
        return SimpleNamespace(stop=lambda: calls.append(f"stop after {profiler.seen}"))

    monkeypatch.setattr(profiling, "_start", start)
    profiler = profiling.StepProfiler(2, "Ascend", logging.getLogger("run"), rank=3)
    for _ in range(steps):
        profiler.on_step_end(None, 0, None, 1)
    profiler.on_run_end(None)
    stop = [f"stop after {min(steps, profiling.WARM_UP + 2)}"]
    assert calls == (["start on Ascend after 3", *stop] if recorded else [])
    said = "".join(record.message for record in caplog.records)
    assert recorded in said and ("rank_3: ASCEND_PROFILER_OUTPUT" in said) == bool(recorded)
