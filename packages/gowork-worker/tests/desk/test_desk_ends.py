"""How runners end, and what the desk says once and no more."""

from __future__ import annotations

import pytest
from desk_fleet import completed
from desk_stage import READY, FakeRunner, Stage

from gowork.proto.scheduler.v1 import scheduler_pb2 as tasks
from gowork.proto.worker.v1 import session_pb2 as session
from gowork.worker._desk.events import (
    CloseBegun,
    CloseForced,
    CutOff,
    HandBackForced,
    LeaseLost,
    PipeEnded,
    Ponged,
    Progressed,
    Reported,
    RunnerGone,
    RunnerReady,
    SessionStarted,
    WorkerStarted,
)
from gowork.worker._desk.instructions import BeginDrain, NoteLoss
from gowork.worker._runner import messages
from gowork.worker._runner.messages import StopKind


@pytest.fixture
def stage() -> Stage:
    return Stage()


def start(stage: Stage) -> FakeRunner:
    """Starts the worker's own runner, which gets ready."""
    stage.tell(WorkerStarted())
    (runner,) = stage.runners.values()
    stage.tell(RunnerReady(runner.id, READY))
    return runner


def test_the_last_of_several_drains_in_one_frame_counts(stage: Stage) -> None:
    stage.receive(drains=[session.Drain(budget_ms=1000), session.Drain(budget_ms=2500)])
    assert [each for each in stage.instructions if isinstance(each, BeginDrain)] == [BeginDrain(2.5)]


def test_a_line_of_the_log_names_twenty_refused_reports_at_most(stage: Stage) -> None:
    stage.receive(acknowledged=[99], refused=range(1, 31))
    (note,) = stage.notes()
    assert note.fields == {"reports": 30, "fences": list(range(1, 21))}


@pytest.mark.parametrize("away", [LeaseLost(), CutOff()])
def test_nothing_is_recalled_while_nothing_may_be_started_elsewhere(stage: Stage, away: LeaseLost | CutOff) -> None:
    runner = stage.ready(1)
    stage.grant(1, 2)
    runner.runs = {1}
    stage.tell(away)
    stage.now = 2.0
    stage.look(clock_ns=2_000_000_000)
    assert messages.Recall() not in runner.said


def test_an_isolated_process_is_told_to_stop_when_it_has_been_idle_since_its_last_task(stage: Stage) -> None:
    lender = stage.ready()
    stage.grant(1, alone=True)
    alone = stage.alone()
    stage.withhold(lender, 1)
    stage.now = 100.0
    stage.look()
    stage.tell(Reported(alone.id, [completed(1, "t1")], 10))
    stage.now = 129.0
    stage.look()
    assert alone.said == []
    stage.now = 131.0
    stage.look()
    assert alone.said == [messages.Stop()]


def test_a_runner_within_the_process_is_neither_ended_nor_named_by_force() -> None:
    stage = Stage(runners=0)
    runner = start(stage)
    stage.tell(CloseForced(5.0))
    assert (runner.ended, stage.notes()) == ([], [])


def test_a_runner_that_is_ended_because_its_tasks_do_not_stop_has_no_successor(stage: Stage) -> None:
    runner = start(stage)
    stage.grant(1)
    runner.runs = {1}
    stage.tell(HandBackForced())
    assert runner.ended == [""]
    stage.end(runner)
    stage.now = 60.0
    stage.look()
    assert stage.desk.roster.runners == {}


def test_a_blocked_runners_tasks_take_no_credit_from_the_others() -> None:
    stage = Stage()
    blocked, other = stage.ready(1), stage.ready(1)
    stage.tell(SessionStarted())
    stage.grant(1, 2)
    stage.take()
    stage.now = 10.0
    stage.look()
    stage.now = 14.0
    stage.tell(Ponged(other.id))
    stage.look()
    assert (blocked.known.is_blocked, other.known.is_blocked) == (True, False)
    stage.report(other, *other.granted)
    assert list(stage.take().credit) == [3]


def test_progress_of_a_task_is_not_told_after_its_runner_has_ended(stage: Stage) -> None:
    runner = stage.ready()
    stage.grant(1)
    runner.runs = {1}
    stage.tell(Progressed([session.ProgressReport(fence=1, id="t1", fraction=0.5)]))
    stage.end(runner)
    frame = stage.take()
    assert ([report.fence for report in frame.reports], list(frame.progress)) == ([1], [])


def test_a_task_that_had_to_be_recalled_ends_the_credit_for_tasks_that_wait(stage: Stage) -> None:
    runner = stage.ready(1)
    stage.grant(*range(100))
    stage.now = 0.1
    stage.report(runner, *range(90))
    assert stage.desk.frame.credit.buffer > 0
    stage.say(runner, messages.Returned((99,)))
    assert stage.desk.frame.credit.buffer == 0


