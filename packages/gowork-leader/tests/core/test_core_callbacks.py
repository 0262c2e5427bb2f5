"""Callback workers hold no task without an end, and none is blamed for another."""

from __future__ import annotations

from typing import Any

import pytest
from leader_core import Core, spec

from gowork.leader._core import commands as cmd
from gowork.leader._core.attempts import LOSSES_MAX, UNCOUNTED_MAX
from gowork.leader._core.dialled import DIAL_AGAIN_SECONDS
from gowork.leader._core.effects import CountStale, StartWork, StopWork
from gowork.leader._core.explain import explain
from gowork.leader._core.kinds import MEMBERS, Member
from gowork.leader._core.model import (
    Failure,
    FailureKind,
    HeartbeatStatus,
    Liveness,
    Outcome,
    RetryPolicy,
    Status,
    WaitCode,
)
from gowork.leader._core.queries import members
from gowork.leader._core.state import Settings

IDLE, BUSY, FAILED = HeartbeatStatus.IDLE, HeartbeatStatus.BUSY, HeartbeatStatus.FAILED


class Dialled(Core):
    """A core with the member c1, which has been dialled with the task a."""

    def __init__(self, settings: Settings | None = None, **fields: Any) -> None:
        super().__init__(settings)
        self.do(cmd.Join("c1", "127.0.0.1:40041"))
        self.submit(spec("a", handler="", **fields))
        self.dispatch()
        self.take_effects()

    def beat(self, status: HeartbeatStatus = IDLE, member: str = "c1") -> object:
        return self.do(cmd.Heartbeat(member, status)).answer

    def refuse(self, *, answered: bool = True, reason: str = "no") -> None:
        self.do(cmd.RefuseStart("c1", "a", self.standing("a").fence, reason, answered))

    def complete(self, error: str | None = None, **fields: Any) -> object:
        return self.do(cmd.CompleteTask("a", error, **fields)).answer

    def stops(self) -> list[str]:
        """The ids of tasks that members were asked to stop since the last look."""
        return [effect.id for effect in self.take_effects() if isinstance(effect, StopWork)]

    def starts(self) -> list[StartWork]:
        """The calls that start tasks since the last look."""
        return [effect for effect in self.take_effects() if isinstance(effect, StartWork)]


# A TaskComplete that was lost, or was never sent.


def test_a_member_that_is_idle_well_after_it_was_dialled_has_lost_its_task():
    core = Dialled()
    core.pass_time(9)
    core.beat()
    core.beat()
    assert core.status("a") is Status.RUNNING, "both may have crossed the call"
    core.pass_time(1)
    core.beat()
    assert core.status("a") is Status.PENDING
    last = core.standing("a").attempts[-1]
    assert last.outcome is Outcome.LOST
    assert "idle 10 s after the start" in last.reason
    core.dispatch()
    assert core.standing("a").worker == "c1", "the member has its slot again"


def test_one_heartbeat_that_says_idle_is_not_believed_alone():
    core = Dialled()
    for _ in range(3):
        core.pass_time(20)
        core.beat()
        assert core.status("a") is Status.RUNNING
        core.beat(BUSY)


def test_heartbeats_that_waited_while_the_leader_stood_still_do_not_count():
    core = Dialled()
    core.mono += 30
    core.do(cmd.ExtendLeases(30.0))
    core.beat()
    core.beat()
    assert core.status("a") is Status.RUNNING


def test_a_task_that_no_member_ever_completes_ends_in_quarantine():
    core = Dialled()
    for _ in range(LOSSES_MAX + 1):
        assert core.status("a") is Status.RUNNING
        core.pass_time(10)
        core.beat()
        core.beat()
        core.dispatch()
    assert core.status("a") is Status.ERROR
    failure = core.standing("a").failure
    assert failure is not None
    assert failure.kind is FailureKind.QUARANTINED


def test_a_cancelled_task_whose_member_is_idle_is_cancelled_and_not_run_again():
    core = Dialled()
    core.do(cmd.Cancel("a"))
    core.pass_time(10)
    core.beat()
    core.beat()
    assert core.status("a") is Status.CANCELLED


# Stops.


