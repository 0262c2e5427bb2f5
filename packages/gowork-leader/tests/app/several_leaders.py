"""Several leaders in this process that share a log in memory, each with ports and a store of its own."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
from leader_serving import PATIENCE, ServedLeader
from memory_log import MemoryLog, MemoryPlace

from gowork.base.channels import open_channel
from gowork.leader import Addresses, Leader
from gowork.leader._replication import announcement
from gowork.leader.store.sqlite import SqliteStore
from gowork.proto.cluster.v1 import leader_pb2 as pb


class Several:
    """The leaders of one cluster."""

    def __init__(self, folder: Path, stack: AsyncExitStack) -> None:
        self.place = MemoryPlace()
        self.logs: dict[str, MemoryLog] = {}
        self._folder = folder
        self._stack = stack
        self._stops: dict[str, asyncio.Event] = {}
        self._running: dict[str, asyncio.Task[None]] = {}

    async def start(self, name: str) -> ServedLeader:
        """Starts a leader of this name, and does not wait until it leads or follows."""
        listen: dict[str, Any] = {f"{each}_listen": "127.0.0.1:0" for each in ("cluster", "scheduler", "http")}
        self.logs[name] = MemoryLog(self.place)
        leader = Leader(SqliteStore(self._folder / f"{name}.db"), log=self.logs[name], name=name, **listen)
        started: asyncio.Future[Addresses] = asyncio.get_running_loop().create_future()
        self._stops[name] = stopped = asyncio.Event()
        self._running[name] = asyncio.create_task(leader.run(started, stopped))
        self._stack.push_async_callback(self.stop, name)
        addresses = await asyncio.wait_for(started, PATIENCE)
        channel = await self._stack.enter_async_context(open_channel([addresses.scheduler]))
        return ServedLeader(addresses, channel, stopped)

    async def stop(self, name: str) -> None:
        """Stops a leader. Harmless when repeated."""
        self._stops[name].set()
        await self._running[name]

    @property
    def term(self) -> int:
        """The term that is led now; 0: none is."""
        leader, _ = self.place.leader()
        return 0 if leader is None else leader.term

    async def leads(self, after: int = 0) -> str:
        """Waits until a leader leads a term above this one, and returns its name."""
        async with asyncio.timeout(PATIENCE):
            while True:
                leader, _ = self.place.leader()
                if leader is not None and leader.term > after:
                    return announcement.decode(leader.announcement).name
                for running in self._running.values():
                    if running.done():
                        running.result()
                await self.place.change(asyncio.get_running_loop().time() + 0.05)

    async def listed(self, by: ServedLeader, *names: str) -> pb.LeadersResponse:
        """Asks a leader until it lists leaders of these names, in this order, of which the first leads."""
        async with asyncio.timeout(PATIENCE):
            while True:
                try:
                    response: pb.LeadersResponse = await by.cluster.Leaders(pb.LeadersRequest(), timeout=PATIENCE)
                except grpc.aio.AioRpcError as error:
                    # It has no store yet.
                    if error.code() is not grpc.StatusCode.UNAVAILABLE:
                        raise
                else:
                    if [each.name for each in response.leaders] == list(names) and response.leaders[0].leads:
                        return response


@asynccontextmanager
async def several(folder: Path) -> AsyncIterator[Several]:
    """A cluster without leaders yet. All are stopped at the end."""
    async with AsyncExitStack() as stack:
        yield Several(folder, stack)
