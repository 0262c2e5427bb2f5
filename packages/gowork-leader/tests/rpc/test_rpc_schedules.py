"""Schedules over a connection: what is checked, what is answered, and what becomes of ticks."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import grpc
import pytest
from leader_serving import PATIENCE, ServedLeader, refused, serving

from gowork.proto import limits
from gowork.proto.cluster.v1 import leader_pb2 as cpb
from gowork.proto.scheduler.v1 import scheduler_pb2 as pb
from gowork.proto.worker.v1 import session_pb2 as spb

HOUR_MS = 3600 * 1000
NIGHTLY = pb.CronTimes(expression="0 3 * * *", time_zone="Europe/Berlin")


def schedule(name: str = "nightly", **fields: Any) -> pb.Schedule:
    if not fields.keys() & {"cron", "every", "at"}:
        fields["cron"] = NIGHTLY
    fields.setdefault("task", pb.Task(handler="report", payload='{"all": true}', plugin_version=">=1"))
    return pb.Schedule(name=name, **fields)


async def add(leader: ServedLeader, wanted: pb.Schedule, *, replace: bool = False) -> pb.AddScheduleResponse:
    request = pb.AddScheduleRequest(schedule=wanted, replace=replace)
    return await leader.scheduler.AddSchedule(request, timeout=PATIENCE)


async def get(leader: ServedLeader, name: str = "nightly") -> pb.Schedule:
    return (await leader.scheduler.GetSchedule(pb.GetScheduleRequest(name=name), timeout=PATIENCE)).schedule


async def test_a_schedule_is_answered_as_it_was_added(leader: ServedLeader):
    wanted = schedule(
        overlap=pb.SCHEDULE_OVERLAP_QUEUE_ONE,
        catch_up_window_ms=60_000,
        jitter_ms=5000,
        start_at_ms=1000,
        end_at_ms=limits.TIME_MS_MAX,
        on_orphaned=pb.SCHEDULE_ORPHANED_STOP,
    )
    answer = await add(leader, wanted)
    assert (answer.created, answer.replaced) == (True, False)
    found = await get(leader)
    assert found == answer.schedule
    for field, value in wanted.ListFields():
        assert getattr(found, field.name) == value
    assert len(found.next_at_ms) == limits.SCHEDULE_NEXT_MAX
    assert all(time.gmtime(at / 1000).tm_hour in (1, 2) for at in found.next_at_ms)
    assert found.created_at_ms == found.changed_at_ms > 0


async def test_defaults_are_filled_in(leader: ServedLeader):
    await add(leader, schedule())
    found = await get(leader)
    assert found.overlap == pb.SCHEDULE_OVERLAP_SKIP
    assert found.catch_up_window_ms == limits.CATCH_UP_MS_DEFAULT
    assert found.on_orphaned == pb.SCHEDULE_ORPHANED_GO_ON


async def test_the_same_schedule_again_succeeds_and_another_one_must_replace_it(leader: ServedLeader):
    await add(leader, schedule())
    again = await add(leader, schedule())
    assert (again.created, again.replaced) == (False, False)
    other = schedule(jitter_ms=1)
    refusal = await refused(add(leader, other))
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.ALREADY_EXISTS, "SCHEDULE_EXISTS")
    assert (await add(leader, other, replace=True)).replaced
    assert (await get(leader)).jitter_ms == 1


@pytest.mark.parametrize(
    ("field", "wanted"),
    [
        ("schedule.name", schedule("")),
        ("schedule.name", schedule("a/b")),
        ("schedule.name", schedule("x" * 129)),
        ("schedule.name", schedule("a\nb")),
        ("schedule.cron", pb.Schedule(name="s", task=pb.Task(handler="h"))),
        ("schedule.cron.expression", schedule(cron=pb.CronTimes(expression="61 * * * *"))),
        ("schedule.cron.time_zone", schedule(cron=pb.CronTimes(expression="* * * * *", time_zone="Mars/Olympus"))),
        ("schedule.cron", schedule(cron=pb.CronTimes(expression="* * */20 * 1L"))),
        ("schedule.every.every_ms", schedule(every=pb.EveryTimes(every_ms=1500))),
        ("schedule.every.every_ms", schedule(every=pb.EveryTimes())),
        ("schedule.every.anchor_ms", schedule(every=pb.EveryTimes(every_ms=1000, anchor_ms=-1000))),
        ("schedule.at.at_ms", schedule(at=pb.AtTimes())),
        ("schedule.at.at_ms", schedule(at=pb.AtTimes(at_ms=range(0, 1_001_000, 1000)))),
        ("schedule.at.at_ms[1]", schedule(at=pb.AtTimes(at_ms=[2000, 2000]))),
        ("schedule.at", schedule(at=pb.AtTimes(at_ms=[2000]))),
        ("schedule.task", schedule(task=None)),
        ("schedule.task.id", schedule(task=pb.Task(id="a", handler="h"))),
        ("schedule.task.run_at_ms", schedule(task=pb.Task(run_at_ms=5, handler="h"))),
        ("schedule.task.payload", schedule(task=pb.Task())),
        ("schedule.task.queue", schedule(task=pb.Task(handler="h", queue="q" * 129))),
        ("schedule.overlap", schedule(overlap=9)),
        ("schedule.on_orphaned", schedule(on_orphaned=3)),
        ("schedule.catch_up_window_ms", schedule(catch_up_window_ms=9999)),
        ("schedule.jitter_ms", schedule(jitter_ms=limits.JITTER_MS_MAX + 1)),
        ("schedule.end_at_ms", schedule(start_at_ms=5000, end_at_ms=5000)),
        ("schedule.start_at_ms", schedule(start_at_ms=-1)),
        ("schedule.pause_reason", schedule(pause_reason="x" * 1025)),
        ("schedule.every", schedule(every=pb.EveryTimes(every_ms=1000), end_at_ms=5000)),
    ],
)
async def test_what_is_wrong_with_a_schedule_is_named(leader: ServedLeader, field: str, wanted: pb.Schedule):
    refusal = await refused(add(leader, wanted))
    assert refusal.code is grpc.StatusCode.INVALID_ARGUMENT
    assert [violation.field for violation in refusal.violations] == [field], refusal


async def test_schedules_are_listed_by_name_page_by_page(leader: ServedLeader):
    names = [f"s{number:02}" for number in range(7)]
    for name in reversed(names):
        await add(leader, schedule(name))
    found: list[pb.Schedule] = []
    request = pb.ListSchedulesRequest(page_size=3)
    pages = 0
    while True:
        page = await leader.scheduler.ListSchedules(request, timeout=PATIENCE)
        found += page.schedules
        pages += 1
        request.page_token = page.next_page_token
        if not request.page_token:
            break
    assert ([each.name for each in found], pages) == (names, 3)
    assert all(len(each.next_at_ms) == 1 and not each.task.payload for each in found)
    refusal = await refused(leader.scheduler.ListSchedules(pb.ListSchedulesRequest(page_token="x"), timeout=PATIENCE))
    assert refusal.violations[0].field == "page_token"


async def test_a_page_of_schedules_ends_at_its_bytes(leader: ServedLeader, monkeypatch: pytest.MonkeyPatch):
    for number in range(3):
        await add(leader, schedule(f"s{number}"))
    monkeypatch.setattr(limits, "PAGE_BYTES_MAX", 10)
    page = await leader.scheduler.ListSchedules(pb.ListSchedulesRequest(), timeout=PATIENCE)
    assert [each.name for each in page.schedules] == ["s0"]
    assert page.next_page_token


async def test_ticks_make_tasks_that_workers_run(leader: ServedLeader):
    task = pb.Task(handler="h", payload="5", labels={"a": "b"}, queue="reports")
    await add(leader, schedule("s", every=pb.EveryTimes(every_ms=1000), task=task))
    async with leader.worker() as worker:
        first, second = await worker.grant(), None
        await worker.report(first)
        second = await worker.grant()
        sent = pb.Task.FromString(first.task)
        assert (sent.id, sent.payload, dict(sent.labels)) == (first.id, "5", {"a": "b"})
        assert first.id.startswith("s/20")
        assert first.id < second.id
        found = await get(leader, "s")
        assert [run.task_id for run in found.runs] == [second.id, first.id]
        assert [run.status for run in found.runs] == [pb.TASK_STATUS_RUNNING, pb.TASK_STATUS_COMPLETED]
        kept = await leader.get(first.id)
        assert (kept.id, kept.queue, kept.payload) == (first.id, "reports", "5")


async def test_a_pause_is_told_with_who_and_why_and_outlives_a_restart(tmp_path: Path):
    async with serving(tmp_path) as leader:
        await add(leader, schedule())
        await leader.scheduler.PauseSchedule(pb.PauseScheduleRequest(name="nightly", reason="audit"), timeout=PATIENCE)
    async with serving(tmp_path) as leader:
        found = await get(leader)
        assert (found.paused, found.pause_reason) == (True, "audit")
        assert found.paused_at_ms > 0
        resumed = await leader.scheduler.ResumeSchedule(pb.ResumeScheduleRequest(name="nightly"), timeout=PATIENCE)
        assert resumed.skipped_ticks == 0
        assert not (await get(leader)).paused


async def test_a_trigger_is_answered_with_the_task_and_repeated_with_the_same(leader: ServedLeader):
    await add(leader, schedule())
    request = pb.TriggerScheduleRequest(name="nightly", request_id="r 1")
    first = await leader.scheduler.TriggerSchedule(request, timeout=PATIENCE)
    again = await leader.scheduler.TriggerSchedule(request, timeout=PATIENCE)
    assert (first.task_id, first.existing) == ("nightly/manual-r 1", False)
    assert (again.task_id, again.existing) == (first.task_id, True)
    unnamed = [
        (await leader.scheduler.TriggerSchedule(pb.TriggerScheduleRequest(name="nightly"), timeout=PATIENCE)).task_id
        for _ in range(2)
    ]
    assert len(set(unnamed)) == 2
    assert all(id.startswith("nightly/manual-20") for id in unnamed)
    task = await leader.get(first.task_id)
    assert (task.plugin_version, task.payload) == (">=1", '{"all": true}')


@pytest.mark.parametrize("request_id", ["a/b", "x" * 65, "a\nb"])
async def test_a_bad_request_id_is_named(leader: ServedLeader, request_id: str):
    request = pb.TriggerScheduleRequest(name="nightly", request_id=request_id)
    refusal = await refused(leader.scheduler.TriggerSchedule(request, timeout=PATIENCE))
    assert refusal.violations[0].field == "request_id"


async def backfill(leader: ServedLeader, from_ms: int, until_ms: int) -> pb.BackfillScheduleResponse:
    request = pb.BackfillScheduleRequest(name="nightly", from_ms=from_ms, until_ms=until_ms)
    return await leader.scheduler.BackfillSchedule(request, timeout=PATIENCE)


async def test_a_backfill_makes_the_past_ticks_once(leader: ServedLeader):
    await add(leader, schedule(every=pb.EveryTimes(every_ms=HOUR_MS)))
    until_ms = int(time.time()) * 1000 // HOUR_MS * HOUR_MS
    answer = await backfill(leader, until_ms - 3 * HOUR_MS, until_ms)
    assert len(answer.task_ids) == 3
    again = await backfill(leader, until_ms - 4 * HOUR_MS, until_ms)
    assert (len(again.task_ids), again.existing) == (1, 3)


async def test_a_backfill_is_bounded_by_ticks_and_by_bytes(leader: ServedLeader, monkeypatch: pytest.MonkeyPatch):
    await add(leader, schedule(every=pb.EveryTimes(every_ms=HOUR_MS)))
    until_ms = int(time.time()) * 1000 // HOUR_MS * HOUR_MS
    assert len((await backfill(leader, until_ms - 1000 * HOUR_MS, until_ms)).task_ids) == 1000
    refusal = await refused(backfill(leader, until_ms - 1001 * HOUR_MS, until_ms))
    assert refusal.violations[0].field == "until_ms"
    assert "1000 ticks" in refusal.violations[0].description
    monkeypatch.setattr(limits, "BATCH_BYTES_MAX", 1000)
    refusal = await refused(backfill(leader, until_ms - 9 * HOUR_MS, until_ms))
    assert "1000 bytes" in refusal.violations[0].description


@pytest.mark.parametrize(
    ("field", "from_ms", "until_ms"),
    [("from_ms", 5, 5), ("from_ms", -1, 5), ("until_ms", 5, 4_000_000_000_000)],
)
async def test_a_backfill_of_no_span_or_of_the_future_is_refused(
    leader: ServedLeader, field: str, from_ms: int, until_ms: int
):
    refusal = await refused(backfill(leader, from_ms, until_ms))
    assert [violation.field for violation in refusal.violations] == [field]


async def test_a_removed_schedule_and_an_unknown_one_are_not_found(leader: ServedLeader):
    await add(leader, schedule())
    await leader.scheduler.RemoveSchedule(pb.RemoveScheduleRequest(name="nightly"), timeout=PATIENCE)
    for method, request in (
        ("GetSchedule", pb.GetScheduleRequest(name="nightly")),
        ("PauseSchedule", pb.PauseScheduleRequest(name="nightly")),
        ("ResumeSchedule", pb.ResumeScheduleRequest(name="nightly")),
        ("TriggerSchedule", pb.TriggerScheduleRequest(name="nightly")),
        ("RemoveSchedule", pb.RemoveScheduleRequest(name="nightly")),
        ("BackfillSchedule", pb.BackfillScheduleRequest(name="nightly", from_ms=1, until_ms=2)),
    ):
        refusal = await refused(getattr(leader.scheduler, method)(request, timeout=PATIENCE))
        assert (refusal.code, refusal.reason) == (grpc.StatusCode.NOT_FOUND, "SCHEDULE_UNKNOWN"), method
        request.name = ""
        refusal = await refused(getattr(leader.scheduler, method)(request, timeout=PATIENCE))
        assert refusal.violations[0].field == "name", method


async def test_nobody_else_submits_a_task_of_a_schedule(leader: ServedLeader):
    await add(leader, schedule())
    refusal = await refused(leader.submit("a", "nightly/2026-11-28T03:00:00Z"))
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "ID_RESERVED")
    assert refusal.violations[0].field == "tasks[1].id"
    task = pb.Task(id="nightly/manual-1", handler="h")
    refusal = await refused(leader.scheduler.ScheduleTask(pb.ScheduleTaskRequest(task=task), timeout=PATIENCE))
    assert refusal.violations[0].field == "task.id"


async def test_a_tick_waits_for_the_run_before_it(leader: ServedLeader):
    wanted = schedule("s", every=pb.EveryTimes(every_ms=1000), overlap=pb.SCHEDULE_OVERLAP_QUEUE_ONE)
    wanted.task.CopyFrom(pb.Task(handler="h"))
    await add(leader, wanted)
    async with leader.worker() as worker, asyncio.timeout(PATIENCE):
        first = await worker.grant()
        while not (found := await get(leader, "s")).waiting_tick_ms:
            await worker.send()
            await worker.frame()
        waiting = found.waiting_tick_ms
        await worker.report(first)
        second = await worker.grant()
        assert second.id == f"s/{time.strftime('%Y-%m-%dT%H:%M:%SZ', time.gmtime(waiting / 1000))}"


def declaring(*schedules: pb.Schedule, version: str = "1.0") -> spb.HandlerInfo:
    return spb.HandlerInfo(name="h", plugin="p", plugin_version=version, schedules=schedules)


async def test_a_worker_declares_schedules_of_its_handlers(leader: ServedLeader):
    wanted = pb.Schedule(name="s", cron=NIGHTLY)
    session = leader.session()
    await session.hello(handlers=[declaring(wanted)])
    assert (await session.welcome()).heeds_schedules
    found = await get(leader, "s")
    assert (found.declared_by_handler, found.declared_by_plugin, found.declared_by_version) == ("h", "p", "1.0")
    assert (found.task.handler, found.orphaned, found.declaration_ignored) == ("h", False, "")
    session.call.cancel()


async def test_why_a_declaration_does_not_hold_is_told(leader: ServedLeader):
    await add(leader, schedule("s"))
    async with leader.worker(handlers=[declaring(pb.Schedule(name="s", cron=NIGHTLY))]):
        found = await get(leader, "s")
        assert "somebody added" in found.declaration_ignored
        listed = await leader.scheduler.ListSchedules(pb.ListSchedulesRequest(), timeout=PATIENCE)
        assert listed.schedules[0].declaration_ignored == found.declaration_ignored
        assert not found.declared_by_handler


async def test_a_declared_schedule_at_fault_keeps_nothing_else_out(leader: ServedLeader):
    wanted = [
        pb.Schedule(name="bad", cron=pb.CronTimes(expression="61 * * * *")),
        pb.Schedule(name="good", cron=NIGHTLY),
        pb.Schedule(name="good", every=pb.EveryTimes(every_ms=1000)),
        pb.Schedule(name="other", cron=NIGHTLY, task=pb.Task(handler="other")),
        # It is over, which is no fault of a declaration.
        pb.Schedule(name="past", at=pb.AtTimes(at_ms=[1000])),
    ]
    async with leader.worker(handlers=[declaring(*wanted)]):
        listed = await leader.scheduler.ListSchedules(pb.ListSchedulesRequest(), timeout=PATIENCE)
        assert [each.name for each in listed.schedules] == ["good", "past"]
        (member,) = (await leader.cluster.Members(cpb.MembersRequest(), timeout=PATIENCE)).members
        faults = list(member.plugin_errors)
        assert len(faults) == 3
        assert "schedule 'bad' of handler 'h': cron.expression" in faults[0]
        assert "twice" in faults[1]
        assert "task.handler" in faults[2]


async def test_a_worker_declares_a_bounded_number_of_schedules(leader: ServedLeader):
    many = [pb.Schedule(name=f"s{number}", cron=NIGHTLY) for number in range(17)]
    session = leader.session()
    await session.hello(handlers=[declaring(*many)])
    assert [violation.field for violation in (await session.refusal()).violations] == ["hello.handlers[0].schedules"]
    infos = [
        spb.HandlerInfo(name=f"h{number}", schedules=[pb.Schedule(name=f"{number}-{each}") for each in range(16)])
        for number in range(63)
    ]
    session = leader.session()
    await session.hello(handlers=infos)
    assert [violation.field for violation in (await session.refusal()).violations] == ["hello.handlers"]
