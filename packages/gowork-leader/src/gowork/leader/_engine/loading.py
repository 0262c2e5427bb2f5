"""Loads what a batch needs from the store: tasks that commands name, timers that come due, and lanes that run low.

Invariant WINDOW: after a batch memory holds the running tasks, a window of each lane, and a window of the timers. The
rest is in the store alone.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from itertools import chain

from gowork.leader._core import commands as cmd
from gowork.leader._core.apply import adopt, take_in
from gowork.leader._core.clock import ripe_ids
from gowork.leader._core.continuing import STOPPED_A_BATCH_MAX
from gowork.leader._core.freeing import DEPENDENTS_A_BATCH_MAX
from gowork.leader._core.kinds import AFTER, SCHEDULES, UNIQUE_KEYS
from gowork.leader._core.model import BLOCKED_MS, LaneKey, Spec, Status
from gowork.leader._core.schedules import manual_id, tick_id
from gowork.leader._core.state import State
from gowork.leader._core.ticking import looked_at, plan
from gowork.leader._core.timers import Timer, Timers
from gowork.leader._core.unique import unfinished_holder
from gowork.leader._core.upstream import link
from gowork.leader.store.codec import restore
from gowork.leader.store.protocol import Store

#: How many lanes are paged in before one batch, and how many bytes the bodies of one page may take. The batch waits
#: for the pages.
LANES_MAX = 50
PAGE_BYTES_MAX = 16 << 20
#: How many tasks, and how many groups, are looked up at a time when a start works out which tasks wait for which.
BRIEFS_MAX = 50_000
GROUPS_MAX = 1_000


class Loader:
    """Loads from a store into a state. The engine calls it between two batches, when nothing is in flight."""

    def __init__(self, store: Store, state: State) -> None:
        self._store = store
        self._state = state
        #: {unique key: who has it}
        self._keys = state.facts.of(UNIQUE_KEYS)

    async def recover(self) -> int:
        """Loads the running tasks, and notes how many wait. Returns how many tasks are unfinished."""
        state, running = self._state, 0
        async for records in self._store.running():
            for record in records:
                adopt(state, restore(record))
            running += len(records)
        for key, tasks in await self._store.waiting():
            state.queues.expect(key, tasks)
        for key, tasks in await self._store.delayed_counts():
            state.queues.delay(key.queue, tasks)
        state.failed_tasks, others = await self._store.finished_counts()
        state.finished_tasks = state.failed_tasks + others
        state.delayed.expect()
        state.expiring.expect()
        await self._link()
        return running + state.queues.waiting + state.queues.delayed

    async def _link(self) -> None:
        """Works out what the tasks that come after others wait for."""
        named = list(dict.fromkeys(id for fact in self._state.facts.of(AFTER).values() for id in fact.ids))
        statuses: dict[str, Status] = {}
        for first in range(0, len(named), BRIEFS_MAX):
            for brief in await self._store.briefs(named[first : first + BRIEFS_MAX]):
                statuses[brief.id] = brief.status
        groups = {id: fact.group for id, fact in self._state.facts.of(AFTER).items() if fact.group is not None}
        asked = [(id, group.above) for id, group in groups.items()]
        children: dict[str, Mapping[Status, int]] = {}
        for first in range(0, len(asked), GROUPS_MAX):
            some = asked[first : first + GROUPS_MAX]
            children.update(zip([id for id, _ in some], await self._store.children(some), strict=True))
        link(self._state, statuses.get, children)

    @property
    def hungry(self) -> bool:
        """Whether there is something to page in, or dependents have to be looked at."""
        state = self._state
        return (
            bool(state.queues.hungry)
            or state.delayed.hungry
            or state.expiring.hungry
            or bool(state.dependents.undecided)
            or bool(state.dependents.abandoned)
        )

    async def page_in(self) -> None:
        """Fills windows that run low; at most LANES_MAX lanes, so that the next batch does not wait for long."""
        state, store = self._state, self._store
        queues = state.queues
        for key in list(queues.hungry)[:LANES_MAX]:
            del queues.hungry[key]
            if await self._fill(key):
                queues.hungry[key] = None
        if state.delayed.hungry:
            await _fill_timers(state.delayed, store.delayed)
        if state.expiring.hungry:
            await _fill_timers(state.expiring, store.expiring)

    async def _fill(self, key: LaneKey) -> bool:
        """Pages in the next tasks of a lane, if it wants any. Returns whether it wants more."""
        queues, page = self._state.queues, self._state.settings.lane_page
        lane = queues.lane(key)
        if lane is None or lane.horizon is None:
            return False
        wanted = queues.wanted(lane, page)
        if wanted <= 0:
            return False
        # A weight stands for as many tasks, or for about as many KiB.
        records = await self._store.lane_page(key, lane.horizon, wanted, min(wanted << 10, PAGE_BYTES_MAX))
        # Only an empty page is the end: any other page may have stopped at PAGE_BYTES_MAX.
        take_in(self._state, key, [restore(record) for record in records], complete=not records)
        return bool(records) and queues.wanted(lane, page) > 0

    async def visit(self, commands: Sequence[object], due_ms: int) -> list[str]:
        """Loads the tasks that these commands name, and those that a tick up to `due_ms` looks at. Returns their ids.

        They are forgotten after the batch, except those that have a place in memory by then.
        """
        state = self._state
        known = state.tasks
        missing: dict[str, None] = {}
        purged: dict[str, None] = {}
        for command in commands:
            if isinstance(command, cmd.Purge):
                purged.update(dict.fromkeys([id for id in command.ids if id not in known]))
            missing.update(dict.fromkeys([id for id in named(command) if id not in known]))
        missing.update(dict.fromkeys([id for id in ripe_ids(state, due_ms) if id not in known]))
        agenda = state.agenda
        if agenda.heap or agenda.plans:
            agenda.plans = plan(state, due_ms)
            missing.update(dict.fromkeys([id for id in looked_at(state, agenda.plans) if id not in known]))
        if state.dependents.undecided:
            in_hand = state.dependents.take_in_hand(DEPENDENTS_A_BATCH_MAX)
            missing.update(dict.fromkeys([id for id in in_hand if id not in known]))
        if state.dependents.abandoned:
            children = state.dependents.take_abandoned(STOPPED_A_BATCH_MAX)
            missing.update(dict.fromkeys([id for id in children if id not in known]))
        visiting: list[str] = []
        if missing:
            for record in await self._store.load(list(missing)):
                known[record.id] = restore(record)
                visiting.append(record.id)
        if self._keys:
            holders = [id for id in dict.fromkeys(holders_of_keys(state, commands)) if id not in known]
            for record in await self._store.load(holders) if holders else ():
                known[record.id] = restore(record)
                visiting.append(record.id)
        for command in commands:
            if upstream := upstream_of(command):
                purged.update(dict.fromkeys([id for id in upstream if id not in known]))
        # A task that is only removed, or named by another one, is not loaded in full, because bodies and results may be
        # many megabytes.
        state.briefs = {brief.id: brief for brief in await self._store.briefs(list(purged))} if purged else {}
        return visiting


def named(command: object) -> Sequence[str]:
    """Returns the ids of the tasks that a command's decision looks up."""
    match command:
        case cmd.ReceiveFrame():
            ids = [report.id for report in command.reports]
            for report in command.reports:
                if report.follow_ups:
                    ids += [spec.id for spec in report.follow_ups]
            for columns in command.completions:
                ids += columns.ids
            return ids
        case cmd.Submit():
            return [spec.id for spec in command.specs]
        case cmd.Cancel() | cmd.CompleteTask() | cmd.TellProgress() | cmd.RetryTask() | cmd.UpdateTask():
            return (command.id,)
        case cmd.CancelTasks() | cmd.RetryTasks():
            return [task.id for task in command.tasks]
        case cmd.TriggerSchedule():
            return (manual_id(command.name, command.request_id), *command.looked_up)
        case cmd.BackfillSchedule():
            return [tick_id(command.name, tick) for tick in command.ticks]
        case _:
            return ()


