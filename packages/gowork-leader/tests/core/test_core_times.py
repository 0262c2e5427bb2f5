"""Times that tasks wait for, those that hold no more, and time that does not count."""

from __future__ import annotations

import pytest
from leader_core import Core, spec

from gowork.leader._core import apply
from gowork.leader._core import commands as cmd
from gowork.leader._core.clock import next_deadlines
from gowork.leader._core.lanes import Group, Lane
from gowork.leader._core.model import FailureKind, LaneKey, Outcome, Priority, RetryPolicy, Standing, Status, Task
from gowork.leader._core.timers import Timers


def test_a_time_that_a_task_waits_for_no_more_does_not_start_it() -> None:
    core = Core()
    connection = core.connect(credit=10)
    core.submit(spec("a", retry=RetryPolicy(max_attempts=5)))
    core.dispatch()
    core.report(connection, "a", Outcome.FAILED, retry_delay_ms=5_000)
    core.do(cmd.Cancel("a"))
    core.do(cmd.RetryTask("a"))
    core.dispatch()
    core.report(connection, "a", Outcome.SNOOZED, retry_delay_ms=60_000)
    core.pass_time(6)
    assert core.standing("a").not_before_ms > core.wall_ms
    assert core.dispatch() == {}


def test_the_expiry_of_a_task_that_was_removed_is_not_that_of_the_next_one_under_its_id() -> None:
    core = Core()
    core.submit(spec("a", expires_in_ms=5_000))
    core.do(cmd.Cancel("a"))
    core.do(cmd.Purge(["a"]))
    core.submit(spec("a"))
    core.pass_time(6)
    assert core.status("a") is Status.PENDING


def test_time_in_which_the_leader_was_held_up_counts_for_nobody() -> None:
    core = Core()
    silent = core.connect("silent")
    away = core.connect("away")
    core.do(cmd.Join("member", "127.0.0.1:1"))
    core.do(cmd.CloseSession(away))
    assert silent in core.state.connections
    core.do(cmd.ExtendLeases(100.0))
    core.pass_time(100)
    assert set(core.state.workers) == {"silent-1", "away-1"}
    assert set(core.state.callbacks) == {"member"}
    core.pass_time(50)
    assert not core.state.workers
    assert not core.state.callbacks


def test_after_a_stall_nobody_is_given_up_before_a_sign_of_life_can_arrive() -> None:
    core = Core()
    core.connect("silent")
    away = core.connect("away")
    core.do(cmd.CloseSession(away))
    asked = core.connect("asked")
    core.do(cmd.Join("member", "127.0.0.1:1"))
    # A newcomer by a name that is taken: its holder is asked for a sign of life.
    core.connect("asked", instance="asked-2")
    core.mono += 100
    # The engine is late by less than it was held up: it has waited a while for the first of these to run out.
    core.do(cmd.ExtendLeases(3.0))
    core.tick()
    core.pass_time(2.9)
    assert set(core.state.workers) == {"silent-1", "away-1", "asked-1"}
    assert core.state.connections[asked].instance == "asked-1"
    assert set(core.state.callbacks) == {"member"}
    core.pass_time(0.2)
    assert set(core.state.workers) == {"asked-2"}
    assert not core.state.callbacks


def test_a_stream_that_breaks_after_a_stall_has_as_long_to_come_back_as_the_stall_was() -> None:
    core = Core()
    given_up = core.connect("given up")
    core.do(cmd.ExtendLeases(6.0))
    core.do(cmd.CloseSession(given_up))
    core.pass_time(5.9)
    assert set(core.state.workers) == {"given up-1"}
    core.pass_time(0.2)
    assert not core.state.workers


def test_a_stall_however_long_gives_no_more_than_a_lease() -> None:
    core = Core()
    given_up = core.connect("given up")
    core.do(cmd.ExtendLeases(1e9))
    core.do(cmd.CloseSession(given_up))
    core.pass_time(core.state.settings.lease + 0.1)
    assert not core.state.workers


def test_a_time_at_the_horizon_is_in_memory() -> None:
    timers = Timers(4)
    for number in range(1, 6):
        timers.add((number, number, str(number)))
    assert timers.horizon == (2, 2)
    timers.trim(2, 10)
    timers.add((2, 2, "2"))
    assert timers.next_ms() == 2
    timers.add((2, 3, "behind it"))
    assert len(timers) == 1


