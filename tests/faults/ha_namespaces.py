"""Network namespaces: each leader, member of etcd and so on is a machine of its own, with a cable to one router.

They are gone with the program that `enter`s them, and nobody else sees them. That needs root, and Linux's `ip` and
`unshare`.

The router drops what is cut, so nobody gets an error. A machine that is lost has no link any more: its own connections
fail, and others hear nothing until their ARP gives up after 3 s, as in a real network.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from etcd_members import Machine
from ha_network import CLIENTS, WORKERS

#: Who has a machine. The place in this list decides on the address.
_NAMES = ("l1", "l2", "l3", "etcd0", "etcd1", "etcd2", "postgresql", WORKERS, CLIENTS)
_ROUTER = "router"
#: The environment variable that says how far `enter` has come.
_STAGE = "CHAOS_HA_STAGE"
_FOLDER = "/run/netns"


class Namespaces:
    """See Network."""

    loses_machines = True

    def machine(self, name: str) -> Machine:
        """See Network."""
        return Machine(_host(name), () if name == CLIENTS else ("ip", "netns", "exec", name))

    def path(self, source: str, target: str, address: str) -> str:
        """See Network. There are no detours."""
        return address

    def cut(self, source: str, target: str, *ways: str) -> None:
        """See Network."""
        for way in ways:
            _ip("-n", _ROUTER, "rule", "add", *_rule(source, target, way))

    def heal(self, source: str, target: str) -> None:
        """See Network."""
        for way in ("up", "down"):
            _ip("-n", _ROUTER, "rule", "del", *_rule(source, target, way), may_fail=True)

    def lose(self, name: str) -> None:
        """See Network."""
        _ip("-n", name, "link", "set", "eth0", "down")

    def find(self, name: str) -> None:
        """See Network."""
        _ip("-n", name, "link", "set", "eth0", "up")
        _ip("-n", name, "route", "add", "default", "via", _gateway(name))


def missing() -> str:
    """Returns why there can be no namespaces; empty when there can."""
    if not hasattr(os, "geteuid") or os.geteuid() != 0:
        return "they need root"
    gone = [name for name in ("ip", "unshare") if shutil.which(name) is None]
    return f"they need {' and '.join(gone)}" if gone else ""


def enter() -> None:
    """Has this program run on the machine of the clients. It begins anew there, with the same arguments."""
    stage, again = os.environ.get(_STAGE), [sys.executable, *sys.argv]
    if stage == "entered":
        return
    if stage is None:
        # In a namespace of mounts of its own, so that the names are gone with this process.
        _go_on("mounts", ["unshare", "--mount", *again])
    _make()
    _go_on("entered", ["ip", "netns", "exec", CLIENTS, *again])


def _go_on(stage: str, command: list[str]) -> None:
    os.execvpe(command[0], command, {**os.environ, _STAGE: stage})


def _make() -> None:
    Path(_FOLDER).mkdir(exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "none", _FOLDER], check=True)
    _ip("netns", "add", _ROUTER)
    _ip("netns", "exec", _ROUTER, "sysctl", "-q", "-w", "net.ipv4.ip_forward=1")
    for name in _NAMES:
        _ip("netns", "add", name)
        _ip("-n", _ROUTER, "link", "add", name, "type", "veth", "peer", "name", "eth0", "netns", name)
        _ip("-n", _ROUTER, "addr", "add", f"{_gateway(name)}/24", "dev", name)
        _ip("-n", _ROUTER, "link", "set", name, "up")
        _ip("-n", name, "addr", "add", f"{_host(name)}/24", "dev", "eth0")
        _ip("-n", name, "link", "set", "lo", "up")
        _ip("-n", name, "link", "set", "eth0", "up")
        _ip("-n", name, "route", "add", "default", "via", _gateway(name))


def _host(name: str) -> str:
    return f"10.77.{_NAMES.index(name) + 1}.2"


def _gateway(name: str) -> str:
    return f"10.77.{_NAMES.index(name) + 1}.1"


def _rule(source: str, target: str, way: str) -> tuple[str, ...]:
    """Returns the rule of the router that drops what goes this way."""
    sender, receiver = (source, target) if way == "up" else (target, source)
    return "from", _host(sender), "to", _host(receiver), "blackhole"


def _ip(*arguments: str, may_fail: bool = False) -> None:
    done = subprocess.run(["ip", *arguments], capture_output=True, text=True, check=False)
    if done.returncode and not may_fail:
        raise OSError(f"ip {' '.join(arguments)}: {done.stderr.strip()}")
