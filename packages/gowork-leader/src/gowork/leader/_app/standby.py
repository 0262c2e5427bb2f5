"""A leader among several: it follows the log until it is elected, leads a term, and follows again."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable
from functools import partial
from typing import TypeVar

import msgspec
from msgspec.structs import replace

from gowork.leader._app.early_ending import EarlyEnding
from gowork.leader._app.equipment import Equipment
from gowork.leader._app.fitting import Fitting, ReplacedError
from gowork.leader._app.node import Addresses, Node
from gowork.leader._app.presence import COPIES, LOG, SNAPSHOTS, Presence
from gowork.leader._app.term import Term
from gowork.leader._core.model import Now
from gowork.leader._engine.ages import Ages
from gowork.leader._engine.clock import SystemClock
from gowork.leader._engine.retention import LOOK_SECONDS
from gowork.leader._replication import announcement
from gowork.leader._replication.announcement import Announcement
from gowork.leader._replication.candidacy import Candidacy
from gowork.leader._replication.checks import Checks
from gowork.leader._replication.comparison import Comparison
from gowork.leader._replication.formats import Formats
from gowork.leader._replication.log_watch import LogWatch
from gowork.leader._replication.pruning import Pruning
from gowork.leader._replication.relief import Relief
from gowork.leader._replication.snapshots import Snapshots
from gowork.leader._replication.upkeep import Upkeep
from gowork.leader._replication.weight import Weight
from gowork.leader._rpc.copies import Copies
from gowork.leader._rpc.leaders import Leaders
from gowork.leader._rpc.services import COPY_STORE, LEADERS, REMOVE_LEADER
from gowork.leader._snapshots.places import SnapshotPlace
from gowork.leader._version import __version__
from gowork.leader.log.entries import ChainError, OtherGenerationError
from gowork.leader.log.protocol import (
    Leader,
    LeadershipLostError,
    Log,
    LogFullError,
    LogRefusedError,
    PrunedError,
)
from gowork.leader.store.protocol import (
    LoggedStore,
    StoreBlockedError,
    StoreDamagedError,
    StoreEntryError,
    StoreError,
)

_log = logging.getLogger(__name__)

_T = TypeVar("_T")

#: How often it looks whether the store holds what most stores hold, in seconds.
JUDGE_SECONDS = 5.0
#: How long to wait before the next election when a term could not begin, in seconds. Each one uses up a term.
BLOCKED_SECONDS = 10.0


def announced(name: str, advertised: Addresses) -> Announcement:
    """Returns what a leader says of itself before its store is open."""
    return Announcement(name, advertised.cluster, advertised.scheduler, advertised.http, "", __version__)


class Stopped(Exception):
    """The process is to stop."""


class _DivergedError(Exception):
    """The store is not what the log makes. The message says where."""


class Standby:
    """Follows, leads and follows again, until the process is to stop.

    Args:
        node: answers on the ports.
        store: is not opened yet.
        log: is not opened yet.
        equipment: what each of its terms needs besides the store.
        name: the leader's name among the others.
        advertised: where the others, workers and clients reach it.
        may_be_one_copy: see Pruning.
        place: where the leaders share snapshots; None: they share none.
    """

    def __init__(
        self,
        node: Node,
        store: LoggedStore,
        log: Log,
        equipment: Equipment,
        *,
        name: str,
        advertised: Addresses,
        may_be_one_copy: bool = True,
        place: SnapshotPlace | None = None,
    ) -> None:
        self._node = node
        self._store = store
        self._log = log
        self._equipment = equipment
        self._name = name
        self._advertised = advertised
        self._may_be_one_copy = may_be_one_copy
        self._place = place
        self._copies = Copies(store)
        self._early_ending = EarlyEnding(log, equipment.tls)
        self._fitting = Fitting(node, store, log, self._told, place=place, tls=equipment.tls)
        self._ages = Ages()
        #: Follows and leads; None before the store is open.
        self._candidacy: Candidacy | None = None
        #: What it does in the log; None before the store is open.
        self._presence: Presence | None = None
        #: The ids of stores that were set aside.
        self._gone: set[str] = set()
        #: What something is remarked about now.
        self._remarked: set[str] = set()
        #: Since when nobody leads, by the engine's clock; None: somebody does.
        self._leaderless_mono: float | None = None
        #: How often the store was found to differ from the others.
        self._diverged = 0
        self._stopped = asyncio.Event()

    async def run(self, stopped: asyncio.Event) -> None:
        """Runs until `stopped` is set.

        Raises:
            StoreError, LogError, ChainError, NewerFormatError: this leader can't go on.
        """
        self._stopped = stopped
        try:
            await self._unless_stopped(self._fitting.reached(self._log.open))
            while (unfit := await self._take_part()) is not None:
                self._copies.drop()
                await self._unless_stopped(self._fitting.replace(unfit))
        except Stopped:
            return
        finally:
            self._early_ending.watch(None)
            self._copies.drop()
            await self._store.close()
            await self._log.close()
            if self._place is not None:
                await self._place.close()

    async def _take_part(self) -> BaseException | None:
        """Follows and leads until the process is to stop, which returns None, or until the store is no longer fit.

        Returns:
            Why the store can't follow the log any more, though a copy of another leader's could.
        """
        unfit: list[BaseException] = []
        store_id = ""
        try:
            opened = await self._unless_stopped(self._fitting.open())
            assert opened.position is not None
            store_id = opened.store_id
            span = await self._unless_stopped(self._fitting.reached(self._log.span))
            self._node.wait_for(None)
            weight = Weight(opened.position.index)
            own = replace(announced(self._name, self._advertised), store_id=opened.store_id)
            comparison = Comparison(self._store, _mono)
            upkeep = Upkeep(
                self._store,
                self._log,
                own,
                weight,
                comparison,
                _wall_ms,
                gone=self._gone,
                told_full=partial(self._remark, LOG),
            )
            async with asyncio.TaskGroup() as group:
                watch = LogWatch(self._log, span, _mono)
                candidacy = self._candidacy = self._new_candidacy(own, weight, comparison)
                self._fitting.was_let_in = True
                presence = self._presence = Presence(
                    candidacy, own.store_id, weight, watch, self._remarked, lambda: self._diverged
                )
                beside = [
                    group.create_task(upkeep.run(), name="upkeep"),
                    group.create_task(watch.run(), name="watch the log"),
                    group.create_task(self._grow_old(), name="ages"),
                    group.create_task(comparison.run(), name="digests"),
                ]
                if self._place is not None:
                    presence.snapshots = Snapshots(
                        self._place,
                        self._store,
                        self._log,
                        own.store_id,
                        weight,
                        watch,
                        presence,
                        SystemClock().now,
                        partial(self._remark, SNAPSHOTS),
                    )
                    beside.append(group.create_task(presence.snapshots.run(), name="snapshots"))
                try:
                    await self._follow_and_lead(own, weight, watch, candidacy, presence, comparison)
                finally:
                    for each in beside:
                        each.cancel()
        except* (PrunedError, StoreEntryError, StoreDamagedError, _DivergedError, ReplacedError) as group:
            unfit.append(_first(group))
        if not unfit:
            return None
        self._gone.add(store_id)
        return unfit[0]

    def _new_candidacy(self, own: Announcement, weight: Weight, comparison: Comparison) -> Candidacy:
        def announce(stood_ms: int) -> bytes:
            return announcement.encode(replace(own, stood_ms=stood_ms))

        return Candidacy(
            self._store,
            self._log,
            announce,
            __version__,
            _wall_ms,
            self._told,
            told_blocked=self._told_blocked,
            told_full=partial(self._remark, LOG),
            weight=weight,
            check=comparison.begin,
        )

    async def _follow_and_lead(
        self,
        own: Announcement,
        weight: Weight,
        watch: LogWatch,
        candidacy: Candidacy,
        presence: Presence,
        comparison: Comparison,
    ) -> None:
        """Follows and leads, term after term, until the process is to stop.

        Raises:
            ExceptionGroup: with a PrunedError, StoreEntryError, StoreDamagedError or _DivergedError: the store is no
                longer fit.
        """
        leaders = Leaders(self._log, own, presence, _wall_ms, self._copies, watch)
        self._node.answer(
            {LEADERS: leaders.Leaders, REMOVE_LEADER: leaders.RemoveLeader, COPY_STORE: leaders.CopyStore}
        )
        self._node.show_log(presence.look)
        async with asyncio.TaskGroup() as group:
            judging = group.create_task(self._judge(own, presence, watch, comparison), name="judge")
            try:
                await self._take_turns(own, weight, watch, candidacy, presence, leaders, comparison)
            except Stopped:
                pass
            finally:
                judging.cancel()

    async def _judge(self, own: Announcement, presence: Presence, watch: LogWatch, comparison: Comparison) -> None:
        """Looks whether the store holds what most stores hold.

        Raises:
            _DivergedError: it does not, and another leader leads.
        """
        resigned_for = 0
        while True:
            await asyncio.sleep(JUDGE_SECONDS)
            leads = presence.led > 0
            leading = own.store_id if leads else presence.follows
            if not comparison.is_wrong(watch.registrations, own.store_id, leading):
                continue
            index = comparison.checked
            if not leads:
                self._diverged += 1
                raise _DivergedError(f"it differs from the other leaders' stores at entry {index} of the log")
            if resigned_for != index:
                # It is replaced when another leader leads.
                resigned_for = index
                _log.error("hands over, because the store differs from most others", extra={"index": index})
                presence.step_down()

    async def _take_turns(
        self,
        own: Announcement,
        weight: Weight,
        watch: LogWatch,
        candidacy: Candidacy,
        presence: Presence,
        leaders: Leaders,
        comparison: Comparison,
    ) -> None:
        """Does what `_follow_and_lead` says, beside judging the store.

        Raises:
            Stopped: the process is to stop.
            PrunedError, StoreEntryError, StoreDamagedError, _DivergedError: the store is no longer fit.
        """
        while True:
            try:
                journal, leadership = await self._unless_stopped(candidacy.elected())
            except OtherGenerationError:
                raise
            except ChainError as error:
                raise _DivergedError(str(error)) from error
            pruning = Pruning(
                self._log,
                leadership,
                self._store,
                own.store_id,
                journal,
                weight,
                self._cautious_now,
                may_be_one_copy=self._may_be_one_copy,
                shared=presence.shared,
                tell=partial(self._remark, COPIES),
            )
            relief = Relief(self._log, own, presence, _wall_ms, watch)
            checks = Checks(journal, comparison, _mono)
            term = Term(
                self._store,
                self._equipment,
                journal,
                ages=self._ages,
                own=own,
                leaders=leaders,
                duties=[pruning, relief, checks, Formats(self._log, journal)],
            )
            relief.attach(term)
            blocked: BaseException | None = None
            refused: BaseException | None = None
            try:
                with presence.leading(leadership, checks) as stepping_down:
                    since_mono, self._leaderless_mono = self._leaderless_mono, None
                    await self._node.lead(term, ended=(leadership.lost, stepping_down), since_mono=since_mono)
            except* LeadershipLostError:
                _log.warning("leads no more", extra={"term": leadership.leader.term})
            except* (StoreBlockedError, LogFullError, LogRefusedError) as group:
                blocked = _first(group)
            except* StoreEntryError as group:
                refused = _first(group)
            finally:
                await leadership.resign()
            if refused is not None:
                # The log does not have it, so no copy would have it.
                raise StoreError(str(refused)) from refused
            if blocked is not None:
                await self._unless_stopped(self._wait_for_room(blocked))

    async def _wait_for_room(self, blocked: BaseException) -> None:
        """Waits before it stands for election again, because its term could not begin. Another one may have room."""
        _log.error("term can't begin", extra={"reason": str(blocked)})
        self._node.wait_for(str(blocked))
        await asyncio.sleep(BLOCKED_SECONDS)
        self._node.wait_for(None)

    def _remark(self, about: str, words: str | None) -> None:
        self._node.remark(about, words)
        if words is None:
            self._remarked.discard(about)
        else:
            self._remarked.add(about)

    def _told_blocked(self, blocked: StoreBlockedError | None) -> None:
        """Is told that the store has no room for what the log has, or that it has."""
        self._node.wait_for(None if blocked is None else f"this leader lags behind: {blocked}")

    @property
    def _applied(self) -> int:
        """The number of the last batch that the store is known to have applied while it followed; 0: none is known."""
        replica = None if self._candidacy is None else self._candidacy.replica
        return 0 if replica is None else replica.changed

    async def _grow_old(self) -> None:
        """Notes the age of what the log has, also while another leads."""
        while True:
            self._cautious_now()
            await asyncio.sleep(LOOK_SECONDS)

    def _cautious_now(self) -> Now:
        now = SystemClock().now()
        return Now(self._ages.look(now, self._applied), now.mono)

    def _told(self, leader: Leader | None, because: str) -> None:
        """Is told who leads, or that nobody does, or why the log does not say; not of this leader's own terms."""
        self._early_ending.watch(leader)
        if leader is None:
            if self._leaderless_mono is None:
                self._leaderless_mono = _mono()
            if because:
                self._node.follow_on(because)
            else:
                self._node.follow(None)
            self._note_followed("", 0)
            return
        self._leaderless_mono = None
        try:
            found = announcement.decode(leader.announcement)
        except msgspec.MsgspecError as error:
            _log.warning("leader can't be reached", extra={"term": leader.term, "reason": str(error)})
            self._node.follow(None)
            self._note_followed("", leader.term)
            return
        self._note_followed(found.store_id, leader.term)
        _log.info("follows", extra={"leader": found.name, "term": leader.term, "address": found.cluster})
        self._node.follow(Addresses(found.cluster, found.scheduler, found.http))

    def _note_followed(self, store_id: str, term: int) -> None:
        if self._presence is not None:
            self._presence.follow(store_id, term)

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


def _mono() -> float:
    return SystemClock().now().mono


def _wall_ms() -> int:
    return SystemClock().now().wall_ms


def _first(error: BaseException) -> BaseException:
    """Returns the first exception in a group of groups."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
