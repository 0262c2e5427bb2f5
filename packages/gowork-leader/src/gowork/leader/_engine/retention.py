"""Removes finished tasks that are too old, or too many.

It asks the store for the tasks that finished first, which is one look at an index, and has the core remove them a batch
at a time. It looks again at once when the last batch was full, and otherwise every LOOK_SECONDS.

Invariant OLD-ENOUGH: a wrong wall clock must not make it remove young tasks. Ages grow only as fast as the monotonic
clock. A wall clock that was stepped forward is believed after SETTLE_SECONDS, and so is the one that a leader starts
with. Removal by number uses no wall clock: a task is not young if it finished in a batch that was durable YOUNG_SECONDS
ago. So that, too, removes nothing in the first minutes of a leader.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque

from msgspec import Struct

from gowork.leader._core import commands as cmd
from gowork.leader._core.model import Now
from gowork.leader._engine.blocked import NotServingError
from gowork.leader._engine.loop import Engine
from gowork.leader.store.protocol import Store, StoreError
from gowork.proto.limits import RETAIN_DAYS_MAX

_log = logging.getLogger(__name__)

#: How many tasks are removed in one batch, so that its commit is short.
BATCH_TASKS_MAX = 1_000
#: How long it waits between two looks when there is no more to remove, in seconds.
LOOK_SECONDS = 30.0
#: A task that finished less than this ago, in seconds, is not removed because of the number.
YOUNG_SECONDS = 15 * 60.0
#: For how long watchers that come back are told of removals, in seconds.
TOMBSTONE_SECONDS = 3600.0
#: For how long a clock that was stepped forward by more than STEP_MS is not believed, in seconds. The clock at a start
#: is not believed for as long, or for the age at which tasks are removed if that is less.
SETTLE_SECONDS = 3600.0
STEP_MS = 60_000
#: The longest time that finished tasks are kept, in seconds.
RETAIN_SECONDS_MAX = RETAIN_DAYS_MAX * 24 * 3600


class Kept(Struct, frozen=True):
    """How many finished tasks are kept, and for how many seconds. Longer than RETAIN_DAYS_MAX counts as that."""

    tasks: int = 1_000_000
    seconds: float = 7 * 24 * 3600.0
    #: The same for tasks with status ERROR, which are counted apart.
    failed_tasks: int = 100_000
    failed_seconds: float = 14 * 24 * 3600.0


class Retention:
    """Removes finished tasks of one term's store while `run` is awaited."""

    def __init__(self, engine: Engine, store: Store, kept: Kept) -> None:
        self._engine = engine
        self._store = store
        self._kept = kept
        self._clock = CautiousClock()
        #: When it first looked, in monotonic seconds.
        self._since: float | None = None
        #: (monotonic time, the number of the last batch then), oldest first.
        self._marks: deque[tuple[float, int]] = deque()
        #: {status is ERROR: when the oldest such task finished}, as of the last look; 0: there is none.
        self._first_ms = {True: 0, False: 0}
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
            except NotServingError:
                # The store is full, or the leader stops.
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
        wall_ms = self._clock.wall_ms(now)
        self._mark(now.mono)
        failed_tasks, tasks = self._engine.finished_tasks
        kept = self._kept
        more = False
        for failed, wanted_seconds, over in (
            (True, kept.failed_seconds, failed_tasks - kept.failed_tasks),
            (False, kept.seconds, tasks - kept.tasks),
        ):
            # Compared this way round so that a NaN keeps tasks for the longest time.
            seconds = wanted_seconds if wanted_seconds < RETAIN_SECONDS_MAX else RETAIN_SECONDS_MAX
            settled = self._since is not None and now.mono - self._since >= min(SETTLE_SECONDS, seconds)
            more |= await self._remove(failed, wall_ms - int(seconds * 1000) if settled else 0, over, now.mono)
        await self._forget_removals(now.mono)
        return more

    async def _remove(self, failed: bool, old_ms: int, over: int, mono: float) -> bool:
        grown = self._batch_at(mono - YOUNG_SECONDS)
        first = await self._store.finished(failed, BATCH_TASKS_MAX)
        self._first_ms[failed] = first[0].finished_ms if first else 0
        leaving = [
            task
            for place, task in enumerate(first)
            if task.finished_ms <= old_ms or (place < over and task.changed <= grown)
        ]
        if not leaving:
            return False
        # A task that ran again meanwhile finished after `last_ms`, or has not finished, and so stays.
        last_ms = max(task.finished_ms for task in leaving)
        await self._engine.ask(cmd.Purge([task.id for task in leaving], finished_by_ms=last_ms))
        return len(leaving) == BATCH_TASKS_MAX

    async def _forget_removals(self, mono: float) -> None:
        before = self._batch_at(mono - TOMBSTONE_SECONDS) + 1
        if before <= max(self._forgotten_before, 1):
            return
        while True:
            # In steps, because the tombstones of a day's removals would make one commit too long.
            numbers = [number for number, _ in await self._store.deleted_since(0, BATCH_TASKS_MAX) if number < before]
            if not numbers:
                break
            await self._engine.ask(cmd.Purge((), forget_before=numbers[-1] + 1))
        self._forgotten_before = before

    def _mark(self, mono: float) -> None:
        if self._since is None:
            self._since = mono
        marks = self._marks
        if not marks or marks[-1][1] < self._engine.changed:
            marks.append((mono, self._engine.changed))
        # The latest mark that is older than any time that is asked for is still needed.
        while len(marks) > 1 and marks[1][0] <= mono - max(YOUNG_SECONDS, TOMBSTONE_SECONDS):
            marks.popleft()

    def _batch_at(self, mono: float) -> int:
        """Returns the number of the last batch at this time, or of a slightly earlier one; 0 when it is not known."""
        return max((number for at, number in self._marks if at <= mono), default=0)


class CautiousClock:
    """The wall clock, except that a step forward counts only after SETTLE_SECONDS."""

    def __init__(self) -> None:
        #: How far the wall clock is believed to be ahead of the monotonic one.
        self._believed_ms: int | None = None
        #: Since when the wall clock has been further ahead, in monotonic seconds; 0: it is not.
        self._doubted_since = 0.0

    def wall_ms(self, now: Now) -> int:
        """Returns the time that is believed, in milliseconds since the Unix epoch."""
        ahead_ms = now.wall_ms - int(now.mono * 1000)
        if self._believed_ms is None or ahead_ms <= self._believed_ms + STEP_MS:
            self._believed_ms, self._doubted_since = ahead_ms, 0.0
        elif not self._doubted_since:
            self._doubted_since = now.mono
        elif now.mono - self._doubted_since >= SETTLE_SECONDS:
            self._believed_ms, self._doubted_since = ahead_ms, 0.0
        return int(now.mono * 1000) + self._believed_ms