def test_a_stop_that_is_denied_ends_a_cancelled_task_unless_its_end_is_told_meanwhile():
    for told in (False, True):
        core = Dialled()
        core.do(cmd.Cancel("a"))
        assert core.stops() == ["a"]
        core.do(cmd.DenyStop("a", core.standing("a").fence))
        core.pass_time(1.9)
        assert core.status("a") is Status.RUNNING
        if told:
            core.complete()
            assert core.status("a") is Status.COMPLETED
        core.pass_time(0.1)
        assert core.status("a") is (Status.COMPLETED if told else Status.CANCELLED)


def test_a_word_of_an_earlier_grant_or_of_a_task_that_is_not_to_stop_changes_nothing():
    core = Dialled()
    core.do(cmd.DenyStop("a", core.standing("a").fence))
    core.do(cmd.ConfirmStop("a", core.standing("a").fence))
    assert core.status("a") is Status.RUNNING
    core.do(cmd.Cancel("a"))
    core.do(cmd.DenyStop("a", core.standing("a").fence - 1))
    core.do(cmd.ConfirmStop("a", core.standing("a").fence - 1))
    core.pass_time(30)
    assert core.status("a") is Status.RUNNING
    core.restart()
    core.do(cmd.ConfirmStop("a", core.standing("a").fence))
    assert core.status("a") is Status.CANCELLED


def test_a_stop_that_was_not_answered_is_asked_for_again_by_the_next_heartbeats():
    core = Dialled()
    core.beat(BUSY)
    core.do(cmd.Cancel("a"))
    assert core.stops() == ["a"]
    core.pass_time(11)
    core.beat(BUSY)
    assert core.stops() == [], "the call may be under way"
    core.pass_time(1)
    core.beat(BUSY)
    assert core.stops() == ["a"]
    core.restart()
    core.beat(BUSY)
    assert core.stops() == ["a"], "a leader that has just started does not know of any call"


# Another leader has granted it.


def test_a_member_that_is_idle_keeps_what_the_last_leader_granted_for_as_long_as_that_one_may_call():
    core = Dialled()
    core.state.settings.callback_adopted_grace = 8.0
    core.restart()
    for _ in range(7):
        core.beat(IDLE)
        core.pass_time(1)
    assert core.status("a") is Status.RUNNING
    core.pass_time(1)
    core.beat(IDLE)
    assert core.status("a") is Status.PENDING
    assert core.standing("a").attempts[-1].reason == "its worker is idle: the start did not reach it"


# Time limits.


def test_past_its_time_limit_a_member_is_asked_to_stop_and_the_attempt_times_out():
    core = Dialled(time_limit_ms=3000, retry=RetryPolicy(max_attempts=2))
    core.pass_time(2.9)
    assert core.stops() == []
    core.pass_time(0.1)
    assert core.stops() == ["a"]
    core.do(cmd.ConfirmStop("a", core.standing("a").fence))
    standing = core.standing("a")
    assert (standing.status, standing.attempts_used) == (Status.PENDING, 1)
    assert standing.attempts[-1].outcome is Outcome.TIMED_OUT


def test_a_member_that_does_not_stop_past_the_grace_has_timed_out_all_the_same():
    core = Dialled(time_limit_ms=3000)
    core.pass_time(3)
    core.beat(BUSY)
    core.pass_time(19.9)
    assert core.status("a") is Status.RUNNING
    core.pass_time(0.1)
    standing = core.standing("a")
    assert standing.status is Status.ERROR
    assert standing.failure == Failure(
        FailureKind.TIMEOUT, "the time limit of 3 s ran out: its worker did not stop it", "TimeoutError"
    )
    core.submit(spec("b", handler=""))
    core.dispatch()
    assert core.status("b") is Status.PENDING, "the member says that it is busy"


@pytest.mark.parametrize("error", [None, "context canceled"])
def test_what_a_member_says_of_a_stopped_task_is_a_timeout_unless_it_was_done(error: str | None):
    core = Dialled(time_limit_ms=3000)
    core.pass_time(3)
    core.complete(error)
    expected = (Status.COMPLETED, Outcome.COMPLETED) if error is None else (Status.ERROR, Outcome.TIMED_OUT)
    assert (core.status("a"), core.standing("a").attempts[-1].outcome) == expected


