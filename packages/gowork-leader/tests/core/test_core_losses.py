"""A task with OnLost.FAIL is not run again after an attempt that may have begun, unless its end was reported."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from leader_core import Core, spec
from msgspec.structs import replace

from gowork.leader._core import commands as cmd
from gowork.leader._core.effects import StartWork
from gowork.leader._core.explain import explain
from gowork.leader._core.model import (
    FailureKind,
    HeartbeatStatus,
    OnLost,
    Outcome,
    RetryPolicy,
    Spec,
    Standing,
    Status,
)
from gowork.leader.store.codec import decode_standing, encode_standing

FAIL, AGAIN = OnLost.FAIL, OnLost.AGAIN
THRICE = RetryPolicy(max_attempts=3, initial_delay_ms=0)


def once(id: str = "a", on_lost: OnLost | None = FAIL, **fields: Any) -> Spec:
    """A task that must not run twice."""
    return replace(spec(id, **fields), on_lost=on_lost)


def granted(*specs: Spec, **worker: Any) -> tuple[Core, int]:
    """A core whose worker has been granted these tasks, and the worker's connection."""
    core = Core()
    connection = core.connect(**worker)
    core.submit(*specs)
    core.dispatch()
    return core, connection


def is_lost(core: Core, id: str = "a") -> bool:
    """Whether the task has ended because it must not run again."""
    failure = core.standing(id).failure
    assert core.status(id) in (Status.PENDING, Status.ERROR)
    assert (core.status(id) is Status.ERROR) is (failure is not None and failure.kind is FailureKind.LOST)
    return core.status(id) is Status.ERROR


# What takes a task back whose handler may have begun.


def test_a_task_ends_when_the_lease_of_its_worker_runs_out():
    core, _ = granted(once(), once("b", AGAIN))
    core.pass_time(11)
    assert is_lost(core)
    assert "it may have run" in core.failure("a").message
    assert core.failure("a").message.endswith("its lease ran out")
    assert core.standing("a").attempts[-1].outcome is Outcome.LOST
    assert not is_lost(core, "b")
    assert core.standing("a").finished_ms == core.wall_ms


def test_a_task_ends_when_its_worker_does_not_reconnect():
    core, connection = granted(once())
    core.do(cmd.CloseSession(connection))
    core.pass_time(2)
    assert is_lost(core)


def test_a_task_ends_when_its_worker_proves_that_all_that_ran_has_ended():
    core, connection = granted(once())
    core.do(cmd.CloseSession(connection))
    core.connect(instance="w1-2", ended=("w1-1",))
    assert is_lost(core)


@pytest.mark.parametrize("outcome", [Outcome.LOST, Outcome.INTERRUPTED])
def test_a_task_ends_when_its_worker_reports_that_it_was_lost_or_interrupted(outcome: Outcome):
    core, connection = granted(once(retry=THRICE))
    core.report(connection, "a", outcome, reason="the runner was killed")
    assert is_lost(core)
    assert core.failure("a").message.endswith("the runner was killed")


def test_a_task_ends_when_the_leader_was_restarted_and_its_worker_stays_away():
    core, _ = granted(once())
    core.restart()
    core.pass_time(11)
    assert is_lost(core)


def test_what_a_handler_declares_holds_also_under_a_leader_that_does_not_know_the_handler():
    core, _ = granted(once(on_lost=None), once("b", AGAIN), on_lost=FAIL)
    core.restart()
    core.pass_time(11)
    assert is_lost(core)
    assert not is_lost(core, "b"), "what the task itself says goes first"


@pytest.mark.parametrize("own", [None, AGAIN])
def test_without_it_a_task_runs_again(own: OnLost | None):
    core, _ = granted(once(on_lost=own), on_lost=AGAIN)
    core.pass_time(11)
    assert not is_lost(core)


# What goes back to the queue all the same.


def test_a_grant_that_did_not_reach_its_worker_goes_back():
    core, connection = granted(once())
    core.do(cmd.CloseSession(connection))
    core.connect()
    assert not is_lost(core)


def test_a_grant_goes_back_that_its_worker_has_not_begun():
    core, connection = granted(once())
    core.report(connection, "a", Outcome.INTERRUPTED, not_started=True)
    assert not is_lost(core)
    core.dispatch()
    assert core.status("a") is Status.RUNNING
    core.pass_time(11)
    assert is_lost(core)


def test_grants_that_crossed_the_goodbye_of_their_worker_go_back():
    core, connection = granted(once())
    core.do(cmd.ReceiveFrame(connection, leaving=True))
    assert not is_lost(core)


