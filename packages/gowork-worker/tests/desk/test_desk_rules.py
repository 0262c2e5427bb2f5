"""What the desk owes its leader and its runners."""

from __future__ import annotations

import pytest
from desk_fleet import by_column, completed
from desk_stage import READY, Stage

from gowork.proto.scheduler.v1 import scheduler_pb2 as tasks
from gowork.proto.worker.v1 import session_pb2 as session
from gowork.worker._desk.events import (
    CloseBegun,
    CloseForced,
    CutOff,
    DrainBegun,
    GivenUp,
    LeaseLost,
    Ponged,
    Progressed,
    Reported,
    RunnerReady,
    SessionStarted,
    WorkerStarted,
)
from gowork.worker._desk.instructions import SPEAK, StartTasks, Tell
from gowork.worker._runner import endings, messages


@pytest.fixture
def stage() -> Stage:
    return Stage()


def test_task_that_is_cancelled_while_no_runner_is_ready_is_reported_and_never_started(stage: Stage) -> None:
    stage.grant(1, 2)
    stage.receive(cancelled=[1])
    assert stage.reported() == {1: tasks.ATTEMPT_OUTCOME_CANCELLED}
    assert stage.ready().granted == [2]


def test_runner_that_starts_while_the_lease_is_lost_is_told(stage: Stage) -> None:
    stage.tell(LeaseLost())
    runner = stage.ready()
    assert messages.Lease(False) in runner.said
    stage.tell(SessionStarted())
    assert messages.Lease(True) in runner.said


def test_runner_that_starts_while_the_worker_is_cut_off_starts_nothing_until_the_next_session(
    stage: Stage,
) -> None:
    stage.tell(CutOff())
    runner = stage.ready()
    assert runner.said == [messages.Slots(0)]
    stage.tell(SessionStarted())
    assert runner.said[-1] == messages.Slots(2)


def test_released_task_is_stopped_and_its_report_is_dropped(stage: Stage) -> None:
    runner = stage.ready()
    stage.grant(1, 2)
    stage.receive(released=[1])
    assert runner.cancelled == [1]
    stage.report(runner, 1, 2)
    assert set(stage.reported()) == {2}


def test_released_task_is_not_named_by_the_next_hello(stage: Stage) -> None:
    stage.ready()
    stage.grant(1, 2)
    stage.receive(released=[1])
    assert [held.fence for held in stage.desk.hello_held(())] == [2]


def test_what_a_welcome_releases_is_stopped_before_anything_is_started_again(stage: Stage) -> None:
    runner = stage.ready()
    stage.grant(1)
    stage.tell(CutOff())
    runner.order.clear()
    stage.tell(SessionStarted(session.ConnectResponse(released=[1])))
    assert runner.order == [[1], messages.Slots(2)]


def test_nothing_of_a_fence_is_reported_twice(stage: Stage) -> None:
    runner = stage.ready()
    stage.grant(1)
    stage.report(runner, 1)
    assert set(stage.reported()) == {1}
    stage.receive(acknowledged=[1])
    stage.report(runner, 1)
    assert stage.reported() == {}
    assert stage.desk.unacknowledged == 0


def test_report_is_named_by_hello_until_it_is_acknowledged(stage: Stage) -> None:
    runner = stage.ready()
    stage.grant(1, 2)
    runner.runs = {2}
    stage.report(runner, 1)
    named = {held.fence: held.state for held in stage.desk.hello_held(runner.runs)}
    assert named == {1: session.HELD_STATE_FINISHED, 2: session.HELD_STATE_RUNNING}
    stage.receive(acknowledged=[1])
    assert [held.fence for held in stage.desk.hello_held(())] == [2]


def test_tasks_that_are_granted_while_the_worker_drains_go_back(stage: Stage) -> None:
    runner = stage.ready()
    stage.tell(DrainBegun())
    stage.grant(1)
    assert runner.granted == []
    assert stage.reported() == {1: tasks.ATTEMPT_OUTCOME_INTERRUPTED}


def test_runner_that_ends_by_itself_loses_what_it_had_begun_and_gives_back_the_rest(stage: Stage) -> None:
    runner = stage.ready()
    stage.grant(1, 2)
    runner.runs = {1}
    stage.end(runner)
    assert stage.reported() == {1: tasks.ATTEMPT_OUTCOME_LOST, 2: tasks.ATTEMPT_OUTCOME_INTERRUPTED}


