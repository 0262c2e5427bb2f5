"""Decides on ticks of schedules that have come due.

The loader plans what is due before a batch and has the tasks that it concerns loaded. The batch's Tick decides on the
plans. A schedule that another command of the batch has changed is left to the next batch.
"""

from __future__ import annotations

from collections.abc import Iterable

from msgspec.structs import replace

from gowork.leader._core import changes as ch
from gowork.leader._core import commands as cmd
from gowork.leader._core.agenda import Plan
from gowork.leader._core.decision import Decision
from gowork.leader._core.kinds import SCHEDULES, TICKS
from gowork.leader._core.model import COMPLETED, Now, Spec
from gowork.leader._core.schedules import (
    Overlap,
    Run,
    Schedule,
    SkipReason,
    Ticks,
    count_of,
    tick_id,
    tick_spec,
    ticks_of,
)
from gowork.leader._core.state import State
from gowork.leader._core.tasks import cancel, new_tasks, no_room
from gowork.leader._core.unique import Keys, unfinished_holder
from gowork.proto.limits import ID_BYTES_MAX, SCHEDULE_UNFINISHED_MAX

#: How many schedules a batch looks at, and how many ticks it works out for all of them, each of which takes some 50 µs.
SCHEDULES_MAX = 500
TICKS_MAX = 500
#: How many bytes the tasks of a batch's ticks may have; a larger one is made alone.
BYTES_MAX = 4 << 20
#: How often the ticks of a paused schedule are counted at most, in milliseconds, because each time is written.
PAUSED_MS = 60_000


