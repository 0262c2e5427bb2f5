"""The backlog: pending tasks that more slots would start, and the slots that there are."""

from __future__ import annotations

from leader_core import Core, spec

from gowork.leader._core import commands as cmd
from gowork.leader._core.backlog import Backlog, backlog
from gowork.leader._core.model import HeartbeatStatus


def seen(core: Core) -> Backlog:
    return backlog(core.state, core.now)


def test_an_empty_cluster_has_none():
    assert seen(Core()) == Backlog(0, 0, 0)
    assert seen(Core()).per_slot == 0
    assert not seen(Core()).has_no_slots


def test_tasks_that_wait_for_the_first_worker_count_as_if_there_were_one_slot():
    core = Core()
    core.submit(spec("a"), spec("b"), spec("c", selector=(("zone", "b"),)))
    assert seen(core) == Backlog(3, 0, 0)
    assert seen(core).per_slot == 3
    assert seen(core).has_no_slots


def test_running_tasks_are_no_backlog_and_take_their_slots():
    core = Core()
    core.connect(slots=2)
    core.submit(*(spec(f"t{number}") for number in range(7)))
    assert seen(core).runnable == 7
    core.dispatch()
    assert seen(core) == Backlog(5, 2, 2)
    assert seen(core).per_slot == 2.5
    assert not seen(core).has_no_slots


def test_what_more_workers_of_the_kind_would_not_start_is_no_backlog():
    core = Core()
    core.connect(slots=1)
    core.do(cmd.PauseQueue("paused", True))
    core.do(cmd.ConfigureQueue("limited", concurrency_limit=1))
    core.submit(spec("runs", queue="limited"))
    core.dispatch()
    core.submit(
        spec("held by a limit", queue="limited"),
        spec("held by a pause", queue="paused"),
        spec("delayed", run_in_ms=9000),
        spec("nobody has the handler", handler="other"),
        spec("nobody carries the label", selector=(("zone", "b"),)),
    )
    assert seen(core) == Backlog(0, 1, 1)
    core.submit(spec("waits for a slot"))
    assert seen(core) == Backlog(1, 1, 1)


def test_a_worker_that_drains_or_is_gone_has_no_slots():
    core = Core()
    first, second = core.connect(name="first", slots=3), core.connect(name="second", slots=4)
    core.submit(spec("a"))
    assert seen(core).slots == 7
    core.do(cmd.ReceiveFrame(first, draining=True))
    assert seen(core).slots == 4
    core.do(cmd.ReceiveFrame(second, draining=True))
    assert seen(core) == Backlog(1, 0, 0)
    assert seen(core).has_no_slots


def test_a_callback_worker_is_one_slot_unless_it_can_take_no_task():
    core = Core()
    core.do(cmd.Join("c", "127.0.0.1:1"))
    assert seen(core) == Backlog(0, 1, 0)
    core.do(cmd.Heartbeat("c", HeartbeatStatus.BUSY))
    assert seen(core) == Backlog(0, 1, 1)
    core.do(cmd.Heartbeat("c", HeartbeatStatus.FAILED))
    assert seen(core) == Backlog(0, 0, 0)
