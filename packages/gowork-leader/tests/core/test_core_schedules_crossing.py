"""Schedules whose tasks have unique keys, or are changed while they wait, or run again."""

from __future__ import annotations

from typing import Any

import pytest
from leader_core import WALL_MS, Core, lane, spec
from msgspec.structs import replace
from test_core_schedules import MINUTE_MS, definition, finish, made, skipped, ticks_of

from gowork.leader._core import commands as cmd
from gowork.leader._core.kinds import UNIQUE_KEYS
from gowork.leader._core.model import Spec, Status
from gowork.leader._core.schedules import Definition, Overlap, SkipReason, tick_id
from gowork.leader._core.state import Settings
from gowork.leader._core.step import carry_out, take

MANUAL = "s/manual-1"


def tick(minute: int, name: str = "s") -> str:
    return tick_id(name, WALL_MS + minute * MINUTE_MS)


def unique(overlap: Overlap = Overlap.ALLOW, *, for_ms: int = 0) -> Definition:
    wanted = definition(overlap=overlap)
    template = spec("", handler="work", unique="k", unique_for_ms=for_ms)
    return Definition(wanted.calendar, template, overlap, wanted.catch_up_ms)


def scheduled(overlap: Overlap = Overlap.ALLOW, *, for_ms: int = 0, settings: Settings | None = None) -> Core:
    core = Core(settings)
    core.pass_time(0.5)
    core.do(cmd.AddSchedule("s", unique(overlap, for_ms=for_ms)))
    core.tick()
    return core


def trigger(core: Core, request_id: str = "1") -> Any:
    return core.do(cmd.TriggerSchedule("s", request_id, ticks_of(core).unfinished)).answer


def backfill(core: Core, *minutes: int) -> cmd.BackfillSchedule:
    return cmd.BackfillSchedule("s", unique(), tuple(WALL_MS + minute * MINUTE_MS for minute in minutes))


def elsewhere(before: Spec, created_ms: int, now_ms: int) -> tuple[Spec, tuple[str, ...]]:
    key = before.lane
    return replace(before, lane=lane("other", key.priority, key.handler, key.selector, key.concurrency_key)), ("queue",)


def keep(core: Core) -> None:
    """Ends a batch, and stores what came of it."""
    pending = take(core.state)
    for id, task in {**pending.submitted, **pending.moved}.items():
        core.stored[id] = (task.seq, task.spec, task.standing)


def holder(core: Core) -> str | None:
    held = core.state.facts.of(UNIQUE_KEYS).get("k")
    return None if held is None else held.id


def test_a_tick_whose_key_is_taken_is_skipped_as_overlapping_and_the_next_ones_go_on():
    core = scheduled()
    core.submit(spec("other", unique="k"))
    core.pass_time(60)
    assert (made(core), skipped(core, SkipReason.OVERLAP)) == ([], 1)
    assert ticks_of(core).last_ms == WALL_MS + MINUTE_MS
    core.do(cmd.Cancel("other"))
    core.pass_time(60)
    assert (made(core), holder(core)) == (["2"], tick(2))
    core.pass_time(60)
    assert (made(core), skipped(core, SkipReason.OVERLAP), holder(core)) == (["2"], 2, tick(2))
    finish(core)
    assert holder(core) is None
    core.pass_time(60)
    assert made(core) == ["2", "4"]


def test_of_two_schedules_with_one_key_one_makes_its_task():
    core = scheduled()
    core.do(cmd.AddSchedule("t", unique()))
    core.tick()
    core.pass_time(60)
    assert (made(core), list(core.stored)) == (["1"], [tick(1)])
    assert ticks_of(core, "t").skipped[SkipReason.OVERLAP - 1] == 1


def test_a_key_that_is_kept_becomes_free_in_the_batch_of_the_tick():
    core = scheduled(for_ms=2 * MINUTE_MS)
    core.pass_time(60)
    finish(core)
    core.pass_time(60)
    assert (made(core), skipped(core, SkipReason.OVERLAP)) == (["1"], 1)
    core.pass_time(60)
    assert (made(core), holder(core)) == (["1", "3"], tick(3))
    core.pass_time(60)
    assert (made(core), holder(core)) == (["1", "3"], tick(3))


def test_a_tick_that_waited_and_finds_its_key_taken_is_skipped():
    core = scheduled(Overlap.QUEUE_ONE)
    core.pass_time(60)
    core.pass_time(60)
    assert ticks_of(core).waiting_ms == WALL_MS + 2 * MINUTE_MS
    core.do(cmd.Cancel(tick(1)))
    core.submit(spec("other", unique="k"))
    core.tick()
    assert (made(core), ticks_of(core).waiting_ms, skipped(core, SkipReason.OVERLAP)) == (["1"], 0, 1)


def test_a_tick_for_which_there_is_no_room_takes_no_key():
    core = scheduled(settings=Settings(pending_max=1))
    core.submit(spec("other"))
    core.pass_time(60)
    assert (made(core), skipped(core, SkipReason.REFUSED), holder(core)) == ([], 1, None)
    core.do(cmd.Cancel("other"))
    core.pass_time(60)
    assert (made(core), holder(core)) == (["2"], tick(2))


