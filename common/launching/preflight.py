"""Checks of a machine with cards, before a job starts: a line for each fault.

Nothing is loaded that a job would load: files, variables of the environment, `npu-smi info` and the
names of the packages of the job's Python. Paths of CANN are those that its set_env.sh and
installation guide name; the packages are those of its table of dependencies ("Running
Dependencies", CANN 8.5 to 9.1, with what its compiler imports besides).
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from common.launching import LaunchError, gpu
from common.utils.ascend import cann_complaint, cann_version
from common.utils.wording import counted

REQUIREMENTS = Path(__file__).resolve().parents[2] / "requirements-ascend.txt"
_SET_ENV = (  # CANN up to 8.3, and from 8.5 on; as root, and as another user
    "usr/local/Ascend/ascend-toolkit/set_env.sh",
    "usr/local/Ascend/cann/set_env.sh",
)
_TBE = "opp/built-in/op_impl/ai_core/tbe"  # MindSpore looks for it in PYTHONPATH
_TOOL_SECONDS = 30
_ASK_PYTHON = """
import importlib.metadata as metadata, importlib.util as util, json, sys
def version(name):
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return ""
def folder(name):
    spec = util.find_spec(name)
    return spec and (spec.submodule_search_locations or [""])[0]
names, modules = json.loads(sys.argv[1])
print(json.dumps([{n: version(n) for n in names}, {m: folder(m) for m in modules}]))
"""


@dataclass(frozen=True)
class Fault:
    """What is wrong with a machine.

    Attributes:
        what: What was found, and what was expected.
        remedy: The command that mends it, or what to do.
        fatal: Whether MindSpore cannot start because of it.
    """

    what: str
    remedy: str
    fatal: bool = True

    def __str__(self) -> str:
        return f"{self.what}: {self.remedy}"


@dataclass(frozen=True)
class Card:
    """A chip as npu-smi or nvidia-smi lists it.

    Attributes:
        name: Of the chip.
        health: As npu-smi says it; "" for GPUs.
        memory: MiB; 0 where it is not told.
        capability: Compute capability of a GPU, such as "8.0"; "" for Ascend.
    """

    name: str
    health: str = ""
    memory: int = 0
    capability: str = ""


@dataclass(frozen=True)
class Host:
    """The machine that is looked at.

    Attributes:
        python: The interpreter of the job.
        environment: Its variables.
        root: Where /dev and /usr/local are looked for; tests have another.
    """

    python: str
    environment: Mapping[str, str] = field(default_factory=lambda: dict(os.environ))
    root: Path = Path("/")

    def ask(self, *command: str) -> str:
        """Return what a tool prints; "" where there is no such tool, or it fails."""
        tool = shutil.which(command[0], path=self.environment.get("PATH"))
        if tool is None:
            return ""
        try:
            done = subprocess.run(
                [tool, *command[1:]],
                env=dict(self.environment),
                capture_output=True,
                text=True,
                timeout=_TOOL_SECONDS,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired, UnicodeDecodeError):
            return ""
        return done.stdout if done.returncode == 0 else ""

    @cached_property
    def packages(self) -> tuple[dict[str, str], dict[str, str | None]]:
        """Versions of packages ("" where one is missing), and folders of modules (None)."""
        question = json.dumps([[*required(), "protobuf", "mindspore"], ["te", "hccl", "mindspore"]])
        answer = self.ask(self.python, "-c", _ASK_PYTHON, question)
        versions, folders = json.loads(answer) if answer else ({}, {})
        return versions, folders


def required() -> list[str]:
    """Return the names of the packages that CANN asks of Python, from requirements-ascend.txt."""
    if not REQUIREMENTS.is_file():  # the package without the clone
        return []
    text = REQUIREMENTS.read_text(encoding="utf-8")
    return re.findall(r"^([\w.-]+)==", text, re.MULTILINE)


# ---- Ascend


def ascend_faults(host: Host, cards: Sequence[int] = (0,)) -> list[Fault]:
    """Find what keeps a job from running on Ascend cards, or may spoil it.

    Args:
        host: The machine.
        cards: Numbers of the cards that the job wants.

    Returns:
        The faults, in the order in which to mend them.
    """
    checks: Iterable[Callable[[], Iterable[Fault]]] = (
        lambda: _driver(host),
        lambda: _cann(host),
        lambda: _python_of_cann(host),
        lambda: _cards(host, cards),
    )
    return [fault for check in checks for fault in check()]


def _driver(host: Host) -> Iterable[Fault]:
    manager = host.root / "dev/davinci_manager"
    library = host.root / "usr/local/Ascend/driver/lib64"
    if not manager.exists():
        yield Fault(
            "no Ascend driver (/dev/davinci_manager is not there)",
            "install the card's driver and firmware; in a container, start it with "
            "--device /dev/davinci_manager --device /dev/devmm_svm --device /dev/hisi_hdc "
            "--device /dev/davinci0 -v /usr/local/Ascend/driver:/usr/local/Ascend/driver",
        )
        return
    if not os.access(manager, os.R_OK | os.W_OK):
        yield Fault(
            "/dev/davinci_manager is there, and this user may not open it",
            'sudo usermod -aG HwHiAiUser "$USER", and log in anew',
        )
    if not library.is_dir():
        yield Fault(
            "a device, but no /usr/local/Ascend/driver/lib64",
            "in a container, start it with -v /usr/local/Ascend/driver:/usr/local/Ascend/driver; "
            "a driver in another folder needs its lib64/driver on LD_LIBRARY_PATH",
            fatal=False,
        )


def _cann(host: Host) -> Iterable[Fault]:
    variables = host.environment
    home = variables.get("ASCEND_HOME_PATH", "")
    scripts = [host.root / name for name in _SET_ENV]
    if own := variables.get("HOME"):
        scripts += [Path(own, *Path(name).parts[2:]) for name in _SET_ENV]
    there = next((str(path) for path in scripts if path.is_file()), "")
    source = f"source {there or '.../set_env.sh'}"
    if not home and not there:
        yield Fault(
            "no CANN (ASCEND_HOME_PATH is not set, and /usr/local/Ascend has no set_env.sh)",
            "install CANN's toolkit and the kernels or ops package of the chip, and then "
            "source set_env.sh in this shell",
        )
        return
    if not home:
        yield Fault("CANN is there, and its set_env.sh was not sourced in this shell", source)
        return
    if not Path(home).is_dir():
        yield Fault(f"ASCEND_HOME_PATH={home}: no such folder", source)
        return
    wanted = {"PYTHONPATH": _TBE, "LD_LIBRARY_PATH": "/lib64", "ASCEND_OPP_PATH": "/opp"}
    lacking = [name for name, part in wanted.items() if part not in variables.get(name, "")]
    if lacking:
        yield Fault(
            f"{' and '.join(lacking)} lack CANN's folders: a part of set_env.sh was undone",
            f"source {there or f'{home}/../set_env.sh'} in this shell, after all else that sets "
            "these variables",
            fatal="LD_LIBRARY_PATH" in lacking,  # MindSpore warns about the others, and goes on
        )
    version = cann_version(variables)
    if complaint := cann_complaint(version):
        what, _, remedy = complaint.partition(": ")
        yield Fault(what, remedy, fatal=False)
    elif not version:
        yield Fault(
            f"the version of the CANN in {home} cannot be read (compiler/version.info)",
            f"cat {home}/*/version.info, and compare with docs/support.md",
            fatal=False,
        )


def _python_of_cann(host: Host) -> Iterable[Fault]:
    home = host.environment.get("ASCEND_HOME_PATH", "")
    if not home:  # before it is sourced, nothing of it can be found
        return
    versions, folders = host.packages
    if not versions:
        yield Fault(f"{host.python} does not run", "bash scripts/setup.sh, or set PYTHON=")
        return
    missing = [name for name in required() if not versions[name]]
    if missing:
        yield Fault(
            f"{host.python} lacks {', '.join(missing)}, which CANN's compiler imports",
            f"{host.python} -m pip install -r {REQUIREMENTS}",
        )
    for module in ("te", "hccl"):
        if folders[module] is None:
            yield Fault(
                f"{host.python} does not find CANN's own package {module}",
                _wheel(home, module),
                fatal=False,
            )
    version = cann_version(host.environment)
    protobuf = versions["protobuf"]
    if protobuf and versions["mindspore"] and int(protobuf.split(".")[0]) < 7:
        yield Fault(
            f"protobuf {protobuf}, and MindSpore 2.10 needs 7.34.1 or newer",
            f"{host.python} -m pip install -r {REQUIREMENTS.with_name('requirements.txt')}",
        )
    elif protobuf and version in ("8.2", "8.3", "8.5", "9.0") and not protobuf.startswith("3.20"):
        yield Fault(
            f"protobuf {protobuf}, which MindSpore 2.10 needs, and CANN {version} asks for 3.20",
            "leave it, training does not use CANN's tools in Python that need the old one; "
            "CANN 9.1 asks for no version",
            fatal=False,
        )


def _wheel(home: str, module: str) -> str:
    """The command that installs a package that comes with CANN."""
    for folder in ("lib64", "compiler/lib64", "fwkacllib/lib64", "hccl/lib64", "tools"):
        for wheel in sorted(Path(home, folder).glob(f"{module}-*.whl")):
            return f"pip install {wheel}"
    return "source CANN's set_env.sh, which puts python/site-packages on PYTHONPATH"


def _cards(host: Host, wanted: Sequence[int]) -> Iterable[Fault]:
    devices = [
        path.name for path in (host.root / "dev").glob("davinci*") if path.name[7:].isdecimal()
    ]
    if not (host.root / "dev/davinci_manager").exists():
        return
    if wanted and max(wanted) >= len(devices):
        yield Fault(
            f"{counted(len(devices), 'card')} here (/dev/davinci*), and the job wants card "
            f"{max(wanted)}",
            "give fewer cards (RANK_SIZE BEGIN), or pass them to the container (--device "
            f"/dev/davinci{max(wanted)})",
        )
    listed = npu_cards(host)
    if not listed:
        yield Fault(
            "npu-smi info lists no card",
            "npu-smi info says why; in a container, mount /usr/local/bin/npu-smi",
            fatal=False,
        )
    for number, card in enumerate(listed):
        if card.health != "OK":
            yield Fault(
                f"card {number} ({card.name}): health {card.health}",
                f"npu-smi info -t health -i {number}",
                fatal=False,
            )


def npu_cards(host: Host) -> list[Card]:
    """List the chips that `npu-smi info` shows."""
    return parse_npu_smi(host.ask("npu-smi", "info"))


def parse_npu_smi(text: str) -> list[Card]:
    """Parse the table of `npu-smi info`, which has two rows for a chip.

    The first names it and its health; the second has its address on the bus and the memory in use
    and in all, in MB: that of training cards is the last pair (HBM).

    Args:
        text: The output.

    Returns:
        The chips.
    """
    cards: list[Card] = []
    name = health = ""
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
        if len(cells) < 3:
            continue
        first = re.fullmatch(r"\d+\s+(\S{3,})", cells[0])
        if first and not re.search(r"[0-9A-Fa-f]{4}:[0-9A-Fa-f]{2}:|^NA$", cells[1]):
            name, health = first[1], cells[1]
            continue
        pairs = re.findall(r"(\d+)\s*/\s*(\d+)", cells[2])
        if name and re.fullmatch(r"\d+(\s+\d+)?", cells[0]) and pairs:
            cards.append(Card(name, health, max(int(total) for _, total in pairs)))
            name = health = ""
    return cards


# ---- GPUs

_CUDA = "CUDA 11.6 and cuDNN 8.5"  # what MindSpore's plugin was built with, and checks for
_HOPPER = 9
# `strings libcuda_ops.so.11` of the wheel: kernels for 6.0 and 8.6, and PTX of both.
_BINARIES = ((6, 0), (8, 6))


def gpu_faults(
    host: Host, cards: Sequence[int] = (0,), find: Callable[[str], Any | None] = gpu.load
) -> list[Fault]:
    """Find what keeps a job from running on GPUs, or may surprise.

    Args:
        host: The machine.
        cards: Numbers of the GPUs that the job wants.
        find: Loads a library by its name, as `gpu.load`.

    Returns:
        The faults, in the order in which to mend them.
    """
    faults = [
        Fault(what, remedy)
        for what, _, remedy in (complaint.partition(": ") for complaint in gpu.complaints(find))
    ]
    listed = gpus(host)
    if listed and cards and max(cards) >= len(listed):
        faults.append(
            Fault(
                f"{counted(len(listed), 'GPU')} here (nvidia-smi -L), and the job wants GPU "
                f"{max(cards)}",
                "give fewer as RANK_SIZE, or pass more to the container (docker run --gpus all)",
            )
        )
    if not faults:
        faults += _cuda(find, listed)
    faults += _architectures(host, listed)
    if len(cards) > 1:
        faults += _nccl(host)
    return faults


def _cuda(find: Callable[[str], Any | None], listed: Sequence[Card]) -> Iterable[Fault]:
    version = gpu.cuda_version(find)
    hopper = any(_number(card.capability)[0] >= _HOPPER for card in listed)
    if version and hopper and version < 11080:
        yield Fault(
            f"CUDA {gpu.shown(version)} has no kernels for {listed[0].name}",
            "install CUDA 11.8 and cuDNN 8.6 or newer, which do, and put them first on "
            "LD_LIBRARY_PATH",
            fatal=False,
        )
    elif version and not hopper and version >= 11070:
        yield Fault(
            f"CUDA {gpu.shown(version)}, which MindSpore's own check does not know",
            f"should it fail, install {_CUDA}, with which it was built",
            fatal=False,
        )


def _architectures(host: Host, listed: Sequence[Card]) -> Iterable[Fault]:
    kept = any(host.environment.get(name) for name in ("CUDA_CACHE_PATH", "CUDA_CACHE_MAXSIZE"))
    for card in {card.capability: card for card in listed if card.capability}.values():
        number = _number(card.capability)
        if number < _BINARIES[0]:
            yield Fault(
                f"{card.name} has compute capability {card.capability}, and MindSpore's kernels "
                "need 6.0",
                "take a GPU of the year 2016 or newer",
            )
        elif not kept and not _has_binary(number):
            yield Fault(
                f"{card.name} (compute capability {card.capability}) has no kernels in the wheel: "
                "the first start compiles them for minutes, and nothing is wrong",
                "export CUDA_CACHE_PATH=$HOME/.nv/ComputeCache CUDA_CACHE_MAXSIZE=4000000000 "
                "keeps them for later starts",
                fatal=False,
            )


def _has_binary(capability: tuple[int, int]) -> bool:
    """Whether a kernel runs as it is: it does on later minor versions of its own major one."""
    return any(
        capability[0] == major and capability >= (major, minor) for major, minor in _BINARIES
    )


def _nccl(host: Host) -> Iterable[Fault]:
    _, folders = host.packages
    if not (package := folders.get("mindspore")):
        return
    library = Path(package, "lib/plugin/gpu11.6/libnccl.so.2")
    if not library.is_file():
        yield Fault(
            f"{library}: NCCL, with which GPUs exchange gradients, is not there",
            "bash scripts/setup.sh, which installs MindSpore's wheel as a whole",
        )


def _number(capability: str) -> tuple[int, int]:
    match = re.fullmatch(r"(\d+)\.(\d+)", capability)
    return (int(match[1]), int(match[2])) if match else (0, 0)


def gpus(host: Host) -> list[Card]:
    """List the GPUs that nvidia-smi shows."""
    answer = host.ask(
        "nvidia-smi", "--query-gpu=name,memory.total,compute_cap", "--format=csv,noheader,nounits"
    )
    cards = []
    for line in answer.splitlines():
        name, *rest = (word.strip() for word in line.rsplit(",", 2))
        if len(rest) == 2:
            memory = int(rest[0]) if rest[0].isdecimal() else 0
            cards.append(Card(name, "", memory, rest[1] if _number(rest[1]) > (0, 0) else ""))
    return cards


# ---- both


def has_driver(device: str, host: Host) -> bool:
    """Tell whether the driver of a kind of device is on a machine."""
    if device == "Ascend":
        return (host.root / "dev/davinci_manager").exists()
    return bool(gpus(host)) or (host.root / "dev/nvidiactl").exists()


def faults(device: str, host: Host, cards: Sequence[int] = (0,)) -> list[Fault]:
    """Find what keeps a job from running on a kind of device.

    Args:
        device: "Ascend", "GPU" or "CPU", where nothing is looked at.
        host: The machine.
        cards: Numbers of the cards that the job wants.
    """
    if device == "CPU":
        return []
    return (ascend_faults if device == "Ascend" else gpu_faults)(host, cards)


def card_lines(device: str, host: Host) -> list[str]:
    """Describe the cards of a kind: how many, their names and memory."""
    listed = npu_cards(host) if device == "Ascend" else gpus(host)
    kinds: dict[tuple[str, int], int] = {}
    for card in listed:
        kinds[card.name, card.memory] = kinds.get((card.name, card.memory), 0) + 1
    return [
        f"{number} x {name}" + (f", {memory / 1024:.0f} GiB each" if memory else "")
        for (name, memory), number in kinds.items()
    ]


def check(device: str, host: Host, cards: Sequence[int]) -> None:
    """Print the faults of a machine, and refuse to start where nothing can.

    PREFLIGHT=0 in the environment leaves the check out.

    Args:
        device: "Ascend", "GPU" or "CPU".
        host: The machine.
        cards: Numbers of the cards that the job wants.

    Raises:
        LaunchError: MindSpore cannot start here.
    """
    if host.environment.get("PREFLIGHT") == "0":
        return
    found = faults(device, host, cards)
    fatal = [fault for fault in found if fault.fatal]
    for fault in found:
        print(f"{'error' if fault.fatal else 'note'}: {device}: {fault}", file=sys.stderr)
    if fatal:
        raise LaunchError(
            f"nothing was started on {device}; once the above is mended, type the same command "
            "(PREFLIGHT=0 before it starts all the same)"
        )
