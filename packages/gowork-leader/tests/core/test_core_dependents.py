"""Tasks that come after others: when they run, when they never will, and what is kept for them."""

from __future__ import annotations

import pytest
from leader_core import Core, spec

from gowork.leader._core import commands as cmd
from gowork.leader._core.freeing import DEPENDENTS_A_BATCH_MAX
from gowork.leader._core.kinds import AFTER
from gowork.leader._core.model import AfterRule, FailureKind, Outcome, Place, Status
from gowork.leader._core.state import Settings

MINUTE_MS = 60_000
ALL_COMPLETED, ALL_FINISHED, ANY_FAILED = AfterRule
CANCELLED, COMPLETED, ERROR, PENDING = Status.CANCELLED, Status.COMPLETED, Status.ERROR, Status.PENDING


def run(core: Core, connection: int, *ends: tuple[str, Outcome]) -> None:
    """Grants what can be granted, which must be these tasks, and has each end so."""
    granted = core.dispatch().get(connection, [])
    assert granted == [id for id, _ in ends]
    for id, outcome in ends:
        core.report(connection, id, outcome)
    core.tick()


@pytest.mark.parametrize(
    ("rule", "outcomes", "status"),
    [
        (ALL_COMPLETED, (Outcome.COMPLETED, Outcome.COMPLETED), COMPLETED),
        (ALL_COMPLETED, (Outcome.COMPLETED, Outcome.FAILED), CANCELLED),
        (ALL_FINISHED, (Outcome.COMPLETED, Outcome.FAILED), COMPLETED),
        (ALL_FINISHED, (Outcome.FAILED, Outcome.FAILED), COMPLETED),
        (ANY_FAILED, (Outcome.COMPLETED, Outcome.FAILED), COMPLETED),
        (ANY_FAILED, (Outcome.COMPLETED, Outcome.COMPLETED), CANCELLED),
    ],
)
@pytest.mark.parametrize("restarts", [False, True])
def test_a_task_runs_when_its_rule_holds(
    rule: AfterRule, outcomes: tuple[Outcome, Outcome], status: Status, restarts: bool
) -> None:
    core = Core(compares=True)
    core.submit(spec("c", after=("a", "b"), rule=rule), spec("a"), spec("b"))
    worker = core.connect()
    assert core.dispatch() == {worker: ["a", "b"]}
    core.report(worker, "a", outcomes[0])
    core.tick()
    if outcomes[0] is Outcome.COMPLETED:
        assert core.dispatch() == {}
    if restarts:
        fence = core.standing("b").fence
        core.restart()
        worker = core.connect(held=(cmd.HeldTask("b", fence, finished=False),))
    core.report(worker, "b", outcomes[1])
    core.tick()
    if status is COMPLETED:
        run(core, worker, ("c", Outcome.COMPLETED))
    assert core.status("c") is status
    if status is CANCELLED:
        assert core.failure("c").kind is FailureKind.UPSTREAM
        assert core.dispatch() == {}
    else:
        assert not core.state.facts.of(AFTER)
        assert not core.state.dependents.of


def test_any_failed_does_not_wait_for_the_others() -> None:
    core = Core()
    core.submit(spec("a"), spec("b"), spec("c", after=("a", "b"), rule=ANY_FAILED))
    worker = core.connect()
    core.dispatch()
    core.report(worker, "a", Outcome.FAILED)
    core.tick()
    assert core.dispatch() == {worker: ["c"]}


def test_a_task_comes_after_tasks_that_have_ended_already() -> None:
    core = Core()
    core.submit(spec("a"), spec("b"))
    worker = core.connect()
    run(core, worker, ("a", Outcome.COMPLETED), ("b", Outcome.FAILED))
    core.submit(spec("c", after=("a",)), spec("d", after=("b",)))
    core.tick()
    assert core.dispatch() == {worker: ["c"]}
    assert core.status("d") is CANCELLED
    assert "'b' has not" in core.failure("d").message


def test_cancelled_and_expired_tasks_have_not_completed() -> None:
    core = Core()
    core.submit(
        spec("a"),
        spec("b", expires_in_ms=MINUTE_MS),
        spec("c", after=("a",)),
        spec("d", after=("b",)),
        spec("e", after=("c",)),
    )
    core.do(cmd.Cancel("a"))
    core.pass_time(61)
    assert [core.status(id) for id in "cde"] == [CANCELLED] * 3
    assert "'c' has not" in core.failure("e").message


