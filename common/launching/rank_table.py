"""Rank tables (hccl.json): read, checked, and turned into this host's part of a job.

The format is HCCL's, version 1.0, and 1.2 for super pods: a list of servers, each with its devices
and their ranks (hiascend.com, "Configuring Resource Information Through the Ranktable File").
"""

from __future__ import annotations

import ipaddress
import socket
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.launching import LaunchError
from common.utils.json_parsing import parse_json
from common.utils.wording import counted

VERSIONS = ("1.0", "1.2")


@dataclass(frozen=True)
class Device:
    """A card of a rank table.

    Attributes:
        id: Number of the card on its server.
        ip: Address of its network port; "" where the table has none.
        rank: Number of its rank.
    """

    id: int
    ip: str
    rank: int


@dataclass(frozen=True)
class Server:
    """A host of a rank table.

    Attributes:
        id: Its address as a rule, or a name.
        devices: Its cards, by rank.
    """

    id: str
    devices: tuple[Device, ...]


@dataclass(frozen=True)
class Place:
    """This host's part of a job.

    Attributes:
        size: Ranks of the whole job.
        master: Address of the first host.
        nodes: Number of hosts.
        node: This host's number among them.
        devices: Cards to use here.
    """

    size: int
    master: str
    nodes: int
    node: int
    devices: tuple[Device, ...]

    @property
    def first_rank(self) -> int:
        """Number of this host's first rank."""
        return self.node * len(self.devices)


