"""A leader among several: it follows the log until it is elected, leads a term, and follows again."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable
from typing import TypeVar

import msgspec

from gowork.leader._app.early_ending import EarlyEnding
from gowork.leader._app.node import Addresses, Node
from gowork.leader._app.term import Term
from gowork.leader._core.state import Settings
from gowork.leader._engine.clock import SystemClock
from gowork.leader._engine.counts import Counts
from gowork.leader._engine.retention import Kept
from gowork.leader._replication import announcement
from gowork.leader._replication.announcement import Announcement
from gowork.leader._replication.candidacy import Candidacy, join
from gowork.leader._rpc.copying import fetch_copy
from gowork.leader._version import __version__
from gowork.leader.log.protocol import Leader, LeadershipLostError, Log, LogUnreachableError
from gowork.leader.store.protocol import LoggedStore, Opened

_log = logging.getLogger(__name__)

_T = TypeVar("_T")

#: How long to wait before the log, or another leader, is tried again, in seconds.
AGAIN_SECONDS = 1.0


class Stopped(Exception):
    """The process is to stop."""


class Standby:
    """Follows, leads and follows again, until the process is to stop.

    Args:
        node: answers on the ports.
        store: is not opened yet.
        log: is not opened yet.
        counts: counts what happens.
        settings: spans and bounds.
        kept: how many finished tasks are kept, and for how long.
        name: the leader's name among the others.
        advertised: where the others, workers and clients reach it.
    """

    def __init__(
        self,
        node: Node,
        store: LoggedStore,
        log: Log,
        counts: Counts,
        settings: Settings,
        kept: Kept,
        *,
        name: str,
        advertised: Addresses,
    ) -> None:
        self._node = node
        self._store = store
        self._log = log
        self._counts = counts
        self._settings = settings
        self._kept = kept
        self._name = name
        self._advertised = advertised
        self._early_ending = EarlyEnding(log)
        self._stopped = asyncio.Event()

    async def run(self, stopped: asyncio.Event) -> None:
        """Runs until `stopped` is set.

        Raises:
            StoreError, LogError, ChainError, NewerFormatError: this leader can't go on.
        """
        self._stopped = stopped
        try:
            await self._unless_stopped(self._reach_log())
            opened = await self._unless_stopped(self._open_store())
            own = Announcement(
                self._name,
                self._advertised.cluster,
                self._advertised.scheduler,
                self._advertised.http,
                opened.store_id,
                __version__,
            )
            candidacy = Candidacy(self._store, self._log, announcement.encode(own), __version__, _wall_ms, self._told)
            while True:
                journal, leadership = await self._unless_stopped(candidacy.elected())
                term = Term(self._store, self._counts, self._settings, self._kept, journal)
                try:
                    await self._node.lead(term, ended=leadership.lost)
                except* LeadershipLostError:
                    _log.warning("leads no more", extra={"term": leadership.leader.term})
                finally:
                    await leadership.resign()
        except Stopped:
            return
        finally:
            self._early_ending.watch(None)
            await self._store.close()
            await self._log.close()

    def _told(self, leader: Leader | None) -> None:
        """Is told who leads; not of this leader's own terms."""
        self._early_ending.watch(leader)
        if leader is None:
            self._node.follow(None)
            return
        try:
            found = announcement.decode(leader.announcement)
        except msgspec.MsgspecError as error:
            _log.warning("leader can't be reached", extra={"term": leader.term, "reason": str(error)})
            self._node.follow(None)
            return
        _log.info("follows", extra={"leader": found.name, "term": leader.term, "address": found.cluster})
        self._node.follow(Addresses(found.cluster, found.scheduler, found.http))

    async def _reach_log(self) -> None:
        while True:
            try:
                await self._log.open()
            except LogUnreachableError as error:
                self._node.wait_for(f"the log can't be reached: {error}")
                _log.warning("log can't be reached", extra={"reason": str(error)})
                await asyncio.sleep(AGAIN_SECONDS)
            else:
                return

    async def _open_store(self) -> Opened:
        """Opens the store, and has it belong to the log. A new one gets a copy of the leader's."""
        generation = await self._log.generation()
        opened = await self._store.open_logged(generation.id if generation else None)
        while True:
            joined = await join(self._store, opened, self._log)
            if joined is not None:
                return joined
            self._node.wait_for("this leader takes a copy of another leader's store")
            opened = await self._copied()

    async def _copied(self) -> Opened:
        await self._store.close()
        # It is empty, or `join` would not have asked for a copy.
        aside = await self._store.set_aside()
        await asyncio.to_thread(aside.unlink)
        await fetch_copy(self._log, self._store)
        generation = await self._log.generation()
        return await self._store.open_logged(generation.id if generation else None)

    async def _unless_stopped(self, doing: Awaitable[_T]) -> _T:
        """Returns what this returns.

        Raises:
            Stopped: the process is to stop.
        """
        task = asyncio.ensure_future(doing)
        stopping = asyncio.ensure_future(self._stopped.wait())
        try:
            await asyncio.wait({task, stopping}, return_when=asyncio.FIRST_COMPLETED)
            if task.done():
                return task.result()
            raise Stopped
        finally:
            for each in (task, stopping):
                each.cancel()
            await asyncio.wait({task, stopping})


def _wall_ms() -> int:
    return SystemClock().now().wall_ms
