"""A tick makes one task: in time, late, after the task before it, or not at all, and then it is counted."""

from __future__ import annotations

from typing import Any

import pytest
from leader_core import WALL_MS, Core, spec
from msgspec.structs import replace

from gowork.leader._core import commands as cmd
from gowork.leader._core import ticking
from gowork.leader._core.calendars import At, Cron, Every
from gowork.leader._core.decide import decide
from gowork.leader._core.kinds import SCHEDULES, TICKS
from gowork.leader._core.model import Outcome, Status
from gowork.leader._core.schedules import Definition, Overlap, SkipReason, Ticks, jitter_of, tick_id
from gowork.leader._core.state import Settings

MINUTE_MS = 60_000
HOUR_MS = 60 * MINUTE_MS
#: WALL_MS is a whole minute, at which a schedule with EVERY_MINUTE ticks.
EVERY_MINUTE = Every(MINUTE_MS, 0)


def definition(calendar: Any = EVERY_MINUTE, overlap: Overlap = Overlap.ALLOW, **fields: Any) -> Definition:
    template = replace(spec("", handler="work"), body=b"\x2a\x04work")
    return Definition(calendar, template, overlap, **{"catch_up_ms": HOUR_MS, **fields})


def scheduled(calendar: Any = EVERY_MINUTE, overlap: Overlap = Overlap.ALLOW, **fields: Any) -> Core:
    """A core whose schedule "s" was added a moment after WALL_MS."""
    core = Core(fields.pop("settings", None))
    core.pass_time(0.5)
    assert core.do(cmd.AddSchedule("s", definition(calendar, overlap, **fields))).answer == cmd.ScheduleAdded(
        True, False
    )
    core.tick()
    return core


def ticks_of(core: Core, name: str = "s") -> Ticks:
    return core.state.facts.of(TICKS)[name]


def skipped(core: Core, reason: SkipReason) -> int:
    counts = ticks_of(core).skipped
    return counts[reason - 1] if counts else 0


def made(core: Core) -> list[str]:
    """The minutes after WALL_MS of the ticks that have tasks."""
    ids = {tick_id("s", WALL_MS + minute * MINUTE_MS): str(minute) for minute in range(200)}
    return [ids[id] for id in core.stored if id in ids]


def finish(core: Core) -> None:
    connection = core.connect(slots=1000)
    for ids in core.dispatch().values():
        for id in ids:
            core.report(connection, id)


def test_each_tick_has_its_task_whose_id_names_it_in_utc():
    core = scheduled(Cron("30 8 * * *", "Europe/Berlin"))
    for _ in range(3):
        core.pass_time(24 * 3600)
    # WALL_MS is 2027-01-15 08:00:00 UTC.
    assert list(core.stored) == [f"s/2027-01-{day}T07:30:00Z" for day in (16, 17, 18)]
    task = core.task("s/2027-01-16T07:30:00Z")
    assert task.spec.lane.handler == "work"
    assert task.spec.body == b"\x0a\x16s/2027-01-16T07:30:00Z" + b"\x2a\x04work"


def test_the_first_tick_is_after_the_schedule_was_added():
    core = Core()
    core.do(cmd.AddSchedule("s", definition()))
    core.tick()
    assert made(core) == []
    core.pass_time(60)
    assert made(core) == ["1"]


def test_a_tick_that_was_made_never_comes_again_whatever_the_clock_does():
    core = scheduled()
    core.pass_time(180)
    finish(core)
    core.do(cmd.Purge(list(core.stored)))
    assert made(core) == []
    core.wall_ms -= 150_000
    core.restart()
    for _ in range(4):
        core.tick()
        assert made(core) == []
        core.pass_time(60)
    assert made(core) == ["4"]


def test_ticks_that_came_while_no_leader_was_there_are_made_late_in_their_order():
    core = scheduled()
    core.wall_ms += 5 * MINUTE_MS
    core.restart()
    core.tick()
    assert made(core) == ["1", "2", "3", "4", "5"]
    assert [run.id for run in ticks_of(core).runs] == [
        tick_id("s", WALL_MS + number * MINUTE_MS) for number in range(1, 6)
    ]


def test_ticks_older_than_the_catch_up_window_are_skipped_and_counted():
    core = scheduled(catch_up_ms=2 * MINUTE_MS)
    core.wall_ms += 5 * MINUTE_MS
    core.tick()
    assert made(core) == ["4", "5"]
    assert skipped(core, SkipReason.MISSED) == 3
    assert ticks_of(core).made == 2