def test_no_credit_is_given_for_the_slots_of_a_runner_that_is_blocked(stage: Stage) -> None:
    blocked, _ = stage.ready(2), stage.ready(3)
    blocked.known.pulse.is_blocked = True
    assert list(stage.take().credit) == [3]


def test_credit_is_told_anew_in_each_session(stage: Stage) -> None:
    stage.ready(2)
    assert list(stage.take().credit) == [2]
    assert list(stage.take().credit) == []
    stage.tell(SessionStarted())
    assert list(stage.take().credit) == [2]


def test_condition_is_told_anew_in_each_session(stage: Stage) -> None:
    stage.tell(DrainBegun())
    assert [condition.draining for condition in stage.take().conditions] == [True]
    assert list(stage.take().conditions) == []
    stage.tell(SessionStarted())
    assert [condition.draining for condition in stage.take().conditions] == [True]


def test_pause_over_unacknowledged_reports_lasts_until_half_of_them_are_acknowledged() -> None:
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


def test_progress_of_a_task_is_not_told_after_its_report(stage: Stage) -> None:
    runner = stage.ready()
    stage.grant(1)
    stage.tell(Progressed([session.ProgressReport(fence=1, fraction=0.5)]))
    stage.report(runner, 1)
    request = stage.take()
    assert len(request.reports) == 1
    assert list(request.progress) == []


def test_task_that_a_runner_gives_back_goes_to_one_with_room_before_it_goes_to_the_leader(stage: Stage) -> None:
    full = stage.ready(1)
    stage.grant(1, 2)
    free = stage.ready(1)
    stage.say(full, messages.Returned((2,)))
    assert free.granted == [2]
    assert stage.reported() == {}


def test_task_that_is_cancelled_is_not_given_to_another_runner_when_its_own_gives_it_back(stage: Stage) -> None:
    full = stage.ready(1)
    stage.grant(1, 2)
    free = stage.ready(1)
    stage.receive(cancelled=[2])
    stage.say(full, messages.Returned((2,)))
    assert free.granted == []
    assert stage.reported() == {2: tasks.ATTEMPT_OUTCOME_CANCELLED}


@pytest.mark.parametrize(("report", "goes_on"), [(endings.lost(1, "t1", "struck"), False), (completed(1, "t1"), True)])
def test_a_process_that_lost_its_isolated_task_and_lives_gets_no_other(
    stage: Stage, report: session.Report, goes_on: bool
) -> None:
    lender = stage.ready()
    stage.grant(1, alone=True)
    alone = stage.alone()
    stage.withhold(lender, 1)
    assert alone.granted == [1]
    stage.tell(Reported(alone.id, [report], 10))
    assert stage.reported() == {1: report.outcome}
    assert alone.said == ([] if goes_on else [messages.Stop()])
    assert alone.known.is_ready is goes_on


def test_runner_whose_tasks_wait_gets_its_own_slots_back_after_a_pause_and_no_more() -> None:
    stage = Stage()
    runner = stage.ready()
    stage.tell(SessionStarted())
    stage.grant(1, 2)
    stage.say(runner, messages.Waiting(2))
    assert runner.known.usable_slots == 4
    stage.tell(CutOff())
    stage.tell(SessionStarted())
    assert runner.said == [messages.Slots(0), messages.Slots(2)]


@pytest.mark.parametrize(("lent_slots_max", "spares"), [(11, [5, 5, 1]), (0, [0, 0, 0])])
def test_runners_share_the_slots_that_may_be_lent_and_an_isolated_task_may_lend_its_one(
    lent_slots_max: int, spares: list[int]
) -> None:
    stage = Stage(slots=4, runners=2, lent_slots_max=lent_slots_max)
    stage.tell(WorkerStarted())
    for runner in list(stage.runners.values()):
        stage.tell(RunnerReady(runner.id, READY))
    stage.grant(1, alone=True)
    assert [runner.known.spare for runner in stage.runners.values()] == spares


def test_credit_grows_by_what_waits_and_counts_no_task_that_has_ended() -> None:
    stage = Stage()
    runner = stage.ready()
    stage.tell(SessionStarted())
    stage.grant(1, 2)
    stage.say(runner, messages.Waiting(2))
    assert list(stage.take().credit) == [4]
    # The reports come before the runner's next word on who waits.
    stage.tell(Reported(runner.id, [completed(fence, f"t{fence}") for fence in (1, 2)], 9))
    assert (runner.known.waiting, runner.known.usable_slots) == (2, 2)


