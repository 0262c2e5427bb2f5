"""Removes finished tasks when their time is over: by age, and by number.

Asks the store for those that finished first, which is one look at an index, and has the core remove them a batch at a
time. It looks again when the last batch was full, when more have finished than are to be kept, and now and then.

Invariant OLD-ENOUGH: a wall clock that is wrong must not make it remove what is young. Ages count only as fast as the
monotonic clock runs, a clock that was stepped forward is believed after SETTLE_SECONDS, and so is the one that a
leader starts with. The number goes by no wall clock: what finished up to a batch that was there YOUNG_SECONDS ago is
not young, so that it, too, removes nothing in the first minutes of a leader.
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

#: Tasks that are removed in one batch: a commit that carries them is short.
BATCH_TASKS_MAX = 1_000
#: How often it looks when nothing calls for it, in seconds.
LOOK_SECONDS = 30.0
#: A task that finished less than this ago is not removed for its number, in seconds.
YOUNG_SECONDS = 15 * 60.0
#: How long removals are told to watchers that come back, in seconds.
TOMBSTONE_SECONDS = 3600.0
#: For so long a clock that was stepped forward by more than STEP_MS is not believed, in seconds; and one at a start, or
#: for the age that it is about, when that is less.
SETTLE_SECONDS = 3600.0
STEP_MS = 60_000
#: The longest time that finished tasks are kept, in seconds.
RETAIN_SECONDS_MAX = RETAIN_DAYS_MAX * 24 * 3600


class Kept(Struct, frozen=True):
    """How many finished tasks are kept, and for how long in seconds; longer than RETAIN_DAYS_MAX counts as that."""

    tasks: int = 1_000_000
    seconds: float = 7 * 24 * 3600.0
    #: Those with status ERROR, on a budget of their own.
    failed_tasks: int = 100_000
    failed_seconds: float = 14 * 24 * 3600.0


class Retention:
    """Await `run`."""

    def __init__(self, engine: Engine, store: Store, kept: Kept) -> None:
        self._engine = engine
        self._store = store
        self._kept = kept
        self._clock = CautiousClock()
        #: When it looked first, by the monotonic clock.
        self._since: float | None = None
        #: (monotonic time, the last batch then), oldest first.
        self._marks: deque[tuple[float, int]] = deque()
        #: {failed or not: when the first of those that are kept finished}, as of the last look; 0: there is none.
        self._first_ms = {True: 0, False: 0}
        #: Removals before this batch are told no more.
        self._forgotten_before = 0

    @property
    def oldest_ms(self) -> int:
        """When the oldest finished task that is kept finished, as of the last look; 0: there is none."""
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
                # Whether the leader may go on with this store is for its commits to find out.
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
        """Removes one batch of each kind; whether there may be more to remove."""
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
            # Written so that a NaN keeps everything for as long as may be.
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
        # One that ran again meanwhile has finished later, or not yet.
        last_ms = max(task.finished_ms for task in leaving)
        await self._engine.ask(cmd.Purge([task.id for task in leaving], finished_by_ms=last_ms))
        return len(leaving) == BATCH_TASKS_MAX

    async def _forget_removals(self, mono: float) -> None:
        before = self._batch_at(mono - TOMBSTONE_SECONDS) + 1
        if before <= max(self._forgotten_before, 1):
            return
        while True:
            # In steps: what a day's removals have left would hold a commit up.
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
        # The last one that is older than anyone asks for is still needed.
        while len(marks) > 1 and marks[1][0] <= mono - max(YOUNG_SECONDS, TOMBSTONE_SECONDS):
            marks.popleft()

    def _batch_at(self, mono: float) -> int:
        """The last batch at this time, or one somewhat before; 0 when nothing is known of it."""
        return max((number for at, number in self._marks if at <= mono), default=0)


class CautiousClock:
    """The wall clock, without steps forward until they have lasted."""

    def __init__(self) -> None:
        #: What the wall clock is ahead of the monotonic one, as it is believed.
        self._believed_ms: int | None = None
        self._doubted_since = 0.0

    def wall_ms(self, now: Now) -> int:
        """The time, in milliseconds since the Unix epoch."""
        ahead_ms = now.wall_ms - int(now.mono * 1000)
        if self._believed_ms is None or ahead_ms <= self._believed_ms + STEP_MS:
            self._believed_ms, self._doubted_since = ahead_ms, 0.0
        elif not self._doubted_since:
            self._doubted_since = now.mono
        elif now.mono - self._doubted_since >= SETTLE_SECONDS:
            self._believed_ms, self._doubted_since = ahead_ms, 0.0
        return int(now.mono * 1000) + self._believed_ms
