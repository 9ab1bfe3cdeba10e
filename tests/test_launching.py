"""What launchers start: rank tables, plans, the ranks' processes, libraries of GPUs."""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import termios
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
from launcher_clone import copy_launcher

from common import cli
from common.launching import LaunchError, gpu, supervise
from common.launching import make_rank_table as tool
from common.launching.plan import Process, followed, make_plan, read_request, resumed
from common.launching.rank import beat_of, make_notes, noted
from common.launching.rank_table import is_local, place, read_rank_table
from common.launching.watching import Signs
from common.training.heartbeat import SIZE
from deepspeech2.src.recipe import RECIPE

ROOT = Path(__file__).resolve().parents[1]


def table(servers: int = 1, cards: int = 8, **changes) -> dict:
    """As HCCL's documentation has it: server i at 10.0.0.i with cards at 192.168.c.i."""
    return {
        "version": "1.0",
        "server_count": str(servers),
        "server_list": [
            {
                "server_id": f"10.0.0.{number + 1}",
                "device": [
                    {
                        "device_id": str(card),
                        "device_ip": f"192.168.{card}.{number + 1}",
                        "rank_id": str(number * cards + card),
                    }
                    for card in range(cards)
                ],
                "host_nic_ip": "reserve",
            }
            for number in range(servers)
        ],
        "status": "completed",
        **changes,
    }


def write(folder: Path, content: object) -> Path:
    path = folder / "hccl.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


# ---- rank tables


def test_a_rank_table_of_two_servers_is_read(tmp_path):
    content = table(2, 4)
    content["server_list"].reverse()
    first, second = read_rank_table(write(tmp_path, content))
    assert (first.id, second.id) == ("10.0.0.1", "10.0.0.2")
    assert [device.rank for device in second.devices] == [4, 5, 6, 7]
    assert [device.ip for device in second.devices][2] == "192.168.2.2"


def broken(change) -> dict:
    content = table(2, 2)
    change(content)
    return content


def device(content: dict, server: int = 0, card: int = 1) -> dict:
    return content["server_list"][server]["device"][card]


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ("{", "not JSON"),
        ("[]", "expected an object"),
        (table(version="2.0"), "version 2.0, expected one of 1.0, 1.2"),
        (broken(lambda c: c.pop("version")), "no version, expected"),
        (table(status="initializing"), "status 'initializing', expected 'completed'"),
        (broken(lambda c: c.pop("server_list")), "server_list is missing"),
        (table(server_list=[]), "server_list is empty"),
        (table(server_count="2"), "server_count 2, and server_list has 1"),
        (broken(lambda c: c["server_list"][1].pop("server_id")), "server 2: no server_id"),
        (
            broken(lambda c: c["server_list"][1].update(server_id="10.0.0.1")),
            "server_id 10.0.0.1 stands twice",
        ),
        (
            broken(lambda c: c["server_list"][0].update(device=[])),
            r"server 1 \(10.0.0.1\): device is empty",
        ),
        (broken(lambda c: device(c).update(device_id="0")), r"10.0.0.1\): device_id 0 stands twi"),
        (broken(lambda c: device(c).update(device_id="a")), "device_id is a, expected a number"),
        (broken(lambda c: device(c).pop("rank_id")), "rank_id is missing, expected a number"),
        (broken(lambda c: device(c).update(device_ip="1.2.3")), "device_ip 1.2.3 is no IP address"),
        (
            broken(lambda c: device(c).update(device_ip="192.168.0.1")),
            "device_ip 192.168.0.1 stands twice",
        ),
        (
            broken(lambda c: device(c).update(rank_id="3")),
            "ranks 0 to 3 once each, rank_id 1 is missing and rank_id 3 stands twice",
        ),
        (
            broken(lambda c: device(c, 1).update(rank_id="4")),
            "rank_id 3 is missing and there is a 4",
        ),
    ],
)
def test_each_error_in_a_rank_table_gives_one_line(tmp_path, content, complaint):
    path = write(tmp_path, content)
    with pytest.raises(LaunchError, match=f"^rank table {path}.*{complaint}") as caught:
        read_rank_table(path)
    assert "\n" not in str(caught.value)
    assert caught.value.code == 2


def test_a_missing_rank_table_is_an_error(tmp_path):
    with pytest.raises(LaunchError, match="gone.json: cannot be read"):
        read_rank_table(tmp_path / "gone.json")


def test_this_host_is_recognised_among_the_servers(tmp_path):
    servers = read_rank_table(write(tmp_path, table(2, 8)))

    def at(address: str, **more):
        return place(servers, "t", more.pop("size", 16), 0, here=lambda a: a == address, **more)

    second = at("10.0.0.2")
    assert (second.size, second.nodes, second.node) == (16, 2, 1)
    assert (second.master, second.first_rank) == ("10.0.0.1", 8)
    assert [device.id for device in second.devices] == list(range(8))
    assert [device.rank for device in at("10.0.0.2", size=4).devices] == [8, 9]
    assert at("none", node=1) == second
    for address, more, complaint in (
        ("10.0.0.3", {}, "does not name this host .servers: 10.0.0.1, 10.0.0.2.*NODE_RANK=0 to 1"),
        ("10.0.0.1", {"size": 15}, "15 ranks cannot be shared equally by its 2 servers"),
        ("10.0.0.1", {"size": 18}, "server 10.0.0.1 has 8 devices from 0 on, and 18 .* need 9"),
        ("none", {"node": 2}, "NODE_RANK=2: rank table t has 2 servers"),
    ):
        with pytest.raises(LaunchError, match=complaint):
            at(address, **more)
    with pytest.raises(LaunchError, match="several of its servers are this host"):
        place(servers, "t", 16, 0, here=lambda address: True)


def test_cards_are_used_from_begin_on(tmp_path):
    servers = read_rank_table(write(tmp_path, table()))
    part = place(servers, "t", 4, 2, here=lambda address: True)
    assert [device.id for device in part.devices] == [2, 3, 4, 5]
    assert part.master == "127.0.0.1"
    with pytest.raises(
        LaunchError, match="has 3 devices from 5 on, and 4 ranks on 1 server need 4"
    ):
        place(servers, "t", 4, 5, here=lambda address: True)


def test_own_addresses_are_local():
    assert is_local("127.0.0.1")
    assert not is_local("192.0.2.1")  # RFC 5737: nobody's
    assert not is_local("no.such.host.invalid")


# ---- making tables

CONF = """address_0=192.168.1.100
netmask_0=255.255.255.0
 address_1=192.168.2.100
# address_2=1.1.1.1
netdetect_1=192.168.2.1
"""
# Columns are 31 wide in truth.
MAPPING = """\
\tNPU ID          Chip ID         Chip Logic ID   Chip Name
\t0               0               0               Ascend 910B
\t0               1               -               Mcu
\t1               0               1               Ascend 910B
\t1               1               -               Mcu
"""


