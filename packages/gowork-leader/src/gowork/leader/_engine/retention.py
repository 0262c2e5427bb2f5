"""Removes finished tasks that are too old, or too many.

It asks the store for the tasks that finished first, which is one look at an index, and has the core remove them a batch
at a time. It looks again at once when the last batch was full, and otherwise every LOOK_SECONDS.

Invariant OLD-ENOUGH: a wrong wall clock must not make it remove young tasks. See `ages`. Removal by number uses no wall
clock: a task is not young if it finished in a batch that was durable YOUNG_SECONDS ago.
"""

from __future__ import annotations

import asyncio
import logging
from itertools import takewhile

from msgspec import Struct

from gowork.leader._core import commands as cmd
from gowork.leader._engine.ages import SETTLE_SECONDS, TOMBSTONE_SECONDS, YOUNG_SECONDS, Ages
from gowork.leader._engine.blocked import NotServingError
from gowork.leader._engine.loop import Engine
from gowork.leader.log.protocol import LeadershipLostError
from gowork.leader.store.protocol import Store, StoreError
from gowork.proto.limits import RETAIN_DAYS_MAX

_log = logging.getLogger(__name__)

#: How many tasks are removed in one batch, so that its commit is short.
BATCH_TASKS_MAX = 1_000
#: How long it waits between two looks when there is no more to remove, in seconds.
LOOK_SECONDS = 30.0
#: The longest time that finished tasks are kept, in seconds.
RETAIN_SECONDS_MAX = RETAIN_DAYS_MAX * 24 * 3600


_NONE_PASSED = ((0, 0), 0)


class Kept(Struct, frozen=True):
    """How many finished tasks are kept, and for how many seconds. Longer than RETAIN_DAYS_MAX counts as that."""

    tasks: int = 1_000_000
    seconds: float = 7 * 24 * 3600.0
    #: The same for tasks with status ERROR, which are counted apart.
    failed_tasks: int = 100_000
    failed_seconds: float = 14 * 24 * 3600.0


class Retention:
    """Removes finished tasks of one term's store while `run` is awaited.

    Args:
        engine: of the term.
        store: the term's store.
        kept: how many finished tasks are kept, and for how long.
        ages: what this process knows of time.
    """

    def __init__(self, engine: Engine, store: Store, kept: Kept, ages: Ages) -> None:
        self._engine = engine
        self._store = store
        self._kept = kept
        self._ages = ages
        #: {status is ERROR: when the oldest such task finished}, as of the last look; 0: there is none.
        self._first_ms = {True: 0, False: 0}
        #: {status is ERROR: the place in the order of finishing up to which all are kept, because others come after
        #: them; how many these are}
        self._passed = {True: _NONE_PASSED, False: _NONE_PASSED}
        self._released_before = 0
        #: The number of a batch: watchers are told no more of removals in earlier batches.
        self._forgotten_before = 0

    @property
    def oldest_ms(self) -> int:
        """When the oldest finished task in the store finished, as of the last look; 0: there is none."""
        return min((ms for ms in self._first_ms.values() if ms), default=0)

    async def run(self, stopped: asyncio.Event) -> None:
        """Runs until `stopped` is set."""
        while not stopped.is_set():
            try:
                more = await self.sweep()
            except (NotServingError, LeadershipLostError):
                # The store is full, the leader stops, or another one leads.
                more = False
            except StoreError:
                # The leader's next commit will show whether it may go on with this store.
                _log.warning("finished tasks could not be looked at", exc_info=True)
                more = False
            except Exception:  # noqa: BLE001 - a defect in tidying up must not end the leader
                _log.exception("finished tasks could not be removed")
                more = False
            if more:
                continue
            try:
                async with asyncio.timeout(LOOK_SECONDS):
                    await stopped.wait()
            except TimeoutError:
                pass

    async def sweep(self) -> bool:
        """Removes a batch of tasks with status ERROR and one of others. Returns whether there may be more to remove."""
        now = self._engine.now()
        wall_ms = self._ages.look(now, self._engine.changed)
        failed_tasks, tasks = self._engine.finished_tasks
        if self._engine.released != self._released_before:
            # Some of those that were passed over may be removed now.
            self._passed = {True: _NONE_PASSED, False: _NONE_PASSED}
        self._released_before = self._engine.released
        kept = self._kept
        more = False
        for failed, wanted_seconds, over in (
            (True, kept.failed_seconds, failed_tasks - kept.failed_tasks),
            (False, kept.seconds, tasks - kept.tasks),
        ):
            # Compared this way round so that a NaN keeps tasks for the longest time.
            seconds = wanted_seconds if wanted_seconds < RETAIN_SECONDS_MAX else RETAIN_SECONDS_MAX
            settled = self._ages.seconds(now) >= min(SETTLE_SECONDS, seconds)
            more |= await self._remove(failed, wall_ms - int(seconds * 1000) if settled else 0, over, now.mono)
        await self._forget_removals(now.mono)
        return more

    async def _remove(self, failed: bool, old_ms: int, over: int, mono: float) -> bool:
        grown = self._ages.batch_at(mono - YOUNG_SECONDS)
        after, passed = self._passed[failed]
        first = await self._store.finished(failed, BATCH_TASKS_MAX, after)
        if not passed:
            self._first_ms[failed] = first[0].finished_ms if first else 0
        # Those that are kept must not hide those behind them.
        kept = list(takewhile(lambda task: self._engine.keeps(task.id, task.seq), first))
        if kept:
            self._passed[failed] = (kept[-1].changed, kept[-1].seq), passed + len(kept)
        leaving = [
            task
            for place, task in enumerate(first, passed)
            if (task.finished_ms <= old_ms or (place < over and task.changed <= grown))
            and not self._engine.keeps(task.id, task.seq)
        ]
        if not leaving:
            return len(kept) == BATCH_TASKS_MAX
        # A task that ran again meanwhile finished after `last_ms`, or has not finished, and so stays.
        last_ms = max(task.finished_ms for task in leaving)
        await self._engine.ask(cmd.Purge([task.id for task in leaving], finished_by_ms=last_ms))
        return len(first) == BATCH_TASKS_MAX

    async def _forget_removals(self, mono: float) -> None:
        before = self._ages.batch_at(mono - TOMBSTONE_SECONDS) + 1
        if before <= max(self._forgotten_before, 1):
            return
        while True:
            # In steps, because the tombstones of a day's removals would make one commit too long.
            numbers = [number for number, _ in await self._store.deleted_since(0, BATCH_TASKS_MAX) if number < before]
            if not numbers:
                break
            await self._engine.ask(cmd.Purge((), forget_before=numbers[-1] + 1))
        self._forgotten_before = before
