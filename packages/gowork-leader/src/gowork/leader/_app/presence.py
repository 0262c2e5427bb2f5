"""What one leader among several does in the log: how far its store is, which term leads here, what metrics show."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from collections.abc import Set as AbstractSet
from contextlib import contextmanager

from gowork.leader._app.metrics import LogLook
from gowork.leader._replication.candidacy import Candidacy
from gowork.leader._replication.checks import Checks
from gowork.leader._replication.log_watch import LogWatch
from gowork.leader._replication.snapshots import Snapshots
from gowork.leader._replication.weight import Weight
from gowork.leader.log.protocol import Leadership, LeadershipLostError

#: What is remarked on: a log without room, that most stores lack what the log has no more, and snapshots that fail.
LOG = "log"
COPIES = "copies"
SNAPSHOTS = "snapshots"


class Presence:
    """It belongs to one store of this process. See OwnTerms for what its methods promise.

    Args:
        candidacy: knows the replica.
        store_id: the id of the store.
        weight: counts the bytes of entries.
        watch: knows what the log has.
        remarked: what something is remarked about now.
        diverged: returns how often a store of this process was found to differ from the others.
    """

    def __init__(
        self,
        candidacy: Candidacy,
        store_id: str,
        weight: Weight,
        watch: LogWatch,
        remarked: AbstractSet[str],
        diverged: Callable[[], int] = lambda: 0,
    ) -> None:
        self._candidacy = candidacy
        self._store_id = store_id
        self._weight = weight
        self._watch = watch
        self._remarked = remarked
        #: The id of the store of the leader that it follows; empty: it knows none.
        self.follows = ""
        #: The term that leads, here or elsewhere; 0: none is known.
        self._leading_term = 0
        #: Is set, and replaced by a new one, when that changes.
        self._turned = asyncio.Event()
        #: Those that this leader shares with the others; None: they share none.
        self.snapshots: Snapshots | None = None
        self._diverged = diverged
        #: See OwnTerms.led.
        self.led = 0
        self._stepping_down = asyncio.Event()
        self._checks: Checks | None = None

    @property
    def applied(self) -> int:
        """See OwnTerms.applied."""
        replica = self._candidacy.replica
        return 0 if replica is None else replica.position.index

    @property
    def leads(self) -> bool:
        """Whether a term leads here."""
        return self.led > 0

    @property
    def shared(self) -> Callable[[], int] | None:
        """See Pruning."""
        snapshots = self.snapshots
        return None if snapshots is None else lambda: snapshots.index

    def follow(self, store_id: str, term: int) -> None:
        """Is told who leads elsewhere: the id of its store, and its term; nothing and 0 when nobody is known to."""
        self.follows = store_id
        self._turn(term)

    async def later_than(self, term: int) -> None:
        """See OwnTerms.later_than."""
        while self._leading_term <= term:
            await self._turned.wait()

    def step_down(self) -> None:
        """See OwnTerms.step_down."""
        self._candidacy.give_way()
        self._stepping_down.set()

    async def compare(self) -> int:
        """See OwnTerms.compare."""
        if self._checks is None:
            raise LeadershipLostError("no term leads here")
        return await self._checks.ask()

    @contextmanager
    def leading(self, leadership: Leadership, checks: Checks | None = None) -> Iterator[asyncio.Event]:
        """A term leads here while it is entered. Yields what is set when it is to step down."""
        self.led, self._stepping_down, self._checks = leadership.leader.term, asyncio.Event(), checks
        self._turn(self.led)
        try:
            yield self._stepping_down
        finally:
            self.led, self._checks = 0, None
            self._turn(0)

    def _turn(self, term: int) -> None:
        self._leading_term = term
        turned, self._turned = self._turned, asyncio.Event()
        turned.set()

    def look(self) -> LogLook:
        """Returns what a scrape sees of the log."""
        own = self._watch.registrations.get(self._store_id)
        replica = self._candidacy.replica
        first, last = self._watch.span
        return LogLook(
            term=0 if replica is None else replica.term,
            applied=self.applied,
            forced=0 if own is None else own.forced,
            first=first,
            # The log was asked a while ago.
            last=max(last, self.applied),
            size=self._weight.after(first - 1),
            leaders=len(self._watch.registrations),
            silent_seconds=self._watch.silent_seconds,
            is_full=LOG in self._remarked,
            is_one_copy=COPIES in self._remarked,
            snapshot=None if self.snapshots is None else (self.snapshots.index, self.snapshots.age_seconds),
            diverged=self._diverged(),
        )
