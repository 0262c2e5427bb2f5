"""Decides on the schedules that workers declare in code: whose declaration holds.

Whoever adds a schedule decides on it. Of declarations of one name the handler's that came first holds, in the highest
version of its plugin, so that workers of two versions side by side do not take turns.
"""

from __future__ import annotations

from collections.abc import Iterable

from gowork.base.version_ranges import is_within
from gowork.leader._core import changes as ch
from gowork.leader._core.agenda import ORPHANED_MS
from gowork.leader._core.decision import Decision
from gowork.leader._core.kinds import SCHEDULES
from gowork.leader._core.model import Now
from gowork.leader._core.schedule_control import keep, no_room_for
from gowork.leader._core.schedules import Declared, Declarer, Schedule
from gowork.leader._core.state import State


def adopt(state: State, declared: Iterable[Declared], now: Now, decision: Decision) -> None:
    """Takes over the schedules that a worker declares, as far as its declarations hold."""
    for each in declared:
        old = state.facts.of(SCHEDULES).get(each.name)
        if why_not(old, each.declarer) and not _has_gone(state, each.name, old, now):
            continue
        if old is not None and old.definition == each.definition and old.declarer == each.declarer:
            # It may have been orphaned.
            decision.changes.append(ch.ScheduleSet(each.name, 0))
        elif no_room_for(state, each.name, each.definition) is None:
            schedule = Schedule(each.definition, now.wall_ms, now.wall_ms, each.declarer)
            keep(state, each.name, schedule, None, now, decision)


def _has_gone(state: State, name: str, schedule: Schedule | None, now: Now) -> bool:
    """Whether a schedule was declared by a handler that no worker has any more, in that version.

    So another handler, or an earlier version that was put back, takes its place. After a start this waits until workers
    have had time to reconnect.
    """
    if schedule is None or schedule.declarer is None or now.wall_ms < state.agenda.since_ms + ORPHANED_MS:
        return False
    return schedule.declarer not in state.agenda.declared.get(name, {}).values()


def why_not(schedule: Schedule | None, declarer: Declarer) -> str:
    """Returns why a declaration does not hold, beside the schedule that there is; empty: it does."""
    if schedule is None:
        return ""
    holds = schedule.declarer
    if holds is None:
        return "somebody added a schedule of this name"
    if (holds.handler, holds.plugin) != (declarer.handler, declarer.plugin):
        return f"handler {holds.handler!r} declares this name, and handler {declarer.handler!r} does, too"
    if not _is_as_new(declarer.version, holds.version):
        return f"workers declare it in version {declarer.version or 'without a number'}, which is not {holds.version}"
    return ""


def _is_as_new(version: str, other: str) -> bool:
    """Whether a version is the same as another one, or a later one. What can't be read is before all others."""
    # What follows a plus names a build, and has no place in a range.
    wanted = f">={other.partition('+')[0]}"
    return version == other or not is_within(other, ">=0") or is_within(version, wanted)
