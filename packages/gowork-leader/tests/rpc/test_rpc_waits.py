"""What tells of tasks: WaitTasks, each once as it finishes, WaitTask, one of them; WatchTasks, the latest state as it
changes.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import grpc
import pytest
from leader_serving import PATIENCE, ServedLeader, Session, refused, serving, stream_refused

from gowork.leader._engine.subscriptions import RECENT_TASKS_MAX
from gowork.leader.store.sqlite import SqliteStore
from gowork.proto import limits
from gowork.proto.scheduler.v1 import scheduler_pb2 as pb

PENDING, RUNNING = pb.TASK_STATUS_PENDING, pb.TASK_STATUS_RUNNING
COMPLETED, CANCELLED = pb.TASK_STATUS_COMPLETED, pb.TASK_STATUS_CANCELLED


class Watch:
    """A WatchTasks stream, read by hand."""

    def __init__(self, leader: ServedLeader, **fields: Any) -> None:
        self.call = leader.scheduler.WatchTasks(pb.WatchTasksRequest(**fields), timeout=PATIENCE)
        self.token = ""

    async def begin(self) -> Watch:
        """Reads the first response, which carries only a token."""
        response = await self.call.read()
        assert not response.tasks
        assert response.token
        self.token = response.token
        return self

    async def until(self, *wanted: tuple[str, int]) -> list[tuple[str, int]]:
        """(id, status) of all tasks that come, up to the token after all of these have come."""
        seen: list[tuple[str, int]] = []
        while True:
            response = await self.call.read()
            assert response is not grpc.aio.EOF
            seen += [(task.id, task.status) for task in response.tasks]
            self.token = response.token or self.token
            if response.token and set(wanted) <= set(seen):
                return seen


async def run(session: Session, number: int = 1) -> None:
    """Completes the next tasks that are granted."""
    await session.report(*await session.grants(number))


async def test_tasks_that_have_finished_come_at_once(leader: ServedLeader) -> None:
    await leader.submit("a", "b")
    async with leader.worker() as session:
        await run(session, 2)
    assert set(await leader.finished("a", "b", "a")) == {"a", "b"}


async def test_tasks_come_once_each_as_they_finish_and_the_stream_ends_after_the_last(leader: ServedLeader) -> None:
    await leader.submit("early", "a", "b")
    async with leader.worker(credit=1) as session:
        await run(session)
        call = leader.scheduler.WaitTasks(pb.WaitTasksRequest(ids=["b", "early", "a", "b"]), timeout=PATIENCE)
        assert [task.id for task in (await call.read()).tasks] == ["early"]
        await session.send(credit=[3])
        b_after_a = await session.grants(2)
        for grant in b_after_a[::-1]:
            await session.report(grant, result=f'"{grant.id}"')
            (task,) = (await call.read()).tasks
            assert (task.id, task.status, task.result) == (grant.id, COMPLETED, f'"{grant.id}"')
        assert await call.read() is grpc.aio.EOF
        assert await call.code() is grpc.StatusCode.OK


async def test_a_wait_for_how_tasks_end_reads_no_bodies(leader: ServedLeader, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both while they run and when they have ended long ago."""
    ids = [f"t{number}" for number in range(2 * RECENT_TASKS_MAX + 1)]
    await leader.submit(*ids)

    def never(*_: object) -> None:
        raise AssertionError("a body was read")

    async with leader.worker(credit=len(ids)) as session:
        waiting = asyncio.ensure_future(leader.finished("t1", "t0"))
        await run(session, len(ids))
        monkeypatch.setattr(SqliteStore, "load", never)
        assert set(await waiting) == {"t0", "t1"}
        assert set(await leader.finished(*ids)) == set(ids)
        wait = leader.scheduler.WaitTask(pb.WaitTaskRequest(id="t0"), timeout=PATIENCE)
        assert (await wait).task.status == COMPLETED


async def test_a_wait_is_over_for_a_task_that_is_cancelled(leader: ServedLeader) -> None:
    await leader.submit("a")
    waiting = asyncio.ensure_future(leader.finished("a"))
    await leader.scheduler.CancelTask(pb.CancelTaskRequest(id="a"), timeout=PATIENCE)
    assert (await waiting)["a"].status == CANCELLED


