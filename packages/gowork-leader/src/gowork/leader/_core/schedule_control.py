"""Decides on what operators ask of schedules: adding, pausing, resuming, triggering, backfilling and removing them."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec.structs import replace

from gowork.leader._core import changes as ch
from gowork.leader._core import commands as cmd
from gowork.leader._core.decision import Decision
from gowork.leader._core.kinds import SCHEDULES, TICKS
from gowork.leader._core.model import Now, Spec
from gowork.leader._core.schedules import (
    Definition,
    Overlap,
    Pause,
    Run,
    Schedule,
    SkipReason,
    Ticks,
    count_of,
    manual_id,
    tick_id,
    tick_spec,
)
from gowork.leader._core.state import State
from gowork.leader._core.tasks import new_tasks, no_room, no_room_in_queues
from gowork.leader._core.ticking import still_unfinished
from gowork.leader._core.unique import Keys
from gowork.proto.limits import SCHEDULE_UNFINISHED_MAX, SCHEDULES_BYTES_MAX

#: How many ticks of a pause are counted at once. Before that, they were counted as they came.
COUNTED_MAX = 2_000


def add_schedule(state: State, command: cmd.AddSchedule, now: Now) -> Decision:
    """Adds a schedule, or replaces the one of its name."""
    name, definition = command.name, command.definition
    old = state.facts.of(SCHEDULES).get(name)
    if old is not None and old.definition == definition and (old.declarer is None or not command.replace):
        return Decision(cmd.ScheduleAdded(created=False, replaced=False))
    if old is not None and not command.replace:
        message = f"there is a schedule {name!r} with other content; use another name, or replace it"
        return Decision(cmd.Refused(cmd.SCHEDULE_EXISTS, message))
    if old is None and name in state.dependents.groups:
        message = f"{name!r} is the id of a group, whose children the tasks of the schedule would be; use another name"
        return Decision(cmd.Refused(cmd.SCHEDULE_EXISTS, message))
    refusal = no_room_for(state, name, definition)
    if refusal is not None:
        return Decision(refusal)
    decision = Decision(cmd.ScheduleAdded(created=old is None, replaced=old is not None))
    pause = Pause(now.wall_ms, command.reason, command.caller, now.wall_ms) if command.paused else None
    keep(state, name, Schedule(definition, now.wall_ms, now.wall_ms), pause, now, decision)
    return decision


def no_room_for(state: State, name: str, definition: Definition) -> cmd.Refused | None:
    """Returns why there is no room for this schedule; None when there is."""
    schedules = state.facts.of(SCHEDULES)
    if name not in schedules and state.facts.is_full(SCHEDULES):
        message = f"there are {SCHEDULES.rows_max} schedules, which is the limit; remove one first"
        return cmd.Refused(cmd.TOO_MANY_SCHEDULES, message)
    sizes = (len(other.definition.template.body) for key, other in schedules.items() if key != name)
    size = sum(sizes) + len(definition.template.body)
    if size > SCHEDULES_BYTES_MAX:
        message = (
            f"the tasks of all schedules would have {size} bytes, and the limit is {SCHEDULES_BYTES_MAX}; use smaller "
            "payloads, or remove a schedule first"
        )
        return cmd.Refused(cmd.TOO_MANY_SCHEDULES, message)
    return None


def keep(state: State, name: str, schedule: Schedule, pause: Pause | None, now: Now, decision: Decision) -> None:
    """Puts a schedule in its place. One that was there leaves its runs, its counts and its pause."""
    old, ticks = state.facts.of(SCHEDULES).get(name), state.facts.of(TICKS).get(name)
    if old is None or ticks is None:
        ticks = Ticks(now.wall_ms, pause=pause)
    else:
        schedule = replace(schedule, created_ms=old.created_ms)
        if not _ticks_alike(old.definition, schedule.definition):
            # Its new times begin now.
            since_ms = max(ticks.last_ms, now.wall_ms)
            kept = None if ticks.pause is None else replace(ticks.pause, after_ms=since_ms)
            ticks = replace(ticks, last_ms=since_ms, pause=kept)
    decision.changes.append(ch.FactPut(SCHEDULES, name, schedule))
    decision.changes.append(ch.FactPut(TICKS, name, ticks))
    # When it ticks next is worked out before the next batch.
    decision.changes.append(ch.ScheduleSet(name, 0))


def _ticks_alike(one: Definition, other: Definition) -> bool:
    return (one.calendar, one.start_ms, one.end_ms) == (other.calendar, other.start_ms, other.end_ms)


def pause_schedule(state: State, command: cmd.PauseSchedule, now: Now) -> Decision:
    """Pauses a schedule. A tick that waits for an earlier run is skipped."""
    ticks = state.facts.of(TICKS).get(command.name)
    if ticks is None:
        return Decision(_unknown(command.name))
    decision = Decision()
    if ticks.pause is None:
        if ticks.waiting_ms:
            ticks = replace(ticks.with_skipped(SkipReason.PAUSED, 1), waiting_ms=0)
            decision.changes.append(ch.ScheduleTicked(command.name, SkipReason.PAUSED, 1))
        pause = Pause(now.wall_ms, command.reason, command.caller, ticks.last_ms)
        decision.changes.append(ch.FactPut(TICKS, command.name, replace(ticks, pause=pause)))
        decision.changes.append(ch.ScheduleSet(command.name, 0))
    return decision


def resume_schedule(state: State, command: cmd.ResumeSchedule, now: Now) -> Decision:
    """Ends a pause. Its ticks stay skipped, or those within the catch-up window are made by the next batches."""
    schedule, ticks = state.facts.of(SCHEDULES).get(command.name), state.facts.of(TICKS).get(command.name)
    if schedule is None or ticks is None:
        return Decision(_unknown(command.name))
    pause, definition = ticks.pause, schedule.definition
    if pause is None:
        return Decision(cmd.ScheduleResumed(0))
    more, _ = count_of(definition, ticks.last_ms, now.wall_ms, COUNTED_MAX)
    skipped, last_ms = pause.skipped + more, max(ticks.last_ms, now.wall_ms)
    if command.catch_up:
        last_ms = max(pause.after_ms, now.wall_ms - definition.catch_up_ms - 1)
        older, _ = count_of(definition, pause.after_ms, last_ms, COUNTED_MAX)
        skipped = min(skipped, older)
    resumed = replace(ticks.with_skipped(SkipReason.PAUSED, skipped - pause.skipped), last_ms=last_ms, pause=None)
    decision = Decision(cmd.ScheduleResumed(skipped))
    decision.changes.append(ch.FactPut(TICKS, command.name, resumed))
    decision.changes.append(ch.ScheduleSet(command.name, 0))
    if more and not command.catch_up:
        decision.changes.append(ch.ScheduleTicked(command.name, SkipReason.PAUSED, more))
    return decision


def trigger_schedule(state: State, command: cmd.TriggerSchedule, now: Now) -> Decision:
    """Makes a schedule's task now. The same call again makes none."""
    name = command.name
    schedule, ticks = state.facts.of(SCHEDULES).get(name), state.facts.of(TICKS).get(name)
    if schedule is None or ticks is None:
        return Decision(_unknown(name))
    definition, id = schedule.definition, manual_id(name, command.request_id)
    if id in state.tasks:
        return Decision(cmd.Triggered(id, existing=True))
    spec, keys = tick_spec(definition, name, id, 0), Keys(state, now)
    if spec.unique_key and (holder := keys.take(spec.unique_key, id)):
        return Decision(cmd.Triggered(holder, existing=True))
    # A run that is not in memory may have begun since the call was read. It counts as unfinished.
    looked_up = frozenset(command.looked_up)
    finished = [run for run in ticks.unfinished if run in looked_up and not still_unfinished(state, [run])]
    unfinished = [run for run in ticks.unfinished if run not in finished]
    if definition.overlap is Overlap.ALLOW:
        unfinished = []
    elif len(unfinished) >= SCHEDULE_UNFINISHED_MAX:
        message = f"{len(unfinished)} runs of schedule {name!r} have not finished, which is the limit; try again later"
        return Decision(cmd.Refused(cmd.TOO_MANY_RUNS, message))
    else:
        unfinished.append(id)
    refusal = no_room(state, [spec]) or no_room_in_queues(state, [spec], command.queue_pending_max)
    refusal = refusal or keys.too_many()
    if refusal is not None:
        return Decision(refusal)
    decision = Decision(cmd.Triggered(id, existing=False))
    decision.changes.extend(new_tasks(state, [spec], {}, None, now)[0])
    decision.changes.extend(keys.taken())
    run = Run(now.wall_ms, id, now.wall_ms, triggered=True)
    ticks = replace(ticks.with_run(run, is_tick=False), unfinished=tuple(unfinished))
    decision.changes.append(ch.FactPut(TICKS, name, ticks))
    return decision


