"""What operators ask of schedules: add, replace, pause, resume, trigger, backfill and remove."""

from __future__ import annotations

import pytest
from leader_core import WALL_MS, Core, spec
from msgspec.structs import replace
from test_core_schedules import (
    MINUTE_MS,
    definition,
    finish,
    made,
    scheduled,
    skipped,
    ticks_of,
)

from gowork.leader._core import commands as cmd
from gowork.leader._core import schedule_control
from gowork.leader._core.calendars import Cron, Every
from gowork.leader._core.kinds import SCHEDULES, TICKS
from gowork.leader._core.queries import SchedulesView, schedules
from gowork.leader._core.schedules import Overlap, SkipReason, tick_id
from gowork.leader._core.state import Settings


def test_the_same_schedule_again_changes_nothing():
    core = scheduled()
    before = dict(core.facts)
    assert core.do(cmd.AddSchedule("s", definition())).answer == cmd.ScheduleAdded(False, False)
    assert core.do(cmd.AddSchedule("s", definition(), replace=True)).answer == cmd.ScheduleAdded(False, False)
    assert core.facts == before


def test_another_schedule_of_the_name_is_refused_unless_it_replaces():
    core = scheduled()
    other = definition(Every(2 * MINUTE_MS, 0))
    assert core.refusal(cmd.AddSchedule("s", other)).code is cmd.SCHEDULE_EXISTS
    core.pass_time(60)
    assert core.do(cmd.AddSchedule("s", other, replace=True)).answer == cmd.ScheduleAdded(False, True)
    core.pass_time(60)
    core.pass_time(60)
    assert made(core) == ["1", "2"]
    assert len(ticks_of(core).runs) == 2


def test_new_times_begin_when_they_are_set_and_missed_ticks_of_the_same_times_are_made():
    core = scheduled()
    core.wall_ms += 3 * MINUTE_MS
    core.do(cmd.AddSchedule("s", definition(overlap=Overlap.ALLOW, jitter_ms=1000), replace=True))
    core.tick()
    assert made(core) == ["1", "2", "3"]
    core.wall_ms += 3 * MINUTE_MS
    core.do(cmd.AddSchedule("s", definition(Cron("* * * * *", "")), replace=True))
    core.tick()
    assert made(core) == ["1", "2", "3"]