def test_a_batch_makes_a_bounded_number_of_ticks(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(ticking, "TICKS_MAX", 3)
    core = scheduled(Cron("* * * * *", ""), catch_up_ms=4 * MINUTE_MS)
    core.wall_ms += 10 * MINUTE_MS
    core.do(cmd.Tick(core.wall_ms))
    assert (made(core), skipped(core, SkipReason.MISSED)) == ([], 3)
    core.tick()
    assert made(core) == ["7", "8", "9", "10"]
    assert skipped(core, SkipReason.MISSED) == 6


def test_a_batch_makes_tasks_of_a_bounded_size(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(ticking, "BYTES_MAX", 600)
    core = scheduled()
    core.wall_ms += 5 * MINUTE_MS
    core.do(cmd.Tick(core.wall_ms))
    assert made(core) == ["1", "2"]
    core.tick()
    assert made(core) == ["1", "2", "3", "4", "5"]


def test_a_tick_is_skipped_while_the_run_before_it_has_not_finished():
    core = scheduled(overlap=Overlap.SKIP)
    core.pass_time(60)
    connection = core.connect()
    assert core.dispatch() == {connection: [tick_id("s", WALL_MS + MINUTE_MS)]}
    core.wall_ms += MINUTE_MS
    core.tick()
    assert made(core) == ["1"]
    assert skipped(core, SkipReason.OVERLAP) == 1


def test_a_tick_follows_a_run_that_has_finished():
    core = scheduled(overlap=Overlap.SKIP)
    core.pass_time(60)
    core.do(cmd.Cancel(tick_id("s", WALL_MS + MINUTE_MS)))
    core.restart()
    core.pass_time(60)
    assert made(core) == ["1", "2"]


def test_of_ticks_that_are_late_together_the_first_is_made_and_the_others_overlap():
    core = scheduled(overlap=Overlap.SKIP)
    core.wall_ms += 5 * MINUTE_MS
    core.tick()
    assert made(core) == ["1"]
    assert skipped(core, SkipReason.OVERLAP) == 4


def test_one_tick_waits_for_the_run_before_it_and_is_made_when_that_has_finished():
    core = scheduled(overlap=Overlap.QUEUE_ONE)
    core.pass_time(60)
    core.pass_time(60)
    core.pass_time(60)
    assert made(core) == ["1"]
    assert ticks_of(core).waiting_ms == WALL_MS + 2 * MINUTE_MS
    assert skipped(core, SkipReason.OVERLAP) == 1
    core.do(cmd.Cancel(tick_id("s", WALL_MS + MINUTE_MS)))
    core.tick()
    assert made(core) == ["1", "2"]
    assert ticks_of(core).waiting_ms == 0


def test_a_tick_that_waits_outlives_the_leader():
    core = scheduled(overlap=Overlap.QUEUE_ONE)
    core.pass_time(60)
    core.pass_time(60)
    core.restart()
    core.tick()
    assert made(core) == ["1"]
    core.do(cmd.Cancel(tick_id("s", WALL_MS + MINUTE_MS)))
    core.tick()
    assert made(core) == ["1", "2"]


def test_a_tick_that_waits_is_made_when_the_run_before_it_completes_on_a_worker():
    core = scheduled(overlap=Overlap.QUEUE_ONE)
    core.pass_time(60)
    connection = core.connect()
    (id,) = core.dispatch()[connection]
    core.wall_ms += MINUTE_MS
    core.tick()
    assert made(core) == ["1"]
    core.report(connection, id)
    core.tick()
    assert made(core) == ["1", "2"]


def test_the_running_task_is_cancelled_and_the_next_one_made():
    core = scheduled(overlap=Overlap.CANCEL_RUNNING)
    core.pass_time(60)
    connection = core.connect()
    (first,) = core.dispatch()[connection]
    core.wall_ms += MINUTE_MS
    core.tick()
    assert core.standing(first).cancel_requested
    assert made(core) == ["1", "2"]
    core.report(connection, first, Outcome.CANCELLED)
    core.wall_ms += MINUTE_MS
    core.tick()
    # The second one had not started.
    assert core.status(tick_id("s", WALL_MS + 2 * MINUTE_MS)) is Status.CANCELLED
    assert made(core) == ["1", "2", "3"]


def test_of_late_ticks_that_would_cancel_one_another_only_the_last_is_made():
    core = scheduled(overlap=Overlap.CANCEL_RUNNING)
    core.pass_time(60)
    core.wall_ms += 3 * MINUTE_MS
    core.tick()
    assert made(core) == ["1", "4"]
    assert core.status(tick_id("s", WALL_MS + MINUTE_MS)) is Status.CANCELLED


def test_ticks_are_skipped_while_too_many_cancelled_runs_have_not_ended(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(ticking, "SCHEDULE_UNFINISHED_MAX", 1)
    core = scheduled(overlap=Overlap.CANCEL_RUNNING)
    core.pass_time(60)
    core.pass_time(60)
    assert made(core) == ["1"]
    assert skipped(core, SkipReason.OVERLAP) == 1
    assert core.status(tick_id("s", WALL_MS + MINUTE_MS)) is Status.PENDING


def test_a_tick_for_whose_task_there_is_no_room_is_skipped_and_the_reason_told():
    core = scheduled(settings=Settings(pending_max=1))
    core.wall_ms += 2 * MINUTE_MS
    core.do(cmd.Tick(core.wall_ms))
    assert made(core) == ["1"]
    assert skipped(core, SkipReason.REFUSED) == 1
    made_first, refused = core.pending.tally.ticked
    assert (made_first.reason, made_first.late_ms) == (None, MINUTE_MS + 500)
    assert "the limit is 1" in refused.why


def test_a_task_with_the_id_of_a_tick_from_before_stands_for_the_tick():
    core = Core()
    core.submit(spec(tick_id("s", WALL_MS + MINUTE_MS)))
    core.do(cmd.AddSchedule("s", definition(overlap=Overlap.SKIP)))
    core.pass_time(60)
    core.pass_time(60)
    assert made(core) == ["1"]
    assert skipped(core, SkipReason.OVERLAP) == 1


def test_no_tick_is_before_the_start_or_at_the_end():
    core = scheduled(start_ms=WALL_MS + 2 * MINUTE_MS, end_ms=WALL_MS + 4 * MINUTE_MS)
    for _ in range(6):
        core.pass_time(60)
    assert made(core) == ["2", "3"]
    assert core.state.agenda.next_ms() is None


def test_single_times_are_ticked_once_each():
    core = scheduled(At((WALL_MS + MINUTE_MS, WALL_MS + 3 * MINUTE_MS)))
    for _ in range(6):
        core.pass_time(60)
    assert made(core) == ["1", "3"]


def test_jitter_delays_the_start_and_is_the_same_each_time():
    core = scheduled(jitter_ms=30_000)
    core.pass_time(60)
    tick = WALL_MS + MINUTE_MS
    task = core.task(tick_id("s", tick))
    assert task.standing.not_before_ms == task.spec.run_at_ms == tick + jitter_of("s", tick, 30_000)
    spread = {jitter_of(f"s{number}", tick, 5) for number in range(100)}
    assert spread == {0, 1, 2, 3, 4, 5}


def test_two_schedules_tick_at_the_same_time():
    core = scheduled()
    core.do(cmd.AddSchedule("t", definition()))
    core.tick()
    core.pass_time(60)
    assert list(core.stored) == [tick_id(name, WALL_MS + MINUTE_MS) for name in ("s", "t")]
    assert [core.task(id).seq for id in core.stored] == [1, 2]


def test_a_schedule_that_another_command_of_the_batch_has_changed_is_left_to_the_next_batch():
    core = scheduled()
    core.wall_ms += MINUTE_MS
    core.state.agenda.plans = ticking.plan(core.state, core.wall_ms)
    plans = core.state.agenda.plans
    core.do(cmd.PauseSchedule("s"))
    core.state.agenda.plans = plans
    assert decide(core.state, cmd.Tick(core.wall_ms), core.now).changes == []


def test_only_the_schedule_makes_tasks_with_the_ids_of_its_ticks():
    core = scheduled()
    for id in (tick_id("s", WALL_MS), "s/manual-1"):
        refused = core.refusal(cmd.Submit([spec("a"), spec(id)]))
        assert refused.code is cmd.ID_RESERVED
        assert refused.violations[0][0] == "tasks[1].id"
    for id in (
        "s",
        "s/1",
        "t/2026-11-28T03:00:00Z",
        f"{tick_id('s', WALL_MS)}/resize",
        "s/manual-1/next",
        "s/2026-11-28T03:00:00",
        "/manual-1",
    ):
        assert core.submit(spec(id)) == cmd.Submitted(1, 0)
    core.do(cmd.RemoveSchedule("s"))
    assert core.submit(spec(tick_id("s", WALL_MS))) == cmd.Submitted(1, 0)


def test_a_handler_cannot_schedule_a_tick_either():
    core = scheduled()
    core.submit(spec("a"))
    connection = core.connect()
    core.dispatch()
    core.report(connection, "a", follow_ups=(spec("s/manual-1"),))
    assert core.status("a") is Status.ERROR
    assert "schedule 's'" in core.failure("a").message
    assert "s/manual-1" not in core.stored


def test_a_schedule_that_is_added_again_and_again_leaves_nothing_behind():
    core = scheduled()
    # It is always the next one, so that the entries of those that are replaced are never at the top.
    core.do(cmd.AddSchedule("next", definition(Every(MINUTE_MS, WALL_MS))))
    for minutes in range(1500, 2, -1):
        core.do(cmd.AddSchedule("s", definition(Every(minutes * MINUTE_MS, WALL_MS)), replace=True))
        core.tick()
    assert len(core.state.agenda.heap) <= 1010
    assert list(core.state.facts.of(SCHEDULES)) == ["s", "next"]
