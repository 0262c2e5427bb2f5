"""A pending task is changed: it waits where it asks to from then on, and is the same task to everybody."""

from __future__ import annotations

from typing import Any

import pytest
from leader_core import WALL_MS, Core, lane, spec
from msgspec.structs import replace

from gowork.leader._core import commands as cmd
from gowork.leader._core.explain import explain
from gowork.leader._core.model import (
    FailureKind,
    LaneKey,
    Outcome,
    Place,
    Priority,
    RetryPolicy,
    Spec,
    Status,
    WaitCode,
)
from gowork.leader._core.state import Settings
from gowork.leader._core.step import carry_out, take


def change(
    core: Core, id: str, *, pending_max: int | None = None, run_at_ms: int | None = None, **fields: Any
) -> object:
    """Gives a task another lane, or other times, as the wire does by its message."""

    def edit(before: Spec, created_ms: int, now_ms: int) -> tuple[Spec, tuple[str, ...]]:
        key = before.lane
        queue, priority = fields.get("queue", key.queue), fields.get("priority", key.priority)
        after = replace(
            before,
            lane=lane(queue, priority, key.handler, key.selector, key.concurrency_key),
            run_at_ms=before.run_at_ms if run_at_ms is None else run_at_ms,
            expires_at_ms=fields.get("expires_at_ms", before.expires_at_ms),
        )
        if after == before:
            return before, ()
        names = [*fields, *(["run_at_ms"] if after.run_at_ms != before.run_at_ms else [])]
        return replace(after, body=before.body + b"!"), tuple(names)

    return core.do(cmd.UpdateTask(id, edit, run_at_ms is not None, pending_max)).answer


def test_a_task_goes_behind_those_that_wait_already_in_its_new_lane() -> None:
    core = Core()
    core.submit(spec("a"), spec("b"), spec("c", priority=Priority.HIGH))
    assert change(core, "a", priority=Priority.HIGH) is None
    core.submit(spec("d", priority=Priority.HIGH))
    connection = core.connect(slots=9)
    assert core.dispatch() == {connection: ["c", "a", "d", "b"]}
    assert core.standing("a").created_ms == WALL_MS


def test_it_waits_in_its_new_queue_alone() -> None:
    core = Core()
    core.submit(spec("a"), spec("b", run_in_ms=60_000))
    for id in ("a", "b"):
        change(core, id, queue="mail")
    assert core.state.queues.get("default") is None
    mail = core.state.queues.get("mail")
    assert mail is not None
    assert (mail.waiting, mail.delayed, core.state.queues.waiting, core.state.queues.delayed) == (1, 1, 1, 1)
    connection = core.connect("w", slots=9, queues=("default",))
    assert core.dispatch() == {}
    connection = core.connect("m", slots=9, queues=("mail",))
    assert core.dispatch() == {connection: ["a"]}
    core.pass_time(61)
    connection = core.connect("m", instance="later", slots=9, queues=("mail",))
    assert core.dispatch() == {connection: ["a", "b"]}


def test_its_old_timers_are_stale_and_its_new_ones_count() -> None:
    core = Core()
    core.submit(
        spec("sooner", run_in_ms=60_000), spec("later", run_in_ms=5_000), spec("now", run_in_ms=60_000),
        spec("lives", expires_in_ms=5_000), spec("ends"),
    )  # fmt: skip
    change(core, "sooner", run_at_ms=WALL_MS + 5_000)
    change(core, "later", run_at_ms=WALL_MS + 60_000)
    change(core, "now", run_at_ms=0)
    change(core, "lives", expires_at_ms=0)
    change(core, "ends", expires_at_ms=WALL_MS + 5_000)
    assert core.task("now").place is not Place.TIMER
    core.pass_time(6)
    assert [core.task(id).place for id in ("sooner", "later")] == [Place.WINDOW, Place.TIMER]
    assert core.status("lives") is Status.PENDING
    assert core.failure("ends").kind is FailureKind.EXPIRED
    core.pass_time(60)
    assert core.task("later").place is Place.WINDOW


def test_a_task_that_waits_for_its_next_attempt_may_be_brought_forward() -> None:
    core = Core()
    connection = core.connect(slots=1, credit=9)
    core.submit(spec("a", retry=RetryPolicy(max_attempts=3, initial_delay_ms=60_000)))
    core.dispatch()
    core.report(connection, "a", Outcome.FAILED)
    seq = core.task("a").seq
    assert core.dispatch() == {}
    change(core, "a", run_at_ms=0)
    # It asks for what it asked for before, so it stays the record that it is.
    assert (core.task("a").seq, core.standing("a").edit) == (seq, None)
    assert core.dispatch() == {connection: ["a"]}
    assert len(core.standing("a").attempts) == 1


