"""Memory holds a window of what waits; what rests in the store comes in its turn."""

from __future__ import annotations

from copy import copy

from leader_core import Core, spec

from gowork.leader._core import commands as cmd
from gowork.leader._core.model import FailureKind, Priority, Status
from gowork.leader._core.state import Settings

SMALL = Settings(window=10, lane_page=8, lane_min=2, timers_max=16)


def drain(core: Core, connection: int) -> list[str]:
    """Runs everything that can run, and answers the order."""
    order: list[str] = []
    while ids := core.dispatch().get(connection, []):
        order += ids
        for id in ids:
            core.report(connection, id)
        core.do(cmd.ReceiveFrame(connection, credit=core.state.connections[connection].granted + 3))
        assert core.state.queues.loaded <= 10 + 2 * core.state.queues.lanes + 8
    return order


def test_a_backlog_rests_in_the_store_and_runs_in_order():
    core = Core(copy(SMALL))
    core.submit(*(spec(f"{n:03}") for n in range(200)))
    assert 2 <= len(core.state.tasks) <= 10
    connection = core.connect(slots=3)
    assert drain(core, connection) == [f"{n:03}" for n in range(200)]
    assert not core.state.tasks


def test_a_task_with_a_large_body_takes_the_room_of_several():
    core = Core(Settings(window=40, lane_page=12, lane_min=2))
    ids = [f"{n:03}" for n in range(60)]
    # Each weighs 4. A lane has a third of the window when it has half of the room that is left.
    core.submit(*(spec(id, body=id.encode() * 1024) for id in ids[:30]))
    assert (core.state.queues.loaded, core.state.queues.weight) == (4, 16)
    for id in ids[30:]:
        core.submit(spec(id, body=id.encode() * 1024))
    assert core.state.queues.weight == 16
    core.restart()
    connection = core.connect(slots=3)
    order: list[str] = []
    while granted := core.dispatch().get(connection, []):
        order += granted
        for id in granted:
            core.report(connection, id)
        core.do(cmd.ReceiveFrame(connection, credit=core.state.connections[connection].granted + 3))
        assert core.state.queues.weight <= 12 + 4
    assert order == ids
    assert core.state.queues.weight == 0


def test_tasks_with_a_key_are_weighed_as_well():
    core = Core(Settings(window=40, lane_page=12, lane_min=2))
    core.submit(*(spec(f"{n:03}", body=bytes(3 << 10), key="k") for n in range(30)))
    assert (core.state.queues.loaded, core.state.queues.weight) == (4, 16)


def test_one_task_of_each_lane_has_room_however_large_it_is():
    core = Core(Settings(window=40, lane_page=8, lane_min=2))
    core.submit(*(spec(f"{n}", body=bytes(100 << 10), queue=f"q{n % 2}") for n in range(4)))
    assert core.state.queues.loaded == 2
    connection = core.connect(slots=9, credit=9)
    assert core.dispatch() == {connection: ["0", "1"]}
    # The others are paged in now.
    assert core.dispatch() == {connection: ["2", "3"]}


def test_a_lane_that_nobody_can_run_hides_nothing():
    core = Core(copy(SMALL))
    core.submit(*(spec(f"stuck{n}", handler="nobody", priority=Priority.HIGH) for n in range(100)))
    core.submit(*(spec(f"{n:02}") for n in range(50)))
    connection = core.connect(slots=3)
    assert drain(core, connection) == [f"{n:02}" for n in range(50)]


def test_many_lanes_keep_a_few_tasks_each():
    core = Core(copy(SMALL))
    core.submit(*(spec(f"{n}-{key}", key=str(key)) for n in range(20) for key in range(10)))
    assert len(core.state.tasks) <= 10 + 2 * 10
    connection = core.connect(slots=3)
    assert sorted(drain(core, connection)) == sorted(f"{n}-{key}" for n in range(20) for key in range(10))


def test_a_task_that_rests_can_be_cancelled_and_submitted_again():
    core = Core(copy(SMALL))
    core.submit(*(spec(f"{n:02}") for n in range(50)))
    assert "40" not in core.state.tasks
    assert core.submit(spec("40")) == cmd.Submitted(0, 1)
    answer = core.submit(spec("40", body=b"other"))
    assert isinstance(answer, cmd.Refused)
    core.do(cmd.Cancel("40"))
    assert core.status("40") is Status.CANCELLED
    connection = core.connect(slots=3)
    assert drain(core, connection) == [f"{n:02}" for n in range(50) if n != 40]


def test_a_restart_finds_what_rests():
    core = Core(copy(SMALL))
    core.submit(*(spec(f"{n:03}") for n in range(100)), *(spec(f"x{n}", handler="x") for n in range(3)))
    core.restart()
    assert core.state.queues.waiting == 103
    connection = core.connect(slots=3, handlers=("work", "x"))
    assert sorted(drain(core, connection)) == sorted([*(f"{n:03}" for n in range(100)), "x0", "x1", "x2"])


def test_delayed_tasks_rest_until_their_time_and_keep_their_places():
    core = Core(copy(SMALL))
    core.submit(*(spec(f"d{n:03}", run_in_ms=1000 * (100 - n)) for n in range(100)))
    assert not core.state.tasks
    assert len(core.state.delayed) <= 16
    core.restart()
    assert core.state.queues.delayed == 100
    core.pass_time(50)
    connection = core.connect(slots=200)
    assert drain(core, connection) == [f"d{n:03}" for n in range(50, 100)]
    core.pass_time(60)
    connection = core.connect("w2", slots=200)
    assert drain(core, connection) == [f"d{n:03}" for n in range(50)]


def test_tasks_that_rest_expire_in_time():
    core = Core(copy(SMALL))
    core.submit(*(spec(f"{n:03}", expires_in_ms=60_000 + n) for n in range(100)))
    core.pass_time(30)
    assert {core.status(f"{n:03}") for n in range(100)} == {Status.PENDING}
    core.pass_time(31)
    failures = [core.standing(f"{n:03}").failure for n in range(100)]
    assert [failure and failure.kind for failure in failures] == [FailureKind.EXPIRED] * 100
    assert not core.state.queues.waiting


def test_a_delayed_task_that_ran_before_is_not_granted_by_its_old_entry():
    core = Core()
    connection = core.connect(slots=2)
    core.submit(spec("text", binary=False), spec("other"))
    core.dispatch()
    core.report(connection, "other", cmd.Outcome.SNOOZED, retry_delay_ms=60_000)
    core.do(cmd.ReceiveFrame(connection, credit=10))
    assert core.dispatch() == {}
    core.report(connection, "text")
    core.pass_time(61)
    connection = core.connect("w2", slots=2)
    assert core.dispatch() == {connection: ["other"]}
