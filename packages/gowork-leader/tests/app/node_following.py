"""Nodes that lead and nodes that follow, in this process, and a client of each."""

from __future__ import annotations

import asyncio
import urllib.error
import urllib.request
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Literal

from grpc_health.v1 import health_pb2, health_pb2_grpc
from leader_serving import PATIENCE, ServedLeader

from gowork.base.channels import open_channel
from gowork.leader import Addresses, Settings
from gowork.leader._app.equipment import Equipment
from gowork.leader._app.node import Node
from gowork.leader._app.term import Term
from gowork.leader._engine.counts import Counts
from gowork.leader._engine.retention import Kept
from gowork.leader.store.sqlite import SqliteStore
from gowork.proto.scheduler.v1 import scheduler_pb2 as pb


class Follower(ServedLeader):
    """A node that may follow and lead, seen through one of its ports."""

    def __init__(self, node: Node, counts: Counts, addresses: Addresses, channel: Any, stopped: asyncio.Event) -> None:
        super().__init__(addresses, channel, stopped)
        self.node = node
        self.counts = counts
        self.health = health_pb2_grpc.HealthStub(channel)

    @asynccontextmanager
    async def term(self, folder: Path) -> AsyncIterator[None]:
        """A term with its store in this folder, which leads here within."""
        term = Term(SqliteStore(folder / "leader.db"), Equipment(self.counts, Settings(), Kept()))
        leads, ended = asyncio.Event(), asyncio.Event()
        async with asyncio.TaskGroup() as group:
            group.create_task(self.node.lead(term, leads=leads.set, ended=[ended]))
            await leads.wait()
            try:
                yield
            finally:
                ended.set()

    async def page(self, path: str) -> tuple[int, str]:
        """The status and the text of a page."""
        return await asyncio.to_thread(self._page, path)

    def _page(self, path: str) -> tuple[int, str]:
        try:
            with urllib.request.urlopen(f"http://{self.addresses.http}{path}", timeout=PATIENCE) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()

    async def until_healthy(self, wanted: bool) -> None:
        """Waits until the health service says so."""
        status = health_pb2.HealthCheckResponse.SERVING if wanted else health_pb2.HealthCheckResponse.NOT_SERVING
        watch: Any = self.health.Watch(health_pb2.HealthCheckRequest(), timeout=PATIENCE)
        async for response in watch:
            if response.status == status:
                break
        watch.cancel()


@asynccontextmanager
async def node(port: str = "scheduler") -> AsyncIterator[Follower]:
    """A node on free ports that has been told of no leader yet, seen through this port."""
    listen: Any = {f"{name}_listen": "127.0.0.1:0" for name in ("cluster", "scheduler", "http")}
    counts = Counts()
    made = Node(counts, reflection=True, **listen)
    stopped = asyncio.Event()
    async with made.serving(stopped) as addresses, open_channel([getattr(addresses, port)]) as channel:
        yield Follower(made, counts, addresses, channel, stopped)


@asynccontextmanager
async def following(leader: Addresses | None, port: str = "scheduler") -> AsyncIterator[Follower]:
    """A node that forwards calls to this leader; None: it knows none."""
    async with node(port) as here:
        here.node.follow(leader)
        yield here


class Waiters(asyncio.Event):
    """Counts the calls that wait for a leader. Put it in the place of a node's own event."""

    def __init__(self, here: Follower) -> None:
        super().__init__()
        here.node._forwarding._news = self
        self._number = 0
        self._more = asyncio.Condition()

    async def wait(self) -> Literal[True]:
        async with self._more:
            self._number += 1
            self._more.notify_all()
        return await super().wait()

    async def until(self, number: int) -> None:
        """Waits until as many calls have begun to wait, from the first on."""
        async with asyncio.timeout(PATIENCE), self._more:
            await self._more.wait_for(lambda: self._number >= number)


def stats(here: ServedLeader, **options: Any) -> Any:
    """A small call, begun."""
    return here.scheduler.Stats(pb.StatsRequest(), timeout=options.pop("timeout", PATIENCE), **options)
