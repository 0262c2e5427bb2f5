"""Three leaders that share a log, workers, and what has the log: real processes, on a network that can be cut.

The workers that can be cut off, and the way from each leader to the log, are paths of the network. Leaders and clients
reach leaders directly.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

from fault_cluster import COMMANDS, HERE, PATIENCE, Cluster
from ha_network import WORKERS, LinkedNetwork, Network
from ha_servers import LOOK_SECONDS, EtcdServers, PostgresqlServers, answer, running_servers
from own_ports import own_addresses

LEADERS = ("l1", "l2", "l3")
#: Workers that can be cut off from leaders, and one that can't be, and follows hints.
LINKED_WORKERS = ("w1", "w2")
DIRECT_WORKER = "w3"


class LeaderEnded(Exception):
    """A leader ended by itself, or otherwise than it was told to. The message ends with its log."""


class LeadersCluster(Cluster):
    """See the module. Processes are named `l1` to `l3`, `etcd0` to `etcd2`, and as workers are named."""

    def __init__(
        self, folder: Path, network: Network, servers: EtcdServers | PostgresqlServers, planted: str = ""
    ) -> None:
        """Args:
        folder: for data and logs.
        network: where processes run.
        servers: have the log, and run.
        planted: the name of a bug that each leader gets; see ha_planted.py. Empty: none.
        """
        super().__init__(folder, "chaos_handlers")
        self.network = network
        self.servers = servers
        self._planted = planted
        self.leaders: dict[str, subprocess.Popen[str]] = {}
        #: {leader: {"cluster", "scheduler", "http": HOST:PORT}}
        self._listens: dict[str, dict[str, str]] = {}

    def begin(self, name: str) -> None:
        """Starts a leader for the first time, and waits until it listens."""
        addresses = own_addresses(3, self.network.machine(name).host)
        self._listens[name] = dict(zip(("cluster", "scheduler", "http"), addresses, strict=True))
        self.start(name)
        self._first_line(self.leaders[name])

    def start(self, name: str) -> None:
        """Starts a leader, at the addresses that it had before, and does not wait for it."""
        command = [str(COMMANDS / "gowork-leader")]
        if self._planted:
            command = [sys.executable, str(HERE / "ha_planted.py"), self._planted]
        self.leaders[name] = self._start(
            *self.network.machine(name).command,
            *command,
            *("--name", name, "--data-dir", str(self._folder / name), "--log", self.servers.url_for(name)),
            *(f"--{port}-listen={address}" for port, address in self._listens[name].items()),
            # A namespace's addresses are other machines' to a leader.
            "--insecure",
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
    def etcd(self) -> EtcdServers:
        """The members of etcd that have the log."""
        assert isinstance(self.servers, EtcdServers)
        return self.servers

    @property
    def postgresql(self) -> PostgresqlServers:
        """The PostgreSQL that has the log."""
        assert isinstance(self.servers, PostgresqlServers)
        return self.servers

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
        paths = ",".join(self.network.path(WORKERS, name, self._listens[name]["cluster"]) for name in LEADERS)
        deaf = (*self.network.machine(WORKERS).command, sys.executable, str(HERE / "ha_worker.py"))
        for name in LINKED_WORKERS:
            self.start_worker(name, *options, leader=paths, program=deaf, ready=False)
        direct = ",".join(self._listens[name]["cluster"] for name in LEADERS)
        self.start_worker(DIRECT_WORKER, *options, leader=direct, ready=False)
        # All at once, because each takes a while.
        for name, worker in self.workers.items():
            self._first_line(worker)
            self.processes(name)

    async def well(self) -> None:
        """Returns when all leaders are ready, and the servers of the log answer.

        Raises:
            LeaderEnded: that can't be.
            TimeoutError: that did not happen within PATIENCE.
        """
        async with asyncio.timeout(PATIENCE):
            while not await self._is_well():
                ended = [name for name, process in self.leaders.items() if process.poll() is not None]
                if ended:
                    raise LeaderEnded(f"{', '.join(ended)} ended without being told to: {self.told(ended[0])}")
                # Probes are asked, because nobody tells.
                await asyncio.sleep(LOOK_SECONDS)

    def report(self) -> str:
        """What each leader answers to the question whether it is ready, and has logged last."""
        ready = {name: answer(f"http://{self._listens[name]['http']}/readyz") for name in LEADERS}
        return "\n".join(f"{name}: {said!r}; {self.told(name)}" for name, said in ready.items())

    async def _is_well(self) -> bool:
        for name in LEADERS:
            if b"false" in (
                await asyncio.to_thread(answer, f"http://{self._listens[name]['http']}/readyz") or b"false"
            ):
                return False
        return await self.servers.is_well()

    def stop(self) -> None:
        """Kills everything."""
        for name in list(self.leaders):
            self.kill(name)
        super().stop()


@contextlib.asynccontextmanager
async def running_leaders(
    folder: Path, kind: str = "etcd", network: Network | None = None, planted: str = ""
) -> AsyncIterator[LeadersCluster]:
    """Yields a cluster in which everything runs, and ends it all.

    Args:
        folder: for data and logs.
        kind: what has the log: "etcd" or "postgresql".
        network: where processes run; None: here, with links.
        planted: see LeadersCluster.
    """
    async with contextlib.AsyncExitStack() as stack:
        network = network or LinkedNetwork(stack.enter_context(contextlib.ExitStack()))
        servers = await stack.enter_async_context(running_servers(kind, folder, network))
        cluster = LeadersCluster(folder, network, servers, planted)
        stack.callback(cluster.stop)
        for name in LEADERS:
            await asyncio.to_thread(cluster.begin, name)
        await asyncio.to_thread(cluster.start_workers)
        await cluster.well()
        yield cluster
