"""Finished tasks are run again or removed; everything else is left alone."""

from __future__ import annotations

import pytest
from leader_core import Core, spec

from gowork.leader._core import commands as cmd
from gowork.leader._core.model import Outcome, RetryPolicy, Status


def core_with_ended(id: str = "a", outcome: Outcome = Outcome.FAILED) -> tuple[Core, int]:
    core = Core()
    connection = core.connect(slots=5)
    core.submit(spec(id, retry=RetryPolicy(max_attempts=1)))
    core.dispatch()
    core.report(connection, id, outcome, result="1" if outcome is Outcome.COMPLETED else "")
    return core, connection


@pytest.mark.parametrize("outcome", [Outcome.FAILED, Outcome.TIMED_OUT, Outcome.CANCELLED])
def test_a_task_that_did_not_complete_runs_again_as_if_it_were_new(outcome: Outcome):
    core, connection = core_with_ended(outcome=outcome)
    before = core.standing("a")
    assert core.do(cmd.RetryTask("a")).answer is None
    standing = core.standing("a")
    assert (standing.status, standing.attempts_used, standing.failure) == (Status.PENDING, 0, None)
    assert standing.attempts == before.attempts
    core.do(cmd.ReceiveFrame(connection, credit=9))
    assert core.dispatch() == {connection: ["a"]}
    assert core.standing("a").fence > before.fence
    core.report(connection, "a")
    assert core.status("a") is Status.COMPLETED


def test_a_late_report_of_the_attempt_before_moves_nothing():
    core, connection = core_with_ended()
    fence = core.standing("a").fence
    core.do(cmd.RetryTask("a"))
    core.report(connection, "a", Outcome.COMPLETED, fence=fence)
    assert core.status("a") is Status.PENDING


def test_a_quarantined_task_starts_with_a_clean_sheet():
    core = Core()
    connection = core.connect(slots=5, credit=100)
    core.submit(spec("a"))
    for _ in range(4):
        core.dispatch()
        core.report(connection, "a", Outcome.LOST)
    assert core.status("a") is Status.ERROR
    core.do(cmd.RetryTask("a"))
    assert (core.standing("a").lost_alone, core.standing("a").suspect) == (0, False)


def test_a_completed_an_expired_and_an_unknown_task_are_not_run_again():
    core, _ = core_with_ended(outcome=Outcome.COMPLETED)
    core.submit(spec("late", expires_in_ms=1000))
    core.pass_time(2)
    codes = [core.refusal(cmd.RetryTask(id)).code for id in ("a", "late", "nobody")]
    assert codes == [cmd.TASK_FINISHED, cmd.TASK_EXPIRED, cmd.TASK_UNKNOWN]


def test_what_has_not_ended_is_left_as_it_is():
    core = Core()
    core.submit(spec("waits"), spec("runs"))
    core.connect(slots=1)
    core.dispatch()
    for id in ("waits", "runs"):
        before = core.standing(id)
        assert core.do(cmd.RetryTask(id)).changes == []
        assert core.standing(id) == before


def test_finished_tasks_are_removed_and_their_ids_may_be_taken_again():
    core, connection = core_with_ended()
    fence = core.standing("a").fence
    assert core.do(cmd.Purge(["a", "a", "nobody"])).answer == cmd.Purged(1)
    assert core.removed == ["a"]
    assert "a" not in core.stored
    assert core.submit(spec("a", body=b"another")) == cmd.Submitted(1, 0)
    core.do(cmd.ReceiveFrame(connection, credit=9))
    core.dispatch()
    assert core.standing("a").fence > fence


def test_what_has_not_finished_is_left_or_refuses_all():
    core, _ = core_with_ended()
    core.submit(spec("b"))
    refused = core.do(cmd.Purge(["a", "b"], strict=True)).answer
    assert isinstance(refused, cmd.Refused)
    assert (refused.code, "'b' is PENDING" in refused.message) == (cmd.NOT_FINISHED, True)
    assert core.do(cmd.Purge(["a", "b"])).answer == cmd.Purged(1)
    assert core.status("b") is Status.PENDING


def test_what_finished_after_the_given_time_stays():
    core, _ = core_with_ended()
    finished = core.standing("a").finished_ms
    assert core.do(cmd.Purge(["a"], finished_by_ms=finished - 1)).answer == cmd.Purged(0)
    assert core.do(cmd.Purge(["a"], finished_by_ms=finished)).answer == cmd.Purged(1)


def test_finished_tasks_are_counted_through_all_of_it():
    core, connection = core_with_ended()
    state = core.state
    assert (state.finished_tasks, state.failed_tasks) == (1, 1)
    core.do(cmd.RetryTask("a"))
    assert (state.finished_tasks, state.failed_tasks) == (0, 0)
    core.do(cmd.ReceiveFrame(connection, credit=9))
    core.dispatch()
    core.report(connection, "a")
    assert (state.finished_tasks, state.failed_tasks) == (1, 0)
    core.do(cmd.Purge(["a"]))
    assert (state.finished_tasks, state.failed_tasks) == (0, 0)


def test_a_store_full_of_finished_tasks_takes_nothing_new():
    core, _ = core_with_ended()
    core.state.settings.finished_full = 0
    refused = core.submit(spec("b"))
    assert isinstance(refused, cmd.Refused)
    assert (refused.code, "gowork purge" in refused.message) == (cmd.TOO_MANY_FINISHED, True)
    core.do(cmd.Purge(["a"]))
    assert core.submit(spec("b")) == cmd.Submitted(1, 0)


def test_a_task_that_is_retried_before_its_time_waits_for_it():
    core = Core()
    core.connect()
    core.submit(spec("a", run_in_ms=5_000))
    core.do(cmd.Cancel("a"))
    core.do(cmd.RetryTask("a"))
    assert core.dispatch() == {}
    core.pass_time(5)
    core.dispatch()
    assert core.status("a") is Status.RUNNING