def test_a_task_that_waits_for_others_expires_and_is_cancelled_like_any_other() -> None:
    core = Core()
    core.submit(spec("a"), spec("b", after=("a",), expires_in_ms=MINUTE_MS), spec("c", after=("a",)))
    core.do(cmd.Cancel("c"))
    core.pass_time(61)
    assert (core.status("b"), core.status("c")) == (ERROR, CANCELLED)
    assert not core.state.facts.of(AFTER)
    assert core.state.queues.delayed == 0


def test_a_start_counts_also_from_run_at() -> None:
    core = Core()
    core.submit(spec("a"), spec("b", after=("a",), run_in_ms=MINUTE_MS))
    worker = core.connect()
    run(core, worker, ("a", Outcome.COMPLETED))
    assert core.task("b").place is Place.TIMER
    assert core.dispatch() == {}
    core.pass_time(61)
    worker = core.connect()
    assert core.dispatch() == {worker: ["b"]}


def test_a_task_that_waits_for_others_does_not_run_because_its_time_is_changed() -> None:
    core = Core()
    core.submit(spec("a"), spec("b", after=("a",)))
    core.do(cmd.UpdateTask("b", lambda spec, *_: (spec, ("run_at_ms",)), moves_start=True))
    assert core.task("b").place is Place.BLOCKED
    worker = core.connect()
    run(core, worker, ("a", Outcome.COMPLETED))
    assert core.dispatch() == {worker: ["b"]}


# What is refused.


def test_unknown_tasks_are_named() -> None:
    core = Core()
    core.submit(spec("a"))
    refusal = core.refusal(cmd.Submit((spec("b", after=("a",)), spec("c", after=("a", "x")))))
    assert refusal.code == cmd.UPSTREAM_UNKNOWN
    assert refusal.message.startswith("tasks[1].after[1]: no task has the id 'x'")
    assert "b" not in core.stored


def test_circles_are_refused() -> None:
    core = Core()
    circle = (spec("a", after=("c",)), spec("b", after=("a",)), spec("c", after=("b",)), spec("d", after=("a",)))
    refusal = core.refusal(cmd.Submit(circle))
    assert refusal.code == cmd.UPSTREAM_IN_CIRCLE
    assert not core.stored
    assert not isinstance(core.submit(*circle[1:], spec("a")), cmd.Refused)


def test_dependents_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    core = Core()
    core.submit(spec("a"), spec("b"))
    monkeypatch.setattr("gowork.leader._core.upstream.EDGES_MAX", 3)
    core.submit(spec("c", after=("a", "b")))
    refusal = core.refusal(cmd.Submit((spec("d", after=("a", "b")),)))
    assert refusal.code == cmd.TOO_MANY_DEPENDENTS
    monkeypatch.setattr("gowork.leader._core.upstream.DEPENDENTS_MAX", 2)
    core.submit(spec("d", after=("a",)))
    core.do(cmd.Cancel("d"))
    assert not isinstance(core.submit(spec("e", after=("a",))), cmd.Refused)
    assert core.refusal(cmd.Submit((spec("f", after=("a",)),))).code == cmd.TOO_MANY_DEPENDENTS


def test_the_same_again_changes_nothing_though_the_task_before_it_is_gone() -> None:
    core = Core()
    core.submit(spec("a"), spec("b", after=("a",)))
    worker = core.connect()
    run(core, worker, ("a", Outcome.COMPLETED))
    run(core, worker, ("b", Outcome.COMPLETED))
    core.do(cmd.Purge(("a",), strict=True))
    assert core.submit(spec("b", after=("a",))) == cmd.Submitted(0, 1)


def test_a_follow_up_comes_after_its_own_task() -> None:
    core = Core()
    core.submit(spec("a"))
    worker = core.connect()
    core.dispatch()
    core.report(worker, "a", follow_ups=(spec("b", after=("a", "c")), spec("c")))
    core.tick()
    run(core, worker, ("c", Outcome.COMPLETED))
    assert core.dispatch() == {worker: ["b"]}