def test_another_queue_leaves_the_delay_of_a_retry_alone() -> None:
    core = Core()
    connection = core.connect(slots=1, credit=9)
    core.submit(spec("a", retry=RetryPolicy(max_attempts=3, initial_delay_ms=60_000)))
    core.dispatch()
    core.report(connection, "a", Outcome.FAILED)
    before = core.standing("a")
    change(core, "a", queue="mail")
    assert replace(core.standing("a"), edit=None) == before
    assert _codes(core, "a") == [WaitCode.RETRY_DELAY]
    change(core, "a", run_at_ms=WALL_MS + 90_000)
    assert _codes(core, "a") == [WaitCode.DELAYED]
    core.pass_time(91)
    assert _codes(core, "a") == []


def _codes(core: Core, id: str) -> list[WaitCode]:
    reasons = explain(core.state, core.task(id), core.now).reasons
    return [reason.code for reason in reasons if reason.code in (WaitCode.RETRY_DELAY, WaitCode.DELAYED)]


def test_the_submit_is_the_same_task_after_any_number_of_changes() -> None:
    core = Core()
    first = spec("a")
    core.submit(first)
    change(core, "a", queue="mail")
    change(core, "a", priority=Priority.HIGH)
    assert core.submit(first) == cmd.Submitted(0, 1)
    assert core.task("a").spec.lane == LaneKey("mail", Priority.HIGH, "work", ())
    other = core.submit(spec("a", body=b"another"))
    assert isinstance(other, cmd.Refused)
    assert other.code == cmd.TASK_EXISTS
    edit = core.standing("a").edit
    assert edit is not None
    assert (edit.fields, edit.changed_ms) == (("priority", "queue"), WALL_MS)


@pytest.mark.parametrize(
    "outcomes",
    [[Outcome.COMPLETED], [Outcome.FAILED, Outcome.FAILED], [Outcome.INTERRUPTED, Outcome.SNOOZED, Outcome.COMPLETED]],
)
@pytest.mark.parametrize("by_columns", [False, True])
def test_it_is_the_same_task_while_it_runs_and_when_it_has_ended(outcomes: list[Outcome], by_columns: bool) -> None:
    core = Core()
    connection = core.connect(slots=1, credit=9)
    first = spec("a", retry=RetryPolicy(max_attempts=2, initial_delay_ms=1))
    core.submit(first)
    change(core, "a", queue="mail")
    for outcome in outcomes:
        core.tick()
        core.wall_ms += 100
        core.tick()
        assert core.dispatch() == {connection: ["a"]}
        assert core.submit(first) == cmd.Submitted(0, 1)
        if by_columns and outcome is Outcome.COMPLETED:
            columns = cmd.Completions(["a"], [core.standing("a").fence], [0], [""], [b""], [""])
            core.do(cmd.ReceiveFrame(connection, completions=[columns]))
        else:
            core.report(connection, "a", outcome)
        assert core.submit(first) == cmd.Submitted(0, 1)
    assert core.status("a") >= Status.COMPLETED


def test_of_what_it_asks_for_already_nothing_is_written() -> None:
    core = Core()
    core.submit(spec("a"))
    decision = core.do(cmd.UpdateTask("a", lambda spec, created_ms, now_ms: (spec, ()), False))
    assert (decision.answer, decision.changes) == (None, [])


def test_what_does_not_wait_is_refused_by_its_status() -> None:
    core = Core()
    connection = core.connect(slots=9, credit=99)
    core.submit(spec("runs"), spec("done"))
    core.dispatch()
    core.report(connection, "done")
    core.submit(spec("late", expires_in_ms=1000), spec("stopped"))
    core.do(cmd.Cancel("stopped"))
    core.wall_ms += 2000
    before = dict(core.stored)
    codes = {}
    for id in ("runs", "done", "stopped", "late", "nobody"):
        refused = change(core, id, queue="mail")
        assert isinstance(refused, cmd.Refused)
        codes[id] = refused.code
    assert codes == {
        "runs": cmd.TASK_RUNNING,
        "done": cmd.TASK_FINISHED,
        "stopped": cmd.TASK_FINISHED,
        "late": cmd.TASK_EXPIRED,
        "nobody": cmd.TASK_UNKNOWN,
    }
    assert core.stored == before


def test_the_bounds_of_lanes_and_of_the_caller_hold_for_where_it_goes() -> None:
    core = Core(Settings(lanes_max=2, pending_max=3))
    core.submit(spec("a"), spec("b"), spec("c", queue="mail"))
    refused = change(core, "a", queue="third")
    assert isinstance(refused, cmd.Refused)
    assert refused.code == cmd.TOO_MANY_LANES
    refused = change(core, "a", queue="mail", pending_max=1)
    assert isinstance(refused, cmd.Refused)
    assert refused.code == cmd.CALLER_LIMIT
    assert core.task("a").spec.lane.queue == "default"
    # As many tasks are pending afterwards, so a full leader takes it, and so does the queue that it is in.
    assert change(core, "a", queue="mail") is None
    assert change(core, "a", expires_at_ms=WALL_MS + 9_000, pending_max=0) is None


