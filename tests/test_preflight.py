"""What a machine with cards lacks, on machines made of files and of scripts in place of tools."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from launcher_clone import copy_launcher

from common.doctor import machine
from common.launching import LaunchError, modelarts, preflight
from common.launching.preflight import Card, Host
from common.utils import ascend

ROOT = Path(__file__).resolve().parents[1]
# The tables of `npu-smi info` as the driver prints them for training and for inference cards.
TRAINING = """\
+------------------------------------------------------------------------------------------------+
| npu-smi 24.1.rc3                 Version: 24.1.rc3                                             |
+---------------------------+---------------+----------------------------------------------------+
| NPU   Name                | Health        | Power(W)    Temp(C)           Hugepages-Usage(page)|
| Chip                      | Bus-Id        | AICore(%)   Memory-Usage(MB)  HBM-Usage(MB)        |
+===========================+===============+====================================================+
| 0     910B3               | OK            | 91.5        47                0    / 0             |
| 0                         | 0000:C1:00.0  | 0           0    / 0          3353 / 65536         |
+===========================+===============+====================================================+
| 1     910B3               | {health:13} | 92.1        48                0    / 0             |
| 0                         | 0000:C2:00.0  | 0           0    / 0          3351 / 65536         |
+===========================+===============+====================================================+
+---------------------------+---------------+----------------------------------------------------+
| NPU     Chip              | Process id    | Process name             | Process memory(MB)      |
+===========================+===============+====================================================+
| 0       0                 | 12345         | python                   | 10512                   |
+===========================+===============+====================================================+
| No running processes found in NPU 1                                                            |
+===========================+===============+====================================================+
"""
INFERENCE = """\
| NPU     Name              | Health          | Power(W)     Temp(C)       Hugepages-Usage(page) |
| Chip    Device            | Bus-Id          | AICore(%)    Memory-Usage(MB)                    |
+===========================+=================+==================================================+
| 8       310P3             | OK              | NA           49            0     / 0             |
| 0       0                 | 0000:02:00.0    | 0            1621 / 44280                        |
+---------------------------+-----------------+--------------------------------------------------+
| 8       310P3             | OK              | NA           50            0     / 0             |
| 1       1                 | 0000:02:00.0    | 0            1456 / 43693                        |
"""


class Fake:
    """A machine with two 910B3 on which nothing is missing, to take things from."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.home = folder / "usr/local/Ascend/ascend-toolkit/latest"
        for name in ("davinci_manager", "davinci0", "davinci1"):
            self.write(f"dev/{name}")
        self.write("usr/local/Ascend/driver/lib64/driver/libascend_hal.so")
        self.write("usr/local/Ascend/ascend-toolkit/set_env.sh")
        self.version("9.1.0")
        self.packages = folder / "packages"
        for name in preflight.required():
            self.package(name, "1.0")
        self.package("mindspore", "2.10.0")
        self.package("protobuf", "7.36.2")
        for module in ("te", "hccl", "mindspore"):
            self.write(f"packages/{module}/__init__.py")
        self.tool("python", f'exec {sys.executable} -S "$@"')
        self.smi()
        self.environment = {
            "PATH": f"{folder / 'bin'}:/usr/bin:/bin",
            "HOME": str(folder),
            "ASCEND_HOME_PATH": str(self.home),
            "ASCEND_OPP_PATH": f"{self.home}/opp",
            "LD_LIBRARY_PATH": f"{self.home}/lib64",
            "PYTHONPATH": f"{self.home}/opp/built-in/op_impl/ai_core/tbe:{self.packages}",
        }

    def write(self, name: str, text: str = "") -> None:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def tool(self, name: str, line: str) -> None:
        self.write(f"bin/{name}", f"#!/bin/sh\n{line}\n")
        (self.folder / "bin" / name).chmod(0o755)

    def smi(self, health: str = "OK") -> None:
        self.write("listed", TRAINING.format(health=health))
        self.tool("npu-smi", f"cat '{self.folder}/listed'")

    def version(self, number: str) -> None:
        path = self.home.relative_to(self.folder) / "compiler/version.info"
        self.write(str(path), f"timestamp=1\nVersion={number}\n")

    def package(self, name: str, version: str) -> None:
        folder = name.replace("-", "_")  # as installers write it
        for old in self.packages.glob(f"{folder}-*.dist-info/METADATA"):
            old.unlink()
            old.parent.rmdir()
        self.write(
            f"packages/{folder}-{version}.dist-info/METADATA",
            f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
        )

    def remove(self, name: str) -> None:
        (self.folder / name).unlink()

    @property
    def host(self) -> Host:
        return Host(str(self.folder / "bin/python"), self.environment, self.folder)

    def lines(self, cards=(0, 1)) -> list[tuple[bool, str]]:
        return [(fault.fatal, str(fault)) for fault in preflight.ascend_faults(self.host, cards)]