def test_a_follow_up_after_an_unknown_task_fails_the_attempt() -> None:
    core = Core()
    core.submit(spec("a"))
    worker = core.connect()
    core.dispatch()
    core.report(worker, "a", follow_ups=(spec("b"), spec("c", after=("x",))))
    assert core.status("a") is ERROR
    assert "follow_ups[1].after[0]: no task has the id 'x'" in core.failure("a").message
    assert set(core.stored) == {"a"}


def test_what_has_ended_because_of_others_takes_no_room_of_what_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    core = Core()
    monkeypatch.setattr("gowork.leader._core.upstream.DEPENDENTS_MAX", 2)
    monkeypatch.setattr("gowork.leader._core.apply.DEPENDENTS_CANCELLED_MAX", 3)
    core.submit(spec("a"))
    core.do(cmd.Cancel("a"))
    for id in "bcdef":
        assert not isinstance(core.submit(spec(id, after=("a",))), cmd.Refused)
        core.tick()
    assert len(core.state.facts.of(AFTER)) == 3
    # The others are not known any more.
    monkeypatch.setattr("gowork.leader._core.upstream.DEPENDENTS_MAX", 100)
    core.do(cmd.RetryTask("a"))
    core.tick()
    assert [core.status(id) for id in "bcdef"] == [PENDING] * 3 + [CANCELLED] * 2


def test_a_task_that_expires_when_it_would_be_freed_has_expired() -> None:
    core = Core()
    core.submit(spec("a"), spec("b", after=("a",), expires_in_ms=MINUTE_MS))
    worker = core.connect()
    core.dispatch()
    core.report(worker, "a")
    core.pass_time(61)
    assert core.status("b") is ERROR
    assert core.failure("b").kind is FailureKind.EXPIRED


# What is kept.


def test_a_task_is_kept_until_those_after_it_have_ended() -> None:
    core = Core()
    core.submit(spec("a"), spec("b", after=("a",)))
    worker = core.connect()
    run(core, worker, ("a", Outcome.COMPLETED))
    refusal = core.refusal(cmd.Purge(("a",), strict=True))
    assert (refusal.code, "'b'" in refusal.message) == (cmd.HAS_DEPENDENTS, True)
    assert core.do(cmd.Purge(("a",))).answer == cmd.Purged(0)
    run(core, worker, ("b", Outcome.COMPLETED))
    assert core.do(cmd.Purge(("a",))).answer == cmd.Purged(1)


def test_what_was_cancelled_because_of_a_task_does_not_keep_it() -> None:
    core = Core()
    core.submit(spec("a"), spec("b", after=("a",)))
    worker = core.connect()
    run(core, worker, ("a", Outcome.FAILED))
    assert core.do(cmd.Purge(("a",))).answer == cmd.Purged(1)
    assert not core.state.facts.of(AFTER)
    # Another task with the id of the first one is another task.
    core.submit(spec("a"))
    core.tick()
    assert core.status("b") is CANCELLED


def test_what_was_cancelled_because_of_a_task_is_forgotten_when_it_is_removed() -> None:
    core = Core()
    core.submit(spec("a"), spec("b", after=("a",)))
    worker = core.connect()
    run(core, worker, ("a", Outcome.FAILED))
    assert core.do(cmd.Purge(("b",), strict=True)).answer == cmd.Purged(1)
    assert not core.state.facts.of(AFTER)
    assert not core.state.dependents.of


def test_a_task_that_is_gone_all_the_same_has_not_completed() -> None:
    """As when an older leader has removed it."""
    core = Core()
    core.submit(spec("a"), spec("b", after=("a",)))
    worker = core.connect()
    core.dispatch()
    core.report(worker, "a")
    del core.stored["a"]
    core.restart()
    core.tick()
    assert core.status("b") is CANCELLED


# What runs again.


def test_a_retry_has_those_wait_again_that_were_cancelled_because_of_it() -> None:
    core = Core()
    core.submit(spec("a"), spec("b", after=("a",)), spec("c", after=("b",)), spec("d", after=("a",)))
    worker = core.connect(credit=10)
    run(core, worker, ("a", Outcome.FAILED))
    assert [core.status(id) for id in "bcd"] == [CANCELLED] * 3
    core.do(cmd.Cancel("d"))
    core.do(cmd.RetryTask("a"))
    core.tick()
    assert [core.task(id).place for id in "bcd"] == [Place.BLOCKED] * 3
    run(core, worker, ("a", Outcome.COMPLETED))
    run(core, worker, ("b", Outcome.COMPLETED), ("d", Outcome.COMPLETED))
    run(core, worker, ("c", Outcome.COMPLETED))
    assert not core.state.dependents.of


