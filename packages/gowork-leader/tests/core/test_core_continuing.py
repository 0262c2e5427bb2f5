"""Tasks whose handlers end with a continuation: they wait for others, and then run another handler."""

from __future__ import annotations

from typing import Any

import pytest
from leader_core import Core, lane, spec
from msgspec.structs import replace

from gowork.leader._core import commands as cmd
from gowork.leader._core.attempts import UNCOUNTED_MAX
from gowork.leader._core.effects import Acknowledge, CancelTasks, GrantTasks
from gowork.leader._core.explain import explain
from gowork.leader._core.kinds import ABANDONED, AFTER, UNIQUE_KEYS
from gowork.leader._core.model import (
    BLOCKED,
    BLOCKED_MS,
    AfterRule,
    Failure,
    FailureKind,
    Group,
    Outcome,
    RetryPolicy,
    Spec,
    Status,
)
from gowork.leader._core.state import Settings


def continuation(
    *after: str, handler: str = "work", rule: AfterRule = AfterRule.ALL_COMPLETED, changes: bool = True
) -> cmd.Continuation:
    def edit(before: Spec, created_ms: int, now_ms: int) -> tuple[Spec, tuple[str, ...]]:
        if not changes:
            return before, ()
        key = before.lane
        following = lane(key.queue, key.priority, handler, key.selector, key.concurrency_key)
        return replace(before, lane=following, after=after, after_rule=rule, body=b"then"), ("after", "payload")

    return cmd.Continuation(after, edit)


def running(*specs: Spec, settings: Settings | None = None) -> tuple[Core, int]:
    core = Core(settings)
    core.submit(*specs)
    connection = core.connect(slots=9, credit=10_000, handlers=("work", "then"))
    core.dispatch()
    return core, connection


def wait(core: Core, connection: int, id: str, *after: str, children: tuple[Spec, ...] = (), **fields: Any) -> None:
    core.report(connection, id, Outcome.WAITING, continuation=continuation(*after, **fields), follow_ups=children)


def waiting(core: Core, id: str) -> bool:
    return core.task(id).place is BLOCKED


def test_a_task_waits_for_its_children_and_then_runs_its_next_handler():
    core, connection = running(spec("a"))
    wait(core, connection, "a", "a/1", "a/2", children=(spec("a/1"), spec("a/2")), handler="then")
    assert (core.status("a"), waiting(core, "a"), core.state.workers["w1-1"].held) == (Status.PENDING, True, {})
    assert core.dispatch() == {connection: ["a/1", "a/2"]}
    core.report(connection, "a/1")
    core.tick()
    assert waiting(core, "a")
    core.report(connection, "a/2")
    core.tick()
    assert core.dispatch() == {connection: ["a"]}
    (grant,) = [grant for effect in core.take_effects() if isinstance(effect, GrantTasks) for grant in effect.grants][
        -1:
    ]
    assert (grant.spec.lane.handler, grant.spec.body, grant.attempt, grant.continued) == ("then", b"then", 2, 1)
    core.report(connection, "a", result="3")
    assert (core.status("a"), core.standing("a").result) == (Status.COMPLETED, "3")
    assert [attempt.ended_as for attempt in core.standing("a").attempts] == [Outcome.WAITING, Outcome.COMPLETED]
    assert not core.state.facts.of(AFTER)


def test_a_leader_that_starts_meanwhile_knows_what_the_task_waits_for():
    core, connection = running(spec("a"))
    wait(core, connection, "a", "a/1", children=(spec("a/1"),))
    core.restart()
    assert waiting(core, "a")
    connection = core.connect(slots=9)
    core.dispatch()
    core.report(connection, "a/1")
    core.restart()
    core.tick()
    connection = core.connect(slots=9)
    assert core.dispatch() == {connection: ["a"]}


def test_an_older_leader_can_read_where_a_task_stands_that_waits():
    core, connection = running(spec("a"))
    wait(core, connection, "a", "a/1", children=(spec("a/1"),))
    (attempt,) = core.standing("a").attempts
    # Version 0.1.0 knows outcomes up to this one. It never starts the task, whose time never comes.
    assert (attempt.outcome, max(Outcome), attempt.ended_as) == (Outcome.SNOOZED, Outcome.WAITING, Outcome.WAITING)
    assert core.standing("a").not_before_ms == BLOCKED_MS


