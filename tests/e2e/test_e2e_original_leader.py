"""A gowork worker that works for a leader of the original contract: `gowork-worker --listen`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import original
import pytest
from clusters import start, stopped_cleanly
from original import Caller, Leader

START = "worker.v1.WorkerService/StartWork"
STOP = "worker.v1.WorkerService/StopWork"
HANDLERS = """
import asyncio
from gowork.worker import handler

@handler("for_ever")
async def for_ever(ctx):
    await asyncio.Event().wait()

@handler("broken")
def broken(ctx):
    raise RuntimeError("the disk is gone")
"""

Joined = Callable[..., AbstractAsyncContextManager[Caller]]


@pytest.fixture
async def leader() -> AsyncIterator[Leader]:
    async with Leader().serving() as leader:
        yield leader


@pytest.fixture
def joined(leader: Leader, tmp_path: Path) -> Joined:
    """Starts a worker whose default handler is the given one, waits for its Join, and yields a caller of it."""
    (tmp_path / "original_handlers.py").write_text(HANDLERS)
    where = ["--leader", leader.address, "--scheduler", leader.address, "--listen", "127.0.0.1:0"]
    what = ["--name", "w1", "--slots", "1", "--runners", "1", "--import", "original_handlers"]

    @asynccontextmanager
    async def joined(handler: str) -> AsyncIterator[Caller]:
        process = start("gowork-worker", *where, *what, "--default-handler", handler, folder=tmp_path)
        # Stopped in a thread, because the worker calls Leave at a leader that this loop serves.
        manager = stopped_cleanly(process)
        await asyncio.to_thread(manager.__enter__)
        try:
            join = await leader.hears("Join")
            assert join.id == "w1"
            async with original.calling(join.address) as caller:
                yield caller
        finally:
            await asyncio.to_thread(manager.__exit__, None, None, None)

    return joined


async def test_it_joins_sends_heartbeats_and_leaves(leader: Leader, joined: Joined) -> None:
    async with joined("echo"):
        heartbeat = await leader.hears("Heartbeat")
        assert heartbeat.id == "w1"
        assert heartbeat.status == original.value("cluster.v1.HeartbeatStatus", "HEARTBEAT_STATUS_IDLE")
    assert (await leader.hears("Leave")).id == "w1"


async def test_it_runs_what_it_is_dialled_with_and_reports(leader: Leader, joined: Joined) -> None:
    async with joined("echo") as worker:
        for id in ("t1", "t2"):
            assert (await worker(START, id=id, payload="do some work")).success
            report = await leader.hears("TaskComplete")
            assert (report.id, report.HasField("error")) == (id, False)


async def test_it_reports_what_went_wrong(leader: Leader, joined: Joined) -> None:
    async with joined("broken") as worker:
        assert (await worker(START, id="t1", payload="do some work")).success
        report = await leader.hears("TaskComplete")
        assert report.id == "t1"
        assert "the disk is gone" in report.error


async def test_it_takes_no_more_than_it_has_slots_and_stops_what_it_is_told_to(leader: Leader, joined: Joined) -> None:
    async with joined("for_ever") as worker:
        assert (await worker(START, id="t1", payload="work")).success
        assert not (await worker(START, id="t2", payload="work")).success
        assert not (await worker(STOP, id="t2")).success
        assert (await worker(STOP, id="t1")).success
        assert (await worker(START, id="t3", payload="work")).success
        assert (await worker(STOP, id="t3")).success
