"""A pending task is in exactly one place (LANE-ENTRY), which its task tells by name."""

from __future__ import annotations

from copy import copy

from leader_core import Core, spec

from gowork.leader._core import commands as cmd
from gowork.leader._core.model import Place, Status
from gowork.leader._core.state import Settings

#: A window of two tasks.
SMALL = Settings(window=2, lane_page=4, lane_min=2, timers_max=8)


def place(core: Core, id: str) -> Place | None:
    return core.task(id).place


def test_a_task_is_told_by_name_wherever_it_is():
    core = Core(copy(SMALL))
    core.submit(*(spec(f"{n}") for n in range(4)), spec("later", run_in_ms=1000))
    assert [place(core, id) for id in ("0", "1", "2", "3", "later")] == [
        Place.WINDOW,
        Place.WINDOW,
        Place.REST,
        Place.REST,
        Place.TIMER,
    ]
    connection = core.connect(slots=1)
    core.dispatch()
    assert (core.status("0"), place(core, "0")) == (Status.RUNNING, None)
    core.report(connection, "0")
    assert place(core, "0") is None


def test_every_place_is_left_by_a_cancel_and_what_counts_it_is_right():
    core = Core(copy(SMALL))
    core.submit(*(spec(f"{n}") for n in range(4)), spec("later", run_in_ms=1000), spec("after", after=("1",)))
    left = [(id, place(core, id)) for id in ("0", "3", "later", "after")]
    assert {where for _, where in left} == set(Place)
    for id, _ in left:
        core.do(cmd.Cancel(id))
    assert (core.state.queues.waiting, core.state.queues.delayed) == (2, 0)
    assert [place(core, id) for id, _ in left] == [None] * 4


def test_a_task_whose_time_comes_goes_from_its_timer_into_its_lane():
    core = Core(copy(SMALL))
    core.submit(spec("later", run_in_ms=1000))
    assert place(core, "later") is Place.TIMER
    core.pass_time(2)
    assert place(core, "later") is Place.WINDOW
    assert (core.state.queues.waiting, core.state.queues.delayed) == (1, 0)


def test_what_is_in_no_window_is_not_in_memory():
    core = Core(copy(SMALL))
    core.submit(*(spec(f"{n}") for n in range(4)), spec("later", run_in_ms=1000))
    assert {id for id in core.stored if place(core, id) is Place.WINDOW} == core.state.tasks.keys()