@pytest.fixture
def fake(tmp_path) -> Fake:
    return Fake(tmp_path)


def test_nothing_is_missing_on_a_complete_machine(fake):
    assert fake.lines() == []
    assert preflight.card_lines("Ascend", fake.host) == ["2 x 910B3, 64 GiB each"]
    assert machine.preflight_lines("Ascend", fake.host) == (
        ["Ascend: 2 x 910B3, 64 GiB each", "Ascend: nothing is missing"],
        [],
    )


def no_driver(fake):
    fake.remove("dev/davinci_manager")


def not_sourced(fake):
    del fake.environment["ASCEND_HOME_PATH"]


def no_cann(fake):
    not_sourced(fake)
    fake.remove("usr/local/Ascend/ascend-toolkit/set_env.sh")


def other_folder(fake):
    fake.environment["ASCEND_HOME_PATH"] = "/gone"


def path_undone(fake):
    fake.environment["LD_LIBRARY_PATH"] = "/usr/local/cuda"


def python_undone(fake):
    fake.environment["PYTHONPATH"] = str(fake.packages)


def old_cann(fake):
    fake.version("8.0.RC3")


def two_packages(fake):
    for name in ("attrs-1.0", "tornado-1.0"):
        fake.remove(f"packages/{name}.dist-info/METADATA")


def no_te(fake):
    fake.remove("packages/te/__init__.py")
    (fake.packages / "te").rmdir()
    fake.write(str((fake.home / "lib64/te-0.4.0-py3-none-any.whl").relative_to(fake.folder)))


def old_protobuf(fake):
    fake.package("protobuf", "3.20.3")


def protobuf_of_two(fake):
    fake.version("8.5.0")


def one_card(fake):
    fake.remove("dev/davinci1")


def ill_card(fake):
    fake.smi("Alarm")


def no_smi(fake):
    fake.tool("npu-smi", "exit 1")


@pytest.mark.parametrize(
    ("harm", "fatal", "words"),
    [
        (no_driver, True, ["no Ascend driver", "--device /dev/davinci0"]),
        (not_sourced, True, ["was not sourced", "ascend-toolkit/set_env.sh"]),
        (no_cann, True, ["no CANN", "install CANN's toolkit"]),
        (other_folder, True, ["ASCEND_HOME_PATH=/gone: no such folder", "set_env.sh"]),
        (path_undone, True, ["LD_LIBRARY_PATH lack CANN's folders", "set_env.sh in this shell"]),
        (python_undone, False, ["PYTHONPATH lack CANN's folders", "set_env.sh in this shell"]),
        (old_cann, False, ["CANN is 8.0, and MindSpore 2.10 accepts 8.2, 8.3", "install one"]),
        (two_packages, True, ["lacks attrs, tornado, which", "-m pip install -r", "-ascend.txt"]),
        (no_te, False, ["does not find CANN's own package te", "lib64/te-0.4.0-py3-none-any.whl"]),
        (old_protobuf, True, ["protobuf 3.20.3, and MindSpore 2.10 needs 7", "requirements.txt"]),
        (protobuf_of_two, False, ["protobuf 7.36.2", "CANN 8.5 asks for 3.20", "9.1"]),
        (one_card, True, ["1 card here", "wants card 1", "RANK_SIZE"]),
        (ill_card, False, ["card 1 (910B3): health Alarm", "npu-smi info -t health -i 1"]),
        (no_smi, False, ["npu-smi info lists no card"]),
    ],
)
def test_what_is_missing_on_an_ascend_machine_is_one_line_with_its_remedy(fake, harm, fatal, words):
    harm(fake)
    ((said_fatal, line),) = fake.lines()
    assert said_fatal is fatal
    for word in words:
        assert word in line
    assert "\n" not in line