async def test_unknown_ids_are_refused_before_anything_is_streamed(leader: ServedLeader) -> None:
    await leader.submit("a")
    async with leader.worker() as session:
        await run(session)
    call = leader.scheduler.WaitTasks(pb.WaitTasksRequest(ids=["a", "no", "nor"]), timeout=PATIENCE)
    refusal = await refused(call.read())
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.NOT_FOUND, "TASK_UNKNOWN")
    assert refusal.message == "no task has the id 'no' (and 1 more)"


async def test_ten_thousand_tasks_can_be_waited_for(leader: ServedLeader) -> None:
    ids = [str(n) for n in range(limits.BATCH_TASKS_MAX)]
    await leader.submit(*ids)
    async with leader.worker(slots=10_000) as session:
        waiting = asyncio.ensure_future(leader.finished(*ids))
        await run(session, len(ids))
        assert list(await waiting) == ids
    assert set(await leader.finished(*ids)) == set(ids)


async def wait_task(leader: ServedLeader, id: str, view: pb.TaskView.ValueType = pb.TASK_VIEW_UNSPECIFIED) -> pb.Task:
    request = pb.WaitTaskRequest(id=id, view=view)
    return (await leader.scheduler.WaitTask(request, timeout=PATIENCE)).task


async def test_one_task_is_answered_when_it_finishes_and_at_once_when_it_has(leader: ServedLeader) -> None:
    await leader.submit("a")
    waiting = asyncio.ensure_future(wait_task(leader, "a"))
    # The wait has been taken when a later request is answered.
    await leader.get("a")
    async with leader.worker() as session:
        await session.report(await session.grant(), result='"done"')
        task = await waiting
    assert (task.id, task.status, task.result) == ("a", COMPLETED, '"done"')
    assert await wait_task(leader, "a") == task


async def test_one_task_that_finished_long_ago_is_answered_from_the_store(tmp_path: Path) -> None:
    async with serving(tmp_path) as leader:
        await leader.submit("a")
        await leader.scheduler.CancelTask(pb.CancelTaskRequest(id="a"), timeout=PATIENCE)
    async with serving(tmp_path) as leader:
        assert (await wait_task(leader, "a")).status == CANCELLED


async def test_one_task_comes_as_far_as_the_view_goes(leader: ServedLeader) -> None:
    await leader.submit("a", payload="p")
    async with leader.worker() as session:
        await session.report(await session.grant(), result="1")
    basic, result, full = [
        await wait_task(leader, "a", view) for view in (pb.TASK_VIEW_BASIC, pb.TASK_VIEW_RESULT, pb.TASK_VIEW_FULL)
    ]
    assert [(task.payload, task.result) for task in (basic, result, full)] == [("", ""), ("", "1"), ("p", "1")]


async def test_a_wait_for_one_unknown_task_is_refused(leader: ServedLeader) -> None:
    refusal = await refused(wait_task(leader, "no"))
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.NOT_FOUND, "TASK_UNKNOWN")
    assert refusal.message == "no task has the id 'no'"


async def test_waits_and_watches_end_with_unavailable_when_the_leader_stops(leader: ServedLeader) -> None:
    await leader.submit("a")
    watch = await Watch(leader).begin()
    wait = asyncio.ensure_future(
        stream_refused(leader.scheduler.WaitTasks(pb.WaitTasksRequest(ids=["a"]), timeout=PATIENCE))
    )
    single = asyncio.ensure_future(refused(wait_task(leader, "a")))
    # The waits have been taken when a later request is answered.
    await leader.get("a")
    leader.stopped.set()
    for refusal in (await wait, await single, await refused(watch.call.read())):
        assert (refusal.code, refusal.reason) == (grpc.StatusCode.UNAVAILABLE, "NOT_SERVING")
        assert refusal.message == "the leader is stopping"


async def test_a_watch_shows_changes_from_now_on(leader: ServedLeader) -> None:
    await leader.submit("before")
    watch = await Watch(leader).begin()
    async with leader.worker() as session:
        await run(session)
        seen = await watch.until(("before", COMPLETED))
    assert seen[-1] == ("before", COMPLETED)
    watch.call.cancel()