def upstream_of(command: object) -> Sequence[str]:
    """Returns the ids of the tasks after which a command schedules others."""
    # Most commands schedule none such, and pay for no list.
    groups: list[tuple[str, ...]] | None = None
    match command:
        case cmd.Submit():
            for spec in command.specs:
                if spec.after:
                    groups = groups or []
                    groups.append(spec.after)
        case cmd.ReceiveFrame():
            for report in command.reports:
                if report.follow_ups:
                    groups = groups or []
                    groups += [spec.after for spec in report.follow_ups]
                if report.continuation is not None:
                    groups = groups or []
                    groups.append(report.continuation.after)
        case _:
            pass
    return () if groups is None else list(chain.from_iterable(groups))


def holders_of_keys(state: State, commands: Iterable[object]) -> Iterator[str]:
    """Yields the ids of the tasks that have the unique keys for which these commands ask, or dependents in hand."""
    for command in commands:
        specs: Sequence[Spec] = ()
        match command:
            case cmd.Submit():
                specs = command.specs
            case cmd.ReceiveFrame():
                specs = [spec for report in command.reports if report.follow_ups for spec in report.follow_ups]
            case cmd.RetryTask() | cmd.RetryTasks():
                # They have been loaded before.
                specs = [state.tasks[id].spec for id in named(command) if id in state.tasks]
            case cmd.TriggerSchedule() | cmd.BackfillSchedule():
                schedule = state.facts.of(SCHEDULES).get(command.name)
                specs = () if schedule is None else [schedule.definition.template]
            case _:
                continue
        for spec in specs:
            if spec.unique_key and (id := unfinished_holder(state, spec.unique_key)):
                yield id
    for dependent in state.dependents.in_hand:
        # They have been loaded, too. One that was cancelled may wait again, if nobody has its key.
        task = state.tasks.get(dependent)
        if task is not None and task.spec.unique_key and (id := unfinished_holder(state, task.spec.unique_key)):
            yield id


async def _fill_timers(
    timers: Timers, page: Callable[[tuple[int, int] | None, int], Awaitable[Sequence[Timer]]]
) -> None:
    entries = await page(timers.horizon, timers.page)
    # What comes at BLOCKED_MS has no time.
    real = [entry for entry in entries if entry[0] < BLOCKED_MS]
    timers.take_in(real, complete=len(real) < timers.page)
