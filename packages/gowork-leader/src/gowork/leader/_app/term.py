"""A term: it begins when a leader takes over a store, and ends before the next term begins.

Invariant OVER: when a term is closed nothing of it lives on, no task, thread, connection, call or gauge. The counts
belong to the process and go on.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from collections.abc import Set as AbstractSet
from typing import Any, Protocol

from gowork.leader._access.access import Access
from gowork.leader._app.equipment import Equipment
from gowork.leader._app.metrics import Look
from gowork.leader._core.effects import TraceSettling
from gowork.leader._core.explain import waiting_by_reason
from gowork.leader._core.kinds import UNIQUE_KEYS
from gowork.leader._core.model import Now
from gowork.leader._core.queries import members, queue_depths, schedules
from gowork.leader._core.state import Settings, State
from gowork.leader._engine.ages import Ages
from gowork.leader._engine.backlog_log import BacklogLog
from gowork.leader._engine.loop import Engine
from gowork.leader._engine.retention import Retention
from gowork.leader._replication.announcement import Announcement
from gowork.leader._replication.journal import Journal
from gowork.leader._rpc.activity import Overview
from gowork.leader._rpc.changing import Changing
from gowork.leader._rpc.explaining import Explaining
from gowork.leader._rpc.following import Following
from gowork.leader._rpc.groups import Groups
from gowork.leader._rpc.handlers import Handlers
from gowork.leader._rpc.keeping import Keeping
from gowork.leader._rpc.leaders import Leaders, LoneLeader
from gowork.leader._rpc.lookups import Lookups
from gowork.leader._rpc.membership import Membership
from gowork.leader._rpc.queues import QueueControl
from gowork.leader._rpc.routing import EffectRouter
from gowork.leader._rpc.schedules import Schedules
from gowork.leader._rpc.scheduling import Scheduling
from gowork.leader._rpc.scopes import Scopes
from gowork.leader._rpc.selecting import Selecting
from gowork.leader._rpc.services import compose
from gowork.leader._rpc.sessions import Sessions
from gowork.leader._version import __version__
from gowork.leader.store.protocol import Store, StoreBlockedError

#: A leader that says nothing of itself.
UNNAMED = Announcement("", "", "", "", "", __version__)


class Duty(Protocol):
    """What a term does besides answering calls."""

    async def run(self, stopped: asyncio.Event) -> None:
        """Runs until `stopped` is set, and then ends soon. An exception that it raises ends the term."""
        ...


class Term:
    """One term. Open it, run it, end it, and close it, each once."""

    def __init__(
        self,
        store: Store,
        equipment: Equipment,
        journal: Journal | None = None,
        *,
        ages: Ages | None = None,
        own: Announcement = UNNAMED,
        leaders: Leaders | None = None,
        duties: Sequence[Duty] = (),
    ) -> None:
        """Makes a term and begins nothing yet.

        Args:
            store: a store that is not opened yet, or was closed by an earlier term.
            equipment: what it needs besides a store.
            journal: makes batches durable, in a store that is open already; None: the store does so alone.
            ages: what this process knows of time; None: nothing yet.
            own: what this leader says of itself.
            leaders: answers the calls about the leaders of the log; None: there is no log.
            duties: what it does besides answering calls because there is a log.
        """
        counts, settings, access = equipment.counts, equipment.settings, equipment.access
        self._counts = counts
        self._sessions = Sessions(settings)
        dialer = equipment.dialer()
        router = EffectRouter(self._sessions, dialer, counts, *_settling(settings))
        self._engine = engine = Engine(store, router, counts, settings, journal=journal)
        self._sessions.attach(engine)
        dialer.attach(engine)
        self._retention = Retention(engine, store, equipment.kept, ages or Ages())
        #: All duties of the term.
        self.duties: list[Duty] = [dialer, self._retention, *duties]
        if equipment.cloudwatch:
            self.duties.append(BacklogLog(engine, equipment.cloudwatch))
        self._membership = Membership(engine, access)
        self._leaders = leaders or LoneLeader(engine, own)
        explaining = Explaining(engine, store)
        methods = compose(
            {
                "cluster.v1.LeaderService": (
                    self._membership,
                    self._leaders,
                    Handlers(engine, self._sessions.descriptions),
                ),
                "scheduler.v1.SchedulerService": (
                    Scheduling(engine),
                    Lookups(engine, store, explaining, __version__, own.name),
                    explaining,
                    QueueControl(engine),
                    Schedules(engine, store),
                    Groups(engine, store),
                    Following(engine, store),
                    Keeping(engine, store),
                    Selecting(engine, store),
                    Changing(engine),
                    Overview(engine, store, counts, __version__),
                ),
                "worker.v1.SessionService": (self._sessions,),
            }
        )
        #: {call: what answers it while this term leads}
        self.methods = methods if access is None else Scopes(engine, store).around(methods)

    @property
    def blocked(self) -> StoreBlockedError | None:
        """Why nothing is taken now; None when batches are taken."""
        return self._engine.blocked

    @property
    def waits_seconds(self) -> float:
        """For how long what is under way has waited for the log, or for the store, in seconds."""
        return self._engine.waits_seconds

    @property
    def outliving(self) -> AbstractSet[asyncio.Task[Any]]:
        """The asyncio tasks that serve calls which go on when the term is over, because they do not belong to it."""
        return self._leaders.outliving

    def now(self) -> Now:
        """Returns the time by the clock of its engine."""
        return self._engine.now()

    async def open(self) -> None:
        """Opens the store and takes up where the last term stopped.

        Raises:
            StoreError: see Store.open.
        """
        await self._engine.recover()

    async def run(self) -> None:
        """Leads until `end`. When it returns, what was taken is durable and answered.

        Raises:
            ExceptionGroup: with a StoreError or LogError: the store or the log can no longer be trusted, or
                (LeadershipLostError) another leader leads.
        """
        over = asyncio.Event()
        async with asyncio.TaskGroup() as group:
            group.create_task(self._lead(over), name="engine")
            for duty in self.duties:
                group.create_task(duty.run(over), name=type(duty).__name__.lower())

    async def _lead(self, over: asyncio.Event) -> None:
        try:
            await self._engine.run()
        finally:
            over.set()
        # Before the duties and the streams of this term have ended, which takes a while.
        await self._engine.resign()

    async def dismiss(self, access: Access) -> None:
        """Has callback workers leave that may no longer be members."""
        await self._membership.dismiss(access)

    def end(self, because: str) -> None:
        """Takes nothing more, and ends sessions, heartbeats, waits and watches. Harmless when repeated.

        Args:
            because: what their callers are told.
        """
        self._engine.stop(because)
        self._engine.subscriptions.close(because)
        self._sessions.end_all(because)
        self._membership.end_all(because)

    async def close(self) -> None:
        """Ends the engine, and closes the store if the engine has opened it. No call may be under way any more."""
        await self._engine.close()

    async def look(self) -> Look:
        """Returns what a scrape sees of the state.

        Raises:
            NotServingError: nothing is answered now.
        """
        now = self._engine.now()

        def look(state: State) -> Look:
            depths = queue_depths(state)
            self._counts.drop_idle({depth.name for depth in depths})
            return Look(
                members(state),
                waiting_by_reason(state, now),
                depths,
                self._engine.opened.term,
                self._retention.oldest_ms,
                now.wall_ms,
                len(state.facts.of(UNIQUE_KEYS)),
                schedules(state, now.wall_ms),
            )

        return await self._engine.read(look)


def _settling(settings: Settings) -> list[Callable[[TraceSettling], None]]:
    """Returns the function that makes the spans of settled attempts, in a list, which is empty without tracing."""
    if not settings.traced:
        return []
    # OpenTelemetry is imported only where it is used.
    from gowork.leader._rpc.tracing import SettleSpans

    return [SettleSpans(__version__).settle]
