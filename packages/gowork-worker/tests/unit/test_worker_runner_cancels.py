"""Cancellation that nobody asked for: what a handler does to itself, and what it does to others on its loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from gowork.proto.scheduler.v1 import scheduler_pb2 as tasks
from gowork.worker import handler

MakeRig = Callable[..., Any]


async def cancels_itself() -> None:
    asyncio.current_task().cancel()  # type: ignore[union-attr]
    await asyncio.sleep(0)


async def swallows_and_is_cancelled_by_what_it_awaits() -> None:
    try:
        await cancels_itself()
    except asyncio.CancelledError:
        pass
    future = asyncio.get_running_loop().create_future()
    future.cancel()
    await future


async def is_cancelled_from_nowhere() -> None:
    import contextvars

    task = asyncio.current_task()
    asyncio.get_running_loop().call_soon(task.cancel, context=contextvars.Context())  # type: ignore[union-attr]
    await asyncio.Event().wait()


async def fails_in_a_group() -> None:
    async def fails() -> None:
        raise ValueError

    async with asyncio.TaskGroup() as group:
        group.create_task(fails())
        await asyncio.Event().wait()


async def runs_out_of_time() -> None:
    async with asyncio.timeout(0):
        await asyncio.Event().wait()


async def awaits_what_exits() -> None:
    async def exits() -> None:
        raise ValueError

    await asyncio.gather(exits())


@pytest.mark.parametrize(
    ("work", "named"),
    [
        (cancels_itself, "CancelledError"),
        (swallows_and_is_cancelled_by_what_it_awaits, "CancelledError"),
        (is_cancelled_from_nowhere, "CancelledError"),
        (fails_in_a_group, "ExceptionGroup"),
        (runs_out_of_time, "TimeoutError"),
        (awaits_what_exits, "ValueError"),
    ],
)
async def test_cancellation_that_nobody_asked_for_is_a_failure(
    make_rig: MakeRig, work: Callable[[], Any], named: str
) -> None:
    @handler("work")
    async def run() -> None:
        await work()

    rig = make_rig(run, slots=1)
    rig.feed((1, "work"), (2, "work"))
    for fence in (1, 2):
        report = await rig.report(fence)
        assert (report.outcome, report.failure.type) == (tasks.ATTEMPT_OUTCOME_FAILED, named)
    assert rig.executor.idle


async def test_handler_that_swallows_its_own_cancellation_completes(make_rig: MakeRig) -> None:
    @handler
    async def work() -> str:
        try:
            await cancels_itself()
        except asyncio.CancelledError:
            pass
        return "done"

    rig = make_rig(work)
    rig.feed((1, "work"))
    assert (await rig.report(1)).result == '"done"'


async def test_handler_that_cancels_itself_as_it_returns_completes(make_rig: MakeRig) -> None:
    @handler
    async def work() -> str:
        asyncio.current_task().cancel()  # type: ignore[union-attr]
        return "done"

    rig = make_rig(work, slots=1)
    for fence in (1, 2):
        rig.feed((fence, "work"))
        assert (await rig.report(fence)).result == '"done"'


async def test_handler_that_cancels_all_tasks_ends_itself_alone(make_rig: MakeRig) -> None:
    ended, running = asyncio.Event(), asyncio.Event()

    @handler
    async def innocent() -> str:
        running.set()
        await ended.wait()
        return "done"

    @handler
    async def culprit() -> None:
        await running.wait()
        ours = asyncio.current_task()
        for task in asyncio.all_tasks():
            if task is ours or task.get_name().startswith("task "):
                task.cancel()
        await asyncio.sleep(0)

    rig = make_rig(innocent, culprit)
    rig.feed((1, "innocent"), (2, "culprit"))
    assert (await rig.report(2)).failure.type == "CancelledError"
    ended.set()
    assert (await rig.report(1)).result == '"done"'


async def test_thread_cannot_cancel_an_attempt_on_the_loop(make_rig: MakeRig) -> None:
    ended, running = asyncio.Event(), asyncio.Event()
    tasks_of_others: list[asyncio.Task[Any]] = []
    loop = asyncio.get_running_loop()

    @handler
    async def innocent() -> str:
        tasks_of_others.append(asyncio.current_task())  # type: ignore[arg-type]
        running.set()
        await ended.wait()
        return "done"

    @handler
    def culprit() -> None:
        loop.call_soon_threadsafe(tasks_of_others[0].cancel)

    rig = make_rig(innocent, culprit)
    rig.feed((1, "innocent"))
    await running.wait()
    rig.feed((2, "culprit"))
    await rig.report(2)
    ended.set()
    assert (await rig.report(1)).result == '"done"'


async def test_timeout_that_a_handler_catches_is_its_own_affair(make_rig: MakeRig) -> None:
    @handler
    async def work() -> str:
        try:
            await runs_out_of_time()
        except TimeoutError:
            pass
        await asyncio.sleep(0)
        return "done"

    rig = make_rig(work)
    rig.feed((1, "work"))
    assert (await rig.report(1)).result == '"done"'


async def test_attempt_is_interrupted_when_its_runner_is_stopped(make_rig: MakeRig) -> None:
    running = asyncio.Event()

    @handler
    async def work() -> None:
        running.set()
        await asyncio.Event().wait()

    rig = make_rig(work)
    rig.feed((1, "work"))
    await running.wait()
    rig.executor.close()
    await rig.executor.finished()
    assert (await rig.report(1)).outcome == tasks.ATTEMPT_OUTCOME_INTERRUPTED


async def test_time_limit_stops_an_async_handler_from_whichever_context(make_rig: MakeRig) -> None:
    @handler
    async def first() -> None:
        pass

    @handler
    async def limited() -> None:
        await asyncio.Event().wait()

    # With one slot the limit of the second task is set within the context of the first.
    rig = make_rig(first, limited, slots=1)
    rig.feed((1, "first"), (2, "limited"), time_limit_ms=20)
    assert (await rig.report(2)).outcome == tasks.ATTEMPT_OUTCOME_TIMED_OUT
