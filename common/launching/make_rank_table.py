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
from contextlib import suppress
from pathlib import Path

from common.launching import LaunchError
from common.launching.rank_table import read_rank_table
from common.utils.wording import counted

CONF = "/etc/hccn.conf"  # where hccn_tool keeps the addresses of the cards' network ports
Cards = list[tuple[int, str]]  # device_id, device_ip


def addresses_in(conf: str) -> dict[int, str]:
    """Parse hccn.conf, whose lines are address_0=192.168.1.100.

    Args:
        conf: The content of the file.

    Returns:
        device_id -> address.
    """
    pairs = re.findall(r"^[ \t]*address_(\d{1,9})[ \t]*=[ \t]*(\S+)", conf, re.MULTILINE)
    return {int(device): address for device, address in pairs}


def address_of(answer: str) -> str | None:
    """Parse the output of `hccn_tool -i N -ip -g`, which holds ipaddr:192.168.1.100.

    Args:
        answer: The output.

    Returns:
        The address, None if there is none.
    """
    match = re.search(r"^ipaddr:\s*(\S+)", answer, re.MULTILINE)
    return match and match[1]


def devices_in(mapping: str) -> list[int]:
    """Parse the output of `npu-smi info -m`.

    Args:
        mapping: The output.

    Returns:
        The logic ids of the chips; controllers have none.
    """
    return [int(logic) for logic in re.findall(r"^\s*\d+\s+\d+\s+(\d+)\s", mapping, re.MULTILINE)]


def device_list(text: str) -> list[int]:
    """Parse a list of cards: "0-3,6", or "[0,4)" as in hccl_tools.

    Args:
        text: The list.

    Returns:
        The device ids.

    Raises:
        LaunchError: It is neither.
    """
    if span := re.fullmatch(r"\[(\d+),\s*(\d+)\)", text):
        return list(range(int(span[1]), int(span[2])))
    devices: list[int] = []
    for part in text.split(","):
        span = re.fullmatch(r"(\d+)(?:-(\d+))?", part.strip())
        if span is None:
            raise LaunchError(f"--devices {text}: expected numbers and spans, such as 0-3,6")
        devices += range(int(span[1]), int(span[2] or span[1]) + 1)
    return devices


def make_table(servers: Sequence[tuple[str, Cards]]) -> dict:
    """Make a rank table; ranks are numbered through the servers' cards in order.

    Args:
        servers: (address, cards) of each server.

    Returns:
        The content of hccl.json.
    """
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
    """List the cards of this host, with their addresses from hccn_tool, else from hccn.conf.

    Args:
        devices: The cards to use; None: all that npu-smi lists.
        conf: The path of hccn.conf.

    Returns:
        (device_id, address) of each card.

    Raises:
        LaunchError: There are no cards, or one has no address.
    """
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
            known = addresses_in(Path(conf).read_text(encoding="utf-8", errors="replace"))
        except OSError as error:
            raise LaunchError(
                f"{conf}: cannot be read ({error.strerror}), and hccn_tool gives no addresses: is "
                "this a host with Ascend cards? Otherwise give --server HOST=ADDRESS,ADDRESS"
            ) from None
    if devices is None:
        devices = sorted(known)
    for number in devices:
        if number not in known:
            raise LaunchError(
                f"device {number} has no address in {source}: set one with hccn_tool -i {number} "
                "-ip -s address A netmask M, or choose others with --devices"
            )
    if not devices:
        raise LaunchError(f"no cards: npu-smi lists none, and {conf} has no address_0=...")
    return [(number, known[number]) for number in devices]


def _ask(*command: str) -> str:
    """Return the output of a command; empty where it is not installed."""
    if shutil.which(command[0]) is None:
        return ""
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout


def own_address() -> str:
    """Find the address that this host's default route starts from; nothing is sent.

    Returns:
        The address.

    Raises:
        LaunchError: There is no default route.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # RFC 5737: reserved for documentation
            return probe.getsockname()[0]
        except OSError:
            raise LaunchError("this host's address is not clear: give --server_ip") from None


def _given(text: str) -> tuple[str, Cards]:
    server, _, cards = text.partition("=")
    if not server or not cards:
        raise LaunchError(f"--server {text}: expected HOST=ADDRESS,ADDRESS,... one for each card")
    return server, list(enumerate(cards.split(",")))


def _check(written: Path, name: str) -> None:
    """Make sure that a launcher accepts what was written; else LaunchError of `name`."""
    try:
        read_rank_table(written)
    except LaunchError as error:
        message = error.args[0].replace(f"rank table {written}", name)
        raise LaunchError(message, error.code) from None


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        argv: The command line; None: that of the process.

    Returns:
        The exit code.
    """
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
        origin = arguments.hccn_conf
        if arguments.merge:
            origin = ", ".join(arguments.merge)
            merged = [server for path in arguments.merge for server in read_rank_table(path)]
            servers = [(server.id, [(d.id, d.ip) for d in server.devices]) for server in merged]
        elif arguments.server:
            origin = " ".join(f"--server {text}" for text in arguments.server)
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
            _check(partial, f"{path} of {origin}")
            partial.replace(path)
        except (OSError, ValueError) as error:  # ValueError: a zero character in the name
            reason = getattr(error, "strerror", None) or error
            raise LaunchError(f"{path}: cannot be written ({reason})") from None
        finally:
            with suppress(OSError, ValueError):
                partial.unlink()
    except LaunchError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"{path}: {counted(count, 'card')} of {counted(len(servers), 'server')}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
