"""A leader among several: it follows the log until it is elected, leads a term, and follows again."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import msgspec
from msgspec.structs import replace

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
from gowork.leader._rpc.leaders import Leaders
from gowork.leader._rpc.services import LEADERS, REMOVE_LEADER
from gowork.leader._version import __version__
from gowork.leader.log.protocol import Leader, Leadership, LeadershipLostError, Log, LogUnreachableError
from gowork.leader.store.protocol import LoggedStore, Opened

_log = logging.getLogger(__name__)

_T = TypeVar("_T")

#: How long to wait before the log, or another leader, is tried again, in seconds.
AGAIN_SECONDS = 1.0


def announced(name: str, advertised: Addresses) -> Announcement:
    """Returns what a leader says of itself before its store is open."""
    return Announcement(name, advertised.cluster, advertised.scheduler, advertised.http, "", __version__)


class Stopped(Exception):
    """The process is to stop."""


class Presence:
    """What this process does in the log: how far its store has come, and which term leads here.

    Args:
        candidacy: knows the replica.
    """

    def __init__(self, candidacy: Candidacy) -> None:
        self._candidacy = candidacy
        #: See OwnTerms.led.
        self.led = 0
        self._stepping_down = asyncio.Event()

    @property
    def applied(self) -> int:
        """See OwnTerms.applied."""
        replica = self._candidacy.replica
        return 0 if replica is None else replica.position.index

    def step_down(self) -> None:
        """See OwnTerms.step_down."""
        self._candidacy.give_way()
        self._stepping_down.set()

    @contextmanager
    def leading(self, leadership: Leadership) -> Iterator[asyncio.Event]:
        """A term leads here while it is entered. Yields what is set when it is to step down."""
        self.led, self._stepping_down = leadership.leader.term, asyncio.Event()
        try:
            yield self._stepping_down
        finally:
            self.led = 0


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
            own = replace(announced(self._name, self._advertised), store_id=opened.store_id)

            def announce(stood_ms: int) -> bytes:
                return announcement.encode(replace(own, stood_ms=stood_ms))

            candidacy = Candidacy(self._store, self._log, announce, __version__, _wall_ms, self._told)
            presence = Presence(candidacy)
            leaders = Leaders(self._log, own, presence, _wall_ms)
            self._node.answer({LEADERS: leaders.Leaders, REMOVE_LEADER: leaders.RemoveLeader})
            while True:
                journal, leadership = await self._unless_stopped(candidacy.elected())
                term = Term(self._store, self._counts, self._settings, self._kept, journal, own=own, leaders=leaders)
                try:
                    with presence.leading(leadership) as stepping_down:
                        await self._node.lead(term, ended=(leadership.lost, stepping_down))
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
