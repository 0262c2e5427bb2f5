"""What a worker says while others wait for it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sys
import threading
from collections.abc import AsyncIterator
from typing import Any

import pytest

from gowork.worker import Context, handler, lifespan
from gowork.worker._app import service as worker_service
from gowork.worker._runner import loading
from gowork.worker._runner.loading import Loading


class Lines(logging.Handler):
    """Keeps what is logged, and wakes who waits for it."""

    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []
        self._loop = asyncio.get_running_loop()
        self._changed = asyncio.Event()

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)
        self._loop.call_soon_threadsafe(self._changed.set)

    async def line(self, event: str, doing: str = "") -> dict[str, Any]:
        """The first with this text, and with this in its field."""
        async with asyncio.timeout(120):
            while True:
                for record in self.records:
                    if record.getMessage() == event and doing in vars(record).get("doing", ""):
                        return vars(record)
                await self._changed.wait()
                self._changed.clear()


@pytest.fixture
async def lines() -> AsyncIterator[Lines]:
    handler = Lines()
    logger = logging.getLogger("gowork.worker")
    before = logger.level
    logger.setLevel(logging.INFO)
    logger.addHandler(handler)
    yield handler
    logger.removeHandler(handler)
    logger.setLevel(before)


async def test_draining_worker_says_which_tasks_it_waits_for(
    leader: Any, start_worker: Any, lines: Lines, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker_service, "_TELL_INTERVAL", 0.01)
    go_on = asyncio.Event()

    @handler
    async def long(ctx: Context) -> None:
        ctx.progress(0.1)
        await go_on.wait()

    service = await start_worker([long], slots=2)
    scripted = await leader.session()
    scripted.grant(1, "long")
    await scripted.started(1)
    service.stop()
    line = await lines.line("waiting for tasks")
    assert (line["tasks"], line["first"]) == (1, "task-1 (long)")
    go_on.set()
    await service.task
    assert not any(record.getMessage().startswith("stopped before") for record in lines.records)


async def test_worker_that_stops_before_its_reports_are_acknowledged_says_how_many(
    leader: Any, start_worker: Any, lines: Lines, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker_service, "_ACKNOWLEDGE_TIMEOUT", 0.0)
    monkeypatch.setattr(worker_service, "_GOODBYE_TIMEOUT", 0.0)
    service = await start_worker(slots=1)
    scripted = await leader.session()
    scripted.grant(1, "echo")
    await scripted.report(1)
    monkeypatch.setattr(scripted, "acknowledge", lambda *fences: None)
    service.stop()
    assert (await lines.line("stopped before all reports were acknowledged"))["reports"] == 1
    await service.task


async def test_lifespan_that_blocks_is_named(
    leader: Any, start_worker: Any, lines: Lines, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loading, "FIRST_WORD", 0.01)
    monkeypatch.setattr(loading, "NEXT_WORD", 0.01)
    go_on = asyncio.Event()

    @lifespan
    async def database(state: Any) -> Any:
        await go_on.wait()
        yield

    await start_worker([database], slots=1)
    line = await lines.line("not ready yet", doing="lifespan")
    assert line["doing"].endswith("database")
    go_on.set()
    await leader.session()


async def test_worker_that_is_stopped_while_a_lifespan_blocks_ends(start_worker: Any) -> None:
    entered, left = asyncio.Event(), asyncio.Event()

    @lifespan
    async def database(state: Any) -> Any:
        entered.set()
        try:
            await asyncio.Event().wait()
        finally:
            left.set()
        yield

    service = await start_worker([database], slots=1)
    await entered.wait()
    service.stop()
    async with asyncio.timeout(120):
        await service.task
    assert left.is_set()


def test_watch_over_loading_ends_with_it() -> None:
    # Those of other tests may not have ended yet.
    before = set(threading.enumerate())
    with Loading():
        (watching,) = (thread for thread in set(threading.enumerate()) - before if thread.name == "gowork-loading")
        assert watching.is_alive()
    watching.join(120)
    assert not watching.is_alive()


def test_what_keeps_a_runner_from_getting_ready_is_named_also_where_the_interpreter_is_silent(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with contextlib.suppress(SystemExit), Loading() as loading:
        loading.doing("entering lifespan database")
        sys.exit(0)
    (record,) = caplog.records
    assert record.message == "a runner cannot get ready"
    assert record.__dict__["doing"] == "entering lifespan database"
    assert record.__dict__["reason"].startswith("SystemExit: 0 (")
    # That it was stopped meanwhile is no failure.
    with contextlib.suppress(asyncio.CancelledError), Loading():
        raise asyncio.CancelledError
    assert len(caplog.records) == 1
