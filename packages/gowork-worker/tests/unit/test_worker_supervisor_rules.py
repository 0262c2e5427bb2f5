"""What the supervisor owes its leader and its runners, without a process or a connection."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest

from gowork.proto.scheduler.v1 import scheduler_pb2 as tasks
from gowork.proto.worker.v1 import session_pb2 as session
from gowork.worker._runner import messages, outcomes
from gowork.worker._runner.failure_log import HANDLER_LINES_MAX, Detail, FailureLog
from gowork.worker._runner.table import Running
from gowork.worker._session.lease import Lease
from gowork.worker._supervisor import fleet
from gowork.worker._supervisor.event_log import EVENT_LINES_MAX, EventLog
from gowork.worker._supervisor.held import Held
from gowork.worker._supervisor.options import Options
from gowork.worker._supervisor.runner import Runner
from gowork.worker._supervisor.supervisor import Supervisor

READY = messages.Ready((), "echo", ())


class FakeRunner(Runner):
    """Notes what is said to it; the test says what it runs."""

    def __init__(self, supervisor: Supervisor, slots: int = 2) -> None:
        super().__init__("fake", slots, supervisor)
        self.granted: list[int] = []
        self.cancelled: list[int] = []
        self.said: list[Any] = []
        self.runs: set[int] = set()

    def send_grants(self, grants: list[session.Grant]) -> None:
        self.granted += [grant.fence for grant in grants]

    def send_cancel(self, fences: list[int]) -> None:
        self.cancelled += fences

    def send(self, message: messages.ToRunner) -> None:
        self.said.append(message)

    def running(self) -> list[Running]:
        return [Running(fence, 0, 0) for fence in sorted(self.runs)]

    def begun(self) -> set[int]:
        return self.runs


class Stage:
    """A supervisor with runners that come and go as the test says."""

    def __init__(self, **options: Any) -> None:
        self.supervisor = Supervisor(Options(name="w", slots=2, runners=1, **options))

    def runner(self, slots: int = 2) -> FakeRunner:
        runner = FakeRunner(self.supervisor, slots)
        self.supervisor.fleet.ordinary.append(runner)
        return runner

    def ready(self, slots: int = 2) -> FakeRunner:
        runner = self.runner(slots)
        runner.is_ready = True
        self.supervisor.runner_ready(runner, READY)
        return runner

    def grant(self, *fences: int) -> None:
        grants = [
            session.Grant(fence=fence, id=f"t{fence}", task=tasks.Task(id=f"t{fence}").SerializeToString())
            for fence in fences
        ]
        self.supervisor.receive(session.ConnectResponse(grants=grants))

    def receive(self, **fields: Any) -> None:
        self.supervisor.receive(session.ConnectResponse(**fields))

    def report(self, runner: FakeRunner, *fences: int, size: int = 10) -> None:
        reports = [outcomes.interrupted(fence, f"t{fence}", "") for fence in fences]
        self.supervisor.runner_reported(runner, reports, size)

    def take(self) -> session.ConnectRequest:
        return self.supervisor.take(1 << 20) or session.ConnectRequest()

    def reported(self) -> dict[int, int]:
        """Fence and outcome of what goes to the leader now."""
        return {report.fence: report.outcome for report in self.take().reports}


@pytest.fixture
async def stage() -> Stage:
    return Stage()


async def test_task_that_is_cancelled_while_no_runner_is_ready_is_reported_and_never_started(stage: Stage) -> None:
    stage.grant(1, 2)
    stage.receive(cancelled=[1])
    assert stage.reported() == {1: tasks.ATTEMPT_OUTCOME_CANCELLED}
    assert stage.ready().granted == [2]


async def test_runner_that_starts_while_the_lease_is_lost_is_told(stage: Stage) -> None:
    stage.supervisor.lose_lease()
    runner = stage.ready()
    assert messages.Lease(False) in runner.said
    stage.supervisor.start_session()
    assert messages.Lease(True) in runner.said


async def test_runner_that_starts_while_the_worker_is_cut_off_starts_nothing_until_the_next_session(
    stage: Stage,
) -> None:
    stage.supervisor.cut_off()
    runner = stage.ready()
    assert runner.said == [messages.Slots(0)]
    stage.supervisor.start_session()
    assert runner.said[-1] == messages.Slots(2)


async def test_released_task_is_stopped_and_its_report_is_dropped(stage: Stage) -> None:
    runner = stage.ready()
    stage.grant(1, 2)
    stage.receive(released=[1])
    assert runner.cancelled == [1]
    stage.report(runner, 1, 2)
    assert set(stage.reported()) == {2}


async def test_released_task_is_not_named_by_the_next_hello(stage: Stage) -> None:
    stage.ready()
    stage.grant(1, 2)
    stage.receive(released=[1])
    assert [held.fence for held in stage.supervisor.hello_held()] == [2]


async def test_what_a_welcome_releases_is_stopped_before_anything_is_started_again(stage: Stage) -> None:
    runner = stage.ready()
    stage.grant(1)
    stage.supervisor.cut_off()
    runner.said.clear()
    order: list[Any] = []
    runner.send_cancel = order.append  # type: ignore[method-assign]
    runner.send = order.append  # type: ignore[method-assign]
    stage.supervisor.start_session(session.ConnectResponse(released=[1]))
    assert order == [[1], messages.Slots(2)]


async def test_nothing_of_a_fence_is_reported_twice(stage: Stage) -> None:
    runner = stage.ready()
    stage.grant(1)
    stage.report(runner, 1)
    assert set(stage.reported()) == {1}
    stage.receive(acknowledged=[1])
    stage.report(runner, 1)
    assert stage.reported() == {}
    assert stage.supervisor.unacknowledged == 0


async def test_report_is_named_by_hello_until_it_is_acknowledged(stage: Stage) -> None:
    runner = stage.ready()
    stage.grant(1, 2)
    runner.runs = {2}
    stage.report(runner, 1)
    named = {held.fence: held.state for held in stage.supervisor.hello_held()}
    assert named == {1: session.HELD_STATE_FINISHED, 2: session.HELD_STATE_RUNNING}
    stage.receive(acknowledged=[1])
    assert [held.fence for held in stage.supervisor.hello_held()] == [2]


async def test_tasks_that_are_granted_while_the_worker_drains_go_back(stage: Stage) -> None:
    runner = stage.ready()
    stage.supervisor.draining = True
    stage.grant(1)
    assert runner.granted == []
    assert stage.reported() == {1: tasks.ATTEMPT_OUTCOME_INTERRUPTED}


async def test_runner_that_ends_by_itself_loses_what_it_had_begun_and_gives_back_the_rest(stage: Stage) -> None:
    runner = stage.ready()
    stage.grant(1, 2)
    runner.runs = {1}
    stage.supervisor.runner_ended(runner, "it crashed")
    assert stage.reported() == {1: tasks.ATTEMPT_OUTCOME_LOST, 2: tasks.ATTEMPT_OUTCOME_INTERRUPTED}


async def test_no_credit_is_given_for_the_slots_of_a_runner_that_is_blocked(stage: Stage) -> None:
    blocked, _ = stage.ready(2), stage.ready(3)
    blocked.is_blocked = True
    assert list(stage.take().credit) == [3]


async def test_credit_is_told_anew_in_each_session(stage: Stage) -> None:
    stage.ready(2)
    assert list(stage.take().credit) == [2]
    assert list(stage.take().credit) == []
    stage.supervisor.start_session()
    assert list(stage.take().credit) == [2]


async def test_condition_is_told_anew_in_each_session(stage: Stage) -> None:
    stage.supervisor.draining = True
    assert [condition.draining for condition in stage.take().conditions] == [True]
    assert list(stage.take().conditions) == []
    stage.supervisor.start_session()
    assert [condition.draining for condition in stage.take().conditions] == [True]


async def test_pause_over_unacknowledged_reports_lasts_until_half_of_them_are_acknowledged() -> None:
    stage = Stage(unacknowledged_bytes_max=100)
    runner = stage.ready(8)
    stage.grant(1, 2, 3, 4)
    for fence in (1, 2, 3):
        stage.report(runner, fence, size=40)
    assert runner.said == [messages.Slots(0)]
    stage.receive(acknowledged=[1])
    assert runner.said == [messages.Slots(0)]
    stage.receive(acknowledged=[2])
    assert runner.said == [messages.Slots(0), messages.Slots(8)]


async def test_progress_of_a_task_is_not_told_after_its_report(stage: Stage) -> None:
    runner = stage.ready()
    stage.grant(1)
    stage.supervisor.runner_progressed([session.ProgressReport(fence=1, fraction=0.5)])
    stage.report(runner, 1)
    request = stage.take()
    assert len(request.reports) == 1
    assert list(request.progress) == []


async def test_task_that_a_runner_gives_back_goes_to_one_with_room_before_it_goes_to_the_leader(stage: Stage) -> None:
    full = stage.ready(1)
    stage.grant(1, 2)
    free = stage.ready(1)
    stage.supervisor.runner_said(full, messages.Returned((2,)))
    assert free.granted == [2]
    assert stage.reported() == {}


async def test_task_that_is_cancelled_is_not_given_to_another_runner_when_its_own_gives_it_back(stage: Stage) -> None:
    full = stage.ready(1)
    stage.grant(1, 2)
    free = stage.ready(1)
    stage.receive(cancelled=[2])
    stage.supervisor.runner_said(full, messages.Returned((2,)))
    assert free.granted == []
    assert stage.reported() == {2: tasks.ATTEMPT_OUTCOME_CANCELLED}


async def test_lease_counts_from_when_the_answered_heartbeat_was_sent() -> None:
    lost = asyncio.Event()
    lease = Lease(lost.set)
    lease.seconds = 3600.0
    lease.renew(asyncio.get_running_loop().time() - 3600.0)
    async with asyncio.timeout(120):
        await lost.wait()


async def test_lease_that_is_renewed_is_not_lost_by_the_earlier_reckoning() -> None:
    lost: list[bool] = []
    lease = Lease(lambda: lost.append(True))
    lease.seconds = 3600.0
    now = asyncio.get_running_loop().time()
    lease.renew(now - 3600.0)
    lease.renew(now)
    for _ in range(3):
        await asyncio.sleep(0)
    assert lost == []


LOST = "task lost with its runner"


async def test_a_runner_that_takes_many_tasks_along_leaves_few_lines_and_their_number(
    stage: Stage, caplog: pytest.LogCaptureFixture
) -> None:
    now = 0.0
    stage.supervisor._events = EventLog(lambda: now)
    for fences in (range(1, 1001), range(1001, 1003)):
        runner = stage.ready(len(fences))
        stage.grant(*fences)
        runner.runs = set(fences)
        stage.supervisor.fleet.ordinary.remove(runner)
        stage.supervisor.runner_ended(runner, "it crashed")
        now += 1.5
    lines = [record for record in caplog.records if record.message == LOST]
    assert len(lines) == EVENT_LINES_MAX + 2
    assert [getattr(line, "suppressed", 0) for line in lines[-2:]] == [1000 - EVENT_LINES_MAX, 0]
    assert [line.__dict__["task_id"] for line in (lines[0], lines[-1])] == ["t1", "t1002"]


async def test_what_the_supervisor_left_out_of_the_log_is_told(stage: Stage, caplog: pytest.LogCaptureFixture) -> None:
    now = 0.0
    stage.supervisor._events = EventLog(lambda: now)
    stage.supervisor._failures = FailureLog(Detail.TYPE, lambda: now)
    held = Held(session.Grant(fence=1, id="t1", task=tasks.Task(id="t1", handler="slow").SerializeToString()))
    for _ in range(EVENT_LINES_MAX + 3):
        stage.supervisor._events.tell(logging.WARNING, "time limit ran out", dict)
        stage.supervisor._note_failure(held, outcomes.timed_out(1, "t1", 5))
    del caplog.records[:]
    for now in (0.5, 1.5, 2.5):
        stage.supervisor._look(now)
    assert [(record.message, record.__dict__["suppressed"]) for record in caplog.records] == [
        ("lines were left out", 3),
        ("failed attempts were not logged one by one", EVENT_LINES_MAX + 3 - HANDLER_LINES_MAX),
    ]


async def test_a_runner_that_does_not_leave_its_lifespans_is_ended_and_named_once(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(fleet, "_STOP_GRACE", -1.0)
    runner = stage.ready()
    asked = 0

    def kill() -> bool:
        nonlocal asked
        asked += 1
        runner.is_ready = False
        if asked == 3:
            stage.supervisor.fleet.ordinary.remove(runner)
        return True

    monkeypatch.setattr(runner, "kill", kill)
    await stage.supervisor.close()
    assert asked == 3
    warnings = [record for record in caplog.records if record.levelname == "WARNING"]
    assert [(record.message, record.__dict__["runner"]) for record in warnings] == [
        ("a runner did not leave its lifespans in time, and is ended", "fake")
    ]


@pytest.mark.parametrize(
    ("report", "goes_on"), [(outcomes.lost(1, "t1", "struck"), False), (outcomes.completed(1, "t1", None), True)]
)
async def test_a_process_that_lost_its_isolated_task_and_lives_gets_no_other(
    stage: Stage, report: session.Report, goes_on: bool
) -> None:
    alone = FakeRunner(stage.supervisor, 1)
    alone.alone = alone.is_ready = True
    stage.supervisor.fleet.solo.add(alone)
    stage.grant(1)
    alone.start_tasks(stage.supervisor._take_waiting(), 0.0)
    stage.supervisor.runner_reported(alone, [report], 10)
    assert stage.reported() == {1: report.outcome}
    assert alone.said == ([] if goes_on else [messages.Stop()])
    assert alone.is_ready is goes_on


async def test_runner_whose_tasks_wait_gets_its_own_slots_back_after_a_pause_and_no_more() -> None:
    stage = Stage()
    runner = stage.ready()
    stage.supervisor.start_session()
    stage.grant(1, 2)
    stage.supervisor.runner_said(runner, messages.Waiting(2))
    assert runner.usable_slots == 4
    stage.supervisor.cut_off()
    stage.supervisor.start_session()
    assert runner.said == [messages.Slots(0), messages.Slots(2)]


async def test_credit_grows_by_what_waits_and_counts_no_task_that_has_ended() -> None:
    stage = Stage()
    runner = stage.ready()
    stage.supervisor.start_session()
    stage.grant(1, 2)
    stage.supervisor.runner_said(runner, messages.Waiting(2))
    request = stage.supervisor.take(1 << 20)
    assert request is not None
    assert list(request.credit) == [4]
    # The reports come before the runner's next word on who waits.
    stage.supervisor.runner_reported(runner, [outcomes.completed(fence, f"t{fence}", "", ()) for fence in (1, 2)], 9)
    assert (runner.waiting, runner.usable_slots) == (2, 2)


async def test_isolated_runner_that_gets_ready_while_nothing_is_started_keeps_its_slot() -> None:
    stage = Stage()
    stage.supervisor.cut_off()
    ordinary = stage.ready()
    apart = FakeRunner(stage.supervisor, 1)
    apart.alone = apart.is_ready = True
    stage.supervisor.fleet.solo.add(apart)
    stage.supervisor.runner_ready(apart, READY)
    stage.supervisor.start_session()
    # Going on is told to ordinary runners alone.
    assert ordinary.said == [messages.Slots(0), messages.Slots(2)]
    assert apart.said == []


async def test_new_runner_leaves_the_slot_of_an_isolated_task_before_it_starts_anything() -> None:
    stage = Stage()
    order: list[object] = []
    first = stage.ready()
    apart = FakeRunner(stage.supervisor, 1)
    apart.alone = apart.is_ready = True
    stage.supervisor.fleet.solo.add(apart)
    task = Held(session.Grant(fence=1, id="t1"))
    task.reserved_of = first
    apart.start_tasks([task], 0.0)
    first.lent = first.withheld = first.reserved = 1
    stage.supervisor.fleet.ordinary.remove(first)
    stage.supervisor.runner_ended(first, "killed")
    stage.grant(2)
    second = stage.runner()
    second.is_ready = True
    second.send = order.append  # type: ignore[method-assign, assignment]
    second.send_grants = order.append  # type: ignore[method-assign, assignment]
    stage.supervisor.runner_ready(second, READY)
    assert order == [messages.Slots(1), [session.Grant(fence=2, id="t2", task=tasks.Task(id="t2").SerializeToString())]]