def test_who_cancels_a_task_by_hand_keeps_it_from_waiting_again() -> None:
    core = Core()
    core.submit(spec("a"), spec("b", after=("a",)))
    core.do(cmd.Cancel("b"))
    worker = core.connect()
    run(core, worker, ("a", Outcome.FAILED))
    core.do(cmd.RetryTask("a"))
    core.tick()
    assert core.status("b") is CANCELLED
    # By hand it runs all the same, whatever the other one does.
    core.do(cmd.RetryTask("b"))
    assert core.dispatch() == {worker: ["a", "b"]}


def test_a_retry_while_others_still_wait_counts_its_task_as_unfinished() -> None:
    core = Core()
    core.submit(spec("a"), spec("b"), spec("c", after=("a", "b"), rule=ALL_FINISHED))
    worker = core.connect()
    core.dispatch()
    core.report(worker, "a", Outcome.FAILED)
    core.do(cmd.RetryTask("a"))
    core.report(worker, "b")
    core.tick()
    assert core.status("c") is PENDING
    assert core.dispatch() == {worker: ["a"]}
    core.restart()
    core.tick()
    assert core.task("c").place is Place.BLOCKED


def test_a_task_does_not_wait_again_while_another_one_has_its_unique_key() -> None:
    core = Core()
    core.submit(spec("a"), spec("b", after=("a",), unique="k"))
    worker = core.connect()
    run(core, worker, ("a", Outcome.FAILED))
    core.submit(spec("other", unique="k"))
    core.do(cmd.RetryTask("a"))
    core.tick()
    assert core.status("b") is CANCELLED


def test_a_task_does_not_wait_again_while_one_that_is_in_the_store_alone_has_its_unique_key() -> None:
    core = Core()
    core.submit(spec("a"), spec("b", after=("a",), unique="k"))
    core.do(cmd.Cancel("a"))
    core.tick()
    core.submit(spec("other", unique="k", run_in_ms=60 * MINUTE_MS))
    assert "other" not in core.state.tasks
    core.do(cmd.RetryTask("a"))
    core.tick()
    assert (core.status("a"), core.status("b")) == (PENDING, CANCELLED)


def test_one_batch_looks_at_so_many_dependents_alone() -> None:
    core = Core()
    number = DEPENDENTS_A_BATCH_MAX + 1
    core.submit(spec("a"), *(spec(f"d{place}", after=("a",)) for place in range(number)))
    worker = core.connect()
    core.dispatch()
    core.report(worker, "a")
    for freed in (DEPENDENTS_A_BATCH_MAX, number):
        core.do(cmd.Tick(core.wall_ms))
        assert core.state.queues.waiting == freed
    assert not core.state.dependents.undecided


def test_the_cause_is_one_that_has_not_completed() -> None:
    for again, named in (("a", "'b' has not"), ("b", "one of them has not")):
        core = Core()
        core.submit(spec("a"), spec("b"), spec("c", after=("a", "b")))
        core.do(cmd.Cancel("a"))
        core.do(cmd.Cancel("b"))
        core.do(cmd.RetryTask(again))
        core.tick()
        assert core.failure("c").message.endswith(named)


@pytest.mark.parametrize("bound", ["pending", "dependents", "edges"])
def test_tasks_wait_again_as_far_as_there_is_room(bound: str, monkeypatch: pytest.MonkeyPatch) -> None:
    core = Core(Settings(pending_max=3 if bound == "pending" else 100))
    core.submit(spec("a"))
    core.do(cmd.Cancel("a"))
    for id in "bcde":
        core.submit(spec(id, after=("a",)))
        core.tick()
    if bound != "pending":
        monkeypatch.setattr(f"gowork.leader._core.upstream.{bound.upper()}_MAX", 2)
    core.do(cmd.RetryTask("a"))
    core.tick()
    assert [core.status(id) for id in "bcde"] == [PENDING] * 2 + [CANCELLED] * 2