def test_a_launcher_starts_nothing_where_something_is_missing(fake, capsys, monkeypatch):
    preflight.check("Ascend", fake.host, (0, 1))
    assert capsys.readouterr().err == ""
    ill_card(fake)
    preflight.check("Ascend", fake.host, (0, 1))  # a note keeps nothing from starting
    assert capsys.readouterr().err.startswith("note: Ascend: card 1")
    one_card(fake)
    with pytest.raises(LaunchError, match="nothing was started on Ascend"):
        preflight.check("Ascend", fake.host, (0, 1))
    said = capsys.readouterr().err.splitlines()
    assert [line.partition(":")[0] for line in said] == ["error", "note"]
    preflight.check("CPU", fake.host, ())
    fake.environment["PREFLIGHT"] = "0"
    preflight.check("Ascend", fake.host, (0, 1))
    assert capsys.readouterr().err == ""


def test_the_scripts_check_before_they_start_anything(tmp_path):
    """On this machine, or any without a driver."""
    if Path("/dev/davinci_manager").exists():
        pytest.skip("there is a driver")
    copy_launcher(tmp_path)
    (tmp_path / "deepspeech2").mkdir()
    (tmp_path / "deepspeech2/train.py").write_text("print('started')")
    line = "scripts/launch.sh deepspeech2 distribute_train Ascend 8 0".split()
    environment = {"PATH": "/usr/bin:/bin", "PYTHON": sys.executable, "HOME": str(tmp_path)}
    done = subprocess.run(
        ["bash", *line], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 1 and "started" not in done.stdout
    first, *_, last = done.stderr.splitlines()
    assert first.startswith("error: Ascend: no Ascend driver") and "nothing was started" in last


def test_the_page_of_doctor_says_it_too(fake):
    one_card(fake)
    old_cann(fake)
    lines, obstacles = machine.preflight_lines("Ascend", fake.host)
    assert obstacles == [] and "note: CANN is 8.0" in lines[1]
    not_sourced(fake)
    lines, obstacles = machine.preflight_lines(None, fake.host)  # nobody asked for the cards
    assert obstacles == [] and any("was not sourced" in line for line in lines)
    lines, obstacles = machine.preflight_lines("ascend", fake.host)
    assert len(obstacles) == 1 and "was not sourced" in obstacles[0]
    assert machine.why_not("Ascend", fake.host) in obstacles[0]
    no_driver(fake)
    assert machine.preflight_lines(None, fake.host)[0] == [
        "no card's driver is here, and none was asked for"
    ]


def test_tables_of_npu_smi_are_read():
    assert preflight.parse_npu_smi(TRAINING.format(health="OK")) == [Card("910B3", "OK", 65536)] * 2
    assert preflight.parse_npu_smi(INFERENCE) == [
        Card("310P3", "OK", 44280),
        Card("310P3", "OK", 43693),
    ]
    assert preflight.parse_npu_smi("dcmi model initialized failed") == []


@pytest.mark.parametrize(
    ("name", "chip"),
    [
        ("910B3", "910B"),
        ("ascend910b", "910B"),
        ("Ascend910B4-1", "910B"),
        ("910A", "910A"),
        ("910B", "910A"),  # "Ascend910B" without a digit is of the first generation
        ("ascend910", "910A"),
        ("910PremiumA", "910A"),
        ("ascend910_93", "A3"),
        ("310P3", "310P"),
        ("310B4", "310B"),
        ("310", "310"),
        ("H100", ""),
    ],
)
def test_the_generation_of_a_chip_is_told_from_its_name(name, chip):
    assert ascend.generation(name) == chip


# ---- GPUs


class Library:
    def __init__(self, version: int) -> None:
        self.version = version

    def cudaRuntimeGetVersion(self, found) -> int:  # noqa: N802
        found._obj.value = self.version
        return 0


@pytest.mark.parametrize(
    ("listed", "version", "words"),
    [
        ("NVIDIA A10, 24564, 8.6", 11060, []),
        ("NVIDIA L4, 23034, 8.9", 11060, []),  # takes the binaries of 8.6
        ("NVIDIA A100-SXM4-80GB, 81920, 8.0", 11060, ["no kernels in the wheel", "CUDA_CACHE"]),
        ("Tesla V100-SXM2-32GB, 32768, 7.0", 11060, ["no kernels in the wheel", "minutes"]),
        ("Tesla K80, 11441, 3.7", 11060, ["compute capability 3.7", "need 6.0"]),
        ("NVIDIA A10, 24564, 8.6", 11080, ["CUDA 11.8, which MindSpore's own check", "11.6"]),
        ("NVIDIA H100, 81559, 9.0", 11060, ["CUDA 11.6 has no kernels for NVIDIA H100", "11.8"]),
    ],
)
def test_a_gpu_and_its_cuda_are_looked_at(fake, listed, version, words):
    fake.tool("nvidia-smi", f"echo '{listed}'")
    fake.environment["CUDA_CACHE_PATH"] = "/tmp" if "H100" in listed else ""
    found = preflight.gpu_faults(fake.host, (0,), lambda name: Library(version))
    lines = [str(fault) for fault in found]
    assert len(lines) == bool(words), lines
    assert all(word in lines[0] for word in words)


def test_gpus_are_counted_and_nccl_is_looked_for(fake):
    fake.tool("nvidia-smi", "echo 'NVIDIA A10, 24564, 8.6'; echo 'NVIDIA A10, 24564, 8.6'")
    assert preflight.card_lines("GPU", fake.host) == ["2 x NVIDIA A10, 24 GiB each"]
    found = preflight.gpu_faults(fake.host, range(4), lambda name: Library(11060))
    assert [fault.fatal for fault in found] == [True, True]
    assert "2 GPUs here" in str(found[0]) and "wants GPU 3" in str(found[0])
    assert "gpu11.6/libnccl.so.2: NCCL" in str(found[1])
    fake.write("packages/mindspore/lib/plugin/gpu11.6/libnccl.so.2")
    assert preflight.gpu_faults(fake.host, (0, 1), lambda name: Library(11060)) == []


# ---- ModelArts


@pytest.mark.parametrize("code", [0, 3])
def test_modelarts_gets_data_training_and_results(tmp_path, monkeypatch, capsys, code):
    """With a folder of files in place of its object storage, and a stand-in for the launcher."""
    monkeypatch.setattr(modelarts, "ROOT", tmp_path)
    monkeypatch.setattr(modelarts, "CACHE", tmp_path / "none")
    monkeypatch.setattr(modelarts, "cards", lambda: 2)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "scripts").mkdir()
    (tmp_path / "jasper/checkpoint").mkdir(parents=True)
    (tmp_path / "jasper/checkpoint/a.ckpt").write_text("weights")
    (tmp_path / "jasper/train.log").write_text("log")
    (tmp_path / "scripts/launch.sh").write_text(f'echo "$@" > {tmp_path}/called; exit {code}')
    data, results = tmp_path / "data", tmp_path / "results"
    data.mkdir()
    line = f"--model jasper --data_url {data} --train_url {results} --set m={{data}}/train.jsonl"
    assert modelarts.main(line.split()) == code
    said = (tmp_path / "called").read_text()
    assert said == f"jasper distribute_train Ascend 2 0 --set m={data}/train.jsonl\n"
    assert (results / "checkpoint/a.ckpt").read_text() == "weights"
    assert (results / "train.log").read_text() == "log"
    assert modelarts.main([*line.split(), "--ranks", "1", "--device_target", "CPU"]) == code
    assert (tmp_path / "called").read_text().startswith("jasper train CPU --set")
    capsys.readouterr()
    assert modelarts.main([*line.split(), "--data_url", "gone"]) == 1
    assert modelarts.main([*line.split(), "--data_url", "obs://b/d"]) == 1
    said = capsys.readouterr().err.splitlines()
    assert said[0] == "error: --data_url gone: no such folder" and "no moxing" in said[1]


def test_modelarts_storage_is_copied_by_its_own_package(tmp_path, monkeypatch):
    copied = []
    fake = SimpleNamespace(file=SimpleNamespace(copy_parallel=lambda *pair: copied.append(pair)))
    monkeypatch.setitem(sys.modules, "moxing", fake)
    assert modelarts.local_data("obs://b/d", tmp_path) == tmp_path / "data"
    modelarts.copy(str(tmp_path), "obs://b/out")
    assert copied == [("obs://b/d", str(tmp_path / "data")), (str(tmp_path), "obs://b/out")]
    (tmp_path / "dev").mkdir()
    for name in ("davinci0", "davinci11", "davinci_manager"):
        (tmp_path / "dev" / name).touch()
    monkeypatch.delenv("ASCEND_RT_VISIBLE_DEVICES", raising=False)
    assert modelarts.cards(tmp_path / "dev") == 2
