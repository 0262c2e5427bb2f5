"""The kit for tests of handlers: faults in any order, logs of runs within runs, and what a handler leaves open."""

from __future__ import annotations

import asyncio
import logging
import signal
import threading
from collections.abc import AsyncIterator, Iterator

import pytest

from gowork.worker import Context, handler
from gowork.worker.testing import lose_lease, regain_lease, run_handler

logger = logging.getLogger("tests.kit")
#: Seconds within which what takes none happens, however busy the machine is.
SOON = 60.0


@pytest.fixture(autouse=True)
def usual_level() -> Iterator[None]:
    """The root logger has the level that it has in a program. Some other test may have left another one."""
    root = logging.getLogger()
    before = root.level
    root.setLevel(logging.WARNING)
    yield
    root.setLevel(before)


def test_each_fault_happens_once_in_whatever_order_they_are_given() -> None:
    @handler
    def looks(ctx: Context) -> list[bool]:
        told = []
        for _ in range(4):
            ctx.progress(0)
            told.append(ctx.lease_valid)
        return told

    faults = [regain_lease(at_progress=2), lose_lease(at_progress=1)]
    assert run_handler(looks, faults=faults).result == [False, True, True, True]


def test_a_generator_that_a_handler_leaves_open_is_closed_with_the_run() -> None:
    closed: list[str] = []
    kept: list[AsyncIterator[int]] = []

    async def numbers() -> AsyncIterator[int]:
        try:
            yield 1
        finally:
            closed.append("closed")

    @handler
    async def reads() -> int:
        kept.append(numbers())
        return await anext(kept[0])

    assert run_handler(reads).result == 1
    assert closed == ["closed"]


def test_a_line_for_a_shell_is_waited_for_in_real_time() -> None:
    @handler(time_limit=3600)
    async def calls() -> int:
        # Without pipes, which the loop would wait for in any case.
        process = await asyncio.create_subprocess_shell("sleep 0.2; exit 3")
        return await process.wait()

    assert run_handler(calls).result == 3


def test_an_interrupt_of_the_test_ends_its_run_too() -> None:
    ended = threading.Event()

    @handler
    async def waits() -> None:
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)  # type: ignore[arg-type]
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    before = set(threading.enumerate())
    with pytest.raises(KeyboardInterrupt):
        run_handler(waits, patience=10 * SOON)
    assert ended.wait(SOON)
    # With its threads the run is over, and leaves the level of the root logger to the next test.
    for thread in set(threading.enumerate()) - before:
        thread.join(SOON)


@handler
def whispers() -> None:
    logger.debug("very softly")


def test_a_test_that_listens_for_more_hears_more() -> None:
    logging.getLogger().setLevel(logging.DEBUG)
    assert [record.getMessage() for record in run_handler(whispers).logs] == ["very softly"]
    assert logging.getLogger().level == logging.DEBUG


def test_a_run_within_a_run_leaves_the_roots_level_as_it_was() -> None:
    @handler
    def runs_another() -> str:
        return str(run_handler(whispers).status)

    assert run_handler(runs_another).result == "completed"
    assert logging.getLogger().level == logging.WARNING
