"""The plan of a job: the processes that a launcher's command line asks for, and their environment.

Reads the rank table and looks for the checkpoint. Runs no programs except, for GPUs,
`mpirun --version` and `nvidia-smi -L`.
"""

from __future__ import annotations

import math
import os
import shlex
import shutil
import socket
import subprocess
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path

from common.launching import LaunchError
from common.launching.rank_table import Device, Place, place, read_rank_table
from common.utils.files import absolute_path

ROOT = Path(__file__).resolve().parents[2]
DEVICES = ("Ascend", "GPU", "CPU")
STARTS = ("msrun", "mpirun", "rank_table")
_WRAPPER = Path(__file__).with_name("rank.py")
_VISIBLE = {"Ascend": "ASCEND_RT_VISIBLE_DEVICES", "GPU": "CUDA_VISIBLE_DEVICES"}
_PORT = 8118  # msrun's own default; all hosts of a job must agree on one
_CHECKPOINT = {"train": "--pre_trained_model_path", "eval": "--pretrain_ckpt"}
_PATH = "@PATH@"  # placeholder for the PATH of the caller
_TAIL_NONE = "-2"  # no such worker: msrun prints no log, since the launcher does
_WITH_VALUE = ("--model", "--start", "--log_dir", "--restarts", "--hang_timeout")
HANG_TIMEOUT = 1800.0  # seconds; saving to a slow disk or compiling a new shape takes less


@dataclass(frozen=True)
class Process:
    """A process to start.

    Attributes:
        command: The command and its arguments.
        environment: Variables on top of the launcher's own.
        name: Number of the rank.
    """

    command: tuple[str, ...]
    environment: dict[str, str]
    name: str = ""

    def settings(self) -> dict[str, str]:
        """Return the complete environment of the process."""
        own = os.environ.get("PATH", os.defpath)
        added = {key: value.replace(_PATH, own) for key, value in self.environment.items()}
        return {**os.environ, **added}

    def line(self) -> str:
        """Return a command line for the shell, environment included."""
        own = '"$PATH"'
        settings = [
            f"{key}={own.join(part and shlex.quote(part) for part in value.split(_PATH))}"
            for key, value in self.environment.items()
        ]
        return " ".join([*settings, shlex.join(self.command)])


@dataclass(frozen=True)
class Plan:
    """A job on this host.

    Attributes:
        title: What the job does, in a line.
        folder: Working folder of all processes.
        start: "alone", or one of STARTS.
        processes: To start: the job itself, the starter, or every rank.
        ranks: Ranks of this host, as their starter will start them.
        logs: Folder of the ranks' logs.
        elsewhere: Whether other hosts have ranks, too.
        meeting: Address and port where the hosts meet; None: nowhere.
        node: This host's number among them; number 0 listens there.
        entry_log: The log that the entry point itself writes, rank 0's in a distributed job.
        cards: Numbers of this host's cards that it uses; () on a CPU.
    """

    title: str
    folder: Path
    start: str
    processes: tuple[Process, ...]
    ranks: tuple[Process, ...]
    logs: Path
    elsewhere: bool = False
    meeting: tuple[str, int] | None = None
    node: int = 0
    entry_log: Path | None = None
    cards: tuple[int, ...] = ()

    @property
    def starter(self) -> bool:
        """Whether msrun or mpirun starts the ranks."""
        return self.start in ("msrun", "mpirun")

    def log_of(self, rank: str) -> Path:
        """Return the log file of a rank ("0", "1" ... or "scheduler")."""
        return self.logs / ("scheduler.log" if rank == "scheduler" else f"worker_{rank}.log")

    def dry_run(self) -> str:
        """Describe the job as lines for a shell; what msrun or mpirun starts are comments."""
        lines = [f"cd {shlex.quote(str(self.folder))}"]
        if self.start in ("mpirun", "rank_table"):  # msrun creates its log folder
            lines.append(f"mkdir -p {shlex.quote(str(self.logs))}")
        if self.start == "rank_table":
            for process in self.processes:
                log = shlex.quote(str(self.log_of(process.name)))
                lines.append(f"{process.line()} > {log} 2>&1 &")
            return "\n".join([*lines, "wait"])
        if self.starter:
            lines += [f"# rank {rank.name}: {rank.line()}" for rank in self.ranks]
        return "\n".join([*lines, *(process.line() for process in self.processes)])