def test_a_task_may_wait_again():
    core, connection = running(spec("a"))
    wait(core, connection, "a", "a/1", children=(spec("a/1"),))
    core.dispatch()
    core.report(connection, "a/1")
    core.tick()
    core.dispatch()
    wait(core, connection, "a", "a/then-1/1", children=(spec("a/then-1/1"),))
    assert waiting(core, "a")
    assert core.standing("a").continued == 2
    # What it waited for before is not kept any more.
    assert not core.state.dependents.keeps("a/1", core.task("a/1").seq)
    assert core.state.dependents.keeps("a/then-1/1", core.task("a/then-1/1").seq)


@pytest.mark.parametrize("changes", [True, False])
def test_a_task_that_waits_for_nothing_runs_again_at_once(changes: bool):
    core, connection = running(spec("a"))
    wait(core, connection, "a", changes=changes)
    assert waiting(core, "a")
    core.tick()
    assert core.dispatch() == {connection: ["a"]}


def test_all_attempts_are_left_for_what_runs_next():
    core, connection = running(spec("a", retry=RetryPolicy(max_attempts=2, initial_delay_ms=1)))
    core.report(connection, "a", Outcome.FAILED, checkpoint=b"old")
    core.pass_time(1)
    core.dispatch()
    wait(core, connection, "a")
    standing = core.standing("a")
    assert (standing.attempts_used, standing.failure, standing.checkpoint) == (0, None, b"")
    core.tick()
    core.dispatch()
    core.report(connection, "a", Outcome.FAILED)
    assert core.status("a") is Status.PENDING


def test_a_task_whose_child_fails_is_cancelled_and_waits_again_when_that_is_retried():
    core, connection = running(spec("a"))
    wait(core, connection, "a", "a/1", children=(spec("a/1"),))
    core.dispatch()
    core.report(connection, "a/1", Outcome.FAILED, failure=Failure(FailureKind.HANDLER, "no"))
    core.tick()
    assert (core.status("a"), core.failure("a").kind) == (Status.CANCELLED, FailureKind.UPSTREAM)
    core.do(cmd.RetryTask("a/1"))
    core.tick()
    assert waiting(core, "a")


def test_the_rule_of_the_continuation_counts():
    core, connection = running(spec("a"))
    wait(core, connection, "a", "a/1", children=(spec("a/1"),), rule=AfterRule.ALL_FINISHED)
    core.do(cmd.Cancel("a/1"))
    core.tick()
    assert core.dispatch() == {connection: ["a"]}


@pytest.mark.parametrize("how", ["cancelled", "expired"])
def test_when_a_waiting_task_is_cancelled_or_expires_its_own_children_are_cancelled(how: str):
    core, connection = running(spec("a", expires_in_ms=5_000), spec("other"))
    children = (spec("a/1"), spec("a/2", run_in_ms=600_000), spec("mine"))
    wait(core, connection, "a", "a/1", "a/2", "mine", "other", children=children)
    assert core.dispatch() == {connection: ["a/1", "mine"]}
    core.take_effects()
    if how == "cancelled":
        core.do(cmd.Cancel("a"))
        assert core.state.facts.of(ABANDONED)["a"].ids == ("a/1", "a/2")
        core.tick()
    else:
        core.pass_time(6)
        assert core.failure("a").kind is FailureKind.EXPIRED
    assert (core.status("a/2"), core.status("mine")) == (Status.CANCELLED, Status.RUNNING)
    assert core.standing("a/1").cancel_requested
    assert not core.standing("other").cancel_requested
    assert CancelTasks(connection, (core.standing("a/1").fence,)) in core.take_effects()
    assert not core.state.facts.of(ABANDONED)


def test_children_are_cancelled_by_the_next_leader_if_theirs_ends_before():
    core, connection = running(spec("a"))
    wait(core, connection, "a", "a/1", children=(spec("a/1", run_in_ms=600_000),))
    core.do(cmd.Cancel("a"))
    core.restart()
    assert core.status("a/1") is Status.PENDING
    core.tick()
    assert core.status("a/1") is Status.CANCELLED
    core.restart()
    assert not core.state.dependents.abandoned


