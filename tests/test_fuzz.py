"""The rules by which fuzz_inputs.py and fuzz_commands.py judge, with readers made for it."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import fuzz_audio
import fuzz_runner
import numpy as np
import pytest
import soundfile as sf
from fuzz_mutations import change_tree, damage_bytes, damage_json, damage_text
from fuzz_runner import Finding, Outcome, Target, campaign

from common.utils.errors import UserError, shown


def _write(rng, good, folder: Path) -> Path:
    path = folder / "input.txt"
    path.write_bytes(rng.bytes(8))
    return path


def outcomes(folder: Path, read, count: int = 1, keep: Path | None = None) -> list[Outcome]:
    target = Target("test", count, lambda folder: None, _write, read, memory=1 << 30)
    found: list[Outcome] = []
    campaign(target, 0, range(count), folder, found.append, keep)
    return found


def test_what_is_read_or_refused_by_name_is_no_finding(tmp_path):
    def read(path, good):
        if path.read_bytes()[0] < 128:
            raise UserError(f"{path}: too small")
        return "read"

    found = outcomes(tmp_path, read, 40)
    assert [outcome.number for outcome in found] == list(range(40))
    assert {outcome.how for outcome in found} == {"read", "refused"}
    assert not any(outcome.finding for outcome in found)


@pytest.mark.parametrize(
    ("error", "finding"),
    [
        (KeyError("config"), "KeyError in test_fuzz.py:read"),
        (UserError("too small"), "does not name the input"),
        (Finding("sound lost"), "sound lost"),
    ],
)
def test_other_exceptions_and_nameless_messages_are_findings(tmp_path, error, finding):
    def read(path, good):
        raise error

    keep = tmp_path / "kept"
    (outcome,) = outcomes(tmp_path / "work", read, keep=keep)
    assert finding in outcome.finding and outcome.how == ""
    (kept,) = keep.glob("*/input.txt")
    assert kept.read_bytes() == fuzz_runner.rng_of(0, "test", 0).bytes(8)


def test_crashes_hangs_and_memory_are_findings_and_the_next_inputs_are_read(tmp_path, monkeypatch):
    monkeypatch.setattr(fuzz_runner, "HANGS", 1.5)

    def read(path, good):
        first = count.read_text() if count.exists() else ""
        count.write_text(first + "x")
        if first == "":
            os.kill(os.getpid(), signal.SIGKILL)
        if first == "x":
            time.sleep(60)
        if first == "xx":
            np.ones(1 << 29)  # 4 GiB
        return "read"

    count = tmp_path / "count"
    found = outcomes(tmp_path / "work", read, 4)
    assert "SIGKILL" in found[0].finding
    assert "no answer" in found[1].finding
    assert "MemoryError" in found[2].finding
    assert found[3].how == "read"


def test_an_input_depends_on_its_number_alone():
    tree, text, data = {"a": [1, {"b": "c"}], "d": 2.5}, "a: 1\nb: [2, 3]\n", bytes(range(256))

    def made(number):
        rng = fuzz_runner.rng_of(7, "kind", number)
        return (
            damage_bytes(rng, data, data[::-1]),
            damage_text(rng, text, text),
            damage_json(rng, tree),
        )

    later = [made(number) for number in (5, 4, 3)]
    assert [made(number) for number in (3, 4, 5)] == later[::-1]
    assert len({made(number) for number in range(50)}) == 50


def test_changes_leave_the_original_tree_alone():
    tree = {"a": [1, {"b": "c"}], "d": 2.5}
    rng = np.random.default_rng(0)
    changed = [change_tree(rng, tree) for _ in range(200)]
    assert tree == {"a": [1, {"b": "c"}], "d": 2.5}
    assert sum(each != tree for each in changed) > 150


def test_sound_that_is_left_in_a_file_is_seen(tmp_path):
    """Of a WAV of 1.4 s, 0.7 s are given: the size of the file tells."""
    path = tmp_path / "whole.wav"
    path.write_bytes(fuzz_audio.encoded("WAV", "PCM_16", fuzz_audio.sound()))
    samples = sf.read(path, dtype="float32")[0]
    fuzz_audio._check_nothing_lost(path, samples, fuzz_audio.RATE, 1)
    with pytest.raises(Finding, match="sound lost: 11200 samples are 22400 of the 44844 bytes"):
        fuzz_audio._check_nothing_lost(path, samples[:11200], fuzz_audio.RATE, 1)


def test_recordings_are_the_same_each_time():
    for container, subtype in (("OGG", "OPUS"), ("WAV", "FLOAT")):
        first = fuzz_audio.encoded(container, subtype, fuzz_audio.sound())
        assert fuzz_audio.encoded(container, subtype, fuzz_audio.sound()) == first


def test_messages_are_one_line_of_bounded_length():
    error = UserError("a\nb\x1b[31m\u2028\ud800 é 中" + "x" * 10_000 + "end")
    text = str(error)
    assert text.startswith("a\\nb\\x1b[31m\\u2028\\ud800 é 中xxx")
    assert text.endswith("xend") and len(text) < 2000
    assert text.isprintable()


def test_values_in_messages_are_short():
    nested: list = []
    for _ in range(40):
        nested = [nested, nested]
    assert len(shown(nested)) < 500
    assert shown({"a": [1, "b"]}) == "{'a': [1, 'b']}"
    assert "digits" in shown(int("f" * 5000, 16))
