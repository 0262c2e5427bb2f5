"""Removes finished tasks when their time is over: by age, and by number.

Asks the store for those that finished first, which is one look at an index, and has the core remove them a batch at a
time. It looks again when the last batch was full, when more have finished than are to be kept, and now and then.

A wall clock that is wrong must not make it remove what is young: time counts here only as fast as the monotonic clock
runs, and a clock that was stepped forward is believed after SETTLE_SECONDS.
"""

from __future__ import annotations

import asyncio
from collections import deque

from msgspec import Struct

from gowork.leader.core import commands as cmd
from gowork.leader.core.model import Now
from gowork.leader.engine.loop import Engine, NotServingError
from gowork.leader.store.protocol import Store

#: Tasks that are removed in one batch: a commit that carries them is short.
BATCH_TASKS_MAX = 1_000
#: How often it looks when nothing calls for it, in seconds.
LOOK_SECONDS = 30.0
#: A task that finished less than this ago is removed by nothing but its owner, in milliseconds.
YOUNG_MS = 15 * 60 * 1000
#: How long removals are told to watchers that come back, in seconds.
TOMBSTONE_SECONDS = 3600.0
#: For so long a clock that was stepped forward by more than STEP_MS is not believed, in seconds.
SETTLE_SECONDS = 3600.0
STEP_MS = 60_000


class Kept(Struct, frozen=True):
    """How many finished tasks are kept, and for how long in seconds."""

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
        #: (monotonic time, batch): removals of batches before it have been told for so long.
        self._marks: deque[tuple[float, int]] = deque()

    async def run(self, stopped: asyncio.Event) -> None:
        """Runs until `stopped` is set."""
        while not stopped.is_set():
            try:
                more = await self.sweep()
            except NotServingError:
                # The store is full, or the leader stops.
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
        failed_tasks, tasks = self._engine.finished_tasks
        kept = self._kept
        more = False
        for failed, seconds, over in (
            (True, kept.failed_seconds, failed_tasks - kept.failed_tasks),
            (False, kept.seconds, tasks - kept.tasks),
        ):
            more |= await self._remove(failed, wall_ms, wall_ms - int(seconds * 1000), over)
        await self._forget_removals(now)
        return more

    async def _remove(self, failed: bool, wall_ms: int, old_ms: int, over: int) -> bool:
        oldest = await self._store.finished(failed, BATCH_TASKS_MAX)
        young_ms = wall_ms - YOUNG_MS
        ids = [
            task.id
            for place, task in enumerate(oldest)
            if task.finished_ms <= old_ms or (place < over and task.finished_ms <= young_ms)
        ]
        if not ids:
            return False
        await self._engine.ask(cmd.Purge(ids, finished_by_ms=max(old_ms, young_ms)))
        return len(ids) == BATCH_TASKS_MAX

    async def _forget_removals(self, now: Now) -> None:
        marks = self._marks
        if not marks or marks[-1][1] < self._engine.changed:
            marks.append((now.mono, self._engine.changed))
        before = 0
        while marks and marks[0][0] <= now.mono - TOMBSTONE_SECONDS:
            before = marks.popleft()[1]
        if before > await self._store.watch_floor():
            await self._engine.ask(cmd.Purge((), forget_before=before))


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