def test_a_child_that_has_ended_may_wait_again_in_the_batch_that_cancels_its_siblings():
    core, connection = running(spec("a"), spec("x"))
    children = (spec("a/1", run_in_ms=600_000), spec("a/2", after=("x",)))
    wait(core, connection, "a", "a/1", "a/2", children=children, rule=AfterRule.ALL_FINISHED)
    core.report(connection, "x", Outcome.FAILED, failure=Failure(FailureKind.HANDLER, "no"))
    core.tick()
    core.do(cmd.RetryTask("x"))
    core.do(cmd.Cancel("a"))
    core.tick()
    assert (core.status("a/1"), waiting(core, "a/2")) == (Status.CANCELLED, True)


def test_children_of_children_are_cancelled_too():
    core, connection = running(spec("a"))
    wait(core, connection, "a", "a/1", children=(spec("a/1"),))
    core.dispatch()
    wait(core, connection, "a/1", "a/1/1", children=(spec("a/1/1", run_in_ms=600_000),))
    core.do(cmd.Cancel("a"))
    core.tick()
    assert (core.status("a/1"), core.status("a/1/1")) == (Status.CANCELLED, Status.CANCELLED)


def test_children_whose_worker_is_lost_in_the_same_batch_are_cancelled_in_the_next():
    core, connection = running(spec("a"))
    wait(core, connection, "a", "a/1", children=(spec("a/1"),))
    core.dispatch()
    core.do(cmd.Cancel("a"))
    core.pass_time(core.state.settings.lease + 1)
    assert core.status("a/1") is Status.CANCELLED
    assert core.state.finished_tasks == 2


def test_children_stay_when_the_task_ends_in_another_way():
    core, connection = running(spec("a"))
    wait(core, connection, "a", "a/1", "a/2", children=(spec("a/1"), spec("a/2", run_in_ms=600_000)))
    core.do(cmd.Cancel("a/1"))
    core.tick()
    assert (core.status("a"), core.status("a/2")) == (Status.CANCELLED, Status.PENDING)


