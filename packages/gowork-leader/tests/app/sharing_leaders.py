"""Leaders in this process that share a log, each with ports and a store file of its own."""

from __future__ import annotations

import asyncio
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
from leader_serving import PATIENCE, ServedLeader
from memory_log import MemoryLog, MemoryPlace

from gowork.base.channels import open_channel
from gowork.leader import Addresses, Leader
from gowork.leader._replication.registers import Registration, registered
from gowork.leader.log import Log
from gowork.leader.store._sqlite_outline import outline
from gowork.leader.store.sqlite import SqliteStore

#: How long to wait before a question is asked again whose answer nothing announces, in seconds.
AGAIN_SECONDS = 0.02


class Sharing:
    """The leaders of one cluster.

    Args:
        folder: has their stores.
        make_log: makes the log of one of them.
    """

    def __init__(self, folder: Path, make_log: Callable[[], Log], stack: AsyncExitStack) -> None:
        self.place = MemoryPlace()
        self.logs: dict[str, Log] = {}
        self.running: dict[str, asyncio.Task[None]] = {}
        self._folder = folder
        self._make_log = make_log
        self._stack = stack
        self._stops: dict[str, asyncio.Event] = {}
        self._served: dict[str, ServedLeader] = {}

    def store_path(self, name: str) -> Path:
        return self._folder / f"{name}.db"

    def asides(self, name: str) -> list[Path]:
        """The stores that a leader has set aside."""
        return sorted(
            path for path in self._folder.glob(f"{name}.db.aside-*") if path.name[-4:] not in ("-wal", "-shm")
        )

    async def replaced(self, name: str) -> None:
        """Waits until a leader has set its store aside, and follows with a copy."""
        async with asyncio.timeout(PATIENCE):
            while not self.asides(name):  # noqa: ASYNC110 - nothing announces it
                await asyncio.sleep(AGAIN_SECONDS)
        await self.says(name, 200, "follows")

    async def start(
        self,
        name: str,
        make_store: Callable[[Path], SqliteStore] = SqliteStore,
        log: Log | None = None,
        **options: Any,
    ) -> ServedLeader:
        """Starts a leader, and does not wait until it leads or follows."""
        listen: dict[str, Any] = {f"{each}_listen": "127.0.0.1:0" for each in ("cluster", "scheduler", "http")}
        self.logs[name] = log or self._make_log()
        leader = Leader(make_store(self.store_path(name)), log=self.logs[name], name=name, **listen, **options)
        started: asyncio.Future[Addresses] = asyncio.get_running_loop().create_future()
        self._stops[name] = stopped = asyncio.Event()
        self.running[name] = asyncio.create_task(leader.run(started, stopped))
        self._stack.push_async_callback(self.stop, name)
        addresses = await asyncio.wait_for(started, PATIENCE)
        channel = await self._stack.enter_async_context(open_channel([addresses.scheduler]))
        self._served[name] = served = ServedLeader(addresses, channel, stopped)
        return served

    async def stop(self, name: str) -> None:
        """Stops a leader. Harmless when repeated."""
        self._stops[name].set()
        await asyncio.wait({self.running[name]})

    async def ready(self, name: str) -> tuple[int, str]:
        """What the probe of readiness says."""
        return await asyncio.to_thread(_page, f"http://{self._served[name].addresses.http}/readyz")

    async def says(self, name: str, status: int, words: str = "") -> str:
        """Waits until the probe of readiness says this, and returns all of it."""
        async with asyncio.timeout(PATIENCE):
            while True:
                found, text = await self.ready(name)
                if found == status and words in text:
                    return text
                await asyncio.sleep(AGAIN_SECONDS)

    async def registered(self, *names: str) -> dict[str, Registration]:
        """Waits until the stores of exactly these leaders are registered, and returns {name: registration}."""
        async with asyncio.timeout(PATIENCE):
            while True:
                found = await registered(next(iter(self.logs.values())))
                if sorted(each.leader.name for each in found.values()) == sorted(names):
                    return {each.leader.name: each for each in found.values()}
                await asyncio.sleep(AGAIN_SECONDS)

    async def forced(self, *names: str) -> None:
        """Waits until these leaders have forced all of the log to disk."""
        async with asyncio.timeout(PATIENCE):
            while True:
                last = (await next(iter(self.logs.values())).span()).last
                found = await self.registered(*names)
                if all(each.forced >= last for each in found.values()):
                    return
                await asyncio.sleep(AGAIN_SECONDS)

    async def applied(self, *names: str) -> None:
        """Waits until the stores of these leaders hold all that the log has now."""
        last = (await next(iter(self.logs.values())).span()).last
        async with asyncio.timeout(PATIENCE):
            for name in names:
                while (at := outline(self.store_path(name)).position) is None or at.index < last:  # noqa: ASYNC110
                    await asyncio.sleep(AGAIN_SECONDS)

    async def submitted(self, name: str, *ids: str, **fields: Any) -> None:
        """Submits tasks through a leader, until they are taken."""
        async with asyncio.timeout(PATIENCE):
            while True:
                try:
                    await self._served[name].submit(*ids, **fields)
                except grpc.aio.AioRpcError:
                    await asyncio.sleep(AGAIN_SECONDS)
                else:
                    return


@asynccontextmanager
async def sharing(folder: Path, make_log: Callable[[], Log] | None = None) -> AsyncIterator[Sharing]:
    """A cluster without leaders yet, on a log in memory unless another one is given. All are stopped at the end."""
    async with AsyncExitStack() as stack:
        made = Sharing(folder, make_log or (lambda: MemoryLog(made.place)), stack)
        yield made


def _page(url: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(url, timeout=PATIENCE) as answer:
            return answer.status, answer.read().decode().strip()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode().strip()
