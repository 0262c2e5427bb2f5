"""The protocol of the session, against a scripted leader; handlers run in process."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import grpc

from gowork.proto.scheduler.v1 import scheduler_pb2 as tasks
from gowork.proto.status import Refusal
from gowork.proto.worker.v1 import session_pb2 as session
from gowork.worker import Cancel, Context, Fail, Retry, Snooze, handler
from gowork.worker._app import service as service_module
from gowork.worker._core.options import Options
from gowork.worker._desk.next_frame import FEW
from gowork.worker._supervisor import supervisor


@handler(max_attempts=3, retry_delay=2)
def ready_now() -> str:
    return "done"


@handler
async def endless(ctx: Context) -> None:
    ctx.progress(0.25, "on my way")
    await asyncio.Event().wait()


async def test_hello_introduces_the_worker(leader: Any, start_worker: Any) -> None:
    service = await start_worker([ready_now], slots=3, labels={"disk": "ssd"})
    hello = (await leader.session()).hello
    assert (hello.name, hello.slots, dict(hello.labels)) == (service.options.name, 3, {"disk": "ssd"})
    assert hello.instance
    assert hello.version
    by_name = {info.name: info for info in hello.handlers}
    assert by_name["echo"].is_default
    assert not by_name["ready_now"].is_default
    assert (by_name["ready_now"].retry.max_attempts, by_name["ready_now"].retry.initial_delay_ms) == (3, 2000)
    assert not by_name["echo"].HasField("retry")


async def test_first_credit_is_the_slots(leader: Any, start_worker: Any) -> None:
    await start_worker([ready_now], slots=3)
    scripted = await leader.session()
    assert await scripted.until(lambda: scripted.credit) == 3


async def test_task_without_a_handler_runs_the_default_one(leader: Any, start_worker: Any) -> None:
    service = await start_worker()
    scripted = await leader.session()
    scripted.grant(7, payload="hi")
    report = await scripted.report(7)
    assert report.outcome == tasks.ATTEMPT_OUTCOME_COMPLETED
    assert json.loads(report.result) == {"payload": "hi", "worker": service.options.name, "attempt": 1}


async def test_finished_task_gives_credit_for_the_next(leader: Any, start_worker: Any) -> None:
    await start_worker([ready_now], slots=1)
    scripted = await leader.session()
    scripted.grant(1, "ready_now")
    await scripted.report(1)
    assert await scripted.until(lambda: scripted.credit >= 2)


async def test_running_task_gives_no_credit(leader: Any, start_worker: Any) -> None:
    await start_worker([endless], slots=1)
    scripted = await leader.session()
    scripted.grant(1, "endless")
    await scripted.started(1)
    scripted.send(pings=[5])
    await scripted.until(lambda: scripted.pongs)
    assert scripted.credit == 1


async def test_ping_is_answered_by_its_number(leader: Any, start_worker: Any) -> None:
    await start_worker()
    scripted = await leader.session()
    scripted.send(pings=[42, 43])
    await scripted.until(lambda: scripted.pongs == [42, 43])


async def test_idle_worker_sends_empty_frames(leader: Any, start_worker: Any) -> None:
    leader.heartbeat_ms = 60
    await start_worker()
    scripted = await leader.session()
    await scripted.until(lambda: sum(not frame.ByteSize() for frame in scripted.frames) >= 2)


async def test_progress_is_passed_on(leader: Any, start_worker: Any) -> None:
    await start_worker([endless])
    scripted = await leader.session()
    scripted.grant(1, "endless")
    await scripted.started(1)
    word = scripted.progress[1]
    assert (word.id, word.fraction, word.message) == ("task-1", 0.25, "on my way")


async def test_report_is_sent_again_until_it_is_acknowledged(leader: Any, start_worker: Any) -> None:
    await start_worker([ready_now])
    first = await leader.session()
    first.grant(1, "ready_now")
    first.grant(2, "ready_now")
    await first.report(1)
    await first.report(2)
    first.acknowledge(1)
    first.send(pings=[1])
    await first.until(lambda: first.pongs)
    first.end(grpc.StatusCode.UNAVAILABLE)
    second = await leader.session()
    assert [(held.fence, held.state) for held in second.hello.held] == [(2, session.HELD_STATE_FINISHED)]
    await second.report(2)
    assert 1 not in second.reports
    second.acknowledge(2)
    second.end(grpc.StatusCode.UNAVAILABLE)
    assert not (await leader.session()).hello.held


async def test_reports_that_gather_leave_though_nothing_else_happens(leader: Any, start_worker: Any) -> None:
    await _gathered_reports_leave(leader, start_worker)


async def test_reports_that_gather_leave_though_their_timer_fires_early(
    leader: Any, start_worker: Any, monkeypatch: Any
) -> None:
    # A loop that is awake fires timers that are due within its clock's resolution.
    monkeypatch.setattr(asyncio.get_running_loop(), "_clock_resolution", 1.0)
    awake = asyncio.create_task(_stay_awake())
    await _gathered_reports_leave(leader, start_worker)
    awake.cancel()


async def test_reports_that_gather_leave_though_the_clock_is_coarse(
    leader: Any, start_worker: Any, monkeypatch: Any
) -> None:
    loop = asyncio.get_running_loop()
    time = loop.time
    monkeypatch.setattr(loop, "_clock_resolution", 1.0)
    monkeypatch.setattr(loop, "time", lambda: float(int(time())))
    awake = asyncio.create_task(_stay_awake())
    await _gathered_reports_leave(leader, start_worker)
    awake.cancel()


async def _gathered_reports_leave(leader: Any, start_worker: Any) -> None:
    leader.heartbeat_ms = leader.lease_ms = 3_600_000
    await start_worker([endless, ready_now], slots=16)
    scripted = await leader.session()
    scripted.grant(100, "endless")
    await scripted.started(100)
    for fence in range(1, FEW + 10):
        scripted.grant(fence, "ready_now")
        async with asyncio.timeout(20):
            await scripted.report(fence)


async def _stay_awake() -> None:
    while True:  # noqa: ASYNC110 - nothing is waited for
        await asyncio.sleep(0)


async def test_running_task_survives_a_broken_session(leader: Any, start_worker: Any) -> None:
    await start_worker([endless], slots=2)
    first = await leader.session()
    first.grant(1, "endless")
    await first.started(1)
    first.end(grpc.StatusCode.UNAVAILABLE)
    second = await leader.session()
    assert [(held.fence, held.state) for held in second.hello.held] == [(1, session.HELD_STATE_RUNNING)]
    assert second.hello.instance == first.hello.instance
    # What Hello listed is not counted: one slot is left.
    assert await second.until(lambda: second.credit) == 1
    second.send(cancelled=[1])
    assert (await second.report(1)).outcome == tasks.ATTEMPT_OUTCOME_CANCELLED


async def test_worker_tries_the_next_address_when_one_does_not_answer(leader: Any, start_worker: Any) -> None:
    await start_worker(addresses=["127.0.0.1:1", leader.address])
    assert (await leader.session()).hello.name


async def test_worker_comes_back_when_its_leader_does(leader: Any, start_worker: Any) -> None:
    await start_worker()
    await leader.session()
    await leader.stop()
    await leader.start()
    assert (await leader.session()).hello.name


async def test_worker_keeps_trying_after_a_refusal(
    leader: Any, start_worker: Any, caplog: Any, eventually: Any
) -> None:
    leader.refusal = grpc.StatusCode.ALREADY_EXISTS
    await start_worker()
    await eventually(lambda: "no session, trying again" in caplog.text)
    leader.refusal = None
    assert (await leader.session()).hello.name
    assert "Traceback" not in caplog.text


async def test_leader_that_says_why_it_cannot_serve_is_not_called_silent(
    leader: Any, start_worker: Any, caplog: Any, eventually: Any
) -> None:
    leader.refusal = Refusal(grpc.StatusCode.UNAVAILABLE, "NOT_SERVING", "the leader is stopping")
    await start_worker()
    await eventually(lambda: "no session, trying again" in caplog.text)
    reasons = [vars(record)["reason"] for record in caplog.records if record.getMessage() == "no session, trying again"]
    assert set(reasons) == {f"the leader at {leader.address} said: the leader is stopping"}


async def test_leader_of_a_lower_term_is_not_worked_for(leader: Any, start_worker: Any) -> None:
    leader.term = 5
    await start_worker()
    first = await leader.session()
    leader.term = 4
    first.end(grpc.StatusCode.UNAVAILABLE)
    stale = await leader.session()
    async with asyncio.timeout(120):
        await stale.closed.wait()
    assert not stale.frames
    leader.term = 5
    while (again := await leader.session()).closed.is_set():
        pass
    assert await again.until(lambda: again.credit)


async def test_released_task_is_stopped_and_never_reported(leader: Any, start_worker: Any) -> None:
    stopped = asyncio.Event()

    @handler("watched")
    async def watched(ctx: Context) -> None:
        ctx.progress(0.1)
        try:
            await asyncio.Event().wait()
        finally:
            stopped.set()

    await start_worker([watched, ready_now], slots=2)
    scripted = await leader.session()
    scripted.grant(1, "watched")
    await scripted.started(1)
    scripted.send(released=[1])
    async with asyncio.timeout(120):
        await stopped.wait()
    scripted.grant(2, "ready_now")
    await scripted.report(2)
    assert 1 not in scripted.reports
    assert await scripted.until(lambda: scripted.credit >= 4)


async def test_released_report_is_forgotten(leader: Any, start_worker: Any) -> None:
    await start_worker([ready_now])
    first = await leader.session()
    first.grant(1, "ready_now")
    await first.report(1)
    first.send(released=[1], pings=[1])
    await first.until(lambda: first.pongs)
    first.end(grpc.StatusCode.UNAVAILABLE)
    assert not (await leader.session()).hello.held


async def test_steering_is_reported(leader: Any, start_worker: Any) -> None:
    @handler
    def steer(what: str) -> None:
        match what:
            case "retry":
                raise Retry("not yet", delay=3)
            case "snooze":
                raise Snooze(delay=4)
            case "cancel":
                raise Cancel("nobody needs it")
            case "fail":
                raise Fail("hopeless")
            case _:
                raise AssertionError(what)

    await start_worker([steer], slots=4)
    scripted = await leader.session()
    for fence, what in enumerate(["retry", "snooze", "cancel", "fail"], 1):
        scripted.grant(fence, "steer", what)
    retry, snooze, cancel, fail = [await scripted.report(fence) for fence in range(1, 5)]
    assert (retry.outcome, retry.retry_delay_ms, retry.failure.message) == (
        tasks.ATTEMPT_OUTCOME_FAILED,
        3000,
        "not yet",
    )
    assert (snooze.outcome, snooze.retry_delay_ms) == (tasks.ATTEMPT_OUTCOME_SNOOZED, 4000)
    assert (cancel.outcome, cancel.reason) == (tasks.ATTEMPT_OUTCOME_CANCELLED, "nobody needs it")
    assert (fail.outcome, fail.failure.kind) == (tasks.ATTEMPT_OUTCOME_FAILED, tasks.FAILURE_KIND_NO_RETRY)


async def test_payload_that_does_not_fit_is_rejected_by_field(leader: Any, start_worker: Any) -> None:
    @handler
    def wants(numbers: dict[str, list[int]]) -> None: ...

    await start_worker([wants])
    scripted = await leader.session()
    scripted.grant(1, "wants", '{"a": [1, "two"]}')
    report = await scripted.report(1)
    assert report.failure.kind == tasks.FAILURE_KIND_REJECTED
    assert "$[...][1]" in report.failure.message


async def test_unknown_handler_is_rejected(leader: Any, start_worker: Any) -> None:
    await start_worker()
    scripted = await leader.session()
    scripted.grant(1, "nobody")
    report = await scripted.report(1)
    assert report.failure.kind == tasks.FAILURE_KIND_REJECTED
    assert "'nobody'" in report.failure.message


async def test_time_limit_cancels_an_async_handler(leader: Any, start_worker: Any) -> None:
    await start_worker([endless])
    scripted = await leader.session()
    scripted.grant(1, "endless", time_limit_ms=50)
    report = await scripted.report(1)
    assert (report.outcome, report.failure.kind) == (tasks.ATTEMPT_OUTCOME_TIMED_OUT, tasks.FAILURE_KIND_TIMEOUT)
    assert "0.05 s" in report.failure.message


async def test_time_limit_sets_the_token_of_a_threaded_handler(leader: Any, start_worker: Any) -> None:
    @handler(time_limit=0.05)
    def patient(ctx: Context) -> str:
        ctx.cancelled.wait()
        return "late"

    await start_worker([patient])
    scripted = await leader.session()
    scripted.grant(1, "patient")
    assert (await scripted.report(1)).outcome == tasks.ATTEMPT_OUTCOME_TIMED_OUT


async def test_drain_finishes_what_runs_and_takes_nothing_new(leader: Any, start_worker: Any) -> None:
    go = asyncio.Event()

    @handler
    async def waits(ctx: Context) -> str:
        ctx.progress(0.1)
        await go.wait()
        return "finished"

    service = await start_worker([waits], slots=1)
    scripted = await leader.session()
    scripted.grant(1, "waits")
    await scripted.started(1)
    service.stop()
    await scripted.until(lambda: scripted.condition.draining)
    scripted.grant(2, "waits")
    assert (await scripted.report(2)).outcome == tasks.ATTEMPT_OUTCOME_INTERRUPTED
    go.set()
    assert (await scripted.report(1)).result == '"finished"'
    await scripted.until(lambda: scripted.condition.leaving)
    async with asyncio.timeout(120):
        await service.task


async def test_second_stop_hands_back_at_once(leader: Any, start_worker: Any) -> None:
    service = await start_worker([endless], slots=1)
    scripted = await leader.session()
    scripted.grant(1, "endless")
    await scripted.started(1)
    service.stop()
    await scripted.until(lambda: scripted.condition.draining)
    service.stop()
    report = await scripted.report(1)
    assert report.outcome == tasks.ATTEMPT_OUTCOME_INTERRUPTED
    await scripted.until(lambda: scripted.condition.leaving)
    async with asyncio.timeout(120):
        await service.task


async def test_drain_hands_back_what_outlasts_its_budget(leader: Any, start_worker: Any) -> None:
    service = await start_worker([endless], slots=1, drain_timeout=0.05)
    scripted = await leader.session()
    scripted.grant(1, "endless")
    await scripted.started(1)
    service.stop()
    assert (await scripted.report(1)).outcome == tasks.ATTEMPT_OUTCOME_INTERRUPTED
    await scripted.until(lambda: scripted.condition.leaving)
    async with asyncio.timeout(120):
        await service.task


async def test_leader_drains_the_worker_within_its_budget(leader: Any, start_worker: Any) -> None:
    service = await start_worker([endless], slots=1)
    scripted = await leader.session()
    scripted.grant(1, "endless")
    await scripted.started(1)
    scripted.grant(2, "endless")
    scripted.send(drains=[session.Drain(budget_ms=50)])
    await scripted.until(lambda: scripted.condition.draining)
    assert (await scripted.report(2)).outcome == tasks.ATTEMPT_OUTCOME_INTERRUPTED
    assert (await scripted.report(1)).outcome == tasks.ATTEMPT_OUTCOME_INTERRUPTED
    await scripted.until(lambda: scripted.condition.leaving)
    async with asyncio.timeout(120):
        await service.task


async def test_drain_without_a_budget_takes_the_workers_own(leader: Any, start_worker: Any) -> None:
    service = await start_worker([endless], slots=1, drain_timeout=0.05)
    scripted = await leader.session()
    scripted.grant(1, "endless")
    await scripted.started(1)
    scripted.send(drains=[session.Drain()])
    assert (await scripted.report(1)).outcome == tasks.ATTEMPT_OUTCOME_INTERRUPTED
    async with asyncio.timeout(120):
        await service.task


async def test_second_drain_changes_nothing_and_a_stop_gives_what_is_left_of_both_budgets(
    leader: Any, start_worker: Any
) -> None:
    service = await start_worker([endless], slots=1, drain_timeout=100.0)
    scripted = await leader.session()
    scripted.grant(1, "endless")
    await scripted.started(1)
    scripted.send(drains=[session.Drain(budget_ms=3_600_000)])
    await scripted.until(lambda: scripted.condition.draining)
    scripted.send(drains=[session.Drain(budget_ms=1)], pings=[1])
    await scripted.until(lambda: scripted.pongs)
    service.stop()
    assert 99.0 < service.seconds_left <= 100.0
    assert not scripted.reports
    service.stop()
    assert (await scripted.report(1)).outcome == tasks.ATTEMPT_OUTCOME_INTERRUPTED
    async with asyncio.timeout(120):
        await service.task


async def test_worker_that_comes_back_is_drained_with_its_welcome(leader: Any, start_worker: Any) -> None:
    service = await start_worker([endless], slots=1)
    (await leader.session()).end(grpc.StatusCode.UNAVAILABLE)
    leader.drain = session.Drain()
    scripted = await leader.session()
    await scripted.until(lambda: scripted.condition.leaving)
    async with asyncio.timeout(120):
        await service.task


def test_stop_fits_into_the_time_that_containers_get() -> None:
    budget = Options(name="w").drain_timeout + 2 * supervisor._INTERRUPT_GRACE
    last = max(service_module._ACKNOWLEDGE_TIMEOUT + service_module._GOODBYE_TIMEOUT, supervisor._STOP_GRACE)
    assert budget + last < 119


async def test_nothing_new_starts_while_too_much_is_unacknowledged(leader: Any, start_worker: Any) -> None:
    @handler
    def big() -> str:
        return "x" * 2000

    await start_worker([big], slots=1, unacknowledged_bytes_max=1000)
    scripted = await leader.session()
    scripted.grant(1, "big")
    await scripted.report(1)
    scripted.grant(2, "big")
    scripted.send(pings=[1])
    await scripted.until(lambda: scripted.pongs)
    assert 2 not in scripted.reports
    scripted.acknowledge(1)
    await scripted.report(2)


async def test_lost_lease_is_told_to_handlers_and_starts_nothing(leader: Any, start_worker: Any) -> None:
    leader.lease_ms = 600
    lost = asyncio.Event()

    @handler(on_lease_lost="stop")
    async def careful(ctx: Context) -> None:
        ctx.progress(0.1)
        assert ctx.lease_valid
        try:
            await asyncio.Event().wait()
        finally:
            if not ctx.lease_valid:
                lost.set()

    await start_worker([careful])
    first = await leader.session()
    first.grant(1, "careful")
    await first.started(1)
    await leader.stop()
    async with asyncio.timeout(120):
        await lost.wait()
    await leader.start()
    second = await leader.session()
    assert (await second.report(1)).outcome == tasks.ATTEMPT_OUTCOME_INTERRUPTED


async def test_worker_whose_heartbeats_are_not_answered_gives_the_link_up_and_then_its_lease(
    leader: Any, start_worker: Any
) -> None:
    leader.lease_ms = 600
    stopped = asyncio.get_running_loop().create_future()

    @handler(on_lease_lost="stop")
    async def careful(ctx: Context) -> None:
        ctx.progress(0.1)
        try:
            await asyncio.Event().wait()
        finally:
            stopped.set_result(ctx.lease_valid)

    await start_worker([careful])
    first = await leader.session()
    first.grant(1, "careful")
    await first.started(1)
    leader.answers = False
    # What the leader says by itself is no answer: it may hear nothing.
    first.send(pings=[1])
    async with asyncio.timeout(120):
        await first.closed.wait()
    second = await leader.session()
    assert [(held.fence, held.state) for held in second.hello.held] == [(1, session.HELD_STATE_RUNNING)]
    leader.refusal = grpc.StatusCode.UNAVAILABLE
    second.end(grpc.StatusCode.UNAVAILABLE)
    async with asyncio.timeout(120):
        assert await stopped is False
    leader.refusal, leader.answers = None, True
    third = await leader.session()
    assert (await third.report(1)).outcome == tasks.ATTEMPT_OUTCOME_INTERRUPTED
    third.acknowledge(1)
    third.grant(2, "careful")
    await third.started(2)


async def test_busy_worker_sends_heartbeats_too(leader: Any, start_worker: Any) -> None:
    leader.heartbeat_ms = 60

    @handler
    async def talkative(ctx: Context) -> None:
        while True:
            ctx.progress(0.5)
            await asyncio.sleep(0)

    await start_worker([talkative])
    scripted = await leader.session()
    scripted.grant(1, "talkative")
    await scripted.until(lambda: sum(bool(frame.progress) for frame in scripted.frames) >= 2)
    seen = len(scripted.frames)
    await scripted.until(lambda: sum(not frame.ByteSize() for frame in scripted.frames[seen:]) >= 2)


async def test_cut_off_worker_starts_nothing_from_its_buffer_until_it_is_welcomed(
    leader: Any, start_worker: Any, eventually: Any
) -> None:
    leader.reconnect_grace_ms = 10
    started: list[str] = []
    go = asyncio.Event()

    @handler
    async def waits(ctx: Context) -> None:
        started.append(ctx.id)
        ctx.progress(0.1)
        await go.wait()

    service = await start_worker([waits], slots=1)
    first = await leader.session()
    for fence in (1, 2, 3):
        first.grant(fence, "waits")
    await first.started(1)
    first.send(pings=[1])
    await first.until(lambda: first.pongs)
    await leader.stop()
    await eventually(lambda: service.supervisor.desk.pause.is_cut_off)
    go.set()
    # What runs goes on, and the slot that it leaves stays empty.
    await eventually(lambda: service.supervisor.slots()["busy"] == 0)
    assert started == ["task-1"]
    leader.released = [2]
    await leader.start()
    second = await leader.session()
    assert [(held.fence, held.state) for held in second.hello.held] == [
        (2, session.HELD_STATE_BUFFERED),
        (3, session.HELD_STATE_BUFFERED),
        (1, session.HELD_STATE_FINISHED),
    ]
    assert (await second.report(3)).outcome == tasks.ATTEMPT_OUTCOME_COMPLETED
    assert started == ["task-1", "task-3"]


async def test_task_stuck_behind_long_ones_is_handed_back(leader: Any, start_worker: Any) -> None:
    await start_worker([endless], slots=1)
    scripted = await leader.session()
    scripted.grant(1, "endless")
    scripted.grant(2, "endless")
    await scripted.started(1)
    report = await scripted.report(2)
    assert report.outcome == tasks.ATTEMPT_OUTCOME_INTERRUPTED
    assert report.execution_us == 0


async def test_credit_grows_to_ten_times_the_slots_with_short_tasks(leader: Any, start_worker: Any) -> None:
    await start_worker([ready_now], slots=4)
    scripted = await leader.session()
    granted = 0
    # A worker that runs 800 tasks a second has 40 in its buffer. A slow and busy machine comes no further.
    while scripted.credit - len(scripted.reports) < 40:
        for fence in range(granted + 1, scripted.credit + 1):
            scripted.grant(fence, "ready_now")
        granted = scripted.credit
        await scripted.until(lambda seen=granted: scripted.credit > seen)
