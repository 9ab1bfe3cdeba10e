"""The quickstart's own logic; its steps are commands that other tests start."""

from __future__ import annotations

import http.server
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from common.data.manifest import Utterance
from common.utils.errors import UserError

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "scripts"))

import quickstart  # noqa: E402

ARCHIVE = bytes(range(256)) * 40


class Archive(http.server.BaseHTTPRequestHandler):
    """Serves `ARCHIVE` as /an4.tar.gz, or the rest of it."""

    asked: list[str | None]

    def do_GET(self) -> None:  # noqa: N802
        wanted = self.headers["Range"]
        self.asked.append(wanted)
        if self.path != "/an4.tar.gz":
            self.send_error(404)
            return
        first = int(wanted.removeprefix("bytes=").removesuffix("-")) if wanted else 0
        self.send_response(206 if wanted else 200)
        if wanted:
            self.send_header("Content-Range", f"bytes {first}-{len(ARCHIVE) - 1}/{len(ARCHIVE)}")
        self.send_header("Content-Length", str(len(ARCHIVE) - first))
        self.end_headers()
        self.wfile.write(ARCHIVE[first:])

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server():
    Archive.asked = []
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Archive) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_the_archive_is_downloaded_once(server, tmp_path):
    folder = quickstart._download(f"{server}/an4.tar.gz", tmp_path / "download")
    assert (folder / "an4_sphere.tar.gz").read_bytes() == ARCHIVE
    assert quickstart._download(f"{server}/an4.tar.gz", folder) == folder
    assert Archive.asked == [None]


def test_an_interrupted_download_of_the_archive_is_continued(server, tmp_path):
    (tmp_path / "an4_sphere.tar.gz.part").write_bytes(ARCHIVE[:1000])
    quickstart._download(f"{server}/an4.tar.gz", tmp_path)
    assert (tmp_path / "an4_sphere.tar.gz").read_bytes() == ARCHIVE
    assert Archive.asked == ["bytes=1000-"]


def test_a_failed_download_names_the_address_and_the_other_way(server, tmp_path):
    with pytest.raises(UserError, match=r"AN4: http.*/missing: HTTP 404 .* --an4 DIR"):
        quickstart._download(f"{server}/missing", tmp_path)


def test_two_utterances_of_middling_length():
    utterances = [Utterance(str(n), Path(f"{n}.wav"), "A" * n) for n in (9, 1, 5, 30)]
    assert [each.id for each in quickstart._two(utterances)] == ["9", "30"]


def test_the_last_summary_of_the_log_counts(tmp_path):
    log = tmp_path / "eval.log"
    line = "Test Summary \tAverage WER {}\tAverage CER {}\n"
    log.write_text(line.format("90.100", "50.000") + line.format("38.854", "13.043"))
    assert quickstart._scores(log) == (38.854, 13.043)


@pytest.mark.launcher
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
