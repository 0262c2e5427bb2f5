"""Pending tasks are changed over real connections, and stay changed when the leader starts again."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import grpc
import pytest
from leader_serving import PATIENCE, ServedLeader, refused, serving

from gowork.proto import limits
from gowork.proto.scheduler.v1 import scheduler_pb2 as pb
from gowork.proto.status import Refusal

HIGH = pb.TASK_PRIORITY_HIGH
TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


async def update(leader: ServedLeader, id: str, **fields: Any) -> None:
    await leader.scheduler.UpdateTask(pb.UpdateTaskRequest(id=id, **fields), timeout=PATIENCE)


async def update_refused(leader: ServedLeader, **fields: Any) -> Refusal:
    return await refused(leader.scheduler.UpdateTask(pb.UpdateTaskRequest(**fields), timeout=PATIENCE))


async def test_a_changed_task_is_what_all_see(leader: ServedLeader) -> None:
    labels = {"team": "web"}
    await leader.submit("a", payload="x", labels=labels, delay_ms=60_000, traceparent=TRACE, plugin_version=">=1")
    before = await leader.get("a")
    await update(leader, "a", queue="mail", priority=HIGH, run_at_ms=before.created_at_ms + 90_000)
    after = await leader.get("a")
    assert (after.queue, after.priority, after.run_at_ms) == ("mail", HIGH, before.created_at_ms + 90_000)
    assert list(after.changed_fields) == ["priority", "queue", "run_at_ms"]
    assert after.changed_at_ms >= after.created_at_ms == before.created_at_ms
    assert (after.payload, dict(after.labels), after.traceparent) == ("x", labels, TRACE)
    assert after.plugin_version == ">=1"
    assert after.delay_ms == 0
    assert [task.id for task in await leader.list(filter="queue = mail AND priority = HIGH")] == ["a"]
    assert await leader.list(filter="queue = default") == []
    stats = await leader.scheduler.Stats(pb.StatsRequest(), timeout=PATIENCE)
    assert [(row.queue, row.tasks) for row in stats.queues] == [("mail", 1)]
    queues = await leader.scheduler.ListQueues(pb.ListQueuesRequest(), timeout=PATIENCE)
    assert [(queue.name, queue.delayed) for queue in queues.queues] == [("mail", 1)]


async def test_a_changed_task_runs_and_its_worker_gets_it_as_it_is(leader: ServedLeader) -> None:
    await leader.submit("a", delay_ms=3_600_000, expires_in_ms=7_200_000)
    waiting = asyncio.ensure_future(leader.finished("a"))
    await update(leader, "a", delay_ms=0, expires_at_ms=0, queue="mail")
    async with leader.worker(queues=["mail"]) as session:
        grant = await session.grant()
        task = pb.Task.FromString(grant.task)
        assert (task.queue, task.delay_ms, task.run_at_ms, task.expires_at_ms) == ("mail", 0, 0, 0)
        assert (await update_refused(leader, id="a", queue="other")).reason == "TASK_RUNNING"
        await session.report(grant)
    assert (await waiting)["a"].status == pb.TASK_STATUS_COMPLETED
    refusal = await update_refused(leader, id="a", queue="other")
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "TASK_FINISHED")
    assert (await update_refused(leader, id="b", queue="other")).code is grpc.StatusCode.NOT_FOUND


async def test_the_submit_may_be_repeated_after_a_change_and_a_start(tmp_path: Path) -> None:
    async with serving(tmp_path) as leader:
        await leader.submit("a", "b", payload="x", expires_in_ms=3_600_000)
        await update(leader, "a", queue="mail", expires_in_ms=1_000_000)
    async with serving(tmp_path) as leader:
        response = await leader.submit("a", "b", payload="x", expires_in_ms=3_600_000)
        assert (response.created, response.existing) == (0, 2)
        changed = await leader.submit(
            "a", payload="x", queue="mail", expires_at_ms=(await leader.get("a")).expires_at_ms
        )
        assert changed.existing == 1
        call = leader.submit("a", payload="y", expires_in_ms=3_600_000)
        assert (await refused(call)).code is grpc.StatusCode.ALREADY_EXISTS
        assert (await leader.get("a")).queue == "mail"
        # They wait in the order in which they came to their lanes.
        await update(leader, "b", queue="mail")
        async with leader.worker(queues=["mail"]) as session:
            assert [grant.id for grant in await session.grants(2)] == ["a", "b"]


async def test_lengths_of_time_count_from_the_change(leader: ServedLeader) -> None:
    await leader.submit("a")
    before = round(time.time() * 1000)
    await update(leader, "a", delay_ms=60_000, expires_in_ms=120_000)
    task = await leader.get("a")
    assert before + 60_000 <= task.run_at_ms <= before + 60_000 + PATIENCE * 1000
    assert task.expires_at_ms - task.run_at_ms == 60_000
    await update(leader, "a", delay_ms=limits.DURATION_MS_MAX)
    await update(leader, "a", run_at_ms=limits.TIME_MS_MAX)
    assert (await leader.get("a")).run_at_ms == limits.TIME_MS_MAX


async def test_what_a_task_asks_for_already_changes_nothing(leader: ServedLeader) -> None:
    await leader.submit("a", "b")
    await update(leader, "a", queue="", priority=pb.TASK_PRIORITY_LOW, run_at_ms=0, expires_at_ms=0)
    task = await leader.get("a")
    assert (task.changed_at_ms, list(task.changed_fields)) == (0, [])
    assert [task.id for task in await leader.list()] == ["a", "b"]
    await update(leader, "a", queue="default", priority=HIGH)
    assert list((await leader.get("a")).changed_fields) == ["priority"]


async def test_watchers_are_told_of_a_change_and_not_of_a_removal(leader: ServedLeader) -> None:
    await leader.submit("a")
    watch = leader.scheduler.WatchTasks(pb.WatchTasksRequest(), timeout=PATIENCE)
    await watch.read()
    await update(leader, "a", queue="mail")
    response = await watch.read()
    assert ([task.queue for task in response.tasks], list(response.deleted)) == (["mail"], [])
    watch.cancel()


async def retry(leader: ServedLeader, **fields: Any) -> None:
    await leader.scheduler.RetryTask(pb.RetryTaskRequest(**fields), timeout=PATIENCE)


async def fail(leader: ServedLeader, id: str, handler: str = "h") -> None:
    async with leader.worker(handlers=[handler]) as session:
        await session.report(await session.grant(), outcome=pb.ATTEMPT_OUTCOME_FAILED)
    await leader.finished(id)


async def test_a_failed_task_runs_again_with_another_payload_and_handler(tmp_path: Path) -> None:
    asked: dict[str, Any] = {"payload": "x", "payload_form": pb.PAYLOAD_FORM_TEXT, "labels": {"l": "1"}}
    async with serving(tmp_path) as leader:
        await leader.submit("a", traceparent=TRACE, **asked)
        await fail(leader, "a")
        await retry(leader, id="a", payload="y", handler="other")
        task = await leader.get("a")
        assert (task.payload, task.payload_form, task.handler) == ("y", pb.PAYLOAD_FORM_UNSPECIFIED, "other")
        assert (task.traceparent, dict(task.labels), len(task.attempts)) == (TRACE, {"l": "1"}, 1)
        assert list(task.changed_fields) == ["handler", "payload"]
    async with serving(tmp_path) as leader:
        # What was asked for at first is the same task, and what is asked for now.
        first = await leader.submit("a", traceparent=TRACE, **asked)
        assert (first.created, first.existing) == (0, 1)
        assert (await leader.submit("a", payload="y", handler="other", labels={"l": "1"})).existing == 1
        await fail(leader, "a", "other")
        await retry(leader, id="a", data=b"\xff", payload_form=pb.PAYLOAD_FORM_DATA)
        async with leader.worker(handlers=["other"]) as session:
            granted = pb.Task.FromString((await session.grant()).task)
            assert (granted.payload, granted.data, granted.payload_form) == ("", b"\xff", pb.PAYLOAD_FORM_DATA)


async def test_what_it_has_already_is_no_change(leader: ServedLeader) -> None:
    await leader.submit("a", "b", payload="x")
    for id in ("a", "b"):
        await leader.scheduler.CancelTask(pb.CancelTaskRequest(id=id), timeout=PATIENCE)
    await retry(leader, id="a", payload="x", handler="h")
    assert list((await leader.get("a")).changed_fields) == []
    await retry(leader, id="b", payload="x", payload_form=pb.PAYLOAD_FORM_TEXT)
    assert list((await leader.get("b")).changed_fields) == ["payload"]
    await retry(leader, id="b", payload="x", payload_form=pb.PAYLOAD_FORM_TEXT)
    call = leader.scheduler.RetryTask(pb.RetryTaskRequest(id="b", payload="z"), timeout=PATIENCE)
    assert (await refused(call)).reason == "NOT_FINISHED"


async def test_what_is_wrong_with_a_retry_is_named(leader: ServedLeader) -> None:
    await leader.submit("a")
    cases: list[tuple[dict[str, Any], list[str]]] = [
        ({"payload": "x", "data": b"y"}, ["data"]),
        ({"payload": ""}, ["payload"]),
        ({"data": b""}, ["data"]),
        ({"payload": "x" * (limits.PAYLOAD_BYTES_MAX + 1)}, ["payload"]),
        ({"data": b"x" * (limits.PAYLOAD_BYTES_MAX + 1)}, ["data"]),
        ({"handler": "x" * 200}, ["handler"]),
    ]
    for fields, wrong in cases:
        refusal = await refused(leader.scheduler.RetryTask(pb.RetryTaskRequest(id="a", **fields), timeout=PATIENCE))
        assert refusal.code is grpc.StatusCode.INVALID_ARGUMENT
        assert [violation.field for violation in refusal.violations] == wrong


async def test_what_is_wrong_is_named(leader: ServedLeader) -> None:
    await leader.submit("a")
    for fields, wrong in (
        ({}, ["priority"]),
        ({"priority": 0}, ["priority"]),
        ({"priority": 9}, ["priority"]),
        ({"queue": "x" * 200}, ["queue"]),
        ({"run_at_ms": -1, "expires_at_ms": limits.TIME_MS_MAX + 1}, ["run_at_ms", "expires_at_ms"]),
        ({"delay_ms": limits.DURATION_MS_MAX + 1}, ["delay_ms"]),
        ({"delay_ms": 1, "run_at_ms": 0}, ["delay_ms"]),
        ({"expires_in_ms": 1, "expires_at_ms": 0}, ["expires_in_ms"]),
        ({"expires_in_ms": 0}, ["expires_in_ms"]),
    ):
        refusal = await update_refused(leader, id="a", **fields)
        assert refusal.code is grpc.StatusCode.INVALID_ARGUMENT
        assert [violation.field for violation in refusal.violations] == wrong, fields
    assert [v.field for v in (await update_refused(leader, queue="q")).violations] == ["id"]
    assert (await leader.get("a")).changed_at_ms == 0


async def test_what_a_client_sends_as_changed_is_not_believed(leader: ServedLeader) -> None:
    await leader.submit("a", changed_at_ms=5, changed_fields=["payload"])
    task = await leader.get("a")
    assert (task.changed_at_ms, list(task.changed_fields)) == (0, [])


async def test_a_task_that_rests_in_the_store_is_changed_and_found_after_a_start(tmp_path: Path) -> None:
    ids = [f"t{number:04}" for number in range(3000)]
    async with serving(tmp_path) as leader:
        await leader.submit(*ids)
        await update(leader, ids[-1], priority=HIGH)
        async with leader.worker(credit=1) as session:
            assert (await session.grant()).id == ids[-1]
    async with serving(tmp_path) as leader:
        await update(leader, ids[-2], queue="mail")
        queues = await leader.scheduler.ListQueues(pb.ListQueuesRequest(), timeout=PATIENCE)
        assert {queue.name: queue.waiting + queue.running for queue in queues.queues} == {"default": 2999, "mail": 1}


@pytest.mark.parametrize("times", [1, 3])
async def test_a_watch_from_a_token_ends_with_the_task_as_it_is(leader: ServedLeader, times: int) -> None:
    await leader.submit("a")
    watch = leader.scheduler.WatchTasks(pb.WatchTasksRequest(), timeout=PATIENCE)
    token = (await watch.read()).token
    watch.cancel()
    for number in range(times):
        await update(leader, "a", queue=f"mail{number}")
    watch = leader.scheduler.WatchTasks(pb.WatchTasksRequest(token=token), timeout=PATIENCE)
    told: list[str] = []
    while not told or told[-1] != f"mail{times - 1}":
        response = await watch.read()
        told += [*response.deleted, *(task.queue for task in response.tasks)]
    assert told == ["a"] * times + [f"mail{times - 1}"]
    watch.cancel()