def test_a_time_limit_ends_with_its_task_and_runs_anew_after_a_restart():
    core = Dialled(time_limit_ms=3000)
    core.complete()
    core.submit(spec("b", handler=""))
    core.dispatch()
    core.take_effects()
    core.pass_time(3)
    assert core.stops() == []
    core = Dialled(time_limit_ms=3000)
    core.pass_time(2)
    core.restart()
    core.pass_time(2.9)
    assert core.stops() == []
    core.pass_time(0.1)
    assert core.stops() == ["a"]


# Dials.


def test_a_member_that_did_not_take_its_task_is_dialled_again_at_once_and_then_rests():
    core = Dialled()
    fence = core.standing("a").fence
    for delay in DIAL_AGAIN_SECONDS:
        core.refuse()
        (start,) = core.starts()
        assert (start.delay, start.fence, start.spec.id, start.attempt) == (delay, fence, "a", 1)
        assert core.status("a") is Status.RUNNING
    core.refuse()
    assert core.status("a") is Status.PENDING
    core.dispatch()
    assert core.starts() == []
    core.beat()
    core.dispatch()
    core.refuse()
    assert len(core.starts()) == 2, "the count begins anew with each grant"


def test_a_task_that_no_member_takes_waits_longer_and_is_never_blamed():
    core = Dialled()
    for _ in range(UNCOUNTED_MAX + 10):
        core.refuse(answered=False)
        assert core.status("a") is Status.PENDING
        core.beat()
        core.pass_time(30)
        core.dispatch()
    assert (core.status("a"), core.standing("a").attempts_used) == (Status.RUNNING, 0)


def test_a_member_that_was_not_reached_or_whose_task_is_cancelled_is_not_dialled_again():
    core = Dialled()
    core.refuse(answered=False)
    assert (core.starts(), core.status("a")) == ([], Status.PENDING)
    core = Dialled()
    core.do(cmd.Cancel("a"))
    core.refuse()
    assert (core.starts(), core.status("a")) == ([], Status.CANCELLED)


def test_a_refusal_of_an_earlier_grant_says_nothing_of_a_member_that_has_joined_again():
    core = Dialled()
    fence = core.standing("a").fence
    core.do(cmd.Join("c1", "127.0.0.1:40042"))
    core.dispatch()
    core.do(cmd.RefuseStart("c1", "a", fence, "the old address is dead"))
    assert core.status("a") is Status.RUNNING
    core.complete()
    core.submit(spec("b", handler=""))
    core.dispatch()
    assert core.status("b") is Status.RUNNING


# Members that were silent.


def test_a_silent_member_is_taken_up_again_at_its_address_by_its_next_heartbeat():
    core = Dialled()
    core.pass_time(45)
    assert core.state.departed["c1"].liveness is Liveness.LOST
    assert core.beat(BUSY) is None
    callback = core.state.callbacks["c1"]
    assert (callback.address, callback.free) == ("127.0.0.1:40041", False)
    assert core.state.facts.of(MEMBERS) == {"c1": Member("127.0.0.1:40041", callback.joined_ms)}
    assert "c1" not in core.state.departed
    core.beat(IDLE)
    core.dispatch()
    assert core.standing("a").worker == "c1"


def test_a_member_that_left_or_is_a_session_by_now_is_not_taken_up():
    core = Dialled()
    core.do(cmd.Leave("c1"))
    assert core.refusal(cmd.Heartbeat("c1", IDLE)).code == cmd.MEMBER_UNKNOWN
    core = Dialled()
    core.pass_time(45)
    core.connect("c1")
    assert core.refusal(cmd.Heartbeat("c1", IDLE)).code == cmd.MEMBER_UNKNOWN
    core.pass_time(10)
    assert core.state.departed["c1"].liveness is Liveness.LOST
    assert core.refusal(cmd.Heartbeat("c1", IDLE)).code == cmd.MEMBER_UNKNOWN, "it was lost as a session"