def test_a_runner_that_does_not_leave_its_lifespans_is_ended_and_named_once(stage: Stage) -> None:
    runner = stage.ready()
    stage.tell(CloseBegun())
    assert (runner.said, runner.ended) == ([messages.Stop()], [])
    for _ in range(3):
        stage.tell(CloseForced(5.0))
    assert runner.ended == ["", "", ""]
    event = "a runner did not leave its lifespans in time, and is ended"
    assert [(note.event, note.runner, note.fields) for note in stage.notes()] == [(event, runner.id, {"seconds": 5.0})]


def test_a_runner_that_is_not_ready_is_ended_when_the_worker_closes(stage: Stage) -> None:
    runner = stage.runner()
    stage.tell(CloseBegun())
    assert (runner.said, runner.ended) == ([], [""])
    stage.end(runner)
    stage.look()
    assert stage.desk.roster.runners == {}


def test_what_was_given_up_is_not_reported_again_when_its_runner_ends(stage: Stage) -> None:
    runner = stage.ready()
    stage.grant(1)
    runner.runs = {1}
    stage.tell(GivenUp("the worker stopped"))
    assert stage.reported() == {1: tasks.ATTEMPT_OUTCOME_INTERRUPTED}
    stage.end(runner)
    assert stage.reported() == {}


def test_a_runner_that_answers_again_is_named_and_its_slots_are_offered_at_once(stage: Stage) -> None:
    runner = stage.ready()
    stage.take()
    stage.now = 10.0
    stage.look()
    stage.now = 14.0
    stage.look()
    assert stage.take().conditions[0].blocked
    assert SPEAK in stage.tell(Ponged(runner.id))
    assert not stage.take().conditions[0].blocked
    assert [note.event for note in stage.notes()] == ["runner blocked", "runner ticks again"]


def test_runner_that_ends_is_started_again_at_once_and_later_when_it_lives_short(stage: Stage) -> None:
    delays = []
    runner = stage.runner()
    for _ in range(4):
        stage.end(runner)
        ended_at = stage.now
        while not (fresh := set(stage.runners) & set(stage.desk.roster.runners)):
            stage.now += 0.05
            stage.look()
        (id,) = fresh
        runner = stage.runners[id]
        delays.append(round(stage.now - ended_at, 2))
    assert delays == [0.0, 0.2, 0.5, 1.0]


def test_task_that_was_found_past_its_limit_by_two_looks_ends_its_runner_and_the_rest_goes_back(stage: Stage) -> None:
    runner = stage.ready()
    stage.grant(1, 2)
    runner.runs = {1}
    stage.look(clock_ns=10, kill_at_ns=5)
    assert runner.ended == []
    stage.look(clock_ns=11, kill_at_ns=5)
    assert runner.ended == [""]
    stage.end(runner)
    assert stage.reported() == {1: tasks.ATTEMPT_OUTCOME_TIMED_OUT, 2: tasks.ATTEMPT_OUTCOME_INTERRUPTED}


def test_runner_of_a_task_that_does_not_stop_is_ended_after_its_time(stage: Stage) -> None:
    runner = stage.ready()
    stage.grant(1)
    runner.runs = {1}
    stage.receive(cancelled=[1])
    stage.now = 5.9
    stage.look()
    assert runner.ended == []
    stage.now = 6.0
    stage.look()
    assert runner.ended == [""]
    stage.end(runner)
    assert stage.reported() == {1: tasks.ATTEMPT_OUTCOME_CANCELLED}


def test_what_waits_behind_long_tasks_is_recalled_once(stage: Stage) -> None:
    runner = stage.ready(1)
    stage.grant(1, 2)
    runner.runs = {1}
    stage.now = 0.3
    stage.look(clock_ns=300_000_000)
    stage.look(clock_ns=300_000_000)
    assert runner.said == [messages.Recall()]
    stage.say(runner, messages.Returned((2,)))
    assert stage.reported() == {2: tasks.ATTEMPT_OUTCOME_INTERRUPTED}


def not_started(stage: Stage) -> dict[int, bool]:
    """Which of the tasks that go back have certainly not started."""
    return {report.fence: report.not_started for report in stage.take().reports}