def backfill_schedule(state: State, command: cmd.BackfillSchedule, now: Now) -> Decision:
    """Makes the tasks of past ticks, all or none of those that have none."""
    schedule = state.facts.of(SCHEDULES).get(command.name)
    if schedule is None:
        return Decision(_unknown(command.name))
    if schedule.definition != command.definition:
        message = f"schedule {command.name!r} was replaced meanwhile; call again"
        return Decision(cmd.Refused(cmd.SCHEDULE_CHANGED, message))
    ids = {tick: tick_id(command.name, tick) for tick in command.ticks}
    specs = [
        tick_spec(schedule.definition, command.name, id, tick) for tick, id in ids.items() if id not in state.tasks
    ]
    keys = Keys(state, now)
    refusal = no_room(state, specs) or no_room_in_queues(state, specs, command.queue_pending_max)
    refusal = refusal or _keys_for(specs, keys)
    if refusal is not None:
        return Decision(refusal)
    decision = Decision(cmd.Backfilled(tuple(spec.id for spec in specs), len(ids) - len(specs)))
    decision.changes.extend(new_tasks(state, specs, {}, None, now)[0])
    decision.changes.extend(keys.taken())
    return decision


def _keys_for(specs: Sequence[Spec], keys: Keys) -> cmd.Refused | None:
    """Takes the unique key of these tasks, if they have one. Returns why not all of them can have it."""
    for spec in specs:
        if spec.unique_key and (holder := keys.take(spec.unique_key, spec.id)):
            message = (
                f"task {holder!r} has the unique_key {spec.unique_key!r} of the schedule's tasks, so task {spec.id!r} "
                "can't be made; backfill one tick at a time, each when no task has the key"
            )
            return cmd.Refused(cmd.KEY_TAKEN, message)
    return keys.too_many()


def remove_schedule(state: State, command: cmd.RemoveSchedule) -> Decision:
    """Removes a schedule. Its tasks stay."""
    if command.name not in state.facts.of(SCHEDULES):
        return Decision(_unknown(command.name))
    decision = Decision()
    decision.changes.append(ch.FactRemoved(SCHEDULES, command.name))
    decision.changes.append(ch.FactRemoved(TICKS, command.name))
    decision.changes.append(ch.ScheduleGone(command.name))
    return decision


def _unknown(name: str) -> cmd.Refused:
    return cmd.Refused(cmd.SCHEDULE_UNKNOWN, f"there is no schedule {name!r}")