def test_a_worker_that_comes_back_with_the_task_goes_on():
    core, connection = granted(once())
    fence = core.standing("a").fence
    core.do(cmd.CloseSession(connection))
    core.connect(held=(cmd.HeldTask("a", fence, finished=False),))
    assert core.status("a") is Status.RUNNING


@pytest.mark.parametrize("outcome", [Outcome.FAILED, Outcome.TIMED_OUT, Outcome.SNOOZED])
def test_what_the_handler_reports_is_no_loss(outcome: Outcome):
    core, connection = granted(once(retry=THRICE))
    core.report(connection, "a", outcome)
    assert core.status("a") is Status.PENDING


def test_a_cancelled_task_that_is_lost_is_cancelled():
    core, _ = granted(once())
    core.do(cmd.Cancel("a"))
    core.pass_time(11)
    assert core.status("a") is Status.CANCELLED
    core, connection = granted(once())
    core.do(cmd.Cancel("a"))
    core.report(connection, "a", Outcome.LOST)
    assert core.status("a") is Status.CANCELLED


def test_a_person_may_have_it_run_again():
    core, _ = granted(once())
    core.pass_time(11)
    (reason,) = explain(core.state, core.task("a"), core.now).reasons
    assert "look whether it has done its work" in reason.advice
    core.do(cmd.RetryTask("a"))
    core.connect(instance="w1-2")
    core.dispatch()
    assert core.status("a") is Status.RUNNING


# Callback workers.


def dialled(**fields: Any) -> Core:
    """A core whose callback worker has been dialled with a task that must not run twice."""
    core = Core()
    core.do(cmd.Join("c1", "127.0.0.1:40041"))
    core.submit(once(handler="", **fields))
    core.dispatch()
    core.take_effects()
    return core


def refuse(core: Core, *, answered: bool, declined: bool) -> None:
    core.do(cmd.RefuseStart("c1", "a", core.standing("a").fence, "no", answered, declined))


def test_a_task_ends_when_its_callback_worker_says_nothing_more():
    core = dialled()
    core.pass_time(46)
    assert is_lost(core)


def test_a_task_ends_when_its_callback_worker_says_that_it_is_idle():
    core = dialled()
    core.pass_time(11)
    for _ in range(2):
        core.do(cmd.Heartbeat("c1", HeartbeatStatus.IDLE))
    assert is_lost(core)


@pytest.mark.parametrize("command", [cmd.Leave("c1"), cmd.Join("c1", "127.0.0.1:40041")])
def test_a_task_ends_when_its_callback_worker_leaves_or_joins_again(command: cmd.AnyCommand):
    core = dialled()
    core.do(command)
    assert is_lost(core)


def test_a_task_ends_when_its_callback_worker_is_gone_at_the_start_of_a_leader():
    core = dialled()
    core.facts.clear()
    core.restart()
    core.do(cmd.TakeBackOrphans())
    assert is_lost(core)


@pytest.mark.parametrize("answered", [True, False])
def test_a_callback_worker_that_fails_to_answer_clearly_may_have_begun_the_task(answered: bool):
    core = dialled()
    refuse(core, answered=answered, declined=False)
    assert is_lost(core)
    assert not core.take_effects(), "it must not be dialled again"


def test_a_callback_worker_that_says_no_has_not_begun_the_task():
    core = dialled()
    for _ in range(3):
        refuse(core, answered=True, declined=True)
        assert isinstance(core.take_effects()[-1], StartWork)
    refuse(core, answered=True, declined=True)
    assert not is_lost(core)


def test_a_callback_worker_may_hand_back_what_it_has_not_begun():
    for not_started in (True, False):
        core = dialled()
        core.do(cmd.CompleteTask("a", "drains", outcome=Outcome.INTERRUPTED, not_started=not_started))
        assert is_lost(core) is not not_started


def test_a_task_past_its_limit_is_tried_again_only_when_its_callback_worker_has_stopped_it():
    for confirms in (True, False):
        core = dialled(retry=THRICE, time_limit_ms=1000)
        core.pass_time(1)
        if confirms:
            core.do(cmd.ConfirmStop("a", core.standing("a").fence))
        else:
            core.pass_time(21)
        assert is_lost(core) is not confirms
        assert core.standing("a").attempts[-1].outcome is (Outcome.TIMED_OUT if confirms else Outcome.LOST)


# Beside unique keys, changes and retries by filter.


