"""Starts several leaders that share a log in etcd. It needs `etcd` on PATH."""

from __future__ import annotations

import contextlib
import shutil
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path

import psutil
from processes import HERE, Processes, StartError, cpu_seconds, metric

sys.path.append(str(HERE.parent / "packages/gowork-leader/tests/log"))
from etcd_members import EtcdCluster

NAMES = ("l1", "l2", "l3")
#: How long leaders may take until they are ready, in seconds. Copies of large stores take a while.
_READY_SECONDS = 1200.0
_LOOK_SECONDS = 0.05

#: {"cluster", "scheduler" or "http": "HOST:PORT"}
Addresses = Mapping[str, str]
_ANY = dict.fromkeys(("cluster", "scheduler", "http"), "127.0.0.1:0")


@contextlib.contextmanager
def etcd_running(folder: Path) -> Iterator[EtcdCluster]:
    """Yields three members of etcd, with their data below this folder.

    Raises:
        StartError: there is no etcd.
    """
    if shutil.which("etcd") is None:
        raise StartError("several leaders need etcd: put it on PATH (Debian has it as etcd-server)")
    with EtcdCluster(folder, 3) as etcd:
        yield etcd


class Leaders:
    """Leaders with one log, which are started one by one.

    Args:
        processes: starts them.
        url: the log.
    """

    def __init__(self, processes: Processes, url: str) -> None:
        self._of = processes
        self.url = url
        #: {name: its addresses}
        self.addresses: dict[str, Addresses] = {}

    def start(self, name: str) -> None:
        """Starts a leader, at the addresses that it had before. It may not be ready yet."""
        listens = self.addresses.get(name, _ANY)
        self.addresses[name] = self._of.start(
            name, "-m", "gowork.leader", "--name", name, "--data-dir", str(self._of.folder / name), "--log", self.url,
            *(part for port, address in listens.items() for part in (f"--{port}-listen", address)), "--print-addresses",
        )  # fmt: skip

    def wait_ready(self) -> None:
        """Returns when all are ready, and have applied what the log has by then.

        Raises:
            StartError: they were not in time.
        """
        until = time.monotonic() + _READY_SECONDS
        for name, addresses in self.addresses.items():
            while not _is_ready(addresses["http"]):
                if time.monotonic() > until:
                    raise StartError(f"{name} was not ready within {_READY_SECONDS:.0f} s")
                time.sleep(_LOOK_SECONDS)

    def wait_applied(self, index: float) -> None:
        """Returns when all have applied the entry with this index."""
        for addresses in self.addresses.values():
            while metric(addresses["http"], "gowork_log_applied_index") < index:
                time.sleep(_LOOK_SECONDS)

    def all(self, port: str) -> str:
        """Returns all addresses of one kind, as clients and workers take them."""
        return ",".join(addresses[port] for addresses in self.addresses.values())

    def cpu_seconds(self) -> dict[str, float]:
        """The processor time that each leader has used so far, in seconds."""
        return {name: cpu_seconds(psutil.Process(self._of.pid(name))) for name in self.addresses}


def etcd_cpu_seconds(etcd: EtcdCluster) -> float:
    """The processor time that all members together have used so far, in seconds."""
    processes = [member.process for member in etcd.members if member.process is not None]
    return sum(cpu_seconds(psutil.Process(process.pid)) for process in processes)


def _is_ready(http: str) -> bool:
    try:
        with urllib.request.urlopen(f"http://{http}/readyz", timeout=10) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False
