#!/usr/bin/env python
"""Make a rank table (hccl.json): of this host's Ascend cards, of given addresses, or of tables.

python scripts/rank_table.py                          this host: npu-smi, hccn_tool, hccn.conf
python scripts/rank_table.py --devices 4-7 --server_ip 10.0.0.1
python scripts/rank_table.py --server 10.0.0.1=192.168.1.1,192.168.2.1 --server 10.0.0.2=...
python scripts/rank_table.py --merge hccl_a.json hccl_b.json     several hosts, in this order
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from common.launching import Fault  # noqa: E402
from common.launching.rank_table import read_rank_table  # noqa: E402

CONF = "/etc/hccn.conf"  # where hccn_tool keeps the addresses of the cards' network ports
Cards = list[tuple[int, str]]  # device_id, device_ip


def addresses_in(conf: str) -> dict[int, str]:
    """device_id: address, of the lines address_0=192.168.1.100 in hccn.conf."""
    found = re.findall(r"^[ \t]*address_(\d+)[ \t]*=[ \t]*(\S+)", conf, re.MULTILINE)
    return {int(device): address for device, address in found}


def address_of(answer: str) -> str | None:
    """The address in the answer of `hccn_tool -i N -ip -g`, ipaddr:192.168.1.100."""
    found = re.search(r"^ipaddr:\s*(\S+)", answer, re.MULTILINE)
    return found and found[1]


def devices_in(mapping: str) -> list[int]:
    """The chips' logic ids in the answer of `npu-smi info -m`; its controllers have none."""
    return [int(logic) for logic in re.findall(r"^\s*\d+\s+\d+\s+(\d+)\s", mapping, re.MULTILINE)]


def device_list(text: str) -> list[int]:
    """0-3,6 or, as hccl_tools has it, [0,4)."""
    if span := re.fullmatch(r"\[(\d+),\s*(\d+)\)", text):
        return list(range(int(span[1]), int(span[2])))
    devices = []
    for part in text.split(","):
        span = re.fullmatch(r"(\d+)(?:-(\d+))?", part.strip())
        if span is None:
            raise Fault(f"--devices {text}: expected numbers and spans, such as 0-3,6")
        devices += range(int(span[1]), int(span[2] or span[1]) + 1)
    return devices


def make_table(servers: Sequence[tuple[str, Cards]]) -> dict:
    """Ranks are counted through the servers' cards, in order."""
    rank, listed = 0, []
    for address, cards in servers:
        devices = []
        for device, ip in cards:
            devices.append({"device_id": str(device), "device_ip": ip, "rank_id": str(rank)})
            rank += 1
        listed.append({"server_id": address, "device": devices, "host_nic_ip": "reserve"})
    return {
        "version": "1.0",
        "server_count": str(len(listed)),
        "server_list": listed,
        "status": "completed",
    }


def this_host(devices: list[int] | None, conf: str) -> Cards:
    """The cards of this host; their addresses from hccn_tool, else from hccn.conf."""
    if devices is None and (answer := _ask("npu-smi", "info", "-m")):
        devices = devices_in(answer)
    known: dict[int, str] = {}
    source = "hccn_tool"
    if shutil.which("hccn_tool") and devices:
        asked = {n: address_of(_ask("hccn_tool", "-i", str(n), "-ip", "-g")) for n in devices}
        known = {number: address for number, address in asked.items() if address}
    if not known:
        source = conf
        try:
            known = addresses_in(Path(conf).read_text(encoding="utf-8"))
        except OSError as error:
            raise Fault(
                f"{conf}: cannot be read ({error.strerror}), and hccn_tool gives no addresses: is "
                "this a host with Ascend cards? Otherwise give --server HOST=ADDRESS,ADDRESS"
            ) from None
    if devices is None:
        devices = sorted(known)
    for number in devices:
        if number not in known:
            raise Fault(
                f"device {number} has no address in {source}: set one with hccn_tool -i {number} "
                "-ip -s address A netmask M, or choose others with --devices"
            )
    if not devices:
        raise Fault(f"no cards: npu-smi lists none, and {conf} has no address_0=...")
    return [(number, known[number]) for number in devices]


def _ask(*command: str) -> str:
    """What a tool prints; nothing where it is not there."""
    if shutil.which(command[0]) is None:
        return ""
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout


def own_address() -> str:
    """The address that this host's default route starts from; nothing is sent."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # RFC 5737: nobody's
            return probe.getsockname()[0]
        except OSError:
            raise Fault("this host's address is not clear: give --server_ip") from None


def _given(text: str) -> tuple[str, Cards]:
    server, _, cards = text.partition("=")
    if not server or not cards:
        raise Fault(f"--server {text}: expected HOST=ADDRESS,ADDRESS,... one for each card")
    return server, list(enumerate(cards.split(",")))


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="rank_table.py", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument(
        "--devices",
        "--device_num",
        metavar="LIST",
        help="cards to use, such as 0-3,6 or [0,4) [all that npu-smi lists]",
    )
    parser.add_argument("--server_ip", help="this host's address [that of its default route]")
    parser.add_argument("--hccn_conf", default=CONF, metavar="FILE", help=f"[{CONF}]")
    parser.add_argument(
        "--server", action="append", metavar="HOST=IP,IP", help="a host and its cards' addresses"
    )
    parser.add_argument("--merge", nargs="+", metavar="TABLE", help="tables to join")
    parser.add_argument("--out", help="[hccl_8p_01234567_<server>.json in the current folder]")
    arguments = parser.parse_args(argv)
    try:
        if arguments.merge:
            found = [server for path in arguments.merge for server in read_rank_table(path)]
            servers = [(each.id, [(d.id, d.ip) for d in each.devices]) for each in found]
        elif arguments.server:
            servers = [_given(text) for text in arguments.server]
        else:
            devices = device_list(arguments.devices) if arguments.devices else None
            cards = this_host(devices, arguments.hccn_conf)
            servers = [(arguments.server_ip or own_address(), cards)]
        count = sum(len(cards) for _, cards in servers)
        numbers = "".join(str(device) for device, _ in servers[0][1])
        name = f"hccl_{count}p_{numbers}_{servers[0][0]}.json"
        path = Path(arguments.out or name)
        partial = path.with_name(f".{path.name}.partial")
        try:
            partial.write_text(json.dumps(make_table(servers), indent=4) + "\n", encoding="utf-8")
            read_rank_table(partial)  # nothing that a launcher would refuse
            partial.replace(path)
        except OSError as error:
            raise Fault(f"{path}: cannot be written ({error.strerror})") from None
        finally:
            partial.unlink(missing_ok=True)
    except Fault as fault:
        print(f"error: {fault}", file=sys.stderr)
        return 1
    print(f"{path}: {count} cards of {len(servers)} server{'s' * (len(servers) > 1)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
