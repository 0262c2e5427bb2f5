"""The asyncio client over real gRPC: the same rules as for the blocking one."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator

import grpc
import pytest

from gowork.client import (
    AsyncClient,
    DeadlineExceeded,
    FieldViolation,
    InvalidArgument,
    LeaderUnreachable,
    NewTask,
    NotFound,
    TaskNotFinished,
    TaskStatus,
    _batches,
)
from gowork.client._async import flights
from gowork.proto import limits
from gowork.proto.status import Refusal, invalid

UNAVAILABLE = Refusal(grpc.StatusCode.UNAVAILABLE, "NOT_LEADING", "not leading now")


@pytest.fixture
async def client(scripted) -> AsyncIterator[AsyncClient]:
    async with AsyncClient(scripted.address) as client:
        yield client


class TestCalls:
    async def test_a_result_comes_back_to_who_scheduled_it(self, client: AsyncClient) -> None:
        handle = await client.schedule({"n": 1})
        assert await handle.result() == {"n": 1}
        assert await handle.result(dict[str, int]) == {"n": 1}

    async def test_a_call_is_made_again_while_the_leader_is_unavailable(self, client: AsyncClient, scripted) -> None:
        scripted.fail_next("ScheduleTask", UNAVAILABLE, times=2)
        await client.schedule("p", id="a")
        first, second, third = scripted.requests["ScheduleTask"]
        assert first == second == third
        assert scripted.timeouts["ScheduleTask"][0] < 31

    async def test_a_refusal_is_raised_at_once(self, client: AsyncClient, scripted) -> None:
        scripted.fail_next("ScheduleTask", invalid([FieldViolation("task.id", "is empty")]))
        with pytest.raises(InvalidArgument) as raised:
            await client.schedule("p")
        assert raised.value.violations == (FieldViolation("task.id", "is empty"),)
        assert len(scripted.requests["ScheduleTask"]) == 1

    async def test_an_unreachable_leader_is_named_by_its_address(self, free_address: str) -> None:
        async with AsyncClient(free_address, patience=0) as client:
            with pytest.raises(LeaderUnreachable, match=free_address):
                await client.schedule("p")

    async def test_a_call_ends_at_its_deadline(self, scripted, held) -> None:
        scripted.run_next("ScheduleTask", held.wait)
        async with AsyncClient(scripted.address, timeout=0.2) as client:
            with pytest.raises(DeadlineExceeded):
                await client.schedule("p")

    async def test_a_client_that_was_never_used_closes(self) -> None:
        async with AsyncClient("127.0.0.1:1") as client:
            assert client.address == "127.0.0.1:1"


class TestScheduleMany:
    async def test_handles_come_in_order_from_an_asynchronous_source(self, client: AsyncClient, scripted) -> None:
        async def source() -> AsyncIterator[str]:
            for n in range(25_000):
                yield str(n)

        handles = [handle async for handle in client.schedule_many(source(), handler="h")]
        assert [scripted.tasks[handle.id].payload for handle in handles] == [str(n) for n in range(25_000)]

    async def test_handles_come_from_a_plain_source_too(self, client: AsyncClient) -> None:
        assert len([handle async for handle in client.schedule_many(["a", "b"])]) == 2
        assert [handle async for handle in client.schedule_many([])] == []

    async def test_tasks_of_a_slow_source_do_not_wait_for_its_next(self, client: AsyncClient, scripted) -> None:
        arrived = asyncio.Event()
        loop = asyncio.get_running_loop()
        scripted.run_next("ScheduleTasks", lambda: loop.call_soon_threadsafe(arrived.set))

        async def source() -> AsyncIterator[str]:
            yield "first"
            # It gives no second before the first has reached the leader.
            await arrived.wait()
            yield "second"

        assert len([handle async for handle in client.schedule_many(source())]) == 2

    async def test_a_batch_is_sent_again_as_it_was(self, client: AsyncClient, scripted) -> None:
        scripted.fail_next("ScheduleTasks", UNAVAILABLE)
        assert len([handle async for handle in client.schedule_many(["a", "b"])]) == 2
        first, second = scripted.requests["ScheduleTasks"]
        assert first == second

    async def test_a_refused_batch_names_the_place_among_all_tasks(
        self, client: AsyncClient, scripted, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(_batches, "BATCH_AGE_S", math.inf)
        monkeypatch.setattr(limits, "BATCH_TASKS_MAX", 3)
        scripted.fail_next("ScheduleTasks", invalid([FieldViolation("tasks[1].id", "is taken")]))
        with pytest.raises(InvalidArgument, match=r"tasks\[(1|4)\]\.id: is taken") as raised:
            [handle async for handle in client.schedule_many(["a"] * 6)]
        assert raised.value.violations[0].field in str(raised.value)

    async def test_handles_come_for_each_batch_before_the_refused_one(
        self, client: AsyncClient, scripted, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(_batches, "BATCH_AGE_S", math.inf)
        monkeypatch.setattr(limits, "BATCH_TASKS_MAX", 3)
        monkeypatch.setattr(flights, "BATCHES_IN_FLIGHT_MAX", 2)
        # The refusal is there before the first batch is looked at.
        monkeypatch.setattr(flights._Flight, "landed", lambda flight: "4" in flight.batch.ids)
        scripted.refused["4"] = invalid([FieldViolation("tasks[1].id", "is taken")])
        handles = client.schedule_many(NewTask("p", id=str(n)) for n in range(9))
        assert [(await anext(handles)).id for _ in range(3)] == ["0", "1", "2"]
        with pytest.raises(InvalidArgument):
            await anext(handles)

    async def test_it_can_be_left_early(self, client: AsyncClient) -> None:
        async def endless() -> AsyncIterator[str]:
            while True:
                yield "p"

        handles = client.schedule_many(endless())
        async for handle in handles:
            assert handle.id
            break
        await handles.aclose()  # type: ignore[attr-defined]


class TestWaits:
    async def test_a_wait_goes_on_over_calls_that_break(self, client: AsyncClient, scripted) -> None:
        scripted.finishes_at_once = False
        handle = await client.schedule("p")
        scripted.fail_next("WaitTask", UNAVAILABLE)
        scripted.run_next("WaitTask", lambda: scripted.finish(handle.id, result="7"))
        assert await handle.result() == 7

    async def test_a_wait_is_longer_than_the_deadline_of_its_calls(self, scripted) -> None:
        scripted.finishes_at_once = False
        async with AsyncClient(scripted.address, timeout=0.3) as client:
            handle = await client.schedule("p")
            scripted.run_next("WaitTask", lambda: None)
            scripted.run_next("WaitTask", lambda: scripted.finish(handle.id))
            assert (await handle.wait()).status is TaskStatus.COMPLETED
        assert len(scripted.requests["WaitTask"]) == 2

    async def test_a_wait_gives_up_at_the_callers_timeout(self, client: AsyncClient, scripted) -> None:
        scripted.finishes_at_once = False
        handles = [handle async for handle in client.schedule_many(["p"] * 3)]
        with pytest.raises(TaskNotFinished) as raised:
            await client.wait(handles, timeout=0.2)
        assert raised.value.ids == tuple(handle.id for handle in handles)

    async def test_as_completed_yields_in_the_order_of_finishing(self, client: AsyncClient, scripted) -> None:
        scripted.finishes_at_once = False
        handles = [handle async for handle in client.schedule_many(["p"] * 3)]
        done = client.as_completed(handles)
        for handle in reversed(handles):
            scripted.finish(handle.id)
            assert await anext(done) is handle
        with pytest.raises(StopAsyncIteration):
            await anext(done)

    async def test_as_completed_takes_schedule_many_itself(self, client: AsyncClient) -> None:
        done = [handle async for handle in client.as_completed(client.schedule_many(str(n) for n in range(30_000)))]
        assert sorted([await handle.result() for handle in done]) == list(range(30_000))

    async def test_an_error_of_one_of_several_calls_is_raised_as_itself(self, client: AsyncClient, scripted) -> None:
        handles = [handle async for handle in client.schedule_many("1" for _ in range(10_001))]
        scripted.fail_next("WaitTasks", Refusal(grpc.StatusCode.NOT_FOUND, "TASK_UNKNOWN", "unknown"))
        with pytest.raises(NotFound):
            [handle async for handle in client.as_completed(handles)]

    async def test_as_completed_can_be_left_early_and_leaves_no_task(self, client: AsyncClient, scripted) -> None:
        handles = [handle async for handle in client.schedule_many("1" for _ in range(30_000))]
        scripted.finishes_at_once = False
        handles.append(await client.schedule("1"))
        done = client.as_completed(handles)
        await anext(done)
        await done.aclose()  # type: ignore[attr-defined]
        assert not [task for task in asyncio.all_tasks() if task.get_name() == "gowork-wait"]

    async def test_a_cancelled_wait_is_cancelled(self, client: AsyncClient, scripted) -> None:
        scripted.finishes_at_once = False
        handle = await client.schedule("p")
        waiting = asyncio.Event()
        loop = asyncio.get_running_loop()
        scripted.run_next("WaitTask", lambda: loop.call_soon_threadsafe(waiting.set))
        async with asyncio.TaskGroup() as group:
            task = group.create_task(handle.wait())
            await waiting.wait()
            task.cancel()
        assert task.cancelled()


class TestWatch:
    async def test_a_watch_that_was_entered_sees_what_comes_after(self, client: AsyncClient) -> None:
        await client.schedule("p", id="before")
        async with client.watch() as changes:
            await client.schedule("p", id="after")
            assert (await anext(changes)).id == "after"

    async def test_a_watch_goes_on_from_its_token(self, client: AsyncClient, scripted) -> None:
        async with client.watch() as changes:
            scripted.fail_next("WatchTasks.between", UNAVAILABLE)
            await client.schedule("p", id="a")
            assert (await anext(changes)).id == "a"
            await client.schedule("p", id="b")
            assert (await anext(changes)).id == "b"
        assert [request.token for request in scripted.requests["WatchTasks"]] == ["", "1"]

    async def test_closing_ends_the_iteration(self, client: AsyncClient) -> None:
        async with client.watch() as changes, asyncio.timeout(120):
            asyncio.get_running_loop().call_soon(changes.close)
            assert [task async for task in changes] == []
