"""The C++ runner: its unit tests, the program with stand-ins for a card, and real MindIR files.

Built once into ascend310_infer/build-tests (with sanitizers) and ascend310_infer/build.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from common.utils import runtime

SOURCE = Path(__file__).resolve().parents[1] / "ascend310_infer"
BINS, LABELS, STRIDE = 6, 5, 2  # of the models here

# Continuous integration sets both: there nothing is skipped for want of a package.
REQUIRE_ALL = os.environ.get("REQUIRE_ALL_TESTS", "") not in ("", "0")
WARNINGS_AS_ERRORS = os.environ.get("WARNINGS_AS_ERRORS", "OFF")

_BUILD_TOOLS = shutil.which("cmake") and (shutil.which("c++") or shutil.which("g++"))
pytestmark = pytest.mark.skipif(
    not _BUILD_TOOLS and not REQUIRE_ALL, reason="needs cmake and a C++ compiler"
)


def skip(reason: str) -> None:
    """Skip a test for want of something installed; in continuous integration, fail instead."""
    if REQUIRE_ALL:
        pytest.fail(reason)
    pytest.skip(reason)


@contextmanager
def building() -> Iterator[None]:
    """One process at a time: files of tests run side by side, and build in the same folders."""
    with open(SOURCE / "build-tests.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@pytest.fixture(scope="module")
def programs() -> Path:
    """The folder of unit_tests, infer_fake and infer_stub, with sanitizers."""
    with building():
        return _programs()


def _programs() -> Path:
    build = SOURCE / "build-tests"
    for command in (
        [
            *("cmake", "-S", SOURCE, "-B", build, "-DTESTS=ON", "-DSANITIZE=ON"),
            f"-DWARNINGS_AS_ERRORS={WARNINGS_AS_ERRORS}",
        ],
        ["cmake", "--build", build, "-j", str(os.cpu_count())],
    ):
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    return build


# --- what the program reads -----------------------------------------------------------------------


def write_model(
    path: Path, batch: int, frames: int, bins: int = BINS, operator: str = "MatMul"
) -> dict:
    """Write a model that the stand-in for MindSpore Lite reads; return its bucket, as described."""
    path.write_text(f"features {batch} {bins} {frames}\n")
    features = {"name": "features", "type": "float32", "shape": [batch, bins, frames]}
    lengths = {"name": "lengths", "type": "int32", "shape": [batch]}
    graph = {
        "bytes": path.stat().st_size,
        "inputs": [features, lengths],
        "operators": [operator],
    }
    return {"file": path.name, "batch_size": batch, "frames": frames, "graph": graph}


class Job:
    """A folder with a model, utterances of random features, and results."""

    def __init__(self, folder: Path, buckets=((-1, -1),), device="CPU", operator="MatMul"):
        self.folder, self.features = folder, {}
        self.inputs, self.lengths = folder / "00_data", folder / "01_data"
        self.results, self.times = folder / "result_Files", folder / "time_Result"
        self.inputs.mkdir(parents=True)
        self.lengths.mkdir()
        self.model = folder / "model.json"
        files = [
            write_model(folder / f"model_{batch}_{frames}.mindir", batch, frames, operator=operator)
            for batch, frames in buckets
        ]
        self.description = {
            "model": "deepspeech2",
            "labels": ["A", "B", "C", " ", "_"],
            "device": device,
            "inputs": [{"shape": [-1, BINS, -1]}, {"shape": [-1]}],
            "features": {"sample_rate": 16000, "window_stride": 0.01},
            "frame_stride": STRIDE,
            "buckets": files,
        }
        self.describe()

    def describe(self, **changes) -> None:
        self.model.write_text(json.dumps({**self.description, **changes}))

    def add(self, name: str, frames: int) -> None:
        rng = np.random.default_rng(len(self.features))
        self.features[name] = rng.standard_normal((BINS, frames)).astype("<f4")
        self.features[name].tofile(self.inputs / f"{name}.bin")
        np.array([frames], "<i4").tofile(self.lengths / f"{name}.bin")

    def command(self, program: Path, *more) -> list[str]:
        arguments = {
            "mindir_path": self.model,
            "input0_path": self.inputs,
            "input1_path": self.lengths,
            "result_dir": self.results,
            "time_dir": self.times,
        }
        return [
            str(program),
            *(f"--{key}={value}" for key, value in arguments.items()),
            *map(str, more),
        ]

    def run(self, program: Path, *more, **environment) -> tuple[int, str, str]:
        done = subprocess.run(
            self.command(program, *more),
            env={**os.environ, **environment},
            capture_output=True,
            text=True,
            timeout=120,
        )
        return done.returncode, done.stdout, done.stderr

    def result(self, name: str) -> np.ndarray:
        frames = np.fromfile(self.results / f"{name}_1.bin", "<i4")
        assert frames.shape == (1,)
        return np.fromfile(self.results / f"{name}_0.bin", "<f4").reshape(frames[0], -1)

    def check(self, names=None, half=False) -> None:
        """That the results are those of the formulas of engine_fake.cpp, or of lite_stub."""
        names = self.features if names is None else names
        for name in names:
            seen = self.features[name][:LABELS, ::STRIDE].T.astype(np.float64)
            if half is None:  # the stand-in for MindSpore Lite, in float32
                np.testing.assert_array_equal(self.result(name), seen.astype(np.float32))
            elif half:
                np.testing.assert_array_equal(self.result(name), seen.astype(np.float16))
            else:
                expected = seen - np.log(np.exp(seen).sum(axis=1, keepdims=True))
                np.testing.assert_allclose(self.result(name), expected, atol=1e-5)
        found = {path.name for path in self.results.iterdir()}
        assert found == {f"{name}_{which}.bin" for name in names for which in (0, 1)}

    def figures(self) -> dict:
        return json.loads((self.times / "test_perform_static.json").read_text())


@pytest.fixture
def job(tmp_path):
    """Buckets of 1 x 40, 3 x 40 and 2 x 100 frames; 12 utterances, one of them longer."""
    job = Job(tmp_path / "job", buckets=((1, 40), (3, 40), (2, 100)))
    for number, frames in enumerate((1, 2, 39, 40, 41, 99, 100, 7, 8, 60, 20, 333)):
        job.add(f"utterance-{number}", frames)
    return job


# --- the tests ------------------------------------------------------------------------------------


def test_unit_tests_and_fuzzed_readers(programs):
    for name in ("unit_tests", "recognizer_tests"):
        done = subprocess.run([programs / name], capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stdout + done.stderr
        assert "| 0 failed" in done.stdout and "Status: SUCCESS!" in done.stdout


def test_buckets_batches_and_joined_parts(programs, job):
    code, out, err = job.run(programs / "infer_fake", "--overlap=11")
    assert (code, err) == (0, "")
    assert "1 utterance is longer" in out and "(100 frames)" in out
    job.check()
    figures = job.figures()
    assert figures["done"] == 12 and figures["split"] == 1 and figures["failed"] == 0
    # 7 up to 40 frames: 3 + 3 + 1; 4 up to 100: 2 + 2; 333 in 4 parts of 100: 2 + 2
    assert figures["batches"] == 7 and figures["audio_seconds"] == 7.5
    text = (job.times / "test_perform_static.txt").read_text()
    assert "NN inference cost average time: " in text and "of infer_count 12" in text
    for line in text.splitlines():
        assert line in out


def test_several_processes_and_an_index_give_the_same(programs, job):
    index = job.folder / "index.jsonl"
    index.write_text(
        "".join(
            json.dumps({"name": name, "features": f"00_data/{name}.bin", "frames": x.shape[1]})
            + "\n"
            for name, x in job.features.items()
        )
    )
    command = [
        *(programs / "infer_fake", "--mindir_path", job.model, "--index", index),
        *("--result_dir", job.results, "--time_dir", job.times),
        *("--device_id", "0,2", "--instances", "2"),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")
    job.check()
    assert job.figures()["processes"] == 4


def test_a_second_start_does_what_is_left(programs, job):
    program = programs / "infer_fake"
    job.run(program)
    names = list(job.features)
    before = {path: path.stat().st_mtime_ns for path in job.results.iterdir()}

    def done_again() -> set[str]:
        return {
            path.name.rsplit("_", 1)[0]
            for path in job.results.iterdir()
            if path.stat().st_mtime_ns != before.get(path)
        }

    code, out, _ = job.run(program)
    assert code == 0 and "0 done, 0 failed, 0 not done, 12 were done before" in out
    assert done_again() == set()
    (job.results / f"{names[0]}_1.bin").unlink()
    cut = job.results / f"{names[1]}_0.bin"
    cut.write_bytes(cut.read_bytes()[:-4])
    later = time.time() + 2
    os.utime(job.inputs / f"{names[2]}.bin", (later, later))
    code, out, _ = job.run(program)
    assert code == 0 and "3 done" in out and done_again() == set(names[:3])
    job.check()
    os.utime(job.model, (later, later))  # another export
    assert "12 done" in job.run(program)[1]
    os.utime(job.inputs / f"{names[2]}.bin", (0, 0))
    os.utime(job.model, (0, 0))  # another one, though older than the results
    assert "12 done" in job.run(program)[1]
    assert "0 done, 0 failed, 0 not done, 12 were done before" in job.run(program)[1]
    assert "12 done" in job.run(program, "--overlap", "7")[1]
    assert "12 done" in job.run(program, "--overlap", "7", "--force")[1]
    (job.inputs / f"{names[3]}.bin").write_bytes(b"abc")  # what it gave before is not kept
    assert job.run(program, "--overlap", "7")[0] == 1
    assert not (job.results / f"{names[3]}_0.bin").exists()


def test_results_of_another_model_do_not_come_back_by_way_of_other_utterances(programs, job):
    """A run over some utterances, with another model, says nothing about the rest."""
    program, names = programs / "infer_fake", list(job.features)
    index = job.folder / "index.jsonl"

    def run(some: list[str]) -> str:
        entries = [
            {"name": n, "features": f"00_data/{n}.bin", "frames": job.features[n].shape[1]}
            for n in some
        ]
        index.write_text("".join(json.dumps(entry) + "\n" for entry in entries))
        command = [program, "--mindir_path", job.model, "--index", index]
        command += ["--result_dir", job.results, "--time_dir", job.times]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120)
        assert (done.returncode, done.stderr) == (0, "")
        return done.stdout

    assert "12 done" in run(names)
    os.utime(job.model, (0, 0))  # another export
    assert "2 done" in run(names[:2])
    assert "10 done, 0 failed, 0 not done, 2 were done before" in run(names)
    assert "0 done, 0 failed, 0 not done, 12 were done before" in run(names)


def test_bad_inputs_are_named_and_the_rest_is_done(programs, job):
    good = list(job.features)
    for name in ("long", "cut", "nan", "none", "alone"):
        job.add(name, 30)
    with open(job.inputs / "long.bin", "ab") as file:
        file.write(b"abcd")
    (job.inputs / "cut.bin").write_bytes(b"")
    values = job.features["nan"].copy()
    values[2, 7] = np.nan
    values.tofile(job.inputs / "nan.bin")
    np.array([0], "<i4").tofile(job.lengths / "none.bin")
    (job.lengths / "alone.bin").unlink()
    code, out, err = job.run(programs / "infer_fake", "--instances=2")
    assert code == 1
    assert "12 done, 5 failed, 0 not done" in out
    expected = {
        "long": "724 bytes, expected 720 for 30 frames of 6 bins",
        "cut": "0 bytes, expected 720",
        "nan": "no numbers",
        "none": "has 0 frames",
        "alone": "No such file",
    }
    lines = {line.split(": ")[1]: line for line in err.splitlines()}
    assert lines.keys() == expected.keys()
    for name, reason in expected.items():
        assert reason in lines[name]
    job.check(good)


@pytest.mark.parametrize(
    ("changes", "more", "said"),
    [
        ({}, ("--mindir_path=none.mindir",), "No such file"),
        ({}, ("--device_id=0,9",), "device 9 is not there"),
        ({}, ("--engine=lite",), "built with fake alone"),
        ({"device": "Ascend"}, ("--device_target=CPU",), "made for Ascend, not for CPU"),
        ({"device": "CPU"}, ("--device_target=Ascend310",), "made for CPU, not for Ascend"),
        ({"inputs": [{"shape": [-1, 9, -1]}, {}]}, (), "6 bins, not 9"),
        ({"frame_stride": None}, (), "frame_stride"),
        ({"buckets": []}, (), "buckets"),
        ({}, ("--input0_path=nowhere",), "nowhere: no such folder"),
        ({}, ("--result_dir=/dev/null/x",), "cannot be made"),
    ],
)
def test_what_cannot_be_done_is_refused(programs, job, changes, more, said):
    job.describe(**changes)
    code, _, err = job.run(programs / "infer_fake", *more)
    assert code == 2 and said in err and err.startswith("error: ") and err.count("\n") == 1
    assert not job.results.exists() or not list(job.results.iterdir())


@pytest.mark.parametrize(
    ("operator", "target", "said"),
    [
        ("LSTM", "Ascend", "operator LSTM, of CPU and GPU, which Ascend lacks"),
        ("DynamicRNN", "CPU", "operator DynamicRNN, of Ascend"),
    ],
)
def test_the_wrong_lstm_is_refused(programs, tmp_path, operator, target, said):
    job = Job(tmp_path / "job", device="any", operator=operator)
    job.add("a", 10)
    code, _, err = job.run(programs / "infer_fake", f"--device_target={target}")
    assert code == 2 and said in err
    foreign = job.folder / "model_-1_-1.mindir"
    foreign.write_bytes(b"PK\x03\x04 not of MindSpore")
    code, _, err = job.run(programs / "infer_fake")
    assert code == 2 and "21 bytes, and model.json describes a file of " in err


def test_a_description_without_graphs_works_with_one_note(programs, job):
    """As export.py wrote them before it put what it knows of the graph into the description."""
    without = [
        {key: value for key, value in bucket.items() if key != "graph"}
        for bucket in job.description["buckets"]
    ]
    job.describe(buckets=without)
    for program in ("infer_fake", "infer_stub"):
        code, out, err = job.run(programs / program, "--device_target=CPU", "--force")
        assert code == 0 and "12 done" in out
        assert err.startswith("note: model.json is of an earlier export.py: ")
        assert err.count("\n") == 1
    job.check(half=None)
    (job.folder / without[0]["file"]).write_bytes(b"PK\x03\x04 not of MindSpore")
    code, _, err = job.run(programs / "infer_stub", "--device_target=CPU", "--force")
    assert code == 2 and "MindSpore Lite 2.0.0 cannot run" in err
    assert "Parse model failed; Invalid file.; its log above" in err


def test_a_full_disk_stops_the_run(programs, job):
    job.results.mkdir()
    names = sorted(job.features, key=lambda name: job.features[name].shape[1])
    # What it writes to leads to a device that is always full; then there is room again.
    (job.results / f".{names[4]}_0.bin.partial").symlink_to("/dev/full")
    code, out, err = job.run(programs / "infer_fake", FAKE_MS="20")
    assert code == 1
    assert f"failed: {names[4]}: " in err and "No space left on device" in err
    assert "results cannot be written" in err and " 1 failed" in out and " 0 not done" not in out
    assert job.run(programs / "infer_fake")[0] == 0
    job.check()


def test_a_network_that_goes_on_failing_ends_the_run(programs, tmp_path):
    job = Job(tmp_path / "job")
    for number in range(14):
        job.add(str(number), 10)
    code, out, err = job.run(programs / "infer_fake", "--batch_size=1", FAKE_FAIL="3")
    assert code == 2 and "batch after batch fails, 10 in a row: the network failed on 1 x 10" in err
    failed = [line for line in err.splitlines() if line.startswith("failed: ")]
    assert len(failed) == 10 and "2 done, 10 failed, 2 not done" in out


def test_an_engine_that_failed_is_made_anew(programs, tmp_path):
    """It fails on every batch after the first one that is too long for it."""
    job = Job(tmp_path / "job")
    for number, frames in enumerate((100, 90, 10, 9, 8, 7, 6)):
        job.add(str(number), frames)
    code, out, err = job.run(programs / "infer_fake", "--batch_size=1", FAKE_BREAK="50")
    assert code == 1 and "5 done, 2 failed, 0 not done" in out
    assert err.splitlines() == [
        f"failed: {number}: the network failed on 1 x {frames} frames (could not create a "
        "primitive)"
        for number, frames in ((0, 100), (1, 90))
    ]
    job.check([str(number) for number in range(2, 7)])


@pytest.mark.parametrize("instances", [1, 2])
def test_a_recording_that_ends_its_process_does_not_take_the_others_along(
    programs, tmp_path, instances
):
    """As the kernel ends one for want of memory. The longest come first, others wait behind."""
    job = Job(tmp_path / "job")
    for number, frames in enumerate((100, 90, *range(10, 30))):
        job.add(str(number), frames)
    code, out, err = job.run(
        programs / "infer_fake", "--batch_size=1", f"--instances={instances}", FAKE_KILL="50"
    )
    assert code == 1 and "20 done, 2 failed, 0 not done" in out
    failed = [line for line in err.splitlines() if line.startswith("failed: ")]
    reason = "the process that recognized it was ended by signal 9 (9: often for want of memory)"
    assert sorted(failed) == [f"failed: {number}: {reason}" for number in (0, 1)]
    job.check([str(number) for number in range(2, 22)])


def test_what_is_too_long_for_the_memory_is_refused_alone(programs, tmp_path):
    """By the forecast in the description: here, all that is allowed for 50 frames."""
    job = Job(tmp_path / "job")
    for number, frames in enumerate((120, 51, 50, 10, 9)):
        job.add(str(number), frames)
    limit = 0.8 * runtime.machine_memory()
    memory = {"fixed_bytes": 1, "bytes_per_frame": (limit - 1) / 50.5}
    job.describe(memory=memory)
    code, out, err = job.run(programs / "infer_fake")
    assert code == 1 and "3 done, 2 failed" in out
    lines = err.splitlines()
    assert len(lines) == 2
    assert (
        lines[0].startswith("failed: 0: 1 s take about ") and f"{limit / (1 << 30):.1f} GiB" in err
    )
    assert lines[1].endswith("or have it split into parts by --max_frames 50")
    job.check(["2", "3", "4"])
    assert job.run(programs / "infer_fake", "--max_frames=50")[0] == 0
    job.describe(memory=memory, device="any")
    assert job.run(programs / "infer_fake", "--device_target=Ascend", "--force")[0] == 0


def test_another_models_file_is_refused(programs, job):
    path = job.folder / job.description["buckets"][0]["file"]
    facts = {
        "file": path.name,
        "bytes": path.stat().st_size,
        "crc32": f"{zlib.crc32(path.read_bytes()):08x}",
    }
    job.describe(files=[facts])
    assert job.run(programs / "infer_fake")[0] == 0
    path.write_bytes(path.read_bytes()[::-1])
    code, _, err = job.run(programs / "infer_fake", "--force")
    assert code == 2 and err.startswith(f"error: {path}: checksum ") and err.count("\n") == 1
    assert f"describes a file of checksum {facts['crc32']}: one of the two is of another" in err


@pytest.mark.parametrize("instances", [1, 2])
def test_sigterm_leaves_whole_files(programs, job, instances):
    for number in range(60):
        job.add(f"more-{number}", 30)
    process = subprocess.Popen(
        job.command(programs / "infer_fake", f"--instances={instances}"),
        env={**os.environ, "FAKE_MS": "150"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.time() + 60
    while not list(job.results.glob("*_1.bin")) and time.time() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 143 and "stopped by signal 15" in err
    finished = [path.name[: -len("_1.bin")] for path in job.results.glob("*_1.bin")]
    assert 0 < len(finished) < len(job.features)
    job.check(finished)
    code, out, _ = job.run(programs / "infer_fake")
    assert code == 0 and f"{len(finished)} were done before" in out
    job.check()


def test_a_process_that_dies_does_not_take_the_others_along(programs, job):
    for number in range(30):
        job.add(f"more-{number}", 30)
    process = subprocess.Popen(
        job.command(programs / "infer_fake", "--instances=2"),
        env={**os.environ, "FAKE_MS": "100"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.time() + 60
    while not list(job.results.glob("*_1.bin")) and time.time() < deadline:
        time.sleep(0.02)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    os.kill(int(children[0]), signal.SIGKILL)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 1 and "was ended by signal 9" in err
    done = [path.name[: -len("_1.bin")] for path in job.results.glob("*_1.bin")]
    assert f"{len(done)} done" in out and 20 < len(done) < len(job.features)


def test_a_process_that_its_driver_ends_is_not_waited_for(programs, job):
    code, out, err = job.run(programs / "infer_fake", "--device_id=0,1", FAKE_EXIT="1")
    assert code == 0 and "12 done" in out  # by the other one
    assert err.startswith("error: the process on device 1 was ended by its libraries, with exit")
    job.check()


def test_the_engine_of_mindspore_lite_against_a_stand_in(programs, job, tmp_path):
    program = programs / "infer_stub"
    job.describe(device="any")
    code, out, err = job.run(program, "--device_target=CPU")
    assert (code, err) == (0, "") and "engine lite, device CPU" in out
    job.check(half=None)
    card = ("--force", "--device_target=Ascend310", "--device_id=0,1")
    assert job.run(program, *card)[0] == 0  # preferred_fp32, not Lite's own enforce_fp16
    job.check(half=None)
    half = (*card, "--precision_mode=enforce_fp16")
    assert job.run(program, *half)[0] == 0
    job.check(half=True)
    code, _, err = job.run(program, "--force", "--device_target=Ascend", "--device_id=2")
    assert code == 2 and "device 2: Set device id failed; " in err
    buckets = job.description["buckets"]
    for bucket in buckets:
        bucket["graph"]["mind_ir_version"] = 3
    job.describe(device="any", buckets=buckets)
    code, _, err = job.run(program, *card)
    assert code == 2 and "MindIR version 3, and this MindSpore Lite 2.0.0 reads up to 1" in err
    for bucket in buckets:
        bucket["graph"]["mind_ir_version"] = 1
    job.describe(device="any", buckets=buckets)
    for path in job.folder.glob("*.mindir"):  # a converter may put the lengths first
        path.write_text(path.read_text().replace("features", "lengths"))
    assert job.run(program, *half)[0] == 0
    job.check(half=True)


@pytest.fixture(scope="module")
def real_lite(tmp_path_factory) -> Path:
    """The program with MindSpore Lite 2.0.0, whose wheel LITE_WHEEL names (docs/inference.md)."""
    wheel = os.environ.get("LITE_WHEEL")
    if not wheel:
        pytest.skip("needs the wheel of MindSpore Lite, named by LITE_WHEEL: docs/inference.md")
    folder = tmp_path_factory.mktemp("lite")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    package = folder / "package"
    (package / "runtime").mkdir(parents=True)
    for part in ("include", "lib"):  # as in the unpacked package
        (package / "runtime" / part).symlink_to(folder / "mindspore_lite" / part)
    library = folder / "mindspore_lite/lib/libmindspore-lite.so"
    library.symlink_to("libmindspore-extendrt_python.so")  # its name in the package
    for command in (
        [
            *("cmake", "-S", SOURCE, "-B", folder / "build", f"-DLITE_HOME={package}"),
            *("-DCMAKE_BUILD_TYPE=Debug", "-DCMAKE_CXX_FLAGS=-O0 -g0"),
        ],
        ["cmake", "--build", folder / "build", "-j", "1", "--target", "infer"],
    ):
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    return folder / "build/infer"


def test_the_program_starts_with_a_real_mindspore_lite(real_lite, tmp_path):
    """Its libraries need each other, and no variable says where they are."""
    environment = {key: value for key, value in os.environ.items() if key != "LD_LIBRARY_PATH"}
    done = subprocess.run([real_lite, "--help"], env=environment, capture_output=True, text=True)
    assert done.returncode == 0 and "lite: MindSpore Lite" in done.stdout, done.stderr
    job = Job(tmp_path / "job", device="any")
    job.add("one", 10)
    (bucket,) = job.description["buckets"]
    bucket["graph"]["mind_ir_version"] = 3  # what MindSpore 2.10 writes
    job.describe()
    code, _, err = job.run(real_lite, "--device_target=CPU")
    assert code == 2 and "MindIR version 3, and this MindSpore Lite reads up to 1" in err
    bucket["graph"]["mind_ir_version"] = 1
    job.describe()
    code, _, err = job.run(real_lite, "--device_target=CPU")
    assert code == 2 and "MindSpore Lite cannot run" in err and "its log above" in err


def test_buckets_of_one_file_share_its_model(programs, tmp_path):
    job = Job(tmp_path / "job", device="any")
    file = job.description["buckets"][0]["file"]
    shapes = ((2, 40), (1, 100))
    bucket = write_model(tmp_path / "job" / file, -1, -1)
    job.describe(buckets=[bucket | {"batch_size": b, "frames": f} for b, f in shapes])
    for number, frames in enumerate((5, 40, 70, 33)):
        job.add(str(number), frames)
    assert job.run(programs / "infer_stub", "--device_target=CPU")[::2] == (0, "")
    job.check(half=None)
    assert job.figures()["batches"] == 3


@pytest.fixture(scope="module")
def runner() -> Path:
    """The program as build.sh makes it for this Python."""
    environment = {key: value for key, value in os.environ.items() if key != "LITE_HOME"}
    with building():
        done = subprocess.run(
            ["bash", SOURCE / "build.sh"],
            env={**environment, "PYTHON": sys.executable},
            capture_output=True,
            text=True,
        )
    if done.returncode and "no engine can be built" in done.stderr:
        skip(done.stderr)
    assert done.returncode == 0, done.stderr
    assert "engine built: wheel (MindIR files on a CPU)" in done.stdout
    assert "without lite: LITE_HOME is not set" in done.stdout
    return SOURCE / "build" / "infer"


def test_build_says_what_is_missing(tmp_path):
    done = subprocess.run(
        ["bash", SOURCE / "build.sh", tmp_path],
        env={
            **os.environ,
            "LITE_HOME": str(tmp_path),
            "OpenVINO_DIR": str(tmp_path),
            "PYTHON": "/bin/false",
        },
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1 and "no engine can be built" in done.stderr
    assert f"OpenVINO_DIR={tmp_path} has no OpenVINOConfig.cmake" in done.stderr
    assert "has no runtime/include/api/model.h" in done.stderr
    assert "/bin/false does not run" in done.stderr


@pytest.mark.parametrize(
    ("operator", "given", "expected"),
    [("Conv2D", "", "AVX2"), ("Conv2D", "AVX512_CORE", "AVX512_CORE"), ("MatMul", "", "None")],
)
def test_native_convolutions_run_without_avx512(runner, tmp_path, operator, given, expected):
    """A stand-in for MindSpore says what it would find in the environment."""
    (tmp_path / "mindspore").mkdir()
    (tmp_path / "mindspore" / "__init__.py").write_text(
        "import os\nraise ImportError(f\"found {os.environ.get('ONEDNN_MAX_CPU_ISA')}\")\n"
    )
    job = Job(tmp_path / "job", device="any", operator=operator)
    job.add("a", 10)
    environment = {"ONEDNN_MAX_CPU_ISA": given} if given else {}
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("ONEDNN_MAX_CPU_ISA", raising=False)
        code, _, err = job.run(runner, PYTHONPATH=str(tmp_path), **environment)
    assert code == 2 and f"has no MindSpore that starts: found {expected}\n" in err


def test_a_mindir_file_gives_what_the_network_gives(cpu, runner, tmp_path):
    """The checkpoint that ships, exported with open axes, in the engine `wheel`."""
    from common.export.export import export
    from common.model.speech_model import Forward, SpeechModel
    from deepspeech2.src.recipe import RECIPE

    checkpoint = SOURCE.parent / "deepspeech2" / "pretrained" / "an4.ckpt"
    speech_model = SpeechModel.from_checkpoint(RECIPE, checkpoint, cpu)
    rng = np.random.default_rng(0)
    features = {
        f"u{frames}": rng.standard_normal((speech_model.featurizer.dimension, frames)).astype("<f4")
        for frames in (90, 151, 7)
    }
    forward = Forward(speech_model)
    index = tmp_path / "index.jsonl"
    lines = []
    for name, values in features.items():
        values.tofile(tmp_path / f"{name}.bin")
        entry = {"name": name, "features": f"{name}.bin", "frames": values.shape[1]}
        lines.append(json.dumps(entry) + "\n")
    index.write_text("".join(lines))
    path, results = export(speech_model, tmp_path / "m"), tmp_path / "results"
    command = [runner, "--mindir_path", path, "--index", index, "--result_dir", results]
    done = subprocess.run(
        [*command, "--time_dir", tmp_path, "--batch_size", "2"],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert "3 done, 0 failed" in done.stdout and "engine wheel, device CPU" in done.stdout
    for name, values in features.items():
        outputs, lengths = forward(values[None], np.array([values.shape[1]]))
        found = np.fromfile(results / f"{name}_0.bin", "<f4").reshape(-1, outputs.shape[2])
        assert np.fromfile(results / f"{name}_1.bin", "<i4").tolist() == lengths.tolist()
        np.testing.assert_allclose(found, outputs[:, 0], atol=1e-4)
    refused = subprocess.run(
        [*command, "--device_target", "Ascend"], capture_output=True, text=True
    )
    assert refused.returncode == 2