def test_the_example_of_a_rank_table_works_on_any_host():
    servers = read_rank_table(ROOT / "scripts" / "hccl_8_cards.json")
    assert [len(server.devices) for server in servers] == [8]
    plan = plan_of(f"deepspeech2 distribute_train Ascend 8 0 {ROOT / 'scripts/hccl_8_cards.json'}")
    assert len(plan.ranks) == 8 and "--worker_num=8" in plan.processes[0].command


def test_output_of_hccn_tool_and_npu_smi_is_parsed():
    assert tool.addresses_in(CONF) == {0: "192.168.1.100", 1: "192.168.2.100"}
    assert tool.devices_in(MAPPING) == [0, 1]
    assert tool.address_of("ipaddr:192.168.1.100\nnetmask:255.255.255.0\n") == "192.168.1.100"
    assert tool.address_of("hccn_tool is busy\n") is None
    assert tool.device_list("0-2,5") == [0, 1, 2, 5]
    assert tool.device_list("[4,8)") == [4, 5, 6, 7]  # as hccl_tools has it


def run_tool(tmp_path, *arguments: str, path: str = ""):
    return subprocess.run(
        [sys.executable, ROOT / "scripts" / "rank_table.py", *arguments],
        cwd=tmp_path,
        env={"PATH": path, "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
    )


def test_a_rank_table_is_made_of_this_hosts_cards(tmp_path):
    """npu-smi and hccn_tool as they answer, and hccn_tool absent: /etc/hccn.conf."""
    (tmp_path / "conf").write_text(CONF)
    tools = tmp_path / "tools"
    tools.mkdir()
    smi = tools / "npu-smi"
    smi.write_text(f"#!/bin/sh\necho '{MAPPING}'\n")
    smi.chmod(0o755)
    done = run_tool(
        tmp_path, "--server_ip", "127.0.0.1", "--hccn_conf", "conf", path=f"{tools}:/bin:/usr/bin"
    )
    assert done.returncode == 0, done.stderr
    path = tmp_path / "hccl_2p_01_127.0.0.1.json"
    assert str(path.name) in done.stdout
    (server,) = read_rank_table(path)
    assert [(d.id, d.ip, d.rank) for d in server.devices] == [
        (0, "192.168.1.100", 0),
        (1, "192.168.2.100", 1),
    ]
    refused = run_tool(tmp_path, "--hccn_conf", "conf", "--devices", "0-2", "--server_ip", "::1")
    assert refused.returncode == 1
    assert "device 2 has no address in conf" in refused.stderr
    refused = run_tool(tmp_path, "--hccn_conf", "gone", "--devices", "0-2", "--server_ip", "::1")
    assert "gone: cannot be read" in refused.stderr


def test_rank_tables_are_made_of_addresses_and_merged(tmp_path):
    given = ["10.0.0.1=192.168.1.1,192.168.2.1", "10.0.0.2=192.168.1.2,192.168.2.2"]
    both = ["--server", given[0], "--server", given[1], "--out", "both.json"]
    assert run_tool(tmp_path, *both).returncode == 0
    for number, server in enumerate(given):
        assert run_tool(tmp_path, "--server", server, "--out", f"{number}.json").returncode == 0
    assert run_tool(tmp_path, "--merge", "0.json", "1.json", "--out", "m.json").returncode == 0
    assert json.loads((tmp_path / "m.json").read_text()) == json.loads(
        (tmp_path / "both.json").read_text()
    )
    servers = read_rank_table(tmp_path / "m.json")
    assert [(d.id, d.rank) for d in servers[1].devices] == [(0, 2), (1, 3)]
    assert "stands twice" in run_tool(tmp_path, "--merge", "0.json", "0.json").stderr


# ---- plans


def plan_of(arguments: str, **environment: str):
    environment = {"PATH": "/none", **environment}
    return make_plan(read_request(arguments.split(), environment), "/py")


def test_msrun_is_started_with_options_that_it_knows(tmp_path, monkeypatch):
    """The wheel's own parser reads our line."""
    from mindspore.parallel.cluster import run as msrun

    path = write(tmp_path, table(2, 8))
    line = f"deepspeech2 distribute_train Ascend 8 4 {path} --set a=1"
    plan = plan_of(line, NODE_RANK="1", MASTER_PORT="2222")
    (starter,) = plan.processes
    assert starter.command[:3] == ("/py", "-m", "mindspore.parallel.cluster.run")
    monkeypatch.setattr(sys, "argv", ["msrun", *starter.command[3:]])
    read = msrun.get_args()
    assert (read.worker_num, read.local_worker_num, read.node_rank) == (8, 4, 1)
    assert (read.master_addr, read.master_port, read.join) == ("10.0.0.1", 2222, True)
    assert read.log_dir == str(ROOT / "deepspeech2" / "log" / "node_1")
    assert read.task_script.endswith("launching/rank.py")
    assert read.task_script_args == (
        "train.py --device_target Ascend --is_distributed true --set a=1".split()
    )
    assert starter.environment["ASCEND_RT_VISIBLE_DEVICES"] == "4,5,6,7"
    ranks = [rank.environment for rank in plan.ranks]
    assert [rank["RANK_ID"] for rank in ranks] == ["4", "5", "6", "7"]
    assert [rank["DEVICE_ID"] for rank in ranks] == ["0", "1", "2", "3"]  # of the visible ones


def test_start_rank_table_starts_each_rank_for_older_mindspore(tmp_path):
    path = write(tmp_path, table(1, 4))
    line = f"deepspeech2 distribute_train Ascend 4 0 {path} --start rank_table"
    plan = plan_of(line, NODE_RANK="0")
    assert [process.name for process in plan.processes] == list("0123")
    last = plan.processes[3].environment
    assert (last["RANK_ID"], last["DEVICE_ID"], last["RANK_SIZE"]) == ("3", "3", "4")
    assert last["RANK_TABLE_FILE"] == str(path)
    assert "ASCEND_RT_VISIBLE_DEVICES" not in last
    with pytest.raises(LaunchError, match="must hold no others|choose the table's ranks"):
        plan_of(line.replace("4 0", "2 2"), NODE_RANK="0")


def mpirun(folder: Path, version: str = "mpirun (Open MPI) 4.1.4") -> Path:
    """Says what it is, and starts one process as Open MPI does."""
    path = folder / "mpirun"
    folder.mkdir(exist_ok=True)
    path.write_text(
        f"#!/bin/sh\n[ $1 = --version ] && echo '{version}' && exit\n"
        "while [ $1 != -n ]; do shift; done\nshift 2\n"
        "for name in RANK LOCAL_RANK; do export OMPI_COMM_WORLD_$name=0; done\n"
        'export OMPI_COMM_WORLD_SIZE=1\nexec "$@"\n'
    )
    path.chmod(0o755)
    return path


def test_gpus_start_with_mpirun_where_it_is_installed(tmp_path):
    line = "deepspeech2 distribute_train GPU 2"
    assert plan_of(line).start == "msrun"
    mpirun(tmp_path)
    command = plan_of(line, PATH=str(tmp_path)).processes[0].command
    assert command[0] == "mpirun"
    assert command[command.index("-n") + 1] == "2"
    assert command[command.index("--bind-to") + 1] == "none"  # or two ranks have a core each
    assert plan_of(f"{line} --start msrun", PATH=str(tmp_path)).start == "msrun"
    hosts = f"deepspeech2 distribute_train GPU 8 0 {write(tmp_path, table(2, 4))}"
    assert plan_of(hosts, PATH=str(tmp_path), NODE_RANK="0").start == "msrun"
    ascend = plan_of("deepspeech2 distribute_train Ascend 2 2 --start mpirun", PATH=str(tmp_path))
    assert ascend.start == "mpirun" and ascend.cards == (2, 3)
    assert ascend.processes[0].environment["ASCEND_RT_VISIBLE_DEVICES"] == "2,3"
    with pytest.raises(LaunchError, match="--start mpirun is for one host, the table has 2"):
        plan_of(f"{hosts} --start mpirun", PATH=str(tmp_path), NODE_RANK="0")
    other = mpirun(tmp_path / "mpich", "HYDRA build details:\n    Version: 4.0.2")
    plan = plan_of(line, PATH=str(other.parent))
    assert plan.start == "msrun" and f"with msrun ({other} is not Open MPI's)" in plan.title
    with pytest.raises(LaunchError, match=f"--start mpirun: {other} is not Open MPI's"):
        plan_of(f"{line} --start mpirun", PATH=str(other.parent))
    with_begin = plan_of("deepspeech2 distribute_train GPU 2 4").processes[0].environment
    assert with_begin["CUDA_VISIBLE_DEVICES"] == "4,5"
    assert len(plan_of("deepspeech2 distribute_train GPU", CUDA_VISIBLE_DEVICES="1,5").ranks) == 2


def test_only_cards_that_the_environment_allows_are_used():
    """As the scheduler of a shared machine says it; BEGIN counts among them."""
    line, allowed = "deepspeech2 distribute_train Ascend 2 1", "ASCEND_RT_VISIBLE_DEVICES"
    assert plan_of(line).processes[0].environment[allowed] == "1,2"
    plan = plan_of(line, **{allowed: "4, 5,7"})
    assert plan.processes[0].environment[allowed] == "5,7" and "(cards 5, 7)" in plan.title
    assert [rank.environment["DEVICE_ID"] for rank in plan.ranks] == ["0", "1"]
    with pytest.raises(LaunchError, match=f"{allowed}=4,5: 2 cards, and BEGIN . RANK_SIZE is 3"):
        plan_of(line, **{allowed: "4,5"})
    with pytest.raises(LaunchError, match="expected numbers of cards"):
        plan_of(line, **{allowed: "all"})


def test_a_printed_command_keeps_the_callers_path_and_quotes_spaces():
    line = Process(("/bin/sh", "-c", "echo $PATH"), {"PATH": "/my clone:@PATH@"}).line()
    done = subprocess.run(["/bin/sh", "-c", line], env={"PATH": "/bin"}, stdout=subprocess.PIPE)
    assert done.stdout == b"/my clone:/bin\n"


@pytest.mark.parametrize("option", [None, "--pre_trained_model_path", "--pre_trained_model_path="])
def test_a_run_that_starts_once_more_finds_its_moved_checkpoint(tmp_path, option):
    given, moved = tmp_path / "m-best.ckpt", tmp_path / "earlier-2" / "m-best.ckpt"
    for folder in ("earlier-1", "earlier-2"):
        (tmp_path / folder).mkdir()
    (tmp_path / "earlier-1" / "m-best.ckpt").touch()  # another run's
    given.touch()
    words = [str(given)]
    if option is not None:
        words = f"--set a=1 {option} {given}".replace("= ", "=").split()
    line = ["deepspeech2", "train", "CPU", *words]
    request = read_request(line, {"PATH": "/none"})

    def begins_with(request) -> str:
        command = " ".join(make_plan(request, "/py").processes[0].command)
        return re.search(r"--pre_trained_model_path[ =](\S+)", command)[1]

    anew = followed(request, ROOT / "deepspeech2")
    assert begins_with(anew()) == str(given)
    given.rename(moved)
    assert begins_with(anew()) == str(moved)
    given.touch()  # the best of the new run, before it was killed
    assert begins_with(anew()) == str(moved)
    assert "--pre_trained" not in " ".join(make_plan(resumed(anew()), "/py").processes[0].command)


@pytest.mark.parametrize(
    ("line", "environment", "complaint"),
    [
        ("deepspeech2 distribute_train Ascend", {}, "RANK_SIZE BEGIN"),
        ("deepspeech2 distribute_train Ascend 8 0 gone.json", {}, "gone.json: cannot be read"),
        ("deepspeech2 distribute_train Ascend 0 0", {}, "RANK_SIZE 0"),
        ("deepspeech2 distribute_train GPU", {}, "give their number"),
        ("deepspeech2 distribute_train CPU 2 gone.ckpt", {}, "checkpoint gone.ckpt not found"),
        ("deepspeech2 distribute_train CPU 2 --start mpirun", {}, "mpirun is for GPU and Ascend"),
        ("deepspeech2 distribute_train GPU 2 --start mpirun", {}, "there is no mpirun"),
        ("deepspeech2 distribute_train CPU 2 --start srun", {}, "--start srun: expected one of"),
        ("deepspeech2 distribute_train Ascend 2 0 --start rank_table", {}, "needs a table"),
        ("deepspeech2 distribute_train CPU 2", {"MASTER_PORT": "80"}, "MASTER_PORT=80"),
        ("deepspeech2 train Ascend", {"DEVICE_ID": "x"}, "DEVICE_ID=x: expected the number"),
        ("deepspeech2 train Ascend --start msrun", {}, "is for run_distribute_train"),
        ("jasper distribute_train GPU 2 --device_id=1", {}, "--device_id is for one process"),
        ("deepspeech2 train TPU", {}, "device TPU: unknown, expected"),
        ("deepspeech2 train CPU --restarts -1", {}, "--restarts -1: expected a number of restarts"),
        ("deepspeech2 train CPU", {"RESTARTS": "1.5"}, "RESTARTS=1.5: expected a number"),
        ("deepspeech2 train CPU", {"HANG_TIMEOUT": "long"}, "HANG_TIMEOUT=long: expected seconds"),
        ("deepspeech2 eval CPU --restarts 1", {}, "--restarts is for run_.*train"),
        (
            f"deepspeech2 train CPU {__file__}",
            {"RESUME": "1"},
            "RESUME=1 continues a run, and .*: give only one of them",
        ),
        ("deepspeech2 train CPU --log_dir", {}, "--log_dir needs a value"),
        ("scripts/x.sh train CPU", {}, "which model.*deepspeech2"),
        ("jasper/scripts/x.sh train CPU --model deepspeech2", {}, "is of jasper, not of --model"),
    ],
)
def test_wrong_command_lines_are_refused(monkeypatch, line, environment, complaint):
    monkeypatch.chdir(ROOT)
    with pytest.raises(LaunchError, match=complaint) as caught:
        plan_of(line, **environment)
    assert "\n" not in str(caught.value)


def test_resume_drops_the_initial_checkpoint(tmp_path):
    line = "deepspeech2 distribute_train CPU 2 --set a=1"
    assert plan_of(line, RESUME="1").ranks[0].command[-3:] == ("--resume", "--set", "a=1")
    assert plan_of(f"{line} --resume", RESUME="1").ranks[0].command.count("--resume") == 1
    assert "--resume" not in plan_of(line, RESUME="0").ranks[0].command
    assert "--resume" not in str(plan_of("deepspeech2 eval CPU --pretrain_ckpt x", RESUME="1"))
    begun = f"{line} --pre_trained_model_path=b.ckpt --pre_trained_model_path c.ckpt -x"
    going_on = make_plan(resumed(read_request(begun.split(), {})), "/py")
    assert going_on.ranks[0].command[-4:] == ("--resume", "--set", "a=1", "-x")
    request = read_request([*line.split(), "--hang_timeout=0"], {"RESTARTS": "3"})
    assert (request.restarts, request.patience, request.watched) == (3, 0, True)
    assert read_request(line.split(), {}).patience == 1800
    assert not read_request(["deepspeech2", "train", "CPU"], {}).watched


@pytest.mark.parametrize(
    ("entry", "argv"),
    [
        (cli.train, ["--pre_trained", "x"]),
        (cli.train, ["--res"]),
        (cli.doctor, ["--second", "0"]),
        (cli.create_mindrecord, ["--conf", "x"]),
        (cli.check_data, ["--pretrain", "x"]),
        (cli.evaluate, ["--pretrain", "x"]),
        (cli.transcribe, ["x", "--pretrain", "x"]),
        (cli.export, ["--pre_trained_model_path", "x", "--file_f", "x"]),
        (cli.preprocess, ["--mindir_path", "x", "--runner"]),
        (cli.postprocess, ["--mindir_path", "x", "--conf", "x"]),
    ],
)
def test_options_cannot_be_abbreviated(entry, argv, capsys):
    """`resumed` knows the whole ones, and --resume goes with no checkpoint to begin from."""
    with pytest.raises(SystemExit):
        entry(RECIPE, argv)
    short = next(word for word in reversed(argv) if word.startswith("--"))
    assert f"unrecognized arguments: {short}" in capsys.readouterr().err


# ---- processes, with a stand-in for msrun and for the job

# Does what the launcher relies on: the scheduler and the workers with their environment, started
# with PATH's `python`, each worker in a session of its own; it kills them all when one has failed,
# and then waits, as msrun does, for the scheduler.
MSRUN = """
import argparse, os, signal, subprocess, sys, time
p = argparse.ArgumentParser()
for name in "worker_num local_worker_num master_addr master_port node_rank log_dir join".split():
    p.add_argument("--" + name)
p.add_argument("--tail_worker_log"); p.add_argument("script")
p.add_argument("rest", nargs=argparse.REMAINDER)
a = p.parse_args()
if os.environ.get("STAND_IN_MSRUN"): sys.exit("port in use")
os.environ["MS_ROLE"] = "MS_SCHED"
sched = subprocess.Popen(["python", a.script, *a.rest])
workers = []
for i in range(int(a.local_worker_num)):
    os.environ |= {"MS_ROLE": "MS_WORKER", "MS_NODE_ID": str(i), "RANK_ID": str(i)}
    with open(f"{a.log_dir}/worker_{i}.log", "w") as log:
        workers.append(subprocess.Popen(["python", a.script, *a.rest], stdout=log,
            stderr=subprocess.STDOUT, start_new_session=True))
while True:
    codes = [w.poll() for w in workers]
    if any(codes):
        [os.killpg(w.pid, signal.SIGKILL) for w in workers if w.poll() is None]
        break
    if None not in codes: break
    time.sleep(0.2)
sched.wait()
sys.exit(1 if any(codes) else 0)
"""
# The job: rank 1 does what STAND_IN says; all wait in vain for a failed one, as in an all-reduce.
JOB = """
import os, signal, sys, time
rank = os.environ.get("RANK_ID", "1")
if os.environ.get("MS_ROLE") == "MS_SCHED": time.sleep(600)
print("rank", rank, "of", " ".join(sys.argv), flush=True)
what, me = os.environ.get("STAND_IN", ""), os.getpid()
if os.fork() == 0:  # a worker of its own, which an ended parent leaves behind, but for one case
    for _ in range(6000):
        time.sleep(0.1)
        if what == "deaf" and os.getppid() != me: break
    os._exit(0)
def end(number, _):
    time.sleep(0.3); print("saved by", rank, flush=True)
    sys.exit(128 + number)
signal.signal(signal.SIGTERM, end)
if what == "deaf": signal.signal(signal.SIGTERM, signal.SIG_IGN)
if rank == "1" and what == "fail":
    print("no such file: x"); sys.exit(int(os.environ.get("STAND_IN_CODE", 7)))
if rank == "1" and what == "killed": os.kill(os.getpid(), signal.SIGKILL)
if rank == "1" and what == "both killed": os.kill(os.getppid(), signal.SIGKILL); time.sleep(600)
if what in ("early", "hang", "again", "never", "gives up"):  # trains, and gives signs of it
    from pathlib import Path
    from common.training.heartbeat import Heartbeat
    last, heart = Path("checkpoint", "x-last.ckpt"), Heartbeat()
    heart.set_checkpoint(last)
    heart.collective_entered()
    heart.step_finished(1)
    if "--resume" in sys.argv:
        heart.finished()
        sys.exit(0)
    if rank == "1":
        if what == "early": sys.exit(0)
        if what == "hang": os.kill(me, signal.SIGSTOP)
        if what == "again":
            last.parent.mkdir()
            last.touch()
        if what != "gives up": os.kill(me, signal.SIGKILL)
    else: heart.collective_entered()
    while what == "gives up" and rank == "0":
        time.sleep(0.05)
        if os.path.exists("ready1") and os.path.exists("ready2"): sys.exit(70)
if what: open("ready" + rank, "w").close(); time.sleep(600)
"""


@pytest.fixture
def clone(tmp_path) -> Path:
    clone = tmp_path / "my clone"
    copy_launcher(clone)
    shutil.copytree(ROOT / "deepspeech2" / "scripts", clone / "deepspeech2" / "scripts")
    (clone / "deepspeech2" / "train.py").write_text(JOB)
    fake = clone / "fake" / "mindspore" / "parallel" / "cluster"
    fake.mkdir(parents=True)
    for package in (fake, fake.parent, fake.parent.parent):
        (package / "__init__.py").touch()  # or else the installed one goes first
    (fake / "run.py").write_text(MSRUN)
    return clone


MSRUN_LINE = ("run_distribute_train_cpu.sh", "3")
TABLE_LINE = ("run_distribute_train_ascend.sh", "3", "0", "hccl.json", "--start", "rank_table")


def launch(
    clone: Path,
    *line: str,
    output: int = subprocess.PIPE,
    preexec=None,
    shell: tuple[str, ...] = ("bash",),
    **environment: str,
) -> subprocess.Popen:
    content = table(1, 3)
    content["server_list"][0]["server_id"] = "127.0.0.1"
    write(clone, content)
    return subprocess.Popen(
        [*shell, clone / "deepspeech2" / "scripts" / line[0], *line[1:]],
        cwd=clone,
        env={
            **os.environ,
            "PYTHON": sys.executable,
            "PYTHONPATH": f"{clone / 'fake'}{os.pathsep}{ROOT}",
            "THIS_JOB": str(clone),
            "LAUNCH_GRACE": "300",  # time enough on the busiest machine
            "PREFLIGHT": "0",  # no cards here
            **environment,
        },
        stdout=output,
        stderr=output,
        text=True,
        preexec_fn=preexec,
    )


def left(clone: Path) -> list[str]:
    """Command lines of the processes that this job has started, and that run still."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if f"THIS_JOB={clone}".encode() in (folder / "environ").read_bytes().split(b"\0"):
                found.append((folder / "cmdline").read_text().replace("\0", " "))
        except OSError:
            continue
    return found


def wait_until(condition, seconds: float = 300.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def ready(clone: Path):
    return lambda: len([*(clone / "deepspeech2").glob("ready*")]) == 3


both_starts = pytest.mark.parametrize("line", [MSRUN_LINE, TABLE_LINE], ids=["msrun", "rank_table"])


@both_starts
def test_a_job_without_failures_ends_with_0(clone, line):
    job = launch(clone, *line, "--set", "epochs=2")
    out, err = job.communicate(timeout=300)
    assert (job.returncode, err) == (0, "")
    logs = clone / "deepspeech2" / "log"
    assert f"logs in {logs}" in out
    assert "rank 0 of train.py" in out and "--set epochs=2" in out
    assert "rank 1" not in out
    assert "rank 2 of train.py" in (logs / "worker_2.log").read_text()
    assert left(clone) == []


@pytest.mark.parametrize(
    ("line", "fault", "code"),
    [
        (MSRUN_LINE, "fail", 7),
        (MSRUN_LINE, "killed", 137),
        (MSRUN_LINE, "both killed", 137),
        (TABLE_LINE, "fail", 7),
        (TABLE_LINE, "both killed", 137),
    ],
)
def test_one_failed_rank_ends_the_others(clone, line, fault, code):
    job = launch(clone, *line, STAND_IN=fault)
    _, err = job.communicate(timeout=300)  # the others, and msrun's scheduler, would stay for 600
    assert job.returncode == code
    assert f"rank 1 ended with exit code {code}; the last lines of" in err
    if fault != "both killed":  # then nobody says which went first
        assert "rank 0 ended" not in err and "rank 2 ended" not in err
        assert "ending the others: 0, 2" in err
    if fault == "fail":
        assert "  no such file: x" in err.splitlines()
    assert left(clone) == []


def test_a_rank_that_exits_with_0_too_early_is_a_failure(clone):
    job = launch(clone, *MSRUN_LINE, STAND_IN="early")
    _, err = job.communicate(timeout=300)
    assert job.returncode == 70
    assert "rank 1 ended with exit code 0 before its work was done" in err
    assert "ending the others: 0, 2" in err
    assert left(clone) == []


@both_starts
def test_a_hanging_rank_is_named(clone, line):
    job = launch(clone, *line, "--hang_timeout", "1.5", STAND_IN="hang")
    _, err = job.communicate(timeout=300)
    assert (job.returncode, left(clone)) == (124, [])
    assert "hang: no sign of life for 1.5 s (--hang_timeout): the others wait for rank 1" in err
    assert "rank 1 last seen after step 1 (process " in err and ", stopped)" in err


def test_a_hang_before_the_first_step_is_detected(clone):
    """Without the half hour that is granted in any case."""
    code = (
        "import sys; from common.launching import launcher, watching\n"
        "watching._START_SECONDS = 0; sys.exit(launcher.main(sys.argv[1:]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "deepspeech2", "train", "CPU", "--hang_timeout", "0.3"],
        cwd=clone,
        env={**os.environ, "PYTHON": sys.executable, "STAND_IN": "wait", "THIS_JOB": str(clone)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert (done.returncode, left(clone)) == (124, [])
    assert (
        "hang: no sign of life for 1.2 s before the first step (--hang_timeout): the training "
        "hangs; not seen since it was started\n"
    ) in done.stderr


def test_a_rank_that_another_gave_up_waiting_for_is_named(clone):
    job = launch(clone, *MSRUN_LINE, STAND_IN="gives up")
    _, err = job.communicate(timeout=300)
    assert (job.returncode, left(clone)) == (70, [])
    assert "rank 0 ended with exit code 70" in err and "rank 2, last" not in err
    assert "it may have waited for rank 1, last seen after step 1 (process " in err


def test_a_killed_job_is_restarted_from_its_checkpoint(clone):
    (clone / "a.ckpt").touch()  # to begin from, once
    script, count = MSRUN_LINE
    job = launch(clone, script, count, "a.ckpt", "--restarts", "2", STAND_IN="again")
    out, err = job.communicate(timeout=300)
    assert job.returncode == 0, err
    logs, last = clone / "deepspeech2" / "log", clone / "deepspeech2" / "checkpoint" / "x-last.ckpt"
    assert f"restart 1 of 2, 1 left: rank 1 ended with exit code 137; from {last}\n" in err
    first, second = ((folder / "worker_1.log").read_text() for folder in (logs / "attempt_1", logs))
    assert f"--pre_trained_model_path {clone}/a.ckpt" in first and "--resume" not in first
    assert "--pre_trained_model_path" not in second and "--resume" in second
    assert out.count("rank 0 of train.py") == 2
    assert left(clone) == []


def test_a_restart_that_fails_while_starting_up_is_restarted(tmp_path, monkeypatch):
    last = tmp_path / "x-last.ckpt"
    last.touch()
    outcomes = iter(
        [
            supervise.Outcome(137, "rank 1 was killed", True, last),
            supervise.Outcome(70, "no card yet", True, None),  # before it could name a checkpoint
            supervise.Outcome(0),
        ]
    )
    monkeypatch.setattr(supervise, "_attempt", lambda *_: next(outcomes))
    monkeypatch.setattr(supervise, "_PAUSE", 0)
    for name in ("_make_room", "_keep_logs", "_answer"):
        monkeypatch.setattr(supervise, name, lambda *_: None)
    plan, asked = plan_of("deepspeech2 distribute_train CPU 2"), []
    assert supervise.run(plan, 0, 3, lambda resume: asked.append(resume) or plan) == 0
    assert asked == [True, True]


def test_a_signal_between_two_attempts_ends_the_job(monkeypatch):
    failed = supervise.Outcome(137, "rank 1 was killed", True, None)
    monkeypatch.setattr(supervise, "_attempt", lambda *_: failed)
    monkeypatch.setattr(supervise, "_PAUSE", 0)
    for name in ("_make_room", "_keep_logs", "_answer"):
        monkeypatch.setattr(supervise, name, lambda *_: None)

    def replan(_: bool):
        raise supervise.Stopped(signal.SIGINT)

    assert supervise.run(plan_of("deepspeech2 train CPU"), 0, 3, replan) == 130


def test_a_restart_waits_for_the_end_of_another_hosts_scheduler():
    with socket.create_server(("127.0.0.1", 0)) as scheduler:
        address = scheduler.getsockname()
        begun = time.monotonic()
        supervise._until_nobody_listens(address, 0.4)  # it does not end
        assert 0.4 <= time.monotonic() - begun < 30
        end = threading.Timer(0.4, scheduler.close)
        end.start()
        begun = time.monotonic()
        supervise._until_nobody_listens(address, 60)
        assert 0.4 <= time.monotonic() - begun < 30
    end.join()


def test_only_other_hosts_wait_for_the_first_ones_scheduler(tmp_path, monkeypatch):
    path = write(tmp_path, table(2, 4))
    failed, waited = supervise.Outcome(137, "rank 1 was killed", True, None), []
    monkeypatch.setattr(supervise, "_until_nobody_listens", waited.append)
    monkeypatch.setattr(supervise, "_PAUSE", 0)
    for name in ("_make_room", "_keep_logs", "_answer"):
        monkeypatch.setattr(supervise, name, lambda *_: None)
    for node, expected in (("0", []), ("1", [("10.0.0.1", 8118)])):
        plan = plan_of(f"deepspeech2 distribute_train Ascend 8 0 {path}", NODE_RANK=node)
        outcomes = iter([failed, supervise.Outcome(0)])
        monkeypatch.setattr(supervise, "_attempt", lambda *_, outcomes=outcomes: next(outcomes))
        assert supervise.run(plan, 0, 1, lambda _, plan=plan: plan) == 0
        assert waited == expected


def test_the_first_host_must_have_the_address_at_which_ranks_meet(clone):
    content = table(2, 1)
    content["server_list"][0]["server_id"] = "192.0.2.1"  # RFC 5737: nobody's
    (clone / "two.json").write_text(json.dumps(content))
    job = launch(clone, "run_distribute_train_ascend.sh", "2", "0", "two.json", NODE_RANK="0")
    out, err = job.communicate(timeout=300)
    assert (job.returncode, out) == (1, "")
    assert "the host of NODE_RANK=0 must have the address 192.0.2.1, where the ranks meet" in err
    assert len(err.splitlines()) == 1


def test_restarts_without_a_new_checkpoint_end(clone):
    job = launch(clone, *MSRUN_LINE, STAND_IN="never", RESTARTS="5")
    _, err = job.communicate(timeout=300)
    assert job.returncode == 137
    assert err.count("from the beginning, without a checkpoint yet") == 2
    assert "no further restart, 2 in a row brought no new checkpoint; rank 1 ended" in err
    assert left(clone) == []


def test_user_errors_are_not_restarted(clone):
    job = launch(clone, *MSRUN_LINE, "--restarts=3", STAND_IN="fail", STAND_IN_CODE="1")
    _, err = job.communicate(timeout=300)
    assert job.returncode == 1 and "rank 1 ended with exit code 1" in err
    assert "restart" not in err


def test_a_single_process_is_restarted(clone):
    line = "run_standalone_train_cpu.sh", "--restarts", "1"
    job = launch(clone, *line, STAND_IN="again")
    out, err = job.communicate(timeout=300)
    assert job.returncode == 0, err
    assert "restart 1 of 1, 0 left: the training ended with exit code 137; from " in err
    assert "rank 1 of train.py --device_target CPU --resume\n" in out
    assert left(clone) == []


@pytest.mark.parametrize(
    ("line", "name", "code"), [(MSRUN_LINE, "INT", 130), (TABLE_LINE, "TERM", 143)]
)
def test_a_signal_lets_every_rank_end_by_itself(clone, line, name, code):
    job = launch(clone, *line, STAND_IN="wait")
    wait_until(ready(clone))
    job.send_signal(getattr(signal, f"SIG{name}"))
    out, err = job.communicate(timeout=300)
    assert job.returncode == code
    assert f"SIG{name}: ending 3 ranks" in err
    for rank in "012":
        log = clone / "deepspeech2" / "log" / f"worker_{rank}.log"
        assert f"saved by {rank}" in log.read_text()
    assert left(clone) == []


def test_a_single_process_gets_a_signal_whatever_rank_the_environment_names(clone):
    line = "run_standalone_train_cpu.sh", "--restarts", "1"
    job = launch(clone, *line, STAND_IN="wait", RANK_ID="3")
    wait_until(lambda: [*(clone / "deepspeech2").glob("ready*")])
    job.send_signal(signal.SIGINT)
    out, _ = job.communicate(timeout=300)
    assert (job.returncode, left(clone)) == (130, [])
    assert "saved by 3" in out


def test_ranks_can_save_after_the_terminal_is_closed(clone):
    """What is written to it fails, and the signal comes twice: from the kernel, from the shell."""
    ours, theirs = os.openpty()

    def control() -> None:
        os.setsid()
        fcntl.ioctl(theirs, termios.TIOCSCTTY, 0)

    # The exit code comes from a shell: in this process, a library may ask for it first, and Python
    # then takes it for 0.
    shell = ("bash", "-c", 'trap : HUP; bash "$@"; echo $? > code', "bash")
    job = launch(clone, *MSRUN_LINE, output=theirs, preexec=control, shell=shell, STAND_IN="wait")
    os.close(theirs)
    wait_until(ready(clone))
    os.close(ours)
    while job.poll() is None:
        os.killpg(job.pid, signal.SIGHUP)
        time.sleep(0.1)
    assert ((clone / "code").read_text(), left(clone)) == ("129\n", [])
    for rank in "012":
        log = clone / "deepspeech2" / "log" / f"worker_{rank}.log"
        assert f"saved by {rank}" in log.read_text()


def test_a_terminal_that_is_closed_is_one_request_however_often_it_is_told():
    requests = supervise._Requests()
    before = signal.getsignal(signal.SIGHUP)
    try:
        for _ in range(2):  # the second one while Python runs the handler of the first
            requests.receive(signal.SIGHUP, None)
    finally:
        signal.signal(signal.SIGHUP, before)
    assert requests.take() == [signal.SIGHUP]


def test_a_signal_in_a_destructor_is_not_lost():
    """Python drops what is raised there; the request counts at the next look for it."""
    requests = supervise._Requests()

    class Interrupted:
        def __del__(self) -> None:
            os.kill(os.getpid(), signal.SIGHUP)

    before = signal.signal(signal.SIGHUP, requests.receive)
    try:
        Interrupted()
        os.kill(os.getpid(), signal.SIGHUP)  # the shell's, after the kernel's
    finally:
        signal.signal(signal.SIGHUP, before)
    with pytest.raises(supervise.Stopped) as stopped:
        requests.check()
    assert stopped.value.args == (signal.SIGHUP,)
    requests.check()
    assert requests.take() == []


def test_a_job_under_nohup_ignores_sighup(clone):
    def nohup() -> None:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)

    job = launch(clone, *MSRUN_LINE, preexec=nohup, STAND_IN="wait")
    wait_until(ready(clone))
    job.send_signal(signal.SIGHUP)
    time.sleep(0.5)
    assert job.poll() is None
    job.send_signal(signal.SIGTERM)
    _, err = job.communicate(timeout=300)
    assert (job.returncode, left(clone)) == (143, [])
    assert "SIGTERM: ending 3 ranks" in err and "SIGHUP" not in err


def test_ranks_that_ignore_sigterm_are_killed(clone):
    job = launch(clone, *MSRUN_LINE, STAND_IN="deaf", LAUNCH_GRACE="0.5")
    wait_until(ready(clone))
    job.send_signal(signal.SIGINT)
    _, err = job.communicate(timeout=300)
    assert (job.returncode, left(clone)) == (130, [])
    assert "rank 0, 1, 2 did not exit within 0.5 s; killing it. LAUNCH_GRACE=SECONDS" in err


@both_starts
def test_a_killed_launcher_leaves_no_processes(clone, line):
    job = launch(clone, *line, STAND_IN="deaf")
    wait_until(ready(clone))
    job.kill()
    job.wait()
    wait_until(lambda: not left(clone))
    job.communicate()


def test_errors_of_msrun_are_printed(clone):
    job = launch(clone, *MSRUN_LINE, STAND_IN_MSRUN="1")
    _, err = job.communicate(timeout=300)
    assert job.returncode == 1
    assert "msrun ended with exit code 1; the last lines of" in err
    assert "  port in use" in err.splitlines()


def test_a_job_in_the_background_writes_its_output_to_a_file(clone):
    job = launch(clone, *MSRUN_LINE, "--background", STAND_IN="fail")
    assert job.wait(timeout=300) == 0
    out = job.stdout.readline() + job.stdout.readline()
    assert "in the background: process" in out
    log = clone / "deepspeech2" / "log" / "distribute_train.log"
    wait_until(lambda: not left(clone))
    assert "rank 1 ended with exit code 7" in log.read_text()
    job.communicate()


def test_output_redirected_to_the_log_of_rank_0_has_its_lines_once(clone):
    """Rank 0 appends to train.log itself, and what it prints is in worker_0.log."""
    log = clone / "deepspeech2" / "train.log"
    with log.open("wb") as output:  # as the shell opens it: without O_APPEND
        job = launch(clone, *MSRUN_LINE, output=output.fileno(), STAND_IN="fail")
        with log.open("a") as own:
            own.write("epoch 1\n")
        job.wait(timeout=300)
    assert job.returncode == 7
    text = log.read_text()
    assert text.count("epoch 1\n") == 1
    assert text.count("train on CPU, 3 ranks") == 1
    assert "rank 0 of train.py" not in text  # of worker_0.log
    assert "rank 1 ended with exit code 7" in text and "no such file: x" in text


def test_output_redirected_to_a_log_that_a_rank_writes_is_refused(clone):
    logs = clone / "deepspeech2" / "log"
    logs.mkdir()
    with (logs / "worker_0.log").open("wb") as output:
        job = launch(clone, *MSRUN_LINE, output=output.fileno())
        job.wait(timeout=300)
    assert (job.returncode, left(clone)) == (1, [])
    assert (
        "worker_0.log: the output of this command goes there" in (logs / "worker_0.log").read_text()
    )


def test_a_dry_run_of_mpirun_runs_as_printed(clone):
    mpirun(clone / "tools")
    (clone / "deepspeech2" / "train.py").write_text("import sys; print(*sys.argv)")
    path = f"{clone / 'tools'}{os.pathsep}{os.environ['PATH']}"
    job = launch(clone, "run_distribute_train_gpu.sh", "1", "-x", DRY_RUN="1", PATH=path)
    lines, _ = job.communicate(timeout=300)
    assert not (clone / "deepspeech2" / "log").exists()
    subprocess.run(["bash", "-c", lines], env={**os.environ, "PATH": path}, check=True)
    said = (clone / "deepspeech2" / "log" / "worker_0.log").read_text()
    assert said == "train.py --device_target GPU --is_distributed true -x\n"


# ---- two jobs, full disks


def test_a_second_job_cannot_use_the_log_folder_of_a_running_one(clone):
    first = launch(clone, *MSRUN_LINE, STAND_IN="wait")
    wait_until(ready(clone))
    for line in (MSRUN_LINE, ("run_standalone_train_cpu.sh", "--restarts", "1", "--background")):
        second = launch(clone, *line)
        out, err = second.communicate(timeout=300)
        assert (second.returncode, out) == (1, "")
        assert err.startswith(f"error: {clone}/deepspeech2/log: another job is running with its")
    assert "rank 1 of" in (clone / "deepspeech2" / "log" / "worker_1.log").read_text()
    elsewhere = launch(clone, *MSRUN_LINE, "--log_dir", "other")
    assert elsewhere.wait(timeout=300) == 0
    first.kill()  # -9: what it held is free
    first.wait()
    third = launch(clone, *MSRUN_LINE)
    assert third.wait(timeout=300) == 0
    for job in (first, elsewhere, third):
        job.communicate()


def test_a_single_process_locks_the_log_folder(clone):
    """The launcher becomes the training, which holds the folder on."""
    first = launch(clone, "run_standalone_train_cpu.sh", STAND_IN="deaf")
    wait_until(lambda: [*(clone / "deepspeech2").glob("ready*")])
    for line in (MSRUN_LINE, ("run_standalone_train_cpu.sh",)):
        second = launch(clone, *line)
        _, err = second.communicate(timeout=300)
        assert second.returncode == 1 and "another job is running" in err
    first.kill()
    first.communicate()
    assert not (clone / "deepspeech2" / "log").exists()  # nothing would be in it


def test_hosts_that_share_a_folder_have_separate_logs(tmp_path):
    path = write(tmp_path, table(2, 4))
    line = f"deepspeech2 distribute_train Ascend 8 0 {path}"
    plans = [plan_of(line, NODE_RANK=str(node)) for node in range(2)]
    assert [plan.logs.name for plan in plans] == ["node_0", "node_1"]
    held = [supervise.hold(replace(plan, logs=tmp_path / plan.logs.name)) for plan in plans]
    with pytest.raises(LaunchError, match="another job"):
        supervise.hold(replace(plans[0], logs=tmp_path / "node_0"))
    for descriptor in held:
        os.close(descriptor)
    os.close(supervise.hold(replace(plans[0], logs=tmp_path / "node_0")))


def test_notes_and_heartbeats_are_written_in_place(tmp_path):
    """They are written over what the launcher has made, and nothing ends for want of one."""
    make_notes(tmp_path, ["1"])
    paths = [tmp_path / "1", beat_of(tmp_path, "1"), tmp_path / "last"]
    before = [(path.stat().st_ino, path.stat().st_size) for path in paths]
    signs = Signs(tmp_path, ["1"])
    assert before[1][1] == SIZE and noted(paths[0]) == [] and signs.last() is None
    job = tmp_path / "job.py"
    job.write_text(
        "from pathlib import Path\nfrom common.training.heartbeat import Heartbeat\n"
        "heart = Heartbeat()\n"
        "heart.set_checkpoint(Path('/x-last.ckpt'))\nheart.finished()\nraise SystemExit(5)"
    )
    environment = {"RANK_ID": "1", "LAUNCH_STATUS": str(tmp_path), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, ROOT / "common" / "launching" / "rank.py", job]
    watcher = subprocess.Popen(command, env=environment)
    assert watcher.wait(timeout=300) == 5
    assert noted(paths[0]) == [watcher.pid, 5] and signs.last() == Path("/x-last.ckpt")
    assert [(path.stat().st_ino, path.stat().st_size) for path in paths] == before
    (tmp_path / "half").write_text(f"{watcher.pid} 13")  # of 137
    assert noted(tmp_path / "half") == []

    job.write_text("import os, shutil; shutil.rmtree(os.environ['STATUS']); raise SystemExit(6)")
    status = tmp_path / "status"
    status.mkdir()
    environment |= {"LAUNCH_STATUS": str(status), "STATUS": str(status)}
    done = subprocess.run(command, env=environment, stderr=subprocess.PIPE)
    assert (done.returncode, done.stderr) == (6, b"")


def test_a_launcher_on_a_full_disk_prints_one_line(tmp_path, monkeypatch):
    plan = replace(plan_of("deepspeech2 distribute_train CPU 2"), logs=tmp_path)
    (tmp_path / "msrun.log").mkdir()  # in the way: root may write anywhere
    with pytest.raises(LaunchError, match="msrun.log: cannot be written"):
        supervise._Job(plan, tmp_path, 0).start()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(supervise, "make_notes", full)
    said = "^the folder for temporary files cannot be written .No space left on device.: make room"
    with pytest.raises(LaunchError, match=said):
        supervise._attempt(plan, 0, 0)
    monkeypatch.setattr(supervise.tempfile, "mkdtemp", full)
    with pytest.raises(LaunchError, match=said):
        supervise._attempt(plan, 0, 0)


# ---- libraries


class Library:
    def __init__(self, version: int) -> None:
        self.version = version

    def cudaRuntimeGetVersion(self, found) -> int:  # noqa: N802
        found._obj.value = self.version
        return 0


@pytest.mark.parametrize(
    ("missing", "version", "complaint"),
    [
        ("libcuda.so.1", 11060, "NVIDIA's driver, is not found"),
        ("libcublas.so.11", 11060, "libcublas.so.11 not found.*CUDA 11.6, 11.7 or 11.8"),
        ("libcudnn.so.8", 11060, "needs cuDNN 8"),
        ("", 11020, "the CUDA library found is 11.2: MindSpore 2.10 needs"),
    ],
)
def test_missing_gpu_libraries_are_named_in_one_line(missing, version, complaint):
    (line,) = gpu.complaints(lambda name: None if name == missing else Library(version))
    assert re.search(complaint, line) and "\n" not in line


def test_the_right_gpu_libraries_pass():
    for version in (11060, 11070, 11080):
        assert gpu.complaints(lambda name, version=version: Library(version)) == []


# ---- the real thing

TINY = """
TrainingConfig: {epochs: 1}
DataConfig:
  train_manifest: few.jsonl
  val_manifest: ""
  test_manifest: ""
  mindrecord_format: mindrecord/few_{split}{}.md
  shards: 1
  workers: 1
  batch_size: 4
  SpectConfig: {sample_rate: 8000, features: logmel, bands: 20}
ModelConfig:
  {hidden_size: 16, hidden_layers: 1, norm: layer, conv_kernels: [[5, 5]], conv_strides: [[2, 2]]}
"""


def test_two_processes_train_together(tmp_path):
    """The script for Ascend cards, on two CPU processes that msrun starts: one batch plan between
    them, one set of weights from rank 0."""
    folder = tmp_path / "clone"
    copy_launcher(folder)
    model = folder / "deepspeech2"
    model.mkdir()
    # What is linked to finds the rest beside its own place, and writes into the current folder.
    for name in ("train.py", "create_mindrecord.py", "src", "labels.json"):
        (model / name).symlink_to(ROOT / "deepspeech2" / name)
    shutil.copytree(ROOT / "deepspeech2" / "scripts", model / "scripts")
    prompts = ROOT / "data" / "telephone_prompts"
    rows = [json.loads(line) for line in (prompts / "train.jsonl").read_text().splitlines()]
    rows = sorted(rows, key=lambda row: row["duration"])[40:48]
    lines = [json.dumps({**row, "audio": str(prompts / row["audio"])}) for row in rows]
    (model / "few.jsonl").write_text("\n".join(lines))
    (model / "tiny.yaml").write_text(TINY)
    environment = {**os.environ, "PYTHON": sys.executable, "DEVICE_TARGET": "CPU"}
    convert = [sys.executable, "create_mindrecord.py", "--config", "tiny.yaml"]
    subprocess.run(convert, cwd=model, check=True, capture_output=True)
    command = ["bash", "deepspeech2/scripts/run_distribute_train_ascend.sh", "2", "0"]
    done = subprocess.run(
        [*command, "--config", "tiny.yaml"],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode == 0, done.stderr + done.stdout
    assert "1 batch of 4 an epoch on each of 2 ranks" in done.stdout
    assert "trained 1 epoch, 1 step," in done.stdout
    assert (model / "checkpoint" / "DeepSpeech-last.ckpt").is_file()
    assert (model / "train_rank1.log").is_file()
