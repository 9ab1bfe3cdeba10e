"""The quickstart's own logic; its steps are commands that other tests start."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from common.data.manifest import Utterance
from common.utils.errors import UserError

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "scripts"))

import quickstart  # noqa: E402


def test_the_archive_is_fetched_once(tmp_path):
    (tmp_path / "an4_sphere.tar.gz").write_bytes(b"abc")
    url = (tmp_path / "an4_sphere.tar.gz").as_uri()
    folder = quickstart._download(url, tmp_path / "download")
    assert (folder / "an4_sphere.tar.gz").read_bytes() == b"abc"
    assert quickstart._download("file:///nowhere", tmp_path / "download") == folder


def test_what_cannot_be_fetched_is_told(tmp_path):
    with pytest.raises(UserError, match="cannot be fetched .* --an4 DIR"):
        quickstart._download((tmp_path / "missing").as_uri(), tmp_path / "download")


def test_two_utterances_of_middling_length():
    utterances = [Utterance(str(n), Path(f"{n}.wav"), "A" * n) for n in (9, 1, 5, 30)]
    assert [each.id for each in quickstart._two(utterances)] == ["9", "30"]


def test_the_last_summary_of_the_log_counts(tmp_path):
    log = tmp_path / "eval.log"
    line = "Test Summary \tAverage WER {}\tAverage CER {}\n"
    log.write_text(line.format("90.100", "50.000") + line.format("38.854", "13.043"))
    assert quickstart._scores(log) == (38.854, 13.043)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_quickstart_waits_for_its_step(tmp_path, number):
    """A step that needs a second to save gets it: the parent must not kill it before."""
    step = (
        "import pathlib, signal, sys, time\n"
        "def save(number, _):\n"
        "    time.sleep(1); pathlib.Path('saved').touch(); sys.exit(128 + number)\n"
        "signal.signal(signal.SIGINT, save); signal.signal(signal.SIGTERM, save)\n"
        "pathlib.Path('ready').touch()\n"
        "time.sleep(60)\n"
    )
    (tmp_path / "step.py").write_text(step)
    caller = (
        f"import sys; sys.path.insert(0, {str(ROOT / 'scripts')!r}); import quickstart, pathlib\n"
        f"out = pathlib.Path({str(tmp_path)!r})\n"
        "try: quickstart._step(1, 'wait', out, out / 'step.py')\n"
        "except KeyboardInterrupt: sys.exit(130)\n"
        "except quickstart.Terminated: sys.exit(143)\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", caller], start_new_session=True, stdout=subprocess.DEVNULL
    )
    while not (tmp_path / "ready").exists():
        assert process.poll() is None
        time.sleep(0.05)
    if number == signal.SIGINT:  # a terminal sends it to the whole group
        os.killpg(process.pid, number)
    else:
        process.send_signal(number)
    assert process.wait(timeout=30) == 128 + number
    assert (tmp_path / "saved").exists()
