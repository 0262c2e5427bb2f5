"""Lengths of time are reckoned from when the leader took the task, by the leader's clock."""

from __future__ import annotations

from leader_core import WALL_MS, Core, spec
from msgspec.structs import replace

from gowork.leader._core import commands as cmd
from gowork.leader._core.model import FailureKind, Status
from gowork.proto.limits import TIME_MS_MAX

MINUTE_MS = 60_000


def test_a_delay_counts_from_the_submit() -> None:
    core = Core()
    core.submit(replace(spec("t"), delay_ms=MINUTE_MS))
    core.pass_time(59)
    core.connect()
    assert core.dispatch() == {}
    core.pass_time(1)
    assert core.dispatch() == {1: ["t"]}


def test_the_same_delay_again_is_the_same_task() -> None:
    core = Core()
    core.submit(replace(spec("t"), delay_ms=MINUTE_MS))
    core.pass_time(10)
    assert core.submit(replace(spec("t"), delay_ms=MINUTE_MS)) == cmd.Submitted(0, 1)
    assert core.standing("t").not_before_ms == WALL_MS + MINUTE_MS


def test_a_task_expires_so_long_after_its_submit() -> None:
    core = Core()
    core.submit(replace(spec("t"), expires_in_ms=MINUTE_MS))
    core.pass_time(59)
    assert core.status("t") is Status.PENDING
    core.pass_time(1)
    failure = core.standing("t").failure
    assert failure is not None
    assert failure.kind is FailureKind.EXPIRED


def test_a_moment_that_is_reckoned_stays_below_the_year_9999() -> None:
    reckoned = replace(spec("t"), delay_ms=MINUTE_MS, expires_in_ms=MINUTE_MS).reckoned(TIME_MS_MAX - 1)
    assert (reckoned.run_at_ms, reckoned.expires_at_ms) == (TIME_MS_MAX, TIME_MS_MAX)


def test_two_equal_tasks_of_one_batch_are_counted_once_as_new() -> None:
    core = Core()
    twice = [replace(spec("t"), delay_ms=MINUTE_MS)] * 2
    assert core.submit(*twice) == cmd.Submitted(1, 1)
    counted = [effect.specs for effect in core.take_effects() if hasattr(effect, "specs")]
    assert [[spec.id for spec in specs] for specs in counted] == [["t"]]