def plan(state: State, due_ms: int) -> list[Plan]:
    """Returns what is due by a time of the wall clock, at most as much as a batch takes."""
    agenda = state.agenda
    plans: list[Plan] = []
    left, bytes_left = TICKS_MAX, BYTES_MAX
    for name in agenda.ripe(due_ms, SCHEDULES_MAX):
        if left <= 0 or bytes_left <= 0:
            break
        schedule, ticks = state.facts.of(SCHEDULES)[name], state.facts.of(TICKS)[name]
        size = len(schedule.definition.template.body) + ID_BYTES_MAX
        found = _plan(state, name, schedule, ticks, due_ms, left, max(1, bytes_left // size))
        bytes_left -= size * len(found.due)
        # Working out when it ticks next counts, too.
        left -= 1 + len(found.due) + min(found.skipped, left)
        plans.append(found)
    return plans


def _plan(state: State, name: str, schedule: Schedule, ticks: Ticks, due_ms: int, limit: int, due_max: int) -> Plan:
    definition = schedule.definition
    reason = _skips_all(state, name, schedule, ticks, due_ms)
    skipped_until_ms = due_ms if reason is not None else due_ms - definition.catch_up_ms - 1
    skipped, last_ms = count_of(definition, ticks.last_ms, skipped_until_ms, limit)
    due: list[int] = []
    next_ms: int | None = None
    for tick in ticks_of(definition, last_ms):
        if tick > due_ms or len(due) + skipped >= limit or len(due) >= due_max:
            next_ms = tick
            break
        due.append(tick)
    if reason is not None and next_ms is not None and next_ms > due_ms:
        next_ms = max(next_ms, due_ms + PAUSED_MS)
    return Plan(name, schedule, ticks, skipped, last_ms, tuple(due), next_ms, reason)


def looked_at(state: State, plans: Iterable[Plan]) -> list[str]:
    """Returns the ids of the tasks that decisions on these plans look up."""
    ids: list[str] = []
    for plan in plans:
        ids += plan.ticks.unfinished
        if plan.ticks.waiting_ms:
            ids.append(tick_id(plan.name, plan.ticks.waiting_ms))
        ids += [tick_id(plan.name, tick) for tick in plan.due]
        key = plan.schedule.definition.template.unique_key
        if key and (holder := unfinished_holder(state, key)):
            ids.append(holder)
    return ids


def _skips_all(state: State, name: str, schedule: Schedule, ticks: Ticks, due_ms: int) -> SkipReason | None:
    """Returns why all ticks of a schedule are skipped now; None: they are not."""
    if ticks.pause is not None:
        return SkipReason.PAUSED
    if schedule.definition.stops_orphaned and state.agenda.is_orphaned(name, schedule, due_ms):
        return SkipReason.ORPHANED
    return None


def tick_schedules(state: State, keys: Keys, now: Now, decision: Decision) -> None:
    """Makes the tasks of ticks that are due, and skips ticks. `keys` are the unique keys as the decision sees them."""
    seen: dict[str, Spec] = {}
    for plan in state.agenda.plans:
        ticks = state.facts.of(TICKS).get(plan.name)
        if ticks is plan.ticks and state.facts.of(SCHEDULES).get(plan.name) is plan.schedule:
            _Ticking(state, plan, now, seen, keys, decision).decide()


def still_unfinished(state: State, ids: Iterable[str]) -> list[str]:
    """Returns those of a schedule's runs that have not finished. All that are unfinished must be in memory."""
    tasks = state.tasks
    return [id for id in ids if (task := tasks.get(id)) is not None and task.standing.status < COMPLETED]


class _Ticking:
    """One decision on one schedule."""

    def __init__(
        self, state: State, plan: Plan, now: Now, seen: dict[str, Spec], keys: Keys, decision: Decision
    ) -> None:
        self._state = state
        self._plan = plan
        self._definition = plan.schedule.definition
        self._now = now
        self._seen = seen
        self._keys = keys
        self._decision = decision
        self._ticks = plan.ticks
        self._unfinished = still_unfinished(state, plan.ticks.unfinished)

    def decide(self) -> None:
        plan, changes = self._plan, self._decision.changes
        reason = plan.reason
        if plan.skipped:
            self._skip(reason or SkipReason.MISSED, plan.skipped, plan.skipped_until_ms)
        if reason is None:
            waiting_ms = self._ticks.waiting_ms
            if waiting_ms and not self._unfinished:
                self._ticks = replace(self._ticks, waiting_ms=0)
                self._make(waiting_ms)
            for tick in plan.due:
                self._tick(tick)
                self._ticks = replace(self._ticks, last_ms=tick)
        ticks = self._ticks
        if ticks is not plan.ticks:
            kept = () if self._definition.overlap is Overlap.ALLOW else tuple(self._unfinished)
            changes.append(ch.FactPut(TICKS, plan.name, replace(ticks, unfinished=kept)))
        awaited = tuple(self._unfinished) if ticks.waiting_ms and reason is None else ()
        changes.append(ch.ScheduleSet(plan.name, plan.next_ms, awaited))

    def _tick(self, tick: int) -> None:
        overlap, unfinished = self._definition.overlap, self._unfinished
        if overlap is Overlap.ALLOW or not (unfinished or self._ticks.waiting_ms):
            self._make(tick)
        elif overlap is Overlap.QUEUE_ONE and not self._ticks.waiting_ms:
            self._ticks = replace(self._ticks, waiting_ms=tick)
        elif (
            overlap is Overlap.CANCEL_RUNNING
            and len(unfinished) < SCHEDULE_UNFINISHED_MAX
            and tick == self._plan.due[-1]
        ):
            earlier = list(unfinished)
            if self._make(tick):
                self._cancel(earlier)
        else:
            self._skip(SkipReason.OVERLAP, 1, tick)

    def _make(self, tick: int) -> bool:
        """Makes the task of a tick. Returns whether it is there now."""
        state, name, now = self._state, self._plan.name, self._now
        spec = tick_spec(self._definition, name, tick_id(name, tick), tick)
        task = state.tasks.get(spec.id)
        if task is None:
            mark = self._keys.mark() if spec.unique_key else {}
            if spec.unique_key and self._keys.take(spec.unique_key, spec.id):
                # A run of this schedule has the key, or any other task.
                self._skip(SkipReason.OVERLAP, 1, tick)
                return False
            refusal = no_room(state, [*self._seen.values(), spec]) or self._keys.too_many()
            if refusal is not None:
                self._keys.back_to(mark)
                self._skip(SkipReason.REFUSED, 1, tick, refusal.message)
                return False
            made, _ = new_tasks(state, [spec], self._seen, None, now)
            self._decision.changes.extend(made)
            self._decision.changes.extend(self._keys.taken(mark) if spec.unique_key else ())
        if task is None or task.standing.status < COMPLETED:
            self._unfinished.append(spec.id)
        self._ticks = self._ticks.with_run(Run(tick, spec.id, now.wall_ms))
        self._decision.changes.append(ch.ScheduleTicked(name, None, 1, now.wall_ms - tick))
        return True

    def _cancel(self, ids: Iterable[str]) -> None:
        for id in ids:
            decided = cancel(self._state, cmd.Cancel(id), self._now)
            self._decision.changes.extend(decided.changes)
            self._decision.effects.extend(decided.effects)

    def _skip(self, reason: SkipReason, number: int, last_ms: int, why: str = "") -> None:
        ticks = self._ticks.with_skipped(reason, number)
        if ticks.pause is not None:
            ticks = replace(ticks, pause=replace(ticks.pause, skipped=ticks.pause.skipped + number))
        self._ticks = replace(ticks, last_ms=max(ticks.last_ms, last_ms))
        self._decision.changes.append(ch.ScheduleTicked(self._plan.name, reason, number, 0, why))
