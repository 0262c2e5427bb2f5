"""Schedules that workers declare in code: whose declaration holds, and what becomes of one that nobody declares."""

from __future__ import annotations

import pytest
from leader_core import WALL_MS, Core
from test_core_schedules import MINUTE_MS, definition, made, skipped, ticks_of

from gowork.leader._core import commands as cmd
from gowork.leader._core.agenda import ORPHANED_MS
from gowork.leader._core.calendars import Every
from gowork.leader._core.declared import why_not
from gowork.leader._core.kinds import SCHEDULES
from gowork.leader._core.schedules import Declared, Declarer, Definition, Schedule, SkipReason, tick_id

SETTLED_MS = ORPHANED_MS + 1000


def declared(version: str = "1.0", wanted: Definition | None = None, handler: str = "work") -> tuple[Declared, ...]:
    return (Declared("s", wanted or definition(), Declarer(handler, "plugin", version)),)


def schedule(core: Core) -> Schedule:
    return core.state.facts.of(SCHEDULES)["s"]


def settled() -> Core:
    """A core whose leader started so long ago that workers have had time to reconnect."""
    core = Core()
    core.state.agenda.since_ms = WALL_MS
    core.pass_time(SETTLED_MS / 1000)
    return core


def leave(core: Core, connection: int) -> None:
    core.do(cmd.ReceiveFrame(connection, leaving=True))


def test_a_schedule_that_a_worker_declares_ticks():
    core = Core()
    core.connect(schedules=declared())
    core.pass_time(60)
    assert made(core) == ["1"]
    assert schedule(core).declarer == Declarer("work", "plugin", "1.0")


def test_a_schedule_that_somebody_added_is_not_touched():
    core = settled()
    core.do(cmd.AddSchedule("s", definition(Every(7000, 0))))
    core.connect(schedules=declared())
    assert schedule(core).definition == definition(Every(7000, 0))
    assert "somebody added" in why_not(schedule(core), Declarer("work", "plugin", "1.0"))


def test_somebody_takes_a_declared_schedule_over_by_replacing_it():
    core = Core()
    core.connect(schedules=declared())
    assert core.do(cmd.AddSchedule("s", definition())).answer == cmd.ScheduleAdded(False, False)
    assert schedule(core).declarer is not None
    assert core.do(cmd.AddSchedule("s", definition(), replace=True)).answer == cmd.ScheduleAdded(False, True)
    assert schedule(core).declarer is None


@pytest.mark.parametrize(
    ("holds", "comes", "wins"),
    [
        ("1.0", "1.1", True),
        ("1.10", "1.9", False),
        ("1.0", "1.0", True),
        ("2.0rc1", "2.0", True),
        ("2.0", "2.0rc1", False),
        ("1.0+abc", "1.0+def", True),
        ("", "1.0", True),
        ("1.0", "", False),
        ("nonsense", "1.0", True),
        ("1.0", "nonsense", False),
    ],
)
def test_of_two_versions_the_highest_holds(holds: str, comes: str, wins: bool):
    core = settled()
    other = definition(Every(7000, 0))
    core.connect("w1", schedules=declared(holds))
    core.connect("w2", schedules=declared(comes, other))
    assert (schedule(core).definition == other) is wins


def test_another_handler_does_not_take_the_name():
    core = settled()
    core.connect("w1", schedules=declared())
    core.connect("w2", schedules=declared("9.0", definition(Every(7000, 0)), handler="other"))
    assert schedule(core).definition == definition()
    assert "handler 'work'" in why_not(schedule(core), Declarer("other", "plugin", "9.0"))


def test_an_earlier_version_that_was_put_back_holds_when_the_later_one_has_gone():
    core = settled()
    other = definition(Every(7000, 0))
    later = core.connect("w1", schedules=declared("2.0"))
    core.connect("w2", schedules=declared("1.0", other))
    assert schedule(core).definition == definition()
    leave(core, later)
    core.connect("w1", instance="w1-2", schedules=declared("1.0", other))
    assert schedule(core).definition == other


def test_after_a_start_an_earlier_version_waits_for_the_later_one_to_reconnect():
    core = settled()
    core.connect("w1", schedules=declared("2.0"))
    core.restart()
    core.state.agenda.since_ms = core.wall_ms
    core.connect("w2", schedules=declared("1.0", definition(Every(7000, 0))))
    assert schedule(core).definition == definition()


def test_the_same_declaration_again_writes_nothing():
    core = Core()
    core.connect("w1", schedules=declared())
    before = dict(core.facts)
    core.connect("w2", schedules=declared())
    assert core.facts == before


def test_a_pause_outlives_a_new_version():
    core = Core()
    core.connect("w1", schedules=declared())
    core.do(cmd.PauseSchedule("s", "why"))
    core.connect("w2", schedules=declared("1.1", definition(Every(2 * MINUTE_MS, 0))))
    assert ticks_of(core).pause is not None
    assert schedule(core).definition.calendar == Every(2 * MINUTE_MS, 0)


def test_there_is_no_room_for_a_declared_schedule_beyond_the_limit(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(SCHEDULES, "rows_max", 0)
    core = Core()
    core.connect(schedules=declared())
    assert not core.state.facts.of(SCHEDULES)


def test_a_schedule_that_nobody_declares_any_more_is_orphaned_and_goes_on():
    core = settled()
    connection = core.connect(schedules=declared())
    core.tick()
    orphaned = core.state.agenda.is_orphaned
    leave(core, connection)
    assert not orphaned("s", schedule(core), core.wall_ms + ORPHANED_MS - 1)
    assert orphaned("s", schedule(core), core.wall_ms + ORPHANED_MS)
    before = len(core.stored)
    core.pass_time(120)
    assert len(core.stored) == before + 2


def test_an_orphaned_schedule_stops_if_it_says_so_until_it_is_declared_again():
    core = settled()
    stopping = declared(wanted=definition(stops_orphaned=True))
    connection = core.connect(schedules=stopping)
    core.tick()
    leave(core, connection)
    core.pass_time(59)
    before = len(core.stored)
    for _ in range(3):
        core.pass_time(60)
    assert len(core.stored) == before
    assert skipped(core, SkipReason.ORPHANED) >= 2
    core.connect(instance="w1-2", schedules=stopping)
    core.tick()
    core.wall_ms += MINUTE_MS
    core.tick()
    assert len(core.stored) == before + 1
    assert tick_id("s", core.wall_ms // MINUTE_MS * MINUTE_MS) in core.stored


def test_after_a_start_a_schedule_is_not_orphaned_before_workers_could_reconnect():
    core = settled()
    core.connect(schedules=declared(wanted=definition(stops_orphaned=True)))
    core.tick()
    core.restart()
    core.state.agenda.since_ms = core.wall_ms
    assert not core.state.agenda.is_orphaned("s", schedule(core), core.wall_ms + ORPHANED_MS - 1)
    assert core.state.agenda.is_orphaned("s", schedule(core), core.wall_ms + ORPHANED_MS)


def test_what_a_worker_declares_is_forgotten_with_it():
    core = Core()
    first = core.connect("w1", schedules=declared())
    second = core.connect("w2", schedules=declared())
    leave(core, first)
    assert list(core.state.agenda.declared) == ["s"]
    core.connect("w2", instance="w2-1", schedules=())
    assert core.state.agenda.declared == {}
    assert second
    core.do(cmd.RemoveSchedule("s"))
    assert core.state.agenda.gone_ms == {}
