"""What each leader does for its store beside following or leading: it forces it to disk, and registers it.

The log is pruned by what the registered stores have forced. So a store says how much it has forced only when that is
so, and registers only when it has forced for the first time.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from contextlib import suppress

from gowork.leader._replication.announcement import Announcement
from gowork.leader._replication.comparison import Comparison
from gowork.leader._replication.registers import PREFIX, Registration, encode
from gowork.leader._replication.weight import Weight
from gowork.leader.log import entries
from gowork.leader.log.protocol import Log, LogError, LogFullError
from gowork.leader.store.protocol import LoggedStore, StoreBlockedError

_log = logging.getLogger(__name__)

#: A store is forced again when it has applied FORCE_BYTES since the last time, and at the latest after FORCE_SECONDS.
FORCE_BYTES = 32 << 20
FORCE_SECONDS = 30.0
#: A store is registered again when it was forced, and at the latest after this time, in seconds.
REGISTER_SECONDS = 10.0
#: How long to wait before what failed is tried again, in seconds.
AGAIN_SECONDS = 1.0


class Upkeep:
    """Forces and registers one store for as long as `run` is awaited.

    Args:
        store: belongs to the log, and is open.
        log: is open.
        leader: what this leader says of itself.
        weight: has counted all that the store has applied.
        comparison: makes the store's digests.
        wall_ms: returns the time in wall-clock milliseconds.
        gone: the ids of stores that this leader had before. They are registered no more.
        told_full: is called with what the log says when it is full, and with None when it no longer is.
    """

    def __init__(
        self,
        store: LoggedStore,
        log: Log,
        leader: Announcement,
        weight: Weight,
        comparison: Comparison,
        wall_ms: Callable[[], int],
        *,
        gone: Iterable[str] = (),
        told_full: Callable[[str | None], None] = lambda full: None,
    ) -> None:
        self._store = store
        self._log = log
        self._leader = leader
        self._weight = weight
        self._comparison = comparison
        self._wall_ms = wall_ms
        self._gone = set(gone)
        self._told_full = told_full
        #: The index up to which the store was forced; None: it is not known yet.
        self.forced: int | None = None
        self._is_news = asyncio.Event()
        #: Why it could not be registered the last time; empty: it could.
        self._not_registered = ""

    async def run(self) -> None:
        """Runs until it is cancelled.

        Raises:
            ExceptionGroup: with a StoreError: the store can't be forced, so the leader must stop.
        """
        async with asyncio.TaskGroup() as group:
            group.create_task(self._keep_forced(), name="force")
            group.create_task(self._keep_registered(), name="register")
            group.create_task(self._tell_digests(), name="register digests")

    async def _keep_forced(self) -> None:
        while True:
            # Counted before, because what is applied meanwhile may not be forced.
            passed = self._weight.passed
            try:
                self.forced = (await self._store.force()).index
            except StoreBlockedError as error:
                _log.warning("store not forced to disk", extra={"reason": str(error)})
            else:
                self._is_news.set()
            with suppress(TimeoutError):
                async with asyncio.timeout(FORCE_SECONDS):
                    await self._weight.until(passed + FORCE_BYTES)
            # Under any load, and when it is blocked, there is a pause.
            await asyncio.sleep(AGAIN_SECONDS)

    async def _tell_digests(self) -> None:
        """Has the store registered as soon as it has another digest."""
        while True:
            await self._comparison.made.wait()
            self._comparison.made.clear()
            self._is_news.set()

    async def _keep_registered(self) -> None:
        while self.forced is None:
            await self._is_news.wait()
            self._is_news.clear()
        while True:
            self._is_news.clear()
            is_registered = await self._register()
            with suppress(TimeoutError):
                async with asyncio.timeout(REGISTER_SECONDS if is_registered else AGAIN_SECONDS):
                    await self._is_news.wait()

    async def _register(self) -> bool:
        assert self.forced is not None
        # What was forced was applied, though it may not have been counted yet.
        applied = max(self._weight.last, self.forced)
        has_room = await self._store.has_room()
        registration = Registration(
            self._leader,
            applied,
            self.forced,
            self._wall_ms(),
            entries.FORMAT,
            has_room,
            self._comparison.checked,
            self._comparison.digest,
        )
        try:
            for store_id in sorted(self._gone):
                await self._log.drop_note(PREFIX + store_id)
                self._gone.discard(store_id)
            await self._log.put_note(registration.key(), encode(registration))
        except LogError as error:
            if str(error) != self._not_registered:
                # It is tried each second, for as long as the log can't be reached.
                self._not_registered = str(error)
                _log.warning("store not registered in the log", extra={"reason": str(error)})
            if isinstance(error, LogFullError):
                self._told_full(str(error))
            return False
        self._not_registered = ""
        self._told_full(None)
        return True
