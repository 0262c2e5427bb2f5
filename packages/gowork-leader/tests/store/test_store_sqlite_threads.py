"""The thread of a store's connection: in order, told to whoever waits, and there for what comes next."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator

import pytest

from gowork.leader.store._sqlite_threads import LoopExecutor

PATIENCE = 120.0


@pytest.fixture
def executor() -> Iterator[LoopExecutor]:
    executor = LoopExecutor("one")
    yield executor
    executor.shutdown()


async def run(executor: LoopExecutor, function: object) -> object:
    return await asyncio.get_running_loop().run_in_executor(executor, function)  # type: ignore[arg-type]


async def test_what_is_handed_over_is_done_in_order_in_one_thread_of_that_name(executor: LoopExecutor) -> None:
    done: list[int] = []

    def note(number: int) -> str:
        done.append(number)
        return threading.current_thread().name

    names = await asyncio.gather(*(run(executor, lambda number=number: note(number)) for number in range(100)))
    assert done == list(range(100))
    assert set(names) == {"one"}


async def test_an_error_is_raised_where_it_is_waited_for(executor: LoopExecutor) -> None:
    with pytest.raises(ZeroDivisionError):
        await run(executor, lambda: 1 // 0)
    assert await run(executor, lambda: 1) == 1


async def test_what_nobody_waits_for_any_more_is_not_begun(executor: LoopExecutor) -> None:
    gate = threading.Event()
    done: list[str] = []
    first = asyncio.ensure_future(run(executor, lambda: gate.wait(PATIENCE)))
    second = asyncio.ensure_future(run(executor, lambda: done.append("second")))
    await asyncio.sleep(0)
    second.cancel()
    await asyncio.wait([second])
    gate.set()
    assert await first
    await run(executor, lambda: done.append("third"))
    assert done == ["third"]


async def test_what_was_begun_is_ended_when_its_waiter_gives_up(executor: LoopExecutor) -> None:
    begun, gate = threading.Event(), threading.Event()
    done: list[str] = []

    def work() -> None:
        begun.set()
        gate.wait(PATIENCE)
        done.append("work")

    call = asyncio.ensure_future(run(executor, work))
    await asyncio.to_thread(begun.wait, PATIENCE)
    call.cancel()
    await asyncio.wait([call])
    gate.set()
    await run(executor, lambda: done.append("next"))
    assert done == ["work", "next"]


async def test_work_that_fails_unseen_is_logged_and_the_next_is_done(
    executor: LoopExecutor, caplog: pytest.LogCaptureFixture
) -> None:
    executor.start(lambda: 1 // 0)  # type: ignore[arg-type]  # it raises first
    assert await run(executor, lambda: 1) == 1
    assert "work of a store's thread failed" in caplog.text


def test_a_loop_that_is_gone_is_no_harm(executor: LoopExecutor) -> None:
    gate, begun = threading.Event(), threading.Event()

    def work() -> None:
        begun.set()
        gate.wait(PATIENCE)

    async def give_up() -> None:
        call = asyncio.ensure_future(run(executor, work))
        await asyncio.to_thread(begun.wait, PATIENCE)
        call.cancel()

    asyncio.run(give_up())
    gate.set()

    async def again() -> object:
        return await run(executor, lambda: 1)

    assert asyncio.run(again()) == 1