@dataclass
class Request:
    """The parsed command line of a launcher.

    Attributes:
        model: Name of the model.
        entry: train, distribute_train, eval, or another entry point of the model.
        device: Kind of device.
        positional: Arguments before the first option.
        options: Of the entry point.
        start: One of STARTS; None: chosen by the launcher.
        logs: Folder of the ranks' logs.
        background: Whether the launcher returns while the job runs.
        resume: Continue the run whose checkpoints are there.
        restarts: Restarts after failures, at most.
        hang_timeout: Seconds without a heartbeat; 0: no limit; None: the default.
        environment: Variables of the launcher.
    """

    model: str
    entry: str
    device: str
    positional: list[str]
    options: list[str]
    start: str | None = None
    logs: str = "log"
    background: bool = False
    resume: bool = False
    restarts: int = 0
    hang_timeout: float | None = None
    environment: Mapping[str, str] = field(default_factory=dict)

    @property
    def distributed(self) -> bool:
        """Whether several ranks train together."""
        return self.entry == "distribute_train"

    @property
    def script(self) -> str:
        """The model's entry point, without ".py"."""
        return "train" if self.distributed else self.entry

    @property
    def watched(self) -> bool:
        """Whether the launcher supervises the job, instead of becoming it by exec."""
        return self.distributed or self.restarts > 0 or bool(self.hang_timeout)

    @property
    def patience(self) -> float:
        """Seconds without a heartbeat after which the job counts as hanging; 0: no limit."""
        return HANG_TIMEOUT if self.hang_timeout is None else self.hang_timeout


def read_request(arguments: Sequence[str], environment: Mapping[str, str]) -> Request:
    """Parse a launcher's command line: MODEL-or-script ENTRY DEVICE [arguments...] [options...].

    The launcher's own options (--background, and those of _WITH_VALUE) may stand anywhere; all
    others are passed on to the entry point.

    Args:
        arguments: The words of the command line.
        environment: Variables: MODEL, DEVICE_TARGET, RESUME, RESTARTS, HANG_TIMEOUT.

    Returns:
        The request.

    Raises:
        LaunchError: An argument is missing, unknown or malformed.
    """
    if len(arguments) < 3:
        raise LaunchError("launch.sh MODEL ENTRY DEVICE [arguments...] [options...]", 2)
    script, entry, device, *rest = arguments
    own: dict[str, str] = {}
    background = False
    for_entry: list[str] = []
    words = iter(rest)
    for word in words:
        name, equals, value = word.partition("=")
        if word == "--background":
            background = True
        elif name in _WITH_VALUE:
            own[name] = value if equals else next(words, "")
            if not own[name]:
                raise LaunchError(f"{name} needs a value", 2)
        else:
            for_entry.append(word)
    if own.get("--start", "msrun") not in STARTS:
        raise LaunchError(f"--start {own['--start']}: expected one of {', '.join(STARTS)}", 2)
    if chosen := environment.get("DEVICE_TARGET"):
        device = chosen
    known = [name for name in DEVICES if name.lower() == device.lower()]
    if not known:
        raise LaunchError(f"device {device}: unknown, expected one of {', '.join(DEVICES)}", 2)
    first = next((i for i, word in enumerate(for_entry) if word.startswith("-")), len(for_entry))
    if "" in for_entry[:first]:  # or else a run would begin from scratch by mistake
        raise LaunchError("an argument is empty: is a variable not set?", 2)
    request = Request(
        model=_model(script, own.get("--model"), environment),
        entry=entry,
        device=known[0],
        positional=for_entry[:first],
        options=for_entry[first:],
        start=own.get("--start"),
        logs=own.get("--log_dir", "log"),
        background=background,
        environment=environment,
    )
    if request.distributed and any(word.split("=")[0] == "--device_id" for word in request.options):
        raise LaunchError("--device_id is for one process: several ranks would share that card", 2)
    if request.start and not request.distributed:
        raise LaunchError(f"--start {request.start} is for run_distribute_train_*.sh", 2)
    for name in ("--restarts", "--hang_timeout"):
        if name in own and request.script != "train":
            raise LaunchError(f"{name} is for run_*_train_*.sh", 2)
    if request.script == "train":
        restarts = _number("--restarts", own, environment)
        request.restarts = 0 if restarts is None else int(restarts)
        request.hang_timeout = _number("--hang_timeout", own, environment)
        request.resume = environment.get("RESUME", "0") not in ("", "0")
    return request