def test_past_the_bound_no_member_joins_or_comes_back(monkeypatch):
    monkeypatch.setattr(MEMBERS, "rows_max", 1)
    core = Dialled()
    core.pass_time(45)
    core.do(cmd.Join("c2", "127.0.0.1:40042"))
    assert core.refusal(cmd.Heartbeat("c1", IDLE)).code == cmd.MEMBER_UNKNOWN
    answer = core.refusal(cmd.Join("c3", "127.0.0.1:40043"))
    assert answer.code == cmd.TOO_MANY_MEMBERS
    assert "1 callback workers" in answer.message
    assert core.do(cmd.Join("c2", "127.0.0.1:40044")).answer is None, "it is one already"


# What members report.


def test_a_completion_under_another_fence_is_refused():
    core = Dialled()
    fence = core.standing("a").fence
    answer = core.refusal(cmd.CompleteTask("a", None, fence=fence - 1))
    assert answer.code == cmd.STALE_FENCE
    assert any(isinstance(effect, CountStale) for effect in core.effects)
    assert core.status("a") is Status.RUNNING
    core.complete(fence=fence)
    assert core.status("a") is Status.COMPLETED


@pytest.mark.parametrize(
    ("outcome", "status", "used"),
    [
        (Outcome.INTERRUPTED, Status.PENDING, 0),
        (Outcome.SNOOZED, Status.PENDING, 0),
        (Outcome.LOST, Status.PENDING, 0),
        (Outcome.FAILED, Status.PENDING, 1),
        (Outcome.CANCELLED, Status.CANCELLED, 0),
    ],
)
def test_a_task_that_a_member_hands_back_is_no_error(outcome: Outcome, status: Status, used: int):
    core = Dialled()
    core.complete("why", outcome=outcome, retry_delay_ms=700, retry=RetryPolicy(max_attempts=2))
    standing = core.standing("a")
    assert (standing.status, standing.attempts_used) == (status, used)
    assert (standing.attempts[-1].outcome, standing.attempts[-1].reason) == (outcome, "why")
    delayed = outcome in (Outcome.SNOOZED, Outcome.FAILED)
    assert standing.not_before_ms == (core.wall_ms + 700 if delayed else 0)


def test_the_tasks_own_policy_goes_before_the_handlers_and_a_final_failure_is_final():
    core = Dialled(retry=RetryPolicy(max_attempts=1))
    core.complete("no", outcome=Outcome.FAILED, retry=RetryPolicy(max_attempts=5))
    assert core.status("a") is Status.ERROR
    core = Dialled()
    failure = Failure(FailureKind.NO_RETRY, "never", "Fail", "Traceback…")
    core.complete("never", outcome=Outcome.FAILED, failure=failure, retry=RetryPolicy(max_attempts=5))
    assert (core.status("a"), core.standing("a").failure) == (Status.ERROR, failure)


# Why a task waits for them.


def test_why_tells_members_that_cannot_be_dialled_are_busy_or_have_failed_apart():
    core = Dialled()
    core.submit(spec("b", handler=""))

    def why(id: str) -> tuple[list[WaitCode], str]:
        explanation = explain(core.state, core.task(id), core.now, verbose=True)
        return [reason.code for reason in explanation.reasons], explanation.verdicts[0].message

    assert why("b") == ([WaitCode.NO_SLOT], "it is busy with 'a'")
    core.refuse(answered=False, reason="the worker could not be dialled at 127.0.0.1:40041: UNAVAILABLE")
    codes, message = why("b")
    assert codes == [WaitCode.UNREACHABLE]
    assert message.endswith("the worker could not be dialled at 127.0.0.1:40041: UNAVAILABLE")
    core.beat(FAILED)
    assert why("b") == ([WaitCode.MEMBER_FAILED], "it says that it can't work")
    core.beat(BUSY)
    assert why("b") == ([WaitCode.NO_SLOT], "it says that it is busy, with no task of this leader")
    core.beat(IDLE)
    assert why("b") == ([], "it is idle")


def test_members_that_have_gone_are_listed_as_what_they_were():
    core = Dialled()
    connection = core.connect("w1")
    core.do(cmd.ReceiveFrame(connection, leaving=True))
    core.do(cmd.Leave("c1"))
    assert [(view.id, view.is_callback, view.version) for view in members(core.state)] == [
        ("c1", True, ""),
        ("w1", False, "0.1.0"),
    ]
