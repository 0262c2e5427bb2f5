"""Keeps the log small while a leader leads: it removes what most stores have forced to disk.

Invariant MOST-HAVE: an entry is removed only when a majority of the registered stores has forced it, or, where leaders
share snapshots, when the newest snapshot and the store that leads have it. A snapshot is waited for, so that the log
and it have everything even if all leaders' disks are lost. The exception is a log that has grown to LOG_BYTES_MAX. Then
it is removed as without snapshots. If no majority has forced it either, one copy of it is left, that of the store that
leads, and readiness says so. Or, if that was chosen, nothing is removed and nothing more is written.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from contextlib import aclosing, suppress

from gowork.leader._core.model import Now
from gowork.leader._replication.journal import LoggedJournal
from gowork.leader._replication.pins import pins
from gowork.leader._replication.registers import ABSENT_MS, Registration, forced_by_most, registered
from gowork.leader._replication.weight import Weight
from gowork.leader.log.protocol import Leadership, Log, LogError, Span
from gowork.leader.store.protocol import LoggedStore, StoreBlockedError, StoreError

_log = logging.getLogger(__name__)

#: How many bytes of entries the log has at most, if that can be had.
LOG_BYTES_MAX = 256 << 20
#: A registered store that lacks no more than this is waited for, in bytes, so that it needs no copy when it comes back.
BEHIND_BYTES_MAX = 64 << 20
#: It looks again when LOOK_BYTES were appended, and at the latest after LOOK_SECONDS.
LOOK_SECONDS = 10.0
LOOK_BYTES = 16 << 20
#: A store whose registration has changed within this time is not absent, whatever the clocks say, in seconds.
SILENT_SECONDS = 60.0


class Pruning:
    """Prunes the log of one term while `run` is awaited.

    Args:
        log: is open.
        leadership: the right to prune.
        store: the store that leads.
        store_id: its id.
        journal: refuses batches when it is told to.
        weight: counts what is appended.
        now: returns the time.
        may_be_one_copy: whether the log is pruned at LOG_BYTES_MAX though most stores lack its entries. Otherwise
            nothing more is written.
        shared: returns the index up to which a shared snapshot has everything, 0 without one; None: leaders share no
            snapshots.
        tell: is called with words for people when only one store has what was pruned, or nothing is written any more,
            and with None when that is over.
    """

    def __init__(
        self,
        log: Log,
        leadership: Leadership,
        store: LoggedStore,
        store_id: str,
        journal: LoggedJournal,
        weight: Weight,
        now: Callable[[], Now],
        *,
        may_be_one_copy: bool = True,
        shared: Callable[[], int] | None = None,
        tell: Callable[[str | None], None] = lambda words: None,
    ) -> None:
        self._log = log
        self._leadership = leadership
        self._store = store
        self._store_id = store_id
        self._journal = journal
        self._weight = weight
        self._now = now
        self._may_be_one_copy = may_be_one_copy
        self._shared = shared
        self._tell = tell
        #: {store id: its registration as it was seen last, and since when it has been so, in monotonic seconds}
        self._seen: dict[str, tuple[Registration, float]] = {}
        self._words: str | None = None

    async def run(self, stopped: asyncio.Event) -> None:
        """Runs until `stopped` is set."""
        try:
            while not stopped.is_set():
                # Counted before, because what is appended meanwhile was not looked at.
                passed = self._weight.passed
                try:
                    await self.look()
                except (LogError, StoreBlockedError) as error:
                    # If the leadership is over, the term ends by itself.
                    _log.warning("log not pruned", extra={"reason": str(error)})
                await self._wait(stopped, passed + LOOK_BYTES)
        finally:
            # Another term, here or elsewhere, finds out anew.
            self._say(None)
            with suppress(StoreError):
                await self._store.force_each(False)

    async def look(self) -> None:
        """Prunes what can be pruned now.

        Raises:
            LogError, StoreBlockedError: later perhaps.
        """
        span = await self._log.span()
        await self._count(span)
        registrations = await self._drop_absent(await registered(self._log))
        if self._store_id not in registrations:
            # A majority of the others alone might be one store.
            return
        most = forced_by_most(registrations.values())
        wanted = most if self._shared is None else min(self._shared(), registrations[self._store_id].forced)
        keep = self._kept_for_others(wanted, span.first - 1, registrations, await pins(self._log))
        most = max(most, wanted)
        if self._weight.after(keep) > LOG_BYTES_MAX:
            keep = most
        held = self._weight.after(max(keep, span.first - 1))
        is_full = held > LOG_BYTES_MAX
        self._journal.refused = ""
        if is_full and not self._may_be_one_copy:
            self._journal.refused = (
                f"the log has {held >> 20} MiB that most leaders' stores lack, and --one-copy refuse was chosen: start "
                f"the other leaders, or remove those that are gone with `gowork leaders remove`"
            )
            self._say(self._journal.refused)
        else:
            await self._set_one_copy(is_full or most < span.first - 1)
            if is_full:
                keep = max(keep, (await self._store.force()).index)
        if keep >= span.first:
            # What it removed counts no more at the next look, because the log keeps its last entry.
            await self._leadership.prune(keep + 1)

    def _kept_for_others(
        self, wanted: int, gone: int, registrations: Mapping[str, Registration], pinned: list[int]
    ) -> int:
        """Returns up to where the log can be pruned without a loss to stores that are a little behind, or copied.

        Args:
            wanted: up to where a majority has forced the log, or a shared snapshot has everything.
            gone: up to where it is pruned already. A store that lacks such entries needs a copy in any case.
            registrations: {store id: its registration}
            pinned: the pins.
        """
        behind = [
            each.forced
            for each in registrations.values()
            if each.forced >= gone and self._weight.after(each.forced) <= BEHIND_BYTES_MAX
        ]
        return min([wanted, *behind, *(max(pin, gone) for pin in pinned)])

    async def _count(self, span: Span) -> None:
        """Counts what the log has, if this leader has not seen all of it pass."""
        self._weight.drop(span.first)
        first = self._weight.first
        if span.first >= first:
            return
        older = Weight(span.first - 1)
        async with aclosing(self._log.follow(span.first - 1)) as pages:
            async for page in pages:
                for entry in page:
                    if entry.index < first:
                        older.add(entry.index, len(entry.data))
                if older.last >= first - 1:
                    break
        self._weight.put_before(older)

    async def _drop_absent(self, registrations: dict[str, Registration]) -> dict[str, Registration]:
        """Removes the registrations of stores that were absent for too long. Returns the others.

        The clocks of machines may differ. So a store whose registration changes is there, whatever its clock says.
        """
        now = self._now()
        seen, self._seen = self._seen, {}
        for store_id, each in registrations.items():
            before = seen.get(store_id)
            self._seen[store_id] = before if before is not None and before[0] == each else (each, now.mono)
        absent = {
            store_id
            for store_id, (each, since) in self._seen.items()
            if store_id != self._store_id
            and now.wall_ms - each.seen_ms > ABSENT_MS
            and now.mono - since >= SILENT_SECONDS
        }
        for store_id in sorted(absent):
            each = registrations[store_id]
            _log.warning("store counts no more", extra={"leader": each.leader.name, "store": store_id})
            await self._log.drop_note(each.key())
        return {store_id: each for store_id, each in registrations.items() if store_id not in absent}

    async def _set_one_copy(self, is_one_copy: bool) -> None:
        # Also when nothing changes, because the store may have been opened anew.
        await self._store.force_each(is_one_copy)
        if not is_one_copy:
            self._say(None)
            return
        self._say(
            "one copy: most leaders' stores lack entries that the log has no more; start the other leaders, so that "
            "they take copies"
        )

    def _say(self, words: str | None) -> None:
        if words == self._words:
            return
        if words is not None:
            _log.error("log is full of what most stores lack", extra={"reason": words})
        else:
            _log.info("most stores have what the log has no more")
        self._words = words
        self._tell(words)

    async def _wait(self, stopped: asyncio.Event, passed: int) -> None:
        waits = [asyncio.ensure_future(stopped.wait()), asyncio.ensure_future(self._weight.until(passed))]
        try:
            await asyncio.wait(waits, timeout=LOOK_SECONDS, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for each in waits:
                each.cancel()
            await asyncio.wait(waits)