def _number(name: str, own: Mapping[str, str], environment: Mapping[str, str]) -> float | None:
    """Return the number that an option or the variable of its name sets; None if neither does."""
    variable = name.lstrip("-").upper()
    origin, text = f"{name} ", own.get(name)
    if text is None:
        origin, text = f"{variable}=", environment.get(variable) or None
    if text is None:
        return None
    whole = name == "--restarts"
    with suppress(ValueError):
        value = float(text)
        if 0 <= value < math.inf and not (whole and value % 1):
            return value
    expected = "a number of restarts from 0 on" if whole else "seconds, or 0 for no limit"
    raise LaunchError(f"{origin}{text}: expected {expected}", 2)


def _model(script: str, chosen: str | None, environment: Mapping[str, str]) -> str:
    """Return the model that a script belongs to, or that was named."""
    if not script.endswith(".sh"):
        return script
    folder = Path(script).parent.resolve().parent  # a clone may be known by a symbolic link
    if folder != ROOT:
        if chosen not in (None, folder.name):
            raise LaunchError(f"{script} is of {folder.name}, not of --model {chosen}", 2)
        return folder.name
    model = chosen or environment.get("MODEL")
    if not model:
        raise LaunchError(
            f"which model? {Path(script).name} --model NAME, or MODEL=NAME before it: "
            f"{', '.join(models())}",
            2,
        )
    return model


def models() -> list[str]:
    """List the names of the model folders."""
    return sorted(path.parent.name for path in ROOT.glob("*/train.py"))


def make_plan(request: Request, python: str) -> Plan:
    """Make the plan of a job.

    Args:
        request: The parsed command line.
        python: The interpreter to run the job with.

    Returns:
        The plan.

    Raises:
        LaunchError: Arguments that do not fit the device, the checkpoint or the rank table.
    """
    folder = ROOT / request.model
    if not (folder / f"{request.script}.py").is_file():
        raise LaunchError(f"{folder / f'{request.script}.py'} not found", 2)
    environment = {"PYTHONUNBUFFERED": "1"}  # show each line at once, also through a pipe
    words = list(request.positional)
    entry_log = folder / f"{request.script}.log"
    if request.distributed:
        plan = _distributed(request, words, folder, environment, python)
        return replace(plan, entry_log=entry_log)
    cards: tuple[int, ...] = ()
    device_id = request.environment.get("DEVICE_ID", "0")
    if request.device != "CPU" or _script_has_cards(request):
        if words and words[0].isdecimal():
            device_id = words.pop(0)
        elif len(words) > 1 and words[1].isdecimal():  # CKPT DEVICE_ID, as Jasper's usage has it
            device_id = words.pop(1)
    if request.device != "CPU":
        if not device_id.isdecimal():
            raise LaunchError(f"DEVICE_ID={device_id}: expected the number of a card", 2)
        environment["DEVICE_ID"] = device_id
        cards = (_card(request, int(device_id)),)
    arguments = [f"{request.script}.py", "--device_target", request.device]
    arguments += [*_start_from(request, words), *words, *request.options]
    where = f" {device_id}" if request.device != "CPU" else ""
    title = f"{request.model}: {request.script} on {request.device}{where}, log in {entry_log}"
    if request.watched:
        arguments = [str(_WRAPPER), *arguments]
        environment |= {"LAUNCH_PYTHON": python, "LAUNCH_RANK": "0"}
    process = Process((python, *arguments), environment, "0")
    logs = folder / request.logs
    return Plan(
        title, folder, "alone", (process,), (process,), logs, entry_log=entry_log, cards=cards
    )


def _script_has_cards(request: Request) -> bool:
    """Whether a script for cards runs on the CPU by DEVICE_TARGET; it still takes DEVICE_ID."""
    return bool(request.environment.get("DEVICE_TARGET"))


def _start_from(request: Request, words: list[str]) -> list[str]:
    """Return the options that name the checkpoint to start from, or ask to resume."""
    initial = _checkpoint(request, words)
    if not request.resume or "--resume" in request.options:
        return initial
    if initial:
        raise LaunchError(
            f"RESUME=1 continues a run, and the checkpoint {initial[1]} starts a new one: give "
            "only one of them",
            2,
        )
    return ["--resume"]