def test_tasks_that_run_when_the_worker_closes_are_interrupted_and_not_lost(stage: Stage) -> None:
    runner = stage.ready()
    stage.grant(1)
    runner.runs = {1}
    stage.tell(CloseBegun())
    stage.end(runner)
    assert stage.reported() == {1: tasks.ATTEMPT_OUTCOME_INTERRUPTED}
    assert stage.notes(NoteLoss) == []


@pytest.mark.parametrize("is_given_back", [True, False])
def test_the_end_of_a_cancelled_task_that_is_gone_is_not_waited_for(stage: Stage, is_given_back: bool) -> None:
    runner = stage.ready()
    stage.grant(1)
    stage.receive(cancelled=[1])
    assert stage.desk._stops
    if is_given_back:
        stage.say(runner, messages.Returned((1,)))
    else:
        stage.end(runner)
    assert not stage.desk._stops


def test_progress_of_a_released_task_is_not_told(stage: Stage) -> None:
    stage.ready()
    stage.grant(1)
    stage.receive(released=[1])
    stage.tell(Progressed([session.ProgressReport(fence=1, id="t1", fraction=0.5)]))
    assert list(stage.take().progress) == []


def restarted_after(stage: Stage, runner: FakeRunner) -> tuple[FakeRunner, float]:
    """Ends a runner. Returns the next one, and how many seconds later it is started."""
    ended_at, before = stage.now, set(stage.runners)
    stage.end(runner)
    stage.look()
    while not (fresh := set(stage.runners) - before):
        stage.now += 0.05
        stage.look()
    (id,) = fresh
    return stage.runners[id], round(stage.now - ended_at, 2)


def test_a_runner_that_has_lived_for_five_seconds_is_started_again_at_once(stage: Stage) -> None:
    runner = start(stage)
    for expected in (0.0, 0.2, 0.5):
        runner, delay = restarted_after(stage, runner)
        assert delay == expected
    runner.known.started_at = stage.now
    stage.now += 5.0
    assert restarted_after(stage, runner)[1] == 0.0


def test_processes_of_isolated_tasks_that_never_get_ready_are_started_later_each_time(stage: Stage) -> None:
    stage.ready()
    stage.grant(1, alone=True)
    (runner,) = (runner for runner in stage.runners.values() if runner.known.alone)
    for expected in (0.0, 0.2, 0.5, 1.0):
        runner, delay = restarted_after(stage, runner)
        assert delay == expected


def test_a_runner_within_the_process_is_not_ended_for_a_task_that_does_not_stop() -> None:
    stage = Stage(runners=0)
    runner = start(stage)
    stage.grant(1)
    runner.runs = {1}
    stage.tell(HandBackForced())
    assert (runner.ended, runner.known.is_ready) == ([], True)


def test_a_runner_within_the_process_that_has_ended_has_no_successor() -> None:
    stage = Stage(runners=0)
    stage.end(start(stage))
    stage.now = 60.0
    stage.look()
    assert stage.desk.roster.runners == {}


def test_an_ordinary_runner_that_gets_ready_does_not_hurry_the_processes_of_isolated_tasks(stage: Stage) -> None:
    stage.ready()
    stage.grant(1, alone=True)
    (runner,) = (runner for runner in stage.runners.values() if runner.known.alone)
    for expected in (0.0, 0.2, 0.5):
        stage.ready()
        runner, delay = restarted_after(stage, runner)
        assert delay == expected


def test_nothing_is_recalled_from_a_process_of_isolated_tasks(stage: Stage) -> None:
    lender = stage.ready()
    stage.grant(1, alone=True)
    alone = stage.alone()
    stage.withhold(lender, 1)
    assert alone.granted == [1]
    stage.now = 5.0
    stage.look()
    assert alone.said == []


def test_the_first_reason_to_stop_a_task_is_the_one_that_is_reported(stage: Stage) -> None:
    runner = stage.ready()
    stage.grant(1)
    runner.runs = {1}
    stage.receive(cancelled=[1])
    stage.say(runner, messages.Stopping(1, 1000, StopKind.TIMEOUT))
    stage.end(runner)
    assert stage.reported() == {1: tasks.ATTEMPT_OUTCOME_CANCELLED}


def test_a_runner_that_was_given_up_is_not_given_up_again_after_it_was_ended_by_force(stage: Stage) -> None:
    runner = stage.ready()
    stage.tell(PipeEnded(runner.id))
    stage.now = 2.0
    stage.look()
    stage.tell(CloseForced(5.0))
    stage.look()
    assert runner.ended == ["the runner closed its pipe and went on", ""]


def test_a_runner_that_is_about_to_end_gets_no_task(stage: Stage) -> None:
    runner = stage.ready()
    stage.tell(RunnerGone(runner.id))
    stage.grant(1)
    assert runner.granted == []
