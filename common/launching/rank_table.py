"""Rank tables (hccl.json): checked, and read as the description of a cluster.

The format is HCCL's, version 1.0, and 1.2 for super pods: a list of servers, each with its devices
and their ranks (hiascend.com, "Configuring Resource Information Through the Ranktable File").
"""

from __future__ import annotations

import ipaddress
import json
import socket
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.launching import Fault

VERSIONS = ("1.0", "1.2")


@dataclass(frozen=True)
class Device:
    id: int  # of the card on its server
    ip: str  # of its network port; "" where the table has none
    rank: int


@dataclass(frozen=True)
class Server:
    id: str  # its address as a rule, or a name
    devices: tuple[Device, ...]  # by rank


@dataclass(frozen=True)
class Place:
    """What this host is in a job."""

    size: int  # ranks of the whole job
    master: str  # address of the first host
    nodes: int
    node: int  # this host's number among them
    devices: tuple[Device, ...]  # to use here

    @property
    def first_rank(self) -> int:
        return self.node * len(self.devices)


def read_rank_table(path: str | Path) -> list[Server]:
    """The servers of a table, that of rank 0 first.

    Raises Fault for a file that cannot be read or is no finished, consistent table.
    """
    where = f"rank table {path}"
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise Fault(f"{where}: cannot be read ({error.strerror})", 2) from None
    except ValueError as error:
        raise Fault(f"{where}: not JSON ({error})", 2) from None
    if not isinstance(content, dict):
        raise Fault(f"{where}: expected an object with version, server_count, server_list", 2)
    version = str(content.get("version"))
    if version not in VERSIONS:
        found = f"version {version}" if "version" in content else "no version"
        raise Fault(f"{where}: {found}, expected one of {', '.join(VERSIONS)}", 2)
    status = content.get("status", "completed")
    if status != "completed":
        raise Fault(f"{where}: status {status!r}, expected 'completed': is it still written?", 2)
    servers = _list(content, "server_list", where)
    count = content.get("server_count", len(servers))
    if str(count) != str(len(servers)):
        raise Fault(f"{where}: server_count {count}, and server_list has {len(servers)}", 2)
    found = [_server(entry, f"{where}, server {i}") for i, entry in enumerate(servers, 1)]
    _refuse_repeats([server.id for server in found], f"{where}: server_id")
    devices = [device for server in found for device in server.devices]
    _refuse_repeats([device.ip for device in devices if device.ip], f"{where}: device_ip")
    ranks = Counter(device.rank for device in devices)
    if missing := [rank for rank in range(len(devices)) if rank not in ranks]:
        twice = [rank for rank, times in ranks.items() if times > 1]
        but = f"rank_id {twice[0]} stands twice" if twice else f"there is a {max(ranks)}"
        raise Fault(
            f"{where}: {len(devices)} devices need the ranks 0 to {len(devices) - 1} once each, "
            f"rank_id {missing[0]} is missing and {but}",
            2,
        )
    return sorted(found, key=lambda server: server.devices[0].rank)


def _server(entry: Any, where: str) -> Server:
    if not isinstance(entry, dict) or not str(entry.get("server_id") or "").strip():
        raise Fault(f"{where}: no server_id", 2)
    name = str(entry["server_id"]).strip()
    where = f"{where} ({name})"
    devices = [_device(one, where) for one in _list(entry, "device", where)]
    _refuse_repeats([device.id for device in devices], f"{where}: device_id")
    return Server(name, tuple(sorted(devices, key=lambda device: device.rank)))


def _device(entry: Any, where: str) -> Device:
    if not isinstance(entry, dict):
        raise Fault(f"{where}: device {entry!r}, expected device_id, device_ip, rank_id", 2)
    numbers = []
    for key in ("device_id", "rank_id"):
        text = str(entry.get(key, "missing")).strip()
        if not text.isdecimal():
            raise Fault(f"{where}: {key} is {text}, expected a number from 0 on", 2)
        numbers.append(int(text))
    address = str(entry.get("device_ip") or "").strip()
    try:
        if address:
            ipaddress.ip_address(address)
    except ValueError:
        raise Fault(f"{where}: device_ip {address} is no IP address", 2) from None
    return Device(numbers[0], address, numbers[1])


def _list(content: dict, key: str, where: str) -> list:
    found = content.get(key)
    if not isinstance(found, list) or not found:
        raise Fault(f"{where}: {key} is {'empty' if found == [] else 'missing'}", 2)
    return found


def _refuse_repeats(values: Sequence, what: str) -> None:
    twice = [value for value, times in Counter(values).items() if times > 1]
    if twice:
        raise Fault(f"{what} {twice[0]} stands twice", 2)


def place(
    servers: Sequence[Server],
    source: str,
    size: int,
    begin: int,
    node: int | None = None,
    here: Callable[[str], bool] | None = None,
) -> Place:
    """This host's part of a job of `size` ranks, in equal parts on all servers of the table.

    source: the table's path, for messages. begin: the lowest device_id to use on each server.
    node: which of the servers this host is; None: the one whose address `here` recognises.

    Raises Fault where the table has too few devices, or does not name this host.
    """
    here = here or is_local
    where = f"rank table {source}"
    nodes = len(servers)
    if size % nodes:
        raise Fault(f"{where}: {size} ranks cannot be shared equally by its {nodes} servers", 2)
    share = size // nodes
    chosen = []
    for server in servers:
        devices = sorted((d for d in server.devices if d.id >= begin), key=lambda d: d.id)
        if len(devices) < share:
            raise Fault(
                f"{where}: server {server.id} has {len(devices)} devices from {begin} on, and "
                f"{size} ranks on {nodes} server{'s' * (nodes > 1)} need {share} on each",
                2,
            )
        chosen.append(tuple(devices[:share]))
    names = ", ".join(server.id for server in servers)
    if node is None:
        found = [number for number, server in enumerate(servers) if here(server.id)]
        if len(found) != 1:
            what = "several of its servers are this host" if found else "it does not name this host"
            raise Fault(
                f"{where}: {what} (servers: {names}); start on one of them, or say which of them "
                f"this is with NODE_RANK=0{f' to {nodes - 1}' * (nodes > 1)}, as in a container "
                "that does not know its host's address",
                2,
            )
        node = found[0]
    elif node >= nodes:
        raise Fault(f"NODE_RANK={node}: {where} has {nodes} servers, counted from 0: {names}", 2)
    master = "127.0.0.1" if nodes == 1 else servers[0].id
    return Place(size, master, nodes, node, chosen[node])


def is_local(name: str) -> bool:
    """Whether an address or name is this host's: only one's own addresses can be bound to."""
    try:
        found = socket.getaddrinfo(name, 0, type=socket.SOCK_DGRAM)
    except OSError:
        return name == socket.gethostname()
    for family, kind, protocol, _, address in found:
        try:
            with socket.socket(family, kind, protocol) as probe:
                probe.bind(address)
            return True
        except OSError:
            continue
    return False