def to_mail(before: Spec, created_ms: int, now_ms: int) -> tuple[Spec, tuple[str, ...]]:
    """Changes the queue of a task."""
    return replace(before, lane=before.lane._replace(queue="mail"), body=before.body + b"!"), ("queue",)


def test_a_task_that_ends_as_lost_frees_its_unique_key():
    core, _ = granted(once(unique="k"))
    core.submit(once("b", unique="k"))
    assert "b" not in core.stored
    core.pass_time(11)
    assert is_lost(core)
    core.submit(once("b", unique="k"))
    assert core.status("b") is Status.PENDING


def test_a_task_that_was_changed_must_still_not_run_twice():
    core = Core()
    core.submit(once())
    assert core.do(cmd.UpdateTask("a", to_mail, False)).answer is None
    core.connect()
    core.dispatch()
    core.pass_time(11)
    assert is_lost(core)


def test_a_task_that_was_run_again_by_a_filter_must_not_run_twice_from_then_on():
    core, _ = granted(once())
    core.pass_time(11)
    assert is_lost(core)
    seq = core.stored["a"][0]
    again = cmd.RetryTasks([cmd.Chosen("a", seq)], lambda spec, standing: True, 0)
    assert core.do(again).answer == cmd.Retried(1, 0, seq)
    core.connect("w2")
    core.dispatch()
    assert core.status("a") is Status.RUNNING
    core.pass_time(11)
    assert is_lost(core)


# After a restore.


def restored(*specs: Spec) -> Core:
    """A core whose store has these tasks and was just restored from a backup."""
    core = Core()
    core.submit(*specs)
    core.restart(restored=True)
    return core


def test_a_task_that_came_with_a_backup_ends_when_its_turn_has_come():
    core = restored(once(), once("b", AGAIN), once("c", None), once("d", run_in_ms=1000))
    core.submit(once("new"))
    assert core.status("a") is Status.PENDING
    connection = core.connect(slots=9)
    assert core.dispatch() == {connection: ["b", "c", "new"]}
    assert is_lost(core)
    assert "it was pending in the backup" in core.failure("a").message
    core.pass_time(1)
    core.dispatch()
    assert is_lost(core, "d")


def test_a_task_that_came_with_a_backup_ends_when_its_handler_says_so():
    core = restored(once(on_lost=None), once("b", AGAIN))
    connection = core.connect(on_lost=FAIL)
    assert core.dispatch() == {connection: ["b"]}
    assert is_lost(core)


def test_many_tasks_that_are_granted_together_are_each_looked_at():
    core = restored(*(once(f"t{number}", FAIL if number % 3 == 2 else AGAIN) for number in range(9)))
    connection = core.connect(slots=9)
    assert core.dispatch() == {connection: ["t0", "t1", "t3", "t4", "t6", "t7"]}


def test_a_task_that_came_with_a_backup_ends_when_it_was_changed_since():
    core = restored(once(), once("b", AGAIN))
    for id in ("a", "b"):
        core.do(cmd.UpdateTask(id, to_mail, False))
    core.do(cmd.UpdateTask("a", to_mail, False))
    core.submit(once("new"))
    core.do(cmd.UpdateTask("new", to_mail, False))
    connection = core.connect(slots=9)
    assert core.dispatch() == {connection: ["b", "new"]}
    assert is_lost(core)


def test_a_person_may_have_a_task_run_that_came_with_a_backup():
    core = restored(once())
    connection = core.connect()
    core.dispatch()
    core.do(cmd.RetryTask("a"))
    core.restart()
    connection = core.connect()
    assert core.dispatch() == {connection: ["a"]}
    core.report(connection, "a", Outcome.INTERRUPTED, not_started=True)
    assert core.dispatch() == {connection: ["a"]}, "it was granted since, so nothing before counts"


def test_a_task_that_ran_in_the_backup_and_is_at_no_worker_is_not_run_again():
    core, _ = granted(once())
    core.restart(restored=True)
    # Its worker has reported it to the store that is gone, and no longer has it.
    core.connect()
    assert core.status("a") is Status.PENDING
    core.dispatch()
    assert is_lost(core)


def test_records_from_before_losses_were_told_apart_are_read_as_without():
    whole = Standing(Status.RUNNING, 1, fence=3)
    fields = msgspec.msgpack.decode(encode_standing(whole))
    place = Standing.__struct_fields__.index("fails_if_lost")
    assert fields[place : place + 2] == [False, False]
    assert decode_standing(msgspec.msgpack.encode(fields[:place])) == whole