async def test_a_watch_shows_only_what_its_filter_selects(leader: ServedLeader) -> None:
    watch = await Watch(leader, filter='id = "x*" AND status = COMPLETED').begin()
    await leader.submit("a1", "x1", "x2")
    async with leader.worker() as session:
        await run(session, 3)
        seen = await watch.until(("x1", COMPLETED), ("x2", COMPLETED))
    assert sorted(seen) == [("x1", COMPLETED), ("x2", COMPLETED)]
    watch.call.cancel()


async def test_a_watch_goes_on_from_its_token_across_a_restart(tmp_path: Path) -> None:
    async with serving(tmp_path) as leader:
        await leader.submit("old")
        watch = await Watch(leader).begin()
        await leader.submit("a", "b", "c")
        await watch.until(("a", PENDING), ("b", PENDING), ("c", PENDING))
        watch.call.cancel()
        async with leader.worker(credit=2) as session:
            await run(session, 2)
        await leader.submit("d")
    async with serving(tmp_path) as leader:
        await leader.submit("e")
        again = await Watch(leader, token=watch.token).begin()
        assert again.token == watch.token
        seen = await again.until(("e", PENDING))
        assert sorted(set(seen)) == [("a", COMPLETED), ("d", PENDING), ("e", PENDING), ("old", COMPLETED)]
        # It has caught up and goes on live.
        await leader.submit("f")
        assert await again.until(("f", PENDING)) == [("f", PENDING)]
        token = again.token
        again.call.cancel()
        nothing_new = await Watch(leader, token=token).begin()
        await leader.submit("g")
        assert await nothing_new.until(("g", PENDING)) == [("g", PENDING)]
        nothing_new.call.cancel()


async def test_a_watch_that_follows_misses_nothing_of_what_comes_in_large_batches(leader: ServedLeader) -> None:
    # More at once than a slow watcher may leave unread: one that reads must not be ended for it.
    watch = await Watch(leader).begin()
    batches = [[f"{batch}-{n}" for n in range(limits.BATCH_TASKS_MAX)] for batch in range(3)]
    await asyncio.gather(*(leader.submit(*batch) for batch in batches))
    await watch.until(*((id, PENDING) for batch in batches for id in batch))
    watch.call.cancel()


async def test_what_changes_while_a_watch_goes_on_from_its_token_comes_once(
    leader: ServedLeader, monkeypatch: pytest.MonkeyPatch
) -> None:
    watch = await Watch(leader).begin()
    await leader.submit("missed")
    changed_since = SqliteStore.changed_since

    async def reading(self: SqliteStore, changed: int, limit: int) -> Any:
        monkeypatch.setattr(SqliteStore, "changed_since", changed_since)
        await leader.submit("new")
        return await changed_since(self, changed, limit)

    monkeypatch.setattr(SqliteStore, "changed_since", reading)
    again = await Watch(leader, token=watch.token).begin()
    seen = await again.until(("missed", PENDING), ("new", PENDING))
    await leader.submit("last")
    assert seen + await again.until(("last", PENDING)) == [("missed", PENDING), ("new", PENDING), ("last", PENDING)]


async def test_a_watcher_that_does_not_read_is_ended_and_goes_on_from_its_last_token(leader: ServedLeader) -> None:
    watch = await Watch(leader, view=pb.TASK_VIEW_FULL).begin()
    ids: list[str] = []
    # The first fill gRPC's windows, so that the leader is held up; the rest pile up behind them.
    for batch in range(50):
        new = [f"{batch}-{n}" for n in range(350)]
        await leader.submit(*new, payload="x" * 10_000)
        ids += new
    seen: dict[str, None] = {}
    token = watch.token

    async def read(stream: Watch) -> None:
        nonlocal token
        while not seen.keys() >= set(ids):
            response = await stream.call.read()
            seen.update(dict.fromkeys(task.id for task in response.tasks))
            token = response.token or token

    refusal = await refused(read(watch))
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "WATCHER_BEHIND")
    assert refusal.message == "the watcher did not read fast enough; go on from the last token"
    again = Watch(leader, token=token)
    await read(again)
    again.call.cancel()
