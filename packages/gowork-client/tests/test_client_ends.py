"""A client that was closed, or that belongs to another event loop, says so."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import pytest

from gowork.client import AsyncClient, CallError, Client, ClientClosed, WrongEventLoop
from gowork.client._async import client as async_client

CALLS: list[Callable[[Any], Any]] = [
    lambda client: client.schedule("p"),
    lambda client: client.get("id"),
    lambda client: client.wait(["id"]),
    lambda client: client.members(),
    lambda client: client.backup("/nowhere/at/all"),
]
ITERATED: list[Callable[[Any], Any]] = [
    lambda client: client.schedule_many(["p"]),
    lambda client: client.as_completed(["a", "b"]),
    lambda client: client.tasks(),
    lambda client: client.watch(),
]


@pytest.mark.parametrize("call", [*CALLS, *[lambda client, it=it: list(it(client)) for it in ITERATED]])
def test_a_client_that_was_closed_says_so(scripted, call: Callable[[Client], Any]) -> None:
    with Client(scripted.address) as client:
        client.schedule("p")
    with pytest.raises(ClientClosed, match="The client was closed; make a new one"):
        call(client)
    # As gRPC itself raised it.
    assert issubclass(ClientClosed, ValueError)


@pytest.mark.parametrize("used", [True, False])
@pytest.mark.parametrize("call", [*CALLS, *[lambda client, it=it: anext(aiter(it(client))) for it in ITERATED]])
async def test_an_asyncio_client_that_was_closed_says_so(scripted, call: Callable[[Any], Any], used: bool) -> None:
    async with AsyncClient(scripted.address) as client:
        if used:
            await client.schedule("p")
    with pytest.raises(ClientClosed, match="The client was closed; make a new one"):
        await call(client)


def closing_after(event: threading.Event, client: Client) -> threading.Thread:
    def close() -> None:
        event.wait()
        client.close()

    thread = threading.Thread(target=close)
    thread.start()
    return thread


def test_a_call_that_is_under_way_when_the_client_is_closed_says_so(scripted, held: threading.Event) -> None:
    under_way = threading.Event()

    def hold() -> None:
        under_way.set()
        held.wait()

    scripted.run_next("ScheduleTask", hold)
    client = Client(scripted.address, patience=0)
    closing = closing_after(under_way, client)
    with pytest.raises(ClientClosed):
        client.schedule("p")
    closing.join()


def test_a_wait_that_is_under_way_when_the_client_is_closed_says_so(scripted) -> None:
    scripted.finishes_at_once = False
    client = Client(scripted.address)
    handles = list(client.schedule_many(["p"] * 2))
    under_way = threading.Event()
    scripted.run_next("WaitTasks", under_way.set)
    closing = closing_after(under_way, client)
    with pytest.raises(ClientClosed):
        client.wait(handles)
    closing.join()


@pytest.mark.parametrize("calls", [1, 2])
async def test_an_asyncio_wait_that_is_under_way_when_the_client_is_closed_is_cancelled(
    scripted, monkeypatch: pytest.MonkeyPatch, calls: int
) -> None:
    monkeypatch.setattr(async_client, "IDS_MAX", 3 if calls == 1 else 2)
    scripted.finishes_at_once = False
    client = AsyncClient(scripted.address)
    handles = [handle async for handle in client.schedule_many(["p"] * 2 * calls)]
    loop, under_way = asyncio.get_running_loop(), asyncio.Semaphore(0)

    def begin() -> None:
        loop.call_soon_threadsafe(under_way.release)

    for _ in range(calls):
        scripted.run_next("WaitTasks", begin)
    waiting = asyncio.create_task(client.wait(handles))
    for _ in range(calls):
        await under_way.acquire()
    await client.close()
    await asyncio.wait([waiting], timeout=30)
    assert waiting.cancelled()


def test_an_asyncio_client_in_a_second_event_loop_says_so(scripted) -> None:
    client = AsyncClient(scripted.address)

    async def schedule() -> None:
        await client.schedule("p")

    async def watch() -> None:
        async with client.watch():
            pass

    asyncio.run(schedule())
    for call in (schedule, watch):
        with pytest.raises(WrongEventLoop, match="another event loop") as raised:
            asyncio.run(call())
        assert isinstance(raised.value, CallError)
        assert isinstance(raised.value, RuntimeError)


def test_an_asyncio_client_can_be_closed_when_its_loop_has_ended(scripted) -> None:
    client = AsyncClient(scripted.address)

    async def schedule() -> None:
        await client.schedule("p")

    asyncio.run(schedule())
    asyncio.run(client.close())
    with pytest.raises(ClientClosed):
        asyncio.run(schedule())


async def test_an_asyncio_client_is_not_closed_from_another_loop_while_its_own_runs(scripted) -> None:
    async with AsyncClient(scripted.address) as client:
        await client.schedule("p")
        with pytest.raises(WrongEventLoop):
            await asyncio.to_thread(asyncio.run, client.close())
        await client.schedule("p")