def resumed(request: Request) -> Request:
    """Turn a request into one that resumes its run, without the checkpoint that it started from.

    Args:
        request: The request that started the run.

    Returns:
        The request to resume it.
    """
    flag = _CHECKPOINT["train"]
    options: list[str] = []
    words = iter(request.options)
    for word in words:
        if word == flag:
            next(words, None)
        elif not word.startswith(f"{flag}="):
            options.append(word)
    positional = [word for word in request.positional if not word.endswith(".ckpt")]
    return replace(request, resume=True, positional=positional, options=options)


def followed(request: Request, folder: Path) -> Callable[[], Request]:
    """Follow the checkpoints that a request names while the run moves them.

    A run that starts from a checkpoint in its own folder moves it to `earlier-N/` there. If the run
    must start once more, the request has to name the file where it is by then.

    Args:
        request: The request that starts the run.
        folder: The model's folder, where relative paths in options start.

    Returns:
        A function that returns the request with the present paths of its checkpoints.
    """
    flag = f"{_CHECKPOINT['train']}="
    known: dict[str, tuple[Path, os.stat_result]] = {}
    for word in (*request.positional, *request.options):
        text = word.removeprefix(flag)
        path = Path(text) if word in request.positional else folder / text
        with suppress(OSError):
            if path.suffix == ".ckpt":
                known[word] = path, path.stat()

    def now(word: str) -> str:
        if word in known:
            path, stat = known[word]
            for moved in (path, *path.parent.glob(f"earlier-*/{path.name}")):
                with suppress(OSError):
                    if os.path.samestat(stat, moved.stat()):
                        return (flag if word.startswith(flag) else "") + str(absolute_path(moved))
        return word

    return lambda: replace(
        request,
        positional=[now(word) for word in request.positional],
        options=[now(word) for word in request.options],
    )


def _checkpoint(request: Request, words: list[str]) -> list[str]:
    """Take a checkpoint from the front of `words`, with its absolute path.

    Relative paths start where the command was typed; the job runs in another folder.
    """
    flag = _CHECKPOINT.get(request.script)
    if flag is None:
        return []
    if words:
        path = words.pop(0)
        if words:
            raise LaunchError(f"{words[0]}: one argument too many before the options", 2)
        if not Path(path).is_file():
            raise LaunchError(f"checkpoint {path} not found", 2)
        return [flag, str(absolute_path(path))]
    return []  # eval.py takes the one that ships with the model, and says so


# ---- several processes


