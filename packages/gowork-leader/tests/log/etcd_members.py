"""Real etcd members on this machine, for tests."""

from __future__ import annotations

import shutil
import signal
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

from own_ports import own_ports

#: How long a member may take to answer, in seconds.
START_SECONDS = 60.0


class Machine(NamedTuple):
    """Where a process runs."""

    #: Its IP address.
    host: str
    #: What a command that runs there begins with.
    command: tuple[str, ...] = ()


class EtcdMember:
    """One member. It keeps its ports and its data when it is killed and started again."""

    def __init__(
        self, name: str, folder: Path, address: str, peer: str, cluster: str, *more: str, program: Sequence[str]
    ) -> None:
        """Args:
        name: its name among the members.
        folder: for data and log.
        address, peer: where it serves clients, and the other members, as HOST:PORT.
        cluster: the names and URLs of all members.
        more: further options.
        program: what begins its command line.
        """
        self.name = name
        self.address = address
        self._folder = folder
        self._command = [
            *program,
            f"--name={name}",
            f"--data-dir={folder / name}",
            f"--listen-client-urls=http://{self.address}",
            f"--advertise-client-urls=http://{self.address}",
            f"--listen-peer-urls=http://{peer}",
            f"--initial-advertise-peer-urls=http://{peer}",
            f"--initial-cluster={cluster}",
            "--logger=zap",
            "--log-level=warn",
            # Tests need no time of grace.
            "--heartbeat-interval=100",
            "--election-timeout=1000",
            *more,
        ]
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Starts it, and does not wait for it."""
        with (self._folder / f"{self.name}.log").open("ab") as log:
            self.process = subprocess.Popen(self._command, stdout=log, stderr=log)

    def begin_anew(self) -> None:
        """Starts it with an empty disk. The other members must have been told that a new one comes."""
        shutil.rmtree(self._folder / self.name)
        self._command.append("--initial-cluster-state=existing")
        self.start()

    def signal(self, number: signal.Signals) -> None:
        """Sends a signal to it."""
        assert self.process is not None
        self.process.send_signal(number)

    def kill(self) -> None:
        """Ends it at once."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    def wait(self) -> None:
        """Waits until it answers, and has a leader."""
        until = time.monotonic() + START_SECONDS
        while True:
            try:
                with urllib.request.urlopen(f"http://{self.address}/health", timeout=2) as answer:
                    if b'"true"' in answer.read():
                        return
            except (urllib.error.URLError, OSError):
                pass
            if time.monotonic() > until:
                log = (self._folder / f"{self.name}.log").read_text()[-2000:]
                raise AssertionError(f"etcd {self.name} does not answer: {log}")
            time.sleep(0.05)


class EtcdCluster:
    """Several members with one content. Leave it to end them."""

    def __init__(
        self, folder: Path, members: int = 1, *more: str, machines: Mapping[str, Machine] = MappingProxyType({})
    ) -> None:
        """Args:
        folder: for data and logs.
        members: how many. They are named `etcd0` and so on.
        more: further options of etcd.
        machines: where members run: {name: machine}. Those that are not named run on this machine's loopback.
        """
        names = [f"etcd{number}" for number in range(members)]
        here = iter(own_ports(2 * members))
        places = {name: machines.get(name, Machine("127.0.0.1")) for name in names}
        clients = {name: f"{place.host}:{next(here)}" for name, place in places.items()}
        peers = {name: f"{place.host}:{next(here)}" for name, place in places.items()}
        cluster = ",".join(f"{name}=http://{peer}" for name, peer in peers.items())
        self._folder = folder
        self.members = [
            EtcdMember(name, folder, clients[name], peers[name], cluster, *more, program=(*place.command, "etcd"))
            for name, place in places.items()
        ]

    def __enter__(self) -> EtcdCluster:
        for member in self.members:
            member.start()
        try:
            for member in self.members:
                member.wait()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for member in self.members:
            member.kill()
        for member in self.members:
            shutil.rmtree(self._folder / member.name, ignore_errors=True)

    def url(self, prefix: str) -> str:
        """The URL of a log below a prefix."""
        return f"etcd://{','.join(member.address for member in self.members)}/{prefix}"
