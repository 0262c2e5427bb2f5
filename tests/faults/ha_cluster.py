"""Three members of etcd, three leaders that share a log in it, and workers: real processes, with links to be cut.

Each leader reaches etcd through links of its own, and all workers except one reach the leaders through links. A link is
a proxy of the tests, so that cuts need no rights. Leaders and clients reach leaders directly.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import AsyncIterator
from pathlib import Path

from etcd_members import EtcdCluster, EtcdMember
from fault_cluster import COMMANDS, HERE, PATIENCE, Cluster
from fault_link import Link

LEADERS = ("l1", "l2", "l3")
#: Workers that reach the leaders through links alone, and one that reaches them directly and follows hints.
LINKED_WORKERS = ("w1", "w2")
DIRECT_WORKER = "w3"
PREFIX = "chaos"
#: How long a probe waits for its answer, in seconds.
_PROBE_SECONDS = 1.0
_LOOK_SECONDS = 0.05


class LeaderEnded(Exception):
    """A leader ended by itself, or otherwise than it was told to. The message ends with its log."""


class LeadersCluster(Cluster):
    """See the module. Processes are named `l1` to `l3`, `etcd0` to `etcd2`, and as workers are named."""

    def __init__(self, folder: Path, links: contextlib.ExitStack, etcd: EtcdCluster, planted: str = "") -> None:
        """Args:
        folder: for data and logs.
        links: ends the links.
        etcd: runs.
        planted: the name of a bug that each leader gets; see ha_planted.py. Empty: none.
        """
        super().__init__(folder, "chaos_handlers")
        self.etcd = etcd
        self._planted = planted
        self.leaders: dict[str, subprocess.Popen[str]] = {}
        #: {leader: {"cluster", "scheduler", "http": HOST:PORT}}
        self._listens: dict[str, dict[str, str]] = {}
        #: {leader: its links to the members of etcd}
        self.to_etcd = {
            name: [links.enter_context(Link(member.address)) for member in etcd.members] for name in LEADERS
        }
        self._links = links
        #: {leader: the link by which workers reach it}
        self.from_workers: dict[str, Link] = {}

    def begin(self, name: str) -> None:
        """Starts a leader for the first time, and waits until it has its addresses."""
        self._listens[name] = dict.fromkeys(("cluster", "scheduler", "http"), "127.0.0.1:0")
        self.start(name)
        self._listens[name] = json.loads(self._first_line(self.leaders[name]))
        self.from_workers[name] = self._links.enter_context(Link(self._listens[name]["cluster"]))

    def start(self, name: str) -> None:
        """Starts a leader, at the addresses that it had before, and does not wait for it."""
        command = [str(COMMANDS / "gowork-leader")]
        if self._planted:
            command = [sys.executable, str(HERE / "ha_planted.py"), self._planted]
        members = ",".join(link.address for link in self.to_etcd[name])
        self.leaders[name] = self._start(
            *command,
            *("--name", name, "--data-dir", str(self._folder / name), "--log", f"etcd://{members}/{PREFIX}"),
            *(f"--{port}-listen={address}" for port, address in self._listens[name].items()),
            "--print-addresses",
            log_name=f"{name}.log",
        )

    def kill(self, name: str) -> int:
        """Kills a leader. Returns its former pid."""
        process = self.leaders.pop(name)
        process.kill()
        process.communicate()
        return process.pid

    def terminate(self, name: str) -> None:
        """Sends a leader SIGTERM, as an operator does.

        Raises:
            LeaderEnded: it ended with another code than 0.
        """
        process = self.leaders.pop(name)
        process.terminate()
        try:
            process.communicate(timeout=PATIENCE)
        finally:
            process.kill()
        if process.returncode:
            raise LeaderEnded(f"{name} ended with {process.returncode}: {self.told(name)}")

    def signal(self, name: str, number: signal.Signals) -> None:
        """Sends a signal to a leader."""
        self.leaders[name].send_signal(number)

    def told(self, name: str) -> str:
        """The last that a leader has logged."""
        return (self._folder / f"{name}.log").read_text()[-3000:]

    def store(self, name: str) -> Path:
        """Where a leader keeps its store."""
        return self._folder / name / "gowork.db"

    @property
    def url(self) -> str:
        """The URL of the log, past the links."""
        return self.etcd.url(PREFIX)

    def addresses(self, first: int) -> str:
        """Where clients find the leaders, in an order that begins with this one."""
        order = [*LEADERS[first % 3 :], *LEADERS[: first % 3]]
        return ",".join(map(self.address_of, order))

    def address_of(self, name: str) -> str:
        """Where clients find one leader."""
        return self._listens[name]["scheduler"]

    def start_workers(self) -> None:
        """Starts the workers, which know all leaders, and waits until they are welcomed."""
        options = ("--runners", "2", "--slots", "8")
        links = ",".join(link.address for link in self.from_workers.values())
        deaf = (sys.executable, str(HERE / "ha_worker.py"))
        for name in LINKED_WORKERS:
            self.start_worker(name, *options, leader=links, program=deaf, ready=False)
        direct = ",".join(self._listens[name]["cluster"] for name in LEADERS)
        self.start_worker(DIRECT_WORKER, *options, leader=direct, ready=False)
        # All at once, because each takes a while.
        for name, worker in self.workers.items():
            self._first_line(worker)
            self.processes(name)

    async def well(self) -> None:
        """Returns when all leaders are ready, and all members of etcd are healthy.

        Raises:
            LeaderEnded: that can't be.
            TimeoutError: that did not happen within PATIENCE.
        """
        async with asyncio.timeout(PATIENCE):
            probes = [f"http://{self._listens[name]['http']}/readyz" for name in LEADERS]
            for url in [*probes, *(f"http://{member.address}/health" for member in self.etcd.members)]:
                while b"false" in (await asyncio.to_thread(_answer, url) or b"false"):
                    ended = [name for name, process in self.leaders.items() if process.poll() is not None]
                    if ended:
                        raise LeaderEnded(f"{', '.join(ended)} ended without being told to: {self.told(ended[0])}")
                    # A probe is asked, because nobody tells.
                    await asyncio.sleep(_LOOK_SECONDS)

    async def member(self, chance: random.Random, *, leads: bool) -> EtcdMember:
        """Returns the member that leads etcd, or one of the others."""
        while True:
            found = []
            for member in self.etcd.members:
                metrics = await asyncio.to_thread(_answer, f"http://{member.address}/metrics") or b""
                if (b"\netcd_server_is_leader 1" in metrics) is leads and metrics:
                    found.append(member)
            if found:
                return chance.choice(found)
            await asyncio.sleep(_LOOK_SECONDS)

    def stop(self) -> None:
        """Kills everything."""
        for name in list(self.leaders):
            self.kill(name)
        super().stop()


def _answer(url: str) -> bytes | None:
    """Returns what is answered; None without an answer, or with a bad one."""
    try:
        with urllib.request.urlopen(url, timeout=_PROBE_SECONDS) as answer:
            return bytes(answer.read())
    except (urllib.error.URLError, OSError):
        return None


@contextlib.asynccontextmanager
async def running_leaders(folder: Path, planted: str = "") -> AsyncIterator[LeadersCluster]:
    """Yields a cluster in which everything runs, and ends it all."""
    with EtcdCluster(folder, len(LEADERS)) as etcd, contextlib.ExitStack() as links:
        cluster = LeadersCluster(folder, links, etcd, planted)
        try:
            for name in LEADERS:
                await asyncio.to_thread(cluster.begin, name)
            await asyncio.to_thread(cluster.start_workers)
            await cluster.well()
            yield cluster
        finally:
            cluster.stop()
