"""What has the log of a run: three members of etcd, or a PostgreSQL."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import urllib.error
import urllib.request
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path
from typing import Protocol

import grpc
from etcd_members import EtcdCluster, EtcdMember
from ha_network import Network
from postgresql_server import PostgresqlServer

from gowork.leader.log._etcd import etcd_pb2 as pb
from gowork.leader.log._etcd import etcd_pb2_grpc as rpc
from gowork.leader.log._etcd.requests import delete, put

#: Where entries are: below a prefix of etcd, or in a schema of PostgreSQL.
PREFIX = "chaos"
#: etcd's quota, in bytes. A run needs much less, and fills it in seconds when it is to.
_QUOTA_BYTES = 128 << 20
_FILLING = b"filling/"
_FILLED_BYTES = 1 << 20
#: How long a probe waits for its answer, in seconds.
_PROBE_SECONDS = 1.0
LOOK_SECONDS = 0.05


class Servers(Protocol):
    """What has the log."""

    @property
    def machines(self) -> list[str]:
        """The names of the machines that it runs on."""
        ...

    @property
    def url(self) -> str:
        """The URL of the log for those who are not cut off."""
        ...

    def url_for(self, leader: str) -> str:
        """Returns the URL of the log for a leader, whose way to it may be cut."""
        ...

    async def is_well(self) -> bool:
        """Whether all of it answers."""
        ...


class EtcdServers:
    """Three members of etcd."""

    def __init__(self, cluster: EtcdCluster, network: Network) -> None:
        self._cluster = cluster
        self._network = network

    @property
    def machines(self) -> list[str]:
        """See Servers."""
        return [member.name for member in self._cluster.members]

    @property
    def url(self) -> str:
        """See Servers."""
        return self._cluster.url(PREFIX)

    def url_for(self, leader: str) -> str:
        """See Servers."""
        paths = [self._network.path(leader, member.name, member.address) for member in self._cluster.members]
        return f"etcd://{','.join(paths)}/{PREFIX}"

    async def is_well(self) -> bool:
        """See Servers."""
        for member in self._cluster.members:
            if b"true" not in (await asyncio.to_thread(answer, f"http://{member.address}/health") or b""):
                return False
        return True

    async def member(self, chance: random.Random, *, leads: bool) -> EtcdMember:
        """Returns the member that leads etcd, or one of the others."""
        while True:
            found = []
            for member in self._cluster.members:
                metrics = await asyncio.to_thread(answer, f"http://{member.address}/metrics") or b""
                if (b"\netcd_server_is_leader 1" in metrics) is leads and metrics:
                    found.append(member)
            if found:
                return chance.choice(found)
            await asyncio.sleep(LOOK_SECONDS)

    async def fill(self) -> None:
        """Writes until etcd has no room."""
        async with grpc.aio.insecure_channel(self._cluster.members[0].address) as channel:
            for number in range(2 * _QUOTA_BYTES // _FILLED_BYTES):
                key = _FILLING + b"%d" % number
                try:
                    await rpc.KVStub(channel).Txn(pb.TxnRequest(success=[put(key, bytes(_FILLED_BYTES))]))
                except grpc.aio.AioRpcError as error:
                    if error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED:
                        return
                    raise
        raise AssertionError("etcd takes more than its quota")

    async def free(self) -> None:
        """Makes room again, as the runbook says."""
        async with grpc.aio.insecure_channel(self._cluster.members[0].address) as channel:
            request = pb.TxnRequest(success=[delete(_FILLING, _FILLING + b"\xff")])
            revision = (await rpc.KVStub(channel).Txn(request)).header.revision
            await rpc.KVStub(channel).Compact(pb.CompactionRequest(revision=revision, physical=True))
        await self._etcdctl("defrag")
        await self._etcdctl("alarm", "disarm")

    async def _etcdctl(self, *arguments: str) -> None:
        endpoints = ",".join(member.address for member in self._cluster.members)
        command = ["etcdctl", f"--endpoints={endpoints}", "--command-timeout=30s", *arguments]
        process = await asyncio.create_subprocess_exec(
            *command, env={"ETCDCTL_API": "3", "PATH": os.environ["PATH"]}, stdout=asyncio.subprocess.DEVNULL
        )
        assert await process.wait() == 0


class PostgresqlServers:
    """One PostgreSQL."""

    def __init__(self, server: PostgresqlServer, network: Network) -> None:
        self.server = server
        self._network = network

    @property
    def machines(self) -> list[str]:
        """See Servers."""
        return ["postgresql"]

    @property
    def url(self) -> str:
        """See Servers."""
        return self.server.url(PREFIX)

    def url_for(self, leader: str) -> str:
        """See Servers."""
        host = self._network.machine("postgresql").host
        address = f"{host}:5432" if self._network.loses_machines else str(self.server.socket_path)
        return self.server.url(PREFIX, self._network.path(leader, "postgresql", address))

    async def is_well(self) -> bool:
        """See Servers. `start` returns when it answers, and whoever stopped it has it go on."""
        return True

    def hold(self, number: signal.Signals) -> None:
        """Stops all of it, or has it go on."""
        self.server.stop(number)


@asynccontextmanager
async def running_servers(kind: str, folder: Path, network: Network) -> AsyncIterator[EtcdServers | PostgresqlServers]:
    """Yields what has the log, and ends it.

    Args:
        kind: "etcd" or "postgresql".
        folder: for data and logs.
        network: where it runs.
    """
    with ExitStack() as stack:
        if kind == "etcd":
            machines = {f"etcd{number}": network.machine(f"etcd{number}") for number in range(3)}
            quota = f"--quota-backend-bytes={_QUOTA_BYTES}"
            yield EtcdServers(stack.enter_context(EtcdCluster(folder, 3, quota, machines=machines)), network)
            return
        options = ("-c", "max_connections=60")
        machine = network.machine("postgresql")
        made = PostgresqlServer(*options, machine=machine) if network.loses_machines else PostgresqlServer(*options)
        yield PostgresqlServers(stack.enter_context(made), network)


def answer(url: str) -> bytes | None:
    """Returns what is answered; None without an answer, or with a bad one."""
    try:
        with urllib.request.urlopen(url, timeout=_PROBE_SECONDS) as answered:
            return bytes(answered.read())
    except (urllib.error.URLError, OSError):
        return None
