"""The quickstart's own logic; its steps are commands that other tests start."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import pytest

from common.errors import UserError
from common.manifest import Utterance

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "scripts"))

import quickstart  # noqa: E402


def archive(path: Path, names: list[str]) -> str:
    with tarfile.open(path, "w:gz") as tar:
        for name in names:
            member = tarfile.TarInfo(name)
            member.size = 3
            tar.addfile(member, io.BytesIO(b"abc"))
    return path.as_uri()


def test_the_archive_is_fetched_once_and_unpacked(tmp_path):
    url = archive(tmp_path / "an4_sphere.tar.gz", ["an4/etc/a.txt", "../escaped", "/tmp/absolute"])
    folder = quickstart._download(url, tmp_path / "download")
    assert (folder / "etc" / "a.txt").read_text() == "abc"
    assert not (tmp_path / "download" / "escaped").exists()
    assert not (tmp_path / "escaped").exists()
    assert quickstart._download("file:///nowhere", tmp_path / "download") == folder


def test_what_cannot_be_fetched_or_unpacked_is_told(tmp_path):
    with pytest.raises(UserError, match="cannot be fetched .* --an4 DIR"):
        quickstart._download((tmp_path / "missing").as_uri(), tmp_path / "download")
    (tmp_path / "text").write_text("not an archive")
    with pytest.raises(UserError, match="not the archive that was expected"):
        quickstart._download((tmp_path / "text").as_uri(), tmp_path / "download")
    assert not (tmp_path / "download" / "an4_sphere.tar.gz").exists()


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
        "def save(*_):\n"
        "    time.sleep(1); pathlib.Path('saved').touch(); sys.exit(130)\n"
        "signal.signal(signal.SIGINT, save); signal.signal(signal.SIGTERM, save)\n"
        "pathlib.Path('ready').touch()\n"
        "time.sleep(60)\n"
    )
    (tmp_path / "step.py").write_text(step)
    caller = (
        f"import sys; sys.path.insert(0, {str(ROOT / 'scripts')!r}); import quickstart, pathlib\n"
        f"quickstart.MODEL = pathlib.Path({str(tmp_path)!r})\n"
        "try: quickstart._step(1, 'wait', quickstart.MODEL, 'step.py')\n"
        "except KeyboardInterrupt: sys.exit(130)\n"
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
    assert process.wait(timeout=30) == 130
    assert (tmp_path / "saved").exists()
