"""The log file, beside a console that may be redirected to the same file."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from common.utils.streams import is_piped_to

ROOT = Path(__file__).resolve().parents[1]

# Prints before the log is opened, as the launcher does, and later beside it, as libraries do.
PROGRAM = """
import os, sys, time
print("title", flush=True)
while os.environ["READER"] and not os.path.exists(os.environ["READER"]):
    time.sleep(0.01)  # until tee has made its file
from common.utils.logging import open_log
log = open_log("run.log")
for number in range(3):
    log.info(f"epoch {number}")
    log.debug(f"step {number}")
    log.warning(f"skipped {number}")
    os.write(2, f"library {number}\\n".encode())
print("interrupted", file=sys.stderr)
"""
LOGGED = [f"{word} {number}" for number in range(3) for word in ("epoch", "step", "skipped")]
PRINTED = ["title", *(f"library {number}" for number in range(3)), "interrupted"]


def run(folder: Path, redirection: str, reader: str = "") -> subprocess.CompletedProcess:
    command = f'"{sys.executable}" program.py {redirection}'
    (folder / "program.py").write_text(PROGRAM)
    return subprocess.run(
        command,
        shell=True,
        cwd=folder,
        env={"PYTHONPATH": str(ROOT), "READER": reader},
        capture_output=True,
        text=True,
        check=True,
    )


@pytest.mark.parametrize("redirection", ["> run.log 2>&1", ">> run.log 2>&1", "> ./run.log 2>&1"])
def test_output_redirected_to_the_log_itself_is_written_once(tmp_path, redirection):
    run(tmp_path, redirection)
    found = (tmp_path / "run.log").read_text().splitlines()
    assert sorted(found) == sorted([*LOGGED, *PRINTED])
    assert [line for line in found if line in LOGGED] == LOGGED
    assert found[0] == "title"


def test_only_the_stream_that_goes_to_the_log_is_left_out(tmp_path):
    done = run(tmp_path, "> run.log")
    found = (tmp_path / "run.log").read_text().splitlines()
    assert [line for line in found if line != "title"] == LOGGED
    errors = done.stderr.splitlines()
    assert [line for line in errors if line.startswith("skipped")] == LOGGED[2::3]


def test_other_output_has_the_lines_as_well_as_the_log(tmp_path):
    done = run(tmp_path, "")
    assert (tmp_path / "run.log").read_text().splitlines() == LOGGED
    assert done.stdout.splitlines() == ["title", *LOGGED[::3]]


def test_tee_gets_every_line_where_it_writes_the_log(tmp_path):
    done = run(tmp_path, "2> errors | tee run.log", "run.log")
    expected = ["title", *LOGGED]
    assert (tmp_path / "run.log").read_text().splitlines() == expected
    assert done.stdout.splitlines() == expected
    done = run(tmp_path, "2> errors | tee other.log", "other.log")
    assert done.stdout.splitlines() == ["title", *LOGGED[::3]]
    assert (tmp_path / "run.log").read_text().splitlines() == [*expected, *LOGGED]


def test_who_reads_both_output_and_log_is_no_tee(tmp_path):
    with (tmp_path / "run.log").open("a+") as following:  # as one that logs to this file, too
        done = run(tmp_path, "")  # this process reads its standard output
        assert following.read().splitlines() == LOGGED
    assert done.stdout.splitlines() == ["title", *LOGGED[::3]]


def test_lines_after_the_end_of_tee_are_in_the_log(tmp_path):
    """Ctrl-C ends tee at once, and a training run after its step."""
    log = tmp_path / "run.log"
    program = """
import os, subprocess, sys, time
reader, writer = os.pipe()
tee = subprocess.Popen(["tee", "run.log"], stdin=reader, stdout=subprocess.DEVNULL)
os.close(reader)
os.dup2(writer, 1)
while not os.path.exists("run.log"):
    time.sleep(0.01)
from common.utils.logging import open_log
log = open_log("run.log")
log.info("before")
while not os.path.getsize("run.log"):
    time.sleep(0.01)
tee.kill()
tee.wait()
log.info("after")
log.debug("step")
log.warning("last")
os._exit(0)
"""
    subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, env={"PYTHONPATH": str(ROOT)}, check=True
    )
    assert log.read_text().splitlines() == ["before", "after", "step", "last"]


def test_another_run_that_writes_into_the_same_pipe_and_log_is_not_tee(tmp_path):
    log = tmp_path / "run.log"
    code = f"file = open({str(log)!r}, 'a'); print('open', flush=True); input()"
    reader, writer = os.pipe()
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=writer) as run:
        assert os.read(reader, 1) == b"o"
        with os.fdopen(writer, "w") as stream:
            assert not is_piped_to(stream, log)
        run.communicate(b"\n")
    os.close(reader)
