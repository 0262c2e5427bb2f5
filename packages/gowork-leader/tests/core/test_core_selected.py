"""Tasks that a filter has selected are cancelled or run again, if they are still those that were selected."""

from __future__ import annotations

import pytest
from leader_core import Core, spec

from gowork.leader._core import commands as cmd
from gowork.leader._core.effects import CancelTasks
from gowork.leader._core.model import Outcome, Spec, Standing, Status


def anything(spec: Spec, standing: Standing) -> bool:
    return True


def chosen(core: Core, *ids: str) -> list[cmd.Chosen]:
    return [cmd.Chosen(id, core.task(id).seq) for id in ids]


def cancel(core: Core, *ids: str) -> object:
    return core.do(cmd.CancelTasks(chosen(core, *ids), anything)).answer


def retry(core: Core, *ids: str, changed_max: int = 0, pending_max: int | None = None) -> object:
    return core.do(cmd.RetryTasks(chosen(core, *ids), anything, changed_max, pending_max)).answer


def with_each_status() -> tuple[Core, int]:
    """Tasks that wait, run, and have ended in each way."""
    core = Core()
    connection = core.connect(slots=9, credit=99)
    core.submit(*[spec(id) for id in ("runs", "done", "failed", "stopped")])
    core.dispatch()
    core.report(connection, "done")
    core.report(connection, "failed", Outcome.FAILED)
    core.report(connection, "stopped", Outcome.CANCELLED)
    core.submit(spec("waits"), spec("delayed", run_in_ms=60_000))
    return core, connection


ALL = ("waits", "delayed", "runs", "done", "failed", "stopped")


def test_what_waits_is_cancelled_and_what_runs_is_asked_to_stop() -> None:
    core, connection = with_each_status()
    core.take_effects()
    assert cancel(core, *ALL) == cmd.Cancelled(pending=2, running=1)
    statuses = [core.status(id).name for id in ALL]
    assert statuses == ["CANCELLED", "CANCELLED", "RUNNING", "COMPLETED", "ERROR", "CANCELLED"]
    assert core.standing("runs").cancel_requested
    fence = core.standing("runs").fence
    assert core.take_effects() == [CancelTasks(connection, (fence,))]
    # The worker is asked again, as by Cancel: the first request may have been lost with its stream.
    assert cancel(core, *ALL) == cmd.Cancelled(pending=0, running=1)
    assert core.take_effects() == [CancelTasks(connection, (fence,))]


def test_what_failed_or_was_cancelled_runs_again_and_nothing_else() -> None:
    core, _ = with_each_status()
    assert retry(core, *ALL) == cmd.Retried(tasks=2, left=0, last_seq=core.task("stopped").seq)
    statuses = [core.status(id).name for id in ALL]
    assert statuses == ["PENDING", "PENDING", "RUNNING", "COMPLETED", "PENDING", "PENDING"]


@pytest.mark.parametrize("command", [cmd.CancelTasks, cmd.RetryTasks])
def test_a_task_that_is_no_longer_selected_is_left_alone(command: type) -> None:
    core, _ = with_each_status()
    more = (0,) if command is cmd.RetryTasks else ()
    before = dict(core.stored)
    core.do(command(chosen(core, *ALL), lambda spec, standing: False, *more))
    # Another task has one of the ids by now, or none has.
    others = [cmd.Chosen(id, core.task(id).seq + 100) for id in ALL]
    core.do(command([*others, cmd.Chosen("nobody", 1)], anything, *more))
    assert core.stored == before


def test_the_selection_sees_the_task_as_it_is_now() -> None:
    core, _ = with_each_status()
    seen: list[tuple[str, Status]] = []

    def look(spec: Spec, standing: Standing) -> bool:
        seen.append((spec.id, standing.status))
        return False

    core.do(cmd.CancelTasks(chosen(core, "runs", "waits"), look))
    assert seen == [("runs", Status.RUNNING), ("waits", Status.PENDING)]


def test_a_task_that_has_changed_since_does_not_run_again() -> None:
    core, _ = with_each_status()
    again = core.task("failed")
    again.changed = 8
    core.state.tasks["failed"] = again
    assert retry(core, "failed", changed_max=7) == cmd.Retried(0, 0, again.seq)
    assert core.status("failed") is Status.ERROR
    assert retry(core, "failed", changed_max=8) == cmd.Retried(1, 0, again.seq)


def test_what_has_expired_is_counted_and_left() -> None:
    core = Core()
    core.submit(spec("late", expires_in_ms=1), spec("a"))
    core.do(cmd.Cancel("a"))
    core.pass_time(1)
    assert core.status("late") is Status.ERROR
    assert retry(core, "late", "a") == cmd.Retried(1, 1, core.task("a").seq)


def ended(core: Core, count: int) -> list[str]:
    ids = [f"t{number}" for number in range(count)]
    core.submit(*[spec(id) for id in ids])
    for id in ids:
        core.do(cmd.Cancel(id))
    return ids


def test_as_many_run_again_as_there_is_room_for_and_the_first_ones() -> None:
    core = Core()
    ids = ended(core, 8)
    core.state.settings.pending_max = 3
    assert retry(core, *ids) == cmd.Retried(tasks=2, left=0, last_seq=core.task("t1").seq)
    assert [core.status(id).name for id in ids] == ["PENDING"] * 2 + ["CANCELLED"] * 6
    assert retry(core, *ids[2:]) == cmd.Retried(1, 0, core.task("t2").seq)
    refused = retry(core, *ids[3:])
    assert isinstance(refused, cmd.Refused)
    assert refused.code == cmd.TOO_MANY_TASKS
    assert core.status("t3") is Status.CANCELLED


def test_the_caller_s_own_bound_holds_too() -> None:
    core = Core()
    ids = ended(core, 4)
    assert retry(core, *ids, pending_max=1) == cmd.Retried(1, 0, core.task("t0").seq)
    refused = retry(core, *ids[1:], pending_max=1)
    assert isinstance(refused, cmd.Refused)
    assert refused.code == cmd.CALLER_LIMIT


def test_expired_ones_are_not_counted_before_their_turn() -> None:
    core = Core()
    core.submit(spec("a"), spec("b"), spec("late", expires_in_ms=1))
    for id in ("a", "b"):
        core.do(cmd.Cancel(id))
    core.pass_time(1)
    core.state.settings.pending_max = 1
    assert retry(core, "a", "b", "late") == cmd.Retried(1, 0, core.task("a").seq)


def test_nothing_chosen_is_nothing_done() -> None:
    core = Core()
    assert cancel(core) == cmd.Cancelled(0, 0)
    assert retry(core) == cmd.Retried(0, 0, 0)