def test_there_is_a_bounded_number_of_schedules(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(SCHEDULES, "rows_max", 1)
    core = scheduled()
    assert core.refusal(cmd.AddSchedule("t", definition())).code is cmd.TOO_MANY_SCHEDULES
    assert core.do(cmd.AddSchedule("s", definition(jitter_ms=5), replace=True)).answer == cmd.ScheduleAdded(False, True)


def test_the_tasks_of_all_schedules_have_a_bounded_size(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(schedule_control, "SCHEDULES_BYTES_MAX", 10)
    core = scheduled()
    refused = core.refusal(cmd.AddSchedule("t", definition()))
    assert refused.code is cmd.TOO_MANY_SCHEDULES
    assert "12 bytes" in refused.message
    assert core.do(cmd.AddSchedule("s", definition(jitter_ms=5), replace=True)).answer == cmd.ScheduleAdded(False, True)


def test_ticks_are_skipped_and_counted_while_a_schedule_is_paused():
    core = scheduled()
    core.pass_time(60)
    core.do(cmd.PauseSchedule("s", "maintenance", "ann"))
    core.restart()
    for _ in range(3):
        core.pass_time(60)
    pause = ticks_of(core).pause
    assert pause is not None
    assert (pause.reason, pause.by) == ("maintenance", "ann")
    assert core.do(cmd.ResumeSchedule("s")).answer == cmd.ScheduleResumed(3)
    core.tick()
    assert made(core) == ["1"]
    assert skipped(core, SkipReason.PAUSED) == 3
    core.pass_time(60)
    assert made(core) == ["1", "5"]


def test_ticks_of_a_pause_that_passed_without_a_leader_are_counted_when_it_ends():
    core = scheduled()
    core.do(cmd.PauseSchedule("s"))
    core.wall_ms += 3 * MINUTE_MS
    assert core.do(cmd.ResumeSchedule("s")).answer == cmd.ScheduleResumed(3)
    core.tick()
    assert made(core) == []
    assert skipped(core, SkipReason.PAUSED) == 3


def test_the_ticks_of_a_paused_schedule_are_counted_once_a_minute_at_most():
    core = scheduled(Every(1000, 0))
    core.do(cmd.PauseSchedule("s"))
    core.tick()
    written = 0
    for _ in range(120):
        core.pass_time(1)
        written += bool(core.pending.facts)
    assert written == 2


def test_catching_up_makes_the_ticks_of_the_pause_within_the_window_and_none_from_before():
    core = scheduled(catch_up_ms=2 * MINUTE_MS)
    core.pass_time(60)
    finish(core)
    core.do(cmd.Purge([tick_id("s", WALL_MS + MINUTE_MS)]))
    core.do(cmd.PauseSchedule("s"))
    core.pass_time(240)
    assert core.do(cmd.ResumeSchedule("s", catch_up=True)).answer == cmd.ScheduleResumed(2)
    core.tick()
    assert made(core) == ["4", "5"]
    assert skipped(core, SkipReason.PAUSED) == 2


def test_catching_up_after_a_short_pause_makes_no_tick_from_before_it():
    core = scheduled()
    core.pass_time(60)
    finish(core)
    core.do(cmd.Purge([tick_id("s", WALL_MS + MINUTE_MS)]))
    core.do(cmd.PauseSchedule("s"))
    core.pass_time(60)
    assert core.do(cmd.ResumeSchedule("s", catch_up=True)).answer == cmd.ScheduleResumed(0)
    core.tick()
    assert made(core) == ["2"]


def test_a_pause_stays_when_the_schedule_is_replaced():
    core = scheduled()
    core.do(cmd.PauseSchedule("s", "why"))
    core.do(cmd.AddSchedule("s", definition(Every(2 * MINUTE_MS, 0)), replace=True))
    core.pass_time(240)
    assert made(core) == []
    # Ticks of the new times that were before these were set are none of the pause.
    assert core.do(cmd.ResumeSchedule("s", catch_up=True)).answer == cmd.ScheduleResumed(0)
    core.tick()
    assert made(core) == ["2", "4"]


def test_pausing_and_resuming_twice_changes_nothing():
    core = scheduled()
    core.do(cmd.PauseSchedule("s", "first"))
    before = dict(core.facts)
    core.do(cmd.PauseSchedule("s", "second"))
    assert core.facts == before
    core.do(cmd.ResumeSchedule("s"))
    before = dict(core.facts)
    assert core.do(cmd.ResumeSchedule("s", catch_up=True)).answer == cmd.ScheduleResumed(0)
    assert core.facts == before


def test_a_schedule_can_begin_paused():
    core = Core()
    core.do(cmd.AddSchedule("s", definition(), paused=True, reason="not yet", caller="ann"))
    core.pass_time(120)
    assert made(core) == []
    pause = ticks_of(core).pause
    assert pause is not None
    assert (pause.reason, pause.by) == ("not yet", "ann")


def test_a_tick_that_waits_is_skipped_by_a_pause():
    core = scheduled(overlap=Overlap.QUEUE_ONE)
    core.pass_time(60)
    core.pass_time(60)
    core.do(cmd.PauseSchedule("s"))
    core.do(cmd.Cancel(tick_id("s", WALL_MS + MINUTE_MS)))
    core.tick()
    core.do(cmd.ResumeSchedule("s"))
    core.tick()
    assert made(core) == ["1"]
    assert skipped(core, SkipReason.PAUSED) == 1


def test_a_trigger_makes_a_task_at_once_and_the_same_call_makes_no_other():
    core = scheduled(jitter_ms=30_000)
    core.do(cmd.PauseSchedule("s"))
    assert core.do(cmd.TriggerSchedule("s", "r1")).answer == cmd.Triggered("s/manual-r1", existing=False)
    assert core.do(cmd.TriggerSchedule("s", "r1")).answer == cmd.Triggered("s/manual-r1", existing=True)
    assert core.standing("s/manual-r1").not_before_ms == 0
    (run,) = ticks_of(core).runs
    assert (run.id, run.triggered) == ("s/manual-r1", True)
    assert ticks_of(core).made == 0


def test_a_tick_does_not_overlap_a_triggered_run():
    core = scheduled(overlap=Overlap.SKIP)
    core.do(cmd.TriggerSchedule("s", "r1"))
    core.pass_time(60)
    assert made(core) == []
    core.do(cmd.Cancel("s/manual-r1"))
    core.pass_time(60)
    assert made(core) == ["2"]


def test_a_bounded_number_of_triggered_runs_is_unfinished(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(schedule_control, "SCHEDULE_UNFINISHED_MAX", 2)
    core = scheduled(overlap=Overlap.SKIP)
    for number in range(2):
        core.do(cmd.TriggerSchedule("s", f"r{number}", ticks_of(core).unfinished))
    assert core.refusal(cmd.TriggerSchedule("s", "r2", ticks_of(core).unfinished)).code is cmd.TOO_MANY_RUNS
    core.do(cmd.Cancel("s/manual-r0"))
    answer = core.do(cmd.TriggerSchedule("s", "r2", ticks_of(core).unfinished)).answer
    assert answer == cmd.Triggered("s/manual-r2", existing=False)
    assert ticks_of(core).unfinished == ("s/manual-r1", "s/manual-r2")


def test_a_trigger_without_room_is_refused():
    core = scheduled(settings=Settings(pending_max=0))
    assert core.refusal(cmd.TriggerSchedule("s", "r1")).code is cmd.TOO_MANY_TASKS
    core = scheduled()
    assert core.refusal(cmd.TriggerSchedule("s", "r1", (), 0)).code is cmd.CALLER_LIMIT


def test_a_backfill_makes_the_tasks_that_are_missing():
    core = scheduled()
    core.pass_time(60)
    ticks = tuple(WALL_MS + number * MINUTE_MS for number in (-1, 0, 1))
    answer = core.do(cmd.BackfillSchedule("s", definition(), ticks)).answer
    assert answer == cmd.Backfilled((tick_id("s", ticks[0]), tick_id("s", ticks[1])), existing=1)
    assert core.do(cmd.BackfillSchedule("s", definition(), ticks)).answer == cmd.Backfilled((), existing=3)


def test_a_backfill_without_room_makes_none():
    core = scheduled(settings=Settings(pending_max=1))
    ticks = (WALL_MS - MINUTE_MS, WALL_MS)
    assert core.refusal(cmd.BackfillSchedule("s", definition(), ticks)).code is cmd.TOO_MANY_TASKS
    assert core.refusal(cmd.BackfillSchedule("s", definition(), ticks[:1], 0)).code is cmd.CALLER_LIMIT
    assert not core.stored


def test_a_backfill_of_a_schedule_that_has_been_replaced_is_refused():
    core = scheduled()
    answer = core.refusal(cmd.BackfillSchedule("s", definition(jitter_ms=5), (WALL_MS,)))
    assert answer.code is cmd.SCHEDULE_CHANGED


def test_a_removed_schedule_leaves_its_tasks_and_nothing_else():
    core = scheduled()
    core.pass_time(60)
    core.do(cmd.RemoveSchedule("s"))
    core.pass_time(60)
    assert made(core) == ["1"]
    assert core.facts == {}
    assert core.state.agenda.next_ms() is None


def test_a_schedule_added_again_under_the_name_begins_anew():
    core = scheduled()
    core.do(cmd.RemoveSchedule("s"))
    core.wall_ms += 5 * MINUTE_MS
    core.do(cmd.AddSchedule("s", definition()))
    core.tick()
    assert made(core) == []


def test_schedules_are_counted_with_how_late_the_latest_is():
    core = scheduled()
    core.do(cmd.AddSchedule("t", definition(), paused=True))
    core.tick()
    assert schedules(core.state, core.wall_ms) == SchedulesView(active=1, paused=1, lag_ms=0)
    assert schedules(core.state, WALL_MS + 2 * MINUTE_MS).lag_ms == MINUTE_MS
    # One that is to be looked at at once is not late.
    core.restart()
    assert schedules(core.state, WALL_MS + 2 * MINUTE_MS).lag_ms == 0


def test_unknown_schedules_are_named():
    core = Core()
    for command in (
        cmd.PauseSchedule("x"),
        cmd.ResumeSchedule("x"),
        cmd.TriggerSchedule("x", "r"),
        cmd.BackfillSchedule("x", definition(), ()),
        cmd.RemoveSchedule("x"),
    ):
        refused = core.refusal(command)
        assert refused.code is cmd.SCHEDULE_UNKNOWN
        assert "'x'" in refused.message


def test_what_is_stored_of_a_schedule_is_read_back_as_it_was():
    full = replace(
        definition(Cron("0 3 * * *", "Europe/Berlin"), Overlap.QUEUE_ONE, jitter_ms=5, start_ms=1000, end_ms=9000),
        template=spec("", selector=(("zone", "a"),), queue="q", key="k"),
    )
    core = Core()
    core.do(cmd.AddSchedule("s", full, paused=True, reason="r", caller="c"))
    schedule, ticks = core.state.facts.of(SCHEDULES)["s"], ticks_of(core)
    assert SCHEDULES.decode(SCHEDULES.encode(schedule)) == schedule
    assert TICKS.decode(TICKS.encode(ticks)) == ticks
