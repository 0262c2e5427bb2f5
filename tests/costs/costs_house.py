"""A whole cluster in one process: a client, a leader with its store, and workers whose handlers run here.

All of it is what ships, from the client's methods to the store's file, except the wire (costs_wire) and the loop
(costs_loop). Tasks are scheduled in batches of one size, each batch after the one before has ended.
"""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

from costs_counting import Counted
from costs_loop import CountedLoop

from gowork.client import AsyncClient
from gowork.leader import Addresses, Leader, open_store
from gowork.worker import Worker, handler

#: The tasks of a batch; the batches that run first, so that threads and credit are there; the batches that are counted.
BATCH_TASKS, BATCHES_BEFORE, BATCHES = 100, 4, 10
_ANY_PORT = "127.0.0.1:0"


@dataclass(frozen=True)
class Scenario:
    """Which handler runs, on how many workers."""

    handler: str
    workers: int
    #: The slots of each worker.
    slots: int

    @property
    def name(self) -> str:
        return f"{self.handler}, {self.workers} worker{'s' if self.workers > 1 else ''}"


SCENARIOS = [
    Scenario("thread", workers=1, slots=16),
    Scenario("async", workers=1, slots=16),
    Scenario("thread", workers=50, slots=2),
    Scenario("async", workers=50, slots=2),
]


def count(scenario: Scenario, folder: Path) -> Counted:
    """Runs 1,000 tasks, after some that are not counted, and returns what they cost.

    Args:
        scenario: what runs.
        folder: the store's folder.
    """
    counted = Counted()
    loop = CountedLoop(counted.at_rest)
    # The engine, the client and the worker's lease read this clock too.
    with counted.watching(), mock.patch("time.monotonic", loop.time):
        with asyncio.Runner(loop_factory=lambda: loop) as runner:
            runner.run(_run(scenario, counted, folder))
    return counted


async def _run(scenario: Scenario, counted: Counted, folder: Path) -> None:
    store = open_store(f"sqlite:///{folder / 'gowork.db'}")
    leader = Leader(store, cluster_listen=_ANY_PORT, scheduler_listen=_ANY_PORT, http_listen=_ANY_PORT)
    started: asyncio.Future[Addresses] = asyncio.get_running_loop().create_future()
    stopped = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        group.create_task(leader.run(started, stopped))
        addresses = await started
        async with AsyncExitStack() as stack:
            client = await stack.enter_async_context(AsyncClient(addresses.scheduler))
            for number in range(scenario.workers):
                worker = _worker(scenario, number, addresses.cluster)
                await stack.enter_async_context(worker)
                await worker.welcomed()
            for _ in range(BATCHES_BEFORE):
                await _batch(client, scenario.handler)
            with counted.counting():
                for _ in range(BATCHES):
                    await _batch(client, scenario.handler)
        stopped.set()


def _worker(scenario: Scenario, number: int, leader: str) -> Worker:
    handlers = [_in_a_thread, _on_the_loop]
    name = f"worker-{number:02}"
    return Worker(leader, handlers=handlers, name=name, slots=scenario.slots, runners=0, plugins=())


async def _batch(client: AsyncClient, handler: str) -> None:
    payloads = [f"payload {number:02}" for number in range(BATCH_TASKS)]
    handles = [handle async for handle in client.schedule_many(payloads, handler=handler)]
    ended = [await handle.result() async for handle in client.as_completed(handles)]
    assert sorted(ended) == payloads


@handler("thread")
def _in_a_thread(payload: str) -> str:
    return payload


@handler("async")
async def _on_the_loop(payload: str) -> str:
    return payload
