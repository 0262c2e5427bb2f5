"""Both clients at an address that neither answers nor refuses, as that of a leader whose process is stopped."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from gowork.client import AsyncClient, Client, LeaderUnreachable
from gowork.client import _channels as channels
from gowork.client import _lookouts as lookouts
from gowork.proto.scheduler.v1 import scheduler_pb2 as scheduler

#: A length of time after which a test fails, in seconds.
PATIENCE = 60.0


@pytest.fixture(autouse=True)
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Silence is noticed soon."""
    monkeypatch.setattr(channels, "SILENCE_SECONDS", 0.05)
    monkeypatch.setattr(channels, "LONG_SILENCE_SECONDS", 0.05)
    monkeypatch.setattr(lookouts, "LOOK_SECONDS", 0.02)
    monkeypatch.setattr(lookouts, "PING_SECONDS", 0.3)


@pytest.fixture
def stopped(scripted: Any, other: Any, held: threading.Event) -> Any:
    """The first leader, which answers nothing from its next call on. The other one leads."""
    scripted.answers_pings = False
    for method in ("ScheduleTask", "ScheduleTasks", "WaitTask", "WaitTasks", "RetryTask", "GetTask"):
        scripted.run_next(method, held.wait)
    other.says_leads(2, other.address, scripted.address)
    return scripted


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(40) as made:
        yield made


def seen(leader: Any, method: str) -> int:
    return len(leader.requests.get(method, ()))


class TestCalls:
    def test_a_call_is_made_again_where_the_next_leader_leads(self, stopped: Any, other: Any) -> None:
        with Client([stopped.address, other.address], timeout=PATIENCE) as client:
            handle = client.schedule("p")
        assert list(other.tasks) == [handle.id]
        assert other.requests["ScheduleTask"] == stopped.requests["ScheduleTask"]

    async def test_so_is_one_of_an_asyncio_client(self, stopped: Any, other: Any) -> None:
        async with AsyncClient([stopped.address, other.address], timeout=PATIENCE) as client:
            handle = await client.schedule("p")
        assert list(other.tasks) == [handle.id]
        assert other.requests["ScheduleTask"] == stopped.requests["ScheduleTask"]

    def test_batches_are_sent_again(self, stopped: Any, other: Any) -> None:
        with Client([stopped.address, other.address], timeout=PATIENCE) as client:
            assert [handle.id for handle in client.schedule_many(["a", "b"])] == list(other.tasks)

    async def test_so_are_those_of_an_asyncio_client(self, stopped: Any, other: Any) -> None:
        async with AsyncClient([stopped.address, other.address], timeout=PATIENCE) as client:
            assert [handle.id async for handle in client.schedule_many(["a", "b"])] == list(other.tasks)

    def test_what_may_not_be_repeated_ends_in_doubt(self, stopped: Any, other: Any) -> None:
        with Client([stopped.address, other.address], timeout=PATIENCE) as client:
            with pytest.raises(LeaderUnreachable, match="another leader leads now"):
                client.retry("a")
        assert seen(other, "RetryTask") == 0

    async def test_an_asyncio_wait_goes_on_with_the_next_leader(self, stopped: Any, other: Any) -> None:
        async with AsyncClient([stopped.address, other.address], timeout=PATIENCE) as client:
            with pytest.raises(LeaderUnreachable, match="another leader leads now"):
                await client.retry("a")
        assert seen(other, "RetryTask") == 0

    async def test_a_cancel_of_the_caller_stays_a_cancel(self, stopped: Any, other: Any) -> None:
        stopped.answers_pings = True
        async with AsyncClient([stopped.address, other.address], timeout=PATIENCE) as client:
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.2):
                    await client.schedule("p")
        assert not other.tasks