def test_the_horizon_moves_with_what_is_paged_in() -> None:
    timers = Timers(16)
    timers.expect()
    timers.take_in([(1, 1, "a"), (3, 2, "b")], complete=False)
    assert timers.horizon == (3, 2)
    timers.add((2, 3, "between"))
    timers.add((4, 4, "behind"))
    assert [id for _, _, id in timers.ripe(10, 10)] == ["a", "between", "b"]
    timers.take_in([(4, 4, "behind")], complete=True)
    assert timers.horizon is None


KEY = LaneKey("default", Priority.LOW, "work", ())


def test_a_task_at_the_horizon_of_its_lane_comes_back_into_the_window() -> None:
    lane = Lane(KEY, Group(Priority.LOW, "work", ()))
    tasks = [Task(seq, spec(str(seq)), Standing(Status.PENDING, 0)) for seq in range(1, 4)]
    lane.take_in(tasks[:2], complete=False)
    lane.stored = 1
    lane.remove(tasks[1])
    # It is tried again: it runs before what rests in the store.
    lane.add(tasks[1], room=False)
    assert [task.seq for task in lane] == [1, 2]
    assert (lane.live, lane.stored) == (2, 1)
    lane.add(Task(4, spec("4"), Standing(Status.PENDING, 0)), room=True)
    assert (lane.live, lane.stored) == (2, 2)


def test_a_queue_that_had_nothing_to_do_has_no_claim_on_the_time_before() -> None:
    core = Core()
    core.do(cmd.ConfigureQueue("idle", concurrency_limit=100))
    connection = core.connect(slots=100)
    core.submit(*[spec(f"busy-{number}", queue="busy") for number in range(20)])
    core.dispatch()
    core.do(cmd.CloseSession(connection))
    connection = core.connect("w2", credit=10)
    core.submit(*[spec(f"{queue}-{number}", queue=queue) for number in range(30, 40) for queue in ("busy", "idle")])
    granted = [id.split("-")[0] for id in core.dispatch()[connection]]
    assert granted.count("busy") in (4, 5)


def test_a_task_that_comes_back_after_its_expiry_ends_though_nobody_could_run_it() -> None:
    core = Core()
    connection = core.connect()
    core.submit(spec("a", expires_in_ms=1_000))
    core.dispatch()
    # Its time comes while it runs.
    core.pass_time(2)
    core.do(cmd.ReceiveFrame(connection, leaving=True))
    core.tick()
    failure = core.standing("a").failure
    assert failure is not None
    assert failure.kind is FailureKind.EXPIRED


def test_of_members_that_have_gone_only_the_last_are_listed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(apply, "DEPARTED_MAX", 2)
    core = Core()
    for name in ("a", "b", "c"):
        core.do(cmd.ReceiveFrame(core.connect(name), leaving=True))
    assert list(core.state.departed) == ["b", "c"]


def test_the_next_look_is_when_the_first_lease_runs_out_whoever_was_heard_last() -> None:
    core = Core()
    first = core.connect("a")
    core.pass_time(2)
    core.connect("b")
    core.pass_time(3)
    core.do(cmd.ReceiveFrame(first))
    assert next_deadlines(core.state)[0] == 1012.0


def test_the_next_look_is_when_the_grace_of_a_broken_stream_runs_out() -> None:
    core = Core()
    core.connect("a")
    core.do(cmd.CloseSession(core.connect("b")))
    assert next_deadlines(core.state)[0] == 1001.0


def test_the_next_look_is_when_a_newcomer_has_waited_for_long_enough() -> None:
    core = Core()
    core.connect()
    core.connect(instance="w1-2")
    assert next_deadlines(core.state)[0] == 1002.0


def test_a_task_that_runs_again_has_no_progress_yet() -> None:
    core = Core()
    connection = core.connect(credit=9)
    core.submit(spec("a"))
    core.dispatch()
    core.do(cmd.ReceiveFrame(connection, progress=[cmd.ProgressReport(core.standing("a").fence, "a", 0.5, "")]))
    core.report(connection, "a", Outcome.INTERRUPTED)
    core.dispatch()
    assert core.task("a").progress is None