def test_children_stay_when_more_tasks_were_cancelled_because_of_others_than_are_remembered(
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr("gowork.leader._core.apply.DEPENDENTS_CANCELLED_MAX", 0)
    core, connection = running(spec("a"))
    wait(core, connection, "a", "a/1", "a/2", children=(spec("a/1"), spec("a/2", run_in_ms=600_000)))
    core.do(cmd.Cancel("a/1"))
    core.tick()
    assert (core.status("a"), core.status("a/2")) == (Status.CANCELLED, Status.PENDING)


def test_a_cancel_while_the_next_handler_runs_reaches_no_other_task():
    core, connection = running(spec("a"))
    children = (spec("a/1"), spec("a/2", run_in_ms=600_000))
    wait(core, connection, "a", "a/1", "a/2", children=children, rule=AfterRule.ANY_FAILED)
    core.do(cmd.Cancel("a/1"))
    core.tick()
    assert core.dispatch() == {connection: ["a"]}
    core.do(cmd.Cancel("a"))
    core.report(connection, "a", Outcome.CANCELLED)
    core.tick()
    assert core.status("a/2") is Status.PENDING


def test_a_failure_in_a_report_that_waits_says_nothing():
    core, connection = running(spec("a"))
    failure = Failure(FailureKind.UPSTREAM, "a worker's own words")
    children = (spec("a/1", run_in_ms=600_000),)
    core.report(
        connection, "a", Outcome.WAITING, continuation=continuation("a/1"), follow_ups=children, failure=failure
    )
    core.do(cmd.Cancel("a"))
    core.tick()
    assert (core.standing("a").failure, core.status("a/1")) == (None, Status.CANCELLED)


def test_a_cancel_of_a_task_that_only_comes_after_others_reaches_none_of_them():
    core, _ = running(spec("d/1"), spec("d", after=("d/1",)))
    core.do(cmd.Cancel("d"))
    assert not core.state.dependents.abandoned


def test_a_task_that_is_to_be_cancelled_does_not_wait_and_schedules_nothing():
    core, connection = running(spec("a"))
    core.do(cmd.Cancel("a"))
    wait(core, connection, "a", "a/1", children=(spec("a/1"),))
    assert core.status("a") is Status.CANCELLED
    assert "a/1" not in core.stored


@pytest.mark.parametrize(
    ("after", "why"),
    [
        (("nobody",), "no task has the id 'nobody'"),
        (("late",), "would come after itself"),
        (("a",), "would come after itself"),
        (("g",), "would come after itself"),
    ],
)
def test_a_task_cannot_wait_for_what_is_unknown_or_waits_for_it(after: tuple[str, ...], why: str):
    core, connection = running(spec("g", handler="", group=Group()), spec("g/a"), spec("a"))
    core.submit(spec("late", after=("a",)))
    id = "g/a" if after == ("g",) else "a"
    wait(core, connection, id, *after, children=(spec("a/1"),))
    assert (core.status(id), core.failure(id).kind) == (Status.ERROR, FailureKind.REJECTED)
    assert why in core.failure(id).message
    assert core.failure(id).message.startswith("it can't wait: after")
    # Nothing is scheduled by a report that is refused.
    assert "a/1" not in core.stored


def test_two_tasks_of_one_frame_cannot_wait_for_each_other():
    core, connection = running(spec("a"), spec("b"))
    reports = [
        cmd.Report(core.standing(id).fence, id, Outcome.WAITING, continuation=continuation(other))
        for id, other in (("a", "b"), ("b", "a"))
    ]
    core.do(cmd.ReceiveFrame(connection, reports))
    assert (waiting(core, "a"), core.failure("b").kind) == (True, FailureKind.REJECTED)


def reporting(core: Core, id: str, *after: str, children: tuple[Spec, ...] = (), **fields: Any) -> cmd.Report:
    fence, following = core.standing(id).fence, continuation(*after, **fields)
    return cmd.Report(fence, id, Outcome.WAITING, continuation=following, follow_ups=children)


def test_a_follow_up_of_one_frame_makes_no_circle_with_a_task_that_waits():
    core, connection = running(spec("g", handler="", group=Group()), spec("a"), spec("b"), spec("c"))
    # a waits for g, g for its child g/c, and g/c for a.
    follow_up = cmd.Report(core.standing("b").fence, "b", Outcome.COMPLETED, follow_ups=(spec("g/c", after=("a",)),))
    core.do(cmd.ReceiveFrame(connection, [reporting(core, "a", "g"), follow_up]))
    assert (waiting(core, "a"), "g/c" in core.stored, core.status("b")) == (True, False, Status.ERROR)


def test_what_waits_by_one_frame_is_counted_together(monkeypatch: pytest.MonkeyPatch):
    core, connection = running(spec("a"), spec("b"), spec("c"), settings=Settings(lanes_max=1))
    core.do(cmd.ReceiveFrame(connection, [reporting(core, id, handler=f"for-{id}") for id in "abc"]))
    core.tick()
    assert core.state.queues.lanes == 1
    core, connection = running(spec("a"), spec("b"), spec("x", run_in_ms=600_000), spec("y", run_in_ms=600_000))
    monkeypatch.setattr("gowork.leader._core.upstream.EDGES_MAX", 2)
    core.do(cmd.ReceiveFrame(connection, [reporting(core, id, "x", "y") for id in "ab"]))
    assert core.state.dependents.edges == 2
    monkeypatch.setattr("gowork.leader._core.upstream.DEPENDENTS_MAX", 1)
    core, connection = running(spec("a"))
    wait(core, connection, "a", "a/2", children=(spec("a/1"), spec("a/2", after=("a/1",))))
    assert (core.state.dependents.live, core.status("a")) == (0, Status.ERROR)


def test_two_tasks_of_one_frame_wait_each_with_a_seq_of_its_own():
    core, connection = running(spec("a"), spec("b"))
    reports = [
        cmd.Report(
            core.standing(id).fence,
            id,
            Outcome.WAITING,
            continuation=continuation(f"{id}/1"),
            follow_ups=(spec(f"{id}/1"),),
        )
        for id in ("a", "b")
    ]
    core.do(cmd.ReceiveFrame(connection, reports))
    seqs = [core.task(id).seq for id in ("a/1", "b/1", "a", "b")]
    assert seqs == [3, 4, 5, 6]
    assert core.state.next_seq == 7


def test_there_is_a_bound_of_handlers_and_of_tasks_that_wait(monkeypatch: pytest.MonkeyPatch):
    core, connection = running(spec("a"), settings=Settings(lanes_max=1))
    core.submit(spec("b", handler="nobody"))
    wait(core, connection, "a", handler="then")
    assert "combinations" in core.failure("a").message
    monkeypatch.setattr("gowork.leader._core.upstream.EDGES_MAX", 1)
    core, connection = running(spec("a"))
    wait(core, connection, "a", "a/1", "a/2", children=(spec("a/1"), spec("a/2")))
    assert "the limits are" in core.failure("a").message


def test_a_task_does_not_go_on_for_nothing_for_ever():
    core, connection = running(spec("a"), spec("b"))
    core.report(connection, "b")
    for _ in range(UNCOUNTED_MAX):
        wait(core, connection, "a", "b")
        core.tick()
        assert core.dispatch() == {connection: ["a"]}
    wait(core, connection, "a", "b")
    assert core.failure("a").kind is FailureKind.REJECTED
    assert "none of its last 100 attempts has counted" in core.failure("a").message


def test_a_task_may_wait_for_something_as_often_as_it_likes():
    core, connection = running(spec("a"), spec("b"))
    for number in range(UNCOUNTED_MAX + 1):
        wait(core, connection, "a", f"a/{number}", children=(spec(f"a/{number}"),))
        core.dispatch()
        core.report(connection, f"a/{number}")
        core.tick()
        assert core.dispatch() == {connection: ["a"]}
    wait(core, connection, "a", "b")
    assert waiting(core, "a")


def test_a_report_that_comes_again_is_acknowledged():
    core, connection = running(spec("a"))
    fence = core.standing("a").fence
    for _ in range(2):
        decision = core.report(connection, "a", Outcome.WAITING, continuation=continuation(), fence=fence)
        (effect,) = decision.effects
        assert isinstance(effect, Acknowledge)
        assert not effect.refused
    assert core.standing("a").continued == 1


def test_a_repeated_submit_of_a_task_that_waits_is_the_same_task():
    core, connection = running(spec("a"))
    wait(core, connection, "a")
    answer = core.submit(spec("a"))
    assert isinstance(answer, cmd.Submitted)
    assert isinstance(core.submit(spec("a", body=b"x")), cmd.Refused)


def test_a_task_keeps_its_unique_key_while_it_waits():
    core, connection = running(spec("a", unique="k"))
    wait(core, connection, "a", "a/1", children=(spec("a/1", run_in_ms=600_000),))
    core.submit(spec("b", unique="k"))
    assert "b" not in core.stored


def test_a_follow_up_does_not_get_the_key_of_a_task_that_waits():
    core, connection = running(spec("a", unique="k"))
    wait(core, connection, "a", children=(spec("b", unique="k"),))
    assert waiting(core, "a")
    assert "b" not in core.stored
    assert core.state.facts.of(UNIQUE_KEYS)["k"].id == "a"


def test_a_task_may_wait_for_one_that_has_ended():
    core, connection = running(spec("a"), spec("b"))
    core.report(connection, "b")
    wait(core, connection, "a", "b")
    core.tick()
    assert core.dispatch() == {connection: ["a"]}


def test_a_group_may_wait_too_and_no_longer_for_its_children():
    core, connection = running(spec("g", group=Group(1)))
    core.submit(spec("g/x"))
    core.dispatch()
    core.report(connection, "g/x")
    core.tick()
    core.dispatch()
    wait(core, connection, "g", "g/then/1", children=(spec("g/then/1"),))
    assert waiting(core, "g")
    core.restart()
    connection = core.connect()
    core.dispatch()
    core.report(connection, "g/then/1")
    core.tick()
    assert core.dispatch() == {connection: ["g"]}


def test_a_child_that_waits_is_still_counted_once_by_its_group():
    core, connection = running(spec("g", handler="", group=Group(1)), spec("g/x"))
    wait(core, connection, "g/x", "g/x/1", children=(spec("g/x/1"),))
    children = core.state.dependents.groups["g"].children
    assert children is not None
    assert (children.there, children.ended) == (1, 0)
    core.dispatch()
    core.report(connection, "g/x/1")
    core.tick()
    core.dispatch()
    core.report(connection, "g/x")
    core.tick()
    assert core.status("g") is Status.COMPLETED


def test_why_tells_what_a_waiting_task_waits_for():
    core, connection = running(spec("a"))
    wait(core, connection, "a", "a/1", children=(spec("a/1"),))
    (reason,) = explain(core.state, core.task("a"), core.now).reasons
    assert "'a/1'" in reason.message