class TestStreams:
    def test_a_wait_goes_on_with_the_next_leader(self, stopped: Any, other: Any) -> None:
        with Client([stopped.address, other.address], timeout=PATIENCE) as client:
            one, *others = [_known(other, client, id) for id in ("a", "b", "c")]
            assert one.result(timeout=PATIENCE) == "p"
            client._settings.rotation.prefer(stopped.address)
            assert [task.id for task in client.wait([handle.id for handle in others])] == ["b", "c"]
        assert (seen(stopped, "WaitTask"), seen(stopped, "WaitTasks")) == (1, 1)

    async def test_an_asyncio_wait_goes_on_with_the_next_leader(self, stopped: Any, other: Any) -> None:
        async with AsyncClient([stopped.address, other.address], timeout=PATIENCE) as client:
            one, *others = [_known(other, client, id) for id in ("a", "b", "c")]
            assert await one.result(timeout=PATIENCE) == "p"
            client._settings.rotation.prefer(stopped.address)
            assert [task.id for task in await client.wait([handle.id for handle in others])] == ["b", "c"]
        assert (seen(stopped, "WaitTask"), seen(stopped, "WaitTasks")) == (1, 1)

    def test_a_watch_goes_on_from_its_token(self, scripted: Any, other: Any) -> None:
        with Client([scripted.address, other.address], timeout=PATIENCE) as client, client.watch() as changes:
            client.schedule("p", id="a")
            assert next(changes).id == "a"
            _take_over(scripted, other, "b")
            assert next(changes).id == "b"
        assert [request.token for request in other.requests["WatchTasks"]] == ["1"]

    async def test_an_asyncio_watch_goes_on_from_its_token(self, scripted: Any, other: Any) -> None:
        async with (
            AsyncClient([scripted.address, other.address], timeout=PATIENCE) as client,
            client.watch() as changes,
        ):
            await client.schedule("p", id="a")
            assert (await anext(changes)).id == "a"
            _take_over(scripted, other, "b")
            assert (await anext(changes)).id == "b"
        assert [request.token for request in other.requests["WatchTasks"]] == ["1"]


def _known(leader: Any, client: Any, id: str) -> Any:
    """A task that has finished at this leader."""
    leader.tasks[id] = scheduler.Task(id=id, status=scheduler.TASK_STATUS_COMPLETED, result='"p"')
    return client.handle(id)


def _take_over(former: Any, leader: Any, id: str) -> None:
    """Has the leader take over with one more task, while the former one falls silent."""
    leader.tasks.update(former.tasks)
    leader.tasks[id] = scheduler.Task(id=id)
    leader.says_leads(2, leader.address, former.address)
    former.answers_pings = False


class TestPatience:
    def test_a_leader_that_is_slow_is_not_left(self, stopped: Any, other: Any, held: threading.Event) -> None:
        stopped.answers_pings = True
        with Client([stopped.address, other.address], timeout=PATIENCE) as client, ThreadPoolExecutor(1) as pool:
            call = pool.submit(client.schedule, "p", id="a")
            stopped.until_asked("Check", 3)
            held.set()
            call.result(PATIENCE)
        assert (list(stopped.tasks), other.requests) == (["a"], {})

    def test_a_leader_that_is_silent_is_not_left_while_nobody_else_leads(
        self, stopped: Any, other: Any, held: threading.Event, pool: ThreadPoolExecutor
    ) -> None:
        stopped.lacks.add("SubmitTasks")
        other.says_leads(1, stopped.address, other.address)
        for _ in range(40):
            stopped.run_next("ScheduleTask", held.wait)
        with Client([stopped.address, other.address], timeout=PATIENCE) as client:
            calls = [pool.submit(client.schedule, "p", id=f"t{n}") for n in range(30)]
            other.until_asked("Leaders", 3)
            assert not other.tasks
            # However many calls wait, one question is asked at a time.
            assert seen(stopped, "Check") <= seen(other, "Leaders") + 1
            other.says_leads(2, other.address, stopped.address)
            for call in calls:
                call.result(PATIENCE)
        assert len(other.tasks) == 30

    def test_nobody_is_asked_where_there_is_one_address(self, stopped: Any, held: threading.Event) -> None:
        with Client(stopped.address, timeout=PATIENCE) as client, ThreadPoolExecutor(1) as pool:
            call = pool.submit(client.schedule, "p")
            stopped.until_asked("ScheduleTask", 1)
            assert not [thread for thread in threading.enumerate() if thread.name == "gowork-lookout"]
            held.set()
            call.result(PATIENCE)

    def test_nothing_looks_when_no_call_is_open(
        self, scripted: Any, other: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        # While the call is open no silence is long, however slow this machine is. Afterwards any would be.
        monkeypatch.setattr(channels, "SILENCE_SECONDS", PATIENCE)
        with Client([scripted.address, other.address]) as client:
            client.schedule("p")
            monkeypatch.setattr(channels, "SILENCE_SECONDS", 0.0)
            for thread in threading.enumerate():
                if thread.name == "gowork-lookout":
                    thread.join(PATIENCE)
                    assert not thread.is_alive()
            monkeypatch.setattr(channels, "SILENCE_SECONDS", PATIENCE)
            client.schedule("p")
        assert seen(scripted, "Check") == 0

    async def test_nothing_of_an_asyncio_client_looks_when_no_call_is_open(
        self, scripted: Any, other: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(channels, "SILENCE_SECONDS", PATIENCE)
        async with AsyncClient([scripted.address, other.address]) as client:
            await client.schedule("p")
            assert client._connection._open is not None
            # It rings while the next call is not open.
            client._connection._open.routes._lookout._timer_rings()
            assert client._connection._open.routes._lookout._timer is None
        assert seen(scripted, "Check") == 0