def read_rank_table(path: str | Path) -> list[Server]:
    """Read a rank table.

    Args:
        path: The JSON file.

    Returns:
        Its servers, that of rank 0 first.

    Raises:
        LaunchError: The file cannot be read, or is no complete and consistent table.
    """
    where = f"rank table {path}"
    try:
        content = parse_json(Path(path).read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise LaunchError(f"{where}: cannot be read ({error.strerror})", 2) from None
    except ValueError as error:
        raise LaunchError(f"{where}: not JSON ({error})", 2) from None
    if not isinstance(content, dict):
        raise LaunchError(f"{where}: expected an object with version, server_count, server_list", 2)
    version = str(content.get("version"))
    if version not in VERSIONS:
        stated = f"version {version}" if "version" in content else "no version"
        raise LaunchError(f"{where}: {stated}, expected one of {', '.join(VERSIONS)}", 2)
    status = content.get("status", "completed")
    if status != "completed":
        raise LaunchError(
            f"{where}: status {status!r}, expected 'completed': is it still written?", 2
        )
    entries = _list(content, "server_list", where)
    count = content.get("server_count", len(entries))
    if str(count) != str(len(entries)):
        raise LaunchError(f"{where}: server_count {count}, and server_list has {len(entries)}", 2)
    servers = [_server(entry, f"{where}, server {i}") for i, entry in enumerate(entries, 1)]
    _refuse_repeats([server.id for server in servers], f"{where}: server_id")
    devices = [device for server in servers for device in server.devices]
    _refuse_repeats([device.ip for device in devices if device.ip], f"{where}: device_ip")
    ranks = Counter(device.rank for device in devices)
    if missing := [rank for rank in range(len(devices)) if rank not in ranks]:
        twice = [rank for rank, times in ranks.items() if times > 1]
        but = f"rank_id {twice[0]} stands twice" if twice else f"there is a {max(ranks)}"
        raise LaunchError(
            f"{where}: {len(devices)} devices need the ranks 0 to {len(devices) - 1} once each, "
            f"rank_id {missing[0]} is missing and {but}",
            2,
        )
    return sorted(servers, key=lambda server: server.devices[0].rank)


def _server(entry: Any, where: str) -> Server:
    if not isinstance(entry, dict) or not str(entry.get("server_id") or "").strip():
        raise LaunchError(f"{where}: no server_id", 2)
    name = str(entry["server_id"]).strip()
    where = f"{where} ({name})"
    devices = [_device(one, where) for one in _list(entry, "device", where)]
    _refuse_repeats([device.id for device in devices], f"{where}: device_id")
    return Server(name, tuple(sorted(devices, key=lambda device: device.rank)))


def _device(entry: Any, where: str) -> Device:
    if not isinstance(entry, dict):
        raise LaunchError(f"{where}: device {entry!r}, expected device_id, device_ip, rank_id", 2)
    numbers = []
    for key in ("device_id", "rank_id"):
        text = str(entry.get(key, "missing")).strip()
        if not text.isdecimal() or len(text) > 9:
            raise LaunchError(f"{where}: {key} is {text}, expected a number from 0 on", 2)
        numbers.append(int(text))
    address = str(entry.get("device_ip") or "").strip()
    try:
        if address:
            ipaddress.ip_address(address)
    except ValueError:
        raise LaunchError(f"{where}: device_ip {address} is no IP address", 2) from None
    return Device(numbers[0], address, numbers[1])


def _list(content: dict, key: str, where: str) -> list:
    entries = content.get(key)
    if not isinstance(entries, list) or not entries:
        raise LaunchError(f"{where}: {key} is {'empty' if entries == [] else 'missing'}", 2)
    return entries


def _refuse_repeats(values: Sequence, what: str) -> None:
    twice = [value for value, times in Counter(values).items() if times > 1]
    if twice:
        raise LaunchError(f"{what} {twice[0]} stands twice", 2)


def place(
    servers: Sequence[Server],
    source: str,
    size: int,
    begin: int,
    node: int | None = None,
    here: Callable[[str], bool] | None = None,
) -> Place:
    """Determine this host's part of a job with equally many ranks on each server.

    Args:
        servers: The servers of the table.
        source: The table's path, for messages.
        size: Number of ranks of the job.
        begin: The lowest device_id to use on each server.
        node: Which of the servers this host is; None: the one whose address `here` recognises.
        here: Whether an address is this host's; None: `is_local`.

    Returns:
        This host's part.

    Raises:
        LaunchError: The table has too few devices, or does not name this host.
    """
    here = here or is_local
    where = f"rank table {source}"
    nodes = len(servers)
    if size % nodes:
        raise LaunchError(
            f"{where}: {size} ranks cannot be shared equally by its {nodes} servers", 2
        )
    share = size // nodes
    chosen = []
    for server in servers:
        devices = sorted((d for d in server.devices if d.id >= begin), key=lambda d: d.id)
        if len(devices) < share:
            raise LaunchError(
                f"{where}: server {server.id} has {len(devices)} devices from {begin} on, and "
                f"{size} ranks on {counted(nodes, 'server')} need {share} on each",
                2,
            )
        chosen.append(tuple(devices[:share]))
    names = ", ".join(server.id for server in servers)
    if node is None:
        local = [number for number, server in enumerate(servers) if here(server.id)]
        if len(local) != 1:
            what = "several of its servers are this host" if local else "it does not name this host"
            raise LaunchError(
                f"{where}: {what} (servers: {names}); start on one of them, or say which of them "
                f"this is with NODE_RANK=0{f' to {nodes - 1}' * (nodes > 1)}, as in a container "
                "that does not know its host's address",
                2,
            )
        node = local[0]
    elif node >= nodes:
        raise LaunchError(
            f"NODE_RANK={node}: {where} has {nodes} servers, counted from 0: {names}", 2
        )
    master = "127.0.0.1" if nodes == 1 else servers[0].id
    return Place(size, master, nodes, node, chosen[node])


def is_local(name: str) -> bool:
    """Tell whether an address or name is this host's, by trying to bind a socket to it.

    Args:
        name: An IP address or a host name.

    Returns:
        Whether it is this host's.
    """
    try:
        addresses = socket.getaddrinfo(name, 0, type=socket.SOCK_DGRAM)
    except OSError:
        return name == socket.gethostname()
    for family, kind, protocol, _, address in addresses:
        try:
            with socket.socket(family, kind, protocol) as probe:
                probe.bind(address)
            return True
        except OSError:
            continue
    return False