def test_only_what_no_runner_has_certainly_has_not_started(stage: Stage) -> None:
    stage.grant(1)
    runner = stage.ready(1)
    stage.grant(2, 3)
    stage.say(runner, messages.Returned((3,)))
    assert not_started(stage) == {3: True}
    # It may have ended in between, and its report is lost with the runner.
    stage.end(runner)
    assert not_started(stage) == {1: False, 2: False}
    stage.grant(4)
    again = stage.ready(1)
    stage.grant(5)
    stage.tell(GivenUp("the worker stopped"))
    assert not_started(stage) == {4: False, 5: False}
    stage.end(again)


def test_what_waits_for_a_runner_when_the_worker_drains_certainly_has_not_started(stage: Stage) -> None:
    stage.grant(1)
    stage.tell(DrainBegun())
    stage.grant(2)
    assert not_started(stage) == {1: True, 2: True}


def test_isolated_runner_that_gets_ready_while_nothing_is_started_keeps_its_slot(stage: Stage) -> None:
    lender = stage.ready()
    stage.grant(1, alone=True)
    stage.tell(CutOff())
    alone = stage.alone()
    stage.tell(SessionStarted())
    stage.withhold(lender, 1)
    assert (alone.said, alone.granted) == ([], [1])


def test_slots_that_a_pause_took_are_not_taken_for_those_of_an_isolated_task_after_it(stage: Stage) -> None:
    lender = stage.ready()
    stage.tell(CutOff())
    stage.tell(SessionStarted())
    stage.grant(1, 2)
    stage.grant(3, alone=True)
    alone = stage.alone()
    assert lender.said == [messages.Slots(0), messages.Slots(2), messages.Slots(1)]
    # The answer to the pause comes late, and both slots are in use again.
    stage.say(lender, messages.Withheld(2, heard=1))
    assert alone.granted == []
    stage.report(lender, 1)
    stage.withhold(lender, 1)
    assert alone.granted == [3]


def test_report_that_is_released_before_it_is_sent_is_not_sent(stage: Stage) -> None:
    runner = stage.ready()
    stage.grant(1, 2)
    stage.report(runner, 1, 2)
    stage.receive(released=[1])
    assert set(stage.reported()) == {2}
    assert stage.desk.unacknowledged == 1


@pytest.mark.parametrize("reads", [True, False])
def test_columns_leave_without_what_was_released_or_reported_already(stage: Stage, reads: bool) -> None:
    runner = stage.ready(9)
    stage.tell(SessionStarted(session.ConnectResponse(welcome=session.Welcome(reads_completions=reads))))
    stage.grant(1, 2, 3, 4)
    stage.receive(released=[1])
    stage.report(runner, 2)
    columns = by_column([completed(fence, f"t{fence}") for fence in (1, 2, 3, 3)])
    stage.tell(Reported(runner.id, [completed(4, "t4")], 90, [columns]))
    frame = stage.take()
    assert [fence for columns in frame.completions for fence in columns.fences] == ([3] if reads else [])
    assert [report.fence for report in frame.reports] == ([2, 4] if reads else [2, 4, 3])
    assert list(stage.desk.frame.unacknowledged.names()) == [(2, "t2"), (3, "t3"), (4, "t4")]
    assert not stage.desk.held


def test_what_a_welcome_acknowledges_is_not_sent_again(stage: Stage) -> None:
    runner = stage.ready()
    stage.grant(1, 2)
    stage.report(runner, 1, 2)
    stage.take()
    stage.tell(SessionStarted(session.ConnectResponse(acknowledged=[1])))
    assert set(stage.reported()) == {2}


def test_new_runner_leaves_the_slot_of_an_isolated_task_before_it_starts_anything(stage: Stage) -> None:
    first = stage.ready()
    stage.grant(1, alone=True)
    alone = stage.alone()
    stage.withhold(first, 1)
    assert alone.granted == [1]
    stage.end(first)
    stage.grant(2)
    (second,) = (each for each in stage.runners.values() if each.id in stage.desk.roster.runners and each is not alone)
    told = stage.tell(RunnerReady(second.id, READY))
    assert [type(each) for each in told if each is not SPEAK] == [Tell, StartTasks]
    assert (second.said, second.granted) == ([messages.Slots(1)], [2])