def _distributed(
    request: Request, words: list[str], folder: Path, environment: dict[str, str], python: str
) -> Plan:
    site, table = _place(request, words)
    entry = ["train.py", "--device_target", request.device, "--is_distributed", "true"]
    entry += [*_start_from(request, words), *request.options]
    start, why = _start(request, site)
    logs = folder / request.logs
    if site.nodes > 1:  # hosts may share the folder
        logs /= f"node_{site.node}"
    environment |= {"LAUNCH_PYTHON": python}
    if request.device in _VISIBLE and site.devices and start != "rank_table":
        # The ranks count these cards from 0. CANN wants them in ascending order.
        visible = ",".join(str(device.id) for device in site.devices)
        environment[_VISIBLE[request.device]] = visible
    local = _local_ranks(request, site)
    on = f"{site.size} ranks" if site.nodes == 1 else f"{len(local)} of {site.size} ranks"
    cards = ""
    if request.device != "CPU" and site.devices:
        cards = f" (cards {', '.join(str(device.id) for device in site.devices)})"
    numbers = _cards(request, site)
    title = f"{request.model}: train on {request.device}, {on}{cards} with {start}{why}"
    title += f", logs in {logs}"
    wrapped = (python, str(_WRAPPER), *entry)
    job = (python, *entry)
    if start == "rank_table":
        environment |= {"RANK_TABLE_FILE": str(absolute_path(table)), "RANK_SIZE": str(site.size)}
        ranks = tuple(
            Process(
                wrapped,
                {**environment, "RANK_ID": str(device.rank), "DEVICE_ID": str(device.id)},
                str(device.rank),
            )
            for device in site.devices
        )
        elsewhere = site.nodes > 1
        return Plan(title, folder, start, ranks, ranks, logs, elsewhere, cards=numbers)
    if start == "mpirun":
        environment |= {"LAUNCH_LOGS": str(logs)}
        ranks = tuple(
            Process(job, {"RANK_SIZE": str(site.size), "RANK_ID": str(r), "DEVICE_ID": str(d)})
            for r, d in local
        )
        root = ["--allow-run-as-root"] if os.geteuid() == 0 else []
        # By default mpirun binds each of two ranks to one core, with all its threads.
        starter = ("mpirun", *root, "--bind-to", "none", "-n", str(site.size), *wrapped)
    else:
        environment |= {"PATH": f"{_WRAPPER.parent}{os.pathsep}{_PATH}"}
        port = _port(request, site)
        ranks = tuple(
            Process(
                job,
                {
                    "MS_ROLE": "MS_WORKER",
                    "MS_WORKER_NUM": str(site.size),
                    "MS_SCHED_HOST": site.master,
                    "MS_SCHED_PORT": port,
                    "MS_NODE_ID": str(rank),
                    "RANK_SIZE": str(site.size),
                    "RANK_ID": str(rank),
                    "DEVICE_ID": str(device),
                },
            )
            for rank, device in local
        )
        starter = (
            *(python, "-m", "mindspore.parallel.cluster.run"),  # this is msrun
            f"--worker_num={site.size}",
            f"--local_worker_num={len(local)}",
            f"--master_addr={site.master}",
            f"--master_port={port}",
            f"--node_rank={site.node}",
            f"--log_dir={logs}",
            "--join=True",
            f"--tail_worker_log={_TAIL_NONE}",
            str(_WRAPPER),
            *entry,
        )
    cards_of_all = {name: text for name, text in environment.items() if name in _VISIBLE.values()}
    ranks = tuple(
        Process(rank.command, {**cards_of_all, **rank.environment}, str(number))
        for rank, (number, _) in zip(ranks, local)
    )
    started = (Process(starter, environment),)
    meeting = (site.master, int(port)) if site.nodes > 1 else None  # by msrun alone
    return Plan(
        *(title, folder, start, started, ranks, logs, site.nodes > 1, meeting, site.node),
        cards=numbers,
    )


def _place(request: Request, words: list[str]) -> tuple[Place, str]:
    """Take RANK_SIZE [BEGIN] [RANK_TABLE_FILE] from the front of `words`.

    A script for GPUs or CPUs needs no BEGIN and no table, but takes them, so that one command line
    works on all devices. Returns this host's part of the job, and the table's path.
    """
    if words and words[0].isdecimal():
        size = int(words.pop(0))
    elif request.device == "Ascend":
        raise LaunchError(
            "run_distribute_train_ascend.sh RANK_SIZE BEGIN [RANK_TABLE_FILE] [CKPT]", 2
        )
    else:
        size = _gpus(request.environment) if request.device == "GPU" else 2
    if size < 1:
        raise LaunchError(f"RANK_SIZE {size}: expected at least 1", 2)
    begin = int(words.pop(0)) if words and words[0].isdecimal() else None
    third = begin is not None and words and not words[0].endswith(".ckpt")
    if words and (third or words[0].endswith(".json")):
        table = words.pop(0)
        node = request.environment.get("NODE_RANK") or None
        if node is not None and not node.isdecimal():
            raise LaunchError(f"NODE_RANK={node}: expected a number from 0 on", 2)
        servers = read_rank_table(table)
        number = None if node is None else int(node)
        return place(servers, table, size, begin or 0, number), table
    if request.start == "rank_table":
        raise LaunchError("--start rank_table needs a table: RANK_SIZE BEGIN RANK_TABLE_FILE", 2)
    known = request.device == "Ascend" or begin is not None
    if not known:
        return Place(size, "127.0.0.1", 1, 0, ()), ""
    cards = _visible_cards(request, (begin or 0) + size)[begin or 0 :]
    devices = tuple(Device(card, "", rank) for rank, card in enumerate(cards))
    return Place(size, "127.0.0.1", 1, 0, devices), ""


def _visible_cards(request: Request, count: int) -> list[int]:
    """Return the first `count` cards: of those that the environment names (cluster schedulers)."""
    variable = _VISIBLE.get(request.device, "")
    text = request.environment.get(variable, "")
    if not text:
        return list(range(count))
    words = [word.strip() for word in text.split(",")]
    if not all(word.isdecimal() for word in words):
        raise LaunchError(f"{variable}={text}: expected numbers of cards, such as 4,5", 2)
    if len(words) < count:
        raise LaunchError(
            f"{variable}={text}: {len(words)} cards, and BEGIN + RANK_SIZE is {count}", 2
        )
    return sorted(map(int, words))[:count]