def test_two_ticks_of_one_key_without_room_are_both_refused():
    core = scheduled(settings=Settings(pending_max=1))
    core.do(cmd.AddSchedule("t", unique()))
    core.tick()
    core.submit(spec("other"))
    core.pass_time(60)
    refused = SkipReason.REFUSED - 1
    assert (ticks_of(core).skipped[refused], ticks_of(core, "t").skipped[refused]) == (1, 1)


def test_a_tick_is_skipped_when_too_many_keys_are_taken(monkeypatch: pytest.MonkeyPatch):
    core = scheduled()
    monkeypatch.setattr(UNIQUE_KEYS, "rows_max", 0)
    core.wall_ms += MINUTE_MS
    core.do(cmd.Tick(core.wall_ms))
    assert (made(core), skipped(core, SkipReason.REFUSED), holder(core)) == ([], 1, None)
    assert core.pending.tally.ticked[-1].why.startswith("unique_key: 0 keys are taken")
    assert trigger(core).code is cmd.TOO_MANY_KEYS
    assert core.refusal(backfill(core, 1)).code is cmd.TOO_MANY_KEYS


def test_a_trigger_is_told_which_task_has_the_key_and_takes_it_when_it_is_free():
    core = scheduled()
    core.submit(spec("other", unique="k"))
    assert trigger(core) == cmd.Triggered("other", existing=True)
    assert (list(core.stored), ticks_of(core).runs) == (["other"], ())
    core.do(cmd.Cancel("other"))
    assert trigger(core) == cmd.Triggered(MANUAL, existing=False)
    assert holder(core) == MANUAL
    assert trigger(core) == cmd.Triggered(MANUAL, existing=True)
    assert trigger(core, "2") == cmd.Triggered(MANUAL, existing=True)


def test_a_backfill_makes_all_tasks_or_none_when_they_have_a_key():
    core = scheduled()
    core.pass_time(60)
    finish(core)
    refused = core.refusal(backfill(core, -2, -1))
    assert refused.code is cmd.KEY_TAKEN
    assert f"task {tick(-2)!r} has the unique_key 'k'" in refused.message
    assert holder(core) is None
    assert core.do(backfill(core, -1, 1)).answer == cmd.Backfilled((tick(-1),), 1)
    assert holder(core) == tick(-1)
    assert core.refusal(backfill(core, -2)).code is cmd.KEY_TAKEN


def test_the_holder_of_a_key_is_in_the_store_alone_when_a_tick_asks():
    core = scheduled()
    # One that is delayed is not in a window.
    core.submit(spec("other", unique="k", run_in_ms=60 * MINUTE_MS))
    core.restart()
    core.pass_time(60)
    assert (made(core), skipped(core, SkipReason.OVERLAP)) == ([], 1)


def test_the_holder_of_a_key_is_loaded_for_a_trigger_and_a_backfill():
    core = scheduled()
    core.submit(spec("other", unique="k", run_in_ms=60 * MINUTE_MS))
    core.restart()
    # The first tick works out when the schedule ticks next, and looks at the key.
    core.tick()
    assert trigger(core) == cmd.Triggered("other", existing=True)
    core.restart()
    core.tick()
    assert core.refusal(backfill(core, -1)).code is cmd.KEY_TAKEN


def test_a_run_that_failed_runs_again_although_its_id_is_a_tick():
    core = scheduled()
    core.pass_time(60)
    core.do(cmd.Cancel(tick(1)))
    assert core.do(cmd.RetryTask(tick(1))).answer is None
    assert (core.status(tick(1)), holder(core)) == (Status.PENDING, tick(1))
    core.pass_time(60)
    assert (made(core), skipped(core, SkipReason.OVERLAP)) == (["1"], 1)


@pytest.mark.parametrize("in_one_batch", [True, False])
def test_a_run_that_is_changed_while_it_waits_is_seen_to_end(in_one_batch: bool):
    core = Core()
    core.pass_time(0.5)
    core.do(cmd.AddSchedule("s", definition(overlap=Overlap.QUEUE_ONE)))
    core.tick()
    core.pass_time(60)
    core.pass_time(60)
    assert (made(core), ticks_of(core).waiting_ms) == (["1"], WALL_MS + 2 * MINUTE_MS)
    carry_out(core.state, cmd.UpdateTask(tick(1), elsewhere, False), core.now)
    if not in_one_batch:
        keep(core)
    carry_out(core.state, cmd.Cancel(tick(1)), core.now)
    keep(core)
    assert core.status(tick(1)) is Status.CANCELLED
    core.tick()
    assert (made(core), ticks_of(core).waiting_ms) == (["1", "2"], 0)


def test_a_tick_and_a_task_that_waits_again_do_not_both_get_a_key() -> None:
    core = scheduled()
    core.submit(spec("a"), spec("b", after=("a",), unique="k"))
    core.do(cmd.Cancel("a"))
    core.tick()
    assert core.status("b") is Status.CANCELLED
    core.do(cmd.RetryTask("a"))
    core.wall_ms += MINUTE_MS
    core.tick()
    keyed = {id for id, (_, spec, standing) in core.stored.items() if spec.unique_key and standing.finished_ms == 0}
    assert keyed == {tick(1)} == {holder(core)}