def other(before: Spec, created_ms: int, now_ms: int) -> tuple[Spec, tuple[str, ...]]:
    """Another payload for another handler; of a task that has these already, nothing."""
    if before.body == b"other":
        return before, ()
    return replace(before, lane=before.lane._replace(handler="other"), body=b"other"), ("handler", "payload")


def test_a_failed_task_runs_again_with_something_else_as_the_same_task() -> None:
    core = Core()
    connection = core.connect(slots=1, credit=1, handlers=("work", "other"))
    core.submit(spec("a"), spec("b"))
    core.dispatch()
    core.report(connection, "a", Outcome.FAILED)
    fence = core.standing("a").fence
    assert core.do(cmd.RetryTask("a", edit=other)).answer is None
    assert (core.state.failed_tasks, core.state.finished_tasks) == (0, 0)
    core.do(cmd.ReceiveFrame(connection, credit=2))
    assert core.dispatch() == {connection: ["b"]}
    core.report(connection, "b")
    core.do(cmd.ReceiveFrame(connection, credit=3))
    assert core.dispatch() == {connection: ["a"]}
    standing = core.standing("a")
    assert ([attempt.fence for attempt in standing.attempts], standing.fence > fence) == ([fence], True)
    assert standing.edit is not None
    assert standing.edit.fields == ("handler", "payload")
    assert core.task("a").spec.lane.handler == "other"
    assert core.submit(spec("a")) == cmd.Submitted(0, 1)


def test_what_has_not_failed_does_not_get_something_else() -> None:
    core = Core()
    connection = core.connect(slots=1, credit=9)
    core.submit(spec("runs"), spec("waits"))
    core.dispatch()
    before = dict(core.stored)
    for id in ("runs", "waits"):
        assert core.refusal(cmd.RetryTask(id, edit=other)).code == cmd.NOT_FINISHED
    assert core.stored == before
    core.report(connection, "runs")
    assert core.refusal(cmd.RetryTask("runs", edit=other)).code == cmd.TASK_FINISHED


def test_a_retry_with_something_else_may_be_repeated() -> None:
    core = Core()
    core.submit(spec("a"))
    core.do(cmd.Cancel("a"))
    core.do(cmd.RetryTask("a", edit=other))
    decision = core.do(cmd.RetryTask("a", edit=other))
    assert (decision.answer, decision.changes) == (None, [])


def test_a_retry_with_something_else_finds_room_for_that() -> None:
    core = Core(Settings(lanes_max=1))
    core.submit(spec("a"), spec("b"))
    core.do(cmd.Cancel("a"))
    assert core.refusal(cmd.RetryTask("a", edit=other)).code == cmd.TOO_MANY_LANES
    assert core.do(cmd.RetryTask("a")).answer is None


@pytest.mark.parametrize("again", [False, True])
def test_what_is_submitted_and_changed_in_one_batch_is_written_once(again: bool) -> None:
    core = Core()
    core.submit(spec("a"))
    state = core.state
    first = spec("b")

    def move(before: Spec, created_ms: int, now_ms: int) -> tuple[Spec, tuple[str, ...]]:
        key = before.lane._replace(queue=before.lane.queue + "!")
        return replace(before, lane=key, body=before.body + b"!"), ("queue",)

    carry_out(state, cmd.Submit([first]), core.now)
    state.tasks["a"] = core.task("a")
    for id in ("a", "b") * (2 if again else 1):
        carry_out(state, cmd.UpdateTask(id, move, False), core.now)
    pending = take(state)
    assert {id: task.spec.lane.queue for id, task in pending.submitted.items()} == {
        "a": "default!!" if again else "default!",
        "b": "default!!" if again else "default!",
    }
    assert (pending.replaced, pending.removed, dict(pending.moved)) == ({"a": 1}, {}, {})


def test_what_is_changed_and_purged_in_one_batch_is_removed() -> None:
    core = Core()
    core.submit(spec("a"))
    state = core.state

    def move(before: Spec, created_ms: int, now_ms: int) -> tuple[Spec, tuple[str, ...]]:
        return replace(before, lane=before.lane._replace(queue="mail"), body=b"!"), ("queue",)

    for command in (cmd.UpdateTask("a", move, False), cmd.Cancel("a"), cmd.Purge(["a"])):
        carry_out(state, command, core.now)
    pending = take(state)
    assert (pending.removed, pending.replaced, pending.submitted, pending.moved) == ({1: "a"}, {}, {}, {})
    assert "a" not in state.tasks