def _local_ranks(request: Request, site: Place) -> list[tuple[int, int]]:
    """(rank, DEVICE_ID) of each process of this host; DEVICE_ID counts the visible cards."""
    count = len(site.devices) or site.size
    return [(site.node * count + number, number) for number in range(count)]


def _card(request: Request, number: int) -> int:
    """Return the card that DEVICE_ID means, which counts those that the environment names."""
    words = request.environment.get(_VISIBLE[request.device], "").split(",")
    named = sorted(int(word) for word in words if word.strip().isdecimal())
    return named[number] if number < len(named) else number


def _cards(request: Request, site: Place) -> tuple[int, ...]:
    """Return the numbers of this host's cards that a job uses; () on CPUs."""
    if request.device == "CPU":
        return ()
    return tuple(device.id for device in site.devices) or tuple(range(site.size))


def _start(request: Request, site: Place) -> tuple[str, str]:
    """One of STARTS, and the reason if it is not the usual one."""
    start, why = request.start, ""
    mpirun = shutil.which("mpirun", path=request.environment.get("PATH"))
    if start == "rank_table":
        if request.device != "Ascend":
            raise LaunchError(
                f"--start rank_table is for Ascend, and the device is {request.device}", 2
            )
        used = {device.rank for device in site.devices}
        first = site.first_rank
        if used != set(range(first, first + len(site.devices))):
            raise LaunchError(
                f"--start rank_table: RANK_SIZE {site.size} and BEGIN choose the table's ranks "
                f"{sorted(used)}, and it must hold no others: make a table for these cards with "
                "scripts/rank_table.py",
                2,
            )
    elif start == "mpirun":
        if request.device == "CPU":
            raise LaunchError("--start mpirun is for GPU and Ascend, and the device is CPU", 2)
        if site.nodes > 1:
            raise LaunchError(
                f"--start mpirun is for one host, the table has {site.nodes}: msrun", 2
            )
        if not mpirun:
            raise LaunchError("--start mpirun: there is no mpirun: --start msrun needs none", 2)
        if not _is_open_mpi(mpirun):
            raise LaunchError(
                f"--start mpirun: {mpirun} is not Open MPI's: --start msrun needs none", 2
            )
    elif start is None:
        start = "msrun"
        if request.device == "GPU" and mpirun and site.nodes == 1:
            if _is_open_mpi(mpirun):
                start = "mpirun"
            else:
                why = f" ({mpirun} is not Open MPI's)"
    return start, why


@cache
def _is_open_mpi(mpirun: str) -> bool:
    """Whether it is Open MPI, whose variables tell ranks their number; other MPIs differ."""
    try:
        answer = subprocess.run(
            [mpirun, "--version"], capture_output=True, text=True, timeout=30, check=False
        ).stdout
    except (OSError, subprocess.TimeoutExpired):
        return False
    # Open MPI 1 to 4 may print the name of their runtime, as Debian's `mpirun.real (OpenRTE)`.
    return "Open MPI" in answer or "OpenRTE" in answer


def _port(request: Request, site: Place) -> str:
    """MASTER_PORT of the environment; else a free port, or with several hosts msrun's default."""
    port = request.environment.get("MASTER_PORT")
    if port:
        if not port.isdecimal() or not 1024 <= int(port) <= 65535:
            raise LaunchError(f"MASTER_PORT={port}: expected 1024 to 65535", 2)
        return port
    if site.nodes > 1:
        return str(_PORT)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


def _gpus(environment: Mapping[str, str]) -> int:
    """Return the number of GPUs that may be used."""
    visible = environment.get("CUDA_VISIBLE_DEVICES")
    if visible:
        return len(visible.split(","))
    tool = shutil.which("nvidia-smi", path=environment.get("PATH"))
    if tool:
        answer = subprocess.run([tool, "-L"], capture_output=True, text=True, check=False)
        if count := sum(line.startswith("GPU ") for line in answer.stdout.splitlines()):
            return count
    raise LaunchError(
        "no GPU found by nvidia-smi: give their number, RANK_SIZE, as first argument", 2
    )
